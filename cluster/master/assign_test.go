package master_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weedd/cluster"
	"weedd/cluster/catalog"
	"weedd/cluster/master"
	"weedd/cluster/master/mastertest"
	"weedd/cluster/placement"
	"weedd/volume"
)

func TestIDsNeverRepeat(t *testing.T) {
	t.Parallel()
	c := three()
	type span struct{ from, to volume.Key }
	var mu sync.Mutex
	var spans []span
	for range 2 { // the second pair are the masters after a restart
		var wg sync.WaitGroup
		for _, m := range []*master.Master{open(t, c, time.Minute), open(t, c, time.Minute)} {
			for w := range 4 {
				wg.Go(func() {
					for i := range 2000 {
						count := uint64(1 + (i*(w+1))%97)
						a, err := m.Assign(context.Background(), master.Request{Count: count})
						if err != nil || a.Count != count {
							t.Errorf("%+v, %v", a, err)
							return
						}
						mu.Lock()
						spans = append(spans, span{a.ID.Key, a.ID.Key + volume.Key(count)})
						mu.Unlock()
					}
				})
			}
		}
		wg.Wait()
	}
	slices.SortFunc(spans, func(a, b span) int { return int(int64(a.from) - int64(b.from)) })
	for i := 1; i < len(spans); i++ {
		if spans[i].from < spans[i-1].to {
			t.Fatalf("keys %d to %d and %d to %d were both given out", spans[i-1].from, spans[i-1].to, spans[i].from, spans[i].to)
		}
	}
	cat, _ := c.Catalog()
	if top := spans[len(spans)-1].to; spans[0].from == 0 || top > cat.Ceiling() {
		t.Errorf("keys from %d to %d; the ceiling is %d", spans[0].from, top, cat.Ceiling())
	}
}

func TestCountsAreBounded(t *testing.T) {
	t.Parallel()
	m := open(t, three(), time.Minute)
	if a := assign(t, m, master.Request{}); a.Count != 1 {
		t.Errorf("count 0 gives %d ids", a.Count)
	}
	a, b := assign(t, m, master.Request{Count: 1 << 20}), assign(t, m, master.Request{})
	if b.ID.Key >= a.ID.Key && b.ID.Key < a.ID.Key+1<<20 {
		t.Errorf("key %d was among %d and the million after it", b.ID.Key, a.ID.Key)
	}
	if _, err := m.Assign(context.Background(), master.Request{Count: 1<<20 + 1}); !errors.Is(err, volume.ErrBadRequest) {
		t.Errorf("too many ids: %v", err)
	}
}

func TestLostBlockIsWasted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := three()
		lost, calls := volume.Key(0), 0
		c.OnKeys = func(ctx context.Context, count uint64) error {
			if calls++; calls > 1 {
				return nil
			}
			cat, _ := c.Catalog()
			lost = cat.Ceiling()
			c.OnKeys = nil
			_, err := c.Keys(ctx, count) // granted, and the answer does not arrive
			return errors.Join(err, volume.ErrOutcomeUnknown)
		}
		m := open(t, c, 10*time.Second)
		if a := assign(t, m, master.Request{}); a.ID.Key < lost+1<<14 {
			t.Errorf("key %d is of the block from %d whose answer was lost", a.ID.Key, lost)
		}
	})
}

func TestAssignGoesOnWithoutLeaderWhileKeysLast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := three()
		m := open(t, c, 10*time.Second)
		assign(t, m, master.Request{})
		synctest.Wait()
		c.SetLeading(false)
		began, given := time.Now(), 0
		for {
			_, err := m.Assign(context.Background(), master.Request{Count: 100})
			if err != nil {
				if !errors.Is(err, volume.ErrUnavailable) || !strings.Contains(err.Error(), "no file ids") {
					t.Errorf("without keys: %v", err)
				}
				break
			}
			if time.Since(began) > 0 {
				t.Fatal("an id waited though there were keys")
			}
			given++
		}
		if held := time.Since(began); held != 10*time.Second {
			t.Errorf("held for %v", held)
		}
		if given < 100 {
			t.Errorf("only %d times 100 ids without a leader", given)
		}
		time.AfterFunc(2*time.Second, func() { c.SetLeading(true) })
		began = time.Now()
		assign(t, m, master.Request{Count: 100})
		if held := time.Since(began); held < 2*time.Second || held > 3*time.Second {
			t.Errorf("the new leader was there after 2 s, the id after %v", held)
		}
	})
}

func TestHeldForAVolumeUntilThereIsOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := three()
		m := open(t, c, 10*time.Second)
		c.SetLeading(false)
		began := time.Now()
		_, err := m.Assign(context.Background(), master.Request{Spec: volume.Spec{Collection: "pics"}})
		if !errors.Is(err, volume.ErrUnavailable) || !strings.Contains(err.Error(), `"pics"`) || !strings.Contains(err.Error(), "no master leads") {
			t.Errorf("the reason is missing: %v", err)
		}
		if held := time.Since(began); held != 10*time.Second {
			t.Errorf("held for %v", held)
		}
		time.AfterFunc(3*time.Second, func() { c.SetLeading(true) })
		began = time.Now()
		assign(t, m, master.Request{})
		if held := time.Since(began); held != 3*time.Second {
			t.Errorf("the leader was there after 3 s, the id after %v", held)
		}
	})
}

func TestHoldChangesLive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := three()
		m := open(t, c, 10*time.Second)
		c.SetLeading(false)
		m.SetHold(time.Second)
		began := time.Now()
		_, err := m.Assign(context.Background(), master.Request{})
		if held := time.Since(began); err == nil || held != time.Second {
			t.Errorf("held for %v, %v", held, err)
		}
	})
}

func TestClientThatHangsUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := three()
		m := open(t, c, 10*time.Second)
		c.SetLeading(false)
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(time.Second, cancel)
		if _, err := m.Assign(ctx, master.Request{}); !errors.Is(err, context.Canceled) || errors.Is(err, volume.ErrUnavailable) {
			t.Errorf("%v", err)
		}
	})
}

