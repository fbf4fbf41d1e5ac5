package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"weedd/volume"
)

// manifestEntry is one line of a manifest: a file that was stored, and how to
// find and check it.
type manifestEntry struct {
	Path   string `json:"path"` // with slashes, relative to the parent of the argument it was found under
	FID    string `json:"fid"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // hex
}

// check finds what is wrong with an entry that was read.
func (e manifestEntry) check() error {
	if _, err := volume.ParseFileID(e.FID); err != nil {
		return err
	}
	if sum, err := hex.DecodeString(e.SHA256); err != nil || len(sum) != 32 {
		return fmt.Errorf("sha256 %q is not 64 hex digits", e.SHA256)
	}
	if e.Size < 0 {
		return fmt.Errorf("size %d is negative", e.Size)
	}
	if e.Path == "." || !filepath.IsLocal(filepath.FromSlash(e.Path)) {
		return fmt.Errorf("path %q leads out of the directory", e.Path)
	}
	return nil
}

// writeManifest writes entries, sorted by path, as JSON Lines: to stdout for "-",
// else to a file that appears whole or not at all. It replaces another file only
// if force is set: the file ids in it may be the only ones.
func writeManifest(name string, entries []manifestEntry, stdout io.Writer, force bool) error {
	slices.SortFunc(entries, func(a, b manifestEntry) int { return strings.Compare(a.Path, b.Path) })
	if name == "-" {
		return encodeManifest(stdout, entries)
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	err = encodeManifest(f, entries)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if force {
		return os.Rename(f.Name(), name)
	}
	return os.Link(f.Name(), name) // fails when name exists
}

func encodeManifest(w io.Writer, entries []manifestEntry) error {
	out := bufio.NewWriter(w)
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	for _, e := range entries {
		if err := enc.Encode(e); err != nil {
			return err
		}
	}
	return out.Flush()
}

// readManifest reads a manifest. Lines that are no good are left out, and each is
// one of the errors; the last return value says that reading itself failed.
func readManifest(r io.Reader) (entries []manifestEntry, bad []error, err error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	seen := map[string]int{}
	for n := 1; lines.Scan(); n++ {
		if strings.TrimSpace(lines.Text()) == "" {
			continue
		}
		var e manifestEntry
		err := json.Unmarshal(lines.Bytes(), &e)
		if err == nil {
			err = e.check()
		}
		path := filepath.ToSlash(filepath.Clean(filepath.FromSlash(e.Path)))
		if at, again := seen[path]; err == nil && again {
			err = fmt.Errorf("path %q is on line %d, too", e.Path, at)
		}
		if err != nil {
			bad = append(bad, fmt.Errorf("line %d: %w", n, err))
			continue
		}
		seen[path] = n
		e.SHA256 = strings.ToLower(e.SHA256)
		entries = append(entries, e)
	}
	return entries, bad, lines.Err()
}
