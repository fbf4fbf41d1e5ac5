package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"weedd/volume"
	"weedd/volume/vfs"
)

// FixResult is what Fix did to one volume, or would do.
type FixResult struct {
	Volume volume.ID `json:"volume"`
	Path   string    `json:"path"`
	Good   bool      `json:"good"`            // there was nothing to do
	Ours   bool      `json:"ours"`            // a copy of a cluster, which heals by itself
	Done   []string  `json:"done,omitempty"`  // in order
	Saved  []string  `json:"saved,omitempty"` // files that keep what was replaced or cut
	Left   []Finding `json:"left,omitempty"`  // problems that are still there
}

// Fix mends a volume as far as that loses nothing: of SeaweedFS's it finishes a
// compaction that was decided, cuts a torn tail, and makes the index anew from the
// data. What it replaces or cuts it keeps in files beside. A copy of ours is mended
// by its cluster; all that is done to one is to take wrong rows out of its index,
// so that its daemon makes them anew: it never comes to claim more than it has. A
// volume without problems is not touched, and with dry nothing is. LockDir must be
// held. progress is told the bytes read.
//
// A Fix that fails or is killed may be repeated.
func Fix(ctx context.Context, fs vfs.FS, f Found, dry bool, progress func(int64)) (res FixResult, err error) {
	res = FixResult{Volume: f.ID, Path: f.Path(), Ours: f.has(extCopy)}
	x := &fixing{fs: fs, found: f, dry: dry, res: &res}
	s, check, err := surveyAll(ctx, fs, f, x.collect, progress)
	x.survey = s
	if s != nil {
		defer func() { err = errors.Join(err, s.v.closeFiles()) }()
	}
	if err != nil || check.Good {
		res.Good = err == nil
		return res, err
	}
	res.Left = problems(check.Findings)
	if s == nil {
		return res, nil
	}
	if res.Ours {
		err = x.ours()
	} else {
		err = x.foreign()
	}
	if err != nil {
		return res, fmt.Errorf("fix volume %d: %w", f.ID, err)
	}
	if dry {
		res.Left = slices.DeleteFunc(res.Left, func(p Finding) bool { return len(res.Done) > 0 && mended(p.Fix) })
		return res, nil
	}
	if len(res.Done) > 0 {
		check, err = Check(ctx, fs, refound(fs, f), progress)
		res.Left = problems(check.Findings)
	}
	return res, err
}

// mended reports whether Fix acts on findings of that kind.
func mended(fix string) bool {
	return slices.Contains([]string{fixIndex, fixOwnIndex, fixTail, fixPadding, fixCompaction}, fix)
}

func problems(list []Finding) []Finding {
	return slices.DeleteFunc(slices.Clone(list), func(f Finding) bool { return f.Note })
}

// refound looks for the files of a volume again.
func refound(fs vfs.FS, f Found) Found {
	list, err := Find(fs, filepath.Dir(f.Base))
	if i := slices.IndexFunc(list, func(g Found) bool { return g.Base == f.Base }); err == nil && i >= 0 {
		return list[i]
	}
	return f
}

// fixing is one run of Fix.
type fixing struct {
	fs     vfs.FS
	found  Found
	dry    bool
	res    *FixResult
	survey *survey
	rows   []byte // the index as .dat has it
	last   indexRow
}

// collect notes the row of a span.
func (x *fixing) collect(s *survey, sp *span, old []indexRow) {
	switch {
	case sp.rec != nil:
		x.last = sp.row
		x.rows = sp.row.append(x.rows)
	case s.tail == sp.offset: // to be cut
	default: // its files stay known, and known to be bad
		for _, r := range old {
			if r.end(s.v.super.version) <= s.size {
				x.rows = r.append(x.rows)
			}
		}
	}
}

func (x *fixing) path(ext string) string { return x.found.Base + ext }

// do notes what is done, and does it unless this is a dry run.
func (x *fixing) do(f func() error, format string, args ...any) error {
	x.res.Done = append(x.res.Done, fmt.Sprintf(format, args...))
	if x.dry {
		return nil
	}
	return f()
}

// foreign mends a volume of SeaweedFS.
func (x *fixing) foreign() error {
	s := x.survey
	if s.spoiled || s.records == 0 && len(s.byOffset) > 0 {
		return nil // what is left of .dat is no ground to judge the index by
	}
	if x.found.has(extCommit) {
		if err := x.do(x.compaction, "finish the compaction that was decided"); err != nil {
			return err
		}
	}
	if s.padding > 0 {
		if err := x.do(x.pad, "add %d bytes of padding at the end", s.padding); err != nil {
			return err
		}
	}
	if s.tail < s.size {
		if err := x.do(x.cut, "cut %d bytes at %d", s.size-s.tail, s.tail); err != nil {
			return err
		}
	}
	if !s.report.rows {
		return nil
	}
	return x.do(x.reindex, "make the index anew from the data, with %d rows", (len(x.rows)+len(s.unrecorded)*rowSize)/rowSize)
}

