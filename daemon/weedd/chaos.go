package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weedd/daemon/probe"
)

type chaosOptions struct {
	probe.Options
	size   byteSize
	fault  string
	heal   string
	name   string
	asJSON bool
}

func newChaosCommand() *cobra.Command {
	opt := chaosOptions{size: 1 << 10}
	cmd := &cobra.Command{
		Use:   "chaos",
		Short: "Measure what clients notice while a node fails",
		Long: `Chaos stores, reads, overwrites and deletes files at a steady rate at the nodes
that are to stay up, each request sent once. After a while it runs the command of
--fault, which makes something fail, then that of --heal, which ends it; both run
in a shell here. It waits until every volume has all its copies again, reads every
file from every copy, and prints what the fault cost: requests that failed, the
longest time without a successful write or read, the latency, and how long the
cluster took to be whole. WRONG counts what must never be: a file lost, deleted and
back, with wrong bytes, or an id given out twice; every answer is judged.

Try it on a cluster that may be disturbed. The files stay there: give them a
collection, and delete that when you are done.

The exit code is 1 if a request failed or anything was wrong.`,
		Example: `  # what a dead leader costs at the other two hosts:
  weedd chaos --nodes 192.168.100.117:9333,192.168.100.172:9333 \
    --fault "ssh 192.168.100.2 systemctl kill -s KILL weedd" \
    --heal "ssh 192.168.100.2 systemctl start weedd" \
    --replication 001 --collection chaos

  # a frozen process:
  weedd chaos --nodes 127.0.0.1:9333,127.0.0.2:9333 --name frozen \
    --fault "kill -STOP $PID" --heal "kill -CONT $PID" --for 30s --json

  # repair under load, beside nothing that fails: P99 against STEADY P99
  weedd chaos --nodes 192.168.100.117:9333,192.168.100.172:9333 --for 1s \
    --fault "weedd drain --wait 192.168.100.2:8080" \
    --heal "weedd drain --undo 192.168.100.2:8080"

  # only load, no fault:
  weedd chaos --nodes localhost:9333`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opt.Size = int(opt.size)
			opt.Progress = func(step string) {
				fmt.Fprintf(cmd.ErrOrStderr(), "%s %s\n", time.Now().Format("15:04:05.000"), step)
			}
			return chaos(cmd.Context(), opt, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringSliceVarP(&opt.Masters, "nodes", "n", []string{"localhost:9333"}, "nodes that are to stay up, as host:port,... of their masters")
	f.StringVar(&opt.fault, "fault", "", "shell command that makes something fail")
	f.StringVar(&opt.heal, "heal", "", "shell command that ends the fault; it is run even when chaos is interrupted")
	f.StringVar(&opt.name, "name", "", "of the fault, in the result (default: its command)")
	f.DurationVar(&opt.For, "for", 30*time.Second, "time from the fault until it is healed")
	f.DurationVar(&opt.Steady, "steady", 5*time.Second, "time of load before the fault")
	f.DurationVar(&opt.Recover, "recover", 2*time.Minute, "how long the cluster may take to be whole again")
	f.DurationVar(&opt.Timeout, "timeout", 15*time.Second, "after which a client gives up")
	f.BoolVar(&opt.MoveOn, "move-on", false, "when a node refuses the connection, ask the next one; to restart all nodes in turn")
	f.Float64Var(&opt.Rate, "rate", 40, "requests a second, of all kinds together")
	f.Var(&opt.size, "size", "bytes in a file")
	f.StringVarP(&opt.Collection, "collection", "c", "", "collection of volumes to store in")
	f.StringVarP(&opt.Replication, "replication", "r", "", "copies beside the first, as 001 (default: the cluster's)")
	f.Uint64Var(&opt.Seed, "seed", 1, "of the choice of requests")
	f.BoolVar(&opt.asJSON, "json", false, "print the result in JSON")
	return cmd
}

func chaos(ctx context.Context, opt chaosOptions, stdout, stderr io.Writer) error {
	fault := probe.Fault{Name: opt.name, Inject: shell(opt.fault, stderr), Heal: shell(opt.heal, stderr)}
	if fault.Name == "" {
		fault.Name = opt.fault
	}
	r, err := probe.Run(ctx, opt.Options, fault)
	if err != nil {
		return err
	}
	if opt.asJSON {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		err = enc.Encode(r)
	} else {
		err = probe.Print(stdout, r)
	}
	if err == nil && !r.Good() {
		err = errors.New("clients noticed, see above")
	}
	return err
}

// shell makes a command line into a step of a fault.
func shell(line string, out io.Writer) func(context.Context) error {
	if strings.TrimSpace(line) == "" {
		return nil
	}
	return func(ctx context.Context) error {
		cmd := exec.CommandContext(ctx, "sh", "-c", line)
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%q: %w", line, err)
		}
		return nil
	}
}
