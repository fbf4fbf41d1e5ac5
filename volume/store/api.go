package store

import (
	"errors"
	"log/slog"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/vfs"
)

var errUnfinished = errors.New("store: not written yet")

// SuperBlockSize is the length of the super block; the first record follows it.
const SuperBlockSize = 8

// SyncMode says when an append counts as durable.
type SyncMode string

// The sync modes.
const (
	SyncGroup SyncMode = "group" // after an fsync
	SyncOS    SyncMode = "os"    // at once; the page cache is trusted
)

// Dir is one data directory.
type Dir struct {
	Path string
	Disk volume.DiskType
	Max  int  // volume slots
	Init bool // take the directory into use although it has no marker file
}

// Options are what Open needs.
type Options struct {
	FS   vfs.FS
	Dirs []Dir
	Sync SyncMode
	Log  *slog.Logger
	Now  func() time.Time
	Boot string // names the run of the host, as vfs.BootID does
}

// Row is where the newest record of a key is.
type Row struct {
	Offset  int64 // of the record in .dat; for a published deletion that of the record deleted, where it is known
	Size    int32 // of the record's body; -1 for a deletion
	Pending bool  // not published yet
	was     int32
}

// End is the offset just past the record at r.Offset: what r rests on is
// committed once Committed is at least that.
func (r Row) End() int64 { return r.Offset + needle.Length(max(r.Size, 0), needle.V3) }

// Store is many volumes in many directories.
type Store struct{}

// Open opens all volumes of all directories.
func Open(o Options) (*Store, error) { return nil, errUnfinished }

func (s *Store) Create(id volume.ID, spec volume.Spec, copy volume.CopyID) (*Volume, error) {
	return nil, errUnfinished
}
func (s *Store) Volume(id volume.ID) (*Volume, error)          { return nil, volume.ErrNoVolume }
func (s *Store) Volumes() []*Volume                            { return nil }
func (s *Store) Aside() []volume.SetAside                      { return nil }
func (s *Store) Disks() []volume.DiskReport                    { return nil }
func (s *Store) Remove(id volume.ID, copy volume.CopyID) error { return errUnfinished }
func (s *Store) SetAsideCopy(id volume.ID, copy volume.CopyID, why string) error {
	return errUnfinished
}
func (s *Store) Close() error { return nil }

// Volume is one copy of a volume.
type Volume struct{}

func (v *Volume) ID() volume.ID         { return 0 }
func (v *Volume) Spec() volume.Spec     { return volume.Spec{} }
func (v *Volume) CopyID() volume.CopyID { return 0 }

// Foreign reports whether the files were not made by weedd: reads only.
func (v *Volume) Foreign() bool { return false }

// Doubtful reports whether appended bytes may have been lost since the copy
// was last written: sync "os", and the host was rebooted without a Close.
func (v *Volume) Doubtful() bool { return false }

func (v *Volume) End() int64                              { return 0 }
func (v *Volume) Durable() int64                          { return 0 }
func (v *Volume) Committed() int64                        { return 0 }
func (v *Volume) Append(records []byte) error             { return errUnfinished }
func (v *Volume) Sync() (durable int64, err error)        { return 0, errUnfinished }
func (v *Volume) Publish(committed int64)                 {}
func (v *Volume) Cut(end int64) error                     { return errUnfinished }
func (v *Volume) CutAll() error                           { return errUnfinished }
func (v *Volume) Epochs() []volume.EpochStart             { return nil }
func (v *Volume) SetEpochs(e []volume.EpochStart) error   { return errUnfinished }
func (v *Volume) AddEpoch(e volume.EpochStart) error      { return errUnfinished }
func (v *Volume) Latest(key volume.Key) (Row, bool)       { return Row{}, false }
func (v *Volume) Lookup(key volume.Key) (Row, bool)       { return Row{}, false }
func (v *Volume) ReadHeader(r Row) (needle.Header, error) { return needle.Header{}, errUnfinished }
func (v *Volume) Read(r Row) (*needle.Needle, error)      { return nil, errUnfinished } // then n.Release()
func (v *Volume) ReadAt(p []byte, off int64) (int, error) { return 0, errUnfinished }
func (v *Volume) Checksum(upto int64) (uint32, error)     { return 0, errUnfinished }
func (v *Volume) NextAppendTime(now time.Time) uint64     { return 0 }
func (v *Volume) Checkpoint() error                       { return errUnfinished }
func (v *Volume) Failed() error                           { return nil }

// Get reads a published file; the caller calls Release on it.
func (v *Volume) Get(key volume.Key, cookie volume.Cookie, now time.Time, readDeleted bool) (*needle.Needle, error) {
	return nil, errUnfinished
}

func (v *Volume) Stats() (files, deleted uint64, deletedBytes int64, maxKey volume.Key, size int64, modified time.Time, revision uint16) {
	return
}
