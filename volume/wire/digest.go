package wire

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strconv"
	"strings"

	"weedd/volume"
)

// Header names of RFC 9530, as net/http spells them.
const (
	HeaderContentDigest     = "Content-Digest"
	HeaderReprDigest        = "Repr-Digest"
	HeaderWantContentDigest = "Want-Content-Digest"
	HeaderWantReprDigest    = "Want-Repr-Digest"
)

// Digest is an algorithm of RFC 9530: "sha-256" or "sha-512". Others are known to be
// broken or mend nothing that TCP does not, and are passed over.
type Digest string

// SHA256 is what is taken where the client does not say.
const SHA256 Digest = "sha-256"

// New makes an empty hash, nil for an algorithm that is not known.
func (d Digest) New() hash.Hash {
	switch d {
	case SHA256:
		return sha256.New()
	case "sha-512":
		return sha512.New()
	}
	return nil
}

// Format gives sum as a header has it.
func (d Digest) Format(sum []byte) string {
	return string(d) + "=:" + base64.StdEncoding.EncodeToString(sum) + ":"
}

// WantedDigest reads Want-Content-Digest or Want-Repr-Digest: the known algorithm
// that is wanted most, "" for none. What cannot be read is a wish not understood.
func WantedDigest(fields []string) (best Digest) {
	most := 0
	for name, value := range members(fields) {
		weight, err := strconv.Atoi(value)
		if d := Digest(name); err == nil && weight > most && weight <= 10 && d.New() != nil {
			best, most = d, weight
		}
	}
	return best
}

// members walks through a dictionary of structured fields whose values have no
// commas in them, and leaves their parameters out.
func members(fields []string) func(yield func(name, value string) bool) {
	return func(yield func(name, value string) bool) {
		for _, field := range fields {
			for item := range strings.SplitSeq(field, ",") {
				item, _, _ = strings.Cut(item, ";")
				if item = strings.TrimSpace(item); item == "" {
					continue
				}
				name, value, _ := strings.Cut(item, "=")
				if !yield(name, value) {
					return
				}
			}
		}
	}
}

// checks are the digests that a client sent, and what came of its bytes so far.
type checks []check

type check struct {
	header, sent string
	want         []byte
	hash         hash.Hash
}

// newChecks reads Content-Digest and Repr-Digest, which say the same of a request:
// its content is the whole of what it represents.
func newChecks(h http.Header) (cs checks, err error) {
	for _, header := range []string{HeaderContentDigest, HeaderReprDigest} {
		for name, value := range members(h[header]) {
			d := Digest(name)
			if d.New() == nil {
				continue
			}
			text, ok := strings.CutPrefix(value, ":")
			text, closed := strings.CutSuffix(text, ":")
			sum, err := base64.StdEncoding.DecodeString(text)
			if !ok || !closed || err != nil || len(sum) != d.New().Size() {
				return nil, badRequest("%s: %s=%.128s is not the base64 of %d bytes between colons", header, name, value, d.New().Size())
			}
			cs = append(cs, check{header, name + "=" + value, sum, d.New()})
		}
	}
	return cs, nil
}

// newMD5 adds what Content-MD5 says. An empty one says nothing.
func (cs *checks) addMD5(text string) error {
	if text == "" {
		return nil
	}
	sum, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(sum) != md5.Size {
		return badRequest("Content-MD5: %.64s is not the base64 of %d bytes", text, md5.Size)
	}
	*cs = append(*cs, check{"Content-MD5", text, sum, md5.New()})
	return nil
}

// Write implements io.Writer; it never fails.
func (cs checks) Write(b []byte) (int, error) {
	for _, c := range cs {
		c.hash.Write(b)
	}
	return len(b), nil
}

// reset forgets what was written.
func (cs checks) reset() {
	for _, c := range cs {
		c.hash.Reset()
	}
}

// verify holds what was written against what the client said.
func (cs checks) verify() error {
	for _, c := range cs {
		if got := c.hash.Sum(nil); !bytes.Equal(got, c.want) {
			return fmt.Errorf("%w: %s did not match what was received: expected [%.128s] received [%s]",
				volume.ErrDigest, c.header, c.sent, base64.StdEncoding.EncodeToString(got))
		}
	}
	return nil
}

// through gives r such that what is read of it is checked.
func (cs checks) through(r io.Reader) io.Reader {
	if len(cs) == 0 {
		return r
	}
	return io.TeeReader(r, cs)
}
