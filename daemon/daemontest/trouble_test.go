package daemontest_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"weedd/daemon/config"
	"weedd/daemon/daemontest"
	"weedd/volume"
)

// inTrouble waits until a directory of n is shown in trouble, by the node itself
// and by the masters, and logs how long that took.
func inTrouble(t *testing.T, c *daemontest.Cluster, n *daemontest.Node, dir, reason string) {
	t.Helper()
	began := time.Now()
	c.Await("the trouble shows in /status", func() error {
		_, text, err := n.Do(http.MethodGet, "/status", nil)
		if err == nil && !bytes.Contains(text, []byte(reason)) {
			err = fmt.Errorf("no %q in %s", reason, text)
		}
		return err
	})
	c.Await("the trouble shows in /cluster/view", func() error {
		v, err := c.View()
		if err != nil {
			return err
		}
		for _, p := range v.Problems {
			if strings.Contains(p.What, dir) {
				return nil
			}
		}
		return fmt.Errorf("problems: %v", v.Problems)
	})
	t.Logf("the trouble showed after %v", time.Since(began))
}

// wellAgain waits until no directory of n is in trouble, by the masters.
func wellAgain(t *testing.T, c *daemontest.Cluster, n *daemontest.Node) {
	t.Helper()
	began := time.Now()
	c.Await("the directories are in use again", func() error {
		v, err := c.View()
		if err != nil {
			return err
		}
		for _, node := range v.Nodes {
			for _, d := range node.Disks {
				if node.ID == n.Self.ID && d.Fenced != "" {
					return fmt.Errorf("%s: %s", d.Dir, d.Fenced)
				}
			}
		}
		return nil
	})
	t.Logf("in use again after %v", time.Since(began))
}

// unmount moves a directory away and leaves a bare one in its place, as a mount
// that vanishes does; mount puts it back.
func unmount(t *testing.T, dir string) {
	t.Helper()
	if err := errors.Join(os.Rename(dir, dir+".away"), os.Mkdir(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
}

func mount(t *testing.T, dir string) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	hidden, err2 := filepath.Glob(filepath.Join(dir, ".*"))
	if left = append(left, hidden...); len(left) > 0 || err != nil || err2 != nil {
		t.Errorf("written into the bare directory: %v %v %v", left, err, err2)
	}
	for _, path := range left {
		_ = os.RemoveAll(path)
	}
	if err := errors.Join(os.Remove(dir), os.Rename(dir+".away", dir)); err != nil {
		t.Fatal(err)
	}
}

// Of a node's two disks one vanishes: only that one is fenced; uploads and reads
// go on everywhere, the process stays up, nothing is written in its place; and
// when it is back it is used.
func TestADiskThatVanishesIsFencedAlone(t *testing.T) {
	t.Parallel()
	c := daemontest.Start(t, 3, func(i int, c *config.Config) {
		c.Master.WritableVolumes = 3
		if i == 0 {
			first := c.Volume.Disks[0]
			c.Volume.Disks = []config.Disk{{Path: first.Path, Max: 2}, {Path: first.Path + "2", Max: 40}}
		}
	})
	n := c.Nodes[0]
	load := c.Load("replication=001")
	c.Await("both disks have volumes", func() error {
		for _, d := range n.Config.Volume.Disks {
			if there, err := filepath.Glob(filepath.Join(d.Path, "*.dat")); err != nil || len(there) == 0 {
				return fmt.Errorf("none in %s: %v", d.Path, err)
			}
		}
		return nil
	})
	load.Await(60)
	dir := n.Config.Volume.Disks[1].Path
	unmount(t, dir)
	inTrouble(t, c, n, dir, ".weedd-disk")
	load.Await(30)
	stored := load.Stop()
	for fid, data := range stored { // through the node whose disk is gone, too
		for _, at := range c.Nodes {
			if got, err := at.Read(fid); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s: %d bytes, %v", fid, len(got), err)
			}
		}
	}
	if status, _, err := n.Do(http.MethodGet, "/readyz", nil); err != nil || status != http.StatusOK {
		t.Errorf("/readyz with one disk of two: %d, %v", status, err)
	}
	mount(t, dir)
	wellAgain(t, c, n)
	c.AwaitWhole()
	for fid, data := range stored {
		if got, err := n.Read(fid); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s after the disk came back: %d bytes, %v", fid, len(got), err)
		}
	}
}

