package daemon

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"weedd/cluster"
	"weedd/cluster/consensus"
	"weedd/daemon/config"
	"weedd/volume"
)

// Recovered is what Recover made of the memory of a master.
type Recovered struct {
	Cluster string             `json:"cluster"`
	Was     []consensus.Member `json:"was"`     // the masters before
	Volumes int                `json:"volumes"` // that wait for the word of their nodes
	Waived  []volume.NodeID    `json:"waived,omitempty"`
}

// Recover makes a master that does not run the only one of its cluster (rule R3),
// when a majority is lost for good. Nodes in without are given up: volumes do not
// wait for what they have.
func Recover(cfg config.Config, without []volume.NodeID) (Recovered, error) {
	if !cfg.Has(cluster.RoleMaster) {
		return Recovered{}, fmt.Errorf("this node is no master, by its configuration: recover on the host of one that is left")
	}
	dir, err := openDataDir(cfg.Data)
	if err != nil {
		return Recovered{}, err
	}
	defer dir.Close()
	m := &recovering{without: without}
	m.replicated = newReplicated(func(err error) { m.unknown = err })
	were, err := consensus.Recover(filepath.Join(cfg.Data, raftDir), cfg.InternalAddr(), m)
	if err != nil {
		return Recovered{}, err
	}
	cat, _ := m.Catalog()
	return Recovered{Cluster: cat.ClusterID(), Was: were, Volumes: len(cat.Volumes()), Waived: cat.Waived()}, nil
}

// recovering is a catalog whose snapshot is the one to go on with.
type recovering struct {
	*replicated
	without []volume.NodeID
	unknown error // a command that this build does not know
}

// Snapshot implements consensus.Machine.
func (r *recovering) Snapshot() func(io.Writer) error {
	now, _ := r.Catalog()
	next, err := now.Recovered(r.without)
	if err = errors.Join(err, r.unknown); err != nil {
		return func(io.Writer) error { return fmt.Errorf("recover the catalog: %w", err) }
	}
	r.set(next)
	return next.Write
}
