package store

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/vfs"
	"weedd/volume/vfs/faultfs"
)

func TestRecordsArePendingUntilPublished(t *testing.T) {
	t.Parallel()
	fs, s, v := newVolume(t)
	must(t, write(v, record(t, v, 1, []byte("old"))))
	committed := v.Committed()
	must(t, v.Append(append(record(t, v, 1, []byte("new")), record(t, v, 2, []byte("x"))...)))
	must(t, v.Append(tombstone(t, v, 2)))
	expect(t, v, 1, []byte("old"))
	expect(t, v, 2, nil)
	row, ok := v.Latest(1)
	if !ok || !row.Pending || row.Offset != committed {
		t.Fatalf("%+v", row)
	}
	n, err := v.Read(row)
	must(t, err)
	if string(n.Data) != "new" {
		t.Fatalf("%q", n.Data)
	}
	n.Release()
	if row, ok = v.Latest(2); !ok || !row.Pending || !row.Deleted() || row.End() != v.End() {
		t.Fatalf("%+v", row)
	}
	if h, err := v.ReadHeader(row); err != nil || h.Cookie != cookieOf(2) {
		t.Fatalf("%+v, %v", h, err)
	}
	v.Publish(v.End() - 1) // all but the tombstone
	expect(t, v, 1, []byte("new"))
	expect(t, v, 2, []byte("x"))
	if v.Committed() != v.End()-32 {
		t.Fatalf("committed %d of %d", v.Committed(), v.End())
	}
	v.Publish(v.End() + 1000)
	v.Publish(0)
	expect(t, v, 2, nil)
	if _, ok := v.Lookup(3); ok {
		t.Fatal("a key that never was")
	}
	if v.Committed() != v.End() {
		t.Fatalf("committed %d of %d", v.Committed(), v.End())
	}
	row, ok = v.Latest(2)
	if h, err := v.ReadHeader(row); !ok || !row.Deleted() || row.Pending || err != nil || h.Cookie != cookieOf(2) || h.Size == 0 {
		t.Fatalf("a deletion points to what it deleted: %+v, %+v, %v", row, h, err)
	}
	n, err = v.Get(2, cookieOf(2), time.Unix(1e9, 0), true)
	must(t, err)
	if string(n.Data) != "x" {
		t.Fatalf("deleted data %q", n.Data)
	}
	n.Release()
	_, v = reopen(t, fs, s)
	must(t, fullCheck(fs, v))
	files, deleted, bytes, maxKey, size, modified, revision := v.Stats()
	if files != 3 || deleted != 2 || bytes != 2*(4+1+1+5)+2 || maxKey != 2 || size != v.End() || modified.Unix() != 1e9 || revision != 0 {
		t.Fatal(files, deleted, bytes, maxKey, size, modified, revision)
	}
}

func TestEmptyFilesKeepTheirCookie(t *testing.T) {
	t.Parallel()
	fs, s, v := newVolume(t)
	must(t, write(v, record(t, v, 1, nil)))
	for range 2 {
		expect(t, v, 1, []byte{})
		if _, err := v.Get(1, cookieOf(1)+1, time.Unix(1e9, 0), false); !errors.Is(err, volume.ErrNotFound) {
			t.Fatalf("another cookie: %v", err)
		}
		s, v = reopen(t, fs, s)
	}
	must(t, write(v, tombstone(t, v, 1)))
	expect(t, v, 1, nil)
	_, v = reopen(t, fs, s)
	expect(t, v, 1, nil)
}

func TestTimeToLive(t *testing.T) {
	t.Parallel()
	_, s, v := newVolume(t)
	ttl := volume.TTL{Count: 3, Unit: 1}
	brief, err := s.Create(8, volume.Spec{TTL: volume.TTL{Count: 1, Unit: 2}}, 80)
	must(t, err)
	own := needle.Needle{Key: 1, Data: []byte("x"), TTL: ttl, Flags: needle.FlagTTL}
	none := needle.Needle{Key: 2, Data: []byte("x")}
	for _, v := range []*Volume{v, brief} {
		must(t, write(v, append(encode(t, v, own), encode(t, v, none)...)))
	}
	start := time.Unix(1e9, 1e6)
	for _, c := range []struct {
		v     *Volume
		key   volume.Key
		after time.Duration
		there bool
	}{
		{v, 1, 2 * time.Minute, true}, {v, 1, 3 * time.Minute, false}, {v, 2, 1e6 * time.Hour, true},
		{brief, 1, 2 * time.Minute, true}, {brief, 1, 3 * time.Minute, false},
		{brief, 2, 59 * time.Minute, true}, {brief, 2, time.Hour, false},
	} {
		n, err := c.v.Get(c.key, 0, start.Add(c.after), false)
		if (err == nil) != c.there || err != nil && !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("volume %d, key %d after %s: %v", c.v.ID(), c.key, c.after, err)
		}
		if n != nil {
			n.Release()
		}
	}
	vif, err := vfs.ReadFile(s.opts.FS, "/d/8.vif")
	must(t, err)
	if !bytes.HasPrefix(vif, []byte("{\n  \"files\": [],\n  \"version\": 3,")) || bytes.Contains(vif, []byte(`"expireAtSec": "0"`)) {
		t.Errorf("%s", vif)
	}
}

