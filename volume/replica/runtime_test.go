package replica_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/vfs/faultfs"
)

func TestAFileIsWrittenReadOverwrittenAndDeleted(t *testing.T) {
	t.Parallel()
	c := start(t, volume.Spec{}, "a", "b")
	a := c.at("a")
	ctx := context.Background()
	a.mustWrite(t, 1, "one")
	a.mustWrite(t, 1, "two")
	a.mustRead(t, 1, "two")
	c.at("b").mustRead(t, 1, "two")
	if _, err := a.Put(ctx, &needle.Needle{Key: 1, Cookie: 8, Data: []byte("x")}, false, 0); !errors.Is(err, volume.ErrCookie) {
		t.Errorf("another cookie: %v", err)
	}
	if _, err := a.Put(ctx, &needle.Needle{Key: 1, Cookie: 7, Data: []byte("x")}, true, 0); !errors.Is(err, volume.ErrExists) {
		t.Errorf("create-only over other bytes: %v", err)
	}
	if _, err := a.Delete(ctx, 1, 8, 0); !errors.Is(err, volume.ErrCookie) {
		t.Errorf("delete with another cookie: %v", err)
	}
	if _, err := a.Delete(ctx, 1, 7, 0); err != nil {
		t.Errorf("delete: %v", err)
	}
	if _, err := a.Delete(ctx, 1, 7, 0); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("delete twice: %v", err)
	}
	for _, n := range []*node{a, c.at("b")} {
		if _, err := n.read(1); !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("read on %s after delete: %v", n.id, err)
		}
	}
	if _, err := c.at("b").Put(ctx, file(2, "x"), false, 0); !errors.Is(err, volume.ErrNotPrimary) {
		t.Errorf("write at a follower: %v", err)
	}
	c.identical("a", "b")
}

// A write is repeated in the next epoch, its first attempt having no known outcome.
// What was changed since then was changed while it was under way, and stays.
func TestAWriteIsRepeatedInTheNextEpoch(t *testing.T) {
	t.Parallel()
	c := start(t, volume.Spec{}, "a", "b")
	a, ctx := c.at("a"), context.Background()
	for key := volume.Key(1); key <= 5; key++ {
		a.mustWrite(t, key, "before")
	}
	before := c.now().Epoch
	c.promote("b")
	b := c.at("b")
	b.mustWrite(t, 2, "by another")
	if _, err := b.Delete(ctx, 3, 7, 0); err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		key  volume.Key
		text string // afterwards
	}{{1, "mine"}, {2, "by another"}, {4, "mine"}, {4, "mine"}, {6, "mine"}} {
		res, err := b.Put(ctx, file(want.key, "mine"), false, before)
		if err != nil || res.Size != 4 || res.Checksum != needle.Checksum([]byte("mine")) {
			t.Errorf("file %d: %+v, %v", want.key, res, err)
		}
		if got, err := b.read(want.key); got != want.text || err != nil {
			t.Errorf("file %d: %q, %v; want %q", want.key, got, err, want.text)
		}
	}
	if _, err := b.Put(ctx, file(3, "mine"), false, before); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("over a file that was deleted, before or meanwhile: %v", err)
	}
	if _, err := b.Put(ctx, file(5, "mine"), true, before); !errors.Is(err, volume.ErrExists) {
		t.Errorf("create-only over other bytes: %v", err)
	}
	for key, there := range map[volume.Key]bool{2: true, 5: false} {
		if _, err := b.Delete(ctx, key, 7, before); err != nil {
			t.Errorf("delete %d: %v", key, err)
		}
		if _, err := b.read(key); there != (err == nil) {
			t.Errorf("file %d after a repeated delete: %v", key, err)
		}
	}
}

