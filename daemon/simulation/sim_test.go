package simulation

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weedd/volume"
)

var (
	seedsFlag = flag.Int("sim.seeds", 0, "how many seeds TestSeeds runs; 0 means WEEDD_SIM_SEEDS, or as many as fit into -sim.for")
	forFlag   = flag.Duration("sim.for", usual, "TestSeeds begins no seed after this time, unless seeds are counted")
	seedFlag  = flag.Uint64("sim.seed", 0, "run this seed alone")
	baseFlag  = flag.Uint64("sim.base", 1, "the first seed")
)

// seeds says how many seeds to run, and for how long to begin others.
func seeds(t *testing.T) (n int, atMost time.Duration) {
	const always = 1000 * time.Hour
	if *seedsFlag > 0 {
		return *seedsFlag, always
	}
	if s := os.Getenv("WEEDD_SIM_SEEDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			t.Fatalf("WEEDD_SIM_SEEDS=%q is not a number of seeds", s)
		}
		return n, always
	}
	return math.MaxInt, *forFlag
}

// TestSeeds runs random worlds through random troubles.
func TestSeeds(t *testing.T) {
	t.Parallel()
	base, began := *baseFlag, time.Now()
	n, atMost := seeds(t)
	if *seedFlag != 0 {
		base, n = *seedFlag, 1
	}
	var next, ran, acks, waiting, compactions, freezes, drops, adoptions, unmerged atomic.Int64
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() {
			for !t.Failed() && time.Since(began) < atMost {
				i := next.Add(1) - 1
				if i >= int64(n) {
					return
				}
				ran.Add(1)
				seed := base + uint64(i)
				w, stuck := trouble(seed)
				if w.broken != nil {
					t.Errorf("seed %d: %v\nreplay: go test ./daemon/simulation -run TestSeeds -sim.seed %d\n%s\n%s", seed, w.broken, seed, w.story(), w.copiesNow())
				}
				acks.Add(int64(w.acks))
				waiting.Add(int64(stuck))
				compactions.Add(int64(w.compactions))
				freezes.Add(int64(w.freezes))
				drops.Add(int64(w.drops))
				adoptions.Add(int64(w.adoptions))
				unmerged.Add(int64(w.unmerged))
			}
		})
	}
	workers.Wait()
	t.Logf("seeds %d to %d in %v: %d writes acknowledged; %d compactions; %d times read-only; %d surplus copies dropped; %d volumes adopted, %d left because copies contradict each other; %d volumes ended without a copy that may lead",
		base, base+uint64(ran.Load())-1, time.Since(began).Round(time.Millisecond), acks.Load(), compactions.Load(), freezes.Load(), drops.Load(), adoptions.Load(), unmerged.Load(), waiting.Load())
}

// A seed that failed is of use only if it fails again.
func TestASeedReplays(t *testing.T) {
	t.Parallel()
	for seed := *baseFlag; seed < *baseFlag+2; seed++ {
		first, _ := trouble(seed)
		again, _ := trouble(seed)
		if a, b := first.story(), again.story(); a != b || first.acks != again.acks {
			t.Errorf("seed %d goes another way the second time:\n%s\n--- and\n%s", seed, a, b)
		}
	}
}

// trouble runs one seed: some seconds of trouble, then repair.
func trouble(seed uint64) (w *world, stuck int) {
	f := stormy
	w = newWorld(seed, 4, f)
	scale := []time.Duration{1, 1, 2, 4, 8}[w.rng.IntN(5)] // from storms to mostly fair weather
	for _, d := range []*time.Duration{&w.crash, &w.pause, &w.faults.part, &w.replace, &w.fsync, &w.outage} {
		*d *= scale
		if w.chance(0.2) {
			*d = 0
		}
	}
	w.grow(1, "a", "b")
	w.grow(2, "b", "c", "d")
	for id := volume.ID(7); w.chance(0.4); id++ {
		w.inherit(id, w.chance(0.7))
	}
	w.every(6*ms, func() { w.client.act() })
	w.every(120*ms, func() {
		if r := w.client.anyPrimary(w.anyVolume()); r != nil && !w.client.stop {
			r.compact()
		}
	})
	w.unleash()
	w.run(4 * time.Second)
	return w, w.mend()
}

func (w *world) anyVolume() volume.ID {
	all := w.catalog().Volumes()
	return all[w.rng.IntN(len(all))].Volume
}

