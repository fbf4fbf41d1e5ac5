package simulation

import (
	"slices"
	"time"

	"weedd/cluster/catalog"
	"weedd/cluster/placement"
	"weedd/volume"
)

const deadAfter = 200 * ms

// leader makes the decisions that a leader of masters makes, on what it hears,
// which is late and incomplete. What it decides is proposed, and lands some time
// later on the catalog of then.
type leader struct {
	w       *world
	heard   map[volume.NodeID]*heard
	up      bool
	settles bool // makes decisions of its own; it answers questions in any case
	hold    time.Duration
	deafTo  volume.AskKind              // a kind of question that it does not hear
	seen    map[volume.ID]time.Duration // since when there are files of SeaweedFS
	planned map[volume.ID]time.Duration // when their adoption may be planned anew
}

// report is what a node says of itself; heard is the last of them.
type report struct {
	life   int
	copies []volume.CopyReport
}

type heard struct {
	report
	at time.Duration
}

// hear takes a heartbeat, and answers with the newest entries.
func (l *leader) hear(n *node, rep report) {
	if !l.up {
		return
	}
	if old := l.heard[n.id]; old != nil && old.life > rep.life {
		return
	}
	l.heard[n.id] = &heard{rep, l.w.now}
	cat := l.w.catalog()
	var strays []placement.Stray
	for _, c := range rep.copies {
		l.obeyed(n.id, c)
		if h, _, named := l.w.entry(c.Volume).Holder(n.id); !named || h.Copy != c.Copy {
			strays = append(strays, placement.Stray{Node: n.id, Report: &c, Deleted: cat.Deleted(c.Volume)})
		}
	}
	drops := placement.Drops(strays, cat.Volume)
	l.w.carry("", n.id, func() {
		n.after(0, func() {
			for _, e := range cat.Volumes() {
				n.obey(*e)
			}
			for _, d := range drops {
				n.drop(d)
			}
		})
	})
}

func (l *leader) alive(id volume.NodeID) bool {
	h := l.heard[id]
	return h != nil && l.w.now-h.at < deadAfter
}

func (l *leader) silent(id volume.NodeID) time.Duration {
	if h := l.heard[id]; h != nil {
		return l.w.now - h.at
	}
	return 0
}

// state is what the node of a copy says of it, "" when it has said nothing yet.
func (l *leader) state(id volume.ID, h volume.Holder) volume.CopyState {
	rep := l.heard[h.Node]
	if rep == nil {
		return ""
	}
	for _, c := range rep.copies {
		if c.Volume == id && c.Copy == h.Copy {
			return c.State
		}
	}
	return ""
}

func (l *leader) bad(id volume.ID, h volume.Holder) bool {
	s := l.state(id, h)
	return s == volume.CopyLost || s == volume.CopyFailed
}

// propose lands next on the catalog later, if the entry is as it was then.
func (l *leader) propose(e volume.Entry, next volume.Entry, by volume.Holder, renew bool, done func()) {
	l.w.after(l.w.between(ms, 15*ms)+l.hold, func() {
		l.w.commit(catalog.Command{Change: &catalog.Batch{Changes: []catalog.Change{{Version: e.Version, Next: next, By: by, Renew: renew}}}})
		done()
	})
}

func ignore() {}

func without(hs []volume.Holder, gone ...volume.Holder) []volume.Holder {
	return slices.DeleteFunc(slices.Clone(hs), func(h volume.Holder) bool { return slices.Contains(gone, h) })
}

// answer decides on a copy's question and replies with the entry in force after.
func (l *leader) answer(a volume.Ask, reply func(volume.Entry)) {
	if !l.up || a.Kind == l.deafTo {
		return
	}
	e := l.w.entry(a.Volume)
	next, ok := l.granted(e, a)
	if !ok {
		reply(e)
		return
	}
	l.propose(e, next, a.From, a.Kind == volume.AskLead, func() { reply(l.w.entry(a.Volume)) })
}

