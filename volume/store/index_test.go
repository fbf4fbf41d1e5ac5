package store

import (
	"math/rand/v2"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"weedd/volume"
)

// The index says what a map says, whatever the order of keys.
func TestIndexIsAMap(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		x, want := newIndex(0), map[volume.Key]place{}
		span := rapid.SampledFrom([]uint64{3, 700, 5000, 1 << 63}).Draw(t, "span")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		rising := rapid.Bool().Draw(t, "rising")
		for i := range rapid.IntRange(0, 3000).Draw(t, "n") {
			k := volume.Key(rng.Uint64N(span))
			if rising && i%50 != 0 {
				k = volume.Key(i)
			}
			p := want[k].replacedBy(int64(i+1)*8, int32(rng.IntN(9)-2))
			want[k] = p
			x.set(k, p)
		}
		for k, p := range want {
			if got := x.get(k); got != p {
				t.Fatalf("key %d: %x, want %x", k, got, p)
			}
			if _, ok := want[k+1]; !ok && x.get(k+1) != 0 {
				t.Fatalf("key %d is there", k+1)
			}
		}
		chunks, total := x.view.Load().merged(), 0
		last := volume.Key(0)
		for i, c := range chunks {
			if len(c) == 0 || len(c) > chunkMax || i > 0 && c[0].key <= last {
				t.Fatalf("chunk %d of %d keys begins at %d, after %d", i, len(c), c[0].key, last)
			}
			last = c[len(c)-1].key
			total += len(c)
		}
		if total != len(want) {
			t.Fatalf("%d keys, want %d", total, len(want))
		}
	})
}

func TestPlaces(t *testing.T) {
	t.Parallel()
	p := place(0).replacedBy(maxOffset+1-8, 1<<31-1)
	if p.offset() != maxOffset+1-8 || p.size() != 1<<31-1 || !p.live() {
		t.Fatalf("%x", p)
	}
	gone := p.replacedBy(0, -1)
	if r := gone.row(); gone.live() || r.Offset != p.offset() || r.Size != -1 || r.was != p.size() {
		t.Fatalf("%+v", r)
	}
	if gone.replacedBy(80, -1) != gone {
		t.Fatal("deleted twice")
	}
	if r := place(0).replacedBy(80, -1).row(); r.Size != -1 || r.Offset != 80 {
		t.Fatalf("deletes what is not known: %+v", r)
	}
	if r := gone.replacedBy(80, 0).row(); r.Size != 0 || r.Offset != 80 {
		t.Fatalf("an empty file: %+v", r)
	}
}

// Readers find a key from the moment on that it was set.
func TestIndexBesideReaders(t *testing.T) {
	t.Parallel()
	x := newIndex(0)
	const keys = 5000
	var readers sync.WaitGroup
	for range 2 {
		readers.Add(1)
		go func() {
			defer readers.Done()
			for k := volume.Key(1); k < keys; { // waits for each in turn
				if p := x.get(k); p != 0 {
					if p.offset() != int64(k)*8 {
						t.Errorf("key %d: %x", k, p)
					}
					if k > 700 && x.get(k-700) == 0 {
						t.Errorf("key %d is gone", k-700)
					}
					k++
				}
			}
		}()
	}
	for k := volume.Key(1); k < keys; k++ {
		x.set(k, placeOf(int64(k)*8, 1))
	}
	readers.Wait()
}

func filled(n int) *index {
	x := newIndex(0)
	for k := range volume.Key(n) {
		x.set(k, placeOf(int64(k+1)*8, 100))
	}
	return x
}

func TestIndexIsSmall(t *testing.T) {
	t.Parallel()
	const n = 100_000
	bytes := 0
	v := filled(n).view.Load()
	for _, c := range v.chunks {
		bytes += 16*cap(c) + 24
	}
	bytes += 8*len(v.firsts) + 16*len(v.recent.slots)
	if perKey := float64(bytes) / n; perKey > 16.5 {
		t.Fatalf("%.2f bytes a key", perKey)
	}
}

func BenchmarkIndexGet(b *testing.B) {
	const n = 1_000_000
	x := filled(n)
	rng := rand.New(rand.NewPCG(1, 1))
	b.ReportAllocs()
	for b.Loop() {
		if x.get(volume.Key(rng.Uint64N(n))) == 0 {
			b.Fatal("not there")
		}
	}
}

func BenchmarkIndexSet(b *testing.B) {
	for name, next := range map[string]func(i uint64, rng *rand.Rand) uint64{
		"rising": func(i uint64, _ *rand.Rand) uint64 { return 1_000_000 + i },
		"random": func(_ uint64, rng *rand.Rand) uint64 { return rng.Uint64N(1_000_000) },
	} {
		b.Run(name, func(b *testing.B) {
			x, rng, i := filled(1_000_000), rand.New(rand.NewPCG(1, 1)), uint64(0)
			b.ReportAllocs()
			for b.Loop() {
				i++
				x.set(volume.Key(next(i, rng)), placeOf(int64(i%1000+1)*8, 1))
			}
		})
	}
}
