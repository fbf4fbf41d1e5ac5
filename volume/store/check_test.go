package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"testing"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/vfs"
)

// fullCheck holds a volume of ours, of version 3, against the rules of the
// format, by its own reading of them: every byte of .dat is accounted for, the
// index says what .dat says, .idx has one row for each published record. It
// does not use package needle, so that a mistake there is seen. .idx must be
// flushed.
func fullCheck(fs vfs.FS, v *Volume) error {
	dat, err := vfs.ReadFile(fs, v.base+extDat)
	if err != nil {
		return err
	}
	rows, err := vfs.ReadFile(fs, v.base+extIdx)
	if err != nil {
		return err
	}
	if int64(len(dat)) != v.End() || v.Committed() > v.End() || v.Durable() > v.End() {
		return fmt.Errorf("file of %d bytes, end %d, durable %d, committed %d", len(dat), v.End(), v.Durable(), v.Committed())
	}
	_, _, _, _, _, _, revision := v.Stats()
	if e := v.Epochs(); len(e) > 0 && uint16(e[len(e)-1].Generation) != revision {
		return fmt.Errorf("revision %d, epochs %v", revision, e)
	}
	want := []byte{3, byte(v.Spec().Placement), v.Spec().TTL.Count, v.Spec().TTL.Unit, byte(revision >> 8), byte(revision), 0, 0}
	if !bytes.Equal(dat[:8], want) {
		return fmt.Errorf("super block %x, want %x", dat[:8], want)
	}
	be := binary.BigEndian
	last, index := uint64(0), map[volume.Key]Row{}
	for off := 8; off < len(dat); {
		if off+32 > len(dat) {
			return fmt.Errorf("%d bytes at %d are no record", len(dat)-off, off)
		}
		rec := dat[off:]
		key, size := be.Uint64(rec[4:]), int(be.Uint32(rec[12:]))
		length := (16+size+4+8)/8*8 + 8
		if length > len(rec) {
			return fmt.Errorf("record at %d runs past the end", off)
		}
		sum, time := be.Uint32(rec[16+size:]), be.Uint64(rec[20+size:])
		padding := append(be.AppendUint32(nil, uint32(size)), 0, 0, 0, 0)[:length-28-size]
		if time <= last || !bytes.Equal(rec[28+size:length], padding) {
			return fmt.Errorf("record at %d: time %d after %d, padding %x, want %x", off, time, last, rec[28+size:length], padding)
		}
		last = time
		row := Row{Offset: int64(off), Size: int32(size)}
		switch {
		case size == 0 && sum != 0:
			row.Size = -1
		case size > 0:
			n := int(be.Uint32(rec[16:]))
			if crc32.Checksum(rec[20:20+n], crc32.MakeTable(crc32.Castagnoli)) != sum || n == 0 {
				return fmt.Errorf("record at %d: checksum", off)
			}
		}
		if int64(off+length) <= v.Committed() {
			if len(rows) < 16 || be.Uint64(rows) != key || int(be.Uint32(rows[8:]))*8 != off || int32(be.Uint32(rows[12:])) != row.Size {
				return fmt.Errorf("row of the record at %d, key %d, size %d: %x", off, key, row.Size, rows[:min(16, len(rows))])
			}
			rows = rows[16:]
			if row.Size < 0 {
				row.Offset = index[volume.Key(key)].Offset // of what was deleted
			}
			index[volume.Key(key)] = row
		}
		off += length
	}
	if len(rows) > 0 {
		return fmt.Errorf("%d bytes too many in .idx", len(rows))
	}
	if sum, err := v.Checksum(v.End()); err != nil || sum != crc32.Checksum(dat, crc32.MakeTable(crc32.Castagnoli)) {
		return fmt.Errorf("checksum of the whole %x: %w", sum, err)
	}
	return checkIndex(v, index)
}

func checkIndex(v *Volume, index map[volume.Key]Row) error {
	var keys int
	for range v.files.Load().index.all() {
		keys++
	}
	if keys != len(index) {
		return fmt.Errorf("%d keys in the index, %d in .dat", keys, len(index))
	}
	for k, want := range index {
		got, ok := v.Lookup(k)
		if !ok || got.Size != want.Size || got.Offset != want.Offset && want.Offset != 0 {
			return fmt.Errorf("key %d: index says %+v, .dat %+v", k, got, want)
		}
		if got.Size < 0 {
			continue
		}
		n, err := v.Read(got)
		if err != nil {
			return err
		}
		if n.Key != k {
			return fmt.Errorf("key %d: the record is of key %d", k, n.Key)
		}
		n.Release()
	}
	return nil
}

// record encodes one record with the next append time of v.
func record(t testing.TB, v *Volume, key volume.Key, data []byte) []byte {
	t.Helper()
	return encode(t, v, needle.Needle{Key: key, Cookie: cookieOf(key), Data: data, Name: []byte("name"), Flags: needle.FlagName})
}

func tombstone(t testing.TB, v *Volume, key volume.Key) []byte {
	t.Helper()
	return encode(t, v, needle.Needle{Key: key, Cookie: cookieOf(key), Tombstone: true})
}

func encode(t testing.TB, v *Volume, n needle.Needle) []byte {
	t.Helper()
	n.AppendedAt = v.NextAppendTime(time.Unix(1e9, 0))
	b, err := needle.Append(nil, &n)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func cookieOf(k volume.Key) volume.Cookie { return volume.Cookie(k*7 + 1) }

// write appends, syncs and publishes.
func write(v *Volume, records []byte) error {
	if err := v.Append(records); err != nil {
		return err
	}
	durable, err := v.Sync()
	if err == nil {
		v.Publish(durable)
	}
	return err
}

// expect wants key to have this data, nil for none.
func expect(t testing.TB, v *Volume, key volume.Key, data []byte) {
	t.Helper()
	if err := has(v, key, data); err != nil {
		t.Fatal(err)
	}
}

func has(v *Volume, key volume.Key, data []byte) error {
	n, err := v.Get(key, cookieOf(key), time.Unix(2e9, 0), false)
	if data == nil {
		if volume.Code(err) != "not_found" {
			return fmt.Errorf("key %d: %w, want not found", key, err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("key %d: %w", key, err)
	}
	defer n.Release()
	if !bytes.Equal(n.Data, data) {
		return fmt.Errorf("key %d: %d bytes %.20q, want %d bytes %.20q", key, len(n.Data), n.Data, len(data), data)
	}
	return nil
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// flip inverts one bit of a file.
func flip(t testing.TB, fs vfs.FS, path string, off int64) {
	t.Helper()
	f, err := fs.OpenFile(path, os.O_RDWR)
	must(t, err)
	b := []byte{0}
	_, err = f.ReadAt(b, off)
	must(t, err)
	b[0] ^= 0x10
	_, err = f.WriteAt(b, off)
	must(t, err)
	must(t, f.Sync())
	must(t, f.Close())
}
