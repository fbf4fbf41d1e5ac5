// Package catalog holds the decisions of the masters as a value: which volumes
// exist, who holds them, who leads, and which file keys have been given out.
//
// A Catalog never changes. Apply gives the next one, so a reader keeps a
// pointer, a snapshot is that pointer, and every master that applies the same
// commands has the same Catalog. There is no clock, no random number and no map
// order in Apply; whoever proposes a command puts such things into it.
//
// Apply is also where the safety rules R1, R6, R7, R8, R9 and R13 of the masters'
// side are enforced: a command that would break one is refused, whoever
// proposes it. See cluster/DESIGN.md.
package catalog

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"weedd/volume"
)

// Catalog is all decisions up to some command. Its methods may be called at
// once from anywhere; what they return must not be changed.
type Catalog struct {
	cluster   string
	ceiling   volume.Key // keys below it may have been given out
	maxVolume volume.ID
	deleted   []idRange       // sorted, apart from one another
	forgotten []idRange       // as deleted, by hand: their copies are kept
	volumes   []*volume.Entry // sorted by id
	drains    []Drain         // sorted by node and directory
	waived    []volume.NodeID // sorted; see Recovered
}

// idRange is From to To, both included.
type idRange struct {
	From volume.ID `json:"from"`
	To   volume.ID `json:"to"`
}

// New returns the catalog before the first command. Key 0 is never given out:
// its file ids do not parse.
func New() *Catalog { return &Catalog{ceiling: 1} }

// ClusterID is "" before genesis.
func (c *Catalog) ClusterID() string { return c.cluster }

// Ceiling is the lowest key never given out.
func (c *Catalog) Ceiling() volume.Key { return c.ceiling }

// MaxVolume is the highest volume id ever used.
func (c *Catalog) MaxVolume() volume.ID { return c.maxVolume }

// Volumes lists all volumes by rising id.
func (c *Catalog) Volumes() []*volume.Entry { return c.volumes }

// Volume returns the entry of one volume.
func (c *Catalog) Volume(id volume.ID) (*volume.Entry, bool) {
	i, ok := c.find(id)
	if !ok {
		return nil, false
	}
	return c.volumes[i], true
}

// Deleted reports whether id was a volume once and is deleted for ever.
func (c *Catalog) Deleted(id volume.ID) bool {
	return within(c.deleted, id) || c.Forgotten(id)
}

// Forgotten reports whether id was deleted because an operator gave all its copies
// up for lost: one that comes back after all is kept aside.
func (c *Catalog) Forgotten(id volume.ID) bool { return within(c.forgotten, id) }

func within(ranges []idRange, id volume.ID) bool {
	return slices.ContainsFunc(ranges, func(r idRange) bool { return id >= r.From && id <= r.To })
}

