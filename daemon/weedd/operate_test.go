package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"weedd/cluster"
	"weedd/volume"
)

// oneMaster answers operations, and remembers the last.
type oneMaster struct {
	addr string

	mu     sync.Mutex
	asked  cluster.Operation
	status int
	answer any
	views  []cluster.View // one after the other; the last stays
}

func startMaster(t *testing.T) *oneMaster {
	m := &oneMaster{status: http.StatusOK}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		defer m.mu.Unlock()
		answer := m.answer
		switch r.URL.Path {
		case "/cluster/operation":
			m.asked = cluster.Operation{}
			if err := json.NewDecoder(r.Body).Decode(&m.asked); err != nil || r.Header.Get("Content-Type") != "application/json" {
				t.Errorf("the body of an operation: %v", err)
			}
			w.WriteHeader(m.status)
		case "/cluster/view":
			answer = m.views[0]
			if len(m.views) > 1 {
				m.views = m.views[1:]
			}
		}
		json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(srv.Close)
	m.addr = strings.TrimPrefix(srv.URL, "http://")
	return m
}

func (m *oneMaster) answers(status int, v any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status, m.answer = status, v
}

func (m *oneMaster) got() cluster.Operation {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asked
}

func TestDrainTellsHowFarItIs(t *testing.T) {
	t.Parallel()
	m := startMaster(t)
	d := cluster.ViewDrain{Node: "n1", Dir: "/mnt/a", Work: cluster.ViewWork{Copies: 3, Bytes: 5 << 20, Seconds: 90}, Stuck: 1, Why: "volume 7: none", Foreign: 2}
	m.answers(200, cluster.Outcome{Drain: &d})
	out, _, err := runTool(t, newDrainCommand(), "-m", m.addr, "host:8080", "/mnt/a")
	if want := "/mnt/a of node n1: 3 volumes to move, 5.0 MiB, about 1m30s; 1 have no other place (volume 7: none); 2 volumes of SeaweedFS there are not moved\n"; out != want || err != nil {
		t.Errorf("%q, want %q (%v)", out, want, err)
	}
	if op := m.got().Drain; op == nil || *op != (cluster.Drain{Node: "host:8080", Dir: "/mnt/a"}) {
		t.Errorf("asked for %+v", op)
	}
	done := d
	done.Work, done.Done, done.Stuck, done.Foreign = cluster.ViewWork{}, true, 0, 0
	m.mu.Lock()
	m.views = []cluster.View{{}, {Drains: []cluster.ViewDrain{d}}, {Drains: []cluster.ViewDrain{done}}}
	m.mu.Unlock()
	if out, _, err := runTool(t, newDrainCommand(), "-m", m.addr, "--wait", "host:8080", "/mnt/a"); out != "/mnt/a of node n1: nothing is left there\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
	m.mu.Lock()
	m.views = []cluster.View{{Drains: []cluster.ViewDrain{d}}, {}}
	m.mu.Unlock()
	if _, _, err := runTool(t, newDrainCommand(), "-m", m.addr, "--wait", "host:8080"); exitCode(err) != 1 || !strings.Contains(err.Error(), "undone") {
		t.Errorf("undone while it was waited for: %v", err)
	}
	m.answers(200, cluster.Outcome{})
	if out, _, err := runTool(t, newDrainCommand(), "-m", m.addr, "--undo", "host:8080"); out != "host:8080 takes copies again\n" || err != nil || !m.got().Drain.Undo {
		t.Errorf("%q, %v", out, err)
	}
}

