package leader

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"time"

	"weedd/cluster"
	"weedd/cluster/catalog"
	"weedd/cluster/placement"
	"weedd/volume"
)

// explainMost bounds the volumes of one answer, which is one message.
const explainMost = 200

// Operate does what an operator asks. Errors are volume.ErrBadRequest,
// volume.ErrNotFound for a node or volume that is not known, and those of a
// proposal.
func (l *Leader) Operate(ctx context.Context, op cluster.Operation) (cluster.Outcome, error) {
	t, err := l.leading(ctx)
	if err != nil {
		return cluster.Outcome{}, err
	}
	switch {
	case op.Drain != nil:
		return t.drain(ctx, *op.Drain)
	case op.Repair != nil:
		return t.repair(*op.Repair), nil
	case op.Explain != nil:
		return t.explain(*op.Explain)
	case op.Promote != nil:
		return t.promote(ctx, *op.Promote)
	case op.Forget != nil:
		return t.forget(ctx, *op.Forget)
	case op.ReadOnly != nil:
		return t.readOnly(ctx, *op.ReadOnly)
	case op.Remove != nil && t.opt.Remove != nil:
		return cluster.Outcome{}, t.opt.Remove(ctx, op.Remove.Master)
	}
	return cluster.Outcome{}, fmt.Errorf("%w: an operation of a newer version; upgrade the masters", volume.ErrBadRequest)
}

// drain has the wish decided: the loop of this leader, or of the next, does the
// rest.
func (t *term) drain(ctx context.Context, d cluster.Drain) (cluster.Outcome, error) {
	cat, _ := t.opt.Log.Catalog()
	node, err := t.findNode(d.Node, d.Undo, cat)
	if err != nil {
		return cluster.Outcome{}, err
	}
	if err := node.hasDir(d, cat); err != nil {
		return cluster.Outcome{}, err
	}
	cmd := catalog.Drain{Node: node.ID, Dir: d.Dir, Undo: d.Undo}
	res, err := t.opt.Log.Propose(ctx, catalog.Command{Drain: &cmd})
	if err := cmp.Or(err, res.Err); err != nil {
		return cluster.Outcome{}, fmt.Errorf("drain: %w", err)
	}
	t.log.Info("drain", "peer", node.ID, "dir", d.Dir, "undo", d.Undo)
	if d.Undo {
		return cluster.Outcome{}, nil
	}
	cat, _ = t.opt.Log.Catalog()
	cmd.Undo = false
	for _, v := range placement.Drains(t.topo.View(cat, time.Now()), t.opt.Placement, []catalog.Drain{cmd}) {
		return cluster.Outcome{Drain: &v}, nil
	}
	return cluster.Outcome{}, nil
}

// found is a volume server that an operator named.
type found struct{ cluster.ViewNode }

// hasDir refuses a directory that the node does not have: a typing error would be
// a drain that is finished at once, or one that goes on. One that is drained may be
// gone.
func (n found) hasDir(d cluster.Drain, cat *catalog.Catalog) error {
	if d.Dir == "" || d.Undo && slices.Contains(cat.Drains(), catalog.Drain{Node: n.ID, Dir: d.Dir}) {
		return nil
	}
	var dirs []string
	for _, disk := range n.Disks {
		if disk.Dir == d.Dir {
			return nil
		}
		dirs = append(dirs, disk.Dir)
	}
	return fmt.Errorf("%w: node %s has no directory %s, as far as it has told; it has %q", volume.ErrNotFound, n.ID, d.Dir, dirs)
}

// findNode finds a volume server by its id or one of its public addresses. A drain
// may be undone of one that nobody has seen for long.
func (t *term) findNode(name string, undo bool, cat *catalog.Catalog) (found, error) {
	var byHost []found
	nodes := t.topo.Nodes(time.Now())
	for _, n := range nodes {
		if name != "" && (string(n.ID) == name || n.URL == name || n.PublicURL == name) {
			return found{n}, nil
		}
		if host, _, err := net.SplitHostPort(n.URL); err == nil && host == name {
			byHost = append(byHost, found{n})
		}
	}
	if len(byHost) == 1 {
		return byHost[0], nil
	}
	if undo && slices.ContainsFunc(cat.Drains(), func(d catalog.Drain) bool { return string(d.Node) == name }) {
		return found{cluster.ViewNode{Node: volume.Node{ID: volume.NodeID(name)}}}, nil
	}
	var known []string
	for _, n := range nodes {
		known = append(known, fmt.Sprintf("%s (%s)", n.ID, cmp.Or(n.URL, "address unknown")))
	}
	what := "no volume server"
	if len(byHost) > 1 {
		what = "more than one volume server"
	}
	return found{}, fmt.Errorf("%w: %s is named %q; there are %v", volume.ErrNotFound, what, name, known)
}

