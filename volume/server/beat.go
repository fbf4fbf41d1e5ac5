package server

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"weedd/volume"
	"weedd/volume/store"
)

// How soon a broken heartbeat is tried again.
const (
	beatAgainFirst = 20 * time.Millisecond
	beatAgainLast  = time.Second
)

// Run keeps a heartbeat with the leading master for ever, and obeys. It returns
// nil when ctx has ended, and owns nothing then, but for what waits for a disk that
// hangs.
func (s *Server) Run(ctx context.Context) error {
	var work sync.WaitGroup
	defer func() {
		if err := inTime(func() error { work.Wait(); return nil }); err != nil {
			s.log.Error("work on a disk is left behind", "err", err)
		}
	}()
	work.Go(func() { s.dropLoop(ctx) })
	work.Go(func() { s.adoptLoop(ctx) })
	work.Go(func() { s.emptyLoop(ctx) })
	work.Go(func() { s.scrubLoop(ctx) })
	work.Go(func() { s.mendLoop(ctx) })
	work.Go(func() { s.opts.Store.Watch(ctx, s.disksChanged) })
	for _, d := range s.opts.Store.Disks() { // one for each: a disk that hangs holds up no other
		work.Go(func() { s.flushLoop(ctx, d.Dir) })
	}
	for wait := beatAgainFirst; ctx.Err() == nil; {
		began := time.Now()
		err := s.beat(ctx)
		if ctx.Err() != nil {
			break
		}
		s.log.Debug("heartbeat ended", "err", err)
		if time.Since(began) > beatAgainLast {
			wait = beatAgainFirst
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, beatAgainLast)
	}
	return nil
}

// flushEvery is how often index rows go to their files. What a killed process
// acknowledged since is read again only once the copy has met its primary.
const flushEvery = time.Second

func (s *Server) flushLoop(ctx context.Context, dir string) {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, v := range s.opts.Store.Volumes() {
			if v.Dir() != dir {
				continue
			}
			if err := v.Flush(); err != nil {
				s.log.Warn("index rows are kept in memory for now", "volume", v.ID(), "err", err)
			}
		}
	}
}

// beat is one stream: a full report, then what changed, and orders.
func (s *Server) beat(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	reports := make(chan volume.Report)
	var pump sync.WaitGroup
	pump.Go(func() {
		defer cancel()
		s.pump(ctx, reports)
	})
	defer pump.Wait()
	defer cancel()
	return s.opts.Master.Beat(ctx, reports, s.obey)
}

// pump sends reports until ctx ends, or the heartbeat is to begin anew: at once when a copy has something new, and
// every beat whatever grew meanwhile, which is also the sign of life.
func (s *Server) pump(ctx context.Context, out chan<- volume.Report) {
	tick := time.NewTicker(s.opts.Beat)
	defer tick.Stop()
	sent := map[volume.ID]volume.CopyReport{}
	rep := s.fullReport()
	aside := rep.Aside
	for {
		for _, c := range rep.Copies {
			if was, ok := sent[c.Volume]; ok && was.Copy == c.Copy && was.Epoch < c.Epoch {
				s.metrics.epochs.Inc()
			}
			sent[c.Volume] = c
		}
		select {
		case out <- rep:
		case <-ctx.Done():
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-s.beatAnew:
			return
		case <-s.changed:
			rep = s.changes(sent, false)
		case <-tick.C:
			if rep = s.changes(sent, true); !slices.Equal(s.aside(), aside) {
				rep = s.fullReport() // a later report cannot say that nothing is set aside any more
				aside = rep.Aside
			}
		}
	}
}

func (s *Server) fullReport() volume.Report {
	s.mu.Lock()
	clear(s.dirty)
	s.gone = nil
	s.mu.Unlock()
	return volume.Report{Node: s.opts.Node, Run: s.opts.Run, Build: s.opts.Version, Full: true,
		Copies: s.reports(), Disks: s.opts.Store.Disks(), Aside: s.aside(), Now: s.opts.Now()}
}

