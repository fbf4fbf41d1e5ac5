package daemontest_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weedd/daemon/daemontest"
)

// A disk that was in use and is not mounted any more leaves an empty directory
// behind. Nothing must be written there.
func TestADirectoryWithoutItsMarkerIsNotUsedAgain(t *testing.T) {
	c := daemontest.Start(t, 1)
	n := c.Nodes[0]
	if _, err := n.Submit("", []byte("x")); err != nil {
		t.Fatal(err)
	}
	n.Stop()
	dir := n.Config.Volume.Disks[0].Path
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := n.Open(); err == nil || !strings.Contains(err.Error(), ".weedd-disk") {
		t.Fatalf("opened on a bare directory: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) > 0 {
		t.Errorf("written into the bare directory: %v %v", left, err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	n.Start()
	c.AwaitReady()
}
