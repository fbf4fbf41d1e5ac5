// Package internalnet is the one internal port of a daemon: TLS always, checked
// both ways, with raft and gRPC told apart by ALPN; and the trust behind it,
// which comes from one secret or from the operator's own certificates.
//
// It knows nothing of what is said on the connections. Everything in it may be
// called from any goroutine.
package internalnet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"weedd/volume"
)

// A handshake takes two round trips and a few signatures. Who needs longer than
// the timeout is broken or hostile. The limits keep a flood of half-open
// connections from one host from shutting others out.
const (
	handshakeTimeout  = 5 * time.Second
	maxHandshakes     = 512
	maxHandshakesHost = 64
	maxConns          = 4096 // established, for each protocol
)

// lostAfter is how long the other host may acknowledge nothing before the kernel
// gives a connection up. Its own patience is a quarter of an hour, and it tries
// again ever more rarely: a connection that was cut off for a minute would lie
// idle for up to another one after the network is back. Given up, it is dialed
// anew at once. A host that vanished is noticed after as long where nobody
// writes: keepAlive sees to it that there is something to acknowledge.
const lostAfter = 3 * time.Second

var keepAlive = net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 3}

// boundLoss sets lostAfter on a socket that is about to be used.
func boundLoss(_, _ string, socket syscall.RawConn) error {
	var err error
	if cerr := socket.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(lostAfter.Milliseconds()))
	}); cerr != nil {
		return cerr
	}
	return os.NewSyscallError("setsockopt", err)
}

// Conn is a connection that came in at a Port: authenticated, with the peer's
// node id, "" when its certificate names none.
type Conn struct {
	*tls.Conn
	node    volume.NodeID
	release func()
}

// PeerNode is the node at the other side, as its certificate says.
func (c *Conn) PeerNode() volume.NodeID { return c.node }

// Close closes the connection. Twice is fine.
func (c *Conn) Close() error {
	c.release()
	return c.Conn.Close()
}

// Port accepts connections and hands them out by protocol.
type Port struct {
	trust    *Trust
	log      *slog.Logger
	listener net.Listener
	raft     *protoListener
	grpc     *protoListener
	http     *protoListener
	ctx      context.Context
	stop     context.CancelFunc
	wg       sync.WaitGroup // the accept loop and the handshakes

	mu      sync.Mutex
	pending map[string]int // handshakes by host
	total   int
}

// Listen opens the internal port at addr, host:port with port 0 for any. Nothing
// is handed out before somebody accepts from Raft, GRPC or HTTP.
func Listen(addr string, trust *Trust, log *slog.Logger) (*Port, error) {
	listener, err := (&net.ListenConfig{KeepAliveConfig: keepAlive, Control: boundLoss}).Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("open internal port: %w", err)
	}
	p := &Port{trust: trust, log: log, listener: listener, pending: make(map[string]int)}
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.raft = newProtoListener(listener.Addr())
	p.grpc = newProtoListener(listener.Addr())
	p.http = newProtoListener(listener.Addr())
	p.wg.Go(p.accept)
	return p, nil
}

// Addr is the address listened at.
func (p *Port) Addr() net.Addr { return p.listener.Addr() }

// Raft hands out the connections that speak ProtoRaft. Closing it refuses
// further ones and leaves the port alone.
func (p *Port) Raft() net.Listener { return p.raft }

// GRPC hands out the connections that speak ProtoGRPC, as *Conn.
func (p *Port) GRPC() net.Listener { return p.grpc }

// HTTP hands out the connections that speak ProtoHTTP: the public API of the volume
// role as other nodes use it.
func (p *Port) HTTP() net.Listener { return p.http }

// Close stops listening and ends the handshakes under way. Connections handed
// out belong to those who accepted them. Twice is fine.
func (p *Port) Close() error {
	p.stop()
	err := p.listener.Close()
	p.raft.Close()
	p.grpc.Close()
	p.http.Close()
	p.wg.Wait()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close internal port: %w", err)
	}
	return nil
}

