package store

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"weedd/volume"
	"weedd/volume/vfs"
	"weedd/volume/vfs/faultfs"
)

// twin is a copy of 40 files, over 3 MiB, some of them deleted or replaced, with
// its file system and the bytes of .dat as they were written.
type twin struct {
	fs  *faultfs.FS
	s   *Store
	v   *Volume
	dat string
}

func newTwin(t *testing.T) *twin {
	t.Helper()
	w := &twin{fs: faultfs.New(1)}
	must(t, w.fs.Mkdir("/d"))
	w.s = openStore(t, w.fs)
	t.Cleanup(func() { must(t, w.s.Close()) })
	var err error
	w.v, err = w.s.Create(7, volume.Spec{}, 70)
	must(t, err)
	for k := volume.Key(1); k <= 40; k++ {
		must(t, write(w.v, record(t, w.v, k, []byte(strings.Repeat(fmt.Sprint("data ", k), 12_000)))))
	}
	for k := volume.Key(1); k <= 3; k++ {
		must(t, write(w.v, tombstone(t, w.v, k)))
	}
	must(t, write(w.v, record(t, w.v, 4, []byte("again"))))
	must(t, w.v.Flush())
	b, err := vfs.ReadFile(w.fs, "/d/7.dat")
	must(t, err)
	w.dat = string(b)
	return w
}

// scrub makes one pass, repairing from what was written.
func (w *twin) scrub(t *testing.T) (found []Damage) {
	t.Helper()
	var read int64
	o := Scrub{
		Found: func(d Damage) { found = append(found, d) }, Read: func(n int64) { read += n },
		Repair: func(_ context.Context, offset, length int64) ([]byte, error) {
			return []byte(w.dat[offset : offset+length]), nil
		},
	}
	must(t, w.v.Scrub(t.Context(), o))
	if read != int64(len(w.dat))-SuperBlockSize {
		t.Errorf("read %d of %d bytes", read, len(w.dat))
	}
	return found
}

// Whatever byte of .dat is flipped, a pass finds the record and puts it right.
func TestScrubRepairsWhatIsBad(t *testing.T) {
	t.Parallel()
	w := newTwin(t)
	if found := w.scrub(t); len(found) > 0 || w.v.ScrubState().Done.IsZero() {
		t.Fatalf("nothing is bad: %+v", found)
	}
	second, _ := w.v.Lookup(2)
	last, _ := w.v.Lookup(4)
	for name, at := range map[string]int64{
		"cookie": second.Offset, "key": second.Offset + 11, "size": second.Offset + 14, "data": second.Offset + 30, "flags": second.End() - 21,
		"checksum": second.End() - 15, "append time": second.End() - 5, "padding": second.End() - 1, "name in the last MiB": last.Offset + 27,
		"key in the last MiB": last.Offset + 11,
	} {
		flip(t, w.fs, "/d/7.dat", at)
		found := w.scrub(t)
		b, err := vfs.ReadFile(w.fs, "/d/7.dat")
		must(t, err)
		if len(found) != 1 || !found[0].Repaired || string(b) != w.dat {
			t.Errorf("%s: %+v; the file is as written: %v", name, found, string(b) == w.dat)
		}
		if want := map[bool]volume.Key{true: 4, false: 2}[at >= last.Offset]; len(found) > 0 && found[0].Key != want {
			t.Errorf("%s: of key %d", name, found[0].Key)
		}
	}
	must(t, fullCheck(w.fs, w.v))
}

// A wrong row in .idx, and what it made of the index in memory, is made anew from
// the record.
func TestScrubMendsTheIndex(t *testing.T) {
	t.Parallel()
	w := newTwin(t)
	must(t, w.s.Close())
	flip(t, w.fs, "/d/7.idx", 5*rowSize+7) // the key in the row of key 6
	w.s = openStore(t, w.fs)
	var err error
	w.v, err = w.s.Volume(7)
	must(t, err)
	expectRepaired := func(want int) {
		t.Helper()
		found := w.scrub(t)
		if len(found) < want || want == 0 && len(found) > 0 {
			t.Fatalf("%+v", found)
		}
		for _, d := range found {
			if !d.Repaired || d.Key != 6 {
				t.Errorf("%+v", d)
			}
		}
	}
	expectRepaired(1)
	expectRepaired(0)
	n, err := w.v.Get(6, cookieOf(6), time.Unix(2e9, 0), false)
	must(t, err)
	n.Release()
	if _, err := w.v.Get(6^0x10, cookieOf(6^0x10), time.Unix(2e9, 0), false); err != nil && !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("the key that the row named: %v", err)
	}
}

// Without a good copy elsewhere the damage is told, each time, and nothing is
// written; other records are looked at all the same.
func TestScrubTellsWhatItCannotRepair(t *testing.T) {
	t.Parallel()
	w := newTwin(t)
	a, _ := w.v.Lookup(10)
	b, _ := w.v.Lookup(20)
	flip(t, w.fs, "/d/7.dat", a.Offset+40)
	flip(t, w.fs, "/d/7.dat", b.Offset+41)
	before := everything(t, w.fs, "/d")["7.dat"]
	for _, repair := range []func(context.Context, int64, int64) ([]byte, error){
		nil,
		func(context.Context, int64, int64) ([]byte, error) { return nil, volume.ErrUnavailable },
		func(_ context.Context, offset, length int64) ([]byte, error) {
			return []byte(before[offset : offset+length]), nil
		},
	} {
		var keys []volume.Key
		must(t, w.v.Scrub(t.Context(), Scrub{Repair: repair, Found: func(d Damage) {
			if d.Repaired || d.Err == "" {
				t.Errorf("%+v", d)
			}
			if d.Key != 0 {
				keys = append(keys, d.Key)
			}
		}}))
		if !reflect.DeepEqual(keys, []volume.Key{10, 20}) {
			t.Errorf("bad keys: %v", keys)
		}
	}
	if everything(t, w.fs, "/d")["7.dat"] != before {
		t.Error("something was written")
	}
}

