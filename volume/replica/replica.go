package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
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
// epoch, or the follower's side of a link. It is taken before encodeMu and mu,
// and is not held across the network either.
type Replica struct {
	opts   Options
	ctx    context.Context // ends at Close
	cancel context.CancelFunc
	work   sync.WaitGroup // counts up under mu before closed, or under queueMu before queueClosed

	logMu    sync.Mutex              // above whatever changes the log
	encodeMu sync.Mutex              // held while the writer reads the needles of callers
	keys     map[volume.Key]struct{} // of the writer, for one batch
	quick    atomic.Bool             // the last append was durable at once, as with sync "os"

	// settled says that this copy leads and shows all that was acknowledged in
	// earlier epochs, so that reads need not take locks that writes take, too.
	settled atomic.Bool // set under mu

	standing atomic.Int32 // a Standing; set under mu

	// moved holds a channel that is closed and replaced, under mu, when
	// leadership, epoch or state changed.
	moved atomic.Pointer[chan struct{}]

	mu       sync.Mutex
	core     *Core
	closed   bool
	yielding bool // takes no new writes: leadership is about to be given up
	leaving  bool // is about to be stopped

	yieldsRoom bool       // a primary whose disk has room is asked for
	cramped    time.Time  // until then none is, for one was asked for lately
	refused    bool       // what the primary sent last found no room here
	waiters    []*op      // appended, not yet acknowledged; rising need
	confirms   []*confirm // decisions and reads that wait for a barrier
	peers      map[volume.Holder]*peer
	asks       map[askKey]bool // under way
	ticking    bool
	follower   *following // the stream followed now

	compactor compactor
	seen      seen // by those who were woken last

	barrier      uint64 // under way; 0 for none
	barrierSince time.Time

	queueMu     sync.Mutex // no other lock is taken under it
	queue       []*op
	queueClosed bool
	writing     bool // a writer is there
}

// askKey tells questions apart that may be under way together. Those of an epoch
// that has passed must not hold up the same question in the next.
type askKey struct {
	kind  volume.AskKind
	epoch volume.Epoch
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
	if opts.Compacted == nil {
		opts.Compacted = func(error) {}
	}
	r := &Replica{opts: opts, peers: map[volume.Holder]*peer{}, asks: map[askKey]bool{}, keys: map[volume.Key]struct{}{}}
	moved := make(chan struct{})
	r.moved.Store(&moved)
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.core = Recover(opts.Self, opts.Volume, opts.Log)
	return r
}

// Learn takes an entry that was proven committed. Older ones than the newest
// known do nothing, nor do those after which others may have been lost.
func (r *Replica) Learn(e volume.Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || e.Unsure || e.Volume != r.opts.Volume {
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
	return r.core.Entry(), r.core.Writable() == nil, *r.moved.Load()
}

// Report is this copy as the leader is to see it.
func (r *Replica) Report() volume.CopyReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	// Under the lock: what was appended before the epoch that is reported is in size.
	files, deleted, deletedBytes, maxKey, size, modified, revision := r.opts.Log.Stats()
	rep := volume.CopyReport{
		Volume: r.opts.Volume, Copy: r.opts.Self.Copy, Spec: r.opts.Log.Spec(), State: volume.CopyHealthy,
		Epoch: r.core.Epoch(), Generation: r.core.Generation(), Leads: r.core.Writable() == nil, Committed: r.core.Committed(),
		Size: size, Files: files, Deleted: deleted, DeletedB: deletedBytes, MaxKey: maxKey, Modified: modified, Revision: revision,
		ReadOnly: r.core.Entry().State == volume.StateReadOnly,
	}
	rep.Compaction, rep.Compacting = r.compactionShown()
	if rep.ReadOnly {
		rep.Reason = "read-only by decision; weedd explain says more"
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
			r.pokeLocked()
		case Depose:
			r.deposeLocked()
		case Reattach:
			r.attachLocked(e.Peer)
		case Unfollow: // the link stays: the next hello may come by it
		default:
			r.compactionLocked(e)
		}
	}
	r.settled.Store(r.core.Leading() && r.core.Committed() >= r.core.Base())
	now := seen{r.core.Entry().Version, r.core.Epoch(), r.core.Writable() == nil, r.core.Failure() != nil}
	if now != r.seen {
		r.seen = now
		r.standLocked()
		r.prunePeersLocked()
		r.movedLocked()
	}
	r.wakeLocked()
	r.tickLocked()
}

