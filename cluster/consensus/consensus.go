// Package consensus keeps one value the same on every master: it puts
// hashicorp/raft and raft-boltdb behind a small API. A Group replicates
// commands to a Machine, tells who leads, hangs the work of a leader on the
// context of its term, admits and removes members, and notices a hung disk. A
// Genesis decides, once in the life of a cluster, who bootstraps it.
//
// It knows nothing of what the commands mean. How other nodes are found and how
// connections are made is handed in.
//
// Who runs what: raft has its own goroutines. Beside them a Group has one that
// takes leadership changes from raft, so that raft never waits for anybody, and
// one that is the watchdog. Machine.Apply and Machine.Restore are called by one
// goroutine of raft.
package consensus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"weedd/cluster"
	"weedd/volume"
)

// Machine is the replicated value.
type Machine interface {
	// Apply is called for every committed command, in log order, by one
	// goroutine, and must do the same on every member. Its result is what
	// Propose returns on the member that proposed. Empty commands are the
	// watchdog's and never get here.
	Apply(command []byte) (result any)
	// Snapshot captures the value and returns at once; the function it returns
	// writes what was captured, while Apply goes on.
	Snapshot() func(io.Writer) error
	// Restore replaces the value by what such a function wrote.
	Restore(io.Reader) error
}

// Options say how a Group lives. Durations of 0 take the default.
type Options struct {
	// Dir holds all that a member must remember: raft-id, raft.db, snapshots.
	Dir string
	// Advertise is the host:port at which other members reach Listener.
	Advertise string
	// Listener takes the connections of other members. The Group closes it,
	// even when Open fails.
	Listener net.Listener
	// Dial connects to the Listener of another member.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Resolve gives the present address of a member, if it is known better
	// than from the membership that was committed. May be nil.
	Resolve func(raftID string) (addr string, ok bool)
	// ClusterID is the cluster that this node belongs to or has promised itself
	// to, "" for none yet. Members of different clusters do not talk. May be
	// nil, and then nothing is compared.
	ClusterID func() string
	// NodeID says which node a member is, for NotLeaderError. May be nil.
	NodeID  func(raftID, addr string) cluster.NodeID
	Machine Machine
	Log     *slog.Logger
	// Stuck is called, once, when this node leads and cannot commit. Its disk
	// hangs, most likely: the process should exit, since nothing else makes
	// raft let go of the leadership. It must not call the Group.
	Stuck func(error)
	// Quiet is for how long after Open this node does not stand for election
	// where other members exist: after an exit by Stuck, somebody else should
	// lead. It votes, and it may be handed the leadership.
	Quiet time.Duration

	Heartbeat         time.Duration // a follower that hears nothing for this long, or up to twice as long, calls an election; 300 ms
	Election          time.Duration // bounds one vote, likewise; 1 s
	Lease             time.Duration // a leader steps down when it reaches no majority for this long; half of Heartbeat
	CheckEvery        time.Duration // the watchdog's beat; 0.5 s
	SilentAfter       time.Duration // a leader that commits nothing for so long lets others call an election, SilentRest after the last time at the earliest; 1.5 s
	SilentRest        time.Duration // 1 min
	StuckAfter        time.Duration // 10 s
	SnapshotEvery     time.Duration // how often to look whether a snapshot is due; 2 min
	SnapshotThreshold uint64        // commands since the last one that make it due; 8192
	TrailingLogs      uint64        // commands kept behind a snapshot, for members that were away shortly; 8192

	// Stores are used in place of files in Dir, if given: tests have disks that hang,
	// and that crash with what is not synced.
	Stores *Stores
}

// Stores are what a member must remember.
type Stores struct {
	RaftID    string // dies with the rest
	Logs      raft.LogStore
	Stable    raft.StableStore
	Snapshots raft.SnapshotStore
}

func (o Options) withDefaults() Options {
	set := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	set(&o.Heartbeat, 300*time.Millisecond)
	set(&o.Election, max(time.Second, o.Heartbeat))
	set(&o.Lease, o.Heartbeat/2)
	set(&o.CheckEvery, 500*time.Millisecond)
	set(&o.SilentAfter, 1500*time.Millisecond)
	set(&o.SilentRest, time.Minute)
	set(&o.StuckAfter, 10*time.Second)
	set(&o.SnapshotEvery, 2*time.Minute)
	if o.SnapshotThreshold == 0 {
		o.SnapshotThreshold = 8192
	}
	if o.TrailingLogs == 0 {
		o.TrailingLogs = 8192
	}
	if o.ClusterID == nil {
		o.ClusterID = func() string { return "" }
	}
	if o.NodeID == nil {
		o.NodeID = func(string, string) cluster.NodeID { return "" }
	}
	if o.Resolve == nil {
		o.Resolve = func(string) (string, bool) { return "", false }
	}
	if o.Stuck == nil {
		o.Stuck = func(error) {}
	}
	return o
}

