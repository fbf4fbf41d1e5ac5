package simulation

import (
	"errors"
	"testing"
	"time"

	"weedd/volume"
	"weedd/volume/replica"
	"weedd/volume/vfs/faultfs"
)

// littered makes a volume with something to leave out.
func littered(t *testing.T, nodes, copies int) (*world, volume.ID) {
	t.Helper()
	w, id := calm(t, nodes, copies)
	for k := range volume.Key(6) {
		w.ack(id, "a", k%3+1)
	}
	o := w.copy(id, "a").write(2, del)
	w.until(time.Second, "a deletion", func() bool { return w.acked(id, o) })
	w.report(t)
	return w, id
}

// asked has a compact the volume, up to where it has asked the leader.
func (w *world) asked(t *testing.T, id volume.ID) {
	t.Helper()
	a := w.copy(id, "a")
	w.lead.deafTo = volume.AskLead // which a asks when it has no answer for a while
	w.until(time.Second, "a compaction begun", a.compact)
	w.until(time.Second, "the leader asked", func() bool { return a.asking[question{volume.AskCompact, a.core.Epoch()}] })
	w.report(t)
}

// generation expects the volume at a generation.
func (w *world) generation(id volume.ID, want uint32) {
	if e := w.entry(id); e.Generation != want {
		w.fail("generation %d, want %d: %s", e.Generation, want, show(e))
	}
}

// begun is the generation and length of a's copy after one compaction, as the
// entry has it and all copies.
func (w *world) compactedOnce(id volume.ID, nodes ...volume.NodeID) {
	w.until(2*time.Second, "the new files everywhere", func() bool {
		for _, n := range nodes {
			if r := w.copy(id, n); r == nil || r.core.Generation() != 1 || !r.disk.tidy() {
				return false
			}
		}
		return true
	})
	w.generation(id, 1)
	w.until(time.Second, "a primary", func() bool { return w.primary(id) != nil })
}

// built reports whether a copy has built new files that are not ready yet.
func (r *run) built() bool { return r.building == 0 && !r.disk.tidy() && !r.ready() }

// ready reports whether a copy has new files ready.
func (r *run) ready() bool { _, _, ok := r.disk.prepared(); return ok }

func TestACompactionGoesOnBesideWrites(t *testing.T) {
	t.Parallel()
	w, id := littered(t, 3, 3)
	before := w.copy(id, "a").log.End()
	w.copy(id, "a").compact()
	for k := range volume.Key(5) {
		w.ack(id, "a", 10+k)
	}
	written := w.copy(id, "a").log.End() - before
	w.compactedOnce(id, "a", "b", "c")
	if end := w.copy(id, "a").log.End(); end >= before+written {
		w.fail("%d bytes are left of %d and the %d of five records", end, before, written)
	}
	if e := w.entry(id); e.Epoch != 2 || e.Compacted != 2 || len(e.InSync) != 3 {
		w.fail("%s", show(e))
	}
	w.ack(id, "a", 20)
	w.finish(t)
}

// Rule R13: what a copy has ready outlives it, and waits for the outcome.
func TestACopyCrashesBetweenReadyAndTheDecision(t *testing.T) {
	t.Parallel()
	w, id := littered(t, 3, 2)
	w.lead.hold = 200 * ms
	w.asked(t, id)
	w.kill("b")
	w.until(time.Second, "the decision", func() bool { return w.entry(id).Generation == 1 })
	w.start("b")
	w.compactedOnce(id, "a", "b")
	w.ack(id, "a", 9)
	w.finish(t)
}

