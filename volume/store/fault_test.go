package store

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"weedd/volume"
	"weedd/volume/vfs/faultfs"
)

// workload drives one volume through everything that it can do, and remembers
// what it was promised.
type workload struct {
	t      *testing.T
	fs     *faultfs.FS
	mode   SyncMode
	copy   volume.CopyID
	made   bool                  // Create has returned
	acked  int64                 // bytes durable and published
	files  map[volume.Key][]byte // as of acked; nil for deleted
	maybe  map[volume.Key][]byte // appended later: may be there or not
	epochs []volume.EpochStart   // durable
	asked  []volume.EpochStart   // epochs, and perhaps one more
	end    int64                 // End after the last append or cut that succeeded
}

func newWorkload(t *testing.T, fs *faultfs.FS, mode SyncMode) *workload {
	return &workload{t: t, fs: fs, mode: mode, copy: 77, files: map[volume.Key][]byte{}, maybe: map[volume.Key][]byte{}}
}

func (w *workload) open() (*Store, error) {
	o := options(w.fs, "/d")
	o.Sync = w.mode
	return Open(o)
}

// run goes on until something fails.
func (w *workload) run() error {
	s, err := w.open()
	if err != nil {
		return err
	}
	err = w.first(s)
	if err = errors.Join(err, s.Close()); err != nil {
		return err
	}
	if s, err = w.open(); err != nil {
		return err
	}
	v, err := s.Volume(7)
	if err == nil {
		err = w.batch(v, 5, 6)
	}
	return errors.Join(err, s.Close())
}

