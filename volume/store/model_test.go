package store

import (
	"bytes"
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/vfs/faultfs"
)

// model is a volume, and beside it what it should answer.
type model struct {
	*rapid.T
	fs  *faultfs.FS
	s   *Store
	v   *Volume
	now time.Time

	files      map[volume.Key]*modelFile // as published
	pending    []modelPending
	committed  int64
	generation uint32
	epoch      volume.Epoch
	flipped    []modelFlip // in the file of now, and not put right
	spoilt     bool        // a damaged record was carried through a compaction
}

// modelFile is the newest record of a key.
type modelFile struct {
	data    []byte // nil: deleted
	expires time.Time
	bad     bool // a bit of it is flipped on disk
}

type modelPending struct {
	key  volume.Key
	file *modelFile
	end  int64
}

type modelFlip struct {
	offset int64
	good   []byte // the whole record
	file   *modelFile
}

// A volume answers what a map would, whatever is done to it and whenever the
// machine stops; a damaged file is an error, never other bytes.
func TestAVolumeIsAMap(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &model{T: t, now: clock, files: map[volume.Key]*modelFile{}, committed: SuperBlockSize, fs: faultfs.New(1)}
		m.try(errors.Join(m.fs.Mkdir("/d"), m.fs.SyncDir("/")))
		m.open()
		defer func() { m.s.Close() }() // an error has been seen, if it matters
		t.Repeat(map[string]func(*rapid.T){
			"append":     m.with((*model).append),
			"publish":    m.with((*model).publish),
			"sync":       m.with(func(m *model) { _, err := m.v.Sync(); m.try(err) }),
			"flush":      m.with(func(m *model) { m.try(m.v.Flush()) }),
			"checkpoint": m.with((*model).checkpoint),
			"cut":        m.with((*model).cut),
			"epoch":      m.with((*model).enter),
			"reopen":     m.with((*model).reopen),
			"crash":      m.with((*model).crash),
			"flip":       m.with((*model).flip),
			"mend":       m.with((*model).mend),
			"compact":    m.with((*model).compact),
			"wait":       m.with(func(m *model) { m.now = m.now.Add(time.Duration(rapid.IntRange(1, 100).Draw(m.T, "s")) * time.Second) }),
			"":           m.with((*model).check),
		})
		m.checkpoint()
		if !m.spoilt {
			m.try(fullCheck(m.fs, m.v))
		}
	})
}

// with makes what f draws that of the action.
func (m *model) with(f func(*model)) func(*rapid.T) {
	return func(t *rapid.T) {
		m.T = t
		f(m)
	}
}

