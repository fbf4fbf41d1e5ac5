package simulation

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"weedd/volume"
	"weedd/volume/replica"
)

// How long the runtime of a copy waits, a fifth of what a real one does.
const (
	helloAgain = 60 * ms
	suspectAt  = 150 * ms
	heartbeat  = 200 * ms // of an idle stream, which shows that it broke
	askAgain   = 100 * ms
	giveUp     = 1500 * ms // a client's deadline
)

// node is a volume server: its disks, and while it runs its copies.
type node struct {
	w     *world
	id    volume.NodeID
	up    bool
	lives int           // runs of the process so far
	froze time.Duration // until when it does nothing
	disks map[volume.ID]*disk
	// made is every copy id that this node ever made, with the version of the
	// entry that told it to. It is kept beside the node's id, not on the disks
	// with the volumes, and is durable before the files are made (rule R6).
	made    map[volume.CopyID]uint64
	running map[volume.ID]*run
	master  *master // whose catalog it watches

	remakes bool // a test takes rule R6 out: missing copies are made anew
}

// after does something on this node, unless it dies first. A frozen node does
// it when it thaws.
func (n *node) after(d time.Duration, do func()) {
	life := n.lives
	var fire func()
	fire = func() {
		switch {
		case !n.up || n.lives != life:
		case n.froze > n.w.now:
			n.w.after(n.froze-n.w.now+n.w.between(0, ms), fire)
		default:
			do()
		}
	}
	n.w.after(d, fire)
}

func (n *node) every(d time.Duration, do func()) {
	n.after(n.w.between(d/2, d), func() {
		do()
		n.every(d, do)
	})
}

// start runs the process: it opens what is on disk, and knows nothing else.
func (n *node) start() {
	n.up = true
	n.lives++
	n.running = map[volume.ID]*run{}
	n.master = n.w.masters[n.w.rng.IntN(len(n.w.masters))]
	for _, id := range slices.Sorted(maps.Keys(n.disks)) {
		n.open(id)
	}
	n.w.trace("%s starts", n.id)
	n.every(20*ms, n.tick)
	n.every(30*ms, n.beat)
	n.every(40*ms, n.watch)
}

// crash kills the process, and with it whatever its disks had not synced.
func (n *node) crash() {
	n.w.trace("%s dies", n.id)
	n.up = false
	n.running = map[volume.ID]*run{}
	for _, id := range slices.Sorted(maps.Keys(n.disks)) {
		n.disks[id].crash(n.w.rng)
	}
}

func (n *node) open(id volume.ID) *run {
	d := n.disks[id]
	r := &run{node: n, id: id, disk: d, self: volume.Holder{Node: n.id, Copy: d.copy}, links: map[volume.Holder]*session{}, asking: map[volume.AskKind]bool{}}
	st := replica.CoreState{Epochs: slices.Clone(d.epochs), End: d.end(), Durable: int64(d.synced), Committed: d.committed}
	if p := d.prepared; p != nil {
		sum := checksumOf(p.data)
		st.Prepared = &replica.Prepared{Compaction: p.what, Length: int64(len(p.data)), Checksum: sum}
	}
	r.core = replica.NewCore(r.self, id, st)
	if d.failed {
		r.core.Fail(errFsync)
	}
	n.running[id] = r
	return r
}

var errFsync = errors.New("fsync failed")

// watch learns from the catalog of the node's master, however old that is.
func (n *node) watch() {
	if n.w.cut[link{n.id, "masters"}] {
		return
	}
	if n.w.lag > 0 && n.w.chance(0.05) {
		n.master = n.w.masters[n.w.rng.IntN(len(n.w.masters))]
	}
	for _, e := range n.w.history[n.master.applied].Volumes() {
		n.obey(*e)
	}
}

// obey takes an entry that is committed, though perhaps not the newest: it makes
// the copy that the entry wants here, if it may, and tells the copy that is here.
func (n *node) obey(e volume.Entry) {
	h, inSync, named := e.Holder(n.id)
	r := n.running[e.Volume]
	if named && (r == nil || r.self != h) && n.mayMake(e, h, inSync, r) {
		n.made[h.Copy] = e.Version
		n.w.trace("%s makes copy %d of v%d", n.id, h.Copy, e.Volume)
		if r != nil {
			r.over = true
		}
		n.disks[e.Volume] = newDisk(h.Copy)
		r = n.open(e.Volume)
	}
	if r != nil {
		r.learn(e)
	}
}

