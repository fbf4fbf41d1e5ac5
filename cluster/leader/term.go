package leader

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"syscall"
	"time"

	"weedd/cluster"
	"weedd/cluster/catalog"
	"weedd/cluster/placement"
	"weedd/cluster/topology"
	"weedd/volume"
)

const (
	// tick is how often time itself is looked at: whether somebody has been
	// silent for too long. Everything else comes by signals.
	tick = 250 * time.Millisecond
	// gather is how long a round waits for more signals: what happens together
	// is decided together.
	gather = 5 * time.Millisecond
	// gatherMost bounds it where planning itself takes long, see rounds.
	gatherMost = 250 * time.Millisecond
	// probeTime bounds a probe. Refusal is immediate; who does not answer for so
	// long is left to gossip.
	probeTime = 500 * time.Millisecond
	// growPause is how long growth ahead of need waits between two attempts, so
	// that a node that fails at making volumes does not make a storm of them.
	// After volumes were given up it doubles, up to growPauseMost, for requests too.
	growPause     = time.Second
	growPauseMost = 10 * time.Second
	// joinPause is the same for making copies of one volume anew: the first pause,
	// which doubles from one attempt to the next, up to joinPauseMost.
	joinPause     = 5 * time.Second
	joinPauseMost = 10 * time.Minute
	// perCommand bounds the changes of one raft entry.
	perCommand = 1000
)

// term is one leadership. Its goroutines are the round loop, which plans and
// proposes what follows from observations and makes all volumes; the batcher,
// which proposes what copies ask; and probes. run waits for all of them.
type term struct {
	opt   *Options
	ctx   context.Context
	log   *slog.Logger
	began time.Time
	topo  *topology.Map
	ready chan struct{}  // closed when everything decided before this term is in the catalog
	moved cluster.Signal // an observation has changed
	asked batcher
	wants wants

	compactions compactions
	progress    progress

	// The round loop's own.
	nextProbe time.Time
	planning  time.Duration // what the last plan took
	grown     map[volume.Spec]time.Time
	failed    map[volume.Spec]attempt // growth that was given up
	seen      map[volume.ID]time.Time // when foreign volumes were first seen
	probes    sync.WaitGroup

	mu      sync.Mutex
	probing map[volume.NodeID]chan struct{} // closed when the probe has ended
	joined  map[volume.ID]attempt           // set by the round loop alone
	kept    map[volume.ID]string            // foreign volumes that are not adopted, and why
}

func newTerm(ctx context.Context, opt *Options) *term {
	now := time.Now()
	return &term{
		opt: opt, ctx: ctx, log: opt.Logger, began: now,
		topo:   topology.New(topology.Settings{Warmup: opt.Warmup}, now),
		ready:  make(chan struct{}),
		asked:  batcher{wake: make(chan struct{}, 1)},
		wants:  wants{wake: make(chan struct{}, 1)},
		grown:  map[volume.Spec]time.Time{},
		failed: map[volume.Spec]attempt{},
		joined: map[volume.ID]attempt{},
		seen:   map[volume.ID]time.Time{},
		kept:   map[volume.ID]string{},

		compactions: compactions{runs: map[volume.ID]*compaction{}},
		probing:     map[volume.NodeID]chan struct{}{},
	}
}

func (t *term) run() {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer t.endProbes()
	if !t.barrier() {
		return
	}
	close(t.ready)
	wg.Go(t.proposeAsked)
	t.rounds()
}

// barrier commits nothing, and with it everything that older terms left in the
// log: orders to drop must not come from an older catalog.
func (t *term) barrier() bool {
	for {
		_, err := t.opt.Log.Propose(t.ctx, catalog.Command{Change: &catalog.Batch{}})
		if err == nil {
			return true
		}
		t.log.Debug("the term cannot begin yet", "err", err)
		select {
		case <-t.ctx.Done():
			return false
		case <-time.After(gather):
		}
	}
}

// rounds looks at everything and does what follows, whenever something changed.
func (t *term) rounds() {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		cat, catalogChanged := t.opt.Log.Catalog()
		members, gossipChanged := t.opt.Gossip.Watch()
		moved := t.moved.Wait()
		t.topo.Members(members)
		t.probeSilent(cat)
		t.round(cat)
		select {
		case <-t.ctx.Done():
			return
		case <-catalogChanged:
		case <-gossipChanged:
		case <-moved:
		case <-t.wants.wake:
		case <-ticker.C:
		}
		select {
		case <-t.ctx.Done():
			return
		case <-time.After(min(max(gather, 4*t.planning), gatherMost)): // so that planning takes a fifth of one core at most
		}
	}
}

