package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"weedd/daemon"
	"weedd/daemon/config"
	"weedd/volume"
)

func newRecoverCommand() *cobra.Command {
	var path string
	var without []string
	var yes, asJSON bool
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Go on with one master when a majority of the masters is lost for good",
		Long: `Recover makes the master on this host, whose daemon must be stopped, the only one of
its cluster. It is for one case only: a majority of the masters is lost for good, so
that no master can lead any more. As long as their disks may come back, wait for them
instead: then nothing is lost.

What the lost masters decided last may be lost with them. So file ids jump far ahead,
and no volume gets a primary until every node that holds any volume has told what it
has: the cluster then goes on with the longest copy of the newest epoch of each volume.
Name volume servers that are lost for good with --without, by their node ids as weedd
status and the log show them; what was only on those is lost. It may be run again, to
give up one more.

  1. Choose the master that is left; of several, the one that led or followed last.
     On the hosts of the others move the directory raft out of their data directories.
  2. Stop the daemon there, run weedd recover --yes, start it again.
  3. Start the other hosts, or new ones, as masters: they join by themselves.
  4. weedd status shows what volumes still wait for.

Exit codes: 0 done, 1 failed and nothing was changed, 2 command line or configuration
wrong, or --yes is missing.`,
		Example: `  systemctl stop weedd && weedd recover --yes && systemctl start weedd
  weedd recover --yes --without 9f86d081884c7d65,5feceb66ffc86f38
  weedd recover --config /etc/weedd/weedd.toml --yes --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !yes {
				return &toolError{exitUsage, fmt.Errorf("this gives up the other masters for good; say --yes if a majority of them is lost (weedd recover --help)")}
			}
			cfg, err := config.Load(configPath(path), os.Environ())
			if err != nil {
				return err
			}
			var nodes []volume.NodeID
			for _, n := range without {
				nodes = append(nodes, volume.NodeID(n))
			}
			done, err := daemon.Recover(cfg, nodes)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), done)
			}
			return printRecovered(cmd.OutOrStdout(), done)
		},
	}
	addConfigFlag(cmd, &path)
	cmd.Flags().StringSliceVar(&without, "without", nil, "node ids of volume servers that are lost for good")
	cmd.Flags().BoolVar(&yes, "yes", false, "a majority of the masters is lost for good")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print what was done in JSON")
	return cmd
}

func printRecovered(out io.Writer, r daemon.Recovered) error {
	var b strings.Builder
	fmt.Fprintf(&b, "cluster %s goes on with this master alone; before there were %s:\n", r.Cluster, plural(len(r.Was), "master"))
	for _, m := range r.Was {
		fmt.Fprintf(&b, "  %s (%s)\n", m.Addr, m.RaftID)
	}
	fmt.Fprintf(&b, "%s %s for the word of all nodes that hold any", plural(r.Volumes, "volume"), verb(r.Volumes, "waits", "wait"))
	for i, n := range r.Waived {
		if i == 0 {
			b.WriteString(", but for")
		}
		fmt.Fprintf(&b, " %s", n)
	}
	b.WriteString("\nstart the daemon; weedd status shows how far it is\n")
	_, err := io.WriteString(out, b.String())
	return err
}
