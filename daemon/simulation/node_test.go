package simulation

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"weedd/volume"
	"weedd/volume/replica"
	"weedd/volume/store"
	"weedd/volume/vfs/faultfs"
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
	w       *world
	id      volume.NodeID
	up      bool
	leaving bool // it has said so

	lives  int           // runs of the process so far
	froze  time.Duration // until when it does nothing
	disks  map[volume.ID]*disk
	home   *faultfs.FS // its data directory, which a replaced disk leaves alone
	ledger *store.Ledger

	dieIn    int                         // operations on its file systems until it dies, 0 for never
	dying    bool                        // it died within an event: nothing of it gets out any more
	failures int                         // of fsyncs
	failOnly string                      // how the path ends of a file whose fsync may fail
	mishap   time.Duration               // when its disk was replaced or failed last
	gave     map[volume.ID]time.Duration // when a copy was last taken from it by order

	running  map[volume.ID]*run
	adopting map[volume.ID]*adoption         // ordered and not carried out
	lost     map[volume.ID]volume.CopyReport // copies that entries name and that are not here
	master   *master                         // whose catalog it watches
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

func (w *world) newNode(id volume.NodeID) *node {
	n := &node{w: w, id: id, disks: map[volume.ID]*disk{}, home: faultfs.New(w.rng.Uint64()), gave: map[volume.ID]time.Duration{}}
	n.home.SetNow(n.now)
	n.openLedger()
	n.start()
	return n
}

func (n *node) openLedger() {
	n.home.SetFault(n.fault)
	l, err := store.OpenLedger(n.home, "/copies")
	if err != nil && !n.dying {
		n.w.fail("node %s: %v", n.id, err)
	}
	n.ledger = l
}

// start runs the process: it knows what is on disk, and nothing else. That was
// opened when the run before it died.
func (n *node) start() {
	n.up, n.leaving = true, false
	n.lives++
	n.running, n.lost, n.adopting = map[volume.ID]*run{}, map[volume.ID]volume.CopyReport{}, map[volume.ID]*adoption{}
	n.master = n.w.masters[n.w.rng.IntN(len(n.w.masters))]
	for _, id := range slices.Sorted(maps.Keys(n.disks)) {
		if v := n.disks[id].volume(); v != nil && !v.Foreign() {
			n.run(v)
		}
	}
	n.w.trace("%s starts", n.id)
	n.every(20*ms, n.tick)
	n.every(30*ms, n.beat)
	n.every(40*ms, n.watch)
}

// sayGoodbye has all copies say that they are about to be stopped.
func (n *node) sayGoodbye() {
	n.w.trace("%s is about to leave", n.id)
	n.leaving = true
	for _, id := range slices.Sorted(maps.Keys(n.running)) {
		r := n.running[id]
		if stream, ok := r.core.Following(); ok {
			n.send(r.follows, id, r.known, replica.Message{Kind: replica.KindLeaving, Stream: stream})
		}
	}
}

// crash kills the process, and perhaps the machine, and with that whatever its
// disks had not synced. What is left is opened at once, for others to look at;
// that may be cut short as well, and done again.
func (n *node) crash() { n.die(n.w.chance(0.6), func() uint64 { return 1 + n.w.rng.Uint64N(1<<60) }) }

// powerCut crashes the machine; nothing is left that was not synced.
func (n *node) powerCut() { n.die(true, func() uint64 { return 0 }) }

func (n *node) die(power bool, seed func() uint64) {
	n.up = false
	n.running = map[volume.ID]*run{}
	restarted := func(fs *faultfs.FS) *faultfs.FS {
		if power {
			return fs.Crash(seed())
		}
		return fs.Kill()
	}
	n.w.trace("%s dies, power cut: %v", n.id, power)
	n.dieIn = 0
	if n.w.chance(0.2) {
		n.dieSoon(40)
	}
	for again := true; again; again, n.dieIn = n.dying, 0 {
		n.dying = false
		n.home = restarted(n.home)
		n.openLedger()
		if n.w.fsync > 0 && n.w.chance(0.05) {
			n.w.failFsync(n) // of what recovery found
		}
		for _, id := range slices.Sorted(maps.Keys(n.disks)) {
			if d := n.disks[id]; !n.dying {
				d.fs = restarted(d.fs)
				d.open()
			}
		}
	}
}

