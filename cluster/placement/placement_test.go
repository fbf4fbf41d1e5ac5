package placement_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weedd/cluster/catalog"
	"weedd/cluster/placement"
	"weedd/volume"
)

// node makes a ready node; where is "dc/rack/id".
func node(where string, slots int) placement.Node {
	p := strings.Split(where, "/")
	return placement.Node{Node: volume.Node{ID: volume.NodeID(p[2]), DataCenter: p[0], Rack: p[1]}, Alive: true, Ready: true,
		Disks: []volume.DiskReport{{Dir: "/d", Max: slots}}}
}

func nodes(where ...string) (out []placement.Node) {
	for _, w := range where {
		out = append(out, node(w, 10))
	}
	return out
}

func fenced(n placement.Node, why string) placement.Node {
	n.Disks[0].Fenced = why
	return n
}

func gone(n placement.Node, d time.Duration) placement.Node {
	n.Alive, n.Ready, n.Away = false, false, d
	return n
}

func place(t interface{ Fatal(...any) }, s string) volume.Placement {
	p, err := volume.ParsePlacement(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestChoose(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		nodes []placement.Node
		p     string
		req   placement.GrowRequest
		want  string // nodes, sorted; or part of the error
		err   error
	}{
		{"one copy goes to the only node", nodes("a/r/1"), "000", placement.GrowRequest{}, "1", nil},
		{"001 keeps to one rack", nodes("a/r/1", "a/s/2", "a/s/3"), "001", placement.GrowRequest{}, "2 3", nil},
		{"010 takes two racks of one data center", nodes("a/r/1", "b/s/2", "b/t/3"), "010", placement.GrowRequest{}, "2 3", nil},
		{"100 takes two data centers", nodes("a/r/1", "a/s/2", "b/t/3"), "100", placement.GrowRequest{Node: "1"}, "1 3", nil},
		{"111 takes all kinds", nodes("a/r/1", "a/r/2", "a/s/3", "b/t/4"), "111", placement.GrowRequest{}, "1 2 3 4", nil},
		{"the data center asked for is where the primary is", nodes("a/r/1", "b/r/2"), "000", placement.GrowRequest{DataCenter: "b"}, "2", nil},
		{"the rack asked for is where the primary is", nodes("a/r/1", "a/s/2"), "000", placement.GrowRequest{Rack: "s"}, "2", nil},
		{"an unknown data center is named", nodes("a/r/1"), "000", placement.GrowRequest{DataCenter: "x"}, `data center "x"`, volume.ErrUnsatisfiable},
		{"two copies on one node are refused", nodes("a/r/1"), "001", placement.GrowRequest{}, "needs 2 nodes in one rack; 1 volume servers are ready", volume.ErrUnsatisfiable},
		{"010 without a second rack is refused", nodes("a/r/1", "a/r/2"), "010", placement.GrowRequest{}, "1 more racks", volume.ErrUnsatisfiable},
		{"no nodes at all", nil, "000", placement.GrowRequest{}, "no volume server is ready", volume.ErrUnsatisfiable},
		{"no free slot", []placement.Node{node("a/r/1", 0)}, "000", placement.GrowRequest{}, "0 of 0 volume slots are used", volume.ErrNoSpace},
		{"a full disk is named", []placement.Node{fenced(node("a/r/1", 10), "fewer than 9 bytes are free")}, "000", placement.GrowRequest{}, "fewer than 9 bytes are free", volume.ErrNoSpace},
		{"another disk type has no slot", nodes("a/r/1"), "000", placement.GrowRequest{Spec: volume.Spec{Disk: "ssd"}}, `disk type "ssd"`, volume.ErrNoSpace},
		{"a node that is not ready is passed over", append(nodes("a/r/1"), gone(node("a/r/2", 10), 1)), "000", placement.GrowRequest{}, "1", nil},
		{"001 with one of two nodes away makes do with one", append(nodes("a/r/1"), gone(node("a/r/2", 0), 1)), "001", placement.GrowRequest{}, "1", nil},
		{"002 with one of three away makes do with two", append(nodes("a/r/1", "a/r/2"), gone(node("a/r/3", 0), 1)), "002", placement.GrowRequest{}, "1 2", nil},
		{"002 with two of three away cannot be written", append(nodes("a/r/1"), gone(node("a/r/2", 9), 1), gone(node("a/r/3", 9), 1)), "002", placement.GrowRequest{}, "2 are away", volume.ErrUnsatisfiable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.req.Spec.Placement = place(t, tt.p)
			got, err := placement.Choose(placement.View{Nodes: tt.nodes}, tt.req)
			if !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
				t.Fatalf("%v, %v", got, err)
			}
			if err != nil {
				if !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%q does not say %q", err, tt.want)
				}
				return
			}
			slices.Sort(got)
			if s := strings.Trim(fmt.Sprint(got), "[]"); s != tt.want {
				t.Errorf("%s, want %s", s, tt.want)
			}
		})
	}
}

func TestPlanSpreadsPrimariesAndCopies(t *testing.T) {
	t.Parallel()
	for try := range 20 { // ties are broken by the names
		three := []string{fmt.Sprint("a/r/x", try), fmt.Sprint("a/r/y", try), fmt.Sprint("a/r/z", try)}
		sets, err := placement.Plan(placement.View{Nodes: nodes(three...)}, placement.GrowRequest{Spec: volume.Spec{Placement: 1}}, 6)
		if err != nil || len(sets) != 6 {
			t.Fatalf("%v, %v", sets, err)
		}
		lead, hold := map[volume.NodeID]int{}, map[volume.NodeID]int{}
		for i, s := range sets {
			lead[s[0]]++
			for _, n := range s {
				hold[n]++
			}
			for n := range hold {
				if each := (i + 1) / 3; (i+1)%3 == 0 && (lead[n] != each || hold[n] != 2*each) {
					t.Errorf("after %d volumes node %s leads %d and holds %d", i+1, n, lead[n], hold[n])
				}
			}
		}
	}
	sets, err := placement.Plan(placement.View{Nodes: []placement.Node{node("a/r/1", 3)}}, placement.GrowRequest{}, 6)
	if err != nil || len(sets) != 3 {
		t.Errorf("%d volumes in three slots, %v", len(sets), err)
	}
}

// cluster is a random view whose volumes were placed by Plan.
func randomView(t *rapid.T) placement.View {
	var v placement.View
	n := rapid.IntRange(1, 9).Draw(t, "nodes")
	for i := range n {
		where := fmt.Sprintf("d%d/r%d/n%d", rapid.IntRange(0, 2).Draw(t, "dc"), rapid.IntRange(0, 2).Draw(t, "rack"), i)
		v.Nodes = append(v.Nodes, node(where, rapid.IntRange(0, 6).Draw(t, "slots")))
	}
	spec := volume.Spec{Placement: place(t, rapid.SampledFrom([]string{"000", "001", "002", "010", "011", "100", "110", "200"}).Draw(t, "placement"))}
	sets, _ := placement.Plan(v, placement.GrowRequest{Spec: spec}, rapid.IntRange(0, 5).Draw(t, "volumes"))
	for i, set := range sets {
		e := &volume.Entry{Volume: volume.ID(i + 1), Spec: spec, State: volume.StateOpen, Epoch: 1, Version: 1, Primary: set[0]}
		vol := placement.Volume{Entry: e}
		for j, id := range set {
			h := volume.Holder{Node: id, Copy: volume.CopyID(10*i + j + 1)}
			e.InSync = append(e.InSync, h)
			vol.Copies = append(vol.Copies, placement.Copy{Node: id, Report: &volume.CopyReport{Volume: e.Volume, Copy: h.Copy, State: volume.CopyHealthy, Dir: "/d"}})
		}
		v.Volumes = append(v.Volumes, vol)
	}
	return v
}

// trouble lets nodes go, be drained, and copies fail.
func trouble(t *rapid.T, v placement.View) placement.View {
	v.Nodes, v.Volumes = slices.Clone(v.Nodes), slices.Clone(v.Volumes)
	for i := range v.Nodes {
		switch rapid.IntRange(0, 9).Draw(t, "fate") {
		case 0:
			v.Nodes[i] = gone(v.Nodes[i], time.Second)
		case 1:
			v.Nodes[i] = gone(v.Nodes[i], time.Hour)
		case 2:
			v.Nodes[i] = drained(v.Nodes[i])
		case 3:
			v.Nodes[i] = drained(v.Nodes[i], "/d")
		}
	}
	for i, vol := range v.Volumes {
		v.Volumes[i].Copies = slices.Clone(vol.Copies)
		for j, c := range vol.Copies {
			if state := rapid.SampledFrom([]volume.CopyState{volume.CopyHealthy, volume.CopyHealthy, volume.CopyHealthy, volume.CopyLost, volume.CopyFailed}).Draw(t, "copy"); state != volume.CopyHealthy {
				r := *c.Report
				r.State = state
				v.Volumes[i].Copies[j].Report = &r
			}
		}
	}
	return v
}

func TestChosenNodesAreApartAsAskedForAndHaveRoom(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v := randomView(t)
		for _, p := range []string{"000", "001", "002", "010", "011", "020", "100", "101", "200"} {
			got, err := placement.Choose(v, placement.GrowRequest{Spec: volume.Spec{Placement: place(t, p)}})
			if err != nil {
				if !errors.Is(err, volume.ErrUnsatisfiable) && !errors.Is(err, volume.ErrNoSpace) {
					t.Fatalf("placement %s: %v", p, err)
				}
				continue
			}
			checkApart(t, v, place(t, p), got)
		}
	})
}

