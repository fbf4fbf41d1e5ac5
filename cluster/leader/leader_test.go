package leader_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weedd/cluster"
	"weedd/cluster/leader"
	"weedd/volume"
)

func TestTheFirstVolumeOfAnEmptyClusterOpensWithinASecond(t *testing.T) {
	in(t, func(t *testing.T) {
		l := newLab(t)
		began := time.Now()
		var wg sync.WaitGroup
		for range 3 { // as three masters may ask at once
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				defer cancel()
				es, err := l.current().Grow(ctx, leader.GrowRequest{})
				if err != nil || len(es) == 0 || es[0].State != volume.StateOpen {
					t.Errorf("Grow: %v, %v", es, err)
				}
			})
		}
		time.Sleep(100 * time.Millisecond) // the master is there before the volume server
		l.start("n1")
		wg.Wait()
		if d := time.Since(began); d > time.Second {
			t.Errorf("it took %v", d)
		}
		if n := len(l.cat().Volumes()); n != 7 {
			t.Errorf("%d volumes for three requests at once, want 7", n)
		}
	})
}

func TestGrowthSaysWhatIsMissing(t *testing.T) {
	in(t, func(t *testing.T) {
		l := newLab(t, "n1")
		began := time.Now()
		_, err := l.current().Grow(context.Background(), leader.GrowRequest{Spec: volume.Spec{Placement: 1}})
		if !errors.Is(err, volume.ErrUnsatisfiable) {
			t.Errorf("two copies on one node: %v", err)
		}
		if d := time.Since(began); d < 2*time.Second || d > 5*time.Second {
			t.Errorf("it waited %v for another volume server", d)
		}
	})
}

func TestAKilledNodeLosesItsPrimariesWithinTwoSeconds(t *testing.T) {
	for _, how := range []string{"killed", "cut off"} {
		t.Run(how, func(t *testing.T) {
			in(t, func(t *testing.T) {
				l := grown(t, 1, "n1", "n2", "n3")
				before := l.log.count()
				if how == "killed" {
					l.kill("n1")
				} else {
					l.freeze("n1")
				}
				took := l.within(2*time.Second, "another primary everywhere", func() bool {
					return l.all(func(e *volume.Entry) bool { return e.Primary != "n1" })
				})
				if how == "killed" && took > 100*time.Millisecond {
					t.Errorf("a refused connection was acted upon after %v", took)
				}
				if n := l.log.count() - before; n > 3 { // one to settle, and growth, that may come together with it
					t.Errorf("it took %d raft writes", n)
				}
				l.within(2*time.Second, "whole volumes on the nodes that are left", func() bool {
					whole := 0
					l.all(func(e *volume.Entry) bool {
						if _, _, on1 := e.Holder("n1"); !on1 && e.State == volume.StateOpen && len(e.InSync) == 2 {
							whole++
						}
						return true
					})
					return whole >= 3
				})
			})
		})
	}
}

func TestARestartedFollowerFindsItsIdleVolumesUntouched(t *testing.T) {
	in(t, func(t *testing.T) {
		l := grown(t, 1, "n1", "n2", "n3")
		was := l.cat()
		l.kill("n1")
		time.Sleep(3 * time.Second)
		l.start("n1")
		l.within(2*time.Second, "all copies in sync again", func() bool {
			return l.all(func(e *volume.Entry) bool { return len(e.InSync) == 2 })
		})
		for _, e := range was.Volumes() {
			now, _ := l.cat().Volume(e.Volume)
			if e.Primary != "n1" && now.Version != e.Version {
				t.Errorf("volume %d, idle and led by %s, went from version %d to %d", e.Volume, e.Primary, e.Version, now.Version)
			}
		}
	})
}

func TestANewLeaderIsWarmAtOnceAndMovesNothing(t *testing.T) {
	in(t, func(t *testing.T) {
		l := grown(t, 1, "n1", "n2", "n3")
		was := l.cat()
		l.elect()
		time.Sleep(5 * time.Second)
		for _, e := range was.Volumes() {
			if now, _ := l.cat().Volume(e.Volume); now != e {
				t.Errorf("volume %d went from version %d to %d", e.Volume, e.Version, now.Version)
			}
		}
		// The next leader dies together with the volume server beside it.
		l.kill("n2")
		l.elect()
		l.within(500*time.Millisecond, "another primary everywhere", func() bool {
			return l.all(func(e *volume.Entry) bool { return e.Primary != "n2" })
		})
	})
}

