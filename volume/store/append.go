package store

import (
	"errors"
	"fmt"
	"os"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/vfs"
)

const (
	flushAt      = 4096     // bytes of index rows kept back
	checkpointAt = 64 << 20 // bytes appended between checkpoints
	syncAhead    = 4 << 20  // bytes, of fewer than which a checkpoint may wait for the sync; see prepare
	syncPasses   = 3        // syncs in a row, at most, until there are so few
)

// Append writes whole version 3 records, encoded as package needle does, at End
// with one write. Their append times must rise. They are pending until Publish,
// and may be lost until Sync. When there is no room nothing is appended and the
// error is volume.ErrNoSpace; after any other failure to write the copy has
// failed.
func (v *Volume) Append(records []byte) error {
	if err := errors.Join(v.writable(), v.dir.fenced()); err != nil {
		return err
	}
	v.mu.Lock()
	end, last, sum := v.end, v.appended, v.sums
	full := len(v.rows) >= flushAt
	v.mu.Unlock()
	if full {
		if err := v.flushRows(); err != nil {
			v.log.Warn("index rows are kept in memory for now", "volume", v.id, "err", err)
		}
	}
	rows, err := v.parse(records, end, last)
	if err != nil {
		return fmt.Errorf("append to volume %d: %w", v.id, err)
	}
	if len(rows) == 0 {
		return nil
	}
	if err := v.prepare(end); err != nil {
		return err
	}
	v.dir.take(int64(len(records)), v.opts.MinFree)
	if _, err := v.dat().WriteAt(records, end); err != nil {
		return v.appendFailed(end, err)
	}
	for i, r := range rows {
		from := r.offset - end
		sum = sum.plus(records[from : from+r.end(needle.V3)-r.offset])
		rows[i].sum = sum.last
	}

	v.mu.Lock()
	v.end, v.sums = end+int64(len(records)), sum
	v.appended = rows[len(rows)-1].appended
	v.modified = time.Unix(0, int64(v.appended))
	v.pending = append(v.pending, rows...)
	for _, r := range rows {
		v.newest[r.key] = r.indexRow
	}
	if v.opts.Sync == SyncOS {
		v.durable = v.end
	}
	v.mu.Unlock()
	return nil
}

// prepare writes a checkpoint, before an append at end, when one is due. The
// first of a run with sync "os" is always due: it notes that .dat may come to
// lack what is appended if the host goes down, and that append waits for it.
//
// With sync "os" nothing else would sync the files, and writes would stand still until
// all of it is on disk. So Flush syncs them beside the writer, a little at a time, and a
// checkpoint that is due waits until most of it is synced, but no longer than for as
// much again.
func (v *Volume) prepare(end int64) error {
	if v.opts.Sync == SyncOS && v.boot == 0 {
		v.boot = bootHash(v.opts.Boot)
		if err := v.Checkpoint(); err != nil {
			v.boot = 0
			return err
		}
	}
	due := v.due.Load()
	if end < due || v.opts.Sync == SyncOS && end-v.ahead.Load() > syncAhead && end < due+checkpointAt {
		return nil
	}
	v.due.Store(end + checkpointAt)
	if err := v.Checkpoint(); err != nil && v.Failed() == nil {
		v.log.Warn("no checkpoint; recovery would take longer", "volume", v.id, "err", err)
	}
	return v.Failed()
}

// parse checks records that are to follow end, the last append time being last,
// by the rules of recovery: what Append takes, Open finds again.
func (v *Volume) parse(records []byte, end int64, last uint64) ([]pendingRow, error) {
	rows := v.scratch[:0]
	n := &v.needle
	defer n.Reset()
	for off := 0; off < len(records); {
		rec := records[off:]
		if len(rec) < needle.HeaderSize {
			return nil, fmt.Errorf("%w: record %d is cut short", volume.ErrBadRequest, len(rows))
		}
		h := needle.ParseHeader(rec)
		length := needle.Length(max(h.Size, 0), needle.V3)
		if length > int64(len(rec)) {
			return nil, fmt.Errorf("%w: record %d is cut short", volume.ErrBadRequest, len(rows))
		}
		if err := n.DecodeStrict(rec[:length]); err != nil {
			return nil, fmt.Errorf("%w: record %d, key %d: %w", volume.ErrBadRequest, len(rows), h.Key, err)
		}
		if n.AppendedAt <= last {
			return nil, fmt.Errorf("%w: record %d, key %d: append time %d does not follow %d", volume.ErrBadRequest, len(rows), h.Key, n.AppendedAt, last)
		}
		row := pendingRow{indexRow: indexRow{n.Key, end + int64(off), h.Size}, appended: n.AppendedAt}
		if n.Tombstone {
			row.size = -1
		}
		if row.offset > maxOffset || row.offset >= v.limit && !n.Tombstone {
			return nil, fmt.Errorf("%w: volume is full at %d bytes", volume.ErrNoSpace, row.offset)
		}
		last = n.AppendedAt
		rows = append(rows, row)
		off += int(length)
	}
	v.scratch = rows
	return rows, nil
}

