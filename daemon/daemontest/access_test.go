package daemontest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weedd/daemon/client"
	"weedd/daemon/config"
	"weedd/daemon/probe"
	"weedd/volume"
)

// closed makes a cluster whose public ports want TLS, and tokens for everything.
func closed(t *testing.T) *Cluster {
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	set := config.TLS{Cert: write("cert", cert), Key: write("key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))}
	access := config.Access{WriteKey: write("w", []byte("write-key\n")), ReadKey: write("r", []byte("read-key")), WriteLife: time.Minute, ReadLife: time.Minute}
	c := New(t)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(cert)
	c.HTTP.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: roots}
	for range 3 {
		c.Add(3, func(_ int, cfg *config.Config) { cfg.TLS, cfg.Access = set, access })
	}
	c.AwaitReady()
	return c
}

// ask sends a request by TLS with the value of an Authorization header, if there is one.
func (c *Cluster) ask(method, url, auth string, body []byte) (int, http.Header, []byte) {
	c.T.Helper()
	req, err := http.NewRequest(method, "https://"+url, bytes.NewReader(body))
	if err != nil {
		c.T.Fatal(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/octet-stream")
	}
	if auth != "" {
		req.Header.Set("Authorization", auth)
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		c.T.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.T.Fatal(err)
	}
	return resp.StatusCode, resp.Header, b
}

// Tokens are asked for at every node, wherever the file and its chunks are, and what
// nodes ask of one another needs none.
func TestAClosedClusterServesThoseWhoHaveTokens(t *testing.T) {
	t.Parallel()
	c := closed(t)
	long := bytes.Repeat([]byte("0123456789abcdef"), 5<<16) // five chunks
	master := c.Nodes[0].Self.MasterHTTP
	status, _, answer := c.ask("POST", master+"/submit?maxMB=1", "", long)
	var out struct{ FID string }
	if err := json.Unmarshal(answer, &out); status != 201 || err != nil {
		t.Fatalf("submit: %d %s", status, answer)
	}
	_, header, _ := c.ask("GET", master+"/dir/lookup?read=yes&fileId="+out.FID, "", nil)
	read := header.Get("Authorization")
	_, header, _ = c.ask("GET", master+"/dir/lookup?fileId="+out.FID, "", nil)
	write := header.Get("Authorization")
	_, _, manifest := c.ask("GET", c.Nodes[0].Self.VolumeHTTP+"/"+out.FID+"?cm=false", read, nil)
	var m struct{ Chunks []struct{ FID string } }
	if err := json.Unmarshal(manifest, &m); err != nil || len(m.Chunks) != 5 {
		t.Fatalf("manifest %s: %v", manifest, err)
	}
	for _, n := range c.Nodes {
		at := n.Self.VolumeHTTP + "/" + out.FID
		if status, _, got := c.ask("GET", at, read, nil); status != 200 || !bytes.Equal(got, long) {
			t.Errorf("read at %s: %d, %d bytes of %d", at, status, len(got), len(long))
		}
		for why, auth := range map[string]string{"no token": "", "a write token": write, "rubbish": "Bearer x"} {
			if status, _, _ := c.ask("GET", at, auth, nil); status != 401 {
				t.Errorf("read with %s: %d", why, status)
			}
		}
		if status, _, _ := c.ask("GET", n.Self.VolumeHTTP+"/"+m.Chunks[0].FID+"?proxied=true", "", nil); status != 401 {
			t.Errorf("a chunk, as if passed on: %d", status)
		}
		if status, _, _ := c.ask("DELETE", at, read, nil); status != 401 {
			t.Errorf("delete with a read token: %d", status)
		}
	}
	if status, header, _ := c.ask("GET", master+"/"+out.FID, "", nil); status != 401 { // followed to a volume server
		t.Errorf("redirect: %d %v", status, header)
	}
	if status, _, answer := c.ask("DELETE", c.Nodes[1].Self.VolumeHTTP+"/"+out.FID, write, nil); status != 202 {
		t.Errorf("delete: %d %s", status, answer)
	}
	for _, chunk := range m.Chunks {
		_, header, _ := c.ask("GET", master+"/dir/lookup?read=yes&fileId="+chunk.FID, "", nil)
		if status, _, _ := c.ask("GET", c.Nodes[2].Self.VolumeHTTP+"/"+chunk.FID, header.Get("Authorization"), nil); status != 404 {
			t.Errorf("chunk %s is still there: %d", chunk.FID, status)
		}
	}
	toolsWork(t, c)
	if resp, err := http.Get("http://" + master + "/cluster/status"); err == nil {
		if resp.Body.Close(); resp.StatusCode != 400 {
			t.Errorf("plain HTTP: %s", resp.Status)
		}
	} else if !strings.Contains(fmt.Sprint(err), "malformed") {
		t.Errorf("plain HTTP: %v", err)
	}
}

// toolsWork has the client of the tools and the probe of weedd chaos fetch the
// tokens that they need.
func toolsWork(t *testing.T, c *Cluster) {
	var masters []string
	for _, n := range c.Nodes {
		masters = append(masters, "https://"+n.Self.MasterHTTP)
	}
	tool, err := client.New(client.Options{Masters: masters, HTTP: c.HTTP})
	if err != nil {
		t.Fatal(err)
	}
	want := []byte("some bytes")
	for range 2 { // the first time it does not know that tokens are asked for
		st, err := tool.Put(t.Context(), client.Spec{}, client.Bytes("a", want))
		if err != nil {
			t.Fatal(err)
		}
		var got []byte
		read := func(o client.Object) (err error) { got, err = io.ReadAll(o.Body); return err }
		if err := tool.Get(t.Context(), st.ID, read); err != nil || !bytes.Equal(got, want) {
			t.Errorf("get: %q %v", got, err)
		}
		if err := tool.Delete(t.Context(), st.ID); err != nil {
			t.Errorf("delete: %v", err)
		}
		if err := tool.Get(t.Context(), st.ID, read); !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("get of what was deleted: %v", err)
		}
	}
	r, err := probe.Run(t.Context(), probe.Options{Masters: masters, Steady: 500 * time.Millisecond, For: 500 * time.Millisecond,
		Client: func() *http.Client { return &http.Client{Transport: c.HTTP.Transport} }}, probe.Fault{Name: "none"})
	if err != nil {
		t.Fatal(err)
	}
	if !r.Good() || r.Files < 5 {
		t.Errorf("probe: %+v", r)
	}
}
