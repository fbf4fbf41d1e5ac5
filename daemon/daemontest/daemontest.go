// Package daemontest runs whole clusters in one test process: real daemons on
// loopback, which share nothing but the process. They can be stopped, killed,
// restarted and cut off from one another.
package daemontest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weedd/cluster"
	"weedd/daemon"
	"weedd/daemon/client"
	"weedd/daemon/config"
	"weedd/volume"
)

// patience bounds every wait: long enough for a slow machine under -race, short
// enough that a hang is found.
const patience = 60 * time.Second

// Cluster is some daemons that know one another.
type Cluster struct {
	T     testing.TB
	Nodes []*Node
	HTTP  *http.Client

	mu   sync.Mutex
	side map[string]*Node // internal and gossip addresses of all nodes
	away map[*Node]bool   // nodes cut off from the others

	ahead atomic.Int64 // ns by which the clocks of all nodes run ahead
}

// Skip lets so much time pass at once for files and volumes that end. Timers of the
// nodes do not notice.
func (c *Cluster) Skip(d time.Duration) { c.ahead.Add(int64(d)) }

func (c *Cluster) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

// Node is one daemon of a Cluster, running or not.
type Node struct {
	Config config.Config
	Self   cluster.Node // as announced when it ran last

	cluster *Cluster
	log     *testLog
	daemon  *daemon.Daemon
	kill    context.CancelCauseFunc
	done    chan error
}

// Start runs n daemons with both roles, which found one cluster, and waits until
// all are ready. They are stopped when the test ends. change may alter each
// configuration before the first start.
func Start(t testing.TB, n int, change ...func(i int, c *config.Config)) *Cluster {
	t.Helper()
	c := New(t)
	for range n {
		c.Add(n, change...)
	}
	c.AwaitReady()
	c.AwaitReported()
	return c
}

// AwaitReported waits until every volume server can be chosen for new volumes. One
// whose first report comes late would get none of those that the first upload makes,
// and a test that counts on its being among them would wait for ever.
func (c *Cluster) AwaitReported() {
	c.T.Helper()
	c.Await("all volume servers have reported", func() error {
		v, err := c.View()
		if err != nil {
			return err
		}
		reported := map[volume.NodeID]bool{}
		for _, n := range v.Nodes {
			reported[n.ID] = n.Ready && n.LastReportMS >= 0
		}
		for i, n := range c.Nodes {
			if n.Config.Roles&cluster.RoleVolume != 0 && !reported[n.Self.ID] {
				return fmt.Errorf("node %d has not", i+1)
			}
		}
		return nil
	})
}

// New makes a cluster without nodes.
func New(t testing.TB) *Cluster {
	c := &Cluster{T: t, side: map[string]*Node{}, away: map[*Node]bool{}, HTTP: &http.Client{Transport: &http.Transport{}, Timeout: 20 * time.Second}}
	t.Cleanup(c.HTTP.CloseIdleConnections)
	return c
}

// Add starts one more daemon, which joins the first one that runs, and expects
// so many masters. It does not wait until it is ready.
func (c *Cluster) Add(expect int, change ...func(i int, c *config.Config)) *Node {
	c.T.Helper()
	cfg := config.Default()
	dir := c.T.TempDir()
	cfg.Data = filepath.Join(dir, "data")
	cfg.Address = "127.0.0.1"
	cfg.Roles = cluster.RoleMaster | cluster.RoleVolume
	cfg.Internal.Port, cfg.Gossip.Port, cfg.Master.HTTP.Port, cfg.Volume.HTTP.Port = 0, 0, 0, 0
	cfg.Master.Expect = expect
	cfg.Volume.Disks = []config.Disk{{Path: filepath.Join(dir, "volumes"), Max: 40}}
	for _, n := range c.Nodes {
		if n.daemon != nil {
			cfg.Gossip.Join = []string{n.Self.Gossip}
			break
		}
	}
	for _, f := range change {
		f(len(c.Nodes), &cfg)
	}
	n := &Node{Config: cfg, cluster: c, log: newTestLog(c.T, fmt.Sprintf("n%d", len(c.Nodes)+1))}
	c.Nodes = append(c.Nodes, n)
	c.T.Cleanup(n.Kill) // before its directory is removed
	n.Start()
	return n
}

