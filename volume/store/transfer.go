package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/vfs"
)

// ReadFiles gives do every file of a volume, in the order of .dat, as the data
// has it whatever became of the index; with deleted those that were deleted, too,
// and last versions of those only. What has expired is left out. The needle is
// valid until do returns. The problems that were met are answered: what do was
// not given is among them. It changes nothing; progress is told the bytes read,
// which is twice the size of .dat.
func ReadFiles(ctx context.Context, fs vfs.FS, f Found, deleted bool, do func(n *needle.Needle, deleted bool) error, progress func(int64)) (bad []Finding, err error) {
	s, check, err := surveyAll(ctx, fs, f, nil, progress)
	if s == nil {
		return problems(check.Findings), err
	}
	defer func() { err = errors.Join(err, s.v.closeFiles()) }()
	if err != nil {
		return nil, err
	}
	s.last = 0
	err = s.walk(func(sp *span) error {
		if sp.needle == nil {
			return nil
		}
		p := s.fresh.get(sp.needle.Key)
		gone := !p.live()
		size := p.size()
		if gone {
			size = ^size
		}
		if p.offset() != sp.offset || size != sp.row.size || gone && (!deleted || size <= 0) || s.v.Expired(sp.needle, s.now) {
			return nil
		}
		sp.needle.Tombstone = false
		return do(sp.needle, gone)
	})
	return problems(check.Findings), err
}

// Builder makes a new volume in the format of SeaweedFS, in a directory that no
// daemon uses. Its methods are called by one goroutine; Close ends it, and removes
// what was made unless Finish has answered nil.
type Builder struct {
	fs       vfs.FS
	base     string
	dat, idx vfs.File
	index    *index
	buf      []byte // of .dat, from end on
	rows     []byte // of .idx, not yet written
	written  int64  // bytes of .idx
	end      int64
	last     uint64
	vif      []byte
	done     bool
}

// buildAt is how many bytes are gathered for a write.
const buildAt = 1 << 20

// Build begins a volume. It fails with volume.ErrExists if any file of a volume of
// that number is in the directory.
func Build(fs vfs.FS, dir string, id volume.ID, spec volume.Spec, now time.Time) (*Builder, error) {
	if _, err := volume.ParseCollection(spec.Collection); err != nil {
		return nil, err
	}
	there, err := Find(fs, dir)
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(there, func(f Found) bool { return f.ID == id }); i >= 0 {
		return nil, fmt.Errorf("%w: %s", volume.ErrExists, there[i].Base)
	}
	b := &Builder{fs: fs, base: filepath.Join(dir, baseName(id, spec.Collection)), index: newIndex(0), vif: newVif(spec.TTL, now)}
	for _, ext := range []string{extVif, extDat + ".tmp", extIdx + ".tmp"} {
		if there, err := vfs.Exists(fs, b.base+ext); err != nil || there {
			return nil, errors.Join(err, fmt.Errorf("%w: %s", volume.ErrExists, b.base+ext))
		}
	}
	if b.dat, err = fs.OpenFile(b.base+extDat+".tmp", os.O_RDWR|os.O_CREATE|os.O_EXCL); err != nil {
		return nil, err
	}
	if b.idx, err = fs.OpenFile(b.base+extIdx+".tmp", os.O_RDWR|os.O_CREATE|os.O_EXCL); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	super := superBlock{version: needle.V3, placement: spec.Placement, ttl: spec.TTL}.encode()
	b.buf = append(b.buf, super[:]...)
	return b, nil
}

// Path is that of the data file, once the volume is finished.
func (b *Builder) Path() string { return b.base + extDat }

// Has reports whether a key was added.
func (b *Builder) Has(key volume.Key) bool { return b.index.get(key) != 0 }

// Add appends a record; a key may come only once, but for a tombstone after it.
// An append time of 0 is given one after the last.
func (b *Builder) Add(n *needle.Needle) error {
	if b.Has(n.Key) && !n.Tombstone {
		return fmt.Errorf("%w: key %x is there already", volume.ErrExists, uint64(n.Key))
	}
	at := b.end + int64(len(b.buf))
	if at > maxOffset-reserve {
		return fmt.Errorf("%w: the volume is full at %d bytes", volume.ErrNoSpace, at)
	}
	if n.AppendedAt == 0 {
		n.AppendedAt = b.last + 1
	}
	rec, err := needle.Append(b.buf, n)
	if err != nil {
		return err
	}
	b.buf, b.last = rec, max(b.last, n.AppendedAt)
	row := indexRow{n.Key, at, int32(n.BodySize(needle.V3))}
	if n.Tombstone {
		row.size = -1
	}
	b.rows = row.append(b.rows)
	b.index.set(n.Key, b.index.get(n.Key).replacedBy(row.offset, row.size))
	if len(b.buf) >= buildAt {
		return b.flush()
	}
	return nil
}

func (b *Builder) flush() error {
	if _, err := b.dat.WriteAt(b.buf, b.end); err != nil {
		return err
	}
	if _, err := b.idx.WriteAt(b.rows, b.written); err != nil {
		return err
	}
	b.end += int64(len(b.buf))
	b.written += int64(len(b.rows))
	b.buf, b.rows = b.buf[:0], b.rows[:0]
	if cap(b.buf) > 8*buildAt {
		b.buf = nil
	}
	return nil
}

// Finish makes the volume durable and gives it its names. .dat comes first: alone
// it is a volume whose index is made from it.
func (b *Builder) Finish() error {
	if err := b.flush(); err != nil {
		return err
	}
	if err := errors.Join(b.dat.Sync(), b.idx.Sync()); err != nil {
		return err
	}
	for _, ext := range []string{extDat, extIdx} {
		if err := b.fs.Rename(b.base+ext+".tmp", b.base+ext); err != nil {
			return err
		}
	}
	if err := vfs.Replace(b.fs, b.base+extVif, b.vif); err != nil { // syncs the directory as well
		return err
	}
	b.done = true
	return nil
}

// Close ends the work. Twice is fine.
func (b *Builder) Close() error {
	var err error
	for ext, f := range map[string]*vfs.File{extDat: &b.dat, extIdx: &b.idx} {
		if *f == nil {
			continue
		}
		err = errors.Join(err, (*f).Close())
		*f = nil
		if b.done {
			continue
		}
		for _, path := range []string{b.base + ext + ".tmp", b.base + ext} {
			if e := b.fs.Remove(path); e != nil && !errors.Is(e, os.ErrNotExist) {
				err = errors.Join(err, e)
			}
		}
	}
	return err
}