func TestTheSameFileAgainIsUnchanged(t *testing.T) {
	t.Parallel()
	put := func(n *node, f *needle.Needle) volume.PutResult {
		t.Helper()
		res, err := n.Put(context.Background(), f, false, 0)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	a := start(t, volume.Spec{}, "a", "b").at("a")
	first := put(a, file(1, "data"))
	if again := put(a, file(1, "data")); first.Unchanged || !again.Unchanged || again.Checksum != first.Checksum || again.Size != 4 {
		t.Errorf("first %+v, again %+v", first, again)
	}
	renamed := file(1, "data")
	renamed.Name = []byte("m")
	if res := put(a, renamed); res.Unchanged {
		t.Error("another name is a change")
	}
	ttl, err := volume.ParseTTL("1h")
	if err != nil {
		t.Fatal(err)
	}
	b := start(t, volume.Spec{TTL: ttl}, "a").at("a")
	put(b, file(1, "data"))
	if res := put(b, file(1, "data")); res.Unchanged {
		t.Error("in a volume with a time to live each write begins it anew")
	}
}

// load writes files of its own keys from several goroutines until stopped, or
// count each; it remembers what was acknowledged.
type load struct {
	mu    sync.Mutex
	acked map[volume.Key]string
	work  sync.WaitGroup
	errs  []error
}

func (l *load) run(n *node, writers, count int, size func(*rand.Rand) int, stop <-chan struct{}) {
	l.acked = map[volume.Key]string{}
	for w := range writers {
		l.work.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 1))
			for i := range count {
				select {
				case <-stop:
					return
				default:
				}
				key, data := volume.Key(w*1_000_000+i), strings.Repeat(string(rune('a'+rng.IntN(26))), size(rng))
				err := n.write(key, data)
				l.mu.Lock()
				if err == nil {
					l.acked[key] = data
				} else {
					l.errs = append(l.errs, err)
				}
				l.mu.Unlock()
				if err != nil && !errors.Is(err, volume.ErrNoSpace) {
					return
				}
			}
		})
	}
}

func small(rng *rand.Rand) int { return 1 + rng.IntN(2000) }

func mixed(rng *rand.Rand) int {
	if rng.IntN(20) == 0 {
		return 1 + rng.IntN(2<<20)
	}
	return small(rng)
}

func (l *load) verify(t *testing.T, n *node) {
	t.Helper()
	for key, data := range l.acked {
		n.mustRead(t, key, data)
	}
}

func TestCopiesAreByteIdenticalAfterALoad(t *testing.T) {
	t.Parallel()
	for _, ids := range [][]volume.NodeID{{"a", "b"}, {"a", "b", "c"}} {
		t.Run(fmt.Sprint(len(ids)), func(t *testing.T) {
			t.Parallel()
			c := start(t, volume.Spec{}, ids...)
			var l load
			l.run(c.at("a"), 8, 12, mixed, nil)
			c.at("a").mustWrite(t, 99_000_000, strings.Repeat("0123456789", 500_000)) // longer than a frame, and than a batch
			l.work.Wait()
			if len(l.errs) > 0 {
				t.Fatal(errors.Join(l.errs...))
			}
			c.identical(ids...)
			for _, id := range ids {
				l.verify(t, c.at(id))
			}
		})
	}
}

func TestAFollowerThatWasAwayCatchesUpByTheTail(t *testing.T) {
	t.Parallel()
	c := start(t, volume.Spec{}, "a", "b")
	a, big := c.at("a"), strings.Repeat("x", 3<<20)
	a.mustWrite(t, 1, big)
	c.identical("a", "b")
	c.stop("b")
	a.mustWrite(t, 2, "tail")
	c.await("b is dropped", inSync(1))
	before := c.sent.Load()
	c.restart("b")
	c.await("b is back", inSync(2))
	c.identical("a", "b")
	if sent := c.sent.Load() - before; sent > 1000 {
		t.Errorf("%d bytes were sent for a tail of one small record", sent)
	}
	c.at("b").mustRead(t, 2, "tail")
}

func TestASilentFollowerIsDroppedAndWritesGoOn(t *testing.T) {
	t.Parallel()
	c := start(t, volume.Spec{}, "a", "b")
	a := c.at("a")
	a.mustWrite(t, 1, "one")
	c.freeze("b")
	began := time.Now()
	a.mustWrite(t, 2, "two")
	if took := time.Since(began); took < 500*time.Millisecond {
		t.Errorf("dropped after %v: a hiccup must not cost a copy", took)
	}
	if n := len(c.now().InSync); n != 1 {
		t.Errorf("%d copies in sync", n)
	}
	c.thaw("b")
	c.await("b is back", inSync(2))
	c.identical("a", "b")
}

