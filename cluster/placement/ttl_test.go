package placement_test

import (
	"errors"
	"testing"
	"time"

	"weedd/cluster/placement"
	"weedd/volume"
)

func TestAVolumeWithATimeToLiveIsLedToItsEnd(t *testing.T) {
	t.Parallel()
	hours := volume.TTL{Count: 2, Unit: 2}
	minutes := volume.TTL{Count: 3, Unit: 1}
	tests := []struct {
		name      string
		ttl       volume.TTL
		state     volume.State
		old, idle time.Duration
		age       time.Duration
		epoch     volume.Epoch // of the primary's report; the entry's is 4
		leads     bool
		want      string // a state, "delete", or "" for nothing
	}{
		{"without one it stays", volume.TTL{}, "open", 9999 * time.Hour, 9999 * time.Hour, 0, 4, true, ""},
		{"an empty one stays", hours, "open", 9999 * time.Hour, 0, 0, 4, true, ""},
		{"a young one stays", hours, "open", time.Hour, time.Minute, 0, 4, true, ""},
		{"one as old as its files live is closed, though it is written", hours, "open", 2 * time.Hour, time.Second, 0, 4, true, "full"},
		{"but not within an hour", minutes, "open", 59 * time.Minute, time.Second, 0, 4, true, ""},
		{"one in which all has expired is closed", minutes, "open", 0, 3 * time.Minute, 0, 4, true, "full"},
		{"a closed one waits for those who have an id", minutes, "full", time.Hour, 3*time.Minute + 59*time.Second, 0, 4, true, ""},
		{"a tenth of its time, if that is more than a minute", hours, "full", 3 * time.Hour, 2*time.Hour + 9*time.Minute, 0, 4, true, ""},
		{"and ends", minutes, "full", time.Hour, 4 * time.Minute, 0, 4, true, "expired"},
		{"one set read-only by hand stays", minutes, "readonly", time.Hour, time.Hour, 0, 4, false, ""},
		{"an expired one is deleted", minutes, "expired", time.Hour, 4 * time.Minute, 5 * time.Second, 4, false, "delete"},
		{"not at once", minutes, "expired", time.Hour, 4 * time.Minute, 4 * time.Second, 4, false, ""},
		{"not before its primary knows of it", minutes, "expired", time.Hour, 4 * time.Minute, time.Minute, 3, false, ""},
		{"nor while that takes writes", minutes, "expired", time.Hour, 4 * time.Minute, time.Minute, 4, true, ""},
		{"one that was written meanwhile goes on", minutes, "expired", time.Hour, 2 * time.Minute, time.Minute, 4, false, "full"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v := vol(volume.Entry{Spec: volume.Spec{TTL: tt.ttl}, State: tt.state, Primary: "1", InSync: hs("1.1")}, rep("1", 1, "healthy"))
			v.Copies[0].Report.Epoch, v.Copies[0].Report.Leads = tt.epoch, tt.leads
			v.Old, v.Idle, v.Age = tt.old, tt.idle, tt.age
			view := placement.View{Nodes: nodes("a/r/1"), Volumes: []placement.Volume{v}}
			got := ""
			for _, s := range placement.Settle(view, placement.Settings{}) {
				if got = "delete"; !s.Delete() {
					got = string(s.Change.Next.State)
					if s.Change.Renew != (s.Change.Next.State == volume.StateExpired) {
						t.Errorf("%+v: the end begins with an epoch of its own, and nothing else does", s.Change)
					}
				}
			}
			if got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
			view.Nodes[0] = gone(view.Nodes[0], time.Minute)
			if steps := placement.Settle(view, placement.Settings{}); len(steps) > 0 {
				t.Errorf("without its primary: %+v", steps)
			}
		})
	}
}

func TestNothingIsMadeAnewOfAVolumeThatEnds(t *testing.T) {
	t.Parallel()
	v := vol(volume.Entry{Spec: volume.Spec{Placement: 1}, State: volume.StateExpired, Primary: "1", InSync: hs("1.1")}, rep("1", 1, "healthy"))
	if steps := placement.Settle(placement.View{Nodes: nodes("a/r/1", "a/r/2"), Volumes: []placement.Volume{v}}, placement.Settings{}); len(steps) > 0 {
		t.Errorf("%+v", steps)
	}
}

func TestPlanAllPlacesAllOrNone(t *testing.T) {
	t.Parallel()
	view := placement.View{Nodes: nodes("a/r/1")}
	view.Nodes[0].Disks = []volume.DiskReport{{Max: 3}}
	if sets, err := placement.PlanAll(view, placement.GrowRequest{}, 3); err != nil || len(sets) != 3 {
		t.Errorf("%v, %v", sets, err)
	}
	if sets, err := placement.PlanAll(view, placement.GrowRequest{}, 4); !errors.Is(err, volume.ErrNoSpace) || sets != nil {
		t.Errorf("%v, %v", sets, err)
	}
	if sets, err := placement.Plan(view, placement.GrowRequest{}, 4); err != nil || len(sets) != 3 {
		t.Errorf("as many as there is room for: %v, %v", sets, err)
	}
}
