package volumehttp_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/volumehttp"
	"weedd/volume/volumetest"
)

// single is one node with volume 1 and a client for it.
type single struct {
	*testing.T
	node *node
	base string
	http *http.Client
}

func newSingle(t *testing.T, o volumehttp.Options) *single {
	n := &node{Blobs: volumetest.NewBlobs(1), held: 1}
	return &single{t, n, "http://" + serve(t, n, o), client(t)}
}

func (s *single) do(method, path, body string, headers ...string) (*http.Response, string) {
	s.Helper()
	req, err := http.NewRequest(method, s.base+path, strings.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := s.http.Do(req)
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.Fatal(err)
	}
	return resp, string(b)
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	s := newSingle(t, volumehttp.Options{Limits: volumehttp.Limits{File: 1000}})
	s.do("PUT", "/1,01deadbeef", "content", "Content-Type", "text/plain")
	form := func(body string) []string {
		return []string{"POST", "/1,02deadbeef", body, "Content-Type", "multipart/form-data; boundary=b"}
	}
	put := func(path, body string, headers ...string) []string {
		return append([]string{"PUT", path, body}, headers...)
	}
	for _, c := range []struct {
		name    string
		request []string // method, path, body, headers
		status  int
	}{
		{"a raw file over the limit", put("/1,02deadbeef", strings.Repeat("x", 1001)), 413},
		{"a raw file at the limit", put("/1,03deadbeef", strings.Repeat("x", 1000)), 201},
		{"a form's file over the limit", form("--b\r\nContent-Disposition: form-data; filename=a\r\n\r\n" + strings.Repeat("x", 1001) + "\r\n--b--"), 413},
		{"a form without end", form("--b\r\nContent-Disposition: form-data; filename=a\r\n\r\nxxx"), 400},
		{"a form whose part has no header end", form("--b\r\nContent-Disposition: form-data"), 400},
		{"a form that is none", form("xxx"), 400},
		{"an empty form", form(""), 400},
		{"a boundary too long", []string{"POST", "/1,02deadbeef", "x", "Content-Type", "multipart/form-data; boundary=" + strings.Repeat("b", 100)}, 400},
		{"a type that makes no sense", []string{"POST", "/1,02deadbeef", "x", "Content-Type", "form-data;;;="}, 400},
		{"a broken query", put("/1,02deadbeef?a=%zz", "x"), 400},
		{"a semicolon in the query", put("/1,02deadbeef?a;b", "x"), 400},
		{"a negative ttl", put("/1,02deadbeef?ttl=-5m", "x"), 400},
		{"a digest of other bytes", put("/1,02deadbeef", "x", "Content-MD5", "AAAAAAAAAAAAAAAAAAAAAA=="), 400},
		{"gzip that unpacks to more than the limit", put("/1,02deadbeef", gzipped(strings.Repeat("x", 5000)), "Content-Encoding", "gzip"), 413},
		{"create-only over other bytes", put("/1,01deadbeef?create=true", "other"), 409},
		{"create-only over the same bytes", put("/1,01deadbeef?create=true", "content", "Content-Type", "text/plain"), 204},
		{"another cookie", put("/1,01deadbeee", "x"), 500},
		{"an unknown volume", put("/2,01deadbeef", "x"), 500},
		{"volume 0", put("/0,01deadbeef", "x"), 400},
		{"an id that is too long", put("/1,"+strings.Repeat("1", 5000), "x"), 400},
		{"a name in the path that is too long", put("/1/01deadbeef/"+strings.Repeat("n", 256), "x"), 400},
		{"a deep path", put("/1/2/3/4", "x"), 400},
		{"a path that climbs", put("/1/../status", "x"), 400},
		{"a word", []string{"GET", "/nothing", ""}, 400},
		{"the root", []string{"GET", "/", ""}, 400},
		{"a method nobody has", []string{"BREW", "/1,01deadbeef", ""}, 400},
		{"an unknown volume to read", []string{"GET", "/2,01deadbeef", ""}, 404},
		{"an unknown volume to delete", []string{"DELETE", "/2,01deadbeef", ""}, 404},
		{"another cookie to read", []string{"GET", "/1,01deadbeee", ""}, 404},
		{"another cookie to delete", []string{"DELETE", "/1,01deadbeee", ""}, 400},
	} {
		resp, body := s.do(c.request[0], c.request[1], c.request[2], c.request[3:]...)
		if resp.StatusCode != c.status {
			t.Errorf("%s: %d %s, want %d", c.name, resp.StatusCode, body, c.status)
		}
		wantJSON := c.status >= 400 && c.request[0] != "GET"
		var e struct {
			Error *string
			Size  *int64
		}
		if wantJSON && (json.Unmarshal([]byte(body), &e) != nil || (e.Error == nil || *e.Error == "") && e.Size == nil) {
			t.Errorf("%s: body %q tells no error", c.name, body)
		}
	}
	if _, body := s.do("GET", "/1,01deadbeef", ""); body != "content" {
		t.Errorf("the file is now %q", body)
	}
	for _, path := range []string{"/1,02deadbeef", "/1,01deadbeee"} {
		if resp, _ := s.do("GET", path, ""); resp.StatusCode != 404 {
			t.Errorf("%s is there: %d", path, resp.StatusCode)
		}
	}
}

