package simulation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"weedd/cluster"
	"weedd/volume"
)

// server is a volume server, made up: it obeys and asks as a real one does, and
// writes by the rules of package replica in one step, on all copies or on none.
type server struct {
	w  *world
	id volume.NodeID

	// All guarded by world.mu.
	rng    *rand.Rand
	up     bool
	end    context.CancelFunc
	copies map[volume.ID]*replica
	made   map[volume.CopyID]bool // copies that it made, ever: none is made twice (rule R6)
	told   map[volume.ID]volume.Entry
	gone   []volume.ID
	asking map[volume.ID]bool
}

// replica is a copy. What it has in log and entered survives everything but its
// disk.
type replica struct {
	self    volume.Holder
	entered volume.Epoch
	log     []int // writes

	// As primary, in this run:
	renew    bool                   // it restarted, and does not write in its old epoch (rule R10)
	attached map[volume.Holder]bool // they have all that it has
	asked    []volume.Holder        // to be in sync: they count until a newer epoch is known (rule R9)
}

func (w *world) newServer(id volume.NodeID) *server {
	return &server{w: w, id: id, rng: source(w.seed, "server "+string(id)), copies: map[volume.ID]*replica{}, made: map[volume.CopyID]bool{}}
}

func (w *world) server(id volume.NodeID) *server {
	for _, s := range w.servers {
		if s.id == id {
			return s
		}
	}
	return nil
}

func (s *server) isUp() bool {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return s.up
}

func (s *server) start() {
	ctx, cancel := context.WithCancel(s.w.ctx)
	s.w.mu.Lock()
	s.up, s.end, s.told, s.asking = true, cancel, map[volume.ID]volume.Entry{}, map[volume.ID]bool{}
	for _, c := range s.copies {
		c.renew, c.attached, c.asked = true, map[volume.Holder]bool{}, nil
	}
	s.w.mu.Unlock()
	s.w.gossip.look()
	s.w.wg.Go(func() { s.beats(ctx) })
	s.w.wg.Go(func() { s.work(ctx) })
}

func (s *server) crash() {
	s.w.mu.Lock()
	s.up = false
	end := s.end
	s.w.mu.Unlock()
	s.w.tell("%s dies", s.id)
	end()
	s.w.gossip.look()
}

// beats keeps a heartbeat to whoever leads.
func (s *server) beats(ctx context.Context) {
	var last *run
	rng := source(s.w.seed, "beats of "+string(s.id))
	for sleep(ctx, time.Duration(20+rng.IntN(20))*ms) {
		to := s.w.findLeader(rng.IntN, last)
		if to == nil {
			continue
		}
		last = to
		if err := s.beat(ctx, to); errors.Is(err, volume.ErrNotLeader) {
			var not *cluster.NotLeaderError
			if errors.As(err, &not) {
				last = s.w.running(string(not.Internal))
			}
		}
		if rng.IntN(3) == 0 {
			last = nil
		}
	}
}

// beat is one stream, until it breaks or nothing is heard for 2 s.
func (s *server) beat(ctx context.Context, to *run) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(to.ctx, cancel) // a process that dies ends its streams
	defer stop()
	if s.w.net.travel(ctx, string(s.id), to.host.id) != nil || to.ctx.Err() != nil {
		return volume.ErrUnavailable
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	up, down := newFlow[volume.Report](), newFlow[volume.Orders]()
	heard := make(chan struct{}, 1)
	wg.Go(func() { s.reports(ctx, up) })
	wg.Go(func() {
		down.run(ctx, s.w.net, link{to.host.id, string(s.id)}, func(o volume.Orders) {
			s.obey(o)
			select {
			case heard <- struct{}{}:
			default:
			}
		})
	})
	arrived := make(chan volume.Report)
	wg.Go(func() {
		up.run(ctx, s.w.net, link{string(s.id), to.host.id}, func(r volume.Report) {
			select {
			case arrived <- r:
			case <-ctx.Done():
			}
		})
	})
	wg.Go(func() {
		for {
			select {
			case <-heard:
			case <-time.After(2 * time.Second):
				cancel()
				return
			case <-ctx.Done():
				return
			}
		}
	})
	recv := func() (volume.Report, error) {
		select {
		case r := <-arrived:
			return r, nil
		case <-ctx.Done():
			return volume.Report{}, io.EOF
		}
	}
	err := to.leader.Beat(ctx, recv, func(o volume.Orders) error { down.send(o); return nil })
	if s.w.net.travel(ctx, to.host.id, string(s.id)) != nil { // the end of the stream is heard, or 2 s pass
		return volume.ErrUnavailable
	}
	return err
}

// flow carries messages one way, in order.
type flow[T any] struct {
	news cluster.Signal
	mu   sync.Mutex
	list []T
}

func newFlow[T any]() *flow[T] { return new(flow[T]) }

func (f *flow[T]) send(v T) {
	f.mu.Lock()
	f.list = append(f.list, v)
	f.mu.Unlock()
	f.news.Raise()
}

