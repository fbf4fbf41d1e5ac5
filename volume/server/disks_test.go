package server_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"weedd/volume"
	"weedd/volume/vfs"
	"weedd/volume/vfs/faultfs"
)

// soonFenced is how long trouble with a disk may take to show.
const soonFenced = 5 * time.Second

// within waits for a condition that must hold before limit.
func within(t *testing.T, limit time.Duration, what string, f func() bool) {
	t.Helper()
	began := time.Now()
	eventually(t, what, f)
	if took := time.Since(began); took > limit+2*time.Second { // of a busy machine
		t.Errorf("%s: only after %v", what, took)
	}
}

func (n *node) disk0() volume.DiskReport { return n.Status().Disks[0] }

func TestAFullDiskIsReadAndDeletedFromAndWritableWhenThereIsRoom(t *testing.T) {
	t.Parallel()
	c := start(t, "a")
	c.master.grow(1, spec000, "a")
	c.open(1, 1)
	n := c.node("a")
	n.mustPut(t, fileID(1, 1), "one")
	n.mustPut(t, fileID(1, 2), "two")
	n.fs.SetSpace(vfs.Space{All: 1 << 40, Free: minFree / 2})
	within(t, soonFenced, "the disk is shown as full", func() bool { return n.disk0().Full && n.disk0().Fenced != "" })
	c.eventually("the copy is reported without room", func() bool { return c.master.report("a", 1).NoRoom })
	n.mustPut(t, fileID(1, 3), "an id given out before") // nothing new is put there, that is all
	const spare = 8 << 10
	n.fs.SetSpace(vfs.Space{All: 1 << 40, Free: minFree/4 + spare})
	within(t, soonFenced, "less room is shown", func() bool { return n.disk0().FreeB == minFree/4+spare })
	stuck := make(chan struct{})
	n.fs.SetHang(func(op faultfs.Op) <-chan struct{} { // nobody looks how much there is
		if op.Kind == faultfs.Space {
			return stuck
		}
		return nil
	})
	for key := 100; ; key++ {
		id := fileID(1, key)
		if _, err := n.Put(context.Background(), id, file(id, strings.Repeat("x", 1000)), false); err != nil {
			if key < 104 || !errors.Is(err, volume.ErrNoSpace) {
				t.Errorf("file %d: %v", key-99, err)
			}
			break
		}
		if key == 100+spare/1000 {
			t.Fatal("files go on being taken until somebody looks how much room there is")
		}
	}
	n.fs.SetHang(nil)
	close(stuck)
	n.fs.SetSpace(vfs.Space{All: 1 << 40, Free: minFree / 8})
	key := 200
	within(t, soonFenced, "files are refused", func() bool {
		key++ // to store the same again takes no room
		_, err := n.Put(context.Background(), fileID(1, key), file(fileID(1, key), "x"), false)
		return errors.Is(err, volume.ErrNoSpace)
	})
	c.wantFile("a", fileID(1, 1), "one")
	if _, err := n.Delete(context.Background(), fileID(1, 2), 0); err != nil {
		t.Errorf("delete on a disk that is nearly full: %v", err)
	}
	if r := n.Ready(); len(r) > 0 {
		t.Errorf("not ready for reads: %q", r)
	}
	n.fs.SetSpace(vfs.Space{All: 1 << 40, Free: 1 << 40})
	within(t, 2*soonFenced, "it is written to again", func() bool {
		_, err := n.Put(context.Background(), fileID(1, 10), file(fileID(1, 10), "y"), false)
		return err == nil && n.disk0().Fenced == ""
	})
	if rep := c.master.report("a", 1); rep.State != volume.CopyHealthy {
		t.Errorf("the copy is %s: %s", rep.State, rep.Reason)
	}
}

