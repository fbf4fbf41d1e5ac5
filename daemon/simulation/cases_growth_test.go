package simulation

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"weedd/volume"
)

// Rule R9, the second of the interleavings: the leader commits a joining copy
// before the primary has heard of it, and then the old copies die. From asking
// on, answers wait for the joining copy.
func TestAJoiningCopyCountsBeforeThePrimaryHears(t *testing.T) {
	t.Parallel()
	w, id := joining(t)
	w.unanswered(id, "a", 3, 300*ms)
	w.part("a", "b", false) // now b can have it
	w.ack(id, "a", 4)
	w.kill("a")
	w.deaf("b", false)
	if err := w.decide(id, volume.Holder{}, func(e *volume.Entry) { move(&e.InSync, &e.Joining, "a"); e.Primary = "b" }); err != nil {
		t.Fatal(err)
	}
	w.until(time.Second, "b to lead", func() bool { return w.primary(id) != nil })
	w.ack(id, "b", 5)
	w.finish(t)
}

// joining brings a volume to where {a} is in sync as far as a knows, and {a,b}
// is committed: a has asked for it, and does not hear the answer, nor b.
func joining(t *testing.T) (*world, volume.ID) {
	t.Helper()
	w, id := calm(t, 2, 2)
	w.kill("b")
	w.ack(id, "a", 2) // b is dropped from the set for it
	w.start("b")
	asked := w.entry(id).Epoch
	w.lead.hold = 20 * ms
	w.until(time.Second, "b asked for", func() bool { return slices.ContainsFunc(w.copy(id, "a").core.Status().Peers, counts("b")) })
	w.deaf("a", true)
	w.deaf("b", true)
	w.part("a", "b", true)
	w.until(time.Second, "b committed", func() bool { return w.entry(id).Epoch > asked })
	w.report(t)
	return w, id
}

// Rule R9: a timeout is not an outcome. The question is asked again and again,
// and b counts all the while.
func TestAskingAgainDoesNotEndTheWait(t *testing.T) {
	t.Parallel()
	w, id := joining(t)
	w.lead.up = false
	w.run(time.Second)
	w.unanswered(id, "a", 3, 300*ms)
	w.finish(t)
}

// Rule R9: a joining copy must have all that was acknowledged before it is asked
// for, also by a primary that does not know how much that is: b restarts with an
// old checkpoint, and c, which is in sync, is away, so b can learn nothing.
func TestAJoiningCopyNeedsAllThatEarlierPrimariesAcknowledged(t *testing.T) {
	t.Parallel()
	w, id := calm(t, 4, 3)
	for k := range volume.Key(20) {
		w.ack(id, "a", 10+k)
	}
	w.kill("a", "b", "c")
	d := w.node("b").disks[id]
	d.change(d.forget)
	w.start("b")
	if err := w.decide(id, volume.Holder{}, func(e *volume.Entry) {
		e.Primary, e.InSync = "b", without(e.InSync, e.InSync[0])
		e.Joining = []volume.Holder{{Node: "d", Copy: w.newCopyID()}}
	}); err != nil {
		t.Fatal(err)
	}
	w.until(time.Second, "d attached", func() bool { d := w.copy(id, "d"); return d != nil && d.core.Epoch() == 2 })
	w.cut[link{"b", "d"}] = true // it gets no bytes
	w.run(50 * ms)
	w.cut[link{"b", "d"}] = false
	w.until(2*time.Second, "d in sync", func() bool { return len(w.entry(id).InSync) == 3 })
	w.finish(t)
}

// Rule R9: a copy that does not answer counts until the primary has learned that
// it is out; to ask is not enough, for it may lead already.
func TestASilentCopyCountsUntilItIsOut(t *testing.T) {
	t.Parallel()
	w, id := calm(t, 2, 2)
	w.part("a", "b", true)
	w.lead.up = false
	w.unanswered(id, "a", 2, 600*ms)
	if w.broken == nil && len(w.entry(id).InSync) != 2 {
		w.fail("b is out")
	}
	w.lead.up = true
	w.ack(id, "a", 3)
	w.finish(t)
}

// Rule R9: an idle volume survives a restart of its holders untouched.
func TestAnIdleVolumeKeepsItsCopies(t *testing.T) {
	t.Parallel()
	w, id := calm(t, 2, 2)
	before := w.entry(id)
	w.kill("b")
	w.run(time.Second)
	w.start("b")
	w.run(time.Second)
	if e := w.entry(id); e.Epoch != before.Epoch || len(e.InSync) != 2 {
		w.fail("was %s, is %s", show(before), show(e))
	}
	w.finish(t)
}

