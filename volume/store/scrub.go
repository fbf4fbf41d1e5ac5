package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/vfs"
)

// Scrub says how a volume is to be looked through.
type Scrub struct {
	Rate int64 // bytes a second; 0 is as fast as it goes
	Anew bool  // from the beginning, not from where the last pass was interrupted
	// Repair is asked for the bytes of a record that is bad, from another copy;
	// volume.ErrCorrupt says that no copy has good ones. Nil: nothing is repaired.
	Repair func(ctx context.Context, offset, length int64) ([]byte, error)
	Found  func(Damage) // told what was bad; must not be nil
	Read   func(n int64)
}

// Damage is something bad that was found in a volume.
type Damage struct {
	Offset   int64      `json:"offset"` // in .dat
	Key      volume.Key `json:"-"`
	What     string     `json:"what"`
	Repaired bool       `json:"repaired"`
	Err      string     `json:"error,omitempty"` // why it was not
}

// ScrubState is how far a volume was looked through. It outlives a restart, but
// for the last scrubSave bytes, and of a foreign volume all of it.
type ScrubState struct {
	Pos  int64     // before which the pass that was begun is done; SuperBlockSize at its start
	Done time.Time // when the last whole pass ended; zero: never
}

// The scrub file:
//
//	8 "weedscrb" | 2 format, 1 | 2 revision | 4 volume id | 8 copy id | 8 pos | 8 done, ns; 0 is never | 4 CRC-32C of all before
const (
	scrubMagic  = "weedscrb"
	scrubFormat = 1
	scrubSize   = 44
	scrubSave   = 256 << 20 // bytes between two saves of the state
)

func encodeScrub(id volume.ID, c volume.CopyID, revision uint16, s ScrubState) []byte {
	b := binary.BigEndian.AppendUint16([]byte(scrubMagic), scrubFormat)
	b = binary.BigEndian.AppendUint16(b, revision)
	b = binary.BigEndian.AppendUint32(b, uint32(id))
	b = binary.BigEndian.AppendUint64(b, uint64(c))
	b = binary.BigEndian.AppendUint64(b, uint64(s.Pos))
	var done int64
	if !s.Done.IsZero() {
		done = s.Done.UnixNano()
	}
	return appendSum(binary.BigEndian.AppendUint64(b, uint64(done)), 0)
}

// decodeScrub reads a scrub file. One of other files than those of that copy and
// revision says only when the last pass ended.
func decodeScrub(b []byte, id volume.ID, c volume.CopyID, revision uint16) (s ScrubState, ok bool) {
	s.Pos = SuperBlockSize
	if len(b) != scrubSize || string(b[:8]) != scrubMagic || !sumFits(b) || binary.BigEndian.Uint16(b[8:]) != scrubFormat {
		return s, false
	}
	if volume.ID(binary.BigEndian.Uint32(b[12:])) != id || volume.CopyID(binary.BigEndian.Uint64(b[16:])) != c {
		return s, false
	}
	if done := int64(binary.BigEndian.Uint64(b[32:])); done != 0 {
		s.Done = time.Unix(0, done)
	}
	if binary.BigEndian.Uint16(b[10:]) == revision {
		s.Pos = max(s.Pos, int64(binary.BigEndian.Uint64(b[24:])))
	}
	return s, true
}

// ScrubState tells how far v was looked through.
func (v *Volume) ScrubState() ScrubState {
	if s := v.scrubbed.Load(); s != nil {
		return *s
	}
	s := ScrubState{Pos: SuperBlockSize}
	if !v.Foreign() {
		if b, err := vfs.ReadFile(v.opts.FS, v.base+extScrub); err == nil {
			s, _ = decodeScrub(b, v.id, v.copy, v.revision())
		}
	}
	v.scrubbed.CompareAndSwap(nil, &s)
	return *v.scrubbed.Load()
}

func (v *Volume) revision() uint16 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.super.revision
}

