package store

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/vfs"
	"weedd/volume/vfs/faultfs"
)

// damaged is a volume before its files are damaged: keys 1 and 2 are below the
// checkpoint, 3 is published after it, 4 is durable and pending.
type damaged struct {
	t                      *testing.T
	fs                     *faultfs.FS
	ckpt, published, ended int64
}

func (d damaged) edit(ext string, change func(f vfs.File) error) {
	d.t.Helper()
	f, err := d.fs.OpenFile("/d/7"+ext, os.O_RDWR)
	must(d.t, err)
	must(d.t, change(f))
	must(d.t, f.Close())
}

func (d damaged) cut(ext string, size int64) {
	d.edit(ext, func(f vfs.File) error { return f.Truncate(size) })
}

func (d damaged) add(ext string, b []byte) {
	d.edit(ext, func(f vfs.File) error {
		size, err := f.Size()
		if err == nil {
			_, err = f.WriteAt(b, size)
		}
		return err
	})
}

// What Open makes of each state of the files. Everything committed is there or
// the volume is set aside; nothing that is known to have been durable is cut.
func TestRecovery(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		damage func(d damaged)
		end    string // "ended", "published": how far .dat is kept; "": set aside
		pend   bool   // key 4 is pending
	}{
		"nothing is wrong":               {func(d damaged) {}, "ended", true},
		"the last record is torn":        {func(d damaged) { d.cut(".dat", d.ended-9) }, "published", false},
		"its padding is torn":            {func(d damaged) { d.cut(".dat", d.ended-1) }, "published", false},
		"its header is torn":             {func(d damaged) { d.cut(".dat", d.published+5) }, "published", false},
		"zeros follow":                   {func(d damaged) { d.add(".dat", make([]byte, 4096)) }, "ended", true},
		"a few bytes follow":             {func(d damaged) { d.add(".dat", []byte{1, 2, 3}) }, "ended", true},
		"a record of an old time":        {func(d damaged) { d.add(".dat", d.first()) }, "ended", true},
		"a bit of the last is flipped":   {func(d damaged) { flip(d.t, d.fs, "/d/7.dat", d.published+21) }, "published", false},
		"its name is flipped":            {func(d damaged) { flip(d.t, d.fs, "/d/7.dat", d.published+20+4+3) }, "ended", true}, // no checksum covers it
		"its padding is flipped":         {func(d damaged) { flip(d.t, d.fs, "/d/7.dat", d.ended-1) }, "published", false},
		".idx is gone":                   {func(d damaged) { must(d.t, d.fs.Remove("/d/7.idx")) }, "ended", true},
		".idx is empty":                  {func(d damaged) { d.cut(".idx", 0) }, "ended", true},
		".idx ends within a row":         {func(d damaged) { d.cut(".idx", 27) }, "ended", true},
		".idx has rows of nothing":       {func(d damaged) { d.add(".idx", bytes.Repeat([]byte{9}, 160)) }, "ended", true},
		".idx has a bad row":             {func(d damaged) { flip(d.t, d.fs, "/d/7.idx", 16+11) }, "ended", true},
		".vif is gone":                   {func(d damaged) { must(d.t, d.fs.Remove("/d/7.vif")) }, "ended", true},
		"the checkpoint is gone":         {func(d damaged) { must(d.t, d.fs.Remove("/d/7.wckpt")) }, "ended", true},
		"the checkpoint is bad":          {func(d damaged) { flip(d.t, d.fs, "/d/7.wckpt", 40) }, "ended", true},
		"that, and the tail is torn":     {func(d damaged) { flip(d.t, d.fs, "/d/7.wckpt", 40); d.cut(".dat", d.ended-9) }, "published", false},
		"a published record is flipped":  {func(d damaged) { flip(d.t, d.fs, "/d/7.dat", d.ckpt+21) }, "", false},
		"a published record is torn":     {func(d damaged) { d.cut(".dat", d.published-9) }, "", false},
		"no checkpoint, an early flip":   {func(d damaged) { flip(d.t, d.fs, "/d/7.wckpt", 40); flip(d.t, d.fs, "/d/7.dat", 8+21) }, "", false},
		"the copy file ends in an entry": {func(d damaged) { d.add(".wcopy", []byte{1, 2, 3}) }, "ended", true},
		"a checkpoint was being written": {func(d damaged) { must(d.t, vfs.Write(d.fs, "/d/7.wckpt.tmp", []byte("x"))) }, "ended", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := damagedVolume(t)
			c.damage(d)
			s := openStore(t, d.fs)
			v, err := s.Volume(7)
			if c.end == "" {
				if a := s.Aside(); err == nil || len(a) != 1 || !strings.Contains(a[0].Reason, "committed record") {
					t.Fatalf("not set aside: %v, %+v", err, a)
				}
				return
			}
			if err != nil {
				t.Fatalf("%v; set aside: %+v", err, s.Aside())
			}
			if want := map[string]int64{"ended": d.ended, "published": d.published}[c.end]; v.End() != want || v.Durable() != want || v.CopyID() != 70 {
				t.Fatalf("end %d, durable %d, want %d; copy %s", v.End(), v.Durable(), want, v.CopyID())
			}
			if row, ok := v.Latest(4); ok != c.pend {
				t.Fatalf("key 4: %+v, %v", row, ok)
			}
			if strings.Contains(name, "name is") {
				return // the name is not part of the record any more
			}
			v.Publish(v.End())
			for key, data := range map[volume.Key]string{1: "one", 2: "two", 3: "three"} {
				expect(t, v, key, []byte(data))
			}
			must(t, write(v, record(t, v, 5, []byte("five"))))
			must(t, v.Checkpoint())
			must(t, fullCheck(d.fs, v))
			_, v = reopen(t, d.fs, s)
			expect(t, v, 5, []byte("five"))
		})
	}
}

