package leader

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"weedd/cluster"
	"weedd/cluster/placement"
	"weedd/volume"
)

const (
	// compactLook is how often the leader looks for volumes to compact.
	compactLook = 250 * time.Millisecond
	// compactAtOnce bounds the volumes compacted at a time in the whole cluster;
	// on one node it is one.
	compactAtOnce = 4
	// orderAgain is how soon an order that shows no effect is repeated, and
	// orderLost how long until it is given up.
	orderAgain = time.Second
	orderLost  = 6 * time.Second
	// compactPause is how long a volume is left alone after a compaction that came
	// to nothing: the first time, doubling up to compactPauseMost.
	compactPause     = time.Minute
	compactPauseMost = time.Hour
	// compactRest is how long a volume that was compacted is left alone, unless it
	// is asked for by hand: a small one whose only file is overwritten all the time
	// is half garbage every moment, and each compaction is an epoch.
	compactRest = 10 * time.Minute
	// reportsLag is how old sizes in the view may be: volume servers report them
	// every second.
	reportsLag = 2 * time.Second
)

// compactions are the volumes that are being compacted, or were lately.
type compactions struct {
	looked time.Time // by the round loop

	mu     sync.Mutex
	runs   map[volume.ID]*compaction
	byHand *vacuum // at most one at a time
}

// compaction is one volume under way, or left alone for a while.
type compaction struct {
	order   volume.CompactOrder
	primary volume.NodeID
	holders []volume.NodeID
	before  int64     // bytes of .dat
	ordered time.Time // zero when it is not under way
	begun   bool      // the primary has said that it is at it
	pause   time.Duration
	again   time.Time // not before
}

// vacuum is a wish by hand to compact what has at least a share of garbage.
type vacuum struct {
	share float64
	until time.Time // it is not done before, for what was deleted just now may not have been reported
	tried map[volume.ID]bool
	done  chan struct{}
}

// Compact has all volumes compacted in which files replaced and deleted take at
// least that share of the bytes, and returns when each is compacted or was tried
// without success. While another such call is being served it returns at once.
func (l *Leader) Compact(ctx context.Context, share float64) error {
	t, err := l.leading(ctx)
	if err != nil {
		return err
	}
	return t.compactions.byOrder(ctx, t.ctx, share)
}

func (c *compactions) byOrder(ctx, term context.Context, share float64) error {
	c.mu.Lock()
	if c.byHand != nil {
		c.mu.Unlock()
		return nil
	}
	v := &vacuum{share: share, until: time.Now().Add(reportsLag), tried: map[volume.ID]bool{}, done: make(chan struct{})}
	c.byHand = v
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.byHand == v {
			c.byHand = nil
		}
	}()
	select {
	case <-v.done:
		return nil
	case <-term.Done():
		return &cluster.NotLeaderError{}
	case <-ctx.Done():
		return fmt.Errorf("compact volumes: %w: %w", volume.ErrUnavailable, ctx.Err())
	}
}

// compact looks what became of the volumes under way, and begins others.
func (t *term) compact(view placement.View, now time.Time) {
	c := &t.compactions
	if now.Sub(c.looked) < compactLook {
		return
	}
	c.looked = now
	c.mu.Lock()
	defer c.mu.Unlock()
	byID := map[volume.ID]*placement.Volume{}
	for i := range view.Volumes {
		byID[view.Volumes[i].Entry.Volume] = &view.Volumes[i]
	}
	busy, under := map[volume.NodeID]bool{}, 0
	for id, run := range c.runs {
		if t.follow(run, byID[id], now) {
			delete(c.runs, id)
		} else if !run.ordered.IsZero() {
			under++
			for _, n := range run.holders {
				busy[n] = true
			}
		}
	}
	if v := c.byHand; v != nil {
		left := 0
		for _, vol := range placement.Compactable(view, v.share) {
			if v.tried[vol.Entry.Volume] {
				continue
			}
			left++
			if c.begin(vol, now, true, busy, &under) {
				v.tried[vol.Entry.Volume] = true
			}
		}
		if left == 0 && !c.underWay(v.tried) && !now.Before(v.until) {
			close(v.done)
			c.byHand = nil
		}
	}
	if t.opt.GarbageThreshold > 0 {
		for _, vol := range placement.Compactable(view, t.opt.GarbageThreshold) {
			c.begin(vol, now, false, busy, &under)
		}
	}
}

func (c *compactions) underWay(ids map[volume.ID]bool) bool {
	for id, run := range c.runs {
		if ids[id] && !run.ordered.IsZero() {
			return true
		}
	}
	return false
}

// follow looks what became of one compaction, and reports whether it can be
// forgotten.
func (t *term) follow(run *compaction, vol *placement.Volume, now time.Time) (over bool) {
	if vol == nil {
		return true
	}
	var report volume.CopyReport
	for _, r := range vol.Copies {
		if r.Node == run.primary {
			report = *r.Report
		}
	}
	e := vol.Entry
	switch {
	case e.Compacted > run.order.Epoch:
		if !run.ordered.IsZero() {
			t.log.Info("volume compacted", "volume", e.Volume, "epoch", e.Epoch, "generation", e.Generation, "before", run.before)
		}
		run.order.Epoch, run.ordered, run.again, run.pause = e.Compacted, time.Time{}, now.Add(compactRest), 0
		return false
	case run.ordered.IsZero():
		return run.pause == 0 && now.After(run.again) || now.Sub(run.again) > compactPauseMost
	case e.Epoch == run.order.Epoch && report.Compacting: // the last report of a primary that is gone says so for ever
		run.begun = true
		return false
	case e.Epoch == run.order.Epoch && !run.begun && now.Sub(run.ordered) < orderLost:
		return false
	}
	run.pause = min(max(2*run.pause, compactPause), compactPauseMost)
	run.ordered, run.again = time.Time{}, now.Add(run.pause)
	t.log.Warn("volume not compacted", "volume", e.Volume, "peer", run.primary, "again", run.pause, "reason", report.Compaction)
	return false
}

// begin orders one compaction, if its nodes have none under way.
func (c *compactions) begin(vol placement.Volume, now time.Time, byHand bool, busy map[volume.NodeID]bool, under *int) bool {
	e := vol.Entry
	run := c.runs[e.Volume]
	if run != nil && (!run.ordered.IsZero() || !byHand && now.Before(run.again)) || *under >= compactAtOnce {
		return false
	}
	if slices.ContainsFunc(e.InSync, func(h volume.Holder) bool { return busy[h.Node] }) {
		return false
	}
	if run == nil {
		run = &compaction{}
		c.runs[e.Volume] = run
	}
	run.order, run.primary, run.ordered, run.begun = volume.CompactOrder{Volume: e.Volume, Epoch: e.Epoch, Clock: now}, e.Primary, now, false
	run.holders = nil
	for _, h := range e.InSync {
		run.holders = append(run.holders, h.Node)
		busy[h.Node] = true
	}
	for _, r := range vol.Copies {
		if r.Node == e.Primary {
			run.before = r.Report.Size
		}
	}
	*under++
	return true
}

// orders lists what a node is to compact and has not been told just now. told is
// when it was told of each.
func (c *compactions) orders(node volume.NodeID, now time.Time, told map[volume.ID]time.Time) []volume.CompactOrder {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []volume.CompactOrder
	for id, run := range c.runs {
		if run.primary == node && !run.ordered.IsZero() && !run.begun && now.Sub(told[id]) >= orderAgain {
			out = append(out, run.order)
			told[id] = now
		}
	}
	for id := range told {
		if c.runs[id] == nil {
			delete(told, id)
		}
	}
	return out
}
