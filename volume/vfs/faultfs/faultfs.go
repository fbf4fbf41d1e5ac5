// Package faultfs is a file system in memory that fails, tears and forgets on
// demand, for tests of the engine and for simulations.
//
// It is as unkind as package vfs allows: bytes not synced and names whose
// directory was not synced may be lost in a crash, in any combination that the
// seed picks, writes may be torn between sectors, and after a failed sync what it
// should have made durable may be gone although a later sync succeeds. Equal seeds
// and equal calls give equal results.
package faultfs

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"weedd/volume/vfs"
)

// ErrCrashed is what every call on a file system answers after its Crash.
var ErrCrashed = errors.New("faultfs: the machine has crashed")

// ErrInjected is what FailAt makes an operation answer.
var ErrInjected = errors.New("faultfs: injected failure")

// Kind names an operation.
type Kind string

// The operations that a fault may hit.
const (
	Open     Kind = "open"
	Rename   Kind = "rename"
	Remove   Kind = "remove"
	Mkdir    Kind = "mkdir"
	ReadDir  Kind = "readdir"
	SyncDir  Kind = "syncdir"
	Stat     Kind = "stat"
	Space    Kind = "space"
	Lock     Kind = "lock"
	Read     Kind = "read"
	Write    Kind = "write"
	Truncate Kind = "truncate"
	Sync     Kind = "sync"
	Size     Kind = "size"
)

// Op is one operation about to happen, the N-th since the file system was made,
// counted from 0.
type Op struct {
	N    int
	Kind Kind
	Path string
}

// FS is the file system. Its root directory is "/". Safe for use at once.
type FS struct {
	mu      sync.Mutex
	now     func() time.Time
	rng     *rand.Rand
	crashed bool
	ops     int
	fault   func(Op) error
	hang    func(Op) <-chan struct{}
	names   map[string]*node // what programs see
	durable map[string]*node // what SyncDir has made durable
	pending []change         // of names, not durable
	locks   map[string]bool
	space   vfs.Space
}

// node is a file or directory.
type node struct {
	dir      bool
	data     []byte // what programs see
	durable  []byte // what Sync has made durable
	pending  []write
	modified time.Time
}

// write is a write, or with cut a truncation, that is not durable.
type write struct {
	off  int64
	data []byte
	cut  bool
}

// change is one atomic change of names; a nil node removes the name.
type change struct {
	paths [2]string
	nodes [2]*node
	n     int
}

var _ vfs.FS = (*FS)(nil)

// New makes an empty file system with 1 TiB of room.
func New(seed uint64) *FS {
	root := map[string]*node{"/": {dir: true}}
	return &FS{
		now: time.Now, rng: rand.New(rand.NewPCG(seed, 0)), names: root, durable: map[string]*node{"/": root["/"]},
		locks: map[string]bool{}, space: vfs.Space{All: 1 << 40, Free: 1 << 40},
	}
}

// SetNow sets the clock of modification times; it is time.Now before.
func (fs *FS) SetNow(now func() time.Time) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.now = now
}

// SetSpace sets what Space answers.
func (fs *FS) SetSpace(s vfs.Space) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.space = s
}

// SetFault makes f decide, for each operation to come, whether it fails. A
// write that fails leaves part of its bytes. A sync that fails with ErrCrashed, as
// of a process that dies in it, is none; any other may lose what it was to make
// durable. f must not call the file system; nil ends it.
func (fs *FS) SetFault(f func(Op) error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.fault = f
}

// SetHang makes f decide, for each operation to come, whether it hangs: until the
// channel that f returns is closed; nil is not at all. f must not call the file
// system; nil ends it, for operations to come.
func (fs *FS) SetHang(f func(Op) <-chan struct{}) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.hang = f
}

// FailAt makes the i-th operation from now fail with ErrInjected, i = 0 being
// the next one.
func (fs *FS) FailAt(i int) {
	at := fs.Ops() + i
	fs.SetFault(func(op Op) error {
		if op.N == at {
			return fmt.Errorf("%w: %s %s", ErrInjected, op.Kind, op.Path)
		}
		return nil
	})
}

// Ops is how many operations there were.
func (fs *FS) Ops() int {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.ops
}

// Crash cuts the power: it returns the file system as the machine finds it when
// it comes up again, and lets every later call on fs and its files fail. With
// seed 0 everything that was not durable is lost; with another, some of it is.
func (fs *FS) Crash(seed uint64) *FS {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.crashed = true
	rng := rand.New(rand.NewPCG(seed, 1))
	names := fs.durable
	if seed != 0 { // changes of names reach the disk in order, as in a journal
		for _, c := range fs.pending[:rng.IntN(len(fs.pending)+1)] {
			c.apply(names)
		}
	}
	up := New(seed)
	up.now, up.space = fs.now, fs.space
	made := map[*node]*node{}
	for _, path := range sortedKeys(names) { // sorted, for the draws to be the same each time
		n := names[path]
		if made[n] == nil {
			data := n.afterCrash(seed, rng)
			made[n] = &node{dir: n.dir, data: data, durable: slices.Clone(data), modified: n.modified}
		}
		up.names[path], up.durable[path] = made[n], made[n]
	}
	return up
}

