package daemontest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"weedd/cluster"
	"weedd/daemon/daemontest"
	"weedd/volume"
)

// While clients write to a volume at all nodes an operator has it take no writes. From
// the moment that he is told it is done it changes no more, whoever leads; every write
// before was acknowledged, or refused by name. Undone, it takes writes at once.
func TestAVolumeIsReadOnlyByHandUnderWrites(t *testing.T) {
	t.Parallel()
	c := daemontest.Start(t, 3)
	_, body, err := c.Nodes[0].Master(http.MethodGet, "/dir/assign?replication=001&count=9")
	var assigned struct{ FID string }
	if err != nil || json.Unmarshal(body, &assigned) != nil {
		t.Fatalf("%s: %v", body, err)
	}
	id, err := volume.ParseFileID(assigned.FID)
	if err != nil {
		t.Fatal(err)
	}
	h := held{t: t, c: c, id: id.Volume, fid: assigned.FID, last: make([]string, 9)}
	var writers sync.WaitGroup
	for k := range h.last {
		writers.Go(func() { h.write(k) })
	}
	c.Await("writes are under way", func() error {
		if n := h.stored.Load(); n < 50 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	out := c.Operate(cluster.Operation{ReadOnly: &cluster.ReadOnly{Volumes: []volume.ID{h.id}}})
	h.frozen.Store(true)
	size := h.sizes()
	writers.Wait()
	if len(out.Volumes) != 1 || out.Volumes[0].Entry.State != volume.StateReadOnly || len(out.Volumes[0].Waits) > 0 {
		t.Fatalf("%+v", out)
	}
	h.check()
	leader := c.Leader()
	leader.Kill()
	c.Leader()
	h.check()
	leader.Start()
	c.AwaitReady()
	c.AwaitWhole()
	h.check()
	if now := h.sizes(); now != size {
		t.Errorf("the files were %s and are %s", size, now)
	}
	x := c.Operate(cluster.Operation{Explain: &h.id}).Volumes[0]
	if x.Entry.State != volume.StateReadOnly || !strings.Contains(strings.Join(x.Waits, ";"), "an operator said so") {
		t.Errorf("%+v", x)
	}
	c.Operate(cluster.Operation{ReadOnly: &cluster.ReadOnly{Volumes: []volume.ID{h.id}, Undo: true}})
	for i, n := range c.Nodes {
		if status, body, err := n.Do(http.MethodPut, h.path(i), []byte("again")); err != nil || status != http.StatusCreated {
			t.Errorf("undone: %d %s %v", status, body, err)
		}
	}
	sameFiles(t, c)
}

// held is a volume that is held read-only while clients write.
type held struct {
	t      *testing.T
	c      *daemontest.Cluster
	id     volume.ID
	fid    string
	last   []string // what was stored last under each delta
	stored atomic.Int64
	frozen atomic.Bool // the operator was told
}

func (h *held) path(k int) string { return fmt.Sprintf("/%s_%d", h.fid, k) }

// write replaces one file until that is refused.
func (h *held) write(k int) {
	for i := 0; ; i++ {
		data := strings.Repeat(fmt.Sprintf("file %d, %d times ", k, i), 1+i%50)
		told := h.frozen.Load()
		status, body, err := h.c.Nodes[k%3].Do(http.MethodPut, h.path(k), []byte(data))
		switch {
		case err != nil || status != http.StatusCreated && !h.refused(status, body):
			h.t.Errorf("write: %d %s %v", status, body, err)
			return
		case status != http.StatusCreated:
			return
		case told:
			h.t.Error("a write was stored though the operator had been told that none is")
			return
		}
		h.last[k] = data
		h.stored.Add(1)
	}
}

func (h *held) refused(status int, body []byte) bool {
	return status == http.StatusInternalServerError && strings.Contains(string(body), fmt.Sprintf("volume %s is read only", h.id))
}

// check reads everything, and tries to write, at every node that runs.
func (h *held) check() {
	for _, n := range h.c.Nodes {
		if !n.Running() {
			continue
		}
		for k, want := range h.last {
			h.c.Await("a read", func() error { // a host that was killed may be asked for some time
				got, err := n.Read(h.path(k)[1:])
				if err == nil && string(got) != want {
					h.t.Fatalf("file %d is %.40q, want %.40q", k, got, want)
				}
				return err
			})
		}
		for _, method := range []string{http.MethodPut, http.MethodDelete} {
			if status, body, err := n.Do(method, h.path(0), []byte(h.last[0])); err != nil || !h.refused(status, body) {
				h.t.Errorf("%s: %d %s %v", method, status, body, err)
			}
		}
		for range 30 {
			if fid, err := n.Submit("replication=001", []byte("elsewhere")); err != nil || strings.HasPrefix(fid, h.id.String()+",") {
				h.t.Errorf("submit: %s %v", fid, err)
			}
		}
	}
}

// sizes are those of the files of all copies.
func (h *held) sizes() (text string) {
	for _, n := range h.c.Nodes {
		if s, err := os.Stat(filepath.Join(n.Config.Volume.Disks[0].Path, h.id.String()+".dat")); err == nil {
			text += fmt.Sprintf("%d ", s.Size())
		}
	}
	return text
}
