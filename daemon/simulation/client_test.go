package simulation

import (
	"slices"
	"time"

	"weedd/volume"
	"weedd/volume/replica"
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
	volumes := w.catalog().Volumes()
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
	o := &op{id: c.ops, key: key, kind: kind, began: r.node.w.now}
	r.enqueue(job{
		func() bool {
			if r.core.Writable() != nil || r.disk.failed {
				return false
			}
			r.disk.append(record{o.key, o.id, o.kind}.bytes())
			o.end, o.generation = r.disk.end(), r.disk.generation
			r.core.Appended(o.end)
			r.writes = append(r.writes, o)
			return true
		},
		func() bool {
			upto := r.disk.end()
			if !r.fsync() {
				return false
			}
			r.core.Synced(upto)
			return true
		},
	})
	return o
}

// read looks a key up in the log, pending records included, as decisions of the
// writer do.
func (r *run) read(key volume.Key) *read {
	if !r.core.Leading() {
		return nil
	}
	rec, end := latest(r.disk.data, key)
	known, generation := r.node.w.truths[r.id].known[key], r.disk.generation
	q := r.confirm(end, func() { r.node.w.answered(r.id, key, known, place{generation, end}, rec) })
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

// get reads a file as clients do, at any copy. What is committed here is shown at
// once, though it may be old when this copy is cut off; by the primary it may not
// be. A miss is told only when nothing acknowledged is missing here.
func (r *run) get(key volume.Key) {
	if r.disk.beforeSwitch != nil {
		return // a real store goes on with the old files; here there are only the new
	}
	known := r.node.w.truths[r.id].known[key]
	rec, end := latest(r.disk.data[:max(r.core.Committed(), replica.Origin)], key)
	_, newest := latest(r.disk.data, key)
	pending := newest > r.core.Committed() && (!r.core.Leading() || r.core.Committed() < r.core.Base())
	if rec.kind == put && !pending {
		if r.core.Leading() && r.core.Epoch() == r.node.w.entry(r.id).Epoch {
			r.node.w.answered(r.id, key, known, place{r.disk.generation, end}, rec)
		}
		return
	}
	r.catchUp(func() {
		rec, end := latest(r.disk.data[:max(r.core.Committed(), replica.Origin)], key)
		r.node.w.answered(r.id, key, known, place{r.disk.generation, end}, rec)
	})
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
	w, there := r.node.w, r.node.w.node(e.Primary)
	w.carry(r.node.id, e.Primary, func() {
		there.after(0, func() {
			if p := there.running[r.id]; p != nil && p.core.Leading() && p.core.Epoch() == epoch && slices.Contains(p.core.Entry().InSync, r.self) {
				p.confirm(p.core.Base(), func() { p.tell(r, epoch, done) })
			}
		})
	})
}

// tell brings the committed length to a copy that asked for it.
func (r *run) tell(to *run, epoch volume.Epoch, done func()) {
	committed := r.core.Committed()
	r.node.w.carry(r.node.id, to.node.id, func() {
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
	w, committed := r.node.w, r.core.Committed()
	w.checkCopy(r.node, r.id, r)
	for len(r.writes) > 0 && r.writes[0].end <= committed {
		w.acknowledged(r.id, r.writes[0], r.writes[0].end)
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
