package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"sync"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/vfs"
)

// Ledger remembers, in a file of the node's own and not on the disks, which
// copies of volumes were ever made on this node, and which of them failed. A
// disk can be replaced or come back with less than it had; a copy must not be
// made a second time under its id, nor be written again after a failed fsync,
// whatever the disks say (rules R5 and R6). Safe for concurrent use.
//
// The file is a header and records of 32 bytes, appended and synced one by one:
//
//	8 "weedldgr" | 2 format, 1 | 18 zero | 4 CRC-32C of the 28 bytes before
//	1 kind | 3 zero | 4 volume | 8 copy | 8 number | 4 durable | 4 CRC-32C of the 28 bytes before
//
// The number is the version of the entry that ordered the copy, or how many of its
// bytes were committed when it failed; durable is how many were durable then,
// divided by 8, and 0 for as many as were committed. A last record that is not whole was promised to nobody
// and is left out. A bad record before the last is damage: who knows what it
// said, so the ledger is refused.
//
// It holds one record for each copy that is on this node or that the newest
// entry known to this node names, and one more for each that failed. A copy that
// an entry of a higher version does not name can never be named again, as ids are
// random, and is left out when the file is next opened.
type Ledger struct {
	fs   vfs.FS
	path string

	mu     sync.Mutex
	copies map[volume.ID][]ledgerCopy // never empty lists
	end    int64                      // of the file
	torn   bool                       // who knows what the disk has: the file is written anew before the next record
}

// ledgerCopy is what is known of one copy.
type ledgerCopy struct {
	id      volume.CopyID
	version uint64 // of the entry that ordered it; 0 if it was found on a disk
	failed  bool
	upto    trust // when it failed
	gone    bool  // it can never be named again
}

// trust is how much of a copy can be trusted that has failed.
type trust struct{ committed, durable int64 }

const (
	ledgerMagic  = "weedldgr"
	ledgerFormat = 1
	ledgerRecord = 32

	ledgerMade   = 1
	ledgerFailed = 2
	ledgerGone   = 3
)

// OpenLedger reads the ledger at path; its directory must be there.
func OpenLedger(fs vfs.FS, path string) (*Ledger, error) {
	l := &Ledger{fs: fs, path: path, copies: map[volume.ID][]ledgerCopy{}}
	b, err := vfs.ReadFile(fs, path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return l, l.rewriteLocked()
	case err != nil:
		return nil, fmt.Errorf("read ledger of copies: %w", err)
	}
	if err := l.read(b); err != nil {
		return nil, fmt.Errorf("ledger of copies %s: %w; without it this node may make a copy that it lost a second time, so give the node a new, empty data directory, which makes it another node", path, err)
	}
	// What was read may be in the page cache alone: of a record whose fsync failed in
	// an earlier run the disk may have anything, and the next record would make that
	// damage in the middle. So all of it is written anew, now, or if that fails when
	// the next record comes.
	_ = l.rewriteLocked()
	return l, nil
}

// read takes the records in.
func (l *Ledger) read(b []byte) error {
	if len(b) < ledgerRecord || string(b[:8]) != ledgerMagic || !sumFits(b[:ledgerRecord]) {
		return errors.New("its header fails its checksum")
	}
	if f := binary.BigEndian.Uint16(b[8:]); f != ledgerFormat {
		return fmt.Errorf("its format %d is newer than this program", f)
	}
	for off := ledgerRecord; off < len(b); off += ledgerRecord {
		rec := b[off:min(off+ledgerRecord, len(b))]
		if len(rec) < ledgerRecord || !sumFits(rec) {
			if off+ledgerRecord < len(b) {
				return fmt.Errorf("the record at offset %d fails its checksum", off)
			}
			break
		}
		if err := l.take(rec); err != nil {
			return err
		}
	}
	for id, list := range l.copies {
		kept := slices.DeleteFunc(list, func(c ledgerCopy) bool { return c.gone })
		if l.copies[id] = kept; len(kept) == 0 {
			delete(l.copies, id)
		}
	}
	return nil
}

// take enters one record.
func (l *Ledger) take(rec []byte) error {
	id, copy := volume.ID(binary.BigEndian.Uint32(rec[4:])), volume.CopyID(binary.BigEndian.Uint64(rec[8:]))
	number := binary.BigEndian.Uint64(rec[16:])
	c := l.entryLocked(id, copy)
	switch rec[0] {
	case ledgerMade:
		c.version, c.gone = number, false
	case ledgerFailed:
		c.failed, c.upto = true, trust{int64(number), max(int64(number), 8*int64(binary.BigEndian.Uint32(rec[24:])))}
	case ledgerGone:
		c.gone = true
	default:
		return fmt.Errorf("a record of kind %d is newer than this program", rec[0])
	}
	return nil
}

// entryLocked finds what is known of a copy, making its place if there is none.
func (l *Ledger) entryLocked(id volume.ID, copy volume.CopyID) *ledgerCopy {
	if c := l.findLocked(id, copy); c != nil {
		return c
	}
	l.copies[id] = append(l.copies[id], ledgerCopy{id: copy})
	return l.findLocked(id, copy)
}

// findLocked is entryLocked that answers nil if there is none.
func (l *Ledger) findLocked(id volume.ID, copy volume.CopyID) *ledgerCopy {
	list := l.copies[id]
	if i := slices.IndexFunc(list, func(c ledgerCopy) bool { return c.id == copy }); i >= 0 {
		return &list[i]
	}
	return nil
}

