package consensus

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

// A member that is away fails several calls a second, and raft tells of each.
func TestAMemberThatIsAwayIsToldOfOnce(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	s := &logSink{log: slog.New(slog.NewTextHandler(&out, nil))}
	said := func() string {
		defer out.Reset()
		var lines []string
		for line := range strings.Lines(out.String()) {
			_, line, _ = strings.Cut(line, "level=")
			lines = append(lines, strings.TrimSpace(line))
		}
		return strings.Join(lines, "\n")
	}
	refused := errors.New("refused")
	for range 3 {
		s.heard("m2", "h:1", refused)
		s.Accept("", hclog.Error, "failed to heartbeat to", "peer", "h:1")
		s.Accept("", hclog.Warn, "failed to contact", "server-id", "m2")
	}
	if got := said(); got != `WARN msg="a master does not answer" raft=m2 peer=h:1 err=refused` {
		t.Errorf("away: %s", got)
	}
	s.heard("m3", "h:2", nil)
	for range 2 {
		s.heard("m2", "h:1", nil)
	}
	if got := said(); got != `INFO msg="a master answers again" raft=m2 peer=h:1` {
		t.Errorf("back: %s", got)
	}
	s.heard("m2", "h:1", refused)
	s.Accept("", hclog.Warn, "failed to contact quorum of nodes, stepping down")
	if got := said(); strings.Count(got, "WARN") != 2 {
		t.Errorf("away again, and no quorum: %s", got)
	}
	s.Accept("", hclog.Warn, "heartbeat timeout reached, starting election")
	if got := said(); got != `INFO msg="raft: heartbeat timeout reached, starting election"` {
		t.Errorf("an election, as at every start: %s", got)
	}
	s.hush()
	s.heard("m2", "h:1", nil)
	s.heard("m2", "h:1", refused)
	if got := said(); got != "" {
		t.Errorf("when it closes: %s", got)
	}
}
