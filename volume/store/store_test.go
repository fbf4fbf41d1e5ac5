package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"weedd/volume"
	"weedd/volume/vfs"
	"weedd/volume/vfs/faultfs"
)

// openStore opens a store of one directory, which the test closes.
func openStore(t testing.TB, fs vfs.FS, change ...func(*Options)) *Store {
	t.Helper()
	o := options(fs, "/d")
	for _, f := range change {
		f(&o)
	}
	s, err := Open(o)
	must(t, err)
	t.Cleanup(func() { s.Close() }) // an error may be what the test wants
	return s
}

// newVolume makes volume 7 on a disk in memory.
func newVolume(t testing.TB, change ...func(*Options)) (*faultfs.FS, *Store, *Volume) {
	t.Helper()
	fs := faultfs.New(1)
	must(t, fs.Mkdir("/d"))
	s := openStore(t, fs, change...)
	v, err := s.Create(7, volume.Spec{}, 70)
	must(t, err)
	return fs, s, v
}

func syncOS(o *Options) { o.Sync = SyncOS }

func reopen(t testing.TB, fs vfs.FS, s *Store, change ...func(*Options)) (*Store, *Volume) {
	t.Helper()
	must(t, s.Close())
	s = openStore(t, fs, change...)
	v, err := s.Volume(7)
	if err != nil {
		t.Fatalf("%v; set aside: %v", err, s.Aside())
	}
	return s, v
}

func TestADirectoryWithoutMarkerIsRefused(t *testing.T) {
	t.Parallel()
	good, bad, missing := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "new")
	o := options(vfs.OS{}, good, bad)
	o.Dirs[1].Init = false
	s, err := Open(o)
	must(t, err)
	d := s.Disks()
	if d[0].Missing || d[0].FreeB == 0 || !d[1].Missing || !strings.Contains(d[1].Fenced, "mounted?") {
		t.Fatalf("%+v", d)
	}
	if names, err := os.ReadDir(bad); err != nil || len(names) > 0 {
		t.Fatal("something was written to the directory that is not used")
	}
	must(t, s.Close())

	o.Dirs = o.Dirs[1:]
	if _, err := Open(o); err == nil || !strings.Contains(err.Error(), markerName) {
		t.Fatalf("nothing can be used: %v", err)
	}
	o.Dirs[0] = Dir{Path: missing, Init: true}
	s, err = Open(o)
	must(t, err)
	must(t, s.Close())
	o.Dirs[0].Init = false // the marker is there now
	s, err = Open(o)
	must(t, err)
	must(t, s.Close())
	o.Dirs[0] = Dir{Path: filepath.Join(missing, "a", "b"), Init: true}
	if _, err := Open(o); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("no parent: %v", err)
	}
	id, err := os.ReadFile(filepath.Join(missing, uuidName))
	if err != nil || len(id) != 36 || id[14] != '4' {
		t.Fatalf("uuid %q, %v", id, err)
	}
}

func TestADirectoryIsLocked(t *testing.T) {
	t.Parallel()
	o := options(vfs.OS{}, t.TempDir())
	s, err := Open(o)
	must(t, err)
	if _, err := Open(o); !errors.Is(err, vfs.ErrLocked) {
		t.Fatalf("a second opener: %v", err)
	}
	must(t, s.Close())
	must(t, s.Close())
	s, err = Open(o)
	must(t, err)
	must(t, s.Close())
}

// Two directories on one file system have the same bytes free, and still take turns.
func TestNewVolumesAreSpreadOverTheDirectories(t *testing.T) {
	t.Parallel()
	s, err := Open(options(vfs.OS{}, t.TempDir(), t.TempDir()))
	must(t, err)
	for id := volume.ID(1); id <= 8; id++ {
		_, err := s.Create(id, volume.Spec{}, volume.CopyID(id))
		must(t, err)
		for _, d := range s.Disks() {
			if d.Used < int(id)/2 {
				t.Errorf("%d of %d volumes are in %s", d.Used, id, d.Dir)
			}
		}
	}
	// One that is being drained gets none until that is undone.
	disks := s.Disks()
	s.Avoid([]string{disks[0].Dir})
	for id := volume.ID(9); id <= 12; id++ {
		v, err := s.Create(id, volume.Spec{}, volume.CopyID(id))
		must(t, err)
		if v.Dir() == disks[0].Dir {
			t.Errorf("volume %d is in %s", id, v.Dir())
		}
	}
	s.Avoid([]string{disks[0].Dir, disks[1].Dir})
	if _, err := s.Create(13, volume.Spec{}, 13); !errors.Is(err, volume.ErrNoSpace) {
		t.Errorf("both are drained: %v", err)
	}
	s.Avoid(nil)
	v, err := s.Create(13, volume.Spec{}, 13)
	must(t, err)
	if v.Dir() != disks[0].Dir {
		t.Errorf("the emptier directory got nothing")
	}
	must(t, s.Close())
}

