package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"weedd/volume"
	"weedd/volume/vfs"
	"weedd/volume/vfs/faultfs"
)

// compacting drives one volume through compactions, and remembers what it was
// promised beside what workload does.
type compacting struct {
	*workload
	generation uint32
	epoch      volume.Epoch
	finishing  bool  // FinishCompaction was called
	vote       int64 // the length that it answered; 0 for none
	switching  bool  // Switch was called
	dropping   bool  // DropCompaction was called
}

func (w *compacting) run() error {
	err := w.session(func(v *Volume) error {
		return first(
			func() error { return w.enter(v) },
			func() error { return w.batch(v, 1, 2, 3, 5) },
			func() error { return w.batch(v, 2, -1) },
			func() error { return w.build(v, 4, -3) },
			func() error { return w.finish(v) },
			func() error { return w.change(v) },
			func() error { return w.batch(v, 5, -2) },
			func() error { return w.enter(v) },
			func() error { return w.pending(v, 7) },
		)
	})
	if err != nil {
		return err
	}
	err = w.session(func(v *Volume) error {
		return first(
			func() error { return w.cut(v, w.acked) },
			func() error { return w.build(v, 6) },
			func() error { return w.finish(v) },
			func() error { return w.drop(v) },
			func() error { return w.batch(v, 1, 8) },
			func() error { return w.build(v) },
			func() error { return w.finish(v) },
		)
	})
	if err != nil {
		return err
	}
	return w.session(func(v *Volume) error {
		return first(
			func() error { return w.change(v) },
			func() error { return w.batch(v, -5, 9) },
		)
	})
}