// mayMake is rule R6: files are made only for a new volume or a joining copy, and
// only once for each copy id. A copy that is here gives way only to one that an
// entry newer than its own making names.
func (n *node) mayMake(e volume.Entry, h volume.Holder, inSync bool, there *run) bool {
	if n.remakes && there == nil {
		return true
	}
	_, before := n.made[h.Copy]
	switch {
	case before, inSync && e.State != volume.StateNew:
		return false
	case there != nil:
		return e.Version > n.made[there.self.Copy] && e.Version >= there.core.Entry().Version && e.Epoch >= there.core.Epoch()
	}
	return true
}

// beat reports to the leader, which answers with orders.
func (n *node) beat() {
	rep := report{life: n.lives, made: maps.Clone(n.made)}
	for _, id := range slices.Sorted(maps.Keys(n.running)) {
		r := n.running[id]
		rep.copies = append(rep.copies, volume.CopyReport{Volume: id, Copy: r.self.Copy, State: copyState(r.core), Epoch: r.core.Epoch()})
	}
	n.w.carry(n.id, "", func() { n.w.lead.hear(n, rep) })
}

func copyState(c *replica.Core) volume.CopyState {
	if c.Failure() != nil {
		return volume.CopyFailed
	}
	return volume.CopyHealthy
}

func (n *node) tick() {
	for _, id := range slices.Sorted(maps.Keys(n.running)) {
		if r := n.running[id]; r != nil {
			r.tick()
		}
	}
}

// send brings a message to the copy of the same volume on another node.
func (n *node) send(to volume.NodeID, id volume.ID, from volume.Holder, m replica.Message) {
	header, payload := m.Frame()
	frame := slices.Concat(header, payload)
	n.w.carry(n.id, to, func() {
		var got replica.Message
		if err := got.Unframe(slices.Clone(frame)); err != nil {
			n.w.fail("unframe a %s: %v", m.Kind, err)
			return
		}
		there := n.w.node(to)
		there.after(0, func() {
			if r := there.running[id]; r != nil {
				r.receive(from, got)
			}
		})
	})
}

// run is one copy while its process lives: what the runtime in package replica
// is to a real one.
type run struct {
	node *node
	id   volume.ID
	self volume.Holder
	disk *disk
	core *replica.Core
	over bool // another copy has taken its place

	known   volume.Holder // as whom the primary followed knows this copy: a link is all it sees
	follows volume.NodeID // the primary followed

	building  uint64        // which of its builds is under way; 0 for none
	compacted time.Duration // since when a compaction is led

	jobs    []job // changes of the log, one at a time
	working bool
	links   map[volume.Holder]*session
	asking  map[volume.AskKind]bool
	retried time.Duration
	writes  []*op // appended, waiting for the commit
	reads   []*read
}

// job is one change of the log, in steps between which the process may die. A
// step that returns false ends it.
type job []func() bool

// session is the primary's side of a stream.
type session struct {
	stream         uint64
	attached       bool
	next           int64
	sent, acked    uint64
	told           int64
	helloed, heard time.Duration
}

func (r *run) trace(format string, args ...any) {
	r.node.w.trace("%s%d v%d "+format, append([]any{r.node.id, uint64(r.self.Copy), r.id}, args...)...)
}

func (r *run) enqueue(j job) {
	r.jobs = append(r.jobs, j)
	r.work()
}

func (r *run) work() {
	if r.working || len(r.jobs) == 0 {
		return
	}
	r.working = true
	r.node.after(r.node.w.between(0, ms), func() {
		if r.over {
			return
		}
		r.working = false
		j := r.jobs[0]
		if goOn := j[0](); goOn && len(j) > 1 {
			r.jobs[0] = j[1:]
		} else {
			r.jobs = r.jobs[1:]
		}
		r.effects()
		r.work()
	})
}

// fsync syncs what the log holds now. When it fails, the copy has failed, and
// the operating system will say that all is well from then on (rule R5).
func (r *run) fsync() bool {
	if r.disk.failed {
		return false
	}
	w := r.node.w
	if w.client.failNext[r.node.id] {
		delete(w.client.failNext, r.node.id)
		r.disk.failed = true
		r.trace("fsync FAILS at %d of %d", r.disk.synced, r.disk.end())
		r.core.Fail(errFsync)
		r.core.Synced(r.disk.end()) // a second try succeeds and has written nothing
		r.core.Followed(r.disk.end(), r.disk.end(), 0)
		return false
	}
	r.disk.sync(len(r.disk.data))
	return true
}

func (r *run) learn(e volume.Entry) {
	r.core.Learn(e)
	r.effects()
}

