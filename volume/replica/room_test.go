package replica_test

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"weedd/volume"
	"weedd/volume/vfs/faultfs"
)

// fill leaves a disk no room for epochs; what was begun is refused.
func fill(fs *faultfs.FS) {
	fs.SetFault(func(op faultfs.Op) error {
		if op.Kind == faultfs.Write && strings.Contains(op.Path, ".wcopy") {
			return syscall.ENOSPC
		}
		return nil
	})
}

func TestACopyWithoutRoomForItsEpochLeadsWhenThereIsRoom(t *testing.T) {
	t.Parallel()
	c := start(t, volume.Spec{}, "a")
	c.at("a").mustWrite(t, 1, "one")
	c.stop("a")
	n := c.nodes["a"]
	fill(n.fs)
	c.restart("a") // and asks for a new epoch (rule R10)
	c.await("the epoch has begun", func(e volume.Entry) bool { return e.Epoch >= 2 })
	if err := c.at("a").write(2, "refused"); !errors.Is(err, volume.ErrUnavailable) {
		t.Errorf("write in an epoch that is not durable: %v", err)
	}
	n.fs.SetFault(nil)
	awaitLead(t, c.at("a").Replica)
	c.at("a").mustWrite(t, 3, "three")
	c.at("a").mustRead(t, 1, "one")
	if rep := c.at("a").Report(); rep.State != volume.CopyHealthy {
		t.Errorf("state %s: %s", rep.State, rep.Reason)
	}
}

func TestAPrimaryWithoutRoomForItsEpochMakesWay(t *testing.T) {
	t.Parallel()
	c := start(t, volume.Spec{}, "a", "b")
	c.at("a").mustWrite(t, 1, "one")
	fill(c.nodes["b"].fs)
	c.promote("b")
	c.await("a leads again", func(e volume.Entry) bool { return e.Primary == "a" && e.Epoch >= 3 })
	c.nodes["b"].fs.SetFault(nil)
	awaitLead(t, c.at("a").Replica)
	c.at("a").mustWrite(t, 2, "two")
	c.await("both are in sync", inSync(2))
	c.identical("a", "b")
	if rep := c.at("b").Report(); rep.State != volume.CopyHealthy {
		t.Errorf("state %s: %s", rep.State, rep.Reason)
	}
}

func TestAFollowerWithoutRoomAttachesWhenThereIsRoom(t *testing.T) {
	t.Parallel()
	c := start(t, volume.Spec{}, "a", "b")
	c.at("a").mustWrite(t, 1, "one")
	c.identical("a", "b")
	c.stop("b")
	c.at("a").mustWrite(t, 2, "two")
	c.await("b is dropped", inSync(1))
	tried := make(chan struct{}, 1)
	c.nodes["b"].fs.SetFault(func(op faultfs.Op) error {
		if op.Kind != faultfs.Write || !strings.Contains(op.Path, ".wcopy") {
			return nil
		}
		select {
		case tried <- struct{}{}:
		default:
		}
		return syscall.ENOSPC
	})
	c.restart("b")
	<-tried
	c.at("a").mustWrite(t, 3, "three")
	if e := c.now(); len(e.InSync) != 1 {
		t.Errorf("in sync without having attached: %+v", e)
	}
	c.nodes["b"].fs.SetFault(nil)
	c.await("b is back", inSync(2))
	c.identical("a", "b")
	if rep := c.at("b").Report(); rep.State != volume.CopyHealthy {
		t.Errorf("state %s: %s", rep.State, rep.Reason)
	}
}
