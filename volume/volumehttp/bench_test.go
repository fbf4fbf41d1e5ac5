package volumehttp_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"weedd/volume"
	"weedd/volume/needle"
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

// BenchmarkPut is what this package adds to a write of 1 KiB.
func BenchmarkPut(b *testing.B) {
	h := volumehttp.New(volumehttp.Options{Blobs: &accepting{}, Log: discard(), Limits: volumehttp.Limits{Uploads: 1 << 20}}).Handler()
	body := bytes.NewReader(bytes.Repeat([]byte{1, 0x80}, 512))
	r := httptest.NewRequest("POST", "/1,01deadbeef_7", body)
	r.Header.Set("Content-Type", "application/octet-stream")
	w := &discarded{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		clear(w.header)
		body.Reset(bytes.Repeat([]byte{1, 0x80}, 512))
		r.Body = io.NopCloser(body)
		h.ServeHTTP(w, r)
		if w.status != 201 {
			b.Fatal(w.status)
		}
	}
}

// accepting is a node that stores nothing.
type accepting struct{ node }

func (*accepting) Put(context.Context, volume.FileID, *needle.Needle, bool) (volume.PutResult, error) {
	return volume.PutResult{Checksum: 1, Size: 1024}, nil
}