// Collections lists the names in use, sorted.
func (c *Catalog) Collections() []string {
	var names []string
	for _, e := range c.volumes {
		names = append(names, e.Spec.Collection)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (c *Catalog) find(id volume.ID) (int, bool) {
	return slices.BinarySearchFunc(c.volumes, id, func(e *volume.Entry, id volume.ID) int { return cmp.Compare(e.Volume, id) })
}

// Command is one step. Exactly one member is set.
type Command struct {
	Found  *Found  `json:"found,omitempty"`
	Keys   *Keys   `json:"keys,omitempty"`
	Grow   *Grow   `json:"grow,omitempty"`
	Change *Batch  `json:"change,omitempty"`
	Delete *Delete `json:"delete,omitempty"`
	Adopt  *Adopt  `json:"adopt,omitempty"`
	Drain  *Drain  `json:"drain,omitempty"`
}

// Found names the cluster, once.
type Found struct {
	Cluster string `json:"cluster"`
}

// Keys takes a block of Count keys (rule R1).
type Keys struct {
	Count uint64 `json:"count"`
}

// Grow makes volumes in state new at epoch 1. Ids are given by Apply.
type Grow struct {
	Volumes []NewVolume `json:"volumes"`
	// Above is an id that somebody else's volume has, on a node of the cluster:
	// those of new ones are higher.
	Above volume.ID `json:"above,omitempty"`
	// Born is the proposer's clock, in unix seconds.
	Born int64 `json:"born,omitempty"`
}

// NewVolume is one volume of a Grow. All holders are in sync from the start: an
// empty copy has all there is.
type NewVolume struct {
	Spec    volume.Spec     `json:"spec"`
	Primary volume.NodeID   `json:"primary"`
	Holders []volume.Holder `json:"holders"`
}

// Batch changes volumes that exist. Each Change stands or falls alone.
type Batch struct {
	Changes []Change `json:"changes"`
}

// Change replaces an entry that is still at Version. Epoch, Version and Compacted
// of Next are ignored: Apply counts them.
type Change struct {
	Version uint64       `json:"version"`
	Next    volume.Entry `json:"next"`
	// By is the copy that asked. Only the primary of the entry may have copies
	// added to the in-sync set (rule R9), or the generation raised (rule R13).
	By volume.Holder `json:"by,omitzero"`
	// Renew begins a new epoch though the sets are as they were (rule R10).
	Renew bool `json:"renew,omitempty"`
	// Sure makes an entry certain again that was Unsure (rule R3): the new epoch is
	// far above this one, which is the newest that any copy has entered. Next may name
	// other copies in sync than the entry did, for a later decision is lost.
	Sure volume.Epoch `json:"sure,omitempty"`
	// Lost, with Sure, gives all copies in sync up for lost, for an operator said so:
	// the one copy in sync of Next, which was none of them, goes on with what it has
	// (rule R7).
	Lost bool `json:"lost,omitempty"`
}

// Delete ends volumes for ever; unknown ids are passed over.
type Delete struct {
	Volumes []volume.ID `json:"volumes"`
	Forget  bool        `json:"forget,omitempty"` // all their copies are lost, an operator said; see Catalog.Forgotten
}

// Block is a range of keys, To excluded.
type Block struct {
	From volume.Key `json:"from"`
	To   volume.Key `json:"to"`
}

// Result is what a command came to.
type Result struct {
	Err     error           // the whole command was refused
	Keys    Block           // of Keys
	Entries []*volume.Entry // of Grow, Adopt and Batch, in the order given; nil where refused
	Errs    []error         // of Batch, in the order given
}

// Encode gives a command as the raft log keeps it.
func (cmd Command) Encode() []byte {
	b, err := json.Marshal(cmd)
	if err != nil {
		panic(fmt.Sprintf("catalog: a command is plain data: %v", err))
	}
	return b
}

// ErrUnknownCommand stops a node: going on without a command that others
// understand would be to diverge.
var ErrUnknownCommand = errors.New("catalog: a command of a newer version; upgrade this node")

// Decode reads what Encode wrote. It refuses members that it does not know, at
// any depth: a field passed over is a decision that others took and this node
// did not.
func Decode(b []byte) (Command, error) {
	var cmd, some Command
	if err := json.Unmarshal(b, &some); err != nil {
		return cmd, fmt.Errorf("catalog: decode command: %w", err)
	}
	strict := json.NewDecoder(bytes.NewReader(b))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&cmd); err != nil {
		return cmd, fmt.Errorf("%w: %w", ErrUnknownCommand, err)
	}
	known := 0
	for _, set := range []bool{cmd.Found != nil, cmd.Keys != nil, cmd.Grow != nil, cmd.Change != nil, cmd.Delete != nil, cmd.Adopt != nil, cmd.Drain != nil} {
		if set {
			known++
		}
	}
	if known != 1 {
		return cmd, ErrUnknownCommand
	}
	return cmd, nil
}

// Apply gives the catalog after cmd. A refused command gives the same catalog.
func (c *Catalog) Apply(cmd Command) (*Catalog, Result) {
	next := *c
	var res Result
	switch {
	case cmd.Found != nil:
		res = next.found(*cmd.Found)
	case cmd.Keys != nil:
		res = next.takeKeys(*cmd.Keys)
	case cmd.Grow != nil:
		res = next.grow(*cmd.Grow)
	case cmd.Change != nil:
		res = next.change(*cmd.Change)
	case cmd.Delete != nil:
		next.delete(*cmd.Delete)
	case cmd.Adopt != nil:
		res = next.adopt(*cmd.Adopt)
	case cmd.Drain != nil:
		res = next.drain(*cmd.Drain)
	default:
		res.Err = ErrUnknownCommand
	}
	if res.Err != nil {
		return c, res
	}
	return &next, res
}

func (c *Catalog) found(cmd Found) Result {
	if c.cluster != "" && c.cluster != cmd.Cluster {
		return Result{Err: fmt.Errorf("%w: this is cluster %s already, not %s", volume.ErrExists, c.cluster, cmd.Cluster)}
	}
	c.cluster = cmd.Cluster
	return Result{}
}

// maxKeyBlock bounds a block, so that no mistake uses up the key space.
const maxKeyBlock = 1 << 32

func (c *Catalog) takeKeys(cmd Keys) Result {
	if cmd.Count == 0 || cmd.Count > maxKeyBlock || uint64(c.ceiling)+cmd.Count < cmd.Count {
		return Result{Err: fmt.Errorf("%w: a block of %d keys", volume.ErrBadRequest, cmd.Count)}
	}
	b := Block{From: c.ceiling, To: c.ceiling + volume.Key(cmd.Count)}
	c.ceiling = b.To
	return Result{Keys: b}
}

func (c *Catalog) grow(cmd Grow) Result {
	var made []*volume.Entry
	c.maxVolume = max(c.maxVolume, cmd.Above)
	for _, v := range cmd.Volumes {
		e := &volume.Entry{Volume: c.maxVolume + 1, Spec: v.Spec, State: volume.StateNew, Epoch: 1, Version: 1,
			Primary: v.Primary, InSync: sortHolders(v.Holders), Born: cmd.Born}
		if e.Volume == 0 {
			return Result{Err: fmt.Errorf("%w: all volume ids are used up", volume.ErrNoSpace)}
		}
		if err := wellFormed(e); err != nil {
			return Result{Err: err}
		}
		c.maxVolume = e.Volume
		made = append(made, e)
	}
	c.volumes = append(slices.Clip(c.volumes), made...) // ids only rise, so the order holds
	return Result{Entries: made}
}

func (c *Catalog) change(cmd Batch) Result {
	var res Result
	c.volumes = slices.Clone(c.volumes)
	for _, ch := range cmd.Changes {
		e, err := c.changed(ch)
		if err == nil {
			i, _ := c.find(e.Volume)
			c.volumes[i] = e
		}
		res.Entries = append(res.Entries, e)
		res.Errs = append(res.Errs, err)
	}
	return res
}

// changed checks one change against the rules and gives the entry that follows.
func (c *Catalog) changed(ch Change) (*volume.Entry, error) {
	old, ok := c.Volume(ch.Next.Volume)
	if !ok {
		return nil, fmt.Errorf("%w: volume %d", volume.ErrNoVolume, ch.Next.Volume)
	}
	if old.Version != ch.Version {
		return nil, fmt.Errorf("%w: volume %d is at version %d, epoch %d; planned on version %d", volume.ErrStale, old.Volume, old.Version, old.Epoch, ch.Version)
	}
	if old.Unsure || ch.Sure != 0 {
		return surely(old, ch)
	}
	next := ch.Next
	next.Unsure = false
	next.Spec, next.Born, next.Sources = old.Spec, old.Born, old.Sources
	next.Epoch, next.Version, next.Compacted = old.Epoch, old.Version+1, old.Compacted
	next.InSync, next.Joining = sortHolders(next.InSync), sortHolders(next.Joining)
	if err := wellFormed(&next); err != nil {
		return nil, err
	}
	if err := allowed(old, &next, ch.By); err != nil {
		return nil, err
	}
	if ch.Renew || next.Primary != old.Primary || next.Generation != old.Generation || !slices.Equal(next.InSync, old.InSync) {
		next.Epoch++
	}
	if next.Generation != old.Generation {
		next.Compacted = next.Epoch
	}
	return &next, nil
}

func (c *Catalog) delete(cmd Delete) {
	gone := map[volume.ID]bool{}
	for _, id := range cmd.Volumes {
		if _, ok := c.find(id); ok {
			gone[id] = true
		}
	}
	var kept []*volume.Entry
	var ended []idRange
	for _, e := range c.volumes {
		if gone[e.Volume] {
			ended = append(ended, idRange{e.Volume, e.Volume})
		} else {
			kept = append(kept, e)
		}
	}
	c.volumes = kept
	if cmd.Forget {
		c.forgotten = merge(c.forgotten, ended)
	} else {
		c.deleted = merge(c.deleted, ended)
	}
}

// merge adds ranges to sorted ones, in a new slice.
func merge(ranges, more []idRange) []idRange {
	all := slices.Concat(ranges, more)
	slices.SortFunc(all, func(a, b idRange) int { return cmp.Compare(a.From, b.From) })
	var out []idRange
	for _, r := range all {
		if n := len(out); n > 0 && r.From <= out[n-1].To+1 {
			out[n-1].To = max(out[n-1].To, r.To)
			continue
		}
		out = append(out, r)
	}
	return out
}

// sortHolders gives none as nil, so that a catalog equals what its snapshot
// reads back as.
func sortHolders(hs []volume.Holder) []volume.Holder {
	if len(hs) == 0 {
		return nil
	}
	hs = slices.Clone(hs)
	slices.SortFunc(hs, func(a, b volume.Holder) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Copy, b.Copy))
	})
	return hs
}

