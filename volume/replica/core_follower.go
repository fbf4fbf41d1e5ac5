package replica

import (
	"fmt"
	"slices"

	"weedd/volume"
)

// OnHello decides on a primary's offer: either an Adopt to carry out, after
// which Adopted is to be called, or a Refusal to send.
func (c *Core) OnHello(m Message) (Adopt, *Message) {
	refuse := func(code Code, format string, args ...any) (Adopt, *Message) {
		return Adopt{}, &Message{Kind: KindRefusal, Stream: m.Stream, Code: code, Reason: fmt.Sprintf(format, args...), Entry: c.entry, End: c.end}
	}
	if m.To != c.self || m.Entry.Volume != c.id {
		return refuse(CodeWrongCopy, "this is copy %s of volume %d on node %s", c.self.Copy, c.id, c.self.Node)
	}
	c.Learn(m.Entry)
	switch h, inSync, ok := m.Entry.Holder(c.self.Node); {
	case m.Entry.Version < c.entry.Version || m.Entry.Epoch < newest(c.epochs):
		return refuse(CodeStale, "version %d in epoch %d has passed", m.Entry.Version, m.Entry.Epoch)
	case !ok || h != c.self:
		return refuse(CodeWrongCopy, "the entry does not list copy %s on node %s", c.self.Copy, c.self.Node)
	case m.From.Node != m.Entry.Primary || !slices.Contains(m.Entry.InSync, m.From) || m.From == c.self || newest(m.Epochs) != m.Entry.Epoch || !plausible(m.Epochs):
		return refuse(CodeStale, "epoch %d is not led by copy %s on node %s", m.Entry.Epoch, m.From.Copy, m.From.Node)
	case c.failed != nil:
		return refuse(CodeFailed, "%v", c.failed)
	case c.busy():
		return refuse(CodeBusy, "its files are being changed")
	default:
		return c.attach(m, inSync, refuse)
	}
}

type refusal func(code Code, format string, args ...any) (Adopt, *Message)

// attach finds the common end of both copies and plans the way there (rule R11).
func (c *Core) attach(m Message, inSync bool, refuse refusal) (Adopt, *Message) {
	diverged := func(why string) (Adopt, *Message) {
		c.diverged = fmt.Errorf("volume %d: copy %s cannot follow node %s in epoch %d: %s", c.id, c.self.Copy, m.From.Node, m.Entry.Epoch, why)
		return refuse(CodeDiverged, "%v", c.diverged)
	}
	epoch, at, ok := common(c.epochs, c.end, m.Epochs, m.End)
	switch {
	case !ok && c.end > Origin:
		return diverged("no epoch in common")
	case !ok:
		at = Origin
	case epoch == m.Entry.Epoch && c.end > m.End:
		// Bytes of this epoch came from this primary. The Hello was overtaken
		// by a later one, or the primary lost its tail: never a reason to cut.
		return refuse(CodeAhead, "it has %d bytes of epoch %d, the Hello speaks of %d", c.end, epoch, m.End)
	}
	if at < c.committed {
		return diverged(fmt.Sprintf("the common end is %d and %d bytes are committed", at, c.committed))
	}
	if inSync && at < m.Committed {
		return refuse(CodeBehind, "the common end is %d and %d bytes are committed", at, m.Committed)
	}
	cut := int64(-1)
	if at < c.end {
		cut = at
	}
	c.follow = stream{} // whatever was followed before
	c.end, c.durable = at, min(c.durable, at)
	c.plan = &plan{stream: m.Stream, epoch: m.Entry.Epoch, epochs: m.Epochs}
	return Adopt{Stream: m.Stream, Cut: cut, Epochs: m.Epochs}, nil
}

// Adopted says that the Adopt of stream was carried out, durably, and that the
// copy ends at end now. It follows the stream from there on, unless a newer
// epoch was learned meanwhile.
func (c *Core) Adopted(streamID uint64, end int64) {
	p := c.plan
	if p == nil || p.stream != streamID {
		return
	}
	c.plan = nil
	// Nothing is published by this: the primary has yet to see that both hold the
	// same bytes, and says with its first batch how many of them are committed.
	c.end, c.durable, c.epochs = end, end, p.epochs
	if c.entry.Epoch > p.epoch {
		c.emit(Unfollow{streamID})
	} else {
		c.follow = stream{streamID, p.epoch}
	}
	c.settle()
}

// NotAdopted says that the Adopt of stream could not be carried out for want of
// room, and that the log ends at end, with so much durable: it was cut or not,
// and has the list of epochs that it had.
func (c *Core) NotAdopted(streamID uint64, end, durable int64) {
	if c.plan == nil || c.plan.stream != streamID {
		return
	}
	c.plan = nil
	c.end, c.durable = end, min(durable, end)
	c.settle()
}

// OnBatch decides on a batch: nil means to append its bytes, if it has any, and
// to call Followed then, whatever else happens meanwhile. Several batches may be
// accepted before that. An error means that the link is of no more use.
func (c *Core) OnBatch(m Message) error {
	at := max(c.end, c.inFlight)
	switch {
	case c.follow.id == 0 || m.Stream != c.follow.id:
		return fmt.Errorf("%w: volume %d: stream %x is not followed", volume.ErrStale, c.id, m.Stream)
	case len(m.Bytes) == 0 && m.Offset <= at:
		return nil
	case m.Offset != at:
		return fmt.Errorf("%w: volume %d: a batch at offset %d, and the copy ends at %d", volume.ErrBadRequest, c.id, m.Offset, at)
	}
	if len(m.Bytes) > 0 && c.work.phase == finishing {
		return fmt.Errorf("%w: volume %d: its new files are being finished", volume.ErrUnavailable, c.id)
	}
	if len(m.Bytes) > 0 && c.work.phase == ready && c.work.job.what.Epoch == c.follow.epoch {
		c.drop() // a primary that asked for the new files appends nothing more in this epoch
	}
	c.inFlight = at + int64(len(m.Bytes))
	return nil
}

// Followed says what the log has become by batches: where it ends, how much of
// it is durable, and how much of it the primary says is committed.
func (c *Core) Followed(end, durable, committed int64) {
	c.inFlight = 0
	if c.failed != nil {
		return
	}
	c.end = max(c.end, end)
	c.durable = min(max(c.durable, durable), c.end)
	if c.follow.id != 0 {
		c.commit(min(committed, c.durable))
	}
	c.settle()
}

// Told says how much the primary has committed, as learned beside the stream.
func (c *Core) Told(committed int64) {
	if c.follow.id != 0 {
		c.commit(min(committed, c.durable))
	}
}

// Unfollowed says that the link of stream ended. An Adopt under way is finished
// all the same, with Adopted or Fail.
func (c *Core) Unfollowed(streamID uint64) {
	if c.follow.id == streamID {
		c.follow = stream{}
	}
	c.settle()
}
