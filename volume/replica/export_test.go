package replica

// Waiting is how many decisions and reads wait for a barrier.
func (r *Replica) Waiting() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.confirms)
}
