package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"weedd/cluster/catalog"
	"weedd/volume"
)

// report returns what node says of its copy, nil when it has said nothing.
func (vol *Volume) report(node volume.NodeID) *volume.CopyReport {
	for _, c := range vol.Copies {
		if c.Node == node {
			return c.Report
		}
	}
	return nil
}

// bad reports whether copy h can never be used again: it is lost (rule R6), has
// failed (rule R5), or differs from the primary's, whatever it says of itself. A
// report of another copy id says nothing of h.
func (vol *Volume) bad(h volume.Holder) bool {
	r := vol.report(h.Node)
	return r != nil && r.Copy == h.Copy && (r.State == volume.CopyLost || r.State == volume.CopyFailed) || slices.Contains(vol.Unfit, h)
}

// Bad says why copy h can never be used again; "" if it can, as far as is known.
func (vol *Volume) Bad(h volume.Holder) string {
	if !vol.bad(h) {
		return ""
	}
	return vol.wrong(h)
}

// wrong says what is wrong with a bad copy.
func (vol *Volume) wrong(h volume.Holder) string {
	r := vol.report(h.Node)
	if r == nil || r.Copy != h.Copy || r.State == volume.CopyHealthy {
		return "other than the primary's"
	}
	return fmt.Sprintf("%s (%s)", r.State, cmp.Or(r.Reason, "no reason given"))
}

// healthy reports whether h is there, as its node says.
func (vol *Volume) healthy(h volume.Holder) bool {
	r := vol.report(h.Node)
	return r != nil && r.Copy == h.Copy && r.State == volume.CopyHealthy
}

// Settle says which entries should differ, at most one step for each volume, by
// rising id. Where nothing is wrong it says nothing: a volume whose primary is
// there is left alone though other holders are away, until RepairAfter; its
// primary asks for them to leave when a write waits for them (rule R9).
func Settle(v View, set Settings) []Step {
	p := newPlan(v, set)
	volumes := slices.Clone(v.Volumes)
	slices.SortFunc(volumes, func(a, b Volume) int { return cmp.Compare(a.Entry.Volume, b.Entry.Volume) })
	var out []Step
	for i := range volumes {
		if s, ok := p.settle(&volumes[i]); ok {
			out = append(out, s)
		}
	}
	return out
}

type plan struct {
	*sites
	set    Settings
	strays map[volume.ID][]Stray
	waived []volume.NodeID
	silent []volume.NodeID // nodes that some volume names, that are not waived, and have not told all they have
}

func newPlan(v View, set Settings) *plan {
	p := &plan{sites: newSites(v), set: set.WithDefaults(), strays: map[volume.ID][]Stray{}, waived: v.Waived}
	for _, s := range v.Strays {
		p.strays[s.Report.Volume] = append(p.strays[s.Report.Volume], s)
	}
	if slices.ContainsFunc(v.Volumes, func(vol Volume) bool { return vol.Entry.Unsure }) {
		p.silent = p.untold(v)
	}
	return p
}

func (p *plan) alive(h volume.Holder) bool {
	s := p.byID[h.Node]
	return s != nil && s.Alive
}

func (p *plan) away(h volume.Holder) time.Duration {
	if s := p.byID[h.Node]; s != nil {
		return s.Away
	}
	return 0 // never heard of since the term began
}

// leaving reports whether copy h is to go because its node, or the directory that
// it is in, is being drained.
func (p *plan) leaving(vol *Volume, h volume.Holder) bool {
	s := p.byID[h.Node]
	if s == nil || !s.Drain.Node && len(s.Drain.Dirs) == 0 {
		return false
	}
	r := vol.report(h.Node)
	return s.Drain.Node || r != nil && r.Copy == h.Copy && s.Drain.Has(r.Dir)
}

