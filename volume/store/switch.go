package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/vfs"
)

// New files are put in place as SeaweedFS does it, so that it could finish what
// we began: a marker file is the decision, then each is renamed, then the marker
// is removed. Ours is the mark before that, which makes .cpd and .cpx outlive a
// restart and has the checkpoint of what they become:
//
//	8 "weedcomp" | 2 format, 1 | 2 zero | 4 generation | 8 epoch | 8 at | 8 clock, ns | 8 end | checkpoint | 4 CRC-32C of all before

// mark says that new files are ready.
type mark struct {
	Compaction
	end  int64      // of the old .dat, all of which was taken
	ckpt checkpoint // of the new files
}

const (
	markMagic  = "weedcomp"
	markFormat = 1
	markHeader = 48
)

func (m *mark) encode() []byte {
	b := binary.BigEndian.AppendUint16([]byte(markMagic), markFormat)
	b = binary.BigEndian.AppendUint32(append(b, 0, 0), m.Generation)
	for _, n := range []int64{int64(m.Epoch), m.At, m.Clock.UnixNano(), m.end} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	return appendSum(append(b, m.ckpt.encode()...), 0)
}

func decodeMark(b []byte) (*mark, error) {
	if len(b) < markHeader+4 || string(b[:8]) != markMagic || !sumFits(b) {
		return nil, errors.New("mark of a compaction: fails its checksum")
	}
	if f := binary.BigEndian.Uint16(b[8:]); f != markFormat {
		return nil, fmt.Errorf("mark of a compaction: format %d is newer than this program", f)
	}
	ckpt, err := decodeCheckpoint(b[markHeader : len(b)-4])
	if err != nil {
		return nil, fmt.Errorf("mark of a compaction: %w", err)
	}
	i64 := func(off int) int64 { return int64(binary.BigEndian.Uint64(b[off:])) }
	c := Compaction{Epoch: volume.Epoch(i64(16)), Generation: binary.BigEndian.Uint32(b[12:]), At: i64(24), Clock: time.Unix(0, i64(32))}
	return &mark{Compaction: c, end: i64(40), ckpt: *ckpt}, nil
}

// Switch replaces the files by the new ones that are ready. e is the entry of
// the epoch that names their generation, e.Start the length of the new .dat. It
// becomes the only entry of the epoch list. Reads go on meanwhile; nothing else
// may be going on. When e was switched to before, nothing is done.
//
// A crash at any point leaves the old volume with new files that are ready, or
// the new volume. An error that is not volume.ErrStale may leave either, so the
// copy has failed then; what is right is found when it is opened the next time.
func (v *Volume) Switch(e EpochStart) error {
	v.work.Lock()
	defer v.work.Unlock()
	if err := v.writable(); err != nil {
		return err
	}
	epochs, m := v.Epochs(), v.readyMark()
	if m == nil && slices.Contains(epochs, e) {
		return nil
	}
	if err := v.switchable(e, m); err != nil {
		return fmt.Errorf("switch volume %d to generation %d: %w", v.id, e.Generation, err)
	}
	b, err := v.openReady(m)
	if err == nil {
		err = v.putInPlace(append(epochs[:len(epochs):len(epochs)], e), m)
	}
	if err != nil {
		return v.failUntilReopened(fmt.Errorf("switch to generation %d: %w", e.Generation, err))
	}
	before := v.install(b, m, e, len(epochs))
	v.log.Info("volume was compacted", "volume", v.id, "generation", e.Generation, "bytes", m.end, "now", m.ckpt.committed)
	if err := before.close(); err != nil {
		v.log.Warn("closing the files before a compaction", "volume", v.id, "err", err)
	}
	return nil
}