// dieSoon lets the process die within some operation on its disks.
func (n *node) dieSoon(operations int) { n.dieIn = 1 + n.w.rng.IntN(operations) }

// buried crashes the nodes that died within the last event.
func (w *world) buried() {
	for _, n := range w.nodes {
		if n.dying {
			n.crash()
			w.after(w.between(10*ms, 600*ms), n.revive)
		}
	}
}

func (n *node) run(v *store.Volume) *run {
	id := v.ID()
	r := &run{node: n, id: id, disk: n.disks[id], log: v, self: volume.Holder{Node: n.id, Copy: v.CopyID()}, links: map[volume.Holder]*session{}, asking: map[question]bool{}}
	r.core = replica.Recover(r.self, id, v)
	n.running[id] = r
	return r
}

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

// obey takes an entry that is committed, though perhaps not the newest, as
// package server does: it makes the copy that the entry wants here, if it may, and
// tells the copy that is here.
func (n *node) obey(e volume.Entry) {
	h, inSync, named := e.Holder(n.id)
	switch d := n.disks[e.Volume]; {
	case named && inSync && e.State == volume.StateNew && e.Adopted() && !d.holds(h.Copy):
		n.adoptLater(e, h)
	case named && !d.holds(h.Copy):
		n.missing(e, h, inSync)
	default:
		if a := n.adopting[e.Volume]; a == nil || a.entry.Version <= e.Version {
			delete(n.lost, e.Volume)
		}
		n.learn(e)
	}
}

func (n *node) learn(e volume.Entry) {
	if r := n.running[e.Volume]; r != nil {
		r.learn(e)
	}
}

// missing is rule R6: files are made only for a new volume or a joining copy, and
// only once for each copy id. A copy that is here gives way only to one that an
// entry newer than its own making names.
func (n *node) missing(e volume.Entry, h volume.Holder, inSync bool) {
	made := n.ledger.Made(e.Volume, h.Copy)
	if was := n.lost[e.Volume]; was.Copy == h.Copy && (was.State == volume.CopyLost || made) {
		return
	}
	lose := func(s volume.CopyState) {
		n.lost[e.Volume] = volume.CopyReport{Volume: e.Volume, Copy: h.Copy, State: s}
	}
	v := n.disks[e.Volume].volume()
	_, blocked := n.foreign(e.Volume)
	switch {
	case inSync && e.State != volume.StateNew, made:
		lose(volume.CopyLost)
		n.learn(e)
		return
	case blocked && !n.madeFrom(e):
		lose(volume.CopyFailed)
		rep := n.lost[e.Volume]
		rep.Blocked = true
		n.lost[e.Volume] = rep
		return
	case v != nil && len(v.Epochs()) > 0 && v.Epochs()[len(v.Epochs())-1].Epoch > e.Epoch:
		return
	}
	switch fresh, err := n.make(e, h); {
	case n.dying, errors.Is(err, volume.ErrStale):
	case err != nil:
		n.w.trace("%s does not make copy %d of v%d: %v", n.id, h.Copy, e.Volume, err)
		lose(volume.CopyFailed)
	default:
		n.w.trace("%s makes copy %d of v%d", n.id, h.Copy, e.Volume)
		delete(n.lost, e.Volume)
		n.run(fresh).learn(e)
	}
}

