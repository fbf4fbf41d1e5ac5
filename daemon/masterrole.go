package daemon

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"weedd/cluster"
	"weedd/cluster/catalog"
	"weedd/cluster/clusterrpc"
	"weedd/cluster/consensus"
	"weedd/cluster/gossip"
	"weedd/cluster/leader"
	"weedd/cluster/master"
	"weedd/cluster/masterhttp"
	"weedd/cluster/placement"
	"weedd/daemon/config"
	"weedd/daemon/internalnet"
	"weedd/volume"
)

// masterRole is the master role of one daemon.
type masterRole struct {
	listener net.Listener
	http     *httpServer
	self     volume.NodeID
	dir      *dataDir
	mesh     *gossip.Mesh
	data     *replicated
	log      catalogLog
	group    *consensus.Group
	genesis  atomic.Pointer[consensus.Genesis] // raft may ask for the cluster before it is there
	leader   *leader.Leader
	client   *clusterrpc.Client
	master   *master.Master
	api      *masterhttp.API
}

// quietAfterStuck is how long a master does not stand for election after a run
// that ended because it could not commit.
const quietAfterStuck = 30 * time.Second

// markStuckLimit is how long the mark of that is waited for, on a disk that hangs.
const markStuckLimit = time.Second

// listenMaster opens the public port.
func (d *Daemon) listenMaster() (err error) {
	m := &masterRole{self: d.dir.node, dir: d.dir}
	if m.listener, err = d.listen(d.cfg.MasterAddr(), "public port of the master role"); err != nil {
		return err
	}
	d.master = m
	return nil
}

// openMaster opens the seat among the masters and the part in genesis.
func (d *Daemon) openMaster() (err error) {
	m := d.master
	m.mesh = d.mesh
	m.data = newReplicated(d.fail)
	dir := filepath.Join(d.cfg.Data, raftDir)
	o := consensus.Options{
		Dir: dir, Advertise: d.port.Addr().String(), Listener: d.port.Raft(), Machine: m.data, Log: d.log,
		Dial: func(ctx context.Context, addr string) (net.Conn, error) {
			return d.trust.Dial(ctx, internalnet.ProtoRaft, addr, "")
		},
		Resolve: m.addressOf, NodeID: m.nodeOf, ClusterID: m.clusterID,
		Stuck: func(err error) {
			marked := make(chan struct{})
			go func() { defer close(marked); d.dir.markStuck() }()
			select {
			case <-marked:
			case <-time.After(markStuckLimit):
			}
			d.fail(err)
		},
	}
	if d.dir.takeStuck() {
		o.Quiet = quietAfterStuck
	}
	if m.group, err = consensus.Open(o); err != nil {
		return fmt.Errorf("open raft: %w", err)
	}
	d.open.push(m.group.Close)
	m.log = catalogLog{m.data, m.group}
	d.mesh.SetSelf(func(n *cluster.Node) { n.RaftID = m.group.RaftID() })
	return d.openGenesis(dir)
}

func (d *Daemon) openGenesis(dir string) error {
	m := d.master
	g, err := consensus.OpenGenesis(consensus.GenesisOptions{
		Dir: dir, Seat: m.group, Self: d.dir.node, Addr: d.port.Addr().String(), Expect: d.cfg.Master.Expect,
		Joins: d.joinsOthers(), DirCluster: d.dir.ClusterID(), View: d.mesh, Promiser: promiser{m},
		Announce: func(id string) {
			d.mesh.SetSelf(func(n *cluster.Node) {
				if d.dir.ClusterID() == "" {
					n.ClusterID = id
				}
			})
		},
		Log: d.log,
	})
	if err != nil {
		return fmt.Errorf("open genesis: %w", err)
	}
	m.genesis.Store(g)
	return nil
}

// joinsOthers reports whether the join list names another node than this one.
func (d *Daemon) joinsOthers() bool {
	own := d.Self().Gossip
	return slices.ContainsFunc(d.cfg.Join(), func(addr string) bool { return addr != own && !resolvesTo(addr, own) })
}

// resolvesTo reports whether addr, which may name a host, is the address own.
func resolvesTo(addr, own string) bool {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ips, err := net.LookupHost(host)
	return err == nil && slices.ContainsFunc(ips, func(ip string) bool { return net.JoinHostPort(ip, port) == own })
}

// fail ends the daemon.
func (d *Daemon) fail(err error) {
	select {
	case d.fatal <- err:
	default: // it ends already
	}
}

