package catalog_test

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"weedd/cluster/catalog"
	"weedd/volume"
)

// holders reads "a1 b2": copy 1 on node a, copy 2 on node b.
func holders(s string) (out []volume.Holder) {
	for _, w := range strings.Fields(s) {
		out = append(out, volume.Holder{Node: volume.NodeID(w[:1]), Copy: volume.CopyID(w[1] - '0')})
	}
	return out
}

func apply(t *testing.T, c *catalog.Catalog, cmd catalog.Command) (*catalog.Catalog, catalog.Result) {
	t.Helper()
	next, res := c.Apply(cmd)
	if res.Err != nil {
		t.Fatal(res.Err)
	}
	return next, res
}

func growCommand(vs ...catalog.NewVolume) catalog.Command {
	return catalog.Command{Grow: &catalog.Grow{Volumes: vs}}
}

func changeCommand(cs ...catalog.Change) catalog.Command {
	return catalog.Command{Change: &catalog.Batch{Changes: cs}}
}

// with has one open volume: a leads, a1 and b2 are in sync, c3 joins. It is at
// epoch 1, version 2.
func with(t *testing.T) *catalog.Catalog {
	t.Helper()
	c, res := apply(t, catalog.New(), growCommand(catalog.NewVolume{Spec: volume.Spec{Collection: "k", Placement: 2}, Primary: "a", Holders: holders("b2 a1")}))
	e := *res.Entries[0]
	e.State, e.Joining = volume.StateOpen, holders("c3")
	c, res = apply(t, c, changeCommand(catalog.Change{Version: 1, Next: e}))
	if res.Errs[0] != nil {
		t.Fatal(res.Errs[0])
	}
	return c
}

