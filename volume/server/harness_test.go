package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/replica"
	"weedd/volume/server"
	"weedd/volume/store"
	"weedd/volume/vfs/faultfs"
	"weedd/volume/volumerpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const clusterID = "c1"

// minFree is the room that the disks of nodes keep.
const minFree = 1 << 20

var (
	spec001 = volume.Spec{Placement: 1}
	spec000 = volume.Spec{}
)

// cluster is a few volume servers that talk by the real gRPC service over
// connections in memory, and a fake master.
type cluster struct {
	t      *testing.T
	master *fakeMaster
	sent   atomic.Int64  // bytes of records in batches between copies
	scrub  time.Duration // of nodes started from now on
	second bool          // nodes started from now on have another disk, at /data2
	frozen atomic.Value  // volume.NodeID: takes writes that are passed on, and never answers
	held   atomic.Int64  // writes that it took

	mu    sync.Mutex
	nodes map[volume.NodeID]*node
	homes map[volume.NodeID]*faultfs.FS // data directories, which outlive disks
}

// node is one daemon, over a disk that outlives it.
type node struct {
	*server.Server
	id     volume.NodeID
	fs     *faultfs.FS
	disk   *store.Store
	listen *bufconn.Listener
	rpc    *grpc.Server
	conns  *conns
	run    func() // ends Run and waits
	down   bool
}

func start(t *testing.T, ids ...volume.NodeID) *cluster {
	t.Helper()
	c := &cluster{t: t, nodes: map[volume.NodeID]*node{}, homes: map[volume.NodeID]*faultfs.FS{}, master: newFakeMaster(ids)}
	for i, id := range ids {
		c.boot(id, faultfs.New(uint64(i)))
	}
	t.Cleanup(func() {
		for _, id := range ids {
			c.halt(id)
		}
	})
	return c
}

func (c *cluster) node(id volume.NodeID) *node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[id]
}

// boot starts a node over a disk.
func (c *cluster) boot(id volume.NodeID, fs *faultfs.FS) *node {
	c.t.Helper()
	log := testLog(c.t).With("node", id)
	ledger, err := store.OpenLedger(c.home(id), "/copies")
	if err != nil {
		c.t.Fatal(err)
	}
	dirs := []store.Dir{{Path: "/data", Max: 100, Init: true}}
	if c.second {
		dirs = append(dirs, store.Dir{Path: "/data2", Max: 100, Init: true})
	}
	disk, err := store.Open(store.Options{FS: fs, Dirs: dirs, Ledger: ledger, MinFree: minFree, Log: log, Now: time.Now})
	if err != nil {
		c.t.Fatalf("open store of %s: %v", id, err)
	}
	n := &node{id: id, fs: fs, disk: disk, listen: bufconn.Listen(1 << 20), conns: &conns{cluster: c, open: map[string]*grpc.ClientConn{}}}
	n.Server = server.New(server.Options{
		Node: id, Store: disk, Ledger: ledger, Master: masterOf{c.master, id}, Peers: c, Remote: counting{volumerpc.NewClient(n.conns, 0), c},
		ClusterID: func() string { return clusterID }, SetClusterID: func(string) error { return nil },
		Logger: log, Now: time.Now, Run: uint64(time.Now().UnixNano()), Beat: 20 * time.Millisecond, Scrub: c.scrub,
	})
	n.rpc = grpc.NewServer(grpc.MaxRecvMsgSize(16 << 20))
	volumerpc.Register(n.rpc, n.Server, volumerpc.Limits{})
	var work sync.WaitGroup
	work.Go(func() { _ = n.rpc.Serve(n.listen) })
	ctx, cancel := context.WithCancel(context.Background())
	work.Go(func() { _ = n.Run(ctx) })
	n.run = func() { cancel(); n.rpc.Stop(); work.Wait() }
	c.mu.Lock()
	c.nodes[id] = n
	c.mu.Unlock()
	return n
}

// home is the data directory of a node, as a crash leaves it.
func (c *cluster) home(id volume.NodeID) *faultfs.FS {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.homes[id]; old != nil {
		c.homes[id] = old.Crash(0)
	} else {
		c.homes[id] = faultfs.New(7)
	}
	return c.homes[id]
}

