package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"weedd/volume/store"
	"weedd/volume/vfs"
	"weedd/volume/volumetest"
)

// seaweedVolume puts the files of a vector whose names begin with prefix into a
// new directory.
func seaweedVolume(t *testing.T, vector, prefix string) string {
	t.Helper()
	return volumetest.UnpackSome(t, "../../volume/store/testdata/vectors/"+vector+"/files.tar.gz", prefix)
}

// snapshot is all that can be seen of the files in a directory.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, e := range list {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = info.ModTime().String() + string(b)
	}
	return files
}

func TestVolumeListShowsWhatIsThere(t *testing.T) {
	t.Parallel()
	good, bad := seaweedVolume(t, "v3-collection", ""), seaweedVolume(t, "damage", "superblock-version-4/in/")
	before := snapshot(t, good)
	code, out, said := weedd("volume", "list", good, bad)
	if code != 0 || said != "" {
		t.Fatalf("exit code %d: %s", code, said)
	}
	for _, part := range []string{"VOLUME", "photos", "SeaweedFS", "bad: super block: version 4 is none of 1, 2, 3"} {
		if !strings.Contains(out, part) {
			t.Errorf("no %q in\n%s", part, out)
		}
	}
	var list []listedVolume
	_, out, _ = weedd("volume", "list", "--json", good, bad)
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatal(err)
	}
	if n := len(list); n < 2 || list[0].Ours || list[0].Version != 3 || list[0].Size == 0 || list[n-1].Volume != 40 {
		t.Errorf("%+v", list)
	}
	if !reflect.DeepEqual(before, snapshot(t, good)) {
		t.Error("listing changed files")
	}
	if code, _, said := weedd("volume", "list", filepath.Join(good, "nowhere")); code != 2 || !strings.Contains(said, "no such file or directory") {
		t.Errorf("exit code %d: %s", code, said)
	}
}

func TestVolumeCheckAndFixTellByTheirExitCodes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, before, plan, done string // a part of what each says
		left                     bool   // fix leaves a problem
	}{
		{"clean", "volume 40: good; 9 records", "volume 40: good, not touched", "volume 40: good, not touched", false},
		{"dat-torn-body", "40.dat at 1064: 40 bytes at the end", "  would: cut 40 bytes at 1064\n", "  done: cut 40 bytes at 1064\n", false},
		{"idx-hole", "40.idx at 456, key 4: the record has no row", "would be mended", "40.idx.before-fix-1", false},
		{"flip-data", "40.dat at 8, key 1: checksum does not match", "not touched", "left:\n", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := seaweedVolume(t, "damage", c.name+"/in/")
			files := snapshot(t, dir)
			code, out, _ := weedd("volume", "check", dir)
			if want := map[bool]int{true: 0, false: 1}[c.name == "clean"]; code != want || !strings.Contains(out, c.before) {
				t.Errorf("check: exit code %d, want %d:\n%s", code, want, out)
			}
			_, out, _ = weedd("volume", "check", "--json", "--volume", "40", dir)
			var results []store.CheckResult
			if err := json.Unmarshal([]byte(out), &results); err != nil || len(results) != 1 || results[0].Good != (c.name == "clean") {
				t.Errorf("%v: %s", err, out)
			}
			want := map[bool]int{true: 1}[c.left]
			if code, out, _ := weedd("volume", "fix", dir, "--all", "--dry-run"); code != want || !strings.Contains(out, c.plan) {
				t.Errorf("dry run: exit code %d:\n%s", code, out)
			}
			if !reflect.DeepEqual(files, snapshot(t, dir)) {
				t.Fatal("looking changed files")
			}
			if code, out, _ := weedd("volume", "fix", dir, "--volume", "40"); code != want || !strings.Contains(out, c.done) {
				t.Errorf("fix: exit code %d:\n%s", code, out)
			}
			if code, out, _ := weedd("volume", "check", dir); code != want {
				t.Errorf("check after fix: exit code %d:\n%s", code, out)
			}
		})
	}
}

func TestVolumeCommandsSayWhatIsAmiss(t *testing.T) {
	t.Parallel()
	dir := seaweedVolume(t, "damage", "clean/in/")
	for line, want := range map[string]string{
		"volume check":                                   "say what to check",
		"volume check DIR --volume 3":                    "there is no volume 3 in DIR",
		"volume fix DIR":                                 "say which: --volume N or --all",
		"volume fix DIR --all --volume 40":               "say which: --volume N or --all",
		"volume export DIR":                              "say which volume",
		"volume export DIR --volume 40 --newer-than xy":  "neither a time",
		"volume export DIR --volume 40 --out DIR/40.dat": "40.dat is there already",
		"volume import DIR DIR/40.dat":                   "say which number",
		"volume import DIR --volume 40 DIR/40.dat":       "read the tar file",
		"volume import DIR --volume 9 DIR/none.tar":      "no such file",
		"volume import DIR --volume 9 -r 9999 x.tar":     "unknown replication type",
		"volume check DIR --volume x":                    "volume id",
	} {
		code, _, said := weedd(strings.Fields(strings.ReplaceAll(line, "DIR", dir))...)
		if want = strings.ReplaceAll(want, "DIR", dir); code != 2 || !strings.Contains(said, want) {
			t.Errorf("%s: exit code %d, %q, want %q", line, code, said, want)
		}
	}
}

func TestVolumeExportAndImport(t *testing.T) {
	t.Parallel()
	from, to := seaweedVolume(t, "v3-basic", ""), t.TempDir()
	tarFile := filepath.Join(to, "1.tar")
	code, _, said := weedd("volume", "export", from, "--volume", "1", "-o", tarFile)
	if code != 0 || !strings.Contains(said, "to "+tarFile) {
		t.Fatalf("export: exit code %d: %s", code, said)
	}
	if code, out, _ := weedd("volume", "export", from, "--volume", "1", "-o", "-"); code != 0 || len(out) < 1024 {
		t.Errorf("export to stdout: exit code %d, %d bytes", code, len(out))
	} else if b, err := os.ReadFile(tarFile); err != nil || string(b) != out {
		t.Error("to standard output it is another file", err)
	}
	code, out, said := weedd("volume", "import", to, "--volume", "5", "--collection", "pics", "--json", tarFile)
	var made importReport
	if err := json.Unmarshal([]byte(out), &made); code != 0 || err != nil {
		t.Fatalf("import: exit code %d, %v: %s", code, err, said)
	}
	if made.Path != filepath.Join(to, "pics_5.dat") || len(made.Files) == 0 || !strings.HasPrefix(made.Files[0].FID, "5,") {
		t.Errorf("%+v", made)
	}
	if code, out, _ := weedd("volume", "check", to); code != 0 {
		t.Errorf("check of what was made: exit code %d:\n%s", code, out)
	}
	if code, _, said := weedd("volume", "import", to, "--volume", "5", tarFile); code != 2 || !strings.Contains(said, "already exists") {
		t.Errorf("import again: exit code %d: %s", code, said)
	}
	if list, err := filepath.Glob(filepath.Join(to, "*")); err != nil || len(list) != 4 {
		t.Errorf("there are %v", list)
	}
}

// While a daemon runs on a directory it is looked at with a warning, and not
// changed.
func TestVolumeCommandsOnADirectoryInUse(t *testing.T) {
	t.Parallel()
	dir := seaweedVolume(t, "damage", "idx-hole/in/")
	s, err := store.Open(store.Options{
		FS: vfs.OS{}, Dirs: []store.Dir{{Path: dir, Init: true}}, Log: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	before := snapshot(t, dir)
	for _, line := range []string{"list", "check", "export --volume 40 --out -"} {
		if _, _, said := weedd(append([]string{"volume"}, append(strings.Fields(line), dir)...)...); !strings.Contains(said, "warning: a running weedd uses "+dir) {
			t.Errorf("%s: %q", line, said)
		}
	}
	for _, line := range []string{"fix --all DIR", "import --volume 5 DIR x.tar"} {
		if code, _, said := weedd(append([]string{"volume"}, strings.Fields(strings.ReplaceAll(line, "DIR", dir))...)...); code != 2 || !strings.Contains(said, "a running weedd uses this directory; stop it first") {
			t.Errorf("%s: exit code %d, %q", line, code, said)
		}
	}
	if !reflect.DeepEqual(before, snapshot(t, dir)) {
		t.Error("files were changed")
	}
}

// A running daemon is asked to look through its volumes; what it cannot repair is
// told by the exit code.
func TestVolumeCheckAsksARunningServer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		problem string
		code    int
		says    string
	}{
		{"", 0, "volume 7: good"},
		{`,"bad":1,"repaired":1,"problems":[{"offset":8,"key":"1","what":"checksum","repaired":true}]`, 0, "at 8, key 1: checksum (repaired)"},
		{`,"bad":1,"problems":[{"offset":8,"key":"1","what":"checksum","repaired":false,"error":"no copy"}]`, 1, "at 8, key 1: checksum (no copy)"},
		{`,"error":"cannot be read"`, 1, "cannot be read"},
	} {
		asked := 0
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "POST" {
				asked++
				fmt.Fprint(w, `{"volumes":1}`)
				return
			}
			done := `"done":"2026-01-02T03:04:05Z"`
			if asked++; asked == 2 {
				done = `"waiting":true`
			}
			fmt.Fprintf(w, `[{"volume":7,"pos":8,"size":100,%s%s}]`, done, c.problem)
		}))
		code, out, said := weedd("volume", "check", "--server", strings.TrimPrefix(srv.URL, "http://"), "--volume", "7")
		srv.Close()
		if code != c.code || !strings.Contains(out, c.says) || asked < 3 {
			t.Errorf("%s: exit code %d, asked %d times\n%s%s", c.problem, code, asked, out, said)
		}
	}
	if code, _, _ := weedd("volume", "check", "--server", "127.0.0.1:1"); code != 2 {
		t.Errorf("no server: exit code %d", code)
	}
}