func TestNamesTypesAndPairs(t *testing.T) {
	t.Parallel()
	s := newSingle(t, volumehttp.Options{})
	for i, c := range []struct {
		why         string
		put         []string // headers
		path        string
		name, value string // of an answer header
	}{
		{"no name", nil, "", "Content-Disposition", ""},
		{"a plain name", []string{"Content-Disposition", "inline; filename=a.png"}, "", "Content-Disposition", "inline; filename=a.png"},
		{"its type", []string{"Content-Disposition", "inline; filename=a.PNG"}, "", "Content-Type", "image/png"},
		{"a quoted name", []string{"Content-Disposition", `inline; filename="a \"b\".txt"`}, "", "Content-Disposition", `inline; filename="a \"b\".txt"`},
		{"a coded name", []string{"Content-Disposition", "inline; filename*=utf-8''%e6%96%87.txt"}, "", "Content-Disposition", "inline; filename*=utf-8''%E6%96%87.txt"},
		{"a path for a name", []string{"Content-Disposition", `inline; filename="../../etc/passwd"`}, "", "Content-Disposition", "inline; filename=passwd"},
		{"dots for a name", []string{"Content-Disposition", `inline; filename="a/.."`}, "", "Content-Disposition", ""},
		{"a name that would end the header", []string{"Content-Disposition", "inline; filename*=utf-8''a%0d%0aX-Evil:%201"}, "", "X-Evil", ""},
		{"octet-stream with a name", []string{"Content-Disposition", "inline; filename=a.css", "Content-Type", "application/octet-stream"}, "", "Content-Type", "text/css; charset=utf-8"},
		{"a pair", []string{"Seaweed-X-Owner", "me"}, "", "X-Owner", "me"},
		{"a pair that caches say", []string{"Seaweed-Cache-Control", "no-store"}, "", "Cache-Control", "no-store"},
		{"a pair that sets cookies", []string{"Seaweed-Set-Cookie", "a=b"}, "", "Set-Cookie", ""},
		{"a pair that lies about the length", []string{"Seaweed-Content-Length", "1"}, "", "Content-Length", "3"},
		{"a pair that opens the answer to scripts", []string{"Seaweed-Access-Control-Allow-Origin", "x"}, "", "Access-Control-Allow-Origin", ""},
		{"dl", []string{"Content-Disposition", "inline; filename=a.png"}, "?dl=1", "Content-Disposition", "attachment; filename=a.png"},
		{"a type asked for", nil, "?response-content-type=a/b", "Content-Type", "a/b"},
		{"a header asked for that is two", nil, "?response-cache-control=a%0d%0aX-Evil:%201", "X-Evil", ""},
	} {
		fid := fmt.Sprintf("/1,%02xdeadbeef", i+1)
		if resp, body := s.do("PUT", fid, "abc", c.put...); resp.StatusCode != 201 {
			t.Errorf("%s: put: %d %s", c.why, resp.StatusCode, body)
			continue
		}
		resp, body := s.do("GET", fid+c.path, "")
		if got := resp.Header.Get(c.name); got != c.value || resp.StatusCode != 200 || body != "abc" {
			t.Errorf("%s: %d, %s: %q, want %q", c.why, resp.StatusCode, c.name, got, c.value)
		}
	}
}

