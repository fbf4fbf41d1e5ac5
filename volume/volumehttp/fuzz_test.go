package volumehttp_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"weedd/volume/volumehttp"
	"weedd/volume/volumetest"
)

// Whatever the path, query and headers, the answer is one of those we know, and
// nothing panics.
func FuzzRequest(f *testing.F) {
	f.Add("GET", "/1,01deadbeef.jpg", "dl=1&response-expires=x", "bytes=1-2,4-", `"a", W/"b"`)
	f.Add("HEAD", "/1/01deadbeef/n.txt", "", "", "*")
	f.Add("DELETE", "/1,01deadbeef_1", "ts=5", "", "")
	f.Add("PUT", "/1/01deadbeef/n.txt", "ttl=5m&cm=1&ts=x&create=true", "", "")
	f.Add("POST", "/1,01deadbeef_", "ttl=x", "", "")
	f.Add("OPTIONS", "//", "%", "", "")
	f.Fuzz(func(t *testing.T, method, path, query, ranges, tags string) {
		api := volumehttp.New(volumehttp.Options{Blobs: &node{Blobs: volumetest.NewBlobs(1)}, Log: discard()})
		h := api.Handler()
		put := httptest.NewRequest("PUT", "/1,01deadbeef", strings.NewReader("some text, not very long"))
		h.ServeHTTP(httptest.NewRecorder(), put)
		r := &http.Request{
			Method: method, URL: &url.URL{Path: path, RawQuery: query}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: http.Header{}, Body: http.NoBody,
		}
		if ranges != "" {
			r.Header.Set("Range", ranges)
		}
		if tags != "" {
			r.Header.Set("If-None-Match", tags)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		switch w.Code {
		case 200, 201, 202, 204, 206, 304, 400, 404, 409, 412, 416:
		case 500:
			if method == "GET" || method == "HEAD" || method == "DELETE" {
				t.Errorf("%s %q: 500 %s", method, path, w.Body)
			}
		default:
			t.Errorf("%s %q: %d %s", method, path, w.Code, w.Body)
		}
	})
}