// checkApart checks that no two copies share a zone that they need not.
func checkApart(t *rapid.T, v placement.View, p volume.Placement, got []volume.NodeID) {
	x, y, z := p.Digits()
	dcs, racks, seen := map[string]int{}, map[string]int{}, map[volume.NodeID]bool{}
	var main volume.Node
	for i, id := range got {
		n := v.Nodes[slices.IndexFunc(v.Nodes, func(n placement.Node) bool { return n.ID == id })]
		if i == 0 {
			main = n.Node
		}
		if seen[id] {
			t.Fatalf("placement %s: node %s twice in %v", p, id, got)
		}
		seen[id] = true
		dcs[n.DataCenter]++
		if n.DataCenter == main.DataCenter {
			racks[n.Rack]++
		}
		if n.Disks[0].Max == 0 {
			t.Fatalf("placement %s: node %s has no room", p, id)
		}
	}
	if len(got) != p.Copies() || len(dcs) != 1+x || len(racks) != 1+y || racks[main.Rack] != 1+z {
		t.Fatalf("placement %s: %v: data centers %v, racks of the first %v", p, got, dcs, racks)
	}
}

func TestNothingMovesWithoutNeed(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v := randomView(t)
		if steps := placement.Settle(v, placement.Settings{}); len(steps) > 0 {
			t.Fatalf("volume %d: %s", steps[0].Volume, steps[0].Reason)
		}
		// Holders that lead nothing may go for a while.
		leads := map[volume.NodeID]bool{}
		for _, vol := range v.Volumes {
			leads[vol.Entry.Primary] = true
		}
		for i, n := range v.Nodes {
			if !leads[n.ID] {
				v.Nodes[i] = gone(n, time.Minute)
			}
		}
		if steps := placement.Settle(v, placement.Settings{}); len(steps) > 0 {
			t.Fatalf("volume %d, whose primary is there: %s", steps[0].Volume, steps[0].Reason)
		}
	})
}

func TestTheOrderOfInputIsNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v := trouble(t, randomView(t))
		w := v
		w.Nodes, w.Volumes = slices.Clone(v.Nodes), slices.Clone(v.Volumes)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		rng.Shuffle(len(w.Nodes), func(i, j int) { w.Nodes[i], w.Nodes[j] = w.Nodes[j], w.Nodes[i] })
		rng.Shuffle(len(w.Volumes), func(i, j int) { w.Volumes[i], w.Volumes[j] = w.Volumes[j], w.Volumes[i] })
		if a, b := placement.Settle(v, placement.Settings{}), placement.Settle(w, placement.Settings{}); !reflect.DeepEqual(a, b) {
			t.Fatalf("Settle:\n%+v\n%+v", a, b)
		}
		if a, b := placement.Growth(v, placement.Settings{}), placement.Growth(w, placement.Settings{}); !reflect.DeepEqual(a, b) {
			t.Fatalf("Growth:\n%+v\n%+v", a, b)
		}
		req := placement.GrowRequest{Spec: volume.Spec{Placement: 1}}
		a, _ := placement.Choose(v, req)
		b, _ := placement.Choose(w, req)
		if !slices.Equal(a, b) {
			t.Fatalf("Choose: %v, %v", a, b)
		}
	})
}

// catalogOf brings the entries of v into a catalog, and v to its entries.
func catalogOf(t *rapid.T, v *placement.View) *catalog.Catalog {
	cat := catalog.New()
	for i, vol := range v.Volumes {
		e := vol.Entry
		next, res := cat.Apply(catalog.Command{Grow: &catalog.Grow{Volumes: []catalog.NewVolume{{Spec: e.Spec, Primary: e.Primary, Holders: e.InSync}}}})
		if res.Err != nil {
			t.Fatal(res.Err)
		}
		open := *res.Entries[0]
		open.State = volume.StateOpen
		cat, _ = next.Apply(catalog.Command{Change: &catalog.Batch{Changes: []catalog.Change{{Version: 1, Next: open}}}})
		v.Volumes[i].Entry, _ = cat.Volume(e.Volume)
	}
	return cat
}

func TestEveryStepIsAllowedLeavesALiveLeaderAndComesToRest(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v := trouble(t, randomView(t))
		cat := catalogOf(t, &v)
		copies := volume.CopyID(1000)
		for round := 0; ; round++ {
			steps := placement.Settle(v, placement.Settings{})
			if len(steps) == 0 {
				break
			}
			if round > 3 {
				t.Fatalf("no rest: volume %d: %s", steps[0].Volume, steps[0].Reason)
			}
			for _, s := range steps {
				for i := range s.Change.Next.Joining {
					if h := &s.Change.Next.Joining[i]; h.Copy == 0 {
						copies++
						h.Copy = copies
					}
				}
				next, res := cat.Apply(catalog.Command{Change: &catalog.Batch{Changes: []catalog.Change{*s.Change}}})
				if res.Errs[0] != nil {
					t.Fatalf("%s: %v", s.Reason, res.Errs[0])
				}
				cat = next
			}
			for i := range v.Volumes {
				v.Volumes[i].Entry, _ = cat.Volume(v.Volumes[i].Entry.Volume)
			}
		}
		for _, vol := range v.Volumes {
			checkLed(t, v, vol)
		}
	})
}

