package placement_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"weedd/cluster/placement"
	"weedd/volume"
)

// foreignStray is a copy of volume 7 that SeaweedFS left on node, with so many files.
func foreignStray(node volume.NodeID, files uint64, change ...func(*volume.CopyReport)) placement.Stray {
	r := &volume.CopyReport{Volume: 7, State: volume.CopyHealthy, Spec: volume.Spec{Placement: 1}, Files: files, MaxKey: volume.Key(files), Revision: 2, Version: 3, Adoptable: true}
	for _, f := range change {
		f(r)
	}
	return placement.Stray{Node: node, Report: r}
}

func TestAdoptions(t *testing.T) {
	t.Parallel()
	adopting := func(copy volume.CopyID, sources ...placement.Stray) *volume.Entry {
		e := &volume.Entry{Volume: 7, Spec: volume.Spec{Placement: 1}, State: volume.StateNew, Epoch: 1, Version: 4, Primary: "a", InSync: []volume.Holder{{Node: "a", Copy: copy}}}
		for _, s := range sources {
			e.Sources = append(e.Sources, volume.Source{Node: s.Node, Print: s.Report.Print()})
		}
		return e
	}
	ours := &volume.Entry{Volume: 7, State: volume.StateOpen, Epoch: 1, Version: 2, Primary: "a", InSync: []volume.Holder{{Node: "a", Copy: 1}}}
	failed := func(state volume.CopyState) placement.Copy {
		s := foreignStray("a", 5)
		s.Report.Copy, s.Report.State = 1, state
		return placement.Copy{Node: "a", Report: s.Report}
	}
	a, b := foreignStray("a", 5), foreignStray("b", 6)
	made := func(r *volume.CopyReport) { r.Copy, r.Adoptable = 9, false }
	used := adopting(1, a)
	used.State = volume.StateFull
	tests := []struct {
		name    string
		strays  []placement.Stray
		entry   *volume.Entry
		copies  []placement.Copy
		waited  time.Duration
		keep    bool
		holder  volume.NodeID // "" for no adoption
		copy    volume.CopyID // 0 for a new one
		sources int
		version uint64
		problem string
	}{
		{name: "as many copies as asked for, the fuller one first", strays: []placement.Stray{a, b}, holder: "b", sources: 2},
		{name: "one copy of two waits", strays: []placement.Stray{a}},
		{name: "and not for ever", strays: []placement.Stray{a}, waited: time.Minute, holder: "a", sources: 1},
		{name: "switched off", strays: []placement.Stray{a, b}, keep: true},
		{name: "the number was deleted", strays: []placement.Stray{{Node: "a", Report: a.Report, Deleted: true}, b}, problem: "deleted"},
		{name: "the number is another volume's", strays: []placement.Stray{a, b}, entry: ours, problem: "another volume"},
		{name: "a copy of ours that nothing explains", strays: []placement.Stray{a, foreignStray("b", 1, func(r *volume.CopyReport) { r.Copy = 9 })}, waited: time.Minute, problem: "weedd made"},
		{name: "another collection", strays: []placement.Stray{a, foreignStray("b", 1, func(r *volume.CopyReport) { r.Spec.Collection = "x" })}, problem: "collection"},
		{name: "another version", strays: []placement.Stray{a, foreignStray("b", 1, func(r *volume.CopyReport) { r.Version = 2 })}, problem: "version"},
		{name: "another time to live", strays: []placement.Stray{a, foreignStray("b", 1, func(r *volume.CopyReport) { r.Spec.TTL = volume.TTL{Count: 1, Unit: 1} })}, problem: "TTL"},
		{name: "a number near the end", strays: []placement.Stray{foreignStray("a", 1, func(r *volume.CopyReport) { r.Volume = 1<<31 + 1 })}, waited: time.Minute, problem: "numbers above"},
		{name: "a node that is not ready is waited for", strays: []placement.Stray{a, foreignStray("z", 1)}, waited: time.Minute},
		{name: "under way", strays: []placement.Stray{a, b}, entry: adopting(1, a, b)},
		{name: "under way, and another copy comes", strays: []placement.Stray{a, b}, entry: adopting(1, a)},
		{name: "failed, and nothing has changed", strays: []placement.Stray{b}, entry: adopting(1, a, b), copies: []placement.Copy{failed(volume.CopyFailed)}},
		{name: "failed, and another copy has come", strays: []placement.Stray{b}, entry: adopting(1, a), copies: []placement.Copy{failed(volume.CopyFailed)}, holder: "b", sources: 2, version: 4},
		{name: "its copy id was used up", strays: []placement.Stray{b}, entry: adopting(1, a, b), copies: []placement.Copy{failed(volume.CopyLost)}, holder: "b", sources: 2, version: 4},
		{name: "its copy was made by an older order", strays: []placement.Stray{foreignStray("a", 5, made), b}, entry: adopting(1, a, b), copies: []placement.Copy{{Node: "a", Report: foreignStray("a", 5, made).Report}}, holder: "a", copy: 9, sources: 1, version: 4},
		{name: "another node made it by an older order, and who is to make it may yet", strays: []placement.Stray{foreignStray("b", 6, made)}, entry: adopting(1, a, b)},
		{name: "another node made it by an older order, and who is to make it cannot", strays: []placement.Stray{foreignStray("b", 6, made)}, entry: adopting(1, a, b), copies: []placement.Copy{failed(volume.CopyFailed)}, holder: "b", copy: 9, sources: 1, version: 4},
		{name: "a copy of ours that it was not to be made from", strays: []placement.Stray{foreignStray("c", 6, made)}, entry: adopting(1, a), copies: []placement.Copy{failed(volume.CopyFailed)}},
		{name: "another node made it by an older order without what it is made from now, and the copy id was used up", strays: []placement.Stray{foreignStray("b", 6, made)}, entry: adopting(1, a), copies: []placement.Copy{failed(volume.CopyLost)}, holder: "a", sources: 1, version: 4},
		{name: "another node made it, is away for long now, and the copy id was used up", strays: []placement.Stray{foreignStray("d", 9, made)}, entry: adopting(1, a, foreignStray("d", 9)), copies: []placement.Copy{failed(volume.CopyLost)}, holder: "a", sources: 1, version: 4},
		{name: "a node that is away for long is not waited for", strays: []placement.Stray{a, foreignStray("d", 9)}, waited: time.Minute, holder: "a", sources: 1},
		{name: "failed for a node that is away for long now", strays: []placement.Stray{foreignStray("d", 9)}, entry: adopting(1, a, foreignStray("d", 9)), copies: []placement.Copy{failed(volume.CopyFailed)}, holder: "a", sources: 1, version: 4},
		{name: "a copy that comes late stays", strays: []placement.Stray{b}, entry: used, problem: "came to light"},
		{name: "a copy that was merged is no problem", strays: []placement.Stray{a}, entry: used},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v := placement.View{Strays: tt.strays}
			for _, id := range []volume.NodeID{"a", "b", "c"} {
				v.Nodes = append(v.Nodes, placement.Node{Node: volume.Node{ID: id}, Alive: true, Ready: true})
			}
			v.Nodes = append(v.Nodes, placement.Node{Node: volume.Node{ID: "d"}, Away: time.Hour})
			if tt.entry != nil {
				v.Volumes = []placement.Volume{{Entry: tt.entry, Copies: tt.copies}}
			}
			check := func(v placement.View) {
				t.Helper()
				out := placement.Adoptions(v, func(volume.ID) time.Duration { return tt.waited }, placement.Settings{KeepForeign: tt.keep})
				switch {
				case tt.holder == "" && tt.problem == "":
					if len(out) > 0 {
						t.Errorf("%+v, want nothing", out[0])
					}
				case len(out) != 1:
					t.Errorf("%+v, want one", out)
				case tt.holder == "":
					if out[0].Adopt != nil || !strings.Contains(out[0].Problem, tt.problem) {
						t.Errorf("%+v, want %q", out[0], tt.problem)
					}
				case out[0].Adopt == nil || out[0].Adopt.Holder != (volume.Holder{Node: tt.holder, Copy: tt.copy}) || len(out[0].Adopt.Sources) != tt.sources || out[0].Adopt.Version != tt.version ||
					out[0].Adopt.Generation != 2 || out[0].Adopt.Spec.Placement != 1:
					t.Errorf("%+v %+v", out[0], out[0].Adopt)
				}
			}
			check(v)
			v.Strays = slices.Clone(v.Strays)
			slices.Reverse(v.Strays) // order is nothing
			check(v)
		})
	}
}
