package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/store"
)

// op is one write on its way. It is queued, decided and appended by the writer,
// and finished when every counted copy has what it rests on.
type op struct {
	key        volume.Key
	length     int64 // of the record that it may append
	del        bool
	createOnly bool
	after      volume.Epoch // 0, or see Put
	done       chan result  // one result, buffered

	// taken is set by whoever is first, the writer or a caller that gives up.
	// Only that one may touch n, and it drops n when it is done with it: an op
	// may stay for as long as a disk hangs, and must not keep its data alive.
	taken atomic.Bool
	n     *needle.Needle

	record   int   // bytes appended for it; 0 for none
	refused  bool  // res is an error that rests on nothing
	need     int64 // the committed length that the result rests on
	appended time.Time
	res      result
}

type result struct {
	put    volume.PutResult
	size   int64 // of a deleted record
	err    error
	notYet bool // nothing was done, and this copy is about to take writes
}

func newOp(n *needle.Needle) *op {
	return &op{n: n, key: n.Key, length: n.RecordLength(), done: make(chan result, 1)}
}

func (o *op) finish(res result) {
	select {
	case o.done <- res:
	default: // finished already
	}
}

func (o *op) refuse(err error) { o.res, o.refused = result{err: err}, true }

// Put stores n under n.Key and n.Cookie. n must not change before Put returned,
// and its Data is copied. The answer comes when every in-sync copy has it
// durably. With createOnly, a key that is there with other bytes is
// volume.ErrExists. A key that is there, or was, with another cookie is
// volume.ErrCookie. *volume.NotPrimaryError and volume.ErrUnavailable mean that
// nothing was done; volume.ErrOutcomeUnknown that it may have been.
//
// after repeats a write: an attempt in that epoch, which is over, has an unknown
// outcome; 0 is none. What is in the log by that attempt lies before the next
// epoch. So a change of the file in a later epoch was made while the write was under
// way, and may count as made after it: then the write is done, and the change,
// which somebody may have been told of, stays.
func (r *Replica) Put(ctx context.Context, n *needle.Needle, createOnly bool, after volume.Epoch) (volume.PutResult, error) {
	if size := n.BodySize(needle.V3); size > math.MaxInt32 {
		return volume.PutResult{}, fmt.Errorf("%w: a record of %d bytes", volume.ErrTooLarge, size)
	}
	res := r.hold(ctx, func() *op {
		o := newOp(n)
		o.createOnly, o.after = createOnly, after
		return o
	})
	return res.put, res.err
}

// Delete deletes key and answers the size of the record's body. Errors and after
// are as for Put, and volume.ErrNotFound.
func (r *Replica) Delete(ctx context.Context, key volume.Key, cookie volume.Cookie, after volume.Epoch) (size int64, err error) {
	res := r.hold(ctx, func() *op {
		o := newOp(&needle.Needle{Key: key, Cookie: cookie, Tombstone: true})
		o.del, o.after = true, after
		return o
	})
	return res.size, res.err
}

// holdNew is how long a write waits for a copy that is about to lead: masters
// give out ids on a volume as soon as it is open, and its primary may hear of
// that a moment later.
const holdNew = time.Second

// hold submits an op, again and again while this copy is about to take writes.
func (r *Replica) hold(ctx context.Context, next func() *op) result {
	var limit <-chan time.Time
	for {
		moved := *r.moved.Load()
		res := r.submit(ctx, next())
		if !res.notYet {
			return res
		}
		if limit == nil {
			limit = time.After(holdNew)
		}
		select {
		case <-moved:
		case <-limit:
			return res
		case <-ctx.Done():
			return res
		}
	}
}

