package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"weedd/volume"
)

const deletedKey = 8 // bytes of a key in .ecj

// Coded reports whether v is in shards.
func (v *Volume) Coded() bool { return v.alien.shards != nil }

// DeleteCoded deletes a file from a volume in shards, which is the one change that
// these allow, and answers the size of the record's body: the key is in .ecj,
// durably, when it returns. The errors are volume.ErrNotFound, ErrCookie,
// ErrNoSpace, after which nothing has changed, and ErrReadOnly: v takes no
// deletions, or an earlier one could not be made durable, and whether that one is
// done the next start will tell. Safe for concurrent use.
func (v *Volume) DeleteCoded(key volume.Key, cookie volume.Cookie) (size int64, err error) {
	if !v.Coded() || v.alien.marked {
		return 0, fmt.Errorf("%w: volume %d takes no deletions", volume.ErrReadOnly, v.id)
	}
	v.idxMu.Lock() // .ecj is to .ecx what .idx is to .dat
	defer v.idxMu.Unlock()
	if err := errors.Join(v.Failed(), v.dir.writable(v.opts.FS)); err != nil {
		return 0, err
	}
	row, ok := v.Lookup(key)
	if !ok || row.Deleted() {
		return 0, fmt.Errorf("%w: file %d", volume.ErrNotFound, key)
	}
	if err := v.owns(row, cookie); err != nil {
		return 0, err
	}
	if err := v.journal(key); err != nil {
		return 0, fmt.Errorf("delete from volume %d: %w", v.id, err)
	}
	v.mu.Lock()
	v.enterForeign(v.files.Load().index, indexRow{key: key, size: -1})
	v.mu.Unlock()
	return int64(row.Size), nil
}

// owns makes sure that the file at row has this cookie and is there still. A file
// that is damaged may be deleted.
func (v *Volume) owns(row Row, cookie volume.Cookie) error {
	h, err := v.ReadHeader(row)
	if err != nil {
		return err
	}
	if h.Cookie != cookie {
		return fmt.Errorf("%w: file %d", volume.ErrCookie, row.key)
	}
	n, err := v.Read(row)
	if err != nil {
		if errors.Is(err, volume.ErrCorrupt) {
			return nil
		}
		return err
	}
	defer n.Release()
	if v.Expired(n, v.opts.Now()) {
		return fmt.Errorf("%w: file %d", volume.ErrNotFound, row.key)
	}
	return nil
}

// journal appends a key to .ecj, over what a crash has left of an unfinished one.
// The file is opened each time: another program may have put another in its place.
func (v *Volume) journal(key volume.Key) (err error) {
	path := v.base + extDeleted
	f, err := v.opts.FS.OpenFile(path, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return typed(err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return err
	}
	size -= size % deletedKey
	if _, err := f.WriteAt(binary.BigEndian.AppendUint64(nil, uint64(key)), size); err != nil {
		if noRoom(err) {
			err = errors.Join(typed(err), f.Truncate(size))
		}
		return err
	}
	if err = f.Sync(); err == nil { // its name may be as new as the key
		err = syncDirOf(v.opts.FS, path)
	}
	if err != nil {
		v.setFailed(err) // the next sync would say that all is well
		v.log.Error("volume takes no more deletions: one could not be made durable", "volume", v.id, "err", err)
	}
	return err
}
