package volumehttp_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"weedd/volume/volumehttp"
	"weedd/volume/wire"
)

// Each file of a batch has the outcome that a DELETE of it would have, in the order of
// the request, with its chunks if it has some.
func TestFilesAreDeletedTogether(t *testing.T) {
	t.Parallel()
	s := newSingle(t, volumehttp.Options{})
	for _, path := range []string{"/1,01deadbeef", "/1,02deadbeef", "/1,03deadbeef", "/1,04deadbeef", "/1,01deadbeef_9"} {
		s.do("PUT", path, "content")
	}
	s.do("PUT", "/1,05deadbeef?cm=true", `{"size":14,"chunks":[{"fid":"1,03deadbeef","size":7},{"fid":"1,04deadbeef","offset":7,"size":7}]}`)
	resp, body := s.do("POST", "/delete?fid=1,01deadbeef&fid=1,02deadbeee", "fid=1,05deadbeef.txt&fid=1,09deadbeef&fid=2,01deadbeef&fid=1,01deadbeef_9",
		"Content-Type", "application/x-www-form-urlencoded")
	var out []struct {
		FID    string
		Status int
		Size   int64
		Error  string
	}
	if err := json.Unmarshal([]byte(body), &out); err != nil || resp.StatusCode != http.StatusAccepted || len(out) != 6 {
		t.Fatalf("%d %s: %v", resp.StatusCode, body, err)
	}
	// The form comes before the query, as everywhere.
	for i, want := range []string{"1,05deadbeef.txt 202 14", "1,09deadbeef 404 0", "2,01deadbeef 404 0", "1,01deadbeef_9 202", "1,01deadbeef 202", "1,02deadbeee 400 0"} {
		if got := fmt.Sprintf("%s %d %d", out[i].FID, out[i].Status, out[i].Size); !strings.HasPrefix(got, want) || (out[i].Status == 400) != strings.Contains(out[i].Error, "Cookie") {
			t.Errorf("%d: %s %s, want %s", i, got, out[i].Error, want)
		}
	}
	for i, status := range []int{404, 200, 404, 404, 404} {
		s.must(status, "GET", fmt.Sprintf("/1,%02ddeadbeef", i+1), "")
	}
}

// With a key a batch needs the token of its files, or the one for all.
func TestABatchNeedsTokens(t *testing.T) {
	t.Parallel()
	access := wire.Access{WriteKey: []byte("k"), WriteLife: time.Minute}
	s := newSingle(t, volumehttp.Options{Access: access})
	put := func(fid string) {
		if resp, body := s.do("PUT", "/"+fid, "x", "Authorization", access.Token(fid, true)); resp.StatusCode/100 != 2 {
			t.Fatalf("%d %s", resp.StatusCode, body)
		}
	}
	for _, c := range []struct{ token, want string }{
		{"", "[{401} {401} {401}]"},
		{access.Token("1,01deadbeef", true), "[{202} {202} {401}]"},
		{access.Token(wire.AdminFileID, true), "[{202} {202} {202}]"},
	} {
		for _, fid := range []string{"1,01deadbeef", "1,01deadbeef_1", "1,07deadbeef"} {
			put(fid)
		}
		_, body := s.do("POST", "/delete?fid=1,01deadbeef&fid=1,01deadbeef_1&fid=1,07deadbeef", "", "Authorization", c.token)
		var out []struct{ Status int }
		if err := json.Unmarshal([]byte(body), &out); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		if got := fmt.Sprint(out); got != c.want {
			t.Errorf("token %.20q: %s, want %s", c.token, got, c.want)
		}
	}
}
