// Package needle turns one stored file, a needle, into the bytes of one record
// of a volume file and back. It does no I/O.
//
// The format is that of SeaweedFS volumes, versions 1 to 3; volume/DESIGN.md
// draws every byte. New records are always written in version 3.
package needle

import "weedd/volume"

// Flags say which parts of a record are present and what its data is.
type Flags byte

// The flags of a record, as stored.
const (
	FlagGzip     Flags = 0x01 // Data is gzip
	FlagName     Flags = 0x02
	FlagMime     Flags = 0x04
	FlagModified Flags = 0x08
	FlagTTL      Flags = 0x10
	FlagPairs    Flags = 0x20
	FlagManifest Flags = 0x80 // Data is a chunk manifest
)

// Needle is one stored file with what is known of it. Byte slices of a needle
// that was decoded point into the buffer it was decoded from.
type Needle struct {
	Key        volume.Key
	Cookie     volume.Cookie
	Flags      Flags
	Data       []byte
	Name       []byte // at most 255 bytes
	Mime       []byte // at most 255 bytes
	Pairs      []byte // JSON object of strings, at most 65535 bytes
	Modified   uint64 // seconds since 1970, 40 bits; the client's time
	TTL        volume.TTL
	Checksum   uint32 // CRC-32C of Data, as stored
	AppendedAt uint64 // ns since 1970; when it was written to the volume
	Tombstone  bool   // the record deletes Key

	buf []byte // of the pool; see Get
}

// Has reports whether all of f are set.
func (n *Needle) Has(f Flags) bool { return n.Flags&f == f }
