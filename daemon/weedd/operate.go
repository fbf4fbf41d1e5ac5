package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weedd/cluster"
	"weedd/daemon/client"
	"weedd/volume"
)

// operator is what the commands that ask the leader for something have in common.
type operator struct {
	masters []string
	json    bool
	timeout time.Duration
}

func (o *operator) flags(cmd *cobra.Command) {
	addMasterFlag(cmd, &o.masters)
	cmd.Flags().BoolVar(&o.json, "json", false, "print everything in JSON")
	cmd.Flags().DurationVar(&o.timeout, "timeout", 15*time.Second, "how long to wait for an answer")
}

const operateExits = `

Exit codes: 0 it was done, 1 it was refused, 2 nothing was tried: no master could be asked,
or the command line lacks something.`

const fromMasters = `

Whatever changes the cluster is taken from the host of a master only: masters refuse
it from other addresses.`

func (o *operator) client() (*client.Client, error) {
	return client.New(client.Options{Masters: o.masters, Patience: o.timeout, Attempts: 3 * len(o.masters), Stall: o.timeout})
}

// do asks for one operation. The exit code tells a refusal from no answer.
func (o *operator) do(ctx context.Context, op cluster.Operation) (cluster.Outcome, error) {
	c, err := o.client()
	if err != nil {
		return cluster.Outcome{}, err
	}
	defer c.Close()
	out, err := c.Operate(ctx, op)
	var refused *client.RequestError
	switch {
	case err == nil:
		return out, nil
	case errors.As(err, &refused) && refused.Status/100 == 4 && refused.Text != "":
		return out, errors.New(refused.Text)
	}
	return out, &toolError{exitUnreachable, err}
}

func newDrainCommand() *cobra.Command {
	var o operator
	var undo, wait bool
	cmd := &cobra.Command{
		Use:   "drain NODE [DIRECTORY]",
		Short: "Move everything off a volume server, or off one directory of it",
		Long: `Drain has all copies moved off a volume server, or off one of its directories, and
keeps new ones away. NODE is a node id, or an address as weedd status shows it; a node
that is gone may be drained too: its copies are made anew at once.

A copy leaves only when another one in its place has all of the volume, so no file is
ever on fewer hosts than asked for. The masters remember the wish and go on with it
unattended, whoever of them leads; weedd status shows how far it is. When it is done the
host or disk can be taken away. The wish holds until it is undone. Copies in a directory
move to other hosts: where there is none that fits, they stay and status says why.` + fromMasters + operateExits,
		Example: `  weedd drain 192.168.100.172:8080
  weedd drain 192.168.100.172:8080 /mnt/disk2
  weedd drain --wait 9f86d081884c7d65
  weedd drain --undo 192.168.100.172:8080`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			d := cluster.Drain{Node: args[0], Undo: undo}
			if len(args) == 2 {
				d.Dir = args[1]
			}
			out, err := o.do(cmd.Context(), cluster.Operation{Drain: &d})
			if err == nil && wait && out.Drain != nil {
				out.Drain, err = o.awaitDrain(cmd.Context(), *out.Drain, cmd.ErrOrStderr())
			}
			switch {
			case err != nil:
				return err
			case o.json:
				return printJSON(cmd.OutOrStdout(), out)
			case out.Drain == nil:
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s takes copies again\n", strings.Join(args, " "))
			default:
				_, err = fmt.Fprintln(cmd.OutOrStdout(), drainText(*out.Drain))
			}
			return err
		},
	}
	o.flags(cmd)
	cmd.Flags().BoolVar(&undo, "undo", false, "end the drain: copies may be put there again")
	cmd.Flags().BoolVar(&wait, "wait", false, "return when nothing is left there")
	return cmd
}

// drainPoll is how often awaitDrain looks.
const drainPoll = time.Second

// awaitDrain waits until nothing is left of a drain, or somebody undid it.
func (o *operator) awaitDrain(ctx context.Context, d cluster.ViewDrain, errOut io.Writer) (*cluster.ViewDrain, error) {
	c, err := o.client()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	bar := newProgress(errOut, "draining", 0, true)
	defer bar.done()
	began, seen := time.Now(), false
	for {
		v, err := c.Status(ctx)
		if err != nil {
			return nil, &toolError{exitUnreachable, err}
		}
		there := false
		for _, now := range v.Drains {
			if now.Node == d.Node && now.Dir == d.Dir {
				d, there, seen = now, true, true
			}
		}
		switch {
		case d.Done && there:
			return &d, nil
		case !there && (seen || time.Since(began) > o.timeout): // it shows some seconds after it began
			return nil, fmt.Errorf("the drain of %s was undone", d.Node)
		}
		bar.describe(drainText(d))
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("the drain goes on without this command: %w", ctx.Err())
		case <-time.After(drainPoll):
		}
	}
}

