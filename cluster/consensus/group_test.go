package consensus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"

	"weedd/cluster"
	"weedd/volume"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// list is a Machine that remembers its commands.
type list struct {
	mu   sync.Mutex
	text []string
}

func (l *list) Apply(command []byte) any {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, string(command))
	return len(l.text)
}

func (l *list) Snapshot() func(io.Writer) error {
	text := l.all()
	return func(w io.Writer) error { return json.NewEncoder(w).Encode(text) }
}

func (l *list) Restore(r io.Reader) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = nil
	return json.NewDecoder(r).Decode(&l.text)
}

func (l *list) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.text)
}

// peer is a member that a test can stop and start again.
type peer struct {
	*Group
	t       *testing.T
	opt     Options
	addr    string
	machine *list
}

func newPeer(t *testing.T, change ...func(*Options)) *peer {
	t.Helper()
	p := &peer{t: t}
	p.opt = Options{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler), Dial: func(ctx context.Context, addr string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}}
	for _, c := range change {
		c(&p.opt)
	}
	p.start()
	t.Cleanup(p.stop)
	return p
}

// start opens the member, under its old address when it had one.
func (p *peer) start() {
	p.t.Helper()
	if p.addr == "" {
		p.addr = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", p.addr)
	if err != nil {
		p.t.Fatal(err)
	}
	p.addr = l.Addr().String()
	p.machine = new(list)
	o := p.opt
	o.Listener, o.Advertise, o.Machine = l, p.addr, p.machine
	if p.Group, err = Open(o); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) stop() {
	if err := p.Close(); err != nil {
		p.t.Error(err)
	}
}

func (p *peer) seat() Member { return Member{RaftID: p.RaftID(), Addr: p.addr, Voter: true} }

func (p *peer) node(i int) cluster.Node {
	return cluster.Node{ID: nodeName(i), Roles: cluster.RoleMaster, RaftID: p.RaftID(), Internal: p.addr, Alive: true}
}

func newGroup(t *testing.T, n int, change ...func(*Options)) []*peer {
	t.Helper()
	var peers []*peer
	var seats []Member
	for range n {
		p := newPeer(t, change...)
		peers = append(peers, p)
		seats = append(seats, p.seat())
	}
	if err := peers[0].Bootstrap(seats); err != nil {
		t.Fatal(err)
	}
	return peers
}

const patience = 30 * time.Second // the machine may be busy; nothing here takes long by itself

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func leaderOf(t *testing.T, peers []*peer) (leader *peer) {
	t.Helper()
	until(t, "a leader", func() bool {
		for _, p := range peers {
			if p.Leading() {
				leader = p
				return true
			}
		}
		return false
	})
	return leader
}

// propose has whoever leads commit the command, once.
func propose(t *testing.T, peers []*peer, command string) (by *peer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		by = leaderOf(t, peers)
		_, err := by.Propose(ctx, []byte(command))
		if err == nil {
			return by
		}
		if !errors.Is(err, volume.ErrNotLeader) && !errors.Is(err, volume.ErrUnavailable) {
			t.Fatalf("propose %s: %v", command, err)
		}
	}
}

func agree(t *testing.T, peers []*peer, want ...string) {
	t.Helper()
	for i, p := range peers {
		until(t, fmt.Sprintf("member %d has %v", i, want), func() bool { return slices.Equal(p.machine.all(), want) })
	}
}

func without(peers []*peer, p *peer) []*peer {
	return slices.DeleteFunc(slices.Clone(peers), func(q *peer) bool { return q == p })
}

func TestCommandsReachEveryMember(t *testing.T) {
	t.Parallel()
	peers := newGroup(t, 3)
	leader := propose(t, peers, "a")
	propose(t, peers, "b")
	agree(t, peers, "a", "b")
	for _, p := range without(peers, leader) {
		_, err := p.Propose(context.Background(), []byte("x"))
		if !errors.Is(err, volume.ErrNotLeader) {
			t.Errorf("at a follower: %v", err)
		}
	}
	if _, err := leader.Propose(context.Background(), nil); !errors.Is(err, volume.ErrBadRequest) {
		t.Errorf("an empty command: %v", err)
	}
	if n := len(leader.Members()); n != 3 {
		t.Errorf("%d members", n)
	}
}

