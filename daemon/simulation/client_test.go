package simulation

import (
	"slices"
	"time"

	"weedd/volume"
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
}

// read is a question for the newest state of a key. It waits until the copy is
// sure that it still leads, and that what it shows is committed (rule R12).
type read struct {
	key     volume.Key
	atLeast int64 // what was known of the key when it began
	shows   int64 // end of the record found
	barrier uint64
	began   time.Duration
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
			o.end = r.disk.end()
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

// read looks a key up in the log, pending records included.
func (r *run) read(key volume.Key) *read {
	w := r.node.w
	if !r.core.Leading() {
		return nil
	}
	_, end := latest(r.disk.data, key)
	q := &read{key: key, atLeast: w.truths[r.id].known[key], shows: end, barrier: r.core.Barrier(), began: w.now}
	r.reads = append(r.reads, q)
	r.effects()
	return q
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
		if q.shows > committed || !r.core.Confirmed(q.barrier) {
			return false
		}
		w.answered(r.id, q.key, q.atLeast, q.shows)
		return true
	})
}

// expire gives up what has waited too long: nobody knows how it ended.
func (r *run) expire() {
	late := func(began time.Duration) bool { return r.node.w.now-began > giveUp }
	r.writes = slices.DeleteFunc(r.writes, func(o *op) bool { return late(o.began) })
	r.reads = slices.DeleteFunc(r.reads, func(q *read) bool { return late(q.began) })
}
