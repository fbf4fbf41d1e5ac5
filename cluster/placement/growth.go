package placement

import (
	"cmp"
	"slices"

	"weedd/volume"
)

// Demand counts the volumes of one spec that are, or are about to be, given
// new ids.
type demand struct {
	whole    int // open, all copies there are asked for, alive and in sync
	writable int // open, at least as many as are needed to write
	coming   int // new
}

// Growth says which volumes to make ahead of need: a spec that is in use has
// Settings.Grow writable volumes, and gets new ones when fewer than half of
// them are whole, because some are full or because nodes are away. Where whole
// ones cannot be made now, one that can be written will do. At most half of the
// free slots are taken, so that one collection does not starve the next.
func Growth(v View, set Settings) []GrowRequest {
	set = set.WithDefaults()
	c := newSites(v)
	use := map[volume.Spec]*demand{}
	for i := range v.Volumes {
		e := v.Volumes[i].Entry
		if e.Adopted() {
			continue // nobody has asked for new files of that kind yet
		}
		d := use[e.Spec]
		if d == nil {
			d = &demand{}
			use[e.Spec] = d
		}
		switch writable, whole := c.usable(&v.Volumes[i]); {
		case e.State == volume.StateNew && !e.Unsure:
			d.coming++
		case whole:
			d.whole++
			fallthrough
		case writable:
			d.writable++
		}
	}
	var out []GrowRequest
	for spec, d := range use {
		if n := c.wanted(spec, *d, set); n > 0 {
			out = append(out, GrowRequest{Spec: spec, Count: n})
		}
	}
	slices.SortFunc(out, func(a, b GrowRequest) int {
		return cmp.Or(cmp.Compare(a.Spec.Collection, b.Spec.Collection), cmp.Compare(a.Spec.Placement, b.Spec.Placement),
			cmp.Compare(a.Spec.TTL.String(), b.Spec.TTL.String()), cmp.Compare(a.Spec.Disk, b.Spec.Disk))
	})
	return out
}

// wanted is how many volumes of spec to make now.
func (c *sites) wanted(spec volume.Spec, d demand, set Settings) int {
	target := set.target(spec)
	nodes, err := c.choose(GrowRequest{Spec: spec})
	switch {
	case err != nil:
		return 0
	case len(nodes) < spec.Placement.Copies(): // nodes are away
		if d.writable+d.coming > 0 {
			return 0
		}
		return 1
	case d.whole+d.coming >= (target+1)/2:
		return 0
	}
	return min(target-d.whole-d.coming, c.affordable(spec))
}

// affordable is how many volumes of spec fit half of the free slots, at least 1.
func (c *sites) affordable(spec volume.Spec) int {
	free := 0
	for _, s := range c.all {
		if s.open() {
			free += max(0, s.free[spec.Disk])
		}
	}
	return max(1, free/2/spec.Placement.Copies())
}

// OnDemand is how many volumes to make when a request found none to write to
// and named no number.
func OnDemand(v View, spec volume.Spec, set Settings) int {
	set = set.WithDefaults()
	return min(set.target(spec), newSites(v).affordable(spec))
}

// usable reports whether new ids may be given out in a volume now, and whether
// all its copies are there.
func (c *sites) usable(vol *Volume) (writable, whole bool) {
	e := vol.Entry
	if e.State != volume.StateOpen || e.Unsure {
		return false, false
	}
	for _, h := range e.InSync {
		if s := c.byID[h.Node]; s == nil || !s.Alive || vol.bad(h) {
			return false, false // a write would wait for it
		}
	}
	n := len(e.InSync)
	return n >= e.Spec.Placement.MinCopies(), n >= e.Spec.Placement.Copies()
}

// Writable lists the open volumes of view that can be given new ids now and
// whose primary is where req asks for it, by rising id.
func Writable(v View, req GrowRequest) []*volume.Entry {
	c := newSites(v)
	var out []*volume.Entry
	for i := range v.Volumes {
		e := v.Volumes[i].Entry
		if e.Spec != req.Spec {
			continue
		}
		if ok, _ := c.usable(&v.Volumes[i]); ok && req.allows(c.byID[e.Primary]) {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b *volume.Entry) int { return cmp.Compare(a.Volume, b.Volume) })
	return out
}

// Coming lists the volumes in StateNew that will serve req, by rising id.
func Coming(v View, req GrowRequest) []*volume.Entry {
	c := newSites(v)
	var out []*volume.Entry
	for i := range v.Volumes {
		e := v.Volumes[i].Entry
		if s := c.byID[e.Primary]; e.State == volume.StateNew && !e.Unsure && !e.Adopted() && e.Spec == req.Spec && s != nil && req.allows(s) {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b *volume.Entry) int { return cmp.Compare(a.Volume, b.Volume) })
	return out
}
