// Package gossip tells who is there: every daemon is a member of one memberlist
// pool and announces its roles and addresses in it. It finds masters for volume
// servers and candidates for the masters, and steers choices away from silent
// hosts. It is a hint and decides nothing.
//
// One address of any member is enough to join, and the same list may stand on
// every node, its own address included. Members learned are kept in a file, so
// that a node restarts without its seeds. memberlist forgets the dead; so
// configured and remembered addresses are joined for ever while nobody alive is
// there.
package gossip

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"weedd/cluster"
	"weedd/volume/vfs"
)

// Options are what Open needs. Self, Bind and Log must be set.
type Options struct {
	Self      cluster.Node // Gossip and Alive are filled in
	Bind      string       // ip:port for TCP and UDP; port 0 for any
	Key       []byte       // 32 bytes that encrypt everything; nil for none
	Join      []string     // host:port of any members
	PeersFile string       // keeps the members learned; "" for none
	Log       *slog.Logger
}

// Mesh is this node's membership. All methods may be called at once.
type Mesh struct {
	opts    Options
	list    *memberlist.Memberlist
	started int64 // ms since 1970: of two processes with one node id the later gives way
	fatal   chan error
	update  chan struct{} // the own metadata changed
	retry   chan struct{} // look at once for somebody to join
	cancel  context.CancelFunc
	work    sync.WaitGroup

	mu         sync.Mutex
	self       cluster.Node
	meta       []byte
	nodes      map[cluster.NodeID]cluster.Node // all ever seen by this process
	changed    chan struct{}
	join       []string
	remembered []string
}

// Timing: a silent host is noticed after a probe (up to 0.4 s) and a suspicion
// of 0.8 s to 1.6 s.
const (
	probeInterval = 200 * time.Millisecond
	probeTimeout  = 150 * time.Millisecond
	suspicion     = 4 // times probeInterval
	tcpTimeout    = 2 * time.Second
	rejoinFirst   = 200 * time.Millisecond
	rejoinLast    = 3 * time.Second
	maxRemembered = 256
)

