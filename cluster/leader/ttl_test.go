package leader_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"weedd/cluster/leader"
	"weedd/volume"
)

// From the first write to the drop, by reports alone.
func TestAVolumeWhoseFilesHaveExpiredIsDeleted(t *testing.T) {
	in(t, func(t *testing.T) {
		l := newLab(t, "n1")
		spec := volume.Spec{TTL: volume.TTL{Count: 5, Unit: 1}}
		es, err := l.current().Grow(context.Background(), leader.GrowRequest{Spec: spec, Count: 1})
		if err != nil {
			t.Fatal(err)
		}
		id := es[0].Volume
		said := volume.CopyReport{Volume: id, Copy: es[0].InSync[0].Copy, Spec: spec, State: volume.CopyHealthy, Epoch: 1, Leads: true, Size: 100, Modified: time.Now()}
		l.server("n1").set(said)
		is := func(s volume.State) func() bool {
			return func() bool { e, ok := l.cat().Volume(id); return ok && e.State == s }
		}
		if took := l.within(6*time.Minute, "it is closed", is(volume.StateFull)); took < 5*time.Minute {
			t.Errorf("closed after %v", took)
		}
		said.Modified = time.Now() // somebody had an id
		l.server("n1").set(said)
		if took := l.within(7*time.Minute, "it takes no more writes", is(volume.StateExpired)); took < 6*time.Minute-time.Second {
			t.Errorf("ended after %v", took)
		}
		time.Sleep(time.Minute)
		if !is(volume.StateExpired)() {
			t.Error("deleted though its primary does not know yet that it takes no writes")
		}
		e, _ := l.cat().Volume(id)
		said.Epoch, said.Leads = e.Epoch, false
		l.server("n1").set(said)
		l.within(time.Second, "it is deleted", func() bool { return l.cat().Deleted(id) })
		l.within(time.Second, "an order to drop it", func() bool {
			return slices.ContainsFunc(l.server("n1").dropsSeen(), func(d volume.Drop) bool { return d.Volume == id && d.Deleted })
		})
		time.Sleep(time.Hour)
		for _, e := range l.cat().Volumes() {
			if e.State != volume.StateOpen {
				t.Errorf("volume %d, which is empty, is %s", e.Volume, e.State)
			}
		}
	})
}

func TestACopyThatItsPrimaryCannotUseIsMadeAnew(t *testing.T) {
	in(t, func(t *testing.T) {
		l := grown(t, 1, "n1", "n2")
		e := l.cat().Volumes()[0]
		from, _, _ := e.Holder(e.Primary)
		bad := e.InSync[0]
		if bad == from {
			bad = e.InSync[1]
		}
		ask := volume.Ask{Kind: volume.AskRemove, Volume: e.Volume, Epoch: e.Epoch, From: bad, Copies: []volume.Holder{from}, Unfit: true, Replace: []volume.Holder{from}}
		if _, err := l.current().Ask(context.Background(), ask); !errors.Is(err, volume.ErrStale) {
			t.Errorf("asked by a follower: %v", err)
		}
		ask.From, ask.Copies, ask.Replace = from, []volume.Holder{bad}, []volume.Holder{bad}
		if _, err := l.current().Ask(context.Background(), ask); err != nil && !errors.Is(err, volume.ErrStale) { // the round may be faster
			t.Fatal(err)
		}
		l.within(2*time.Second, "another copy on its node", func() bool {
			now, _ := l.cat().Volume(e.Volume)
			h, inSync, ok := now.Holder(bad.Node)
			return ok && inSync && h.Copy != bad.Copy && now.Primary == from.Node
		})
	})
}

func TestNewVolumesAreNumberedAboveThoseOfOthers(t *testing.T) {
	in(t, func(t *testing.T) {
		l := newLab(t, "n1")
		l.server("n1").set(volume.CopyReport{Volume: 500, State: volume.CopyHealthy, ReadOnly: true})
		l.server("n1").set(volume.CopyReport{Volume: 4_000_000_000, State: volume.CopyHealthy, ReadOnly: true})
		l.within(2*time.Second, "they are shown as what they are", func() bool {
			v, err := l.current().View()
			return err == nil && len(v.Problems) == 2 && v.Problems[0].Severity == "info"
		})
		es, err := l.current().Grow(context.Background(), leader.GrowRequest{Count: 1})
		if err != nil || es[0].Volume != 501 {
			t.Errorf("%+v, %v", es, err)
		}
		if _, err := l.current().Grow(context.Background(), leader.GrowRequest{Count: 1000}); !errors.Is(err, volume.ErrNoSpace) {
			t.Errorf("more than there is room for: %v", err)
		}
		if e, err := l.current().Entry(context.Background(), 501); err != nil || e.Volume != 501 {
			t.Errorf("%+v, %v", e, err)
		}
		if _, err := l.current().Entry(context.Background(), 500); !errors.Is(err, volume.ErrNoVolume) {
			t.Errorf("a foreign volume is none of the catalog: %v", err)
		}
		if drops := l.server("n1").dropsSeen(); len(drops) > 0 {
			t.Errorf("%+v", drops)
		}
	})
}
