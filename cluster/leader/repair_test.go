package leader_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"weedd/cluster"
	"weedd/cluster/leader"
	"weedd/volume"
)

// on lists the volumes whose entries name a node.
func (l *lab) on(node volume.NodeID) (ids []volume.ID) {
	for _, e := range l.cat().Volumes() {
		if _, _, ok := e.Holder(node); ok {
			ids = append(ids, e.Volume)
		}
	}
	return ids
}

// whole reports whether every volume has all copies in sync, on nodes other than
// those given, and no other.
func (l *lab) whole(without ...volume.NodeID) bool {
	return l.all(func(e *volume.Entry) bool {
		return len(e.Joining) == 0 && len(e.InSync) == e.Spec.Placement.Copies() &&
			!slices.ContainsFunc(e.InSync, func(h volume.Holder) bool { return slices.Contains(without, h.Node) })
	})
}

func (l *lab) operate(op cluster.Operation) cluster.Outcome {
	l.t.Helper()
	out, err := l.current().Operate(context.Background(), op)
	if err != nil {
		l.t.Fatal(err)
	}
	return out
}

func (l *lab) view() cluster.View {
	l.t.Helper()
	v, err := l.current().View()
	if err != nil {
		l.t.Fatal(err)
	}
	return v
}

func TestAHostThatStaysAwayIsReplacedInEveryVolumeAndItsCopiesAreDroppedWhenItIsBack(t *testing.T) {
	in(t, func(t *testing.T) {
		l := grown(t, 1, "a", "b", "c", "d")
		had := l.on("c")
		if len(had) == 0 {
			t.Fatal("c has no volume")
		}
		l.kill("c")
		time.Sleep(9 * time.Minute)
		for _, id := range had { // primaries went over at once, copies stay
			if e, _ := l.cat().Volume(id); len(e.InSync)+len(e.Joining) != 2 {
				t.Fatalf("within the grace period: %+v", e)
			}
		}
		if _, _, ok := holderOf(l, had, "c"); !ok {
			t.Fatal("c was given up within the grace period")
		}
		l.within(3*time.Minute, "every volume is whole elsewhere", func() bool { return l.whole("c") })
		l.start("c")
		l.within(time.Minute, "the copies of c are dropped", func() bool {
			s := l.server("c")
			s.mu.Lock()
			defer s.mu.Unlock()
			return len(s.copies) == 0 && len(s.drops) >= len(had)
		})
		for _, d := range l.server("c").dropsSeen() {
			e, _ := l.cat().Volume(d.Volume)
			if d.Deleted || len(d.Keep) < 2 || !slices.Equal(d.Keep, e.InSync) {
				t.Errorf("%+v is dropped while %+v is in force", d, e)
			}
		}
		if !l.whole("c") {
			t.Error("something moved back")
		}
	})
}

func growRequest(count int, p volume.Placement) leader.GrowRequest {
	return leader.GrowRequest{Spec: volume.Spec{Placement: p}, Count: count}
}

func holderOf(l *lab, ids []volume.ID, node volume.NodeID) (volume.Holder, bool, bool) {
	for _, id := range ids {
		if e, ok := l.cat().Volume(id); ok {
			if h, inSync, ok := e.Holder(node); ok {
				return h, inSync, ok
			}
		}
	}
	return volume.Holder{}, false, false
}

func TestRepairByHandWaitsForNobodyAndADryRunDoesNothing(t *testing.T) {
	in(t, func(t *testing.T) {
		l := grown(t, 1, "a", "b", "c", "d")
		had := l.on("c")
		l.kill("c")
		time.Sleep(5 * time.Second)
		before := l.log.count()
		plan := l.operate(cluster.Operation{Repair: &cluster.Repair{DryRun: true}})
		if len(plan.Volumes) != len(had) || plan.More != 0 {
			t.Fatalf("%d volumes are on c, the plan has %d", len(had), len(plan.Volumes))
		}
		for _, e := range plan.Volumes {
			if e.Next == nil || !slices.ContainsFunc(e.Next.Joining, func(h volume.Holder) bool { return h.Copy == 0 && h.Node != "c" }) || !strings.Contains(e.Why, "node c has been away") {
				t.Errorf("%+v", e)
			}
		}
		time.Sleep(time.Minute)
		if l.log.count() != before {
			t.Errorf("a dry run made %d proposals", l.log.count()-before)
		}
		l.operate(cluster.Operation{Repair: &cluster.Repair{}})
		l.within(time.Minute, "every volume is whole elsewhere", func() bool { return l.whole("c") })
		if left := l.operate(cluster.Operation{Repair: &cluster.Repair{DryRun: true}}); len(left.Volumes) != 0 {
			t.Errorf("left: %+v", left.Volumes)
		}
		// Who comes back is waited for again, the next time.
		l.start("c")
		l.within(time.Minute, "c is back", func() bool { return len(l.view().Nodes) == 4 && l.view().Nodes[2].Ready })
		l.kill("d")
		time.Sleep(5 * time.Minute)
		if n := len(l.on("d")); n == 0 {
			t.Error("d was not waited for")
		}
	})
}