func TestLeaderDiesAndComesBack(t *testing.T) {
	t.Parallel()
	peers := newGroup(t, 3)
	first := propose(t, peers, "a")
	agree(t, peers, "a")
	start := time.Now()
	first.stop()
	rest := without(peers, first)
	second := leaderOf(t, rest)
	t.Logf("another leads after %v", time.Since(start).Round(time.Millisecond))
	propose(t, rest, "b")
	t.Logf("and has committed after %v", time.Since(start).Round(time.Millisecond))
	if second == first {
		t.Fatal("the dead lead")
	}
	first.start()
	agree(t, peers, "a", "b")
	if !first.HasState() || first.Bootstrap([]Member{first.seat()}) != nil || len(first.Members()) != 3 {
		t.Error("bootstrapping with state on disk does something")
	}
}

func TestTheLeadIsConfirmedByAMajorityOnly(t *testing.T) {
	t.Parallel()
	peers := newGroup(t, 3, func(o *Options) { o.Lease, o.Heartbeat, o.Election = time.Second, time.Second, time.Second })
	leader := propose(t, peers, "a")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := leader.Confirm(ctx); err != nil {
		t.Errorf("with all there: %v", err)
	}
	for _, p := range without(peers, leader) {
		if err := p.Confirm(ctx); !errors.Is(err, volume.ErrNotLeader) {
			t.Errorf("at a follower: %v", err)
		}
		p.stop()
	}
	short, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if err := leader.Confirm(short); err == nil { // it takes itself for the leader for a second still
		t.Error("alone it is sure that it leads")
	}
}

// Raft pauses longer after each call with entries that failed, in the end for
// 10 s: a member that comes back would have a leader at once, and for so long
// decisions from before.
func TestACallWithEntriesFailsOnlyWhenTheMemberIsBack(t *testing.T) {
	t.Parallel()
	var dials sync.Map // by address
	peers := newGroup(t, 3, func(o *Options) {
		o.Heartbeat = 2 * time.Second // a busy machine must not end the term
		dial := o.Dial
		o.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			n, _ := dials.LoadOrStore(addr, new(atomic.Int64))
			n.(*atomic.Int64).Add(1)
			return dial(ctx, addr)
		}
	})
	leader := propose(t, peers, "a")
	agree(t, peers, "a")
	away := without(peers, leader)[0]
	away.stop()
	failed := make(chan error, 1)
	go func() {
		failed <- leader.transport.AppendEntries(raft.ServerID(away.RaftID()), raft.ServerAddress(away.addr),
			&raft.AppendEntriesRequest{PrevLogEntry: 1}, new(raft.AppendEntriesResponse))
	}()
	tried := func() int64 {
		n, _ := dials.LoadOrStore(away.addr, new(atomic.Int64))
		return n.(*atomic.Int64).Load()
	}
	before := tried()
	until(t, "heartbeats", func() bool { return tried() > before+3 })
	select {
	case err := <-failed:
		t.Errorf("while the member is away: %v", err)
	default:
	}
	away.start()
	select {
	case err := <-failed:
		if err == nil {
			t.Error("the call succeeded")
		}
	case <-time.After(patience):
		t.Error("the member is back and its call is held still")
	}
	propose(t, peers, "b")
	agree(t, peers, "a", "b")
}

func TestSnapshotsRestoreAndReachNewMembers(t *testing.T) {
	t.Parallel()
	few := func(o *Options) { o.SnapshotEvery, o.SnapshotThreshold, o.TrailingLogs = 10*time.Millisecond, 5, 1 }
	peers := newGroup(t, 1, few)
	var want []string
	for i := range 40 {
		want = append(want, fmt.Sprint(i))
		propose(t, peers, want[i])
	}
	until(t, "a snapshot", func() bool {
		found, _ := filepath.Glob(filepath.Join(peers[0].opt.Dir, "snapshots", "*-*"))
		return len(found) > 0 && peers[0].Stats()["last_snapshot_index"] != "0"
	})
	peers[0].stop()
	peers[0].start()
	agree(t, peers, want...)
	leader := leaderOf(t, peers)
	late := newPeer(t, few)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := leader.Admit(ctx, late.seat()); err != nil {
		t.Fatal(err)
	}
	agree(t, []*peer{late}, want...)
}

