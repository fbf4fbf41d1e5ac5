package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/vfs"
	"weedd/volume/vfs/faultfs"
)

// adoptAll surveys a foreign volume and makes it ours.
func adoptAll(s *Store, id volume.ID) (*Volume, bool, error) {
	v, err := s.Volume(id)
	if err != nil {
		return nil, false, err
	}
	survey, err := v.Survey(context.Background())
	if err != nil {
		return nil, false, err
	}
	fresh, err := s.Adopt(context.Background(), id, Adoption{Copy: 5, Spec: v.Spec(), Survey: survey, Begin: func() error { return nil }})
	return fresh, survey.Exact, err
}

// answers is what a volume says of the keys of a manifest.
func answers(t *testing.T, v *Volume, needles []vectorNeedle) (out []string) {
	t.Helper()
	for _, want := range needles {
		id, err := volume.ParseFileID(want.Fid)
		must(t, err)
		n, err := v.Get(id.Key, id.Cookie, time.Unix(1, 0), false)
		if err != nil {
			out = append(out, fmt.Sprintf("%s: %s", want.Fid, volume.Code(err)))
			continue
		}
		out = append(out, fmt.Sprintf("%s: %x %q %q %d %q %v %x", want.Fid, needle.Checksum(n.Data), n.Name, n.Mime, n.Modified, n.Pairs, n.TTL, n.Flags))
		n.Release()
	}
	return out
}

// Volumes that SeaweedFS wrote, in all versions, become ours: they serve what
// they served before, keep the rules of our format, and take writes. The bytes of
// SeaweedFS are where they were, or aside.
func TestVectorsAreAdopted(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"v1-basic", "v2-basic", "v3-basic", "v3-large", "v3-collection", "v3-replication", "configured-replication"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := filepath.Join("testdata/vectors", name)
			b, err := os.ReadFile(filepath.Join(at, "manifest.json"))
			must(t, err)
			var want vector
			must(t, json.Unmarshal(b, &want))
			dir := t.TempDir()
			unpack(t, vfs.OS{}, filepath.Join(at, "files.tar.gz"), "", dir)
			s, err := Open(options(vfs.OS{}, dir))
			must(t, err)
			before := contents(t, dir)
			for _, w := range want.Volumes {
				v, err := s.Volume(w.ID)
				must(t, err)
				served := answers(t, v, w.Needles)
				ours, exact, err := adoptAll(s, w.ID)
				if err != nil {
					t.Fatal(err)
				}
				kept := contents(t, dir)[v.base+extDat] == before[v.base+extDat]
				original, err := os.ReadFile(filepath.Join(dir, asideName, fmt.Sprintf("%s-%s-1", filepath.Base(v.base), volume.CopyID(0)), filepath.Base(v.base)+extDat))
				if inAside := string(original) == before[v.base+extDat] && err == nil; kept == inAside {
					t.Errorf("volume %d, exact %v: original in its place %v, aside %v", w.ID, exact, kept, inAside)
				}
				t.Logf("volume %d: %d bytes, in place %v", w.ID, ours.End(), kept)
				check := func(v *Volume) {
					t.Helper()
					if v.Foreign() || v.CopyID() != 5 {
						t.Fatalf("volume %d is not ours", w.ID)
					}
					for i, got := range answers(t, v, w.Needles) {
						if got != served[i] {
							t.Errorf("now %s\nwas %s", got, served[i])
						}
					}
				}
				check(ours)
				must(t, fullCheck(vfs.OS{}, ours))
				must(t, write(ours, encode(t, ours, needle.Needle{Key: 1 << 40, Cookie: 7, Data: []byte("new")})))
			}
			must(t, s.Close())
			s, err = Open(options(vfs.OS{}, dir))
			must(t, err)
			for _, w := range want.Volumes {
				v, err := s.Volume(w.ID)
				if err != nil {
					t.Fatal(err, s.Aside())
				}
				must(t, fullCheck(vfs.OS{}, v))
				n, err := v.Get(1<<40, 7, time.Now(), false)
				must(t, err)
				n.Release()
			}
			must(t, s.Close())
		})
	}
}

