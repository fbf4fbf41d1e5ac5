package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/replica"
)

// The methods in this file are what other nodes ask for. None passes a request
// on: it was passed on once already.

func (s *Server) here(id volume.ID) (*replica.Replica, error) {
	if r := s.copy(id); r != nil {
		return r, nil
	}
	return nil, fmt.Errorf("%w: volume %d is not on this node", volume.ErrNoVolume, id)
}

// Follow serves the follower's side of a stream that a primary opened, until it
// ends.
func (s *Server) Follow(ctx context.Context, id volume.ID, link replica.Link) error {
	r, err := s.here(id)
	if err != nil {
		return err
	}
	return r.Serve(ctx, link)
}

// PutHere stores n if a copy on this node leads.
func (s *Server) PutHere(ctx context.Context, id volume.FileID, n *needle.Needle, createOnly bool, after volume.Epoch) (volume.PutResult, error) {
	r, err := s.here(id.Volume)
	if err != nil {
		return volume.PutResult{}, err
	}
	return s.put(ctx, r, n, createOnly, after)
}

// DeleteHere deletes a file if a copy on this node leads.
func (s *Server) DeleteHere(ctx context.Context, id volume.FileID, after volume.Epoch) (size int64, err error) {
	r, err := s.here(id.Volume)
	if err != nil {
		return 0, err
	}
	return s.deleteIn(ctx, r, id, after)
}

// put and deleteIn write to a copy of this node.
func (s *Server) put(ctx context.Context, r *replica.Replica, n *needle.Needle, createOnly bool, after volume.Epoch) (volume.PutResult, error) {
	if err := cmp.Or(closedByHand(r), s.reach(r.Entry().Volume).Fenced); err != nil {
		return volume.PutResult{}, err
	}
	res, err := r.Put(ctx, n, createOnly, after)
	return res, replaceable(r, err)
}

func (s *Server) deleteIn(ctx context.Context, r *replica.Replica, id volume.FileID, after volume.Epoch) (size int64, err error) {
	if err := cmp.Or(closedByHand(r), s.reach(id.Volume).Fenced); err != nil {
		return 0, err
	}
	size, err = r.Delete(ctx, id.Key, id.Cookie, after)
	return size, replaceable(r, err)
}

// closedByHand refuses writes to volumes that take none by decision.
func closedByHand(r *replica.Replica) error {
	if e := r.Entry(); e.State == volume.StateReadOnly || e.State == volume.StateExpired {
		return &volume.ReadOnlyError{Volume: e.Volume, State: e.State}
	}
	return nil
}

// replaceable turns the refusal of a copy that failed into one that is worth
// another attempt, when there is another copy to lead.
func replaceable(r *replica.Replica, err error) error {
	if !errors.Is(err, volume.ErrReadOnly) || len(r.Entry().InSync) < 2 || r.Report().State != volume.CopyFailed {
		return err
	}
	return fmt.Errorf("%w: another copy is about to lead: %v", volume.ErrUnavailable, err)
}

// ConfirmHere answers the committed length of epoch if a copy on this node leads
// in it, having made sure that it still does.
func (s *Server) ConfirmHere(ctx context.Context, id volume.ID, epoch volume.Epoch, from volume.Holder) (committed int64, err error) {
	r, err := s.here(id)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", volume.ErrUnavailable, err)
	}
	return r.Confirm(ctx, epoch, from)
}

// VerifyHere says how far a copy on this node is, and the checksum of its bytes
// below at, or below its committed length if that is less.
func (s *Server) VerifyHere(ctx context.Context, id volume.ID, copy volume.CopyID, at int64) (Verification, error) {
	r, err := s.here(id)
	if err != nil {
		return Verification{}, err
	}
	v, err := s.opts.Store.Volume(id)
	if err != nil {
		return Verification{}, fmt.Errorf("verify volume %d: %w", id, err)
	}
	rep := r.Report()
	if rep.Copy != copy || rep.State != volume.CopyHealthy {
		return Verification{}, fmt.Errorf("%w: volume %d: copy %s here is %s, %s", volume.ErrNoVolume, id, rep.Copy, rep.State, rep.Reason)
	}
	out := Verification{Epoch: rep.Epoch, Generation: rep.Generation, Committed: rep.Committed, At: min(at, rep.Committed)}
	if out.Checksum, err = v.Checksum(out.At); err != nil {
		return Verification{}, fmt.Errorf("verify volume %d: %w", id, err)
	}
	return out, nil
}
