package placement

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"weedd/cluster/catalog"
	"weedd/volume"
)

// Adoption is what is to become of the files that SeaweedFS left of one volume.
type Adoption struct {
	Volume volume.ID
	Adopt  *catalog.Adopt // nil when they stay as they are; the holder's copy id is to be filled in
	// Problem says why they stay as they are, or "" where it is only not yet time.
	Problem string
}

// Adoptions says which foreign volumes to adopt now (rules R15, R16), by rising
// id. Copies on several nodes become one volume, so it waits until as many have
// been reported as their super blocks ask for; waited says how long one was
// seen, and after Settings.AdoptWait those that are there will do.
func Adoptions(v View, waited func(volume.ID) time.Duration, set Settings) []Adoption {
	set = set.WithDefaults()
	p := &plan{sites: newSites(v), set: set}
	known := map[volume.ID]*Volume{}
	for i := range v.Volumes {
		known[v.Volumes[i].Entry.Volume] = &v.Volumes[i]
	}
	found := map[volume.ID]*foreign{}
	for _, s := range v.Strays {
		id := s.Report.Volume
		if found[id] == nil {
			found[id] = &foreign{}
		}
		found[id].add(s)
	}
	for id, vol := range known { // one that could not be adopted is reported under the id it was to have
		for _, c := range vol.Copies {
			if vol.Entry.Adopted() && vol.Entry.State == volume.StateNew && c.Report.Copy != 0 && c.Report.Adoptable {
				if found[id] == nil {
					found[id] = &foreign{}
				}
				found[id].copies = append(found[id].copies, Stray{Node: c.Node, Report: c.Report})
			}
		}
	}
	var out []Adoption
	for id, f := range found {
		if len(f.copies) == 0 && len(f.made) == 0 {
			continue
		}
		a := Adoption{Volume: id}
		a.Adopt, a.Problem = p.adoption(id, f, known[id], waited(id))
		if a.Adopt != nil || a.Problem != "" {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b Adoption) int { return cmp.Compare(a.Volume, b.Volume) })
	return out
}

// foreign is the strays of one volume id.
type foreign struct {
	copies  []Stray // that may be adopted
	made    []Stray // copies of ours that nothing explains
	deleted bool
}

func (f *foreign) add(s Stray) {
	f.deleted = f.deleted || s.Deleted
	switch {
	case s.Report.Copy != 0:
		f.made = append(f.made, s)
	case s.Report.Adoptable:
		f.copies = append(f.copies, s)
	}
}

// adoption decides on one volume id; vol is nil while the catalog has none.
func (p *plan) adoption(id volume.ID, f *foreign, vol *Volume, waited time.Duration) (*catalog.Adopt, string) {
	f.copies = slices.DeleteFunc(f.copies, p.left)
	switch {
	case p.set.KeepForeign:
		return nil, ""
	case vol != nil && vol.Entry.Adopted() && vol.Entry.State == volume.StateNew && slices.ContainsFunc(f.made, p.of(vol.Entry)):
		return p.finished(f, vol), ""
	case len(f.copies) == 0:
		return nil, ""
	case id > catalog.LastAdopted:
		return nil, fmt.Sprintf("numbers above %d are not adopted", catalog.LastAdopted)
	case f.deleted:
		return nil, "a volume of this number was deleted in this cluster"
	case vol == nil && len(f.made) > 0:
		return nil, "another node has a copy of this number that weedd made, which is not in the catalog"
	case vol != nil && !vol.Entry.Adopted():
		return nil, "the cluster has another volume of this number"
	case vol != nil && vol.Entry.State != volume.StateNew:
		return nil, f.late(vol.Entry)
	}
	base := f.base()
	for _, s := range f.copies {
		if why := unlike(base.Report, s.Report); why != "" {
			return nil, fmt.Sprintf("the files on nodes %s and %s differ in their %s", base.Node, s.Node, why)
		}
		if n := p.byID[s.Node]; n == nil || !n.Ready {
			return nil, "" // it will be, or be gone
		}
	}
	cmd := &catalog.Adopt{Volume: id, Spec: base.Report.Spec, Generation: uint32(base.Report.Revision), Holder: volume.Holder{Node: base.Node}}
	for _, s := range f.copies {
		cmd.Sources = append(cmd.Sources, volume.Source{Node: s.Node, Print: s.Report.Print()})
		cmd.MaxKey = max(cmd.MaxKey, s.Report.MaxKey)
	}
	if vol != nil {
		if !p.stuck(vol) || f.same(vol.Entry) && !vol.lost(vol.Entry.InSync[0]) {
			return nil, ""
		}
		cmd.Version = vol.Entry.Version
		return cmd, ""
	}
	if len(f.copies) < cmd.Spec.Placement.Copies() && waited < p.set.AdoptWait {
		return nil, ""
	}
	return cmd, ""
}

