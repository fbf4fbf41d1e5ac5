//go:build e2e

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"mime/multipart"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"weedd/cluster"
	"weedd/daemon/client"
	"weedd/volume"
)

// These tests run the real program, as an operator does: built, started three
// times from the three host files in configs/, killed, stopped, started again.
// Each of the three has a loopback address of its own, so that even the ports are
// those of the files.
//
// E2E_TREE names the directory to upload, $(go env GOROOT)/src by default.

const (
	readyWithin = 30 * time.Second
	wholeWithin = 90 * time.Second
	stopWithin  = 45 * time.Second
)

// hosts is what configs/ names.
var hosts = [3]string{"192.168.100.117", "192.168.100.172", "192.168.100.2"}

// node is one daemon.
type node struct {
	t      *testing.T
	binary string
	addr   string
	config string
	data   string
	log    string

	env []string // beside the test's own

	cmd    *exec.Cmd
	exited chan struct{} // closed when the process has ended
}

func (n *node) master() string { return n.addr + ":9333" }
func (n *node) volume() string { return n.addr + ":8080" }

// build makes the program under test.
func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "weedd")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return binary
}

// TestE2E builds once for all.
func TestE2E(t *testing.T) {
	binary := build(t)
	t.Run("mistakes are refused at start", func(t *testing.T) { mistakes(t, binary) })
	t.Run("one node takes the first upload within two seconds", func(t *testing.T) { firstUpload(t, binary) })
	t.Run("systemd is told what it waits for", func(t *testing.T) { systemd(t, binary) })
	t.Run("every node serves and clients do not notice that one fails", func(t *testing.T) { failing(t, binary) })
	t.Run("no fault of one process costs a request", func(t *testing.T) { faults(t, binary) })
	t.Run("copies that are made cost no request", func(t *testing.T) { copying(t, binary) })
	t.Run("other people's programs are served", func(t *testing.T) { otherPrograms(t, binary) })
	t.Run("the tools fetch the tokens they need", func(t *testing.T) { toolsWithTokens(t, binary) })
	t.Run("an upload outlives the leader", func(t *testing.T) { uploadOutlivesLeader(t, binary) })
}

// threeHosts prepares three nodes from configs/ and starts none of them.
func threeHosts(t *testing.T, binary string) [3]*node {
	t.Helper()
	dir := t.TempDir()
	key := filepath.Join(dir, "cluster.key")
	if err := os.WriteFile(key, []byte(strings.Repeat("0123456789abcdef", 4)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	network := fmt.Sprintf("127.%d.%d.", 1+rand.IntN(254), rand.IntN(255)) // nobody else's
	var nodes [3]*node
	for i, host := range hosts {
		n := &node{t: t, binary: binary, addr: fmt.Sprint(network, i+1), data: filepath.Join(dir, host, "data")}
		n.config, n.log = filepath.Join(dir, host+".toml"), filepath.Join(dir, host+".log")
		text, err := os.ReadFile("../../configs/host-" + host + ".toml")
		if err != nil {
			t.Fatal(err)
		}
		replace := []string{"/var/lib/weedd", n.data, "/etc/weedd/cluster.key", key}
		for j, h := range hosts {
			replace = append(replace, `"`+h+`"`, fmt.Sprintf("%q", fmt.Sprint(network, j+1)))
		}
		if err := os.WriteFile(n.config, []byte(strings.NewReplacer(replace...).Replace(string(text))), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(n.data, 0o700); err != nil {
			t.Fatal(err)
		}
		nodes[i] = n
	}
	t.Cleanup(func() { cleanUp(t, nodes) })
	return nodes
}

// cleanUp ends what still runs, and shows the logs if the test failed.
func cleanUp(t *testing.T, nodes [3]*node) {
	for _, n := range nodes {
		n.kill()
		if b, err := os.ReadFile(n.log); t.Failed() && err == nil {
			t.Logf("the end of the log of %s:\n%s", n.addr, b[max(0, len(b)-8000):])
		}
	}
}

// start starts the daemon; it goes on writing to the same log.
func (n *node) start() {
	n.t.Helper()
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		n.t.Fatal(err)
	}
	defer log.Close()
	n.cmd = exec.Command(n.binary, "run", "--config", n.config)
	n.cmd.Stderr = log
	// The place is shared by three, and a volume of the default size needs 30 GB of it.
	n.cmd.Env = append(os.Environ(), append(n.env, "WEEDD_MASTER_VOLUME_SIZE_LIMIT=1GiB")...)
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // should the test itself be killed
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		_ = cmd.Wait() // ProcessState says how it ended
		close(exited)
	}(n.cmd, n.exited)
}

// kill ends the process as a power cut does, and returns when it is gone.
func (n *node) kill() {
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Kill() // it may have ended before
	<-n.exited
}

// stop ends processes, all at once, as a service manager does.
func stop(t *testing.T, nodes ...*node) {
	t.Helper()
	began := time.Now()
	for _, n := range nodes {
		if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatalf("stop %s: %v", n.addr, err)
		}
	}
	for _, n := range nodes {
		select {
		case <-n.exited:
		case <-time.After(stopWithin):
			t.Fatalf("%s did not stop within %s", n.addr, stopWithin)
		}
		if code := n.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("%s: exit code %d after SIGTERM, want 0", n.addr, code)
		}
	}
	t.Logf("stopped after %s", time.Since(began).Round(10*time.Millisecond))
}

