package replica

import "context"

// Waiting is how many decisions and reads wait for a barrier.
func (r *Replica) Waiting() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.confirms)
}

// Wait is wait.
func (p *Pace) Wait(ctx context.Context, n int64) { p.wait(ctx, n) }
