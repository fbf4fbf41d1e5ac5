package daemon

import (
	"context"
	"fmt"
	"io"
	"sync"

	"weedd/cluster/catalog"
	"weedd/cluster/consensus"
)

// replicated is the catalog as consensus replicates it: a pointer to an
// immutable value that each command replaces. Safe for concurrent use.
type replicated struct {
	fatal func(error) // a command that this build does not know: to go on would be to diverge

	mu      sync.Mutex
	now     *catalog.Catalog
	changed chan struct{}
}

func newReplicated(fatal func(error)) *replicated {
	return &replicated{fatal: fatal, now: catalog.New(), changed: make(chan struct{})}
}

// Catalog gives the newest catalog, and a channel that is closed when there is a
// newer one.
func (r *replicated) Catalog() (*catalog.Catalog, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now, r.changed
}

func (r *replicated) set(c *catalog.Catalog) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c == r.now {
		return
	}
	r.now = c
	close(r.changed)
	r.changed = make(chan struct{})
}

// Apply implements consensus.Machine.
func (r *replicated) Apply(command []byte) any {
	cmd, err := catalog.Decode(command)
	if err != nil {
		r.fatal(err)
		return catalog.Result{Err: err}
	}
	now, _ := r.Catalog()
	next, res := now.Apply(cmd)
	r.set(next)
	return res
}

// Snapshot implements consensus.Machine.
func (r *replicated) Snapshot() func(io.Writer) error {
	now, _ := r.Catalog()
	return now.Write
}

// Restore implements consensus.Machine.
func (r *replicated) Restore(from io.Reader) error {
	c, err := catalog.Read(from)
	if err == nil {
		r.set(c)
	}
	return err
}

// catalogLog proposes commands to the group and shows what they came to.
type catalogLog struct {
	*replicated
	group *consensus.Group
}

// Propose returns once cmd is applied here.
func (l catalogLog) Propose(ctx context.Context, cmd catalog.Command) (catalog.Result, error) {
	out, err := l.group.Propose(ctx, cmd.Encode())
	if err != nil {
		return catalog.Result{}, err
	}
	res, ok := out.(catalog.Result)
	if !ok {
		return catalog.Result{}, fmt.Errorf("propose: unexpected result %T", out)
	}
	return res, nil
}
