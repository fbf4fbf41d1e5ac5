package catalog_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"weedd/cluster/catalog"
	"weedd/volume"
)

func TestADrainHoldsUntilItIsUndone(t *testing.T) {
	t.Parallel()
	c := catalog.New()
	do := func(d catalog.Drain, want error, holds ...catalog.Drain) {
		t.Helper()
		before := write(c)
		next, res := c.Apply(catalog.Command{Drain: &d})
		if !errors.Is(res.Err, want) || (res.Err == nil) != (want == nil) {
			t.Fatalf("%+v: %v", d, res.Err)
		}
		if write(c) != before {
			t.Fatal("Apply changed the catalog it was called on")
		}
		if !slices.Equal(next.Drains(), holds) {
			t.Fatalf("after %+v: %+v", d, next.Drains())
		}
		back, err := catalog.Read(strings.NewReader(write(next)))
		if err != nil || !slices.Equal(back.Drains(), holds) || write(back) != write(next) {
			t.Fatalf("a snapshot reads back as %+v: %v", back, err)
		}
		c = next
	}
	a, b, dir := catalog.Drain{Node: "a"}, catalog.Drain{Node: "b"}, catalog.Drain{Node: "a", Dir: "/d"}
	undo := func(d catalog.Drain) catalog.Drain { d.Undo = true; return d }
	do(b, nil, b)
	do(a, nil, a, b)
	do(a, nil, a, b) // it holds already
	do(dir, nil, a, dir, b)
	do(undo(a), nil, dir, b)
	do(undo(a), nil, dir, b)
	do(catalog.Drain{Dir: "/d"}, volume.ErrBadRequest, dir, b)
	do(undo(b), nil, dir)
	do(undo(dir), nil)
}

func TestDrainsAreBounded(t *testing.T) {
	t.Parallel()
	c := catalog.New()
	var res catalog.Result
	for i := range 1000 {
		if c, res = apply(t, c, catalog.Command{Drain: &catalog.Drain{Node: "a", Dir: strings.Repeat("x", i)}}); res.Err != nil {
			t.Fatal(res.Err)
		}
	}
	if _, res := c.Apply(catalog.Command{Drain: &catalog.Drain{Node: "b"}}); !errors.Is(res.Err, volume.ErrBadRequest) {
		t.Error(res.Err)
	}
}

func TestSnapshotsWithAbsurdDrainsAreRefused(t *testing.T) {
	t.Parallel()
	for _, list := range []string{`{}`, `{"node":"b"},{"node":"a"}`, `{"node":"a"},{"node":"a"}`, `{"node":"a","undo":true}`} {
		if _, err := catalog.Read(strings.NewReader(`{"format":1,"ceiling":1,"drains":[` + list + `]}`)); err == nil {
			t.Errorf("%s was read", list)
		}
	}
}
