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
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"weedd/cluster"
)

// Options are what Open needs. Self, Bind and Log must be set.
type Options struct {
	Self      cluster.Node // Gossip and Alive are filled in
	Bind      string       // host:port for TCP and UDP; port 0 for any
	Advertise string       // host:port for others to use, where that is not Bind; "" for the same
	Key       []byte       // 32 bytes that encrypt everything; nil for none
	Join      []string     // host:port of any members; without a port, DefaultPort
	PeersFile string       // keeps the members learned; "" for none
	Log       *slog.Logger
	// Cut makes this node lose what it sends to the addresses for which it is
	// true at the moment; for tests. nil is no address.
	Cut func(addr string) bool
}

// DefaultPort is where gossip is found unless the configuration says otherwise.
const DefaultPort = 7946

// Mesh is this node's membership. All methods may be called at once.
type Mesh struct {
	opts    Options
	list    *memberlist.Memberlist
	opened  time.Time
	twin    chan twin // another process with this node's id was seen
	dispute dispute   // with the twin; Open's, then watchTwins'
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
	unheard    time.Time // until then, some member may hold this node to be at an address that it left
	closed     bool
}

// Timing: a silent host is noticed after a probe (up to 0.4 s) and a suspicion
// of 0.8 s to 1.6 s.
const (
	probeInterval = 200 * time.Millisecond
	probeTimeout  = 150 * time.Millisecond
	suspicion     = 4 // times probeInterval
	tcpTimeout    = 2 * time.Second
	// A node may come back at another address as soon as the old one is given up.
	reclaimAfter = 100 * time.Millisecond
	firstRound   = time.Second // that Open waits for at most
)

// Open joins the pool, or begins one. It waits a moment for the members that it
// knows of, and fails when one of them is another living process with the same
// node id. It does not fail because nobody is there.
func Open(o Options) (_ *Mesh, err error) {
	m := &Mesh{opts: o, opened: time.Now(), twin: make(chan twin, 1), fatal: make(chan error, 1),
		update: make(chan struct{}, 1), retry: make(chan struct{}, 1),
		nodes: make(map[cluster.NodeID]cluster.Node), changed: make(chan struct{}), self: o.Self, join: o.Join}
	cfg, err := m.config()
	if err != nil {
		return nil, err
	}
	if m.remembered, err = readPeers(o.PeersFile); err != nil {
		return nil, err
	}
	m.self.Alive = true
	m.self.Gossip = net.JoinHostPort(cfg.AdvertiseAddr, strconv.Itoa(cfg.AdvertisePort))
	if m.meta, err = encodeMeta(m.self, m.started()); err == nil {
		_, err = encodeMeta(atLargest(m.self), m.started())
	}
	if err != nil {
		return nil, err
	}
	if o.Cut != nil {
		if err := cutTransport(cfg, o.Cut); err != nil {
			return nil, err
		}
	}
	if m.list, err = memberlist.Create(cfg); err != nil {
		return nil, fmt.Errorf("open gossip at %s: %w", o.Bind, err)
	}
	local := m.list.LocalNode()
	m.SetSelf(func(n *cluster.Node) { n.Gossip = local.Address() })
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	first := make(chan struct{})
	m.work.Go(func() { m.rejoin(ctx, first) })
	m.work.Go(func() { m.announce(ctx) })
	select {
	case <-first:
	case <-time.After(firstRound):
	}
	select {
	case t := <-m.twin:
		if err := m.settle(t); err != nil {
			return nil, fmt.Errorf("open gossip: %w", errors.Join(err, m.Close()))
		}
	default:
	}
	m.work.Go(func() { m.watchTwins(ctx) })
	return m, nil
}

func (m *Mesh) started() int64 { return m.opened.UnixMilli() }

