package needle

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"math/bits"

	"weedd/volume"
)

// Version is the record version of a volume, from its super block.
type Version byte

// The versions of the format. Only V3 is ever written to disk by weedd.
const (
	V1 Version = 1
	V2 Version = 2
	V3 Version = 3
)

// Lengths in the format, in bytes.
const (
	HeaderSize   = 16 // cookie, key, size of the body
	Align        = 8  // records start at, and are as long as, a multiple of it
	checksumSize = 4
	timeSize     = 8
	maxShort     = math.MaxUint8  // name, mime
	maxPairs     = math.MaxUint16 // pairs
	maxModified  = 1<<40 - 1
)

// tombstoneMark is the checksum of a tombstone of ours when the data deleted
// had none. The format does not tell a tombstone from an empty file: both have
// an empty body. Nobody checks the checksum of an empty body, so a value other
// than 0 there makes ours certain.
const tombstoneMark = 0x64656c21 // "del!"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum is the CRC-32C of data, which is also the ETag of a stored file.
func Checksum(data []byte) uint32 { return crc32.Checksum(data, castagnoli) }

// UpdateChecksum continues a Checksum with more data.
func UpdateChecksum(sum uint32, data []byte) uint32 { return crc32.Update(sum, castagnoli, data) }

// legacy is how old releases of SeaweedFS masked a checksum before storing it.
func legacy(sum uint32) uint32 { return bits.RotateLeft32(sum, -15) + 0xA282EAD8 }

// Header is the front of a record.
type Header struct {
	Cookie volume.Cookie
	Key    volume.Key
	Size   int32 // of the body
}

// ParseHeader reads the HeaderSize bytes that begin a record.
func ParseHeader(b []byte) Header {
	return Header{
		Cookie: volume.Cookie(binary.BigEndian.Uint32(b)),
		Key:    volume.Key(binary.BigEndian.Uint64(b[4:])),
		Size:   int32(binary.BigEndian.Uint32(b[12:])),
	}
}

// Length is the length of a whole record with a body of size bytes. The padding
// is 1 to 8 bytes, never 0: a record that would end on the boundary gets 8 more.
func Length(size int32, v Version) int64 {
	t := int64(HeaderSize) + int64(size) + checksumSize
	if v == V3 {
		t += timeSize
	}
	return t + Align - t%Align
}

// BodySize is the size of the body that n has in version v, as the header and
// the index give it. It may be more than an int32 holds; Append refuses that.
func (n *Needle) BodySize(v Version) int64 {
	if len(n.Data) == 0 || n.Tombstone {
		return 0 // the format stores no flags, names or times for an empty file
	}
	if v == V1 {
		return int64(len(n.Data))
	}
	size := 4 + int64(len(n.Data)) + 1
	if n.Has(FlagName) {
		size += 1 + int64(len(n.Name))
	}
	if n.Has(FlagMime) {
		size += 1 + int64(len(n.Mime))
	}
	if n.Has(FlagModified) {
		size += 5
	}
	if n.Has(FlagTTL) {
		size += 2
	}
	if n.Has(FlagPairs) {
		size += 2 + int64(len(n.Pairs))
	}
	return size
}

// RecordLength is the length of the whole record of n in version 3.
func (n *Needle) RecordLength() int64 { return Length(int32(n.BodySize(V3)), V3) }

// Append encodes n in version 3 at the end of dst and sets n.Checksum. It does
// not allocate when dst has room. What does not fit the format is
// volume.ErrTooLarge.
func Append(dst []byte, n *Needle) ([]byte, error) { return AppendVersion(dst, n, V3) }

// AppendVersion is Append for any version.
func AppendVersion(dst []byte, n *Needle, v Version) ([]byte, error) {
	size := n.BodySize(v)
	if size > math.MaxInt32 || len(n.Name) > maxShort || len(n.Mime) > maxShort || len(n.Pairs) > maxPairs || n.Modified > maxModified {
		return dst, fmt.Errorf("%w: record of %d bytes, name %d, mime %d, pairs %d", volume.ErrTooLarge, size, len(n.Name), len(n.Mime), len(n.Pairs))
	}
	n.setChecksum()
	dst = binary.BigEndian.AppendUint32(dst, uint32(n.Cookie))
	dst = binary.BigEndian.AppendUint64(dst, uint64(n.Key))
	dst = binary.BigEndian.AppendUint32(dst, uint32(size))
	switch {
	case size == 0:
	case v == V1:
		dst = append(dst, n.Data...)
	default:
		dst = n.appendBody(dst)
	}
	dst = binary.BigEndian.AppendUint32(dst, n.Checksum)
	if v == V3 {
		dst = binary.BigEndian.AppendUint64(dst, n.AppendedAt)
	}
	filler := n.filler(int32(size), v)
	t := int64(HeaderSize) + size + checksumSize
	if v == V3 {
		t += timeSize
	}
	return append(dst, filler[:Align-t%Align]...), nil
}

// setChecksum keeps the checksum that a tombstone was given, which by custom is
// that of the data it deletes.
func (n *Needle) setChecksum() {
	if !n.Tombstone {
		n.Checksum = Checksum(n.Data)
	} else if n.Checksum == 0 {
		n.Checksum = tombstoneMark
	}
}

