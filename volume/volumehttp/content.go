package volumehttp

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"weedd/volume/needle"
)

// unpackLimit is how much packed content is unpacked into memory. What is
// larger is unpacked twice, to learn its length and to send it, since a
// few such reads at once could otherwise take all memory there is.
const unpackLimit = 1 << 20

// content is the form of a file that one answer sends: its bytes as they are in
// memory, or those that a gzip stream unpacks to.
type content struct {
	data   []byte
	packed []byte // if not nil, data is nil and the content is what this unpacks to
	size   int64
	coded  bool // data is gzip and is sent as such
	varies bool // another Accept-Encoding would get another form

	chunks *chunked // if not nil, data is nil and the content is fetched in chunks
	name   string   // of a file in chunks, as its manifest says
	mime   string   // of a file in chunks, and of an image that was edited
	sha256 []byte   // as the manifest says; nil when not known
	edited string   // tells an image that was edited from what it was made of
}

// fileName is what the file is called: in the path, else by its writer.
func (c *content) fileName(n *needle.Needle, t target) string {
	switch {
	case t.name != "":
		return t.name
	case c.name != "":
		return c.name
	}
	return string(n.Name)
}

// choose makes c the form of n that r wants. Content that was packed is sent so
// only to those who take gzip and want all of it.
func (c *content) choose(n *needle.Needle, r *http.Request) {
	c.data, c.size = n.Data, int64(len(n.Data))
	if !n.Has(needle.FlagGzip) || !isGzip(n.Data) {
		return
	}
	c.varies = true
	ranged := r.Method == http.MethodGet && r.Header["Range"] != nil
	if !ranged && acceptsGzip(r.Header["Accept-Encoding"]) {
		c.coded = true
		return
	}
	c.unpack()
}

// isGzip reports whether data begins like gzip; writers could always claim that.
func isGzip(data []byte) bool {
	return len(data) >= 18 && data[0] == 0x1f && data[1] == 0x8b
}

// unpack makes c the unpacked form of its data. What does not unpack is left as
// it is: it was declared gzip by a writer who was wrong.
func (c *content) unpack() {
	packed := c.data
	promised := int64(binary.LittleEndian.Uint32(packed[len(packed)-4:])) // right for a single stream below 4 GiB
	if promised <= unpackLimit {
		if plain, ok := unpackExactly(packed, promised); ok {
			c.data, c.size = plain, promised
			return
		}
	}
	size, err := copyUnpacked(io.Discard, packed, 0, -1)
	if err == nil {
		c.data, c.packed, c.size = nil, packed, size
	}
}

// unpackExactly unpacks size bytes, if there are so many and no more.
func unpackExactly(packed []byte, size int64) ([]byte, bool) {
	zr, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, false
	}
	plain := make([]byte, size)
	if _, err := io.ReadFull(zr, plain); err != nil {
		return nil, false
	}
	var more [1]byte
	n, err := zr.Read(more[:])
	return plain, n == 0 && err == io.EOF
}

// copyUnpacked sends n bytes from off on of what packed unpacks to, all of the
// rest if n is negative.
func copyUnpacked(w io.Writer, packed []byte, off, n int64) (int64, error) {
	zr, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return 0, err
	}
	if _, err := io.CopyN(io.Discard, zr, off); err != nil {
		return 0, err
	}
	if n < 0 {
		return io.Copy(w, zr)
	}
	return io.CopyN(w, zr, n)
}

// all gives the whole content in memory, as plain bytes; nil if there are more than
// limit or they cannot be had.
func (c *content) all(limit int64) []byte {
	if c.coded {
		c.coded, c.varies = false, true
		c.unpack()
	}
	if c.size > limit {
		return nil
	}
	if c.chunks == nil && c.packed == nil {
		return c.data
	}
	b := bytes.NewBuffer(make([]byte, 0, c.size))
	if c.copyTo(b, 0, c.size) != nil {
		return nil
	}
	return b.Bytes()
}

