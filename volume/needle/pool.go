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
