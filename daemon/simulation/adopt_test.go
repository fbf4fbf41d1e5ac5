package simulation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"weedd/cluster/catalog"
	"weedd/cluster/placement"
	"weedd/volume"
	"weedd/volume/store"
)

const (
	surveyWait = 200 * ms // for what other nodes have
	adoptWait  = 300 * ms // for copies on other nodes to be reported
	adoptAgain = 100 * ms
)

// adoption is an order to make a copy of ours out of files of SeaweedFS.
type adoption struct {
	entry    volume.Entry
	due      time.Duration
	underWay bool
	never    bool
}

// adoptLater, adopt and what they call do what package server does (rules R15, R16).
func (n *node) adoptLater(e volume.Entry, h volume.Holder) {
	switch v := n.disks[e.Volume].volume(); {
	case v != nil && !v.Foreign() && n.ledger.Ordered(e.Volume, v.CopyID()):
		delete(n.adopting, e.Volume)
		delete(n.lost, e.Volume)
		return
	case v == nil || !v.Foreign():
		n.lost[e.Volume] = volume.CopyReport{Volume: e.Volume, Copy: h.Copy, State: volume.CopyFailed, Reason: "the files to be adopted are not here"}
		return
	case n.ledger.Made(e.Volume, h.Copy):
		n.loseAdoption(e, errors.New("it was stopped in the last step"))
		return
	}
	if was := n.adopting[e.Volume]; was == nil || was.entry.Version < e.Version {
		n.adopting[e.Volume] = &adoption{entry: e}
	}
}

// adoptNext begins the adoptions that are due.
func (n *node) adoptNext() {
	for _, id := range slices.Sorted(maps.Keys(n.adopting)) {
		if a := n.adopting[id]; !a.underWay && !a.never && a.due <= n.w.now && !n.dying {
			a.underWay = true
			n.adopt(a)
		}
	}
}

func (n *node) adopt(a *adoption) {
	v := n.disks[a.entry.Volume].volume()
	sources, err := n.sources(a.entry, v)
	if err != nil {
		n.adopted(a, err)
		return
	}
	own, err := v.Survey(context.Background())
	if err != nil {
		n.adopted(a, err)
		return
	}
	surveys := make([][]store.SurveyRow, len(sources))
	surveys[0] = own.Rows
	missing, over := len(sources)-1, false
	end := func() {
		if !over && missing == 0 {
			over = true
			n.after(n.w.between(0, 5*ms), func() { n.adopted(a, n.merge(a, v, own, surveys, sources)) })
		}
	}
	for i, src := range sources[1:] {
		n.askSurvey(a.entry.Volume, src, func(rows []store.SurveyRow) {
			if surveys[i+1] == nil {
				surveys[i+1] = rows
				missing--
			}
			end()
		})
	}
	end()
	n.after(surveyWait, func() {
		if !over {
			over = true
			n.adopted(a, fmt.Errorf("%w: other nodes do not say what they have", volume.ErrUnavailable))
		}
	})
}

// sources lists the origins that e names, the one here first.
func (n *node) sources(e volume.Entry, v *store.Volume) ([]volume.Source, error) {
	rep, ok := n.foreign(e.Volume)
	own := volume.Source{Node: n.id, Print: rep.Print()}
	if v == nil || !ok || !slices.Contains(e.Sources, own) {
		return nil, fmt.Errorf("%w: the files here are not those that were reported", volume.ErrStale)
	}
	return append([]volume.Source{own}, slices.DeleteFunc(slices.Clone(e.Sources), func(s volume.Source) bool { return s == own })...), nil
}

// askSurvey asks another node what it has.
func (n *node) askSurvey(id volume.ID, src volume.Source, heard func([]store.SurveyRow)) {
	there := n.w.node(src.Node)
	n.carry(src.Node, func() {
		there.after(0, func() {
			rep, ok := there.foreign(id)
			if !ok || rep.Print() != src.Print {
				return
			}
			if survey, err := there.disks[id].volume().Survey(context.Background()); err == nil {
				there.carry(n.id, func() { n.after(0, func() { heard(slices.Clip(survey.Rows)) }) })
			}
		})
	})
}

