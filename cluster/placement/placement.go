// Package placement is the masters' judgement: from a View of the cluster it
// says which nodes get new volumes, which volumes to make ahead of need, and
// which decisions should change because nodes came, went or lost copies.
//
// Values in, values out: there is no clock, no random number, no network and
// no state. Input is sorted first and ties are broken by hashing volume with
// node, so every run over the same observations agrees. What it proposes is
// checked again by catalog.Apply, which knows the rules that must never break;
// what is good and what is not yet needed is decided here.
package placement

import (
	"cmp"
	"hash/fnv"
	"time"

	"weedd/cluster/catalog"
	"weedd/volume"
)

// View is what the leader sees: decisions of the catalog beside observations.
// The order of its lists does not matter.
type View struct {
	Nodes   []Node
	Volumes []Volume
	Strays  []Stray         // copies reported that the catalog does not name
	Waived  []volume.NodeID // whose word about unsure volumes is not waited for
}

// Node is one volume server as the leader sees it.
type Node struct {
	volume.Node
	Alive bool                // it can be trusted with leading; false once it is known or believed to be gone
	Ready bool                // alive, serving, and its disks are known: new copies may be put there
	Away  time.Duration       // since when it is not alive; 0 while it is
	Lost  bool                // it is away, and an operator said not to wait for it
	Disks []volume.DiskReport // of its last report
	// Blocked are the volumes of which it can have no copy: it has foreign files
	// of their numbers.
	Blocked []volume.ID
	Drain   volume.DrainOrder // what of it is to be emptied
	Told    bool              // all its copies are known: it has a heartbeat that began with a full report
}

// Volume is one volume of the catalog with what its holders report.
type Volume struct {
	Entry  *volume.Entry
	Copies []Copy        // of holders that have reported a copy, whatever its id
	Age    time.Duration // how long it has been seen in StateNew, or in StateExpired; 0 in other states
	// Unfit are copies of which the primary said that they differ from its own and
	// can never follow it. They do not know that themselves.
	Unfit []volume.Holder
	// Old is the time since the volume was made, 0 when that is not known. Idle is
	// the time since the newest record in it was appended, 0 when that is not
	// known or there is none. Both are by the slowest clock of the cluster.
	Old, Idle time.Duration
}

// Copy is one node's report on a volume.
type Copy struct {
	Node   volume.NodeID
	Report *volume.CopyReport
}

// Stray is a copy that a node reports and the catalog does not name.
type Stray struct {
	Node      volume.NodeID
	Report    *volume.CopyReport
	Deleted   bool // the whole volume was deleted
	Forgotten bool // it was, because all its copies were given up for lost
}

// Settings are the operator's numbers. The zero value means the defaults.
type Settings struct {
	VolumeLimit int64         // bytes of .dat beyond which a volume is full; default 30 GiB
	RepairAfter time.Duration // how long a holder may be away before its copy is made anew elsewhere; default 10 min
	NewTimeout  time.Duration // how long a holder of a new volume may be away before the volume is given up; default 2 s
	JoinsAtOnce int           // how many copies one node may be making anew at a time; default 4
	KeepForeign bool          // files of SeaweedFS stay what they are: they are not adopted
	AdoptWait   time.Duration // how long copies of a foreign volume on other nodes are waited for; default 5 s
	Grow        [4]int        // how many writable volumes of one spec to keep, for 1, 2, 3 and more copies; default 7, 6, 3, 1
}

// WithDefaults fills in what is zero.
func (s Settings) WithDefaults() Settings {
	s.VolumeLimit = cmp.Or(s.VolumeLimit, 30<<30)
	s.RepairAfter = cmp.Or(s.RepairAfter, 10*time.Minute)
	s.NewTimeout = cmp.Or(s.NewTimeout, 2*time.Second)
	s.JoinsAtOnce = cmp.Or(s.JoinsAtOnce, 4)
	s.AdoptWait = cmp.Or(s.AdoptWait, 5*time.Second)
	for i, n := range [4]int{7, 6, 3, 1} {
		s.Grow[i] = cmp.Or(s.Grow[i], n)
	}
	return s
}

// target is how many writable volumes a spec is to have.
func (s Settings) target(spec volume.Spec) int {
	return s.Grow[min(spec.Placement.Copies(), len(s.Grow))-1]
}

// GrowRequest asks for new volumes. DataCenter, Rack and Node, when not "", say
// where the primary must be.
type GrowRequest struct {
	Spec       volume.Spec   `json:"spec"`
	Count      int           `json:"count"` // 0: as many as are good for the spec
	DataCenter string        `json:"data_center,omitempty"`
	Rack       string        `json:"rack,omitempty"`
	Node       volume.NodeID `json:"node,omitempty"`
}

// Step is one thing that should differ, and why.
type Step struct {
	Volume volume.ID
	// Change is a new entry to propose; nil when the volume is to be deleted.
	// A joining holder with copy 0 is to be given a new copy id first.
	Change *catalog.Change
	Reason string // a sentence without its subject, for logs and people
}

// Delete reports whether the step ends the volume.
func (s Step) Delete() bool { return s.Change == nil }

// tie orders equals: the same in every run, different for every volume.
func tie(id volume.ID, node volume.NodeID) uint64 {
	h := fnv.New64a()
	h.Write([]byte{byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id)})
	h.Write([]byte(node))
	// FNV of short texts differs mostly in the low bits; mix them up.
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	return x ^ x>>33
}
