package leader

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"weedd/cluster"
	"weedd/cluster/catalog"
	"weedd/cluster/placement"
	"weedd/volume"
)

// ask answers one question of a copy. When another change of the same volume
// comes first, the question is looked at again, unless the epoch moved.
func (t *term) ask(ctx context.Context, ask volume.Ask) (volume.Entry, error) {
	t.topo.Heard(ask.From.Node, time.Now())
	if ask.Kind == volume.AskRemove && !t.reaches(ctx, ask.From.Node) {
		// It would be left as the only copy in sync, and never hear of it.
		return t.inForce(ask.Volume, fmt.Errorf("%w: volume %d: node %s cannot be reached from here, and removes no others", volume.ErrUnavailable, ask.Volume, ask.From.Node))
	}
	for {
		cat, _ := t.opt.Log.Catalog()
		e, ok := cat.Volume(ask.Volume)
		if !ok {
			return volume.Entry{}, fmt.Errorf("%w: volume %d", volume.ErrNoVolume, ask.Volume)
		}
		if len(ask.Replace) > 0 && placement.Entitled(e, ask) == nil {
			t.condemn(ask)
			if len(ask.Copies) == 0 {
				return *e, nil
			}
		}
		view, vol := t.topo.Look(cat, e, time.Now())
		ch, err := placement.Answer(view, vol, ask)
		if err != nil {
			return *e, err
		}
		next, err := t.propose(ctx, ch)
		switch {
		case err == nil:
			t.log.Info("copy asked", "ask", ask.Kind, "volume", ask.Volume, "peer", ask.From.Node, "epoch", next.Epoch, "failed", ask.Failed)
			return *next, nil
		case errors.Is(err, volume.ErrStale):
			continue // the version moved; the epoch perhaps not
		}
		return t.inForce(ask.Volume, err)
	}
}

// condemn notes copies that differ from the primary's. The round loop lets
// others join in their place, at its own pace: copies that fail again and again
// must not be made in a storm.
func (t *term) condemn(ask volume.Ask) {
	if t.topo.Condemn(ask.Volume, ask.Replace) {
		t.log.Warn("copies differ from the primary's and are to be made anew", "volume", ask.Volume, "peer", ask.From.Node, "copies", ask.Replace)
		t.moved.Raise()
	}
}

// inForce adds the entry in force to an error that is the term's, and nothing to
// one that says that the term is over.
func (t *term) inForce(id volume.ID, err error) (volume.Entry, error) {
	if errors.Is(err, volume.ErrNotLeader) || t.ctx.Err() != nil {
		return volume.Entry{}, err
	}
	cat, _ := t.opt.Log.Catalog()
	e, ok := cat.Volume(id)
	if !ok {
		return volume.Entry{}, fmt.Errorf("%w: volume %d", volume.ErrNoVolume, id)
	}
	return *e, err
}

// batcher gathers changes while the proposal before them is on its way, so that
// a thousand copies that ask at once cost a few raft entries.
type batcher struct {
	wake chan struct{} // buffered, 1

	mu     sync.Mutex
	queued []queuedChange
}

type queuedChange struct {
	change catalog.Change
	done   chan<- changed // buffered, 1
}

type changed struct {
	entry *volume.Entry
	err   error
}

// propose has one change decided, together with others.
func (t *term) propose(ctx context.Context, ch catalog.Change) (*volume.Entry, error) {
	done := make(chan changed, 1)
	t.asked.mu.Lock()
	t.asked.queued = append(t.asked.queued, queuedChange{ch, done})
	t.asked.mu.Unlock()
	select {
	case t.asked.wake <- struct{}{}:
	default: // it is awake already
	}
	select {
	case c := <-done:
		return c.entry, c.err
	case <-t.ctx.Done():
		return nil, fmt.Errorf("%w: leadership ended: %w", volume.ErrOutcomeUnknown, &cluster.NotLeaderError{})
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", volume.ErrOutcomeUnknown, ctx.Err())
	}
}

func (t *term) proposeAsked() {
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-t.asked.wake:
		}
		t.asked.mu.Lock()
		queued := t.asked.queued
		t.asked.queued = nil
		t.asked.mu.Unlock()
		for len(queued) > 0 {
			n := min(len(queued), perCommand)
			t.proposeBatch(queued[:n])
			queued = queued[n:]
		}
	}
}

func (t *term) proposeBatch(queued []queuedChange) {
	batch := catalog.Batch{}
	for _, q := range queued {
		batch.Changes = append(batch.Changes, q.change)
	}
	res, err := t.opt.Log.Propose(t.ctx, catalog.Command{Change: &batch})
	err = cmp.Or(err, res.Err)
	for i, q := range queued {
		if err != nil {
			q.done <- changed{err: err}
		} else {
			q.done <- changed{res.Entries[i], res.Errs[i]}
		}
	}
}
