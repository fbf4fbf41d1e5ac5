// Package leader is what only the leading master does: it watches the catalog,
// gossip and the reports of the volume servers, asks package placement what
// should differ, and proposes that. It answers the questions of copies (who
// leads, who is in sync), hands out blocks of keys, grows volumes, and pushes
// orders to the volume servers.
//
// It decides nothing by itself: every decision is a command that catalog.Apply
// accepts or refuses. A Leader does nothing until Run is called, and Run is
// called for the length of one term at a time; in between every method answers
// volume.ErrNotLeader. All methods may be called at once from anywhere.
package leader

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"weedd/cluster"
	"weedd/cluster/catalog"
	"weedd/cluster/placement"
	"weedd/volume"
)

// GrowRequest asks for new volumes.
type GrowRequest = placement.GrowRequest

// Log replicates the catalog.
type Log interface {
	// Propose returns once cmd is applied here. Unless this node leads it fails
	// with a *cluster.NotLeaderError, and with volume.ErrOutcomeUnknown when
	// leadership was lost meanwhile.
	Propose(ctx context.Context, cmd catalog.Command) (catalog.Result, error)
	// Catalog gives the newest catalog applied here. The channel is closed when
	// there is a newer one.
	Catalog() (cat *catalog.Catalog, changed <-chan struct{})
}

// Gossip says who is there. It is a hint.
type Gossip interface {
	// Watch gives all members known. The channel is closed when that changes.
	Watch() (members []cluster.Node, changed <-chan struct{})
}

// Options are what a Leader is made of. Log, Gossip and Logger are needed.
type Options struct {
	Self   volume.NodeID
	Log    Log
	Gossip Gossip
	// Probe dials the internal port of a node. An error that is
	// syscall.ECONNREFUSED means that nobody listens there: the process is gone.
	// Other errors mean nothing. Without it only silence tells of a death.
	Probe func(ctx context.Context, node cluster.Node) error
	// Masters fills in that part of View, and raft's term; nil leaves it empty.
	Masters   func() (masters []cluster.ViewMaster, term uint64)
	Placement placement.Settings
	// Warmup is how long after an election a volume server may take to bring its
	// heartbeat over before it can count as gone; default 1.5 s.
	Warmup time.Duration
	Logger *slog.Logger
}

// Leader does the leader's work while Run runs.
type Leader struct {
	opt Options

	mu   sync.Mutex
	term *term // nil while not leading
}

// term is what lives as long as one leadership.
type term struct{ ctx context.Context }

// New makes a Leader that does not lead yet.
func New(opt Options) *Leader {
	opt.Placement = opt.Placement.WithDefaults()
	if opt.Warmup == 0 {
		opt.Warmup = 1500 * time.Millisecond
	}
	return &Leader{opt: opt}
}

// Run leads until ctx ends; it owns nothing once it has returned.
func (l *Leader) Run(ctx context.Context) {
	l.mu.Lock()
	l.term = &term{ctx}
	l.mu.Unlock()
	<-ctx.Done()
	l.mu.Lock()
	l.term = nil
	l.mu.Unlock()
}

// Ask answers a question of a copy.
func (l *Leader) Ask(ctx context.Context, ask volume.Ask) (volume.Entry, error) {
	return volume.Entry{}, &cluster.NotLeaderError{}
}

// Keys takes a block of count keys (rule R1).
func (l *Leader) Keys(ctx context.Context, count uint64) (catalog.Block, error) {
	return catalog.Block{}, &cluster.NotLeaderError{}
}

// Grow makes volumes and returns once they are open.
func (l *Leader) Grow(ctx context.Context, req GrowRequest) ([]*volume.Entry, error) {
	return nil, &cluster.NotLeaderError{}
}

// DeleteCollection ends all volumes of a collection and returns how many.
func (l *Leader) DeleteCollection(ctx context.Context, name string) (int, error) {
	return 0, &cluster.NotLeaderError{}
}

// Beat serves one volume server's heartbeat stream.
func (l *Leader) Beat(ctx context.Context, recv func() (volume.Report, error), send func(volume.Orders) error) error {
	return &cluster.NotLeaderError{}
}

// View is what the leader knows of the cluster.
func (l *Leader) View() (cluster.View, error) {
	return cluster.View{}, &cluster.NotLeaderError{}
}
