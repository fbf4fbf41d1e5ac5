package replica

import (
	"fmt"
	"slices"
	"time"

	"weedd/volume"
)

// Compaction (rule R13) is two machines beside the rest of the Core. work is
// what this copy does with its files: build new ones aside, bring them to the end
// of the log, and wait, durably, for the decision. attempt is what a primary does
// with all copies: it begins, holds writes when all have built, asks the leader
// when all are ready and equal, and does not write again before it has learned of
// a newer epoch. The entry of that epoch is the decision: with the next generation
// every copy takes its new files, else it drops them.

// phase is how far the new files of one copy are.
type phase byte

const (
	idle      phase = iota
	building        // Build was given out
	built           // up to what was committed then
	finishing       // Finish was given out: the log must not change
	ready           // durable, over a restart too: only an entry of a newer epoch ends it
	dropping        // Drop was given out
	switching       // Switch was given out: the log changes
)

// work is what one copy does about a compaction.
type work struct {
	phase  phase
	job    job
	build  uint64 // counts the builds of this copy, and names the newest
	doomed bool   // to be dropped when Finish has come back
	length int64
	sum    uint32 // of the new .dat, when ready
	next   *job   // begun when what is there has been dropped

	epoch  volume.Epoch // of the newest attempt heard of,
	newest uint64       // and its number: earlier ones count for nothing
}

// job is one attempt as one copy was told of it.
type job struct {
	number uint64 // counted by the primary; 0 when a restart has forgotten it
	stream uint64 // by which the primary said so; 0 on the primary itself
	what   volume.Compaction
}

// step is how far an attempt is.
type step byte

const (
	copiesBuild step = iota
	pausing          // PauseWrites was given out
	draining         // nothing is appended any more; the rest is being committed
	copiesFinish
	asking // the leader was asked: the outcome is open until a newer epoch is known
)

// attempt is what the primary does about a compaction.
type attempt struct {
	number uint64
	what   volume.Compaction
	step   step
	end    int64 // of the log, once drained
	parts  map[volume.Holder]*part
	renew  bool // the question had no outcome: only a new epoch ends the pause
}

// part is what the primary knows of another copy's new files.
type part struct {
	stream       uint64 // the attempt ends when this one does
	told, finish bool   // it was sent Compact, Finish
	built, ready bool
	length       int64
	sum          uint32
}

// Prepared are new files that are ready, as recovery found them.
type Prepared struct {
	Compaction volume.Compaction
	Length     int64 // of the new .dat
	Checksum   uint32
}

// BuildCompaction asks to build new files aside, while all else goes on, and to
// call Built with the same Build.
type BuildCompaction struct {
	Build      uint64
	Compaction volume.Compaction
}

// FinishCompaction asks to copy the rest up to End into the new files, to make
// them durably ready, and to call Finished. The log stays as it is meanwhile.
type FinishCompaction struct {
	Build uint64
	End   int64
}

// DropCompaction asks to stop building, if that is under way, to remove the new
// files, and to call Dropped.
type DropCompaction struct{}

// SwitchGeneration asks to put the new files in the place of the old ones, with
// Start in their list of epochs, durably, and to call Switched; if that fails, Fail.
type SwitchGeneration struct{ Start volume.EpochStart }

// PauseWrites asks to call Paused from where the log is changed, so that no
// append is under way then.
type PauseWrites struct{ Number uint64 }

// Speak says that Control or Answers has something to send.
type Speak struct{}

// CompactionEnded tells what became of an attempt of this primary: Err is nil
// when the volume has gone on to the next generation.
type CompactionEnded struct {
	Compaction volume.Compaction
	Err        error
}

func (BuildCompaction) effect()  {}
func (FinishCompaction) effect() {}
func (DropCompaction) effect()   {}
func (SwitchGeneration) effect() {}
func (PauseWrites) effect()      {}
func (Speak) effect()            {}
func (CompactionEnded) effect()  {}

// Compact begins a compaction of what is committed now, with that clock. An error
// says why it cannot be begun now; nothing has happened then.
func (c *Core) Compact(clock time.Time) error {
	if err := c.compactable(); err != nil {
		return fmt.Errorf("compact volume %d: %w", c.id, err)
	}
	c.attempts++
	a := &attempt{number: c.attempts, parts: map[volume.Holder]*part{},
		what: volume.Compaction{Epoch: c.led, Generation: c.Generation() + 1, At: c.committed, Clock: clock}}
	for _, h := range c.counted() {
		a.parts[h] = &part{stream: c.peers[h].stream}
	}
	c.attempt, c.aborted = a, nil
	c.work.next = &job{number: a.number, what: a.what}
	c.emit(Speak{})
	c.settle()
	return nil
}

