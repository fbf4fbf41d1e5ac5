package placement

import (
	"errors"
	"fmt"
	"slices"

	"weedd/cluster/catalog"
	"weedd/volume"
)

// ReadOnly gives the changes by which the volumes ids take no writes from now on, or,
// with undo, take them again: an operator says so. What is as it should be already
// needs none. Read-only is an epoch of its own: what its primary reports in that, it
// reports knowing that it takes no writes. All are refused, with a reason for each, when
// one is: it is not there, is new, is about to end, or, with undo, cannot be written.
func ReadOnly(v View, set Settings, ids []volume.ID, undo bool) (out []catalog.Change, err error) {
	p := newPlan(v, set)
	err = eachNamed(v, ids, func(vol *Volume) (why string) {
		if why = p.unmarkable(vol, undo); why == "" && undo == (vol.Entry.State == volume.StateReadOnly) {
			out = append(out, p.marked(vol, undo))
		}
		return why
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// eachNamed gives the volumes ids to do, by rising id, and joins the reasons for which
// some are refused.
func eachNamed(v View, ids []volume.ID, do func(*Volume) (why string)) error {
	var refused []error
	for _, id := range slices.Compact(slices.Sorted(slices.Values(ids))) {
		i := slices.IndexFunc(v.Volumes, func(vol Volume) bool { return vol.Entry.Volume == id })
		if i < 0 {
			refused = append(refused, fmt.Errorf("%w: volume %d: there is no such volume", volume.ErrNotFound, id))
		} else if why := do(&v.Volumes[i]); why != "" {
			refused = append(refused, fmt.Errorf("%w: volume %d: %s", volume.ErrBadRequest, id, why))
		}
	}
	return errors.Join(refused...)
}

// unmarkable says why an operator may not mark vol read-only, or undo it; "" if he may.
func (p *plan) unmarkable(vol *Volume, undo bool) string {
	e := vol.Entry
	primary, _, _ := e.Holder(e.Primary)
	switch {
	case e.Unsure:
		return "it waits since the masters were recovered: weedd explain says for what"
	case e.State == volume.StateNew:
		return "it is new and has no files yet; the masters open it or give it up by themselves"
	case e.State == volume.StateExpired:
		return "it has expired, takes no writes, and is about to be deleted"
	case undo && vol.bad(primary):
		return fmt.Sprintf("it cannot be written: its copy on node %s, which leads, is %s; weedd volume export reads its files there", e.Primary, vol.wrong(primary))
	}
	return ""
}

// marked is the change that makes vol read-only, or undoes it: then it takes writes,
// and new ids if it has room.
func (p *plan) marked(vol *Volume, undo bool) catalog.Change {
	d := &draft{plan: p, vol: vol, next: *vol.Entry}
	switch {
	case !undo:
		d.next.State = volume.StateReadOnly
	case vol.Entry.Adopted():
		d.next.State = volume.StateFull
	default:
		d.next.State = volume.StateOpen
		d.full()
	}
	return catalog.Change{Version: vol.Entry.Version, Next: d.next, Renew: !undo}
}

// Obeys says why it is not certain yet that vol is written by its primary only as its
// state says, so that one that is read-only changes no more; "" once it is. A primary
// that has entered the epoch in force began it knowing the state, and no older one can
// have a write acknowledged any more (rule R8); what was under way is done when all of
// the file is committed.
func (vol *Volume) Obeys() string {
	e := vol.Entry
	h, _, _ := e.Holder(e.Primary)
	r := vol.report(e.Primary)
	switch {
	case vol.bad(h):
		return "" // it is not written, whatever is decided
	case r == nil || r.Copy != h.Copy || r.Epoch != e.Epoch || r.ReadOnly != (e.State == volume.StateReadOnly):
		return fmt.Sprintf("node %s, which leads it, has not said yet that it knows", e.Primary)
	case r.ReadOnly && r.Committed < r.Size:
		return fmt.Sprintf("node %s, which leads it, still finishes writes that it had begun", e.Primary)
	}
	return ""
}

// WhyReadOnly says what holds writes off vol, and what ends that.
func (vol *Volume) WhyReadOnly() string {
	e := vol.Entry
	if h, _, _ := e.Holder(e.Primary); vol.bad(h) {
		return fmt.Sprintf("it is read-only: its copy on node %s, which leads, is %s; weedd volume export reads its files there", e.Primary, vol.wrong(h))
	}
	return fmt.Sprintf("it is read-only: an operator said so, or its last copy failed once; weedd readonly --undo %d has it take writes again", e.Volume)
}