func (r *Replica) submit(ctx context.Context, o *op) result {
	if err := ctx.Err(); err != nil {
		return result{err: fmt.Errorf("%w: volume %d: %w", volume.ErrUnavailable, r.opts.Volume, err)}
	}
	if !r.enqueue(o) {
		return result{err: volume.ErrClosed}
	}
	select {
	case res := <-o.done: // as a rule, where appends do not wait for the disk
		return res
	default:
	}
	select {
	case res := <-o.done:
		return res
	case <-ctx.Done():
		if o.taken.CompareAndSwap(false, true) {
			o.n = nil
			return result{err: fmt.Errorf("%w: volume %d: %w", volume.ErrUnavailable, r.opts.Volume, context.Cause(ctx))}
		}
	}
	// The writer has it: wait until it has copied what it needs of n. The outcome
	// itself may take as long as a dead copy needs to be dropped.
	r.encodeMu.Lock()
	defer r.encodeMu.Unlock()
	select {
	case res := <-o.done:
		return res
	default:
		return result{err: fmt.Errorf("%w: volume %d: %w", volume.ErrOutcomeUnknown, r.opts.Volume, context.Cause(ctx))}
	}
}

// enqueue hands o to the writer, and makes one if there is none. Where appends
// do not wait for the disk the caller is it for one batch: starting a goroutine
// takes longer. It reports false after Close.
func (r *Replica) enqueue(o *op) bool {
	r.queueMu.Lock()
	if r.queueClosed {
		r.queueMu.Unlock()
		return false
	}
	r.queue = append(r.queue, o)
	start := !r.writing
	if start {
		r.writing = true
		r.work.Add(1)
	}
	r.queueMu.Unlock()
	switch {
	case start && r.quick.Load():
		r.write(1)
	case start:
		go r.write(math.MaxInt)
	}
	return true
}

// queued reports whether writes wait for the writer.
func (r *Replica) queued() bool {
	r.queueMu.Lock()
	defer r.queueMu.Unlock()
	return r.writing
}

// closeQueue refuses what is queued, and everything to come.
func (r *Replica) closeQueue() {
	r.queueMu.Lock()
	queue := r.queue
	r.queue, r.queueClosed = nil, true
	r.queueMu.Unlock()
	for _, o := range queue {
		o.finish(result{err: volume.ErrClosed})
	}
}

// write is the writer: it takes all that is queued, appends it with one write,
// syncs once, and ends when the queue is empty; after so many times it leaves
// the rest to a goroutine.
func (r *Replica) write(times int) {
	for ; ; times-- {
		if times > 1 { // a goroutine of its own
			runtime.Gosched() // those who are about to queue a write shall share the sync
		}
		r.queueMu.Lock()
		batch := r.queue
		if len(batch) == 0 {
			r.writing = false
			r.queueMu.Unlock()
			r.written()
			r.work.Done()
			return
		}
		if times == 0 {
			r.queueMu.Unlock()
			go r.write(math.MaxInt)
			return
		}
		r.queue = nil
		r.queueMu.Unlock()
		for len(batch) > 0 {
			batch = r.writeSome(batch)
		}
	}
}

// written wakes a Yield that waits for the writer to end.
func (r *Replica) written() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.yielding {
		r.movedLocked()
	}
}

// writeSome appends the front of batch, makes it durable here, and returns the
// rest. The other copies work at the same time; answers come from wakeLocked.
func (r *Replica) writeSome(batch []*op) (rest []*op) {
	r.logMu.Lock()
	defer r.logMu.Unlock()
	r.mu.Lock()
	err := r.writableLocked()
	notYet := errors.Is(err, volume.ErrUnavailable) && !r.yielding
	r.mu.Unlock()
	if err != nil {
		for _, o := range batch {
			o.finish(result{err: err, notYet: notYet})
		}
		return nil
	}
	l := r.opts.Log
	pooled, buf := needle.Get(int(bufferFor(batch)))
	buf, took := r.encode(batch, buf[:0])
	ops := batch[:took]
	if len(buf) > 0 {
		if err := l.Append(buf); err != nil {
			r.appendEach(ops, buf, err)
		}
	}
	pooled.Release()
	end, durable := l.End(), l.Durable()
	r.quick.Store(durable >= end)
	if r.register(ops, end, durable) && durable < end {
		r.sync()
	}
	return batch[took:]
}

