package gossip

import (
	"encoding/binary"
	"fmt"
	"net"
	"strings"

	"weedd/cluster"
	"weedd/volume"
)

// metaVersion is the first byte of the metadata. Others are refused.
const metaVersion = 1

// maxMeta is memberlist's limit, which it enforces by a panic.
const maxMeta = 512

// encodeMeta gives what a node announces, apart from its name and gossip
// address, which memberlist carries by itself: version, flags, roles, protocol
// version, then numbers as uvarints and texts with their length before them.
// Addresses on the host of the gossip address leave the host out.
func encodeMeta(n cluster.Node, started int64) ([]byte, error) {
	ready := byte(0)
	if n.Ready {
		ready = 1
	}
	b := []byte{metaVersion, ready, byte(n.Roles), n.Version}
	b = binary.AppendUvarint(b, uint64(started))
	b = binary.AppendUvarint(b, uint64(n.Expect))
	host, _, _ := net.SplitHostPort(n.Gossip)
	for _, addr := range []string{n.Internal, n.MasterHTTP, n.VolumeHTTP, n.PublicURL} {
		if h, port, err := net.SplitHostPort(addr); err == nil && h == host {
			addr = ":" + port
		}
		b = appendText(b, addr)
	}
	for _, s := range []string{n.ClusterID, n.RaftID, n.DataCenter, n.Rack} {
		b = appendText(b, s)
	}
	if len(b) > maxMeta {
		return nil, fmt.Errorf("%w: what this node announces takes %d bytes, and %d fit; shorten data_center, rack or public_url", volume.ErrTooLarge, len(b), maxMeta)
	}
	return b, nil
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// decodeMeta reads what encodeMeta wrote for the node with this name and gossip
// address.
func decodeMeta(name, gossipAddr string, b []byte) (n cluster.Node, started int64, err error) {
	bad := fmt.Errorf("%w: metadata of node %q: %d bytes that this build does not understand", volume.ErrBadRequest, name, len(b))
	if len(b) < 4 || b[0] != metaVersion {
		return n, 0, bad
	}
	n = cluster.Node{ID: cluster.NodeID(name), Gossip: gossipAddr, Ready: b[1]&1 != 0, Roles: cluster.Role(b[2]), Version: b[3]}
	b = b[4:]
	ok := true
	number := func() uint64 {
		x, k := binary.Uvarint(b)
		if k <= 0 {
			ok = false
			return 0
		}
		b = b[k:]
		return x
	}
	text := func() string {
		length := number()
		if !ok || length > uint64(len(b)) {
			ok = false
			return ""
		}
		s := string(b[:length])
		b = b[length:]
		return s
	}
	started = int64(number())
	n.Expect = int(number() & 0xffff)
	host, _, _ := net.SplitHostPort(gossipAddr)
	for _, addr := range []*string{&n.Internal, &n.MasterHTTP, &n.VolumeHTTP, &n.PublicURL} {
		*addr = text()
		if port, short := strings.CutPrefix(*addr, ":"); short {
			*addr = net.JoinHostPort(host, port)
		}
	}
	for _, s := range []*string{&n.ClusterID, &n.RaftID, &n.DataCenter, &n.Rack} {
		*s = text()
	}
	if !ok || len(b) > 0 {
		return cluster.Node{}, 0, bad
	}
	return n, started, nil
}
