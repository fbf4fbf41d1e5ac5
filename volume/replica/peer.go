package replica

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"weedd/volume"
)

// peer is the primary's side of the stream to one other copy. It reads the log
// as a follower of the file would: catching up and keeping up are one thing.
// Fields are guarded by Replica.mu unless noted.
type peer struct {
	holder   volume.Holder
	cancel   context.CancelFunc
	poke     chan struct{} // buffered: look again for something to send
	link     Link          // nil while there is none
	since    time.Time     // when the last link that it answered by was lost, or it began without one
	stream   uint64
	epoch    volume.Epoch // that stream was offered in
	attached bool
	answered bool  // it has acknowledged something by the last link
	next     int64 // offset of the next byte to send
	backlog  int64 // what it lacked when it attached ends here: that is sent at the pace of repairs
	durable  int64 // what it last said that it has
	sentSeq  uint64
	told     int64        // committed length last told
	heard    atomic.Int64 // unix ns of the last message from it
	asked    time.Time    // when the oldest unanswered message was sent; zero when all are answered
}

// attachLocked makes sure that a goroutine serves the peer, and that it says
// hello in the epoch now in force.
func (r *Replica) attachLocked(h volume.Holder) {
	if r.closed {
		return
	}
	if p := r.peers[h]; p != nil {
		p.attached, p.epoch = false, 0
		p.pokeNow()
		return
	}
	ctx, cancel := context.WithCancel(r.ctx)
	p := &peer{holder: h, cancel: cancel, poke: make(chan struct{}, 1), since: time.Now()}
	r.peers[h] = p
	r.goLocked(func() { r.serve(ctx, p) })
}

func (p *peer) pokeNow() {
	select {
	case p.poke <- struct{}{}:
	default:
	}
}

func (p *peer) closeLocked() {
	p.cancel()
	if p.link != nil {
		p.link.Close()
	}
}

// pokeLocked makes all peers look for something to send.
func (r *Replica) pokeLocked() {
	for _, p := range r.peers {
		p.pokeNow()
	}
}

// prunePeersLocked ends the links to copies that are peers no more. Between two
// epochs of its own a copy has none, and keeps its links for the second.
func (r *Replica) prunePeersLocked() {
	if len(r.peers) == 0 || r.core.holds && !r.core.Leading() && !r.closed {
		return
	}
	wanted := r.core.Peers()
	for h, p := range r.peers {
		if !slices.Contains(wanted, h) {
			p.closeLocked()
			delete(r.peers, h)
		}
	}
}

// lateLocked reports whether the peer holds up a write that waits since then.
func (p *peer) lateLocked(r *Replica, since, now time.Time) bool {
	if p.link == nil || !p.attached {
		begun := p.since
		if since.After(begun) {
			begun = since
		}
		limit := unreachable
		if p.link != nil { // it is there but has not said welcome
			limit = unanswered
		}
		return now.Sub(begun) > limit
	}
	if p.asked.IsZero() {
		return false
	}
	// A large record has to arrive and be written before there is an answer.
	limit := unanswered + time.Duration(max(p.next-p.durable, 0))*time.Second/slowest
	return now.Sub(p.asked) > limit && now.Sub(since) > limit && now.UnixNano()-p.heard.Load() > int64(limit)
}

// serve keeps a link to p for as long as it is a peer.
func (r *Replica) serve(ctx context.Context, p *peer) {
	wait := redialFirst
	for ctx.Err() == nil {
		err := r.session(ctx, p)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			r.opts.Logger.Debug("stream to copy ended", "volume", r.opts.Volume, "peer", p.holder.Node, "err", err)
		}
		r.mu.Lock()
		if p.answered {
			p.answered, wait = false, redialFirst
		}
		r.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait + rand.N(wait/4+1)): // all volumes of a lost node would dial at once
		}
		wait = min(2*wait, redialLast)
	}
}

// session is one link from its opening to its end.
func (r *Replica) session(ctx context.Context, p *peer) (err error) {
	link, err := r.opts.Dial(ctx, p.holder.Node)
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	defer link.Close()
	r.mu.Lock()
	if ctx.Err() != nil { // closeLocked came before there was a link to close
		r.mu.Unlock()
		return ctx.Err()
	}
	p.link, p.attached, p.epoch, p.asked = link, false, 0, time.Time{}
	r.mu.Unlock()
	received := make(chan error, 1)
	linked, ended := context.WithCancel(ctx)
	defer ended()
	r.work.Add(1)
	go func() {
		defer r.work.Done()
		defer ended()
		received <- r.receive(p, link)
		p.pokeNow()
	}()
	err = r.send(ctx, linked, p, link, received)
	link.Close()
	if rerr := <-received; rerr != nil && err == nil {
		err = rerr
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.link == link {
		r.core.Detached(p.holder, p.stream)
		p.link, p.attached = nil, false
		if p.answered { // one that welcomes us and then does nothing is out of reach, too
			p.since = time.Now()
		}
		r.effectsLocked()
	}
	return err
}

// send sends what there is to send until the link ends; linked ends with it.
func (r *Replica) send(ctx, linked context.Context, p *peer, link Link, received chan error) error {
	idle := time.NewTimer(time.Hour)
	defer idle.Stop()
	for {
		r.opts.Pace.wait(linked, r.owed(p))
		m, notice, err := r.nextMessage(p)
		if err != nil {
			return err
		}
		if m != nil {
			if err := link.Send(m); err != nil {
				return fmt.Errorf("send: %w", err)
			}
			continue
		}
		idle.Reset(time.Hour)
		if notice {
			idle.Reset(noticeDelay)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-received:
			received <- nil
			return err
		case <-p.poke:
		case <-idle.C:
			r.mu.Lock()
			if p.attached && p.told < r.core.Committed() {
				m = r.batchLocked(p, nil)
			}
			r.mu.Unlock()
			if m != nil {
				if err := link.Send(m); err != nil {
					return fmt.Errorf("send: %w", err)
				}
			}
		}
	}
}

// owed is how many bytes of the next message for p are repair. A copy in sync is
// never held back: writes wait for it. Nor are records appended since a copy
// attached, or it would never catch up with a volume that is written faster than
// the pace.
func (r *Replica) owed(p *peer) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !p.attached || slices.Contains(r.core.Entry().InSync, p.holder) {
		return 0
	}
	return min(p.backlog-p.next, maxFrame)
}

