package consensus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"weedd/cluster"
)

// transport is raft's, with five things added. The target's raft id goes along
// with its address down to the stream layer, which has it checked at the other
// side (see preamble). What each member has acknowledged is noted, for raft
// keeps that to itself. A node that is to be quiet does not campaign. A leader that
// cannot commit falls silent (see fallSilent). And a member that was away gets
// entries as soon as it is back (see awaitHeard).
type transport struct {
	*raft.NetworkTransport
	group      *Group
	stream     *stream
	progress   progress
	quietUntil time.Time
	silent     atomic.Bool // no heartbeats, nor entries
}

// rpcTimeout bounds each call to another member. A follower syncs its disk
// before it answers.
const rpcTimeout = 5 * time.Second

func newTransport(g *Group, logger hclog.Logger) *transport {
	s := &stream{
		Listener: g.opt.Listener, addr: advertised(g.opt.Advertise), dial: g.opt.Dial, resolve: g.opt.Resolve,
		raftID: g.raftID, clusterID: g.opt.ClusterID, ctx: g.ctx, logs: g.logs, conns: make(map[net.Conn]struct{}),
	}
	t := &transport{group: g, stream: s, quietUntil: time.Now().Add(g.opt.Quiet)}
	t.progress.members = make(map[string]memberProgress)
	t.NetworkTransport = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Logger: logger, Stream: s, MaxPool: 3, Timeout: rpcTimeout,
		MaxRPCsInFlight:         1, // no pipeline: all acknowledgements pass through AppendEntries
		MsgpackUseNewTimeFormat: true,
	})
	return t
}

// shut ends all connections and the accept loop; calls under way fail.
func (t *transport) shut() error {
	err := t.NetworkTransport.Close()
	t.NetworkTransport.CloseStreams()
	t.stream.closeConns()
	return err
}

// heard notes how a call went, and gives its error back.
func (t *transport) heard(id raft.ServerID, addr raft.ServerAddress, err error) error {
	t.stream.logs.heard(string(id), string(addr), err)
	return err
}

func target(id raft.ServerID, addr raft.ServerAddress) raft.ServerAddress {
	return raft.ServerAddress(id) + "@" + addr
}

func (t *transport) AppendEntries(id raft.ServerID, addr raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if t.silent.Load() {
		return errSilent
	}
	began := time.Now()
	err := t.heard(id, addr, t.NetworkTransport.AppendEntries(id, target(id, addr), args, resp))
	// A heartbeat succeeds on any log; it has neither entries nor predecessor.
	last := args.PrevLogEntry + uint64(len(args.Entries))
	if err == nil {
		t.progress.note(string(id), last, resp.Success)
	} else if last > 0 {
		t.awaitHeard(string(id), began)
	}
	return err
}

var errSilent = errors.New("this node cannot commit, and lets another lead")

// awaitHeard waits until a member has answered a call since then, a heartbeat
// that is, or this node leads no more. Raft pauses after each failure in a row to
// send entries, for up to 10 s: a member that comes back after half a minute
// would have a leader at once, and for so long decisions from before. Held until
// they can succeed, failures come one at a time.
func (t *transport) awaitHeard(id string, since time.Time) {
	term := t.group.currentTerm()
	if term == nil {
		return
	}
	t.progress.await(1)
	defer t.progress.await(-1)
	for {
		changed := t.progress.changed.Wait()
		if t.progress.of(id).heard.After(since) {
			return
		}
		select {
		case <-changed:
		case <-term.ctx.Done():
			return
		}
	}
}

func (t *transport) RequestVote(id raft.ServerID, addr raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return t.heard(id, addr, t.NetworkTransport.RequestVote(id, target(id, addr), args, resp))
}

var errQuiet = errors.New("this node does not stand for election so soon after it was stuck")

func (t *transport) RequestPreVote(id raft.ServerID, addr raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if time.Now().Before(t.quietUntil) {
		return errQuiet
	}
	return t.heard(id, addr, t.NetworkTransport.RequestPreVote(id, target(id, addr), args, resp))
}

func (t *transport) InstallSnapshot(id raft.ServerID, addr raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	return t.heard(id, addr, t.NetworkTransport.InstallSnapshot(id, target(id, addr), args, resp, data))
}

func (t *transport) TimeoutNow(id raft.ServerID, addr raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return t.NetworkTransport.TimeoutNow(id, target(id, addr), args, resp)
}

// progress is what other members have acknowledged to this node as leader.
type progress struct {
	mu      sync.Mutex
	members map[string]memberProgress // by raft id
	waiting int                       // calls that wait for members to be heard
	changed cluster.Signal
}

// await counts the calls that wait for members to be heard.
func (p *progress) await(more int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting += more
}

type memberProgress struct {
	match   uint64 // index of the last entry known to be on its disk
	contact time.Time
	heard   time.Time // it answered, be it with a refusal
}

// note takes an answer: that the member has entries up to match, or, not ok,
// that it refused them.
func (p *progress) note(raftID string, match uint64, ok bool) {
	p.mu.Lock()
	m, now := p.members[raftID], time.Now()
	news := p.waiting > 0
	if m.heard = now; ok {
		news = news || match > m.match
		m.match, m.contact = max(m.match, match), now
	}
	p.members[raftID] = m
	p.mu.Unlock()
	if news {
		p.changed.Raise()
	}
}

