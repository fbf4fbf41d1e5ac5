package cluster

import "weedd/volume"

// Operation is what an operator asks of the leader. Exactly one member is set.
type Operation struct {
	Drain    *Drain       `json:"drain,omitempty"`
	Repair   *Repair      `json:"repair,omitempty"`
	Explain  *volume.ID   `json:"explain,omitempty"`
	Remove   *RemoveVoter `json:"remove,omitempty"`
	Promote  *Promote     `json:"promote,omitempty"`
	Forget   *Forget      `json:"forget,omitempty"`
	ReadOnly *ReadOnly    `json:"readonly,omitempty"`
}

// Drain asks for a node, or one directory of it, to be emptied. It holds until it
// is undone, whoever leads.
type Drain struct {
	Node string `json:"node"`          // its id, or host:port of a public port of its volume role
	Dir  string `json:"dir,omitempty"` // "" for all of it
	Undo bool   `json:"undo,omitempty"`
}

// Repair asks for copies on nodes that are away now to be made anew at once,
// without waiting for repair_after; DryRun, to tell only what would be done.
type Repair struct {
	DryRun bool `json:"dry_run,omitempty"`
}

// RemoveVoter asks for a master that is gone for good to be taken out of the group.
type RemoveVoter struct {
	Master string `json:"master"` // its node id, its address as the view shows it, or its raft id
}

// Promote asks for the copy on a node to lead that was not in sync, of a volume whose
// copies in sync are all lost for good: what they alone had is given up. DryRun, to
// tell only what that is.
type Promote struct {
	Volume volume.ID `json:"volume"`
	Node   string    `json:"node"` // as for Drain
	DryRun bool      `json:"dry_run,omitempty"`
}

// Forget asks for volumes to end of which every copy is lost for good. All of them
// or none: it is refused if one of them may have a copy somewhere. DryRun, to tell only
// what is given up.
type Forget struct {
	Volumes []volume.ID `json:"volumes"`
	DryRun  bool        `json:"dry_run,omitempty"`
}

// ReadOnly asks for volumes to take no writes and no deletes until it is undone,
// whoever leads. All of them or none.
type ReadOnly struct {
	Volumes []volume.ID `json:"volumes"`
	Undo    bool        `json:"undo,omitempty"`
}

// Outcome is the answer to an Operation.
type Outcome struct {
	Drain   *ViewDrain    `json:"drain,omitempty"`   // of Drain, unless it was undone
	Volumes []Explanation `json:"volumes,omitempty"` // of all but Drain and Remove, by volume; of ReadOnly with what its primary has not confirmed in Waits
	More    int           `json:"more,omitempty"`    // volumes that were left out for their number
}

// Explanation says what is decided about a volume, what is seen of it, and what
// the leader does about that, and why.
type Explanation struct {
	Entry  volume.Entry    `json:"entry"`
	Copies []ExplainedCopy `json:"copies"`
	Next   *volume.Entry   `json:"next,omitempty"`   // what the leader proposes now, nil for nothing; copy id 0: one that is made anew
	Delete bool            `json:"delete,omitempty"` // it proposes to delete the volume
	Why    string          `json:"why,omitempty"`    // of Next and Delete
	Waits  []string        `json:"waits,omitempty"`  // what it waits for, and why it does nothing
}

// ExplainedCopy is one copy that an entry names.
type ExplainedCopy struct {
	volume.Holder
	Role  string `json:"role"`  // "primary", "in sync" or "joining"
	State string `json:"state"` // in words
}
