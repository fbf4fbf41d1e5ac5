package leader

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"weedd/cluster"
	"weedd/cluster/placement"
	"weedd/volume"
)

// obeyTime is how long an operator waits for volume servers to say that they know
// what was decided: less than a call to the leader may take. They are told at once;
// one that is in trouble loses the lead soon.
const obeyTime = 2 * time.Second

// readOnly has volumes take no writes, or take them again, and waits until their
// primaries have said that they do so.
func (t *term) readOnly(ctx context.Context, r cluster.ReadOnly) (cluster.Outcome, error) {
	if len(r.Volumes) == 0 || len(r.Volumes) > explainMost {
		return cluster.Outcome{}, fmt.Errorf("%w: %d volumes at once; name between 1 and %d", volume.ErrBadRequest, len(r.Volumes), explainMost)
	}
	ids := slices.Compact(slices.Sorted(slices.Values(r.Volumes)))
	if err := t.mark(ctx, ids, r.Undo); err != nil {
		return cluster.Outcome{}, fmt.Errorf("readonly: %w", err)
	}
	t.log.Info("read-only, by hand", "volumes", ids, "undo", r.Undo)
	return t.obeyed(ctx, ids)
}

// mark has the states of volumes decided. When other changes of them come between,
// it looks again at what is left to do.
func (t *term) mark(ctx context.Context, ids []volume.ID, undo bool) error {
	for {
		cat, _ := t.opt.Log.Catalog()
		changes, err := placement.ReadOnly(t.topo.View(cat, time.Now()), t.opt.Placement, ids, undo)
		if err != nil {
			return err
		}
		var passed []volume.ID
		for _, ch := range changes {
			switch _, err := t.propose(ctx, ch); {
			case errors.Is(err, volume.ErrStale):
				passed = append(passed, ch.Next.Volume)
			case err != nil:
				return err
			}
		}
		if ids = passed; len(ids) == 0 {
			return nil
		}
	}
}

// obeyed waits for what the primaries of volumes say, and tells who has not said it
// in time.
func (t *term) obeyed(ctx context.Context, ids []volume.ID) (out cluster.Outcome, err error) {
	ctx, cancel := context.WithTimeout(ctx, obeyTime)
	defer cancel()
	for {
		out.Volumes = nil
		cat, _ := t.opt.Log.Catalog()
		late := false
		for _, id := range ids {
			e, ok := cat.Volume(id)
			if !ok {
				continue // it was deleted meanwhile
			}
			x := cluster.Explanation{Entry: *e}
			if _, vol := t.topo.Look(cat, e, time.Now()); vol.Obeys() != "" {
				x.Waits, late = []string{vol.Obeys()}, true
			}
			out.Volumes = append(out.Volumes, x)
		}
		if !late {
			return out, nil
		}
		select {
		case <-t.ctx.Done():
			return out, fmt.Errorf("%w: leadership ended: %w", volume.ErrOutcomeUnknown, &cluster.NotLeaderError{})
		case <-ctx.Done():
			return out, nil
		case <-time.After(gather):
		}
	}
}
