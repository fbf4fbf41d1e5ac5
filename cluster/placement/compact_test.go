package placement_test

import (
	"slices"
	"testing"

	"weedd/cluster/placement"
	"weedd/volume"
)

func TestOnlyVolumesAtRestAreCompacted(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*placement.View)
		want   bool
	}{
		"a third is garbage":        {func(*placement.View) {}, true},
		"a full volume":             {func(v *placement.View) { v.Volumes[0].Entry.State = volume.StateFull }, true},
		"a read-only volume":        {func(v *placement.View) { v.Volumes[0].Entry.State = volume.StateReadOnly }, false},
		"less is garbage":           {func(v *placement.View) { v.Volumes[0].Copies[0].Report.DeletedB = 200 }, false},
		"a copy is missing":         {func(v *placement.View) { v.Volumes[0].Entry.InSync = hs("1.1") }, false},
		"a copy joins":              {func(v *placement.View) { v.Volumes[0].Entry.Joining = hs("3.3") }, false},
		"a node is away":            {func(v *placement.View) { v.Nodes[1] = gone(v.Nodes[1], 1) }, false},
		"a copy has failed":         {func(v *placement.View) { v.Volumes[0].Copies[1].Report.State = volume.CopyFailed }, false},
		"a copy is behind":          {func(v *placement.View) { v.Volumes[0].Copies[1].Report.Epoch = 3 }, false},
		"a copy has the old files":  {func(v *placement.View) { v.Volumes[0].Entry.Generation = 1 }, false},
		"the primary does not lead": {func(v *placement.View) { v.Volumes[0].Copies[0].Report.Leads = false }, false},
		"it is under way":           {func(v *placement.View) { v.Volumes[0].Copies[0].Report.Compacting = true }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := volume.Entry{Volume: 1, State: volume.StateOpen, Epoch: 4, Spec: volume.Spec{Placement: 1}, Primary: "1", InSync: hs("1.1", "2.2")}
			v := placement.View{Nodes: nodes("a/r/1", "a/r/2"), Volumes: []placement.Volume{{Entry: &e}}}
			for _, h := range e.InSync {
				v.Volumes[0].Copies = append(v.Volumes[0].Copies, placement.Copy{Node: h.Node, Report: &volume.CopyReport{
					Volume: 1, Copy: h.Copy, State: volume.CopyHealthy, Epoch: 4, Size: 1000, DeletedB: 333, Leads: h.Node == "1"}})
			}
			tt.change(&v)
			if got := len(placement.Compactable(v, 0.3)) == 1; got != tt.want {
				t.Errorf("compacted: %v", got)
			}
		})
	}
}

func TestMostGarbageIsCompactedFirst(t *testing.T) {
	t.Parallel()
	v := placement.View{Nodes: nodes("a/r/1")}
	for i, garbage := range []int64{100, 0, 500, 300} {
		e := &volume.Entry{Volume: volume.ID(i + 1), State: volume.StateOpen, Epoch: 1, Primary: "1", InSync: hs("1.1")}
		v.Volumes = append(v.Volumes, placement.Volume{Entry: e, Copies: []placement.Copy{{Node: "1", Report: &volume.CopyReport{
			Volume: e.Volume, Copy: e.InSync[0].Copy, State: volume.CopyHealthy, Epoch: 1, Size: 1000, DeletedB: garbage, Leads: true}}}})
	}
	var got []volume.ID
	for _, vol := range placement.Compactable(v, 0) {
		got = append(got, vol.Entry.Volume)
	}
	if !slices.Equal(got, []volume.ID{3, 4, 1}) { // without garbage there is nothing to do
		t.Errorf("%v", got)
	}
}
