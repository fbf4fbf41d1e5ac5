// Package mastertest has a small cluster in memory: a catalog with a leader that
// can be taken away, volume servers that can be made to fail, and gossip that
// says what the test wants. It is what the tests of the master role and of its
// routes stand on.
package mastertest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"weedd/cluster"
	"weedd/cluster/catalog"
	"weedd/cluster/placement"
	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/volumetest"
)

// Slots is how many volumes each volume server has room for.
const Slots = 60

// maxVolumes is how many volumes a Cluster can have over its life.
const maxVolumes = 500

// Cluster is all that a master.Master needs. The hooks are called, when set,
// before the call they are named after; an error of theirs is its answer. Set
// them before the calls begin. Everything else may be called at once from
// anywhere.
type Cluster struct {
	OnKeys   func(ctx context.Context, count uint64) error
	OnGrow   func(ctx context.Context, req placement.GrowRequest) error
	OnPut    func(ctx context.Context, node volume.Node, id volume.FileID) error
	OnDelete func(ctx context.Context, node volume.Node, id volume.FileID) error

	Blobs *volumetest.Blobs

	mu             sync.Mutex
	cat            *catalog.Catalog
	catChanged     chan struct{}
	nodes          []cluster.Node
	membersChanged chan struct{}
	leaderless     chan struct{} // closed when somebody leads
}

// New makes a cluster of these volume servers, which has a leader.
func New(nodes ...cluster.Node) *Cluster {
	var ids []volume.ID
	for id := volume.ID(1); id <= maxVolumes; id++ {
		ids = append(ids, id)
	}
	c := &Cluster{
		Blobs: volumetest.NewBlobs(ids...), nodes: nodes, cat: catalog.New(),
		catChanged: make(chan struct{}), membersChanged: make(chan struct{}), leaderless: make(chan struct{}),
	}
	close(c.leaderless)
	c.Apply(catalog.Command{Found: &catalog.Found{Cluster: "8c1f9a52-6f0b-4d2e-9b5a-0d5a4c1e7f11"}})
	return c
}

// Node describes a volume server that serves, with addresses made of its id.
func Node(id, dc, rack string) cluster.Node {
	return cluster.Node{
		ID: volume.NodeID(id), Roles: cluster.RoleVolume, Ready: true, Alive: true, DataCenter: dc, Rack: rack,
		VolumeHTTP: id + ":8080", PublicURL: id + ".example:80", Internal: id + ":9332",
	}
}

// SetNode adds a node, or replaces the one with its id.
func (c *Cluster) SetNode(n cluster.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = slices.DeleteFunc(slices.Clone(c.nodes), func(o cluster.Node) bool { return o.ID == n.ID })
	c.nodes = append(c.nodes, n)
	close(c.membersChanged)
	c.membersChanged = make(chan struct{})
}

// SetLeading says whether there is a leader.
func (c *Cluster) SetLeading(leading bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch had := isClosed(c.leaderless); {
	case leading && !had:
		close(c.leaderless)
	case !leading && had:
		c.leaderless = make(chan struct{})
	}
}

// Leading reports whether there is a leader.
func (c *Cluster) Leading() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return isClosed(c.leaderless)
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// leader waits for a leader.
func (c *Cluster) leader(ctx context.Context) error {
	c.mu.Lock()
	wait := c.leaderless
	c.mu.Unlock()
	select {
	case <-wait:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: no master leads", volume.ErrUnavailable)
	}
}

// Apply applies a command as the raft log would.
func (c *Cluster) Apply(cmd catalog.Command) catalog.Result {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.applyLocked(cmd)
}

func (c *Cluster) applyLocked(cmd catalog.Command) catalog.Result {
	next, res := c.cat.Apply(cmd)
	c.cat = next
	if cmd.Keys == nil { // a block changes nothing that a master looks at
		close(c.catChanged)
		c.catChanged = make(chan struct{})
	}
	return res
}

