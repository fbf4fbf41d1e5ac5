package store

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/reedsolomon"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/vfs"
	"weedd/volume/vfs/faultfs"
)

// alienFiles are the files of a volume 7 as SeaweedFS writes them, made record by
// record.
type alienFiles struct {
	dat  []byte
	rows []indexRow
}

func newAlien(version needle.Version) *alienFiles {
	b := superBlock{version: version}.encode()
	return &alienFiles{dat: b[:]}
}

func (a *alienFiles) put(t testing.TB, v needle.Version, key volume.Key, data string) {
	t.Helper()
	row := indexRow{key, int64(len(a.dat)), 0}
	var err error
	n := needle.Needle{Key: key, Cookie: cookieOf(key), Data: []byte(data), AppendedAt: uint64(len(a.dat)), Tombstone: data == "gone"}
	a.dat, err = needle.AppendVersion(a.dat, &n, v)
	must(t, err)
	row.size = int32(n.BodySize(v))
	if n.Tombstone {
		row.size = -1
	}
	a.rows = append(a.rows, row)
}

func (a *alienFiles) idx() (b []byte) {
	for _, r := range a.rows {
		b = r.append(b)
	}
	return b
}

func (a *alienFiles) wideIdx() (b []byte) {
	for _, r := range a.rows {
		b = binary.BigEndian.AppendUint64(b, uint64(r.key))
		b = binary.BigEndian.AppendUint32(b, uint32(r.offset/rowUnit))
		b = binary.BigEndian.AppendUint32(append(b, byte(r.offset/rowUnit>>32)), uint32(r.size))
	}
	return b
}

// openAlien opens a directory with these files, by suffix.
func openAlien(t testing.TB, files map[string][]byte) (*faultfs.FS, *Store) {
	t.Helper()
	fs := faultfs.New(1)
	must(t, fs.Mkdir("/d"))
	for ext, b := range files {
		must(t, vfs.Write(fs, "/d/7"+ext, b))
	}
	return fs, openStore(t, fs)
}

func alienVolume(t testing.TB, s *Store) *Volume {
	t.Helper()
	v, err := s.Volume(7)
	if err != nil {
		t.Fatalf("%v; set aside: %v", err, s.Aside())
	}
	return v
}

func TestFormatsOfSeaweedFS(t *testing.T) {
	t.Parallel()
	var m struct {
		Replication, TTL map[string]string
		Rows             []struct {
			Key        string
			ByteOffset int64 `json:"byte_offset"`
			Size       int32
			Row16      string `json:"row16_hex"`
			Row17      string `json:"row17_hex"`
		}
	}
	b, err := os.ReadFile("testdata/vectors/formats.json")
	must(t, err)
	must(t, json.Unmarshal(b, &m))
	if len(m.Replication) != 256 || len(m.TTL) < 20 || len(m.Rows) != 7 {
		t.Fatalf("%d placements, %d times, %d rows", len(m.Replication), len(m.TTL), len(m.Rows))
	}
	for code, text := range m.Replication {
		raw, err := hex.DecodeString(text)
		must(t, err)
		s, err := decodeSuperBlock(raw)
		if again := s.encode(); err != nil || s.placement.String() != code || string(again[:]) != string(raw) {
			t.Errorf("super block %s: %+v, written again %x, %v", text, s, again, err)
		}
	}
	for text, means := range m.TTL {
		raw, err := hex.DecodeString("03000000" + "00000000")
		must(t, err)
		_, err = hex.Decode(raw[2:], []byte(text))
		must(t, err)
		if s, err := decodeSuperBlock(raw); err != nil || s.ttl.String() != means {
			t.Errorf("time to live %s: %s, want %s, %v", text, s.ttl, means, err)
		}
	}
	for _, r := range m.Rows {
		row16, err := hex.DecodeString(r.Row16)
		must(t, err)
		row17, err := hex.DecodeString(r.Row17)
		must(t, err)
		wide := decodeWideRow(row17)
		if fmt.Sprintf("%x", uint64(wide.key)) != r.Key || wide.offset != r.ByteOffset || wide.size != r.Size {
			t.Errorf("row %s: %+v", r.Row17, wide)
		}
		if len(row16) == 0 {
			continue // it does not fit
		}
		if narrow := decodeRow(row16); narrow != wide || string(narrow.append(nil)) != string(row16) {
			t.Errorf("row %s: %+v", r.Row16, narrow)
		}
	}
}