func TestChangesAreHeldAgainstTheRules(t *testing.T) {
	t.Parallel()
	type change struct {
		primary, inSync, joining string
		by                       string
		state                    volume.State
		version                  uint64
		generation               uint32
		renew                    bool
	}
	tests := []struct {
		name  string
		do    change
		epoch volume.Epoch // after it; 0 when refused
		err   error
		rule  string
	}{
		{"the same again stays within its epoch", change{primary: "a", inSync: "a1 b2", joining: "c3"}, 1, nil, ""},
		{"a renewal begins an epoch with the same sets", change{primary: "a", inSync: "a1 b2", joining: "c3", renew: true}, 2, nil, ""},
		{"another state stays within its epoch", change{primary: "a", inSync: "a1 b2", joining: "c3", state: volume.StateFull}, 1, nil, ""},
		{"read-only is an epoch of its own when that is asked for", change{primary: "a", inSync: "a1 b2", joining: "c3", state: volume.StateReadOnly, renew: true}, 2, nil, ""},
		{"the joining set may change within an epoch", change{primary: "a", inSync: "a1 b2"}, 1, nil, ""},
		{"another copy in sync may lead", change{primary: "b", inSync: "a1 b2", joining: "c3"}, 2, nil, ""},
		{"another copy in sync may lead and the old primary go at once", change{primary: "b", inSync: "b2", joining: "a1 c3"}, 2, nil, ""},
		{"a joining copy may not lead", change{primary: "c", inSync: "a1 b2 c3", by: "a1"}, 0, volume.ErrBadRequest, "R7"},
		{"a node that holds nothing may not lead", change{primary: "d", inSync: "a1 d4"}, 0, volume.ErrBadRequest, "R7"},
		{"a joining copy is in sync when the primary asks", change{primary: "a", inSync: "a1 b2 c3", by: "a1"}, 2, nil, ""},
		{"it is not when nobody asks", change{primary: "a", inSync: "a1 b2 c3"}, 0, volume.ErrBadRequest, "R9"},
		{"it is not when a follower asks", change{primary: "a", inSync: "a1 b2 c3", by: "b2"}, 0, volume.ErrBadRequest, "R9"},
		{"it is not when an older copy of the primary's node asks", change{primary: "a", inSync: "a1 b2 c3", by: "a9"}, 0, volume.ErrBadRequest, "R9"},
		{"it is not while the primary changes", change{primary: "b", inSync: "a1 b2 c3", by: "a1"}, 0, volume.ErrBadRequest, "R9"},
		{"a copy that did not join is not in sync", change{primary: "a", inSync: "a1 b2 d4", by: "a1"}, 0, volume.ErrBadRequest, "R9"},
		{"another copy id on a joining node is not in sync", change{primary: "a", inSync: "a1 b2 c4", by: "a1"}, 0, volume.ErrBadRequest, "R9"},
		{"another copy id on an in-sync node is not in sync", change{primary: "a", inSync: "a1 b9", by: "a1"}, 0, volume.ErrBadRequest, "R9"},
		{"a copy goes from in sync to joining", change{primary: "a", inSync: "a1", joining: "b2 c3"}, 2, nil, ""},
		{"a node whose copy was lost joins with another", change{primary: "a", inSync: "a1", joining: "b9 c3"}, 2, nil, ""},
		{"the primary is in sync", change{primary: "a", inSync: "b2"}, 0, volume.ErrBadRequest, ""},
		{"nobody in sync is refused", change{primary: "a"}, 0, volume.ErrBadRequest, ""},
		{"a node holds one copy only", change{primary: "a", inSync: "a1 b2", joining: "b3"}, 0, volume.ErrBadRequest, ""},
		{"a copy needs an id", change{primary: "a", inSync: "a1 b2", joining: "d0"}, 0, volume.ErrBadRequest, ""},
		{"an open volume is not new again", change{primary: "a", inSync: "a1 b2", state: volume.StateNew}, 0, volume.ErrBadRequest, "R6"},
		{"an unknown state is refused", change{primary: "a", inSync: "a1 b2", state: "odd"}, 0, volume.ErrBadRequest, ""},
		{"while a copy joins there is no new generation", change{primary: "a", inSync: "a1 b2", joining: "c3", by: "a1", generation: 1}, 0, volume.ErrBadRequest, "R13"},
		{"a change planned on an older version is stale", change{primary: "b", inSync: "a1 b2", version: 1}, 0, volume.ErrStale, ""},
		{"a change planned on a later version is stale", change{primary: "b", inSync: "a1 b2", version: 3}, 0, volume.ErrStale, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, d := with(t), tt.do
			next := volume.Entry{Volume: 1, State: volume.StateOpen, Primary: volume.NodeID(d.primary), InSync: holders(d.inSync),
				Joining: holders(d.joining), Generation: d.generation, Epoch: 99, Version: 99, Spec: volume.Spec{Collection: "other"}}
			ch := catalog.Change{Version: 2, Next: next, Renew: d.renew}
			if d.state != "" {
				ch.Next.State = d.state
			}
			if d.version != 0 {
				ch.Version = d.version
			}
			if d.by != "" {
				ch.By = holders(d.by)[0]
			}
			after, res := apply(t, c, changeCommand(ch))
			e, _ := after.Volume(1)
			if tt.epoch == 0 {
				before, _ := c.Volume(1)
				if err := res.Errs[0]; !errors.Is(err, tt.err) || !strings.Contains(err.Error(), tt.rule) || res.Entries[0] != nil || e != before {
					t.Errorf("%v, entry %+v", err, e)
				}
				return
			}
			if res.Errs[0] != nil || e.Epoch != tt.epoch || e.Version != 3 || e.Spec.Collection != "k" || res.Entries[0] != e {
				t.Errorf("%v, entry %+v", res.Errs[0], e)
			}
		})
	}
}

func TestEachChangeOfABatchStandsOrFallsAlone(t *testing.T) {
	t.Parallel()
	c := with(t)
	e, _ := c.Volume(1)
	lead := *e
	lead.Primary = "b"
	unknown := lead
	unknown.Volume = 9
	c, res := apply(t, c, changeCommand(
		catalog.Change{Version: 2, Next: unknown},
		catalog.Change{Version: 2, Next: lead},
		catalog.Change{Version: 2, Next: lead},
		catalog.Change{Version: 3, Next: lead, Renew: true}))
	if !errors.Is(res.Errs[0], volume.ErrNoVolume) || res.Errs[1] != nil || !errors.Is(res.Errs[2], volume.ErrStale) || res.Errs[3] != nil {
		t.Errorf("%v", res.Errs)
	}
	if now, _ := c.Volume(1); now.Epoch != 3 || now.Version != 4 || now.Primary != "b" {
		t.Errorf("%+v", now)
	}
}

