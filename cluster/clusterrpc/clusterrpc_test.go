package clusterrpc_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"weedd/cluster"
	"weedd/cluster/catalog"
	"weedd/cluster/clusterrpc"
	"weedd/cluster/placement"
	"weedd/volume"
)

// fakeMaster answers what it is told to.
type fakeMaster struct {
	id volume.NodeID

	mu      sync.Mutex
	leader  clusterrpc.LeaderInfo
	asked   bool                  // who leads
	mute    bool                  // it takes calls and never answers
	locate  func(context.Context) // called first; set before the master is asked
	version uint64                // of the entry that it knows; likewise
	calls   int
	grow    error
	ask     func(volume.Ask) (volume.Entry, error)
	got     []volume.Report
	orders  chan volume.Orders
	view    cluster.View
	claim   func(ctx context.Context, key, print string) (clusterrpc.Claim, func([]byte), error)
}

func (m *fakeMaster) notLeader(ctx context.Context) error {
	m.mu.Lock()
	m.calls++
	leader, mute := m.leader, m.mute
	m.mu.Unlock()
	if mute {
		<-ctx.Done()
		return ctx.Err()
	}
	if leader.ID != m.id {
		return fmt.Errorf("at %s: %w", m.id, &cluster.NotLeaderError{Leader: leader.ID, Internal: leader.Internal})
	}
	return nil
}

func (m *fakeMaster) Claim(ctx context.Context, key, print string) (clusterrpc.Claim, func([]byte), error) {
	return m.claim(ctx, key, print)
}

func (m *fakeMaster) Operate(ctx context.Context, op cluster.Operation) (cluster.Outcome, error) {
	return cluster.Outcome{Drain: &cluster.ViewDrain{Dir: op.Drain.Dir}}, m.notLeader(ctx)
}

func (m *fakeMaster) Compact(ctx context.Context, _ float64) error { return m.notLeader(ctx) }

func (m *fakeMaster) Ask(ctx context.Context, ask volume.Ask) (volume.Entry, error) {
	if err := m.notLeader(ctx); err != nil {
		return volume.Entry{}, err
	}
	return m.ask(ask)
}

func (m *fakeMaster) Keys(ctx context.Context, count uint64) (catalog.Block, error) {
	return catalog.Block{From: 10, To: volume.Key(10 + count)}, m.notLeader(ctx)
}

func (m *fakeMaster) Grow(ctx context.Context, req placement.GrowRequest) ([]*volume.Entry, error) {
	if err := m.notLeader(ctx); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return []*volume.Entry{{Volume: 7, Spec: req.Spec}}, m.grow
}

func (m *fakeMaster) DeleteCollection(ctx context.Context, name string) (int, error) {
	return len(name), m.notLeader(ctx)
}

