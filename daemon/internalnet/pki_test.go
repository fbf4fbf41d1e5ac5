package internalnet

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
)

// writePKI makes an operator's certificate for 127.0.0.1, named after a host.
func writePKI(t *testing.T, usages ...x509.ExtKeyUsage) PKI {
	t.Helper()
	ca, caKey, err := authority(NewKey())
	if err != nil {
		t.Fatal(err)
	}
	pub, priv, _ := ed25519.GenerateKey(rand.Reader)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "host1.example"}, NotBefore: always, NotAfter: forever,
		ExtKeyUsage: usages, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}, ca, pub, caKey)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return PKI{
		CA: write("ca", "CERTIFICATE", ca.Raw), Cert: write("cert", "CERTIFICATE", der), Key: write("key", "PRIVATE KEY", pkcs8),
	}
}

func TestPKI(t *testing.T) {
	t.Parallel()
	files := writePKI(t, x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth)
	server, err := LoadPKI(files, nodeA)
	if err != nil {
		t.Fatal(err)
	}
	client, err := LoadPKI(files, nodeB)
	if err != nil {
		t.Fatal(err)
	}
	p := testPort(t, server)
	peers := accepted(t, p.GRPC())
	conn, err := client.Dial(testContext(t), ProtoGRPC, p.Addr().String(), nodeA)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := echo(conn); err != nil {
		t.Fatal(err)
	}
	if got := <-peers; got != "" {
		t.Errorf("a host name is taken for node %q", got)
	}

	wrong, err := client.Dial(testContext(t), ProtoRaft, p.Addr().String(), "00000000000000cc")
	if err == nil { // the server's refusal arrives with the first read
		defer wrong.Close()
		err = echo(wrong)
	}
	if err == nil {
		t.Error("another node answered")
	}
	if _, err := tls.Dial("tcp", p.Addr().String(), client.clientConfig(ProtoGRPC, "127.0.0.2:9332", "")); !errors.Is(err, ErrPeer) {
		t.Errorf("a host that the certificate does not name was believed: %v", err)
	}
}

func TestPKIMustServeBothSides(t *testing.T) {
	t.Parallel()
	if _, err := LoadPKI(writePKI(t, x509.ExtKeyUsageServerAuth), nodeA); err == nil {
		t.Error("a certificate for servers only was accepted")
	}
}
