// Command benchhttp measures how far weedd's volume server is from a bare HTTP
// server that does the same work without keeping any promise, and what its own
// promises cost: fsync before the answer, and a second copy.
//
// All servers are processes of their own on loopback, alive during the whole
// run, and driven in turns: every round drives each once, and what is reported
// is the median of the rounds' ratios. So noise of the machine meets all alike.
// The load generator speaks HTTP by hand over keep-alive connections, so that it
// is not what is measured.
//
//	go build -o weedd ./daemon/weedd
//	go run ./volume/volumehttp/benchhttp -weedd ./weedd
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

type options struct {
	weedd       string
	floor       bool
	old         string
	rounds      int
	duration    time.Duration
	size        int
	files       int
	connections []int // how many at a time, one after the other
	only        *regexp.Regexp
	json        bool
	dir         string
}

func main() {
	var o options
	bare := flag.String("bare", "", "internal: serve as the bare server, appending to a file in this directory")
	flag.BoolVar(&o.floor, "floor", false, "internal: the bare server keeps weedd's promises")
	flag.StringVar(&o.weedd, "weedd", "./weedd", "the binary to measure")
	flag.StringVar(&o.old, "old", "", "another binary, to be measured in the same turns")
	flag.IntVar(&o.rounds, "rounds", 5, "how often each server is driven")
	flag.DurationVar(&o.duration, "duration", time.Second, "for how long each time")
	flag.IntVar(&o.size, "size", 1024, "bytes of a file")
	flag.IntVar(&o.files, "files", 2000, "files to read from")
	connections := flag.Int("connections", 0, "so many connections only, as for a profile (default 16, then 64)")
	only := flag.String("only", "", "drive only the series whose name matches this regular expression, as for a profile")
	flag.BoolVar(&o.json, "json", false, "print JSON instead of a table")
	flag.StringVar(&o.dir, "dir", "", "where to put data, on the disk to be measured (default: a temporary directory)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if o.only, err = regexp.Compile(*only); err != nil {
		fmt.Fprintln(os.Stderr, "benchhttp: -only:", err)
		os.Exit(2)
	}
	if o.connections = []int{16, 64}; *connections > 0 {
		o.connections = []int{*connections}
	}
	if *bare != "" {
		err = serveBare(ctx, *bare, o)
	} else {
		err = run(ctx, o, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchhttp:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, out io.Writer) (err error) {
	dir, err := os.MkdirTemp(o.dir, "weedd-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	servers, err := start(ctx, o, dir)
	defer func() { err = errors.Join(err, servers.stop()) }()
	if err != nil {
		return err
	}
	cases, err := prepare(ctx, o, servers)
	if err != nil {
		return err
	}
	rep, err := measure(ctx, o, cases)
	if err != nil {
		return err
	}
	if o.json {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(rep)
	}
	return rep.print(out)
}

// servers are the processes that are measured.
type servers struct {
	bare  *process
	floor *process
	os    *process // one node, sync = "os"
	group *process // one node, sync = "group"
	pair  [2]*process

	oldOS, oldGroup *process // as os and group, of the other binary; nil without one
}

func start(ctx context.Context, o options, dir string) (s *servers, err error) {
	s = &servers{}
	if s.bare, err = startBare(ctx, o, filepath.Join(dir, "bare")); err != nil {
		return s, err
	}
	if s.floor, err = startBare(ctx, o, filepath.Join(dir, "floor"), "-floor"); err != nil {
		return s, err
	}
	if s.os, err = startNode(ctx, o.weedd, filepath.Join(dir, "os"), node{master: true, sync: "os"}); err != nil {
		return s, err
	}
	if s.group, err = startNode(ctx, o.weedd, filepath.Join(dir, "group"), node{master: true, sync: "group"}); err != nil {
		return s, err
	}
	if s.pair[0], err = startNode(ctx, o.weedd, filepath.Join(dir, "pair0"), node{master: true, sync: "group"}); err != nil {
		return s, err
	}
	if s.pair[1], err = startNode(ctx, o.weedd, filepath.Join(dir, "pair1"), node{sync: "group", join: s.pair[0].gossip}); err != nil || o.old == "" {
		return s, err
	}
	if s.oldOS, err = startNode(ctx, o.old, filepath.Join(dir, "old-os"), node{master: true, sync: "os"}); err != nil {
		return s, err
	}
	s.oldGroup, err = startNode(ctx, o.old, filepath.Join(dir, "old-group"), node{master: true, sync: "group"})
	return s, err
}

func (s *servers) stop() error {
	var errs []error
	for _, p := range []*process{s.bare, s.floor, s.os, s.group, s.pair[1], s.pair[0], s.oldOS, s.oldGroup} {
		if p != nil {
			errs = append(errs, p.stop())
		}
	}
	return errors.Join(errs...)
}
