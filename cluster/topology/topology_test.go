package topology_test

import (
	"fmt"
	"testing"
	"time"

	"weedd/cluster"
	"weedd/cluster/catalog"
	"weedd/cluster/placement"
	"weedd/cluster/topology"
	"weedd/volume"
)

// t0 is when the term of every test begins.
var t0 = time.Unix(1_000_000, 0)

func at(ms int) time.Time { return t0.Add(time.Duration(ms) * time.Millisecond) }

func member(id volume.NodeID, alive, ready bool) cluster.Node {
	return cluster.Node{ID: id, Roles: cluster.RoleVolume, Internal: string(id) + ":9332", VolumeHTTP: string(id) + ":8080", Alive: alive, Ready: ready}
}

func node(t *testing.T, m *topology.Map, cat *catalog.Catalog, now time.Time) placement.Node {
	t.Helper()
	for _, n := range m.View(cat, now).Nodes {
		if n.ID == "n" {
			return n
		}
	}
	t.Fatal("node n is not in the view")
	return placement.Node{}
}

// two has one new volume on nodes n and o.
func two(t *testing.T) *catalog.Catalog {
	t.Helper()
	cat, res := catalog.New().Apply(catalog.Command{Grow: &catalog.Grow{Volumes: []catalog.NewVolume{{Primary: "n", Holders: []volume.Holder{{Node: "n", Copy: 1}, {Node: "o", Copy: 2}}}}}})
	if res.Err != nil {
		t.Fatal(res.Err)
	}
	return cat
}

func TestWhoCountsAsAlive(t *testing.T) {
	t.Parallel()
	type step = func(*topology.Map)
	gossip := func(alive, ready bool) step {
		return func(m *topology.Map) { m.Members([]cluster.Node{member("n", alive, ready)}) }
	}
	forgotten := func(m *topology.Map) { m.Members(nil) }
	attach := func(ms int) step { return func(m *topology.Map) { m.Attach("n", at(ms)) } }
	detach := func(m *topology.Map) { m.Detach("n", 1) }
	refused := func(ms int) step { return func(m *topology.Map) { m.Refused("n", at(ms)) } }
	answered := func(ms int) step { return func(m *topology.Map) { m.Answered("n", at(ms)) } }
	missed := func(m *topology.Map) { m.Missed("n") }
	tests := []struct {
		name  string
		steps []step
		now   int // ms
		alive bool
	}{
		{"a node that gossip has not met has its time to come", []step{forgotten}, 1400, true},
		{"but no longer than that", []step{forgotten}, 1600, false},
		{"gossip alone does not outdo a term that has just begun", []step{gossip(false, true)}, 900, true},
		{"a second later it does", []step{gossip(false, true)}, 1100, false},
		{"a node that gossip believes in has longer", []step{gossip(true, true)}, 3000, true},
		{"but not for ever without a word", []step{gossip(true, true)}, 11000, false},
		{"unless it answers probes", []step{gossip(true, true), answered(9000)}, 11000, true},
		{"a closed port is death at once", []step{gossip(true, true), refused(10)}, 20, false},
		{"also for one that lost its stream", []step{gossip(true, true), attach(10), detach, refused(20)}, 30, false},
		{"not for one whose stream is up", []step{gossip(true, true), attach(10), refused(5)}, 20, true},
		{"not by a probe older than the last word", []step{gossip(true, true), attach(10), detach, refused(5)}, 20, true},
		{"a new stream is life again", []step{gossip(true, true), refused(10), attach(20)}, 30, true},
		{"a port that opens again is too", []step{gossip(true, true), refused(10), answered(20)}, 30, true},
		{"a broken stream alone is not death", []step{gossip(true, true), attach(10), detach}, 3000, true},
		{"gossip alone does not outdo a report of just now", []step{gossip(true, true), attach(5000), gossip(false, true)}, 5900, true},
		{"gossip and silence together are death", []step{gossip(true, true), attach(5000), gossip(false, true)}, 6100, false},
		{"an answer to a probe does not outdo them", []step{gossip(true, true), attach(5000), gossip(false, true), answered(6050)}, 6100, false},
		{"a silent stream is believed for some seconds while gossip is content", []step{gossip(true, true), attach(5000)}, 14000, true},
		{"and then no longer", []step{gossip(true, true), attach(5000)}, 15100, false},
		{"one probe without an answer is nothing", []step{gossip(true, true), attach(10), missed}, 20, true},
		{"two say that nothing gets there, whatever it says", []step{gossip(true, true), attach(10), missed, missed}, 20, false},
		{"a new stream is no proof that anything does", []step{gossip(true, true), missed, missed, attach(10)}, 20, false},
		{"an answer is", []step{gossip(true, true), attach(10), missed, missed, answered(20)}, 30, true},
		{"who says that it stops and hangs up is gone", []step{gossip(true, true), attach(10), gossip(true, false), detach}, 20, false},
		{"who says that it stops is there as long as its stream", []step{gossip(true, true), attach(10), gossip(true, false)}, 20, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := topology.New(topology.Settings{}, t0)
			for _, s := range tt.steps {
				s(m)
			}
			n := node(t, m, two(t), at(tt.now))
			if n.Alive != tt.alive || (n.Away == 0) != tt.alive {
				t.Errorf("alive %v, away %v", n.Alive, n.Away)
			}
		})
	}
}

