package daemon

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"weedd/cluster"
	"weedd/daemon/config"
)

// A failure that the node cannot do without ends it: one that stays half alive
// serves nobody, and is not started anew either.
func TestAFailureEndsTheNode(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := config.Default()
	cfg.Data, cfg.Address, cfg.Roles = filepath.Join(dir, "data"), "127.0.0.1", cluster.RoleMaster|cluster.RoleVolume
	cfg.Internal.Port, cfg.Gossip.Port, cfg.Master.HTTP.Port, cfg.Volume.HTTP.Port = 0, 0, 0, 0
	cfg.Volume.Disks = []config.Disk{{Path: filepath.Join(dir, "volumes"), Max: 1}}
	ready, failing := make(chan struct{}), make(chan error, 1)
	d, err := Open(cfg, Options{Log: slog.New(slog.DiscardHandler), Ready: func() { close(ready) }, Failing: func(err error) { failing <- err }})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- d.Run(context.Background()) }()
	limit := time.After(time.Minute)
	wait := func(what string, c <-chan error) error {
		select {
		case err := <-c:
			return err
		case <-limit:
			t.Fatal("waited in vain until " + what)
			return nil
		}
	}
	select {
	case <-ready:
	case err := <-done:
		t.Fatalf("ended with %v", err)
	case <-limit:
		t.Fatal("not ready")
	}
	fire := errors.New("raft is on fire")
	d.fail(fire)
	if err := wait("the failure is told", failing); !errors.Is(err, fire) {
		t.Errorf("told %v", err)
	}
	if err := wait("the node has ended", done); !errors.Is(err, fire) {
		t.Errorf("ended with %v", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