func (w *workload) first(s *Store) error {
	v, err := s.Create(7, volume.Spec{Collection: "c", Placement: 1}, w.copy)
	if err != nil {
		return err
	}
	w.made, w.acked, w.end = true, SuperBlockSize, SuperBlockSize
	steps := []func() error{
		func() error { return w.epoch(v, 1) },
		func() error { return w.batch(v, 1, 2, 3) },
		func() error { return w.batch(v, 2, -1) },
		func() error { return w.pending(v, 4, -3) },
		func() error { return w.cut(v, w.acked) },
		func() error { return w.batch(v, 3, 4) },
		v.Checkpoint,
		func() error { return w.pending(v, 9) },
		v.Checkpoint, // now the cut has to take a checkpoint back
		func() error { return w.cut(v, w.acked) },
		func() error { return w.epoch(v, 2) },
		func() error { return w.batch(v, -2, 1, 8) },
		func() error { return w.replaceEpochs(v) },
		func() error { return w.pending(v, 1, 6) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// records encodes puts of positive keys and deletes of negative ones.
func (w *workload) records(v *Volume, keys []int) []byte {
	var b []byte
	for _, k := range keys {
		key := volume.Key(max(k, -k))
		if k < 0 {
			b, w.maybe[key] = append(b, tombstone(w.t, v, key)...), nil
			continue
		}
		data := bytes.Repeat(fmt.Appendf(nil, "%d at %d. ", k, v.End()), k%300)
		if k == 3 {
			data = []byte{} // an empty file
		}
		b, w.maybe[key] = append(b, record(w.t, v, key, data)...), data
	}
	return b
}

func (w *workload) pending(v *Volume, keys ...int) error {
	err := v.Append(w.records(v, keys))
	if err == nil {
		w.end = v.End()
	}
	return err
}

func (w *workload) batch(v *Volume, keys ...int) error {
	if err := w.pending(v, keys...); err != nil {
		return err
	}
	durable, err := v.Sync()
	if err != nil {
		return err
	}
	if durable != v.End() {
		w.t.Errorf("durable is %d after a sync, the end %d", durable, v.End())
	}
	v.Publish(durable)
	w.acked = durable
	for k, data := range w.maybe {
		w.files[k] = data
		if err := has(v, k, data); err != nil && !errors.Is(err, faultfs.ErrInjected) && !errors.Is(err, errPower) {
			w.t.Error(err)
		}
	}
	clear(w.maybe)
	return nil
}

func (w *workload) cut(v *Volume, end int64) error {
	if err := v.Cut(end); err != nil {
		return err
	}
	clear(w.maybe)
	w.end = end
	return nil
}

func (w *workload) epoch(v *Volume, e volume.Epoch) error {
	start := volume.EpochStart{Epoch: e, Start: v.End(), Generation: 1}
	w.asked = append(slices.Clone(w.epochs), start)
	err := v.AddEpoch(start)
	if err == nil {
		w.epochs = w.asked
	}
	return err
}

func (w *workload) replaceEpochs(v *Volume) error {
	w.asked = []volume.EpochStart{{Epoch: 2, Start: 8, Generation: 1}, {Epoch: 3, Start: 16, Generation: 1}}
	err := v.SetEpochs(w.asked)
	if err == nil {
		w.epochs = w.asked
	}
	return err
}

// verify opens what is left and holds it against the promises; lost says that
// not even they count (sync "os" and a power cut).
func (w *workload) verify(lost bool) error {
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
		v, err = s.Create(7, volume.Spec{}, 78) // nothing is left that is in the way
		if err != nil {
			return err
		}
		return fullCheck(w.fs, v)
	}
	if v.CopyID() != w.copy || v.Spec().Placement != 1 || v.Spec().Collection != "c" {
		return fmt.Errorf("copy %s, %+v", v.CopyID(), v.Spec())
	}
	if e := v.Epochs(); !slices.Equal(e, w.epochs) && !slices.Equal(e, w.asked) {
		return fmt.Errorf("epochs %v, want %v or %v", e, w.epochs, w.asked)
	}
	if !lost && (v.End() < w.acked || v.Committed() > max(w.end, w.acked, SuperBlockSize)) {
		return fmt.Errorf("end %d, committed %d; acknowledged %d of %d", v.End(), v.Committed(), w.acked, w.end)
	}
	v.Publish(v.End())
	if v.Failed() == nil {
		err = errors.Join(v.Checkpoint(), fullCheck(w.fs, v))
	}
	if err != nil {
		return err
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
	for k, data := range w.maybe { // settle what was open
		if has(v, k, data) == nil {
			w.files[k] = data
		}
	}
	clear(w.maybe)
	if v.Failed() != nil { // in an earlier run, and for good
		if err := v.Append(record(w.t, v, 99, []byte("no"))); !errors.Is(err, volume.ErrReadOnly) {
			return fmt.Errorf("append to a copy that failed: %w", err)
		}
		return s.Close()
	}
	w.files[99] = []byte("goes on")
	if err := write(v, record(w.t, v, 99, w.files[99])); err != nil {
		return err
	}
	w.acked, w.end = v.End(), v.End()
	return s.Close()
}

func newDisk(t *testing.T, seed uint64) *faultfs.FS {
	t.Helper()
	fs := faultfs.New(seed)
	must(t, fs.Mkdir("/d"))
	must(t, fs.SyncDir("/"))
	return fs
}

// Whichever file operation fails, what was acknowledged is there afterwards,
// and nothing is in the way of going on.
func TestFailEachOperation(t *testing.T) {
	t.Parallel()
	for _, mode := range []SyncMode{SyncGroup, SyncOS} {
		for i := 0; ; i++ {
			fs := newDisk(t, uint64(i))
			w := newWorkload(t, fs, mode)
			before := fs.Ops()
			fs.FailAt(i)
			err := w.run()
			fs.SetFault(nil)
			if fs.Ops()-before <= i {
				must(t, err)
				t.Logf("sync %s: %d operations", mode, fs.Ops()-before)
				break
			}
			if err := w.verify(false); err != nil {
				t.Fatalf("sync %s, operation %d failed (%v): %v", mode, i, err, err)
			}
		}
	}
}

var errPower = errors.New("power cut")

// A process may be killed at any moment of taking a directory into use. The next one
// finds a directory, and makes sure that its name is durable, too: what is written
// into it is acknowledged.
func TestADirectoryIsMadeDurableByTheRunThatUsesIt(t *testing.T) {
	t.Parallel()
	for i := 0; ; i++ {
		fs := faultfs.New(1)
		fs.SetFault(func(op faultfs.Op) error {
			if op.N >= i {
				return faultfs.ErrCrashed
			}
			return nil
		})
		s, killed := Open(options(fs, "/d"))
		if killed == nil {
			must(t, s.Close())
		}
		fs = fs.Kill()
		s, err := Open(options(fs, "/d"))
		must(t, err)
		v, err := s.Create(7, volume.Spec{}, 70)
		must(t, err)
		must(t, write(v, record(t, v, 1, []byte("acknowledged"))))
		s, err = Open(options(fs.Crash(0), "/d"))
		if err == nil {
			v, err = s.Volume(7)
		}
		if err == nil {
			v.Publish(v.End())
			err = has(v, 1, []byte("acknowledged"))
		}
		if err != nil {
			t.Fatalf("killed at operation %d, and the power went later: %v", i, err)
		}
		must(t, s.Close())
		if killed == nil {
			return
		}
	}
}

// Whenever the power goes, what was acknowledged is there afterwards; the rest
// is there whole or not at all; and the index says what the data says.
func TestCrashAtEachOperation(t *testing.T) {
	t.Parallel()
	for _, mode := range []SyncMode{SyncGroup, SyncOS} {
		for i := 0; ; i++ {
			done := false
			for seed := range uint64(6) {
				fs := newDisk(t, seed)
				w := newWorkload(t, fs, mode)
				at := fs.Ops() + i
				fs.SetFault(func(op faultfs.Op) error {
					if op.N >= at {
						return errPower
					}
					return nil
				})
				err := w.run()
				done = err == nil && fs.Ops() <= at
				fs.SetFault(nil)
				// Until here only the program stopped: what it wrote since is not
				// there, except for halves of writes. Now the machine does.
				w.fs = fs.Crash(seed)
				if err := w.verify(mode == SyncOS); err != nil {
					t.Fatalf("sync %s, power cut at operation %d, seed %d: %v", mode, i, seed, err)
				}
				if !w.made {
					continue
				}
				// A second crash while nothing goes on loses nothing.
				w.fs = w.fs.Crash(seed)
				if err := w.verify(mode == SyncOS); err != nil {
					t.Fatalf("sync %s, power cut at operation %d, seed %d, and again: %v", mode, i, seed, err)
				}
			}
			if done {
				break
			}
		}
	}
}

// The same with volumes large enough for several MiB, checkpoints and merges
// of the index, driven at random.
func TestRandomCrashes(t *testing.T) {
	t.Parallel()
	for seed := uint64(1); seed <= 4; seed++ {
		rng := rand.New(rand.NewPCG(seed, 9))
		w := newWorkload(t, newDisk(t, seed), SyncGroup)
		s, err := w.open()
		must(t, err)
		v, err := s.Create(7, volume.Spec{Collection: "c", Placement: 1}, w.copy)
		must(t, err)
		w.made, w.acked, w.end = true, SuperBlockSize, SuperBlockSize
		for round := range 4 {
			for range rng.IntN(60) {
				keys := make([]int, 1+rng.IntN(40))
				for i := range keys {
					keys[i] = 1 + rng.IntN(2000)
					if rng.IntN(4) == 0 {
						keys[i] = -keys[i]
					}
				}
				switch rng.IntN(8) {
				case 0:
					must(t, w.pending(v, keys...))
				case 1:
					must(t, w.cut(v, w.acked))
				case 2:
					must(t, v.Checkpoint())
				default:
					must(t, w.batch(v, keys...))
				}
			}
			w.fs = w.fs.Crash(rng.Uint64())
			if err := w.verify(false); err != nil {
				t.Fatalf("seed %d, round %d: %v", seed, round, err)
			}
			s, err = w.open()
			must(t, err)
			v, err = s.Volume(7)
			must(t, err)
		}
		must(t, s.Close())
	}
}
