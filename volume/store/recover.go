package store

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/vfs"
)

// errNeverMade says that the creation of a copy was not finished, so that
// nobody was told of it.
var errNeverMade = errors.New("creation was not finished")

// openVolume opens the files at base. Errors mean that the volume is to be set
// aside; the files are as they were then.
func openVolume(d *dir, base string, id volume.ID, collection string, o *Options) (v *Volume, err error) {
	v = &Volume{
		id: id, dir: d, base: base, opts: o, log: o.Log, limit: maxOffset + 1 - reserve,
		newest: map[volume.Key]indexRow{}, spec: volume.Spec{Collection: collection, Disk: d.Disk},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, v.closeFiles())
		}
	}()
	raw, err := vfs.ReadFile(o.FS, base+extCopy)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return v, err
	}
	if err == nil {
		if v.copy, v.epochs, err = decodeCopy(raw, id); err != nil {
			return v, err
		}
		if err := v.recallFailure(); err != nil {
			return v, err
		}
	}
	if err := v.resumeCompaction(); err != nil {
		return v, err
	}
	if v.Foreign() {
		if coded, err := isCoded(o.FS, base); err != nil {
			return v, err
		} else if coded {
			return v, v.loadShards()
		}
	}
	if err := v.openFiles(); err != nil {
		return v, err
	}
	if v.Foreign() {
		return v, v.loadForeign()
	}
	v.believe()
	if err := v.recover(); err != nil {
		return v, err
	}
	return v, v.settleCompaction()
}

// openFiles opens .dat and .idx and reads what says how to read them.
func (v *Volume) openFiles() error {
	if err := v.refuseUnknown(); err != nil {
		return err
	}
	flag := os.O_RDWR
	if v.Foreign() {
		flag = os.O_RDONLY
	}
	dat, err := v.opts.FS.OpenFile(v.base+extDat, flag)
	if err != nil {
		return v.unmade(err)
	}
	v.files.Store(&files{dat, newIndex(0)})
	if !v.Foreign() { // .idx is a cache: one that is gone is made again
		if v.idx, err = v.opts.FS.OpenFile(v.base+extIdx, flag|os.O_CREATE); err != nil {
			return err
		}
	}
	info, err := v.opts.FS.Stat(v.base + extDat)
	if err != nil {
		return err
	}
	v.modified = info.Modified
	if info.Size <= SuperBlockSize {
		if err := v.unmade(nil); err != nil {
			return err
		}
	}
	if info.Size < SuperBlockSize {
		return fmt.Errorf("%s%s is shorter than a super block", v.base, extDat)
	}
	vi, err := readVif(v.opts.FS, v.base)
	if err != nil {
		return err
	}
	return v.readSuper(vi)
}

// readSuper reads what .dat and the volume info say of the volume.
func (v *Volume) readSuper(vi vif) (err error) {
	var b [SuperBlockSize]byte
	if _, err := v.dat().ReadAt(b[:], 0); err != nil {
		return err
	}
	if v.super, err = decodeSuperBlock(b[:]); err != nil {
		return err
	}
	v.spec.Placement, v.spec.TTL = v.super.placement, v.super.ttl
	if vi.placement != nil {
		v.spec.Placement = *vi.placement
	}
	v.alien.wide, v.alien.marked = vi.wide, vi.readOnly
	if vi.wide && !v.Foreign() {
		return errors.New("volume info: the index of a volume of ours has 5-byte offsets")
	}
	return nil
}

// refuseUnknown refuses what the files beside say is not a plain volume.
func (v *Volume) refuseUnknown() error {
	for ext, reason := range map[string]string{
		extNote:    "a copy from another server was not finished",
		extErasure: "a volume of ours was erasure-coded by another program, or is about to be",
	} {
		if ext == extErasure && v.Foreign() { // not coded, see isCoded: that was not finished
			continue
		}
		if there, err := vfs.Exists(v.opts.FS, v.base+ext); err != nil || there {
			return errors.Join(err, fmt.Errorf("%s is there: %s", v.base+ext, reason))
		}
	}
	return nil
}

