package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/vfs"
)

// EpochStart is volume.EpochStart.
type EpochStart = volume.EpochStart

// Row is where the newest record of a key is.
type Row struct {
	// Offset is that of the record in .dat; for a published deletion it is
	// that of the record deleted, where that is known.
	Offset  int64
	Size    int32 // of the record's body; -1 for a deletion
	Pending bool  // not published yet
	was     int32 // for a published deletion the size of the body deleted, -1 if there is none
	key     volume.Key
	in      *files // what Offset belongs to; nil: the files of now
}

// Deleted reports whether the newest record of the key deletes it.
func (r Row) Deleted() bool { return r.Size < 0 }

// End is the offset just past the record at Offset in a version 3 volume: what
// rests on r is certain once Committed is at least that.
func (r Row) End() int64 { return r.Offset + needle.Length(max(r.Size, 0), needle.V3) }

// Volume is one copy of a volume.
//
// One goroutine at a time calls Append, Cut, SetEpochs, AddEpoch,
// Checkpoint and Switch. Sync may run at the same time as Append and Checkpoint.
// All else may be called at any time. Readers (Lookup, Get, Read, ReadHeader)
// take no lock.
type Volume struct {
	id     volume.ID
	spec   volume.Spec
	super  superBlock
	copy   volume.CopyID // 0 for a foreign one
	ours   bool          // foreign, and was a copy of ours once
	dir    *dir
	base   string // path without a suffix
	opts   *Options
	log    *slog.Logger
	files  atomic.Pointer[files] // set under mu, which guards writing to the index, too
	limit  int64                 // offsets at which records with data may not start any more
	failed atomic.Pointer[error]
	closed atomic.Bool
	alien  alien

	scrubbed atomic.Pointer[ScrubState] // nil before it is asked for

	due   atomic.Int64 // End at which the next checkpoint is due
	ahead atomic.Int64 // End when .dat was last synced for one; it says nothing of what is durable

	scratch   []pendingRow // of Append
	needle    needle.Needle
	saved     int64  // durable length of the checkpoint on disk
	idxSynced int64  // bytes of .idx that are on disk
	boot      uint64 // not 0: as in checkpoint
	trusted   trust  // of a copy that failed in an earlier run

	work  sync.Mutex   // held while new files are built, made ready, put in place or removed; before idxMu
	build *build       // guarded by work
	built atomic.Int64 // bytes of .dat that the build has passed

	image imageState

	syncMu  sync.Mutex // held while .dat or .idx is synced; before mu
	idxMu   sync.Mutex // held while .idx is written; before mu
	idx     vfs.File   // guarded by idxMu where it is replaced; nil for a foreign one
	idxSize int64      // guarded by idxMu

	mu        sync.Mutex // not held during I/O; guards what follows
	end       int64
	durable   int64
	committed int64
	cuts      int // counts the times end fell
	sums      sums
	appended  uint64 // append time of the last record
	published uint64 // append time of the last published record
	shown     uint32 // checksum of the committed bytes
	clock     uint64 // last append time given out
	pending   []pendingRow
	newest    map[volume.Key]indexRow // of pending records
	rows      []byte                  // rows of published records, not yet in .idx
	epochs    []volume.EpochStart     // never changed in place
	skipped   int                     // entries in .wcopy before them, of earlier generations
	ready     *mark                   // of new files that are ready
	stop      context.CancelFunc      // ends Compact
	modified  time.Time
	counts    counts
	doubtful  bool
}

// files is the .dat that is read and what is where in it. Compaction replaces
// both together, for an offset means something in one file only.
type files struct {
	dat   vfs.File
	index *index
}

// dat is the file of now.
func (v *Volume) dat() vfs.File { return v.files.Load().dat }

// pendingRow is a record that is appended and not published.
type pendingRow struct {
	indexRow
	sum      uint32 // of .dat up to its end, as it was appended
	appended uint64
}

