package faultfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"weedd/volume/vfs"
	"weedd/volume/vfs/faultfs"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Both file systems do the same, as far as the engine looks.
func TestFileSystemsAgree(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fs  vfs.FS
		dir string
	}{"os": {vfs.OS{}, t.TempDir()}, "memory": {faultfs.New(1), "/"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			agree(t, c.fs, c.dir)
		})
	}
}

func agree(t *testing.T, fs vfs.FS, dir string) {
	at := func(name string) string { return filepath.Join(dir, name) }
	if _, err := fs.OpenFile(at("a"), os.O_RDWR); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if _, err := fs.OpenFile(at("no/a"), os.O_RDWR|os.O_CREATE); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	f, err := fs.OpenFile(at("a"), os.O_RDWR|os.O_CREATE|os.O_EXCL)
	must(t, err)
	if _, err := fs.OpenFile(at("a"), os.O_RDWR|os.O_CREATE|os.O_EXCL); !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	if n, err := f.WriteAt([]byte("hello"), 3); n != 5 || err != nil {
		t.Fatal(n, err)
	}
	buf := make([]byte, 10)
	if n, err := f.ReadAt(buf, 0); n != 8 || !errors.Is(err, io.EOF) || !bytes.Equal(buf[:8], []byte("\x00\x00\x00hello")) {
		t.Fatal(n, err, buf)
	}
	if n, err := f.ReadAt(buf[:5], 3); n != 5 || err != nil {
		t.Fatal(n, err)
	}
	if n, err := f.ReadAt(buf, 100); n != 0 || !errors.Is(err, io.EOF) {
		t.Fatal(n, err)
	}
	must(t, f.Truncate(4))
	must(t, f.Truncate(6))
	must(t, f.Sync())
	if size, err := f.Size(); size != 6 || err != nil {
		t.Fatal(size, err)
	}
	must(t, f.Close())
	if _, err := f.ReadAt(buf, 0); !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
	must(t, fs.Mkdir(at("d")))
	if err := fs.Mkdir(at("d")); !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	must(t, fs.Rename(at("a"), at("d/b")))
	must(t, vfs.Replace(fs, at("d/c"), []byte("new")))
	names, err := fs.ReadDir(at("d"))
	if err != nil || !slices.Equal(names, []string{"b", "c"}) {
		t.Fatal(names, err)
	}
	if fs.Remove(at("d")) == nil {
		t.Fatal("removed a directory with files in it")
	}
	info, err := fs.Stat(at("d/b"))
	if err != nil || info.Size != 6 || info.Dir || time.Since(info.Modified) > time.Hour {
		t.Fatal(info, err)
	}
	if b, err := vfs.ReadFile(fs, at("d/b")); err != nil || string(b) != "\x00\x00\x00h\x00\x00" {
		t.Fatalf("%q, %v", b, err)
	}
	if there, err := vfs.Exists(fs, at("d/x")); there || err != nil {
		t.Fatal(there, err)
	}
	if _, err := vfs.ReadFile(fs, at("d/x")); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if s, err := fs.Space(dir); err != nil || s.All == 0 || s.Free > s.All {
		t.Fatal(s, err)
	}
	lock, err := fs.Lock(at("lock"))
	must(t, err)
	if _, err := fs.Lock(at("lock")); !errors.Is(err, vfs.ErrLocked) {
		t.Fatal(err)
	}
	must(t, lock.Close())
	lock, err = fs.Lock(at("lock"))
	must(t, err)
	must(t, lock.Close())
	must(t, fs.SyncDir(dir))
}

func TestACrashLosesWhatWasNotSynced(t *testing.T) {
	t.Parallel()
	fs := faultfs.New(1)
	must(t, vfs.Write(fs, "/synced", []byte("synced")))
	must(t, fs.SyncDir("/"))
	must(t, vfs.Write(fs, "/no-name", []byte("x")))
	f, err := fs.OpenFile("/synced", os.O_RDWR)
	must(t, err)
	_, err = f.WriteAt([]byte(" and not"), 6)
	must(t, err)
	must(t, fs.Rename("/synced", "/renamed"))
	up := fs.Crash(0)
	names, err := up.ReadDir("/")
	if err != nil || !slices.Equal(names, []string{"synced"}) {
		t.Fatal(names, err)
	}
	if b, err := vfs.ReadFile(up, "/synced"); err != nil || string(b) != "synced" {
		t.Fatalf("%q, %v", b, err)
	}
	if _, err := f.Size(); !errors.Is(err, faultfs.ErrCrashed) {
		t.Fatal(err)
	}
	if _, err := fs.ReadDir("/"); !errors.Is(err, faultfs.ErrCrashed) {
		t.Fatal(err)
	}
}

