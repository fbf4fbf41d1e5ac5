package master

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"weedd/volume"
	"weedd/volume/needle"
)

// Submit stores one file under a fresh id. It writes create-only to the primary
// of a volume, and when that fails tries another volume with another id, for as
// long as Options.Hold; ids given up are deleted if anything may have been
// stored under them. n's key and cookie are set.
func (m *Master) Submit(ctx context.Context, req Request, n *needle.Needle) (Assignment, volume.PutResult, error) {
	ctx, cancel := m.deadline(ctx)
	defer cancel()
	var last error
	tried := map[volume.ID]bool{}
	for ctx.Err() == nil {
		a, err := m.assign(ctx, req, tried)
		if err != nil {
			if last != nil {
				err = fmt.Errorf("%w; the last try ended with: %v", err, last)
			}
			return Assignment{}, volume.PutResult{}, err
		}
		res, err := m.put(ctx, a, n)
		if err == nil {
			return a, res, nil
		}
		if hopeless(err) {
			return Assignment{}, volume.PutResult{}, err
		}
		m.opt.Logger.Debug("upload tried again elsewhere", "blob", a.ID, "node", a.Node.ID, "err", err)
		m.giveUp(a, err)
		if tried[a.ID.Volume] { // nothing else is left: not again at once
			pause(ctx, retryPause)
		}
		tried[a.ID.Volume] = true
		last = err
	}
	return Assignment{}, volume.PutResult{}, gaveUp(ctx, last, "upload failed everywhere it was tried")
}

func (m *Master) put(ctx context.Context, a Assignment, n *needle.Needle) (volume.PutResult, error) {
	ctx, cancel := context.WithTimeout(ctx, m.opt.Attempt)
	defer cancel()
	n.Key, n.Cookie = a.ID.Key, a.ID.Cookie
	return m.opt.Volumes.Put(ctx, a.Node, a.ID, n, true)
}

// hopeless reports whether the fault is in the upload itself.
func hopeless(err error) bool {
	for _, target := range []error{volume.ErrBadRequest, volume.ErrTooLarge, volume.ErrDigest, volume.ErrUnauthorized} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// giveUp passes over the node for a while when it seems to be in trouble, and
// deletes what may have been stored.
func (m *Master) giveUp(a Assignment, err error) {
	volumeOnly := false
	for _, target := range []error{volume.ErrNoVolume, volume.ErrNotPrimary, volume.ErrStale, volume.ErrReadOnly, volume.ErrNoSpace, volume.ErrExists} {
		volumeOnly = volumeOnly || errors.Is(err, target)
	}
	if volumeOnly {
		return
	}
	if !errors.Is(err, context.Canceled) { // a client that hung up says nothing about the node
		m.shun(a.Node.ID)
	}
	if errors.Is(err, volume.ErrUnavailable) && !errors.Is(err, volume.ErrOutcomeUnknown) && !errors.Is(err, context.DeadlineExceeded) {
		return // nothing was done
	}
	m.start(func(ctx context.Context) {
		pause(ctx, shunTime) // the node is in trouble
		m.deleteGivenUp(ctx, a)
	})
}

// Discard deletes files that Submit stored and nobody will ask for, in the
// background; as best it can: after a minute each is left to be found as garbage.
func (m *Master) Discard(stored []Assignment) {
	if len(stored) == 0 {
		return
	}
	m.start(func(ctx context.Context) {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(discards)
		for _, a := range stored {
			g.Go(func() error {
				m.deleteGivenUp(ctx, a)
				return nil
			})
		}
		_ = g.Wait() // none of them fails
	})
}

// discards is how many files one Discard deletes at a time.
const discards = 8

// deleteGivenUp deletes an id that was given up, once its node answers again; as
// best it can: after a minute it is left to be found as garbage.
func (m *Master) deleteGivenUp(ctx context.Context, a Assignment) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for ; ctx.Err() == nil; pause(ctx, shunTime) {
		node := a.Node
		c := m.choices()
		if e, ok := c.cat.Volume(a.ID.Volume); ok {
			if n, ok := c.nodes[e.Primary]; ok {
				node = n.Volume()
			}
		}
		once, cancel := context.WithTimeout(ctx, m.opt.Attempt)
		_, err := m.opt.Volumes.Delete(once, node, a.ID)
		cancel()
		if err == nil || errors.Is(err, volume.ErrNotFound) || errors.Is(err, volume.ErrNoVolume) {
			return
		}
	}
}
