package replica_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/replica"
	"weedd/volume/store"
	"weedd/volume/vfs/faultfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a condition may take on a busy machine.
const patience = 20 * time.Second

// cluster is the copies of volume 1 on a few nodes, over disks in memory, and a
// leader that grants what it is asked.
type cluster struct {
	t       *testing.T
	sent    atomic.Int64 // bytes of records between copies
	batches atomic.Int64

	mu    sync.Mutex
	entry volume.Entry
	nodes map[volume.NodeID]*node
	asked []volume.AskKind

	pace        replica.Pace  // shared by all copies
	holdCompact chan struct{} // answers to AskCompact wait until it is closed
	changed     chan struct{} // closed and replaced when entry changed
}

type node struct {
	*replica.Replica
	id    volume.NodeID
	copy  volume.CopyID
	fs    *faultfs.FS
	store *store.Store
	log   *hooked
	work  sync.WaitGroup

	confirms atomic.Int64 // questions to primaries

	up   bool          // guarded by cluster.mu
	gate chan struct{} // guarded by cluster.mu; closed unless the node is frozen
}

// hooked is a log that hangs in Sync, or has lost acknowledged bytes, on demand.
type hooked struct {
	*store.Volume
	hang     atomic.Pointer[chan struct{}]
	doubtful atomic.Bool
}

func (l *hooked) Doubtful() bool { return l.doubtful.Load() }

func (l *hooked) AddEpoch(e volume.EpochStart) error {
	l.doubtful.Store(false)
	return l.Volume.AddEpoch(e)
}

func (l *hooked) Sync() (int64, error) {
	if hang := l.hang.Load(); hang != nil {
		<-*hang
	}
	return l.Volume.Sync()
}

func placement(copies int) volume.Placement { return volume.Placement(copies - 1) }

// start makes a volume with a copy on each node; the first leads.
func start(t *testing.T, spec volume.Spec, ids ...volume.NodeID) *cluster {
	t.Helper()
	c := &cluster{t: t, nodes: map[volume.NodeID]*node{}, changed: make(chan struct{})}
	spec.Placement = placement(len(ids))
	c.entry = volume.Entry{Volume: 1, Spec: spec, State: volume.StateOpen, Epoch: 1, Version: 1, Primary: ids[0]}
	for i, id := range ids {
		n := &node{id: id, fs: faultfs.New(uint64(i) + 1), copy: volume.CopyID(i + 1)}
		c.nodes[id] = n
		n.store = c.open(n)
		if _, err := n.store.Create(1, spec, n.copy); err != nil {
			t.Fatal(err)
		}
		c.entry.InSync = append(c.entry.InSync, volume.Holder{Node: id, Copy: n.copy})
	}
	for _, id := range ids {
		c.run(c.nodes[id])
	}
	t.Cleanup(func() {
		for _, id := range ids {
			c.stop(id)
		}
	})
	awaitLead(t, c.nodes[ids[0]].Replica)
	return c
}