func (m *Mesh) config() (*memberlist.Config, error) {
	cfg := memberlist.DefaultLANConfig()
	bind, err := resolve(context.Background(), m.opts.Bind)
	if err != nil {
		return nil, fmt.Errorf("gossip address %q: %w", m.opts.Bind, err)
	}
	cfg.BindAddr, cfg.BindPort, cfg.AdvertisePort = bind[0].Addr().String(), int(bind[0].Port()), int(bind[0].Port())
	if m.opts.Advertise != "" {
		adv, err := resolve(context.Background(), m.opts.Advertise)
		if err != nil {
			return nil, fmt.Errorf("advertised gossip address %q: %w", m.opts.Advertise, err)
		}
		cfg.AdvertiseAddr, cfg.AdvertisePort = adv[0].Addr().String(), int(adv[0].Port())
	} else if !bind[0].Addr().IsUnspecified() {
		cfg.AdvertiseAddr = cfg.BindAddr
	}
	cfg.Name = string(m.opts.Self.ID)
	cfg.SecretKey = m.opts.Key
	cfg.ProbeInterval, cfg.ProbeTimeout = probeInterval, probeTimeout
	cfg.SuspicionMult, cfg.SuspicionMaxTimeoutMult = suspicion, 2
	cfg.AwarenessMaxMultiplier = 4
	cfg.GossipInterval, cfg.PushPullInterval = 100*time.Millisecond, 10*time.Second
	cfg.TCPTimeout = tcpTimeout
	cfg.EnableCompression = false // what we announce does not shrink
	cfg.DeadNodeReclaimTime = reclaimAfter
	cfg.Delegate, cfg.Events, cfg.Conflict = delegate{m}, delegate{m}, delegate{m}
	cfg.Logger = newLogger(m.opts.Log)
	return cfg, nil
}

// resolve gives the addresses that host:port means.
func resolve(ctx context.Context, addr string) ([]netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		host, port = strings.Trim(addr, "[]"), strconv.Itoa(DefaultPort)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("port %q: %w", port, err)
	}
	if host == "" {
		host = "0.0.0.0"
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(ip.Unmap(), uint16(number))}, nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", host, err)
	}
	var out []netip.AddrPort
	for _, ip := range ips {
		out = append(out, netip.AddrPortFrom(ip.Unmap(), uint16(number)))
	}
	return out, nil
}

// Members lists all nodes ever seen by this process, itself included, sorted by
// id; Alive says which are there now.
func (m *Mesh) Members() []cluster.Node {
	members, _ := m.Watch()
	return members
}

// Watch gives Members, and a channel that is closed when they change.
func (m *Mesh) Watch() (members []cluster.Node, changed <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	members = make([]cluster.Node, 0, len(m.nodes))
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
// is logged and not announced. Changes of id, Gossip and Alive are not for
// callers. change must not call the Mesh.
func (m *Mesh) SetSelf(change func(*cluster.Node)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := m.self
	change(&next)
	next.Alive = true
	if _, there := m.nodes[next.ID]; there && next == m.self {
		return
	}
	meta, err := encodeMeta(next, m.started())
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
	m.join = slices.Clone(join)
	m.mu.Unlock()
	poke(m.retry)
}

// Leave says goodbye, so that the others need not find out. ctx bounds it, and
// so does a second. This node looks dead to the others from then on.
func (m *Mesh) Leave(ctx context.Context) error {
	m.mu.Lock()
	closed := m.closed
	m.mu.Unlock()
	if closed {
		return nil
	}
	timeout := time.Second
	if d, ok := ctx.Deadline(); ok {
		timeout = min(timeout, max(time.Until(d), time.Millisecond))
	}
	if err := m.list.Leave(timeout); err != nil {
		return fmt.Errorf("leave gossip: %w", err)
	}
	return nil
}

// Close ends the membership without a word, and must not run beside Leave. Twice
// is fine.
func (m *Mesh) Close() error {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.cancel()
	err := m.list.Shutdown()
	m.work.Wait()
	if err != nil {
		return fmt.Errorf("close gossip: %w", err)
	}
	return nil
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (m *Mesh) setLocked(n cluster.Node) {
	old, known := m.nodes[n.ID]
	if old == n {
		return
	}
	if n.ID != m.self.ID && (!known || old.Alive != n.Alive) {
		m.opts.Log.Info("member", "peer", n.ID, "addr", n.Gossip, "roles", n.Roles.String(), "alive", n.Alive)
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
