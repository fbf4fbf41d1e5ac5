package store

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"weedd/volume"
	"weedd/volume/vfs"
	"weedd/volume/vfs/faultfs"
)

// openCoded puts a volume in shards on a disk, durably, with a journal that holds
// what journal says, and opens it.
func openCoded(t *testing.T, journal []byte) (*faultfs.FS, *Store, *Volume) {
	t.Helper()
	_, files := newCoded(t)
	fs := faultfs.New(1)
	must(t, fs.Mkdir("/d"))
	if journal != nil {
		files[extDeleted] = journal
	}
	for ext, b := range files {
		must(t, vfs.Write(fs, "/d/7"+ext, b))
	}
	must(t, fs.SyncDir("/d"))
	must(t, fs.SyncDir("/"))
	s := openStore(t, fs)
	return fs, s, alienVolume(t, s)
}

// storedCookie is the cookie of a file, read from the volume itself.
func storedCookie(t *testing.T, v *Volume, key volume.Key) volume.Cookie {
	t.Helper()
	r, _ := v.Lookup(key)
	h, err := v.ReadHeader(r)
	must(t, err)
	return h.Cookie
}

// wantDeleted reopens the disk of a volume in shards after a crash, and looks which
// of the keys 1 to 3 are gone.
func wantDeleted(t *testing.T, what string, fs *faultfs.FS, ok func(gone map[volume.Key]bool) bool) {
	t.Helper()
	s, err := Open(options(fs, "/d"))
	must(t, err)
	v := alienVolume(t, s)
	gone := map[volume.Key]bool{}
	for key := volume.Key(1); key <= 3; key++ {
		r, _ := v.Lookup(key)
		gone[key] = r.Deleted()
	}
	if !ok(gone) {
		t.Errorf("%s: deleted: %v", what, gone)
	}
	must(t, s.Close())
}

// Whichever operation fails, and whatever a crash after it loses: a deletion that
// was acknowledged is done, any other is done or not, and no other file is touched.
func TestDeletionsFromShardsSurviveFaults(t *testing.T) {
	t.Parallel()
	for i := 0; ; i++ {
		fs, s, v := openCoded(t, nil)
		one, two := storedCookie(t, v, 1), storedCookie(t, v, 2)
		fs.FailAt(i)
		_, err1 := v.DeleteCoded(1, one)
		passed := err1 == nil
		fs.SetFault(nil)
		_, err2 := v.DeleteCoded(2, two)
		if failed := v.Failed(); (err2 == nil) == (failed != nil) || failed != nil && !errors.Is(err2, volume.ErrReadOnly) {
			t.Errorf("fault %d: %v, then %v", i, err1, err2)
		}
		if has(v, 1, []byte("one")) == nil == (err1 == nil) {
			t.Errorf("fault %d: %v, and the file is there: %v", i, err1, err1 == nil)
		}
		for seed := range uint64(4) {
			what := fmt.Sprintf("fault %d, seed %d", i, seed)
			wantDeleted(t, what, fs.Crash(seed), func(gone map[volume.Key]bool) bool {
				return !gone[3] && (err1 != nil || gone[1]) && (err2 != nil || gone[2])
			})
		}
		s.Close()
		if passed {
			break
		}
	}
}

func TestDeletionsFromShards(t *testing.T) {
	t.Parallel()
	fs, s, v := openCoded(t, []byte{0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0}) // a crash within a second entry
	one := storedCookie(t, v, 1)
	for what, c := range map[string]struct {
		key    volume.Key
		cookie volume.Cookie
		want   error
	}{
		"another cookie":  {1, one + 1, volume.ErrCookie},
		"never there":     {9, one, volume.ErrNotFound},
		"deleted already": {3, one, volume.ErrNotFound},
	} {
		if _, err := v.DeleteCoded(c.key, c.cookie); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	fs.SetFault(func(op faultfs.Op) error {
		if op.Kind == faultfs.Write && strings.HasSuffix(op.Path, extDeleted) {
			return syscall.ENOSPC
		}
		return nil
	})
	if _, err := v.DeleteCoded(1, one); !errors.Is(err, volume.ErrNoSpace) || v.Failed() != nil {
		t.Errorf("on a full disk: %v; failed: %v", err, v.Failed())
	}
	must(t, has(v, 1, []byte("one")))
	fs.SetFault(nil)
	size, err := v.DeleteCoded(1, one)
	if err != nil || size == 0 {
		t.Errorf("size %d, %v", size, err)
	}
	if b, err := vfs.ReadFile(fs, "/d/7.ecj"); err != nil || string(b) != "\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x01" {
		t.Errorf("journal: %x, %v", b, err)
	}
	two := storedCookie(t, v, 2)
	fs.SetFault(func(op faultfs.Op) error {
		if op.Kind == faultfs.Sync {
			return syscall.EIO
		}
		return nil
	})
	_, err = v.DeleteCoded(2, two)
	fs.SetFault(nil)
	if _, again := v.DeleteCoded(2, two); !errors.Is(err, syscall.EIO) || !errors.Is(again, volume.ErrReadOnly) {
		t.Errorf("a sync fails: %v; the next deletion: %v", err, again)
	}
	must(t, has(v, 2, []byte(strings.Repeat("two ", 1<<18))))
	wantDeleted(t, "after a crash", fs.Crash(0), func(gone map[volume.Key]bool) bool { return gone[1] && gone[3] })
	s.Close()

	_, s2, plain := newVolume(t)
	if _, err := plain.DeleteCoded(1, one); !errors.Is(err, volume.ErrReadOnly) {
		t.Errorf("a volume that is not in shards: %v", err)
	}
	must(t, s2.Close())
}