// A miss waits for every copy that counts. It went on to wait when the only one
// had been dropped, as nothing was left to answer.
func TestAMissIsAnsweredWhenTheSilentCopyIsDropped(t *testing.T) {
	t.Parallel()
	c := start(t, volume.Spec{}, "a", "b")
	a := c.at("a")
	a.mustWrite(t, 1, "one")
	c.freeze("b")
	if _, err := a.read(99); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("miss: %v", err)
	}
}

func TestAnIdleVolumeAsksForNothing(t *testing.T) {
	t.Parallel()
	c := start(t, volume.Spec{}, "a", "b")
	c.at("a").mustWrite(t, 1, "one")
	c.identical("a", "b")
	c.stop("b")
	c.restart("b")
	eventually(t, "b follows again", func() bool {
		_, err := c.at("b").read(99)
		return errors.Is(err, volume.ErrNotFound)
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entry.Epoch != 1 || len(c.asked) > 0 {
		t.Errorf("epoch %d, asked %v", c.entry.Epoch, c.asked)
	}
}

func TestNothingAcknowledgedIsMissingAfterADepose(t *testing.T) {
	t.Parallel()
	c := start(t, volume.Spec{}, "a", "b", "c")
	var l load
	l.run(c.at("a"), 8, 1_000_000, small, nil)
	eventually(t, "the load begins", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.acked) > 200 })
	c.promote("b")
	l.work.Wait()
	for _, err := range l.errs {
		if !errors.Is(err, volume.ErrOutcomeUnknown) && !errors.Is(err, volume.ErrNotPrimary) {
			t.Errorf("a waiting write ended with: %v", err)
		}
	}
	awaitLead(t, c.at("b").Replica)
	l.verify(t, c.at("b"))
	c.at("b").mustWrite(t, 77_000_000, "after")
	c.identical("b", "a", "c")
}

func TestANewEpochOfTheSamePrimaryFailsNoWrite(t *testing.T) {
	t.Parallel()
	c := start(t, volume.Spec{}, "a", "b")
	stop := make(chan struct{})
	var l load
	l.run(c.at("a"), 8, 1_000_000, small, stop)
	for epoch := volume.Epoch(2); epoch < 12; epoch++ {
		c.promote("a")
		eventually(t, "a enters", func() bool { return c.at("a").Report().Epoch >= epoch })
		awaitLead(t, c.at("a").Replica)
	}
	close(stop)
	l.work.Wait()
	if len(l.errs) > 0 {
		t.Errorf("%d writes failed: %v", len(l.errs), l.errs[0])
	}
	l.verify(t, c.at("b"))
	c.identical("a", "b")
}

func TestAFollowerShowsWhatWasAcknowledgedBefore(t *testing.T) {
	t.Parallel()
	c := start(t, volume.Spec{}, "a", "b")
	a, b := c.at("a"), c.at("b")
	var work sync.WaitGroup
	for w := range 4 {
		work.Go(func() {
			for i := range 500 {
				key := volume.Key(w*10_000 + i%100)
				data := fmt.Sprint(w, i)
				if err := a.write(key, data); err != nil {
					t.Errorf("write: %v", err)
					return
				}
				if got, err := b.read(key); err != nil || got != data {
					t.Errorf("read %d: %q, %v; want %q", key, got, err, data)
					return
				}
			}
		})
	}
	work.Wait()
}

// A copy that left the set while its question waited may hold other bytes.
func TestTheCommittedLengthIsNotToldInALaterEpoch(t *testing.T) {
	t.Parallel()
	c := start(t, volume.Spec{}, "a", "b")
	a, b := c.at("a"), c.at("b")
	a.mustWrite(t, 1, "one")
	c.freeze("b")
	n, err := a.Confirm(t.Context(), c.now().Epoch, volume.Holder{Node: "b", Copy: b.copy})
	if !errors.Is(err, volume.ErrUnavailable) {
		t.Errorf("told %d, %v", n, err)
	}
	if n := len(c.now().InSync); n != 1 {
		t.Errorf("%d copies in sync", n)
	}
}