// Which volumes are chosen, of those that a table of nodes and copies allows.
func TestVolumesChosen(t *testing.T) {
	t.Parallel()
	three1 := volume.Spec{Placement: 2} // three copies in one rack, two are needed
	for name, row := range map[string]struct {
		arrange func(c *mastertest.Cluster)
		req     master.Request
		want    []volume.ID
	}{
		"all that are open": {func(c *mastertest.Cluster) {
			c.Make(volume.Spec{}, "a")
			c.Make(volume.Spec{}, "b")
		}, master.Request{}, []volume.ID{1, 2}},
		"not full and read-only ones": {func(c *mastertest.Cluster) {
			for _, s := range []volume.State{volume.StateFull, volume.StateReadOnly, volume.StateOpen} {
				c.Change(c.Make(volume.Spec{}, "a"), func(e *volume.Entry) { e.State = s })
			}
		}, master.Request{}, []volume.ID{3}},
		"not those with a copy away": {func(c *mastertest.Cluster) {
			c.Make(twoCopies, "a", "b")
			c.Make(twoCopies, "a", "c")
			away(c, "b", "dc1", "r2")
		}, master.Request{Spec: twoCopies}, []volume.ID{2}},
		"those with a copy on a node that is not ready only when there is nothing better": {func(c *mastertest.Cluster) {
			c.Make(twoCopies, "a", "b")
			c.Make(twoCopies, "a", "c")
			unready(c, "b", "dc1", "r2")
		}, master.Request{Spec: twoCopies}, []volume.ID{2}},
		"those with a copy on a node that is not ready when there is nothing better": {func(c *mastertest.Cluster) {
			c.Make(twoCopies, "a", "b")
			unready(c, "b", "dc1", "r2")
		}, master.Request{Spec: twoCopies}, []volume.ID{1}},
		"not those led by a node that is not ready": {func(c *mastertest.Cluster) {
			c.Make(twoCopies, "b", "a")
			c.Make(twoCopies, "a", "b")
			unready(c, "b", "dc1", "r2")
		}, master.Request{Spec: twoCopies}, []volume.ID{2}},
		"not those below the copies that writing needs": {func(c *mastertest.Cluster) {
			c.Change(c.Make(three1, "a", "b", "c"), func(e *volume.Entry) { e.InSync = e.InSync[:1] })
			c.Change(c.Make(three1, "a", "b", "c"), func(e *volume.Entry) { e.InSync = e.InSync[:2] })
		}, master.Request{Spec: three1}, []volume.ID{2}},
		"whole ones first": {func(c *mastertest.Cluster) {
			c.Change(c.Make(twoCopies, "a", "b"), func(e *volume.Entry) { e.InSync = e.InSync[:1] })
			c.Change(c.Make(twoCopies, "c", "b"), func(e *volume.Entry) { e.InSync = e.InSync[1:] })
			c.Make(twoCopies, "a", "b")
		}, master.Request{Spec: twoCopies}, []volume.ID{3}},
		"partial ones when there is nothing better": {func(c *mastertest.Cluster) {
			c.Change(c.Make(twoCopies, "a", "b"), func(e *volume.Entry) { e.InSync = e.InSync[:1] })
		}, master.Request{Spec: twoCopies}, []volume.ID{1}},
		"in a data center": {func(c *mastertest.Cluster) {
			c.Make(volume.Spec{}, "a")
			c.Make(volume.Spec{}, "c")
		}, master.Request{DataCenter: "dc2"}, []volume.ID{2}},
		"in a rack": {func(c *mastertest.Cluster) {
			c.Make(volume.Spec{}, "a")
			c.Make(volume.Spec{}, "b")
			c.Make(volume.Spec{}, "c")
		}, master.Request{Rack: "r1"}, []volume.ID{1, 3}},
		"rack and data center are of the same node": {func(c *mastertest.Cluster) {
			c.Make(twoCopies, "b", "c") // dc1/r2 and dc2/r1
			c.Make(twoCopies, "a", "b")
		}, master.Request{Spec: twoCopies, DataCenter: "dc1", Rack: "r1"}, []volume.ID{2}},
		"on a node, which need not lead": {func(c *mastertest.Cluster) {
			c.Make(twoCopies, "a", "b")
			c.Make(twoCopies, "a", "c")
		}, master.Request{Spec: twoCopies, Node: "c"}, []volume.ID{2}},
		"on a node, by its address": {func(c *mastertest.Cluster) {
			c.Make(volume.Spec{}, "a")
			c.Make(volume.Spec{}, "b")
		}, master.Request{Node: "b:8080"}, []volume.ID{2}},
		"of exactly the kind asked for": {func(c *mastertest.Cluster) {
			c.Make(volume.Spec{}, "a")
			c.Make(volume.Spec{Collection: "x"}, "a")
			c.Make(volume.Spec{Collection: "x", Disk: "ssd"}, "a")
		}, master.Request{Spec: volume.Spec{Collection: "x"}}, []volume.ID{2}},
		"the first of each primary": {func(c *mastertest.Cluster) {
			c.Make(volume.Spec{}, "a")
			c.Make(volume.Spec{}, "a")
			c.Make(volume.Spec{}, "b")
		}, master.Request{}, []volume.ID{1, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := three()
			c.OnGrow = func(_ context.Context, req placement.GrowRequest) error {
				return fmt.Errorf("%w: grow %+v", volume.ErrNoSpace, req)
			}
			m := open(t, c, time.Second)
			row.arrange(c)
			got := map[volume.ID]int{}
			for range 60 {
				a := assign(t, m, row.req)
				got[a.ID.Volume]++
				cat, _ := c.Catalog()
				if e, _ := cat.Volume(a.ID.Volume); e.Primary != a.Node.ID || a.Node.URL != string(e.Primary)+":8080" {
					t.Fatalf("volume %d of %s: node %+v", e.Volume, e.Primary, a.Node)
				}
			}
			for id := range got {
				if !slices.Contains(row.want, id) {
					t.Errorf("volume %d was chosen, want %v", id, row.want)
				}
			}
			for _, id := range row.want {
				if got[id] == 0 {
					t.Errorf("volume %d was never chosen: %v", id, got)
				}
			}
		})
	}
}

