package simulation

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"weedd/cluster"
	"weedd/cluster/catalog"
	"weedd/cluster/consensus"
	"weedd/cluster/leader"
	"weedd/cluster/master"
	"weedd/cluster/placement"
	"weedd/volume"
)

// host is a machine with a master on it.
type host struct {
	id     string
	disk   *disk
	run    *run // nil while it is down; guarded by world.mu
	runs   int
	starts bool // it is about to run
	off    bool // without power: nobody there refuses anything
}

// run is one life of a master's process.
type run struct {
	w      *world
	host   *host
	disk   *disk
	name   string
	rng    *rand.Rand // of its clients
	ctx    context.Context
	die    context.CancelFunc
	wg     sync.WaitGroup
	value  *value
	group  *consensus.Group
	leader *leader.Leader
	master *master.Master

	mu    sync.Mutex
	conns []*conn
}

// value is the catalog as one run has it, and how many commands made it.
type value struct {
	run *run

	mu      sync.Mutex
	seq     int
	now     *catalog.Catalog
	changed chan struct{}
}

// applied is what a command came to, and where in the order of all it is.
type applied struct {
	catalog.Result
	seq int
}

func (v *value) Catalog() (*catalog.Catalog, <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.now, v.changed
}

func (v *value) setLocked(c *catalog.Catalog) {
	v.now = c
	close(v.changed)
	v.changed = make(chan struct{})
}

func (v *value) Apply(command []byte) any {
	v.mu.Lock()
	defer v.mu.Unlock()
	cmd, err := catalog.Decode(command)
	if err != nil {
		v.run.w.fail("%s cannot read a command: %v", v.run.name, err)
		return applied{Result: catalog.Result{Err: err}}
	}
	next, res := v.now.Apply(cmd)
	v.seq++
	if v.run.ctx.Err() == nil {
		v.run.w.applied(v.run.name, v.seq, command, next, res)
	}
	v.setLocked(next)
	return applied{res, v.seq}
}

func (v *value) Snapshot() func(io.Writer) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	seq, now := v.seq, v.now
	return func(w io.Writer) error {
		return cmp.Or(binary.Write(w, binary.BigEndian, uint64(seq)), now.Write(w))
	}
}

