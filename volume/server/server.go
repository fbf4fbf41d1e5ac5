// Package server is the volume role of a daemon: it serves the copies of one
// process, reports them to the leading master, and keeps them as ordered.
//
// It decides nothing about who holds or leads a volume: entries do, which come
// as orders, from any master, or over the stream of a primary, and each copy's
// replica.Replica obeys the newest. What is missing from the orders is never
// deleted; volume/DESIGN.md says what is, and when (rules R6 and R14).
//
// New starts what answers requests; Run is the heartbeat; Drain hands leadership
// over before a planned stop; Close ends the rest. The store is opened and
// closed by the caller.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/replica"
	"weedd/volume/store"
)

// Store is what this package needs of *store.Store.
type Store interface {
	Create(id volume.ID, spec volume.Spec, copy volume.CopyID) (*store.Volume, error)
	Volume(id volume.ID) (*store.Volume, error) // volume.ErrNoVolume
	Volumes() []*store.Volume
	Aside() []volume.SetAside
	Disks() []volume.DiskReport
	// Avoid names the directories that get no new copies.
	Avoid(dirs []string)
	// Watch looks at the directories until ctx ends, and tells that something has
	// changed, with the volumes of a directory that was not there before.
	Watch(ctx context.Context, changed func(found []*store.Volume))
	// Here lists the copies of a volume whose files are in the way of another,
	// and whether there are some that were never ours.
	Here(id volume.ID) (ours []volume.CopyID, foreign bool)
	// Remove deletes the files of that copy, SetAsideCopy renames them; both
	// refuse if the copy of the volume is another one.
	Remove(id volume.ID, copy volume.CopyID) error
	SetAsideCopy(id volume.ID, copy volume.CopyID, why string) error
	// Adopt makes a copy of ours out of a foreign volume.
	Adopt(ctx context.Context, id volume.ID, a store.Adoption) (*store.Volume, error)
}

// Master is how a volume server talks to the masters. All calls find the leader,
// or wait for one, within ctx.
type Master interface {
	// Beat holds one stream to the leader until it breaks or ctx ends.
	Beat(ctx context.Context, reports <-chan volume.Report, obey func(volume.Orders)) error
	// Ask answers the entry now in force, with volume.ErrStale too.
	Ask(ctx context.Context, ask volume.Ask) (volume.Entry, error)
	// Locate asks masters for a volume's entry and the nodes of its holders: for
	// one of a version above past if any of them knows it.
	Locate(ctx context.Context, id volume.ID, past uint64) (volume.Entry, []volume.Node, error)
}

// Peers knows the addresses of other nodes, by gossip.
type Peers interface {
	Node(id volume.NodeID) (volume.Node, bool)
	Alive(id volume.NodeID) bool // as far as it knows
}

// Remote calls other volume servers. An error of Put or Delete that is not
// volume.ErrOutcomeUnknown says that nothing was done; after is as for
// replica.Replica.
type Remote interface {
	Put(ctx context.Context, node volume.Node, id volume.FileID, n *needle.Needle, createOnly bool, after volume.Epoch) (volume.PutResult, error)
	Delete(ctx context.Context, node volume.Node, id volume.FileID, after volume.Epoch) (size int64, err error)
	Confirm(ctx context.Context, node volume.Node, id volume.ID, epoch volume.Epoch, from volume.Holder) (committed int64, err error)
	Verify(ctx context.Context, node volume.Node, id volume.ID, copy volume.CopyID, at int64) (Verification, error)
	// Fetch reads one whole record of a copy, see FetchHere.
	Fetch(ctx context.Context, node volume.Node, id volume.ID, p Piece) ([]byte, error)
	Dial(ctx context.Context, node volume.Node) (replica.Link, error)
	// Survey and Record read the foreign copy of a volume with this print.
	Survey(ctx context.Context, node volume.Node, id volume.ID, print uint64) ([]store.SurveyRow, error)
	Record(ctx context.Context, node volume.Node, id volume.ID, print uint64, row store.SurveyRow) ([]byte, error)
}

// Verification is how far a copy is, and the CRC-32C of its bytes of .dat from 0
// to At.
type Verification struct {
	Epoch      volume.Epoch `json:"epoch"` // of the newest entry it knows
	Generation uint32       `json:"generation"`
	Committed  int64        `json:"committed"`
	At         int64        `json:"at"`
	Checksum   uint32       `json:"checksum"`
}

// Status is what this node has, sorted by volume.
type Status struct {
	Disks  []volume.DiskReport
	Copies []volume.CopyReport
}

