package master

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"weedd/cluster"
	"weedd/cluster/catalog"
	"weedd/cluster/placement"
	"weedd/volume"
)

// Request asks for ids.
type Request struct {
	Spec       volume.Spec
	Count      uint64 // ids in a row; 0 is 1
	DataCenter string // where a copy must be; "" is anywhere
	Rack       string
	Node       volume.NodeID
}

// Assignment is one or more ids: the first, and Count-1 more that differ from it
// by 1 in the key. Node leads the volume.
type Assignment struct {
	ID    volume.FileID
	Count uint64
	Node  volume.Node
}

// choices is what catalog and gossip said at one moment, made ready for picking.
type choices struct {
	cat            *catalog.Catalog
	catChanged     <-chan struct{}
	nodes          map[volume.NodeID]cluster.Node
	membersChanged <-chan struct{}
	open           map[volume.Spec][]*volume.Entry // writable now: all in-sync copies alive, and enough of them
}

// choices returns the newest choices, making them anew when something changed.
func (m *Master) choices() *choices {
	c := m.choice.Load()
	if c != nil && !closed(c.catChanged) && !closed(c.membersChanged) {
		return c
	}
	c = &choices{nodes: map[volume.NodeID]cluster.Node{}, open: map[volume.Spec][]*volume.Entry{}}
	c.cat, c.catChanged = m.opt.Log.Catalog()
	members, changed := m.opt.Gossip.Watch()
	c.membersChanged = changed
	for _, n := range members {
		if n.Roles&cluster.RoleVolume != 0 {
			c.nodes[n.ID] = n
		}
	}
	for _, e := range c.cat.Volumes() {
		if e.State == volume.StateOpen && c.writable(e) == nil {
			c.open[e.Spec] = append(c.open[e.Spec], e)
		}
	}
	for _, es := range c.open {
		slices.SortStableFunc(es, func(a, b *volume.Entry) int { return cmp.Compare(a.Primary, b.Primary) })
	}
	m.choice.Store(c)
	return c
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// writable is nil when all in-sync copies of e are alive, and enough of them.
func (c *choices) writable(e *volume.Entry) error {
	if least := e.Spec.Placement.MinCopies(); len(e.InSync) < least {
		return fmt.Errorf("volume %d has %d copies in sync and needs %d", e.Volume, len(e.InSync), least)
	}
	for _, h := range e.InSync {
		switch n, ok := c.nodes[h.Node]; {
		case !ok || !n.Alive:
			return fmt.Errorf("volume %d: node %s is away", e.Volume, h.Node)
		case !n.Ready:
			return fmt.Errorf("volume %d: node %s (%s) is not ready; its /readyz says why", e.Volume, h.Node, n.VolumeHTTP)
		}
	}
	return nil
}

// Assign gives out ids on a volume that can be written now. While there is none
// it has one made, and waits for at most Options.Hold. Errors are those of
// growth (volume.ErrUnsatisfiable, ErrNoSpace), ErrBadRequest and
// ErrUnavailable.
func (m *Master) Assign(ctx context.Context, req Request) (Assignment, error) {
	ctx, cancel := m.deadline(ctx)
	defer cancel()
	return m.assign(ctx, req, nil)
}

// assign is Assign without its own deadline; it passes over volumes in tried
// while there are others.
func (m *Master) assign(ctx context.Context, req Request, tried map[volume.ID]bool) (Assignment, error) {
	if req.Count == 0 {
		req.Count = 1
	}
	if req.Count > maxCount {
		return Assignment{}, fmt.Errorf("%w: count %d; at most %d ids at once", volume.ErrBadRequest, req.Count, maxCount)
	}
	if err := m.resolve(&req.Node); err != nil {
		return Assignment{}, err
	}
	e, node, err := m.choose(ctx, req, tried)
	if err != nil {
		return Assignment{}, err
	}
	key, err := m.keys.take(ctx, req.Count)
	if err != nil {
		return Assignment{}, err
	}
	id := volume.FileID{Volume: e.Volume, Key: key, Cookie: newCookie()}
	return Assignment{ID: id, Count: req.Count, Node: node}, nil
}

// resolve turns the address of a volume server, which is how clients name it,
// into its id.
func (m *Master) resolve(node *volume.NodeID) error {
	if *node == "" {
		return nil
	}
	for _, n := range m.choices().nodes {
		if n.ID == *node || n.VolumeHTTP == string(*node) {
			*node = n.ID
			return nil
		}
	}
	return fmt.Errorf("%w: no volume server %s is in sight", volume.ErrUnsatisfiable, *node)
}

// choose finds a volume to write to, waiting for one while ctx lets it.
func (m *Master) choose(ctx context.Context, req Request, tried map[volume.ID]bool) (*volume.Entry, volume.Node, error) {
	var why error
	for {
		c := m.choices()
		if e := c.pick(req, m.shunned(), tried); e != nil {
			return e, c.nodes[e.Primary].Volume(), nil
		}
		run := m.grow(req)
		select {
		case <-c.catChanged:
		case <-c.membersChanged:
		case <-run.done:
			if why = run.err; why != nil && final(why) {
				return nil, volume.Node{}, why
			}
			c.wait(ctx, growAgain)
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return nil, volume.Node{}, fmt.Errorf("%w: no writable volume (collection %q, replication %s, ttl %q): %w",
				volume.ErrUnavailable, req.Spec.Collection, req.Spec.Placement, req.Spec.TTL, firstOf(why, c.whyNot(req.Spec), context.Cause(ctx)))
		}
	}
}

// growAgain is how long growth that brought nothing to choose is not asked for
// again, unless something changes.
const growAgain = 100 * time.Millisecond

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
	var why error
	n := 0
	for _, e := range c.cat.Volumes() {
		if e.Spec != spec || e.State != volume.StateOpen {
			continue
		}
		if err := c.writable(e); err != nil {
			n++
			why = cmp.Or(why, err)
		}
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%d open volumes of this kind cannot be written now; %w", n, why)
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// pick chooses a writable volume: a primary at random, and of its volumes the
// first that will do, so that uploads at one time share few files and with them
// each fsync. Volumes with all their copies come first, those tried or led by a
// shunned node last.
func (c *choices) pick(req Request, shunned map[volume.NodeID]bool, tried map[volume.ID]bool) *volume.Entry {
	var best *volume.Entry
	bestRank, ties := -1, 0
	open := c.open[req.Spec] // sorted by primary
	for i := 0; i < len(open); {
		first, rank := (*volume.Entry)(nil), -1
		primary := open[i].Primary
		for ; i < len(open) && open[i].Primary == primary; i++ {
			if r := c.rank(open[i], req, shunned, tried); r > rank {
				first, rank = open[i], r
			}
		}
		switch {
		case rank > bestRank:
			best, bestRank, ties = first, rank, 1
		case rank == bestRank && rank >= 0:
			if ties++; rand.IntN(ties) == 0 {
				best = first
			}
		}
	}
	if bestRank < 2 { // tried already and led by a node that failed: rather wait for something new
		return nil
	}
	return best
}

// rank says how good a choice e is; -1 is none.
func (c *choices) rank(e *volume.Entry, req Request, shunned map[volume.NodeID]bool, tried map[volume.ID]bool) (rank int) {
	if !c.fits(e, req) {
		return -1
	}
	if !tried[e.Volume] {
		rank += 4
	}
	if !shunned[e.Primary] {
		rank += 2
	}
	if len(e.InSync) >= e.Spec.Placement.Copies() {
		rank++
	}
	return rank
}

// fits reports whether one node with a copy is where the client wants one.
func (c *choices) fits(e *volume.Entry, req Request) bool {
	if req.DataCenter == "" && req.Rack == "" && req.Node == "" {
		return true
	}
	for _, h := range e.InSync {
		n := c.nodes[h.Node]
		if (req.DataCenter == "" || n.DataCenter == req.DataCenter) && (req.Rack == "" || n.Rack == req.Rack) &&
			(req.Node == "" || n.ID == req.Node) {
			return true
		}
	}
	return false
}

// growth names what is being grown, so that many requests that find no volume
// ask the leader once.
type growth struct {
	spec           volume.Spec
	dc, rack, node string
}

type growRun struct {
	done chan struct{}
	err  error // valid once done is closed
}

// grow asks the leader for volumes, unless it was asked for the same already.
func (m *Master) grow(req Request) *growRun {
	key := growth{req.Spec, req.DataCenter, req.Rack, string(req.Node)}
	m.mu.Lock()
	defer m.mu.Unlock()
	if run := m.growing[key]; run != nil {
		return run
	}
	run := &growRun{done: make(chan struct{})}
	m.growing[key] = run
	m.work.Add(1)
	go func() {
		defer m.work.Done()
		ctx, cancel := m.deadline(m.ctx)
		defer cancel()
		_, err := m.opt.Leader.Grow(ctx, placement.GrowRequest{Spec: req.Spec, DataCenter: req.DataCenter, Rack: req.Rack, Node: req.Node})
		m.mu.Lock()
		defer m.mu.Unlock()
		run.err = err
		delete(m.growing, key)
		close(run.done)
		if err != nil && !errors.Is(err, context.Canceled) {
			m.opt.Logger.Warn("no volume could be made", "collection", req.Spec.Collection, "replication", req.Spec.Placement, "err", err)
		}
	}()
	return run
}
