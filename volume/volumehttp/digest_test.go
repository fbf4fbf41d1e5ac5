package volumehttp_test

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"weedd/volume/volumehttp"
)

func sha256Of(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
}

func sha512Of(s string) string {
	sum := sha512.Sum512([]byte(s))
	return "sha-512=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
}

func TestDigestsAreAnsweredWhenWanted(t *testing.T) {
	t.Parallel()
	s := newSingle(t, volumehttp.Options{})
	plain, long := strings.Repeat("some text. ", 50), strings.Repeat("0123456789abcdef", 1<<17) // unpacked into memory, and on its way
	packed, packedLong := gzipped(plain), gzipped(long)
	s.must(201, "PUT", "/1,01deadbeef", plain, "Content-Type", "a/b")
	s.must(201, "PUT", "/1,02deadbeef", packed, "Content-Type", "a/b", "Content-Encoding", "gzip")
	s.must(201, "PUT", "/1,03deadbeef", packedLong, "Content-Type", "a/b", "Content-Encoding", "gzip")
	chunks := fmt.Sprintf(`"chunks":[{"fid":"1,01deadbeef","size":%d},{"fid":"1,02deadbeef","offset":%d,"size":%d}]`, len(plain), len(plain), len(plain))
	s.must(201, "PUT", "/1,04deadbeef?cm=true", "{"+chunks+"}")
	known := strings.TrimSuffix(strings.TrimPrefix(sha256Of(plain+plain), "sha-256=:"), ":")
	s.must(201, "PUT", "/1,05deadbeef?cm=true", `{"sha256":"`+known+`",`+chunks+"}")
	for _, c := range []struct {
		why, path, wantContent, wantRepr, ranges string
		gzip                                     bool
		content, repr                            string // of the answer
	}{
		{"nothing wanted", "/1,01deadbeef", "", "", "", false, "", ""},
		{"the content", "/1,01deadbeef", "sha-256=1", "", "", false, sha256Of(plain), ""},
		{"the best of several", "/1,01deadbeef", "md5=10, sha-256=1, sha-512=3", "sha-512=0, sha-256=2;x=1", "", false, sha512Of(plain), sha256Of(plain)},
		{"none that is known", "/1,01deadbeef", "md5=10, sha-256=0", "adler=1", "", false, "", ""},
		{"what makes no sense", "/1,01deadbeef", "sha-256", "sha-256=11, =, ,sha-512=x", "", false, "", ""},
		{"a range", "/1,01deadbeef", "sha-256=1", "sha-256=1", "bytes=5-8", false, sha256Of(plain[5:9]), sha256Of(plain)},
		{"unpacked", "/1,02deadbeef", "sha-256=1", "sha-256=1", "", false, sha256Of(plain), sha256Of(plain)},
		{"packed", "/1,02deadbeef", "sha-256=1", "sha-256=1", "", true, sha256Of(packed), sha256Of(packed)},
		{"unpacked on its way", "/1,03deadbeef", "sha-256=1", "sha-256=1", "bytes=1000000-1999999", false, sha256Of(long[1000000:2000000]), sha256Of(long)},
		{"chunks", "/1,04deadbeef", "sha-256=1", "sha-256=1", "", false, "", ""},
		{"chunks whose digest is known", "/1,05deadbeef", "sha-256=1", "sha-256=1", "", false, sha256Of(plain + plain), sha256Of(plain + plain)},
		{"a range of them", "/1,05deadbeef", "sha-256=1", "sha-256=1", "bytes=0-1", false, "", sha256Of(plain + plain)},
		{"another digest of them", "/1,05deadbeef", "sha-512=1", "sha-512=1", "", false, "", ""},
	} {
		headers := []string{"Want-Content-Digest", c.wantContent, "Want-Repr-Digest", c.wantRepr}
		if c.ranges != "" {
			headers = append(headers, "Range", c.ranges)
		}
		if c.gzip {
			headers = append(headers, "Accept-Encoding", "gzip")
		}
		for _, method := range []string{"GET", "HEAD"} {
			if method == "HEAD" && c.ranges != "" {
				continue
			}
			resp, _ := s.do(method, c.path, "", headers...)
			if content, repr := resp.Header.Get("Content-Digest"), resp.Header.Get("Repr-Digest"); resp.StatusCode > 206 || content != c.content || repr != c.repr {
				t.Errorf("%s: %s %d, content %q, representation %q", c.why, method, resp.StatusCode, content, repr)
			}
		}
	}
	resp, body := s.must(206, "GET", "/1,01deadbeef", "", "Range", "bytes=0-1,5-6", "Want-Content-Digest", "sha-256=1")
	if resp.Header.Get("Content-Digest") != sha256Of(body) {
		t.Errorf("two ranges: %v", resp.Header)
	}
}
