package erasure

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"
)

// Sums are the checksums that SeaweedFS may keep of shards, in .ecsum.
type Sums struct {
	block  int64            // bytes that one checksum covers
	shards map[int][]uint32 // of each block of a shard; the last may be shorter
	sizes  map[int]int64
}

const (
	sumsMagic  = "ECSU"
	sumsFormat = 1
	sumsHeader = 14
	minSumsLog = 20 // a block is a power of two, from 1 MiB
	maxSumsLog = 26 // to 64 MiB
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ParseSums reads a .ecsum file: 4 "ECSU" | 2 format | 4 length | 4 CRC-32C of
// the rest, a protobuf message. An error means that it protects nothing.
func ParseSums(b []byte) (*Sums, error) {
	be := binary.BigEndian
	if len(b) < sumsHeader || string(b[:4]) != sumsMagic || be.Uint16(b[4:]) != sumsFormat {
		return nil, errors.New("checksums of shards: not in a format that is known")
	}
	body := b[sumsHeader:]
	if int64(be.Uint32(b[6:])) != int64(len(body)) || crc32.Checksum(body, castagnoli) != be.Uint32(b[10:]) {
		return nil, errors.New("checksums of shards: the file fails its own checksum")
	}
	s := &Sums{shards: map[int][]uint32{}, sizes: map[int]int64{}}
	algorithm := uint64(0)
	err := eachField(body, func(field int, n uint64, text []byte) error {
		switch field {
		case 1:
			algorithm = n
		case 2:
			s.block = int64(n)
		case 5:
			return s.addShard(text)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if log := bits.Len64(uint64(s.block)) - 1; algorithm != 1 || bits.OnesCount64(uint64(s.block)) != 1 || log < minSumsLog || log > maxSumsLog {
		return nil, fmt.Errorf("checksums of shards: algorithm %d, blocks of %d bytes", algorithm, s.block)
	}
	for i, sums := range s.shards {
		if size := s.sizes[i]; size < 0 || int64(len(sums)) != size/s.block+min(size%s.block, 1) {
			return nil, fmt.Errorf("checksums of shards: %d of the %d bytes of shard %d", len(sums), size, i)
		}
	}
	return s, nil
}

// addShard reads what the message says of one shard. Only here SeaweedFS has
// little-endian numbers.
func (s *Sums) addShard(b []byte) error {
	shard, size, sums := uint64(0), uint64(0), []uint32(nil)
	err := eachField(b, func(field int, n uint64, text []byte) error {
		switch field {
		case 1:
			shard = n
		case 2:
			size = n
		case 3:
			for ; len(text) >= 4; text = text[4:] {
				sums = append(sums, binary.LittleEndian.Uint32(text))
			}
		}
		return nil
	})
	if err != nil || shard >= MaxShards {
		return errors.Join(err, fmt.Errorf("checksums of shards: shard %d", shard))
	}
	s.shards[int(shard)], s.sizes[int(shard)] = sums, int64(size)
	return nil
}

var errMessage = errors.New("checksums of shards: the message does not add up")

// eachField calls do for the fields of a protobuf message: n is the value of a
// number, text that of a string of bytes.
func eachField(b []byte, do func(field int, n uint64, text []byte) error) error {
	for len(b) > 0 {
		tag, used := binary.Uvarint(b)
		if used <= 0 || tag>>3 == 0 || tag>>3 > 1<<29 {
			return errMessage
		}
		b = b[used:]
		var n uint64
		var text []byte
		switch tag & 7 {
		case 0:
			if n, used = binary.Uvarint(b); used <= 0 {
				return errMessage
			}
			b = b[used:]
		case 1, 5:
			width := map[uint64]int{1: 8, 5: 4}[tag&7]
			if len(b) < width {
				return errMessage
			}
			b = b[width:]
		case 2:
			length, used := binary.Uvarint(b)
			if used <= 0 || length > uint64(len(b)-used) {
				return errMessage
			}
			text, b = b[used:used+int(length)], b[used+int(length):]
		default:
			return errMessage
		}
		if err := do(int(tag>>3), n, text); err != nil {
			return err
		}
	}
	return nil
}

// isBad reports whether some of the n bytes at at of a shard are known to be bad.
func (f *File) isBad(shard int, at, n int64) bool {
	if f.sums == nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for b := at / f.sums.block; b*f.sums.block < at+n; b++ {
		if good, ok := f.checked[block{shard, b}]; ok && !good {
			return true
		}
	}
	return false
}

// Check compares the shards, where the n bytes at off of .dat are and what these
// could be computed from is, with their checksums, as far as that was not done
// before. It reports whether any is bad; those are not used any more. Without
// checksums none is.
func (f *File) Check(off, n int64) (bad bool) {
	if f.sums == nil {
		return false
	}
	for end := min(off+n, f.size); off < end; {
		_, at, left := f.locate(off)
		left = min(left, end-off)
		for b := at / f.sums.block; b*f.sums.block < at+left; b++ {
			for i := range f.shards {
				bad = !f.goodBlock(block{i, b}) || bad
			}
		}
		off += left
	}
	return bad
}

// goodBlock checks a block of a shard. One of which nothing is known, or that
// cannot be read, counts as good: reading it will tell.
func (f *File) goodBlock(b block) bool {
	sums, ok := f.sums.shards[b.shard]
	if f.shards[b.shard] == nil || !ok || f.sums.sizes[b.shard] != f.length || b.n >= int64(len(sums)) {
		return true
	}
	f.mu.Lock()
	good, ok := f.checked[b]
	f.mu.Unlock()
	if ok {
		return good
	}
	sum := uint32(0)
	buf := make([]byte, smallBlock)
	for at, end := b.n*f.sums.block, min((b.n+1)*f.sums.block, f.length); at < end; {
		p := buf[:min(int64(len(buf)), end-at)]
		if _, err := f.shards[b.shard].ReadAt(p, at); err != nil {
			return true
		}
		sum = crc32.Update(sum, castagnoli, p)
		at += int64(len(p))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.checked[b] = sum == sums[b.n]
	return f.checked[b]
}
