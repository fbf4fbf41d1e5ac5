package simulation

import (
	"bytes"

	"weedd/volume"
	"weedd/volume/replica"
)

// truth is what a volume holds, as far as anybody was ever told that it is
// committed. It only grows.
type truth struct {
	log   []byte
	acked int64 // everything before is acknowledged, or precedes something that is
	acks  map[int64]uint32
	known map[volume.Key]int64 // the end of the newest record of a key that a client knows of
}

func newTruth() *truth {
	return &truth{log: make([]byte, replica.Origin), acked: replica.Origin, acks: map[int64]uint32{}, known: map[volume.Key]int64{}}
}

// agrees gives how much of d is the beginning of the truth.
func (t *truth) agrees(d *disk) int64 {
	for d.agreed < min(len(d.data), len(t.log)) && d.data[d.agreed] == t.log[d.agreed] {
		d.agreed++
	}
	return int64(d.agreed)
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
	if st := r.core.Durable(); st > int64(r.disk.synced) {
		w.fail("R5: node %s claims %d bytes of volume %d durable, and %d are", n.id, st, id, r.disk.synced)
		return
	}
	if committed > r.disk.end() {
		w.fail("R11: node %s cut volume %d to %d, below %d committed", n.id, id, r.disk.end(), committed)
		return
	}
	if committed > int64(len(t.log)) {
		from := int64(len(t.log))
		if !bytes.Equal(t.log, r.disk.data[:from]) {
			w.fail("R12: node %s committed %d bytes of volume %d on top of others than the truth", n.id, committed, id)
			return
		}
		t.log = append(t.log, r.disk.data[from:committed]...)
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
		if d == nil || d.copy != h.Copy {
			continue
		}
		if has := min(t.agrees(d), int64(d.synced)); has < t.acked {
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
	if other, ok := t.acks[end]; ok && other != o.id {
		w.fail("R8: operations %d and %d of volume %d are both acknowledged at offset %d", other, o.id, id, end-recordSize)
		return
	}
	t.acks[end] = o.id
	t.acked = max(t.acked, end)
	t.known[o.key] = max(t.known[o.key], end)
	if end > int64(len(t.log)) || parse(t.log[end-recordSize:end]) != (record{o.key, o.id, o.kind}) {
		w.fail("R12: operation %d of volume %d was acknowledged at offset %d without being committed", o.id, id, end-recordSize)
	}
}

// answered notes that a client was shown the state of a key: the record that
// ends at end, or nothing if end is 0.
func (w *world) answered(id volume.ID, key volume.Key, began, end int64) {
	t := w.truths[id]
	if end < began {
		w.fail("R12: a read of key %d of volume %d shows the record that ends at %d; the one at %d was acknowledged before", key, id, end, began)
		return
	}
	if end > int64(len(t.log)) {
		w.fail("R12: a read of key %d of volume %d shows a record that is not committed", key, id)
		return
	}
	t.known[key] = max(t.known[key], end)
	t.acked = max(t.acked, end) // it was shown, so it must last
}
