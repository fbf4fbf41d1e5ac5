package server

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/replica"
)

// Put stores n under id, at the primary of its volume wherever that is. It holds
// the request while there is none. n and its bytes must not change until Put has
// returned. volume.ErrOutcomeUnknown means that it may have been stored.
//
// A file that an attempt after one with an unknown outcome finds deleted stays so:
// it may have been deleted after that attempt, by somebody who was told so. What is
// sure is that n is not there, and will not be: volume.ErrUnavailable, so that the
// client may say once more that it wants it.
func (s *Server) Put(ctx context.Context, id volume.FileID, n *needle.Needle, createOnly bool) (res volume.PutResult, err error) {
	n.Key, n.Cookie = id.Key, id.Cookie
	deleted := false
	err = s.write(ctx, id.Volume, func(ctx context.Context, t target, after volume.Epoch) (err error) {
		if t.local != nil {
			res, err = s.put(ctx, t.local, n, createOnly, after)
		} else {
			res, err = s.opts.Remote.Put(ctx, t.node, id, n, createOnly, after)
		}
		if deleted = after != 0 && errors.Is(err, volume.ErrNotFound); deleted {
			return nil
		}
		return err
	})
	if deleted {
		return res, fmt.Errorf("%w: file %s was deleted, and the primary of its volume changed while this write was under way; it is not stored, repeat it if it is still wanted", volume.ErrUnavailable, id)
	}
	return res, s.explain(id.Volume, err)
}

// Delete deletes a file, at the primary of its volume wherever that is, and
// answers the size of the record's body. A file that a repeated delete does not
// find was deleted: size 0.
//
// The time of the tombstone is the primary's; modified is not kept, as the
// format has no place for it in a record without data.
//
// A volume in shards has no primary: this node deletes what it has.
func (s *Server) Delete(ctx context.Context, id volume.FileID, modified uint64) (size int64, err error) {
	if v, err := s.opts.Store.Volume(id.Volume); err == nil && v.Coded() && !s.isTaken(id.Volume) {
		return v.DeleteCoded(id.Key, id.Cookie)
	}
	err = s.write(ctx, id.Volume, func(ctx context.Context, t target, after volume.Epoch) (err error) {
		if t.local != nil {
			size, err = s.deleteIn(ctx, t.local, id, after)
		} else {
			size, err = s.opts.Remote.Delete(ctx, t.node, id, after)
		}
		if after != 0 && errors.Is(err, volume.ErrNotFound) {
			return nil
		}
		return err
	})
	return size, s.explain(id.Volume, err)
}

// explain tells a volume that is only read from one that nobody has.
func (s *Server) explain(id volume.ID, err error) error {
	if !errors.Is(err, volume.ErrNoVolume) {
		return err
	}
	if v, e := s.opts.Store.Volume(id); e == nil && foreign(v) {
		return fmt.Errorf("%w: volume %d was %s", volume.ErrReadOnly, id, foreignReason)
	}
	return err
}

// Get reads a file; the caller calls Release on it. *volume.ElsewhereError names
// the nodes to ask when this one has no copy, or one that cannot tell.
func (s *Server) Get(ctx context.Context, id volume.FileID, readDeleted bool) (*needle.Needle, error) {
	if reach := s.reach(id.Volume); reach.Unread {
		return nil, s.elsewhere(ctx, id.Volume, reach.Fenced)
	}
	r := s.copy(id.Volume)
	if r == nil {
		return s.getForeign(ctx, id, readDeleted)
	}
	if err := s.behind(ctx, r, id.Volume); err != nil {
		return nil, err
	}
	n, err := r.Get(ctx, id.Key, id.Cookie, readDeleted)
	if err != nil && again(err) {
		n, err = s.getHeld(ctx, r, id, readDeleted)
	}
	if s.corrupt(id, err) {
		return nil, s.elsewhere(ctx, id.Volume, err)
	}
	return n, err
}

// behind sends readers away from a copy that knows that it may lack what was
// acknowledged: one that catches up, or whose disk is full. While none that is in
// sync looks alive, what is here is better than nothing.
func (s *Server) behind(ctx context.Context, r *replica.Replica, id volume.ID) error {
	if r.Standing() == replica.Unknown {
		_, _ = s.target(ctx, id, true) // the copy learns the entry, if a master can be asked
	}
	if r.Standing() != replica.Behind {
		return nil
	}
	e := r.Entry()
	if !slices.ContainsFunc(e.InSync, func(h volume.Holder) bool { return h.Node != s.opts.Node && s.opts.Peers.Alive(h.Node) }) {
		return nil
	}
	return &volume.ElsewhereError{Volume: id, Nodes: s.others(e, nil), Behind: true}
}

