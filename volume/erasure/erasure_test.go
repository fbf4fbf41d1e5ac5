package erasure

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/reedsolomon"

	"weedd/volume"
	"weedd/volume/vfs"
)

// golden is a volume that SeaweedFS has cut into shards. Tests that change a
// shard write it elsewhere.
type golden struct {
	dir  string
	dat  []byte
	sums []byte
}

func (g *golden) options() Options {
	o := Options{FS: vfs.OS{}, Data: 10, Parity: 4, Size: int64(len(g.dat)), Shards: map[int]string{}}
	for i := range 14 {
		o.Shards[i] = filepath.Join(g.dir, fmt.Sprintf("ec%02d", i))
	}
	return o
}

// damaged makes another shard i, out of the one there is.
func (g *golden) damaged(t *testing.T, o Options, i int, damage func(b []byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(o.Shards[i])
	must(t, err)
	o.Shards[i] = filepath.Join(t.TempDir(), "shard")
	must(t, os.WriteFile(o.Shards[i], damage(b), 0o644))
}

func openGolden(t *testing.T, name string) *golden {
	t.Helper()
	g := &golden{dir: t.TempDir()}
	f, err := os.Open("../store/testdata/vectors/" + name + "/files.tar.gz")
	must(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	must(t, err)
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return g
		}
		must(t, err)
		b := make([]byte, h.Size)
		_, err = io.ReadFull(r, b)
		must(t, err)
		switch ext := filepath.Ext(h.Name); {
		case h.Name[:6] == "source" && ext == ".dat":
			g.dat = b
		case ext == ".ecsum":
			g.sums = b
		case strings.HasPrefix(ext, ".ec") && len(ext) == 5:
			must(t, os.WriteFile(filepath.Join(g.dir, ext[1:]), b, 0o644))
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// same reads the whole .dat, and a few pieces of it.
func (g *golden) same(t *testing.T, f *File) {
	t.Helper()
	got := make([]byte, len(g.dat)+10)
	if n, err := f.ReadAt(got, 0); n != len(g.dat) || !errors.Is(err, io.EOF) || !bytes.Equal(got[:n], g.dat) {
		t.Fatalf("%d bytes, want %d: %v", n, len(g.dat), err)
	}
	for off := int64(5); off < int64(len(g.dat)); off += smallBlock - 1 {
		p := make([]byte, min(99, int64(len(g.dat))-off))
		if _, err := f.ReadAt(p, off); err != nil || !bytes.Equal(p, g.dat[off:off+int64(len(p))]) {
			t.Fatalf("at %d: %v", off, err)
		}
	}
}

// The shards of one volume, whole, in part and damaged, read as the file that
// they were cut from.
func TestShardsReadAsTheFileTheyWereCutFrom(t *testing.T) {
	t.Parallel()
	g := openGolden(t, "ec-small")
	for name, test := range map[string]func(*testing.T, *golden){
		"whole": wholeSet, "any four missing": fourMissing, "disks that fail": failingDisks, "another length": otherLength,
		"size not known": unknownSize, "bad shards": badShards, "not written": notWritten,
	} {
		t.Run(name, func(t *testing.T) { test(t, g) })
	}
}

func wholeSet(t *testing.T, g *golden) {
	f, err := Open(g.options())
	must(t, err)
	g.same(t, f)
	if here, all := f.Shards(); here != 14 || all != 14 {
		t.Errorf("%d of %d shards", here, all)
	}
	must(t, f.Close())
	if _, err := f.ReadAt(make([]byte, 8), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func fourMissing(t *testing.T, g *golden) {
	for _, gone := range [][]int{{0, 1, 2, 3}, {0, 3, 10, 13}, {6, 7, 8, 9}, {10, 11, 12, 13}, {1}} {
		o := g.options()
		for _, i := range gone {
			delete(o.Shards, i)
		}
		f, err := Open(o)
		must(t, err)
		g.same(t, f)
		must(t, f.Close())
	}
	o := g.options()
	for i := range 5 {
		delete(o.Shards, i)
	}
	if _, err := Open(o); !errors.Is(err, volume.ErrUnavailable) || !strings.Contains(err.Error(), "9 of 14") {
		t.Errorf("five shards missing: %v", err)
	}
}

// failing is a disk on which some files cannot be read.
type failing struct {
	vfs.FS
	names []string
}

type failingFile struct{ vfs.File }

func (failingFile) ReadAt([]byte, int64) (int, error) { return 0, errors.New("I/O error") }

func (fs failing) OpenFile(path string, flag int) (vfs.File, error) {
	f, err := fs.FS.OpenFile(path, flag)
	if slices.Contains(fs.names, filepath.Base(path)) {
		f = failingFile{f}
	}
	return f, err
}

// A disk that fails is as one that is missing.
func failingDisks(t *testing.T, g *golden) {
	for _, names := range [][]string{{"ec00", "ec11"}, {"ec00", "ec01", "ec02", "ec03", "ec04"}} {
		o := g.options()
		o.FS = failing{vfs.OS{}, names}
		f, err := Open(o)
		must(t, err)
		if len(names) < 5 {
			g.same(t, f)
		} else if _, err := f.ReadAt(make([]byte, 8), 0); !errors.Is(err, volume.ErrUnavailable) {
			t.Errorf("with five failing: %v", err)
		}
		must(t, f.Close())
	}
}

func otherLength(t *testing.T, g *golden) {
	o := g.options()
	g.damaged(t, o, 2, func(b []byte) []byte { return b[8:] })
	f, err := Open(o)
	must(t, err)
	defer f.Close()
	g.same(t, f)
	if here, _ := f.Shards(); here != 13 {
		t.Errorf("%d shards are used", here)
	}
}

func unknownSize(t *testing.T, g *golden) {
	o := g.options()
	o.Size = 0
	f, err := Open(o)
	must(t, err)
	defer f.Close()
	got := make([]byte, len(g.dat))
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, g.dat) {
		t.Fatalf("other bytes: %v", err)
	}
	if size, _ := f.Size(); size != 10*smallBlock {
		t.Errorf("size %d", size)
	}
}

// Shards with other bytes than the checksums say are not used once they were
// checked; others may be left out by the reader.
func badShards(t *testing.T, g *golden) {
	o := g.options()
	for _, i := range []int{1, 12} {
		g.damaged(t, o, i, func(b []byte) []byte {
			b[77] ^= 1
			return b
		})
	}
	f, err := Open(o)
	must(t, err)
	p := make([]byte, 200)
	at := int64(smallBlock)
	if _, err := f.ReadAt(p, at); err != nil || bytes.Equal(p, g.dat[at:at+200]) || f.Check(at, 200) {
		t.Fatalf("without checksums: %v", err)
	}
	if _, err := f.ReadWithout(p, at, 1); err != nil || !bytes.Equal(p, g.dat[at:at+200]) {
		t.Fatalf("without the bad shard: %v", err)
	}
	if list := f.Touched(at-8, 16); !reflect.DeepEqual(list, []int{0, 1}) {
		t.Errorf("touched: %v", list)
	}
	must(t, f.Close())
	o.Sums, err = ParseSums(g.sums)
	must(t, err)
	f, err = Open(o)
	must(t, err)
	defer f.Close()
	if !f.Check(at, 200) {
		t.Fatal("nothing is bad")
	}
	g.same(t, f)
}

func notWritten(t *testing.T, g *golden) {
	f, err := Open(g.options())
	must(t, err)
	defer f.Close()
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, volume.ErrReadOnly) {
		t.Errorf("write: %v", err)
	}
	if err := f.Truncate(0); !errors.Is(err, volume.ErrReadOnly) {
		t.Errorf("truncate: %v", err)
	}
	must(t, f.Sync())
	g.same(t, f)
}

// Where SeaweedFS looks for a piece of a volume of up to 31 GiB.
func TestLocateAgreesWithSeaweedFS(t *testing.T) {
	t.Parallel()
	var m struct {
		Parity [][]string `json:"parity_rows"`
		Cases  []struct {
			Size      int64 `json:"dat_size"`
			Offset    int64
			Length    int64
			Intervals [][3]int64
		}
	}
	b, err := os.ReadFile("testdata/locate.json")
	must(t, err)
	must(t, json.Unmarshal(b, &m))
	for _, c := range m.Cases {
		g := layout(10, c.Size, largeBlock, smallBlock)
		if guess := layoutOf(10, g.length, largeBlock, smallBlock); guess.rows != g.rows && c.Size%(10*largeBlock) != 0 {
			t.Errorf("size %d: %d large rows, guessed %d", c.Size, g.rows, guess.rows)
		}
		var got [][3]int64
		for off := c.Offset; off < c.Offset+c.Length; {
			shard, at, left := g.locate(off)
			left = min(left, c.Offset+c.Length-off)
			got = append(got, [3]int64{int64(shard), at, left})
			off += left
		}
		if !reflect.DeepEqual(got, c.Intervals) {
			t.Errorf("%d bytes at %d of %d: %v, want %v", c.Length, c.Offset, c.Size, got, c.Intervals)
		}
	}
	if len(m.Cases) == 0 || len(m.Parity) != 4 {
		t.Fatalf("%d cases, %d rows", len(m.Cases), len(m.Parity))
	}
	code, err := reedsolomon.New(10, 4)
	must(t, err)
	shards := make([][]byte, 14)
	for i := range shards {
		shards[i] = make([]byte, 10)
		if i < 10 {
			shards[i][i] = 1
		}
	}
	must(t, code.Encode(shards))
	for i, row := range m.Parity {
		if got := hex.EncodeToString(shards[10+i]); got != strings.Join(row, "") {
			t.Errorf("parity row %d: %s", i, got)
		}
	}
}

// Every byte of volumes with rows of both kinds of blocks is where the cutting
// put it.
func TestLocateInvertsCutting(t *testing.T) {
	t.Parallel()
	const large, small = 40, 8
	for data := int64(1); data <= 4; data++ {
		for size := range 3*data*large + 5 {
			g := layout(data, size, large, small)
			dat := make([]byte, size)
			for i := range dat {
				dat[i] = byte(rand.Uint32())
			}
			shards, block := make([][]byte, data), int64(large)
			for rest := dat; len(rest) > 0; {
				if int64(len(rest)) < data*large {
					block = small
				}
				for i := range shards {
					n := min(block, int64(len(rest)))
					shards[i] = append(append(shards[i], rest[:n]...), make([]byte, block-n)...)
					rest = rest[n:]
				}
			}
			if size > 0 && int64(len(shards[0])) != g.length {
				t.Fatalf("size %d: shards of %d bytes, want %d", size, g.length, len(shards[0]))
			}
			for off := int64(0); off < size; {
				shard, at, left := g.locate(off)
				left = min(left, size-off)
				if !bytes.Equal(shards[shard][at:at+left], dat[off:off+left]) {
					t.Fatalf("size %d: %d bytes at %d are not at %d of shard %d", size, left, off, at, shard)
				}
				off += left
			}
		}
	}
}

func FuzzParseSums(f *testing.F) {
	f.Add([]byte("ECSU\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00"))
	for _, body := range [][]byte{
		{8, 1, 16, 0x80, 0x80, 0x40, 42, 12, 8, 3, 16, 0x80, 0x80, 0x40, 26, 4, 1, 2, 3, 4},
		{8, 1, 16, 0x80, 0x80, 0x40, 42, 6, 8, 3, 16, 1, 26, 0}, {9, 1, 2, 3, 4, 5, 6, 7, 8, 13, 1, 2, 3, 4},
	} {
		f.Add(append(make([]byte, sumsHeader), body...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= sumsHeader { // as if it had been written so
			head := fmt.Appendf(nil, "%s\x00\x01", sumsMagic)
			body := b[sumsHeader:]
			head = appendUint32(appendUint32(head, uint32(len(body))), checksum(body))
			b = append(head, body...)
		}
		s, err := ParseSums(b)
		if err != nil {
			return
		}
		for i, sums := range s.shards {
			if i < 0 || i >= MaxShards || int64(len(sums)-1)*s.block >= s.sizes[i] && len(sums) > 0 {
				t.Fatalf("shard %d: %d sums of %d bytes", i, len(sums), s.sizes[i])
			}
		}
	})
}

func appendUint32(b []byte, n uint32) []byte { return binary.BigEndian.AppendUint32(b, n) }

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }
