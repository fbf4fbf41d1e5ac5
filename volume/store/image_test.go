package store

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"testing"

	"weedd/volume"
	"weedd/volume/vfs"
	"weedd/volume/vfs/faultfs"
)

// imaged is a closed volume with a checkpoint and an image, and what is in it:
// keys of two batches, some overwritten, some deleted.
func imaged(t *testing.T) (*faultfs.FS, map[volume.Key][]byte) {
	t.Helper()
	fs, files := newDisk(t, 1), map[volume.Key][]byte{}
	s := openStore(t, fs)
	v, err := s.Create(7, volume.Spec{}, 70)
	must(t, err)
	for round := range 2 {
		for k := volume.Key(1); k < 300; k += volume.Key(1 + round) {
			files[k] = fmt.Appendf(nil, "%d in round %d", k, round)
			must(t, write(v, record(t, v, k, files[k])))
		}
	}
	for k := volume.Key(5); k < 300; k += 40 {
		files[k] = nil
		must(t, write(v, tombstone(t, v, k)))
	}
	must(t, s.Close())
	return fs, files
}

// reopened opens volume 7, wants it whole, and reports whether an image served.
func reopened(t *testing.T, fs *faultfs.FS, files map[volume.Key][]byte) (*Store, *Volume, bool) {
	t.Helper()
	s := openStore(t, fs)
	v, err := s.Volume(7)
	must(t, err)
	must(t, fullCheck(fs, v))
	for k, data := range files {
		expect(t, v, k, data)
	}
	return s, v, v.image.saved.Load() > 0
}

// settle makes the image durable, which the engine leaves to the system.
func settle(t *testing.T, fs *faultfs.FS) {
	t.Helper()
	f, err := fs.OpenFile("/d/7.widx", os.O_RDWR)
	must(t, err)
	must(t, f.Sync())
	must(t, f.Close())
	must(t, fs.SyncDir("/d"))
}

// An image serves only with the files of which it was made.
func TestImageIsTrustedOnlyWhereItFits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		damage func(t *testing.T, fs *faultfs.FS)
		served bool
	}{
		"nothing is wrong": {func(t *testing.T, fs *faultfs.FS) {}, true},
		"it is gone":       {func(t *testing.T, fs *faultfs.FS) { must(t, fs.Remove("/d/7.widx")) }, false},
		"it is empty":      {func(t *testing.T, fs *faultfs.FS) { must(t, vfs.Write(fs, "/d/7.widx", nil)) }, false},
		"it is cut short":  {func(t *testing.T, fs *faultfs.FS) { shorten(t, fs, "/d/7.widx", 9) }, false},
		"a chunk is bad":   {func(t *testing.T, fs *faultfs.FS) { flip(t, fs, "/d/7.widx", imageHeader+imageChunk+5) }, false},
		"its sum is bad":   {func(t *testing.T, fs *faultfs.FS) { flip(t, fs, "/d/7.widx", 49) }, false},
		"of another copy":  {func(t *testing.T, fs *faultfs.FS) { flip(t, fs, "/d/7.widx", 23) }, false},
		"one was begun":    {func(t *testing.T, fs *faultfs.FS) { must(t, vfs.Write(fs, "/d/7.widx.tmp", []byte("x"))) }, true},
		"no checkpoint":    {func(t *testing.T, fs *faultfs.FS) { must(t, fs.Remove("/d/7.wckpt")) }, false},
		"no rows":          {func(t *testing.T, fs *faultfs.FS) { must(t, fs.Remove("/d/7.idx")) }, false},
		"rows are missing": {func(t *testing.T, fs *faultfs.FS) { shorten(t, fs, "/d/7.idx", 16) }, false},
		"its row is bad":   {func(t *testing.T, fs *faultfs.FS) { shorten(t, fs, "/d/7.idx", 16); grow(t, fs, "/d/7.idx") }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fs, files := imaged(t)
			c.damage(t, fs)
			s, _, served := reopened(t, fs, files)
			if served != c.served {
				t.Fatalf("the image served: %v", served)
			}
			must(t, s.Close())
			if _, _, served = reopened(t, fs, files); !served {
				t.Fatal("closing made no new one")
			}
		})
	}
}

func shorten(t *testing.T, fs *faultfs.FS, path string, by int64) {
	t.Helper()
	b, err := vfs.ReadFile(fs, path)
	must(t, err)
	must(t, vfs.Write(fs, path, b[:int64(len(b))-by]))
}

func grow(t *testing.T, fs *faultfs.FS, path string) {
	t.Helper()
	b, err := vfs.ReadFile(fs, path)
	must(t, err)
	must(t, vfs.Write(fs, path, append(b, bytes.Repeat([]byte{3}, rowSize)...)))
}

