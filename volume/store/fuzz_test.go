package store

import (
	"bytes"
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"weedd/volume"
	"weedd/volume/erasure"
	"weedd/volume/needle"
	"weedd/volume/vfs"
	"weedd/volume/vfs/faultfs"
)

func FuzzDecodeCopy(f *testing.F) {
	f.Add(encodeCopy(7, 70, nil))
	f.Add(encodeCopy(7, 70, []volume.EpochStart{{Epoch: 1, Start: 8}, {Epoch: 2, Start: 1 << 34, Generation: 3}}))
	f.Add(encodeCopy(7, 70, []volume.EpochStart{{Epoch: 1, Start: 8}})[:40])
	f.Fuzz(func(t *testing.T, b []byte) {
		c, epochs, err := decodeCopy(b, 7)
		if err != nil {
			return
		}
		c2, again, err := decodeCopy(encodeCopy(7, c, epochs), 7)
		if err != nil || c2 != c || !slices.Equal(again, epochs) {
			t.Fatalf("%v, was %v: %v", again, epochs, err)
		}
	})
}

func FuzzDecodeCheckpoint(f *testing.F) {
	c := checkpoint{volume: 7, copy: 70, durable: 3 << 20, committed: 2<<20 + 8, rows: 5, boot: 1, sums: sums{blocks: []uint32{1, 2}, last: 3}}
	f.Add(c.encode())
	f.Add((&checkpoint{durable: 8, committed: 8}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= 4 { // as if it had been written so
			b = appendSum(bytes.Clone(b[:len(b)-4]), 0)
		}
		c, err := decodeCheckpoint(b)
		if err != nil {
			return
		}
		if again, err := decodeCheckpoint(c.encode()); err != nil || !reflect.DeepEqual(again, c) {
			t.Fatalf("%+v, was %+v: %v", again, c, err)
		}
	})
}

func FuzzDecodeMark(f *testing.F) {
	m := mark{
		Compaction: Compaction{Generation: 3, At: 1 << 20, Clock: clock}, end: 5 << 20,
		ckpt: checkpoint{volume: 7, copy: 70, durable: 2<<20 + 8, committed: 2<<20 + 8, rows: 5, sums: sums{blocks: []uint32{1, 2}, last: 3}},
	}
	f.Add(m.encode())
	f.Add(m.encode()[:60])
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= 4 { // as if it had been written so
			b = appendSum(bytes.Clone(b[:len(b)-4]), 0)
		}
		m, err := decodeMark(b)
		if err != nil {
			return
		}
		if again, err := decodeMark(m.encode()); err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("%+v, was %+v: %v", again, m, err)
		}
	})
}

func FuzzParseVif(f *testing.F) {
	f.Add(newVif(volume.TTL{}, options(nil).Now()))
	f.Add([]byte(`{"bytes_offset":"5","files":[{}],"replication":"011"}`))
	f.Add(fmt.Appendf(nil, codedVif, 1<<20, 5))
	f.Add([]byte(`{"ecShardConfig":{"data_shards":40,"parityShards":"-1"},"datFileSize":-3}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := parseVif(b)
		if err == nil && v.placement != nil && v.placement.Copies() < 1 {
			t.Fatal("impossible placement")
		}
		if data, parity := v.counts(); data < 1 || parity < 0 || data+parity > erasure.MaxShards || v.datSize < 0 {
			t.Fatalf("%d and %d shards of %d bytes", data, parity, v.datSize)
		}
	})
}

// Rows of either width are what they are written as.
func FuzzDecodeRow(f *testing.F) {
	f.Add(append(indexRow{1, 8, 20}.append(nil), 0))
	f.Add(append(indexRow{^volume.Key(0), maxOffset - 7, -1}.append(nil), 0))
	f.Add(append(indexRow{5, 0, 0}.append(nil), 9))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < wideRowSize {
			return
		}
		r := decodeRow(b)
		if r.offset < 0 || r.offset > maxOffset || r.size < -1 || r.offset == 0 && r.size >= 0 {
			t.Fatalf("%+v", r)
		}
		if again := decodeRow(r.append(nil)); again != r {
			t.Fatalf("%+v, was %+v", again, r)
		}
		wide := decodeWideRow(b)
		if wide.offset < 0 || wide.offset >= 1<<43 || wide.size < -1 || wide.offset == 0 && wide.size >= 0 {
			t.Fatalf("%+v", wide)
		}
		if again := decodeWideRow((&alienFiles{rows: []indexRow{wide}}).wideIdx()); again != wide {
			t.Fatalf("%+v, was %+v", again, wide)
		}
	})
}

func FuzzDecodeSuperBlock(f *testing.F) {
	f.Add([]byte{3, 1, 5, 1, 0, 7, 0, 0})
	f.Add([]byte{1, 255, 255, 255, 255, 255, 0, 8})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < SuperBlockSize {
			return
		}
		s, err := decodeSuperBlock(b)
		if again := s.encode(); err == nil && !bytes.Equal(again[:], b[:SuperBlockSize]) {
			t.Fatalf("%x, was %x", again, b)
		}
	})
}

// Rows of an erasure-coded volume come sorted, or not at all.
func FuzzSortedRows(f *testing.F) {
	a := &alienFiles{rows: []indexRow{{1, 8, 20}, {2, 1 << 20, -1}, {9, 3 << 30, 0}}}
	f.Add(a.idx())
	f.Add(a.wideIdx())
	f.Fuzz(func(t *testing.T, b []byte) {
		rows, _, err := parseSortedRows(b)
		if err == nil && !slices.IsSortedFunc(rows, func(a, b indexRow) int { return cmp.Compare(a.key, b.key) }) {
			t.Fatalf("%+v", rows)
		}
	})
}

// Whatever lies in a directory, Open neither panics nor fails, and what it
// serves it can read or calls corrupt.
func FuzzOpen(f *testing.F) {
	whole := []byte{3, 0, 0, 0, 0, 0, 0, 0}
	var rows []byte
	for k := range volume.Key(4) {
		rows = indexRow{k, int64(len(whole)), 20}.append(rows)
		var err error
		whole, err = needle.Append(whole, &needle.Needle{Key: k, Data: make([]byte, 15), AppendedAt: uint64(k + 1)})
		if err != nil {
			f.Fatal(err)
		}
	}
	f.Add(whole, rows, true)
	f.Add(whole, rows, false)
	f.Add(whole[:100], rows[:20], true)
	f.Add(append(whole[:60:60], append([]byte{60: 0}, whole[60:]...)...), rows, false)
	f.Add(append([]byte{2}, whole[1:]...), rows, false)
	f.Fuzz(func(t *testing.T, dat, idx []byte, ours bool) {
		fs := faultfs.New(1)
		must(t, fs.Mkdir("/d"))
		must(t, vfs.Write(fs, "/d/7.dat", dat))
		must(t, vfs.Write(fs, "/d/7.idx", idx))
		if ours {
			must(t, vfs.Write(fs, "/d/7.wcopy", encodeCopy(7, 70, nil)))
		}
		s := openStore(t, fs)
		for _, v := range s.Volumes() {
			for _, at := range v.files.Load().index.all() {
				if n, err := v.Read(at.row()); err == nil {
					n.Release()
				}
			}
			if v.Foreign() {
				continue
			}
			v.Publish(v.End())
			must(t, v.Checkpoint())
			must(t, write(v, record(t, v, 1, []byte("x"))))
		}
	})
}
