// Command weedd is the whole of a blob store in one program: the daemon, with
// the roles of master and volume server, and the tools that talk to it.
//
// This package reads the command line, hears signals and chooses exit codes.
// What the commands do is in the packages daemon, daemon/config and
// daemon/client.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"weedd/daemon/config"
)

// Exit codes.
const (
	exitOK    = 0
	exitError = 1 // it was tried and failed
	exitUsage = 2 // the command line or the configuration is wrong; nothing was tried
)

// execute runs one command line and gives the exit code.
func execute(args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	began := noteBeginning(root)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process
	cmd, err := root.ExecuteContextC(ctx)

	var faults *config.Error
	var said *saidError
	var coded interface{ ExitCode() int }
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &said):
		return exitError
	case errors.As(err, &faults):
		fmt.Fprintf(stderr, "weedd: the configuration is refused, %s:\n%s\n", faultCount(len(faults.Complaints)), indent(faults.Error()))
		return exitUsage
	case !*began:
		fmt.Fprintf(stderr, "weedd: %v\nTry: %s --help\n", err, cmd.CommandPath())
		return exitUsage
	}
	fmt.Fprintf(stderr, "weedd: %v\n", err)
	if errors.As(err, &coded) {
		return coded.ExitCode()
	}
	return exitError
}

// saidError has been shown to the user already.
type saidError struct{ error }

// noteBeginning lets it be known whether a command's own code has begun, since
// cobra's complaints about flags and arguments are errors like any other.
func noteBeginning(root *cobra.Command) *bool {
	began := new(bool)
	var visit func(*cobra.Command)
	visit = func(c *cobra.Command) {
		if run := c.RunE; run != nil {
			c.RunE = func(c *cobra.Command, args []string) error {
				*began = true
				return run(c, args)
			}
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(root)
	return began
}

func faultCount(n int) string {
	if n == 1 {
		return "1 fault"
	}
	return fmt.Sprintf("%d faults", n)
}

func indent(s string) string { return "  " + strings.ReplaceAll(s, "\n", "\n  ") }
