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
	"weedd/daemon/config"
	"weedd/daemon/daemontest"
	"weedd/volume"
)

// awaitVoters waits until the group has exactly the running masters as voters.
func awaitVoters(c *daemontest.Cluster) {
	c.T.Helper()
	running := map[volume.NodeID]bool{}
	for _, n := range c.Nodes {
		if n.Running() && n.Config.Has(cluster.RoleMaster) {
			running[n.Self.ID] = true
		}
	}
	c.Await("the running masters are the voters", func() error {
		v, err := c.View()
		if err != nil {
			return err
		}
		for _, m := range v.Masters {
			if !m.Voter || !m.Alive || !running[m.ID] {
				return fmt.Errorf("%+v", v.Masters)
			}
		}
		if len(v.Masters) != len(running) {
			return fmt.Errorf("%d of %d masters: %+v", len(v.Masters), len(running), v.Masters)
		}
		return nil
	})
}

func fewVolumes(_ int, cfg *config.Config) { cfg.Master.WritableVolumes = 1 }

// One master grows to five, each joining through another one than the last, and
// nothing but the configuration tells them to; two that are gone for good are then
// removed, one of them replaced, and the files are there all the time.
func TestMastersComeAndGo(t *testing.T) {
	t.Parallel()
	c := daemontest.New(t)
	c.Add(1, fewVolumes)
	c.AwaitReady()
	fid, err := c.Nodes[0].Submit("", []byte("first"))
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i < 5; i++ {
		through := c.Nodes[i-1].Self.Gossip
		c.Add(1, fewVolumes, func(_ int, cfg *config.Config) { cfg.Gossip.Join = []string{through} })
		c.AwaitReady()
		awaitVoters(c)
	}
	// One that runs is not removed, whoever is asked.
	if _, err := c.TryOperate(cluster.Operation{Remove: &cluster.RemoveVoter{Master: c.Nodes[4].Self.MasterHTTP}}); err == nil || !strings.Contains(err.Error(), "stop it first") {
		t.Errorf("a master that runs: %v", err)
	}
	if _, err := c.TryOperate(cluster.Operation{Remove: &cluster.RemoveVoter{Master: "nobody"}}); err == nil || !strings.Contains(err.Error(), "no master is named") {
		t.Errorf("a master that is not: %v", err)
	}
	for i, name := range []func(n *daemontest.Node) string{
		func(n *daemontest.Node) string { return n.Self.MasterHTTP }, func(n *daemontest.Node) string { return string(n.Self.ID) }} {
		gone := c.Nodes[4-i]
		gone.Kill()
		c.Await("it is gone", func() error {
			_, err := c.TryOperate(cluster.Operation{Remove: &cluster.RemoveVoter{Master: name(gone)}})
			return err
		})
		awaitVoters(c)
	}
	c.Add(1, fewVolumes, func(_ int, cfg *config.Config) { cfg.Gossip.Join = []string{c.Nodes[2].Self.Gossip} })
	c.AwaitReady()
	awaitVoters(c)
	readAll(t, c, map[string][]byte{fid: []byte("first")})
}

// All three hosts get other addresses while they are stopped: nothing of the old
// ones is left anywhere but in what raft and gossip remember.
func TestAllMastersGetOtherAddressesWhileStopped(t *testing.T) {
	if raceDetector {
		t.Skip("raft races with itself when an address changes; make e2e runs this without the detector")
	}
	t.Parallel()
	c := daemontest.Start(t, 3, fewVolumes)
	fid, err := c.Nodes[0].Submit("replication=001", []byte("before"))
	if err != nil {
		t.Fatal(err)
	}
	c.AwaitWhole()
	for _, n := range c.Nodes {
		n.Stop()
		n.Config.Internal.Port, n.Config.Gossip.Port, n.Config.Master.HTTP.Port, n.Config.Volume.HTTP.Port = 0, 0, 0, 0
		n.Config.Gossip.Join = nil
	}
	c.Nodes[0].Start()
	for _, n := range c.Nodes[1:] {
		n.Config.Gossip.Join = []string{c.Nodes[0].Self.Gossip} // an operator names one new address
		n.Start()
	}
	c.AwaitReady()
	awaitVoters(c)
	c.AwaitWhole()
	if _, err := c.Nodes[1].Submit("replication=001", []byte("after")); err != nil {
		t.Error(err)
	}
	readAll(t, c, map[string][]byte{fid: []byte("before")})
}