// overdue reports whether h is away for so long that it counts as lost.
func (p *plan) overdue(h volume.Holder) bool {
	s := p.byID[h.Node]
	return s != nil && !s.Alive && (s.Lost || s.Away > p.set.RepairAfter)
}

func (p *plan) settle(vol *Volume) (Step, bool) {
	switch {
	case vol.Entry.Unsure:
		return p.settleUnsure(vol)
	case vol.Entry.State == volume.StateNew && vol.Entry.Adopted():
		return p.settleAdopted(vol)
	case vol.Entry.State == volume.StateNew:
		return p.settleNew(vol)
	}
	if p.calm(vol) {
		return Step{}, false
	}
	if _, end, why := vol.aging(); end && p.ledBy(vol) {
		return Step{Volume: vol.Entry.Volume, Reason: why}, true
	}
	d := &draft{plan: p, vol: vol, next: *vol.Entry}
	d.next.InSync, d.next.Joining = slices.Clone(d.next.InSync), slices.Clone(d.next.Joining)
	d.dropBad()
	d.succeed()
	if d.led() {
		if d.next.State != volume.StateExpired { // nothing is made anew of one that ends
			d.replace()
			d.trim()
		}
		d.full()
		d.age()
	} else if d.next.State == volume.StateOpen && vol.unusable() {
		d.next.State = volume.StateNoRoom
		d.because("none of its copies can be written now")
	}
	return d.step()
}

// unusable reports whether no copy in sync can be written, as their nodes say.
func (vol *Volume) unusable() bool {
	return !slices.ContainsFunc(vol.Entry.InSync, func(h volume.Holder) bool { return !vol.bad(h) })
}

// calm is the short way to say that all is well, which is true of nearly every
// volume nearly always.
func (p *plan) calm(vol *Volume) bool {
	e := vol.Entry
	if e.Unsure {
		return false
	}
	for _, h := range e.InSync {
		if !p.alive(h) || vol.bad(h) || p.leaving(vol, h) {
			return false
		}
	}
	room := vol.room()
	full := e.State == volume.StateOpen && (p.over(vol) || room < 0) || e.State == volume.StateNoRoom && room > 0
	state, end, _ := vol.aging()
	return len(e.InSync) == e.Spec.Placement.Copies() && len(e.Joining) == 0 && !full && state == e.State && !end
}

// room is below 0 when the disk of a copy in sync is full, above 0 when all say
// that theirs are not.
func (vol *Volume) room() int {
	known := 1
	for _, h := range vol.Entry.InSync {
		switch r := vol.report(h.Node); {
		case r == nil || r.Copy != h.Copy || vol.bad(h):
			known = 0
		case r.NoRoom:
			return -1
		}
	}
	return known
}

// over reports whether the primary's file has reached the limit.
func (p *plan) over(vol *Volume) bool {
	r := vol.report(vol.Entry.Primary)
	return r != nil && r.Size >= p.set.VolumeLimit
}

// settleNew opens a new volume once every holder has reported its copy, and
// gives it up when one of them cannot. It never had an id, so nothing is lost.
func (p *plan) settleNew(vol *Volume) (Step, bool) {
	e := vol.Entry
	ready := true
	for _, h := range e.InSync {
		why := ""
		switch {
		case vol.bad(h):
			why = fmt.Sprintf("node %s could not make its copy: %s", h.Node, vol.wrong(h))
		case !p.alive(h) && p.away(h) > p.set.NewTimeout:
			why = fmt.Sprintf("node %s went away before the volume was open", h.Node)
		case vol.Age > 5*p.set.NewTimeout && !vol.healthy(h):
			why = fmt.Sprintf("node %s has not made its copy within %v", h.Node, 5*p.set.NewTimeout)
		}
		if why != "" {
			return Step{Volume: e.Volume, Reason: why}, true
		}
		ready = ready && p.alive(h) && vol.healthy(h)
	}
	if !ready {
		return Step{}, false
	}
	next := *e
	next.State = volume.StateOpen
	return Step{Volume: e.Volume, Change: &catalog.Change{Version: e.Version, Next: next}, Reason: "all holders have their copies"}, true
}

