package server_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weedd/volume"
	"weedd/volume/store"
	"weedd/volume/vfs"
	"weedd/volume/vfs/faultfs"
	"weedd/volume/volumetest"
)

func TestOrdersMakeCopiesAndAnyNodeTakesWrites(t *testing.T) {
	t.Parallel()
	c := start(t, "a", "b", "c")
	c.master.grow(1, spec001, "a", "b")
	c.open(1, 2)
	for i, n := range []volume.NodeID{"a", "b", "c"} {
		c.node(n).mustPut(t, fileID(1, 10+i), "by "+string(n))
	}
	for i, by := range []string{"a", "b", "c"} {
		c.wantFile("a", fileID(1, 10+i), "by "+by)
		c.wantFile("b", fileID(1, 10+i), "by "+by)
	}
	if _, err := c.node("c").Delete(context.Background(), fileID(1, 10), 0); err != nil {
		t.Errorf("delete at a node without a copy: %v", err)
	}
	for _, n := range []volume.NodeID{"a", "b"} {
		if _, err := c.get(n, fileID(1, 10), false); !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("get of a deleted file at %s: %v", n, err)
		}
	}
	var there *volume.ElsewhereError
	if _, err := c.node("c").Get(context.Background(), fileID(1, 11), false); !errors.As(err, &there) || len(there.Nodes) != 2 || there.Nodes[0].ID != "a" {
		t.Errorf("get at a node without a copy: %v, %+v", err, there)
	}
	if _, err := c.node("c").Get(context.Background(), fileID(9, 1), false); !errors.Is(err, volume.ErrNoVolume) || errors.As(err, &there) {
		t.Errorf("get of a volume that nobody has: %v", err)
	}
	if _, err := c.node("c").Put(context.Background(), fileID(9, 1), file(fileID(9, 1), "x"), false); !errors.Is(err, volume.ErrNoVolume) {
		t.Errorf("put to a volume that nobody has: %v", err)
	}
	c.wantSame(1, "a", "b")
}

// Whoever places volumes counts a copy that is reported as one of those in Used.
func TestAReportOfACopyMadeOrDroppedSaysHowManySlotsAreUsed(t *testing.T) {
	t.Parallel()
	c := start(t, "a")
	c.master.grow(1, spec000, "a")
	c.open(1, 1)
	h := c.master.entry(1).InSync[0]
	c.master.mu.Lock()
	delete(c.master.entries, 1)
	c.master.mu.Unlock()
	c.master.order("a", volume.Drop{Volume: 1, Copy: h.Copy, Epoch: 1, Deleted: true})
	c.eventually("the copy goes", func() bool {
		c.master.mu.Lock()
		defer c.master.mu.Unlock()
		return len(c.master.gone["a"]) > 0
	})
	c.master.mu.Lock()
	defer c.master.mu.Unlock()
	if c.master.slots < 2 || c.master.noSlots > 0 {
		t.Errorf("%d such reports with the disks and %d without", c.master.slots, c.master.noSlots)
	}
}

// The suite reads at a follower what it has just written or deleted. A copy that is
// dropped from the set, as it is when the machine is so busy that it does not answer
// for a second, may serve what it has until it knows (rule R12), so none is dropped.
func TestItKeepsBlobsAsAllDo(t *testing.T) {
	t.Parallel()
	c := start(t, "a", "b", "c")
	c.master.mu.Lock()
	c.master.patient = true
	c.master.mu.Unlock()
	c.master.grow(1, spec001, "a", "b")
	c.open(1, 2)
	for _, n := range []volume.NodeID{"a", "b"} { // at the primary, and passed on
		t.Run("at "+string(n), func(t *testing.T) {
			id := volume.ID(20 + len(c.master.entries))
			c.master.grow(id, spec001, "a", "b")
			c.open(id, 2)
			volumetest.Run(t, func(t *testing.T) (volumetest.Store, volume.ID) { return client{c.node(n), c}, id })
		})
	}
}

