package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"weedd/volume"
	"weedd/volume/store"
)

const (
	adoptAgainFirst = time.Second // between attempts to adopt a volume, doubling
	adoptAgainLast  = 10 * time.Minute
	becomesOurs     = 5 * time.Second // how long a reader waits for the last step of an adoption
)

// adoption is an order to make a copy of ours out of foreign files.
type adoption struct {
	entry volume.Entry
	due   time.Time // of the next attempt
	wait  time.Duration
	never bool // another attempt would come to the same
}

// adoptLater notes the order of e, which is new, to adopt the volume v. Without
// the files there is nothing to do: a copy that was made of none must not pass for
// the volume. Nor is one that the ledger has (rule R6). A copy that was made by
// order of an older entry, in the moment when that was replaced, is reported as it
// is: the leader plans with it.
func (s *Server) adoptLater(e volume.Entry, h volume.Holder, v *store.Volume) {
	switch {
	case v != nil && !foreign(v) && s.opts.Ledger.Ordered(e.Volume, v.CopyID()):
		s.mu.Lock()
		delete(s.adopting, e.Volume)
		delete(s.lost, e.Volume)
		s.mu.Unlock()
		s.touch(e.Volume)
		return
	case v == nil || !foreign(v):
		s.lose(e, h, volume.CopyReport{State: volume.CopyFailed, Reason: "the files to be adopted are not on this node"})
		return
	case s.opts.Ledger.Made(e.Volume, h.Copy):
		s.loseAdoption(e, errors.New("its adoption was stopped in the last step; it is to be tried again with another copy id"))
		return
	}
	s.mu.Lock()
	if was, ok := s.adopting[e.Volume]; !ok || was.entry.Version < e.Version {
		s.adopting[e.Volume] = &adoption{entry: e, wait: adoptAgainFirst}
	}
	s.mu.Unlock()
	select {
	case s.adoptNow <- struct{}{}:
	default:
	}
}

// adoptLoop carries out orders to adopt, one at a time: each reads a whole volume,
// and keeps a list of what is in it. One whose disk hangs is not waited for.
func (s *Server) adoptLoop(ctx context.Context) {
	tick := time.NewTicker(adoptAgainFirst)
	defer tick.Stop()
	var work sync.WaitGroup
	defer work.Wait()
	for {
		for a := s.nextAdoption(); a != nil && ctx.Err() == nil; a = s.nextAdoption() {
			ended := make(chan struct{})
			work.Go(func() {
				defer close(ended)
				s.adoptOne(ctx, a)
			})
			s.awaitAdoption(ctx, a.entry.Volume, ended)
		}
		select {
		case <-ctx.Done():
			return
		case <-s.adoptNow:
		case <-tick.C:
		}
	}
}

