package daemontest_test

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"

	"weedd/cluster"
	"weedd/daemon/config"
	"weedd/daemon/daemontest"
	"weedd/volume"
)

// The only copy with all of a volume is gone, and one that fell behind is there. An
// operator gives the first one up, the volume goes on with the second, and the first,
// which comes back after all, is not followed.
func TestACopyThatFellBehindIsPromotedByHand(t *testing.T) {
	t.Parallel()
	c := daemontest.New(t)
	for i := range 3 {
		c.Add(1, func(_ int, cfg *config.Config) {
			cfg.Roles = []cluster.Role{cluster.RoleMaster, cluster.RoleVolume, cluster.RoleVolume}[i]
			cfg.Master.WritableVolumes = 1
		})
	}
	c.AwaitReady()
	fid, err := c.Nodes[0].Submit("replication=001", []byte("old"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := volume.ParseFileID(fid)
	if err != nil {
		t.Fatal(err)
	}
	put := func(n *daemontest.Node, data string) {
		t.Helper()
		c.Await("a write of "+data, func() error {
			status, answer, err := n.Do(http.MethodPut, "/"+fid, []byte(data))
			if err == nil && status/100 != 2 {
				err = fmt.Errorf("%d %s", status, answer)
			}
			return err
		})
	}
	holds := func(n *daemontest.Node, want string) {
		t.Helper()
		c.Await("the file is "+want, func() error {
			got, err := n.Read(fid)
			if err == nil && !bytes.Equal(got, []byte(want)) {
				err = fmt.Errorf("it is %q", got)
			}
			return err
		})
	}
	ahead, behind := c.Nodes[1], c.Nodes[2]
	behind.Kill()
	put(ahead, "new") // it leaves the set
	ahead.Kill()
	behind.Start()
	promote := cluster.Operation{Promote: &cluster.Promote{Volume: id.Volume, Node: behind.Self.VolumeHTTP}}
	c.Await("the copy is promoted", func() error { // the leader has to see that the other one is gone
		_, err := c.TryOperate(promote)
		return err
	})
	holds(behind, "old") // what only the other one had is lost
	put(behind, "newer")
	ahead.Start()
	c.AwaitReady()
	c.AwaitWhole()
	holds(ahead, "newer")
	c.Await("what came back is set aside, and told of", func() error {
		view, err := c.View()
		if err != nil {
			return err
		}
		for _, n := range view.Nodes {
			if n.ID == ahead.Self.ID && len(n.Aside) > 0 {
				return nil
			}
		}
		return fmt.Errorf("%+v", view.Nodes)
	})
}
