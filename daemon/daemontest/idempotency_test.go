package daemontest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"

	"weedd/daemon/daemontest"
)

// repeat uploads data under a key through a master, and gives the file id.
func repeat(t *testing.T, c *daemontest.Cluster, n *daemontest.Node, key, data string) (status int, fid string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, "http://"+n.Self.MasterHTTP+"/submit", bytes.NewReader([]byte(data)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "a/b")
	req.Header.Set("Idempotency-Key", key)
	resp, err := c.HTTP.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var out struct{ FID string }
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatalf("%d %s: %v", resp.StatusCode, b, err)
	}
	return resp.StatusCode, out.FID
}

// A repeat gets the first answer at whichever master it comes, also while the first
// runs. When a master is dead the others still take uploads with keys, and answer
// repeats among themselves.
func TestARepeatMayComeToAnyMaster(t *testing.T) {
	t.Parallel()
	c := daemontest.Start(t, 3)
	once := func(what, key string, nodes []*daemontest.Node) {
		t.Helper()
		fids := make([]string, 2*len(nodes))
		var all sync.WaitGroup
		for i := range fids {
			all.Go(func() {
				status, fid := repeat(t, c, nodes[i%len(nodes)], key, "data of "+key)
				if fids[i] = fid; status != http.StatusCreated {
					t.Errorf("%s: status %d", what, status)
				}
			})
		}
		all.Wait()
		for _, fid := range fids {
			if fid != fids[0] {
				t.Errorf("%s: key %s was stored as %v", what, key, fids)
				break
			}
		}
		if status, _ := repeat(t, c, nodes[len(nodes)-1], key, "of another length, "+key); status != http.StatusUnprocessableEntity {
			t.Errorf("%s: another upload with key %s: %d", what, key, status)
		}
	}
	for i := range 6 { // each master remembers some of them
		once("all are there", fmt.Sprint("key", i), c.Nodes)
	}
	c.Nodes[2].Kill()
	for i := range 6 {
		status, _ := repeat(t, c, c.Nodes[i%2], fmt.Sprint("after", i), "data")
		if status != http.StatusCreated {
			t.Errorf("a master was killed just now: %d", status)
		}
	}
	c.Await("the others know that it is dead", func() error {
		v, err := c.View()
		for _, m := range v.Masters {
			if m.Alive == (m.ID == c.Nodes[2].Self.ID) {
				err = fmt.Errorf("master %s: alive is %v", m.ID, m.Alive)
			}
		}
		return err
	})
	for i := range 4 {
		once("one is dead", fmt.Sprint("later", i), c.Nodes[:2])
	}
}
