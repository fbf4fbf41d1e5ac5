package consensus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"weedd/cluster"
	"weedd/volume"
)

// fakeSeat is a raft group that only knows whether it was bootstrapped.
type fakeSeat struct {
	id      string
	members []Member
}

func (s *fakeSeat) RaftID() string                 { return s.id }
func (s *fakeSeat) HasState() bool                 { return s.members != nil }
func (s *fakeSeat) LeaderChanged() <-chan struct{} { return nil }
func (s *fakeSeat) Bootstrap(m []Member) error     { s.members = m; return nil }

// village is some masters, their disks, and a network that loses messages. All
// of it runs in one goroutine, so that an interleaving is a list of steps.
type village struct {
	t       *testing.T
	houses  []*house
	sees    func(a, b int) bool
	lose    func() (request, answer bool)
	founded map[string]bool
	mu      sync.Mutex // founders are asked at the same time
}

type house struct {
	*village
	i       int
	opt     GenesisOptions
	seat    *fakeSeat
	genesis *Genesis
	down    bool
}

func newVillage(t *testing.T, n, expect int) *village {
	v := &village{t: t, founded: make(map[string]bool), sees: func(a, b int) bool { return true },
		lose: func() (bool, bool) { return false, false }}
	for i := range n {
		h := &house{village: v, i: i, seat: &fakeSeat{id: fmt.Sprintf("raft-%d", i)}}
		h.opt = GenesisOptions{
			Dir: t.TempDir(), Seat: h.seat, Self: nodeName(i), Addr: fmt.Sprintf("host%d:9332", i), Expect: expect,
			View: h, Promiser: h, Log: slog.New(slog.DiscardHandler),
		}
		v.houses = append(v.houses, h)
		h.restart()
	}
	return v
}

func nodeName(i int) cluster.NodeID { return cluster.NodeID(fmt.Sprintf("node-%d", i)) }

func (h *house) restart() {
	g, err := OpenGenesis(h.opt)
	if err != nil {
		h.t.Fatal(err)
	}
	h.genesis, h.down = g, false
}

// wipe is the loss of the raft directory.
func (h *house) wipe() {
	os.Remove(h.genesis.path())
	h.seat.id, h.seat.members = h.seat.id+"'", nil
	h.restart()
}

func (h *house) node() cluster.Node {
	return cluster.Node{
		ID: h.opt.Self, Roles: cluster.RoleMaster, ClusterID: h.genesis.ClusterID(), RaftID: h.seat.id,
		Expect: h.opt.Expect, Internal: h.opt.Addr, Alive: !h.down, Ready: h.seat.HasState(),
	}
}

func (h *house) Watch() ([]cluster.Node, <-chan struct{}) {
	var nodes []cluster.Node
	for _, other := range h.houses {
		if other == h || h.sees(h.i, other.i) {
			nodes = append(nodes, other.node())
		}
	}
	return nodes, nil
}