func (m *model) try(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

// open opens the volume, made the first time.
func (m *model) open() {
	o := options(m.fs, "/d")
	o.Now = func() time.Time { return m.now }
	var err error
	m.s, err = Open(o)
	m.try(err)
	m.v, err = m.s.Volume(7)
	if errors.Is(err, volume.ErrNoVolume) && m.epoch == 0 {
		m.v, err = m.s.Create(7, volume.Spec{}, 70)
		if err == nil {
			m.enter()
		}
	}
	if err != nil {
		m.Fatalf("%v; set aside: %v", err, m.s.Aside())
	}
	if m.v.Committed() > m.committed || m.v.Foreign() {
		m.Fatalf("committed %d, was %d; foreign %v", m.v.Committed(), m.committed, m.v.Foreign())
	}
	for n := len(m.pending); n > 0 && m.pending[n-1].end > m.v.End(); n-- {
		m.pending = m.pending[:n-1]
	}
	m.v.Publish(m.committed)
}

func (m *model) enter() {
	m.epoch++
	m.try(m.v.AddEpoch(EpochStart{Epoch: m.epoch, Start: m.v.End(), Generation: m.generation}))
}

func (m *model) append() {
	var records []byte
	for range rapid.IntRange(1, 5).Draw(m.T, "n") {
		key := volume.Key(rapid.IntRange(1, 20).Draw(m.T, "key"))
		n := needle.Needle{Key: key, Cookie: cookieOf(key), AppendedAt: m.v.NextAppendTime(m.now)}
		f := &modelFile{data: []byte{}}
		switch kind := rapid.IntRange(0, 9).Draw(m.T, "kind"); {
		case kind < 3:
			n.Tombstone, f.data = true, nil
		case kind > 3:
			f.data = bytes.Repeat([]byte{byte(n.AppendedAt)}, rapid.IntRange(1, 4000).Draw(m.T, "length"))
			n.Data = f.data
			if kind > 6 {
				n.TTL, n.Flags = volume.TTL{Count: byte(kind - 6), Unit: 1}, needle.FlagTTL
				f.expires = time.Unix(0, int64(n.AppendedAt)).Add(n.TTL.Duration())
			}
		}
		var err error
		records, err = needle.Append(records, &n)
		m.try(err)
		m.pending = append(m.pending, modelPending{key, f, m.v.End() + int64(len(records))})
	}
	m.try(m.v.Append(records))
}

// publish publishes some of what is durable.
func (m *model) publish() {
	durable := m.v.Durable()
	n := 0
	for n < len(m.pending) && m.pending[n].end <= durable {
		n++
	}
	m.publishFirst(rapid.IntRange(0, n).Draw(m.T, "n"))
}

func (m *model) publishFirst(n int) {
	for _, p := range m.pending[:n] {
		m.files[p.key], m.committed = p.file, p.end
	}
	m.pending = m.pending[n:]
	m.v.Publish(m.committed)
}

// checkpoint mends first: where more was appended than is committed the sums are
// read from the file again, as in a cut.
func (m *model) checkpoint() {
	m.mend()
	m.try(m.v.Checkpoint())
}

func (m *model) cut() {
	m.mend()
	n := rapid.IntRange(0, len(m.pending)).Draw(m.T, "keep")
	m.pending = m.pending[:n]
	end := m.committed
	if n > 0 {
		end = m.pending[n-1].end
	}
	m.try(m.v.Cut(end))
}

// reopen stops and starts. Damage that is known is mended before, since a file
// that is not what it was is not opened for writing.
func (m *model) reopen() {
	m.mend()
	end := m.v.End()
	m.try(m.s.Close())
	m.open()
	if m.v.End() != end {
		m.Fatalf("end %d after a clean stop, was %d", m.v.End(), end)
	}
}

// crash stops the machine. What was not durable is cut then: it may be there, and
// be torn where no checksum of the format looks, in the key or the cookie.
func (m *model) crash() {
	m.mend()
	durable := m.v.Durable()
	m.fs = m.fs.Crash(rapid.Uint64Range(0, 1000).Draw(m.T, "seed"))
	m.open()
	if m.v.End() < durable {
		m.Fatalf("end %d after a crash; %d were durable", m.v.End(), durable)
	}
	m.try(m.v.Cut(durable))
	for n := len(m.pending); n > 0 && m.pending[n-1].end > durable; n-- {
		m.pending = m.pending[:n-1]
	}
}

// flip damages the data of a file.
func (m *model) flip() {
	key := volume.Key(rapid.IntRange(1, 20).Draw(m.T, "key"))
	f := m.files[key]
	if f == nil || f.bad || len(f.data) == 0 {
		m.Skip()
	}
	row, ok := m.v.Lookup(key)
	if !ok {
		m.Skip() // expired, and compacted away
	}
	good := make([]byte, row.End()-row.Offset)
	_, err := m.v.ReadAt(good, row.Offset)
	m.try(err)
	at := needle.HeaderSize + 4 + rapid.IntRange(0, len(f.data)-1).Draw(m.T, "at")
	file, err := m.fs.OpenFile("/d/7.dat", os.O_RDWR)
	m.try(err)
	_, err = file.WriteAt([]byte{good[at] ^ 1}, row.Offset+int64(at))
	m.try(errors.Join(err, file.Sync(), file.Close()))
	f.bad = true
	m.flipped = append(m.flipped, modelFlip{row.Offset, good, f})
}

// mend puts right what was damaged in this file, overwritten or not.
func (m *model) mend() {
	for _, f := range m.flipped {
		m.try(m.v.Repair(f.offset, f.good))
		f.file.bad = false
	}
	m.flipped = nil
}

// other is another copy; one that has what was flipped here if good is set, else
// that is carried.
func (m *model) other(good bool, carried *[]*modelFile) repairer {
	return func(offset, length int64) ([]byte, error) {
		for _, f := range m.flipped {
			if f.offset != offset || int64(len(f.good)) != length {
				continue
			}
			if good {
				f.file.bad = false
				return f.good, nil
			}
			*carried = append(*carried, f.file)
		}
		return nil, &volume.CorruptError{Volume: 7, Offset: offset}
	}
}

// compact makes new files, with some more records on the way, and takes them or
// not, perhaps after a restart.
func (m *model) compact() {
	c := Compaction{Generation: m.generation + 1, At: m.committed, Clock: m.now}
	var carried []*modelFile
	repair := m.other(rapid.Bool().Draw(m.T, "repair"), &carried)
	m.try(m.v.Compact(context.Background(), c, repair))
	m.append()
	_, err := m.v.Sync()
	m.try(err)
	m.publish()
	if rapid.Bool().Draw(m.T, "again") {
		m.try(m.v.Compact(context.Background(), c, repair))
	}
	if rapid.Bool().Draw(m.T, "cut") {
		m.cut()
	}
	_, err = m.v.Sync()
	m.try(err)
	m.publishFirst(len(m.pending))
	length, sum, err := m.v.FinishCompaction(m.v.End())
	m.try(err)
	switch rapid.IntRange(0, 4).Draw(m.T, "then") {
	case 0:
		m.try(m.v.DropCompaction())
		return
	case 1:
		m.reopen()
	case 2:
		m.crash()
	}
	if got, l, s, ok := m.v.Prepared(); !ok || !equal(got, c) || l != length || s != sum {
		m.Fatalf("ready are %+v, %d bytes, %x, %v; want %+v, %d, %x", got, l, s, ok, c, length, sum)
	}
	m.epoch++
	m.generation++
	m.try(m.v.Switch(EpochStart{Epoch: m.epoch, Start: length, Generation: m.generation}))
	m.committed, m.flipped = length, nil
	for _, f := range carried {
		f.bad, m.spoilt = true, true
	}
}

// check asks for every key.
func (m *model) check() {
	if m.v.Committed() != m.committed || m.v.End() < m.committed {
		m.Fatalf("committed %d, end %d; want %d", m.v.Committed(), m.v.End(), m.committed)
	}
	for key := range volume.Key(22) {
		f := m.files[key]
		n, err := m.v.Get(key, cookieOf(key), m.now, false)
		row, ok := m.v.Lookup(key)
		gone := f == nil || f.data == nil || !f.expires.IsZero() && !m.now.Before(f.expires)
		switch {
		case f != nil && f.bad && ok:
			if !errors.Is(err, volume.ErrCorrupt) {
				m.Fatalf("key %d is damaged: %v", key, err)
			}
		case gone:
			if !errors.Is(err, volume.ErrNotFound) {
				m.Fatalf("key %d is gone: %v", key, err)
			}
		case err != nil || !bytes.Equal(n.Data, f.data):
			m.Fatalf("key %d: %+v, %v; want %d bytes; row %+v", key, n, err, len(f.data), row)
		}
		if n != nil {
			n.Release()
		}
	}
	newest := map[volume.Key]*modelFile{}
	for _, p := range m.pending {
		newest[p.key] = p.file
	}
	for key, f := range newest {
		if r, ok := m.v.Latest(key); !ok || !r.Pending || r.Deleted() != (f.data == nil) {
			m.Fatalf("key %d is pending: %+v, %v", key, r, ok)
		}
	}
}
