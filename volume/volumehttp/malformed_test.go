package volumehttp_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"weedd/volume/volumehttp"
	"weedd/volume/volumetest"
)

// malformed are requests that no client should send, in groups that get the same
// answer. Each is "METHOD path | body | Header: value | ...".
var malformed = []struct {
	status   int
	text     string // in the error
	requests []string
}{
	{400, "file id", []string{"PUT /1 | x", "PUT /1x | x", "DELETE /12", "POST /1.jpg | x", "PUT /1;01deadbeef | x"}},
	{400, "volume id", []string{"PUT /0,01deadbeef | x", "PUT /00,01deadbeef | x", "PUT /4294967296,01deadbeef | x", "PUT /99999999999999999999,01deadbeef | x",
		"PUT /1a,01deadbeef | x", "PUT /1 1,01deadbeef | x", "DELETE /0,01deadbeef", "DELETE /4294967297,01deadbeef", "PUT /0x1,01deadbeef | x", "PUT /1.0,01deadbeef | x",
		"PUT /0/01deadbeef | x", "DELETE /1a/01deadbeef", "PUT /1,/01deadbeef | x", "PUT /1é,01deadbeef | x"}},
	{400, "Invalid fid", []string{"PUT /1, | x", "PUT /1,1 | x", "PUT /1,deadbeef | x", "DELETE /1,deadbeef", "PUT /1,.jpg | x", "PUT /1,_1 | x", "PUT /1/deadbeef | x",
		"PUT /1,01deadbeef_x | x", "PUT /1,01deadbeef_-1 | x", "PUT /1,01deadbeef_1.5.jpg | x", "PUT /1,01deadbeef_0x1 | x",
		"DELETE /1,01deadbeef_99999999999999999999", "PUT /1,ffffffffffffffffdeadbeef_1 | x", "PUT /1,01deadbeef_+1 | x"}},
	{400, "KeyHash is too long", []string{"PUT /1,00000000000000000deadbeef | x", "DELETE /1,00000000000000000deadbeef", "PUT /1/00000000000000000deadbeef/n.txt | x"}},
	{400, "is not hex", []string{"PUT /1,0gdeadbeef | x", "PUT /1,01deadbeeg | x", "DELETE /1,0-1deadbeef", "PUT /1,0x01deadbeef | x", "PUT /1,01deadbee  | x", "PUT /1,01%00deadbeef | x",
		"PUT /1,01déadbeef | x", "DELETE /1/zzdeadbeef"}},
	{400, "no such path", []string{"PUT /x | x", "PUT / | x", "POST /submit | x", "DELETE /status/1", "PUT /1/2/3/4 | x", "DELETE //1,01deadbeef", "POST /delete | x", "PUT /-1,01deadbeef | x",
		"PUT /,01deadbeef | x", "DELETE /admin/scrub", "PUT /1/01deadbeef/a/b | x", "POST /stats/disk | x", "PUT /é | x"}},
	{400, "unsupported method", []string{"PATCH /1,01deadbeef | x", "BREW /1,01deadbeef", "LINK /x", "PROPFIND /1,01deadbeef", "get /1,01deadbeef", "TRACE /1,01deadbeef"}},
	{400, "query", []string{"PUT /1,02deadbeef?a=%zz | x", "PUT /1,02deadbeef?% | x", "PUT /1,02deadbeef?a;b | x", "DELETE /1,01deadbeef?%%", "PUT /1,02deadbeef?ttl=5m;ts=3 | x"}},
	{400, "ttl", []string{"PUT /1,02deadbeef?ttl=x | x", "PUT /1,02deadbeef?ttl=-5m | x", "PUT /1,02deadbeef?ttl=5s | x", "PUT /1,02deadbeef?ttl=m | x", "PUT /1,02deadbeef?ttl=256y | x",
		"PUT /1,02deadbeef?ttl=5mm | x", "PUT /1,02deadbeef?ttl=1.5h | x", "PUT /1,02deadbeef?ttl=99999999999999999999 | x", "PUT /1,02deadbeef?ttl=%00 | x"}},
	{400, "isn't multipart/form-data", []string{"POST /1,02deadbeef | x", "POST /1,02deadbeef | x | Content-Type: form-data", "POST /1,02deadbeef | x | Content-Type: form-data;;;=",
		"POST /1,02deadbeef | x | Content-Type: text/form-data; boundary=b", "POST /1,02deadbeef | x | Content-Type: multipart/form-data; boundary", "POST /1,02deadbeef | x | Content-Type: multipart/form-data; boundary="}},
	{400, "no multipart boundary", []string{"POST /1,02deadbeef | x | Content-Type: multipart/form-data",
		`POST /1,02deadbeef | x | Content-Type: multipart/form-data; boundary=""`}},
	{400, "EOF", []string{form(""), form("x"), form("--b\r\n"), form("--c\r\n\r\nx\r\n--c--"), form("--b--"), form("--b\r\nContent-Disposition: form-data; filename=a\r\n\r\nx"),
		form("--b\r\nContent-Disposition: form-data")}},
	{400, "malformed MIME header", []string{form("--b\r\nno colon\r\n\r\nx\r\n--b--"), form("--b\r\n: x\r\n\r\nx\r\n--b--")}},
	{400, "bad request", []string{form("--b\r\n" + strings.Repeat("X: y\r\n", 20_000) + "\r\nx\r\n--b--"), "POST /1,02deadbeef | x | Content-Type: multipart/form-data; boundary=" + strings.Repeat("b", 100),
		form(strings.Repeat("--b\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n", 1100))}},
	{400, "Content-MD5", []string{"PUT /1,02deadbeef | x | Content-MD5: x", "PUT /1,02deadbeef | x | Content-MD5: AAAA", "PUT /1,02deadbeef | x | Content-MD5: d41d8cd98f00b204e9800998ecf8427e",
		"PUT /1,02deadbeef | x | Content-MD5: AAAAAAAAAAAAAAAAAAAAAA==", form("--b\r\nContent-Disposition: form-data; filename=a\r\nContent-MD5: !\r\n\r\nx\r\n--b--")}},
	{400, "Content-Digest", []string{"PUT /1,02deadbeef | x | Content-Digest: sha-256", "PUT /1,02deadbeef | x | Content-Digest: sha-256=x", "PUT /1,02deadbeef | x | Content-Digest: sha-256=:x:",
		"PUT /1,02deadbeef | x | Content-Digest: sha-512=:AAAA:", "PUT /1,02deadbeef | x | Content-Digest: sha-256=:" + strings.Repeat("A", 43) + "=:", "PUT /1,02deadbeef | x | Content-Digest: md5=:AA==:, sha-256=::"}},
	{400, "Repr-Digest", []string{"PUT /1,02deadbeef | x | Repr-Digest: sha-256", "PUT /1,02deadbeef | x | Repr-Digest: sha-512=:" + strings.Repeat("A", 86) + "==:"}},
	{400, "chunk manifest", []string{"PUT /1,02deadbeef?cm=true | x", "PUT /1,02deadbeef?cm=1 | []", "PUT /1,02deadbeef?cm=t | ", `PUT /1,02deadbeef?cm=true | {"chunks":[{}]}`,
		`PUT /1,02deadbeef?cm=true | {"chunks":[{"fid":"1,01deadbeef","offset":5,"size":1}]}`, `PUT /1,02deadbeef?cm=true | {"chunks":[{"fid":"1,01deadbeef","size":-1}]}`,
		`PUT /1,02deadbeef?cm=true | {"chunks":[{"fid":"x","size":1}]}`, `PUT /1,02deadbeef?cm=true | {"chunks":{}}`, `PUT /1,02deadbeef?cm=true | {"size":1e400}`,
		`PUT /1,02deadbeef?cm=true | {"chunks":[{"fid":"1,01deadbeef","size":1.5}]}`, `PUT /1,02deadbeef?cm=true | {"chunks":[{"fid":7}]}`}},
	{400, "the name in the path", []string{"PUT /1/02deadbeef/" + strings.Repeat("n", 256) + " | x", "DELETE /1/01deadbeef/" + strings.Repeat("n", 5000)}},
	{400, "Cookie does not match", []string{"DELETE /1,01deadbeee", "DELETE /1/01deadbee0", "DELETE /1,0100000000"}},
	{409, "already exists", []string{"PUT /1,01deadbeef?create=true | other"}},
	{413, "over the limited 1000 bytes", []string{"PUT /1,02deadbeef | " + strings.Repeat("x", 1001), form("--b\r\nContent-Disposition: form-data; filename=a\r\n\r\n" + strings.Repeat("x", 1001) + "\r\n--b--"),
		"POST /1,02deadbeef | " + strings.Repeat("x", 1001) + " | Content-Type: a/b"}},
	{413, "when unpacked", []string{"PUT /1,02deadbeef | " + gzipped(strings.Repeat("x", 5000)) + " | Content-Encoding: gzip"}},
	{500, "volume not found", []string{"PUT /2,01deadbeef | x", "POST /4294967295,01deadbeef | x | Content-Type: a/b"}},
	{500, "cookie", []string{"PUT /1,01deadbeee | x", "PUT /1/0100000000/n | x"}},
	{416, "invalid range", []string{"GET /1,01deadbeef || Range: bytes=7-", "GET /1,01deadbeef || Range: bytes=5-2", "GET /1,01deadbeef || Range: bytes=a-b", "GET /1,01deadbeef || Range: bytes=1",
		"GET /1,01deadbeef || Range: bytes=-0", "GET /1,01deadbeef || Range: bytes=--1", "GET /1,01deadbeef || Range: bytes=1-2-3", "GET /1,01deadbeef || Range: bytes=0-1,x",
		"GET /1,01deadbeef || Range: bytes=99999999999999999999-", "GET /1,01deadbeef || Range: bytes=0x1-2", "GET /1,01deadbeef || Range: bytes=1 -2", "GET /1,01deadbeef || Range: bytes=+1-2"}},
	{400, "", []string{"GET /x", "HEAD /x", "GET /", "GET /1", "GET /1,zz", "GET /0,01deadbeef", "GET /1,01deadbeef_x", "GET /1,01deadbeef?%zz", "GET /4294967297,01deadbeef", "GET /ui/index.html", "GET /1/2/3/4", "GET /../1"}},
	{404, "", []string{"GET /1,03deadbeef", "GET /1,01deadbeee", "GET /2,01deadbeef", "HEAD /1,01deadbeee", "GET /1/01deadbeee/x.jpg?width=3", "GET /1,03deadbeef?readDeleted=true"}},
	{404, "", []string{"DELETE /1,03deadbeef", "DELETE /2,01deadbeef"}},
}

