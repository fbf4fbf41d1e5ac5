// Package volume holds the words of blob storage: the names of volumes, files
// and copies, the decisions that the masters commit about them, the reports
// that volume servers send, and the errors both sides know.
//
// It does no I/O, starts no goroutine and imports nothing of the project, so
// that every other package may import it. Values are plain data and safe to
// copy; slices inside them are never changed after they were handed on.
package volume

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// ID names a volume. 0 is no volume.
type ID uint32

// ParseID reads a volume id in decimal. Signs, blanks, 0 and numbers above 32
// bit are refused.
func ParseID(s string) (ID, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%w: volume id %q is not a number from 1 to 4294967295", ErrBadRequest, clip(s))
	}
	return ID(n), nil
}

func (id ID) String() string { return strconv.FormatUint(uint64(id), 10) }

// NodeID names a daemon. It is random, made once, and kept in the data
// directory; addresses change, the id does not. It lives here and not in
// package cluster because holders are named by it.
type NodeID string

// NewNodeID makes a random node id: 16 lower case hex digits.
func NewNodeID() NodeID { return NodeID(fmt.Sprintf("%016x", random64())) }

// CopyID names one copy of a volume on one node. It is random, made with the
// copy, and dies with it: a copy that was lost and made anew has another id
// (rule R6). 0 is no copy.
type CopyID uint64

// NewCopyID makes a random copy id.
func NewCopyID() CopyID { return CopyID(random64()) }

func (c CopyID) String() string { return fmt.Sprintf("%016x", uint64(c)) }

// MarshalText gives the 16 hex digits.
func (c CopyID) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (c *CopyID) UnmarshalText(b []byte) error {
	n, err := strconv.ParseUint(string(b), 16, 64)
	if err != nil {
		return fmt.Errorf("copy id %q: %w", clip(string(b)), err)
	}
	*c = CopyID(n)
	return nil
}

func random64() uint64 {
	for {
		var b [8]byte
		rand.Read(b[:]) // never fails: crypto/rand ends the process instead
		if n := binary.BigEndian.Uint64(b[:]); n != 0 {
			return n
		}
	}
}

// Epoch counts the sets of holders that a volume has had. It starts at 1 and
// rises with every committed change of primary or in-sync copies. 0 is none.
type Epoch uint64

// Holder is a node with a copy of some volume.
type Holder struct {
	Node NodeID `json:"node"`
	Copy CopyID `json:"copy"`
}

// State is what may be done with a volume. The zero value is no state.
type State string

// The states of a volume. Open volumes are given new ids. Full ones are not,
// but take overwrites, deletes and writes of ids already given out. ReadOnly
// ones take no writes at all: an operator said so, or their last copy failed. Expired volumes are about to be dropped.
const (
	StateNew      State = "new"
	StateOpen     State = "open"
	StateFull     State = "full"
	StateNoRoom   State = "noroom" // as full, until all copies in sync are there and their disks have room
	StateReadOnly State = "readonly"
	StateExpired  State = "expired"
)

// DiskType is a tag such as "ssd". The empty one and "hdd" are the same; ours
// is always "" for hdd.
type DiskType string

// Spec says how a volume is to be kept. Volumes with equal Specs are
// interchangeable when ids are given out.
type Spec struct {
	Collection string    `json:"collection,omitempty"`
	Placement  Placement `json:"placement"`
	TTL        TTL       `json:"ttl"`
	Disk       DiskType  `json:"disk,omitempty"`
}

// Entry is the committed decision about one volume: who holds it and who leads.
// The catalog keeps one for each volume; volume servers obey the newest they
// have seen. Two Entries of one volume with equal Epoch have equal Primary,
// InSync, Generation; Joining and State may change within an epoch, ordered by
// Version.
type Entry struct {
	Volume     ID       `json:"volume"`
	Spec       Spec     `json:"spec"`
	State      State    `json:"state"`
	Epoch      Epoch    `json:"epoch"`
	Version    uint64   `json:"version"` // rises with every change of this entry, across epochs
	Generation uint32   `json:"generation"`
	Compacted  Epoch    `json:"compacted,omitempty"` // the epoch that began with the files of Generation; 0 while they are the first
	Primary    NodeID   `json:"primary"`
	InSync     []Holder `json:"in_sync"`           // the primary is one of them
	Joining    []Holder `json:"joining,omitempty"` // copies that catch up; they count for nothing
	Born       int64    `json:"born,omitempty"`    // when it was made, in unix seconds by the clock of the leader; 0: not known
	Unsure     bool     `json:"unsure,omitempty"`  // later decisions may be lost, see catalog.Recovered: nobody is given the lead by this one
	Sources    []Source `json:"sources,omitempty"` // foreign copies that it was made from; none for a volume of our own
}

// Holder returns the copy that node holds, and whether it is in sync.
func (e Entry) Holder(node NodeID) (h Holder, inSync, ok bool) {
	for _, h := range e.InSync {
		if h.Node == node {
			return h, true, true
		}
	}
	for _, h := range e.Joining {
		if h.Node == node {
			return h, false, true
		}
	}
	return Holder{}, false, false
}