func TestADrainGoesOnUnderEveryLeaderUntilItIsDone(t *testing.T) {
	in(t, func(t *testing.T) {
		l := grown(t, 1, "a", "b", "c", "d")
		for _, id := range []volume.NodeID{"a", "b", "c", "d"} {
			s := l.server(id)
			s.mu.Lock()
			s.size = 500
			s.mu.Unlock()
		}
		time.Sleep(time.Second) // sizes are reported
		had := l.on("b")
		out := l.operate(cluster.Operation{Drain: &cluster.Drain{Node: "b:8080"}})
		if d := out.Drain; d == nil || d.Node != "b" || d.Work.Copies != len(had) || d.Work.Bytes != int64(500*len(had)) || d.Done {
			t.Fatalf("%+v, %d volumes on b", out.Drain, len(had))
		}
		for i := 0; len(l.on("b")) > 0; i++ { // a new leader over and over
			if i > 100 {
				t.Fatalf("left on b: %v", l.on("b"))
			}
			l.elect()
			if d := l.view().Drains; len(d) != 1 || d[0].Done && !l.whole("b") {
				t.Fatalf("a new leader shows %+v", d)
			}
			time.Sleep(700 * time.Millisecond)
		}
		l.within(time.Minute, "nothing is left on b", func() bool {
			v := l.view()
			return len(v.Drains) == 1 && v.Drains[0].Done && l.whole("b")
		})
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if _, err := l.current().Grow(ctx, growRequest(4, 0)); err != nil {
			t.Fatal(err)
		}
		if ids := l.on("b"); len(ids) != 0 {
			t.Errorf("new volumes on b: %v", ids)
		}
		l.operate(cluster.Operation{Drain: &cluster.Drain{Node: "b", Undo: true}})
		l.operate(cluster.Operation{Drain: &cluster.Drain{Node: "b", Undo: true}}) // a question may be repeated
		if _, err := l.current().Grow(ctx, growRequest(12, 0)); err != nil {
			t.Fatal(err)
		}
		if len(l.on("b")) == 0 {
			t.Error("b gets nothing after the drain was undone")
		}
	})
}

func TestADirectoryIsDrained(t *testing.T) {
	in(t, func(t *testing.T) {
		l := grown(t, 1, "a", "b", "c")
		for _, d := range []cluster.Drain{{Node: "x"}, {Node: ""}, {Node: "b", Dir: "/nowhere"}, {Node: "b", Dir: "/nowhere", Undo: true}, {Node: "x", Undo: true}} {
			if _, err := l.current().Operate(context.Background(), cluster.Operation{Drain: &d}); !errors.Is(err, volume.ErrNotFound) {
				t.Errorf("%+v: %v", d, err)
			}
		}
		l.operate(cluster.Operation{Drain: &cluster.Drain{Node: "b", Dir: "/d"}})
		l.within(time.Minute, "nothing is left in the directory", func() bool { return len(l.on("b")) == 0 && l.whole("b") })
		l.within(time.Minute, "that is shown", func() bool { d := l.view().Drains; return len(d) == 1 && d[0].Done && d[0].Dir == "/d" })
	})
}

func TestADrainWithoutAnotherPlaceSaysSo(t *testing.T) {
	in(t, func(t *testing.T) {
		l := grown(t, 1, "a", "b")
		had := len(l.on("b"))
		l.operate(cluster.Operation{Drain: &cluster.Drain{Node: "b"}})
		l.within(time.Minute, "the view tells", func() bool {
			v := l.view()
			return len(v.Drains) == 1 && v.Drains[0].Stuck == had && strings.Contains(v.Drains[0].Why, "no other node can take a copy") &&
				slices.ContainsFunc(v.Problems, func(p cluster.ViewProblem) bool { return strings.Contains(p.What, "volumes stay there") })
		})
		if !l.all(func(e *volume.Entry) bool { return len(e.InSync) == 2 }) {
			t.Error("a copy went without another in its place")
		}
		id := l.on("b")[0]
		x := l.operate(cluster.Operation{Explain: &id}).Volumes[0]
		if x.Next != nil || !strings.Contains(strings.Join(x.Waits, ";"), "node a has one") || !strings.Contains(x.Copies[1].State, "being drained") {
			t.Errorf("%+v", x)
		}
		l.start("c")
		l.within(time.Minute, "b is empty once there is another node", func() bool { return len(l.on("b")) == 0 && l.whole("b") })
	})
}