func TestAReturningFollowerCatchesUpByTheTailAlone(t *testing.T) {
	t.Parallel()
	c := start(t, "a", "b")
	c.master.grow(1, spec001, "a", "b")
	c.open(1, 2)
	for i := range 50 {
		c.node("a").mustPut(t, fileID(1, 1+i), strings.Repeat("old ", 1000))
	}
	c.open(1, 2)
	c.wantSame(1, "a", "b")
	c.halt("b")
	c.node("a").mustPut(t, fileID(1, 1000), "missed") // drops b from the set, and is answered
	if e := c.master.entry(1); len(e.InSync) != 1 || len(e.Joining) != 1 {
		t.Fatalf("b was not dropped: %+v", e)
	}
	before := c.sent.Load()
	c.boot("b", c.node("b").fs.Crash(1))
	c.open(1, 2)
	if n := c.sent.Load() - before; n > 1000 {
		t.Errorf("%d bytes were sent to catch up with one small file", n)
	}
	c.wantFile("b", fileID(1, 1000), "missed")
	c.wantSame(1, "a", "b")
}

func TestARestartedPrimaryLeadsAgain(t *testing.T) {
	t.Parallel()
	c := start(t, "a", "b")
	c.master.grow(1, spec001, "a", "b")
	c.open(1, 2)
	c.node("a").mustPut(t, fileID(1, 1), "one")
	c.halt("a")
	done := make(chan error, 1)
	go func() { // held until the primary is back
		_, err := c.node("b").Put(context.Background(), fileID(1, 2), file(fileID(1, 2), "two"), false)
		done <- err
	}()
	c.boot("a", c.node("a").fs.Crash(2))
	if err := <-done; err != nil {
		t.Errorf("put held over a restart of the primary: %v", err)
	}
	c.wantFile("a", fileID(1, 1), "one")
	c.wantFile("a", fileID(1, 2), "two")
	if e := c.master.entry(1); e.Epoch < 2 {
		t.Errorf("the primary wrote in its old epoch: %+v", e)
	}
}

func TestALostCopyIsReportedAndMadeOnlyUnderANewID(t *testing.T) {
	t.Parallel()
	c := start(t, "a", "b")
	c.master.grow(1, spec001, "a", "b")
	c.open(1, 2)
	c.node("a").mustPut(t, fileID(1, 1), "kept")
	c.halt("b")
	lost, _, _ := c.master.entry(1).Holder("b")
	c.boot("b", faultfs.New(99)) // another disk, the same node
	c.eventually("b reports its copy as lost", func() bool {
		r := c.master.report("b", 1)
		return r.State == volume.CopyLost && r.Copy == lost.Copy
	})
	c.node("a").mustPut(t, fileID(1, 2), "without b")
	if e := c.master.entry(1); !slices.Contains(e.Joining, lost) {
		t.Fatalf("the lost copy is not joining: %+v", e)
	}
	c.master.change(1, func(e *volume.Entry) {}) // one more order that names it
	c.eventually("b stays without it", func() bool { return c.master.report("b", 1).State == volume.CopyLost })
	if vs := c.node("b").disk.Volumes(); len(vs) != 0 {
		t.Errorf("b made the lost copy anew: %v", vs)
	}
	fresh := volume.Holder{Node: "b", Copy: volume.NewCopyID()}
	c.master.change(1, func(e *volume.Entry) { e.Joining = []volume.Holder{fresh} })
	c.open(1, 2)
	if e := c.master.entry(1); !slices.Contains(e.InSync, fresh) {
		t.Errorf("the new copy is not in sync: %+v", e)
	}
	c.wantSame(1, "a", "b")
}

