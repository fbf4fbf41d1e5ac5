package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math"

	"weedd/volume"
	"weedd/volume/needle"
)

// SuperBlockSize is the length of the super block at the front of .dat; the
// first record follows it.
const SuperBlockSize = 8

const (
	rowSize   = 16 // of .idx
	rowUnit   = 8  // offsets in .idx are divided by it
	sumBlock  = 1 << 20
	maxOffset = int64(1)<<32*rowUnit - 1 // of the start of a record: more does not fit a row
	reserve   = 1 << 20                  // below that, kept for tombstones
)

// The suffixes of a volume's files. The first three are SeaweedFS's; it ignores
// the others.
const (
	extDat     = ".dat"
	extIdx     = ".idx"
	extVif     = ".vif"
	extCopy    = ".wcopy" // copy id and epochs
	extCkpt    = ".wckpt" // checkpoint
	extReady   = ".wcpr"  // the new files are ready to be put in place
	extImage   = ".widx"  // image of the index
	extDoom    = ".wdoom" // the copy is to be removed or set aside, and that is under way
	extFail    = ".wfail" // the copy has failed and takes no more writes
	extCommit  = ".cpc"   // SeaweedFS has decided to commit a compaction
	extNewDat  = ".cpd"
	extNewIdx  = ".cpx"
	extNote    = ".note"   // SeaweedFS was copying this volume
	extScrub   = ".wscrub" // how far the copy was scrubbed
	extErasure = ".ecx"
)

// superBlock is what the front of .dat says.
type superBlock struct {
	version   needle.Version
	placement volume.Placement
	ttl       volume.TTL
	revision  uint16
}

func (s superBlock) encode() [SuperBlockSize]byte {
	b := [SuperBlockSize]byte{byte(s.version), byte(s.placement), s.ttl.Count, s.ttl.Unit}
	binary.BigEndian.PutUint16(b[4:], s.revision)
	return b
}

func decodeSuperBlock(b []byte) (superBlock, error) {
	s := superBlock{
		version:   needle.Version(b[0]),
		placement: volume.Placement(b[1]),
		ttl:       volume.TTL{Count: b[2], Unit: b[3]},
		revision:  binary.BigEndian.Uint16(b[4:]),
	}
	if s.version < needle.V1 || s.version > needle.V3 {
		return s, fmt.Errorf("super block: version %d is none of 1, 2, 3", s.version)
	}
	if n := binary.BigEndian.Uint16(b[6:]); n != 0 {
		return s, fmt.Errorf("super block: %d extra bytes, which nobody knows how to read", n)
	}
	return s, nil
}

// indexRow is one row of .idx.
type indexRow struct {
	key    volume.Key
	offset int64 // of the record in .dat
	size   int32 // of its body; -1 for a tombstone
}

func (r indexRow) end(v needle.Version) int64 { return r.offset + needle.Length(max(r.size, 0), v) }

func (r indexRow) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(r.key))
	b = binary.BigEndian.AppendUint32(b, uint32(r.offset/rowUnit))
	return binary.BigEndian.AppendUint32(b, uint32(r.size))
}

func decodeRow(b []byte) indexRow {
	r := indexRow{
		key:    volume.Key(binary.BigEndian.Uint64(b)),
		offset: int64(binary.BigEndian.Uint32(b[8:])) * rowUnit,
		size:   int32(binary.BigEndian.Uint32(b[12:])),
	}
	if r.offset == 0 || r.size < 0 { // both mean deleted
		r.size = -1
	}
	return r
}

// wideRowSize is the size of a row in .idx as SeaweedFS built for large disks
// writes it: a fifth byte of the offset, the highest, follows the other four.
const wideRowSize = rowSize + 1

func decodeWideRow(b []byte) indexRow {
	r := indexRow{
		key:    volume.Key(binary.BigEndian.Uint64(b)),
		offset: (int64(b[12])<<32 | int64(binary.BigEndian.Uint32(b[8:]))) * rowUnit,
		size:   int32(binary.BigEndian.Uint32(b[13:])),
	}
	if r.offset == 0 || r.size < 0 {
		r.size = -1
	}
	return r
}

// The copy file: a header of 32 bytes
//
//	8 "weedcopy" | 2 format, 1 | 2 zero | 4 volume id | 8 copy id | 4 zero | 4 CRC-32C of the 28 bytes before
//
// and one entry of 24 bytes for each epoch, oldest first:
//
//	8 epoch | 8 start | 4 generation | 4 CRC-32C of the 20 bytes before
const (
	copyMagic  = "weedcopy"
	copyFormat = 1
	copyHeader = 32
	copyEntry  = 24
)

func encodeCopy(id volume.ID, c volume.CopyID, epochs []volume.EpochStart) []byte {
	b := binary.BigEndian.AppendUint16([]byte(copyMagic), copyFormat)
	b = binary.BigEndian.AppendUint32(append(b, 0, 0), uint32(id))
	b = binary.BigEndian.AppendUint64(b, uint64(c))
	b = appendSum(append(b, 0, 0, 0, 0), 0)
	for _, e := range epochs {
		b = appendEpoch(b, e)
	}
	return b
}

func appendEpoch(b []byte, e volume.EpochStart) []byte {
	from := len(b)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Epoch))
	b = binary.BigEndian.AppendUint64(b, uint64(e.Start))
	b = binary.BigEndian.AppendUint32(b, e.Generation)
	return appendSum(b, from)
}

