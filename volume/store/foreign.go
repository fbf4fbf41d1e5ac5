package store

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"weedd/volume"
	"weedd/volume/erasure"
	"weedd/volume/needle"
	"weedd/volume/vfs"
)

// vacuumCookie is what SeaweedFS gives to records that it replays at the end of
// a compaction.
const vacuumCookie volume.Cookie = 0x12345678

// alien is what only volumes of SeaweedFS have. It is set when they are opened.
type alien struct {
	far     []*index      // of offsets that a place has no room for; see enterForeign
	wide    bool          // the rows of .idx have 5-byte offsets
	shards  *erasure.File // .dat, where it is erasure-coded
	expires int64         // seconds since 1970 after which nothing of it is there; 0 is never
	marked  bool          // .vif says that it takes no writes
}

// Fixed says why a foreign volume cannot become one of ours as it is: its .dat is
// in shards, or its index in another format. It is "" for all others.
func (v *Volume) Fixed() string {
	switch {
	case v.alien.shards != nil:
		here, all := v.alien.shards.Shards()
		return fmt.Sprintf("erasure-coded, %d of %d shards are here", here, all)
	case v.alien.wide:
		return "its index has 5-byte offsets"
	case len(v.alien.far) > 0:
		return "it is longer than 32 GiB"
	}
	return ""
}

// Marked reports whether SeaweedFS was told that a foreign volume takes no writes.
func (v *Volume) Marked() bool { return v.alien.marked }

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
	if v.super.version, err = v.findVersion(rows, size); err != nil {
		return err
	}
	x := newIndex(len(rows))
	w, err := newWalker(v.dat(), v.super.version, SuperBlockSize)
	if err != nil {
		return err
	}
	pos, err := v.enterRows(x, rows, w)
	if err != nil {
		return err
	}
	if pos, err = v.walkForeign(x, w, pos, size); err != nil {
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
	if err == nil && !v.fits(rows, size) {
		// The volume info may be gone, or that of another build.
		v.alien.wide = !v.alien.wide
		other, otherErr := v.readRows(extIdx)
		if otherErr == nil && len(other) > 0 && v.fits(other, size) {
			rows = other
		} else {
			v.alien.wide, err = !v.alien.wide, otherErr
		}
	}
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
	if !v.alien.wide && size > maxOffset {
		v.unwrap(rows)
	}
	kept := slices.DeleteFunc(rows, func(r indexRow) bool { return r.end(v.super.version) > size })
	if lost := len(rows) - len(kept); lost > 0 {
		v.log.Warn("index rows point past the end of the volume", "volume", v.id, "rows", lost)
	}
	return kept, nil
}

// unwrap corrects the rows of records past 32 GiB: SeaweedFS goes on appending
// tombstones and empty files to a full volume, and keeps 32 bits of the offset.
func (v *Volume) unwrap(rows []indexRow) {
	pos := int64(SuperBlockSize)
	for i := range rows {
		if d := pos - rows[i].offset; d > 0 && d%(maxOffset+1) == 0 {
			rows[i].offset = pos
		}
		pos = rows[i].end(v.super.version)
	}
}

// enterRows enters rows, and what lies between them without a row of its own: an
// index may have lost rows anywhere. It returns where the last record ends.
func (v *Volume) enterRows(x *index, rows []indexRow, w *walker) (int64, error) {
	pos := int64(SuperBlockSize)
	byOffset := func(a, b indexRow) int { return cmp.Compare(a.offset, b.offset) }
	if slices.ContainsFunc(rows, func(r indexRow) bool { return r.offset == 0 }) {
		// Deletions without a record: when they were, only the order of the rows
		// tells, so that has to be all there is.
		for _, r := range rows {
			v.enterForeign(x, r)
			pos = max(pos, r.end(v.super.version))
		}
		return pos, nil
	}
	if !slices.IsSortedFunc(rows, byOffset) {
		slices.SortStableFunc(rows, byOffset)
	}
	var last indexRow
	for _, r := range rows {
		if r.offset > pos {
			if err := v.enterBetween(x, w, last, r.offset); err != nil {
				return 0, err
			}
		}
		v.enterForeign(x, r)
		pos, last = max(pos, r.end(v.super.version)), r
	}
	return pos, nil
}

// enterBetween enters the records between that of the row last, if there is one,
// and that at to. A row that does not fit its record says nothing of where the
// next one begins, and to look for one within a file would be to believe what a
// client wrote there.
func (v *Volume) enterBetween(x *index, w *walker, last indexRow, to int64) error {
	from := int64(SuperBlockSize)
	if last.offset > 0 {
		var b [needle.HeaderSize]byte
		if _, err := v.dat().ReadAt(b[:], last.offset); err != nil {
			return fmt.Errorf("read .dat: %w", err)
		}
		h := needle.ParseHeader(b[:])
		if h.Key != last.key || h.Size < 0 {
			return nil
		}
		from = last.offset + needle.Length(h.Size, v.super.version)
	}
	pos, err := v.walkForeign(x, w, from, to)
	if err == nil && pos < to {
		v.log.Warn("volume has bytes that are no record", "volume", v.id, "offset", pos, "bytes", to-pos)
	}
	return err
}

// A place has room for offsets below 32 GiB. Longer volumes have one more index
// for each further page of nearly as much; the newest record of a key is in the
// last index that has the key.
const farPage = maxOffset + 1 - rowUnit

