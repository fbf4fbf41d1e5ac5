package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"weedd/volume"
	"weedd/volume/replica"
)

// How a request is held for a primary.
const (
	holdFirst   = 10 * time.Millisecond // between two attempts, doubling
	holdLast    = 200 * time.Millisecond
	locateLimit = time.Second            // for one question to the masters
	watchAfter  = time.Second            // an attempt that takes so long is watched
	watchEvery  = 250 * time.Millisecond // for another primary
)

// target is where a write goes.
type target struct {
	entry volume.Entry
	local *replica.Replica // set when the primary is on this node
	node  volume.Node      // else the primary
}

// target finds the primary of a volume by the newest entry known; with fresh, it
// asks a master first. volume.ErrNoVolume is a master's word.
func (s *Server) target(ctx context.Context, id volume.ID, fresh bool) (target, error) {
	r := s.copy(id)
	var e volume.Entry
	if r != nil {
		e = r.Entry()
	}
	if r == nil || fresh || e.Epoch == 0 {
		known, err := s.locate(ctx, id, fresh)
		if e = known.entry; r != nil {
			if err == nil {
				r.Learn(e)
			}
			e = r.Entry() // may be newer, and is there while no master can be asked
		}
		if err != nil && e.Epoch == 0 {
			return target{}, err
		}
	}
	if e.Primary == s.opts.Node {
		if r == nil {
			return target{}, fmt.Errorf("%w: volume %d: the copy that should lead is not on this node", volume.ErrUnavailable, id)
		}
		return target{entry: e, local: r}, nil
	}
	n, err := s.node(ctx, id, e.Primary)
	return target{entry: e, node: n}, err
}

// locate asks a master where a volume is, unless one was asked lately. What was
// known before comes with an error, too.
func (s *Server) locate(ctx context.Context, id volume.ID, fresh bool) (route, error) {
	now := s.opts.Now()
	known := s.routes.get(id)
	if !fresh && now.Before(known.until) {
		return known, nil
	}
	ctx, cancel := context.WithTimeout(ctx, locateLimit)
	defer cancel()
	var past uint64
	if fresh { // what is known did not do; this node's own master may know no better
		past = known.entry.Version
		if r := s.copy(id); r != nil {
			past = max(past, r.Entry().Version)
		}
	}
	e, nodes, err := s.opts.Master.Locate(ctx, id, past)
	switch {
	case err == nil:
		return s.routes.put(route{e, nodes, now.Add(routeLife)}), nil
	case errors.Is(err, volume.ErrNoVolume):
		return known, fmt.Errorf("locate volume %d: %w", id, err)
	}
	return known, fmt.Errorf("%w: locate volume %d: %w", volume.ErrUnavailable, id, err)
}

// located is locate for a read: with nothing known of the volume it waits for a
// master that can be asked.
func (s *Server) located(ctx context.Context, id volume.ID) (route, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Hold)
	defer cancel()
	for wait := holdFirst; ; {
		known, err := s.locate(ctx, id, false)
		if !errors.Is(err, volume.ErrUnavailable) || known.entry.Epoch != 0 || !s.pause(ctx, id, &wait) {
			return known, err
		}
	}
}

// routes remembers what masters said of volumes, for a short time: a stale entry
// costs a refusal by the node it names.
type routes struct {
	mu    sync.Mutex
	known map[volume.ID]route
}

type route struct {
	entry volume.Entry
	nodes []volume.Node // of its holders, those that the master knew
	until time.Time
}

const (
	routeLife = time.Second
	maxRoutes = 10000
)

// get returns what was known last, however old; the zero value for nothing.
func (r *routes) get(id volume.ID) route {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known[id]
}

// put remembers now, but keeps a newer entry: a master may lag behind another.
func (r *routes) put(now route) route {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.known[now.entry.Volume]; old.entry.Version > now.entry.Version {
		old.until = now.until
		now = old
	}
	if r.known == nil || len(r.known) >= maxRoutes {
		r.known = map[volume.ID]route{}
	}
	r.known[now.entry.Volume] = now
	return now
}

