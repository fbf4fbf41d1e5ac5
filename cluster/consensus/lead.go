package consensus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"weedd/cluster"
	"weedd/volume"
)

// queueTimeout bounds how long a proposal waits for raft to take it.
const queueTimeout = 5 * time.Second

// term is one time of leading.
type term struct {
	ctx    context.Context
	cancel context.CancelFunc
}

// follow turns raft's events into levels until the Group closes. Raft waits
// while nobody reads notify; so it does nothing slow.
func (g *Group) follow(notify <-chan bool) {
	observed := make(chan raft.Observation, 16)
	observer := raft.NewObserver(observed, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	})
	g.raft.RegisterObserver(observer)
	defer g.raft.DeregisterObserver(observer)
	defer g.setTerm(false)
	last := raft.ServerID("")
	for {
		select {
		case leading := <-notify:
			g.setTerm(leading)
		case <-observed:
		case <-g.ctx.Done():
			return
		}
		if addr, id := g.raft.LeaderWithID(); id != "" && id != last {
			last = id
			g.log.Info("masters have a leader", "raft", string(id), "addr", string(addr), "self", string(id) == g.raftID)
		}
		g.changed.Raise()
	}
}

// setTerm ends the term there may be: two changes in a row with the same value
// are two terms, too.
func (g *Group) setTerm(leading bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.term != nil {
		g.term.cancel()
		g.term = nil
	}
	if leading && g.ctx.Err() == nil {
		t := new(term)
		t.ctx, t.cancel = context.WithCancel(g.ctx)
		g.term = t
	}
}

func (g *Group) currentTerm() *term {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.term
}

// Lead calls f each time this node is elected, as soon as everything that was
// committed before is applied. f's context ends with the term, and f has
// returned before it is called again. Lead returns when ctx ends or the Group
// closes, and f has returned.
func (g *Group) Lead(ctx context.Context, f func(context.Context)) {
	g.lead(ctx, func(ctx context.Context) {
		// The barrier fails only when the term is over, or about to be.
		if _, err := await(g, ctx, func() raft.Future { return g.raft.Barrier(0) }); err != nil {
			return
		}
		f(ctx)
	})
}

func (g *Group) lead(ctx context.Context, f func(context.Context)) {
	var last *term
	for {
		changed := g.changed.Wait()
		if t := g.currentTerm(); t != nil && t != last {
			last = t
			both, cancel := context.WithCancel(t.ctx)
			stop := context.AfterFunc(ctx, cancel)
			f(both)
			stop()
			cancel()
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		case <-g.ctx.Done():
			return
		}
	}
}

// await waits for what start asks of raft, but no longer than ctx and the Group
// live. Whatever raft still does then, it does without us.
func await[F raft.Future](g *Group, ctx context.Context, start func() F) (future F, err error) {
	if err := g.enter(); err != nil {
		return future, err
	}
	type answer struct {
		future F
		err    error
	}
	done := make(chan answer, 1)
	go func() {
		defer g.pending.Done()
		f := start()
		done <- answer{f, f.Error()}
	}()
	select {
	case a := <-done:
		return a.future, a.err
	case <-ctx.Done():
		return future, ctx.Err()
	case <-g.ctx.Done():
		return future, raft.ErrRaftShutdown
	}
}

// watch is the watchdog: raft itself does not notice that its disk hangs, and
// goes on sending heartbeats. An empty command goes the whole way, through the
// disks of a majority and the machine's queue. When that takes long, raft can
// neither hand over nor step down, as all of it waits for the disk; but it can fall
// silent, and then the others elect another leader.
func (g *Group) watch(ctx context.Context) {
	beat := time.NewTicker(g.opt.CheckEvery)
	defer beat.Stop()
	for {
		err := g.commitNothing(ctx)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, raft.ErrEnqueueTimeout) {
			g.stuck()
			return
		}
		select {
		case <-beat.C:
		case <-ctx.Done():
			return
		}
	}
}

// commitNothing commits an empty command, for StuckAfter at most.
func (g *Group) commitNothing(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, g.opt.StuckAfter)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err = await(g, ctx, func() raft.ApplyFuture { return g.raft.Apply(nil, g.opt.StuckAfter) })
	}()
	slow := time.NewTimer(g.opt.SilentAfter)
	defer slow.Stop()
	select {
	case <-done:
		return err
	case <-slow.C:
	}
	g.fallSilent()
	if <-done; !errors.Is(err, context.DeadlineExceeded) {
		g.transport.silent.Store(false) // it is over: with that command, or with the term
	}
	return err
}

