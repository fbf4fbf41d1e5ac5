package main

import (
	"errors"
	"hash/crc32"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/julienschmidt/httprouter"
	"golang.org/x/sys/unix"
)

// headers are those of weedd's answers, with values that took no time to make.
var headers = http.Header{
	"Server":           {"weedd/0.0.0"},
	"X-Amz-Request-Id": {"18A1B2C3D4E5F60718293A4B"},
	"Etag":             {`"0123abcd"`},
}

// floorHandler is what keeping weedd's promises costs at least: a GET is one read of
// the file system and one checksum, a POST is on disk before it is answered, together
// with all others that came while the disk was busy. Answers have weedd's headers.
func floorHandler(record *os.File, size int, file syncer) http.Handler {
	buffers := sync.Pool{New: func() any { b := make([]byte, size); return &b }}
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Checksum(content(size), table)
	group := &grouped{file: file}
	octets, ranges, length := []string{"application/octet-stream"}, []string{"bytes"}, []string{strconv.Itoa(size)}
	modified := []string{"Sun, 06 Nov 1994 08:49:37 GMT"}
	r := httprouter.New()
	r.GET("/:fid", func(w http.ResponseWriter, _ *http.Request, _ httprouter.Params) {
		b := buffers.Get().(*[]byte)
		defer buffers.Put(b)
		if _, err := record.ReadAt(*b, 0); err != nil || crc32.Checksum(*b, table) != sum {
			http.Error(w, "record cannot be read", http.StatusInternalServerError)
			return
		}
		h := w.Header()
		for name, value := range headers {
			h[name] = value
		}
		h["Content-Type"], h["Accept-Ranges"], h["Content-Length"], h["Last-Modified"] = octets, ranges, length, modified
		_, _ = w.Write(*b) // the client is gone
	})
	stored := []byte(`{"size":` + strconv.Itoa(size) + `,"eTag":"0123abcd"}`)
	json, storedLength := []string{"application/json"}, []string{strconv.Itoa(len(stored))}
	r.POST("/:fid", func(w http.ResponseWriter, r *http.Request, _ httprouter.Params) {
		b := buffers.Get().(*[]byte)
		defer buffers.Put(b)
		_, err := io.ReadFull(r.Body, *b)
		if err = errors.Join(err, group.append(*b)); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		h := w.Header()
		for name, value := range headers {
			h[name] = value
		}
		h["Content-Type"], h["Content-Length"] = json, storedLength
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(stored) // the client is gone
	})
	return r
}

// recordFile is the file that floorHandler reads.
func recordFile(dir string, size int) (*os.File, error) {
	path := filepath.Join(dir, "record")
	if err := os.WriteFile(path, content(size), 0o600); err != nil {
		return nil, err
	}
	return os.Open(path)
}

// syncer is a file that is made durable.
type syncer interface {
	io.Writer
	Sync() error
}

// dataFile is synced as weedd syncs.
type dataFile struct{ *os.File }

// Sync implements syncer.
func (f dataFile) Sync() error { return unix.Fdatasync(int(f.Fd())) }

// grouped appends to a file, with one write and one sync for all that wait.
type grouped struct {
	file syncer
	mu   sync.Mutex
	next *batch // that gathers; nil while nobody waits but for those under way
	busy bool
}

type batch struct {
	bytes []byte
	done  chan struct{} // closed when err is known
	err   error
}

func (g *grouped) append(b []byte) error {
	g.mu.Lock()
	if g.next == nil {
		g.next = &batch{done: make(chan struct{})}
	}
	mine := g.next
	mine.bytes = append(mine.bytes, b...)
	if !g.busy {
		g.busy = true
		go g.run()
	}
	g.mu.Unlock()
	<-mine.done
	return mine.err
}

func (g *grouped) run() {
	for {
		g.mu.Lock()
		b := g.next
		g.next, g.busy = nil, b != nil
		g.mu.Unlock()
		if b == nil {
			return
		}
		if _, b.err = g.file.Write(b.bytes); b.err == nil {
			b.err = g.file.Sync()
		}
		close(b.done)
	}
}