// unmade turns err into errNeverMade if the copy has no checkpoint, the last
// file that Create writes.
func (v *Volume) unmade(err error) error {
	if there, e := vfs.Exists(v.opts.FS, v.base+extCkpt); v.Foreign() || there || e != nil {
		return errors.Join(err, e)
	}
	return errNeverMade
}

// recover brings a copy of ours to the state that its files prove (rule R4).
func (v *Volume) recover() error {
	if v.super.version != needle.V3 {
		return fmt.Errorf("super block: version %d in a volume of ours", v.super.version)
	}
	ckpt, err := v.readCheckpoint()
	if errors.Is(err, errUnfit) {
		return v.disown(err)
	}
	if err != nil {
		return err
	}
	r := &recovery{v: v, ckpt: ckpt, index: newIndex(int(ckpt.rows)), pos: SuperBlockSize}
	if err := r.loadImage(); err != nil {
		return err
	}
	if err := r.loadRows(); err != nil {
		return err
	}
	if err := r.walk(); err != nil {
		return err
	}
	return r.finish()
}

// errUnfit says that .dat is not the file that our own files describe.
var errUnfit = errors.New(".dat does not fit the checkpoint; another program has written to it")

// readCheckpoint reads the checkpoint. Without one that can be trusted it
// answers one that vouches for nothing but the super block.
func (v *Volume) readCheckpoint() (*checkpoint, error) {
	super := v.super.encode()
	none := &checkpoint{super: super, durable: SuperBlockSize, committed: SuperBlockSize, sums: sums{}.plus(super[:])}
	b, err := vfs.ReadFile(v.opts.FS, v.base+extCkpt)
	if errors.Is(err, os.ErrNotExist) {
		return none, nil
	}
	if err != nil {
		return nil, err
	}
	c, err := decodeCheckpoint(b)
	if err == nil && (c.volume != v.id || c.copy != v.copy) {
		err = fmt.Errorf("checkpoint: belongs to copy %s of volume %d", c.copy, c.volume)
	}
	if err != nil {
		v.log.Warn("checkpoint cannot be used; reading the whole volume", "volume", v.id, "err", err)
		return none, nil
	}
	size, err := v.dat().Size()
	if err != nil {
		return nil, err
	}
	if c.super != super && v.unfilled(c, size) {
		return none, nil
	}
	if size < c.durable || c.super != super {
		return nil, errUnfit
	}
	// The last bytes, of up to a MiB, are read again: they tell whether it is the
	// same file.
	again, err := c.sums.cut(v.dat(), (c.committed-1)/sumBlock*sumBlock)
	if err == nil {
		again, err = again.cut(v.dat(), c.committed)
	}
	if err != nil {
		return nil, err
	}
	if again.last != c.sums.last {
		damaged, err := v.merelyDamaged(c)
		if err != nil || !damaged {
			return nil, errors.Join(errUnfit, err)
		}
		v.log.Error("records near the end of the volume are damaged", "volume", v.id, "copy", v.copy)
	}
	return c, nil
}

// disown opens a copy whose .dat does not fit as a foreign one (rule R15).
func (v *Volume) disown(reason error) error {
	v.log.Warn("volume is served for reads only", "volume", v.id, "copy", v.copy, "err", reason)
	v.copy, v.epochs, v.ours = 0, nil, true
	err := v.idx.Close()
	v.idx = nil
	if err != nil {
		return err
	}
	return v.loadForeign()
}

// recovery is the state of recovering one copy.
type recovery struct {
	v     *Volume
	ckpt  *checkpoint
	index *index
	rest  []indexRow // rows of .idx past those of the checkpoint
	pos   int64      // everything before is known to be good
	rows  int64      // rows of .idx that describe it
	last  uint64     // append time before pos; 0 if not known
}