// Change edits the entry of a volume.
func (c *Cluster) Change(id volume.ID, edit func(*volume.Entry)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old, ok := c.cat.Volume(id)
	if !ok {
		panic(fmt.Sprintf("mastertest: no volume %d", id))
	}
	next := *old
	edit(&next)
	res := c.applyLocked(catalog.Command{Change: &catalog.Batch{Changes: []catalog.Change{{Version: old.Version, Next: next}}}})
	if res.Errs[0] != nil {
		panic(res.Errs[0])
	}
}

// Catalog is that of master.Log.
func (c *Cluster) Catalog() (*catalog.Catalog, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cat, c.catChanged
}

// Watch is that of master.Gossip.
func (c *Cluster) Watch() ([]cluster.Node, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes, c.membersChanged
}

// Keys is that of master.Leader.
func (c *Cluster) Keys(ctx context.Context, count uint64) (catalog.Block, error) {
	if c.OnKeys != nil {
		if err := c.OnKeys(ctx, count); err != nil {
			return catalog.Block{}, err
		}
	}
	if err := c.leader(ctx); err != nil {
		return catalog.Block{}, err
	}
	res := c.Apply(catalog.Command{Keys: &catalog.Keys{Count: count}})
	return res.Keys, res.Err
}

// Grow is that of master.Leader. Volumes are open at once.
func (c *Cluster) Grow(ctx context.Context, req placement.GrowRequest) ([]*volume.Entry, error) {
	if c.OnGrow != nil {
		if err := c.OnGrow(ctx, req); err != nil {
			return nil, err
		}
	}
	if err := c.leader(ctx); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	view := c.placementLocked()
	n, plan := req.Count, placement.PlanAll
	if n == 0 {
		plan = placement.Plan
		if es := placement.Writable(view, req); len(es) > 0 {
			return es, nil
		}
		n = placement.OnDemand(view, req.Spec, placement.Settings{})
	}
	sets, err := plan(view, req, n)
	if err != nil {
		return nil, err
	}
	return c.makeLocked(req.Spec, sets), nil
}

func (c *Cluster) makeLocked(spec volume.Spec, sets [][]volume.NodeID) (made []*volume.Entry) {
	grow := &catalog.Grow{}
	for _, nodes := range sets {
		v := catalog.NewVolume{Spec: spec, Primary: nodes[0]}
		for _, n := range nodes {
			v.Holders = append(v.Holders, volume.Holder{Node: n, Copy: volume.NewCopyID()})
		}
		grow.Volumes = append(grow.Volumes, v)
	}
	open := &catalog.Batch{}
	for _, e := range c.applyLocked(catalog.Command{Grow: grow}).Entries {
		next := *e
		next.State = volume.StateOpen
		open.Changes = append(open.Changes, catalog.Change{Version: e.Version, Next: next})
	}
	return c.applyLocked(catalog.Command{Change: open}).Entries
}

// Make makes one open volume on nodes, the first of which leads.
func (c *Cluster) Make(spec volume.Spec, nodes ...volume.NodeID) volume.ID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.makeLocked(spec, [][]volume.NodeID{nodes})[0].Volume
}

// Compact is that of master.Leader: there is no garbage here.
func (c *Cluster) Compact(ctx context.Context, _ float64) error { return c.leader(ctx) }

// Operate is that of master.Leader: nothing can be done here.
func (c *Cluster) Operate(ctx context.Context, _ cluster.Operation) (cluster.Outcome, error) {
	return cluster.Outcome{}, c.leader(ctx)
}

