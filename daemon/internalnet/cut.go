package internalnet

import (
	"context"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// SetCut makes this node lose what it sends to the addresses for which cut is
// true at the moment, and what comes back over the connections that it made to
// them, as if a network between dropped all packets: nothing is refused, and
// nothing is reset. As TCP does, a connection delivers later what was lost, when
// the network is back in time, and is given up by both sides after lostAfter. It
// is for tests, and must be called before anything is dialed.
func (t *Trust) SetCut(cut func(addr string) bool) { t.cut = cut }

// resend is how often something lost is sent again.
const resend = 20 * time.Millisecond

// dial opens the TCP connection below a Dial.
func (t *Trust) dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: handshakeTimeout, KeepAliveConfig: keepAlive, Control: boundLoss}
	if t.cut == nil {
		return d.DialContext(ctx, "tcp", addr)
	}
	cut := func() bool { return t.cut(addr) }
	if !mended(cut, time.Now().Add(lostAfter), ctx.Done()) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ETIMEDOUT}
	}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &cutConn{Conn: conn, cut: cut, closed: make(chan struct{})}, nil
}

// mended waits while cut is true, and reports false when it was until the
// deadline, or until stop is closed.
func mended(cut func() bool, deadline time.Time, stop <-chan struct{}) bool {
	for cut() {
		left := time.Until(deadline)
		if left <= 0 {
			return false
		}
		select {
		case <-time.After(min(resend, left)):
		case <-stop:
			return false
		}
	}
	return true
}

// cutConn is a connection that delivers nothing while it is cut.
type cutConn struct {
	net.Conn
	cut    func() bool
	closed chan struct{}
	once   sync.Once

	mu     sync.Mutex
	unsent []byte // lost, to be sent again

	unread []byte                    // arrived while it was cut; the reader's own
	until  atomic.Pointer[time.Time] // the reader's deadline
}

// Write implements net.Conn. What is lost looks as if it were sent.
func (c *cutConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.unsent) == 0 && !c.cut() {
		return c.Conn.Write(b)
	}
	if c.unsent = append(c.unsent, b...); len(c.unsent) == len(b) {
		go c.resend(time.Now().Add(lostAfter))
	}
	return len(b), nil
}

func (c *cutConn) resend(deadline time.Time) {
	if !mended(c.cut, deadline, c.closed) {
		c.Close()
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.unsent
	c.unsent = nil
	if _, err := c.Conn.Write(b); err != nil {
		c.Close()
	}
}

// Read implements net.Conn.
func (c *cutConn) Read(b []byte) (int, error) {
	if len(c.unread) == 0 {
		n, err := c.Conn.Read(b)
		if err != nil || !c.cut() {
			return n, err
		}
		c.unread = append(c.unread, b[:n]...)
	}
	deadline, err := time.Now().Add(lostAfter), error(syscall.ETIMEDOUT)
	if until := c.until.Load(); until != nil && !until.IsZero() && until.Before(deadline) {
		deadline, err = *until, os.ErrDeadlineExceeded
	}
	if !mended(c.cut, deadline, c.closed) {
		if err == syscall.ETIMEDOUT {
			c.Close()
		}
		return 0, &net.OpError{Op: "read", Net: "tcp", Err: err}
	}
	n := copy(b, c.unread)
	c.unread = c.unread[n:]
	return n, nil
}

// SetDeadline implements net.Conn.
func (c *cutConn) SetDeadline(t time.Time) error {
	c.until.Store(&t)
	return c.Conn.SetDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *cutConn) SetReadDeadline(t time.Time) error {
	c.until.Store(&t)
	return c.Conn.SetReadDeadline(t)
}

// Close implements net.Conn.
func (c *cutConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