// Rule R13: all copies die after the decision and before they took the new files;
// what they find when they return is an entry of a later epoch still.
func TestAllCopiesCrashBeforeTheySwitch(t *testing.T) {
	t.Parallel()
	w, id := littered(t, 3, 2)
	w.lead.hold = 50 * ms
	w.asked(t, id)
	w.deaf("a", true)
	w.deaf("b", true)
	w.until(time.Second, "the decision", func() bool { return w.entry(id).Generation == 1 })
	w.kill("a", "b")
	if err := w.decide(id, volume.Holder{}, func(e *volume.Entry) { e.Primary = "b" }); err != nil {
		t.Fatal(err)
	}
	w.start("a", "b")
	w.deaf("a", false)
	w.deaf("b", false)
	w.compactedOnce(id, "a", "b")
	if e := w.entry(id); e.Epoch != 3 || e.Compacted != 2 || len(e.InSync) != 2 {
		w.fail("the copies should go on as they are: %s", show(e))
	}
	w.ack(id, "b", 9)
	w.finish(t)
}

// Rule R13: the question counts only in its epoch. When another one came first,
// all copies keep the old files.
func TestTheQuestionComesAfterANewEpoch(t *testing.T) {
	t.Parallel()
	w, id := littered(t, 3, 2)
	w.lead.hold = 200 * ms
	w.asked(t, id)
	w.run(10 * ms)
	if err := w.decide(id, volume.Holder{}, func(e *volume.Entry) { e.Primary = "b" }); err != nil {
		t.Fatal(err)
	}
	w.until(time.Second, "b to lead", func() bool { return w.primary(id) != nil })
	w.ack(id, "b", 9)
	w.run(300 * ms)
	w.generation(id, 0)
	if !w.isTidy(id) {
		w.fail("new files are left over")
	}
	w.finish(t)
}

// Rule R13: a primary that dies while writes wait leaves the old files in force.
func TestThePrimaryDiesWhileItIsPaused(t *testing.T) {
	t.Parallel()
	w, id := littered(t, 3, 2)
	w.lead.up = false
	w.asked(t, id)
	w.unanswered(id, "a", 9, 300*ms)
	w.kill("a")
	w.lead.up, w.lead.settles = true, true
	w.until(2*time.Second, "b to lead", func() bool { return w.entry(id).Primary == "b" && w.primary(id) != nil })
	w.generation(id, 0)
	w.ack(id, "b", 10)
	w.start("a")
	w.until(2*time.Second, "tidy copies", func() bool { return w.isWhole(id) && w.isTidy(id) })
	w.finish(t)
}

// Rule R13: a timeout is not an outcome. Until a newer epoch is known the
// decision may have been made, and what is written to the old files is lost then.
func TestWritesWaitWhileTheOutcomeIsOpen(t *testing.T) {
	t.Parallel()
	w, id := littered(t, 3, 2)
	w.asked(t, id)
	w.deaf("a", true) // not even the answer
	w.deaf("b", true)
	w.unanswered(id, "a", 9, 2*compactLimit)
	w.generation(id, 1)
	w.deaf("a", false)
	w.deaf("b", false)
	w.until(time.Second, "a to lead", func() bool { return w.primary(id) != nil })
	w.ack(id, "a", 10)
	w.finish(t)
}

// Rule R13: a lost question ends with a new epoch, in which writes go on.
func TestALostQuestionEndsInANewEpoch(t *testing.T) {
	t.Parallel()
	w, id := littered(t, 3, 2)
	w.lead.up = false
	w.asked(t, id)
	w.run(50 * ms)
	w.lead.up, w.lead.deafTo = true, ""
	w.until(time.Second, "a to lead", func() bool { return w.primary(id) != nil })
	w.generation(id, 0)
	if e := w.entry(id); e.Epoch != 2 {
		w.fail("%s", show(e))
	}
	w.ack(id, "a", 9)
	w.finish(t)
}