// wellFormed checks what every entry must be, whatever came before.
func wellFormed(e *volume.Entry) error {
	seen := map[volume.NodeID]bool{}
	for _, h := range slices.Concat(e.InSync, e.Joining) {
		if h.Node == "" || h.Copy == 0 {
			return fmt.Errorf("%w: volume %d: a holder without node or copy id", volume.ErrBadRequest, e.Volume)
		}
		if seen[h.Node] {
			return fmt.Errorf("%w: volume %d: node %s named twice", volume.ErrBadRequest, e.Volume, h.Node)
		}
		seen[h.Node] = true
	}
	if !holds(e.InSync, e.Primary) {
		return fmt.Errorf("%w: volume %d: primary %q is not in sync", volume.ErrBadRequest, e.Volume, e.Primary)
	}
	switch e.State {
	case volume.StateNew, volume.StateOpen, volume.StateFull, volume.StateNoRoom, volume.StateReadOnly, volume.StateExpired:
		return nil
	}
	return fmt.Errorf("%w: volume %d: state %q", volume.ErrBadRequest, e.Volume, e.State)
}

// allowed checks the step from old to next.
func allowed(old, next *volume.Entry, by volume.Holder) error {
	refuse := func(rule, why string) error {
		return fmt.Errorf("%w: volume %d: %s (rule %s)", volume.ErrBadRequest, old.Volume, why, rule)
	}
	if !holds(old.InSync, next.Primary) {
		return refuse("R7", fmt.Sprintf("node %s was not in sync and may not lead", next.Primary))
	}
	grown := false
	for _, h := range next.InSync {
		if slices.Contains(old.InSync, h) {
			continue
		}
		grown = true
		if !slices.Contains(old.Joining, h) {
			return refuse("R9", fmt.Sprintf("copy %s on node %s did not join first", h.Copy, h.Node))
		}
	}
	if grown {
		primary, _, _ := old.Holder(old.Primary)
		if by != primary || next.Primary != old.Primary {
			return refuse("R9", "only the primary may ask for a copy to be in sync")
		}
	}
	if old.State != volume.StateNew && next.State == volume.StateNew {
		return refuse("R6", "a volume is new only once")
	}
	if old.Adopted() && next.State == volume.StateOpen {
		return refuse("R15", "an adopted volume is given no new ids")
	}
	if next.Generation != old.Generation {
		return compacted(old, next, by, refuse)
	}
	return nil
}

