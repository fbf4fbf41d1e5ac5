package leader

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"weedd/cluster"
	"weedd/cluster/catalog"
	"weedd/cluster/placement"
	"weedd/volume"
)

// view renders what the leader knows, for people and for GET /cluster/view.
func (t *term) view() cluster.View {
	now := time.Now()
	cat, _ := t.opt.Log.Catalog()
	pv := t.topo.View(cat, now)
	v := cluster.View{ClusterID: cat.ClusterID(), Leader: cluster.ViewLeader{ID: t.opt.Self}, Nodes: t.topo.Nodes(now)}
	if t.opt.Masters != nil {
		v.Masters, v.Term = t.opt.Masters()
	}
	for _, m := range v.Masters {
		if m.ID == t.opt.Self {
			v.Leader.Address = m.Address
		}
	}
	alive := map[volume.NodeID]bool{}
	for _, n := range v.Nodes {
		alive[n.ID] = n.Alive
	}
	for _, vol := range pv.Volumes {
		v.Volumes = append(v.Volumes, viewVolume(vol))
		if p, ok := volumeProblem(vol, alive); ok {
			v.Problems = append(v.Problems, p)
		}
		for _, c := range vol.Copies {
			v.Problems = append(v.Problems, damageProblems(c.Node, c.Report)...)
		}
	}
	for _, s := range pv.Strays {
		v.Problems = append(v.Problems, damageProblems(s.Node, s.Report)...)
		switch {
		case s.Report.Copy == 0 && adoptedFrom(cat, s):
			v.Problems = append(v.Problems, info("volume %d: the files of SeaweedFS on node %s are in the cluster's volume now, and are not needed any more", s.Report.Volume, s.Node))
		case s.Report.Copy == 0:
			v.Problems = append(v.Problems, info("volume %d on node %s is not of this cluster: %s", s.Report.Volume, s.Node, cmp.Or(s.Report.Reason, "served for reads")))
		case !s.Deleted:
			v.Problems = append(v.Problems, warn("volume %d: the copy %s on node %s is not in the catalog", s.Report.Volume, s.Report.Copy, s.Node))
		}
	}
	t.progress.look(pv, t.opt.Placement, cat.Drains(), now) // or a new leader would show no drain at first
	v.Repair, v.Drains = t.progress.shown()
	v.Problems = append(v.Problems, t.keptProblems()...)
	v.Problems = append(v.Problems, nodeProblems(v.Nodes, v.Drains)...)
	v.Problems = append(v.Problems, drainProblems(v.Drains)...)
	if n, why := placement.Unsure(pv, t.opt.Placement); n > 0 {
		v.Problems = append(v.Problems, fail("%d volumes wait since the masters were recovered: %s", n, why))
	}
	v.Problems = append(v.Problems, masterProblems(v.Masters)...)
	slices.SortStableFunc(v.Problems, func(a, b cluster.ViewProblem) int { return cmp.Compare(a.Rank(), b.Rank()) })
	return v
}

func viewVolume(vol placement.Volume) cluster.ViewVolume {
	out := cluster.ViewVolume{Entry: *vol.Entry}
	for i, hs := range [][]volume.Holder{vol.Entry.InSync, vol.Entry.Joining} {
		for _, h := range hs {
			c := cluster.ViewCopy{Node: h.Node, InSync: i == 0}
			for _, r := range vol.Copies {
				if r.Node == h.Node {
					c.Report = r.Report
				}
			}
			out.Copies = append(out.Copies, c)
		}
	}
	return out
}

func info(format string, args ...any) cluster.ViewProblem {
	return cluster.ViewProblem{Severity: cluster.SeverityInfo, What: fmt.Sprintf(format, args...)}
}

func warn(format string, args ...any) cluster.ViewProblem {
	return cluster.ViewProblem{Severity: cluster.SeverityWarn, What: fmt.Sprintf(format, args...)}
}

func fail(format string, args ...any) cluster.ViewProblem {
	return cluster.ViewProblem{Severity: cluster.SeverityError, What: fmt.Sprintf(format, args...)}
}

