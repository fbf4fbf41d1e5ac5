// Package erasure reads volumes that SeaweedFS has cut into erasure-coded shards,
// as if their .dat were still one file. What a missing shard had is computed from
// the others. It writes nothing and knows no records: whether bytes are right,
// their reader finds out by their checksum, and may then ask for them again
// without a shard that it suspects.
//
// A File is safe for use at once.
package erasure

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/klauspost/reedsolomon"

	"weedd/volume"
	"weedd/volume/vfs"
)

// MaxShards is how many shards a volume has at the most, data and parity.
const MaxShards = 32

const (
	largeBlock = 1 << 30
	smallBlock = 1 << 20
	// piece is how much of a missing shard is computed at once; as much of each
	// of the shards that it is computed from is in memory meanwhile.
	piece = 256 << 10
)

// Options are what Open needs.
type Options struct {
	FS           vfs.FS
	Data, Parity int   // numbers of shards
	Size         int64 // of .dat, in bytes; 0 if it is not known
	// Shards are the paths of the shards that are there, by number. They may lie
	// in several directories.
	Shards map[int]string
	// Sums has the checksums of the shards; nil without.
	Sums *Sums
}

// File is the .dat of a volume, read from its shards. It is a vfs.File that
// cannot be changed.
type File struct {
	geometry
	shards []vfs.File // nil for those that are missing
	code   reedsolomon.Encoder
	sums   *Sums

	mu      sync.Mutex // not held during I/O; guards what follows
	checked map[block]bool
}

// block names a block of a shard that has a checksum.
type block struct {
	shard int
	n     int64
}

// Open opens the shards. It fails if fewer can be opened than there are data
// shards, or if they are of no length that a shard can have; shards of another
// length than the volume's are left out. An Open that fails leaves nothing open.
func Open(o Options) (_ *File, err error) {
	if o.Data < 1 || o.Parity < 0 || o.Data+o.Parity > MaxShards {
		return nil, fmt.Errorf("%w: %d data and %d parity shards", volume.ErrBadRequest, o.Data, o.Parity)
	}
	f := &File{shards: make([]vfs.File, o.Data+o.Parity), sums: o.Sums, checked: map[block]bool{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if f.code, err = reedsolomon.New(o.Data, o.Parity, reedsolomon.WithMaxGoroutines(1)); err != nil {
		return nil, fmt.Errorf("erasure code of %d and %d shards: %w", o.Data, o.Parity, err)
	}
	var refused []error
	lengths := make([]int64, len(f.shards))
	for i, path := range o.Shards {
		if i < 0 || i >= len(f.shards) {
			continue
		}
		if lengths[i], err = f.open(i, o.FS, path); err != nil {
			refused = append(refused, err)
		}
	}
	f.geometry = layout(int64(o.Data), o.Size, largeBlock, smallBlock)
	if o.Size == 0 {
		f.geometry = layoutOf(int64(o.Data), slices.Max(lengths), largeBlock, smallBlock)
	}
	for i, s := range f.shards {
		if s != nil && lengths[i] != f.length {
			refused = append(refused, fmt.Errorf("%s has %d bytes, not %d", o.Shards[i], lengths[i], f.length))
			f.shards[i] = nil
			refused = append(refused, s.Close())
		}
	}
	if here, all := f.Shards(); here < o.Data {
		return nil, errors.Join(fmt.Errorf("%w: %d of %d shards are here, and %d are needed", volume.ErrUnavailable, here, all, o.Data), errors.Join(refused...))
	}
	return f, nil
}

func (f *File) open(i int, fs vfs.FS, path string) (length int64, err error) {
	s, err := fs.OpenFile(path, os.O_RDONLY)
	if err != nil {
		return 0, err
	}
	if length, err = s.Size(); err != nil {
		return 0, errors.Join(err, s.Close())
	}
	f.shards[i] = s
	return length, nil
}

// Shards says how many shards are here, and how many there should be.
func (f *File) Shards() (here, all int) {
	for _, s := range f.shards {
		if s != nil {
			here++
		}
	}
	return here, len(f.shards)
}

// Size is the length of .dat. Where it was not noted, it is that of all data
// blocks, which may end with zeros.
func (f *File) Size() (int64, error) { return f.size, nil }

// ReadAt reads from .dat, as io.ReaderAt has it.
func (f *File) ReadAt(p []byte, off int64) (int, error) { return f.ReadWithout(p, off) }

// ReadWithout is ReadAt that makes no use of some shards.
func (f *File) ReadWithout(p []byte, off int64, without ...int) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("%w: offset %d", volume.ErrBadRequest, off)
	}
	short := int64(len(p)) > f.size-off
	if short {
		p = p[:max(f.size-off, 0)]
	}
	for n < len(p) {
		shard, at, left := f.locate(off + int64(n))
		part := p[n:min(int64(len(p)), int64(n)+left)]
		if err := f.readShard(part, shard, at, without); err != nil {
			return n, err
		}
		n += len(part)
	}
	if short {
		return n, io.EOF
	}
	return n, nil
}

