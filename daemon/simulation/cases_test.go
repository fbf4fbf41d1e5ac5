package simulation

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"weedd/cluster/catalog"
	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/replica"
	"weedd/volume/vfs"
	"weedd/volume/vfs/faultfs"
)

// calm makes a world without faults, with one open volume on the nodes a, b, ...
// of which a leads. From then on the leader decides nothing of its own.
func calm(t *testing.T, nodes, copies int) (*world, volume.ID) {
	t.Helper()
	w := newWorld(uint64(len(t.Name())), nodes, faults{})
	var on []volume.NodeID
	for _, n := range w.nodes[:copies] {
		on = append(on, n.id)
	}
	id := w.grow(volume.Placement(copies-1), on...)
	w.until(time.Second, "an open volume", func() bool { return w.primary(id) != nil })
	w.lead.settles = false
	w.ack(id, "a", 1)
	w.report(t)
	return w, id
}

func (w *world) copy(id volume.ID, n volume.NodeID) *run { return w.node(n).running[id] }

// ack writes at a node and waits for the acknowledgement.
func (w *world) ack(id volume.ID, n volume.NodeID, key volume.Key) {
	if w.broken != nil {
		return
	}
	o := w.copy(id, n).write(key, put)
	w.until(time.Second, "an acknowledgement", func() bool { return w.acked(id, o) })
}

func (w *world) acked(id volume.ID, o *op) bool {
	return o.end != 0 && w.truths[id].acks[place{o.generation, o.end}] == o.id
}

// unanswered writes at a node that must not acknowledge it, at least for d.
func (w *world) unanswered(id volume.ID, n volume.NodeID, key volume.Key, d time.Duration) {
	if r := w.copy(id, n); r != nil && w.broken == nil {
		o := r.write(key, put)
		w.run(d)
		if w.acked(id, o) {
			w.fail("a write was acknowledged at node %s that must not be", n)
		}
	}
}

// decide commits a change of the volume's entry, whatever the leader thinks of it.
func (w *world) decide(id volume.ID, by volume.Holder, change func(*volume.Entry)) error {
	e := w.entry(id)
	next := e
	change(&next)
	res := w.commit(catalog.Command{Change: &catalog.Batch{Changes: []catalog.Change{{Version: e.Version, Next: next, By: by}}}})
	w.check()
	return res.Errs[0]
}

// deaf makes a node hear nothing of decisions: not from masters, not from the
// leader, though it can still ask.
func (w *world) deaf(n volume.NodeID, deaf bool) {
	w.cut[link{n, "masters"}], w.cut[link{"", n}] = deaf, deaf
}

// kill kills nodes.
func (w *world) kill(nodes ...volume.NodeID) {
	for _, n := range nodes {
		w.node(n).crash()
	}
}

func (w *world) start(nodes ...volume.NodeID) {
	for _, n := range nodes {
		w.node(n).revive()
	}
}

// finish mends everything and waits until the volume is whole.
func (w *world) finish(t *testing.T) {
	t.Helper()
	w.lead.settles = true
	if stuck := w.mend(); stuck > 0 {
		w.fail("%d volumes have no copy that may lead", stuck)
	}
	w.report(t)
}

// counts picks a copy that answers wait for: it is asked for, or in sync.
func counts(node volume.NodeID) func(replica.PeerStatus) bool {
	return func(p replica.PeerStatus) bool { return p.Holder.Node == node && p.Counts }
}

func move(hs *[]volume.Holder, to *[]volume.Holder, node volume.NodeID) {
	for _, h := range *hs {
		if h.Node == node {
			*hs = without(*hs, h)
			*to = append(slices.Clip(*to), h)
		}
	}
}

// Rule R1: a block of keys belongs to the run of the process that took it.
func TestKeysAreHandedOutOnceByMastersThatRestart(t *testing.T) {
	t.Parallel()
	w, _ := calm(t, 1, 1)
	w.drop = 0.3 // of the answers that bring a block
	for range 300 {
		m := w.masters[w.rng.IntN(3)]
		m.assign()
		if w.chance(0.1) {
			m.restart()
		}
		w.run(10 * ms)
	}
	if len(w.handed) < 100 {
		w.fail("only %d keys were handed out", len(w.handed))
	}
	w.report(t)
}