func TestConditionals(t *testing.T) {
	t.Parallel()
	s := newSingle(t, volumehttp.Options{})
	const at, before, after = "Fri, 14 Jul 2017 02:40:00 GMT", "Fri, 14 Jul 2017 02:39:59 GMT", "Fri, 14 Jul 2017 02:40:01 GMT"
	resp, _ := s.do("PUT", "/1,01deadbeef?ts=1500000000", "0123456789")
	tag := resp.Header.Get("Etag")
	for _, c := range []struct {
		why     string
		headers []string
		status  int
	}{
		{"no condition", nil, 200},
		{"our tag, weak, in a list", []string{"If-None-Match", `"a", W/"b", W/` + tag}, 304},
		{"a star", []string{"If-None-Match", "*"}, 304},
		{"a tag that contains ours", []string{"If-None-Match", `"x` + strings.Trim(tag, `"`) + `"`}, 200},
		{"a tag without quotes", []string{"If-None-Match", strings.Trim(tag, `"`)}, 200},
		{"half a tag", []string{"If-None-Match", `"`}, 200},
		{"another tag and an old date", []string{"If-None-Match", `"a"`, "If-Modified-Since", after}, 200},
		{"our tag to go on", []string{"If-Match", `"a", ` + tag}, 200},
		{"our tag, but weak, to go on", []string{"If-Match", "W/" + tag}, 412},
		{"any tag to go on", []string{"If-Match", "*"}, 200},
		{"another tag to go on", []string{"If-Match", `"a"`, "If-Unmodified-Since", at}, 412},
		{"unchanged since", []string{"If-Unmodified-Since", at}, 200},
		{"changed since", []string{"If-Unmodified-Since", before}, 412},
		{"a range of our tag", []string{"Range", "bytes=1-2", "If-Range", tag}, 206},
		{"a range of our tag, but weak", []string{"Range", "bytes=1-2", "If-Range", "W/" + tag}, 200},
		{"a range of our date", []string{"Range", "bytes=1-2", "If-Range", at}, 206},
		{"a range of a later date", []string{"Range", "bytes=1-2", "If-Range", after}, 200},
		{"a range of nonsense", []string{"Range", "bytes=1-2", "If-Range", "x"}, 200},
		{"not modified before its range", []string{"Range", "bytes=99-", "If-None-Match", tag}, 304},
	} {
		if resp, _ := s.do("GET", "/1,01deadbeef", "", c.headers...); resp.StatusCode != c.status {
			t.Errorf("%s: %d, want %d", c.why, resp.StatusCode, c.status)
		}
	}
}

// Content larger than what is unpacked into memory is unpacked twice.
func TestLargePackedContent(t *testing.T) {
	t.Parallel()
	s := newSingle(t, volumehttp.Options{})
	plain := strings.Repeat("0123456789abcdef", 200_000)
	s.do("PUT", "/1,01deadbeef", plain, "Content-Type", "text/plain")
	if _, body := s.do("GET", "/1,01deadbeef", ""); body != plain {
		t.Errorf("got %d bytes, want %d", len(body), len(plain))
	}
	if resp, body := s.do("GET", "/1,01deadbeef", "", "Accept-Encoding", "br, *;q=0.1"); resp.Header.Get("Content-Encoding") != "gzip" || len(body) >= len(plain) {
		t.Errorf("not sent packed: %d bytes", len(body))
	}
	resp, body := s.do("GET", "/1,01deadbeef", "", "Range", "bytes=3000000-3000015,3-4", "Accept-Encoding", "gzip")
	if resp.StatusCode != 206 || !strings.Contains(body, "\r\n\r\n"+plain[3000000:3000016]+"\r\n") || !strings.Contains(body, "\r\n\r\n34\r\n") {
		t.Errorf("ranges: %d %q", resp.StatusCode, body)
	}
}

