// Package probe measures what clients notice while a part of a cluster fails. It
// sends requests at a steady rate to the nodes that are to stay up, lets a fault
// be injected and healed, and judges every answer: how many requests failed, how
// long no write or read succeeded, how late the answers were, and whether the
// history of every file is one that a single, never failing disk could have had
// (linearizability, by github.com/anishathalye/porcupine).
//
// Each request is sent once: what the cluster holds and retries inside is its own
// affair, what it answers with an error is a failure.
package probe

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Options says where and how hard to probe. Zero values mean the defaults given.
type Options struct {
	Masters     []string      // host:port, or https://host:port, of the master of each node that is to stay up
	Rate        float64       // requests a second, of all kinds and at all nodes together; 40
	Timeout     time.Duration // after which a client gives up; 15s, over the 10s that servers hold requests
	Steady      time.Duration // of load before the fault; 5s
	For         time.Duration // from the fault until it is healed; 30s
	Recover     time.Duration // how long the cluster may take to be whole after that; 2m
	Size        int           // bytes of a file; 1024
	MoveOn      bool          // a request whose connection is refused goes to the next node, as from clients that know several
	Collection  string
	Replication string
	Seed        uint64              // of the choice of requests
	Progress    func(string)        // is told of each step; nil for none
	Client      func() *http.Client // makes the client; nil for the default
}

// Fault is what happens to the cluster. Inject and Heal return when it is done;
// nil does nothing.
type Fault struct {
	Name         string
	Inject, Heal func(context.Context) error
}

const (
	defaultRate    = 40
	defaultTimeout = 15 * time.Second
	defaultSteady  = 5 * time.Second
	defaultFor     = 30 * time.Second
	defaultRecover = 2 * time.Minute
	defaultSize    = 1 << 10
	mostInFlight   = 20_000 // requests, should none be answered any more
)

func (o *Options) setDefaults() error {
	set(&o.Rate, defaultRate)
	set(&o.Timeout, defaultTimeout)
	set(&o.Steady, defaultSteady)
	set(&o.For, defaultFor)
	set(&o.Recover, defaultRecover)
	set(&o.Size, defaultSize)
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if o.Client == nil {
		o.Client = func() *http.Client { return &http.Client{Transport: newTransport()} }
	}
	switch {
	case len(o.Masters) == 0:
		return errors.New("no master given; name those of the nodes that are to stay up")
	case o.Rate < 0 || o.Timeout < 0 || o.Rate*o.Timeout.Seconds() > mostInFlight:
		return fmt.Errorf("%g requests a second, %s each, may be more than %d at a time", o.Rate, o.Timeout, mostInFlight)
	case o.Size < headSize || o.Size > 64<<20:
		return fmt.Errorf("files of %d bytes: at least %d, at most 64 MiB", o.Size, headSize)
	}
	return nil
}

func set[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Run probes a cluster through one fault. The error says why there is no report;
// what the cluster did wrong is in the report. When ctx ends in the middle, the
// fault is healed all the same.
func Run(ctx context.Context, opt Options, fault Fault) (*Report, error) {
	if err := opt.setDefaults(); err != nil {
		return nil, err
	}
	p, err := newProber(ctx, opt)
	if err != nil {
		return nil, err
	}
	defer p.http.CloseIdleConnections()
	loadCtx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan struct{})
	go func() { defer close(ended); p.load(loadCtx) }()

	r, err := p.through(ctx, fault)
	stop()
	<-ended // requests under way are waited for, each at most Timeout
	if err != nil {
		return nil, err
	}
	opt.Progress("reading every file from every copy")
	if err := p.readAll(ctx); err != nil {
		return nil, err
	}
	p.judge(r)
	return r, nil
}

// through lets the fault come and go under load.
func (p *prober) through(ctx context.Context, fault Fault) (r *Report, err error) {
	r = &Report{Fault: fault.Name, Wrong: []string{}}
	p.opt.Progress(fmt.Sprintf("%g requests a second to %d nodes, no fault, for %s", p.opt.Rate, len(p.nodes), p.opt.Steady))
	if err := wait(ctx, p.opt.Steady); err != nil {
		return nil, err
	}
	r.injected = p.now()
	p.opt.Progress("fault: " + fault.Name)
	injected := call(ctx, fault.Inject)
	err = errors.Join(injected, wait(ctx, p.opt.For))
	p.opt.Progress("healing it")
	r.healed = p.now()
	healCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err = errors.Join(err, call(healCtx, fault.Heal)); err != nil {
		return nil, err
	}
	p.opt.Progress("waiting until every volume has all its copies")
	if err := p.await(ctx, complete); err != nil {
		r.Wrong = append(r.Wrong, err.Error())
	}
	r.whole = p.now()
	return r, nil
}

func call(ctx context.Context, do func(context.Context) error) error {
	if do == nil {
		return nil
	}
	return do(ctx)
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