func TestGrowthMakesAllVolumesOrNone(t *testing.T) {
	t.Parallel()
	good := catalog.NewVolume{Primary: "a", Holders: holders("a1")}
	c, res := apply(t, catalog.New(), growCommand(good, good))
	for i, e := range res.Entries {
		if e.Volume != volume.ID(i+1) || e.State != volume.StateNew || e.Epoch != 1 || e.Version != 1 || len(e.InSync) != 1 {
			t.Errorf("%+v", e)
		}
	}
	for name, bad := range map[string]catalog.NewVolume{
		"without holders":         {Primary: "a"},
		"led by another":          {Primary: "b", Holders: holders("a1")},
		"twice on a node":         {Primary: "a", Holders: holders("a1 a2")},
		"with a copy without id":  {Primary: "a", Holders: holders("a0")},
		"with a holder without a": {Primary: "a", Holders: []volume.Holder{{Node: "a", Copy: 1}, {Copy: 2}}},
	} {
		after, res := c.Apply(growCommand(good, bad))
		if !errors.Is(res.Err, volume.ErrBadRequest) || after != c {
			t.Errorf("a volume %s: %v", name, res.Err)
		}
	}
	if _, ok := c.Volume(2); !ok || c.MaxVolume() != 2 || len(c.Volumes()) != 2 {
		t.Errorf("%d volumes, highest %d", len(c.Volumes()), c.MaxVolume())
	}
}

func TestADeletedVolumeIsGoneForEverAndItsIDIsNotUsedAgain(t *testing.T) {
	t.Parallel()
	good := catalog.NewVolume{Primary: "a", Holders: holders("a1")}
	c, _ := apply(t, catalog.New(), growCommand(good, good, good, good, good))
	for _, ids := range [][]volume.ID{{5}, {2, 9, 2}, {3}} {
		c, _ = apply(t, c, catalog.Command{Delete: &catalog.Delete{Volumes: ids}})
	}
	for id, want := range map[volume.ID]bool{1: false, 2: true, 3: true, 4: false, 5: true, 6: false, 9: false} {
		if _, there := c.Volume(id); c.Deleted(id) != want || there == want && id < 6 {
			t.Errorf("volume %d: deleted %v, there %v", id, c.Deleted(id), there)
		}
	}
	_, res := apply(t, c, growCommand(good))
	if id := res.Entries[0].Volume; id != 6 {
		t.Errorf("the next volume is %d", id)
	}
	e := *res.Entries[0]
	e.Volume = 2
	if _, res := apply(t, c, changeCommand(catalog.Change{Version: 1, Next: e})); !errors.Is(res.Errs[0], volume.ErrNoVolume) {
		t.Errorf("a change of a deleted volume: %v", res.Errs[0])
	}
}

// A copy of a volume that was given up for lost is kept, should it come back: that it
// was is remembered, also by who reads a snapshot.
func TestAForgottenVolumeIsDeletedAndRememberedAsSuch(t *testing.T) {
	t.Parallel()
	good := catalog.NewVolume{Primary: "a", Holders: holders("a1")}
	c, _ := apply(t, catalog.New(), growCommand(good, good, good))
	c, _ = apply(t, c, catalog.Command{Delete: &catalog.Delete{Volumes: []volume.ID{1}}})
	c, _ = apply(t, c, catalog.Command{Delete: &catalog.Delete{Volumes: []volume.ID{1, 2, 9}, Forget: true}})
	again, err := catalog.Read(strings.NewReader(write(c)))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*catalog.Catalog{c, again} {
		for id, want := range map[volume.ID]struct{ deleted, forgotten bool }{1: {true, false}, 2: {true, true}, 3: {}, 9: {}} {
			if c.Deleted(id) != want.deleted || c.Forgotten(id) != want.forgotten {
				t.Errorf("volume %d: deleted %v, forgotten %v", id, c.Deleted(id), c.Forgotten(id))
			}
		}
		if _, res := apply(t, c, growCommand(good)); res.Entries[0].Volume != 4 {
			t.Errorf("the next volume is %d", res.Entries[0].Volume)
		}
	}
}

func TestAClusterIsFoundedOnce(t *testing.T) {
	t.Parallel()
	c, _ := apply(t, catalog.New(), catalog.Command{Found: &catalog.Found{Cluster: "x"}})
	c, _ = apply(t, c, catalog.Command{Found: &catalog.Found{Cluster: "x"}})
	if _, res := c.Apply(catalog.Command{Found: &catalog.Found{Cluster: "y"}}); !errors.Is(res.Err, volume.ErrExists) || c.ClusterID() != "x" {
		t.Errorf("%v, %s", res.Err, c.ClusterID())
	}
}

func TestAbsurdKeyBlocksAreRefused(t *testing.T) {
	t.Parallel()
	c := catalog.New()
	for _, n := range []uint64{0, 1<<32 + 1, 1<<64 - 1} {
		if after, res := c.Apply(catalog.Command{Keys: &catalog.Keys{Count: n}}); !errors.Is(res.Err, volume.ErrBadRequest) || after.Ceiling() != 1 {
			t.Errorf("%d keys: %v, ceiling %d", n, res.Err, after.Ceiling())
		}
	}
}

