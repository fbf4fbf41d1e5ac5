package store

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/vfs"
	"weedd/volume/vfs/faultfs"
)

// What check says of the damaged volumes of SeaweedFS, and whether fix mends them.
var (
	soundCases = []string{
		"clean", "clean-tail-tombstone", "compact-no-marker", "idx-sorted-by-key", "legacy-checksum",
		"flip-cookie", "flip-flags", "flip-name", "flip-padding", "flip-timestamp", // nothing in the format shows these
		"vif-empty", "vif-garbage", "vif-missing", "vif-old-names", "vif-replication-010", "vif-unknown-field", "vif-version-2",
	}
	lostCases = []string{
		"dat-3-bytes", "dat-superblock-only", "dat-zero-length", "idx-only", "note-present",
		"flip-checksum", "flip-data", "flip-datasize", "flip-key", "flip-last-record-data", "flip-size",
		"superblock-extra", "superblock-version-0", "superblock-version-4",
	}
	otherCases = []string{"note-only-other", "vif-bytes-offset-5"} // no volume; an index of another form
)

// everything reads all files of a directory.
func everything(t testing.TB, fs vfs.FS, dir string) map[string]string {
	t.Helper()
	names, err := fs.ReadDir(dir)
	must(t, err)
	files := map[string]string{}
	for _, n := range names {
		b, err := vfs.ReadFile(fs, filepath.Join(dir, n))
		must(t, err)
		files[n] = string(b)
	}
	return files
}

func onlyVolume(t testing.TB, fs vfs.FS, dir string) Found {
	t.Helper()
	list, err := Find(fs, dir)
	must(t, err)
	if len(list) != 1 {
		t.Fatalf("%d volumes: %v", len(list), list)
	}
	return list[0]
}

func check(t testing.TB, fs vfs.FS, f Found) CheckResult {
	t.Helper()
	r, err := Check(t.Context(), fs, f, nil)
	must(t, err)
	return r
}

func fix(t testing.TB, fs vfs.FS, f Found, dry bool) FixResult {
	t.Helper()
	r, err := Fix(t.Context(), fs, f, dry, nil)
	must(t, err)
	return r
}

// Every damaged volume of SeaweedFS is found to be damaged, and what can be mended
// without loss is mended, so that SeaweedFS would load it for writing. Looking, and
// a dry run, change nothing; a second fix has nothing to do.
func TestDamagedVolumesAreFoundAndMended(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("testdata/vectors/damage/manifest.json")
	must(t, err)
	var m struct {
		Cases []struct {
			Case string
			Get  map[int]any
		}
	}
	must(t, json.Unmarshal(b, &m))
	for _, c := range m.Cases {
		if slices.Contains(otherCases, c.Case) {
			continue
		}
		t.Run(c.Case, func(t *testing.T) {
			t.Parallel()
			fs := faultfs.New(1)
			must(t, fs.Mkdir("/d"))
			unpack(t, fs, "testdata/vectors/damage/files.tar.gz", c.Case+"/in/", "/d")
			before := everything(t, fs, "/d")
			f := onlyVolume(t, fs, "/d")
			r := check(t, fs, f)
			if sound := slices.Contains(soundCases, c.Case); r.Good != sound {
				t.Errorf("good is %v: %+v", r.Good, r.Findings)
			}
			Inspect(fs, f)
			if _, err := ReadFiles(t.Context(), fs, f, true, func(*needle.Needle, bool) error { return nil }, nil); err != nil {
				t.Error(err)
			}
			plan := fix(t, fs, f, true)
			if after := everything(t, fs, "/d"); !reflect.DeepEqual(before, after) {
				t.Fatal("looking changed files")
			}
			done := fix(t, fs, f, false)
			if !slices.Equal(plan.Done, done.Done) || len(plan.Left) != len(done.Left) {
				t.Errorf("planned %q, left %v; done %q, left %v", plan.Done, plan.Left, done.Done, done.Left)
			}
			after := everything(t, fs, "/d")
			lost := slices.Contains(lostCases, c.Case)
			if (len(done.Left) > 0) != lost || done.Good != r.Good {
				t.Errorf("left: %+v", done.Left)
			}
			if r.Good && !reflect.DeepEqual(before, after) {
				t.Error("a good volume was touched")
			}
			nothingLost(t, before, after)
			if !lost {
				loadsWritable(t, after, filepath.Base(f.Base))
			}
			if again := fix(t, fs, refound(fs, f), false); len(again.Done) > 0 && !lost {
				t.Errorf("a second fix did %q", again.Done)
			}
		})
	}
}

