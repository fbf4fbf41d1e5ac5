package store

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/vfs"
)

const (
	adoptingName = "adopting" // directory of files that are being made from foreign ones
	extTake      = ".wtake"   // the foreign files are to be replaced by those, and that is under way
)

// Adoption says what a foreign volume is to become.
type Adoption struct {
	Copy       volume.CopyID
	Spec       volume.Spec
	Generation uint32 // the super block's revision counts the same
	Survey     *Survey
	// Picks are the records to have, of which those of source 0 are here; nil
	// means all in Survey and no others.
	Picks []Pick
	// Fetch reads a record of another source, of the same version as the volume.
	Fetch func(ctx context.Context, p Pick) ([]byte, error)
	// Begin is called when all is ready, before anything of the volume is
	// changed. If it fails nothing is.
	Begin func() error
}

// Adopt turns a foreign volume into a copy of ours (rule R15). Files that are
// exactly as weedd would have written them become ours where they are; bytes cut
// from their end, and an index that is made anew, are kept in the folder "aside".
// All others are written anew, records in the order of their append times, and
// the originals are moved aside as they are, once the new files were read back.
//
// A crash leaves the volume foreign, all bytes there, or ours. Reads go on
// meanwhile; the Volume that was foreign is closed in the end. It may take long,
// until ctx ends, and for as long as the disk hangs. One call at a time for each
// volume.
func (s *Store) Adopt(ctx context.Context, id volume.ID, a Adoption) (*Volume, error) {
	v, err := s.Volume(id)
	if err == nil {
		err = v.Adoptable()
	}
	if err != nil {
		return nil, fmt.Errorf("adopt volume %d: %w", id, err)
	}
	fresh, err := s.adopt(ctx, v, a)
	if err != nil {
		return nil, fmt.Errorf("adopt volume %d: %w", id, err)
	}
	return fresh, nil
}

func (s *Store) adopt(ctx context.Context, v *Volume, a Adoption) (*Volume, error) {
	super := superBlock{version: needle.V3, placement: a.Spec.Placement, ttl: a.Spec.TTL, revision: uint16(a.Generation)}
	inPlace := a.Survey.Exact && v.super.encode() == super.encode() && !s.opts.Ledger.anyFailed(v.id) && !slices.ContainsFunc(a.Picks, func(p Pick) bool { return p.Source != 0 })
	if !inPlace {
		b := &builder{s: s, v: v, a: a, super: super, base: filepath.Join(v.dir.Path, adoptingName, filepath.Base(v.base))}
		if err := b.build(ctx); err != nil {
			return nil, errors.Join(err, removeFiles(s.opts.FS, b.base))
		}
	}
	o, err := s.begin(v.id)
	if err != nil {
		return nil, err
	}
	defer s.end(v.id, o)
	if now, err := s.Volume(v.id); err != nil || now != v {
		return nil, fmt.Errorf("%w: its files were moved meanwhile", volume.ErrStale)
	}
	err = a.Begin()
	switch {
	case err != nil && !inPlace:
		err = errors.Join(err, removeFiles(s.opts.FS, filepath.Join(v.dir.Path, adoptingName, filepath.Base(v.base))))
	case err != nil:
	case inPlace:
		err = s.takeInPlace(v, a)
	default:
		err = s.takeNew(v)
	}
	if err != nil {
		return nil, err
	}
	return s.reopen(v)
}

// reopen opens the files that took the place of v's.
func (s *Store) reopen(v *Volume) (*Volume, error) {
	fresh, err := openVolume(v.dir, v.base, v.id, v.spec.Collection, &s.opts)
	if err == nil && fresh.Foreign() {
		err = errors.Join(errUnfit, fresh.closeFiles())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		delete(s.volumes, v.id)
		s.aside = append(s.aside, aside{id: v.id, copy: fresh.copy, dir: v.dir, base: v.base, path: v.base + extDat, reason: err.Error()})
		return nil, errors.Join(err, v.closeFiles())
	}
	if s.closed {
		return nil, errors.Join(volume.ErrClosed, fresh.closeFiles())
	}
	s.volumes[v.id] = fresh
	return fresh, v.closeFiles()
}

