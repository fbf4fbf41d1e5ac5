package daemontest_test

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"

	"weedd/daemon/daemontest"
)

func TestThreeNodesFoundAClusterAndKeepTwoCopies(t *testing.T) {
	c := daemontest.Start(t, 3)
	fids := map[string][]byte{}
	for i := range 30 {
		data := bytes.Repeat([]byte{byte(i)}, 1000+i)
		fid, err := c.Nodes[i%3].Submit("replication=001", data)
		if err != nil {
			t.Fatal(err)
		}
		fids[fid] = data
	}
	readAll(t, c, fids)
	for fid := range fids {
		if status, body, err := c.Nodes[0].Do(http.MethodDelete, "/"+fid, nil); err != nil || status != http.StatusAccepted {
			t.Fatalf("delete %s: %d %s %v", fid, status, body, err)
		}
		for i, n := range c.Nodes {
			if status, _, err := n.Do(http.MethodGet, "/"+fid, nil); err != nil || status != http.StatusNotFound {
				t.Errorf("node %d: deleted %s: %d %v", i, fid, status, err)
			}
		}
		break
	}
	c.AwaitWhole()
}

// readAll reads every file through every running node.
func readAll(t *testing.T, c *daemontest.Cluster, fids map[string][]byte) {
	t.Helper()
	for i, n := range c.Nodes {
		if !n.Running() {
			continue
		}
		for fid, want := range fids {
			c.Await(fmt.Sprintf("node %d reads %s", i+1, fid), func() error {
				got, err := n.Read(fid)
				if err != nil {
					return err
				}
				if !bytes.Equal(got, want) {
					t.Fatalf("node %d reads other bytes for %s", i+1, fid)
				}
				return nil
			})
		}
	}
}

func TestUploadsGoOnWhileAnyNodeIsKilledAndItComesBackWhole(t *testing.T) {
	for _, victim := range []string{"leader", "follower"} {
		t.Run(victim, func(t *testing.T) {
			c := daemontest.Start(t, 3)
			lost := c.Leader()
			if victim == "follower" {
				for _, n := range c.Nodes {
					if n != lost {
						lost = n
						break
					}
				}
			}
			load := c.Load("replication=001", lost)
			load.Await(20)
			lost.Kill()
			load.Await(40)
			fids := load.Stop()
			readAll(t, c, fids)
			lost.Start()
			c.AwaitReady()
			c.AwaitWhole()
			readAll(t, c, fids)
		})
	}
}

func TestAPlannedStopIsNoticedByNobody(t *testing.T) {
	c := daemontest.Start(t, 3)
	for range 2 { // whichever leads
		n := c.Leader()
		load := c.Load("replication=001", n)
		load.Await(20)
		n.Stop()
		load.Await(20)
		fids := load.Stop()
		n.Start()
		c.AwaitReady()
		c.AwaitWhole()
		readAll(t, c, fids)
	}
}

func TestMastersAreAddedOneByOneToASingleOne(t *testing.T) {
	c := daemontest.New(t)
	c.Add(1)
	c.AwaitReady()
	fid, err := c.Nodes[0].Submit("", []byte("first"))
	if err != nil {
		t.Fatal(err)
	}
	c.Add(1)
	c.Add(1)
	c.AwaitReady()
	c.Await("three voters", func() error {
		v, err := c.View()
		if err != nil {
			return err
		}
		voters := 0
		for _, m := range v.Masters {
			if m.Voter {
				voters++
			}
		}
		if voters != 3 {
			return fmt.Errorf("%d voters of %d masters", voters, len(v.Masters))
		}
		return nil
	})
	readAll(t, c, map[string][]byte{fid: []byte("first")})
}

func TestAllNodesRestartWithoutSeeds(t *testing.T) {
	c := daemontest.Start(t, 3)
	load := c.Load("replication=001")
	load.Await(20)
	fids := load.Stop()
	for _, n := range c.Nodes {
		n.Kill()
		n.Config.Gossip.Join = nil
	}
	for _, n := range c.Nodes {
		n.Start()
	}
	c.AwaitReady()
	c.AwaitWhole()
	readAll(t, c, fids)
}

func TestTheMajorityGoesOnWithoutALeaderThatIsCutOff(t *testing.T) {
	c := daemontest.Start(t, 3)
	lost := c.Leader()
	load := c.Load("replication=001", lost)
	load.Await(20)
	lost.Isolate()
	load.Await(40)
	c.Await("the cut off node says that nobody leads", func() error {
		if status, _, err := lost.Master(http.MethodGet, "/cluster/healthz"); err != nil || status != http.StatusServiceUnavailable {
			return fmt.Errorf("status %d %v", status, err)
		}
		return nil
	})
	if status, body, err := lost.Master(http.MethodGet, "/dir/assign?replication=001"); err != nil || status != http.StatusServiceUnavailable {
		t.Errorf("assign at the node that is cut off: %d %s %v", status, body, err)
	}
	fids := load.Stop()
	lost.Mend()
	c.AwaitReady()
	c.AwaitWhole()
	readAll(t, c, fids)
}