func TestTheTimeAwayIsCountedFromTheFirstLookThatMissedIt(t *testing.T) {
	t.Parallel()
	m, cat := topology.New(topology.Settings{}, t0), two(t)
	m.Members([]cluster.Node{member("n", true, true)})
	m.Attach("n", at(0))
	m.Detach("n", 1)
	m.Refused("n", at(100))
	node(t, m, cat, at(200))
	if n := node(t, m, cat, at(900)); n.Away != 700*time.Millisecond {
		t.Errorf("away for %v", n.Away)
	}
	m.Attach("n", at(1000))
	if n := node(t, m, cat, at(1100)); n.Away != 0 || !n.Alive {
		t.Errorf("back, yet away for %v", n.Away)
	}
}

func TestReportsReplaceAndChange(t *testing.T) {
	t.Parallel()
	m := topology.New(topology.Settings{}, t0)
	m.Members([]cluster.Node{member("n", true, true)})
	cp := func(id volume.ID, size int64) volume.CopyReport {
		return volume.CopyReport{Volume: id, Copy: volume.CopyID(id), Size: size, State: volume.CopyHealthy}
	}
	sizes := func() string {
		s := ""
		for _, stray := range m.Strays(catalog.New(), "n") {
			s += fmt.Sprintf("%d:%d ", stray.Report.Volume, stray.Report.Size)
		}
		return s
	}
	stream := m.Attach("n", at(0))
	for _, tt := range []struct {
		name   string
		report volume.Report
		news   bool
		want   string
	}{
		{"a full report says all", volume.Report{Full: true, Copies: []volume.CopyReport{cp(2, 20), cp(1, 10)}, Disks: []volume.DiskReport{{Dir: "/a"}}}, true, "1:10 2:20 "},
		{"a sign of life changes nothing", volume.Report{}, false, "1:10 2:20 "},
		{"growth can wait", volume.Report{Copies: []volume.CopyReport{cp(2, 21)}, Disks: []volume.DiskReport{{Dir: "/a", FreeB: 9}}}, false, "1:10 2:21 "},
		{"a fenced disk cannot", volume.Report{Disks: []volume.DiskReport{{Dir: "/a", Fenced: "slow"}}}, true, "1:10 2:21 "},
		{"a copy that went is gone", volume.Report{Gone: []volume.ID{1}}, true, "2:21 "},
		{"a full report forgets what it does not name", volume.Report{Full: true, Copies: []volume.CopyReport{cp(3, 30)}}, true, "3:30 "},
		{"a lost copy is no stray", volume.Report{Copies: []volume.CopyReport{{Volume: 3, Copy: 3, State: volume.CopyLost}}}, true, ""},
	} {
		tt.report.Node = "n"
		news, current := m.Report(stream, tt.report, at(10))
		if news != tt.news || !current || sizes() != tt.want {
			t.Errorf("%s: news %v, %q, want %q", tt.name, news, sizes(), tt.want)
		}
	}
	if v := m.Nodes(at(110)); len(v) != 1 || v[0].LastReportMS != 100 || len(v[0].Disks) != 1 || !v[0].Ready || v[0].URL != "n:8080" {
		t.Errorf("%+v", v)
	}
	newer := m.Attach("n", at(20))
	if _, current := m.Report(stream, volume.Report{Node: "n", Full: true}, at(30)); current {
		t.Error("an older stream was listened to")
	}
	if m.Detach("n", stream) || !m.Detach("n", newer) {
		t.Error("the end of the older stream ended the newer")
	}
}

