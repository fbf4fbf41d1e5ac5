package daemon

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
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
