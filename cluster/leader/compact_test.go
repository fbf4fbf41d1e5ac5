package leader_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"weedd/volume"
)

// compact obeys as a primary does: it is at it for a while, and then asks.
func (s *server) compact(ctx context.Context, o volume.CompactOrder) {
	l := s.lab
	s.mu.Lock()
	r, e := s.copies[o.Volume], s.told[o.Volume]
	s.mu.Unlock()
	if r.Compacting || e.Epoch != o.Epoch || e.Primary != s.id {
		return
	}
	l.mu.Lock()
	l.orders++
	l.compacting++
	l.most = max(l.most, l.compacting)
	noRoom := l.noRoom
	l.mu.Unlock()
	r.Compacting = true
	s.set(r)
	time.Sleep(400 * time.Millisecond)
	l.mu.Lock()
	l.compacting--
	l.mu.Unlock()
	if noRoom {
		r.Compacting, r.Compaction = false, "came to nothing: no room"
		s.set(r)
		return
	}
	from, _, _ := e.Holder(s.id)
	next, err := l.current().Ask(ctx, volume.Ask{Kind: volume.AskCompact, Volume: e.Volume, Epoch: e.Epoch, From: from, Copies: e.InSync, Generation: e.Generation + 1})
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		l.t.Errorf("ask for generation %d: %v", e.Generation+1, err)
		return
	}
	l.littered(next, 0)
}

// littered has all copies of a volume report garbage of 900 bytes.
func (l *lab) littered(e volume.Entry, garbage int64) {
	for _, h := range e.InSync {
		l.server(h.Node).set(volume.CopyReport{Volume: e.Volume, Copy: h.Copy, State: volume.CopyHealthy, Epoch: e.Epoch, Generation: e.Generation,
			Size: 900, DeletedB: garbage, Leads: h.Node == e.Primary})
	}
}

func (l *lab) litter(garbage int64) {
	for _, e := range l.cat().Volumes() {
		l.littered(*e, garbage)
	}
}

func (l *lab) compacted() (n int) {
	for _, e := range l.cat().Volumes() {
		if e.Generation == 1 {
			n++
		}
	}
	return n
}

func (l *lab) ordered() (orders, most int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.orders, l.most
}

func TestGarbageIsCompactedOneVolumeANodeAtATime(t *testing.T) {
	in(t, func(t *testing.T) {
		l := grown(t, 1, "n1", "n2")
		l.litter(100)
		l.garbage = 0.3
		l.elect()
		time.Sleep(5 * time.Second)
		if n := l.compacted(); n > 0 {
			t.Errorf("%d volumes compacted for a ninth of garbage", n)
		}
		l.litter(300)
		all := len(l.cat().Volumes())
		l.within(time.Minute, "all volumes compacted", func() bool { return l.compacted() == all })
		if orders, most := l.ordered(); most != 1 || orders != all {
			t.Errorf("%d volumes at a time, on the same two nodes; %d orders obeyed for %d volumes", most, orders, all)
		}
		time.Sleep(5 * time.Second)
		if orders, _ := l.ordered(); orders != all {
			t.Errorf("%d orders for %d volumes without garbage", orders, all)
		}
	})
}

func TestACompactionThatCameToNothingIsTriedAgainMuchLater(t *testing.T) {
	in(t, func(t *testing.T) {
		l := grown(t, 1, "n1", "n2")
		l.noRoom, l.garbage = true, 0.3
		l.elect()
		l.littered(*l.cat().Volumes()[0], 500)
		time.Sleep(50 * time.Second)
		if orders, _ := l.ordered(); orders != 1 {
			t.Errorf("%d attempts in the first minute", orders)
		}
		time.Sleep(5 * time.Minute)
		if orders, _ := l.ordered(); orders < 2 || orders > 4 {
			t.Errorf("%d attempts in six minutes", orders)
		}
		l.mu.Lock()
		l.noRoom = false
		l.mu.Unlock()
		l.within(time.Hour, "the volume is compacted", func() bool { return l.compacted() == 1 })
	})
}

// A small volume whose only file is overwritten all the time is half garbage every
// moment.
func TestAVolumeThatWasCompactedIsLeftAloneForAWhile(t *testing.T) {
	in(t, func(t *testing.T) {
		l := grown(t, 1, "n1", "n2")
		l.garbage = 0.3
		l.elect()
		l.littered(*l.cat().Volumes()[0], 500)
		l.within(time.Minute, "the volume is compacted", func() bool { return l.compacted() == 1 })
		for range 60 {
			time.Sleep(5 * time.Second)
			l.littered(*l.cat().Volumes()[0], 500)
		}
		if orders, _ := l.ordered(); orders != 1 {
			t.Errorf("compacted %d times in five minutes", orders)
		}
		if err := l.current().Compact(context.Background(), 0.2); err != nil {
			t.Error(err)
		}
		if orders, _ := l.ordered(); orders != 2 {
			t.Errorf("%d compactions, one of them by hand", orders)
		}
		l.littered(*l.cat().Volumes()[0], 500)
		l.within(15*time.Minute, "it is compacted again", func() bool { return l.cat().Volumes()[0].Generation == 3 })
	})
}

// The last report of a node that died says for ever that it is at it.
func TestACompactionWhosePrimaryDiedHoldsUpNoOther(t *testing.T) {
	in(t, func(t *testing.T) {
		l := grown(t, 1, "n1", "n2", "n3")
		l.garbage = 0.3
		l.elect()
		time.Sleep(time.Second)
		l.litter(500)
		last := l.cat().MaxVolume()
		var dead volume.NodeID
		l.within(time.Minute, "one is under way", func() bool {
			for _, id := range []volume.NodeID{"n1", "n2", "n3"} {
				s := l.server(id)
				s.mu.Lock()
				for _, r := range s.copies {
					if r.Compacting {
						dead = id
					}
				}
				s.mu.Unlock()
			}
			return dead != ""
		})
		time.Sleep(100 * time.Millisecond) // so that the leader has heard of it
		l.kill(dead)
		l.within(time.Minute, "all volumes without a copy there are compacted", func() bool {
			return l.all(func(e *volume.Entry) bool {
				_, _, has := e.Holder(dead)
				return has || e.Volume > last || e.Generation == 1
			})
		})
	})
}

func TestCompactionByHandReturnsWhenAllWereTried(t *testing.T) {
	in(t, func(t *testing.T) {
		l := grown(t, 1, "n1", "n2")
		l.litter(500)
		all := len(l.cat().Volumes())
		time.Sleep(time.Second)
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := l.current().Compact(context.Background(), 0.2); err != nil {
				t.Error(err)
			}
			if n := l.compacted(); n != all {
				t.Errorf("%d of %d volumes are compacted", n, all)
			}
		})
		time.Sleep(time.Second)
		began := time.Now()
		if err := l.current().Compact(context.Background(), 0.2); err != nil || time.Since(began) > 0 || l.compacted() == all {
			t.Errorf("a second one, beside the first, took %v: %v", time.Since(began), err)
		}
		wg.Wait()

		l.mu.Lock()
		l.noRoom = true
		l.mu.Unlock()
		l.litter(500)
		time.Sleep(time.Second)
		if err := l.current().Compact(context.Background(), 0.2); err != nil {
			t.Error(err)
		}
		if orders, _ := l.ordered(); orders != 2*all {
			t.Errorf("%d orders; each of %d volumes is tried once more", orders, all)
		}
	})
}