func (r *run) effects() {
	for _, e := range r.core.Effects() {
		switch e := e.(type) {
		case replica.EnterEpoch:
			r.enqueue(r.enter(e))
		case replica.AskLeader:
			r.ask(e.Ask)
		case replica.CommitAdvanced:
			if r.node.w.chance(0.1) {
				r.disk.committed = min(e.Committed, int64(r.disk.synced)) // a checkpoint
			}
		case replica.Depose:
			r.trace("deposed with %d writes open", len(r.writes))
			r.writes, r.reads = nil, nil
		case replica.Reattach:
			delete(r.links, e.Peer)
		case replica.Unfollow, replica.Speak:
		case replica.BuildCompaction, replica.FinishCompaction, replica.DropCompaction, replica.SwitchGeneration, replica.PauseWrites, replica.CompactionEnded:
			r.compaction(e)
		default:
			r.node.w.fail("effect %T", e)
		}
	}
	r.wake()
	r.pump()
	for _, m := range r.core.Answers() {
		r.node.send(r.follows, r.id, r.known, m)
	}
}

func (r *run) enter(e replica.EnterEpoch) job {
	return job{
		r.fsync,
		func() bool {
			if r.disk.failed {
				return false
			}
			r.disk.setEpochs(append(slices.Clip(r.disk.epochs), volume.EpochStart(e)))
			return true
		},
		func() bool {
			r.disk.syncEpochs()
			r.trace("enters epoch %d at %d", e.Epoch, e.Start)
			r.core.Synced(int64(r.disk.synced))
			r.core.Entered(e.Epoch)
			return true
		},
	}
}

func (r *run) ask(a volume.Ask) {
	if r.asking[a.Kind] {
		return
	}
	r.asking[a.Kind] = true
	r.trace("asks to %s %v at epoch %d", a.Kind, a.Copies, a.Epoch)
	w, n := r.node.w, r.node
	n.after(askAgain, func() { delete(r.asking, a.Kind) }) // the outcome stays open
	w.carry(n.id, "", func() {
		w.lead.answer(a, func(e volume.Entry) {
			w.carry("", n.id, func() {
				n.after(0, func() {
					if n.running[r.id] == r {
						r.learn(e)
					}
				})
			})
		})
	})
}

// pump sends what there is to send to the copies that follow.
func (r *run) pump() {
	peers := r.core.Peers()
	for h := range r.links {
		if !slices.Contains(peers, h) {
			delete(r.links, h)
		}
	}
	for _, h := range peers {
		s := r.links[h]
		if s == nil {
			r.hello(h)
			continue
		}
		if !s.attached {
			continue
		}
		for s.next < r.disk.end() {
			r.batch(h, s, r.disk.data[s.next:min(s.next+6*recordSize, r.disk.end())])
		}
		if r.core.BarrierSeq() > s.sent {
			r.batch(h, s, nil)
		}
		for m, ok := r.core.Control(h); ok; m, ok = r.core.Control(h) {
			r.node.send(h.Node, r.id, r.self, m)
		}
	}
}

func (r *run) hello(to volume.Holder) {
	w := r.node.w
	w.streams++
	m, ok := r.core.Hello(to, w.streams)
	if !ok {
		return
	}
	heard := w.now
	if old := r.links[to]; old != nil {
		heard = old.heard
	}
	r.links[to] = &session{stream: w.streams, helloed: w.now, heard: heard}
	r.node.send(to.Node, r.id, r.self, m)
}

func (r *run) batch(to volume.Holder, s *session, b []byte) {
	s.sent, s.told = r.core.NextSeq(), r.core.Committed()
	m := replica.Message{Kind: replica.KindBatch, Stream: s.stream, Seq: s.sent, Offset: s.next, Bytes: slices.Clone(b), Committed: s.told}
	s.next += int64(len(b))
	r.node.send(to.Node, r.id, r.self, m)
}

func (r *run) receive(from volume.Holder, m replica.Message) {
	switch m.Kind {
	case replica.KindHello:
		r.enqueue(r.adopt(from, m))
	case replica.KindBatch:
		r.enqueue(r.follow(from, m))
	case replica.KindCompact, replica.KindFinishCompaction, replica.KindAbortCompaction:
		r.core.OnCompaction(m)
		r.effects()
	default:
		r.answer(from, m)
		r.effects()
	}
}