// MinCopies is how many in-sync copies a volume of this placement needs to
// take writes: one fewer than asked, but two where three or more are asked for.
func (p Placement) MinCopies() int {
	switch n := p.Copies(); {
	case n <= 2:
		return 1
	default:
		return max(2, n-1)
	}
}

// CopyState is what a node says about one copy of its own.
type CopyState string

// The states of a copy. A lost copy is one that the catalog names and the node
// does not have (rule R6). A failed one cannot be written any more, for the
// Reason given (rule R5).
const (
	CopyHealthy CopyState = "healthy"
	CopyFailed  CopyState = "failed"
	CopyLost    CopyState = "lost"
)

// CopyReport is a node's observation of one of its copies. Copy 0 is a foreign
// volume: one without files of ours, which is served for reads.
type CopyReport struct {
	Volume     ID        `json:"volume"`
	Copy       CopyID    `json:"copy"`
	Spec       Spec      `json:"spec"`
	State      CopyState `json:"state"`
	Reason     string    `json:"reason,omitempty"`
	Epoch      Epoch     `json:"epoch"` // the newest epoch made durable by this copy
	Generation uint32    `json:"generation"`
	Leads      bool      `json:"leads"`     // it is primary and takes writes
	Committed  int64     `json:"committed"` // bytes of .dat known durable on every in-sync copy
	Size       int64     `json:"size"`      // bytes of .dat
	Files      uint64    `json:"files"`     // puts indexed, overwritten and deleted ones too
	Deleted    uint64    `json:"deleted"`
	DeletedB   int64     `json:"deleted_bytes"`
	MaxKey     Key       `json:"max_key"`
	Modified   time.Time `json:"modified"`
	Revision   uint16    `json:"revision"`          // compaction revision of the super block
	Version    int       `json:"version,omitempty"` // of the records, if they are not of version 3
	ReadOnly   bool      `json:"readonly,omitempty"`
	Compacting bool      `json:"compacting,omitempty"` // the primary has the volume compacted
	Compaction string    `json:"compaction,omitempty"` // what the primary does about it, or why the last attempt came to nothing; for people
	Blocked    bool      `json:"blocked,omitempty"`    // with CopyFailed: foreign files of this number are in its place, so no copy can be made on this node
	Adoptable  bool      `json:"adoptable,omitempty"`  // a foreign copy, Copy 0, that may become ours (rule R15)
	Dir        string    `json:"dir,omitempty"`        // directory of its files; "" when there are none
	NoRoom     bool      `json:"no_room,omitempty"`    // its disk has too little room for new files
	Damaged    int       `json:"damaged,omitempty"`    // records known to be bad that could not be repaired
}

// DiskReport is a node's observation of one of its directories.
type DiskReport struct {
	Dir     string   `json:"dir"`
	Disk    DiskType `json:"disk,omitempty"`
	Max     int      `json:"max"` // volume slots
	Used    int      `json:"used"`
	AllB    uint64   `json:"all_bytes"`
	FreeB   uint64   `json:"free_bytes"`
	Fenced  string   `json:"fenced,omitempty"` // why nothing is written there; empty when all is well
	Missing bool     `json:"missing,omitempty"`
	Full    bool     `json:"full,omitempty"` // Fenced only for want of room: nothing new is put there, all else goes on
}

// Report is what a volume server tells the leader. A full report lists every
// copy; what it leaves out is not there. Later ones list only what changed.
type Report struct {
	Node   NodeID       `json:"node"`
	Run    uint64       `json:"run"`             // differs for every run of the process
	Build  string       `json:"build,omitempty"` // version of the program; in full reports
	Full   bool         `json:"full,omitempty"`
	Copies []CopyReport `json:"copies,omitempty"`
	Gone   []ID         `json:"gone,omitempty"` // volumes no longer on this node
	Disks  []DiskReport `json:"disks,omitempty"`
	Aside  []SetAside   `json:"aside,omitempty"` // in full reports and when it changes; see SetAsideKnown
	Now    time.Time    `json:"now,omitzero"`    // the node's clock when it was made
}

// SetAside is a volume found on disk that is not served.
type SetAside struct {
	Path   string `json:"path"`
	Volume ID     `json:"volume,omitempty"` // 0 when the name does not tell
	Reason string `json:"reason"`
	Moved  bool   `json:"moved,omitempty"` // by order, to make room for another copy: nothing waits for it
}

// Orders is what the leader tells a volume server: the entries that name the
// node. The first Orders of a stream are full. An entry missing from them means
// nothing: it is never a reason to delete. Deletion is said in Drop only.
type Orders struct {
	Full    bool           `json:"full,omitempty"`
	Cluster string         `json:"cluster"` // cluster id
	Limit   int64          `json:"limit"`   // bytes of .dat beyond which a volume counts as full
	Entries []Entry        `json:"entries,omitempty"`
	Drop    []Drop         `json:"drop,omitempty"`
	Compact []CompactOrder `json:"compact,omitempty"`
	Drain   *DrainOrder    `json:"drain,omitempty"` // nil says nothing
}

