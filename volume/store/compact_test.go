package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/vfs"
	"weedd/volume/vfs/faultfs"
)

var clock = time.Unix(1e9, 0)

// compact does all of a compaction at the committed length, for epoch e.
func compact(v *Volume, e volume.Epoch) error {
	_, _, _, _, _, _, revision := v.Stats()
	c := Compaction{Generation: uint32(revision) + 1, At: v.Committed(), Clock: clock}
	if err := v.Compact(context.Background(), c, nil); err != nil {
		return err
	}
	length, _, err := v.FinishCompaction(v.End())
	if err != nil {
		return err
	}
	return v.Switch(EpochStart{Epoch: e, Start: length, Generation: c.Generation})
}

func epochOf(e volume.Epoch) EpochStart { return EpochStart{Epoch: e, Start: SuperBlockSize} }

// What is deleted and overwritten before the position is gone; all that follows
// is there byte for byte.
func TestCompaction(t *testing.T) {
	t.Parallel()
	fs, s, v := newVolume(t)
	must(t, v.AddEpoch(epochOf(1)))
	for k := range volume.Key(9) {
		must(t, write(v, record(t, v, k, bytes.Repeat([]byte{byte(k)}, 100))))
	}
	must(t, write(v, record(t, v, 2, []byte("two"))))
	must(t, write(v, record(t, v, 3, nil))) // an empty file lives
	must(t, write(v, append(tombstone(t, v, 4), tombstone(t, v, 99)...)))
	must(t, v.Flush())
	must(t, write(v, tombstone(t, v, 5))) // its row is not in .idx yet
	c := Compaction{Epoch: 5, Generation: 1, At: v.Committed(), Clock: clock}
	tail := append(record(t, v, 6, []byte("six")), tombstone(t, v, 7)...)
	must(t, write(v, tail))
	must(t, v.Append(record(t, v, 8, []byte("pending"))))
	must(t, v.Compact(t.Context(), c, nil))
	if _, _, _, ok := v.Prepared(); ok || v.Compacted() != v.Committed() {
		t.Fatal("ready before it is finished", v.Compacted())
	}
	if _, _, err := v.FinishCompaction(v.Committed()); !errors.Is(err, volume.ErrStale) {
		t.Fatal("finished while records are pending:", err)
	}
	must(t, v.Cut(v.Committed()))
	must(t, v.Compact(t.Context(), c, nil))
	more := record(t, v, 10, []byte("ten"))
	must(t, write(v, more))
	length, sum, err := v.FinishCompaction(v.End())
	must(t, err)
	again, sum2, err := v.FinishCompaction(v.End())
	if again != length || sum2 != sum || err != nil {
		t.Fatal(again, sum2, err)
	}
	if got, l, s, ok := v.Prepared(); !ok || !equal(got, c) || l != length || s != sum {
		t.Fatal(got, l, s, ok)
	}
	if err := v.Compact(t.Context(), Compaction{Generation: 1, At: 8, Clock: clock}, nil); !errors.Is(err, volume.ErrExists) {
		t.Fatal(err)
	}
	expect(t, v, 0, bytes.Repeat([]byte{0}, 100))
	old, _ := v.Lookup(8)
	stale, _ := v.Lookup(2)
	e := EpochStart{Epoch: 3, Start: length, Generation: 1}
	for _, bad := range []EpochStart{{Epoch: 2, Start: length - 8, Generation: 1}, {Epoch: 2, Start: length, Generation: 2}, {Epoch: 1, Start: length, Generation: 1}} {
		if err := v.Switch(bad); !errors.Is(err, volume.ErrStale) || v.Failed() != nil {
			t.Fatal(bad, err, v.Failed())
		}
	}
	must(t, v.Switch(e))
	must(t, v.Switch(e))
	check := func() {
		t.Helper()
		must(t, fullCheck(fs, v))
		for k := range volume.Key(100) {
			data := bytes.Repeat([]byte{byte(k)}, 100)
			switch k {
			case 2:
				data = []byte("two")
			case 3:
				data = []byte{}
			case 6:
				data = []byte("six")
			case 10:
				data = []byte("ten")
			case 0, 1, 8:
			default:
				data = nil
			}
			expect(t, v, k, data)
		}
	}
	check()
	dat, err := vfs.ReadFile(fs, "/d/7.dat")
	must(t, err)
	if v.End() != length || v.Committed() != length || v.Durable() != length || !bytes.HasSuffix(dat, append(tail, more...)) {
		t.Fatalf("end %d, committed %d, durable %d, want %d", v.End(), v.Committed(), v.Durable(), length)
	}
	if x, err := v.Checksum(length); x != sum || err != nil {
		t.Fatal(x, sum, err)
	}
	if _, ok := v.Lookup(4); ok {
		t.Fatal("a tombstone before the position is kept")
	}
	for _, r := range []Row{old, stale} { // looked up before, read after
		n, err := v.Read(r)
		must(t, err)
		if n.Key != r.key {
			t.Fatalf("key %d, want %d", n.Key, r.key)
		}
		n.Release()
		if h, err := v.ReadHeader(r); err != nil || h.Key != r.key {
			t.Fatal(h, err)
		}
	}
	if ee := v.Epochs(); len(ee) != 1 || ee[0] != e {
		t.Fatal(ee)
	}
	must(t, v.AddEpoch(EpochStart{Epoch: 4, Start: v.End(), Generation: 1}))
	s, v = reopen(t, fs, s)
	check()
	if ee := v.Epochs(); len(ee) != 2 || ee[0] != e || ee[1].Epoch != 4 {
		t.Fatal(ee)
	}
	if files, deleted, _, _, _, _, revision := v.Stats(); revision != 1 || files != 9 || deleted != 2 {
		t.Fatal(files, deleted, revision)
	}
	must(t, compact(v, 9))
	check()
	must(t, write(v, record(t, v, 11, []byte("eleven"))))
	_, v = reopen(t, fs, s)
	check2 := v.Epochs()
	if len(check2) != 1 || check2[0].Generation != 2 || v.skipped != 2 {
		t.Fatal(check2, v.skipped)
	}
	expect(t, v, 11, []byte("eleven"))
	names, err := fs.ReadDir("/d")
	must(t, err)
	for _, n := range names {
		switch n {
		case "7.dat", "7.idx", "7.vif", "7.wcopy", "7.wckpt", "7.widx", markerName, uuidName:
		default:
			t.Errorf("%s is left behind", n)
		}
	}
}

