package simulation

import (
	"bytes"
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"weedd/cluster/catalog"
	"weedd/volume"
)

const ms = time.Millisecond

// faults says how bad the world is. The zero value is a calm one.
type faults struct {
	drop, repeat, reorder float64       // of messages, each
	slow                  float64       // messages that take long
	crash, pause, part    time.Duration // mean time between crashes, freezes, partitions, over all nodes; 0 never
	replace, fsync        time.Duration // the same for replaced disks and failed fsyncs
	outage                time.Duration // the same for times without a leader
	whims                 float64       // decisions of the leader that nothing called for
	lag                   time.Duration // how far masters may be behind
}

var stormy = faults{
	drop: 0.02, repeat: 0.02, reorder: 0.02, slow: 0.01,
	crash: 250 * ms, pause: 400 * ms, part: 300 * ms, replace: 1500 * ms, fsync: 2500 * ms, outage: 900 * ms,
	whims: 0.03, lag: 400 * ms,
}

// world is a cluster in one goroutine. One generator of random numbers decides
// everything, so a seed replays.
type world struct {
	faults
	rng   *rand.Rand
	now   time.Duration
	queue events
	count uint64 // of events ever, which orders those of one moment

	history  []*catalog.Catalog // after each command; the last is the newest
	nodes    []*node
	masters  []*master
	lead     *leader
	truths   map[volume.ID]*truth
	origins  map[volume.ID][]*origin           // what SeaweedFS left
	madeFrom map[volume.CopyID][]volume.Source // what a copy of ours was made from, or was begun to be
	highest  volume.Key                        // in an adopted volume
	handed   map[volume.Key]string             // every key handed out, and by whom
	client   *client
	cut      map[link]bool // directed; the leader is node ""
	fifo     map[link]time.Duration
	streams  uint64
	copies   uint64

	broken error // the first thing that must not be
	lines  []string
	acks   int

	compactions int
	freezes     int // volumes of which an operator was told that they change no more
	drops       int
	adoptions   int
	unmerged    int // because copies contradict each other
}

type link struct{ from, to volume.NodeID }

func newWorld(seed uint64, nodes int, f faults) *world {
	w := &world{
		faults: f, rng: rand.New(rand.NewPCG(seed, 0x5eed)), history: []*catalog.Catalog{catalog.New()},
		truths: map[volume.ID]*truth{}, origins: map[volume.ID][]*origin{}, madeFrom: map[volume.CopyID][]volume.Source{}, handed: map[volume.Key]string{}, cut: map[link]bool{}, fifo: map[link]time.Duration{},
	}
	w.lead = &leader{w: w, heard: map[volume.NodeID]*heard{}, up: true, settles: true, seen: map[volume.ID]time.Duration{}, planned: map[volume.ID]time.Duration{}}
	w.client = &client{w: w, failNext: map[volume.NodeID]bool{}}
	for i := range 3 {
		w.masters = append(w.masters, &master{w: w, name: fmt.Sprintf("m%d", i)})
	}
	for i := range nodes {
		w.nodes = append(w.nodes, w.newNode(volume.NodeID('a'+rune(i))))
	}
	w.commit(catalog.Command{Found: &catalog.Found{Cluster: "sim"}})
	w.every(40*ms, w.lead.tick)
	w.every(15*ms, func() { w.masters[w.rng.IntN(len(w.masters))].advance() })
	return w
}

// Time.

type event struct {
	at  time.Duration
	nth uint64
	do  func()
}

type events []event

func (q events) Len() int { return len(q) }
func (q events) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].nth < q[j].nth
}
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *events) Push(e any)   { *q = append(*q, e.(event)) }
func (q *events) Pop() any {
	old := *q
	e := old[len(old)-1]
	*q = old[:len(old)-1]
	return e
}

func (w *world) after(d time.Duration, do func()) {
	w.count++
	heap.Push(&w.queue, event{w.now + d, w.count, do})
}

// every does something again and again, at intervals that vary.
func (w *world) every(d time.Duration, do func()) {
	w.after(w.between(d/2, d), func() {
		do()
		w.every(d, do)
	})
}