// seen is what Watch and Report show of the core.
type seen struct {
	version  uint64
	epoch    volume.Epoch
	writable bool
	failed   bool
}

// Standing is what a copy knows of whether it has all that was acknowledged.
type Standing int32

// The standings of a copy.
const (
	Unknown Standing = iota // no entry was learned yet
	Current                 // it is in sync, or was when it was last in touch
	Behind                  // it may lack what was acknowledged
)

// Standing says whether this copy has all that was acknowledged, as far as it
// knows. It takes no locks.
func (r *Replica) Standing() Standing { return Standing(r.standing.Load()) }

func (r *Replica) standLocked() {
	now := Current
	switch h, inSync, _ := r.core.Entry().Holder(r.opts.Self.Node); {
	case r.core.Entry().Version == 0:
		now = Unknown
	case !inSync || h != r.opts.Self || r.refused && !r.core.Leading():
		now = Behind
	}
	r.standing.Store(int32(now))
}

// movedLocked wakes who watches.
func (r *Replica) movedLocked() {
	next := make(chan struct{})
	close(*r.moved.Swap(&next))
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
	if r.opts.Log.Doubtful() && !r.makeWay() {
		return
	}
	for said := ""; ; {
		err := r.tryEnter(e)
		if !short(err) {
			return
		}
		if err.Error() != said { // it is tried again twice a second
			said = err.Error()
			r.opts.Logger.Warn("epoch cannot begin yet", "volume", r.opts.Volume, "epoch", e.Epoch, "err", err)
		}
		r.handOver(askAgain)
		if r.ctx.Err() != nil || r.Entry().Epoch != e.Epoch {
			r.mu.Lock()
			r.core.NotEntered(e.Epoch)
			r.effectsLocked()
			r.mu.Unlock()
			return
		}
	}
}

// tryEnter answers an error that is short if nothing has changed.
func (r *Replica) tryEnter(e EnterEpoch) error {
	r.logMu.Lock()
	defer r.logMu.Unlock()
	durable, err := e.Apply(r.opts.Log)
	if short(err) {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.failLocked(fmt.Errorf("enter epoch %d: %w", e.Epoch, err))
		return nil
	}
	r.core.Synced(durable)
	r.core.Entered(e.Epoch)
	r.effectsLocked()
	r.opts.Logger.Debug("leads volume", "volume", r.opts.Volume, "epoch", e.Epoch, "start", e.Start)
	return nil
}

// short reports whether err says that something could not be written for want of
// room, or of open files, and that nothing has changed: it is no failure of the
// log, and may be tried again.
func short(err error) bool {
	return errors.Is(err, volume.ErrNoSpace) || errors.Is(err, volume.ErrUnavailable)
}

// handOver asks for another primary, if there is a copy that could be one, and
// waits a while.
func (r *Replica) handOver(wait time.Duration) {
	if e := r.Entry(); e.Primary == r.opts.Self.Node && len(e.InSync) > 1 {
		next, err := r.put(volume.Ask{Kind: volume.AskYield, Volume: e.Volume, Epoch: e.Epoch, From: r.opts.Self})
		r.Learn(next)
		if err == nil && next.Epoch > e.Epoch {
			return
		}
	}
	r.pause(wait)
}

// makeWay keeps a copy that may lack what it acknowledged from leading while
// another one can: it asks for that one until another copy is named, or the
// leader says that there is none. It reports false if the replica was closed.
func (r *Replica) makeWay() bool {
	for {
		e := r.Entry()
		if e.Primary != r.opts.Self.Node || len(e.InSync) < 2 {
			return true
		}
		next, err := r.put(volume.Ask{Kind: volume.AskYield, Volume: e.Volume, Epoch: e.Epoch, From: r.opts.Self})
		r.Learn(next)
		switch {
		case r.ctx.Err() != nil:
			return false
		case errors.Is(err, volume.ErrUnsatisfiable):
			return true
		case next.Epoch <= e.Epoch:
			r.pause(askAgain)
		}
	}
}

// failLocked ends this copy: its log cannot be written any more (rule R5).
func (r *Replica) failLocked(err error) {
	if r.core.failed != nil {
		return
	}
	r.opts.Logger.Error("copy failed and takes no more writes", "volume", r.opts.Volume, "copy", r.opts.Self.Copy, "err", err)
	r.core.Fail(err)
	r.effectsLocked()
}

