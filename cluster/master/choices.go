package master

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"weedd/cluster"
	"weedd/cluster/catalog"
	"weedd/volume"
)

// choices is what catalog and gossip said at one moment, made ready for picking.
type choices struct {
	cat            *catalog.Catalog
	catChanged     <-chan struct{}
	nodes          map[volume.NodeID]*cluster.Node // those with the volume role
	membersChanged <-chan struct{}
	open           map[volume.Spec][]led           // writable now
	shut           map[volume.Spec][]*volume.Entry // open in the catalog, and not writable now
}

// led is the writable volumes of one spec that one node leads: those with all
// their copies first, then by number.
type led struct {
	primary volume.NodeID
	volumes []*volume.Entry
}

// choices returns the newest choices, making them anew when something changed.
func (m *Master) choices() *choices {
	if c := m.choice.Load(); c != nil && !c.stale() {
		return c
	}
	m.choosing.Lock() // one makes them, the others wait for it
	defer m.choosing.Unlock()
	if c := m.choice.Load(); c != nil && !c.stale() {
		return c
	}
	cat, catChanged := m.opt.Log.Catalog()
	members, membersChanged := m.opt.Gossip.Watch()
	c := newChoices(cat, members)
	c.catChanged, c.membersChanged = catChanged, membersChanged
	m.choice.Store(c)
	return c
}

func newChoices(cat *catalog.Catalog, members []cluster.Node) *choices {
	c := &choices{cat: cat, nodes: map[volume.NodeID]*cluster.Node{}, open: map[volume.Spec][]led{}, shut: map[volume.Spec][]*volume.Entry{}}
	for i := range members {
		if n := &members[i]; n.Roles&cluster.RoleVolume != 0 {
			c.nodes[n.ID] = n
		}
	}
	open := map[volume.Spec][]*volume.Entry{}
	for _, e := range cat.Volumes() {
		switch {
		case e.State != volume.StateOpen || e.Unsure:
		case c.writable(e) == nil:
			open[e.Spec] = append(open[e.Spec], e)
		default:
			c.shut[e.Spec] = append(c.shut[e.Spec], e)
		}
	}
	for spec, es := range open {
		slices.SortStableFunc(es, func(a, b *volume.Entry) int {
			return cmp.Or(cmp.Compare(a.Primary, b.Primary), cmp.Compare(c.partial(a), c.partial(b)))
		})
		for from, i := 0, 1; i <= len(es); i++ {
			if i == len(es) || es[i].Primary != es[from].Primary {
				c.open[spec] = append(c.open[spec], led{es[from].Primary, es[from:i]})
				from = i
			}
		}
	}
	return c
}

// partial is 1 for a volume with fewer copies in sync, on nodes that are ready,
// than asked for, else 0.
func (c *choices) partial(e *volume.Entry) int {
	ready := 0
	for _, h := range e.InSync {
		if n, ok := c.nodes[h.Node]; ok && n.Ready {
			ready++
		}
	}
	if ready < e.Spec.Placement.Copies() {
		return 1
	}
	return 0
}

func (c *choices) stale() bool { return closed(c.catChanged) || closed(c.membersChanged) }

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// writable is nil when all in-sync copies of e are alive, enough of them, and its
// primary is ready. Another copy need not be on a node that is: one that is
// about to stop follows to the end, and where every volume has a copy there,
// waiting for better ones would be to wait for its stop, which waits for us.
func (c *choices) writable(e *volume.Entry) error {
	if least := e.Spec.Placement.MinCopies(); len(e.InSync) < least {
		return fmt.Errorf("volume %d has %d copies in sync and needs %d", e.Volume, len(e.InSync), least)
	}
	for _, h := range e.InSync {
		switch n, ok := c.nodes[h.Node]; {
		case !ok || !n.Alive:
			return fmt.Errorf("volume %d: node %s is away", e.Volume, h.Node)
		case !n.Ready && h.Node == e.Primary:
			return fmt.Errorf("volume %d: node %s (%s) is not ready; its /readyz says why", e.Volume, h.Node, n.VolumeHTTP)
		}
	}
	return nil
}

// pick chooses a writable volume: a primary at random, and of its volumes the
// first that will do, so that uploads at one time share few files and with them
// each fsync. Volumes with all their copies come first, those tried or led by a
// shunned node last.
func (c *choices) pick(req Request, shunned map[volume.NodeID]bool, tried map[volume.ID]bool) *volume.Entry {
	var best *volume.Entry
	bestRank, ties := -1, 0
	for _, l := range c.open[req.Spec] {
		e := l.first(c, req, tried)
		if e == nil {
			continue
		}
		rank := 1 - c.partial(e)
		if !shunned[e.Primary] {
			rank += 2
		}
		if !tried[e.Volume] {
			rank += 4
		}
		switch {
		case rank > bestRank:
			best, bestRank, ties = e, rank, 1
		case rank == bestRank:
			if ties++; rand.IntN(ties) == 0 {
				best = e
			}
		}
	}
	if bestRank < 2 { // tried already and led by a node that failed: rather wait for something new
		return nil
	}
	return best
}

// first gives the best volume of those that one node leads, nil if none will do.
func (l led) first(c *choices, req Request, tried map[volume.ID]bool) (best *volume.Entry) {
	for _, e := range l.volumes {
		switch {
		case !c.fits(e, req):
		case !tried[e.Volume]:
			return e
		case best == nil:
			best = e
		}
	}
	return best
}

// fits reports whether one node with a copy is where the client wants one.
func (c *choices) fits(e *volume.Entry, req Request) bool {
	if req.DataCenter == "" && req.Rack == "" && req.Node == "" {
		return true
	}
	for _, h := range e.InSync {
		if req.Node != "" && req.Node != h.Node {
			continue
		}
		if n, ok := c.nodes[h.Node]; ok && (req.DataCenter == "" || req.DataCenter == n.DataCenter) && (req.Rack == "" || req.Rack == n.Rack) {
			return true
		}
	}
	return false
}

// wait waits until something changed, ctx ends or d is over.
func (c *choices) wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-c.catChanged:
	case <-c.membersChanged:
	case <-ctx.Done():
	case <-t.C:
	}
}

// whyNot says why volumes of this kind that are open cannot be written; nil when
// there are none.
func (c *choices) whyNot(spec volume.Spec) error {
	shut := c.shut[spec]
	if len(shut) == 0 {
		return nil
	}
	return fmt.Errorf("%d open volumes of this kind cannot be written now; %w", len(shut), c.writable(shut[0]))
}

// mayHeal reports whether there is a volume that would do and is only not
// writable now, or was tried in vain.
func (c *choices) mayHeal(req Request) bool {
	for _, e := range c.shut[req.Spec] {
		if c.fits(e, req) {
			return true
		}
	}
	for _, l := range c.open[req.Spec] {
		if l.first(c, req, nil) != nil {
			return true
		}
	}
	return false
}