func TestUploadsWaitForRoom(t *testing.T) {
	t.Parallel()
	s := newSingle(t, volumehttp.Options{Limits: volumehttp.Limits{Uploads: needle.Footprint(90) + needle.Footprint(10), Wait: time.Millisecond}})
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "PUT /1,01deadbeef HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 90\r\n\r\n")
	r := bufio.NewReader(conn)
	if line, err := r.ReadString('\n'); err != nil || !strings.Contains(line, "100") {
		t.Fatalf("%q, %v", line, err) // it is being read, so it has its room
	}
	resp, _ := s.do("PUT", "/1,02deadbeef", strings.Repeat("x", 20))
	if resp.StatusCode != 429 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("second upload: %d, Retry-After %q", resp.StatusCode, resp.Header.Get("Retry-After"))
	}
	if resp, _ := s.do("PUT", "/1,03deadbeef", "small"); resp.StatusCode != 201 {
		t.Errorf("small upload: %d", resp.StatusCode)
	}
	fmt.Fprint(conn, strings.Repeat("y", 90))
	if _, err := r.ReadString('\n'); err != nil { // the rest of the interim answer
		t.Fatal(err)
	}
	if line, err := r.ReadString('\n'); err != nil || !strings.Contains(line, "201") {
		t.Fatalf("%q, %v", line, err)
	}
	if resp, _ := s.do("PUT", "/1,02deadbeef", strings.Repeat("x", 99_000)); resp.StatusCode != 201 {
		t.Errorf("an upload above the limit, alone: %d", resp.StatusCode)
	}
}

func TestLimitsChangeLive(t *testing.T) {
	t.Parallel()
	api := volumehttp.New(volumehttp.Options{Blobs: &node{Blobs: volumetest.NewBlobs(1)}, Log: discard(), Limits: volumehttp.Limits{File: 3}})
	for _, c := range []struct {
		limit  int64
		status int
	}{{3, 413}, {4, 201}, {0, 201}, {3, 413}} {
		api.SetLimits(volumehttp.Limits{File: c.limit})
		w := httptest.NewRecorder()
		api.Handler().ServeHTTP(w, httptest.NewRequest("PUT", fmt.Sprintf("/1,%02xdeadbeef", c.limit+1), strings.NewReader("four")))
		if w.Code != c.status {
			t.Errorf("limit %d: %d, want %d", c.limit, w.Code, c.status)
		}
	}
}

// A download counts from when it was read until the client has taken it, whatever
// else it asks: a real client that takes nothing keeps others out until it is gone.
func TestDownloadsWaitForRoom(t *testing.T) {
	t.Parallel()
	s := newSingle(t, volumehttp.Options{Limits: volumehttp.Limits{Downloads: 8 << 20, Wait: 50 * time.Millisecond}})
	s.do("PUT", "/1,01deadbeef", strings.Repeat("x", 16<<20), "Content-Type", "a/b")
	s.do("PUT", "/1,02deadbeef", "small", "Content-Type", "a/b")
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /1,01deadbeef HTTP/1.1\r\nHost: x\r\n\r\n")
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, "200") {
		t.Fatalf("%q, %v", line, err) // it is being sent
	}
	resp, body := s.do("GET", "/1,02deadbeef", "")
	if resp.StatusCode != 429 || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, "8388608") {
		t.Errorf("second download: %d %q", resp.StatusCode, body)
	}
	if resp, _ := s.do("PUT", "/1,03deadbeef", "x"); resp.StatusCode != 201 {
		t.Errorf("an upload: %d", resp.StatusCode)
	}
	conn.Close()
	for deadline := time.Now().Add(10 * time.Second); ; {
		if resp, body = s.do("GET", "/1,02deadbeef", ""); resp.StatusCode == 200 && body == "small" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after the client is gone: %d %q", resp.StatusCode, body)
		}
	}
}

