package store

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/vfs/faultfs"
)

// withLedger opens a store over a disk with the ledger of a node.
func withLedger(t *testing.T, disk, home *faultfs.FS) (*Store, *Ledger) {
	t.Helper()
	l, err := OpenLedger(home, "/copies")
	must(t, err)
	o := options(disk, "/d")
	o.Ledger = l
	s, err := Open(o)
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s, l
}

// failing lets operations of one kind on paths that end with suffix fail.
func failing(fs *faultfs.FS, err error, kind faultfs.Kind, suffix string) {
	fs.SetFault(func(op faultfs.Op) error {
		if op.Kind == kind && strings.HasSuffix(op.Path, suffix) {
			return err
		}
		return nil
	})
}

// After a failed fsync the page cache has bytes that the disk never got, and
// lets the next fsync succeed. A restarted process must not believe it.
func TestAFailedFsyncIsRememberedOverARestart(t *testing.T) {
	t.Parallel()
	for _, marked := range []string{"beside the copy and in the ledger", "in the ledger alone", "beside the copy alone"} {
		t.Run(marked, func(t *testing.T) {
			t.Parallel()
			disk, home := newDisk(t, 1), faultfs.New(2)
			s, l := withLedger(t, disk, home)
			v, err := s.Create(7, volume.Spec{}, 70)
			must(t, err)
			must(t, l.Make(7, 70, 1))
			must(t, write(v, record(t, v, 1, []byte("kept"))))
			must(t, v.Checkpoint())
			committed := v.Committed()
			must(t, v.Append(record(t, v, 9, []byte("durable, and acknowledged by a primary that has not said so"))))
			good, err := v.Sync()
			must(t, err)
			must(t, v.Append(record(t, v, 2, []byte("a ghost"))))
			disk.SetFault(func(op faultfs.Op) error {
				if op.Kind == faultfs.Sync && (strings.HasSuffix(op.Path, extDat) || marked == "in the ledger alone") {
					return syscall.EIO
				}
				return nil
			})
			if marked == "beside the copy alone" {
				failing(home, syscall.EIO, faultfs.Write, "")
			}
			if _, err := v.Sync(); !errors.Is(err, volume.ErrReadOnly) || !errors.Is(err, syscall.EIO) {
				t.Fatalf("sync: %v", err)
			}
			disk.SetFault(nil)
			home.SetFault(nil)
			must(t, s.Close())
			if marked == "beside the copy alone" {
				home = faultfs.New(3)
			}
			s, _ = withLedger(t, disk, home)
			if v, err = s.Volume(7); err != nil {
				t.Fatalf("%v; aside: %v", err, s.Aside())
			}
			if v.Failed() == nil || v.End() != good || v.Durable() != good || v.Committed() != committed {
				t.Errorf("after a restart: failed %v, end %d, durable %d, committed %d; %d bytes were synced, %d committed", v.Failed(), v.End(), v.Durable(), v.Committed(), good, committed)
			}
			if row, ok := v.Latest(9); !ok || !row.Pending {
				t.Errorf("what was durable: %+v, %v", row, ok)
			}
			if row, ok := v.Latest(2); ok {
				t.Errorf("what was not: %+v", row)
			}
			must(t, has(v, 1, []byte("kept")))
			for what, err := range map[string]error{
				"append": v.Append(record(t, v, 3, nil)), "add epoch": v.AddEpoch(EpochStart{Epoch: 5, Start: good}),
				"set epochs": v.SetEpochs(nil), "cut": v.Cut(SuperBlockSize), "checkpoint": v.Checkpoint(),
			} {
				if !errors.Is(err, volume.ErrReadOnly) {
					t.Errorf("%s: %v", what, err)
				}
			}
			must(t, s.Remove(7, 70))
			if names, err := disk.ReadDir("/d"); err != nil || slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "7.") }) {
				t.Errorf("left after removal: %v %v", names, err)
			}
		})
	}
}

