package simulation

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"weedd/cluster/consensus"
)

// disk is what a master's raft directory has, durably. A write takes a while, and
// one that the process dies in is there afterwards, or not.
type disk struct {
	name string
	rng  *rand.Rand
	seen func(*raft.Log) // of every entry written

	mu      sync.Mutex
	raftID  string
	slow    time.Duration // of each write, above the usual
	logs    map[uint64]*raft.Log
	stable  map[string][]byte
	snaps   []*snapshot // newest first
	pending []*write    // begun by the run, in order
}

type write struct {
	apply func()
	done  bool
}

type snapshot struct {
	meta raft.SnapshotMeta
	data []byte
}

func newDisk(seed uint64, name, raftID string, seen func(*raft.Log)) *disk {
	return &disk{name: name, rng: source(seed, "disk "+name+raftID), seen: seen, raftID: raftID, logs: map[uint64]*raft.Log{}, stable: map[string][]byte{}}
}

// crash ends the run that writes: of what it had begun, some is there.
func (d *disk) crash() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range d.pending {
		if w.done = true; d.rng.IntN(2) == 0 {
			w.apply()
		}
	}
	d.pending = nil
}

// memory is a disk as one run of a process sees it.
type memory struct {
	*disk
	ctx   context.Context // ends when the process dies: what it writes after that goes nowhere
	awake func()          // waits while the process is paused
}

func (m memory) stores() *consensus.Stores {
	return &consensus.Stores{RaftID: m.raftID, Logs: m, Stable: m, Snapshots: m}
}

// write has apply called when the disk is done.
func (m memory) write(apply func()) {
	m.awake()
	w := &write{apply: apply}
	m.mu.Lock()
	if m.ctx.Err() != nil {
		m.mu.Unlock()
		return
	}
	m.pending = append(m.pending, w)
	took := m.slow + 50*time.Microsecond + time.Duration(m.rng.Int64N(int64(2*ms)))
	m.mu.Unlock()
	sleep(m.ctx, took)
	m.mu.Lock()
	defer m.mu.Unlock()
	if w.done {
		return
	}
	w.done = true
	w.apply()
	m.pending = slices.DeleteFunc(m.pending, func(p *write) bool { return p == w })
}

func (m memory) FirstIndex() (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	first := uint64(0)
	for i := range m.logs {
		if first == 0 || i < first {
			first = i
		}
	}
	return first, nil
}

func (m memory) LastIndex() (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	last := uint64(0)
	for i := range m.logs {
		last = max(last, i)
	}
	return last, nil
}

func (m memory) GetLog(index uint64, log *raft.Log) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	l, ok := m.logs[index]
	if !ok {
		return raft.ErrLogNotFound
	}
	*log = *l
	return nil
}

func (m memory) StoreLog(log *raft.Log) error { return m.StoreLogs([]*raft.Log{log}) }

func (m memory) StoreLogs(logs []*raft.Log) error {
	var copies []*raft.Log
	for _, l := range logs {
		c := *l
		copies = append(copies, &c)
	}
	m.write(func() {
		for _, l := range copies {
			m.seen(l)
			m.logs[l.Index] = l
		}
	})
	return nil
}

func (m memory) DeleteRange(from, to uint64) error {
	m.write(func() {
		for i := from; i <= to; i++ {
			delete(m.logs, i)
		}
	})
	return nil
}

func (m memory) Set(key, value []byte) error {
	value = slices.Clone(value)
	m.write(func() { m.stable[string(key)] = value })
	return nil
}

func (m memory) Get(key []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.stable[string(key)]), nil
}

func (m memory) SetUint64(key []byte, value uint64) error {
	return m.Set(key, fmt.Append(nil, value))
}

func (m memory) GetUint64(key []byte) (value uint64, err error) {
	b, _ := m.Get(key)
	if len(b) == 0 {
		return 0, nil
	}
	_, err = fmt.Sscan(string(b), &value)
	return value, err
}

// sink is a snapshot being written.
type sink struct {
	memory
	snapshot
	bytes.Buffer
}

func (m memory) Create(version raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	return &sink{memory: m, snapshot: snapshot{meta: raft.SnapshotMeta{
		Version: version, ID: fmt.Sprintf("%d-%d-%d", term, index, time.Now().UnixMilli()), Index: index, Term: term, Configuration: conf, ConfigurationIndex: confIndex,
	}}}, nil
}

func (s *sink) Write(b []byte) (int, error) { return s.Buffer.Write(b) }
func (s *sink) ID() string                  { return s.meta.ID }
func (s *sink) Cancel() error               { return nil }

func (s *sink) Close() error {
	done := s.snapshot
	done.data = s.Bytes()
	done.meta.Size = int64(len(done.data))
	s.memory.write(func() {
		s.snaps = append([]*snapshot{&done}, s.snaps...)
		slices.SortStableFunc(s.snaps, func(a, b *snapshot) int {
			if a.meta.Term != b.meta.Term {
				return int(b.meta.Term) - int(a.meta.Term)
			}
			return int(b.meta.Index) - int(a.meta.Index)
		})
		s.snaps = s.snaps[:min(len(s.snaps), 2)]
	})
	return nil
}

func (m memory) List() (metas []*raft.SnapshotMeta, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.snaps {
		meta := s.meta
		metas = append(metas, &meta)
	}
	return metas, nil
}

func (m memory) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.snaps {
		if s.meta.ID == id {
			meta := s.meta
			return &meta, io.NopCloser(bytes.NewReader(s.data)), nil
		}
	}
	return nil, nil, fmt.Errorf("no snapshot %s", id)
}
