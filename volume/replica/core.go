// Package replica keeps the copies of one volume in step.
//
// It has two layers. Core is the protocol as a value: it is told what happened
// and says what to do, and does no I/O, starts no goroutine and looks at no
// clock; the simulation in daemon/simulation drives it through crashes and bad
// networks. Replica is the runtime around it: one writer, links to the other
// copies, and a Log on disk. volume/DESIGN.md says what the protocol promises
// and why it holds; the rules R5 to R12 named in comments are explained there.
package replica

import (
	"fmt"
	"maps"
	"slices"

	"weedd/volume"
)

// Origin is the offset of the first record in a .dat: the length of the super
// block. A copy that ends there holds nothing.
const Origin = 8

// Core decides for one copy of one volume. It is not safe for concurrent use.
//
// A copy has three lengths, in bytes of .dat: end (appended) >= durable
// (fsynced) >= committed (known durable on every copy that counts).
//
// Whoever drives it carries out Effects after every call, in order. It changes
// the log from one place at a time, and calls back after each change with what
// the log has become; until it has, the Core begins nothing else that would
// change the log.
type Core struct {
	self volume.Holder
	id   volume.ID

	entry     volume.Entry // newest known to be committed; Version 0: none yet
	epochs    []volume.EpochStart
	end       int64
	durable   int64
	committed int64
	failed    error // for good
	diverged  error // in the epoch known; cleared by the next

	entering volume.EpochStart // EnterEpoch was given out, Entered has not come yet
	plan     *plan             // OnHello gave out an Adopt, Adopted has not come yet
	inFlight int64             // where the log ends with the bytes that OnBatch accepted; 0 once Followed has come

	led    volume.Epoch // the newest epoch entered as primary by this run of the process
	holds  bool         // writes may wait here: it led, was perhaps named primary again, and was not deposed since
	peers  map[volume.Holder]*peerState
	seq    uint64 // of the last batch
	asked  []volume.Ask
	yield  bool
	waits  uint64 // the newest barrier given out
	follow stream

	work     work
	attempt  *attempt // under way
	attempts uint64   // counts them
	aborted  error    // why the last one came to nothing
	answers  []Message

	effects []Effect
}

// CoreState is what recovery found on disk. All of it has been made durable
// again by then: what is only in the page cache of a process that was killed
// counts for nothing, so Durable is End unless the log failed.
type CoreState struct {
	Epochs    []volume.EpochStart
	End       int64
	Durable   int64
	Committed int64
	Prepared  *Prepared // nil without new files that are ready
}

// peerState is the primary's knowledge of another copy, in the epoch led.
type peerState struct {
	stream   uint64 // of the last Hello; what comes by another counts for nothing (rule R8)
	attached bool   // it has welcomed that Hello
	durable  int64
	acked    uint64 // highest sequence number acknowledged
	adding   bool   // the leader was asked to have it in sync; it counts until a newer epoch (rule R9)
	suspect  bool
	leaving  bool   // it has said that it is about to stop, and was not met again since
	refused  Code   // it cannot be a copy of this log; "" unless so
	abort    uint64 // the attempt at a compaction that it has yet to be told is given up; 0 for none
}

// plan is an Adopt under way.
type plan struct {
	stream uint64
	epoch  volume.Epoch
	epochs []volume.EpochStart
}

// stream is the one that this copy acknowledges; id 0 is none.
type stream struct {
	id    uint64
	epoch volume.Epoch
}

// Effect is something that the Core wants done.
type Effect interface{ effect() }

// EnterEpoch asks to fsync all up to Start, then to add this epoch to the epoch
// list and fsync that, then to call Entered. If that fails: Fail.
type EnterEpoch struct {
	Epoch      volume.Epoch
	Start      int64
	Generation uint32
}

// AskLeader asks to put a question to the leader, once. What comes of it is
// told by Learn. No answer, a refusal or an error is not an outcome: the
// question may still arrive. Retry asks again.
type AskLeader struct{ Ask volume.Ask }

