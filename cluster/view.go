package cluster

import "weedd/volume"

// View is what a master knows of the whole cluster, as GET /cluster/view answers
// it in JSON and `weedd status` prints it. Decisions (the entries of volumes) come
// from the catalog, everything else is observation and may be some seconds old.
// Lists are sorted: masters by address, nodes by id, volumes by number, problems
// the gravest first.
type View struct {
	ClusterID string        `json:"cluster_id"`
	Leader    ViewLeader    `json:"leader"`         // zero while nobody leads
	Term      uint64        `json:"term,omitempty"` // raft's, 0 when unknown
	Masters   []ViewMaster  `json:"masters"`
	Nodes     []ViewNode    `json:"nodes"`
	Volumes   []ViewVolume  `json:"volumes"`
	Problems  []ViewProblem `json:"problems"`
	Repair    ViewWork      `json:"repair"`
	Drains    []ViewDrain   `json:"drains,omitempty"`
}

// ViewWork is copying that is yet to be done.
type ViewWork struct {
	Copies  int   `json:"copies"`       // that are missing, catching up, or to be replaced
	Bytes   int64 `json:"bytes"`        // yet to be copied
	Rate    int64 `json:"rate"`         // bytes a second lately, 0 while that is not known
	Seconds int64 `json:"seconds_left"` // at that rate; -1 while it is not known
}

// ViewDrain is how far the draining of a node, or of one directory of it, is. It
// is finished when nothing is there any more, and goes on keeping new copies away
// until it is undone.
type ViewDrain struct {
	Node     NodeID   `json:"node"`
	Dir      string   `json:"dir,omitempty"` // "" for all of the node
	Work     ViewWork `json:"work"`          // copies still named by entries there; Bytes are theirs
	Dropping int      `json:"dropping"`      // copies that left their volumes and whose files are still there
	Foreign  int      `json:"foreign"`       // volumes of SeaweedFS there, which are not moved
	Stuck    int      `json:"stuck"`         // of Work.Copies, those for which there is no other place now
	Why      string   `json:"why,omitempty"` // of the first of those
	Done     bool     `json:"done"`
}

// ViewLeader names the leading master.
type ViewLeader struct {
	ID      NodeID `json:"id,omitempty"`
	Address string `json:"address,omitempty"` // host:port of its public HTTP port
}

// ViewMaster is one master, configured as raft member or seen in gossip.
type ViewMaster struct {
	ID      NodeID `json:"id,omitempty"`
	Address string `json:"address"` // host:port of its public HTTP port
	Voter   bool   `json:"voter"`
	Alive   bool   `json:"alive"`
	Leader  bool   `json:"leader"`
}

// ViewNode is one volume server.
type ViewNode struct {
	volume.Node
	Alive        bool                `json:"alive"`
	Ready        bool                `json:"ready"`
	LastReportMS int64               `json:"last_report_ms"` // milliseconds since its last report; -1 for none
	Disks        []volume.DiskReport `json:"disks"`
	Aside        []volume.SetAside   `json:"aside,omitempty"`
	Version      string              `json:"version,omitempty"`
	ClockMS      int64               `json:"clock_ms,omitempty"` // milliseconds that its clock was ahead of the leader's at its last report
}

// ViewVolume is one volume: what is decided about it, and what its holders say.
type ViewVolume struct {
	Entry  volume.Entry `json:"entry"`
	Copies []ViewCopy   `json:"copies"`
}

// ViewCopy is one copy of a volume that the entry names. Report is nil until its
// node has reported it.
type ViewCopy struct {
	Node   NodeID             `json:"node"`
	InSync bool               `json:"in_sync"`
	Report *volume.CopyReport `json:"report"`
}

// ViewProblem is something that an operator wants to know: an error costs
// copies, room or service now; a warning may come to that; information does not.
type ViewProblem struct {
	Severity string `json:"severity"` // SeverityError, SeverityWarn or SeverityInfo
	What     string `json:"what"`     // a sentence, such as "volume 7: 1 of 2 copies in sync (node x is away)"
}

// The severities of a ViewProblem, the gravest first. Info is no trouble: it is
// worth knowing.
const (
	SeverityError = "error"
	SeverityWarn  = "warn"
	SeverityInfo  = "info"
)

// Rank orders problems: the gravest has the lowest.
func (p ViewProblem) Rank() int {
	switch p.Severity {
	case SeverityError:
		return 0
	case SeverityWarn:
		return 1
	}
	return 2
}