func (c *Core) compactable() error {
	unavailable := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{volume.ErrUnavailable}, args...)...)
	}
	if err := c.Writable(); err != nil {
		return err
	}
	switch {
	case c.attempt != nil || c.work.phase != idle:
		return unavailable("a compaction is under way, or being cleared away")
	case c.committed < c.Base():
		return unavailable("not all of earlier epochs is committed yet")
	}
	for _, h := range c.counted() {
		if p := c.peers[h]; p == nil || !p.attached || p.suspect || p.refused != "" {
			return unavailable("copy %s on node %s does not follow", h.Copy, h.Node)
		}
	}
	return c.settled()
}

// settled says why the sets of copies are not at rest: a copy of the old
// generation would be left over.
func (c *Core) settled() error {
	if len(c.entry.Joining) > 0 || slices.ContainsFunc(c.counted(), c.adding) {
		return fmt.Errorf("%w: a copy is joining", volume.ErrUnavailable)
	}
	if c.yield {
		return fmt.Errorf("%w: another copy is about to lead", volume.ErrUnavailable)
	}
	return nil
}

// Paused says that no append is under way, and none will begin while Writable
// says no.
func (c *Core) Paused(number uint64) {
	if a := c.attempt; a != nil && a.number == number && a.step == pausing {
		a.step = draining
	}
	c.settle()
}

// AbortCompaction gives up the attempt under way, if it is not too late: once
// the leader was asked, a timeout is not an outcome.
func (c *Core) AbortCompaction(why error) {
	c.abort(why)
	c.settle()
}

func (c *Core) abort(why error) {
	a := c.attempt
	if a == nil || a.step == asking {
		return
	}
	c.attempt, c.aborted = nil, why
	for h, part := range a.parts {
		if p := c.peers[h]; p != nil && part.told && p.stream == part.stream {
			p.abort = a.number
		}
	}
	c.emit(Speak{})
	c.emit(CompactionEnded{Compaction: a.what, Err: why})
}

// decided ends the attempt because e, of a newer epoch, is the decision.
func (c *Core) decided(e volume.Entry) {
	a := c.attempt
	if a == nil {
		return
	}
	c.attempt = nil
	if e.Generation < a.what.Generation {
		c.aborted = fmt.Errorf("%w: volume %d: epoch %d came with the old files", volume.ErrStale, c.id, e.Epoch)
	}
	c.emit(CompactionEnded{Compaction: a.what, Err: c.aborted})
}

// paused reports whether a compaction holds up what would change the log.
func (c *Core) paused() bool {
	return c.work.phase == finishing || c.attempt != nil && c.attempt.step >= draining
}

// advance takes the attempt as far as it goes.
func (c *Core) advance() {
	a := c.attempt
	if a == nil || a.step == asking {
		return
	}
	if err := c.hindered(a); err != nil {
		c.abort(err)
		return
	}
	all := func(ok func(*part) bool) bool {
		for _, p := range a.parts {
			if !ok(p) {
				return false
			}
		}
		return c.work.job.number == a.number
	}
	switch a.step {
	case copiesBuild:
		if c.work.phase == built && all(func(p *part) bool { return p.built }) {
			a.step = pausing
			c.emit(PauseWrites{a.number})
		}
	case draining:
		if c.committed == c.end && c.durable == c.end {
			a.step, a.end = copiesFinish, c.end
			c.finish(c.end)
			c.emit(Speak{})
		}
	case copiesFinish:
		if c.work.phase != ready || !all(func(p *part) bool { return p.ready }) {
			return
		}
		for h, p := range a.parts {
			if p.length != c.work.length || p.sum != c.work.sum {
				c.abort(fmt.Errorf("%w: volume %d: the new files of copy %s on node %s are not those of the primary", volume.ErrCorrupt, c.id, h.Copy, h.Node))
				return
			}
		}
		a.step = asking
	}
}

// hindered says why an attempt cannot go on.
func (c *Core) hindered(a *attempt) error {
	switch {
	case c.failed != nil:
		return c.failed
	case !c.Leading() || c.entry.Epoch != a.what.Epoch:
		return fmt.Errorf("%w: epoch %d has passed", volume.ErrStale, a.what.Epoch)
	case c.entry.State != volume.StateOpen && c.entry.State != volume.StateFull && c.entry.State != volume.StateNoRoom:
		return fmt.Errorf("%w: the volume is %s", volume.ErrReadOnly, c.entry.State)
	}
	for h, part := range a.parts {
		if p := c.peers[h]; p == nil || !p.attached || p.stream != part.stream || p.suspect || p.refused != "" {
			return fmt.Errorf("%w: copy %s on node %s stopped following", volume.ErrUnavailable, h.Copy, h.Node)
		}
	}
	return c.settled()
}

