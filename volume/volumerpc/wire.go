// Package volumerpc is how the volume roles of different daemons talk: a gRPC
// service over server.Server, and a Client of it.
//
// There are six methods. Replicate is the stream between two copies of one
// volume, opened by the primary. Write passes a write or delete on to the
// primary. Confirm and Verify ask a copy what it has, Fetch reads a record of it,
// and Foreign files of SeaweedFS, to adopt them.
//
// Every call has a deadline for the first sign of life, because a process in
// trouble keeps its sockets open: a server sends its headers before it does
// anything else, and Write does not send its body before they came. So a write
// that fails before was certainly not done. The time that the caller has left
// travels as the deadline of the call, and what waits longer is dropped.
package volumerpc

import (
	"encoding/binary"
	"encoding/json"
	"fmt"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/server"
)

// service is the name of the gRPC service.
const service = "weedd.Volume"

// maxFrame is the most bytes of data in one message.
const maxFrame = 1 << 20

// Connections are apart by use: bulk data must not delay questions.
const (
	useStream  = "copies"
	useWrite   = "writes"
	useControl = "control"
)

// writeFrame is one message of a Write: the first has the header and the
// beginning of the data, others only data. On the wire it is the length of the
// header (4 bytes, big endian; 0 for none), the header as JSON, and the data.
type writeFrame struct {
	Header *writeHeader
	Data   []byte
}

// writeHeader says what is to be written, or deleted.
type writeHeader struct {
	Volume     volume.ID     `json:"volume"`
	Key        volume.Key    `json:"key"`
	Cookie     volume.Cookie `json:"cookie"`
	CreateOnly bool          `json:"create_only,omitempty"`
	After      volume.Epoch  `json:"after,omitempty"` // of an attempt with an unknown outcome
	Delete     bool          `json:"delete,omitempty"`
	Flags      needle.Flags  `json:"flags,omitempty"`
	Name       []byte        `json:"name,omitempty"`
	Mime       []byte        `json:"mime,omitempty"`
	Pairs      []byte        `json:"pairs,omitempty"`
	Modified   uint64        `json:"modified,omitempty"`
	TTL        volume.TTL    `json:"ttl"`
	Size       int64         `json:"size"` // bytes of data in all frames
}

// writeAnswer is what a Write came to.
type writeAnswer struct {
	Put     volume.PutResult `json:"put"`
	Deleted int64            `json:"deleted,omitempty"`
}

// Frame implements rpcwire.Framed.
func (f *writeFrame) Frame() (header, payload []byte) {
	header = make([]byte, 4)
	if f.Header != nil {
		b, err := json.Marshal(f.Header)
		if err != nil {
			panic(fmt.Sprintf("volumerpc: a header is plain data: %v", err))
		}
		binary.BigEndian.PutUint32(header, uint32(len(b)))
		header = append(header, b...)
	}
	return header, f.Data
}

// Unframe implements rpcwire.Framed.
func (f *writeFrame) Unframe(b []byte) error {
	if len(b) < 4 {
		return fmt.Errorf("%w: a frame of %d bytes", volume.ErrBadRequest, len(b))
	}
	n, b := binary.BigEndian.Uint32(b), b[4:]
	if uint64(n) > uint64(len(b)) {
		return fmt.Errorf("%w: a header of %d bytes in a frame of %d", volume.ErrBadRequest, n, len(b))
	}
	*f = writeFrame{Data: b[n:]}
	if n == 0 {
		return nil
	}
	f.Header = new(writeHeader)
	if err := json.Unmarshal(b[:n], f.Header); err != nil {
		return fmt.Errorf("%w: header of a write: %w", volume.ErrBadRequest, err)
	}
	return nil
}

// needle gives the needle that the header describes, without its data.
func (h *writeHeader) needle() *needle.Needle {
	return &needle.Needle{Key: h.Key, Cookie: h.Cookie, Flags: h.Flags, Name: h.Name, Mime: h.Mime, Pairs: h.Pairs,
		Modified: h.Modified, TTL: h.TTL}
}

func (h *writeHeader) id() volume.FileID {
	return volume.FileID{Volume: h.Volume, Key: h.Key, Cookie: h.Cookie}
}

// confirmRequest asks the primary for the committed length of an epoch.
type confirmRequest struct {
	Volume volume.ID     `json:"volume"`
	Epoch  volume.Epoch  `json:"epoch"`
	From   volume.Holder `json:"from"` // the copy that asks
}

type confirmAnswer struct {
	Committed int64 `json:"committed"`
}

// fetchRequest asks a copy for one record.
type fetchRequest struct {
	Volume volume.ID    `json:"volume"`
	Piece  server.Piece `json:"piece"`
}

// recordMost is what a record may have beside its data: header, name, pairs.
const recordMost = 128 << 10

// verifyRequest asks a copy for the checksum of its bytes below At.
type verifyRequest struct {
	Volume volume.ID     `json:"volume"`
	Copy   volume.CopyID `json:"copy"`
	At     int64         `json:"at"`
}