// Rule R13: a copy in sync that has lost its new files is of no use any more, and
// another takes its place.
func TestACopyWithoutReadyFilesIsReplaced(t *testing.T) {
	t.Parallel()
	w, id := littered(t, 3, 2)
	w.lead.hold = 200 * ms
	w.asked(t, id)
	b := w.copy(id, "b")
	w.kill("b")
	b.disk.spoiled = true
	b.disk.change(func(fs *faultfs.FS) error { return fs.Remove(b.disk.path(".wcpr")) })
	w.until(time.Second, "the decision", func() bool { return w.entry(id).Generation == 1 })
	if err := w.decide(id, volume.Holder{}, func(e *volume.Entry) { e.Primary = "b" }); err != nil {
		t.Fatal(err)
	}
	w.lead.hold, w.lead.deafTo = 0, volume.AskYield
	w.start("b")
	w.run(100 * ms)
	if r := w.copy(id, "b"); w.broken == nil && (r.core.Leading() || r.core.Failure() == nil) {
		w.fail("%s", r)
	}
	w.lead.deafTo = ""
	w.lead.settles = true
	w.until(3*time.Second, "another copy", func() bool {
		e := w.entry(id)
		h, _, ok := e.Holder("b")
		return len(e.InSync) == 2 && !(ok && h == b.self)
	})
	w.finish(t)
}

// Rule R13: new files count only for the decision that they were made for. b has
// some of an attempt that came to nothing; then a goes on without it.
func TestReadyFilesOfAnOlderAttemptAreNotTaken(t *testing.T) {
	t.Parallel()
	w, id := littered(t, 3, 2)
	w.lead.up = false
	w.asked(t, id)
	b := w.copy(id, "b")
	w.kill("b")
	if err := w.decide(id, volume.Holder{}, func(e *volume.Entry) { e.InSync = without(e.InSync, b.self) }); err != nil {
		t.Fatal(err)
	}
	w.until(time.Second, "a to lead alone", func() bool { return w.primary(id) != nil })
	a := w.copy(id, "a")
	row, _ := a.log.Latest(1)
	o := a.write(1, put)
	o.more = int(row.Size) - 9 // without length, operation and flags; as long as what b has ready when it is compacted: the older record of the key goes
	w.until(time.Second, "an acknowledgement", func() bool { return w.acked(id, o) })
	w.lead.up = true
	w.until(time.Second, "a compaction of one copy", func() bool { a.compact(); return a.core.Generation() == 1 })
	if err := w.decide(id, volume.Holder{}, func(e *volume.Entry) { e.Joining = []volume.Holder{b.self} }); err != nil {
		t.Fatal(err)
	}
	if _, dat, ok := b.disk.prepared(); w.broken == nil && (!ok || int64(len(dat)) != a.log.End()) {
		w.fail("b should have files of equal length ready, not of %d bytes", len(dat))
	}
	w.start("b")
	w.run(300 * ms)
	if e := w.entry(id); len(e.InSync) != 1 {
		w.fail("b is of no use: %s", show(e))
	}
	w.finish(t)
}

// Rule R13: a copy of the old generation has nothing in common with the others,
// and is copied whole under another id.
func TestACopyOfTheOldGenerationIsCopiedWhole(t *testing.T) {
	t.Parallel()
	w, id := littered(t, 3, 3)
	w.kill("c")
	c, _, _ := w.entry(id).Holder("c")
	if err := w.decide(id, volume.Holder{}, func(e *volume.Entry) { e.InSync = without(e.InSync, c) }); err != nil {
		t.Fatal(err)
	}
	w.until(time.Second, "a to lead without c", func() bool { return w.primary(id) != nil && w.copy(id, "a").core.Epoch() == 2 })
	w.until(time.Second, "a compaction begun", w.copy(id, "a").compact)
	w.compactedOnce(id, "a", "b")
	if err := w.decide(id, volume.Holder{}, func(e *volume.Entry) { e.Joining = []volume.Holder{c} }); err != nil {
		t.Fatal(err)
	}
	w.start("c")
	w.run(100 * ms)
	if r := w.copy(id, "c"); w.broken == nil && r.core.Failure() == nil {
		w.fail("c should know that it is of no use: %s", r)
	}
	w.lead.settles = true
	w.until(3*time.Second, "another copy on c", func() bool {
		h, inSync, _ := w.entry(id).Holder("c")
		return inSync && h != c
	})
	w.finish(t)
}

