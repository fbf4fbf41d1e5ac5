package daemontest_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weedd/cluster"
	"weedd/daemon/config"
	"weedd/daemon/daemontest"
	"weedd/volume"
)

// quiet leaves compaction to the test.
func quiet(_ int, c *config.Config) { c.Master.GarbageThreshold, c.Master.WritableVolumes = 0, 2 }

// littered stores files, replaces half of them and deletes a quarter. It returns
// what is left, and what is deleted.
func littered(t *testing.T, c *daemontest.Cluster) (left map[string][]byte, deleted []string) {
	t.Helper()
	left = map[string][]byte{}
	for i := range 48 {
		data := bytes.Repeat(fmt.Appendf(nil, "file %d ", i), 300)
		n := c.Nodes[i%3]
		fid, err := n.Submit("replication=001", data)
		if err != nil {
			t.Fatal(err)
		}
		left[fid] = data
		switch i % 4 {
		case 0, 1:
			left[fid] = bytes.Repeat(fmt.Appendf(nil, "new %d ", i), 400)
			if status, _, err := n.Do(http.MethodPut, "/"+fid, left[fid]); err != nil || status != http.StatusCreated {
				t.Fatalf("replace %s: %d, %v", fid, status, err)
			}
		case 2:
			if status, _, err := n.Do(http.MethodDelete, "/"+fid, nil); err != nil || status != http.StatusAccepted {
				t.Fatalf("delete %s: %d, %v", fid, status, err)
			}
			delete(left, fid)
			deleted = append(deleted, fid)
		}
	}
	return left, deleted
}

// garbage adds up what the primaries report.
func garbage(v cluster.View) (bytes, size int64, oldest uint32) {
	oldest = 1 << 31
	for _, vol := range v.Volumes {
		for _, c := range vol.Copies {
			if c.Node == vol.Entry.Primary && c.Report != nil && c.Report.Files > 0 {
				bytes += c.Report.DeletedB
				size += c.Report.Size
				oldest = min(oldest, vol.Entry.Generation)
			}
		}
	}
	return bytes, size, oldest
}

// awaitGarbage waits until the leader has heard of it.
func awaitGarbage(c *daemontest.Cluster) (before int64) {
	c.Await("garbage is reported", func() error {
		v, err := c.View()
		if err != nil {
			return err
		}
		b, size, _ := garbage(v)
		if before = size; b < 48*300 {
			return fmt.Errorf("%d bytes", b)
		}
		return nil
	})
	return before
}

func checkFiles(t *testing.T, c *daemontest.Cluster, left map[string][]byte, deleted []string) {
	t.Helper()
	for _, n := range c.Nodes {
		for fid, data := range left {
			if got, err := n.Read(fid); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s: %d bytes, %v; want %d", fid, len(got), err, len(data))
			}
		}
		for _, fid := range deleted {
			if status, _, err := n.Do(http.MethodGet, "/"+fid, nil); err != nil || status != http.StatusNotFound {
				t.Errorf("deleted file %s: %d, %v", fid, status, err)
			}
		}
	}
}

// sameFiles compares the .dat files of all copies in sync, byte by byte.
func sameFiles(t *testing.T, c *daemontest.Cluster) {
	t.Helper()
	for _, vol := range c.AwaitWhole().Volumes {
		var first []byte
		for i, h := range vol.Entry.InSync {
			for _, n := range c.Nodes {
				if n.Self.ID != h.Node {
					continue
				}
				b, err := os.ReadFile(filepath.Join(n.Config.Volume.Disks[0].Path, fmt.Sprintf("%d.dat", vol.Entry.Volume)))
				if err != nil {
					t.Error(err)
				}
				if i == 0 {
					first = b
				} else if !bytes.Equal(first, b) {
					t.Errorf("volume %d: copies of %d and %d bytes differ", vol.Entry.Volume, len(first), len(b))
				}
			}
		}
	}
}

func noNewFiles(c *daemontest.Cluster) {
	c.Await("no new files are left over", func() error {
		for _, n := range c.Nodes {
			for _, ext := range []string{"cpd", "cpx", "cpc", "wcpr"} {
				if left, err := filepath.Glob(filepath.Join(n.Config.Volume.Disks[0].Path, "*."+ext)); err != nil || len(left) > 0 {
					return errors.Join(fmt.Errorf("%s", strings.Join(left, " ")), err)
				}
			}
		}
		return nil
	})
}

