package placement_test

import (
	"strings"
	"testing"
	"time"

	"weedd/cluster/placement"
	"weedd/volume"
)

// After a recovery a volume goes on with the longest copy of the newest epoch that
// any has entered, whatever the entry says, once every node has told what it has.
func TestAnUnsureVolumeGoesOnWithWhatItsCopiesHave(t *testing.T) {
	t.Parallel()
	told := func(id string) placement.Node {
		n := node("a/r/"+id, 9)
		n.Told = true
		return n
	}
	at := func(node volume.NodeID, id volume.CopyID, epoch volume.Epoch, size int64) placement.Copy {
		c := rep(node, id, "healthy")
		c.Report.Epoch, c.Report.Size = epoch, size
		return c
	}
	two := volume.Entry{Spec: volume.Spec{Placement: 1}, Primary: "1", InSync: hs("1.1", "2.2"), Unsure: true}
	young := two
	young.State = volume.StateNew
	all := []placement.Node{told("1"), told("2"), told("3")}
	stray := func(c placement.Copy) placement.Stray {
		c.Report.Volume = 1
		return placement.Stray{Node: c.Node, Report: c.Report}
	}
	for name, tt := range map[string]struct {
		nodes  []placement.Node
		vol    placement.Volume
		strays []placement.Stray
		waived []volume.NodeID
		want   string // as sets writes it; "" for nothing
		epoch  volume.Epoch
		why    string
	}{
		"the longest of one epoch":            {all, vol(two, at("1", 1, 4, 100), at("2", 2, 4, 200)), nil, nil, "2: 2.2 | 1.1 open", 4, ""},
		"a newer epoch counts for more":       {all, vol(two, at("1", 1, 6, 100), at("2", 2, 4, 200)), nil, nil, "1: 1.1 | 2.2 open", 6, ""},
		"a copy that the entry does not name": {all, vol(two, at("1", 1, 4, 100), at("2", 2, 4, 200)), []placement.Stray{stray(at("3", 3, 5, 50))}, nil, "3: 3.3 | 2.2 open", 5, ""},
		"files of SeaweedFS are no copy":      {all, vol(two, at("1", 1, 4, 100), at("2", 2, 4, 200)), []placement.Stray{stray(at("3", 0, 9, 500))}, nil, "2: 2.2 | 1.1 open", 4, ""},
		"a new volume may have been in use":   {all, vol(young, at("1", 1, 1, 8), at("2", 2, 1, 8)), nil, nil, "1: 1.1 | 2.2 open", 1, ""},
		"one holder has not told":             {[]placement.Node{told("1"), gone(node("a/r/2", 9), time.Hour)}, vol(two, at("1", 1, 4, 100)), nil, nil, "", 0, "nothing was heard of node 2"},
		"it is waived":                        {[]placement.Node{told("1"), gone(node("a/r/2", 9), time.Hour)}, vol(two, at("1", 1, 4, 100)), nil, []volume.NodeID{"2"}, "1: 1.1 |  open", 4, ""},
		"a lost copy may be the one":          {all, vol(two, at("1", 1, 4, 100), rep("2", 2, "lost")), nil, nil, "", 0, "node 2 is lost"},
		"a failed copy may be the one":        {all, vol(two, at("1", 1, 4, 100), rep("2", 2, "failed")), nil, nil, "", 0, "node 2 is failed"},
		"not if its node is waived":           {all, vol(two, at("1", 1, 4, 100), rep("2", 2, "lost")), nil, []volume.NodeID{"2"}, "1: 1.1 |  open", 4, ""},
		"no copy at all":                      {all, vol(two), nil, nil, "", 0, "no node has a copy"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := placement.View{Nodes: tt.nodes, Volumes: []placement.Volume{tt.vol}, Strays: tt.strays, Waived: tt.waived}
			got, epoch := "", volume.Epoch(0)
			for _, s := range placement.Settle(v, placement.Settings{}) {
				got, epoch = sets(s.Change.Next), s.Change.Sure
			}
			if got != tt.want || epoch != tt.epoch {
				t.Errorf("%q above epoch %d, want %q above %d", got, epoch, tt.want, tt.epoch)
			}
			n, why := placement.Unsure(v, placement.Settings{})
			x, _ := placement.Explain(v, placement.Settings{}, 1)
			if n != 1 || !strings.Contains(why, tt.why) || tt.why != "" && !strings.Contains(strings.Join(x.Waits, ";"), tt.why) {
				t.Errorf("%d wait: %q; %q", n, why, x.Waits)
			}
		})
	}
	entry := func(volume.ID) (*volume.Entry, bool) { e := vol(two).Entry; return e, true }
	if d := placement.Drops([]placement.Stray{stray(at("3", 3, 4, 1))}, entry); len(d) != 0 {
		t.Errorf("dropped while nobody knows which copy is the newest: %+v", d)
	}
	a := volume.Ask{Kind: volume.AskLead, Epoch: 4, From: hs("1.1")[0]}
	if _, err := placement.Answer(placement.View{Nodes: all}, vol(two), a); err == nil || !strings.Contains(err.Error(), "R3") {
		t.Errorf("a copy may lead: %v", err)
	}
	// Another volume names a node that has not told: it may have the newest copy of this one.
	other := vol(volume.Entry{Primary: "9", InSync: hs("9.9")})
	other.Entry.Volume = 2
	v := placement.View{Nodes: all, Volumes: []placement.Volume{vol(two, at("1", 1, 4, 100), at("2", 2, 4, 200)), other}}
	if steps := placement.Settle(v, placement.Settings{}); len(steps) != 0 {
		t.Errorf("node 9 was not waited for: %+v", steps)
	}
}