// askLocked puts a question to the leader, one of a kind at a time. What comes
// back is learned. Without an outcome the core asks again, not at once.
func (r *Replica) askLocked(ask volume.Ask) {
	key := askKey{ask.Kind, ask.Epoch}
	if r.asks[key] {
		return
	}
	r.asks[key] = true
	r.goLocked(func() {
		if ask.Kind == volume.AskLead && r.opts.Log.Doubtful() {
			r.makeWay()
		}
		e, err := r.put(ask)
		if err != nil && r.ctx.Err() == nil {
			r.opts.Logger.Debug("no answer from the leader", "volume", ask.Volume, "ask", ask.Kind, "epoch", ask.Epoch, "err", err)
		}
		r.Learn(e)
		if r.Entry().Epoch <= ask.Epoch {
			r.pause(askAgain)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.asks, key)
		if !r.closed {
			r.core.Retry()
			r.effectsLocked()
		}
	})
}

// put puts a question to the leader, with a limit.
func (r *Replica) put(ask volume.Ask) (volume.Entry, error) {
	ctx, cancel := context.WithTimeout(r.ctx, 10*time.Second)
	defer cancel()
	return r.opts.Ask(ctx, ask)
}

// pause waits, unless the replica is closed first.
func (r *Replica) pause(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.ctx.Done():
	}
}

// deposeLocked ends everything that only a primary may do.
func (r *Replica) deposeLocked() {
	for _, o := range r.waiters {
		o.finish(result{err: r.lostLocked()})
	}
	r.waiters = nil
	for _, c := range r.confirms {
		c.finish(r.notPrimaryLocked())
	}
	r.confirms, r.barrier = nil, 0
	r.prunePeersLocked()
}

// tickLocked keeps a watchdog while something waits, and only then: an idle
// volume costs nothing.
func (r *Replica) tickLocked() {
	if r.ticking || r.closed || len(r.peers) == 0 || (len(r.waiters) == 0 && len(r.confirms) == 0) {
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
			if len(r.peers) == 0 || (len(r.waiters) == 0 && len(r.confirms) == 0) {
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
	if len(r.confirms) > 0 {
		first := r.confirms[0].since
		if r.barrier != 0 && r.barrierSince.Before(first) { // readers that gave up do not start the clock anew
			first = r.barrierSince
		}
		if since.IsZero() || first.Before(since) {
			since = first
		}
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
// when this copy is not the primary any more, or has no other to hand over to, or
// ctx ends. Writes are taken again after that if this copy leads.
func (r *Replica) Yield(ctx context.Context) error {
	r.setYielding(true)
	defer r.setYielding(false)
	for {
		r.mu.Lock()
		e, busy, moved, closed := r.core.Entry(), len(r.waiters) > 0, *r.moved.Load(), r.closed
		r.mu.Unlock()
		if closed {
			return volume.ErrClosed
		}
		if e.Primary != r.opts.Self.Node || len(e.InSync) < 2 {
			return nil
		}
		if !busy && !r.queued() {
			next, err := r.opts.Ask(ctx, volume.Ask{Kind: volume.AskYield, Volume: e.Volume, Epoch: e.Epoch, From: r.opts.Self})
			r.Learn(next)
			if errors.Is(err, volume.ErrUnsatisfiable) {
				return nil // no other copy is there to lead: this one takes writes to the end
			}
			moved = *r.moved.Load()
			if r.Entry().Epoch > e.Epoch {
				continue
			}
		}
		timer := time.NewTimer(askAgain)
		select {
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("yield volume %d: %w", e.Volume, context.Cause(ctx))
		case <-r.ctx.Done():
		case <-moved:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// Leave tells the primary, the one followed now and those to come, that this copy
// is about to be stopped. It follows until then, and is not waited for after.
func (r *Replica) Leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leaving = true
	if r.follower != nil {
		r.follower.pokeNow()
	}
}

func (r *Replica) setYielding(yes bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.yielding = yes
	r.movedLocked()
}

// Close ends all goroutines and links, Serve too. Writes that wait are answered
// volume.ErrOutcomeUnknown. The log stays open. Close twice is fine.
func (r *Replica) Close() error {
	r.closeQueue()
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
	r.work.Wait()
	return nil
}
