package placement_test

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weedd/cluster/catalog"
	"weedd/cluster/placement"
	"weedd/volume"
)

// drained is n while all of it is emptied, or only the directories given.
func drained(n placement.Node, dirs ...string) placement.Node {
	n.Drain = volume.DrainOrder{Node: len(dirs) == 0, Dirs: dirs}
	return n
}

func repIn(node volume.NodeID, id volume.CopyID, dir string) placement.Copy {
	c := rep(node, id, "healthy")
	c.Report.Dir = dir
	return c
}

func TestADrainedNodeIsEmptiedStepByStep(t *testing.T) {
	t.Parallel()
	n := func(id string) placement.Node { return node("a/r/"+id, 9) }
	two := volume.Entry{Spec: volume.Spec{Placement: 1}, Primary: "1", InSync: hs("1.1", "2.2")}
	three := volume.Entry{Spec: volume.Spec{Placement: 1}, Primary: "1", InSync: hs("1.1", "2.2", "3.3")}
	joining := volume.Entry{Spec: volume.Spec{Placement: 1}, Primary: "1", InSync: hs("1.1"), Joining: hs("2.2")}
	coming := volume.Entry{Spec: volume.Spec{Placement: 1}, Primary: "1", InSync: hs("1.1", "2.2"), Joining: hs("3.3")}
	for name, tt := range map[string]struct {
		nodes []placement.Node
		vol   placement.Volume
		want  string // as sets writes it; "" for nothing
	}{
		"a new copy joins first":                               {[]placement.Node{n("1"), drained(n("2")), n("3")}, vol(two), "1: 1.1 2.2 | 3.0 open"},
		"nothing else until it is in sync":                     {[]placement.Node{n("1"), drained(n("2")), n("3")}, vol(coming), ""},
		"the old copy leaves then":                             {[]placement.Node{n("1"), drained(n("2")), n("3")}, vol(three), "1: 1.1 3.3 |  open"},
		"one that leads stays until it has handed over":        {[]placement.Node{drained(n("1")), n("2"), n("3")}, vol(three), ""},
		"one that leads is replaced like any other":            {[]placement.Node{drained(n("1")), n("2"), n("3")}, vol(two), "1: 1.1 2.2 | 3.0 open"},
		"without another place it stays":                       {[]placement.Node{n("1"), drained(n("2"))}, vol(two), ""},
		"another node that is drained is no place":             {[]placement.Node{n("1"), drained(n("2")), drained(n("3"))}, vol(two), ""},
		"a joining copy is replaced at once":                   {[]placement.Node{n("1"), drained(n("2")), n("3")}, vol(joining), "1: 1.1 | 3.0 open"},
		"one that is away is not waited for":                   {[]placement.Node{n("1"), drained(gone(n("2"), time.Second)), n("3")}, vol(two), "1: 1.1 2.2 | 3.0 open"},
		"both copies move":                                     {[]placement.Node{drained(n("1")), drained(n("2")), n("3"), n("4")}, vol(two), "1: 1.1 2.2 | 4.0 3.0 open"},
		"a dead primary is followed by one that stays":         {[]placement.Node{gone(n("1"), time.Second), drained(n("2")), n("3")}, vol(three), "3: 2.2 3.3 | 1.1 open"},
		"a surplus copy that stays is not what goes":           {[]placement.Node{n("1"), drained(n("2")), n("3")}, vol(three, rep("3", 3, "healthy")), "1: 1.1 3.3 |  open"},
		"a copy in a directory being drained moves":            {[]placement.Node{n("1"), drained(n("2"), "/d"), n("3")}, vol(two, repIn("2", 2, "/d")), "1: 1.1 2.2 | 3.0 open"},
		"one in another directory does not":                    {[]placement.Node{n("1"), drained(n("2"), "/e"), n("3")}, vol(two, repIn("2", 2, "/d")), ""},
		"nor one whose directory is not known":                 {[]placement.Node{n("1"), drained(n("2"), "/d"), n("3")}, vol(two), ""},
		"a directory being drained takes no copy":              {[]placement.Node{n("1"), drained(n("2")), drained(n("3"), "/d")}, vol(two), ""},
		"a directory beside one being drained takes copies":    {[]placement.Node{n("1"), drained(n("2")), drained(n("3"), "/e")}, vol(two), "1: 1.1 2.2 | 3.0 open"},
		"a lost copy is not made anew on a node being drained": {[]placement.Node{n("1"), drained(n("2")), n("3")}, vol(two, rep("2", 2, "lost")), "1: 1.1 | 3.0 open"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := ""
			for _, s := range placement.Settle(placement.View{Nodes: tt.nodes, Volumes: []placement.Volume{tt.vol}}, placement.Settings{}) {
				if got = sets(s.Change.Next); s.Reason == "" {
					t.Error("no reason")
				}
			}
			if got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

// A host or disk is taken away when its drain is done: nobody may be told so who has
// not heard from its node yet, as a leader that has just begun.
func TestADrainIsDoneWhenItIsKnownThatNothingIsLeft(t *testing.T) {
	t.Parallel()
	n := func(told bool) placement.Node { n := node("a/r/2", 9); n.Told = told; return n }
	here := &volume.Entry{Volume: 7, Primary: "2", InSync: hs("2.2")}
	moved := &volume.Entry{Volume: 7, Primary: "1", InSync: hs("1.1")}
	for name, tt := range map[string]struct {
		node placement.Node
		vol  placement.Volume
		dir  string
		left int
		done bool
	}{
		"everything is elsewhere":                        {n(true), placement.Volume{Entry: moved}, "", 0, true},
		"so it seems, and the node has not told":         {n(false), placement.Volume{Entry: moved}, "", 0, false},
		"the node is gone":                               {gone(n(false), time.Second), placement.Volume{Entry: moved}, "", 0, true},
		"it is in the directory":                         {n(true), placement.Volume{Entry: here, Copies: []placement.Copy{repIn("2", 2, "/d")}}, "/d", 1, false},
		"it is in another one":                           {n(true), placement.Volume{Entry: here, Copies: []placement.Copy{repIn("2", 2, "/e")}}, "/d", 0, true},
		"nobody has told in which":                       {n(false), placement.Volume{Entry: here}, "/d", 1, false},
		"the node is gone, and nobody has told in which": {gone(n(false), time.Second), placement.Volume{Entry: here}, "/d", 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := placement.Drains(placement.View{Nodes: []placement.Node{tt.node}, Volumes: []placement.Volume{tt.vol}}, placement.Settings{}, []catalog.Drain{{Node: "2", Dir: tt.dir}})[0]
			if d.Work.Copies != tt.left || d.Done != tt.done {
				t.Errorf("%+v, want %d, %v", d, tt.left, tt.done)
			}
		})
	}
}

func TestNewVolumesKeepAwayFromWhatIsDrained(t *testing.T) {
	t.Parallel()
	v := placement.View{Nodes: []placement.Node{node("a/r/1", 9), drained(node("a/r/2", 9)), drained(node("a/r/3", 9), "/d"), drained(node("a/r/4", 9), "/e")}}
	for range 3 {
		got, err := placement.Choose(v, placement.GrowRequest{Spec: volume.Spec{Placement: 1}})
		if slices.Sort(got); err != nil || !slices.Equal(got, []volume.NodeID{"1", "4"}) {
			t.Fatalf("%v, %v", got, err)
		}
	}
	v.Nodes = v.Nodes[:2]
	if _, err := placement.Choose(v, placement.GrowRequest{Spec: volume.Spec{Placement: 1}}); err == nil {
		t.Error("a node being drained was chosen")
	}
}

// A copy is verified while it is in sync: it has all that was acknowledged. Who
// decides about copies is the leader's loop (Settle), the questions of copies
// (Answer) and orders to drop (Drops). Whatever they are asked, in any order, and
// whatever nodes say and operators drain: a volume keeps a verified copy, one that
// is there if one is there; the loop takes none out while fewer would be left there
// than were asked for; and no order names a copy of the entry in force, or one for
// which too few others are in sync.
func TestNoDecisionDropsTheLastVerifiedCopy(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v := trouble(t, randomView(t))
		m := &decisions{t: t, v: v, cat: catalogOf(t, &v), copies: 1000}
		m.v.Volumes = v.Volumes
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			switch rapid.IntRange(0, 4).Draw(t, "caller") {
			case 0, 1:
				m.settle()
			case 2:
				m.ask()
			case 3:
				m.drops()
			case 4:
				m.fate()
			}
		}
	})
}

