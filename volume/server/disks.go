package server

import (
	"weedd/volume"
	"weedd/volume/store"
)

// disksChanged has what is said of disks, and of the copies on them, reported now.
func (s *Server) disksChanged() {
	s.mu.Lock()
	s.disks = true
	s.mu.Unlock()
	s.wake()
}

// reach is what the directory of a volume's files is good for.
func (s *Server) reach(id volume.ID) store.Reach {
	if v, err := s.opts.Store.Volume(id); err == nil {
		return v.Reach()
	}
	return store.Reach{}
}

// reached adds to a copy's own report what its disk and scrubbing add to it. A copy out of
// reach is reported lost: if there are others they go on without it, and if not
// the volume waits for it. When it can be reached again it is reported as it is.
func (s *Server) reached(rep volume.CopyReport) volume.CopyReport {
	reach := s.reach(rep.Volume)
	rep.NoRoom, rep.Damaged = reach.Full, s.damaged(rep)
	if reach.Fenced != nil {
		rep.Leads = false
		if reach.Lost && rep.State == volume.CopyHealthy {
			rep.State, rep.Reason = volume.CopyLost, "out of reach: "+reach.Fenced.Error()
		}
	}
	return rep
}