func (h *house) Promise(_ context.Context, node cluster.Node, p Proposal) error {
	for _, other := range h.houses {
		if other.opt.Self != node.ID {
			continue
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		request, answer := h.lose()
		if other.down || request || !h.sees(h.i, other.i) {
			return volume.ErrUnavailable
		}
		err := other.genesis.Promise(p)
		if answer {
			return volume.ErrUnavailable
		}
		return err
	}
	return volume.ErrUnavailable
}

func (h *house) step() {
	if h.down || h.seat.HasState() {
		return
	}
	h.genesis.lastConfirm = time.Time{}
	nodes, _ := h.Watch()
	if err := h.genesis.step(context.Background(), nodes); err != nil {
		h.t.Fatal(err)
	}
	if h.seat.HasState() {
		h.founded[h.genesis.ClusterID()] = true
		if len(h.founded) > 1 {
			h.t.Fatalf("two clusters: %v", h.founded)
		}
	}
}

func (v *village) settle(rounds int) {
	for range rounds {
		for _, h := range v.houses {
			h.step()
		}
	}
}

func TestGenesisFoundsOnceThroughTheLowestNode(t *testing.T) {
	t.Parallel()
	v := newVillage(t, 3, 3)
	v.settle(3)
	if len(v.founded) != 1 || !v.houses[0].seat.HasState() || len(v.houses[0].seat.members) != 3 {
		t.Errorf("founded %v by %v", v.founded, v.houses[0].seat)
	}
	for _, h := range v.houses {
		if !v.founded[h.genesis.ClusterID()] {
			t.Errorf("node %d does not know its cluster", h.i)
		}
	}
}

func TestGenesisWaits(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*village){
		"while one of three is away":            func(v *village) { v.houses[2].down = true },
		"while there are more than expected":    func(v *village) { v.houses = append(v.houses, newVillage(v.t, 4, 3).houses[3]) },
		"while the masters disagree on expect":  func(v *village) { v.houses[1].opt.Expect = 5; v.houses[1].restart() },
		"while a data directory has a cluster":  func(v *village) { v.houses[0].opt.DirCluster = "old"; v.houses[0].restart() },
		"while a founder's data has a cluster":  func(v *village) { v.houses[2].opt.DirCluster = "old"; v.houses[2].restart() },
		"while somebody has promised elsewhere": func(v *village) { v.houses[2].genesis.promise.Store(&Proposal{ClusterID: "x", Proposer: "gone"}) },
	} {
		t.Run(name, func(t *testing.T) {
			v := newVillage(t, 3, 3)
			prepare(v)
			v.settle(5)
			if len(v.founded) != 0 {
				t.Error("founded all the same")
			}
		})
	}
}

func TestGenesisOfOne(t *testing.T) {
	t.Parallel()
	alone := newVillage(t, 1, 1)
	alone.settle(2)
	if len(alone.founded) != 1 {
		t.Error("a single master does not begin")
	}
	joining := newVillage(t, 1, 1)
	joining.houses[0].opt.Joins = true
	joining.houses[0].restart()
	joining.settle(2)
	if len(joining.founded) != 0 {
		t.Error("a single master that is to join others begins a cluster of its own")
	}
	// One begins and the other, which points at it, waits to be admitted.
	two := newVillage(t, 2, 1)
	two.houses[0].opt.Joins = true
	two.houses[0].restart()
	two.settle(3)
	if len(two.founded) != 1 || two.houses[0].seat.HasState() {
		t.Error("growing from one does not begin with the one")
	}
}

func TestGenesisGoesOnAfterACrashBetweenPromiseAndBootstrap(t *testing.T) {
	t.Parallel()
	v := newVillage(t, 3, 3)
	v.lose = func() (bool, bool) { return false, true } // promised, and the answers are lost
	v.settle(2)
	id := v.houses[0].genesis.ClusterID()
	if id == "" || v.houses[1].genesis.ClusterID() != id || len(v.founded) != 0 {
		t.Fatal("the promises are not as the test wants them")
	}
	for _, h := range v.houses {
		h.restart()
	}
	v.lose = func() (bool, bool) { return false, false }
	v.settle(2)
	if !v.founded[id] {
		t.Errorf("founded %v, promised %s", v.founded, id)
	}
}

func TestGenesisTakesAnotherFounderForOneThatIsGone(t *testing.T) {
	t.Parallel()
	v := newVillage(t, 4, 3)
	gone, fresh := v.houses[2], v.houses[3]
	v.sees = func(a, b int) bool { return a != fresh.i && b != fresh.i }
	v.lose = func() (bool, bool) { return true, false }
	v.settle(2) // node 0 has proposed {0,1,2} and nobody has heard
	gone.down = true
	v.sees = func(a, b int) bool { return a != gone.i && b != gone.i }
	v.lose = func() (bool, bool) { return false, false }
	v.settle(3)
	if len(v.founded) != 1 || v.houses[0].genesis.promise.Load().Round != 2 {
		t.Errorf("founded %v, proposal %+v", v.founded, v.houses[0].genesis.promise.Load())
	}
}

