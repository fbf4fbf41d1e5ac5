package replica

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/store"
)

// Log is the storage of one copy: an append-only file of records and an index
// of them. *store.Volume is one. At most one goroutine at a time calls Append,
// Cut, SetEpochs and AddEpoch; Sync may run beside Append; the rest may be
// called at any time.
type Log interface {
	End() int64
	Durable() int64
	Committed() int64
	Append(records []byte) error
	// Room is nil if records of n bytes may be appended that are no deletions;
	// else volume.ErrNoSpace.
	Room(n int64) error
	Sync() (durable int64, err error)
	Publish(committed int64)
	Cut(end int64) error
	Epochs() []volume.EpochStart
	SetEpochs([]volume.EpochStart) error
	AddEpoch(volume.EpochStart) error
	ReadAt(p []byte, off int64) (int, error)
	Checksum(upto int64) (uint32, error)
	NextAppendTime(now time.Time) uint64
	Latest(key volume.Key) (store.Row, bool)
	ReadHeader(row store.Row) (needle.Header, error)
	Read(row store.Row) (*needle.Needle, error)
	Get(key volume.Key, cookie volume.Cookie, now time.Time, readDeleted bool) (*needle.Needle, error)
	Expired(n *needle.Needle, now time.Time) bool
	Stats() (files, deleted uint64, deletedBytes int64, maxKey volume.Key, size int64, modified time.Time, revision uint16)
	Spec() volume.Spec
	Failed() error
	// Compact to DropCompaction make new files and put them in place of the old,
	// see *store.Volume. Compact runs beside all else; the others when the core
	// asks for them, one at a time.
	Compact(ctx context.Context, c volume.Compaction, repair func(offset, length int64) ([]byte, error)) error
	Compacted() int64
	FinishCompaction(end int64) (length int64, sum uint32, err error)
	Prepared() (c volume.Compaction, length int64, sum uint32, ok bool)
	Switch(volume.EpochStart) error
	DropCompaction() error
	// Doubtful reports whether what was acknowledged may be missing: the copy
	// leads only if no other can.
	Doubtful() bool
}

// Recover makes the Core of a copy whose log was opened.
func Recover(self volume.Holder, id volume.ID, l Log) *Core {
	durable, err := l.Sync() // what a killed process left in the page cache counts only after this
	state := CoreState{Epochs: l.Epochs(), End: l.End(), Durable: durable, Committed: l.Committed()}
	if c, length, sum, ok := l.Prepared(); ok {
		state.Prepared = &Prepared{Compaction: c, Length: length, Checksum: sum}
	}
	core := NewCore(self, id, state)
	core.Fail(err)
	return core
}

// Apply does to the log what e asks for, and answers how much is durable then.
// After an error for want of room nothing has changed; after any other the log has
// failed.
func (e EnterEpoch) Apply(l Log) (durable int64, err error) {
	if durable, err = l.Sync(); err != nil {
		return durable, err
	}
	return durable, l.AddEpoch(volume.EpochStart(e))
}

// Apply does to the log what a asks for, and answers where it ends then and the
// checksum up to there. An error for want of room has perhaps cut it, and no more.
func (a Adopt) Apply(l Log) (sum uint32, end int64, err error) {
	if a.Cut >= 0 && a.Cut < l.End() {
		if err := l.Cut(a.Cut); err != nil {
			return 0, 0, fmt.Errorf("cut to %d: %w", a.Cut, err)
		}
	}
	if end, err = l.Sync(); err != nil {
		return 0, 0, fmt.Errorf("fsync: %w", err)
	}
	if err := l.SetEpochs(a.Epochs); err != nil {
		return 0, 0, fmt.Errorf("keep the list of epochs: %w", err)
	}
	sum, err = l.Checksum(end)
	return sum, end, err
}

// Link is one side of a stream between two copies of a volume: in order, and
// reliable until it breaks. Send and Recv may be called by one goroutine each;
// Close by anybody, and it ends both.
type Link interface {
	Send(*Message) error
	Recv() (*Message, error)
	Close()
}

// Options are what a Replica needs of its surroundings.
type Options struct {
	Self   volume.Holder
	Volume volume.ID
	Log    Log
	// Dial opens a stream to the copy of the same volume on node.
	Dial func(ctx context.Context, node volume.NodeID) (Link, error)
	// Ask puts a question to the leader and answers the entry now in force,
	// also together with volume.ErrStale.
	Ask func(ctx context.Context, ask volume.Ask) (volume.Entry, error)
	// Confirm asks the primary on node for the committed length of epoch; from
	// is the copy that asks.
	Confirm func(ctx context.Context, node volume.NodeID, id volume.ID, epoch volume.Epoch, from volume.Holder) (committed int64, err error)
	// Repair fetches the record at offset, of length bytes with its padding, from
	// another copy of entry whose files are of that generation. The record passes
	// its own check; volume.ErrCorrupt says that no copy has a good one. It may be
	// nil.
	Repair func(ctx context.Context, entry volume.Entry, generation uint32, offset, length int64) ([]byte, error)
	// Compacted is told of the end of every compaction that this copy led; err is
	// nil when it was decided. It must not block, and may be nil.
	Compacted func(err error)
	// Changed says that Report has something new. It must not block.
	Changed func()
	// SlowSync is how long an fsync may take before the copy gives its
	// leadership up; 0 is 2 s.
	SlowSync time.Duration
	// Pace bounds what is sent to copies that catch up; the copies of one node share
	// it. nil is no bound.
	Pace   *Pace
	Logger *slog.Logger
	Now    func() time.Time
}

// Timing of the links. The stream is the detector of dead copies: the figures
// bound how long a write waits for one.
const (
	unanswered   = time.Second            // a batch without an answer for so long, while a write waits, makes its copy suspect
	unreachable  = 300 * time.Millisecond // the same for a copy whose link broke or cannot be opened
	slowest      = 32 << 20               // bytes a second that a copy should manage: it may take longer over so much more
	redialFirst  = 20 * time.Millisecond
	redialLast   = time.Second
	askAgain     = 500 * time.Millisecond
	noticeDelay  = 5 * time.Millisecond // an idle stream tells a new committed length after so long
	maxFrame     = 1 << 20              // bytes of records in one message
	maxBatch     = 4 << 20              // bytes of records in one append
	maxBatchOps  = 4096
	watchdogTick = 50 * time.Millisecond
)