// One host loses all that it had and comes back under its old address, as another
// node; another one has damaged raft files. Both take their places among the
// masters by themselves, and the copies of the first are made anew.
func TestAMasterWithoutItsDataAndOneWithDamagedDataAreReplacedByThemselves(t *testing.T) {
	t.Parallel()
	c := daemontest.Start(t, 3, fewVolumes, func(_ int, cfg *config.Config) { cfg.Master.RepairAfter = time.Second })
	files := map[string][]byte{}
	for i := range 5 {
		data := bytes.Repeat([]byte{byte('a' + i)}, 1000)
		fid, err := c.Nodes[i%3].Submit("replication=001", data)
		if err != nil {
			t.Fatal(err)
		}
		files[fid] = data
	}
	c.AwaitWhole()
	wiped := c.Nodes[0]
	old := wiped.Self.ID
	wiped.Kill()
	for _, dir := range []string{wiped.Config.Data, wiped.Config.Volume.Disks[0].Path} {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	wiped.Config.Gossip.Join = []string{c.Nodes[1].Self.Gossip}
	wiped.Start()
	c.AwaitReady()
	awaitVoters(c)
	awaitOff(c, old)

	damaged := c.Nodes[1]
	damaged.Kill()
	db := filepath.Join(damaged.Config.Data, "raft", "raft.db")
	if err := os.WriteFile(db, bytes.Repeat([]byte("damage "), 10000), 0o600); err != nil {
		t.Fatal(err)
	}
	damaged.Start()
	c.AwaitReady()
	awaitVoters(c)
	if aside, _ := filepath.Glob(filepath.Join(damaged.Config.Data, "raft.damaged-*", "raft.db")); len(aside) != 1 {
		t.Errorf("set aside: %v", aside)
	}
	c.AwaitWhole()
	readAll(t, c, files)
}

// A master of another cluster that is told to join this one is refused by name, and
// harms neither.
func TestAMasterOfAnotherClusterIsRefusedByName(t *testing.T) {
	t.Parallel()
	a, b := daemontest.Start(t, 1, fewVolumes), daemontest.Start(t, 1, fewVolumes)
	one, err := a.Nodes[0].Submit("", []byte("of a"))
	if err != nil {
		t.Fatal(err)
	}
	two, err := b.Nodes[0].Submit("", []byte("of b"))
	if err != nil {
		t.Fatal(err)
	}
	view, err := a.View()
	if err != nil {
		t.Fatal(err)
	}
	b.Nodes[0].Stop()
	b.Nodes[0].Config.Gossip.Join = []string{a.Nodes[0].Self.Gossip}
	b.Nodes[0].Start()
	b.AwaitReady()
	a.Await("the stranger is refused by name", func() error {
		if log := a.Nodes[0].Log(); !strings.Contains(log, "a master of another cluster is not admitted") || !strings.Contains(log, string(b.Nodes[0].Self.ID)) {
			return fmt.Errorf("the log does not say so")
		}
		return nil
	})
	now, err := a.View()
	if err != nil || now.ClusterID != view.ClusterID || len(now.Masters) != 1 {
		t.Errorf("%+v, %v", now.Masters, err)
	}
	readAll(t, a, map[string][]byte{one: []byte("of a")})
	readAll(t, b, map[string][]byte{two: []byte("of b")})
	for _, c := range []*daemontest.Cluster{a, b} {
		if _, err := c.Nodes[0].Submit("", []byte("still at work")); err != nil {
			t.Error(err)
		}
	}
}

// Eight nodes join one at the same moment.
func TestEightNodesJoinAtOnce(t *testing.T) {
	t.Parallel()
	c := daemontest.New(t)
	c.Add(1, fewVolumes)
	c.AwaitReady()
	for range 8 {
		c.Add(1, fewVolumes)
	}
	c.AwaitReady()
	awaitVoters(c)
	c.Await("all volume servers are ready", func() error {
		v, err := c.View()
		if err != nil {
			return err
		}
		ready := 0
		for _, n := range v.Nodes {
			if n.Alive && n.Ready {
				ready++
			}
		}
		if ready != 9 {
			return fmt.Errorf("%d of %d", ready, len(v.Nodes))
		}
		return nil
	})
	fid, err := c.Nodes[8].Submit("replication=002", []byte("three copies"))
	if err != nil {
		t.Fatal(err)
	}
	readAll(t, c, map[string][]byte{fid: []byte("three copies")})
}
