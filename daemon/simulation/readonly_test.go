package simulation

import (
	"weedd/cluster/placement"
	"weedd/volume"
)

// mark is what an operator does at any moment: a volume takes no writes, or takes them
// again. In the end all do.
func (l *leader) mark(e volume.Entry) (next volume.Entry, ok bool) {
	stop := l.w.client.stop
	switch held := e.State == volume.StateReadOnly; {
	case held && !stop && l.w.chance(0.9), !held && (stop || l.w.chance(0.98)):
		return e, false
	case held && e.Adopted():
		e.State = volume.StateFull
	case held:
		e.State = volume.StateOpen
	default:
		e.State = volume.StateReadOnly
	}
	return e, true
}

// frozen is a volume of which an operator was told that it changes no more.
type frozen struct {
	told       bool
	generation uint32
	end        int64
}

// obeyed notes what an operator is told after a report.
func (l *leader) obeyed(node volume.NodeID, c volume.CopyReport) {
	e := l.w.entry(c.Volume)
	t := l.w.truths[c.Volume]
	if t == nil || t.frozen.told || e.State != volume.StateReadOnly || e.Primary != node || c.State != volume.CopyHealthy {
		return
	}
	vol := placement.Volume{Entry: &e, Copies: []placement.Copy{{Node: node, Report: &c}}}
	if vol.Obeys() == "" {
		t.frozen = frozen{true, c.Generation, c.Size}
		l.w.freezes++
	}
}

// thaw forgets what an operator was told once the entry says otherwise.
func (t *truth) thaw(e *volume.Entry) {
	if e.State != volume.StateReadOnly {
		t.frozen = frozen{}
	}
}

// still fails the world if o is stored in a volume of which an operator was told that
// it changes no more.
func (w *world) still(id volume.ID, o *op) {
	if f := w.truths[id].frozen; f.told && (o.generation != f.generation || o.end > f.end) {
		w.fail("operation %d of volume %d was acknowledged up to offset %d, though an operator had been told that it ends at %d", o.id, id, o.end, f.end)
	}
}
