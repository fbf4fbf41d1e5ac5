package simulation

import (
	"maps"
	"slices"
	"testing"
	"time"

	"weedd/cluster/catalog"
	"weedd/volume"
)

// left makes a world of some nodes, and a story of a volume of SeaweedFS: 1 is
// overwritten, 2 deleted, 3 as it was written.
func left(t *testing.T, nodes int) (*world, []written) {
	t.Helper()
	w := newWorld(uint64(len(t.Name())), nodes, faults{})
	return w, []written{
		w.nextWritten(1, false), w.nextWritten(2, false), w.nextWritten(1, false), w.nextWritten(3, false), w.nextWritten(2, true),
	}
}

// inherited mends everything and expects volume 7 to be ours, or to be left as it is.
func (w *world) inherited(t *testing.T, ours bool) {
	t.Helper()
	w.finish(t)
	if now := w.truths[7] != nil && !w.truths[7].adopting; now != ours {
		w.fail("volume 7 is ours: %v, want %v", now, ours)
	}
	w.report(t)
}

// Rule R15: whenever a node dies in making files ours, they are SeaweedFS's
// afterwards, whole, or ours; and they become ours in the end.
func TestANodeDiesAtEachOperationOfAnAdoption(t *testing.T) {
	t.Parallel()
	for _, u := range []untidy{{index: true, torn: true}, {order: true}, {}} {
		for power := range 2 {
			for at, died := 1, true; died; at++ {
				w, history := left(t, 2)
				w.nodes[0].leave(7, 0, 0, history, u)
				if u == (untidy{}) { // it has to be merged, and a has less
					w.nodes[0].disks, w.origins = map[volume.ID]*disk{}, map[volume.ID][]*origin{}
					w.nodes[0].leave(7, 1, 0, history[:4], u)
					w.nodes[1].leave(7, 1, 0, history[1:], u)
				}
				var by *node
				w.until(time.Second, "an order to adopt", func() bool {
					for _, n := range w.nodes {
						if len(n.adopting) > 0 {
							by = n
						}
					}
					return by != nil
				})
				by.dieIn = at
				w.until(2*time.Second, "the adoption, or a death", func() bool { return by.dieIn == 0 || len(by.running) > 0 })
				died = by.dieIn == 0
				by.dieIn = 0
				if died {
					by.die(power == 1, func() uint64 { return 0 })
					w.start(by.id)
				}
				w.until(3*time.Second, "the volume", func() bool { return w.truths[7] != nil && !w.truths[7].adopting })
				if w.checkOrigins(); w.broken != nil {
					t.Fatalf("%+v: %s died at operation %d, power cut %d: %v\n%s", u, by.id, at, power, w.broken, w.story())
				}
			}
		}
	}
}

// Rule R16: the newest append time wins, deletions included, and what one copy alone
// has is kept.
func TestCopiesThatDifferAreMerged(t *testing.T) {
	t.Parallel()
	w, story := left(t, 4)
	more := []written{
		w.nextWritten(4, false), // a alone
		w.nextWritten(3, false), // b has it anew
		w.nextWritten(1, true),  // c has it deleted
		w.nextWritten(5, false), // a and b
		w.nextWritten(5, true),  // b
		w.nextWritten(5, false), // c
		w.nextWritten(6, false), // b alone
		w.nextWritten(7, false), // c alone
	}
	pick := func(nth ...int) []written {
		out := slices.Clone(story)
		for _, i := range nth {
			out = append(out, more[i])
		}
		return out
	}
	w.nodes[0].leave(7, 2, 3, pick(0, 3), untidy{})
	w.nodes[1].leave(7, 2, 3, pick(1, 3, 4, 6), untidy{order: true})
	w.nodes[2].leave(7, 2, 3, pick(2, 5, 7)[1:], untidy{torn: true})
	w.until(2*time.Second, "the volume", func() bool { return w.truths[7] != nil && !w.truths[7].adopting })
	want := map[volume.Key]record{3: more[1].record, 4: more[0].record, 5: more[5].record, 6: more[6].record, 7: more[7].record}
	if have := w.truths[7].files(); w.broken == nil && !maps.Equal(have, want) {
		w.fail("it has %v, want %v", have, want)
	}
	w.inherited(t, true)
}

// Rule R16: copies that contradict each other stay as they are, and the key is named.
func TestCopiesThatContradictEachOtherAreLeftAsTheyAre(t *testing.T) {
	t.Parallel()
	for what, change := range map[string]func(w *world, r *written){
		"two cookies":               func(_ *world, r *written) { r.cookie++ },
		"two contents and one time": func(w *world, r *written) { *r = written{w.nextWritten(3, false).record, r.cookie, r.time, r.more + 8} },
	} {
		w, story := left(t, 3)
		other := slices.Clone(story)
		change(w, &other[3])
		w.nodes[0].leave(7, 1, 0, story, untidy{})
		w.nodes[1].leave(7, 1, 0, other, untidy{})
		w.run(time.Second)
		if e := w.entry(7); w.broken == nil && (!w.stand(e) || !namesAll(w.node(e.Primary).lost[7].Reason, []volume.Key{3})) {
			w.fail("%s: it should be left as it is, and key 3 named: %s, %+v", what, show(e), w.node(e.Primary).lost[7])
		}
		w.inherited(t, false)
	}
}

