package store

import (
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

// Create makes a new, empty copy of a volume in the directory of the right disk
// type where it has the most room, and makes it durable. It fails with volume.ErrExists
// if any file of that volume is here, served or set aside (rule R6), with
// volume.ErrNoSpace if no directory has a slot and room, and with
// volume.ErrUnavailable if the disk does not answer: nothing is made then.
func (s *Store) Create(id volume.ID, spec volume.Spec, copy volume.CopyID) (*Volume, error) {
	var v *Volume
	err := s.order(id, func(o *order) (err error) {
		v, err = s.create(o, id, spec, copy)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("create volume %d: %w", id, err)
	}
	return v, nil
}

func (s *Store) create(o *order, id volume.ID, spec volume.Spec, copy volume.CopyID) (*Volume, error) {
	if _, err := volume.ParseCollection(spec.Collection); err != nil {
		return nil, err
	}
	if id == 0 || copy == 0 {
		return nil, fmt.Errorf("%w: neither volume nor copy id may be 0", volume.ErrBadRequest)
	}
	d, err := s.choose(o, spec.Disk)
	if err != nil {
		return nil, err
	}
	base := filepath.Join(d.Path, baseName(id, spec.Collection))
	if err := s.absent(id, base); err != nil {
		return nil, err
	}
	if err := d.present(s.opts.FS); err != nil {
		return nil, err
	}
	if err := s.writeNew(base, id, spec, copy); err != nil {
		return nil, errors.Join(err, removeFiles(s.opts.FS, base))
	}
	v, err := openVolume(d, base, id, spec.Collection, &s.opts)
	if err != nil {
		return nil, errors.Join(err, removeFiles(s.opts.FS, base))
	}
	s.mu.Lock()
	closed := s.closed || s.volumes[id] != nil
	if o.made = !closed && !o.given; o.made {
		s.volumes[id] = v
	}
	s.mu.Unlock()
	switch {
	case o.made:
		return v, nil
	case closed:
		return nil, errors.Join(volume.ErrClosed, v.closeFiles())
	}
	s.opts.Log.Warn("a copy that was made too late is removed", "volume", id, "copy", copy, "dir", d.Path)
	return nil, errors.Join(errLate, v.closeFiles(), removeFiles(s.opts.FS, base))
}

// choose picks the directory for what o makes.
func (s *Store) choose(o *order, disk volume.DiskType) (*dir, error) {
	s.place.Lock()
	defer s.place.Unlock()
	d, err := s.roomiest(disk)
	s.mu.Lock()
	defer s.mu.Unlock()
	o.at = d
	return d, err
}

// roomiest picks the directory for a new volume: where it gets the largest share
// of the free bytes, which it has in common with the volumes that are there. By
// free bytes alone two directories of one file system would differ by noise, and
// of two equal disks one would get every volume made before the first file.
func (s *Store) roomiest(disk volume.DiskType) (*dir, error) {
	s.mu.Lock()
	avoid := s.avoid
	s.mu.Unlock()
	best, most, known := -1, uint64(0), false
	for i, r := range s.Disks() {
		known = known || r.Disk == disk
		share := r.FreeB / uint64(r.Used+1)
		if r.Disk == disk && r.Fenced == "" && r.Used < r.Max && !slices.Contains(avoid, r.Dir) && (best < 0 || share > most) {
			best, most = i, share
		}
	}
	switch {
	case best >= 0:
		return s.directories()[best], nil
	case !known:
		return nil, fmt.Errorf("%w: no directory of disk type %q", volume.ErrNoSpace, disk)
	}
	return nil, fmt.Errorf("%w: every directory of disk type %q is full, out of slots, being drained or not in use", volume.ErrNoSpace, disk)
}

// Avoid names the directories that get no new volumes from now on; those that are
// there stay.
func (s *Store) Avoid(dirs []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.avoid = slices.Clone(dirs)
}

// absent makes sure that there is nothing of a volume in the store, and no file at
// base. Other directories are not looked at again: one of them may hang.
func (s *Store) absent(id volume.ID, base string) error {
	s.mu.Lock()
	path := ""
	if v := s.volumes[id]; v != nil {
		path = v.base + extDat
	}
	for _, a := range s.aside {
		if a.id == id {
			path = a.path
		}
	}
	s.mu.Unlock()
	if path != "" {
		return fmt.Errorf("%w: %s", volume.ErrExists, path)
	}
	for _, ext := range []string{extCopy, extDat, extIdx, extVif, extErasure} {
		if there, err := vfs.Exists(s.opts.FS, base+ext); err != nil || there {
			return errors.Join(err, fmt.Errorf("%w: %s", volume.ErrExists, base+ext))
		}
	}
	return nil
}

// writeNew makes the files of a new copy. The copy file comes first and the
// checkpoint last: with the first and without the last, what is there was never
// finished.
func (s *Store) writeNew(base string, id volume.ID, spec volume.Spec, copy volume.CopyID) error {
	fs := s.opts.FS
	if err := vfs.Replace(fs, base+extCopy, encodeCopy(id, copy, nil)); err != nil {
		return err
	}
	super := superBlock{version: needle.V3, placement: spec.Placement, ttl: spec.TTL}.encode()
	if err := vfs.Write(fs, base+extDat, super[:]); err != nil {
		return err
	}
	if err := vfs.Write(fs, base+extIdx, nil); err != nil {
		return err
	}
	if err := vfs.Replace(fs, base+extVif, newVif(spec.TTL, s.opts.Now())); err != nil {
		return err
	}
	c := checkpoint{
		volume: id, copy: copy, super: super, durable: SuperBlockSize, committed: SuperBlockSize,
		sums: sums{}.plus(super[:]),
	}
	return vfs.Replace(fs, base+extCkpt, c.encode())
}

// Removing or moving the files of a copy takes several steps, and half of a
// copy could be taken for something else. So a doom file is written first: it
// holds the name of the directory that the files are moved to, or is empty when
// they are removed. Open finishes what it finds begun.

// Remove deletes the files of one copy, by order. The copy id must be that of
// the copy here, else nothing is done and the error is volume.ErrStale; it is
// volume.ErrNoVolume if there is none, and volume.ErrUnavailable if the disk does
// not answer: then it may be done later.
func (s *Store) Remove(id volume.ID, copy volume.CopyID) error {
	if err := s.doom(id, copy, ""); err != nil {
		return fmt.Errorf("remove copy %s of volume %d: %w", copy, id, err)
	}
	return nil
}

// SetAsideCopy moves the files of one copy, served or set aside, into a folder,
// so that a new copy of the volume can be made. The folder keeps the reason for
// an operator. copy is 0 for a foreign volume, or one whose copy id is not
// known; errors are as for Remove.
func (s *Store) SetAsideCopy(id volume.ID, copy volume.CopyID, reason string) error {
	if reason == "" {
		reason = "set aside by order"
	}
	if err := s.doom(id, copy, reason); err != nil {
		return fmt.Errorf("set aside copy %s of volume %d: %w", copy, id, err)
	}
	return nil
}

// doom ends a copy: its files are moved away for a reason, or removed if that
// is "".
func (s *Store) doom(id volume.ID, copy volume.CopyID, reason string) error {
	return s.order(id, func(*order) error { return s.doomNow(id, copy, reason) })
}

func (s *Store) doomNow(id volume.ID, copy volume.CopyID, reason string) error {
	d, base, v, err := s.find(id, copy, reason != "")
	if err == nil {
		err = d.writable(s.opts.FS)
	}
	if err != nil {
		return err
	}
	target := ""
	if reason != "" {
		if target, err = makeAside(s.opts.FS, d, base, copy, reason); err != nil {
			return err
		}
	}
	if err := vfs.Replace(s.opts.FS, base+extDoom, []byte(target)); err != nil {
		return err
	}
	s.mu.Lock()
	if v != nil && s.volumes[id] == v {
		delete(s.volumes, id)
	}
	s.aside = slices.DeleteFunc(s.aside, func(a aside) bool { return a.base == base })
	if target != "" {
		s.aside = append(s.aside, aside{dir: d, path: filepath.Join(d.Path, asideName, target), reason: reason})
	}
	s.mu.Unlock()
	if v != nil {
		err = v.closeFiles()
	}
	return errors.Join(err, s.finishDoom(d, base))
}

// find looks for a copy among those served and those set aside. Only a copy of
// ours is ever deleted; foreign is whether others count.
func (s *Store) find(id volume.ID, copy volume.CopyID, foreign bool) (d *dir, base string, v *Volume, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if copy == 0 && !foreign {
		return nil, "", nil, fmt.Errorf("%w: not a copy of ours", volume.ErrBadRequest)
	}
	err = volume.ErrNoVolume
	if v := s.volumes[id]; v != nil {
		if v.copy == copy {
			return v.dir, v.base, v, nil
		}
		err = fmt.Errorf("%w: the copy here is %s", volume.ErrStale, v.copy)
	}
	for _, a := range s.aside {
		if a.id != id || a.id == 0 {
			continue
		}
		if a.copy == copy || a.copy == 0 && foreign {
			return a.dir, a.base, nil, nil
		}
		err = fmt.Errorf("%w: the copy here is %s", volume.ErrStale, a.copy)
	}
	return nil, "", nil, err
}

// makeAside makes the folder that a copy is to be moved to and returns its name.
func makeAside(fs vfs.FS, d *dir, base string, copy volume.CopyID, reason string) (string, error) {
	parent := filepath.Join(d.Path, asideName)
	if err := makeDir(fs, parent); err != nil {
		return "", err
	}
	for n := 1; ; n++ {
		name := fmt.Sprintf("%s-%s-%d", filepath.Base(base), copy, n)
		path := filepath.Join(parent, name)
		if there, err := vfs.Exists(fs, path); err != nil {
			return "", err
		} else if there {
			continue
		}
		if err := makeDir(fs, path); err != nil {
			return "", err
		}
		return name, vfs.Replace(fs, filepath.Join(path, reasonName), []byte(reason+"\n"))
	}
}

// finishDoom does what the doom file at base says.
func (s *Store) finishDoom(d *dir, base string) error {
	fs := s.opts.FS
	target, err := vfs.ReadFile(fs, base+extDoom)
	if err != nil {
		return err
	}
	if len(target) == 0 {
		if err := removeFiles(fs, base); err != nil {
			return err
		}
	} else if err := moveFiles(fs, base, filepath.Join(d.Path, asideName, string(target))); err != nil {
		return err
	}
	if err := fs.Remove(base + extDoom); err != nil {
		return err
	}
	return syncDirOf(fs, base)
}

// suffixes are those of all files that belong to a volume, the doom file left
// out. What follows the base name must be one of them: "7.x_4.dat" is no file
// of volume 7.
var suffixes = []string{extDat, extIdx, extVif, extCopy, extCkpt, extImage, extFail, extCommit, extNewDat, extNewIdx, extReady, extScrub, extNote, ".sdx", ".rdb"}

// filesOf lists the files of the volume at base.
func filesOf(fs vfs.FS, base string) ([]string, error) {
	names, err := fs.ReadDir(filepath.Dir(base))
	if err != nil {
		return nil, err
	}
	var files []string
	for _, name := range names {
		ext, ok := strings.CutPrefix(name, filepath.Base(base))
		if ok && slices.Contains(suffixes, strings.TrimSuffix(ext, ".tmp")) {
			files = append(files, name)
		}
	}
	return files, nil
}

// removeFiles removes the files at base, the copy file last, as it tells what
// the others are.
func removeFiles(fs vfs.FS, base string) error {
	files, err := filesOf(fs, base)
	if err != nil {
		return err
	}
	last := filepath.Base(base) + extCopy
	slices.SortFunc(files, func(a, b string) int {
		if a == last || b == last {
			return map[bool]int{true: 1, false: -1}[a == last]
		}
		return strings.Compare(a, b)
	})
	for _, name := range files {
		if err := fs.Remove(filepath.Join(filepath.Dir(base), name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return syncDirOf(fs, base)
}

func moveFiles(fs vfs.FS, base, target string) error {
	files, err := filesOf(fs, base)
	if err != nil {
		return err
	}
	for _, name := range files {
		if err := fs.Rename(filepath.Join(filepath.Dir(base), name), filepath.Join(target, name)); err != nil {
			return err
		}
	}
	return errors.Join(fs.SyncDir(target), syncDirOf(fs, base))
}

// movedAside lists the copies that were set aside by order.
func (s *Store) movedAside(d *dir) (list []aside, err error) {
	parent := filepath.Join(d.Path, asideName)
	names, err := s.opts.FS.ReadDir(parent)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	for _, name := range names {
		path := filepath.Join(parent, name)
		reason, err := vfs.ReadFile(s.opts.FS, filepath.Join(path, reasonName))
		if err != nil {
			reason = []byte("no reason is known")
		}
		list = append(list, aside{dir: d, path: path, reason: strings.TrimSpace(string(reason))})
	}
	return list, err
}