type decisions struct {
	t      *rapid.T
	v      placement.View
	cat    *catalog.Catalog
	copies volume.CopyID
	old    []placement.Stray // copies that were in an entry once
}

// there lists the copies in sync of e that can be used now.
func (m *decisions) there(e *volume.Entry) (out []volume.Holder) {
	i := slices.IndexFunc(m.v.Volumes, func(v placement.Volume) bool { return v.Entry.Volume == e.Volume })
	for _, h := range e.InSync {
		j := slices.IndexFunc(m.v.Nodes, func(n placement.Node) bool { return n.ID == h.Node })
		if m.v.Nodes[j].Alive && m.v.Volumes[i].Bad(h) == "" {
			out = append(out, h)
		}
	}
	return out
}

// take has a change applied and checks what came of it. loop says that the
// leader's loop planned it.
func (m *decisions) take(ch catalog.Change, loop bool, why string) {
	was, _ := m.cat.Volume(ch.Next.Volume)
	for i := range ch.Next.Joining {
		if h := &ch.Next.Joining[i]; h.Copy == 0 {
			m.copies++
			h.Copy = m.copies
		}
	}
	next, res := m.cat.Apply(catalog.Command{Change: &catalog.Batch{Changes: []catalog.Change{ch}}})
	if res.Errs[0] != nil {
		m.t.Fatalf("%s: %v", why, res.Errs[0])
	}
	m.cat = next
	now := res.Entries[0]
	there := m.there(was)
	kept := slices.DeleteFunc(slices.Clone(now.InSync), func(h volume.Holder) bool { return !slices.Contains(was.InSync, h) })
	if len(kept) == 0 {
		m.t.Fatalf("%s: no verified copy is left: %+v after %+v", why, now, was)
	}
	left := m.there(now)
	if len(there) > 0 && !slices.ContainsFunc(there, func(h volume.Holder) bool { return slices.Contains(now.InSync, h) }) {
		m.t.Fatalf("%s: no verified copy that is there is left: %+v after %+v", why, now, was)
	}
	for _, h := range there {
		if loop && !slices.Contains(now.InSync, h) && len(left) < now.Spec.Placement.Copies() {
			m.t.Fatalf("%s: %v goes and %d copies are left: %+v after %+v", why, h, len(left), now, was)
		}
	}
	for _, h := range slices.Concat(was.InSync, was.Joining) {
		if k, _, ok := now.Holder(h.Node); !ok || k != h {
			m.old = append(m.old, placement.Stray{Node: h.Node, Report: &volume.CopyReport{Volume: was.Volume, Copy: h.Copy}})
		}
	}
	m.entries()
}

