package consensus

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// repeatAfter is how long the same message is kept from repeating.
const repeatAfter = 30 * time.Second

// perCall is what raft says of single calls to a member that failed, several
// times a second while it is away. The transport tells of it once (logSink.heard).
var perCall = map[string]bool{
	"failed to heartbeat to":                  true,
	"failed to appendEntries to":              true,
	"failed to contact":                       true,
	"failed to make requestVote RPC":          true,
	"failed to send snapshot to":              true,
	"failed to install snapshot":              true,
	"failed to pipeline appendEntries":        true,
	"failed to start pipeline replication to": true,
}

// election is what raft warns of at every start and whenever a leader is gone. The
// daemon itself says that nobody leads.
var election = map[string]bool{
	"heartbeat timeout reached, starting election":  true,
	"Election timeout reached, restarting election": true,
}

// logSink takes raft's log to slog. Raft calls an error what it tries again a
// moment later; none of it asks for somebody to act, so the most it gets is a
// warning. What raft tells as information is detail to us: the Group itself says
// who leads.
type logSink struct {
	log *slog.Logger

	mu     sync.Mutex
	said   map[string]time.Time
	away   map[string]bool // members, by raft id, that did not answer the last call
	closed bool
}

func (s *logSink) logger() hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Output: io.Discard, Level: hclog.Off})
	l.RegisterSink(s)
	return l
}

// hush makes everything a detail: connections break when we close.
func (s *logSink) hush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

// Accept is hclog.SinkAdapter.
func (s *logSink) Accept(_ string, level hclog.Level, msg string, args ...any) {
	if level < hclog.Info {
		return
	}
	to := slog.LevelDebug
	switch {
	case level < hclog.Warn || perCall[msg]:
	case election[msg]:
		to = slog.LevelInfo
	default:
		to = slog.LevelWarn
	}
	s.write(to, msg, args...)
}

func (s *logSink) write(level slog.Level, msg string, args ...any) {
	if level > slog.LevelDebug && s.repeats(msg, args) {
		level = slog.LevelDebug
	}
	if !s.log.Enabled(context.Background(), level) {
		return
	}
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			args[i] = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
	}
	s.log.Log(context.Background(), level, "raft: "+msg, args...)
}

func (s *logSink) repeats(msg string, args []any) bool {
	key := msg
	for i := 0; i+1 < len(args); i += 2 {
		if args[i] == "peer" || args[i] == "from" {
			key += fmt.Sprint("|", args[i+1])
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.closed || now.Sub(s.said[key]) < repeatAfter {
		return true
	}
	if s.said == nil || len(s.said) > 1000 {
		s.said = make(map[string]time.Time)
	}
	s.said[key] = now
	return false
}

// heard notes how a call to a member went, and tells when that is other than at
// the call before: once when it is away, once when it is back.
func (s *logSink) heard(raftID, addr string, err error) {
	s.mu.Lock()
	was, closed := s.away[raftID], s.closed
	if s.away == nil {
		s.away = map[string]bool{}
	}
	if s.away[raftID] = true; err == nil {
		delete(s.away, raftID)
	}
	s.mu.Unlock()
	switch {
	case closed || was == (err != nil):
	case err != nil:
		s.log.Warn("a master does not answer", "raft", raftID, "peer", addr, "err", err)
	default:
		s.log.Info("a master answers again", "raft", raftID, "peer", addr)
	}
}
