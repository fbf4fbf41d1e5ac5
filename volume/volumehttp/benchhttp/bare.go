package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/julienschmidt/httprouter"
)

// content is the file that is read and written: random, so that nobody can
// compress it, and the same in every process.
func content(size int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// bareHandler is as little as a server of files can be: it answers every GET with
// the same bytes from memory and appends every body to one file.
func bareHandler(body []byte, file io.Writer) http.Handler {
	octets := []string{"application/octet-stream"}
	r := httprouter.New()
	r.GET("/:fid", func(w http.ResponseWriter, _ *http.Request, _ httprouter.Params) {
		w.Header()["Content-Type"] = octets
		_, _ = w.Write(body) // the client is gone
	})
	r.POST("/:fid", func(w http.ResponseWriter, r *http.Request, _ httprouter.Params) {
		b := make([]byte, r.ContentLength)
		if _, err := io.ReadFull(r.Body, b); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if _, err := file.Write(b); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusCreated)
	})
	return r
}

// serveBare tells its address on standard output and serves until ctx ends.
func serveBare(ctx context.Context, dir string, o options) error {
	file, err := os.OpenFile(filepath.Join(dir, "bodies"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	handler := bareHandler(content(o.size), file)
	if o.floor {
		record, err := recordFile(dir, o.size)
		if err != nil {
			return err
		}
		defer record.Close()
		handler = floorHandler(record, o.size, dataFile{file})
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	srv := &http.Server{Handler: handler}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // ends Serve, which is all there is to end
	defer stop()
	if err := srv.Serve(l); err != http.ErrServerClosed {
		return err
	}
	return nil
}