// unleash begins the faults.
func (w *world) unleash() {
	any := func() *node { return w.nodes[w.rng.IntN(len(w.nodes))] }
	w.often(&w.crash, func() {
		if n := any(); n.up && w.chance(0.5) {
			n.dieSoon(60)
		} else if n.up && w.chance(0.4) {
			n.sayGoodbye()
			w.after(w.between(0, 100*ms), func() {
				if n.up {
					n.crash()
				}
			})
			w.after(w.between(110*ms, 700*ms), n.revive)
		} else if n.up {
			n.crash()
			w.after(w.between(10*ms, 600*ms), n.revive)
		}
		if w.chance(0.2) {
			w.masters[w.rng.IntN(len(w.masters))].restart()
		}
	})
	w.often(&w.pause, func() {
		n := any()
		n.froze = w.now + w.between(20*ms, 600*ms)
		w.trace("%s freezes until %v", n.id, n.froze)
	})
	w.often(&w.faults.part, func() {
		places := []volume.NodeID{"", "masters"}
		for _, n := range w.nodes {
			places = append(places, n.id)
		}
		a, b := any().id, places[w.rng.IntN(len(places))]
		w.trace("cut %s from %q", a, b)
		w.part(a, b, true)
		w.after(w.between(50*ms, 700*ms), func() { w.part(a, b, false) })
	})
	w.often(&w.replace, func() { w.replaceDisk(any()) })
	w.often(&w.fsync, func() { w.failFsync(any()) })
	w.often(&w.outage, func() {
		w.lead.up = false
		w.after(w.between(50*ms, 800*ms), func() { w.lead.up = true })
	})
}

func (n *node) revive() {
	if !n.up {
		n.start()
	}
}

// spare reports whether every volume that n holds in sync is whole on another
// node that counts as in sync: the world does not take the last copy away.
func (w *world) spare(n *node) bool {
	for _, e := range w.catalog().Volumes() {
		if h, inSync, _ := e.Holder(n.id); inSync {
			others := 0
			for _, o := range e.InSync {
				if o != h && w.whole(e.Volume, o) && !w.client.failNext[o.Node] {
					others++
				}
			}
			if others == 0 {
				return false
			}
		}
	}
	return true
}

// whole reports whether a copy's disk is there and has not failed.
func (w *world) whole(id volume.ID, h volume.Holder) bool {
	d := w.node(h.Node).disks[id]
	return d.holds(h.Copy) && d.volume().Failed() == nil && !d.volume().Foreign()
}

func (w *world) replaceDisk(n *node) {
	if !w.spare(n) || n.inherits() {
		return
	}
	if n.up {
		n.crash()
	}
	w.trace("%s gets an empty disk", n.id)
	n.disks, n.mishap = map[volume.ID]*disk{}, w.now
	w.after(w.between(10*ms, 600*ms), n.revive)
}

// inherits reports whether what is on a node may be all there is of a volume of
// SeaweedFS.
func (n *node) inherits() bool {
	for id := range n.disks {
		if t := n.w.truths[id]; len(n.w.origins[id]) > 0 && (t == nil || t.adopting) || len(n.w.foreigners(id)) > 0 {
			return true
		}
	}
	return false
}

func (w *world) failFsync(n *node) {
	if w.spare(n) {
		w.client.failNext[n.id] = true
	}
}

// mend ends all faults and waits until every volume is whole again. It returns
// how many volumes cannot be: all that may lead are gone (rule R7).
func (w *world) mend() (stuck int) {
	if w.broken != nil {
		return 0
	}
	w.trace("MEND")
	w.faults = faults{}
	w.cut = map[link]bool{}
	w.client.failNext = map[volume.NodeID]bool{}
	w.lead.up, w.lead.hold, w.lead.deafTo = true, 0, ""
	for _, n := range w.nodes {
		n.froze, n.dieIn = w.now, 0
		n.revive()
	}
	for _, m := range w.masters {
		m.applied = len(w.history) - 1
	}
	w.client.stop = true
	w.endAdoptions()
	for _, e := range w.catalog().Volumes() {
		switch {
		case w.truths[e.Volume].adopting:
		case w.hopeless(e.Volume):
			stuck++
		default:
			w.heal(e.Volume)
		}
	}
	w.noStrays()
	w.checkOrigins()
	return stuck
}

// endAdoptions waits until every volume of SeaweedFS is ours, but for those whose
// copies contradict each other.
func (w *world) endAdoptions() {
	for _, id := range slices.Sorted(maps.Keys(w.origins)) {
		w.until(20*time.Second, fmt.Sprintf("volume %d adopted, or left as it is", id), func() bool {
			t := w.truths[id]
			return t != nil && (!t.adopting || w.stand(w.entry(id)))
		})
		if t := w.truths[id]; t != nil && t.adopting {
			w.unmerged++
		}
	}
}

func (w *world) hopeless(id volume.ID) bool {
	for _, h := range w.entry(id).InSync {
		if w.whole(id, h) {
			return false
		}
	}
	return true
}

