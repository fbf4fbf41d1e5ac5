package internalnet

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"weedd/volume"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	nodeA volume.NodeID = "00000000000000aa"
	nodeB volume.NodeID = "00000000000000bb"
)

func testTrust(t *testing.T, key Key, node volume.NodeID) *Trust {
	t.Helper()
	trust, err := NewTrust(key, node)
	if err != nil {
		t.Fatal(err)
	}
	return trust
}

func testPort(t *testing.T, trust *Trust) *Port {
	t.Helper()
	p, err := Listen("127.0.0.1:0", trust, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestParseKey(t *testing.T) {
	t.Parallel()
	key := NewKey()
	for name, text := range map[string]string{
		"as written":         key.Text(),
		"hex":                hex.EncodeToString(key.secret),
		"hex over two lines": hex.EncodeToString(key.secret)[:20] + "\n" + hex.EncodeToString(key.secret)[20:] + "\n\n",
	} {
		got, err := ParseKey([]byte(text))
		if err != nil || string(got.secret) != string(key.secret) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, text := range map[string]string{
		"empty":       "# only a comment\n",
		"short":       "c2hvcnQ=",
		"no encoding": "correct horse battery staple!",
		"zeros":       strings.Repeat("00", 32),
	} {
		if _, err := ParseKey([]byte(text)); !errors.Is(err, ErrKey) {
			t.Errorf("%s: got %v, want ErrKey", name, err)
		}
	}
	if strings.Contains(key.String(), string(key.secret)) || len(key.Gossip()) != 32 || InsecureKey().Gossip() != nil {
		t.Error("a key shows itself, or derives the wrong gossip key")
	}
}

func TestLoadKeyRefusesWhatOthersCanRead(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "cluster.key")
	key := NewKey()
	if err := WriteKey(path, key); err != nil {
		t.Fatal(err)
	}
	if err := WriteKey(path, NewKey()); !errors.Is(err, ErrKey) {
		t.Errorf("a second key over the first: %v", err)
	}
	got, err := LoadKey(path)
	if err != nil || string(got.secret) != string(key.secret) {
		t.Fatalf("load: %v", err)
	}
	for mode, ok := range map[os.FileMode]bool{0o640: true, 0o644: false, 0o602: false, 0o660: false} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadKey(path); (err == nil) != ok {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
}

// accepted answers with the peer of the next connection, after echoing a byte.
func accepted(t *testing.T, l net.Listener) <-chan volume.NodeID {
	t.Helper()
	peers := make(chan volume.NodeID, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		peers <- conn.(*Conn).PeerNode()
		io.CopyN(conn, conn, 1)
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return peers
}

func echo(conn net.Conn) error {
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Write([]byte{7}); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	return err
}

func TestProtocolsAreToldApartAndPeersKnown(t *testing.T) {
	t.Parallel()
	key := NewKey()
	p := testPort(t, testTrust(t, key, nodeA))
	client := testTrust(t, key, nodeB)
	for proto, l := range map[Proto]net.Listener{ProtoRaft: p.Raft(), ProtoGRPC: p.GRPC(), ProtoHTTP: p.HTTP()} {
		peers := accepted(t, l)
		conn, err := client.Dial(testContext(t), proto, p.Addr().String(), nodeA)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := echo(conn); err != nil {
			t.Fatal(err)
		}
		if got := <-peers; got != nodeB {
			t.Errorf("%s: peer is %q, want %q", proto, got, nodeB)
		}
	}
}

func TestUnknownProtocolIsRefused(t *testing.T) {
	t.Parallel()
	key := NewKey()
	p := testPort(t, testTrust(t, key, nodeA))
	if _, err := testTrust(t, key, nodeB).Dial(testContext(t), "h2", p.Addr().String(), ""); err == nil {
		t.Error("h2 was accepted")
	}
}

func TestWrongNodeIsRefused(t *testing.T) {
	t.Parallel()
	key := NewKey()
	p := testPort(t, testTrust(t, key, nodeA))
	_, err := testTrust(t, key, nodeB).Dial(testContext(t), ProtoGRPC, p.Addr().String(), "00000000000000cc")
	if !errors.Is(err, ErrPeer) || !strings.Contains(err.Error(), string(nodeA)) {
		t.Errorf("got %v, want ErrPeer that names node %s", err, nodeA)
	}
}

func TestStrangerIsRefusedOnBothSides(t *testing.T) {
	t.Parallel()
	p := testPort(t, testTrust(t, NewKey(), nodeA))
	stranger := testTrust(t, NewKey(), nodeB)
	if _, err := stranger.Dial(testContext(t), ProtoRaft, p.Addr().String(), ""); !errors.Is(err, ErrPeer) {
		t.Errorf("the client believes a stranger: %v", err)
	}
	peers := accepted(t, p.Raft())
	conf := stranger.clientConfig(ProtoRaft, p.Addr().String(), "")
	conf.VerifyConnection = nil // a client that does not care
	conn, err := tls.Dial("tcp", p.Addr().String(), conf)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := echo(conn); err == nil {
		t.Error("the server believes a stranger")
	}
	select {
	case <-peers:
		t.Error("a stranger's connection was handed out")
	default:
	}
}

func TestClientWithoutCertificateIsRefused(t *testing.T) {
	t.Parallel()
	p := testPort(t, testTrust(t, InsecureKey(), nodeA))
	conf := testTrust(t, InsecureKey(), nodeB).clientConfig(ProtoGRPC, p.Addr().String(), "")
	conf.Certificates = nil
	conn, err := tls.Dial("tcp", p.Addr().String(), conf)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := echo(conn); err == nil {
		t.Error("no certificate was needed")
	}
}

func TestSlowHandshakesBlockNobody(t *testing.T) {
	t.Parallel()
	key := NewKey()
	p := testPort(t, testTrust(t, key, nodeA))
	for range 20 { // they say nothing at all
		conn, err := net.Dial("tcp", p.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	accepted(t, p.Raft())
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
	defer cancel()
	conn, err := testTrust(t, key, nodeB).Dial(ctx, ProtoRaft, p.Addr().String(), nodeA)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := echo(conn); err != nil {
		t.Fatal(err)
	}
}

func TestHandshakesOfOneHostAreLimited(t *testing.T) {
	t.Parallel()
	p := &Port{log: slog.New(slog.DiscardHandler), pending: make(map[string]int)}
	for range maxHandshakesHost {
		if !p.admit("a") {
			t.Fatal("refused below the limit")
		}
	}
	if p.admit("a") {
		t.Error("no limit for a host")
	}
	if !p.admit("b") {
		t.Error("one host shuts out another")
	}
	p.leave("a")
	if !p.admit("a") {
		t.Error("the place is not given back")
	}
}

func TestPool(t *testing.T) {
	t.Parallel()
	key := NewKey()
	p := testPort(t, testTrust(t, key, nodeA))
	callers := make(chan volume.NodeID, 10)
	srv := grpc.NewServer(append(ServerOptions(), grpc.UnaryInterceptor(
		func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			callers <- PeerNode(ctx)
			return h(ctx, req)
		}))...)
	healthpb.RegisterHealthServer(srv, health.NewServer())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(p.GRPC()) }()
	t.Cleanup(func() { srv.Stop(); <-served })

	pool := NewPool(testTrust(t, key, nodeB))
	t.Cleanup(func() { pool.Close() })
	conn, err := pool.Conn(p.Addr().String(), nodeA, "orders")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := healthpb.NewHealthClient(conn).Check(testContext(t), &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := <-callers; got != nodeB {
		t.Errorf("the service sees caller %q, want %q", got, nodeB)
	}
	again, _ := pool.Conn(p.Addr().String(), nodeA, "orders")
	bulk, _ := pool.Conn(p.Addr().String(), nodeA, "bulk")
	if again != conn || bulk == conn {
		t.Error("connections are not kept by use")
	}
	wrong, err := pool.Conn(p.Addr().String(), "00000000000000cc", "orders")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := healthpb.NewHealthClient(wrong).Check(testContext(t), &healthpb.HealthCheckRequest{}); err == nil {
		t.Error("another node answered")
	}
	if moved, _ := pool.Conn("127.0.0.1:1", nodeA, "orders"); moved == conn {
		t.Error("a changed address is not noticed")
	}
	pool.Close()
	if _, err := pool.Conn(p.Addr().String(), nodeA, "orders"); !errors.Is(err, volume.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// userTimeout is what the kernel has as TCP_USER_TIMEOUT of the connection below conn.
func userTimeout(t *testing.T, conn *tls.Conn) (ms int) {
	t.Helper()
	raw, err := conn.NetConn().(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if cerr := raw.Control(func(fd uintptr) { ms, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return ms
}

func TestBothSidesGiveUpAConnectionThatIsCutOff(t *testing.T) {
	t.Parallel()
	key := NewKey()
	port := testPort(t, testTrust(t, key, nodeA))
	server := make(chan net.Conn, 1)
	go func() {
		conn, err := port.GRPC().Accept()
		if err != nil {
			t.Error(err)
		}
		server <- conn
	}()
	client, err := testTrust(t, key, nodeB).Dial(testContext(t), ProtoGRPC, port.Addr().String(), nodeA)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	there := (<-server).(*Conn)
	defer there.Close()
	for side, conn := range map[string]*tls.Conn{"dialed": client.(*tls.Conn), "accepted": there.Conn} {
		if got := userTimeout(t, conn); got != int(lostAfter.Milliseconds()) {
			t.Errorf("the side that %s waits for %d ms", side, got)
		}
	}
}

// What Cut makes is what TCP makes of a network that drops packets.
func TestCut(t *testing.T) {
	t.Parallel()
	key := NewKey()
	port := testPort(t, testTrust(t, key, nodeA))
	go func() {
		for {
			conn, err := port.GRPC().Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	var cut atomic.Bool
	trust := testTrust(t, key, nodeB)
	trust.SetCut(func(string) bool { return cut.Load() })
	dial := func() net.Conn {
		conn, err := trust.Dial(testContext(t), ProtoGRPC, port.Addr().String(), nodeA)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	if conn := dial(); echo(conn) != nil {
		t.Error("not cut")
	}

	short, long := dial(), dial()
	cut.Store(true)
	if _, err := short.Write([]byte("late")); err != nil {
		t.Fatalf("a lost write looks like one that was sent: %v", err)
	}
	short.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := short.Read(make([]byte, 4)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("an answer over a cut: %v", err)
	}
	if err := trust.Probe(shortContext(t), port.Addr().String()); err == nil || errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("probe over a cut: %v", err)
	}
	cut.Store(false)
	got := make([]byte, 4)
	short.SetReadDeadline(time.Time{})
	if _, err := io.ReadFull(short, got); err != nil || string(got) != "late" {
		t.Errorf("what was lost does not arrive later: %q, %v", got, err)
	}

	cut.Store(true)
	if _, err := long.Write([]byte("lost")); err != nil {
		t.Fatal(err)
	}
	if _, err := long.Read(got); err == nil {
		t.Errorf("read %q over a cut", got)
	}
	cut.Store(false)
	if _, err := long.Write([]byte("more")); err == nil {
		_, err = long.Read(got)
		if err == nil {
			t.Error("the connection outlived a long cut")
		}
	}
	if conn := dial(); echo(conn) != nil {
		t.Error("mended")
	}
}

func shortContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}
