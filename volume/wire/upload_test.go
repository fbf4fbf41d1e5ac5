package wire_test

import (
	"bytes"
	"compress/gzip"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/wire"
)

func put(path, body string, headers ...string) *http.Request {
	r := httptest.NewRequest("PUT", path, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

func form(path string, parts ...string) *http.Request {
	body := ""
	for _, p := range parts {
		body += "--b\r\n" + p + "\r\n"
	}
	r := httptest.NewRequest("POST", path, strings.NewReader(body+"--b--\r\n"))
	r.Header.Set("Content-Type", "multipart/form-data; boundary=b")
	return r
}

func TestUploadOfARawBody(t *testing.T) {
	t.Parallel()
	r := put("/1,01deadbeef?ts=1500000000&ttl=90m&cm=1", `{"a":1}`, "Content-Type", "image/png", "Content-Disposition", "filename=a.png",
		"Seaweed-Zoo", "z", "seaweed-abc-def", "a<b", "X-Other", "n")
	up, err := wire.ParseUpload(r, wire.UploadOptions{Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	n := up.Needle
	const flags = needle.FlagName | needle.FlagMime | needle.FlagModified | needle.FlagTTL | needle.FlagPairs | needle.FlagManifest
	if string(n.Data) != `{"a":1}` || string(n.Name) != "a.png" || string(n.Mime) != "image/png" || n.Modified != 1_500_000_000 ||
		n.TTL != (volume.TTL{Count: 90, Unit: 1}) || string(n.Pairs) != `{"Abc-Def":"a\u003cb","Zoo":"z"}` || n.Flags != flags {
		t.Errorf("%+v", n)
	}
	if up.Size != 7 || up.MD5 != "" {
		t.Errorf("size %d, md5 %q", up.Size, up.MD5)
	}
}

func TestUploadRules(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("n", 256)
	for _, c := range []struct {
		why        string
		r          *http.Request
		opts       wire.UploadOptions
		name, mime string
		data       string
		without    needle.Flags
	}{
		{"nothing said", put("/", "x"), wire.UploadOptions{}, "", "", "x", 0},
		{"a name from outside gives the type", put("/", "x"), wire.UploadOptions{Name: "a.css"}, "a.css", "text/css; charset=utf-8", "x", 0},
		{"an extension from outside gives a type only", put("/", "x"), wire.UploadOptions{TypeName: "1,ab.json"}, "", "application/json", "x", 0},
		{"a long type is dropped", put("/", "x", "Content-Type", "a/"+long), wire.UploadOptions{}, "", "", "x", needle.FlagMime},
		{"a long name is dropped", put("/", "x", "Content-Disposition", "filename="+long), wire.UploadOptions{}, "", "", "x", needle.FlagName},
		{"the first part with a file name", form("/", "Content-Disposition: form-data; name=a\r\n\r\nfield",
			"Content-Disposition: form-data; name=f; filename=\"C:\\\\x\\\\z.txt\"\r\n\r\nfile"), wire.UploadOptions{}, "z.txt", "text/plain; charset=utf-8", "file", 0},
		{"else the first part", form("/", "Content-Disposition: form-data; name=a\r\n\r\n1", "Content-Disposition: form-data; name=b\r\n\r\n2"),
			wire.UploadOptions{}, "", "", "1", 0},
		{"octet-stream yields to the extension", form("/", "Content-Disposition: form-data; filename=a.png\r\nContent-Type: application/octet-stream\r\n\r\n1"),
			wire.UploadOptions{}, "a.png", "image/png", "1", 0},
		{"a manifest in a form has no type", form("/?cm=true", "Content-Disposition: form-data; filename=a.json\r\nContent-Type: application/json\r\n\r\n{}"),
			wire.UploadOptions{}, "a.json", "", "{}", 0},
		{"gzip that is none is kept as it is", put("/", "not gzip", "Content-Encoding", "gzip", "Content-Type", "a/b"), wire.UploadOptions{}, "", "a/b", "not gzip", needle.FlagGzip},
	} {
		c.opts.Limit = 1000
		up, err := wire.ParseUpload(c.r, c.opts)
		if err != nil {
			t.Errorf("%s: %v", c.why, err)
			continue
		}
		n := up.Needle
		if string(n.Name) != c.name || string(n.Mime) != c.mime || string(n.Data) != c.data || n.Flags&c.without != 0 {
			t.Errorf("%s: name %q, type %q, data %q, flags %#x", c.why, n.Name, n.Mime, n.Data, n.Flags)
		}
		if now := uint64(time.Now().Unix()); n.Modified > now || n.Modified < now-10 {
			t.Errorf("%s: modified %d", c.why, n.Modified)
		}
	}
}

func TestAManifestIsCheckedWhenItIsStored(t *testing.T) {
	t.Parallel()
	two := `{"fid":"1,01deadbeef","offset":0,"size":5},{"fid":"2,02deadbeef","offset":5,"size":1}`
	for _, c := range []struct {
		why, body string
		ok        bool
	}{
		{"no chunks", `{"chunks":[]}`, true},
		{"nothing", `{}`, true},
		{"two chunks", `{"size":6,"chunks":[` + two + `]}`, true},
		{"in any order", `{"chunks":[{"fid":"1,01deadbeef","offset":3,"size":1},{"fid":"1,02deadbeef","size":3}]}`, true},
		{"packed", pack(t, `{"chunks":[`+two+`]}`), true},
		{"an empty file", "", false},
		{"no JSON", "not json", false},
		{"a list", "[]", false},
		{"packed rubbish", pack(t, "rubbish"), false},
		{"an id that is none", `{"chunks":[{"fid":"zzz","size":3}]}`, false},
		{"a gap", `{"chunks":[{"fid":"1,01deadbeef","offset":1,"size":3}]}`, false},
		{"an overlap", `{"chunks":[{"fid":"1,01deadbeef","offset":0,"size":3},{"fid":"1,02deadbeef","offset":2,"size":3}]}`, false},
		{"a negative size", `{"chunks":[{"fid":"1,01deadbeef","offset":0,"size":-3}]}`, false},
		{"more than there is", `{"chunks":[{"fid":"1,01deadbeef","size":9223372036854775807},{"fid":"1,01deadbeef","offset":9223372036854775807,"size":1}]}`, false},
		{"a size that is no number", `{"chunks":[{"fid":"1,01deadbeef","size":"3"}]}`, false},
	} {
		var headers []string
		if strings.HasPrefix(c.why, "packed") {
			headers = []string{"Content-Encoding", "gzip"}
		}
		_, err := wire.ParseUpload(put("/?cm=true", c.body, headers...), wire.UploadOptions{Limit: 1000})
		if (err == nil) != c.ok || !c.ok && !errors.Is(err, volume.ErrBadRequest) {
			t.Errorf("%s: %v", c.why, err)
		}
	}
}

func TestUploadIsPackedWhenWorthIt(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("abcdefghij", 50)
	for _, c := range []struct {
		mime, body string
		packed     bool
	}{
		{"text/x-go", text, true}, {"application/xml", text, true}, {"application/javascript", text, true}, {"audio/wav", text, true},
		{"", text, true}, {"", "\x00\x01" + text, false}, {"application/octet-stream", text, false},
		{"application/json", text, false}, {"image/svg+xml", text, false}, {"text/plain", "short", false}, {"text/plain", "", false},
	} {
		var headers []string
		if c.mime != "" {
			headers = []string{"Content-Type", c.mime}
		}
		up, err := wire.ParseUpload(put("/", c.body, headers...), wire.UploadOptions{Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		if got := up.Needle.Has(needle.FlagGzip); got != c.packed || up.Size != int64(len(c.body)) {
			t.Errorf("%s %.5q: packed %v, size %d", c.mime, c.body, got, up.Size)
			continue
		}
		if c.packed && unpack(t, up.Needle.Data) != c.body {
			t.Errorf("%s: other content", c.mime)
		}
	}
}

func TestUploadDigest(t *testing.T) {
	t.Parallel()
	digest := func(s string) string {
		sum := md5.Sum([]byte(s))
		return base64.StdEncoding.EncodeToString(sum[:])
	}
	sha := func(s string) string {
		sum := sha256.Sum256([]byte(s))
		return "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
	}
	packed := pack(t, "plain text")
	formWith := func(header, value string, r *http.Request) *http.Request {
		r.Header.Set(header, value)
		return r
	}
	const part = "Content-Disposition: form-data; filename=a\r\n"
	for _, c := range []struct {
		why string
		r   *http.Request
		ok  bool
	}{
		{"right", put("/", "data", "Content-MD5", digest("data")), true},
		{"wrong", put("/", "data", "Content-MD5", digest("datx")), false},
		{"of the plain bytes", put("/", packed, "Content-Encoding", "gzip", "Content-MD5", digest("plain text")), true},
		{"of the packed bytes", put("/", packed, "Content-Encoding", "gzip", "Content-MD5", digest(packed)), false},
		{"of what only claims to be packed", put("/", "data", "Content-Encoding", "gzip", "Content-MD5", digest("data")), true},
		{"of a part", form("/", "Content-Disposition: form-data; filename=a\r\nContent-MD5: "+digest("data")+"\r\n\r\ndata"), true},
		{"of another part", form("/", "Content-Disposition: form-data; filename=a\r\nContent-MD5: "+digest("datx")+"\r\n\r\ndata"), false},
		{"the content's", put("/", "data", "Content-Digest", sha("data")), true},
		{"another content's", put("/", "data", "Content-Digest", sha("datx")), false},
		{"the representation's", put("/", "data", "Repr-Digest", sha("data")), true},
		{"another representation's", put("/", "data", "Repr-Digest", sha("datx")), false},
		{"one right, one wrong", put("/", "data", "Content-Digest", sha("data")+", sha-512=:"+strings.Repeat("A", 86)+"==:"), false},
		{"one that is not known", put("/", "data", "Content-Digest", "crc32c=:AAAA:;a=1"), true},
		{"the content's, which is packed", put("/", packed, "Content-Encoding", "gzip", "Content-Digest", sha(packed)), true},
		{"of the plain bytes of a packed content", put("/", packed, "Content-Encoding", "gzip", "Content-Digest", sha("plain text")), false},
		{"a part's", form("/", part+"Content-Digest: "+sha("data")+"\r\n\r\ndata"), true},
		{"another part's", form("/", part+"Repr-Digest: "+sha("datx")+"\r\n\r\ndata"), false},
		{"the whole form's", formWith("Content-Digest", sha("--b\r\n"+part+"\r\ndata\r\n--b--\r\n"), form("/", part+"\r\ndata")), true},
		{"another form's", formWith("Content-Digest", sha("data"), form("/", part+"\r\ndata")), false},
	} {
		_, err := wire.ParseUpload(c.r, wire.UploadOptions{Limit: 1000})
		if (err == nil) != c.ok || !c.ok && !errors.Is(err, volume.ErrDigest) {
			t.Errorf("%s: %v", c.why, err)
		}
	}
}

func TestDigestsThatMakeNoSense(t *testing.T) {
	t.Parallel()
	for _, c := range [][2]string{
		{"Content-MD5", "x"}, {"Content-MD5", "AAAA"}, {"Content-Digest", "sha-256"}, {"Content-Digest", "sha-256=AAAA"}, {"Repr-Digest", "sha-256=:AAAA:"},
		{"Content-Digest", "sha-256=:" + strings.Repeat("!", 44) + ":"}, {"Repr-Digest", "sha-512=::"}, {"Content-Digest", "sha-256=:" + strings.Repeat("A", 43) + "="},
	} {
		if _, err := wire.ParseUpload(put("/", "data", c[0], c[1]), wire.UploadOptions{Limit: 100}); !errors.Is(err, volume.ErrBadRequest) {
			t.Errorf("%s: %s: %v", c[0], c[1], err)
		}
	}
}

func TestUploadLimit(t *testing.T) {
	t.Parallel()
	chunked := func(n int) *http.Request {
		r := httptest.NewRequest("PUT", "/", io.LimitReader(zeros{}, int64(n)))
		r.ContentLength = -1
		return r
	}
	unread := httptest.NewRequest("PUT", "/", errorReader{t})
	unread.ContentLength = 1001
	packed := put("/", pack(t, strings.Repeat("x", 1001)), "Content-Encoding", "gzip")
	for _, c := range []struct {
		why string
		r   *http.Request
		err error
	}{
		{"at the limit", put("/", strings.Repeat("\x00", 1000)), nil},
		{"told by its length, and not read", unread, volume.ErrTooLarge},
		{"of unknown length at the limit", chunked(1000), nil},
		{"of unknown length", chunked(1001), volume.ErrTooLarge},
		{"without end", chunked(1 << 40), volume.ErrTooLarge},
		{"when unpacked", packed, volume.ErrTooLarge},
		{"after endless fields", form("/", strings.Split(strings.Repeat("Content-Disposition: form-data; name=a\r\n\r\n\n", 2000), "\n\n")...), volume.ErrBadRequest},
	} {
		if _, err := wire.ParseUpload(c.r, wire.UploadOptions{Limit: 1000}); !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", c.why, err, c.err)
		}
	}
}

func FuzzParseUpload(f *testing.F) {
	f.Add("POST", "multipart/form-data; boundary=b", "--b\r\nContent-Disposition: form-data; filename=a.txt\r\n\r\nx\r\n--b--", "", "")
	f.Add("PUT", "text/plain", "some text", "filename=x", "ts=5&ttl=3d")
	f.Add("POST", "", "", "", "")
	f.Add("PUT", "", "\x1f\x8b", "attachment; filename*=utf-8''a", "cm=1")
	f.Fuzz(func(t *testing.T, method, contentType, body, disposition, query string) {
		r := httptest.NewRequest("PUT", "/1,01deadbeef", strings.NewReader(body))
		r.Method, r.URL.RawQuery = method, query
		r.Header.Set("Content-Type", contentType)
		r.Header.Set("Content-Disposition", disposition)
		if strings.HasPrefix(body, "\x1f\x8b") {
			r.Header.Set("Content-Encoding", "gzip")
		}
		up, err := wire.ParseUpload(r, wire.UploadOptions{Limit: 1000})
		if err != nil {
			if status, known := wire.Status(err); !known || status != 400 && status != 413 {
				t.Fatalf("%v", err)
			}
			return
		}
		rec, err := needle.Append(nil, &up.Needle)
		if err != nil {
			t.Fatalf("cannot be stored: %v", err)
		}
		if err := new(needle.Needle).DecodeStrict(rec); err != nil {
			t.Fatalf("cannot be read again: %v", err)
		}
	})
}

func pack(t *testing.T, s string) string {
	t.Helper()
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	if _, err := zw.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func unpack(t *testing.T, b []byte) string {
	t.Helper()
	zr, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(zr)
	if err != nil {
		t.Fatal(err)
	}
	return string(plain)
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// errorReader is a body that must not be read.
type errorReader struct{ t *testing.T }

func (e errorReader) Read([]byte) (int, error) {
	e.t.Error("the body was read")
	return 0, io.ErrUnexpectedEOF
}
