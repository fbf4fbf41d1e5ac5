package wire

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
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
	headerMD5   = "Content-Md5"
	octetStream = "application/octet-stream"
)

// UploadOptions says how ParseUpload reads a body.
type UploadOptions struct {
	Limit    int64  // most bytes of the file, as sent and also unpacked if the client packed it
	Total    int64  // most bytes of a file that is read in pieces; 0 if it is not
	Name     string // name of the file if the body says none
	TypeName string // its extension gives the type if neither the body nor the name does
}

// most is the most bytes of the file.
func (o UploadOptions) most() int64 { return max(o.Limit, o.Total) }

// Upload is one file that a client sent.
type Upload struct {
	Needle needle.Needle // all but key and cookie
	Size   int64         // bytes of the content before any compression
	MD5    string        // as sent in Content-MD5, and found right; "" if not sent
	Digest string        // of the content as it was sent, if the client wants to know; "" if not
}

// Stored is the answer for an upload that was kept with the checksum sum.
func (u *Upload) Stored(sum uint32) Stored {
	return Stored{
		Name: string(u.Needle.Name), Size: u.Size, ETag: ETag(sum),
		Mime: string(u.Needle.Mime), MD5: u.MD5, Digest: u.Digest,
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
	in, err := OpenUpload(r, o)
	if err != nil {
		return nil, err
	}
	data, last, err := in.Next()
	if err != nil {
		return nil, err
	}
	if !last {
		return nil, tooLarge(o.Limit)
	}
	return in.Whole(data)
}

// Incoming is an upload whose content is still to be read. It is used by one
// goroutine.
type Incoming struct {
	o        UploadOptions
	f        file
	about    needle.Needle // what the request says of the file, without content
	manifest bool          // the content is a chunk manifest
	want     Digest        // "" for none
	ahead    []byte        // one byte, read to see whether there is more
	packed   bool          // what is read is unpacked from what the client packed
	sha256   hash.Hash     // of the content, when it comes in pieces
	sum      hash.Hash     // the same, by what the client wants
	read     int64         // bytes of the content so far
}

// OpenUpload is ParseUpload without reading the content: see Next, Whole and Piece.
func OpenUpload(r *http.Request, o UploadOptions) (*Incoming, error) {
	q, err := Query(r)
	if err != nil {
		return nil, err
	}
	if err := CheckLength(r, o.most()); err != nil {
		return nil, err
	}
	in := &Incoming{o: o, about: needle.Needle{Flags: needle.FlagModified}}
	n := &in.about
	n.Modified = modified(q)
	if n.TTL, err = volume.ParseTTL(q.Get("ttl")); err != nil {
		return nil, badRequest("%v", err)
	}
	if !n.TTL.IsZero() {
		n.Flags |= needle.FlagTTL
	}
	in.manifest = q != nil && isTrue(q.Get("cm"))
	in.want = WantedDigest(slices.Concat(r.Header[HeaderWantReprDigest], r.Header[HeaderWantContentDigest]))
	if n.Pairs = pairs(r.Header); n.Pairs != nil {
		n.Flags |= needle.FlagPairs
	}
	in.f, err = openFile(r, o)
	return in, err
}

// Next reads the next UploadOptions.Limit bytes of the content, or all if there are
// fewer; last says that no more follow. Every piece is in memory of its own.
func (in *Incoming) Next() (data []byte, last bool, err error) {
	from := io.MultiReader(bytes.NewReader(in.ahead), in.f.from)
	in.ahead = nil
	data, err = readUpTo(io.LimitReader(from, in.o.Limit), in.f.expect-in.read, in.o.Limit)
	if err != nil {
		return nil, false, bodyError(err)
	}
	in.read += int64(len(data))
	if int64(len(data)) < in.o.Limit {
		return data, true, nil
	}
	var one [1]byte
	switch _, err := io.ReadFull(in.f.from, one[:]); err {
	case nil:
		in.ahead = []byte{one[0]}
		return data, false, nil
	case io.EOF:
		return data, true, nil
	default:
		return nil, false, bodyError(err)
	}
}

// Packed reports whether the client says that the content is gzip.
func (in *Incoming) Packed() bool { return in.f.gzip }

// Unpack is for content that the client packed and that is longer than
// UploadOptions.Limit: with the first piece of it, it goes on as Next does with what
// that unpacks to, in pieces half as long, since that one stays in memory for a while.
func (in *Incoming) Unpack(first []byte) (data []byte, last bool, err error) {
	from := io.MultiReader(bytes.NewReader(first), bytes.NewReader(in.ahead), in.f.from)
	if in.sum = in.want.New(); in.sum != nil {
		from = io.TeeReader(from, in.sum)
	}
	if in.f.from, err = newUnpacker(from); err != nil {
		return nil, false, bodyError(err)
	}
	in.packed, in.ahead, in.read = true, nil, 0
	in.o.Limit = max(in.o.Limit/2, 1)
	in.f.expect = math.MaxInt64 - 1 // buffers are made for whole pieces
	return in.Next()
}

// Piece makes a file of its own of data, the next piece of the content.
func (in *Incoming) Piece(data []byte) *needle.Needle {
	if in.sha256 == nil {
		in.sha256 = SHA256.New()
		if !in.packed {
			in.sum = in.want.New()
		}
	}
	in.sha256.Write(data)
	if in.sum != nil && !in.packed {
		in.sum.Write(data)
	}
	in.f.plain.Write(data)
	n := &needle.Needle{Data: data, Modified: in.about.Modified, TTL: in.about.TTL, Flags: in.about.Flags &^ needle.FlagPairs}
	if packed := compress(data, in.f.mime); packed != nil {
		n.Data = packed
		n.Flags |= needle.FlagGzip
	}
	return n
}

// Assembled makes the manifest of a content of which all pieces were read and stored
// as chunks, if its digests are right.
func (in *Incoming) Assembled(chunks []Chunk) (*Upload, error) {
	if err := in.f.finish(); err != nil {
		return nil, err
	}
	if err := in.f.plain.verify(); err != nil {
		return nil, err
	}
	m := Manifest{Name: in.f.name, Mime: in.f.mime, Size: in.read, Chunks: chunks, SHA256: in.sha256.Sum(nil)}
	data, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode chunk manifest: %w", err)
	}
	if len(data) > MaxManifest {
		return nil, fmt.Errorf("%w: %d chunks do not fit a manifest; make them larger with maxMB", volume.ErrTooLarge, len(chunks))
	}
	up := &Upload{Needle: in.about, Size: in.read, MD5: in.f.md5}
	n := &up.Needle
	n.Data = data
	n.Flags |= needle.FlagManifest
	n.Name, n.Mime = label(n, needle.FlagName, in.f.name), label(n, needle.FlagMime, "")
	if packed := compress(data, ""); packed != nil {
		n.Data = packed
		n.Flags |= needle.FlagGzip
	}
	if in.want != "" {
		up.Digest = in.want.Format(in.sum.Sum(nil))
	}
	return up, nil
}