// awaitReady waits until every given node says that it serves.
func awaitReady(t *testing.T, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		for _, at := range []string{n.master(), n.volume()} {
			await(t, readyWithin, at+" is ready", func() error {
				select {
				case <-n.exited:
					t.Fatalf("%s ended: %s", n.addr, n.cmd.ProcessState)
				default:
				}
				return getOK("http://" + at + "/readyz")
			})
		}
	}
}

func getOK(url string) error {
	resp, err := (&http.Client{Timeout: 5 * time.Second}).Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, b)
	}
	return nil
}

// await polls until ask has no error.
func await(t *testing.T, within time.Duration, what string, ask func() error) {
	t.Helper()
	began := time.Now()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			t.Logf("%s after %s", what, time.Since(began).Round(10*time.Millisecond))
			return
		}
		if time.Since(began) > within {
			t.Fatalf("waited %s in vain until %s: %v", within, what, err)
		}
		<-tick.C
	}
}

// tool runs the program to its end.
func tool(t *testing.T, binary string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("weedd %s: %v", strings.Join(args, " "), err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errOut.String()
}

// view asks one node for its view of the cluster.
func view(ctx context.Context, n *node) (cluster.View, error) {
	c, err := client.New(client.Options{Masters: []string{n.master()}, Attempts: 1})
	if err != nil {
		return cluster.View{}, err
	}
	defer c.Close()
	return c.Status(ctx)
}

// leaderOf finds the node that leads, as n knows it.
func leaderOf(t *testing.T, n *node, nodes [3]*node) (leader *node, others []*node) {
	t.Helper()
	await(t, readyWithin, "a leader is known", func() error {
		v, err := view(t.Context(), n)
		leader, others = nil, nil
		for _, n := range nodes {
			if n.master() == v.Leader.Address {
				leader = n
			} else {
				others = append(others, n)
			}
		}
		if err == nil && leader == nil {
			err = fmt.Errorf("the leader is %q", v.Leader.Address)
		}
		return err
	})
	return leader, others
}

// awaitWhole waits until `weedd status` at n has nothing to complain about and
// all copies are there and equally long.
func awaitWhole(t *testing.T, n *node) cluster.View {
	t.Helper()
	var v cluster.View
	await(t, wholeWithin, "the cluster is whole", func() error {
		code, out, errOut := tool(t, n.binary, "status", "--master", n.master(), "--json")
		v = cluster.View{}
		if err := json.Unmarshal([]byte(out), &v); err != nil || code != 0 {
			return fmt.Errorf("exit code %d, %v, %s", code, err, errOut)
		}
		return errors.Join(restored(v), equal(v))
	})
	return v
}

// restored reports whether every volume has all its copies in sync.
func restored(v cluster.View) error {
	if len(v.Problems) > 0 {
		return fmt.Errorf("%d problems, such as %s", len(v.Problems), v.Problems[0].What)
	}
	for _, vol := range v.Volumes {
		e := vol.Entry
		if len(e.InSync) != e.Spec.Placement.Copies() || len(e.Joining) > 0 || len(vol.Copies) != len(e.InSync) {
			return fmt.Errorf("volume %d: %d copies in sync, %d joining", e.Volume, len(e.InSync), len(e.Joining))
		}
	}
	return nil
}

// equal reports whether all copies of each volume are committed to their ends.
func equal(v cluster.View) error {
	for _, vol := range v.Volumes {
		for _, c := range vol.Copies {
			first := vol.Copies[0].Report
			if c.Report == nil || first == nil {
				return fmt.Errorf("volume %d: no report of %s", vol.Entry.Volume, c.Node)
			}
			if c.Report.Committed != first.Committed || c.Report.Size != first.Size || c.Report.Committed != c.Report.Size {
				return fmt.Errorf("volume %d: copies have %d of %d and %d of %d bytes", vol.Entry.Volume,
					first.Committed, first.Size, c.Report.Committed, c.Report.Size)
			}
		}
	}
	return nil
}

// compareCopies finds every volume's files on the three disks, and fails unless
// there are as many as there should be, with the same bytes.
func compareCopies(t *testing.T, v cluster.View, nodes [3]*node) {
	t.Helper()
	if len(v.Volumes) == 0 {
		t.Error("there are no volumes to compare")
	}
	for _, vol := range v.Volumes {
		e := vol.Entry
		name := fmt.Sprintf("%d.dat", e.Volume)
		if e.Spec.Collection != "" {
			name = e.Spec.Collection + "_" + name
		}
		var paths []string
		for _, n := range nodes {
			if path := filepath.Join(n.data, "volumes", name); exists(path) {
				paths = append(paths, path)
			}
		}
		if len(paths) != e.Spec.Placement.Copies() {
			t.Errorf("volume %d: %d copies on disk, want %d", e.Volume, len(paths), e.Spec.Placement.Copies())
		}
		for _, path := range paths[min(1, len(paths)):] {
			if err := sameFile(paths[0], path); err != nil {
				t.Errorf("volume %d: copies differ: %v", e.Volume, err)
			}
		}
	}
	t.Logf("%d volumes have equal copies", len(v.Volumes))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// sameFile compares two files byte by byte.
func sameFile(a, b string) error {
	x, err := os.ReadFile(a)
	if err != nil {
		return err
	}
	y, err := os.ReadFile(b)
	if err != nil {
		return err
	}
	if !bytes.Equal(x, y) {
		return fmt.Errorf("%s has %d bytes, %s has %d, and they are not the same", a, len(x), b, len(y))
	}
	return nil
}

// sourceTree is the directory to upload, and how many files are in it.
func sourceTree(t *testing.T) (dir string, files int) {
	t.Helper()
	dir = os.Getenv("E2E_TREE")
	if dir == "" {
		out, err := exec.Command("go", "env", "GOROOT").Output()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(strings.TrimSpace(string(out)), "src")
	}
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir, files
}

func uploadOutlivesLeader(t *testing.T, binary string) {
	tree, count := sourceTree(t)
	nodes := threeHosts(t, binary)
	for _, n := range nodes {
		n.start()
	}
	awaitReady(t, nodes[:]...)
	leader, others := leaderOf(t, nodes[0], nodes)

	work := t.TempDir()
	manifest := filepath.Join(work, "manifest.jsonl")
	report := make(chan uploadReport, 1)
	go func() {
		masters := others[0].master() + "," + others[1].master()
		code, out, errOut := tool(t, binary, "upload", "--master", masters, "--replication", "001", "--manifest", manifest, "--json", tree)
		var r uploadReport
		if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 {
			t.Errorf("upload: exit code %d, %v\n%s", code, err, errOut[:min(len(errOut), 4000)])
		}
		report <- r
	}()
	await(t, time.Minute, "a fifth is uploaded", func() error {
		v, err := view(t.Context(), others[0])
		if all := totals(v.Volumes); err == nil && all.files < int64(count/5) {
			err = fmt.Errorf("%d files of %d", all.files, count)
		}
		return err
	})
	leader.kill()
	select {
	case r := <-report:
		t.Fatalf("the upload was over before the leader was killed: %+v", r)
	default:
	}
	killed := time.Now()
	leaderOf(t, others[0], nodes)
	r := <-report
	t.Logf("uploaded %d files, %s, in %.1f s, the last %s without the old leader; %d needed another attempt",
		r.Files, formatBytes(r.Bytes), r.Seconds, time.Since(killed).Round(time.Second), r.Retried)
	if r.Files != count || len(r.Failed) > 0 {
		t.Fatalf("uploaded %d files of %d, %d failed", r.Files, count, len(r.Failed))
	}
	if r.Retried > 0 {
		t.Errorf("%d requests at nodes that lived were refused or broke off", r.Retried)
	}
	checkManifest(t, manifest, count)

	leader.start()
	awaitReady(t, leader)
	v := awaitWhole(t, leader)
	downloadAndCompare(t, leader, manifest, tree, count)
	stop(t, nodes[:]...)
	compareCopies(t, v, nodes)
}

// checkManifest looks for ids that were given out twice.
func checkManifest(t *testing.T, path string, count int) {
	t.Helper()
	seen := map[string]string{}
	for _, e := range manifestLines(t, path) {
		if other, again := seen[e.FID]; again {
			t.Errorf("%s and %s have the same id %s", other, e.Path, e.FID)
		}
		seen[e.FID] = e.Path
	}
	if len(seen) != count {
		t.Errorf("the manifest lists %d files of %d", len(seen), count)
	}
}

// downloadAndCompare fetches all through one node and compares it with the tree.
func downloadAndCompare(t *testing.T, n *node, manifest, tree string, count int) {
	t.Helper()
	began := time.Now()
	back := t.TempDir()
	code, out, errOut := tool(t, n.binary, "download", "--master", n.master(), "--json", manifest, back)
	var r downloadReport
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 || r.Files != count {
		t.Fatalf("download: exit code %d, %v, %d files\n%s", code, err, r.Files, errOut[:min(len(errOut), 4000)])
	}
	compared := 0
	err := filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(filepath.Dir(tree), path)
		if err != nil {
			return err
		}
		compared++
		return sameFile(path, filepath.Join(back, rel))
	})
	if err != nil || compared != count {
		t.Errorf("compared %d files of %d: %v", compared, count, err)
	}
	t.Logf("downloaded and compared %d files in %s", compared, time.Since(began).Round(100*time.Millisecond))
}

