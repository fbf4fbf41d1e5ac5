package replica_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/replica"
	"weedd/volume/store"
	"weedd/volume/vfs"
)

// alone opens a volume with one copy, which leads.
func alone(tb testing.TB, sync store.SyncMode) *replica.Replica {
	tb.Helper()
	st, err := store.Open(store.Options{FS: vfs.OS{}, Dirs: []store.Dir{{Path: tb.TempDir(), Max: 10, Init: true}},
		Sync: sync, Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		tb.Fatal(err)
	}
	self := volume.Holder{Node: "a", Copy: volume.NewCopyID()}
	v, err := st.Create(1, volume.Spec{}, self.Copy)
	if err != nil {
		tb.Fatal(err)
	}
	r := replica.New(replica.Options{Self: self, Volume: 1, Log: v, Logger: slog.New(slog.DiscardHandler), Now: time.Now,
		Dial: func(context.Context, volume.NodeID) (replica.Link, error) { return nil, volume.ErrUnavailable },
		Ask:  func(context.Context, volume.Ask) (volume.Entry, error) { return volume.Entry{}, volume.ErrUnavailable },
	})
	tb.Cleanup(func() {
		if err := errors.Join(r.Close(), st.Close()); err != nil {
			tb.Error(err)
		}
	})
	r.Learn(volume.Entry{Volume: 1, State: volume.StateOpen, Epoch: 1, Version: 1, Primary: "a", InSync: []volume.Holder{self}})
	awaitLead(tb, r)
	return r
}

func awaitLead(tb testing.TB, r *replica.Replica) {
	tb.Helper()
	deadline := time.After(10 * time.Second)
	for {
		_, leads, changed := r.Watch()
		if leads {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			tb.Fatalf("does not lead: %+v", r.Report())
		}
	}
}

func file(key volume.Key, data string) *needle.Needle {
	return &needle.Needle{Key: key, Cookie: 7, Data: []byte(data), Flags: needle.FlagName | needle.FlagMime | needle.FlagModified, Name: []byte("n"), Modified: 1}
}

func BenchmarkPut(b *testing.B) {
	for _, mode := range []store.SyncMode{store.SyncOS, store.SyncGroup} {
		for _, writers := range []int{1, 16, 64, 256} {
			b.Run(fmt.Sprintf("sync=%s/writers=%d", mode, writers), func(b *testing.B) { benchPut(b, alone(b, mode), writers) })
		}
	}
}

func benchPut(b *testing.B, r *replica.Replica, writers int) {
	data := make([]byte, 1024)
	var key atomic.Uint64
	var work sync.WaitGroup
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	b.ResetTimer()
	for range writers {
		work.Go(func() {
			for k := key.Add(1); k <= uint64(b.N); k = key.Add(1) {
				n := &needle.Needle{Key: volume.Key(k), Cookie: 7, Data: data}
				if _, err := r.Put(context.Background(), n, true, 0); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	work.Wait()
}

func BenchmarkGet(b *testing.B) {
	r := alone(b, store.SyncOS)
	if _, err := r.Put(context.Background(), file(1, string(make([]byte, 1024))), true, 0); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			n, err := r.Get(context.Background(), 1, 7, false)
			if err != nil {
				b.Error(err)
				return
			}
			n.Release()
		}
	})
}
