package leader

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"weedd/cluster"
	"weedd/cluster/catalog"
	"weedd/cluster/placement"
	"weedd/volume"
)

// adoptAtOnce bounds the adoptions that one round begins: each is a command of
// its own, and thousands must not hold the round up.
const adoptAtOnce = 50

// adopt begins the adoption of foreign volumes (rules R15, R16) and reports
// whether it did. What is not adopted is logged when the reason changes.
func (t *term) adopt(view placement.View, now time.Time) (done bool) {
	if len(view.Strays) == 0 && len(t.seen) == 0 {
		return false
	}
	t.lookAtForeign(view, now)
	kept := map[volume.ID]string{}
	begun := 0
	for _, a := range placement.Adoptions(view, func(id volume.ID) time.Duration { return now.Sub(t.seen[id]) }, t.opt.Placement) {
		switch {
		case a.Adopt == nil:
			kept[a.Volume] = a.Problem
		case begun < adoptAtOnce && t.mayAdopt(a.Adopt, now):
			begun++
			if err := t.proposeAdopt(a.Adopt); err != nil {
				kept[a.Volume] = err.Error()
				continue
			}
			done = true
		}
	}
	t.mu.Lock()
	was := t.kept
	t.kept = kept
	t.mu.Unlock()
	for id, why := range kept {
		if was[id] != why {
			t.log.Warn("files of SeaweedFS are not adopted", "volume", id, "reason", why)
		}
	}
	return done
}

// mayAdopt reports whether it is time for an adoption. The first is begun at once;
// one that is planned anew waits, longer each time.
func (t *term) mayAdopt(cmd *catalog.Adopt, now time.Time) bool {
	a, again := t.joined[cmd.Volume]
	if again && now.Sub(a.last) < a.pause {
		return false
	}
	if cmd.Version != 0 {
		t.joined[cmd.Volume] = a.next(now, joinPause, joinPauseMost, "")
	}
	return true
}

// lookAtForeign notes since when foreign volumes are seen.
func (t *term) lookAtForeign(view placement.View, now time.Time) {
	here := map[volume.ID]bool{}
	for _, s := range view.Strays {
		if id := s.Report.Volume; s.Report.Copy == 0 {
			here[id] = true
			if t.seen[id].IsZero() {
				t.seen[id] = now
			}
		}
	}
	maps.DeleteFunc(t.seen, func(id volume.ID, _ time.Time) bool { return !here[id] })
}

func (t *term) proposeAdopt(cmd *catalog.Adopt) error {
	if cmd.Holder.Copy == 0 {
		cmd.Holder.Copy = volume.NewCopyID()
	}
	res, err := t.opt.Log.Propose(t.ctx, catalog.Command{Adopt: cmd})
	if err := cmp.Or(err, res.Err); err != nil {
		return err
	}
	t.log.Info("adopting files of SeaweedFS", "volume", cmd.Volume, "collection", cmd.Spec.Collection, "primary", cmd.Holder.Node, "sources", len(cmd.Sources))
	return nil
}

// keptProblems tells an operator what is not adopted, and why.
func (t *term) keptProblems() (out []cluster.ViewProblem) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(t.kept)) {
		out = append(out, warn("volume %d: files of SeaweedFS are served for reads and not adopted: %s", id, t.kept[id]))
	}
	return out
}

// adoptionProblem says how far the adoption of a volume has come.
func adoptionProblem(vol placement.Volume) (cluster.ViewProblem, bool) {
	h := vol.Entry.InSync[0]
	for _, c := range vol.Copies {
		if c.Node == h.Node && c.Report.Copy == h.Copy && c.Report.State != volume.CopyHealthy {
			return fail("volume %d cannot be adopted from files of SeaweedFS: node %s: %s", vol.Entry.Volume, h.Node, c.Report.Reason), true
		}
	}
	return warn("volume %d is being adopted from files of SeaweedFS on node %s", vol.Entry.Volume, h.Node), true
}

// adoptedFrom reports whether the volume that has the number of s is in use, and
// was made from it among others.
func adoptedFrom(cat *catalog.Catalog, s placement.Stray) bool {
	e, ok := cat.Volume(s.Report.Volume)
	return ok && e.State != volume.StateNew && e.From(s.Node, s.Report.Print())
}
