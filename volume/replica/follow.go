package replica

import (
	"context"
	"errors"
	"fmt"

	"weedd/volume"
	"weedd/volume/needle"
)

// following is the follower's side of one stream.
type following struct {
	link    Link
	ended   chan struct{}
	poke    chan struct{} // buffered: the core has something to say
	partial []byte        // the front of a record whose rest has not arrived
}

// Serve is the follower's side of a link that a primary opened. It returns when
// the link ends, or a newer one takes its place.
func (r *Replica) Serve(ctx context.Context, link Link) error {
	f := &following{link: link, ended: make(chan struct{}), poke: make(chan struct{}, 1)}
	defer link.Close()
	if err := r.takeOver(ctx, f); err != nil {
		return err
	}
	defer r.work.Done()
	defer close(f.ended)
	defer r.unfollow(f)
	in := make(chan *Message, 16)
	received := make(chan error, 1)
	done := make(chan struct{})
	defer func() {
		close(done)
		link.Close()
		<-received
	}()
	go func() {
		defer close(received)
		defer close(in)
		for {
			m, err := link.Recv()
			if err != nil {
				return
			}
			select {
			case in <- m:
			case <-done:
				return
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.ctx.Done():
			return volume.ErrClosed
		case <-f.poke:
			if err := r.speak(f); err != nil {
				return err
			}
		case m, ok := <-in:
			if !ok {
				return nil
			}
			if err := r.followed(f, m, in); err != nil {
				return err
			}
		}
	}
}

// takeOver ends the stream followed before, so that one at a time writes. Close
// waits for the stream from then on.
func (r *Replica) takeOver(ctx context.Context, f *following) error {
	for {
		r.mu.Lock()
		if r.closed {
			r.mu.Unlock()
			return volume.ErrClosed
		}
		old := r.follower
		if old == nil {
			r.follower = f
			r.work.Add(1)
			r.mu.Unlock()
			return nil
		}
		r.mu.Unlock()
		old.link.Close()
		select {
		case <-old.ended:
		case <-r.ctx.Done():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *Replica) unfollow(f *following) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.follower != f {
		return
	}
	r.follower = nil
	if stream, ok := r.core.Following(); ok {
		r.core.Unfollowed(stream)
		r.effectsLocked()
	}
}

// followed handles one message and whatever batches came with it.
func (r *Replica) followed(f *following, m *Message, in <-chan *Message) error {
	switch m.Kind {
	case KindHello:
		return r.hello(f, m)
	case KindBatch:
		if !r.follows(m.Stream) {
			return nil // of an epoch that has passed; the next hello may come by this link
		}
		return r.batches(f, m, in)
	case KindCompact, KindFinishCompaction, KindAbortCompaction:
		r.mu.Lock()
		r.core.OnCompaction(*m)
		r.effectsLocked()
		r.mu.Unlock()
		return nil
	}
	return fmt.Errorf("%w: a %s from a primary", volume.ErrBadRequest, m.Kind)
}

// speak says what there is to say about a compaction, and that this copy leaves.
func (r *Replica) speak(f *following) error {
	r.mu.Lock()
	answers := r.core.Answers()
	if stream, ok := r.core.Following(); ok && r.leaving {
		answers = append(answers, Message{Kind: KindLeaving, Stream: stream})
	}
	r.mu.Unlock()
	for i := range answers {
		if err := f.link.Send(&answers[i]); err != nil {
			return err
		}
	}
	return nil
}

func (f *following) pokeNow() {
	select {
	case f.poke <- struct{}{}:
	default:
	}
}

// follows reports whether stream is the one that this copy acknowledges.
func (r *Replica) follows(stream uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, ok := r.core.Following()
	return ok && now == stream
}

// hello brings the log to where the primary's and this copy's agree, makes the
// primary's list of epochs durable, and only then welcomes it (rule R11).
func (r *Replica) hello(f *following, m *Message) error {
	answer, err := r.attach(f, m)
	if answer == nil || err != nil {
		return err
	}
	return f.link.Send(answer)
}

func (r *Replica) attach(f *following, m *Message) (answer *Message, err error) {
	r.logMu.Lock()
	defer r.logMu.Unlock()
	f.partial = nil
	r.mu.Lock()
	plan, refusal := r.core.OnHello(*m)
	r.effectsLocked()
	r.mu.Unlock()
	if refusal != nil {
		return refusal, nil
	}
	sum, end, err := plan.Apply(r.opts.Log)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case short(err): // the link ends, and the primary offers the same on the next
		r.refused = true
		r.standLocked()
		r.core.NotAdopted(plan.Stream, r.opts.Log.End(), r.opts.Log.Durable())
		r.effectsLocked()
		return nil, err
	case err != nil:
		r.failLocked(fmt.Errorf("follow: %w", err))
		return nil, err
	}
	r.core.Adopted(plan.Stream, end)
	r.refused = false
	r.standLocked()
	r.effectsLocked()
	if stream, ok := r.core.Following(); !ok || stream != plan.Stream {
		return nil, nil // a newer epoch came meanwhile, and its hello will
	}
	return &Message{Kind: KindWelcome, Stream: plan.Stream, End: end, Checksum: sum, Leaving: r.leaving}, nil
}

// batches appends m and the batches that wait behind it, syncs once, and
// acknowledges the last.
func (r *Replica) batches(f *following, m *Message, in <-chan *Message) error {
	r.logMu.Lock()
	last, after, err := r.appendAll(f, m, in)
	durable, serr := r.opts.Log.Sync()
	r.mu.Lock()
	switch {
	case err != nil && r.opts.Log.Failed() != nil:
		r.failLocked(err)
	case serr != nil:
		r.failLocked(fmt.Errorf("fsync: %w", serr))
		err = serr
	case errors.Is(err, volume.ErrNoSpace): // soon it is acknowledged without this copy
		r.refused = true
		r.standLocked()
	}
	r.core.Followed(r.opts.Log.End(), durable, last.Committed)
	stream, ok := r.core.Following()
	r.effectsLocked()
	r.mu.Unlock()
	r.logMu.Unlock()
	switch {
	case serr == nil && (!ok || stream != m.Stream): // an epoch passed meanwhile; the next hello may come by this link
		return r.next(f, after, in)
	case err != nil:
		return err
	}
	if err := f.link.Send(&Message{Kind: KindAck, Stream: last.Stream, Seq: last.Seq, Durable: durable}); err != nil {
		return err
	}
	return r.next(f, after, in)
}

// next handles the message that came behind batches, if there was one.
func (r *Replica) next(f *following, m *Message, in <-chan *Message) error {
	if m == nil {
		return nil
	}
	return r.followed(f, m, in)
}

// appendAll appends m and what waits behind it. It returns the last batch that
// it appended, an empty one for none, and a message behind it that is none.
func (r *Replica) appendAll(f *following, m *Message, in <-chan *Message) (last, after *Message, err error) {
	last = new(Message)
	for size := 0; ; {
		if err := r.appendFollowed(f, m); err != nil {
			return last, nil, err
		}
		last = m
		if size += len(m.Bytes); size >= maxBatch {
			return m, nil, nil
		}
		select {
		case next, ok := <-in:
			if !ok {
				return m, nil, nil
			}
			if next.Kind != KindBatch {
				return m, next, nil
			}
			m = next
		default:
			return m, nil, nil
		}
	}
}

// appendFollowed appends the whole records of one batch. A record longer than a
// frame comes in several: its front is kept until the rest is there.
//
// A disk without room does not end the copy: nothing was appended, the link
// ends, and the primary offers the same bytes on the next.
func (r *Replica) appendFollowed(f *following, m *Message) error {
	end := r.opts.Log.End()
	if want := end + int64(len(f.partial)); m.Offset != want {
		return fmt.Errorf("%w: volume %d: a batch for offset %d; this copy ends at %d", volume.ErrStale, r.opts.Volume, m.Offset, want)
	}
	records := m.Bytes
	if len(f.partial) > 0 {
		records = append(f.partial, records...)
	}
	whole, err := wholeRecords(records)
	if err != nil {
		return fmt.Errorf("volume %d: batch at offset %d: %w", r.opts.Volume, m.Offset, err)
	}
	part := *m
	part.Offset, part.Bytes = end, records[:whole]
	r.mu.Lock()
	err = r.core.OnBatch(part)
	r.mu.Unlock()
	if err != nil {
		return err
	}
	if whole > 0 {
		if err := r.opts.Log.Append(part.Bytes); err != nil {
			return err
		}
		records = append([]byte(nil), records[whole:]...) // the rest only: what was appended is not kept
	}
	f.partial = records
	return nil
}

// wholeRecords gives the length of the whole records that b begins with.
func wholeRecords(b []byte) (n int, err error) {
	for len(b)-n >= needle.HeaderSize {
		h := needle.ParseHeader(b[n:])
		if h.Size < 0 {
			return 0, fmt.Errorf("%w: a record with a body of %d bytes", volume.ErrCorrupt, h.Size)
		}
		length := needle.Length(h.Size, needle.V3)
		if length > int64(len(b)-n) {
			break
		}
		n += int(length)
	}
	return n, nil
}