// sync makes what was appended durable.
func (r *Replica) sync() {
	slow := time.AfterFunc(r.opts.SlowSync, r.slowSync)
	durable, err := r.opts.Log.Sync()
	slow.Stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.failLocked(fmt.Errorf("fsync: %w", err))
		return
	}
	r.core.Synced(durable)
	r.effectsLocked()
}

func (r *Replica) writableLocked() error {
	if r.closed {
		return volume.ErrClosed
	}
	if err := r.core.Writable(); err != nil {
		return err
	}
	if r.yielding {
		return fmt.Errorf("%w: volume %d: another copy is about to lead", volume.ErrUnavailable, r.opts.Volume)
	}
	return nil
}

// bufferFor is the room that encode may need for the front of batch.
func bufferFor(batch []*op) int64 {
	size := int64(0)
	for _, o := range batch {
		if size += o.length; size >= maxBatch {
			break
		}
	}
	return max(min(size, maxBatch), batch[0].length)
}

// encode decides the ops at the front of batch and encodes those that append
// into buf. It stops before a key that it has already seen, since the log knows
// a record only once it was appended, and before buf gets too large.
func (r *Replica) encode(batch []*op, buf []byte) (_ []byte, took int) {
	r.encodeMu.Lock()
	defer r.encodeMu.Unlock()
	now, start := r.opts.Now(), r.opts.Log.End()
	clear(r.keys)
	for took < len(batch) && took < maxBatchOps && (len(buf) == 0 || int64(len(buf))+batch[took].length <= maxBatch) {
		o := batch[took]
		if len(batch) > 1 {
			if _, ok := r.keys[o.key]; ok {
				break
			}
			r.keys[o.key] = struct{}{}
		}
		took++
		if !o.taken.CompareAndSwap(false, true) {
			o.refuse(volume.ErrUnavailable) // the caller is gone and has said so itself
			continue
		}
		if buf = r.encodeOne(o, buf, now); o.record > 0 {
			o.need = start + int64(len(buf))
		}
		o.n = nil
	}
	return buf, took
}

// encodeOne decides o and appends its record to buf if it has one.
func (r *Replica) encodeOne(o *op, buf []byte, now time.Time) []byte {
	if !r.decide(o, now) {
		return buf
	}
	if !o.del {
		if err := r.opts.Log.Room(int64(len(buf)) + o.length); err != nil {
			r.crowded(o, err)
			return buf
		}
	}
	o.n.AppendedAt = r.opts.Log.NextAppendTime(now)
	next, err := needle.Append(buf, o.n)
	if err != nil {
		o.refuse(err)
		return buf
	}
	o.record = len(next) - len(buf)
	o.res.put = volume.PutResult{Checksum: o.n.Checksum, Size: int64(len(o.n.Data))}
	return next
}

// decide looks at what is stored under the key of o, pending records included,
// and reports whether o appends a record. If not, o.res is the answer.
func (r *Replica) decide(o *op, now time.Time) (appends bool) {
	row, ok := r.opts.Log.Latest(o.n.Key)
	if !ok {
		if o.del {
			o.res.err = fmt.Errorf("%w: file %d", volume.ErrNotFound, o.n.Key)
		}
		return !o.del
	}
	o.need = row.End()
	later, err := r.changedAfter(o.after, row)
	if err != nil {
		o.res.err = err
		return false
	}
	if o.del {
		return r.decideDelete(o, row, later, now)
	}
	return r.decidePut(o, row, later)
}

// changedAfter reports whether row was appended in an epoch later than after. Of
// the files of a new generation that cannot be told if several epochs have passed
// before it.
func (r *Replica) changedAfter(after volume.Epoch, row store.Row) (bool, error) {
	if after == 0 {
		return false, nil
	}
	r.mu.Lock()
	epochs := r.core.Epochs()
	r.mu.Unlock()
	for _, e := range epochs { // their starts need not rise
		if e.Epoch > after && row.Offset >= e.Start {
			return true, nil
		}
	}
	if len(epochs) > 0 && epochs[0].Epoch > after+1 {
		return false, fmt.Errorf("%w: volume %d was compacted meanwhile", volume.ErrOutcomeUnknown, r.opts.Volume)
	}
	return false, nil
}

