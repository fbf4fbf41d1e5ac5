package placement

import (
	"cmp"
	"fmt"
	"slices"

	"weedd/cluster/catalog"
	"weedd/volume"
)

// Promote has the copy on node lead volume id, though it was not in sync: an operator
// says that all copies that were are lost for good. why tells what is given up. It is
// refused while one of them may come to lead by itself, and of a copy that is not
// there or not well.
func Promote(v View, id volume.ID, node volume.NodeID) (ch catalog.Change, why string, err error) {
	refuse := func(sentinel error, format string, args ...any) (catalog.Change, string, error) {
		return catalog.Change{}, "", fmt.Errorf("%w: promote a copy of volume %d: %s", sentinel, id, fmt.Sprintf(format, args...))
	}
	p := newPlan(v, Settings{})
	i := slices.IndexFunc(v.Volumes, func(vol Volume) bool { return vol.Entry.Volume == id })
	if i < 0 {
		return refuse(volume.ErrNotFound, "there is no such volume")
	}
	vol := &v.Volumes[i]
	e := vol.Entry
	switch {
	case e.Unsure:
		return refuse(volume.ErrUnavailable, "the masters were recovered and wait for its copies; weedd recover --without gives a node up")
	case e.State == volume.StateNew:
		return refuse(volume.ErrBadRequest, "it is new and has no files")
	}
	var gone []volume.NodeID
	for _, h := range e.InSync {
		if p.alive(h) && !vol.bad(h) {
			return refuse(volume.ErrBadRequest, "node %s is there and has a copy in sync, with all that was acknowledged", h.Node)
		}
		gone = append(gone, h.Node)
	}
	c, ok := p.copyOn(vol, node)
	switch {
	case !ok || !p.alive(c.holder):
		return refuse(volume.ErrNotFound, "node %s has no copy of it, as far as it has told", node)
	case c.report.State != volume.CopyHealthy:
		return refuse(volume.ErrBadRequest, "the copy on node %s is %s (%s)", node, c.report.State, cmp.Or(c.report.Reason, "no reason given"))
	case c.report.Generation != e.Generation:
		return refuse(volume.ErrBadRequest, "the copy on node %s missed a compaction: it is of generation %d, the volume of %d", node, c.report.Generation, e.Generation)
	}
	next := *e
	next.Primary, next.InSync, next.Joining = node, []volume.Holder{c.holder}, nil
	why = fmt.Sprintf("the copies on %s are given up; the one on node %s goes on with what it has: %d files, %d bytes, of epoch %d, and %d is the newest. "+
		"What was stored or deleted after it fell behind is lost", join(gone), node, c.report.Files-c.report.Deleted, c.report.Size, c.report.Epoch, e.Epoch)
	return catalog.Change{Version: e.Version, Next: next, Sure: max(c.report.Epoch, e.Epoch), Lost: true}, why, nil
}

// copyOn finds the copy of vol that a node reports, named by the entry or not.
func (p *plan) copyOn(vol *Volume, node volume.NodeID) (kept, bool) {
	if r := vol.report(node); r != nil && r.Copy != 0 {
		return kept{volume.Holder{Node: node, Copy: r.Copy}, r}, true
	}
	for _, s := range p.strays[vol.Entry.Volume] {
		if s.Node == node && s.Report.Copy != 0 {
			return kept{volume.Holder{Node: node, Copy: s.Report.Copy}, s.Report}, true
		}
	}
	return kept{}, false
}