// halt ends a node as a kill does: nothing is handed over.
func (c *cluster) halt(id volume.NodeID) {
	n := c.node(id)
	c.mu.Lock()
	down := n.down
	n.down = true
	c.mu.Unlock()
	if down {
		return
	}
	n.run()
	if err := errors.Join(n.Close(), n.conns.Close(), n.disk.Close()); err != nil {
		c.t.Errorf("stop %s: %v", id, err)
	}
}

// Node implements server.Peers.
func (c *cluster) Node(id volume.NodeID) (volume.Node, bool) {
	return volume.Node{ID: id, Internal: string(id), URL: string(id) + ":8080"}, c.node(id) != nil
}

// Alive implements server.Peers.
func (c *cluster) Alive(id volume.NodeID) bool {
	n := c.node(id)
	c.mu.Lock()
	defer c.mu.Unlock()
	return n != nil && !n.down
}

// conns are the connections that one node has made.
type conns struct {
	cluster *cluster
	mu      sync.Mutex
	open    map[string]*grpc.ClientConn
}

// Conn implements volumerpc.Conns.
func (p *conns) Conn(addr string, id volume.NodeID, use string) (grpc.ClientConnInterface, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.open[addr+use]; c != nil {
		return c, nil
	}
	fast := grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1, MaxDelay: 10 * time.Millisecond},
		MinConnectTimeout: 5 * time.Second,
	}
	c, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(fast),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return p.cluster.node(id).listen.DialContext(ctx)
		}))
	if err != nil {
		return nil, err
	}
	p.open[addr+use] = c
	return c, nil
}

func (p *conns) Close() (err error) {
	for _, c := range p.open {
		err = errors.Join(err, c.Close())
	}
	return err
}

// counting counts the bytes that copies send each other, and lets nodes freeze.
type counting struct {
	*volumerpc.Client
	c *cluster
}

func (r counting) Dial(ctx context.Context, n volume.Node) (replica.Link, error) {
	l, err := r.Client.Dial(ctx, n)
	return countingLink{l, r.c}, err
}

// Put implements server.Remote.
func (r counting) Put(ctx context.Context, n volume.Node, id volume.FileID, f *needle.Needle, createOnly bool, after volume.Epoch) (volume.PutResult, error) {
	if r.c.frozen.Load() == n.ID {
		r.c.held.Add(1)
		<-ctx.Done()
		return volume.PutResult{}, fmt.Errorf("%w: frozen", volume.ErrOutcomeUnknown)
	}
	return r.Client.Put(ctx, n, id, f, createOnly, after)
}

type countingLink struct {
	replica.Link
	c *cluster
}

func (l countingLink) Send(m *replica.Message) error {
	l.c.sent.Add(int64(len(m.Bytes)))
	return l.Link.Send(m)
}

// fakeMaster is a catalog in memory with the rules that these tests need, and a
// leader that only obeys the test.
type fakeMaster struct {
	patient bool // no copy leaves the set for being slow; set before any volume is there
	mu      sync.Mutex
	changed chan struct{} // closed and replaced
	cluster string
	nodes   []volume.NodeID
	entries map[volume.ID]volume.Entry
	drops   map[volume.NodeID][]volume.Drop
	reports map[volume.NodeID]map[volume.ID]volume.CopyReport
	gone    map[volume.NodeID][]volume.ID
	aside   map[volume.NodeID][]volume.SetAside
	deaf    atomic.Int64 // how many questions where a volume is are not answered from now on
	slots   int          // reports of a copy that was made or went, with the disks
	noSlots int          // and without
}

func newFakeMaster(nodes []volume.NodeID) *fakeMaster {
	return &fakeMaster{
		changed: make(chan struct{}), cluster: clusterID, nodes: nodes, entries: map[volume.ID]volume.Entry{},
		drops: map[volume.NodeID][]volume.Drop{}, reports: map[volume.NodeID]map[volume.ID]volume.CopyReport{},
		gone: map[volume.NodeID][]volume.ID{}, aside: map[volume.NodeID][]volume.SetAside{},
	}
}

func (m *fakeMaster) notifyLocked() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// change replaces an entry, in a new epoch if the sets changed.
func (m *fakeMaster) change(id volume.ID, f func(e *volume.Entry)) volume.Entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changeLocked(id, f)
}

func (m *fakeMaster) changeLocked(id volume.ID, f func(e *volume.Entry)) volume.Entry {
	old := m.entries[id]
	e := old
	e.InSync, e.Joining = slices.Clone(old.InSync), slices.Clone(old.Joining)
	f(&e)
	e.Version++
	if e.Epoch == old.Epoch && (e.Primary != old.Primary || !slices.Equal(e.InSync, old.InSync)) {
		e.Epoch++
	}
	m.entries[id] = e
	m.notifyLocked()
	return e
}