// nothingLost looks for the bytes of each file before in the files after it.
func nothingLost(t *testing.T, before, after map[string]string) {
	t.Helper()
	for name, old := range before {
		found := old == "" || slices.Contains(slices.Collect(maps.Values(after)), old)
		for other, tail := range after {
			found = found || strings.HasPrefix(other, name+".cut-at-") && after[name]+tail == old
		}
		found = found || strings.HasSuffix(name, ".dat") && strings.HasPrefix(after[name], old) // padded
		if !found {
			t.Errorf("bytes of %s are nowhere", name)
		}
	}
}

// loadsWritable holds a volume against what SeaweedFS looks at when it loads one.
func loadsWritable(t *testing.T, files map[string]string, base string) {
	t.Helper()
	idx, dat := []byte(files[base+extIdx]), files[base+extDat]
	end := int64(SuperBlockSize)
	for ; len(idx) >= rowSize; idx = idx[rowSize:] {
		end = max(end, decodeRow(idx).end(needle.V3))
	}
	if len(idx) != 0 || end != int64(len(dat)) {
		t.Errorf("rows end at %d, and %d bytes of a row; %s has %d bytes", end, len(idx), extDat, len(dat))
	}
}

// An index that is made anew has the rows that it had, zero-byte files told from
// tombstones.
func TestAnIndexMadeAnewIsTheOneThatWas(t *testing.T) {
	t.Parallel()
	clean := faultfs.New(1)
	must(t, clean.Mkdir("/d"))
	unpack(t, clean, "testdata/vectors/damage/files.tar.gz", "clean/in/", "/d")
	want := everything(t, clean, "/d")["40.idx"]
	for _, c := range []string{"idx-missing", "idx-and-vif-missing", "idx-empty", "idx-hole", "idx-torn", "idx-torn-plus", "idx-bad-offset", "idx-beyond-dat", "dat-two-records-not-indexed", "dat-torn-padding"} {
		fs := faultfs.New(1)
		must(t, fs.Mkdir("/d"))
		unpack(t, fs, "testdata/vectors/damage/files.tar.gz", c+"/in/", "/d")
		fix(t, fs, onlyVolume(t, fs, "/d"), false)
		if got := everything(t, fs, "/d")["40.idx"]; got != want {
			t.Errorf("%s:\n%x, want\n%x", c, got, want)
		}
	}
}

func TestSoundVolumesOfSeaweedFSAreFoundSound(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"v1-basic", "v2-basic", "v3-basic", "v3-large", "v3-collection", "v3-replication", "v3-ttl", "configured-replication"} {
		fs := faultfs.New(1)
		must(t, fs.Mkdir("/d"))
		unpack(t, fs, filepath.Join("testdata/vectors", name, "files.tar.gz"), "", "/d")
		list, err := Find(fs, "/d")
		must(t, err)
		if len(list) == 0 {
			t.Errorf("%s: no volume", name)
		}
		for _, f := range list {
			if r := check(t, fs, f); !r.Good || r.Records == 0 && r.Bytes > SuperBlockSize {
				t.Errorf("%s: %+v", name, r)
			}
			if r := Inspect(fs, f); r.State != volume.CopyHealthy || r.Copy != 0 || r.Volume != f.ID {
				t.Errorf("%s: %+v", name, r)
			}
		}
	}
}

// Where one record's length is damaged and no index tells of the next, the records
// behind it are found by their checksums.
func TestRecordsBehindADamagedLengthAreFound(t *testing.T) {
	t.Parallel()
	fs := faultfs.New(1)
	must(t, fs.Mkdir("/d"))
	unpack(t, fs, "testdata/vectors/damage/files.tar.gz", "idx-missing/in/", "/d")
	flip(t, fs, "/d/40.dat", 456+14) // the size of key 4
	f := onlyVolume(t, fs, "/d")
	r := check(t, fs, f)
	if r.Good || r.Findings[0].Offset != 456 || r.Findings[0].Fix != fixRecord {
		t.Fatalf("%+v", r.Findings)
	}
	keys := map[volume.Key]bool{}
	bad, err := ReadFiles(t.Context(), fs, f, false, func(n *needle.Needle, _ bool) error {
		keys[n.Key] = true
		return nil
	}, nil)
	must(t, err)
	if want := map[volume.Key]bool{1: true, 3: true, 5: true, 6: true, 7: true}; !maps.Equal(keys, want) || len(bad) == 0 {
		t.Errorf("files %v, problems %v", keys, bad)
	}
}

