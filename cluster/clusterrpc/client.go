package clusterrpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"weedd/cluster"
	"weedd/cluster/catalog"
	"weedd/cluster/placement"
	"weedd/volume"
	"weedd/volume/rpcwire"
)

// Conns gives connections to the internal ports of nodes. Connections with
// different uses are different, so that one does not hold up another.
type Conns interface {
	Conn(internalAddr string, node volume.NodeID, use string) (grpc.ClientConnInterface, error)
}

// The uses of connections of this package.
const (
	UseControl = "control" // short calls
	UseBeat    = "beat"    // heartbeat streams
)

// ClientOptions are what a Client is made of. Conns and Masters are needed.
type ClientOptions struct {
	Conns Conns
	// Masters lists the masters in sight, this daemon's own included, in the order
	// in which they are asked where a volume is. They are asked who leads while
	// Hint does not know.
	Masters func() []cluster.Node
	// Hint names the leader as this daemon itself knows it (as a member of raft);
	// the zero value for none. May be nil.
	Hint func() LeaderInfo
}

// Client calls the leader, whoever that is at the moment, and any master. Its
// methods may be called at once from anywhere. While nobody leads, calls wait
// for a leader as long as their context lets them.
type Client struct {
	opt  ClientOptions
	turn time.Duration // turnTime

	mu   sync.Mutex
	last LeaderInfo // the leader as the last answers had it
	next time.Time  // when the others may be asked who leads while calls wait
}

// NewClient makes a Client. It connects to nobody yet.
func NewClient(opt ClientOptions) *Client { return &Client{opt: opt, turn: turnTime} }

const (
	// attemptTime bounds the wait for one answer: a process in trouble keeps its
	// connections open and says nothing.
	attemptTime = 3 * time.Second
	// whoTime bounds the question who leads.
	whoTime = time.Second
	// hintPoll is how often a waiting call looks whether another master leads now.
	hintPoll = 100 * time.Millisecond
	// lookEvery is how often, at most, that is asked of the others, by a node that is
	// no master itself and has calls waiting.
	lookEvery = 300 * time.Millisecond
	// maxAnswer bounds an answer that comes in pieces, in bytes.
	maxAnswer = 1 << 30
	retryMin  = 20 * time.Millisecond
	retryMax  = 250 * time.Millisecond
)

// Ask puts a question of a copy to the leader. The entry is the one now in
// force; it also comes with errors such as volume.ErrStale, and is zero when
// no leader answered.
func (c *Client) Ask(ctx context.Context, ask volume.Ask) (volume.Entry, error) {
	var e volume.Entry
	err := c.toLeader(ctx, attemptTime, always, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		a, err := rpcwire.Call[askAnswer](ctx, conn, ServiceName, "Ask", &ask)
		if err != nil {
			return err
		}
		if e = a.Entry; a.Text != "" {
			return &answered{volume.FromCode(a.Code, a.Text)}
		}
		return nil
	})
	if err != nil {
		err = fmt.Errorf("ask the leader (%s) about volume %d: %w", ask.Kind, ask.Volume, err)
	}
	return e, err
}

// Keys takes a block of count keys. A block whose answer was lost is wasted.
func (c *Client) Keys(ctx context.Context, count uint64) (catalog.Block, error) {
	var b catalog.Block
	err := c.toLeader(ctx, attemptTime, always, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		a, err := rpcwire.Call[catalog.Block](ctx, conn, ServiceName, "Keys", &keysRequest{count})
		if err == nil {
			b = *a
		}
		return err
	})
	if err != nil {
		return b, fmt.Errorf("take %d keys: %w", count, err)
	}
	return b, nil
}

// Grow makes volumes and returns once they are open. With a Count it is not
// repeated when the outcome is unknown.
func (c *Client) Grow(ctx context.Context, req placement.GrowRequest) ([]*volume.Entry, error) {
	again := always
	if req.Count > 0 {
		again = onlyUnheard
	}
	var es []*volume.Entry
	err := c.toLeader(ctx, 0, again, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		a, err := rpcwire.Call[growAnswer](ctx, conn, ServiceName, "Grow", &req)
		if err == nil {
			es = a.Entries
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("grow volumes: %w", err)
	}
	return es, nil
}

// DeleteCollection deletes all volumes of a collection and returns how many.
func (c *Client) DeleteCollection(ctx context.Context, name string) (int, error) {
	var n int
	err := c.toLeader(ctx, 0, onlyUnheard, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		a, err := rpcwire.Call[collection](ctx, conn, ServiceName, "DeleteCollection", &collection{Name: name})
		if err == nil {
			n = a.Volumes
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("delete collection %q: %w", name, err)
	}
	return n, nil
}

// Compact has volumes with at least that share of garbage compacted, and returns
// when that is done. It is not repeated when the outcome is unknown.
func (c *Client) Compact(ctx context.Context, share float64) error {
	err := c.toLeader(ctx, 0, onlyUnheard, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		_, err := rpcwire.Call[nothing](ctx, conn, ServiceName, "Compact", &compactRequest{share})
		return err
	})
	if err != nil {
		return fmt.Errorf("compact volumes: %w", err)
	}
	return nil
}

// Operate has the leader do what an operator asks. Every operation may be repeated.
func (c *Client) Operate(ctx context.Context, op cluster.Operation) (cluster.Outcome, error) {
	var out cluster.Outcome
	err := c.toLeader(ctx, attemptTime, always, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		a, err := rpcwire.Call[cluster.Outcome](ctx, conn, ServiceName, "Operate", &op)
		if err == nil {
			out = *a
		}
		return err
	})
	return out, err
}

