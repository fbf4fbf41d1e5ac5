package replica

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Pace holds what many copies send to those that catch up to a number of bytes a
// second, together, so that a node which repairs leaves its disk and network to
// clients. It sends less while writes take longer than they did when nothing was
// repaired: a sixteenth of the rate at first and at least, for lost copies must not
// stay so. Without clients it sends all it may at once. The zero value, and nil, hold
// nothing back. Safe for concurrent use.
type Pace struct {
	rate atomic.Int64

	mu     sync.Mutex
	due    time.Time // when all that was counted should have been sent
	sent   time.Time // when something was last sent
	looked time.Time // when share was last chosen
	yields int       // share is 1 / 2^yields; 0 is all of the rate
	good   int       // looks in a row at which writes were as fast as ever
	calm   mean      // of what writes took while nothing was sent
	busy   mean      // since the last look
}

// mean is a moving one, of durations; the zero value knows nothing.
type mean struct {
	n   int
	now time.Duration
}

// add counts one more, as one of the last many.
func (m *mean) add(d time.Duration, many int) {
	m.n = min(m.n+1, many)
	m.now += (d - m.now) / time.Duration(m.n)
}

const (
	// paceLook is how often who waits looks whether the rate has changed, and how
	// often a share of it is chosen.
	paceLook = 250 * time.Millisecond
	// calmAfter is how long after something was sent writes are those of a calm time.
	calmAfter = time.Second
	calmOf    = 256 // writes that make the mean of a calm time
	mostYield = 4   // halvings: a sixteenth of the rate is always used
	// goodLooks in a row let the share be doubled again.
	goodLooks = 4
	// paceSlack is what writes may take longer without a cause.
	paceSlack = time.Millisecond
)

// Set changes the rate, in bytes a second; 0 is no limit.
func (p *Pace) Set(rate int64) { p.rate.Store(rate) }

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
	p.chooseLocked(now)
	switch {
	case rate <= 0:
		p.due, p.sent = now, now
		return 0
	case p.due.After(now):
		return p.due.Sub(now)
	}
	p.sent = now
	p.due = now.Add(time.Duration(float64(n) / float64(rate) * float64(time.Second) * float64(int(1)<<p.yields)))
	return 0
}

// wrote tells how long a write took from its append until it was durable on every
// copy.
func (p *Pace) wrote(took time.Duration) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.sent) > calmAfter {
		p.calm.add(took, calmOf)
	} else {
		p.busy.add(took, calmOf)
	}
}

// chooseLocked halves the share of the rate when the writes since the last look took
// half as long again as in calm times, and doubles it when they have not for a while.
// It begins with the least.
func (p *Pace) chooseLocked(now time.Time) {
	if now.Sub(p.looked) < paceLook {
		return
	}
	p.looked = now
	if p.calm.n > 0 && now.Sub(p.sent) > calmAfter {
		p.yields, p.good = mostYield, 0
	}
	slow := p.calm.n > 0 && p.busy.n > 0 && p.busy.now > p.calm.now*3/2+paceSlack
	p.busy = mean{}
	switch p.good++; {
	case slow:
		p.yields, p.good = min(p.yields+1, mostYield), 0
	case p.good >= goodLooks:
		p.yields, p.good = max(p.yields-1, 0), 0
	}
}
