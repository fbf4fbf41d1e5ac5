//go:debug randseednop=0

package simulation

import (
	"flag"
	"fmt"
	mathrand "math/rand"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

var (
	seedsFlag = flag.Int("sim.seeds", 0, "how many seeds TestSeeds runs; 0 means WEEDD_SIM_SEEDS, or as many as fit into -sim.for")
	seedFlag  = flag.Uint64("sim.seed", 0, "run this seed alone")
	baseFlag  = flag.Uint64("sim.base", 1, "the first seed")
	storyFlag = flag.String("sim.story", "", "write the story of the last seed to this file")
	forFlag   = flag.Duration("sim.for", 30*time.Second, "TestSeeds begins no seed after this time")
)

// TestSeeds runs random clusters through random troubles, one after another: raft's
// timeouts come from one source for the whole process.
func TestSeeds(t *testing.T) {
	began := time.Now()
	n := *seedsFlag
	if s := os.Getenv("WEEDD_SIM_SEEDS"); n == 0 && s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil || n < 1 {
			t.Fatalf("WEEDD_SIM_SEEDS=%q is not a number of seeds", s)
		}
	}
	base := *baseFlag
	if *seedFlag != 0 {
		base, n = *seedFlag, 1
	}
	acks := map[string]int{}
	seed := base
	for ; !t.Failed() && (n == 0 && time.Since(began) < *forFlag || seed < base+uint64(n)); seed++ {
		synctest.Test(t, func(t *testing.T) {
			w := trouble(seed)
			for what, n := range w.acks {
				acks[what] += n
			}
			acks["writes"] += w.writes
			acks["commands"] += len(w.commands)
			acks["terms"] += len(w.terms)
			if *storyFlag != "" {
				os.WriteFile(*storyFlag, []byte(w.storyText()), 0o600)
			}
			if err := w.verdict(); err != nil {
				t.Errorf("seed %d: %v\nreplay: go test ./cluster/simulation -run TestSeeds -sim.seed %d -count 20\n%s", seed, err, seed, w.storyText())
			}
		})
	}
	t.Logf("seeds %d to %d in %v: %v", base, seed-1, time.Since(began).Round(time.Millisecond), acks)
}

// trouble runs one seed: some seconds of trouble, then repair.
func trouble(seed uint64) *world {
	//lint:ignore SA1019 raft draws its timeouts from this source
	mathrand.Seed(int64(seed))
	w := newWorld(seed)
	defer w.close()
	w.found([]int{1, 3, 3, 3, 5}[w.rng.IntN(5)], 4)
	scale := []time.Duration{1, 1, 2, 4}[w.rng.IntN(4)]
	for end := time.Now().Add(12 * time.Second); time.Now().Before(end) && w.verdict() == nil; {
		w.wait(scale * time.Duration(20+w.rng.IntN(400)) * ms)
		w.mishap()
	}
	w.mend()
	return w
}

// wait lets time pass, until something is broken.
func (w *world) wait(d time.Duration) {
	select {
	case <-time.After(d):
	case <-w.stopped:
	}
}

func (w *world) after(d time.Duration, f func()) {
	w.wg.Go(func() {
		if sleep(w.ctx, d) && !w.calm() {
			f()
		}
	})
}

func (w *world) between(from, to time.Duration) time.Duration {
	return from + time.Duration(w.rng.Int64N(int64(to-from)))
}

// places names everybody.
func (w *world) places() (names []string) {
	for _, h := range w.hosts {
		names = append(names, h.id)
	}
	for _, s := range w.servers {
		names = append(names, string(s.id))
	}
	return names
}

// mishap is one trouble, which ends after a while.
func (w *world) mishap() {
	hosts := w.hosts
	h := hosts[w.rng.IntN(len(hosts))]
	s := w.servers[w.rng.IntN(len(w.servers))]
	places := w.places()
	i := w.rng.IntN(len(hosts)) // a master is one of the two
	a, b := places[i], places[(i+1+w.rng.IntN(len(places)-1))%len(places)]
	d := w.between(50*ms, 3*time.Second)
	r := w.running(h.id)
	switch n := w.rng.IntN(100); {
	case n < 20 && r != nil:
		w.crash(r, w.rng.IntN(2) == 0)
		w.after(d, func() { w.revive(h) })
	case n < 25 && r != nil:
		w.wg.Go(func() {
			w.stop(r)
			sleep(w.ctx, d/4)
			w.revive(h)
		})
	case n < 27:
		w.tell("all masters lose power")
		for _, h := range hosts {
			if r := w.running(h.id); r != nil {
				w.crash(r, true)
			}
			w.after(w.between(50*ms, 2*time.Second), func() { w.revive(h) })
		}
	case n < 40:
		w.pause(a, d)
	case n < 50:
		w.tell("%s and %s hear each other no more, for %v", a, b, d)
		w.cutFor(d, link{a, b}, link{b, a})
	case n < 58:
		w.tell("%s does not hear %s, for %v", b, a, d)
		w.cutFor(d, link{a, b})
	case n < 66:
		w.isolate(places, d)
	case n < 72:
		most := w.between(ms, 100*ms)
		w.tell("messages take %v, for %v", most, d)
		w.net.set(func() { w.net.most = most })
		w.after(d, func() { w.net.set(func() { w.net.most = ms }) })
	case n < 78:
		slow := w.between(ms, 500*ms)
		w.tell("the disk of %s takes %v, for %v", h.id, slow, d)
		disk := h.disk
		disk.setSlow(slow)
		w.after(d, func() { disk.setSlow(0) })
	case n < 86 && r != nil:
		w.tell("%s is to hand over, if it leads", r.name)
		w.wg.Go(func() { _ = r.group.TransferLeadership(r.ctx) })
	case n < 90 && len(hosts) < 5 && !w.wiped:
		h := w.addHost()
		w.tell("%s is new", h.id)
		w.start(h, 0)
	case n < 93 && r != nil:
		w.wipe(h, r)
	case n < 97 && s.isUp():
		s.crash()
		w.after(d, s.start)
	default:
		w.pause(string(s.id), d)
	}
}