// The entry that names a joining copy may be old, and the question to add it may
// be under way: a disk that was replaced meanwhile must not be filled under its id.
func TestACopyMadeBeforeIsNotMadeAgainWhateverTheEntrySays(t *testing.T) {
	t.Parallel()
	for _, state := range []string{"joining", "new"} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			c := start(t, "a", "b")
			c.master.grow(1, spec001, "a", "b")
			c.open(1, 2)
			old := c.master.entry(1).InSync[1]
			c.halt("b")
			now := c.master.change(1, func(e *volume.Entry) {
				if state == "new" {
					e.State = volume.StateNew
					return
				}
				e.InSync, e.Joining = e.InSync[:1], []volume.Holder{old}
			})
			c.boot("b", faultfs.New(99)) // another disk, the same node
			c.eventually("b reports its copy as lost", func() bool {
				r := c.master.report("b", 1)
				return r.State == volume.CopyLost && r.Copy == old.Copy
			})
			if vs := c.node("b").disk.Volumes(); len(vs) != 0 {
				t.Errorf("b made the lost copy anew: %v", vs)
			}
			if now := c.master.entry(1); slices.Contains(now.InSync, old) && state == "joining" {
				t.Errorf("it is in sync: %+v", now)
			}
			if state == "new" {
				return
			}
			fresh := volume.Holder{Node: "b", Copy: volume.NewCopyID()}
			c.master.change(1, func(e *volume.Entry) { e.Joining = []volume.Holder{fresh} })
			c.open(1, 2)
			c.wantSame(1, "a", "b")
			// An order that was overtaken replaces nothing.
			stale := now
			stale.Joining = []volume.Holder{{Node: "b", Copy: volume.NewCopyID()}}
			c.node("b").Obey(volume.Orders{Cluster: clusterID, Entries: []volume.Entry{stale}})
			if v, err := c.node("b").disk.Volume(1); err != nil || v.CopyID() != fresh.Copy {
				t.Errorf("an old order replaced the copy: %v", err)
			}
		})
	}
}

// A copy that failed is known failed after a restart, though its disk works
// again: what the page cache has may not be on it.
func TestAFailedCopyStaysFailedOverARestart(t *testing.T) {
	t.Parallel()
	c := start(t, "a")
	c.master.grow(1, spec000, "a")
	c.open(1, 1)
	c.node("a").mustPut(t, fileID(1, 1), "kept")
	c.node("a").fs.SetFault(func(op faultfs.Op) error {
		if op.Kind == faultfs.Sync {
			return faultfs.ErrInjected
		}
		return nil
	})
	brief, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.node("a").Put(brief, fileID(1, 2), file(fileID(1, 2), "ghost"), false); err == nil {
		t.Fatal("acknowledged without a sync")
	}
	c.node("a").fs.SetFault(nil)
	c.halt("a")
	c.boot("a", c.node("a").fs)
	c.eventually("a reports the failed copy", func() bool { return c.master.report("a", 1).State == volume.CopyFailed })
	c.wantFile("a", fileID(1, 1), "kept")
	brief, cancel = context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.node("a").Get(brief, fileID(1, 2), false); err == nil {
		t.Error("what was never synced is served")
	}
}

// What the store does not trust is in the way of a new copy, and is set aside,
// also after a restart.
func TestACopyThatIsNotTrustedMakesWayForANewOne(t *testing.T) {
	t.Parallel()
	for what, spoil := range map[string]func(fs *faultfs.FS) error{
		"damaged":  func(fs *faultfs.FS) error { return vfs.Write(fs, "/data/1.wcopy", []byte("junk")) },
		"unfit":    func(fs *faultfs.FS) error { return truncate(fs, "/data/1.dat", store.SuperBlockSize) },
		"headless": func(fs *faultfs.FS) error { return truncate(fs, "/data/1.dat", 1) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			c := start(t, "a", "b")
			c.master.grow(1, spec001, "a", "b")
			c.open(1, 2)
			c.node("a").mustPut(t, fileID(1, 1), "kept")
			c.wantSame(1, "a", "b")
			c.halt("b")
			if err := spoil(c.node("b").fs); err != nil {
				t.Fatal(err)
			}
			fresh := volume.Holder{Node: "b", Copy: volume.NewCopyID()}
			c.master.change(1, func(e *volume.Entry) { e.InSync, e.Joining = e.InSync[:1], []volume.Holder{fresh} })
			c.boot("b", c.node("b").fs)
			if what == "damaged" { // whose it was cannot be told: it may be anybody's
				c.eventually("b says what is in the way", func() bool { return c.master.report("b", 1).Blocked })
				return
			}
			c.open(1, 2)
			c.wantSame(1, "a", "b")
			if aside := c.node("b").disk.Aside(); len(aside) != 1 || !strings.Contains(aside[0].Reason, "replaced by copy") {
				t.Errorf("set aside: %+v", aside)
			}
		})
	}
}

