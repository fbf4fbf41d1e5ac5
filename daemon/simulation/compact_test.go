package simulation

import (
	"errors"
	"slices"
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
		r.aside(w.between(0, 5*ms), func() { r.finishCompaction(e) })
	case replica.DropCompaction:
		r.building = 0
		r.aside(w.between(0, 5*ms), func() {
			r.disk.setPrepared(nil)
			r.aside(w.between(0, 2*ms), func() {
				r.disk.syncPrepared()
				r.core.Dropped()
			})
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
	r.disk.setPrepared(&prepared{what: e.Compaction, data: compacted(r.disk.data[:r.core.Committed()], e.Compaction.At)})
	r.core.Built(e.Build, nil)
}

func (r *run) finishCompaction(e replica.FinishCompaction) {
	d, w := r.disk, r.node.w
	if d.end() != e.End || int64(d.synced) != e.End || r.core.Committed() != e.End {
		w.fail("R13: %s finishes new files at %d", r, e.End)
		return
	}
	p := *d.prepared
	p.data, p.ready = compacted(d.data, p.what.At), true
	d.setPrepared(&p)
	r.aside(w.between(0, 3*ms), func() {
		if d.end() != e.End {
			w.fail("R13: %s has changed while its new files were finished at %d", r, e.End)
		}
		if !r.fsync() {
			r.core.Finished(e.Build, 0, 0, errFsync)
			return
		}
		d.syncPrepared()
		r.core.Finished(e.Build, int64(len(p.data)), checksumOf(p.data), nil)
	})
}

// switchOver takes the new files, step by step.
func (r *run) switchOver(start volume.EpochStart) job {
	d := r.disk
	return job{
		func() bool {
			if start.Start != int64(len(d.prepared.data)) || start.Generation != d.prepared.what.Generation {
				r.node.w.fail("R13: %s switches to %+v", r, start)
			}
			d.setEpochs(append(slices.Clip(d.epochs), start))
			return true
		},
		func() bool { d.syncEpochs(); return true },
		func() bool { d.switchOver(); return true },
		func() bool {
			d.beforeSwitch = nil
			d.syncPrepared()
			r.trace("is of generation %d from epoch %d on", d.generation, start.Epoch)
			r.core.Switched(d.epochs, d.end())
			for _, q := range r.reads {
				q.need = 0 // all of the old log is committed
			}
			return true
		},
	}
}