// counts is what the index rows tell of a volume.
type counts struct {
	files, deleted uint64
	deletedBytes   int64
	maxKey         volume.Key
}

// enter takes a row into an index and its counts.
func (c *counts) enter(x *index, r indexRow) {
	old := place(0)
	if r.key <= c.maxKey { // those above were never entered
		old = x.get(r.key)
	}
	c.add(r, old)
	x.set(r.key, old.replacedBy(r.offset, r.size))
}

// add counts a row of a key whose place was old.
func (c *counts) add(r indexRow, old place) {
	c.maxKey = max(c.maxKey, r.key)
	if r.size >= 0 {
		c.files++
	}
	if old.live() {
		c.deleted++
		c.deletedBytes += int64(old.size())
	}
}

// ID names the volume.
func (v *Volume) ID() volume.ID { return v.id }

// Dir is the directory that the volume's files are in.
func (v *Volume) Dir() string { return v.dir.Path }

// Spec says how the volume is to be kept, as far as its files tell.
func (v *Volume) Spec() volume.Spec { return v.spec }

// Version is the version of the format in which the records are.
func (v *Volume) Version() needle.Version { return v.super.version }

// CopyID names this copy; 0 for a foreign one.
func (v *Volume) CopyID() volume.CopyID { return v.copy }

// Foreign reports whether the files are not ours, or do not fit what we noted
// of them. A foreign volume is served for reads and never changed.
func (v *Volume) Foreign() bool { return v.copy == 0 }

// Disowned reports whether a foreign volume was a copy of ours: our own files
// are beside it, and do not fit .dat any more.
func (v *Volume) Disowned() bool { return v.ours }

// Doubtful reports whether bytes that were appended may have been lost: with
// sync "os" the host was rebooted without a Close. It ends when the copy enters
// another epoch.
func (v *Volume) Doubtful() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.doubtful
}

// End is the length of .dat: what was appended, pending records included.
func (v *Volume) End() int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.end
}

// Durable is how many bytes of .dat are known to be on disk; with sync "os" it
// is End.
func (v *Volume) Durable() int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.durable
}

// Committed is how many bytes of .dat are published to readers.
func (v *Volume) Committed() int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.committed
}

// Epochs is the epoch list, oldest first. The caller must not change it.
func (v *Volume) Epochs() []volume.EpochStart {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.epochs
}

// Stats describes the volume: puts indexed, of them overwritten or deleted,
// their bytes, the highest key, the length of .dat, when it was last appended to
// and the compaction revision.
func (v *Volume) Stats() (files, deleted uint64, deletedBytes int64, maxKey volume.Key, size int64, modified time.Time, revision uint16) {
	v.mu.Lock()
	defer v.mu.Unlock()
	c := v.counts
	return c.files, c.deleted, c.deletedBytes, c.maxKey, v.end, v.modified, v.super.revision
}

// Failed says why the copy cannot be written any more (rule R5), nil if it can.
func (v *Volume) Failed() error {
	if err := v.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// writable says why v cannot be written.
func (v *Volume) writable() error {
	switch {
	case v.closed.Load():
		return fmt.Errorf("volume %d: %w", v.id, volume.ErrClosed)
	case v.Foreign():
		return fmt.Errorf("%w: volume %d is not one of ours", volume.ErrReadOnly, v.id)
	}
	return v.Failed()
}

// NextAppendTime is the append time for the next record: now, or just after the
// last one given out or found.
func (v *Volume) NextAppendTime(now time.Time) uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.clock = max(uint64(now.UnixNano()), v.clock+1, v.appended+1)
	return v.clock
}

// Epoch files are small and change rarely, so none is kept open.