// compacted checks a step to other files: to those of the next generation, which
// all copies in sync have ready, and nothing else changes with it.
func compacted(old, next *volume.Entry, by volume.Holder, refuse func(rule, why string) error) error {
	primary, _, _ := old.Holder(old.Primary)
	switch {
	case by != primary:
		return refuse("R13", "only the primary may ask for another generation")
	case next.Generation != old.Generation+1:
		return refuse("R13", fmt.Sprintf("generation %d does not follow %d", next.Generation, old.Generation))
	case len(old.Joining) > 0 || len(next.Joining) > 0:
		return refuse("R13", "a copy is joining, which has the old files")
	case next.Primary != old.Primary || next.State != old.State || !slices.Equal(next.InSync, old.InSync):
		return refuse("R13", "the generation changes alone")
	}
	return nil
}

func holds(hs []volume.Holder, node volume.NodeID) bool {
	return slices.ContainsFunc(hs, func(h volume.Holder) bool { return h.Node == node })
}

// snapshot is the form on disk. Fields are only ever added. A build that does not
// know Forgotten takes copies of such volumes for ones that nothing explains, and
// leaves them alone.
type snapshot struct {
	Format    int             `json:"format"`
	Cluster   string          `json:"cluster"`
	Ceiling   volume.Key      `json:"ceiling"`
	MaxVolume volume.ID       `json:"max_volume"`
	Deleted   []idRange       `json:"deleted,omitempty"`
	Forgotten []idRange       `json:"forgotten,omitempty"`
	Volumes   []*volume.Entry `json:"volumes,omitempty"`
	Drains    []Drain         `json:"drains,omitempty"`
	Waived    []volume.NodeID `json:"waived,omitempty"`
}