// loadRows takes the rows of .idx, past those that the image has, that the
// checkpoint vouches for, as far as they follow each other as records do, and
// keeps the others as hints.
func (r *recovery) loadRows() error {
	v := r.v
	trusted := true
	err := eachRow(v.idx, r.rows, func(row indexRow, raw []byte) bool {
		trusted = trusted && r.rows < r.ckpt.rows && row.offset == r.pos && row.end(needle.V3) <= r.ckpt.committed
		if trusted {
			v.counts.enter(r.index, row)
			r.pos = row.end(needle.V3)
			r.rows++
		} else {
			if !bytes.Equal(raw, row.append(nil)) {
				row.size = math.MinInt32 // torn: any size below 0 deletes, but this row has to be written anew
			}
			r.rest = append(r.rest, row)
		}
		return true
	})
	if err != nil {
		return fmt.Errorf("read index: %w", err)
	}
	v.committed = r.pos
	if r.pos == r.ckpt.committed {
		r.last = r.ckpt.appended
	}
	v.published, v.appended = r.last, r.last
	v.sums, v.shown = r.ckpt.sums, r.ckpt.sums.last
	return nil
}

// walk reads the records from pos on: those that were published go into the
// index, the others become pending, and the first bad one ends it.
func (r *recovery) walk() error {
	v := r.v
	w, err := newWalker(v.dat(), needle.V3, r.pos)
	if err != nil {
		return err
	}
	for {
		rec, err := w.next()
		if err == nil {
			err = r.check(w, rec)
		}
		if err != nil {
			return r.stop(err)
		}
		row := indexRow{w.needle.Key, r.pos, needle.ParseHeader(rec).Size}
		if w.needle.Tombstone {
			row.size = -1
		}
		r.pos += int64(len(rec))
		r.last = w.needle.AppendedAt
		v.appended = r.last
		if r.pos > r.ckpt.committed { // what is before may be damaged by now
			v.sums = v.sums.plus(rec)
		}
		r.take(row)
	}
}

// check decides whether rec, at pos, is one that we wrote and that was not
// left over from something else.
func (r *recovery) check(w *walker, rec []byte) error {
	if err := w.needle.DecodeStrict(rec); err != nil || r.pos < r.ckpt.durable {
		return err
	}
	if w.needle.AppendedAt <= r.last {
		return errors.New("append time does not rise")
	}
	if w.needle.Cookie != 0 {
		return nil
	}
	// A sector that ends 8 bytes after the record begins, and did not get to the
	// disk, takes the cookie. No checksum covers that, and the file that the record
	// replaces would be found no more.
	before, err := r.cookie(w.needle.Key)
	if err == nil && before != 0 {
		err = errors.New("the cookie is not that of the file before")
	}
	return err
}

// cookie is that of the newest record of key before pos, 0 for none. Writers
// take no record with another one.
func (r *recovery) cookie(key volume.Key) (volume.Cookie, error) {
	at := r.index.get(key).offset()
	if row, ok := r.v.newest[key]; ok {
		at = row.offset
	}
	if at == 0 {
		return 0, nil
	}
	var h [needle.HeaderSize]byte
	if _, err := r.v.dat().ReadAt(h[:], at); err != nil {
		return 0, &readError{err}
	}
	return needle.ParseHeader(h[:]).Cookie, nil
}

// take enters a good record. One is published if the checkpoint says so, or if
// it has its row in .idx: rows are written for published records only.
func (r *recovery) take(row indexRow) {
	v := r.v
	hinted := len(r.rest) > 0 && r.rest[0] == row
	if hinted {
		r.rest = r.rest[1:]
	}
	if !hinted && r.pos > r.ckpt.committed {
		r.rest = nil
		v.pending = append(v.pending, pendingRow{row, v.sums.last, r.last})
		v.newest[row.key] = row
		return
	}
	v.counts.enter(r.index, row)
	if hinted && len(v.rows) == 0 {
		r.rows++
	} else {
		v.rows = row.append(v.rows)
	}
	v.committed, v.published, v.shown = r.pos, r.last, v.sums.last
}

