package volumehttp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/julienschmidt/httprouter"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/wire"
)

// Header values that are the same in every answer; nobody changes them in place.
var (
	acceptRanges   = []string{"bytes"}
	encodingGzip   = []string{"gzip"}
	varyOnEncoding = []string{"Accept-Encoding"} // without room, so append copies it
)

// octetStream is what clients say who know no better; it is no type.
const octetStream = "application/octet-stream"

// proxiedHold is how long a read that another node passed on is held here.
const proxiedHold = time.Second

// read is GET and HEAD.
func (a *API) read(x *exchange, p httprouter.Params) error {
	t, err := parseTarget(p)
	if err != nil {
		return err
	}
	if err := a.mayRead(x, t); err != nil {
		return err
	}
	q, err := wire.Query(x.r)
	if err != nil {
		return err
	}
	ctx := x.r.Context()
	if q.Get("proxied") == "true" { // who passed it on has other holders to ask
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, proxiedHold)
		defer cancel()
	}
	if err := a.limits.Load().downloads.Enter(ctx); err != nil {
		return err
	}
	n, err := a.blobs.Get(ctx, t.id, q.Get("readDeleted") == "true")
	if err != nil {
		var e *volume.ElsewhereError
		if errors.As(err, &e) {
			return a.elsewhere(x, t, e, q)
		}
		if errors.Is(err, volume.ErrNoVolume) && q.Get("proxied") == "true" {
			return fmt.Errorf("%w: %v", volume.ErrUnavailable, err) // the node that passed it on knows better
		}
		return err
	}
	defer n.Release()
	return a.render(x, n, t, q)
}

// render answers with a needle: which form of the content, whether it is wanted
// at all, what is known of it, and then all or some of its bytes.
func (a *API) render(x *exchange, n *needle.Needle, t target, q url.Values) error {
	downloads := a.limits.Load().downloads
	downloads.Add(int64(len(n.Data)))
	defer downloads.Add(-int64(len(n.Data)))
	body := &x.body
	body.choose(n, x.r)
	if n.Has(needle.FlagManifest) {
		if err := a.assemble(x, n, q); err != nil {
			return err
		}
	}
	if err := a.edit(x, n, t, q); err != nil {
		return err
	}
	h := x.w.Header()
	if n.Has(needle.FlagPairs) {
		putPairs(h, n.Pairs)
	}
	if body.varies {
		h["Vary"] = append(varyOnEncoding, h["Vary"]...)
	}
	v := x.validate(n, body)
	if status := v.check(x.r.Header); status != 0 {
		x.empty(status)
		return nil
	}
	ranges, err := wantedRanges(x.r, v, body.size)
	if err != nil {
		x.unsatisfiable(body.size, err)
		return nil
	}
	h["Accept-Ranges"] = acceptRanges
	if body.coded {
		h["Content-Encoding"] = encodingGzip
	}
	x.describe(n, t, q, body)
	if q != nil {
		overrides(x, q)
	}
	return a.send(x, body, ranges)
}

// validate sets Etag and Last-Modified and returns what they are made of.
func (x *exchange) validate(n *needle.Needle, body *content) validators {
	b := append(x.scratch[:0], '"')
	b = wire.AppendETag(b, n.Checksum)
	if body.coded {
		b = append(b, "-gzip"...) // other bytes, so another tag, or a resumed download would mix the two
	}
	if body.edited != "" {
		b = append(append(b, '-'), body.edited...)
	}
	b = append(b, '"')
	end := len(b)
	v := validators{}
	if n.Has(needle.FlagModified) && n.Modified > 0 {
		v.modified = time.Unix(int64(n.Modified), 0)
		b = wire.AppendTime(b, v.modified)
	}
	s := string(b)
	v.tag = s[:end]
	x.put("Etag", v.tag)
	if end < len(s) {
		x.put("Last-Modified", s[end:])
	}
	return v
}

// describe sets what is known of the content: its type and name.
func (x *exchange) describe(n *needle.Needle, t target, q url.Values, body *content) {
	name, typ := body.fileName(n, t), body.mime
	if typ == "" && body.chunks == nil {
		typ = string(n.Mime)
	}
	if strings.HasPrefix(typ, octetStream) {
		typ = ""
	}
	if typ == "" && name != "" {
		typ = wire.TypeByName(name)
	}
	if typ == "" && body.size > 0 {
		typ = http.DetectContentType(body.beginning())
	}
	if typ != "" {
		x.put("Content-Type", typ)
	}
	if name != "" {
		kind := "inline"
		if dl := q.Get("dl"); dl == "1" || dl == "true" {
			kind = "attachment"
		}
		x.put("Content-Disposition", disposition(kind, name))
	}
}

// disposition formats kind and name, quoted only if needed, and as RFC 5987
// wants it when it is not ASCII.
func disposition(kind, name string) string {
	for i := range len(name) {
		if !tokenByte(name[i]) {
			if s := mime.FormatMediaType(kind, map[string]string{"filename": name}); s != "" {
				return s
			}
			return kind
		}
	}
	return kind + "; filename=" + name
}

func tokenByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_'
}

// overrides sets the answer headers that the query asks for.
func overrides(x *exchange, q url.Values) {
	for _, name := range [...]string{"Content-Type", "Cache-Control", "Content-Disposition", "Content-Language", "Content-Encoding", "Expires"} {
		if v := q.Get("response-" + strings.ToLower(name)); v != "" {
			x.w.Header()[name] = []string{v}
		}
	}
}

// putPairs sets the headers that were stored with the file. They come from
// whoever wrote it and must not pass for ours, or break the answer.
func putPairs(h http.Header, pairs []byte) {
	var kept map[string]string
	if json.Unmarshal(pairs, &kept) != nil {
		return // they are an extra; the file is what was asked for
	}
	for name, value := range kept {
		if name = http.CanonicalHeaderKey(name); pairAllowed(name) {
			h[name] = []string{value}
		}
	}
}

// pairAllowed reports whether a stored pair may become a header: not one that
// says how the answer is framed, coded, validated or trusted.
func pairAllowed(name string) bool {
	switch name {
	case "Content-Language", "Cache-Control":
		return true
	case "Etag", "Last-Modified", "Accept-Ranges", "Server", "Date", "Vary", "Set-Cookie", "Location", "Connection",
		"Keep-Alive", "Transfer-Encoding", "Trailer", "Upgrade", "Te", "Authorization", "Www-Authenticate", "Proxy-Authenticate",
		"Strict-Transport-Security", "Clear-Site-Data", "Alt-Svc", "Refresh", "Retry-After", wire.HeaderRequestID:
		return false
	}
	return !strings.HasPrefix(name, "Content-") && !strings.HasPrefix(name, "Access-Control-")
}

// unsatisfiable answers a Range that makes no sense, or none for this size.
func (x *exchange) unsatisfiable(size int64, err error) {
	if err == errUnsatisfiable {
		x.put("Content-Range", "bytes */"+strconv.FormatInt(size, 10))
	}
	const text = "invalid range\n"
	x.w.Header()["Accept-Ranges"] = acceptRanges
	x.put("Content-Type", "text/plain; charset=utf-8")
	x.put("X-Content-Type-Options", "nosniff")
	x.put("Content-Length", strconv.Itoa(len(text)))
	x.status = http.StatusRequestedRangeNotSatisfiable
	x.w.WriteHeader(x.status)
	_, _ = x.w.Write([]byte(text)) // the client is gone: there is nobody left to tell
}