// View is the leader's view of the cluster.
func (c *Client) View(ctx context.Context) (cluster.View, error) {
	var v cluster.View
	err := c.toLeader(ctx, 0, always, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		ctx, cancel := context.WithCancel(ctx) // ends the stream, whatever was read
		defer cancel()
		late := time.AfterFunc(attemptTime, cancel) // no piece for so long; all of them may take longer
		defer late.Stop()
		stream, err := rpcwire.Open[nothing, piece](ctx, conn, ServiceName, "View")
		if err == nil {
			err = stream.Send(&nothing{})
		}
		if err != nil {
			return rpcwire.Error(err)
		}
		return rpcwire.Error(recvPieces(func() (*piece, error) {
			p, err := stream.Recv()
			late.Reset(attemptTime)
			return p, err
		}, &v, maxAnswer))
	})
	if err != nil {
		return v, fmt.Errorf("ask the leader for its view: %w", err)
	}
	return v, nil
}

// Entry is the leader's word on a volume: volume.ErrNoVolume means that there is
// none, and volume.ErrUnavailable that no leader answered.
func (c *Client) Entry(ctx context.Context, id volume.ID) (volume.Entry, error) {
	var e volume.Entry
	err := c.toLeader(ctx, attemptTime, always, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		a, err := rpcwire.Call[volume.Entry](ctx, conn, ServiceName, "Entry", &locateRequest{id})
		if err == nil {
			e = *a
		}
		return err
	})
	if err != nil {
		return e, fmt.Errorf("ask the leader for volume %d: %w", id, err)
	}
	return e, nil
}

// Promise puts a genesis to one master.
func (c *Client) Promise(ctx context.Context, m cluster.Node, proposal json.RawMessage) error {
	err := c.call(ctx, LeaderInfo{m.ID, m.Internal}, attemptTime, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		_, err := rpcwire.Call[nothing](ctx, conn, ServiceName, "Promise", &promiseRequest{proposal})
		return err
	})
	if err != nil {
		return fmt.Errorf("ask master %s for its promise: %w", m.ID, err)
	}
	return nil
}

// WhoLeads asks one master who leads; the zero value for nobody.
func (c *Client) WhoLeads(ctx context.Context, m cluster.Node) (LeaderInfo, error) {
	return c.whoLeads(ctx, LeaderInfo{m.ID, m.Internal})
}

func (c *Client) whoLeads(ctx context.Context, m LeaderInfo) (LeaderInfo, error) {
	var info LeaderInfo
	err := c.call(ctx, m, whoTime, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		a, err := rpcwire.Call[LeaderInfo](ctx, conn, ServiceName, "WhoLeads", &nothing{})
		if err == nil {
			info = *a
		}
		return err
	})
	if err != nil {
		return info, fmt.Errorf("ask master %s who leads: %w", m.ID, err)
	}
	return info, nil
}

// call makes one attempt at one master. timeout 0 is none.
func (c *Client) call(ctx context.Context, m LeaderInfo, timeout time.Duration, f func(context.Context, grpc.ClientConnInterface) error) error {
	conn, err := c.opt.Conns.Conn(m.Internal, m.ID, UseControl)
	if err != nil {
		return &unheard{fmt.Errorf("connect to %s: %w", m.Internal, err)}
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	return unwire(f(ctx, conn))
}

// unheard marks a call that was not even sent, answered one whose error is the
// leader's own word. Neither shows outside.
type (
	unheard  struct{ error }
	answered struct{ error }
)

func (e *unheard) Unwrap() error  { return e.error }
func (e *answered) Unwrap() error { return e.error }

// always and onlyUnheard say whether a call that failed with err may be made
// again at the leader.
func always(err error) bool {
	var word *answered
	return !errors.As(err, &word) && (onlyUnheard(err) || errors.Is(err, volume.ErrUnavailable) ||
		errors.Is(err, volume.ErrOutcomeUnknown) || errors.Is(err, volume.ErrClosed) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled))
}