// checkLed checks that the volume is led by a live copy if one is in sync.
func checkLed(t *rapid.T, v placement.View, vol placement.Volume) {
	live := func(h volume.Holder) bool {
		n := v.Nodes[slices.IndexFunc(v.Nodes, func(n placement.Node) bool { return n.ID == h.Node })]
		bad := slices.ContainsFunc(vol.Copies, func(c placement.Copy) bool {
			return c.Node == h.Node && c.Report.Copy == h.Copy && c.Report.State != volume.CopyHealthy
		})
		return n.Alive && !bad
	}
	h, inSync, _ := vol.Entry.Holder(vol.Entry.Primary)
	if slices.ContainsFunc(vol.Entry.InSync, live) && !(inSync && live(h)) {
		t.Fatalf("volume %d: node %s leads though it is gone: %+v", vol.Entry.Volume, h.Node, vol.Entry)
	}
}

func TestGrowthMakesWholeVolumesOnTheNodesThatAreLeft(t *testing.T) {
	t.Parallel()
	v := placement.View{Nodes: []placement.Node{node("a/r/1", 20), node("a/r/2", 20), node("a/r/3", 20)}}
	spec := volume.Spec{Collection: "c", Placement: 1}
	open := func(a, b volume.NodeID) {
		v.Volumes = append(v.Volumes, placement.Volume{Entry: &volume.Entry{Volume: volume.ID(len(v.Volumes) + 1), Spec: spec, State: volume.StateOpen,
			Primary: a, InSync: []volume.Holder{{Node: a, Copy: 1}, {Node: b, Copy: 1}}}})
	}
	if got := placement.Growth(v, placement.Settings{}); len(got) != 0 {
		t.Errorf("an empty cluster grows %+v", got)
	}
	for _, p := range []string{"12", "23", "31", "21", "32", "13"} {
		open(volume.NodeID(p[:1]), volume.NodeID(p[1:]))
	}
	if got := placement.Growth(v, placement.Settings{}); len(got) != 0 {
		t.Errorf("six whole volumes grow %+v", got)
	}
	v.Nodes[2] = gone(v.Nodes[2], time.Second)
	got := placement.Growth(v, placement.Settings{})
	if len(got) != 1 || got[0].Spec != spec || got[0].Count != 4 {
		t.Errorf("with a node away: %+v", got)
	}
}

func vol(e volume.Entry, reports ...placement.Copy) placement.Volume {
	if e.State == "" {
		e.State = volume.StateOpen
	}
	e.Volume, e.Version, e.Epoch = 1, 5, 4
	for i := range reports {
		reports[i].Report.Volume = 1
	}
	return placement.Volume{Entry: &e, Copies: reports}
}

func rep(node volume.NodeID, id volume.CopyID, state volume.CopyState) placement.Copy {
	return placement.Copy{Node: node, Report: &volume.CopyReport{Copy: id, State: state, Reason: "why"}}
}

// sets writes an entry as "primary: in sync | joining state"; a copy is node.id.
func sets(e volume.Entry) string {
	text := func(hs []volume.Holder) string {
		var out []string
		for _, h := range hs {
			out = append(out, fmt.Sprintf("%s.%d", h.Node, uint64(h.Copy)))
		}
		return strings.Join(out, " ")
	}
	return fmt.Sprintf("%s: %s | %s %s", e.Primary, text(e.InSync), text(e.Joining), e.State)
}

func hs(text ...string) (out []volume.Holder) {
	for _, s := range text {
		var id uint64
		node, copy, _ := strings.Cut(s, ".")
		fmt.Sscan(copy, &id)
		out = append(out, volume.Holder{Node: volume.NodeID(node), Copy: volume.CopyID(id)})
	}
	return out
}