// DeleteCollection is that of master.Leader.
func (c *Cluster) DeleteCollection(ctx context.Context, name string) (int, error) {
	if err := c.leader(ctx); err != nil {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []volume.ID
	for _, e := range c.cat.Volumes() {
		if e.Spec.Collection == name {
			ids = append(ids, e.Volume)
		}
	}
	if len(ids) == 0 {
		return 0, fmt.Errorf("%w: collection %s does not exist", volume.ErrNotFound, name)
	}
	c.applyLocked(catalog.Command{Delete: &catalog.Delete{Volumes: ids}})
	return len(ids), nil
}

// Entry is that of master.Leader.
func (c *Cluster) Entry(ctx context.Context, id volume.ID) (volume.Entry, error) {
	if err := c.leader(ctx); err != nil {
		return volume.Entry{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.cat.Volume(id)
	if !ok {
		return volume.Entry{}, fmt.Errorf("%w: volume %d", volume.ErrNoVolume, id)
	}
	return *e, nil
}

// View is that of master.Leader. Every copy is reported, as an empty one.
func (c *Cluster) View(ctx context.Context) (cluster.View, error) {
	if err := c.leader(ctx); err != nil {
		return cluster.View{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	v := cluster.View{ClusterID: c.cat.ClusterID()}
	for _, n := range c.placementLocked().Nodes {
		v.Nodes = append(v.Nodes, cluster.ViewNode{Node: n.Node, Alive: n.Alive, Ready: n.Ready, Disks: n.Disks, Version: "1.2.3"})
	}
	for _, e := range c.cat.Volumes() {
		vol := cluster.ViewVolume{Entry: *e}
		for _, h := range e.InSync {
			vol.Copies = append(vol.Copies, cluster.ViewCopy{Node: h.Node, InSync: true, Report: report(e, h)})
		}
		v.Volumes = append(v.Volumes, vol)
	}
	return v, nil
}

func report(e *volume.Entry, h volume.Holder) *volume.CopyReport {
	return &volume.CopyReport{Volume: e.Volume, Copy: h.Copy, Spec: e.Spec, State: volume.CopyHealthy, Epoch: e.Epoch,
		Leads: h.Node == e.Primary, Committed: 8, Size: 8, Modified: time.Unix(1_500_000_000, 0)}
}

func (c *Cluster) placementLocked() (v placement.View) {
	used := map[volume.NodeID]int{}
	for _, e := range c.cat.Volumes() {
		vol := placement.Volume{Entry: e}
		for _, h := range e.InSync {
			used[h.Node]++
			vol.Copies = append(vol.Copies, placement.Copy{Node: h.Node, Report: report(e, h)})
		}
		v.Volumes = append(v.Volumes, vol)
	}
	for _, n := range c.nodes {
		v.Nodes = append(v.Nodes, placement.Node{Node: n.Volume(), Alive: n.Alive, Ready: n.Alive && n.Ready,
			Disks: []volume.DiskReport{{Dir: "/data", Max: Slots, Used: used[n.ID], AllB: 1000, FreeB: 250}}})
	}
	return v
}

// Put is that of master.Volumes. Only the primary of a volume takes writes.
func (c *Cluster) Put(ctx context.Context, node volume.Node, id volume.FileID, n *needle.Needle, createOnly bool) (volume.PutResult, error) {
	if c.OnPut != nil {
		if err := c.OnPut(ctx, node, id); err != nil {
			return volume.PutResult{}, err
		}
	}
	cat, _ := c.Catalog()
	e, ok := cat.Volume(id.Volume)
	switch {
	case !ok:
		return volume.PutResult{}, fmt.Errorf("%w: volume %d", volume.ErrNoVolume, id.Volume)
	case e.Primary != node.ID:
		return volume.PutResult{}, &volume.NotPrimaryError{Volume: id.Volume, Primary: e.Primary}
	}
	return c.Blobs.Put(ctx, id, n, createOnly)
}

// Delete is that of master.Volumes.
func (c *Cluster) Delete(ctx context.Context, node volume.Node, id volume.FileID) (int64, error) {
	if c.OnDelete != nil {
		if err := c.OnDelete(ctx, node, id); err != nil {
			return 0, err
		}
	}
	return c.Blobs.Delete(ctx, id, 0)
}
