package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"weedd/volume/needle"
	"weedd/volume/vfs"
)

// errEnd says that a walk is at the end of the file.
var errEnd = errors.New("end of file")

// errTorn says that the file ends within a record.
var errTorn = errors.New("the file ends within the record")

// walker reads records in file order.
type walker struct {
	f       io.ReaderAt
	version needle.Version
	size    int64 // of the file
	pos     int64 // of the next record
	buf     []byte
	from    int64 // offset of buf in the file
	needle  needle.Needle
}

const walkBuffer = 256 << 10

func newWalker(f vfs.File, v needle.Version, pos int64) (*walker, error) {
	size, err := f.Size()
	return &walker{f: f, version: v, size: size, pos: pos}, err
}

// next returns the bytes of the record at pos, valid until the next call, and
// passes it. Its content is not checked. It answers errEnd, errTorn, or an error
// of the disk.
func (w *walker) next() ([]byte, error) {
	if w.pos >= w.size {
		return nil, errEnd
	}
	h, err := w.peek(needle.HeaderSize)
	if err != nil {
		return nil, err
	}
	size := int32(binary.BigEndian.Uint32(h[12:]))
	if size < 0 {
		return nil, fmt.Errorf("the header gives an impossible size, %d", size)
	}
	rec, err := w.peek(needle.Length(size, w.version))
	if err != nil {
		return nil, err
	}
	w.pos += int64(len(rec))
	return rec, nil
}

// peek returns n bytes at pos.
func (w *walker) peek(n int64) ([]byte, error) {
	if n > w.size-w.pos {
		return nil, errTorn
	}
	if w.pos < w.from || w.pos+n > w.from+int64(len(w.buf)) {
		length := min(max(n, walkBuffer), w.size-w.pos)
		if int64(cap(w.buf)) < length || int64(cap(w.buf)) > 4*max(length, walkBuffer) {
			w.buf = make([]byte, length)
		}
		w.buf, w.from = w.buf[:length], w.pos
		if _, err := w.f.ReadAt(w.buf, w.pos); err != nil {
			w.buf = w.buf[:0]
			return nil, &readError{err}
		}
	}
	i := w.pos - w.from
	return w.buf[i : i+n : i+n], nil
}

// readError is an error of the disk, as opposed to bytes that make no sense.
type readError struct{ err error }

func (e *readError) Error() string { return "read: " + e.err.Error() }
func (e *readError) Unwrap() error { return e.err }

func isReadError(err error) bool {
	var e *readError
	return errors.As(err, &e)
}

// eachRow calls do for the rows of an index file but the first skip ones, in file
// order, with their bytes, until it answers false. A last row that is not whole is
// left out.
func eachRow(f vfs.File, skip int64, do func(row indexRow, raw []byte) bool) error {
	size, err := f.Size()
	if err != nil {
		return err
	}
	size -= size % rowSize
	buf := make([]byte, min(max(size-skip*rowSize, 0), 1<<20))
	for off := skip * rowSize; off < size; off += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), size-off)]
		if _, err := f.ReadAt(buf, off); err != nil {
			return err
		}
		for b := buf; len(b) > 0; b = b[rowSize:] {
			if !do(decodeRow(b), b[:rowSize]) {
				return nil
			}
		}
	}
	return nil
}