// takeInPlace makes the files of v ours. The copy file comes last: without it
// they are foreign.
func (s *Store) takeInPlace(v *Volume, a Adoption) error {
	fs := s.opts.FS
	if err := s.cutTail(v, a); err != nil {
		return fmt.Errorf("cut what follows the last record: %w", err)
	}
	if err := s.replaceIndex(v, a.Survey.idx); err != nil {
		return fmt.Errorf("make the index anew: %w", err)
	}
	c := checkpoint{
		volume: v.id, copy: a.Copy, super: v.super.encode(), durable: a.Survey.end, committed: a.Survey.end,
		rows: int64(len(a.Survey.idx) / rowSize), appended: a.Survey.last, sums: a.Survey.sums,
	}
	if err := vfs.Replace(fs, v.base+extCkpt, c.encode()); err != nil {
		return err
	}
	return vfs.Replace(fs, v.base+extCopy, encodeCopy(v.id, a.Copy, nil))
}

// cutTail cuts .dat at the end of its last record, durably, and keeps what it cuts.
func (s *Store) cutTail(v *Volume, a Adoption) (err error) {
	fs, end := s.opts.FS, a.Survey.end
	f, err := fs.OpenFile(v.base+extDat, os.O_RDWR)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return err
	}
	if size > end {
		tail := make([]byte, size-end)
		if _, err := f.ReadAt(tail, end); err != nil {
			return err
		}
		reason := fmt.Sprintf("bytes from offset %d to the end of %s%s, cut when it was adopted: they are no whole record", end, filepath.Base(v.base), extDat)
		if err := s.keep(v, "tail", tail, reason); err != nil {
			return err
		}
		if err := f.Truncate(end); err != nil {
			return err
		}
	}
	// What SeaweedFS wrote may be in the page cache only. If it cannot be synced the
	// next attempt finds it there again, with an fsync that says all is well; so it has
	// to write the files anew (rule R5).
	if err := f.Sync(); err != nil {
		return errors.Join(err, s.opts.Ledger.fail(v.id, a.Copy, trust{SuperBlockSize, SuperBlockSize}))
	}
	return nil
}

// replaceIndex makes rows the durable content of .idx, and keeps one that was
// another.
func (s *Store) replaceIndex(v *Volume, rows []byte) error {
	fs := s.opts.FS
	old, err := vfs.ReadFile(fs, v.base+extIdx)
	missing := errors.Is(err, os.ErrNotExist)
	if err != nil && !missing {
		return err
	}
	if !missing && !slices.Equal(old, rows) {
		if err := s.keep(v, filepath.Base(v.base)+extIdx, old, "the index as it was when the volume was adopted; it was made anew from the data"); err != nil {
			return err
		}
	}
	return vfs.Replace(fs, v.base+extIdx, rows)
}

// keep puts bytes of a foreign volume into a folder of their own, durably.
func (s *Store) keep(v *Volume, name string, data []byte, reason string) error {
	folder, err := makeAside(s.opts.FS, v.dir, v.base, 0, reason)
	if err != nil {
		return err
	}
	path := filepath.Join(v.dir.Path, asideName, folder)
	if err := vfs.Replace(s.opts.FS, filepath.Join(path, name), data); err != nil {
		return err
	}
	s.shelve(v.dir, path, reason)
	return nil
}

// shelve lists a folder of what was moved aside.
func (s *Store) shelve(d *dir, path, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.aside = append(s.aside, aside{dir: d, path: path, reason: reason})
}

// The files of a volume are replaced in two steps, each of several renames, so a
// file says which is under way: "move NAME", the foreign files go to the folder
// NAME, and then "place", the new ones come in their place. Open finishes what it
// finds begun. Until the file is there, what is in the directory of new files is
// of no use, and Open removes it.

// takeNew replaces the files of v by those that were built.
func (s *Store) takeNew(v *Volume) error {
	if err := syncThere(s.opts.FS, v.base+extDat, v.base+extIdx); err != nil {
		return fmt.Errorf("sync the files of SeaweedFS, which are kept: %w", err)
	}
	reason := "files of SeaweedFS as they were when the volume was adopted; its records are in the volume now. To be deleted by hand"
	folder, err := makeAside(s.opts.FS, v.dir, v.base, 0, reason)
	if err != nil {
		return err
	}
	if err := vfs.Replace(s.opts.FS, v.base+extTake, []byte("move "+folder)); err != nil {
		return err
	}
	s.shelve(v.dir, filepath.Join(v.dir.Path, asideName, folder), reason)
	return s.finishTake(v.dir, v.base)
}

