package server_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weedd/volume"
	"weedd/volume/volumetest"
	"weedd/volume/wire"
)

// goldenState is a state in which SeaweedFS may leave the files of a volume:
// compacted in part, marked, erasure-coded, damaged.
type goldenState struct {
	Name, What string
	From       string   // the archive
	Prefixes   []string // of the files in it
	Drop       []string // files that are left out
	Patch      *struct {
		File         string
		Offset, Byte int
	}
	Idx      string // hex; replaces the index
	Volume   volume.ID
	Size     int64 // of .dat; 0 where it was not noted
	Revision uint16
	Content  string
	Gets     map[string]int // what SeaweedFS answers to a GET; 0 if it does not start
	Removed  []string       // files that it removes when it starts
}

type goldenStates struct {
	Content map[string]map[string]string // SHA-256 of files, by group and id
	States  []goldenState
}

// better is where we answer a GET otherwise than SeaweedFS did, on purpose. Keys
// of a state that are not named are answered alike, and so are all others.
var better = []struct {
	why    string
	states []string
	status map[volume.Key]int
}{
	{"an index that is gone, empty or ragged is made up from .dat",
		[]string{"damage/idx-empty", "damage/idx-missing", "damage/idx-and-vif-missing", "damage/idx-torn", "damage/idx-torn-plus"},
		map[volume.Key]int{1: 200, 2: 404, 3: 200, 4: 200, 5: 200, 6: 200, 7: 200}},
	{"and so are rows that it lacks", []string{"damage/idx-hole", "damage/idx-beyond-dat", "damage/idx-bad-offset"}, map[volume.Key]int{4: 200}},
	{"at its end, too", []string{"damage/dat-whole-record-not-indexed"}, map[volume.Key]int{7: 200}},
	{"at its end, too", []string{"damage/dat-two-records-not-indexed"}, map[volume.Key]int{6: 200, 7: 200}},
	{"a deletion without a row is one", []string{"damage/tail-tombstone-not-indexed"}, map[volume.Key]int{6: 404}},
	{"an empty file without a row is one", []string{
		"index-rebuild/clean no-deleted", "index-rebuild/clean-tail-tombstone no-deleted", "index-rebuild/dat-torn-body no-deleted",
		"index-rebuild/dat-torn-header no-deleted", "index-rebuild/dat-torn-padding no-deleted", "index-rebuild/dat-zero-tail-64 no-deleted",
		"index-rebuild/dat-unaligned-tail-3 no-deleted", "index-rebuild/flip-data no-deleted", "index-rebuild/flip-size no-deleted",
	}, map[volume.Key]int{5: 200}},
	{"of two records of an empty file without rows, one may have been its deletion; nothing says so", []string{"index-rebuild/v3-basic no-deleted"},
		map[volume.Key]int{0x4: 200, 0x2c: 200}},
	{"a volume that makes SeaweedFS exit is set aside", []string{"damage/superblock-version-0", "damage/superblock-version-4"},
		map[volume.Key]int{1: 404, 2: 404, 3: 404, 4: 404, 5: 404, 6: 404, 7: 404}},
	{"the new index is beside the new .dat", []string{"damage/compact-dat-renamed-no-marker"}, map[volume.Key]int{3: 200, 8: 200, 9: 200, 11: 200}},
	{"what is torn was never whole: it is not there", []string{"damage/dat-superblock-only"},
		map[volume.Key]int{1: 404, 3: 404, 4: 404, 5: 404, 6: 404, 7: 404}},
	{"what is torn was never whole: it is not there", []string{
		"damage/dat-torn-at-record-start", "damage/dat-torn-body", "damage/dat-torn-checksum", "damage/dat-torn-header", "damage/dat-torn-padding",
		"damage/dat-torn-timestamp", "index-rebuild/dat-torn-body default", "index-rebuild/dat-torn-body no-deleted",
		"index-rebuild/dat-torn-padding default", "index-rebuild/dat-torn-padding no-deleted",
	}, map[volume.Key]int{7: 404}},
	{"a torn deletion is none", []string{"damage/tail-tombstone-torn"}, map[volume.Key]int{6: 200}},
	{"the key in the record is compared", []string{"damage/flip-key"}, map[volume.Key]int{1: 500}},
	{"large files are checked, too, before the first byte is sent", []string{"damage-large/flip-large"}, map[volume.Key]int{1: 500}},
	{"records are read to their length: one at the very end of the shards is there", []string{"ec-exact-row/encoded"}, map[volume.Key]int{2: 200}},
	{"the rows of an index are of the width that fits .dat, whatever the volume info says", []string{"damage/vif-bytes-offset-5"},
		map[volume.Key]int{1: 200, 2: 404, 3: 200, 4: 200, 5: 200, 6: 200, 7: 200}},
}