// awaitAdoption waits until ended is closed, or the disk of the volume hangs.
func (s *Server) awaitAdoption(ctx context.Context, id volume.ID, ended <-chan struct{}) {
	tick := time.NewTicker(adoptAgainFirst)
	defer tick.Stop()
	for !s.reach(id).Unread {
		select {
		case <-ended:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// nextAdoption gives the order that is due, nil if none is, and marks it as under
// way. Those on disks that cannot be read wait.
func (s *Server) nextAdoption() *adoption {
	s.mu.Lock()
	defer s.mu.Unlock()
	var next *adoption
	defer func() {
		if next != nil {
			s.underWay[next.entry.Volume] = true
		}
	}()
	for id, a := range s.adopting {
		if !a.never && !s.underWay[id] && !s.reach(a.entry.Volume).Unread && !a.due.After(s.opts.Now()) && (next == nil || cmp.Or(a.due.Compare(next.due), cmp.Compare(a.entry.Volume, next.entry.Volume)) < 0) {
			next = a
		}
	}
	return next
}

func (s *Server) adoptOne(ctx context.Context, a *adoption) {
	id := a.entry.Volume
	err := s.adopt(ctx, a.entry)
	if v, _ := s.opts.Store.Volume(id); err != nil && v != nil && !foreign(v) {
		err = nil // by an older order, which was in its last step when this one came
	}
	s.mu.Lock()
	current := s.adopting[id] == a
	delete(s.underWay, id)
	switch {
	case err == nil && current:
		delete(s.adopting, id)
	case err != nil:
		a.due, a.wait = s.opts.Now().Add(a.wait), min(2*a.wait, adoptAgainLast)
		h, _, _ := a.entry.Holder(s.opts.Node)
		a.never = errors.Is(err, volume.ErrExists) || errors.Is(err, volume.ErrCorrupt) || s.opts.Ledger.Made(id, h.Copy)
	}
	s.mu.Unlock()
	if err != nil && current && ctx.Err() == nil {
		s.loseAdoption(a.entry, err)
	}
}

// loseAdoption reports that a volume could not be adopted. What is there of it
// is reported with it, for the leader may plan anew.
func (s *Server) loseAdoption(e volume.Entry, why error) {
	h, _, _ := e.Holder(s.opts.Node)
	rep := volume.CopyReport{}
	if v, err := s.opts.Store.Volume(e.Volume); err == nil && foreign(v) {
		rep = ForeignReport(v)
	}
	rep.State, rep.Reason = volume.CopyFailed, why.Error()
	if s.opts.Ledger.Made(e.Volume, h.Copy) {
		rep.State = volume.CopyLost
	}
	s.lose(e, h, rep)
}

// madeFrom reports whether v, files of SeaweedFS, is what the volume of e was
// adopted from.
func (s *Server) madeFrom(e volume.Entry, v *store.Volume) bool {
	return v != nil && foreign(v) && e.From(s.opts.Node, ForeignReport(v).Print())
}

// adopt makes the copy that e orders, out of the files here and on the other
// nodes that it names (rules R15, R16).
func (s *Server) adopt(ctx context.Context, e volume.Entry) error {
	h, _, _ := e.Holder(s.opts.Node)
	v, err := s.opts.Store.Volume(e.Volume)
	if err != nil || !foreign(v) {
		return fmt.Errorf("%w: the files to be adopted are not here any more", errors.Join(volume.ErrStale, err))
	}
	sources, err := s.sources(e, v)
	if err != nil {
		return err
	}
	own, err := v.Survey(ctx)
	if err != nil {
		return err
	}
	surveys := [][]store.SurveyRow{own.Rows}
	for _, src := range sources[1:] {
		rows, err := s.surveyAt(ctx, e.Volume, src)
		if err != nil {
			return err
		}
		surveys = append(surveys, rows)
	}
	picks, kept, err := store.Merge(surveys...)
	if err != nil {
		return err
	}
	if len(kept) > 0 {
		s.log.Warn("files are on some copies only and are kept; some may have been deleted", "volume", e.Volume, "files", len(kept), "first keys", fmt.Sprintf("%x", kept[:min(len(kept), 20)]))
	}
	fresh, err := s.opts.Store.Adopt(ctx, e.Volume, store.Adoption{
		Copy: h.Copy, Spec: e.Spec, Generation: e.Generation, Survey: own, Picks: picks,
		Begin: func() error {
			if s.ordered(e.Volume).Version != e.Version {
				return fmt.Errorf("%w: the order to adopt it was replaced", volume.ErrStale)
			}
			return s.opts.Ledger.Make(e.Volume, h.Copy, e.Version)
		},
		Fetch: func(ctx context.Context, p store.Pick) ([]byte, error) {
			n, err := s.node(ctx, e.Volume, sources[p.Source].Node)
			if err != nil {
				return nil, err
			}
			return s.opts.Remote.Record(ctx, n, e.Volume, sources[p.Source].Print, p.SurveyRow)
		},
	})
	if err != nil {
		return err
	}
	s.log.Info("volume adopted", "volume", e.Volume, "copy", h.Copy, "epoch", e.Epoch, "sources", len(sources), "in place", own.Exact && fresh.End() == v.End())
	if _, _, _, _, _, modified, _ := fresh.Stats(); e.Spec.TTL.Duration() > 0 && s.opts.Now().After(modified.Add(e.Spec.TTL.Duration())) {
		s.log.Warn("the time to live of an adopted volume is over: it is deleted soon, as SeaweedFS would", "volume", e.Volume, "collection", e.Spec.Collection, "ttl", e.Spec.TTL, "last written", modified)
	}
	s.start(e, h, fresh)
	return nil
}

// sources lists the sources of e, the files v on this node first. They must be
// what they were when e was planned.
func (s *Server) sources(e volume.Entry, v *store.Volume) ([]volume.Source, error) {
	own := volume.Source{Node: s.opts.Node, Print: ForeignReport(v).Print()}
	if !slices.Contains(e.Sources, own) {
		return nil, fmt.Errorf("%w: the files of volume %d here are not those that were reported", volume.ErrStale, e.Volume)
	}
	list := []volume.Source{own}
	for _, src := range e.Sources {
		if src != own {
			list = append(list, src)
		}
	}
	return list, nil
}

func (s *Server) surveyAt(ctx context.Context, id volume.ID, src volume.Source) ([]store.SurveyRow, error) {
	n, err := s.node(ctx, id, src.Node)
	if err != nil {
		return nil, err
	}
	return s.opts.Remote.Survey(ctx, n, id, src.Print)
}

// ordered is the newest order to adopt a volume.
func (s *Server) ordered(id volume.ID) volume.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.adopting[id]; a != nil {
		return a.entry
	}
	return volume.Entry{}
}

// start runs a copy that was just adopted.
func (s *Server) start(e volume.Entry, h volume.Holder, v *store.Volume) {
	id := v.ID()
	k := s.keep(id)
	defer s.free(id, k)
	s.forget(id, e.Version, h.Copy)
	r := s.open(v)
	s.mu.Lock()
	s.copies[id] = r
	delete(s.lost, id)
	s.mu.Unlock()
	if now := s.ordered(id); now.Version > e.Version {
		e = now
	}
	r.Learn(e)
	s.touch(id)
}

// takenOver notes that the cluster has a volume of its own that was made from
// the foreign one here: what is here may have been deleted or overwritten there.
func (s *Server) takenOver(e volume.Entry) {
	s.routes.put(route{entry: e})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken[e.Volume] = true
}

// isTaken reports whether takenOver was called for a volume.
func (s *Server) isTaken(id volume.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken[id]
}

// oursSoon waits for the copy of a volume whose adoption is in its last step, and
// reports whether it is there.
func (s *Server) oursSoon(ctx context.Context, id volume.ID) bool {
	ctx, cancel := context.WithTimeout(ctx, becomesOurs)
	defer cancel()
	for wait := time.Millisecond; s.copy(id) == nil; {
		if s.ordered(id).Volume == 0 || !s.pause(ctx, id, &wait) {
			return s.copy(id) != nil
		}
	}
	return true
}

// foreignHere finds the foreign copy with this print.
func (s *Server) foreignHere(id volume.ID, print uint64) (*store.Volume, error) {
	v, err := s.opts.Store.Volume(id)
	switch {
	case err != nil:
		return nil, err
	case !foreign(v) || ForeignReport(v).Print() != print:
		return nil, fmt.Errorf("%w: volume %d on this node is not the foreign copy asked for", volume.ErrStale, id)
	}
	return v, nil
}

// SurveyHere lists what is in a foreign copy on this node, for the node that
// adopts the volume. One at a time: it reads the whole file.
func (s *Server) SurveyHere(ctx context.Context, id volume.ID, print uint64) ([]store.SurveyRow, error) {
	select {
	case s.surveying <- struct{}{}:
		defer func() { <-s.surveying }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: other volumes are being read: %w", volume.ErrUnavailable, ctx.Err())
	}
	v, err := s.foreignHere(id, print)
	if err != nil {
		return nil, err
	}
	survey, err := v.Survey(ctx)
	if err != nil {
		return nil, err
	}
	return survey.Rows, nil
}

// RecordHere reads one record of a foreign copy on this node.
func (s *Server) RecordHere(id volume.ID, print uint64, row store.SurveyRow) ([]byte, error) {
	v, err := s.foreignHere(id, print)
	if err != nil {
		return nil, err
	}
	return v.SurveyedRecord(row)
}