func (c *cluster) open(n *node) *store.Store {
	c.t.Helper()
	st, err := store.Open(store.Options{FS: n.fs, Dirs: []store.Dir{{Path: "/data", Max: 10, Init: true}},
		Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		c.t.Fatal(err)
	}
	return st
}

// run starts the copy of a node whose store is open.
func (c *cluster) run(n *node) {
	c.t.Helper()
	v, err := n.store.Volume(1)
	if err != nil {
		c.t.Fatal(err)
	}
	n.log = &hooked{Volume: v}
	c.runOver(n)
}

func (c *cluster) runOver(n *node) {
	n.Replica = replica.New(replica.Options{
		Self: volume.Holder{Node: n.id, Copy: n.copy}, Volume: 1, Log: n.log, Logger: slog.New(slog.DiscardHandler), Now: time.Now, Pace: &c.pace,
		Dial: func(ctx context.Context, to volume.NodeID) (replica.Link, error) { return c.dial(n, to) },
		Ask:  c.ask,
		Confirm: func(ctx context.Context, to volume.NodeID, _ volume.ID, epoch volume.Epoch, from volume.Holder) (int64, error) {
			p := c.at(to)
			if p == nil || c.at(n.id) == nil {
				return 0, volume.ErrUnavailable
			}
			c.mu.Lock()
			gate := p.gate
			c.mu.Unlock()
			n.confirms.Add(1)
			select {
			case <-gate:
				return p.Confirm(ctx, epoch, from)
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		},
	})
	open := make(chan struct{})
	close(open)
	c.mu.Lock()
	n.up, n.gate = true, open
	e := c.entry
	c.mu.Unlock()
	n.Learn(e)
}

// at is a node that is up, else nil.
func (c *cluster) at(id volume.NodeID) *node {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.nodes[id]; n.up {
		return n
	}
	return nil
}

func (c *cluster) now() volume.Entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.entry
}

// stop ends a node, handing nothing over.
func (c *cluster) stop(id volume.NodeID) {
	c.mu.Lock()
	n := c.nodes[id]
	was := n.up
	n.up = false
	c.mu.Unlock()
	if !was {
		return
	}
	c.thaw(id)
	if err := n.Close(); err != nil {
		c.t.Errorf("close %s: %v", id, err)
	}
	n.work.Wait()
	if err := n.store.Close(); err != nil && n.log.Failed() == nil {
		c.t.Errorf("close the store of %s: %v", id, err)
	}
}

// restart starts a node that was stopped.
func (c *cluster) restart(id volume.NodeID) {
	c.t.Helper()
	n := c.nodes[id]
	n.store = c.open(n)
	c.run(n)
}

func (c *cluster) freeze(id volume.NodeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes[id].gate = make(chan struct{})
}

func (c *cluster) thaw(id volume.NodeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.nodes[id].gate:
	default:
		close(c.nodes[id].gate)
	}
}

func (c *cluster) dial(from *node, to volume.NodeID) (replica.Link, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[to]
	if !n.up || !from.up {
		return nil, volume.ErrUnavailable
	}
	up, down, done := make(chan *replica.Message, 4), make(chan *replica.Message, 4), make(chan struct{})
	var once sync.Once
	end := func() { once.Do(func() { close(done) }) }
	r := n.Replica
	n.work.Go(func() {
		_ = r.Serve(context.Background(), &pipe{c: c, node: n, in: up, out: down, done: done, end: end})
	})
	return &pipe{c: c, in: down, out: up, done: done, end: end}, nil
}

// pipe is one side of a link in memory; node is set on the follower's.
type pipe struct {
	c    *cluster
	node *node
	in   <-chan *replica.Message
	out  chan<- *replica.Message
	done chan struct{}
	end  func()
}

func (p *pipe) Send(m *replica.Message) error {
	if m.Kind == replica.KindBatch {
		p.c.batches.Add(1)
		p.c.sent.Add(int64(len(m.Bytes)))
	}
	select {
	case p.out <- m:
		return nil
	case <-p.done:
		return io.ErrClosedPipe
	}
}

func (p *pipe) Recv() (*replica.Message, error) {
	var m *replica.Message
	select {
	case m = <-p.in:
	case <-p.done:
		return nil, io.EOF
	}
	if p.node == nil {
		return m, nil
	}
	p.c.mu.Lock()
	gate := p.node.gate
	p.c.mu.Unlock()
	select {
	case <-gate:
		return m, nil
	case <-p.done:
		return nil, io.EOF
	}
}

func (p *pipe) Close() { p.end() }

