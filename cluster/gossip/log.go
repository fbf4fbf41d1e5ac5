package gossip

import (
	"context"
	"log"
	"log/slog"
	"strings"
)

// newLogger makes the logger that memberlist writes to. What it calls an error
// is mostly a host that is not there, which the members show better; so all of
// it is for debugging.
func newLogger(l *slog.Logger) *log.Logger { return log.New(logWriter{l}, "", 0) }

type logWriter struct{ log *slog.Logger }

// Write implements io.Writer, a line a call.
func (w logWriter) Write(p []byte) (int, error) {
	if w.log.Enabled(context.Background(), slog.LevelDebug) {
		w.log.Debug(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}
