package consensus

import (
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"
)

// recovered is a machine that adds a command to what it was given.
type recovered struct{ list }

func (r *recovered) Snapshot() func(io.Writer) error {
	text := append(r.all(), "recovered")
	return func(w io.Writer) error { return json.NewEncoder(w).Encode(text) }
}

// Two of three members are lost for good; the third goes on alone with all that it
// has, and others join it.
func TestOneMemberIsRecoveredAndGrowsAgain(t *testing.T) {
	t.Parallel()
	for _, snapshots := range []bool{false, true} {
		peers := newGroup(t, 3, func(o *Options) {
			if snapshots {
				o.SnapshotEvery, o.SnapshotThreshold, o.TrailingLogs = 10_000_000, 2, 1
			}
		})
		for _, c := range []string{"a", "b", "c"} {
			propose(t, peers, c)
		}
		agree(t, peers, "a", "b", "c")
		for _, p := range peers {
			p.stop()
		}
		left := peers[1]
		were, err := Recover(left.opt.Dir, left.addr, &recovered{})
		if err != nil || len(were) != 3 {
			t.Fatalf("%v, %v", were, err)
		}
		left.start()
		propose(t, []*peer{left}, "d")
		agree(t, []*peer{left}, "a", "b", "c", "recovered", "d")
		if m := left.Members(); len(m) != 1 || m[0] != left.seat() {
			t.Errorf("members: %+v", m)
		}
		late := newPeer(t)
		if err := left.Admit(t.Context(), late.seat()); err != nil {
			t.Fatal(err)
		}
		agree(t, []*peer{late}, "a", "b", "c", "recovered", "d")
		if m := left.Members(); len(m) != 2 || !slices.Contains(m, late.seat()) {
			t.Errorf("members: %+v", m)
		}
	}
}

func TestNothingIsRecoveredThatNeverWas(t *testing.T) {
	t.Parallel()
	if _, err := Recover(t.TempDir(), "127.0.0.1:1", &recovered{}); err == nil || !strings.Contains(err.Error(), "no raft state") {
		t.Errorf("an empty directory: %v", err)
	}
	p := newPeer(t)
	if _, err := Recover(p.opt.Dir, p.addr, &recovered{}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a member that runs: %v", err)
	}
}