func (m *fakeMaster) Beat(ctx context.Context, recv func() (volume.Report, error), send func(volume.Orders) error) error {
	if err := m.notLeader(ctx); err != nil {
		return err
	}
	go func() {
		for {
			r, err := recv()
			if err != nil {
				return
			}
			m.mu.Lock()
			m.got = append(m.got, r)
			m.mu.Unlock()
		}
	}()
	for {
		select {
		case o, ok := <-m.orders:
			if !ok {
				return &cluster.NotLeaderError{Leader: "next", Internal: "next:1"}
			}
			if err := send(o); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *fakeMaster) View() (cluster.View, error) {
	if err := m.notLeader(context.Background()); err != nil {
		return cluster.View{}, err
	}
	return m.view, nil
}

func (m *fakeMaster) Entry(ctx context.Context, id volume.ID) (volume.Entry, error) {
	if err := m.notLeader(ctx); err != nil {
		return volume.Entry{}, err
	}
	if id != 7 && id != 9 {
		return volume.Entry{}, fmt.Errorf("%w: volume %d", volume.ErrNoVolume, id)
	}
	return volume.Entry{Volume: id, Epoch: 3, Version: 1}, nil
}

func (m *fakeMaster) Locate(ctx context.Context, id volume.ID) (volume.Entry, []volume.Node, error) {
	if m.locate != nil {
		m.locate(ctx)
	}
	if id != 7 || m.id == "m2" {
		return volume.Entry{}, nil, fmt.Errorf("%w: volume %d", volume.ErrNoVolume, id)
	}
	return volume.Entry{Volume: id, Epoch: 3, Version: m.version}, []volume.Node{{ID: "n1", URL: "n1:8080"}}, nil
}

func (m *fakeMaster) WhoLeads(context.Context) (clusterrpc.LeaderInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = true
	return m.leader, nil
}

func (m *fakeMaster) Promise(_ context.Context, p json.RawMessage) error {
	if string(p) != `{"cluster_id":"x"}` {
		return fmt.Errorf("%w: promised already", volume.ErrExists)
	}
	return nil
}

// masters is some masters in memory. It gives connections and names to Client.
type masters struct {
	list  []*fakeMaster
	conns map[string]*grpc.ClientConn
}

func start(t *testing.T, ids ...volume.NodeID) *masters {
	t.Helper()
	ms := &masters{conns: map[string]*grpc.ClientConn{}}
	for _, id := range ids {
		m := &fakeMaster{id: id, orders: make(chan volume.Orders)}
		ln := bufconn.Listen(1 << 20)
		srv := grpc.NewServer()
		clusterrpc.Register(srv, m)
		done := make(chan struct{})
		go func() { defer close(done); _ = srv.Serve(ln) }() // ends with Stop
		conn, err := grpc.NewClient("passthrough:///"+string(id), grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return ln.DialContext(ctx) }))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(); srv.Stop(); <-done })
		ms.list = append(ms.list, m)
		ms.conns[string(id)+":1"] = conn
	}
	return ms
}

func (ms *masters) Conn(addr string, _ volume.NodeID, _ string) (grpc.ClientConnInterface, error) {
	if c := ms.conns[addr]; c != nil {
		return c, nil
	}
	return nil, errors.New("no route")
}

func (ms *masters) nodes() []cluster.Node {
	out := []cluster.Node{{ID: "v1", Roles: cluster.RoleVolume, Internal: "v1:1"}}
	for _, m := range ms.list {
		out = append(out, cluster.Node{ID: m.id, Roles: cluster.RoleMaster, Internal: string(m.id) + ":1"})
	}
	return out
}

// lead makes every master believe that id leads.
func (ms *masters) lead(id volume.NodeID) {
	for _, m := range ms.list {
		m.mu.Lock()
		m.leader = clusterrpc.LeaderInfo{}
		if id != "" {
			m.leader = clusterrpc.LeaderInfo{ID: id, Internal: string(id) + ":1"}
		}
		m.mu.Unlock()
	}
}

func (ms *masters) client() *clusterrpc.Client {
	return clusterrpc.NewClient(clusterrpc.ClientOptions{Conns: ms, Masters: ms.nodes})
}

func ctx(t *testing.T) context.Context {
	t.Helper()
	c, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return c
}

// wait looks again and again until cond holds.
func wait(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline, tick := time.After(30*time.Second), time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited for %s", what)
		}
	}
}

