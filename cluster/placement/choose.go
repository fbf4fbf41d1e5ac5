package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"weedd/volume"
)

// zone is a data centre, or one rack of it.
type zone struct{ dc, rack string }

func (z zone) String() string {
	return fmt.Sprintf("data center %q, rack %q", z.dc, z.rack)
}

// site is a node while places are being chosen.
type site struct {
	Node
	free      map[volume.DiskType]int // slots, less what was promised
	primaries int                     // volumes it leads
	holds     int                     // copies it has
	joining   int                     // copies it is making now
}

func (s *site) zone() zone { return zone{s.DataCenter, s.Rack} }

// room reports whether a new copy may be put there.
func (s *site) room(disk volume.DiskType) bool { return s.open() && s.free[disk] > 0 }

// open reports whether the node takes new copies at all.
func (s *site) open() bool { return s.Ready && !s.Drain.Node }

// sites counts the load of every node of a view. It is what the choices of one
// plan share, so that the second knows of the first.
type sites struct {
	all  []*site // by id
	byID map[volume.NodeID]*site
	seed volume.ID
}

func newSites(v View) *sites {
	c := &sites{byID: map[volume.NodeID]*site{}, seed: volume.ID(len(v.Volumes))}
	for _, n := range v.Nodes {
		s := &site{Node: n, free: map[volume.DiskType]int{}}
		for _, d := range n.Disks {
			if d.Fenced == "" && !d.Missing && !n.Drain.Has(d.Dir) {
				s.free[d.Disk] += d.Max - d.Used
			}
		}
		c.all, c.byID[n.ID] = append(c.all, s), s
	}
	slices.SortFunc(c.all, func(a, b *site) int { return cmp.Compare(a.ID, b.ID) })
	for i := range v.Volumes {
		c.count(&v.Volumes[i])
	}
	return c
}

// count adds one volume to the load of its holders. A copy that is decided but
// not yet reported takes a slot that the disks do not know of.
func (c *sites) count(vol *Volume) {
	e := vol.Entry
	for i, hs := range [][]volume.Holder{e.InSync, e.Joining} {
		for _, h := range hs {
			s := c.byID[h.Node]
			if s == nil {
				continue
			}
			s.holds++
			if i == 1 {
				s.joining++
			}
			if h.Node == e.Primary {
				s.primaries++
			}
			if vol.report(h.Node) == nil {
				s.free[e.Spec.Disk]--
			}
		}
	}
}

// take notes that nodes, the first as primary, are to get a new volume.
func (c *sites) take(nodes []volume.NodeID, disk volume.DiskType) {
	c.seed++
	for i, id := range nodes {
		s := c.byID[id]
		s.free[disk]--
		s.holds++
		if i == 0 {
			s.primaries++
		}
	}
}

// Choose picks the nodes for one new volume, the primary first. With placement
// xyz the primary's rack holds 1+z copies, y other racks of its data center
// and x other data centers one each, every one on another node. The primary is
// where req says, on the node that leads least, the others on the nodes that
// hold least.
//
// When that fails only because nodes are away, fewer nodes are answered, but no
// fewer than the placement needs to take writes. Otherwise the error is
// volume.ErrNoSpace or volume.ErrUnsatisfiable and says what is missing.
func Choose(v View, req GrowRequest) ([]volume.NodeID, error) {
	return newSites(v).choose(req)
}

func (c *sites) choose(req GrowRequest) ([]volume.NodeID, error) {
	room := func(s *site) bool { return s.room(req.Spec.Disk) }
	if nodes := c.layout(req, room); nodes != nil {
		return nodes, nil
	}
	if c.layout(req, func(s *site) bool { return !s.Alive && !s.Drain.Node || room(s) }) != nil {
		if nodes := c.partial(req, room); nodes != nil {
			return nodes, nil
		}
	}
	return nil, c.missing(req)
}