// Whatever fails on the way, a fix that is made again ends well, and no byte of
// the volume is lost.
func TestAFixThatFailsMayBeRepeated(t *testing.T) {
	t.Parallel()
	for _, c := range []string{"dat-torn-body", "compact-marker", "dat-torn-padding"} {
		unpacked := faultfs.New(1)
		must(t, unpacked.Mkdir("/d"))
		unpack(t, unpacked, "testdata/vectors/damage/files.tar.gz", c+"/in/", "/d")
		before := everything(t, unpacked, "/d")
		for i := 0; ; i++ {
			fs := faultfs.New(uint64(i))
			must(t, fs.Mkdir("/d"))
			for name, b := range before {
				must(t, vfs.Write(fs, "/d/"+name, []byte(b)))
			}
			must(t, fs.SyncDir("/d"))
			must(t, fs.SyncDir("/"))
			f := onlyVolume(t, fs, "/d")
			fs.FailAt(i)
			_, err := Fix(t.Context(), fs, f, false, nil)
			fs.SetFault(nil)
			if i%2 == 0 {
				fs = fs.Crash(uint64(i))
			}
			again, err2 := Fix(t.Context(), fs, onlyVolume(t, fs, "/d"), false, nil)
			if err2 != nil || len(again.Left) > 0 {
				t.Fatalf("%s, operation %d failed: %v; then %+v, %v", c, i, err, again, err2)
			}
			nothingLost(t, before, everything(t, fs, "/d"))
			if err == nil && i > 20 {
				break
			}
		}
	}
}

// closedCopy makes a copy of ours with files 1 to 9, 3 of them deleted, closed
// cleanly, and returns its base.
func closedCopy(t *testing.T, fs *faultfs.FS) Found {
	t.Helper()
	must(t, fs.Mkdir("/d"))
	s := openStore(t, fs)
	v, err := s.Create(7, volume.Spec{}, 70)
	must(t, err)
	must(t, v.SetEpochs([]volume.EpochStart{{Epoch: 2, Start: 8}}))
	for k := volume.Key(1); k <= 9; k++ {
		must(t, write(v, record(t, v, k, []byte(fmt.Sprint("data ", k)))))
	}
	for k := volume.Key(1); k <= 3; k++ {
		must(t, write(v, tombstone(t, v, k)))
	}
	must(t, s.Close())
	return onlyVolume(t, fs, "/d")
}

func TestACopyOfOursIsChecked(t *testing.T) {
	t.Parallel()
	fs := faultfs.New(1)
	f := closedCopy(t, fs)
	if r := check(t, fs, f); !r.Good || len(r.Findings) > 0 || r.Records != 12 || r.Copy != 70 {
		t.Fatalf("%+v", r)
	}
	if r := Inspect(fs, f); r.Copy != 70 || r.Epoch != 2 || r.Files != 9 || r.Deleted != 3 || r.State != volume.CopyHealthy {
		t.Errorf("%+v", r)
	}
	clean := everything(t, fs, "/d")
	const length = 48 // of a record
	for name, c := range map[string]struct {
		file   string
		at     int64
		offset int64  // of the finding
		what   string // part of it
	}{
		"data":        {extDat, 8 + 16 + 4 + 2, 8, "checksum"},
		"name":        {extDat, 8 + 16 + 4 + 6 + 3, 0, "not those that were written"},
		"padding":     {extDat, 8 + length - 1, 8, "padding"},
		"super block": {extDat, 5, 0, "super block"},
		"index":       {extIdx, 16 + 7, 8 + length, "record of key"},
		"checkpoint":  {extCkpt, 40, -1, "checksum"},
		"copy file":   {extCopy, 20, -1, "header fails"},
		"epoch":       {extCopy, 40, -1, ""},
	} {
		for n, b := range clean {
			must(t, vfs.Write(fs, "/d/"+n, []byte(b)))
		}
		flip(t, fs, f.Base+c.file, c.at)
		r := check(t, fs, f)
		i := slices.IndexFunc(r.Findings, func(x Finding) bool { return x.Offset == c.offset && strings.Contains(x.What, c.what) })
		if name == "epoch" { // the last entry: nobody was told of it
			i = 0
		}
		if r.Good != (name == "epoch") || i < 0 {
			t.Errorf("%s: %+v", name, r.Findings)
		}
	}
}