// A leader that was frozen may not know yet that another one leads and has made a
// volume since: that there is none is said only by who is sure to lead.
func TestThatThereIsNoVolumeIsSaidBySureLeadersOnly(t *testing.T) {
	in(t, func(t *testing.T) {
		l := grown(t, 0, "n1")
		ctx := context.Background()
		if _, err := l.current().Entry(ctx, 1000); !errors.Is(err, volume.ErrNoVolume) {
			t.Errorf("no such volume: %v", err)
		}
		l.mu.Lock()
		l.doubt = &cluster.NotLeaderError{Leader: "m2"}
		l.mu.Unlock()
		if _, err := l.current().Entry(ctx, 1000); !errors.Is(err, volume.ErrNotLeader) {
			t.Errorf("in doubt: %v", err)
		}
		if e, err := l.current().Entry(ctx, 1); err != nil || e.Volume != 1 {
			t.Errorf("a volume that is known: %+v, %v", e, err)
		}
	})
}

// Where holders cannot make copies, new volumes are tried ever more rarely, each
// time with one warning, and soon again once they can.
func TestGrowthThatIsGivenUpRests(t *testing.T) {
	in(t, func(t *testing.T) {
		l := newLab(t, "n1", "n2")
		broken := func(yes bool) {
			for _, id := range []volume.NodeID{"n1", "n2"} {
				s := l.server(id)
				s.mu.Lock()
				s.broken = yes
				s.mu.Unlock()
			}
		}
		spec := volume.Spec{Placement: 1}
		grow := func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 6*time.Second)
			defer cancel()
			_, err := l.current().Grow(ctx, leader.GrowRequest{Spec: spec})
			return err
		}
		broken(true)
		for range 5 { // half a minute in all
			if err := grow(); !errors.Is(err, volume.ErrUnavailable) || !strings.Contains(err.Error(), "no room") {
				t.Errorf("%v", err)
			}
		}
		// At 0, 1, 3, 7, 15 and 25 s.
		if n := l.warned.Load(); n > 6 || l.cat().MaxVolume() > 6*7 {
			t.Errorf("%d warnings, %d volumes in half a minute", n, l.cat().MaxVolume())
		}
		broken(false)
		l.within(11*time.Second, "volumes", func() bool { return grow() == nil })
	})
}

func TestANodeThatIsStoppingGetsNothingNew(t *testing.T) {
	in(t, func(t *testing.T) {
		l := grown(t, 0, "n1", "n2")
		l.gossip("n1", func(n *cluster.Node) { n.Ready = false })
		es, err := l.current().Grow(context.Background(), leader.GrowRequest{Spec: volume.Spec{Collection: "c"}, Count: 4})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range es {
			if e.Primary != "n2" {
				t.Errorf("volume %d is led by %s", e.Volume, e.Primary)
			}
		}
	})
}

func TestAVolumeWhoseHolderCannotMakeItsCopyIsGivenUp(t *testing.T) {
	in(t, func(t *testing.T) {
		l := newLab(t, "n1")
		l.server("n1").mu.Lock()
		l.server("n1").broken = true
		l.server("n1").mu.Unlock()
		_, err := l.current().Grow(context.Background(), leader.GrowRequest{Count: 2})
		if !errors.Is(err, volume.ErrUnavailable) {
			t.Errorf("%v", err)
		}
		if n := len(l.cat().Volumes()); n != 0 || !l.cat().Deleted(1) {
			t.Errorf("%d volumes are left", n)
		}
	})
}

func TestALostCopyIsMadeAnewUnderAnotherID(t *testing.T) {
	in(t, func(t *testing.T) {
		l := grown(t, 1, "n1", "n2")
		e := l.cat().Volumes()[0]
		old, _, _ := e.Holder("n1")
		l.server("n1").set(volume.CopyReport{Volume: e.Volume, Copy: old.Copy, State: volume.CopyLost})
		l.within(2*time.Second, "a new copy in sync", func() bool {
			now, _ := l.cat().Volume(e.Volume)
			h, inSync, ok := now.Holder("n1")
			return ok && inSync && h.Copy != old.Copy
		})
	})
}

