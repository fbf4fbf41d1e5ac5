package server

import (
	"context"

	"weedd/volume"
)

// Drop carries out one order to delete, as the loop does.
func (s *Server) Drop(ctx context.Context, d volume.Drop) error { return s.drop(ctx, d) }

// Obey takes orders, as from the leader.
func (s *Server) Obey(o volume.Orders) { s.obey(o) }