// Rule R10: a primary that restarts has forgotten what it asked for, so it does
// not write in the epoch in which it asked.
func TestARestartedPrimaryDoesNotWriteInItsOldEpoch(t *testing.T) {
	t.Parallel()
	w, id := joining(t)
	old := w.history[len(w.history)-2] // before b was committed
	w.lead.up = false
	w.kill("a")
	w.start("a")
	e, _ := old.Volume(id)
	w.copy(id, "a").learn(*e)
	w.run(200 * ms)
	w.unanswered(id, "a", 3, 300*ms)
	w.finish(t)
}

// Rule R10: what a primary lost in a crash, others may hold. It leads again only
// in a new epoch, at whose start they cut.
func TestARestartedPrimaryThatLostItsTail(t *testing.T) {
	t.Parallel()
	w, id := calm(t, 2, 2)
	a, b := w.copy(id, "a"), w.copy(id, "b")
	w.cut[link{"b", "a"}] = true // b has it and cannot say so
	w.client.ops++
	o := &op{id: w.client.ops, key: 2, kind: put, began: w.now}
	if !a.append(o) { // and syncs nothing
		t.Fatal("it is not appended")
	}
	a.pump()
	w.until(time.Second, "b to have it", func() bool { return b.log.Durable() == o.end })
	w.node("a").powerCut()
	w.cut = map[link]bool{}
	w.start("a")
	w.until(2*time.Second, "a to lead", func() bool { return w.primary(id) != nil })
	other := w.copy(id, "a").write(3, put)
	other.more = o.more
	w.until(time.Second, "an acknowledgement", func() bool { return w.acked(id, other) })
	if w.broken == nil && (other.end != o.end || w.copy(id, "b").log.End() != o.end) {
		w.fail("the new record ends at %d, b at %d, and the lost one at %d", other.end, w.copy(id, "b").log.End(), o.end)
	}
	w.finish(t)
}

// Rule R11: a returning copy cuts what the others never had.
func TestAReturningPrimaryCutsItsTail(t *testing.T) {
	t.Parallel()
	w, id := calm(t, 2, 2)
	w.part("a", "b", true)
	w.lead.up = false
	w.unanswered(id, "a", 2, 50*ms)
	w.unanswered(id, "a", 3, 50*ms)
	w.kill("a")
	if err := w.decide(id, volume.Holder{}, func(e *volume.Entry) { e.Primary = "b" }); err != nil {
		t.Fatal(err)
	}
	w.part("a", "b", false)
	w.until(time.Second, "b to lead", func() bool { return w.primary(id) != nil })
	b := w.copy(id, "b")
	o := b.write(4, put)
	w.start("a")
	w.until(time.Second, "an acknowledgement", func() bool { return w.acked(id, o) })
	if w.broken == nil && w.copy(id, "a").self != w.entry(id).InSync[0] {
		w.fail("a has another copy")
	}
	w.finish(t)
}

// Rule R11: a crash at any moment of attaching leaves a copy that can still lead,
// and that others can still follow: first the cut is durable, then the list.
func TestACrashWhileAttaching(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		for after := range 12 {
			w := crashWhileAttaching(t, seed, func(w *world, _ *run) {
				for range after {
					w.step()
				}
			})
			if w.broken != nil {
				t.Fatalf("seed %d, crash after %d events: %v\n%s\n%s", seed, after, w.broken, w.story(), w.copiesNow())
			}
		}
	}
}

// The same with the death at each file operation of attaching.
func TestACopyDiesAtEachOperationOfAttaching(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2) {
		for at, died := 1, true; died; at++ {
			w := crashWhileAttaching(t, seed, func(w *world, a *run) {
				a.node.dieIn = at
				w.until(time.Second, "a to attach", func() bool { _, ok := a.core.Following(); return ok || a.node.dieIn == 0 })
				died = a.node.dieIn == 0
				a.node.dieIn = 0
			})
			if w.broken != nil {
				t.Fatalf("seed %d, death at operation %d: %v\n%s\n%s", seed, at, w.broken, w.story(), w.copiesNow())
			}
		}
	}
}

