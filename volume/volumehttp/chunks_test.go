package volumehttp_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/volumehttp"
	"weedd/volume/volumetest"
)

// pair is two nodes: one has volume 1 and two has volume 2.
func pair(t *testing.T) (one, two *single) {
	return pairOf(t, volumehttp.Options{Hold: time.Second})
}

func pairOf(t *testing.T, o volumehttp.Options) (one, two *single) {
	a := &node{Blobs: volumetest.NewBlobs(1), held: 1}
	b := &node{Blobs: volumetest.NewBlobs(2), held: 2}
	a.others, b.others = map[volume.ID]*node{2: b}, map[volume.ID]*node{1: a}
	c := client(t)
	return &single{t, a, "http://" + serve(t, a, o), c}, &single{t, b, "http://" + serve(t, b, o), c}
}

// must sends a request that has to be answered with status.
func (s *single) must(status int, method, path, body string, headers ...string) (*http.Response, string) {
	s.Helper()
	resp, got := s.do(method, path, body, headers...)
	if resp.StatusCode != status {
		s.Fatalf("%s %s: %d %s, want %d", method, path, resp.StatusCode, got, status)
	}
	return resp, got
}

const chunkedFile = `{"name":"a.bin","size":30,"chunks":[{"fid":"2,02deadbeef","offset":10,"size":10},` +
	`{"fid":"1,03deadbeef","offset":20,"size":10},{"fid":"1,01deadbeef","offset":0,"size":10}]}`

// putChunked stores a file of which one chunk is at one, another at two, and the
// last, which is packed, at one again.
func putChunked(one *single) {
	one.must(201, "PUT", "/1,01deadbeef", "0123456789", "Content-Type", "a/b")
	one.must(201, "PUT", "/2,02deadbeef", "ABCDEFGHIJ", "Content-Type", "a/b")
	one.must(201, "PUT", "/1,03deadbeef", gzipped("abcdefghij"), "Content-Encoding", "gzip", "Content-Type", "a/b")
	one.must(201, "PUT", "/1,04deadbeef?cm=true", chunkedFile)
}

func TestAFileInChunksIsReadFromAnyNode(t *testing.T) {
	t.Parallel()
	one, two := pair(t)
	putChunked(one)
	const all = "0123456789ABCDEFGHIJabcdefghij"
	for _, s := range []*single{one, two} {
		resp, body := s.must(200, "GET", "/1,04deadbeef", "", "Accept-Encoding", "gzip")
		if body != all || resp.ContentLength != 30 || resp.Header.Get("X-File-Store") != "chunked" || resp.Header.Get("Content-Encoding") != "" {
			t.Errorf("%q %v", body, resp.Header)
		}
		if typ := resp.Header.Get("Content-Type"); typ != "text/plain; charset=utf-8" { // guessed: the extension says nothing
			t.Errorf("type %q", typ)
		}
		if resp, _ := s.must(200, "HEAD", "/1,04deadbeef", ""); resp.ContentLength != 30 {
			t.Errorf("HEAD: %d bytes", resp.ContentLength)
		}
		s.must(304, "GET", "/1,04deadbeef", "", "If-None-Match", resp.Header.Get("Etag"))
		for _, r := range [][2]int{{0, 0}, {9, 10}, {5, 24}, {10, 19}, {29, 29}, {0, 29}} {
			_, body := s.must(206, "GET", "/1,04deadbeef", "", "Range", fmt.Sprintf("bytes=%d-%d", r[0], r[1]))
			if body != all[r[0]:r[1]+1] {
				t.Errorf("range %v: %q", r, body)
			}
		}
		if _, body := s.must(206, "GET", "/1,04deadbeef", "", "Range", "bytes=0-1,9-10,-2"); !strings.Contains(body, "\r\n\r\n9A\r\n") || !strings.Contains(body, "\r\n\r\nij\r\n") {
			t.Errorf("three ranges: %q", body)
		}
		s.must(416, "GET", "/1,04deadbeef", "", "Range", "bytes=30-")
		if _, body := s.must(200, "GET", "/1,04deadbeef?cm=false", ""); body != chunkedFile {
			t.Errorf("the manifest: %q", body)
		}
	}
}

