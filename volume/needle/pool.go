package needle

import (
	"math/bits"
	"sync"
)

// Buffers are pooled by size, in powers of two. Larger ones are made for the
// occasion: a pool of them would hold memory that is rarely needed.
const (
	minClass = 9  // 512 bytes
	maxClass = 22 // 4 MiB
)

var pools [maxClass + 1]sync.Pool

// Get takes an empty needle with a buffer of size bytes, into which its record
// may be read and decoded, from a pool. Release gives it back.
func Get(size int) (*Needle, []byte) {
	class := max(bits.Len(uint(size-1)), minClass)
	if size <= 0 {
		class = minClass
	}
	if class > maxClass {
		return &Needle{}, make([]byte, size)
	}
	if n, ok := pools[class].Get().(*Needle); ok {
		return n, n.buf[:size]
	}
	n := &Needle{buf: make([]byte, 1<<class)}
	return n, n.buf[:size]
}

// Release ends the use of n and of every slice in it. It does nothing for a
// needle that did not come from Get.
func (n *Needle) Release() {
	if n.buf == nil {
		return
	}
	n.Reset()
	pools[bits.Len(uint(len(n.buf)-1))].Put(n)
}

// Reset empties n.
func (n *Needle) Reset() { *n = Needle{buf: n.buf} }

// requestCost is what a write takes beside its bytes: buffers of its connection, a
// stack, small things.
const requestCost = 32 << 10

// Footprint bounds the memory, in bytes, that a file of n bytes takes at a time while
// it is received and stored: the file, and the largest of what is made of it by and
// by: a packed form, which then takes its place; its record, in a buffer that Get
// rounds up; the frames of it that are on their way to two other copies.
func Footprint(n int64) int64 { return requestCost + n + max(n, 2*min(n, 1<<maxClass)) }
