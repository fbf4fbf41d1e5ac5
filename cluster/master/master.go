// Package master is what every master does, leader or not, from memory: it
// gives out file ids, finds volumes, and takes uploads. Ids come from blocks of
// keys of its own and volumes from the catalog, so that none of it waits for a
// leader or costs a write to the raft log. What needs the leader (another block,
// more volumes) is asked of it, and held for a bounded time while there is none.
//
// A Master's methods may be called at once from anywhere.
package master

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"weedd/cluster"
	"weedd/cluster/catalog"
	"weedd/cluster/placement"
	"weedd/volume"
	"weedd/volume/needle"
)

// Log gives the decisions, as far as this master knows them.
type Log interface {
	// Catalog gives the newest catalog applied here. The channel is closed when
	// there is a newer one.
	Catalog() (cat *catalog.Catalog, changed <-chan struct{})
}

// Gossip says who is there. It is a hint that steers choices.
type Gossip interface {
	// Watch gives all members known. The channel is closed when that changes.
	Watch() (members []cluster.Node, changed <-chan struct{})
}

// Leader reaches the leading master, wherever it is. Calls wait for one as long
// as their context lets them.
type Leader interface {
	Keys(ctx context.Context, count uint64) (catalog.Block, error)
	Grow(ctx context.Context, req placement.GrowRequest) ([]*volume.Entry, error)
	DeleteCollection(ctx context.Context, name string) (int, error)
	Compact(ctx context.Context, share float64) error
	Operate(ctx context.Context, op cluster.Operation) (cluster.Outcome, error)
	View(ctx context.Context) (cluster.View, error)
	// Entry is the leader's word on a volume; volume.ErrNoVolume for none.
	Entry(ctx context.Context, id volume.ID) (volume.Entry, error)
}

// Volumes reaches volume servers.
type Volumes interface {
	// Put stores n on the primary node. What it does not know is
	// volume.ErrUnavailable when nothing was done for sure, else
	// volume.ErrOutcomeUnknown.
	Put(ctx context.Context, node volume.Node, id volume.FileID, n *needle.Needle, createOnly bool) (volume.PutResult, error)
	Delete(ctx context.Context, node volume.Node, id volume.FileID) (size int64, err error)
}

// Options are what a Master is made of. All are needed but those with defaults.
type Options struct {
	Log     Log
	Gossip  Gossip
	Leader  Leader
	Volumes Volumes
	Logger  *slog.Logger
	// Hold is how long a request may wait for what it needs; default 10 s.
	Hold time.Duration
	// Attempt is how long one inner write of Submit may take; default 2.5 s, which
	// is more than a volume needs to drop a dead copy.
	Attempt time.Duration
}

// Master gives out ids and takes uploads.
type Master struct {
	opt    Options
	hold   atomic.Int64 // Options.Hold, in ns; changes live
	keys   keys
	choice atomic.Pointer[choices] // what the catalog and gossip last said

	choosing sync.Mutex // held while choice is made anew

	mu      sync.Mutex
	growing map[growth]*growRun
	refused string                      // why growth failed last; "" when it went well
	avoid   map[volume.NodeID]time.Time // primaries that failed us, until when

	ctx    context.Context // of what runs in the background
	cancel context.CancelCauseFunc

	life   sync.Mutex
	closed bool
	work   sync.WaitGroup // grows only while life is held and closed is false
}

// New makes a Master.
func New(opt Options) *Master {
	if opt.Hold == 0 {
		opt.Hold = 10 * time.Second
	}
	if opt.Attempt == 0 {
		opt.Attempt = 2500 * time.Millisecond
	}
	m := &Master{opt: opt, growing: map[growth]*growRun{}, avoid: map[volume.NodeID]time.Time{}}
	m.ctx, m.cancel = context.WithCancelCause(context.Background())
	m.SetHold(opt.Hold)
	m.keys = keys{fetch: opt.Leader.Keys, start: m.start}
	return m
}

// SetHold changes Options.Hold.
func (m *Master) SetHold(d time.Duration) { m.hold.Store(int64(d)) }

// deadline bounds a request by Options.Hold and the life of m.
func (m *Master) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	d := time.Duration(m.hold.Load())
	ctx, cancelCause := context.WithCancelCause(ctx)
	stop := context.AfterFunc(m.ctx, func() { cancelCause(context.Cause(m.ctx)) })
	ctx, cancel := context.WithTimeoutCause(ctx, d, fmt.Errorf("waited %v", d))
	return ctx, func() {
		stop()
		cancel()
		cancelCause(nil)
	}
}

// Close ends what runs in the background, and requests that wait. Close twice is
// fine.
func (m *Master) Close() error {
	m.life.Lock()
	m.closed = true
	m.life.Unlock()
	m.cancel(fmt.Errorf("%w: this master is shutting down", volume.ErrClosed))
	m.work.Wait()
	return nil
}

// start runs f in the background until it returns; its context ends at Close.
// Once closed it does nothing: whoever waits for f must mind m.ctx too.
func (m *Master) start(f func(ctx context.Context)) {
	m.life.Lock()
	defer m.life.Unlock()
	if !m.closed {
		m.work.Go(func() { f(m.ctx) })
	}
}

// sureTime is how long a lookup of a volume that is not known here waits for the
// leader's word.
const sureTime = time.Second

