package daemon

import (
	"io"
	"net"
	"net/http"
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
	return &slowConn{c, l.stall}, nil
}

type slowConn struct {
	net.Conn
	stall time.Duration
}

// piece is how much is sent before the client must show that it takes it.
const piece = 256 << 10

// Write implements net.Conn.
func (c *slowConn) Write(b []byte) (sent int, err error) {
	for first := true; err == nil && (first || len(b) > 0); first = false {
		if err = c.SetWriteDeadline(time.Now().Add(c.stall)); err != nil {
			break
		}
		var n int
		n, err = c.Conn.Write(b[:min(piece, len(b))])
		sent, b = sent+n, b[n:]
	}
	return sent, err
}
