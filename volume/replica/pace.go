package replica

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Pace holds what many copies send to those that catch up to a number of bytes a
// second, together, so that a node which repairs leaves its disk and network to
// clients. The zero value, and nil, hold nothing back. Safe for concurrent use.
type Pace struct {
	rate atomic.Int64

	mu  sync.Mutex
	due time.Time // when all that was counted should have been sent
}

// Set changes the rate, in bytes a second; 0 is no limit.
func (p *Pace) Set(rate int64) { p.rate.Store(rate) }

// paceLook is how often who waits looks whether the rate has changed.
const paceLook = 250 * time.Millisecond

// wait returns when n more bytes may be sent, or ctx ends.
func (p *Pace) wait(ctx context.Context, n int64) {
	for p != nil && n > 0 && ctx.Err() == nil {
		ahead := p.take(n)
		if ahead <= 0 {
			return
		}
		t := time.NewTimer(min(ahead, paceLook))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
}

// take counts n bytes if it is time for them, and says how long it is until then.
func (p *Pace) take(n int64) (ahead time.Duration) {
	rate := p.rate.Load()
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	switch {
	case rate <= 0:
		p.due = now
		return 0
	case p.due.After(now):
		return p.due.Sub(now)
	}
	p.due = now.Add(time.Duration(float64(n) / float64(rate) * float64(time.Second)))
	return 0
}
