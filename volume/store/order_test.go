package store

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weedd/volume"
	"weedd/volume/vfs"
	"weedd/volume/vfs/faultfs"
)

// twoDisks opens a store with the directories /a and /b, on a clock of its own, which
// is watched until unwatch is called. hang lets everything below /a hang until its
// result is called.
func twoDisks(t *testing.T) (fs *faultfs.FS, s *Store, unwatch func(), hang func() (release func())) {
	t.Helper()
	fs = faultfs.New(1)
	o := options(fs, "/a", "/b")
	o.Now = time.Now
	s, err := Open(o)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() { s.Watch(ctx, func([]*Volume) {}) })
	unwatch = func() { cancel(); watching.Wait() }
	return fs, s, unwatch, func() func() {
		stuck := make(chan struct{})
		fs.SetHang(func(op faultfs.Op) <-chan struct{} {
			if strings.HasPrefix(op.Path, "/a") {
				return stuck
			}
			return nil
		})
		return func() { fs.SetHang(nil); close(stuck) }
	}
}

// took calls f, which must not take longer than limit, and must end with want.
func took(t *testing.T, what string, limit time.Duration, want error, f func() error) {
	t.Helper()
	began := time.Now()
	if err := f(); !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
	if d := time.Since(began); d > limit {
		t.Errorf("%s took %v", what, d)
	}
}

// Making a copy on a disk that hangs holds up no other order, ends in time, and
// makes nothing when the disk answers at last.
func TestACopyIsNotMadeOnADiskThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fs, s, unwatch, hang := twoDisks(t)
		defer unwatch()
		create := func(id volume.ID) func() error {
			return func() error { _, err := s.Create(id, volume.Spec{}, volume.CopyID(id)); return err }
		}
		synctest.Wait()
		release := hang()
		var work sync.WaitGroup
		work.Go(func() { took(t, "create on the disk that hangs", orderLimit, volume.ErrUnavailable, create(1)) })
		synctest.Wait() // it is at work
		took(t, "create while another one hangs", 0, nil, create(2))
		work.Wait()
		if d := s.Disks()[0]; !strings.Contains(d.Fenced, "not answered") {
			t.Errorf("the disk that hangs is fenced: %q", d.Fenced)
		}
		took(t, "create it again", orderLimit, volume.ErrUnavailable, create(1))
		took(t, "create elsewhere", 0, nil, create(3))
		release()
		synctest.Wait()
		if names, err := fs.ReadDir("/a"); err != nil || strings.Contains(strings.Join(names, " "), "1.") {
			t.Errorf("left behind: %v, %v", names, err)
		}
		if v, err := s.Volume(1); err == nil {
			t.Errorf("it was made: %s", v.base)
		}
		took(t, "create it when the disk is well", 0, nil, create(1))
		must(t, s.Close())
	})
}

// So it is with removing a copy, and with moving it away: it is done later.
func TestACopyOnADiskThatHangsIsRemovedLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, s, unwatch, hang := twoDisks(t)
		defer unwatch()
		for id := volume.ID(1); id <= 4; id++ { // 1 and 3 on the first
			_, err := s.Create(id, volume.Spec{}, volume.CopyID(id))
			must(t, err)
		}
		release := hang()
		var work sync.WaitGroup
		work.Go(func() {
			took(t, "remove", orderLimit, volume.ErrUnavailable, func() error { return s.Remove(1, 1) })
		})
		work.Go(func() {
			took(t, "set aside", orderLimit, volume.ErrUnavailable, func() error { return s.SetAsideCopy(3, 3, "test") })
		})
		synctest.Wait()
		took(t, "remove another", 0, nil, func() error { return s.Remove(2, 2) })
		took(t, "set another aside", 0, nil, func() error { return s.SetAsideCopy(4, 4, "test") })
		work.Wait()
		release()
		synctest.Wait()
		if vs := s.Volumes(); len(vs) > 0 {
			t.Errorf("still there: %d", len(vs))
		}
		must(t, s.Close())
	})
}

// A store closes what it can: the volumes on a disk that hangs are left, and found
// again with all that was acknowledged.
func TestADiskThatHangsDoesNotHoldUpClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fs, s, unwatch, hang := twoDisks(t)
		for id := volume.ID(1); id <= 2; id++ {
			v, err := s.Create(id, volume.Spec{}, volume.CopyID(id))
			must(t, err)
			must(t, write(v, record(t, v, 5, []byte("kept"))))
		}
		unwatch()
		release := hang()
		defer release()
		took(t, "close", closeLimit+watchLimit, volume.ErrUnavailable, s.Close)
		up := fs.Crash(0)
		b, err := vfs.ReadFile(up, "/b/2.wckpt")
		must(t, err)
		if c, err := decodeCheckpoint(b); err != nil || c.rows != 1 {
			t.Errorf("the volume on the other disk was not closed: %+v, %v", c, err)
		}
		s, err = Open(options(up, "/a", "/b"))
		must(t, err)
		for id := volume.ID(1); id <= 2; id++ {
			v, err := s.Volume(id)
			must(t, err)
			v.Publish(v.End())
			must(t, has(v, 5, []byte("kept")))
		}
		must(t, s.Close())
	})
}
