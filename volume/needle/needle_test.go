package needle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"weedd/volume"
)

const vectors = "../store/testdata/vectors/"

// golden is a volume file that SeaweedFS wrote, with the records it consists of.
type golden struct {
	version Version
	dat     []byte
	records []struct {
		Offset int64
		Size   int32
		Length int64 `json:"disk_size"`
		Kind   string
	}
}

func readGolden(t testing.TB, name string) golden {
	t.Helper()
	var m struct {
		Volumes []struct {
			Version Version
			Base    string `json:"base_name"`
			Records json.RawMessage
		}
	}
	b, err := os.ReadFile(vectors + name + "/manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	g := golden{version: m.Volumes[0].Version}
	if err := json.Unmarshal(m.Volumes[0].Records, &g.records); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(vectors + name + "/files.tar.gz")
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
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(h.Name, m.Volumes[0].Base+".dat") {
			if g.dat, err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
			return g
		}
	}
}

// Every record that SeaweedFS wrote is read, and written again it is the same
// bytes, padding included.
func TestGoldenRecordsAreWrittenAgainByteForByte(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"v1-basic", "v2-basic", "v3-basic"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := readGolden(t, name)
			pos := int64(8)
			for _, r := range g.records {
				if r.Offset != pos || Length(r.Size, g.version) != r.Length {
					t.Fatalf("record at %d: expected at %d, length %d is not %d", r.Offset, pos, Length(r.Size, g.version), r.Length)
				}
				rec := g.dat[r.Offset : r.Offset+r.Length]
				pos += r.Length
				var n Needle
				if err := n.Decode(rec, g.version); err != nil {
					t.Fatalf("record at %d: %v", r.Offset, err)
				}
				again, err := AppendVersion(nil, &n, g.version)
				if err != nil || !bytes.Equal(again, rec) {
					t.Fatalf("record at %d, written again (%v):\n%x\nwas\n%x", r.Offset, err, again, rec)
				}
				if g.version == V3 {
					if err := n.DecodeStrict(rec); err != nil {
						t.Fatalf("record at %d: %v", r.Offset, err)
					}
				}
			}
			if pos != int64(len(g.dat)) {
				t.Fatalf("records end at %d, the file at %d", pos, len(g.dat))
			}
		})
	}
}

func TestLengthNeverLacksPadding(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		size int32
		v    Version
		want int64
	}{
		{0, V1, 24}, {0, V2, 24}, {0, V3, 32},
		{4, V3, 40}, // would end on 32: gets 8 more
		{49, V3, 80}, {12, V2, 40}, {3, V1, 24}, {4, V1, 32},
	} {
		if got := Length(c.size, c.v); got != c.want {
			t.Errorf("Length(%d, %d) = %d, want %d", c.size, c.v, got, c.want)
		}
	}
}

func TestChecksumForms(t *testing.T) {
	t.Parallel()
	sum := Checksum([]byte("123456789"))
	if sum != 0xE3069283 || legacy(sum) != 0xC78AB0E5 {
		t.Fatalf("checksum %x, old form %x", sum, legacy(sum))
	}
	rec, err := Append(nil, &Needle{Key: 1, Data: []byte("123456789"), AppendedAt: 1})
	if err != nil {
		t.Fatal(err)
	}
	at := HeaderSize + int(ParseHeader(rec).Size)
	var n Needle
	binary.BigEndian.PutUint32(rec[at:], legacy(sum))
	if err := n.Decode(rec, V3); err != nil || n.Checksum != sum {
		t.Fatalf("old form: checksum %x, %v", n.Checksum, err)
	}
	if n.DecodeStrict(rec) == nil {
		t.Fatal("the old form passes for one of ours")
	}
	binary.BigEndian.PutUint32(rec[at:], sum+1)
	if err := n.Decode(rec, V3); !errors.Is(err, errChecksum) {
		t.Fatalf("wrong checksum: %v", err)
	}
}

func TestTombstonesOfOursAreCertain(t *testing.T) {
	t.Parallel()
	for _, sum := range []uint32{0, 7} {
		rec, err := Append(nil, &Needle{Key: 5, Cookie: 6, Tombstone: true, Checksum: sum, AppendedAt: 1})
		if err != nil || len(rec) != 32 {
			t.Fatal(len(rec), err)
		}
		var n Needle
		if err := n.DecodeStrict(rec); err != nil || !n.Tombstone || n.Checksum == 0 {
			t.Fatalf("%+v, %v", n, err)
		}
	}
	rec, err := Append(nil, &Needle{Key: 5, Cookie: 6, Name: []byte("lost"), Flags: FlagName, AppendedAt: 1})
	if err != nil || len(rec) != 32 {
		t.Fatal(len(rec), err)
	}
	var n Needle
	if err := n.DecodeStrict(rec); err != nil || n.Tombstone || n.Checksum != 0 || n.Flags != 0 {
		t.Fatalf("empty file: %+v, %v", n, err)
	}
}