// volumeProblem says what is worst about one volume.
func volumeProblem(vol placement.Volume, alive map[volume.NodeID]bool) (cluster.ViewProblem, bool) {
	e := vol.Entry
	live, bad := 0, ""
	for _, h := range e.InSync {
		switch why := vol.Bad(h); {
		case !alive[h.Node]:
		case why != "":
			bad += fmt.Sprintf("; the copy on node %s is %s", h.Node, why)
		default:
			live++
		}
	}
	asked := e.Spec.Placement.Copies()
	switch {
	case e.Unsure: // one line is for all of them
		return cluster.ViewProblem{}, false
	case e.State == volume.StateNew && e.Adopted():
		return adoptionProblem(vol)
	case e.State == volume.StateNew:
		return cluster.ViewProblem{}, false
	case live == 0:
		return fail("volume %d: none of its %d copies in sync is there; it waits for one of them%s", e.Volume, len(e.InSync), bad), true
	case !alive[e.Primary]:
		return fail("volume %d: node %s, which leads it, is away", e.Volume, e.Primary), true
	case live < e.Spec.Placement.MinCopies():
		return fail("volume %d: %d of %d copies in sync; writing needs %d%s", e.Volume, live, asked, e.Spec.Placement.MinCopies(), bad), true
	case live < asked:
		return warn("volume %d: %d of %d copies in sync, %d joining%s", e.Volume, live, asked, len(e.Joining), bad), true
	case e.State == volume.StateReadOnly:
		return warn("volume %d: %s", e.Volume, vol.WhyReadOnly()), true
	}
	return cluster.ViewProblem{}, false
}

// damageProblems tells of files that a copy has lost: scrubbing found them bad, and
// no other copy could give better bytes.
func damageProblems(node volume.NodeID, r *volume.CopyReport) []cluster.ViewProblem {
	if r == nil || r.Damaged == 0 {
		return nil
	}
	records := "1 record"
	if r.Damaged > 1 {
		records = fmt.Sprintf("%d records", r.Damaged)
	}
	return []cluster.ViewProblem{fail("volume %d: %s of the copy on node %s could not be repaired; /admin/scrub there names them", r.Volume, records, node)}
}

// clockOff is by how much the clock of a node may differ from the leader's.
// Files expire by it.
const clockOff = 10 * time.Second

// drainProblems tells of drains that cannot go on.
func drainProblems(drains []cluster.ViewDrain) (out []cluster.ViewProblem) {
	for _, d := range drains {
		if d.Stuck > 0 {
			out = append(out, warn("drain of %s: %d volumes stay there; %s", catalog.Drain{Node: d.Node, Dir: d.Dir}, d.Stuck, d.Why))
		}
	}
	return out
}

func nodeProblems(nodes []cluster.ViewNode, drains []cluster.ViewDrain) (out []cluster.ViewProblem) {
	for _, n := range nodes {
		drained := slices.ContainsFunc(drains, func(d cluster.ViewDrain) bool { return d.Node == n.ID && d.Dir == "" && d.Work.Copies == 0 })
		if !n.Alive && drained {
			out = append(out, info("volume server %s (%s) is away, and drained", n.ID, cmp.Or(n.URL, "address unknown")))
			continue
		}
		if !n.Alive {
			out = append(out, fail("volume server %s (%s) is away", n.ID, cmp.Or(n.URL, "address unknown")))
			continue
		}
		if !n.Ready {
			out = append(out, warn("volume server %s (%s) is not ready", n.ID, n.URL))
		}
		if off := time.Duration(n.ClockMS) * time.Millisecond; off.Abs() > clockOff {
			out = append(out, warn("volume server %s (%s): its clock is off by %v", n.ID, n.URL, off.Round(time.Second)))
		}
		for _, d := range n.Disks {
			switch {
			case d.Missing:
				out = append(out, fail("volume server %s: directory %s is missing", n.ID, d.Dir))
			case d.Full:
				out = append(out, warn("volume server %s: nothing new is put into %s: %s", n.ID, d.Dir, d.Fenced))
			case d.Fenced != "":
				out = append(out, fail("volume server %s: nothing is written to %s: %s", n.ID, d.Dir, d.Fenced))
			}
		}
		out = append(out, asideProblems(n)...)
	}
	return out
}

// asideProblems names the volumes that are set aside. What was moved is kept for an
// operator to look at, and may be nowhere else; one line is for all of it.
func asideProblems(n cluster.ViewNode) (out []cluster.ViewProblem) {
	moved := 0
	var last volume.SetAside
	for _, a := range n.Aside {
		if a.Moved {
			moved, last = moved+1, a
			continue
		}
		out = append(out, fail("volume server %s: %s is set aside: %s", n.ID, a.Path, a.Reason))
	}
	switch {
	case moved == 1:
		out = append(out, warn("volume server %s: %s is set aside: %s", n.ID, last.Path, last.Reason))
	case moved > 1:
		out = append(out, warn("volume server %s: %d folders of files that are not served are set aside, for you to look at and delete; one of them is %s: %s", n.ID, moved, last.Path, last.Reason))
	}
	return out
}

func masterProblems(masters []cluster.ViewMaster) (out []cluster.ViewProblem) {
	for _, m := range masters {
		if !m.Alive {
			out = append(out, fail("master %s (%s) is away", m.ID, m.Address))
		}
	}
	return out
}
