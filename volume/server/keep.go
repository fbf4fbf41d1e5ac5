package server

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"weedd/volume"
)

const (
	// closeLimit is how long is waited for what works on a disk that may hang.
	closeLimit = 4 * time.Second
	// makers is how many copies are made at once, so that a disk that hangs holds
	// up few of the others until it is fenced.
	makers = 8
)

// keeping is a volume whose entry is being obeyed, or whose files are being made,
// moved or removed. That may take until a disk answers, so it is each volume's own
// affair.
type keeping struct {
	done chan struct{}
	next *volume.Entry // the newest that came meanwhile, to be obeyed at the end; guarded by Server.mu
}

// keep waits until nothing else is going on with a volume. free must follow.
func (s *Server) keep(id volume.ID) *keeping {
	for {
		s.mu.Lock()
		k := s.kept[id]
		if k == nil {
			k = s.keepLocked(id)
			s.mu.Unlock()
			return k
		}
		s.mu.Unlock()
		<-k.done
	}
}

func (s *Server) keepLocked(id volume.ID) *keeping {
	k := &keeping{done: make(chan struct{})}
	s.kept[id] = k
	return k
}

// free ends keep, and obeys what has come meanwhile.
func (s *Server) free(id volume.ID, k *keeping) {
	s.mu.Lock()
	delete(s.kept, id)
	next := k.next
	s.mu.Unlock()
	close(k.done)
	if next != nil {
		s.obeyEntry(*next)
	}
}

// obeyEntry obeys an entry: at once if that touches no disk, else in a goroutine of
// its own, so that no order for another volume waits. What comes meanwhile for this
// one is obeyed then.
func (s *Server) obeyEntry(e volume.Entry) {
	s.mu.Lock()
	if k := s.kept[e.Volume]; k != nil {
		if k.next == nil || k.next.Version < e.Version {
			k.next = &e
		}
		s.mu.Unlock()
		return
	}
	k := s.keepLocked(e.Volume)
	s.mu.Unlock()
	if !s.obeyKept(e) {
		s.free(e.Volume, k)
		return
	}
	started := s.background(func() {
		defer s.free(e.Volume, k)
		s.making <- struct{}{}
		defer func() { <-s.making }()
		s.makeCopy(e)
	})
	if !started {
		s.free(e.Volume, k)
	}
}

// background runs f in a goroutine that Close waits for; false after Close.
func (s *Server) background(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.work.Go(f)
	}
	return !s.closed
}

// inTime calls f, which may wait for a disk, and gives up after closeLimit: then f
// goes on, and the answer is volume.ErrUnavailable.
func inTime(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	limit := time.NewTimer(closeLimit)
	defer limit.Stop()
	select {
	case err := <-done:
		return err
	case <-limit.C:
		return fmt.Errorf("%w: a disk has not answered for %v", volume.ErrUnavailable, closeLimit)
	}
}

// closeAll closes copies side by side. A disk that hangs is not waited for.
func closeAll(closers []func() error) error {
	errs := make([]error, len(closers))
	var all sync.WaitGroup
	for i, f := range closers {
		all.Go(func() { errs[i] = inTime(f) })
	}
	all.Wait()
	return errors.Join(errs...)
}
