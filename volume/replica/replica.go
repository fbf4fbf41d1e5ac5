package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"weedd/volume"
)

// Replica runs one copy of a volume. It takes writes while the copy leads,
// sends them to the other copies, and follows the primary otherwise. All
// methods may be called at once from anywhere.
//
// Who owns what: mu guards the core and the waiters and is never held across
// the disk or the network. logMu is held by whoever changes the log: the writer
// (one goroutine, there only while something is queued), the entering of an
// epoch, or the follower's side of a link. It is taken before encodeMu and mu.
type Replica struct {
	opts   Options
	ctx    context.Context // ends at Close
	cancel context.CancelFunc
	work   sync.WaitGroup

	logMu    sync.Mutex // above whatever changes the log
	encodeMu sync.Mutex // held while the writer reads the needles of callers

	mu       sync.Mutex
	core     *Core
	closed   bool
	yielding bool          // takes no new writes: leadership is about to be given up
	moved    chan struct{} // closed and replaced when leadership, epoch or state changed
	waiters  []*op         // appended, not yet acknowledged; rising need
	confirms []confirm     // decisions and reads that wait for a barrier
	peers    map[volume.Holder]*peer
	asks     map[volume.AskKind]bool // under way
	ticking  bool
	follower *following // the stream followed now
	seen     seen       // by those who were woken last

	queueMu sync.Mutex
	queue   []*op
	writing bool // a writer goroutine is there
}

// New makes the runtime of a copy whose log was opened. It does nothing until
// Learn tells it an entry.
func New(opts Options) *Replica {
	if opts.SlowSync == 0 {
		opts.SlowSync = 2 * time.Second
	}
	if opts.Changed == nil {
		opts.Changed = func() {}
	}
	l := opts.Log
	r := &Replica{opts: opts, moved: make(chan struct{}), peers: map[volume.Holder]*peer{}, asks: map[volume.AskKind]bool{}}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	durable, err := l.Sync() // what a killed process left in the page cache counts only after this
	r.core = NewCore(opts.Self, opts.Volume, CoreState{Epochs: l.Epochs(), End: l.End(), Durable: durable, Committed: l.Committed()})
	r.core.Fail(err)
	return r
}

// Learn takes an entry that was proven committed. Older ones than the newest
// known do nothing.
func (r *Replica) Learn(e volume.Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || e.Volume != r.opts.Volume {
		return
	}
	r.core.Learn(e)
	r.effectsLocked()
}

// Entry is the newest entry known.
func (r *Replica) Entry() volume.Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.core.Entry()
}

// Watch returns the newest entry known, whether this copy leads, and a channel
// that is closed when either may have changed.
func (r *Replica) Watch() (e volume.Entry, leads bool, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.core.Entry(), r.core.Writable() == nil, r.moved
}

// Report is this copy as the leader is to see it.
func (r *Replica) Report() volume.CopyReport {
	files, deleted, deletedBytes, maxKey, size, modified, revision := r.opts.Log.Stats()
	r.mu.Lock()
	defer r.mu.Unlock()
	rep := volume.CopyReport{
		Volume: r.opts.Volume, Copy: r.opts.Self.Copy, Spec: r.opts.Log.Spec(), State: volume.CopyHealthy,
		Epoch: r.core.Epoch(), Generation: r.core.Generation(), Leads: r.core.Writable() == nil, Committed: r.core.Committed(),
		Size: size, Files: files, Deleted: deleted, DeletedB: deletedBytes, MaxKey: maxKey, Modified: modified, Revision: revision,
		ReadOnly: r.core.Entry().State == volume.StateReadOnly,
	}
	if err := r.core.Failure(); err != nil {
		rep.State, rep.Reason = volume.CopyFailed, err.Error()
	}
	return rep
}

