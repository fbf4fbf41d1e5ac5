package wire

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"

	"weedd/volume"
)

// packers keeps gzip writers, of some 800 KB each, between uploads.
var packers = sync.Pool{New: func() any {
	zw, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
	if err != nil {
		panic(err) // the level is a constant that gzip knows
	}
	return zw
}}

// packing is held while something is packed: a writer more than there are
// processors would only take memory.
var packing = make(chan struct{}, runtime.GOMAXPROCS(0))

// compress packs data of a type that shrinks, or of none if it looks like text.
// It gives nil unless the result is below nine tenths of data.
func compress(data []byte, mime string) []byte {
	room := len(data) * 9 / 10
	if room < 24 { // no gzip stream of anything is shorter
		return nil
	}
	if mime == "" {
		mime = http.DetectContentType(data)
	}
	if !shrinks(mime) {
		return nil
	}
	packing <- struct{}{}
	defer func() { <-packing }()
	out := &bounded{buf: make([]byte, 0, room)}
	zw := packers.Get().(*gzip.Writer)
	defer packers.Put(zw)
	zw.Reset(out)
	if _, err := zw.Write(data); err != nil {
		return nil
	}
	if err := zw.Close(); err != nil {
		return nil
	}
	return out.buf
}

// shrinks reports whether content of a type is worth compressing: text in one
// form or another, and plain sound. Pictures, JSON and archives are not packed,
// as in the reference.
func shrinks(mime string) bool {
	mime, _, _ = strings.Cut(mime, ";")
	mime = strings.TrimSpace(mime)
	if strings.HasPrefix(mime, "text/") {
		return true
	}
	if sub, ok := strings.CutPrefix(mime, "application/"); ok {
		return strings.HasSuffix(sub, "xml") || strings.HasSuffix(sub, "script")
	}
	switch mime {
	case "audio/wav", "audio/wave", "audio/x-wav", "audio/x-pn-wav":
		return true
	}
	return false
}

var errFull = errors.New("buffer is full")

// bounded is a writer that fails rather than grow, so that compressing what does
// not shrink ends early.
type bounded struct{ buf []byte }

func (b *bounded) Write(p []byte) (int, error) {
	if len(b.buf)+len(p) >= cap(b.buf) {
		return 0, errFull
	}
	b.buf = append(b.buf, p...)
	return len(p), nil
}

// mostUnpacked is to how many times its length a content may unpack, beyond the first
// MiB: a few MiB would fill a disk otherwise.
const mostUnpacked = 100

// unpacker reads what a gzip stream unpacks to, unless that is far too much. The error
// is volume.ErrTooLarge then.
type unpacker struct {
	zr     *gzip.Reader
	packed counter
	plain  int64
}

func newUnpacker(from io.Reader) (io.Reader, error) {
	u := &unpacker{packed: counter{from: from}}
	var err error
	u.zr, err = gzip.NewReader(&u.packed)
	return u, err
}

// Read implements io.Reader.
func (u *unpacker) Read(b []byte) (int, error) {
	n, err := u.zr.Read(b)
	if u.plain += int64(n); u.plain > 1<<20+mostUnpacked*u.packed.n {
		return n, fmt.Errorf("%w: the content unpacks to over %d times its length; send it plain", volume.ErrTooLarge, mostUnpacked)
	}
	return n, err
}

type counter struct {
	from io.Reader
	n    int64
}

// Read implements io.Reader.
func (c *counter) Read(b []byte) (int, error) {
	n, err := c.from.Read(b)
	c.n += int64(n)
	return n, err
}
