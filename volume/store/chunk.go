package store

import (
	"encoding/binary"
	"math/bits"
	"slices"

	"weedd/volume"
)

// chunk is a sorted run of entries, packed, none of which is at or past the next
// chunk's first. It is never changed.
//
// Entry i has the key first + i*step + low + r, where r is the i-th of n numbers
// of keyBits each: how far keys are from rising evenly. Keys without gaps take no
// bits, random ones some 4 fewer than their range. Then come n offsets, less the
// lowest of them, and n sizes with the sign as the last bit. All are packed
// without gaps, the lowest bit first.
type chunk struct {
	first                         volume.Key
	step                          uint64
	low                           uint64 // modulo 2^64: it may be meant negative
	offset                        uint32 // the lowest, divided by 8
	n                             uint32
	keyBits, offsetBits, sizeBits uint8
	exact                         bool   // the numbers above are small enough to guess where a key is
	data                          []byte // with 8 bytes more at the end, so that 8 can be read anywhere
}

const (
	chunkMax    = 1024 // entries
	chunkHeader = 72   // bytes of a chunk without data, pointer and first key in the view not counted
	chunkPad    = 8
)

// pack cuts a sorted run into chunks. In the last place, where rising keys
// arrive, all but the last are full; elsewhere they are of one size, so that
// there is room in each.
func pack(run []entry, last bool) []*chunk {
	size := chunkMax
	if !last {
		pieces := (len(run) + chunkMax - 1) / chunkMax
		size = (len(run) + pieces - 1) / pieces
	}
	out := make([]*chunk, 0, (len(run)+size-1)/size)
	for len(run) > 0 {
		n := min(size, len(run))
		out = append(out, newChunk(run[:n]))
		run = run[n:]
	}
	return out
}

// newChunk packs a run of 1 to chunkMax entries.
func newChunk(run []entry) *chunk {
	c := &chunk{first: run[0].key, offset: uint32(run[0].at >> 32), n: uint32(len(run))}
	span := uint64(run[len(run)-1].key - c.first)
	if len(run) > 1 {
		c.step = span / uint64(len(run)-1)
	}
	c.exact = span < 1<<62
	c.low = lowest(run, c.step)
	var keys uint64
	var offsets, sizes uint32
	for i, e := range run {
		keys |= c.rest(i, e.key)
		c.offset = min(c.offset, uint32(e.at>>32))
		sizes |= zigzag(uint32(e.at))
	}
	for _, e := range run {
		offsets |= uint32(e.at>>32) - c.offset
	}
	c.keyBits, c.offsetBits, c.sizeBits = uint8(bits.Len64(keys)), uint8(bits.Len32(offsets)), uint8(bits.Len32(sizes))
	c.data = make([]byte, c.length())
	w := bitWriter{out: c.data}
	for i, e := range run {
		w.put(c.rest(i, e.key), c.keyBits)
	}
	for _, e := range run {
		w.put(uint64(uint32(e.at>>32)-c.offset), c.offsetBits)
	}
	for _, e := range run {
		w.put(uint64(zigzag(uint32(e.at))), c.sizeBits)
	}
	w.end()
	return c
}

// rest is how far key i is past where it would be if keys rose by step.
func (c *chunk) rest(i int, k volume.Key) uint64 {
	return uint64(k-c.first) - uint64(i)*c.step - c.low
}

// lowest is the least of what run's keys are past first + i*step. Differences
// are of 65 bits: a borrow marks the negative ones.
func lowest(run []entry, step uint64) (low uint64) {
	below := uint64(0)
	for i, e := range run {
		d, borrow := bits.Sub64(uint64(e.key-run[0].key), uint64(i)*step, 0)
		if borrow > below || borrow == below && d < low {
			low, below = d, borrow
		}
	}
	return low
}

// zigzag makes numbers near 0, of both signs, small.
func zigzag(n uint32) uint32 { return n<<1 ^ uint32(int32(n)>>31) }

func unzigzag(n uint32) uint32 { return n>>1 ^ -(n & 1) }

// length is the length of data.
func (c *chunk) length() int {
	return (int(c.n)*int(c.keyBits+c.offsetBits+c.sizeBits)+7)/8 + chunkPad
}

// at reads w bits at bit pos of data.
func (c *chunk) at(pos uint, w uint8) uint64 {
	d := c.data[pos>>3:]
	shift := pos & 7
	n := binary.LittleEndian.Uint64(d) >> shift
	if shift+uint(w) > 64 {
		n |= uint64(d[8]) << (64 - shift)
	}
	return n & (1<<w - 1)
}

// key is how far key i is past first.
func (c *chunk) key(i int) uint64 {
	return uint64(i)*c.step + c.low + c.at(uint(i)*uint(c.keyBits), c.keyBits)
}

func (c *chunk) place(i int) place {
	from := uint(c.n) * uint(c.keyBits)
	offset := c.offset + uint32(c.at(from+uint(i)*uint(c.offsetBits), c.offsetBits))
	from += uint(c.n) * uint(c.offsetBits)
	size := unzigzag(uint32(c.at(from+uint(i)*uint(c.sizeBits), c.sizeBits)))
	return place(offset)<<32 | place(size)
}

// find returns the place of k, 0 if c has not got it.
func (c *chunk) find(k volume.Key) place {
	d := uint64(k - c.first)
	low, high := c.guess(d)
	for low < high {
		if mid := int(uint(low+high) / 2); c.key(mid) < d {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low < int(c.n) && c.key(low) == d {
		return c.place(low)
	}
	return 0
}

// guess says between which two entries a key that is d past first must be, if c
// has it: key i is at least i*step + low, and less than 2^keyBits past that.
func (c *chunk) guess(d uint64) (low, high int) {
	n := int64(c.n)
	if !c.exact || d >= 1<<62 || c.step == 0 {
		return 0, int(n)
	}
	most := int64(d) - int64(c.low)
	least := most - (1<<c.keyBits - 1)
	step := int64(c.step)
	return int(min(max(least/step, 0), n)), int(min(max(most/step+1, 0), n))
}

// unpack appends c's entries to out.
func (c *chunk) unpack(out []entry) []entry {
	from := len(out)
	out = slices.Grow(out, int(c.n))[:from+int(c.n)]
	run, pos := out[from:], uint(0)
	base := c.low + uint64(c.first)
	for i := range run {
		run[i].key = volume.Key(base + c.at(pos, c.keyBits))
		base += c.step
		pos += uint(c.keyBits)
	}
	low := uint64(c.offset)
	for i := range run {
		run[i].at = place((low + c.at(pos, c.offsetBits)) << 32)
		pos += uint(c.offsetBits)
	}
	for i := range run {
		run[i].at |= place(unzigzag(uint32(c.at(pos, c.sizeBits))))
		pos += uint(c.sizeBits)
	}
	return out
}

// bitWriter packs numbers, the lowest bit first. out has room for 8 bytes more
// than they take.
type bitWriter struct {
	out  []byte
	word uint64
	fill uint // bits of word, less than 64
}

func (w *bitWriter) put(n uint64, width uint8) {
	w.word |= n << w.fill
	if w.fill += uint(width); w.fill < 64 {
		return
	}
	binary.LittleEndian.PutUint64(w.out, w.word)
	w.out = w.out[8:]
	w.fill -= 64
	w.word = n >> (uint(width) - w.fill)
}

func (w *bitWriter) end() { binary.LittleEndian.PutUint64(w.out, w.word) }
