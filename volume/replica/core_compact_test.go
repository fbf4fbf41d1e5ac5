package replica

import (
	"errors"
	"testing"
	"time"

	"weedd/volume"
)

// compacting makes a Core of copy a that leads {a,b} with all committed, has begun
// a compaction, and has built its own part.
func compacting(t *testing.T) *Core {
	t.Helper()
	c := NewCore(copyA, 7, CoreState{End: Origin, Durable: Origin})
	c.Learn(volume.Entry{Volume: 7, State: volume.StateOpen, Epoch: 1, Version: 1, Primary: "a", Spec: volume.Spec{Placement: 1},
		InSync: []volume.Holder{copyA, copyB}})
	c.Entered(1)
	c.Appended(100)
	c.Synced(100)
	if _, ok := c.Hello(copyB, 11); !ok {
		t.Fatal("no hello")
	}
	c.Welcomed(copyB, Message{Stream: 11, End: 100}, true)
	if err := c.Compact(time.Unix(5, 0)); err != nil {
		t.Fatal(err)
	}
	m, ok := c.Control(copyB)
	want := volume.Compaction{Epoch: 1, Generation: 1, At: 100, Clock: time.Unix(5, 0)}
	if !ok || m.Kind != KindCompact || m.Compaction != want || m.Committed != 100 {
		t.Fatalf("%+v", m)
	}
	c.Built(1, nil)
	c.Answered(copyB, Message{Kind: KindBuilt, Stream: 11, Attempt: 1})
	return c
}

// effect takes the effects and gives the last one of the type, if there is one.
func effect[E Effect](c *Core) (last E, ok bool) {
	for _, e := range c.Effects() {
		if e, is := e.(E); is {
			last, ok = e, true
		}
	}
	return last, ok
}

// Rule R13: the log is finished only once no append can be under way, and all of
// it is committed; the leader is asked only when all copies made the same files.
func TestACompactionTakesItsSteps(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		sum  uint32
		asks bool
	}{"equal files": {9, true}, "other bytes": {8, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := compacting(t)
			pause, ok := effect[PauseWrites](c)
			if !ok || c.Writable() != nil {
				t.Fatalf("writes are to go on until %v, %v", pause, c.Writable())
			}
			c.Appended(140) // was under way
			c.Synced(140)
			c.Paused(pause.Number)
			if err := c.Writable(); !errors.Is(err, volume.ErrUnavailable) {
				t.Errorf("paused: %v", err)
			}
			if f, ok := effect[FinishCompaction](c); ok {
				t.Fatalf("%+v before all is committed", f)
			}
			c.Acked(copyB, Message{Stream: 11, Durable: 140})
			if f, _ := effect[FinishCompaction](c); f.End != 140 {
				t.Fatalf("%+v", f)
			}
			c.Finished(1, 60, 9, nil)
			if a, ok := effect[AskLeader](c); ok {
				t.Fatalf("asks before b is ready: %+v", a)
			}
			c.Answered(copyB, Message{Kind: KindReady, Stream: 11, Attempt: 1, End: 60, Checksum: tt.sum})
			a, asks := effect[AskLeader](c)
			if asks != tt.asks || asks && (a.Ask.Kind != volume.AskCompact || a.Ask.Generation != 1 || len(a.Ask.Copies) != 1) {
				t.Fatalf("asks %v: %+v", asks, a)
			}
			c.AbortCompaction(errors.New("too late"))
			if err := c.Writable(); (err != nil) != tt.asks {
				t.Errorf("writable: %v", err)
			}
			if _, last := c.Compacting(); !tt.asks && !errors.Is(last, volume.ErrCorrupt) {
				t.Errorf("%v", last)
			}
		})
	}
}

// What would leave a copy behind prevents a compaction, or ends it.
func TestWhatHindersACompaction(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*Core){
		"a copy's link breaks": func(c *Core) { c.Detached(copyB, 11) },
		"a copy begins to join": func(c *Core) {
			e := c.Entry()
			e.Version, e.Joining = 2, []volume.Holder{copyC}
			c.Learn(e)
		},
		"the volume becomes read-only": func(c *Core) {
			e := c.Entry()
			e.Version, e.State = 2, volume.StateReadOnly
			c.Learn(e)
		},
		"a copy cannot build": func(c *Core) {
			c.Answered(copyB, Message{Kind: KindCompactionFailed, Stream: 11, Attempt: 1, Reason: "no room"})
		},
		"the log fails": func(c *Core) { c.Fail(errors.New("fsync")) },
		"another epoch": func(c *Core) {
			e := c.Entry()
			e.Version, e.Epoch = 2, 2
			c.Learn(e)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := compacting(t)
			spoil(c)
			ended, dropped := false, false
			for _, e := range c.Effects() {
				switch e := e.(type) {
				case CompactionEnded:
					ended = e.Err != nil
				case DropCompaction:
					dropped = true
				}
			}
			if doing, last := c.Compacting(); !ended || !dropped || doing != "" || last == nil {
				t.Errorf("ended %v, dropped %v, %q, %v", ended, dropped, doing, last)
			}
		})
	}
	c := compacting(t)
	if err := c.Compact(time.Unix(6, 0)); !errors.Is(err, volume.ErrUnavailable) {
		t.Errorf("twice: %v", err)
	}
}
