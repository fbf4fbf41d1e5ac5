package store

import (
	"io"

	"weedd/volume/needle"
)

// sums knows the CRC-32C of the first bytes of a file, up to each whole MiB and
// up to its end. So the checksum up to anywhere costs reading one MiB at the
// most, and each MiB can be checked by itself, by going on from the sum before.
// A value is never changed; blocks of two values may share memory.
type sums struct {
	blocks []uint32 // blocks[i] is of the first i+1 MiB
	last   uint32   // of the first end bytes
	end    int64
}

// plus is s after p was appended to the file.
func (s sums) plus(p []byte) sums {
	for len(p) > 0 {
		n := min(int64(len(p)), sumBlock-s.end%sumBlock)
		s.last = needle.UpdateChecksum(s.last, p[:n])
		s.end += n
		p = p[n:]
		if s.end%sumBlock == 0 {
			s.blocks = append(s.blocks, s.last)
		}
	}
	return s
}

// at is the sum up to end, which is a whole number of MiB or the end of s.
func (s sums) at(end int64) uint32 {
	if end == s.end {
		return s.last
	}
	return s.blocks[end/sumBlock-1]
}

// cut is s after the file, f, was or will be cut to end, or would be: bytes
// past it do not matter. The end may also be larger: what s lacks is read.
func (s sums) cut(f io.ReaderAt, end int64) (sums, error) {
	if end == s.end {
		return s, nil
	}
	if end < s.end {
		n := end / sumBlock
		s = sums{blocks: s.blocks[:n:n], end: n * sumBlock}
		if n > 0 {
			s.last = s.blocks[n-1]
		}
	}
	buf := make([]byte, min(sumBlock, end-s.end))
	for s.end < end {
		p := buf[:min(int64(len(buf)), end-s.end)]
		if _, err := f.ReadAt(p, s.end); err != nil {
			return s, err
		}
		s = s.plus(p)
	}
	return s, nil
}