func first(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// session opens the store, makes the volume if nobody has, and closes it again.
func (w *compacting) session(do func(v *Volume) error) error {
	s, err := w.open()
	if err != nil {
		return err
	}
	v, err := s.Volume(7)
	if !w.made {
		v, err = s.Create(7, volume.Spec{Collection: "c", Placement: 1}, w.copy)
	}
	if err == nil {
		w.made = true
		w.acked, w.end = v.Committed(), v.End()
		err = do(v)
	}
	return errors.Join(err, s.Close())
}

func (w *compacting) enter(v *Volume) error {
	w.epoch++
	return v.AddEpoch(EpochStart{Epoch: w.epoch, Start: v.End(), Generation: w.generation})
}

// build makes new files, in two goes, with a batch of keys between.
func (w *compacting) build(v *Volume, keys ...int) error {
	c := Compaction{Generation: w.generation + 1, At: v.Committed(), Clock: clock}
	if err := v.Compact(context.Background(), c, nil); err != nil {
		return err
	}
	if err := w.batch(v, keys...); err != nil {
		return err
	}
	return v.Compact(context.Background(), c, nil)
}

func (w *compacting) finish(v *Volume) error {
	w.finishing = true
	length, _, err := v.FinishCompaction(v.End())
	if err == nil {
		w.vote = length
	}
	return err
}

func (w *compacting) drop(v *Volume) error {
	w.dropping = true
	err := v.DropCompaction()
	if err == nil {
		w.finishing, w.dropping, w.vote = false, false, 0
	}
	return err
}

func (w *compacting) change(v *Volume) error {
	w.switching = true
	e := EpochStart{Epoch: w.epoch + 1, Start: w.vote, Generation: w.generation + 1}
	err := v.Switch(e)
	if err == nil {
		err = w.changed(v, e)
	}
	return err
}

func (w *compacting) changed(v *Volume, e EpochStart) error {
	w.epoch, w.generation = e.Epoch, e.Generation
	w.finishing, w.switching, w.dropping, w.vote = false, false, false, 0
	w.acked, w.end = v.End(), v.End()
	if got := v.Epochs(); len(got) != 1 || got[0] != e {
		return fmt.Errorf("epochs after a switch: %v, want %v", got, e)
	}
	return nil
}

// verify opens what is left and holds it against the promises; then it goes the
// one way or the other, and on.
func (w *compacting) verify(lost, forward bool) error {
	s, err := w.open()
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer s.Close()
	v, err := s.Volume(7)
	if err != nil {
		if w.made || len(s.Aside()) > 0 {
			return fmt.Errorf("%w; set aside: %v", err, s.Aside())
		}
		return nil
	}
	if err := w.settle(v, lost); err != nil {
		return err
	}
	if v.Failed() != nil { // in an earlier run, and for good: whatever it was in the middle of, it is read
		if err := w.change(v); !errors.Is(err, volume.ErrReadOnly) {
			return fmt.Errorf("switch of a copy that failed: %w", err)
		}
		return s.Close()
	}
	_, _, _, _, _, _, revision := v.Stats()
	c, length, _, ready := v.Prepared()
	e := EpochStart{Epoch: w.epoch + 1, Start: length, Generation: w.generation + 1}
	switch {
	case uint32(revision) == w.generation+1:
		if ready || !w.switching {
			return fmt.Errorf("revision %d, ready %v; was not asked for", revision, ready)
		}
		if list := v.Epochs(); len(list) > 0 {
			e.Start = list[0].Start
		}
		err = w.changed(v, e)
	case uint32(revision) != w.generation:
		err = fmt.Errorf("revision %d, want %d", revision, w.generation)
	case w.vote > 0 && !w.dropping && (!ready || length != w.vote) || w.switching && !ready:
		err = fmt.Errorf("ready was %d, now %d, %v", w.vote, length, ready)
	case ready && (!w.finishing || c.Generation != w.generation+1):
		err = fmt.Errorf("ready without a finish: %+v", c)
	case ready && (w.switching || forward && !w.dropping):
		w.vote = length
		err = w.change(v)
	default:
		err = w.drop(v)
	}
	if err != nil {
		return err
	}
	if err := w.settle(v, lost); err != nil {
		return err
	}
	names, err := w.fs.ReadDir("/d")
	if err != nil {
		return err
	}
	for _, name := range names {
		for _, ext := range []string{extNewDat, extNewIdx, extReady, extCommit} {
			if strings.HasSuffix(name, ext) {
				return fmt.Errorf("%s is left behind", name)
			}
		}
	}
	w.files[99] = []byte("goes on")
	if err := write(v, record(w.t, v, 99, w.files[99])); err != nil {
		return err
	}
	if err := w.enter(v); err != nil {
		return err
	}
	return s.Close()
}

// settle checks the volume as it is, and that all acknowledged is there.
func (w *compacting) settle(v *Volume, lost bool) error {
	v.Publish(v.End())
	if v.Failed() == nil {
		if err := errors.Join(v.Checkpoint(), fullCheck(w.fs, v)); err != nil {
			return err
		}
	}
	for k, data := range w.files {
		err := has(v, k, data)
		if later, ok := w.maybe[k]; ok && err != nil {
			err = has(v, k, later)
		}
		if err != nil && !lost {
			return err
		}
	}
	for k, data := range w.maybe {
		if has(v, k, data) == nil {
			w.files[k] = data
		}
	}
	clear(w.maybe)
	return nil
}

// Whichever file operation of a compaction fails, the old volume or the new one
// is there afterwards, whole, and what was ready is.
func TestCompactionFailsAtEachOperation(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		mode SyncMode
		err  error
	}{{SyncGroup, faultfs.ErrInjected}, {SyncOS, faultfs.ErrInjected}, {SyncGroup, fmt.Errorf("%w: %w", faultfs.ErrInjected, syscall.ENOSPC)}} {
		for i := 0; ; i++ {
			fs := newDisk(t, uint64(i))
			w := &compacting{workload: newWorkload(t, fs, c.mode)}
			at := fs.Ops() + i
			fs.SetFault(func(op faultfs.Op) error {
				if op.N == at {
					return c.err
				}
				return nil
			})
			err := w.run()
			fs.SetFault(nil)
			if fs.Ops() <= at {
				must(t, err)
				t.Logf("sync %s: %d operations", c.mode, i)
				break
			}
			for again := range 2 {
				if bad := w.verify(false, (i+again)%2 == 0); bad != nil {
					t.Fatalf("sync %s, operation %d failed (%v); look %d: %v", c.mode, i, err, again, bad)
				}
			}
		}
	}
}

// The same whenever the power goes, with what was not synced kept, lost or torn.
func TestCompactionCrashesAtEachOperation(t *testing.T) {
	t.Parallel()
	for i := 0; ; i++ {
		done := false
		for seed := range uint64(3) {
			mode := SyncGroup
			if seed == 2 {
				mode = SyncOS
			}
			seed := seed * uint64(i+1) // 0: all that was not synced is lost
			fs := newDisk(t, seed)
			w := &compacting{workload: newWorkload(t, fs, mode)}
			at := fs.Ops() + i
			fs.SetFault(func(op faultfs.Op) error {
				if op.N >= at {
					return errPower
				}
				return nil
			})
			err := w.run()
			done = err == nil
			fs.SetFault(nil)
			for again := range 2 {
				w.fs = w.fs.Crash(seed)
				if bad := w.verify(mode == SyncOS, (i+again)%2 == 0); bad != nil {
					t.Fatalf("power cut at operation %d (%v), sync %s, seed %d, look %d: %v", i, err, mode, seed, again, bad)
				}
			}
		}
		if done {
			return
		}
	}
}

