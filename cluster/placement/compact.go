package placement

import (
	"cmp"
	"slices"

	"weedd/volume"
)

// Garbage is the share of the bytes of a volume that are of files replaced or
// deleted since, as its primary reports it, from 0 to 1.
func (vol *Volume) Garbage() float64 {
	r := vol.report(vol.Entry.Primary)
	if r == nil || r.Size <= 0 {
		return 0
	}
	return min(float64(r.DeletedB)/float64(r.Size), 1)
}

// Compactable lists the volumes that have garbage, at least that share of it, and
// may be compacted now, those with most garbage first. All copies asked for must
// be in sync, there, well, and of one mind about the epoch, and nobody may be
// joining: a copy that is left out has to be copied whole (rule R13).
func Compactable(v View, share float64) []Volume {
	s := newSites(v)
	var out []Volume
	for i := range v.Volumes {
		if vol := &v.Volumes[i]; vol.Garbage() >= share && vol.Garbage() > 0 && vol.restful(s) {
			out = append(out, *vol)
		}
	}
	slices.SortFunc(out, func(a, b Volume) int {
		return cmp.Or(-cmp.Compare(a.Garbage(), b.Garbage()), cmp.Compare(a.Entry.Volume, b.Entry.Volume))
	})
	return out
}

// restful reports whether all copies wanted are there and at rest.
func (vol *Volume) restful(s *sites) bool {
	e := vol.Entry
	if e.Unsure || e.State != volume.StateOpen && e.State != volume.StateFull || len(e.Joining) > 0 || len(e.InSync) < e.Spec.Placement.Copies() {
		return false
	}
	for _, h := range e.InSync {
		n, r := s.byID[h.Node], vol.report(h.Node)
		if n == nil || !n.Alive || !vol.healthy(h) || r.Epoch != e.Epoch || r.Generation != e.Generation || r.Compacting {
			return false
		}
	}
	return vol.report(e.Primary).Leads
}
