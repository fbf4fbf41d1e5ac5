package replica

import (
	"fmt"
	"math"
	"time"

	"weedd/volume"
)

// confirm is something that may be told only once it is sure that this copy
// still leads (a 204, a 404, a wrong cookie, a read's miss), and that what it
// rests on is committed (rule R12).
type confirm struct {
	seq    uint64 // the barrier that it waits for; 0: the next one
	need   int64
	since  time.Time
	gone   bool // nobody waits for it any more
	finish func(err error)
}

// confirmLocked calls finish once this copy is known to lead still and need is
// committed; or with an error when it stopped leading. It returns nil when it
// did so at once.
//
// One barrier at a time is under way, and what comes meanwhile shares the next:
// a thousand misses at once cost two empty batches.
func (r *Replica) confirmLocked(need int64, now time.Time, finish func(error)) *confirm {
	if !r.core.Leading() || r.closed {
		finish(r.notPrimaryLocked())
		return nil
	}
	if r.aloneLocked() && r.core.Committed() >= need {
		finish(nil)
		return nil
	}
	c := &confirm{need: need, since: now, finish: finish}
	switch {
	case r.barrier == 0:
		r.beginBarrierLocked(now)
		c.seq = r.barrier
	case r.core.seq < r.barrier: // under way, and no batch has carried it yet
		c.seq = r.barrier
	}
	r.confirms = append(r.confirms, c)
	r.tickLocked()
	return c
}

// aloneLocked reports whether no other copy counts.
func (r *Replica) aloneLocked() bool { return r.core.Confirmed(math.MaxUint64) }

func (r *Replica) beginBarrierLocked(now time.Time) {
	r.barrier, r.barrierSince = r.core.Barrier(), now
	r.pokeLocked()
}

// wakeConfirmsLocked answers what is confirmed, forgets who is gone, and begins
// the next barrier when one is over and something waits for it.
func (r *Replica) wakeConfirmsLocked() {
	if r.barrier != 0 && r.core.Confirmed(r.barrier) {
		r.barrier = 0
	}
	committed, kept, next := r.core.Committed(), r.confirms[:0], false
	for _, c := range r.confirms {
		switch {
		case c.gone:
			continue
		case c.seq == 0:
			next = true
		case committed >= c.need && r.core.Confirmed(c.seq):
			c.finish(nil)
			continue
		}
		kept = append(kept, c)
	}
	clear(r.confirms[len(kept):])
	r.confirms = kept
	if !next || r.barrier != 0 || !r.core.Leading() {
		return
	}
	r.beginBarrierLocked(time.Now())
	for _, c := range r.confirms {
		if c.seq == 0 {
			c.seq = r.barrier
		}
	}
	if r.aloneLocked() { // the other copies were dropped meanwhile: nobody will answer
		r.wakeConfirmsLocked()
	}
}

func (r *Replica) notPrimaryLocked() error {
	e := r.core.Entry()
	switch {
	case r.closed:
		return volume.ErrClosed
	case e.Primary == r.opts.Self.Node:
		return fmt.Errorf("%w: volume %d: this copy does not lead yet", volume.ErrUnavailable, r.opts.Volume)
	}
	return &volume.NotPrimaryError{Volume: r.opts.Volume, Primary: e.Primary}
}
