package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
)

// Lookup finds the newest published record of a key, deletions included. It
// neither waits nor allocates.
func (v *Volume) Lookup(key volume.Key) (Row, bool) {
	f := v.files.Load()
	p, page := f.index.get(key), int64(0)
	if v.alien.far != nil {
		p, page = v.findForeign(f.index, key)
	}
	if p == 0 {
		return Row{}, false
	}
	r := p.row()
	r.Offset += page * farPage
	r.key, r.in = key, f
	return r, true
}

// Latest finds the newest record of a key, pending ones included.
func (v *Volume) Latest(key volume.Key) (Row, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if r, ok := v.newest[key]; ok {
		return Row{Offset: r.offset, Size: r.size, Pending: true, was: -1, key: key, in: v.files.Load()}, true
	}
	return v.Lookup(key)
}

// ReadHeader reads the header of the record that r points to.
func (v *Volume) ReadHeader(r Row) (needle.Header, error) {
	n, buf := needle.Get(needle.HeaderSize)
	defer n.Release()
	for r.Offset > 0 {
		err := v.readFull(r.in, buf, r.Offset)
		if !v.moved(&r, err) {
			return needle.ParseHeader(buf), err
		}
	}
	return needle.Header{}, volume.ErrNotFound
}

// moved reports whether a read of r failed with err because a compaction has
// closed the file that r was looked up in, and makes r the newest record of its
// key in the new file. It has no offset when there is none any more.
func (v *Volume) moved(r *Row, err error) bool {
	if err == nil || !errors.Is(err, volume.ErrStale) {
		return false
	}
	again, ok := v.Lookup(r.key)
	if !ok {
		again = Row{Size: -1, was: -1, key: r.key}
	}
	*r = again
	return true
}

// Read reads the record that r points to, checks its checksum and that it is
// the one r means, and returns it; the caller calls Release on it. Bytes that
// fail a check are a *volume.CorruptError, a deletion is volume.ErrNotFound.
func (v *Volume) Read(r Row) (*needle.Needle, error) {
	for {
		if r.Size < 0 {
			return nil, fmt.Errorf("volume %d: record at %d deletes its key: %w", v.id, r.Offset, volume.ErrNotFound)
		}
		n, err := v.readNeedle(r)
		if err == nil {
			n.Tombstone = false // an empty file with a checksum; the row knows
		}
		if !v.moved(&r, err) {
			return n, err
		}
	}
}

// readNeedle reads a record of r.Size.
func (v *Volume) readNeedle(r Row) (*needle.Needle, error) {
	n, buf := needle.Get(int(needle.Length(r.Size, v.super.version)))
	if err := v.readFull(r.in, buf, r.Offset); err != nil {
		n.Release()
		return nil, err
	}
	err := v.decode(n, buf, r)
	if err != nil && v.alien.shards != nil {
		err = v.readAround(n, buf, r, err)
	}
	if err != nil {
		n.Release()
		return nil, v.corrupt(r.Offset, err.Error())
	}
	return n, nil
}

func (v *Volume) decode(n *needle.Needle, buf []byte, r Row) error {
	err := n.Decode(buf, v.super.version)
	if err == nil && needle.ParseHeader(buf).Size != r.Size {
		err = errors.New("size is not that of the index")
	}
	return err
}

func (v *Volume) corrupt(offset int64, reason string) error {
	return &volume.CorruptError{Volume: v.id, Offset: offset, Reason: reason}
}

// readFull reads len(p) bytes of f's .dat, nil being that of now. The error is
// volume.ErrStale if f was replaced and closed.
func (v *Volume) readFull(f *files, p []byte, off int64) error {
	if f == nil {
		f = v.files.Load()
	}
	_, err := f.dat.ReadAt(p, off)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF):
		return v.corrupt(off, errTorn.Error())
	case errors.Is(err, os.ErrClosed) && f != v.files.Load():
		return fmt.Errorf("read volume %d: %w: its files were replaced", v.id, volume.ErrStale)
	case errors.Is(err, os.ErrClosed):
		return fmt.Errorf("read volume %d: %w", v.id, volume.ErrClosed)
	}
	return fmt.Errorf("read volume %d at %d: %w", v.id, off, err)
}