func TestACopyThatFailsAgainAndAgainIsTriedLessAndLess(t *testing.T) {
	in(t, func(t *testing.T) {
		l := grown(t, 1, "n1", "n2")
		s := l.server("n2")
		s.mu.Lock()
		s.broken = true
		s.mu.Unlock()
		e := l.cat().Volumes()[0]
		old, _, _ := e.Holder("n2")
		before := l.log.count()
		s.set(volume.CopyReport{Volume: e.Volume, Copy: old.Copy, State: volume.CopyFailed, Reason: "bad sector"})
		time.Sleep(5 * time.Minute)
		if n := l.log.count() - before; n < 4 || n > 15 {
			t.Errorf("%d raft writes in five minutes", n)
		}
		now, _ := l.cat().Volume(e.Volume)
		if _, inSync, _ := now.Holder("n2"); inSync || now.Primary != "n1" {
			t.Errorf("%+v", now)
		}
	})
}

func TestAFullVolumeIsClosedAndReplaced(t *testing.T) {
	in(t, func(t *testing.T) {
		l := grown(t, 0, "n1")
		for _, e := range l.cat().Volumes() {
			h, _, _ := e.Holder("n1")
			l.server("n1").set(volume.CopyReport{Volume: e.Volume, Copy: h.Copy, State: volume.CopyHealthy, Size: 1000})
		}
		l.within(3*time.Second, "seven new ones", func() bool {
			full, open := 0, 0
			l.all(func(e *volume.Entry) bool {
				switch e.State {
				case volume.StateFull:
					full++
				case volume.StateOpen:
					open++
				}
				return true
			})
			return full == 7 && open == 7
		})
	})
}

func TestADeletedCollectionIsDroppedByOrder(t *testing.T) {
	in(t, func(t *testing.T) {
		l := grown(t, 1, "n1", "n2")
		if _, err := l.current().Grow(context.Background(), leader.GrowRequest{Spec: volume.Spec{Collection: "gone"}, Count: 2}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second) // more grow, now that the collection is in use
		was := l.cat()
		n, err := l.current().DeleteCollection(context.Background(), "gone")
		if n != 7 || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
		if _, err := l.current().DeleteCollection(context.Background(), "gone"); !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("deleted twice: %v", err)
		}
		l.within(time.Second, "orders to drop", func() bool {
			return len(l.server("n1").dropsSeen())+len(l.server("n2").dropsSeen()) == n
		})
		for _, d := range append(l.server("n1").dropsSeen(), l.server("n2").dropsSeen()...) {
			if e, ok := was.Volume(d.Volume); !d.Deleted || !ok || e.Spec.Collection != "gone" {
				t.Errorf("%+v", d)
			}
		}
	})
}

func TestACopyThatTheCatalogDoesNotExplainIsLeftAlone(t *testing.T) {
	in(t, func(t *testing.T) {
		l := grown(t, 1, "n1", "n2", "n3")
		l.server("n1").set(volume.CopyReport{Volume: 999, Copy: 5, State: volume.CopyHealthy})
		e := l.cat().Volumes()[0]
		third := volume.NodeID("n1")
		for _, n := range []volume.NodeID{"n1", "n2", "n3"} {
			if _, _, ok := e.Holder(n); !ok {
				third = n
			}
		}
		l.server(third).set(volume.CopyReport{Volume: e.Volume, Copy: 6, State: volume.CopyHealthy})
		l.within(time.Second, "the surplus copy to be dropped", func() bool { return len(l.server(third).dropsSeen()) > 0 })
		for _, n := range []volume.NodeID{"n1", "n2", "n3"} {
			for _, d := range l.server(n).dropsSeen() {
				if d.Volume != e.Volume || d.Copy != 6 || d.Epoch != e.Epoch || len(d.Keep) != 2 || d.Deleted {
					t.Errorf("node %s: %+v", n, d)
				}
			}
		}
	})
}