// syncThere makes durable what is in those of the files that are there.
func syncThere(fs vfs.FS, paths ...string) (err error) {
	for _, path := range paths {
		f, e := fs.OpenFile(path, os.O_RDWR)
		switch {
		case errors.Is(e, os.ErrNotExist):
		case e != nil:
			err = errors.Join(err, e)
		default:
			err = errors.Join(err, f.Sync(), f.Close())
		}
	}
	return err
}

// finishTake does what the file at base says.
func (s *Store) finishTake(d *dir, base string) error {
	fs := s.opts.FS
	b, err := vfs.ReadFile(fs, base+extTake)
	if err != nil {
		return err
	}
	if folder, ok := strings.CutPrefix(string(b), "move "); ok {
		if err := moveFiles(fs, base, filepath.Join(d.Path, asideName, folder)); err != nil {
			return err
		}
		if err := vfs.Replace(fs, base+extTake, []byte("place")); err != nil {
			return err
		}
	}
	adopting := filepath.Join(d.Path, adoptingName)
	files, err := filesOf(fs, filepath.Join(adopting, filepath.Base(base)))
	if err != nil {
		return err
	}
	for _, name := range files {
		if err := fs.Rename(filepath.Join(adopting, name), filepath.Join(d.Path, name)); err != nil {
			return err
		}
	}
	if err := errors.Join(fs.SyncDir(d.Path), fs.SyncDir(adopting)); err != nil {
		return err
	}
	if err := fs.Remove(base + extTake); err != nil {
		return err
	}
	return syncDirOf(fs, base)
}

// finishTakes ends the adoptions that were decided when the process stopped, and
// removes what is left of those that were not.
func (s *Store) finishTakes(d *dir, names []string) error {
	for _, name := range names {
		if base, ok := strings.CutSuffix(name, extTake); ok {
			if err := s.finishTake(d, filepath.Join(d.Path, base)); err != nil {
				return fmt.Errorf("finish the adoption of %s: %w", base, err)
			}
		}
	}
	adopting := filepath.Join(d.Path, adoptingName)
	left, err := s.opts.FS.ReadDir(adopting)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, name := range left {
		err = errors.Join(err, s.opts.FS.Remove(filepath.Join(adopting, name)))
	}
	return err
}

// builder writes the files that are to replace those of a foreign volume.
type builder struct {
	s     *Store
	v     *Volume
	a     Adoption
	super superBlock
	base  string // of the new files

	dat  vfs.File
	buf  []byte // not yet written
	end  int64  // with buf
	last uint64
	idx  []byte
	sums sums
}

const buildBuffer = 1 << 20

func (b *builder) build(ctx context.Context) (err error) {
	fs := b.s.opts.FS
	picks := b.picks()
	if err := b.room(picks); err != nil {
		return err
	}
	if err := makeDir(fs, filepath.Dir(b.base)); err != nil {
		return err
	}
	if b.dat, err = fs.OpenFile(b.base+extDat, os.O_RDWR|os.O_CREATE|os.O_TRUNC); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.dat.Close()) }()
	super := b.super.encode()
	b.add(super[:])
	for i, p := range picks {
		if i%64 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if err := b.record(ctx, p); err != nil {
			return fmt.Errorf("key %x: %w", uint64(p.Key), err)
		}
	}
	if err := b.flush(); err != nil {
		return err
	}
	if err := b.dat.Sync(); err != nil {
		return err
	}
	if err := b.verify(ctx); err != nil {
		return fmt.Errorf("read back what was written: %w", err)
	}
	return b.others()
}

// picks lists the records to write, oldest first.
func (b *builder) picks() []Pick {
	picks := slices.Clone(b.a.Picks)
	if b.a.Picks == nil {
		for _, r := range b.a.Survey.Rows {
			picks = append(picks, Pick{0, r})
		}
	}
	slices.SortFunc(picks, func(x, y Pick) int {
		return cmp.Or(cmp.Compare(x.Time, y.Time), cmp.Compare(x.Source, y.Source), cmp.Compare(x.Offset, y.Offset), cmp.Compare(x.Key, y.Key))
	})
	return picks
}

