package daemon

import (
	"testing"

	"weedd/cluster"
	"weedd/volume"
)

func TestTheNearestMasterIsAskedFirst(t *testing.T) {
	t.Parallel()
	node := func(id volume.NodeID, alive bool, roles cluster.Role) cluster.Node {
		return cluster.Node{ID: id, Alive: alive, Roles: roles}
	}
	members := []cluster.Node{
		node("away", false, cluster.RoleMaster), node("far", true, cluster.RoleMaster), node("store", true, cluster.RoleVolume),
		node("self", true, cluster.RoleMaster|cluster.RoleVolume), node("farther", true, cluster.RoleMaster),
	}
	got := ""
	for _, n := range mastersByNearness(members, "self") {
		got += string(n.ID) + " "
	}
	if want := "self far farther away "; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
