package volumehttp_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"weedd/volume/volumehttp"
	"weedd/volume/volumetest"
)

// BenchmarkGet is what this package adds to a read of 1 KiB: no network, and a
// store in memory. The whole is measured by benchhttp.
func BenchmarkGet(b *testing.B) {
	h := volumehttp.New(volumehttp.Options{Blobs: &node{Blobs: volumetest.NewBlobs(1)}, Log: discard()}).Handler()
	put := httptest.NewRequest("PUT", "/1,01deadbeef", strings.NewReader(strings.Repeat("\x01\x80", 512)))
	put.Header.Set("Content-Type", "application/octet-stream")
	h.ServeHTTP(httptest.NewRecorder(), put)
	r := httptest.NewRequest("GET", "/1,01deadbeef", nil)
	w := &discarded{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		clear(w.header)
		h.ServeHTTP(w, r)
		if w.status != 200 {
			b.Fatal(w.status)
		}
	}
}

// discarded is a ResponseWriter that keeps nothing but the status.
type discarded struct {
	header http.Header
	status int
}

func (d *discarded) Header() http.Header         { return d.header }
func (d *discarded) Write(b []byte) (int, error) { return len(b), nil }
func (d *discarded) WriteHeader(status int)      { d.status = status }
