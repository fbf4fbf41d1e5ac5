// Package cluster holds the words of membership: what a node is, which roles it
// has, and who leads. Like package volume, whose words it uses, it does no I/O
// and imports nothing else.
package cluster

import (
	"fmt"
	"strings"

	"weedd/volume"
)

// NodeID names a daemon.
type NodeID = volume.NodeID

// Role is what a daemon does; a set of bits.
type Role uint8

// The two roles.
const (
	RoleMaster Role = 1 << iota
	RoleVolume
)

func (r Role) String() string {
	var s []string
	if r&RoleMaster != 0 {
		s = append(s, "master")
	}
	if r&RoleVolume != 0 {
		s = append(s, "volume")
	}
	return strings.Join(s, "+")
}

// ProtocolVersion is the version of the internal protocols and of the catalog's
// commands that this build speaks. A new kind of command is proposed only when
// every member announces a version that knows it.
const ProtocolVersion = 1

// Node is what a daemon announces of itself by gossip. It is a hint: it steers
// choices and finds addresses, and decides nothing.
type Node struct {
	ID         NodeID
	Roles      Role
	Version    uint8  // ProtocolVersion of its build
	Ready      bool   // it serves; false while it starts and stops
	ClusterID  string // of the data directory; "" before genesis
	RaftID     string // raft server id, "" without the master role or before it has one
	Expect     int    // masters that genesis waits for
	Gossip     string // host:port of each of its ports
	Internal   string
	MasterHTTP string
	VolumeHTTP string
	PublicURL  string // host:port of volume HTTP to give to clients
	DataCenter string
	Rack       string
	Alive      bool // filled in by the receiver: no suspicion against it
}

// Volume gives the words that clients need of a node with the volume role.
func (n Node) Volume() volume.Node {
	return volume.Node{ID: n.ID, URL: n.VolumeHTTP, PublicURL: n.PublicURL, Internal: n.Internal, DataCenter: n.DataCenter, Rack: n.Rack}
}

// NotLeaderError says that what was asked for needs the leader. It is
// volume.ErrNotLeader.
type NotLeaderError struct {
	Leader   NodeID // "" while there is none
	Internal string // the leader's internal address, "" when unknown
}

func (e *NotLeaderError) Error() string {
	if e.Leader == "" {
		return "no master leads at the moment"
	}
	return fmt.Sprintf("node %s leads, not this one", e.Leader)
}

// Is makes a NotLeaderError a volume.ErrNotLeader.
func (e *NotLeaderError) Is(target error) bool { return target == volume.ErrNotLeader }