func (v *Volume) switchable(e EpochStart, m *mark) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case m == nil:
		return fmt.Errorf("%w: no new files are ready", volume.ErrStale)
	case e.Generation != m.Generation || e.Start != m.ckpt.committed:
		return fmt.Errorf("%w: ready are %d bytes of generation %d, not %d", volume.ErrStale, m.ckpt.committed, m.Generation, e.Start)
	case len(v.epochs) > 0 && e.Epoch <= v.epochs[len(v.epochs)-1].Epoch:
		return fmt.Errorf("%w: epoch %d after %d", volume.ErrStale, e.Epoch, v.epochs[len(v.epochs)-1].Epoch)
	case v.end > m.end: // it may be shorter: without fsync a crash took the tail, which the new files have
		return fmt.Errorf("%w: ready for %d bytes; the volume has %d", volume.ErrStale, m.end, v.end)
	}
	return nil
}

// openReady is the build of files that are ready, opened anew after a restart.
func (v *Volume) openReady(m *mark) (*build, error) {
	b := v.build
	if b == nil {
		b = &build{}
		v.build = b
	}
	if err := errors.Join(b.dat.open(v.opts.FS, v.base+extNewDat), b.idx.open(v.opts.FS, v.base+extNewIdx)); err != nil {
		return nil, err
	}
	if b.dat.size != m.ckpt.committed || b.idx.size != m.ckpt.rows*rowSize {
		return nil, fmt.Errorf("the new files have %d and %d bytes, not %d and %d", b.dat.size, b.idx.size, m.ckpt.committed, m.ckpt.rows*rowSize)
	}
	if b.index != nil {
		return b, nil
	}
	return b, b.load()
}

// putInPlace makes the new files those of the volume, for epochs.
func (v *Volume) putInPlace(epochs []EpochStart, m *mark) error {
	fs := v.opts.FS
	if err := vfs.Replace(fs, v.base+extCopy, encodeCopy(v.id, v.copy, epochs)); err != nil {
		return err
	}
	if err := vfs.Write(fs, v.base+extCommit, nil); err != nil {
		return err
	}
	if err := syncDirOf(fs, v.base); err != nil {
		return err
	}
	return finishSwitch(fs, v.base, m)
}

