//go:build e2e

package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// manager is systemd as a daemon sees it: a socket.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
}

// await reads messages until one has all the lines, given by how they begin.
// Whatever else comes, none may have the line not.
func (m manager) await(not string, lines ...string) (message string) {
	m.t.Helper()
	if err := m.conn.SetReadDeadline(time.Now().Add(readyWithin)); err != nil {
		m.t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for {
		n, err := m.conn.Read(buf)
		if err != nil {
			m.t.Fatalf("no message with %q: %v", lines, err)
		}
		message = "\n" + string(buf[:n]) + "\n"
		has := 0
		for _, l := range lines {
			if strings.Contains(message, "\n"+l) {
				has++
			}
		}
		switch {
		case has == len(lines):
			return message
		case not != "" && strings.Contains(message, "\n"+not):
			m.t.Fatalf("%q comes before %q", message, lines)
		}
	}
}

// systemd hears when the node serves and that it goes on answering; a reload is
// over when what the file says is in force, that a stop takes longer among it.
func systemd(t *testing.T, binary string) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	m := manager{t, conn}
	n := loneNode(t, binary)
	n.env = []string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=600000"}
	n.start()
	m.await("WATCHDOG=1", "READY=1")
	m.await("", "STATUS=serving")
	m.await("", "WATCHDOG=1")

	text, err := os.ReadFile(n.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(n.config, []byte(string(text)+"\n[limits]\nstop = \"7m\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	m.await("READY=1", "RELOADING=1", "MONOTONIC_USEC=")
	m.await("", "READY=1")
	stop(t, n)
	m.await("READY=1", "STOPPING=1", "STATUS=stopping", "EXTEND_TIMEOUT_USEC=440000000\n")
}