func truncate(fs *faultfs.FS, path string, size int64) error {
	f, err := fs.OpenFile(path, os.O_RDWR)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Sync(), f.Close())
}

func TestAReplacedCopyIsSetAsideNotDeleted(t *testing.T) {
	t.Parallel()
	c := start(t, "a", "b")
	c.master.grow(1, spec001, "a", "b")
	c.open(1, 2)
	c.node("a").mustPut(t, fileID(1, 1), "kept")
	fresh := volume.Holder{Node: "b", Copy: volume.NewCopyID()}
	c.master.change(1, func(e *volume.Entry) {
		e.InSync = slices.DeleteFunc(e.InSync, func(h volume.Holder) bool { return h.Node == "b" })
		e.Joining = []volume.Holder{fresh}
	})
	c.open(1, 2)
	if v, err := c.node("b").disk.Volume(1); err != nil || v.CopyID() != fresh.Copy {
		t.Errorf("volume 1 on b: %v", err)
	}
	c.eventually("the old copy is shown as set aside", func() bool {
		c.master.mu.Lock()
		defer c.master.mu.Unlock()
		return len(c.master.aside["b"]) == 1
	})
	c.wantSame(1, "a", "b")
}

func TestACopyIsDroppedOnlyWhenTheOthersHaveItAll(t *testing.T) {
	t.Parallel()
	c := start(t, "a", "b", "c")
	c.master.grow(1, spec001, "a", "b")
	c.open(1, 2)
	c.node("a").mustPut(t, fileID(1, 1), "kept")
	extra := volume.Holder{Node: "c", Copy: volume.NewCopyID()}
	c.master.change(1, func(e *volume.Entry) { e.Joining = []volume.Holder{extra} })
	c.open(1, 3)
	listed := c.master.entry(1)
	keep := slices.DeleteFunc(slices.Clone(listed.InSync), func(h volume.Holder) bool { return h.Node == "c" })
	has := func() bool { _, err := c.node("c").disk.Volume(1); return err == nil }
	still := func(what string) {
		if !has() {
			t.Fatalf("dropped although %s", what)
		}
	}
	drop := func(d volume.Drop) error { return c.node("c").Drop(context.Background(), d) }

	d := volume.Drop{Volume: 1, Copy: extra.Copy, Epoch: listed.Epoch, Keep: keep}
	if err := drop(d); !errors.Is(err, volume.ErrStale) {
		t.Errorf("drop of a copy that is listed: %v", err)
	}
	still("it is listed")
	e := c.master.change(1, func(e *volume.Entry) { e.InSync = keep })
	c.open(1, 2)
	d.Epoch = e.Epoch + 5
	if err := drop(d); !errors.Is(err, volume.ErrStale) {
		t.Errorf("drop at an epoch that has not come: %v", err)
	}
	d.Epoch, d.Keep = e.Epoch, keep[:1]
	if err := drop(d); !errors.Is(err, volume.ErrUnavailable) {
		t.Errorf("drop with one copy to keep where two are asked for: %v", err)
	}
	if err := drop(volume.Drop{Volume: 1, Copy: extra.Copy + 1, Epoch: e.Epoch, Deleted: true}); err != nil {
		t.Errorf("drop of a copy that is not here: %v", err)
	}
	still("the order did not hold")
	c.halt("b")
	d.Keep = keep
	if err := drop(d); err == nil {
		t.Error("dropped although a copy to keep did not answer")
	}
	still("a copy to keep did not answer")
	c.boot("b", c.node("b").fs.Crash(3))
	c.eventually("b is back in this epoch", func() bool { return c.master.report("b", 1).Epoch >= e.Epoch })
	c.master.order("c", d)
	c.eventually("c reports the copy gone", func() bool {
		c.master.mu.Lock()
		defer c.master.mu.Unlock()
		return slices.Contains(c.master.gone["c"], 1)
	})
	if has() {
		t.Error("reported gone, and still there")
	}
	c.wantFile("b", fileID(1, 1), "kept")
}