// Lookup names the nodes with a copy of volume id in sync: those that are alive,
// or when none is, those that are not. With a collection other than "", the
// volume must be in it. A volume that this master does not know may have been
// made a moment ago: the leader is asked, and volume.ErrNoVolume is its word.
// volume.ErrUnavailable is the error while it cannot be asked, and while this
// master knows no cluster yet.
func (m *Master) Lookup(ctx context.Context, id volume.ID, collection string) ([]volume.Node, error) {
	c := m.choices()
	if c.cat.ClusterID() == "" {
		return nil, fmt.Errorf("%w: this master has not joined a cluster yet", volume.ErrUnavailable)
	}
	e, err := m.known(ctx, c, id)
	if err != nil {
		return nil, err
	}
	if collection != "" && e.Spec.Collection != collection {
		return nil, fmt.Errorf("%w: volume id %d not found", volume.ErrNoVolume, id)
	}
	var alive, silent []volume.Node
	for _, h := range e.InSync {
		n, ok := c.nodes[h.Node]
		switch {
		case !ok:
		case n.Alive:
			alive = append(alive, n.Volume())
		default:
			silent = append(silent, n.Volume())
		}
	}
	if len(alive) > 0 {
		return alive, nil
	}
	if len(silent) > 0 {
		return silent, nil // better a try than none
	}
	return nil, fmt.Errorf("%w: volume id %d: no node with a copy is in sight", volume.ErrUnavailable, id)
}

// known finds the entry of a volume, here or at the leader. Of one that was
// deleted every master knows for ever.
func (m *Master) known(ctx context.Context, c *choices, id volume.ID) (*volume.Entry, error) {
	if e, ok := c.cat.Volume(id); ok {
		return e, nil
	}
	unknown := fmt.Errorf("%w: volume id %d not found", volume.ErrNoVolume, id)
	if c.cat.Deleted(id) {
		return nil, unknown
	}
	ctx, cancel := context.WithTimeout(ctx, sureTime)
	defer cancel()
	e, err := m.opt.Leader.Entry(ctx, id)
	switch {
	case err == nil:
		return &e, nil
	case errors.Is(err, volume.ErrNoVolume):
		return nil, unknown
	}
	return nil, fmt.Errorf("%w: volume id %d is not known here, and no leader says whether there is one: %v", volume.ErrUnavailable, id, err)
}

// Entry is what the catalog says of a volume.
func (m *Master) Entry(id volume.ID) (volume.Entry, bool) {
	e, ok := m.choices().cat.Volume(id)
	if !ok {
		return volume.Entry{}, false
	}
	return *e, true
}

// Grow makes volumes and returns them once they are open. Like the other calls
// to the leader it waits for at most Options.Hold.
func (m *Master) Grow(ctx context.Context, req placement.GrowRequest) ([]*volume.Entry, error) {
	if err := m.resolve(&req.Node); err != nil {
		return nil, err
	}
	ctx, cancel := m.deadline(ctx)
	defer cancel()
	return m.opt.Leader.Grow(ctx, req)
}

// Compact has all volumes compacted in which files replaced and deleted take at
// least that share of the bytes, and returns when that is done, however long it
// takes.
func (m *Master) Compact(ctx context.Context, share float64) error {
	return m.opt.Leader.Compact(ctx, share)
}

// Operate has the leader do what an operator asks.
func (m *Master) Operate(ctx context.Context, op cluster.Operation) (cluster.Outcome, error) {
	ctx, cancel := m.deadline(ctx)
	defer cancel()
	return m.opt.Leader.Operate(ctx, op)
}

// DeleteCollection deletes all volumes of a collection for ever and returns how
// many; volume.ErrNotFound when there is none.
func (m *Master) DeleteCollection(ctx context.Context, name string) (int, error) {
	ctx, cancel := m.deadline(ctx)
	defer cancel()
	return m.opt.Leader.DeleteCollection(ctx, name)
}

// View is what the leader knows of the cluster.
func (m *Master) View(ctx context.Context) (cluster.View, error) {
	ctx, cancel := m.deadline(ctx)
	defer cancel()
	return m.opt.Leader.View(ctx)
}

// shun keeps ids from being given out on a primary that failed, for a while.
func (m *Master) shun(node volume.NodeID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.avoid[node] = time.Now().Add(shunTime)
}

// shunTime is how long a primary that failed is not chosen while there are
// others. Gossip needs a second or so to notice a dead one.
const shunTime = 3 * time.Second

// shunned returns the primaries to pass over; nil mostly.
func (m *Master) shunned() map[volume.NodeID]bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.avoid) == 0 {
		return nil
	}
	now, out := time.Now(), map[volume.NodeID]bool{}
	for n, until := range m.avoid {
		if now.After(until) {
			delete(m.avoid, n)
			continue
		}
		out[n] = true
	}
	return out
}

func newCookie() volume.Cookie {
	var b [4]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	return volume.Cookie(binary.BigEndian.Uint32(b[:]))
}

// final reports whether err is one that no other volume and no wait can cure.
func final(err error) bool {
	for _, target := range []error{volume.ErrBadSpec, volume.ErrBadRequest, volume.ErrUnsatisfiable, volume.ErrNoSpace, volume.ErrTooLarge} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}
