package master_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weedd/cluster/master"
	"weedd/cluster/master/mastertest"
	"weedd/volume"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open makes a master over c that waits for at most hold.
func open(t testing.TB, c *mastertest.Cluster, hold time.Duration) *master.Master {
	m := master.New(master.Options{Log: c, Gossip: c, Leader: c, Volumes: c, Logger: slog.New(slog.DiscardHandler), Hold: hold, Attempt: time.Second})
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return m
}

// three is a cluster of nodes a and b, on racks of one data center, and c in
// another.
func three() *mastertest.Cluster {
	return mastertest.New(mastertest.Node("a", "dc1", "r1"), mastertest.Node("b", "dc1", "r2"), mastertest.Node("c", "dc2", "r1"))
}

func assign(t testing.TB, m *master.Master, req master.Request) master.Assignment {
	t.Helper()
	a, err := m.Assign(context.Background(), req)
	if err != nil {
		t.Fatalf("assign: %v", err)
	}
	return a
}

// away says that a node is gone, as gossip sees it.
func away(c *mastertest.Cluster, id, dc, rack string) {
	n := mastertest.Node(id, dc, rack)
	n.Alive = false
	c.SetNode(n)
}

func unready(c *mastertest.Cluster, id, dc, rack string) {
	n := mastertest.Node(id, dc, rack)
	n.Ready = false
	c.SetNode(n)
}

var twoCopies = volume.Spec{Placement: 1} // on two nodes of one rack
