package consensus

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"weedd/cluster"
	"weedd/volume"
)

// Member is one seat in the group.
type Member struct {
	RaftID string
	Addr   string // internal address
	Voter  bool
}

// View is who is there, as gossip tells. Watch gives the nodes and a channel
// that is closed when they may have changed.
type View interface {
	Watch() (nodes []cluster.Node, changed <-chan struct{})
}

// Members lists the group as this node knows it, which may be more than is
// committed. It is empty before genesis.
func (g *Group) Members() []Member {
	var members []Member
	future := g.raft.GetConfiguration()
	if future.Error() != nil {
		return nil
	}
	for _, s := range future.Configuration().Servers {
		members = append(members, Member{string(s.ID), string(s.Address), s.Suffrage == raft.Voter})
	}
	slices.SortFunc(members, func(a, b Member) int { return cmp.Compare(a.RaftID, b.RaftID) })
	return members
}

func (g *Group) member(raftID string) (Member, bool) {
	members := g.Members()
	i := slices.IndexFunc(members, func(m Member) bool { return m.RaftID == raftID })
	if i < 0 {
		return Member{}, false
	}
	return members[i], true
}

// successors lists the other voters, the one that should lead next first: those
// heard from lately, by how much of the log they have.
func (g *Group) successors() []Member {
	members := slices.DeleteFunc(g.Members(), func(m Member) bool { return !m.Voter || m.RaftID == g.raftID })
	recent := time.Now().Add(-2 * g.opt.Heartbeat)
	slices.SortStableFunc(members, func(a, b Member) int {
		pa, pb := g.transport.progress.of(a.RaftID), g.transport.progress.of(b.RaftID)
		if ra, rb := pa.contact.After(recent), pb.contact.After(recent); ra != rb {
			if ra {
				return -1
			}
			return 1
		}
		return cmp.Compare(pb.match, pa.match)
	})
	return members
}

// Admit makes m a voter: first as a member without a vote, so that a member
// that cannot keep up costs no majority, and with a vote once it has everything
// that was in the log when it came. A member whose address changed is entered
// under the new one. It returns when all that is committed; when it fails half
// way, trying again goes on from there. Only the leader can do it.
func (g *Group) Admit(ctx context.Context, m Member) error {
	have, ok := g.member(m.RaftID)
	if ok && have.Voter && have.Addr == m.Addr {
		return nil
	}
	g.transport.progress.forget(m.RaftID) // what it acknowledged in another term may be gone
	if !ok || have.Addr != m.Addr {
		// For a voter this changes the address and leaves it the vote.
		index, err := g.change(ctx, func() raft.IndexFuture {
			return g.raft.AddNonvoter(raft.ServerID(m.RaftID), raft.ServerAddress(m.Addr), 0, queueTimeout)
		})
		if err != nil {
			return fmt.Errorf("admit %s at %s: %w", m.RaftID, m.Addr, err)
		}
		if ok && have.Voter {
			return nil
		}
		return g.promote(ctx, m, index)
	}
	return g.promote(ctx, m, g.raft.LastIndex())
}

func (g *Group) promote(ctx context.Context, m Member, index uint64) error {
	if err := g.caughtUp(ctx, m.RaftID, index); err != nil {
		return fmt.Errorf("wait for %s at %s to catch up: %w", m.RaftID, m.Addr, err)
	}
	_, err := g.change(ctx, func() raft.IndexFuture {
		return g.raft.AddVoter(raft.ServerID(m.RaftID), raft.ServerAddress(m.Addr), 0, queueTimeout)
	})
	if err != nil {
		return fmt.Errorf("give %s at %s a vote: %w", m.RaftID, m.Addr, err)
	}
	return nil
}

// caughtUp waits until the member has acknowledged the entry at index.
func (g *Group) caughtUp(ctx context.Context, raftID string, index uint64) error {
	for {
		changed, leadership := g.transport.progress.changed.Wait(), g.changed.Wait()
		if g.transport.progress.of(raftID).match >= index {
			return nil
		}
		if !g.Leading() {
			return g.notLeader()
		}
		select {
		case <-changed:
		case <-leadership:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", volume.ErrUnavailable, ctx.Err())
		}
	}
}

// Remove takes a member out of the group. Removing who is not in it is no
// error. A master that goes on running with the master role is admitted again;
// stop it first. Only the leader can do it.
func (g *Group) Remove(ctx context.Context, raftID string) error {
	if _, ok := g.member(raftID); !ok && g.Leading() {
		return nil
	}
	_, err := g.change(ctx, func() raft.IndexFuture {
		return g.raft.RemoveServer(raft.ServerID(raftID), 0, queueTimeout)
	})
	if err != nil {
		return fmt.Errorf("remove %s: %w", raftID, err)
	}
	g.transport.progress.forget(raftID)
	return nil
}