func TestDeletingAFileDeletesItsChunks(t *testing.T) {
	t.Parallel()
	for _, from := range []string{"the node that has it", "another node"} {
		one, two := pair(t)
		putChunked(one)
		one.must(201, "PUT", "/2,05deadbeef", "keep me")
		s := one
		if from == "another node" {
			s = two
		}
		if _, body := s.must(202, "DELETE", "/1,04deadbeef", ""); body != `{"size":30}` {
			t.Errorf("%s: %s", from, body)
		}
		for _, fid := range []string{"1,01deadbeef", "2,02deadbeef", "1,03deadbeef", "1,04deadbeef"} {
			one.must(404, "GET", "/"+fid, "")
		}
		two.must(200, "GET", "/2,05deadbeef", "")
		s.must(404, "DELETE", "/1,04deadbeef", "")
	}
}

// A manifest may name a chunk of somebody else by its key: the cookie decides.
func TestDeletingAFileSparesWhatIsNotItsOwn(t *testing.T) {
	t.Parallel()
	one, _ := pair(t)
	putChunked(one)
	one.must(201, "PUT", "/1,05deadbeef?cm=true", `{"chunks":[{"fid":"1,01deadbeee","size":10},{"fid":"7,01deadbeef","offset":10,"size":10}]}`)
	one.must(202, "DELETE", "/1,05deadbeef", "")
	one.must(200, "GET", "/1,01deadbeef", "")
}

// refusing is a node that cannot delete one file.
type refusing struct {
	*node
	key volume.Key
}

func (r refusing) Delete(ctx context.Context, id volume.FileID, modified uint64) (int64, error) {
	if id.Key == r.key {
		return 0, volume.ErrUnavailable
	}
	return r.node.Delete(ctx, id, modified)
}

func TestADeleteThatFailsHalfWayCanBeRepeated(t *testing.T) {
	t.Parallel()
	n := &node{Blobs: volumetest.NewBlobs(1), held: 1}
	bad := httptest.NewServer(volumehttp.New(volumehttp.Options{Blobs: refusing{n, 2}, Log: discard()}).Handler())
	t.Cleanup(bad.Close)
	good := &single{t, n, "http://" + serve(t, n, volumehttp.Options{}), client(t)}
	good.must(201, "PUT", "/1,01deadbeef", "a")
	good.must(201, "PUT", "/1,02deadbeef", "b")
	good.must(201, "PUT", "/1,03deadbeef?cm=true", `{"size":2,"chunks":[{"fid":"1,01deadbeef","size":1},{"fid":"1,02deadbeef","offset":1,"size":1}]}`)
	resp, body := (&single{t, n, bad.URL, good.http}).must(503, "DELETE", "/1,03deadbeef", "")
	if resp.Header.Get("Retry-After") == "" || !strings.Contains(body, "2,02deadbeef") && !strings.Contains(body, "1,02deadbeef") {
		t.Errorf("%s %v", body, resp.Header)
	}
	good.must(200, "GET", "/1,03deadbeef?cm=false", "")
	good.must(202, "DELETE", "/1,03deadbeef", "")
	good.must(404, "GET", "/1,02deadbeef", "")
}

