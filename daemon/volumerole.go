package daemon

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"weedd/cluster/clusterrpc"
	"weedd/daemon/config"
	"weedd/daemon/internalnet"
	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/server"
	"weedd/volume/store"
	"weedd/volume/vfs"
	"weedd/volume/volumehttp"
	"weedd/volume/volumerpc"
)

// volumeRole is the volume role of one daemon.
type volumeRole struct {
	listener net.Listener
	http     *httpServer
	public   net.Listener // that only reads; nil for none
	reads    *httpServer  // on public
	inner    *httpServer  // the same API, for other nodes
	ledger   *store.Ledger
	store    *store.Store
	server   *server.Server
	remote   *volumerpc.Client
	api      *volumehttp.API
}

// minFree is how much room a disk keeps: below it no volume is made there.
const minFree = 64 << 20

// openVolume opens the disks and the public port.
func (d *Daemon) openVolume() (err error) {
	v := &volumeRole{}
	known, err := d.dir.disks()
	if err != nil {
		return err
	}
	if v.ledger, err = store.OpenLedger(vfs.OS{}, filepath.Join(d.dir.path, copiesFile)); err != nil {
		return err
	}
	var dirs []store.Dir
	for _, disk := range d.cfg.Volume.Disks {
		dirs = append(dirs, store.Dir{Path: disk.Path, Disk: disk.Type, Max: disk.Max, Init: !slices.Contains(known, disk.Path)})
	}
	v.store, err = store.Open(store.Options{
		FS: vfs.OS{}, Dirs: dirs, Sync: store.SyncMode(d.cfg.Volume.Sync), MinFree: minFree, Boot: vfs.BootID(), Ledger: v.ledger, Opened: d.dir.addDisk, Log: d.log, Now: d.now,
	})
	if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	d.open.push(v.store.Close)
	for _, r := range v.store.Disks() {
		if !r.Missing && !slices.Contains(known, r.Dir) {
			known = append(known, r.Dir)
		}
	}
	if err := d.dir.setDisks(known); err != nil {
		return err
	}
	if v.listener, err = d.listen(d.cfg.VolumeAddr(), "public port of the volume role"); err != nil {
		return err
	}
	if addr := d.cfg.PublicAddr(); addr != "" {
		if v.public, err = d.listen(addr, "public port of the volume role that only reads"); err != nil {
			return err
		}
	}
	d.volume = v
	return nil
}

// startVolume starts the copies and makes the routes.
func (d *Daemon) startVolume(masters *clusterrpc.Client) {
	v := d.volume
	v.remote = volumerpc.NewClient(conns{d.pool}, 0)
	v.server = server.New(server.Options{
		Node: d.dir.node, Store: v.store, Ledger: v.ledger, Master: masters, Peers: peers{d.mesh}, Remote: v.remote,
		ClusterID: d.dir.ClusterID, SetClusterID: d.setClusterID,
		Logger: d.log, Now: d.now, Run: rand.Uint64(), Version: d.opts.Version, Hold: d.cfg.Limits.Hold,
		Scrub: d.cfg.Volume.Scrub, Repair: int64(d.cfg.Volume.RepairRate),
	})
	d.open.push(v.server.Close)
	volumerpc.Register(d.rpc, v.server, volumerpc.Limits{File: int64(d.cfg.Limits.FileSize), InFlight: int64(d.cfg.Limits.InFlight)})
	v.api = volumehttp.New(volumehttp.Options{
		Blobs: blobs{v.server}, Log: d.log, Version: d.opts.Version, Metrics: d.metricsHandler(), Scrub: blobs{v.server},
		Access: d.access, TLS: d.cert != nil,
		DialPeer: func(ctx context.Context, addr string) (net.Conn, error) {
			return d.trust.Dial(ctx, internalnet.ProtoHTTP, addr, "")
		},
		Origins: d.cfg.Access.Origins, Limits: volumeLimits(d.cfg),
		Images: int64(d.cfg.Volume.Images), ReadMode: volumehttp.ReadMode(d.cfg.Volume.ReadMode), Hold: d.cfg.Limits.Hold,
	})
	d.open.push(v.api.Close)
	d.metrics.MustRegister(v.server.Collectors()...)
	d.metrics.MustRegister(v.api.Collectors()...)
	v.http, v.reads, v.inner = newHTTP(v.api.Handler(), d.log), newHTTP(v.api.Public(), d.log), newHTTP(v.api.Inner(), d.log)
}

// now is the clock by which files end.
func (d *Daemon) now() time.Time {
	if d.opts.Now != nil {
		return d.opts.Now()
	}
	return time.Now()
}

// run serves until ctx ends.
func (v *volumeRole) run(ctx context.Context, d *Daemon) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return v.server.Run(ctx) })
	g.Go(func() error { return v.http.serve(v.listener, d.cert) })
	if v.public != nil {
		g.Go(func() error { return v.reads.serve(v.public, d.cert) })
	}
	g.Go(func() error { return v.inner.serve(d.port.HTTP(), nil) })
	g.Go(func() error {
		<-ctx.Done()
		return errors.Join(v.http.Close(), v.reads.Close(), v.inner.Close()) // after a planned stop nothing is left to cut off
	})
	return g.Wait()
}

// setLimits follows limits that change live.
func (v *volumeRole) setLimits(cfg config.Config) {
	v.api.SetLimits(volumeLimits(cfg))
	v.server.SetRepair(int64(cfg.Volume.RepairRate))
}

// volumeLimits is what the public API takes on.
func volumeLimits(cfg config.Config) volumehttp.Limits {
	return volumehttp.Limits{File: int64(cfg.Limits.FileSize), Uploads: inFlight(cfg), Downloads: int64(cfg.Limits.Downloads), Wait: cfg.Limits.Hold}
}

// inFlight is the memory for uploads: as configured, and enough for the largest.
func inFlight(cfg config.Config) int64 {
	if cfg.Limits.InFlight == 0 {
		return 0
	}
	return max(int64(cfg.Limits.InFlight), needle.Footprint(int64(cfg.Limits.FileSize)))
}

// blobs is the volume role as its public API sees it.
type blobs struct{ *server.Server }

// Scrub implements volumehttp.Scrubber.
func (b blobs) Scrub(ids ...volume.ID) (int, error) { return b.ScrubNow(ids...) }

// Scrubbed implements volumehttp.Scrubber.
func (b blobs) Scrubbed() any { return b.ScrubStatus() }

// Status implements volumehttp.Blobs.
func (b blobs) Status() volumehttp.Status { return volumehttp.Status(b.Server.Status()) }

func (d *Daemon) metricsHandler() http.Handler {
	return promhttp.HandlerFor(d.metrics, promhttp.HandlerOpts{})
}

// conns gives the RPC packages the pool of connections.
type conns struct {
	pool interface {
		Conn(addr string, node volume.NodeID, use string) (*grpc.ClientConn, error)
	}
}

// Conn implements clusterrpc.Conns and volumerpc.Conns.
func (c conns) Conn(addr string, node volume.NodeID, use string) (grpc.ClientConnInterface, error) {
	conn, err := c.pool.Conn(addr, node, use)
	if err != nil {
		return nil, err // not a nil *grpc.ClientConn in an interface that is not nil
	}
	return conn, nil
}