// effectsLocked does what the core wants done: at once what is cheap, in
// goroutines what touches disk or network.
func (r *Replica) effectsLocked() {
	for _, e := range r.core.Effects() {
		switch e := e.(type) {
		case EnterEpoch:
			r.goLocked(func() { r.enter(e) })
		case AskLeader:
			r.askLocked(e.Ask)
		case CommitAdvanced:
			r.opts.Log.Publish(e.Committed)
			r.wakeLocked()
			r.pokeLocked()
		case Depose:
			r.deposeLocked()
		case Reattach:
			r.attachLocked(e.Peer)
		case Unfollow: // the link stays: the next hello may come by it
		}
	}
	now := seen{r.core.Entry().Version, r.core.Epoch(), r.core.Writable() == nil, r.core.Failure() != nil}
	if now != r.seen {
		r.seen = now
		r.movedLocked()
	}
	r.tickLocked()
}

// seen is what Watch and Report show of the core.
type seen struct {
	version  uint64
	epoch    volume.Epoch
	writable bool
	failed   bool
}

// movedLocked wakes who watches.
func (r *Replica) movedLocked() {
	close(r.moved)
	r.moved = make(chan struct{})
	r.opts.Changed()
}

// goLocked starts a goroutine that Close waits for.
func (r *Replica) goLocked(f func()) {
	if r.closed {
		return
	}
	r.work.Add(1)
	go func() {
		defer r.work.Done()
		f()
	}()
}

// enter makes a new epoch durable: first everything appended, then the entry
// (rules R8, R11). The core leads only after that.
func (r *Replica) enter(e EnterEpoch) {
	r.logMu.Lock()
	defer r.logMu.Unlock()
	durable, err := r.opts.Log.Sync()
	if err == nil {
		err = r.opts.Log.AddEpoch(volume.EpochStart{Epoch: e.Epoch, Start: e.Start, Generation: e.Generation})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.failLocked(fmt.Errorf("enter epoch %d: %w", e.Epoch, err))
		return
	}
	r.core.Synced(durable)
	r.core.Entered(e.Epoch)
	r.effectsLocked()
	r.opts.Logger.Debug("leads volume", "volume", r.opts.Volume, "epoch", e.Epoch, "start", e.Start)
}

// failLocked ends this copy: its log cannot be written any more (rule R5).
func (r *Replica) failLocked(err error) {
	if r.core.Failure() != nil {
		return
	}
	r.opts.Logger.Error("copy failed and takes no more writes", "volume", r.opts.Volume, "copy", r.opts.Self.Copy, "err", err)
	r.core.Fail(err)
	r.effectsLocked()
}

// askLocked puts a question to the leader, one of a kind at a time. What comes
// back is learned. Without an outcome the core asks again, not at once.
func (r *Replica) askLocked(ask volume.Ask) {
	if r.asks[ask.Kind] {
		return
	}
	r.asks[ask.Kind] = true
	r.goLocked(func() {
		ctx, cancel := context.WithTimeout(r.ctx, 10*time.Second)
		defer cancel()
		e, err := r.opts.Ask(ctx, ask)
		if err != nil && r.ctx.Err() == nil {
			r.opts.Logger.Debug("no answer from the leader", "volume", ask.Volume, "ask", ask.Kind, "epoch", ask.Epoch, "err", err)
		}
		r.mu.Lock()
		if !r.closed {
			r.core.Learn(e)
		}
		if moved := r.core.Entry().Epoch > ask.Epoch; !moved && !r.closed {
			r.mu.Unlock()
			r.pause(askAgain)
			r.mu.Lock()
		}
		defer r.mu.Unlock()
		delete(r.asks, ask.Kind)
		if !r.closed {
			r.core.Retry()
			r.effectsLocked()
		}
	})
}

// pause waits, unless the replica is closed first.
func (r *Replica) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-r.ctx.Done():
	}
}

// deposeLocked ends everything that only a primary may do.
func (r *Replica) deposeLocked() {
	for _, o := range r.waiters {
		o.finish(result{err: fmt.Errorf("%w: volume %d: another copy leads now", volume.ErrOutcomeUnknown, r.opts.Volume)})
	}
	r.waiters = nil
	for _, c := range r.confirms {
		c.finish(r.notPrimaryLocked())
	}
	r.confirms = nil
	r.pokeLocked() // links close themselves when they see that nothing is to be sent
}