// An index with 5-byte offsets is read, and known by itself.
func TestAnIndexForLargeDisksIsRead(t *testing.T) {
	t.Parallel()
	a := newAlien(needle.V3)
	for k := range volume.Key(20) {
		a.put(t, needle.V3, k, fmt.Sprint("data ", k))
	}
	a.put(t, needle.V3, 3, "gone")
	for _, vif := range []string{`{"version":3,"bytesOffset":5}`, `{"version":3,"bytesOffset":4}`, ""} {
		_, s := openAlien(t, map[string][]byte{extDat: a.dat, extIdx: a.wideIdx(), extVif: []byte(vif)})
		v := alienVolume(t, s)
		expect(t, v, 19, []byte("data 19"))
		expect(t, v, 3, nil)
		if files, deleted, _, _, _, _, _ := v.Stats(); files != 20 || deleted != 1 || !strings.Contains(v.Fixed(), "5-byte") {
			t.Errorf("%d files, %d deleted, %q", files, deleted, v.Fixed())
		}
	}
}

// sparse is a volume of SeaweedFS with records at the given offsets, which may be
// past 32 GiB.
func sparse(t *testing.T, at map[int64]*alienFiles) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "7.dat"))
	must(t, err)
	t.Cleanup(func() { f.Close() })
	for off, a := range at {
		_, err := f.WriteAt(a.dat[SuperBlockSize:], off)
		must(t, err)
	}
	_, err = f.WriteAt(newAlien(needle.V3).dat, 0)
	must(t, err)
	return f
}

// Records of volumes past 32 GiB are found where they are; what is deleted or
// overwritten there is, wherever it was before.
func TestVolumesLongerThan32GiB(t *testing.T) {
	t.Parallel()
	low, high, end := newAlien(needle.V3), newAlien(needle.V3), newAlien(needle.V3)
	for k := range volume.Key(4) {
		low.put(t, needle.V3, k, fmt.Sprint("low ", k))
	}
	high.put(t, needle.V3, 1, "high")
	high.put(t, needle.V3, 9, "high 9")
	end.put(t, needle.V3, 2, "gone")
	end.put(t, needle.V3, 9, "gone")
	end.put(t, needle.V3, 4, "end")
	offsets := []int64{SuperBlockSize, farPage + rowUnit, 3*(maxOffset+1) + 800}
	f := sparse(t, map[int64]*alienFiles{offsets[0]: low, offsets[1]: high, offsets[2]: end})
	all := newAlien(needle.V3)
	for i, a := range []*alienFiles{low, high, end} {
		for _, r := range a.rows {
			r.offset += offsets[i] - SuperBlockSize
			all.rows = append(all.rows, r)
		}
	}
	dir := filepath.Dir(f.Name())
	must(t, os.WriteFile(filepath.Join(dir, "7.idx"), all.wideIdx(), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "7.vif"), []byte(`{"bytesOffset":5}`), 0o644))
	s, err := Open(options(vfs.OS{}, dir))
	must(t, err)
	defer s.Close()
	v := alienVolume(t, s)
	for k, want := range map[volume.Key][]byte{0: []byte("low 0"), 1: []byte("high"), 2: nil, 3: []byte("low 3"), 4: []byte("end"), 9: nil} {
		expect(t, v, k, want)
	}
	for k, want := range map[volume.Key]string{2: "low 2", 9: "high 9"} {
		n, err := v.Get(k, cookieOf(k), time.Now(), true)
		if err != nil || string(n.Data) != want {
			t.Fatalf("key %d, deleted: %v", k, err)
		}
		n.Release()
	}
	if files, deleted, _, maxKey, size, _, _ := v.Stats(); files != 7 || deleted != 3 || maxKey != 9 || size != offsets[2]+int64(len(end.dat))-SuperBlockSize {
		t.Errorf("%d files, %d deleted, %d bytes", files, deleted, size)
	}
}

