package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/store"
	"weedd/volume/vfs"
	"weedd/volume/volumetest"
)

const vectors = "../store/testdata/vectors/"

// unpack puts the files of a vector whose names begin with prefix into a new
// directory.
func unpack(t *testing.T, name, prefix string) string {
	t.Helper()
	return volumetest.UnpackSome(t, vectors+name+"/files.tar.gz", prefix)
}

func find(t *testing.T, dir string, id volume.ID) store.Found {
	t.Helper()
	list, err := store.Find(vfs.OS{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		if f.ID == id {
			return f
		}
	}
	t.Fatalf("no volume %d in %s: %v", id, dir, list)
	return store.Found{}
}

// file is what a needle holds.
type file struct {
	key        volume.Key
	cookie     volume.Cookie
	flags      needle.Flags
	data       string
	name, mime string
	pairs      string
	modified   uint64
	ttl        volume.TTL
	appended   uint64
	deleted    bool
}

func files(t *testing.T, f store.Found, deleted bool) (list []file) {
	t.Helper()
	bad, err := store.ReadFiles(t.Context(), vfs.OS{}, f, deleted, func(n *needle.Needle, deleted bool) error {
		list = append(list, file{n.Key, n.Cookie, n.Flags, string(n.Data), string(n.Name), string(n.Mime), string(n.Pairs), n.Modified, n.TTL, n.AppendedAt, deleted})
		return nil
	}, nil)
	if err != nil || len(bad) > 0 {
		t.Fatal(bad, err)
	}
	return list
}

func export(t *testing.T, f store.Found, o ExportOptions) []byte {
	t.Helper()
	var out bytes.Buffer
	if bad, err := Export(t.Context(), &out, vfs.OS{}, f, o); err != nil || len(bad) > 0 {
		t.Fatal(bad, err)
	}
	return out.Bytes()
}

// A volume that is exported and imported holds the same files with all that is
// known of them, deleted ones too; and exporting it again gives the same tar file.
func TestAVolumeComesBackFromItsTarFile(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		vector string
		id     volume.ID
	}{{"v3-basic", 1}, {"v3-large", 2}, {"v3-collection", 3}} {
		t.Run(c.vector, func(t *testing.T) {
			t.Parallel()
			from := find(t, unpack(t, c.vector, ""), c.id)
			tarred := export(t, from, ExportOptions{Deleted: true})
			dir := t.TempDir()
			at, err := Import(t.Context(), bytes.NewReader(tarred), vfs.OS{}, dir, c.id, ImportOptions{Now: time.Now()})
			if err != nil {
				t.Fatal(err)
			}
			to := find(t, dir, c.id)
			if to.Path() != at || filepath.Base(to.Base) != filepath.Base(from.Base) {
				t.Errorf("made %s, of %s", at, from.Path())
			}
			if r, err := store.Check(t.Context(), vfs.OS{}, to, nil); err != nil || !r.Good || len(r.Findings) > 0 {
				t.Errorf("%+v, %v", r, err)
			}
			want, got := files(t, from, true), files(t, to, true)
			if len(want) == 0 || !reflect.DeepEqual(want, got) {
				t.Errorf("%d files, want %d", len(got), len(want))
			}
			was, is := store.Inspect(vfs.OS{}, from), store.Inspect(vfs.OS{}, to)
			if was.Spec != is.Spec {
				t.Errorf("%+v, was %+v", is.Spec, was.Spec)
			}
			if again := export(t, to, ExportOptions{Deleted: true}); !bytes.Equal(again, tarred) {
				t.Error("exported again it is another tar file")
			}
		})
	}
}

// Volumes of version 1 and 2 export, too.
func TestOlderVersionsAreExported(t *testing.T) {
	t.Parallel()
	for name, id := range map[string]volume.ID{"v1-basic": 1, "v2-basic": 1} {
		list, err := store.Find(vfs.OS{}, unpack(t, name, ""))
		if err != nil || len(list) != 1 {
			t.Fatal(list, err)
		}
		dir := t.TempDir()
		tarred := export(t, list[0], ExportOptions{})
		if _, err := Import(t.Context(), bytes.NewReader(tarred), vfs.OS{}, dir, id, ImportOptions{Now: time.Unix(1.8e9, 0)}); err != nil {
			t.Fatal(err)
		}
		want, got := files(t, list[0], false), files(t, find(t, dir, id), false)
		for i := range got {
			got[i].appended = 0 // those versions have none
		}
		if len(want) == 0 || !reflect.DeepEqual(want, got) {
			t.Errorf("%s: %d files, want %d", name, len(got), len(want))
		}
	}
}

func entries(t *testing.T, tarred []byte) (names []string, headers map[string]*tar.Header) {
	t.Helper()
	headers = map[string]*tar.Header{}
	for r := tar.NewReader(bytes.NewReader(tarred)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names, headers
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			names = append(names, h.Name)
			headers[h.Name] = h
		}
	}
}

