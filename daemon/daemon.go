// Package daemon is the process: it builds the parts of a node from its
// configuration, ties them together, and starts and stops them in order. Nothing
// in it is global, so that many daemons fit into one test.
//
// Stopping: first the node says that it is not ready, so that nobody chooses it;
// then it hands over the volumes that it leads and the leadership of the masters,
// while requests go on being answered; then requests in flight finish; then the
// loops end; then what was opened is closed, last to first: the store is the
// last, after everything that may write to it.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"weedd/cluster"
	"weedd/cluster/gossip"
	"weedd/daemon/config"
	"weedd/daemon/internalnet"
	"weedd/volume"
	"weedd/volume/wire"
)

// Options are what a Daemon is told by the program round it.
type Options struct {
	Log     *slog.Logger
	Version string
	// Reload brings wishes to reload while the daemon runs. The function reads the
	// configuration again and gives the one to change to; only what changes live may
	// differ. Run calls one at a time. May be nil.
	Reload <-chan func() config.Config
	// Ready is called once, when the node first serves all it should. May be nil.
	Ready func()
	// Failing is called when something failed that the node cannot do without, before
	// it ends: that may take for ever on a disk that hangs. May be nil.
	Failing func(error)
	// Cut makes this node lose what it sends to the internal and gossip addresses
	// for which it is true at the moment; for tests. nil is no address.
	Cut func(addr string) bool
	// Now is the clock by which files end, for tests; nil is time.Now.
	Now func() time.Time
}

// Daemon is one node. Open makes it, Run runs it once, Close ends it.
type Daemon struct {
	cfg  config.Config
	opts Options
	log  *slog.Logger
	open stack

	dir     *dataDir
	trust   *internalnet.Trust
	port    *internalnet.Port
	pool    *internalnet.Pool
	mesh    *gossip.Mesh
	rpc     *grpc.Server
	metrics *prometheus.Registry
	access  wire.Access
	cert    *certificate // of the public ports; nil for plain HTTP
	master  *masterRole  // nil without the role
	volume  *volumeRole  // nil without the role

	stopLimit atomic.Int64 // Limits.Stop in force, in nanoseconds

	fatal    chan error // what the process cannot go on after
	stopping chan struct{}
	stopOnce sync.Once
}

// stack is what was opened; Close closes last to first.
type stack []func() error

func (s *stack) push(f func() error) { *s = append(*s, f) }

// Close closes everything, once.
func (s *stack) Close() (err error) {
	for i := len(*s) - 1; i >= 0; i-- {
		err = errors.Join(err, (*s)[i]())
	}
	*s = nil
	return err
}

// Open opens the data directory, the disks and all ports, and starts what other
// nodes need to find this one. Nothing is served before Run. An Open that fails
// leaves nothing open.
func Open(cfg config.Config, o Options) (_ *Daemon, err error) {
	d := &Daemon{cfg: cfg, opts: o, log: o.Log, metrics: prometheus.NewRegistry(),
		fatal: make(chan error, 1), stopping: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.open.Close())
		}
	}()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	d.stopLimit.Store(int64(cfg.Limits.Stop))
	if d.dir, err = openDataDir(cfg.Data); err != nil {
		return nil, err
	}
	d.open.push(d.dir.Close)
	d.log = d.log.With("node", d.dir.node)
	if d.trust, err = openTrust(cfg, d.dir.node); err != nil {
		return nil, err
	}
	if d.access, err = openAccess(cfg); err != nil {
		return nil, err
	}
	if d.cert, err = openCertificate(cfg, d.log); err != nil {
		return nil, err
	}
	if o.Cut != nil {
		d.trust.SetCut(o.Cut)
	}
	if err := d.openRoles(); err != nil {
		return nil, err
	}
	return d, nil
}