// SeaweedFS appends deletions to a volume of 32 GiB, and their rows wrap.
func TestRowsThatWrapAt32GiB(t *testing.T) {
	t.Parallel()
	first, last := newAlien(needle.V3), newAlien(needle.V3)
	first.put(t, needle.V3, 1, "one")
	first.put(t, needle.V3, 2, "two")
	big := indexRow{5, int64(len(first.dat)), 1 << 20}
	tail := big
	for tail.end(needle.V3) < maxOffset-(1<<30) { // few rows, as large as can be
		tail.size = 1<<30 - 64
		big = tail
		first.rows = append(first.rows, big)
		tail = indexRow{5, big.end(needle.V3), 1 << 20}
	}
	tail.size = int32(maxOffset + 1 - tail.offset)
	first.rows = append(first.rows, tail)
	last.put(t, needle.V3, 2, "gone")
	last.put(t, needle.V3, 3, "")
	f := sparse(t, map[int64]*alienFiles{SuperBlockSize: first, tail.end(needle.V3): last})
	for _, r := range last.rows {
		r.offset += tail.end(needle.V3) - SuperBlockSize
		first.rows = append(first.rows, r) // append keeps 32 bits of it
	}
	dir := filepath.Dir(f.Name())
	must(t, os.WriteFile(filepath.Join(dir, "7.idx"), first.idx(), 0o644))
	s, err := Open(options(vfs.OS{}, dir))
	must(t, err)
	defer s.Close()
	v := alienVolume(t, s)
	expect(t, v, 1, []byte("one"))
	expect(t, v, 2, nil)
	expect(t, v, 3, []byte{})
	if row, ok := v.Lookup(3); !ok || row.Offset != first.rows[len(first.rows)-1].offset {
		t.Errorf("row of the last record: %+v", row)
	}
}

// With the index gone, a damaged record in the middle hides none of those behind
// it, and is not taken for one that never was.
func TestADamagedRecordDoesNotEndTheWalk(t *testing.T) {
	t.Parallel()
	a := newAlien(needle.V3)
	for k := range volume.Key(4) {
		a.put(t, needle.V3, k+1, fmt.Sprint("data ", k+1))
	}
	a.dat[a.rows[1].offset+22] ^= 1 // data of key 2
	a.dat[a.rows[3].offset+22] ^= 1 // of the last one
	_, s := openAlien(t, map[string][]byte{extDat: a.dat})
	v := alienVolume(t, s)
	expect(t, v, 1, []byte("data 1"))
	expect(t, v, 3, []byte("data 3"))
	if _, err := v.Get(2, cookieOf(2), time.Now(), false); !errors.Is(err, volume.ErrCorrupt) {
		t.Errorf("the damaged one: %v", err)
	}
	expect(t, v, 4, nil) // at the end nothing shows that it was ever whole
}