// Equal seeds give equal disks; over many seeds everything happens: a write is
// kept, lost, cut short, or full of holes.
func TestACrashIsAsTheSeedSays(t *testing.T) {
	t.Parallel()
	crash := func(seed uint64) string {
		fs := faultfs.New(7)
		must(t, vfs.Write(fs, "/f", nil))
		must(t, fs.SyncDir("/"))
		f, err := fs.OpenFile("/f", os.O_RDWR)
		must(t, err)
		for i := range 2 {
			_, err = f.WriteAt(bytes.Repeat([]byte{'a' + byte(i)}, 8), int64(i)*8)
			must(t, err)
		}
		must(t, fs.Mkdir("/d"))
		up := fs.Crash(seed)
		b, err := vfs.ReadFile(up, "/f")
		must(t, err)
		names, err := up.ReadDir("/")
		must(t, err)
		return fmt.Sprintf("%q %v", b, names)
	}
	seen := map[string]bool{}
	for seed := range uint64(300) {
		got := crash(seed)
		if again := crash(seed); again != got {
			t.Fatalf("seed %d: %s, then %s", seed, got, again)
		}
		seen[got] = true
	}
	for _, want := range []string{`"" [f]`, `"aaaaaaaabbbbbbbb" [d f]`, `"\x00\x00\x00\x00\x00\x00\x00\x00bbbbbbbb" [f]`, `"aaa" [f]`} {
		if !seen[want] {
			t.Errorf("never: %s", want)
		}
	}
}

// A disk writes a sector wholly or not at all, so a hole has no other borders.
func TestHolesAreSectors(t *testing.T) {
	t.Parallel()
	const off, length = 4, 41 // across borders
	holes := 0
	for seed := range uint64(300) {
		fs := faultfs.New(7)
		must(t, vfs.Write(fs, "/f", make([]byte, off)))
		must(t, fs.SyncDir("/"))
		f, err := fs.OpenFile("/f", os.O_RDWR)
		must(t, err)
		_, err = f.WriteAt(bytes.Repeat([]byte("a"), length), off)
		must(t, err)
		b, err := vfs.ReadFile(fs.Crash(1+seed), "/f")
		must(t, err)
		for i := off + 1; i < len(b); i++ {
			if b[i] != b[i-1] {
				holes++
				if i%8 != 0 {
					t.Fatalf("seed %d: a border at %d: %q", seed, i, b)
				}
			}
		}
	}
	if holes < 20 {
		t.Errorf("only %d borders of holes", holes)
	}
}

// After a failed sync the next one succeeds, and what it should have saved may
// be gone all the same.
func TestAFailedSyncIsNotMadeGoodByTheNext(t *testing.T) {
	t.Parallel()
	lost := 0
	for seed := range uint64(40) {
		fs := faultfs.New(seed)
		must(t, vfs.Write(fs, "/f", nil))
		must(t, fs.SyncDir("/"))
		f, err := fs.OpenFile("/f", os.O_RDWR)
		must(t, err)
		_, err = f.WriteAt([]byte("data"), 0)
		must(t, err)
		fs.FailAt(0)
		if err := f.Sync(); !errors.Is(err, faultfs.ErrInjected) {
			t.Fatal(err)
		}
		must(t, f.Sync())
		b, err := vfs.ReadFile(fs.Crash(0), "/f")
		must(t, err)
		if string(b) != "data" {
			lost++
		}
	}
	if lost == 0 || lost == 40 {
		t.Fatalf("lost %d of 40", lost)
	}
}

func TestAFailedWriteLeavesHalf(t *testing.T) {
	t.Parallel()
	fs := faultfs.New(1)
	f, err := fs.OpenFile("/f", os.O_RDWR|os.O_CREATE)
	must(t, err)
	fs.FailAt(1)
	_, err = f.Size()
	must(t, err)
	if n, err := f.WriteAt([]byte("data"), 0); n != 2 || !errors.Is(err, faultfs.ErrInjected) {
		t.Fatal(n, err)
	}
	if b, err := vfs.ReadFile(fs, "/f"); err != nil || string(b) != "da" {
		t.Fatalf("%q, %v", b, err)
	}
}

// A killed process leaves what it wrote to the next one, and a power cut may take
// it away all the same; what a failed sync lost is seen until then.
func TestAKilledProcessLeavesThePageCache(t *testing.T) {
	t.Parallel()
	fs := faultfs.New(1)
	must(t, vfs.Replace(fs, "/a", []byte("safe")))
	f, err := fs.OpenFile("/a", os.O_RDWR)
	must(t, err)
	_, err = f.WriteAt([]byte("more"), 4)
	must(t, err)
	lock, err := fs.Lock("/lock")
	must(t, err)
	up := fs.Kill()
	if err := f.Sync(); !errors.Is(err, faultfs.ErrCrashed) {
		t.Errorf("the process goes on: %v", err)
	}
	_ = lock // nobody gives it free
	if _, err := up.Lock("/lock"); err != nil {
		t.Errorf("the lock outlives the process: %v", err)
	}
	if seen, durable := up.Look("/a"); string(seen) != "safemore" || string(durable) != "safe" {
		t.Errorf("seen %q, durable %q", seen, durable)
	}
	must(t, up.Rename("/a", "/b"))
	if seen, durable := up.Look("/b"); string(seen) != "safemore" || durable != nil {
		t.Errorf("seen %q, durable %q under a name that is not", seen, durable)
	}
	if b, err := vfs.ReadFile(up.Crash(0), "/a"); err != nil || string(b) != "safe" {
		t.Errorf("%q, %v after the power cut", b, err)
	}
}