func TestGoldenStatesAreServedAsSeaweedFSServesThemOrBetter(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(filepath.Join(goldenPath, "states.json"))
	if err != nil {
		t.Fatal(err)
	}
	var all goldenStates
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	byArchive := map[string][]goldenState{}
	for _, s := range all.States {
		byArchive[s.From] = append(byArchive[s.From], s)
	}
	for archive, states := range byArchive {
		t.Run(archive, func(t *testing.T) {
			t.Parallel()
			from := t.TempDir()
			volumetest.Unpack(t, filepath.Join(goldenPath, archive, "files.tar.gz"), from)
			for _, s := range states {
				t.Run(s.Name, func(t *testing.T) { s.test(t, from, all.Content[s.Content]) })
			}
		})
	}
	for _, d := range better {
		for _, name := range d.states {
			if !slices.ContainsFunc(all.States, func(s goldenState) bool { return s.Name == name && s.differs(d.status) }) {
				t.Errorf("%s: makes no difference: %s", name, d.why)
			}
		}
	}
}

// differs reports whether one of these answers is another than SeaweedFS's.
func (s goldenState) differs(status map[volume.Key]int) bool {
	for fid, was := range s.Gets {
		if id, err := volume.ParseFileID(fid); err == nil && status[id.Key] != 0 && status[id.Key] != was {
			return true
		}
	}
	return false
}

func (s goldenState) want(id volume.FileID) int {
	for _, d := range better {
		if status, ok := d.status[id.Key]; ok && slices.Contains(d.states, s.Name) {
			return status
		}
	}
	return s.Gets[id.String()]
}

// test serves the state, and asks for what is in it, and for what must not be
// done to it.
func (s goldenState) test(t *testing.T, from string, content map[string]string) {
	n := serveGolden(t, s.lay(t, from))
	found := false
	for _, fid := range slices.Sorted(maps.Keys(s.Gets)) {
		id, err := volume.ParseFileID(fid)
		if err != nil {
			t.Fatal(err)
		}
		got, want := n.do(http.MethodGet, "/"+fid, "", nil), s.want(id)
		found = found || want == http.StatusOK
		sum := sha256.Sum256(got.body)
		if got.status != want || want == http.StatusOK && hex.EncodeToString(sum[:]) != content[fid] {
			t.Errorf("%s: GET /%s: %d, %d bytes, want %d (SeaweedFS: %d); set aside: %v", s.What, fid, got.status, len(got.body), want, s.Gets[fid], n.store.Aside())
		}
		if id.Cookie ^= 0x10000; len(got.body) < 1<<20 {
			if got := n.do(http.MethodGet, "/"+id.String(), "", nil); got.status == http.StatusOK {
				t.Errorf("GET /%s, with another cookie: %d", id, got.status)
			}
		}
	}
	s.wantShown(t, n, found)
	s.wantNoWrites(t, n, found)
	n.close()
	s.wantFiles(t, n, from)
}

// lay puts the files of a state into a directory.
func (s goldenState) lay(t *testing.T, from string) string {
	t.Helper()
	dir := t.TempDir()
	put := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, prefix := range s.Prefixes {
		names, err := filepath.Glob(filepath.Join(from, prefix, "*"))
		if err != nil || len(names) == 0 {
			t.Fatalf("no files %s: %v", prefix, err)
		}
		for _, path := range names {
			name := filepath.Base(path)
			if slices.Contains(s.Drop, name) {
				continue
			}
			if strings.HasPrefix(filepath.Ext(name), ".ec") { // large, and never replaced
				if err := os.Link(path, filepath.Join(dir, name)); err != nil && !os.IsExist(err) {
					t.Fatal(err)
				}
				continue
			}
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if p := s.Patch; p != nil && p.File == name {
				b[p.Offset] = byte(p.Byte)
			}
			put(name, b)
		}
	}
	if s.Idx != "" {
		b, err := hex.DecodeString(s.Idx)
		if err != nil {
			t.Fatal(err)
		}
		put(s.Volume.String()+".idx", b)
	}
	return dir
}

