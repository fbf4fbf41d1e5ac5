package daemontest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"weedd/cluster"
	"weedd/daemon/config"
	"weedd/daemon/daemontest"
	"weedd/volume"
)

// The only copy of a volume is on a host that is lost: an operator gives the volume up,
// and nothing is missing any more. When the host comes back after all its files are not
// served, and not deleted either.
func TestAVolumeOfWhichNoCopyIsLeftIsForgottenByHand(t *testing.T) {
	t.Parallel()
	c := daemontest.New(t)
	for i := range 2 {
		c.Add(1, func(_ int, cfg *config.Config) {
			cfg.Roles = []cluster.Role{cluster.RoleMaster, cluster.RoleVolume}[i]
			cfg.Master.WritableVolumes = 1
		})
	}
	c.AwaitReady()
	master, lost := c.Nodes[0], c.Nodes[1]
	fid, err := master.Submit("replication=000", []byte("only here"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := volume.ParseFileID(fid)
	if err != nil {
		t.Fatal(err)
	}
	forget := cluster.Operation{Forget: &cluster.Forget{Volumes: []volume.ID{id.Volume}}}
	if _, err := c.TryOperate(forget); err == nil {
		t.Fatal("a volume that is there was forgotten")
	}
	lost.Kill()
	c.Await("the volume is forgotten", func() error { // the leader has to see that its host is gone
		_, err := c.TryOperate(forget)
		return err
	})
	view, err := c.View()
	if err != nil || len(view.Volumes) != 0 {
		t.Errorf("%+v, %v", view.Volumes, err)
	}
	lost.Start()
	c.AwaitReady()
	c.Await("what came back is set aside, and told of", func() error {
		view, err := c.View()
		if err != nil {
			return err
		}
		for _, n := range view.Nodes {
			if len(n.Aside) == 1 && n.Aside[0].Volume == id.Volume {
				return nil
			}
		}
		return fmt.Errorf("%+v", view.Nodes)
	})
	c.AwaitWhole()
	if data, err := lost.Read(fid); err == nil {
		t.Errorf("it is served: %q", data)
	}
	files, err := filepath.Glob(filepath.Join(lost.Config.Volume.Disks[0].Path, "aside", "*", "*.dat"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	if s, err := os.Stat(files[0]); err != nil || s.Size() == 0 {
		t.Errorf("%v, %v", s, err)
	}
}
