package server_test

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"weedd/volume"
	"weedd/volume/vfs/faultfs"
)

// fill leaves a disk no room for records.
func fill(fs *faultfs.FS) {
	fs.SetFault(func(op faultfs.Op) error {
		if op.Kind == faultfs.Write && strings.HasSuffix(op.Path, ".dat") {
			return syscall.ENOSPC
		}
		return nil
	})
}

// wantAway wants a read at a node to be sent to other nodes.
func (c *cluster) wantAway(at volume.NodeID, id volume.FileID) {
	c.t.Helper()
	n, err := c.node(at).Get(c.t.Context(), id, false)
	if err == nil {
		n.Release()
	}
	var there *volume.ElsewhereError
	if !errors.As(err, &there) || !there.Behind {
		c.t.Errorf("a copy that lacks what was acknowledged answers a read: %v", err)
	}
}

func TestAFullDiskCostsNoWriteAndNoReadIsOld(t *testing.T) {
	for _, on := range []volume.NodeID{"a", "b"} { // the primary's, the follower's
		t.Run(string(on), func(t *testing.T) {
			t.Parallel()
			c := start(t, "a", "b")
			c.master.grow(1, spec001, "a", "b")
			c.open(1, 2)
			id := fileID(1, 1)
			c.node("a").mustPut(t, id, "old")
			fill(c.node(on).fs)
			c.node("a").mustPut(t, id, "new")
			c.wantAway(on, id)
			c.wantFile(map[volume.NodeID]volume.NodeID{"a": "b", "b": "a"}[on], id, "new")
			c.node(on).fs.SetFault(nil)
			c.eventually("both copies are in sync", func() bool { return len(c.master.entry(1).InSync) == 2 })
			c.wantFile(on, id, "new")
		})
	}
}

func TestAReaderIsNotSentToNodesThatAreGone(t *testing.T) {
	t.Parallel()
	c := start(t, "a", "b")
	c.master.grow(1, spec001, "a", "b")
	c.open(1, 2)
	id := fileID(1, 1)
	c.node("a").mustPut(t, id, "old")
	c.wantFile("b", id, "old")
	fill(c.node("b").fs)
	c.node("a").mustPut(t, id, "new")
	c.wantAway("b", id)
	c.halt("a")
	c.wantFile("b", id, "old") // better than nothing
}

func TestFullDisksRefuseWritesWithoutEndlessElections(t *testing.T) {
	t.Parallel()
	c := start(t, "a", "b")
	c.master.grow(1, spec001, "a", "b")
	c.open(1, 2)
	c.node("a").mustPut(t, fileID(1, 1), "old")
	before := c.master.entry(1).Epoch
	fill(c.node("a").fs)
	fill(c.node("b").fs)
	for range 20 {
		if _, err := c.node("a").Put(t.Context(), fileID(1, 1), file(fileID(1, 1), "new"), false); !errors.Is(err, volume.ErrNoSpace) {
			t.Fatalf("a write with no room anywhere: %v", err)
		}
	}
	if e := c.master.entry(1); e.Epoch > before+4 {
		t.Errorf("%d epochs for 20 writes", e.Epoch-before)
	}
	for _, n := range []volume.NodeID{"a", "b"} {
		c.node(n).fs.SetFault(nil)
	}
}

func TestACopyThatComesBackAnswersNoReadWithWhatIsOld(t *testing.T) {
	t.Parallel()
	c := start(t, "a", "b")
	c.master.grow(1, spec001, "a", "b")
	c.open(1, 2)
	id := fileID(1, 1)
	c.node("a").mustPut(t, id, "old")
	c.wantFile("b", id, "old")
	c.halt("b")
	c.node("a").mustPut(t, id, "new")
	c.boot("b", c.node("b").fs)
	c.wantFile("b", id, "new") // before the masters have said anything, or it has caught up
}