// wipe has a master come back with an empty disk, once: what it had acknowledged
// is on enough others, as long as nobody takes it for the member that it was. Not
// while the group grows: raft gives no vote to a member that it has not heard of, so
// one that lags behind may keep the others from electing anybody (cluster/DESIGN.md).
func (w *world) wipe(h *host, r *run) {
	if _, decided := w.newest(); w.wiped || w.founders < 3 || len(w.hosts) > w.founders || decided == 0 { // before that, one disk has all there is
		return
	}
	w.wiped = true
	w.crash(r, false)
	w.tell("%s gets an empty disk", h.id)
	w.mu.Lock()
	h.disk = newDisk(w.seed, h.id, h.id+"-raft-2", w.wrote)
	w.mu.Unlock()
	w.after(w.between(ms, time.Second), func() { w.revive(h) })
}

func (w *world) revive(h *host) {
	w.start(h, 0)
}

func (w *world) pause(place string, d time.Duration) {
	w.tell("%s freezes for %v", place, d)
	w.net.set(func() { w.net.paused[place] = true })
	w.after(d, func() { w.net.set(func() { delete(w.net.paused, place) }) })
}

func (w *world) cutFor(d time.Duration, links ...link) {
	for _, l := range links {
		w.net.part(l.from, l.to, true)
	}
	w.after(d, func() {
		for _, l := range links {
			w.net.part(l.from, l.to, false)
		}
	})
}

// isolate cuts a few places off from all others.
func (w *world) isolate(places []string, d time.Duration) {
	side := map[string]bool{}
	for _, p := range places {
		side[p] = w.rng.IntN(3) == 0
	}
	var links []link
	for _, a := range places {
		for _, b := range places {
			if side[a] != side[b] {
				links = append(links, link{a, b})
			}
		}
	}
	w.tell("%v are cut off for %v", side, d)
	w.cutFor(d, links...)
}

func (d *disk) setSlow(slow time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.slow = slow
}

// mend ends all trouble, and all must be well by itself.
func (w *world) mend() {
	if w.verdict() != nil {
		return
	}
	w.tell("MEND")
	w.mu.Lock()
	w.quiet = true
	w.mu.Unlock()
	w.net.set(func() { clear(w.net.cut); clear(w.net.paused); w.net.most = ms })
	for _, h := range w.hosts {
		h.disk.setSlow(0)
		w.revive(h)
	}
	for _, s := range w.servers {
		if !s.isUp() {
			s.start()
		}
	}
	why := ""
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end) && w.verdict() == nil; {
		if why = w.ill(); why == "" {
			return
		}
		w.wait(100 * ms)
	}
	w.fail("not well by itself: %s", why)
}

// disagree says what keeps the masters from being a group in which all know all.
func (w *world) disagree() string {
	_, all := w.newest()
	leads := 0
	for _, h := range w.hosts {
		r := w.running(h.id)
		if r == nil {
			return h.id + " is down"
		}
		if r.group.Leading() {
			leads++
		}
		r.value.mu.Lock()
		seq := r.value.seq
		r.value.mu.Unlock()
		if seq != all {
			return fmt.Sprintf("%s has %d of %d commands", r.name, seq, all)
		}
		if n := len(r.group.Members()); n != len(w.hosts) {
			return fmt.Sprintf("%s knows %d members of %d", r.name, n, len(w.hosts))
		}
	}
	if leads != 1 {
		return fmt.Sprintf("%d masters lead", leads)
	}
	return ""
}

// ill says what is not as it should be in the end.
func (w *world) ill() string {
	if why := w.disagree(); why != "" {
		return why
	}
	cat, _ := w.newest()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range cat.Volumes() {
		if s := w.server(e.Primary); !s.up || !w.ableLocked(s, e.Volume) {
			return fmt.Sprintf("volume %d takes no writes: %+v; its primary has %+v and knows %+v", e.Volume, *e, s.copies[e.Volume], s.told[e.Volume])
		}
	}
	return ""
}
