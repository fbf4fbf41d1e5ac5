package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"weedd/daemon"
	"weedd/daemon/config"
)

const oneNode = "roles = [\"master\", \"volume\"]\naddress = \"127.0.0.1\"\n[master]\n[volume]\n[log]\nlevel = \"debug\"\n"

// running is a process whose daemon and signals the test plays.
type running struct {
	t       *testing.T
	path    string
	signals chan os.Signal
	hooks   hooks
	ctx     context.Context // of the daemon
	end     chan error      // what the daemon returns
	ended   chan error      // what run returned
	stderr  lockedBuffer
	hints   lockedBuffer
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func start(t *testing.T) *running {
	t.Helper()
	r := &running{t: t, path: filepath.Join(t.TempDir(), "weedd.toml"), signals: make(chan os.Signal), end: make(chan error, 1), ended: make(chan error, 1)}
	r.write(oneNode)
	p := &process{
		path:    r.path,
		load:    func() (config.Config, error) { return config.Load(r.path, nil) },
		signals: r.signals, deaf: func() {},
		stderr: &r.stderr, hints: &r.hints,
	}
	started := make(chan struct{})
	go func() {
		r.ended <- p.run(context.Background(), func(ctx context.Context, _ config.Config, _ *slog.Logger, h hooks) error {
			r.hooks, r.ctx = h, ctx
			close(started)
			select {
			case err := <-r.end:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	<-started
	return r
}

func (r *running) write(text string) {
	r.t.Helper()
	if err := os.WriteFile(r.path, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *running) signal(s os.Signal) {
	r.t.Helper()
	select {
	case r.signals <- s:
	case <-time.After(10 * time.Second):
		r.t.Fatal("nobody hears signals")
	}
}

// reload reads the configuration again, as the daemon does.
func (r *running) reload() config.Config {
	r.t.Helper()
	select {
	case again := <-r.hooks.reload:
		return again()
	case <-time.After(10 * time.Second):
		r.t.Fatal("the daemon does not hear of SIGHUP")
		return config.Config{}
	}
}

// stop ends the process, so that everything is in its log.
func (r *running) stop() (log string) {
	r.t.Helper()
	r.signal(syscall.SIGTERM)
	if err := <-r.ended; err != nil {
		r.t.Errorf("a stop by SIGTERM ended with %v", err)
	}
	return r.stderr.String()
}

func TestSIGTERMEndsTheDaemonWithoutFailure(t *testing.T) {
	t.Parallel()
	r := start(t)
	if log := r.stop(); !strings.Contains(log, "msg=stopped\n") || r.ctx.Err() == nil {
		t.Errorf("log:\n%s", log)
	}
}

// A daemon that waits for a disk for ever does not keep the process.
func TestADaemonThatDoesNotStopIsLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "weedd.toml")
		if err := os.WriteFile(path, []byte(oneNode), 0o600); err != nil {
			t.Fatal(err)
		}
		var stderr lockedBuffer
		signals, stuck := make(chan os.Signal, 1), make(chan struct{})
		defer close(stuck)
		p := &process{load: func() (config.Config, error) { return config.Load(path, nil) }, signals: signals, deaf: func() {}, stderr: &stderr}
		began := time.Now()
		signals <- syscall.SIGTERM
		err := p.run(t.Context(), func(context.Context, config.Config, *slog.Logger, hooks) error {
			<-stuck
			return nil
		})
		var said *saidError
		if limit := config.Default().Limits.Stop + daemon.StopGrace; !errors.As(err, &said) || time.Since(began) != limit || !strings.Contains(stderr.String(), "hangs") {
			t.Errorf("ended after %v with %v; log:\n%s", time.Since(began), err, stderr.String())
		}
	})
}

func TestADaemonThatFailsAndDoesNotEndIsLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "weedd.toml")
		if err := os.WriteFile(path, []byte(oneNode), 0o600); err != nil {
			t.Fatal(err)
		}
		var stderr lockedBuffer
		stuck := make(chan struct{})
		defer close(stuck)
		p := &process{load: func() (config.Config, error) { return config.Load(path, nil) }, deaf: func() {}, stderr: &stderr}
		began := time.Now()
		err := p.run(t.Context(), func(_ context.Context, _ config.Config, _ *slog.Logger, h hooks) error {
			h.failing(errors.New("raft is stuck"))
			<-stuck
			return nil
		})
		var said *saidError
		if !errors.As(err, &said) || time.Since(began) != daemon.StopGrace || !strings.Contains(stderr.String(), "raft is stuck") {
			t.Errorf("ended after %v with %v; log:\n%s", time.Since(began), err, stderr.String())
		}
	})
}

