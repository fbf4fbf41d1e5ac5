package wire

import (
	"context"
	"fmt"
	"sync"
	"time"

	"weedd/volume"
)

// Gate bounds the bytes of files that one API sends at a time. How much a request
// will send is known only when the file was read, so one that comes is let in while
// there is less than the limit, and counts in full from then on: the last ones let in
// may go beyond it. Safe for concurrent use.
type Gate struct {
	bytes   int64 // 0 for no limit
	wait    time.Duration
	metrics *Metrics

	mu    sync.Mutex
	sent  int64
	below chan struct{} // closed when sent falls below bytes; nil while nobody waits
}

// NewGate makes a gate for so many bytes, 0 for no limit, at which a request waits so
// long.
func NewGate(bytes int64, wait time.Duration, m *Metrics) *Gate {
	return &Gate{bytes: bytes, wait: wait, metrics: m}
}

// Enter waits until there is less under way than the limit. Errors are volume.ErrBusy,
// and those of ctx.
func (g *Gate) Enter(ctx context.Context) error {
	if g.bytes == 0 {
		return nil
	}
	var late <-chan time.Time
	for {
		g.mu.Lock()
		if g.sent < g.bytes {
			g.mu.Unlock()
			return nil
		}
		if g.below == nil {
			g.below = make(chan struct{})
		}
		below := g.below
		g.mu.Unlock()
		if late == nil {
			t := time.NewTimer(g.wait)
			defer t.Stop()
			late = t.C
		}
		select {
		case <-below:
		case <-ctx.Done():
			return ctx.Err()
		case <-late:
			return fmt.Errorf("%w: downloads under way have reached the limit of %d bytes", volume.ErrBusy, g.bytes)
		}
	}
}

// Add notes n more (or fewer) bytes on their way.
func (g *Gate) Add(n int64) {
	g.metrics.Downloading(n)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sent += n
	if g.below != nil && g.sent < g.bytes {
		close(g.below)
		g.below = nil
	}
}