// openTrust derives whom this node believes.
func openTrust(cfg config.Config, node volume.NodeID) (*internalnet.Trust, error) {
	if cfg.PKI.CA != "" {
		return internalnet.LoadPKI(internalnet.PKI(cfg.PKI), node)
	}
	key, err := clusterKey(cfg)
	if err != nil {
		return nil, err
	}
	return internalnet.NewTrust(key, node)
}

func clusterKey(cfg config.Config) (internalnet.Key, error) {
	if cfg.ClusterKey == "" {
		return internalnet.InsecureKey(), nil
	}
	return internalnet.LoadKey(cfg.ClusterKey)
}

// openRoles opens ports and parts in the order in which they depend on one
// another.
func (d *Daemon) openRoles() (err error) {
	if d.cfg.Has(cluster.RoleVolume) {
		if err := d.openVolume(); err != nil {
			return err
		}
	}
	if d.port, err = internalnet.Listen(d.cfg.InternalAddr(), d.trust, d.log); err != nil {
		return fmt.Errorf("internal port: %w", err)
	}
	d.open.push(d.port.Close)
	d.pool = internalnet.NewPool(d.trust)
	d.open.push(d.pool.Close)
	if d.cfg.Has(cluster.RoleMaster) {
		if err := d.listenMaster(); err != nil {
			return err
		}
	}
	if err := d.openGossip(); err != nil {
		return err
	}
	d.rpc = grpc.NewServer(internalnet.ServerOptions()...)
	if d.master != nil {
		if err := d.openMaster(); err != nil {
			return err
		}
	}
	client := d.clusterClient()
	if d.volume != nil {
		d.startVolume(client)
	}
	if d.master != nil {
		d.startMaster(client)
	}
	return nil
}

func (d *Daemon) openGossip() error {
	key, err := clusterKey(d.cfg)
	if err != nil {
		return err
	}
	self := cluster.Node{
		ID: d.dir.node, Roles: d.cfg.Roles, Version: cluster.ProtocolVersion, ClusterID: d.dir.ClusterID(),
		Internal: d.port.Addr().String(), DataCenter: d.cfg.DataCenter, Rack: d.cfg.Rack,
	}
	if d.master != nil {
		self.MasterHTTP = d.cfg.Reach(d.cfg.Master.HTTP, portOf(d.master.listener))
		self.Expect = d.cfg.Master.Expect
	}
	if d.volume != nil {
		self.VolumeHTTP = d.cfg.Reach(d.cfg.Volume.HTTP, portOf(d.volume.listener))
		self.PublicURL = d.publicURL()
	}
	d.mesh, err = gossip.Open(gossip.Options{
		Self: self, Bind: d.cfg.GossipAddr(), Key: key.Gossip(), Join: d.cfg.Join(),
		PeersFile: filepath.Join(d.cfg.Data, peersFile), Log: d.log,
		Cut: d.opts.Cut,
	})
	if err != nil {
		return fmt.Errorf("gossip: %w", err)
	}
	d.open.push(d.mesh.Close)
	return nil
}

// publicURL is host:port of volume HTTP to give to clients.
func (d *Daemon) publicURL() string {
	reach := d.cfg.Reach(d.cfg.Volume.HTTP, portOf(d.volume.listener))
	if l := d.volume.public; l != nil {
		reach = d.cfg.Reach(d.cfg.Volume.Public, portOf(l))
	}
	if d.cfg.Volume.PublicURL == "" {
		return reach
	}
	if _, _, err := net.SplitHostPort(d.cfg.Volume.PublicURL); err == nil {
		return d.cfg.Volume.PublicURL
	}
	_, port, _ := net.SplitHostPort(reach)
	return net.JoinHostPort(d.cfg.Volume.PublicURL, port)
}