func TestTheKeySpaceEndsWithoutGoingRound(t *testing.T) {
	t.Parallel()
	snap := `{"format":1,"ceiling":18446744073709551600}`
	c, err := catalog.Read(strings.NewReader(snap))
	if err != nil {
		t.Fatal(err)
	}
	if _, res := c.Apply(catalog.Command{Keys: &catalog.Keys{Count: 100}}); res.Err == nil {
		t.Errorf("the block %v goes round", res.Keys)
	}
	if _, res := c.Apply(catalog.Command{Keys: &catalog.Keys{Count: 15}}); res.Err != nil {
		t.Error(res.Err)
	}
}

func TestVolumeIDsEndWithoutGoingRound(t *testing.T) {
	t.Parallel()
	c, err := catalog.Read(strings.NewReader(`{"format":1,"ceiling":1,"max_volume":4294967295}`))
	if err != nil {
		t.Fatal(err)
	}
	_, res := c.Apply(growCommand(catalog.NewVolume{Primary: "a", Holders: holders("a1")}))
	if !errors.Is(res.Err, volume.ErrNoSpace) {
		t.Errorf("%v", res.Err)
	}
}

func TestNewVolumesAreNumberedAboveThoseOfOthers(t *testing.T) {
	t.Parallel()
	c := with(t)
	one := catalog.NewVolume{Primary: "a", Holders: holders("a1")}
	grow := func(above volume.ID) *volume.Entry {
		var res catalog.Result
		c, res = apply(t, c, catalog.Command{Grow: &catalog.Grow{Volumes: []catalog.NewVolume{one}, Above: above, Born: 77}})
		return res.Entries[0]
	}
	for _, step := range []struct{ above, want volume.ID }{{0, 2}, {500, 501}, {3, 502}} {
		if e := grow(step.above); e.Volume != step.want || e.Born != 77 {
			t.Errorf("above %d: %+v", step.above, e)
		}
	}
	if c.Deleted(400) {
		t.Error("an id that was passed over was never ours")
	}
	e := *c.Volumes()[2]
	e.State, e.Born = volume.StateOpen, 1
	if _, res := apply(t, c, changeCommand(catalog.Change{Version: 1, Next: e})); res.Errs[0] != nil || res.Entries[0].Born != 77 {
		t.Errorf("born again: %+v", res)
	}
}

func TestACommandOfANewerVersionStopsTheNode(t *testing.T) {
	t.Parallel()
	for _, b := range []string{`{}`, `{"dance":{}}`, `{"keys":{"count":1},"dance":{}}`, `{"keys":{"count":1},"delete":{}}`, `null`, `{"keys":null}`,
		`{"keys":{"count":1,"dance":1}}`, `{"change":{"changes":[{"version":1,"next":{"volume":1,"dance":1}}]}}`} {
		if _, err := catalog.Decode([]byte(b)); !errors.Is(err, catalog.ErrUnknownCommand) {
			t.Errorf("%s: %v", b, err)
		}
	}
	if _, res := catalog.New().Apply(catalog.Command{}); !errors.Is(res.Err, catalog.ErrUnknownCommand) {
		t.Errorf("applied: %v", res.Err)
	}
	if _, err := catalog.Decode([]byte(`{"keys":`)); err == nil || errors.Is(err, catalog.ErrUnknownCommand) {
		t.Errorf("garbage: %v", err)
	}
}

func TestDamagedSnapshotsAreRefused(t *testing.T) {
	t.Parallel()
	for _, s := range []string{``, `{}`, `{"format":2}`, `{"format":1,"ceiling":1,"volumes":[{"volume":2},{"volume":1}]}`, `{"format":1,"ceiling":1,"volumes":[null]}`,
		`{"format":1,"ceiling":1,"max_volume":2,"volumes":[{"volume":1},{"volume":1}]}`, `{"format":1,"ceiling":1,"max_volume":1,"volumes":[{"volume":2}]}`, `{"format":1}`, `{"format":1,"ceiling":1,"max_volume":1,"volumes":[{"volume":1}]}`} {
		if _, err := catalog.Read(strings.NewReader(s)); err == nil {
			t.Errorf("%s was read", s)
		}
	}
}

