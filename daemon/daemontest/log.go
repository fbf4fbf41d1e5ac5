package daemontest

import (
	"log/slog"
	"strings"
	"sync"
	"testing"
)

// testLog keeps what a daemon says and shows it when the test has failed.
type testLog struct {
	slog.Handler
	sink *sink
}

type sink struct {
	mu    sync.Mutex
	lines strings.Builder
}

// maxLog bounds what is kept of one daemon.
const maxLog = 1 << 20

// Write implements io.Writer.
func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lines.Len() < maxLog {
		s.lines.Write(p)
	}
	return len(p), nil
}

func (s *sink) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lines.String()
}

func newTestLog(t testing.TB, name string) *testLog {
	s := &sink{}
	t.Cleanup(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, s.lines.String())
		}
	})
	return &testLog{slog.NewTextHandler(s, &slog.HandlerOptions{Level: slog.LevelDebug}), s}
}
