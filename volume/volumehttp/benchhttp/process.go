package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	startLimit = 30 * time.Second
	stopLimit  = 30 * time.Second
)

// process is one server.
type process struct {
	cmd    *exec.Cmd
	exited chan error // its end, sent once
	log    string     // file with what it said
	master string     // host:port, of nodes with that role
	volume string     // host:port
	gossip string
}

// spawn runs a command with its standard error in a file.
func spawn(dir string, stdout io.Writer, name string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(name, args...), exited: make(chan error, 1), log: filepath.Join(dir, "log")}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has its own
	p.cmd.Stdout, p.cmd.Stderr = stdout, log
	p.cmd.Dir = dir
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // nothing is left behind if we are killed
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() { p.exited <- p.cmd.Wait() }()
	return p, nil
}

// stop asks the process to end, and makes it if it does not.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended; then Wait says how
	select {
	case err := <-p.exited:
		if err != nil && p.master+p.gossip != "" { // the bare server may end as it likes
			return fmt.Errorf("%s: %w\n%s", strings.Join(p.cmd.Args, " "), err, p.tail())
		}
		return nil
	case <-time.After(stopLimit):
		_ = p.cmd.Process.Kill()
		<-p.exited
		return fmt.Errorf("%s did not stop within %s", strings.Join(p.cmd.Args, " "), stopLimit)
	}
}

// tail is the end of what the process said.
func (p *process) tail() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2000):])
}

func startBare(ctx context.Context, o options, dir string, args ...string) (*process, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	p, err := spawn(dir, w, self, append(args, "-bare", dir, "-size", fmt.Sprint(o.size))...)
	w.Close()
	if err != nil {
		return nil, err
	}
	if err := r.SetReadDeadline(time.Now().Add(startLimit)); err != nil {
		return p, err
	}
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		return p, fmt.Errorf("bare server: %w\n%s", err, p.tail())
	}
	p.volume = strings.TrimSpace(line)
	return p, ctx.Err()
}

// cpu is how much processor time the process has taken.
func (p *process) cpu() (time.Duration, error) {
	var t unix.Timespec
	clock := int32(^p.cmd.Process.Pid)<<3 | 2 // as clock_getcpuclockid has it
	if err := unix.ClockGettime(clock, &t); err != nil {
		return 0, fmt.Errorf("processor time of process %d: %w", p.cmd.Process.Pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// node is what makes one weedd differ from another.
type node struct {
	master bool
	sync   string
	join   string // gossip address of another node
}

const config = `data = %q
address = "127.0.0.1"
roles = [%s]
[log]
level = "warn"
[internal]
port = %s
[gossip]
port = %s
join = [%s]
%s
[volume]
http = %s
sync = %q
[limits]
stop = "5s"
`

// startNode runs weedd in a directory of its own and waits until it is ready.
func startNode(ctx context.Context, weedd, dir string, n node) (*process, error) {
	weedd, err := filepath.Abs(weedd)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	ports, err := freePorts(4)
	if err != nil {
		return nil, err
	}
	roles, master, join := `"volume"`, "", ""
	if n.master {
		roles, master = `"master", "volume"`, "[master]\nexpect = 1\nhttp = "+ports[2]
	}
	if n.join != "" {
		join = fmt.Sprintf("%q", n.join)
	}
	text := fmt.Sprintf(config, filepath.Join(dir, "data"), roles, ports[0], ports[1], join, master, ports[3], n.sync)
	file := filepath.Join(dir, "weedd.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	p, err := spawn(dir, nil, weedd, "run", "--config", file)
	if err != nil {
		return nil, err
	}
	p.gossip, p.volume = "127.0.0.1:"+ports[1], "127.0.0.1:"+ports[3]
	urls := []string{"http://" + p.volume + "/readyz"}
	if n.master {
		p.master = "127.0.0.1:" + ports[2]
		urls = append(urls, "http://"+p.master+"/readyz")
	}
	for _, u := range urls {
		if err := p.await(ctx, u); err != nil {
			return p, err
		}
	}
	return p, nil
}

// await asks until the answer is 200, the process has ended, or it takes too long.
func (p *process) await(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		_, last := get(ctx, url)
		if last == nil {
			return nil
		}
		select {
		case err := <-p.exited:
			p.exited <- err
			return fmt.Errorf("%s ended: %v\n%s", strings.Join(p.cmd.Args, " "), err, p.tail())
		case <-ctx.Done():
			return fmt.Errorf("%s: %w\n%s", url, last, p.tail())
		case <-tick.C:
		}
	}
}

// get fetches a URL; other statuses than 200 are errors.
func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, resp.Status, body)
	}
	return body, err
}

// freePorts finds n ports that nobody uses at the moment, for TCP and for UDP.
func freePorts(n int) (ports []string, err error) {
	var held []io.Closer
	defer func() {
		for _, c := range held {
			err = errors.Join(err, c.Close())
		}
	}()
	for len(ports) < n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		held = append(held, l)
		u, err := net.ListenPacket("udp", l.Addr().String())
		if err != nil {
			continue // taken; the next will do
		}
		held = append(held, u)
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return nil, err
		}
		ports = append(ports, port)
	}
	return ports, nil
}
