package server

import (
	"weedd/volume"
	"weedd/volume/store"
)

// disksChanged has what is said of disks, and of the copies on them, reported now.
// found are the volumes of a directory that turned up only now: they are served,
// and the heartbeat begins anew, for a full report and for all orders.
func (s *Server) disksChanged(found []*store.Volume) {
	for _, v := range found {
		s.serveFound(v)
	}
	s.mu.Lock()
	s.disks = true
	s.mu.Unlock()
	s.wake()
	if len(found) > 0 {
		select {
		case s.beatAnew <- struct{}{}:
		default:
		}
	}
}

// serveFound starts the copy v, unless another one of its volume is here.
func (s *Server) serveFound(v *store.Volume) {
	id := v.ID()
	k := s.keep(id)
	defer s.free(id, k)
	if now, err := s.opts.Store.Volume(id); err != nil || now != v || s.copy(id) != nil || foreign(v) {
		return
	}
	r := s.open(v)
	s.mu.Lock()
	s.copies[id] = r
	if s.lost[id].Copy == v.CopyID() {
		delete(s.lost, id)
	}
	s.mu.Unlock()
	s.touch(id)
}

// reach is what the directory of a volume's files is good for.
func (s *Server) reach(id volume.ID) store.Reach {
	if v, err := s.opts.Store.Volume(id); err == nil {
		return v.Reach()
	}
	return store.Reach{}
}

// dir is where the files of a volume are.
func (s *Server) dir(id volume.ID) string {
	if v, err := s.opts.Store.Volume(id); err == nil {
		return v.Dir()
	}
	return ""
}

// reached adds to a copy's own report what its disk and scrubbing add to it. A copy out of
// reach is reported lost: if there are others they go on without it, and if not
// the volume waits for it. When it can be reached again it is reported as it is.
func (s *Server) reached(rep volume.CopyReport) volume.CopyReport {
	reach := s.reach(rep.Volume)
	rep.Dir, rep.NoRoom, rep.Damaged = s.dir(rep.Volume), reach.Full, s.damaged(rep)
	if reach.Fenced != nil {
		rep.Leads = false
		if reach.Lost && rep.State == volume.CopyHealthy {
			rep.State, rep.Reason = volume.CopyLost, "out of reach: "+reach.Fenced.Error()
		}
	}
	return rep
}