// copyTo sends n bytes from off on.
func (c *content) copyTo(w io.Writer, off, n int64) error {
	if c.chunks != nil {
		return c.chunks.copyTo(w, off, n)
	}
	if c.packed != nil {
		_, err := copyUnpacked(w, c.packed, off, n)
		return err
	}
	_, err := w.Write(c.data[off : off+n])
	return err
}

// beginning is what the type is guessed from.
func (c *content) beginning() []byte {
	if c.chunks != nil {
		var b bytes.Buffer
		_ = c.chunks.copyTo(&b, 0, min(512, c.size)) // what there is will do for a guess
		return b.Bytes()
	}
	if c.packed == nil && !c.coded {
		return c.data[:min(512, len(c.data))]
	}
	packed := c.packed
	if c.coded {
		packed = c.data
	}
	zr, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil
	}
	buf := make([]byte, 512)
	n, _ := io.ReadFull(zr, buf) // what there is will do for a guess
	return buf[:n]
}

// acceptsGzip reads Accept-Encoding: gzip, or * without gzip, with a q above 0.
func acceptsGzip(fields []string) bool {
	any := false
	for _, field := range fields {
		for item := range strings.SplitSeq(field, ",") {
			coding, params, _ := strings.Cut(item, ";")
			coding = strings.TrimSpace(coding)
			switch {
			case strings.EqualFold(coding, "gzip") || strings.EqualFold(coding, "x-gzip"):
				return quality(params) > 0
			case coding == "*":
				any = quality(params) > 0
			}
		}
	}
	return any
}

// quality reads the q of a list item, 1 if there is none, 0 if it makes no sense.
func quality(params string) float64 {
	for p := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		if strings.EqualFold(name, "q") {
			q, err := strconv.ParseFloat(value, 64)
			if err != nil || q > 1 {
				return 0
			}
			return q
		}
	}
	return 1
}

// send answers with all of the content, or with ranges of it. An error means that a
// chunk cannot be had, before or after the answer has begun.
func (a *API) send(x *exchange, c *content, ranges []byteRange) error {
	if err := c.openFirst(x.r.Method, ranges); err != nil {
		x.forget()
		return err
	}
	if c.chunks != nil {
		defer c.chunks.close()
	}
	p := x.plan(c, ranges)
	x.put("Content-Length", strconv.FormatInt(p.length, 10))
	x.digests(c, func(w io.Writer) error { return p.write(w, c) }, p.length == c.size && p.parts == nil)
	x.status = p.status
	x.w.WriteHeader(p.status)
	if x.r.Method == http.MethodHead {
		return nil
	}
	// A write that fails means that the client went away: nobody is left to
	// tell, and http.Server closes a connection whose answer came out short.
	err := p.write(x.w, c)
	if lost := (*chunkError)(nil); errors.As(err, &lost) {
		return err
	}
	return nil
}

// openFirst sees to it that the first chunk that is wanted can be had, so that the
// answer can still say so; for HEAD, of which GET would say the same.
func (c *content) openFirst(method string, ranges []byteRange) error {
	if c.chunks == nil {
		return nil
	}
	first := byteRange{0, c.size}
	if len(ranges) > 0 {
		first = ranges[0]
	}
	if method == http.MethodHead {
		first.length = min(first.length, 1)
	}
	return c.chunks.open(first.start, first.length)
}

// part is what of a content is sent: parts, or length bytes from off on.
type part struct {
	status      int
	off, length int64
	parts       *byteranges
}

// plan chooses the part, and sets the headers that say so.
func (x *exchange) plan(c *content, ranges []byteRange) part {
	switch len(ranges) {
	case 0:
		return part{http.StatusOK, 0, c.size, nil}
	case 1:
		x.put("Content-Range", ranges[0].contentRange(c.size))
		return part{http.StatusPartialContent, ranges[0].start, ranges[0].length, nil}
	}
	parts := newByteranges(ranges, c.size, x.w.Header().Get("Content-Type"))
	x.put("Content-Type", "multipart/byteranges; boundary="+parts.boundary)
	return part{http.StatusPartialContent, 0, parts.length(), parts}
}

func (p part) write(w io.Writer, c *content) error {
	if p.parts != nil {
		return p.parts.write(w, c)
	}
	return c.copyTo(w, p.off, p.length)
}
