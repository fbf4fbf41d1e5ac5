package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weedd/volume"
	"weedd/volume/archive"
	"weedd/volume/store"
	"weedd/volume/vfs"
)

type exportOptions struct {
	only    volumeFlag
	out     string
	newer   string
	deleted bool
	asJSON  bool
}

func newVolumeExportCommand() *cobra.Command {
	var opt exportOptions
	cmd := &cobra.Command{
		Use:   "export DIR --volume N",
		Short: "Write the files of a volume to a tar file",
		Long: `Writes the files of a volume to a tar file. A file is named by its file id and its
stored name, with .gz behind it if it was stored packed, and has its time of last
modification. PAX records keep all else, so that "weedd volume import" makes the
same volume of it. Files that have expired are left out, and so are, with a
message, those that are damaged. What the index lacks is found in the data.

Exit codes: 0 done, 1 done, but the volume has problems, 2 it could not be done.`,
		Example: `  weedd volume export data/volumes --volume 7
  weedd volume export data/volumes --volume 7 --out - | tar tvf -
  weedd volume export /mnt/disk1 --volume 7 --newer-than 24h --out new.tar
  weedd volume export /mnt/disk1 --volume 7 --newer-than 2026-01-31T12:00:00Z --deleted`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return export(cmd.Context(), opt, args[0], cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.Var(&opt.only, "volume", "the volume (needed)")
	f.StringVarP(&opt.out, "out", "o", "", "tar file, which must not be there yet, or - for standard output (default: volume name + .tar)")
	f.StringVar(&opt.newer, "newer-than", "", "only files stored after this time, or within this long: 2026-01-31T12:00:00Z or 24h")
	f.BoolVar(&opt.deleted, "deleted", false, "also files that were deleted and are still in the volume")
	f.BoolVar(&opt.asJSON, "json", false, "print a summary in JSON (to standard error with --out -)")
	return cmd
}

// parseSince reads a time, or how long ago it was.
func parseSince(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("--newer-than %q is neither a time, as 2026-01-31T12:00:00Z, nor a duration, as 24h", s)
	}
	return t, nil
}

// exportReport is the summary in JSON.
type exportReport struct {
	Volume   volume.ID       `json:"volume"`
	Out      string          `json:"out"`
	Files    int             `json:"files"`
	Bytes    int64           `json:"bytes"`
	Problems []store.Finding `json:"problems"`
}

func export(ctx context.Context, opt exportOptions, dir string, stdout, stderr io.Writer) error {
	since, err := parseSince(opt.newer, time.Now())
	if err == nil && opt.only == 0 {
		err = errors.New("say which volume: --volume N")
	}
	if err != nil {
		return cannot(err)
	}
	f, err := oneVolume(dir, opt.only, stderr)
	if err != nil {
		return cannot(err)
	}
	if opt.out == "" {
		opt.out = strings.TrimSuffix(filepath.Base(f.Path()), ".dat") + ".tar"
	}
	if opt.out == "-" && isTerminal(stdout) {
		return cannot(errors.New("a tar file is nothing for a terminal; send it to a file or a program"))
	}
	bar := newProgress(stderr, "exporting", 2*sizeOf([]store.Found{f}), true)
	defer bar.done()
	report := exportReport{Volume: f.ID, Out: opt.out, Problems: []store.Finding{}}
	o := archive.ExportOptions{Deleted: opt.deleted, NewerThan: since, Progress: bar.add, Each: func(e archive.Entry) {
		report.Files++
		report.Bytes += e.Size
	}}
	err = writeWhole(opt.out, stdout, func(w io.Writer) error {
		bad, err := archive.Export(ctx, w, vfs.OS{}, f, o)
		report.Problems = append(report.Problems, bad...)
		return err
	})
	bar.done()
	if err != nil {
		return cannot(fmt.Errorf("export volume %d: %w", f.ID, err))
	}
	return report.print(opt, stdout, stderr)
}

func (r exportReport) print(opt exportOptions, stdout, stderr io.Writer) error {
	var err error
	if opt.asJSON {
		if opt.out == "-" {
			stdout = stderr
		}
		err = printJSON(stdout, r)
	} else {
		var b strings.Builder
		fmt.Fprintf(&b, "wrote %s, %s, to %s\n", plural(r.Files, "file"), formatBytes(r.Bytes), opt.out)
		printFindings(&b, r.Problems)
		_, err = io.WriteString(stderr, b.String())
	}
	if err != nil {
		return cannot(err)
	}
	if n := len(r.Problems); n > 0 {
		return &toolError{exitProblems, fmt.Errorf("the volume has %s; what is damaged was left out", plural(n, "problem"))}
	}
	return nil
}

// writeWhole makes a file that appears whole or not at all, and replaces none;
// "-" is stdout.
func writeWhole(name string, stdout io.Writer, write func(io.Writer) error) error {
	if name == "-" {
		return write(stdout)
	}
	if _, err := os.Lstat(name); err == nil {
		return fmt.Errorf("%s is there already", name)
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	err = write(f)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Link(f.Name(), name) // fails when name exists
}

type importOptions struct {
	only                         volumeFlag
	collection, replication, ttl string
	asJSON                       bool
}

func newVolumeImportCommand() *cobra.Command {
	var opt importOptions
	cmd := &cobra.Command{
		Use:   "import DIR --volume N FILE.tar",
		Short: "Make a new volume of a tar file",
		Long: `Makes a new volume, in the format of SeaweedFS, of a tar file. Files that
"weedd volume export" wrote keep their keys, cookies, names, types and times; if
the volume has another number than before, only the number in their ids differs.
Other files are given keys from 1 on and random cookies; what they were given is
printed. A volume that is there is not touched.

A weedd that is started on the directory serves the volume for reads. FILE.tar may
be - for standard input.

Exit codes: 0 done, 2 it could not be done; nothing is left behind then.`,
		Example: `  weedd volume import data/volumes --volume 7 7.tar
  weedd volume import /mnt/disk1 --volume 12 --collection pics --replication 001 photos.tar
  tar cf - photos | weedd volume import data/volumes --volume 12 --json - > ids.json`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := opt.read(cmd)
			if err != nil {
				return cannot(err)
			}
			return cannot(importVolume(cmd.Context(), opt, o, args[0], args[1], cmd))
		},
	}
	f := cmd.Flags()
	f.Var(&opt.only, "volume", "number of the new volume (needed)")
	f.StringVarP(&opt.collection, "collection", "c", "", "its collection (default: that of the exported volume)")
	f.StringVarP(&opt.replication, "replication", "r", "", "its replication, as 001 (default: that of the exported volume, else 000)")
	f.StringVar(&opt.ttl, "ttl", "", "its time to live, as 3d (default: that of the exported volume, else none)")
	f.BoolVar(&opt.asJSON, "json", false, "print all files with their ids in JSON")
	return cmd
}

// read checks the flags.
func (opt importOptions) read(cmd *cobra.Command) (o archive.ImportOptions, err error) {
	if opt.only == 0 {
		return o, errors.New("say which number the new volume is to have: --volume N")
	}
	if cmd.Flags().Changed("collection") {
		o.Collection = &opt.collection
	}
	if cmd.Flags().Changed("replication") {
		p, err := volume.ParsePlacement(opt.replication)
		if err != nil {
			return o, err
		}
		o.Placement = &p
	}
	if cmd.Flags().Changed("ttl") {
		t, err := volume.ParseTTL(opt.ttl)
		if err != nil {
			return o, err
		}
		o.TTL = &t
	}
	o.Now = time.Now()
	return o, nil
}

// importReport is the summary in JSON.
type importReport struct {
	Volume volume.ID       `json:"volume"`
	Path   string          `json:"path"`
	Files  []archive.Entry `json:"files"`
}

func importVolume(ctx context.Context, opt importOptions, o archive.ImportOptions, dir, name string, cmd *cobra.Command) (err error) {
	lock, err := store.LockDir(vfs.OS{}, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	in, total := cmd.InOrStdin(), int64(0)
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		if info, err := f.Stat(); err == nil {
			total = info.Size()
		}
		in = f
	}
	bar := newProgress(cmd.ErrOrStderr(), "importing", total, true)
	defer bar.done()
	report := importReport{Volume: volume.ID(opt.only), Files: []archive.Entry{}}
	o.Each = func(e archive.Entry) { report.Files = append(report.Files, e) }
	o.Skip = func(name, why string) { bar.linef("left out: %s: %s", name, why) }
	report.Path, err = archive.Import(ctx, &countedBody{ReadCloser: io.NopCloser(in), p: bar}, vfs.OS{}, dir, report.Volume, o)
	bar.done()
	if err != nil {
		return fmt.Errorf("import volume %d: %w", opt.only, err)
	}
	return report.print(opt.asJSON, cmd.OutOrStdout(), cmd.ErrOrStderr())
}

func (r importReport) print(asJSON bool, stdout, stderr io.Writer) error {
	if asJSON {
		return printJSON(stdout, r)
	}
	var b strings.Builder
	for _, f := range r.Files {
		if f.New {
			fmt.Fprintf(&b, "%s  %s\n", f.FID, f.Name)
		}
	}
	if _, err := io.WriteString(stdout, b.String()); err != nil {
		return err
	}
	_, err := fmt.Fprintf(stderr, "made volume %d of %s: %s\n", r.Volume, plural(len(r.Files), "file"), r.Path)
	return err
}