// Rule R5, at the primary: what its disk did not take is not acknowledged there,
// and another copy leads.
func TestAPrimaryWhoseFsyncFailsAcknowledgesNothing(t *testing.T) {
	t.Parallel()
	w, id := calm(t, 3, 2)
	w.deaf("a", true)
	w.client.failNext["a"] = true
	w.unanswered(id, "a", 2, 500*ms)
	if e := w.entry(id); e.Primary != "b" || len(e.InSync) != 1 {
		w.fail("b should lead alone: %s", show(e))
	}
	w.kill("a") // what was not synced is gone, though a second fsync said all is well
	w.start("a")
	w.finish(t)
}

// Rule R5, at a follower.
func TestAFollowerWhoseFsyncFailsAcknowledgesNothing(t *testing.T) {
	t.Parallel()
	w, id := calm(t, 3, 2)
	w.lead.up = false
	w.client.failNext["b"] = true
	w.unanswered(id, "a", 2, 500*ms)
	w.lead.up = true
	w.ack(id, "a", 3)
	w.finish(t)
}

// Rule R5, in recovery: b was killed before it had synced what it appended, and the
// next run's fsync fails. The run after that finds the same bytes in the page cache,
// with an fsync that says all is well, and must not claim them.
func TestAnFsyncThatFailsInRecoveryIsRemembered(t *testing.T) {
	t.Parallel()
	w, id := calm(t, 3, 2)
	a, b := w.copy(id, "a"), w.copy(id, "b")
	w.lead.up = false // b stays in sync
	if err := b.log.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	rec := record{2, 1 << 20, put}.encode(0, b.log.NextAppendTime(b.node.now()))
	if err := b.log.Append(rec); err != nil {
		t.Fatal(err)
	}
	w.client.failNext["b"], b.node.failOnly = true, ".dat"
	for range 3 {
		b.node.die(false, nil)
		if w.client.failNext["b"] {
			t.Fatal("no fsync failed")
		}
		w.start("b")
		w.check()
		if r := w.copy(id, "b"); w.broken == nil && (r == nil || r.log.Failed() == nil || r.core.Durable() != a.log.End()) {
			w.fail("b should have failed with %d bytes: %v", a.log.End(), r)
		}
	}
	w.lead.up = true
	w.finish(t)
}