// Two copies with the same records, appended and published in other batches,
// become the same bytes; also when one of them lost a record.
func TestCompactionIsTheSameOnAllCopies(t *testing.T) {
	t.Parallel()
	_, _, a := newVolume(t)
	fs, s, b := newVolume(t)
	ttl := volume.TTL{Count: 1, Unit: 1} // a minute
	var all [][]byte
	for i := range 300 {
		key := volume.Key(i % 70)
		switch {
		case i%11 == 3:
			all = append(all, tombstone(t, a, key))
		case i%13 == 5:
			all = append(all, encode(t, a, needle.Needle{Key: key, Cookie: cookieOf(key), Data: []byte("brief"), TTL: ttl, Flags: needle.FlagTTL}))
		default:
			all = append(all, record(t, a, key, bytes.Repeat([]byte{byte(i)}, i*4)))
		}
	}
	c := Compaction{Generation: 1, Clock: clock.Add(time.Hour)}
	now := func() time.Time { return c.Clock }
	a.opts.Now, b.opts.Now = now, now
	for i, rec := range all {
		must(t, write(a, rec))
		if i == 200 {
			c.At = a.Committed()
		}
	}
	must(t, a.Compact(t.Context(), c, nil))
	for i := 0; i < len(all); i += 50 {
		must(t, write(b, bytes.Join(all[i:i+50], nil)))
		must(t, b.Flush())
	}
	row, ok := b.Lookup(42)
	if !ok || row.Deleted() {
		t.Fatal("choose another key")
	}
	flip(t, fs, "/d/7.dat", row.Offset+25)
	asked := 0
	must(t, b.Compact(t.Context(), c, func(offset, length int64) ([]byte, error) {
		asked++
		rec := make([]byte, length)
		_, err := a.ReadAt(rec, offset)
		return rec, err
	}))
	la, sa, err := a.FinishCompaction(a.End())
	must(t, err)
	lb, sb, err := b.FinishCompaction(b.End())
	must(t, err)
	if la != lb || sa != sb || asked != 1 {
		t.Fatalf("%d bytes %x, %d bytes %x; asked %d times", la, sa, lb, sb, asked)
	}
	n, err := b.Read(row) // put right in the old file
	must(t, err)
	n.Release()
	e := EpochStart{Epoch: 1, Start: la, Generation: 1}
	must(t, a.Switch(e))
	_, b = reopen(t, fs, s, func(o *Options) { o.Now = now })
	must(t, b.Switch(e))
	must(t, fullCheck(fs, b))
	for k := range volume.Key(70) {
		ra, oka := a.Lookup(k)
		rb, okb := b.Lookup(k)
		if ra.Offset != rb.Offset || ra.Size != rb.Size || oka != okb {
			t.Fatalf("key %d: %+v, %+v", k, ra, rb)
		}
	}
	rec := record(t, a, 500, []byte("next")) // both go on alike
	must(t, errors.Join(write(a, rec), write(b, rec)))
	sa, _ = a.Checksum(a.End())
	sb, _ = b.Checksum(b.End())
	if sa != sb {
		t.Fatal("differ after the next record")
	}
}