// foreignFiles writes volume 7 as SeaweedFS would: 2 is overwritten, 3 deleted, 4
// empty; with a torn record at its end.
func foreignFiles(t *testing.T, fs vfs.FS, version needle.Version) (dat []byte) {
	t.Helper()
	super := superBlock{version: version, placement: 1}.encode()
	dat = append(dat, super[:]...)
	var idx []byte
	add := func(key volume.Key, data string, deleted bool) {
		n := needle.Needle{Key: key, Cookie: cookieOf(key), Data: []byte(data), Tombstone: deleted, AppendedAt: uint64(1e18) + uint64(len(dat))}
		row := indexRow{key, int64(len(dat)), int32(n.BodySize(version))}
		if deleted {
			row.size = -1
		}
		idx = row.append(idx)
		var err error
		dat, err = needle.AppendVersion(dat, &n, version)
		must(t, err)
	}
	add(1, "one", false)
	add(2, "old", false)
	add(3, "gone", false)
	add(2, "two", false)
	add(3, "", true)
	add(4, "", false)
	dat = append(dat, "torn"...)
	must(t, vfs.Write(fs, "/d/7.dat", dat))
	must(t, vfs.Write(fs, "/d/7.idx", append(idx, 1, 2, 3)))
	must(t, fs.SyncDir("/d"))
	return dat
}

func checkAdopted(v *Volume) error {
	return errors.Join(has(v, 1, []byte("one")), has(v, 2, []byte("two")), has(v, 3, nil), has(v, 4, []byte{}))
}

// allThere makes sure that no byte of SeaweedFS is lost: they are in the file, or
// aside, or in part each.
func allThere(t *testing.T, fs vfs.FS, dat []byte) {
	t.Helper()
	now, err := vfs.ReadFile(fs, "/d/7.dat")
	must(t, err)
	found := [][]byte{now}
	folders, err := fs.ReadDir("/d/aside")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, folder := range folders {
		for _, name := range []string{"7.dat", "tail"} {
			if b, err := vfs.ReadFile(fs, filepath.Join("/d/aside", folder, name)); err == nil {
				found = append(found, b)
			}
		}
	}
	for _, b := range found {
		tail := dat[min(len(b), len(dat)):]
		if bytes.HasPrefix(dat, b) && (len(tail) == 0 || bytes.Contains(bytes.Join(found[1:], []byte("|")), tail)) {
			return
		}
	}
	t.Fatalf("bytes of SeaweedFS are lost: %d of them were there; now %d in place, folders %v", len(dat), len(now), folders)
}

// afterFault opens the store again and finishes what was begun.
func afterFault(t *testing.T, fs vfs.FS, dat []byte) {
	t.Helper()
	s, err := Open(options(fs, "/d"))
	must(t, err)
	defer s.Close()
	v, err := s.Volume(7)
	if err != nil {
		t.Fatal(err, s.Aside())
	}
	must(t, checkAdopted(v))
	allThere(t, fs, dat)
	if v.Foreign() {
		v, _, err = adoptAll(s, 7)
		must(t, err)
		must(t, checkAdopted(v))
		allThere(t, fs, dat)
	}
	must(t, fullCheck(fs, v))
	if v.Failed() == nil { // the fault may have hit it once it was ours
		must(t, write(v, record(t, v, 9, []byte("goes on"))))
	}
	if left, err := fs.ReadDir("/d/adopting"); err == nil && len(left) > 0 {
		t.Fatalf("left behind: %v", left)
	}
}

func tryAdopt(fs vfs.FS) error {
	s, err := Open(options(fs, "/d"))
	if err != nil {
		return err
	}
	_, _, err = adoptAll(s, 7)
	return errors.Join(err, s.Close())
}

// Whichever operation fails, and wherever the power goes, while a volume is
// adopted, in place or anew: afterwards it is foreign or ours, and serves.
func TestAdoptionUnderFaults(t *testing.T) {
	t.Parallel()
	for _, version := range []needle.Version{needle.V2, needle.V3} {
		t.Run(fmt.Sprintf("version %d", version), func(t *testing.T) {
			t.Parallel()
			for i, done := 0, false; !done; i++ {
				fs := newDisk(t, 1)
				dat := foreignFiles(t, fs, version)
				before := fs.Ops()
				fs.FailAt(i)
				err := tryAdopt(fs)
				fs.SetFault(nil)
				if done = fs.Ops()-before <= i; done && err != nil {
					t.Fatal(err)
				}
				afterFault(t, fs, dat)
				for seed := range uint64(4) {
					fs := newDisk(t, seed)
					dat := foreignFiles(t, fs, version)
					at := fs.Ops() + i
					fs.SetFault(func(op faultfs.Op) error {
						if op.N >= at {
							return errPower
						}
						return nil
					})
					_ = tryAdopt(fs) // what it came to is on the disk
					fs.SetFault(nil)
					afterFault(t, fs.Crash(seed), dat)
				}
			}
		})
	}
}

