package volumehttp_test

import (
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"weedd/volume/volumehttp"
	"weedd/volume/volumetest"
)

var malformed = []volumetest.Malformed{
	{Status: 400, Text: "file id", Requests: []string{"PUT /1 | x", "PUT /1x | x", "DELETE /12", "POST /1.jpg | x", "PUT /1;01deadbeef | x"}},
	{Status: 400, Text: "volume id", Requests: []string{"PUT /0,01deadbeef | x", "PUT /00,01deadbeef | x", "PUT /4294967296,01deadbeef | x", "PUT /99999999999999999999,01deadbeef | x",
		"PUT /1a,01deadbeef | x", "PUT /1 1,01deadbeef | x", "DELETE /0,01deadbeef", "DELETE /4294967297,01deadbeef", "PUT /0x1,01deadbeef | x", "PUT /1.0,01deadbeef | x",
		"PUT /0/01deadbeef | x", "DELETE /1a/01deadbeef", "PUT /1,/01deadbeef | x", "PUT /1é,01deadbeef | x"}},
	{Status: 400, Text: "Invalid fid", Requests: []string{"PUT /1, | x", "PUT /1,1 | x", "PUT /1,deadbeef | x", "DELETE /1,deadbeef", "PUT /1,.jpg | x", "PUT /1,_1 | x", "PUT /1/deadbeef | x",
		"PUT /1,01deadbeef_x | x", "PUT /1,01deadbeef_-1 | x", "PUT /1,01deadbeef_1.5.jpg | x", "PUT /1,01deadbeef_0x1 | x",
		"DELETE /1,01deadbeef_99999999999999999999", "PUT /1,ffffffffffffffffdeadbeef_1 | x", "PUT /1,01deadbeef_+1 | x"}},
	{Status: 400, Text: "KeyHash is too long", Requests: []string{"PUT /1,00000000000000000deadbeef | x", "DELETE /1,00000000000000000deadbeef", "PUT /1/00000000000000000deadbeef/n.txt | x"}},
	{Status: 400, Text: "is not hex", Requests: []string{"PUT /1,0gdeadbeef | x", "PUT /1,01deadbeeg | x", "DELETE /1,0-1deadbeef", "PUT /1,0x01deadbeef | x", "PUT /1,01deadbee  | x", "PUT /1,01%00deadbeef | x",
		"PUT /1,01déadbeef | x", "DELETE /1/zzdeadbeef"}},
	{Status: 400, Text: "no such path", Requests: []string{"PUT /x | x", "PUT / | x", "POST /submit | x", "DELETE /status/1", "PUT /1/2/3/4 | x", "DELETE //1,01deadbeef", "PUT /-1,01deadbeef | x",
		"PUT /,01deadbeef | x", "DELETE /admin/scrub", "PUT /1/01deadbeef/a/b | x", "POST /stats/disk | x", "PUT /é | x"}},
	{Status: 400, Text: "file ids to delete", Requests: []string{"POST /delete", "POST /delete | fid=1,01deadbeef", "DELETE /delete?id=1,01deadbeef", "POST /delete?fid=1,01deadbeef" + strings.Repeat("&fid=1,01deadbeef", 1000)}},
	{Status: 400, Text: "fid \\\"", Requests: []string{"POST /delete?fid=", "POST /delete?fid=x", "POST /delete?fid=1,01deadbeef&fid=1", "DELETE /delete?fid=1/01deadbeef", "POST /delete | fid=1,zz | Content-Type: application/x-www-form-urlencoded"}},
	{Status: 400, Text: "invalid URL escape", Requests: []string{"POST /delete?fid=%zz", "POST /delete | fid=%zz | Content-Type: application/x-www-form-urlencoded"}},
	{Status: 413, Text: "a form over", Requests: []string{"POST /delete | fid=1,01deadbeef&x=" + strings.Repeat("y", 65<<10) + " | Content-Type: application/x-www-form-urlencoded"}},
	{Status: 400, Text: "unsupported method", Requests: []string{"PATCH /1,01deadbeef | x", "BREW /1,01deadbeef", "LINK /x", "PROPFIND /1,01deadbeef", "get /1,01deadbeef", "TRACE /1,01deadbeef"}},
	{Status: 400, Text: "query", Requests: []string{"PUT /1,02deadbeef?a=%zz | x", "PUT /1,02deadbeef?% | x", "PUT /1,02deadbeef?a;b | x", "DELETE /1,01deadbeef?%%", "PUT /1,02deadbeef?ttl=5m;ts=3 | x"}},
	{Status: 400, Text: "ttl", Requests: []string{"PUT /1,02deadbeef?ttl=x | x", "PUT /1,02deadbeef?ttl=-5m | x", "PUT /1,02deadbeef?ttl=5s | x", "PUT /1,02deadbeef?ttl=m | x", "PUT /1,02deadbeef?ttl=256y | x",
		"PUT /1,02deadbeef?ttl=5mm | x", "PUT /1,02deadbeef?ttl=1.5h | x", "PUT /1,02deadbeef?ttl=99999999999999999999 | x", "PUT /1,02deadbeef?ttl=%00 | x"}},
	{Status: 400, Text: "isn't multipart/form-data", Requests: []string{"POST /1,02deadbeef | x", "POST /1,02deadbeef | x | Content-Type: form-data", "POST /1,02deadbeef | x | Content-Type: form-data;;;=",
		"POST /1,02deadbeef | x | Content-Type: text/form-data; boundary=b", "POST /1,02deadbeef | x | Content-Type: multipart/form-data; boundary", "POST /1,02deadbeef | x | Content-Type: multipart/form-data; boundary="}},
	{Status: 400, Text: "no multipart boundary", Requests: []string{"POST /1,02deadbeef | x | Content-Type: multipart/form-data",
		`POST /1,02deadbeef | x | Content-Type: multipart/form-data; boundary=""`}},
	{Status: 400, Text: "EOF", Requests: []string{form(""), form("x"), form("--b\r\n"), form("--c\r\n\r\nx\r\n--c--"), form("--b--"), form("--b\r\nContent-Disposition: form-data; filename=a\r\n\r\nx"),
		form("--b\r\nContent-Disposition: form-data")}},
	{Status: 400, Text: "malformed MIME header", Requests: []string{form("--b\r\nno colon\r\n\r\nx\r\n--b--"), form("--b\r\n: x\r\n\r\nx\r\n--b--")}},
	{Status: 400, Text: "bad request", Requests: []string{form("--b\r\n" + strings.Repeat("X: y\r\n", 20_000) + "\r\nx\r\n--b--"), "POST /1,02deadbeef | x | Content-Type: multipart/form-data; boundary=" + strings.Repeat("b", 100),
		form(strings.Repeat("--b\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n", 1100))}},
	{Status: 400, Text: "Content-MD5", Requests: []string{"PUT /1,02deadbeef | x | Content-MD5: x", "PUT /1,02deadbeef | x | Content-MD5: AAAA", "PUT /1,02deadbeef | x | Content-MD5: d41d8cd98f00b204e9800998ecf8427e",
		"PUT /1,02deadbeef | x | Content-MD5: AAAAAAAAAAAAAAAAAAAAAA==", form("--b\r\nContent-Disposition: form-data; filename=a\r\nContent-MD5: !\r\n\r\nx\r\n--b--")}},
	{Status: 400, Text: "Content-Digest", Requests: []string{"PUT /1,02deadbeef | x | Content-Digest: sha-256", "PUT /1,02deadbeef | x | Content-Digest: sha-256=x", "PUT /1,02deadbeef | x | Content-Digest: sha-256=:x:",
		"PUT /1,02deadbeef | x | Content-Digest: sha-512=:AAAA:", "PUT /1,02deadbeef | x | Content-Digest: sha-256=:" + strings.Repeat("A", 43) + "=:", "PUT /1,02deadbeef | x | Content-Digest: md5=:AA==:, sha-256=::"}},
	{Status: 400, Text: "Repr-Digest", Requests: []string{"PUT /1,02deadbeef | x | Repr-Digest: sha-256", "PUT /1,02deadbeef | x | Repr-Digest: sha-512=:" + strings.Repeat("A", 86) + "==:"}},
	{Status: 400, Text: "chunk manifest", Requests: []string{"PUT /1,02deadbeef?cm=true | x", "PUT /1,02deadbeef?cm=1 | []", "PUT /1,02deadbeef?cm=t | ", `PUT /1,02deadbeef?cm=true | {"chunks":[{}]}`,
		`PUT /1,02deadbeef?cm=true | {"chunks":[{"fid":"1,01deadbeef","offset":5,"size":1}]}`, `PUT /1,02deadbeef?cm=true | {"chunks":[{"fid":"1,01deadbeef","size":-1}]}`,
		`PUT /1,02deadbeef?cm=true | {"chunks":[{"fid":"x","size":1}]}`, `PUT /1,02deadbeef?cm=true | {"chunks":{}}`, `PUT /1,02deadbeef?cm=true | {"size":1e400}`,
		`PUT /1,02deadbeef?cm=true | {"chunks":[{"fid":"1,01deadbeef","size":1.5}]}`, `PUT /1,02deadbeef?cm=true | {"chunks":[{"fid":7}]}`}},
	{Status: 400, Text: "the name in the path", Requests: []string{"PUT /1/02deadbeef/" + strings.Repeat("n", 256) + " | x", "DELETE /1/01deadbeef/" + strings.Repeat("n", 5000)}},
	{Status: 400, Text: "Cookie does not match", Requests: []string{"DELETE /1,01deadbeee", "DELETE /1/01deadbee0", "DELETE /1,0100000000"}},
	{Status: 409, Text: "already exists", Requests: []string{"PUT /1,01deadbeef?create=true | other"}},
	{Status: 413, Text: "over the limited 1000 bytes", Requests: []string{"PUT /1,02deadbeef | " + strings.Repeat("x", 1001), form("--b\r\nContent-Disposition: form-data; filename=a\r\n\r\n" + strings.Repeat("x", 1001) + "\r\n--b--"),
		"POST /1,02deadbeef | " + strings.Repeat("x", 1001) + " | Content-Type: a/b"}},
	{Status: 413, Text: "when unpacked", Requests: []string{"PUT /1,02deadbeef | " + gzipped(strings.Repeat("x", 5000)) + " | Content-Encoding: gzip"}},
	{Status: 500, Text: "volume not found", Requests: []string{"PUT /2,01deadbeef | x", "POST /4294967295,01deadbeef | x | Content-Type: a/b"}},
	{Status: 500, Text: "cookie", Requests: []string{"PUT /1,01deadbeee | x", "PUT /1/0100000000/n | x"}},
	{Status: 416, Text: "invalid range", Requests: []string{"GET /1,01deadbeef || Range: bytes=7-", "GET /1,01deadbeef || Range: bytes=5-2", "GET /1,01deadbeef || Range: bytes=a-b", "GET /1,01deadbeef || Range: bytes=1",
		"GET /1,01deadbeef || Range: bytes=-0", "GET /1,01deadbeef || Range: bytes=--1", "GET /1,01deadbeef || Range: bytes=1-2-3", "GET /1,01deadbeef || Range: bytes=0-1,x",
		"GET /1,01deadbeef || Range: bytes=99999999999999999999-", "GET /1,01deadbeef || Range: bytes=0x1-2", "GET /1,01deadbeef || Range: bytes=1 -2", "GET /1,01deadbeef || Range: bytes=+1-2"}},
	{Status: 400, Text: "", Requests: []string{"GET /x", "HEAD /x", "GET /", "GET /1", "GET /1,zz", "GET /0,01deadbeef", "GET /1,01deadbeef_x", "GET /1,01deadbeef?%zz", "GET /4294967297,01deadbeef", "GET /delete?fid=1,01deadbeef", "GET /ui", "GET /1/2/3/4", "GET /../1"}},
	{Status: 404, Text: "", Requests: []string{"GET /1,03deadbeef", "GET /1,01deadbeee", "GET /2,01deadbeef", "HEAD /1,01deadbeee", "GET /1/01deadbeee/x.jpg?width=3", "GET /1,03deadbeef?readDeleted=true"}},
	{Status: 404, Text: "", Requests: []string{"DELETE /1,03deadbeef", "DELETE /2,01deadbeef"}},
}

func form(body string) string {
	return "POST /1,02deadbeef | " + body + " | Content-Type: multipart/form-data; boundary=b"
}

// Every one of them gets a clear error, stores and changes nothing, panics nowhere,
// and is not worth a line in the log.
func TestMalformedRequests(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	files := volumetest.NewBlobs(1)
	api := volumehttp.New(volumehttp.Options{Blobs: &node{Blobs: files}, Limits: volumehttp.Limits{File: 1000},
		Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelInfo}))})
	do := func(method, path, body string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		api.Handler().ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
		return w
	}
	if w := do("PUT", "/1,01deadbeef", "content"); w.Code != 201 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if count := volumetest.CheckMalformed(t, api.Handler(), malformed); count < 150 {
		t.Errorf("only %d requests", count)
	}
	if w := do("GET", "/1,01deadbeef", ""); w.Body.String() != "content" {
		t.Errorf("the file is now %d %q", w.Code, w.Body)
	}
	if n := files.Len(); n != 1 {
		t.Errorf("%d files are stored", n)
	}
	if log.Len() > 0 {
		t.Errorf("logged:\n%s", log.String())
	}
}
