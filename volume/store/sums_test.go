package store

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"weedd/volume"
	"weedd/volume/vfs"
)

// A copy that is damaged must not be held against one that is not. What is kept
// of the sums tells, also where only a part of a MiB is asked for.
func TestAChecksumIsNotMadeOfDamagedBytes(t *testing.T) {
	t.Parallel()
	fs, _, v := newVolume(t)
	for key := volume.Key(1); key <= 3; key++ {
		must(t, write(v, record(t, v, key, bytes.Repeat([]byte{byte(key)}, 600<<10))))
	}
	const hurt = 1<<20 + 300<<10 // in the second MiB of two
	flip(t, fs, "/d/7.dat", hurt)
	for upto, bad := range map[int64]bool{1000: false, 1 << 20: false, 1<<20 + 10: true, hurt + 10: true, v.End() - 1: true, v.End(): false} {
		if _, err := v.Checksum(upto); errors.Is(err, volume.ErrCorrupt) != bad || (err != nil) != bad {
			t.Errorf("the first %d bytes: %v", upto, err)
		}
	}
}

// Damage on the disk, after the write, must not come into the sums by which copies
// are compared: else a primary with a damaged file would have the good copies
// replaced by its own. So neither a cut nor a checkpoint reads anything back.
func TestDamageIsNotTakenForWhatWasWritten(t *testing.T) {
	t.Parallel()
	sumOf := func(hurt bool) []uint32 {
		fs, s, v := newVolume(t)
		must(t, write(v, record(t, v, 1, bytes.Repeat([]byte("one"), 400<<10)))) // more than a MiB
		committed := v.End()
		must(t, v.Append(record(t, v, 2, []byte("two"))))
		kept := v.End()
		must(t, v.Append(record(t, v, 3, []byte("three"))))
		_, err := v.Sync()
		must(t, err)
		must(t, v.Checkpoint())
		if hurt {
			flip(t, fs, "/d/7.dat", 1<<20+100)
		}
		must(t, v.Cut(kept)) // with a new checkpoint
		list := []uint32{v.sums.last}
		must(t, v.Cut(committed))
		list = append(list, v.sums.last)
		must(t, v.Append(record(t, v, 4, []byte("four"))))
		must(t, v.Checkpoint())
		list = append(list, v.sums.last, v.readBack(t).sums.last)
		must(t, s.Close())
		return append(list, v.readBack(t).sums.last)
	}
	if good, bad := sumOf(false), sumOf(true); !slices.Equal(good, bad) {
		t.Errorf("sums %x with a flipped bit, %x without", bad, good)
	}
}

// readBack is the checkpoint on disk.
func (v *Volume) readBack(t *testing.T) *checkpoint {
	t.Helper()
	b, err := vfs.ReadFile(v.opts.FS, v.base+extCkpt)
	must(t, err)
	c, err := decodeCheckpoint(b)
	must(t, err)
	return c
}

// Rows lost with the page cache leave records to be read again at the start. What
// the checkpoint knows of their bytes stays.
func TestLostRowsDoNotMakeDamageSound(t *testing.T) {
	t.Parallel()
	fs, s, v := newVolume(t)
	data := bytes.Repeat([]byte("x"), 600<<10)
	must(t, write(v, record(t, v, 1, data)))
	must(t, write(v, record(t, v, 2, data)))
	must(t, write(v, record(t, v, 3, data)))
	want := v.sums.last
	must(t, s.Close())
	must(t, fs.Remove("/d/7.widx"))
	must(t, vfs.Write(fs, "/d/7.idx", nil))
	flip(t, fs, "/d/7.dat", SuperBlockSize+16+4+600<<10+2) // in the name of the first
	_, v = reopen(t, fs, s)
	if v.sums.last != want {
		t.Errorf("sum %x, appended were bytes of %x", v.sums.last, want)
	}
}

// A checkpoint vouches for rows by their number: they must be on disk by then.
func TestACheckpointNamesOnlyRowsThatAreSynced(t *testing.T) {
	t.Parallel()
	_, _, v := newVolume(t)
	must(t, v.Append(record(t, v, 1, []byte("one"))))
	end := v.End()
	must(t, v.Append(record(t, v, 2, []byte("two"))))
	must(t, v.Checkpoint())
	v.Publish(end)
	must(t, v.Flush()) // the row is written, and not synced
	must(t, v.Cut(end))
	if c := v.readBack(t); c.rows != 0 || c.committed != end {
		t.Errorf("%d rows, %d bytes committed of %d", c.rows, c.committed, end)
	}
	must(t, v.Checkpoint())
	if c := v.readBack(t); c.rows != 1 {
		t.Errorf("%d rows after a sync", c.rows)
	}
}