func TestOneGrowthForManyRequests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := three()
		var grown atomic.Int32
		c.OnGrow = func(context.Context, placement.GrowRequest) error {
			grown.Add(1)
			time.Sleep(time.Second)
			return nil
		}
		m := open(t, c, 10*time.Second)
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { assign(t, m, master.Request{}) })
			wg.Go(func() { assign(t, m, master.Request{Spec: volume.Spec{Collection: "other"}}) })
		}
		wg.Wait()
		if n := grown.Load(); n != 2 {
			t.Errorf("%d growths for two kinds of volume", n)
		}
	})
}

func TestGrowthThatCanNeverBeIsAnsweredAtOnce(t *testing.T) {
	t.Parallel()
	for _, want := range []error{volume.ErrUnsatisfiable, volume.ErrNoSpace} {
		synctest.Test(t, func(t *testing.T) {
			c := three()
			c.OnGrow = func(context.Context, placement.GrowRequest) error { return fmt.Errorf("%w: needs more racks", want) }
			m := open(t, c, 10*time.Second)
			began := time.Now()
			_, err := m.Assign(context.Background(), master.Request{})
			if !errors.Is(err, want) || !strings.Contains(err.Error(), "needs more racks") || time.Since(began) != 0 {
				t.Errorf("after %v: %v", time.Since(began), err)
			}
			_, err = m.Assign(context.Background(), master.Request{Node: "nobody:8080"})
			if !errors.Is(err, volume.ErrUnsatisfiable) || time.Since(began) != 0 {
				t.Errorf("an unknown node, after %v: %v", time.Since(began), err)
			}
		})
	}
}

// A full cluster in which a primary is just changing must not refuse for good:
// clients take a 4xx as final.
func TestRefusedGrowthIsNotFinalWhileAVolumeMayHeal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := three()
		var asked atomic.Int64
		c.OnGrow = func(context.Context, placement.GrowRequest) error {
			asked.Add(1)
			return fmt.Errorf("%w: all slots are taken", volume.ErrNoSpace)
		}
		id := c.Make(twoCopies, "a", "b")
		away(c, "a", "dc1", "r1")
		m := open(t, c, 10*time.Second)
		_, err := m.Assign(context.Background(), master.Request{Spec: twoCopies})
		if !errors.Is(err, volume.ErrUnavailable) || errors.Is(err, volume.ErrNoSpace) || !strings.Contains(err.Error(), "all slots are taken") {
			t.Errorf("nobody took over: %v", err)
		}
		if asked.Load() > 200 {
			t.Errorf("the leader was asked %d times in 10 s", asked.Load())
		}
		time.AfterFunc(2*time.Second, func() {
			c.Change(id, func(e *volume.Entry) { e.Primary, e.InSync = "b", e.InSync[1:] })
		})
		began := time.Now()
		if a := assign(t, m, master.Request{Spec: twoCopies}); a.Node.ID != "b" || time.Since(began) != 2*time.Second {
			t.Errorf("node %s after %v", a.Node.ID, time.Since(began))
		}
	})
}

// The leader sees a volume to write to that this master does not: its gossip is
// older. It must not be asked without a pause.
func TestLeaderAndGossipDisagree(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := three()
		var asked atomic.Int64
		c.OnGrow = func(context.Context, placement.GrowRequest) error { asked.Add(1); return nil }
		c.Make(volume.Spec{}, "x") // gossip has never heard of x
		blind := func(n cluster.Node) cluster.Node { n.Ready = false; return n }
		m := open(t, c, 10*time.Second)
		for _, n := range []cluster.Node{mastertest.Node("a", "dc1", "r1"), mastertest.Node("b", "dc1", "r2"), mastertest.Node("c", "dc2", "r1")} {
			c.SetNode(blind(n))
		}
		_, err := m.Assign(context.Background(), master.Request{})
		if !errors.Is(err, volume.ErrUnavailable) || asked.Load() > 200 {
			t.Errorf("asked %d times: %v", asked.Load(), err)
		}
	})
}