func ledgerRow(kind byte, id volume.ID, copy volume.CopyID, number uint64) []byte {
	return durableRow(kind, id, copy, number, 0)
}

func failedRow(id volume.ID, copy volume.CopyID, t trust) []byte {
	return durableRow(ledgerFailed, id, copy, uint64(t.committed), uint32(min(t.durable/needle.Align, math.MaxUint32)))
}

func durableRow(kind byte, id volume.ID, copy volume.CopyID, number uint64, durable uint32) []byte {
	b := binary.BigEndian.AppendUint32([]byte{kind, 0, 0, 0}, uint32(id))
	b = binary.BigEndian.AppendUint64(b, uint64(copy))
	b = binary.BigEndian.AppendUint64(b, number)
	return appendSum(binary.BigEndian.AppendUint32(b, durable), 0)
}

// rewriteLocked makes the file what memory says.
func (l *Ledger) rewriteLocked() error {
	b := append([]byte(ledgerMagic), 0, ledgerFormat)
	b = appendSum(append(b, make([]byte, 18)...), 0)
	for id, list := range l.copies {
		for _, c := range list {
			b = append(b, ledgerRow(ledgerMade, id, c.id, c.version)...)
			if c.failed {
				b = append(b, failedRow(id, c.id, c.upto)...)
			}
			if c.gone {
				b = append(b, ledgerRow(ledgerGone, id, c.id, 0)...)
			}
		}
	}
	if err := vfs.Replace(l.fs, l.path, b); err != nil {
		l.torn = true
		return fmt.Errorf("write ledger of copies: %w", err)
	}
	l.end, l.torn = int64(len(b)), false
	return nil
}

// appendLocked makes one record durable. Memory has it already: what may or may
// not have reached the file counts as if it had.
func (l *Ledger) appendLocked(rec []byte) error {
	if l.torn {
		return l.rewriteLocked()
	}
	l.torn = true
	f, err := l.fs.OpenFile(l.path, os.O_RDWR)
	if err != nil {
		return fmt.Errorf("write ledger of copies: %w", err)
	}
	_, err = f.WriteAt(rec, l.end)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write ledger of copies: %w", err)
	}
	l.end, l.torn = l.end+int64(len(rec)), false
	return nil
}

// Make notes durably that a copy is about to be made, by order of an entry of
// this version. It is volume.ErrExists if the copy was made before, and
// volume.ErrStale if a later entry ordered another copy of the volume: then no
// files may be made. After another error they may not be made either.
func (l *Ledger) Make(id volume.ID, copy volume.CopyID, version uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.findLocked(id, copy) != nil {
		return fmt.Errorf("%w: this node has made copy %s of volume %d before", volume.ErrExists, copy, id)
	}
	for _, c := range l.copies[id] {
		if c.version > version {
			return fmt.Errorf("%w: volume %d: version %d of its entry ordered copy %s, and version %d is older", volume.ErrStale, id, c.version, c.id, version)
		}
	}
	l.entryLocked(id, copy).version = version
	return l.appendLocked(ledgerRow(ledgerMade, id, copy, version))
}

// Made reports whether this node has made a copy, or has tried to.
func (l *Ledger) Made(id volume.ID, copy volume.CopyID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.findLocked(id, copy) != nil
}

// Ordered reports whether a copy was made on this node by order of an entry. One
// that was found on a disk was not.
func (l *Ledger) Ordered(id volume.ID, copy volume.CopyID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.findLocked(id, copy)
	return c != nil && c.version > 0
}

// Found notes copies that are on the disks and not in the ledger, by the volumes
// given: a disk may come from another node, or from before there was a ledger.
func (l *Ledger) Found(volumes []*Volume) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	added := false
	for _, v := range volumes {
		if v.copy != 0 && l.findLocked(v.id, v.copy) == nil {
			l.entryLocked(v.id, v.copy)
			added = true
		}
	}
	if !added {
		return nil
	}
	return l.rewriteLocked()
}

// Forget notes that an entry of this version does not name the copies of volume
// id that were ordered by older ones, but for the copy named (0 for none). They
// are left out when the ledger is next opened. Only copies without files on this
// node may be forgotten. An error does no harm: they are remembered longer.
func (l *Ledger) Forget(id volume.ID, version uint64, named volume.CopyID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.copies[id] {
		c := &l.copies[id][i]
		if c.id == named || c.version >= version || c.gone {
			continue
		}
		c.gone = true
		if err := l.appendLocked(ledgerRow(ledgerGone, id, c.id, 0)); err != nil {
			return err
		}
	}
	return nil
}

// fail notes durably that a copy failed, and how much of it can be trusted. Without a
// ledger nothing is noted.
func (l *Ledger) fail(id volume.ID, copy volume.CopyID, t trust) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.entryLocked(id, copy)
	if c.failed {
		return nil
	}
	c.failed, c.upto = true, t
	return l.appendLocked(failedRow(id, copy, t))
}

// anyFailed reports whether a copy of a volume is known that has failed.
func (l *Ledger) anyFailed(id volume.ID) bool {
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.copies[id], func(c ledgerCopy) bool { return c.failed })
}

// failed reports whether a copy has failed, and how much of it can be trusted.
func (l *Ledger) failed(id volume.ID, copy volume.CopyID) (t trust, failed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.findLocked(id, copy); c != nil {
		return c.upto, c.failed
	}
	return trust{}, false
}
