package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"weedd/cluster"
	"weedd/daemon/client"
	"weedd/volume"
)

type statusOptions struct {
	masters []string
	json    bool
	volumes bool
	whole   bool
	wait    time.Duration
	timeout time.Duration
}

// The exit codes of status, besides 0 for a healthy cluster.
const (
	exitProblems    = 1
	exitUnreachable = 2
)

func newStatusCommand() *cobra.Command {
	var opt statusOptions
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show nodes, leader, volumes and problems of a cluster",
		Long: `Status asks a master for its view of the cluster and prints it. The other masters
given are asked, too, whether they are there and whom they follow.

With --whole a cluster is only healthy while nothing is missing: every master and
every volume server of it is there, and every volume has as many copies in sync as
it should. Then one host may go without anybody noticing: ask before you stop one,
and after it is back.

Exit codes: 0 the cluster is healthy (warnings are no harm), 1 it has a problem
of severity error, 2 no master could be asked.`,
		Example: `  weedd status
  weedd status --master 192.168.100.117:9333,192.168.100.172:9333,192.168.100.2:9333
  weedd status --volumes
  weedd status --whole --wait 5m && systemctl restart weedd
  weedd status --json | jq '.problems'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return statusWithin(cmd.Context(), opt, cmd.OutOrStdout())
		},
	}
	addMasterFlag(cmd, &opt.masters)
	f := cmd.Flags()
	f.BoolVar(&opt.json, "json", false, "print everything in JSON")
	f.BoolVar(&opt.volumes, "volumes", false, "list every volume and its copies")
	f.BoolVar(&opt.whole, "whole", false, "count it as a problem when anything is missing")
	f.DurationVar(&opt.wait, "wait", 0, "how long to ask again, until the cluster is healthy")
	f.DurationVar(&opt.timeout, "timeout", 5*time.Second, "how long to wait for an answer")
	return cmd
}

// statusEvery is how often a cluster is asked that is waited for.
const statusEvery = 500 * time.Millisecond

// statusWithin asks until the cluster is healthy or opt.wait is over, and prints
// the last answer.
func statusWithin(ctx context.Context, opt statusOptions, out io.Writer) error {
	deadline := time.Now().Add(opt.wait)
	for {
		var answer bytes.Buffer
		err := status(ctx, opt, &answer)
		if err == nil || time.Now().Add(statusEvery).After(deadline) {
			_, werr := answer.WriteTo(out)
			return errors.Join(err, werr)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(statusEvery):
		}
	}
}

func status(ctx context.Context, opt statusOptions, out io.Writer) error {
	c, err := client.New(client.Options{Masters: opt.masters, Patience: opt.timeout, Attempts: 3 * len(opt.masters), Stall: opt.timeout})
	if err != nil {
		return err
	}
	defer c.Close()
	view, err := c.Status(ctx)
	if err != nil {
		return &toolError{exitUnreachable, err}
	}
	absent := cluster.SeverityWarn // a master that does not answer
	if opt.whole {
		absent = cluster.SeverityError
		view.Problems = append(view.Problems, missing(view)...)
	}
	view.Problems = append(view.Problems, askMasters(ctx, c, view, absent)...)
	if view.Leader == (cluster.ViewLeader{}) && !slices.ContainsFunc(view.Problems, isError) {
		view.Problems = append(view.Problems, cluster.ViewProblem{Severity: cluster.SeverityError, What: "no master leads"})
	}
	slices.SortStableFunc(view.Problems, func(a, b cluster.ViewProblem) int { return cmp.Compare(a.Rank(), b.Rank()) })
	if opt.json {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		err = enc.Encode(view)
	} else {
		err = printView(out, view, opt.volumes)
	}
	if n := count(view.Problems, isError); err == nil && n > 0 {
		err = &toolError{exitProblems, fmt.Errorf("the cluster has %s", plural(n, "problem"))}
	}
	return err
}

// missing says what a cluster lacks to be whole, besides what is an error anyhow.
func missing(view cluster.View) (problems []cluster.ViewProblem) {
	lacks := func(format string, args ...any) {
		problems = append(problems, cluster.ViewProblem{Severity: cluster.SeverityError, What: "not whole: " + fmt.Sprintf(format, args...)})
	}
	for _, m := range view.Masters {
		if !m.Voter {
			lacks("master %s has no vote yet", orDash(m.Address))
		}
	}
	for _, n := range view.Nodes {
		if n.Alive && !n.Ready {
			lacks("volume server %s is not ready", orDash(n.URL))
		}
	}
	for _, v := range view.Volumes {
		// A copy of which nothing was heard since its node came back is not one to rely on.
		sure := count(v.Copies, func(c cluster.ViewCopy) bool {
			return c.InSync && c.Report != nil && c.Report.State == volume.CopyHealthy
		})
		if asked := v.Entry.Spec.Placement.Copies(); sure < asked {
			lacks("volume %d has %d of %d copies in sync", v.Entry.Volume, sure, asked)
		}
	}
	return problems
}

// askMasters asks the masters that were given whether they are there and whom
// they follow.
func askMasters(ctx context.Context, c *client.Client, view cluster.View, severity string) []cluster.ViewProblem {
	var problems []cluster.ViewProblem
	add := func(format string, args ...any) {
		problems = append(problems, cluster.ViewProblem{Severity: severity, What: fmt.Sprintf(format, args...)})
	}
	for _, m := range c.Masters() {
		addr := m[strings.LastIndexByte(m, '/')+1:]
		switch s, err := c.MasterStatus(ctx, m); {
		case err != nil:
			add("master %s does not answer: %v", addr, err)
		case s.Leader == "" && !s.IsLeader:
			add("master %s knows no leader", addr)
		case s.Leader != "" && view.Leader.Address != "" && s.Leader != view.Leader.Address && !strings.HasPrefix(s.Leader, view.Leader.Address+"."):
			add("master %s follows %s, but the view names %s as leader", addr, s.Leader, view.Leader.Address)
		}
	}
	return problems
}

func isError(p cluster.ViewProblem) bool { return p.Severity == cluster.SeverityError }

func isWarning(p cluster.ViewProblem) bool { return p.Severity == cluster.SeverityWarn }

func count[T any](all []T, is func(T) bool) int {
	n := 0
	for _, v := range all {
		if is(v) {
			n++
		}
	}
	return n
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	if stem, ok := strings.CutSuffix(word, "py"); ok { // copy
		return fmt.Sprintf("%d %spies", n, stem)
	}
	return fmt.Sprintf("%d %ss", n, word)
}

// printView prints the view for people: a summary, tables, problems last.
func printView(out io.Writer, v cluster.View, volumes bool) error {
	var b strings.Builder
	printSummary(&b, v)
	printMasters(&b, v)
	printNodes(&b, v)
	printDrains(&b, v)
	printGroups(&b, v)
	if volumes {
		printVolumes(&b, v)
	}
	if len(v.Problems) > 0 {
		b.WriteString("\nproblems:\n")
	}
	for _, p := range v.Problems {
		fmt.Fprintf(&b, "  %-5s  %s\n", p.Severity, p.What)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func printSummary(b *strings.Builder, v cluster.View) {
	health := "healthy"
	if e, w := count(v.Problems, isError), count(v.Problems, isWarning); e > 0 {
		health = plural(e, "error")
	} else if w > 0 {
		health = "healthy, " + plural(w, "warning")
	}
	leader := "none"
	if v.Leader != (cluster.ViewLeader{}) {
		leader = fmt.Sprintf("%s (node %s)", v.Leader.Address, v.Leader.ID)
	}
	all := totals(v.Volumes)
	t := table(b)
	fmt.Fprintf(t, "cluster\t%s\t%s\n", orDash(v.ClusterID), health)
	fmt.Fprintf(t, "leader\t%s\n", leader)
	fmt.Fprintf(t, "masters\t%d of %d alive\n", count(v.Masters, func(m cluster.ViewMaster) bool { return m.Alive }), len(v.Masters))
	fmt.Fprintf(t, "volume servers\t%d of %d alive and ready\n",
		count(v.Nodes, func(n cluster.ViewNode) bool { return n.Alive && n.Ready }), len(v.Nodes))
	fmt.Fprintf(t, "volumes\t%d with %d copies in sync\n", len(v.Volumes), all.copies)
	fmt.Fprintf(t, "files\t%d, %s\n", all.files, formatBytes(all.size))
	fmt.Fprintf(t, "repair\t%s\n", workText(v.Repair))
	t.Flush()
}

func printMasters(b *strings.Builder, v cluster.View) {
	b.WriteString("\n")
	t := table(b)
	fmt.Fprintln(t, "MASTER\tNODE\tROLE\tSTATE")
	for _, m := range v.Masters {
		role := "joining"
		switch {
		case m.Leader:
			role = "leader"
		case m.Voter:
			role = "follower"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", orDash(m.Address), orDash(string(m.ID)), role, nodeState(m.Alive, true))
	}
	t.Flush()
}

func printNodes(b *strings.Builder, v cluster.View) {
	if len(v.Nodes) == 0 {
		b.WriteString("\nno volume servers\n")
		return
	}
	b.WriteString("\n")
	t := table(b)
	fmt.Fprintln(t, "VOLUME SERVER\tNODE\tPLACE\tSTATE\tVOLUMES\tFREE\tDISKS\tREPORT\tVERSION")
	for _, n := range v.Nodes {
		var used, slots, bad int
		var free, total uint64
		for _, d := range n.Disks {
			used, slots, free, total = used+d.Used, slots+d.Max, free+d.FreeB, total+d.AllB
			if d.Missing || d.Fenced != "" {
				bad++
			}
		}
		disks := fmt.Sprint(len(n.Disks))
		if bad > 0 {
			disks += fmt.Sprintf(" (%d bad)", bad)
		}
		fmt.Fprintf(t, "%s\t%s\t%s/%s\t%s\t%d of %d\t%s of %s\t%s\t%s\t%s\n", n.URL, n.ID, orDash(n.DataCenter), orDash(n.Rack),
			nodeState(n.Alive, n.Ready), used, slots, formatBytes(free), formatBytes(total), disks, age(n.LastReportMS), orDash(n.Version))
	}
	t.Flush()
	printDiskTrouble(b, v.Nodes)
}

func printDiskTrouble(b *strings.Builder, nodes []cluster.ViewNode) {
	for _, n := range nodes {
		for _, d := range n.Disks {
			switch {
			case d.Missing:
				fmt.Fprintf(b, "  %s: %s is missing\n", n.URL, d.Dir)
			case d.Full:
				fmt.Fprintf(b, "  %s: nothing new is put into %s: %s\n", n.URL, d.Dir, d.Fenced)
			case d.Fenced != "":
				fmt.Fprintf(b, "  %s: nothing is written to %s: %s\n", n.URL, d.Dir, d.Fenced)
			}
		}
		for _, a := range n.Aside {
			if a.Moved {
				continue // among the problems
			}
			fmt.Fprintf(b, "  %s: set aside: %s: %s\n", n.URL, a.Path, a.Reason)
		}
	}
}

// workText says what is left to copy.
func workText(w cluster.ViewWork) string {
	if w.Copies == 0 {
		return "nothing to do"
	}
	text := fmt.Sprintf("%s to make or to catch up, %s", plural(w.Copies, "copy"), formatBytes(w.Bytes))
	if w.Rate > 0 {
		text += fmt.Sprintf(" at %s/s", formatBytes(w.Rate))
	}
	if w.Seconds >= 0 {
		text += ", about " + seconds(w.Seconds)
	}
	return text
}

func printDrains(b *strings.Builder, v cluster.View) {
	if len(v.Drains) > 0 {
		b.WriteString("\ndrains:\n")
	}
	for _, d := range v.Drains {
		fmt.Fprintf(b, "  %s\n", drainText(d))
	}
}

// group is volumes of one Spec.
type group struct {
	spec                  volume.Spec
	volumes, open, copies int
	degraded              int
	files                 int64
	size                  int64
}

func (g *group) add(v cluster.ViewVolume) {
	g.volumes++
	inSync := count(v.Copies, func(c cluster.ViewCopy) bool {
		return c.InSync && (c.Report == nil || c.Report.State == volume.CopyHealthy)
	})
	g.copies += inSync
	if v.Entry.State == volume.StateOpen {
		g.open++
	}
	if inSync < v.Entry.Spec.Placement.Copies() {
		g.degraded++
	}
	if r := best(v); r != nil {
		g.files += int64(r.Files) - int64(r.Deleted)
		g.size += r.Size
	}
}

// best is the report that knows most of a volume.
func best(v cluster.ViewVolume) *volume.CopyReport {
	var r *volume.CopyReport
	for _, c := range v.Copies {
		if c.Report != nil && (r == nil || c.Report.Leads && !r.Leads || c.Report.Leads == r.Leads && c.Report.Committed > r.Committed) {
			r = c.Report
		}
	}
	return r
}

func totals(all []cluster.ViewVolume) group {
	var g group
	for _, v := range all {
		g.add(v)
	}
	return g
}

func printGroups(b *strings.Builder, v cluster.View) {
	if len(v.Volumes) == 0 {
		b.WriteString("\nno volumes yet\n")
		return
	}
	groups := map[volume.Spec]*group{}
	for _, vol := range v.Volumes {
		g := groups[vol.Entry.Spec]
		if g == nil {
			g = &group{spec: vol.Entry.Spec}
			groups[vol.Entry.Spec] = g
		}
		g.add(vol)
	}
	sorted := make([]*group, 0, len(groups))
	for _, g := range groups {
		sorted = append(sorted, g)
	}
	slices.SortFunc(sorted, func(x, y *group) int {
		a, b := x.spec, y.spec
		return cmp.Or(cmp.Compare(a.Collection, b.Collection), cmp.Compare(a.Placement, b.Placement),
			cmp.Compare(a.TTL.Duration(), b.TTL.Duration()), cmp.Compare(a.Disk, b.Disk))
	})
	b.WriteString("\n")
	t := table(b)
	fmt.Fprintln(t, "COLLECTION\tREPLICATION\tTTL\tDISK\tVOLUMES\tOPEN\tCOPIES IN SYNC\tDEGRADED\tFILES\tSIZE")
	for _, g := range sorted {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%d\t%d of %d\t%d\t%d\t%s\n", cmp.Or(g.spec.Collection, "(default)"), g.spec.Placement,
			cmp.Or(g.spec.TTL.String(), "never"), cmp.Or(string(g.spec.Disk), "hdd"), g.volumes, g.open,
			g.copies, g.volumes*g.spec.Placement.Copies(), g.degraded, g.files, formatBytes(g.size))
	}
	t.Flush()
}

func printVolumes(b *strings.Builder, v cluster.View) {
	b.WriteString("\n")
	t := table(b)
	fmt.Fprintln(t, "VOLUME\tCOLLECTION\tREPLICATION\tSTATE\tEPOCH\tCOPY AT\tROLE\tCOMMITTED\tSIZE\tFILES")
	for _, vol := range v.Volumes {
		e := vol.Entry
		first := fmt.Sprintf("%d\t%s\t%s\t%s\t%d", e.Volume, cmp.Or(e.Spec.Collection, "(default)"), e.Spec.Placement, e.State, e.Epoch)
		for _, c := range vol.Copies {
			role := "joining"
			switch {
			case c.Node == e.Primary:
				role = "primary"
			case c.InSync:
				role = "in sync"
			}
			numbers := "no report\t\t"
			if r := c.Report; r != nil {
				numbers = fmt.Sprintf("%d\t%d\t%d", r.Committed, r.Size, r.Files-r.Deleted)
				if r.Compacting {
					role += ", compacting"
				}
				if r.Damaged > 0 {
					role += ", " + plural(r.Damaged, "bad record")
				}
				if r.State != volume.CopyHealthy {
					role += ", " + strings.TrimSuffix(string(r.State)+": "+r.Reason, ": ")
				}
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", first, c.Node, role, numbers)
			first = "\t\t\t\t"
		}
		if len(vol.Copies) == 0 {
			fmt.Fprintf(t, "%s\tnone\t\t\t\t\n", first)
		}
	}
	t.Flush()
}

// table aligns what is written to it with tabs; its errors are b's, which has none.
func table(b *strings.Builder) *tabwriter.Writer { return tabwriter.NewWriter(b, 0, 0, 2, ' ', 0) }

func nodeState(alive, ready bool) string {
	switch {
	case !alive:
		return "away"
	case !ready:
		return "not ready"
	}
	return "alive"
}

func orDash(s string) string { return cmp.Or(s, "-") }

func age(ms int64) string {
	if ms < 0 {
		return "never"
	}
	return (time.Duration(ms) * time.Millisecond).Round(100*time.Millisecond).String() + " ago"
}