// Manifests that could not be written here, but may come with files of SeaweedFS.
func TestManifestsThatMakeNoSense(t *testing.T) {
	t.Parallel()
	s := newSingle(t, volumehttp.Options{})
	s.must(201, "PUT", "/1,01deadbeef", "0123456789", "Content-Type", "a/b")
	s.must(201, "PUT", "/1,02deadbeef?cm=true", `{"chunks":[{"fid":"1,01deadbeef","size":10}]}`)
	for i, c := range []struct {
		manifest, body string
		status         int
	}{
		{"no JSON", "no JSON", 200},
		{`{"chunks":[{"fid":"zzz","size":3}]}`, "chunk zzz", 500},
		{`{"chunks":[{"fid":"1,01deadbeef","size":-3}]}`, "", 500},
		{`{"chunks":[{"fid":"1,01deadbeef","size":11}]}`, "it has 10 bytes where the manifest says 11", 500},
		{`{"chunks":[{"fid":"1,02deadbeef","size":10}]}`, "a chunk manifest itself", 500},
		{`{"chunks":[{"fid":"1,99deadbeef","size":10}]}`, "it is missing", 500},
		{`{"chunks":[{"fid":"1,01deadbeef","size":10,"offset":7},{"fid":"1,01deadbeef","size":10,"offset":90}]}`, "01234567890123456789", 200},
	} {
		id := volume.FileID{Volume: 1, Key: volume.Key(i + 10), Cookie: 0xdeadbeef}
		n := &needle.Needle{Key: id.Key, Cookie: id.Cookie, Data: []byte(c.manifest), Flags: needle.FlagManifest}
		if _, err := s.node.Put(context.Background(), id, n, false); err != nil {
			t.Fatal(err)
		}
		resp, body := s.do("GET", "/"+id.String(), "")
		if resp.StatusCode != c.status || !strings.Contains(body, c.body) || c.status == 500 && strings.Contains(resp.Header.Get("Etag"), `"`) {
			t.Errorf("%s: %d %q %v", c.manifest, resp.StatusCode, body, resp.Header)
		}
		if c.status == 500 { // else it would take the file along that others are made of
			s.must(202, "DELETE", "/"+id.String(), "")
			s.do("PUT", "/1,01deadbeef", "0123456789", "Content-Type", "a/b")
		}
	}
}

// A holder that breaks off in the middle of a chunk costs the reader nothing.
func TestTheRestOfAChunkComesFromAnotherHolder(t *testing.T) {
	t.Parallel()
	one, two := pair(t)
	long := strings.Repeat("0123456789", 50_000)
	one.must(201, "PUT", "/2,02deadbeef", long, "Content-Type", "a/b")
	one.must(201, "PUT", "/1,04deadbeef?cm=true", fmt.Sprintf(`{"chunks":[{"fid":"2,02deadbeef","size":%d}]}`, len(long)))
	broken := 0
	faulty := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, err := strconv.Atoi(strings.TrimPrefix(strings.Split(r.Header.Get("Range"), "-")[0], "bytes="))
		if err != nil {
			t.Errorf("range %q", r.Header.Get("Range"))
		}
		if broken++; broken > 1 { // then it is the other's turn
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(long)-1, len(long)))
		w.Header().Set("Content-Length", strconv.Itoa(len(long)-from))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write([]byte(long[from : from+100_000]))
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(faulty.Close)
	good := two.node.addr
	two.node.addr = volume.Node{URL: strings.TrimPrefix(faulty.URL, "http://")}
	reader := &twoHolders{one.node, []volume.Node{two.node.addr, good}}
	srv := httptest.NewServer(volumehttp.New(volumehttp.Options{Blobs: reader, Hold: time.Second, Log: discard()}).Handler())
	t.Cleanup(srv.Close)
	s := &single{t, nil, srv.URL, one.http}
	for i := 0; i < 100 && broken == 0; i++ { // holders are asked in random order
		if _, body := s.must(200, "GET", "/1,04deadbeef", ""); body != long {
			t.Fatalf("%d bytes, want %d", len(body), len(long))
		}
	}
	if broken == 0 {
		t.Error("the faulty holder was never asked")
	}
}

// twoHolders is a node that says of volume 2 that others hold it.
type twoHolders struct {
	*node
	holders []volume.Node
}

func (n *twoHolders) Get(ctx context.Context, id volume.FileID, readDeleted bool) (*needle.Needle, error) {
	if id.Volume == 2 {
		return nil, &volume.ElsewhereError{Volume: 2, Nodes: n.holders}
	}
	return n.Blobs.Get(ctx, id, readDeleted)
}