func TestAMissAtACopyWithoutItsPrimaryIsUnavailable(t *testing.T) {
	t.Parallel()
	c := start(t, volume.Spec{}, "a", "b")
	c.at("a").mustWrite(t, 1, "one")
	c.identical("a", "b")
	c.stop("a")
	b := c.at("b")
	b.mustRead(t, 1, "one")
	if _, err := b.read(2); !errors.Is(err, volume.ErrUnavailable) || errors.Is(err, volume.ErrNotFound) {
		t.Errorf("miss: %v", err)
	}
}

// A frozen primary answers nothing, and needs not to once another copy leads.
func TestAMissGivesItsPrimaryUpWhenAnotherLeads(t *testing.T) {
	t.Parallel()
	c := start(t, volume.Spec{}, "a", "b", "c")
	c.at("a").mustWrite(t, 1, "one")
	c.identical("a", "b", "c")
	c.freeze("a")
	b := c.at("b")
	missed := make(chan error, 1)
	go func() {
		_, err := b.Get(context.Background(), 2, 7, false)
		missed <- err
	}()
	eventually(t, "the primary is not asked", func() bool { return b.confirms.Load() > 0 })
	c.promote("c")
	select {
	case err := <-missed:
		if !errors.Is(err, volume.ErrUnavailable) {
			t.Errorf("miss: %v", err)
		}
	case <-time.After(patience):
		c.thaw("a")
		t.Fatal("the frozen primary is waited for")
	}
}

func TestMissesAtOneTimeShareBarriers(t *testing.T) {
	t.Parallel()
	c := start(t, volume.Spec{}, "a", "b")
	a := c.at("a")
	a.mustWrite(t, 1, "one")
	c.identical("a", "b")
	c.freeze("b")
	before := c.batches.Load()
	const readers = 200
	var work sync.WaitGroup
	for range readers {
		work.Go(func() {
			if _, err := a.read(99); !errors.Is(err, volume.ErrNotFound) {
				t.Errorf("miss: %v", err)
			}
		})
	}
	eventually(t, "all wait", func() bool { return a.Waiting() == readers || len(c.now().InSync) < 2 })
	c.thaw("b")
	work.Wait()
	if n := c.batches.Load() - before; n > 4 {
		t.Errorf("%d batches for %d misses", n, readers)
	}
}

func TestReadersThatGaveUpAreForgotten(t *testing.T) {
	t.Parallel()
	c := start(t, volume.Spec{}, "a", "b")
	a := c.at("a")
	a.mustWrite(t, 1, "one")
	c.freeze("b")
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	for range 50 {
		work.Go(func() {
			if _, err := a.Get(ctx, 99, 7, false); !errors.Is(err, volume.ErrUnavailable) && !errors.Is(err, volume.ErrNotFound) {
				t.Errorf("miss: %v", err)
			}
		})
	}
	eventually(t, "all wait", func() bool { return a.Waiting() == 50 || len(c.now().InSync) < 2 })
	cancel()
	work.Wait()
	eventually(t, "none waits", func() bool { return a.Waiting() == 0 })
}

func TestAFailedSyncEndsTheCopyAndNotTheVolume(t *testing.T) {
	t.Parallel()
	c := start(t, volume.Spec{}, "a", "b")
	a := c.at("a")
	a.mustWrite(t, 1, "one")
	a.fs.SetFault(func(op faultfs.Op) error {
		if op.Kind == faultfs.Sync && strings.HasSuffix(op.Path, ".dat") {
			return syscall.EIO
		}
		return nil
	})
	if err := a.write(2, "two"); !errors.Is(err, volume.ErrOutcomeUnknown) {
		t.Errorf("the write that met the failure: %v", err)
	}
	if _, err := a.Put(context.Background(), file(3, "x"), false, 0); err == nil {
		t.Error("a failed copy takes a write")
	}
	if rep := a.Report(); rep.State != volume.CopyFailed {
		t.Errorf("report: %+v", rep)
	}
	c.await("b leads alone", func(e volume.Entry) bool { return e.Primary == "b" && len(e.InSync) == 1 })
	awaitLead(t, c.at("b").Replica)
	c.at("b").mustRead(t, 1, "one")
	c.at("b").mustWrite(t, 3, "three")
	a.mustRead(t, 1, "one")
}