// What a client wrote into a file is never taken for a record, though a row that
// does not fit leaves a gap there.
func TestRecordsWithinFilesAreNotFound(t *testing.T) {
	t.Parallel()
	inner := newAlien(needle.V3)
	inner.put(t, needle.V3, 66, "not a file")
	a := newAlien(needle.V3)
	a.put(t, needle.V3, 1, "1234"+string(inner.dat)+strings.Repeat("x", 60))
	a.put(t, needle.V3, 2, "two")
	for name, change := range map[string]func(r *indexRow){
		"the row of a deletion that names the data": func(r *indexRow) { r.size = -1 },
		"a row of another key":                      func(r *indexRow) { r.key, r.size = 4, 0 },
		"a row that is too short":                   func(r *indexRow) { r.size = 0 },
	} {
		b := *a
		b.rows = append([]indexRow(nil), a.rows...)
		change(&b.rows[0])
		_, s := openAlien(t, map[string][]byte{extDat: a.dat, extIdx: b.idx()})
		v := alienVolume(t, s)
		if row, ok := v.Lookup(66); ok {
			t.Errorf("%s: found at %d", name, row.Offset)
		}
		expect(t, v, 2, []byte("two"))
	}
}

// The records of version 3 under an older super block are known as such without
// an index, too.
func TestTheVersionIsFoundWithoutAnIndex(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ says, is needle.Version }{{needle.V1, needle.V3}, {needle.V2, needle.V3}, {needle.V2, needle.V2}, {needle.V1, needle.V1}} {
		a := newAlien(c.says)
		for k := range volume.Key(5) {
			a.put(t, c.is, k+1, strings.Repeat("x", int(k)+1))
		}
		_, s := openAlien(t, map[string][]byte{extDat: a.dat})
		v := alienVolume(t, s)
		if v.Version() != c.is {
			t.Errorf("version %d, said to be %d: %d", c.is, c.says, v.Version())
		}
		expect(t, v, 5, []byte("xxxxx"))
	}
}

// A decided compaction takes away what was made of the old index.
func TestAFinishedCompactionRemovesDerivedIndexes(t *testing.T) {
	t.Parallel()
	a := newAlien(needle.V3)
	a.put(t, needle.V3, 1, "one")
	fs := faultfs.New(1)
	must(t, fs.Mkdir("/d"))
	must(t, fs.Mkdir("/d/7.ldb"))
	for name, b := range map[string][]byte{"7.dat": a.dat[:8], "7.cpd": a.dat, "7.cpx": a.idx(), "7.cpc": nil, "7.rdb": nil, "7.ldb/LOG": nil} {
		must(t, vfs.Write(fs, "/d/"+name, b))
	}
	s := openStore(t, fs)
	expect(t, alienVolume(t, s), 1, []byte("one"))
	names, err := fs.ReadDir("/d")
	must(t, err)
	if got := strings.Join(names, " "); got != ".weedd-disk 7.dat 7.idx vol_dir.uuid" {
		t.Errorf("files: %s", got)
	}
}

const codedVif = `{"version":3,"datFileSize":"%d","expireAtSec":"0","ecShardConfig":{"dataShards":2,"parityShards":1,"encodeTsNs":"%d"}}`

// code cuts a volume into two data shards and one for parity.
func (a *alienFiles) code(t testing.TB) map[string][]byte {
	t.Helper()
	enc, err := reedsolomon.New(2, 1)
	must(t, err)
	shards := [][]byte{make([]byte, 1<<20), make([]byte, 1<<20), make([]byte, 1<<20)}
	copy(shards[1], a.dat[copy(shards[0], a.dat):])
	must(t, enc.Encode(shards))
	return map[string][]byte{
		".ec00": shards[0], ".ec01": shards[1], ".ec02": shards[2], extErasure: a.idx(),
		extVif: fmt.Appendf(nil, codedVif, len(a.dat), 1),
	}
}

func newCoded(t testing.TB) (*alienFiles, map[string][]byte) {
	t.Helper()
	a := newAlien(needle.V3)
	a.put(t, needle.V3, 1, "one")
	a.put(t, needle.V3, 2, strings.Repeat("two ", 1<<18))
	a.put(t, needle.V3, 3, "three")
	return a, a.code(t)
}