// round settles what is wrong, makes the volumes that somebody waits for, and
// then those that will be needed.
func (t *term) round(cat *catalog.Catalog) {
	now := time.Now()
	view := t.topo.View(cat, now)
	steps := t.due(placement.Settle(view, t.opt.Placement), cat, now)
	t.planning = time.Since(now)
	wants := t.wants.take()
	if len(steps) > 0 {
		t.noteGivenUp(steps, cat, now)
		t.takeSteps(steps)
		cat, _ = t.opt.Log.Catalog()
		view = t.topo.View(cat, now)
	}
	if t.adopt(view, now) {
		cat, _ = t.opt.Log.Catalog()
		view = t.topo.View(cat, now)
	}
	for _, w := range wants {
		made, err := t.serveWant(view, w.req)
		w.done <- madeVolumes{made, err}
		if len(made) > 0 {
			cat, _ = t.opt.Log.Catalog()
			view = t.topo.View(cat, now)
		}
	}
	t.compact(view, now)
	t.progress.look(view, t.opt.Placement, cat.Drains(), now)
	for _, req := range placement.Growth(view, t.opt.Placement) {
		if now.Sub(t.grown[req.Spec]) < growPause || t.growthRests(req.Spec, now) != nil {
			continue
		}
		t.grown[req.Spec] = now
		if _, err := t.make(view, req, req.Count, placement.Plan); err != nil {
			t.log.Debug("no growth", "collection", req.Spec.Collection, "placement", req.Spec.Placement, "err", err)
		}
		return // the next one with the load of this one counted
	}
}

// attempt is the last time that something was tried that did not last, a copy
// made anew or volumes that were given up, and how long the next one waits.
type attempt struct {
	last  time.Time
	pause time.Duration
	why   string
}

// next is the attempt after a, now: the pause doubles between the two bounds.
func (a attempt) next(now time.Time, least, most time.Duration, why string) attempt {
	return attempt{now, min(max(2*a.pause, least), most), why}
}

// over reports whether a is so long ago that the next one is about another
// trouble.
func (a attempt) over(now time.Time) bool { return now.Sub(a.last) > 2*a.pause }

// noteGivenUp notes the kinds of new volumes that steps give up: more of them
// would hardly fare better at once.
func (t *term) noteGivenUp(steps []placement.Step, cat *catalog.Catalog, now time.Time) {
	maps.DeleteFunc(t.failed, func(_ volume.Spec, a attempt) bool { return a.over(now) })
	for _, s := range steps {
		e, ok := cat.Volume(s.Volume)
		if !ok || !s.Delete() || e.State != volume.StateNew {
			continue
		}
		if a := t.failed[e.Spec]; a.last != now {
			t.failed[e.Spec] = a.next(now, growPause, growPauseMost, s.Reason)
		}
	}
}

var errRests = fmt.Errorf("grow volumes: %w: new ones were given up", volume.ErrUnavailable)

// growthRests is nil unless new volumes of spec were given up just now.
func (t *term) growthRests(spec volume.Spec, now time.Time) error {
	if a := t.failed[spec]; now.Sub(a.last) < a.pause {
		return fmt.Errorf("%w: %s", errRests, a.why)
	}
	return nil
}

// due leaves out what makes a copy of a volume anew again soon after the last
// time: where copies fail at once that would be a loop without end. Nothing else
// waits for that: another primary least of all.
func (t *term) due(steps []placement.Step, cat *catalog.Catalog, now time.Time) []placement.Step {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, a := range t.joined {
		if a.over(now) {
			delete(t.joined, id)
		}
	}
	var out []placement.Step
	for _, s := range steps {
		if anew(s) {
			a, again := t.joined[s.Volume]
			if again && now.Sub(a.last) < a.pause {
				if s, more := withoutNew(s, cat); more {
					out = append(out, s)
				}
				continue
			}
			t.joined[s.Volume] = a.next(now, joinPause, joinPauseMost, s.Reason)
		}
		out = append(out, s)
	}
	return out
}

// withoutNew is s without the copies that it lets be made, and whether it still
// decides on anything that cannot wait.
func withoutNew(s placement.Step, cat *catalog.Catalog) (placement.Step, bool) {
	ch := *s.Change
	ch.Next.Joining = slices.DeleteFunc(slices.Clone(ch.Next.Joining), func(h volume.Holder) bool { return h.Copy == 0 })
	s.Change = &ch
	e, ok := cat.Volume(s.Volume)
	return s, ok && (ch.Renew || ch.Next.Primary != e.Primary || ch.Next.State != e.State || !slices.Equal(ch.Next.InSync, e.InSync))
}

// anew reports whether a step lets a copy be made.
func anew(s placement.Step) bool {
	if s.Change == nil {
		return false
	}
	for _, h := range s.Change.Next.Joining {
		if h.Copy == 0 {
			return true
		}
	}
	return false
}