// Rule R6: a record of the ledger could not be synced, and the process was killed. The
// next one sees that record in the page cache, and the disk may have anything of it.
// So none is written behind it: the ledger would be damaged in the middle.
func TestALedgerThatCouldNotBeSyncedIsWrittenAnew(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		w, id := calm(t, 3, 2)
		w.rng = rand.New(rand.NewPCG(seed, 1))
		c := w.node("c")
		c.home = faultfs.New(seed)
		c.openLedger()
		join := func() {
			h := volume.Holder{Node: "c", Copy: w.newCopyID()}
			if err := w.decide(id, volume.Holder{}, func(e *volume.Entry) { e.Joining = []volume.Holder{h} }); err != nil {
				t.Fatal(err)
			}
		}
		w.client.failNext["c"], c.failOnly = true, "/copies"
		join()
		w.until(time.Second, "an fsync to fail", func() bool { return !w.client.failNext["c"] })
		c.die(false, nil)
		w.start("c")
		join()
		w.until(time.Second, "another copy on c", func() bool { return w.copy(id, "c") != nil })
		c.powerCut()
		w.start("c")
		if w.finish(t); t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// Rule R6, the third of the interleavings: a holder comes back with an empty disk under
// its old node id, and hears of the volume from a master that lags so far behind
// that the volume is still new there. It must not make its copy again: that one
// would count as in sync, and could lead.
func TestADiskReplacedUnderTheSameNodeIsNotFilledAnew(t *testing.T) {
	t.Parallel()
	w, id := calm(t, 3, 2)
	w.kill("a", "b")
	w.node("b").disks = map[volume.ID]*disk{}
	for _, m := range w.masters {
		m.applied = 2 // found and grow
	}
	w.lag = 1 // masters advance only by chance from here on
	w.cut[link{"", "b"}] = true
	w.node("b").start()
	for _, e := range w.history[2].Volumes() {
		w.node("b").obey(*e)
	}
	if w.copy(id, "b") != nil {
		w.fail("b made copy %d again", w.copy(id, "b").self.Copy)
	}
	w.check()
	w.cut = map[link]bool{}
	w.lead.settles = true
	w.run(time.Second)
	if e := w.entry(id); e.Primary != "a" {
		w.fail("only a has the files: %s", show(e))
	}
	w.start("a")
	w.until(5*time.Second, "a copy in place of the lost one", func() bool {
		e := w.entry(id)
		return e.Primary == "a" && len(e.InSync) == 2
	})
	w.finish(t)
}

// Rule R6, the other half: what an old copy on the node says does not count for
// a new one that is meant.
func TestAnOldCopyDoesNotAnswerForANewOne(t *testing.T) {
	t.Parallel()
	w, id := calm(t, 2, 2)
	w.deaf("b", true)
	if err := w.decide(id, volume.Holder{}, func(e *volume.Entry) {
		e.InSync = without(e.InSync, e.InSync[1])
		e.Joining = []volume.Holder{{Node: "b", Copy: w.newCopyID()}}
	}); err != nil {
		t.Fatal(err)
	}
	w.run(time.Second)
	if e := w.entry(id); len(e.InSync) != 1 {
		w.fail("the new copy on b is not there yet: %s", show(e))
	}
	w.finish(t)
}

// Rules R6 and R7: an old disk that is put back holds a copy that the volume has
// done without since. That its node is the primary, by another copy, does not
// make it lead.
func TestAnOldDiskThatReturnsDoesNotLead(t *testing.T) {
	t.Parallel()
	w, id := calm(t, 2, 2)
	b := w.node("b")
	w.kill("b")
	old := b.disks
	was := old[id].volume().CopyID()
	b.disks = map[volume.ID]*disk{}
	w.start("b")
	w.lead.settles = true
	w.until(5*time.Second, "another copy on b", func() bool {
		h, inSync, _ := w.entry(id).Holder("b")
		return inSync && h.Copy != was
	})
	w.lead.settles = false
	w.ack(id, "a", 2)
	w.kill("a", "b")
	b.disks = old
	for _, d := range old {
		d.change(func(*faultfs.FS) error { return nil })
	}
	w.start("b")
	if err := w.decide(id, volume.Holder{}, func(e *volume.Entry) { e.Primary = "b" }); err != nil {
		t.Fatal(err)
	}
	w.run(300 * ms)
	w.unanswered(id, "b", 3, 300*ms)
	if r := w.copy(id, "b"); w.broken == nil && r.core.Leading() {
		w.fail("%s", r)
	}
	w.start("a")
	w.finish(t)
}

// Rule R6: while a volume is new its files may still be made, so it takes no
// writes.
func TestANewVolumeTakesNoWrites(t *testing.T) {
	t.Parallel()
	w := newWorld(1, 2, faults{})
	w.lead.settles = false
	id := w.grow(1, "a", "b")
	w.until(time.Second, "a to lead", func() bool { r := w.copy(id, "a"); return r != nil && r.core.Leading() })
	w.unanswered(id, "a", 1, 300*ms)
	w.finish(t)
}

// Rule R7, the first of the interleavings: {a,b,c} with c down, a and b acknowledge
// more, both die, c returns alone.
func TestACopyThatMissedAcknowledgedWritesDoesNotLead(t *testing.T) {
	t.Parallel()
	w, id := calm(t, 3, 3)
	w.kill("c")
	w.ack(id, "a", 2) // c is dropped from the set for it
	w.kill("a", "b")
	w.start("c")
	w.lead.settles = true
	w.run(2 * time.Second)
	if err := w.decide(id, volume.Holder{}, func(e *volume.Entry) { // and if somebody wants it all the same
		e.InSync, e.Joining, e.Primary = e.Joining, e.InSync, "c"
	}); err == nil {
		w.run(time.Second)
		w.fail("c was made primary")
	}
	if e := w.entry(id); e.Primary == "c" || w.primary(id) != nil {
		w.fail("c leads: %s", show(e))
	}
	w.start("b") // alone again, and it has everything
	w.until(3*time.Second, "b to lead", func() bool { return w.entry(id).Primary == "b" })
	w.finish(t)
}

// Rule R8: the new primary refuses the old one, which has not heard of it and
// therefore cannot acknowledge anything.
func TestAnOldPrimaryIsRefusedByTheNewOne(t *testing.T) {
	t.Parallel()
	w, id := calm(t, 2, 2)
	w.lead.up = false
	w.part("a", "b", true)
	w.deaf("a", true)
	if err := w.decide(id, volume.Holder{}, func(e *volume.Entry) { move(&e.InSync, &e.Joining, "a"); e.Primary = "b" }); err != nil {
		t.Fatal(err)
	}
	w.until(time.Second, "b to lead", func() bool { return w.primary(id) != nil })
	w.ack(id, "b", 2)
	w.cut[link{"a", "b"}] = false // a reaches b again, and is not told what b says of that
	w.unanswered(id, "a", 3, 500*ms)
	w.part("a", "b", false)
	w.unanswered(id, "a", 4, 500*ms)
	w.finish(t)
}

// Rule R8: that refusal survives a restart, for the epoch was made durable
// before anything was answered in it.
func TestAnOldPrimaryIsRefusedAfterARestart(t *testing.T) {
	t.Parallel()
	w, id := calm(t, 2, 2)
	w.lead.up = false
	w.part("a", "b", true)
	w.deaf("a", true)
	if err := w.decide(id, volume.Holder{}, func(e *volume.Entry) { move(&e.InSync, &e.Joining, "a"); e.Primary = "b" }); err != nil {
		t.Fatal(err)
	}
	w.until(time.Second, "b to lead", func() bool { return w.primary(id) != nil })
	w.ack(id, "b", 2)
	w.kill("b")
	w.run(20 * ms)    // nothing of b is on its way any more
	w.deaf("b", true) // it knows nothing but what is on its disk
	w.start("b")
	w.part("a", "b", false)
	w.unanswered(id, "a", 3, 500*ms)
	w.finish(t)
}

// Rule R8: an acknowledgement of an earlier stream counts for nothing. Here what
// b said in one epoch comes back in the next, at whose start it had to cut.
func TestALateAcknowledgementOfAnotherStreamCountsForNothing(t *testing.T) {
	t.Parallel()
	w, id := calm(t, 2, 2)
	a, b := w.copy(id, "a"), w.copy(id, "b")
	old, _ := b.core.Following()
	if err := w.decide(id, volume.Holder{}, func(e *volume.Entry) { move(&e.InSync, &e.Joining, "b") }); err != nil {
		t.Fatal(err)
	}
	w.until(2*time.Second, "b in sync again", func() bool { return len(w.entry(id).InSync) == 2 && w.primary(id) != nil })
	w.until(time.Second, "b attached anew", func() bool { s, ok := b.core.Following(); return ok && s != old && b.core.Epoch() == w.entry(id).Epoch })
	w.ack(id, "a", 2)
	w.lead.up = false
	w.cut[link{"a", "b"}] = true
	o := a.write(3, put)
	w.run(10 * ms)
	a.receive(b.self, replica.Message{Kind: replica.KindAck, Stream: old, Seq: 1, Durable: a.log.End()})
	w.check()
	if w.acked(id, o) {
		w.fail("a late acknowledgement was counted")
	}
	w.finish(t)
}

// A copy whose bytes differ from the primary's, and which does not know it, is
// made anew under another id; nothing of it is shown meanwhile.
func TestACopyWithOtherBytesIsMadeAnew(t *testing.T) {
	t.Parallel()
	w, id := calm(t, 2, 2)
	w.kill("b")
	w.ack(id, "a", 2) // b is dropped from the set for it
	d := w.node("b").disks[id]
	was := d.volume().CopyID()
	d.change(func(fs *faultfs.FS) error {
		dat, err := vfs.ReadFile(fs, d.path(".dat"))
		if err != nil {
			return err
		}
		r, _ := parse(dat[replica.Origin:])
		r.op++
		size := binary.BigEndian.Uint32(dat[replica.Origin+needle.HeaderSize:])
		other := r.encode(int(size)-4, 1)
		return errors.Join(vfs.Write(fs, d.path(".dat"), append(dat[:replica.Origin], other...)), d.forget(fs))
	})
	w.start("b")
	w.lead.settles = true
	w.until(5*time.Second, "another copy on b", func() bool {
		h, inSync, _ := w.entry(id).Holder("b")
		return inSync && h.Copy != was
	})
	w.finish(t)
}
