package store

import (
	"testing"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/vfs"
)

func benchVolume(b *testing.B, mode SyncMode) *Volume {
	b.Helper()
	o := options(vfs.OS{}, b.TempDir())
	o.Sync = mode
	s, err := Open(o)
	must(b, err)
	b.Cleanup(func() { must(b, s.Close()) })
	v, err := s.Create(1, volume.Spec{}, 1)
	must(b, err)
	return v
}

// One file of 1 KiB a batch, or 32, as group commit makes of many writers.
func BenchmarkWrite(b *testing.B) {
	for _, c := range []struct {
		name  string
		mode  SyncMode
		batch int
	}{{"os", SyncOS, 1}, {"os-32", SyncOS, 32}, {"group", SyncGroup, 1}, {"group-32", SyncGroup, 32}} {
		b.Run(c.name, func(b *testing.B) {
			v := benchVolume(b, c.mode)
			n := needle.Needle{Data: make([]byte, 1024), Name: []byte("photo.jpg"), Flags: needle.FlagName}
			var buf []byte
			b.SetBytes(int64(1024 * c.batch))
			b.ReportAllocs()
			for b.Loop() {
				buf = buf[:0]
				for range c.batch {
					n.Key++
					n.AppendedAt = v.NextAppendTime(time.Unix(1e9, 0))
					var err error
					buf, err = needle.Append(buf, &n)
					must(b, err)
				}
				must(b, write(v, buf))
			}
		})
	}
}

func BenchmarkGet(b *testing.B) {
	v := benchVolume(b, SyncOS)
	const keys = 10_000
	for k := range volume.Key(keys) {
		must(b, write(v, record(b, v, k, make([]byte, 1024))))
	}
	now := time.Unix(1e9, 0)
	b.SetBytes(1024)
	b.ReportAllocs()
	key := volume.Key(0)
	for b.Loop() {
		key = (key + 7919) % keys
		n, err := v.Get(key, cookieOf(key), now, false)
		if err != nil {
			b.Fatal(err)
		}
		n.Release()
	}
}

func BenchmarkLookup(b *testing.B) {
	v := benchVolume(b, SyncOS)
	for k := range volume.Key(1000) {
		must(b, write(v, record(b, v, k, nil)))
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := v.Lookup(500); !ok {
			b.Fatal("not there")
		}
	}
}
