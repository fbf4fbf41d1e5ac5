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
	"cmp"
	"context"
	"fmt"
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
	// Confirm returns nil once it is sure that this node led after the question. nil
	// is always sure.
	Confirm func(ctx context.Context) error
	// Masters fills in that part of View, and raft's term; nil leaves it empty.
	Masters func() (masters []cluster.ViewMaster, term uint64)
	// Remove takes a master out of the group; nil refuses.
	Remove    func(ctx context.Context, master string) error
	Placement placement.Settings
	// GarbageThreshold is the share of a volume's bytes, from 0 to 1, that files
	// replaced and deleted may take before the volume is compacted; 0 is never.
	GarbageThreshold float64
	// Warmup is how long after an election a volume server that gossip has not
	// met may take to come before it can count as gone; default 1.5 s.
	Warmup time.Duration
	Logger *slog.Logger
}

// Leader does the leader's work while Run runs.
type Leader struct {
	opt Options

	mu   sync.Mutex
	term *term // nil while not leading
}

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
	t := newTerm(ctx, &l.opt)
	l.setTerm(t)
	defer l.setTerm(nil)
	t.run()
}

func (l *Leader) setTerm(t *term) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.term = t
}

// leading gives the term, once its catalog is known to be the newest.
func (l *Leader) leading(ctx context.Context) (*term, error) {
	l.mu.Lock()
	t := l.term
	l.mu.Unlock()
	if t == nil {
		return nil, &cluster.NotLeaderError{}
	}
	select {
	case <-t.ready:
		return t, nil
	case <-t.ctx.Done():
		return nil, &cluster.NotLeaderError{}
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: the leader has just been elected: %w", volume.ErrUnavailable, ctx.Err())
	}
}

// Ask answers a question of a copy. The entry is the one in force now, also with
// an error: volume.ErrStale when the ask was planned on another, and
// volume.ErrUnavailable when it cannot be granted at the moment. It is zero when
// this node does not lead or there is no such volume (volume.ErrNoVolume).
func (l *Leader) Ask(ctx context.Context, ask volume.Ask) (volume.Entry, error) {
	t, err := l.leading(ctx)
	if err != nil {
		return volume.Entry{}, err
	}
	return t.ask(ctx, ask)
}

// Keys takes a block of count keys (rule R1).
func (l *Leader) Keys(ctx context.Context, count uint64) (catalog.Block, error) {
	t, err := l.leading(ctx)
	if err != nil {
		return catalog.Block{}, err
	}
	res, err := t.opt.Log.Propose(ctx, catalog.Command{Keys: &catalog.Keys{Count: count}})
	if err := cmp.Or(err, res.Err); err != nil {
		return catalog.Block{}, fmt.Errorf("take a block of %d keys: %w", count, err)
	}
	return res.Keys, nil
}

// Grow makes volumes and returns once they are open. When req names a Count, it
// makes as many or none, and waits for all of them; else it waits for one, which
// may be one that was there already. Errors
// are volume.ErrUnsatisfiable and volume.ErrNoSpace, which say what is missing,
// and volume.ErrUnavailable.
func (l *Leader) Grow(ctx context.Context, req GrowRequest) ([]*volume.Entry, error) {
	t, err := l.leading(ctx)
	if err != nil {
		return nil, err
	}
	return t.grow(ctx, req)
}

// Entry is what is decided about a volume; volume.ErrNoVolume when there is none,
// which is confirmed first: a process that was frozen may take itself for the leader
// while another one makes volumes. Masters that do not lead may lag behind.
func (l *Leader) Entry(ctx context.Context, id volume.ID) (volume.Entry, error) {
	t, err := l.leading(ctx)
	if err != nil {
		return volume.Entry{}, err
	}
	cat, _ := t.opt.Log.Catalog()
	e, ok := cat.Volume(id)
	if !ok && t.opt.Confirm != nil {
		if err := t.opt.Confirm(ctx); err != nil {
			return volume.Entry{}, err
		}
		cat, _ = t.opt.Log.Catalog()
		e, ok = cat.Volume(id)
	}
	if !ok {
		return volume.Entry{}, fmt.Errorf("%w: volume %d", volume.ErrNoVolume, id)
	}
	return *e, nil
}

// DeleteCollection ends all volumes of a collection for ever and returns how
// many there were; volume.ErrNotFound when there were none. Their files go when
// the volume servers obey.
func (l *Leader) DeleteCollection(ctx context.Context, name string) (int, error) {
	t, err := l.leading(ctx)
	if err != nil {
		return 0, err
	}
	cat, _ := t.opt.Log.Catalog()
	var ids []volume.ID
	for _, e := range cat.Volumes() {
		if e.Spec.Collection == name {
			ids = append(ids, e.Volume)
		}
	}
	if len(ids) == 0 {
		return 0, fmt.Errorf("%w: collection %s does not exist", volume.ErrNotFound, name)
	}
	res, err := t.opt.Log.Propose(ctx, catalog.Command{Delete: &catalog.Delete{Volumes: ids}})
	if err := cmp.Or(err, res.Err); err != nil {
		return 0, fmt.Errorf("delete collection %q: %w", name, err)
	}
	t.log.Info("collection deleted", "collection", name, "volumes", len(ids))
	return len(ids), nil
}

// Beat serves one volume server's heartbeat stream until it breaks, ctx or the
// term ends, or the node opens a newer one. The first report must be full, and
// reports, empty ones too, must come at least twice a second. recv is called on
// a goroutine that outlives Beat: it must fail once Beat has returned. send is
// called by one goroutine at a time; orders without anything in them are signs
// of life.
func (l *Leader) Beat(ctx context.Context, recv func() (volume.Report, error), send func(volume.Orders) error) error {
	t, err := l.leading(ctx)
	if err != nil {
		return err
	}
	return t.beat(ctx, recv, send)
}

// View is what the leader knows of the cluster.
func (l *Leader) View() (cluster.View, error) {
	l.mu.Lock()
	t := l.term
	l.mu.Unlock()
	if t == nil {
		return cluster.View{}, &cluster.NotLeaderError{}
	}
	return t.view(), nil
}
