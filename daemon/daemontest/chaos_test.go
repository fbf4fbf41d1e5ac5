package daemontest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"weedd/cluster"
	"weedd/daemon/daemontest"
	"weedd/volume"
)

// TestChaos makes one node after another fail, while clients at the other nodes
// work. The schedule follows from the seed; what the clients meet does not.
// WEEDD_CHAOS_SEED repeats a schedule, WEEDD_CHAOS_TIME changes for how long
// faults are made.
func TestChaos(t *testing.T) {
	if os.Getenv("WEEDD_CHAOS_TIME") == "" {
		t.Skip("takes as long as WEEDD_CHAOS_TIME says; make chaos runs it")
	}
	seed, length := uint64(time.Now().UnixNano()), time.Duration(0)
	if s := os.Getenv("WEEDD_CHAOS_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	if s := os.Getenv("WEEDD_CHAOS_TIME"); s != "" {
		var err error
		if length, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d", seed)
	x := newChaos(t, daemontest.Start(t, 3))
	x.run(rand.New(rand.NewPCG(seed, 0)), length)
	if x.slowest.took > longest {
		t.Errorf("an answer took longer than %v: %v", longest, x.slowest)
	}
	x.check()
	t.Log(x.summary())
}

// chaos is one run: the faults, and what clients know.
type chaos struct {
	t       *testing.T
	c       *daemontest.Cluster
	places  []place
	workers sync.WaitGroup

	mu       sync.Mutex
	change   chan struct{} // closed and replaced when anything below changed
	stop     bool
	away     []bool // by node: affected now
	faults   []int  // by node: how often it was affected
	degraded bool   // a fault began while the cluster was not whole: two failures at one time
	behind   bool   // a node is back, or cut off, that may not have heard of all writes yet
	ops      int
	files    []*file
	ids      map[string]bool
	count    map[string]int
	slowest  slow // at nodes that were not affected meanwhile, with one failure at a time
	slowCut  slow // all others
}

// longest bounds every answer at the nodes that are not affected. A failure is
// noticed and another copy leads within 3 s: gossip needs 0.4 s for a probe and
// 0.8 s of suspicion; the masters 0.6 s to miss their leader, and the next one
// believes gossip after 1 s; what is held looks for news four times a second.
// An upload waits longer where its first attempt, of 2.5 s, is under way as its
// primary fails, and its second one meets what is left of the failure: a split
// vote costs 2 s more. So two attempts have to do, and what waits for the end of
// its hold, 10 s, or for a connection to be found dead, is found out.
const longest = 5 * time.Second

// slow is the request that took longest to be answered.
type slow struct {
	took  time.Duration
	what  string
	began time.Time
}

func (s slow) String() string {
	return fmt.Sprintf("%v (%s, begun at %s)", s.took.Round(time.Millisecond), s.what, s.began.Format("15:04:05.000"))
}

// place is where clients reach a node; it stays the same over restarts.
type place struct{ master, volume string }

// deleted is the content of a file that is not there.
const deleted = ""

// file is what clients know of a file. One client at a time changes it; once an
// outcome is unknown nobody does, for that change may come into force late.
type file struct {
	id string

	mu      sync.Mutex
	busy    bool     // being changed, or not to be changed any more
	may     []string // the contents that a read may find now
	ever    []string // those of all changes begun
	history []string
}

// begin notes a change; the caller has set busy.
func (f *file) begin(what, content string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.may, f.ever = append(f.may, content), append(f.ever, content)
	f.note("begin " + what)
}

// done notes how the change ended: acknowledged, or of unknown outcome.
func (f *file) done(what, content string, acknowledged bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if acknowledged {
		f.may, f.busy = []string{content}, false
	}
	f.note(what)
}

func (f *file) note(what string) {
	f.history = append(f.history, time.Now().Format("15:04:05.000 ")+what)
}

func newChaos(t *testing.T, c *daemontest.Cluster) *chaos {
	x := &chaos{t: t, c: c, change: make(chan struct{}), away: make([]bool, len(c.Nodes)), faults: make([]int, len(c.Nodes)),
		ids: map[string]bool{}, count: map[string]int{}}
	for _, n := range c.Nodes {
		x.places = append(x.places, place{"http://" + n.Self.MasterHTTP, "http://" + n.Self.VolumeHTTP})
	}
	return x
}

// update changes what mu guards.
func (x *chaos) update(f func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	f()
	close(x.change)
	x.change = make(chan struct{})
}

// run makes faults for so long, then mends everything.
func (x *chaos) run(rng *rand.Rand, length time.Duration) {
	for i := range x.places {
		for k := range 2 {
			seed := rng.Uint64()
			x.workers.Go(func() { x.client(i, rand.New(rand.NewPCG(seed, uint64(k)))) })
		}
	}
	defer func() {
		x.update(func() { x.stop = true })
		x.workers.Wait()
	}()
	x.await(50)
	whole := true
	for end := time.Now().Add(length); time.Now().Before(end) && !x.t.Failed(); {
		i, kind, hold := rng.IntN(len(x.places)), rng.IntN(4), rng.IntN(3)*rng.IntN(150)
		if !whole { // volumes may have lost both of their copies, and each write to one takes its 10 s
			hold = min(hold, 20)
		}
		x.fault(i, kind, hold, whole)
		if whole = rng.IntN(2) == 0; whole {
			x.whole()
		}
		x.await(rng.IntN(60))
	}
	x.whole()
	x.await(50)
}

func (x *chaos) whole() {
	x.c.AwaitInSync()
	x.update(func() { x.degraded, x.behind = false, false })
}

// fault affects node i while so many requests are answered elsewhere, and waits
// until the node is back.
func (x *chaos) fault(i, kind, hold int, whole bool) {
	n := x.c.Nodes[i]
	name := [...]string{"kill", "stop", "isolate", "kill the leader"}[kind]
	if kind == 3 {
		n = x.c.Leader()
		i = slices.Index(x.c.Nodes, n)
	}
	x.t.Logf("%s node %d %s for %d requests", time.Now().Format("15:04:05.000"), i+1, name, hold)
	x.update(func() {
		x.away[i] = true
		x.faults[i]++
		x.degraded = x.degraded || !whole
		x.behind = x.behind || kind == 2
	})
	switch kind {
	case 0, 3:
		n.Kill()
	case 1:
		n.Stop()
	case 2:
		n.Isolate()
	}
	x.await(hold)
	if kind == 2 {
		n.Mend()
	} else {
		x.update(func() { x.behind = true })
		n.Start()
	}
	x.c.AwaitReady()
	x.t.Logf("%s node %d is back", time.Now().Format("15:04:05.000"), i+1)
	x.update(func() { x.away[i] = false })
}

// await waits until n more requests were answered.
func (x *chaos) await(n int) {
	deadline := time.After(time.Minute)
	x.mu.Lock()
	want := x.ops + n
	for x.ops < want {
		change := x.change
		x.mu.Unlock()
		select {
		case <-change:
		case <-deadline:
			x.t.Fatalf("clients do not get on")
		}
		x.mu.Lock()
	}
	x.mu.Unlock()
}

// moment is what is known when a request begins.
type moment struct {
	began    time.Time
	away     []bool
	faults   []int
	behind   bool
	degraded bool
}

func (x *chaos) now() moment {
	x.mu.Lock()
	defer x.mu.Unlock()
	return moment{time.Now(), slices.Clone(x.away), slices.Clone(x.faults), x.behind, x.degraded}
}

// affected reports whether a node that serves at base was affected since m.
func (x *chaos) affected(m moment, base string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i, p := range x.places {
		if p.master == base || p.volume == base {
			return m.away[i] || x.away[i] || m.faults[i] != x.faults[i]
		}
	}
	return false
}

// client works at node i for as long as that is not affected.
func (x *chaos) client(i int, rng *rand.Rand) {
	for k := 0; x.mayWork(i); k++ {
		switch rng.IntN(10) {
		case 0, 1, 2:
			x.submit(i, content(rng, i, k))
		case 3:
			x.assignAndPut(i, content(rng, i, k))
		case 4:
			x.modify(i, rng, http.MethodPut, content(rng, i, k))
		case 5:
			x.modify(i, rng, http.MethodDelete, deleted)
		default:
			x.read(i, rng)
		}
		x.update(func() { x.ops++ })
	}
}

// mayWork waits while node i is affected. It is false when the run is over.
func (x *chaos) mayWork(i int) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	for x.away[i] && !x.stop {
		change := x.change
		x.mu.Unlock()
		<-change
		x.mu.Lock()
	}
	return !x.stop && !x.t.Failed()
}

