package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"weedd/daemon"
	"weedd/daemon/config"
)

// hooks are how a running daemon and this package talk.
type hooks struct {
	reload  <-chan func() config.Config // reads the configuration again and gives the one to change to; only what changes live differs
	ready   func()                      // to be called once, when requests are served
	failing func(error)                 // to be called when the daemon is about to end by itself
	version string
}

// A daemonFunc runs a daemon until the context ends, and then stops it in order.
type daemonFunc func(ctx context.Context, cfg config.Config, log *slog.Logger, h hooks) error

// heapFloor is counted by the garbage collector as if it were in use. What a
// daemon keeps on its heap is small, so at its usual pace the collector would run
// after every few MiB of requests; it took a fifth of their processor time. Nothing
// is ever written there, so it takes addresses and no memory, but garbage may grow
// by as much before it is collected.
const heapFloor = 32 << 20

// runDaemon is the daemonFunc of the real daemon.
func runDaemon(ctx context.Context, cfg config.Config, log *slog.Logger, h hooks) error {
	floor := make([]byte, heapFloor)
	defer runtime.KeepAlive(floor)
	d, err := daemon.Open(cfg, daemon.Options{Log: log, Version: h.version, Reload: h.reload, Ready: h.ready, Failing: h.failing})
	if err != nil {
		return err
	}
	return errors.Join(d.Run(ctx), d.Close())
}

func newRunCommand(run daemonFunc) *cobra.Command {
	var path string
	var hints bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the daemon",
		Long: `Runs the daemon in the foreground, with the roles that its configuration names.
The file is --config, else the one that $WEEDD_CONFIG names, else
/etc/weedd/weedd.toml. A variable such as WEEDD_MASTER_HTTP overrides a key
(here http below [master]). Anything that is not understood is refused, all
faults at once.

SIGTERM and SIGINT stop it in order: leadership is handed over and requests in
flight are finished; a second one stops it at once. What is not closed 15 s after
limits.stop, as on a disk that hangs, is left as it is. SIGHUP reads the
configuration again, changes what can change live and logs what needs a restart.

Exit codes: 0 stopped as told, 1 failed, 2 command line or configuration wrong.`,
		Example: `  weedd run --config configs/one-node.toml
  WEEDD_LOG_LEVEL=debug weedd run
  kill -HUP $(pidof weedd)   # read the configuration again`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("hints") {
				hints = isTerminal(cmd.OutOrStdout())
			}
			signals := make(chan os.Signal, 8)
			signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
			defer signal.Stop(signals)
			path := configPath(path)
			p := &process{
				path:    path,
				load:    func() (config.Config, error) { return config.Load(path, os.Environ()) },
				signals: signals,
				deaf:    func() { signal.Reset(syscall.SIGTERM, syscall.SIGINT) },
				stderr:  cmd.ErrOrStderr(),
			}
			if hints {
				p.hints = cmd.OutOrStdout()
			}
			return p.run(context.WithoutCancel(cmd.Context()), run) // signals are p's
		},
	}
	addConfigFlag(cmd, &path)
	cmd.Flags().BoolVar(&hints, "hints", false, "print what to type next when the daemon is ready (default: on a terminal)")
	return cmd
}

// A process runs one daemon and translates signals for it.
type process struct {
	path    string
	load    func() (config.Config, error)
	signals <-chan os.Signal
	deaf    func() // from now on, signals that stop do so at once
	stderr  io.Writer
	hints   io.Writer // nil for none

	cfg     atomic.Pointer[config.Config] // in force; the daemon changes it when it calls again
	log     *slog.Logger
	logging *logControl
}

func (p *process) run(ctx context.Context, serve daemonFunc) error {
	cfg, err := p.load()
	if err != nil {
		return err
	}
	p.cfg.Store(&cfg)
	p.log, p.logging = newLog(p.stderr, cfg.Log)
	reload := make(chan func() config.Config, 1)
	failing := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	version := readVersion().Version
	p.log.Info("starting", "version", version, "config", p.path, "roles", cfg.Roles.String(), "address", cfg.Address, "data", cfg.Data)
	done := make(chan error, 1)
	go func() {
		done <- serve(ctx, cfg, p.log, hooks{reload: reload, ready: func() { p.ready(cfg) }, failing: func(err error) { failing <- err }, version: version})
	}()
	var limit time.Duration // for the stop; 0 for none
	var late <-chan time.Time
	for {
		select {
		case err := <-done:
			return p.end(ctx, err)
		case <-late:
			return p.end(ctx, fmt.Errorf("it does not stop: a disk that hangs, most likely; it was given limits.stop (%v) and %v more, and ends now; nothing that was acknowledged is lost", limit, daemon.StopGrace))
		case err := <-failing:
			p.log.Error("stopping: this node cannot go on", "err", err)
			late = time.After(daemon.StopGrace)
		case s := <-p.signals:
			if s == syscall.SIGHUP {
				select {
				case reload <- p.again:
				default: // one that has not begun yet will read the newest
				}
				continue
			}
			p.log.Info("stopping; a second signal stops at once", "signal", s.String())
			p.deaf()
			cancel()
			limit = p.cfg.Load().Limits.Stop
			late = time.After(limit + daemon.StopGrace)
		}
	}
}

// end says how the daemon ended. After a signal, the end of the context is no
// failure.
func (p *process) end(ctx context.Context, err error) error {
	if err == nil || err == ctx.Err() {
		p.log.Info("stopped")
		return nil
	}
	p.log.Error("stopped by a failure", "err", err)
	return &saidError{err}
}

// again reads the configuration again and gives the one that is in force then. One
// with faults changes nothing.
func (p *process) again() config.Config {
	next, err := p.load()
	if err != nil {
		p.refuse(err)
		return *p.cfg.Load()
	}
	old := *p.cfg.Load()
	live, restart := config.Diff(old, next)
	cfg := config.Live(old, next)
	p.cfg.Store(&cfg)
	p.logging.set(cfg.Log)
	p.log.Info("configuration reloaded", "config", p.path, "changed", live)
	if len(restart) > 0 {
		p.log.Warn("some changes need a restart and are not in force", "keys", restart)
	}
	return cfg
}

// refuse logs every fault.
func (p *process) refuse(err error) {
	var faults *config.Error
	if !errors.As(err, &faults) {
		p.log.Error("configuration not reloaded", "config", p.path, "err", err)
		return
	}
	for _, c := range faults.Complaints {
		p.log.Error("configuration not reloaded", "config", p.path, "fault", c.Error())
	}
}

// ready prints what to type next.
func (p *process) ready(cfg config.Config) {
	if p.hints == nil {
		return
	}
	fmt.Fprint(p.hints, hintText(cfg))
}
