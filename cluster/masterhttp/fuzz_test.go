package masterhttp_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"weedd/cluster/master"
	"weedd/cluster/masterhttp"
	"weedd/volume"
)

// fuzzed answers a request of any path and query and complains of what no
// client should see.
func fuzzed(t *testing.T, s *single, method, path, query string) {
	r := &http.Request{Method: method, URL: &url.URL{Path: path, RawQuery: query}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: http.NoBody, RemoteAddr: "10.0.0.1:5"}
	w := httptest.NewRecorder()
	s.api.Handler().ServeHTTP(w, r)
	switch w.Code {
	case 200, 204, 308, 400, 401, 404, 405, 406:
	default:
		t.Errorf("%s %q ?%q: %d %s", method, path, query, w.Code, w.Body)
	}
}

func fuzzSingle(f *testing.F) *single {
	s := newSingle(f, func(o *masterhttp.Options) { o.Master.(*master.Master).SetHold(time.Second) })
	s.Make(volume.Spec{}, "a")
	return s
}

func FuzzAssign(f *testing.F) {
	for _, q := range []string{"", "count=3&collection=pics", "count=-1", "count=x", "count=99999999999", "replication=abc&ttl=5m", "replication=010&disk=ssd",
		"ttl=256y", "dataCenter=dc1&rack=r1", "dataNode=a:8080", "dataNode=nobody", "preallocate=x", "%zz", "collection=..%2Fx", "a;b", "pretty=y"} {
		f.Add(q)
	}
	s := fuzzSingle(f)
	f.Fuzz(func(t *testing.T, query string) { fuzzed(t, s, "GET", "/dir/assign", query) })
}

func FuzzLookup(f *testing.F) {
	for _, q := range []string{"volumeId=1", "volumeId=1,0112345678&collection=x", "fileId=1,0112345678_1", "fileId=9", "volumeId=4294967297", "volumeId=-1", "%", ""} {
		f.Add(q)
	}
	s := fuzzSingle(f)
	f.Fuzz(func(t *testing.T, query string) { fuzzed(t, s, "GET", "/dir/lookup", query) })
}

func FuzzRedirect(f *testing.F) {
	for _, p := range []string{"/1,0112345678.txt", "/1,0112345678_1", "/1", "/1,", "/9,0112345678", "/1,zz", "//", "/1/0112345678", "/\xff", "/1,0112345678.a/b", "/%2e"} {
		f.Add("GET", p, "a=b&collection=x")
		f.Add("POST", p, "%zz")
	}
	s := fuzzSingle(f)
	f.Fuzz(func(t *testing.T, method, path, query string) {
		if path == "" || path[0] != '/' || method == "CONNECT" {
			t.Skip("net/http lets no such path through")
		}
		switch path {
		case "/submit", "/vol/grow": // not redirects, and they change the cluster
			t.Skip("another route")
		}
		fuzzed(t, s, method, path, query)
	})
}
