package leader

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"weedd/cluster"
	"weedd/cluster/catalog"
	"weedd/cluster/placement"
	"weedd/volume"
)

// patience is how long a request for volumes waits for volume servers to show
// up before it is told that there are too few: a cluster that has just started,
// or has just elected a leader, is not complete yet.
const patience = 3 * time.Second

// wants are the requests for volumes that the round loop has not seen yet. Only
// that loop makes volumes, so that two requests do not make twice as many.
type wants struct {
	wake chan struct{} // buffered, 1

	mu   sync.Mutex
	list []want
}

type want struct {
	req  GrowRequest
	done chan<- madeVolumes // buffered, 1
}

type madeVolumes struct {
	ids []volume.ID
	err error
}

func (w *wants) take() []want {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.list
	w.list = nil
	return list
}

func (w *wants) add(req GrowRequest, done chan<- madeVolumes) {
	w.mu.Lock()
	w.list = append(w.list, want{req, done})
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// grow has volumes made and waits until they are open.
func (t *term) grow(ctx context.Context, req GrowRequest) ([]*volume.Entry, error) {
	began := time.Now()
	for {
		moved := t.moved.Wait()
		ids, err := t.want(ctx, req)
		if err != nil {
			if !t.patient(err, began) && !errors.Is(err, errRests) {
				return nil, err
			}
			select {
			case <-ctx.Done():
				return nil, err
			case <-moved:
			case <-time.After(tick): // gossip may have changed, or patience ended
			}
			continue
		}
		es, err := t.opened(ctx, req, ids)
		if err != nil || len(es) > 0 {
			return es, err
		}
	}
}

// patient reports whether err may pass by itself within the patience left.
func (t *term) patient(err error, began time.Time) bool {
	if !errors.Is(err, volume.ErrUnsatisfiable) && !errors.Is(err, volume.ErrNoSpace) {
		return false
	}
	if time.Since(t.began) < patience {
		return true
	}
	return !t.topo.Warm() && time.Since(began) < patience
}

// want asks the round loop.
func (t *term) want(ctx context.Context, req GrowRequest) ([]volume.ID, error) {
	done := make(chan madeVolumes, 1)
	t.wants.add(req, done)
	select {
	case m := <-done:
		return m.ids, m.err
	case <-t.ctx.Done():
		return nil, &cluster.NotLeaderError{}
	case <-ctx.Done():
		return nil, fmt.Errorf("grow volumes: %w: %w", volume.ErrUnavailable, ctx.Err())
	}
}

// serveWant finds or makes the volumes of one request.
func (t *term) serveWant(view placement.View, req GrowRequest) ([]volume.ID, error) {
	if req.Count > 0 {
		return t.make(view, req, req.Count, placement.PlanAll)
	}
	if es := placement.Writable(view, req); len(es) > 0 {
		return idsOf(es), nil
	}
	if es := placement.Coming(view, req); len(es) > 0 {
		return idsOf(es), nil
	}
	if err := t.growthRests(req.Spec, time.Now()); err != nil {
		return nil, err
	}
	return t.make(view, req, placement.OnDemand(view, req.Spec, t.opt.Placement), placement.Plan)
}

func idsOf(es []*volume.Entry) (ids []volume.ID) {
	for _, e := range es {
		ids = append(ids, e.Volume)
	}
	return ids
}

// maxGrow bounds the volumes of one request, so that no typing error fills the
// cluster with empty volumes.
const maxGrow = 10_000

// maxForeignID bounds the ids of others that new volumes are numbered above: one
// near the end of all ids must not use up those before it, and no cluster will
// come so far by itself.
const maxForeignID = 1 << 31

// planner places up to n new volumes.
type planner func(v placement.View, req GrowRequest, n int) ([][]volume.NodeID, error)

// make proposes n new volumes, or as many as plan finds room for. Their numbers
// are above those of all volumes that any node has reported, whoever made them.
func (t *term) make(view placement.View, req GrowRequest, n int, plan planner) ([]volume.ID, error) {
	if n > maxGrow {
		return nil, fmt.Errorf("%w: %d volumes at once; at most %d", volume.ErrBadRequest, n, maxGrow)
	}
	sets, err := plan(view, req, n)
	if err != nil {
		return nil, err
	}
	cmd := catalog.Grow{Above: t.topo.HighestID(maxForeignID), Born: time.Now().Unix()}
	for _, nodes := range sets {
		v := catalog.NewVolume{Spec: req.Spec, Primary: nodes[0]}
		for _, node := range nodes {
			v.Holders = append(v.Holders, volume.Holder{Node: node, Copy: volume.NewCopyID()})
		}
		cmd.Volumes = append(cmd.Volumes, v)
	}
	res, err := t.opt.Log.Propose(t.ctx, catalog.Command{Grow: &cmd})
	if err := cmp.Or(err, res.Err); err != nil {
		return nil, fmt.Errorf("grow volumes: %w", err)
	}
	ids := idsOf(res.Entries)
	t.log.Info("new volumes", "volumes", len(ids), "first", ids[0], "collection", req.Spec.Collection, "placement", req.Spec.Placement)
	return ids, nil
}

// opened waits for volumes to be open: all of them when the request names a
// number, else one. None and no error means that all were given up again.
func (t *term) opened(ctx context.Context, req GrowRequest, ids []volume.ID) ([]*volume.Entry, error) {
	for {
		cat, changed := t.opt.Log.Catalog()
		var open []*volume.Entry
		pending := 0
		for _, id := range ids {
			switch e, ok := cat.Volume(id); {
			case ok && e.State == volume.StateNew:
				pending++
			case ok:
				open = append(open, e)
			}
		}
		switch {
		case req.Count > 0 && pending == 0 && len(open) < len(ids):
			return nil, fmt.Errorf("grow volumes: %w: %d of %d were given up, a holder could not make its copy", volume.ErrUnavailable, len(ids)-len(open), len(ids))
		case pending == 0, req.Count == 0 && len(open) > 0:
			return slices.Clip(open), nil
		}
		select {
		case <-changed:
		case <-t.ctx.Done():
			return nil, &cluster.NotLeaderError{}
		case <-ctx.Done():
			return nil, fmt.Errorf("grow volumes: %w: %d of %d are not open yet: %w", volume.ErrUnavailable, pending, len(ids), ctx.Err())
		}
	}
}
