package store

import (
	"cmp"
	"slices"
	"sort"
	"sync/atomic"

	"weedd/volume"
)

// place is where the newest record of a key is, packed as in a row of .idx: the
// offset divided by 8 in the upper half, the size of the body in the lower. The
// size of a deleted one is inverted, so that the data can still be found until
// a compaction; ^0 is a deleted empty file, or one of which nothing is known. No
// place is 0: nothing is at offset 0 but the super block.
type place uint64

func placeOf(offset int64, size int32) place {
	return place(uint64(offset/rowUnit)<<32 | uint64(uint32(size)))
}

func (p place) offset() int64 { return int64(p>>32) * rowUnit }
func (p place) size() int32   { return int32(uint32(p)) }
func (p place) live() bool    { return p.size() >= 0 && p>>32 != 0 }

// row is what callers see of p.
func (p place) row() Row {
	if p.live() {
		return Row{Offset: p.offset(), Size: p.size()}
	}
	return Row{Offset: p.offset(), Size: -1, was: ^p.size()}
}

// replacedBy is the place of a key after one more record of it.
func (p place) replacedBy(offset int64, size int32) place {
	switch {
	case size >= 0:
		return placeOf(offset, size)
	case p == 0: // deletes what is not known
		return placeOf(offset, -1)
	case p.live():
		return placeOf(p.offset(), ^p.size())
	default:
		return p
	}
}

// index maps keys to places: 16 bytes a key in sorted chunks, under a small
// table of what changed lately. One goroutine at a time sets; any number get,
// at any time, without waiting and without allocating: a table only ever gains
// or overwrites single words, chunks are never changed, and both are replaced
// together.
type index struct {
	view atomic.Pointer[indexView]
}

type indexView struct {
	recent *table
	chunks []chunk
	firsts []volume.Key // the first key of each chunk, side by side for the search
}

func newView(recent *table, chunks []chunk) *indexView {
	v := &indexView{recent: recent, chunks: chunks, firsts: make([]volume.Key, len(chunks))}
	for i, c := range chunks {
		v.firsts[i] = c[0].key
	}
	return v
}

// chunk is a sorted run of keys, none of which is at or past the next chunk's
// first.
type chunk []entry

type entry struct {
	key volume.Key
	at  place
}

const chunkMax = 1024 // entries

// table is a hash table of fixed size with one writer and many readers. A slot's
// key is written before its place and never changes; a place of 0 is an empty
// slot. At most half of the slots are used.
type table struct {
	slots []slot // a power of two
	used  int    // of the writer
}

type slot struct{ key, at atomic.Uint64 }

// newTable makes a table for an index of so many keys: small beside it, yet
// large enough that merging stays cheap.
func newTable(keys int) *table {
	size := 512
	for size < keys/32 && size < 1<<16 {
		size *= 2
	}
	return &table{slots: make([]slot, size)}
}

// newIndex makes an index that expects so many keys.
func newIndex(keys int) *index {
	x := &index{}
	x.view.Store(newView(newTable(keys), nil))
	return x
}

// first is the slot where the search for k begins.
func (t *table) first(k volume.Key) int {
	return int(uint64(k)*0x9E3779B97F4A7C15>>32) & (len(t.slots) - 1)
}

func (t *table) get(k volume.Key) place {
	for i := t.first(k); ; i = (i + 1) & (len(t.slots) - 1) {
		at := t.slots[i].at.Load()
		if at == 0 || t.slots[i].key.Load() == uint64(k) {
			return place(at)
		}
	}
}

func (t *table) set(k volume.Key, p place) {
	for i := t.first(k); ; i = (i + 1) & (len(t.slots) - 1) {
		s := &t.slots[i]
		if s.at.Load() == 0 {
			s.key.Store(uint64(k))
			t.used++
		} else if s.key.Load() != uint64(k) {
			continue
		}
		s.at.Store(uint64(p))
		return
	}
}

// get returns the place of k, 0 if there is none.
func (x *index) get(k volume.Key) place {
	v := x.view.Load()
	if p := v.recent.get(k); p != 0 {
		return p
	}
	return v.find(k)
}

func (v *indexView) find(k volume.Key) place {
	low, high := 0, len(v.firsts)
	for low < high {
		if mid := int(uint(low+high) / 2); v.firsts[mid] <= k {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low == 0 {
		return 0
	}
	c := v.chunks[low-1]
	low, high = 0, len(c)
	for low < high {
		if mid := int(uint(low+high) / 2); c[mid].key < k {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low < len(c) && c[low].key == k {
		return c[low].at
	}
	return 0
}

// set changes the place of k.
func (x *index) set(k volume.Key, p place) {
	v := x.view.Load()
	if v.recent.used >= len(v.recent.slots)/2 {
		chunks := v.merged()
		v = newView(newTable(len(chunks)*chunkMax), chunks)
		x.view.Store(v)
	}
	v.recent.set(k, p)
}

// merged is the chunks with what is in the table. Chunks that do not change are
// shared with v.
func (v *indexView) merged() []chunk {
	fresh := make([]entry, 0, v.recent.used)
	for i := range v.recent.slots {
		if at := v.recent.slots[i].at.Load(); at != 0 {
			fresh = append(fresh, entry{volume.Key(v.recent.slots[i].key.Load()), place(at)})
		}
	}
	slices.SortFunc(fresh, func(a, b entry) int { return cmp.Compare(a.key, b.key) })
	out := make([]chunk, 0, len(v.chunks)+len(fresh)/chunkMax+2)
	if len(v.chunks) == 0 {
		return appendCut(out, fresh, true)
	}
	for i, c := range v.chunks {
		last := i == len(v.chunks)-1
		n := len(fresh)
		if !last {
			next := v.firsts[i+1]
			n = sort.Search(len(fresh), func(i int) bool { return fresh[i].key >= next })
		}
		if n == 0 {
			out = append(out, c)
		} else {
			out = appendCut(out, union(c, fresh[:n]), last)
		}
		fresh = fresh[n:]
	}
	return out
}

// union merges two sorted runs; of equal keys b's entry stays.
func union(a, b []entry) []entry {
	out := make([]entry, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		switch c := cmp.Compare(a[0].key, b[0].key); {
		case c < 0:
			out, a = append(out, a[0]), a[1:]
		case c > 0:
			out, b = append(out, b[0]), b[1:]
		default:
			a = a[1:]
		}
	}
	return append(append(out, a...), b...)
}

// appendCut cuts a sorted run into chunks. In the last place, where rising keys
// arrive, all but the last are full; elsewhere they are of one size, so that
// there is room in each.
func appendCut(out []chunk, run []entry, last bool) []chunk {
	size := chunkMax
	if !last {
		pieces := (len(run) + chunkMax - 1) / chunkMax
		size = (len(run) + pieces - 1) / pieces
	}
	for len(run) > 0 {
		n := min(size, len(run))
		out = append(out, slices.Clone(run[:n:n]))
		run = run[n:]
	}
	return out
}