func (p *progress) forget(raftID string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.members, raftID)
}

func (p *progress) of(raftID string) memberProgress {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.members[raftID]
}

// stream makes and takes connections for raft. It begins each with a preamble:
//
//	"wrf1"                 4 bytes
//	target raft id         1 byte length, bytes
//	cluster id of dialer   1 byte length, bytes; empty while it has none
//
// Raft itself addresses members by host and port and takes whoever answers for
// the one it means. A master that lost its directory would then vote, and
// acknowledge entries, in the name of the member it was. So the side that
// accepts compares: another raft id, or another cluster, and it hangs up.
type stream struct {
	net.Listener
	addr      advertised
	dial      func(ctx context.Context, addr string) (net.Conn, error)
	resolve   func(raftID string) (string, bool)
	raftID    string
	clusterID func() string
	ctx       context.Context
	logs      *logSink

	mu     sync.Mutex
	conns  map[net.Conn]struct{} // all that are open
	closed bool
}

const preambleMagic = "wrf1"

// advertised is the address of this node as others should use it.
type advertised string

func (advertised) Network() string  { return "tcp" }
func (a advertised) String() string { return string(a) }

func (s *stream) Addr() net.Addr { return s.addr }

// Dial connects to "raftid@host:port".
func (s *stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	id, addr, _ := strings.Cut(string(address), "@")
	if now, ok := s.resolve(id); ok {
		addr = now
	}
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	conn, err := s.dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	conn.SetWriteDeadline(time.Now().Add(timeout))
	if _, err := conn.Write(preamble(id, s.clusterID())); err != nil {
		conn.Close()
		return nil, fmt.Errorf("begin raft connection to %s: %w", addr, err)
	}
	conn.SetWriteDeadline(time.Time{})
	return s.track(&outgoing{Conn: conn, stream: s})
}

// Accept gives the next connection at once; its preamble is read with the first
// Read, so that a silent peer holds up nobody.
func (s *stream) Accept() (net.Conn, error) {
	conn, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return s.track(&incoming{outgoing: outgoing{Conn: conn, stream: s}})
}

func (s *stream) track(conn net.Conn) (net.Conn, error) {
	s.mu.Lock()
	closed := s.closed
	if !closed {
		s.conns[conn] = struct{}{}
	}
	s.mu.Unlock()
	if closed {
		conn.Close()
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (s *stream) untrack(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
}

func (s *stream) closeConns() {
	s.mu.Lock()
	s.closed = true
	var conns []net.Conn
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
}

type outgoing struct {
	net.Conn
	stream *stream
}

func (c *outgoing) Close() error {
	c.stream.untrack(c)
	return c.Conn.Close()
}

type incoming struct {
	outgoing
	begun bool // raft reads a connection from one goroutine
}

func (c *incoming) Close() error {
	c.stream.untrack(c)
	return c.Conn.Close()
}

func (c *incoming) Read(b []byte) (int, error) {
	if !c.begun {
		c.SetReadDeadline(time.Now().Add(rpcTimeout))
		if err := c.stream.check(c.Conn); err != nil {
			return 0, err
		}
		c.SetReadDeadline(time.Time{})
		c.begun = true
	}
	return c.Conn.Read(b)
}

// check reads the preamble and refuses what is not for this member.
func (s *stream) check(conn net.Conn) error {
	id, clusterID, err := readPreamble(conn)
	if err != nil {
		return err
	}
	if id != s.raftID {
		s.logs.write(slog.LevelWarn, "a raft connection for another member was refused; this one is new here, or has taken over its address",
			"peer", conn.RemoteAddr().String(), "wanted", id, "self", s.raftID)
		return io.EOF // raft says nothing about that one
	}
	if own := s.clusterID(); own != "" && clusterID != "" && own != clusterID {
		s.logs.write(slog.LevelWarn, "a raft connection from another cluster was refused",
			"peer", conn.RemoteAddr().String(), "cluster", clusterID, "own", own)
		return io.EOF
	}
	return nil
}

func preamble(raftID, clusterID string) []byte {
	b := append([]byte(preambleMagic), byte(len(raftID)))
	b = append(b, raftID...)
	b = append(b, byte(len(clusterID)))
	return append(b, clusterID...)
}

func readPreamble(r io.Reader) (raftID, clusterID string, err error) {
	var magic [len(preambleMagic)]byte
	if _, err := io.ReadFull(r, magic[:]); err != nil {
		return "", "", io.EOF // a connection that was made and not used
	}
	if string(magic[:]) != preambleMagic {
		return "", "", fmt.Errorf("not a raft connection: it begins with %x", magic)
	}
	for _, s := range []*string{&raftID, &clusterID} {
		var n uint8
		if err := binary.Read(r, binary.BigEndian, &n); err != nil {
			return "", "", fmt.Errorf("read preamble: %w", err)
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(r, b); err != nil {
			return "", "", fmt.Errorf("read preamble: %w", err)
		}
		*s = string(b)
	}
	return raftID, clusterID, nil
}
