package store

import (
	"bytes"
	"errors"
	"testing"

	"weedd/volume"
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