// draft is the next entry of one volume while it is being thought about.
type draft struct {
	*plan
	vol     *Volume
	next    volume.Entry
	reasons []string
	remade  []volume.NodeID // nodes whose copy was dropped as lost
	renew   bool            // a new epoch begins though the sets are as they were
}

func (d *draft) because(format string, args ...any) {
	d.reasons = append(d.reasons, fmt.Sprintf(format, args...))
}

// live reports whether h can lead, or be copied from.
func (d *draft) live(h volume.Holder) bool { return d.alive(h) && !d.vol.bad(h) }

// dropBad takes lost and failed copies out, as long as another copy in sync is
// there: it has all that was acknowledged. As the only one a failed copy stays,
// read-only, and for a lost one the volume waits.
func (d *draft) dropBad() {
	drop := func(h volume.Holder) bool {
		if !d.vol.bad(h) {
			return false
		}
		d.because("the copy on node %s is %s", h.Node, d.vol.wrong(h))
		if r := d.vol.report(h.Node); r == nil || r.State != volume.CopyFailed { // where one failed the next may fail, too: any node is as good
			d.remade = append(d.remade, h.Node)
		}
		return true
	}
	switch {
	case slices.ContainsFunc(d.next.InSync, d.live):
		d.next.InSync = slices.DeleteFunc(d.next.InSync, drop)
	case d.next.State != volume.StateReadOnly && d.failed():
		d.next.State = volume.StateReadOnly
		d.because("its last copy has failed")
	}
	d.next.Joining = slices.DeleteFunc(d.next.Joining, drop)
}

// failed reports whether the primary's copy has failed and no other is in sync.
func (d *draft) failed() bool {
	if len(d.next.InSync) != 1 {
		return false
	}
	r := d.vol.report(d.next.Primary)
	return d.vol.bad(d.next.InSync[0]) && r != nil && r.State == volume.CopyFailed
}

// led reports whether the primary is there.
func (d *draft) led() bool {
	h, ok, _ := d.next.Holder(d.next.Primary)
	return ok && d.live(h)
}

// ledBy is led of a volume as it is.
func (p *plan) ledBy(vol *Volume) bool {
	h, ok, _ := vol.Entry.Holder(vol.Entry.Primary)
	return ok && p.alive(h) && !vol.bad(h)
}

// succeed lets another live copy in sync lead when the primary is gone; copies
// that are away join again when they are back. With none the volume waits: only
// copies in sync may lead (rule R7), however long the others are.
func (d *draft) succeed() {
	if d.led() {
		return
	}
	heir, ok := d.heir(d.next.InSync, "")
	if !ok {
		return
	}
	d.because("node %s, which led, is gone; node %s is in sync", d.next.Primary, heir.Node)
	d.lead(heir)
}

// heir chooses who leads next: a copy that stays and has been reported, if there
// is one, on the node that leads least.
func (d *draft) heir(among []volume.Holder, not volume.NodeID) (heir volume.Holder, ok bool) {
	id := d.next.Volume
	rank := func(h volume.Holder) int {
		switch {
		case d.leaving(d.vol, h):
			return 2
		case !d.vol.healthy(h):
			return 1
		}
		return 0
	}
	better := func(a, b volume.Holder) bool {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(d.byID[a.Node].primaries, d.byID[b.Node].primaries),
			cmp.Compare(tie(id, a.Node), tie(id, b.Node)), cmp.Compare(a.Node, b.Node)) < 0
	}
	for _, h := range among {
		if h.Node != not && d.live(h) && (!ok || better(h, heir)) {
			heir, ok = h, true
		}
	}
	return heir, ok
}