func TestBadRecordsAreNotAppended(t *testing.T) {
	t.Parallel()
	_, _, v := newVolume(t)
	must(t, write(v, record(t, v, 1, []byte("x"))))
	end := v.End()
	good := record(t, v, 2, []byte("hello"))
	flipped := bytes.Clone(good)
	flipped[22] ^= 1
	padded := bytes.Clone(good)
	padded[len(padded)-1] ^= 1
	old, err := needle.Append(nil, &needle.Needle{Key: 3, AppendedAt: 5})
	must(t, err)
	for name, b := range map[string][]byte{
		"cut short": good[:len(good)-8], "of a few bytes": good[:9], "with a bit flipped": flipped, "with other padding": padded,
		"of an earlier time": old, "twice": append(bytes.Clone(good), good...), "of zeros": make([]byte, 32),
	} {
		if err := v.Append(b); !errors.Is(err, volume.ErrBadRequest) {
			t.Errorf("a record %s: %v", name, err)
		}
	}
	if v.End() != end || v.Failed() != nil {
		t.Fatalf("end %d, was %d, %v", v.End(), end, v.Failed())
	}
	must(t, v.Append(good))
	must(t, v.Append(nil))
}

func TestAFullVolumeTakesTombstonesOnly(t *testing.T) {
	t.Parallel()
	_, _, v := newVolume(t)
	v.limit = 200
	for v.End() < v.limit {
		must(t, write(v, record(t, v, 1, []byte("x"))))
	}
	if err := v.Append(record(t, v, 2, []byte("x"))); !errors.Is(err, volume.ErrNoSpace) {
		t.Fatal(err)
	}
	must(t, write(v, tombstone(t, v, 1)))
	expect(t, v, 1, nil)
	if limit := maxOffset + 1 - reserve; limit != 32<<30-1<<20 {
		t.Fatal(limit)
	}
}

func TestCutGoesToRecordsAboveTheCommittedLengthOnly(t *testing.T) {
	t.Parallel()
	fs, s, v := newVolume(t)
	must(t, write(v, record(t, v, 1, []byte("a"))))
	committed := v.Committed()
	must(t, v.Append(record(t, v, 1, []byte("b"))))
	middle := v.End()
	must(t, v.Append(record(t, v, 1, bytes.Repeat([]byte("c"), 3<<20))))
	_, err := v.Sync()
	must(t, err)
	must(t, v.Checkpoint())
	for _, end := range []int64{0, 8, committed - 8, committed + 8, middle + 8, v.End() + 8} {
		if v.Cut(end) == nil {
			t.Fatalf("cut at %d; committed %d, then %d, end %d", end, committed, middle, v.End())
		}
	}
	must(t, v.Cut(v.End()))
	must(t, v.Cut(middle))
	if row, _ := v.Latest(1); v.End() != middle || v.Durable() != middle || row.Offset != committed || !row.Pending {
		t.Fatalf("end %d, durable %d, want %d; %+v", v.End(), v.Durable(), middle, row)
	}
	must(t, v.Cut(committed))
	if row, ok := v.Latest(1); !ok || row.Pending {
		t.Fatalf("%+v", row)
	}
	must(t, write(v, record(t, v, 1, []byte("d"))))
	_, v = reopen(t, fs, s)
	expect(t, v, 1, []byte("d"))
	must(t, fullCheck(fs, v))
}