// Start runs the daemon, with the ports of its last run.
func (n *Node) Start() {
	t := n.cluster.T
	t.Helper()
	d, err := daemon.Open(n.Config, daemon.Options{Log: slog.New(n.log), Version: "test", Cut: n.cut, Now: n.cluster.now})
	if err != nil {
		t.Fatalf("open daemon: %v", err)
	}
	n.Self = d.Self()
	n.cluster.mu.Lock()
	n.cluster.side[n.Self.Internal], n.cluster.side[n.Self.Gossip] = n, n
	n.cluster.mu.Unlock()
	for addr, port := range map[string]*int{n.Self.Internal: &n.Config.Internal.Port, n.Self.Gossip: &n.Config.Gossip.Port,
		n.Self.MasterHTTP: &n.Config.Master.HTTP.Port, n.Self.VolumeHTTP: &n.Config.Volume.HTTP.Port} {
		if _, p, err := net.SplitHostPort(addr); err == nil {
			*port, _ = strconv.Atoi(p)
		}
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	n.daemon, n.kill, n.done = d, cancel, make(chan error, 1)
	go func() { n.done <- errors.Join(d.Run(ctx), d.Close()) }()
}

// Open opens the daemon as Start does, closes it again, and says what came of it.
func (n *Node) Open() error {
	d, err := daemon.Open(n.Config, daemon.Options{Log: slog.New(n.log), Version: "test"})
	if err != nil {
		return err
	}
	return d.Close()
}

// Isolate cuts the node off from all others, until Mend: what is sent in either
// direction is lost. Clients still reach it.
func (n *Node) Isolate() { n.setAway(true) }

// Mend ends Isolate.
func (n *Node) Mend() { n.setAway(false) }

func (n *Node) setAway(away bool) {
	n.cluster.mu.Lock()
	defer n.cluster.mu.Unlock()
	n.cluster.away[n] = away
}

// cut reports whether what this node sends to addr is lost.
func (n *Node) cut(addr string) bool {
	n.cluster.mu.Lock()
	defer n.cluster.mu.Unlock()
	to := n.cluster.side[addr]
	return to != n && (n.cluster.away[n] || n.cluster.away[to])
}

// Log is what the daemon has said so far, over all its runs.
func (n *Node) Log() string { return n.log.sink.text() }

// Running reports whether the daemon runs.
func (n *Node) Running() bool { return n.daemon != nil }

// Stop stops the daemon as planned. It fails the test if that takes too long or
// goes wrong.
func (n *Node) Stop() { n.end(nil) }

// Kill ends the daemon at once: nothing is handed over.
func (n *Node) Kill() { n.end(daemon.ErrKilled) }

func (n *Node) end(cause error) {
	t := n.cluster.T
	t.Helper()
	if n.daemon == nil {
		return
	}
	n.kill(cause)
	select {
	case err := <-n.done:
		if err != nil {
			t.Errorf("daemon ended: %v", err)
		}
	case <-time.After(patience):
		t.Fatalf("daemon does not end")
	}
	n.daemon = nil
}

// Await waits until f answers nil, and fails the test with its last error if
// that takes too long.
func (c *Cluster) Await(what string, f func() error) {
	c.T.Helper()
	deadline := time.After(patience)
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-look.C:
		case <-deadline:
			c.T.Fatalf("%s: %v", what, err)
		}
	}
}

// AwaitReady waits until all running nodes say that they are.
func (c *Cluster) AwaitReady() {
	c.T.Helper()
	for i, n := range c.Nodes {
		if n.daemon == nil {
			continue
		}
		c.Await(fmt.Sprintf("node %d is ready", i+1), func() error {
			if why := n.daemon.Reasons(); len(why) > 0 {
				return errors.New(strings.Join(why, "; "))
			}
			return nil
		})
	}
}

// Leader waits for a node that leads the masters.
func (c *Cluster) Leader() (leader *Node) {
	c.T.Helper()
	c.Await("a master leads", func() error {
		for _, n := range c.Nodes {
			if n.daemon == nil {
				continue
			}
			var s struct{ IsLeader bool }
			if err := c.getJSON("http://"+n.Self.MasterHTTP+"/cluster/status", &s); err == nil && s.IsLeader {
				leader = n
				return nil
			}
		}
		return errors.New("no node says that it leads")
	})
	return leader
}

// Submit stores data through /submit of the node's master, with a query such as
// "replication=001", and returns the file id.
func (n *Node) Submit(query string, data []byte) (fid string, err error) {
	req, err := http.NewRequest(http.MethodPost, "http://"+n.Self.MasterHTTP+"/submit?"+query, bytes.NewReader(data))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	res, err := n.cluster.HTTP.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return "", err
	}
	if res.StatusCode != http.StatusCreated {
		return "", fmt.Errorf("submit: %s: %s", res.Status, body)
	}
	var out struct {
		FID string `json:"fid"`
	}
	if err := json.Unmarshal(body, &out); err != nil {
		return "", err
	}
	return out.FID, nil
}