// Rule R15: what SeaweedFS wrote may be in the page cache only. It is ours once it is
// durable.
func TestWhatSeaweedFSLeftInThePageCacheIsMadeDurable(t *testing.T) {
	t.Parallel()
	for _, u := range []untidy{{cache: true}, {cache: true, order: true}, {cache: true, index: true}} {
		w, story := left(t, 1)
		w.nodes[0].leave(7, 0, 0, story, u)
		w.until(time.Second, "the volume", func() bool { return w.truths[7] != nil && !w.truths[7].adopting })
		w.nodes[0].powerCut()
		w.check()
		w.start("a")
		w.inherited(t, true)
	}
}

// Rule R15: a number is adopted only if it is free, and never was one of ours.
func TestANumberOfOursIsNotAdopted(t *testing.T) {
	t.Parallel()
	w, id := calm(t, 3, 2)
	w.lead.settles = true
	gone := w.grow(0, "a")
	w.commit(catalog.Command{Delete: &catalog.Delete{Volumes: []volume.ID{gone}}})
	_, story := left(t, 1)
	for _, id := range []volume.ID{id, gone} {
		if o := w.node("c").leave(id, 0, 0, story, untidy{}); o != nil {
			w.run(2 * time.Second)
			if v := w.node("c").disks[id].volume(); w.broken == nil && !v.Foreign() {
				w.fail("volume %d is adopted: %s", id, show(w.entry(id)))
			}
		}
	}
	w.report(t)
}

// Rules R15 and R16: a copy that comes to light when the volume is adopted already
// stays where it is, and no copy of ours is put in its place.
func TestACopyThatComesLateStaysAsItIs(t *testing.T) {
	t.Parallel()
	w, story := left(t, 3)
	w.nodes[0].leave(7, 1, 0, story[:4], untidy{})
	late := w.nodes[1].leave(7, 1, 0, story, untidy{})
	w.part("b", "", true)
	w.kill("c")
	w.until(2*time.Second, "the volume", func() bool { return w.truths[7] != nil && !w.truths[7].adopting })
	w.part("b", "", false)
	w.run(2 * time.Second)
	if e := w.entry(7); w.broken == nil && (len(e.InSync)+len(e.Joining) != 1 || !late.disk.volume().Foreign()) {
		w.fail("no node is free for the other copy: %s", show(e))
	}
	w.start("c")
	w.inherited(t, true)
}

// Rule R15: an order that was replaced in its last moment makes a copy that the next
// one does not name. The adoption is planned anew with that copy.
func TestAnOrderReplacedInItsLastMomentIsPlannedAnew(t *testing.T) {
	t.Parallel()
	w, story := left(t, 3)
	w.nodes[0].leave(7, 0, 0, story, untidy{})
	w.until(time.Second, "an order", func() bool { return len(w.nodes[0].adopting) > 0 })
	e := w.entry(7)
	w.commit(catalog.Command{Adopt: &catalog.Adopt{Volume: 7, Version: e.Version, Spec: e.Spec, Holder: volume.Holder{Node: "a", Copy: w.newCopyID()}, Sources: e.Sources, MaxKey: 3}})
	w.until(time.Second, "a copy", func() bool { return w.copy(7, "a") != nil })
	if made := w.copy(7, "a"); w.broken == nil && made.self.Copy != e.InSync[0].Copy {
		t.Skip("the second order came in time")
	}
	w.inherited(t, true)
	if e := w.entry(7); w.broken == nil && e.Version < 3 {
		w.fail("%s", show(e))
	}
}

// Rules R6 and R15: a disk is put back as it was before its volume was adopted, and the
// node hears of the adoption from a master that lags behind. It must not make the same
// copy again, which counts as in sync and would lack what was written since.
func TestADiskFromBeforeTheAdoptionIsNotAdoptedAgain(t *testing.T) {
	t.Parallel()
	w, story := left(t, 2)
	a := w.nodes[0]
	a.leave(7, 0, 0, story, untidy{})
	w.until(time.Second, "an order", func() bool { return len(a.adopting) > 0 })
	then := len(w.history) - 1
	w.until(time.Second, "the volume", func() bool { return w.primary(7) != nil })
	w.ack(7, "a", 3)
	w.kill("a")
	a.leave(7, 0, 0, story, untidy{})
	w.deaf("a", true)
	w.start("a")
	for _, e := range w.history[then].Volumes() {
		a.obey(*e)
	}
	w.run(500 * ms)
	if w.broken == nil && (w.copy(7, "a") != nil || a.lost[7].State != volume.CopyLost) {
		w.fail("a should have lost its copy: %+v", a.lost[7])
	}
	w.report(t)
}
