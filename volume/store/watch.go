package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"weedd/volume"
	"weedd/volume/vfs"
)

// How directories are watched: what is wrong shows within writeEvery * watchEvery +
// watchLimit, which is less than 5 s.
const (
	watchEvery = time.Second
	watchLimit = 2500 * time.Millisecond // a look that takes longer says that the disk hangs
	writeEvery = 2                       // every so many looks write and sync a small file

	probeName = ".weedd-probe" // that file; nobody reads it
)

// condition is what the last look at a directory has found. It is never changed
// in place.
type condition struct {
	space vfs.Space
	taken uint64 // watched.taken just before space was asked for
	fence error  // nothing may be written there, for this reason; nil when all is well
	gone  bool   // with fence: what is at its path is not the directory
	hangs bool   // with fence: it does not answer
	since time.Time
	full  bool // less than Options.MinFree was free, or still is not an eighth more
}

// same reports whether there is nothing to tell.
func (c *condition) same(other *condition) bool {
	return (c.fence == nil) == (other.fence == nil) && (c.fence == nil || c.fence.Error() == other.fence.Error()) &&
		c.full == other.full
}

// watched is the part of a dir that Watch keeps.
type watched struct {
	now atomic.Pointer[condition] // nil unless it is watched

	// taken counts what was ever appended there: between two looks it is all that is
	// known of the room. Before a write it counts already, and what is removed shows
	// at the next look only, so the room is never thought larger than it is.
	taken  atomic.Uint64
	sooner chan struct{} // a level: room has run short, look at once

	probe sync.Mutex // held during a look; one at a time
	looks int        // guarded by probe
}

// Watch looks at every directory until ctx ends: whether it is still there,
// answers in time, takes a write, and how much room it has. It calls changed, one
// call at a time for each directory, after what Disks and Usable tell has changed,
// and a while later once more if a directory is fenced. A directory that is found
// well again is used again. One that was not there at Open is taken into use when it
// is there with its marker: changed is given the volumes that it brought.
//
// A look that hangs is not waited for long when ctx ends: it ends when the disk
// answers.
func (s *Store) Watch(ctx context.Context, changed func(found []*Volume)) {
	var all sync.WaitGroup
	defer all.Wait()
	for i := range s.directories() {
		all.Go(func() {
			if d := s.await(ctx, i, changed); d != nil {
				s.watch(ctx, d, func() { changed(nil) })
			}
		})
	}
}

func (s *Store) watch(ctx context.Context, d *dir, changed func()) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var pending chan *condition // a look under way
	short := false              // reports may have said that the disk is full
	for {
		if pending == nil {
			pending = make(chan *condition, 1)
			go func(out chan<- *condition) { out <- s.look(d) }(pending)
		}
		limit := time.NewTimer(watchLimit)
		var c *condition
		select {
		case c = <-pending:
			pending = nil
		case <-limit.C:
			c = &condition{hangs: true, fence: fmt.Errorf("the disk has not answered for %v", watchLimit)}
		case <-ctx.Done():
			select {
			case <-pending:
			case <-limit.C:
			}
			limit.Stop()
			return
		}
		limit.Stop()
		if s.tell(d, c) || short {
			changed()
		}
		short = false
		if c.hangs {
			continue
		}
		select {
		case <-tick.C:
		case <-d.sooner:
			short = true
		case <-ctx.Done():
			return
		}
	}
}

// look makes one look at a directory.
func (s *Store) look(d *dir) *condition {
	d.probe.Lock()
	defer d.probe.Unlock()
	c := &condition{}
	if c.fence = d.present(s.opts.FS); c.fence != nil {
		c.gone = true
		return c
	}
	c.taken = d.taken.Load()
	if c.space, c.fence = s.opts.FS.Space(d.Path); c.fence != nil {
		return c
	}
	d.looks++
	if d.looks%writeEvery == 1 {
		if err := vfs.Write(s.opts.FS, filepath.Join(d.Path, probeName), []byte("weedd\n")); err != nil && !noRoom(err) {
			c.fence = fmt.Errorf("a write of a few bytes failed: %w", err)
		}
	} else if was := d.now.Load(); was != nil && was.fence != nil && !was.gone && !was.hangs {
		c.fence = was.fence // until a write goes through
	}
	return c
}

// tell makes c what is known of d, and reports whether that is news.
func (s *Store) tell(d *dir, c *condition) bool {
	was := d.now.Load()
	if was == nil {
		was = &condition{}
	}
	c.since = s.opts.Now()
	if c.fence != nil {
		if was.fence != nil {
			c.since = was.since
		}
		c.space, c.taken = was.space, was.taken
	}
	keep := s.opts.MinFree
	if was.full {
		keep += keep / 8 // a disk at the border does not go to and fro
	}
	c.full = c.space.Free < keep && c.space.All > 0
	d.now.Store(c)
	if c.same(was) {
		return c.fence != nil && s.opts.Now().Sub(c.since) < 3*lostAfter // those who count the time look again
	}
	switch {
	case c.fence != nil:
		s.opts.Log.Error("data directory is fenced: nothing is written there", "dir", d.Path, "err", c.fence)
	case was.fence != nil:
		s.opts.Log.Info("data directory is in use again", "dir", d.Path)
	case c.full != was.full:
		s.opts.Log.Warn("room on the disk of a data directory", "dir", d.Path, "full", c.full, "free", c.space.Free)
	}
	return true
}

