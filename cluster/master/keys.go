package master

import (
	"context"
	"fmt"
	"sync"
	"time"

	"weedd/cluster/catalog"
	"weedd/volume"
)

// keys gives out file keys from blocks that the leader granted to this run of
// the process (rule R1): a block lives in memory only, and what is left of it
// at the end of the process is never used.
type keys struct {
	fetch func(ctx context.Context, count uint64) (catalog.Block, error)
	start func(f func(ctx context.Context))

	mu       sync.Mutex
	now      catalog.Block // being used up
	next     catalog.Block // in reserve; empty if From == To
	size     uint64        // of the next block to ask for
	took     time.Time     // when the last block came
	fetching chan struct{} // closed when the fetch under way has ended; nil if none
	err      error         // of the last fetch
}

// A block lasts for half a minute or so at the speed it is used, so that ids go
// on being given out while there is no leader.
const (
	firstBlock = 1 << 14
	maxBlock   = 1 << 24
	blockLasts = 30 * time.Second
	maxCount   = 1 << 20 // ids in one assignment
	// fetchTime bounds one request for a block. It is below the usual
	// Options.Hold, so that those who wait learn why there is none.
	fetchTime = 5 * time.Second
)

// tryTake is take when it need not wait.
func (k *keys) tryTake(count uint64) (first volume.Key, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.takeLocked(count)
}

func (k *keys) takeLocked(count uint64) (first volume.Key, ok bool) {
	if left(k.now) < count && left(k.next) >= count {
		k.now, k.next = k.next, catalog.Block{} // the rest of the old block is wasted, not repeated
	}
	if left(k.now) < count {
		return 0, false
	}
	first = k.now.From
	k.now.From += volume.Key(count)
	if left(k.next) == 0 && left(k.now) < k.size/2 {
		k.fetchLocked(count)
	}
	return first, true
}

// take returns the first of count keys in a row. It waits for a block while ctx
// lets it.
func (k *keys) take(ctx context.Context, count uint64) (volume.Key, error) {
	for {
		k.mu.Lock()
		first, ok := k.takeLocked(count)
		if ok {
			k.mu.Unlock()
			return first, nil
		}
		wait, err := k.fetchLocked(count), k.err
		k.mu.Unlock()
		if err != nil && final(err) {
			return 0, fmt.Errorf("no file ids: %w", err)
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return 0, gaveUp(ctx, err, "no file ids")
		}
	}
}

func left(b catalog.Block) uint64 { return uint64(b.To - b.From) }

// fetchLocked starts a fetch unless one is under way, and returns a channel that
// is closed when it has ended.
func (k *keys) fetchLocked(count uint64) <-chan struct{} {
	if k.fetching != nil {
		return k.fetching
	}
	switch {
	case k.size == 0:
		k.size = firstBlock
	case k.err == nil && time.Since(k.took) < blockLasts && k.size < maxBlock:
		k.size *= 2
	}
	want, done := max(k.size, count), make(chan struct{})
	k.fetching = done
	k.start(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, fetchTime)
		defer cancel()
		b, err := k.fetch(ctx, want)
		if err == nil && left(b) < count {
			err = fmt.Errorf("%w: asked for %d keys, given %d", volume.ErrBadRequest, want, left(b))
		}
		if err != nil {
			pause(ctx, retryPause) // those who wait try again when this has ended
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.err = err; err == nil {
			k.next, k.took = b, time.Now()
		}
		k.fetching = nil
		close(done)
	})
	return done
}