// lagging is the log of a master that has not caught up.
type lagging struct {
	*mastertest.Cluster
	cat *catalog.Catalog
}

func (l lagging) Catalog() (*catalog.Catalog, <-chan struct{}) { return l.cat, make(chan struct{}) }

func TestALookupOfAVolumeThatIsNotKnownHereYetIsTheLeadersToAnswer(t *testing.T) {
	t.Parallel()
	c := three()
	before, _ := c.Catalog()
	m := master.New(master.Options{Log: lagging{c, before}, Gossip: c, Leader: c, Volumes: c, Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() { m.Close() })
	id := c.Make(volume.Spec{}, "a")
	look := func(id volume.ID) ([]volume.Node, error) { return m.Lookup(context.Background(), id, "") }
	if nodes, err := look(id); err != nil || len(nodes) != 1 || nodes[0].ID != "a" {
		t.Errorf("a volume made a moment ago: %v, %v", nodes, err)
	}
	if _, err := look(id + 1); !errors.Is(err, volume.ErrNoVolume) {
		t.Errorf("no such volume: %v", err)
	}
	c.SetLeading(false)
	if _, err := look(id); !errors.Is(err, volume.ErrUnavailable) {
		t.Errorf("nobody leads: %v", err)
	}
}

func TestADeletedVolumeIsGoneWhoeverLeads(t *testing.T) {
	t.Parallel()
	c := three()
	m := open(t, c, time.Second)
	id := c.Make(volume.Spec{}, "a")
	c.Apply(catalog.Command{Delete: &catalog.Delete{Volumes: []volume.ID{id}}})
	c.SetLeading(false)
	if _, err := m.Lookup(context.Background(), id, ""); !errors.Is(err, volume.ErrNoVolume) {
		t.Errorf("%v", err)
	}
}

func TestLookup(t *testing.T) {
	t.Parallel()
	c := three()
	m := open(t, c, time.Second)
	id := c.Make(volume.Spec{Collection: "pics", Placement: 2}, "a", "b", "c")
	away(c, "b", "dc1", "r2")
	ids := func(collection string) (out []volume.NodeID) {
		nodes, err := m.Lookup(context.Background(), id, collection)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range nodes {
			out = append(out, n.ID)
		}
		return out
	}
	for _, collection := range []string{"", "pics"} {
		if got := ids(collection); !slices.Equal(got, []volume.NodeID{"a", "c"}) {
			t.Errorf("collection %q: %v", collection, got)
		}
	}
	for _, n := range []string{"a", "c"} {
		away(c, n, "dc", "r")
	}
	if got := ids(""); len(got) != 3 {
		t.Errorf("all are silent: %v", got)
	}
	if _, err := m.Lookup(context.Background(), id, "other"); !errors.Is(err, volume.ErrNoVolume) {
		t.Errorf("another collection: %v", err)
	}
	if _, err := m.Lookup(context.Background(), 99, ""); !errors.Is(err, volume.ErrNoVolume) {
		t.Errorf("no such volume: %v", err)
	}
	if e, ok := m.Entry(id); !ok || e.Volume != id {
		t.Errorf("entry %+v, %v", e, ok)
	}
	if _, ok := m.Entry(99); ok {
		t.Error("an entry of no volume")
	}
}

// Requests that wait when the master is closed end, with all they started.
func TestCloseEndsWhatWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := three()
		c.SetLeading(false)
		m := open(t, c, time.Hour)
		done := make(chan error)
		go func() {
			_, err := m.Assign(context.Background(), master.Request{})
			done <- err
		}()
		go func() {
			_, err := m.View(context.Background())
			done <- err
		}()
		synctest.Wait()
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		began := time.Now()
		for range 2 {
			if err := <-done; err == nil {
				t.Error("no error")
			}
		}
		if _, err := m.Assign(context.Background(), master.Request{}); !errors.Is(err, volume.ErrClosed) || time.Since(began) != 0 {
			t.Errorf("after Close: %v", err)
		}
	})
}