// first is the bytes of the first record.
func (d damaged) first() []byte {
	d.t.Helper()
	b, err := vfs.ReadFile(d.fs, "/d/7.dat")
	must(d.t, err)
	return b[8:56]
}

func damagedVolume(t *testing.T) damaged {
	t.Helper()
	fs, _, v := newVolume(t)
	must(t, fs.SyncDir("/"))
	d := damaged{t: t}
	must(t, v.AddEpoch(volume.EpochStart{Epoch: 1, Start: 8}))
	must(t, write(v, record(t, v, 1, []byte("one"))))
	must(t, write(v, record(t, v, 2, []byte("two"))))
	must(t, v.Checkpoint())
	d.ckpt = v.End()
	must(t, write(v, record(t, v, 3, []byte("three"))))
	d.published = v.End()
	must(t, v.flushRows())
	must(t, v.idx.Sync())
	must(t, v.Append(record(t, v, 4, []byte("four"))))
	_, err := v.Sync()
	must(t, err)
	d.ended = v.End()
	d.fs = fs.Crash(0)
	return d
}

// A power cut may take the sector with the first 8 bytes of a record, where its cookie
// is, and leave the rest. Under no cookie the file that it was to replace would be
// found no more, though only that one was acknowledged.
func TestARecordThatLostItsCookieHidesNoFile(t *testing.T) {
	t.Parallel()
	for key, data := range map[volume.Key]string{1: "one", 3: "three", 4: "four"} {
		for name, n := range map[string]needle.Needle{"put": {Data: []byte("new")}, "delete": {Tombstone: true}} {
			d := damagedVolume(t)
			d.add(".dat", later(t, key, n))
			v, err := openStore(t, d.fs).Volume(7)
			must(t, err)
			if v.End() != d.ended {
				t.Errorf("%s of key %d: end %d, want %d", name, key, v.End(), d.ended)
			}
			v.Publish(v.End())
			expect(t, v, key, []byte(data))
		}
	}
}

// A client may choose a cookie that is 0.
func TestFilesWithoutACookieAreRecovered(t *testing.T) {
	t.Parallel()
	d := damagedVolume(t)
	first, second := later(t, 9, needle.Needle{Data: []byte("first")}), later(t, 9, needle.Needle{Data: []byte("second"), AppendedAt: 1})
	d.add(".dat", slices.Concat(first, second))
	v, err := openStore(t, d.fs).Volume(7)
	must(t, err)
	if want := d.ended + int64(len(first)+len(second)); v.End() != want {
		t.Fatalf("end %d, want %d", v.End(), want)
	}
}

// later is a record of key without a cookie, of a time to come.
func later(t *testing.T, key volume.Key, n needle.Needle) []byte {
	t.Helper()
	n.Key = key
	n.AppendedAt += uint64(time.Unix(2e9, 0).UnixNano())
	b, err := needle.Append(nil, &n)
	must(t, err)
	return b
}

// A power cut with sync "os" may lose what was published: the rest opens.
func TestRecoveryWithoutSync(t *testing.T) {
	t.Parallel()
	fs, _, v := newVolume(t, syncOS)
	must(t, fs.SyncDir("/"))
	must(t, write(v, record(t, v, 1, []byte("one"))))
	must(t, v.Checkpoint())
	must(t, write(v, record(t, v, 2, []byte("two"))))
	must(t, v.flushRows())
	must(t, v.idx.Sync()) // the row reaches the disk, the record does not
	fs = fs.Crash(0)
	s := openStore(t, fs, syncOS)
	v, err := s.Volume(7)
	if err != nil {
		t.Fatalf("%v; set aside: %+v", err, s.Aside())
	}
	expect(t, v, 1, []byte("one"))
	expect(t, v, 2, nil)
	must(t, fullCheck(fs, v))
}

// Opening a volume with a checkpoint costs the same however large it is.
func TestOpenReadsOnlyTheTail(t *testing.T) {
	t.Parallel()
	fs, s, v := newVolume(t)
	for k := range volume.Key(8) {
		must(t, write(v, record(t, v, k, make([]byte, 1<<20))))
	}
	must(t, s.Close())
	reads := 0
	fs.SetFault(func(op faultfs.Op) error {
		if op.Kind == faultfs.Read && op.Path == "/d/7.dat" {
			reads++
		}
		return nil
	})
	s = openStore(t, fs)
	if _, err := s.Volume(7); err != nil || reads > 3 {
		t.Fatalf("%d reads, %v", reads, err)
	}
}