// A file that is served and fails its checksum keeps the volume as it is; one
// that was overwritten does not.
func TestDamageKeepsAVolumeForeign(t *testing.T) {
	t.Parallel()
	for offset, want := range map[int64]error{SuperBlockSize + 22: volume.ErrCorrupt, SuperBlockSize + 48 + 22: nil} {
		fs := newDisk(t, 1)
		foreignFiles(t, fs, needle.V3)
		flip(t, fs, "/d/7.dat", offset)
		s := openStore(t, fs)
		_, exact, err := adoptAll(s, 7)
		if !errors.Is(err, want) || exact {
			t.Errorf("flipped at %d: %v, exact %v; want %v", offset, err, exact, want)
		}
		if v, err := s.Volume(7); err != nil || v.Foreign() != (want != nil) {
			t.Errorf("flipped at %d: %v", offset, err)
		}
	}
}

// A copy of ours that another program wrote to is not adopted again: the cluster
// has decided about that number.
func TestADisownedCopyIsNotAdopted(t *testing.T) {
	t.Parallel()
	fs, s, v := newVolume(t)
	must(t, write(v, record(t, v, 1, []byte("one"))))
	must(t, s.Close())
	flip(t, fs, "/d/7.dat", 5)
	s = openStore(t, fs)
	v, err := s.Volume(7)
	must(t, err)
	if !v.Foreign() || !v.Disowned() || v.Adoptable() == nil {
		t.Error("it may be adopted")
	}
	if _, _, err := adoptAll(s, 7); !errors.Is(err, volume.ErrExists) {
		t.Error(err)
	}
}

// A disk that has no room for the new files keeps the old ones.
func TestAdoptionNeedsRoom(t *testing.T) {
	t.Parallel()
	fs := newDisk(t, 1)
	dat := foreignFiles(t, fs, needle.V2)
	s := openStore(t, fs)
	fs.SetSpace(vfs.Space{All: 1000, Free: 100})
	if _, _, err := adoptAll(s, 7); !errors.Is(err, volume.ErrNoSpace) {
		t.Error(err)
	}
	allThere(t, fs, dat)
	v, err := s.Volume(7)
	must(t, err)
	must(t, checkAdopted(v))
}

// What we cannot write, or SeaweedFS was told not to, stays what it is.
func TestVolumesOfOtherFormsAreNotAdopted(t *testing.T) {
	t.Parallel()
	for name, vif := range map[string]string{
		"marked": `{"version": 3, "readOnly": true}`,
		"wide":   `{"version": 3, "bytesOffset": 5}`,
	} {
		fs := newDisk(t, 1)
		foreignFiles(t, fs, needle.V3)
		must(t, vfs.Write(fs, "/d/7.vif", []byte(vif)))
		if name == "wide" {
			idx := indexRow{1, SuperBlockSize, 8}.append(nil)
			must(t, vfs.Write(fs, "/d/7.idx", append(idx[:12], 0, 0, 0, 0, 8)))
		}
		s := openStore(t, fs)
		if _, _, err := adoptAll(s, 7); !errors.Is(err, volume.ErrReadOnly) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Records from the far future would leave no append times for those to come, or
// none at which anything ends. They are kept, at a time that can be followed.
func TestAppendTimesFromTheFarFutureAreNotBelieved(t *testing.T) {
	t.Parallel()
	for _, last := range []uint64{math.MaxUint64, math.MaxInt64, uint64(time.Now().AddDate(50, 0, 0).UnixNano())} {
		fs := newDisk(t, 1)
		super := superBlock{version: needle.V3}.encode()
		dat := super[:]
		for key := volume.Key(1); key <= 2; key++ {
			var err error
			dat, err = needle.Append(dat, &needle.Needle{Key: key, Cookie: cookieOf(key), Data: []byte{byte(key)}, AppendedAt: last - 2 + uint64(key)})
			must(t, err)
		}
		must(t, vfs.Write(fs, "/d/7.dat", dat))
		must(t, vfs.Write(fs, "/d/7.idx", nil))
		s := openStore(t, fs)
		v, _, err := adoptAll(s, 7)
		must(t, err)
		must(t, errors.Join(has(v, 1, []byte{1}), has(v, 2, []byte{2})))
		must(t, write(v, record(t, v, 3, []byte("three"))))
		if at := v.NextAppendTime(time.Now()); at > uint64(time.Now().Add(2*timeAhead).UnixNano()) {
			t.Errorf("after %d the next append time is %d", last, at)
		}
		must(t, errors.Join(v.Checkpoint(), fullCheck(fs, v)))
	}
}
