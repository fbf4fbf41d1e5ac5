package server

import (
	"errors"
	"fmt"

	"weedd/volume"
	"weedd/volume/store"
)

// obey does what the leader orders. Orders lost or repeated do no harm, and what
// is missing from them means nothing.
func (s *Server) obey(o volume.Orders) {
	if err := s.accept(o.Cluster); err != nil {
		s.log.Error("orders refused", "err", err)
		return
	}
	s.mu.Lock()
	s.beating, s.foreign = true, ""
	s.mu.Unlock()
	if o.Drain != nil {
		s.empty(*o.Drain)
	}
	for _, e := range o.Entries {
		s.obeyEntry(e)
	}
	if len(o.Entries) > 0 {
		s.wakeEmpty()
	}
	for _, c := range o.Compact {
		if r := s.copy(c.Volume); r != nil {
			if err := r.Compact(c); err != nil {
				s.log.Info("volume is not compacted now", "volume", c.Volume, "epoch", c.Epoch, "err", err)
			}
		}
	}
	if o.Full {
		s.wakeScrub() // what waited to know where other copies are
	}
	if len(o.Drop) > 0 {
		s.mu.Lock()
		for _, d := range o.Drop {
			s.drops[d.Volume] = d
		}
		s.mu.Unlock()
		select {
		case s.dropNow <- struct{}{}:
		default:
		}
	}
}

// accept checks that the leader is of the cluster that the data belongs to. Data
// of no cluster yet belongs to the first that gives orders.
func (s *Server) accept(cluster string) error {
	ours := s.opts.ClusterID()
	switch {
	case cluster == "":
		return fmt.Errorf("%w: they name no cluster", volume.ErrBadRequest)
	case ours == "":
		if err := s.opts.SetClusterID(cluster); err != nil {
			return fmt.Errorf("record cluster %s: %w", cluster, err)
		}
	case ours != cluster:
		s.mu.Lock()
		s.foreign = cluster
		s.mu.Unlock()
		return fmt.Errorf("%w: they come from cluster %s, the data directory belongs to cluster %s", volume.ErrUnauthorized, cluster, ours)
	}
	return nil
}

// obeyKept learns an entry, or reports whether a copy is to be made by it (rule R6).
// It touches no disk.
func (s *Server) obeyKept(e volume.Entry) (toMake bool) {
	if e.Unsure { // a later one may be lost: what is here is told, kept, and no other made
		return false
	}
	h, inSync, named := e.Holder(s.opts.Node)
	v, err := s.opts.Store.Volume(e.Volume)
	if err != nil {
		v = nil
	}
	if v != nil && foreign(v) && e.Adopted() && e.State != volume.StateNew {
		s.takenOver(e)
	}
	switch {
	case named && inSync && e.State == volume.StateNew && e.Adopted() && (v == nil || v.CopyID() != h.Copy):
		s.adoptLater(e, h, v)
	case named && (v == nil || v.CopyID() != h.Copy || foreign(v)):
		return s.missing(e, h, inSync, v)
	default:
		s.mu.Lock()
		if a := s.adopting[e.Volume]; a == nil || a.entry.Version <= e.Version { // an older entry makes nothing found that is not
			delete(s.lost, e.Volume)
		}
		s.mu.Unlock()
		if named || v == nil {
			s.forget(e.Volume, e.Version, h.Copy)
		}
		s.learn(e)
	}
	return false
}

// forget lets the ledger forget the copies of a volume that an entry of this
// version does not name. Only copies without files may be forgotten.
func (s *Server) forget(id volume.ID, version uint64, named volume.CopyID) {
	if err := s.opts.Ledger.Forget(id, version, named); err != nil {
		s.log.Warn("copies that are not here any more stay in the ledger", "volume", id, "err", err)
	}
}

// learn tells the copy of a volume, if there is one, about an entry.
func (s *Server) learn(e volume.Entry) {
	if r := s.copy(e.Volume); r != nil {
		r.Learn(e)
	}
}