// drainText says how far a drain is.
func drainText(d cluster.ViewDrain) string {
	what := "node " + string(d.Node)
	if d.Dir != "" {
		what = d.Dir + " of " + what
	}
	text := fmt.Sprintf("%s: %s to move, %s", what, plural(d.Work.Copies, "volume"), formatBytes(d.Work.Bytes))
	switch {
	case d.Done:
		text = what + ": nothing is left there"
	case d.Work.Copies == 0 && d.Dropping == 0:
		text = what + ": everything is elsewhere, as far as is known; the node has yet to tell what it has"
	case d.Work.Copies == 0:
		text = fmt.Sprintf("%s: everything is elsewhere, %s to delete", what, plural(d.Dropping, "old copy"))
	case d.Work.Seconds >= 0:
		text += ", about " + seconds(d.Work.Seconds)
	}
	if d.Stuck > 0 {
		text += fmt.Sprintf("; %d have no other place (%s)", d.Stuck, d.Why)
	}
	if d.Foreign > 0 {
		text += fmt.Sprintf("; %s of SeaweedFS there %s not moved", plural(d.Foreign, "volume"), verb(d.Foreign, "is", "are"))
	}
	return text
}

func seconds(n int64) string { return (time.Duration(n) * time.Second).String() }

func newRepairCommand() *cobra.Command {
	var o operator
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "repair",
		Short: "Make copies on hosts that are gone anew at once, or tell what that would be",
		Long: `Repair goes on by itself: a copy that is lost is made anew, and one whose host is away
for master.repair_after, too. This command is for hosts that are known not to come back
soon: copies on all that are away now are made anew elsewhere without waiting. When such
a host comes back after all, its copies are kept where they are needed and dropped where
they are not, after the others were checked against them.

With --dry-run nothing is done: it prints what would be, for each volume, and why.` + fromMasters + operateExits,
		Example: `  weedd repair --dry-run
  weedd repair
  weedd repair --dry-run --json | jq '.volumes[].why'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out, err := o.do(cmd.Context(), cluster.Operation{Repair: &cluster.Repair{DryRun: dryRun}})
			switch {
			case err != nil:
				return err
			case o.json:
				return printJSON(cmd.OutOrStdout(), out)
			}
			return printRepair(cmd.OutOrStdout(), out)
		},
	}
	o.flags(cmd)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only tell what would be done, and why")
	return cmd
}

func printRepair(out io.Writer, o cluster.Outcome) error {
	var b strings.Builder
	if len(o.Volumes) == 0 {
		b.WriteString("all volumes are as they should be\n")
	}
	for _, e := range o.Volumes {
		switch {
		case e.Delete:
			fmt.Fprintf(&b, "volume %d: delete: %s\n", e.Entry.Volume, e.Why)
		case e.Next != nil:
			fmt.Fprintf(&b, "volume %d: %s\n  %s\n", e.Entry.Volume, e.Why, change(e.Entry, *e.Next))
		default:
			fmt.Fprintf(&b, "volume %d waits: %s\n", e.Entry.Volume, strings.Join(e.Waits, "; "))
		}
	}
	if o.More > 0 {
		fmt.Fprintf(&b, "and %s more\n", plural(o.More, "volume"))
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// change writes what becomes of an entry.
func change(was, next volume.Entry) string {
	text := func(e volume.Entry) string {
		var parts []string
		for _, h := range e.InSync {
			name := string(h.Node)
			if h.Node == e.Primary {
				name += " (primary)"
			}
			parts = append(parts, name)
		}
		for _, h := range e.Joining {
			parts = append(parts, string(h.Node)+" (joining)")
		}
		return fmt.Sprintf("%s on %s", e.State, strings.Join(parts, ", "))
	}
	return text(was) + "  →  " + text(next)
}

func newExplainCommand() *cobra.Command {
	var o operator
	cmd := &cobra.Command{
		Use:   "explain VOLUME",
		Short: "Say what is decided about a volume, what is seen of it, and what happens next, and why",
		Long: `Explain asks the leading master about one volume: who holds it and who leads, what
these hosts say, what the leader does about it now, and what it waits for. It changes
nothing and is answered to any host. VOLUME is a number, or a file id.` + operateExits,
		Example: `  weedd explain 7
  weedd explain 7,01637037d6 --master 192.168.100.117:9333
  weedd explain 7 --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			number, _, _ := strings.Cut(args[0], ",")
			id, err := volume.ParseID(number)
			if err != nil {
				return &toolError{exitUsage, err}
			}
			out, err := o.do(cmd.Context(), cluster.Operation{Explain: &id})
			switch {
			case err != nil:
				return err
			case o.json:
				return printJSON(cmd.OutOrStdout(), out)
			}
			for _, e := range out.Volumes {
				if err := printExplanation(cmd.OutOrStdout(), e); err != nil {
					return err
				}
			}
			return nil
		},
	}
	o.flags(cmd)
	return cmd
}