// Kill ends the process and not the machine: it returns the file system as the
// next process finds it, with all that was written, synced or not, and without
// locks. Every later call on fs and its files fails.
func (fs *FS) Kill() *FS {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.crashed = true
	return &FS{
		now: fs.now, rng: fs.rng, names: fs.names, durable: fs.durable, pending: fs.pending,
		locks: map[string]bool{}, space: fs.space,
	}
}

// Look gives what programs see of a file, and how much of it, from its
// beginning, is there after any crash; nil for a file that is not there, or whose
// name may change in a crash. It is for checks, and no operation that a fault may
// hit. The bytes must not be changed, and are good until the next operation.
func (fs *FS) Look(path string) (seen, durable []byte) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n := fs.names[path]
	if n == nil {
		return nil, nil
	}
	if fs.durable[path] != n {
		return n.data, nil
	}
	sure := int64(len(n.durable))
	for _, w := range n.pending {
		sure = min(sure, w.off)
	}
	return n.data, n.durable[:sure]
}

func (n *node) afterCrash(seed uint64, rng *rand.Rand) []byte {
	data := slices.Clone(n.durable)
	if seed == 0 {
		return data
	}
	for _, w := range n.pending {
		data = w.tear(data, rng)
	}
	return data
}

// tear applies w to data wholly, not at all or in part.
func (w write) tear(data []byte, rng *rand.Rand) []byte {
	switch rng.IntN(4) {
	case 0:
		return data
	case 1: // the beginning only
		if !w.cut {
			w.data = w.data[:rng.IntN(len(w.data)+1)]
		}
	case 2: // the length, but not all of the bytes: a hole
		if !w.cut && len(w.data) > 0 {
			w.data = slices.Clone(w.data)
			from := rng.IntN(len(w.data))
			to := from + rng.IntN(len(w.data)-from) + 1
			clear(w.data[w.border(from):w.border(to+sector-1)])
		}
	}
	return w.apply(data)
}

// sector is what a disk writes wholly or not at all. Real ones have 512 bytes or
// more; files in tests are small, and are to meet borders often.
const sector = 8

// border is the last border of two sectors up to at, an index into the bytes of w,
// or where those begin or end.
func (w write) border(at int) int {
	return min(max(at-int((w.off+int64(at))%sector), 0), len(w.data))
}

func (w write) apply(data []byte) []byte {
	end := w.off + int64(len(w.data))
	if w.cut && end < int64(len(data)) {
		return data[:end]
	}
	if grow := end - int64(len(data)); grow > 0 {
		data = append(data, make([]byte, grow)...)
	}
	copy(data[w.off:], w.data)
	return data
}

func (c change) apply(names map[string]*node) {
	for i := range c.n {
		if c.nodes[i] == nil {
			delete(names, c.paths[i])
		} else {
			names[c.paths[i]] = c.nodes[i]
		}
	}
}

func sortedKeys(m map[string]*node) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// startLocked begins an operation.
func (fs *FS) startLocked(kind Kind, path string) error {
	if fs.crashed {
		return ErrCrashed
	}
	op := Op{N: fs.ops, Kind: kind, Path: path}
	fs.ops++
	if fs.hang != nil {
		if wait := fs.hang(op); wait != nil {
			fs.mu.Unlock()
			<-wait
			fs.mu.Lock()
			if fs.crashed {
				return ErrCrashed
			}
		}
	}
	if fs.fault != nil {
		return fs.fault(op)
	}
	return nil
}

func (fs *FS) changeLocked(c change) {
	c.apply(fs.names)
	fs.pending = append(fs.pending, c)
}

func pathError(op Kind, path string, err error) error {
	return &os.PathError{Op: string(op), Path: path, Err: err}
}

// OpenFile opens a file; O_CREATE, O_EXCL and O_TRUNC are known.
func (fs *FS) OpenFile(path string, flag int) (vfs.File, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	path = filepath.Clean(path)
	if err := fs.startLocked(Open, path); err != nil {
		return nil, err
	}
	n := fs.names[path]
	switch {
	case n != nil && n.dir:
		return nil, pathError(Open, path, errors.New("is a directory"))
	case n != nil && flag&os.O_CREATE != 0 && flag&os.O_EXCL != 0:
		return nil, pathError(Open, path, os.ErrExist)
	case n == nil && flag&os.O_CREATE == 0:
		return nil, pathError(Open, path, os.ErrNotExist)
	case n == nil:
		if p := fs.names[filepath.Dir(path)]; p == nil || !p.dir {
			return nil, pathError(Open, path, os.ErrNotExist)
		}
		n = &node{modified: fs.now()}
		fs.changeLocked(change{paths: [2]string{path}, nodes: [2]*node{n}, n: 1})
	}
	if flag&os.O_TRUNC != 0 {
		n.writeLocked(write{cut: true}, fs.now())
	}
	return &file{fs: fs, node: n, path: path, writable: flag&(os.O_RDWR|os.O_WRONLY) != 0}, nil
}