// missing handles an entry that names a copy that is not here, and reports whether
// it is to be made; v is what is here instead, or nil. Files are made only for a new volume or a joining
// copy, and never again for one that was made before, by the ledger: whatever it
// had acknowledged is gone, so it must not count under the same id.
func (s *Server) missing(e volume.Entry, h volume.Holder, inSync bool, v *store.Volume) (toMake bool) {
	made := s.opts.Ledger.Made(e.Volume, h.Copy)
	s.mu.Lock()
	was, lost := s.lost[e.Volume]
	s.mu.Unlock()
	if lost && was.Copy == h.Copy && (was.State == volume.CopyLost || made) {
		return false
	}
	_, blocked := s.opts.Store.Here(e.Volume)
	switch {
	case inSync && e.State != volume.StateNew:
		s.lose(e, h, volume.CopyReport{State: volume.CopyLost, Reason: "no copy with this id is on this node"})
		s.learn(e)
	case made:
		s.lose(e, h, volume.CopyReport{State: volume.CopyLost, Reason: "this node has made the copy before, and its files are gone"})
		s.learn(e)
	case blocked && !s.madeFrom(e, v):
		s.lose(e, h, volume.CopyReport{State: volume.CopyFailed, Blocked: true,
			Reason: "files of another program for a volume of this number are on this node"})
	case v != nil && v.Reach().Fenced != nil: // it cannot be moved out of the way
		s.lose(e, h, volume.CopyReport{State: volume.CopyFailed, Reason: v.Reach().Fenced.Error()})
	case v != nil && newestEpoch(v) > e.Epoch:
		s.log.Warn("order to replace a copy refused: it knows a newer epoch", "volume", e.Volume, "copy", v.CopyID(), "epoch", e.Epoch)
	default:
		return true
	}
	return false
}

// makeCopy makes the copy that e orders, and runs it.
func (s *Server) makeCopy(e volume.Entry) {
	h, _, _ := e.Holder(s.opts.Node)
	fresh, err := s.makeFiles(e, h)
	switch {
	case errors.Is(err, volume.ErrStale):
		s.log.Warn("order to make a copy refused", "volume", e.Volume, "copy", h.Copy, "epoch", e.Epoch, "err", err)
		return
	case err != nil:
		s.lose(e, h, volume.CopyReport{State: volume.CopyFailed, Reason: err.Error()})
		return
	}
	s.log.Info("copy made", "volume", e.Volume, "copy", h.Copy, "epoch", e.Epoch)
	s.forget(e.Volume, e.Version, h.Copy)
	r := s.open(fresh)
	s.mu.Lock()
	closed := s.closed
	if !closed {
		s.copies[e.Volume] = r
		delete(s.lost, e.Volume)
	}
	s.mu.Unlock()
	if closed {
		_ = r.Close() // it has done nothing yet
		return
	}
	r.Learn(e)
	s.touch(e.Volume)
}

// makeFiles makes the files of the copy h, once it is in the ledger. What is in
// its place is set aside, never deleted: copies of ours, the one that is served
// and those that the store found and did not trust, and foreign files that the
// volume was adopted from. volume.ErrStale means that a
// later entry has ordered another one.
func (s *Server) makeFiles(e volume.Entry, h volume.Holder) (*store.Volume, error) {
	if err := s.opts.Ledger.Make(e.Volume, h.Copy, e.Version); err != nil {
		return nil, err
	}
	if err := s.closeCopy(e.Volume); err != nil {
		return nil, err
	}
	why := fmt.Sprintf("replaced by copy %s at epoch %d, version %d of the volume", h.Copy, e.Epoch, e.Version)
	ours, blocked := s.opts.Store.Here(e.Volume)
	if blocked {
		ours = append(ours, 0)
	}
	for _, old := range ours {
		if err := s.opts.Store.SetAsideCopy(e.Volume, old, why); err != nil {
			return nil, fmt.Errorf("set aside copy %s of volume %d: %w", old, e.Volume, err)
		}
		s.log.Warn("copy set aside", "volume", e.Volume, "copy", old, "epoch", e.Epoch)
	}
	made, err := s.opts.Store.Create(e.Volume, e.Spec, h.Copy)
	if err != nil {
		return nil, fmt.Errorf("make copy %s of volume %d: %w", h.Copy, e.Volume, err)
	}
	return made, nil
}

// closeCopy ends the runtime of a volume, if there is one.
func (s *Server) closeCopy(id volume.ID) error {
	s.mu.Lock()
	r := s.copies[id]
	delete(s.copies, id)
	s.mu.Unlock()
	if r == nil {
		return nil
	}
	if err := inTime(r.Close); err != nil {
		return fmt.Errorf("close copy of volume %d: %w", id, err)
	}
	return nil
}

// lose notes that the copy h, which e names, is not here, and why.
func (s *Server) lose(e volume.Entry, h volume.Holder, now volume.CopyReport) {
	now.Volume, now.Copy, now.Spec = e.Volume, h.Copy, e.Spec
	s.mu.Lock()
	was := s.lost[e.Volume]
	s.lost[e.Volume] = now
	s.mu.Unlock()
	if was.Copy != h.Copy || was.Reason != now.Reason {
		s.log.Error("copy is not here", "volume", e.Volume, "copy", h.Copy, "epoch", e.Epoch, "err", errors.New(now.Reason))
	}
	s.touch(e.Volume)
}

// newestEpoch is the newest epoch that a copy has made durable.
func newestEpoch(v *store.Volume) volume.Epoch {
	list := v.Epochs()
	if len(list) == 0 {
		return 0
	}
	return list[len(list)-1].Epoch
}