// grow makes a new volume; the first node leads it.
func (m *fakeMaster) grow(id volume.ID, spec volume.Spec, nodes ...volume.NodeID) {
	m.change(id, func(e *volume.Entry) {
		*e = volume.Entry{Volume: id, Spec: spec, State: volume.StateNew, Epoch: 1, Primary: nodes[0]}
		for _, n := range nodes {
			e.InSync = append(e.InSync, volume.Holder{Node: n, Copy: volume.NewCopyID()})
		}
	})
}

func (m *fakeMaster) entry(id volume.ID) volume.Entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.entries[id]
}

func (m *fakeMaster) report(node volume.NodeID, id volume.ID) volume.CopyReport {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reports[node][id]
}

func (m *fakeMaster) order(node volume.NodeID, d volume.Drop) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drops[node] = append(m.drops[node], d)
	m.notifyLocked()
}

// heardLocked takes a report; a new volume opens when all its holders have it.
func (m *fakeMaster) heardLocked(node volume.NodeID, rep volume.Report) {
	if rep.Full || m.reports[node] == nil {
		m.reports[node] = map[volume.ID]volume.CopyReport{}
		m.aside[node] = rep.Aside
	}
	moved := len(rep.Gone) > 0
	for _, c := range rep.Copies {
		was := m.reports[node][c.Volume]
		moved = moved || was.Copy != c.Copy || was.State != c.State
		m.reports[node][c.Volume] = c
	}
	switch {
	case moved && rep.Disks != nil:
		m.slots++
	case moved:
		m.noSlots++
	}
	for _, id := range rep.Gone {
		delete(m.reports[node], id)
	}
	m.gone[node] = append(m.gone[node], rep.Gone...)
	for id, e := range m.entries {
		missing := func(h volume.Holder) bool {
			r := m.reports[h.Node][id]
			return r.Copy != h.Copy || r.State != volume.CopyHealthy
		}
		if e.State == volume.StateNew && !slices.ContainsFunc(e.InSync, missing) {
			m.changeLocked(id, func(e *volume.Entry) { e.State = volume.StateOpen })
		}
	}
}

// masterOf is the fake master as one node sees it.
type masterOf struct {
	*fakeMaster
	node volume.NodeID
}

// Beat implements server.Master.
func (m masterOf) Beat(ctx context.Context, reports <-chan volume.Report, obey func(volume.Orders)) error {
	for full := true; ; full = false {
		m.mu.Lock()
		o := volume.Orders{Full: full, Cluster: m.cluster, Drop: slices.Clone(m.drops[m.node])}
		for _, e := range m.entries {
			if _, _, ok := e.Holder(m.node); ok {
				o.Entries = append(o.Entries, e)
			}
		}
		changed := m.changed
		m.mu.Unlock()
		obey(o)
		for again := false; !again; {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-changed:
				again = true
			case rep := <-reports:
				m.mu.Lock()
				m.heardLocked(m.node, rep)
				m.mu.Unlock()
			}
		}
	}
}

// Ask implements server.Master.
func (m masterOf) Ask(ctx context.Context, ask volume.Ask) (volume.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[ask.Volume]
	if e.Epoch != ask.Epoch || !slices.Contains(e.InSync, ask.From) {
		return e, fmt.Errorf("%w: volume %d is at epoch %d", volume.ErrStale, e.Volume, e.Epoch)
	}
	if m.patient && ask.Kind == volume.AskRemove && !ask.Unfit {
		return e, fmt.Errorf("%w: copies that are slow are waited for", volume.ErrUnavailable)
	}
	asked := func(h volume.Holder) bool { return slices.Contains(ask.Copies, h) }
	return m.changeLocked(ask.Volume, func(e *volume.Entry) {
		switch ask.Kind {
		case volume.AskLead:
			e.Primary = ask.From.Node
			e.Epoch++
		case volume.AskRemove:
			e.InSync = slices.DeleteFunc(e.InSync, asked)
			e.Joining = append(e.Joining, ask.Copies...)
		case volume.AskAdd:
			e.Joining = slices.DeleteFunc(e.Joining, asked)
			e.InSync = append(e.InSync, ask.Copies...)
		case volume.AskYield:
			for _, h := range e.InSync {
				if h != ask.From {
					e.Primary = h.Node
				}
			}
			if ask.Failed {
				e.InSync = slices.DeleteFunc(e.InSync, func(h volume.Holder) bool { return h == ask.From })
			}
		}
	}), nil
}

