//go:build e2e

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"weedd/daemon/probe"
)

// faultTime is from a fault until it is healed: E2E_FAULT_TIME, or short.
func faultTime(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("E2E_FAULT_TIME")
	if text == "" {
		return 6 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("E2E_FAULT_TIME: %v", err)
	}
	return d
}

// processFault is one thing that happens to one of three nodes.
type processFault struct {
	name   string
	leader bool // it happens to the leader, else to a follower
	inject func(ctx context.Context, victim *node) error
	heal   func(ctx context.Context, victim *node) error
}

func signalled(s syscall.Signal) func(context.Context, *node) error {
	return func(_ context.Context, n *node) error { return n.cmd.Process.Signal(s) }
}

// ended waits for the process that a signal is to end.
func ended(s syscall.Signal) func(context.Context, *node) error {
	return func(ctx context.Context, n *node) error {
		if err := n.cmd.Process.Signal(s); err != nil {
			return err
		}
		select {
		case <-n.exited:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func started(_ context.Context, n *node) error { n.start(); return nil }

var processFaults = []processFault{
	{"SIGTERM, leader", true, ended(syscall.SIGTERM), started},
	{"SIGTERM, follower", false, ended(syscall.SIGTERM), started},
	{"kill -9, leader", true, ended(syscall.SIGKILL), started},
	{"kill -9, follower", false, ended(syscall.SIGKILL), started},
	{"SIGSTOP, leader", true, signalled(syscall.SIGSTOP), signalled(syscall.SIGCONT)},
	{"SIGSTOP, follower", false, signalled(syscall.SIGSTOP), signalled(syscall.SIGCONT)},
}

// faults injects one fault after the other into three processes, under load at the
// nodes that stay up, and tolerates no failed request, no wrong answer and no copy
// that is missing afterwards.
func faults(t *testing.T, binary string) {
	nodes := threeHosts(t, binary)
	for _, n := range nodes {
		n.start()
	}
	awaitReady(t, nodes[:]...)
	opt := probe.Options{Replication: "001", For: faultTime(t), Steady: 3 * time.Second, Recover: wholeWithin, Progress: func(step string) { t.Log(step) }}
	var reports []*probe.Report
	for i, f := range processFaults {
		t.Run(f.name, func(t *testing.T) {
			victim, others := leaderOf(t, nodes[0], nodes)
			if !f.leader {
				victim, others = others[0], []*node{victim, others[1]}
			}
			opt.Masters, opt.Seed = []string{others[0].master(), others[1].master()}, uint64(i)
			reports = append(reports, probed(t, opt, probe.Fault{
				Name:   f.name,
				Inject: func(ctx context.Context) error { return f.inject(ctx, victim) },
				Heal:   func(ctx context.Context) error { return f.heal(ctx, victim) },
			}))
		})
	}
	t.Run("rolling restart", func(t *testing.T) {
		opt.Masters, opt.MoveOn = []string{nodes[0].master(), nodes[1].master(), nodes[2].master()}, true
		opt.For = time.Second
		reports = append(reports, probed(t, opt, probe.Fault{Name: "rolling restart", Inject: func(ctx context.Context) error { return rolling(ctx, nodes) }}))
	})
	show(t, reports)
	v := awaitWhole(t, nodes[0])
	stop(t, nodes[:]...)
	compareCopies(t, v, nodes)
}

// copying measures what clients notice of copies that are made under load: a node
// with some hundred MiB is drained, which is repair without anything that fails.
func copying(t *testing.T, binary string) {
	nodes := threeHosts(t, binary)
	for _, n := range nodes {
		n.start()
	}
	awaitReady(t, nodes[:]...)
	leader, others := leaderOf(t, nodes[0], nodes)
	weedd := func(ctx context.Context, args ...string) error {
		out, err := exec.CommandContext(ctx, binary, append(args, "--master", leader.master())...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%v: %w: %s", args, err, out)
		}
		return nil
	}
	if err := weedd(t.Context(), "bench", "--keep", "--replication", "001", "--size", "1MiB", "--count", "500", "--reads", "1", "--concurrency", "4"); err != nil {
		t.Fatal(err)
	}
	opt := probe.Options{Masters: []string{leader.master(), others[1].master()}, Rate: 100, Replication: "001", For: time.Millisecond, Recover: wholeWithin, Progress: func(step string) { t.Log(step) }}
	r := probed(t, opt, probe.Fault{
		Name:   "drain",
		Inject: func(ctx context.Context) error { return weedd(ctx, "drain", "--wait", others[0].volume()) },
		Heal:   func(ctx context.Context) error { return weedd(ctx, "drain", "--undo", others[0].volume()) },
	})
	t.Logf("p99 is %.1f times what it was", r.During.Latency.P99/r.Steady.Latency.P99)
	show(t, []*probe.Report{r})
	stop(t, nodes[:]...)
}

// rolling restarts one node after the other, each when the one before holds all its
// copies again.
func rolling(ctx context.Context, nodes [3]*node) error {
	for _, n := range nodes {
		if err := ended(syscall.SIGTERM)(ctx, n); err != nil {
			return err
		}
		n.start()
		awaitReady(n.t, n)
		await(n.t, wholeWithin, "all copies are in sync under load", func() error {
			v, err := view(ctx, n)
			return errors.Join(err, restored(v))
		})
	}
	return nil
}

func probed(t *testing.T, opt probe.Options, f probe.Fault) *probe.Report {
	t.Helper()
	r, err := probe.Run(t.Context(), opt, f)
	if err != nil {
		t.Fatalf("%s: %v", f.Name, err)
	}
	if !r.Good() {
		t.Errorf("%s: clients noticed", f.Name)
	}
	t.Logf("the slowest: %s", strings.Join(r.During.Slowest, "\n  "))
	return r
}

// show prints the table of the README, and keeps it where E2E_FAULT_REPORT says.
func show(t *testing.T, reports []*probe.Report) {
	t.Helper()
	var table strings.Builder
	if err := probe.Print(&table, reports...); err != nil {
		t.Error(err)
	}
	t.Logf("what the faults cost:\n%s", table.String())
	path := os.Getenv("E2E_FAULT_REPORT")
	if path == "" {
		return
	}
	text, err := json.MarshalIndent(reports, "", "  ")
	if err == nil {
		err = os.WriteFile(path, append(text, '\n'), 0o644)
	}
	if err != nil {
		t.Errorf("E2E_FAULT_REPORT: %v", err)
	}
}