// takeSteps proposes steps, in as few commands as they fit in.
func (t *term) takeSteps(steps []placement.Step) {
	var doomed []volume.ID
	var why string
	var changes []placement.Step
	for _, s := range steps {
		if s.Delete() {
			doomed = append(doomed, s.Volume)
			why = s.Reason
			continue
		}
		next := &s.Change.Next
		for i := range next.Joining {
			if next.Joining[i].Copy == 0 {
				next.Joining[i].Copy = volume.NewCopyID()
			}
		}
		changes = append(changes, s)
	}
	if len(doomed) > 0 {
		t.log.Warn("deleting volumes", "volumes", doomed, "reason", why)
		if res, err := t.opt.Log.Propose(t.ctx, catalog.Command{Delete: &catalog.Delete{Volumes: doomed}}); cmp.Or(err, res.Err) != nil {
			t.refused("delete volumes", cmp.Or(err, res.Err))
			return
		}
	}
	for len(changes) > 0 {
		n := min(len(changes), perCommand)
		t.takeChanges(changes[:n])
		changes = changes[n:]
	}
}

func (t *term) takeChanges(steps []placement.Step) {
	batch := catalog.Batch{}
	for _, s := range steps {
		batch.Changes = append(batch.Changes, *s.Change)
	}
	res, err := t.opt.Log.Propose(t.ctx, catalog.Command{Change: &batch})
	if err := cmp.Or(err, res.Err); err != nil {
		t.refused("settle volumes", err)
		return
	}
	for i, s := range steps {
		if err := res.Errs[i]; err != nil {
			// Something else changed the volume meanwhile; the next round sees it.
			t.log.Debug("step refused", "volume", s.Volume, "reason", s.Reason, "err", err)
			continue
		}
		level := slog.LevelInfo
		if len(steps) > 20 {
			level = slog.LevelDebug
		}
		t.log.Log(t.ctx, level, "volume settled", "volume", s.Volume, "epoch", res.Entries[i].Epoch,
			"state", res.Entries[i].State, "primary", res.Entries[i].Primary, "reason", s.Reason)
	}
	if len(steps) > 20 {
		t.log.Info("volumes settled", "volumes", len(steps), "first", steps[0].Reason)
	}
}

// refused logs a proposal that failed. The end of the term is no news.
func (t *term) refused(what string, err error) {
	if t.ctx.Err() == nil && !errors.Is(err, volume.ErrNotLeader) {
		t.log.Warn("cannot "+what, "err", err)
	}
}

// probeSilent probes the nodes without a stream, all at once, some times a
// second.
func (t *term) probeSilent(cat *catalog.Catalog) {
	now := time.Now()
	if now.Before(t.nextProbe) {
		return
	}
	t.nextProbe = now.Add(tick)
	for _, n := range t.topo.Silent(cat) {
		t.probe(n)
	}
}

// probe asks a node's kernel whether the process is there. The channel is closed
// when the outcome is noted; it is nil when there is nothing to ask.
func (t *term) probe(n cluster.Node) (done chan struct{}) {
	if t.opt.Probe == nil || n.Internal == "" {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if done = t.probing[n.ID]; done != nil || t.ctx.Err() != nil {
		return done
	}
	done = make(chan struct{})
	t.probing[n.ID] = done
	t.probes.Go(func() {
		ctx, cancel := context.WithTimeout(t.ctx, probeTime)
		defer cancel()
		began := time.Now()
		err := t.opt.Probe(ctx, n)
		t.noteProbe(n.ID, began, err)
		t.mu.Lock()
		delete(t.probing, n.ID)
		t.mu.Unlock()
		close(done)
	})
	return done
}

func (t *term) noteProbe(id volume.NodeID, began time.Time, err error) {
	news := false
	switch {
	case err == nil:
		t.topo.Answered(id, time.Now())
	case errors.Is(err, syscall.ECONNREFUSED):
		news = t.topo.Refused(id, began)
	case t.ctx.Err() == nil:
		news = t.topo.Missed(id)
	}
	if news {
		t.moved.Raise()
	}
}

// reaches reports whether a node that asks something can be told the outcome.
func (t *term) reaches(ctx context.Context, id volume.NodeID) bool {
	done := t.probe(t.topo.Node(id))
	if done == nil || id == t.opt.Self {
		return true
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
	return t.topo.Reached(id)
}

// endProbes waits for the probes under way once the term's context has ended.
func (t *term) endProbes() {
	t.mu.Lock() // whoever starts one after this sees that the term is over
	//lint:ignore SA2001 only the order counts
	t.mu.Unlock()
	t.probes.Wait()
}
