package simulation

import (
	"bytes"

	"weedd/volume"
	"weedd/volume/replica"
)

// truth is what a volume holds, as far as anybody was ever told that it is
// committed. It only grows.
type truth struct {
	generation uint32
	log        []byte            // of the generation; its super block is nobody's
	past       map[uint32][]byte // the logs of the generations before it, as they ended
	acked      int64             // everything before is acknowledged, or precedes something that is
	acks       map[place]uint32

	// Records are told apart by the order in which they were committed: offsets
	// change with the generation.
	order     map[uint32]int       // of an operation
	ends      map[uint32]int64     // of its record in log
	known     map[volume.Key]int   // of the newest record of a key that a client knows of
	deletions map[volume.Key][]int // of a key

	frozen   frozen
	adopting bool                   // it is being made from files of SeaweedFS: nothing of it is decided
	members  map[volume.Holder]bool // copies that it ever had
}

// place is the end of a record in the log of a generation.
type place struct {
	generation uint32
	end        int64
}

func newTruth() *truth {
	return &truth{log: make([]byte, replica.Origin), past: map[uint32][]byte{}, acked: replica.Origin, acks: map[place]uint32{},
		order: map[uint32]int{}, ends: map[uint32]int64{}, known: map[volume.Key]int{}, deletions: map[volume.Key][]int{}, members: map[volume.Holder]bool{}}
}

// of gives the log of a generation, nil when there is none yet.
func (t *truth) of(generation uint32) []byte {
	if generation == t.generation {
		return t.log
	}
	return t.past[generation]
}

// files are the newest records that are no deletions.
func (t *truth) files() map[volume.Key]record {
	files := map[volume.Key]record{}
	records(t.log, replica.Origin, func(r record, _, _ int64) {
		if files[r.key] = r; r.kind == del {
			delete(files, r.key)
		}
	})
	return files
}

// agrees gives how much of what is seen of d is the beginning of the truth, and
// how much of what is there of it after any crash.
func (t *truth) agrees(d *disk) (seen, durable int64) {
	s, sure := d.data()
	log := t.of(generation(s))
	same := func(n *int64, dat []byte) int64 {
		end := int64(min(len(dat), len(log)))
		if *n = max(*n, replica.Origin); *n < end && bytes.Equal(dat[*n:end], log[*n:end]) {
			*n = end
		}
		for *n < end && dat[*n] == log[*n] {
			*n++
		}
		return min(*n, int64(len(dat)))
	}
	return same(&d.agreed, s), same(&d.kept, sure)
}

// has gives how much of the truth the copy on d has durably and says that it has,
// in the new files if those are the ones that e means.
func (t *truth) has(d *disk, e *volume.Entry) int64 {
	seen, _ := d.data()
	if generation(seen) == t.generation {
		_, durable := t.agrees(d)
		return min(durable, d.claimed())
	}
	c, dat, ok := d.prepared()
	if generation(seen)+1 != t.generation || !ok || c.Epoch+1 != e.Compacted || len(dat) > len(t.log) || !sameRecords(dat, t.log[:len(dat)]) {
		return 0
	}
	return int64(len(dat))
}

// claimed is how much the copy says is durable: while it runs, and else when it is
// opened.
func (d *disk) claimed() int64 {
	if r := d.node.running[d.id]; r != nil {
		return r.core.Durable()
	}
	return d.volume().Durable()
}

// append takes records for committed.
func (t *truth) append(b []byte) {
	from := int64(len(t.log))
	records(b, 0, func(r record, _, end int64) {
		t.order[r.op], t.ends[r.op] = len(t.order)+1, from+end
		if r.kind == del {
			t.deletions[r.key] = append(t.deletions[r.key], t.order[r.op])
		}
	})
	t.log = append(t.log, b...)
}

// compacted is called when the masters have decided that e has new files. Every
// copy in sync must have them, and they must hold all that was ever committed.
func (w *world) compacted(e *volume.Entry) {
	t := w.truths[e.Volume]
	var what []byte
	for _, h := range e.InSync {
		d := w.node(h.Node).disks[e.Volume]
		if !d.holds(h.Copy) || d.spoiled {
			continue
		}
		seen, _ := d.data()
		c, dat, ok := d.prepared()
		if generation(seen) != t.generation || !ok || c.Epoch+1 != e.Epoch || c.Generation != e.Generation {
			w.fail("R13: generation %d of volume %d is decided, and copy %d on node %s, of generation %d, has these files ready: %+v, %v", e.Generation, e.Volume, h.Copy, h.Node, generation(seen), c, ok)
			return
		}
		what = dat
		if log := compacted(t.log, c.At); !sameRecords(dat, log) {
			w.fail("R13: copy %d on node %s has %d bytes ready for generation %d of volume %d; they should be %d", h.Copy, h.Node, len(dat), e.Generation, e.Volume, len(log))
			return
		}
	}
	if what == nil {
		return // no copy is left, and none can lead
	}
	w.compactions++
	t.past[t.generation] = t.log
	t.generation, t.log, t.acked = e.Generation, bytes.Clone(what), int64(len(what))
	clear(t.ends)
	records(what, replica.Origin, func(r record, _, end int64) { t.ends[r.op] = end })
}