// changes reports the copies that said that they changed, or those that differ
// from what was sent. The disks come along with all of them, and whenever a copy
// was made or went: the leader counts a copy that is reported as part of Used,
// and would give its slot away once more.
func (s *Server) changes(sent map[volume.ID]volume.CopyReport, all bool) volume.Report {
	rep := volume.Report{Node: s.opts.Node, Run: s.opts.Run, Now: s.opts.Now()}
	s.mu.Lock()
	dirty := s.dirty
	s.dirty = map[volume.ID]bool{}
	rep.Gone, s.gone = s.gone, nil
	all, s.disks = all || s.disks, false
	rep.Gone = slices.DeleteFunc(rep.Gone, func(id volume.ID) bool { return s.copies[id] != nil }) // made anew since
	s.mu.Unlock()
	for _, id := range rep.Gone {
		delete(sent, id)
	}
	if all {
		rep.Disks = s.opts.Store.Disks()
		rep.Copies = s.reports()
	} else {
		for id := range dirty {
			if c, ok := s.reportOf(id); ok {
				rep.Copies = append(rep.Copies, c)
			}
		}
	}
	rep.Copies = slices.DeleteFunc(rep.Copies, func(c volume.CopyReport) bool { return sent[c.Volume] == c })
	moved := func(c volume.CopyReport) bool {
		return sent[c.Volume].Copy != c.Copy || sent[c.Volume].State != c.State
	}
	if !all && (len(rep.Gone) > 0 || slices.ContainsFunc(rep.Copies, moved)) {
		rep.Disks = s.opts.Store.Disks()
	}
	return rep
}

// reports lists all copies that entries may name, lost ones too, and foreign
// volumes, by volume.
func (s *Server) reports() []volume.CopyReport {
	var ids []volume.ID
	for _, v := range s.foreignVolumes() {
		ids = append(ids, v.ID())
	}
	s.mu.Lock()
	for id := range s.copies {
		ids = append(ids, id)
	}
	for id := range s.lost {
		ids = append(ids, id)
	}
	s.mu.Unlock()
	slices.Sort(ids)
	var out []volume.CopyReport
	for _, id := range slices.Compact(ids) {
		if c, ok := s.reportOf(id); ok {
			out = append(out, c)
		}
	}
	return out
}

// reportOf reports on one volume. A lost copy comes before another one that is
// still there: the leader must hear of it.
func (s *Server) reportOf(id volume.ID) (volume.CopyReport, bool) {
	s.mu.Lock()
	lost, isLost := s.lost[id]
	r := s.copies[id]
	s.mu.Unlock()
	switch {
	case isLost:
		return lost, true
	case r != nil:
		return s.reached(r.Report()), true
	}
	if v, err := s.opts.Store.Volume(id); err == nil && foreign(v) {
		rep := ForeignReport(v)
		rep.Damaged = s.damaged(rep)
		return rep, true
	}
	return volume.CopyReport{}, false
}

// foreignReason says why a volume is only read.
const foreignReason = "not made by weedd, or changed by another program since: served for reads only"

// readOnlyReason is foreignReason with what is special about v.
func readOnlyReason(v *store.Volume) string {
	if v.Coded() && !v.Marked() {
		return foreignReason + " and deletions; " + v.Fixed()
	}
	if fixed := v.Fixed(); fixed != "" {
		return foreignReason + "; " + fixed
	}
	if v.Marked() {
		return foreignReason + "; SeaweedFS was told that it takes no writes"
	}
	return foreignReason
}

// foreignVolumes lists the volumes that have no files of ours.
func (s *Server) foreignVolumes() []*store.Volume {
	return slices.DeleteFunc(slices.Clone(s.opts.Store.Volumes()), func(v *store.Volume) bool { return !foreign(v) })
}

func foreign(v *store.Volume) bool { return v.Foreign() || v.CopyID() == 0 }

// ForeignReport describes a volume that is only read. It has no copy id.
func ForeignReport(v *store.Volume) volume.CopyReport {
	files, deleted, deletedBytes, maxKey, size, modified, revision := v.Stats()
	return volume.CopyReport{
		Volume: v.ID(), Spec: v.Spec(), State: volume.CopyHealthy, Reason: readOnlyReason(v), Committed: size, Size: size, Files: files,
		Deleted: deleted, DeletedB: deletedBytes, MaxKey: maxKey, Modified: modified, Revision: revision, Version: int(v.Version()),
		ReadOnly: true, Adoptable: v.Adoptable() == nil, Dir: v.Dir(),
	}
}

// aside lists what is not served, sorted.
func (s *Server) aside() []volume.SetAside {
	list := slices.Clone(s.opts.Store.Aside())
	slices.SortFunc(list, func(a, b volume.SetAside) int { return cmp.Compare(a.Path, b.Path) })
	return list
}

// Status is what this node has, for its own status page.
func (s *Server) Status() Status {
	return Status{Disks: s.opts.Store.Disks(), Copies: s.reports()}
}
