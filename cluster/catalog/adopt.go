package catalog

import (
	"cmp"
	"fmt"
	"slices"

	"weedd/volume"
)

// Adopt makes an entry, in state new, for a volume whose files SeaweedFS left on
// volume servers (rule R15). Its number is that of the files.
type Adopt struct {
	Volume volume.ID `json:"volume"`
	// Version is 0 where the number must be free and never have been a volume of
	// ours, else that of an entry to plan anew: of an adoption not yet finished.
	Version    uint64          `json:"version,omitempty"`
	Spec       volume.Spec     `json:"spec"`
	Generation uint32          `json:"generation"`
	Holder     volume.Holder   `json:"holder"`  // makes the first copy of ours, out of all sources
	Sources    []volume.Source `json:"sources"` // the holder's own files among them
	MaxKey     volume.Key      `json:"max_key"` // highest key in any of them
}

const (
	// LastAdopted is the highest number that is adopted. The next volume of ours
	// gets a higher one, so one near the end would use all numbers up.
	LastAdopted = volume.ID(1) << 31
	// lastRaising is the highest key above which the ceiling is raised, for the
	// same reason: clients of SeaweedFS may choose keys.
	lastRaising = volume.Key(1)<<63 - 1
)

// adopt makes or replaces the entry of one adopted volume. It raises the ceiling
// of keys and the highest volume id above those of the volume (rule R1). Keys
// above lastRaising raise nothing, and need not: an adopted volume is given no
// new ids, so a key that is given out twice is never twice in one volume.
func (c *Catalog) adopt(cmd Adopt) Result {
	i, there := c.find(cmd.Volume)
	e := &volume.Entry{
		Volume: cmd.Volume, Spec: cmd.Spec, State: volume.StateNew, Epoch: 1, Version: 1, Generation: cmd.Generation,
		Primary: cmd.Holder.Node, InSync: []volume.Holder{cmd.Holder}, Sources: sortSources(cmd.Sources),
	}
	if there && cmd.Version != 0 {
		e.Epoch, e.Version = c.volumes[i].Epoch+1, c.volumes[i].Version+1
	}
	if there && c.volumes[i].Unsure {
		return Result{Err: fmt.Errorf("%w: volume %d: it is not known yet what its copies have (rule R3)", volume.ErrUnavailable, cmd.Volume)}
	}
	if err := c.adoptable(cmd); err != nil {
		return Result{Err: err}
	}
	if err := wellFormed(e); err != nil {
		return Result{Err: err}
	}
	c.volumes = slices.Clone(c.volumes)
	if there {
		c.volumes[i] = e
	} else {
		c.volumes = slices.Insert(c.volumes, i, e)
	}
	c.maxVolume = max(c.maxVolume, cmd.Volume)
	if cmd.MaxKey <= lastRaising {
		c.ceiling = max(c.ceiling, cmd.MaxKey+1)
	}
	return Result{Entries: []*volume.Entry{e}}
}

// adoptable says why a volume may not be adopted.
func (c *Catalog) adoptable(cmd Adopt) error {
	refuse := func(sentinel error, why string) error {
		return fmt.Errorf("%w: adopt volume %d: %s (rule R15)", sentinel, cmd.Volume, why)
	}
	old, there := c.Volume(cmd.Volume)
	ours := func(s volume.Source) bool { return s.Node == cmd.Holder.Node }
	switch {
	case cmd.Volume == 0 || cmd.Volume > LastAdopted:
		return refuse(volume.ErrBadRequest, fmt.Sprintf("numbers above %d are not adopted", LastAdopted))
	case !slices.ContainsFunc(cmd.Sources, ours):
		return refuse(volume.ErrBadRequest, fmt.Sprintf("node %s has no files of it", cmd.Holder.Node))
	case c.Deleted(cmd.Volume):
		return refuse(volume.ErrExists, "a volume of ours had this number and was deleted")
	case cmd.Version == 0 && there:
		return refuse(volume.ErrExists, "there is a volume of this number")
	case cmd.Version == 0:
		return nil
	case !there:
		return refuse(volume.ErrNoVolume, "it is not there any more")
	case old.Version != cmd.Version:
		return refuse(volume.ErrStale, fmt.Sprintf("it is at version %d; planned on version %d", old.Version, cmd.Version))
	case !old.Adopted() || old.State != volume.StateNew:
		return refuse(volume.ErrBadRequest, "it is in use")
	}
	return nil
}

func sortSources(ss []volume.Source) []volume.Source {
	ss = slices.Clone(ss)
	slices.SortFunc(ss, func(a, b volume.Source) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Print, b.Print))
	})
	return slices.Compact(ss)
}
