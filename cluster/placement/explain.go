package placement

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"weedd/cluster"
	"weedd/cluster/catalog"
	"weedd/volume"
)

// Explain says what the leader's loop sees of a volume, what it does now, by
// Settle, and what it waits for; false when view does not show the volume.
func Explain(v View, set Settings, id volume.ID) (cluster.Explanation, bool) {
	i := slices.IndexFunc(v.Volumes, func(vol Volume) bool { return vol.Entry.Volume == id })
	if i < 0 {
		return cluster.Explanation{}, false
	}
	var step *Step
	for _, s := range Settle(v, set) {
		if s.Volume == id {
			step = &s
		}
	}
	return newPlan(v, set).explain(&v.Volumes[i], step), true
}

// ExplainAll is Explain of the volumes that are not as they should be, by rising
// id: at most limit of them, and how many more there are.
func ExplainAll(v View, set Settings, limit int) (out []cluster.Explanation, more int) {
	steps := map[volume.ID]*Step{}
	for _, s := range Settle(v, set) {
		steps[s.Volume] = &s
	}
	volumes := slices.Clone(v.Volumes)
	slices.SortFunc(volumes, func(a, b Volume) int { return cmp.Compare(a.Entry.Volume, b.Entry.Volume) })
	p := newPlan(v, set)
	for i := range volumes {
		if steps[volumes[i].Entry.Volume] == nil && p.calm(&volumes[i]) {
			continue
		}
		if len(out) == limit {
			more++
			continue
		}
		out = append(out, p.explain(&volumes[i], steps[volumes[i].Entry.Volume]))
	}
	return out, more
}

func (p *plan) explain(vol *Volume, step *Step) cluster.Explanation {
	e := cluster.Explanation{Entry: *vol.Entry}
	for i, hs := range [][]volume.Holder{vol.Entry.InSync, vol.Entry.Joining} {
		for _, h := range hs {
			role := "in sync"
			switch {
			case h.Node == vol.Entry.Primary:
				role = "primary"
			case i == 1:
				role = "joining"
			}
			e.Copies = append(e.Copies, cluster.ExplainedCopy{Holder: h, Role: role, State: p.stateOf(vol, h)})
		}
	}
	switch {
	case step != nil && step.Delete():
		e.Delete, e.Why = true, step.Reason
	case step != nil:
		next := step.Change.Next
		e.Next, e.Why = &next, step.Reason
	default:
		e.Waits = p.waits(vol)
	}
	return e
}

// stateOf says in words what is seen of the copy h.
func (p *plan) stateOf(vol *Volume, h volume.Holder) string {
	var parts []string
	r := vol.report(h.Node)
	switch {
	case !p.alive(h):
		parts = append(parts, fmt.Sprintf("its node has been away for %v", p.away(h).Round(time.Second)))
	case vol.bad(h):
		parts = append(parts, vol.wrong(h))
	case r == nil || r.Copy != h.Copy:
		parts = append(parts, "not reported yet")
	default:
		parts = append(parts, fmt.Sprintf("well, %d bytes, epoch %d", r.Size, r.Epoch))
	}
	if r != nil && r.NoRoom {
		parts = append(parts, "its disk is nearly full")
	}
	if p.leaving(vol, h) {
		parts = append(parts, "being drained")
	}
	return strings.Join(parts, "; ")
}

// waits says why nothing is proposed for a volume.
func (p *plan) waits(vol *Volume) (out []string) {
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	e := vol.Entry
	if e.Unsure {
		_, _, why := p.newest(vol)
		say("%s", why)
		return out
	}
	if e.State == volume.StateNew {
		say("it is new and opens when all its holders have reported their copies")
		return out
	}
	if e.State == volume.StateReadOnly {
		say("%s", vol.WhyReadOnly())
	}
	if !p.ledBy(vol) {
		say("no copy in sync can be reached, and no other may lead, however long it is (rule R7): it waits for one of them; if all are lost for good, weedd promote goes on with another, and says what that costs; if there is no other, weedd forget gives the volume up")
		return out
	}
	d := &draft{plan: p, vol: vol, next: *e}
	holders := slices.Concat(e.InSync, e.Joining)
	var kept []volume.NodeID
	stay := 0
	for _, h := range holders {
		_, inSync, _ := e.Holder(h.Node)
		switch {
		case p.overdue(h):
		case p.leaving(vol, h):
			if h.Node == e.Primary {
				say("node %s leads and is being drained: it hands over once enough other copies are in sync", h.Node)
			}
		default:
			kept = append(kept, h.Node)
			if inSync {
				stay++
			}
		}
		switch r := vol.report(h.Node); {
		case !p.alive(h) && !p.overdue(h) && !p.leaving(vol, h):
			say("node %s has been away for %v; after %v a copy is made elsewhere", h.Node, p.away(h).Round(time.Second), p.set.RepairAfter)
		case !inSync && p.alive(h) && r != nil && r.Copy == h.Copy:
			say("the copy on node %s catches up: %d of %d bytes", h.Node, r.Size, vol.size())
		case !inSync && p.alive(h):
			say("node %s is to make its copy", h.Node)
		}
	}
	if e.State != volume.StateExpired && len(kept) < e.Spec.Placement.Copies() {
		if _, ok := d.newHome(kept, holders); ok {
			say("a new copy joins when others are done: a node makes %d at a time", p.set.JoinsAtOnce)
		} else {
			say("no other node can take a copy: %s", d.noHome(kept, holders))
		}
	}
	if len(out) == 0 {
		say("nothing: all is as it should be")
	}
	return out
}