func TestANodeIsReadyOnceItHasReportedAllAndSaysSo(t *testing.T) {
	t.Parallel()
	m, cat := topology.New(topology.Settings{}, t0), two(t)
	ready := func(want, warm bool, why string) {
		t.Helper()
		if n := node(t, m, cat, at(100)); n.Ready != want || m.Warm() != warm {
			t.Errorf("%s: ready %v, warm %v", why, n.Ready, m.Warm())
		}
	}
	m.Members([]cluster.Node{member("n", true, true)})
	ready(false, false, "no stream")
	s := m.Attach("n", at(0))
	ready(false, false, "no report")
	m.Report(s, volume.Report{Node: "n", Full: true}, at(0))
	ready(true, true, "full report")
	m.Members([]cluster.Node{member("n", true, false)})
	ready(false, false, "it says that it is not")
}

func TestTheViewJoinsReportsWithDecisions(t *testing.T) {
	t.Parallel()
	m, cat := topology.New(topology.Settings{}, t0), two(t)
	s := m.Attach("o", at(0))
	copies := []volume.CopyReport{{Volume: 1, Copy: 2, State: volume.CopyHealthy}, {Volume: 8, Copy: 3, State: volume.CopyHealthy}}
	m.Report(s, volume.Report{Node: "o", Full: true, Copies: copies}, at(0))
	m.View(cat, at(500))
	v := m.View(cat, at(1500))
	if len(v.Volumes) != 1 || len(v.Volumes[0].Copies) != 1 || v.Volumes[0].Copies[0].Node != "o" || v.Volumes[0].Age != time.Second {
		t.Errorf("volumes %+v", v.Volumes)
	}
	if len(v.Strays) != 1 || v.Strays[0].Report.Volume != 8 || v.Strays[0].Deleted {
		t.Errorf("strays %+v", v.Strays)
	}
	cat, _ = cat.Apply(catalog.Command{Delete: &catalog.Delete{Volumes: []volume.ID{1}}})
	if v := m.View(cat, at(1600)); len(v.Strays) != 2 || !v.Strays[0].Deleted || v.Strays[0].Forgotten || v.Strays[1].Deleted {
		t.Errorf("strays after the delete %+v", v.Strays)
	}
	forgot, _ := two(t).Apply(catalog.Command{Delete: &catalog.Delete{Volumes: []volume.ID{1}, Forget: true}})
	if s := m.Strays(forgot, "o"); len(s) != 2 || !s[0].Forgotten || s[1].Forgotten {
		t.Errorf("strays after it was forgotten %+v", s)
	}
	if got := m.Silent(cat); len(got) != 0 {
		t.Errorf("a node without an address would be probed: %+v", got)
	}
}

func BenchmarkView(b *testing.B) {
	m := topology.New(topology.Settings{}, t0)
	cmd := catalog.Grow{}
	reports := map[volume.NodeID][]volume.CopyReport{}
	for i := range 10_000 {
		v := catalog.NewVolume{}
		for j := range 2 {
			h := volume.Holder{Node: volume.NodeID(fmt.Sprint((i + j) % 10)), Copy: volume.CopyID(i + 1)}
			v.Primary, v.Holders = h.Node, append(v.Holders, h)
			reports[h.Node] = append(reports[h.Node], volume.CopyReport{Volume: volume.ID(i + 1), Copy: h.Copy, State: volume.CopyHealthy})
		}
		cmd.Volumes = append(cmd.Volumes, v)
	}
	cat, res := catalog.New().Apply(catalog.Command{Grow: &cmd})
	if res.Err != nil {
		b.Fatal(res.Err)
	}
	for id, copies := range reports {
		m.Report(m.Attach(id, t0), volume.Report{Node: id, Full: true, Copies: copies}, t0)
	}
	b.ReportAllocs()
	for b.Loop() {
		m.View(cat, t0)
	}
}

