package daemon

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weedd/daemon/config"
)

// writePair writes a certificate of that name and its key.
func writePair(t *testing.T, cfg config.TLS, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, b := range map[string]*pem.Block{cfg.Cert: {Type: "CERTIFICATE", Bytes: cert}, cfg.Key: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheCertificateIsReadAgainWhenItChanges(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := config.Config{TLS: config.TLS{Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key")}}
	if _, err := openCertificate(cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "tls.cert") {
		t.Errorf("without files: %v", err)
	}
	writePair(t, cfg.TLS, "one")
	c, err := openCertificate(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	name := func(later time.Duration) string {
		t.Helper()
		c.looked = c.looked.Add(-later)
		pair, err := c.get(nil)
		if err != nil {
			t.Fatal(err)
		}
		return pair.Leaf.Subject.CommonName
	}
	if got := name(lookEvery); got != "one" {
		t.Errorf("at first: %s", got)
	}
	writePair(t, cfg.TLS, "the second")
	if got := name(0); got != "one" {
		t.Errorf("at once: %s", got)
	}
	if got := name(lookEvery); got != "the second" {
		t.Errorf("then: %s", got)
	}
	if err := os.WriteFile(cfg.TLS.Cert, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := name(lookEvery); got != "the second" {
		t.Errorf("with rubbish in its place: %s", got)
	}
	writePair(t, cfg.TLS, "three")
	if got := name(lookEvery); got != "three" {
		t.Errorf("at last: %s", got)
	}
	if c, err := openCertificate(config.Config{}, nil); c != nil || err != nil {
		t.Errorf("without a line: %v, %v", c, err)
	}
}

func TestAnEmptyKeySignsNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	for text, want := range map[string]string{"secret\n": "secret", "secret": "secret", " s ecret \r\n": " s ecret ", "\n": "", "": ""} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		key, err := signingKey("access.write_key", path)
		if string(key) != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", text, key, err)
		}
	}
	if _, err := signingKey("access.write_key", path+"x"); err == nil {
		t.Error("a file that is not there")
	}
}