// SetEpochs replaces the epoch list durably. An empty copy becomes one of the
// generation of the last entry; one that has records must be of it already, else
// the error is volume.ErrStale. Without room for the list nothing has changed; the
// error is as for AddEpoch.
func (v *Volume) SetEpochs(epochs []volume.EpochStart) error {
	if err := v.writable(); err != nil {
		return err
	}
	if err := v.dir.writable(v.opts.FS); err != nil {
		return err
	}
	epochs = slices.Clone(epochs)
	if n := len(epochs); n > 0 {
		if err := v.setGeneration(epochs[n-1].Generation); err != nil {
			return err
		}
	}
	renamed, err := replace(v.opts.FS, v.base+extCopy, encodeCopy(v.id, v.copy, epochs))
	switch {
	case err != nil && !renamed && passing(err) != nil:
		return fmt.Errorf("replace epochs of volume %d: %w", v.id, typed(err))
	case err != nil:
		return v.fail(fmt.Errorf("replace epochs: %w", err))
	}
	v.enter(epochs, 0)
	return nil
}

// replace is vfs.Replace that reports whether the name may have changed.
func replace(fs vfs.FS, path string, data []byte) (renamed bool, err error) {
	if err := vfs.Write(fs, path+".tmp", data); err != nil {
		return false, err
	}
	if err := fs.Rename(path+".tmp", path); err != nil {
		return false, err
	}
	return true, syncDirOf(fs, path)
}

// AddEpoch appends one entry to the epoch list durably. Its generation is as for
// SetEpochs. Without room for it nothing has changed, and the error is volume.ErrNoSpace, or ErrUnavailable if
// the process has too many files open.
func (v *Volume) AddEpoch(e volume.EpochStart) error {
	if err := v.writable(); err != nil {
		return err
	}
	if err := v.dir.writable(v.opts.FS); err != nil {
		return err
	}
	epochs := v.Epochs()
	if n := len(epochs); n > 0 && e.Epoch <= epochs[n-1].Epoch {
		return fmt.Errorf("%w: volume %d: epoch %d after %d", volume.ErrStale, v.id, e.Epoch, epochs[n-1].Epoch)
	}
	if err := v.setGeneration(e.Generation); err != nil {
		return err
	}
	f, err := v.opts.FS.OpenFile(v.base+extCopy, os.O_RDWR)
	switch {
	case passing(err) != nil:
		return fmt.Errorf("append epoch to volume %d: %w", v.id, typed(err))
	case err != nil:
		return v.fail(fmt.Errorf("append epoch: %w", err))
	}
	_, err = f.WriteAt(appendEpoch(nil, e), int64(copyHeader+copyEntry*(v.skipped+len(epochs))))
	if noRoom(err) { // part of an entry is none, and the next is written over it
		return errors.Join(fmt.Errorf("append epoch to volume %d: %w", v.id, typed(err)), f.Close())
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return v.fail(fmt.Errorf("append epoch: %w", err))
	}
	v.enter(append(epochs[:len(epochs):len(epochs)], e), v.skipped)
	return nil
}

// enter takes a list that is on disk, behind skipped other entries.
func (v *Volume) enter(epochs []volume.EpochStart, skipped int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.epochs, v.skipped = epochs, skipped
	if v.doubtful {
		v.doubtful, v.boot = false, 0
	}
}

// Close syncs, writes a checkpoint and closes the files. Close twice is fine.
// Compact is ended and waited for; other calls that run are not, and answer
// errors.
func (v *Volume) Close() error {
	if v.closed.Swap(true) {
		return nil
	}
	var err error
	if !v.Foreign() && v.Failed() == nil {
		if err = v.checkpoint(!v.Doubtful()); err == nil {
			v.saveImage(true)
		}
	}
	return errors.Join(err, v.closeFiles())
}

func (v *Volume) closeFiles() error {
	v.closed.Store(true)
	err := v.endCompaction()
	v.image.mu.Lock() // an image that is being written stops soon
	defer v.image.mu.Unlock()
	if f := v.files.Load(); f != nil {
		err = errors.Join(err, f.dat.Close())
	}
	if v.idx != nil {
		err = errors.Join(err, v.idx.Close())
	}
	return err
}
