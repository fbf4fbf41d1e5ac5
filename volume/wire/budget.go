package wire

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"time"

	"golang.org/x/sync/semaphore"

	"weedd/volume"
	"weedd/volume/needle"
)

// Budget bounds the memory of the uploads that one API receives and stores at a
// time. It counts what each really takes at its worst: see needle.Footprint. Safe
// for concurrent use.
type Budget struct {
	bytes   int64
	room    *semaphore.Weighted // nil for no limit
	wait    time.Duration
	metrics *Metrics
}

// NewBudget makes a budget of so many bytes, 0 for no limit, in which an upload
// waits for room so long. An upload that takes more than all of it goes alone.
func NewBudget(bytes int64, wait time.Duration, m *Metrics) *Budget {
	b := &Budget{bytes: bytes, wait: wait, metrics: m}
	if bytes > 0 {
		b.room = semaphore.NewWeighted(bytes)
	}
	return b
}

// unknownFirst is how long a body without a length is taken to be at first.
const unknownFirst = 64 << 10

// Admit waits until the body of r has room, of which at most so many bytes are in
// memory at a time; release gives it back. A body that does not say its length takes
// more as it is read, and reading it fails when there is none. Errors are
// volume.ErrBusy.
func (b *Budget) Admit(r *http.Request, most int64) (release func(), err error) {
	h := &holding{budget: b, ctx: r.Context(), most: most}
	if r.ContentLength >= 0 {
		err = h.grow(needle.Footprint(min(r.ContentLength, most)))
	} else {
		h.body, h.covers = r.Body, unknownFirst
		r.Body = h
		err = h.grow(footprintUnknown(h.covers))
	}
	return func() { h.grow(0) }, err // less is always granted
}

// footprintUnknown is needle.Footprint for a body whose buffer grows while it is
// read: the old one and the new one, a quarter larger, are there at once.
func footprintUnknown(n int64) int64 { return max(needle.Footprint(n), 5*n/2) }

// holding is what one upload has of a budget, and the body of one of unknown length.
type holding struct {
	budget *Budget
	ctx    context.Context // of the request
	held   int64
	body   io.ReadCloser
	read   int64
	covers int64 // bytes of body for which there is room
	most   int64 // bytes of body in memory at a time
}

// grow makes what is held n, or all of the budget if that is less.
func (h *holding) grow(n int64) error {
	b := h.budget
	if b.room != nil {
		n = min(n, b.bytes)
	}
	more := n - h.held
	if b.room != nil && more > 0 && !b.room.TryAcquire(more) {
		ctx, cancel := context.WithTimeout(h.ctx, b.wait)
		defer cancel()
		if err := b.room.Acquire(ctx, more); err != nil {
			return fmt.Errorf("%w: %d bytes more do not fit the limit of %d bytes of memory for uploads", volume.ErrBusy, more, b.bytes)
		}
	}
	if b.room != nil && more < 0 {
		b.room.Release(-more)
	}
	b.metrics.Uploading(more)
	h.held = n
	return nil
}

// Read implements io.Reader: of the body, within what there is room for.
func (h *holding) Read(p []byte) (int, error) {
	for h.read >= h.covers {
		if err := h.grow(footprintUnknown(min(2*h.covers, h.most))); err != nil {
			return 0, err
		}
		if h.covers *= 2; h.covers >= h.most {
			h.covers = math.MaxInt64
		}
	}
	n, err := h.body.Read(p[:min(int64(len(p)), h.covers-h.read)])
	h.read += int64(n)
	return n, err
}

// Close implements io.Closer.
func (h *holding) Close() error { return h.body.Close() }