// One volume's image does no harm beside another's files, whatever they share.
func TestImageOfAnotherVolume(t *testing.T) {
	t.Parallel()
	fs, files := imaged(t)
	image, err := vfs.ReadFile(fs, "/d/7.widx")
	must(t, err)
	s, v, _ := reopened(t, fs, files)
	copy := v.CopyID()
	must(t, s.Remove(7, copy))
	v, err = s.Create(7, volume.Spec{}, copy)
	must(t, err)
	for k := range volume.Key(400) { // the same rows at other places
		files[k] = []byte("another")
		must(t, write(v, record(t, v, k, files[k])))
	}
	must(t, s.Close())
	must(t, vfs.Write(fs, "/d/7.widx", image))
	if _, _, served := reopened(t, fs, files); served {
		t.Fatal("the image served")
	}
}

// The rows after the image are entered on top of it, with the same counts.
func TestRowsFollowTheImage(t *testing.T) {
	t.Parallel()
	fs, files := imaged(t)
	_, v, _ := reopened(t, fs, files)
	for k := volume.Key(1); k < 400; k += 3 {
		files[k] = []byte("later")
		must(t, write(v, record(t, v, k, files[k])))
	}
	files[2] = nil
	must(t, write(v, tombstone(t, v, 2)))
	must(t, v.Checkpoint())
	settle(t, fs)
	fs = fs.Crash(3)
	_, with, served := reopened(t, fs, files)
	if !served {
		t.Fatal("the image did not serve")
	}
	fs = fs.Crash(3)
	must(t, fs.Remove("/d/7.widx"))
	_, without, _ := reopened(t, fs, files)
	if with.counts != without.counts || with.counts != v.counts {
		t.Fatalf("%+v with the image, %+v without, %+v before", with.counts, without.counts, v.counts)
	}
}

// An image is taken of one moment, however much is published while it is
// written, and however much of that the index has merged.
func TestImageIsOfOneMoment(t *testing.T) {
	t.Parallel()
	fs, files := imaged(t)
	_, v, _ := reopened(t, fs, files)
	files[1] = []byte("new")
	must(t, write(v, record(t, v, 1, files[1])))
	must(t, v.flushRows())
	v.takeImage(true)
	if v.image.due == nil {
		t.Fatal("no image is due")
	}
	then := maps.Clone(files)
	for k := volume.Key(1); k < 2000; k++ {
		files[k] = []byte("later")
		must(t, write(v, record(t, v, k, files[k])))
	}
	v.saveImage(false)
	must(t, v.Checkpoint())
	settle(t, fs)
	fs = fs.Crash(1)
	_, again, served := reopened(t, fs, files)
	if !served || again.counts != v.counts {
		t.Fatalf("served %v, %+v, want %+v", served, again.counts, v.counts)
	}
	f, err := fs.OpenFile("/d/7.widx", os.O_RDONLY)
	must(t, err)
	size, err := f.Size()
	must(t, err)
	m, err := decodeImage(f, size, 7, 70, func(*image) error { return nil })
	must(t, err)
	if n := len(maps.Collect(m.index().all())); n != len(then) {
		t.Fatalf("the image has %d keys, want %d", n, len(then))
	}
}

// Flush writes an image while the volume is in use when there are many new rows
// since the last, and not otherwise.
func TestImageWhileInUse(t *testing.T) {
	t.Parallel()
	fs, files := imaged(t)
	s, v, _ := reopened(t, fs, files)
	saved := v.image.saved.Load()
	must(t, write(v, record(t, v, 1, []byte("x"))))
	must(t, v.Checkpoint())
	must(t, v.Flush())
	if v.image.saved.Load() != saved {
		t.Fatal("an image for one row")
	}
	v.image.saved.Store(saved - imageAfter) // as if there were many
	must(t, v.Checkpoint())
	must(t, v.Flush())
	if v.image.saved.Load() != saved+1 {
		t.Fatalf("image of %d rows, want %d", v.image.saved.Load(), saved+1)
	}
	must(t, s.Close())
}

// What is no image is refused, and what is one can be used, whatever it says.
func FuzzImage(f *testing.F) {
	m := &image{committed: 8, rows: 1}
	rng := rand.New(rand.NewPCG(1, 1))
	var run []entry
	for i := range 50 {
		run = append(run, entry{volume.Key(i*1000 + rng.IntN(1000)), placeOf(int64(i+1)*8, int32(rng.IntN(100)))})
	}
	m.chunks, m.changes = pack(run, true), run[:3]
	var b bytes.Buffer
	must(f, m.encode(&b, 7, 70, func() bool { return false }))
	f.Add(b.Bytes()[:b.Len()-4])
	f.Add(b.Bytes()[:imageHeader])
	f.Fuzz(func(t *testing.T, b []byte) {
		b = appendSum(b, 0)
		m, err := decodeImage(bytes.NewReader(b), int64(len(b)), 7, 70, func(*image) error { return nil })
		if err != nil {
			return
		}
		x := m.index()
		for k := range x.all() {
			x.get(k)
		}
		for _, k := range []volume.Key{0, 1, 1 << 62, 1 << 63, ^volume.Key(0)} {
			x.get(k)
			x.set(k, 1)
		}
	})
}
