package daemontest_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weedd/cluster"
	"weedd/daemon"
	"weedd/daemon/config"
	"weedd/daemon/daemontest"
	"weedd/volume"
)

// Two of three masters are lost for good: one host with all that it had, and the raft
// directory of another. The third goes on alone by one offline command, the other
// comes back, and nothing that two hosts had is lost; what waits for the host that is
// gone says so, until it is given up.
func TestTwoOfThreeMastersAreLostForGood(t *testing.T) {
	t.Parallel()
	c := daemontest.Start(t, 3, fewVolumes, func(_ int, cfg *config.Config) { cfg.Master.RepairAfter = time.Hour })
	files := map[string][]byte{}
	for i := range 20 {
		data := bytes.Repeat(fmt.Appendf(nil, "file %d ", i), 30)
		// A volume of each of three collections: no node is without.
		fid, err := c.Nodes[i%3].Submit(fmt.Sprint("replication=001&collection=c", i%3), data)
		if err != nil {
			t.Fatal(err)
		}
		files[fid] = data
	}
	c.AwaitWhole()
	left, other, gone := c.Nodes[0], c.Nodes[1], c.Nodes[2]
	if _, err := daemon.Recover(left.Config, nil); err == nil || !strings.Contains(err.Error(), "in use by another weedd") {
		t.Errorf("recovered while it runs: %v", err)
	}
	forget := func(n *daemontest.Node) {
		if err := os.RemoveAll(filepath.Join(n.Config.Data, "raft")); err != nil {
			t.Fatal(err)
		}
	}
	recovered := func(without ...volume.NodeID) {
		for _, n := range c.Nodes {
			n.Kill()
		}
		forget(other)
		done, err := daemon.Recover(left.Config, without)
		if err != nil || done.Volumes == 0 || done.Cluster == "" || len(done.Was) == 0 {
			t.Fatalf("%+v, %v", done, err)
		}
		left.Config.Gossip.Join, other.Config.Gossip.Join = nil, []string{left.Self.Gossip}
		left.Start()
		other.Start()
		c.AwaitReady()
	}
	recovered()
	c.Await("the view says who is waited for", func() error {
		v, err := c.View()
		if err != nil {
			return err
		}
		for _, p := range v.Problems {
			if p.Severity == cluster.SeverityError && strings.Contains(p.What, "wait since the masters were recovered") && strings.Contains(p.What, string(gone.Self.ID)) {
				return nil
			}
		}
		return fmt.Errorf("%+v", v.Problems)
	})
	recovered(gone.Self.ID)
	c.Await("no volume waits", func() error {
		v, err := c.View()
		if err != nil {
			return err
		}
		for _, vol := range v.Volumes {
			if vol.Entry.Unsure {
				return fmt.Errorf("%+v; %+v", vol.Entry, v.Problems)
			}
		}
		return nil
	})
	readAll(t, c, files) // each has a copy on one of the two
	var fid string
	c.Await("uploads go on", func() (err error) {
		fid, err = other.Submit("replication=001", []byte("after"))
		return err
	})
	if _, again := files[fid]; again {
		t.Errorf("file id %s was given out twice", fid)
	}
	readAll(t, c, map[string][]byte{fid: []byte("after")})
}
