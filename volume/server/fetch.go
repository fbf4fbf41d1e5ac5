package server

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"weedd/volume"
)

// Piece names one record of one copy: Length bytes of .dat at Offset, padding
// included. Offsets mean something within a generation only.
type Piece struct {
	Copy       volume.CopyID `json:"copy"`
	Generation uint32        `json:"generation"`
	Offset     int64         `json:"offset"`
	Length     int64         `json:"length"`
}

// FetchHere reads one committed record of the copy p.Copy on this node, for a copy
// on another node where it is damaged. It passes its own check, and
// so does all that lies in the same MiB; volume.ErrCorrupt says that it is damaged
// here, too.
func (s *Server) FetchHere(id volume.ID, p Piece) ([]byte, error) {
	r, err := s.here(id)
	if err != nil {
		return nil, err
	}
	v, err := s.opts.Store.Volume(id)
	if err != nil {
		return nil, fmt.Errorf("fetch from volume %d: %w", id, err)
	}
	is := func() error {
		if rep := r.Report(); rep.Copy != p.Copy || rep.Generation != p.Generation || rep.State != volume.CopyHealthy || p.Offset+p.Length > rep.Committed {
			return fmt.Errorf("%w: volume %d: copy %s here is %s, of generation %d and %d bytes", volume.ErrStale, id, rep.Copy, rep.State, rep.Generation, rep.Committed)
		}
		return nil
	}
	if err := is(); err != nil {
		return nil, err
	}
	b, err := v.Record(p.Generation, p.Offset, p.Length)
	if err != nil {
		return nil, fmt.Errorf("fetch from volume %d: %w", id, err)
	}
	return b, nil
}

// fetch reads a record from another copy in sync by e; see replica.Options.
func (s *Server) fetch(ctx context.Context, e volume.Entry, generation uint32, offset, length int64) ([]byte, error) {
	var errs []error
	for _, h := range e.InSync {
		if h.Node == s.opts.Node {
			continue
		}
		n, err := s.node(ctx, e.Volume, h.Node)
		if err == nil {
			var b []byte
			if b, err = s.opts.Remote.Fetch(ctx, n, e.Volume, Piece{h.Copy, generation, offset, length}); err == nil {
				return b, nil
			}
		}
		errs = append(errs, fmt.Errorf("node %s: %w", h.Node, err))
	}
	if slices.ContainsFunc(errs, func(err error) bool { return !errors.Is(err, volume.ErrCorrupt) }) {
		return nil, fmt.Errorf("%w: volume %d: no other copy can be asked for the record at %d: %v", volume.ErrUnavailable, e.Volume, offset, errors.Join(errs...))
	}
	return nil, &volume.CorruptError{Volume: e.Volume, Offset: offset, Reason: fmt.Sprintf("%d other copies have no better bytes", len(errs))}
}
