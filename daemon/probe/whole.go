package probe

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"weedd/cluster"
	"weedd/volume"
)

// complete reports whether every volume has all its copies in sync.
func complete(v cluster.View) error {
	if v.Leader.Address == "" {
		return errors.New("no master leads")
	}
	for _, vol := range v.Volumes {
		e := vol.Entry
		if want := e.Spec.Placement.Copies(); len(e.InSync) != want || len(e.Joining) > 0 {
			return fmt.Errorf("volume %d: %d of %d copies are in sync, %d catch up", e.Volume, len(e.InSync), want, len(e.Joining))
		}
	}
	return nil
}

// equal reports whether all copies of each volume are there, and committed to the
// same end.
func equal(v cluster.View) error {
	for _, vol := range v.Volumes {
		for _, c := range vol.Copies {
			first, r := vol.Copies[0].Report, c.Report
			switch {
			case r == nil || first == nil:
				return fmt.Errorf("volume %d: no report of the copy at node %s", vol.Entry.Volume, c.Node)
			case r.Committed != r.Size || r.Size != first.Size || r.Files != first.Files || r.Deleted != first.Deleted:
				return fmt.Errorf("volume %d: the copies at nodes %s and %s have %d and %d bytes, %d and %d of them committed", vol.Entry.Volume,
					vol.Copies[0].Node, c.Node, first.Size, r.Size, first.Committed, r.Committed)
			}
		}
	}
	return complete(v)
}

// pollEvery is how often the cluster is asked whether it is whole.
const pollEvery = 50 * time.Millisecond

// await polls the first master that is to stay up until ok, for Options.Recover.
func (p *prober) await(ctx context.Context, ok func(cluster.View) error) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for began := time.Now(); ; {
		v, err := p.view(ctx, p.nodes[0].master)
		if err == nil {
			err = ok(v)
		}
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case time.Since(began) > p.opt.Recover:
			return fmt.Errorf("after %s still: %w", p.opt.Recover, err)
		}
		<-tick.C
	}
}

// readers is how many files are read at a time when all is over.
const readers = 16

// readAll reads every file of the run from each node that has a copy. That the
// copies are equal is seen first; a cluster in which they do not become so is
// read all the same.
func (p *prober) readAll(ctx context.Context) error {
	if err := p.await(ctx, equal); err != nil {
		p.note(op{kind: lastGet, at: p.nodes[0].master, err: fmt.Errorf("%w: %w", errWrong, err)})
	}
	v, err := p.view(ctx, p.nodes[0].master)
	if err != nil {
		return err
	}
	url := map[volume.NodeID]string{}
	for _, n := range v.Nodes {
		url[n.ID] = n.URL
	}
	at := map[volume.ID][]node{}
	for _, vol := range v.Volumes {
		for _, h := range vol.Entry.InSync {
			at[vol.Entry.Volume] = append(at[vol.Entry.Volume], node{master: p.nodes[0].master, volume: url[h.Node]})
		}
	}
	var running sync.WaitGroup
	slots := make(chan struct{}, readers)
	for _, id := range p.written() {
		holders := at[id.Volume]
		if len(holders) == 0 {
			p.note(op{kind: lastGet, id: id, err: fmt.Errorf("%w: volume %d is gone", errWrong, id.Volume)})
		}
		for _, n := range holders {
			slots <- struct{}{}
			o := op{kind: lastGet, id: id, begin: p.now()}
			running.Go(func() { p.note(p.do(ctx, o, n)); <-slots })
		}
	}
	running.Wait()
	return ctx.Err()
}

// written lists the ids that anything was written to, or may have been.
func (p *prober) written() (ids []volume.FileID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := map[volume.FileID]bool{}
	for _, o := range p.ops {
		if o.id.Key != 0 && !seen[o.id] {
			seen[o.id] = true
			ids = append(ids, o.id)
		}
	}
	return ids
}