// Options are what New needs. Zero durations mean what the comments say.
type Options struct {
	Node   volume.NodeID
	Store  Store
	Ledger *store.Ledger // of this node; the Store has the same
	Master Master
	Peers  Peers
	Remote Remote
	// ClusterID is the cluster that the data directory belongs to, "" for none
	// yet; SetClusterID records it durably. Orders of another are refused.
	ClusterID    func() string
	SetClusterID func(string) error
	Logger       *slog.Logger
	Now          func() time.Time
	Run          uint64 // differs for every run of the process
	Version      string // of the program, for people

	Hold     time.Duration // how long a request is held for a primary; 0 is 10 s
	Beat     time.Duration // between reports of sizes; 0 is 1 s
	SlowSync time.Duration // see replica.Options
	Scrub    time.Duration // every volume is looked through once in so long; 0: only when asked
	Repair   int64         // bytes a second sent to copies on other nodes that catch up, together; 0: no limit
}

// Server is the volume role. Safe for concurrent use.
type Server struct {
	opts    Options
	log     *slog.Logger
	metrics *metrics
	ctx     context.Context // ends at Close
	cancel  context.CancelFunc
	routes  routes
	scrubs  *scrubs
	pace    replica.Pace // of repairs

	changed   chan struct{} // a level: some report may have changed
	beatAnew  chan struct{} // a level: copies are here that the leader's orders did not find
	dropNow   chan struct{} // a level: there are drops to carry out
	adoptNow  chan struct{} // a level: there are volumes to adopt
	emptyNow  chan struct{} // a level: a copy that leads may have to hand over
	surveying chan struct{} // holds a token while a survey runs for another node

	work   sync.WaitGroup // of goroutines that make copies; counts up under mu before closed
	making chan struct{}  // holds a token for each copy that is being made

	// mu is never held while a method of a copy is called: copies call touch
	// with their own lock held.
	mu       sync.Mutex
	copies   map[volume.ID]*replica.Replica // foreign volumes have none
	dirty    map[volume.ID]bool             // to be reported
	gone     []volume.ID                    // to be reported
	disks    bool                           // the disks are to be reported
	lost     map[volume.ID]volume.CopyReport
	drops    map[volume.ID]volume.Drop // ordered and not carried out
	adopting map[volume.ID]*adoption   // ordered and not carried out
	underWay map[volume.ID]bool        // adoptions that are being carried out
	kept     map[volume.ID]*keeping
	closed   bool
	taken    map[volume.ID]bool // foreign volumes that the cluster has a copy of its own of
	emptying volume.DrainOrder  // what of this node is to be emptied
	beating  bool               // the leader has answered at least once
	stopping bool
	foreign  string // the cluster whose orders were refused last
}