func noSpace(op faultfs.Op) error {
	if op.Kind == faultfs.Write && strings.HasSuffix(op.Path, ".dat") {
		return syscall.ENOSPC
	}
	return nil
}

func TestAPrimaryGoesOnWhenThereIsSpaceAgain(t *testing.T) {
	t.Parallel()
	c := start(t, volume.Spec{}, "a") // no other copy may lead in its place
	a := c.at("a")
	stop := make(chan struct{})
	var l load
	l.run(a, 4, 1_000_000, small, stop)
	acked := func(more int) {
		l.mu.Lock()
		want := len(l.acked) + more
		l.mu.Unlock()
		eventually(t, "writes go on", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.acked) >= want })
	}
	acked(50)
	a.fs.SetFault(noSpace)
	eventually(t, "writes are refused", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.errs) > 10 })
	a.mustRead(t, 0, l.of(0))
	a.fs.SetFault(nil)
	acked(50)
	close(stop)
	l.work.Wait()
	for _, err := range l.errs {
		if !errors.Is(err, volume.ErrNoSpace) {
			t.Errorf("refused with: %v", err)
		}
	}
	l.verify(t, a)
}

func (l *load) of(key volume.Key) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked[key]
}

func TestAFollowerWithoutSpaceRejoinsWhenThereIsSome(t *testing.T) {
	t.Parallel()
	c := start(t, volume.Spec{}, "a", "b")
	a, b := c.at("a"), c.at("b")
	a.mustWrite(t, 1, "one")
	b.fs.SetFault(noSpace)
	a.mustWrite(t, 2, "two")
	c.await("b is dropped", inSync(1))
	if rep := b.Report(); rep.State != volume.CopyHealthy {
		t.Errorf("a full disk ended the copy: %+v", rep)
	}
	b.fs.SetFault(nil)
	c.await("b is back", inSync(2))
	c.identical("a", "b")
}

func TestCloseEndsALoad(t *testing.T) {
	t.Parallel()
	for _, id := range []volume.NodeID{"a", "b"} {
		c := start(t, volume.Spec{}, "a", "b")
		var l load
		l.run(c.at("a"), 8, 1_000_000, small, nil)
		eventually(t, "the load begins", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.acked) > 50 })
		c.stop(id)
		a := c.nodes["a"]
		if id == "b" {
			c.stop("a")
		}
		l.work.Wait()
		for _, err := range l.errs {
			if !errors.Is(err, volume.ErrOutcomeUnknown) && !errors.Is(err, volume.ErrClosed) {
				t.Errorf("ended with: %v", err)
			}
		}
		for range 2 { // the second found a queue that nobody served any more
			if err := a.write(1, "x"); !errors.Is(err, volume.ErrClosed) {
				t.Errorf("write after Close: %v", err)
			}
		}
	}
}

// A caller that has left may use its needle for something else, whatever the
// writer is about. The race detector judges.
func TestACallerThatLeftOwnsItsNeedle(t *testing.T) {
	t.Parallel()
	c := start(t, volume.Spec{}, "a")
	a := c.at("a")
	hang := make(chan struct{})
	a.log.hang.Store(&hang)
	var work sync.WaitGroup
	var left atomic.Int64
	for w := range 20 {
		work.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
			defer cancel()
			n := &needle.Needle{Key: volume.Key(w), Cookie: 7, Data: make([]byte, 1000)}
			if _, err := a.Put(ctx, n, false, 0); !errors.Is(err, volume.ErrUnavailable) && !errors.Is(err, volume.ErrOutcomeUnknown) {
				t.Errorf("put: %v", err)
			}
			*n = needle.Needle{Key: 1, Data: n.Data[:10]}
			clear(n.Data)
			left.Add(1)
		})
	}
	work.Wait()
	a.log.hang.Store(nil)
	close(hang)
	a.mustWrite(t, 100, "after")
	for w := range 20 {
		if data, err := a.read(volume.Key(w)); err == nil && len(data) != 1000 || err != nil && !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("file %d: %d bytes, %v", w, len(data), err)
		}
	}
}

