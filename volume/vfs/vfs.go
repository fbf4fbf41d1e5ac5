// Package vfs is the file system as narrow as the storage engine needs it, so
// that tests can put another one in its place: vfs/faultfs fails, tears and
// loses on demand. OS is the real one.
//
// What the engine assumes of a file system: data is durable once Sync has
// returned nil; names are durable once SyncDir of their directory has returned
// nil; Rename replaces a name in one step; after a crash everything else may be
// there, in part or not at all, in any order, but no sector of 512 bytes in part.
package vfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// ErrLocked is what Lock answers when another process, or another opener in
// this one, has the lock.
var ErrLocked = errors.New("locked by another process")

// FS is a file system. Paths are as in package os. Missing files are
// os.ErrNotExist, existing ones os.ErrExist. Safe for use at once.
type FS interface {
	// OpenFile opens path; flag is as for os.OpenFile, new files are 0644.
	OpenFile(path string, flag int) (File, error)
	// Rename moves old to new, replacing new if it is there.
	Rename(oldpath, newpath string) error
	// Remove removes a file or an empty directory.
	Remove(path string) error
	// Mkdir makes one directory; its parent must be there.
	Mkdir(path string) error
	// ReadDir lists the names in a directory, sorted.
	ReadDir(path string) ([]string, error)
	// SyncDir makes the names in a directory durable.
	SyncDir(path string) error
	// Stat describes a file or directory.
	Stat(path string) (Info, error)
	// Space says how large the file system of path is and what of it is free.
	Space(path string) (Space, error)
	// Lock takes the lock of a file, making it if it is not there, without
	// waiting. The lock ends with the process or when the result is closed.
	Lock(path string) (io.Closer, error)
}

// File is an open file. ReadAt and WriteAt may be called at once, Sync at once
// with both.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Truncate(size int64) error
	// Sync makes the data and the length durable (fdatasync).
	Sync() error
	Size() (int64, error)
}

// Info describes a file.
type Info struct {
	Size     int64
	Modified time.Time
	Dir      bool
}

// Space is the room of a file system in bytes. Free is what an ordinary user
// may still take.
type Space struct{ All, Free uint64 }

// ReadFile reads a whole file.
func ReadFile(fs FS, path string) (data []byte, err error) {
	f, err := fs.OpenFile(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	data = make([]byte, size)
	n, err := f.ReadAt(data, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data[:n], nil
}

// Replace makes data the durable content of path in one step: after a crash
// the file is the old one or the new one. It leaves a file path+".tmp" behind
// when it fails.
func Replace(fs FS, path string, data []byte) error {
	tmp := path + ".tmp"
	if err := Write(fs, tmp, data); err != nil {
		return err
	}
	if err := fs.Rename(tmp, path); err != nil {
		return err
	}
	return fs.SyncDir(filepath.Dir(path))
}

// Write makes data the content of path, in place, and syncs it. A crash may leave
// any part of it.
func Write(fs FS, path string, data []byte) (err error) {
	f, err := fs.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.WriteAt(data, 0); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}

// Exists reports whether path is there; errors other than its absence are
// returned.
func Exists(fs FS, path string) (bool, error) {
	_, err := fs.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
