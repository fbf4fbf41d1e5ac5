package catalog

import (
	"cmp"
	"fmt"
	"slices"

	"weedd/volume"
)

// Drain is the wish that a node, or one directory of it, be emptied: no copy is
// put there, and those that are there move elsewhere. It holds until it is undone,
// whoever leads.
type Drain struct {
	Node volume.NodeID `json:"node"`
	Dir  string        `json:"dir,omitempty"`  // "" for the whole node
	Undo bool          `json:"undo,omitempty"` // in a command: the wish ends
}

// maxDrains bounds the wishes in a catalog.
const maxDrains = 1000

// Drains lists what is to be emptied, by node and directory.
func (c *Catalog) Drains() []Drain { return c.drains }

func compareDrains(a, b Drain) int {
	return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Dir, b.Dir))
}

// drain begins or ends a wish. One that holds already is no error, nor is to end one
// that does not hold: an operator's question may be asked twice, when leaders change.
func (c *Catalog) drain(cmd Drain) Result {
	d := Drain{Node: cmd.Node, Dir: cmd.Dir}
	i, holds := slices.BinarySearchFunc(c.drains, d, compareDrains)
	switch {
	case d.Node == "":
		return Result{Err: fmt.Errorf("%w: a drain names a node", volume.ErrBadRequest)}
	case cmd.Undo && holds:
		c.drains = slices.Delete(slices.Clone(c.drains), i, i+1)
		if len(c.drains) == 0 {
			c.drains = nil // as a snapshot reads back
		}
	case !cmd.Undo && !holds && len(c.drains) >= maxDrains:
		return Result{Err: fmt.Errorf("%w: %d nodes and directories are being drained already", volume.ErrBadRequest, maxDrains)}
	case !cmd.Undo && !holds:
		c.drains = slices.Insert(slices.Clone(c.drains), i, d)
	}
	return Result{}
}

func (d Drain) String() string {
	if d.Dir == "" {
		return fmt.Sprintf("node %s", d.Node)
	}
	return fmt.Sprintf("directory %s of node %s", d.Dir, d.Node)
}

// checkDrains refuses a list that no commands could have led to.
func checkDrains(ds []Drain) error {
	for i, d := range ds {
		if d.Node == "" || d.Undo || i > 0 && compareDrains(ds[i-1], d) >= 0 {
			return fmt.Errorf("drains out of order, or without a node: %v", ds)
		}
	}
	return nil
}