func TestADiskInTroubleIsFencedAndServedElsewhere(t *testing.T) {
	t.Parallel()
	for what, trouble := range map[string]struct {
		begin func(fs *faultfs.FS) (end func())
		shows string
	}{
		"its mount vanished": {func(fs *faultfs.FS) func() {
			gone := func(on bool) {
				fs.SetFault(func(op faultfs.Op) error {
					if on && op.Kind == faultfs.Open && strings.HasPrefix(op.Path, "/data/") {
						return syscall.ENOENT
					}
					return nil
				})
			}
			gone(true)
			return func() { gone(false) }
		}, "marker"},
		"its writes fail": {func(fs *faultfs.FS) func() {
			fs.SetFault(func(op faultfs.Op) error {
				if op.Kind == faultfs.Write && strings.HasSuffix(op.Path, ".weedd-probe") {
					return syscall.EIO
				}
				return nil
			})
			return func() { fs.SetFault(nil) }
		}, "input/output error"},
		"it hangs": {func(fs *faultfs.FS) func() {
			stuck := make(chan struct{})
			fs.SetHang(func(faultfs.Op) <-chan struct{} { return stuck })
			return func() { fs.SetHang(nil); close(stuck) }
		}, "not answered"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			c := start(t, "a", "b")
			c.master.grow(1, spec001, "a", "b")
			c.open(1, 2)
			a := c.node("a")
			a.mustPut(t, fileID(1, 1), "one")
			c.wantSame(1, "a", "b")
			end := trouble.begin(a.fs)
			defer func() { end() }()
			within(t, soonFenced, "the reason shows", func() bool { return strings.Contains(a.disk0().Fenced, trouble.shows) })
			c.eventually("its copy is reported lost", func() bool {
				r := c.master.report("a", 1)
				return r.State == volume.CopyLost && strings.Contains(r.Reason, trouble.shows)
			})
			c.wantFile("a", fileID(1, 1), "one")
			if r := a.Ready(); len(r) != 1 || !strings.Contains(r[0], "disk") {
				t.Errorf("ready with its only disk in trouble: %q", r)
			}
			old := c.master.entry(1).InSync[0]
			c.master.change(1, func(e *volume.Entry) { // as the leader decides then
				e.Primary, e.InSync, e.Joining = "b", e.InSync[1:], nil
			})
			c.node("b").mustPut(t, fileID(1, 2), "without a")
			end()
			end = func() {}
			within(t, 2*soonFenced, "the disk is used again", func() bool { return a.disk0().Fenced == "" })
			c.eventually("its copy is reported as it is", func() bool {
				r := c.master.report("a", 1)
				return r.Copy == old.Copy && r.State == volume.CopyHealthy
			})
			c.wantFile("a", fileID(1, 1), "one")
			c.master.change(1, func(e *volume.Entry) { e.Joining = []volume.Holder{{Node: "a", Copy: volume.NewCopyID()}} })
			c.open(1, 2)
			c.wantSame(1, "a", "b")
		})
	}
}

// While one disk of a node hangs, and never answers again, orders for the other
// disk are carried out, entries are learned, reports go on, and the node stops.
func TestADiskThatHangsHoldsUpNoOtherOrderNorTheStop(t *testing.T) {
	t.Parallel()
	c := start(t, "b")
	c.second = true
	n := c.boot("a", faultfs.New(5))
	for id := volume.ID(1); id <= 4; id++ { // one after the other, so on both disks
		c.master.grow(id, spec000, "a")
		c.open(id, 1)
		n.mustPut(t, fileID(id, 1), "one")
	}
	on := map[string][]volume.ID{}
	for _, v := range n.disk.Volumes() {
		on[v.Dir()] = append(on[v.Dir()], v.ID())
	}
	if len(on["/data"]) != 2 || len(on["/data2"]) != 2 {
		t.Fatalf("volumes on disks: %v", on)
	}
	stuck := make(chan struct{})
	release := sync.OnceFunc(func() { n.fs.SetHang(nil); close(stuck) })
	defer release()
	n.fs.SetHang(func(op faultfs.Op) <-chan struct{} {
		if strings.HasPrefix(op.Path, "/data2") {
			return stuck
		}
		return nil
	})
	drop := func(id volume.ID) {
		e := c.master.entry(id)
		c.master.order("a", volume.Drop{Volume: id, Copy: e.InSync[0].Copy, Epoch: e.Epoch, Deleted: true})
	}
	c.master.grow(5, spec000, "a") // one on each disk
	c.master.grow(6, spec000, "a")
	c.eventually("the one on the disk that is well is made, the other is reported failed", func() bool {
		made, failed := 0, 0
		for _, id := range []volume.ID{5, 6} {
			switch c.master.report("a", id).State {
			case volume.CopyHealthy:
				made++
			case volume.CopyFailed:
				failed++
			}
		}
		return made == 1 && failed == 1
	})
	drop(on["/data2"][0])
	drop(on["/data"][0])
	c.eventually("a copy is dropped from the disk that is well", func() bool {
		_, err := n.disk.Volume(on["/data"][0])
		return errors.Is(err, volume.ErrNoVolume)
	})
	c.eventually("the disk is reported fenced", func() bool { return strings.Contains(n.Status().Disks[1].Fenced, "not answered") })
	id := on["/data"][1]
	n.mustPut(t, fileID(id, 2), "two")

	n.run()
	if err := n.Close(); err != nil && !errors.Is(err, volume.ErrUnavailable) {
		t.Errorf("close the server: %v", err)
	}
	if err := errors.Join(n.disk.Close(), n.conns.Close()); !errors.Is(err, volume.ErrUnavailable) || !strings.Contains(err.Error(), "/data2") {
		t.Errorf("close the store: %v", err)
	}
	c.mu.Lock()
	n.down = true
	c.mu.Unlock()
	release()
}