// submit does what `curl -F file=@name http://master/submit` does.
func submit(master, name string, body []byte) (fid string, err error) {
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	part, err := w.CreateFormFile("file", name)
	if err == nil {
		_, err = part.Write(body)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return "", err
	}
	resp, err := http.Post("http://"+master+"/submit", w.FormDataContentType(), &form)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	var said struct {
		FID  string `json:"fid"`
		Size int    `json:"size"`
	}
	if err == nil && resp.StatusCode != http.StatusCreated {
		err = fmt.Errorf("submit at %s: %s: %s", master, resp.Status, b)
	}
	if err = errors.Join(err, json.Unmarshal(b, &said)); err == nil && said.Size != len(body) {
		err = fmt.Errorf("submit at %s: %s tells of %d bytes of %d", master, b, said.Size, len(body))
	}
	return said.FID, err
}

// request sends a plain request and gives status and body.
func request(method, url string) (int, []byte, error) {
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, b, err
}

// failing lets one node after the other fail while clients at the other two
// store and read, and tolerates no failure of any request there.
func failing(t *testing.T, binary string) {
	nodes := threeHosts(t, binary)
	for _, n := range nodes {
		n.start()
	}
	awaitReady(t, nodes[:]...)
	for _, n := range nodes {
		serves(t, n, nodes)
	}
	everything := map[string]string{}
	for _, planned := range []bool{true, false} {
		for _, leading := range []bool{true, false} {
			victim, others := leaderOf(t, nodes[0], nodes)
			if !leading {
				victim, others = others[0], []*node{victim, others[1]}
			}
			t.Logf("stopped as planned: %v, the leader: %v", planned, leading)
			for id, body := range failOne(t, victim, others, planned) {
				if _, again := everything[id]; again {
					t.Errorf("%s was given out twice", id)
				}
				everything[id] = body
			}
		}
	}
	v := awaitWhole(t, nodes[0])
	for id, want := range everything {
		n := nodes[len(want)%3]
		status, got, err := request(http.MethodGet, "http://"+n.volume()+"/"+id)
		if err != nil || status != http.StatusOK || string(got) != want {
			t.Fatalf("%s at %s: %d, %d bytes, %v", id, n.addr, status, len(got), err)
		}
	}
	stop(t, nodes[:]...)
	compareCopies(t, v, nodes)
}

