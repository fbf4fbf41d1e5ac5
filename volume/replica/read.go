package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
)

// Get reads a file; the caller calls Release on it. A hit is answered by any
// copy at once. A miss is answered volume.ErrNotFound only once it is sure that
// no acknowledged write is missing here (rule R12): by the primary when every
// in-sync copy says that it still leads, by another copy when the primary has
// said how far it has committed. volume.ErrUnavailable when that cannot be
// learned.
func (r *Replica) Get(ctx context.Context, key volume.Key, cookie volume.Cookie, readDeleted bool) (*needle.Needle, error) {
	// First whether a newer record is pending: one that is published after that
	// is found by the log. The other way round it might slip through between.
	if !r.overtaken(key) {
		n, err := r.opts.Log.Get(key, cookie, r.opts.Now(), readDeleted)
		if err == nil || !errors.Is(err, volume.ErrNotFound) {
			return n, err
		}
	}
	if err := r.catchUp(ctx); err != nil {
		return nil, fmt.Errorf("read file %d of volume %d: %w", key, r.opts.Volume, err)
	}
	return r.opts.Log.Get(key, cookie, r.opts.Now(), readDeleted)
}

// overtaken reports whether a follower has a record of key that the primary may
// have acknowledged already and this copy does not show yet. On the primary
// itself nothing is acknowledged before it is shown.
func (r *Replica) overtaken(key volume.Key) bool {
	if r.settled.Load() {
		return false
	}
	if r.opts.Log.End() == r.opts.Log.Committed() {
		return false
	}
	row, ok := r.opts.Log.Latest(key)
	if !ok || !row.Pending {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.core.Leading() || r.core.Committed() < r.core.Base()
}

// catchUp makes everything visible here that was acknowledged before the call.
func (r *Replica) catchUp(ctx context.Context) error {
	r.mu.Lock()
	e, leading := r.core.Entry(), r.core.Leading()
	_, inSync, _ := e.Holder(r.opts.Self.Node)
	epoch := r.core.Epoch()
	_, following := r.core.Following()
	r.mu.Unlock()
	if leading {
		_, err := r.Confirm(ctx, epoch, r.opts.Self)
		return err
	}
	if !inSync || !following || r.opts.Confirm == nil {
		return fmt.Errorf("%w: this copy is not in touch with the primary", volume.ErrUnavailable)
	}
	ctx, cancel := r.within(ctx, epoch)
	defer cancel()
	committed, err := r.opts.Confirm(ctx, e.Primary, e.Volume, epoch, r.opts.Self)
	if err != nil {
		return fmt.Errorf("%w: ask the primary: %w", volume.ErrUnavailable, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.core.Following(); !ok || r.core.Epoch() != epoch {
		return fmt.Errorf("%w: this copy lost touch with the primary", volume.ErrUnavailable)
	}
	r.core.Told(committed)
	r.effectsLocked()
	if r.core.Committed() < committed {
		return fmt.Errorf("%w: this copy is behind the primary", volume.ErrUnavailable)
	}
	return nil
}

// within gives a context that ends when a newer epoch is known: a primary that
// is frozen or cut off is not waited for once another one leads.
func (r *Replica) within(ctx context.Context, epoch volume.Epoch) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for {
			e, _, moved := r.Watch()
			if e.Epoch > epoch {
				cancel()
				return
			}
			select {
			case <-moved:
			case <-ctx.Done():
				return
			}
		}
	}()
	return ctx, func() { cancel(); <-watched }
}

// Confirm answers the committed length, once it is sure that this copy led at
// some moment after the call, in the epoch named, and that the copy from is in
// sync in it. If the epoch passes meanwhile another copy than this one is told
// nothing: it may have been found to hold other bytes, and would show them as
// committed.
func (r *Replica) Confirm(ctx context.Context, epoch volume.Epoch, from volume.Holder) (committed int64, err error) {
	answer := make(chan error, 1)
	r.mu.Lock()
	if !r.core.Leading() || r.core.Epoch() != epoch {
		err := r.notPrimaryLocked()
		r.mu.Unlock()
		return 0, err
	}
	if h, inSync, _ := r.core.Entry().Holder(from.Node); !inSync || h != from {
		r.mu.Unlock()
		return 0, fmt.Errorf("%w: copy %s is not in sync", volume.ErrUnavailable, from.Copy)
	}
	c := r.confirmLocked(r.core.Base(), time.Now(), func(err error) { answer <- err })
	r.mu.Unlock()
	select {
	case err := <-answer:
		if err != nil {
			return 0, err
		}
	case <-ctx.Done():
		r.mu.Lock()
		if c != nil {
			c.gone = true
		}
		r.mu.Unlock()
		return 0, fmt.Errorf("%w: volume %d: %w", volume.ErrUnavailable, r.opts.Volume, context.Cause(ctx))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if from != r.opts.Self && r.core.Epoch() != epoch {
		return 0, fmt.Errorf("%w: volume %d: epoch %d has passed", volume.ErrUnavailable, r.opts.Volume, epoch)
	}
	return r.core.Committed(), nil
}
