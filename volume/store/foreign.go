package store

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/vfs"
)

// vacuumCookie is what SeaweedFS gives to records that it replays at the end of
// a compaction.
const vacuumCookie volume.Cookie = 0x12345678

// loadForeign reads a volume that SeaweedFS wrote, or one of ours that it wrote
// to, and changes nothing: what is torn is passed over, rows that are missing
// are made up in memory.
func (v *Volume) loadForeign() error {
	size, err := v.dat().Size()
	if err != nil {
		return err
	}
	rows, err := v.foreignRows(size)
	if err != nil {
		return err
	}
	x := newIndex(len(rows))
	pos := int64(SuperBlockSize)
	v.super.version = actualVersion(v.super.version, rows, size)
	for _, r := range rows {
		v.counts.enter(x, r)
		if r.offset > 0 {
			pos = max(pos, r.end(v.super.version))
		}
	}
	pos, err = v.walkForeign(x, pos)
	if err != nil {
		return err
	}
	if pos < size {
		v.log.Warn("volume has bytes at its end that are no record", "volume", v.id, "offset", pos, "bytes", size-pos)
	}
	v.files.Store(&files{v.dat(), x})
	v.end, v.durable, v.committed = pos, pos, pos
	return nil
}

// foreignRows reads the index of .dat, of size bytes; rows that point past its
// end are left out.
func (v *Volume) foreignRows(size int64) ([]indexRow, error) {
	rows, err := v.readRows(extIdx)
	if err != nil {
		return nil, err
	}
	if !v.fits(rows, size) {
		// An old SeaweedFS that stopped within the commit of a compaction left
		// a new .dat with an old .idx, and the new one beside it.
		fresh, err := v.readRows(extNewIdx)
		if err != nil {
			return nil, err
		}
		if len(fresh) > 0 && v.fits(fresh, size) {
			rows = fresh
		}
	}
	kept := slices.DeleteFunc(rows, func(r indexRow) bool { return r.end(v.super.version) > size })
	if lost := len(rows) - len(kept); lost > 0 {
		v.log.Warn("index rows point past the end of the volume", "volume", v.id, "rows", lost)
	}
	return kept, nil
}

// readRows reads an index file; one that is not there has no rows.
func (v *Volume) readRows(ext string) (rows []indexRow, err error) {
	f, err := v.opts.FS.OpenFile(v.base+ext, os.O_RDONLY)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	err = eachRow(f, 0, func(r indexRow, _ []byte) bool {
		rows = append(rows, r)
		return true
	})
	return rows, err
}

// fits reports whether rows may be of this .dat, of size bytes: the record that
// the row with the highest offset means is there.
func (v *Volume) fits(rows []indexRow, size int64) bool {
	if len(rows) == 0 {
		return size <= SuperBlockSize
	}
	last := lastRow(rows)
	var b [needle.HeaderSize]byte
	if last.offset+needle.HeaderSize > size {
		return false
	}
	if _, err := v.dat().ReadAt(b[:], last.offset); err != nil {
		return false
	}
	h := needle.ParseHeader(b[:])
	return h.Key == last.key && h.Size == max(last.size, 0)
}

func lastRow(rows []indexRow) indexRow {
	return slices.MaxFunc(rows, func(a, b indexRow) int { return cmp.Compare(a.offset, b.offset) })
}

// actualVersion is the version in which the records of a file of size bytes
// were written: SeaweedFS, asked for a new volume of version 1 or 2, writes
// records of version 3 into it until it is restarted.
func actualVersion(v needle.Version, rows []indexRow, size int64) needle.Version {
	if v == needle.V3 || len(rows) == 0 {
		return v
	}
	last := lastRow(rows)
	if last.end(v) != size && last.end(needle.V3) == size {
		return needle.V3
	}
	return v
}

// walkForeign enters the records from pos on, which have no row, and returns
// the end of the last good one.
func (v *Volume) walkForeign(x *index, pos int64) (int64, error) {
	w, err := newWalker(v.dat(), v.super.version, pos)
	if err != nil {
		return 0, err
	}
	for {
		rec, err := w.next()
		if err == nil {
			err = w.needle.Decode(rec, v.super.version)
		}
		if err == nil && v.super.version == needle.V3 && w.needle.AppendedAt == 0 {
			err = errors.New("zeros") // never written: a file that grew without its data
		}
		switch {
		case err == nil:
		case isReadError(err):
			return 0, fmt.Errorf("read .dat: %w", err)
		default:
			return pos, nil
		}
		row := indexRow{w.needle.Key, pos, needle.ParseHeader(rec).Size}
		if row.size == 0 && deletes(&w.needle, x.get(w.needle.Key)) {
			row.size = -1
		}
		v.counts.enter(x, row)
		pos = w.pos
	}
}

// deletes guesses whether a record without data, whose row is lost, deletes its
// key, which is at before; the format does not say.
func deletes(n *needle.Needle, before place) bool {
	return n.Tombstone || n.Cookie == 0 || n.Cookie == vacuumCookie || before.live() && before.size() > 0
}

// finishCompaction ends a compaction that SeaweedFS had decided to commit when
// it stopped, as it would itself. New files without the decision are of no use,
// and are left alone.
func finishCompaction(fs vfs.FS, base string) error {
	if decided, err := vfs.Exists(fs, base+extCommit); err != nil || !decided {
		return err
	}
	for _, m := range [][2]string{{extNewDat, extDat}, {extNewIdx, extIdx}} {
		if err := fs.Rename(base+m[0], base+m[1]); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("finish compaction: %w", err)
		}
	}
	if err := syncDirOf(fs, base); err != nil {
		return fmt.Errorf("finish compaction: %w", err)
	}
	if err := fs.Remove(base + extCommit); err != nil {
		return fmt.Errorf("finish compaction: %w", err)
	}
	return syncDirOf(fs, base)
}