func TestLeadFollowsTheTerm(t *testing.T) {
	t.Parallel()
	peers := newGroup(t, 3)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	began, ended := make(chan *peer, 100), make(chan *peer, 100)
	for _, p := range peers {
		wg.Go(func() {
			p.Lead(ctx, func(ctx context.Context) {
				began <- p
				<-ctx.Done()
				ended <- p
			})
		})
	}
	first := <-began
	within, stop := context.WithTimeout(ctx, patience)
	defer stop()
	if err := first.TransferLeadership(within); err != nil {
		t.Fatal(err)
	}
	if p := <-ended; p != first {
		t.Error("another term ended")
	}
	if p := <-began; p == first {
		t.Log("the first leads again") // allowed, if the machine is slow
	}
	if err := first.TransferLeadership(within); err != nil && !first.Leading() {
		t.Errorf("handing over what one has not: %v", err)
	}
}

func TestGrowingFromOneToThreeAndShrinking(t *testing.T) {
	t.Parallel()
	peers := newGroup(t, 1)
	propose(t, peers, "a")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for range 2 {
		p := newPeer(t)
		if p.HasState() {
			t.Error("a fresh member has state")
		}
		if err := leaderOf(t, peers).Admit(ctx, p.seat()); err != nil {
			t.Fatal(err)
		}
		peers = append(peers, p)
		agree(t, peers, "a")
	}
	want := []Member{peers[0].seat(), peers[1].seat(), peers[2].seat()}
	slices.SortFunc(want, func(a, b Member) int { return strings.Compare(a.RaftID, b.RaftID) })
	until(t, "all know three voters", func() bool {
		return !slices.ContainsFunc(peers, func(p *peer) bool { return !slices.Equal(p.Members(), want) })
	})
	leader := propose(t, peers, "b")
	gone := without(peers, leader)[0]
	gone.stop()
	if err := leader.Remove(ctx, gone.RaftID()); err != nil {
		t.Fatal(err)
	}
	if err := leader.Remove(ctx, gone.RaftID()); err != nil || len(leader.Members()) != 2 {
		t.Errorf("removing again: %v, %d members", err, len(leader.Members()))
	}
}