// setScrubState notes the state, and on disk if save is set. What cannot be saved
// is done again after a restart.
func (v *Volume) setScrubState(s ScrubState, save bool) {
	v.scrubbed.Store(&s)
	if !save || v.writable() != nil {
		return
	}
	if err := vfs.Replace(v.opts.FS, v.base+extScrub, encodeScrub(v.id, v.copy, v.revision(), s)); err != nil {
		v.log.Warn("how far the volume was scrubbed is not saved", "volume", v.id, "err", err)
	}
}

// errReplaced says that a compaction replaced the files meanwhile.
var errReplaced = fmt.Errorf("%w: a compaction has replaced the files", volume.ErrStale)

// Scrub reads every published record from where the last pass was interrupted,
// and verifies it, its row in .idx, its place in the index in memory, and each
// whole MiB by the sum that was kept when it was appended. What is bad in .dat it
// repairs from another copy, what is bad in an index from .dat. It may be called
// at any time, by one goroutine. A pass that a compaction overtakes begins anew
// (volume.ErrStale). Of a foreign volume nothing is repaired.
func (v *Volume) Scrub(ctx context.Context, o Scrub) error {
	if o.Read == nil {
		o.Read = func(int64) {}
	}
	found, left := o.Found, false
	o.Found = func(d Damage) {
		left = left || !d.Repaired
		found(d)
	}
	var err error
	if v.Foreign() {
		err = v.scrubForeign(ctx, o)
	} else {
		err = v.scrubOwn(ctx, o)
	}
	state := v.ScrubState()
	switch {
	case err == nil:
		state = ScrubState{Pos: SuperBlockSize, Done: v.opts.Now()}
	case errors.Is(err, volume.ErrStale):
		state.Pos = SuperBlockSize
	}
	if err == nil && left { // by its file the volume is due: after a restart it is found and told again
		v.setScrubState(ScrubState{Pos: SuperBlockSize}, true)
	}
	v.setScrubState(state, err != nil || !left)
	if err != nil {
		return fmt.Errorf("scrub volume %d: %w", v.id, err)
	}
	return nil
}

// scrubForeign is Check, slowly. Volumes in shards are passed over: what is bad in
// them shows in a read, which computes it from the others.
func (v *Volume) scrubForeign(ctx context.Context, o Scrub) error {
	if v.alien.shards != nil {
		return nil
	}
	f := refound(v.opts.FS, Found{ID: v.id, Collection: v.spec.Collection, Base: v.base})
	pace := &pacer{rate: o.Rate}
	r, err := Check(ctx, v.opts.FS, f, func(n int64) {
		o.Read(n)
		_ = pace.wait(ctx, n) // Check looks at ctx itself
	})
	for _, x := range problems(r.Findings) {
		key, _ := strconv.ParseUint(x.Key, 16, 64) // 0 for "": about no file
		o.Found(Damage{Offset: x.Offset, Key: volume.Key(key), What: x.Path + ": " + x.What, Err: "the volume is not one of ours"})
	}
	return err
}

// scrub is one pass over a copy of ours.
type scrub struct {
	Scrub
	v       *Volume
	files   *files
	rows    rowReader
	walker  walker
	end     int64 // up to here the pass goes
	sums    sums  // up to end
	cuts    int
	block   int64      // that is being read
	inBlock []indexRow // records that lie in it
	lame    []indexRow // records that are bad and could not be repaired
	pace    *pacer
}

