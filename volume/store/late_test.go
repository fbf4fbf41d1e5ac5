package store

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weedd/volume"
	"weedd/volume/vfs"
	"weedd/volume/vfs/faultfs"
)

// A disk that hangs while a store is opened, from the first touch or from the middle,
// keeps no other from being used, nor the store from being closed; and when it answers
// its volumes are there.
func TestADiskThatHangsAtTheStartIsUsedWhenItAnswers(t *testing.T) {
	t.Parallel()
	for what, hangs := range map[string]func(op faultfs.Op) bool{
		"nothing answers":           func(op faultfs.Op) bool { return true },
		"it is locked, and no more": func(op faultfs.Op) bool { return op.Kind != faultfs.Stat && op.Kind != faultfs.Lock },
		"files cannot be opened any more": func(op faultfs.Op) bool {
			return op.Kind == faultfs.Open && !strings.HasSuffix(op.Path, markerName) && !strings.HasSuffix(op.Path, uuidName)
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				fs, s, unwatch, _ := twoDisks(t)
				for id := volume.ID(1); id <= 2; id++ {
					v, err := s.Create(id, volume.Spec{}, volume.CopyID(id))
					must(t, err)
					must(t, write(v, record(t, v, 5, []byte("kept"))))
				}
				unwatch()
				must(t, s.Close())
				stuck := make(chan struct{})
				fs.SetHang(func(op faultfs.Op) <-chan struct{} {
					if strings.HasPrefix(op.Path, "/a/") && hangs(op) {
						return stuck
					}
					return nil
				})
				o := options(fs, "/a", "/b")
				o.Now = time.Now
				opened := func() (s *Store) {
					took(t, "open", 3*watchLimit, nil, func() (err error) {
						s, err = Open(o)
						return err
					})
					v, err := s.Volume(2)
					must(t, err)
					must(t, has(v, 5, []byte("kept")))
					if d := s.Disks(); !strings.Contains(d[0].Fenced, "did not answer") || d[1].Fenced != "" || len(s.Volumes()) != 1 {
						t.Errorf("%+v, %d volumes", d, len(s.Volumes()))
					}
					return s
				}
				s = opened()
				ctx, cancel := context.WithCancel(t.Context())
				var watching sync.WaitGroup
				var found []*Volume
				watching.Go(func() { s.Watch(ctx, func(more []*Volume) { found = append(found, more...) }) })
				time.Sleep(time.Hour)
				if len(found) > 0 {
					t.Error("volumes of a disk that does not answer")
				}
				fs.SetHang(nil)
				close(stuck)
				time.Sleep(2 * watchEvery)
				synctest.Wait()
				if len(found) != 1 || found[0].id != 1 || s.Disks()[0].Fenced != "" {
					t.Fatalf("found when the disk answers: %v; disk: %+v", found, s.Disks()[0])
				}
				must(t, has(found[0], 5, []byte("kept")))
				cancel()
				watching.Wait()
				must(t, s.Close())

				stuck = make(chan struct{})
				fs.SetHang(func(op faultfs.Op) <-chan struct{} {
					if strings.HasPrefix(op.Path, "/a/") && hangs(op) {
						return stuck
					}
					return nil
				})
				s = opened()
				took(t, "close", closeLimit, volume.ErrUnavailable, s.Close)
				fs.SetHang(nil)
				close(stuck)
				synctest.Wait()
				s, err := Open(o) // and then the lock is free
				must(t, err)
				if len(s.Volumes()) != 2 {
					t.Errorf("%d volumes, disks %+v", len(s.Volumes()), s.Disks())
				}
				must(t, s.Close())
			})
		})
	}
}

// Shards are not waited for that may lie on a disk that hangs.
func TestShardsAreServedWithoutADiskThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, files := newCoded(t)
		fs := faultfs.New(1)
		for _, d := range []string{"/d", "/e"} {
			must(t, fs.Mkdir(d))
		}
		for ext, b := range files {
			d := "/d/7"
			if ext == ".ec00" {
				d = "/e/7"
			}
			must(t, vfs.Write(fs, d+ext, b))
		}
		stuck := make(chan struct{})
		fs.SetHang(func(op faultfs.Op) <-chan struct{} {
			if strings.HasPrefix(op.Path, "/e/") {
				return stuck
			}
			return nil
		})
		s, err := Open(options(fs, "/e", "/d"))
		must(t, err)
		expect(t, alienVolume(t, s), 3, []byte("three"))
		fs.SetHang(nil)
		close(stuck)
		synctest.Wait()
		_ = s.Close() // says that a disk hung
	})
}
