package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weedd/cluster"
	"weedd/volume"
)

// memberlist does not wait for its last probe, which ends by itself at the
// probe's deadline.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}

const patience = 30 * time.Second // the machine may be busy

func node(i int) cluster.Node {
	return cluster.Node{ID: cluster.NodeID(fmt.Sprintf("%016x", i)), Roles: cluster.RoleMaster, Version: 1, Internal: "127.0.0.1:9332"}
}

// open starts a member on loopback that joins the others given.
func open(t *testing.T, o Options, others ...*Mesh) *Mesh {
	t.Helper()
	m, err := tryOpen(o, others...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func tryOpen(o Options, others ...*Mesh) (*Mesh, error) {
	if o.Bind == "" {
		o.Bind = "127.0.0.1:0"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	for _, m := range others {
		o.Join = append(o.Join, m.addr())
	}
	return Open(o)
}

func (m *Mesh) addr() string {
	self, _ := m.Node(m.opts.Self.ID)
	return self.Gossip
}

// until waits for a condition on what m sees.
func until(t *testing.T, m *Mesh, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for {
		members, changed := m.Watch()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("node %s waited in vain: %s; it sees %+v", m.opts.Self.ID, what, members)
		}
	}
}

func alive(m *Mesh, ids ...int) func() bool {
	return func() bool {
		want := make(map[cluster.NodeID]bool)
		for _, i := range ids {
			want[node(i).ID] = true
		}
		for _, n := range m.Members() {
			if n.Alive {
				if !want[n.ID] {
					return false
				}
				delete(want, n.ID)
			}
		}
		return len(want) == 0
	}
}

func TestOneAddressIsEnough(t *testing.T) {
	t.Parallel()
	key := bytes.Repeat([]byte("k"), 32)
	full := node(1)
	full.Roles |= cluster.RoleVolume
	full.VolumeHTTP, full.PublicURL, full.MasterHTTP = "127.0.0.1:8080", "blobs.example:80", "127.0.0.1:9333"
	full.DataCenter, full.Rack, full.Expect = "dc1", "r1", 3
	a := open(t, Options{Self: full, Key: key})
	b := open(t, Options{Self: node(2), Key: key}, a)
	c := open(t, Options{Self: node(3), Key: key}, b)
	for _, m := range []*Mesh{a, b, c} {
		until(t, m, "all three", alive(m, 1, 2, 3))
	}
	full.Gossip, full.Alive = a.addr(), true
	if got, _ := c.Node(full.ID); got != full {
		t.Errorf("got %+v\nwant %+v", got, full)
	}
	a.SetSelf(func(n *cluster.Node) { n.Ready, n.ClusterID, n.RaftID = true, "cluster", "raft" })
	until(t, c, "news of a node", func() bool {
		n, _ := c.Node(full.ID)
		return n.Ready && n.ClusterID == "cluster" && n.RaftID == "raft"
	})
}

func TestDeathIsNoticedSoonAndTheDeadAreRemembered(t *testing.T) {
	t.Parallel()
	a := open(t, Options{Self: node(1)})
	b := open(t, Options{Self: node(2)}, a)
	c := open(t, Options{Self: node(3)}, a)
	until(t, a, "all three", alive(a, 1, 2, 3))
	until(t, b, "all three", alive(b, 1, 2, 3))
	start := time.Now()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	until(t, a, "one is gone", alive(a, 1, 2))
	t.Logf("noticed after %v", time.Since(start).Round(10*time.Millisecond))
	if time.Since(start) > 10*time.Second {
		t.Error("that is no use to anybody")
	}
	if n, ok := a.Node(node(3).ID); !ok || n.Alive || n.Internal == "" {
		t.Errorf("the dead one is %+v", n)
	}
	until(t, b, "one is gone", alive(b, 1, 2))
	if err := b.Leave(context.Background()); err != nil {
		t.Fatal(err)
	}
	until(t, a, "one has left", alive(a, 1))
}

func TestSameJoinListOnEveryNode(t *testing.T) {
	t.Parallel()
	a := open(t, Options{Self: node(1)})
	b := open(t, Options{Self: node(2)})
	list := []string{a.addr(), b.addr(), "127.0.0.1:1", "no such host.invalid:7946"}
	a.SetJoin(list)
	b.SetJoin(list)
	until(t, a, "both", alive(a, 1, 2))
	until(t, b, "both", alive(b, 1, 2))
}

func TestRestartWithoutSeeds(t *testing.T) {
	t.Parallel()
	a := open(t, Options{Self: node(1)})
	peers := filepath.Join(t.TempDir(), "peers")
	b := open(t, Options{Self: node(2), PeersFile: peers}, a)
	until(t, a, "both", alive(a, 1, 2))
	deadline := time.Now().Add(patience)
	for {
		if got, err := readPeers(peers); err == nil && len(got) == 1 && got[0] == a.addr() {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the members are not remembered")
		}
		_, changed := b.Watch()
		select {
		case <-changed:
		case <-time.After(10 * time.Millisecond):
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, Options{Self: node(2), PeersFile: peers}) // at another port, too
	until(t, again, "both", alive(again, 1, 2))
	until(t, a, "it came back at its new address", func() bool {
		n, _ := a.Node(node(2).ID)
		return n.Alive && n.Gossip == again.addr()
	})
}

func TestSeedThatStartsLaterIsFound(t *testing.T) {
	t.Parallel()
	first := open(t, Options{Self: node(1)})
	addr := first.addr()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	b := open(t, Options{Self: node(2), Join: []string{addr}})
	until(t, b, "only itself", alive(b, 2))
	a := open(t, Options{Self: node(1), Bind: addr})
	until(t, a, "both", alive(a, 1, 2))
}

func TestSecondProcessWithOneNodeIDRefusesToStart(t *testing.T) {
	t.Parallel()
	a := open(t, Options{Self: node(1)})
	b := open(t, Options{Self: node(2)}, a)
	until(t, b, "both", alive(b, 1, 2))
	// b knows of a and tells; a itself is not asked to join.
	_, err := tryOpen(Options{Self: node(1)}, b)
	if err == nil || !strings.Contains(err.Error(), a.addr()) {
		t.Errorf("got %v, want an error that names %s", err, a.addr())
	}
	select {
	case err := <-a.Fatal():
		t.Errorf("the first process gives way: %v", err)
	default:
	}
	until(t, b, "both", alive(b, 1, 2))
}

func TestSecondProcessThatMeetsTheFirstLaterGivesWay(t *testing.T) {
	t.Parallel()
	a := open(t, Options{Self: node(1)})
	twin := open(t, Options{Self: node(1)})
	twin.SetJoin([]string{a.addr()})
	select {
	case err := <-twin.Fatal():
		if !strings.Contains(err.Error(), a.addr()) {
			t.Errorf("it does not say where the other is: %v", err)
		}
	case <-time.After(patience):
		t.Error("both go on")
	}
}

func TestWhoGivesWay(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, test := range map[string]struct {
		age, dispute time.Duration
		twinAge      time.Duration
		want         bool
	}{
		"a new process to an old one":                            {age: time.Second, twinAge: time.Hour, want: true},
		"a new process to one from the future, by another clock": {age: time.Second, twinAge: -time.Hour, want: true},
		"of two new ones, the later":                             {age: time.Second, twinAge: 2 * time.Second, want: true},
		"of two new ones, not the earlier":                       {age: 2 * time.Second, twinAge: time.Second},
		"an old process not to a new one":                        {age: time.Hour, twinAge: time.Second},
		"an old process not at once, by another clock":           {age: time.Hour, twinAge: 2 * time.Hour},
		"an old process to an older one that stays":              {age: time.Hour, twinAge: 2 * time.Hour, dispute: time.Minute, want: true},
	} {
		m := &Mesh{opts: Options{Self: node(1)}, opened: now.Add(-test.age), dispute: dispute{first: now.Add(-test.dispute)}}
		if got := m.givesWay(twin{started: now.Add(-test.twinAge).UnixMilli()}, now); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestOtherKeyIsKeptOutAndSaidSo(t *testing.T) {
	t.Parallel()
	out := new(syncBuffer)
	log := slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelWarn}))
	a := open(t, Options{Self: node(1), Key: bytes.Repeat([]byte("a"), 32), Log: log})
	open(t, Options{Self: node(2), Key: bytes.Repeat([]byte("b"), 32)}, a)
	open(t, Options{Self: node(3)}, a)
	deadline := time.Now().Add(patience)
	for !strings.Contains(out.String(), "another cluster key") {
		if time.Now().After(deadline) {
			t.Fatalf("nothing is said: %s", out)
		}
		_, changed := a.Watch()
		select {
		case <-changed:
		case <-time.After(10 * time.Millisecond):
		}
	}
	if !alive(a, 1)() {
		t.Error("let in")
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestWhatDoesNotFitIsRefused(t *testing.T) {
	t.Parallel()
	long := node(1)
	long.DataCenter, long.Rack = strings.Repeat("d", 200), strings.Repeat("r", 220)
	_, err := tryOpen(Options{Self: long})
	if !errors.Is(err, volume.ErrTooLarge) || !strings.Contains(err.Error(), "rack (220)") {
		t.Errorf("got %v", err)
	}
	m := open(t, Options{Self: node(2)})
	m.SetSelf(func(n *cluster.Node) { n.Rack = strings.Repeat("r", 600) })
	if self, _ := m.Node(node(2).ID); self.Rack != "" {
		t.Error("announced all the same")
	}
}

func TestCloseTwice(t *testing.T) {
	t.Parallel()
	m := open(t, Options{Self: node(1)})
	for range 2 {
		if err := errors.Join(m.Close(), m.Leave(context.Background())); err != nil {
			t.Error(err)
		}
	}
}

func TestMetadataOfLaterBuildsIsRead(t *testing.T) {
	t.Parallel()
	want := cluster.Node{ID: "x", Gossip: "[::1]:7946", Internal: "[::1]:9332", VolumeHTTP: "[::1]:8080", PublicURL: "[::1]:8080",
		MasterHTTP: "other:9333", Ready: true, Expect: 3, Roles: 3, Version: 1, ClusterID: "c", RaftID: "r", DataCenter: "d", Rack: "k"}
	b, err := encodeMeta(want, 12345)
	if err != nil {
		t.Fatal(err)
	}
	got, started, err := decodeMeta("x", want.Gossip, append(b, "and more"...))
	if err != nil || got != want || started != 12345 {
		t.Errorf("%+v, %d, %v", got, started, err)
	}
	b[0]++
	if _, _, err := decodeMeta("x", want.Gossip, b); err == nil {
		t.Error("another format is taken for ours")
	}
}

func FuzzDecodeMeta(f *testing.F) {
	n := node(1)
	n.PublicURL, n.VolumeHTTP = "a:1", "a:1"
	b, _ := encodeMeta(n, 1)
	f.Add(b)
	f.Add(b[:10])
	f.Fuzz(func(t *testing.T, b []byte) {
		n, started, err := decodeMeta("x", "10.0.0.1:7946", b)
		if err != nil {
			return
		}
		again, err := encodeMeta(n, started)
		if err != nil {
			return // it does not fit, written out
		}
		m, _, err := decodeMeta("x", "10.0.0.1:7946", again)
		if err != nil || m.RaftID != n.RaftID || m.Rack != n.Rack || m.ID != n.ID {
			t.Errorf("%+v became %+v: %v", n, m, err)
		}
	})
}
