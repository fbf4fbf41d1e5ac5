package simulation

import (
	"context"
	"errors"
	"time"

	"weedd/volume"
	"weedd/volume/replica"
)

// compactLimit is how long a compaction may take before its primary gives it up.
const compactLimit = 500 * ms

// compact begins a compaction if this copy may.
func (r *run) compact() bool {
	if err := r.core.Compact(time.Unix(0, 0)); err != nil {
		return false
	}
	r.trace("begins a compaction at %d", r.core.Committed())
	r.compacted = r.node.w.now
	r.effects()
	return true
}

func (r *run) limitCompaction() {
	if doing, _ := r.core.Compacting(); doing != "" && r.node.w.now-r.compacted > compactLimit {
		r.core.AbortCompaction(errors.New("it took too long"))
	}
}

// compaction does what the core wants done about the new files.
func (r *run) compaction(e replica.Effect) {
	w := r.node.w
	switch e := e.(type) {
	case replica.BuildCompaction:
		r.building = e.Build
		r.aside(w.between(5*ms, 80*ms), func() { r.build(e) })
	case replica.FinishCompaction:
		r.finishing = true
		r.aside(w.between(0, 5*ms), func() { r.finishCompaction(e) })
	case replica.DropCompaction:
		r.building = 0
		r.aside(w.between(0, 5*ms), func() {
			r.failed(r.log.DropCompaction())
			r.core.Dropped()
		})
	case replica.SwitchGeneration:
		r.enqueue(r.switchOver(e.Start))
	case replica.PauseWrites:
		r.enqueue(job{func() bool { r.core.Paused(e.Number); return true }})
	case replica.CompactionEnded:
		r.trace("compaction to generation %d ended: %v", e.Compaction.Generation, e.Err)
	}
}

// aside does something later beside the log, unless the process dies first.
func (r *run) aside(d time.Duration, do func()) {
	r.node.after(d, func() {
		if !r.over {
			do()
			r.effects()
		}
	})
}

func (r *run) build(e replica.BuildCompaction) {
	if r.building != e.Build {
		return // dropped
	}
	r.building = 0
	if r.node.w.chance(2 * r.node.w.drop) {
		r.core.Built(e.Build, errors.New("no room for new files"))
		return
	}
	err := r.log.Compact(context.Background(), e.Compaction, nil)
	r.failed(err)
	r.core.Built(e.Build, err)
}

func (r *run) finishCompaction(e replica.FinishCompaction) {
	r.finishing = false
	length, sum, err := r.log.FinishCompaction(e.End)
	if r.failed(err) && errors.Is(err, volume.ErrStale) {
		r.node.w.fail("R13: %s cannot finish new files at %d: %v", r, e.End, err)
	}
	r.core.Finished(e.Build, length, sum, err)
}

// switchOver takes the new files.
func (r *run) switchOver(start volume.EpochStart) job {
	return job{func() bool {
		err := r.log.Switch(start)
		if errors.Is(err, volume.ErrStale) {
			r.node.w.fail("R13: %s switches to %+v: %v", r, start, err)
		}
		if err != nil {
			r.trace("FAILS: %v", err)
			r.core.Fail(err)
			return false
		}
		r.disk.agreed, r.disk.kept = 0, 0
		r.trace("is of generation %d from epoch %d on", start.Generation, start.Epoch)
		r.core.Switched(r.log.Epochs(), r.log.End())
		for _, q := range r.reads {
			q.need = 0 // all of the old log is committed
		}
		return true
	}}
}
