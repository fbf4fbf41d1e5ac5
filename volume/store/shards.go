package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"weedd/volume"
	"weedd/volume/erasure"
	"weedd/volume/needle"
	"weedd/volume/vfs"
)

// The files of a volume that SeaweedFS has erasure-coded: the shards .ec00, .ec01
// and so on are .dat in pieces, .ecx is its index, sorted by key, .ecj has the
// keys deleted since, .ecsum checksums of the shards. Such a volume is foreign,
// and read as any other once .dat is put together (package erasure).
const (
	extDeleted = ".ecj"
	extSums    = ".ecsum"

	defaultData, defaultParity = 10, 4
)

func shardExt(i int) string { return fmt.Sprintf(".ec%02d", i) }

// isCoded reports whether the shards at base, and not a .dat, are the volume. If
// both are there, shards that are all shorter than those of that .dat would be
// are of an encoding that was not finished.
func isCoded(fs vfs.FS, base string) (bool, error) {
	if there, err := vfs.Exists(fs, base+extErasure); err != nil || !there {
		return false, err
	}
	info, err := fs.Stat(base + extDat)
	if errors.Is(err, os.ErrNotExist) || err == nil && info.Size <= SuperBlockSize {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if copying, err := vfs.Exists(fs, base+extNote); err != nil || copying {
		return true, err // that .dat is not all of it
	}
	vi, err := readVif(fs, base)
	if err != nil {
		return false, err
	}
	lengths := map[int64]bool{}
	for i := range erasure.MaxShards {
		shard, err := fs.Stat(base + shardExt(i))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return false, err
		}
		if err == nil {
			lengths[shard.Size] = true
		}
	}
	data, _ := vi.counts()
	return len(lengths) > 1 || len(lengths) == 1 && slices.Max(slices.Collect(maps.Keys(lengths))) >= erasure.ShardLength(data, info.Size), nil
}

// counts are the numbers of data and parity shards.
func (v vif) counts() (data, parity int) {
	if v.data < 1 || v.parity < 0 || v.data+v.parity > erasure.MaxShards {
		return defaultData, defaultParity
	}
	return v.data, v.parity
}

// loadShards opens an erasure-coded volume.
func (v *Volume) loadShards() error {
	vi, err := readVif(v.opts.FS, v.base)
	if err != nil {
		return err
	}
	info, err := v.opts.FS.Stat(v.base + extErasure)
	if err != nil {
		return err
	}
	v.modified = info.Modified
	if err := v.openShards(vi); err != nil {
		return err
	}
	v.files.Store(&files{v.alien.shards, newIndex(0)})
	if err := v.readSuper(vi); err != nil {
		return err
	}
	if n := needle.Version(vi.version); n >= needle.V1 && n <= needle.V3 {
		v.super.version = n
	}
	v.alien.expires, v.alien.marked = vi.expires, vi.readOnly
	return v.loadCodedRows(vi.datSize)
}

// openShards opens the shards, in whichever directory of this node they are.
func (v *Volume) openShards(vi vif) (err error) {
	o := erasure.Options{FS: v.opts.FS, Size: vi.datSize, Shards: map[int]string{}}
	o.Data, o.Parity = vi.counts()
	for _, d := range append([]Dir{{Path: filepath.Dir(v.base)}}, v.opts.Dirs...) {
		base := filepath.Join(d.Path, filepath.Base(v.base))
		for i, there := range v.shardsAt(base, vi.encoded, o.Data+o.Parity) {
			if there && o.Shards[i] == "" {
				o.Shards[i] = base + shardExt(i)
			}
		}
	}
	b, err := vfs.ReadFile(v.opts.FS, v.base+extSums)
	if err == nil {
		o.Sums, err = erasure.ParseSums(b)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) { // they are not needed
		v.log.Warn("checksums of the shards cannot be used", "volume", v.id, "err", err)
	}
	v.alien.shards, err = erasure.Open(o)
	return err
}

