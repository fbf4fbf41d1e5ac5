package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/store"
)

// op is one write on its way. It is queued, decided and appended by the writer,
// and finished when every counted copy has what it rests on.
type op struct {
	n          *needle.Needle
	del        bool
	createOnly bool
	abandoned  atomic.Bool // the caller is gone; not to be appended any more
	need       int64       // the committed length that the result rests on
	appended   time.Time
	res        result
	done       chan result // one result, buffered
}

type result struct {
	put    volume.PutResult
	size   int64 // of a deleted record
	err    error
	notYet bool // nothing was done, and this copy is about to take writes
}

func (o *op) finish(res result) {
	select {
	case o.done <- res:
	default: // finished already
	}
}

// confirm is something that may be told only once it is sure that this copy
// still leads (a 204, a 404, a wrong cookie, a read's miss), and that what it
// rests on is committed (rule R12).
type confirm struct {
	seq    uint64
	need   int64
	since  time.Time
	finish func(err error)
}

// Put stores n under n.Key and n.Cookie. n must not change before Put returned,
// and its Data is copied. The answer comes when every in-sync copy has it
// durably. With createOnly, a key that is there with other bytes is
// volume.ErrExists. A key that is there, or was, with another cookie is
// volume.ErrCookie. *volume.NotPrimaryError and volume.ErrUnavailable mean that
// nothing was done; volume.ErrOutcomeUnknown that it may have been.
func (r *Replica) Put(ctx context.Context, n *needle.Needle, createOnly bool) (volume.PutResult, error) {
	res := r.hold(ctx, func() *op { return &op{n: n, createOnly: createOnly} })
	return res.put, res.err
}