func (r *Replica) decidePut(o *op, row store.Row, later bool) (appends bool) {
	h, err := r.opts.Log.ReadHeader(row)
	if err != nil {
		o.res.err = err
		return false
	}
	if h.Cookie != o.n.Cookie {
		o.res.err = fmt.Errorf("%w: file %d was stored with another one", volume.ErrCookie, o.n.Key)
		return false
	}
	same := row.Size >= 0 && r.same(o, row)
	switch {
	case o.after != 0 && row.Deleted() && !row.Pending:
		// When it was deleted is not kept. Before the first attempt: then the write is
		// to be done; or after it: then the file must not come back.
		o.res.err = fmt.Errorf("%w: file %d has been deleted, before the write or meanwhile", volume.ErrNotFound, o.n.Key)
	case o.createOnly && !same:
		o.res.err = fmt.Errorf("%w: file %d", volume.ErrExists, o.n.Key)
	case same && (o.createOnly || o.after != 0 || r.opts.Log.Spec().TTL.IsZero() && o.n.TTL.IsZero() && len(o.n.Data) > 0):
		o.res.put = volume.PutResult{Unchanged: true, Checksum: needle.Checksum(o.n.Data), Size: int64(len(o.n.Data))}
	case later:
		o.res.put = volume.PutResult{Checksum: needle.Checksum(o.n.Data), Size: int64(len(o.n.Data))}
	default:
		return true
	}
	return false
}

// same reports whether the file stored at row is what o would store. Times are
// not compared: a client that repeats a PUT sends it at another time.
func (r *Replica) same(o *op, row store.Row) bool {
	old, err := r.opts.Log.Read(row)
	if err != nil {
		return false // a bad record is best replaced
	}
	defer old.Release()
	return old.Flags == o.n.Flags && old.TTL == o.n.TTL && bytes.Equal(old.Data, o.n.Data) &&
		bytes.Equal(old.Name, o.n.Name) && bytes.Equal(old.Mime, o.n.Mime) && bytes.Equal(old.Pairs, o.n.Pairs)
}

func (r *Replica) decideDelete(o *op, row store.Row, later bool, now time.Time) (appends bool) {
	notFound := fmt.Errorf("%w: file %d", volume.ErrNotFound, o.n.Key)
	if row.Size < 0 {
		o.res.err = notFound
		return false
	}
	h, err := r.opts.Log.ReadHeader(row)
	if err != nil {
		o.res.err = err
		return false
	}
	if h.Cookie != o.n.Cookie {
		o.res.err = fmt.Errorf("%w: file %d", volume.ErrCookie, o.n.Key)
		return false
	}
	o.res.size = int64(h.Size)
	if later {
		return false
	}
	old, err := r.opts.Log.Read(row)
	if err != nil { // corrupt, yet it can go
		return true
	}
	defer old.Release()
	if r.opts.Log.Expired(old, now) {
		o.res.err, o.res.size = notFound, 0
		return false
	}
	o.n.Checksum = old.Checksum
	return true
}

// appendEach appends the records of ops one by one after there was no room for
// all of them: a deletion fits into a volume that is full, and a small file onto
// a disk where a large one does not. After any other failure all are refused.
func (r *Replica) appendEach(ops []*op, buf []byte, err error) {
	single := errors.Is(err, volume.ErrNoSpace) && r.opts.Log.Failed() == nil
	for _, o := range ops {
		if o.record == 0 {
			continue
		}
		record := buf[:o.record]
		buf = buf[o.record:]
		if single {
			err = r.opts.Log.Append(record)
		}
		switch {
		case single && full(err):
			r.crowded(o, err)
			continue
		case !single || err != nil:
			o.refuse(fmt.Errorf("append: %w", err))
			continue
		}
		o.need = r.opts.Log.End()
	}
}