// ask answers as the leader does.
func (c *cluster) ask(_ context.Context, a volume.Ask) (volume.Entry, error) {
	c.mu.Lock()
	c.asked = append(c.asked, a.Kind)
	e := c.entry
	c.mu.Unlock()
	if _, inSync, _ := e.Holder(a.From.Node); a.Epoch != e.Epoch || !inSync {
		return e, volume.ErrStale
	}
	e.InSync, e.Joining = slices.Clone(e.InSync), slices.Clone(e.Joining)
	without := func(hs []volume.Holder, gone ...volume.Holder) []volume.Holder {
		return slices.DeleteFunc(hs, func(h volume.Holder) bool { return slices.Contains(gone, h) })
	}
	switch a.Kind {
	case volume.AskLead:
		if a.From.Node != e.Primary {
			return e, volume.ErrNotPrimary
		}
	case volume.AskRemove:
		e.InSync, e.Joining = without(e.InSync, a.Copies...), append(e.Joining, a.Copies...)
	case volume.AskAdd:
		e.InSync, e.Joining = append(e.InSync, a.Copies...), without(e.Joining, a.Copies...)
	case volume.AskCompact:
		e.Generation, e.Compacted = a.Generation, e.Epoch+1
		if c.holdCompact != nil {
			<-c.holdCompact
		}
	case volume.AskYield:
		i := slices.IndexFunc(e.InSync, func(h volume.Holder) bool { return h != a.From && c.at(h.Node) != nil })
		if i < 0 {
			return e, volume.ErrUnsatisfiable
		}
		e.Primary = e.InSync[i].Node
		if a.Failed {
			e.InSync = without(e.InSync, a.From)
		}
	}
	return c.decide(e)
}

// decide makes e the entry in a new epoch and tells the nodes.
func (c *cluster) decide(e volume.Entry) (volume.Entry, error) {
	c.mu.Lock()
	if e.Version != c.entry.Version {
		defer c.mu.Unlock()
		return c.entry, volume.ErrStale
	}
	e.Epoch, e.Version = e.Epoch+1, e.Version+1
	c.entry = e
	close(c.changed)
	c.changed = make(chan struct{})
	var up []*node
	for _, n := range c.nodes {
		if n.up {
			up = append(up, n)
		}
	}
	c.mu.Unlock()
	for _, n := range up {
		n.Learn(e)
	}
	return e, nil
}

// promote makes id the primary.
func (c *cluster) promote(id volume.NodeID) {
	for {
		e := c.now()
		e.Primary = id
		if _, err := c.decide(e); err == nil {
			return
		}
	}
}

// await waits until the entry is as wanted.
func (c *cluster) await(what string, ok func(volume.Entry) bool) {
	c.t.Helper()
	deadline := time.After(patience)
	for {
		c.mu.Lock()
		e, changed := c.entry, c.changed
		c.mu.Unlock()
		if ok(e) {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			c.t.Fatalf("%s: %+v", what, e)
		}
	}
}

func inSync(n int) func(volume.Entry) bool {
	return func(e volume.Entry) bool { return len(e.InSync) == n }
}

// eventually waits for a condition that nothing announces.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(patience); !ok(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal(what)
		}
	}
}

// identical waits until all copies have published all there is, and compares
// their bytes.
func (c *cluster) identical(ids ...volume.NodeID) {
	c.t.Helper()
	first := c.nodes[ids[0]].log
	for _, id := range ids {
		l := c.nodes[id].log
		eventually(c.t, fmt.Sprintf("copy of %s: committed %d, end %d; first copy ends at %d", id, l.Committed(), l.End(), first.End()),
			func() bool { return l.Committed() == first.End() && l.End() == first.End() })
		if !slices.Equal(contents(c.t, l), contents(c.t, first)) {
			c.t.Errorf("the copies of %s and %s differ", ids[0], id)
		}
	}
}

func contents(t *testing.T, l *hooked) []byte {
	t.Helper()
	b := make([]byte, l.End())
	if _, err := l.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return b
}

func (n *node) write(key volume.Key, data string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := n.Put(ctx, &needle.Needle{Key: key, Cookie: 7, Data: []byte(data)}, false, 0)
	return err
}

func (n *node) read(key volume.Key) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	f, err := n.Get(ctx, key, 7, false)
	if err != nil {
		return "", err
	}
	defer f.Release()
	return string(f.Data), nil
}

func (n *node) mustWrite(t *testing.T, key volume.Key, data string) {
	t.Helper()
	if err := n.write(key, data); err != nil {
		t.Fatalf("write %d on %s: %v", key, n.id, err)
	}
}

func (n *node) mustRead(t *testing.T, key volume.Key, want string) {
	t.Helper()
	if got, err := n.read(key); err != nil || got != want {
		t.Fatalf("read %d on %s: %d bytes, %v; want %d", key, n.id, len(got), err, len(want))
	}
}
