package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/vfs"
)

// Compaction is volume.Compaction. Epoch is kept with new files that are ready,
// and means nothing here.
type Compaction = volume.Compaction

func equal(a, b Compaction) bool {
	return a.Epoch == b.Epoch && a.Generation == b.Generation && a.At == b.At && a.Clock.Equal(b.Clock)
}

const (
	outBuffer  = 256 << 10 // bytes gathered before they are written to a new file
	syncEach   = 32 << 20  // bytes of a new file after which it is synced: one fsync of all would hold up those of others
	tailEnough = 1 << 20   // bytes that may be left for FinishCompaction
	tailRounds = 8         // passes over what was appended during the one before
	paced      = 2         // of them are held to Options.CompactRate
	clockAhead = time.Minute
	graceMost  = time.Hour
)

// build is a pair of new files, in the making or ready.
type build struct {
	Compaction
	dat, idx output
	sums     sums   // of dat
	pos      int64  // offset in the old .dat before which everything was taken or left out
	last     uint64 // append time of the last record taken
	rows     rowReader
	walker   walker // over the old .dat

	// Not before all that lived at At was taken; until then memory is needed for
	// the index as of At.
	index  *index
	counts counts
}

// Compact builds new files beside those of the volume: the records that live at
// c.At, in file order, then all that follow, as far as they are committed when it
// gets there. It may take long; when ctx ends, and on every error, what was built
// is removed. Appends, publishes and reads go on meanwhile. Called again with the
// same c it goes on to what is committed by then, and does nothing once the files
// are ready; with another c it begins anew, unless files are ready, which is
// volume.ErrExists.
//
// repair, if it is not nil, is asked for the bytes of a record that fails its
// check, from another copy: it returns a whole record of that length, or an
// error, which is volume.ErrCorrupt if no copy has a good one: then the record is
// carried as it is, as it is without repair. Any other error ends Compact. A
// record repaired is put right in the old file as well. A disk without room is
// volume.ErrNoSpace and ends nothing but the compaction.
func (v *Volume) Compact(ctx context.Context, c Compaction, repair func(offset, length int64) ([]byte, error)) (err error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	v.work.Lock()
	defer v.work.Unlock()
	v.mu.Lock()
	v.stop = stop
	ready := v.ready
	v.mu.Unlock()
	if err := v.compactable(c); err != nil {
		return fmt.Errorf("compact volume %d: %w", v.id, err)
	}
	if ready != nil {
		if !equal(ready.Compaction, c) {
			return fmt.Errorf("compact volume %d: %w: other new files are ready", v.id, volume.ErrExists)
		}
		return nil
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("compact volume %d: %w", v.id, errors.Join(typed(err), v.discard()))
		}
	}()
	pace := &pacer{rate: v.opts.CompactRate}
	if v.build == nil || !equal(v.build.Compaction, c) {
		if err := v.begin(c); err != nil {
			return err
		}
		if err := v.takeLive(ctx, repair, pace); err != nil {
			return err
		}
	}
	return v.takeTail(ctx, repair, pace)
}

// compactable says why c cannot be done.
func (v *Volume) compactable(c Compaction) error {
	if err := v.writable(); err != nil {
		return err
	}
	v.mu.Lock()
	committed, revision := v.committed, v.super.revision
	v.mu.Unlock()
	switch {
	case uint16(c.Generation) != revision+1:
		return fmt.Errorf("%w: generation %d does not follow revision %d", volume.ErrStale, c.Generation, revision)
	case c.At < SuperBlockSize || c.At > committed:
		return fmt.Errorf("%w: offset %d of %d committed bytes", volume.ErrStale, c.At, committed)
	case c.Clock.After(v.opts.Now().Add(clockAhead)):
		return fmt.Errorf("%w: the clock given, %s, is more than %s ahead of the one here", volume.ErrBadRequest, c.Clock, clockAhead)
	}
	return nil
}