// repair tells what the loop would do if it waited for no node that is away, and
// has it done unless that was all that was asked.
func (t *term) repair(r cluster.Repair) (out cluster.Outcome) {
	cat, _ := t.opt.Log.Catalog()
	view := t.topo.View(cat, time.Now())
	var away []volume.NodeID
	for i := range view.Nodes {
		if n := &view.Nodes[i]; !n.Alive {
			n.Lost = true
			away = append(away, n.ID)
		}
	}
	out.Volumes, out.More = placement.ExplainAll(view, t.opt.Placement, explainMost)
	if !r.DryRun {
		t.log.Info("repair asked for by hand", "away", away, "volumes", len(out.Volumes)+out.More)
		t.topo.Lose(away)
		t.moved.Raise()
	}
	return out
}

// promote has a copy lead that was not in sync, or tells what would be lost by that.
func (t *term) promote(ctx context.Context, p cluster.Promote) (cluster.Outcome, error) {
	cat, _ := t.opt.Log.Catalog()
	node, err := t.findNode(p.Node, false, cat)
	if err != nil {
		return cluster.Outcome{}, err
	}
	view := t.topo.View(cat, time.Now())
	ch, why, err := placement.Promote(view, p.Volume, node.ID)
	if err != nil {
		return cluster.Outcome{}, err
	}
	e, _ := placement.Explain(view, t.opt.Placement, p.Volume)
	e.Next, e.Why, e.Waits = &ch.Next, why, nil
	if p.DryRun {
		return cluster.Outcome{Volumes: []cluster.Explanation{e}}, nil
	}
	if e.Next, err = t.propose(ctx, ch); err != nil {
		return cluster.Outcome{}, fmt.Errorf("promote: %w", err)
	}
	t.log.Warn("copy promoted, by hand", "volume", p.Volume, "peer", node.ID, "epoch", e.Next.Epoch, "reason", why)
	return cluster.Outcome{Volumes: []cluster.Explanation{e}}, nil
}

// forget ends volumes that have no copy left, or tells what is lost by that.
func (t *term) forget(ctx context.Context, f cluster.Forget) (out cluster.Outcome, err error) {
	cat, _ := t.opt.Log.Catalog()
	if out.Volumes, err = placement.Forget(t.topo.View(cat, time.Now()), f.Volumes); err != nil {
		return cluster.Outcome{}, err
	}
	if !f.DryRun {
		res, err := t.opt.Log.Propose(ctx, catalog.Command{Delete: &catalog.Delete{Volumes: f.Volumes, Forget: true}})
		if err := cmp.Or(err, res.Err); err != nil {
			return cluster.Outcome{}, fmt.Errorf("forget: %w", err)
		}
		for _, e := range out.Volumes {
			t.log.Warn("volume forgotten, by hand", "volume", e.Entry.Volume, "reason", e.Why)
		}
	}
	shown := min(len(out.Volumes), explainMost)
	out.Volumes, out.More = out.Volumes[:shown], len(out.Volumes)-shown
	return out, nil
}

// explain tells what the loop sees and does of one volume.
func (t *term) explain(id volume.ID) (cluster.Outcome, error) {
	cat, _ := t.opt.Log.Catalog()
	view := t.topo.View(cat, time.Now())
	e, ok := placement.Explain(view, t.opt.Placement, id)
	switch {
	case !ok && cat.Deleted(id):
		return cluster.Outcome{}, fmt.Errorf("%w: volume %d was deleted", volume.ErrNotFound, id)
	case !ok:
		return cluster.Outcome{}, fmt.Errorf("%w: volume %d is not in the catalog", volume.ErrNotFound, id)
	}
	t.mu.Lock()
	a, again := t.joined[id]
	t.mu.Unlock()
	if left := a.pause - time.Since(a.last); again && left > 0 {
		e.Waits = append(e.Waits, fmt.Sprintf("a copy of it was made anew lately; another is made in %v at the earliest", left.Round(time.Second)))
	}
	return cluster.Outcome{Volumes: []cluster.Explanation{e}}, nil
}