func TestRefusedOperationsExitWith1AndUnansweredOnesWith2(t *testing.T) {
	t.Parallel()
	m := startMaster(t)
	m.answers(401, map[string]string{"error": "ask on the host of a master"})
	for _, args := range [][]string{{"drain", "x"}, {"repair"}, {"explain", "7"}, {"promote", "7", "x"}, {"forget", "7"}, {"readonly", "7"}, {"master", "remove", "x"}} {
		run := func(more ...string) error {
			_, _, err := runTool(t, newRoot(), append(args, more...)...)
			return err
		}
		if err := run("-m", m.addr); exitCode(err) != 1 || err.Error() != "ask on the host of a master" {
			t.Errorf("%v: exit code %d: %v", args, exitCode(err), err)
		}
		if err := run("-m", "127.0.0.1:1", "--timeout", "100ms"); exitCode(err) != exitUnreachable {
			t.Errorf("%v without a master: exit code %d: %v", args, exitCode(err), err)
		}
	}
	if _, _, err := runTool(t, newExplainCommand(), "seven"); exitCode(err) != exitUsage {
		t.Errorf("exit code %d: %v", exitCode(err), err)
	}
}

func TestExplainAndRepairPrintWhatIsDoneAndWhy(t *testing.T) {
	t.Parallel()
	m := startMaster(t)
	e := volume.Entry{Volume: 7, Spec: volume.Spec{Collection: "pics", Placement: 1}, State: volume.StateOpen, Epoch: 4, Primary: "a",
		InSync: []volume.Holder{{Node: "a", Copy: 1}, {Node: "b", Copy: 2}}}
	next := e
	next.Joining = []volume.Holder{{Node: "c"}}
	x := cluster.Explanation{Entry: e, Next: &next, Why: "node b is gone", Copies: []cluster.ExplainedCopy{{Holder: e.InSync[0], Role: "primary", State: "well"}, {Holder: e.InSync[1], Role: "in sync", State: "away"}}}
	still := cluster.Explanation{Entry: volume.Entry{Volume: 8}, Waits: []string{"node c is away"}}
	m.answers(200, cluster.Outcome{Volumes: []cluster.Explanation{x}})
	out, _, err := runTool(t, newExplainCommand(), "-m", m.addr, "7,01637037d6")
	for _, part := range []string{"volume 7 of collection pics, replication 001, is open at epoch 4", "node b  in sync  copy 0000000000000002  away",
		"next: node b is gone", "open on a (primary), b  →  open on a (primary), b, c (joining)"} {
		if !strings.Contains(out, part) {
			t.Errorf("explain does not say %q:\n%s", part, out)
		}
	}
	if op := m.got().Explain; err != nil || op == nil || *op != 7 {
		t.Errorf("asked for %v: %v", op, err)
	}
	m.answers(200, cluster.Outcome{Volumes: []cluster.Explanation{x, still}, More: 5})
	out, _, err = runTool(t, newRepairCommand(), "-m", m.addr, "--dry-run")
	for _, part := range []string{"volume 7: node b is gone", "c (joining)", "volume 8 waits: node c is away", "and 5 volumes more"} {
		if !strings.Contains(out, part) {
			t.Errorf("repair does not say %q:\n%s", part, out)
		}
	}
	if op := m.got().Repair; err != nil || op == nil || !op.DryRun {
		t.Errorf("asked for %v: %v", op, err)
	}
	out, _, err = runTool(t, newRepairCommand(), "-m", m.addr, "--json")
	var got cluster.Outcome
	if jsonErr := json.Unmarshal([]byte(out), &got); jsonErr != nil || err != nil || len(got.Volumes) != 2 || m.got().Repair.DryRun {
		t.Errorf("%s: %v, %v", out, jsonErr, err)
	}
	m.answers(200, cluster.Outcome{})
	if out, _, _ := runTool(t, newRepairCommand(), "-m", m.addr); out != "all volumes are as they should be\n" {
		t.Errorf("%q", out)
	}
}