// CommitAdvanced asks to publish records up to Committed, wake who waits for
// it, and tell the followers.
type CommitAdvanced struct{ Committed int64 }

// Depose says that writes under way have no outcome any more: this copy leads
// no longer, or its log failed. Links to copies that Peers does not list are to
// be closed.
type Depose struct{}

// Reattach asks for a link to Peer and a new Hello on it.
type Reattach struct{ Peer volume.Holder }

// Unfollow asks to close the link of a stream that this copy acknowledges no
// longer.
type Unfollow struct{ Stream uint64 }

func (EnterEpoch) effect()     {}
func (AskLeader) effect()      {}
func (CommitAdvanced) effect() {}
func (Depose) effect()         {}
func (Reattach) effect()       {}
func (Unfollow) effect()       {}

// Adopt is what a follower does to its files to attach: cut .dat and the index
// to Cut and fsync them, unless Cut is -1; then make Epochs its list, durably
// and all or nothing; then call Core.Adopted. In that order: a copy that had
// the list before the cut would claim its own bytes for the primary's epochs.
// If it fails half way: Core.Fail.
type Adopt struct {
	Stream uint64
	Cut    int64
	Epochs []volume.EpochStart
}

// NewCore makes the Core of a copy as recovery found it.
func NewCore(self volume.Holder, id volume.ID, st CoreState) *Core {
	c := &Core{
		self: self, id: id, epochs: slices.Clone(st.Epochs),
		end: st.End, durable: min(st.Durable, st.End), committed: min(st.Committed, st.Durable),
		peers: map[volume.Holder]*peerState{},
	}
	if p := st.Prepared; p != nil {
		c.work = work{phase: ready, job: job{what: p.Compaction}, length: p.Length, sum: p.Checksum}
	}
	return c
}

// Effects gives what is to be done now, and forgets it.
func (c *Core) Effects() []Effect {
	e := c.effects
	c.effects = nil
	return e
}

func (c *Core) emit(e Effect) { c.effects = append(c.effects, e) }

// Learn takes an entry that was proven committed: by a master's catalog, by the
// answer to an Ask, or by another copy. Older ones are ignored.
func (c *Core) Learn(e volume.Entry) {
	if e.Volume != c.id || e.Version <= c.entry.Version {
		return
	}
	old := c.entry
	c.entry = e
	if e.Epoch > old.Epoch {
		c.asked, c.yield, c.diverged = nil, false, nil
		c.decided(e)
		if !c.primary() {
			c.depose()
		}
		if c.follow.id != 0 && e.Epoch > c.follow.epoch {
			c.emit(Unfollow{c.follow.id})
			c.follow = stream{}
		}
	}
	if c.Leading() {
		c.newPeers(old)
	}
	c.settle()
}

// newPeers attaches to copies that began to join within the epoch, and forgets
// those that no longer do. One that the leader was asked to have in sync is not
// forgotten: that question may still arrive.
func (c *Core) newPeers(old volume.Entry) {
	now := c.Peers()
	for h, p := range c.peers {
		if !slices.Contains(now, h) && !p.adding {
			delete(c.peers, h)
		}
	}
	for _, h := range now {
		if !slices.Contains(old.InSync, h) && !slices.Contains(old.Joining, h) {
			c.emit(Reattach{h})
		}
	}
}

// settle begins what the state calls for: entering an epoch, and questions to
// the leader. Every call that changes something ends with it.
func (c *Core) settle() {
	c.advance()
	c.outcome()
	if c.primary() && c.failed == nil && !c.busy() && c.entry.Epoch > newest(c.epochs) && !c.outdated() {
		c.entering = volume.EpochStart{Epoch: c.entry.Epoch, Start: c.end, Generation: c.entry.Generation}
		c.emit(EnterEpoch(c.entering))
	}
	c.count()
	c.advance()
	for _, ask := range c.wanted() {
		if !slices.ContainsFunc(c.asked, func(a volume.Ask) bool { return same(a, ask) }) {
			c.asked = append(c.asked, ask)
			c.emit(AskLeader{ask})
		}
	}
}