func TestTooLargeForTheFormat(t *testing.T) {
	t.Parallel()
	for name, n := range map[string]Needle{
		"name":     {Data: []byte("x"), Name: make([]byte, 256)},
		"mime":     {Data: []byte("x"), Mime: make([]byte, 256)},
		"pairs":    {Data: []byte("x"), Pairs: make([]byte, 65536)},
		"modified": {Data: []byte("x"), Modified: 1 << 40},
	} {
		if _, err := Append(nil, &n); !errors.Is(err, volume.ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A flag whose field is missing because the body ends there is no error; a
// length that runs past the body is.
func TestBodyThatEndsEarly(t *testing.T) {
	t.Parallel()
	body := func(rest ...byte) []byte {
		b := append([]byte{0, 0, 0, 1, 'x'}, rest...)
		rec := make([]byte, 12, 64)
		rec = binary.BigEndian.AppendUint32(rec, uint32(len(b)))
		rec = binary.BigEndian.AppendUint32(append(rec, b...), Checksum([]byte("x")))
		return append(rec, make([]byte, 16)...)
	}
	var n Needle
	if err := n.Decode(body(byte(FlagName|FlagMime|FlagPairs)), V3); err != nil {
		t.Fatalf("flags without fields: %v", err)
	}
	for _, rest := range [][]byte{{byte(FlagName), 2, 'a'}, {byte(FlagModified), 1, 2, 3}, {byte(FlagPairs), 0}, {byte(FlagTTL), 1}} {
		if err := n.Decode(body(rest...), V3); !errors.Is(err, errBody) {
			t.Errorf("%x: %v", rest, err)
		}
	}
}

// What is written is read again, in every version, with what it keeps.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := func(name string, most int) []byte { return rapid.SliceOfN(rapid.Byte(), 0, most).Draw(t, name) }
		n := Needle{
			Key: volume.Key(rapid.Uint64().Draw(t, "key")), Cookie: volume.Cookie(rapid.Uint32().Draw(t, "cookie")),
			Flags: Flags(rapid.Byte().Draw(t, "flags")), Data: text("data", 100), Name: text("name", 255), Mime: text("mime", 255),
			Pairs: text("pairs", 500), Modified: rapid.Uint64Range(0, maxModified).Draw(t, "modified"),
			TTL: volume.TTL{Count: 3, Unit: 4}, AppendedAt: rapid.Uint64().Draw(t, "time"),
		}
		for _, v := range []Version{V1, V2, V3} {
			rec, err := AppendVersion([]byte("before"), &n, v)
			rec = rec[len("before"):]
			if err != nil || len(rec)%Align != 0 || int64(len(rec)) != Length(int32(n.BodySize(v)), v) {
				t.Fatalf("%d bytes, %v", len(rec), err)
			}
			var got Needle
			if err := got.Decode(rec, v); err != nil {
				t.Fatal(err)
			}
			again, err := AppendVersion(nil, &got, v)
			if err != nil || !bytes.Equal(rec, again) || !bytes.Equal(got.Data, n.Data) || got.Key != n.Key || got.Cookie != n.Cookie {
				t.Fatalf("version %d: %+v, was %+v: %v", v, got, n, err)
			}
			if v != V1 && len(n.Data) > 0 && n.Has(FlagPairs) && !bytes.Equal(got.Pairs, n.Pairs) {
				t.Fatal("pairs differ")
			}
		}
	})
}

func TestPoolGivesBuffersOfTheRightSize(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 512, 513, 4 << 20, 4<<20 + 1} {
		n, buf := Get(size)
		if len(buf) != size {
			t.Errorf("Get(%d) gave %d", size, len(buf))
		}
		n.Release()
	}
	new(Needle).Release()
}

func FuzzDecode(f *testing.F) {
	for _, name := range []string{"v1-basic", "v2-basic", "v3-basic"} {
		g := readGolden(f, name)
		for _, r := range g.records {
			f.Add(g.dat[r.Offset:r.Offset+r.Length], byte(g.version-1))
		}
	}
	f.Fuzz(func(t *testing.T, rec []byte, version byte) {
		v := Version(version%3 + 1)
		var n Needle
		if n.Decode(rec, v) != nil {
			return
		}
		if again, err := AppendVersion(nil, &n, v); err != nil {
			t.Fatalf("read but not written: %v", err)
		} else if err := new(Needle).Decode(again, v); err != nil {
			t.Fatalf("written but not read: %v", err)
		}
		if v != V3 || n.DecodeStrict(rec) != nil {
			return
		}
		if again, err := Append(nil, &n); err != nil || !bytes.Equal(again, rec) {
			t.Fatalf("strict, yet written differently: %x, was %x, %v", again, rec, err)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	n := Needle{Key: 1, Data: make([]byte, 1024), Name: []byte("photo.jpg"), Flags: FlagName}
	buf := make([]byte, 0, 2048)
	b.SetBytes(1024)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Append(buf, &n); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	rec, err := Append(nil, &Needle{Key: 1, Data: make([]byte, 1024), Name: []byte("photo.jpg"), Flags: FlagName})
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(1024)
	b.ReportAllocs()
	var n Needle
	for b.Loop() {
		if err := n.Decode(rec, V3); err != nil {
			b.Fatal(err)
		}
	}
}