func TestAsksThatRaceAreDecidedOneAfterTheOther(t *testing.T) {
	in(t, func(t *testing.T) {
		l := grown(t, 1, "n1", "n2")
		before := l.log.count()
		var wg sync.WaitGroup
		var mu sync.Mutex
		granted := map[volume.ID]int{}
		for _, e := range l.cat().Volumes() {
			for range 4 {
				wg.Go(func() {
					h, _, _ := e.Holder(e.Primary)
					got, err := l.current().Ask(context.Background(), volume.Ask{Kind: volume.AskLead, Volume: e.Volume, Epoch: e.Epoch, From: h})
					if err != nil && !errors.Is(err, volume.ErrStale) || got.Epoch != e.Epoch+1 {
						t.Errorf("volume %d: epoch %d, %v", e.Volume, got.Epoch, err)
					}
					if err == nil {
						mu.Lock()
						granted[e.Volume]++
						mu.Unlock()
					}
				})
			}
		}
		wg.Wait()
		for id, n := range granted {
			if n != 1 {
				t.Errorf("volume %d: %d asks were granted", id, n)
			}
		}
		if n := l.log.count() - before; n > 4 {
			t.Errorf("%d raft writes", n)
		}
	})
}

func TestAnAskOfAnOldEpochLearnsTheEntryInForce(t *testing.T) {
	in(t, func(t *testing.T) {
		l := grown(t, 1, "n1", "n2")
		e := *l.cat().Volumes()[0]
		h, _, _ := e.Holder(e.Primary)
		got, err := l.current().Ask(context.Background(), volume.Ask{Kind: volume.AskYield, Volume: e.Volume, Epoch: e.Epoch, From: h})
		if err != nil || got.Primary == e.Primary || len(got.InSync) != 2 {
			t.Fatalf("yield: %+v, %v", got, err)
		}
		again, err := l.current().Ask(context.Background(), volume.Ask{Kind: volume.AskYield, Volume: e.Volume, Epoch: e.Epoch, From: h})
		if !errors.Is(err, volume.ErrStale) || again.Epoch != got.Epoch {
			t.Errorf("again: %+v, %v", again, err)
		}
		if _, err := l.current().Ask(context.Background(), volume.Ask{Kind: volume.AskLead, Volume: 999}); !errors.Is(err, volume.ErrNoVolume) {
			t.Errorf("no such volume: %v", err)
		}
	})
}

// What a node says comes through where nothing gets back to it. It asked to be the
// only copy in sync, was granted that, and never heard so: the volume waited for it
// until the network was mended.
func TestANodeThatCannotBeReachedBackRemovesNoOthersAndLosesItsPrimaries(t *testing.T) {
	in(t, func(t *testing.T) {
		l := grown(t, 1, "n1", "n2")
		e := *l.cat().Volumes()[0]
		from, _, _ := e.Holder(e.Primary)
		l.mu.Lock()
		l.deaf[e.Primary] = true
		l.mu.Unlock()
		ask := volume.Ask{Kind: volume.AskRemove, Volume: e.Volume, Epoch: e.Epoch, From: from}
		for _, h := range e.InSync {
			if h != from {
				ask.Copies = append(ask.Copies, h)
			}
		}
		got, err := l.current().Ask(context.Background(), ask)
		if !errors.Is(err, volume.ErrUnavailable) || len(got.InSync) != 2 {
			t.Fatalf("%+v, %v", got, err)
		}
		l.within(1500*time.Millisecond, "the other leads", func() bool {
			return l.all(func(e *volume.Entry) bool { return e.Primary != from.Node })
		})
		l.mu.Lock()
		clear(l.deaf)
		l.mu.Unlock()
		l.within(time.Second, "it is believed again", func() bool { return l.view().Nodes[0].Alive && l.view().Nodes[1].Alive })
	})
}

func TestKeysAreNeverGivenTwice(t *testing.T) {
	in(t, func(t *testing.T) {
		l := newLab(t)
		seen := map[volume.Key]bool{}
		for i := range 6 {
			if i == 3 {
				l.elect()
			}
			var b struct{ From, To volume.Key }
			l.within(time.Second, "keys", func() bool {
				got, err := l.current().Keys(context.Background(), 10)
				b.From, b.To = got.From, got.To
				return err == nil
			})
			for k := b.From; k < b.To; k++ {
				if seen[k] || k == 0 {
					t.Fatalf("key %d", k)
				}
				seen[k] = true
			}
		}
		if len(seen) != 60 {
			t.Errorf("%d keys", len(seen))
		}
	})
}

func TestWhoDoesNotLeadSaysSo(t *testing.T) {
	t.Parallel()
	l := leader.New(leader.Options{})
	ctx := context.Background()
	_, askErr := l.Ask(ctx, volume.Ask{})
	_, keysErr := l.Keys(ctx, 1)
	_, growErr := l.Grow(ctx, leader.GrowRequest{})
	_, delErr := l.DeleteCollection(ctx, "x")
	_, viewErr := l.View()
	for i, err := range []error{askErr, keysErr, growErr, delErr, viewErr, l.Beat(ctx, nil, nil)} {
		if !errors.Is(err, volume.ErrNotLeader) {
			t.Errorf("%d: %v", i, err)
		}
	}
}

