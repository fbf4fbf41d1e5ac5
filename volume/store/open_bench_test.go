package store

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/vfs"
)

// BenchmarkOpen10M opens directories with ten million needles and reads the
// first, and one of the last volume; the page cache is warm. "rows" is
// without images of the index.
func BenchmarkOpen10M(b *testing.B) {
	if testing.Short() {
		b.Skip("writes half a gigabyte")
	}
	const needles = 10_000_000
	for _, volumes := range []int{1, 10} {
		dir := b.TempDir()
		fill(b, dir, volumes, needles/volumes)
		for _, c := range []struct {
			name    string
			prepare func(*testing.B, string)
		}{{"image", func(*testing.B, string) {}}, {"rows", removeImages}} {
			b.Run(fmt.Sprintf("%d-volumes/%s", volumes, c.name), func(b *testing.B) {
				benchOpen(b, dir, volumes, needles, c.prepare)
			})
		}
	}
}

// fill makes volumes of n small files each, with one key in ten used and every
// hundredth file deleted again.
func fill(b *testing.B, dir string, volumes, n int) {
	b.Helper()
	o := options(vfs.OS{}, dir)
	o.Sync = SyncOS
	s, err := Open(o)
	must(b, err)
	rng := rand.New(rand.NewPCG(1, 1))
	var buf []byte
	for id := 1; id <= volumes; id++ {
		v, err := s.Create(volume.ID(id), volume.Spec{}, volume.CopyID(id))
		must(b, err)
		at := v.NextAppendTime(time.Unix(1e9, 0))
		for i := 0; i < n; {
			buf = buf[:0]
			for range min(1000, n-i) {
				key := volume.Key(10*i + rng.IntN(10))
				if i == 0 {
					key = 1
				}
				at++
				buf, err = needle.Append(buf, &needle.Needle{Key: key, Cookie: cookieOf(key), Data: make([]byte, 1+rng.IntN(16)), AppendedAt: at})
				must(b, err)
				i++
				if i%100 == 0 {
					at++
					buf, err = needle.Append(buf, &needle.Needle{Key: key, Cookie: cookieOf(key), Tombstone: true, AppendedAt: at})
					must(b, err)
				}
			}
			must(b, v.Append(buf))
			v.Publish(v.End())
		}
	}
	must(b, s.Close())
}

func removeImages(b *testing.B, dir string) {
	b.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"+extImage))
	must(b, err)
	for _, name := range names {
		must(b, os.Remove(name))
	}
}

func benchOpen(b *testing.B, dir string, volumes, needles int, prepare func(*testing.B, string)) {
	o := options(vfs.OS{}, dir)
	o.Log = slog.New(slog.DiscardHandler)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for b.Loop() {
		b.StopTimer()
		prepare(b, dir)
		b.StartTimer()
		s, err := Open(o)
		must(b, err)
		for _, id := range []volume.ID{1, volume.ID(volumes)} {
			v, err := s.Volume(id)
			must(b, err)
			n, err := v.Get(1, cookieOf(1), time.Unix(1e9, 0), false)
			must(b, err)
			n.Release()
		}
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&after)
		must(b, s.Close())
		b.StartTimer()
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(needles), "B/needle")
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/open")
}
