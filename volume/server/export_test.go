package server

import (
	"context"

	"weedd/volume"
)

// Drop carries out one order to delete, as the loop does.
func (s *Server) Drop(ctx context.Context, d volume.Drop) error { return s.drop(ctx, d) }

// Lost is what is reported of a copy that an entry names and that is not here.
func (s *Server) Lost(id volume.ID) (volume.CopyReport, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.lost[id]
	return r, ok
}

// Obey takes orders, as from the leader.
func (s *Server) Obey(o volume.Orders) { s.obey(o) }
