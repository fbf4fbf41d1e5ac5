package masterhttp_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"weedd/cluster/masterhttp"
	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/wire"
)

type submitted struct {
	FID      string
	FileName string
	Size     int64
	ETag     string
	Digest   string
}

// submit sends an upload that has to be stored.
func (s *single) submit(query, body string, headers ...string) (out submitted) {
	s.t.Helper()
	w := s.do("POST", "/submit"+query, body, headers...)
	if err := json.Unmarshal(w.Body.Bytes(), &out); w.Code != 201 || err != nil {
		s.t.Fatalf("submit%s: %d %s", query, w.Code, text(s.t, w))
	}
	return out
}

// get reads what is stored under an id, unpacked.
func (s *single) get(fid string) (*needle.Needle, string) {
	s.t.Helper()
	id, err := volume.ParseFileID(fid)
	if err != nil {
		s.t.Fatal(err)
	}
	n, err := s.Blobs.Get(context.Background(), id, false)
	if err != nil {
		s.t.Fatalf("%s: %v", fid, err)
	}
	if !n.Has(needle.FlagGzip) {
		return n, string(n.Data)
	}
	zr, err := gzip.NewReader(bytes.NewReader(n.Data))
	if err != nil {
		s.t.Fatal(err)
	}
	plain, err := io.ReadAll(zr)
	if err != nil {
		s.t.Fatal(err)
	}
	return n, string(plain)
}

func sha(s string) []byte {
	sum := sha256.Sum256([]byte(s))
	return sum[:]
}

func contentDigest(s string) string {
	return "sha-256=:" + base64.StdEncoding.EncodeToString(sha(s)) + ":"
}

func asForm(body string) string {
	return "--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"f.bin\"\r\n\r\n" + body + "\r\n--b--\r\n"
}

func TestALargeBodyIsStoredInChunks(t *testing.T) {
	t.Parallel()
	const kib = 1 << 10
	s := newSingle(t, func(o *masterhttp.Options) { o.FileLimit = 2 * kib })
	long := strings.Repeat("0123456789abcdef", 5*kib/16) + "the end"
	for _, c := range []struct {
		why, query, body string
		headers          []string
		chunks           int
		name, mime       string
	}{
		{"raw", "?ttl=5m&ts=1500000000", long, []string{"Content-Type", "video/mp4", "Content-Disposition", "filename=a.mp4"}, 3, "a.mp4", "video/mp4"},
		{"a form", "", asForm(long), []string{"Content-Type", "multipart/form-data; boundary=b"}, 3, "f.bin", ""},
		{"a form with one field that has no file name", "", strings.Replace(asForm(long), `; filename="f.bin"`, "", 1), []string{"Content-Type", "multipart/form-data; boundary=b"}, 3, "submit", ""},
		{"chunks no larger than a file may be", "?maxMB=100", long, []string{"Content-Type", "video/mp4"}, 3, "submit", "video/mp4"},
		{"exactly two", "", long[:4*kib], []string{"Content-Type", "text/plain"}, 2, "submit", "text/plain"},
		{"checked by all digests", "", long, []string{"Content-Type", "a/b", "Content-Digest", contentDigest(long), "Repr-Digest", "sha-1=:AAAA:, " + contentDigest(long),
			"Content-MD5", md5Of(long), "Want-Repr-Digest", "sha-512=0, sha-256=9"}, 3, "submit", "a/b"},
	} {
		out := s.submit(c.query, c.body, c.headers...)
		plain := long
		if c.chunks == 2 {
			plain = long[:4*kib]
		}
		n, text := s.get(out.FID)
		m, err := wire.ParseManifest([]byte(text))
		if err != nil || !n.Has(needle.FlagManifest) || m.Check() != nil || out.Size != int64(len(plain)) || m.Size != out.Size || !bytes.Equal(m.SHA256, sha(plain)) ||
			m.Name != c.name || out.FileName != c.name || m.Mime != c.mime || len(m.Chunks) != c.chunks || out.ETag != wire.ETag(n.Checksum) {
			t.Errorf("%s: %+v %v %+v", c.why, out, err, m)
			continue
		}
		var got strings.Builder
		for _, chunk := range m.Chunks {
			cn, part := s.get(chunk.FileID)
			if got.WriteString(part); cn.TTL != n.TTL || cn.Modified != n.Modified {
				t.Errorf("%s: chunk with ttl %s, time %d", c.why, cn.TTL, cn.Modified)
			}
		}
		if got.String() != plain {
			t.Errorf("%s: other content", c.why)
		}
		if c.query == "?ttl=5m&ts=1500000000" && (n.TTL.String() != "5m" || n.Modified != 1500000000) {
			t.Errorf("%s: ttl %s, time %d", c.why, n.TTL, n.Modified)
		}
		if want := contentDigest(plain); out.Digest != "" && out.Digest != want || out.Digest == "" && strings.HasPrefix(c.why, "checked") {
			t.Errorf("%s: digest %q, want %q", c.why, out.Digest, want)
		}
	}
	if n, _ := s.get(s.submit("", long[:2*kib], "Content-Type", "a/b").FID); n.Has(needle.FlagManifest) {
		t.Error("a body of just the limit is cut")
	}
}

