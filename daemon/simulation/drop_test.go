package simulation

import (
	"slices"
	"time"

	"weedd/volume"
	"weedd/volume/server"
)

// dropWait is how long the copies that stay have to answer.
const dropWait = 100 * ms

// drop carries out an order to delete a copy, one at a time, as package server does
// (rule R14).
func (n *node) drop(d volume.Drop) {
	r := n.running[d.Volume]
	if r == nil || r.self.Copy != d.Copy || r.dropping {
		return
	}
	e, known := r.core.Entry(), n.w.history[n.master.applied]
	if other, ok := known.Volume(d.Volume); ok && other.Version > e.Version {
		e = *other
	}
	committed := r.log.Committed()
	sum, err := r.log.Checksum(committed)
	if err != nil {
		return
	}
	s, err := server.NewSparing(d, n.id, e, server.Verification{Generation: r.core.Generation(), Committed: committed, At: committed, Checksum: sum})
	if err != nil {
		return
	}
	r.dropping = true
	for _, h := range s.Ask() {
		answered := false // a call has one answer, however often the network repeats it
		n.askVerification(r, h, committed, func(got server.Verification) {
			if !answered {
				s.Heard(h, got, nil)
			}
			answered = true
		})
	}
	asked := n.w.now
	n.after(dropWait, func() {
		if r.dropping = false; !r.over {
			n.endDrop(r, d, asked, s.Verdict(), e.Version)
		}
	})
}

// askVerification asks another copy what it has.
func (n *node) askVerification(r *run, h volume.Holder, at int64, heard func(server.Verification)) {
	n.carry(h.Node, func() {
		there := n.w.node(h.Node)
		there.after(0, func() {
			other := there.running[r.id]
			if other == nil || other.self != h || other.core.Failure() != nil {
				return
			}
			v := server.Verification{Epoch: other.core.Epoch(), Generation: other.core.Generation(), Committed: other.core.Committed()}
			v.At = min(at, v.Committed)
			var err error
			if v.Checksum, err = other.log.Checksum(v.At); err == nil {
				there.carry(n.id, func() { n.after(0, func() { heard(v) }) })
			}
		})
	})
}

func (n *node) endDrop(r *run, d volume.Drop, asked time.Duration, verdict error, version uint64) {
	h, _, named := r.core.Entry().Holder(n.id)
	switch {
	case named && h.Copy == d.Copy && r.core.Entry().Epoch >= d.Epoch:
		return // an entry names it again
	case verdict != nil && !server.OtherBytes(verdict):
		return
	}
	n.w.checkDrop(r, d.Keep, asked, verdict == nil)
	n.close(d.Volume)
	n.gave[d.Volume] = n.w.now
	end := func() error { return r.disk.store.Remove(d.Volume, d.Copy) }
	if verdict != nil {
		end = func() error { return r.disk.store.SetAsideCopy(d.Volume, d.Copy, verdict.Error()) }
	}
	if err := end(); err != nil {
		n.w.trace("%s does not drop copy %d of v%d: %v", n.id, d.Copy, d.Volume, err)
		return
	}
	n.w.trace("%s drops copy %d of v%d, kept aside: %v", n.id, d.Copy, d.Volume, verdict)
	n.w.drops++
	if err := n.ledger.Forget(d.Volume, version, 0); err != nil {
		n.w.trace("%s: %v", n.id, err)
	}
}

// checkDrop looks at a copy that is about to be dropped: nobody counts on it, and
// as many of those that stay as the placement asks for have all that is committed
// in it. One that has lost its disk, could not sync, or left the set and was dropped
// or replaced, since they were asked may have had it then.
func (w *world) checkDrop(r *run, keep []volume.Holder, asked time.Duration, deleted bool) {
	e, t := w.entry(r.id), w.truths[r.id]
	if slices.Contains(slices.Concat(e.InSync, e.Joining), r.self) {
		w.fail("R14: %s is dropped, and %s", r, show(e))
		return
	}
	if !deleted || r.core.Generation() != t.generation {
		return
	}
	have := 0
	for _, h := range keep {
		there := w.node(h.Node)
		d, gave := there.disks[r.id], there.gave[r.id]
		switch {
		case there.mishap >= asked, gave > 0 && gave >= asked:
			have++
		case h != r.self && d.holds(h.Copy) && t.has(d, &e) >= r.log.Committed():
			have++
		}
	}
	if have < e.Spec.Placement.Copies() {
		w.fail("R14: %s is dropped, and %d copies have its bytes: %s", r, have, show(e))
	}
}

// strays are the running copies that the newest entries do not name.
func (w *world) strays() (out []*run) {
	for _, n := range w.nodes {
		for id, r := range n.running {
			if e := w.entry(id); !slices.Contains(slices.Concat(e.InSync, e.Joining), r.self) {
				out = append(out, r)
			}
		}
	}
	return out
}

// noStrays waits until no copy is left that nobody wants.
func (w *world) noStrays() {
	w.until(10*time.Second, "surplus copies dropped", func() bool {
		return !slices.ContainsFunc(w.strays(), func(r *run) bool { return !w.hopeless(r.id) })
	})
}
