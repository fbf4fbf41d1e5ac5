package store

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"weedd/volume"
	"weedd/volume/needle"
)

// The image of an index, .widx, is the index as it was in memory after some row
// of .idx, so that Open need not make it of the rows again:
//
//	8 "weedindx" | 2 format, 1 | 2 zero | 4 volume id | 8 copy id | 8 super block |
//	8 committed | 8 rows | 4 sum of what is committed | 4 chunks | 4 changes |
//	8 files | 8 deleted | 8 deleted bytes | 8 highest key
//	for each chunk: 8 first | 8 step | 8 low | 4 offset | 2 n | 1 key bits | 1 offset bits | 1 size bits | 1 exact | data
//	for each change: 8 key | 8 place
//	4 CRC-32C of all before
//
// It is a cache, never synced and never needed: what fails a check is passed
// over. It says what the first bytes of .dat mean and holds their checksum, so
// one that fits the checkpoint is right, however old it is.
const (
	imageMagic  = "weedindx"
	imageFormat = 1
	imageHeader = 92
	imageChunk  = 34
	imageChange = 16
	imageBuffer = 256 << 10
)

// An image is written when the volume is closed, and before that by Flush, after
// a checkpoint, when there are imageAfter new rows and a quarter more than in the
// last one. So an image costs up to 80 bytes of writing a row, most often less
// than 40, and an Open after a crash has that many rows to enter.
const imageAfter = 1 << 18

// image is what the file holds.
type image struct {
	super     [SuperBlockSize]byte
	committed int64 // bytes of .dat that the index tells of
	rows      int64 // of .idx
	sum       uint32
	counts    counts
	chunks    []*chunk
	changes   []entry // since the chunks were made; the last of a key counts
}

// imageState is what a volume knows of its image.
type imageState struct {
	saved atomic.Int64 // rows of the one on disk
	mu    sync.Mutex   // held while it is written
	due   *image       // to be written, nil if none is; guarded by mu of the volume
}

// takeImage keeps the index as it is, for saveImage, if a new image is due. Rows
// that are not in .idx yet are a reason to wait for the next time.
func (v *Volume) takeImage(closing bool) {
	v.idxMu.Lock()
	defer v.idxMu.Unlock()
	v.mu.Lock()
	defer v.mu.Unlock()
	rows, saved := v.idxSize/rowSize, v.image.saved.Load()
	if len(v.rows) > 0 || rows == saved || !closing && rows-saved < max(imageAfter, saved/4) {
		return
	}
	x := v.files.Load().index
	view := x.view.Load()
	d := &image{
		super: v.super.encode(), committed: v.committed, rows: rows, sum: v.shown, counts: v.counts,
		chunks: make([]*chunk, len(view.chunks)), changes: append(x.fresh[:len(x.fresh):len(x.fresh)], view.recent.entries()...),
	}
	for i := range view.chunks {
		d.chunks[i] = view.chunks[i].Load()
	}
	v.image.due = d
}

// saveImage writes the image that is due, unless the volume is closed meanwhile
// by another.
func (v *Volume) saveImage(closing bool) {
	v.image.mu.Lock()
	defer v.image.mu.Unlock()
	v.mu.Lock()
	d := v.image.due
	v.image.due = nil
	v.mu.Unlock()
	stop := func() bool { return v.closed.Load() && !closing }
	if d == nil || stop() {
		return
	}
	if err := v.writeImage(d, stop); err != nil {
		if !stop() {
			v.log.Warn("no image of the index; the next start would take longer", "volume", v.id, "err", err)
		}
		return
	}
	v.image.saved.Store(d.rows)
}

// writeImage writes d in the place of the image before, until stop.
func (v *Volume) writeImage(d *image, stop func() bool) error {
	tmp := v.base + extImage + ".tmp"
	f, err := v.opts.FS.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	err = d.encode(io.NewOffsetWriter(f, 0), v.id, v.copy, stop)
	if err = errors.Join(err, f.Close()); err == nil {
		err = v.opts.FS.Rename(tmp, v.base+extImage)
	}
	if err != nil {
		return errors.Join(err, v.opts.FS.Remove(tmp))
	}
	return nil
}