// commands draws a command that may be allowed, or not, in c.
func command(t *rapid.T, c *catalog.Catalog) catalog.Command {
	nodes := []volume.NodeID{"a", "b", "c", "d"}
	some := func(name string) (out []volume.Holder) {
		for _, n := range nodes {
			if rapid.Bool().Draw(t, name) {
				out = append(out, volume.Holder{Node: n, Copy: volume.CopyID(rapid.IntRange(1, 2).Draw(t, name+" copy"))})
			}
		}
		return out
	}
	node := rapid.SampledFrom(nodes)
	switch rapid.IntRange(0, 9).Draw(t, "kind") {
	case 0:
		return catalog.Command{Keys: &catalog.Keys{Count: rapid.Uint64Range(0, 1000).Draw(t, "keys")}}
	case 1:
		return growCommand(catalog.NewVolume{Primary: node.Draw(t, "primary"), Holders: some("holder")})
	case 2:
		return catalog.Command{Delete: &catalog.Delete{Volumes: []volume.ID{volume.ID(rapid.IntRange(0, 6).Draw(t, "delete"))}, Forget: rapid.Bool().Draw(t, "forget")}}
	case 3:
		return catalog.Command{Drain: &catalog.Drain{Node: node.Draw(t, "drain"), Undo: rapid.Bool().Draw(t, "undo")}}
	}
	if len(c.Volumes()) == 0 {
		return growCommand(catalog.NewVolume{Primary: "a", Holders: holders("a1 b1 c2")})
	}
	e := *rapid.SampledFrom(c.Volumes()).Draw(t, "volume")
	ch := catalog.Change{Version: e.Version, Next: e, Renew: rapid.Bool().Draw(t, "renew")}
	ch.By, _, _ = e.Holder(rapid.SampledFrom([]volume.NodeID{e.Primary, "a", "b"}).Draw(t, "by"))
	if rapid.IntRange(0, 3).Draw(t, "compact") == 0 {
		ch.Next.Generation += uint32(rapid.IntRange(0, 2).Draw(t, "generation"))
		ch.Next.Joining = nil
	}
	ch.Next.State = rapid.SampledFrom([]volume.State{volume.StateNew, volume.StateOpen, volume.StateFull}).Draw(t, "state")
	ch.Next.Primary = rapid.SampledFrom([]volume.NodeID{e.Primary, "a", "b", "c"}).Draw(t, "lead")
	switch rapid.IntRange(0, 3).Draw(t, "sets") {
	case 0:
		ch.Next.InSync, ch.Next.Joining = some("in sync"), some("joining")
	case 1: // add all
		ch.Next.InSync, ch.Next.Joining = slices.Concat(e.InSync, e.Joining), nil
	case 2: // remove all but the primary
		p, _, _ := e.Holder(e.Primary)
		ch.Next.InSync = []volume.Holder{p}
		ch.Next.Joining = slices.DeleteFunc(slices.Concat(e.InSync, e.Joining), func(h volume.Holder) bool { return h == p })
	}
	if rapid.IntRange(0, 4).Draw(t, "stale") == 0 {
		ch.Version--
	}
	return changeCommand(ch)
}

func TestWhateverIsProposedTheRulesHold(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := catalog.New()
		keys := map[volume.Key]bool{}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			cmd := command(t, c)
			before := write(c)
			decoded, err := catalog.Decode(cmd.Encode())
			if err != nil {
				t.Fatalf("decode %s: %v", cmd.Encode(), err)
			}
			next, res := c.Apply(cmd)
			twin, twinRes := c.Apply(decoded)
			if write(c) != before {
				t.Fatal("Apply changed the catalog it was called on")
			}
			if write(next) != write(twin) || fmt.Sprint(res.Err, res.Errs) != fmt.Sprint(twinRes.Err, twinRes.Errs) {
				t.Fatalf("two masters disagree after %s", cmd.Encode())
			}
			for k := res.Keys.From; k < res.Keys.To; k++ {
				if keys[k] || k == 0 {
					t.Fatalf("key %d was given twice", k)
				}
				keys[k] = true
			}
			checkStep(t, c, next, cmd)
			c = next
		}
		back, err := catalog.Read(strings.NewReader(write(c)))
		if err != nil || write(back) != write(c) {
			t.Fatalf("a snapshot reads back as\n%s\nnot\n%s\n%v", write(back), write(c), err)
		}
		if len(c.Volumes()) > 0 && !reflect.DeepEqual(back.Volumes(), c.Volumes()) {
			t.Fatal("a snapshot reads back differently")
		}
	})
}

