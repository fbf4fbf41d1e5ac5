package wire_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"weedd/volume"
	"weedd/volume/wire"
)

func TestErrorTable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err    error
		status int
		text   string
		retry  string
	}{
		{fmt.Errorf("%w: x", volume.ErrBadRequest), 400, "bad request: x", ""},
		{volume.ErrBadSpec, 406, "bad volume specification", ""},
		{volume.ErrExists, 409, "already exists", ""},
		{volume.ErrTooLarge, 413, "too large", ""},
		{volume.ErrBusy, 429, "too many bytes in flight", "1"},
		{volume.ErrCookie, 500, "cookie does not match", ""},
		{&volume.ElsewhereError{Volume: 3}, 404, "volume 3 is held by 0 other nodes", ""},
		{&volume.NotPrimaryError{Volume: 3}, 503, `volume 3 is led by node ""`, "1"},
		{fmt.Errorf("ask: %w", context.DeadlineExceeded), 503, "ask: context deadline exceeded", "1"},
		{errors.New("10.0.0.1:9332: refused"), 500, "internal error", ""},
	} {
		var log strings.Builder
		w := httptest.NewRecorder()
		status := wire.Error(w, httptest.NewRequest("GET", "/x", nil), slog.New(slog.NewTextHandler(&log, nil)), c.err)
		want := fmt.Sprintf(`{"error":%q}`, c.text)
		if status != c.status || w.Code != c.status || w.Body.String() != want || w.Header().Get("Retry-After") != c.retry {
			t.Errorf("%v: %d %s, Retry-After %q", c.err, w.Code, w.Body, w.Header().Get("Retry-After"))
		}
		if kept := c.text == "internal error"; kept != strings.Contains(log.String(), "10.0.0.1") {
			t.Errorf("%v: logged %q", c.err, log.String())
		}
	}
}

// Every error that crosses borders must have a status of its own choosing.
func TestErrorTableIsComplete(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"not_leader", "not_primary", "stale", "unknown", "not_found", "cookie", "no_volume", "read_only", "corrupt",
		"exists", "too_large", "busy", "no_space", "unsatisfiable", "digest", "unauthorized", "bad_spec", "bad_request", "closed", "unavailable"} {
		if _, known := wire.Status(volume.FromCode(code, "x")); !known {
			t.Errorf("no status for %s", code)
		}
	}
}

func TestJSON(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ method, target, want string }{
		{"GET", "/", `{"error":"\u003ca\u003e"}`},
		{"GET", "/?pretty=1", "{\n  \"error\": \"\\u003ca\\u003e\"\n}"},
		{"HEAD", "/", ""},
	} {
		w := httptest.NewRecorder()
		wire.JSON(w, httptest.NewRequest(c.method, c.target, nil), 200, wire.ErrorBody{Error: "<a>"})
		if w.Body.String() != c.want || w.Header().Get("Content-Type") != "application/json" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s %s: %q %v", c.method, c.target, w.Body, w.Header())
		}
	}
}

func TestRequestIDs(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	now := time.Now()
	for range 100 {
		id := string(wire.AppendRequestID(nil, now))
		if seen[id] || !regexp.MustCompile(`^[0-9A-F]{24}$`).MatchString(id) {
			t.Fatalf("id %q", id)
		}
		seen[id] = true
	}
}

func TestAppendTime(t *testing.T) {
	t.Parallel()
	zone := time.FixedZone("elsewhere", 5*3600)
	for n := int64(-62135596800); n < 1<<40; n += 234_567_891 { // from year 1 to the last that a record holds // from year 1 to the last that a record holds
		at := time.Unix(n, 0)
		want := at.UTC().Format(http.TimeFormat)
		if got := string(wire.AppendTime([]byte("x"), at.In(zone))); got != "x"+want {
			t.Fatalf("%d: %q, want %q", n, got[1:], want)
		}
	}
}
