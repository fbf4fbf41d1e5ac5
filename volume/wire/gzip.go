package wire

import (
	"compress/gzip"
	"errors"
	"net/http"
	"runtime"
	"strings"
	"sync"
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
