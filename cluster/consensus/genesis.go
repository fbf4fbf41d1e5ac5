package consensus

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"weedd/cluster"
	"weedd/volume"
)

// Founder is a master that a new cluster begins with.
type Founder struct {
	Node   cluster.NodeID `json:"node"`
	RaftID string         `json:"raft_id"`
	Addr   string         `json:"addr"` // internal address
}

// Proposal is a cluster that may come to be: its id and its founders, by node
// id. A proposer that needs other founders says so with the same cluster id and
// a higher round.
type Proposal struct {
	ClusterID string         `json:"cluster_id"`
	Proposer  cluster.NodeID `json:"proposer"`
	Round     uint64         `json:"round"`
	Founders  []Founder      `json:"founders"`
}

func (p Proposal) equal(q Proposal) bool {
	return p.ClusterID == q.ClusterID && p.Proposer == q.Proposer && p.Round == q.Round && slices.Equal(p.Founders, q.Founders)
}

// Promiser asks another master for its promise, over the network: it has
// Genesis.Promise called there. The identity of volume.ErrExists must survive.
type Promiser interface {
	Promise(ctx context.Context, node cluster.Node, p Proposal) error
}

// Seat is what Genesis needs of a Group.
type Seat interface {
	RaftID() string
	HasState() bool
	Bootstrap([]Member) error
	LeaderChanged() <-chan struct{}
}

// GenesisOptions say who takes part.
type GenesisOptions struct {
	Dir    string // of the raft group; the promise is kept in genesis.json
	Seat   Seat
	Self   cluster.NodeID
	Addr   string // own internal address
	Expect int    // how many masters begin the cluster
	// Joins says that the configuration names an address to join that is not
	// this node's own. Then, with Expect 1, this node never begins a cluster.
	Joins bool
	// DirCluster is the cluster id that some data directory of this node has,
	// "" for none. This node then begins no other cluster.
	DirCluster string
	View       View
	Promiser   Promiser
	// Announce is called with the cluster id that this node has promised
	// itself to, "" when it is free again. It is to be told by gossip, so that
	// nobody else counts on this node. May be nil.
	Announce func(clusterID string)
	Log      *slog.Logger
	Retry    time.Duration // how often to look and ask again, at least; 500 ms
}

// Genesis decides who bootstraps a cluster, so that it happens once.
//
// Of exactly Expect masters, the one with the lowest node id proposes a cluster
// id and the list of founders. Each founder, the proposer first, records the one
// proposal that it agrees to before it says yes; and with all founders' yes, the
// proposer bootstraps. Nobody proposes or agrees while a cluster is in sight.
//
// A promise ends in two ways only, and both are safe, because only the proposer
// ever bootstraps a proposal, and only while its own record says so:
//
//   - The proposer, before it bootstraps, changes its record: it gives way to a
//     proposer with a lower node id, or to a living cluster, or it needs other
//     founders and goes to the next round. Founders ask the proposer now and
//     then; when it answers that it holds to that proposal no longer, they are
//     free.
//   - The raft directory is deleted. The raft id dies with it, so what the old
//     one promised counts for nobody. This is what an operator does when the
//     proposer's own data is lost for ever and others still wait for it: stop
//     the daemon, delete its raft directory, start it. The log says when.
type Genesis struct {
	opt GenesisOptions

	mu      sync.Mutex               // held to change promise, and over bootstrapping
	promise atomic.Pointer[Proposal] // as in the file; nil for none

	lastSaid    string // the loop's own
	lastConfirm time.Time
}

// OpenGenesis reads what this node has promised, if anything.
func OpenGenesis(o GenesisOptions) (*Genesis, error) {
	if o.Retry == 0 {
		o.Retry = 500 * time.Millisecond
	}
	if o.Announce == nil {
		o.Announce = func(string) {}
	}
	g := &Genesis{opt: o}
	b, err := os.ReadFile(g.path())
	if errors.Is(err, os.ErrNotExist) {
		return g, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read promise: %w", err)
	}
	p := new(Proposal)
	if err := json.Unmarshal(b, p); err != nil {
		return nil, fmt.Errorf("read promise %s: %w", g.path(), err)
	}
	g.promise.Store(p)
	return g, nil
}