// lead makes h the primary and moves copies that are not live out of sync.
func (d *draft) lead(h volume.Holder) {
	if s := d.byID[d.next.Primary]; s != nil {
		s.primaries--
	}
	d.byID[h.Node].primaries++
	d.next.Primary = h.Node
	var stay []volume.Holder
	for _, h := range d.next.InSync {
		if d.live(h) {
			stay = append(stay, h)
		} else {
			d.next.Joining = append(d.next.Joining, h)
		}
	}
	d.next.InSync = stay
}

// replace lets new copies join where some are missing, or where holders have
// been away for so long that they count as lost, or are being drained.
func (d *draft) replace() {
	holders := slices.Concat(d.next.InSync, d.next.Joining)
	var kept []volume.NodeID
	var lost []volume.Holder
	for _, h := range holders {
		if d.overdue(h) || d.leaving(d.vol, h) {
			lost = append(lost, h)
		} else {
			kept = append(kept, h.Node)
		}
	}
	for missing := d.next.Spec.Placement.Copies() - len(kept); missing > 0; missing-- {
		node, ok := d.newHome(kept, holders)
		if !ok {
			return
		}
		if i := slices.IndexFunc(lost, func(h volume.Holder) bool { return slices.Contains(d.next.Joining, h) }); i >= 0 {
			gone := lost[i]
			lost = slices.Delete(lost, i, i+1)
			d.next.Joining = slices.DeleteFunc(d.next.Joining, func(h volume.Holder) bool { return h == gone })
			d.because("%s", d.whyGone(gone))
		}
		d.because("a new copy joins on node %s%s", node, d.inPlaceOf(lost))
		d.next.Joining = append(d.next.Joining, volume.Holder{Node: node})
		kept = append(kept, node)
		s := d.byID[node]
		s.free[d.next.Spec.Disk]--
		s.holds++
		s.joining++
	}
}

// whyGone says why the copy h is not counted on.
func (d *draft) whyGone(h volume.Holder) string {
	if d.leaving(d.vol, h) {
		return fmt.Sprintf("node %s is being drained", h.Node)
	}
	return fmt.Sprintf("node %s has been away for %v", h.Node, d.away(h).Round(time.Second))
}

// inPlaceOf says which copies that are still in sync a new one is to replace.
func (d *draft) inPlaceOf(lost []volume.Holder) string {
	for _, h := range lost {
		if slices.Contains(d.next.InSync, h) {
			return ": " + d.whyGone(h)
		}
	}
	return ""
}

// newHome finds a node for a new copy beside kept: the one that lost its copy,
// or one with files that the volume was adopted from (they make room), else any
// that fits. None that still holds a copy will do.
func (d *draft) newHome(kept []volume.NodeID, holders []volume.Holder) (volume.NodeID, bool) {
	usable := func(s *site) bool {
		return s.joining < d.set.JoinsAtOnce && !d.blocked(s.ID, &d.next) && !slices.ContainsFunc(holders, func(h volume.Holder) bool { return h.Node == s.ID })
	}
	for _, node := range d.remade {
		s := d.byID[node]
		if s != nil && s.room(d.next.Spec.Disk) && usable(s) && !slices.Contains(kept, node) && d.fits(d.next.Spec.Placement, append(slices.Clip(kept), node)) {
			return node, true
		}
	}
	for _, src := range d.next.Sources {
		s := d.byID[src.Node]
		if s != nil && s.open() && usable(s) && !slices.Contains(kept, src.Node) && d.fits(d.next.Spec.Placement, append(slices.Clip(kept), src.Node)) {
			return src.Node, true
		}
	}
	return d.extend(d.next.Volume, d.next.Spec, kept, usable)
}