// Do sends a request to the node's volume server and returns status and body.
func (n *Node) Do(method, path string, body []byte) (status int, answer []byte, err error) {
	return n.request(method, n.Self.VolumeHTTP+path, body)
}

// Master sends a request to the node's master and returns status and body.
func (n *Node) Master(method, path string) (status int, answer []byte, err error) {
	return n.request(method, n.Self.MasterHTTP+path, nil)
}

func (n *Node) request(method, url string, body []byte) (status int, answer []byte, err error) {
	req, err := http.NewRequest(method, "http://"+url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/octet-stream")
	}
	res, err := n.cluster.HTTP.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	answer, err = io.ReadAll(res.Body)
	return res.StatusCode, answer, err
}

// Read reads a file through the node's volume server.
func (n *Node) Read(fid string) ([]byte, error) {
	status, body, err := n.Do(http.MethodGet, "/"+fid, nil)
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("read %s: status %d", fid, status)
	}
	return body, nil
}

func (c *Cluster) getJSON(url string, into any) error {
	res, err := c.HTTP.Get(url)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, res.Status)
	}
	return json.NewDecoder(res.Body).Decode(into)
}

// View asks any running master for the whole picture.
func (c *Cluster) View() (v cluster.View, err error) {
	err = errors.New("no node runs")
	for _, n := range c.Nodes {
		if n.daemon == nil {
			continue
		}
		if err = c.getJSON("http://"+n.Self.MasterHTTP+"/cluster/view", &v); err == nil {
			return v, nil
		}
	}
	return v, err
}

// Operate asks the cluster for something, as the command line does.
func (c *Cluster) Operate(op cluster.Operation) cluster.Outcome {
	c.T.Helper()
	out, err := c.TryOperate(op)
	if err != nil {
		c.T.Fatalf("%+v: %v", op, err)
	}
	return out
}

// TryOperate is Operate for what may be refused.
func (c *Cluster) TryOperate(op cluster.Operation) (cluster.Outcome, error) {
	var masters []string
	for _, n := range c.Nodes {
		if n.Running() && n.Self.MasterHTTP != "" {
			masters = append(masters, n.Self.MasterHTTP)
		}
	}
	tool, err := client.New(client.Options{Masters: masters})
	if err != nil {
		return cluster.Outcome{}, err
	}
	defer tool.Close()
	return tool.Operate(context.Background(), op)
}

// AwaitInSync waits until every volume has all its copies in sync, whatever is
// being written meanwhile.
func (c *Cluster) AwaitInSync() {
	c.T.Helper()
	c.Await("all copies are in sync", func() error {
		v, err := c.View()
		if err != nil {
			return err
		}
		for _, vol := range v.Volumes {
			if err := inSync(vol.Entry); err != nil {
				return err
			}
		}
		return nil
	})
}

// AwaitWhole waits until every volume has all its copies in sync, on nodes that
// live, and committed to the same length.
func (c *Cluster) AwaitWhole() cluster.View {
	c.T.Helper()
	var v cluster.View
	c.Await("the cluster is whole", func() (err error) {
		if v, err = c.View(); err != nil {
			return err
		}
		for _, vol := range v.Volumes {
			if err := Whole(vol); err != nil {
				return err
			}
		}
		return nil
	})
	return v
}

// Whole says what a volume lacks: copies in sync, committed to one length.
func Whole(v cluster.ViewVolume) error {
	e := v.Entry
	if err := inSync(e); err != nil {
		return err
	}
	for _, c := range v.Copies {
		switch {
		case c.Report == nil:
			return fmt.Errorf("volume %d: node %s has not reported", e.Volume, c.Node)
		case c.Report.Epoch != e.Epoch || c.Report.State != volume.CopyHealthy:
			return fmt.Errorf("volume %d: node %s is %s in epoch %d, not %d", e.Volume, c.Node, c.Report.State, c.Report.Epoch, e.Epoch)
		case c.Report.Committed != v.Copies[0].Report.Committed || c.Report.Committed != c.Report.Size:
			return fmt.Errorf("volume %d: node %s has committed %d of %d", e.Volume, c.Node, c.Report.Committed, c.Report.Size)
		}
	}
	return nil
}

func inSync(e volume.Entry) error {
	if len(e.InSync) < e.Spec.Placement.Copies() || len(e.Joining) > 0 || e.State == volume.StateNew {
		return fmt.Errorf("volume %d: %s, %d of %d copies in sync, %d joining", e.Volume, e.State, len(e.InSync), e.Spec.Placement.Copies(), len(e.Joining))
	}
	return nil
}
