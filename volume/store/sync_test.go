package store

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"weedd/volume"
	"weedd/volume/vfs"
	"weedd/volume/vfs/faultfs"
)

// onceFS tells of a failed fsync of .dat once, to whoever asks first, as Linux
// does. Whoever asks first is held up until while has returned.
type onceFS struct {
	vfs.FS
	while func() // set before the fsync that is to fail
}

func (fs *onceFS) OpenFile(path string, flag int) (vfs.File, error) {
	f, err := fs.FS.OpenFile(path, flag)
	if err == nil && strings.HasSuffix(path, extDat) {
		f = &onceFile{f, fs}
	}
	return f, err
}

type onceFile struct {
	vfs.File
	fs *onceFS
}

func (f *onceFile) Sync() error {
	if while := f.fs.while; while != nil {
		f.fs.while = nil
		while()
		return os.ErrInvalid
	}
	return f.File.Sync()
}

// A repair that is told of bytes that were not written must not leave the writer,
// which syncs at the same time, believing that all is well (rule R5).
func TestAFailedFsyncOfARepairIsTheWritersToo(t *testing.T) {
	t.Parallel()
	fs := &onceFS{FS: faultfs.New(1)}
	must(t, fs.Mkdir("/d"))
	s, err := Open(options(fs, "/d"))
	must(t, err)
	defer s.Close()
	v, err := s.Create(7, volume.Spec{}, 1)
	must(t, err)
	good := record(t, v, 1, []byte("a"))
	must(t, write(v, good))
	must(t, v.Append(record(t, v, 2, []byte("b"))))
	durable := v.Durable()

	synced := make(chan error, 1)
	fs.while = func() {
		go func() {
			_, err := v.Sync()
			synced <- err
		}()
		select {
		case err := <-synced:
			t.Errorf("the writer's fsync did not wait: %v", err)
			synced <- err
		case <-time.After(50 * time.Millisecond): // it waits, as it should
		}
	}
	if err := v.Repair(SuperBlockSize, good); err == nil {
		t.Error("the repair went well")
	}
	if err := <-synced; err == nil || v.Durable() != durable || v.Failed() == nil {
		t.Errorf("the writer was told %v; %d of %d bytes durable, failed %v", err, v.Durable(), durable, v.Failed())
	}
}

// A checkpoint at a whole number of MiB vouches for bytes as any other does.
func TestACheckpointAtAWholeMiBTellsAnotherFile(t *testing.T) {
	t.Parallel()
	fs, s, v := newVolume(t)
	left := sumBlock - v.End()
	for left > 0 { // records of a length that is a divisor of what is left, at the end
		size := min(left, 64<<10)
		rec := record(t, v, volume.Key(left), make([]byte, dataFor(t, v, size)))
		must(t, write(v, rec))
		left -= int64(len(rec))
	}
	if v.End() != sumBlock {
		t.Fatalf("ends at %d", v.End())
	}
	must(t, s.Close())
	b, err := vfs.ReadFile(fs, "/d/7.dat")
	must(t, err)
	for i := SuperBlockSize; i < len(b); i++ { // all of it is other bytes
		b[i] ^= 0xff
	}
	must(t, vfs.Write(fs, "/d/7.dat", b))
	s, err = Open(options(fs, "/d"))
	must(t, err)
	defer s.Close()
	if v, err := s.Volume(7); err == nil && !v.Foreign() {
		t.Error("it was taken for the file that the checkpoint describes")
	}
}

// dataFor is the length of data whose record has size bytes.
func dataFor(t *testing.T, v *Volume, size int64) int {
	t.Helper()
	for n := max(int(size)-64, 0); n < int(size); n++ {
		if int64(len(record(t, v, 1, make([]byte, n)))) == size {
			return n
		}
	}
	t.Fatalf("no record has %d bytes", size)
	return 0
}

// With sync "os" a checkpoint does not stop writes for the sync of all that was
// appended since the last: most of it is synced beside them, a little at a time. If
// nobody does, it is made all the same when as much again was appended.
func TestACheckpointWaitsForASyncBesideTheWriter(t *testing.T) {
	t.Parallel()
	fs, s, v := newVolume(t, syncOS)
	must(t, write(v, record(t, v, 1, []byte("the first of a run is checkpointed"))))
	saved := v.saved
	big := make([]byte, 1<<20)
	for key := volume.Key(2); v.End()-saved <= syncAhead; key++ {
		must(t, write(v, record(t, v, key, big)))
	}
	syncs, rows := 0, 0
	fs.SetFault(func(op faultfs.Op) error {
		if op.Kind == faultfs.Sync && strings.HasSuffix(op.Path, extDat) {
			syncs++
		}
		if op.Kind == faultfs.Sync && strings.HasSuffix(op.Path, extIdx) {
			rows++
		}
		return nil
	})
	must(t, v.Flush()) // long before one is due
	if syncs != 1 || rows != 1 || v.saved != saved {
		t.Fatalf("synced %d and %d times beside the writer; checkpoint at %d, was at %d", syncs, rows, v.saved, saved)
	}
	must(t, v.Flush()) // too little is left
	for v.End()-v.ahead.Load() <= syncAhead {
		must(t, write(v, record(t, v, 50, big)))
	}
	syncs = 0
	v.due.Store(v.End()) // as after 64 MiB
	must(t, write(v, record(t, v, 100, big)))
	if syncs > 0 || v.saved != saved {
		t.Fatalf("the writer has synced %d times", syncs)
	}
	must(t, v.Flush())
	must(t, v.Flush()) // nothing is left to sync
	if synced := syncs; synced != 1 {
		t.Errorf("synced %d times beside the writer", synced)
	}
	end := v.End()
	must(t, write(v, record(t, v, 101, big)))
	if v.saved != end {
		t.Errorf("no checkpoint at %d when most is synced; the last at %d", end, v.saved)
	}

	v.ahead.Store(0)
	v.due.Store(v.End() - checkpointAt)
	end = v.End()
	must(t, write(v, record(t, v, 102, big)))
	if v.saved != end {
		t.Errorf("no checkpoint at %d although it is overdue; the last at %d", end, v.saved)
	}
	fs.SetFault(nil)
	_, v = reopen(t, fs, s, syncOS)
	must(t, has(v, 101, big))
}

// A failed sync of either file beside the writer ends the copy, like any other (R5).
func TestAFailedSyncBesideTheWriterEndsTheCopy(t *testing.T) {
	t.Parallel()
	for _, ext := range []string{extDat, extIdx} {
		fs, _, v := newVolume(t, syncOS)
		for key := volume.Key(1); v.End() <= syncAhead; key++ {
			must(t, write(v, record(t, v, key, make([]byte, 1<<20))))
		}
		fs.SetFault(func(op faultfs.Op) error {
			if op.Kind == faultfs.Sync && strings.HasSuffix(op.Path, ext) {
				return errors.New("medium error")
			}
			return nil
		})
		if err := v.Flush(); err == nil || v.Failed() == nil {
			t.Errorf("%s: %v; failed %v", ext, err, v.Failed())
		}
		fs.SetFault(nil)
		if err := write(v, record(t, v, 99, []byte("late"))); !errors.Is(err, volume.ErrReadOnly) {
			t.Errorf("%s: a write after it: %v", ext, err)
		}
	}
}
