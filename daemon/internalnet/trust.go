package internalnet

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"strings"
	"time"

	"weedd/volume"
)

// Proto names what is spoken on a connection; it is the connection's ALPN name.
//
// gRPC has a name of its own, not "h2": gRPC itself never sees the handshake,
// and a plain HTTP/2 client must not get in by accident.
type Proto string

// The protocols of the internal port.
const (
	ProtoRaft Proto = "weedd-raft"
	ProtoGRPC Proto = "weedd-grpc"
	ProtoHTTP Proto = "weedd-http"
)

// ErrPeer says that the other side of a connection is not who it should be: a
// stranger, or another node than the one asked for.
var ErrPeer = errors.New("untrusted peer")

// PKI names the files of an operator who has a certificate authority already.
// The certificate must be good for client and server use and for the hosts in
// the node's internal address. It need not know node ids; if its common name is
// one, services are told so.
type PKI struct {
	CA   string // PEM, one or more authorities
	Cert string // PEM, the chain of this node
	Key  string // PEM
}

// Trust is what a node shows of itself and whom it believes. It is safe for
// concurrent use.
type Trust struct {
	node  volume.NodeID
	cert  tls.Certificate
	roots *x509.CertPool
	named bool                   // certificates name node ids, not hosts
	cut   func(addr string) bool // see SetCut; nil but in tests
}

// NewTrust derives the cluster's certificate authority from the key and mints a
// certificate for node. The key pair of the certificate lives and dies with the
// Trust.
func NewTrust(key Key, node volume.NodeID) (*Trust, error) {
	ca, caKey, err := authority(key)
	if err != nil {
		return nil, err
	}
	cert, err := mint(ca, caKey, node)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	return &Trust{node: node, cert: cert, roots: roots, named: true}, nil
}

// LoadPKI makes a Trust from the operator's files.
func LoadPKI(files PKI, node volume.NodeID) (*Trust, error) {
	pem, err := os.ReadFile(files.CA)
	if err != nil {
		return nil, fmt.Errorf("read certificate authority: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read certificate authority %s: no certificate in it", files.CA)
	}
	cert, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		return nil, fmt.Errorf("load certificate %s with key %s: %w", files.Cert, files.Key, err)
	}
	t := &Trust{node: node, cert: cert, roots: roots}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if err := t.verify(cert.Leaf, nil, usage, ""); err != nil {
			return nil, fmt.Errorf("certificate %s, which is used as client and as server: %w", files.Cert, err)
		}
	}
	return t, nil
}

// Clocks are wrong at boot more often than keys leak; so certificates made here
// are always valid. The secret is what expires them.
var (
	always  = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	forever = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
)

// authority is a function of the key: every node has the same.
func authority(key Key) (*x509.Certificate, ed25519.PrivateKey, error) {
	priv := ed25519.NewKeyFromSeed(key.derive("weedd certificate authority v1"))
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "weedd cluster"},
		NotBefore:             always,
		NotAfter:              forever,
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, priv.Public(), priv)
	if err != nil {
		return nil, nil, fmt.Errorf("make certificate authority: %w", err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, fmt.Errorf("make certificate authority: %w", err)
	}
	return ca, priv, nil
}

func mint(ca *x509.Certificate, caKey ed25519.PrivateKey, node volume.NodeID) (tls.Certificate, error) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make certificate: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make certificate: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: string(node)},
		NotBefore:    always,
		NotAfter:     forever,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, pub, caKey)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: priv}, nil
}

// verify checks a certificate against the authorities; host "" is not checked.
func (t *Trust) verify(leaf *x509.Certificate, chain []*x509.Certificate, usage x509.ExtKeyUsage, host string) error {
	between := x509.NewCertPool()
	for _, c := range chain {
		between.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: t.roots, Intermediates: between, DNSName: host, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrPeer, err)
	}
	return nil
}

func (t *Trust) verifyConnection(cs tls.ConnectionState, usage x509.ExtKeyUsage, host string) error {
	if len(cs.PeerCertificates) == 0 {
		return fmt.Errorf("%w: it shows no certificate", ErrPeer)
	}
	return t.verify(cs.PeerCertificates[0], cs.PeerCertificates[1:], usage, host)
}

// A dialer says in the server name which node it means, so that a node that has
// moved to another's address is found out whatever the certificates name.
const nodeSuffix = ".node.weedd"

func (t *Trust) serverConfig() *tls.Config {
	conf := &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{t.cert},
		NextProtos:             []string{string(ProtoRaft), string(ProtoGRPC), string(ProtoHTTP)},
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true, // a resumed session would not be checked anew
		VerifyConnection: func(cs tls.ConnectionState) error {
			if want, ok := strings.CutSuffix(cs.ServerName, nodeSuffix); ok && !strings.EqualFold(want, string(t.node)) {
				return fmt.Errorf("%w: it wants node %s, this is %s", ErrPeer, want, t.node)
			}
			return t.verifyConnection(cs, x509.ExtKeyUsageClientAuth, "")
		},
	}
	return conf
}

func (t *Trust) clientConfig(proto Proto, addr string, node volume.NodeID) *tls.Config {
	host := ""
	if !t.named {
		host, _, _ = net.SplitHostPort(addr)
	}
	conf := &tls.Config{
		MinVersion:         tls.VersionTLS13,
		Certificates:       []tls.Certificate{t.cert},
		NextProtos:         []string{string(proto)},
		InsecureSkipVerify: true, // by host name; VerifyConnection does it by our own rules
		VerifyConnection: func(cs tls.ConnectionState) error {
			if err := t.verifyConnection(cs, x509.ExtKeyUsageServerAuth, host); err != nil {
				return err
			}
			if got := certNode(cs); t.named && node != "" && got != node {
				return fmt.Errorf("%w: node %s answers at %s, not %s", ErrPeer, got, addr, node)
			}
			return nil
		},
	}
	if node != "" {
		conf.ServerName = string(node) + nodeSuffix
	}
	return conf
}

func certNode(cs tls.ConnectionState) volume.NodeID {
	if len(cs.PeerCertificates) == 0 {
		return ""
	}
	return volume.NodeID(cs.PeerCertificates[0].Subject.CommonName)
}

// Dial connects to the internal port at addr and speaks proto there. With a
// node given, no other node is accepted; under a PKI that does not name nodes,
// the host in addr must match the certificate and the other side itself refuses
// when it is another node. ctx bounds dialing and handshake. What the other side
// thinks of our certificate shows only with the first read.
func (t *Trust) Dial(ctx context.Context, proto Proto, addr string, node volume.NodeID) (net.Conn, error) {
	raw, err := t.dial(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s at %s: %w", proto, addr, err)
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	conn := tls.Client(raw, t.clientConfig(proto, addr, node))
	err = conn.HandshakeContext(ctx)
	if err == nil && conn.ConnectionState().NegotiatedProtocol != string(proto) {
		err = fmt.Errorf("%w: it does not speak %s", ErrPeer, proto)
	}
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("dial %s at %s: %w", proto, addr, err)
	}
	return conn, nil
}

// Probe connects to the internal port at addr and hangs up: syscall.ECONNREFUSED
// says that no process listens there.
func (t *Trust) Probe(ctx context.Context, addr string) error {
	conn, err := t.dial(ctx, addr)
	if err != nil {
		return fmt.Errorf("probe %s: %w", addr, err)
	}
	return conn.Close()
}