// What a node cannot send now another holder can.
func TestABusyHolderIsPassedOver(t *testing.T) {
	t.Parallel()
	holder := &node{Blobs: volumetest.NewBlobs(2), held: 2}
	at := serve(t, holder, volumehttp.Options{})
	there := &single{t, holder, "http://" + at, client(t)}
	there.do("PUT", "/2,01deadbeef", "over there", "Content-Type", "a/b")
	busy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(429) }))
	t.Cleanup(busy.Close)
	n := &elsewhere{node{Blobs: volumetest.NewBlobs(1)}, []volume.Node{{URL: strings.TrimPrefix(busy.URL, "http://")}, {URL: at}}}
	srv := httptest.NewServer(volumehttp.New(volumehttp.Options{Blobs: n, Log: discard()}).Handler())
	t.Cleanup(srv.Close)
	s := &single{t, nil, srv.URL, client(t)}
	for range 8 { // in whatever order they are asked
		if resp, body := s.do("GET", "/2,01deadbeef", ""); resp.StatusCode != 200 || body != "over there" {
			t.Fatalf("%d %q", resp.StatusCode, body)
		}
	}
}

// The public port reads files, and does nothing else.
func TestThePublicPortOnlyReads(t *testing.T) {
	t.Parallel()
	api := volumehttp.New(volumehttp.Options{Blobs: &node{Blobs: volumetest.NewBlobs(1)}, Log: discard(), Metrics: http.NotFoundHandler()})
	api.Handler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("PUT", "/1,01deadbeef", strings.NewReader("content")))
	for request, status := range map[string]int{
		"GET /1,01deadbeef": 200, "HEAD /1/01deadbeef/n.txt": 200, "OPTIONS /1,01deadbeef": 200, "OPTIONS /x": 200,
		"PUT /1,01deadbeef": 405, "POST /1,02deadbeef": 405, "DELETE /1,01deadbeef": 405, "PATCH /1,01deadbeef": 405, "POST /admin/scrub": 405,
		"GET /status": 400, "GET /healthz": 400, "GET /readyz": 400, "GET /metrics": 400, "GET /ui/index.html": 400, "GET /admin/scrub": 400,
	} {
		method, path, _ := strings.Cut(request, " ")
		w := httptest.NewRecorder()
		api.Public().ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader("other")))
		if w.Code != status || (status == 405) != (w.Header().Get("Allow") == "GET, HEAD, OPTIONS") {
			t.Errorf("%s: %d %v, want %d", request, w.Code, w.Header(), status)
		}
	}
	w := httptest.NewRecorder()
	api.Public().ServeHTTP(w, httptest.NewRequest("GET", "/1,01deadbeef", nil))
	if w.Body.String() != "content" {
		t.Errorf("the file is now %q", w.Body)
	}
}

// A page that is listed may use cookies, and is named; none other may.
func TestOrigins(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		origins               []string
		page, allow, with, by string // what is sent, and the three headers of the answer
	}{
		{nil, "http://a.example", "*", "", ""},
		{nil, "", "", "", ""},
		{[]string{"http://a.example", "https://b.example"}, "https://b.example", "https://b.example", "true", "Origin"},
		{[]string{"http://a.example"}, "https://a.example", "", "", "Origin"},
		{[]string{"http://a.example"}, "", "", "", "Origin"},
	} {
		s := newSingle(t, volumehttp.Options{Origins: c.origins})
		s.do("PUT", "/1,01deadbeef", strings.Repeat("text ", 100), "Content-Type", "text/plain")
		var headers []string
		if c.page != "" {
			headers = []string{"Origin", c.page, "Access-Control-Request-Headers", "X-Own"}
		}
		for _, request := range []string{"OPTIONS /1,01deadbeef", "GET /1,01deadbeef", "GET /1,02deadbeef"} {
			method, path, _ := strings.Cut(request, " ")
			resp, _ := s.do(method, path, "", headers...)
			h := resp.Header
			if h.Get("Access-Control-Allow-Origin") != c.allow || h.Get("Access-Control-Allow-Credentials") != c.with ||
				strings.TrimPrefix(strings.Join(h["Vary"], ""), "Accept-Encoding") != c.by {
				t.Errorf("%v, page %q, %s: %v", c.origins, c.page, request, h)
			}
			if want := map[bool]string{true: "X-Own", false: "*"}[c.with != ""]; method == "OPTIONS" && h.Get("Access-Control-Allow-Headers") != want {
				t.Errorf("%v, page %q: headers %q, want %q", c.origins, c.page, h.Get("Access-Control-Allow-Headers"), want)
			}
		}
	}
}