// appendFailed undoes a write that failed for want of room. Any other failure
// leaves the file in a state that nobody can vouch for.
func (v *Volume) appendFailed(end int64, err error) error {
	err = fmt.Errorf("append to volume %d: %w", v.id, err)
	if !noRoom(err) {
		return v.fail(err)
	}
	if cutErr := v.dat().Truncate(end); cutErr != nil {
		return v.fail(errors.Join(err, cutErr))
	}
	return fmt.Errorf("%w: %w", volume.ErrNoSpace, err)
}

// Sync makes what was appended before the call durable and returns how much
// that is. After a failure the copy has failed for ever: the kernel may have
// dropped the pages that it could not write, and would say that all is well the
// next time. With sync "os" it does nothing.
func (v *Volume) Sync() (durable int64, err error) {
	if err := v.writable(); err != nil {
		return v.Durable(), err
	}
	if v.opts.Sync == SyncOS {
		return v.Durable(), nil
	}
	return v.syncData()
}

// syncData is Sync with an fsync always.
func (v *Volume) syncData() (int64, error) {
	v.mu.Lock()
	end, cuts, durable := v.end, v.cuts, v.durable
	v.mu.Unlock()
	if v.opts.Sync == SyncGroup && durable == end {
		return durable, nil
	}
	if err := v.syncFile(v.dat()); err != nil {
		return durable, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.cuts == cuts {
		v.durable = max(v.durable, end)
	}
	return v.durable, nil
}

// syncFile fsyncs f, which is .dat or .idx; a failure ends the copy (rule R5). The kernel
// tells of bytes that it could not write once for each open file: whoever syncs
// beside the one that is told must not be told that all is well, so it waits for
// the verdict.
func (v *Volume) syncFile(f vfs.File) error {
	v.syncMu.Lock()
	defer v.syncMu.Unlock()
	if err := v.Failed(); err != nil {
		return err
	}
	switch err := f.Sync(); {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrClosed): // by Close, or f was replaced by a compaction
		return fmt.Errorf("sync volume %d: %w", v.id, volume.ErrClosed)
	default:
		return v.fail(err)
	}
}

// Publish makes the records below committed visible to readers. It never takes
// one back, and goes no further than End. It does no I/O.
func (v *Volume) Publish(committed int64) {
	v.mu.Lock()
	n, x := 0, v.files.Load().index
	for n < len(v.pending) && v.pending[n].end(needle.V3) <= committed {
		r := v.pending[n]
		v.counts.enter(x, r.indexRow)
		v.rows = r.append(v.rows)
		if v.newest[r.key].offset == r.offset {
			delete(v.newest, r.key)
		}
		v.committed, v.published, v.shown = r.end(needle.V3), r.appended, r.sum
		n++
	}
	v.pending = v.pending[:copy(v.pending, v.pending[n:])]
	v.mu.Unlock()
}

// Flush writes the rows of published records to .idx, without a sync: after the
// process was killed, they show what may be read before anybody has said how far
// the volume is committed. It also writes an image of the index when one is due, and
// with sync "os" syncs ahead of the next checkpoint.
func (v *Volume) Flush() error {
	if v.writable() != nil || v.dir.fenced() != nil {
		return nil
	}
	err := errors.Join(v.flushRows(), v.syncForCheckpoint())
	v.saveImage(false)
	return err
}

// syncForCheckpoint syncs .dat and .idx beside the writer, so that a checkpoint finds
// little to sync; see prepare. What is appended during a sync may be much, so it is
// done again.
func (v *Volume) syncForCheckpoint() error {
	for range syncPasses {
		end := v.End()
		if v.opts.Sync != SyncOS || end-v.ahead.Load() <= syncAhead {
			return nil
		}
		v.idxMu.Lock()
		idx := v.idx
		v.idxMu.Unlock()
		for _, f := range []vfs.File{v.dat(), idx} {
			if err := v.syncFile(f); err != nil {
				return err
			}
		}
		v.ahead.Store(end)
	}
	return nil
}

// flushRows appends published rows to .idx, without a sync. Rows whose record
// is not durable stay back: a row on disk is proof that its record was once.
func (v *Volume) flushRows() error {
	v.idxMu.Lock()
	defer v.idxMu.Unlock()
	v.mu.Lock()
	n := 0
	for n < len(v.rows) && decodeRow(v.rows[n:]).end(needle.V3) <= v.durable {
		n += rowSize
	}
	rows := v.rows[:n:n]
	v.mu.Unlock()
	if n == 0 {
		return nil
	}
	if _, err := v.idx.WriteAt(rows, v.idxSize); err != nil {
		return fmt.Errorf("append to index of volume %d: %w", v.id, typed(err))
	}
	v.idxSize += int64(n)
	v.mu.Lock()
	v.rows = append([]byte(nil), v.rows[n:]...)
	v.mu.Unlock()
	return nil
}

// Checkpoint syncs .dat and .idx and notes what is then known for certain, so
// that the next Open need not look at it again.
func (v *Volume) Checkpoint() error {
	if err := v.writable(); err != nil {
		return err
	}
	return v.checkpoint(false)
}