func content(rng *rand.Rand, i, k int) string {
	return string(bytes.Repeat(fmt.Appendf(nil, "node %d change %d ", i+1, k), 1+rng.IntN(500)))
}

// request sends a request to the node at base and counts the answer. An error,
// or a status of 500 and more, is a failure.
func (x *chaos) request(m moment, method, base, path, body string) (status int, answer []byte, err error) {
	var r io.Reader
	if body != "" {
		r = bytes.NewReader([]byte(body))
	}
	req, err := http.NewRequest(method, base+path, r)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	res, err := x.c.HTTP.Do(req)
	if err == nil {
		status = res.StatusCode
		answer, err = io.ReadAll(res.Body)
		res.Body.Close()
	}
	if err == nil && status >= 500 {
		err = fmt.Errorf("%s %s: %d %s", method, base+path, status, answer)
	}
	slowest := &x.slowest
	affected := x.affected(m, base)
	x.mu.Lock()
	defer x.mu.Unlock()
	if affected || m.degraded || x.degraded { // a volume whose last copy in sync is away waits for it
		slowest = &x.slowCut
	}
	if took := time.Since(m.began); err == nil && took > slowest.took {
		*slowest = slow{took, method + " " + base + path, m.began}
	}
	return status, answer, err
}

func (x *chaos) counted(what string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.count[what]++
}