// Control gives the next message about a compaction for a copy that follows.
func (c *Core) Control(to volume.Holder) (Message, bool) {
	p := c.peers[to]
	if p == nil || !p.attached || !c.Leading() {
		return Message{}, false
	}
	if p.abort != 0 {
		m := Message{Kind: KindAbortCompaction, Stream: p.stream, Attempt: p.abort}
		p.abort = 0
		return m, true
	}
	a := c.attempt
	if a == nil || a.step == asking || a.parts[to] == nil || a.parts[to].stream != p.stream {
		return Message{}, false
	}
	switch part := a.parts[to]; {
	case !part.told:
		part.told = true
		return Message{Kind: KindCompact, Stream: p.stream, Attempt: a.number, Compaction: a.what, Committed: a.what.At}, true
	case a.step == copiesFinish && !part.finish:
		part.finish = true
		return Message{Kind: KindFinishCompaction, Stream: p.stream, Attempt: a.number, End: a.end}, true
	}
	return Message{}, false
}

// Answered takes what a copy that follows says about its new files.
func (c *Core) Answered(from volume.Holder, m Message) {
	a := c.attempt
	if c.current(from, m.Stream) == nil || a == nil || a.number != m.Attempt || a.parts[from] == nil {
		return
	}
	p := a.parts[from]
	switch m.Kind {
	case KindBuilt:
		p.built = true
	case KindReady:
		if a.step == copiesFinish {
			p.ready, p.length, p.sum = true, m.End, m.Checksum
		}
	case KindCompactionFailed:
		c.abort(fmt.Errorf("copy %s on node %s: %s", from.Copy, from.Node, m.Reason))
	}
	c.settle()
}

// OnCompaction takes what the primary followed says about a compaction. What
// there is to say to it comes by Answers.
func (c *Core) OnCompaction(m Message) {
	if c.follow.id == 0 || m.Stream != c.follow.id {
		return
	}
	switch m.Kind {
	case KindCompact:
		c.onCompact(m)
	case KindFinishCompaction:
		c.onFinish(m)
	case KindAbortCompaction:
		c.onAbort(m)
	}
	c.settle()
}

func (c *Core) onCompact(m Message) {
	w := &c.work
	if m.Compaction.Epoch != c.follow.epoch || w.epoch == m.Compaction.Epoch && m.Attempt <= w.newest {
		return
	}
	w.epoch, w.newest = m.Compaction.Epoch, m.Attempt
	next := job{number: m.Attempt, stream: m.Stream, what: m.Compaction}
	c.commit(min(m.Committed, c.durable))
	if c.committed < m.Compaction.At || m.Compaction.Generation != c.Generation()+1 {
		c.answer(next, Message{Kind: KindCompactionFailed, Reason: fmt.Sprintf("it has committed %d bytes of generation %d", c.committed, c.Generation())})
		return
	}
	w.next = &next
	w.doomed = w.phase == finishing
	if w.phase == building || w.phase == built || w.phase == ready {
		c.drop() // of an earlier attempt, which the primary has given up
	}
}

func (c *Core) onFinish(m Message) {
	w := &c.work
	if w.phase != built || w.job.number != m.Attempt || w.job.stream != m.Stream {
		return
	}
	if c.busy() || c.end != m.End || c.durable != m.End {
		c.answer(w.job, Message{Kind: KindCompactionFailed, Reason: fmt.Sprintf("it ends at %d and not at %d", c.end, m.End)})
		c.drop()
		return
	}
	c.commit(m.End)
	c.finish(m.End)
}

func (c *Core) onAbort(m Message) {
	w := &c.work
	if w.next != nil && w.next.number == m.Attempt {
		w.next = nil
	}
	if w.job.number != m.Attempt || w.job.stream != m.Stream {
		return
	}
	switch w.phase {
	case building, built, ready:
		c.drop()
	case finishing:
		w.doomed = true
	}
}

func (c *Core) finish(end int64) {
	c.work.phase = finishing
	c.emit(FinishCompaction{c.work.build, end})
}

func (c *Core) drop() {
	c.work.phase = dropping
	c.emit(DropCompaction{})
}

// answer says something to the primary that told this copy of j.
func (c *Core) answer(j job, m Message) {
	if j.stream != 0 {
		m.Stream, m.Attempt = j.stream, j.number
		c.answers = append(c.answers, m)
		c.emit(Speak{})
	}
}

// Answers gives what is to be said to the primary followed, and forgets it.
func (c *Core) Answers() []Message {
	out := slices.DeleteFunc(c.answers, func(m Message) bool { return m.Stream != c.follow.id })
	c.answers = nil
	return out
}

