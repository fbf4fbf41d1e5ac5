package simulation

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"weedd/volume"
	"weedd/volume/store"
)

// client writes, overwrites, deletes and reads at any node that thinks it leads.
type client struct {
	w        *world
	ops      uint32
	keys     []fileKey
	failNext map[volume.NodeID]bool // the next fsync there fails
	stop     bool
}

type fileKey struct {
	volume volume.ID
	key    volume.Key
}

// op is a write or delete. It waits at the copy that appended it.
type op struct {
	id    uint32
	key   volume.Key
	kind  byte
	end   int64
	began time.Duration

	more       int // bytes of the file
	record     []byte
	generation uint32 // of the log that it was appended to
}

// read is a question that waits until the copy is sure that it still leads, and
// that what the answer rests on is committed (rule R12).
type read struct {
	need    int64
	shows   record // found; zero for none
	barrier uint64
	began   time.Duration
	done    func()
}

// act does one thing, somewhere.
func (c *client) act() {
	w := c.w
	volumes := slices.DeleteFunc(slices.Clone(w.catalog().Volumes()), func(e *volume.Entry) bool { return e.Adopted() })
	if c.stop || len(volumes) == 0 {
		return
	}
	f := fileKey{volume: volumes[w.rng.IntN(len(volumes))].Volume}
	kind := put
	switch n := w.rng.IntN(10); {
	case n < 4 || len(c.keys) == 0:
		var ok bool
		if f.key, ok = w.masters[w.rng.IntN(len(w.masters))].assign(); !ok {
			return
		}
		c.keys = append(c.keys, f)
	case n < 6:
		f = c.anyKey()
	case n < 7:
		f, kind = c.anyKey(), del
	default:
		f = c.anyKey()
		if n := w.nodes[w.rng.IntN(len(w.nodes))]; n.running[f.volume] != nil && n.froze <= w.now {
			n.running[f.volume].get(f.key)
		}
		if r := c.anyPrimary(f.volume); r != nil {
			r.read(f.key)
		}
		return
	}
	if r := c.anyPrimary(f.volume); r != nil {
		r.write(f.key, kind)
	}
}

// anyKey prefers recent ones, so that operations meet.
func (c *client) anyKey() fileKey {
	n := len(c.keys)
	if len(c.w.origins) > 0 && c.w.chance(0.3) {
		return c.keys[c.w.rng.IntN(n)]
	}
	return c.keys[n-1-c.w.rng.IntN(min(n, 12))]
}