func TestADeletedVolumeIsDropped(t *testing.T) {
	t.Parallel()
	c := start(t, "a")
	c.master.grow(1, spec000, "a")
	c.open(1, 1)
	h := c.master.entry(1).InSync[0]
	c.master.mu.Lock()
	delete(c.master.entries, 1)
	c.master.notifyLocked() // an order that lists nothing deletes nothing
	c.master.mu.Unlock()
	c.master.grow(2, spec000, "a")
	c.open(2, 1)
	if _, err := c.node("a").disk.Volume(1); err != nil {
		t.Fatalf("a volume that the orders did not name is gone: %v", err)
	}
	c.master.order("a", volume.Drop{Volume: 1, Copy: h.Copy, Epoch: 1, Deleted: true})
	c.eventually("the volume is gone", func() bool { _, err := c.node("a").disk.Volume(1); return errors.Is(err, volume.ErrNoVolume) })
}

// A disk may come from another cluster, with a volume of a number that was deleted
// in this one.
func TestACopyThatCameWithItsDiskIsNotDeleted(t *testing.T) {
	t.Parallel()
	c := start(t, "a", "b")
	c.master.grow(1, spec000, "a")
	c.open(1, 1)
	c.node("a").mustPut(t, fileID(1, 1), "of another cluster")
	h := c.master.entry(1).InSync[0]
	c.halt("a")
	c.halt("b")
	c.boot("b", c.node("a").fs.Crash(3))
	if _, err := c.node("b").disk.Volume(1); err != nil {
		t.Fatal(err)
	}
	c.master.order("b", volume.Drop{Volume: 1, Copy: h.Copy, Epoch: 1, Deleted: true})
	c.eventually("the volume is not served", func() bool { _, err := c.node("b").disk.Volume(1); return errors.Is(err, volume.ErrNoVolume) })
	c.eventually("it is set aside", func() bool {
		c.master.mu.Lock()
		defer c.master.mu.Unlock()
		return len(c.master.aside["b"]) == 1
	})
}

// A host was thought to have burned, and is back: its copy, which it made by order, may
// be the only one.
func TestACopyOfAForgottenVolumeIsSetAsideAndItsFilesAreKept(t *testing.T) {
	t.Parallel()
	c := start(t, "a")
	c.master.grow(1, spec000, "a")
	c.open(1, 1)
	c.node("a").mustPut(t, fileID(1, 1), "the only one")
	h := c.master.entry(1).InSync[0]
	c.master.mu.Lock()
	delete(c.master.entries, 1)
	c.master.mu.Unlock()
	c.master.order("a", volume.Drop{Volume: 1, Copy: h.Copy, Forgotten: true})
	c.eventually("the volume is not served", func() bool { _, err := c.node("a").disk.Volume(1); return errors.Is(err, volume.ErrNoVolume) })
	c.eventually("it is set aside", func() bool {
		c.master.mu.Lock()
		defer c.master.mu.Unlock()
		a := c.master.aside["a"]
		return len(a) == 1 && a[0].Moved && strings.Contains(a[0].Reason, "weedd forget")
	})
}

