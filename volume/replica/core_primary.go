package replica

import (
	"cmp"
	"fmt"
	"slices"

	"weedd/volume"
)

// Peers lists the copies to attach to in the epoch entered: in sync and
// joining, without this one. It is empty unless this copy leads.
func (c *Core) Peers() []volume.Holder {
	if !c.Leading() {
		return nil
	}
	return slices.DeleteFunc(slices.Concat(c.entry.InSync, c.entry.Joining), func(h volume.Holder) bool { return h == c.self })
}

// Hello gives the first message of a link to peer; it ends what any earlier
// stream to peer counted for. stream must be unique. It reports false if there
// is nothing to say to peer, as when this copy no longer leads.
func (c *Core) Hello(to volume.Holder, stream uint64) (Message, bool) {
	if !slices.Contains(c.Peers(), to) {
		return Message{}, false
	}
	p := c.peer(to)
	p.stream, p.attached = stream, false
	return Message{Kind: KindHello, Stream: stream, Entry: c.entry, From: c.self, To: to,
		Epochs: c.epochs, End: c.end, Committed: c.committed}, true
}

func (c *Core) peer(h volume.Holder) *peerState {
	p := c.peers[h]
	if p == nil {
		p = &peerState{}
		c.peers[h] = p
	}
	return p
}

// current gives the peer that a message comes from, if it came by the stream
// that counts.
func (c *Core) current(h volume.Holder, stream uint64) *peerState {
	p := c.peers[h]
	if p == nil || p.stream != stream || stream == 0 || !c.Leading() {
		return nil
	}
	return p
}

// Welcomed takes a Welcome. sameChecksum says whether this copy's own bytes
// before m.End have the checksum that the peer gave; if not, one of the two is
// damaged, and the peer does not count.
func (c *Core) Welcomed(from volume.Holder, m Message, sameChecksum bool) {
	p := c.current(from, m.Stream)
	switch {
	case p == nil:
		return
	case p.attached: // a repeated hello was answered, perhaps after a restart
		p.leaving = m.Leaving
		c.settle()
		return
	}
	counts := p.adding || slices.Contains(c.entry.InSync, from)
	switch {
	case !sameChecksum || m.End > c.end:
		p.refused = CodeDiverged
	case counts && m.End < p.durable:
		p.refused = CodeBehind // it has lost what it acknowledged in this epoch
	default:
		*p = peerState{stream: p.stream, attached: true, durable: m.End, acked: p.acked, adding: p.adding, leaving: m.Leaving}
	}
	c.settle()
}

// Refused takes a Refusal.
func (c *Core) Refused(from volume.Holder, m Message) {
	c.Learn(m.Entry)
	p := c.current(from, m.Stream)
	if p == nil {
		return
	}
	p.stream, p.attached = 0, false
	switch m.Code {
	case CodeWrongCopy, CodeDiverged, CodeBehind, CodeFailed:
		p.refused = m.Code
	case CodeAhead:
		if m.End > c.end {
			// Only this copy writes in this epoch. If another one has more of
			// it, then this one lost its tail and did not notice: it must not
			// go on (rule R10).
			c.Fail(fmt.Errorf("volume %d: copy %s on node %s has %d bytes of epoch %d and this copy, which leads in it, only %d",
				c.id, from.Copy, from.Node, m.End, c.led, c.end))
		}
	}
	c.settle()
}

// NextSeq numbers the next batch. Numbers rise over all peers and streams.
func (c *Core) NextSeq() uint64 {
	c.seq++
	return c.seq
}

// BarrierSeq is the newest number that Barrier gave out. A peer that was sent
// no batch numbered so high is to be sent one, empty if need be.
func (c *Core) BarrierSeq() uint64 { return c.waits }

// Acked takes an acknowledgement.
func (c *Core) Acked(from volume.Holder, m Message) {
	p := c.current(from, m.Stream)
	if p == nil || !p.attached || m.Durable > c.end || m.Seq > c.seq {
		return
	}
	p.durable, p.acked, p.suspect = max(p.durable, m.Durable), max(p.acked, m.Seq), false
	c.settle()
}

