package placement

import (
	"fmt"
	"slices"
	"strings"

	"weedd/cluster"
	"weedd/volume"
)

// Forget tells what ends with the volumes ids, by rising id: an operator says that
// every copy of them is lost for good. It is refused, with a reason for each, for those
// that are not there, that may have a copy on a node that is there, or that are given
// up anyhow.
func Forget(v View, ids []volume.ID) (out []cluster.Explanation, err error) {
	p := newPlan(v, Settings{})
	err = eachNamed(v, ids, func(vol *Volume) (why string) {
		if why = p.mayHave(vol); why == "" {
			out = append(out, p.explain(vol, &Step{Volume: vol.Entry.Volume, Reason: p.givenUp(vol)}))
		}
		return why
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// mayHave says why vol may not be forgotten; "" if no node that is there has a copy.
func (p *plan) mayHave(vol *Volume) string {
	e := vol.Entry
	fresh := e.State == volume.StateNew && !e.Unsure
	if fresh && !e.Adopted() {
		return "it is new and has no files; the masters open it or give it up by themselves"
	}
	for _, s := range p.all {
		if s.Alive && !s.Told {
			return fmt.Sprintf("node %s is there and has not told yet what it has; wait for it, or stop it", s.ID)
		}
	}
	for _, h := range e.InSync {
		if p.alive(h) && !vol.lost(h) {
			return fmt.Sprintf("node %s is there, and its copy in sync is %s; to give that up too, stop the daemon there first", h.Node, p.stateOf(vol, h))
		}
	}
	strays := slices.Clone(p.strays[e.Volume])
	for _, c := range vol.Copies {
		strays = append(strays, Stray{Node: c.Node, Report: c.Report})
	}
	for _, s := range strays {
		r := s.Report
		is := r.State != volume.CopyLost && !r.Blocked && (r.Copy != 0 || fresh) // files of SeaweedFS are what one that is fresh is made of
		if is && p.alive(volume.Holder{Node: s.Node}) {
			return fmt.Sprintf("node %s is there and has a copy of it, which is %s: weedd promote may go on with that; to give it up too, stop the daemon there first", s.Node, r.State)
		}
	}
	return ""
}

// givenUp says what is lost with vol, as far as it is known.
func (p *plan) givenUp(vol *Volume) string {
	var copies []string
	for _, h := range vol.Entry.InSync {
		copies = append(copies, fmt.Sprintf("the copy on node %s (%s)", h.Node, p.stateOf(vol, h)))
	}
	had := "what it had is not known"
	var last volume.CopyReport
	for _, c := range vol.Copies {
		if c.Report.Size > last.Size {
			last = *c.Report
			had = fmt.Sprintf("it had %d files, %d bytes, when that was last reported", last.Files-last.Deleted, last.Size)
		}
	}
	return fmt.Sprintf("all is given up for lost, with %s; %s", strings.Join(copies, " and "), had)
}