func (p *Port) accept() {
	tlsConfig := p.trust.serverConfig()
	for {
		raw, err := p.listener.Accept()
		if p.ctx.Err() != nil {
			if err == nil {
				raw.Close()
			}
			return
		}
		if err != nil { // out of file descriptors, most likely: breathe, go on
			p.log.Warn("internal port cannot accept", "err", err)
			select {
			case <-time.After(50 * time.Millisecond):
			case <-p.ctx.Done():
			}
			continue
		}
		host, _, _ := net.SplitHostPort(raw.RemoteAddr().String())
		if !p.admit(host) {
			raw.Close()
			continue
		}
		p.wg.Go(func() {
			defer p.leave(host)
			p.handshake(tls.Server(raw, tlsConfig))
		})
	}
}

func (p *Port) admit(host string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.total >= maxHandshakes || p.pending[host] >= maxHandshakesHost {
		p.log.Debug("internal port: too many handshakes at a time", "peer", host)
		return false
	}
	p.total++
	p.pending[host]++
	return true
}

func (p *Port) leave(host string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total--
	if p.pending[host]--; p.pending[host] == 0 {
		delete(p.pending, host)
	}
}

// handshake finds out who is there and what it speaks, and hands it over. The
// deadline covers the handing over, too: where nobody accepts, nothing piles up.
func (p *Port) handshake(conn *tls.Conn) {
	ctx, cancel := context.WithTimeout(p.ctx, handshakeTimeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		conn.Close()
		if p.ctx.Err() == nil {
			p.log.Debug("internal port: handshake failed", "peer", conn.RemoteAddr().String(), "err", err)
		}
		return
	}
	cs := conn.ConnectionState()
	var to *protoListener
	switch Proto(cs.NegotiatedProtocol) {
	case ProtoRaft:
		to = p.raft
	case ProtoGRPC:
		to = p.grpc
	case ProtoHTTP:
		to = p.http
	default: // it sent no ALPN at all; a wrong one fails the handshake
		conn.Close()
		return
	}
	node := certNode(cs)
	if !p.trust.named && !looksLikeNode(node) {
		node = ""
	}
	if err := to.deliver(ctx, conn, node); err != nil && p.ctx.Err() == nil && !errors.Is(err, net.ErrClosed) { // that one stops, and says so itself
		p.log.Warn("internal port: connection refused", "proto", cs.NegotiatedProtocol, "peer", conn.RemoteAddr().String(), "err", err)
	}
}

// looksLikeNode keeps an operator's "host1.example" from being taken for a node
// id.
func looksLikeNode(id volume.NodeID) bool {
	for _, r := range id {
		if !(r >= '0' && r <= '9' || r >= 'a' && r <= 'f') {
			return false
		}
	}
	return len(id) == len(volume.NewNodeID())
}

// protoListener is a net.Listener fed by hand.
type protoListener struct {
	addr   net.Addr
	conns  chan *Conn
	slots  chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newProtoListener(addr net.Addr) *protoListener {
	return &protoListener{addr: addr, conns: make(chan *Conn), slots: make(chan struct{}, maxConns), closed: make(chan struct{})}
}

var errTooMany = errors.New("too many connections")

// deliver hands conn to the next Accept or closes it.
func (l *protoListener) deliver(ctx context.Context, conn *tls.Conn, node volume.NodeID) error {
	select {
	case l.slots <- struct{}{}:
	default:
		conn.Close()
		return errTooMany
	}
	var once sync.Once
	c := &Conn{Conn: conn, node: node, release: func() { once.Do(func() { <-l.slots }) }}
	select {
	case l.conns <- c:
		return nil
	case <-l.closed:
		c.Close()
		return net.ErrClosed
	case <-ctx.Done():
		c.Close()
		return ctx.Err()
	}
}

func (l *protoListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *protoListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *protoListener) Addr() net.Addr { return l.addr }
