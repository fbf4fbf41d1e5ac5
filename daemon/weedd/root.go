package main

import "github.com/spf13/cobra"

// newRoot is the command line as a whole.
func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "weedd",
		Short: "A blob store without a single point of failure",
		Long: `weedd keeps files on many hosts and serves them over HTTP, with the API and the
disk format of SeaweedFS. One daemon, "weedd run", is master, volume server or
both, as its TOML file says; the other commands talk to running daemons, but for
"weedd volume", which works on the files of one.`,
		Example: `  # one node to try out, with a file that explains everything:
  weedd config default > weedd.toml
  weedd run --config weedd.toml

  # store, look, measure:
  weedd upload photos/
  weedd download weedd-manifest.jsonl copies/
  weedd status
  weedd bench`,
		Version:       readVersion().Version,
		SilenceErrors: true, // execute prints them
		SilenceUsage:  true,
	}
	root.SetVersionTemplate("weedd {{.Version}}\n")
	root.AddCommand(
		newRunCommand(runDaemon),
		newConfigCommand(),
		newUploadCommand(), newDownloadCommand(), newStatusCommand(), newBenchCommand(), newChaosCommand(),
		newDrainCommand(), newRepairCommand(), newExplainCommand(), newReadOnlyCommand(), newPromoteCommand(), newForgetCommand(), newMasterCommand(), newRecoverCommand(),
		newVolumeCommand(),
		newVersionCommand(),
	)
	return root
}