// heal waits until a volume has all its copies, equal, takes a write, and shows
// the newest state of every key.
func (w *world) heal(id volume.ID) {
	w.until(30*time.Second, fmt.Sprintf("volume %d whole again", id), func() bool { return w.isWhole(id) || w.hopeless(id) })
	if w.hopeless(id) || w.broken != nil {
		return
	}
	w.lastCompaction(id)
	w.lastWrite(id)
	w.until(10*time.Second, fmt.Sprintf("equal copies of volume %d", id), func() bool { return w.isWhole(id) })
	w.lastReads(id)
}

// primary gives the copy that may write, nil while there is none.
func (w *world) primary(id volume.ID) *run {
	r := w.node(w.entry(id).Primary).running[id]
	if r == nil || r.core.Writable() != nil {
		return nil
	}
	return r
}

// lastWrite writes until it is acknowledged: what was asked before all was
// mended may still arrive and change who leads.
func (w *world) lastWrite(id volume.ID) {
	var o *op
	var at *run
	w.until(10*time.Second, fmt.Sprintf("a last write to volume %d", id), func() bool {
		if r := w.primary(id); r != nil && (r != at || w.now-o.began > time.Second) {
			o, at = r.write(1<<20, put), r
		}
		return o != nil && w.acked(id, o)
	})
}

// lastCompaction compacts the volume: whatever was left over of attempts before
// does not prevent that.
func (w *world) lastCompaction(id volume.ID) {
	was := w.truths[id].generation
	w.until(10*time.Second, fmt.Sprintf("a last compaction of volume %d", id), func() bool {
		if r := w.primary(id); r != nil {
			r.compact()
		}
		return w.truths[id].generation > was
	})
	w.until(5*time.Second, fmt.Sprintf("equal copies of volume %d after compaction", id), func() bool { return w.isWhole(id) && w.isTidy(id) })
}

// lastReads looks at every key when all is well.
func (w *world) lastReads(id volume.ID) {
	w.until(10*time.Second, fmt.Sprintf("a primary of volume %d", id), func() bool { return w.primary(id) != nil })
	if w.broken != nil {
		return
	}
	r, shown := w.primary(id), map[volume.Key]*read{}
	for _, f := range w.client.keys {
		if f.volume == id {
			shown[f.key] = r.read(f.key)
		}
	}
	w.until(5*time.Second, fmt.Sprintf("the last reads of volume %d", id), func() bool { return len(r.reads) == 0 })
	files := w.truths[id].files()
	for _, f := range w.client.keys {
		if f.volume != id {
			continue
		}
		newest := files[f.key]
		if was := shown[f.key].shows; was != newest {
			w.fail("key %d of volume %d: %+v is the newest, %+v was shown", f.key, id, newest, was)
		}
	}
}

func (w *world) isWhole(id volume.ID) bool {
	e := w.entry(id)
	if e.State != volume.StateOpen && !e.Adopted() || len(e.InSync) != w.room(e) || len(e.Joining) > 0 {
		return false
	}
	primary := w.node(e.Primary).running[id]
	if primary == nil || primary.core.Writable() != nil {
		return false
	}
	for _, h := range e.InSync {
		r := w.node(h.Node).running[id]
		if r == nil || r.self != h || r.core.Committed() != r.log.End() || r.log.Committed() != r.log.End() || r.log.End() != primary.log.End() {
			return false
		}
		mine, _ := r.disk.data()
		theirs, _ := primary.disk.data()
		if !bytes.Equal(mine, theirs) {
			return false
		}
	}
	return int64(len(w.truths[id].log)) == primary.log.End()
}

// room is how many copies of a volume there can be: none is put on a node with files
// of SeaweedFS that came to light too late to be in it.
func (w *world) room(e volume.Entry) int {
	free := 0
	for _, n := range w.nodes {
		if _, foreign := n.foreign(e.Volume); !foreign || n.madeFrom(e) {
			free++
		}
	}
	return min(e.Spec.Placement.Copies(), free)
}

// isTidy reports whether no new files are left over on the copies of a volume.
func (w *world) isTidy(id volume.ID) bool {
	for _, h := range w.entry(id).InSync {
		if !w.node(h.Node).disks[id].tidy() {
			return false
		}
	}
	return true
}

// report fails the test if the world broke, with its story.
func (w *world) report(t *testing.T) {
	t.Helper()
	if w.broken != nil {
		t.Fatalf("%v\n%s\n%s", w.broken, w.story(), w.copiesNow())
	}
}

func (w *world) copiesNow() string {
	var s []string
	for _, n := range w.nodes {
		for _, r := range n.running {
			s = append(s, r.String())
		}
	}
	return strings.Join(s, "\n")
}