// Rename moves a file; directories stay where they are.
func (fs *FS) Rename(oldpath, newpath string) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	oldpath, newpath = filepath.Clean(oldpath), filepath.Clean(newpath)
	if err := fs.startLocked(Rename, oldpath); err != nil {
		return err
	}
	n, parent := fs.names[oldpath], fs.names[filepath.Dir(newpath)]
	if n == nil || parent == nil {
		return pathError(Rename, oldpath, os.ErrNotExist)
	}
	if n.dir {
		return pathError(Rename, oldpath, errors.New("is a directory"))
	}
	fs.changeLocked(change{paths: [2]string{oldpath, newpath}, nodes: [2]*node{nil, n}, n: 2})
	return nil
}

// Remove removes a file or an empty directory.
func (fs *FS) Remove(path string) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	path = filepath.Clean(path)
	if err := fs.startLocked(Remove, path); err != nil {
		return err
	}
	n := fs.names[path]
	if n == nil {
		return pathError(Remove, path, os.ErrNotExist)
	}
	if n.dir && len(fs.childrenLocked(path)) > 0 {
		return pathError(Remove, path, errors.New("directory not empty"))
	}
	fs.changeLocked(change{paths: [2]string{path}, n: 1})
	return nil
}

// Mkdir makes a directory.
func (fs *FS) Mkdir(path string) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	path = filepath.Clean(path)
	if err := fs.startLocked(Mkdir, path); err != nil {
		return err
	}
	if fs.names[path] != nil {
		return pathError(Mkdir, path, os.ErrExist)
	}
	if p := fs.names[filepath.Dir(path)]; p == nil || !p.dir {
		return pathError(Mkdir, path, os.ErrNotExist)
	}
	fs.changeLocked(change{paths: [2]string{path}, nodes: [2]*node{{dir: true, modified: fs.now()}}, n: 1})
	return nil
}

func (fs *FS) childrenLocked(path string) []string {
	prefix := strings.TrimSuffix(path, "/") + "/"
	var names []string
	for p := range fs.names {
		if name, ok := strings.CutPrefix(p, prefix); ok && name != "" && !strings.Contains(name, "/") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// ReadDir lists the names in a directory, sorted.
func (fs *FS) ReadDir(path string) ([]string, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	path = filepath.Clean(path)
	if err := fs.startLocked(ReadDir, path); err != nil {
		return nil, err
	}
	if n := fs.names[path]; n == nil || !n.dir {
		return nil, pathError(ReadDir, path, os.ErrNotExist)
	}
	return fs.childrenLocked(path), nil
}

// SyncDir makes the names in a directory durable.
func (fs *FS) SyncDir(path string) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	path = filepath.Clean(path)
	if err := fs.startLocked(SyncDir, path); err != nil {
		return err
	}
	if n := fs.names[path]; n == nil || !n.dir {
		return pathError(SyncDir, path, os.ErrNotExist)
	}
	kept := fs.pending[:0]
	for _, c := range fs.pending {
		in := false
		for _, p := range c.paths[:c.n] {
			in = in || filepath.Dir(p) == path
		}
		if in {
			c.apply(fs.durable)
		} else {
			kept = append(kept, c)
		}
	}
	fs.pending = kept
	return nil
}

// Stat describes a file or directory.
func (fs *FS) Stat(path string) (vfs.Info, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	path = filepath.Clean(path)
	if err := fs.startLocked(Stat, path); err != nil {
		return vfs.Info{}, err
	}
	n := fs.names[path]
	if n == nil {
		return vfs.Info{}, pathError(Stat, path, os.ErrNotExist)
	}
	return vfs.Info{Size: int64(len(n.data)), Modified: n.modified, Dir: n.dir}, nil
}

// Space answers what SetSpace was given.
func (fs *FS) Space(path string) (vfs.Space, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if err := fs.startLocked(Space, path); err != nil {
		return vfs.Space{}, err
	}
	return fs.space, nil
}

// Lock takes a lock; a crash frees it.
func (fs *FS) Lock(path string) (io.Closer, error) {
	f, err := fs.OpenFile(path, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	path = filepath.Clean(path)
	if err := fs.startLocked(Lock, path); err != nil {
		return nil, err
	}
	if fs.locks[path] {
		return nil, pathError(Lock, path, vfs.ErrLocked)
	}
	fs.locks[path] = true
	return &lock{fs: fs, path: path, file: f}, nil
}

type lock struct {
	fs   *FS
	path string
	file vfs.File
}

func (l *lock) Close() error {
	l.fs.mu.Lock()
	delete(l.fs.locks, l.path)
	l.fs.mu.Unlock()
	return l.file.Close()
}
