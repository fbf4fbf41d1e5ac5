package master_test

import (
	"context"
	"testing"
	"time"

	"weedd/cluster/master"
	"weedd/cluster/master/mastertest"
	"weedd/volume"
)

// Ids with 1000 open volumes on ten nodes.
func BenchmarkAssign(b *testing.B) {
	var nodes []volume.NodeID
	c := mastertest.New()
	for _, id := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"} {
		nodes = append(nodes, volume.NodeID(id))
		c.SetNode(mastertest.Node(id, "dc1", "r1"))
	}
	for i := range 1000 {
		c.Make(twoCopies, nodes[i%10], nodes[(i+1)%10])
	}
	m := open(b, c, time.Minute)
	assign(b, m, master.Request{Spec: twoCopies})
	for name, req := range map[string]master.Request{
		"any":  {Spec: twoCopies},
		"rack": {Spec: twoCopies, DataCenter: "dc1", Rack: "r1"},
		"node": {Spec: twoCopies, Node: "c"},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := m.Assign(context.Background(), req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