// Leaving takes the word of a copy that it is about to be stopped: from now on the
// first write that would wait for it has it leave the set, while it still answers.
// A volume that nobody writes to keeps it (rule R9).
func (c *Core) Leaving(from volume.Holder, m Message) {
	if p := c.current(from, m.Stream); p != nil {
		p.leaving = true
		c.settle()
	}
}

// Detached says that the link of stream broke. What the peer has made durable
// stays so, and it counts as before.
func (c *Core) Detached(from volume.Holder, stream uint64) {
	if p := c.current(from, stream); p != nil {
		p.stream, p.attached = 0, false
		c.settle()
	}
}

// Suspect says that a peer has not answered, attached or not, for as long as a
// write or a barrier may be held up by it. It is ignored when nothing waits: an
// idle volume keeps its copies over a restart (rule R9).
func (c *Core) Suspect(h volume.Holder) {
	if !c.Leading() || !c.waiting() || (!slices.Contains(c.entry.InSync, h) && !c.adding(h)) || h == c.self {
		return
	}
	c.peer(h).suspect = true
	c.settle()
}

func (c *Core) adding(h volume.Holder) bool {
	p := c.peers[h]
	return p != nil && p.adding
}

func (c *Core) waiting() bool { return c.committed < c.end || !c.Confirmed(c.waits) }

// counted lists the other copies that every answer waits for: those in sync in
// the epoch led, and those that the leader was asked to add (rule R9).
func (c *Core) counted() []volume.Holder { return slices.Collect(c.eachCounted) }

// eachCounted is counted without a slice: it is looked at for every batch, several
// times.
func (c *Core) eachCounted(yield func(volume.Holder) bool) {
	for _, h := range c.entry.InSync {
		if h != c.self && !yield(h) {
			return
		}
	}
	for h, p := range c.peers {
		if p.adding && !yield(h) {
			return
		}
	}
}

// count finds how much is committed, and which joining copies have all that was
// ever acknowledged: what this epoch acknowledged is committed here, and what
// earlier ones did lies before its start, though this copy may not know of it
// (it learned the committed length of its predecessor late, or lost it in a
// restart).
func (c *Core) count() {
	if !c.Leading() {
		return
	}
	n := c.durable
	for h := range c.eachCounted {
		n = min(n, c.peer(h).durable)
	}
	if c.enough() {
		c.commit(n)
	}
	all := max(c.committed, c.Base())
	for _, h := range c.entry.Joining {
		p := c.peers[h]
		if p != nil && p.attached && p.refused == "" && !p.adding && !p.leaving && p.durable >= all {
			p.adding = true
		}
	}
}

// Base is where the newest epoch of this copy begins. In the log of the copy
// that leads in it, everything acknowledged in earlier epochs lies before. While
// less is committed, records that are pending here may have been acknowledged,
// so nothing may be told that they might contradict (rule R12).
func (c *Core) Base() int64 {
	if len(c.epochs) == 0 {
		return Origin
	}
	return c.epochs[len(c.epochs)-1].Start
}

func (c *Core) commit(n int64) {
	if n > c.committed {
		c.committed = n
		c.emit(CommitAdvanced{n})
	}
}

// Barrier gives a number that is Confirmed when every copy that counts has
// acknowledged a batch sent after this call. By then no other copy led in a
// newer epoch when Barrier was called: its primary would be one of them.
func (c *Core) Barrier() (seq uint64) {
	c.waits = c.seq + 1
	return c.waits
}

// Confirmed reports whether a barrier was passed. It is false when this copy
// does not lead; barriers of an earlier leadership are void and were ended by
// Depose.
func (c *Core) Confirmed(seq uint64) bool {
	if !c.Leading() {
		return false
	}
	for h := range c.eachCounted {
		if c.peer(h).acked < seq {
			return false
		}
	}
	return true
}

