package volumehttp

import (
	"io"

	"weedd/volume/wire"
)

// digests sets the digests of RFC 9530 that the client wants: of the content of this
// answer, which send writes, and of all of the file in the form chosen. whole says
// that both are the same. Of a file in chunks only that of its manifest is known: to
// compute another would be to fetch all of it twice.
func (x *exchange) digests(c *content, send func(io.Writer) error, whole bool) {
	if d := wire.WantedDigest(x.r.Header[wire.HeaderWantReprDigest]); d != "" {
		if s := digest(c, d, func(w io.Writer) error { return c.copyTo(w, 0, c.size) }, true); s != "" {
			x.put(wire.HeaderReprDigest, s)
		}
	}
	if d := wire.WantedDigest(x.r.Header[wire.HeaderWantContentDigest]); d != "" {
		if s := digest(c, d, send, whole); s != "" {
			x.put(wire.HeaderContentDigest, s)
		}
	}
}

func digest(c *content, d wire.Digest, send func(io.Writer) error, whole bool) string {
	if c.chunks != nil {
		if d != wire.SHA256 || c.sha256 == nil || !whole {
			return ""
		}
		return d.Format(c.sha256)
	}
	sum := d.New()
	if send(sum) != nil {
		return "" // sending it will fail, too
	}
	return d.Format(sum.Sum(nil))
}