// corrupt reports whether err says that the bytes of a file fail their check, and
// tells the operator.
func (s *Server) corrupt(id volume.FileID, err error) bool {
	if !errors.Is(err, volume.ErrCorrupt) {
		return false
	}
	s.metrics.corrupt.Inc()
	s.log.Error("file cannot be read from this copy", "volume", id.Volume, "blob", id, "err", err)
	s.mendLater(id.Volume, err)
	return true
}

// getHeld goes on with a miss that the local copy could not answer for want of a
// primary. A copy in sync will be able to; another one sends the reader away.
func (s *Server) getHeld(ctx context.Context, r *replica.Replica, id volume.FileID, readDeleted bool) (*needle.Needle, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Hold)
	defer cancel()
	for wait := holdFirst; ; {
		// The outcome does not matter: what could not be learned is asked again.
		_, _ = s.target(ctx, id.Volume, true)
		n, err := r.Get(ctx, id.Key, id.Cookie, readDeleted)
		if err == nil || !again(err) {
			return n, err
		}
		rep := r.Report()
		h, inSync, _ := r.Entry().Holder(s.opts.Node)
		if e := r.Entry(); e.Epoch != 0 && (!inSync || h.Copy != rep.Copy || rep.State == volume.CopyFailed) {
			return nil, s.elsewhere(ctx, id.Volume, err)
		}
		if !s.pause(ctx, id.Volume, &wait) {
			return nil, fmt.Errorf("%w: volume %d: %v", volume.ErrUnavailable, id.Volume, err)
		}
	}
}

// getForeign reads from a volume without a copy of ours: from foreign files if
// they have it, else elsewhere.
func (s *Server) getForeign(ctx context.Context, id volume.FileID, readDeleted bool) (*needle.Needle, error) {
	v, err := s.opts.Store.Volume(id.Volume)
	if err == nil && !foreign(v) && s.oursSoon(ctx, id.Volume) {
		return s.Get(ctx, id, readDeleted)
	}
	if err != nil || !foreign(v) || s.isTaken(id.Volume) {
		return nil, s.elsewhere(ctx, id.Volume, nil)
	}
	n, missed := v.Get(id.Key, id.Cookie, s.opts.Now(), readDeleted)
	if missed == nil {
		return n, nil
	}
	if errors.Is(missed, volume.ErrClosed) && s.oursSoon(ctx, id.Volume) {
		return s.Get(ctx, id, readDeleted)
	}
	s.corrupt(id, missed)
	var there *volume.ElsewhereError
	if err := s.elsewhere(ctx, id.Volume, missed); errors.As(err, &there) {
		return nil, err
	}
	return nil, missed
}

// elsewhere names the other nodes that hold a volume in sync, the primary first.
// Without any, it is cause.
func (s *Server) elsewhere(ctx context.Context, id volume.ID, cause error) error {
	known, err := s.located(ctx, id)
	e := known.entry
	if r := s.copy(id); r != nil {
		if own := r.Entry(); own.Version > e.Version {
			e = own
		}
	}
	if there := s.others(e, known.nodes); len(there) > 0 && !errors.Is(err, volume.ErrNoVolume) {
		return &volume.ElsewhereError{Volume: id, Nodes: there}
	}
	switch {
	case cause != nil:
		return cause
	case err != nil:
		return err
	}
	return fmt.Errorf("%w: no other holder of volume %d is in sight", volume.ErrUnavailable, id)
}

// others gives the addresses of the holders in sync but this node.
func (s *Server) others(e volume.Entry, nodes []volume.Node) (there []volume.Node) {
	for _, h := range e.InSync {
		if h.Node == s.opts.Node {
			continue
		}
		n, ok := s.opts.Peers.Node(h.Node)
		for i := 0; !ok && i < len(nodes); i++ {
			n, ok = nodes[i], nodes[i].ID == h.Node
		}
		switch {
		case !ok:
		case h.Node == e.Primary:
			there = append([]volume.Node{n}, there...)
		default:
			there = append(there, n)
		}
	}
	return there
}