func TestEveryCallReachesTheLeaderWhoeverIsAsked(t *testing.T) {
	t.Parallel()
	ms := start(t, "m1", "m2", "m3")
	ms.lead("m3")
	c := ms.client()
	ms.list[2].view = cluster.View{ClusterID: strings.Repeat("x", 3<<20)}
	ms.list[2].ask = func(a volume.Ask) (volume.Entry, error) { return volume.Entry{Volume: a.Volume, Epoch: 9}, nil }
	if b, err := c.Keys(ctx(t), 5); err != nil || b.From != 10 || b.To != 15 {
		t.Errorf("Keys: %v, %v", b, err)
	}
	if e, err := c.Ask(ctx(t), volume.Ask{Volume: 4}); err != nil || e.Volume != 4 || e.Epoch != 9 {
		t.Errorf("Ask: %v, %v", e, err)
	}
	if es, err := c.Grow(ctx(t), placement.GrowRequest{Spec: volume.Spec{Collection: "c", Placement: 1}}); err != nil || len(es) != 1 || es[0].Spec.Placement != 1 {
		t.Errorf("Grow: %v, %v", es, err)
	}
	if n, err := c.DeleteCollection(ctx(t), "abc"); err != nil || n != 3 {
		t.Errorf("DeleteCollection: %v, %v", n, err)
	}
	if v, err := c.View(ctx(t)); err != nil || len(v.ClusterID) != 3<<20 {
		t.Errorf("View of 3 MiB: %d bytes, %v", len(v.ClusterID), err)
	}
}

func TestANotLeaderErrorSaysWhoLeadsOnTheOtherSideToo(t *testing.T) {
	t.Parallel()
	ms := start(t, "m1")
	ms.lead("far") // no way there
	c := ms.client()
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := c.Keys(short, 1); !errors.Is(err, volume.ErrUnavailable) {
		t.Errorf("a leader that cannot be reached: %v", err)
	}
	for _, info := range []clusterrpc.LeaderInfo{{}, {ID: "m9", Internal: "m9:1"}} {
		var nl *cluster.NotLeaderError
		err := clusterrpc.OverTheWire(fmt.Errorf("tried it: %w", &cluster.NotLeaderError{Leader: info.ID, Internal: info.Internal}))
		if !errors.As(err, &nl) || nl.Leader != info.ID || nl.Internal != info.Internal || !errors.Is(err, volume.ErrNotLeader) {
			t.Errorf("%+v came over as %v", info, err)
		}
	}
	if err := clusterrpc.OverTheWire(fmt.Errorf("x: %w", volume.ErrNotLeader)); !errors.Is(err, volume.ErrNotLeader) {
		t.Errorf("the bare sentinel came over as %v", err)
	}
}

func TestRefusalsKeepTheirIdentityAndAreNotRepeated(t *testing.T) {
	t.Parallel()
	ms := start(t, "m1", "m2")
	ms.lead("m1")
	c := ms.client()
	ms.list[0].grow = fmt.Errorf("%w: two nodes needed", volume.ErrUnsatisfiable)
	if _, err := c.Grow(ctx(t), placement.GrowRequest{}); !errors.Is(err, volume.ErrUnsatisfiable) || !strings.Contains(err.Error(), "two nodes needed") {
		t.Errorf("Grow: %v", err)
	}
	for _, refusal := range []error{volume.ErrStale, volume.ErrUnavailable} {
		asked := 0
		ms.list[0].ask = func(a volume.Ask) (volume.Entry, error) {
			asked++
			return volume.Entry{Volume: a.Volume, Epoch: 8, Primary: "n2"}, fmt.Errorf("%w: so it is", refusal)
		}
		e, err := c.Ask(ctx(t), volume.Ask{Kind: volume.AskYield, Volume: 3, Epoch: 7})
		if !errors.Is(err, refusal) || e.Epoch != 8 || e.Primary != "n2" || asked != 1 {
			t.Errorf("Ask refused as %v after %d times, with %+v: %v", refusal, asked, e, err)
		}
	}
	if err := c.Promise(ctx(t), ms.nodes()[1], json.RawMessage(`{"cluster_id":"x"}`)); err != nil {
		t.Errorf("Promise: %v", err)
	}
	if err := c.Promise(ctx(t), ms.nodes()[1], json.RawMessage(`{}`)); !errors.Is(err, volume.ErrExists) {
		t.Errorf("Promise refused: %v", err)
	}
	_, err := c.Keys(ctx(t), 1)
	if err != nil {
		t.Errorf("Keys after refusals: %v", err)
	}
}