// busy reports whether something is changing the log that has not called back.
func (c *Core) busy() bool {
	return c.entering.Epoch != 0 || c.plan != nil || c.inFlight != 0 || c.work.phase == finishing || c.work.phase == switching
}

// primary reports whether the newest entry makes this very copy the primary.
func (c *Core) primary() bool {
	return c.entry.Primary == c.self.Node && slices.Contains(c.entry.InSync, c.self)
}

// Entered says that EnterEpoch is done: the epoch is in the list, durably, and
// everything before its start is durable, too.
func (c *Core) Entered(epoch volume.Epoch) {
	if c.entering.Epoch != epoch || epoch == 0 {
		return
	}
	c.epochs = append(slices.Clip(c.epochs), c.entering)
	c.durable = max(c.durable, c.entering.Start)
	c.entering = volume.EpochStart{}
	c.entered(epoch)
	c.settle()
}

// NotEntered says that EnterEpoch changed nothing, for want of room. It is asked
// for again if this copy is still to lead.
func (c *Core) NotEntered(epoch volume.Epoch) {
	if c.entering.Epoch != epoch || epoch == 0 {
		return
	}
	c.entering = volume.EpochStart{}
	c.settle()
}

// entered begins to lead in an epoch that is durable now, if this copy is to
// lead in it and it was not overtaken meanwhile.
func (c *Core) entered(epoch volume.Epoch) {
	if c.entry.Epoch != epoch || !c.primary() {
		return
	}
	c.led, c.holds = epoch, true
	c.peers = map[volume.Holder]*peerState{}
	for _, h := range c.Peers() {
		c.emit(Reattach{h})
	}
}

// Appended says that local records were appended.
func (c *Core) Appended(end int64) {
	if c.failed != nil {
		return
	}
	c.end = max(c.end, end)
	c.settle()
}

// Synced says that an fsync has made everything up to durable so.
func (c *Core) Synced(durable int64) {
	if c.failed != nil {
		return
	}
	c.durable = min(max(c.durable, durable), c.end)
	c.settle()
}

// Fail says that the log cannot be written any more, for good (rule R5). What
// was synced before stays readable and is all that this copy claims to have.
func (c *Core) Fail(err error) {
	if c.failed != nil || err == nil {
		return
	}
	c.failed = err
	c.end = c.durable
	c.entering, c.plan, c.inFlight = volume.EpochStart{}, nil, 0
	if c.work.phase == switching {
		c.work.phase = idle
	}
	if c.follow.id != 0 {
		c.emit(Unfollow{c.follow.id})
		c.follow = stream{}
	}
	c.depose()
	c.settle()
}

// depose ends what waits. A copy may lose the lead between two epochs of its
// own, while it enters the second: what waited since the first is void, too.
func (c *Core) depose() {
	if c.holds {
		c.holds = false
		c.emit(Depose{})
	}
}

// Yield asks for another primary in place of this one, as for a planned stop or
// a slow disk. This copy leads on until it learns a newer epoch.
func (c *Core) Yield() {
	c.yield = true
	c.settle()
}

// Retry asks again whatever was asked and has no outcome yet.
func (c *Core) Retry() {
	c.asked = nil
	if c.attempt != nil && c.attempt.step == asking {
		c.attempt.renew = true
	}
	c.settle()
}

// Leading reports whether this copy leads, by the newest entry that it knows,
// in an epoch that it has entered and not left by a restart.
func (c *Core) Leading() bool {
	return c.led != 0 && c.led == c.entry.Epoch && c.primary()
}

