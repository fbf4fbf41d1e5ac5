package masterhttp_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"weedd/cluster/master"
	"weedd/cluster/masterhttp"
	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/wire"
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

// Whatever is submitted, the answer is one of those we know, and what is stored reads
// back as it came, in one piece or in several.
func FuzzSubmit(f *testing.F) {
	f.Add("maxMB=1&ttl=5m&ts=3", "a/b", "some text", "", "")
	f.Add("", "multipart/form-data; boundary=b", "--b\r\nContent-Disposition: form-data; filename=a.txt\r\n\r\nx\r\n--b--", "k", "")
	f.Add("count=3&collection=c&replication=000&disk=hdd", "text/plain", strings.Repeat("0123456789", 25), "", "gzip")
	f.Add("cm=true", "", `{"chunks":[{"fid":"1,0112345678","size":5}]}`, `"key"`, "")
	f.Add("%zz;a", "multipart/form-data", "", "a b", "gzip")
	f.Add("dataNode=nowhere&preallocate=x", "application/octet-stream", "\x1f\x8b\x08", "", "gzip")
	s := newSingle(f, func(o *masterhttp.Options) {
		o.Master.(*master.Master).SetHold(time.Second)
		o.FileLimit = 100
	})
	s.Make(volume.Spec{}, "a")
	f.Fuzz(func(t *testing.T, query, contentType, body, key, coding string) {
		s := &single{s.Cluster, t, s.opts, s.api}
		r := httptest.NewRequest("POST", "/submit", strings.NewReader(body))
		r.URL.RawQuery = query
		for name, value := range map[string]string{"Content-Type": contentType, "Idempotency-Key": key, "Content-Encoding": coding} {
			if value != "" {
				r.Header.Set(name, value)
			}
		}
		w := httptest.NewRecorder()
		s.api.Handler().ServeHTTP(w, r)
		switch w.Code {
		case 201:
		case 400, 406, 413, 422:
			return
		default:
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		var out submitted
		if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
			t.Fatalf("%s: %v", w.Body, err)
		}
		if key != "" || coding != "" || contentType == "" || strings.Contains(contentType, "form-data") {
			return
		}
		n, got := s.get(out.FID)
		if m, err := wire.ParseManifest([]byte(got)); n.Has(needle.FlagManifest) && len(body) > 100 && err == nil {
			got = ""
			for _, chunk := range m.Chunks {
				_, piece := s.get(chunk.FileID)
				got += piece
			}
		}
		if got != body {
			t.Errorf("stored %q, sent %q", got, body)
		}
	})
}