// entries brings the view up to the catalog. Nodes that are there make the copies
// that join.
func (m *decisions) entries() {
	for i := range m.v.Volumes {
		vol := &m.v.Volumes[i]
		vol.Entry, _ = m.cat.Volume(vol.Entry.Volume)
		vol.Copies = slices.Clone(vol.Copies)
		for _, h := range vol.Entry.Joining {
			c := placement.Copy{Node: h.Node, Report: &volume.CopyReport{Volume: vol.Entry.Volume, Copy: h.Copy, State: volume.CopyHealthy, Dir: "/d"}}
			if j := slices.IndexFunc(vol.Copies, func(c placement.Copy) bool { return c.Node == h.Node }); j < 0 {
				vol.Copies = append(vol.Copies, c)
			} else if vol.Copies[j].Report.Copy != h.Copy {
				vol.Copies[j] = c
			}
		}
	}
}

func (m *decisions) settle() {
	for _, s := range placement.Settle(m.v, placement.Settings{}) {
		if s.Delete() {
			m.t.Fatalf("volume %d is to be deleted: %s", s.Volume, s.Reason)
		}
		m.take(*s.Change, true, s.Reason)
	}
}

func (m *decisions) ask() {
	if len(m.v.Volumes) == 0 {
		return
	}
	vol := rapid.SampledFrom(m.v.Volumes).Draw(m.t, "volume")
	e := vol.Entry
	all := slices.Concat(e.InSync, e.Joining)
	a := volume.Ask{Volume: e.Volume, Epoch: e.Epoch, From: rapid.SampledFrom(all).Draw(m.t, "from"), Generation: e.Generation + 1,
		Kind:   rapid.SampledFrom([]volume.AskKind{volume.AskLead, volume.AskRemove, volume.AskRemove, volume.AskAdd, volume.AskAdd, volume.AskYield, volume.AskCompact}).Draw(m.t, "kind"),
		Failed: rapid.Bool().Draw(m.t, "failed"), Unfit: rapid.Bool().Draw(m.t, "unfit")}
	for _, h := range all {
		if rapid.Bool().Draw(m.t, "copy") {
			a.Copies = append(a.Copies, h)
		}
	}
	if ch, err := placement.Answer(m.v, vol, a); err == nil {
		m.take(ch, false, string(a.Kind))
	}
}

func (m *decisions) drops() {
	for _, d := range placement.Drops(m.old, m.cat.Volume) {
		e, _ := m.cat.Volume(d.Volume)
		named := slices.ContainsFunc(slices.Concat(e.InSync, e.Joining), func(h volume.Holder) bool { return h.Copy == d.Copy && h.Node != "" })
		if d.Deleted || named || d.Epoch != e.Epoch || len(d.Keep) < e.Spec.Placement.Copies() || !slices.Equal(d.Keep, e.InSync) {
			m.t.Fatalf("drop %+v by %+v", d, e)
		}
	}
}

// fate lets a node go or come, a copy fail, or a drain begin or end.
func (m *decisions) fate() {
	m.v.Nodes = slices.Clone(m.v.Nodes)
	i := rapid.IntRange(0, len(m.v.Nodes)-1).Draw(m.t, "node")
	n := &m.v.Nodes[i]
	switch rapid.IntRange(0, 4).Draw(m.t, "fate") {
	case 0:
		*n = gone(*n, time.Hour)
	case 1:
		n.Alive, n.Ready, n.Away = true, true, 0
	case 2:
		*n = drained(*n)
	case 3:
		*n = drained(*n, "/d")
	case 4:
		n.Drain = volume.DrainOrder{}
	}
}