// A member that does not answer is not given a vote, and costs no majority.
func TestAdmittingASilentMemberFailsAndHarmsNobody(t *testing.T) {
	t.Parallel()
	peers := newGroup(t, 1)
	leader := leaderOf(t, peers)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err = leader.Admit(ctx, Member{RaftID: "silent", Addr: silent.Addr().String()})
	if !errors.Is(err, volume.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	propose(t, peers, "a")
	if m, ok := leader.member("silent"); !ok || m.Voter {
		t.Errorf("it is %+v", m)
	}
}

// A master that lost its directory answers under its old address. It must not
// act as the member that it was: that one's votes and log are gone.
func TestWipedMemberDoesNotActAsItsOldSelf(t *testing.T) {
	t.Parallel()
	peers := newGroup(t, 3)
	leader := propose(t, peers, "a")
	agree(t, peers, "a")
	wiped := without(peers, leader)[0]
	old := wiped.RaftID()
	wiped.stop()
	wiped.opt.Dir = t.TempDir()
	wiped.start()
	third := without(without(peers, leader), wiped)[0]
	third.stop()
	until(t, "the leader has no majority", func() bool { return !leader.Leading() })
	third.start()
	propose(t, peers, "b")
	if wiped.RaftID() == old || wiped.HasState() {
		t.Fatal("the raft id outlived its directory, or entries came in under the old one")
	}
	view := &fakeView{}
	for i, p := range peers {
		view.nodes = append(view.nodes, p.node(i))
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, p := range peers {
		wg.Go(func() { p.Lead(ctx, func(ctx context.Context) { p.AdmitLoop(ctx, "c", view) }) })
	}
	agree(t, peers, "a", "b")
	until(t, "the old member is out, the new one has a vote", func() bool {
		m := leaderOf(t, peers).Members()
		return len(m) == 3 && slices.Contains(m, wiped.seat())
	})
}

type fakeView struct{ nodes []cluster.Node }

func (v *fakeView) Watch() ([]cluster.Node, <-chan struct{}) { return v.nodes, nil }

func TestMemberWithAnotherAddressIsFoundAgain(t *testing.T) {
	t.Parallel()
	peers := newGroup(t, 3)
	leader := propose(t, peers, "a")
	agree(t, peers, "a")
	moved := without(peers, leader)[0]
	moved.stop()
	moved.addr = ""
	moved.start()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	until(t, "it is admitted under its new address", func() bool {
		return leaderOf(t, peers).Admit(ctx, moved.seat()) == nil
	})
	propose(t, peers, "b")
	agree(t, peers, "a", "b")
	if m, _ := moved.member(moved.RaftID()); m != moved.seat() {
		t.Errorf("it is %+v, want %+v", m, moved.seat())
	}
}

func TestMembersOfAnotherClusterAreRefused(t *testing.T) {
	t.Parallel()
	of := func(id string) func(*Options) {
		return func(o *Options) { o.ClusterID = func() string { return id } }
	}
	ours := newGroup(t, 1, of("ours"))
	theirs := newPeer(t, of("theirs"))
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := leaderOf(t, ours).Admit(ctx, theirs.seat()); err == nil {
		t.Error("admitted")
	}
	if theirs.HasState() {
		t.Error("it has our log")
	}
}

func TestSecondProcessIsToldSo(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := p.opt
	o.Listener, o.Advertise, o.Machine = l, l.Addr().String(), new(list)
	if _, err := Open(o); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("got %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is left open: %v", err)
	}
}

// hangingLogs is a disk that stops answering.
type hangingLogs struct {
	raft.LogStore
	mu   sync.Mutex
	hang chan struct{} // closed to go on; nil while it works
}

func (h *hangingLogs) StoreLogs(logs []*raft.Log) error {
	h.mu.Lock()
	hang := h.hang
	h.mu.Unlock()
	if hang != nil {
		<-hang
	}
	return h.LogStore.StoreLogs(logs)
}

func TestWatchdogNoticesAHungDisk(t *testing.T) {
	t.Parallel()
	var logs *hangingLogs
	stuck := make(chan error, 10)
	peers := newGroup(t, 1, func(o *Options) {
		o.Stores, logs = hangingStores("only")
		o.CheckEvery, o.StuckAfter = 50*time.Millisecond, time.Second
		o.Stuck = func(err error) { stuck <- err }
	})
	propose(t, peers, "a")
	free := logs.setHang()
	start := time.Now()
	select {
	case err := <-stuck:
		t.Logf("after %v: %v", time.Since(start).Round(time.Millisecond), err)
	case <-time.After(patience):
		t.Error("nobody noticed")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := peers[0].Propose(ctx, []byte("b")); !errors.Is(err, volume.ErrOutcomeUnknown) {
		t.Errorf("a proposal meanwhile: %v", err)
	}
	free()
}

// hangingStores are those of a member in memory, with such a disk.
func hangingStores(id string) (*Stores, *hangingLogs) {
	memory := raft.NewInmemStore()
	logs := &hangingLogs{LogStore: memory}
	return &Stores{RaftID: id, Logs: logs, Stable: memory, Snapshots: raft.NewInmemSnapshotStore()}, logs
}

// setHang makes the disk hang until free is called.
func (h *hangingLogs) setHang() (free func()) {
	hang := make(chan struct{})
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hang = hang
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.hang = nil
		close(hang)
	}
}

func TestALeaderWhoseDiskHangsLetsAnotherLead(t *testing.T) {
	t.Parallel()
	disks := map[string]*hangingLogs{}
	peers := newGroup(t, 3, func(o *Options) {
		id := fmt.Sprint("member ", len(disks))
		o.Stores, disks[id] = hangingStores(id)
		o.CheckEvery, o.StuckAfter = 50*time.Millisecond, time.Hour
	})
	old := propose(t, peers, "a")
	agree(t, peers, "a")
	free := disks[old.RaftID()].setHang()
	began := time.Now()
	rest := without(peers, old)
	propose(t, rest, "b")
	t.Logf("another led after %v", time.Since(began).Round(time.Millisecond))
	free()
	until(t, "the old leader has stepped down", func() bool { return !old.Leading() })
	agree(t, peers, "a", "b")
}

func TestQuietMemberLeavesTheLeadToOthers(t *testing.T) {
	t.Parallel()
	peers := newGroup(t, 3)
	leader := propose(t, peers, "a")
	agree(t, peers, "a")
	quiet := without(peers, leader)[0]
	quiet.stop()
	quiet.opt.Quiet = time.Hour
	quiet.start()
	agree(t, peers, "a")
	leader.stop()
	rest := without(peers, leader)
	propose(t, rest, "b")
	if quiet.Leading() {
		t.Error("it leads")
	}
}

func TestAdmissions(t *testing.T) {
	t.Parallel()
	node := func(id, raftID, addr, cl string) cluster.Node {
		return cluster.Node{ID: cluster.NodeID(id), Roles: cluster.RoleMaster, RaftID: raftID, Internal: addr, ClusterID: cl, Alive: true}
	}
	dead := node("n2", "r2", "b", "c")
	dead.Alive = false
	members := []Member{{"r1", "a", true}, {"r2", "b", true}, {"r3", "c", false}}
	for name, test := range map[string]struct {
		nodes []cluster.Node
		was   map[cluster.NodeID]string
		want  string
	}{
		"nothing to do for members":             {nodes: []cluster.Node{node("n1", "r1", "a", "c")}},
		"the dead are left alone":               {nodes: []cluster.Node{dead}},
		"a volume server is none of ours":       {nodes: []cluster.Node{{ID: "v", Roles: cluster.RoleVolume, Internal: "x", RaftID: "x", Alive: true}}},
		"a new master is admitted":              {nodes: []cluster.Node{node("n4", "r4", "d", "")}, want: "admit r4"},
		"a member without vote is promoted":     {nodes: []cluster.Node{node("n3", "r3", "c", "c")}, want: "admit r3"},
		"a new address is entered":              {nodes: []cluster.Node{node("n1", "r1", "z", "c")}, want: "admit r1"},
		"another cluster's is refused":          {nodes: []cluster.Node{node("n4", "r4", "d", "other")}, want: "refuse r4"},
		"a new raft directory replaces the old": {nodes: []cluster.Node{node("n2", "r9", "b", "c")}, want: "remove r2, admit r9"},
		"and at a new address, too": {nodes: []cluster.Node{node("n2", "r9", "y", "c")},
			was: map[cluster.NodeID]string{"n2": "r2"}, want: "remove r2, admit r9"},
		"the leader is never removed":   {nodes: []cluster.Node{node("n8", "r8", "a", "c")}},
		"who swaps addresses goes last": {nodes: []cluster.Node{node("n2", "r2", "z", "c"), node("n4", "r4", "b", "")}, want: "admit r2"},
	} {
		var got []string
		for _, s := range Admissions("c", "r1", members, test.nodes, test.was) {
			got = append(got, map[StepKind]string{StepAdmit: "admit ", StepRemove: "remove ", StepRefuse: "refuse "}[s.Kind]+s.Member.RaftID)
		}
		if strings.Join(got, ", ") != test.want {
			t.Errorf("%s: %v, want %s", name, got, test.want)
		}
	}
}

func FuzzPreamble(f *testing.F) {
	f.Add(preamble("abc", "cluster"))
	f.Add([]byte("wrf1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		id, clusterID, err := readPreamble(strings.NewReader(string(b)))
		if err == nil && !strings.HasPrefix(string(b), string(preamble(id, clusterID))) {
			t.Errorf("%q read as %q, %q", b, id, clusterID)
		}
	})
}
