package server_test

import (
	"errors"
	"testing"

	"weedd/volume"
	"weedd/volume/server"
)

// Rule R14, by what the copies that stay say.
func TestACopyIsSparedOnlyForEnoughThatHaveItsBytes(t *testing.T) {
	t.Parallel()
	b, c := volume.Holder{Node: "b", Copy: 2}, volume.Holder{Node: "c", Copy: 3}
	d := volume.Drop{Volume: 7, Copy: 1, Epoch: 5, Keep: []volume.Holder{b, c}}
	e := volume.Entry{Volume: 7, Epoch: 5, Spec: volume.Spec{Placement: 1}, InSync: []volume.Holder{b, c}}
	mine := server.Verification{Generation: 1, Committed: 96, At: 96, Checksum: 11}
	same := server.Verification{Epoch: 5, Generation: 1, Committed: 200, At: 96, Checksum: 11}
	with := func(v server.Verification, change func(*server.Verification)) server.Verification {
		change(&v)
		return v
	}
	away := errors.New("it is away")
	other := with(same, func(v *server.Verification) { v.Checksum++ })
	for name, tt := range map[string]struct {
		b, c       server.Verification
		bErr, cErr error
		drop       bool
		aside      bool
	}{
		"both have it":                         {b: same, c: same, drop: true},
		"one is away":                          {b: same, cErr: away},
		"one is in an earlier epoch":           {b: same, c: with(same, func(v *server.Verification) { v.Epoch-- })},
		"one has less":                         {b: same, c: with(same, func(v *server.Verification) { v.Committed, v.At = 90, 90 })},
		"both have other bytes":                {b: other, c: other, aside: true},
		"both are of another generation":       {b: with(same, func(v *server.Verification) { v.Generation++ }), c: with(same, func(v *server.Verification) { v.Generation++ }), aside: true},
		"one has other bytes, one has it":      {b: same, c: other, aside: true},
		"one has other bytes and one is away":  {b: other, cErr: away},
		"other bytes, but of an earlier epoch": {b: same, c: with(other, func(v *server.Verification) { v.Epoch-- })},
	} {
		s, err := server.NewSparing(d, "a", e, mine)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(s.Ask()) != 2 {
			t.Errorf("%s: asks %v", name, s.Ask())
		}
		s.Heard(b, tt.b, tt.bErr)
		s.Heard(c, tt.c, tt.cErr)
		err = s.Verdict()
		if (err == nil) != tt.drop || server.OtherBytes(err) != tt.aside {
			t.Errorf("%s: %v", name, err)
		}
	}
	named := e
	named.Joining = []volume.Holder{{Node: "a", Copy: 1}}
	few := e
	few.InSync = few.InSync[:1]
	older := e
	older.Epoch--
	for name, e := range map[string]volume.Entry{"an entry that names it": named, "too few in sync": few, "an older entry": older} {
		if _, err := server.NewSparing(d, "a", e, mine); err == nil {
			t.Errorf("%s: it may go", name)
		}
	}
}