func (l *leader) granted(e volume.Entry, a volume.Ask) (next volume.Entry, ok bool) {
	next = e
	switch {
	case a.Epoch != e.Epoch || !slices.Contains(e.InSync, a.From):
		return e, false
	case a.Kind == volume.AskLead:
		next.Primary = a.From.Node
		return next, true
	case e.Primary != a.From.Node:
		return e, false
	case a.Kind == volume.AskRemove:
		next.InSync = without(e.InSync, a.Copies...)
		next.Joining = append(without(e.Joining, a.Copies...), without(e.InSync, next.InSync...)...)
		next.InSync, next.Joining = without(next.InSync, a.Replace...), without(next.Joining, a.Replace...)
		fewer := len(next.InSync)+len(next.Joining) < len(e.InSync)+len(e.Joining)
		return next, (fewer || len(next.InSync) < len(e.InSync)) && slices.Contains(next.InSync, a.From)
	case a.Kind == volume.AskAdd:
		add := slices.DeleteFunc(slices.Clone(a.Copies), func(h volume.Holder) bool { return !slices.Contains(e.Joining, h) })
		next.InSync, next.Joining = slices.Concat(e.InSync, add), without(e.Joining, add...)
		return next, len(add) > 0
	case a.Kind == volume.AskCompact:
		next.Generation = a.Generation
		ready := !slices.ContainsFunc(e.InSync, func(h volume.Holder) bool { return h != a.From && !slices.Contains(a.Copies, h) })
		return next, ready && len(e.Joining) == 0 && a.Generation == e.Generation+1
	case a.Kind == volume.AskYield:
		return l.yielded(e, a)
	}
	return e, false
}

func (l *leader) yielded(e volume.Entry, a volume.Ask) (volume.Entry, bool) {
	others := without(e.InSync, a.From)
	others = slices.DeleteFunc(others, func(h volume.Holder) bool { return !l.alive(h.Node) || l.bad(e.Volume, h) })
	if len(others) == 0 {
		return e, false
	}
	e.Primary = others[l.w.rng.IntN(len(others))].Node
	if a.Failed {
		e.InSync = without(e.InSync, a.From)
	}
	return e, true
}

func (l *leader) tick() {
	if !l.up || !l.settles {
		return
	}
	l.adopt()
	for _, e := range l.w.catalog().Volumes() {
		if next, renew, ok := l.settle(*e); ok {
			l.propose(*e, next, volume.Holder{}, renew, ignore)
		}
	}
}

// settle finds one thing to change about a volume.
func (l *leader) settle(e volume.Entry) (next volume.Entry, renew, ok bool) {
	if e.State == volume.StateNew && e.Adopted() {
		next, ok = l.settleAdopted(e)
		return next, false, ok
	}
	if l.w.chance(l.w.whims) {
		return l.whim(e)
	}
	if e.State == volume.StateNew {
		next, ok = l.open(e)
		return next, false, ok
	}
	if next, ok = l.mark(e); ok {
		return next, next.State == volume.StateReadOnly, true
	}
	for _, f := range []func(volume.Entry) (volume.Entry, bool){l.succeed, l.dropBad, l.trim, l.fill} {
		if next, ok = f(e); ok {
			return next, false, true
		}
	}
	return e, false, false
}

// open opens a new volume when every holder has its copy, and goes on without
// those that cannot have one: nothing was acknowledged yet.
func (l *leader) open(e volume.Entry) (volume.Entry, bool) {
	var ready, gone []volume.Holder
	for _, h := range e.InSync {
		switch {
		case l.state(e.Volume, h) == volume.CopyHealthy && l.alive(h.Node):
			ready = append(ready, h)
		case l.bad(e.Volume, h), l.silent(h.Node) > 2*deadAfter:
			gone = append(gone, h)
		}
	}
	switch {
	case len(ready) == len(e.InSync):
		e.State = volume.StateOpen
		return e, true
	case len(gone) > 0 && len(ready) > 0:
		e.InSync = without(e.InSync, gone...)
		if _, inSync, _ := e.Holder(e.Primary); !inSync {
			e.Primary = ready[0].Node
		}
		return e, true
	}
	return e, false
}