// Rule R13: words of an attempt that was given up count for nothing in the next.
func TestLateWordsOfAnOlderAttemptCountForNothing(t *testing.T) {
	t.Parallel()
	w, id := littered(t, 3, 2)
	a, b := w.copy(id, "a"), w.copy(id, "b")
	w.until(time.Second, "a compaction begun", a.compact)
	w.until(time.Second, "b to build", func() bool { return b.built() })
	stream, _ := b.core.Following()
	first := replica.Message{Stream: stream, Attempt: 1, Compaction: volume.Compaction{Epoch: 1, Generation: 1, At: b.core.Committed()}, Committed: b.core.Committed()}
	late := func(kind replica.Kind) replica.Message {
		m := first
		m.Kind, m.End, m.Checksum = kind, 24, 1
		return m
	}
	a.core.AbortCompaction(errors.New("the test wants another"))
	a.effects()
	w.until(time.Second, "tidy copies", func() bool { return w.isTidy(id) })
	w.ack(id, "a", 3)
	w.lead.hold = 100 * ms
	w.until(time.Second, "a second compaction begun", a.compact)
	w.until(time.Second, "b to be ready", b.ready)
	for _, kind := range []replica.Kind{replica.KindCompact, replica.KindAbortCompaction} {
		b.receive(a.self, late(kind))
	}
	for _, kind := range []replica.Kind{replica.KindReady, replica.KindCompactionFailed} {
		a.receive(b.self, late(kind))
	}
	w.compactedOnce(id, "a", "b")
	if e := w.entry(id); e.Epoch != 2 {
		w.fail("the second compaction should be the one: %s", show(e))
	}
	w.finish(t)
}

// Rule R13: that all copies are ready is what the leader is told, not that one of
// them was ready for something else.
func TestALateReadyIsNoReady(t *testing.T) {
	t.Parallel()
	w, id := littered(t, 3, 2)
	a, b := w.copy(id, "a"), w.copy(id, "b")
	w.until(time.Second, "a compaction begun", a.compact)
	a.core.AbortCompaction(errors.New("the test wants another"))
	a.effects()
	w.until(time.Second, "tidy copies", func() bool { return w.isTidy(id) && a.compact() })
	w.until(time.Second, "both to have built", func() bool { return a.built() && b.built() })
	w.cut[link{"a", "b"}] = true // b does not hear that it should finish
	w.until(time.Second, "a to be ready", func() bool { return a.disk.tidy() || a.ready() })
	stream, _ := b.core.Following()
	_, length, sum, _ := a.log.Prepared()
	a.receive(b.self, replica.Message{Kind: replica.KindReady, Stream: stream, Attempt: 1, End: length, Checksum: sum})
	b.receive(a.self, replica.Message{Kind: replica.KindFinishCompaction, Stream: stream, Attempt: 1, End: b.log.End()})
	w.run(100 * ms)
	if b.ready() {
		w.fail("b takes a word of the first attempt for one of the second")
	}
	w.generation(id, 0)
	w.finish(t)
}

// A follower that missed that an attempt was given up learns it from the next
// record: a primary that had asked would not have appended it.
func TestARecordAfterReadyDropsTheNewFiles(t *testing.T) {
	t.Parallel()
	w, id := littered(t, 3, 3)
	a, b := w.copy(id, "a"), w.copy(id, "b")
	w.until(time.Second, "a compaction begun", a.compact)
	c := w.copy(id, "c")
	w.until(time.Second, "all to have built", func() bool {
		return a.built() && b.built() && c.built()
	})
	w.cut[link{"a", "c"}] = true
	w.until(time.Second, "b to be ready", b.ready)
	a.core.AbortCompaction(errors.New("c takes too long"))
	if m, ok := a.core.Control(b.self); !ok || m.Kind != replica.KindAbortCompaction {
		t.Fatalf("%+v", m)
	}
	a.effects()
	w.cut = map[link]bool{}
	if !b.ready() {
		t.Fatal("b has heard of it")
	}
	w.ack(id, "a", 9)
	w.until(time.Second, "tidy copies", func() bool { return w.isTidy(id) })
	w.finish(t)
}