func TestCodedVolumes(t *testing.T) {
	t.Parallel()
	two := []byte(strings.Repeat("two ", 1<<18))
	expires := strings.Replace(fmt.Sprintf(codedVif, 1<<20+128, 1), `"expireAtSec":"0"`, `"expireAtSec":"1000"`, 1)
	for name, c := range map[string]struct {
		change func(a *alienFiles, files map[string][]byte)
		served bool
		want   map[volume.Key][]byte
	}{
		"whole":                 {func(*alienFiles, map[string][]byte) {}, true, map[volume.Key][]byte{1: []byte("one"), 2: two, 3: []byte("three")}},
		"without one shard":     {func(_ *alienFiles, f map[string][]byte) { delete(f, ".ec00") }, true, map[volume.Key][]byte{1: []byte("one"), 2: two, 3: []byte("three")}},
		"without two":           {func(_ *alienFiles, f map[string][]byte) { delete(f, ".ec00"); delete(f, ".ec02") }, false, nil},
		"with a bad shard":      {func(_ *alienFiles, f map[string][]byte) { f[".ec01"][0] ^= 1 }, true, map[volume.Key][]byte{2: two, 3: []byte("three")}},
		"with bad checksums":    {func(_ *alienFiles, f map[string][]byte) { f[extSums] = []byte("ECSU") }, true, map[volume.Key][]byte{3: []byte("three")}},
		"with deletions":        {func(_ *alienFiles, f map[string][]byte) { f[extDeleted] = []byte{7: 3, 8: 1} }, true, map[volume.Key][]byte{1: []byte("one"), 3: nil}},
		"with folded deletions": {func(a *alienFiles, f map[string][]byte) { a.rows[0].size = -1; f[extErasure] = a.idx() }, true, map[volume.Key][]byte{1: nil, 2: two}},
		"with wide rows":        {func(a *alienFiles, f map[string][]byte) { f[extErasure] = a.wideIdx() }, true, map[volume.Key][]byte{1: []byte("one"), 3: []byte("three")}},
		"with a stub":           {func(a *alienFiles, f map[string][]byte) { f[extDat] = a.dat[:8] }, true, map[volume.Key][]byte{2: two}},
		"with its .dat":         {func(a *alienFiles, f map[string][]byte) { f[extDat], f[extIdx] = a.dat, nil }, true, map[volume.Key][]byte{2: two}},
		"expired":               {func(_ *alienFiles, f map[string][]byte) { f[extVif] = []byte(expires) }, true, map[volume.Key][]byte{1: nil, 2: nil}},
		"with rows past its end": {func(a *alienFiles, f map[string][]byte) {
			a.rows[2].offset += 1 << 21
			f[extErasure] = a.idx()
		}, false, nil},
		"with rows in no order": {func(a *alienFiles, f map[string][]byte) {
			a.rows[0], a.rows[1] = a.rows[1], a.rows[0]
			f[extErasure] = a.idx()
		}, false, nil},
		"with an unfinished copy of its .dat": {func(a *alienFiles, f map[string][]byte) { f[extDat], f[extNote] = a.dat[:200], nil }, true, map[volume.Key][]byte{2: two}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, files := newCoded(t)
			c.change(a, files)
			_, s := openAlien(t, files)
			if !c.served {
				if len(s.Volumes()) != 0 || len(s.Aside()) != 1 {
					t.Fatalf("%d volumes, set aside: %v", len(s.Volumes()), s.Aside())
				}
				return
			}
			v := alienVolume(t, s)
			for k, want := range c.want {
				expect(t, v, k, want)
			}
			if err := v.Append(nil); !v.Foreign() || !strings.Contains(v.Fixed(), "erasure-coded") || !errors.Is(err, volume.ErrReadOnly) {
				t.Errorf("%q, append: %v", v.Fixed(), err)
			}
			must(t, v.Scrub(t.Context(), Scrub{Found: func(d Damage) { t.Errorf("scrub tells of %+v", d) }}))
			if v.Fixed() != "" && v.End() != int64(len(a.dat)) {
				t.Errorf("%d bytes, want %d", v.End(), len(a.dat))
			}
		})
	}
}