// startMaster makes the role and its routes.
func (d *Daemon) startMaster(client *clusterrpc.Client) {
	m := d.master
	m.client = client
	m.leader = leader.New(leader.Options{
		Self: d.dir.node, Log: m.log, Gossip: d.mesh, Probe: func(ctx context.Context, n cluster.Node) error { return d.trust.Probe(ctx, n.Internal) },
		Confirm: m.group.Confirm, Masters: m.viewMasters, Remove: m.remove, Logger: d.log,
		GarbageThreshold: float64(d.cfg.Master.GarbageThreshold),
		Placement: placement.Settings{VolumeLimit: int64(d.cfg.Master.VolumeSizeLimit), RepairAfter: d.cfg.Master.RepairAfter, JoinsAtOnce: d.cfg.Master.RepairCopies,
			Grow: growth(d.cfg.Master.WritableVolumes), KeepForeign: !d.cfg.Master.Adopt},
	})
	m.master = master.New(master.Options{
		Log: m.data, Gossip: d.mesh, Leader: client, Volumes: d.volumes(), Logger: d.log, Hold: d.cfg.Limits.Hold,
	})
	d.open.push(m.master.Close)
	m.api = masterhttp.New(masterhttp.Options{
		Master: m.master, Group: m, Keys: m, Ready: d.Reasons, Log: d.log, Version: d.opts.Version, Metrics: d.metricsHandler(),
		DefaultReplication: d.cfg.Master.DefaultReplication, GarbageThreshold: float64(d.cfg.Master.GarbageThreshold), VolumeLimit: int64(d.cfg.Master.VolumeSizeLimit),
		Access: d.access, TLS: d.cert != nil, NoFiles: !d.cfg.Master.Files,
		FileLimit: int64(d.cfg.Limits.FileSize), HeldBytes: int64(d.cfg.Limits.HeldBytes), HeldRequests: d.cfg.Limits.HeldRequests, Room: d.cfg.Limits.Hold,
	})
	clusterrpc.Register(d.rpc, service{m})
	d.metrics.MustRegister(m.api.Collectors()...)
	d.metrics.MustRegister(m.leader.Collectors()...)
	m.http = newHTTP(m.api.Handler(), d.log)
}

// growth is how many writable volumes to keep, whatever the number of copies.
func growth(n int) (g [4]int) {
	for i := range g {
		g[i] = n
	}
	return g
}