// A disk that is not mounted when the process starts is used as soon as it is, with
// the volumes on it, and nothing is written in its place meanwhile.
func TestADiskThatIsMountedLaterIsUsedThen(t *testing.T) {
	t.Parallel()
	c := daemontest.Start(t, 1, func(_ int, c *config.Config) {
		c.Master.WritableVolumes = 1
		first := c.Volume.Disks[0]
		c.Volume.Disks = []config.Disk{{Path: first.Path, Max: 2}, {Path: first.Path + "2", Max: 40}}
	})
	n := c.Nodes[0]
	files := map[string][]byte{}
	dir := n.Config.Volume.Disks[1].Path
	c.Await("a file on the second disk", func() error {
		data := fmt.Appendf(nil, "file %d", len(files))
		fid, err := n.Submit(fmt.Sprint("collection=c", len(files)), data)
		if err != nil {
			return err
		}
		files[fid] = data
		there, err := filepath.Glob(filepath.Join(dir, "*.dat"))
		if err == nil && len(there) == 0 {
			err = errors.New("it is on the first disk")
		}
		return err
	})
	n.Stop()
	unmount(t, dir)
	n.Start()
	inTrouble(t, c, n, dir, ".weedd-disk")
	c.Await("the volumes there are missed", func() error {
		v, err := c.View()
		if err != nil {
			return err
		}
		for _, p := range v.Problems {
			if strings.Contains(p.What, "none of its 1 copies in sync is there") {
				return nil
			}
		}
		return fmt.Errorf("problems: %v", v.Problems)
	})
	mount(t, dir)
	wellAgain(t, c, n)
	c.AwaitWhole()
	for fid, data := range files {
		if got, err := n.Read(fid); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %q, %v", fid, got, err)
		}
		if status, text, err := n.Do(http.MethodPut, "/"+fid, []byte("new bytes")); err != nil || status != http.StatusCreated {
			t.Errorf("write to %s: %d %s %v", fid, status, text, err)
		}
	}
	n.Stop()
	unmount(t, dir)
	n.Start() // it is known now: still not taken for a directory to be made
	inTrouble(t, c, n, dir, ".weedd-disk")
	n.Stop()
	mount(t, dir)
}

// small mounts a file system of so many MiB for the test.
func small(t *testing.T, dir string, mib int) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mib)); err != nil {
		t.Skipf("mounting a small file system is not allowed here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
}

// A disk runs full. Its node stays ready and serves reads, uploads go to another
// node, a file that belongs on the full disk is refused with the reason; and when
// there is room again it is taken, with nobody typing anything.
func TestAFullDiskIsReadAndUsedAgainWhenThereIsRoom(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "small")
	small(t, dir, 80)
	c := daemontest.Start(t, 3, func(i int, c *config.Config) {
		c.Master.WritableVolumes = 3
		if i == 0 {
			c.Volume.Disks[0].Path = dir
		}
	})
	n := c.Nodes[0]
	var here string // a file on the small disk
	data := []byte("on the small disk")
	// The three volumes of a collection may all be elsewhere, if the first report of
	// the node came late: then those of another one.
	tries, query := 0, ""
	c.Await("a file on the small disk", func() error {
		query = fmt.Sprint("collection=c", tries/20)
		tries++
		fid, err := c.Nodes[1].Submit(query, data)
		if err == nil && copyOf(n, volumeOf(t, fid)) == "" {
			err = errors.New("it went to another disk")
		}
		here = fid
		return err
	})
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 70<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	inTrouble(t, c, n, dir, "bytes are free")
	c.Await("no more ids for the volumes there", func() error {
		v, err := c.View()
		if err != nil {
			return err
		}
		for _, vol := range v.Volumes {
			if _, _, ok := vol.Entry.Holder(n.Self.ID); ok && vol.Entry.State == volume.StateOpen {
				return fmt.Errorf("volume %d is open", vol.Entry.Volume)
			}
		}
		return nil
	})
	for range 10 {
		fid, err := n.Submit("", []byte("elsewhere"))
		if err != nil || copyOf(n, volumeOf(t, fid)) != "" {
			t.Errorf("upload while one disk is full: %s, %v", fid, err)
		}
	}
	// The last look at the disk may have been while it was being filled.
	stored, longer := data, []byte("longer than before, and other bytes")
	c.Await("a file on the full disk is refused", func() error {
		status, text, err := n.Do(http.MethodPut, "/"+here, longer)
		if err == nil && status < 300 {
			stored = longer
		}
		if err == nil && (status < 500 || !bytes.Contains(text, []byte("free"))) {
			err = fmt.Errorf("%d %s", status, text)
		}
		return err
	})
	for _, at := range c.Nodes {
		if got, err := at.Read(here); err != nil || !bytes.Equal(got, stored) {
			t.Errorf("read from the full disk: %q, %v", got, err)
		}
	}
	if status, text, err := n.Do(http.MethodGet, "/readyz", nil); err != nil || status != http.StatusOK || !bytes.Contains(text, []byte("nothing new is put into")) {
		t.Errorf("/readyz with a full disk: %d %s %v", status, text, err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	wellAgain(t, c, n)
	began := time.Now()
	c.Await("the disk takes files", func() error {
		status, text, err := n.Do(http.MethodPut, "/"+here, []byte("other bytes"))
		if err == nil && status != http.StatusCreated {
			err = fmt.Errorf("%d %s", status, text)
		}
		return err
	})
	c.Await("its volumes are open", func() error {
		fid, err := n.Submit(query, data)
		if err == nil && copyOf(n, volumeOf(t, fid)) == "" {
			err = errors.New("new files still go elsewhere")
		}
		return err
	})
	t.Logf("files were taken %v later", time.Since(began))
}