func TestSettle(t *testing.T) {
	t.Parallel()
	all := func(ids ...string) []placement.Node {
		var out []placement.Node
		for _, id := range ids {
			out = append(out, node("a/r/"+id, 10))
		}
		return out
	}
	two := volume.Entry{Spec: volume.Spec{Placement: 1}, Primary: "1", InSync: hs("1.1", "2.2")}
	young := two
	young.State = volume.StateNew
	joining := volume.Entry{Spec: volume.Spec{Placement: 1}, Primary: "1", InSync: hs("1.1"), Joining: hs("2.2")}
	condemned := func(e volume.Entry, copies ...string) placement.Volume {
		v := vol(e, rep("2", 2, "healthy"))
		v.Unfit = hs(copies...)
		return v
	}
	tests := []struct {
		name  string
		nodes []placement.Node
		vol   placement.Volume
		want  string // as sets writes it; "delete"; "" for nothing
	}{
		{"a new volume opens when all holders report", all("1", "2"), vol(young, rep("1", 1, "healthy"), rep("2", 2, "healthy")), "1: 1.1 2.2 |  open"},
		{"a new volume waits for its second holder", all("1", "2"), vol(young, rep("1", 1, "healthy")), ""},
		{"a report of another copy opens nothing", all("1", "2"), vol(young, rep("1", 1, "healthy"), rep("2", 9, "healthy")), ""},
		{"a new volume waits for a holder that went a moment ago", []placement.Node{node("a/r/1", 1), gone(node("a/r/2", 1), time.Second)}, vol(young, rep("1", 1, "healthy")), ""},
		{"a new volume ends when a holder stays away", []placement.Node{node("a/r/1", 1), gone(node("a/r/2", 1), 3*time.Second)}, vol(young, rep("1", 1, "healthy")), "delete"},
		{"a new volume ends when a copy fails", all("1", "2"), vol(young, rep("2", 2, "failed")), "delete"},
		{"a follower that is away stays in sync", []placement.Node{node("a/r/1", 9), gone(node("a/r/2", 9), time.Minute), node("a/r/3", 9)}, vol(two), ""},
		{"a primary that is gone is followed by a copy in sync", []placement.Node{gone(node("a/r/1", 9), time.Second), node("a/r/2", 9)}, vol(two), "2: 2.2 | 1.1 open"},
		{"with no copy in sync there, a volume waits", []placement.Node{gone(node("a/r/1", 9), time.Hour), node("a/r/2", 9), node("a/r/3", 9)}, vol(joining), ""},
		{"a lost copy is made anew on its node", all("1", "2", "3"), vol(two, rep("2", 2, "lost")), "1: 1.1 | 2.0 open"},
		{"a failed primary is followed, and made anew", all("1", "2"), vol(two, rep("1", 1, "failed")), "2: 2.2 | 1.0 open"},
		{"a failed copy on a full node is made anew elsewhere", []placement.Node{node("a/r/1", 9), node("a/r/2", 0), node("a/r/3", 9)}, vol(two, rep("2", 2, "failed")), "1: 1.1 | 3.0 open"},
		{"the last copy that fails stays, read-only", all("1", "2"), vol(joining, rep("1", 1, "failed")), "1: 1.1 | 2.2 readonly"},
		{"a lost copy whose other is away is waited for", []placement.Node{node("a/r/1", 9), gone(node("a/r/2", 9), time.Hour)}, vol(two, rep("1", 1, "lost")), ""},
		{"a report about an older copy says nothing of the new one", all("1", "2"), vol(two, rep("2", 9, "lost")), ""},
		{"a copy that is missing joins", all("1", "2"), vol(volume.Entry{Spec: volume.Spec{Placement: 1}, Primary: "1", InSync: hs("1.1")}), "1: 1.1 | 2.0 open"},
		{"a joining copy is not replaced within the grace period", []placement.Node{node("a/r/1", 9), gone(node("a/r/2", 9), time.Minute), node("a/r/3", 9)}, vol(joining), ""},
		{"a joining copy away for long is replaced", []placement.Node{node("a/r/1", 9), gone(node("a/r/2", 9), time.Hour), node("a/r/3", 9)}, vol(joining), "1: 1.1 | 3.0 open"},
		{"an idle copy in sync away for long is first joined by another", []placement.Node{node("a/r/1", 9), gone(node("a/r/2", 9), time.Hour), node("a/r/3", 9)}, vol(two), "1: 1.1 2.2 | 3.0 open"},
		{"and leaves when that one is in sync", []placement.Node{node("a/r/1", 9), gone(node("a/r/2", 9), time.Hour), node("a/r/3", 9)},
			vol(volume.Entry{Spec: volume.Spec{Placement: 1}, Primary: "1", InSync: hs("1.1", "2.2", "3.3")}), "1: 1.1 3.3 |  open"},
		{"a surplus copy goes", all("1", "2"), vol(volume.Entry{Primary: "1", InSync: hs("1.1", "2.2")}), "1: 1.1 |  open"},
		{"a copy that differs from the primary's gets a new id, whatever it says", all("1", "2"), condemned(joining, "2.2"), "1: 1.1 | 2.0 open"},
		{"also when it is in sync", all("1", "2"), condemned(two, "2.2"), "1: 1.1 | 2.0 open"},
		{"a diverged joining copy gets a new id", all("1", "2"), vol(joining, rep("2", 2, "failed")), "1: 1.1 | 2.0 open"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			steps := placement.Settle(placement.View{Nodes: tt.nodes, Volumes: []placement.Volume{tt.vol}}, placement.Settings{})
			got := ""
			if len(steps) > 0 {
				got = "delete"
				if !steps[0].Delete() {
					got = sets(steps[0].Change.Next)
				}
				if steps[0].Reason == "" || len(steps) > 1 {
					t.Errorf("%+v", steps)
				}
			}
			if got != tt.want {
				t.Errorf("%q, want %q (%+v)", got, tt.want, steps)
			}
		})
	}
}

