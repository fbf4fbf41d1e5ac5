// Package topology keeps the leader's observations: the last report of every
// volume server and whether it is alive. Joined with a catalog they make the
// placement.View that decisions are planned on.
//
// It has no clock, no goroutine and no network: now is an argument. A Map lives
// as long as a term of leadership, may be used from anywhere at once, and holds
// its lock for no longer than it takes to copy.
package topology

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"weedd/cluster"
	"weedd/cluster/catalog"
	"weedd/cluster/placement"
	"weedd/volume"
)

// Settings are the times that decide who counts as alive. The zero value means
// the defaults.
type Settings struct {
	Silence time.Duration // without a word for so long, gossip is believed that a node is dead; default 1 s
	Warmup  time.Duration // how long a node that gossip has not met may take to come to a new leader; default 1.5 s
	Frozen  time.Duration // without a word for so long, a node is dead whatever gossip says; default 10 s
}

// Map is the observations of one term.
type Map struct {
	set     Settings
	started time.Time

	mu      sync.Mutex
	nodes   map[volume.NodeID]*node
	streams uint64                        // counts streams, to give them ids
	passing map[volume.ID]passing         // volumes in a state that does not last
	unfit   map[volume.ID][]volume.Holder // what Condemn was told
}

// passing is since when a volume has been seen in a state.
type passing struct {
	state volume.State
	since time.Time
}

// node is what is known of one volume server.
type node struct {
	info     cluster.Node // as gossip had it last
	stream   uint64       // id of its heartbeat stream, 0 for none
	had      bool         // it had a stream in this term
	heard    time.Time    // last report, or other message of its own
	answered time.Time    // last successful probe
	refused  bool         // its port was closed at the last probe, and nothing was heard since
	missed   int          // probes in a row that it left without an answer
	away     time.Time    // since when it is not alive; zero while it is
	lost     bool         // see Lose; only while it is away
	reported time.Time    // last report
	known    bool         // a full report has come
	copies   map[volume.ID]*volume.CopyReport
	blocked  []volume.ID // volumes of which it can have no copy
	disks    []volume.DiskReport
	aside    []volume.SetAside
	build    string
	clock    time.Duration // what its clock was ahead of this one at its last report; at most that
}

// New makes the Map of a term that began at now.
func New(set Settings, now time.Time) *Map {
	set.Silence = cmp.Or(set.Silence, time.Second)
	set.Warmup = cmp.Or(set.Warmup, 1500*time.Millisecond)
	set.Frozen = cmp.Or(set.Frozen, 10*time.Second)
	return &Map{set: set, started: now, nodes: map[volume.NodeID]*node{},
		passing: map[volume.ID]passing{}, unfit: map[volume.ID][]volume.Holder{}}
}

func (m *Map) nodeLocked(id volume.NodeID) *node {
	n := m.nodes[id]
	if n == nil {
		n = &node{info: cluster.Node{ID: id}, copies: map[volume.ID]*volume.CopyReport{}}
		m.nodes[id] = n
	}
	return n
}

// Members takes in what gossip says. Who is missing from the list is not alive;
// what was known of it stays known.
func (m *Map) Members(members []cluster.Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.nodes {
		n.info.Alive = false
	}
	for _, info := range members {
		if info.Roles&cluster.RoleVolume != 0 || m.nodes[info.ID] != nil {
			m.nodeLocked(info.ID).info = info
		}
	}
}

// Attach begins the heartbeat stream of a node. An older stream of the same
// node counts for nothing from now on.
func (m *Map) Attach(id volume.NodeID, now time.Time) (stream uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.streams++
	n := m.nodeLocked(id)
	n.stream, n.had, n.known, n.heard, n.refused = m.streams, true, false, now, false
	return n.stream
}

// Detach ends a stream and reports whether the node has none now.
func (m *Map) Detach(id volume.NodeID, stream uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodeLocked(id)
	if n.stream != stream {
		return false // a newer one took its place
	}
	n.stream = 0
	return true
}