// failOne stops or kills one node under load at the others, starts it again, and
// returns when it holds all it should again.
func failOne(t *testing.T, victim *node, others []*node, planned bool) map[string]string {
	t.Helper()
	load := startLoad(t, others)
	load.awaitMore(t, 50)
	if planned {
		stop(t, victim)
	} else {
		victim.kill()
	}
	load.awaitMore(t, 200)
	victim.start()
	awaitReady(t, victim)
	await(t, wholeWithin, "all copies are in sync under load", func() error {
		v, err := view(t.Context(), others[0])
		return errors.Join(err, restored(v))
	})
	load.awaitMore(t, 50)
	load.stop(t)
	return load.stored
}

// serves stores at one node, reads at all, deletes at one, and looks at all.
func serves(t *testing.T, n *node, nodes [3]*node) {
	t.Helper()
	for _, body := range []string{"hello", "", strings.Repeat("0123456789", 100_000)} {
		fid, err := submit(n.master(), "hello.txt", []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		everywhere := func(when string, want int, text string) {
			for _, at := range nodes {
				for _, url := range []string{"http://" + at.volume() + "/" + fid, "http://" + at.master() + "/" + fid} {
					status, got, err := request(http.MethodGet, url)
					if err != nil || status != want || want == http.StatusOK && string(got) != text {
						t.Errorf("GET %s %s: %d with %d bytes, %v; want %d with %d", url, when, status, len(got), err, want, len(text))
					}
				}
			}
		}
		everywhere("after the upload", http.StatusOK, body)
		if status, _, err := request(http.MethodDelete, "http://"+n.volume()+"/"+fid); err != nil || status != http.StatusAccepted {
			t.Errorf("DELETE %s at %s: %d, %v", fid, n.addr, status, err)
		}
		everywhere("after the delete", http.StatusNotFound, "")
	}
}

// load stores and reads at some nodes for as long as it runs, and tolerates no
// failure of any request.
type load struct {
	quit    chan struct{}
	workers sync.WaitGroup

	mu      sync.Mutex
	stored  map[string]string // bodies by file id
	failed  []error
	slowest time.Duration
}

func startLoad(t *testing.T, nodes []*node) *load {
	l := &load{quit: make(chan struct{}), stored: map[string]string{}}
	t.Cleanup(func() { l.end() })
	for w := range 4 {
		l.workers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-l.quit:
					return
				default:
					l.once(nodes[(w+i)%len(nodes)], nodes[i%len(nodes)], fmt.Sprintf("body %d of worker %d", i, w))
				}
			}
		})
	}
	return l
}