// layout finds a full set of nodes that usable allows, nil if there is none.
func (c *sites) layout(req GrowRequest, usable func(*site) bool) []volume.NodeID {
	x, y, z := req.Spec.Placement.Digits()
	var candidates []*site
	for _, s := range c.all {
		if usable(s) {
			candidates = append(candidates, s)
		}
	}
	c.sort(candidates, leadsLess)
	mains := slices.Clone(candidates)
	c.sort(candidates, holdsLess)
	for _, main := range mains {
		if !req.allows(main) {
			continue
		}
		nodes := []volume.NodeID{main.ID}
		same := c.pick(candidates, z, func(s *site) (any, bool) { return s.ID, s.ID != main.ID && s.zone() == main.zone() })
		racks := c.pick(candidates, y, func(s *site) (any, bool) {
			return s.Rack, s.DataCenter == main.DataCenter && s.Rack != main.Rack
		})
		dcs := c.pick(candidates, x, func(s *site) (any, bool) { return s.DataCenter, s.DataCenter != main.DataCenter })
		nodes = slices.Concat(nodes, same, racks, dcs)
		if len(nodes) == req.Spec.Placement.Copies() {
			return nodes
		}
	}
	return nil
}

// pick takes the first n candidates that want accepts, one for each key.
func (c *sites) pick(candidates []*site, n int, want func(*site) (key any, ok bool)) (ids []volume.NodeID) {
	seen := map[any]bool{}
	for _, s := range candidates {
		if len(ids) == n {
			break
		}
		if key, ok := want(s); ok && !seen[key] {
			seen[key] = true
			ids = append(ids, s.ID)
		}
	}
	return ids
}

// partial finds as many nodes as there are for a volume whose other nodes are
// away, nil if that is too few to write.
func (c *sites) partial(req GrowRequest, usable func(*site) bool) []volume.NodeID {
	var nodes []volume.NodeID
	candidates := slices.Clone(c.all)
	c.sort(candidates, leadsLess)
	for _, s := range candidates {
		if usable(s) && (len(nodes) > 0 || req.allows(s)) && c.fits(req.Spec.Placement, append(nodes, s.ID)) {
			nodes = append(nodes, s.ID)
		}
	}
	if len(nodes) < req.Spec.Placement.MinCopies() {
		return nil
	}
	return nodes
}

// fits reports whether nodes can be part of a full layout of p.
func (c *sites) fits(p volume.Placement, nodes []volume.NodeID) bool {
	return slices.ContainsFunc(nodes, func(main volume.NodeID) bool { return c.fitsAround(p, nodes, main) })
}

// fitsAround is fits with a given node in the rack that holds 1+z copies.
func (c *sites) fitsAround(p volume.Placement, nodes []volume.NodeID, main volume.NodeID) bool {
	x, y, z := p.Digits()
	m := c.byID[main]
	if m == nil {
		return false
	}
	same, racks, dcs := 0, map[string]int{}, map[string]int{}
	for _, id := range nodes {
		s := c.byID[id]
		switch {
		case s == nil:
			return false
		case s.zone() == m.zone():
			same++
		case s.DataCenter == m.DataCenter:
			racks[s.Rack]++
		default:
			dcs[s.DataCenter]++
		}
	}
	for _, n := range racks {
		if n > 1 {
			return false
		}
	}
	for _, n := range dcs {
		if n > 1 {
			return false
		}
	}
	return same <= 1+z && len(racks) <= y && len(dcs) <= x
}

// extend finds a node for one more copy beside those on nodes.
func (c *sites) extend(id volume.ID, spec volume.Spec, nodes []volume.NodeID, usable func(*site) bool) (volume.NodeID, bool) {
	var best *site
	better := func(a, b *site) bool {
		return cmp.Or(cmp.Compare(a.holds, b.holds), cmp.Compare(tie(id, a.ID), tie(id, b.ID)), cmp.Compare(a.ID, b.ID)) < 0
	}
	for _, s := range c.all {
		if !usable(s) || !s.room(spec.Disk) || slices.Contains(s.Blocked, id) || slices.Contains(nodes, s.ID) || !c.fits(spec.Placement, append(slices.Clip(nodes), s.ID)) {
			continue
		}
		if best == nil || better(s, best) {
			best = s
		}
	}
	if best == nil {
		return "", false
	}
	return best.ID, true
}

func (c *sites) sort(list []*site, compare func(a, b *site) int) {
	slices.SortFunc(list, func(a, b *site) int {
		return cmp.Or(compare(a, b), cmp.Compare(tie(c.seed, a.ID), tie(c.seed, b.ID)), cmp.Compare(a.ID, b.ID))
	})
}

// leadsLess orders nodes for a primary.
func leadsLess(a, b *site) int {
	return cmp.Or(cmp.Compare(a.primaries, b.primaries), cmp.Compare(a.holds, b.holds))
}

