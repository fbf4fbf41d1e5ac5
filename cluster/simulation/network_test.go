package simulation

import (
	"context"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"weedd/cluster"
)

const ms = time.Millisecond

// link is one direction between two places: masters, volume servers.
type link struct{ from, to string }

// network delays everything that is said, and what is said over a link that is cut
// waits until it is whole again, as TCP sends again. A connection that is cut for
// connLife is given up by both sides.
type network struct {
	seed    uint64
	changed cluster.Signal // cuts and pauses

	mu     sync.Mutex
	rngs   map[link]*rand.Rand // one a link: what is drawn for one does not depend on others
	most   time.Duration       // of the usual delay of one message
	cut    map[link]time.Time  // since when
	paused map[string]bool     // processes that get and say nothing
}

const connLife = 3 * time.Second

func newNetwork(seed uint64) *network {
	return &network{seed: seed, rngs: map[link]*rand.Rand{}, most: ms, cut: map[link]time.Time{}, paused: map[string]bool{}}
}

// source makes the random numbers of one part of the world.
func source(seed uint64, name string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(name))
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}

func (n *network) delay(l link) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.rngs[l]
	if r == nil {
		r = source(n.seed, l.from+">"+l.to)
		n.rngs[l] = r
	}
	d := 20*time.Microsecond + time.Duration(r.Int64N(int64(n.most)))
	if r.IntN(50) == 0 {
		d *= 10
	}
	return d
}

func (n *network) set(f func()) {
	n.mu.Lock()
	f()
	n.mu.Unlock()
	n.changed.Raise()
}

func (n *network) part(a, b string, cut bool) {
	n.set(func() {
		l := link{a, b}
		if _, is := n.cut[l]; cut && !is {
			n.cut[l] = time.Now()
		} else if !cut {
			delete(n.cut, l)
		}
	})
}

// state tells since when a link is cut, and whether the process at its end is
// paused.
func (n *network) state(l link) (since time.Time, cut, paused bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	since, cut = n.cut[l]
	return since, cut, n.paused[l.to]
}

// whole reports whether a and b hear each other, and both run.
func (n *network) whole(a, b string) bool {
	_, cut1, paused1 := n.state(link{a, b})
	_, cut2, paused2 := n.state(link{b, a})
	return !cut1 && !cut2 && !paused1 && !paused2
}

