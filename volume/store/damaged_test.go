package store

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"weedd/volume"
)

// A bad byte at the end of a copy, where the next start compares what it finds with
// the checkpoint, is damage and no other program's work: the copy stays ours, takes
// writes, and is repaired.
func TestACopyThatIsDamagedAtItsEndIsOurs(t *testing.T) {
	t.Parallel()
	fs, s, v := newVolume(t)
	must(t, write(v, record(t, v, 1, []byte("one"))))
	must(t, write(v, record(t, v, 2, []byte("two"))))
	end := v.End()
	good := make([]byte, 48)
	if _, err := v.ReadAt(good, end-48); err != nil {
		t.Fatal(err)
	}
	must(t, s.Close())
	f, err := fs.OpenFile("/d/7.dat", os.O_RDWR)
	must(t, err)
	if _, err := f.WriteAt([]byte("!"), end-48+20); err != nil {
		t.Fatal(err)
	}
	must(t, f.Close())
	s = openStore(t, fs)
	v, err = s.Volume(7)
	must(t, err)
	if v.Foreign() || v.CopyID() != 70 || v.End() != end {
		t.Fatalf("copy %s, %d bytes", v.CopyID(), v.End())
	}
	expect(t, v, 1, []byte("one"))
	if _, err := v.Get(2, cookieOf(2), time.Unix(1e9, 0), false); !errors.Is(err, volume.ErrCorrupt) {
		t.Fatalf("read of damaged bytes: %v", err)
	}
	must(t, write(v, record(t, v, 3, []byte("three"))))
	var found []Damage
	must(t, v.Scrub(t.Context(), Scrub{
		Anew: true, Found: func(d Damage) { found = append(found, d) },
		Repair: func(context.Context, int64, int64) ([]byte, error) { return good, nil },
	}))
	if len(found) != 1 || !found[0].Repaired || found[0].Key != 2 {
		t.Fatalf("found %+v", found)
	}
	expect(t, v, 2, []byte("two"))
	must(t, s.Close())
	s = openStore(t, fs)
	v, err = s.Volume(7)
	must(t, err)
	if v.Foreign() {
		t.Fatal("not ours after the repair")
	}
	expect(t, v, 3, []byte("three"))
	must(t, s.Close())
}