// A needle goes by its own time to live and a tenth of it, an hour at most.
func TestCompactionKeepsTheTimeToLive(t *testing.T) {
	t.Parallel()
	ten := volume.TTL{Count: 10, Unit: 1}
	day := volume.TTL{Count: 1, Unit: 3}
	year := volume.TTL{Count: 255, Unit: 6}
	for _, c := range []struct {
		volume, own volume.TTL
		after       time.Duration
		kept        bool
	}{
		{volume.TTL{}, volume.TTL{}, 1e6 * time.Hour, true},
		{volume.TTL{}, ten, 10*time.Minute + 59*time.Second, true},
		{volume.TTL{}, ten, 11*time.Minute + time.Second, false},
		{volume.TTL{}, day, 24*time.Hour + 59*time.Minute, true},
		{volume.TTL{}, day, 25*time.Hour + time.Second, false},
		{volume.TTL{}, year, 1e6 * time.Hour, true},
		{ten, volume.TTL{}, 10*time.Minute + 59*time.Second, true},
		{ten, volume.TTL{}, 11*time.Minute + time.Second, false},
		{ten, day, 12 * time.Minute, true},
		{day, ten, 12 * time.Minute, false},
	} {
		_, s, _ := newVolume(t)
		v, err := s.Create(8, volume.Spec{TTL: c.volume}, 80)
		must(t, err)
		n := needle.Needle{Key: 1, Cookie: cookieOf(1), Data: []byte("x"), TTL: c.own}
		if !c.own.IsZero() {
			n.Flags = needle.FlagTTL
		}
		must(t, write(v, encode(t, v, n)))
		at := v.Committed()
		n.Key = 2 // behind the position all is kept
		must(t, write(v, encode(t, v, n)))
		now := clock.Add(c.after)
		v.opts.Now = func() time.Time { return now }
		must(t, v.Compact(t.Context(), Compaction{Generation: 1, At: at, Clock: now}, nil))
		length, _, err := v.FinishCompaction(v.End())
		must(t, err)
		must(t, v.Switch(EpochStart{Epoch: 1, Start: length, Generation: 1}))
		_, one := v.Lookup(1)
		_, two := v.Lookup(2)
		if one != c.kept || !two {
			t.Errorf("volume %v, own %v, after %s: %v, %v", c.volume, c.own, c.after, one, two)
		}
		ahead := Compaction{Generation: 2, At: v.Committed(), Clock: now.Add(time.Minute + 1)}
		if err := v.Compact(t.Context(), ahead, nil); !errors.Is(err, volume.ErrBadRequest) {
			t.Error("a clock too far ahead:", err)
		}
	}
}

// A record that is bad is fetched; if it is bad everywhere it is carried; if
// nobody can say, nothing is done.
func TestCompactionOfADamagedRecord(t *testing.T) {
	t.Parallel()
	unreachable := errors.New("unreachable")
	var good []byte
	for name, c := range map[string]struct {
		repair repairer
		want   error
		data   string // of key 2; "" for damaged
	}{
		"no other copy":           {nil, nil, ""},
		"bad on all":              {func(int64, int64) ([]byte, error) { return nil, &volume.CorruptError{} }, nil, ""},
		"no answer":               {func(int64, int64) ([]byte, error) { return nil, unreachable }, unreachable, ""},
		"good elsewhere":          {func(int64, int64) ([]byte, error) { return good, nil }, nil, "data of two"},
		"another length":          {func(int64, int64) ([]byte, error) { return good[:len(good)-8], nil }, errors.New("any"), ""},
		"damaged there, unsaid":   {func(int64, int64) ([]byte, error) { b := bytes.Clone(good); b[25] ^= 1; return b, nil }, errors.New("any"), ""},
		"a record of another key": {func(int64, int64) ([]byte, error) { b := bytes.Clone(good); b[11] ^= 1; return b, nil }, errors.New("any"), ""},
	} {
		for _, at := range []int64{25, 8, 14} { // data, key, size
			fs, s, v := newVolume(t)
			must(t, write(v, record(t, v, 1, []byte("data of one"))))
			good = record(t, v, 2, []byte("data of two"))
			must(t, write(v, good))
			must(t, write(v, record(t, v, 3, []byte("data of three"))))
			row, _ := v.Lookup(2)
			flip(t, fs, "/d/7.dat", row.Offset+at)
			err := v.Compact(t.Context(), Compaction{Generation: 1, At: v.Committed(), Clock: clock}, c.repair)
			if (err == nil) != (c.want == nil) {
				t.Fatalf("%s: %v", name, err)
			}
			if c.want != nil {
				if there, err := vfs.Exists(fs, "/d/7.cpd"); there || err != nil || v.Failed() != nil {
					t.Fatal("new files are left", err, v.Failed())
				}
				continue
			}
			length, _, err := v.FinishCompaction(v.End())
			must(t, err)
			must(t, v.Switch(EpochStart{Epoch: 1, Start: length, Generation: 1}))
			for range 2 {
				expect(t, v, 1, []byte("data of one"))
				expect(t, v, 3, []byte("data of three"))
				if c.data != "" {
					expect(t, v, 2, []byte(c.data))
				} else if err := has(v, 2, []byte("x")); !errors.Is(err, volume.ErrCorrupt) {
					t.Fatalf("%s, byte %d: %v", name, at, err)
				}
				s, v = reopen(t, fs, s)
			}
		}
	}
}

