package gossip

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/hashicorp/memberlist"

	"weedd/cluster"
)

// delegate is the Mesh as memberlist calls it, mostly with its own lock held:
// nothing here may call memberlist.
type delegate struct{ m *Mesh }

// NodeMeta implements memberlist.Delegate.
func (d delegate) NodeMeta(int) []byte {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	return d.m.meta
}

// NotifyMsg implements memberlist.Delegate.
func (delegate) NotifyMsg([]byte) {}

// GetBroadcasts implements memberlist.Delegate.
func (delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState implements memberlist.Delegate.
func (delegate) LocalState(bool) []byte { return nil }

// MergeRemoteState implements memberlist.Delegate.
func (delegate) MergeRemoteState([]byte, bool) {}

// NotifyJoin implements memberlist.EventDelegate.
func (d delegate) NotifyJoin(n *memberlist.Node) { d.see(n, true) }

// NotifyUpdate implements memberlist.EventDelegate.
func (d delegate) NotifyUpdate(n *memberlist.Node) { d.see(n, true) }

// NotifyLeave implements memberlist.EventDelegate.
func (d delegate) NotifyLeave(n *memberlist.Node) { d.see(n, false) }

func (d delegate) see(n *memberlist.Node, alive bool) {
	m := d.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if n.Name == string(m.self.ID) {
		return // SetSelf knows better
	}
	node, _, err := decodeMeta(cluster.NodeID(n.Name), n.Address(), n.Meta)
	if err != nil {
		m.opts.Log.Warn("a member of gossip is passed over", "peer", n.Address(), "err", err)
		return
	}
	node.Alive = alive
	m.setLocked(node)
}

// twin is another process with this node's id.
type twin struct {
	addr    string
	started int64 // by its own clock, ms since 1970
	unclear bool  // it has no readable metadata
}

// settling is how long a process counts as new. Clocks of hosts differ; so it is
// the new process that gives way. Clocks decide where both are new, and where
// two old ones met late, after they have disagreed for as long again.
const settling = 10 * time.Second

// dispute is how long a twin has been seen, by settle alone.
type dispute struct {
	addr        string
	first, last time.Time
}

// NotifyConflict implements memberlist.ConflictDelegate.
func (d delegate) NotifyConflict(existing, other *memberlist.Node) {
	if existing.Name != string(d.m.opts.Self.ID) {
		return // theirs to settle
	}
	t := twin{addr: other.Address()}
	var err error
	_, t.started, err = decodeMeta(cluster.NodeID(other.Name), t.addr, other.Meta)
	t.unclear = err != nil
	select {
	case d.m.twin <- t:
	default: // one is being looked at, and this one will be seen again
	}
}

func (m *Mesh) watchTwins(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case t := <-m.twin:
			if err := m.settle(t); err != nil {
				select {
				case m.fatal <- err:
				default:
				}
			}
		}
	}
}

// settle gives an error when this process must give way to another one with its
// id. A twin that does not answer is this node's own past: it came back at
// another address, and the others have not noticed yet that the old one is dead.
func (m *Mesh) settle(t twin) error {
	if !m.answers(t.addr) {
		m.mu.Lock()
		m.unheard = time.Now().Add(tellFor)
		m.mu.Unlock()
		poke(m.retry)
		return nil
	}
	now := time.Now()
	if m.dispute.addr != t.addr || now.Sub(m.dispute.last) > time.Minute {
		m.dispute = dispute{addr: t.addr, first: now}
	}
	m.dispute.last = now
	if !m.givesWay(t, now) {
		m.opts.Log.Error("another process uses this node's id; it is to give way", "peer", t.addr)
		return nil
	}
	return fmt.Errorf("node id %s is in use by the process at %s: was a data directory copied? "+
		"Stop one of the two, or give this one an empty data directory", m.opts.Self.ID, t.addr)
}

func (m *Mesh) givesWay(t twin, now time.Time) bool {
	self, _ := m.Node(m.opts.Self.ID)
	ahead := time.Duration(m.started()-t.started) * time.Millisecond
	later := ahead > 0 || ahead == 0 && self.Gossip > t.addr
	if now.Sub(m.opened) < settling {
		return later || t.unclear || ahead.Abs() >= settling
	}
	return later && now.Sub(m.dispute.first) >= settling
}

// answers tells whether a process with this node's id is at addr.
func (m *Mesh) answers(addr string) bool {
	udp, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return false
	}
	for range 3 {
		if _, err := m.list.Ping(string(m.opts.Self.ID), udp); err == nil {
			return true
		}
	}
	return false
}
