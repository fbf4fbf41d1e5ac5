package store

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/vfs"
	"weedd/volume/vfs/faultfs"
)

// vector is a directory that SeaweedFS wrote, with what is expected of it.
type vector struct {
	Volumes []struct {
		ID          volume.ID
		Collection  string
		Version     int
		Replication string
		Revision    uint16 `json:"compaction_revision"`
		Super       string `json:"super_block_hex"`
		Size        int64  `json:"dat_size"`
		Counters    *struct{ FileCount, DeleteCount, DeletedByteCount int64 }
		Needles     []vectorNeedle
	}
	Replication string `json:"effective_replication"`
}

type vectorNeedle struct {
	Fid     string
	Deleted bool
	Size    int32
	Offset  int64
	Flags   string
	Stored  struct {
		Size   int
		Sha256 string
		Crc    string `json:"crc32c"`
	}
	Name, Mime *string
	Modified   uint64 `json:"last_modified"`
	Appended   string `json:"append_at_ns"`
	Pairs      map[string]string
	TTL        string
	Status     int // of a GET
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// unpack puts the files of an archive whose names begin with prefix into dir.
func unpack(t testing.TB, fs vfs.FS, archive, prefix, dir string) {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg || !strings.HasPrefix(h.Name, prefix) {
			continue
		}
		b, err := io.ReadAll(r)
		if err == nil {
			err = vfs.Write(fs, filepath.Join(dir, filepath.Base(h.Name)), b)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func options(fs vfs.FS, dirs ...string) Options {
	o := Options{FS: fs, Log: quiet(), Now: time.Now, Boot: "boot"}
	for _, d := range dirs {
		o.Dirs = append(o.Dirs, Dir{Path: d, Max: 100, Init: true})
	}
	return o
}

// Volumes that SeaweedFS wrote are served as it serves them.
func TestVectorsServeWhatTheirManifestsSay(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"v1-basic", "v2-basic", "v3-basic", "v3-large", "v3-collection", "v3-replication", "configured-replication"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := filepath.Join("testdata/vectors", name)
			b, err := os.ReadFile(filepath.Join(at, "manifest.json"))
			if err != nil {
				t.Fatal(err)
			}
			var want vector
			if err := json.Unmarshal(b, &want); err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			unpack(t, vfs.OS{}, filepath.Join(at, "files.tar.gz"), "", dir)
			before := contents(t, dir)
			s, err := Open(options(vfs.OS{}, dir))
			if err != nil {
				t.Fatal(err)
			}
			if a := s.Aside(); len(a) > 0 || len(s.Volumes()) != len(want.Volumes) {
				t.Fatalf("%d volumes, want %d; set aside: %v", len(s.Volumes()), len(want.Volumes), a)
			}
			for i := range want.Volumes {
				checkVector(t, s, want, i)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if after := contents(t, dir); !reflect.DeepEqual(before, after) {
				t.Fatal("files of SeaweedFS were changed")
			}
		})
	}
}

// contents reads the files of SeaweedFS in a directory.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, ext := range []string{extDat, extIdx, extVif} {
		names, err := filepath.Glob(filepath.Join(dir, "*"+ext))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			b, err := os.ReadFile(n)
			if err != nil {
				t.Fatal(err)
			}
			files[n] = string(b)
		}
	}
	return files
}

func checkVector(t *testing.T, s *Store, want vector, i int) {
	t.Helper()
	w := want.Volumes[i]
	v, err := s.Volume(w.ID)
	if err != nil {
		t.Fatal(err)
	}
	if want.Replication != "" {
		w.Replication = want.Replication
	}
	super := v.super.encode()
	if spec := v.Spec(); spec.Collection != w.Collection || spec.Placement.String() != w.Replication || !v.Foreign() ||
		hex.EncodeToString(super[:]) != w.Super || v.End() != w.Size || v.Committed() != w.Size {
		t.Fatalf("volume %d: %+v, super block %x, %d bytes; want %+v", w.ID, spec, super, v.End(), w)
	}
	files, deleted, deletedBytes, _, _, _, revision := v.Stats()
	if c := w.Counters; c != nil && (int64(files) != c.FileCount || int64(deletedBytes) != c.DeletedByteCount || int64(deleted) < c.DeleteCount) || revision != w.Revision {
		t.Errorf("volume %d: %d files, %d deleted, %d bytes; want %+v", w.ID, files, deleted, deletedBytes, w.Counters)
	}
	for _, n := range w.Needles {
		checkNeedle(t, v, n)
	}
}

func checkNeedle(t *testing.T, v *Volume, want vectorNeedle) {
	t.Helper()
	id, err := volume.ParseFileID(want.Fid)
	if err != nil {
		t.Fatal(err)
	}
	ns, _ := strconv.ParseInt(want.Appended, 10, 64) // "" in old versions
	now := time.Unix(max(ns/1e9, int64(want.Modified)), 0).Add(time.Minute)
	n, err := v.Get(id.Key, id.Cookie, now, false)
	if want.Status == 404 {
		if !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("%s: %v, want not found", want.Fid, err)
		}
		if !want.Deleted || want.Size == 0 {
			return
		}
		n, err = v.Get(id.Key, id.Cookie, now, true)
	}
	if err != nil {
		t.Errorf("%s: %v", want.Fid, err)
		return
	}
	defer n.Release()
	sum := sha256.Sum256(n.Data)
	text := func(b []byte, f needle.Flags) *string {
		if !n.Has(f) {
			return nil
		}
		s := string(b)
		return &s
	}
	pairs := map[string]string(nil)
	if n.Has(needle.FlagPairs) {
		if err := json.Unmarshal(n.Pairs, &pairs); err != nil {
			t.Error(err)
		}
	}
	flags, _ := strconv.ParseUint(want.Flags, 16, 8)
	if hex.EncodeToString(sum[:]) != want.Stored.Sha256 || byte(n.Flags) != byte(flags) || n.Modified != want.Modified ||
		!reflect.DeepEqual(text(n.Name, needle.FlagName), want.Name) || !reflect.DeepEqual(text(n.Mime, needle.FlagMime), want.Mime) ||
		!reflect.DeepEqual(pairs, want.Pairs) || n.TTL.String() != want.TTL || int64(n.AppendedAt) != ns {
		t.Errorf("%s: got %q %q %+v, want %+v", want.Fid, n.Name, n.Mime, n, want)
	}
	if _, err := v.Get(id.Key, id.Cookie+1, now, false); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("%s with another cookie: %v", want.Fid, err)
	}
}

// A volume whose super block says version 2 and whose records are of version 3.
func TestRecordsOfVersion3UnderAnOlderSuperBlock(t *testing.T) {
	t.Parallel()
	fs := faultfs.New(1)
	if err := fs.Mkdir("/d"); err != nil {
		t.Fatal(err)
	}
	unpack(t, fs, "testdata/vectors/v3-collection/files.tar.gz", "photos_3", "/d")
	f, err := fs.OpenFile("/d/photos_3.dat", os.O_RDWR)
	if err == nil {
		_, err = f.WriteAt([]byte{2}, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(options(fs, "/d"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	v, err := s.Volume(3)
	if err != nil {
		t.Fatal(err)
	}
	row, ok := v.Lookup(v.firstKey())
	if !ok {
		t.Fatal("no key")
	}
	n, err := v.Read(row)
	if err != nil {
		t.Fatal(err)
	}
	n.Release()
}

// firstKey is any key of a small index.
func (v *Volume) firstKey() volume.Key {
	for k := range v.files.Load().index.all() {
		return k
	}
	return 0
}
