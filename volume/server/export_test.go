package server

import (
	"context"

	"weedd/volume"
)

// Drop carries out one order to delete, as the loop does.
func (s *Server) Drop(ctx context.Context, d volume.Drop) error { return s.drop(ctx, d) }