func TestCallsWaitForALeaderAndFollowANewOne(t *testing.T) {
	t.Parallel()
	ms := start(t, "m1", "m2")
	c := ms.client()
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := c.Keys(ctx(t), 1); err != nil {
			t.Errorf("while there is no leader: %v", err)
		}
	})
	wait(t, "the question who leads", func() bool {
		ms.list[0].mu.Lock()
		defer ms.list[0].mu.Unlock()
		return ms.list[0].asked
	})
	ms.lead("m2")
	wg.Wait()
	ms.lead("m1")
	if _, err := c.Keys(ctx(t), 1); err != nil {
		t.Errorf("after a change: %v", err)
	}
}

func TestACallAtAMuteLeaderIsGivenUpWhenAnotherLeads(t *testing.T) {
	t.Parallel()
	ms := start(t, "m1", "m2")
	ms.lead("m1")
	ms.list[0].mute = true
	var mu sync.Mutex
	hint := clusterrpc.LeaderInfo{ID: "m1", Internal: "m1:1"}
	c := clusterrpc.NewClient(clusterrpc.ClientOptions{Conns: ms, Masters: ms.nodes, Hint: func() clusterrpc.LeaderInfo {
		mu.Lock()
		defer mu.Unlock()
		return hint
	}})
	began := time.Now()
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := c.Keys(ctx(t), 1); err != nil || time.Since(began) > 2*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
	wait(t, "the call at the mute master", func() bool {
		ms.list[0].mu.Lock()
		defer ms.list[0].mu.Unlock()
		return ms.list[0].calls > 0
	})
	ms.lead("m2")
	mu.Lock()
	hint = clusterrpc.LeaderInfo{ID: "m2", Internal: "m2:1"}
	mu.Unlock()
	wg.Wait()
}

// A node that is no master has only the word of the others that the one it asked,
// which takes calls and answers none, leads no more.
func TestAMuteLeaderHoldsUpNoNodeThatIsNoMaster(t *testing.T) {
	t.Parallel()
	ms := start(t, "m1", "m2", "m3")
	ms.lead("m1")
	c := ms.client()
	if _, err := c.Keys(ctx(t), 1); err != nil { // it knows who leads
		t.Fatal(err)
	}
	frozen := ms.list[0]
	frozen.mu.Lock()
	frozen.mute, frozen.calls = true, 0
	frozen.mu.Unlock()
	done := make(chan error, 1)
	go func() {
		_, err := c.Keys(ctx(t), 1)
		done <- err
	}()
	wait(t, "the call at the frozen master", func() bool {
		frozen.mu.Lock()
		defer frozen.mu.Unlock()
		return frozen.calls > 0
	})
	began := time.Now()
	ms.lead("m2")
	if err := <-done; err != nil || time.Since(began) > 2*time.Second { // by itself the call ends after 3 s
		t.Errorf("%v after %v", err, time.Since(began))
	}
}

func TestOneHeartbeatCarriesReportsUpAndOrdersDown(t *testing.T) {
	t.Parallel()
	ms := start(t, "m1")
	ms.lead("m1")
	m := ms.list[0]
	reports := make(chan volume.Report)
	var got []volume.Orders
	var mu sync.Mutex
	ended := make(chan error, 1)
	c := ms.client()
	go func() {
		ended <- c.Beat(t.Context(), reports, func(o volume.Orders) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, o)
		})
	}()
	reports <- volume.Report{Node: "n1", Full: true, Copies: make([]volume.CopyReport, 1700), Disks: []volume.DiskReport{{Dir: "/a"}}}
	wait(t, "all copies", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		copies := 0
		for i, r := range m.got {
			if copies += len(r.Copies); r.Full != (i == 0) || r.Node != "n1" {
				t.Errorf("report %d: full %v, node %s", i, r.Full, r.Node)
			}
		}
		return copies == 1700
	})
	m.orders <- volume.Orders{} // a sign of life is not handed on
	m.orders <- volume.Orders{Full: true, Cluster: "c", Entries: make([]volume.Entry, 1200), Drop: make([]volume.Drop, 3)}
	close(m.orders)
	err := <-ended
	var nl *cluster.NotLeaderError
	if !errors.As(err, &nl) || nl.Leader != "next" {
		t.Errorf("the stream ended with %v", err)
	}
	entries, drops := 0, 0
	for i, o := range got {
		entries, drops = entries+len(o.Entries), drops+len(o.Drop)
		if o.Full != (i == 0) || o.Cluster != "c" {
			t.Errorf("orders %d: full %v, cluster %q", i, o.Full, o.Cluster)
		}
	}
	if entries != 1200 || drops != 3 {
		t.Errorf("%d entries and %d drops arrived", entries, drops)
	}
}