// created notes a new file under an id that must be new.
func (x *chaos) created(id, data string) *file {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ids[id] {
		x.t.Errorf("id %s was given out twice", id)
	}
	x.ids[id] = true
	f := &file{id: id, busy: true}
	f.begin("create", data)
	x.files = append(x.files, f)
	return f
}

// failed reports a request at an unaffected node that may not fail.
func (x *chaos) failed(m moment, base, what string, err error) {
	if x.affected(m, base) {
		x.counted(what + " at an affected node")
		return
	}
	x.t.Errorf("%s: %s at %s failed after %v: %v\n%s", time.Now().Format("15:04:05.000"), what, base, time.Since(m.began), err, x.readiness())
}

// readiness is what the nodes say of themselves.
func (x *chaos) readiness() string {
	var b bytes.Buffer
	for i, p := range x.places {
		text := "does not answer"
		if res, err := x.c.HTTP.Get(p.master + "/readyz"); err == nil {
			answer, _ := io.ReadAll(res.Body)
			res.Body.Close()
			text = string(answer)
		}
		fmt.Fprintf(&b, "   node %d: %s\n", i+1, text)
	}
	return b.String()
}

func (x *chaos) submit(i int, data string) {
	m, base := x.now(), x.places[i].master
	var out struct{ FID string }
	status, answer, err := x.request(m, http.MethodPost, base, "/submit?replication=001", data)
	if err == nil && status != http.StatusCreated {
		err = fmt.Errorf("%d %s", status, answer)
	}
	if err == nil {
		err = json.Unmarshal(answer, &out)
	}
	if err != nil {
		x.failed(m, base, "submit", err)
		return
	}
	x.counted("submit")
	x.created(out.FID, data).done("submit", data, true)
}

func (x *chaos) assignAndPut(i int, data string) {
	m, base := x.now(), x.places[i].master
	var out struct{ FID, URL string }
	status, answer, err := x.request(m, http.MethodGet, base, "/dir/assign?replication=001", "")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%d %s", status, answer)
	}
	if err == nil {
		err = json.Unmarshal(answer, &out)
	}
	if err != nil {
		x.failed(m, base, "assign", err)
		return
	}
	f := x.created(out.FID, data)
	f.mu.Lock()
	f.may, f.ever = append(f.may, deleted), append(f.ever, deleted)
	f.mu.Unlock()
	x.write(x.now(), f, http.MethodPut, "http://"+out.URL, data)
}

// modify overwrites or deletes a file at node i.
func (x *chaos) modify(i int, rng *rand.Rand, method, data string) {
	f := x.any(rng)
	if f == nil {
		return
	}
	f.mu.Lock()
	if f.busy || f.may[0] == deleted {
		f.mu.Unlock()
		return
	}
	f.busy = true
	f.mu.Unlock()
	f.begin(fmt.Sprintf("%s at node %d", method, i+1), data)
	x.write(x.now(), f, method, x.places[i].volume, data)
}

// write makes a change that has begun.
func (x *chaos) write(m moment, f *file, method, base, data string) {
	status, answer, err := x.request(m, method, base, "/"+f.id, data)
	switch {
	case err == nil && (status == http.StatusCreated || status == http.StatusAccepted || status == http.StatusNoContent):
		f.done(method, data, true)
		x.counted(method)
	case err == nil:
		f.done(fmt.Sprintf("%s refused with %d", method, status), data, false)
		x.t.Errorf("%s %s at %s: %d %s; history:\n%s", method, f.id, base, status, answer, f.text())
	case x.affected(m, base):
		f.done(method+" at an affected node: "+err.Error(), data, false)
		x.counted(method + " at an affected node")
	default:
		f.done(method+" with unknown outcome: "+err.Error(), data, false)
		x.counted(method + " with unknown outcome")
		x.t.Logf("%s unknown after %v: %v", time.Now().Format("15:04:05.000"), time.Since(m.began), err)
	}
}

