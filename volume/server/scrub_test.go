package server_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"weedd/volume"
	"weedd/volume/server"
	"weedd/volume/vfs"
)

// flipAt inverts a bit of a volume file on a node.
func (n *node) flipAt(t *testing.T, path string, off int64) {
	t.Helper()
	f, err := n.fs.OpenFile(path, os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	b := []byte{0}
	_, err = f.ReadAt(b, off)
	b[0] ^= 4
	if err == nil {
		_, err = f.WriteAt(b, off)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func (n *node) bytes(t *testing.T, path string) string {
	t.Helper()
	b, err := vfs.ReadFile(n.fs, path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// scrubbed waits until a pass over a volume has ended after since.
func (c *cluster) scrubbed(n volume.NodeID, id volume.ID, since time.Time) (r server.ScrubReport) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("volume %d is scrubbed at %s", id, n), func() bool {
		for _, r = range c.node(n).ScrubStatus() {
			if r.Volume == id {
				return !r.Waiting && !r.Running && (r.Done.After(since) || r.Err != "")
			}
		}
		return false
	})
	return r
}

// start2 is two nodes with a volume of some files, all of it on both.
func start2(t *testing.T) *cluster {
	t.Helper()
	c := start(t, "a", "b")
	c.master.grow(7, spec001, "a", "b")
	c.open(7, 2)
	for k := 1; k <= 5; k++ {
		c.node("a").mustPut(t, fileID(7, k), strings.Repeat(fmt.Sprint("file ", k), 1000))
	}
	c.eventually("both have published all", func() bool {
		for _, n := range []volume.NodeID{"a", "b"} {
			if v, err := c.node(n).disk.Volume(7); err != nil || v.Committed() != v.End() || v.End() < 5000 {
				return false
			}
		}
		return true
	})
	return c
}

// Damage on either copy, also where no checksum of the record covers it, is found
// by a scrub and repaired from the other; what is bad on both is told.
func TestScrubRepairsFromAnotherHolder(t *testing.T) {
	t.Parallel()
	c := start2(t)
	good := c.node("a").bytes(t, "/data/7.dat")
	for _, n := range []volume.NodeID{"a", "b"} {
		for what, at := range map[string]int64{"cookie": 8, "data": 8 + 16 + 4 + 100, "padding": int64(len(good)) - 1} {
			since := time.Now()
			c.node(n).flipAt(t, "/data/7.dat", at)
			if _, err := c.node(n).ScrubNow(7); err != nil {
				t.Fatal(err)
			}
			r := c.scrubbed(n, 7, since)
			if r.Bad != 1 || r.Repaired != 1 || c.node(n).bytes(t, "/data/7.dat") != good {
				t.Errorf("%s at %s: %+v", what, n, r)
			}
		}
	}
	since := time.Now()
	c.node("a").flipAt(t, "/data/7.dat", 8+16+4+100)
	c.node("b").flipAt(t, "/data/7.dat", 8+16+4+101)
	if n, err := c.node("a").ScrubNow(); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	if r := c.scrubbed("a", 7, since); r.Repaired != 0 || r.Bad == 0 || r.Problems[0].Key != "1" || r.Problems[0].Offset != 8 || !strings.Contains(r.Problems[0].Err, "other copies have no better bytes") {
		t.Errorf("bad on both: %+v", r)
	}
	if _, err := c.node("a").ScrubNow(8); !errors.Is(err, volume.ErrNoVolume) {
		t.Errorf("scrub of a volume that is not here: %v", err)
	}
}

// A read that meets a bad record is answered by another copy, and has the record
// repaired.
func TestAReadThatMeetsABadRecordHasItRepaired(t *testing.T) {
	t.Parallel()
	c := start2(t)
	good := c.node("a").bytes(t, "/data/7.dat")
	c.node("a").flipAt(t, "/data/7.dat", 8+16+4+100)
	c.wantFile("a", fileID(7, 1), strings.Repeat("file 1", 1000))
	c.eventually("the record is as it was written", func() bool { return c.node("a").bytes(t, "/data/7.dat") == good })
	got, err := c.node("a").Get(t.Context(), fileID(7, 1), false)
	if err != nil {
		t.Fatal(err)
	}
	got.Release()
}

// While no other copy can be asked, a bad record stays bad and is reported; soon
// after one is there again it is repaired, and nobody has to read it once more.
func TestABadRecordIsRepairedSoonAfterAnotherCopyIsThere(t *testing.T) {
	t.Parallel()
	c := start2(t)
	good := c.node("a").bytes(t, "/data/7.dat")
	b := c.node("b")
	c.halt("b")
	c.node("a").flipAt(t, "/data/7.dat", 8+16+4+100)
	if n, err := c.node("a").Get(t.Context(), fileID(7, 1), false); err == nil {
		n.Release()
		t.Fatal("read of a bad record")
	}
	c.eventually("the damage is reported", func() bool { return c.master.report("a", 7).Damaged == 1 })
	c.boot("b", b.fs)
	within(t, 5*time.Second, "the record is as it was written", func() bool { return c.node("a").bytes(t, "/data/7.dat") == good })
	c.eventually("the damage is reported no more", func() bool { return c.master.report("a", 7).Damaged == 0 })
}

// Passes that nobody asked for come by themselves.
func TestVolumesAreScrubbedInTheirTime(t *testing.T) {
	t.Parallel()
	c := start2(t)
	good := c.node("b").bytes(t, "/data/7.dat")
	fs := c.node("b").fs
	c.halt("b")
	c.scrub = 50 * time.Millisecond
	c.boot("b", fs)
	since := time.Now()
	c.scrubbed("b", 7, since)
	c.node("b").flipAt(t, "/data/7.dat", 8+16+4+100)
	c.eventually("damage was found and repaired", func() bool { return c.node("b").bytes(t, "/data/7.dat") == good })
	c.scrubbed("b", 7, time.Now())
}
