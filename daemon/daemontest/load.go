package daemontest

import (
	"bytes"
	"fmt"
	"sync"
	"time"
)

// Load is uploads that run until they are stopped. Each one that fails fails the
// test.
type Load struct {
	c       *Cluster
	query   string
	stop    chan struct{}
	workers sync.WaitGroup

	mu    sync.Mutex
	fids  map[string][]byte
	grown chan struct{} // closed and replaced when fids grew
}

// Load uploads small files, one at a time at each node but those given.
func (c *Cluster) Load(query string, without ...*Node) *Load {
	l := &Load{c: c, query: query, stop: make(chan struct{}), fids: map[string][]byte{}, grown: make(chan struct{})}
	for i, n := range c.Nodes {
		skip := false
		for _, w := range without {
			skip = skip || w == n
		}
		if !skip {
			l.workers.Go(func() { l.run(i, n) })
		}
	}
	return l
}

func (l *Load) run(i int, n *Node) {
	for k := 0; ; k++ {
		select {
		case <-l.stop:
			return
		default:
		}
		data := bytes.Repeat(fmt.Appendf(nil, "node %d file %d ", i, k), 1+k%100)
		began := time.Now()
		fid, err := n.Submit(l.query, data)
		if err != nil {
			l.c.T.Errorf("upload %d at node %d failed after %v: %v", k, i+1, time.Since(began), err)
			return
		}
		l.mu.Lock()
		if _, again := l.fids[fid]; again {
			l.c.T.Errorf("file id %s was given out twice", fid)
		}
		l.fids[fid] = data
		close(l.grown)
		l.grown = make(chan struct{})
		l.mu.Unlock()
	}
}

// Await waits for n more uploads.
func (l *Load) Await(n int) {
	l.c.T.Helper()
	deadline := time.After(patience)
	want := -1
	for {
		l.mu.Lock()
		have, grown := len(l.fids), l.grown
		l.mu.Unlock()
		if want < 0 {
			want = have + n
		}
		if have >= want {
			return
		}
		select {
		case <-grown:
		case <-deadline:
			l.c.T.Fatalf("only %d of %d uploads after %v", have, want, patience)
		}
	}
}

// Stop ends the load and returns what was stored.
func (l *Load) Stop() map[string][]byte {
	close(l.stop)
	l.workers.Wait()
	return l.fids
}
