package consensus

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

// memory is the raft directory of a member that has commands and snapshots.
func memory(t *testing.T) string {
	t.Helper()
	peers := newGroup(t, 1, func(o *Options) { o.SnapshotEvery, o.SnapshotThreshold, o.TrailingLogs = 10*time.Millisecond, 5, 200 })
	for i := range 60 {
		propose(t, peers, fmt.Sprint("a command of some length, so that there are pages to damage, number ", i))
	}
	until(t, "two snapshots", func() bool {
		found, _ := filepath.Glob(filepath.Join(peers[0].opt.Dir, "snapshots", "*-*-*[0-9]"))
		return len(found) == 2
	})
	peers[0].stop()
	return peers[0].opt.Dir
}

func TestDamagedRaftStateIsSetAside(t *testing.T) {
	t.Parallel()
	whole := memory(t)
	db := func(dir string) string { return filepath.Join(dir, "raft.db") }
	change := func(f func(b []byte) []byte) func(dir string) error {
		return func(dir string) error {
			b, err := os.ReadFile(db(dir))
			if err != nil {
				return err
			}
			return os.WriteFile(db(dir), f(b), 0o600)
		}
	}
	newest := func(dir string) string {
		found, _ := filepath.Glob(filepath.Join(dir, "snapshots", "*-*-*[0-9]"))
		return slices.Max(found)
	}
	log := func(f func(*bbolt.Bucket) error) func(dir string) error {
		return func(dir string) error {
			b, err := bbolt.Open(db(dir), 0o600, nil)
			if err != nil {
				return err
			}
			defer b.Close()
			return b.Update(func(tx *bbolt.Tx) error { return f(tx.Bucket([]byte("logs"))) })
		}
	}
	for name, tt := range map[string]struct {
		damage func(dir string) error
		whole  bool
	}{
		"nothing":                     {func(string) error { return nil }, true},
		"a directory that is not":     {os.RemoveAll, true},
		"an empty directory":          {func(dir string) error { return os.RemoveAll(dir + "/") }, true},
		"other files":                 {func(dir string) error { return os.WriteFile(dir+"/genesis.json", []byte("{}"), 0o600) }, true},
		"a snapshot that was begun":   {func(dir string) error { return os.MkdirAll(dir+"/snapshots/1-2-3.tmp", 0o700) }, true},
		"the file is gone":            {func(dir string) error { return os.Remove(db(dir)) }, false},
		"it is empty":                 {change(func([]byte) []byte { return nil }), false},
		"it is another, new one":      {func(dir string) error { return fresh(db(dir)) }, false},
		"it is something else":        {change(func(b []byte) []byte { return []byte("not a database at all") }), false},
		"it is cut between pages":     {change(func(b []byte) []byte { return b[:5*4096] }), false},
		"it is cut in a page":         {change(func(b []byte) []byte { return b[:4*4096+100] }), false},
		"both first pages are zero":   {change(func(b []byte) []byte { clear(b[:2*4096]); return b }), false},
		"all pages of data are zero":  {change(func(b []byte) []byte { clear(b[2*4096:]); return b }), false},
		"pages have other bytes":      {change(func(b []byte) []byte { fill(b[2*4096:]); return b }), false},
		"an entry is garbage":         {log(func(b *bbolt.Bucket) error { k, _ := b.Cursor().Last(); return b.Put(k, []byte{0xc1}) }), false},
		"an entry is missing":         {log(func(b *bbolt.Bucket) error { c := b.Cursor(); c.Last(); k, _ := c.Prev(); return b.Delete(k) }), false},
		"the first entries are gone":  {log(func(b *bbolt.Bucket) error { return keepLast(b) }), false},
		"a snapshot has another byte": {func(dir string) error { return flip(newest(dir) + "/state.bin") }, false},
		"a snapshot is cut":           {func(dir string) error { return os.Truncate(newest(dir)+"/state.bin", 10) }, false},
		"a snapshot lost its list":    {func(dir string) error { return os.Remove(newest(dir) + "/meta.json") }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "raft")
			if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			if err := tt.damage(dir); err != nil {
				t.Fatal(err)
			}
			if err := setAsideDamaged(dir, slog.New(slog.DiscardHandler)); err != nil {
				t.Fatal(err)
			}
			aside, _ := filepath.Glob(dir + ".damaged-*")
			if len(aside) == 1 == tt.whole || len(aside) > 1 {
				t.Errorf("set aside: %v", aside)
			}
		})
	}
}

func fresh(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	store, err := openBolt(path)
	if err != nil {
		return err
	}
	return store.Close()
}

func fill(b []byte) {
	for i := range b {
		b[i] = byte(i*7 + 3)
	}
}

func flip(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	b[len(b)/2] ^= 1
	return os.WriteFile(path, b, 0o600)
}

// keepLast deletes all entries but the last, and with them some that no snapshot has.
func keepLast(b *bbolt.Bucket) error {
	last, _ := b.Cursor().Last()
	last = slices.Clone(last)
	var all [][]byte
	for k, _ := b.Cursor().First(); k != nil; {
		all = append(all, slices.Clone(k))
		c := b.Cursor()
		c.Seek(k)
		k, _ = c.Next()
	}
	for _, k := range all {
		if string(k) != string(last) {
			if err := b.Delete(k); err != nil {
				return err
			}
		}
	}
	v := slices.Clone(b.Get(last))
	last[6]++ // far behind every snapshot
	return b.Put(last, v)
}

// A member whose log is damaged comes back as a new one and gets everything from
// the others, while nobody's vote counts twice.
func TestAMemberWithDamagedStateJoinsAnew(t *testing.T) {
	t.Parallel()
	peers := newGroup(t, 3)
	leader := propose(t, peers, "a")
	agree(t, peers, "a")
	bad := without(peers, leader)[0]
	old := bad.RaftID()
	bad.stop()
	bad.opt.Dir = filepath.Clean(bad.opt.Dir)
	if err := os.Truncate(filepath.Join(bad.opt.Dir, "raft.db"), 5000); err != nil {
		t.Fatal(err)
	}
	bad.start()
	if bad.RaftID() == old || bad.HasState() {
		t.Fatal("the raft id outlived its log")
	}
	view := &fakeView{}
	for i, p := range peers {
		view.nodes = append(view.nodes, p.node(i))
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, p := range peers {
		wg.Go(func() { p.Lead(ctx, func(ctx context.Context) { p.AdmitLoop(ctx, "c", view) }) })
	}
	propose(t, peers, "b")
	agree(t, peers, "a", "b")
	until(t, "the old member is out, the new one has a vote", func() bool {
		m := leaderOf(t, peers).Members()
		return len(m) == 3 && slices.Contains(m, bad.seat())
	})
	aside, _ := filepath.Glob(bad.opt.Dir + ".damaged-*")
	if len(aside) != 1 {
		t.Errorf("set aside: %v", aside)
	}
	t.Cleanup(func() { os.RemoveAll(aside[0]) })
}
