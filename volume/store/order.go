package store

import (
	"errors"
	"fmt"
	"time"

	"weedd/volume"
)

// orderLimit is how long an order is waited for. A disk that hangs is fenced by
// then, so that the next one goes elsewhere.
const orderLimit = 5 * time.Second

// order is the making, adopting, moving or removing of the files of one volume.
// There is one at a time for each volume: a disk that never answers holds up no
// orders for others.
type order struct {
	done chan struct{} // closed when it has ended
	// Guarded by Store.mu.
	at    *dir // where it makes files; nil if it makes none
	made  bool // what it makes is part of the store
	given bool // up: nobody waits for it, and what it makes must not become part of the store
}

// errLate says that an order was given up before its disk answered.
var errLate = fmt.Errorf("%w: the disk did not answer within %v", volume.ErrUnavailable, orderLimit)

// begin waits until no other order for a volume is under way, for orderLimit at
// most; end must follow.
func (s *Store) begin(id volume.ID) (*order, error) {
	limit := time.NewTimer(orderLimit)
	defer limit.Stop()
	o := &order{done: make(chan struct{})}
	for {
		s.mu.Lock()
		other := s.orders[id]
		if other == nil {
			s.orders[id] = o
			s.mu.Unlock()
			return o, nil
		}
		s.mu.Unlock()
		select {
		case <-other.done:
		case <-limit.C:
			return nil, fmt.Errorf("%w: an earlier order for the volume waits for its disk", volume.ErrUnavailable)
		}
	}
}

func (s *Store) end(id volume.ID, o *order) {
	s.mu.Lock()
	delete(s.orders, id)
	s.mu.Unlock()
	close(o.done)
}

// order carries out f, as the only order for a volume, and waits for it for
// orderLimit at most. After that the answer is volume.ErrUnavailable, and f goes on
// until the disk answers: it must not make anything part of the store then.
func (s *Store) order(id volume.ID, f func(*order) error) error {
	o, err := s.begin(id)
	if err != nil {
		return err
	}
	go func() {
		err = f(o)
		s.end(id, o)
	}()
	limit := time.NewTimer(orderLimit)
	defer limit.Stop()
	select {
	case <-o.done:
		return err
	case <-limit.C:
	}
	s.mu.Lock()
	o.given = !o.made
	s.mu.Unlock()
	if o.given {
		return errLate
	}
	<-o.done
	return err
}

// closeLimit is how long Close waits for a volume, or an order, before it looks
// whether the disk answers at all.
const closeLimit = 2 * time.Second

// closeDir closes the volumes of a directory and gives it free, or gives up if its
// disk hangs: then they are left as a crash would leave them.
func (s *Store) closeDir(d *dir, volumes []*Volume) error {
	if d.late != nil {
		go func() {
			if d, f, mine := d.late.take(); mine {
				_ = d.close(f) // the disk hung: what it says now nobody waits for
			}
		}()
		return fmt.Errorf("%w: the disk of %s hangs", volume.ErrUnavailable, d.Path)
	}
	steps := make(chan error, len(volumes)+1)
	go func() {
		defer close(steps)
		for _, v := range volumes {
			steps <- v.Close()
		}
		if d.lock != nil {
			steps <- d.lock.Close()
		}
	}()
	var errs []error
	for limit := time.NewTimer(closeLimit); ; limit.Reset(closeLimit) {
		select {
		case err, more := <-steps:
			if !more {
				return errors.Join(errs...)
			}
			errs = append(errs, err)
		case <-limit.C:
			if !s.answers(d) {
				errs = append(errs, fmt.Errorf("%w: the disk of %s hangs: its volumes are left as they are; nothing acknowledged is lost", volume.ErrUnavailable, d.Path))
				return errors.Join(errs...)
			}
		}
	}
}

// answers reports whether the disk of d takes part in anything.
func (s *Store) answers(d *dir) bool {
	done := make(chan struct{})
	go func() {
		s.look(d) // what it finds does not matter
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-time.After(watchLimit):
		return false
	}
}