// Delete deletes key and answers the size of the record's body. Errors are as
// for Put, and volume.ErrNotFound.
func (r *Replica) Delete(ctx context.Context, key volume.Key, cookie volume.Cookie) (size int64, err error) {
	res := r.hold(ctx, func() *op { return &op{n: &needle.Needle{Key: key, Cookie: cookie, Tombstone: true}, del: true} })
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
		r.mu.Lock()
		moved := r.moved
		r.mu.Unlock()
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
	o.done = make(chan result, 1)
	r.queueMu.Lock()
	r.queue = append(r.queue, o)
	start := !r.writing
	r.writing = true
	r.queueMu.Unlock()
	if start {
		r.mu.Lock()
		closed := r.closed
		r.goLocked(r.write)
		r.mu.Unlock()
		if closed {
			r.failQueue(volume.ErrClosed)
		}
	}
	select {
	case res := <-o.done:
		return res
	case <-ctx.Done():
		if o.abandoned.CompareAndSwap(false, true) {
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

// queued reports whether writes wait for the writer.
func (r *Replica) queued() bool {
	r.queueMu.Lock()
	defer r.queueMu.Unlock()
	return r.writing
}

func (r *Replica) failQueue(err error) {
	r.queueMu.Lock()
	queue := r.queue
	r.queue = nil
	r.queueMu.Unlock()
	for _, o := range queue {
		o.finish(result{err: err})
	}
}

// write is the writer: it takes all that is queued, appends it with one write,
// syncs once, and ends when the queue is empty.
func (r *Replica) write() {
	for {
		r.queueMu.Lock()
		batch := r.queue
		if len(batch) == 0 {
			r.writing = false
			r.queueMu.Unlock()
			return
		}
		r.queue = nil
		r.queueMu.Unlock()
		for len(batch) > 0 {
			batch = r.writeSome(batch)
		}
	}
}

// writeSome appends the front of batch, makes it durable here, and returns the
// rest. The other copies work at the same time; answers come from wakeLocked.
func (r *Replica) writeSome(batch []*op) (rest []*op) {
	r.logMu.Lock()
	defer r.logMu.Unlock()
	r.mu.Lock()
	if err := r.writableLocked(); err != nil {
		notYet := errors.Is(err, volume.ErrUnavailable) && !r.yielding
		r.mu.Unlock()
		for _, o := range batch {
			o.finish(result{err: err, notYet: notYet})
		}
		return nil
	}
	r.mu.Unlock()

	buf, took := r.encode(batch)
	if len(buf) == 0 {
		r.register(batch[:took])
		return batch[took:]
	}
	if err := r.opts.Log.Append(buf); err != nil {
		r.appendFailed(batch[:took], err)
		return batch[took:]
	}
	if !r.register(batch[:took]) {
		return batch[took:]
	}
	slow := time.AfterFunc(r.opts.SlowSync, r.slowSync)
	durable, err := r.opts.Log.Sync()
	slow.Stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.failLocked(fmt.Errorf("fsync: %w", err))
		return batch[took:]
	}
	r.core.Synced(durable)
	r.effectsLocked()
	return batch[took:]
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

// encode decides the ops at the front of batch and encodes those that append.
// It stops before a key that it has already seen, since the log knows a record
// only once it was appended, and before the buffer gets too large.
func (r *Replica) encode(batch []*op) (buf []byte, took int) {
	r.encodeMu.Lock()
	defer r.encodeMu.Unlock()
	size, now := int64(0), r.opts.Now()
	var keys map[volume.Key]bool
	if len(batch) > 1 {
		keys = make(map[volume.Key]bool, min(len(batch), maxBatchOps))
	}
	for _, o := range batch {
		size += o.n.RecordLength()
	}
	buf = make([]byte, 0, max(min(size, maxBatch), batch[0].n.RecordLength()))
	start := r.opts.Log.End()
	for took < len(batch) && took < maxBatchOps && (len(buf) == 0 || int64(len(buf))+batch[took].n.RecordLength() <= maxBatch) {
		o := batch[took]
		if keys[o.n.Key] {
			break
		}
		if keys != nil {
			keys[o.n.Key] = true
		}
		took++
		if !o.abandoned.CompareAndSwap(false, true) { // from here on the caller waits for the outcome
			continue
		}
		if !r.decide(o, now) {
			continue
		}
		o.n.AppendedAt = r.opts.Log.NextAppendTime(now)
		next, err := needle.Append(buf, o.n)
		if err != nil {
			o.res.err = err
			continue
		}
		buf = next
		o.need = start + int64(len(buf))
		o.res.put = volume.PutResult{Checksum: o.n.Checksum, Size: int64(len(o.n.Data))}
	}
	return buf, took
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
	if o.del {
		return r.decideDelete(o, row, now)
	}
	return r.decidePut(o, row)
}

func (r *Replica) decidePut(o *op, row store.Row) (appends bool) {
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
	case o.createOnly && !same:
		o.res.err = fmt.Errorf("%w: file %d", volume.ErrExists, o.n.Key)
	case same && (o.createOnly || r.opts.Log.Spec().TTL.IsZero() && o.n.TTL.IsZero() && len(o.n.Data) > 0):
		o.res.put = volume.PutResult{Unchanged: true, Checksum: needle.Checksum(o.n.Data), Size: int64(len(o.n.Data))}
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

func (r *Replica) decideDelete(o *op, row store.Row, now time.Time) (appends bool) {
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

// register tells the core what was appended and lets the decided ops wait for
// it. It reports false if this copy no longer leads.
func (r *Replica) register(ops []*op) bool {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.core.Appended(r.opts.Log.End())
	if !r.core.Leading() || r.closed {
		for _, o := range ops {
			o.finish(result{err: fmt.Errorf("%w: volume %d: another copy leads now", volume.ErrOutcomeUnknown, r.opts.Volume)})
		}
		r.effectsLocked()
		return false
	}
	for _, o := range ops {
		o.appended = now
		if o.res.err == nil && !o.res.put.Unchanged {
			r.waiters = append(r.waiters, o)
			continue
		}
		if errors.Is(o.res.err, volume.ErrTooLarge) {
			o.finish(o.res)
			continue
		}
		r.confirmLocked(o.need, now, func(err error) {
			if err != nil {
				o.res = result{err: err}
			}
			o.finish(o.res)
		})
	}
	r.effectsLocked()
	r.wakeLocked()
	r.pokeLocked()
	return true
}

// appendFailed answers ops whose append failed. A full disk or volume refuses
// and goes on; anything else ends the copy (rule R5).
func (r *Replica) appendFailed(ops []*op, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.opts.Log.Failed() != nil {
		r.failLocked(err)
	}
	for _, o := range ops {
		o.finish(result{err: fmt.Errorf("append: %w", err)})
	}
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

// confirmLocked calls finish once this copy is known to lead still and need is
// committed; or with an error when it stopped leading.
func (r *Replica) confirmLocked(need int64, now time.Time, finish func(error)) {
	if err := r.core.Writable(); err != nil && !r.core.Leading() {
		finish(r.notPrimaryLocked())
		return
	}
	c := confirm{seq: r.core.Barrier(), need: need, since: now, finish: finish}
	if r.core.Confirmed(c.seq) && r.core.Committed() >= need {
		finish(nil)
		return
	}
	r.confirms = append(r.confirms, c)
	r.pokeLocked()
	r.tickLocked()
}

// wakeLocked answers what is committed and confirmed by now.
func (r *Replica) wakeLocked() {
	committed, i := r.core.Committed(), 0
	for i < len(r.waiters) && r.waiters[i].need <= committed {
		r.waiters[i].finish(r.waiters[i].res)
		r.waiters[i] = nil
		i++
	}
	r.waiters = r.waiters[i:]
	if len(r.waiters) == 0 {
		r.waiters = nil
		if r.yielding {
			r.movedLocked()
		}
	}
	kept := r.confirms[:0]
	for _, c := range r.confirms {
		if r.core.Confirmed(c.seq) && committed >= c.need {
			c.finish(nil)
			continue
		}
		kept = append(kept, c)
	}
	clear(r.confirms[len(kept):])
	r.confirms = kept
}