// Whole makes the upload of data, which is all of the content.
func (in *Incoming) Whole(data []byte) (*Upload, error) {
	f := in.f
	f.data = data
	if err := f.finish(); err != nil {
		return nil, err
	}
	up := &Upload{Needle: in.about}
	n := &up.Needle
	n.Data = data
	if in.manifest {
		n.Flags |= needle.FlagManifest
		if err := checkManifest(f); err != nil {
			return nil, err
		}
		if f.form {
			f.mime = "" // it would be the type of the manifest, not of the file
		}
	}
	n.Name, n.Mime = label(n, needle.FlagName, f.name), label(n, needle.FlagMime, f.mime)
	if in.want != "" {
		sum := in.want.New()
		sum.Write(data)
		up.Digest = in.want.Format(sum.Sum(nil))
	}
	return up, up.pack(f, in.o.Limit)
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

// pack finds the plain size, checks the digest of the plain content, and compresses
// what is worth it.
func (u *Upload) pack(f file, limit int64) error {
	n := &u.Needle
	u.Size, u.MD5 = int64(len(f.data)), f.md5
	if f.gzip {
		size, err := plainSize(f.data, limit, f.plain)
		if errors.Is(err, volume.ErrTooLarge) {
			return err
		}
		if f.gzip = err == nil; f.gzip {
			u.Size = size
			n.Flags |= needle.FlagGzip
		} else { // it said gzip and is not: kept as plain bytes
			f.plain.reset()
		}
	}
	if !f.gzip {
		f.plain.Write(f.data)
	}
	if err := f.plain.verify(); err != nil {
		return err
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
// long. Its plain bytes go into digest.
func plainSize(data []byte, limit int64, digest io.Writer) (int64, error) {
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