// crashWhileAttaching has a return with a tail that b, which leads, never had,
// and die again at some time after it heard from b. Then a leads.
func crashWhileAttaching(t *testing.T, seed uint64, wait func(w *world, a *run)) *world {
	w, id := calm(t, 2, 2)
	w.rng = rand.New(rand.NewPCG(seed, 1))
	w.lead.up = false
	w.part("a", "b", true)
	w.unanswered(id, "a", 2, 50*ms)
	w.unanswered(id, "a", 3, 50*ms)
	w.kill("a")
	lead := func(n volume.NodeID) {
		if err := w.decide(id, volume.Holder{}, func(e *volume.Entry) { e.Primary = n }); err != nil {
			t.Fatal(err)
		}
	}
	lead("b")
	w.until(time.Second, "b to lead", func() bool { return w.primary(id) != nil })
	w.copy(id, "b").write(4, put)
	w.copy(id, "b").write(5, put)
	w.start("a")
	w.part("a", "b", false)
	w.until(time.Second, "a to hear from b", func() bool { return len(w.copy(id, "a").jobs) > 0 })
	wait(w, w.copy(id, "a"))
	w.kill("a", "b")
	lead("a")
	w.start("a", "b")
	w.until(2*time.Second, "equal copies", func() bool { return w.isWhole(id) })
	if e := w.entry(id); w.broken == nil && e.Epoch != 3 {
		w.fail("the copies should attach as they are: %s", show(e))
	}
	return w
}

// Rule R11: c takes the list of b before it has the bytes, leads next, and its
// own epoch begins below that of b. What a has of the first epoch is then worth
// less than c's list seems to say.
func TestAnEpochEndsWhereAnyLaterOneBegins(t *testing.T) {
	t.Parallel()
	w, id := calm(t, 3, 3)
	w.lead.up = false
	w.part("a", "c", true)
	w.unanswered(id, "a", 2, 20*ms)
	w.unanswered(id, "a", 3, 20*ms)
	w.until(time.Second, "b to have the tail of a", func() bool { return w.copy(id, "b").log.End() == w.copy(id, "a").log.End() })
	w.kill("a")
	lead := func(n volume.NodeID) {
		if err := w.decide(id, volume.Holder{}, func(e *volume.Entry) { e.Primary = n }); err != nil {
			t.Fatal(err)
		}
	}
	lead("b")
	c := w.copy(id, "c")
	w.until(time.Second, "c to take the list of b", func() bool { return c.core.Epoch() == 2 })
	w.kill("b")
	lead("c")
	w.until(time.Second, "c to lead", func() bool { return c.core.Writable() == nil })
	for k := range volume.Key(3) {
		c.write(10+k, put)
	}
	w.run(20 * ms)
	w.part("a", "c", false)
	w.start("a", "b")
	w.lead.up = true
	w.until(2*time.Second, "equal copies", func() bool { return w.isWhole(id) })
	if e := w.entry(id); w.broken == nil && e.Epoch != 3 {
		w.fail("the copies should attach as they are: %s", show(e))
	}
	w.finish(t)
}

// Rule R11: a Hello that was overtaken by a later one is never a reason to cut
// what came by the later one.
func TestALateHelloCutsNothing(t *testing.T) {
	t.Parallel()
	w, id := calm(t, 2, 2)
	a, b := w.copy(id, "a"), w.copy(id, "b")
	w.streams++
	late, _ := a.core.Hello(b.self, w.streams)
	delete(a.links, b.self)
	w.ack(id, "a", 2)
	w.ack(id, "a", 3)
	b.receive(a.self, late)
	w.run(100 * ms)
	if err := b.core.Failure(); err != nil {
		w.fail("b takes the late hello for a divergence: %v", err)
	}
	w.ack(id, "a", 4)
	if w.broken == nil && len(w.entry(id).InSync) != 2 {
		w.fail("b is out")
	}
	w.finish(t)
}

// Rule R12: an answer needs every copy in sync.
func TestAWriteWaitsForEveryCopy(t *testing.T) {
	t.Parallel()
	w, id := calm(t, 3, 3)
	w.lead.up = false
	w.cut[link{"a", "c"}] = true
	w.unanswered(id, "a", 2, 100*ms)
	w.finish(t)
}

// Rule R12: a primary that another one has replaced does not answer reads from
// what it has.
func TestAReadWaitsUntilItIsSureOfTheLead(t *testing.T) {
	t.Parallel()
	w, id := calm(t, 2, 2)
	w.lead.up = false
	w.part("a", "b", true)
	w.deaf("a", true)
	if err := w.decide(id, volume.Holder{}, func(e *volume.Entry) { move(&e.InSync, &e.Joining, "a"); e.Primary = "b" }); err != nil {
		t.Fatal(err)
	}
	w.until(time.Second, "b to lead", func() bool { return w.primary(id) != nil })
	b := w.copy(id, "b")
	o := b.write(1, del)
	w.until(time.Second, "the deletion", func() bool { return w.acked(id, o) })
	w.copy(id, "a").read(1)
	w.run(500 * ms)
	w.finish(t)
}