func TestRepair(t *testing.T) {
	t.Parallel()
	fs, s, v := newVolume(t)
	var recs [][]byte
	var offsets []int64
	for k := range 40 {
		recs, offsets = append(recs, record(t, v, volume.Key(k%30), bytes.Repeat([]byte("x"), k))), append(offsets, v.End())
		must(t, write(v, recs[k]))
		if k == 25 {
			must(t, v.Flush())
		}
	}
	before, err := v.Checksum(v.End())
	must(t, err)
	for _, k := range []int{3, 12, 25, 26, 39} { // overwritten, live, in .idx and not
		flip(t, fs, "/d/7.dat", offsets[k]+21)
		for name, bad := range map[string][]byte{"damaged": append(bytes.Clone(recs[k][:22]), recs[k][23:]...), "another": recs[k-1], "none": nil} {
			if err := v.Repair(offsets[k], bad); !errors.Is(err, volume.ErrBadRequest) {
				t.Fatalf("%s: %v", name, err)
			}
		}
		for _, at := range []int64{0, offsets[k] + 8, v.End()} {
			if err := v.Repair(at, recs[k]); !errors.Is(err, volume.ErrBadRequest) {
				t.Fatalf("at %d: %v", at, err)
			}
		}
		must(t, v.Repair(offsets[k], recs[k]))
	}
	_, v = reopen(t, fs, s)
	must(t, fullCheck(fs, v))
	if sum, err := v.Checksum(v.End()); sum != before || err != nil {
		t.Fatal(sum, before, err)
	}
}

// A new copy of a volume that was compacted before takes the primary's list, and
// with it the generation, while it is empty.
func TestANewCopyIsOfTheGenerationOfItsList(t *testing.T) {
	t.Parallel()
	list := []EpochStart{{Epoch: 5, Start: 800, Generation: 1<<16 + 3}, {Epoch: 6, Start: 900, Generation: 1<<16 + 3}}
	build := func(fs *faultfs.FS) error {
		s, err := Open(options(fs, "/d"))
		if err != nil {
			return err
		}
		defer s.Close()
		v, err := s.Volume(7)
		if errors.Is(err, volume.ErrNoVolume) {
			if len(s.Aside()) > 0 {
				return fmt.Errorf("set aside: %v", s.Aside())
			}
			v, err = s.Create(7, volume.Spec{}, 70)
		}
		if err != nil {
			return err
		}
		if e := v.Epochs(); len(e) != 0 && len(e) != 2 || v.Foreign() {
			return fmt.Errorf("epochs %v, foreign %v", e, v.Foreign())
		}
		if err := v.SetEpochs(list); err != nil {
			return err
		}
		if err := fullCheck(fs, v); err != nil {
			return err
		}
		if v.End() > SuperBlockSize {
			return nil
		}
		return write(v, record(t, v, 1, []byte("x")))
	}
	for i := 0; ; i++ {
		fs := newDisk(t, uint64(i))
		done := false
		for range 6 { // as many crashes in a row
			at := fs.Ops() + i
			fs.SetFault(func(op faultfs.Op) error {
				if op.N >= at {
					return errPower
				}
				return nil
			})
			done = build(fs) == nil
			fs.SetFault(nil)
			fs = fs.Crash(uint64(i))
		}
		must(t, build(fs))
		s := openStore(t, fs)
		v, err := s.Volume(7)
		must(t, err)
		if _, _, _, _, _, _, revision := v.Stats(); revision != 3 {
			t.Fatal(revision)
		}
		v.Publish(v.End())
		expect(t, v, 1, []byte("x"))
		if err := v.SetEpochs([]EpochStart{{Epoch: 9, Start: 8, Generation: 4}}); !errors.Is(err, volume.ErrStale) {
			t.Fatal("a copy with records changed its generation:", err)
		}
		if done {
			return
		}
	}
}