// run takes part until ctx ends.
func (m *masterRole) run(ctx context.Context, d *Daemon) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.http.serve(m.listener, d.cert) })
	g.Go(func() error {
		<-ctx.Done()
		return m.http.Close() // after a planned stop nothing is left to cut off
	})
	g.Go(func() error {
		if err := m.genesis.Load().Run(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("genesis: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		m.group.Lead(ctx, m.lead)
		return nil
	})
	g.Go(func() error { return m.learnCluster(ctx, d) })
	return g.Wait()
}

// lead is one term as leader.
func (m *masterRole) lead(ctx context.Context) {
	if cat, _ := m.data.Catalog(); cat.ClusterID() == "" {
		if _, err := m.log.Propose(ctx, catalog.Command{Found: &catalog.Found{Cluster: m.genesis.Load().ClusterID()}}); err != nil {
			return // the term is over, or raft is in trouble; the next leader does it
		}
	}
	cat, _ := m.data.Catalog()
	var wg sync.WaitGroup
	wg.Go(func() { m.group.AdmitLoop(ctx, cat.ClusterID(), m.mesh) })
	wg.Go(func() { m.leader.Run(ctx) })
	wg.Wait()
}

// learnCluster records the cluster's id once the catalog names it.
func (m *masterRole) learnCluster(ctx context.Context, d *Daemon) error {
	for {
		cat, changed := m.data.Catalog()
		if id := cat.ClusterID(); id != "" {
			return d.setClusterID(id)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// setClusterID records which cluster the node belongs to, and tells the others.
func (d *Daemon) setClusterID(id string) error {
	if err := d.dir.SetClusterID(id); err != nil {
		return err
	}
	d.mesh.SetSelf(func(n *cluster.Node) { n.ClusterID = id })
	return nil
}

// handOver gives the leadership of the masters to another one.
func (m *masterRole) handOver(ctx context.Context) error {
	if !m.group.Leading() || len(m.group.Members()) < 2 {
		return nil
	}
	return m.group.TransferLeadership(ctx)
}

func (m *masterRole) reasons() []string {
	if !m.group.HasState() {
		return []string{"no cluster yet: waits for other masters"}
	}
	if _, _, ok := m.group.Leader(); !ok {
		return []string{"no master leads"}
	}
	return nil
}

// setLimits follows limits that change live.
func (m *masterRole) setLimits(cfg config.Config) {
	m.api.SetLimits(int64(cfg.Limits.FileSize), int64(cfg.Limits.HeldBytes), cfg.Limits.HeldRequests, cfg.Limits.Hold)
	m.master.SetHold(cfg.Limits.Hold)
}

func (m *masterRole) clusterID() string {
	if id := m.dir.ClusterID(); id != "" {
		return id
	}
	return m.genesis.Load().ClusterID()
}

// memberNode finds the node with a raft id.
func (m *masterRole) memberNode(raftID string) (cluster.Node, bool) {
	nodes, _ := m.mesh.Watch()
	for _, n := range nodes {
		if n.RaftID == raftID {
			return n, true
		}
	}
	return cluster.Node{}, false
}

func (m *masterRole) addressOf(raftID string) (string, bool) {
	n, ok := m.memberNode(raftID)
	return n.Internal, ok
}

func (m *masterRole) nodeOf(raftID, _ string) volume.NodeID {
	n, _ := m.memberNode(raftID)
	return n.ID
}

// hint names the leader as this member of the group knows it.
func (m *masterRole) hint() clusterrpc.LeaderInfo {
	addr, raftID, ok := m.group.Leader()
	if !ok {
		return clusterrpc.LeaderInfo{}
	}
	id := m.nodeOf(raftID, addr)
	if raftID == m.group.RaftID() {
		id = m.self
	}
	return clusterrpc.LeaderInfo{ID: id, Internal: addr}
}

// Status implements masterhttp.Group.
func (m *masterRole) Status() (lead string, self bool, all []string, maxVolume volume.ID) {
	for _, v := range m.masters() {
		all = append(all, v.Address)
		if v.Leader {
			lead, self = v.Address, v.ID == m.self
		}
	}
	cat, _ := m.data.Catalog()
	return lead, self, all, cat.MaxVolume()
}

// Stats implements masterhttp.Group.
func (m *masterRole) Stats() map[string]string { return m.group.Stats() }

// masters lists the members of the group by public address.
func (m *masterRole) masters() (out []cluster.ViewMaster) {
	for _, mem := range m.group.Members() {
		out = append(out, m.viewOf(mem))
	}
	return out
}

// viewOf is one member as it is shown.
func (m *masterRole) viewOf(mem consensus.Member) cluster.ViewMaster {
	_, leads, ok := m.group.Leader()
	v := cluster.ViewMaster{Address: mem.Addr, Voter: mem.Voter, Leader: ok && mem.RaftID == leads}
	if n, ok := m.memberNode(mem.RaftID); ok {
		v.ID, v.Address, v.Alive = n.ID, n.MasterHTTP, n.Alive
	}
	return v
}

// remove takes a master that is gone out of the group. It is named by its node id,
// its public or internal address, or its raft id.
func (m *masterRole) remove(ctx context.Context, name string) error {
	var known []string
	for _, mem := range m.group.Members() {
		v := m.viewOf(mem)
		known = append(known, fmt.Sprintf("%s (%s)", v.Address, cmp.Or(string(v.ID), mem.RaftID)))
		if name == "" || name != string(v.ID) && name != v.Address && name != mem.Addr && name != mem.RaftID {
			continue
		}
		if v.Alive || mem.RaftID == m.group.RaftID() {
			return fmt.Errorf("%w: master %s runs, and would be admitted again at once: stop it first", volume.ErrBadRequest, name)
		}
		ctx, cancel := context.WithTimeout(ctx, removeTime)
		defer cancel()
		return m.group.Remove(ctx, mem.RaftID)
	}
	return fmt.Errorf("%w: no master is named %q; there are %v", volume.ErrNotFound, name, known)
}

// removeTime bounds the removal of a master, which needs a majority of the others.
const removeTime = 5 * time.Second

func (m *masterRole) viewMasters() ([]cluster.ViewMaster, uint64) {
	term, _ := strconv.ParseUint(m.group.Stats()["term"], 10, 64)
	return m.masters(), term
}

// Claim implements masterhttp.Keys.
func (m *masterRole) Claim(ctx context.Context, key, print string) (answer []byte, end func(answer []byte), err error) {
	nodes, _ := m.mesh.Watch()
	at := keeperOf(key, nodes)
	if at.ID == "" || at.ID == m.self {
		return nil, nil, nil
	}
	c, end, err := m.client.Claim(ctx, at, key, print)
	if c.Reused {
		err = masterhttp.ErrKeyReused
	}
	return c.Answer, end, err
}

// keeperOf chooses the master that remembers an idempotency key: the same at every
// master, as long as they see the same ones alive. When one goes or comes, only its
// own keys move.
func keeperOf(key string, nodes []cluster.Node) (keeper cluster.Node) {
	var best [sha256.Size]byte
	for _, n := range nodes {
		if n.Roles&cluster.RoleMaster == 0 || !n.Alive {
			continue
		}
		if rank := sha256.Sum256([]byte(string(n.ID) + "\n" + key)); keeper.ID == "" || bytes.Compare(rank[:], best[:]) > 0 {
			keeper, best = n, rank
		}
	}
	return keeper
}

// promiser asks another master for its promise in a genesis.
type promiser struct{ m *masterRole }

// Promise implements consensus.Promiser.
func (p promiser) Promise(ctx context.Context, n cluster.Node, proposal consensus.Proposal) error {
	if p.m.client == nil {
		return fmt.Errorf("%w: still starting", volume.ErrUnavailable)
	}
	b, err := json.Marshal(proposal)
	if err != nil {
		return fmt.Errorf("encode proposal: %w", err)
	}
	return p.m.client.Promise(ctx, n, b)
}

// service is what this master answers to other nodes.
type service struct{ *masterRole }

// redirect says who leads, in place of an error that only says who does not.
func (s service) redirect(err error) error {
	var not *cluster.NotLeaderError
	if !errors.As(err, &not) && !errors.Is(err, volume.ErrNotLeader) {
		return err
	}
	h := s.hint() // this very node, if it is elected and not yet at work: callers ask again
	return &cluster.NotLeaderError{Leader: h.ID, Internal: h.Internal}
}

func (s service) Ask(ctx context.Context, ask volume.Ask) (volume.Entry, error) {
	e, err := s.leader.Ask(ctx, ask)
	return e, s.redirect(err)
}

func (s service) Keys(ctx context.Context, count uint64) (catalog.Block, error) {
	b, err := s.leader.Keys(ctx, count)
	return b, s.redirect(err)
}

func (s service) Grow(ctx context.Context, req placement.GrowRequest) ([]*volume.Entry, error) {
	es, err := s.leader.Grow(ctx, req)
	return es, s.redirect(err)
}

func (s service) DeleteCollection(ctx context.Context, name string) (int, error) {
	n, err := s.leader.DeleteCollection(ctx, name)
	return n, s.redirect(err)
}

func (s service) Compact(ctx context.Context, share float64) error {
	return s.redirect(s.leader.Compact(ctx, share))
}

func (s service) Operate(ctx context.Context, op cluster.Operation) (cluster.Outcome, error) {
	out, err := s.leader.Operate(ctx, op)
	return out, s.redirect(err)
}

func (s service) Beat(ctx context.Context, recv func() (volume.Report, error), send func(volume.Orders) error) error {
	return s.redirect(s.leader.Beat(ctx, recv, send))
}

func (s service) View() (cluster.View, error) {
	v, err := s.leader.View()
	return v, s.redirect(err)
}

func (s service) Entry(ctx context.Context, id volume.ID) (volume.Entry, error) {
	e, err := s.leader.Entry(ctx, id)
	return e, s.redirect(err)
}

// Locate answers from this master's catalog, in sync or not.
func (s service) Locate(ctx context.Context, id volume.ID) (volume.Entry, []volume.Node, error) {
	e, ok := s.masterRole.master.Entry(id)
	if !ok {
		return volume.Entry{}, nil, fmt.Errorf("%w: volume id %d not found", volume.ErrNoVolume, id)
	}
	nodes, err := s.masterRole.master.Lookup(ctx, id, "")
	if errors.Is(err, volume.ErrUnavailable) {
		err = nil // the entry alone is of use too
	}
	return e, nodes, err
}

func (s service) Claim(ctx context.Context, key, print string) (c clusterrpc.Claim, end func(answer []byte), err error) {
	c.Answer, end, err = s.api.Claim(ctx, key, print)
	if errors.Is(err, masterhttp.ErrKeyReused) {
		return clusterrpc.Claim{Reused: true}, nil, nil
	}
	return c, end, err
}

func (s service) WhoLeads(context.Context) (clusterrpc.LeaderInfo, error) { return s.hint(), nil }

func (s service) Promise(_ context.Context, proposal json.RawMessage) error {
	var p consensus.Proposal
	if err := json.Unmarshal(proposal, &p); err != nil {
		return fmt.Errorf("%w: proposal: %w", volume.ErrBadRequest, err)
	}
	return s.genesis.Load().Promise(p)
}