// fallSilent stops the heartbeats of a leader that cannot commit. A majority whose
// disks are slow must not change its leader all the time for that, so it is done
// seldom.
func (g *Group) fallSilent() {
	now := time.Now()
	if now.Sub(g.silentAt) < g.opt.SilentRest || len(g.successors()) == 0 {
		return
	}
	g.silentAt = now
	g.log.Warn("this master leads and could not commit for a while: the others may elect another", "limit", g.opt.SilentAfter, "dir", g.opt.Dir)
	g.transport.silent.Store(true)
}

func (g *Group) stuck() {
	err := fmt.Errorf("this master leads and could not commit for %v: the disk of %s hangs, or a majority's does", g.opt.StuckAfter, g.opt.Dir)
	g.log.Error("raft is stuck", "err", err)
	g.opt.Stuck(err)
}

// Confirm returns nil once a majority has taken an entry that was made after the
// question, and all before it is applied here: this node led, and knows the newest
// decision. A process that was frozen may still take itself for the leader while
// another one is. (Raft's own VerifyLeader also counts answers that were under way
// when it was asked, be it before the freeze.)
func (g *Group) Confirm(ctx context.Context) error {
	if _, err := await(g, ctx, func() raft.Future { return g.raft.Barrier(queueTimeout) }); err != nil {
		return fmt.Errorf("confirm leadership: %w", g.proposeError(err))
	}
	return nil
}

// Leader gives the internal address and the raft id of the leader, as far as
// this node knows.
func (g *Group) Leader() (addr, raftID string, ok bool) {
	a, id := g.raft.LeaderWithID()
	return string(a), string(id), a != ""
}

// LeaderChanged gives a channel that is closed when Leader may have changed, or
// this node's own leadership. Take it before looking.
func (g *Group) LeaderChanged() <-chan struct{} { return g.changed.Wait() }

// Leading tells whether this node leads, as far as it knows.
func (g *Group) Leading() bool { return g.currentTerm() != nil }

func (g *Group) notLeader() error {
	addr, id, ok := g.Leader()
	if !ok || id == g.raftID {
		return &cluster.NotLeaderError{}
	}
	return &cluster.NotLeaderError{Leader: g.opt.NodeID(id, addr), Internal: addr}
}

// Propose has a command committed and applied, and returns what Machine.Apply
// made of it here. The command must not be empty. The error is a
// *cluster.NotLeaderError when another node leads, and ErrOutcomeUnknown when
// the command may be committed or may yet be: the leadership was lost, or ctx
// ended, while waiting.
func (g *Group) Propose(ctx context.Context, command []byte) (any, error) {
	if len(command) == 0 {
		return nil, fmt.Errorf("propose: %w: empty command", volume.ErrBadRequest)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("propose: %w: %w", volume.ErrUnavailable, err)
	}
	if g.raft.State() != raft.Leader {
		return nil, g.notLeader()
	}
	future, err := await(g, ctx, func() raft.ApplyFuture { return g.raft.Apply(command, queueTimeout) })
	if err != nil {
		return nil, fmt.Errorf("propose: %w", g.proposeError(err))
	}
	return future.Response(), nil
}

// proposeError says what an error of await means for a change of the log.
func (g *Group) proposeError(err error) error {
	switch {
	case errors.Is(err, volume.ErrClosed):
		return err
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return g.notLeader()
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return fmt.Errorf("%w: %w", volume.ErrUnavailable, err)
	default: // leadership lost, ctx over, closed, log store failed: the entry may be on some disk
		return fmt.Errorf("%w: %w", volume.ErrOutcomeUnknown, err)
	}
}

// TransferLeadership hands the leadership to the voter that is closest behind,
// and returns when this node leads no more. Without another voter that answers
// it fails. It does nothing on a node that does not lead.
func (g *Group) TransferLeadership(ctx context.Context) error {
	var errs error
	for _, m := range g.successors() {
		if g.raft.State() != raft.Leader {
			return nil
		}
		_, err := await(g, ctx, func() raft.Future {
			return g.raft.LeadershipTransferToServer(raft.ServerID(m.RaftID), raft.ServerAddress(m.Addr))
		})
		if err == nil || g.raft.State() != raft.Leader {
			return nil
		}
		errs = errors.Join(errs, fmt.Errorf("to %s at %s: %w", m.RaftID, m.Addr, err))
		if ctx.Err() != nil {
			break
		}
	}
	if g.raft.State() != raft.Leader {
		return nil
	}
	if errs == nil {
		errs = errors.New("no other voter")
	}
	return fmt.Errorf("hand over leadership: %w", errs)
}