const snapshotFormat = 1

// Write writes the catalog for Read.
func (c *Catalog) Write(w io.Writer) error {
	err := json.NewEncoder(w).Encode(snapshot{snapshotFormat, c.cluster, c.ceiling, c.maxVolume, c.deleted, c.forgotten, c.volumes, c.drains, c.waived})
	if err != nil {
		return fmt.Errorf("write catalog snapshot: %w", err)
	}
	return nil
}

// Read reads what Write wrote.
func Read(r io.Reader) (*Catalog, error) {
	var s snapshot
	if err := json.NewDecoder(r).Decode(&s); err != nil {
		return nil, fmt.Errorf("read catalog snapshot: %w", err)
	}
	if s.Format != snapshotFormat {
		return nil, fmt.Errorf("read catalog snapshot: format %d; this build knows %d", s.Format, snapshotFormat)
	}
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("read catalog snapshot: %w", err)
	}
	return &Catalog{s.Cluster, s.Ceiling, s.MaxVolume, s.Deleted, s.Forgotten, s.Volumes, s.Drains, s.Waived}, nil
}

// check refuses a snapshot that no commands could have led to: a master that
// went on with it would give out keys or ids again.
func (s *snapshot) check() error {
	if s.Ceiling == 0 {
		return errors.New("no ceiling of keys")
	}
	var last volume.ID
	for _, e := range s.Volumes {
		if e == nil || e.Volume <= last || e.Volume > s.MaxVolume {
			return fmt.Errorf("volumes out of order after volume %d, or above the highest, %d", last, s.MaxVolume)
		}
		if err := wellFormed(e); err != nil {
			return err
		}
		last = e.Volume
	}
	return checkDrains(s.Drains)
}