func form(body string) string {
	return "POST /1,02deadbeef | " + body + " | Content-Type: multipart/form-data; boundary=b"
}

// Every one of them gets a clear error, stores and changes nothing, panics nowhere,
// and is not worth a line in the log.
func TestMalformedRequests(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	api := volumehttp.New(volumehttp.Options{Blobs: &node{Blobs: volumetest.NewBlobs(1)}, Limits: volumehttp.Limits{File: 1000},
		Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelInfo}))})
	do := func(method, target, body string, headers ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "/", strings.NewReader(body))
		path, query, _ := strings.Cut(target, "?")
		r.Method, r.URL = method, &url.URL{Path: path, RawQuery: query}
		for _, h := range headers {
			name, value, _ := strings.Cut(strings.TrimSpace(h), ": ")
			r.Header.Set(name, value)
		}
		w := httptest.NewRecorder()
		api.Handler().ServeHTTP(w, r)
		return w
	}
	if w := do("PUT", "/1,01deadbeef", "content", "Content-Type: text/plain"); w.Code != 201 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	count := 0
	for _, group := range malformed {
		for _, request := range group.requests {
			count++
			parts := strings.Split(request, " | ")
			if line, rest, ok := strings.Cut(request, " || "); ok { // without a body
				parts = []string{line, "", rest}
			}
			method, target, _ := strings.Cut(parts[0], " ")
			body := ""
			if len(parts) > 1 {
				body = parts[1]
			}
			var headers []string
			if len(parts) > 2 {
				headers = parts[2:]
			}
			w := do(method, target, body, headers...)
			answer := w.Body.String()
			wordless := group.text == "" && (method == http.MethodHead || method == http.MethodGet && answer == "" || answer == `{"size":0}`)
			if w.Code != group.status || !strings.Contains(answer, group.text) || group.text == "" && !wordless || len(answer) > 600 {
				t.Errorf("%.100q: %d %.300q, want %d and %q", request, w.Code, answer, group.status, group.text)
			}
		}
	}
	if count < 150 {
		t.Errorf("only %d requests", count)
	}
	if w := do("GET", "/1,01deadbeef", ""); w.Body.String() != "content" {
		t.Errorf("the file is now %d %q", w.Code, w.Body)
	}
	if w := do("GET", "/1,02deadbeef", ""); w.Code != 404 {
		t.Errorf("something was stored: %d %q", w.Code, w.Body)
	}
	if log.Len() > 0 {
		t.Errorf("logged:\n%s", log.String())
	}
}
