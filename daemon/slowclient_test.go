package daemon

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// impatient is how long a client may stall in tests of those that do; patient, in
// those of others, however busy the machine is.
const (
	impatient = 50 * time.Millisecond
	patient   = 20 * time.Second
)

// port serves h on a real socket as public ports do, and gives its address.
func port(t *testing.T, stall time.Duration, h http.HandlerFunc) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newHTTP(h, slog.New(slog.DiscardHandler))
	s.stall, s.ReadHeaderTimeout, s.IdleTimeout = stall, stall, stall
	ended := make(chan error, 1)
	go func() { ended <- s.serve(l, nil) }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return l.Addr().String()
}

// send opens a connection and sends the beginning of a request.
func send(t *testing.T, addr, request string) net.Conn {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(2 * patient)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	return conn
}

// Whatever a client leaves half done, its connection ends.
func TestClientsThatStallAreDropped(t *testing.T) {
	t.Parallel()
	addr := port(t, impatient, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/read":
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				http.Error(w, "broken off", 400)
			}
		case "/ignore":
			_, _ = io.WriteString(w, "ignored")
		}
	})
	const body = "Host: x\r\nContent-Length: 90\r\n\r\nhalf"
	for what, request := range map[string]string{
		"nothing":                       "",
		"half of a line":                "GET /rea",
		"half of the headers":           "GET /read HTTP/1.1\r\nHost: x\r\n",
		"half of a body":                "PUT /read HTTP/1.1\r\n" + body,
		"half of a body nobody reads":   "PUT /ignore HTTP/1.1\r\n" + body,
		"half of a chunk":               "PUT /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nha",
		"a request and then no other":   "GET /ignore HTTP/1.1\r\nHost: x\r\n\r\n",
		"headers that are far too long": "GET /read HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 80<<10),
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			if _, err := io.Copy(io.Discard, send(t, addr, request)); err != nil && !strings.Contains(err.Error(), "reset") {
				t.Errorf("%v", err)
			}
		})
	}
}

// Who is refused by the headers alone hears so before the body is sent.
func TestARefusalDoesNotWaitForTheBody(t *testing.T) {
	t.Parallel()
	addr := port(t, patient, func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "too large", http.StatusRequestEntityTooLarge)
	})
	for what, headers := range map[string]string{
		"a client that waits to be told to continue": "Content-Length: 5\r\nExpect: 100-continue\r\n",
		"in chunks":       "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n",
		"a very long one": "Content-Length: 99999999999\r\n",
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			conn := send(t, addr, "PUT / HTTP/1.1\r\nHost: x\r\n"+headers+"\r\n")
			if err := conn.SetReadDeadline(time.Now().Add(patient / 2)); err != nil {
				t.Fatal(err)
			}
			if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 413 ") {
				t.Errorf("%q %v", line, err)
			}
		})
	}
}

func TestABodyThatTricklesIsDropped(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 1)
	addr := port(t, impatient, func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		ended <- err
	})
	conn := send(t, addr, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
	tick := time.NewTicker(10 * time.Millisecond) // often enough never to stall
	defer tick.Stop()
	for range 1000 {
		select {
		case err := <-ended:
			if err == nil {
				t.Error("all of it was read")
			}
			return
		case <-tick.C:
			_, _ = conn.Write([]byte("x")) // it may be closed by now
		}
	}
	t.Error("it is still read after 10 s")
}

func TestAClientThatTakesNothingIsDropped(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 2)
	answer := func(w http.ResponseWriter, r *http.Request) {
		for range 200 { // more than sockets hold
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				ended <- err
				return
			}
		}
		ended <- nil
	}
	send(t, port(t, impatient, answer), "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	select {
	case err := <-ended:
		if err == nil {
			t.Error("everything was sent to a client that takes nothing")
		}
	case <-time.After(patient):
		t.Error("it is still being sent to")
	}
	taking := send(t, port(t, patient, answer), "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	if n, err := io.Copy(io.Discard, taking); err != nil || n < 200<<20 {
		t.Errorf("one that takes it got %d bytes, %v", n, err)
	}
}

// Only the client's time counts: a handler may take longer than a client may stall.
func TestAHandlerMayTakeItsTime(t *testing.T) {
	t.Parallel()
	addr := port(t, impatient, func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			http.Error(w, err.Error(), 400)
			return
		}
		select {
		case <-r.Context().Done():
			http.Error(w, "the client was given up", 400)
		case <-time.After(4 * impatient):
			fmt.Fprint(w, "done")
		}
	})
	for _, request := range []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody",
		"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"} {
		b, err := io.ReadAll(send(t, addr, request))
		if err != nil || !strings.Contains(string(b), "done") {
			t.Errorf("%q: %q, %v", request, b, err)
		}
	}
}

