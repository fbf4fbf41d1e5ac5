package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"weedd/volume"
	"weedd/volume/vfs"
)

// Names in the data directory.
const (
	nodeFile    = "node-id"    // the node id: 16 hex digits
	clusterFile = "cluster-id" // the cluster that this directory belongs to
	peersFile   = "members"    // addresses of nodes, kept by gossip
	raftDir     = "raft"       // what package consensus remembers
	stuckFile   = "raft-stuck" // the last run ended because raft could not commit
	disksFile   = "disks"      // directories for volumes that were taken into use
	copiesFile  = "copies"     // copies of volumes that were ever made on this node
	lockFile    = "lock"
)

// dataDir is the directory that makes a node the one it is. It is locked against
// a second process for as long as it is open. Safe for concurrent use.
type dataDir struct {
	path string
	lock *os.File
	node volume.NodeID

	mu      sync.Mutex
	cluster string
}

// openDataDir opens path, making it and the node id when they are not there.
func openDataDir(path string) (_ *dataDir, err error) {
	if err := os.MkdirAll(path, 0o750); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	d := &dataDir{path: path}
	if d.lock, err = os.OpenFile(filepath.Join(path, lockFile), os.O_CREATE|os.O_RDWR, 0o640); err != nil {
		return nil, fmt.Errorf("open data directory: %w", err)
	}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	if err := unix.Flock(int(d.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("data directory %s is in use by another weedd; stop that one, or give this one a directory of its own with the key data", path)
		}
		return nil, fmt.Errorf("lock data directory %s: %w", path, err)
	}
	id, err := d.read(nodeFile)
	if err != nil {
		return nil, err
	}
	if id == "" {
		id = string(volume.NewNodeID())
		if err := d.write(nodeFile, id); err != nil {
			return nil, err
		}
	}
	d.node = volume.NodeID(id)
	d.cluster, err = d.read(clusterFile)
	return d, err
}

// read gives the text of a small file, "" when it is not there.
func (d *dataDir) read(name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(d.path, name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read data directory: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func (d *dataDir) write(name, text string) error {
	if err := vfs.Replace(vfs.OS{}, filepath.Join(d.path, name), []byte(text+"\n")); err != nil {
		return fmt.Errorf("write %s in data directory: %w", name, err)
	}
	return nil
}

// ClusterID is the cluster that the directory belongs to, "" for none yet.
func (d *dataDir) ClusterID() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cluster
}

// SetClusterID records the cluster, once and for all.
func (d *dataDir) SetClusterID(id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.cluster == id:
		return nil
	case d.cluster != "":
		return fmt.Errorf("data directory %s belongs to cluster %s, not to %s; a node changes clusters only with an empty directory", d.path, d.cluster, id)
	}
	if err := d.write(clusterFile, id); err != nil {
		return err
	}
	d.cluster = id
	return nil
}

// disks lists the directories for volumes that were taken into use. One of them
// without its marker file is a disk that is not mounted, and is not used.
func (d *dataDir) disks() ([]string, error) {
	text, err := d.read(disksFile)
	if err != nil || text == "" {
		return nil, err
	}
	return strings.Split(text, "\n"), nil
}

// setDisks records them.
func (d *dataDir) setDisks(paths []string) error {
	return d.write(disksFile, strings.Join(paths, "\n"))
}

// addDisk records one more.
func (d *dataDir) addDisk(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	known, err := d.disks()
	if err != nil || slices.Contains(known, path) {
		return err
	}
	return d.setDisks(append(known, path))
}

// takeStuck reports whether the last run ended stuck, and forgets it.
func (d *dataDir) takeStuck() bool {
	return os.Remove(filepath.Join(d.path, stuckFile)) == nil
}

// markStuck is best effort: the disk may be the very reason.
func (d *dataDir) markStuck() {
	_ = os.WriteFile(filepath.Join(d.path, stuckFile), nil, 0o640)
}

// Close gives the directory free.
func (d *dataDir) Close() error { return d.lock.Close() }
