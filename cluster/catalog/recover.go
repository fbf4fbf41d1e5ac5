package catalog

import (
	"fmt"
	"slices"

	"weedd/volume"
)

const (
	// keysAhead and the others are by how much a recovered catalog jumps over what
	// the masters that are lost may have given out or decided (rule R3). Volume
	// servers obey the entry of the highest version, and a node that is given up may
	// have entered an epoch that nobody else has heard of.
	keysAhead     = 1 << 40
	volumesAhead  = 1 << 20
	versionsAhead = 1 << 32
	epochsAhead   = 1 << 16
)

// Recovered is the catalog to go on with when a majority of the masters is lost for
// good, and with it, perhaps, the newest decisions (rule R3). Keys and volume ids
// jump far ahead. Every volume is unsure: nobody is given the lead in it until the
// copies themselves have told what they know. That takes the word of every node
// that any volume names, but for those waived: an operator says that they are lost
// for good, too. What was acknowledged on those alone is lost.
func (c *Catalog) Recovered(waived []volume.NodeID) (*Catalog, error) {
	next := *c
	if next.ceiling+keysAhead < next.ceiling || next.maxVolume+volumesAhead < next.maxVolume {
		return nil, fmt.Errorf("%w: keys end at %d and volumes at %d; there is no room to jump ahead", volume.ErrNoSpace, c.ceiling, c.maxVolume)
	}
	next.ceiling += keysAhead
	next.maxVolume += volumesAhead
	next.volumes = slices.Clone(c.volumes)
	for i, e := range next.volumes {
		unsure := *e
		unsure.Unsure = true
		unsure.Version += versionsAhead
		next.volumes[i] = &unsure
	}
	next.waived = slices.Concat(c.waived, waived)
	slices.Sort(next.waived)
	if next.waived = slices.Compact(next.waived); len(next.waived) == 0 {
		next.waived = nil
	}
	return &next, nil
}

// Waived lists the nodes whose word about unsure volumes is not waited for.
func (c *Catalog) Waived() []volume.NodeID { return c.waived }

// surely makes an unsure entry certain, or one whose copies in sync are lost. Whoever leads then was chosen by what the
// copies have on disk, so that none of the rules about who was in sync applies; the
// epoch is above all that any copy has entered, so that no older primary goes on.
func surely(old *volume.Entry, ch Change) (*volume.Entry, error) {
	if old.Unsure == ch.Lost || ch.Sure == 0 {
		return nil, fmt.Errorf("%w: volume %d: later decisions may be lost, and it is not known yet what its copies have (rule R3)", volume.ErrUnavailable, old.Volume)
	}
	next := ch.Next
	next.Spec, next.Born, next.Sources, next.Unsure = old.Spec, old.Born, old.Sources, false
	next.Epoch, next.Version, next.Compacted = max(old.Epoch, ch.Sure)+epochsAhead, old.Version+1, old.Compacted
	next.InSync, next.Joining = sortHolders(next.InSync), sortHolders(next.Joining)
	if ch.Lost {
		if len(next.InSync) != 1 || slices.Contains(old.InSync, next.InSync[0]) || old.State == volume.StateNew {
			return nil, fmt.Errorf("%w: volume %d: one copy goes on in place of those that are lost, and is none of them (rule R7)", volume.ErrBadRequest, old.Volume)
		}
	}
	if next.Generation < old.Generation {
		return nil, fmt.Errorf("%w: volume %d: generation %d after %d (rule R13)", volume.ErrBadRequest, old.Volume, next.Generation, old.Generation)
	}
	if next.Generation != old.Generation {
		next.Compacted = max(old.Epoch, ch.Sure) // it began then, or before
	}
	if next.State == volume.StateNew || old.Adopted() && next.State == volume.StateOpen {
		return nil, fmt.Errorf("%w: volume %d: state %q after a recovery", volume.ErrBadRequest, old.Volume, next.State)
	}
	if err := wellFormed(&next); err != nil {
		return nil, err
	}
	return &next, nil
}