func TestReadOnlySaysWhenAHostDoesNotKnowYet(t *testing.T) {
	t.Parallel()
	m := startMaster(t)
	x := cluster.Explanation{Entry: volume.Entry{Volume: 7, State: volume.StateReadOnly}}
	late := cluster.Explanation{Entry: volume.Entry{Volume: 12, State: volume.StateReadOnly}, Waits: []string{"node a has not said yet that it knows"}}
	m.answers(200, cluster.Outcome{Volumes: []cluster.Explanation{x}})
	out, _, err := runTool(t, newReadOnlyCommand(), "-m", m.addr, "7")
	if op := m.got().ReadOnly; out != "volume 7 is readonly\n" || err != nil || op == nil || !slices.Equal(op.Volumes, []volume.ID{7}) || op.Undo {
		t.Errorf("%q (%v), asked for %+v", out, err, op)
	}
	m.answers(200, cluster.Outcome{Volumes: []cluster.Explanation{x, late}})
	out, _, err = runTool(t, newReadOnlyCommand(), "-m", m.addr, "--undo", "7", "12")
	if !strings.HasSuffix(out, "volume 12 is readonly; node a has not said yet that it knows\n") || exitCode(err) != 1 || !m.got().ReadOnly.Undo {
		t.Errorf("%q (%v), asked for %+v", out, err, m.got().ReadOnly)
	}
	if _, _, err := runTool(t, newRoot(), "readonly", "-m", m.addr, "x"); exitCode(err) != exitUsage {
		t.Errorf("exit code %d: %v", exitCode(err), err)
	}
}

// What is given up is told before it is.
func TestForgetTellsBeforeItDoes(t *testing.T) {
	t.Parallel()
	m := startMaster(t)
	m.answers(200, cluster.Outcome{Volumes: []cluster.Explanation{{Entry: volume.Entry{Volume: 7}, Delete: true, Why: "all is given up"}}})
	out, _, err := runTool(t, newForgetCommand(), "-m", m.addr, "7", "12")
	if want := "volume 7: delete: all is given up\n"; out != want || exitCode(err) != exitUsage || !strings.Contains(err.Error(), "--yes") {
		t.Errorf("%q, want %q (%v)", out, want, err)
	}
	if f := m.got().Forget; f == nil || !slices.Equal(f.Volumes, []volume.ID{7, 12}) || !f.DryRun {
		t.Errorf("asked for %+v", f)
	}
	if _, _, err := runTool(t, newForgetCommand(), "-m", m.addr, "7", "--yes"); err != nil || m.got().Forget.DryRun {
		t.Errorf("with --yes: %+v, %v", m.got().Forget, err)
	}
	for _, args := range [][]string{{"7", "x"}, {"7,01637037d6"}} {
		if _, _, err := runTool(t, newRoot(), append([]string{"forget", "-m", m.addr}, args...)...); exitCode(err) != exitUsage {
			t.Errorf("%q: exit code %d: %v", args, exitCode(err), err)
		}
	}
}

// What is given up is told before it is.
func TestPromoteTellsBeforeItDoes(t *testing.T) {
	t.Parallel()
	m := startMaster(t)
	was := volume.Entry{Volume: 7, State: volume.StateOpen, Primary: "a", InSync: []volume.Holder{{Node: "a", Copy: 1}}}
	next := was
	next.Primary, next.InSync = "b", []volume.Holder{{Node: "b", Copy: 2}}
	m.answers(200, cluster.Outcome{Volumes: []cluster.Explanation{{Entry: was, Next: &next, Why: "files are lost"}}})
	out, _, err := runTool(t, newPromoteCommand(), "-m", m.addr, "7", "b:8080")
	if want := "volume 7: files are lost\n  open on a (primary)  →  open on b (primary)\n"; out != want || exitCode(err) != exitUsage || !strings.Contains(err.Error(), "--yes") {
		t.Errorf("%q, want %q (%v)", out, want, err)
	}
	if op := m.got().Promote; op == nil || *op != (cluster.Promote{Volume: 7, Node: "b:8080", DryRun: true}) {
		t.Errorf("asked for %+v", op)
	}
	if _, _, err := runTool(t, newPromoteCommand(), "-m", m.addr, "7", "b:8080", "--yes"); err != nil || m.got().Promote.DryRun {
		t.Errorf("with --yes: %+v, %v", m.got().Promote, err)
	}
}
