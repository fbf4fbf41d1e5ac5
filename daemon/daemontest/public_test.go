package daemontest_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"weedd/daemon/config"
	"weedd/daemon/daemontest"
)

// A node with a port for strangers tells clients of that one, and it only reads.
func TestThePublicPortIsToldToClients(t *testing.T) {
	t.Parallel()
	c := daemontest.Start(t, 1, func(_ int, cfg *config.Config) { cfg.Volume.Public = config.Listen{Host: "127.0.0.1"} })
	n := c.Nodes[0]
	fid, err := n.Submit("", []byte("content"))
	if err != nil {
		t.Fatal(err)
	}
	if n.Self.PublicURL == n.Self.VolumeHTTP {
		t.Fatalf("both ports are %s", n.Self.PublicURL)
	}
	want := fmt.Sprintf(`"url":"%s","publicUrl":"%s"`, n.Self.VolumeHTTP, n.Self.PublicURL)
	if status, body, err := n.Master("GET", "/dir/lookup?volumeId="+fid); err != nil || status != 200 || !strings.Contains(string(body), want) {
		t.Errorf("lookup: %d %s %v, want %s", status, body, err, want)
	}
	if status, body, err := n.Master("GET", "/"+fid); err != nil || status != 200 || string(body) != "content" { // redirected there
		t.Errorf("read by way of the master: %d %s %v", status, body, err)
	}
	for method, status := range map[string]int{"GET": 200, "HEAD": 200, "PUT": 405, "POST": 405, "DELETE": 405} {
		req, err := http.NewRequest(method, "http://"+n.Self.PublicURL+"/"+fid, bytes.NewReader([]byte("other")))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.HTTP.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if _ = resp.Body.Close(); resp.StatusCode != status {
			t.Errorf("%s: %s", method, resp.Status)
		}
	}
	if got, err := n.Read(fid); err != nil || string(got) != "content" {
		t.Errorf("the file is now %q, %v", got, err)
	}
}
