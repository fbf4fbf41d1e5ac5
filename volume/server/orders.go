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
	for _, e := range o.Entries {
		s.keepMu.Lock()
		s.obeyEntryLocked(e)
		s.keepMu.Unlock()
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

// obeyEntryLocked learns an entry, or makes the copy that it orders (rule R6).
func (s *Server) obeyEntryLocked(e volume.Entry) {
	h, inSync, named := e.Holder(s.opts.Node)
	v, err := s.opts.Store.Volume(e.Volume)
	if err != nil {
		v = nil
	}
	switch {
	case named && (v == nil || v.CopyID() != h.Copy || foreign(v)):
		s.missingLocked(e, h, inSync, v)
	default:
		s.mu.Lock()
		delete(s.lost, e.Volume)
		s.mu.Unlock()
		s.learn(e)
	}
}

// learn tells the copy of a volume, if there is one, about an entry.
func (s *Server) learn(e volume.Entry) {
	if r := s.copy(e.Volume); r != nil {
		r.Learn(e)
	}
}

// missingLocked handles an entry that names a copy that is not here; v is what
// is here instead, or nil. Files are made only for a new volume or a joining
// copy, and never again for a copy that was found missing: whatever it had
// acknowledged is gone, so it must not count under the same id.
func (s *Server) missingLocked(e volume.Entry, h volume.Holder, inSync bool, v *store.Volume) {
	s.mu.Lock()
	was, lost := s.lost[e.Volume]
	s.mu.Unlock()
	switch {
	case lost && was.Copy == h.Copy && was.State == volume.CopyLost:
		return
	case inSync && e.State != volume.StateNew:
		s.lose(e, h, volume.CopyLost, "no copy with this id is on this node")
		s.learn(e)
		return
	case v != nil && foreign(v):
		s.lose(e, h, volume.CopyFailed, "files of another program for a volume of this number are on this node")
		return
	case v != nil && newestEpoch(v) > e.Epoch:
		s.log.Warn("order to replace a copy refused: it knows a newer epoch", "volume", e.Volume, "copy", v.CopyID(), "epoch", e.Epoch)
		return
	}
	made, err := s.makeLocked(e, h, v, was.Copy)
	if err != nil {
		s.lose(e, h, volume.CopyFailed, err.Error())
		return
	}
	s.log.Info("copy made", "volume", e.Volume, "copy", h.Copy, "epoch", e.Epoch)
	r := s.open(made)
	s.mu.Lock()
	s.copies[e.Volume] = r
	delete(s.lost, e.Volume)
	s.mu.Unlock()
	r.Learn(e)
	s.touch(e.Volume)
}

// makeLocked makes the files of the copy h. What is in their place is set aside,
// never deleted: another copy v that is served, or, when Open of the store did
// not trust it, the copy that was reported lost.
func (s *Server) makeLocked(e volume.Entry, h volume.Holder, v *store.Volume, lost volume.CopyID) (*store.Volume, error) {
	why := fmt.Sprintf("replaced by copy %s at epoch %d, version %d of the volume", h.Copy, e.Epoch, e.Version)
	old := lost
	if v != nil {
		old = v.CopyID()
		if err := s.closeCopy(e.Volume); err != nil {
			return nil, err
		}
	}
	if old != 0 && old != h.Copy {
		switch err := s.opts.Store.SetAsideCopy(e.Volume, old, why); {
		case err == nil:
			s.log.Warn("copy set aside", "volume", e.Volume, "copy", old, "epoch", e.Epoch)
		case v != nil || !errors.Is(err, volume.ErrNoVolume):
			return nil, fmt.Errorf("set aside copy %s of volume %d: %w", old, e.Volume, err)
		}
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
	if err := r.Close(); err != nil {
		return fmt.Errorf("close copy of volume %d: %w", id, err)
	}
	return nil
}

// lose notes that the copy h, which e names, is not here, and why.
func (s *Server) lose(e volume.Entry, h volume.Holder, state volume.CopyState, why string) {
	s.mu.Lock()
	was := s.lost[e.Volume]
	s.lost[e.Volume] = volume.CopyReport{Volume: e.Volume, Copy: h.Copy, Spec: e.Spec, State: state, Reason: why}
	s.mu.Unlock()
	if was.Copy != h.Copy || was.Reason != why {
		s.log.Error("copy is not here", "volume", e.Volume, "copy", h.Copy, "epoch", e.Epoch, "err", errors.New(why))
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