// Readers notice nothing of a switch, on files as the system has them.
func TestReadersBesideASwitch(t *testing.T) {
	t.Parallel()
	s, err := Open(options(vfs.OS{}, t.TempDir()))
	must(t, err)
	defer s.Close()
	v, err := s.Create(7, volume.Spec{}, 70)
	must(t, err)
	must(t, v.AddEpoch(epochOf(1)))
	data := func(k volume.Key) []byte { return bytes.Repeat([]byte{byte(k)}, 50+int(k)) }
	var stop atomic.Bool
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for k := volume.Key(0); !stop.Load(); k = (k + 7) % 100 {
				r, ok := v.Lookup(k)
				if !ok {
					continue
				}
				n, err := v.Read(r)
				if err != nil || n.Key != k || !bytes.Equal(n.Data, data(k)) {
					t.Errorf("key %d: %+v, %v", k, n, err)
					return
				}
				n.Release()
				if h, err := v.ReadHeader(r); err != nil || h.Key != k {
					t.Errorf("key %d: %+v, %v", k, h, err)
					return
				}
				if err := has(v, k, data(k)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for e := range volume.Epoch(5) {
		for k := range volume.Key(100) {
			if (k+volume.Key(e))%3 == 0 {
				must(t, v.Append(record(t, v, k, data(k))))
			}
		}
		must(t, write(v, nil))
		must(t, v.Flush())
		must(t, compact(v, e+2))
	}
	stop.Store(true)
	readers.Wait()
	must(t, fullCheck(vfs.OS{}, v))
}

// A context, or a Close, ends a build, and nothing of it is left.
func TestABuildIsEnded(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(cancel func(), s *Store, v *Volume) error{
		"by its context": func(cancel func(), s *Store, v *Volume) error { cancel(); return v.DropCompaction() },
		"by Close":       func(_ func(), s *Store, v *Volume) error { return s.Close() },
		"by Remove":      func(_ func(), s *Store, v *Volume) error { return s.Remove(7, 70) },
	} {
		fs, s, v := newVolume(t)
		must(t, write(v, record(t, v, 1, []byte("x"))))
		must(t, write(v, record(t, v, 2, []byte("x"))))
		row, _ := v.Lookup(2)
		flip(t, fs, "/d/7.dat", row.Offset+22)
		ctx, cancel := context.WithCancel(t.Context())
		asked, done := make(chan struct{}), make(chan error)
		go func() {
			done <- v.Compact(ctx, Compaction{Generation: 1, At: v.Committed(), Clock: clock}, func(int64, int64) ([]byte, error) {
				close(asked)
				<-ctx.Done()
				return nil, ctx.Err()
			})
		}()
		<-asked
		go cancel() // Close waits for the question, which its asker ends
		must(t, end(cancel, s, v))
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		names, err := fs.ReadDir("/d")
		must(t, err)
		if slices.Contains(names, "7.cpd") || slices.Contains(names, "7.cpx") {
			t.Errorf("%s: %v", name, names)
		}
	}
}

// The rate holds for what is below the position and does not keep a build from
// catching up.
func TestCompactionIsPaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, _, v := newVolume(t, func(o *Options) {
			o.CompactRate, o.Now = 1<<20, func() time.Time { return clock }
		})
		for k := range volume.Key(8) {
			must(t, write(v, record(t, v, k, make([]byte, 1<<18))))
		}
		start := time.Now()
		must(t, compact(v, 1))
		if took := time.Since(start); took < 3900*time.Millisecond || took > 4100*time.Millisecond { // 2 MiB read and written
			t.Errorf("took %s", took)
		}
	})
}

// Without room nothing is begun, and the volume goes on.
func TestCompactionWithoutRoom(t *testing.T) {
	t.Parallel()
	fs, _, v := newVolume(t)
	must(t, write(v, record(t, v, 1, make([]byte, 1000))))
	c := Compaction{Generation: 1, At: v.Committed(), Clock: clock}
	fs.SetSpace(vfs.Space{All: 1 << 30, Free: 1000})
	if err := v.Compact(t.Context(), c, nil); !errors.Is(err, volume.ErrNoSpace) {
		t.Fatal(err)
	}
	must(t, write(v, record(t, v, 2, nil)))
	fs.SetSpace(vfs.Space{All: 1 << 30, Free: 2000})
	must(t, v.Compact(t.Context(), c, nil))
}