// /vol/vacuum compacts what has garbage, while files are uploaded.
func TestVolumesAreCompactedByHandUnderALoad(t *testing.T) {
	t.Parallel()
	c := daemontest.Start(t, 3, quiet)
	left, deleted := littered(t, c)
	before := awaitGarbage(c)
	load := c.Load("replication=001")
	load.Await(5)
	vacuum(c, c.Nodes[1], "0.1")
	load.Await(5)
	added := int64(0)
	for fid, data := range load.Stop() {
		left[fid] = data
		added += int64(len(data)) + 300
	}
	checkFiles(t, c, left, deleted)
	sameFiles(t, c)
	noNewFiles(c)
	v, err := c.View()
	if err != nil {
		t.Fatal(err)
	}
	b, size, generation := garbage(v)
	if b*10 > size || size >= before+added || generation < 1 {
		t.Errorf("%d bytes of garbage in %d bytes, before %d and %d added; oldest generation %d", b, size, before, added, generation)
	}
	for _, vol := range v.Volumes {
		if len(vol.Entry.InSync) != 2 || len(vol.Entry.Joining) > 0 {
			t.Errorf("%+v", vol.Entry)
		}
	}
}

// Garbage is compacted without anybody asking.
func TestVolumesAreCompactedByThemselves(t *testing.T) {
	t.Parallel()
	c := daemontest.Start(t, 3, quiet, func(_ int, cfg *config.Config) { cfg.Master.GarbageThreshold = 0.1 })
	left, deleted := littered(t, c)
	c.Await("no volume has much garbage that was not compacted", func() error {
		v, err := c.View()
		if err != nil {
			return err
		}
		for _, vol := range v.Volumes {
			if vol.Entry.Generation > 0 {
				continue // it is left alone for a while, whatever was deleted since
			}
			for _, r := range vol.Copies {
				if r.Report != nil && r.Report.DeletedB*10 > r.Report.Size {
					return fmt.Errorf("volume %d: %d of %d bytes, %q", vol.Entry.Volume, r.Report.DeletedB, r.Report.Size, r.Report.Compaction)
				}
			}
		}
		return nil
	})
	checkFiles(t, c, left, deleted)
	sameFiles(t, c)
	noNewFiles(c)
}

// Nodes die in the middle of compactions; nothing is lost, and in the end all is
// compacted.
func TestNodesDieWhileVolumesAreCompacted(t *testing.T) {
	t.Parallel()
	c := daemontest.Start(t, 3, quiet)
	left, deleted := littered(t, c)
	awaitGarbage(c)
	for i, n := range c.Nodes {
		asker := c.Nodes[(i+1)%3]
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _, _ = asker.Master(http.MethodGet, "/vol/vacuum?garbageThreshold=0.01") // what becomes of it shows below
		}()
		compacting := func(r *volume.CopyReport) bool { return r != nil && r.Compacting }
		for range 20 { // some moment of it; it may be over
			v, err := c.View()
			if err == nil && anyReport(v, compacting) {
				break
			}
		}
		n.Kill()
		n.Start()
		<-done
		c.AwaitReady()
		checkFiles(t, c, left, deleted)
		for fid := range left { // more garbage for the next
			if status, _, err := asker.Do(http.MethodPut, "/"+fid, append(left[fid], byte(i))); err != nil || status != http.StatusCreated {
				t.Fatalf("replace %s: %d, %v", fid, status, err)
			}
			left[fid] = append(left[fid], byte(i))
		}
	}
	c.AwaitWhole()
	vacuum(c, c.Nodes[0], "0.01")
	checkFiles(t, c, left, deleted)
	sameFiles(t, c)
	noNewFiles(c)
}

// vacuum has volumes compacted until none is left with so much garbage. On a busy
// machine a leader may change meanwhile, and a copy may leave and return.
func vacuum(c *daemontest.Cluster, n *daemontest.Node, share string) {
	c.T.Helper()
	c.Await("all is compacted", func() error {
		status, body, err := n.Master(http.MethodGet, "/vol/vacuum?garbageThreshold="+share)
		if err != nil || status != http.StatusOK || !bytes.Contains(body, []byte("Topology")) {
			return fmt.Errorf("vacuum: %d %s, %w", status, body, err)
		}
		v, err := c.View()
		for _, vol := range v.Volumes {
			for _, r := range vol.Copies {
				if r.Report == nil { // a new leader knows of no garbage yet
					return fmt.Errorf("volume %d: node %s has not reported", vol.Entry.Volume, r.Node)
				}
				if float64(r.Report.DeletedB) > 0.1*float64(r.Report.Size) {
					return fmt.Errorf("volume %d: %d of %d bytes are garbage, %q", vol.Entry.Volume, r.Report.DeletedB, r.Report.Size, r.Report.Compaction)
				}
			}
		}
		return err
	})
}

func anyReport(v cluster.View, ok func(*volume.CopyReport) bool) bool {
	for _, vol := range v.Volumes {
		for _, c := range vol.Copies {
			if ok(c.Report) {
				return true
			}
		}
	}
	return false
}
