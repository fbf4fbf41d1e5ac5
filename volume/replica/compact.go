package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"weedd/volume"
)

// compactor is the runtime of a compaction. There is nothing of it while none is
// under way. Fields are guarded by Replica.mu.
type compactor struct {
	stop     context.CancelFunc // ends the build under way
	built    chan struct{}      // closed when it has ended; nil for none
	watching bool
}

// Times of a compaction. They bound an attempt that makes no progress, not one
// that is large.
const (
	buildStuck  = 2 * time.Minute // no copy has come further for so long
	buildSlow   = 1 << 20         // bytes a second that another copy should manage, and as long again to begin
	pauseLimit  = 5 * time.Second // writes wait for new files for so long at most, before the leader is asked
	compactTick = 100 * time.Millisecond
)

// Compact obeys an order to compact the volume, if this copy leads it in that
// epoch. It begins the work and does not wait for it. An error says why it cannot
// be begun now; an order that is being obeyed, or has passed, is none.
func (r *Replica) Compact(o volume.CompactOrder) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	doing, _ := r.core.Compacting()
	switch {
	case r.closed:
		return volume.ErrClosed
	case doing != "" || o.Epoch != r.core.Entry().Epoch || r.core.Entry().Primary != r.opts.Self.Node:
		return nil
	case r.yielding:
		return fmt.Errorf("%w: volume %d: another copy is about to lead", volume.ErrUnavailable, o.Volume)
	}
	if err := r.core.Compact(o.Clock); err != nil {
		return err
	}
	r.opts.Logger.Info("compaction begins", "volume", o.Volume, "epoch", o.Epoch, "bytes", r.core.Committed())
	r.effectsLocked()
	r.watchCompactionLocked()
	return nil
}

// compactionLocked does what the core wants done about new files.
func (r *Replica) compactionLocked(e Effect) {
	switch e := e.(type) {
	case BuildCompaction:
		ctx, stop := context.WithCancel(r.ctx)
		built := make(chan struct{})
		r.compactor.stop, r.compactor.built = stop, built
		r.goLocked(func() {
			defer close(built)
			defer stop()
			r.buildCompaction(ctx, e)
		})
	case FinishCompaction:
		r.goLocked(func() { r.finishCompaction(e) })
	case DropCompaction:
		built := r.compactor.built
		if built != nil {
			r.compactor.stop()
		}
		r.goLocked(func() { r.dropCompaction(built) })
	case SwitchGeneration:
		r.goLocked(func() { r.switchGeneration(e.Start) })
	case PauseWrites:
		r.goLocked(func() {
			r.logMu.Lock() // no append is under way, and none begins before the core says that it may
			defer r.logMu.Unlock()
			r.mu.Lock()
			defer r.mu.Unlock()
			r.core.Paused(e.Number)
			r.effectsLocked()
		})
	case Speak:
		r.pokeLocked()
		if r.follower != nil {
			r.follower.pokeNow()
		}
	case CompactionEnded:
		r.endedLocked(e)
	}
}

func (r *Replica) endedLocked(e CompactionEnded) {
	id := r.opts.Volume
	switch {
	case e.Err == nil:
		r.opts.Logger.Info("compaction decided", "volume", id, "generation", e.Compaction.Generation)
	case r.closed:
	default:
		r.opts.Logger.Warn("compaction came to nothing", "volume", id, "generation", e.Compaction.Generation, "err", e.Err)
	}
	r.opts.Compacted(e.Err)
	r.movedLocked()
}

func (r *Replica) buildCompaction(ctx context.Context, e BuildCompaction) {
	var repair func(offset, length int64) ([]byte, error)
	if r.opts.Repair != nil {
		repair = func(offset, length int64) ([]byte, error) {
			return r.opts.Repair(ctx, r.Entry(), e.Compaction.Generation-1, offset, length)
		}
	}
	err := r.opts.Log.Compact(ctx, e.Compaction, repair)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failedLocked(err)
	r.core.Built(e.Build, err)
	r.effectsLocked()
}

// failedLocked looks whether err came with the end of the log.
func (r *Replica) failedLocked(err error) {
	if err != nil && r.opts.Log.Failed() != nil {
		r.failLocked(err)
	}
}

func (r *Replica) finishCompaction(e FinishCompaction) {
	length, sum, err := r.opts.Log.FinishCompaction(e.End)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failedLocked(err)
	r.core.Finished(e.Build, length, sum, err)
	r.effectsLocked()
}

// dropCompaction removes new files once nobody writes them any more. What cannot
// be removed counts for nothing: it names an epoch that has passed, or the
// attempt was given up before the leader was asked.
func (r *Replica) dropCompaction(built <-chan struct{}) {
	if built != nil {
		<-built
	}
	err := r.opts.Log.DropCompaction()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil && r.core.failed == nil {
		r.opts.Logger.Warn("new files of a compaction cannot be removed", "volume", r.opts.Volume, "err", err)
	}
	r.failedLocked(err)
	r.core.Dropped()
	r.effectsLocked()
}

// switchGeneration puts the new files in the place of the old. Nothing may be
// going on in the log meanwhile.
func (r *Replica) switchGeneration(start volume.EpochStart) {
	r.logMu.Lock()
	defer r.logMu.Unlock()
	err := r.opts.Log.Switch(start)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.failLocked(fmt.Errorf("switch to generation %d: %w", start.Generation, err))
		return
	}
	for _, c := range r.confirms {
		c.need = 0 // an offset of the old files, all of which were committed
	}
	r.core.Switched(r.opts.Log.Epochs(), r.opts.Log.End())
	r.effectsLocked()
	r.opts.Logger.Debug("volume goes on with new files", "volume", r.opts.Volume, "generation", start.Generation, "epoch", start.Epoch, "bytes", start.Start)
}

// watchCompactionLocked starts a watch over the attempt that this copy leads.
func (r *Replica) watchCompactionLocked() {
	if doing, _ := r.core.Compacting(); doing == "" || r.compactor.watching || r.closed {
		return
	}
	r.compactor.watching = true
	r.goLocked(r.watchCompaction)
}

var errCompactionLate = errors.New("it took too long")

// watchCompaction gives an attempt up that does not come further.
func (r *Replica) watchCompaction() {
	tick := time.NewTicker(compactTick)
	defer tick.Stop()
	size := r.opts.Log.End()
	limit := buildStuck + time.Duration(size/buildSlow)*time.Second
	was, since, done := "", time.Now(), int64(0)
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-tick.C:
		}
		r.mu.Lock()
		doing, _ := r.core.Compacting()
		if doing == "" {
			r.compactor.watching = false
			r.mu.Unlock()
			return
		}
		now := time.Now()
		if n := r.opts.Log.Compacted(); doing != was || n != done {
			was, since, done = doing, now, n
			r.opts.Changed() // it is on show
		}
		most := limit
		if r.core.paused() {
			most = pauseLimit
		}
		if now.Sub(since) > most {
			r.core.AbortCompaction(errCompactionLate)
			r.effectsLocked()
		}
		r.mu.Unlock()
	}
}

// compactionShown is what Report says of compactions.
func (r *Replica) compactionShown() (text string, underWay bool) {
	doing, last := r.core.Compacting()
	switch {
	case doing != "":
		return doing, true
	case last != nil:
		return "came to nothing: " + last.Error(), false
	}
	return "", false
}
