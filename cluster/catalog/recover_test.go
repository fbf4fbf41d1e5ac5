package catalog_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"weedd/cluster/catalog"
	"weedd/volume"
)

// Rule R3: after a recovery ids jump ahead, and nothing is decided about a volume
// before it is known what its copies have.
func TestARecoveredCatalogIsSureOfNothing(t *testing.T) {
	t.Parallel()
	was := with(t)
	before := write(was)
	c, err := was.Recovered([]volume.NodeID{"x", "b", "x"})
	if err != nil {
		t.Fatal(err)
	}
	if write(was) != before {
		t.Error("Recovered changed the catalog it was called on")
	}
	if c.Ceiling() < was.Ceiling()+1<<40 || c.MaxVolume() < was.MaxVolume()+1<<20 || !slices.Equal(c.Waived(), []volume.NodeID{"b", "x"}) {
		t.Errorf("keys from %d, volumes after %d, waived %v", c.Ceiling(), c.MaxVolume(), c.Waived())
	}
	back, err := catalog.Read(strings.NewReader(write(c)))
	if err != nil || write(back) != write(c) || !slices.Equal(back.Waived(), c.Waived()) {
		t.Fatalf("a snapshot reads back as %s: %v", write(back), err)
	}
	e, _ := c.Volume(1)
	if w, _ := was.Volume(1); !e.Unsure || e.Version < w.Version+1<<32 {
		t.Fatalf("%+v", e)
	}
	for name, tt := range map[string]struct {
		change func(*catalog.Change)
		err    error
	}{
		"a new epoch":         {func(ch *catalog.Change) { ch.Renew = true }, volume.ErrUnavailable},
		"said to be sure":     {func(ch *catalog.Change) { ch.Next.Unsure = false }, volume.ErrUnavailable},
		"nothing at all":      {func(ch *catalog.Change) {}, volume.ErrUnavailable},
		"new again":           {func(ch *catalog.Change) { ch.Sure, ch.Next.State = 9, volume.StateNew }, volume.ErrBadRequest},
		"without a primary":   {func(ch *catalog.Change) { ch.Sure, ch.Next.InSync = 9, nil }, volume.ErrBadRequest},
		"of an older version": {func(ch *catalog.Change) { ch.Sure, ch.Version = 9, ch.Version-1 }, volume.ErrStale},
		"led by what copies say": {func(ch *catalog.Change) {
			ch.Sure, ch.Next.State, ch.Next.Primary, ch.Next.InSync, ch.Next.Joining = 9, volume.StateOpen, "z", holders("z7"), holders("a1")
		}, nil},
	} {
		ch := catalog.Change{Version: e.Version, Next: *e}
		tt.change(&ch)
		next, res := c.Apply(changeCommand(ch))
		if !errors.Is(res.Errs[0], tt.err) || (res.Errs[0] == nil) != (tt.err == nil) {
			t.Errorf("%s: %v", name, res.Errs[0])
		}
		if now, _ := next.Volume(1); tt.err == nil && (now.Unsure || now.Epoch != 9+1<<16 || now.Primary != "z") {
			t.Errorf("%s: %+v", name, now)
		}
	}
	sure := catalog.Change{Version: 1, Next: *e, Sure: 9}
	if w, _ := was.Volume(1); true {
		sure.Version = w.Version
	}
	if _, res := was.Apply(changeCommand(sure)); res.Errs[0] == nil {
		t.Error("an entry that is certain was made certain")
	}
}

func TestNothingIsRecoveredNearTheEndOfAllIDs(t *testing.T) {
	t.Parallel()
	for _, s := range []string{`{"format":1,"ceiling":18446744073709551600}`, `{"format":1,"ceiling":1,"max_volume":4294967290}`} {
		c, err := catalog.Read(strings.NewReader(s))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Recovered(nil); !errors.Is(err, volume.ErrNoSpace) {
			t.Errorf("%s: %v", s, err)
		}
	}
}

// Rule R7: an operator may give up all copies in sync, for one that is none of them.
func TestACopyIsPromotedByHandInPlaceOfThoseThatAreLost(t *testing.T) {
	t.Parallel()
	c := with(t)
	e, _ := c.Volume(1)
	lost := func(change func(*catalog.Change)) catalog.Change {
		ch := catalog.Change{Version: e.Version, Next: *e, Sure: e.Epoch, Lost: true}
		ch.Next.State, ch.Next.Primary, ch.Next.InSync, ch.Next.Joining = volume.StateOpen, "z", holders("z7"), nil
		change(&ch)
		return ch
	}
	for name, tt := range map[string]struct {
		change func(*catalog.Change)
		err    error
	}{
		"one that was not in sync": {func(*catalog.Change) {}, nil},
		"two":                      {func(ch *catalog.Change) { ch.Next.InSync = holders("y8 z7") }, volume.ErrBadRequest},
		"one of those in sync":     {func(ch *catalog.Change) { ch.Next.Primary, ch.Next.InSync = e.Primary, e.InSync[:1] }, volume.ErrBadRequest},
		"without an operator":      {func(ch *catalog.Change) { ch.Lost = false }, volume.ErrUnavailable},
		"without an epoch":         {func(ch *catalog.Change) { ch.Sure = 0 }, volume.ErrBadRequest},
		"planned on another":       {func(ch *catalog.Change) { ch.Version++ }, volume.ErrStale},
	} {
		next, res := c.Apply(changeCommand(lost(tt.change)))
		if !errors.Is(res.Errs[0], tt.err) || (res.Errs[0] == nil) != (tt.err == nil) {
			t.Errorf("%s: %v", name, res.Errs[0])
		}
		if now, _ := next.Volume(1); tt.err == nil && (now.Epoch != e.Epoch+1<<16 || now.Primary != "z" || len(now.InSync) != 1) {
			t.Errorf("%s: %+v", name, now)
		}
	}
	unsure, err := c.Recovered(nil)
	if err != nil {
		t.Fatal(err)
	}
	u, _ := unsure.Volume(1)
	ch := lost(func(ch *catalog.Change) { ch.Version = u.Version })
	if _, res := unsure.Apply(changeCommand(ch)); !errors.Is(res.Errs[0], volume.ErrUnavailable) {
		t.Errorf("during a recovery: %v", res.Errs[0])
	}
}