func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	fs, s, _ := newVolume(t, func(o *Options) { o.Dirs[0].Max, o.MinFree = 3, 1000 })
	create := func(id volume.ID, spec volume.Spec, c volume.CopyID) error {
		_, err := s.Create(id, spec, c)
		return err
	}
	must(t, vfs.Write(fs, "/d/9.vif", []byte("{}")))
	must(t, vfs.Write(fs, "/d/c_10.dat", []byte("x"))) // set aside when opened
	s, _ = reopen(t, fs, s, func(o *Options) { o.Dirs[0].Max, o.MinFree = 3, 1000 })
	for name, c := range map[string]struct{ got, want error }{
		"one that is there":            {create(7, volume.Spec{}, 71), volume.ErrExists},
		"one of another collection":    {create(7, volume.Spec{Collection: "x"}, 71), volume.ErrExists},
		"one that left a file":         {create(9, volume.Spec{}, 71), volume.ErrExists},
		"one that was set aside":       {create(10, volume.Spec{}, 71), volume.ErrExists},
		"a disk type that is not here": {create(11, volume.Spec{Disk: "ssd"}, 71), volume.ErrNoSpace},
		"no id":                        {create(0, volume.Spec{}, 71), volume.ErrBadRequest},
		"a bad collection":             {create(11, volume.Spec{Collection: "../x"}, 71), volume.ErrBadSpec},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("%s: %v, want %v", name, c.got, c.want)
		}
	}
	must(t, create(12, volume.Spec{}, 71))
	if err := create(13, volume.Spec{}, 71); !errors.Is(err, volume.ErrNoSpace) {
		t.Errorf("no slot: %v", err)
	}
	fs.SetSpace(vfs.Space{All: 5000, Free: 999})
	if d := s.Disks(); d[0].Fenced == "" || d[0].Used != 3 {
		t.Errorf("%+v", d)
	}
}

func TestRemoveTakesTheRightCopyOnly(t *testing.T) {
	t.Parallel()
	fs, s, v := newVolume(t)
	other, err := s.Create(4, volume.Spec{Collection: "7.x"}, 40) // its files begin with "7." too
	must(t, err)
	must(t, write(v, record(t, v, 1, []byte("x"))))
	for _, c := range []volume.CopyID{71, 0} {
		if err := s.Remove(7, c); err == nil {
			t.Fatalf("copy %d was removed", c)
		}
	}
	if err := s.Remove(8, 70); !errors.Is(err, volume.ErrNoVolume) {
		t.Fatal(err)
	}
	expect(t, v, 1, []byte("x"))
	must(t, s.Remove(7, 70))
	if _, err := s.Volume(7); !errors.Is(err, volume.ErrNoVolume) {
		t.Fatal(err)
	}
	if _, err := v.Get(1, cookieOf(1), time.Now(), false); !errors.Is(err, volume.ErrClosed) {
		t.Fatalf("read after removal: %v", err)
	}
	if err := v.Append(nil); !errors.Is(err, volume.ErrClosed) {
		t.Fatalf("append after removal: %v", err)
	}
	names, err := fs.ReadDir("/d")
	must(t, err)
	for _, n := range names {
		if strings.HasPrefix(n, "7.") && !strings.HasPrefix(n, "7.x_4.") {
			t.Errorf("%s is left", n)
		}
	}
	must(t, write(other, record(t, other, 1, []byte("y"))))
	_, err = s.Create(7, volume.Spec{}, 71)
	must(t, err)
}

