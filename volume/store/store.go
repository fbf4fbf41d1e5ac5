// Package store is the engine: it keeps volumes, append-only files of records,
// in the directories of one node, and finds in them again, after any crash, all
// that was made durable.
//
// A volume is the files of SeaweedFS, <base>.dat, .idx and .vif, and two of
// ours beside them, which SeaweedFS ignores: .wcopy names the copy and lists its
// epochs, .wckpt says how much of the others is known to be good. The store
// knows nothing of other nodes; package replica makes copies of a volume equal
// and decides what is committed.
//
// A Store is safe for use at once; so are its volumes, within the limits that
// type Volume states. A call that returns leaves no goroutine behind, unless a disk
// does not answer.
package store

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"weedd/volume"
	"weedd/volume/vfs"
)

// SyncMode says when what was appended counts as durable.
type SyncMode string

// The sync modes.
const (
	SyncGroup SyncMode = "group" // when Sync has fsynced it
	SyncOS    SyncMode = "os"    // at once: the page cache is trusted
)

// Dir is a directory to keep volumes in.
type Dir struct {
	Path string
	Disk volume.DiskType
	Max  int // volume slots; 0 is always some more than there are volumes
	// Init takes the directory into use although it has no marker file, and
	// makes it if its parent is there. Without Init such a directory is
	// refused: it may be the mount point of a disk that is not mounted.
	Init bool
}

// Options are what Open needs. FS, Dirs, Log and Now must be set.
type Options struct {
	FS      vfs.FS
	Dirs    []Dir
	Sync    SyncMode // "" is SyncGroup
	MinFree uint64   // bytes of room below which no volume is created in a directory
	Boot    string   // names the run of the host; see vfs.BootID
	// CompactRate bounds how many bytes a second a compaction reads and writes
	// while the volume is written to, for each volume; 0 is no bound.
	CompactRate int64
	// Opened is told of a directory that is taken into use after Open; if it fails,
	// the directory is not. May be nil.
	Opened func(path string) error
	Ledger *Ledger // of this node; nil, for tools that only read, remembers nothing
	Log    *slog.Logger
	Now    func() time.Time
}

// Store is many volumes in many directories.
type Store struct {
	opts Options

	place sync.Mutex // held while a directory is chosen for a new volume; before mu

	mu      sync.Mutex           // not held during I/O on data; guards what follows
	orders  map[volume.ID]*order // under way
	dirs    []*dir               // each is replaced, not changed, when its disk turns up later
	volumes map[volume.ID]*Volume
	aside   []aside
	avoid   []string // directories that get no new volumes
	closed  bool
}

// aside is a volume that is not served.
type aside struct {
	id     volume.ID // 0 for one that was moved away
	copy   volume.CopyID
	dir    *dir
	base   string
	path   string // to show
	reason string
}

