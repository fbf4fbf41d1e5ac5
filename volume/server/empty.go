package server

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"weedd/volume"
	"weedd/volume/replica"
)

// emptyAgain is how often copies are looked at that have to hand over before they
// can leave, besides when an entry changes.
const emptyAgain = 2 * time.Second

// handOverTime bounds one hand-over: writes wait meanwhile.
const handOverTime = 5 * time.Second

// empty learns what of this node is being drained. The masters move the copies;
// here new ones keep away, and primaries hand over when they can be spared.
func (s *Server) empty(d volume.DrainOrder) {
	s.opts.Store.Avoid(d.Dirs)
	s.mu.Lock()
	s.emptying = d
	s.mu.Unlock()
	s.wakeEmpty()
}

func (s *Server) wakeEmpty() {
	select {
	case s.emptyNow <- struct{}{}:
	default:
	}
}

// emptyLoop hands over the volumes that this node leads and that have a copy more
// in sync than asked for, where the one here is to go. Without that a write under
// way would be cut off when the masters take it out.
func (s *Server) emptyLoop(ctx context.Context) {
	tick := time.NewTicker(emptyAgain)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.emptyNow:
		case <-tick.C:
		}
		var g errgroup.Group
		g.SetLimit(drainers)
		for _, r := range s.spareLeads() {
			g.Go(func() error {
				ctx, cancel := context.WithTimeout(ctx, handOverTime)
				defer cancel()
				if err := r.Yield(ctx); err != nil && ctx.Err() == nil {
					s.log.Warn("a volume that is being drained cannot be handed over yet", "volume", r.Entry().Volume, "err", err)
				}
				return nil
			})
		}
		g.Wait() // no error: the next look tries again
	}
}

// spareLeads lists the copies here that lead, are to go, and can be spared.
func (s *Server) spareLeads() (out []*replica.Replica) {
	s.mu.Lock()
	d, all := s.emptying, s.allLocked()
	s.mu.Unlock()
	if !d.Node && len(d.Dirs) == 0 {
		return nil
	}
	for _, r := range all {
		e := r.Entry()
		if e.Primary == s.opts.Node && len(e.InSync) > e.Spec.Placement.Copies() && d.Has(s.dir(e.Volume)) {
			out = append(out, r)
		}
	}
	return out
}
