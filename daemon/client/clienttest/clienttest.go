// Package clienttest is a small fake of a cluster's public HTTP API, for tests of
// what speaks it: some masters and some volume servers that all hold the same
// files, in memory, and a hook that can answer instead of them.
package clienttest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"weedd/cluster"
	"weedd/volume"
)

// Request is one request as a fake server sees it.
type Request struct {
	*http.Request
	Who string // "master0", "server1", ...
	N   int    // counts the requests to all servers, from 1
}

// Cluster is the fake. Its methods may be called at once.
type Cluster struct {
	Masters []*httptest.Server
	Servers []*httptest.Server

	mu    sync.Mutex
	n     int
	key   volume.Key
	files map[string][]byte // by file id
	hook  func(http.ResponseWriter, Request) bool
	view  cluster.View
}

// Start starts a fake cluster that ends with the test. Hook may be nil; when it
// returns true it has answered.
func Start(t testing.TB, masters, servers int, hook func(w http.ResponseWriter, r Request) bool) *Cluster {
	c := &Cluster{files: map[string][]byte{}, hook: hook}
	start := func(who string, h func(http.ResponseWriter, *http.Request)) *httptest.Server {
		s := httptest.NewServer(c.hooked(who, h))
		t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
		return s
	}
	for i := range servers {
		c.Servers = append(c.Servers, start(fmt.Sprintf("server%d", i), c.server))
	}
	for i := range masters {
		c.Masters = append(c.Masters, start(fmt.Sprintf("master%d", i), c.master))
	}
	return c
}

func (c *Cluster) hooked(who string, h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		c.n++
		n := c.n
		c.mu.Unlock()
		if c.hook == nil || !c.hook(w, Request{r, who, n}) {
			h(w, r)
		}
	})
}

// Addrs gives the masters as host:port.
func (c *Cluster) Addrs() []string {
	var all []string
	for _, m := range c.Masters {
		all = append(all, m.Listener.Addr().String())
	}
	return all
}

// Files gives a copy of what is stored, by file id.
func (c *Cluster) Files() map[string][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := map[string][]byte{}
	for k, v := range c.files {
		all[k] = v
	}
	return all
}

// Set stores bytes under a file id, behind everybody's back.
func (c *Cluster) Set(fid string, b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.files[fid] = b
}

// SetView sets the answer of /cluster/view.
func (c *Cluster) SetView(v cluster.View) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.view = v
}

// Error answers with a status and the error member that the API has.
func Error(w http.ResponseWriter, status int, text string) {
	reply(w, status, map[string]string{"error": text})
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) // a client that went away is not the fake's concern
}

func (c *Cluster) newID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.key++
	return volume.FileID{Volume: 3, Key: c.key, Cookie: 0x12345678}.String()
}

func (c *Cluster) master(w http.ResponseWriter, r *http.Request) {
	first := c.Servers[0].Listener.Addr().String()
	switch r.URL.Path {
	case "/dir/assign":
		reply(w, 200, map[string]any{"fid": c.newID(), "url": first, "publicUrl": first, "count": 1})
	case "/dir/lookup":
		var at []map[string]string
		for _, s := range c.Servers {
			addr := s.Listener.Addr().String()
			at = append(at, map[string]string{"url": addr, "publicUrl": addr})
		}
		reply(w, 200, map[string]any{"volumeOrFileId": "3", "locations": at})
	case "/submit":
		fid := c.newID()
		if n, ok := c.store(w, r, fid); ok {
			reply(w, 201, map[string]any{"eTag": "00000000", "fid": fid, "fileName": "x", "fileUrl": first + "/" + fid, "size": n})
		}
	case "/cluster/status":
		reply(w, 200, map[string]any{"IsLeader": r.Host == c.Addrs()[0], "Leader": c.Addrs()[0], "Peers": c.Addrs()})
	case "/cluster/view":
		c.mu.Lock()
		defer c.mu.Unlock()
		reply(w, 200, c.view)
	default:
		Error(w, 404, "no such path")
	}
}

func (c *Cluster) store(w http.ResponseWriter, r *http.Request, fid string) (int, bool) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		Error(w, 400, err.Error())
		return 0, false
	}
	c.Set(fid, b)
	return len(b), true
}

func (c *Cluster) server(w http.ResponseWriter, r *http.Request) {
	fid := strings.TrimPrefix(r.URL.Path, "/")
	c.mu.Lock()
	b, ok := c.files[fid]
	c.mu.Unlock()
	switch r.Method {
	case http.MethodPut:
		if n, ok := c.store(w, r, fid); ok {
			said := map[string]any{"eTag": "00000000"}
			if n > 0 {
				said["size"] = n
			}
			reply(w, 201, said)
		}
	case http.MethodDelete:
		c.mu.Lock()
		delete(c.files, fid)
		c.mu.Unlock()
		reply(w, map[bool]int{true: 202, false: 404}[ok], map[string]int{"size": len(b)})
	default:
		if !ok {
			w.WriteHeader(404)
			return
		}
		w.Header().Set("Content-Disposition", `inline; filename="a name.txt"`)
		w.Header().Set("Etag", `"00000000"`)
		w.Write(b)
	}
}
