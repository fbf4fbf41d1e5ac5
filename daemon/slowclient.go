package daemon

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// slowest is how many bytes of a body a client must send in a second, on average
// beyond the first minute. One that trickles would hold memory for hours.
const slowest = 1 << 10

// slowBody is the body of a request whose connection is dropped when nothing comes
// for the time of stall, or too little for longer. http.Server.ReadTimeout would count
// from the request on, and so bound the size of files, and the time that a handler
// has. Only the time in which it is read counts.
type slowBody struct {
	io.ReadCloser
	conn    *http.ResponseController
	stall   time.Duration
	allowed time.Duration // that reading may take from now on
}

// await moves the deadline of the connection. http.Server takes it away when all of
// the body was read, and sets that of the next request.
func (b *slowBody) await() {
	// A ResponseWriter without deadlines, as in tests, has no client that stalls.
	_ = b.conn.SetReadDeadline(time.Now().Add(min(b.stall, b.allowed)))
}

// Read implements io.Reader.
func (b *slowBody) Read(p []byte) (int, error) {
	b.await()
	began := time.Now()
	n, err := b.ReadCloser.Read(p)
	b.allowed += time.Duration(n)*time.Second/slowest - time.Since(began)
	return n, err
}

// slowListener is a listener whose connections are dropped when the other end takes
// less than a piece in the time of stall.
type slowListener struct {
	net.Listener
	stall time.Duration
}

// Accept implements net.Listener.
func (l slowListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &slowConn{Conn: c, stall: l.stall}, nil
}

// slowConn is a connection with cheap deadlines. http.Server sets that for reads five
// times a request, a write has one each time, and few ever pass; but each costs a
// timer. So the connection keeps one that is too early, and when it passes the right
// one is looked at.
type slowConn struct {
	net.Conn
	stall time.Duration
	armed atomic.Bool // the connection has a deadline for writes, of ours

	mu   sync.Mutex
	want time.Time // deadline for reads, as it was set last
	kept time.Time // that of the connection: not after want
}

// rearm is how far ahead a deadline for reads is kept: not beyond those of headers,
// which come once a request.
const rearm = 5 * time.Second

// SetDeadline implements net.Conn.
func (c *slowConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *slowConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.want = t
	if !c.kept.IsZero() && (t.IsZero() || !t.Before(c.kept)) {
		return nil
	}
	c.kept = t
	return c.Conn.SetReadDeadline(t)
}

// Read implements net.Conn.
func (c *slowConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || !c.early() {
			return n, err
		}
	}
}

// early reports whether a deadline for reads passed before the one that is wanted.
// Then the connection has another.
func (c *slowConn) early() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if !c.want.IsZero() && !c.want.After(now) {
		return false
	}
	if c.kept = now.Add(rearm); !c.want.IsZero() && c.want.Before(c.kept) {
		c.kept = c.want
	}
	return c.Conn.SetReadDeadline(c.kept) == nil
}

// SetWriteDeadline implements net.Conn. It holds until the next write.
func (c *slowConn) SetWriteDeadline(t time.Time) error {
	c.armed.Store(false)
	return c.Conn.SetWriteDeadline(t)
}

// piece is how much is sent before the client must show that it takes it.
const piece = 256 << 10

// Write implements net.Conn.
func (c *slowConn) Write(b []byte) (sent int, err error) {
	for first := true; err == nil && (first || len(b) > 0); first = false {
		var n int
		n, err = c.writePiece(b[:min(piece, len(b))])
		sent, b = sent+n, b[n:]
	}
	return sent, err
}

// writePiece sends b, for which there is the time of stall.
func (c *slowConn) writePiece(b []byte) (sent int, err error) {
	for end := time.Now().Add(c.stall); ; {
		if !c.armed.Swap(true) {
			if err := c.Conn.SetWriteDeadline(end); err != nil {
				return sent, err
			}
		}
		n, err := c.Conn.Write(b[sent:])
		sent += n
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || !time.Now().Before(end) {
			return sent, err
		}
		c.armed.Store(false) // it was the deadline of an earlier write
	}
}