func TestADaemonThatFailsIsLoggedAndReturned(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.end <- errors.New("disk on fire")
	var said *saidError
	if err := <-r.ended; !errors.As(err, &said) {
		t.Errorf("ended with %v", err)
	}
	if log := r.stderr.String(); !strings.Contains(log, `level=ERROR msg="stopped by a failure" err="disk on fire"`) {
		t.Errorf("log:\n%s", log)
	}
}

func TestSIGHUPChangesWhatIsLiveAndSaysWhatNeedsARestart(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.write(strings.Replace(oneNode, "[volume]", "http = 9444\n[limits]\nhold = \"3s\"\n[volume]", 1))
	r.signal(syscall.SIGHUP)
	cfg := r.reload()
	if cfg.Limits.Hold != 3*time.Second || cfg.Master.HTTP.Port != 9333 {
		t.Errorf("reloaded with hold %s and port %d", cfg.Limits.Hold, cfg.Master.HTTP.Port)
	}
	r.signal(syscall.SIGHUP) // again: what needs a restart is still not in force
	r.reload()
	log := r.stop()
	if strings.Count(log, `msg="configuration reloaded"`) != 2 || !strings.Contains(log, "changed=[limits.hold]") || !strings.Contains(log, "changed=[]") {
		t.Errorf("log:\n%s", log)
	}
	if strings.Count(log, "level=WARN msg=\"some changes need a restart and are not in force\" keys=[master.http]") != 2 {
		t.Errorf("log:\n%s", log)
	}
}

func TestSIGHUPWithFaultsChangesNothing(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.write(oneNode + "[limits]\nhold = 3\nstop = \"2s\"\nhuld = \"3s\"\n")
	r.signal(syscall.SIGHUP)
	if cfg := r.reload(); cfg.Limits.Stop != config.Default().Limits.Stop {
		t.Errorf("reloaded with %+v", cfg.Limits)
	}
	log := r.stop()
	for _, fault := range []string{`:8: limits.hold: 3: durations need a unit`, ":10: limits.huld: unknown key; did you mean limits.hold?"} {
		if !strings.Contains(log, fault) {
			t.Errorf("%s is missing in the log:\n%s", fault, log)
		}
	}
}

func TestADaemonThatIsSlowToReloadGetsTheNewest(t *testing.T) {
	t.Parallel()
	r := start(t)
	for _, hold := range []string{"1s", "2s", "3s"} {
		r.write(oneNode + "[limits]\nhold = \"" + hold + "\"\n")
		r.signal(syscall.SIGHUP)
	}
	if cfg := r.reload(); cfg.Limits.Hold != 3*time.Second {
		t.Errorf("reloaded with hold %s", cfg.Limits.Hold)
	}
	if len(r.hooks.reload) > 0 { // the last signal may have come a moment later
		r.reload()
	}
	if n := strings.Count(r.stop(), "configuration reloaded"); n < 1 || n > 2 {
		t.Errorf("three signals while the daemon was busy made %d reloads", n)
	}
}

func TestSIGHUPChangesTheLogInUse(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.write(strings.Replace(oneNode, `level = "debug"`, "level = \"warn\"\nformat = \"json\"", 1) + "[gossip]\nport = 7947\n")
	r.signal(syscall.SIGHUP)
	r.reload()
	log := r.stop()
	lines := strings.Split(strings.TrimSpace(log), "\n")
	var last struct{ Level, Msg string }
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || last.Level != "WARN" {
		t.Errorf("%v in the last line of the log:\n%s", err, log)
	}
}

func TestWhatToTypeNextIsPrintedWhenReady(t *testing.T) {
	t.Parallel()
	r := start(t)
	if s := r.hints.String(); s != "" {
		t.Errorf("printed before: %s", s)
	}
	r.hooks.ready()
	if s := r.hints.String(); !strings.Contains(s, "curl -F file=@some.jpg http://localhost:9333/submit") {
		t.Errorf("printed: %s", s)
	}
	r.stop()
}