// full reports whether err says that the disk is, and not the volume.
func full(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// crowded refuses an op for which this disk has no room. While another copy may
// come to lead, on a disk that has, it is tried again.
func (r *Replica) crowded(o *op, err error) {
	o.refuse(fmt.Errorf("append: %w", err))
	o.res.notYet = r.makeRoom()
}

// crampedFor is how long a copy on a full disk asks for no other primary after it
// did: there may be none, or its disk be full, too, so that it asks in turn.
const crampedFor = 10 * time.Second

// makeRoom asks for a primary whose disk has room, unless one is asked for already,
// and reports whether there may be one.
func (r *Replica) makeRoom() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.core.Entry()
	if len(e.InSync) < 2 || !r.core.Leading() || r.opts.Now().Before(r.cramped) {
		return false
	}
	if r.yieldsRoom {
		return true
	}
	r.yieldsRoom = true
	r.goLocked(func() {
		next, _ := r.put(volume.Ask{Kind: volume.AskYield, Volume: e.Volume, Epoch: e.Epoch, From: r.opts.Self, NoRoom: true})
		r.Learn(next) // if it names no other, this copy leads on
		r.mu.Lock()
		defer r.mu.Unlock()
		r.yieldsRoom, r.cramped = false, r.opts.Now().Add(crampedFor)
		r.movedLocked() // who holds a write looks again
	})
	return true
}

// register tells the core what was appended and lets the decided ops wait for
// what they rest on. It reports false if this copy has lost the lead.
func (r *Replica) register(ops []*op, end, durable int64) bool {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.opts.Log.Failed(); err != nil {
		r.failLocked(err)
	}
	r.core.Appended(end)
	// A new epoch that this copy is to lead in, too, and has not entered yet, is
	// no reason to give up: what was appended is in its log.
	holds := r.core.holds && !r.closed
	for _, o := range ops {
		switch {
		case o.refused:
			o.finish(o.res)
		case o.record == 0:
			r.confirmLocked(o.need, now, func(err error) {
				if err != nil {
					o.res = result{err: err}
				}
				o.finish(o.res)
			})
		case holds:
			o.appended = now
			r.waiters = append(r.waiters, o)
		default:
			o.finish(result{err: r.lostLocked()})
		}
	}
	r.core.Synced(durable)
	r.effectsLocked()
	r.pokeLocked()
	return holds
}

// lostLocked is what becomes of a write that was appended and not acknowledged
// when this copy stops leading.
func (r *Replica) lostLocked() error {
	why := "another copy leads now"
	if r.closed {
		why = "this copy was closed"
	} else if r.core.failed != nil {
		why = "this copy failed"
	}
	return fmt.Errorf("%w: volume %d: %s", volume.ErrOutcomeUnknown, r.opts.Volume, why)
}

// slowSync hands leadership to a copy on a healthier disk.
func (r *Replica) slowSync() {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.core.Entry()
	if r.closed || !r.core.Leading() || len(e.InSync) < 2 {
		return
	}
	r.opts.Logger.Warn("fsync takes too long; asks for another primary", "volume", e.Volume, "limit", r.opts.SlowSync)
	r.core.Yield()
	r.effectsLocked()
}

// wakeLocked answers what is committed and confirmed by now.
func (r *Replica) wakeLocked() {
	if len(r.confirms) > 0 {
		r.wakeConfirmsLocked()
	}
	if len(r.waiters) == 0 {
		return
	}
	committed, i := r.core.Committed(), 0
	for i < len(r.waiters) && r.waiters[i].need <= committed {
		r.waiters[i].finish(r.waiters[i].res)
		i++
	}
	if i > 0 {
		r.opts.Pace.wrote(time.Since(r.waiters[0].appended))
	}
	left := copy(r.waiters, r.waiters[i:])
	clear(r.waiters[left:])
	r.waiters = r.waiters[:left]
	if left == 0 && r.yielding {
		r.movedLocked()
	}
}