// nextMessage returns the next message for p: a hello in a new epoch, a batch,
// or nil. notice says that p has yet to be told a committed length.
func (r *Replica) nextMessage(p *peer) (m *Message, notice bool, err error) {
	r.mu.Lock()
	if r.peers[p.holder] != p {
		// Another took its place, as when the lead went and came back: a hello
		// from here would end the stream of that one, and nobody would notice.
		r.mu.Unlock()
		return nil, false, context.Canceled
	}
	if epoch := r.core.Epoch(); r.core.Leading() && p.epoch != epoch {
		defer r.mu.Unlock()
		stream := rand.Uint64() | 1
		hello, ok := r.core.Hello(p.holder, stream)
		if !ok {
			return nil, false, nil
		}
		// A batch that carried a barrier may have died with the link before.
		p.stream, p.epoch, p.attached, p.asked, p.sentSeq = stream, epoch, false, time.Now(), 0
		return &hello, false, nil
	}
	if !p.attached || !r.core.Leading() {
		r.mu.Unlock()
		return nil, false, nil
	}
	if c, ok := r.core.Control(p.holder); ok {
		r.mu.Unlock()
		return &c, false, nil
	}
	// Not up to the end of the log: the core takes no acknowledgement of bytes
	// that it has not heard of yet.
	stream, from, end, barrier := p.stream, p.next, r.core.end, r.core.BarrierSeq() > p.sentSeq
	r.mu.Unlock()
	if from >= end && !barrier {
		r.mu.Lock()
		defer r.mu.Unlock()
		return nil, p.told < r.core.Committed(), nil
	}
	// A buffer of its own for each message: the connection may use it after Send.
	buf := make([]byte, min(max(end-from, 0), maxFrame))
	if len(buf) > 0 { // a barrier may be all there is to send
		if _, err := r.opts.Log.ReadAt(buf, from); err != nil {
			return nil, false, fmt.Errorf("read back at %d: %w", from, err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.stream != stream || !p.attached || !r.core.Leading() {
		// Attached anew meanwhile: the poke is still to come. Or deposed: the log
		// may have been cut under the read.
		return nil, false, nil
	}
	return r.batchLocked(p, buf), false, nil
}

func (r *Replica) batchLocked(p *peer, records []byte) *Message {
	m := &Message{Kind: KindBatch, Stream: p.stream, Seq: r.core.NextSeq(), Offset: p.next, Bytes: records, Committed: r.core.Committed()}
	p.next += int64(len(records))
	p.sentSeq, p.told = m.Seq, m.Committed
	if p.asked.IsZero() {
		p.asked = time.Now()
	}
	return m
}

// receive takes the answers of p until the link ends.
func (r *Replica) receive(p *peer, link Link) error {
	for {
		m, err := link.Recv()
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		now := time.Now()
		p.heard.Store(now.UnixNano())
		switch m.Kind {
		case KindWelcome:
			r.welcomed(p, m)
		case KindRefusal:
			r.mu.Lock()
			r.core.Refused(p.holder, *m)
			r.effectsLocked()
			r.mu.Unlock()
			return fmt.Errorf("refused: %s: %s", m.Code, m.Reason)
		case KindAck:
			r.mu.Lock()
			if m.Stream == p.stream {
				p.durable, p.asked, p.answered = m.Durable, time.Time{}, true
				if m.Seq < p.sentSeq {
					p.asked = now // the next one is being worked on
				}
			}
			r.core.Acked(p.holder, *m)
			r.effectsLocked()
			r.mu.Unlock()
		case KindLeaving:
			r.mu.Lock()
			r.core.Leaving(p.holder, *m)
			r.effectsLocked()
			r.mu.Unlock()
		case KindBuilt, KindReady, KindCompactionFailed:
			r.mu.Lock()
			r.core.Answered(p.holder, *m)
			r.effectsLocked()
			r.mu.Unlock()
		default:
			return fmt.Errorf("%w: a %s from a copy that follows", volume.ErrBadRequest, m.Kind)
		}
	}
}

// welcomed compares what both copies have up to the follower's end, and begins
// to send from there.
func (r *Replica) welcomed(p *peer, m *Message) {
	sum, err := r.opts.Log.Checksum(m.End)
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.Stream != p.stream {
		return
	}
	p.asked = time.Time{}
	if err != nil {
		r.opts.Logger.Error("cannot compare with a copy", "volume", r.opts.Volume, "peer", p.holder.Node, "err", err)
		p.link.Close()
		return
	}
	same := sum == m.Checksum
	if !same {
		r.opts.Logger.Warn("a copy differs and is to be made anew", "volume", r.opts.Volume, "peer", p.holder.Node, "upto", m.End)
	}
	r.core.Welcomed(p.holder, *m, same)
	if same {
		p.attached, p.next, p.durable, p.told = true, m.End, m.End, 0
		p.backlog = r.core.end
	}
	r.effectsLocked()
	p.pokeNow()
}