// DrainOrder says what of a node is being emptied: no new copy is put there, and
// a primary there hands over once a copy in sync is there that may take its place.
type DrainOrder struct {
	Node bool     `json:"node,omitempty"` // all of it
	Dirs []string `json:"dirs,omitempty"`
}

// Has reports whether a copy in directory dir is to go.
func (d DrainOrder) Has(dir string) bool { return d.Node || slices.Contains(d.Dirs, dir) }

// CompactOrder asks the primary of a volume to have it compacted (rule R13). It
// is a wish: lost or repeated it does no harm, and one of an epoch that has
// passed means nothing.
type CompactOrder struct {
	Volume ID        `json:"volume"`
	Epoch  Epoch     `json:"epoch"`
	Clock  time.Time `json:"clock"` // what has expired well before it is left out; the same for all copies
}

// Drop is a committed order to delete one copy (rule R14). If Deleted, the
// whole volume was deleted and no other copy need exist. If Forgotten, and not
// Deleted, so was it because all copies were given up for lost: the files are set
// aside; a build that does not know the word leaves them. Otherwise the node
// deletes only that copy, and only after the copies in Keep have told it, now,
// that they are at Epoch or later with its committed length.
type Drop struct {
	Volume    ID       `json:"volume"`
	Copy      CopyID   `json:"copy"`
	Epoch     Epoch    `json:"epoch"`
	Deleted   bool     `json:"deleted,omitempty"`
	Forgotten bool     `json:"forgotten,omitempty"`
	Keep      []Holder `json:"keep,omitempty"`
}

// Ended reports whether the whole volume is no more.
func (d Drop) Ended() bool { return d.Deleted || d.Forgotten }

// AskKind is what a primary asks the leader for.
type AskKind string

// The questions of a copy to the leader. Each is refused unless the volume is at
// the epoch named.
const (
	// AskLead: a copy in sync wants to lead in a new epoch with the same
	// in-sync set: it restarted as primary, or lost its tail (rule R10).
	AskLead AskKind = "lead"
	// AskRemove: the primary cannot reach these copies while a write waits, or
	// they are Unfit. They leave the in-sync set and become joining.
	AskRemove AskKind = "remove"
	// AskAdd: these joining copies have all that the primary has (rule R9).
	AskAdd AskKind = "add"
	// AskYield: the primary cannot write any more (failed, slow or full disk,
	// shutting down) and another in-sync copy is to lead.
	AskYield AskKind = "yield"
	// AskCompact: all copies in sync, From and Copies, have durably prepared the
	// files of Generation, which is the next, and they are equal (rule R13).
	AskCompact AskKind = "compact"
)

// Ask is a question of the copy From, which must be in sync at Epoch, and for
// all kinds but AskLead the primary.
type Ask struct {
	Kind   AskKind  `json:"kind"`
	Volume ID       `json:"volume"`
	Epoch  Epoch    `json:"epoch"`
	From   Holder   `json:"from"`
	Copies []Holder `json:"copies,omitempty"`
	Failed bool     `json:"failed,omitempty"` // with AskYield: From is never to be in sync again (rule R5)
	// NoRoom, with AskYield: the disk of From is full. A copy on another full disk
	// does not lead in its place.
	NoRoom bool `json:"no_room,omitempty"`

	Generation uint32 `json:"generation,omitempty"` // with AskCompact
	// Unfit, with AskRemove: Copies lack what is committed and have to go, however
	// few are left.
	Unfit bool `json:"unfit,omitempty"`
	// Replace, with AskRemove: copies, in sync or joining, that differ from the
	// primary's and can never follow it. Their nodes need new ones, with other ids.
	Replace []Holder `json:"replace,omitempty"`
}

// Node is what clients need to know of a volume server.
type Node struct {
	ID         NodeID `json:"id"`
	URL        string `json:"url"`        // host:port of the public HTTP port, for use inside
	PublicURL  string `json:"public_url"` // host:port to give to clients
	Internal   string `json:"internal"`   // host:port of the internal port
	DataCenter string `json:"data_center"`
	Rack       string `json:"rack"`
}

// PutResult is the answer to a write.
type PutResult struct {
	Unchanged bool   `json:"unchanged,omitempty"` // the same bytes and metadata were stored already; nothing was written
	Checksum  uint32 `json:"checksum"`            // CRC-32C of the bytes as stored
	Size      int64  `json:"size"`                // bytes as stored
}

// EpochStart says from which offset of .dat on a copy's bytes belong to an
// epoch (rule R11). Generation counts the times the volume's files were
// replaced by compaction or merging.
type EpochStart struct {
	Epoch      Epoch  `json:"epoch"`
	Start      int64  `json:"start"`
	Generation uint32 `json:"generation"`
}

// Compaction says what the new files of a compacted volume are made of: the
// records that live at At by the index as of At, in file order, less what has
// expired well before Clock, then every record from At on (rule R13). Every copy
// makes the same bytes of it.
type Compaction struct {
	Epoch      Epoch     `json:"epoch"`      // in which it was begun: only the very next epoch may take the files
	Generation uint32    `json:"generation"` // of the new files
	At         int64     `json:"at"`         // a committed length of .dat, in bytes
	Clock      time.Time `json:"clock"`
}
