package replica_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weedd/volume"
	"weedd/volume/replica"
)

// Whoever sends backlog shares one rate, which can change while they wait.
func TestRepairsShareAPace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var p replica.Pace
		p.Set(10 << 20)
		began := time.Now()
		done := make(chan time.Duration, 40)
		for range 40 {
			go func() {
				p.Wait(t.Context(), 1<<20)
				done <- time.Since(began)
			}()
		}
		var last time.Duration
		for i := range 40 {
			last = <-done
			if least := time.Duration(i) * 100 * time.Millisecond; last < least {
				t.Errorf("%d MiB after %v; not before %v", i+1, last, least)
			}
		}
		if last > 5*time.Second {
			t.Errorf("40 MiB at 10 MiB a second took %v", last)
		}
		p.Set(1)
		p.Wait(t.Context(), 1<<20)
		go func() {
			p.Wait(t.Context(), 1<<20)
			done <- time.Since(began)
		}()
		time.Sleep(time.Minute)
		p.Set(0)
		if took := <-done - last; took > time.Minute+time.Second {
			t.Errorf("who waited went on %v after the limit was lifted", took-time.Minute)
		}
	})
}

// A copy that catches up is held to the pace of repairs; writes, which wait for
// copies in sync, are not.
func TestACopyThatCatchesUpIsPacedAndWritesAreNot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := start(t, volume.Spec{}, "a", "b", "c")
		a := c.nodes["a"]
		c.stop("c")
		for i := range 4 { // in more messages than one
			a.mustWrite(t, volume.Key(i+1), strings.Repeat("x", 900<<10))
		}
		c.await("c is out", func(e volume.Entry) bool { return len(e.InSync) == 2 })
		c.pace.Set(1 << 10) // a message is 17 minutes
		c.restart("c")
		before := c.nodes["c"].log.End()
		time.Sleep(10 * time.Second) // of the bubble
		if got := c.nodes["c"].log.End() - before; got <= 0 || got > 1<<20 {
			t.Fatalf("c was sent %d bytes in 10 s", got)
		}
		began := time.Now()
		a.mustWrite(t, 100, "small")
		if took := time.Since(began); took > time.Second {
			t.Errorf("a write took %v", took)
		}
		if e := c.now(); len(e.InSync) != 2 {
			t.Fatalf("c is in sync: %+v", e)
		}
		c.pace.Set(0)
		c.await("c is in sync", func(e volume.Entry) bool { return len(e.InSync) == 3 })
		c.identical("a", "b", "c")
	})
}

// Repair yields to clients: while their writes are slower than in calm times it sends
// less, never nothing, and all that it may when they are as fast as before.
func TestRepairsYieldToWrites(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var p replica.Pace
		p.Set(16 << 20)
		sent := func(write time.Duration) (mib int) { // in 10 s, at 100 writes a second
			for end := time.Now().Add(10 * time.Second); time.Now().Before(end); mib++ {
				for due := time.Now().Add(10 * time.Millisecond); time.Now().Before(due); time.Sleep(10 * time.Millisecond) {
					p.Wrote(write)
				}
				p.Wait(t.Context(), 1<<20)
			}
			return mib
		}
		for range 1000 {
			time.Sleep(2 * time.Second / 1000)
			p.Wrote(2 * time.Millisecond)
		}
		if n := sent(3 * time.Millisecond); n < 90 || n > 120 {
			t.Errorf("%d MiB in 10 s with writes as fast as ever, from a slow start; want some 110 of 160", n)
		}
		sent(9 * time.Millisecond)
		if n := sent(9 * time.Millisecond); n < 9 || n > 12 {
			t.Errorf("%d MiB in 10 s with slow writes; want a sixteenth of 160", n)
		}
		sent(3 * time.Millisecond)
		if n := sent(3 * time.Millisecond); n < 120 {
			t.Errorf("%d MiB in 10 s with writes as fast as before", n)
		}
	})
}