// check looks at everything after an event.
func (w *world) check() {
	for _, e := range w.catalog().Volumes() {
		for _, n := range w.nodes {
			if r := n.running[e.Volume]; r != nil {
				w.checkCopy(n, e.Volume, r)
			}
		}
		w.checkInSync(e)
	}
}

// checkCopy looks at one running copy: what it takes for committed is so
// everywhere, and it claims no more than it has.
func (w *world) checkCopy(n *node, id volume.ID, r *run) {
	t, committed := w.truths[id], r.core.Committed()
	if len(w.origins[id]) > 0 && (t == nil || t.adopting || !t.members[r.self]) {
		return // an adoption that was planned anew in its last moment leaves a copy that nobody wants
	}
	seen, sure := r.disk.data()
	if st := r.core.Durable(); st > int64(len(sure)) && st > replica.Origin {
		w.fail("R5: node %s claims %d bytes of volume %d durable, and %d are", n.id, st, id, len(sure))
		return
	}
	if len(seen) > replica.Origin && len(r.core.Epochs()) == 0 && len(w.origins[id]) == 0 {
		w.fail("R11: node %s has %d bytes of generation %d of volume %d and no epoch that they belong to", n.id, len(seen), generation(seen), id)
		return
	}
	if committed > int64(len(seen)) {
		w.fail("R11: node %s cut volume %d to %d, below %d committed", n.id, id, len(seen), committed)
		return
	}
	if g := generation(seen); g != t.generation {
		if log := t.of(g); committed > replica.Origin && committed > int64(len(log)) {
			w.fail("R13: node %s has committed %d bytes of generation %d of volume %d, which is at generation %d", n.id, committed, g, id, t.generation)
			return
		}
	} else if from := int64(len(t.log)); committed > from {
		if !sameRecords(t.log, seen[:from]) {
			w.fail("R12: node %s committed %d bytes of volume %d on top of others than the truth", n.id, committed, id)
			return
		}
		t.append(seen[from:committed])
	}
	if at, _ := t.agrees(r.disk); at < committed {
		w.fail("node %s has other committed bytes of volume %d at offset %d (of %d) than were committed before", n.id, id, at, committed)
	}
}

// checkInSync looks at what may lead next: every copy in sync by the newest
// entry has all that was acknowledged. A copy whose disk is gone cannot lead.
func (w *world) checkInSync(e *volume.Entry) {
	t := w.truths[e.Volume]
	if t.adopting {
		return
	}
	for _, h := range e.InSync {
		n := w.node(h.Node)
		if !n.ledger.Made(e.Volume, h.Copy) && e.State != volume.StateNew {
			w.fail("R6: copy %d on node %s counts as in sync at epoch %d of volume %d and was never made", h.Copy, h.Node, e.Epoch, e.Volume)
			return
		}
		d := n.disks[e.Volume]
		if !d.holds(h.Copy) || d.spoiled || d.humble && d.volume().Failed() != nil {
			continue
		}
		if has := t.has(d, e); has < t.acked {
			w.fail("R7: copy %d on node %s is in sync at epoch %d of volume %d with %d durable bytes, and %d are acknowledged",
				h.Copy, h.Node, e.Epoch, e.Volume, has, t.acked)
			return
		}
	}
}

// acknowledged notes that a client was told that its operation is done.
func (w *world) acknowledged(id volume.ID, o *op) {
	t := w.truths[id]
	w.acks++
	w.still(id, o)
	at := place{o.generation, o.end}
	if other, ok := t.acks[at]; ok && other != o.id {
		w.fail("R8: operations %d and %d of volume %d are both acknowledged up to offset %d", other, o.id, id, o.end)
		return
	}
	t.acks[at] = o.id
	if o.generation == t.generation {
		t.acked = max(t.acked, o.end)
	}
	t.known[o.key] = max(t.known[o.key], t.order[o.id])
	if log := t.of(o.generation); o.end > int64(len(log)) || !bytes.HasSuffix(log[:o.end], o.record) {
		w.fail("R12: operation %d of volume %d was acknowledged up to offset %d without being committed", o.id, id, o.end)
	}
}

// answered notes that a client was shown a file, or that there is none. began is
// the order of the newest record of the key that clients knew of when they asked.
func (w *world) answered(id volume.ID, key volume.Key, began int, shows record) {
	t := w.truths[id]
	if shows.kind != put {
		w.denied(id, key, began)
		return
	}
	shown, committed := t.order[shows.op]
	if !committed {
		w.fail("R12: a read of key %d of volume %d shows a record that is not committed", key, id)
		return
	}
	if shown < began {
		w.fail("R12: a read of key %d of volume %d shows record %d; record %d was acknowledged before", key, id, shown, began)
		return
	}
	t.known[key] = max(t.known[key], shown)
	t.acked = max(t.acked, t.ends[shows.op]) // it was shown, so it must last
}

// denied notes that a client was told that there is no file: it was never written,
// as far as clients know, or is deleted.
func (w *world) denied(id volume.ID, key volume.Key, began int) {
	t := w.truths[id]
	if began == 0 {
		return
	}
	for _, at := range t.deletions[key] {
		if at >= began {
			t.known[key] = max(t.known[key], at)
			return
		}
	}
	w.fail("R12: a read of key %d of volume %d shows nothing; record %d was acknowledged before, and no later one deletes it", key, id, began)
}