func TestAPlannedStopHandsOverWithoutALoss(t *testing.T) {
	t.Parallel()
	c := start(t, volume.Spec{}, "a", "b")
	var l load
	l.run(c.at("a"), 4, 1_000_000, small, nil)
	eventually(t, "the load begins", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.acked) > 50 })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.at("a").Yield(ctx); err != nil {
		t.Fatal(err)
	}
	l.work.Wait()
	for _, err := range l.errs {
		if errors.Is(err, volume.ErrOutcomeUnknown) {
			t.Errorf("a planned stop left a write without an outcome: %v", err)
		}
	}
	if p := c.now().Primary; p != "b" {
		t.Fatalf("primary %s", p)
	}
	awaitLead(t, c.at("b").Replica)
	l.verify(t, c.at("b"))
	c.stop("a")
	if err := c.at("b").Yield(ctx); err != nil { // nobody is there to lead
		t.Fatal(err)
	}
	c.at("b").mustWrite(t, 77_000_000, "to the end")
}

// A node that is stopped as planned tells the primaries that it follows, so that
// nobody finds out by waiting for it.
func TestNoWriteWaitsForACopyThatSaidItLeaves(t *testing.T) {
	t.Parallel()
	c := start(t, volume.Spec{}, "a", "b")
	a, b := c.at("a"), c.at("b")
	a.mustWrite(t, 1, "one")
	b.Leave()
	eventually(t, "a write takes b out of the set, while it still answers", func() bool {
		a.mustWrite(t, 2, time.Now().String())
		return len(c.now().InSync) == 1
	})
	c.stop("b")
	a.mustWrite(t, 3, "three")
}

func TestACopyInDoubtLetsAnotherLead(t *testing.T) {
	t.Parallel()
	for _, withHeir := range []bool{true, false} {
		c := start(t, volume.Spec{}, "a", "b")
		c.at("a").mustWrite(t, 1, "one")
		c.identical("a", "b")
		c.stop("a")
		if !withHeir {
			c.stop("b")
		}
		n := c.nodes["a"]
		n.store = c.open(n)
		v, err := n.store.Volume(1)
		if err != nil {
			t.Fatal(err)
		}
		n.log = &hooked{Volume: v}
		n.log.doubtful.Store(true)
		c.runOver(n)
		if withHeir {
			c.await("b leads", func(e volume.Entry) bool { return e.Primary == "b" })
			awaitLead(t, c.at("b").Replica)
			c.at("b").mustWrite(t, 2, "two")
			continue
		}
		eventually(t, "a enters an epoch", func() bool { return n.Report().Epoch > 1 })
		if e := c.now(); e.Primary != "a" {
			t.Errorf("primary %s", e.Primary)
		}
		n.mustWrite(t, 2, "two")
	}
}

// A copy that was dropped, as it did not answer, serves what it has, which may be
// deleted by now, and says nothing of what it has not (rule R12). When it follows
// again it is like the others.
func TestADroppedCopyServesWhatItHasUntilItFollows(t *testing.T) {
	t.Parallel()
	c := start(t, volume.Spec{}, "a", "b")
	c.at("a").mustWrite(t, 1, "one")
	c.identical("a", "b")
	c.freeze("b")
	if _, err := c.at("a").Delete(context.Background(), 1, 7, 0); err != nil {
		t.Fatal(err)
	}
	if e := c.now(); len(e.InSync) != 1 {
		t.Fatalf("deleted without b, which is in sync: %+v", e)
	}
	c.at("b").mustRead(t, 1, "one")
	if _, err := c.at("b").read(2); !errors.Is(err, volume.ErrUnavailable) {
		t.Errorf("a miss at a copy that was dropped: %v", err)
	}
	c.thaw("b")
	c.await("b is back", inSync(2))
	c.identical("a", "b")
	eventually(t, "it says that the file is deleted", func() bool {
		_, err := c.at("b").read(1)
		if err == nil {
			t.Fatal("a copy in sync serves what was deleted")
		}
		return errors.Is(err, volume.ErrNotFound) // it may have to meet the primary of the new epoch first
	})
}