// merge makes the copy that a orders. The records of other nodes are had at once, or
// not at all.
func (n *node) merge(a *adoption, v *store.Volume, own *store.Survey, surveys [][]store.SurveyRow, sources []volume.Source) error {
	e := a.entry
	h, _, _ := e.Holder(n.id)
	if n.disks[e.Volume].volume() != v {
		return volume.ErrStale
	}
	picks, _, err := store.Merge(surveys...)
	if err != nil {
		return err
	}
	fresh, err := n.disks[e.Volume].store.Adopt(context.Background(), e.Volume, store.Adoption{
		Copy: h.Copy, Spec: e.Spec, Generation: e.Generation, Survey: own, Picks: picks,
		Begin: func() error {
			if now := n.adopting[e.Volume]; now == nil || now.entry.Version != e.Version {
				return fmt.Errorf("%w: the order was replaced", volume.ErrStale)
			}
			n.w.begun(n.id, e.Volume)
			n.w.madeFrom[h.Copy] = sources
			return n.ledger.Make(e.Volume, h.Copy, e.Version)
		},
		Fetch: func(_ context.Context, p store.Pick) ([]byte, error) {
			return n.fetch(e.Volume, sources[p.Source], p.SurveyRow)
		},
	})
	if err != nil || n.dying {
		return err
	}
	n.w.trace("%s adopts volume %d as copy %d from %d origins", n.id, e.Volume, h.Copy, len(sources))
	n.w.adopted(e.Volume, n.disks[e.Volume])
	n.disks[e.Volume].agreed, n.disks[e.Volume].kept = 0, 0
	if err := n.ledger.Forget(e.Volume, e.Version, h.Copy); err != nil {
		n.w.trace("%s: %v", n.id, err)
	}
	delete(n.lost, e.Volume)
	if now := n.adopting[e.Volume]; now != nil && now.entry.Version > e.Version {
		e = now.entry
	}
	n.run(fresh).learn(e)
	return nil
}

// fetch reads a record of another node's.
func (n *node) fetch(id volume.ID, src volume.Source, row store.SurveyRow) ([]byte, error) {
	there, w := n.w.node(src.Node), n.w
	rep, ok := there.foreign(id)
	switch {
	case !there.up || there.dying || there.froze > w.now || w.cut[link{n.id, src.Node}] || w.cut[link{src.Node, n.id}] || w.chance(w.drop):
		return nil, volume.ErrUnavailable
	case !ok || rep.Print() != src.Print:
		return nil, volume.ErrStale
	}
	return there.disks[id].volume().SurveyedRecord(row)
}

// adopted ends an attempt.
func (n *node) adopted(a *adoption, err error) {
	if n.dying {
		return
	}
	id := a.entry.Volume
	if v := n.disks[id].volume(); err != nil && v != nil && !v.Foreign() {
		err = nil // by an older order
	}
	current := n.adopting[id] == a
	a.underWay = false
	switch {
	case err == nil && current:
		delete(n.adopting, id)
	case err != nil:
		n.w.trace("%s does not adopt volume %d: %v", n.id, id, err)
		h, _, _ := a.entry.Holder(n.id)
		a.due = n.w.now + adoptAgain
		a.never = errors.Is(err, volume.ErrExists) || errors.Is(err, volume.ErrCorrupt) || n.ledger.Made(id, h.Copy)
		if current {
			n.loseAdoption(a.entry, err)
		}
	}
}

// loseAdoption reports that a volume could not be adopted, with what is there of it.
func (n *node) loseAdoption(e volume.Entry, why error) {
	h, _, _ := e.Holder(n.id)
	rep, _ := n.foreign(e.Volume)
	rep.Volume, rep.Copy, rep.State, rep.Reason = e.Volume, h.Copy, volume.CopyFailed, why.Error()
	if n.ledger.Made(e.Volume, h.Copy) {
		rep.State = volume.CopyLost
	}
	n.lost[e.Volume] = rep
}

// madeFrom reports whether the files of SeaweedFS here are in the volume of e.
func (n *node) madeFrom(e volume.Entry) bool {
	rep, ok := n.foreign(e.Volume)
	return ok && e.From(n.id, rep.Print())
}

