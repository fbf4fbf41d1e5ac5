package store

import (
	"context"
	"errors"
	"time"

	"weedd/volume"
)

// directories lists the directories in the order of Options.Dirs.
func (s *Store) directories() []*dir {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*dir(nil), s.dirs...)
}

// await waits for the i-th directory to be in use: its disk may be mounted after
// the process has started. It returns nil when ctx has ended, or at once if half
// of what was found there is in use already: that takes a restart.
func (s *Store) await(ctx context.Context, i int, changed func(found []*Volume)) *dir {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		d := s.directories()[i]
		if d.problem == "" {
			return d
		}
		if d.lock != nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		type outcome struct {
			found []*Volume
			news  bool
		}
		done := make(chan outcome, 1)
		go func() {
			found, news := s.tryAgain(i, d)
			done <- outcome{found, news}
		}()
		select {
		case o := <-done:
			if o.news {
				changed(o.found)
			}
		case <-ctx.Done():
			select {
			case <-done:
			case <-time.After(watchLimit):
			}
			return nil
		}
	}
}

// tryAgain takes the i-th directory into use if it has its marker by now, and
// returns the volumes that are served from it. It never makes the directory or the
// marker: only a start does, for one that was never used. news is whether Disks
// tells something else than before.
func (s *Store) tryAgain(i int, was *dir) (served []*Volume, news bool) {
	spec := was.Dir
	spec.Init = false
	d, err := openDir(s.opts.FS, spec)
	var f found
	if err == nil {
		f = s.load(d)
		err = f.err
	}
	var ours []*Volume
	for _, o := range f.volumes {
		if o.err == nil {
			ours = append(ours, o.v)
		}
	}
	if err == nil && s.opts.Opened != nil {
		err = s.opts.Opened(d.Path)
	}
	if err == nil && s.opts.Ledger != nil {
		err = s.opts.Ledger.Found(ours)
	}
	if err == nil && !s.replaceDir(i, d) {
		err = volume.ErrClosed
	}
	if err == nil {
		if err = s.take(d, f); err != nil {
			s.opts.Log.Warn("what was set aside in a directory cannot be listed", "dir", d.Path, "err", err)
		}
		s.opts.Log.Info("data directory is there now, and in use", "dir", d.Path, "volumes", len(ours))
		for _, v := range ours {
			if now, err := s.Volume(v.id); err == nil && now == v {
				served = append(served, v)
			}
		}
		return served, true
	}
	for _, v := range ours {
		err = errors.Join(err, v.closeFiles())
	}
	if d.lock != nil {
		err = errors.Join(err, d.lock.Close())
		d.lock = nil
	}
	if d.problem = err.Error(); d.problem == was.problem || errors.Is(err, volume.ErrClosed) {
		return nil, false
	}
	s.opts.Log.Error("data directory is not used", "dir", d.Path, "err", err)
	return nil, s.replaceDir(i, d)
}

// replaceDir makes d the i-th directory, unless s is closed.
func (s *Store) replaceDir(i int, d *dir) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.dirs[i] = d
	}
	return !s.closed
}
