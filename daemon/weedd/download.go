package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"weedd/daemon/client"
	"weedd/volume"
)

type downloadOptions struct {
	masters []string
	jobs    int
	json    bool
}

func newDownloadCommand() *cobra.Command {
	var opt downloadOptions
	cmd := &cobra.Command{
		Use:   "download MANIFEST DIR",
		Short: "Fetch the files of a manifest into a directory, and verify them",
		Long: `Download fetches every file of a manifest that "weedd upload" wrote, and compares
size and sha256. A copy that differs is fetched from another holder; a file that
no holder has right is reported, and the exit code is 1.

Files appear under their names only when they are whole and verified. One that
is there already with the right bytes is left alone; one with other bytes is
replaced. Paths that lead out of the directory, by .. or by a symbolic link in
it, are refused. MANIFEST may be - for standard input.`,
		Example: `  weedd download weedd-manifest.jsonl /tmp/restored
  weedd download --master 192.168.100.117:9333,192.168.100.172:9333 --jobs 32 pics.jsonl .
  grep '"pics/2024/' pics.jsonl | weedd download - 2024`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return download(cmd.Context(), opt, args[0], args[1], cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	addMasterFlag(cmd, &opt.masters)
	cmd.Flags().IntVarP(&opt.jobs, "jobs", "j", 16, "files to fetch at a time")
	cmd.Flags().BoolVar(&opt.json, "json", false, "print a summary in JSON")
	return cmd
}

// downloadReport is the summary in JSON.
type downloadReport struct {
	Files   int           `json:"files"`   // fetched and verified
	Bytes   int64         `json:"bytes"`   // of those
	Present int           `json:"present"` // were there already, with the right bytes
	Seconds float64       `json:"seconds"`
	Failed  []fileProblem `json:"failed"`
}

// downloading is one run of download.
type downloading struct {
	opt      downloadOptions
	client   *client.Client
	root     *os.Root // keeps every path inside
	progress *progress

	mu     sync.Mutex
	report downloadReport
}

func download(ctx context.Context, opt downloadOptions, manifest, dir string, stdin io.Reader, stdout, stderr io.Writer) error {
	if opt.jobs < 1 {
		return fmt.Errorf("--jobs %d: at least 1", opt.jobs)
	}
	c, err := client.New(client.Options{Masters: opt.masters})
	if err != nil {
		return err
	}
	defer c.Close()
	entries, bad, err := openManifest(manifest, stdin)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", manifest, err)
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	var total int64
	for _, e := range entries {
		total += e.Size
	}
	began := time.Now()
	d := &downloading{opt: opt, client: c, root: root, progress: newProgress(stderr, "downloading", total, true)}
	d.report.Failed = []fileProblem{}
	for _, err := range bad {
		d.fail(manifest, err)
	}
	stopped := all(ctx, opt.jobs, "fetched", entries, d.one, func(e manifestEntry, err error) { d.fail(e.Path, err) })
	d.progress.done()
	d.report.Seconds = time.Since(began).Seconds()
	return errors.Join(d.finish(stdout, stderr), stopped)
}

func openManifest(name string, stdin io.Reader) ([]manifestEntry, []error, error) {
	if name == "-" {
		return readManifest(stdin)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	return readManifest(f)
}

func (d *downloading) fail(file string, err error) {
	d.progress.linef("failed: %s: %v", file, err)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.report.Failed = append(d.report.Failed, fileProblem{file, err.Error()})
}

// one fetches a file beside its place, verifies it, and moves it there.
func (d *downloading) one(ctx context.Context, e manifestEntry) error {
	id, err := volume.ParseFileID(e.FID)
	if err != nil {
		return err
	}
	path := filepath.FromSlash(e.Path)
	if d.isThere(path, e) {
		d.progress.add(e.Size)
		d.mu.Lock()
		defer d.mu.Unlock()
		d.report.Present++
		return nil
	}
	if err := d.root.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return err
	}
	temp := filepath.Join(filepath.Dir(path), fmt.Sprintf(".weedd-%016x.part", rand.Uint64()))
	f, err := d.root.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	err = d.client.Get(ctx, id, func(o client.Object) error { return d.fetch(f, o.Body, e) })
	if err = errors.Join(err, f.Close()); err == nil {
		err = d.root.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(err, d.root.Remove(temp))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.report.Files++
	d.report.Bytes += e.Size
	return nil
}

// fetch writes body to f from the beginning. Bytes other than those of the entry
// are volume.ErrCorrupt.
func (d *downloading) fetch(f *os.File, body io.Reader, e manifestEntry) (err error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	in := &countedBody{ReadCloser: io.NopCloser(io.LimitReader(body, e.Size+1)), p: d.progress}
	defer func() {
		if err != nil {
			d.progress.add(-in.n) // it is fetched again, or never
		}
	}()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, sum), in)
	switch got := hex.EncodeToString(sum.Sum(nil)); {
	case err != nil:
		return err
	case n > e.Size:
		return fmt.Errorf("%w: more than the %d bytes it should have", volume.ErrCorrupt, e.Size)
	case n < e.Size:
		return fmt.Errorf("%w: %d bytes of %d", volume.ErrCorrupt, n, e.Size)
	case got != e.SHA256:
		return fmt.Errorf("%w: sha256 is %s, should be %s", volume.ErrCorrupt, got, e.SHA256)
	}
	return nil
}

// isThere reports whether the file is in place with the right bytes.
func (d *downloading) isThere(path string, e manifestEntry) bool {
	info, err := d.root.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() != e.Size {
		return false
	}
	f, err := d.root.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	sum := sha256.New()
	_, err = io.Copy(sum, f)
	return err == nil && hex.EncodeToString(sum.Sum(nil)) == e.SHA256
}

// finish tells how it went.
func (d *downloading) finish(stdout, stderr io.Writer) error {
	r := d.report
	if d.opt.json {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		if err := enc.Encode(r); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(stderr, "fetched and verified %d files, %s, in %.1f s", r.Files, formatBytes(r.Bytes), r.Seconds)
		if r.Present > 0 {
			fmt.Fprintf(stderr, "; %d were there already", r.Present)
		}
		fmt.Fprintln(stderr)
	}
	if n := len(r.Failed); n > 0 {
		return fmt.Errorf("%d files could not be fetched", n)
	}
	return nil
}