// summing writes, or reads, and sums up what passes.
type summing struct {
	w   io.Writer
	r   io.Reader
	sum uint32
}

func (s *summing) Write(p []byte) (int, error) {
	s.sum = needle.UpdateChecksum(s.sum, p)
	return s.w.Write(p)
}

func (s *summing) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.sum = needle.UpdateChecksum(s.sum, p[:n])
	return n, err
}

func (m *image) encode(to io.Writer, id volume.ID, copy volume.CopyID, stop func() bool) error {
	sum := &summing{w: to}
	w := bufio.NewWriterSize(sum, imageBuffer)
	be := binary.BigEndian
	b := be.AppendUint16([]byte(imageMagic), imageFormat)
	b = be.AppendUint32(append(b, 0, 0), uint32(id))
	b = append(be.AppendUint64(b, uint64(copy)), m.super[:]...)
	b = be.AppendUint64(be.AppendUint64(b, uint64(m.committed)), uint64(m.rows))
	for _, n := range []uint32{m.sum, uint32(len(m.chunks)), uint32(len(m.changes))} {
		b = be.AppendUint32(b, n)
	}
	c := &m.counts
	for _, n := range []uint64{c.files, c.deleted, uint64(c.deletedBytes), uint64(c.maxKey)} {
		b = be.AppendUint64(b, n)
	}
	_, _ = w.Write(b) // Flush answers the first error
	for _, c := range m.chunks {
		if stop() {
			return volume.ErrClosed
		}
		b = be.AppendUint64(be.AppendUint64(be.AppendUint64(b[:0], uint64(c.first)), c.step), c.low)
		b = be.AppendUint16(be.AppendUint32(b, c.offset), uint16(c.n))
		exact := byte(0)
		if c.exact {
			exact = 1
		}
		_, _ = w.Write(append(b, c.keyBits, c.offsetBits, c.sizeBits, exact))
		_, _ = w.Write(c.data[:c.length()-chunkPad])
	}
	for _, e := range m.changes {
		_, _ = w.Write(be.AppendUint64(be.AppendUint64(b[:0], uint64(e.key)), uint64(e.at)))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := to.Write(be.AppendUint32(nil, sum.sum))
	return err
}

// errNoImage says that an image does not belong to what is beside it.
var errNoImage = errors.New("image of the index: is not of these files")

// decodeImage reads an image of size bytes. fits judges the front of it before
// the rest is read.
func decodeImage(f io.ReaderAt, size int64, id volume.ID, copy volume.CopyID, fits func(*image) error) (*image, error) {
	if size < imageHeader+4 {
		return nil, errors.New("image of the index: is cut short")
	}
	sum := &summing{r: io.NewSectionReader(f, 0, size-4)}
	r := bufio.NewReaderSize(sum, imageBuffer)
	m, err := decodeImageHeader(r, size, id, copy)
	if err == nil {
		err = fits(m)
	}
	if err != nil {
		return nil, err
	}
	for i := range m.chunks {
		if m.chunks[i], err = decodeChunk(r); err != nil {
			return nil, err
		}
		if i > 0 && m.chunks[i].first <= m.chunks[i-1].first {
			return nil, errors.New("image of the index: chunks are out of order")
		}
	}
	var b [imageChange]byte
	for i := range m.changes {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return nil, err
		}
		m.changes[i] = entry{volume.Key(binary.BigEndian.Uint64(b[:])), place(binary.BigEndian.Uint64(b[8:]))}
		if m.changes[i].at == 0 {
			return nil, errors.New("image of the index: a change without a place")
		}
	}
	if _, err := r.ReadByte(); err != io.EOF {
		return nil, fmt.Errorf("image of the index: bytes after its end (%w)", err)
	}
	if _, err := f.ReadAt(b[:4], size-4); err != nil {
		return nil, err
	}
	if binary.BigEndian.Uint32(b[:]) != sum.sum {
		return nil, errors.New("image of the index: fails its checksum")
	}
	return m, nil
}