// Report takes in one report. It tells whether it says something to act upon at
// once, which growth is not, and whether the stream is still the node's newest;
// else the report was passed over.
func (m *Map) Report(stream uint64, r volume.Report, now time.Time) (news, current bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodeLocked(r.Node)
	if n.stream != stream {
		return false, false
	}
	n.heard, n.reported = now, now
	news = r.Full || len(r.Gone) > 0
	if r.Full {
		n.copies, n.blocked, n.aside, n.known = map[volume.ID]*volume.CopyReport{}, nil, nil, true
	}
	for _, id := range r.Gone {
		delete(n.copies, id)
		n.blocked = slices.DeleteFunc(n.blocked, func(b volume.ID) bool { return b == id })
	}
	for i := range r.Copies {
		c := &r.Copies[i]
		n.blocked = slices.DeleteFunc(n.blocked, func(b volume.ID) bool { return b == c.Volume })
		if c.Blocked {
			n.blocked = append(n.blocked, c.Volume)
		}
		was := n.copies[c.Volume]
		news = news || was == nil || was.Copy != c.Copy || was.State != c.State || was.NoRoom != c.NoRoom || was.Dir != c.Dir
		n.copies[c.Volume] = c
	}
	if r.Disks != nil {
		news = news || !slices.EqualFunc(n.disks, r.Disks, sameRoom)
		n.disks = r.Disks
	}
	if r.Build != "" {
		n.build = r.Build
	}
	if r.Aside != nil {
		n.aside = r.Aside
	}
	if !r.Now.IsZero() {
		n.clock = r.Now.Round(0).Sub(now.Round(0)) // clocks on the wall
	}
	return news, true
}

// sameRoom compares disks by what placement looks at.
func sameRoom(a, b volume.DiskReport) bool {
	return a.Dir == b.Dir && a.Disk == b.Disk && a.Max == b.Max && a.Used == b.Used && a.Fenced == b.Fenced && a.Missing == b.Missing
}

// Heard notes a message of the node that is not a report.
func (m *Map) Heard(id volume.NodeID, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodeLocked(id)
	n.heard, n.refused = now, false
}

// Refused notes that the node's port was closed when it was probed, by a probe
// that began at began. What was heard later than that counts for more. It tells
// whether this is news.
func (m *Map) Refused(id volume.NodeID, began time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodeLocked(id)
	if n.refused || n.stream != 0 || n.heard.After(began) {
		return false
	}
	n.refused = true
	return true
}

// Node gives what gossip knew last of a node.
func (m *Map) Node(id volume.NodeID) cluster.Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.nodeLocked(id).info
}

// mostMissed is how many probes in a row without an answer say that a node cannot
// be reached from here, whatever it says itself and others say of it.
const mostMissed = 2

// Missed notes that the node did not answer a probe in time. It tells whether that
// is something to act upon. What a node says comes through where nothing gets back
// to it; whoever leads there cannot be told anything.
func (m *Map) Missed(id volume.NodeID) (news bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodeLocked(id)
	n.missed++
	return n.missed == mostMissed
}

// Reached reports whether the node answered the last probe, if there was one.
func (m *Map) Reached(id volume.NodeID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.nodeLocked(id).missed == 0
}

// Answered notes that the node took a connection when it was probed. That is
// less than a word of its own: the kernel of a frozen process answers too.
func (m *Map) Answered(id volume.NodeID, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodeLocked(id)
	n.answered, n.refused, n.missed = now, false, 0
}