// A process was killed before it had synced what it appended; the next one finds it
// in the page cache, and its fsync fails. That, too, is remembered: the run after it
// finds the same bytes, and an fsync that says all is well.
func TestAFailedFsyncInRecoveryIsRememberedOverARestart(t *testing.T) {
	t.Parallel()
	for _, marked := range []string{"beside the copy and in the ledger", "in the ledger alone", "beside the copy alone"} {
		t.Run(marked, func(t *testing.T) {
			t.Parallel()
			disk, home := newDisk(t, 1), faultfs.New(2)
			s, l := withLedger(t, disk, home)
			v, err := s.Create(7, volume.Spec{}, 70)
			must(t, err)
			must(t, l.Make(7, 70, 1))
			must(t, write(v, record(t, v, 1, []byte("kept"))))
			must(t, v.Append(record(t, v, 9, []byte("durable, and acknowledged by a primary that has not said so"))))
			good, err := v.Sync()
			must(t, err)
			must(t, v.Checkpoint())
			committed := v.Committed()
			must(t, v.Append(record(t, v, 2, []byte("in the page cache"))))

			disk, home = disk.Kill(), home.Kill()
			disk.SetFault(func(op faultfs.Op) error {
				if op.Kind == faultfs.Sync && (strings.HasSuffix(op.Path, extDat) || marked == "in the ledger alone") {
					return syscall.EIO
				}
				return nil
			})
			if marked == "beside the copy alone" {
				failing(home, syscall.EIO, faultfs.Write, "")
			}
			for run := range 3 {
				s, _ = withLedger(t, disk, home)
				if v, err = s.Volume(7); err != nil {
					t.Fatalf("run %d: %v; aside: %v", run, err, s.Aside())
				}
				if v.Failed() == nil || v.End() != good || v.Durable() != good || v.Committed() != committed {
					t.Errorf("run %d: failed %v, end %d, durable %d, committed %d; %d bytes were synced, %d committed", run, v.Failed(), v.End(), v.Durable(), v.Committed(), good, committed)
				}
				if row, ok := v.Latest(9); !ok || !row.Pending {
					t.Errorf("run %d: what was durable: %+v, %v", run, row, ok)
				}
				if row, ok := v.Latest(2); ok {
					t.Errorf("run %d: what was not: %+v", run, row)
				}
				must(t, has(v, 1, []byte("kept")))
				if err := v.Append(record(t, v, 3, nil)); !errors.Is(err, volume.ErrReadOnly) {
					t.Errorf("run %d: append: %v", run, err)
				}
				disk.SetFault(nil)
				home.SetFault(nil)
				must(t, s.Close())
				disk, home = disk.Kill(), home.Kill()
				if marked == "beside the copy alone" {
					home = faultfs.New(3)
				}
			}
		})
	}
}

// What SeaweedFS wrote last may be in the page cache only, and the fsync that is to make
// it ours fails. The next attempt must not take the next fsync's word for it.
func TestAFailedFsyncOfAnAdoptionIsRemembered(t *testing.T) {
	t.Parallel()
	for seed := range uint64(8) {
		disk, home := newDisk(t, seed), faultfs.New(2)
		dat := foreignFiles(t, disk, needle.V3)
		f, err := disk.OpenFile("/d/7.dat", os.O_RDWR)
		must(t, err)
		_, err = f.WriteAt(dat, 0) // again, and not synced
		must(t, errors.Join(err, f.Close()))
		failing(disk, syscall.EIO, faultfs.Sync, "7.dat")
		for attempt := range 3 {
			s, l := withLedger(t, disk, home)
			v, err := s.Volume(7)
			must(t, err)
			survey, err := v.Survey(t.Context())
			must(t, err)
			id := volume.CopyID(70 + attempt)
			ours, err := s.Adopt(t.Context(), 7, Adoption{Copy: id, Spec: v.Spec(), Survey: survey, Begin: func() error { return l.Make(7, id, uint64(1+attempt)) }})
			if (err == nil) != (attempt > 0) {
				t.Fatalf("attempt %d: %v", attempt, err)
			}
			disk.SetFault(nil)
			must(t, s.Close())
			disk, home = disk.Kill(), home.Kill()
			if ours != nil {
				break
			}
		}
		s, _ := withLedger(t, disk.Crash(0), home)
		v, err := s.Volume(7)
		if err != nil {
			t.Fatalf("seed %d: %v; aside: %v", seed, err, s.Aside())
		}
		if v.Foreign() || v.Failed() != nil {
			t.Errorf("seed %d: foreign %v, failed %v", seed, v.Foreign(), v.Failed())
		}
		must(t, checkAdopted(v))
	}
}