func TestACopySetAsideMakesRoomForAnother(t *testing.T) {
	t.Parallel()
	fs, s, v := newVolume(t)
	must(t, write(v, record(t, v, 1, []byte("old"))))
	if err := s.SetAsideCopy(7, 71, "why"); !errors.Is(err, volume.ErrStale) {
		t.Fatal(err)
	}
	for n := range 2 {
		must(t, s.SetAsideCopy(7, 70, "differs from the others"))
		v, err := s.Create(7, volume.Spec{}, 70)
		must(t, err)
		must(t, write(v, record(t, v, 1, []byte("new"))))
		if a := s.Aside(); len(a) != n+1 || a[n].Reason != "differs from the others" {
			t.Fatalf("%+v", a)
		}
	}
	s, v = reopen(t, fs, s)
	expect(t, v, 1, []byte("new"))
	a := s.Aside()
	if len(a) != 2 || a[0].Reason != "differs from the others" || a[0].Path != "/d/aside/7-0000000000000046-1" || a[0].Volume != 7 || !a[0].Moved {
		t.Fatalf("%+v", a)
	}
	if b, err := vfs.ReadFile(fs, a[0].Path+"/7.dat"); err != nil || !strings.Contains(string(b), "old") {
		t.Fatalf("%q, %v", b, err)
	}
}

// Whenever the power goes during a removal or a setting aside, afterwards the
// copy is whole or gone, and never taken for something else.
func TestCrashDuringRemoval(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*Store) error{
		"remove":    func(s *Store) error { return s.Remove(7, 70) },
		"set aside": func(s *Store) error { return s.SetAsideCopy(7, 70, "why") },
	} {
		for i := 0; ; i++ {
			done := false
			for seed := range uint64(4) {
				fs, s, v := newVolume(t)
				must(t, fs.SyncDir("/"))
				must(t, write(v, record(t, v, 1, []byte("x"))))
				at := fs.Ops() + i
				fs.SetFault(func(op faultfs.Op) error {
					if op.N >= at {
						return errPower
					}
					return nil
				})
				done = end(s) == nil
				up := fs.Crash(seed)
				s = openStore(t, up)
				v, err := s.Volume(7)
				switch {
				case err == nil && done:
					t.Fatalf("%s, operation %d, seed %d: the copy is back", name, i, seed)
				case err == nil:
					v.Publish(v.End())
					expect(t, v, 1, []byte("x"))
					if v.CopyID() != 70 {
						t.Fatalf("%s, operation %d, seed %d: foreign", name, i, seed)
					}
				default:
					if _, err := s.Create(7, volume.Spec{}, 71); err != nil {
						t.Fatalf("%s, operation %d, seed %d: %v; set aside: %v", name, i, seed, err, s.Aside())
					}
				}
			}
			if done {
				break
			}
		}
	}
}

// One bad volume is set aside with its reason, and the others serve.
func TestBadVolumesAreSetAside(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		damage func(t *testing.T, fs *faultfs.FS)
		reason string
	}{
		"no .dat":                 {func(t *testing.T, fs *faultfs.FS) { must(t, fs.Remove("/d/7.dat")) }, "no such file|not exist"},
		"an empty .dat":           {func(t *testing.T, fs *faultfs.FS) { must(t, vfs.Write(fs, "/d/7.dat", nil)) }, "shorter than a super block"},
		"a bad super block":       {func(t *testing.T, fs *faultfs.FS) { flip(t, fs, "/d/7.dat", 0) }, "version 19"},
		"a bad copy file":         {func(t *testing.T, fs *faultfs.FS) { flip(t, fs, "/d/7.wcopy", 20) }, "copy file: header"},
		"a bad epoch, not last":   {func(t *testing.T, fs *faultfs.FS) { flip(t, fs, "/d/7.wcopy", 40) }, "copy file: entry 0"},
		"an interrupted copy":     {func(t *testing.T, fs *faultfs.FS) { must(t, vfs.Write(fs, "/d/7.note", nil)) }, "was not finished"},
		"an erasure-coded volume": {func(t *testing.T, fs *faultfs.FS) { must(t, vfs.Write(fs, "/d/7.ecx", nil)) }, "erasure-coded"},
		"a row of a remote tier":  {func(t *testing.T, fs *faultfs.FS) { must(t, vfs.Write(fs, "/d/7.vif", []byte(`{"files":[{}]}`))) }, "remote tier"},
		"5-byte offsets":          {func(t *testing.T, fs *faultfs.FS) { must(t, vfs.Write(fs, "/d/7.vif", []byte(`{"bytesOffset":5}`))) }, "5-byte"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fs, s, v := newVolume(t)
			must(t, v.AddEpoch(volume.EpochStart{Epoch: 1, Start: 8}))
			must(t, v.AddEpoch(volume.EpochStart{Epoch: 2, Start: 8}))
			must(t, write(v, record(t, v, 1, []byte("x"))))
			other, err := s.Create(8, volume.Spec{}, 80)
			must(t, err)
			must(t, write(other, record(t, other, 1, []byte("y"))))
			must(t, s.Close())
			c.damage(t, fs)
			s = openStore(t, fs)
			other, err = s.Volume(8)
			must(t, err)
			expect(t, other, 1, []byte("y"))
			a := s.Aside()
			if len(a) != 1 || a[0].Path != "/d/7.dat" {
				t.Fatalf("set aside: %+v", a)
			}
			found := false
			for _, r := range strings.Split(c.reason, "|") {
				found = found || strings.Contains(a[0].Reason, r)
			}
			if !found {
				t.Errorf("reason %q, want %q", a[0].Reason, c.reason)
			}
			if err := s.SetAsideCopy(7, 70, "damaged"); err != nil && s.SetAsideCopy(7, 0, "damaged") != nil {
				t.Fatal(err)
			}
			if strings.Contains(name, "erasure") {
				return // its files stay where they are
			}
			_, err = s.Create(7, volume.Spec{}, 71)
			must(t, err)
		})
	}
}