// Shards shorter than those of the .dat beside them are of an encoding that was
// not finished, and so is an .ecx without any: the .dat is the volume.
func TestUnfinishedCoding(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(files map[string][]byte){
		"short shards": func(f map[string][]byte) {
			for _, ext := range []string{".ec00", ".ec01", ".ec02"} {
				f[ext] = f[ext][:1<<19]
			}
		},
		"no shards":        func(f map[string][]byte) { delete(f, ".ec00"); delete(f, ".ec01"); delete(f, ".ec02") },
		"shards, no index": func(f map[string][]byte) { delete(f, extErasure) },
	} {
		a, files := newCoded(t)
		files[extDat], files[extIdx] = a.dat, a.idx()
		change(files)
		fs, s := openAlien(t, files)
		v := alienVolume(t, s)
		expect(t, v, 3, []byte("three"))
		if v.Fixed() != "" {
			t.Errorf("%s: %s", name, v.Fixed())
		}
		for ext := range files {
			if there, err := vfs.Exists(fs, "/d/7"+ext); err != nil || !there {
				t.Errorf("%s: %s is gone: %v", name, ext, err)
			}
		}
	}
}

// The shards may lie on several disks of a node; those of another run of the
// encoder are not mixed in.
func TestShardsOnSeveralDisks(t *testing.T) {
	t.Parallel()
	for run, served := range map[int]bool{1: true, 2: false} {
		a, files := newCoded(t)
		fs := faultfs.New(1)
		for _, d := range []string{"/d", "/e"} {
			must(t, fs.Mkdir(d))
		}
		for ext, b := range files {
			d := "/d/7"
			if ext == ".ec00" || ext == ".ec01" {
				d = "/e/7"
			}
			must(t, vfs.Write(fs, d+ext, b))
		}
		must(t, vfs.Write(fs, "/e/7.vif", fmt.Appendf(nil, codedVif, len(a.dat), run)))
		s, err := Open(options(fs, "/e", "/d"))
		must(t, err)
		if !served {
			if len(s.Volumes()) != 0 || len(s.Aside()) != 1 {
				t.Errorf("run %d: %d volumes, set aside %v", run, len(s.Volumes()), s.Aside())
			}
		} else {
			expect(t, alienVolume(t, s), 3, []byte("three"))
		}
		must(t, s.Close())
	}
}

// A volume of ours that SeaweedFS began to cut is no longer only ours.
func TestACodedVolumeOfOursIsSetAside(t *testing.T) {
	t.Parallel()
	fs := faultfs.New(1)
	must(t, fs.Mkdir("/d"))
	s := openStore(t, fs)
	_, err := s.Create(7, volume.Spec{}, 70)
	must(t, err)
	must(t, s.Close())
	must(t, vfs.Write(fs, "/d/7.ecx", nil))
	s = openStore(t, fs)
	if len(s.Volumes()) != 0 || len(s.Aside()) != 1 || !strings.Contains(s.Aside()[0].Reason, "erasure-code") {
		t.Errorf("%d volumes, set aside: %v", len(s.Volumes()), s.Aside())
	}
}

// What SeaweedFS was told of a volume is kept.
func TestReadOnlyMarks(t *testing.T) {
	t.Parallel()
	a := newAlien(needle.V3)
	a.put(t, needle.V3, 1, "one")
	for vif, want := range map[string]bool{`{"readOnly":true}`: true, `{"read_only":true}`: true, `{"readOnly":false}`: false, `{"readOnly":true,"extra":1}`: false} {
		_, s := openAlien(t, map[string][]byte{extDat: a.dat, extIdx: a.idx(), extVif: []byte(vif)})
		if v := alienVolume(t, s); v.Marked() != want {
			t.Errorf("%s: %v", vif, v.Marked())
		}
	}
}