func onlyUnheard(err error) bool {
	var lost *unheard
	return errors.As(err, &lost) || errors.Is(err, volume.ErrNotLeader)
}

// toLeader makes a call at the leader, again and again until it is answered,
// the error is one that again refuses, or ctx ends.
func (c *Client) toLeader(ctx context.Context, timeout time.Duration, again func(error) bool, f func(context.Context, grpc.ClientConnInterface) error) error {
	pause := retryMin
	var last error
	for {
		err := error(&cluster.NotLeaderError{})
		m, ok := c.leader(ctx)
		if ok {
			err = c.watched(ctx, m, timeout, f)
		}
		var word *answered
		switch {
		case err == nil:
			c.note(m)
			return nil
		case errors.As(err, &word):
			c.note(m)
			return word.error
		case ctx.Err() != nil:
			return fmt.Errorf("%w: %w (%w)", volume.ErrUnavailable, ctx.Err(), cmpErr(last, err))
		case !again(err):
			return err
		}
		last = err
		var nl *cluster.NotLeaderError
		if errors.As(err, &nl) && nl.Internal != "" && nl.Leader != m.ID {
			c.note(LeaderInfo{nl.Leader, nl.Internal})
		} else {
			c.forget(m)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
			pause = min(2*pause, retryMax)
		}
	}
}

// cmpErr prefers what happened before the context ended.
func cmpErr(last, err error) error {
	if last != nil {
		return last
	}
	return err
}

// watched makes one attempt and gives it up early when another master leads.
func (c *Client) watched(ctx context.Context, m LeaderInfo, timeout time.Duration, f func(context.Context, grpc.ClientConnInterface) error) error {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	defer func() { cancel(); <-done }()
	go func() {
		defer close(done)
		c.awaitAnother(ctx, m)
		cancel()
	}()
	return c.call(ctx, m, timeout, f)
}

// awaitAnother returns once another leader than m is known, or ctx ends. A node
// that is no master itself learns that from the others: one that is frozen takes
// calls and says nothing.
func (c *Client) awaitAnother(ctx context.Context, m LeaderInfo) {
	tick := time.NewTicker(hintPoll)
	defer tick.Stop()
	for first := true; ; first = false {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if c.opt.Hint != nil {
			if h := c.opt.Hint(); h.ID != "" && h.ID != m.ID {
				return
			}
			continue
		}
		if !first && c.mayLook() { // most calls are answered by then
			c.askAll(ctx, m)
		}
		if l := c.known(); l.ID != "" && l.ID != m.ID {
			return
		}
	}
}

// mayLook says whether it is time to ask the others who leads: one call does it for
// all.
func (c *Client) mayLook() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if now.Before(c.next) {
		return false
	}
	c.next = now.Add(lookEvery)
	return true
}

func (c *Client) known() LeaderInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// leader finds the leader: as this daemon knows it, as the last answer had it,
// or as any master says.
func (c *Client) leader(ctx context.Context) (LeaderInfo, bool) {
	if c.opt.Hint != nil {
		if h := c.opt.Hint(); h.ID != "" && h.Internal != "" {
			return h, true
		}
	}
	if last := c.known(); last.ID != "" {
		return last, true
	}
	return c.askAll(ctx, LeaderInfo{})
}

// askAll asks all masters but one at once and takes the first that names a leader
// other than that one, which is in question.
func (c *Client) askAll(ctx context.Context, but LeaderInfo) (LeaderInfo, bool) {
	ctx, cancel := context.WithCancel(ctx)
	masters := slices.DeleteFunc(c.masters(), func(m LeaderInfo) bool { return m == but })
	found := make(chan LeaderInfo, len(masters))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, m := range masters {
		wg.Go(func() {
			info, err := c.whoLeads(ctx, m)
			if err != nil {
				info = LeaderInfo{} // the others may know
			}
			found <- info
		})
	}
	for range masters {
		if info := <-found; info.ID != "" && info.Internal != "" && info.ID != but.ID {
			c.note(info)
			return info, true
		}
	}
	return LeaderInfo{}, false
}

func (c *Client) masters() []LeaderInfo {
	var out []LeaderInfo
	for _, n := range c.opt.Masters() {
		if n.Roles&cluster.RoleMaster != 0 && n.Internal != "" {
			out = append(out, LeaderInfo{n.ID, n.Internal})
		}
	}
	return out
}

func (c *Client) note(m LeaderInfo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = m
}

// forget drops m, unless another leader was heard of meanwhile.
func (c *Client) forget(m LeaderInfo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == m {
		c.last = LeaderInfo{}
	}
}