// once stores a file at one node and reads it at another.
func (l *load) once(at, from *node, body string) {
	began := time.Now()
	fid, err := submit(at.master(), "f", []byte(body))
	took := time.Since(began)
	if err == nil {
		var status int
		var got []byte
		status, got, err = request(http.MethodGet, "http://"+from.volume()+"/"+fid)
		if err == nil && (status != http.StatusOK || string(got) != body) {
			err = fmt.Errorf("GET %s at %s: %d with %q", fid, from.addr, status, got)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slowest = max(l.slowest, took)
	if err != nil {
		l.failed = append(l.failed, err)
		return
	}
	if other, again := l.stored[fid]; again {
		l.failed = append(l.failed, fmt.Errorf("%q and %q have the same id %s", other, body, fid))
	}
	l.stored[fid] = body
}

// awaitMore waits for n more files.
func (l *load) awaitMore(t *testing.T, n int) {
	t.Helper()
	count := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.stored)
	}
	want := count() + n
	await(t, readyWithin, fmt.Sprintf("%d files more are stored", n), func() error {
		if have := count(); have < want {
			return fmt.Errorf("%d files of %d", have, want)
		}
		return nil
	})
}

func (l *load) end() {
	select {
	case <-l.quit:
	default:
		close(l.quit)
	}
	l.workers.Wait()
}