// An adoption that was ordered anew in the moment when the older order was carried
// out: the leader must hear of the copy that is there.
func TestACopyAdoptedByAnOlderOrderIsReported(t *testing.T) {
	t.Parallel()
	c := start(t, "a")
	c.master.grow(1, spec000, "a")
	c.open(1, 1)
	made := c.master.entry(1).InSync[0]
	c.master.change(1, func(e *volume.Entry) {
		e.State, e.Sources = volume.StateNew, []volume.Source{{Node: "a", Print: 1}}
		e.InSync = []volume.Holder{{Node: "a", Copy: volume.NewCopyID()}}
	})
	c.master.grow(2, spec000, "a")
	c.open(2, 1) // so the order before has been obeyed, and reported
	if r := c.master.report("a", 1); r.Copy != made.Copy || r.State != volume.CopyHealthy {
		t.Errorf("reported: copy %s %s, %s", r.Copy, r.State, r.Reason)
	}
}

func TestAPlannedStopHandsOver(t *testing.T) {
	t.Parallel()
	c := start(t, "a", "b", "c")
	for id := volume.ID(1); id <= 5; id++ {
		c.master.grow(id, spec001, "a", "b")
		c.open(id, 2)
	}
	c.master.grow(6, spec000, "a")
	c.open(6, 1)
	stop, done := make(chan struct{}), make(chan error)
	go func() { // writes go on all the while
		var err error
		for i := 0; ; i++ {
			select {
			case <-stop:
				done <- err
				return
			default:
			}
			id := fileID(volume.ID(1+i%5), 100+i)
			if _, e := c.node("c").Put(context.Background(), id, file(id, "x"), false); e != nil {
				err = errors.Join(err, e)
			}
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := c.node("a").Drain(ctx); err != nil {
		t.Errorf("drain: %v", err)
	}
	close(stop)
	if err := <-done; err != nil {
		t.Errorf("writes during a planned stop: %v", err)
	}
	for id := volume.ID(1); id <= 5; id++ {
		if e := c.master.entry(id); e.Primary != "b" {
			t.Errorf("volume %d is still led by %s", id, e.Primary)
		}
	}
	if r := c.node("a").Ready(); len(r) != 1 || !strings.Contains(r[0], "stopping") {
		t.Errorf("ready while stopping: %q", r)
	}
}

func TestOrdersOfAnotherClusterAreRefused(t *testing.T) {
	t.Parallel()
	c := start(t, "a")
	c.eventually("a is ready", func() bool { return len(c.node("a").Ready()) == 0 })
	c.master.mu.Lock()
	c.master.cluster = "c2"
	c.master.mu.Unlock()
	c.master.grow(1, spec000, "a")
	c.eventually("a says why it is not ready", func() bool {
		r := c.node("a").Ready()
		return len(r) == 1 && strings.Contains(r[0], "c2")
	})
	if vs := c.node("a").disk.Volumes(); len(vs) != 0 {
		t.Errorf("a copy was made by order of another cluster")
	}
}

func TestAFailedDiskCostsNoRequest(t *testing.T) {
	t.Parallel()
	c := start(t, "a", "b")
	c.master.grow(1, spec001, "a", "b")
	c.open(1, 2)
	c.node("a").mustPut(t, fileID(1, 1), "kept")
	c.node("a").fs.SetFault(func(op faultfs.Op) error {
		if op.Kind == faultfs.Sync {
			return faultfs.ErrInjected
		}
		return nil
	})
	c.node("a").mustPut(t, fileID(1, 2), "after the disk failed") // b leads meanwhile
	c.wantFile("b", fileID(1, 2), "after the disk failed")
	if e := c.master.entry(1); e.Primary != "b" {
		t.Errorf("volume 1 is still led by %s", e.Primary)
	}
	c.eventually("a reports the failed copy", func() bool { return c.master.report("a", 1).State == volume.CopyFailed })
}

func TestAWriteToAFrozenPrimaryIsRepeatedAtTheNext(t *testing.T) {
	t.Parallel()
	c := start(t, "a", "b", "c")
	c.master.grow(1, spec001, "a", "b")
	c.open(1, 2)
	c.frozen.Store(volume.NodeID("a"))
	short, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	id := fileID(1, 1)
	if _, err := c.node("c").Put(short, id, file(id, "x"), false); !errors.Is(err, volume.ErrOutcomeUnknown) {
		t.Errorf("put that got no answer: %v", err)
	}
	over := fileID(1, 2)
	c.node("a").mustPut(t, over, "stored before a froze")
	done := make(chan error, 2)
	for _, id := range []volume.FileID{id, over} {
		go func() {
			_, err := c.node("c").Put(context.Background(), id, file(id, "x"), false)
			done <- err
		}()
	}
	c.master.change(1, func(e *volume.Entry) { e.Primary = "b" })
	for range cap(done) {
		if err := <-done; err != nil {
			t.Errorf("put at a frozen primary while another takes over: %v", err)
		}
	}
	c.wantFile("b", id, "x")
	c.wantFile("b", over, "x")
}

// Of a write whose first attempt has no known outcome, and whose file is deleted in
// the next epoch, it is known that it is not stored: the client may repeat it.
func TestAnOverwriteThatFindsItsFileDeletedAfterAFailoverMayBeRepeated(t *testing.T) {
	t.Parallel()
	c := start(t, "a", "b", "c")
	c.master.grow(1, spec001, "a", "b")
	c.open(1, 2)
	id := fileID(1, 1)
	c.node("a").mustPut(t, id, "old")
	if _, err := c.node("a").Delete(context.Background(), id, 0); err != nil {
		t.Fatal(err)
	}
	c.frozen.Store(volume.NodeID("a"))
	done := make(chan error, 1)
	go func() {
		_, err := c.node("c").Put(context.Background(), id, file(id, "new"), false)
		done <- err
	}()
	c.eventually("the write is at a", func() bool { return c.held.Load() > 0 })
	c.master.change(1, func(e *volume.Entry) { e.Primary = "b" })
	if err := <-done; !errors.Is(err, volume.ErrUnavailable) || errors.Is(err, volume.ErrOutcomeUnknown) {
		t.Errorf("a write over a file that is deleted, in the next epoch: %v", err)
	}
	if _, err := c.node("b").Get(context.Background(), id, false); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("the deleted file: %v", err)
	}
	c.node("c").mustPut(t, id, "new")
	c.wantFile("b", id, "new")
}

// While no master can be asked where a volume is, a read of it waits.
func TestAReadWaitsForAMaster(t *testing.T) {
	t.Parallel()
	c := start(t, "a", "b", "c")
	c.master.grow(1, spec001, "a", "b")
	c.open(1, 2)
	id := fileID(1, 1)
	c.node("a").mustPut(t, id, "x")
	c.master.deaf.Store(3)
	var there *volume.ElsewhereError
	if _, err := c.node("c").Get(context.Background(), id, false); !errors.As(err, &there) || len(there.Nodes) != 2 {
		t.Errorf("%v, want the two holders", err)
	}
}

func TestACorruptFileIsReadElsewhere(t *testing.T) {
	t.Parallel()
	c := start(t, "a", "b")
	c.master.grow(1, spec001, "a", "b")
	c.open(1, 2)
	id := fileID(1, 1)
	c.node("a").mustPut(t, id, "precious")
	c.wantSame(1, "a", "b")
	c.wantFile("a", id, "precious")
	c.open(1, 2)
	f, err := c.node("a").fs.OpenFile("/data/1.dat", os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("X"), 8+16+4); err != nil { // the first byte of data
		t.Fatal(err)
	}
	var there *volume.ElsewhereError
	if _, err := c.node("a").Get(context.Background(), id, false); !errors.As(err, &there) || len(there.Nodes) != 1 || there.Nodes[0].ID != "b" {
		t.Errorf("get of a corrupt file: %v", err)
	}
	c.wantFile("a", id, "precious")
}

// A volume that is read-only by decision refuses writes and deletes at every node, by
// its name, and is read as before; its primary reports it in the epoch of the decision.
func TestAVolumeThatIsReadOnlyTakesNoWrites(t *testing.T) {
	t.Parallel()
	c := start(t, "a", "b", "c")
	c.master.grow(1, spec001, "a", "b")
	c.open(1, 2)
	id := fileID(1, 1)
	c.node("a").mustPut(t, id, "old")
	e := c.master.change(1, func(e *volume.Entry) { e.State, e.Epoch = volume.StateReadOnly, e.Epoch+1 })
	c.eventually("the primary says so, with nothing under way", func() bool {
		r := c.master.report("a", 1)
		return r.ReadOnly && !r.Leads && r.Epoch == e.Epoch && r.Committed == r.Size
	})
	for _, n := range []volume.NodeID{"a", "b", "c"} {
		var refused *volume.ReadOnlyError
		for _, data := range []string{"new", "old"} {
			if _, err := c.node(n).Put(context.Background(), id, file(id, data), false); !errors.Is(err, volume.ErrReadOnly) || n == "a" && !errors.As(err, &refused) {
				t.Errorf("put %s at %s: %v", data, n, err)
			}
		}
		if _, err := c.node(n).Delete(context.Background(), id, 0); !errors.Is(err, volume.ErrReadOnly) || !strings.HasSuffix(err.Error(), "volume 1 is read only") {
			t.Errorf("delete at %s: %v", n, err)
		}
		c.wantFile(n, id, "old")
	}
	if p := c.node("a").Status().Copies; len(p) != 1 || !p[0].ReadOnly {
		t.Errorf("status: %+v", p)
	}
	c.master.change(1, func(e *volume.Entry) { e.State = volume.StateOpen })
	c.open(1, 2)
	c.node("c").mustPut(t, id, "new")
	c.wantSame(1, "a", "b")
}

func TestAVolumeWithoutOurFilesIsOnlyRead(t *testing.T) {
	t.Parallel()
	c := start(t, "a")
	c.master.grow(1, spec000, "a")
	c.open(1, 1)
	id := fileID(1, 1)
	c.node("a").mustPut(t, id, "old")
	c.halt("a")
	fs := c.node("a").fs.Crash(1)
	for _, name := range []string{"/data/1.wcopy", "/data/1.wckpt"} {
		if err := fs.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	c.master.mu.Lock()
	delete(c.master.entries, 1)
	c.master.mu.Unlock()
	n := c.boot("a", fs)
	c.wantFile("a", id, "old")
	if _, err := n.Get(context.Background(), fileID(1, 2), false); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("get of an absent file: %v", err)
	}
	if _, err := n.Put(context.Background(), id, file(id, "new"), false); !errors.Is(err, volume.ErrReadOnly) {
		t.Errorf("put: %v", err)
	}
	if _, err := n.Delete(context.Background(), id, 0); !errors.Is(err, volume.ErrReadOnly) {
		t.Errorf("delete: %v", err)
	}
	if st := n.Status(); len(st.Copies) != 1 || !st.Copies[0].ReadOnly || st.Copies[0].Reason == "" || st.Copies[0].Copy != 0 {
		t.Errorf("status: %+v", st.Copies)
	}
	c.eventually("the leader hears of it", func() bool { return c.master.report("a", 1).ReadOnly })
	c.master.grow(1, spec000, "a") // an order for a volume of this number touches nothing
	c.eventually("the order is refused", func() bool { return c.master.report("a", 1).State == volume.CopyFailed })
	c.wantFile("a", id, "old")
}

func TestMetricsAreWellFormed(t *testing.T) {
	t.Parallel()
	c := start(t, "a")
	c.master.grow(1, spec000, "a")
	c.open(1, 1)
	reg := prometheus.NewPedanticRegistry()
	for _, m := range c.node("a").Collectors() {
		reg.MustRegister(m)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "weedd_volume_copies" {
			return
		}
	}
	t.Error("weedd_volume_copies is missing: " + fmt.Sprint(len(families)))
}