// anyPrimary picks among the copies that think they lead, of which there may be
// several.
func (c *client) anyPrimary(id volume.ID) *run {
	var all []*run
	for _, n := range c.w.nodes {
		if r := n.running[id]; r != nil && n.froze <= c.w.now && r.core.Leading() {
			all = append(all, r)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all[c.w.rng.IntN(len(all))]
}

// write appends a record, if this copy may, and syncs it. It returns the
// operation, whose outcome is known once the world has acknowledged it.
func (r *run) write(key volume.Key, kind byte) *op {
	c := r.node.w.client
	c.ops++
	o := &op{id: c.ops, key: key, kind: kind, more: r.node.w.rng.IntN(100), began: r.node.w.now}
	r.enqueue(job{
		func() bool {
			return r.core.Writable() == nil && r.append(o)
		},
		func() bool {
			durable, err := r.log.Sync()
			if r.failed(err) {
				return false
			}
			r.core.Synced(durable)
			return true
		},
	})
	return o
}

// append appends the record of o.
func (r *run) append(o *op) bool {
	n := r.node
	o.record = record{o.key, o.id, o.kind}.encode(o.more, r.log.NextAppendTime(n.now()))
	if err := r.log.Append(o.record); r.failed(err) {
		if r.log.Failed() == nil {
			n.w.fail("%s does not append: %v", r, err)
		}
		return false
	}
	o.end, o.generation = r.log.End(), r.core.Generation()
	r.core.Appended(o.end)
	r.writes = append(r.writes, o)
	return true
}

// read looks a key up in the log, pending records included, as decisions of the
// writer do.
func (r *run) read(key volume.Key) *read {
	if !r.core.Leading() {
		return nil
	}
	row, ok := r.log.Latest(key)
	rec, need := r.found(key, row, ok), int64(0)
	if ok {
		need = row.End()
	}
	known := r.node.w.truths[r.id].known[key]
	q := r.confirm(need, func() { r.answered(key, known, rec) })
	q.shows = rec
	return q
}

// confirm calls done when it is sure that this copy led after the call, and need
// is committed.
func (r *run) confirm(need int64, done func()) *read {
	q := &read{need: need, barrier: r.core.Barrier(), began: r.node.w.now, done: done}
	r.reads = append(r.reads, q)
	r.effects()
	return q
}

// answered tells the client, unless the process died in looking.
func (r *run) answered(key volume.Key, known int, shows record) {
	if !r.node.dying && !r.outside(shows) {
		r.node.w.answered(r.id, key, known, shows)
	}
}

// found is what a row of the index stands for, zero for nothing.
func (r *run) found(key volume.Key, row store.Row, ok bool) record {
	if !ok || row.Deleted() {
		return record{}
	}
	n, err := r.log.Read(row)
	if r.node.dying {
		return record{}
	} else if err != nil {
		r.node.w.fail("%s: read key %d at %d: %v", r, key, row.Offset, err)
		return record{}
	}
	defer n.Release()
	return record{key, binary.BigEndian.Uint32(n.Data), put}
}

// get reads a file as clients do, at any copy. What is published here is shown at
// once, though it may be old when this copy is cut off; by the primary it may not
// be. A miss is told only when nothing acknowledged is missing here.
func (r *run) get(key volume.Key) {
	w, known := r.node.w, r.node.w.truths[r.id].known[key]
	newest, ok := r.log.Latest(key)
	pending := ok && newest.Pending && (!r.core.Leading() || r.core.Committed() < r.core.Base())
	rec := r.published(key)
	if rec.kind == put && !pending {
		if r.core.Leading() && r.core.Epoch() == w.entry(r.id).Epoch {
			r.answered(key, known, rec)
		}
		return
	}
	r.catchUp(func() { r.answered(key, known, r.published(key)) })
}

// published is what the log shows of a key, zero for nothing.
func (r *run) published(key volume.Key) record {
	n, err := r.log.Get(key, cookie(key), r.node.now(), false)
	switch {
	case errors.Is(err, volume.ErrNotFound), r.node.dying:
		return record{}
	case err != nil:
		r.node.w.fail("%s: get key %d: %v", r, key, err)
		return record{}
	}
	defer n.Release()
	return record{key, binary.BigEndian.Uint32(n.Data), put}
}

// catchUp calls done when everything acknowledged before the call is committed
// here, by the word of the primary.
func (r *run) catchUp(done func()) {
	e, epoch := r.core.Entry(), r.core.Epoch()
	if r.core.Leading() {
		r.confirm(r.core.Base(), done)
		return
	}
	if _, ok := r.core.Following(); !ok || !slices.Contains(e.InSync, r.self) {
		return
	}
	there := r.node.w.node(e.Primary)
	r.node.carry(e.Primary, func() {
		there.after(0, func() {
			if p := there.running[r.id]; p != nil && p.core.Leading() && p.core.Epoch() == epoch && slices.Contains(p.core.Entry().InSync, r.self) {
				p.confirm(p.core.Base(), func() { p.tell(r, epoch, done) })
			}
		})
	})
}

// tell brings the committed length to a copy that asked for it, unless its epoch has
// passed.
func (r *run) tell(to *run, epoch volume.Epoch, done func()) {
	committed := r.core.Committed()
	if r.core.Epoch() != epoch {
		return
	}
	r.node.carry(to.node.id, func() {
		to.node.after(0, func() {
			if to.node.running[to.id] != to {
				return
			}
			if _, ok := to.core.Following(); !ok || to.core.Epoch() != epoch {
				return
			}
			to.core.Told(committed)
			to.effects()
			if to.core.Committed() >= committed {
				done()
			}
		})
	})
}

// wake answers what may be answered by now.
func (r *run) wake() {
	if r.node.dying {
		return
	}
	w, committed := r.node.w, r.core.Committed()
	w.checkCopy(r.node, r.id, r)
	for len(r.writes) > 0 && r.writes[0].end <= committed {
		w.acknowledged(r.id, r.writes[0])
		r.writes = r.writes[1:]
	}
	r.reads = slices.DeleteFunc(r.reads, func(q *read) bool {
		if q.need > committed || !r.core.Confirmed(q.barrier) {
			return false
		}
		q.done()
		return true
	})
}

// expire gives up what has waited too long: nobody knows how it ended.
func (r *run) expire() {
	late := func(began time.Duration) bool { return r.node.w.now-began > giveUp }
	r.writes = slices.DeleteFunc(r.writes, func(o *op) bool { return late(o.began) })
	r.reads = slices.DeleteFunc(r.reads, func(q *read) bool { return late(q.began) })
}
