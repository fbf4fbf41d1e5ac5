package store

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weedd/volume"
	"weedd/volume/vfs"
	"weedd/volume/vfs/faultfs"
)

// Between two looks at a disk what is appended counts: the disk is full when it is,
// not when the next look finds out; that look comes at once; and room that somebody
// makes is found without a command.
func TestWhatIsAppendedBetweenTwoLooksTakesRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const keep, chunk = 1 << 20, 64 << 10
		fs := faultfs.New(1)
		o := options(fs, "/d")
		o.Now, o.MinFree = time.Now, keep
		s, err := Open(o)
		must(t, err)
		v, err := s.Create(7, volume.Spec{}, 70)
		must(t, err)
		fs.SetSpace(vfs.Space{All: 1 << 40, Free: keep + 2*chunk})
		ctx, cancel := context.WithCancel(t.Context())
		var watching sync.WaitGroup
		var told atomic.Int64
		watching.Go(func() { s.Watch(ctx, func([]*Volume) { told.Add(1) }) })
		defer watching.Wait()
		defer cancel()
		time.Sleep(watchEvery)
		synctest.Wait()

		fs.SetSpace(vfs.Space{All: 1 << 40, Free: keep - chunk}) // as it is after three appends
		began, key := time.Now(), volume.Key(0)
		add := func() {
			key++
			must(t, write(v, record(t, v, key, make([]byte, chunk))))
		}
		add()
		if v.Reach().Full || s.Disks()[0].Full {
			t.Error("full with an eighth more than is to be kept")
		}
		add()
		if d := s.Disks()[0]; !v.Reach().Full || !d.Full || d.FreeB >= keep {
			t.Errorf("not full when less than is to be kept is free: %+v", d)
		}
		synctest.Wait()
		if told.Load() == 0 || !v.dir.now.Load().full || time.Since(began) > 0 {
			t.Errorf("nobody was told; %v passed", time.Since(began))
		}

		stuck := make(chan struct{})
		fs.SetHang(func(op faultfs.Op) <-chan struct{} { // no look ends from now on
			if op.Kind == faultfs.Space {
				return stuck
			}
			return nil
		})
		for free := int64(keep - chunk); free >= keep/4+2*chunk; free -= chunk {
			if err := v.Room(chunk); err != nil {
				t.Errorf("%d bytes are free: %v", free, err)
			}
			add()
		}
		add()
		if err := v.Room(chunk); !errors.Is(err, volume.ErrNoSpace) {
			t.Errorf("what is kept for deletions is given away: %v", err)
		}
		fs.SetHang(nil)
		close(stuck)
		fs.SetSpace(vfs.Space{All: 1 << 40, Free: 1 << 40})
		time.Sleep(2 * watchEvery)
		synctest.Wait()
		if err := v.Room(chunk); err != nil || v.Reach().Full {
			t.Errorf("there is room again: %v, full: %v", err, v.Reach().Full)
		}
		must(t, s.Close())
	})
}