// readShard reads from one shard. One that cannot be read is as one that is
// missing.
func (f *File) readShard(p []byte, shard int, at int64, without []int) error {
	err := f.readPiece(p, shard, at, without)
	if err == nil || errors.Is(err, os.ErrClosed) {
		return err
	}
	for len(p) > 0 {
		n := min(len(p), piece)
		if err := f.compute(p[:n], shard, at, without); err != nil {
			return err
		}
		p, at = p[n:], at+int64(n)
	}
	return nil
}

var errMissing = errors.New("shard is missing")

func (f *File) readPiece(p []byte, shard int, at int64, without []int) error {
	if f.shards[shard] == nil || slices.Contains(without, shard) || f.isBad(shard, at, int64(len(p))) {
		return errMissing
	}
	_, err := f.shards[shard].ReadAt(p, at)
	return err
}

// compute computes what a shard has from as many others as there are data
// shards.
func (f *File) compute(p []byte, shard int, at int64, without []int) error {
	have := 0
	var failed []error
	bufs := make([]byte, int(f.data)*len(p))
	shards := make([][]byte, len(f.shards))
	for i := range f.shards {
		if i == shard || have == int(f.data) {
			continue
		}
		b := bufs[have*len(p):][:len(p):len(p)]
		switch err := f.readPiece(b, i, at, without); {
		case err == nil:
			shards[i] = b
			have++
		case errors.Is(err, os.ErrClosed):
			return err
		case !errors.Is(err, errMissing):
			failed = append(failed, err)
		}
	}
	if have < int(f.data) {
		return errors.Join(fmt.Errorf("%w: %d shards can be read at %d, and %d are needed", volume.ErrUnavailable, have, at, f.data), errors.Join(failed...))
	}
	wanted := make([]bool, len(f.shards))
	wanted[shard] = true
	shards[shard] = p[:0:len(p)] // computed in place
	if err := f.code.ReconstructSome(shards, wanted); err != nil {
		return fmt.Errorf("compute shard %d at %d: %w", shard, at, err)
	}
	return nil
}

// Touched lists the shards that have the n bytes at off.
func (f *File) Touched(off, n int64) []int {
	var list []int
	for end := min(off+n, f.size); off < end && len(list) < int(f.data); {
		shard, _, left := f.locate(off)
		if !slices.Contains(list, shard) {
			list = append(list, shard)
		}
		off += left
	}
	return list
}

// Close closes the shards.
func (f *File) Close() error {
	var errs []error
	for _, s := range f.shards {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(errs...)
}

var errFixed = fmt.Errorf("%w: erasure-coded volumes are only read", volume.ErrReadOnly)

// WriteAt fails.
func (f *File) WriteAt([]byte, int64) (int, error) { return 0, errFixed }

// Truncate fails.
func (f *File) Truncate(int64) error { return errFixed }

// Sync does nothing: nothing is ever written.
func (f *File) Sync() error { return nil }