// Built says that BuildCompaction is done, or why it cannot be.
func (c *Core) Built(build uint64, err error) {
	w := &c.work
	if w.phase != building || w.build != build {
		return
	}
	w.phase = built
	if err == nil {
		c.answer(w.job, Message{Kind: KindBuilt})
	} else {
		c.unbuilt(err)
	}
	c.settle()
}

// unbuilt gives the new files up because of err.
func (c *Core) unbuilt(err error) {
	c.answer(c.work.job, Message{Kind: KindCompactionFailed, Reason: err.Error()})
	if a := c.attempt; a != nil && a.number == c.work.job.number && c.work.job.stream == 0 {
		c.abort(err)
	}
	c.drop()
}

// Finished says that FinishCompaction is done: the new files are durable, and so
// is the mark that they are ready. length and sum are of the new .dat.
func (c *Core) Finished(build uint64, length int64, sum uint32, err error) {
	w := &c.work
	if w.phase != finishing || w.build != build {
		return
	}
	w.phase, w.length, w.sum = ready, length, sum
	switch {
	case err != nil:
		c.unbuilt(err)
	case w.doomed:
		c.drop()
	default:
		c.answer(w.job, Message{Kind: KindReady, End: length, Checksum: sum})
	}
	w.doomed = false
	c.settle()
}

// Dropped says that DropCompaction is done.
func (c *Core) Dropped() {
	if c.work.phase == dropping {
		c.work.phase = idle
	}
	c.settle()
}

// Switched says that SwitchGeneration is done: this copy consists of the new
// files now, which are committed to their end, and this is their list of epochs.
func (c *Core) Switched(epochs []volume.EpochStart, end int64) {
	if c.work.phase != switching {
		return
	}
	c.work.phase = idle
	c.epochs = slices.Clone(epochs)
	c.end, c.durable, c.committed = end, end, end
	c.entered(newest(epochs))
	c.settle()
}

// outcome does with the new files what the newest entry calls for.
func (c *Core) outcome() {
	switch w := &c.work; w.phase {
	case idle:
		if next := w.next; next != nil {
			w.next = nil
			if c.engaged(*next) {
				w.phase, w.job, w.doomed = building, *next, false
				w.build++
				c.emit(BuildCompaction{w.build, next.what})
			}
		}
	case building, built:
		if !c.engaged(w.job) {
			c.drop()
		}
	case ready:
		switch {
		case c.failed != nil:
		case c.entry.Epoch <= w.job.what.Epoch:
			if w.job.stream == 0 && c.Leading() && !c.engaged(w.job) {
				c.drop() // this very run gave the attempt up before it asked
			}
		case c.entry.Generation != w.job.what.Generation || c.entry.Compacted != w.job.what.Epoch+1 || c.Generation()+1 != c.entry.Generation:
			c.drop()
		case !c.busy():
			w.phase = switching
			c.emit(SwitchGeneration{volume.EpochStart{Epoch: c.entry.Compacted, Start: w.length, Generation: c.entry.Generation}})
		}
	}
	if c.outdated() && c.work.phase <= built && c.diverged == nil {
		c.diverged = fmt.Errorf("volume %d: copy %s has the files of generation %d, and none ready of generation %d", c.id, c.self.Copy, c.Generation(), c.entry.Generation)
	}
}

// engaged reports whether j is an attempt that still goes on, as far as this
// copy can see.
func (c *Core) engaged(j job) bool {
	switch {
	case c.failed != nil || c.entry.Epoch != j.what.Epoch:
		return false
	case j.stream != 0:
		return c.follow.id == j.stream
	}
	return c.attempt != nil && c.attempt.number == j.number
}

// outdated reports whether the files of this copy are of an earlier generation
// than the entry's: there was a compaction since the newest epoch that they know.
func (c *Core) outdated() bool {
	h, _, ok := c.entry.Holder(c.self.Node)
	return ok && h == c.self && len(c.epochs) > 0 && c.entry.Compacted > newest(c.epochs)
}

// Compacting says how far a compaction is that this copy leads, "" for none, and
// why the last one that it began came to nothing.
func (c *Core) Compacting() (doing string, last error) {
	a := c.attempt
	if a == nil {
		return "", c.aborted
	}
	switch a.step {
	case copiesBuild:
		n := 0
		for _, p := range a.parts {
			if p.built {
				n++
			}
		}
		if c.work.phase == built {
			n++
		}
		return fmt.Sprintf("building new files, %d of %d copies have them", n, len(a.parts)+1), nil
	case asking:
		return "asking the masters to take the new files", nil
	}
	return "bringing the new files to the end; writes wait", nil
}