// awake waits while the process at a place is paused, and until ctx ends.
func (n *network) awake(ctx context.Context, place string) {
	for ctx.Err() == nil {
		changed := n.changed.Wait()
		n.mu.Lock()
		paused := n.paused[place]
		n.mu.Unlock()
		if !paused {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// travel is the way of one message: it returns when that has arrived and is heard.
func (n *network) travel(ctx context.Context, from, to string) error {
	l := link{from, to}
	n.awake(ctx, from)
	if !sleep(ctx, n.delay(l)) {
		return ctx.Err()
	}
	for {
		changed := n.changed.Wait()
		_, cut, paused := n.state(l)
		if !cut && !paused {
			return ctx.Err()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// half is one direction of a connection: what was sent and not read yet.
type half struct {
	link    link
	changed cluster.Signal

	mu     sync.Mutex
	chunks []chunk
	ended  bool  // by the sender, after the chunks
	err    error // the connection is no more
}

type chunk struct {
	at time.Time // not to be read before
	b  []byte
}

// take reads what has arrived. wait is how long nothing can change by itself, 0
// for always.
func (h *half) take(n *network, b []byte) (got int, wait time.Duration, err error) {
	since, cut, paused := n.state(h.link)
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	switch {
	case h.err != nil:
		return 0, 0, h.err
	case cut && now.Sub(since) >= connLife:
		h.err = syscall.ETIMEDOUT
		return 0, 0, h.err
	case cut:
		return 0, since.Add(connLife).Sub(now), nil
	case paused:
		return 0, 0, nil
	case len(h.chunks) == 0 && h.ended:
		return 0, 0, io.EOF
	case len(h.chunks) == 0:
		return 0, 0, nil
	case now.Before(h.chunks[0].at):
		return 0, h.chunks[0].at.Sub(now), nil
	}
	got = copy(b, h.chunks[0].b)
	if h.chunks[0].b = h.chunks[0].b[got:]; len(h.chunks[0].b) == 0 {
		h.chunks = h.chunks[1:]
	}
	return got, 0, nil
}

// end ends a direction: gently with nil, else at once.
func (h *half) end(err error) {
	h.mu.Lock()
	h.ended = true
	if h.err == nil {
		h.err = err
	}
	h.mu.Unlock()
	h.changed.Raise()
}

// conn is one side of a connection.
type conn struct {
	net     *network
	ctx     context.Context // of the process
	in, out *half

	mu       sync.Mutex
	deadline time.Time // of reads; nothing is written slowly
	moved    cluster.Signal
}

func newConns(n *network, from, to string, fromCtx, toCtx context.Context) (here, there *conn) {
	a, b := &half{link: link{from, to}}, &half{link: link{to, from}}
	return &conn{net: n, ctx: fromCtx, in: b, out: a}, &conn{net: n, ctx: toCtx, in: a, out: b}
}

func (c *conn) Read(b []byte) (int, error) {
	for {
		network, arrived, moved := c.net.changed.Wait(), c.in.changed.Wait(), c.moved.Wait()
		n, wait, err := c.in.take(c.net, b)
		if n > 0 || err != nil {
			return n, err
		}
		c.mu.Lock()
		deadline := c.deadline
		c.mu.Unlock()
		if !deadline.IsZero() {
			left := time.Until(deadline)
			if left <= 0 {
				return 0, os.ErrDeadlineExceeded
			}
			if wait == 0 || left < wait {
				wait = left
			}
		}
		var timer <-chan time.Time
		if wait > 0 {
			timer = time.After(wait)
		}
		select {
		case <-network:
		case <-arrived:
		case <-moved:
		case <-timer:
		}
	}
}

func (c *conn) Write(b []byte) (int, error) {
	c.net.awake(c.ctx, c.out.link.from)
	at := time.Now().Add(c.net.delay(c.out.link))
	since, cut, _ := c.net.state(c.out.link)
	h := c.out
	h.mu.Lock()
	defer h.mu.Unlock()
	if cut && time.Since(since) >= connLife && h.err == nil {
		h.err = syscall.ETIMEDOUT
	}
	switch {
	case c.ctx.Err() != nil:
		return 0, net.ErrClosed // the dead say nothing
	case h.err != nil:
		return 0, h.err
	case h.ended:
		return 0, net.ErrClosed
	}
	if n := len(h.chunks); n > 0 && at.Before(h.chunks[n-1].at) {
		at = h.chunks[n-1].at
	}
	h.chunks = append(h.chunks, chunk{at, append([]byte(nil), b...)})
	h.changed.Raise()
	return len(b), nil
}

// Close ends the connection gently: the other side reads what was sent before.
func (c *conn) Close() error {
	c.out.end(nil)
	c.in.end(net.ErrClosed)
	return nil
}

// reset ends it at once, for both sides.
func (c *conn) reset() {
	c.out.end(syscall.ECONNRESET)
	c.in.end(syscall.ECONNRESET)
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	c.deadline = t
	c.mu.Unlock()
	c.moved.Raise()
	return nil
}

func (c *conn) SetDeadline(t time.Time) error    { return c.SetReadDeadline(t) }
func (c *conn) SetWriteDeadline(time.Time) error { return nil }
func (c *conn) LocalAddr() net.Addr              { return addr(c.out.link.from) }
func (c *conn) RemoteAddr() net.Addr             { return addr(c.out.link.to) }

type addr string

func (addr) Network() string  { return "sim" }
func (a addr) String() string { return string(a) }

// listener takes the connections of one run of a process.
type listener struct {
	addr   string
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newListener(addr string) *listener {
	return &listener{addr: addr, conns: make(chan net.Conn, 100), closed: make(chan struct{})}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *listener) Addr() net.Addr { return addr(l.addr) }