// A copy of ours is left to its daemon and its cluster; only rows that the daemon
// would believe are taken from its index, and then it serves all again.
func TestACopyOfOursIsMendedByItsDaemon(t *testing.T) {
	t.Parallel()
	fs := faultfs.New(1)
	f := closedCopy(t, fs)
	flip(t, fs, "/d/7.idx", 4*16+7) // the key in the row of key 5
	must(t, fs.Remove("/d/7.vif"))
	ckpt := everything(t, fs, "/d")["7.wckpt"]
	if r := fix(t, fs, refound(fs, f), false); len(r.Done) != 1 || len(r.Saved) != 1 || !r.Ours {
		t.Fatalf("%+v", r)
	}
	after := everything(t, fs, "/d")
	if after["7.wckpt"] != ckpt || len(after["7.idx"]) != 4*rowSize {
		t.Errorf("%d bytes of index", len(after["7.idx"]))
	}
	s := openStore(t, fs)
	v, err := s.Volume(7)
	must(t, err)
	if v.Committed() != v.End() || v.CopyID() != 70 {
		t.Errorf("committed %d of %d", v.Committed(), v.End())
	}
	expect(t, v, 5, []byte("data 5"))
	expect(t, v, 2, nil)
	must(t, s.Close())

	flip(t, fs, "/d/7.dat", 8+20) // data that was durable
	before := everything(t, fs, "/d")
	if r := fix(t, fs, refound(fs, f), false); len(r.Done) > 0 || len(r.Left) != 1 || r.Left[0].Fix != fixCluster || r.Left[0].Key != "1" {
		t.Fatalf("%+v", r)
	}
	if !reflect.DeepEqual(before, everything(t, fs, "/d")) {
		t.Error("a copy of ours was changed")
	}
}

func TestADirectoryInUseIsNotFixed(t *testing.T) {
	t.Parallel()
	fs := faultfs.New(1)
	must(t, fs.Mkdir("/d"))
	free, err := LockDir(fs, "/d")
	must(t, err)
	must(t, free.Close())
	if len(everything(t, fs, "/d")) > 0 {
		t.Error("locking made a file in a directory that was never a daemon's")
	}
	s := openStore(t, fs)
	if _, err := LockDir(fs, "/d"); err == nil {
		t.Error("the directory of a daemon was locked")
	}
	must(t, s.Close())
	lock, err := LockDir(fs, "/d")
	must(t, err)
	if _, err := Open(options(fs, "/d")); err == nil {
		t.Error("a store opened a directory that is being fixed")
	}
	must(t, lock.Close())
}

func TestAVolumeThatIsBuiltOpens(t *testing.T) {
	t.Parallel()
	fs := faultfs.New(1)
	must(t, fs.Mkdir("/d"))
	spec := volume.Spec{Collection: "pics", Placement: 1, TTL: volume.TTL{Count: 3, Unit: 3}}
	b, err := Build(fs, "/d", 9, spec, time.Unix(1e9, 0))
	must(t, err)
	big := strings.Repeat("x", buildAt)
	must(t, b.Add(&needle.Needle{Key: 5, Cookie: cookieOf(5), Data: []byte(big)}))
	must(t, b.Add(&needle.Needle{Key: 2, Cookie: cookieOf(2), Data: []byte("two"), AppendedAt: 77}))
	if err := b.Add(&needle.Needle{Key: 5, Data: []byte("again")}); volume.Code(err) != "exists" {
		t.Errorf("a key twice: %v", err)
	}
	must(t, b.Add(&needle.Needle{Key: 2, Cookie: cookieOf(2), Tombstone: true, AppendedAt: 78}))
	if list, err := Find(fs, "/d"); err != nil || len(list) > 0 {
		t.Errorf("it is seen before it is whole: %v, %v", list, err)
	}
	must(t, b.Finish())
	must(t, b.Close())
	f := onlyVolume(t, fs, "/d")
	if r := check(t, fs, f); !r.Good || len(r.Findings) > 0 || f.Base != "/d/pics_9" {
		t.Errorf("%+v", r)
	}
	s := openStore(t, fs)
	defer s.Close()
	v, err := s.Volume(9)
	must(t, err)
	expect(t, v, 5, []byte(big))
	expect(t, v, 2, nil)
	if got := v.Spec(); got != spec || !v.Foreign() {
		t.Errorf("%+v", got)
	}
	if _, err := Build(fs, "/d", 9, volume.Spec{}, time.Now()); volume.Code(err) != "exists" {
		t.Errorf("a volume twice: %v", err)
	}
}