// Rule R12: a read does not show what may still be undone.
func TestAReadWaitsForThePendingWriteThatItShows(t *testing.T) {
	t.Parallel()
	w, id := calm(t, 3, 2)
	w.lead.up = false
	a := w.copy(id, "a")
	w.cut[link{"a", "b"}] = true
	a.write(1, del)
	w.run(10 * ms)
	a.read(1)
	w.run(300 * ms)
	if w.broken == nil && len(a.reads) != 1 {
		w.fail("the read was answered")
	}
	w.finish(t)
}

// Rule R12: a new primary has records of which it does not know that they are
// acknowledged. It must not show what they replaced.
func TestANewPrimaryDoesNotShowWhatWasDeletedBeforeIt(t *testing.T) {
	t.Parallel()
	w, id := calm(t, 2, 2)
	w.until(time.Second, "b to know of the first write", func() bool { return w.copy(id, "b").core.Committed() == w.truths[id].acked })
	o := w.copy(id, "a").write(1, del)
	w.until(time.Second, "the deletion", func() bool { return w.acked(id, o) })
	w.kill("a") // before b is told
	if err := w.decide(id, volume.Holder{}, func(e *volume.Entry) { e.Primary = "b" }); err != nil {
		t.Fatal(err)
	}
	b := w.copy(id, "b")
	w.until(time.Second, "b to lead", func() bool { return b.core.Writable() == nil })
	if w.broken == nil && b.core.Committed() >= o.end {
		w.fail("b knows of the deletion already")
	}
	b.get(1)
	w.run(100 * ms)
	w.finish(t)
}

// Rule R12: nor must it tell that there is nothing.
func TestANewPrimaryDoesNotDenyWhatWasWrittenBeforeIt(t *testing.T) {
	t.Parallel()
	w, id := calm(t, 3, 3)
	w.ack(id, "a", 2)
	w.kill("a", "c") // before b is told
	if err := w.decide(id, volume.Holder{}, func(e *volume.Entry) {
		move(&e.InSync, &e.Joining, "a")
		move(&e.InSync, &e.Joining, "c")
		e.Primary = "b"
	}); err != nil {
		t.Fatal(err)
	}
	b := w.copy(id, "b")
	w.until(time.Second, "b to lead", func() bool { return b.core.Leading() })
	b.get(2)
	w.run(100 * ms)
	w.finish(t)
}

// With fewer copies than the placement needs, pending writes wait: they were
// promised more than one disk.
func TestNothingIsAcknowledgedBelowTheLeastNumberOfCopies(t *testing.T) {
	t.Parallel()
	w, id := calm(t, 3, 3)
	w.kill("b", "c")
	a := w.copy(id, "a")
	o := a.write(2, put)
	w.run(20 * ms)
	if err := w.decide(id, volume.Holder{}, func(e *volume.Entry) {
		move(&e.InSync, &e.Joining, "b")
		move(&e.InSync, &e.Joining, "c")
	}); err != nil {
		t.Fatal(err)
	}
	w.run(500 * ms)
	if w.acked(id, o) || len(w.entry(id).InSync) != 1 {
		w.fail("acknowledged by one copy of three")
	}
	w.start("b")
	w.until(time.Second, "an acknowledgement by two", func() bool { return w.acked(id, o) })
	w.finish(t)
}

// A copy asked for that falls silent must not hold up writes for ever, nor may
// it be forgotten: only a new epoch settles whether it was added.
func TestACopyAskedForThatFallsSilentIsSettledByANewEpoch(t *testing.T) {
	t.Parallel()
	w, id := joining(t)
	w.deaf("a", false)
	w.kill("b")
	w.ack(id, "a", 3)
	w.finish(t)
}

// The lead is lost between two epochs of one's own: what waited since the first
// must not be taken for acknowledged when another's records reach its offset.
func TestTheLeadIsLostWhileEnteringASecondEpoch(t *testing.T) {
	t.Parallel()
	w, id := calm(t, 2, 2)
	w.lead.up = false
	w.part("a", "b", true)
	a, b := w.copy(id, "a"), w.copy(id, "b")
	a.write(2, put)
	w.run(10 * ms)
	w.deaf("a", true)
	for _, primary := range []volume.NodeID{"b", "a", "b"} {
		if err := w.decide(id, volume.Holder{}, func(e *volume.Entry) { e.Primary = primary }); err != nil {
			t.Fatal(err)
		}
		if e := w.entry(id); primary == "a" {
			a.learn(e) // a begins to enter it, and does not get through
		}
	}
	a.learn(w.entry(id))
	b.learn(w.entry(id))
	w.part("a", "b", false)
	w.until(time.Second, "b to lead", func() bool { return w.primary(id) != nil })
	w.ack(id, "b", 3)
	w.finish(t)
}
