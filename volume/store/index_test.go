package store

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weedd/volume"
)

// checkChunks wants the chunks to be what readers rely on.
func checkChunks(x *index) error {
	v, last := x.view.Load(), volume.Key(0)
	for i := range v.chunks {
		run := v.chunks[i].Load().unpack(nil)
		switch {
		case len(run) == 0 || len(run) > chunkMax:
			return fmt.Errorf("chunk %d has %d keys", i, len(run))
		case run[0].key != v.firsts[i] || i > 0 && run[0].key <= last:
			return fmt.Errorf("chunk %d begins at %d, not %d, after %d", i, run[0].key, v.firsts[i], last)
		}
		last = run[len(run)-1].key
	}
	return nil
}

// checkMap wants x to say what a map says.
func checkMap(x *index, want map[volume.Key]place) error {
	for k, p := range want {
		if got := x.get(k); got != p {
			return fmt.Errorf("key %d: %x, want %x", k, got, p)
		}
		if _, ok := want[k+1]; !ok && x.get(k+1) != 0 {
			return fmt.Errorf("key %d is there", k+1)
		}
	}
	last, n := volume.Key(0), 0
	for k, p := range x.all() {
		if want[k] != p || n > 0 && k <= last {
			return fmt.Errorf("key %d, after %d, is listed at %x, want %x", k, last, p, want[k])
		}
		last = k
		n++
	}
	if n != len(want) {
		return fmt.Errorf("%d keys, want %d", n, len(want))
	}
	return checkChunks(x)
}

// The index says what a map says, whatever the order of keys.
func TestIndexIsAMap(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		x, want := newIndex(0), map[volume.Key]place{}
		span := rapid.SampledFrom([]uint64{3, 700, 5000, 1 << 63, ^uint64(0)}).Draw(t, "span")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		rising := rapid.Bool().Draw(t, "rising")
		far := rapid.Bool().Draw(t, "far")
		for i := range rapid.IntRange(0, 5000).Draw(t, "n") {
			k := volume.Key(rng.Uint64N(span))
			if rising && i%50 != 0 {
				k = volume.Key(i)
			}
			offset, size := int64(i+1), rng.IntN(9)-2
			if far {
				offset, size = 1+rng.Int64N(1<<32-1), rng.IntN(1<<32)-1<<31
			}
			p := want[k].replacedBy(offset*rowUnit, int32(size))
			want[k] = p
			x.set(k, p)
		}
		if err := checkMap(x, want); err != nil {
			t.Fatal(err)
		}
	})
}

// A chunk gives back what it was made of, at the extremes, too.
func TestChunks(t *testing.T) {
	t.Parallel()
	const top = ^volume.Key(0)
	for name, run := range map[string][]entry{
		"one":                  {{7, placeOf(8, 1)}},
		"the least and most":   {{0, 1}, {top, ^place(0)}},
		"all at the low end":   {{0, 9}, {1, 8}, {2, 7}, {top, 6}},
		"all at the high end":  {{0, 9}, {top - 2, 8}, {top - 1, 7}, {top, 6}},
		"all in the middle":    {{0, 9}, {top / 2, 8}, {top/2 + 1, 7}, {top, 6}},
		"both ends":            {{0, 9}, {1, 9}, {top/2 - 1, 1 << 32}, {top - 1, 1}, {top, 3}},
		"just exact":           {{0, 9}, {1, 3}, {1<<62 - 1, 3}},
		"just not exact":       {{0, 9}, {1, 3}, {1 << 62, 3}},
		"no gaps":              {{5, placeOf(8, 1)}, {6, placeOf(16, 1)}, {7, placeOf(24, 1)}},
		"deleted, of any size": {{5, 1<<32 | 0xffffffff}, {6, 1<<32 | 0x80000000}, {7, 1<<32 | 0x7fffffff}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newChunk(run)
			if got := c.unpack(nil); !slices.Equal(got, run) {
				t.Fatalf("%x, want %x", got, run)
			}
			for _, e := range run {
				if got := c.find(e.key); got != e.at {
					t.Fatalf("key %d: %x, want %x", e.key, got, e.at)
				}
				for _, k := range []volume.Key{e.key - 1, e.key + 1} {
					if there := slices.ContainsFunc(run, func(e entry) bool { return e.key == k }); !there && c.find(k) != 0 {
						t.Fatalf("key %d is there", k)
					}
				}
			}
		})
	}
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

