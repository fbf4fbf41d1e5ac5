package gossip

import (
	"context"
	"log"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// newLogger makes the logger that memberlist writes to. What it calls an error
// is mostly a host that is not there, which the members show better; so it is
// for debugging. The exception is a host with another key, or none: that shows
// nowhere else, and somebody must act.
func newLogger(l *slog.Logger) *log.Logger { return log.New(&logWriter{log: l}, "", 0) }

// keysEvery is how often it is said that keys differ.
const keysEvery = 30 * time.Second

type logWriter struct {
	log *slog.Logger

	mu   sync.Mutex
	said time.Time
}

// Write implements io.Writer, a line a call.
func (w *logWriter) Write(p []byte) (int, error) {
	line := string(p)
	if strings.Contains(line, "[ERR]") && strings.Contains(line, "crypt") && w.due() {
		w.log.Warn("gossip of a host with another cluster key, or with none, is refused", "err", strings.TrimSpace(line))
	} else if w.log.Enabled(context.Background(), slog.LevelDebug) {
		w.log.Debug(strings.TrimSpace(line))
	}
	return len(p), nil
}

func (w *logWriter) due() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.said) < keysEvery {
		return false
	}
	w.said = time.Now()
	return true
}