func TestChecksumAndRawBytes(t *testing.T) {
	t.Parallel()
	fs, s, v := newVolume(t)
	rng := rand.New(rand.NewPCG(1, 1))
	for k := range volume.Key(12) {
		data := make([]byte, 1+rng.IntN(1<<20))
		must(t, write(v, record(t, v, k, data)))
	}
	must(t, v.Append(record(t, v, 1, make([]byte, 3<<20))))
	for range 2 {
		raw := make([]byte, v.End()+10)
		n, err := v.ReadAt(raw, 0)
		if int64(n) != v.End() || !errors.Is(err, io.EOF) {
			t.Fatalf("%d of %d bytes, %v", n, v.End(), err)
		}
		raw = raw[:n]
		if n, err := v.ReadAt(make([]byte, 10), v.End()); n != 0 || !errors.Is(err, io.EOF) {
			t.Fatal(n, err)
		}
		for _, upto := range []int64{0, 8, 100, 1 << 20, 1<<20 + 1, 2<<20 - 1, v.Committed(), v.End()} {
			want := crc32.Checksum(raw[:upto], crc32.MakeTable(crc32.Castagnoli))
			if got, err := v.Checksum(upto); err != nil || got != want {
				t.Errorf("%d bytes: %x, want %x, %v", upto, got, want, err)
			}
		}
		if _, err := v.Checksum(v.End() + 1); !errors.Is(err, volume.ErrBadRequest) {
			t.Error(err)
		}
		s, v = reopen(t, fs, s)
	}
}

func TestCorruptBytesAreNeverReturned(t *testing.T) {
	t.Parallel()
	fs, _, v := newVolume(t)
	must(t, write(v, record(t, v, 1, []byte("some data"))))
	row, _ := v.Lookup(1)
	for _, at := range []int64{4 + 7, 15, 16 + 3, 20} { // key, size, data size, data
		flip(t, fs, "/d/7.dat", row.Offset+at)
		_, err := v.Get(1, cookieOf(1), time.Unix(1e9, 0), false)
		var corrupt *volume.CorruptError
		if !errors.As(err, &corrupt) || corrupt.Offset != row.Offset || corrupt.Volume != 7 {
			t.Errorf("byte %d: %v", at, err)
		}
		flip(t, fs, "/d/7.dat", row.Offset+at)
	}
	expect(t, v, 1, []byte("some data"))
}

func TestEpochs(t *testing.T) {
	t.Parallel()
	fs, s, v := newVolume(t)
	one, two := volume.EpochStart{Epoch: 1, Start: 8, Generation: 3}, volume.EpochStart{Epoch: 1 << 40, Start: 1 << 33, Generation: 3}
	must(t, v.AddEpoch(one))
	must(t, v.AddEpoch(two))
	if err := v.AddEpoch(two); !errors.Is(err, volume.ErrStale) {
		t.Fatal(err)
	}
	s, v = reopen(t, fs, s)
	if e := v.Epochs(); len(e) != 2 || e[0] != one || e[1] != two {
		t.Fatal(e)
	}
	must(t, v.SetEpochs([]volume.EpochStart{one}))
	must(t, v.AddEpoch(volume.EpochStart{Epoch: 2, Generation: 3}))
	s, v = reopen(t, fs, s)
	if e := v.Epochs(); len(e) != 2 || e[1].Epoch != 2 {
		t.Fatal(e)
	}
	flip(t, fs, "/d/7.wcopy", copyHeader+copyEntry+3) // the last was never told
	s, v = reopen(t, fs, s)
	if e := v.Epochs(); len(e) != 1 {
		t.Fatal(e)
	}
	must(t, v.AddEpoch(volume.EpochStart{Epoch: 4, Generation: 3}))
	_, v = reopen(t, fs, s)
	if e := v.Epochs(); len(e) != 2 || e[1].Epoch != 4 {
		t.Fatal(e)
	}
}

// With sync "os" a copy is doubtful after a reboot without a clean stop, until
// it enters another epoch.
func TestDoubtfulAfterAReboot(t *testing.T) {
	t.Parallel()
	fs := faultfs.New(1)
	must(t, fs.Mkdir("/d"))
	must(t, fs.SyncDir("/"))
	boot := func(name string) func(*Options) {
		return func(o *Options) { o.Sync, o.Boot = SyncOS, name }
	}
	s := openStore(t, fs, boot("one"))
	v, err := s.Create(7, volume.Spec{}, 70)
	must(t, err)
	must(t, write(v, record(t, v, 1, []byte("x"))))
	if v.Durable() != v.End() {
		t.Fatalf("durable %d of %d", v.Durable(), v.End())
	}
	crash := func(name string, want bool) {
		t.Helper()
		fs = fs.Crash(0)
		s = openStore(t, fs, boot(name))
		if v, err = s.Volume(7); err != nil {
			t.Fatal(err)
		}
		if v.Doubtful() != want {
			t.Fatalf("boot %s: doubtful %v", name, !want)
		}
	}
	crash("one", false) // only the program, says the boot id
	must(t, write(v, record(t, v, 1, []byte("x"))))
	crash("two", true)
	must(t, write(v, record(t, v, 1, []byte("x"))))
	s, v = reopen(t, fs, s, boot("two"))
	if !v.Doubtful() {
		t.Fatal("a clean stop makes nothing certain")
	}
	crash("three", true)
	must(t, v.AddEpoch(volume.EpochStart{Epoch: 1}))
	must(t, write(v, record(t, v, 1, []byte("x"))))
	if v.Doubtful() {
		t.Fatal("doubtful in a new epoch")
	}
	must(t, s.Close())
	crash("four", false) // after a clean stop
}