func (w *world) begun(node volume.NodeID, id volume.ID) {
	for _, o := range w.origins[id] {
		o.begun = o.begun || o.node == node
	}
}

// namesAll reports whether a reason names every key.
func namesAll(reason string, keys []volume.Key) bool {
	return !slices.ContainsFunc(keys, func(k volume.Key) bool { return !strings.Contains(reason, fmt.Sprintf("key %x:", uint64(k))) })
}

// adopt proposes what package placement makes of the files of SeaweedFS that are
// reported.
func (l *leader) adopt() {
	view, w := l.view(), l.w
	for _, s := range view.Strays {
		if id := s.Report.Volume; s.Report.Copy == 0 && l.seen[id] == 0 {
			l.seen[id] = w.now
		}
	}
	waited := func(id volume.ID) time.Duration { return w.now - l.seen[id] }
	for _, a := range placement.Adoptions(view, waited, placement.Settings{RepairAfter: 3 * deadAfter, AdoptWait: adoptWait}) {
		if a.Adopt == nil || w.now < l.planned[a.Volume] {
			continue
		}
		l.planned[a.Volume] = w.now + adoptAgain
		cmd := *a.Adopt
		if cmd.Holder.Copy == 0 {
			cmd.Holder.Copy = w.newCopyID()
		}
		w.after(w.between(ms, 15*ms)+l.hold, func() { w.commit(catalog.Command{Adopt: &cmd}) })
	}
}

// view is what the leader sees of nodes and of copies that are not explained.
func (l *leader) view() (v placement.View) {
	cat := l.w.catalog()
	for _, e := range cat.Volumes() {
		v.Volumes = append(v.Volumes, placement.Volume{Entry: e})
	}
	for _, n := range l.w.nodes {
		alive := l.alive(n.id)
		s := placement.Node{Node: volume.Node{ID: n.id}, Alive: alive, Ready: alive}
		if !alive {
			s.Away = l.silent(n.id)
		}
		v.Nodes = append(v.Nodes, s)
		if l.heard[n.id] == nil {
			continue
		}
		for _, c := range l.heard[n.id].copies {
			e, ok := cat.Volume(c.Volume)
			named := false
			if ok {
				var h volume.Holder
				h, _, named = e.Holder(n.id)
				i := slices.IndexFunc(v.Volumes, func(vol placement.Volume) bool { return vol.Entry == e })
				if named {
					v.Volumes[i].Copies = append(v.Volumes[i].Copies, placement.Copy{Node: n.id, Report: &c})
				}
				named = named && h.Copy == c.Copy
			}
			if !named && c.State != volume.CopyLost && !c.Blocked {
				v.Strays = append(v.Strays, placement.Stray{Node: n.id, Report: &c, Deleted: !ok && cat.Deleted(c.Volume)})
			}
		}
	}
	return v
}

// settleAdopted gives an adopted volume free for use once its first copy is there.
func (l *leader) settleAdopted(e volume.Entry) (volume.Entry, bool) {
	h := e.InSync[0]
	if !l.alive(h.Node) || l.state(e.Volume, h) != volume.CopyHealthy {
		return e, false
	}
	e.State = volume.StateFull
	return e, true
}

// blocked reports whether a node has files of SeaweedFS that the volume was not
// made from.
func (l *leader) blocked(node volume.NodeID, e volume.Entry) bool {
	rep := l.heard[node]
	return rep != nil && slices.ContainsFunc(rep.copies, func(c volume.CopyReport) bool {
		return c.Volume == e.Volume && c.Copy == 0 && !e.From(node, c.Print())
	})
}

// outside reports whether what is shown is of SeaweedFS and in a copy that was adopted
// by an order that was replaced: such a copy shows what its node had, as before, until
// it is dropped. Nobody was told that it is in the volume.
func (r *run) outside(shows record) bool {
	w := r.node.w
	h, _, named := w.entry(r.id).Holder(r.self.Node)
	if named && h == r.self {
		return false
	}
	return slices.ContainsFunc(w.madeFrom[r.self.Copy], func(s volume.Source) bool {
		return slices.ContainsFunc(w.origins[r.id], func(o *origin) bool {
			return o.node == s.Node && o.newest[shows.key].record == shows
		})
	})
}
