package gossip

import (
	"encoding/binary"
	"fmt"
	"net"
	"strings"

	"weedd/cluster"
	"weedd/volume"
)

// metaVersion is the first byte of the metadata. Others are refused. What a later
// build adds behind the fields that are known here is passed over.
const metaVersion = 1

// maxMeta is memberlist's limit, which it enforces by a panic.
const maxMeta = 512

// longestID bounds the ids that a node learns after it was opened.
const longestID = 40

// encodeMeta gives what a node announces, apart from its name and gossip
// address, which memberlist carries by itself:
//
//	version, flags (1: ready), roles, protocol version     1 byte each
//	start of the process (ms since 1970), expect           uvarints
//	internal, master HTTP, volume HTTP, public URL         texts
//	cluster id, raft id, data centre, rack                 texts
//
// A text has its length before it, as a uvarint. Addresses on the host of the
// gossip address leave the host out; a public URL that is the volume HTTP address
// is "=".
func encodeMeta(n cluster.Node, started int64) ([]byte, error) {
	ready := byte(0)
	if n.Ready {
		ready = 1
	}
	b := []byte{metaVersion, ready, byte(n.Roles), n.Version}
	b = binary.AppendUvarint(b, uint64(started))
	b = binary.AppendUvarint(b, uint64(n.Expect))
	public := n.PublicURL
	if public == n.VolumeHTTP && public != "" {
		public = "="
	}
	host, _, _ := net.SplitHostPort(n.Gossip)
	for _, addr := range []string{n.Internal, n.MasterHTTP, n.VolumeHTTP, public} {
		if h, port, err := net.SplitHostPort(addr); err == nil && h == host {
			addr = ":" + port
		}
		b = appendText(b, addr)
	}
	for _, s := range []string{n.ClusterID, n.RaftID, n.DataCenter, n.Rack} {
		b = appendText(b, s)
	}
	if len(b) > maxMeta {
		return nil, fmt.Errorf("%w: what this node announces takes %d bytes, and %d fit; shorten data_center (%d), rack (%d) or public_url (%d)",
			volume.ErrTooLarge, len(b), maxMeta, len(n.DataCenter), len(n.Rack), len(n.PublicURL))
	}
	return b, nil
}

// atLargest is n with the longest ids that it may come to have.
func atLargest(n cluster.Node) cluster.Node {
	long := strings.Repeat("x", longestID)
	if len(n.ClusterID) < longestID {
		n.ClusterID = long
	}
	if len(n.RaftID) < longestID && n.Roles&cluster.RoleMaster != 0 {
		n.RaftID = long
	}
	return n
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// reader takes fields off b until one is not there.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) number() uint64 {
	n, k := binary.Uvarint(r.b)
	if k <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[k:]
	return n
}

func (r *reader) text() string {
	n := r.number()
	if r.bad || n > uint64(len(r.b)) {
		r.bad = true
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

// decodeMeta reads what encodeMeta wrote for the node with this id and gossip
// address.
func decodeMeta(id cluster.NodeID, gossipAddr string, b []byte) (n cluster.Node, started int64, err error) {
	if len(b) < 4 || b[0] != metaVersion {
		return n, 0, fmt.Errorf("%w: metadata of node %q: %d bytes that this build does not understand", volume.ErrBadRequest, id, len(b))
	}
	n = cluster.Node{ID: id, Gossip: gossipAddr, Ready: b[1]&1 != 0, Roles: cluster.Role(b[2]), Version: b[3]}
	r := reader{b: b[4:]}
	started = int64(r.number())
	n.Expect = int(r.number() & 0xffff)
	host, _, _ := net.SplitHostPort(gossipAddr)
	for _, addr := range []*string{&n.Internal, &n.MasterHTTP, &n.VolumeHTTP, &n.PublicURL} {
		*addr = r.text()
		if port, short := strings.CutPrefix(*addr, ":"); short {
			*addr = net.JoinHostPort(host, port)
		}
	}
	if n.PublicURL == "=" {
		n.PublicURL = n.VolumeHTTP
	}
	for _, s := range []*string{&n.ClusterID, &n.RaftID, &n.DataCenter, &n.Rack} {
		*s = r.text()
	}
	if r.bad {
		return cluster.Node{}, 0, fmt.Errorf("%w: metadata of node %q ends in the middle", volume.ErrBadRequest, id)
	}
	return n, started, nil
}
