package volumetest

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weedd/volume"
)

// Golden is a data directory that SeaweedFS wrote, and what it said of it.
type Golden struct {
	Volumes     []GoldenVolume
	Replication string `json:"effective_replication"` // if not that of the volumes
}

// GoldenVolume is one volume of a Golden.
type GoldenVolume struct {
	ID          volume.ID
	Collection  string
	Version     int
	Replication string
	TTL         string
	Revision    uint16                                                     `json:"compaction_revision"`
	Size        int64                                                      `json:"dat_size"`
	Counters    *struct{ FileCount, DeleteCount, DeletedByteCount uint64 } // nil where they were not asked for
	Needles     []GoldenNeedle
}

// GoldenNeedle is the newest put of a key, and how it was served.
type GoldenNeedle struct {
	Fid     string
	Deleted bool
	Size    int32  // of the record's body
	Flags   string // hex
	Stored  struct {
		Size   int
		SHA256 string
		CRC32C string
	}
	Name, Mime *string // nil without the flag
	TTL        string
	Modified   int64        `json:"last_modified"`
	Appended   int64        `json:"append_at_ns,string"` // 0 in old versions
	Expires    int64        `json:"expires_at_unix"`     // 0 where it was not noted
	Status     int          // of a GET
	HTTP       GoldenServed `json:"-"`
}

// GoldenServed has the answers to three requests. It is empty for volumes whose
// answers were not recorded.
type GoldenServed struct {
	Get     GoldenAnswer `json:"get"`
	Head    GoldenAnswer `json:"head"`
	GetGzip GoldenAnswer `json:"get_gzip"` // a GET with Accept-Encoding: gzip
}

// GoldenAnswer is what was answered to one request.
type GoldenAnswer struct {
	Status  int
	Headers map[string]string
	SHA256  string `json:"body_sha256"`
}

// OpenGolden reads what is kept in the directory from, and unpacks its files
// into the directory to, which must be there.
func OpenGolden(t testing.TB, from, to string) *Golden {
	t.Helper()
	g := &Golden{}
	readJSON(t, filepath.Join(from, "manifest.json"), g)
	served := map[string]GoldenServed{}
	if path := filepath.Join(from, "http.json"); exists(path) {
		readJSON(t, path, &served)
	}
	for _, v := range g.Volumes {
		for i := range v.Needles {
			n := &v.Needles[i]
			n.HTTP = served[n.Fid]
			delete(served, n.Fid)
		}
	}
	for fid := range served {
		t.Fatalf("%s: answers for %s, which is in no volume", from, fid)
	}
	if err := unpack(filepath.Join(from, "files.tar.gz"), to); err != nil {
		t.Fatalf("unpack volumes of %s: %v", from, err)
	}
	return g
}

func readJSON(t testing.TB, path string, into any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, into)
	}
	if err != nil {
		t.Fatalf("read %s: %v", path, err)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// Unpack writes the files of an archive into a directory, below the directories
// that their names have in it.
func Unpack(t testing.TB, archive, dir string) {
	t.Helper()
	if err := unpackAs(archive, dir, func(name string) string { return name }); err != nil {
		t.Fatalf("unpack volumes of %s: %v", archive, err)
	}
}

// UnpackSome writes those files of an archive whose names begin with prefix into a
// new directory, by the last element of their names.
func UnpackSome(t testing.TB, archive, prefix string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	err := unpackAs(archive, dir, func(name string) string {
		if !strings.HasPrefix(name, prefix) {
			return ""
		}
		return filepath.Base(name)
	})
	if err != nil {
		t.Fatalf("unpack volumes of %s: %v", archive, err)
	}
	return dir
}

// unpack writes the files of an archive into a directory.
func unpack(archive, dir string) error { return unpackAs(archive, dir, filepath.Base) }

// unpackAs leaves out what has no name by as, and all but plain files.

func unpackAs(archive, dir string, as func(name string) string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		b := make([]byte, h.Size)
		if _, err := io.ReadFull(r, b); err != nil {
			return err
		}
		name := as(h.Name)
		if name == "" || h.Typeflag != tar.TypeReg {
			continue
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			return err
		}
	}
}

// DirFile is a file as Files finds it.
type DirFile struct {
	Data     string
	Modified int64 // ns since 1970
}

// Files reads every file below a directory, by path within it. What was written,
// even with the same bytes, differs from what was there before.
func Files(t testing.TB, dir string) map[string]DirFile {
	t.Helper()
	files := map[string]DirFile{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path) // path begins with dir
		files[name] = DirFile{string(b), info.ModTime().UnixNano()}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
