package wire

import (
	"bytes"
	"compress/gzip"
	"crypto/md5"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
)

const (
	maxName     = 255   // bytes of a name or type that a record holds; longer ones are dropped
	maxPairs    = 65535 // bytes of pairs that a record holds; more are dropped
	maxModified = 1<<40 - 1
	pairPrefix  = "Seaweed-"
	octetStream = "application/octet-stream"
)

// UploadOptions says how ParseUpload reads a body.
type UploadOptions struct {
	Limit    int64  // most bytes of the file, as sent and also unpacked if the client packed it
	Name     string // name of the file if the body says none
	TypeName string // its extension gives the type if neither the body nor the name does
}

// Upload is one file that a client sent.
type Upload struct {
	Needle needle.Needle // all but key and cookie
	Size   int64         // bytes of the content before any compression
	MD5    string        // as sent in Content-MD5, and found right; "" if not sent
}

// Stored is the answer for an upload that was kept with the checksum sum.
func (u *Upload) Stored(sum uint32) Stored {
	return Stored{
		Name: string(u.Needle.Name), Size: u.Size, ETag: ETag(sum),
		Mime: string(u.Needle.Mime), MD5: u.MD5,
	}
}

// ETag gives the entity tag for the checksum of stored bytes, without quotes.
func ETag(sum uint32) string {
	return string(AppendETag(make([]byte, 0, 8), sum))
}

// AppendETag appends what ETag gives.
func AppendETag(b []byte, sum uint32) []byte {
	const digits = "0123456789abcdef"
	for shift := 28; shift >= 0; shift -= 4 {
		b = append(b, digits[sum>>shift&15])
	}
	return b
}

// ParseUpload reads the body of r as the API says: a form for a POST without a
// type or with "form-data" in it, of which the first part with a file name is
// taken, else the first; otherwise the body is the file. The body is held in
// memory once. Content that is worth it is compressed.
//
// Errors are volume.ErrBadRequest, ErrTooLarge and ErrDigest. Nothing of the
// query is looked at but ts, ttl and cm.
func ParseUpload(r *http.Request, o UploadOptions) (*Upload, error) {
	q, err := Query(r)
	if err != nil {
		return nil, err
	}
	if err := CheckLength(r, o.Limit); err != nil {
		return nil, err
	}
	var f file
	if isForm(r) {
		f, err = readForm(r, o)
	} else {
		f, err = readRaw(r, o)
	}
	if err != nil {
		return nil, err
	}
	up := &Upload{Needle: needle.Needle{Data: f.data, Flags: needle.FlagModified}}
	n := &up.Needle
	n.Modified = modified(q)
	if n.TTL, err = volume.ParseTTL(q.Get("ttl")); err != nil {
		return nil, badRequest("%v", err)
	}
	if !n.TTL.IsZero() {
		n.Flags |= needle.FlagTTL
	}
	if q != nil && isTrue(q.Get("cm")) {
		n.Flags |= needle.FlagManifest
		if err := checkManifest(f); err != nil {
			return nil, err
		}
		if f.form {
			f.mime = "" // it would be the type of the manifest, not of the file
		}
	}
	n.Name, n.Mime = label(n, needle.FlagName, f.name), label(n, needle.FlagMime, f.mime)
	if n.Pairs = pairs(r.Header); n.Pairs != nil {
		n.Flags |= needle.FlagPairs
	}
	if md5 := r.Header.Get("Content-Md5"); md5 != "" {
		f.md5 = md5
	}
	return up, up.pack(f, o.Limit)
}

func isTrue(s string) bool {
	b, err := strconv.ParseBool(s)
	return err == nil && b
}

// label sets flag and gives the bytes of text, unless it is too long to be kept.
// An empty one is kept too, as the reference does.
func label(n *needle.Needle, flag needle.Flags, text string) []byte {
	if len(text) > maxName {
		return nil
	}
	n.Flags |= flag
	return []byte(text)
}

// pack checks the digest, finds the plain size, and compresses what is worth it.
func (u *Upload) pack(f file, limit int64) error {
	var digest hash.Hash
	if f.md5 != "" {
		digest = md5.New()
	}
	n := &u.Needle
	u.Size, u.MD5 = int64(len(f.data)), f.md5
	if f.gzip {
		size, err := plainSize(f.data, limit, digest)
		if errors.Is(err, volume.ErrTooLarge) {
			return err
		}
		if f.gzip = err == nil; f.gzip {
			u.Size = size
			n.Flags |= needle.FlagGzip
		} else if digest != nil { // it said gzip and is not: kept as plain bytes
			digest.Reset()
		}
	}
	if digest != nil {
		if !f.gzip {
			digest.Write(f.data)
		}
		if got := base64.StdEncoding.EncodeToString(digest.Sum(nil)); got != f.md5 {
			return fmt.Errorf("%w: Content-MD5 did not match md5 of file data expected [%.64s] received [%s] size %d",
				volume.ErrDigest, f.md5, got, u.Size)
		}
	}
	if !f.gzip {
		if packed := compress(f.data, f.mime); packed != nil {
			n.Data = packed
			n.Flags |= needle.FlagGzip
		}
	}
	return nil
}

// plainSize unpacks data, without keeping it, to see that it is whole and how
// long. Its plain bytes go into digest unless that is nil.
func plainSize(data []byte, limit int64, digest io.Writer) (int64, error) {
	if digest == nil {
		digest = io.Discard
	}
	zr, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return 0, err
	}
	size, err := io.Copy(digest, io.LimitReader(zr, limit+1))
	if err != nil {
		return 0, err
	}
	if size > limit {
		return 0, fmt.Errorf("%w: the content is over %d bytes when unpacked", volume.ErrTooLarge, limit)
	}
	return size, nil
}

// modified reads the time of the file. What is no number of seconds, or does
// not fit the record, means now.
func modified(q url.Values) uint64 {
	if ts := q.Get("ts"); ts != "" {
		if n, err := strconv.ParseUint(ts, 10, 64); err == nil && n > 0 && n <= maxModified {
			return n
		}
	}
	return uint64(time.Now().Unix())
}

// pairs gives the headers that are to be kept and answered again, as a JSON
// object without the prefix, its members sorted; nil for none or too many.
func pairs(h http.Header) []byte {
	var kept map[string]string
	for name, values := range h {
		if len(name) > len(pairPrefix) && strings.HasPrefix(name, pairPrefix) {
			if kept == nil {
				kept = make(map[string]string)
			}
			kept[name[len(pairPrefix):]] = values[0] // net/http has spelled it canonically
		}
	}
	if kept == nil {
		return nil
	}
	b, err := json.Marshal(kept)
	if err != nil || len(b) > maxPairs {
		return nil
	}
	return b
}