func write(c *catalog.Catalog) string {
	var b bytes.Buffer
	if err := c.Write(&b); err != nil {
		panic(err)
	}
	return b.String()
}

// checkStep checks what must hold of every step, by other means than Apply does.
func checkStep(t *rapid.T, old, next *catalog.Catalog, cmd catalog.Command) {
	if next.Ceiling() < old.Ceiling() || next.MaxVolume() < old.MaxVolume() {
		t.Fatal("a ceiling fell")
	}
	for _, e := range next.Volumes() {
		was, ok := old.Volume(e.Volume)
		switch {
		case !ok && (e.Volume <= old.MaxVolume() || e.State != volume.StateNew):
			t.Fatalf("volume %d came out of nowhere", e.Volume)
		case !ok || was == e:
			continue
		}
		if e.Version != was.Version+1 || e.Epoch < was.Epoch {
			t.Fatalf("volume %d: version %d after %d, epoch %d after %d", e.Volume, e.Version, was.Version, e.Epoch, was.Epoch)
		}
		if e.Epoch == was.Epoch && (e.Primary != was.Primary || !slices.Equal(e.InSync, was.InSync) || e.Generation != was.Generation) {
			t.Fatalf("volume %d: two sets in epoch %d", e.Volume, e.Epoch)
		}
		if e.Generation != was.Generation && (e.Generation != was.Generation+1 || e.Compacted != e.Epoch || len(was.Joining)+len(e.Joining) > 0 ||
			!slices.Equal(e.InSync, was.InSync) || cmd.Change.Changes[0].By.Node != was.Primary) || e.Generation == was.Generation && e.Compacted != was.Compacted {
			t.Fatalf("volume %d: generation %d of epoch %d after %d of epoch %d", e.Volume, e.Generation, e.Compacted, was.Generation, was.Compacted)
		}
		kept := 0
		for _, h := range e.InSync {
			if slices.Contains(was.InSync, h) {
				kept++
			} else if was.Primary != e.Primary || !slices.Contains(was.Joining, h) || cmd.Change.Changes[0].By.Node != was.Primary {
				t.Fatalf("volume %d: copy %v is in sync without having joined by its primary", e.Volume, h)
			}
		}
		p, _, _ := e.Holder(e.Primary)
		if kept == 0 || !slices.Contains(was.InSync, p) {
			t.Fatalf("volume %d: a copy leads that was not in sync", e.Volume)
		}
	}
	for id := volume.ID(1); id <= old.MaxVolume(); id++ {
		if _, there := next.Volume(id); there == next.Deleted(id) || old.Deleted(id) && there {
			t.Fatalf("volume %d is neither there nor deleted, or both, or back", id)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, cmd := range []catalog.Command{
		{Found: &catalog.Found{Cluster: "x"}}, {Keys: &catalog.Keys{Count: 3}}, {Delete: &catalog.Delete{Volumes: []volume.ID{1}, Forget: true}}, {Drain: &catalog.Drain{Node: "a", Dir: "/d"}},
		growCommand(catalog.NewVolume{Primary: "a", Holders: holders("a1 b2")}), changeCommand(catalog.Change{Version: 1, Next: volume.Entry{Volume: 1, State: volume.StateOpen, Primary: "b", InSync: holders("a1 b2")}}),
	} {
		f.Add(cmd.Encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		cmd, err := catalog.Decode(b)
		if err != nil {
			return
		}
		c, _ := catalog.New().Apply(growCommand(catalog.NewVolume{Primary: "a", Holders: holders("a1 b2")}))
		next, res := c.Apply(cmd)
		again, err := catalog.Decode(cmd.Encode())
		if err != nil {
			t.Fatalf("what was decoded does not decode again: %v", err)
		}
		if twin, _ := c.Apply(again); write(twin) != write(next) {
			t.Fatalf("%s applies differently the second time", b)
		}
		if res.Err == nil {
			if _, err := catalog.Read(strings.NewReader(write(next))); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"format":1,"cluster":"x","ceiling":7,"max_volume":3,"deleted":[{"from":2,"to":3}],"volumes":[{"volume":1,"state":"open","epoch":1,"version":1,"primary":"a","in_sync":[{"node":"a","copy":"0000000000000001"}]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := catalog.Read(bytes.NewReader(b))
		if err != nil {
			return
		}
		c.Apply(catalog.Command{Delete: &catalog.Delete{Volumes: []volume.ID{1}}})
		c.Collections()
		if _, err := catalog.Read(strings.NewReader(write(c))); err != nil {
			t.Fatal(err)
		}
	})
}