func (v *Volume) scrubOwn(ctx context.Context, o Scrub) error {
	state := v.ScrubState()
	v.mu.Lock()
	s := &scrub{
		Scrub: o, v: v, files: v.files.Load(), end: v.committed, sums: v.sumsAtLocked(v.committed, v.shown),
		cuts: v.cuts, rows: rowReader{v: v}, pace: &pacer{rate: o.Rate},
	}
	v.mu.Unlock()
	pos := int64(SuperBlockSize)
	if !o.Anew && state.Pos > pos && state.Pos < s.end {
		if n, err := v.rowNumber(state.Pos); err == nil {
			pos, s.rows.off = state.Pos, n*rowSize
		}
	}
	s.walker = walker{f: s.files.dat, version: needle.V3, size: s.end, pos: pos}
	s.block = pos / sumBlock
	saved := pos
	for pos < s.end {
		n, err := s.record(ctx, pos)
		if err != nil {
			return err
		}
		pos += n
		o.Read(n)
		if err := s.blocks(ctx, pos); err != nil {
			return err
		}
		v.setScrubState(ScrubState{Pos: pos, Done: state.Done}, pos-saved >= scrubSave)
		if pos-saved >= scrubSave {
			saved = pos
		}
		if err := s.pace.wait(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// replaced turns an error that comes of a compaction into what it means.
func (s *scrub) replaced(err error) error {
	switch {
	case s.v.files.Load() != s.files:
		return errReplaced
	case s.v.closed.Load():
		return volume.ErrClosed
	}
	return err
}

// record looks at the record at pos and returns its length.
func (s *scrub) record(ctx context.Context, pos int64) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if s.v.files.Load() != s.files {
		return 0, errReplaced
	}
	row, rowErr := s.rows.next(pos)
	if rowErr == nil {
		s.walker.pos = pos
		rec, err := s.walker.peek(row.end(needle.V3) - pos)
		if err == nil {
			err = fits(&s.walker.needle, row, rec)
		}
		if err == nil {
			s.place(row)
			return int64(len(rec)), nil
		}
		if s.v.files.Load() != s.files || s.v.closed.Load() {
			return 0, s.replaced(err)
		}
		rowErr = err
	}
	if fixed, ok := s.row(pos, row); ok {
		return fixed.end(needle.V3) - pos, nil
	}
	if row.offset != pos {
		return 0, fmt.Errorf("%w: neither the index nor the record at %d can be read: %w", volume.ErrCorrupt, pos, rowErr)
	}
	s.mend(ctx, row, rowErr.Error())
	s.place(row)
	return row.end(needle.V3) - pos, nil
}

// mend repairs a record, and tells of it.
func (s *scrub) mend(ctx context.Context, row indexRow, why string) {
	d := Damage{Offset: row.offset, Key: row.key, What: why}
	rec, err := s.good(ctx, row)
	if err == nil {
		err = s.v.Repair(row.offset, rec)
	}
	if err != nil {
		d.Err = err.Error()
	}
	if d.Repaired = err == nil; !d.Repaired {
		s.lame = append(s.lame, row)
	}
	s.walker.buf = nil // it has the old bytes
	s.Found(d)
}

func (s *scrub) good(ctx context.Context, row indexRow) ([]byte, error) {
	if s.Repair == nil {
		return nil, fmt.Errorf("%w: there is no other copy", volume.ErrCorrupt)
	}
	return s.Repair(ctx, row.offset, row.end(needle.V3)-row.offset)
}

// row makes the row of the record at pos anew in .idx, if the record is what was
// written there: its own checksum does not cover the key.
func (s *scrub) row(pos int64, bad indexRow) (indexRow, bool) {
	s.walker.pos = pos
	rec, err := s.walker.next()
	if err != nil || s.walker.needle.DecodeStrict(rec) != nil || !s.written(pos, pos+int64(len(rec))) {
		return indexRow{}, false
	}
	good := indexRow{s.walker.needle.Key, pos, needle.ParseHeader(rec).Size}
	if s.walker.needle.Tombstone {
		good.size = -1
	}
	number := s.rows.off / rowSize
	if bad.offset == pos {
		number-- // it was passed
	}
	d := Damage{Offset: pos, Key: good.key, What: "its row in the index is wrong"}
	if err := s.v.mendRow(number, good); err != nil {
		d.Err = err.Error()
	}
	d.Repaired = d.Err == ""
	s.rows.off, s.rows.buf = (number+1)*rowSize, nil
	if bad.offset == pos && bad.key != good.key {
		s.v.forget(s.files, bad)
	}
	s.place(good)
	s.Found(d)
	return good, true
}

// place compares the index in memory with the record of row, and mends it.
func (s *scrub) place(row indexRow) {
	s.inBlock = append(s.inBlock, row)
	if s.v.placed(s.files, row, false) {
		return
	}
	if s.v.placed(s.files, row, true) {
		s.Found(Damage{Offset: row.offset, Key: row.key, What: "the index in memory did not know of it", Repaired: true})
	}
}

// blocks checks each MiB that ends before pos.
func (s *scrub) blocks(ctx context.Context, pos int64) error {
	for {
		end := min((s.block+1)*sumBlock, s.end)
		if pos < end || s.block*sumBlock >= s.end {
			return nil
		}
		if err := s.checkBlock(ctx, end); err != nil {
			return err
		}
		s.block++
		keep := s.inBlock[:0]
		for _, r := range s.inBlock {
			if r.end(needle.V3) > end {
				keep = append(keep, r)
			}
		}
		s.inBlock = keep
	}
}

// checkBlock checks the block that ends at end. If its sum is wrong though all its
// records passed their checks, something is bad that those do not cover: then each
// is compared with that of another copy.
func (s *scrub) checkBlock(ctx context.Context, end int64) error {
	ok, err := s.blockFits(s.block, end)
	if err != nil || ok {
		return err
	}
	for _, row := range s.inBlock {
		rec, err := s.good(ctx, row)
		if err != nil {
			continue // told below, if it was this one
		}
		here := make([]byte, len(rec))
		if _, err := s.files.dat.ReadAt(here, row.offset); err != nil {
			return s.replaced(err)
		}
		if string(here) != string(rec) {
			s.mend(ctx, row, "it differs from what was written, in bytes that its own checksum does not cover")
		}
	}
	told := slices.ContainsFunc(s.lame, func(r indexRow) bool { return r.offset < end && r.end(needle.V3) > s.block*sumBlock })
	if ok, err = s.blockFits(s.block, end); err == nil && !ok && !told {
		s.Found(Damage{Offset: s.block * sumBlock, What: fmt.Sprintf("the %d bytes from here on are not those that were written", end-s.block*sumBlock), Err: "no other copy has better ones"})
	}
	return err
}

// written reports whether the MiB in which the bytes lie are as they were written.
func (s *scrub) written(from, to int64) bool {
	for block := from / sumBlock; block*sumBlock < to; block++ {
		end := min((block+1)*sumBlock, s.end)
		if ok, err := s.blockFits(block, end); err != nil || !ok {
			return false
		}
	}
	return true
}

// blockFits compares the sum of the bytes up to end, which is that of a block or
// of all, with the one that was kept.
func (s *scrub) blockFits(block, end int64) (bool, error) {
	from := block * sumBlock
	n, buf := needle.Get(int(end - from))
	defer n.Release()
	if _, err := s.files.dat.ReadAt(buf, from); err != nil {
		return false, s.replaced(&readError{err})
	}
	before, want := uint32(0), s.sums.last
	if block > 0 {
		before = s.sums.blocks[block-1]
	}
	if end%sumBlock == 0 {
		want = s.sums.blocks[block]
	}
	s.v.mu.Lock()
	cut := s.v.cuts != s.cuts
	s.v.mu.Unlock()
	return cut || needle.UpdateChecksum(before, buf) == want, nil
}

// rowNumber finds the number of the row of the published record at offset.
func (v *Volume) rowNumber(offset int64) (int64, error) {
	v.idxMu.Lock()
	defer v.idxMu.Unlock()
	var b [rowSize]byte
	low, high := int64(0), v.idxSize/rowSize
	for low < high {
		mid := (low + high) / 2
		if _, err := v.idx.ReadAt(b[:], mid*rowSize); err != nil {
			return 0, err
		}
		switch at := decodeRow(b[:]).offset; {
		case at == offset:
			return mid, nil
		case at < offset:
			low = mid + 1
		default:
			high = mid
		}
	}
	return 0, os.ErrNotExist
}

// mendRow writes one row of .idx anew.
func (v *Volume) mendRow(number int64, row indexRow) error {
	if err := v.writable(); err != nil {
		return err
	}
	v.idxMu.Lock()
	defer v.idxMu.Unlock()
	if number < 0 || (number+1)*rowSize > v.idxSize {
		return fmt.Errorf("row %d is not in the file", number)
	}
	if _, err := v.idx.WriteAt(row.append(nil), number*rowSize); err != nil {
		return err
	}
	return v.idx.Sync()
}

// placed reports whether the index knows of the record of row, or of a later one
// of its key; with mend it is told of it.
func (v *Volume) placed(f *files, row indexRow, mend bool) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.files.Load() != f {
		return true
	}
	p := f.index.get(row.key)
	known := p != 0 && p.offset() > row.offset || p.offset() == row.offset && (p.size() == row.size || p.size() == ^row.size)
	if row.size < 0 { // of a key deleted the place is that of the data
		known = p != 0 && (!p.live() || p.offset() > row.offset)
	}
	if !known && mend {
		f.index.set(row.key, p.replacedBy(row.offset, row.size))
		return true
	}
	return known
}

// forget takes a key out of the index that has no record: the row was wrong.
func (v *Volume) forget(f *files, row indexRow) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if p := f.index.get(row.key); v.files.Load() == f && p.offset() == row.offset {
		f.index.set(row.key, placeOf(row.offset, -1))
	}
}