// Open joins the pool, or begins one. It does not wait for others.
func Open(o Options) (*Mesh, error) {
	m := &Mesh{opts: o, started: time.Now().UnixMilli(), fatal: make(chan error, 1), update: make(chan struct{}, 1), retry: make(chan struct{}, 1),
		nodes: map[cluster.NodeID]cluster.Node{}, changed: make(chan struct{}), self: o.Self, join: o.Join}
	host, port, err := net.SplitHostPort(o.Bind)
	if err != nil {
		return nil, fmt.Errorf("gossip address %q: %w", o.Bind, err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return nil, fmt.Errorf("gossip address %q: %w", o.Bind, err)
	}
	if m.remembered, err = readPeers(o.PeersFile); err != nil {
		return nil, err
	}
	m.self.Alive, m.self.Gossip = true, o.Bind
	if m.meta, err = encodeMeta(m.self, m.started); err != nil {
		return nil, err
	}
	cfg := memberlist.DefaultLANConfig()
	cfg.Name = string(o.Self.ID)
	cfg.BindAddr, cfg.BindPort, cfg.AdvertisePort = host, number, number
	cfg.SecretKey = o.Key
	cfg.ProbeInterval, cfg.ProbeTimeout = probeInterval, probeTimeout
	cfg.SuspicionMult, cfg.SuspicionMaxTimeoutMult = suspicion, 2
	cfg.AwarenessMaxMultiplier = 4
	cfg.GossipInterval, cfg.PushPullInterval = 100*time.Millisecond, 10*time.Second
	cfg.TCPTimeout = tcpTimeout
	cfg.DeadNodeReclaimTime = time.Second // a node may come back at another address
	cfg.Delegate, cfg.Events, cfg.Conflict = delegate{m}, delegate{m}, delegate{m}
	cfg.Logger = newLogger(o.Log)
	if m.list, err = memberlist.Create(cfg); err != nil {
		return nil, fmt.Errorf("open gossip at %s: %w", o.Bind, err)
	}
	local := m.list.LocalNode()
	m.SetSelf(func(n *cluster.Node) { n.Gossip = local.Address() })
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	m.work.Go(func() { m.rejoin(ctx) })
	m.work.Go(func() { m.announce(ctx) })
	return m, nil
}

// Watch gives all nodes ever seen by this process, itself included, sorted by
// id; Alive says which are there now. The channel is closed when that changes.
func (m *Mesh) Watch() (members []cluster.Node, changed <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.nodes {
		members = append(members, n)
	}
	slices.SortFunc(members, func(a, b cluster.Node) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return members, m.changed
}

// Node finds one node.
func (m *Mesh) Node(id cluster.NodeID) (cluster.Node, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, ok := m.nodes[id]
	return n, ok
}

// Fatal brings the reason why this node must not go on: another process has its
// id and was there first.
func (m *Mesh) Fatal() <-chan error { return m.fatal }

// SetSelf changes what this node announces. What would not fit into the metadata
// is logged and not announced.
func (m *Mesh) SetSelf(change func(*cluster.Node)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := m.self
	change(&next)
	next.Alive = true
	if _, there := m.nodes[next.ID]; there && next == m.self {
		return
	}
	meta, err := encodeMeta(next, m.started)
	if err != nil {
		m.opts.Log.Error("cannot be announced", "err", err)
		return
	}
	m.self, m.meta = next, meta
	m.setLocked(next)
	poke(m.update)
}

// SetJoin changes Options.Join.
func (m *Mesh) SetJoin(join []string) {
	m.mu.Lock()
	m.join = join
	m.mu.Unlock()
	poke(m.retry)
}

// Leave says goodbye, so that the others need not find out. ctx bounds it.
func (m *Mesh) Leave(ctx context.Context) error {
	timeout := time.Second
	if d, ok := ctx.Deadline(); ok {
		timeout = min(timeout, max(time.Until(d), time.Millisecond))
	}
	if err := m.list.Leave(timeout); err != nil {
		return fmt.Errorf("leave gossip: %w", err)
	}
	return nil
}

// Close ends the membership without a word. Twice is fine.
func (m *Mesh) Close() error {
	m.cancel()
	err := m.list.Shutdown()
	m.work.Wait()
	return err
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (m *Mesh) setLocked(n cluster.Node) {
	if m.nodes[n.ID] == n {
		return
	}
	m.nodes[n.ID] = n
	close(m.changed)
	m.changed = make(chan struct{})
}

// announce spreads the own metadata when it has changed.
func (m *Mesh) announce(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.update:
			if err := m.list.UpdateNode(time.Second); err != nil && ctx.Err() == nil {
				m.opts.Log.Debug("gossip: update spreads slowly", "err", err)
			}
		}
	}
}

// rejoin joins, for ever, the addresses at which nobody alive is known.
func (m *Mesh) rejoin(ctx context.Context) {
	wait := rejoinFirst
	for {
		missing := m.missing()
		var all sync.WaitGroup
		for _, addr := range missing {
			all.Go(func() {
				if _, err := m.list.Join([]string{addr}); err != nil {
					m.opts.Log.Debug("gossip: cannot join", "peer", addr, "err", err)
				}
			})
		}
		all.Wait()
		m.remember()
		_, changed := m.Watch()
		if len(missing) == 0 {
			wait = rejoinLast
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-m.retry:
			wait = rejoinFirst
		case <-changed:
			wait = rejoinFirst
			t.Stop()
			pause(ctx, rejoinFirst) // changes come in bunches
		case <-t.C:
			wait = min(2*wait, rejoinLast)
		}
		t.Stop()
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// missing lists the addresses to join.
func (m *Mesh) missing() (out []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	there := map[string]bool{}
	for _, n := range m.nodes {
		if n.Alive {
			there[n.Gossip] = true
		}
	}
	for _, addr := range slices.Concat(m.join, m.remembered) {
		if !there[addr] {
			there[addr] = true
			out = append(out, addr)
		}
	}
	return out
}

// remember keeps the addresses of the others that live, and those that were
// known before.
func (m *Mesh) remember() {
	if m.opts.PeersFile == "" {
		return
	}
	m.mu.Lock()
	var addrs []string
	for id, n := range m.nodes {
		if n.Alive && id != m.self.ID {
			addrs = append(addrs, n.Gossip)
		}
	}
	slices.Sort(addrs)
	for _, a := range m.remembered { // behind those that live
		if !slices.Contains(addrs, a) && a != m.self.Gossip {
			addrs = append(addrs, a)
		}
	}
	addrs = addrs[:min(len(addrs), maxRemembered)]
	same := slices.Equal(addrs, m.remembered)
	m.remembered = addrs
	m.mu.Unlock()
	if same {
		return
	}
	if err := vfs.Replace(vfs.OS{}, m.opts.PeersFile, []byte(strings.Join(addrs, "\n")+"\n")); err != nil {
		m.opts.Log.Warn("members cannot be remembered", "err", err)
	}
}

func readPeers(path string) ([]string, error) {
	if path == "" {
		return nil, nil
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read remembered members: %w", err)
	}
	return strings.Fields(string(b)), nil
}

// delegate is the Mesh as memberlist calls it.
type delegate struct{ m *Mesh }

// NodeMeta implements memberlist.Delegate.
func (d delegate) NodeMeta(int) []byte {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	return d.m.meta
}

// NotifyMsg implements memberlist.Delegate.
func (delegate) NotifyMsg([]byte) {}

// GetBroadcasts implements memberlist.Delegate.
func (delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState implements memberlist.Delegate.
func (delegate) LocalState(bool) []byte { return nil }

// MergeRemoteState implements memberlist.Delegate.
func (delegate) MergeRemoteState([]byte, bool) {}

// NotifyJoin implements memberlist.EventDelegate.
func (d delegate) NotifyJoin(n *memberlist.Node) { d.see(n, true) }

// NotifyUpdate implements memberlist.EventDelegate.
func (d delegate) NotifyUpdate(n *memberlist.Node) { d.see(n, true) }

// NotifyLeave implements memberlist.EventDelegate.
func (d delegate) NotifyLeave(n *memberlist.Node) { d.see(n, false) }

func (d delegate) see(n *memberlist.Node, alive bool) {
	m := d.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if n.Name == string(m.self.ID) {
		return // SetSelf knows better
	}
	node, _, err := decodeMeta(n.Name, n.Address(), n.Meta)
	if err != nil {
		m.opts.Log.Warn("a member of gossip is passed over", "peer", n.Address(), "err", err)
		return
	}
	node.Alive = alive
	m.setLocked(node)
}

// NotifyConflict implements memberlist.ConflictDelegate. Of two processes with
// one node id, as after a data directory was copied, the later gives way.
func (d delegate) NotifyConflict(existing, other *memberlist.Node) {
	m := d.m
	if existing.Name != string(m.opts.Self.ID) {
		return // theirs to settle
	}
	_, started, err := decodeMeta(other.Name, other.Address(), other.Meta)
	if err != nil || started > m.started {
		m.opts.Log.Error("another process uses this node's id; it is to give way", "peer", other.Address())
		return
	}
	select {
	case m.fatal <- fmt.Errorf("node id %s is in use by the process at %s: a data directory was copied, or the address has changed while the old process runs; stop one of the two, or give this one an empty data directory", m.opts.Self.ID, other.Address()):
	default:
	}
}