// Group is this node's seat among the masters. All methods are safe for
// concurrent use.
type Group struct {
	opt      Options
	log      *slog.Logger
	raftID   string
	hadState bool

	raft        *raft.Raft
	transport   *transport
	closeStores func() error
	logs        *logSink

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	changed cluster.Signal // leader or leadership
	pending sync.WaitGroup // proposals

	mu     sync.Mutex
	term   *term // nil while not leading
	closed bool

	silentAt time.Time // when this node last fell silent; the watchdog's
}

// Open starts the member whose memory is in o.Dir. A member without state does
// nothing until it is bootstrapped, or admitted by others.
func Open(o Options) (_ *Group, err error) {
	o = o.withDefaults()
	g := &Group{opt: o, log: o.Log}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.logs = &logSink{log: o.Log}
	var undo []func() error
	undo = append(undo, o.Listener.Close)
	defer func() {
		if err != nil {
			g.cancel()
			for i := len(undo) - 1; i >= 0; i-- {
				undo[i]()
			}
		}
	}()
	logger := g.logs.logger()
	stores := o.Stores
	if g.closeStores = func() error { return nil }; stores == nil {
		if stores, g.closeStores, err = openStores(o.Dir, o.Log, logger); err != nil {
			return nil, err
		}
	}
	undo = append(undo, g.closeStores)
	g.raftID = stores.RaftID
	if g.hadState, err = raft.HasExistingState(stores.Logs, stores.Stable, stores.Snapshots); err != nil {
		return nil, fmt.Errorf("look for raft state in %s: %w", o.Dir, err)
	}
	g.transport = newTransport(g, logger)
	undo = append(undo, g.transport.shut)
	if err := g.start(stores, logger); err != nil {
		return nil, err
	}
	return g, nil
}

// openStores opens the files in dir, or makes them.
func openStores(dir string, log *slog.Logger, logger hclog.Logger) (_ *Stores, shut func() error, err error) {
	if err := setAsideDamaged(dir, log); err != nil {
		return nil, nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("make raft directory: %w", err)
	}
	bolt, err := openBolt(filepath.Join(dir, "raft.db"))
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			bolt.Close()
		}
	}()
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, 2, logger)
	if err != nil {
		return nil, nil, fmt.Errorf("open snapshots in %s: %w", dir, err)
	}
	hasState, err := raft.HasExistingState(bolt, bolt, snaps)
	if err != nil {
		return nil, nil, fmt.Errorf("look for raft state in %s: %w", dir, err)
	}
	id, err := loadRaftID(dir, bolt, hasState)
	if err != nil {
		return nil, nil, err
	}
	return &Stores{RaftID: id, Logs: bolt, Stable: bolt, Snapshots: snaps}, bolt.Close, nil
}

func (g *Group) start(stores *Stores, logger hclog.Logger) error {
	logs, err := raft.NewLogCache(512, stores.Logs)
	if err != nil {
		return fmt.Errorf("open raft log: %w", err)
	}
	notify := make(chan bool, 16)
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(g.raftID)
	conf.HeartbeatTimeout = g.opt.Heartbeat
	conf.ElectionTimeout = g.opt.Election
	conf.LeaderLeaseTimeout = g.opt.Lease
	conf.SnapshotInterval = g.opt.SnapshotEvery
	conf.SnapshotThreshold = g.opt.SnapshotThreshold
	conf.TrailingLogs = g.opt.TrailingLogs
	conf.ShutdownOnRemove = false // a removed master still answers lookups, until somebody stops it
	conf.NotifyCh = notify
	conf.Logger = logger
	conf.NoLegacyTelemetry = true
	g.raft, err = raft.NewRaft(conf, fsm{g.opt.Machine}, logs, stores.Stable, stores.Snapshots, g.transport)
	if err != nil {
		return fmt.Errorf("start raft in %s: %w", g.opt.Dir, err)
	}
	g.wg.Go(func() { g.follow(notify) })
	g.wg.Go(func() { g.lead(g.ctx, g.watch) })
	return nil
}

// openBolt gives up soon when another process has the file.
func openBolt(path string) (*raftboltdb.BoltStore, error) {
	store, err := raftboltdb.New(raftboltdb.Options{
		Path:                    path,
		BoltOptions:             &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType},
		MsgpackUseNewTimeFormat: true,
	})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open %s: another process has it open", path)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return store, nil
}