func (g *Genesis) path() string { return filepath.Join(g.opt.Dir, "genesis.json") }

// ClusterID is the cluster that this node has promised itself to, "" for none.
// After genesis it is the id of the cluster that this node founded. It never
// waits, and may be asked of a nil Genesis, for raft dials before there is one.
func (g *Genesis) ClusterID() string {
	if g == nil {
		return ""
	}
	if p := g.promise.Load(); p != nil {
		return p.ClusterID
	}
	return ""
}

// recordLocked replaces the promise, durably; nil for none.
func (g *Genesis) recordLocked(p *Proposal) error {
	if p == nil {
		if err := errors.Join(os.Remove(g.path()), syncDir(g.opt.Dir)); err != nil {
			return fmt.Errorf("withdraw promise: %w", err)
		}
	} else {
		b, err := json.MarshalIndent(p, "", "  ")
		if err == nil {
			err = writeFile(g.path(), b)
		}
		if err != nil {
			return fmt.Errorf("record promise: %w", err)
		}
	}
	g.promise.Store(p)
	g.opt.Announce(g.ClusterID())
	return nil
}

// Promise answers a proposer. nil is a promise, durably made. An error that is
// volume.ErrExists says that this node holds to something else; when this node
// is the proposer itself, it says that the proposal is given up.
func (g *Genesis) Promise(p Proposal) error {
	nodes, _ := g.opt.View.Watch()
	g.mu.Lock()
	defer g.mu.Unlock()
	have := g.promise.Load()
	if have != nil && have.equal(p) {
		return nil
	}
	me := Founder{g.opt.Self, g.opt.Seat.RaftID(), g.opt.Addr}
	switch {
	case p.Proposer == me.Node && !slices.ContainsFunc(p.Founders, func(f Founder) bool { return f.RaftID == me.RaftID }):
		return g.refusal("nothing from before its raft directory was lost")
	case have == nil && g.opt.Seat.HasState():
		return fmt.Errorf("promise: %w: node %s has raft state already", volume.ErrUnavailable, g.opt.Self)
	case have == nil && p.Proposer == g.opt.Self:
		return g.refusal("nothing, as proposer")
	case have != nil && have.ClusterID == p.ClusterID && have.Proposer == p.Proposer && have.Round > p.Round:
		return fmt.Errorf("promise: %w: round %d, round %d is promised", volume.ErrStale, p.Round, have.Round)
	case have != nil && !g.mayReplace(*have, p):
		return g.refusal("cluster " + have.ClusterID + " of node " + string(have.Proposer))
	case g.opt.DirCluster != "" && g.opt.DirCluster != p.ClusterID:
		return g.refusal("cluster " + g.opt.DirCluster + ", by its data")
	}
	if len(p.Founders) != g.opt.Expect || !slices.Contains(p.Founders, me) {
		return fmt.Errorf("promise: %w: node %s expects %d masters and is %v", volume.ErrBadRequest, g.opt.Self, g.opt.Expect, me)
	}
	if foreign(nodes, g.opt.Self, p.ClusterID, g.ClusterID()) != "" {
		return fmt.Errorf("promise: %w: node %s sees a cluster", volume.ErrUnavailable, g.opt.Self)
	}
	if err := g.recordLocked(&p); err != nil {
		return err
	}
	g.opt.Log.Info("genesis: promised", "cluster", p.ClusterID, "proposer", p.Proposer, "round", p.Round)
	return nil
}

// mayReplace: the same proposer may go to its next round; and who is a proposer
// itself and has not bootstrapped gives way to a lower node id.
func (g *Genesis) mayReplace(have, p Proposal) bool {
	if g.opt.Seat.HasState() {
		return false
	}
	if have.Proposer == p.Proposer && have.ClusterID == p.ClusterID {
		return p.Round > have.Round
	}
	return have.Proposer == g.opt.Self && p.Proposer < g.opt.Self
}

func (g *Genesis) refusal(held string) error {
	return fmt.Errorf("promise: %w: node %s holds to %s", volume.ErrExists, g.opt.Self, held)
}