func (n *Needle) appendBody(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(n.Data)))
	dst = append(dst, n.Data...)
	dst = append(dst, byte(n.Flags))
	if n.Has(FlagName) {
		dst = append(append(dst, byte(len(n.Name))), n.Name...)
	}
	if n.Has(FlagMime) {
		dst = append(append(dst, byte(len(n.Mime))), n.Mime...)
	}
	if n.Has(FlagModified) {
		dst = append(dst, byte(n.Modified>>32))
		dst = binary.BigEndian.AppendUint32(dst, uint32(n.Modified))
	}
	if n.Has(FlagTTL) {
		dst = append(dst, n.TTL.Count, n.TTL.Unit)
	}
	if n.Has(FlagPairs) {
		dst = binary.BigEndian.AppendUint16(dst, uint16(len(n.Pairs)))
		dst = append(dst, n.Pairs...)
	}
	return dst
}

// filler is what padding is cut from. SeaweedFS leaves the remains of a header
// there, so equal input gives equal files only if we do the same.
func (n *Needle) filler(size int32, v Version) (f [Align]byte) {
	switch v {
	case V1:
		binary.BigEndian.PutUint64(f[:], uint64(n.Key))
	case V2:
		binary.BigEndian.PutUint32(f[:], uint32(n.Key>>32))
		if size > 0 && n.Has(FlagModified) {
			binary.BigEndian.PutUint32(f[:], uint32(n.Modified))
		}
		binary.BigEndian.PutUint32(f[4:], uint32(n.Key))
	default:
		binary.BigEndian.PutUint32(f[:], uint32(size))
	}
	return f
}

// The ways in which a record can be bad.
var (
	errShort    = errors.New("record is cut short")
	errSize     = errors.New("impossible size")
	errBody     = errors.New("body does not add up")
	errChecksum = errors.New("checksum does not match")
	errPadding  = errors.New("padding is not as written")
)

// Decode reads the record that rec begins with, in version v, into n, which it
// resets first. Byte slices of n point into rec. It checks the checksum, in
// either of its two forms. A record without data and with a checksum is taken
// for a tombstone; whoever has the index row knows better. Errors describe the
// record, they are no sentinels.
func (n *Needle) Decode(rec []byte, v Version) error {
	n.Reset()
	if len(rec) < HeaderSize {
		return errShort
	}
	h := ParseHeader(rec)
	if h.Size < 0 {
		return errSize
	}
	if Length(h.Size, v) > int64(len(rec)) {
		return errShort
	}
	n.Key, n.Cookie = h.Key, h.Cookie
	body, trailer := rec[HeaderSize:HeaderSize+int(h.Size)], rec[HeaderSize+int(h.Size):]
	n.Checksum = binary.BigEndian.Uint32(trailer)
	if v == V3 {
		n.AppendedAt = binary.BigEndian.Uint64(trailer[checksumSize:])
	}
	if h.Size == 0 {
		n.Tombstone = n.Checksum != 0
		return nil
	}
	if v == V1 {
		n.Data = body
	} else if err := n.decodeBody(body); err != nil {
		return err
	}
	sum := Checksum(n.Data)
	if n.Checksum != sum && n.Checksum != legacy(sum) {
		return errChecksum
	}
	n.Checksum = sum
	return nil
}

// DecodeStrict reads one version 3 record that must be, byte for byte, as
// Append writes it. rec is the whole record and nothing else.
func (n *Needle) DecodeStrict(rec []byte) error {
	if err := n.Decode(rec, V3); err != nil {
		return err
	}
	h := ParseHeader(rec)
	if Length(h.Size, V3) != int64(len(rec)) {
		return errSize
	}
	if n.BodySize(V3) != int64(h.Size) || (h.Size > 0 && len(n.Data) == 0) {
		return errBody
	}
	end := HeaderSize + int(h.Size) + checksumSize + timeSize
	if h.Size > 0 && binary.BigEndian.Uint32(rec[HeaderSize+int(h.Size):]) != n.Checksum {
		return errChecksum // the old form
	}
	filler := n.filler(h.Size, V3)
	if string(rec[end:]) != string(filler[:len(rec)-end]) {
		return errPadding
	}
	return nil
}

// decodeBody reads the body of version 2 and 3. A flag whose field is missing
// because the body ends is no error; a length that runs past the end is.
func (n *Needle) decodeBody(b []byte) error {
	if len(b) < 5 || int64(binary.BigEndian.Uint32(b)) > int64(len(b)-5) {
		return errBody
	}
	size := int(binary.BigEndian.Uint32(b))
	n.Data, n.Flags, b = b[4:4+size:4+size], Flags(b[4+size]), b[5+size:]
	ok := true
	take := func(flag Flags, prefix, width int) []byte {
		if !ok || !n.Has(flag) || len(b) == 0 {
			return nil
		}
		for i := range prefix {
			if i >= len(b) {
				ok = false
				return nil
			}
			width = width<<8 | int(b[i])
		}
		if prefix+width > len(b) {
			ok = false
			return nil
		}
		field := b[prefix : prefix+width : prefix+width]
		b = b[prefix+width:]
		return field
	}
	n.Name = take(FlagName, 1, 0)
	n.Mime = take(FlagMime, 1, 0)
	for _, x := range take(FlagModified, 0, 5) {
		n.Modified = n.Modified<<8 | uint64(x)
	}
	if t := take(FlagTTL, 0, 2); t != nil {
		n.TTL = volume.TTL{Count: t[0], Unit: t[1]}
	}
	n.Pairs = take(FlagPairs, 2, 0)
	if !ok {
		return errBody
	}
	return nil
}