// enterForeign is counts.enter for volumes of any length.
func (v *Volume) enterForeign(x *index, r indexRow) {
	page := max(r.offset-rowUnit, 0) / farPage
	if page == 0 && len(v.alien.far) == 0 {
		v.counts.enter(x, r)
		return
	}
	for int64(len(v.alien.far)) < page {
		v.alien.far = append(v.alien.far, newIndex(0))
	}
	old, at := v.findForeign(x, r.key)
	v.counts.add(r, old)
	if r.size < 0 && old != 0 {
		page = at // a deletion is noted where the data is
	}
	if page > 0 {
		x = v.alien.far[page-1]
	}
	x.set(r.key, old.replacedBy(r.offset-page*farPage, r.size))
}

// findForeign finds the place of a key, and the page that it counts from.
func (v *Volume) findForeign(x *index, key volume.Key) (p place, page int64) {
	for i, far := range slices.Backward(v.alien.far) {
		if p := far.get(key); p != 0 {
			return p, int64(i) + 1
		}
	}
	return x.get(key), 0
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
	if v.alien.wide {
		return wideRows(f)
	}
	err = eachRow(f, 0, func(r indexRow, _ []byte) bool {
		rows = append(rows, r)
		return true
	})
	return rows, err
}

// wideRows reads an index with 5-byte offsets.
func wideRows(f vfs.File) ([]indexRow, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	rows := make([]indexRow, 0, size/wideRowSize)
	buf := make([]byte, min(1<<16, size/wideRowSize)*wideRowSize)
	for off := int64(0); size-off >= wideRowSize; off += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), (size-off)/wideRowSize*wideRowSize)]
		if _, err := f.ReadAt(buf, off); err != nil {
			return nil, err
		}
		for b := buf; len(b) > 0; b = b[wideRowSize:] {
			rows = append(rows, decodeWideRow(b))
		}
	}
	return rows, nil
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

// findVersion is actualVersion; without rows the records tell.
func (v *Volume) findVersion(rows []indexRow, size int64) (needle.Version, error) {
	says := v.super.version
	if says == needle.V3 || len(rows) > 0 {
		return actualVersion(says, rows, size), nil
	}
	older, err := v.reach(says)
	if err != nil {
		return 0, err
	}
	newer, err := v.reach(needle.V3)
	if newer > older {
		says = needle.V3
	}
	return says, err
}

// reach is how far whole records of a version go from the start of .dat.
func (v *Volume) reach(version needle.Version) (int64, error) {
	w, err := newWalker(v.dat(), version, SuperBlockSize)
	if err != nil {
		return 0, err
	}
	for {
		pos := w.pos
		rec, err := w.next()
		if err == nil {
			err = w.needle.Decode(rec, version)
		}
		if isReadError(err) {
			return 0, fmt.Errorf("read .dat: %w", err)
		}
		if err != nil {
			return pos, nil
		}
	}
}

// walkForeign enters the records between from and to, which have no row, and
// returns the end of the last of them. A record that is damaged counts if
// another one follows it: it is there, and cannot be read.
func (v *Volume) walkForeign(x *index, w *walker, from, to int64) (int64, error) {
	size := w.size
	defer func() { w.size = size }()
	w.pos, w.size = from, to
	for {
		pos := w.pos
		rec, err := w.next()
		if err == nil {
			row, n := indexRow{needle.ParseHeader(rec).Key, pos, needle.ParseHeader(rec).Size}, &w.needle
			err = decodeForeign(n, rec, v.super.version)
			if before, _ := v.findForeign(x, row.key); err == nil && row.size == 0 && deletes(n, before) {
				row.size = -1
			}
			// A damaged record leads to the next one, so it is there, too.
			if err == nil || err != errZeros && (w.pos == to && to < size || w.leadsOn()) {
				v.enterForeign(x, row)
				continue
			}
		}
		if isReadError(err) {
			return 0, fmt.Errorf("read .dat: %w", err)
		}
		return pos, nil
	}
}

// leadsOn reports whether a whole record is at pos.
func (w *walker) leadsOn() bool {
	pos := w.pos
	defer func() { w.pos = pos }()
	rec, err := w.next()
	return err == nil && decodeForeign(&w.needle, rec, w.version) == nil
}

var errZeros = errors.New("zeros") // never written: a file that grew without its data

func decodeForeign(n *needle.Needle, rec []byte, v needle.Version) error {
	err := n.Decode(rec, v)
	if err == nil && v == needle.V3 && n.AppendedAt == 0 {
		err = errZeros
	}
	return err
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
	for _, ext := range derived {
		if err := removeAll(fs, base+ext); err != nil {
			return fmt.Errorf("finish compaction: %w", err)
		}
	}
	if err := fs.Remove(base + extCommit); err != nil {
		return fmt.Errorf("finish compaction: %w", err)
	}
	return syncDirOf(fs, base)
}

// derived are the suffixes of what SeaweedFS makes of .idx, and would believe
// after a new .idx has come.
var derived = []string{".ldb", ".rdb"}

// removeAll removes a file, or a directory of files, if it is there.
func removeAll(fs vfs.FS, path string) error {
	info, err := fs.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Dir {
		names, err := fs.ReadDir(path)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := fs.Remove(filepath.Join(path, name)); err != nil {
				return err
			}
		}
	}
	return fs.Remove(path)
}
