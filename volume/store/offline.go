package store

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"weedd/volume"
	"weedd/volume/vfs"
)

// What follows works on a directory without a Store: Find, Inspect, Check and
// ReadFiles only look, and may do so while a daemon runs on the directory; Fix
// and Build change files, and want LockDir first.

// Found is a volume in a directory, by the names of its files.
type Found struct {
	ID         volume.ID
	Collection string
	Base       string   // path without a suffix
	Files      []string // names of its files
}

// Path is that of its data file.
func (f Found) Path() string { return f.Base + extDat }

func (f Found) has(ext string) bool { return slices.Contains(f.Files, filepath.Base(f.Base)+ext) }

// Find lists the volumes of a directory, by id.
func Find(fs vfs.FS, dir string) ([]Found, error) {
	names, err := fs.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	bases := volumeNames(names)
	for _, name := range names {
		base, ok := strings.CutSuffix(name, extErasure)
		if ok && !slices.Contains(bases, base) {
			bases = append(bases, base)
		}
	}
	var list []Found
	for _, name := range bases {
		collection, id, ok := parseBase(name)
		if !ok {
			continue
		}
		f := Found{ID: id, Collection: collection, Base: filepath.Join(dir, name)}
		for _, file := range names {
			if strings.HasPrefix(file, name+".") {
				f.Files = append(f.Files, file)
			}
		}
		list = append(list, f)
	}
	slices.SortFunc(list, func(a, b Found) int {
		if a.ID != b.ID {
			return int(int64(a.ID) - int64(b.ID))
		}
		return strings.Compare(a.Base, b.Base)
	})
	return list, nil
}

// errInUse says that a daemon runs on a directory.
var errInUse = errors.New("a running weedd uses this directory; stop it first")

// Marked reports whether a directory is, or was, one of a daemon's, and gives the
// file that a daemon locks.
func Marked(fs vfs.FS, dir string) (marker string, marked bool, err error) {
	marker = filepath.Join(dir, markerName)
	marked, err = vfs.Exists(fs, marker)
	return marker, marked, err
}

// LockDir makes sure that no daemon uses a directory until the result is closed.
// A directory that never was a daemon's has no file to lock, and none is made: it
// would be taken for one.
func LockDir(fs vfs.FS, dir string) (io.Closer, error) {
	marker, marked, err := Marked(fs, dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	if !marked {
		return noLock{}, nil
	}
	lock, err := fs.Lock(marker)
	if errors.Is(err, vfs.ErrLocked) {
		err = errInUse
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return lock, nil
}

type noLock struct{}

func (noLock) Close() error { return nil }

// lookFS shows a volume as a daemon would find it at its next start, and refuses
// every change: where the commit of a compaction was decided and not finished, the
// new files stand for the old ones.
type lookFS struct {
	vfs.FS
	names map[string]string
}

var errLookOnly = errors.New("this only looks, and writes nothing")

func look(fs vfs.FS, f Found) lookFS {
	l := lookFS{fs, map[string]string{}}
	if f.has(extCommit) {
		for _, m := range [][2]string{{extNewDat, extDat}, {extNewIdx, extIdx}} {
			if f.has(m[0]) {
				l.names[f.Base+m[1]] = f.Base + m[0]
			}
		}
	}
	return l
}

func (l lookFS) at(path string) string {
	if to, ok := l.names[path]; ok {
		return to
	}
	return path
}

// OpenFile opens for reading.
func (l lookFS) OpenFile(path string, flag int) (vfs.File, error) {
	if flag != os.O_RDONLY {
		return nil, fmt.Errorf("open %s: %w", path, errLookOnly)
	}
	return l.FS.OpenFile(l.at(path), flag)
}

// Stat is that of what stands for path.
func (l lookFS) Stat(path string) (vfs.Info, error) { return l.FS.Stat(l.at(path)) }

// Rename is refused, as are the other changes.
func (l lookFS) Rename(string, string) error    { return errLookOnly }
func (l lookFS) Remove(string) error            { return errLookOnly }
func (l lookFS) Mkdir(string) error             { return errLookOnly }
func (l lookFS) SyncDir(string) error           { return errLookOnly }
func (l lookFS) Lock(string) (io.Closer, error) { return nil, errLookOnly }

// openLook opens the files of a volume for reading, whosever they are. Without an
// error closeFiles is to be called.
func openLook(fs vfs.FS, f Found) (*Volume, error) {
	v := newLook(fs, f)
	coded, err := isCoded(v.opts.FS, f.Base)
	if err == nil && coded {
		err = errors.New("is erasure-coded: it can be served, and no more")
	}
	if err == nil {
		err = v.openFiles() // with copy 0: for reading only
	}
	if err == nil {
		return v, nil
	}
	return nil, errors.Join(err, v.closeFiles())
}

func newLook(fs vfs.FS, f Found) *Volume {
	return &Volume{
		id: f.ID, dir: &dir{}, base: f.Base, log: slog.New(slog.DiscardHandler), newest: map[volume.Key]indexRow{},
		opts: &Options{FS: look(fs, f), Now: time.Now}, spec: volume.Spec{Collection: f.Collection},
	}
}

// openForeignLook is openLook, with the index, for volumes in any form.
func openForeignLook(fs vfs.FS, f Found) (v *Volume, err error) {
	v = newLook(fs, f)
	coded, err := isCoded(v.opts.FS, f.Base)
	switch {
	case err != nil:
	case coded:
		err = v.loadShards()
	default:
		if err = v.openFiles(); err == nil {
			err = v.loadForeign()
		}
	}
	return v, errors.Join(err, v.closeFiles())
}

// readCopyFile reads the copy file; there is none beside volumes of SeaweedFS.
func readCopyFile(fs vfs.FS, f Found) (volume.CopyID, []volume.EpochStart, error) {
	b, err := vfs.ReadFile(fs, f.Base+extCopy)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil, nil
	}
	if err != nil {
		return 0, nil, err
	}
	return decodeCopy(b, f.ID)
}

// Inspect reports on a volume by its index and the small files, without reading
// its data. One that could not be served is failed, with the reason. Copy is 0 for
// a volume of SeaweedFS. It changes nothing.
func Inspect(fs vfs.FS, f Found) volume.CopyReport {
	r := volume.CopyReport{Volume: f.ID, Spec: volume.Spec{Collection: f.Collection}, State: volume.CopyHealthy}
	copy, epochs, err := readCopyFile(fs, f)
	r.Copy = copy
	if info, e := look(fs, f).Stat(f.Base + extDat); e == nil {
		r.Size, r.Modified = info.Size, info.Modified
	}
	var v *Volume
	if err == nil {
		v, err = openForeignLook(fs, f)
	}
	if err == nil {
		v.epochs = epochs
		v.believe()
		if n := len(v.epochs); n > 0 {
			r.Epoch, r.Generation = v.epochs[n-1].Epoch, v.epochs[n-1].Generation
		}
		r.Spec, r.Version = v.spec, int(v.super.version)
		r.Files, r.Deleted, r.DeletedB, r.MaxKey, r.Committed, _, r.Revision = v.Stats()
	}
	if f.has(extDoom) {
		r.Reason = "is being removed or set aside; the daemon finishes that when it starts"
	}
	if err != nil {
		r.State, r.Reason = volume.CopyFailed, err.Error()
	}
	return r
}