func printExplanation(out io.Writer, x cluster.Explanation) error {
	var b strings.Builder
	e := x.Entry
	fmt.Fprintf(&b, "volume %d of collection %s, replication %s, is %s at epoch %d\n", e.Volume, cmp.Or(e.Spec.Collection, "(default)"),
		e.Spec.Placement, e.State, e.Epoch)
	t := table(&b)
	for _, c := range x.Copies {
		fmt.Fprintf(t, "  node %s\t%s\tcopy %s\t%s\n", c.Node, c.Role, c.Copy, c.State)
	}
	t.Flush()
	switch {
	case x.Delete:
		fmt.Fprintf(&b, "it is to be deleted: %s\n", x.Why)
	case x.Next != nil:
		fmt.Fprintf(&b, "next: %s\n  %s\n", x.Why, change(e, *x.Next))
	}
	for _, w := range x.Waits {
		fmt.Fprintf(&b, "%s\n", w)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func newPromoteCommand() *cobra.Command {
	var o operator
	var yes bool
	cmd := &cobra.Command{
		Use:   "promote VOLUME NODE",
		Short: "Go on with a copy that lacks something when all that had everything are lost for good",
		Long: `Promote is for a volume that waits because every copy that has all of it is lost for
good, and another copy, which fell behind or was still being made, is there. By itself no
such copy ever leads, however much it has. Promote has the copy on NODE lead with what it
has, and others be made of it: what it lacks is given up. A copy that comes back after all
is not followed: its files are set aside on its host, where weedd volume export reads
them. Nothing is done while a copy with all of the volume is there.

Without --yes it only tells what would be given up.` + fromMasters + operateExits,
		Example: `  weedd explain 7
  weedd promote 7 192.168.100.172:8080
  weedd promote 7 192.168.100.172:8080 --yes`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := volume.ParseID(args[0])
			if err != nil {
				return &toolError{exitUsage, err}
			}
			return o.giveUp(cmd, cluster.Operation{Promote: &cluster.Promote{Volume: id, Node: args[1], DryRun: !yes}}, yes, "all copies in sync are lost for good")
		},
	}
	o.flags(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "all copies in sync are lost for good")
	return cmd
}

// giveUp has something done that costs files, or without yes only told; when says
// in which case yes is right.
func (o *operator) giveUp(cmd *cobra.Command, op cluster.Operation, yes bool, when string) error {
	out, err := o.do(cmd.Context(), op)
	if err != nil {
		return err
	}
	if o.json {
		err = printJSON(cmd.OutOrStdout(), out)
	} else {
		err = printRepair(cmd.OutOrStdout(), out)
	}
	if err == nil && !yes {
		err = &toolError{exitUsage, fmt.Errorf("nothing was done; say --yes if %s", when)}
	}
	return err
}

func newForgetCommand() *cobra.Command {
	var o operator
	var yes bool
	cmd := &cobra.Command{
		Use:   "forget VOLUME...",
		Short: "Give volumes up of which every copy is lost for good",
		Long: `Forget is for volumes that wait for ever because every copy of them is lost for good, as
those with one copy are when its host burned: weedd repair --dry-run names them. It ends
them, so that weedd status --whole no longer misses them. Their files are given up, and
their numbers are never used again. A copy that comes back after all is not served: its
files are set aside on its host, where weedd volume export reads them.

Nothing is done while a node that is there has a copy of one of them, whatever is wrong
with it: weedd promote may go on with that one. Nor while a node has not told yet what it
has. To give up such a copy too, stop the daemon there first.

Without --yes it only tells what would be given up.` + fromMasters + operateExits,
		Example: `  weedd repair --dry-run
  weedd forget 7 12
  weedd forget 7 12 --yes`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := volumeIDs(args)
			if err != nil {
				return err
			}
			return o.giveUp(cmd, cluster.Operation{Forget: &cluster.Forget{Volumes: ids, DryRun: !yes}}, yes, "all copies are lost for good")
		},
	}
	o.flags(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "all copies are lost for good")
	return cmd
}