// Get reads a published file; the caller calls Release on it. What is absent,
// deleted (unless readDeleted), expired at now, or has another cookie, is
// volume.ErrNotFound.
func (v *Volume) Get(key volume.Key, cookie volume.Cookie, now time.Time, readDeleted bool) (*needle.Needle, error) {
	r, ok := v.Lookup(key)
	if !ok {
		return nil, volume.ErrNotFound
	}
	for {
		n, err := v.get(r, cookie, now, readDeleted)
		if !v.moved(&r, err) {
			return n, err
		}
	}
}

// get reads the file whose newest published record is r.
func (v *Volume) get(r Row, cookie volume.Cookie, now time.Time, readDeleted bool) (*needle.Needle, error) {
	deleted := r.Deleted()
	if deleted {
		if !readDeleted || r.was < 0 {
			return nil, volume.ErrNotFound
		}
		r.Size = r.was
	}
	n, err := v.readNeedle(r)
	if err != nil {
		return nil, err
	}
	switch {
	case n.Key != r.key:
		err = v.corrupt(r.Offset, "key is not that of the index")
	case n.Cookie != cookie, v.Expired(n, now), deleted && n.Tombstone:
		err = volume.ErrNotFound
	}
	if err != nil {
		n.Release()
		return nil, err
	}
	n.Tombstone = false
	return n, nil
}

// Expired reports whether n's time to live is over since it was appended. That
// is its own, or else that of the volume; but for SeaweedFS files without one of
// their own (empty ones, and all of version 1) are not mortal.
func (v *Volume) Expired(n *needle.Needle, now time.Time) bool {
	if e := v.alien.expires; e != 0 && now.Unix() > e {
		return true
	}
	ttl := v.life(n)
	return ttl > 0 && !now.Before(time.Unix(0, int64(n.AppendedAt)).Add(ttl))
}

// life is n's time to live, 0 for ever.
func (v *Volume) life(n *needle.Needle) time.Duration {
	if n.Has(needle.FlagTTL) && !n.TTL.IsZero() || v.Foreign() {
		return n.TTL.Duration()
	}
	return v.super.ttl.Duration()
}

// ReadAt reads raw bytes of .dat below End, for other copies. It answers io.EOF
// with fewer bytes than asked for at End, and may answer volume.ErrStale when the
// files are replaced meanwhile.
func (v *Volume) ReadAt(p []byte, off int64) (int, error) {
	v.mu.Lock()
	end, f := v.end, v.files.Load()
	v.mu.Unlock()
	if off >= end {
		return 0, io.EOF
	}
	short := off+int64(len(p)) > end
	if short {
		p = p[:end-off]
	}
	if err := v.readFull(f, p, off); err != nil {
		return 0, err
	}
	if short {
		return len(p), io.EOF
	}
	return len(p), nil
}

// Checksum is the CRC-32C of the first upto bytes of .dat, as they were
// appended; at most one MiB of it is read (all of it in a foreign volume). When
// what is read is not what was appended the error is a volume.CorruptError: this
// copy must not be held against another.
func (v *Volume) Checksum(upto int64) (uint32, error) {
	v.mu.Lock()
	s, end, dat := v.sums, v.end, v.dat()
	v.mu.Unlock()
	if upto < 0 || upto > end {
		return 0, fmt.Errorf("%w: checksum of %d bytes of volume %d, which has %d", volume.ErrBadRequest, upto, v.id, end)
	}
	part, err := s.cut(dat, upto)
	if err == nil && upto < s.end && upto%sumBlock != 0 {
		var whole sums
		if whole, err = part.cut(dat, min((upto/sumBlock+1)*sumBlock, s.end)); err == nil && whole.last != s.at(whole.end) {
			err = &volume.CorruptError{Volume: v.id, Offset: upto / sumBlock * sumBlock, Reason: "the MiB from there on is not as it was appended"}
		}
	}
	if err != nil {
		return 0, fmt.Errorf("checksum of volume %d: %w", v.id, err)
	}
	return part.last, nil
}
