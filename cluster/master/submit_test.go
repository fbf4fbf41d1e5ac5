package master_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weedd/cluster/master"
	"weedd/cluster/placement"
	"weedd/volume"
	"weedd/volume/needle"
)

// tries notes the writes that a submit makes.
type tries struct {
	mu  sync.Mutex
	ids []volume.FileID
}

func (s *tries) add(id volume.FileID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids = append(s.ids, id)
	return len(s.ids)
}

func TestSubmitTriesAnotherVolumeWithAFreshID(t *testing.T) {
	t.Parallel()
	for _, fault := range []error{volume.ErrReadOnly, volume.ErrNoSpace, volume.ErrNotPrimary, volume.ErrUnavailable, volume.ErrOutcomeUnknown,
		volume.ErrExists, errors.New("odd")} {
		synctest.Test(t, func(t *testing.T) {
			c := three()
			for range 3 {
				c.Make(volume.Spec{}, "a")
				c.Make(volume.Spec{}, "b")
			}
			var s tries
			c.OnPut = func(_ context.Context, _ volume.Node, id volume.FileID) error {
				if s.add(id) <= 3 {
					return fmt.Errorf("%w: here", fault)
				}
				return nil
			}
			m := open(t, c, 10*time.Second)
			a, res, err := m.Submit(context.Background(), master.Request{}, &needle.Needle{Data: []byte("x")})
			if err != nil {
				t.Fatalf("%v: %v", fault, err)
			}
			seen, keys := map[volume.ID]bool{}, map[volume.Key]bool{}
			for _, id := range s.ids {
				seen[id.Volume], keys[id.Key] = true, true
			}
			if len(s.ids) != 4 || len(seen) != 4 || len(keys) != 4 || a.ID != s.ids[3] {
				t.Errorf("%v: tried %v, answered %v", fault, s.ids, a.ID)
			}
			n, err := c.Blobs.Get(context.Background(), a.ID, false)
			if err != nil || string(n.Data) != "x" || res.Size != 1 {
				t.Fatalf("%v: stored %+v, %v; answered %+v", fault, n, err, res)
			}
			n.Release()
		})
	}
}

func TestSubmitGivesUpOnMistakesOfTheClient(t *testing.T) {
	t.Parallel()
	for _, fault := range []error{volume.ErrBadRequest, volume.ErrTooLarge, volume.ErrDigest, volume.ErrUnauthorized} {
		c := three()
		var s tries
		c.OnPut = func(_ context.Context, _ volume.Node, id volume.FileID) error {
			s.add(id)
			return fmt.Errorf("%w: here", fault)
		}
		_, _, err := open(t, c, time.Minute).Submit(context.Background(), master.Request{}, &needle.Needle{})
		if !errors.Is(err, fault) || len(s.ids) != 1 {
			t.Errorf("%v: %d tries, %v", fault, len(s.ids), err)
		}
	}
}

// When everything fails the answer is 503 with the reason, whatever the tries
// ended with, and nobody is asked without a pause.
func TestSubmitEndsAfterHold(t *testing.T) {
	t.Parallel()
	for _, fault := range []error{volume.ErrExists, volume.ErrReadOnly, volume.ErrUnavailable} {
		synctest.Test(t, func(t *testing.T) {
			c := three()
			var grown atomic.Int64
			c.OnGrow = func(context.Context, placement.GrowRequest) error {
				grown.Add(1)
				return fmt.Errorf("%w: all slots are taken", volume.ErrNoSpace)
			}
			c.Make(volume.Spec{}, "a")
			var s tries
			c.OnPut = func(_ context.Context, _ volume.Node, id volume.FileID) error {
				s.add(id)
				return fmt.Errorf("%w: the disk is odd", fault)
			}
			m := open(t, c, 10*time.Second)
			began := time.Now()
			_, _, err := m.Submit(context.Background(), master.Request{}, &needle.Needle{})
			if took := time.Since(began); took < 10*time.Second || took > 11*time.Second {
				t.Errorf("%v: after %v", fault, took)
			}
			if volume.Code(err) != "unavailable" || !strings.Contains(err.Error(), "the disk is odd") {
				t.Errorf("%v: code %s, %v", fault, volume.Code(err), err)
			}
			if len(s.ids) > 200 || grown.Load() > 200 {
				t.Errorf("%v: %d writes, %d growths in 10 s", fault, len(s.ids), grown.Load())
			}
		})
	}
}