// The name of a member is in a file of its own and beside the log, which it must
// not outlive.
const (
	idFile = "raft-id"
	idKey  = "weedd raft id"
)

// loadRaftID reads the member's name, or makes it. The name dies with the
// directory, and with the log: a member that lost its log must not vote under its
// old name, since it no longer knows what it has promised.
func loadRaftID(dir string, bolt *raftboltdb.BoltStore, hasState bool) (string, error) {
	id, err := readRaftID(dir, hasState)
	if err != nil {
		return "", err
	}
	if err := bolt.Set([]byte(idKey), []byte(id)); err != nil {
		return "", fmt.Errorf("write raft id: %w", err)
	}
	return id, nil
}

func readRaftID(dir string, hasState bool) (string, error) {
	path := filepath.Join(dir, idFile)
	b, err := os.ReadFile(path)
	if err == nil && len(b) >= 16 {
		return string(b), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read raft id: %w", err)
	}
	if hasState {
		return "", fmt.Errorf("%s is missing or empty, but there is raft state beside it; "+
			"restore the file, or move the whole directory away and let this master join as a new one", path)
	}
	id := randomID()
	if err := writeFile(path, []byte(id)); err != nil {
		return "", fmt.Errorf("write raft id: %w", err)
	}
	return id, nil
}

// RaftID is the name of this member. It is random and lives as long as Dir.
func (g *Group) RaftID() string { return g.raftID }

// HasState tells whether this member belongs to a cluster: it was bootstrapped,
// or heard from a leader that has it among its members.
func (g *Group) HasState() bool {
	return g.hadState || g.raft.LastIndex() > 0
}

// Bootstrap makes this node and the others given the first members, all with a
// vote. To be called on one of them only. With state on disk it does nothing.
func (g *Group) Bootstrap(members []Member) error {
	if g.HasState() {
		return nil
	}
	var conf raft.Configuration
	for _, m := range members {
		conf.Servers = append(conf.Servers, raft.Server{ID: raft.ServerID(m.RaftID), Address: raft.ServerAddress(m.Addr)})
	}
	err := g.raft.BootstrapCluster(conf).Error()
	if err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
		return fmt.Errorf("bootstrap raft: %w", err)
	}
	return nil
}

// Stats are raft's own numbers, for people.
func (g *Group) Stats() map[string]string { return g.raft.Stats() }

// Close stops the member. It does not hand over the leadership; see
// TransferLeadership. Proposals under way are given a moment, then end with
// ErrOutcomeUnknown. When the disk hangs, Close gives up after some seconds and
// says so; then goroutines are left behind. Twice is fine.
func (g *Group) Close() error {
	g.mu.Lock()
	again := g.closed
	g.closed = true
	g.mu.Unlock()
	if again {
		return nil
	}
	// Raft forgets proposals that are committed but not applied when it stops;
	// so those first.
	waitFor(&g.pending, 500*time.Millisecond)
	g.cancel()
	g.logs.hush()
	// Without connections nobody waits for the network, and raft can stop.
	g.transport.shut()
	stopped := make(chan error, 1)
	go func() { stopped <- g.raft.Shutdown().Error() }()
	select {
	case err := <-stopped:
		g.wg.Wait()
		if err = errors.Join(err, g.closeStores()); err != nil {
			return fmt.Errorf("close raft: %w", err)
		}
		return nil
	case <-time.After(10 * time.Second):
		return fmt.Errorf("close raft: it does not stop; the disk of %s hangs", g.opt.Dir)
	}
}

func waitFor(wg *sync.WaitGroup, atMost time.Duration) {
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(atMost):
	}
}

// enter counts a proposal in, unless the Group is closed.
func (g *Group) enter() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return fmt.Errorf("raft: %w", volume.ErrClosed)
	}
	g.pending.Add(1)
	return nil
}

// fsm is raft's view of the Machine.
type fsm struct{ machine Machine }

func (f fsm) Apply(l *raft.Log) any {
	if len(l.Data) == 0 {
		return nil
	}
	return f.machine.Apply(l.Data)
}

func (f fsm) Snapshot() (raft.FSMSnapshot, error) { return fsmSnapshot{f.machine.Snapshot()}, nil }

func (f fsm) Restore(r io.ReadCloser) error {
	return errors.Join(f.machine.Restore(r), r.Close())
}

type fsmSnapshot struct{ write func(io.Writer) error }

func (s fsmSnapshot) Persist(sink raft.SnapshotSink) error {
	if err := s.write(sink); err != nil {
		return errors.Join(fmt.Errorf("write snapshot: %w", err), sink.Cancel())
	}
	return sink.Close()
}

func (fsmSnapshot) Release() {}