func TestReadModes(t *testing.T) {
	t.Parallel()
	held := &node{Blobs: volumetest.NewBlobs(2), held: 2}
	heldAt := serve(t, held, volumehttp.Options{})
	down := volume.Node{URL: "127.0.0.1:1", PublicURL: "127.0.0.1:1"}
	open := func(mode volumehttp.ReadMode, nodes ...volume.Node) *single {
		n := &elsewhere{node{Blobs: volumetest.NewBlobs(1)}, nodes}
		srv := httptest.NewServer(volumehttp.New(volumehttp.Options{Blobs: n, ReadMode: mode, Hold: 100 * time.Millisecond, Log: discard()}).Handler())
		t.Cleanup(srv.Close)
		return &single{t, nil, srv.URL, client(t)}
	}
	s := &single{t, held, "http://" + heldAt, client(t)}
	s.do("PUT", "/2/01deadbeef/a%20b.txt", "over there")
	const path = "/2/01deadbeef/c%20d.txt?dl=1"
	for _, c := range []struct {
		why    string
		from   *single
		path   string
		status int
	}{
		{"fetched", open("", held.addr), path, 200},
		{"fetched, though another holder is down", open(volumehttp.ReadProxy, down, held.addr, down), path, 200},
		{"nobody answers", open(volumehttp.ReadProxy, down, down), path, 503},
		{"nobody holds it", open(volumehttp.ReadProxy), path, 404},
		{"passed on before", open(volumehttp.ReadProxy, held.addr), path + "&proxied=true", 503},
		{"local only", open(volumehttp.ReadLocal, held.addr), path, 404},
		{"redirected", open(volumehttp.ReadRedirect, held.addr), path, 307},
	} {
		resp, body := c.from.do("GET", c.path, "")
		if resp.StatusCode != c.status {
			t.Errorf("%s: %d, want %d", c.why, resp.StatusCode, c.status)
		}
		if c.status == 200 && (body != "over there" || resp.Header.Get("Content-Disposition") != `attachment; filename="c d.txt"` ||
			len(resp.Header["X-Amz-Request-Id"]) != 1) {
			t.Errorf("%s: %q %v", c.why, body, resp.Header)
		}
		if want := "http://" + heldAt + path + "&proxied=true"; c.status == 307 && resp.Header.Get("Location") != want {
			t.Errorf("%s: to %s, want %s", c.why, resp.Header.Get("Location"), want)
		}
	}
}

// A frozen process takes connections and says nothing. A read must not wait until
// it is given up: the client here is gone before that.
func TestAFrozenHolderIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	held := &node{Blobs: volumetest.NewBlobs(2), held: 2}
	there := volume.Node{URL: serve(t, held, volumehttp.Options{})}
	s := &single{t, held, "http://" + there.URL, client(t)}
	s.do("PUT", "/2,01deadbeef", "over there")
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(server.Close) // waits until nobody waits for an answer any more
	frozen := volume.Node{URL: strings.TrimPrefix(server.URL, "http://")}
	n := &elsewhere{node{Blobs: volumetest.NewBlobs(1)}, []volume.Node{frozen, frozen, there, frozen}}
	here := httptest.NewServer(volumehttp.New(volumehttp.Options{Blobs: n, Log: discard()}).Handler())
	t.Cleanup(here.Close)
	s = &single{t, &n.node, here.URL, client(t)}
	s.http.Timeout = 4 * time.Second
	for range 4 { // the order is random
		if resp, body := s.do("GET", "/2,01deadbeef", ""); resp.StatusCode != http.StatusOK || body != "over there" {
			t.Errorf("%d %q", resp.StatusCode, body)
		}
	}
}