// compaction finishes one, and keeps the old files. One after the other, so that at
// any time there is a file by which the volume is found.
func (x *fixing) compaction() error {
	for _, m := range [][2]string{{extNewDat, extDat}, {extNewIdx, extIdx}} {
		if !x.found.has(m[0]) || !x.found.has(m[1]) {
			continue
		}
		to, err := x.spare(m[1] + ".before-fix")
		if err != nil {
			return err
		}
		if err := x.fs.Rename(x.path(m[1]), to); err != nil {
			return err
		}
		if err := x.fs.Rename(x.path(m[0]), x.path(m[1])); err != nil {
			return err
		}
		if err := syncDirOf(x.fs, to); err != nil {
			return err
		}
	}
	return finishCompaction(x.fs, x.found.Base)
}

// spare gives a name that is free.
func (x *fixing) spare(ext string) (string, error) {
	for n := 1; ; n++ {
		path := fmt.Sprintf("%s-%d", x.path(ext), n)
		there, err := vfs.Exists(x.fs, path)
		if err != nil {
			return "", err
		}
		if !there {
			x.res.Saved = append(x.res.Saved, path)
			return path, nil
		}
	}
}

// pad completes the last record.
func (x *fixing) pad() error {
	return x.change(extDat, func(f vfs.File) error {
		_, err := f.WriteAt(make([]byte, x.survey.padding), x.survey.size)
		return err
	})
}

// cut saves the tail, then cuts it.
func (x *fixing) cut() error {
	s := x.survey
	if err := x.save(extDat, s.tail, s.size, fmt.Sprintf("%s.cut-at-%d", extDat, s.tail)); err != nil {
		return err
	}
	return x.change(extDat, func(f vfs.File) error { return f.Truncate(s.tail) })
}

// reindex replaces the index, having saved the old one.
func (x *fixing) reindex() error {
	rows := x.rows
	for _, key := range sortedKeys(x.survey.unrecorded) {
		rows = indexRow{key, 0, -1}.append(rows)
	}
	info, err := x.fs.Stat(x.path(extIdx))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err == nil {
		if err := x.save(extIdx, 0, info.Size, extIdx+".before-fix"); err != nil {
			return err
		}
	}
	return vfs.Replace(x.fs, x.path(extIdx), rows)
}

func sortedKeys(set map[volume.Key]bool) []volume.Key {
	keys := make([]volume.Key, 0, len(set))
	for k := range set {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// ours takes wrong rows out of the index of a copy whose data is good. What the
// checkpoint says stays: the daemon makes the rows again from .dat, as far as it
// was committed.
func (x *fixing) ours() error {
	s := x.survey
	for _, p := range x.res.Left {
		if p.File == extDat || p.File == extCopy {
			return nil
		}
	}
	if !x.found.has(extIdx) || s.badRow == len(s.rows) && s.ragged == 0 {
		return nil
	}
	return x.do(func() error {
		if err := x.save(extIdx, 0, int64(len(s.rows))*rowSize+s.ragged, extIdx+".before-fix"); err != nil {
			return err
		}
		// The image was made of the index, and is not needed.
		if err := x.fs.Remove(x.path(extImage)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return x.change(extIdx, func(f vfs.File) error { return f.Truncate(int64(s.badRow) * rowSize) })
	}, "cut the index to its first %d rows; the daemon makes the rest anew", s.badRow)
}

// change opens a file of the volume, changes it and syncs it.
func (x *fixing) change(ext string, do func(vfs.File) error) (err error) {
	f, err := x.fs.OpenFile(x.path(ext), os.O_RDWR)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := do(f); err != nil {
		return err
	}
	return f.Sync()
}

// save copies bytes of a file to a new one beside, durably.
func (x *fixing) save(ext string, from, to int64, as string) (err error) {
	path, err := x.spare(as)
	if err != nil {
		return err
	}
	src, err := x.fs.OpenFile(x.path(ext), os.O_RDONLY)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	dst, err := x.fs.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	buf := make([]byte, min(sumBlock, to-from))
	for off := from; off < to; off += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), to-off)]
		if _, err := src.ReadAt(buf, off); err != nil {
			return fmt.Errorf("save %s: %w", x.path(ext), err)
		}
		if _, err := dst.WriteAt(buf, off-from); err != nil {
			return fmt.Errorf("save %s as %s: %w", x.path(ext), path, err)
		}
	}
	if err := dst.Sync(); err != nil {
		return err
	}
	return syncDirOf(x.fs, path)
}