// shardsAt says which of n shards are at base, of the encoder's run encoded. On a disk
// that fails, or another one that does not answer, there are none: the rest may be
// enough.
func (v *Volume) shardsAt(base string, encoded int64, n int) []bool {
	look := func() []bool {
		there := make([]bool, n)
		if other, err := readVif(v.opts.FS, base); err == nil && (other.encoded == 0 || encoded == 0 || other.encoded == encoded) {
			for i := range there {
				there[i], err = vfs.Exists(v.opts.FS, base+shardExt(i))
				there[i] = there[i] && err == nil
			}
		}
		return there
	}
	if base == v.base {
		return look()
	}
	found := make(chan []bool, 1)
	go func() { found <- look() }()
	select {
	case there := <-found:
		return there
	case <-time.After(watchLimit):
		v.log.Warn("shards are not looked for on a disk that does not answer", "volume", v.id, "dir", filepath.Dir(base))
		return nil
	}
}

// loadCodedRows reads .ecx and .ecj; end is the length of .dat if it is known.
func (v *Volume) loadCodedRows(end int64) error {
	b, err := vfs.ReadFile(v.opts.FS, v.base+extErasure)
	if err != nil {
		return err
	}
	size, err := v.dat().Size()
	if err != nil {
		return err
	}
	rows, wide, err := parseSortedRows(b)
	if err != nil {
		return err
	}
	x := newIndex(len(rows))
	v.alien.wide = wide
	end = max(end, SuperBlockSize)
	for _, r := range rows {
		if r.end(v.super.version) > size {
			return fmt.Errorf("%s%s: key %d is at %d, past the end of the volume at %d", v.base, extErasure, r.key, r.offset, size)
		}
		v.enterForeign(x, r)
		end = max(end, r.end(v.super.version))
	}
	gone, err := vfs.ReadFile(v.opts.FS, v.base+extDeleted)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for ; len(gone) >= deletedKey; gone = gone[deletedKey:] { // what is left over was not finished
		v.enterForeign(x, indexRow{key: volume.Key(binary.BigEndian.Uint64(gone)), size: -1})
	}
	v.files.Store(&files{v.dat(), x})
	v.end, v.durable, v.committed = end, end, end
	return nil
}

// parseSortedRows reads rows that are sorted by key, each key once. The volume
// info does not say which of the two widths they have: that in which they are
// sorted.
func parseSortedRows(b []byte) (rows []indexRow, wide bool, err error) {
	for _, f := range []struct {
		width  int
		decode func([]byte) indexRow
	}{{rowSize, decodeRow}, {wideRowSize, decodeWideRow}} {
		if len(b)%f.width != 0 {
			continue
		}
		rows := make([]indexRow, 0, len(b)/f.width)
		sorted := true
		for rest := b; len(rest) > 0 && sorted; rest = rest[f.width:] {
			r := f.decode(rest)
			sorted = len(rows) == 0 || rows[len(rows)-1].key < r.key
			rows = append(rows, r)
		}
		if sorted {
			return rows, f.width == wideRowSize, nil
		}
	}
	return nil, false, fmt.Errorf("index of shards: %d bytes are no rows sorted by key", len(b))
}

// readAround reads a record again whose bytes are bad, as err says: some shard
// must be, and the others can do without it.
func (v *Volume) readAround(n *needle.Needle, buf []byte, r Row, err error) error {
	f := v.alien.shards
	read := func(without ...int) bool {
		_, err := f.ReadWithout(buf, r.Offset, without...)
		return err == nil && v.decode(n, buf, r) == nil
	}
	if f.Check(r.Offset, int64(len(buf))) && read() {
		return nil
	}
	if slices.ContainsFunc(f.Touched(r.Offset, int64(len(buf))), func(shard int) bool { return read(shard) }) {
		return nil
	}
	return err
}