// Readers find a key from the moment on that it was set, and never an older
// place than one that they have seen, while the writer merges and splits.
func TestIndexBesideReaders(t *testing.T) {
	t.Parallel()
	for name, keyOf := range map[string]func(i int) volume.Key{
		"rising":    func(i int) volume.Key { return volume.Key(i) },
		"scattered": func(i int) volume.Key { return volume.Key(uint64(i) * 0x9E3779B97F4A7C15) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := newIndex(0)
			const keys = 6000
			var readers sync.WaitGroup
			for range 2 {
				readers.Add(1)
				go func() {
					defer readers.Done()
					seen, deadline := make([]place, keys), time.Now().Add(time.Minute)
					for i, spins := 1, 0; i < keys; spins++ { // waits for each in turn
						if spins%4096 == 4095 && time.Now().After(deadline) {
							t.Errorf("key %d does not come", i)
							return
						}
						p := x.get(keyOf(i))
						if p == 0 {
							runtime.Gosched()
							continue
						}
						for j := i; j > 0; j -= 700 {
							if p := x.get(keyOf(j)); p < seen[j] || p.offset()%(8*keys) != int64(j)*8 {
								t.Errorf("key %d: %x after %x", j, p, seen[j])
								return
							} else {
								seen[j] = p
							}
						}
						i++
					}
				}()
			}
			for i := 1; i < keys; i++ {
				x.set(keyOf(i), placeOf(int64(i)*8, 1))
				if j := i - 1000; j > 0 { // again, further on
					x.set(keyOf(j), placeOf(int64(j+keys)*8, 1))
				}
			}
			readers.Wait()
		})
	}
}

// pattern is an order in which keys come.
type pattern struct {
	name string
	key  func(i, n int, rng *rand.Rand) volume.Key
}

var patterns = []pattern{
	{"dense", func(i, n int, _ *rand.Rand) volume.Key { return volume.Key(i) }},
	{"dense-any-order", func(i, n int, _ *rand.Rand) volume.Key { return volume.Key(i * 7_368_787 % n) }}, // a prime
	{"1-in-10", func(i, n int, rng *rand.Rand) volume.Key { return volume.Key(10*i + rng.IntN(10)) }},
	{"1-in-100", func(i, n int, rng *rand.Rand) volume.Key { return volume.Key(100*i + rng.IntN(100)) }},
	{"1-in-1000", func(i, n int, rng *rand.Rand) volume.Key { return volume.Key(1000*i + rng.IntN(1000)) }},
	{"1-in-10000", func(i, n int, rng *rand.Rand) volume.Key { return volume.Key(10000*i + rng.IntN(10000)) }},
	{"random-64", func(i, n int, rng *rand.Rand) volume.Key { return volume.Key(rng.Uint64()) }},
	{"overwritten", func(i, n int, rng *rand.Rand) volume.Key { return volume.Key(rng.IntN(i + 1)) }},
	{"deleted", func(i, n int, rng *rand.Rand) volume.Key { return volume.Key(rng.Uint64N(uint64(n))) }},
}

// filled is an index after n sets by a pattern, of files of up to 1 MiB all over
// a volume of 32 GiB, and its number of keys.
func filled(p pattern, n int) (*index, int) {
	x, rng, keys := newIndex(0), rand.New(rand.NewPCG(1, 1)), 0
	for i := range n {
		k := p.key(i, n, rng)
		old := x.get(k)
		if old == 0 {
			keys++
		}
		size := int32(rng.IntN(1 << 20))
		if p.name == "deleted" && i%2 == 1 {
			size = -1
		}
		x.set(k, old.replacedBy(int64(i+1)<<32/int64(n+1)*rowUnit, size))
	}
	return x, keys
}

