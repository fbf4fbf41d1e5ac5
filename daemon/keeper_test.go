package daemon

import (
	"fmt"
	"testing"

	"weedd/cluster"
	"weedd/volume"
)

// Keys are spread over the masters alive, whatever order they are seen in, and only
// those of one that goes move.
func TestKeepersOfKeys(t *testing.T) {
	t.Parallel()
	var nodes []cluster.Node
	for _, id := range []volume.NodeID{"a", "b", "c"} {
		nodes = append(nodes, cluster.Node{ID: id, Roles: cluster.RoleMaster, Alive: true})
	}
	nodes = append(nodes, cluster.Node{ID: "d", Roles: cluster.RoleVolume, Alive: true}, cluster.Node{ID: "e", Roles: cluster.RoleMaster})
	count := map[volume.NodeID]int{}
	for i := range 300 {
		key := fmt.Sprint(i)
		at := keeperOf(key, nodes).ID
		count[at]++
		if other := keeperOf(key, []cluster.Node{nodes[2], nodes[4], nodes[0], nodes[1]}).ID; other != at {
			t.Errorf("key %s: %s, and %s in another order", key, at, other)
		}
		if without := keeperOf(key, nodes[:2]).ID; at != "c" && without != at {
			t.Errorf("key %s moves from %s to %s", key, at, without)
		}
	}
	if len(count) != 3 || count["a"] < 60 || count["b"] < 60 || count["c"] < 60 {
		t.Errorf("keys of each: %v", count)
	}
	if at := keeperOf("k", nil); at.ID != "" {
		t.Errorf("without masters: %s", at.ID)
	}
}