// A pass that is interrupted goes on where it was, also after a restart; a crash
// may only make it begin earlier.
func TestScrubGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	w := newTwin(t)
	ctx, stop := context.WithCancel(t.Context())
	var read int64
	err := w.v.Scrub(ctx, Scrub{Found: func(d Damage) { t.Errorf("%+v", d) }, Read: func(n int64) {
		if read += n; read > 1<<20 {
			stop()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	was := w.v.ScrubState()
	must(t, w.s.Close())
	w.s = openStore(t, w.fs)
	w.v, err = w.s.Volume(7)
	must(t, err)
	if is := w.v.ScrubState(); is != was || is.Pos != SuperBlockSize+read || !is.Done.IsZero() {
		t.Errorf("%+v, was %+v after %d bytes", is, was, read)
	}
	var rest int64
	must(t, w.v.Scrub(t.Context(), Scrub{Found: func(d Damage) { t.Errorf("%+v", d) }, Read: func(n int64) { rest += n }}))
	if read+rest != int64(len(w.dat))-SuperBlockSize || w.v.ScrubState().Done.IsZero() {
		t.Errorf("read %d and %d of %d", read, rest, len(w.dat))
	}
}

// A record is given to other copies only if all that was written there is intact.
func TestARecordForAnotherCopyIsIntact(t *testing.T) {
	t.Parallel()
	w := newTwin(t)
	row, _ := w.v.Lookup(10)
	length := row.End() - row.Offset
	rec, err := w.v.Record(0, row.Offset, length)
	if err != nil || string(rec) != w.dat[row.Offset:row.End()] {
		t.Fatal(len(rec), err)
	}
	for _, c := range []struct {
		generation     uint32
		offset, length int64
	}{{1, row.Offset, length}, {0, row.Offset + 8, length}, {0, row.Offset, length + 8}} {
		if _, err := w.v.Record(c.generation, c.offset, c.length); !errors.Is(err, volume.ErrStale) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	flip(t, w.fs, "/d/7.dat", row.Offset) // the cookie, which no checksum of the record covers
	if _, err := w.v.Record(0, row.Offset, length); !errors.Is(err, volume.ErrCorrupt) {
		t.Error(err)
	}
}

func TestMendRepairsOneRecord(t *testing.T) {
	t.Parallel()
	w := newTwin(t)
	row, _ := w.v.Lookup(10)
	o := Scrub{Found: func(d Damage) {
		if !d.Repaired || d.Key != 10 {
			t.Errorf("%+v", d)
		}
	}, Repair: func(_ context.Context, offset, length int64) ([]byte, error) {
		return []byte(w.dat[offset : offset+length]), nil
	}}
	for _, want := range []bool{true, false} {
		if want {
			flip(t, w.fs, "/d/7.dat", row.Offset+50)
		}
		if bad, err := w.v.Mend(t.Context(), row.Offset, o); err != nil || bad != want {
			t.Errorf("bad is %v, %v", bad, err)
		}
	}
	if everything(t, w.fs, "/d")["7.dat"] != w.dat {
		t.Error("the file is not as it was written")
	}
}

func TestScrubOfAForeignVolumeWritesNothing(t *testing.T) {
	t.Parallel()
	fs := faultfs.New(1)
	must(t, fs.Mkdir("/d"))
	unpack(t, fs, "testdata/vectors/damage/files.tar.gz", "flip-data/in/", "/d")
	s := openStore(t, fs)
	defer s.Close()
	v, err := s.Volume(40)
	must(t, err)
	before := everything(t, fs, "/d")
	var found []Damage
	must(t, v.Scrub(t.Context(), Scrub{Found: func(d Damage) { found = append(found, d) }}))
	if len(found) != 1 || found[0].Offset != 8 || found[0].Repaired || v.ScrubState().Done.IsZero() {
		t.Errorf("%+v", found)
	}
	if !reflect.DeepEqual(before, everything(t, fs, "/d")) {
		t.Error("files were changed")
	}
}

func FuzzDecodeScrub(f *testing.F) {
	f.Add(encodeScrub(7, 70, 1, ScrubState{Pos: 4096, Done: time.Unix(1, 5)}))
	f.Add(encodeScrub(7, 70, 2, ScrubState{}))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, ok := decodeScrub(b, 7, 70, 1)
		if s.Pos < SuperBlockSize {
			t.Fatalf("%+v", s)
		}
		if !ok {
			return
		}
		if again, ok := decodeScrub(encodeScrub(7, 70, 1, s), 7, 70, 1); !ok || !again.Done.Equal(s.Done) || again.Pos != s.Pos {
			t.Fatalf("%+v, was %+v", again, s)
		}
	})
}
