package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"weedd/volume/store"
	"weedd/volume/vfs"
)

func newVolumeCheckCommand() *cobra.Command {
	var only volumeFlag
	var asJSON bool
	var server string
	cmd := &cobra.Command{
		Use:   "check DIR... | --server HOST:PORT",
		Short: "Read every record of volumes and say what is wrong",
		Long: `Reads every record of the volumes in directories and verifies the checksums, the
order of the records, the index against the data, and the small files beside. What
is wrong is named with volume, file, key (in hex) and offset, and with what can be
done about it. Nothing is written. A daemon may run meanwhile.

With --server a running daemon on this host is asked to look through its volumes
now, rather than in its own time; it repairs what is bad from other copies.

Exit codes: 0 all is good, 1 there are problems, 2 the check could not be made.`,
		Example: `  weedd volume check data/volumes
  weedd volume check /mnt/disk1 --volume 7
  weedd volume check --server localhost:8080
  weedd volume check --json /mnt/disk* | jq '.[].findings[]'`,
		RunE: func(cmd *cobra.Command, dirs []string) error {
			if (len(dirs) > 0) == (server != "") {
				return cannot(errors.New("say what to check: directories, or --server HOST:PORT"))
			}
			if server != "" {
				return checkServer(cmd.Context(), server, only, asJSON, cmd.OutOrStdout(), cmd.ErrOrStderr())
			}
			found, err := findVolumes(dirs, only, cmd.ErrOrStderr())
			if err != nil {
				return cannot(err)
			}
			return checkVolumes(cmd.Context(), found, asJSON, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().Var(&only, "volume", "check this volume only")
	cmd.Flags().StringVar(&server, "server", "", "have a running volume server on this host, as host:port, check its volumes")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print in JSON")
	return cmd
}

func checkVolumes(ctx context.Context, found []store.Found, asJSON bool, out, errOut io.Writer) error {
	bar := newProgress(errOut, "checking", sizeOf(found), true)
	defer bar.done()
	results, bad := []store.CheckResult{}, 0
	for _, f := range found {
		bar.describe(fmt.Sprintf("checking volume %d", f.ID))
		r, err := store.Check(ctx, vfs.OS{}, f, bar.add)
		if err != nil {
			return cannot(fmt.Errorf("check volume %d: %w", f.ID, err))
		}
		if !r.Good {
			bad++
		}
		results = append(results, r)
	}
	bar.done()
	var err error
	if asJSON {
		err = printJSON(out, results)
	} else {
		err = printChecks(out, results)
	}
	if err != nil {
		return cannot(err)
	}
	if bad > 0 {
		return &toolError{exitProblems, fmt.Errorf("%s of %d %s problems", plural(bad, "volume"), len(results), verb(bad, "has", "have"))}
	}
	return nil
}

func verb(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

func printChecks(out io.Writer, results []store.CheckResult) error {
	var b strings.Builder
	for _, r := range results {
		state := "good"
		if !r.Good {
			state = "bad"
		}
		fmt.Fprintf(&b, "volume %d: %s; %s, %s (%s)\n", r.Volume, state, plural(int(r.Records), "record"), formatBytes(r.Bytes), r.Path)
		printFindings(&b, r.Findings)
		if r.More > 0 {
			fmt.Fprintf(&b, "  and %d more\n", r.More)
		}
	}
	if len(results) == 0 {
		b.WriteString("there are no volumes\n")
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// printFindings prints a line for each finding: where, what, and what can be done.
func printFindings(b *strings.Builder, list []store.Finding) {
	for _, f := range list {
		b.WriteString("  ")
		if f.Note {
			b.WriteString("note: ")
		}
		b.WriteString(f.Path)
		if f.Offset >= 0 {
			fmt.Fprintf(b, " at %d", f.Offset)
		}
		if f.Key != "" {
			fmt.Fprintf(b, ", key %s", f.Key)
		}
		fmt.Fprintf(b, ": %s", f.What)
		if f.Fix != "" {
			fmt.Fprintf(b, " (%s)", f.Fix)
		}
		b.WriteString("\n")
	}
}

type fixOptions struct {
	only      volumeFlag
	all, dry  bool
	asJSON    bool
	directory string
}

func newVolumeFixCommand() *cobra.Command {
	var opt fixOptions
	cmd := &cobra.Command{
		Use:   "fix DIR --volume N|--all",
		Short: "Mend volumes: make the index anew, cut a torn tail",
		Long: `Checks volumes and mends those that have problems, as far as that loses nothing.
Of volumes of SeaweedFS it makes .idx anew from .dat, finishes a compaction that
was decided, and cuts off an end that is no whole record. What it replaces or cuts
it keeps in files beside, and prints their names; remove them when all is well.
Records whose bytes are damaged stay as they are. A good volume is not touched.

Copies of a weedd cluster need no fixing: their daemon mends the index and the end
of the file when it starts, and has a damaged copy replaced from another one. Of
those, fix only takes wrong rows out of the index.

No weedd may run on the directory, and no SeaweedFS, which fix cannot see.

Exit codes: 0 all is good now, 1 problems are left, 2 it could not be done.`,
		Example: `  weedd volume fix /mnt/old/seaweed --all --dry-run
  weedd volume fix /mnt/old/seaweed --volume 7`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opt.directory = args[0]
			if opt.all == (opt.only != 0) {
				return cannot(errors.New("say which: --volume N or --all"))
			}
			return fixVolumes(cmd.Context(), opt, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.Var(&opt.only, "volume", "mend this volume")
	f.BoolVar(&opt.all, "all", false, "mend all volumes of the directory")
	f.BoolVar(&opt.dry, "dry-run", false, "only say what would be done")
	f.BoolVar(&opt.asJSON, "json", false, "print in JSON")
	return cmd
}

func fixVolumes(ctx context.Context, opt fixOptions, out, errOut io.Writer) (err error) {
	lock, err := store.LockDir(vfs.OS{}, opt.directory)
	if err != nil {
		return cannot(err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	found, err := findVolumes([]string{opt.directory}, opt.only, io.Discard) // the lock is ours
	if err != nil {
		return cannot(err)
	}
	bar := newProgress(errOut, "mending", sizeOf(found), true)
	defer bar.done()
	results, left := []store.FixResult{}, 0
	for _, f := range found {
		bar.describe(fmt.Sprintf("mending volume %d", f.ID))
		r, err := store.Fix(ctx, vfs.OS{}, f, opt.dry, bar.add)
		if err != nil {
			return cannot(err)
		}
		if len(r.Left) > 0 {
			left++
		}
		results = append(results, r)
	}
	bar.done()
	if opt.asJSON {
		err = printJSON(out, results)
	} else {
		err = printFixes(out, results, opt.dry)
	}
	if err != nil {
		return cannot(err)
	}
	if left > 0 {
		return &toolError{exitProblems, fmt.Errorf("%s of %d %s problems that fix does not mend", plural(left, "volume"), len(results), verb(left, "has", "have"))}
	}
	return nil
}

func printFixes(out io.Writer, results []store.FixResult, dry bool) error {
	var b strings.Builder
	for _, r := range results {
		state := "mended"
		switch {
		case r.Good:
			state = "good, not touched"
		case dry && len(r.Done) > 0:
			state = "would be mended"
		case len(r.Done) == 0:
			state = "not touched"
		}
		fmt.Fprintf(&b, "volume %d: %s (%s)\n", r.Volume, state, r.Path)
		for _, d := range r.Done {
			fmt.Fprintf(&b, "  %s%s\n", map[bool]string{true: "would: ", false: "done: "}[dry], d)
		}
		for _, s := range r.Saved {
			fmt.Fprintf(&b, "  saved: %s\n", s)
		}
		if len(r.Left) > 0 {
			b.WriteString("  left:\n")
			printFindings(&b, r.Left)
		}
		if r.Ours && !r.Good {
			b.WriteString("  this is a copy of a weedd cluster: start its daemon, and the cluster mends it or replaces it from another copy\n")
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}