// Writable is nil when this copy may take writes, and else says why not.
func (c *Core) Writable() error {
	switch {
	case c.failed != nil:
		return fmt.Errorf("%w: volume %d: its copy here failed: %w", volume.ErrReadOnly, c.id, c.failed)
	case !c.primary():
		return &volume.NotPrimaryError{Volume: c.id, Primary: c.entry.Primary}
	case !c.Leading():
		return fmt.Errorf("%w: volume %d: this copy does not lead yet in epoch %d", volume.ErrUnavailable, c.id, c.entry.Epoch)
	case c.entry.State == volume.StateReadOnly || c.entry.State == volume.StateExpired:
		return &volume.ReadOnlyError{Volume: c.id, State: c.entry.State}
	case c.entry.State == volume.StateNew:
		// Files may still be made anew for a new volume (rule R6), so nothing
		// may have been acknowledged in it.
		return fmt.Errorf("%w: volume %d is new, and not all of its copies are there yet", volume.ErrUnavailable, c.id)
	case c.paused():
		return fmt.Errorf("%w: volume %d: a compaction is about to end", volume.ErrUnavailable, c.id)
	case !c.enough():
		return fmt.Errorf("%w: volume %d has %d copies in sync and needs %d", volume.ErrUnavailable, c.id,
			len(c.entry.InSync), c.entry.Spec.Placement.MinCopies())
	}
	return nil
}

// enough reports whether as many copies are in sync as an answer needs.
func (c *Core) enough() bool { return len(c.entry.InSync) >= c.entry.Spec.Placement.MinCopies() }

// Following gives the stream that this copy acknowledges.
func (c *Core) Following() (stream uint64, ok bool) { return c.follow.id, c.follow.id != 0 }

// Committed is how many bytes are known durable on every copy that counts.
func (c *Core) Committed() int64 { return c.committed }

// Durable is how many bytes this copy has fsynced.
func (c *Core) Durable() int64 { return c.durable }

// Entry is the newest entry known.
func (c *Core) Entry() volume.Entry { return c.entry }

// Epochs is the list of epochs, as durable. It must not be changed.
func (c *Core) Epochs() []volume.EpochStart { return c.epochs }

// Epoch is the newest epoch made durable by this copy, 0 for none.
func (c *Core) Epoch() volume.Epoch { return newest(c.epochs) }

// Generation is that of the files of this copy.
func (c *Core) Generation() uint32 {
	if len(c.epochs) == 0 {
		return c.entry.Generation
	}
	return c.epochs[len(c.epochs)-1].Generation
}

// Failure is why this copy can be of no more use, nil if it can: its log failed,
// or it holds bytes that the primary's log does not have and that it must not
// cut. The node needs a new copy then.
func (c *Core) Failure() error {
	if c.failed != nil {
		return c.failed
	}
	return c.diverged
}

// Asking reports whether a question to the leader has no outcome yet.
func (c *Core) Asking() bool { return len(c.asked) > 0 }

// Status is a Core as shown to people.
type Status struct {
	Entry     volume.Entry
	Epoch     volume.Epoch
	Leading   bool
	Following bool
	End       int64
	Durable   int64
	Committed int64
	Failure   error
	Peers     []PeerStatus // of a primary, sorted by node
}

// PeerStatus is what a primary knows of another copy.
type PeerStatus struct {
	Holder   volume.Holder
	Attached bool
	Counts   bool // answers wait for it: it is in sync, or the leader was asked to have it so
	Suspect  bool
	Durable  int64
	Refused  Code
}

// Status gives a picture of this moment.
func (c *Core) Status() Status {
	s := Status{Entry: c.entry, Epoch: c.Epoch(), Leading: c.Leading(), Following: c.follow.id != 0,
		End: c.end, Durable: c.durable, Committed: c.committed, Failure: c.Failure()}
	if s.Leading {
		for _, h := range slices.SortedFunc(maps.Keys(c.peers), compareHolders) {
			p := c.peers[h]
			s.Peers = append(s.Peers, PeerStatus{Holder: h, Attached: p.attached, Counts: p.adding || slices.Contains(c.entry.InSync, h),
				Suspect: p.suspect, Durable: p.durable, Refused: p.refused})
		}
	}
	return s
}