// answer takes what a follower says.
func (r *run) answer(from volume.Holder, m replica.Message) {
	s := r.links[from]
	if s != nil && s.stream == m.Stream {
		s.heard = r.node.w.now
	}
	switch m.Kind {
	case replica.KindWelcome:
		sum, _ := checksum(r.disk, m.End)
		r.core.Welcomed(from, m, sum == m.Checksum)
		if s != nil && s.stream == m.Stream && !s.attached && sum == m.Checksum && r.core.Leading() {
			s.attached, s.next = true, m.End
		}
	case replica.KindRefusal:
		r.trace("is refused by %s%d: %s %s", from.Node, uint64(from.Copy), m.Code, m.Reason)
		r.core.Refused(from, m)
		if s != nil && s.stream == m.Stream {
			s.attached, s.stream = false, 0 // it has ended; the next hello is due in a while
		}
	case replica.KindAck:
		r.core.Acked(from, m)
		if s != nil && s.stream == m.Stream {
			s.acked = max(s.acked, m.Seq)
		}
	case replica.KindBuilt, replica.KindReady, replica.KindCompactionFailed:
		r.core.Answered(from, m)
	}
}

// checksum stands for a CRC of the first end bytes.
func checksum(d *disk, end int64) (uint32, bool) {
	if end > d.end() {
		return 0, false
	}
	return checksumOf(d.data[:end]), true
}

func checksumOf(data []byte) uint32 {
	sum := uint32(1)
	for _, b := range data {
		sum = sum*31 + uint32(b)
	}
	return sum
}

// adopt is a follower's way into a stream, step by step.
func (r *run) adopt(from volume.Holder, m replica.Message) job {
	var plan replica.Adopt
	return job{
		func() bool {
			var refusal *replica.Message
			if plan, refusal = r.core.OnHello(m); refusal != nil {
				r.node.send(from.Node, r.id, m.To, *refusal)
				return false
			}
			if plan.Cut >= 0 {
				r.trace("cuts %d to %d to follow %s in epoch %d", r.disk.end(), plan.Cut, from.Node, m.Entry.Epoch)
				r.disk.cut(plan.Cut)
			}
			return true
		},
		r.fsync,
		func() bool { r.disk.setEpochs(plan.Epochs); return !r.disk.failed },
		func() bool {
			r.disk.syncEpochs()
			r.core.Adopted(plan.Stream, r.disk.end())
			r.known, r.follows = m.To, from.Node
			sum, _ := checksum(r.disk, r.disk.end())
			r.node.send(from.Node, r.id, m.To, replica.Message{Kind: replica.KindWelcome, Stream: plan.Stream, End: r.disk.end(), Checksum: sum})
			return true
		},
	}
}

// follow appends one batch.
func (r *run) follow(from volume.Holder, m replica.Message) job {
	return job{
		func() bool {
			if err := r.core.OnBatch(m); err != nil {
				if m.Offset > r.disk.end() {
					r.core.Unfollowed(m.Stream) // one before it was lost: the link is of no more use
				}
				return false
			}
			r.disk.append(m.Bytes)
			return true
		},
		func() bool {
			if len(m.Bytes) > 0 && !r.fsync() {
				return false
			}
			following, ok := r.core.Following()
			r.core.Followed(r.disk.end(), int64(r.disk.synced), m.Committed)
			if ok && following == m.Stream {
				r.node.send(from.Node, r.id, r.known, replica.Message{Kind: replica.KindAck, Stream: m.Stream, Seq: m.Seq, Durable: int64(r.disk.synced)})
			}
			return true
		},
	}
}

// tick is what the runtime's timers do.
func (r *run) tick() {
	w := r.node.w
	r.expire()
	r.limitCompaction()
	for _, h := range r.core.Peers() {
		s := r.links[h]
		if s == nil {
			continue
		}
		quiet := !s.attached || s.sent > s.acked
		switch {
		case quiet && w.now-max(s.heard, s.helloed) > helloAgain:
			r.core.Detached(h, s.stream)
			r.hello(h)
		case s.attached && (s.told < r.core.Committed() || w.now-s.heard > heartbeat):
			r.batch(h, s, nil)
		}
		if since, ok := r.waitsSince(); ok && quiet && w.now-max(s.heard, since) > suspectAt {
			r.core.Suspect(h)
		}
	}
	if w.now-r.retried > askAgain {
		r.retried = w.now
		r.core.Retry()
	}
	r.effects()
}

func (r *run) waitsSince() (time.Duration, bool) {
	since, ok := time.Duration(0), false
	for _, o := range r.writes {
		if !ok || o.began < since {
			since, ok = o.began, true
		}
	}
	for _, q := range r.reads {
		if !ok || q.began < since {
			since, ok = q.began, true
		}
	}
	return since, ok
}

func (r *run) String() string {
	st := r.core.Status()
	return fmt.Sprintf("%s%d v%d end %d durable %d committed %d epochs %v leading %v following %v peers %+v entry %s",
		r.node.id, uint64(r.self.Copy), r.id, st.End, st.Durable, st.Committed, r.core.Epochs(), st.Leading, st.Following, st.Peers, show(st.Entry))
}