func TestAVolumeOverItsLimitIsFull(t *testing.T) {
	t.Parallel()
	v := vol(volume.Entry{Primary: "1", InSync: hs("1.1")}, rep("1", 1, "healthy"))
	v.Copies[0].Report.Size = 100
	view := placement.View{Nodes: nodes("a/r/1"), Volumes: []placement.Volume{v}}
	if steps := placement.Settle(view, placement.Settings{VolumeLimit: 101}); len(steps) != 0 {
		t.Errorf("%+v", steps)
	}
	steps := placement.Settle(view, placement.Settings{VolumeLimit: 100})
	if len(steps) != 1 || steps[0].Change.Next.State != volume.StateFull {
		t.Errorf("%+v", steps)
	}
}

func TestAnswer(t *testing.T) {
	t.Parallel()
	three := volume.Entry{Spec: volume.Spec{Placement: 2}, Primary: "1", InSync: hs("1.1", "2.2"), Joining: hs("3.3")}
	two := volume.Entry{Spec: volume.Spec{Placement: 1}, Primary: "1", InSync: hs("1.1", "2.2")}
	one := volume.Entry{Spec: volume.Spec{Placement: 1}, Primary: "1", InSync: hs("1.1"), Joining: hs("2.2")}
	ask := func(kind volume.AskKind, from string, copies ...string) volume.Ask {
		return volume.Ask{Kind: kind, Epoch: 4, From: hs(from)[0], Copies: hs(copies...)}
	}
	failed := func(a volume.Ask) volume.Ask { a.Failed = true; return a }
	unfit := func(a volume.Ask) volume.Ask { a.Unfit = true; return a }
	compact := func(generation uint32, from string, copies ...string) volume.Ask {
		a := ask(volume.AskCompact, from, copies...)
		a.Generation = generation
		return a
	}
	old := ask(volume.AskLead, "1.1")
	old.Epoch = 3
	tests := []struct {
		name string
		e    volume.Entry
		down string // ids of nodes away
		ask  volume.Ask
		want string
		err  error
	}{
		{"the primary gets a new epoch as it is", two, "2", ask(volume.AskLead, "1.1"), "1: 1.1 2.2 |  open", nil},
		{"another copy does not lead while the primary is there", two, "", ask(volume.AskLead, "2.2"), "", volume.ErrNotPrimary},
		{"another copy leads when the primary is gone", two, "1", ask(volume.AskLead, "2.2"), "2: 2.2 | 1.1 open", nil},
		{"a joining copy never leads", one, "1", ask(volume.AskLead, "2.2"), "", volume.ErrStale},
		{"a copy that was replaced is stale", two, "", ask(volume.AskLead, "1.9"), "", volume.ErrStale},
		{"an ask of another epoch is stale", two, "", old, "", volume.ErrStale},
		{"a removed copy joins", two, "2", ask(volume.AskRemove, "1.1", "2.2"), "1: 1.1 | 2.2 open", nil},
		{"the primary does not remove itself", two, "", ask(volume.AskRemove, "1.1", "1.1"), "", volume.ErrBadRequest},
		{"not below what writing needs", three, "2", ask(volume.AskRemove, "1.1", "2.2"), "", volume.ErrUnavailable},
		{"but unfit copies go, however few are left", three, "", unfit(ask(volume.AskRemove, "1.1", "2.2")), "1: 1.1 | 3.3 2.2 open", nil},
		{"the primary is not unfit by its own word", two, "", unfit(ask(volume.AskRemove, "1.1", "1.1", "2.2")), "", volume.ErrBadRequest},
		{"a follower removes nobody", two, "", ask(volume.AskRemove, "2.2", "1.1"), "", volume.ErrNotPrimary},
		{"a joining copy is added", one, "", ask(volume.AskAdd, "1.1", "2.2"), "1: 1.1 2.2 |  open", nil},
		{"what does not join is not added", one, "", ask(volume.AskAdd, "1.1", "2.7"), "", volume.ErrBadRequest},
		{"a primary yields to another, and stays in sync", two, "", ask(volume.AskYield, "1.1"), "2: 1.1 2.2 |  open", nil},
		{"a primary without another cannot yield", two, "2", ask(volume.AskYield, "1.1"), "", volume.ErrUnsatisfiable},
		{"a failed primary leaves", two, "", failed(ask(volume.AskYield, "1.1")), "2: 2.2 |  open", nil},
		{"a failed follower leaves", two, "", failed(ask(volume.AskYield, "2.2")), "1: 1.1 |  open", nil},
		{"the only copy that fails makes the volume read-only", one, "", failed(ask(volume.AskYield, "1.1")), "1: 1.1 | 2.2 readonly", nil},
		{"all copies are ready for the next generation", two, "", compact(1, "1.1", "2.2"), "1: 1.1 2.2 |  open", nil},
		{"not all of them are", two, "", compact(1, "1.1"), "", volume.ErrBadRequest},
		{"a generation is left out", two, "", compact(2, "1.1", "2.2"), "", volume.ErrBadRequest},
		{"a copy is joining", three, "", compact(1, "1.1", "2.2"), "", volume.ErrUnavailable},
		{"a follower asks for a generation", two, "", compact(1, "2.2", "1.1"), "", volume.ErrNotPrimary},
		{"an unknown ask is refused", two, "", ask("dance", "1.1"), "", volume.ErrBadRequest},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var ns []placement.Node
			for _, id := range []string{"1", "2", "3"} {
				n := node("a/r/"+id, 9)
				if strings.Contains(tt.down, id) {
					n = gone(n, time.Second)
				}
				ns = append(ns, n)
			}
			v := vol(tt.e)
			ch, err := placement.Answer(placement.View{Nodes: ns, Volumes: []placement.Volume{v}}, v, tt.ask)
			if !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
				t.Fatal(err)
			}
			if err == nil && sets(ch.Next) != tt.want {
				t.Errorf("%q, want %q", sets(ch.Next), tt.want)
			}
			if err == nil && (ch.Version != 5 || (tt.ask.Kind == volume.AskAdd || tt.ask.Kind == volume.AskCompact) != (ch.By == tt.ask.From) || ch.Next.Generation != tt.ask.Generation || (tt.ask.Kind == volume.AskLead) != ch.Renew) {
				t.Errorf("%+v", ch)
			}
		})
	}
}