// An id whose write has an unknown outcome is deleted once its node answers; one
// of which nothing was stored is not.
func TestSubmitDeletesWhatItGaveUp(t *testing.T) {
	t.Parallel()
	for fault, want := range map[error]bool{volume.ErrOutcomeUnknown: true, context.DeadlineExceeded: true, volume.ErrUnavailable: false, volume.ErrReadOnly: false} {
		synctest.Test(t, func(t *testing.T) {
			c := three()
			c.Make(volume.Spec{}, "a")
			c.Make(volume.Spec{}, "b")
			var s tries
			c.OnPut = func(ctx context.Context, _ volume.Node, id volume.FileID) error {
				if s.add(id) > 1 {
					return nil
				}
				if fault == context.DeadlineExceeded { // a frozen node: it is not waited for longer than an attempt
					<-ctx.Done()
					return ctx.Err()
				}
				_, err := c.Blobs.Put(ctx, id, &needle.Needle{}, true)
				return errors.Join(fault, err)
			}
			refused := 0
			var deleted []volume.FileID
			c.OnDelete = func(_ context.Context, _ volume.Node, id volume.FileID) error {
				if refused++; refused < 3 {
					return volume.ErrUnavailable
				}
				deleted = append(deleted, id)
				return nil
			}
			m := open(t, c, 10*time.Second)
			a, _, err := m.Submit(context.Background(), master.Request{}, &needle.Needle{Data: []byte("x")})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			if !want && len(deleted) > 0 || want && (len(deleted) != 1 || deleted[0] != s.ids[0]) {
				t.Errorf("%v: tried %v, deleted %v", fault, s.ids, deleted)
			}
			if n, err := c.Blobs.Get(context.Background(), a.ID, false); err != nil {
				t.Errorf("what was acknowledged is gone: %v", err)
			} else {
				n.Release()
			}
		})
	}
}

func TestPrimaryThatFailedIsPassedOverForAWhile(t *testing.T) {
	t.Parallel()
	for fault, shunned := range map[error]bool{volume.ErrUnavailable: true, volume.ErrReadOnly: false} {
		synctest.Test(t, func(t *testing.T) {
			c := three()
			for range 3 {
				c.Make(volume.Spec{}, "a")
				c.Make(volume.Spec{}, "b")
			}
			c.OnPut = func(_ context.Context, node volume.Node, _ volume.FileID) error {
				if node.ID == "a" {
					return fault
				}
				return nil
			}
			m := open(t, c, 10*time.Second)
			chosen := func() map[volume.NodeID]bool {
				got := map[volume.NodeID]bool{}
				for range 60 {
					got[assign(t, m, master.Request{}).Node.ID] = true
				}
				return got
			}
			for range 20 { // until a was tried once at least
				if _, _, err := m.Submit(context.Background(), master.Request{}, &needle.Needle{}); err != nil {
					t.Fatal(err)
				}
			}
			if got := chosen(); got["a"] == shunned || !got["b"] {
				t.Errorf("%v: chosen %v", fault, got)
			}
			time.Sleep(4 * time.Second)
			if got := chosen(); !got["a"] || !got["b"] {
				t.Errorf("%v: chosen later %v", fault, got)
			}
		})
	}
}

func TestUploadThatIsBrokenOffShunsNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := three()
		c.Make(volume.Spec{}, "a")
		c.Make(volume.Spec{}, "b")
		var at volume.NodeID
		c.OnPut = func(ctx context.Context, node volume.Node, _ volume.FileID) error {
			at = node.ID
			<-ctx.Done()
			return fmt.Errorf("%w: %w", volume.ErrOutcomeUnknown, ctx.Err())
		}
		m := open(t, c, 10*time.Second)
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(100*time.Millisecond, cancel)
		if _, _, err := m.Submit(ctx, master.Request{}, &needle.Needle{}); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		for range 100 {
			if assign(t, m, master.Request{}).Node.ID == at {
				return
			}
		}
		t.Errorf("node %s is shunned", at)
	})
}