func TestTheViewNamesWhatIsWrong(t *testing.T) {
	in(t, func(t *testing.T) {
		l := grown(t, 1, "n1", "n2")
		v, err := l.current().View()
		if err != nil || len(v.Nodes) != 2 || len(v.Volumes) != 6 || len(v.Problems) != 0 || v.ClusterID != "test" {
			t.Fatalf("%+v, %v", v, err)
		}
		l.kill("n2")
		l.within(time.Second, "the dead node among the problems", func() bool {
			v, _ := l.current().View()
			return len(v.Problems) == 7 && v.Problems[0].Severity == cluster.SeverityError && v.Problems[1].Severity == cluster.SeverityWarn
		})
	})
}

func TestAnOlderHeartbeatOfANodeEndsWhenANewerBegins(t *testing.T) {
	in(t, func(t *testing.T) {
		l := newLab(t)
		l.gossip("n1", func(*cluster.Node) {})
		time.Sleep(50 * time.Millisecond)
		streams := make(chan error, 2)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		for range 2 {
			full := true
			recv := func() (volume.Report, error) {
				if !full {
					select {
					case <-ctx.Done():
						return volume.Report{}, ctx.Err()
					case <-time.After(100 * time.Millisecond):
					}
				}
				r := volume.Report{Node: "n1", Full: full}
				full = false
				return r, nil
			}
			go func() { streams <- l.current().Beat(ctx, recv, func(volume.Orders) error { return nil }) }()
			time.Sleep(50 * time.Millisecond)
		}
		if err := <-streams; !errors.Is(err, volume.ErrStale) {
			t.Errorf("the older stream ended with %v", err)
		}
		cancel()
		if err := <-streams; !errors.Is(err, context.Canceled) {
			t.Errorf("the newer stream ended with %v", err)
		}
	})
}

func TestLosingANodeOfThousandsOfVolumesCostsFewRaftWrites(t *testing.T) {
	in(t, func(t *testing.T) {
		var nodes []volume.NodeID
		for i := range 30 { // 100 slots each
			nodes = append(nodes, volume.NodeID(fmt.Sprintf("n%02d", i)))
		}
		l := newLab(t, nodes...)
		if _, err := l.current().Grow(context.Background(), leader.GrowRequest{Spec: volume.Spec{Placement: 1}, Count: 1400}); err != nil {
			t.Fatal(err)
		}
		before := l.log.count()
		l.kill("n00")
		l.within(2*time.Second, "another primary everywhere", func() bool {
			return l.all(func(e *volume.Entry) bool { return e.Primary != "n00" })
		})
		if n := l.log.count() - before; n > 4 {
			t.Errorf("it took %d raft writes", n)
		}
	})
}

// Copies of one volume are made anew with pauses, but who leads does not wait for
// that.
func TestAPrimaryIsReplacedAtOnceWhileCopiesAreMadeWithPauses(t *testing.T) {
	in(t, func(t *testing.T) {
		l := grown(t, 1, "n1", "n2", "n3")
		now := func() *volume.Entry { return l.cat().Volumes()[0] }
		lose := func(h volume.Holder) {
			l.server(h.Node).set(volume.CopyReport{Volume: now().Volume, Copy: h.Copy, State: volume.CopyLost, Reason: "no disk"})
		}
		whole := func(without volume.Holder) func() bool {
			return func() bool {
				return len(now().InSync) == 2 && len(now().Joining) == 0 && !slices.Contains(now().InSync, without)
			}
		}
		follower := now().InSync[slices.IndexFunc(now().InSync, func(h volume.Holder) bool { return h.Node != now().Primary })]
		lose(follower)
		l.within(3*time.Second, "a new copy is in sync", whole(follower))
		primary, _, _ := now().Holder(now().Primary)
		lose(primary)
		l.within(time.Second, "another copy leads", func() bool {
			h, _, _ := now().Holder(now().Primary)
			return h != primary && !slices.Contains(now().InSync, primary)
		})
		l.within(time.Minute, "another copy is made", whole(primary))
	})
}