// Rule R13: while a copy finishes its new files its log stays as it is, also when
// the primary has given up meanwhile and goes on.
func TestTheLogStaysWhileNewFilesAreFinished(t *testing.T) {
	t.Parallel()
	w, id := littered(t, 3, 2)
	a, b := w.copy(id, "a"), w.copy(id, "b")
	w.until(time.Second, "a compaction begun", a.compact)
	w.until(time.Second, "b to finish", func() bool { return b.finishing })
	stream, _ := b.core.Following()
	late := replica.Message{Kind: replica.KindBatch, Stream: stream, Seq: 1 << 40, Offset: b.log.End(), Bytes: record{9, 1 << 30, put}.encode(0, b.log.NextAppendTime(b.node.now()))}
	if err := b.core.OnBatch(late); err == nil {
		t.Error("b takes a record")
	}
	late.Bytes = nil
	if err := b.core.OnBatch(late); err != nil {
		t.Errorf("b does not take an empty batch, for which readers may wait: %v", err)
	}
	w.report(t)
}

// A crash at any moment between the decision and the end of the switch leaves a
// copy that goes on with the new files.
func TestACrashWhileSwitching(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		for after := range 14 {
			w, id := littered(t, 3, 2)
			w.lead.hold = 20 * ms
			w.asked(t, id)
			w.rng.Uint64() // each run another one
			for range seed {
				w.rng.Uint64()
			}
			w.until(time.Second, "the decision", func() bool { return w.entry(id).Generation == 1 })
			for range after {
				w.step()
			}
			w.kill("a", "b")
			w.lead.deafTo = ""
			w.start("a", "b")
			w.compactedOnce(id, "a", "b")
			w.until(2*time.Second, "equal copies", func() bool { return w.isWhole(id) })
			if w.broken != nil {
				t.Fatalf("seed %d, crash after %d events: %v\n%s\n%s", seed, after, w.broken, w.story(), w.copiesNow())
			}
		}
	}
}

// Rule R13: the list of epochs names the new generation before any of its files is in
// place. A process that dies at any file operation of the switch leaves a copy that
// can follow, and lead, as it is.
func TestACopyDiesAtEachOperationOfASwitch(t *testing.T) {
	t.Parallel()
	for _, node := range []volume.NodeID{"a", "b"} {
		for power := range 2 {
			for at := 1; dieInASwitch(t, node, power == 1, at); at++ {
			}
		}
	}
}

// dieInASwitch lets a node die at the at-th file operation after a compaction was
// decided, and reports whether that was within the switch.
func dieInASwitch(t *testing.T, node volume.NodeID, power bool, at int) bool {
	t.Helper()
	w, id := littered(t, 3, 2)
	w.lead.hold = 20 * ms
	w.asked(t, id)
	w.until(time.Second, "the decision", func() bool { return w.entry(id).Generation == 1 })
	w.lead.deafTo = ""
	n, r := w.node(node), w.copy(id, node)
	n.dieIn = at
	w.until(time.Second, "the switch", func() bool { return n.dieIn == 0 || r.core.Generation() == 1 })
	died := n.dieIn == 0
	n.dieIn = 0
	if died {
		n.die(power, func() uint64 { return 0 })
		w.start(node)
	}
	w.compactedOnce(id, "a", "b")
	w.ack(id, w.entry(id).Primary, 9)
	w.until(2*time.Second, "equal copies", func() bool { return w.isWhole(id) })
	if h, inSync, _ := w.entry(id).Holder(node); w.broken == nil && (!inSync || h != r.self) {
		w.fail("%s has another copy: %s", node, show(w.entry(id)))
	}
	if w.broken != nil {
		t.Fatalf("%s dies at operation %d, power cut %v: %v\n%s\n%s", node, at, power, w.broken, w.story(), w.copiesNow())
	}
	return died
}
