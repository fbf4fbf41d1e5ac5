package store

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"weedd/volume"
)

// directories lists the directories in the order of Options.Dirs.
func (s *Store) directories() []*dir {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*dir(nil), s.dirs...)
}

// starting is a directory that is being opened and read. Its disk may hang: then
// that goes on until it answers, and nobody waits.
type starting struct {
	opened chan struct{} // closed when the directory is open, or is not to be had
	done   chan struct{} // closed when it was read, too
	d      *dir          // set before opened
	f      found         // set before done
	taken  atomic.Bool
}

// start begins to open a directory and its volumes.
func (s *Store) start(spec Dir) *starting {
	at := &starting{opened: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(at.done)
		var err error
		at.d, err = openDir(s.opts.FS, spec)
		close(at.opened)
		if at.f.err = err; err == nil {
			at.f = s.load(at.d)
		}
	}()
	return at
}

// started waits until at is done, and reports false if its disk hangs before. To
// read many volumes may take long on a disk that does not.
func (s *Store) started(at *starting) bool {
	select {
	case <-at.opened:
	case <-time.After(watchLimit):
		return false
	}
	for {
		select {
		case <-at.done:
			return true
		case <-time.After(watchLimit):
			if !s.answers(at.d) {
				return false
			}
		}
	}
}

// take waits for what at is about, and reports false if it was taken before.
func (at *starting) take() (*dir, found, bool) {
	<-at.done
	return at.d, at.f, at.taken.CompareAndSwap(false, true)
}

// opened lists the volumes that could be opened.
func (f found) opened() (list []*Volume) {
	for _, o := range f.volumes {
		if o.err == nil {
			list = append(list, o.v)
		}
	}
	return list
}

// close gives d free, with what was found in it; nothing of it is in use.
func (d *dir) close(f found) (err error) {
	for _, v := range f.opened() {
		err = errors.Join(err, v.closeFiles())
	}
	if d.lock != nil {
		err = errors.Join(err, d.lock.Close())
		d.lock = nil
	}
	return err
}

// await waits for the i-th directory to be in use: its disk may be mounted after
// the process has started, or have hung then. It returns nil when ctx has ended.
func (s *Store) await(ctx context.Context, i int, changed func(found []*Volume)) *dir {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		d := s.directories()[i]
		if d.problem == "" {
			return d
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

// tryAgain takes the i-th directory into use if it has its marker by now, or when
// its disk answers, and returns the volumes that are served from it. It never makes
// the directory or the marker: only a start does, for one that was never used. news is
// whether Disks tells something else than before.
func (s *Store) tryAgain(i int, was *dir) (served []*Volume, news bool) {
	at := was.late
	if at == nil {
		spec := was.Dir
		spec.Init = false
		at = s.start(spec)
	}
	d, f, mine := at.take()
	if !mine { // Close has it
		return nil, false
	}
	ours, err := f.opened(), f.err
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
		s.take(d, f)
		s.opts.Log.Info("data directory is there now, and in use", "dir", d.Path, "volumes", len(ours))
		for _, v := range ours {
			if now, err := s.Volume(v.id); err == nil && now == v {
				served = append(served, v)
			}
		}
		return served, true
	}
	err = errors.Join(err, d.close(f))
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