// stop ends the load and judges it.
func (l *load) stop(t *testing.T) {
	t.Helper()
	l.end()
	t.Logf("%d files stored and read meanwhile, the slowest in %s", len(l.stored), l.slowest.Round(time.Millisecond))
	for i, err := range l.failed {
		if i < 5 {
			t.Errorf("a client at the other nodes noticed: %v", err)
		}
	}
	if n := len(l.failed); n > 5 {
		t.Errorf("and %d times more", n-5)
	}
}

func mistakes(t *testing.T, binary string) {
	nodes := threeHosts(t, binary)
	n := nodes[0]
	wrong := filepath.Join(t.TempDir(), "wrong.toml")
	if err := os.WriteFile(wrong, []byte("roles = [\"master\"]\naddress = \"127.0.0.1\"\n[master]\nhtpp = 9333\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, said := tool(t, binary, "run", "--config", wrong)
	if code != exitUsage || !strings.Contains(said, wrong+":4: master.htpp: unknown key; did you mean master.http?") {
		t.Errorf("wrong key: exit code %d\n%s", code, said)
	}
	n.start()
	await(t, readyWithin, "the first process serves", func() error { return getOK("http://" + n.master() + "/healthz") })
	code, _, said = tool(t, binary, "run", "--config", n.config)
	if code != exitError || !strings.Contains(said, n.data+" is in use by another weedd") {
		t.Errorf("second process on one data directory: exit code %d\n%s", code, said)
	}
	if getOK("http://"+n.master()+"/healthz") != nil {
		t.Error("the first process suffered from the second")
	}
	stop(t, n)
}

// firstUpload is the promise of the README: the first upload on an empty cluster.
func firstUpload(t *testing.T, binary string) {
	n := loneNode(t, binary)
	began := time.Now()
	n.start()
	await(t, 10*time.Second, "the first upload succeeds", func() error {
		fid, err := submit(n.master(), "first.txt", []byte("first"))
		if err == nil {
			_, err = volume.ParseFileID(fid)
		}
		return err
	})
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the first upload took %s from the start", took)
	}
	stop(t, n)
}

// loneNode prepares a node from configs/ that is a cluster of its own.
func loneNode(t *testing.T, binary string) *node {
	t.Helper()
	n := &node{t: t, binary: binary, addr: fmt.Sprintf("127.%d.%d.9", 1+rand.IntN(254), rand.IntN(255))}
	dir := t.TempDir()
	n.config, n.log, n.data = filepath.Join(dir, "weedd.toml"), filepath.Join(dir, "log"), filepath.Join(dir, "data")
	text, err := os.ReadFile("../../configs/one-node.toml")
	if err != nil {
		t.Fatal(err)
	}
	config := strings.NewReplacer(`"./data"`, fmt.Sprintf("%q", n.data), "127.0.0.1", n.addr).Replace(string(text))
	if err := os.WriteFile(n.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.kill)
	return n
}