// size is how long the volume is, as its primary says, or else as any copy does.
func (vol *Volume) size() (n int64) {
	if r := vol.report(vol.Entry.Primary); r != nil && r.Size > 0 {
		return r.Size
	}
	for _, c := range vol.Copies {
		n = max(n, c.Report.Size)
	}
	return n
}

// noHome says of each node why it takes no copy beside those on kept.
func (d *draft) noHome(kept []volume.NodeID, holders []volume.Holder) string {
	var why []string
	for _, s := range d.all {
		reason := ""
		switch {
		case slices.ContainsFunc(holders, func(h volume.Holder) bool { return h.Node == s.ID }):
			reason = "has one"
		case !s.Alive:
			reason = "is away"
		case s.Drain.Node:
			reason = "is being drained"
		case !s.Ready:
			reason = "is not ready"
		case slices.Contains(s.Blocked, d.next.Volume) || d.blocked(s.ID, &d.next):
			reason = "has files of another program under this number"
		case !d.fits(d.next.Spec.Placement, append(slices.Clip(kept), s.ID)):
			reason = fmt.Sprintf("is at the wrong place (%s) for placement %s", s.zone(), d.next.Spec.Placement)
		case !s.room(d.next.Spec.Disk):
			reason = "has no room: " + s.whyFull(d.next.Spec.Disk)
		case s.joining >= d.set.JoinsAtOnce:
			reason = fmt.Sprintf("is making %d copies already", s.joining)
		default:
			continue
		}
		why = append(why, fmt.Sprintf("node %s %s", s.ID, reason))
	}
	if len(why) == 0 {
		return "there is none"
	}
	return strings.Join(why, "; ")
}

// Outstanding is what has yet to be copied until every volume has as many copies
// in sync as asked for, on nodes where they may stay. Copies on nodes that are away
// for less than RepairAfter are not counted.
func Outstanding(v View, set Settings) (w cluster.ViewWork) {
	p := newPlan(v, set)
	for i := range v.Volumes {
		vol := &v.Volumes[i]
		e := vol.Entry
		if e.State == volume.StateNew || e.State == volume.StateExpired || p.calm(vol) {
			continue
		}
		need := e.Spec.Placement.Copies()
		for _, h := range e.InSync {
			if !vol.bad(h) && !p.overdue(h) && !p.leaving(vol, h) {
				need--
			}
		}
		for _, h := range e.Joining {
			if need <= 0 {
				break
			}
			need--
			w.Copies++
			w.Bytes += vol.lacks(h)
		}
		w.Copies += max(need, 0)
		w.Bytes += int64(max(need, 0)) * vol.size()
	}
	w.Seconds = -1
	return w
}

// lacks is how many bytes the joining copy h has yet to get.
func (vol *Volume) lacks(h volume.Holder) int64 {
	if r := vol.report(h.Node); r != nil && r.Copy == h.Copy && r.Generation == vol.Entry.Generation {
		return max(vol.size()-r.Size, 0)
	}
	return vol.size()
}

// Drains says how far the drains are.
func Drains(v View, set Settings, drains []catalog.Drain) (out []cluster.ViewDrain) {
	for _, w := range drains {
		out = append(out, newPlan(v, set).drained(v, w))
	}
	return out
}

func (p *plan) drained(v View, w catalog.Drain) cluster.ViewDrain {
	d := cluster.ViewDrain{Node: w.Node, Dir: w.Dir}
	there := func(r *volume.CopyReport) bool { return w.Dir == "" || r.Dir == w.Dir }
	for i := range v.Volumes {
		vol := &v.Volumes[i]
		h, _, ok := vol.Entry.Holder(w.Node)
		if !ok || w.Dir != "" && vol.elsewhere(h, w.Dir) {
			continue
		}
		d.Work.Copies++
		d.Work.Bytes += vol.size()
		if why := p.stuckAt(vol); why != "" {
			if d.Stuck++; d.Why == "" {
				d.Why = fmt.Sprintf("volume %d: %s", vol.Entry.Volume, why)
			}
		}
	}
	for _, s := range v.Strays {
		switch {
		case s.Node != w.Node || !there(s.Report):
		case s.Report.Copy == 0:
			d.Foreign++
		default:
			d.Dropping++
		}
	}
	d.Work.Seconds = -1
	d.Done = d.Work.Copies == 0 && d.Dropping == 0 && p.tells(w)
	return d
}

// elsewhere reports whether the copy of h is known not to be in dir.
func (vol *Volume) elsewhere(h volume.Holder, dir string) bool {
	r := vol.report(h.Node)
	return r != nil && (r.Dir != dir || r.Copy != h.Copy)
}

// tells reports whether it is known what lies where w is about: the node has told
// this leader. One that is away has nothing that anybody waits for.
func (p *plan) tells(w catalog.Drain) bool {
	n := p.byID[w.Node]
	return n != nil && n.Told || w.Dir == "" && (n == nil || !n.Alive)
}

// stuckAt says why a copy that is to be replaced has no other place; "" if it has,
// or will have when others are done.
func (p *plan) stuckAt(vol *Volume) string {
	e := vol.Entry
	holders := slices.Concat(e.InSync, e.Joining)
	var kept []volume.NodeID
	for _, h := range holders {
		if !p.overdue(h) && !p.leaving(vol, h) {
			kept = append(kept, h.Node)
		}
	}
	switch {
	case e.State == volume.StateNew || len(kept) >= e.Spec.Placement.Copies():
		return ""
	case !p.ledBy(vol):
		return "no copy in sync can be reached"
	}
	patient := *p
	patient.set.JoinsAtOnce = math.MaxInt // who is busy will be free
	d := &draft{plan: &patient, vol: vol, next: *e}
	if _, ok := d.newHome(kept, holders); ok {
		return ""
	}
	return "no other node can take a copy: " + d.noHome(kept, holders)
}