// left is how much room there is: what c found free, without what was appended
// since.
func (d *dir) left(c *condition) uint64 {
	return c.space.Free - min(d.taken.Load()-c.taken, c.space.Free)
}

// full reports whether less than keep is free.
func (d *dir) full(c *condition, keep uint64) bool {
	return c.full || c.space.All > 0 && d.left(c) < keep
}

// take counts n bytes that are about to be written. When that fills the disk the
// next look is due, so that the masters hear of it.
func (d *dir) take(n int64, keep uint64) {
	c := d.now.Load()
	if c == nil {
		return
	}
	was := d.full(c, keep)
	d.taken.Add(uint64(n))
	if !was && d.full(c, keep) {
		select {
		case d.sooner <- struct{}{}:
		default:
		}
	}
}

// present reports, as volume.ErrUnavailable, that what is at the path of d is not
// d: its disk is not mounted any more, or another one is. It is asked before a
// file is made by its name, which might land in the bare directory below.
func (d *dir) present(fs vfs.FS) error {
	id, err := vfs.ReadFile(fs, filepath.Join(d.Path, markerName))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w: %s has no marker file %s any more: is its disk mounted?", volume.ErrUnavailable, d.Path, markerName)
	case err != nil:
		return fmt.Errorf("%w: marker file of %s: %w", volume.ErrUnavailable, d.Path, err)
	case string(id) != d.id:
		return fmt.Errorf("%w: another disk is at %s: its marker file says %.40q and should say %s", volume.ErrUnavailable, d.Path, id, d.id)
	}
	return nil
}

// fenced is why nothing may be written in d, nil if it may, as of the last look.
func (d *dir) fenced() error {
	if c := d.now.Load(); c != nil && c.fence != nil {
		if errors.Is(c.fence, volume.ErrUnavailable) { // it says so itself, and more is not said twice
			return fmt.Errorf("directory %s is fenced: %w", d.Path, c.fence)
		}
		return fmt.Errorf("%w: directory %s is fenced: %w", volume.ErrUnavailable, d.Path, c.fence)
	}
	return nil
}

// writable is nil if files may be made in d by their names.
func (d *dir) writable(fs vfs.FS) error {
	if err := d.fenced(); err != nil {
		return err
	}
	return d.present(fs)
}

// lostAfter is how long a disk that hangs is waited for: its copies are not
// replaced for a hiccup.
const lostAfter = 5 * time.Second

// Reach says what the directory of a volume is good for, as Watch found it.
type Reach struct {
	Fenced error // why it takes no writes, nil if it does: volume.ErrUnavailable
	Unread bool  // with Fenced: reads are better sent elsewhere
	Lost   bool  // with Fenced: the cluster should do without this copy
	Full   bool  // the disk has too little room for new ids
}

// Reach is what the directory of v is good for at the moment. It does no I/O.
func (v *Volume) Reach() Reach {
	c := v.dir.now.Load()
	if c == nil {
		return Reach{}
	}
	r := Reach{Fenced: v.dir.fenced(), Full: v.dir.full(c, v.opts.MinFree)}
	if r.Fenced != nil {
		r.Unread = c.gone || c.hangs
		r.Lost = !c.hangs || v.opts.Now().Sub(c.since) >= lostAfter
	}
	return r
}

// Room is nil if records of n bytes may be appended: after them a quarter of
// Options.MinFree must be free, which is for deletions; else volume.ErrNoSpace.
// Where nobody watches there is always room. It does no I/O.
func (v *Volume) Room(n int64) error {
	c := v.dir.now.Load()
	if c == nil || c.space.All == 0 {
		return nil
	}
	if free := v.dir.left(c); free < uint64(n)+v.opts.MinFree/4 {
		return fmt.Errorf("%w: volume %d: %d bytes are free on the disk of %s", volume.ErrNoSpace, v.id, free, v.dir.Path)
	}
	return nil
}

// report fills in what a report says of the state of d.
func (d *dir) report(s *Store, r *volume.DiskReport) {
	c := d.now.Load()
	if c == nil { // nobody watches
		space, err := s.opts.FS.Space(d.Path)
		c = &condition{space: space, taken: d.taken.Load(), fence: err}
	}
	r.AllB, r.FreeB = c.space.All, d.left(c)
	switch {
	case c.fence != nil:
		r.Fenced, r.Missing = c.fence.Error(), c.gone
	case d.full(c, s.opts.MinFree):
		r.Fenced, r.Full = fmt.Sprintf("fewer than %d bytes are free", s.opts.MinFree), true
	}
}