// attempt is one try of a write at a target. It is repeated only when the try
// before it did nothing, or, with after, when the outcome of one in the epoch after
// is unknown and another has begun since.
type attempt func(ctx context.Context, t target, after volume.Epoch) error

// write makes attempts until one succeeds or is refused for good, for as long as
// requests are held. After an attempt whose outcome is unknown it waits for a
// new epoch, in which the old attempt can do nothing any more; then only success
// tells the outcome.
func (s *Server) write(ctx context.Context, id volume.ID, do attempt) error {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Hold)
	defer cancel()
	var unknown, last error
	var after, unknownIn volume.Epoch // of the first and the last attempt with an unknown outcome
	fresh := false
	for wait := holdFirst; ; {
		t, err := s.target(ctx, id, fresh)
		if err == nil && (unknown == nil || t.entry.Epoch > unknownIn) {
			if err = s.try(ctx, t, after, do); err == nil {
				return nil
			}
			if errors.Is(err, volume.ErrOutcomeUnknown) {
				unknown, unknownIn = err, t.entry.Epoch
				after = cmp.Or(after, unknownIn)
			}
		}
		if err != nil && !again(err) && unknown == nil {
			return err
		}
		if err != nil && !again(err) && !errors.Is(err, volume.ErrOutcomeUnknown) {
			return unknown
		}
		if err != nil {
			last = err
		}
		fresh = true
		if !s.pause(ctx, id, &wait) {
			break
		}
	}
	if unknown != nil {
		return unknown
	}
	// The last error's identity says what one node answered, not what this
	// request came to.
	return fmt.Errorf("%w: no primary of volume %d took the request in time: %v", volume.ErrUnavailable, id, last)
}

// again reports whether err says that nothing was done and that another attempt
// may fare better.
func again(err error) bool {
	for _, e := range []error{volume.ErrNotPrimary, volume.ErrStale, volume.ErrUnavailable, volume.ErrClosed, errElsewhere} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// errElsewhere marks a node's word that it has no copy: the volume may well be.
var errElsewhere = errors.New("no copy on the node asked")

// pause waits for news of a volume, a little longer each time. It reports false
// when the time is up.
func (s *Server) pause(ctx context.Context, id volume.ID, wait *time.Duration) bool {
	var moved <-chan struct{}
	if r := s.copy(id); r != nil {
		_, _, moved = r.Watch()
	}
	timer := time.NewTimer(*wait)
	defer timer.Stop()
	*wait = min(2**wait, holdLast)
	select {
	case <-timer.C:
	case <-moved:
	case <-ctx.Done():
	case <-s.ctx.Done():
		return false
	}
	return ctx.Err() == nil
}

// try makes one attempt. One at another node is given up when that is no longer
// the primary: a frozen process keeps its sockets open.
func (s *Server) try(ctx context.Context, t target, after volume.Epoch, do attempt) error {
	if t.local != nil {
		return do(ctx, t, after)
	}
	s.metrics.forwards.Inc()
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	slow := time.AfterFunc(watchAfter, func() {
		defer close(done)
		s.watch(ctx, t)
		cancel()
	})
	defer func() {
		cancel()
		if !slow.Stop() {
			<-done
		}
	}()
	err := do(ctx, t, after)
	if errors.Is(err, volume.ErrNoVolume) {
		return fmt.Errorf("%w: %w", errElsewhere, err)
	}
	return err
}

// watch returns when another node leads the volume, or ctx has ended.
func (s *Server) watch(ctx context.Context, t target) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		now, err := s.target(ctx, t.entry.Volume, true)
		if err == nil && now.entry.Epoch > t.entry.Epoch && now.entry.Primary != t.entry.Primary {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