// wanted lists what is to be asked of the leader as things stand.
func (c *Core) wanted() []volume.Ask {
	if !c.primary() {
		return nil
	}
	ask := func(kind volume.AskKind, copies ...volume.Holder) volume.Ask {
		return volume.Ask{Kind: kind, Volume: c.id, Epoch: c.entry.Epoch, From: c.self, Copies: copies}
	}
	if c.Failure() != nil && len(c.entry.InSync) > 1 {
		a := ask(volume.AskYield)
		a.Failed = true
		return []volume.Ask{a}
	}
	if !c.Leading() {
		if c.Failure() != nil || c.entering.Epoch != 0 || c.entry.Epoch > newest(c.epochs) {
			return nil // it leads as soon as it has entered
		}
		return []volume.Ask{ask(volume.AskLead)} // rule R10: a run before this one led in this epoch
	}
	var asks []volume.Ask
	unfit, silent, replace := c.removable()
	if len(unfit)+len(silent)+len(replace) > 0 {
		a := ask(volume.AskRemove, silent...)
		if len(unfit) > 0 {
			a.Copies, a.Unfit = unfit, true
		}
		a.Replace = replace
		asks = append(asks, a)
	}
	add, renew := c.addable()
	if len(add) > 0 {
		asks = append(asks, ask(volume.AskAdd, add...))
	}
	switch a := c.attempt; {
	case renew, a != nil && a.step == asking && a.renew:
		asks = append(asks, ask(volume.AskLead))
	case a != nil && a.step == asking:
		q := ask(volume.AskCompact, c.counted()...)
		q.Generation = a.what.Generation
		asks = append(asks, q)
	}
	if c.yield && len(c.entry.InSync) > 1 {
		asks = append(asks, ask(volume.AskYield))
	}
	return asks
}

// removable lists the copies that should not be in sync: the unfit do not hold
// what is committed and have to go at once, however few are left; the silent
// hold up something that waits, and go as long as enough are left to write.
// Those to replace, in sync or joining, can never follow under the ids they have.
func (c *Core) removable() (unfit, silent, replace []volume.Holder) {
	least := c.entry.Spec.Placement.MinCopies()
	for _, h := range c.entry.InSync {
		p := c.peers[h]
		switch {
		case p == nil:
		case p.refused != "":
			unfit = append(unfit, h)
			if p.refused != CodeBehind {
				replace = append(replace, h)
			}
		case p.holdsUp() && c.waiting() && len(c.entry.InSync)-len(silent) > least:
			silent = append(silent, h)
		}
	}
	for _, h := range c.entry.Joining {
		// One addressed in vain may be about to be made.
		if p := c.peers[h]; p != nil && (p.refused == CodeDiverged || p.refused == CodeFailed) {
			replace = append(replace, h)
		}
	}
	return unfit, silent, replace
}

// holdsUp reports whether nothing should wait for the peer.
func (p *peerState) holdsUp() bool { return p.suspect || p.leaving }

// addable lists the joining copies to ask for, and reports whether a new epoch
// with the old set is needed: only that ends the wait for a copy that was asked
// for, fell silent or joins no longer, and may have been added all the same.
func (c *Core) addable() (add []volume.Holder, renew bool) {
	for h, p := range c.peers {
		switch {
		case !p.adding:
		case !slices.Contains(c.entry.Joining, h), p.refused != "", p.holdsUp() && c.waiting():
			renew = true
		default:
			add = append(add, h)
		}
	}
	slices.SortFunc(add, compareHolders)
	return add, renew
}

func compareHolders(a, b volume.Holder) int {
	return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Copy, b.Copy))
}

func same(a, b volume.Ask) bool {
	return a.Kind == b.Kind && a.Epoch == b.Epoch && slices.Equal(a.Copies, b.Copies) && a.Failed == b.Failed &&
		a.Unfit == b.Unfit && slices.Equal(a.Replace, b.Replace)
}
