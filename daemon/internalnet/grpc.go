package internalnet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"

	"weedd/volume"
)

// MaxMessage is the longest gRPC message that either side takes, in bytes.
// Streams of blobs use frames of at most 1 MiB; what is longer is a full report
// of a node with many volumes.
const MaxMessage = 16 << 20

// gRPC allows no client ping more often than every 10 s; the server's policy
// must be looser than that, or it hangs up on its clients.
const (
	pingEvery   = 10 * time.Second
	pingTimeout = 3 * time.Second
	pingAllowed = 5 * time.Second
	window      = 4 << 20 // of flow control: a bulk copy must not wait for round trips
)

// AuthInfo is the credentials.AuthInfo of internal connections.
type AuthInfo struct {
	credentials.CommonAuthInfo
	Node volume.NodeID // as the certificate says; "" when it names none
}

// AuthType is "weedd".
func (AuthInfo) AuthType() string { return "weedd" }

// PeerNode is the node whose call ctx belongs to, as its certificate says; ""
// when it names none.
func PeerNode(ctx context.Context) volume.NodeID {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ""
	}
	info, _ := p.AuthInfo.(AuthInfo)
	return info.Node
}

// creds tells gRPC about connections whose handshake is over when gRPC gets
// them.
type creds struct{}

func (creds) ClientHandshake(_ context.Context, _ string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return authInfo(conn)
}

func (creds) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return authInfo(conn)
}

func authInfo(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	info := AuthInfo{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}
	switch c := conn.(type) {
	case *Conn:
		info.Node = c.PeerNode()
	case *tls.Conn:
		info.Node = certNode(c.ConnectionState())
	default:
		return nil, nil, fmt.Errorf("%w: a %T is not an internal connection", ErrPeer, conn)
	}
	return conn, info, nil
}

func (creds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "weedd"}
}
func (c creds) Clone() credentials.TransportCredentials { return c }
func (creds) OverrideServerName(string) error           { return nil }

// ServerOptions are what a grpc.Server needs that serves Port.GRPC().
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(creds{}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingAllowed, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingEvery, Timeout: pingTimeout}),
		grpc.MaxRecvMsgSize(MaxMessage),
		grpc.MaxSendMsgSize(MaxMessage),
		grpc.InitialWindowSize(window),
		grpc.InitialConnWindowSize(window),
	}
}

// Pool keeps gRPC connections to other daemons. Conn costs nothing when the
// connection is there, and connects in the background when it is not.
type Pool struct {
	trust *Trust

	mu     sync.Mutex
	conns  map[poolKey]pooled
	closed bool
}

type poolKey struct {
	node volume.NodeID
	addr string // "" where the node is known: a node has one address at a time
	use  string
}

type pooled struct {
	addr string
	conn *grpc.ClientConn
}

// NewPool makes a Pool whose connections are made with trust.
func NewPool(trust *Trust) *Pool {
	return &Pool{trust: trust, conns: make(map[poolKey]pooled)}
}

// Conn gives the connection to node at its internal address. No other node is
// accepted there, unless node is "". Connections for different uses are apart,
// so that orders do not wait behind bulk copies. When a node's address has
// changed, its old connection is closed, and calls on it fail. The connection
// belongs to the Pool. After Close, the error is volume.ErrClosed.
func (p *Pool) Conn(addr string, node volume.NodeID, use string) (*grpc.ClientConn, error) {
	key := poolKey{node: node, use: use}
	if node == "" {
		key.addr = addr
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, fmt.Errorf("connect to %s: %w", addr, volume.ErrClosed)
	}
	old, ok := p.conns[key]
	if ok && old.addr == addr {
		return old.conn, nil
	}
	conn, err := grpc.NewClient("passthrough:///"+addr, p.options(node)...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", addr, err)
	}
	if ok {
		old.conn.Close()
	}
	p.conns[key] = pooled{addr, conn}
	return conn, nil
}

func (p *Pool) options(node volume.NodeID) []grpc.DialOption {
	dial := func(ctx context.Context, addr string) (net.Conn, error) {
		return p.trust.Dial(ctx, ProtoGRPC, addr, node)
	}
	return []grpc.DialOption{
		grpc.WithContextDialer(dial),
		grpc.WithTransportCredentials(creds{}),
		grpc.WithNoProxy(), // the dialer would be asked for the proxy's address
		grpc.WithDisableServiceConfig(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: pingTimeout, PermitWithoutStream: true}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithInitialWindowSize(window),
		grpc.WithInitialConnWindowSize(window),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
	}
}

// Close closes all connections; calls under way fail. Twice is fine.
func (p *Pool) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	var err error
	for _, c := range p.conns {
		err = errors.Join(err, c.conn.Close())
	}
	clear(p.conns)
	return err
}