// often does the same with exponential intervals, for faults; never if d is 0.
func (w *world) often(d *time.Duration, do func()) {
	if *d == 0 {
		return
	}
	w.after(time.Duration(w.rng.ExpFloat64()*float64(*d)), func() {
		if *d != 0 {
			do()
			w.often(d, do)
		}
	})
}

func (w *world) between(a, b time.Duration) time.Duration {
	return a + time.Duration(w.rng.Int64N(int64(b-a)+1))
}

func (w *world) chance(p float64) bool { return p > 0 && w.rng.Float64() < p }

// step does the next event and looks for what must not be.
func (w *world) step() bool {
	if w.broken != nil || len(w.queue) == 0 {
		return false
	}
	e := heap.Pop(&w.queue).(event)
	w.now = e.at
	e.do()
	w.buried()
	w.check()
	return w.broken == nil
}

func (w *world) run(d time.Duration) {
	for end := w.now + d; w.broken == nil && len(w.queue) > 0 && w.queue[0].at <= end; {
		w.step()
	}
}

// until runs until cond holds; it is a failure if it does not within d.
func (w *world) until(d time.Duration, what string, cond func() bool) {
	for end := w.now + d; w.broken == nil && !cond(); {
		if w.now > end {
			w.fail("%s: not within %v", what, d)
			return
		}
		w.step()
	}
}

func (w *world) fail(format string, args ...any) {
	if w.broken == nil {
		w.broken = fmt.Errorf(format, args...)
		w.trace("BROKEN: %v", w.broken)
	}
}

const traced = 400

func (w *world) trace(format string, args ...any) {
	w.lines = append(w.lines, fmt.Sprintf("%9.1fms ", float64(w.now)/float64(ms))+fmt.Sprintf(format, args...))
	if len(w.lines) > 2*traced {
		w.lines = append([]string(nil), w.lines[traced:]...)
	}
}

func (w *world) story() string {
	lines := w.lines[max(0, len(w.lines)-traced):]
	return strings.Join(lines, "\n")
}

// Network.

// carry brings something from one place to another, or does not.
func (w *world) carry(from, to volume.NodeID, arrive func()) {
	if w.chance(w.drop) {
		return
	}
	l := link{from, to}
	d := w.between(ms/2, 3*ms)
	if w.chance(w.slow) {
		d = w.between(3*ms, 1500*ms)
	} else if !w.chance(w.reorder) { // mostly in order, as a connection is
		d = max(d, w.fifo[l]-w.now+1)
		w.fifo[l] = w.now + d
	}
	deliver := func() {
		if !w.cut[l] {
			arrive()
		}
	}
	w.after(d, deliver)
	if w.chance(w.repeat) {
		w.after(d+w.between(0, 200*ms), deliver)
	}
}

// part cuts or mends the way between two places, both directions.
func (w *world) part(a, b volume.NodeID, cut bool) {
	w.cut[link{a, b}], w.cut[link{b, a}] = cut, cut
}

func (w *world) node(id volume.NodeID) *node {
	for _, n := range w.nodes {
		if n.id == id {
			return n
		}
	}
	return nil
}

// Masters.

func (w *world) catalog() *catalog.Catalog { return w.history[len(w.history)-1] }

// commit applies a command as every master would: from its encoded form.
func (w *world) commit(cmd catalog.Command) catalog.Result {
	decoded, err := catalog.Decode(cmd.Encode())
	if err != nil {
		w.fail("decode a command: %v", err)
		return catalog.Result{Err: err}
	}
	before := w.catalog()
	if w.chance(0.02) { // a master that restarted from a snapshot goes on the same way
		var snapshot bytes.Buffer
		if err := before.Write(&snapshot); err != nil {
			w.fail("%v", err)
		}
		if before, err = catalog.Read(&snapshot); err != nil {
			w.fail("%v", err)
		}
	}
	next, res := before.Apply(decoded)
	w.history = append(w.history, next)
	for i, e := range res.Entries {
		if e == nil {
			continue
		}
		if w.truths[e.Volume] == nil {
			w.truths[e.Volume] = newTruth()
		}
		why := ""
		if i < len(res.Errs) && res.Errs[i] != nil {
			why = res.Errs[i].Error()
		}
		w.trace("COMMIT v%d %s %s", e.Volume, show(*e), why)
		w.decided(e)
	}
	if cmd.Adopt != nil && res.Err == nil {
		w.highest = max(w.highest, cmd.Adopt.MaxKey)
	}
	return res
}