func TestAPrimaryOnAFullDiskYieldsToOneWithRoom(t *testing.T) {
	t.Parallel()
	e := volume.Entry{Spec: volume.Spec{Placement: 2}, Primary: "1", InSync: hs("1.1", "2.2", "3.3"), Epoch: 4}
	ask := volume.Ask{Kind: volume.AskYield, Epoch: 4, From: hs("1.1")[0], NoRoom: true}
	answer := func(full ...string) (volume.NodeID, error) {
		v := vol(e, rep("1", 1, "healthy"), rep("2", 2, "healthy"), rep("3", 3, "healthy"))
		for i := range v.Copies {
			v.Copies[i].Report.NoRoom = slices.Contains(full, string(v.Copies[i].Node))
		}
		ch, err := placement.Answer(placement.View{Nodes: nodes("a/r/1", "a/r/2", "a/r/3"), Volumes: []placement.Volume{v}}, v, ask)
		return ch.Next.Primary, err
	}
	for full, heir := range map[string]volume.NodeID{"2": "3", "3": "2"} {
		if got, err := answer("1", full); got != heir || err != nil {
			t.Errorf("1 and %s are full: %s leads (%v), want %s", full, got, err, heir)
		}
	}
	if got, err := answer("1", "2", "3"); !errors.Is(err, volume.ErrUnsatisfiable) {
		t.Errorf("all are full: %s leads, %v", got, err)
	}
	ask.NoRoom = false
	if _, err := answer("1", "2", "3"); err != nil {
		t.Errorf("a planned stop with full disks: %v", err)
	}
}

