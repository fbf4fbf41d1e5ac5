package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"weedd/volume/vfs"
)

const (
	markerName = ".weedd-disk"  // in each directory that is in use; holds its id
	uuidName   = "vol_dir.uuid" // the same for SeaweedFS
	asideName  = "aside"        // directory of copies that were set aside by order
	reasonName = "reason"       // in each directory of those
)

// dir is one data directory.
type dir struct {
	Dir
	lock    io.Closer // nil if it could not be taken
	id      string    // in its marker file
	problem string    // why it is not used
	late    *starting // with problem: its disk has not answered since Open; else nil
	watched
}

// openDir locks a directory and makes sure that it is one of ours. It returns a
// dir in any case.
func openDir(fs vfs.FS, spec Dir) (*dir, error) {
	d := &dir{Dir: spec, watched: watched{sooner: make(chan struct{}, 1)}}
	marker := filepath.Join(spec.Path, markerName)
	marked, err := vfs.Exists(fs, marker)
	if err != nil {
		return d, fmt.Errorf("data directory %s: %w", spec.Path, err)
	}
	if !marked && !spec.Init {
		return d, fmt.Errorf("data directory %s has no marker file %s: is its disk mounted? If it is to be taken into use as it is, make that file", spec.Path, markerName)
	}
	if !marked {
		if err := makeDir(fs, spec.Path); err != nil {
			return d, fmt.Errorf("data directory %s: %w", spec.Path, err)
		}
	}
	if d.lock, err = fs.Lock(marker); err != nil {
		if errors.Is(err, vfs.ErrLocked) {
			err = fmt.Errorf("%w: another weedd runs on it", err)
		}
		return d, fmt.Errorf("data directory %s: %w", spec.Path, err)
	}
	if err := d.fill(fs, marker); err != nil {
		err = errors.Join(err, d.lock.Close())
		d.lock = nil
		return d, fmt.Errorf("data directory %s: %w", spec.Path, err)
	}
	return d, nil
}

// makeDir makes a directory if it is not there; its parent must be.
func makeDir(fs vfs.FS, path string) error {
	err := fs.Mkdir(path)
	there := errors.Is(err, os.ErrExist)
	if err != nil && !there {
		return err
	}
	err = fs.SyncDir(filepath.Dir(path))
	if there && errors.Is(err, os.ErrPermission) { // it is not for us to make
		return nil
	}
	return err
}

// fill writes the id of the directory into its two small files, where they lack
// it. The marker is locked by its file, so it is written in place.
func (d *dir) fill(fs vfs.FS, marker string) error {
	id := newUUID()
	for _, path := range []string{filepath.Join(d.Path, uuidName), marker} {
		b, err := vfs.ReadFile(fs, path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if len(b) == len(id) {
			id = string(b)
			continue
		}
		if err := vfs.Write(fs, path, []byte(id)); err != nil {
			return err
		}
	}
	d.id = id
	return fs.SyncDir(d.Path)
}

// newUUID makes a random UUID, version 4.
func newUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func syncDirOf(fs vfs.FS, path string) error { return fs.SyncDir(filepath.Dir(path)) }