func portOf(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

// Node is this node's id.
func (d *Daemon) Node() volume.NodeID { return d.dir.node }

// Self is what this node announces: its addresses, with the ports really bound.
func (d *Daemon) Self() cluster.Node {
	n, _ := d.mesh.Node(d.dir.node)
	return n
}

// ErrKilled, as the cause of the end of Run's context, leaves out the planned
// stop: nothing is handed over and requests are cut off. It is for tests.
var ErrKilled = errors.New("killed")

// Run serves until ctx ends, then stops in order and returns nil; or until
// something fails that the node cannot do without. It must be called once, and
// Close after it.
func (d *Daemon) Run(ctx context.Context) error {
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	g, inner := errgroup.WithContext(inner)
	g.Go(func() error { return ignoreClosed(d.rpc.Serve(d.port.GRPC())) })
	if d.master != nil {
		g.Go(func() error { return d.master.run(inner, d) })
	}
	if d.volume != nil {
		g.Go(func() error { return d.volume.run(inner, d) })
	}
	g.Go(func() error { return d.watch(inner) })
	g.Go(func() error {
		defer cancel()
		defer d.rpc.Stop() // or Serve would never return
		err := d.untilTheEnd(ctx, inner)
		if err != nil && ctx.Err() == nil && d.opts.Failing != nil {
			d.opts.Failing(err)
		}
		return err
	})
	err := g.Wait()
	if ctx.Err() == nil && err == nil {
		err = errors.New("stopped without having been told to")
	}
	return err
}

// untilTheEnd waits for what ends the node, and carries out a planned stop.
func (d *Daemon) untilTheEnd(ctx, inner context.Context) error {
	select {
	case <-ctx.Done():
		if errors.Is(context.Cause(ctx), ErrKilled) {
			return nil
		}
		return d.stop()
	case <-inner.Done():
		return context.Cause(inner)
	case err := <-d.fatal:
		return err
	case err := <-d.mesh.Fatal():
		return err
	}
}

// stop is the planned stop. What takes longer than Limits.Stop is cut off.
func (d *Daemon) stop() error {
	within := time.Duration(d.stopLimit.Load())
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	d.notifyStopping(within)
	d.stopOnce.Do(func() { close(d.stopping) })
	d.mesh.SetSelf(func(n *cluster.Node) { n.Ready = false })
	for _, s := range d.servers() {
		s.Leave()
	}
	if d.volume != nil {
		if err := d.volume.server.Drain(ctx); err != nil {
			d.log.Warn("not all volumes could be handed over", "err", err)
		}
	}
	if d.master != nil {
		if err := d.master.handOver(ctx); err != nil {
			d.log.Warn("leadership of the masters could not be handed over", "err", err)
		}
	}
	var wg sync.WaitGroup
	for _, s := range d.servers() {
		wg.Go(func() {
			if err := s.Shutdown(ctx); err != nil {
				d.log.Warn("requests were cut off", "err", err)
				_ = s.Close()
			}
		})
	}
	wg.Wait()
	if err := d.mesh.Leave(ctx); err != nil {
		d.log.Debug("leave gossip", "err", err)
	}
	return nil
}

func (d *Daemon) servers() (s []*httpServer) {
	if d.master != nil {
		s = append(s, d.master.http)
	}
	if d.volume != nil {
		s = append(s, d.volume.http, d.volume.reads, d.volume.inner)
	}
	return s
}

// Close ends what Run has left, at once. A daemon that was not run may be closed
// too; twice is fine.
func (d *Daemon) Close() error {
	if d.rpc != nil {
		d.rpc.Stop()
	}
	for _, s := range d.servers() {
		_ = s.Close()
	}
	return d.open.Close()
}

// Reasons says why this node should get no requests; empty when it should.
func (d *Daemon) Reasons() (reasons []string) {
	select {
	case <-d.stopping:
		return []string{"stopping"}
	default:
	}
	if d.master != nil {
		reasons = append(reasons, d.master.reasons()...)
	}
	if d.volume != nil {
		reasons = append(reasons, d.volume.server.Ready()...)
	}
	return reasons
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, grpc.ErrServerStopped) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// listen opens a public port.
func (d *Daemon) listen(addr, what string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	d.open.push(func() error { return ignoreClosed(l.Close()) })
	return l, nil
}
