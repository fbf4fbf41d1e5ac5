package placement_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"weedd/cluster/placement"
	"weedd/volume"
)

func TestWhichVolumesMayBeReadOnlyByHand(t *testing.T) {
	t.Parallel()
	open := volume.Entry{Spec: volume.Spec{Placement: 1}, State: volume.StateOpen, Primary: "1", InSync: hs("1.1", "2.2")}
	with := func(state volume.State, edit func(*volume.Entry)) volume.Entry {
		e := open
		e.State = state
		if edit != nil {
			edit(&e)
		}
		return e
	}
	adopted := with(volume.StateReadOnly, func(e *volume.Entry) { e.Sources = []volume.Source{{Node: "1", Print: 1}} })
	unsure := with(volume.StateOpen, func(e *volume.Entry) { e.Unsure = true })
	held := with(volume.StateReadOnly, nil)
	long, crowded := rep("1", 1, volume.CopyHealthy), rep("2", 2, volume.CopyHealthy)
	long.Report.Size, crowded.Report.NoRoom = 1<<40, true
	for name, tt := range map[string]struct {
		vol  placement.Volume
		undo bool
		next volume.State // "": nothing is to be done
		why  string       // of a refusal
	}{
		"an open one":                      {vol(open), false, volume.StateReadOnly, ""},
		"a full one":                       {vol(with(volume.StateFull, nil)), false, volume.StateReadOnly, ""},
		"one whose disk is full":           {vol(with(volume.StateNoRoom, nil)), false, volume.StateReadOnly, ""},
		"one that is so already":           {vol(held), false, "", ""},
		"undone":                           {vol(held), true, volume.StateOpen, ""},
		"undone, one that was adopted":     {vol(adopted), true, volume.StateFull, ""},
		"undone, one at its limit":         {vol(held, long), true, volume.StateFull, ""},
		"undone, one whose disk is full":   {vol(held, crowded), true, volume.StateNoRoom, ""},
		"undone, one that takes writes":    {vol(open), true, "", ""},
		"a new one":                        {vol(with(volume.StateNew, nil)), false, "", "is new"},
		"one about to end":                 {vol(with(volume.StateExpired, nil)), false, "", "has expired"},
		"one that waits after a recovery":  {vol(unsure), false, "", "masters were recovered"},
		"undone while what leads is bad":   {vol(held, rep("1", 1, volume.CopyFailed)), true, "", "its copy on node 1, which leads, is failed (why)"},
		"undone when another copy has led": {vol(held, rep("1", 9, volume.CopyFailed)), true, volume.StateOpen, ""},
	} {
		v := placement.View{Nodes: []placement.Node{node("a/r/1", 9), node("a/r/2", 9)}, Volumes: []placement.Volume{tt.vol}}
		got, err := placement.ReadOnly(v, placement.Settings{}, []volume.ID{1, 1}, tt.undo)
		switch {
		case tt.why != "":
			if !errors.Is(err, volume.ErrBadRequest) || !strings.Contains(err.Error(), tt.why) || got != nil {
				t.Errorf("%s: %+v, %v", name, got, err)
			}
		case tt.next == "":
			if got != nil || err != nil {
				t.Errorf("%s: %+v, %v", name, got, err)
			}
		case err != nil || len(got) != 1 || got[0].Next.State != tt.next || got[0].Renew == tt.undo || got[0].Version != 5:
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if got, err := placement.ReadOnly(v, placement.Settings{}, []volume.ID{1, 4}, tt.undo); !errors.Is(err, volume.ErrNotFound) || got != nil {
			t.Errorf("%s, and one that is not there: %+v, %v", name, got, err)
		}
	}
}

// An operator is told that a volume changes no more only when its primary said, in
// the epoch in force, that it knows, and has nothing left under way.
func TestWhenAVolumeObeys(t *testing.T) {
	t.Parallel()
	e := volume.Entry{State: volume.StateReadOnly, Primary: "1", InSync: hs("1.1", "2.2")}
	says := func(edit func(*volume.CopyReport)) placement.Copy {
		c := rep("1", 1, volume.CopyHealthy)
		c.Report.Epoch, c.Report.ReadOnly, c.Report.Committed, c.Report.Size = 4, true, 100, 100
		edit(c.Report)
		return c
	}
	other := says(func(*volume.CopyReport) {})
	other.Node = "2"
	for name, tt := range map[string]struct {
		vol placement.Volume
		why string
	}{
		"it knows":                       {vol(e, says(func(*volume.CopyReport) {})), ""},
		"nothing was heard of it":        {vol(e), "has not said yet"},
		"only another copy knows":        {vol(e, other), "has not said yet"},
		"an older copy on the node does": {vol(e, says(func(r *volume.CopyReport) { r.Copy = 7 })), "has not said yet"},
		"it is in the epoch before":      {vol(e, says(func(r *volume.CopyReport) { r.Epoch = 3 })), "has not said yet"},
		"it takes writes":                {vol(e, says(func(r *volume.CopyReport) { r.ReadOnly = false })), "has not said yet"},
		"a write is under way":           {vol(e, says(func(r *volume.CopyReport) { r.Size = 108 })), "still finishes"},
		"its copy failed":                {vol(e, says(func(r *volume.CopyReport) { r.State, r.Epoch = volume.CopyFailed, 3 })), ""},
	} {
		if got := tt.vol.Obeys(); (got == "") != (tt.why == "") || !strings.Contains(got, tt.why) {
			t.Errorf("%s: %q", name, got)
		}
	}
	open := e
	open.State = volume.StateOpen
	busy := vol(open, says(func(r *volume.CopyReport) { r.ReadOnly, r.Size = false, 108 }))
	if got := busy.Obeys(); got != "" {
		t.Errorf("one that takes writes: %s", got)
	}
}

// A volume that is read-only is repaired like others, and says what ends that.
func TestAReadOnlyVolumeIsRepairedAndSaysWhy(t *testing.T) {
	t.Parallel()
	e := volume.Entry{Spec: volume.Spec{Placement: 1}, State: volume.StateReadOnly, Primary: "1", InSync: hs("1.1", "2.2")}
	nodes := []placement.Node{gone(node("a/r/1", 9), time.Hour), node("a/r/2", 9), node("a/r/3", 9)}
	v := placement.View{Nodes: nodes, Volumes: []placement.Volume{vol(e)}}
	steps := placement.Settle(v, placement.Settings{})
	if len(steps) != 1 || sets(steps[0].Change.Next) != "2: 2.2 | 3.0 readonly" {
		t.Errorf("%+v", steps)
	}
	e.Primary, e.InSync, nodes[0] = "2", hs("2.2", "3.3"), node("a/r/1", 9)
	v.Volumes[0] = vol(e)
	if x, _ := placement.Explain(v, placement.Settings{}, 1); x.Next != nil || len(x.Waits) != 1 || !strings.Contains(x.Waits[0], "weedd readonly --undo 1") {
		t.Errorf("%+v", x)
	}
	e.InSync = hs("2.2")
	v.Volumes[0] = vol(e, rep("2", 2, volume.CopyFailed))
	if x, _ := placement.Explain(v, placement.Settings{}, 1); x.Next != nil || !strings.Contains(x.Waits[0], "its copy on node 2, which leads, is failed (why)") {
		t.Errorf("%+v", x)
	}
}