// room refuses to begin what would fill the disk.
func (b *builder) room(picks []Pick) error {
	need := uint64(0)
	for _, p := range picks {
		need += uint64(needle.Length(max(p.Size, 0), needle.V3)) + 64 // version 1 has shorter records
	}
	space, err := b.s.opts.FS.Space(b.v.dir.Path)
	if err == nil && space.Free < need+b.s.opts.MinFree {
		err = fmt.Errorf("%w: about %d bytes are needed to write its files anew, beside the old ones", volume.ErrNoSpace, need)
	}
	return err
}

// record adds the record that p means, in version 3.
func (b *builder) record(ctx context.Context, p Pick) error {
	n := needle.Needle{Key: p.Key, Cookie: p.Cookie, Tombstone: true, Checksum: p.Sum}
	if !p.Deleted() {
		rec, err := b.read(ctx, p)
		if err == nil {
			err = n.Decode(rec, b.v.super.version)
		}
		if err != nil {
			return err
		}
		n.Tombstone = false
	}
	// Records of old versions do not say when they were written: not later than
	// the file.
	n.AppendedAt = min(p.Time, b.v.lastTime())
	if p.Time == 0 {
		n.AppendedAt = uint64(min(b.v.modified.UnixNano(), b.s.opts.Now().UnixNano()))
	}
	n.AppendedAt = max(n.AppendedAt, b.last+1)
	row := indexRow{p.Key, b.end, int32(n.BodySize(needle.V3))}
	if n.Tombstone {
		row.size = -1
	} else if row.offset >= b.v.limit {
		return fmt.Errorf("%w: the volume would be too long in version 3", volume.ErrNoSpace)
	}
	from := len(b.buf)
	buf, err := needle.Append(b.buf, &n)
	if err != nil {
		return err
	}
	b.buf, b.last, b.idx = buf, n.AppendedAt, row.append(b.idx)
	b.end += int64(len(buf) - from)
	b.sums = b.sums.plus(buf[from:])
	if len(b.buf) >= buildBuffer {
		return b.flush()
	}
	return nil
}

func (b *builder) read(ctx context.Context, p Pick) ([]byte, error) {
	if p.Source == 0 {
		return b.v.SurveyedRecord(p.SurveyRow)
	}
	return b.a.Fetch(ctx, p)
}

func (b *builder) add(bytes []byte) {
	b.buf = append(b.buf, bytes...)
	b.end += int64(len(bytes))
	b.sums = b.sums.plus(bytes)
}

func (b *builder) flush() error {
	b.v.dir.take(int64(len(b.buf)), b.s.opts.MinFree)
	if _, err := b.dat.WriteAt(b.buf, b.end-int64(len(b.buf))); err != nil {
		return err
	}
	b.buf = b.buf[:0]
	return nil
}

// verify reads the new .dat by the rules of recovery, and compares it with the
// index.
func (b *builder) verify(ctx context.Context) error {
	w, err := newWalker(b.dat, needle.V3, SuperBlockSize)
	if err != nil {
		return err
	}
	rows := b.idx
	for n := 0; ; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		pos := w.pos
		rec, err := w.next()
		if errors.Is(err, errEnd) && len(rows) == 0 && pos == b.end {
			return nil
		}
		if err == nil {
			err = w.needle.DecodeStrict(rec)
		}
		if err == nil && (len(rows) == 0 || decodeRow(rows).offset != pos || volume.Key(binary.BigEndian.Uint64(rows)) != w.needle.Key) {
			err = errors.New("it is not what the index says")
		}
		if err != nil {
			return fmt.Errorf("record at %d: %w", pos, err)
		}
		rows = rows[rowSize:]
	}
}

// others writes the files beside .dat.
func (b *builder) others() error {
	fs := b.s.opts.FS
	super := b.super.encode()
	c := checkpoint{
		volume: b.v.id, copy: b.a.Copy, super: super, durable: b.end, committed: b.end, rows: int64(len(b.idx) / rowSize),
		appended: b.last, sums: b.sums,
	}
	for _, f := range []struct {
		ext  string
		data []byte
	}{
		{extIdx, b.idx}, {extVif, newVif(b.a.Spec.TTL, b.s.opts.Now())}, {extCkpt, c.encode()}, {extCopy, encodeCopy(b.v.id, b.a.Copy, nil)},
	} {
		if err := vfs.Write(fs, b.base+f.ext, f.data); err != nil {
			return err
		}
	}
	return fs.SyncDir(filepath.Dir(b.base))
}
