package store

import (
	"cmp"
	"iter"
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

// index maps keys to places: sorted, packed chunks under a small table of what
// changed lately. One goroutine at a time sets; any number get, at any time,
// without waiting and without allocating.
//
// A table that is full is merged into the chunks a bit with each set that
// follows, so no set takes long. Until that is done readers look into it, too:
// first recent, then merging, then the chunks. So it does no harm that a chunk
// is replaced while they look: what it gains they would have found before.
type index struct {
	view atomic.Pointer[indexView]

	// Of the writer, while there is something to merge.
	fresh    []entry // of view.merging, sorted, those that no chunk has yet
	old, run []entry // reused from chunk to chunk
}

// indexView is what readers see. Its slices keep their lengths; an element of
// chunks is replaced by one that has the same keys and more.
type indexView struct {
	recent  *table
	merging *table       // nil when the chunks have all of it
	firsts  []volume.Key // of each chunk
	chunks  []atomic.Pointer[chunk]
}

type entry struct {
	key volume.Key
	at  place
}

// newIndex makes an index that expects so many keys.
func newIndex(keys int) *index {
	x := &index{}
	x.view.Store(&indexView{recent: newTable(keys)})
	return x
}

// get returns the place of k, 0 if there is none.
func (x *index) get(k volume.Key) place {
	v := x.view.Load()
	if p := v.recent.get(k); p != 0 {
		return p
	}
	if v.merging != nil {
		if p := v.merging.get(k); p != 0 {
			return p
		}
	}
	if i := v.chunkOf(k); i >= 0 {
		return v.chunks[i].Load().find(k)
	}
	return 0
}

// chunkOf is the chunk that has k, if any has it; -1 before the first.
func (v *indexView) chunkOf(k volume.Key) int {
	low, high := 0, len(v.firsts)
	for low < high {
		if mid := int(uint(low+high) / 2); v.firsts[mid] <= k {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low - 1
}

// set changes the place of k; p is not 0.
func (x *index) set(k volume.Key, p place) {
	v := x.view.Load()
	if v.recent.full() {
		v = x.turn()
	}
	v.recent.set(k, p)
	if len(x.fresh) > 0 {
		x.step()
	}
}

// turn begins to merge the table of recent changes, and makes a new one.
func (x *index) turn() *indexView {
	for len(x.fresh) > 0 { // only if the table before was larger
		x.step()
	}
	v := x.view.Load()
	x.fresh = v.recent.entries()
	v = &indexView{recent: newTable(v.keys()), merging: v.recent, firsts: v.firsts, chunks: v.chunks}
	x.view.Store(v)
	return v
}

// step merges what is fresh for one chunk.
func (x *index) step() {
	v := x.view.Load()
	i := max(v.chunkOf(x.fresh[0].key), 0)
	last := i+1 >= len(v.firsts)
	n := len(x.fresh)
	if !last {
		n = sort.Search(n, func(j int) bool { return x.fresh[j].key >= v.firsts[i+1] })
	}
	x.old = v.unpacked(x.old[:0], i)
	x.run = union(x.run[:0], x.old, x.fresh[:n])
	pieces := pack(x.run, last)
	if x.fresh = x.fresh[n:]; len(x.fresh) == 0 {
		x.fresh, x.old, x.run = nil, nil, nil
	}
	if len(pieces) == 1 && len(x.fresh) > 0 && len(v.chunks) > 0 && pieces[0].first == v.firsts[i] {
		v.chunks[i].Store(pieces[0])
		return
	}
	v = v.spliced(i, pieces)
	if len(x.fresh) == 0 {
		v.merging = nil
	}
	x.view.Store(v)
}

// unpacked appends the entries of chunk i; one that is not there has none.
func (v *indexView) unpacked(out []entry, i int) []entry {
	if i >= len(v.chunks) {
		return out
	}
	return v.chunks[i].Load().unpack(out)
}

// spliced is v with pieces in the place of chunk i.
func (v *indexView) spliced(i int, pieces []*chunk) *indexView {
	n := max(len(v.chunks)-1, 0) + len(pieces)
	out := &indexView{recent: v.recent, merging: v.merging, firsts: make([]volume.Key, n), chunks: make([]atomic.Pointer[chunk], n)}
	for j := range n {
		var c *chunk
		switch {
		case j < i:
			c = v.chunks[j].Load()
		case j < i+len(pieces):
			c = pieces[j-i]
		default:
			c = v.chunks[j-len(pieces)+1].Load()
		}
		out.chunks[j].Store(c)
		out.firsts[j] = c.first
	}
	return out
}

// keys is about how many keys v has.
func (v *indexView) keys() int { return len(v.chunks)*chunkMax*3/4 + v.recent.used }

// all yields every key with its place, by key. No set may run.
func (x *index) all() iter.Seq2[volume.Key, place] {
	return func(yield func(volume.Key, place) bool) {
		v := x.view.Load()
		over := union(nil, x.fresh, v.recent.entries())
		var old, run []entry
		for i := range max(len(v.chunks), 1) {
			n := len(over)
			if i+1 < len(v.chunks) {
				n = sort.Search(n, func(j int) bool { return over[j].key >= v.firsts[i+1] })
			}
			old = v.unpacked(old[:0], i)
			run = union(run[:0], old, over[:n])
			for _, e := range run {
				if !yield(e.key, e.at) {
					return
				}
			}
			over = over[n:]
		}
	}
}

// union appends two sorted runs, merged, to out; of equal keys b's entry stays.
func union(out, a, b []entry) []entry {
	out = slices.Grow(out, len(a)+len(b))
	for len(b) > 0 {
		for len(a) > 0 && a[0].key < b[0].key {
			out, a = append(out, a[0]), a[1:]
		}
		if len(a) > 0 && a[0].key == b[0].key {
			a = a[1:]
		}
		out, b = append(out, b[0]), b[1:]
	}
	return append(out, a...)
}

// table is a hash table of fixed size with one writer and many readers. A slot's
// key is written before its place and never changes; a place of 0 is an empty
// slot. At most half of the slots are used.
type table struct {
	slots []slot   // a power of two
	order []uint32 // the slots in the order in which they were taken; of the writer
	used  int      // of the writer
}

type slot struct{ key, at atomic.Uint64 }

// The size of a table, in slots of 18 bytes: a 32nd of the keys, between these.
const (
	tableMin = 128
	tableMax = 1 << 16
)

// newTable makes a table for an index of so many keys: small beside it, yet
// large enough that merging stays cheap.
func newTable(keys int) *table {
	size := tableMin
	for size < keys/32 && size < tableMax {
		size *= 2
	}
	return &table{slots: make([]slot, size), order: make([]uint32, size/2)}
}

func (t *table) full() bool { return t.used == len(t.order) }

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
			t.order[t.used] = uint32(i)
			t.used++
		} else if s.key.Load() != uint64(k) {
			continue
		}
		s.at.Store(uint64(p))
		return
	}
}

// entries lists what is in t, by key. Keys that came in order cost no sorting.
func (t *table) entries() []entry {
	list := make([]entry, t.used)
	for i, s := range t.order[:t.used] {
		list[i] = entry{volume.Key(t.slots[s].key.Load()), place(t.slots[s].at.Load())}
	}
	slices.SortFunc(list, func(a, b entry) int { return cmp.Compare(a.key, b.key) })
	return list
}
