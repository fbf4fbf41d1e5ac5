package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"weedd/cluster/catalog"
	"weedd/volume"
)

// untold lists the nodes whose word is needed before an unsure volume is given a
// primary: all that any volume names, for the entry of a volume may be so old that
// it does not name the node that has the newest copy.
func (p *plan) untold(v View) (out []volume.NodeID) {
	named := map[volume.NodeID]bool{}
	for i := range v.Volumes {
		for _, h := range slices.Concat(v.Volumes[i].Entry.InSync, v.Volumes[i].Entry.Joining) {
			named[h.Node] = true
		}
	}
	for id := range named {
		if s := p.byID[id]; (s == nil || !s.Told || !s.whole()) && !slices.Contains(v.Waived, id) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// whole reports whether all directories of the node can be used: a copy in one that
// is missing, or in trouble, is not told of as it is.
func (s *site) whole() bool {
	return !slices.ContainsFunc(s.Disks, func(d volume.DiskReport) bool { return d.Missing || d.Fenced != "" && !d.Full })
}

// settleUnsure gives a volume whose newest decision may be lost a primary, once
// every node has told what it has (rule R3): of the copies that entered the newest
// epoch, the longest. In one epoch there is one primary, all others have a beginning
// of its log, cut before they entered, and it had itself entered before anything was
// acknowledged; so the longest has all that was. Copies of older epochs miss some.
// All but that one join anew.
func (p *plan) settleUnsure(vol *Volume) (Step, bool) {
	best, others, why := p.newest(vol)
	if why != "" {
		return Step{}, false
	}
	next := *vol.Entry
	next.Primary, next.InSync, next.Joining = best.holder.Node, []volume.Holder{best.holder}, nil
	next.Generation = best.report.Generation
	for _, c := range others {
		if len(next.Joining)+1 < next.Spec.Placement.Copies() {
			next.Joining = append(next.Joining, c.holder)
		}
	}
	switch {
	case next.State == volume.StateNew && next.Adopted():
		next.State = volume.StateFull
	case next.State == volume.StateNew:
		next.State = volume.StateOpen
	}
	return Step{Volume: next.Volume, Change: &catalog.Change{Version: vol.Entry.Version, Next: next, Sure: max(best.report.Epoch, 1)},
		Reason: fmt.Sprintf("recovered: the copy on node %s is the longest of epoch %d, the newest that any has entered", best.holder.Node, best.report.Epoch)}, true
}

// kept is a copy that is on some node.
type kept struct {
	holder volume.Holder
	report *volume.CopyReport
}

// newest finds the copy to go on with, and the other usable ones; or says what is
// waited for.
func (p *plan) newest(vol *Volume) (best kept, others []kept, why string) {
	if len(p.silent) > 0 {
		return best, nil, fmt.Sprintf("later decisions may be lost, so every node has to tell what it has; nothing was heard of %s (weedd recover --without gives one up for good)", join(p.silent))
	}
	var all []kept
	for _, c := range vol.Copies {
		all = append(all, kept{volume.Holder{Node: c.Node, Copy: c.Report.Copy}, c.Report})
	}
	for _, s := range p.strays[vol.Entry.Volume] {
		all = append(all, kept{volume.Holder{Node: s.Node, Copy: s.Report.Copy}, s.Report})
	}
	all = slices.DeleteFunc(all, func(c kept) bool {
		return c.report.Copy == 0 || slices.Contains(p.waived, c.holder.Node) && c.report.State != volume.CopyHealthy
	})
	slices.SortFunc(all, func(a, b kept) int { // the newest first
		return cmp.Or(-cmp.Compare(a.report.Epoch, b.report.Epoch), -cmp.Compare(a.report.Size, b.report.Size),
			cmp.Compare(a.holder.Node, b.holder.Node), cmp.Compare(a.holder.Copy, b.holder.Copy))
	})
	all = slices.CompactFunc(all, func(a, b kept) bool { return a.holder == b.holder })
	for _, c := range all {
		if c.report.State != volume.CopyHealthy {
			return best, nil, fmt.Sprintf("the copy on node %s is %s (%s), and may be the one that has all", c.holder.Node, c.report.State, cmp.Or(c.report.Reason, "no reason given"))
		}
	}
	switch {
	case len(all) == 0:
		return best, nil, "no node has a copy of it (if all are lost for good, weedd forget gives the volume up)"
	case all[0].report.Generation < vol.Entry.Generation:
		return best, nil, fmt.Sprintf("the newest copy, on node %s, is of generation %d; the entry is of %d", all[0].holder.Node, all[0].report.Generation, vol.Entry.Generation)
	}
	return all[0], all[1:], ""
}

// Unsure counts the volumes that wait since the masters were recovered, and says
// what the first of them waits for.
func Unsure(v View, set Settings) (n int, why string) {
	p := newPlan(v, set)
	for i := range v.Volumes {
		if vol := &v.Volumes[i]; vol.Entry.Unsure {
			if n++; why == "" {
				_, _, why = p.newest(vol)
			}
		}
	}
	return n, why
}

func join(ids []volume.NodeID) string {
	var s []string
	for _, id := range ids {
		s = append(s, "node "+string(id))
	}
	return strings.Join(s, ", ")
}
