// Package volumetest has one behaviour suite for everything that keeps blobs,
// and a store in memory that passes it, for the tests of what sits above.
package volumetest

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
)

// Store is what the suite runs on.
type Store interface {
	Put(ctx context.Context, id volume.FileID, n *needle.Needle, createOnly bool) (volume.PutResult, error)
	Get(ctx context.Context, id volume.FileID, readDeleted bool) (*needle.Needle, error)
	Delete(ctx context.Context, id volume.FileID, modified uint64) (size int64, err error)
}

// Blobs is a Store in memory. It keeps encoded records, so that what is read has
// been through the format. Safe for concurrent use.
type Blobs struct {
	mu      sync.Mutex
	volumes map[volume.ID]map[volume.Key]*record
	last    uint64 // append time of the newest record
}

type record struct {
	bytes   []byte
	deleted bool
}

// NewBlobs makes a store with the given volumes, all empty.
func NewBlobs(volumes ...volume.ID) *Blobs {
	b := &Blobs{volumes: make(map[volume.ID]map[volume.Key]*record)}
	for _, id := range volumes {
		b.volumes[id] = make(map[volume.Key]*record)
	}
	return b
}

// Len is how many files there are, deleted ones included.
func (b *Blobs) Len() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, files := range b.volumes {
		n += len(files)
	}
	return n
}

// Put is that of Store.
func (b *Blobs) Put(_ context.Context, id volume.FileID, n *needle.Needle, createOnly bool) (volume.PutResult, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	files, ok := b.volumes[id.Volume]
	if !ok {
		return volume.PutResult{}, fmt.Errorf("%w: volume %d not found", volume.ErrNoVolume, id.Volume)
	}
	res := volume.PutResult{Checksum: needle.Checksum(n.Data), Size: int64(len(n.Data))}
	if rec := files[id.Key]; rec != nil {
		old := rec.decode()
		defer old.Release()
		same := !rec.deleted && sameFile(old, n)
		switch {
		case old.Cookie != id.Cookie:
			return volume.PutResult{}, fmt.Errorf("%w: mismatching cookie %x", volume.ErrCookie, id.Cookie)
		case same && (createOnly || n.TTL.IsZero() && len(n.Data) > 0):
			res.Unchanged = true
			return res, nil
		case createOnly:
			return volume.PutResult{}, fmt.Errorf("%w: file %s", volume.ErrExists, id)
		}
	}
	b.last = max(b.last+1, uint64(time.Now().UnixNano()))
	stored := *n
	stored.Key, stored.Cookie, stored.AppendedAt = id.Key, id.Cookie, b.last
	rec, err := needle.Append(nil, &stored)
	if err != nil {
		return volume.PutResult{}, fmt.Errorf("store %s: %w", id, err)
	}
	files[id.Key] = &record{bytes: rec}
	return res, nil
}

// sameFile compares all but times.
func sameFile(old, n *needle.Needle) bool {
	return old.Flags == n.Flags && old.TTL == n.TTL && bytes.Equal(old.Data, n.Data) &&
		bytes.Equal(old.Name, n.Name) && bytes.Equal(old.Mime, n.Mime) && bytes.Equal(old.Pairs, n.Pairs)
}

func (r *record) decode() *needle.Needle {
	n, buf := needle.Get(len(r.bytes))
	copy(buf, r.bytes)
	if err := n.Decode(buf, needle.V3); err != nil {
		panic(err) // it was encoded a moment ago
	}
	return n
}

// findLocked gives the record under id if the cookie is right. b.mu must be held.
func (b *Blobs) findLocked(id volume.FileID, readDeleted bool) (*record, *needle.Needle, error) {
	files, ok := b.volumes[id.Volume]
	if !ok {
		return nil, nil, fmt.Errorf("%w: volume %d not found", volume.ErrNoVolume, id.Volume)
	}
	rec := files[id.Key]
	if rec == nil || rec.deleted && !readDeleted {
		return nil, nil, fmt.Errorf("%w: file %s", volume.ErrNotFound, id)
	}
	n := rec.decode()
	if n.Cookie != id.Cookie {
		n.Release()
		return nil, nil, fmt.Errorf("%w: file %s", volume.ErrCookie, id)
	}
	if ttl := n.TTL.Duration(); ttl > 0 && time.Since(time.Unix(0, int64(n.AppendedAt))) > ttl {
		n.Release()
		return nil, nil, fmt.Errorf("%w: file %s", volume.ErrNotFound, id)
	}
	return rec, n, nil
}

// Get is that of Store.
func (b *Blobs) Get(_ context.Context, id volume.FileID, readDeleted bool) (*needle.Needle, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, n, err := b.findLocked(id, readDeleted)
	return n, err
}

// Delete is that of Store.
func (b *Blobs) Delete(_ context.Context, id volume.FileID, _ uint64) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	rec, n, err := b.findLocked(id, false)
	if err != nil {
		return 0, err
	}
	defer n.Release()
	rec.deleted = true
	return n.BodySize(needle.V3), nil
}
