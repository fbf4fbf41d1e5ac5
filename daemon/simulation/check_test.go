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
	log        []byte            // of the generation
	past       map[uint32][]byte // the logs of the generations before it, as they ended
	acked      int64             // everything before is acknowledged, or precedes something that is
	acks       map[place]uint32

	// Records are told apart by the order in which they were committed: offsets
	// change with the generation.
	order map[uint32]int     // of an operation
	known map[volume.Key]int // of the newest record of a key that a client knows of
	gone  map[volume.Key]int // of the deletion of a key that a compaction left out
}

// place is the end of a record in the log of a generation.
type place struct {
	generation uint32
	end        int64
}

func newTruth() *truth {
	return &truth{log: make([]byte, replica.Origin), past: map[uint32][]byte{}, acked: replica.Origin, acks: map[place]uint32{},
		order: map[uint32]int{}, known: map[volume.Key]int{}, gone: map[volume.Key]int{}}
}

// of gives the log of a generation, nil when there is none yet.
func (t *truth) of(generation uint32) []byte {
	if generation == t.generation {
		return t.log
	}
	return t.past[generation]
}

// agrees gives how much of d is the beginning of the truth.
func (t *truth) agrees(d *disk) int64 {
	log := t.of(d.generation)
	for d.agreed < min(len(d.data), len(log)) && d.data[d.agreed] == log[d.agreed] {
		d.agreed++
	}
	return int64(d.agreed)
}

// has gives how much of the truth d has durably, in the new files if those are
// the ones that e means.
func (t *truth) has(d *disk, e *volume.Entry) int64 {
	p := d.prepared
	switch {
	case d.generation == t.generation:
		return min(t.agrees(d), int64(d.synced))
	case d.generation+1 != t.generation || p == nil || !p.ready || d.preparedLoose || p.what.Epoch+1 != e.Compacted || !bytes.HasPrefix(t.log, p.data):
		return 0
	}
	return int64(len(p.data))
}

// append takes records for committed.
func (t *truth) append(b []byte) {
	for off := 0; off < len(b); off += recordSize {
		t.order[parse(b[off:]).op] = len(t.order) + 1
	}
	t.log = append(t.log, b...)
}

// compacted is called when the masters have decided that e has new files. Every
// copy in sync must have them, and they must hold all that was ever committed.
func (w *world) compacted(e *volume.Entry) {
	t := w.truths[e.Volume]
	var what *prepared
	for _, h := range e.InSync {
		d := w.node(h.Node).disks[e.Volume]
		if d == nil || d.copy != h.Copy || d.spoiled {
			continue
		}
		p := d.prepared
		if d.generation != t.generation || p == nil || !p.ready || d.preparedLoose || p.what.Epoch+1 != e.Epoch || p.what.Generation != e.Generation {
			w.fail("R13: generation %d of volume %d is decided, and copy %d on node %s, of generation %d, has these files ready: %+v, loose %v", e.Generation, e.Volume, h.Copy, h.Node, d.generation, p, d.preparedLoose)
			return
		}
		what = p
		if log := compacted(t.log, p.what.At); !bytes.Equal(p.data, log) {
			w.fail("R13: copy %d on node %s has %d bytes ready for generation %d of volume %d; they should be %d", h.Copy, h.Node, len(p.data), e.Generation, e.Volume, len(log))
			return
		}
	}
	if what == nil {
		return // no copy is left, and none can lead
	}
	w.compactions++
	for off := int64(replica.Origin); off < what.what.At; off += recordSize {
		if r := parse(t.log[off:]); r.kind == del {
			t.gone[r.key] = max(t.gone[r.key], t.order[r.op])
		}
	}
	t.past[t.generation] = t.log
	t.generation, t.log, t.acked = e.Generation, bytes.Clone(what.data), int64(len(what.data))
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
	if r.disk.beforeSwitch != nil {
		return // between two generations: the core hears of it with the next step
	}
	if st := r.core.Durable(); st > int64(r.disk.synced) {
		w.fail("R5: node %s claims %d bytes of volume %d durable, and %d are", n.id, st, id, r.disk.synced)
		return
	}
	if committed > r.disk.end() {
		w.fail("R11: node %s cut volume %d to %d, below %d committed", n.id, id, r.disk.end(), committed)
		return
	}
	if d := r.disk; d.generation != t.generation {
		if log := t.of(d.generation); log == nil || committed > int64(len(log)) {
			w.fail("R13: node %s has committed %d bytes of generation %d of volume %d, which is at generation %d", n.id, committed, d.generation, id, t.generation)
			return
		}
	} else if committed > int64(len(t.log)) {
		from := int64(len(t.log))
		if !bytes.Equal(t.log, r.disk.data[:from]) {
			w.fail("R12: node %s committed %d bytes of volume %d on top of others than the truth", n.id, committed, id)
			return
		}
		t.append(r.disk.data[from:committed])
	}
	if at := t.agrees(r.disk); at < committed {
		w.fail("node %s has other committed bytes of volume %d at offset %d (of %d) than were committed before", n.id, id, at, committed)
	}
}

// checkInSync looks at what may lead next: every copy in sync by the newest
// entry has all that was acknowledged. A copy whose disk is gone cannot lead.
func (w *world) checkInSync(e *volume.Entry) {
	t := w.truths[e.Volume]
	for _, h := range e.InSync {
		n := w.node(h.Node)
		if _, made := n.made[h.Copy]; !made && e.State != volume.StateNew {
			w.fail("R6: copy %d on node %s counts as in sync at epoch %d of volume %d and was never made", h.Copy, h.Node, e.Epoch, e.Volume)
			return
		}
		d := n.disks[e.Volume]
		if d == nil || d.copy != h.Copy || d.spoiled {
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
func (w *world) acknowledged(id volume.ID, o *op, end int64) {
	t := w.truths[id]
	w.acks++
	at := place{o.generation, end}
	if other, ok := t.acks[at]; ok && other != o.id {
		w.fail("R8: operations %d and %d of volume %d are both acknowledged at offset %d", other, o.id, id, end-recordSize)
		return
	}
	t.acks[at] = o.id
	if o.generation == t.generation {
		t.acked = max(t.acked, end)
	}
	t.known[o.key] = max(t.known[o.key], t.order[o.id])
	if log := t.of(o.generation); end > int64(len(log)) || parse(log[end-recordSize:end]) != (record{o.key, o.id, o.kind}) {
		w.fail("R12: operation %d of volume %d was acknowledged at offset %d without being committed", o.id, id, end-recordSize)
	}
}

// answered notes that a client was shown the state of a key at d: the record that
// ends at end, or nothing if end is 0. began is the order of the newest record
// that clients knew of when they asked.
func (w *world) answered(id volume.ID, key volume.Key, began int, at place, rec record) {
	t := w.truths[id]
	shown, committed := t.gone[key], true
	if at.end > 0 {
		shown, committed = t.order[rec.op]
	}
	if !committed {
		w.fail("R12: a read of key %d of volume %d shows a record that is not committed", key, id)
		return
	}
	if shown < began {
		w.fail("R12: a read of key %d of volume %d shows record %d; record %d was acknowledged before", key, id, shown, began)
		return
	}
	t.known[key] = max(t.known[key], shown)
	if at.generation == t.generation {
		t.acked = max(t.acked, at.end) // it was shown, so it must last
	}
}