// checkpoint is Checkpoint; clean says that nothing will be appended after it.
func (v *Volume) checkpoint(clean bool) error {
	durable, err := v.syncData()
	if err != nil {
		return err
	}
	if err := v.flushRows(); err != nil {
		return err
	}
	v.takeImage(v.closed.Load())
	if err := v.syncIndex(); err != nil {
		return err
	}
	if clean {
		v.boot = 0
	}
	return v.saveCheckpoint(durable)
}

// syncIndex makes the rows that are in .idx durable.
func (v *Volume) syncIndex() error {
	v.idxMu.Lock()
	idx, size := v.idx, v.idxSize
	v.idxMu.Unlock()
	if err := v.syncFile(idx); err != nil {
		return err
	}
	v.idxSynced = size
	return nil
}

// saveCheckpoint writes the checkpoint file for a copy of which durable bytes
// are on disk. It names no row of .idx that was not synced, and no checksum of
// bytes that were read back: they may be damaged by now, and copies are compared by
// what was appended.
func (v *Volume) saveCheckpoint(durable int64) error {
	v.mu.Lock()
	c := checkpoint{
		volume: v.id, copy: v.copy, super: v.super.encode(), durable: durable, committed: v.committed,
		rows: v.idxSynced / rowSize, appended: v.published, boot: v.boot, sums: v.sumsAtLocked(v.committed, v.shown),
	}
	v.mu.Unlock()
	if c.committed > durable { // published while it was about to be cut
		return fmt.Errorf("%w: checkpoint of volume %d: %d bytes are committed, %d are to be kept", volume.ErrStale, v.id, c.committed, durable)
	}
	if err := v.dir.writable(v.opts.FS); err != nil {
		return fmt.Errorf("checkpoint of volume %d: %w", v.id, err)
	}
	if err := vfs.Replace(v.opts.FS, v.base+extCkpt, c.encode()); err != nil {
		return fmt.Errorf("checkpoint of volume %d: %w", v.id, typed(err))
	}
	v.saved = durable
	v.due.Store(durable + checkpointAt)
	return nil
}

// Cut drops everything at and past end, which is where a record begins and not
// below Committed, from memory and disk, durably. Without room for a new
// checkpoint nothing has changed; the error is as for AddEpoch.
func (v *Volume) Cut(end int64) error {
	if err := v.writable(); err != nil {
		return err
	}
	v.mu.Lock()
	was := v.end
	err := v.cuttableLocked(end)
	v.mu.Unlock()
	if err != nil || end == was {
		return err
	}
	// First the checkpoint: one that is left with a longer file would later be
	// taken to vouch for other bytes, appended after the cut.
	if v.saved > end {
		if err := v.saveCheckpoint(end); err != nil {
			if passing(err) != nil || errors.Is(err, volume.ErrStale) {
				return err
			}
			return v.fail(err)
		}
	}
	v.mu.Lock()
	if err := v.cuttableLocked(end); err != nil { // published meanwhile
		v.mu.Unlock()
		return err
	}
	v.shrinkLocked(end)
	v.mu.Unlock()
	return v.cutFile(end)
}

// cuttableLocked says why v cannot be cut at end.
func (v *Volume) cuttableLocked(end int64) error {
	boundary := v.committed
	for _, r := range v.pending {
		if r.end(needle.V3) <= end {
			boundary = r.end(needle.V3)
		}
	}
	switch {
	case end < v.committed:
		return fmt.Errorf("volume %d: cut at %d is below the committed length %d", v.id, end, v.committed)
	case end != boundary:
		return fmt.Errorf("volume %d: cut at %d: no record ends there", v.id, end)
	}
	return nil
}

// shrinkLocked changes what is in memory to a length of end.
func (v *Volume) shrinkLocked(end int64) {
	keep, sum := 0, v.shown
	for keep < len(v.pending) && v.pending[keep].offset < end {
		keep++
	}
	v.pending = v.pending[:keep]
	clear(v.newest)
	v.appended = v.published
	for _, r := range v.pending {
		v.newest[r.key] = r.indexRow
		v.appended, sum = r.appended, r.sum
	}
	v.end, v.sums, v.durable = end, v.sumsAtLocked(end, sum), min(v.durable, end)
	v.cuts++
}

// sumsAtLocked is sums as they were when .dat was end bytes long, with this
// checksum: nothing of the file is read.
func (v *Volume) sumsAtLocked(end int64, sum uint32) sums {
	n := end / sumBlock
	return sums{blocks: v.sums.blocks[:n:n], last: sum, end: end}
}

// cutFile cuts .dat to end, durably. The checkpoint vouches for no more by then.
func (v *Volume) cutFile(end int64) error {
	if err := v.dat().Truncate(end); err != nil {
		return v.fail(err)
	}
	if err := v.syncFile(v.dat()); err != nil {
		return err
	}
	v.mu.Lock()
	v.durable = end
	v.mu.Unlock()
	return nil
}