func decodeImageHeader(r io.Reader, size int64, id volume.ID, copy volume.CopyID) (*image, error) {
	var b [imageHeader]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return nil, err
	}
	u32 := func(off int) uint32 { return binary.BigEndian.Uint32(b[off:]) }
	u64 := func(off int) uint64 { return binary.BigEndian.Uint64(b[off:]) }
	if string(b[:8]) != imageMagic || binary.BigEndian.Uint16(b[8:]) != imageFormat || volume.ID(u32(12)) != id || volume.CopyID(u64(16)) != copy {
		return nil, errNoImage
	}
	chunks, changes := int64(u32(52)), int64(u32(56))
	if imageHeader+chunks*imageChunk+changes*imageChange+4 > size {
		return nil, errors.New("image of the index: is cut short")
	}
	return &image{
		super: [SuperBlockSize]byte(b[24:]), committed: int64(u64(32)), rows: int64(u64(40)), sum: u32(48),
		counts: counts{files: u64(60), deleted: u64(68), deletedBytes: int64(u64(76)), maxKey: volume.Key(u64(84))},
		chunks: make([]*chunk, chunks), changes: make([]entry, changes),
	}, nil
}

func decodeChunk(r io.Reader) (*chunk, error) {
	var b [imageChunk]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return nil, err
	}
	be := binary.BigEndian
	c := &chunk{
		first: volume.Key(be.Uint64(b[:])), step: be.Uint64(b[8:]), low: be.Uint64(b[16:]),
		offset: be.Uint32(b[24:]), n: uint32(be.Uint16(b[28:])), keyBits: b[30], offsetBits: b[31], sizeBits: b[32], exact: b[33] == 1,
	}
	if c.n < 1 || c.n > chunkMax || c.keyBits > 64 || c.offsetBits > 32 || c.sizeBits > 32 || c.exact && (c.keyBits > 62 || c.step >= 1<<62) {
		return nil, errors.New("image of the index: a chunk does not add up")
	}
	c.data = make([]byte, c.length())
	_, err := io.ReadFull(r, c.data[:len(c.data)-chunkPad])
	return c, err
}

// index makes an index of m.
func (m *image) index() *index {
	v := &indexView{recent: newTable(0), firsts: make([]volume.Key, len(m.chunks)), chunks: make([]atomic.Pointer[chunk], len(m.chunks))}
	for i, c := range m.chunks {
		v.firsts[i] = c.first
		v.chunks[i].Store(c)
	}
	x := &index{}
	x.view.Store(v)
	for _, e := range m.changes {
		x.set(e.key, e.at)
	}
	return x
}

// loadImage takes the index from its image, if it fits the checkpoint and the
// row of .idx that it ends with.
func (r *recovery) loadImage() error {
	v := r.v
	f, err := v.opts.FS.OpenFile(v.base+extImage, os.O_RDONLY)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	size, err := f.Size()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	m, err := decodeImage(f, size, v.id, v.copy, r.imageFits)
	if err = errors.Join(err, f.Close()); err != nil {
		v.log.Info("image of the index is not used", "volume", v.id, "err", err)
		return nil
	}
	r.index, v.counts = m.index(), m.counts
	r.pos, r.rows = m.committed, m.rows
	v.image.saved.Store(m.rows)
	return nil
}

// imageFits decides whether m tells of these files. The checkpoint knows the
// checksum of the first bytes of .dat, and what they are determines the index.
func (r *recovery) imageFits(m *image) error {
	super := r.v.super.encode()
	if m.super != super || m.committed < SuperBlockSize || m.committed > r.ckpt.committed || m.rows < 1 || m.rows > r.ckpt.rows {
		return errNoImage
	}
	s, err := r.ckpt.sums.cut(r.v.dat(), m.committed)
	if err != nil {
		return err
	}
	var b [rowSize]byte
	if _, err := r.v.idx.ReadAt(b[:], (m.rows-1)*rowSize); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if s.last != m.sum || decodeRow(b[:]).end(needle.V3) != m.committed {
		return errNoImage
	}
	return nil
}
