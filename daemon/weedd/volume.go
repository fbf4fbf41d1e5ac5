package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"weedd/volume"
	"weedd/volume/store"
	"weedd/volume/vfs"
)

func newVolumeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "volume",
		Short: "Look at, check, mend and copy volume files in a directory",
		Long: `Works on the volume files in a directory, of weedd or of SeaweedFS, without a
daemon. list, check and export only read: they write nothing, not even a lock
file, and may be used while a daemon runs. fix and import change files, and refuse
a directory that a running weedd uses; a running SeaweedFS they cannot see.`,
	}
	cmd.AddCommand(newVolumeListCommand(), newVolumeCheckCommand(), newVolumeFixCommand(), newVolumeExportCommand(), newVolumeImportCommand())
	return cmd
}

// exitCannot is the exit code of the volume commands when they could not do what
// they were asked.
const exitCannot = 2

func cannot(err error) error {
	if err == nil {
		return nil
	}
	return &toolError{exitCannot, err}
}

// volumeFlag is a flag that takes the number of a volume; 0 is none.
type volumeFlag volume.ID

func (v *volumeFlag) String() string { return strconv.FormatUint(uint64(*v), 10) }

// Type is shown in help texts.
func (v *volumeFlag) Type() string { return "number" }

// Set reads a number.
func (v *volumeFlag) Set(s string) error {
	id, err := volume.ParseID(s)
	*v = volumeFlag(id)
	return err
}

// findVolumes lists the volumes of directories, or the one named; and warns of
// directories in use.
func findVolumes(dirs []string, only volumeFlag, warn io.Writer) ([]store.Found, error) {
	var all []store.Found
	for _, dir := range dirs {
		list, err := store.Find(vfs.OS{}, dir)
		if err != nil {
			return nil, err
		}
		if only != 0 {
			list = slices.DeleteFunc(list, func(f store.Found) bool { return f.ID != volume.ID(only) })
		}
		all = append(all, list...)
		if err := warnIfUsed(dir, warn); err != nil {
			return nil, err
		}
	}
	if only != 0 && len(all) == 0 {
		return nil, fmt.Errorf("there is no volume %d in %s", only, strings.Join(dirs, ", "))
	}
	return all, nil
}

func warnIfUsed(dir string, warn io.Writer) error {
	marker, marked, err := store.Marked(vfs.OS{}, dir)
	if err != nil || !marked {
		return err
	}
	used, err := vfs.OS{}.Locked(marker)
	switch {
	case err != nil:
		fmt.Fprintf(warn, "warning: whether a daemon uses %s cannot be told: %v\n", dir, err)
	case used:
		fmt.Fprintf(warn, "warning: a running weedd uses %s; what it writes meanwhile may be seen in part\n", dir)
	}
	return nil
}

// oneVolume finds one volume in a directory.
func oneVolume(dir string, id volumeFlag, warn io.Writer) (store.Found, error) {
	list, err := findVolumes([]string{dir}, id, warn)
	if err == nil && len(list) > 1 {
		err = fmt.Errorf("there are %d volumes %d in %s: %s", len(list), id, dir, names(list))
	}
	if err != nil {
		return store.Found{}, err
	}
	return list[0], nil
}

func names(list []store.Found) string {
	var s []string
	for _, f := range list {
		s = append(s, f.Path())
	}
	return strings.Join(s, ", ")
}

func newVolumeListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list DIR...",
		Short: "List the volumes in directories",
		Long: `Lists the volumes in directories, by their index and small files; the data is not
read. FILES are those that are there, GARBAGE is the part of the volume that
compaction would free, EPOCH counts the sets of holders, for copies of a weedd
cluster. A volume that could not be served has the reason under STATE.

Exit codes: 0 all could be listed, 2 a directory cannot be read.`,
		Example: `  weedd volume list data/volumes
  weedd volume list /mnt/disk1 /mnt/disk2
  weedd volume list --json data/volumes | jq '.[] | select(.state != "healthy")'`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, dirs []string) error {
			found, err := findVolumes(dirs, 0, cmd.ErrOrStderr())
			if err != nil {
				return cannot(err)
			}
			return cannot(listVolumes(found, asJSON, cmd.OutOrStdout()))
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print in JSON")
	return cmd
}

// listedVolume is a volume in JSON.
type listedVolume struct {
	Path string `json:"path"`
	Ours bool   `json:"ours"` // a copy of a weedd cluster
	volume.CopyReport
	Garbage float64 `json:"garbage"` // part of Size, from 0 to 1
}

func listVolumes(found []store.Found, asJSON bool, out io.Writer) error {
	list := []listedVolume{}
	for _, f := range found {
		r := store.Inspect(vfs.OS{}, f)
		v := listedVolume{Path: f.Path(), Ours: r.Copy != 0, CopyReport: r}
		if r.Size > 0 {
			v.Garbage = float64(r.DeletedB) / float64(r.Size)
		}
		list = append(list, v)
	}
	if asJSON {
		return printJSON(out, list)
	}
	var b strings.Builder
	t := table(&b)
	fmt.Fprintln(t, "VOLUME\tCOLLECTION\tVERSION\tSIZE\tFILES\tDELETED\tGARBAGE\tTTL\tREPLICATION\tREVISION\tOF\tEPOCH\tSTATE")
	for _, v := range list {
		of, epoch := "SeaweedFS", "-"
		if v.Ours {
			of, epoch = "weedd", strconv.FormatUint(uint64(v.Epoch), 10)
		}
		fmt.Fprintf(t, "%d\t%s\t%d\t%s\t%d\t%d\t%.1f%%\t%s\t%s\t%d\t%s\t%s\t%s\n", v.Volume, orDash(v.Spec.Collection), v.Version, formatBytes(v.Size),
			v.Files-min(v.Files, v.Deleted), v.Deleted, 100*v.Garbage, orDash(v.Spec.TTL.String()), v.Spec.Placement, v.Revision, of, epoch, stateText(v))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func stateText(v listedVolume) string {
	if v.State == volume.CopyHealthy {
		return "good" + map[bool]string{true: ": " + v.Reason}[v.Reason != ""]
	}
	return "bad: " + strings.ReplaceAll(v.Reason, "\n", "; ")
}

func printJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// sizeOf adds the sizes of what is to be read, for the progress bar.
func sizeOf(list []store.Found) (total int64) {
	for _, f := range list {
		if info, err := os.Stat(f.Path()); err == nil {
			total += info.Size()
		}
	}
	return total
}