// Files are named for people, and cannot lead out of a directory.
func TestNamesInATarFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b, err := store.Build(vfs.OS{}, dir, 7, volume.Spec{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range []needle.Needle{
		{Name: []byte("a.txt"), Flags: needle.FlagName | needle.FlagModified, Modified: 1e9},
		{Name: []byte("../../etc/passwd"), Flags: needle.FlagName},
		{Name: []byte("..\\x\n\xff"), Flags: needle.FlagName},
		{Name: []byte(".."), Flags: needle.FlagName},
		{Name: []byte("7,0500000005"), Flags: needle.FlagName},
		{Flags: needle.FlagGzip},
	} {
		n.Key, n.Cookie, n.Data, n.AppendedAt = volume.Key(i+1), volume.Cookie(i+1), []byte("x"), uint64(i+1)*1e18
		if err := b.Add(&n); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(b.Finish(), b.Close()); err != nil {
		t.Fatal(err)
	}
	names, headers := entries(t, export(t, find(t, dir, 7), ExportOptions{}))
	want := []string{"7,0100000001_a.txt", "7,0200000002_passwd", "7,0300000003_x__", "7,0400000004", "7,0500000005", "7,0600000006.gz"}
	if !reflect.DeepEqual(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
	if at := headers[want[0]].ModTime; !at.Equal(time.Unix(1e9, 0)) {
		t.Errorf("modified at %v", at)
	}
	newer, _ := entries(t, export(t, find(t, dir, 7), ExportOptions{NewerThan: time.Unix(4e9, 0)}))
	if !reflect.DeepEqual(newer, want[4:]) {
		t.Errorf("newer ones: %q", newer)
	}
}

// A damaged file is left out and named; the others are there.
func TestADamagedFileIsLeftOut(t *testing.T) {
	t.Parallel()
	f := find(t, unpack(t, "damage", "flip-data/in/"), 40)
	var out bytes.Buffer
	bad, err := Export(t.Context(), &out, vfs.OS{}, f, ExportOptions{})
	if err != nil || len(bad) != 1 || bad[0].Key != "1" || bad[0].Offset != 8 {
		t.Fatal(bad, err)
	}
	if names, _ := entries(t, out.Bytes()); len(names) != 5 {
		t.Errorf("%q", names)
	}
}

// plain is a tar file of another program.
func plain(t *testing.T, cut int) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeDir, Name: "pics/"},
		{Typeflag: tar.TypeReg, Name: "pics/a.jpg", Size: 3, ModTime: time.Unix(1.7e9, 0)},
		{Typeflag: tar.TypeSymlink, Name: "pics/link", Linkname: "a.jpg"},
		{Typeflag: tar.TypeReg, Name: "pics/empty", ModTime: time.Unix(1.7e9, 0)},
		{Typeflag: tar.TypeReg, Name: "known", Size: 3, PAXRecords: map[string]string{recFID: "99,0500000007"}},
		{Typeflag: tar.TypeReg, Name: "after", Size: 3},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("abc")[:h.Size]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()[:out.Len()-cut]
}

func TestATarFileOfAnotherProgram(t *testing.T) {
	t.Parallel()
	dir, pics := t.TempDir(), "pics"
	var made []Entry
	var skipped []string
	_, err := Import(t.Context(), bytes.NewReader(plain(t, 0)), vfs.OS{}, dir, 7, ImportOptions{
		Collection: &pics, Now: time.Unix(1.8e9, 0),
		Each: func(e Entry) { made = append(made, e) }, Skip: func(name, _ string) { skipped = append(skipped, name) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(skipped, []string{"pics/link"}) {
		t.Errorf("left out: %q", skipped)
	}
	list := files(t, find(t, dir, 7), false)
	var keys []volume.Key
	for i, f := range list {
		keys = append(keys, f.key)
		if id := (volume.FileID{Volume: 7, Key: f.key, Cookie: f.cookie}).String(); made[i].FID != id || made[i].New == (f.key == 5) {
			t.Errorf("%+v, is %s", made[i], id)
		}
	}
	if !reflect.DeepEqual(keys, []volume.Key{1, 2, 5, 6}) || list[0].name != "a.jpg" || list[0].modified != 1.7e9 || list[0].data != "abc" || list[2].cookie != 7 {
		t.Errorf("%+v", list)
	}
}

// An import that fails leaves nothing behind, and one onto a volume that is there
// touches nothing.
func TestAnImportThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	twice := bytes.Join([][]byte{plain(t, 1024), plain(t, 0)}, nil) // key 5 twice
	for name, in := range map[string][]byte{"cut": plain(t, 1024+512), "no tar file": []byte(strings.Repeat("x", 2000)), "twice": twice} {
		if at, err := Import(t.Context(), bytes.NewReader(in), vfs.OS{}, dir, 7, ImportOptions{Now: time.Now()}); err == nil {
			t.Errorf("%s: made %s", name, at)
		}
		if list, err := os.ReadDir(dir); err != nil || len(list) > 0 {
			t.Errorf("%s: left %v, %v", name, list, err)
		}
	}
	there := unpack(t, "v3-collection", "")
	f := find(t, there, 3)
	before, err := os.ReadFile(f.Path())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Import(t.Context(), bytes.NewReader(plain(t, 0)), vfs.OS{}, there, 3, ImportOptions{Now: time.Now()}); !errors.Is(err, volume.ErrExists) {
		t.Error(err)
	}
	if after, err := os.ReadFile(f.Path()); err != nil || !bytes.Equal(before, after) {
		t.Error("the volume that was there was changed", err)
	}
}