// elsewhere is a node whose volumes all are elsewhere.
type elsewhere struct {
	node
	nodes []volume.Node
}

func (e *elsewhere) Get(_ context.Context, id volume.FileID, _ bool) (*needle.Needle, error) {
	return nil, &volume.ElsewhereError{Volume: id.Volume, Nodes: e.nodes}
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	s := newSingle(t, volumehttp.Options{})
	s.node.notYet = []string{"no master has been reached"}
	resp, body := s.do("GET", "/readyz", "")
	if want := `{"ready":false,"reasons":["no master has been reached"]}`; resp.StatusCode != 503 || body != want {
		t.Errorf("%d %s, want 503 %s", resp.StatusCode, body, want)
	}
	if resp, _ := s.do("GET", "/healthz", ""); resp.StatusCode != 200 {
		t.Errorf("healthz: %d", resp.StatusCode)
	}
	if _, body := s.do("GET", "/status?pretty=y", ""); !strings.HasPrefix(body, "{\n  \"DiskStatuses\": [") || strings.HasSuffix(body, "\n") {
		t.Errorf("pretty status: %s", body)
	}
}

// failing is a node whose volume role fails in ways nobody expects.
type failing struct {
	node
	err error
}

func (f *failing) Get(context.Context, volume.FileID, bool) (*needle.Needle, error) {
	if f.err == nil {
		panic("a mistake")
	}
	return nil, f.err
}

func (f *failing) Put(context.Context, volume.FileID, *needle.Needle, bool) (volume.PutResult, error) {
	return volume.PutResult{}, f.err
}

// full takes no deletions.
type full struct{ *node }

func (full) Delete(context.Context, volume.FileID, uint64) (int64, error) {
	return 0, fmt.Errorf("%w: disk", volume.ErrNoSpace)
}

// A disk without room for the record of a deletion is no reason to give up.
func TestADeleteOnAFullDisk(t *testing.T) {
	t.Parallel()
	f := full{&node{Blobs: volumetest.NewBlobs(1)}}
	handler := volumehttp.New(volumehttp.Options{Blobs: f, Log: discard()}).Handler()
	for _, c := range [][2]string{{"PUT", "201 "}, {"DELETE", `507 {"error":"no space left: disk"}`}} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(c[0], "/1,01deadbeef", strings.NewReader("x")))
		if got := fmt.Sprintf("%d %s", w.Code, w.Body); !strings.HasPrefix(got, c[1]) {
			t.Errorf("%s: %s, want %s", c[0], got, c[1])
		}
	}
}