func TestAHeartbeatEndsWhenTheLeaderFallsSilent(t *testing.T) {
	t.Parallel()
	ms := start(t, "m1")
	ms.lead("m1")
	began := time.Now()
	err := ms.client().Beat(ctx(t), nil, func(volume.Orders) {})
	if !errors.Is(err, volume.ErrUnavailable) || time.Since(began) > 4*time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
	ms.lead("")
	if err := ms.client().Beat(ctx(t), nil, nil); !errors.Is(err, volume.ErrUnavailable) {
		t.Errorf("without a leader: %v", err)
	}
}

func TestThatThereIsNoVolumeIsBelievedOfTheLeaderOnly(t *testing.T) {
	t.Parallel()
	ms := start(t, "m2", "m1") // m2 lags behind, and m1 does not know of volume 9 yet
	e, nodes, err := ms.client().Locate(ctx(t), 7, 0)
	if err != nil || e.Epoch != 3 || len(nodes) != 1 {
		t.Errorf("nobody leads, and a master knows it: %v, %v, %v", e, nodes, err)
	}
	if _, _, err := ms.client().Locate(ctx(t), 8, 0); !errors.Is(err, volume.ErrUnavailable) {
		t.Errorf("nobody leads: %v", err)
	}
	ms.lead("m1")
	if e, _, err := ms.client().Locate(ctx(t), 9, 0); err != nil || e.Epoch != 3 {
		t.Errorf("only the leader knows it: %v, %v", e, err)
	}
	if _, _, err := ms.client().Locate(ctx(t), 8, 0); !errors.Is(err, volume.ErrNoVolume) {
		t.Errorf("no such volume: %v", err)
	}
}

// A frozen master takes calls and says nothing.
func TestAMasterThatSaysNothingHoldsNoLocateUp(t *testing.T) {
	t.Parallel()
	ms := start(t, "m0", "m1")
	frozen, other := ms.list[0], ms.list[1]
	asked, waited := make(chan struct{}), make(chan bool, 1)
	other.version, other.locate = 1, func(context.Context) { close(asked) }
	frozen.locate = func(ctx context.Context) {
		select {
		case <-asked:
			waited <- false
		case <-ctx.Done():
			waited <- true
		}
		<-ctx.Done()
	}
	if e, _, err := ms.client().Locate(ctx(t), 7, 0); err != nil || e.Version != 1 {
		t.Fatalf("%v, %v", e, err)
	}
	if <-waited {
		t.Error("the other master was asked only after the frozen one had been given up")
	}
}

func TestLocateAsksOnWhileAMasterMayKnowMore(t *testing.T) {
	t.Parallel()
	ms := start(t, "m0", "m1")
	ms.list[0].version, ms.list[1].version = 4, 5
	c := ms.client()
	c.SetTurn(time.Minute) // who is slow to answer is waited for
	for past, want := range map[uint64]uint64{0: 4, 3: 4, 4: 5, 5: 5} {
		if e, nodes, err := c.Locate(ctx(t), 7, past); err != nil || e.Version != want || len(nodes) != 1 {
			t.Errorf("past version %d: %v, %v, %v; want version %d", past, e, nodes, err, want)
		}
	}
}