func TestWhatIsExplained(t *testing.T) {
	in(t, func(t *testing.T) {
		l := grown(t, 1, "a", "b", "c")
		id := l.cat().Volumes()[0].Volume
		explain := func() cluster.Explanation { return l.operate(cluster.Operation{Explain: &id}).Volumes[0] }
		if x := explain(); x.Next != nil || len(x.Waits) != 1 || x.Waits[0] != "nothing: all is as it should be" || x.Copies[0].Role == "" {
			t.Errorf("%+v", x)
		}
		e, _ := l.cat().Volume(id)
		follower := e.InSync[0].Node
		if follower == e.Primary {
			follower = e.InSync[1].Node
		}
		l.kill(follower)
		time.Sleep(10 * time.Second)
		if x := explain(); x.Next != nil || !strings.Contains(strings.Join(x.Waits, ";"), "after 10m0s a copy is made elsewhere") {
			t.Errorf("%+v", x)
		}
		l.kill(e.Primary)
		time.Sleep(10 * time.Second)
		if x := explain(); x.Next != nil || !strings.Contains(strings.Join(x.Waits, ";"), "R7") {
			t.Errorf("%+v", x)
		}
		none := volume.ID(9999)
		if _, err := l.current().Operate(context.Background(), cluster.Operation{Explain: &none}); !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("a volume that is not: %v", err)
		}
		if _, err := l.current().Operate(context.Background(), cluster.Operation{}); !errors.Is(err, volume.ErrBadRequest) {
			t.Errorf("no operation: %v", err)
		}
	})
}

// Volumes with one copy wait for ever for a host that burned, and so does its drain,
// until an operator gives them up. What comes back after all is kept.
func TestAnOperatorMayForgetVolumesOfWhichNoCopyIsLeft(t *testing.T) {
	in(t, func(t *testing.T) {
		l := grown(t, 0, "a", "b")
		dead := l.on("b")
		if len(dead) == 0 || len(l.on("a")) == 0 {
			t.Fatalf("b has %v, a has %v", dead, l.on("a"))
		}
		forget := func(dry bool, ids ...volume.ID) error {
			out, err := l.current().Operate(context.Background(), cluster.Operation{Forget: &cluster.Forget{Volumes: ids, DryRun: dry}})
			if err == nil && (len(out.Volumes) != len(ids) || !out.Volumes[0].Delete || !strings.Contains(out.Volumes[0].Why, "the copy on node b (its node has been away for")) {
				t.Errorf("%+v", out)
			}
			return err
		}
		if err := forget(false, dead...); !errors.Is(err, volume.ErrBadRequest) || !strings.Contains(err.Error(), "node b is there") {
			t.Errorf("while its copies are there: %v", err)
		}
		l.kill("b")
		l.operate(cluster.Operation{Drain: &cluster.Drain{Node: "b"}})
		time.Sleep(time.Hour)
		if err := forget(false, append(l.on("a"), dead...)...); !errors.Is(err, volume.ErrBadRequest) || len(l.on("b")) != len(dead) {
			t.Errorf("with some that are there: %v; b has %v", err, l.on("b"))
		}
		if err := forget(true, dead...); err != nil || len(l.on("b")) != len(dead) {
			t.Errorf("a dry run: %v; b has %v", err, l.on("b"))
		}
		if n := len(l.errors()); n < len(dead) {
			t.Errorf("%d errors before", n)
		}
		if err := forget(false, dead...); err != nil {
			t.Fatal(err)
		}
		l.within(time.Minute, "nothing is wrong any more", func() bool { return len(l.errors()) == 0 && l.whole("b") })
		if err := forget(false, dead...); !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("forgotten twice: %v", err)
		}
		l.start("b")
		l.within(time.Minute, "orders for what came back", func() bool { return len(l.server("b").dropsSeen()) == len(dead) })
		for _, d := range l.server("b").dropsSeen() {
			if d.Deleted || !d.Forgotten || !slices.Contains(dead, d.Volume) {
				t.Errorf("%+v", d)
			}
		}
	})
}