// New starts the copies of all volumes in the store that are ours. They take no
// writes before an entry is known. Close must be called.
func New(o Options) *Server {
	if o.Hold == 0 {
		o.Hold = 10 * time.Second
	}
	if o.Beat == 0 {
		o.Beat = time.Second
	}
	s := &Server{
		opts: o, log: o.Logger, changed: make(chan struct{}, 1), beatAnew: make(chan struct{}, 1), dropNow: make(chan struct{}, 1),
		copies: map[volume.ID]*replica.Replica{}, dirty: map[volume.ID]bool{}, lost: map[volume.ID]volume.CopyReport{},
		drops: map[volume.ID]volume.Drop{}, adopting: map[volume.ID]*adoption{}, taken: map[volume.ID]bool{},
		underWay: map[volume.ID]bool{}, kept: map[volume.ID]*keeping{}, making: make(chan struct{}, makers),
		adoptNow: make(chan struct{}, 1), emptyNow: make(chan struct{}, 1), surveying: make(chan struct{}, 1), scrubs: newScrubs(),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.metrics = newMetrics(s)
	s.SetRepair(o.Repair)
	for _, v := range o.Store.Volumes() {
		if foreign(v) {
			s.log.Warn("volume has no files of ours: served for reads only", "volume", v.ID())
			continue
		}
		s.copies[v.ID()] = s.open(v)
	}
	return s
}

// SetRepair changes Options.Repair.
func (s *Server) SetRepair(rate int64) { s.pace.Set(rate) }

// open starts the runtime of one copy.
func (s *Server) open(v *store.Volume) *replica.Replica {
	id := v.ID()
	return replica.New(replica.Options{
		Self: volume.Holder{Node: s.opts.Node, Copy: v.CopyID()}, Volume: id, Log: v,
		Dial: func(ctx context.Context, node volume.NodeID) (replica.Link, error) {
			n, err := s.node(ctx, id, node)
			if err != nil {
				return nil, err
			}
			return s.opts.Remote.Dial(ctx, n)
		},
		Ask: s.opts.Master.Ask,
		Confirm: func(ctx context.Context, node volume.NodeID, id volume.ID, epoch volume.Epoch, from volume.Holder) (int64, error) {
			n, err := s.node(ctx, id, node)
			if err != nil {
				return 0, err
			}
			return s.opts.Remote.Confirm(ctx, n, id, epoch, from)
		},
		Repair:    s.fetch,
		Compacted: s.metrics.compacted,
		Changed:   func() { s.touch(id); s.mendSoon() },
		SlowSync:  s.opts.SlowSync, Pace: &s.pace, Logger: s.log, Now: s.opts.Now,
	})
}

// node finds the addresses of another holder of a volume.
func (s *Server) node(ctx context.Context, id volume.ID, node volume.NodeID) (volume.Node, error) {
	if n, ok := s.opts.Peers.Node(node); ok {
		return n, nil
	}
	known, err := s.locate(ctx, id, false)
	if i := slices.IndexFunc(known.nodes, func(n volume.Node) bool { return n.ID == node && n.Internal != "" }); i >= 0 {
		return known.nodes[i], nil
	}
	if err == nil {
		err = errors.New("it is not in sight")
	}
	return volume.Node{}, fmt.Errorf("%w: find node %s: %w", volume.ErrUnavailable, node, err)
}

// copy returns the runtime of a volume, nil without one.
func (s *Server) copy(id volume.ID) *replica.Replica {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.copies[id]
}

// touch notes that a copy has something to report. It is called with the lock of
// the copy held, so it calls nothing of it.
func (s *Server) touch(id volume.ID) {
	s.mu.Lock()
	s.dirty[id] = true
	s.mu.Unlock()
	s.wake()
}

func (s *Server) wake() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Ready says why this node should get no requests; nothing when it should.
func (s *Server) Ready() (reasons []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		reasons = append(reasons, "the volume server is stopping")
	}
	if !s.beating {
		reasons = append(reasons, "no leading master has answered yet")
	}
	if s.foreign != "" {
		reasons = append(reasons, fmt.Sprintf("the masters are of cluster %s, the data is of cluster %s", s.foreign, s.opts.ClusterID()))
	}
	usable := func(d volume.DiskReport) bool { return (d.Fenced == "" || d.Full) && !d.Missing } // a full disk is read
	if !slices.ContainsFunc(s.opts.Store.Disks(), usable) {
		reasons = append(reasons, "no disk can be used")
	}
	return reasons
}

// drainers is how many volumes are handed over at once.
const drainers = 32

// Drain prepares a planned stop: Ready says so, and every volume that this node
// leads and that has another copy in sync is handed over, bounded by ctx.
// Requests go on being answered, and Run must go on, so that the leader hears of
// it.
func (s *Server) Drain(ctx context.Context) error {
	s.mu.Lock()
	s.stopping = true
	copies := s.allLocked()
	s.mu.Unlock()
	var g errgroup.Group
	g.SetLimit(drainers)
	errs := make([]error, len(copies))
	for i, r := range copies {
		if e := r.Entry(); e.Primary != s.opts.Node || len(e.InSync) < 2 {
			continue // a volume that cannot be handed over takes writes to the end
		}
		g.Go(func() error {
			errs[i] = r.Yield(ctx)
			return nil
		})
	}
	g.Wait() // the errors are in errs: one volume that stays must not hide the others
	for _, r := range copies {
		r.Leave()
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("hand volumes over: %w", err)
	}
	return nil
}

func (s *Server) allLocked() []*replica.Replica {
	all := make([]*replica.Replica, 0, len(s.copies))
	for _, r := range s.copies {
		all = append(all, r)
	}
	return all
}

// Close ends all copies and what waits for them. Run must have returned. The
// store stays open. A disk that hangs is waited for a few seconds; then the error is
// volume.ErrUnavailable. Twice is fine.
func (s *Server) Close() error {
	s.mu.Lock()
	s.stopping, s.closed = true, true
	copies := s.allLocked()
	s.mu.Unlock()
	s.cancel()
	closers := []func() error{func() error { s.work.Wait(); return nil }}
	for _, r := range copies {
		closers = append(closers, r.Close)
	}
	if err := closeAll(closers); err != nil {
		return fmt.Errorf("close the copies: %w", err)
	}
	return nil
}