// make makes the files of a copy, once it is in the ledger, and sets aside what is
// in their place.
func (n *node) make(e volume.Entry, h volume.Holder) (*store.Volume, error) {
	if err := n.ledger.Make(e.Volume, h.Copy, e.Version); err != nil {
		return nil, err
	}
	n.close(e.Volume)
	d := n.disks[e.Volume]
	if d == nil {
		d = n.newDisk(e.Volume)
		n.disks[e.Volume] = d
	}
	if d.store == nil {
		return nil, errFsync
	}
	ours, foreign := d.store.Here(e.Volume)
	if foreign {
		ours = append(ours, 0)
	}
	for _, old := range ours {
		n.gave[e.Volume] = n.w.now
		if err := d.store.SetAsideCopy(e.Volume, old, "replaced"); err != nil {
			return nil, err
		}
	}
	d.agreed, d.kept, d.spoiled, d.humble = 0, 0, false, false
	return d.store.Create(e.Volume, e.Spec, h.Copy)
}

// close ends what runs of a volume.
func (n *node) close(id volume.ID) {
	if r := n.running[id]; r != nil {
		r.over = true
		delete(n.running, id)
	}
}

// beat reports to the leader, which answers with orders.
func (n *node) beat() {
	rep := report{life: n.lives}
	for _, id := range slices.Sorted(maps.Keys(n.running)) {
		if _, lost := n.lost[id]; !lost {
			r := n.running[id]
			_, _, _, maxKey, size, _, revision := r.log.Stats()
			rep.copies = append(rep.copies, volume.CopyReport{Volume: id, Copy: r.self.Copy, State: copyState(r.core), Epoch: r.core.Epoch(), MaxKey: maxKey, Revision: revision,
				Generation: r.core.Generation(), Committed: r.core.Committed(), Size: size, ReadOnly: r.core.Entry().State == volume.StateReadOnly})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(n.disks)) {
		c, foreign := n.foreign(id)
		if _, lost := n.lost[id]; foreign && !lost {
			rep.copies = append(rep.copies, c)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(n.lost)) {
		rep.copies = append(rep.copies, n.lost[id])
	}
	n.carry("", func() { n.w.lead.hear(n, rep) })
}

// carry brings something from this node to a place, if it gets there.
func (n *node) carry(to volume.NodeID, arrive func()) {
	if !n.dying {
		n.w.carry(n.id, to, arrive)
	}
}

func copyState(c *replica.Core) volume.CopyState {
	if c.Failure() != nil {
		return volume.CopyFailed
	}
	return volume.CopyHealthy
}

func (n *node) tick() {
	n.adoptNext()
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
	n.carry(to, func() {
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
	log  *store.Volume
	core *replica.Core
	over bool // another copy has taken its place

	known   volume.Holder // as whom the primary followed knows this copy: a link is all it sees
	follows volume.NodeID // the primary followed

	building  uint64        // which of its builds is under way; 0 for none
	finishing bool          // new files are to be finished
	dropping  bool          // an order to drop it is being looked at
	compacted time.Duration // since when a compaction is led

	jobs    []job // changes of the log, one at a time
	working bool
	links   map[volume.Holder]*session
	asking  map[question]bool
	retried time.Duration
	writes  []*op // appended, waiting for the commit
	reads   []*read
}

// question is put to the leader once at a time.
type question struct {
	kind  volume.AskKind
	epoch volume.Epoch
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

// failed tells the core if the log takes no more writes, and reports whether err is
// one.
func (r *run) failed(err error) bool {
	if err != nil && r.log.Failed() != nil {
		r.trace("FAILS: %v", err)
		r.core.Fail(err)
	}
	return err != nil
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
			r.publish(e.Committed)
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

// publish shows records, and now and then notes how far that is.
func (r *run) publish(committed int64) {
	r.log.Publish(committed)
	switch p := r.node.w.rng.IntN(20); {
	case p == 0:
		r.failed(r.log.Checkpoint())
	case p < 4:
		r.failed(r.log.Flush())
	}
}

func (r *run) enter(e replica.EnterEpoch) job {
	return job{func() bool {
		durable, err := e.Apply(r.log)
		if r.failed(err) {
			return false
		}
		r.trace("enters epoch %d at %d", e.Epoch, e.Start)
		r.core.Synced(durable)
		r.core.Entered(e.Epoch)
		return true
	}}
}

func (r *run) ask(a volume.Ask) {
	q := question{a.Kind, a.Epoch}
	if r.asking[q] {
		return
	}
	r.asking[q] = true
	r.trace("asks to %s %v at epoch %d", a.Kind, a.Copies, a.Epoch)
	w, n := r.node.w, r.node
	n.after(askAgain, func() { delete(r.asking, q) }) // the outcome stays open
	n.carry("", func() {
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
		for end := r.log.End(); s.next < end; {
			seen, _ := r.disk.data()
			r.batch(h, s, front(seen[s.next:end], 6))
		}
		if r.core.BarrierSeq() > s.sent {
			r.batch(h, s, nil)
		}
		for m, ok := r.core.Control(h); ok; m, ok = r.core.Control(h) {
			r.node.send(h.Node, r.id, r.self, m)
		}
	}
}

// front is the first few records of a log.
func front(log []byte, few int) []byte {
	end := int64(0)
	for ; few > 0 && end < int64(len(log)); few-- {
		_, length := parse(log[end:])
		end += length
	}
	return log[:end]
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
		sum, err := r.log.Checksum(m.End)
		if err != nil {
			r.core.Detached(from, m.Stream) // it can vouch for nothing
			return
		}
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
	case replica.KindLeaving:
		r.core.Leaving(from, m)
	case replica.KindBuilt, replica.KindReady, replica.KindCompactionFailed:
		r.core.Answered(from, m)
	}
}

// adopt is a follower's way into a stream.
func (r *run) adopt(from volume.Holder, m replica.Message) job {
	var plan replica.Adopt
	var sum uint32
	return job{
		func() bool {
			var refusal *replica.Message
			if plan, refusal = r.core.OnHello(m); refusal != nil {
				r.node.send(from.Node, r.id, m.To, *refusal)
				return false
			}
			if plan.Cut >= 0 {
				r.trace("cuts %d to %d to follow %s in epoch %d", r.log.End(), plan.Cut, from.Node, m.Entry.Epoch)
			}
			return true
		},
		func() bool {
			var err error
			sum, _, err = plan.Apply(r.log)
			r.disk.shortened(r.log.End())
			return !r.failed(err)
		},
		func() bool {
			r.core.Adopted(plan.Stream, r.log.End())
			r.known, r.follows = m.To, from.Node
			r.node.send(from.Node, r.id, m.To, replica.Message{Kind: replica.KindWelcome, Stream: plan.Stream, End: r.log.End(), Checksum: sum, Leaving: r.node.leaving})
			return true
		},
	}
}

// follow appends one batch.
func (r *run) follow(from volume.Holder, m replica.Message) job {
	return job{
		func() bool {
			if err := r.core.OnBatch(m); err != nil {
				if m.Offset > r.log.End() {
					r.core.Unfollowed(m.Stream) // one before it was lost: the link is of no more use
				}
				return false
			}
			if len(m.Bytes) == 0 {
				return true
			}
			if err := r.log.Append(m.Bytes); !r.failed(err) {
				return true
			} else if r.log.Failed() == nil {
				r.node.w.fail("%s does not take a batch: %v", r, err)
			}
			return false
		},
		func() bool {
			durable, err := r.log.Sync()
			if r.failed(err) {
				return false
			}
			following, ok := r.core.Following()
			r.core.Followed(r.log.End(), durable, m.Committed)
			if ok && following == m.Stream {
				r.node.send(from.Node, r.id, r.known, replica.Message{Kind: replica.KindAck, Stream: m.Stream, Seq: m.Seq, Durable: durable})
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