// stop decides what a bad record, or the end of the file, at pos means. Nothing
// is ever cut that is known to have been durable: damage there is for another
// copy to repair.
func (r *recovery) stop(err error) error {
	if errors.Is(err, errEnd) && r.pos >= r.ckpt.durable {
		return nil
	}
	if isReadError(err) {
		return err
	}
	proven := r.ckpt.boot == 0 && len(r.rest) > 0 && r.rest[0].offset == r.pos
	if r.pos < r.ckpt.durable || proven {
		return &volume.CorruptError{Volume: r.v.id, Offset: r.pos, Reason: "committed record: " + err.Error()}
	}
	r.v.log.Info("torn tail is cut", "volume", r.v.id, "offset", r.pos, "reason", err)
	return nil
}

// finish makes the files what memory says.
func (r *recovery) finish() error {
	v := r.v
	v.files.Store(&files{v.dat(), r.index})
	if v.Failed() != nil { // its files stay as they are
		return r.trim()
	}
	v.end, v.durable = r.pos, r.pos
	v.clock = v.appended
	if v.appended > 0 {
		v.modified = time.Unix(0, int64(v.appended))
	}
	if boot := r.ckpt.boot; boot != 0 {
		v.doubtful = boot != bootHash(v.opts.Boot)
		if v.doubtful || v.opts.Sync == SyncOS {
			v.boot = boot
		}
	}
	v.idxSize = r.rows * rowSize
	v.idxSynced = min(v.idxSize, r.ckpt.rows*rowSize)
	v.saved = r.ckpt.durable
	v.due.Store(r.ckpt.durable + checkpointAt)
	changed, err := cutFile(v.dat(), r.pos)
	if err != nil {
		return fmt.Errorf("cut .dat: %w", err)
	}
	idxChanged, err := cutFile(v.idx, v.idxSize)
	if err != nil {
		return fmt.Errorf("cut .idx: %w", err)
	}
	if !changed && !idxChanged && r.pos == r.ckpt.durable && len(v.rows) == 0 && v.boot == r.ckpt.boot {
		return nil
	}
	// What was found may be in the page cache only, left by a process that
	// was killed: before it is called durable it is synced.
	if err := v.dat().Sync(); err != nil {
		return r.unsynced(err)
	}
	if err := v.checkpoint(false); err != nil {
		v.log.Warn("no checkpoint after recovery", "volume", v.id, "err", err)
	}
	return nil
}

// unsynced ends the copy because what was found could not be synced (rule R5). The
// next run would find the same bytes in the page cache, and its sync would say that
// all is well. What the checkpoint vouches for was durable before, and so was what
// has a row.
func (r *recovery) unsynced(err error) error {
	v := r.v
	v.durable = max(r.ckpt.durable, v.committed)
	_ = v.fail(fmt.Errorf("sync what was found after a crash: %w", err)) // it is opened, for reads
	v.trusted = v.trust()
	return r.trim()
}

// trim brings a copy that failed, now or in an earlier run, to what was durable
// then. What follows may be in the page cache only.
func (r *recovery) trim() error {
	v := r.v
	v.idxSize = r.rows * rowSize
	v.Publish(v.trusted.committed)
	end := v.committed
	for _, p := range v.pending {
		if e := p.end(needle.V3); e <= v.trusted.durable {
			end = e
		}
	}
	v.shrinkLocked(end) // nobody else knows v yet
	v.durable, v.clock = end, v.appended
	return nil
}

// cutFile cuts f to size and reports whether it was longer.
func cutFile(f vfs.File, size int64) (bool, error) {
	now, err := f.Size()
	if err != nil || now <= size {
		return false, err
	}
	return true, f.Truncate(size)
}