// begin makes empty new files.
func (v *Volume) begin(c Compaction) error {
	if err := errors.Join(v.discard(), v.removeMark()); err != nil {
		return err
	}
	v.mu.Lock()
	need := v.end - v.counts.deletedBytes
	super := v.super
	v.mu.Unlock()
	space, err := v.opts.FS.Space(v.base + extDat)
	if err != nil {
		return err
	}
	if space.Free < uint64(max(need, 0))+v.opts.MinFree {
		return fmt.Errorf("%w: new files may take %d bytes, %d are free and %d of them are to stay so", volume.ErrNoSpace, need, space.Free, v.opts.MinFree)
	}
	b := &build{Compaction: c, pos: SuperBlockSize, rows: rowReader{v: v}, walker: walker{f: v.dat(), version: needle.V3}}
	v.build = b
	v.built.Store(0)
	const flag = os.O_RDWR | os.O_CREATE | os.O_TRUNC
	if b.dat.f, err = v.opts.FS.OpenFile(v.base+extNewDat, flag); err != nil {
		return err
	}
	if b.idx.f, err = v.opts.FS.OpenFile(v.base+extNewIdx, flag); err != nil {
		return err
	}
	super.revision = uint16(c.Generation)
	front := super.encode()
	b.sums = b.sums.plus(front[:])
	return b.dat.write(front[:])
}

// takeLive takes what lives at b.At.
func (v *Volume) takeLive(ctx context.Context, repair repairer, pace *pacer) error {
	b := v.build
	live, err := v.indexAt(ctx, b.At)
	if err != nil {
		return err
	}
	for b.pos < b.At {
		row, err := b.nextRow()
		if err != nil {
			return err
		}
		if row.size >= 0 && live.get(row.key) == placeOf(row.offset, row.size) {
			if err := v.take(ctx, row, b.At, repair, pace); err != nil {
				return err
			}
		}
		b.pos = row.end(needle.V3)
		v.built.Store(b.pos)
	}
	return nil
}

// indexAt is the index as it was when at was the committed length. The index of
// now has gone on, at another pace on every copy.
func (v *Volume) indexAt(ctx context.Context, at int64) (*index, error) {
	x, rows := newIndex(0), rowReader{v: v}
	pos := int64(SuperBlockSize)
	for n := 0; pos < at; n++ {
		row, err := rows.next(pos)
		if err != nil {
			return nil, err
		}
		if n%4096 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		x.set(row.key, x.get(row.key).replacedBy(row.offset, row.size))
		pos = row.end(needle.V3)
	}
	if pos != at {
		return nil, fmt.Errorf("%w: no record ends at %d", volume.ErrBadRequest, at)
	}
	return x, nil
}

// takeTail takes what is committed by now, until little is left.
func (v *Volume) takeTail(ctx context.Context, repair repairer, pace *pacer) error {
	b := v.build
	for round := range tailRounds {
		if round == paced {
			pace = nil // else it might never catch up
		}
		end := v.Committed()
		last := end-b.pos <= tailEnough
		if err := v.takeTo(ctx, end, repair, pace); err != nil {
			return err
		}
		if last {
			break
		}
	}
	if err := errors.Join(b.dat.sync(), b.idx.sync()); err != nil {
		return err
	}
	if b.index != nil {
		return nil
	}
	return b.load()
}

// takeTo takes all records up to end.
func (v *Volume) takeTo(ctx context.Context, end int64, repair repairer, pace *pacer) error {
	for b := v.build; b.pos < end; {
		row, err := b.nextRow()
		if err != nil {
			return err
		}
		if err := v.take(ctx, row, end, repair, pace); err != nil {
			return err
		}
		b.pos = row.end(needle.V3)
		v.built.Store(b.pos)
	}
	return nil
}

// repairer is as Compact says.
type repairer = func(offset, length int64) ([]byte, error)

