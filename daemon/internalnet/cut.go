package internalnet

import (
	"context"
	"net"
	"sync/atomic"
	"syscall"
)

// SetCut makes this node lose its connections to the addresses for which cut is
// true at the moment, as if a network between dropped all packets: nothing is
// refused and nothing is reset, answers just never come. It is for tests, and
// must be called before anything is dialed.
func (t *Trust) SetCut(cut func(addr string) bool) { t.cut = cut }

// dial opens the TCP connection below a Dial.
func (t *Trust) dial(ctx context.Context, d *net.Dialer, addr string) (net.Conn, error) {
	if t.cut == nil {
		return d.DialContext(ctx, "tcp", addr)
	}
	if t.cut(addr) {
		ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
		defer cancel()
		<-ctx.Done()
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ETIMEDOUT}
	}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &cutConn{Conn: conn, cut: func() bool { return t.cut(addr) }}, nil
}

// cutConn is a connection that loses what is sent while it is cut. One that has
// lost something is reset once the cut is mended.
type cutConn struct {
	net.Conn
	cut  func() bool
	lost atomic.Bool
}

// Write implements net.Conn.
func (c *cutConn) Write(b []byte) (int, error) {
	switch {
	case c.cut():
		c.lost.Store(true)
		return len(b), nil
	case c.lost.Load():
		return 0, &net.OpError{Op: "write", Net: "tcp", Err: syscall.ECONNRESET}
	}
	return c.Conn.Write(b)
}

// Read implements net.Conn.
func (c *cutConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		switch {
		case err != nil:
			return n, err
		case c.cut():
			c.lost.Store(true)
		case c.lost.Load():
			return 0, &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
		default:
			return n, nil
		}
	}
}
