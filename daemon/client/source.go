package client

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"mime"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Source is a body that can be read again, for a write that is tried again.
type Source struct {
	Name string // file name to store, without directories; may be empty
	Type string // MIME type; "" to go by the name's extension
	// Open gives the bytes from the beginning, and how many there are.
	Open func() (io.ReadCloser, int64, error)
}

// Bytes is a Source in memory.
func Bytes(name string, b []byte) Source {
	return Source{Name: name, Open: func() (io.ReadCloser, int64, error) {
		return io.NopCloser(bytes.NewReader(b)), int64(len(b)), nil
	}}
}

// File is a regular file as a Source. What is appended to it after it was opened
// is left out; if it shrinks meanwhile, the write fails.
func File(path string) Source {
	return Source{Name: filepath.Base(path), Open: func() (io.ReadCloser, int64, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, 0, err
		}
		info, err := f.Stat()
		if err == nil && !info.Mode().IsRegular() {
			err = fmt.Errorf("%s: not a regular file", path)
		}
		if err != nil {
			f.Close()
			return nil, 0, err
		}
		return f, info.Size(), nil
	}}
}

// named is for errors.
func (s Source) named() string { return cmp.Or(s.Name, "a file without a name") }

// contentType is never one that a server takes for a form.
func (s Source) contentType() string {
	t := s.Type
	if t == "" {
		t = mime.TypeByExtension(filepath.Ext(s.Name))
	}
	if t == "" || strings.Contains(t, "form-data") || strings.Contains(t, "form-urlencoded") {
		return "application/octet-stream"
	}
	return t
}

// disposition gives the header that carries the name, "" for none.
func (s Source) disposition() string {
	if s.Name == "" {
		return ""
	}
	return mime.FormatMediaType("attachment", map[string]string{"filename": s.Name})
}

// meter is the body of one request: it computes the digest of what is sent, and
// ends after size bytes or with an error. The transport may still read or close
// it after the answer has come, hence the lock.
type meter struct {
	body  io.ReadCloser
	size  int64
	moved func()

	mu  sync.Mutex
	sum hash.Hash
	n   int64
	err error // of body
}

func openMeter(s Source, moved func()) (*meter, error) {
	body, size, err := s.Open()
	if err != nil {
		return nil, &SourceError{fmt.Errorf("open the body: %w", err)}
	}
	return &meter{body: body, size: size, moved: moved, sum: sha256.New()}, nil
}

func (m *meter) Read(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.n == m.size {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), m.size-m.n)]
	n, err := m.body.Read(p)
	m.sum.Write(p[:n])
	m.n += int64(n)
	m.moved()
	switch {
	case m.n == m.size:
		err = io.EOF
	case err == io.EOF:
		err = fmt.Errorf("the body ended after %d of %d bytes; did the file change?", m.n, m.size)
	}
	if err != nil && err != io.EOF {
		m.err = &SourceError{err}
	}
	return n, err
}

// Close is safe to call twice: the transport does, and so does the one who made it.
func (m *meter) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	body := m.body
	m.body = closedBody{}
	return body.Close()
}

type closedBody struct{}

func (closedBody) Read([]byte) (int, error) { return 0, io.ErrClosedPipe }
func (closedBody) Close() error             { return nil }

// result says what was read so far, and with which error reading ended.
func (m *meter) result() (sum [sha256.Size]byte, n int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sum.Sum(sum[:0])
	return sum, m.n, m.err
}