func TestDropsAreOrderedOnlyForDeletedVolumesAndSurplusCopies(t *testing.T) {
	t.Parallel()
	whole := &volume.Entry{Volume: 1, Spec: volume.Spec{Placement: 1}, State: volume.StateOpen, Epoch: 7, Primary: "1", InSync: hs("1.1", "2.2")}
	thin := &volume.Entry{Volume: 2, Spec: volume.Spec{Placement: 1}, State: volume.StateOpen, Epoch: 7, Primary: "1", InSync: hs("1.1")}
	entry := func(id volume.ID) (*volume.Entry, bool) {
		return map[volume.ID]*volume.Entry{1: whole, 2: thin}[id], id <= 2
	}
	stray := func(id volume.ID, node volume.NodeID, deleted bool) placement.Stray {
		return placement.Stray{Node: node, Report: &volume.CopyReport{Volume: id, Copy: 9}, Deleted: deleted}
	}
	got := placement.Drops([]placement.Stray{
		stray(5, "3", true), // deleted
		{Node: "3", Report: &volume.CopyReport{Volume: 6, Copy: 9}, Deleted: true, Forgotten: true},
		stray(1, "3", false), // surplus
		stray(2, "3", false), // too few others
		stray(4, "3", false), // nothing explains it
	}, entry)
	want := []volume.Drop{{Volume: 1, Copy: 9, Epoch: 7, Keep: hs("1.1", "2.2")}, {Volume: 5, Copy: 9, Deleted: true}, {Volume: 6, Copy: 9, Forgotten: true}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}

func BenchmarkSettle(b *testing.B) {
	v := large(10_000)
	b.ReportAllocs()
	for b.Loop() {
		placement.Settle(v, placement.Settings{})
	}
}

func BenchmarkSettleWithANodeGone(b *testing.B) {
	v := large(10_000)
	v.Nodes[0] = gone(v.Nodes[0], time.Second)
	b.ReportAllocs()
	for b.Loop() {
		if n := len(placement.Settle(v, placement.Settings{})); n < 1000 {
			b.Fatalf("%d steps", n)
		}
	}
}

func BenchmarkGrowth(b *testing.B) {
	v := large(10_000)
	b.ReportAllocs()
	for b.Loop() {
		placement.Growth(v, placement.Settings{})
	}
}

// large is n whole volumes on ten nodes.
func large(n int) placement.View {
	var v placement.View
	for i := range 10 {
		v.Nodes = append(v.Nodes, node(fmt.Sprintf("a/r/%d", i), n))
	}
	for i := range n {
		a, b := volume.NodeID(fmt.Sprint(i%10)), volume.NodeID(fmt.Sprint((i+1+i/10%9)%10))
		e := &volume.Entry{Volume: volume.ID(i + 1), Spec: volume.Spec{Placement: 1}, State: volume.StateOpen, Epoch: 1, Version: 1, Primary: a,
			InSync: []volume.Holder{{Node: a, Copy: 1}, {Node: b, Copy: 2}}}
		vol := placement.Volume{Entry: e}
		for _, h := range e.InSync {
			vol.Copies = append(vol.Copies, placement.Copy{Node: h.Node, Report: &volume.CopyReport{Volume: e.Volume, Copy: h.Copy, State: volume.CopyHealthy}})
		}
		v.Volumes = append(v.Volumes, vol)
	}
	return v
}

func TestAVolumeGetsNoNewFilesWhileADiskOfItsCopiesIsFull(t *testing.T) {
	t.Parallel()
	view := func(state volume.State, reports ...*volume.CopyReport) placement.View {
		e := &volume.Entry{Volume: 7, Spec: volume.Spec{Placement: 1}, State: state, Epoch: 1, Version: 1, Primary: "a",
			InSync: []volume.Holder{{Node: "a", Copy: 1}, {Node: "b", Copy: 2}}}
		vol := placement.Volume{Entry: e}
		for i, r := range reports {
			if r != nil {
				vol.Copies = append(vol.Copies, placement.Copy{Node: e.InSync[i].Node, Report: r})
			}
		}
		v := placement.View{Volumes: []placement.Volume{vol}}
		for _, h := range e.InSync {
			v.Nodes = append(v.Nodes, placement.Node{Node: volume.Node{ID: h.Node}, Alive: true, Ready: true})
		}
		return v
	}
	rep := func(c volume.CopyID, full bool) *volume.CopyReport {
		return &volume.CopyReport{Volume: 7, Copy: c, State: volume.CopyHealthy, NoRoom: full}
	}
	lost := func(c volume.CopyID) *volume.CopyReport {
		return &volume.CopyReport{Volume: 7, Copy: c, State: volume.CopyLost}
	}
	for name, c := range map[string]struct {
		view placement.View
		want volume.State
	}{
		"no copy is there any more":       {view(volume.StateOpen, lost(1), lost(2)), volume.StateNoRoom},
		"none is there still":             {view(volume.StateNoRoom, lost(1), lost(2)), ""},
		"room everywhere":                 {view(volume.StateOpen, rep(1, false), rep(2, false)), ""},
		"the follower's disk is full":     {view(volume.StateOpen, rep(1, false), rep(2, true)), volume.StateNoRoom},
		"it still is":                     {view(volume.StateNoRoom, rep(1, false), rep(2, true)), ""},
		"one has not said":                {view(volume.StateNoRoom, rep(1, false), nil), ""},
		"there is room again":             {view(volume.StateNoRoom, rep(1, false), rep(2, false)), volume.StateOpen},
		"it is full for another reason":   {view(volume.StateFull, rep(1, false), rep(2, false)), ""},
		"an operator said read-only":      {view(volume.StateReadOnly, rep(1, true), rep(2, false)), ""},
		"another copy of it has no room":  {view(volume.StateOpen, rep(1, false), rep(9, true)), ""},
		"the disks of both copies are so": {view(volume.StateOpen, rep(1, true), rep(2, true)), volume.StateNoRoom},
	} {
		got := volume.State("")
		for _, s := range placement.Settle(c.view, placement.Settings{}) {
			got = s.Change.Next.State
		}
		if got != c.want {
			t.Errorf("%s: next state %q, want %q", name, got, c.want)
		}
	}
}

func TestANodeWithForeignFilesGetsNoCopyOfTheirVolume(t *testing.T) {
	t.Parallel()
	e := &volume.Entry{Volume: 7, Spec: volume.Spec{Placement: 1}, State: volume.StateOpen, Epoch: 1, Version: 1, Primary: "a",
		InSync: []volume.Holder{{Node: "a", Copy: 1}}}
	disks := []volume.DiskReport{{Dir: "/d", Max: 10}}
	v := placement.View{Volumes: []placement.Volume{{Entry: e}}, Nodes: []placement.Node{
		{Node: volume.Node{ID: "a"}, Alive: true, Ready: true, Disks: disks},
		{Node: volume.Node{ID: "b"}, Alive: true, Ready: true, Disks: disks, Blocked: []volume.ID{6, 7}},
	}}
	if steps := placement.Settle(v, placement.Settings{}); len(steps) != 0 {
		t.Errorf("steps: %+v", steps)
	}
	v.Nodes[1].Blocked = []volume.ID{6}
	if steps := placement.Settle(v, placement.Settings{}); len(steps) != 1 || steps[0].Change.Next.Joining[0].Node != "b" {
		t.Errorf("steps without anything in the way: %+v", steps)
	}
}
