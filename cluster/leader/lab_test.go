package leader_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"weedd/cluster"
	"weedd/cluster/catalog"
	"weedd/cluster/leader"
	"weedd/cluster/placement"
	"weedd/volume"
)

// fakeLog is a raft group of one: what is proposed is applied after a moment.
type fakeLog struct {
	mu        sync.Mutex
	cat       *catalog.Catalog
	changed   chan struct{}
	proposals int
}

func newFakeLog() *fakeLog {
	cat, _ := catalog.New().Apply(catalog.Command{Found: &catalog.Found{Cluster: "test"}})
	return &fakeLog{cat: cat, changed: make(chan struct{})}
}

func (l *fakeLog) Propose(ctx context.Context, cmd catalog.Command) (catalog.Result, error) {
	select {
	case <-ctx.Done():
		return catalog.Result{}, &cluster.NotLeaderError{}
	case <-time.After(2 * time.Millisecond): // a commit
	}
	decoded, err := catalog.Decode(cmd.Encode())
	if err != nil {
		return catalog.Result{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.proposals++
	next, res := l.cat.Apply(decoded)
	if next != l.cat {
		l.cat = next
		close(l.changed)
		l.changed = make(chan struct{})
	}
	return res, nil
}

func (l *fakeLog) Catalog() (*catalog.Catalog, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cat, l.changed
}

func (l *fakeLog) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.proposals
}

// lab is a cluster of fake volume servers round a real leader.
type lab struct {
	t      *testing.T
	log    *fakeLog
	leader *leader.Leader
	end    context.CancelFunc // ends the term
	wg     sync.WaitGroup

	mu      sync.Mutex
	members map[volume.NodeID]cluster.Node
	changed chan struct{}
	closed  map[volume.NodeID]bool // ports that refuse
	deaf    map[volume.NodeID]bool // nodes that nothing gets to, though they are heard
	servers map[volume.NodeID]*server

	doubt  error // that this leader leads
	warned warnings

	garbage    float64 // GarbageThreshold of the next leader
	noRoom     bool    // compactions come to nothing
	compacting int     // volumes under way, on any node
	most       int     // and how many there were at a time
	orders     int
}

// warnings counts what the leader warns of.
type warnings struct{ atomic.Int64 }

// Write implements io.Writer: slog writes each line at once.
func (w *warnings) Write(p []byte) (int, error) {
	w.Add(1)
	return len(p), nil
}

func newLab(t *testing.T, nodes ...volume.NodeID) *lab {
	l := &lab{t: t, log: newFakeLog(), members: map[volume.NodeID]cluster.Node{}, changed: make(chan struct{}),
		closed: map[volume.NodeID]bool{}, deaf: map[volume.NodeID]bool{}, servers: map[volume.NodeID]*server{}}
	l.elect()
	t.Cleanup(l.stop)
	for _, n := range nodes {
		l.start(n)
	}
	return l
}

// elect ends the term, if there is one, and begins the next at another leader.
func (l *lab) elect() {
	if l.end != nil {
		l.end()
	}
	led := leader.New(leader.Options{Self: "m1", Log: l.log, Gossip: l, Probe: l.probe, Confirm: l.confirm,
		Placement: placement.Settings{VolumeLimit: 1000}, GarbageThreshold: l.garbage, Logger: slog.New(slog.NewTextHandler(&l.warned, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	ctx, cancel := context.WithCancel(context.Background())
	l.mu.Lock()
	l.leader, l.end = led, cancel
	l.mu.Unlock()
	l.wg.Go(func() { led.Run(ctx) })
	synctest.Wait() // until it leads
}

// stop ends everything; no goroutine is left.
func (l *lab) stop() {
	l.mu.Lock()
	var ids []volume.NodeID
	for id := range l.servers {
		ids = append(ids, id)
	}
	l.mu.Unlock()
	for _, id := range ids {
		l.kill(id)
	}
	l.end()
	l.wg.Wait()
}

func (l *lab) current() *leader.Leader {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leader
}

func (l *lab) Watch() ([]cluster.Node, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []cluster.Node
	for _, n := range l.members {
		out = append(out, n)
	}
	return out, l.changed
}

func (l *lab) probe(ctx context.Context, n cluster.Node) error {
	l.mu.Lock()
	closed, deaf := l.closed[n.ID], l.deaf[n.ID]
	l.mu.Unlock()
	switch {
	case closed:
		return syscall.ECONNREFUSED
	case deaf:
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func (l *lab) confirm(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.doubt
}

func (l *lab) gossip(id volume.NodeID, edit func(*cluster.Node)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, ok := l.members[id]
	if !ok {
		n = cluster.Node{ID: id, Roles: cluster.RoleVolume, Internal: string(id) + ":9332", VolumeHTTP: string(id) + ":8080", Ready: true, Alive: true}
	}
	edit(&n)
	l.members[id] = n
	close(l.changed)
	l.changed = make(chan struct{})
}

// start starts a volume server, with the copies it had when it was killed.
func (l *lab) start(id volume.NodeID) {
	l.mu.Lock()
	s := l.servers[id]
	if s == nil {
		s = &server{lab: l, id: id, copies: map[volume.ID]volume.CopyReport{}, told: map[volume.ID]volume.Entry{}}
		l.servers[id] = s
	}
	l.closed[id] = false
	l.mu.Unlock()
	l.gossip(id, func(n *cluster.Node) { n.Alive, n.Ready = true, true })
	ctx, cancel := context.WithCancel(context.Background())
	s.mu.Lock()
	s.stop = cancel
	s.mu.Unlock()
	l.wg.Go(func() { s.run(ctx) })
}

// kill is kill -9: the port is closed at once, gossip notices a second later.
func (l *lab) kill(id volume.NodeID) {
	l.mu.Lock()
	l.closed[id] = true
	s := l.servers[id]
	l.mu.Unlock()
	s.mu.Lock()
	s.stop()
	s.mu.Unlock()
	l.wg.Go(func() {
		time.Sleep(time.Second)
		l.mu.Lock()
		dead := l.closed[id]
		l.mu.Unlock()
		if dead {
			l.gossip(id, func(n *cluster.Node) { n.Alive = false })
		}
	})
}

// freeze is a host that is cut off: nothing is refused, nothing is said.
func (l *lab) freeze(id volume.NodeID) {
	l.mu.Lock()
	s := l.servers[id]
	l.mu.Unlock()
	s.mu.Lock()
	s.frozen = true
	s.mu.Unlock()
	l.wg.Go(func() {
		time.Sleep(1200 * time.Millisecond)
		l.gossip(id, func(n *cluster.Node) { n.Alive = false })
	})
}

// server obeys like a volume server: it makes copies that it may make, and as
// primary asks for joining copies of servers that run to be in sync.
type server struct {
	lab *lab
	id  volume.NodeID

	mu     sync.Mutex
	stop   context.CancelFunc
	frozen bool
	broken bool // cannot make copies
	behind bool // its copies do not catch up
	copies map[volume.ID]volume.CopyReport
	told   map[volume.ID]volume.Entry
	drops  []volume.Drop
	gone   []volume.ID // dropped, to be reported
	drain  volume.DrainOrder
	size   int64 // of each copy
	kick   chan struct{}
}

func (s *server) run(ctx context.Context) {
	for ctx.Err() == nil {
		s.beat(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *server) beat(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	s.kick = make(chan struct{}, 1)
	kick := s.kick
	s.mu.Unlock()
	full := true
	recv := func() (volume.Report, error) {
		if !full {
			select {
			case <-ctx.Done():
				return volume.Report{}, io.EOF
			case <-kick:
			case <-time.After(300 * time.Millisecond):
			}
		}
		if s.isFrozen() {
			<-ctx.Done()
			return volume.Report{}, io.EOF
		}
		defer func() { full = false }()
		return s.report(full), nil
	}
	err := s.lab.current().Beat(ctx, recv, func(o volume.Orders) error { s.obey(ctx, o); return nil })
	cancel()
	if err == nil {
		s.lab.t.Error("a heartbeat ended without a reason")
	}
}

func (s *server) isFrozen() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.frozen
}

func (s *server) report(full bool) volume.Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := volume.Report{Node: s.id, Full: full, Disks: []volume.DiskReport{{Dir: "/d", Max: 100, Used: len(s.copies)}}}
	for _, c := range s.copies {
		c.Dir, c.Size = "/d", max(c.Size, s.size)
		r.Copies = append(r.Copies, c)
	}
	r.Gone, s.gone = s.gone, nil
	return r
}

func (s *server) set(c volume.CopyReport) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.copies[c.Volume] = c
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

func (s *server) obey(ctx context.Context, o volume.Orders) {
	if o.Drain != nil {
		s.mu.Lock()
		s.drain = *o.Drain
		s.mu.Unlock()
	}
	for _, e := range o.Entries {
		h, inSync, ok := e.Holder(s.id)
		s.mu.Lock()
		s.told[e.Volume] = e
		has, broken := s.copies[e.Volume], s.broken
		s.mu.Unlock()
		switch {
		case !ok || s.isFrozen():
		case has.Copy != h.Copy && broken:
			s.set(volume.CopyReport{Volume: e.Volume, Copy: h.Copy, State: volume.CopyFailed, Reason: "no room"})
		case has.Copy != h.Copy && (e.State == volume.StateNew || !inSync):
			s.set(volume.CopyReport{Volume: e.Volume, Copy: h.Copy, Spec: e.Spec, State: volume.CopyHealthy})
		case has.Copy != h.Copy:
			s.set(volume.CopyReport{Volume: e.Volume, Copy: h.Copy, State: volume.CopyLost})
		case has.ReadOnly != (e.State == volume.StateReadOnly):
			has.Epoch, has.ReadOnly = e.Epoch, !has.ReadOnly
			s.set(has)
		}
		if s.drains() && e.Primary == s.id && len(e.InSync) > e.Spec.Placement.Copies() {
			s.lab.wg.Go(func() {
				_, _ = s.lab.current().Ask(ctx, volume.Ask{Kind: volume.AskYield, Volume: e.Volume, Epoch: e.Epoch, From: h})
			})
		}
		if e.Primary == s.id && len(e.Joining) > 0 {
			s.lab.wg.Go(func() { s.add(ctx, e) })
		}
	}
	for _, c := range o.Compact {
		s.lab.wg.Go(func() { s.compact(ctx, c) })
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drops = append(s.drops, o.Drop...)
	for _, d := range o.Drop {
		if s.copies[d.Volume].Copy == d.Copy {
			delete(s.copies, d.Volume)
			s.gone = append(s.gone, d.Volume)
		}
	}
}

func (s *server) drains() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drain.Has("/d")
}

// add catches up with joining copies until they are in sync.
func (s *server) add(ctx context.Context, e volume.Entry) {
	for ctx.Err() == nil {
		for _, h := range e.Joining {
			if s.lab.caughtUp(e.Volume, h) {
				h0, _, _ := e.Holder(s.id)
				if _, err := s.lab.current().Ask(ctx, volume.Ask{Kind: volume.AskAdd, Volume: e.Volume, Epoch: e.Epoch, From: h0, Copies: []volume.Holder{h}}); err == nil || errors.Is(err, volume.ErrStale) {
					return // another entry comes
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// caughtUp reports whether the copy h runs and is well.
func (l *lab) caughtUp(id volume.ID, h volume.Holder) bool {
	l.mu.Lock()
	up, s := !l.closed[h.Node], l.servers[h.Node]
	l.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.copies[id]
	return up && !s.frozen && !s.behind && c.Copy == h.Copy && c.State == volume.CopyHealthy
}

func (l *lab) server(id volume.NodeID) *server {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.servers[id]
}

func (s *server) dropsSeen() []volume.Drop {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.drops)
}

func (l *lab) cat() *catalog.Catalog {
	c, _ := l.log.Catalog()
	return c
}

// within waits for cond at most d of fake time and gives the time it took.
func (l *lab) within(d time.Duration, what string, cond func() bool) time.Duration {
	l.t.Helper()
	began := time.Now()
	for !cond() {
		if time.Since(began) > d {
			l.t.Fatalf("not within %v: %s", d, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(began)
}

// grown starts a lab with open volumes of placement p.
func grown(t *testing.T, p volume.Placement, nodes ...volume.NodeID) *lab {
	t.Helper()
	l := newLab(t, nodes...)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := l.current().Grow(ctx, leader.GrowRequest{Spec: volume.Spec{Placement: p}}); err != nil {
		t.Fatal(err)
	}
	l.within(time.Second, "all volumes open", func() bool { return l.all(func(e *volume.Entry) bool { return e.State == volume.StateOpen }) })
	return l
}

func (l *lab) all(ok func(*volume.Entry) bool) bool {
	for _, e := range l.cat().Volumes() {
		if !ok(e) {
			return false
		}
	}
	return true
}

// in runs f in a bubble of fake time.
func in(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, f)
}