// Silent lists the nodes to be probed: those without a stream, and those that left
// the last probe without an answer, of all that gossip or a holder of cat names.
func (m *Map) Silent(cat *catalog.Catalog) []cluster.Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.holdersLocked(cat.Volumes())
	var out []cluster.Node
	for _, n := range m.nodes {
		if (n.stream == 0 || n.missed > 0) && n.info.Internal != "" {
			out = append(out, n.info)
		}
	}
	slices.SortFunc(out, func(a, b cluster.Node) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// holdersLocked makes sure that every holder has its place, so that its
// absence can be timed.
func (m *Map) holdersLocked(entries []*volume.Entry) {
	for _, e := range entries {
		for _, h := range e.InSync {
			m.nodeLocked(h.Node)
		}
		for _, h := range e.Joining {
			m.nodeLocked(h.Node)
		}
	}
}

// aliveLocked is the judgement on one node. Evidence, the strongest first: its
// port refused a connection, or it cannot be reached; it said something just now; it
// has a stream or answers probes; gossip.
func (m *Map) aliveLocked(n *node, now time.Time) bool {
	quiet := now.Sub(latest(n.heard, m.started)) // nobody was heard before
	switch {
	case n.refused || n.missed >= mostMissed:
		return false
	case n.stream == 0 && n.had && !n.info.Ready && n.info.Alive:
		return false // it said that it is stopping, and hung up
	case quiet < m.set.Silence:
		return true
	case n.info.Internal == "" && quiet < m.set.Warmup:
		return true // gossip, as young as this leader perhaps, has not met it yet
	case !n.info.Alive:
		return false
	}
	return now.Sub(latest(n.heard, n.answered, m.started)) < m.set.Frozen
}

func latest(times ...time.Time) (last time.Time) {
	for _, t := range times {
		if t.After(last) {
			last = t
		}
	}
	return last
}

// timedLocked is aliveLocked that also keeps the time of being away.
func (m *Map) timedLocked(n *node, now time.Time) bool {
	alive := m.aliveLocked(n, now)
	switch {
	case alive:
		n.away, n.lost = time.Time{}, false
	case n.away.IsZero() && n.had:
		n.away = now
	case n.away.IsZero():
		n.away = m.started // never seen in this term
	}
	return alive
}

func (m *Map) placementLocked(n *node, now time.Time) placement.Node {
	p := placement.Node{Node: n.info.Volume(), Alive: m.timedLocked(n, now), Disks: n.disks}
	if !p.Alive {
		p.Away, p.Lost = max(now.Sub(n.away), 1), n.lost // 0 would say that it is there
	}
	p.Blocked = slices.Clone(n.blocked)
	p.Told = n.stream != 0 && n.known
	p.Ready = p.Alive && n.stream != 0 && n.known && n.info.Ready
	return p
}

// View joins the observations with cat.
func (m *Map) View(cat *catalog.Catalog, now time.Time) placement.View {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.holdersLocked(cat.Volumes())
	m.forgetLocked(cat)
	v := placement.View{Waived: cat.Waived(), Volumes: make([]placement.Volume, 0, len(cat.Volumes()))}
	for _, n := range m.nodes {
		p := m.placementLocked(n, now)
		p.Drain = Draining(cat, n.info.ID)
		v.Nodes = append(v.Nodes, p)
	}
	slices.SortFunc(v.Nodes, func(a, b placement.Node) int { return cmp.Compare(a.ID, b.ID) })
	for _, e := range cat.Volumes() {
		v.Volumes = append(v.Volumes, m.volumeLocked(e, now))
	}
	for _, n := range v.Nodes {
		v.Strays = append(v.Strays, m.straysLocked(cat, n.ID)...)
	}
	return v
}

// Draining says what of a node is to be emptied.
func Draining(cat *catalog.Catalog, id volume.NodeID) (d volume.DrainOrder) {
	for _, w := range cat.Drains() {
		switch {
		case w.Node != id:
		case w.Dir == "":
			d.Node = true
		default:
			d.Dirs = append(d.Dirs, w.Dir)
		}
	}
	return d
}

// Look is View of one volume and its holders: enough to answer what a copy asks.
func (m *Map) Look(cat *catalog.Catalog, e *volume.Entry, now time.Time) (placement.View, placement.Volume) {
	m.mu.Lock()
	defer m.mu.Unlock()
	vol := m.volumeLocked(e, now)
	v := placement.View{Volumes: []placement.Volume{vol}}
	for _, h := range slices.Concat(e.InSync, e.Joining) {
		p := m.placementLocked(m.nodeLocked(h.Node), now)
		p.Drain = Draining(cat, h.Node)
		v.Nodes = append(v.Nodes, p)
	}
	return v, vol
}

func (m *Map) volumeLocked(e *volume.Entry, now time.Time) placement.Volume {
	vol := placement.Volume{Entry: e, Copies: make([]placement.Copy, 0, len(e.InSync)+len(e.Joining))}
	for _, hs := range [][]volume.Holder{e.InSync, e.Joining} {
		for _, h := range hs {
			if r := m.nodeLocked(h.Node).copies[e.Volume]; r != nil {
				vol.Copies = append(vol.Copies, placement.Copy{Node: h.Node, Report: r})
			}
		}
	}
	vol.Unfit = m.unfit[e.Volume]
	if e.State == volume.StateNew || e.State == volume.StateExpired {
		p := m.passing[e.Volume]
		if p.state != e.State {
			p = passing{e.State, now}
			m.passing[e.Volume] = p
		}
		vol.Age = now.Sub(p.since)
	}
	if !e.Spec.TTL.IsZero() {
		vol.Old, vol.Idle = m.agesLocked(&vol, now)
	}
	return vol
}

// agesLocked gives Old and Idle of a volume. Files are lost by them, so time is
// what the slowest clock says: one that is wrong must not end anything.
func (m *Map) agesLocked(vol *placement.Volume, now time.Time) (old, idle time.Duration) {
	slowest := now.Round(0)
	for _, n := range m.nodes {
		if n.stream != 0 {
			slowest = minTime(slowest, now.Round(0).Add(n.clock))
		}
	}
	e := vol.Entry
	if e.Born != 0 {
		old = max(slowest.Sub(time.Unix(e.Born, 0)), 0)
	}
	h, _, _ := e.Holder(e.Primary)
	for _, c := range vol.Copies {
		if r := c.Report; c.Node == h.Node && r.Copy == h.Copy && r.State == volume.CopyHealthy && r.Size > emptyVolume && !r.Modified.IsZero() {
			idle = max(slowest.Sub(r.Modified), 0)
		}
	}
	return old, idle
}

// emptyVolume is the length of a .dat without records: its super block.
const emptyVolume = 8

func minTime(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// forgetLocked drops what is known of volumes that are not what they were.
func (m *Map) forgetLocked(cat *catalog.Catalog) {
	for id, p := range m.passing {
		if e, ok := cat.Volume(id); !ok || e.State != p.state {
			delete(m.passing, id)
		}
	}
	for id, hs := range m.unfit {
		e, ok := cat.Volume(id)
		left := slices.DeleteFunc(slices.Clone(hs), func(h volume.Holder) bool {
			return !ok || !slices.Contains(e.InSync, h) && !slices.Contains(e.Joining, h)
		})
		if m.unfit[id] = left; len(left) == 0 {
			delete(m.unfit, id)
		}
	}
}

// Condemn notes that the primary of a volume found copies that differ from its
// own and can never follow it. It reports whether any of them is news.
func (m *Map) Condemn(id volume.ID, copies []volume.Holder) (news bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, h := range copies {
		if !slices.Contains(m.unfit[id], h) {
			m.unfit[id] = append(slices.Clip(m.unfit[id]), h)
			news = true
		}
	}
	return news
}

// Lose notes that nodes that are away are not to be waited for, until they are back.
func (m *Map) Lose(ids []volume.NodeID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		m.nodeLocked(id).lost = true
	}
}

// HighestID is the highest volume id below limit that any node reports, foreign
// volumes and those set aside included.
func (m *Map) HighestID(limit volume.ID) (highest volume.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	see := func(id volume.ID) {
		if id < limit {
			highest = max(highest, id)
		}
	}
	for _, n := range m.nodes {
		for id := range n.copies {
			see(id)
		}
		for _, a := range n.aside {
			see(a.Volume)
		}
	}
	return highest
}

// Strays lists the copies that one node reports and cat does not name, by
// rising volume id.
func (m *Map) Strays(cat *catalog.Catalog, id volume.NodeID) []placement.Stray {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.straysLocked(cat, id)
}

func (m *Map) straysLocked(cat *catalog.Catalog, id volume.NodeID) []placement.Stray {
	var out []placement.Stray
	for vid, r := range m.nodeLocked(id).copies {
		if r.State == volume.CopyLost || r.Blocked {
			continue
		}
		e, ok := cat.Volume(vid)
		if ok {
			if h, _, ok := e.Holder(id); ok && h.Copy == r.Copy {
				continue
			}
		}
		out = append(out, placement.Stray{Node: id, Report: r, Deleted: !ok && cat.Deleted(vid), Forgotten: !ok && cat.Forgotten(vid)})
	}
	slices.SortFunc(out, func(a, b placement.Stray) int { return cmp.Compare(a.Report.Volume, b.Report.Volume) })
	return out
}

// Has reports whether the node says that it has a copy of a volume.
func (m *Map) Has(id volume.NodeID, vid volume.ID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes[id]
	return n != nil && n.copies[vid] != nil
}

// Warm reports whether every volume server that gossip knows as alive and
// ready has sent its full report.
func (m *Map) Warm() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.nodes {
		if n.info.Alive && n.info.Roles&cluster.RoleVolume != 0 && !(n.stream != 0 && n.known && n.info.Ready) {
			return false
		}
	}
	return len(m.nodes) > 0
}

// Nodes lists what is known of the volume servers, by id.
func (m *Map) Nodes(now time.Time) []cluster.ViewNode {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []cluster.ViewNode
	for _, n := range m.nodes {
		p := m.placementLocked(n, now)
		v := cluster.ViewNode{Node: p.Node, Alive: p.Alive, Ready: p.Ready, LastReportMS: -1, Disks: n.disks, Aside: n.aside, Version: n.build,
			ClockMS: n.clock.Milliseconds()}
		if !n.reported.IsZero() {
			v.LastReportMS = now.Sub(n.reported).Milliseconds()
		}
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b cluster.ViewNode) int { return cmp.Compare(a.ID, b.ID) })
	return out
}
