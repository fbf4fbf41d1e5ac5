package master

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

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

// Assign gives out ids on a volume that can be written now. While there is none
// it has one made, and waits for at most Options.Hold. Errors are those of
// growth (volume.ErrUnsatisfiable, ErrNoSpace), ErrBadRequest, ErrClosed and
// ErrUnavailable.
func (m *Master) Assign(ctx context.Context, req Request) (Assignment, error) {
	if a, ok := m.assignNow(req); ok { // no deadline, and no timer for it, where nothing waits
		return a, nil
	}
	ctx, cancel := m.deadline(ctx)
	defer cancel()
	return m.assign(ctx, req, nil)
}

// assignNow is Assign for the usual case: a volume and a key are at hand.
func (m *Master) assignNow(req Request) (Assignment, bool) {
	if req.Node != "" || req.Count > maxCount {
		return Assignment{}, false
	}
	c := m.choices()
	e := c.pick(req, m.shunned(), nil)
	if e == nil {
		return Assignment{}, false
	}
	key, ok := m.keys.tryTake(max(req.Count, 1))
	if !ok {
		return Assignment{}, false
	}
	return c.assignment(e, key, req), true
}

func (c *choices) assignment(e *volume.Entry, key volume.Key, req Request) Assignment {
	return Assignment{
		ID:    volume.FileID{Volume: e.Volume, Key: key, Cookie: newCookie()},
		Count: max(req.Count, 1),
		Node:  c.nodes[e.Primary].Volume(),
	}
}

// assign is Assign without its own deadline; it passes over volumes in tried
// while there are others.
func (m *Master) assign(ctx context.Context, req Request, tried map[volume.ID]bool) (Assignment, error) {
	if req.Count > maxCount {
		return Assignment{}, fmt.Errorf("%w: count %d; at most %d ids at once", volume.ErrBadRequest, req.Count, maxCount)
	}
	if err := m.resolve(&req.Node); err != nil {
		return Assignment{}, err
	}
	c, e, err := m.choose(ctx, req, tried)
	if err != nil {
		return Assignment{}, err
	}
	key, err := m.keys.take(ctx, max(req.Count, 1))
	if err != nil {
		return Assignment{}, err
	}
	return c.assignment(e, key, req), nil
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

// retryPause is the time between two tries of what failed, or brought nothing
// to choose, and may go better by itself.
const retryPause = 100 * time.Millisecond

// choose finds a volume to write to, waiting for one while ctx lets it.
func (m *Master) choose(ctx context.Context, req Request, tried map[volume.ID]bool) (*choices, *volume.Entry, error) {
	var why error
	for ctx.Err() == nil {
		c := m.choices()
		if e := c.pick(req, m.shunned(), tried); e != nil {
			return c, e, nil
		}
		run := m.grow(req, c)
		if run == nil {
			continue
		}
		select {
		case <-run.done:
			// What failed for ever is answered, unless there are volumes that are only
			// not writable now: their node restarts, or another will lead. A growth
			// that went well changes the catalog, here perhaps a moment later.
			if why = run.err; why != nil && final(why) && !c.mayHeal(req) {
				return nil, nil, why
			}
			c.wait(ctx, retryPause)
		case <-c.catChanged:
		case <-c.membersChanged:
		case <-ctx.Done():
		}
	}
	return nil, nil, gaveUp(ctx, cmp.Or(why, m.choices().whyNot(req.Spec)), "no writable volume (collection %q, replication %s, ttl %q)",
		req.Spec.Collection, req.Spec.Placement, req.Spec.TTL)
}

// gaveUp is the error of a request whose ctx has ended before it got what it
// waited for. why is what stood in its way last, nil when unknown; a wait cures
// it, so it gives the text only.
func gaveUp(ctx context.Context, why error, format string, args ...any) error {
	what, cause := fmt.Sprintf(format, args...), context.Cause(ctx)
	switch {
	case errors.Is(cause, volume.ErrClosed):
		return fmt.Errorf("%s: %w", what, cause)
	case errors.Is(cause, context.Canceled):
		return fmt.Errorf("%s: the client hung up: %w", what, cause)
	case why != nil:
		return fmt.Errorf("%w: %s: %v (%v)", volume.ErrUnavailable, what, why, cause)
	}
	return fmt.Errorf("%w: %s: %v", volume.ErrUnavailable, what, cause)
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// growth names what is being grown, so that many requests that find no volume
// ask the leader once.
type growth struct {
	spec           volume.Spec
	dc, rack, node string
}

// grownLocked logs how growth ended. As long as the reason is the same it warns
// once: every upload asks anew.
func (m *Master) grownLocked(ctx context.Context, req Request, err error) {
	if err == nil {
		m.refused = ""
		return
	}
	level := slog.LevelDebug
	if ctx.Err() == nil && err.Error() != m.refused {
		level, m.refused = slog.LevelWarn, err.Error()
	}
	m.opt.Logger.Log(ctx, level, "no volume could be made", "collection", req.Spec.Collection, "replication", req.Spec.Placement, "err", err)
}

type growRun struct {
	done chan struct{}
	err  error // valid once done is closed
}

// grow asks the leader for volumes, unless it was asked for the same already. It
// returns nil when c, in which none was found, is out of date: a growth may have
// ended since, and there may be nothing to ask for.
func (m *Master) grow(req Request, c *choices) *growRun {
	key := growth{req.Spec, req.DataCenter, req.Rack, string(req.Node)}
	m.mu.Lock()
	defer m.mu.Unlock()
	if run := m.growing[key]; run != nil {
		return run
	}
	if c.stale() {
		return nil
	}
	run := &growRun{done: make(chan struct{})}
	m.growing[key] = run
	m.start(func(ctx context.Context) {
		// Half of what requests wait, so that they learn why there is no volume.
		ctx, cancel := context.WithTimeout(ctx, time.Duration(m.hold.Load())/2)
		defer cancel()
		_, err := m.opt.Leader.Grow(ctx, placement.GrowRequest{Spec: req.Spec, DataCenter: req.DataCenter, Rack: req.Rack, Node: req.Node})
		m.mu.Lock()
		defer m.mu.Unlock()
		m.grownLocked(ctx, req, err)
		run.err = err
		delete(m.growing, key)
		close(run.done)
	})
	return run
}