// appendSum appends the checksum of b[from:].
func appendSum(b []byte, from int) []byte {
	return binary.BigEndian.AppendUint32(b, needle.Checksum(b[from:]))
}

// sumFits reports whether b ends with the checksum of what is before.
func sumFits(b []byte) bool {
	n := len(b) - 4
	return n >= 0 && needle.Checksum(b[:n]) == binary.BigEndian.Uint32(b[n:])
}

// decodeCopy reads a copy file. A last entry that is not whole was being
// appended when the machine stopped, so nobody was told of it: it is left out.
func decodeCopy(b []byte, id volume.ID) (volume.CopyID, []volume.EpochStart, error) {
	if len(b) < copyHeader || string(b[:8]) != copyMagic || !sumFits(b[:copyHeader]) {
		return 0, nil, errors.New("copy file: header fails its checksum")
	}
	if f := binary.BigEndian.Uint16(b[8:]); f != copyFormat {
		return 0, nil, fmt.Errorf("copy file: format %d is newer than this program", f)
	}
	if v := volume.ID(binary.BigEndian.Uint32(b[12:])); v != id {
		return 0, nil, fmt.Errorf("copy file: belongs to volume %d", v)
	}
	c := volume.CopyID(binary.BigEndian.Uint64(b[16:]))
	var epochs []volume.EpochStart
	for b = b[copyHeader:]; len(b) > 0; b = b[min(copyEntry, len(b)):] {
		if len(b) < copyEntry || !sumFits(b[:copyEntry]) {
			if len(b) > copyEntry {
				return c, nil, fmt.Errorf("copy file: entry %d fails its checksum", len(epochs))
			}
			break
		}
		epochs = append(epochs, volume.EpochStart{
			Epoch:      volume.Epoch(binary.BigEndian.Uint64(b)),
			Start:      int64(binary.BigEndian.Uint64(b[8:])),
			Generation: binary.BigEndian.Uint32(b[16:]),
		})
	}
	return c, epochs, nil
}

// checkpoint is what was known for certain of a copy when its .dat and .idx had
// just been synced. As a file:
//
//	8 "weedckpt" | 2 format, 1 | 2 flags | 4 volume id | 8 copy id | 8 super block |
//	8 durable | 8 committed | 8 rows | 8 append time | 8 boot | 4 sum | 4 n | n × 4 sums | 4 CRC-32C of all before
type checkpoint struct {
	volume    volume.ID
	copy      volume.CopyID
	super     [SuperBlockSize]byte
	durable   int64  // bytes of .dat on disk
	committed int64  // bytes of .dat published
	rows      int64  // rows of .idx on disk; they describe what is committed
	appended  uint64 // append time of the last committed record
	boot      uint64 // not 0: appends since then were not synced, and this was the run of the host
	sums      sums   // of what is committed
}

const (
	ckptMagic  = "weedckpt"
	ckptFormat = 1
	ckptHeader = 80
)

func (c *checkpoint) encode() []byte {
	b := make([]byte, 0, ckptHeader+4*len(c.sums.blocks)+4)
	b = binary.BigEndian.AppendUint16(append(b, ckptMagic...), ckptFormat)
	b = binary.BigEndian.AppendUint32(append(b, 0, 0), uint32(c.volume))
	b = append(binary.BigEndian.AppendUint64(b, uint64(c.copy)), c.super[:]...)
	for _, n := range []uint64{uint64(c.durable), uint64(c.committed), uint64(c.rows), c.appended, c.boot} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	b = binary.BigEndian.AppendUint32(b, c.sums.last)
	b = binary.BigEndian.AppendUint32(b, uint32(len(c.sums.blocks)))
	for _, s := range c.sums.blocks {
		b = binary.BigEndian.AppendUint32(b, s)
	}
	return appendSum(b, 0)
}

func decodeCheckpoint(b []byte) (*checkpoint, error) {
	if len(b) < ckptHeader+4 || string(b[:8]) != ckptMagic || !sumFits(b) {
		return nil, errors.New("checkpoint: fails its checksum")
	}
	if f := binary.BigEndian.Uint16(b[8:]); f != ckptFormat {
		return nil, fmt.Errorf("checkpoint: format %d is newer than this program", f)
	}
	u64 := func(off int) uint64 { return binary.BigEndian.Uint64(b[off:]) }
	c := &checkpoint{
		volume: volume.ID(binary.BigEndian.Uint32(b[12:])), copy: volume.CopyID(u64(16)), super: [SuperBlockSize]byte(b[24:]),
		durable: int64(u64(32)), committed: int64(u64(40)), rows: int64(u64(48)), appended: u64(56), boot: u64(64),
	}
	c.sums = sums{end: c.committed, last: binary.BigEndian.Uint32(b[72:])}
	n := int64(binary.BigEndian.Uint32(b[76:]))
	if int64(len(b)) != ckptHeader+4*n+4 || c.committed < SuperBlockSize || c.durable < c.committed || n != c.committed/sumBlock || c.rows > math.MaxInt64/rowSize {
		return nil, errors.New("checkpoint: does not add up")
	}
	for i := range n {
		c.sums.blocks = append(c.sums.blocks, binary.BigEndian.Uint32(b[ckptHeader+4*i:]))
	}
	return c, nil
}

// bootHash shortens the name of a run of the host; it is never 0.
func bootHash(boot string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(boot)) // a hash never fails
	return h.Sum64() | 1
}