// A volume that SeaweedFS compacted, or cut, is not the copy that it was (R15).
func TestACopyThatAnotherProgramChangedIsForeign(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(f vfs.File, end int64) error{
		"another revision": func(f vfs.File, _ int64) error { _, err := f.WriteAt([]byte{0, 1}, 4); return err },
		"shorter":          func(f vfs.File, end int64) error { return f.Truncate(end - 48) },
		"other records":    func(f vfs.File, end int64) error { _, err := f.WriteAt([]byte("!!"), end-48); return err },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fs, s, v := newVolume(t)
			must(t, write(v, record(t, v, 1, []byte("one"))))
			must(t, write(v, record(t, v, 2, []byte("two"))))
			end := v.End()
			must(t, s.Close())
			f, err := fs.OpenFile("/d/7.dat", os.O_RDWR)
			must(t, err)
			must(t, change(f, end))
			s = openStore(t, fs)
			v, err = s.Volume(7)
			must(t, err)
			if !v.Foreign() || v.CopyID() != 0 || len(v.Epochs()) != 0 {
				t.Fatal("still ours")
			}
			expect(t, v, 1, []byte("one"))
			if err := v.Append(nil); !errors.Is(err, volume.ErrReadOnly) {
				t.Fatal(err)
			}
			if err := s.Remove(7, 70); !errors.Is(err, volume.ErrStale) {
				t.Fatal(err)
			}
			must(t, s.SetAsideCopy(7, 0, "changed"))
		})
	}
}

// Readers see whole records only, while a writer appends, syncs, publishes and
// takes checkpoints. Meant for the race detector.
func TestReadersBesideAWriter(t *testing.T) {
	t.Parallel()
	fs, s, v := newVolume(t)
	const keys = 300
	var readers sync.WaitGroup
	done := make(chan struct{})
	for r := range 3 {
		readers.Add(1)
		go func() {
			defer readers.Done()
			rng := rand.New(rand.NewPCG(uint64(r), 2))
			for {
				select {
				case <-done:
					return
				default:
				}
				key := volume.Key(rng.IntN(keys))
				n, err := v.Get(key, cookieOf(key), time.Unix(1e9, 0), false)
				if err == nil {
					if want := fmt.Appendf(nil, "%d,", key); !bytes.HasPrefix(n.Data, want) {
						t.Errorf("key %d: %.20q", key, n.Data)
					}
					n.Release()
				} else if !errors.Is(err, volume.ErrNotFound) {
					t.Error(err)
				}
				v.Latest(key)
				if _, err := v.Checksum(v.Committed()); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	synced := make(chan error, 1)
	for i := range 400 {
		key := volume.Key(i*7) % keys
		rec := record(t, v, key, fmt.Appendf(nil, "%d,%d", key, i))
		if i%11 == 0 {
			rec = append(rec, tombstone(t, v, key)...)
		}
		must(t, v.Append(rec))
		go func() { // beside the next append
			durable, err := v.Sync()
			v.Publish(durable)
			synced <- err
		}()
		if i%50 == 0 {
			must(t, v.Checkpoint())
		}
		must(t, <-synced)
	}
	close(done)
	readers.Wait()
	_, v = reopen(t, fs, s)
	must(t, fullCheck(fs, v))
}

// The same bytes on the real file system.
func TestOnARealDisk(t *testing.T) {
	t.Parallel()
	for _, mode := range []SyncMode{SyncGroup, SyncOS} {
		o := options(vfs.OS{}, t.TempDir())
		o.Sync = mode
		s, err := Open(o)
		must(t, err)
		v, err := s.Create(7, volume.Spec{Collection: "c_d", Placement: 10, TTL: volume.TTL{Count: 3, Unit: 6}}, 70)
		must(t, err)
		for k := range volume.Key(20) {
			must(t, write(v, record(t, v, k%15, make([]byte, k*1000))))
		}
		must(t, v.Append(record(t, v, 30, make([]byte, 100))))
		must(t, v.Cut(v.Committed()))
		must(t, write(v, tombstone(t, v, 3)))
		must(t, s.Close())
		s, err = Open(o)
		must(t, err)
		v, err = s.Volume(7)
		must(t, err)
		must(t, fullCheck(vfs.OS{}, v))
		must(t, s.Close())
	}
}
