package simulation

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"weedd/cluster"
	"weedd/cluster/consensus"
	"weedd/volume"
)

// world is a cluster: masters, volume servers, and the network between them. It
// lives in a bubble of fake time.
type world struct {
	*history
	seed   uint64
	rng    *rand.Rand // of the troubles
	net    *network
	gossip *gossip
	ctx    context.Context // of everything that belongs to no master
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu        sync.Mutex
	hosts     []*host
	listeners map[string]*listener // by host, of its newest run
	servers   []*server
	quiet     bool // the trouble is over
	wiped     bool // a master has lost its disk
	founders  int
	writes    int
	truth     map[volume.ID][]int // writes acknowledged
}

func newWorld(seed uint64) *world {
	w := &world{history: newHistory(), seed: seed, rng: source(seed, "troubles"), net: newNetwork(seed), listeners: map[string]*listener{}, truth: map[volume.ID][]int{}}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	w.gossip = newGossip(w)
	w.wg.Go(w.gossip.run)
	return w
}

// found begins the cluster with the first n masters, and servers.
func (w *world) found(masters, servers int) {
	w.founders = masters
	var members []consensus.Member
	for range masters {
		h := w.addHost()
		w.start(h, 0)
		members = append(members, consensus.Member{RaftID: h.disk.raftID, Addr: h.id, Voter: true})
	}
	if err := w.hosts[0].run.group.Bootstrap(members); err != nil {
		w.fail("bootstrap: %v", err)
	}
	for i := range servers {
		s := w.newServer(volume.NodeID(fmt.Sprintf("v%d", i+1)))
		w.mu.Lock()
		w.servers = append(w.servers, s)
		w.mu.Unlock()
		s.start()
	}
}

func (w *world) addHost() *host {
	w.mu.Lock()
	defer w.mu.Unlock()
	id := fmt.Sprintf("m%d", len(w.hosts)+1)
	h := &host{id: id, disk: newDisk(w.seed, id, id+"-raft-1", w.wrote)}
	w.hosts = append(w.hosts, h)
	return h
}

func (w *world) calm() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.quiet
}

func (w *world) anyRun() *run {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.anyRunLocked()
}

func (w *world) anyRunLocked() *run {
	for _, h := range w.hosts {
		if h.run != nil {
			return h.run
		}
	}
	return nil
}

// close ends everything.
func (w *world) close() {
	w.cancel()
	for range 2 { // what was about to start when nothing new began has started after the first
		for _, h := range w.hosts {
			if r := w.running(h.id); r != nil {
				w.crash(r, false)
			}
		}
		w.wg.Wait()
	}
}

// judgeLocked looks whether the copies are as the rules want them.
func (w *world) judgeLocked() {
	cat, _ := w.newest()
	for _, e := range cat.Volumes() {
		able := []volume.NodeID(nil)
		for _, s := range w.servers {
			if s.up && w.ableLocked(s, e.Volume) {
				able = append(able, s.id)
			}
		}
		if len(able) > 1 {
			w.fail("R8: volume %d can be written at %v", e.Volume, able)
		}
		for _, h := range e.InSync {
			c := w.server(h.Node).copies[e.Volume]
			if c != nil && c.self == h && !slices.Equal(c.log[:min(len(c.log), len(w.truth[e.Volume]))], w.truth[e.Volume]) {
				w.fail("R7: the copy of volume %d on %s, in sync by %+v, lacks what was acknowledged", e.Volume, h.Node, *e)
			}
		}
	}
}

// ableLocked reports whether the copy on s leads and all that count follow it:
// those in sync, and those that it has asked to be (rule R9).
func (w *world) ableLocked(s *server, id volume.ID) bool {
	if !s.leadsLocked(id) {
		return false
	}
	for _, h := range slices.Concat(s.told[id].InSync, s.copies[id].asked) {
		o := w.server(h.Node).copies[id]
		if o == nil || o.self != h || o.entered != s.copies[id].entered {
			return false
		}
	}
	return true
}

// gossip is what the nodes hear of one another: it is late, and never lies.
type gossip struct {
	w *world

	mu    sync.Mutex
	seen  map[link]time.Time // when the first was heard of last by the second, directly or by others
	nodes map[string]*seen   // as the masters see it
	known map[string]bool    // nodes that ever were
}

type seen struct {
	text    string
	nodes   []cluster.Node
	changed chan struct{}
}

func newGossip(w *world) *gossip {
	return &gossip{w: w, seen: map[link]time.Time{}, nodes: map[string]*seen{}, known: map[string]bool{}}
}

func (g *gossip) run() {
	for sleep(g.w.ctx, 200*ms) {
		g.look()
	}
}

// suspicion is how long a node is silent before gossip calls it dead.
const suspicion = 1200 * ms

// look lets every living node hear of every other.
func (g *gossip) look() {
	nodes, up := g.w.announced()
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	for _, n := range nodes {
		g.known[string(n.ID)] = true
		for _, v := range nodes {
			if up[string(n.ID)] && up[string(v.ID)] && g.hears(up, string(n.ID), string(v.ID)) {
				g.seen[link{string(n.ID), string(v.ID)}] = now
			}
		}
	}
	for _, v := range nodes {
		if v.Roles&cluster.RoleMaster == 0 {
			continue
		}
		var list []cluster.Node
		for _, n := range nodes {
			at, ever := g.seen[link{string(n.ID), string(v.ID)}]
			n.Alive = now.Sub(at) < suspicion
			if n.Ready = n.Alive; ever {
				list = append(list, n)
			}
		}
		g.setLocked(string(v.ID), list)
	}
}

// hears: directly, or by one other node.
func (g *gossip) hears(up map[string]bool, n, v string) bool {
	if n == v || g.w.net.whole(n, v) {
		return true
	}
	for by := range up {
		if up[by] && g.w.net.whole(n, by) && g.w.net.whole(by, v) {
			return true
		}
	}
	return false
}

func (g *gossip) setLocked(viewer string, list []cluster.Node) {
	s := g.nodes[viewer]
	if s == nil {
		s = &seen{changed: make(chan struct{})}
		g.nodes[viewer] = s
	}
	if text := fmt.Sprint(list); text != s.text {
		s.text, s.nodes = text, list
		close(s.changed)
		s.changed = make(chan struct{})
	}
}

func (g *gossip) view(viewer string) ([]cluster.Node, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.nodes[viewer] == nil {
		g.setLocked(viewer, nil)
	}
	s := g.nodes[viewer]
	return slices.Clone(s.nodes), s.changed
}

// announced lists all nodes as they announce themselves, and who runs.
func (w *world) announced() (nodes []cluster.Node, up map[string]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	up = map[string]bool{}
	for _, h := range w.hosts {
		up[h.id] = h.run != nil
		nodes = append(nodes, cluster.Node{ID: volume.NodeID(h.id), Roles: cluster.RoleMaster, Version: cluster.ProtocolVersion, ClusterID: "sim", RaftID: h.disk.raftID, Internal: h.id})
	}
	for _, s := range w.servers {
		up[string(s.id)] = s.up
		nodes = append(nodes, cluster.Node{ID: s.id, Roles: cluster.RoleVolume, Version: cluster.ProtocolVersion, ClusterID: "sim", Internal: string(s.id), VolumeHTTP: string(s.id)})
	}
	return nodes, up
}

func (w *world) storyText() string {
	w.history.mu.Lock()
	defer w.history.mu.Unlock()
	return strings.Join(w.story[max(0, len(w.story)-400):], "\n")
}
