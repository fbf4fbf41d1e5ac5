package placement

import (
	"fmt"
	"slices"

	"weedd/cluster/catalog"
	"weedd/volume"
)

// Answer turns a question of a copy into the change to propose. view needs to
// show volume vol and the nodes of its holders only. An ask that was planned on
// another epoch, or comes from a copy that may not ask it, is volume.ErrStale; one
// that cannot be granted now is volume.ErrUnavailable.
func Answer(v View, vol Volume, ask volume.Ask) (catalog.Change, error) {
	e := vol.Entry
	if err := Entitled(e, ask); err != nil {
		return catalog.Change{}, err
	}
	if e.Unsure {
		return catalog.Change{}, fmt.Errorf("%w: volume %d: a recovery of the masters waits for its copies (rule R3)", volume.ErrUnavailable, e.Volume)
	}
	d := &draft{plan: &plan{sites: newSites(v)}, vol: &vol, next: *e}
	d.next.InSync, d.next.Joining = slices.Clone(e.InSync), slices.Clone(e.Joining)
	ch := catalog.Change{Version: e.Version}
	var err error
	switch ask.Kind {
	case volume.AskLead:
		ch.Renew = true
		err = d.askLead(ask)
	case volume.AskRemove:
		err = d.askRemove(ask)
	case volume.AskAdd:
		ch.By = ask.From
		err = d.askAdd(ask)
	case volume.AskYield:
		err = d.askYield(ask)
	case volume.AskCompact:
		ch.By = ask.From
		err = d.askCompact(ask)
	default:
		err = fmt.Errorf("%w: ask %q", volume.ErrBadRequest, ask.Kind)
	}
	ch.Next = d.next
	return ch, err
}

// Entitled is nil when the copy that asks may ask that now, and else
// volume.ErrStale.
func Entitled(e *volume.Entry, ask volume.Ask) error {
	from, inSync, ok := e.Holder(ask.From.Node)
	switch {
	case ask.Epoch != e.Epoch:
		return fmt.Errorf("%w: volume %d is at epoch %d, not %d", volume.ErrStale, e.Volume, e.Epoch, ask.Epoch)
	case !ok || !inSync || from != ask.From:
		return fmt.Errorf("%w: volume %d: copy %s on node %s is not in sync in epoch %d", volume.ErrStale, e.Volume, ask.From.Copy, ask.From.Node, e.Epoch)
	case ask.Kind != volume.AskLead && ask.From.Node != e.Primary && !(ask.Kind == volume.AskYield && ask.Failed):
		return fmt.Errorf("%w: %w", volume.ErrStale, &volume.NotPrimaryError{Volume: e.Volume, Primary: e.Primary})
	}
	return nil
}

// askLead grants a new epoch to the primary as it is, and to another copy only
// when the primary is gone.
func (d *draft) askLead(ask volume.Ask) error {
	if ask.From.Node == d.next.Primary {
		return nil
	}
	if d.led() {
		return fmt.Errorf("volume %d: its primary is there: %w", d.next.Volume, &volume.NotPrimaryError{Volume: d.next.Volume, Primary: d.next.Primary})
	}
	if !d.live(ask.From) {
		return fmt.Errorf("%w: volume %d: node %s does not look alive", volume.ErrUnavailable, d.next.Volume, ask.From.Node)
	}
	d.lead(ask.From)
	return nil
}

// askRemove moves copies out of sync. When that leaves fewer than the placement
// needs to write, silent ones are not: nothing could be acknowledged then, and
// each copy in sync is one that can bring the volume back. Unfit ones go all the
// same: they lack what was acknowledged, and must not lead (rule R7).
func (d *draft) askRemove(ask volume.Ask) error {
	if !d.alive(ask.From) {
		return fmt.Errorf("%w: volume %d: node %s does not look alive", volume.ErrUnavailable, d.next.Volume, ask.From.Node)
	}
	if why := d.vol.Bad(ask.From); why != "" { // it would be the only one left
		return fmt.Errorf("%w: volume %d: the copy on node %s is %s, and removes no others", volume.ErrUnavailable, d.next.Volume, ask.From.Node, why)
	}
	for _, h := range ask.Copies {
		i := slices.Index(d.next.InSync, h)
		if i < 0 || h == ask.From {
			return fmt.Errorf("%w: volume %d: copy %s on node %s cannot be removed: it is the primary or not in sync", volume.ErrBadRequest, d.next.Volume, h.Copy, h.Node)
		}
		d.next.InSync = slices.Delete(d.next.InSync, i, i+1)
		d.next.Joining = append(d.next.Joining, h)
	}
	if least := d.next.Spec.Placement.MinCopies(); len(d.next.InSync) < least && !ask.Unfit {
		return fmt.Errorf("%w: volume %d: %d copies would be left in sync, writing needs %d", volume.ErrUnavailable, d.next.Volume, len(d.next.InSync), least)
	}
	return nil
}

func (d *draft) askAdd(ask volume.Ask) error {
	for _, h := range ask.Copies {
		i := slices.Index(d.next.Joining, h)
		if i < 0 {
			return fmt.Errorf("%w: volume %d: copy %s on node %s is not joining", volume.ErrBadRequest, d.next.Volume, h.Copy, h.Node)
		}
		d.next.Joining = slices.Delete(d.next.Joining, i, i+1)
		d.next.InSync = append(d.next.InSync, h)
	}
	return nil
}

// askYield lets another live copy lead. One that failed leaves the sets; as the
// only live one it stays, and the volume is read-only.
func (d *draft) askYield(ask volume.Ask) error {
	heirs := slices.Clone(d.next.InSync)
	if ask.NoRoom {
		heirs = slices.DeleteFunc(heirs, func(h volume.Holder) bool {
			r := d.vol.report(h.Node)
			return r != nil && r.Copy == h.Copy && r.NoRoom
		})
	}
	heir, ok := d.heir(heirs, ask.From.Node)
	switch {
	case !ok && ask.Failed:
		d.next.State = volume.StateReadOnly
		return nil
	case !ok:
		return fmt.Errorf("%w: volume %d: no other copy in sync is there to lead", volume.ErrUnsatisfiable, d.next.Volume)
	}
	if ask.From.Node == d.next.Primary {
		d.next.Primary = heir.Node
	}
	if ask.Failed {
		d.next.InSync = slices.DeleteFunc(d.next.InSync, func(h volume.Holder) bool { return h == ask.From })
	}
	return nil
}

// askCompact grants the next generation when the asker names all copies in sync
// as ready for it, and no other copy would be left with the old files (rule R13).
func (d *draft) askCompact(ask volume.Ask) error {
	e := d.next
	switch {
	case ask.Generation != e.Generation+1:
		return fmt.Errorf("%w: volume %d is of generation %d; %d does not follow", volume.ErrBadRequest, e.Volume, e.Generation, ask.Generation)
	case len(e.Joining) > 0:
		return fmt.Errorf("%w: volume %d: %d copies are joining", volume.ErrUnavailable, e.Volume, len(e.Joining))
	}
	for _, h := range e.InSync {
		if h != ask.From && !slices.Contains(ask.Copies, h) {
			return fmt.Errorf("%w: volume %d: copy %s on node %s is not said to be ready", volume.ErrBadRequest, e.Volume, h.Copy, h.Node)
		}
	}
	d.next.Generation = ask.Generation
	return nil
}