// succeed names another primary when the old one seems to be dead or useless.
func (l *leader) succeed(e volume.Entry) (volume.Entry, bool) {
	primary, _, _ := e.Holder(e.Primary)
	if l.alive(e.Primary) && !l.bad(e.Volume, primary) {
		return e, false
	}
	var able []volume.Holder
	for _, h := range e.InSync {
		if h != primary && l.alive(h.Node) && l.state(e.Volume, h) == volume.CopyHealthy {
			able = append(able, h)
		}
	}
	if len(able) == 0 {
		return e, false // rule R7: it waits
	}
	e.Primary = able[l.w.rng.IntN(len(able))].Node
	switch {
	case l.bad(e.Volume, primary):
		e.InSync = without(e.InSync, primary)
	case l.w.chance(0.5):
		e.InSync = without(e.InSync, primary)
		e.Joining = append(slices.Clip(e.Joining), primary)
	}
	return e, true
}

// dropBad takes out copies that are of no more use.
func (l *leader) dropBad(e volume.Entry) (volume.Entry, bool) {
	for _, h := range e.InSync {
		if h.Node != e.Primary && l.bad(e.Volume, h) {
			e.InSync = without(e.InSync, h)
			return e, true
		}
	}
	for _, h := range e.Joining {
		if l.bad(e.Volume, h) || l.silent(h.Node) > 3*deadAfter {
			e.Joining = without(e.Joining, h)
			return e, true
		}
	}
	return e, false
}

// trim takes one copy out where there are too many, and never the primary.
func (l *leader) trim(e volume.Entry) (volume.Entry, bool) {
	if len(e.InSync) <= e.Spec.Placement.Copies() {
		return e, false
	}
	for _, h := range e.InSync {
		if h.Node != e.Primary {
			e.InSync = without(e.InSync, h)
			return e, true
		}
	}
	return e, false
}

// fill has another copy join where there are too few.
func (l *leader) fill(e volume.Entry) (volume.Entry, bool) {
	if len(e.InSync)+len(e.Joining) >= e.Spec.Placement.Copies() {
		return e, false
	}
	return l.join(e)
}

func (l *leader) join(e volume.Entry) (volume.Entry, bool) {
	var free []volume.NodeID
	for _, n := range l.w.nodes {
		if _, _, named := e.Holder(n.id); !named && l.alive(n.id) && !l.blocked(n.id, e) {
			free = append(free, n.id)
		}
	}
	if len(free) == 0 {
		return e, false
	}
	h := volume.Holder{Node: free[l.w.rng.IntN(len(free))], Copy: l.w.newCopyID()}
	e.Joining = append(slices.Clip(e.Joining), h)
	return e, true
}

// whim is a decision without a reason. The rules must hold all the same.
func (l *leader) whim(e volume.Entry) (next volume.Entry, renew, ok bool) {
	others := slices.DeleteFunc(slices.Clone(e.InSync), func(h volume.Holder) bool { return h.Node == e.Primary })
	switch l.w.rng.IntN(5) {
	case 0:
		return e, true, true
	case 1:
		next, ok = l.join(e)
		return next, false, ok
	case 2:
		if len(e.Joining) > 0 {
			e.Joining = e.Joining[1:]
			return e, false, true
		}
	case 3:
		if len(others) > 0 {
			e.Primary = others[l.w.rng.IntN(len(others))].Node
			return e, false, true
		}
	case 4:
		if len(others) > 0 {
			h := others[l.w.rng.IntN(len(others))]
			e.InSync, e.Joining = without(e.InSync, h), append(slices.Clip(e.Joining), h)
			return e, false, true
		}
	}
	return e, false, false
}