// The mark of a program before this one has no durable length.
func TestAnOldMarkOfAFailedCopyVouchesForWhatWasCommitted(t *testing.T) {
	t.Parallel()
	v := &Volume{id: 7, copy: 70}
	b := v.encodeFailMark(trust{4096, 8192}, "why")
	if got, why := v.decodeFailMark(b); got != (trust{4096, 8192}) || why != "why" {
		t.Errorf("%+v, %q", got, why)
	}
	old := slices.Concat(b[:32], b[40:len(b)-4])
	old[9] = 1
	if got, why := v.decodeFailMark(appendSum(old, 0)); got != (trust{4096, 4096}) || why != "why" {
		t.Errorf("of format 1: %+v, %q", got, why)
	}
	newer := slices.Clone(b[:len(b)-4])
	newer[9] = 3
	if got, why := v.decodeFailMark(appendSum(newer, 0)); got != (trust{SuperBlockSize, SuperBlockSize}) || !strings.Contains(why, "format 3") {
		t.Errorf("of format 3: %+v, %q", got, why)
	}
}

// A disk without room is no broken disk: whatever does not fit is refused, and
// goes through as soon as there is room again.
func TestADiskWithoutRoomEndsNoCopy(t *testing.T) {
	t.Parallel()
	start := EpochStart{Epoch: 9, Start: SuperBlockSize}
	for name, op := range map[string]func(v *Volume) error{
		"append":     func(v *Volume) error { return v.Append(record(t, v, 5, []byte("more"))) },
		"add epoch":  func(v *Volume) error { return v.AddEpoch(start) },
		"set epochs": func(v *Volume) error { return v.SetEpochs([]EpochStart{start}) },
		"checkpoint": func(v *Volume) error { return v.Checkpoint() },
		"cut":        func(v *Volume) error { return v.Cut(v.Committed()) },
	} {
		for _, full := range []error{syscall.ENOSPC, syscall.EDQUOT} {
			for i := 0; ; i++ {
				disk := newDisk(t, uint64(i))
				s, err := Open(options(disk, "/d"))
				must(t, err)
				v, err := s.Create(7, volume.Spec{}, 70)
				must(t, err)
				must(t, write(v, record(t, v, 1, []byte("kept"))))
				must(t, v.Append(record(t, v, 2, []byte("pending"))))
				must(t, v.Checkpoint())
				hit := nthThatNeedsRoom(disk, i, full)
				err = op(v)
				disk.SetFault(nil)
				if !*hit {
					must(t, err)
					must(t, s.Close())
					break
				}
				where := fmt.Sprintf("%s, %v at the operation %d that needs room", name, full, i)
				if !errors.Is(err, volume.ErrNoSpace) || v.Failed() != nil {
					t.Fatalf("%s: %v; failed: %v", where, err, v.Failed())
				}
				if err := op(v); err != nil {
					t.Fatalf("%s, and again with room: %v", where, err)
				}
				must(t, write(v, record(t, v, 6, []byte("goes on"))))
				must(t, s.Close())
				if s, err = Open(options(disk.Crash(0), "/d")); err != nil {
					t.Fatal(err)
				}
				if v, err = s.Volume(7); err != nil {
					t.Fatalf("%s: after a crash: %v", where, err)
				}
				must(t, has(v, 1, []byte("kept")))
				must(t, has(v, 6, []byte("goes on")))
				must(t, s.Close())
			}
		}
	}
}

// nthThatNeedsRoom lets the n-th operation fail that a full disk would refuse.
func nthThatNeedsRoom(fs *faultfs.FS, n int, err error) (hit *bool) {
	hit = new(bool)
	fs.SetFault(func(op faultfs.Op) error {
		if op.Kind != faultfs.Write && op.Kind != faultfs.Rename {
			return nil
		}
		n--
		*hit = *hit || n == -1
		if n == -1 {
			return err
		}
		return nil
	})
	return hit
}