// Mend looks at the record at offset, as Scrub does, and repairs it if it is bad.
// It reports whether it was.
func (v *Volume) Mend(ctx context.Context, offset int64, o Scrub) (bool, error) {
	if v.Foreign() {
		return false, nil
	}
	f, row, err := v.rowAt(offset)
	if err != nil {
		return false, fmt.Errorf("mend volume %d at %d: %w", v.id, offset, err)
	}
	rec := make([]byte, row.end(needle.V3)-offset)
	if _, err = f.dat.ReadAt(rec, offset); err == nil {
		err = fits(new(needle.Needle), row, rec)
	}
	if err == nil || v.files.Load() != f {
		return false, nil
	}
	s := &scrub{Scrub: o, v: v, files: f}
	s.mend(ctx, row, err.Error())
	return true, nil
}

// Record reads the published record at offset, of length bytes, for another copy
// of this generation. It is volume.ErrCorrupt if it fails its check, or lies in a
// MiB that is not as it was appended; volume.ErrStale if it is not there.
func (v *Volume) Record(generation uint32, offset, length int64) ([]byte, error) {
	f, row, err := v.rowAt(offset)
	v.mu.Lock()
	s := &scrub{v: v, files: f, sums: v.sumsAtLocked(v.committed, v.shown), end: v.committed, cuts: v.cuts}
	revision := v.super.revision
	v.mu.Unlock()
	if err != nil || uint16(generation) != revision || row.end(needle.V3)-offset != length {
		return nil, fmt.Errorf("record at %d of volume %d, generation %d: %w: %w", offset, v.id, generation, volume.ErrStale, cmpErr(err))
	}
	rec := make([]byte, length)
	if _, err = f.dat.ReadAt(rec, offset); err == nil {
		err = fits(new(needle.Needle), row, rec)
	}
	if err == nil && !s.written(offset, offset+length) {
		err = errors.New("the bytes around it are not those that were written")
	}
	switch {
	case err == nil:
		return rec, nil
	case v.files.Load() != f:
		return nil, fmt.Errorf("record at %d of volume %d: %w", offset, v.id, errReplaced)
	}
	return nil, v.corrupt(offset, err.Error())
}

// cmpErr says why a record is not there, if nothing else has.
func cmpErr(err error) error {
	if err == nil {
		return errors.New("the one here is another")
	}
	return err
}
