package daemon

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"weedd/cluster"
	"weedd/cluster/clusterrpc"
	"weedd/cluster/gossip"
	"weedd/cluster/master"
	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/server"
	"weedd/volume/volumerpc"
)

// peers knows the addresses of volume servers, by gossip.
type peers struct{ mesh *gossip.Mesh }

// Node implements server.Peers.
func (p peers) Node(id volume.NodeID) (volume.Node, bool) {
	n, ok := p.mesh.Node(id)
	return n.Volume(), ok
}

// Alive implements server.Peers.
func (p peers) Alive(id volume.NodeID) bool {
	n, ok := p.mesh.Node(id)
	return ok && n.Alive
}

// clusterClient makes the client that reaches the leader, wherever it is.
func (d *Daemon) clusterClient() *clusterrpc.Client {
	o := clusterrpc.ClientOptions{Conns: conns{d.pool}, Masters: func() []cluster.Node {
		members, _ := d.mesh.Watch()
		return mastersByNearness(members, d.dir.node)
	}}
	if d.master != nil {
		o.Hint = d.master.hint
	}
	return clusterrpc.NewClient(o)
}

// volumes is how the master role writes: in process when the primary is this
// very daemon.
type volumes struct {
	self   volume.NodeID
	local  *server.Server // nil without the volume role
	remote *volumerpc.Client
}

func (d *Daemon) volumes() master.Volumes {
	v := volumes{self: d.dir.node}
	if d.volume != nil {
		v.local, v.remote = d.volume.server, d.volume.remote
	} else {
		v.remote = volumerpc.NewClient(conns{d.pool}, 0)
	}
	return v
}

// Put implements master.Volumes.
func (v volumes) Put(ctx context.Context, node volume.Node, id volume.FileID, n *needle.Needle, createOnly bool) (volume.PutResult, error) {
	if node.ID != v.self {
		return v.remote.Put(ctx, node, id, n, createOnly, 0)
	}
	if v.local == nil {
		return volume.PutResult{}, fmt.Errorf("%w: node %s has no volume role any more", volume.ErrNoVolume, node.ID)
	}
	return v.local.PutHere(ctx, id, n, createOnly, 0)
}

// Delete implements master.Volumes.
func (v volumes) Delete(ctx context.Context, node volume.Node, id volume.FileID) (int64, error) {
	if node.ID != v.self {
		return v.remote.Delete(ctx, node, id, 0)
	}
	if v.local == nil {
		return 0, fmt.Errorf("%w: node %s has no volume role any more", volume.ErrNoVolume, node.ID)
	}
	return v.local.DeleteHere(ctx, id, 0)
}

// mastersByNearness lists the masters in the order in which they are asked: the one
// of this process first, those that are out of sight last. One that does not answer
// costs the time it may take.
func mastersByNearness(members []cluster.Node, self volume.NodeID) (masters []cluster.Node) {
	for _, n := range members {
		if n.Roles&cluster.RoleMaster != 0 {
			masters = append(masters, n)
		}
	}
	rank := func(n cluster.Node) int {
		switch {
		case n.ID == self:
			return 0
		case n.Alive:
			return 1
		}
		return 2
	}
	slices.SortStableFunc(masters, func(a, b cluster.Node) int { return cmp.Compare(rank(a), rank(b)) })
	return masters
}