// trim takes out what is more than was asked for, once enough copies that stay
// are in sync and there: copies away for long first, those being drained, and such
// as still join, then any but the primary. A primary that is being drained goes
// once it has handed over, which its own node sees to, so that no write is cut off.
func (d *draft) trim() {
	want := d.next.Spec.Placement.Copies()
	stay := 0
	for _, h := range d.next.InSync {
		if d.live(h) && !d.leaving(d.vol, h) {
			stay++
		}
	}
	if stay < want || len(d.next.InSync)+len(d.next.Joining) <= want {
		return
	}
	surplus := func(h volume.Holder) bool {
		switch {
		case h.Node == d.next.Primary:
			return false
		case d.overdue(h), d.leaving(d.vol, h):
			d.because("%s and is not needed any more", d.whyGone(h))
			return true
		case slices.Contains(d.next.Joining, h):
			d.because("node %s is not needed any more", h.Node)
			return true
		}
		return false
	}
	d.next.InSync = slices.DeleteFunc(d.next.InSync, surplus)
	d.next.Joining = slices.DeleteFunc(d.next.Joining, surplus)
	for i := len(d.next.InSync) - 1; i >= 0 && stay > want; i-- {
		h := d.next.InSync[i]
		rest := slices.Delete(slices.Clone(d.next.InSync), i, i+1)
		if h.Node == d.next.Primary || !d.live(h) || !d.fits(d.next.Spec.Placement, nodesOf(rest)) {
			continue
		}
		d.because("one copy more than asked for; the one on node %s goes", h.Node)
		d.next.InSync = rest
		stay--
	}
}

func nodesOf(hs []volume.Holder) (ids []volume.NodeID) {
	for _, h := range hs {
		ids = append(ids, h.Node)
	}
	return ids
}

// full closes a volume to new ids when it has reached its limit, and for as long
// as the disk of a copy has no room.
func (d *draft) full() {
	switch room := d.vol.room(); {
	case d.next.State == volume.StateOpen && room < 0:
		d.next.State = volume.StateNoRoom
		d.because("the disk of a copy is full")
	case d.next.State == volume.StateNoRoom && room > 0:
		d.next.State = volume.StateOpen
		d.because("all of its copies can take new files again")
	}
	if d.next.State == volume.StateOpen && d.over(d.vol) {
		d.next.State = volume.StateFull
		d.because("its file has reached the limit of %d bytes", d.set.VolumeLimit)
	}
}

func (d *draft) step() (Step, bool) {
	e := d.vol.Entry
	if len(d.reasons) == 0 {
		return Step{}, false
	}
	return Step{Volume: e.Volume, Change: &catalog.Change{Version: e.Version, Next: d.next, Renew: d.renew}, Reason: strings.Join(d.reasons, "; ")}, true
}

// Drops says which of the copies that a node reports it may delete (rule R14):
// those of deleted volumes, which it sets aside if they were forgotten, and those that an entry with enough copies in sync
// does not name. entry gives the newest entry of a volume. The node checks again
// before it deletes.
func Drops(strays []Stray, entry func(volume.ID) (*volume.Entry, bool)) []volume.Drop {
	var out []volume.Drop
	for _, s := range strays {
		r := s.Report
		if r.Copy == 0 {
			continue // files of SeaweedFS are never deleted
		}
		if s.Deleted {
			out = append(out, volume.Drop{Volume: r.Volume, Copy: r.Copy, Deleted: !s.Forgotten, Forgotten: s.Forgotten})
			continue
		}
		e, ok := entry(r.Volume)
		if !ok || e.Unsure || e.State == volume.StateNew || len(e.InSync) < e.Spec.Placement.Copies() {
			continue
		}
		if h, _, ok := e.Holder(s.Node); ok && h.Copy == r.Copy {
			continue
		}
		out = append(out, volume.Drop{Volume: r.Volume, Copy: r.Copy, Epoch: e.Epoch, Keep: e.InSync})
	}
	slices.SortFunc(out, func(a, b volume.Drop) int {
		return cmp.Or(cmp.Compare(a.Volume, b.Volume), cmp.Compare(a.Copy, b.Copy))
	})
	return out
}
