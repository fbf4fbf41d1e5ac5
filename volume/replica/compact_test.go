package replica_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"weedd/volume"
)

// litter leaves something to be compacted on a: 40 files, half of them replaced,
// a quarter deleted. It returns what is left.
func litter(t *testing.T, a *node) map[volume.Key]string {
	t.Helper()
	left := map[volume.Key]string{}
	for k := volume.Key(90_000_000); k < 90_000_040; k++ {
		left[k] = strings.Repeat(fmt.Sprintf("file %d ", k), 50)
		a.mustWrite(t, k, left[k])
		if k%2 == 0 {
			left[k] = strings.Repeat(fmt.Sprintf("new %d ", k), 60)
			a.mustWrite(t, k, left[k])
		}
		if k%4 == 3 {
			if _, err := a.Delete(context.Background(), k, 7, 0); err != nil {
				t.Fatal(err)
			}
			delete(left, k)
		}
	}
	return left
}

// compact orders a compaction until it has begun.
func (c *cluster) compact(n *node) {
	c.t.Helper()
	eventually(c.t, "a compaction begins", func() bool {
		e := c.now()
		return n.Compact(volume.CompactOrder{Volume: 1, Epoch: e.Epoch, Clock: time.Now()}) == nil && n.Report().Compacting
	})
}

func (c *cluster) generation(want uint32, ids ...volume.NodeID) {
	c.t.Helper()
	for _, id := range ids {
		eventually(c.t, fmt.Sprintf("%s reaches generation %d: %+v", id, want, c.nodes[id].Report()), func() bool {
			r := c.nodes[id].Report()
			return r.Generation == want && r.Revision == uint16(want)
		})
	}
}

func TestAVolumeIsCompactedUnderALoad(t *testing.T) {
	t.Parallel()
	c := start(t, volume.Spec{}, "a", "b", "c")
	a := c.at("a")
	left := litter(t, a)
	before, stop := a.log.End(), make(chan struct{})
	var l load
	l.run(a, 4, 1000, func(*rand.Rand) int { return 10 }, stop)
	c.compact(a)
	c.generation(1, "a", "b", "c")
	eventually(t, "writes go on", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.acked) > 20 || len(l.errs) > 0 })
	close(stop)
	l.work.Wait()
	for _, err := range l.errs {
		t.Error(err)
	}
	c.identical("a", "b", "c")
	for _, id := range []volume.NodeID{"a", "b", "c"} {
		for k, data := range left {
			c.at(id).mustRead(t, k, data)
		}
		if _, err := c.at(id).read(90_000_003); err == nil {
			t.Errorf("a deleted file is back on %s", id)
		}
		l.verify(t, c.at(id))
	}
	if len(c.now().InSync) != 3 {
		t.Errorf("%+v", c.now())
	}
	a.mustWrite(t, 5_000_000, "x")
	if written := int64(len(l.acked)+1) * 48; a.log.End() >= before+written {
		t.Errorf("%d bytes of %d and %d written since", a.log.End(), before, written)
	}
	if r := a.Report(); r.DeletedB != 0 || r.Compacting || r.Compaction != "" {
		t.Errorf("%+v", r)
	}
}

// A copy that was ready when it died takes the new files when it returns.
func TestACopyReturnsBetweenReadyAndTheDecision(t *testing.T) {
	t.Parallel()
	c := start(t, volume.Spec{}, "a", "b")
	a := c.at("a")
	left := litter(t, a)
	c.holdCompact = make(chan struct{})
	c.compact(a)
	eventually(t, "the leader is asked", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.asked) > 0 && c.asked[len(c.asked)-1] == volume.AskCompact
	})
	c.stop("b")
	waits := make(chan error, 1)
	go func() { waits <- a.write(900, "written while the outcome is open") }()
	close(c.holdCompact)
	c.await("the decision", func(e volume.Entry) bool { return e.Generation == 1 })
	c.restart("b")
	c.generation(1, "a", "b")
	if err := <-waits; err != nil {
		a.mustWrite(t, 900, "written while the outcome is open") // it was held, for a second at most
	}
	c.await("both in sync", inSync(2))
	c.identical("a", "b")
	for k, data := range left {
		c.at("b").mustRead(t, k, data)
	}
}

// A copy that falls silent ends the attempt, and nothing is left of it.
func TestACompactionEndsWhenACopyFallsSilent(t *testing.T) {
	t.Parallel()
	c := start(t, volume.Spec{}, "a", "b")
	a := c.at("a")
	left := litter(t, a)
	c.freeze("b")
	c.compact(a)
	a.mustWrite(t, 901, "goes on when b is dropped")
	eventually(t, "the attempt has ended", func() bool { r := a.Report(); return !r.Compacting && r.Compaction != "" })
	c.thaw("b")
	c.await("b is back", inSync(2))
	if g := c.now().Generation; g != 0 {
		t.Errorf("generation %d", g)
	}
	c.compact(a)
	c.generation(1, "a", "b")
	c.identical("a", "b")
	for k, data := range left {
		c.at("b").mustRead(t, k, data)
	}
}

// An order for an epoch that has passed, or for another copy, means nothing.
func TestOrdersToCompactThatHavePassedMeanNothing(t *testing.T) {
	t.Parallel()
	c := start(t, volume.Spec{}, "a", "b")
	c.at("a").mustWrite(t, 1, "x")
	for _, o := range []volume.CompactOrder{{Volume: 1, Epoch: 99, Clock: time.Now()}} {
		if err := c.at("a").Compact(o); err != nil || c.at("a").Report().Compacting {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if err := c.at("b").Compact(volume.CompactOrder{Volume: 1, Epoch: c.now().Epoch, Clock: time.Now()}); err != nil || c.at("b").Report().Compacting {
		t.Errorf("a follower: %v", err)
	}
}
