package faultfs

import (
	"errors"
	"io"
	"os"
	"slices"
	"time"
)

// file is an open file.
type file struct {
	fs       *FS
	node     *node
	path     string
	writable bool
	closed   bool // guarded by fs.mu
}

// startLocked begins an operation on f.
func (f *file) startLocked(kind Kind) error {
	if f.closed {
		return pathError(kind, f.path, os.ErrClosed)
	}
	if !f.writable && (kind == Write || kind == Truncate) {
		return pathError(kind, f.path, os.ErrPermission)
	}
	return f.fs.startLocked(kind, f.path)
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.startLocked(Read); err != nil {
		return 0, err
	}
	if off >= int64(len(f.node.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.node.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.startLocked(Write); err != nil {
		if f.closed || f.fs.crashed || !f.writable {
			return 0, err
		}
		n := len(p) / 2
		f.node.writeLocked(write{off: off, data: slices.Clone(p[:n])}, f.fs.now())
		return n, err
	}
	f.node.writeLocked(write{off: off, data: slices.Clone(p)}, f.fs.now())
	return len(p), nil
}

func (f *file) Truncate(size int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.startLocked(Truncate); err != nil {
		return err
	}
	f.node.writeLocked(write{off: size, cut: true}, f.fs.now())
	return nil
}

func (n *node) writeLocked(w write, now time.Time) {
	n.data = w.apply(n.data)
	n.pending = append(n.pending, w)
	n.modified = now
}

func (f *file) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	err := f.startLocked(Sync)
	if f.closed || errors.Is(err, ErrCrashed) {
		return err
	}
	// After a failure the kernel holds the pages for clean: the next sync
	// succeeds without having written them. So their fate is drawn now.
	for _, w := range f.node.pending {
		if err == nil {
			f.node.durable = w.apply(f.node.durable)
		} else {
			f.node.durable = w.tear(f.node.durable, f.fs.rng)
		}
	}
	f.node.pending = nil
	return err
}

func (f *file) Size() (int64, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.startLocked(Size); err != nil {
		return 0, err
	}
	return int64(len(f.node.data)), nil
}

func (f *file) Close() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.closed {
		return pathError("close", f.path, os.ErrClosed)
	}
	f.closed = true
	return nil
}