// left reports whether the node of s has been away for so long that its copy is
// not waited for. Should it come back, that copy comes to light late.
func (p *plan) left(s Stray) bool {
	return p.overdue(volume.Holder{Node: s.Node})
}

// of reports whether a copy was made of what e is to be adopted from, and its node
// is there, or may come back. No other one is waited for: e does without it.
func (p *plan) of(e *volume.Entry) func(Stray) bool {
	return func(s Stray) bool { return source(e, s.Node) >= 0 && !p.left(s) }
}

// source is the place in e.Sources of what is on node, or -1.
func source(e *volume.Entry, node volume.NodeID) int {
	return slices.IndexFunc(e.Sources, func(s volume.Source) bool { return s.Node == node })
}

// finished plans an adoption anew with a copy that was made by order of an entry
// that was replaced in that moment: its node cannot make another one, for the
// files there are ours now. Which files of other nodes are in it is not known, so
// those stay where they are.
func (p *plan) finished(f *foreign, vol *Volume) *catalog.Adopt {
	e := vol.Entry
	for _, s := range f.made {
		own := source(e, s.Node)
		if own < 0 || s.Report.State != volume.CopyHealthy || !p.alive(volume.Holder{Node: s.Node}) {
			continue
		}
		if s.Node != e.InSync[0].Node && !p.stuck(vol) {
			continue // who is to make the copy may be about to
		}
		return &catalog.Adopt{Volume: e.Volume, Version: e.Version, Spec: e.Spec, Generation: uint32(s.Report.Revision),
			Holder: volume.Holder{Node: s.Node, Copy: s.Report.Copy}, Sources: e.Sources[own : own+1], MaxKey: s.Report.MaxKey}
	}
	return nil
}

// base chooses the copy that the others are merged into: the one with the most
// files.
func (f *foreign) base() Stray {
	return slices.MaxFunc(f.copies, func(a, b Stray) int {
		live := func(s Stray) uint64 { return s.Report.Files - s.Report.Deleted }
		return cmp.Or(cmp.Compare(live(a), live(b)), cmp.Compare(a.Report.Size, b.Report.Size), cmp.Compare(b.Node, a.Node))
	})
}

// unlike names what keeps two copies from being merged (rule R16).
func unlike(a, b *volume.CopyReport) string {
	switch {
	case a.Spec.Collection != b.Spec.Collection:
		return "collection"
	case a.Spec.TTL != b.Spec.TTL:
		return "TTL"
	case a.Version != b.Version:
		return "version"
	}
	return ""
}

// stuck reports whether an adoption under way will come to nothing as planned.
func (p *plan) stuck(vol *Volume) bool {
	h := vol.Entry.InSync[0]
	return vol.bad(h) || p.overdue(h)
}

// lost reports whether the copy id of h was used up in vain.
func (vol *Volume) lost(h volume.Holder) bool {
	r := vol.report(h.Node)
	return r != nil && r.Copy == h.Copy && r.State == volume.CopyLost
}

// same reports whether e was planned on these copies.
func (f *foreign) same(e *volume.Entry) bool {
	for _, s := range f.copies {
		if !e.From(s.Node, s.Report.Print()) {
			return false
		}
	}
	return len(f.copies) == len(e.Sources)
}

// late says which copies were not there when e was adopted.
func (f *foreign) late(e *volume.Entry) string {
	for _, s := range f.copies {
		if !e.From(s.Node, s.Report.Print()) {
			return fmt.Sprintf("the files on node %s came to light after the volume was adopted from other nodes; what only they have is not in it", s.Node)
		}
	}
	return ""
}

// settleAdopted gives an adopted volume free for use, without new ids, once its
// first copy is there. It is never given up: its files are somebody's.
func (p *plan) settleAdopted(vol *Volume) (Step, bool) {
	e := vol.Entry
	if h := e.InSync[0]; !p.alive(h) || !vol.healthy(h) {
		return Step{}, false
	}
	next := *e
	next.State = volume.StateFull
	return Step{Volume: e.Volume, Change: &catalog.Change{Version: e.Version, Next: next}, Reason: "adopted from files of SeaweedFS"}, true
}

// blocked reports whether node has files of the volume that its entry was not
// made from: they are never moved out of the way.
func (p *plan) blocked(node volume.NodeID, e *volume.Entry) bool {
	return slices.ContainsFunc(p.strays[e.Volume], func(s Stray) bool {
		return s.Node == node && s.Report.Copy == 0 && s.Report.Adoptable && !e.From(node, s.Report.Print())
	})
}
