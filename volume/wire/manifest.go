package wire

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"

	"weedd/volume"
)

// MaxManifest is the largest chunk manifest, in bytes of JSON.
const MaxManifest = 16 << 20

// Manifest is a file that is kept in chunks, each a file of its own. It is stored
// as JSON, in a needle with needle.FlagManifest.
type Manifest struct {
	Name   string  `json:"name,omitempty"`
	Mime   string  `json:"mime,omitempty"`
	Size   int64   `json:"size,omitempty"`   // as the writer says; see Length
	Chunks []Chunk `json:"chunks"`           // sorted by offset
	SHA256 []byte  `json:"sha256,omitempty"` // of the whole file, if the writer knew it; not of the reference
}

// Chunk is one piece of a file.
type Chunk struct {
	FileID string `json:"fid"`
	Offset int64  `json:"offset"` // in the whole file
	Size   int64  `json:"size"`   // bytes of content
}

// ParseManifest reads JSON and sorts the chunks. It does not look at them further:
// see Check. Errors are volume.ErrBadRequest.
func ParseManifest(data []byte) (m Manifest, err error) {
	if len(data) > MaxManifest {
		return m, badRequest("chunk manifest: over %d bytes", MaxManifest)
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, badRequest("chunk manifest: %v", err)
	}
	slices.SortFunc(m.Chunks, func(a, b Chunk) int { return cmp.Compare(a.Offset, b.Offset) })
	return m, nil
}

// Check holds a manifest that is to be stored against the rules: every chunk is
// named by a file id, and they follow one another without gaps from offset 0 on.
// Errors are volume.ErrBadRequest.
func (m Manifest) Check() error {
	var end int64
	for _, c := range m.Chunks {
		if _, err := volume.ParseFileID(c.FileID); err != nil {
			return fmt.Errorf("chunk manifest: %w", err)
		}
		if c.Offset != end || c.Size < 0 || c.Size > math.MaxInt64-end {
			return badRequest("chunk manifest: the chunk %.64s is at %d with %d bytes, and those before it end at %d", c.FileID, c.Offset, c.Size, end)
		}
		end += c.Size
	}
	return nil
}

// Length is how long the file is: the sum of its chunks. An error is
// volume.ErrCorrupt: the sizes make no sense.
func (m Manifest) Length() (n int64, err error) {
	for _, c := range m.Chunks {
		if c.Size < 0 || c.Size > math.MaxInt64-n {
			return 0, fmt.Errorf("%w: chunk manifest: %.64s has %d bytes", volume.ErrCorrupt, c.FileID, c.Size)
		}
		n += c.Size
	}
	return n, nil
}

// checkManifest checks the manifest in f.
func checkManifest(f file) error {
	data := f.data
	if f.gzip {
		if zr, err := gzip.NewReader(bytes.NewReader(data)); err == nil {
			if data, err = io.ReadAll(io.LimitReader(zr, MaxManifest+1)); err != nil {
				return badRequest("chunk manifest: %v", err)
			}
		}
	}
	m, err := ParseManifest(data)
	if err != nil {
		return err
	}
	return m.Check()
}
