package store

import (
	"bytes"
	"reflect"
	"slices"
	"testing"

	"weedd/volume"
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

func FuzzParseVif(f *testing.F) {
	f.Add(newVif(volume.TTL{}, options(nil).Now()))
	f.Add([]byte(`{"bytes_offset":"5","files":[{}],"replication":"011"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := parseVif(b); err == nil && v.placement != nil && v.placement.Copies() < 1 {
			t.Fatal("impossible placement")
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