// wantShown wants a volume of which something is served on the status page, as
// read-only, and every other one with files in the list of what is set aside.
func (s goldenState) wantShown(t *testing.T, n *goldenNode, served bool) {
	t.Helper()
	var page goldenStatus
	if err := json.Unmarshal(n.do(http.MethodGet, "/status", "", nil).body, &page); err != nil {
		t.Fatal(err)
	}
	for _, v := range page.Volumes {
		if v.ID != s.Volume || !v.ReadOnly || !strings.Contains(v.Reason, "reads only") || v.CompactRevision != s.Revision && s.Revision != 0 || s.Size != 0 && v.Size != s.Size {
			t.Errorf("on the status page: %+v", v)
		}
		if strings.Contains(s.What, "erasure-coded") != strings.Contains(v.Reason, "erasure-coded") {
			t.Errorf("on the status page: %q", v.Reason)
		}
	}
	_, dat := n.files[s.Volume.String()+".dat"]
	if shown := len(page.Volumes) == 1; served && !shown || !shown && dat && len(n.store.Aside()) != 1 {
		t.Errorf("served: %v, on the status page: %v, set aside: %v", served, shown, n.store.Aside())
	}
}

// wantNoWrites wants no write to be acknowledged: SeaweedFS says 201 where a
// volume could not be loaded, and forgets the file.
func (s goldenState) wantNoWrites(t *testing.T, n *goldenNode, served bool) {
	t.Helper()
	fresh := volume.FileID{Volume: s.Volume, Key: 0x7777, Cookie: 0x1234}.String()
	there := slices.Sorted(maps.Keys(s.Gets))[0]
	for _, r := range []struct{ method, path string }{{http.MethodPost, fresh}, {http.MethodPut, there}, {http.MethodDelete, there}} {
		if r.method == http.MethodDelete && strings.HasPrefix(s.What, "erasure-coded") {
			continue // is done
		}
		got := n.do(r.method, "/"+r.path, "", strings.NewReader("not to be stored"))
		var e wire.ErrorBody
		if err := json.Unmarshal(got.body, &e); err != nil || got.status < 400 || e.Error == "" && r.method != http.MethodDelete || served && !strings.Contains(e.Error, "read-only") {
			t.Errorf("%s /%s: %d %q", r.method, r.path, got.status, got.body)
		}
	}
	if got := n.do(http.MethodGet, "/"+fresh, "", nil); got.status != http.StatusNotFound {
		t.Errorf("GET /%s, which was refused: %d", fresh, got.status)
	}
}

// wantFiles wants all files as they were; but a compaction that had been decided
// on is finished, as SeaweedFS finishes it.
func (s goldenState) wantFiles(t *testing.T, n *goldenNode, from string) {
	t.Helper()
	after, want := volumetest.Files(t, n.dir), maps.Clone(n.files)
	for _, marker := range []string{".weedd-disk", ".weedd-probe", "vol_dir.uuid"} {
		delete(after, marker)
	}
	base := s.Volume.String()
	if _, decided := want[base+".cpc"]; decided {
		for was, is := range map[string]string{".cpd": ".dat", ".cpx": ".idx"} {
			if f, ok := want[base+was]; ok {
				want[base+is] = f
			}
		}
		for _, name := range s.Removed {
			delete(want, name)
		}
		for name := range want {
			b, err := os.ReadFile(filepath.Join(from, strings.Replace(s.Prefixes[0], "/in/", "/after_load/", 1), name))
			if err == nil && string(b) != want[name].Data {
				t.Errorf("%s is another than SeaweedFS makes", name)
			}
		}
	}
	if !maps.Equal(after, want) {
		t.Errorf("files were changed: %v, now %v", slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(after)))
	}
}