func (f *flow[T]) run(ctx context.Context, n *network, l link, deliver func(T)) {
	for {
		news := f.news.Wait()
		f.mu.Lock()
		list := f.list
		f.list = nil
		f.mu.Unlock()
		for _, v := range list {
			if n.travel(ctx, l.from, l.to) != nil {
				return
			}
			deliver(v)
		}
		if len(list) > 0 {
			continue
		}
		select {
		case <-news:
		case <-ctx.Done():
			return
		}
	}
}

func (s *server) reports(ctx context.Context, up *flow[volume.Report]) {
	for full := true; ; full = false {
		up.send(s.report(full))
		if !sleep(ctx, 200*ms) {
			return
		}
	}
}

func (s *server) report(full bool) volume.Report {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	r := volume.Report{Node: s.id, Full: full, Now: time.Now(), Disks: []volume.DiskReport{{Dir: "/d", Max: 60, Used: len(s.copies)}}, Gone: s.gone}
	s.gone = nil
	for _, id := range slices.Sorted(maps.Keys(s.copies)) {
		c := s.copies[id]
		r.Copies = append(r.Copies, volume.CopyReport{Volume: id, Copy: c.self.Copy, State: volume.CopyHealthy, Epoch: c.entered,
			Leads: s.leadsLocked(id), Committed: int64(len(c.log)), Size: int64(len(c.log)), Dir: "/d"})
	}
	for _, id := range slices.Sorted(maps.Keys(s.told)) {
		e := s.told[id]
		h, inSync, named := e.Holder(s.id)
		if c := s.copies[id]; named && inSync && (c == nil || c.self != h) && s.made[h.Copy] {
			r.Copies = append(r.Copies, volume.CopyReport{Volume: id, Copy: h.Copy, State: volume.CopyLost, Reason: "gone"})
		}
	}
	return r
}

// leadsLocked reports whether the copy here takes writes, as far as it knows.
func (s *server) leadsLocked(id volume.ID) bool {
	c, e := s.copies[id], s.told[id]
	if c == nil {
		return false
	}
	_, inSync, _ := e.Holder(s.id)
	return e.Primary == s.id && inSync && e.Epoch == c.entered && !c.renew && e.State != volume.StateNew && !e.Unsure
}

func (s *server) obey(o volume.Orders) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	for _, e := range o.Entries {
		s.learnLocked(e)
	}
	for _, d := range o.Drop {
		s.dropLocked(d)
	}
}

// learnLocked takes an entry, from whoever knows it.
func (s *server) learnLocked(e volume.Entry) {
	if was := s.told[e.Volume]; e.Volume == 0 || was.Version >= e.Version {
		return
	}
	s.told[e.Volume] = e
	h, inSync, named := e.Holder(s.id)
	if !named || s.made[h.Copy] || inSync && e.State != volume.StateNew {
		return
	}
	if c := s.copies[e.Volume]; c != nil && c.self.Copy != h.Copy {
		delete(s.copies, e.Volume) // an older copy, which is moved aside
	}
	s.made[h.Copy] = true
	s.copies[e.Volume] = &replica{self: h, attached: map[volume.Holder]bool{}}
}

// dropLocked deletes a copy, and looks whether that is right (rule R14).
func (s *server) dropLocked(d volume.Drop) {
	c := s.copies[d.Volume]
	if c == nil || c.self.Copy != d.Copy {
		return
	}
	now, _ := s.w.newest()
	e, there := now.Volume(d.Volume)
	switch {
	case d.Deleted && !now.Deleted(d.Volume):
		s.w.fail("R14: %s is to drop its copy of volume %d, which was not deleted", s.id, d.Volume)
	case !d.Deleted && there:
		if h, _, _ := e.Holder(s.id); h == c.self {
			s.w.fail("R14: %s is to drop copy %s of volume %d, which is one of %+v", s.id, d.Copy, d.Volume, *e)
		}
	}
	delete(s.copies, d.Volume)
	s.gone = append(s.gone, d.Volume)
	s.w.count("drops")
}

// work does what primaries do.
func (s *server) work(ctx context.Context) {
	for pause := ms; sleep(ctx, pause); {
		s.w.net.awake(ctx, string(s.id))
		s.w.mu.Lock()
		pause = time.Duration(10+s.rng.IntN(30)) * ms
		for _, id := range s.ledLocked() {
			if ctx.Err() == nil {
				s.workLocked(ctx, id, s.told[id], s.copies[id])
			}
		}
		s.w.judgeLocked()
		s.w.mu.Unlock()
	}
}