func newReadOnlyCommand() *cobra.Command {
	var o operator
	var undo bool
	cmd := &cobra.Command{
		Use:   "readonly VOLUME...",
		Short: "Have volumes take no more writes and deletes, or with --undo take them again",
		Long: `Readonly freezes volumes: they are given no new files, and writes and deletes of their
files are refused with status 500, as SeaweedFS does; reads go on. They are still repaired,
moved by a drain, and deleted with their collection, but not compacted, and do not end
with their time to live. The masters remember it, whoever of them leads. When the command
ends well no write is under way any more in any of them; a write that came before is
finished, not cut off.

A volume that became read-only because its last copy failed stays so, too, until --undo
says otherwise. That is refused while there is no other copy than the failed one: weedd
volume export reads its files. All volumes named are changed, or none.` + fromMasters + `

Exit codes: 0 it was done, 1 it was refused, or a host has not said yet that it knows, 2
nothing was tried: no master could be asked, or the command line lacks something.`,
		Example: `  weedd readonly 7
  weedd readonly 7 12
  weedd explain 7
  weedd readonly --undo 7`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := volumeIDs(args)
			if err != nil {
				return err
			}
			out, err := o.do(cmd.Context(), cluster.Operation{ReadOnly: &cluster.ReadOnly{Volumes: ids, Undo: undo}})
			if err != nil {
				return err
			}
			if o.json {
				err = printJSON(cmd.OutOrStdout(), out)
			} else {
				err = printReadOnly(cmd.OutOrStdout(), out)
			}
			if late := slices.ContainsFunc(out.Volumes, func(x cluster.Explanation) bool { return len(x.Waits) > 0 }); late && err == nil {
				err = errors.New("it is decided, and not certain yet that it is obeyed everywhere; the same command tells when it is")
			}
			return err
		},
	}
	o.flags(cmd)
	cmd.Flags().BoolVar(&undo, "undo", false, "the volumes take writes again")
	return cmd
}

func printReadOnly(out io.Writer, o cluster.Outcome) error {
	var b strings.Builder
	for _, x := range o.Volumes {
		fmt.Fprintf(&b, "volume %d is %s%s\n", x.Entry.Volume, x.Entry.State, strings.Join(append([]string{""}, x.Waits...), "; "))
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// volumeIDs reads the volumes that a command line names.
func volumeIDs(args []string) (ids []volume.ID, err error) {
	for _, arg := range args {
		id, err := volume.ParseID(arg)
		if err != nil {
			return nil, &toolError{exitUsage, err}
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func newMasterCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "master",
		Short: "Change who the masters are",
		Long: `Masters join by themselves: start a daemon with the master role whose gossip.join names
any node of the cluster. One that comes back at another address, or with an empty data
directory, takes its old place. What is left to an operator is to take out one that is
gone for good.`,
	}
	cmd.AddCommand(newMasterRemoveCommand())
	return cmd
}

func newMasterRemoveCommand() *cobra.Command {
	var o operator
	cmd := &cobra.Command{
		Use:   "remove MASTER",
		Short: "Take a master that is gone for good out of the group",
		Long: `Remove takes a master out of the group, so that it counts no more for a majority.
MASTER is its node id, its address as weedd status shows it, or its raft id. It must be
stopped: one that runs would be admitted again at once. The masters that are left must
be a majority of those before.` + fromMasters + operateExits,
		Example: `  weedd master remove 192.168.100.2:9333
  weedd master remove 9f86d081884c7d65`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			out, err := o.do(cmd.Context(), cluster.Operation{Remove: &cluster.RemoveVoter{Master: args[0]}})
			switch {
			case err != nil:
				return err
			case o.json:
				return printJSON(cmd.OutOrStdout(), out)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "master %s is removed\n", args[0])
			return err
		},
	}
	o.flags(cmd)
	return cmd
}