// holdsLess orders nodes for another copy. Of two that hold the same, the one that
// leads less waits: it will be the next to lead, and then would hold more.
func holdsLess(a, b *site) int {
	return cmp.Or(cmp.Compare(a.holds, b.holds), cmp.Compare(b.primaries, a.primaries))
}

// allows reports whether the primary may be there.
func (r GrowRequest) allows(s *site) bool {
	return (r.Node == "" || r.Node == s.ID) && (r.DataCenter == "" || r.DataCenter == s.DataCenter) && (r.Rack == "" || r.Rack == s.Rack)
}

// missing says why layout found nothing.
func (c *sites) missing(req GrowRequest) error {
	p := req.Spec.Placement
	ready, away, allowed, drained := 0, 0, 0, 0
	zones := map[zone]int{}
	for _, s := range c.all {
		switch {
		case s.Drain.Node:
			drained++
		case s.Ready:
			ready++
			zones[s.zone()]++
			if req.allows(s) {
				allowed++
			}
		case !s.Alive:
			away++
		}
	}
	others := fmt.Sprintf("%d are away", away)
	if drained > 0 {
		others += fmt.Sprintf(", %d are being drained", drained)
	}
	state := fmt.Sprintf("%d volume servers are ready in %d racks, %s", ready, len(zones), others)
	switch {
	case ready == 0:
		return fmt.Errorf("%w: no volume server is ready (%s)", volume.ErrUnsatisfiable, others)
	case allowed == 0:
		return fmt.Errorf("%w: no volume server is ready in %s; %s", volume.ErrUnsatisfiable, req.where(), state)
	case c.layout(req, (*site).open) == nil:
		return fmt.Errorf("%w: placement %s needs %s; %s", volume.ErrUnsatisfiable, p, needs(p), state)
	}
	var full []string
	for _, s := range c.all {
		if s.open() && !s.room(req.Spec.Disk) {
			full = append(full, fmt.Sprintf("node %s: %s", s.ID, s.whyFull(req.Spec.Disk)))
		}
	}
	return fmt.Errorf("%w: a new volume of placement %s has no place; %s", volume.ErrNoSpace, p, strings.Join(full, "; "))
}

// whyFull says why a node has no room for a new volume.
func (s *site) whyFull(disk volume.DiskType) string {
	var why []string
	for _, d := range s.Disks {
		switch {
		case d.Disk != disk:
		case d.Fenced != "":
			why = append(why, d.Dir+": "+d.Fenced)
		case s.Drain.Has(d.Dir):
			why = append(why, d.Dir+": it is being drained")
		default:
			why = append(why, fmt.Sprintf("%s: %d of %d volume slots are used", d.Dir, d.Used, d.Max))
		}
	}
	if len(why) == 0 {
		return fmt.Sprintf("it has no directory of disk type %q", cmp.Or(disk, "hdd"))
	}
	return strings.Join(why, ", ")
}

func (r GrowRequest) where() string {
	var parts []string
	for _, p := range []struct{ what, name string }{{"data center", r.DataCenter}, {"rack", r.Rack}, {"node", string(r.Node)}} {
		if p.name != "" {
			parts = append(parts, fmt.Sprintf("%s %q", p.what, p.name))
		}
	}
	return strings.Join(parts, ", ")
}

func needs(p volume.Placement) string {
	x, y, z := p.Digits()
	s := fmt.Sprintf("%d nodes in one rack", 1+z)
	if y > 0 {
		s += fmt.Sprintf(", %d more racks in the same data center", y)
	}
	if x > 0 {
		s += fmt.Sprintf(", %d more data centers", x)
	}
	return s
}

// Plan chooses the nodes for up to n new volumes, each knowing of those before.
// It fails only when not even one can be placed.
func Plan(v View, req GrowRequest, n int) ([][]volume.NodeID, error) {
	c := newSites(v)
	var out [][]volume.NodeID
	for len(out) < n {
		nodes, err := c.choose(req)
		if err != nil && len(out) == 0 {
			return nil, err
		}
		if err != nil {
			break
		}
		c.take(nodes, req.Spec.Disk)
		out = append(out, nodes)
	}
	return out, nil
}

// PlanAll is Plan that fails unless all n volumes can be placed.
func PlanAll(v View, req GrowRequest, n int) ([][]volume.NodeID, error) {
	sets, err := Plan(v, req, n)
	if err == nil && len(sets) < n {
		return nil, fmt.Errorf("%w: only %d volumes left, not enough for %d", volume.ErrNoSpace, len(sets), n)
	}
	return sets, err
}
