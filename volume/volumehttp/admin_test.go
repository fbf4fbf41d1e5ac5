package volumehttp

import (
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"weedd/volume"
)

type fakeScrubber struct{ asked []volume.ID }

func (f *fakeScrubber) Scrub(ids ...volume.ID) (int, error) {
	if len(ids) > 0 && ids[0] == 404 {
		return 0, fmt.Errorf("volume 404: %w", volume.ErrNoVolume)
	}
	f.asked = append(f.asked, ids...)
	return len(ids), nil
}

func (f *fakeScrubber) Scrubbed() any { return []int{len(f.asked)} }

// A scrub is started, and looked at, from the node itself only.
func TestScrubIsAskedForFromLoopback(t *testing.T) {
	t.Parallel()
	f := &fakeScrubber{}
	a := New(Options{Log: slog.New(slog.DiscardHandler), Scrub: f})
	for _, c := range []struct {
		from, method, path string
		status             int
		body               string
	}{
		{"127.0.0.1:5", "POST", "/admin/scrub?volume=3&volume=4", 202, `{"volumes":2}`},
		{"[::1]:5", "GET", "/admin/scrub", 200, `[2]`},
		{"[::ffff:127.0.0.1]:5", "GET", "/admin/scrub", 200, `[2]`},
		{"127.0.0.1:5", "POST", "/admin/scrub?volume=x", 400, "volume id"},
		{"127.0.0.1:5", "POST", "/admin/scrub?volume=404", 404, "volume 404"},
		{"10.0.0.1:5", "POST", "/admin/scrub?volume=3", 401, "it is for loopback"},
		{"10.0.0.1:5", "GET", "/admin/scrub", 401, ""},
	} {
		r := httptest.NewRequest(c.method, c.path, nil)
		r.RemoteAddr = c.from
		w := httptest.NewRecorder()
		a.Handler().ServeHTTP(w, r)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.body) {
			t.Errorf("%s %s from %s: %d %s", c.method, c.path, c.from, w.Code, w.Body)
		}
	}
	if len(f.asked) != 2 {
		t.Errorf("asked for %v", f.asked)
	}
}
