package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"weedd/daemon/client"
)

type uploadOptions struct {
	masters  []string
	spec     client.Spec
	jobs     int
	manifest string
	force    bool
	json     bool
}

func newUploadCommand() *cobra.Command {
	var opt uploadOptions
	cmd := &cobra.Command{
		Use:   "upload PATH...",
		Short: "Store files and directories, and write a manifest of them",
		Long: `Upload stores every file named, and every file below every directory named.

Its result is a manifest: one line of JSON for each stored file, with path, fid,
size and sha256, sorted by path. "weedd download" takes it. The path is relative
to the parent of the argument that the file was found under, with slashes:
"weedd upload /srv/pics" makes pics/a.jpg, whatever the current directory is.
Two arguments with the same last name are therefore refused.

Symbolic links (but for the arguments themselves) and special files are skipped
with a note. A file that cannot be stored is reported, the others go on, and the
exit code is 1. The manifest lists what was stored in any case, and never
replaces an older one unless --force is given.`,
		Example: `  weedd upload photo.jpg
  weedd upload --master 192.168.100.117:9333,192.168.100.172:9333 --replication 001 /srv/pics
  weedd upload --collection logs --ttl 30d --jobs 32 --manifest logs.jsonl /var/log/app
  weedd upload --manifest - src docs > manifest.jsonl`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return upload(cmd.Context(), opt, args, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	addMasterFlag(cmd, &opt.masters)
	addSpecFlags(cmd, &opt.spec)
	f := cmd.Flags()
	f.IntVarP(&opt.jobs, "jobs", "j", 16, "files to send at a time")
	f.StringVar(&opt.manifest, "manifest", "weedd-manifest.jsonl", "file to write the manifest to, or - for standard output")
	f.BoolVar(&opt.force, "force", false, "replace a manifest that exists")
	f.BoolVar(&opt.json, "json", false, "print a summary in JSON")
	return cmd
}

// found is a file to upload.
type found struct {
	file string // where it is
	path string // what the manifest calls it
	size int64
}

// fileProblem is a file that failed or was skipped, and why.
type fileProblem struct {
	Path  string `json:"path"`
	Error string `json:"error"`
}

// uploadReport is the summary in JSON.
type uploadReport struct {
	Files    int           `json:"files"`
	Bytes    int64         `json:"bytes"`
	Seconds  float64       `json:"seconds"`
	Retried  int           `json:"retried"` // files that needed more than one attempt
	Failed   []fileProblem `json:"failed"`
	Skipped  []fileProblem `json:"skipped"`
	Manifest string        `json:"manifest"`
}

// uploading is one run of upload.
type uploading struct {
	opt      uploadOptions
	client   *client.Client
	progress *progress

	mu      sync.Mutex
	entries []manifestEntry
	report  uploadReport
}

func upload(ctx context.Context, opt uploadOptions, args []string, stdout, stderr io.Writer) error {
	c, err := client.New(client.Options{Masters: opt.masters})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := opt.check(args); err != nil {
		return err
	}
	began := time.Now()
	u := &uploading{opt: opt, client: c, progress: &progress{out: stderr}}
	u.report = uploadReport{Manifest: opt.manifest, Failed: []fileProblem{}, Skipped: []fileProblem{}}
	files := u.scan(args)
	var total int64
	for _, f := range files {
		total += f.size
	}
	u.progress = newProgress(stderr, "uploading", total, true)
	stopped := all(ctx, opt.jobs, "stored", files, u.one, func(f found, err error) { u.fail(f.file, err) })
	u.progress.done()
	u.report.Seconds = time.Since(began).Seconds()
	return errors.Join(u.finish(stdout, stderr), stopped)
}

func (o uploadOptions) check(args []string) error {
	if o.jobs < 1 {
		return fmt.Errorf("--jobs %d: at least 1", o.jobs)
	}
	if o.json && o.manifest == "-" {
		return errors.New("--json and --manifest - both want standard output")
	}
	if _, err := os.Lstat(o.manifest); err == nil && !o.force && o.manifest != "-" {
		return fmt.Errorf("%s exists; name another file with --manifest, or give --force to replace it", o.manifest)
	}
	names := map[string]string{}
	for _, a := range args {
		name, err := baseName(a)
		if err != nil {
			return err
		}
		if other, again := names[name]; again {
			return fmt.Errorf("%s and %s would both be %s in the manifest; upload them one by one", other, a, name)
		}
		names[name] = a
	}
	return nil
}

// baseName is the last name of an argument, "" for the root directory.
func baseName(arg string) (string, error) {
	abs, err := filepath.Abs(arg) // so that "." and "dir/.." have a name, too
	if err != nil {
		return "", fmt.Errorf("%s: %w", arg, err)
	}
	if name := filepath.Base(abs); name != string(filepath.Separator) {
		return name, nil
	}
	return "", nil
}

// scan finds the files below the arguments.
func (u *uploading) scan(args []string) []found {
	var files []found
	for _, arg := range args {
		name, err := baseName(arg)
		if err != nil {
			u.fail(arg, err)
			continue
		}
		top, err := filepath.EvalSymlinks(arg) // a link that is named is meant
		if err != nil {
			u.fail(arg, err)
			continue
		}
		// The error is always nil: every one is noted, and the walk goes on.
		_ = filepath.WalkDir(top, func(file string, d fs.DirEntry, err error) error {
			rel, relErr := filepath.Rel(top, file)
			if err = errors.Join(err, relErr); err != nil {
				u.fail(file, err)
				return nil
			}
			if f, ok := u.consider(file, path.Join(name, filepath.ToSlash(rel)), d); ok {
				files = append(files, f)
			}
			return nil
		})
	}
	return files
}

// consider decides about one thing that the walk came to.
func (u *uploading) consider(file, as string, d fs.DirEntry) (found, bool) {
	switch {
	case d.IsDir():
	case d.Type()&fs.ModeSymlink != 0:
		u.skip(file, "a symbolic link")
	case !d.Type().IsRegular():
		u.skip(file, "not a regular file")
	case !utf8.ValidString(as):
		u.fail(file, errors.New("the name is not UTF-8 and cannot be written to the manifest"))
	default:
		info, err := d.Info()
		if err != nil {
			u.fail(file, err)
			return found{}, false
		}
		return found{file, as, info.Size()}, true
	}
	return found{}, false
}

func (u *uploading) fail(file string, err error) {
	u.progress.linef("failed: %s: %v", file, err)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.report.Failed = append(u.report.Failed, fileProblem{file, err.Error()})
}

func (u *uploading) skip(file, why string) {
	u.progress.linef("skipped: %s: %s", file, why)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.report.Skipped = append(u.report.Skipped, fileProblem{file, why})
}

// one uploads a file.
func (u *uploading) one(ctx context.Context, f found) error {
	src := client.File(f.file)
	src.Open = counted(src.Open, u.progress)
	st, err := u.client.Submit(ctx, u.opt.spec, src)
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.entries = append(u.entries, manifestEntry{Path: f.path, FID: st.ID.String(), Size: st.Size, SHA256: hex.EncodeToString(st.SHA256[:])})
	u.report.Files++
	u.report.Bytes += st.Size
	if st.Attempts > 1 {
		u.report.Retried++
	}
	return nil
}

// counted moves the bar as a source is read, and back when it is read again.
func counted(open func() (io.ReadCloser, int64, error), p *progress) func() (io.ReadCloser, int64, error) {
	var last *countedBody
	return func() (io.ReadCloser, int64, error) {
		if last != nil {
			p.add(-last.n)
		}
		r, size, err := open()
		last = &countedBody{ReadCloser: r, p: p}
		return last, size, err
	}
}

type countedBody struct {
	io.ReadCloser
	p *progress
	n int64
}

func (b *countedBody) Read(buf []byte) (int, error) {
	n, err := b.ReadCloser.Read(buf)
	b.n += int64(n)
	b.p.add(int64(n))
	return n, err
}

// finish writes the manifest and tells how it went.
func (u *uploading) finish(stdout, stderr io.Writer) error {
	r := u.report
	if err := writeManifest(u.opt.manifest, u.entries, stdout, u.opt.force); err != nil {
		return fmt.Errorf("%d files are stored, but the manifest could not be written: %w", r.Files, err)
	}
	if u.opt.json {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		if err := enc.Encode(r); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(stderr, "stored %d files, %s, in %.1f s", r.Files, formatBytes(r.Bytes), r.Seconds)
		if len(r.Skipped) > 0 {
			fmt.Fprintf(stderr, "; skipped %d", len(r.Skipped))
		}
		if u.opt.manifest != "-" {
			fmt.Fprintf(stderr, "; manifest: %s", u.opt.manifest)
		}
		fmt.Fprintln(stderr)
	}
	if n := len(r.Failed); n > 0 {
		return fmt.Errorf("%d of %d files could not be stored", n, n+r.Files)
	}
	return nil
}