func (v *value) Restore(r io.Reader) error {
	var seq uint64
	if err := binary.Read(r, binary.BigEndian, &seq); err != nil {
		return err
	}
	c, err := catalog.Read(r)
	if err != nil {
		return err
	}
	if want := v.run.w.at(int(seq)); v.run.ctx.Err() == nil && (c.Ceiling() != want.Ceiling() || c.MaxVolume() != want.MaxVolume() || len(c.Volumes()) != len(want.Volumes())) {
		v.run.w.fail("%s read a snapshot of %d commands that is not what they came to", v.run.name, seq)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.seq = int(seq)
	v.setLocked(c)
	v.run.w.count("snapshots read")
	return nil
}

// Propose implements leader.Log. Some proposals wait for long before raft takes
// them, so that others come first.
func (r *run) Propose(ctx context.Context, cmd catalog.Command) (catalog.Result, error) {
	if r.pick(20) == 0 {
		sleep(ctx, time.Duration(r.pick(500))*ms)
	}
	out, err := r.group.Propose(ctx, cmd.Encode())
	if err != nil {
		return catalog.Result{}, err
	}
	a := out.(applied)
	if _, all := r.w.newest(); r.ctx.Err() == nil && a.seq > all {
		r.w.fail("%s was told that command %d is decided, of %d", r.name, a.seq, all)
	}
	return a.Result, nil
}

func (r *run) Catalog() (*catalog.Catalog, <-chan struct{}) { return r.value.Catalog() }

// Watch implements the Gossip of everything in the process.
func (r *run) Watch() ([]cluster.Node, <-chan struct{}) { return r.w.gossip.view(r.host.id) }

// start begins a life of the master on h, unless there is one.
func (w *world) start(h *host, quiet time.Duration) {
	w.mu.Lock()
	if h.run != nil || h.starts || w.ctx.Err() != nil {
		w.mu.Unlock()
		return
	}
	h.runs++
	h.starts = true
	r := &run{w: w, host: h, disk: h.disk, name: fmt.Sprintf("%s.%d", h.id, h.runs)}
	w.mu.Unlock()
	r.rng = source(w.seed, "clients of "+r.name)
	r.ctx, r.die = context.WithCancel(context.Background())
	r.value = &value{run: r, now: catalog.New(), changed: make(chan struct{})}
	log := slog.New(slog.NewTextHandler(w.history, &slog.HandlerOptions{Level: slog.LevelInfo, ReplaceAttr: withoutTime})).With("at", r.name)
	l := newListener(h.id)
	var err error
	r.group, err = consensus.Open(consensus.Options{
		Dir: "raft of " + h.id, Advertise: h.id, Listener: l, Machine: r.value, Log: log, Quiet: quiet,
		Dial:      func(ctx context.Context, to string) (net.Conn, error) { return w.dial(ctx, r, to) },
		ClusterID: func() string { return "sim" },
		Stores:    memory{disk: r.disk, ctx: r.ctx, awake: func() { w.net.awake(r.ctx, h.id) }}.stores(),
		Stuck: func(err error) {
			w.tell("%s is stuck: %v", r.name, err)
			w.wg.Go(func() { w.crash(r, false); sleep(w.ctx, 100*ms); w.start(h, 30*time.Second) })
		},
		SnapshotEvery: 500 * ms, SnapshotThreshold: 30, TrailingLogs: 10,
	})
	if err != nil {
		w.fail("%s does not start: %v", r.name, err)
		r.die()
		return
	}
	r.leader = leader.New(leader.Options{Self: volume.NodeID(h.id), Log: r, Gossip: r, Probe: r.probe, Confirm: r.group.Confirm, Logger: log,
		Placement: placement.Settings{VolumeLimit: 1 << 30, RepairAfter: 20 * time.Second, Grow: [4]int{2, 2, 2, 2}}})
	r.master = master.New(master.Options{Log: r, Gossip: r, Leader: caller{r}, Logger: log, Hold: 5 * time.Second})
	w.mu.Lock()
	h.run, h.off, h.starts = r, false, false
	w.listeners[h.id] = l
	w.mu.Unlock()
	w.tell("%s starts", r.name)
	w.gossip.look()
	r.wg.Go(func() { r.group.Lead(r.ctx, r.lead) })
	r.wg.Go(func() { r.clients() })
}

func withoutTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// lead is one term as leader, as the daemon does it.
func (r *run) lead(ctx context.Context) {
	if s := r.group.Stats(); s["state"] == "Leader" {
		r.w.leads(s["term"], r.name)
	}
	if cat, _ := r.Catalog(); cat.ClusterID() == "" {
		if _, err := r.Propose(ctx, catalog.Command{Found: &catalog.Found{Cluster: "sim"}}); err != nil {
			return
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { r.group.AdmitLoop(ctx, "sim", r) })
	wg.Go(func() { r.leader.Run(ctx) })
	wg.Wait()
}

// crash ends a life: with a reset of its connections when only the process died,
// in silence when the power went.
func (w *world) crash(r *run, off bool) {
	w.mu.Lock()
	if r.host.run != r {
		w.mu.Unlock()
		return
	}
	r.host.run, r.host.off = nil, off
	w.mu.Unlock()
	w.tell("%s dies, power off: %v", r.name, off)
	r.die()
	r.disk.crash()
	r.hangUp(off)
	w.wg.Go(r.close)
	w.gossip.look()
}

// stop is a planned stop.
func (w *world) stop(r *run) {
	w.mu.Lock()
	is := r.host.run == r
	w.mu.Unlock()
	if !is {
		return
	}
	w.tell("%s stops", r.name)
	ctx, cancel := context.WithTimeout(w.ctx, 3*time.Second)
	defer cancel()
	if r.group.Leading() && len(r.group.Members()) > 1 {
		if err := r.group.TransferLeadership(ctx); err != nil {
			w.tell("%s cannot hand over: %v", r.name, err)
		}
	}
	w.crash(r, false)
}

func (r *run) hangUp(silently bool) {
	r.mu.Lock()
	conns := r.conns
	r.conns = nil
	r.mu.Unlock()
	for _, c := range conns {
		if !silently {
			c.reset()
			continue
		}
		c.in.end(net.ErrClosed) // the other side hears nothing, and gives up after a while
		r.w.wg.Go(func() { sleep(r.w.ctx, connLife); c.reset() })
	}
}

func (r *run) close() {
	if r.master != nil {
		r.master.Close()
	}
	if err := r.group.Close(); err != nil {
		r.w.fail("%s: %v", r.name, err)
	}
	r.wg.Wait()
}

func (w *world) running(id string) *run {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range w.hosts {
		if h.id == id {
			return h.run
		}
	}
	return nil
}

// dial connects a master to another one.
func (w *world) dial(ctx context.Context, from *run, to string) (net.Conn, error) {
	if err := w.net.travel(ctx, from.host.id, to); err != nil {
		return nil, err
	}
	w.mu.Lock()
	var there *run
	off := false
	for _, h := range w.hosts {
		if h.id == to {
			there, off = h.run, h.off
		}
	}
	l := w.listeners[to]
	w.mu.Unlock()
	if off {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if err := w.net.travel(ctx, to, from.host.id); err != nil {
		return nil, err
	}
	if there == nil || there.ctx.Err() != nil || from.ctx.Err() != nil {
		return nil, syscall.ECONNREFUSED
	}
	here, other := newConns(w.net, from.host.id, to, from.ctx, there.ctx)
	if !from.keep(here) || !there.keep(other) {
		here.reset()
		return nil, syscall.ECONNRESET
	}
	select {
	case l.conns <- other:
		return here, nil
	default:
		here.reset()
		return nil, syscall.ECONNREFUSED
	}
}

func (r *run) keep(c *conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns = append(r.conns, c)
	return r.ctx.Err() == nil
}

// probe asks whether a volume server's port is open.
func (r *run) probe(ctx context.Context, n cluster.Node) error {
	s := r.w.server(n.ID)
	if s == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	if err := r.w.net.travel(ctx, r.host.id, string(n.ID)); err != nil {
		return err
	}
	up := s.isUp()
	if err := r.w.net.travel(ctx, string(n.ID), r.host.id); err != nil {
		return err
	}
	if !up {
		return syscall.ECONNREFUSED
	}
	return nil
}

var errLost = fmt.Errorf("%w: no answer", volume.ErrOutcomeUnknown)

// call has f called at the master that leads as the caller's master knows. The
// answer, or the question, may be lost; f goes on when the caller has given up.
func call[T any](ctx context.Context, w *world, from string, to *run, f func(context.Context, *run) (T, error)) (T, error) {
	type answer struct {
		got T
		err error
	}
	got := make(chan answer, 1)
	w.wg.Go(func() {
		there, cancel := context.WithTimeout(w.ctx, 6*time.Second)
		defer cancel()
		var a answer
		if err := w.net.travel(there, from, to.host.id); err != nil {
			return
		}
		if to.ctx.Err() != nil {
			a.err = fmt.Errorf("%w: refused", volume.ErrUnavailable)
			got <- a
			return
		}
		a.got, a.err = f(there, to)
		if to.ctx.Err() == nil && w.net.travel(there, to.host.id, from) == nil {
			got <- a
		}
	})
	select {
	case a := <-got:
		return a.got, a.err
	case <-ctx.Done():
		var none T
		return none, errLost
	}
}

// findLeader gives the master that leads as the one at a place knows, or any.
func (w *world) findLeader(pick func(int) int, hint *run) *run {
	if hint != nil && hint.ctx.Err() == nil {
		if addr, _, ok := hint.group.Leader(); ok {
			if r := w.running(addr); r != nil {
				return r
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var up []*run
	for _, h := range w.hosts {
		if h.run != nil {
			up = append(up, h.run)
		}
	}
	if len(up) == 0 {
		return nil
	}
	return up[pick(len(up))]
}

// atLeader calls until somebody leads and answers, or ctx ends.
func atLeader[T any](ctx context.Context, r *run, f func(context.Context, *run) (T, error)) (T, error) {
	for {
		var got T
		err := error(&cluster.NotLeaderError{})
		if to := r.w.findLeader(r.pick, r); to != nil {
			got, err = call(ctx, r.w, r.host.id, to, f)
		}
		if !errors.Is(err, volume.ErrNotLeader) || !sleep(ctx, 50*ms) {
			return got, err
		}
	}
}

// pick draws for the clients of a run, which are several.
func (r *run) pick(n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rng.IntN(n)
}

// caller is the leader as every master reaches it.
type caller struct{ *run }

func (c caller) Keys(ctx context.Context, count uint64) (catalog.Block, error) {
	b, err := atLeader(ctx, c.run, func(ctx context.Context, r *run) (catalog.Block, error) { return r.leader.Keys(ctx, count) })
	if err == nil && c.ctx.Err() == nil {
		c.w.granted(c.name, b)
	}
	return b, err
}

func (c caller) Grow(ctx context.Context, req placement.GrowRequest) ([]*volume.Entry, error) {
	es, err := atLeader(ctx, c.run, func(ctx context.Context, r *run) ([]*volume.Entry, error) { return r.leader.Grow(ctx, req) })
	for _, e := range es {
		c.w.promise(e.Volume)
	}
	return es, err
}

func (c caller) DeleteCollection(ctx context.Context, name string) (int, error) {
	return atLeader(ctx, c.run, func(ctx context.Context, r *run) (int, error) { return r.leader.DeleteCollection(ctx, name) })
}

func (c caller) Compact(context.Context, float64) error { return volume.ErrUnavailable }

func (c caller) Operate(ctx context.Context, op cluster.Operation) (cluster.Outcome, error) {
	return atLeader(ctx, c.run, func(ctx context.Context, r *run) (cluster.Outcome, error) { return r.leader.Operate(ctx, op) })
}

func (c caller) View(context.Context) (cluster.View, error) {
	return cluster.View{}, volume.ErrUnavailable
}

func (c caller) Entry(ctx context.Context, id volume.ID) (volume.Entry, error) {
	return atLeader(ctx, c.run, func(ctx context.Context, r *run) (volume.Entry, error) { return r.leader.Entry(ctx, id) })
}

// clients ask this master for things until it dies or the trouble is over.
func (r *run) clients() {
	for r.ctx.Err() == nil && !r.w.calm() {
		pause := time.Duration(1+r.pick(60)) * ms
		if !sleep(r.ctx, pause) {
			return
		}
		ctx, cancel := context.WithTimeout(r.ctx, 2*time.Second)
		r.ask(ctx)
		cancel()
	}
}

var collections = []string{"", "", "photos", "short"}

func (r *run) ask(ctx context.Context) {
	switch n := r.pick(20); {
	case n < 10:
		spec := volume.Spec{Placement: volume.Placement(r.pick(3)), Collection: collections[r.pick(3)]}
		if a, err := r.master.Assign(ctx, master.Request{Spec: spec}); err == nil && r.ctx.Err() == nil {
			r.w.assigned(r.name, a.ID)
		}
	case n < 13:
		_, _ = caller{r}.Keys(ctx, uint64(1+r.pick(5)))
	case n < 17:
		r.askForEntry(ctx)
	case n < 18:
		_, _ = caller{r}.Grow(ctx, placement.GrowRequest{Spec: volume.Spec{Placement: volume.Placement(r.pick(2)), Collection: "short"}, Count: 1})
	case n < 19:
		_, _ = caller{r}.DeleteCollection(ctx, "short")
	default:
		_, _ = r.Propose(ctx, r.whim())
	}
}

// askForEntry asks whoever may lead for a volume of which somebody was told.
func (r *run) askForEntry(ctx context.Context) {
	id := r.w.known(r.pick)
	to := r.w.findLeader(r.pick, []*run{r, nil}[r.pick(2)])
	if id == 0 || to == nil {
		return
	}
	_, err := call(ctx, r.w, r.host.id, to, func(ctx context.Context, to *run) (volume.Entry, error) { return to.leader.Entry(ctx, id) })
	if errors.Is(err, volume.ErrNoVolume) {
		r.w.denied(to.name, id)
	}
}

// whim is a change without a reason, planned on what this master knows, which may
// be old. The rules must hold all the same.
func (r *run) whim() catalog.Command {
	cat, _ := r.Catalog()
	all := cat.Volumes()
	if len(all) == 0 {
		return catalog.Command{Keys: &catalog.Keys{Count: 1}}
	}
	e := *all[r.pick(len(all))]
	next := e
	other := volume.NodeID(fmt.Sprintf("v%d", 1+r.pick(4)))
	by := e.InSync[r.pick(len(e.InSync))]
	switch r.pick(7) {
	case 0:
		next.Primary = other
	case 1:
		next.InSync = []volume.Holder{{Node: other, Copy: volume.NewCopyID()}}
		next.Primary = other
	case 2:
		next.InSync, next.Joining = append(append([]volume.Holder(nil), e.InSync...), e.Joining...), nil
	case 3:
		if _, _, named := e.Holder(other); !named {
			next.Joining = append(append([]volume.Holder(nil), e.Joining...), volume.Holder{Node: other, Copy: volume.NewCopyID()})
		}
	case 4:
		if e.State == volume.StateOpen {
			next.State = volume.StateNew
		}
	case 5: // as if its primary wanted a copy in sync that never joined
		if primary, _, named := e.Holder(e.Primary); named && other != e.Primary {
			next.InSync = append(slices.DeleteFunc(slices.Clone(e.InSync), func(h volume.Holder) bool { return h.Node == other }), volume.Holder{Node: other, Copy: volume.NewCopyID()})
			next.Joining = slices.DeleteFunc(slices.Clone(e.Joining), func(h volume.Holder) bool { return h.Node == other })
			return change(e, next, primary, false)
		}
	case 6:
		return catalog.Command{Drain: &catalog.Drain{Node: other, Undo: r.pick(2) == 0}}
	}
	if by.Node == e.Primary || r.pick(2) == 0 { // who is the primary says nothing that is not so
		by = volume.Holder{}
	}
	return change(e, next, by, r.pick(8) == 0)
}

func change(e, next volume.Entry, by volume.Holder, renew bool) catalog.Command {
	return catalog.Command{Change: &catalog.Batch{Changes: []catalog.Change{{Version: e.Version, Next: next, By: by, Renew: renew}}}}
}