func (r *Replica) notPrimaryLocked() error {
	e := r.core.Entry()
	if e.Primary == r.opts.Self.Node {
		return fmt.Errorf("%w: volume %d: this copy does not lead yet", volume.ErrUnavailable, r.opts.Volume)
	}
	return &volume.NotPrimaryError{Volume: r.opts.Volume, Primary: e.Primary}
}

// tickLocked keeps a watchdog while something waits, and only then: an idle
// volume costs nothing.
func (r *Replica) tickLocked() {
	if r.ticking || r.closed || (len(r.waiters) == 0 && len(r.confirms) == 0) {
		return
	}
	r.ticking = true
	r.goLocked(r.watch)
}

// watch looks for copies that hold a write up, until nothing waits any more.
func (r *Replica) watch() {
	tick := time.NewTicker(watchdogTick)
	defer tick.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case now := <-tick.C:
			r.mu.Lock()
			r.suspectLocked(now)
			r.effectsLocked()
			if len(r.waiters) == 0 && len(r.confirms) == 0 {
				r.ticking = false
				r.mu.Unlock()
				return
			}
			r.mu.Unlock()
		}
	}
}

// suspectLocked tells the core of in-sync copies that have held the oldest
// waiting write up for too long.
func (r *Replica) suspectLocked(now time.Time) {
	var since time.Time
	if len(r.waiters) > 0 {
		since = r.waiters[0].appended
	}
	if len(r.confirms) > 0 && (since.IsZero() || r.confirms[0].since.Before(since)) {
		since = r.confirms[0].since
	}
	if since.IsZero() || !r.core.Leading() {
		return
	}
	for _, p := range r.peers {
		if late := p.lateLocked(r, since, now); late {
			r.core.Suspect(p.holder)
		}
	}
}

// Yield gives leadership up for a planned stop: it takes no new writes, lets
// those under way finish, and asks the leader for another primary. It returns
// when this copy does not lead any more, or has no other to hand over to, or ctx
// ends.
func (r *Replica) Yield(ctx context.Context) error {
	r.mu.Lock()
	r.yielding = true
	r.movedLocked()
	r.mu.Unlock()
	for {
		r.mu.Lock()
		e, leading, busy, moved := r.core.Entry(), r.core.Leading(), len(r.waiters) > 0, r.moved
		r.mu.Unlock()
		if !leading || len(e.InSync) < 2 {
			return nil
		}
		if !busy && !r.queued() {
			next, err := r.opts.Ask(ctx, volume.Ask{Kind: volume.AskYield, Volume: e.Volume, Epoch: e.Epoch, From: r.opts.Self})
			r.Learn(next)
			if next.Epoch > e.Epoch {
				continue
			}
			if errors.Is(err, volume.ErrUnsatisfiable) { // no other copy is there to lead: this one takes writes to the end
				r.mu.Lock()
				r.yielding = false
				r.movedLocked()
				r.mu.Unlock()
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("yield volume %d: %w", e.Volume, context.Cause(ctx))
		case <-r.ctx.Done():
			return volume.ErrClosed
		case <-moved:
		case <-time.After(watchdogTick): // the writer says nothing when it is done
		}
	}
}

// Close ends all goroutines and links. Writes that wait are answered
// volume.ErrOutcomeUnknown. The log stays open. Close twice is fine.
func (r *Replica) Close() error {
	r.mu.Lock()
	r.closed = true
	r.deposeLocked()
	if r.follower != nil {
		r.follower.link.Close()
	}
	for _, p := range r.peers {
		p.closeLocked()
	}
	r.mu.Unlock()
	r.cancel()
	r.failQueue(volume.ErrClosed)
	r.work.Wait()
	return nil
}