// decided takes an entry that is new.
func (w *world) decided(e *volume.Entry) {
	w.truths[e.Volume].thaw(e)
	switch t := w.truths[e.Volume]; {
	case e.Adopted() && e.State == volume.StateNew:
		t.adopting, t.generation = true, e.Generation
		return
	case t.adopting:
		w.founded(e)
	case e.Generation > t.generation:
		w.compacted(e)
	}
	for _, h := range slices.Concat(e.InSync, e.Joining) {
		w.truths[e.Volume].members[h] = true
	}
}

func (w *world) entry(id volume.ID) volume.Entry {
	e, ok := w.catalog().Volume(id)
	if !ok {
		return volume.Entry{}
	}
	return *e
}

func (w *world) newCopyID() volume.CopyID {
	w.copies++
	return volume.CopyID(w.copies)
}

// grow makes a volume with copies on the nodes named, the first being primary.
func (w *world) grow(placement volume.Placement, nodes ...volume.NodeID) volume.ID {
	v := catalog.NewVolume{Spec: volume.Spec{Placement: placement}, Primary: nodes[0]}
	for _, n := range nodes {
		v.Holders = append(v.Holders, volume.Holder{Node: n, Copy: w.newCopyID()})
	}
	res := w.commit(catalog.Command{Grow: &catalog.Grow{Volumes: []catalog.NewVolume{v}}})
	if res.Err != nil {
		w.fail("grow: %v", res.Err)
		return 0
	}
	return res.Entries[0].Volume
}

func show(e volume.Entry) string {
	hs := func(hs []volume.Holder) string {
		var s []string
		for _, h := range hs {
			s = append(s, fmt.Sprintf("%s%d", h.Node, uint64(h.Copy)))
		}
		return strings.Join(s, " ")
	}
	return fmt.Sprintf("epoch %d version %d generation %d %s primary %s in sync [%s] joining [%s]", e.Epoch, e.Version, e.Generation, e.State, e.Primary, hs(e.InSync), hs(e.Joining))
}

// master hands out keys from blocks, and knows the catalog up to some command.
type master struct {
	w       *world
	name    string
	run     int
	applied int // commands
	block   catalog.Block
	asking  bool
}

// advance applies more of the log, though perhaps not all.
func (m *master) advance() {
	newest := len(m.w.history) - 1
	if m.w.lag > 0 && m.w.chance(0.5) {
		m.applied += m.w.rng.IntN(newest - m.applied + 1)
		return
	}
	m.applied = newest
}

// assign hands out a key, or asks for a block and hands out none.
func (m *master) assign() (volume.Key, bool) {
	if m.block.From == m.block.To {
		m.wantBlock()
		return 0, false
	}
	k := m.block.From
	m.block.From++
	if by, twice := m.w.handed[k]; twice {
		m.w.fail("R1: key %d handed out by %s was handed out by %s before", k, m.name, by)
	}
	m.w.handed[k] = fmt.Sprintf("%s run %d", m.name, m.run)
	return k, true
}

// wantBlock proposes to take a block. The answer belongs to this run alone.
func (m *master) wantBlock() {
	if m.asking || !m.w.lead.up {
		return
	}
	m.asking = true
	run := m.run
	m.w.after(m.w.between(ms, 20*ms), func() {
		res := m.w.commit(catalog.Command{Keys: &catalog.Keys{Count: 1 + m.w.rng.Uint64N(4)}})
		if res.Keys.From <= m.w.highest {
			m.w.fail("R1: keys from %d on are handed out, and an adopted volume has key %d", res.Keys.From, m.w.highest)
		}
		m.w.after(m.w.between(ms, 20*ms), func() {
			if m.run != run {
				return
			}
			m.asking = false
			if !m.w.chance(m.w.drop) { // else the answer was lost, and the block with it
				m.block = res.Keys
			}
		})
	})
}

// restart forgets all that is not in the log.
func (m *master) restart() {
	m.run++
	m.block, m.asking = catalog.Block{}, false
	m.applied = m.w.rng.IntN(len(m.w.history))
}
