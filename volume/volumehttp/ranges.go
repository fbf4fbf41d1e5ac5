package volumehttp

import (
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// maxRanges is how many ranges one request may ask for; more are excessive.
const maxRanges = 128

var (
	errBadRange      = errors.New("bad range")
	errUnsatisfiable = errors.New("range not satisfiable")
)

// byteRange is a part of a content.
type byteRange struct{ start, length int64 }

func (r byteRange) contentRange(size int64) string {
	b := append(make([]byte, 0, 64), "bytes "...)
	b = strconv.AppendInt(b, r.start, 10)
	b = append(b, '-')
	b = strconv.AppendInt(b, r.start+r.length-1, 10)
	b = append(b, '/')
	return string(strconv.AppendInt(b, size, 10))
}

// wantedRanges gives what r asks for of a content of size bytes; none means all
// of it. Ranges are for GET only.
func wantedRanges(r *http.Request, v validators, size int64) ([]byteRange, error) {
	fields := r.Header["Range"]
	if fields == nil || r.Method != http.MethodGet || !v.sameSince(r.Header) {
		return nil, nil
	}
	return parseRange(strings.Join(fields, ","), size)
}

// parseRange reads a Range header. None, with a nil error, means that the whole
// is to be sent: the unit is not bytes, no range is given, or they are excessive,
// adding up to more than the whole. What cannot be read is errBadRange; when no
// range has a byte of the content, errUnsatisfiable.
func parseRange(s string, size int64) ([]byteRange, error) {
	list, ok := strings.CutPrefix(s, "bytes=")
	if !ok {
		return nil, nil
	}
	var ranges []byteRange
	given, sum := 0, int64(0)
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		given++
		r, ok, err := parseOneRange(item, size)
		if err != nil {
			return nil, err
		}
		if ok {
			ranges = append(ranges, r)
			sum += r.length
		}
		if given > maxRanges || sum > size {
			return nil, nil
		}
	}
	if given > 0 && len(ranges) == 0 {
		return nil, errUnsatisfiable
	}
	return ranges, nil
}

// parseOneRange reads first-last, first- or -suffix, clipped to size; not ok when
// the content has no byte of it.
func parseOneRange(item string, size int64) (r byteRange, ok bool, err error) {
	first, last, dash := strings.Cut(item, "-")
	if !dash {
		return r, false, errBadRange
	}
	if first == "" {
		n, err := parseOffset(last)
		if err != nil {
			return r, false, err
		}
		n = min(n, size)
		return byteRange{size - n, n}, n > 0, nil
	}
	start, err := parseOffset(first)
	if err != nil {
		return r, false, err
	}
	end := size - 1
	if last != "" {
		if end, err = parseOffset(last); err != nil {
			return r, false, err
		}
		if end < start {
			return r, false, errBadRange
		}
		end = min(end, size-1)
	}
	return byteRange{start, end - start + 1}, start < size, nil
}

// parseOffset reads a number of digits only. One beyond 63 bits is beyond the
// end of any content, too.
func parseOffset(s string) (int64, error) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, errBadRange
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, errBadRange
	}
	return n, nil // ErrRange gives the largest number
}

// byteranges is a multipart/byteranges body.
type byteranges struct {
	boundary string
	ranges   []byteRange
	heads    []string // what comes before each range
	tail     string
}

func newByteranges(ranges []byteRange, size int64, typ string) *byteranges {
	b := &byteranges{boundary: rand.Text(), ranges: ranges}
	open := "--" + b.boundary
	for _, r := range ranges {
		b.heads = append(b.heads, open+"\r\nContent-Range: "+r.contentRange(size)+"\r\nContent-Type: "+typ+"\r\n\r\n")
		open = "\r\n--" + b.boundary
	}
	b.tail = open + "--\r\n"
	return b
}

func (b *byteranges) length() int64 {
	n := int64(len(b.tail))
	for i, r := range b.ranges {
		n += int64(len(b.heads[i])) + r.length
	}
	return n
}

func (b *byteranges) write(w io.Writer, c *content) error {
	for i, r := range b.ranges {
		if _, err := io.WriteString(w, b.heads[i]); err != nil {
			return err
		}
		if err := c.copyTo(w, r.start, r.length); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, b.tail)
	return err
}