// What an operator says holds whoever leads; he is told when the node that leads a
// volume knows, or that it has not said so.
func TestAnOperatorMayHaveVolumesTakeNoWrites(t *testing.T) {
	in(t, func(t *testing.T) {
		l := grown(t, 1, "a", "b")
		var ids []volume.ID
		for _, e := range l.cat().Volumes() {
			ids = append(ids, e.Volume)
		}
		mark := func(undo bool) cluster.Outcome {
			return l.operate(cluster.Operation{ReadOnly: &cluster.ReadOnly{Volumes: ids, Undo: undo}})
		}
		are := func(state volume.State, out cluster.Outcome) {
			t.Helper()
			for i, x := range out.Volumes {
				if now, _ := l.cat().Volume(ids[i]); x.Entry.State != state || now.State != state || len(x.Waits) > 0 {
					t.Errorf("%+v; in the catalog %s", x, now.State)
				}
			}
			if len(out.Volumes) != len(ids) {
				t.Errorf("%d volumes of %d", len(out.Volumes), len(ids))
			}
		}
		are(volume.StateReadOnly, mark(false))
		l.within(time.Minute, "others are made in their place", func() bool {
			return slices.ContainsFunc(l.cat().Volumes(), func(e *volume.Entry) bool { return e.State == volume.StateOpen })
		})
		before, _ := l.cat().Volume(ids[0])
		are(volume.StateReadOnly, mark(false)) // again
		if now, _ := l.cat().Volume(ids[0]); now.Version != before.Version {
			t.Errorf("marked twice: version %d, then %d", before.Version, now.Version)
		}
		l.elect()
		l.within(time.Minute, "the view says why", func() bool {
			return slices.ContainsFunc(l.view().Problems, func(p cluster.ViewProblem) bool {
				return strings.Contains(p.What, fmt.Sprintf("weedd readonly --undo %d", ids[0]))
			})
		})
		are(volume.StateOpen, mark(true))
		l.freeze("a")
		l.freeze("b")
		out := mark(false)
		if len(out.Volumes) != len(ids) || out.Volumes[0].Entry.State != volume.StateReadOnly || len(out.Volumes[0].Waits) != 1 || !strings.Contains(out.Volumes[0].Waits[0], "has not said yet") {
			t.Errorf("%+v", out)
		}
		for name, ids := range map[string][]volume.ID{"one that is not": {ids[0], 9999}, "none": nil, "too many": make([]volume.ID, 201)} {
			if _, err := l.current().Operate(context.Background(), cluster.Operation{ReadOnly: &cluster.ReadOnly{Volumes: ids, Undo: true}}); err == nil {
				t.Errorf("%s: no error", name)
			}
		}
		if now, _ := l.cat().Volume(ids[0]); now.State != volume.StateReadOnly {
			t.Errorf("it was undone with one that is not: %s", now.State)
		}
	})
}

// errors lists what the view calls an error.
func (l *lab) errors() []cluster.ViewProblem {
	return slices.DeleteFunc(l.view().Problems, func(p cluster.ViewProblem) bool { return p.Severity != cluster.SeverityError })
}

// A volume whose only copy in sync is lost waits, whatever other copies have, until an
// operator gives the lost one up.
func TestAnOperatorMayGoOnWithACopyThatFellBehind(t *testing.T) {
	in(t, func(t *testing.T) {
		l := grown(t, 1, "a", "b")
		e := l.cat().Volumes()[0]
		ahead := e.Primary
		behind := map[volume.NodeID]volume.NodeID{"a": "b", "b": "a"}[ahead]
		h, _, _ := e.Holder(ahead)
		other, _, _ := e.Holder(behind)
		s := l.server(behind)
		s.mu.Lock()
		s.behind = true
		s.mu.Unlock()
		ctx := context.Background()
		if _, err := l.current().Ask(ctx, volume.Ask{Kind: volume.AskRemove, Volume: e.Volume, Epoch: e.Epoch, From: h, Copies: []volume.Holder{other}}); err != nil {
			t.Fatal(err)
		}
		promote := func(node volume.NodeID, dry bool) cluster.Operation {
			return cluster.Operation{Promote: &cluster.Promote{Volume: e.Volume, Node: string(node), DryRun: dry}}
		}
		if _, err := l.current().Operate(ctx, promote(behind, false)); !errors.Is(err, volume.ErrBadRequest) || !strings.Contains(err.Error(), "has a copy in sync") {
			t.Errorf("while the other is there: %v", err)
		}
		l.kill(ahead)
		time.Sleep(time.Minute)
		if now, _ := l.cat().Volume(e.Volume); now.Primary != ahead || len(now.InSync) != 1 {
			t.Fatalf("it did not wait: %+v", now)
		}
		plan := l.operate(promote(behind, true))
		if len(plan.Volumes) != 1 || plan.Volumes[0].Next.Primary != behind || !strings.Contains(plan.Volumes[0].Why, "the copies on node "+string(ahead)+" are given up") {
			t.Errorf("%+v", plan)
		}
		if now, _ := l.cat().Volume(e.Volume); now.Primary != ahead {
			t.Fatalf("a dry run did something: %+v", now)
		}
		if _, err := l.current().Operate(ctx, promote(ahead, false)); !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("the lost one: %v", err)
		}
		l.operate(promote(behind, false))
		now, _ := l.cat().Volume(e.Volume)
		if now.Primary != behind || !slices.Equal(now.InSync, []volume.Holder{other}) || now.Epoch < 1<<16 {
			t.Errorf("%+v", now)
		}
	})
}