// change has a change of membership committed, and gives its index.
func (g *Group) change(ctx context.Context, start func() raft.IndexFuture) (uint64, error) {
	if g.raft.State() != raft.Leader {
		return 0, g.notLeader()
	}
	future, err := await(g, ctx, start)
	if err != nil {
		return 0, g.proposeError(err)
	}
	return future.Index(), nil
}

// StepKind is what an admission step does.
type StepKind int

// The kinds of steps. A refusal is only said, never done.
const (
	StepAdmit StepKind = iota + 1
	StepRemove
	StepRefuse
)

// Step is one thing to do about a master that gossip shows.
type Step struct {
	Kind   StepKind
	Member Member
	Node   cluster.NodeID
	Reason string
}

// Admissions says what the leader of clusterID should do about the masters that
// gossip shows, in order. was tells under which raft id each node was a member
// so far, as far as known. Masters that are away are left alone: the group
// shrinks only on request. A master whose raft directory was lost comes back
// under a new raft id, and takes the place of its old one.
func Admissions(clusterID string, self string, members []Member, nodes []cluster.Node, was map[cluster.NodeID]string) []Step {
	var steps []Step
	alive := make(map[string]bool) // raft ids
	for _, n := range nodes {
		alive[n.RaftID] = alive[n.RaftID] || n.Alive
	}
	for _, n := range nodes {
		if n.Roles&cluster.RoleMaster == 0 || !n.Alive || n.RaftID == "" || n.Internal == "" {
			continue
		}
		want := Member{RaftID: n.RaftID, Addr: n.Internal, Voter: true}
		if n.ClusterID != "" && n.ClusterID != clusterID {
			steps = append(steps, Step{StepRefuse, want, n.ID, "it belongs to cluster " + n.ClusterID + ", this is " + clusterID})
			continue
		}
		if slices.Contains(members, want) {
			continue
		}
		blocked := false
		for _, m := range members {
			if m.RaftID == n.RaftID || m.Addr != n.Internal && m.RaftID != was[n.ID] {
				continue
			}
			if alive[m.RaftID] || m.RaftID == self {
				blocked = true // two nodes swap addresses; the other one goes first
				continue
			}
			steps = append(steps, Step{StepRemove, m, n.ID, "its node has a new raft directory"})
		}
		if !blocked {
			steps = append(steps, Step{StepAdmit, want, n.ID, "a master of this cluster"})
		}
	}
	return steps
}

// admitTimeout bounds the admission of one master, so that one that does not
// catch up holds up the others no longer than this.
const admitTimeout = 10 * time.Second

// AdmitLoop admits the masters that view shows, and replaces those that come
// back with a new raft directory, until ctx ends. To be called by the leader, in
// the context of its term; clusterID must be known then.
func (g *Group) AdmitLoop(ctx context.Context, clusterID string, view View) {
	was := make(map[cluster.NodeID]string)
	said := make(map[cluster.NodeID]string)
	say := func(msg string, s Step, err error) {
		text := fmt.Sprint(msg, s.Member, s.Reason, err)
		if said[s.Node] != text {
			said[s.Node] = text
			g.log.Warn(msg, "node", s.Node, "peer", s.Member.Addr, "reason", s.Reason, "err", err)
		}
	}
	retry := time.NewTicker(time.Second)
	defer retry.Stop()
	for {
		nodes, changed := view.Watch()
		members := g.Members()
		for _, s := range Admissions(clusterID, g.raftID, members, nodes, was) {
			if s.Kind == StepRefuse {
				say("a master of another cluster is not admitted", s, nil)
				continue
			}
			if err := g.admissionStep(ctx, s); err != nil {
				if ctx.Err() != nil {
					return
				}
				say("a master could not be admitted yet", s, err)
			}
		}
		noteMembers(was, g.Members(), nodes)
		select {
		case <-changed:
		case <-retry.C:
		case <-ctx.Done():
			return
		}
	}
}

// noteMembers remembers which node each member is.
func noteMembers(was map[cluster.NodeID]string, members []Member, nodes []cluster.Node) {
	for _, n := range nodes {
		if slices.ContainsFunc(members, func(m Member) bool { return m.RaftID == n.RaftID }) {
			was[n.ID] = n.RaftID
		}
	}
}

func (g *Group) admissionStep(ctx context.Context, s Step) error {
	ctx, cancel := context.WithTimeout(ctx, admitTimeout)
	defer cancel()
	if s.Kind == StepRemove {
		if err := g.Remove(ctx, s.Member.RaftID); err != nil {
			return err
		}
		g.log.Info("master removed", "node", s.Node, "peer", s.Member.Addr, "reason", s.Reason)
		return nil
	}
	if err := g.Admit(ctx, s.Member); err != nil {
		return err
	}
	g.log.Info("master admitted", "node", s.Node, "peer", s.Member.Addr)
	return nil
}
