package wire

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
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

	sent atomic.Int64

	mu      sync.Mutex
	below   chan struct{} // closed when sent falls below bytes; nil while nobody waits
	waiting atomic.Bool   // below is not nil; set under mu
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
	for g.sent.Load() >= g.bytes {
		below := g.wake()
		if g.sent.Load() < g.bytes { // it fell before it was known that somebody waits
			return nil
		}
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
	return nil
}

// wake gives a channel that is closed when there is less under way than the limit.
func (g *Gate) wake() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.below == nil {
		g.below = make(chan struct{})
		g.waiting.Store(true)
	}
	return g.below
}

// Add notes n more (or fewer) bytes on their way.
func (g *Gate) Add(n int64) {
	g.metrics.Downloading(n)
	if g.sent.Add(n) >= g.bytes || !g.waiting.Load() {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.below != nil {
		close(g.below)
		g.below = nil
		g.waiting.Store(false)
	}
}
