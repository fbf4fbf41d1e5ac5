package placement_test

import (
	"strings"
	"testing"
	"time"

	"weedd/cluster/placement"
	"weedd/volume"
)

// Only a copy that is there and well may be promoted, and only when none that has all
// of the volume may come to lead by itself.
func TestWhichCopyMayBePromotedByHand(t *testing.T) {
	t.Parallel()
	entry := volume.Entry{Spec: volume.Spec{Placement: 1}, State: volume.StateOpen, Epoch: 4, Generation: 2, Primary: "1", InSync: hs("1.1"), Joining: hs("2.2")}
	with := func(edit func(*volume.Entry)) volume.Entry { e := entry; edit(&e); return e }
	at := func(node volume.NodeID, id volume.CopyID, state volume.CopyState, generation uint32) placement.Copy {
		c := rep(node, id, state)
		c.Report.Epoch, c.Report.Generation = 3, generation
		return c
	}
	away := []placement.Node{gone(node("a/r/1", 9), time.Hour), node("a/r/2", 9), node("a/r/3", 9)}
	there := []placement.Node{node("a/r/1", 9), node("a/r/2", 9), node("a/r/3", 9)}
	stray := at("3", 3, volume.CopyHealthy, 2)
	stray.Report.Volume = 1
	for name, tt := range map[string]struct {
		nodes []placement.Node
		vol   placement.Volume
		on    volume.NodeID
		want  string // as sets writes it
		why   string // of a refusal
	}{
		"one that joined":                  {away, vol(entry, at("2", 2, volume.CopyHealthy, 2)), "2", "2: 2.2 |  open", ""},
		"one that the entry does not name": {away, vol(entry), "3", "3: 3.3 |  open", ""},
		"the one in sync has failed":       {there, vol(entry, at("1", 1, volume.CopyFailed, 2), at("2", 2, volume.CopyHealthy, 2)), "2", "2: 2.2 |  open", ""},
		"the one in sync is there":         {there, vol(entry, at("1", 1, volume.CopyHealthy, 2), at("2", 2, volume.CopyHealthy, 2)), "2", "", "node 1 is there"},
		"it has failed itself":             {away, vol(entry, at("2", 2, volume.CopyFailed, 2)), "2", "", "is failed"},
		"there is none":                    {away, vol(entry), "2", "", "has no copy"},
		"its node is away":                 {away, vol(entry, at("1", 1, volume.CopyHealthy, 2)), "1", "", "has no copy"},
		"files of SeaweedFS are no copy":   {away, vol(entry, at("2", 0, volume.CopyHealthy, 2)), "2", "", "has no copy"},
		"it missed a compaction":           {away, vol(entry, at("2", 2, volume.CopyHealthy, 1)), "2", "", "missed a compaction"},
		"the masters were recovered":       {away, vol(with(func(e *volume.Entry) { e.Unsure = true }), at("2", 2, volume.CopyHealthy, 2)), "2", "", "weedd recover"},
		"a new volume":                     {away, vol(with(func(e *volume.Entry) { e.State = volume.StateNew }), at("2", 2, volume.CopyHealthy, 2)), "2", "", "is new"},
	} {
		v := placement.View{Nodes: tt.nodes, Volumes: []placement.Volume{tt.vol}, Strays: []placement.Stray{{Node: "3", Report: stray.Report}}}
		ch, why, err := placement.Promote(v, 1, tt.on)
		switch {
		case tt.why != "" && (err == nil || !strings.Contains(err.Error(), tt.why)):
			t.Errorf("%s: %v", name, err)
		case tt.why == "" && (err != nil || sets(ch.Next) != tt.want || !ch.Lost || ch.Sure != 4 || !strings.Contains(why, "node 1 are given up")):
			t.Errorf("%s: %q, %+v, %v: %s", name, sets(ch.Next), ch, err, why)
		}
	}
}