// Run takes part until this node has raft state: it was bootstrapped here, or
// heard from a leader. It returns ctx's error when that ends first.
func (g *Genesis) Run(ctx context.Context) error {
	if id := g.ClusterID(); id != "" {
		g.opt.Announce(id)
	}
	retry := time.NewTicker(g.opt.Retry)
	defer retry.Stop()
	for {
		leader := g.opt.Seat.LeaderChanged()
		nodes, changed := g.opt.View.Watch()
		if g.opt.Seat.HasState() {
			return nil
		}
		if err := g.step(ctx, nodes); err != nil {
			return fmt.Errorf("genesis: %w", err)
		}
		if g.opt.Seat.HasState() {
			return nil
		}
		select {
		case <-retry.C:
		case <-changed:
		case <-leader:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// step looks once and does what can be done. Its errors are those of the disk.
func (g *Genesis) step(ctx context.Context, nodes []cluster.Node) error {
	have := g.promise.Load()
	switch {
	case have == nil:
		return g.begin(nodes)
	case have.Proposer != g.opt.Self:
		return g.confirm(ctx, nodes, *have)
	default:
		return g.pursue(ctx, nodes, *have)
	}
}

// say logs what genesis waits for, when that changes.
func (g *Genesis) say(level slog.Level, why string) {
	if why != g.lastSaid {
		g.lastSaid = why
		g.opt.Log.Log(context.Background(), level, "genesis: "+why)
	}
}

// begin makes a proposal, if it is this node's turn.
func (g *Genesis) begin(nodes []cluster.Node) error {
	if id := cmp.Or(g.opt.DirCluster, foreign(nodes, g.opt.Self, "", "")); id != "" {
		g.say(slog.LevelInfo, "cluster "+id+" exists; waiting to be admitted by its leader")
		return nil
	}
	founders, why := g.founders(nodes, "")
	if why == "" && founders[0].Node != g.opt.Self {
		why = fmt.Sprintf("waiting for node %s to begin", founders[0].Node)
	}
	if why != "" {
		g.say(slog.LevelInfo, why)
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.promise.Load() != nil {
		return nil // another proposer came first
	}
	return g.recordLocked(&Proposal{ClusterID: randomID(), Proposer: g.opt.Self, Round: 1, Founders: founders})
}

// founders gives the masters in sight, if they are as many as a cluster begins
// with and agree on that; else the reason. Masters that have promised themselves
// to clusterID count.
func (g *Genesis) founders(nodes []cluster.Node, clusterID string) (list []Founder, why string) {
	list = []Founder{{g.opt.Self, g.opt.Seat.RaftID(), g.opt.Addr}}
	if g.opt.Expect == 1 {
		if g.opt.Joins {
			return nil, "expect = 1 and join names another address: waiting to be admitted to the cluster there"
		}
		return list, ""
	}
	for _, n := range nodes {
		if n.ID == g.opt.Self || !n.Alive || n.Roles&cluster.RoleMaster == 0 || n.ClusterID != "" && n.ClusterID != clusterID {
			continue
		}
		if n.RaftID == "" || n.Internal == "" {
			return nil, fmt.Sprintf("waiting for node %s to be ready", n.ID)
		}
		if n.Expect != g.opt.Expect {
			return nil, fmt.Sprintf("node %s has expect = %d, this one %d; they must agree", n.ID, n.Expect, g.opt.Expect)
		}
		list = append(list, Founder{n.ID, n.RaftID, n.Internal})
	}
	if len(list) != g.opt.Expect {
		return nil, fmt.Sprintf("%d masters in sight, a cluster begins with exactly %d", len(list), g.opt.Expect)
	}
	slices.SortFunc(list, func(a, b Founder) int { return cmp.Compare(a.Node, b.Node) })
	return list, ""
}

// foreign gives a cluster in sight other than the ones named, dead nodes
// included: its members may only be away.
func foreign(nodes []cluster.Node, self cluster.NodeID, but, alsoBut string) string {
	for _, n := range nodes {
		if n.ID != self && n.ClusterID != "" && n.ClusterID != but && n.ClusterID != alsoBut {
			return n.ClusterID
		}
	}
	return ""
}

// confirmEvery is how often a founder asks its proposer whether the proposal
// still stands.
const confirmEvery = time.Second

func (g *Genesis) confirm(ctx context.Context, nodes []cluster.Node, p Proposal) error {
	if time.Since(g.lastConfirm) < confirmEvery {
		return nil
	}
	g.lastConfirm = time.Now()
	i := slices.IndexFunc(nodes, func(n cluster.Node) bool { return n.ID == p.Proposer })
	if i < 0 || !nodes[i].Alive {
		g.say(slog.LevelWarn, fmt.Sprintf("this master has promised itself to node %s for cluster %s, and that node is away; "+
			"if its data is lost for ever, stop this daemon, delete %s and start it again", p.Proposer, p.ClusterID, g.opt.Dir))
		return nil
	}
	g.say(slog.LevelInfo, fmt.Sprintf("waiting for node %s to found cluster %s", p.Proposer, p.ClusterID))
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := g.opt.Promiser.Promise(ctx, nodes[i], p); !errors.Is(err, volume.ErrExists) {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opt.Seat.HasState() || !g.holds(p) {
		return nil
	}
	g.opt.Log.Info("genesis: free again, the proposer has given up", "cluster", p.ClusterID, "proposer", p.Proposer)
	return g.recordLocked(nil)
}

func (g *Genesis) holds(p Proposal) bool {
	have := g.promise.Load()
	return have != nil && have.equal(p)
}

// pursue goes on with this node's own proposal: asks the others, and bootstraps
// when all have promised.
func (g *Genesis) pursue(ctx context.Context, nodes []cluster.Node, p Proposal) error {
	if id := foreign(nodes, g.opt.Self, p.ClusterID, ""); id != "" && lives(nodes, id) {
		return g.replaceOwn(p, nil, "cluster "+id+" lives")
	}
	if list, why := g.founders(nodes, p.ClusterID); why == "" && !slices.Equal(list, p.Founders) {
		next := Proposal{ClusterID: p.ClusterID, Proposer: p.Proposer, Round: p.Round + 1, Founders: list}
		return g.replaceOwn(p, &next, "other founders")
	}
	if err := g.ask(ctx, nodes, p); err != nil {
		g.say(slog.LevelInfo, "not everybody has promised yet: "+err.Error())
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.holds(p) {
		return nil
	}
	members := make([]Member, len(p.Founders))
	for i, f := range p.Founders {
		members[i] = Member{RaftID: f.RaftID, Addr: f.Addr, Voter: true}
	}
	if err := g.opt.Seat.Bootstrap(members); err != nil {
		return err
	}
	g.opt.Log.Info("genesis: cluster founded", "cluster", p.ClusterID, "masters", len(members))
	return nil
}

// lives tells a cluster from a mere proposal: its members serve. Of two
// proposers that see each other, the higher gives way when it is asked.
func lives(nodes []cluster.Node, clusterID string) bool {
	return slices.ContainsFunc(nodes, func(n cluster.Node) bool { return n.ClusterID == clusterID && n.Alive && n.Ready })
}

func (g *Genesis) replaceOwn(p Proposal, next *Proposal, why string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opt.Seat.HasState() || !g.holds(p) {
		return nil
	}
	g.opt.Log.Info("genesis: own proposal replaced", "cluster", p.ClusterID, "round", p.Round, "reason", why)
	return g.recordLocked(next)
}

// ask collects the promises of all founders.
func (g *Genesis) ask(ctx context.Context, nodes []cluster.Node, p Proposal) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	errs := make([]error, len(p.Founders))
	var wg sync.WaitGroup
	for i, f := range p.Founders {
		if f.Node == g.opt.Self {
			continue
		}
		node := cluster.Node{ID: f.Node, Internal: f.Addr}
		if j := slices.IndexFunc(nodes, func(n cluster.Node) bool { return n.ID == f.Node }); j >= 0 {
			node = nodes[j]
		}
		wg.Go(func() { errs[i] = g.opt.Promiser.Promise(ctx, node, p) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
