package volumehttp_test

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/png"
	"io"
	"net/http"
	"strings"
	"testing"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/volumehttp"
	"weedd/volume/volumetest"
)

func pngOf(t testing.TB, w, h int) string {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewNRGBA(image.Rect(0, 0, w, h))); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func widthOf(body string) int {
	c, err := png.DecodeConfig(strings.NewReader(body))
	if err != nil {
		return 0
	}
	return c.Width
}

func TestImagesAreMadeSmallerWhateverTheyAreKeptIn(t *testing.T) {
	t.Parallel()
	one, two := pairOf(t, volumehttp.Options{Images: 1 << 20})
	picture := pngOf(t, 40, 20)
	one.must(201, "PUT", "/1/01deadbeef/a.png", picture)
	one.must(201, "PUT", "/1/02deadbeef/a.png", gzipped(picture), "Content-Encoding", "gzip")
	one.must(201, "PUT", "/1,03deadbeef?cm=true", fmt.Sprintf(`{"name":"a.png","chunks":[{"fid":"1,01deadbeef","size":%d}]}`, len(picture)))
	one.must(201, "PUT", "/1/04deadbeef/large.png", pngOf(t, 600, 600))
	one.must(201, "PUT", "/1,05deadbeef", picture)
	for _, s := range []*single{one, two} {
		for _, c := range []struct {
			path  string
			width int
		}{
			{"/1,01deadbeef?width=10", 10}, {"/1,02deadbeef?width=10", 10}, {"/1,03deadbeef?width=10", 10}, {"/1,01deadbeef?width=50", 40},
			{"/1,04deadbeef?width=10", 600}, {"/1,05deadbeef?width=10", 40}, {"/1,05deadbeef.png?width=10", 10},
		} {
			resp, body := s.must(200, "GET", c.path, "", "Accept-Encoding", "gzip")
			if resp.Header.Get("Content-Encoding") == "gzip" || widthOf(body) != c.width {
				t.Errorf("%s: width %d, want %d: %v", c.path, widthOf(body), c.width, resp.Header)
				continue
			}
			if plain, _ := s.must(200, "GET", strings.SplitN(c.path, "?", 2)[0], ""); (plain.Header.Get("Etag") == resp.Header.Get("Etag")) != (c.width >= 40) {
				t.Errorf("%s: tag %s", c.path, resp.Header.Get("Etag"))
			}
			s.must(304, "GET", c.path, "", "If-None-Match", resp.Header.Get("Etag"))
			if head, _ := s.must(200, "HEAD", c.path, "", "Accept-Encoding", "gzip"); head.ContentLength != int64(len(body)) {
				t.Errorf("%s: HEAD says %d bytes of %d", c.path, head.ContentLength, len(body))
			}
		}
		if _, body := s.must(200, "GET", "/1,03deadbeef?width=10&cm=false", ""); !strings.HasPrefix(body, "{") {
			t.Errorf("a manifest was made smaller: %q", body)
		}
	}
}

// counting is a node that counts reads of chunks.
type counting struct {
	*node
	gets map[volume.Key]int
}

func (c counting) Get(ctx context.Context, id volume.FileID, readDeleted bool) (*needle.Needle, error) {
	c.gets[id.Key]++
	return c.node.Get(ctx, id, readDeleted)
}

// A result is kept, so that a file in chunks is not fetched for it again; what is
// kept is bounded.
func TestResultsAreKept(t *testing.T) {
	t.Parallel()
	n := counting{&node{Blobs: volumetest.NewBlobs(1), held: 1}, map[volume.Key]int{}}
	api := volumehttp.New(volumehttp.Options{Blobs: n, Images: 4096 * 20, Log: discard()})
	picture := pngOf(t, 16, 8)
	get := func(method, path, body string) int {
		t.Helper()
		req, err := http.NewRequest(method, path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		w := newRecorder()
		api.Handler().ServeHTTP(w, req)
		if w.status > 299 {
			t.Fatalf("%s %s: %d", method, path, w.status)
		}
		return n.gets[1]
	}
	get("PUT", "/1/01deadbeef/a.png", picture)
	get("PUT", "/1,02deadbeef?cm=true", fmt.Sprintf(`{"name":"a.png","chunks":[{"fid":"1,01deadbeef","size":%d}]}`, len(picture)))
	get("GET", "/1,02deadbeef?width=8", "")
	if once := n.gets[1]; get("GET", "/1,02deadbeef?width=8", "") != once || once != 1 {
		t.Errorf("%d reads of the chunk, then %d", once, n.gets[1])
	}
	for i := range 200 { // of some 370 bytes each
		get("GET", fmt.Sprintf("/1,02deadbeef?width=8&crop_x1=1&crop_y1=1&crop_x2=9&crop_y2=3&height=%d", 1000+i), "")
	}
	before := n.gets[1]
	if get("GET", "/1,02deadbeef?width=8", "") == before {
		t.Error("200 results later the first is still kept")
	}
}

type recorder struct {
	header http.Header
	status int
	io.Writer
}

func newRecorder() *recorder { return &recorder{http.Header{}, 0, io.Discard} }

func (r *recorder) Header() http.Header    { return r.header }
func (r *recorder) WriteHeader(status int) { r.status = status }