// timedConn counts how often a deadline for reads is set.
type timedConn struct {
	net.Conn
	set int
}

func (c *timedConn) SetReadDeadline(t time.Time) error {
	c.set++
	return c.Conn.SetReadDeadline(t)
}

// pipe makes a connection and its other end.
func pipe(t *testing.T, stall time.Duration) (*slowConn, *timedConn, net.Conn) {
	ours, theirs := net.Pipe()
	t.Cleanup(func() { _, _ = ours.Close(), theirs.Close() })
	timed := &timedConn{Conn: ours}
	return &slowConn{Conn: timed, stall: stall}, timed, theirs
}

func TestAReadEndsAtTheDeadlineThatWasSetLast(t *testing.T) {
	t.Parallel()
	for name, deadlines := range map[string][]time.Duration{ // 0 is none
		"one":                 {time.Hour},
		"a later one":         {time.Second, time.Hour},
		"an earlier one":      {time.Hour, time.Second},
		"up and down":         {time.Hour, time.Second, time.Hour, 20 * time.Second},
		"none between":        {time.Minute, 0, time.Hour},
		"none at first":       {0, time.Minute},
		"one that has passed": {time.Hour, -time.Hour},
		"one after that":      {-time.Hour, 0, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c, _, _ := pipe(t, time.Minute)
				began := time.Now()
				for _, d := range deadlines {
					if err := c.SetReadDeadline(deadline(d)); err != nil {
						t.Fatal(err)
					}
				}
				_, err := c.Read(make([]byte, 1))
				want := max(deadlines[len(deadlines)-1], 0)
				if took := time.Since(began); !errors.Is(err, os.ErrDeadlineExceeded) || took != want {
					t.Errorf("ended after %v, want %v: %v", took, want, err)
				}
			})
		})
	}
}

func deadline(d time.Duration) time.Time {
	if d == 0 {
		return time.Time{}
	}
	return time.Now().Add(d)
}

// A deadline reaches a read that waits already: so http.Server ends the read by which
// it sees that a client hangs up.
func TestADeadlineEndsAReadThatWaits(t *testing.T) {
	t.Parallel()
	for _, first := range []time.Duration{0, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			c, _, other := pipe(t, time.Minute)
			ended := make(chan error, 1)
			read := func() {
				_, err := c.Read(make([]byte, 1))
				ended <- err
			}
			_ = c.SetReadDeadline(deadline(first))
			go read()
			time.Sleep(10 * time.Minute)
			_ = c.SetReadDeadline(time.Unix(1, 0))
			if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%v", err)
			}
			_ = c.SetReadDeadline(time.Time{})
			go read()
			time.Sleep(10 * time.Minute)
			_, _ = other.Write([]byte("x"))
			if err := <-ended; err != nil {
				t.Errorf("the read after that: %v", err)
			}
		})
	}
}

// What http.Server sets for each request costs a timer only now and then.
func TestDeadlinesThatRiseAreSetOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, timed, other := pipe(t, time.Minute)
		go func() {
			for range 1000 {
				_, _ = other.Write([]byte("x"))
			}
		}()
		for range 1000 {
			_ = c.SetReadDeadline(deadline(2 * time.Minute))
			_ = c.SetReadDeadline(deadline(10 * time.Second))
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			_ = c.SetReadDeadline(time.Time{})
			time.Sleep(time.Millisecond)
		}
		if timed.set > 5 {
			t.Errorf("set %d times for 1000 requests in a second", timed.set)
		}
	})
}

// Every write has the whole time, whatever is left of that of the one before.
func TestAWriteHasItsOwnTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, _, other := pipe(t, time.Minute)
		took := make(chan time.Duration, 1)
		for _, idle := range []time.Duration{0, 50 * time.Second, 10 * time.Minute} {
			time.Sleep(idle)
			go func() {
				began := time.Now()
				_, err := c.Write([]byte("12"))
				if err != nil {
					t.Errorf("%v idle: %v", idle, err)
				}
				took <- time.Since(began)
			}()
			time.Sleep(59 * time.Second)
			if _, err := io.ReadFull(other, make([]byte, 2)); err != nil {
				t.Fatal(err)
			}
			if d := <-took; d != 59*time.Second {
				t.Errorf("took %v", d)
			}
		}
		time.Sleep(50 * time.Second)
		began := time.Now()
		if _, err := c.Write([]byte("12")); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Minute {
			t.Errorf("a write that nobody takes ended after %v: %v", time.Since(began), err)
		}
	})
}