// Locate implements server.Master.
func (m masterOf) Locate(ctx context.Context, id volume.ID, _ uint64) (volume.Entry, []volume.Node, error) {
	if m.deaf.Add(-1) >= 0 {
		return volume.Entry{}, nil, volume.ErrUnavailable
	}
	e := m.entry(id)
	if e.Volume == 0 {
		return e, nil, volume.ErrNoVolume
	}
	return e, nil, nil
}

// eventually waits until f holds.
func (c *cluster) eventually(what string, f func() bool) {
	c.t.Helper()
	eventually(c.t, what, f)
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for now := time.Now(); !f(); now = <-tick.C {
		if now.After(deadline) {
			t.Fatalf("it never came to this: %s", what)
		}
	}
}

// open waits until a volume takes writes with so many copies in sync.
func (c *cluster) open(id volume.ID, copies int) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("volume %d is open with %d copies in sync, and led", id, copies), func() bool {
		e := c.master.entry(id)
		return e.State == volume.StateOpen && len(e.InSync) == copies && c.master.report(e.Primary, id).Leads
	})
}

// get reads as a client of the public API does: from the nodes that n names when
// it cannot answer itself.
func (c *cluster) get(n volume.NodeID, id volume.FileID, readDeleted bool) (*needle.Needle, error) {
	got, err := c.node(n).Get(context.Background(), id, readDeleted)
	var there *volume.ElsewhereError
	if errors.As(err, &there) {
		return c.node(there.Nodes[0].ID).Get(context.Background(), id, readDeleted)
	}
	return got, err
}

// client is a node as the suite for all that keep blobs sees it.
type client struct {
	*node
	c *cluster
}

func (cl client) Get(_ context.Context, id volume.FileID, readDeleted bool) (*needle.Needle, error) {
	return cl.c.get(cl.id, id, readDeleted)
}

func fileID(vol volume.ID, key int) volume.FileID {
	return volume.FileID{Volume: vol, Key: volume.Key(key), Cookie: 0x1234abcd}
}

func file(id volume.FileID, data string) *needle.Needle {
	return &needle.Needle{Key: id.Key, Cookie: id.Cookie, Data: []byte(data)}
}

func (n *node) mustPut(t *testing.T, id volume.FileID, data string) {
	t.Helper()
	if _, err := n.Put(context.Background(), id, file(id, data), false); err != nil {
		t.Fatalf("put %s at %s: %v", id, n.id, err)
	}
}

func (c *cluster) wantFile(n volume.NodeID, id volume.FileID, data string) {
	c.t.Helper()
	got, err := c.get(n, id, false)
	if err != nil {
		c.t.Fatalf("get %s at %s: %v", id, n, err)
	}
	defer got.Release()
	if string(got.Data) != data {
		c.t.Errorf("get %s at %s: %q, want %q", id, n, got.Data, data)
	}
}

// wantSame checks that the copies of a volume on these nodes are the same bytes.
func (c *cluster) wantSame(id volume.ID, nodes ...volume.NodeID) {
	c.t.Helper()
	sum := func(n volume.NodeID) (int64, uint32) {
		v, err := c.node(n).disk.Volume(id)
		if err != nil {
			c.t.Fatalf("volume %d on %s: %v", id, n, err)
		}
		end := v.End()
		s, err := v.Checksum(end)
		if err != nil {
			c.t.Fatalf("checksum of volume %d on %s: %v", id, n, err)
		}
		return end, s
	}
	c.eventually(fmt.Sprintf("volume %d is the same on %v", id, nodes), func() bool {
		end, s := sum(nodes[0])
		for _, n := range nodes[1:] {
			if e, t := sum(n); e != end || t != s {
				return false
			}
		}
		return true
	})
}

// testLog shows the log of a test that failed.
func testLog(t *testing.T) *slog.Logger {
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			if b, err := os.ReadFile(f.Name()); err == nil {
				_, _ = io.WriteString(os.Stderr, "--- log of "+t.Name()+"\n"+string(b))
			}
		}
		f.Close()
	})
	return slog.New(slog.NewTextHandler(f, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