// noise is text that hardly shrinks.
func noise(n int) string {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		b.WriteString(md5Of(fmt.Sprint(i)))
	}
	return b.String()[:n]
}

func pack(t *testing.T, s string) string {
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	_, _ = zw.Write([]byte(s)) // into memory
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// What the client packed is stored plain when it is too long for one file, and as it
// came when it is not.
func TestALargePackedBodyIsStoredInChunks(t *testing.T) {
	t.Parallel()
	const kib = 1 << 10
	s := newSingle(t, func(o *masterhttp.Options) { o.FileLimit = 64 * kib })
	plain := noise(300 * kib)
	packed := pack(t, plain)
	raw := []string{"Content-Type", "a/b", "Content-Encoding", "gzip", "Content-MD5", md5Of(plain), "Content-Digest", contentDigest(packed), "Want-Content-Digest", "sha-256=1"}
	form := strings.Replace(asForm(packed), "\r\n\r\n", "\r\nContent-Encoding: gzip\r\n\r\n", 1)
	for why, out := range map[string]submitted{
		"raw":    s.submit("", packed, raw...),
		"a form": s.submit("", form, "Content-Type", "multipart/form-data; boundary=b", "Want-Content-Digest", "sha-256=1"),
	} {
		_, text := s.get(out.FID)
		m, err := wire.ParseManifest([]byte(text))
		if err != nil || m.Check() != nil || m.Size != int64(len(plain)) || out.Size != m.Size || !bytes.Equal(m.SHA256, sha(plain)) || len(m.Chunks) != 10 || out.Digest != contentDigest(packed) {
			t.Errorf("%s: %+v %v %+v", why, out, err, m)
		}
		var got strings.Builder
		for _, chunk := range m.Chunks {
			_, part := s.get(chunk.FileID)
			got.WriteString(part)
		}
		if got.String() != plain {
			t.Errorf("%s: other content", why)
		}
	}
	short := pack(t, "short")
	if n, _ := s.get(s.submit("", short, "Content-Type", "a/b", "Content-Encoding", "gzip").FID); string(n.Data) != short || n.Has(needle.FlagManifest) {
		t.Error("a short body is not stored as it came")
	}
	var writes stored
	s.OnPut = func(_ context.Context, _ volume.Node, id volume.FileID) error { writes.add(id); return nil }
	bomb := pack(t, noise(64*kib)+strings.Repeat("\x00", 64<<20))
	w := s.do("POST", "/submit", bomb, "Content-Type", "a/b", "Content-Encoding", "gzip")
	if got := text(t, w); w.Code != 413 || !strings.Contains(got, "send it plain") {
		t.Errorf("a body that unpacks to far too much: %d %s", w.Code, got)
	}
	if len(writes.ids) > (1<<20+100*len(bomb))/(32*kib)+1 {
		t.Errorf("%d chunks of it were stored", len(writes.ids))
	}
}

func md5Of(s string) string {
	sum := md5.Sum([]byte(s))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// stored notes the ids of the cluster's writes.
type stored struct {
	mu  sync.Mutex
	ids []volume.FileID
}

func (s *stored) add(id volume.FileID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids = append(s.ids, id)
	return len(s.ids)
}

// cut is a body that ends with an error.
type cut struct{ io.Reader }

func (c cut) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func TestAnUploadInChunksThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("0123456789", 25)
	packed := pack(t, noise(2400))
	for _, c := range []struct {
		why     string
		body    io.Reader
		headers []string
		failAt  int // of the writes, from 1 on
		status  int
		writes  int // at least
	}{
		{"another digest", strings.NewReader(long), []string{"Content-Digest", contentDigest("x")}, 0, 400, 3},
		{"another digest of the representation", strings.NewReader(long), []string{"Repr-Digest", contentDigest("x")}, 0, 400, 3},
		{"another MD5", strings.NewReader(long), []string{"Content-MD5", md5Of("x")}, 0, 400, 3},
		{"a client that hangs up", cut{strings.NewReader(long)}, nil, 0, 400, 2},
		{"the second chunk cannot be stored", strings.NewReader(long), nil, 2, 413, 2},
		{"the manifest cannot be stored", strings.NewReader(long), nil, 4, 413, 4},
		{"a packed body that breaks off", strings.NewReader(packed[:1000]), []string{"Content-Encoding", "gzip"}, 0, 400, 1},
		{"a packed body with something behind it", strings.NewReader(packed + long), []string{"Content-Encoding", "gzip"}, 0, 400, 1},
		{"a long body that says it is packed and is not", strings.NewReader(long), []string{"Content-Encoding", "gzip"}, 0, 400, 0},
		{"a packed body with another digest", strings.NewReader(packed), []string{"Content-Encoding", "gzip", "Content-Digest", contentDigest("x")}, 0, 400, 3},
		{"a form that breaks off", cut{strings.NewReader(asForm(long)[:200])}, []string{"Content-Type", "multipart/form-data; boundary=b"}, 0, 400, 1},
	} {
		var writes stored
		s := newSingle(t, func(o *masterhttp.Options) { o.FileLimit = 100 })
		s.OnPut = func(_ context.Context, _ volume.Node, id volume.FileID) error {
			if n := writes.add(id); n == c.failAt {
				return volume.ErrTooLarge // tried nowhere else
			}
			return nil
		}
		r := httptest.NewRequest("POST", "/submit", c.body)
		r.ContentLength = -1
		r.Header.Set("Content-Type", "a/b")
		for i := 0; i < len(c.headers); i += 2 {
			r.Header.Set(c.headers[i], c.headers[i+1])
		}
		w := httptest.NewRecorder()
		s.api.Handler().ServeHTTP(w, r)
		if w.Code != c.status || !strings.Contains(w.Body.String(), `{"error":`) {
			t.Errorf("%s: %d %s", c.why, w.Code, w.Body)
		}
		if len(writes.ids) < c.writes {
			t.Errorf("%s: %d writes, want %d at least", c.why, len(writes.ids), c.writes)
		}
		for _, id := range writes.ids {
			waitFor(t, c.why+": "+id.String()+" is gone", func() bool {
				n, err := s.Blobs.Get(context.Background(), id, false)
				if err == nil {
					n.Release()
				}
				return errors.Is(err, volume.ErrNotFound)
			})
		}
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func TestARepeatGetsTheFirstAnswer(t *testing.T) {
	t.Parallel()
	s := newSingle(t)
	var writes stored
	fail := true
	s.OnPut = func(_ context.Context, _ volume.Node, id volume.FileID) error {
		writes.add(id)
		if fail {
			return volume.ErrTooLarge
		}
		return nil
	}
	key := []string{"Content-Type", "a/b", "Idempotency-Key", `"8e03978e-40d5-43dd-bc93-6894a57f9324"`}
	if w := s.do("POST", "/submit", "body", key...); w.Code != 413 {
		t.Fatalf("%d %s", w.Code, text(t, w))
	}
	fail = false
	first := s.submit("", "body", key...)
	key[3] = strings.Trim(key[3], `"`)
	if again := s.submit("", "body", key...); again != first {
		t.Errorf("%+v, then %+v", first, again)
	}
	if len(writes.ids) != 2 {
		t.Errorf("%d writes", len(writes.ids))
	}
	for why, do := range map[string]func() *httptest.ResponseRecorder{
		"another length": func() *httptest.ResponseRecorder { return s.do("POST", "/submit", "bodies", key...) },
		"another query":  func() *httptest.ResponseRecorder { return s.do("POST", "/submit?ttl=5m", "body", key...) },
		"another digest": func() *httptest.ResponseRecorder {
			return s.do("POST", "/submit", "body", append(key, "Content-Digest", contentDigest("boda"))...)
		},
	} {
		if w := do(); w.Code != http.StatusUnprocessableEntity {
			t.Errorf("%s: %d %s", why, w.Code, text(t, w))
		}
	}
	if other := s.submit("", "body", "Content-Type", "a/b", "Idempotency-Key", "another"); other.FID == first.FID {
		t.Error("another key got the same id")
	}
	for _, bad := range []string{"", `""`, "a b", "é", strings.Repeat("k", 256)} {
		if w := s.do("POST", "/submit", "body", "Content-Type", "a/b", "Idempotency-Key", bad); w.Code != 400 {
			t.Errorf("key %.10q: %d", bad, w.Code)
		}
	}
}

func TestARepeatWaitsForTheFirst(t *testing.T) {
	t.Parallel()
	s := newSingle(t)
	entered, leave := make(chan struct{}), make(chan struct{})
	var writes stored
	s.OnPut = func(_ context.Context, _ volume.Node, id volume.FileID) error {
		if writes.add(id) == 1 {
			close(entered)
		}
		<-leave
		return nil
	}
	answers := make(chan submitted, 5)
	send := func() {
		var out submitted
		defer func() { answers <- out }() // also when it failed
		out = s.submit("", "body", "Content-Type", "a/b", "Idempotency-Key", "k")
	}
	go send()
	<-entered
	for range 4 {
		go send()
	}
	close(leave)
	first := <-answers
	for range 4 {
		if again := <-answers; again != first {
			t.Errorf("%+v, then %+v", first, again)
		}
	}
	if len(writes.ids) != 1 {
		t.Errorf("%d writes", len(writes.ids))
	}
}