// finishSwitch does what follows the decision. It may be done again after a
// crash; then parts of it may be done already.
func finishSwitch(fs vfs.FS, base string, m *mark) error {
	for _, names := range [][2]string{{extNewDat, extDat}, {extNewIdx, extIdx}} {
		if err := fs.Rename(base+names[0], base+names[1]); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := syncDirOf(fs, base); err != nil {
		return err
	}
	if err := vfs.Replace(fs, base+extCkpt, m.ckpt.encode()); err != nil {
		return err
	}
	// The mark goes before the marker: a mark without one would be taken for
	// that of files to come.
	for _, ext := range []string{extReady, extCommit} {
		if err := fs.Remove(base + ext); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := syncDirOf(fs, base); err != nil {
			return err
		}
	}
	return nil
}

// replaced is the files before a switch. Whoever reads in them now gets to the
// end of that; whoever comes later is told that they are closed, and looks again.
type replaced struct{ dat, idx vfs.File }

func (r replaced) close() error { return errors.Join(r.dat.Close(), r.idx.Close()) }

// install makes memory what the new files are; e is on disk behind skipped other
// entries.
func (v *Volume) install(b *build, m *mark, e EpochStart, skipped int) replaced {
	v.build = nil
	v.idxMu.Lock()
	defer v.idxMu.Unlock()
	v.mu.Lock()
	defer v.mu.Unlock()
	before := replaced{v.dat(), v.idx}
	v.idx, v.idxSize, v.idxSynced = b.idx.f, b.idx.size, b.idx.size
	v.ready = nil
	v.image.due = nil
	v.image.saved.Store(0) // the one there is of the files before
	v.super.revision = uint16(e.Generation)
	v.end, v.durable, v.committed = m.ckpt.committed, m.ckpt.durable, m.ckpt.committed
	v.cuts++
	v.sums, v.shown, v.counts = m.ckpt.sums, m.ckpt.sums.last, b.counts
	v.clock = max(v.clock, v.appended)
	v.appended, v.published = m.ckpt.appended, m.ckpt.appended
	v.pending, v.rows = nil, nil
	clear(v.newest)
	v.epochs, v.skipped = []EpochStart{e}, skipped
	v.doubtful, v.boot = false, 0
	v.saved = m.ckpt.durable
	v.due.Store(m.ckpt.durable + checkpointAt)
	v.files.Store(&files{b.dat.f, b.index})
	return before
}

// resumeCompaction finishes, at load, a switch that was decided, and finds new
// files that are ready. Those of a foreign volume are SeaweedFS's.
func (v *Volume) resumeCompaction() error {
	fs := v.opts.FS
	if v.Foreign() {
		return finishCompaction(fs, v.base)
	}
	decided, err := vfs.Exists(fs, v.base+extCommit)
	if err != nil {
		return err
	}
	m, err := v.readMark()
	switch {
	case err != nil && !isDamaged(err):
		return err
	case err != nil && decided:
		return fmt.Errorf("a compaction was decided: %w", err)
	case err != nil:
		v.log.Warn("new files of a compaction cannot be used", "volume", v.id, "err", err)
		return v.removeMark()
	case m == nil && decided: // all but the marker is done; or SeaweedFS ran here
		return finishCompaction(fs, v.base)
	case m == nil:
		return nil
	}
	there, err := v.readyFiles(m)
	if err != nil {
		return err
	}
	if !there && !decided { // has SeaweedFS finished it?
		if decided, err = v.begins(m.ckpt.super); err != nil {
			return err
		}
		if !decided {
			v.log.Warn("new files of a compaction are gone", "volume", v.id)
			return v.removeMark()
		}
	}
	if decided {
		v.log.Info("finishing a compaction that was decided", "volume", v.id, "generation", m.Generation)
		return finishSwitch(fs, v.base, m)
	}
	v.ready = m
	return nil
}

// damagedMark is an error that no reading again makes good.
type damagedMark struct{ error }

func isDamaged(err error) bool { return errors.As(err, new(damagedMark)) }

// readMark reads the mark; nil if there is none.
func (v *Volume) readMark() (*mark, error) {
	b, err := vfs.ReadFile(v.opts.FS, v.base+extReady)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m, err := decodeMark(b)
	if err == nil && (m.ckpt.volume != v.id || m.ckpt.copy != v.copy) {
		err = fmt.Errorf("mark of a compaction: belongs to copy %s of volume %d", m.ckpt.copy, m.ckpt.volume)
	}
	if err != nil {
		return nil, damagedMark{err}
	}
	return m, nil
}

// removeMark makes new files count for nothing, durably.
func (v *Volume) removeMark() error {
	if err := v.opts.FS.Remove(v.base + extReady); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return syncDirOf(v.opts.FS, v.base)
}

// readyFiles reports whether the new files are there, as long as m says.
func (v *Volume) readyFiles(m *mark) (bool, error) {
	for _, f := range []struct {
		ext  string
		size int64
	}{{extNewDat, m.ckpt.committed}, {extNewIdx, m.ckpt.rows * rowSize}} {
		info, err := v.opts.FS.Stat(v.base + f.ext)
		if errors.Is(err, os.ErrNotExist) || err == nil && info.Size != f.size {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

// begins reports whether .dat has this super block.
func (v *Volume) begins(super [SuperBlockSize]byte) (ok bool, err error) {
	f, err := v.opts.FS.OpenFile(v.base+extDat, os.O_RDONLY)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var b [SuperBlockSize]byte
	if _, err := f.ReadAt(b[:], 0); err != nil {
		return false, nil // too short, or unreadable: openFiles says so
	}
	return b == super, nil
}

// settleCompaction removes, at load, new files that are of no use: never made
// ready, or for a volume that has gone on since.
func (v *Volume) settleCompaction() error {
	if v.Foreign() {
		v.ready = nil
		return nil
	}
	if v.Failed() != nil {
		return nil // its files stay as they are
	}
	if m := v.ready; m != nil {
		if uint16(m.Generation) == v.super.revision+1 && v.end <= m.end {
			return nil
		}
		v.log.Warn("new files of a compaction do not fit the volume any more", "volume", v.id)
		v.ready = nil
		if err := v.removeMark(); err != nil {
			return err
		}
	}
	return removeNew(v.opts.FS, v.base)
}

// believe keeps those epochs of the list that are of the generation of .dat. The
// entry of new files is made durable before they are in place, and those of the
// files before stay in front of it.
func (v *Volume) believe() {
	fits := func(e EpochStart) bool { return uint16(e.Generation) == v.super.revision }
	v.skipped = max(0, slices.IndexFunc(v.epochs, fits))
	n := v.skipped
	for n < len(v.epochs) && fits(v.epochs[n]) {
		n++
	}
	v.epochs = v.epochs[v.skipped:n]
}

// setGeneration makes an empty copy one of generation g.
func (v *Volume) setGeneration(g uint32) error {
	super := v.super
	if super.revision == uint16(g) {
		return nil
	}
	if v.End() != SuperBlockSize {
		return fmt.Errorf("%w: volume %d has records, of revision %d; asked for is generation %d", volume.ErrStale, v.id, super.revision, g)
	}
	super.revision = uint16(g)
	b := super.encode()
	// Only these bytes: whatever a crash makes of them, it is a super block.
	if _, err := v.dat().WriteAt(b[4:6], 4); err != nil {
		return v.fail(fmt.Errorf("set generation %d: %w", g, err))
	}
	if err := v.syncFile(v.dat()); err != nil {
		return fmt.Errorf("set generation %d: %w", g, err)
	}
	v.mu.Lock()
	v.super.revision = super.revision
	v.sums = sums{}.plus(b[:])
	v.shown = v.sums.last
	v.mu.Unlock()
	if err := v.saveCheckpoint(SuperBlockSize); err != nil {
		err = fmt.Errorf("set generation %d: %w", g, err)
		if passing(err) != nil {
			return err // recovery knows what the old one means
		}
		return v.fail(err)
	}
	return nil
}

// unfilled reports whether .dat, of size bytes, differs from what checkpoint c
// says because setGeneration was stopped in the middle.
func (v *Volume) unfilled(c *checkpoint, size int64) bool {
	was, err := decodeSuperBlock(c.super[:])
	was.revision = v.super.revision
	return err == nil && was == v.super && size == SuperBlockSize && c.durable == SuperBlockSize
}

// Repair writes the bytes of one published record anew, in place, durably. They
// must be what was written there once: a good record of the same key and length.
// Checksums of the volume are of what was appended, so they do not change. If the
// fsync fails the copy has failed. It may be called at any time.
func (v *Volume) Repair(offset int64, record []byte) error {
	if err := v.writable(); err != nil {
		return err
	}
	f, row, err := v.rowAt(offset)
	if err == nil {
		err = fits(new(needle.Needle), row, record)
	}
	if err != nil {
		return fmt.Errorf("repair volume %d at %d: %w: %w", v.id, offset, volume.ErrBadRequest, err)
	}
	_, err = f.dat.WriteAt(record, offset)
	if err == nil {
		err = v.syncFile(f.dat)
	}
	if err != nil {
		return fmt.Errorf("repair volume %d at %d: %w", v.id, offset, err)
	}
	v.log.Info("record was repaired", "volume", v.id, "offset", offset, "key", row.key)
	return nil
}

// rowAt finds the row of the published record at offset, by .idx, which is in
// file order; the header of the record itself may be what is bad.
func (v *Volume) rowAt(offset int64) (*files, indexRow, error) {
	v.idxMu.Lock()
	defer v.idxMu.Unlock()
	v.mu.Lock()
	rows, f := v.rows, v.files.Load() // rows is appended to, or replaced, but not changed
	v.mu.Unlock()
	var b [rowSize]byte
	low, high := int64(0), (v.idxSize+int64(len(rows)))/rowSize
	for low < high {
		mid := (low + high) / 2
		at := b[:]
		if off := mid * rowSize; off >= v.idxSize {
			at = rows[off-v.idxSize:]
		} else if _, err := v.idx.ReadAt(at, off); err != nil {
			return nil, indexRow{}, err
		}
		switch row := decodeRow(at); {
		case row.offset == offset:
			return f, row, nil
		case row.offset < offset:
			low = mid + 1
		default:
			high = mid
		}
	}
	return nil, indexRow{}, errors.New("no published record begins there")
}