func (x *chaos) any(rng *rand.Rand) *file {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.files) == 0 {
		return nil
	}
	return x.files[rng.IntN(len(x.files))]
}

func (f *file) text() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b bytes.Buffer
	for _, h := range f.history {
		fmt.Fprintln(&b, "  ", h)
	}
	for _, c := range f.may {
		fmt.Fprintf(&b, "   may be %s\n", short(c))
	}
	return b.String()
}

func short(content string) string {
	return fmt.Sprintf("%d bytes %.20q", len(content), content)
}

func (x *chaos) read(i int, rng *rand.Rand) {
	f := x.any(rng)
	if f == nil {
		return
	}
	m, base := x.now(), x.places[i].volume
	f.mu.Lock()
	may, begun := slices.Clone(f.may), len(f.ever)
	f.mu.Unlock()
	got, err := x.get(m, base, f.id)
	if err != nil {
		x.mu.Lock()
		degraded := x.degraded
		x.mu.Unlock()
		if degraded {
			x.counted("read while two nodes lack copies, failed")
			return
		}
		x.failed(m, base, "read "+f.id, fmt.Errorf("%w; history:\n%s", err, f.text()))
		return
	}
	x.counted("read")
	f.mu.Lock()
	ever := f.ever
	may = append(may, f.ever[begun:]...)
	f.mu.Unlock()
	switch {
	case slices.Contains(may, got):
	case got != deleted && slices.Contains(ever, got) && (m.behind || x.now().behind):
		x.counted("read of an older content from a copy out of touch")
	default:
		x.t.Errorf("%s: read %s at node %d, begun at %s: got %s; history:\n%s", time.Now().Format("15:04:05.000"), f.id, i+1,
			m.began.Format("15:04:05.000"), short(got), f.text())
	}
}

// get reads a file.
func (x *chaos) get(m moment, base, id string) (content string, err error) {
	status, answer, err := x.request(m, http.MethodGet, base, "/"+id, "")
	switch {
	case err != nil:
		return "", err
	case status == http.StatusNotFound:
		return deleted, nil
	case status != http.StatusOK:
		return "", fmt.Errorf("%d %s", status, answer)
	case len(answer) == 0:
		return "", errors.New("an empty file")
	}
	return string(answer), nil
}

// check looks for every file at every node, and compares all copies.
func (x *chaos) check() {
	if x.t.Failed() {
		return
	}
	for i, p := range x.places {
		for _, f := range x.files {
			got, err := x.get(x.now(), p.volume, f.id)
			if err != nil || !slices.Contains(f.may, got) {
				x.t.Errorf("in the end node %d has for %s: %s %v; history:\n%s", i+1, f.id, short(got), err, f.text())
			}
		}
	}
	v := x.c.AwaitWhole()
	for _, n := range x.c.Nodes {
		n.Stop()
	}
	for _, vol := range v.Volumes {
		x.sameBytes(vol)
	}
}

// sameBytes compares the copies of a volume, up to the length committed.
func (x *chaos) sameBytes(v cluster.ViewVolume) {
	var first []byte
	for _, c := range v.Copies {
		b, err := x.bytesOf(v.Entry, c)
		if err != nil {
			x.t.Errorf("volume %d: %v", v.Entry.Volume, err)
			return
		}
		if first == nil {
			first = b
		}
		if !bytes.Equal(first, b) {
			x.t.Errorf("volume %d: copies on %s and %s differ", v.Entry.Volume, v.Copies[0].Node, c.Node)
		}
	}
}

func (x *chaos) bytesOf(e volume.Entry, c cluster.ViewCopy) ([]byte, error) {
	for _, n := range x.c.Nodes {
		if n.Self.ID != c.Node {
			continue
		}
		b, err := os.ReadFile(filepath.Join(n.Config.Volume.Disks[0].Path, fmt.Sprintf("%d.dat", e.Volume)))
		if err == nil && int64(len(b)) < c.Report.Committed {
			err = fmt.Errorf("node %s has %d of %d bytes committed", c.Node, len(b), c.Report.Committed)
		}
		if err != nil {
			return nil, err
		}
		return b[:c.Report.Committed], nil
	}
	return nil, fmt.Errorf("no node %s", c.Node)
}

func (x *chaos) summary() string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%d files; slowest answer %v, at an affected node %v", len(x.files), x.slowest, x.slowCut)
	for _, what := range slices.Sorted(maps.Keys(x.count)) {
		fmt.Fprintf(&b, "; %s: %d", what, x.count[what])
	}
	return b.String()
}