// take copies the record of row, unless it lies before b.At and has expired.
// Bytes of the old file before limit do not change any more.
func (v *Volume) take(ctx context.Context, row indexRow, limit int64, repair repairer, pace *pacer) error {
	b := v.build
	w := &b.walker
	length := row.end(needle.V3) - row.offset
	w.pos, w.size = row.offset, limit
	rec, err := w.peek(length)
	if err == nil {
		err = fits(&w.needle, row, rec)
	}
	good := err == nil
	if !good {
		w.buf = nil
		if rec, good, err = v.mend(&w.needle, row, rec, err, repair); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if good && row.offset < b.At && v.gone(&w.needle, b.Clock) {
		return pace.wait(ctx, length)
	}
	if good {
		b.last = w.needle.AppendedAt
	}
	row.offset = b.dat.size
	v.dir.take(length+rowSize, v.opts.MinFree)
	if err := b.dat.write(rec); err != nil {
		return err
	}
	b.sums = b.sums.plus(rec)
	if err := b.idx.write(row.append(nil)); err != nil {
		return err
	}
	if b.index != nil {
		b.counts.enter(b.index, row)
	}
	return pace.wait(ctx, 2*length)
}

// gone reports whether n expired so long before clock that no copy, whatever its
// own clock, serves it any more: a tenth of its time to live, an hour at most.
func (v *Volume) gone(n *needle.Needle, clock time.Time) bool {
	ttl := v.life(n)
	return ttl > 0 && v.Expired(n, clock.Add(-min(ttl/10, graceMost)))
}

// fits decides whether rec is the record that row is of, and as it was written.
func fits(n *needle.Needle, row indexRow, rec []byte) error {
	if err := n.DecodeStrict(rec); err != nil {
		return err
	}
	if n.Key != row.key || needle.ParseHeader(rec).Size != max(row.size, 0) || n.Tombstone != (row.size < 0) {
		return errors.New("the record is not the one that the index means")
	}
	return nil
}

// mend finds good bytes for a record that cannot be used for a reason, puts them
// into the old file and decodes them into n. If there are none it returns the bad
// ones and good is false.
func (v *Volume) mend(n *needle.Needle, row indexRow, bad []byte, reason error, repair repairer) (rec []byte, good bool, err error) {
	failed := fmt.Errorf("record at %d: %w", row.offset, reason)
	if repair != nil {
		rec, err = repair(row.offset, row.end(needle.V3)-row.offset)
		if err == nil {
			if err := fits(n, row, rec); err != nil {
				return nil, false, fmt.Errorf("%w; another copy has: %w", failed, err)
			}
			return rec, true, v.Repair(row.offset, rec)
		}
		if !errors.Is(err, volume.ErrCorrupt) {
			return nil, false, fmt.Errorf("%w; ask another copy: %w", failed, err)
		}
	}
	if bad == nil {
		return nil, false, failed
	}
	v.log.Warn("a damaged record is kept as it is", "volume", v.id, "offset", row.offset, "err", reason)
	return bad, false, nil
}

// FinishCompaction takes the rest up to end, which is End and Committed, nothing
// being appended meanwhile, and makes the new files durable together with the
// knowledge that they are ready, which is a promise that Switch can be done, even
// after a restart. It returns the length of the new .dat and its CRC-32C; equal
// ones on two copies mean equal files. Called again it returns them again. After
// an error the new files are gone.
func (v *Volume) FinishCompaction(end int64) (length int64, sum uint32, err error) {
	v.work.Lock()
	defer v.work.Unlock()
	if m := v.readyMark(); m != nil {
		if m.end != end {
			return 0, 0, fmt.Errorf("finish compaction of volume %d: %w: new files are ready for its first %d bytes, not %d", v.id, volume.ErrStale, m.end, end)
		}
		return m.ckpt.committed, m.ckpt.sums.last, nil
	}
	if err := v.writable(); err != nil {
		return 0, 0, err
	}
	m, err := v.finish(end)
	if err != nil {
		return 0, 0, fmt.Errorf("finish compaction of volume %d: %w", v.id, errors.Join(typed(err), v.removeMark(), v.discard()))
	}
	v.mu.Lock()
	v.ready = m
	v.mu.Unlock()
	return m.ckpt.committed, m.ckpt.sums.last, nil
}

func (v *Volume) finish(end int64) (*mark, error) {
	b := v.build
	if b == nil {
		return nil, fmt.Errorf("%w: no new files were built", volume.ErrStale)
	}
	v.mu.Lock()
	has, committed, super := v.end, v.committed, v.super
	v.mu.Unlock()
	if end != has || end != committed {
		return nil, fmt.Errorf("%w: at %d; the volume ends at %d, %d bytes are committed", volume.ErrStale, end, has, committed)
	}
	if err := v.takeTo(context.Background(), end, nil, nil); err != nil {
		return nil, err
	}
	if err := errors.Join(b.dat.sync(), b.idx.sync()); err != nil {
		return nil, err
	}
	super.revision = uint16(b.Generation)
	m := &mark{Compaction: b.Compaction, end: end, ckpt: checkpoint{
		volume: v.id, copy: v.copy, super: super.encode(), durable: b.dat.size, committed: b.dat.size,
		rows: b.idx.size / rowSize, appended: b.last, sums: b.sums,
	}}
	return m, vfs.Replace(v.opts.FS, v.base+extReady, m.encode())
}

// Compacted is how many bytes of .dat the last Compact has passed: it rises as
// long as there is progress.
func (v *Volume) Compacted() int64 { return v.built.Load() }

// Prepared tells of new files that are ready, the length of their .dat and its
// CRC-32C. They are ready after a restart, too, until Switch or DropCompaction.
func (v *Volume) Prepared() (c Compaction, length int64, sum uint32, ok bool) {
	m := v.readyMark()
	if m == nil {
		return Compaction{}, 0, 0, false
	}
	return m.Compaction, m.ckpt.committed, m.ckpt.sums.last, true
}

func (v *Volume) readyMark() *mark {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.ready
}

// DropCompaction removes new files, ready or not; without any it does nothing.
// It waits for a Compact that runs, whose context is to be ended first. It must
// not be called once the outcome may be that the files are switched.
func (v *Volume) DropCompaction() error {
	v.work.Lock()
	defer v.work.Unlock()
	ready := v.readyMark() != nil
	if v.build == nil && !ready {
		return nil
	}
	if ready {
		if err := v.writable(); err != nil {
			return err // perhaps in the middle of a switch
		}
		if err := v.removeMark(); err != nil {
			return fmt.Errorf("drop compaction of volume %d: %w", v.id, err)
		}
		v.mu.Lock()
		v.ready = nil
		v.mu.Unlock()
	}
	if err := errors.Join(v.discard(), removeNew(v.opts.FS, v.base)); err != nil {
		return fmt.Errorf("drop compaction of volume %d: %w", v.id, err)
	}
	return nil
}

// endCompaction ends Compact and lets go of what it built, for a volume that is
// closed: files that are ready stay.
func (v *Volume) endCompaction() error {
	v.mu.Lock()
	stop := v.stop
	v.mu.Unlock()
	if stop != nil {
		stop()
	}
	v.work.Lock()
	defer v.work.Unlock()
	return v.discard()
}

// discard closes new files, and removes them if they are not ready.
func (v *Volume) discard() error {
	b := v.build
	if b == nil {
		return nil
	}
	v.build = nil
	var err error
	for _, o := range []*output{&b.dat, &b.idx} {
		if o.f != nil {
			err = errors.Join(err, o.f.Close())
		}
	}
	if v.readyMark() != nil {
		return err
	}
	return errors.Join(err, removeNew(v.opts.FS, v.base))
}

// removeNew removes new files that are not ready.
func removeNew(fs vfs.FS, base string) error {
	var errs []error
	for _, ext := range []string{extNewDat, extNewIdx} {
		if err := fs.Remove(base + ext); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// nextRow is the row of the record at b.pos.
func (b *build) nextRow() (indexRow, error) { return b.rows.next(b.pos) }

// load makes the index of the new files from their .idx, which is written out.
func (b *build) load() error {
	b.index, b.counts = newIndex(int(b.idx.size/rowSize)), counts{}
	return eachRow(b.idx.f, 0, func(r indexRow, _ []byte) bool {
		b.counts.enter(b.index, r)
		return true
	})
}

// rowReader reads the rows of published records, in file order; also those that
// are not in .idx yet. It may be used while more are published.
type rowReader struct {
	v   *Volume
	off int64 // in .idx, of the next row
	buf []byte
}

const rowBuffer = 64 << 10

// next returns the next row, which must be that of the record at pos.
func (r *rowReader) next(pos int64) (indexRow, error) {
	if len(r.buf) == 0 {
		if err := r.fill(); err != nil {
			return indexRow{}, fmt.Errorf("read index: %w", err)
		}
	}
	if len(r.buf) == 0 {
		return indexRow{}, fmt.Errorf("the index has no row for the record at %d", pos)
	}
	row := decodeRow(r.buf)
	if row.offset != pos {
		return indexRow{}, fmt.Errorf("the index has a row for %d where one for %d is due", row.offset, pos)
	}
	r.buf, r.off = r.buf[rowSize:], r.off+rowSize
	return row, nil
}

func (r *rowReader) fill() error {
	v := r.v
	v.idxMu.Lock()
	idx, size := v.idx, v.idxSize
	if r.off >= size {
		v.mu.Lock()
		rest := v.rows[min(r.off-size, int64(len(v.rows))):]
		r.buf = append([]byte(nil), rest[:min(len(rest), rowBuffer)]...)
		v.mu.Unlock()
	}
	v.idxMu.Unlock()
	if r.off >= size {
		return nil
	}
	buf := make([]byte, min(rowBuffer, size-r.off))
	if _, err := idx.ReadAt(buf, r.off); err != nil {
		return err
	}
	r.buf = buf
	return nil
}

// output writes a new file from its front, some at a time.
type output struct {
	f      vfs.File
	size   int64 // with what is in buf
	synced int64
	buf    []byte
}

// open opens a file that is there already.
func (o *output) open(fs vfs.FS, path string) (err error) {
	if o.f != nil {
		return nil
	}
	if o.f, err = fs.OpenFile(path, os.O_RDWR); err == nil {
		o.size, err = o.f.Size()
	}
	return err
}

func (o *output) write(p []byte) error {
	if len(o.buf)+len(p) > outBuffer {
		if err := o.flush(); err != nil {
			return err
		}
	}
	if len(p) >= outBuffer {
		if _, err := o.f.WriteAt(p, o.size); err != nil {
			return err
		}
	} else {
		o.buf = append(o.buf, p...)
	}
	o.size += int64(len(p))
	if o.size-o.synced >= syncEach {
		return o.sync()
	}
	return nil
}

func (o *output) flush() error {
	if len(o.buf) == 0 {
		return nil
	}
	_, err := o.f.WriteAt(o.buf, o.size-int64(len(o.buf)))
	o.buf = o.buf[:0]
	return err
}

func (o *output) sync() error {
	if err := o.flush(); err != nil || o.synced == o.size {
		return err
	}
	o.synced = o.size
	return o.f.Sync()
}

// pacer holds work to a number of bytes a second. A nil one does not.
type pacer struct {
	rate int64
	due  time.Time // when all that was counted should have been done
}

// wait counts n bytes and waits until they are due.
func (p *pacer) wait(ctx context.Context, n int64) error {
	if p == nil || p.rate <= 0 {
		return nil
	}
	now := time.Now()
	if p.due.Before(now) {
		p.due = now
	}
	p.due = p.due.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	ahead := p.due.Sub(now)
	if ahead < 10*time.Millisecond {
		return nil
	}
	t := time.NewTimer(ahead)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