func TestGenesisFreesFoundersOfAProposerThatLostItsRaftDirectory(t *testing.T) {
	t.Parallel()
	v := newVillage(t, 3, 3)
	v.lose = func() (bool, bool) { return false, true }
	v.settle(2)
	old := v.houses[1].genesis.ClusterID()
	v.houses[0].wipe()
	v.lose = func() (bool, bool) { return false, false }
	v.settle(6)
	if len(v.founded) != 1 || v.founded[old] {
		t.Errorf("founded %v; %s died with the directory", v.founded, old)
	}
}

func TestGenesisOperatorFreesFoundersOfAProposerThatIsGoneForEver(t *testing.T) {
	t.Parallel()
	v := newVillage(t, 4, 3)
	fresh := v.houses[3]
	v.sees = func(a, b int) bool { return a != fresh.i && b != fresh.i }
	v.lose = func() (bool, bool) { return false, true }
	v.settle(2)
	v.houses[0].down = true
	v.sees = func(a, b int) bool { return a != 0 && b != 0 }
	v.lose = func() (bool, bool) { return false, false }
	v.settle(3)
	if len(v.founded) != 0 {
		t.Fatal("a promise was broken")
	}
	v.houses[1].wipe() // what the log tells the operator to do
	v.houses[2].wipe()
	v.settle(5)
	if len(v.founded) != 1 {
		t.Error("still stuck")
	}
}

// Whatever is lost, crashes or is not seen: never two clusters. And once the
// network is whole, one.
func TestGenesisUnderRandomFaults(t *testing.T) {
	t.Parallel()
	for seed := range uint64(100) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		n := 3 + int(seed%3)
		v := newVillage(t, n, 3)
		blind := make(map[[2]int]bool)
		v.sees = func(a, b int) bool { return !blind[[2]int{min(a, b), max(a, b)}] }
		v.lose = func() (bool, bool) { return rnd.IntN(4) == 0, rnd.IntN(4) == 0 }
		for range 60 {
			h := v.houses[rnd.IntN(n)]
			switch rnd.IntN(8) {
			case 0:
				a, b := rnd.IntN(n), rnd.IntN(n)
				blind[[2]int{min(a, b), max(a, b)}] = rnd.IntN(2) == 0
			case 1:
				h.down = true
			case 2:
				h.restart()
			default:
				h.step()
			}
		}
		clear(blind)
		v.lose = func() (bool, bool) { return false, false }
		for _, h := range v.houses {
			h.restart()
		}
		v.settle(12)
		if n == 3 && len(v.founded) != 1 {
			for _, h := range v.houses {
				t.Logf("%d: %+v", h.i, h.genesis.promise.Load())
			}
			t.Fatalf("seed %d: no cluster in the end", seed)
		}
	}
}

func TestPromiseIsRefusedForWhatItIs(t *testing.T) {
	t.Parallel()
	v := newVillage(t, 3, 3)
	v.settle(2)
	p := *v.houses[0].genesis.promise.Load()
	other := Proposal{ClusterID: "other", Proposer: nodeName(2), Round: 1, Founders: p.Founders}
	if err := v.houses[1].genesis.Promise(other); !errors.Is(err, volume.ErrExists) {
		t.Errorf("a second promise: %v", err)
	}
	if err := v.houses[1].genesis.Promise(p); err != nil {
		t.Errorf("the same again: %v", err)
	}
	lone := newVillage(t, 3, 3).houses[1]
	wrong := p
	wrong.Founders = []Founder{{lone.opt.Self, "another raft id", lone.opt.Addr}}
	if err := lone.genesis.Promise(wrong); !errors.Is(err, volume.ErrBadRequest) {
		t.Errorf("a promise for another raft id: %v", err)
	}
}