func TestAgesAreByTheSlowestClock(t *testing.T) {
	t.Parallel()
	m := topology.New(topology.Settings{}, t0)
	grow := &catalog.Grow{Born: at(0).Unix(), Volumes: []catalog.NewVolume{{Spec: volume.Spec{TTL: volume.TTL{Count: 1, Unit: 1}}, Primary: "n", Holders: []volume.Holder{{Node: "n", Copy: 1}}}}}
	cat, _ := catalog.New().Apply(catalog.Command{Grow: grow})
	tell := func(node volume.NodeID, ahead time.Duration, size int64) {
		c := volume.CopyReport{Volume: 1, Copy: 1, State: volume.CopyHealthy, Size: size, Modified: at(10_000)}
		r := volume.Report{Node: node, Full: true, Now: at(100_000).Add(ahead)}
		if node == "n" {
			r.Copies = []volume.CopyReport{c}
		}
		m.Report(m.Attach(node, at(100_000)), r, at(100_000))
	}
	idle := func() time.Duration { return m.View(cat, at(100_000)).Volumes[0].Idle }
	tell("n", 0, 8)
	if got := idle(); got != 0 {
		t.Errorf("empty: idle for %v", got)
	}
	tell("n", time.Hour, 9)
	if got := m.View(cat, at(100_000)).Volumes[0]; got.Idle != 90*time.Second || got.Old != 100*time.Second {
		t.Errorf("one clock is ahead: idle for %v, old %v", got.Idle, got.Old)
	}
	tell("o", -30*time.Second, 9)
	if got := idle(); got != time.Minute {
		t.Errorf("one clock is behind: idle for %v", got)
	}
	if ns := m.Nodes(at(100_000)); ns[0].ClockMS != 3_600_000 || ns[1].ClockMS != -30_000 {
		t.Errorf("%+v", ns)
	}
	tell("o", -time.Hour, 9)
	if got := idle(); got != 0 {
		t.Errorf("a clock is behind the file: idle for %v", got)
	}
}

func TestWhatAPrimaryCondemnsIsUnfitUntilItIsReplaced(t *testing.T) {
	t.Parallel()
	m, cat := topology.New(topology.Settings{}, t0), two(t)
	bad := volume.Holder{Node: "o", Copy: 2}
	if !m.Condemn(1, []volume.Holder{bad}) || m.Condemn(1, []volume.Holder{bad}) {
		t.Error("it is news once")
	}
	if v := m.View(cat, at(0)).Volumes[0]; len(v.Unfit) != 1 || v.Unfit[0] != bad {
		t.Errorf("%+v", v.Unfit)
	}
	e := *cat.Volumes()[0]
	e.InSync, e.Joining = e.InSync[:1], []volume.Holder{{Node: "o", Copy: 3}}
	cat, _ = cat.Apply(catalog.Command{Change: &catalog.Batch{Changes: []catalog.Change{{Version: e.Version, Next: e}}}})
	if v := m.View(cat, at(0)).Volumes[0]; len(v.Unfit) != 0 {
		t.Errorf("replaced: %+v", v.Unfit)
	}
	if !m.Condemn(1, []volume.Holder{bad}) {
		t.Error("it was not forgotten")
	}
}

func TestTheHighestIDIsThatOfWhateverLiesThere(t *testing.T) {
	t.Parallel()
	m := topology.New(topology.Settings{}, t0)
	m.Report(m.Attach("n", t0), volume.Report{Node: "n", Full: true, Copies: []volume.CopyReport{{Volume: 7}, {Volume: 900}}}, t0)
	m.Report(m.Attach("o", t0), volume.Report{Node: "o", Full: true, Aside: []volume.SetAside{{Path: "/d/80.dat", Volume: 80}, {Path: "/d/x"}}}, t0)
	if a, b := m.HighestID(1000), m.HighestID(900); a != 900 || b != 80 {
		t.Errorf("%d, below 900 %d", a, b)
	}
}
