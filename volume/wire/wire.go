// Package wire is what the two public HTTP APIs, that of the master and that of
// the volume server, share: answers in JSON, one table from errors to statuses,
// request ids, metrics, and the reading of uploads.
//
// It knows no roles, and no routes but what the path of a file looks like. Everything in it may be used at the same time
// from many goroutines.
package wire

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Header names as net/http spells them, so that they can be put into a
// http.Header without being made canonical for each request.
const (
	HeaderRequestID  = "X-Amz-Request-Id"
	headerType       = "Content-Type"
	headerLength     = "Content-Length"
	headerNoSniff    = "X-Content-Type-Options"
	headerRetryAfter = "Retry-After"
)

// Values of headers that are the same in every answer. Nobody changes them in
// place: Set and Del replace the slice, Add copies it, since it has no room.
var (
	typeJSON = []string{"application/json"}
	noSniff  = []string{"nosniff"}
	zero     = []string{"0"}
)

// JSON answers v with status: compact, without a newline at the end, or with an
// indent of two spaces when the query of r has a non-empty "pretty". For HEAD
// only the headers are sent. A v that cannot be encoded is a mistake of ours and
// panics.
func JSON(w http.ResponseWriter, r *http.Request, status int, v any) {
	body, err := json.Marshal(v)
	if r.URL.RawQuery != "" && r.URL.Query().Get("pretty") != "" {
		body, err = json.MarshalIndent(v, "", "  ")
	}
	if err != nil {
		panic(fmt.Sprintf("encode answer %T: %v", v, err))
	}
	RawJSON(w, r, status, body)
}

// RawJSON answers a body that is JSON already.
func RawJSON(w http.ResponseWriter, r *http.Request, status int, body []byte) {
	h := w.Header()
	h[headerType] = typeJSON
	h[headerNoSniff] = noSniff
	h[headerLength] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // the client is gone: there is nobody left to tell
	}
}

// Empty answers status without a body.
func Empty(w http.ResponseWriter, status int) {
	if status != http.StatusNoContent && status != http.StatusNotModified {
		w.Header()[headerLength] = zero
	}
	w.WriteHeader(status)
}

// IsFilePath reports whether a path is that of a file, and of no other route: those
// of files begin with the digits of a volume id.
func IsFilePath(path string) bool {
	return len(path) > 1 && path[0] == '/' && path[1] >= '0' && path[1] <= '9'
}

// Query parses the query of r, which costs nothing when there is none. An error
// is volume.ErrBadRequest.
func Query(r *http.Request) (url.Values, error) {
	if r.URL.RawQuery == "" {
		return nil, nil
	}
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, badRequest("query: %v", err)
	}
	return q, nil
}

const upperHex = "0123456789ABCDEF"

// AppendRequestID appends a new id to b: the time in ns and 32 random bits, in upper
// case hex, which is what clients of the reference know.
func AppendRequestID(b []byte, now time.Time) []byte {
	b = appendHex(b, uint64(now.UnixNano()), 16)
	return appendHex(b, uint64(rand.Uint32()), 8)
}

// AppendTime appends t, of year 0 or later, as http.TimeFormat has it.
func AppendTime(b []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	b = append(append(b, t.Weekday().String()[:3]...), ", "...)
	b = append(appendTwo(b, day), ' ')
	b = append(append(b, month.String()[:3]...), ' ')
	b = append(appendTwo(appendLeading(b, year/100), year%100), ' ')
	b = append(appendTwo(b, hour), ':')
	b = append(appendTwo(b, minute), ':')
	return append(appendTwo(b, second), " GMT"...)
}

// appendLeading appends n with two digits, or more if it has more.
func appendLeading(b []byte, n int) []byte {
	if n < 100 {
		return appendTwo(b, n)
	}
	return strconv.AppendInt(b, int64(n), 10)
}

func appendTwo(b []byte, n int) []byte { return append(b, byte('0'+n/10), byte('0'+n%10)) }

func appendHex(b []byte, n uint64, digits int) []byte {
	for shift := 4 * (digits - 1); shift >= 0; shift -= 4 {
		b = append(b, upperHex[n>>shift&15])
	}
	return b
}
