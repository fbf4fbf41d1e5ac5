package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"weedd/daemon/config"
)

// addConfigFlag adds --config; configPath then says which file is meant.
func addConfigFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVarP(path, "config", "c", "", "the TOML `file` (default $"+config.PathVariable+", else "+config.DefaultPath+")")
	if err := cmd.MarkFlagFilename("config", "toml"); err != nil {
		panic(err) // only for a flag that is not there
	}
}

func configPath(flag string) string {
	if flag == "" {
		flag = os.Getenv(config.PathVariable)
	}
	if flag == "" {
		flag = config.DefaultPath
	}
	return flag
}

func newConfigCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check, show and explain configurations",
		Args:  cobra.NoArgs, // with RunE, so that an unknown word is an error
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newConfigCheck(), newConfigShow(), newConfigDefault())
	return cmd
}

func newConfigCheck() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say everything that is wrong with a configuration",
		Long: `Reads the file and the environment as "weedd run" does on this host, and stops
there. All faults come at once, each with file and line. The exit code is 0 for
a good configuration and 2 for one that is refused.`,
		Example: `  weedd config check
  weedd config check --config configs/one-node.toml
  WEEDD_MASTER_HTTP=9433 weedd config check`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			path := configPath(path)
			cfg, err := config.Load(path, os.Environ())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is good: %s at %s\n", path, strings.ReplaceAll(cfg.Roles.String(), "+", " and "), cfg.Address)
			return err
		},
	}
	addConfigFlag(cmd, &path)
	return cmd
}

func newConfigShow() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Print the configuration in force, and where each value comes from",
		Long: `Prints what "weedd run" would go by on this host: the file, overridden by the
environment, completed by defaults and by what was found, such as the address.
Values that are no defaults say where they come from. The output is itself a
good configuration.`,
		Example: `  weedd config show
  weedd config show --config /etc/weedd/weedd.toml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Loader{Env: os.Environ()}.Load(configPath(path))
			if err != nil {
				return err
			}
			return cfg.Write(cmd.OutOrStdout())
		},
	}
	addConfigFlag(cmd, &path)
	return cmd
}

func newConfigDefault() *cobra.Command {
	return &cobra.Command{
		Use:   "default",
		Short: "Print a first configuration that explains every key",
		Example: `  weedd config default > /etc/weedd/weedd.toml
  weedd config default | less`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return config.WriteDefault(cmd.OutOrStdout())
		},
	}
}