func TestOneVolumeInTwoDirectories(t *testing.T) {
	t.Parallel()
	fs := faultfs.New(1)
	must(t, fs.Mkdir("/a"))
	must(t, fs.Mkdir("/b"))
	unpack(t, fs, "testdata/vectors/configured-replication/files.tar.gz", "", "/a")
	s, err := Open(options(fs, "/b"))
	must(t, err)
	_, err = s.Create(7, volume.Spec{}, 70)
	must(t, err)
	must(t, s.Close())
	for _, dirs := range [][]string{{"/a", "/b"}, {"/b", "/a"}} {
		s, err = Open(options(fs, dirs...))
		must(t, err)
		v, err := s.Volume(7)
		if a := s.Aside(); err != nil || v.CopyID() != 70 || len(a) != 1 || !strings.HasPrefix(a[0].Path, "/a/") {
			t.Errorf("%v: %v, set aside: %+v", dirs, err, a)
		}
		must(t, s.Close())
	}
}

func TestNoRoomIsNoFailure(t *testing.T) {
	t.Parallel()
	fs, s, v := newVolume(t)
	must(t, write(v, record(t, v, 1, []byte("x"))))
	fs.SetFault(func(op faultfs.Op) error {
		if op.Kind == faultfs.Write {
			return fmt.Errorf("write: %w", syscall.ENOSPC)
		}
		return nil
	})
	rec := record(t, v, 2, []byte("y"))
	if err := v.Append(rec); !errors.Is(err, volume.ErrNoSpace) || v.Failed() != nil {
		t.Fatalf("%v; failed: %v", err, v.Failed())
	}
	fs.SetFault(nil)
	must(t, write(v, rec))
	_, v = reopen(t, fs, s)
	expect(t, v, 2, []byte("y"))
	must(t, fullCheck(fs, v))
}

// A failed fsync ends the copy for ever (rule R5): the next would succeed.
func TestAFailedSyncEndsTheCopy(t *testing.T) {
	t.Parallel()
	fs, s, v := newVolume(t)
	must(t, write(v, record(t, v, 1, []byte("x"))))
	good := v.Durable()
	must(t, v.Append(record(t, v, 2, []byte("y"))))
	fs.SetFault(func(op faultfs.Op) error {
		if op.Kind == faultfs.Sync {
			return faultfs.ErrInjected
		}
		return nil
	})
	if _, err := v.Sync(); !errors.Is(err, faultfs.ErrInjected) || !errors.Is(err, volume.ErrReadOnly) {
		t.Fatal(err)
	}
	fs.SetFault(nil)
	if d, err := v.Sync(); !errors.Is(err, faultfs.ErrInjected) || d != good || v.Durable() != good {
		t.Fatalf("durable %d, was %d, %v", d, good, err)
	}
	for name, err := range map[string]error{
		"append": v.Append(record(t, v, 3, nil)), "cut": v.Cut(good), "checkpoint": v.Checkpoint(),
		"epoch": v.AddEpoch(volume.EpochStart{Epoch: 9}), "failed": v.Failed(),
	} {
		if !errors.Is(err, faultfs.ErrInjected) {
			t.Errorf("%s: %v", name, err)
		}
	}
	expect(t, v, 1, []byte("x"))
	must(t, s.Close())
}