func TestFailuresInside(t *testing.T) {
	t.Parallel()
	f := &failing{node: node{Blobs: volumetest.NewBlobs(1)}}
	handler := volumehttp.New(volumehttp.Options{Blobs: f, Log: discard()}).Handler()
	for _, c := range []struct {
		err    error
		method string
		status int
		body   string
	}{
		{nil, "GET", 500, `{"error":"internal error"}`},
		{errors.New("secret"), "GET", 500, ""},
		{errors.New("secret"), "PUT", 500, `{"error":"internal error"}`},
		{fmt.Errorf("%w: bad sum", volume.ErrCorrupt), "GET", 500, ""},
		{fmt.Errorf("%w: no primary", volume.ErrUnavailable), "PUT", 503, `{"error":"temporarily unavailable: no primary"}`},
		{fmt.Errorf("%w: no primary", volume.ErrUnavailable), "GET", 503, ""},
		{fmt.Errorf("%w: disk", volume.ErrNoSpace), "PUT", 507, `{"error":"no space left: disk"}`},
		{context.DeadlineExceeded, "PUT", 503, `{"error":"context deadline exceeded"}`},
	} {
		f.err = c.err
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(c.method, "/1,01deadbeef", strings.NewReader("x")))
		if w.Code != c.status || w.Body.String() != c.body || (c.status == 503) != (w.Header().Get("Retry-After") != "") {
			t.Errorf("%s, %v: %d %s %v", c.method, c.err, w.Code, w.Body, w.Header())
		}
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	api := volumehttp.New(volumehttp.Options{Blobs: &node{Blobs: volumetest.NewBlobs(1)}, Log: discard()})
	w := httptest.NewRecorder()
	api.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/1,01deadbeef", bytes.NewReader(nil)))
	got := gather(t, api)
	for _, want := range []string{
		`weedd_http_requests_total{api="volume",code="404",method="GET"} 1`,
		`weedd_http_requests_running{api="volume"} 0`,
		`weedd_http_request_seconds{api="volume",method="GET"} 1`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
}

// HEAD has the status and all headers of GET, and no body, whatever is asked for.
func TestHeadIsGetWithoutTheBody(t *testing.T) {
	t.Parallel()
	api := volumehttp.New(volumehttp.Options{Blobs: &node{Blobs: volumetest.NewBlobs(1)}, Log: discard(), Images: 64 << 20})
	do := func(method, target, body string, headers ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, target, strings.NewReader(body))
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		w := httptest.NewRecorder()
		api.Handler().ServeHTTP(w, r)
		return w
	}
	for target, body := range map[string]string{
		"/1/01deadbeef/a.txt":         strings.Repeat("text ", 100), // kept packed
		"/1,02deadbeef":               "\x89 no type",
		"/1,03deadbeef":               "",
		"/1/04deadbeef/p.png":         pngOf(t, 40, 20),
		"/1,05deadbeef?cm=true":       `{"name":"c.txt","mime":"text/x-c","chunks":[{"fid":"1,02deadbeef","size":9}]}`,
		"/1,08deadbeef?cm=true":       `{"name":"broken","chunks":[{"fid":"1,02deadbeef","size":10}]}`,
		"/1,06deadbeef.css?ts=150000": "a{}",
	} {
		if w := do("PUT", target, body, "Seaweed-Own", "x"); w.Code != 201 {
			t.Fatalf("%s: %d %s", target, w.Code, w.Body)
		}
	}
	for _, target := range []string{"/1,01deadbeef", "/1/01deadbeef/b.html?dl=1", "/1,02deadbeef", "/1,03deadbeef", "/1,04deadbeef", "/1,04deadbeef.png?width=10", "/1,04deadbeef?width=10&mode=fill&height=4",
		"/1,05deadbeef", "/1,05deadbeef?cm=false", "/1,08deadbeef", "/1,06deadbeef?response-content-type=a/b", "/1,07deadbeef", "/1,01deadbee0", "/2,01deadbeef", "/x", "/1,01deadbeef?%zz"} {
		for _, headers := range [][]string{nil, {"Accept-Encoding", "gzip"}, {"If-None-Match", "*"}, {"If-Match", `"x"`}, {"Origin", "http://a"}, {"Want-Repr-Digest", "sha-256=1"}} {
			get, head := do("GET", target, "", headers...), do("HEAD", target, "", headers...)
			if head.Code != get.Code || head.Body.Len() > 0 {
				t.Errorf("%s %v: HEAD %d with %d bytes, GET %d", target, headers, head.Code, head.Body.Len(), get.Code)
			}
			for _, h := range []http.Header{get.Header(), head.Header()} {
				h.Del("X-Amz-Request-Id")
			}
			if a, b := fmt.Sprint(get.Header()), fmt.Sprint(head.Header()); a != b {
				t.Errorf("%s %v: GET has\n%s, HEAD\n%s", target, headers, a, b)
			}
		}
	}
}
