package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"weedd/daemon/client"
	"weedd/volume"
)

// toolError is an error with an exit code of its own; all others exit with 1.
type toolError struct {
	code int
	err  error
}

func (e *toolError) Error() string { return e.err.Error() }
func (e *toolError) Unwrap() error { return e.err }

// ExitCode is what the process is to exit with.
func (e *toolError) ExitCode() int { return e.code }

// addMasterFlag gives cmd the flag that says where the cluster is.
func addMasterFlag(cmd *cobra.Command, masters *[]string) {
	cmd.Flags().StringSliceVarP(masters, "master", "m", []string{"localhost:9333"},
		"masters, as host:port,... or https://host:port,...; when one fails the next is asked")
}

// addSpecFlags gives cmd the flags that say how files are to be kept.
func addSpecFlags(cmd *cobra.Command, spec *client.Spec) {
	f := cmd.Flags()
	f.StringVarP(&spec.Collection, "collection", "c", "", "collection of volumes to store in")
	f.StringVarP(&spec.Replication, "replication", "r", "",
		"copies beside the first: three digits, in other data centers, on other racks, on other hosts;\n001 is two copies on two hosts (default: the cluster's)")
	f.StringVar(&spec.TTL, "ttl", "", "when files expire, as 90m, 12h, 3d, 2w, 6M or 1y (default: never)")
}

// progress shows how far a tool has come, on a terminal and nowhere else, and
// prints lines without disturbing that. Its methods may be called at once.
type progress struct {
	mu  sync.Mutex
	out io.Writer
	bar *progressbar.ProgressBar // nil when out is no terminal
}

// newProgress begins to count up to total, in bytes or in pieces.
func newProgress(out io.Writer, what string, total int64, inBytes bool) *progress {
	p := &progress{out: out}
	if !isTerminal(out) {
		return p
	}
	opts := []progressbar.Option{
		progressbar.OptionSetWriter(out), progressbar.OptionSetDescription(what), progressbar.OptionThrottle(100 * time.Millisecond),
		progressbar.OptionSetWidth(24), progressbar.OptionUseANSICodes(true), progressbar.OptionClearOnFinish(), progressbar.OptionShowCount(),
	}
	if inBytes {
		opts = append(opts, progressbar.OptionShowBytes(true), progressbar.OptionUseIECUnits(true), progressbar.OptionShowTotalBytes(true))
	} else {
		opts = append(opts, progressbar.OptionShowIts())
	}
	p.bar = progressbar.NewOptions64(max(1, total), opts...)
	return p
}

// isTerminal reports whether somebody may be looking.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// add moves the bar; n may be negative when an attempt begins anew. What a
// terminal does with it is not worth failing for.
func (p *progress) add(n int64) {
	if p.bar != nil {
		_ = p.bar.Add64(n)
	}
}

// describe changes the words before the bar.
func (p *progress) describe(what string) {
	if p.bar != nil {
		p.bar.Describe(what)
	}
}

// linef prints a line.
func (p *progress) linef(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = p.bar.Clear()
	}
	fmt.Fprintf(p.out, format+"\n", args...)
}

// done takes the bar away.
func (p *progress) done() {
	if p.bar != nil {
		_ = p.bar.Clear()
		_ = p.bar.Exit()
	}
}

var byteUnits = []struct {
	name string
	size float64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

// formatBytes writes a number of bytes for people: "1.5 MiB".
func formatBytes[T int64 | uint64](n T) string {
	for _, u := range byteUnits {
		if float64(n) >= u.size {
			return strconv.FormatFloat(float64(n)/u.size, 'f', 1, 64) + " " + u.name
		}
	}
	return fmt.Sprintf("%d B", n)
}

// byteSize is a flag such as 1KiB, 4M or 1000.
type byteSize int64

func (b *byteSize) String() string { return strings.ReplaceAll(formatBytes(int64(*b)), " ", "") }

// Type is shown in help texts.
func (b *byteSize) Type() string { return "size" }

// Set reads a number with an optional unit; K, KB and KiB are all 1024 bytes.
func (b *byteSize) Set(s string) error {
	num := strings.ToUpper(strings.TrimSpace(s))
	num = strings.TrimSuffix(strings.TrimSuffix(num, "B"), "I")
	shift := 0
	if len(num) > 0 {
		if i := strings.IndexByte("KMGT", num[len(num)-1]); i >= 0 {
			num, shift = num[:len(num)-1], 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(num), 10, 64)
	if err != nil || n < 0 || n > (1<<62)>>shift {
		return fmt.Errorf("%q is not a size; it looks like 1KiB, 4MiB or 1000", s)
	}
	*b = byteSize(n << shift)
	return nil
}

// streak ends a tool that would only go on failing: it counts failures in a row
// that are the cluster's.
type streak struct {
	mu sync.Mutex
	n  int
}

const longestStreak = 20

// after notes the outcome of one file and reports whether to go on.
func (s *streak) after(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil || !client.Temporary(err) || errors.Is(err, volume.ErrCorrupt) {
		s.n = 0
		return true
	}
	s.n++
	return s.n < longestStreak
}

// all works on items, jobs at a time, and tells of each that failed; its error says
// why it ended early. verb is what is done to them, as in "stored".
func all[T any](ctx context.Context, jobs int, verb string, items []T, one func(context.Context, T) error, failed func(T, error)) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var g errgroup.Group
	g.SetLimit(jobs)
	var failing streak
	for _, item := range items {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			err := one(ctx, item)
			if ctx.Err() != nil && err != nil {
				return nil // told once, below
			}
			if err != nil {
				failed(item, err)
			}
			if !failing.after(err) {
				stop(fmt.Errorf("%d files in a row could not be %s", longestStreak, verb))
			}
			return nil
		})
	}
	_ = g.Wait() // no error is ever returned there
	if ctx.Err() != nil {
		return fmt.Errorf("stopped before the end: %w", context.Cause(ctx))
	}
	return nil
}
