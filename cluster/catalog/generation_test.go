package catalog_test

import (
	"errors"
	"strings"
	"testing"

	"weedd/cluster/catalog"
	"weedd/volume"
)

// Rule R13: the primary alone may ask for the next generation, alone.
func TestANewGenerationBeginsAnEpochAndNothingElse(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		by     string
		change func(*volume.Entry)
		rule   string // "" when it is granted
	}{
		"the primary asks":         {"a1", func(e *volume.Entry) { e.Generation = 1 }, ""},
		"nobody asks":              {"", func(e *volume.Entry) { e.Generation = 1 }, "R13"},
		"a follower asks":          {"b2", func(e *volume.Entry) { e.Generation = 1 }, "R13"},
		"two steps at once":        {"a1", func(e *volume.Entry) { e.Generation = 2 }, "R13"},
		"a copy begins to join":    {"a1", func(e *volume.Entry) { e.Generation, e.Joining = 1, holders("c3") }, "R13"},
		"a copy leaves":            {"a1", func(e *volume.Entry) { e.Generation, e.InSync = 1, holders("a1") }, "R13"},
		"the primary changes, too": {"a1", func(e *volume.Entry) { e.Generation, e.Primary = 1, "b" }, "R13"},
		"the state changes, too":   {"a1", func(e *volume.Entry) { e.Generation, e.State = 1, volume.StateFull }, "R13"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := alone(t)
			e, _ := c.Volume(1)
			ch := catalog.Change{Version: e.Version, Next: *e}
			ch.Next.Compacted = 99 // counted by Apply, whatever is proposed
			tt.change(&ch.Next)
			if tt.by != "" {
				ch.By = holders(tt.by)[0]
			}
			_, res := apply(t, c, changeCommand(ch))
			switch {
			case tt.rule != "" && (!errors.Is(res.Errs[0], volume.ErrBadRequest) || !strings.Contains(res.Errs[0].Error(), tt.rule)):
				t.Errorf("%v", res.Errs[0])
			case tt.rule == "" && res.Errs[0] != nil:
				t.Error(res.Errs[0])
			case tt.rule == "":
				if n := res.Entries[0]; n.Generation != 1 || n.Epoch != e.Epoch+1 || n.Compacted != n.Epoch {
					t.Errorf("%+v", n)
				}
			}
		})
	}
}

// The epoch in which the generation began stays with the entry, and the
// generation never falls.
func TestTheEpochOfAGenerationIsKept(t *testing.T) {
	t.Parallel()
	c := alone(t)
	e, _ := c.Volume(1)
	next := *e
	next.Generation = 1
	c, res := apply(t, c, changeCommand(catalog.Change{Version: e.Version, Next: next, By: holders("a1")[0]}))
	began := res.Entries[0].Epoch
	next = *res.Entries[0]
	next.Primary, next.Compacted = "b", 0
	c, res = apply(t, c, changeCommand(catalog.Change{Version: next.Version, Next: next}))
	if n := res.Entries[0]; n.Epoch != began+1 || n.Compacted != began {
		t.Errorf("%+v", n)
	}
	next = *res.Entries[0]
	next.Generation = 0
	_, res = apply(t, c, changeCommand(catalog.Change{Version: next.Version, Next: next, By: holders("b2")[0]}))
	if !errors.Is(res.Errs[0], volume.ErrBadRequest) {
		t.Errorf("%v", res.Errs[0])
	}
}

// alone has the volume of with, and nobody joins.
func alone(t *testing.T) *catalog.Catalog {
	c := with(t)
	e, _ := c.Volume(1)
	next := *e
	next.Joining = nil
	c, res := apply(t, c, changeCommand(catalog.Change{Version: e.Version, Next: next}))
	if res.Errs[0] != nil {
		t.Fatal(res.Errs[0])
	}
	return c
}