func (s *server) ledLocked() (ids []volume.ID) {
	for id, c := range s.copies {
		if e := s.told[id]; e.Primary == s.id && slices.Contains(e.InSync, c.self) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// peerLocked gives the copy h as this server reaches it, nil if it does not.
func (s *server) peerLocked(id volume.ID, h volume.Holder) *replica {
	p := s.w.server(h.Node)
	if p == nil || !p.up || p != s && !s.w.net.whole(string(s.id), string(h.Node)) {
		return nil
	}
	if c := p.copies[id]; c != nil && c.self == h {
		return c
	}
	return nil
}

func (s *server) workLocked(ctx context.Context, id volume.ID, e volume.Entry, c *replica) {
	switch {
	case e.Epoch < c.entered:
		return // another leads, in an epoch that this one has not heard of
	case e.Epoch > c.entered:
		c.entered, c.renew, c.asked, c.attached = e.Epoch, false, nil, map[volume.Holder]bool{}
	case c.renew && e.Epoch > 0 && e.State != volume.StateNew:
		s.askLocked(ctx, e, volume.Ask{Kind: volume.AskLead}, nil)
		return
	}
	if !s.attachLocked(id, e, c) || e.State == volume.StateNew {
		return
	}
	switch n := s.rng.IntN(100); {
	case n < 40:
		s.writeLocked(ctx, id, e, c)
	case n < 60:
		s.addLocked(ctx, id, e, c)
	case n < 61 && len(e.Joining) == 0 && len(c.asked) == 0 && s.allLocked(id, e.InSync, c):
		s.askLocked(ctx, e, volume.Ask{Kind: volume.AskCompact, Copies: e.InSync, Generation: e.Generation + 1}, c)
	case n < 62:
		s.askLocked(ctx, e, volume.Ask{Kind: volume.AskYield}, nil)
	}
}

// attachLocked makes the other copies equal to the primary's, as streams do, and
// reports whether this one still leads: a copy in a later epoch says no.
func (s *server) attachLocked(id volume.ID, e volume.Entry, c *replica) bool {
	for _, h := range slices.Concat(e.InSync, e.Joining) {
		p := s.peerLocked(id, h)
		switch {
		case p == nil:
			delete(c.attached, h)
		case p.entered > e.Epoch:
			return false
		case p != c && (!c.attached[h] || p.entered < e.Epoch || len(p.log) != len(c.log)):
			p.log, p.entered = slices.Clone(c.log), e.Epoch
			s.w.server(h.Node).learnLocked(e)
		}
		if p != nil {
			c.attached[h] = true
		}
	}
	return true
}

func (s *server) allLocked(id volume.ID, hs []volume.Holder, c *replica) bool {
	for _, h := range hs {
		if p := s.peerLocked(id, h); p == nil || !c.attached[h] || p.entered != c.entered {
			return false
		}
	}
	return true
}

// writeLocked writes once, if all copies that count take it; else it asks for
// those to be removed that do not answer.
func (s *server) writeLocked(ctx context.Context, id volume.ID, e volume.Entry, c *replica) {
	var silent []volume.Holder
	for _, h := range e.InSync {
		if !s.allLocked(id, []volume.Holder{h}, c) {
			silent = append(silent, h)
		}
	}
	if len(silent) > 0 {
		s.askLocked(ctx, e, volume.Ask{Kind: volume.AskRemove, Copies: silent}, nil)
		return
	}
	if !s.allLocked(id, c.asked, c) {
		// A copy that it has asked for is silent, or joins no more: only a new epoch
		// proves that it was not added.
		s.askLocked(ctx, e, volume.Ask{Kind: volume.AskLead}, nil)
		return
	}
	if len(e.InSync) < e.Spec.Placement.MinCopies() {
		return
	}
	s.w.writes++
	for _, h := range slices.Concat(e.InSync, e.Joining) {
		if p := s.peerLocked(id, h); p != nil && c.attached[h] && p.entered == e.Epoch {
			p.log = append(p.log, s.w.writes)
		} else {
			delete(c.attached, h)
		}
	}
	s.w.truth[id] = append(s.w.truth[id], s.w.writes)
}

func (s *server) addLocked(ctx context.Context, id volume.ID, e volume.Entry, c *replica) {
	for _, h := range e.Joining {
		if s.allLocked(id, []volume.Holder{h}, c) {
			s.askLocked(ctx, e, volume.Ask{Kind: volume.AskAdd, Copies: []volume.Holder{h}}, c)
			return
		}
	}
}

// askLocked asks the leader, one question of a volume at a time. Copies asked for
// count from then on, by c.
func (s *server) askLocked(ctx context.Context, e volume.Entry, ask volume.Ask, c *replica) {
	if s.asking[e.Volume] {
		return
	}
	asking := s.asking
	asking[e.Volume] = true
	ask.Volume, ask.Epoch, ask.From = e.Volume, e.Epoch, s.copies[e.Volume].self
	if c != nil {
		c.asked = append(c.asked, ask.Copies...)
	}
	s.w.wg.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		entry, err := s.ask(ctx, ask)
		s.w.mu.Lock()
		defer s.w.mu.Unlock()
		delete(asking, e.Volume)
		if err == nil {
			s.w.count(fmt.Sprintf("asks to %s granted", ask.Kind))
		}
		if s.up && len(entry.InSync) > 0 {
			s.learnLocked(entry)
		}
	})
}

func (s *server) ask(ctx context.Context, ask volume.Ask) (volume.Entry, error) {
	to := s.w.findLeader(func(n int) int { return int(ask.Epoch) % n }, s.w.anyRun())
	if to == nil {
		return volume.Entry{}, volume.ErrUnavailable
	}
	return call(ctx, s.w, string(s.id), to, func(ctx context.Context, r *run) (volume.Entry, error) { return r.leader.Ask(ctx, ask) })
}
