package volumehttp_test

import (
	"fmt"
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

// Whatever is asked of a file by query and headers, HEAD says what GET does, and a
// part is that part of the whole.
func FuzzRead(f *testing.F) {
	for _, s := range [][3]string{
		{"", "bytes=0-4", ""}, {"width=10&height=4&mode=fill", "bytes=-3", "gzip"}, {"cm=false", "", "gzip;q=0"}, {"crop_x1=1&crop_y1=1&crop_x2=9&crop_y2=9&mode=fit&width=3", "", ""},
		{"dl=1&response-content-type=a/b&response-content-encoding=x", "bytes=5-", "*"}, {"readDeleted=true&proxied=true", "bytes=1-1,3-4", ""}, {"%zz", "bytes=a", ""},
		{"width=-1&height=999999999999&a;b", "lines=1-2", ""}, {"response-expires=%0d%0aX:%20y", "bytes=99999999999999999999-", "identity"}, {"jwt=a.b.c", "bytes=4-2", "gzip, br"},
	} {
		f.Add(s[0], s[1], s[2])
	}
	api := volumehttp.New(volumehttp.Options{Blobs: &node{Blobs: volumetest.NewBlobs(1)}, Log: discard(), Images: 8 << 20})
	send := func(method, path, query, body, ranges, coding string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "/", strings.NewReader(body))
		r.Method, r.URL = method, &url.URL{Path: path, RawQuery: query}
		for name, value := range map[string]string{"Range": ranges, "Accept-Encoding": coding} {
			if value != "" {
				r.Header.Set(name, value)
			}
		}
		w := httptest.NewRecorder()
		api.Handler().ServeHTTP(w, r)
		return w
	}
	paths := []string{"/1/01deadbeef/a.txt", "/1/02deadbeef/b.png", "/1,03deadbeef"}
	for path, body := range map[string]string{paths[0]: strings.Repeat("text ", 100), paths[1]: pngOf(f, 20, 10)} {
		if w := send("PUT", path, "", body, "", ""); w.Code != 201 {
			f.Fatalf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	if w := send("PUT", paths[2], "cm=true", `{"chunks":[{"fid":"1,01deadbeef","size":500}]}`, "", ""); w.Code != 201 {
		f.Fatalf("%d %s", w.Code, w.Body)
	}
	f.Fuzz(func(t *testing.T, query, ranges, coding string) {
		for _, path := range paths {
			whole, head := send("GET", path, query, "", "", coding), send("HEAD", path, query, "", "", coding)
			if whole.Code != head.Code || whole.Code != 200 && whole.Code != 400 || head.Body.Len() > 0 || whole.Header().Get("Content-Length") != head.Header().Get("Content-Length") {
				t.Errorf("%s?%q: GET %d %v, HEAD %d %v", path, query, whole.Code, whole.Header(), head.Code, head.Header())
			}
			plain := send("GET", path, query, "", "", "").Body.String()
			part := send("GET", path, query, "", ranges, coding)
			var from, to, size int
			switch n, _ := fmt.Sscanf(part.Header().Get("Content-Range"), "bytes %d-%d/%d", &from, &to, &size); {
			case part.Code == 200 || part.Code == 400 || part.Code == 416:
			case part.Code != 206:
				t.Errorf("%s?%q %q: %d", path, query, ranges, part.Code)
			case n == 3 && (size != len(plain) || part.Body.String() != plain[from:to+1]):
				t.Errorf("%s?%q %q: %q of %q", path, query, ranges, part.Body, plain)
			}
		}
	})
}
