package catalog_test

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"weedd/cluster/catalog"
	"weedd/volume"
)

func adoptCommand(id volume.ID, change ...func(*catalog.Adopt)) catalog.Command {
	a := &catalog.Adopt{
		Volume: id, Spec: volume.Spec{Placement: 1}, Generation: 3, Holder: volume.Holder{Node: "a", Copy: 7},
		Sources: []volume.Source{{Node: "b", Print: 2}, {Node: "a", Print: 1}}, MaxKey: 500,
	}
	for _, f := range change {
		f(a)
	}
	return catalog.Command{Adopt: a}
}

// The entry of an adopted volume is new, and keys and numbers given out later are
// above its own (rule R1).
func TestAnAdoptedVolumeRaisesTheCeilings(t *testing.T) {
	t.Parallel()
	c, res := apply(t, catalog.New(), adoptCommand(40))
	e := res.Entries[0]
	if e.Volume != 40 || e.State != volume.StateNew || e.Epoch != 1 || e.Version != 1 || e.Generation != 3 || e.Primary != "a" || !e.From("b", 2) || e.From("b", 1) {
		t.Errorf("entry %+v", e)
	}
	c, res = apply(t, c, catalog.Command{Keys: &catalog.Keys{Count: 1}})
	if res.Keys.From != 501 {
		t.Errorf("the next key is %d", res.Keys.From)
	}
	c, res = apply(t, c, growCommand(catalog.NewVolume{Primary: "a", Holders: holders("a1")}))
	if res.Entries[0].Volume != 41 {
		t.Errorf("the next volume is %d", res.Entries[0].Volume)
	}
	c, _ = apply(t, c, adoptCommand(12)) // below, and never ours
	if ids := []volume.ID{c.Volumes()[0].Volume, c.Volumes()[1].Volume, c.Volumes()[2].Volume}; !reflect.DeepEqual(ids, []volume.ID{12, 40, 41}) || c.MaxVolume() != 41 {
		t.Errorf("volumes %v, highest %d", ids, c.MaxVolume())
	}
	var b bytes.Buffer
	if err := c.Write(&b); err != nil {
		t.Fatal(err)
	}
	if again, err := catalog.Read(&b); err != nil || !reflect.DeepEqual(again, c) {
		t.Errorf("read back as %+v, %v", again, err)
	}
}

// A key that a client of SeaweedFS chose near the top does not use up the keys.
func TestAKeyNearTheTopLeavesKeysToGiveOut(t *testing.T) {
	t.Parallel()
	for key, ceiling := range map[volume.Key]volume.Key{1<<63 - 1: 1 << 63, 1 << 63: 1, 1<<64 - 1: 1} {
		c, _ := apply(t, catalog.New(), adoptCommand(4, func(a *catalog.Adopt) { a.MaxKey = key }))
		if c.Ceiling() != ceiling {
			t.Errorf("key %x: ceiling %x, want %x", uint64(key), uint64(c.Ceiling()), uint64(ceiling))
		}
	}
}

func TestAdoptionIsRefused(t *testing.T) {
	t.Parallel()
	c, _ := apply(t, with(t), adoptCommand(40)) // 1 is in use
	c, _ = apply(t, c, growCommand(catalog.NewVolume{Primary: "a", Holders: holders("a1")}))
	c, _ = apply(t, c, catalog.Command{Delete: &catalog.Delete{Volumes: []volume.ID{41}}})
	opened, res := apply(t, c, adoptCommand(50))
	e := *res.Entries[0]
	e.State = volume.StateFull
	opened, res = apply(t, opened, changeCommand(catalog.Change{Version: 1, Next: e}))
	if res.Errs[0] != nil {
		t.Fatal(res.Errs[0])
	}
	again := func(version uint64) func(*catalog.Adopt) {
		return func(a *catalog.Adopt) { a.Version, a.Holder.Copy = version, 8 }
	}
	tests := []struct {
		name string
		cat  *catalog.Catalog
		cmd  catalog.Command
		want error
	}{
		{"a free number", c, adoptCommand(2), nil},
		{"number 0", c, adoptCommand(0), volume.ErrBadRequest},
		{"a number that would use all others up", c, adoptCommand(catalog.LastAdopted + 1), volume.ErrBadRequest},
		{"a volume of ours", c, adoptCommand(1), volume.ErrExists},
		{"one that is being adopted", c, adoptCommand(40), volume.ErrExists},
		{"one that was deleted", c, adoptCommand(41), volume.ErrExists},
		{"a holder without files", c, adoptCommand(2, func(a *catalog.Adopt) { a.Holder.Node = "c" }), volume.ErrBadRequest},
		{"a holder without copy id", c, adoptCommand(2, func(a *catalog.Adopt) { a.Holder.Copy = 0 }), volume.ErrBadRequest},
		{"planned anew", c, adoptCommand(40, again(1)), nil},
		{"planned anew on another version", c, adoptCommand(40, again(2)), volume.ErrStale},
		{"planned anew when it is in use", opened, adoptCommand(50, again(2)), volume.ErrBadRequest},
		{"planned anew for a volume of ours", c, adoptCommand(1, again(2)), volume.ErrBadRequest},
		{"planned anew when it is gone", c, adoptCommand(2, again(1)), volume.ErrNoVolume},
	}
	for _, tt := range tests {
		next, res := tt.cat.Apply(tt.cmd)
		if !errors.Is(res.Err, tt.want) || (res.Err != nil) != (next == tt.cat) {
			t.Errorf("%s: %v, want %v", tt.name, res.Err, tt.want)
		}
	}
	_, res = apply(t, c, adoptCommand(40, again(1)))
	if e := res.Entries[0]; e.Epoch != 2 || e.Version != 2 || e.InSync[0].Copy != 8 {
		t.Errorf("planned anew: %+v", e)
	}
}

// Adopted volumes are never open, and stay known as what they are (rule R15).
func TestAnAdoptedVolumeIsNeverOpen(t *testing.T) {
	t.Parallel()
	c, res := apply(t, catalog.New(), adoptCommand(40))
	e := *res.Entries[0]
	for state, want := range map[volume.State]error{volume.StateOpen: volume.ErrBadRequest, volume.StateFull: nil} {
		e.State, e.Sources = state, nil
		_, res := apply(t, c, changeCommand(catalog.Change{Version: 1, Next: e}))
		if !errors.Is(res.Errs[0], want) {
			t.Errorf("%s: %v, want %v", state, res.Errs[0], want)
		}
		if want == nil && !res.Entries[0].Adopted() {
			t.Error("it is not known any more where it came from")
		}
	}
}
