package daemontest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"weedd/cluster"
	"weedd/daemon/config"
	"weedd/daemon/daemontest"
	"weedd/volume"
)

// awaitOff waits until no volume has a copy on node and every one is whole on others.
func awaitOff(c *daemontest.Cluster, node volume.NodeID) {
	c.T.Helper()
	c.Await("every volume is whole elsewhere", func() error {
		v, err := c.View()
		if err != nil {
			return err
		}
		for _, vol := range v.Volumes {
			if _, _, ok := vol.Entry.Holder(node); ok {
				return fmt.Errorf("volume %d is on node %s: %+v", vol.Entry.Volume, node, vol.Entry)
			}
			if e := vol.Entry; len(e.InSync) < e.Spec.Placement.Copies() || len(e.Joining) > 0 {
				return fmt.Errorf("volume %d: %+v", e.Volume, e)
			}
		}
		return nil
	})
}

// awaitEmpty waits until the node has deleted all copies that it had.
func awaitEmpty(c *daemontest.Cluster, n *daemontest.Node) {
	c.T.Helper()
	c.Await("no copy is left", func() error {
		var s struct{ Volumes []struct{ ID volume.ID } }
		status, body, err := n.Do(http.MethodGet, "/status", nil)
		if err == nil {
			err = json.Unmarshal(body, &s)
		}
		switch {
		case err != nil:
			return err
		case status != http.StatusOK || len(s.Volumes) > 0:
			return fmt.Errorf("%d: %d volumes, the first %+v", status, len(s.Volumes), s.Volumes[:min(1, len(s.Volumes))])
		}
		return nil
	})
}

// A host that is gone is replaced after repair_after, its copies are dropped when
// it comes back; then a host is drained under a load, while the leader changes, and
// no request fails and no file is lost.
func TestAHostIsReplacedAndAnotherIsDrained(t *testing.T) {
	t.Parallel()
	c := daemontest.New(t)
	for i := range 4 {
		c.Add(3, func(_ int, cfg *config.Config) {
			cfg.Master.RepairAfter = time.Second
			cfg.Master.WritableVolumes = 2
			if i == 3 {
				cfg.Roles = cluster.RoleVolume // three masters
			}
		})
	}
	c.AwaitReady()
	files := map[string][]byte{}
	store := func(i int) {
		data := bytes.Repeat(fmt.Appendf(nil, "file %d ", i), 50)
		fid, err := c.Nodes[i%3].Submit("replication=001", data)
		if err != nil {
			t.Fatal(err)
		}
		files[fid] = data
	}
	for i := range 30 {
		store(i)
	}
	lost := c.Nodes[3]
	lost.Kill()
	awaitOff(c, lost.Self.ID)
	for i := range 5 {
		store(100 + i)
	}
	lost.Start()
	c.AwaitReady()
	awaitEmpty(c, lost)

	leader := c.Leader()
	var drained *daemontest.Node // a master that does not lead, with a copy of something
	view, err := c.View()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes[:3] {
		for _, vol := range view.Volumes {
			if _, _, ok := vol.Entry.Holder(n.Self.ID); ok && n != leader {
				drained = n
			}
		}
	}
	out := c.Operate(cluster.Operation{Drain: &cluster.Drain{Node: drained.Self.VolumeHTTP}})
	if out.Drain == nil || out.Drain.Node != drained.Self.ID || out.Drain.Work.Copies == 0 {
		t.Fatalf("%+v", out.Drain)
	}
	load := c.Load("replication=001", lost, leader) // of these one has no master, the other restarts
	load.Await(5)
	leader.Stop()
	awaitOff(c, drained.Self.ID)
	load.Await(20)
	leader.Start()
	c.AwaitReady()
	for fid, data := range load.Stop() {
		files[fid] = data
	}
	awaitEmpty(c, drained)
	c.Await("the drain is done", func() error {
		v, err := c.View()
		if err == nil && (len(v.Drains) != 1 || !v.Drains[0].Done) {
			err = fmt.Errorf("%+v", v.Drains)
		}
		return err
	})
	c.AwaitWhole()
	drained.Kill() // now nothing depends on it
	readAll(t, c, files)
}
