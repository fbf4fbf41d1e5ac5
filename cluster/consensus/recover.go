package consensus

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// Recover makes the member whose memory is in dir, and which must not run, the only
// one of its group, at the internal address addr: for when a majority of the others
// is lost for good. machine is given all that this member has, snapshot and log,
// and then asked for the value to go on with by Snapshot. Entries that were never
// committed count as committed; what the lost members alone had is lost. It answers
// the members that were.
func Recover(dir, addr string, machine Machine) (were []Member, err error) {
	if _, err := os.Stat(filepath.Join(dir, "raft.db")); err != nil {
		return nil, fmt.Errorf("%s has no raft state: this host was never a master of a cluster: %w", dir, err)
	}
	if err := checkMemory(dir); err != nil {
		return nil, fmt.Errorf("read raft state in %s: %w", dir, err)
	}
	bolt, err := openBolt(filepath.Join(dir, "raft.db"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, bolt.Close()) }()
	logger := hclog.NewNullLogger()
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, 2, logger)
	if err != nil {
		return nil, fmt.Errorf("open snapshots in %s: %w", dir, err)
	}
	known, err := raft.HasExistingState(bolt, bolt, snaps)
	if err != nil {
		return nil, fmt.Errorf("look for raft state in %s: %w", dir, err)
	}
	if !known {
		return nil, fmt.Errorf("%s has no raft state: this host was never a master of a cluster", dir)
	}
	id, err := readRaftID(dir, true)
	if err != nil {
		return nil, err
	}
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(id)
	conf.Logger = logger
	_, transport := raft.NewInmemTransport(raft.ServerAddress(addr))
	defer transport.Close()
	had, err := raft.GetConfiguration(conf, fsm{discard{machine}}, bolt, bolt, snaps, transport)
	if err != nil {
		return nil, fmt.Errorf("read the members in %s: %w", dir, err)
	}
	for _, s := range had.Servers {
		were = append(were, Member{string(s.ID), string(s.Address), s.Suffrage == raft.Voter})
	}
	only := raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(id), Address: raft.ServerAddress(addr)}}}
	if err := raft.RecoverCluster(conf, fsm{machine}, bolt, bolt, snaps, transport, only); err != nil {
		return nil, fmt.Errorf("recover raft state in %s: %w", dir, err)
	}
	return were, nil
}

// discard is a Machine that only the membership is read past.
type discard struct{ Machine }

// Restore implements Machine.
func (discard) Restore(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}