// Open opens every volume in every directory. A volume that cannot be trusted
// is set aside, a directory that cannot be used is shown in Disks with the
// reason; neither stops Open, unless no directory at all can be used. One whose disk
// does not answer is not waited for: Watch takes it into use when it does. An Open
// that fails leaves nothing open.
func Open(o Options) (*Store, error) {
	if o.Sync == "" {
		o.Sync = SyncGroup
	}
	if o.Sync != SyncGroup && o.Sync != SyncOS {
		return nil, fmt.Errorf("store: sync %q is neither %q nor %q", o.Sync, SyncGroup, SyncOS)
	}
	s := &Store{opts: o, volumes: map[volume.ID]*Volume{}, orders: map[volume.ID]*order{}}
	starts := make([]*starting, len(o.Dirs))
	hang := make([]bool, len(o.Dirs))
	var wait sync.WaitGroup
	for i, spec := range o.Dirs {
		starts[i] = s.start(spec)
		wait.Go(func() { hang[i] = !s.started(starts[i]) })
	}
	wait.Wait()
	var refused []error
	for i, at := range starts {
		if hang[i] {
			d := &dir{Dir: o.Dirs[i], late: at, problem: fmt.Sprintf("the disk of %s did not answer when the process started: it is used as soon as it does", o.Dirs[i].Path)}
			s.dirs = append(s.dirs, d)
			o.Log.Error("data directory is not used", "dir", d.Path, "err", d.problem)
			continue
		}
		d, f, _ := at.take()
		s.dirs = append(s.dirs, d)
		if f.err == nil {
			s.take(d, f)
			continue
		}
		err := errors.Join(f.err, d.close(f)) // nothing of it is in use: it may be tried again
		d.problem = err.Error()
		o.Log.Error("data directory is not used", "dir", d.Path, "err", err)
		refused = append(refused, err)
	}
	if len(refused) == len(o.Dirs) {
		return nil, errors.Join(errors.Join(refused...), s.Close())
	}
	if o.Ledger != nil {
		if err := o.Ledger.Found(s.Volumes()); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

// found is what is in a directory.
type found struct {
	volumes []opened
	aside   []aside // by order, in an earlier run
	err     error
}

// opened is what came of opening the volume at base; v is not nil.
type opened struct {
	v    *Volume
	base string
	err  error
}

// load opens the volumes of one directory, several at once: most of the time
// goes into reading their indexes. The error is that of listing it.
func (s *Store) load(d *dir) (f found) {
	names, err := s.opts.FS.ReadDir(d.Path)
	for _, name := range names {
		if base, ok := strings.CutSuffix(name, extDoom); ok && err == nil {
			err = s.finishDoom(d, filepath.Join(d.Path, base))
		}
	}
	if err == nil {
		err = s.finishTakes(d, names)
	}
	if err == nil {
		names, err = s.opts.FS.ReadDir(d.Path) // without those
	}
	if err == nil {
		f.aside, err = s.movedAside(d)
	}
	if err != nil {
		return found{err: err}
	}
	names = slices.DeleteFunc(volumeNames(names), func(name string) bool {
		_, _, ok := parseBase(name)
		return !ok
	})
	f.volumes = make([]opened, len(names))
	var g errgroup.Group
	g.SetLimit(max(runtime.GOMAXPROCS(0), 4)) // more than processors: the disk may be slow
	for i, name := range names {
		g.Go(func() error {
			collection, id, _ := parseBase(name)
			base := filepath.Join(d.Path, name)
			v, err := openVolume(d, base, id, collection, &s.opts)
			f.volumes[i] = opened{v, base, err}
			return nil
		})
	}
	_ = g.Wait() // each error is of one volume
	return f
}

// take makes what was found in d part of s. It does not matter which volume was
// opened first.
func (s *Store) take(d *dir, f found) {
	for _, o := range f.volumes {
		s.enter(d, o)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.aside = append(s.aside, f.aside...)
}

// volumeNames picks the names, without suffix, of what may be volumes.
func volumeNames(names []string) []string {
	found := map[string]bool{}
	for _, name := range names {
		for _, ext := range []string{extDat, extIdx, extCopy, extErasure} { // .vif alone is no volume
			if base, ok := strings.CutSuffix(name, ext); ok {
				found[base] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// parseBase splits the name of a volume's files; a collection may contain
// underscores itself.
func parseBase(name string) (collection string, id volume.ID, ok bool) {
	number := name
	if i := strings.LastIndexByte(name, '_'); i > 0 {
		collection, number = name[:i], name[i+1:]
	}
	n, err := strconv.ParseUint(number, 10, 32)
	return collection, volume.ID(n), err == nil && n > 0 && strconv.FormatUint(n, 10) == number
}

func baseName(id volume.ID, collection string) string {
	if collection == "" {
		return id.String()
	}
	return collection + "_" + id.String()
}

// enter takes a volume that was opened, or sets it aside if that failed.
func (s *Store) enter(d *dir, o opened) {
	v, base, err, id := o.v, o.base, o.err, o.v.id
	if errors.Is(err, errNeverMade) {
		s.opts.Log.Info("removing what an unfinished creation left", "volume", id, "dir", d.Path)
		if err = removeFiles(s.opts.FS, base); err == nil {
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if other := s.volumes[id]; err == nil && other != nil {
		if other.Foreign() && !v.Foreign() { // ours is the one that the cluster knows
			v, other = other, v
			s.volumes[id] = other
		}
		err = errors.Join(fmt.Errorf("volume %d is also at %s", id, other.base), v.closeFiles())
		d, base = v.dir, v.base
	}
	if err != nil {
		s.opts.Log.Warn("volume is set aside", "volume", id, "path", base+extDat, "err", err)
		s.aside = append(s.aside, aside{id: id, copy: v.copy, dir: d, base: base, path: base + extDat, reason: err.Error()})
		return
	}
	s.volumes[id] = v
}

// Volume finds a volume; volume.ErrNoVolume if it is not here.
func (s *Store) Volume(id volume.ID) (*Volume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.volumes[id]; v != nil {
		return v, nil
	}
	return nil, fmt.Errorf("volume %d: %w", id, volume.ErrNoVolume)
}

// Volumes lists the volumes, by id.
func (s *Store) Volumes() []*Volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.volumes), func(a, b *Volume) int { return cmp.Compare(a.id, b.id) })
}

// Aside lists what was found and is not served, and why.
func (s *Store) Aside() []volume.SetAside {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []volume.SetAside
	for _, a := range s.aside {
		list = append(list, volume.SetAside{Path: a.path, Volume: a.number(), Reason: a.reason, Moved: a.id == 0})
	}
	return list
}

// number is the volume id, by the name of its folder (makeAside) if it was moved
// away; 0 when that does not tell.
func (a aside) number() volume.ID {
	if a.id != 0 {
		return a.id
	}
	parts := strings.Split(filepath.Base(a.path), "-")
	_, id, _ := parseBase(strings.Join(parts[:max(len(parts)-2, 0)], "-"))
	return id
}

// Here lists the copies of a volume that are in a directory, served or set aside
// where they were found, 0 for one that was ours and cannot be told any more; and
// reports whether files of it are there that never were ours.
func (s *Store) Here(id volume.ID) (ours []volume.CopyID, foreign bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.volumes[id]; v != nil && (!v.Foreign() || v.ours) {
		ours = append(ours, v.copy)
	} else if v != nil {
		foreign = true
	}
	for _, a := range s.aside {
		switch {
		case a.id != id || a.id == 0:
		case a.copy != 0:
			ours = append(ours, a.copy)
		default:
			foreign = true
		}
	}
	return ours, foreign
}

// spareSlots is how many more volumes a directory without a Max says it takes:
// enough for growth between two reports.
const spareSlots = 16

// Disks describes the directories as they are now.
func (s *Store) Disks() []volume.DiskReport {
	var list []volume.DiskReport
	used := s.used()
	for _, d := range s.directories() {
		r := volume.DiskReport{Dir: d.Path, Disk: d.Disk, Max: d.Max, Used: used[d], Fenced: d.problem, Missing: d.problem != ""}
		if d.Max == 0 {
			r.Max = r.Used + spareSlots
		}
		if !r.Missing {
			d.report(s, &r)
		}
		list = append(list, r)
	}
	return list
}

// used counts the volumes of each directory, with those that are being made.
func (s *Store) used() map[*dir]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	used := map[*dir]int{}
	for _, v := range s.volumes {
		used[v.dir]++
	}
	for _, a := range s.aside {
		if a.id != 0 {
			used[a.dir]++
		}
	}
	for _, o := range s.orders {
		if o.at != nil && !o.made {
			used[o.at]++
		}
	}
	return used
}

// Close closes the volumes and gives the directories free. A disk that hangs is
// not waited for, which is an error: volume.ErrUnavailable. Close twice is fine.
func (s *Store) Close() error {
	s.mu.Lock()
	done := s.closed
	s.closed = true
	s.mu.Unlock()
	if done {
		return nil
	}
	dirs := s.directories()
	errs := make([]error, len(dirs))
	var all sync.WaitGroup
	for i, d := range dirs {
		volumes := slices.DeleteFunc(s.Volumes(), func(v *Volume) bool { return v.dir != d })
		all.Go(func() { errs[i] = s.closeDir(d, volumes) })
	}
	all.Wait()
	return errors.Join(errs...)
}