// At most 16 bytes a key at every pattern, the table of recent changes included.
func TestIndexIsSmall(t *testing.T) {
	t.Parallel()
	for _, p := range patterns {
		for _, n := range []int{3000, 20_000} {
			t.Run(fmt.Sprintf("%s-%d", p.name, n), func(t *testing.T) {
				t.Parallel()
				x, keys := filled(p, n)
				for len(x.fresh) > 0 { // the next sets would
					x.step()
				}
				if perKey := float64(x.bytes()) / float64(keys); perKey > 16 {
					t.Fatalf("%.2f bytes a key", perKey)
				}
			})
		}
	}
}

// Reading allocates nothing.
func TestIndexGetAllocatesNothing(t *testing.T) {
	x, _ := filled(patterns[0], 5000)
	if n := testing.AllocsPerRun(100, func() { x.get(77); x.get(1 << 40) }); n > 0 {
		t.Fatalf("%v allocations", n)
	}
}

// BenchmarkIndexMemory measures the bytes a key, as the heap has them. The time
// is that of filling it.
func BenchmarkIndexMemory(b *testing.B) {
	for _, p := range patterns {
		for _, n := range []int{10_000, 1_000_000} {
			b.Run(fmt.Sprintf("%s-%d", p.name, n), func(b *testing.B) {
				var before, after runtime.MemStats
				var x *index
				var keys int
				for b.Loop() {
					x = nil
					runtime.GC()
					runtime.ReadMemStats(&before)
					x, keys = filled(p, n)
				}
				for len(x.fresh) > 0 {
					x.step()
				}
				runtime.GC()
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(keys), "B/needle")
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/set")
				runtime.KeepAlive(x)
			})
		}
	}
}

func BenchmarkIndexGet(b *testing.B) {
	const n = 1_000_000
	for _, p := range patterns {
		b.Run(p.name, func(b *testing.B) {
			x, _ := filled(p, n)
			var keys []volume.Key
			for k := range x.all() {
				keys = append(keys, k)
			}
			rng := rand.New(rand.NewPCG(1, 1))
			b.ReportAllocs()
			for b.Loop() {
				if x.get(keys[rng.IntN(len(keys))]) == 0 {
					b.Fatal("not there")
				}
			}
		})
	}
}

// BenchmarkIndexSet sets keys of an index of a million; the longest time that
// one set took is reported, too.
func BenchmarkIndexSet(b *testing.B) {
	for name, next := range map[string]func(i uint64, rng *rand.Rand) uint64{
		"rising":    func(i uint64, _ *rand.Rand) uint64 { return 1_000_000 + i },
		"again":     func(_ uint64, rng *rand.Rand) uint64 { return rng.Uint64N(1_000_000) },
		"random-64": func(_ uint64, rng *rand.Rand) uint64 { return rng.Uint64() },
	} {
		b.Run(name, func(b *testing.B) {
			x, _ := filled(patterns[0], 1_000_000)
			rng, i := rand.New(rand.NewPCG(1, 1)), uint64(0)
			b.ReportAllocs()
			for b.Loop() {
				i++
				x.set(volume.Key(next(i, rng)), placeOf(int64(i%1000+1)*8, 1))
			}
		})
	}
}

// bytes is the memory that x takes, without what an allocator adds.
func (x *index) bytes() int {
	v := x.view.Load()
	n := v.recent.bytes() + 16*(cap(x.fresh)+cap(x.old)+cap(x.run)) + 16*len(v.firsts)
	if v.merging != nil {
		n += v.merging.bytes()
	}
	for i := range v.chunks {
		n += chunkHeader + cap(v.chunks[i].Load().data)
	}
	return n
}

func (t *table) bytes() int { return 16*len(t.slots) + 4*len(t.order) }
