package replica

import (
	"context"
	"time"
)

// Waiting is how many decisions and reads wait for a barrier.
func (r *Replica) Waiting() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.confirms)
}

// Wait is wait.
func (p *Pace) Wait(ctx context.Context, n int64) { p.wait(ctx, n) }

// Wrote tells a Pace what a write took.
func (p *Pace) Wrote(took time.Duration) { p.wrote(took) }
