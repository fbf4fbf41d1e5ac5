//go:build e2e

// Package lab tries the playbooks on three systemd hosts. "make e2e-hosts" runs it
// as the controller in the lab that the script lab makes.
package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// hosts are those that run the cluster, by name and address; addresses has the
// same order.
var (
	hosts     = []string{"weedd1", "weedd2", "weedd3"}
	addresses = []string{"192.168.100.117", "192.168.100.172", "192.168.100.2"}
)

// controller is the address that the controller has in the lab and nowhere else.
const controller = "192.168.100.1"

const wholeWithin = "2m"

// TestHosts is one story, since each part begins with the cluster of the one before.
func TestHosts(t *testing.T) {
	l, err := net.Listen("tcp", controller+":0")
	if err != nil {
		t.Fatalf("not in the lab, and these addresses may be somebody else's: %v", err)
	}
	l.Close()
	x := newStory(t)
	for _, part := range []struct {
		name string
		do   func()
	}{
		{"a first rollout gives a healthy cluster within five minutes", x.firstRollout},
		{"every host takes uploads at every address", x.uploadsEverywhere},
		{"a second run changes nothing", x.secondRun},
		{"faults of hosts and between them cost no request at the others", x.faults},
		{"one host of three serves what it has", x.twoDown},
		{"all hosts lose power, and nothing acknowledged is lost", x.allDown},
		{"a bad setting is refused before anything is changed", x.badSetting},
		{"restarts, crashes and lost power cost no request", x.mishaps},
		{"an upgrade and a changed setting cost no request", x.upgrade},
		{"an upgrade stops at the first host that does not come back", x.badProgram},
		{"drift is repaired, and told", x.drift},
		{"a host that is lost is replaced by one at another address", x.replace},
		{"a host joins, and another one leaves", x.decommission},
		{"a cluster that is lost comes back from a backup", x.restore},
		{"hosts of SeaweedFS become hosts of weedd, and go back", x.migrate},
	} {
		if !t.Run(part.name, func(t *testing.T) { x.t = t; part.do() }) {
			x.showLogs()
			return // what follows would fail for the same reason
		}
	}
}

// story is the cluster on the hosts, and what is told of it.
type story struct {
	t        *testing.T
	packages string   // a directory: 1, 2 and broken are versions to roll out
	dir      string   // for what Ansible is told
	extra    []string // variables for all runs
	version  string   // the package to roll out
	told     string   // what the last playbook printed

	inventory string
	own       map[string]any // what the inventory says of a host, besides its address
	lost      string         // the host that is out of the cluster
	kept      kept
}

func newStory(t *testing.T) *story {
	x := &story{t: t, packages: os.Getenv("HOSTS_PACKAGES"), dir: t.TempDir(), version: "1", inventory: "inventory/hosts.yml"}
	if x.packages == "" {
		t.Fatal("HOSTS_PACKAGES names no directory with packages; make e2e-hosts does")
	}
	x.extra = []string{"-e", "@" + x.labVars(map[string]any{"weedd_disks": []map[string]string{{"path": "/srv/data/weedd", "mount": "/srv/data"}}})}
	x.set("")
	return x
}

// labVars writes a file with what is different from the committed inventory here.
func (x *story) labVars(more map[string]any) (file string) {
	vars := map[string]any{
		"weedd_key_file": filepath.Join(os.Getenv("LAB_DIR"), "cluster.key"), // lives as long as the hosts
		"weedd_wait":     120,
	}
	maps.Copy(vars, more)
	b, err := json.Marshal(vars)
	if err != nil {
		x.t.Fatal(err)
	}
	file = filepath.Join(x.dir, "lab.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		x.t.Fatal(err)
	}
	return file
}

// set chooses the settings of the masters, besides those of the inventory.
func (x *story) set(more string) {
	text := `{"weedd_settings": {"master": {"expect": 3, "default_replication": "001", "volume_size_limit": "64MB"` + more + `}}}`
	if err := os.WriteFile(filepath.Join(x.dir, "settings.json"), []byte(text), 0o600); err != nil {
		x.t.Fatal(err)
	}
}

// recap is what a playbook did to one host.
type recap struct{ changed, failed, unreachable string }

var recapLine = regexp.MustCompile(`(?m)^(weedd\d) +: ok=\d+ +changed=(\d+) +unreachable=(\d+) +failed=(\d+)`)

// play runs a playbook and gives its output.
func (x *story) play(playbook string, args ...string) (out string, err error) {
	x.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	packages, err := filepath.Glob(filepath.Join(x.packages, x.version, "weedd_*.deb"))
	if err != nil || len(packages) != 1 {
		x.t.Fatalf("packages of version %s: %v, %v", x.version, packages, err)
	}
	began := time.Now()
	command := slices.Concat([]string{"-i", x.inventory, "-i", filepath.Join(os.Getenv("LAB_DIR"), "inventory.ini"),
		"-e", "@" + filepath.Join(x.dir, "settings.json"), "-e", "weedd_package=" + packages[0]}, x.extra, args, []string{playbook})
	cmd := exec.CommandContext(ctx, "ansible-playbook", command...)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "ANSIBLE_NOCOLOR=1", "ANSIBLE_HOME="+filepath.Join(x.dir, "ansible"))
	b, err := cmd.CombinedOutput()
	x.t.Logf("%s %s: %v, %v", playbook, strings.Join(args, " "), time.Since(began).Round(time.Second), err)
	x.told = string(b)
	return x.told, err
}

// mustPlay runs a playbook that succeeds, and gives its recap by host.
func (x *story) mustPlay(playbook string, args ...string) map[string]recap {
	x.t.Helper()
	out, err := x.play(playbook, args...)
	if err != nil {
		x.t.Fatalf("%s: %v\n%s", playbook, err, out)
	}
	recaps := map[string]recap{}
	for _, m := range recapLine.FindAllStringSubmatch(out, -1) {
		recaps[m[1]] = recap{changed: m[2], unreachable: m[3], failed: m[4]}
	}
	if len(recaps) < len(hosts) {
		x.t.Fatalf("no recap of every host:\n%s", out)
	}
	return recaps
}

// lab runs a command of the lab that succeeds, and gives what it prints.
func (x *story) lab(args ...string) string {
	x.t.Helper()
	out, err := labCommand(args...)
	if err != nil {
		x.t.Fatalf("lab %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func labCommand(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "./lab", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out) + stderr.String(), err
	}
	return string(out), nil
}

// whole waits until the cluster lacks nothing, as one of the hosts sees it.
func (x *story) whole(host string) {
	x.t.Helper()
	x.lab("exec", host, "weedd", "status", "--whole", "--wait", wholeWithin, "--master", strings.Join(masters(), ","))
}

func masters() []string { return ports("9333") }

func ports(port string) (all []string) {
	for _, a := range addresses {
		all = append(all, net.JoinHostPort(a, port))
	}
	return all
}

// leader is the index of the host whose master leads.
func (x *story) leader() int {
	x.t.Helper()
	var status struct{ Leader string }
	for _, m := range masters() {
		if err := getJSON("http://"+m+"/cluster/status", &status); err == nil {
			if i := slices.Index(masters(), status.Leader); i >= 0 {
				return i
			}
		}
	}
	x.t.Fatalf("nobody knows who leads; the last answer was %+v", status)
	return 0
}

func (x *story) showLogs() {
	for _, h := range hosts {
		out, _ := labCommand("exec", h, "journalctl", "--no-pager", "--unit", "weedd", "--lines", "60")
		x.t.Logf("the end of the journal of %s:\n%s", h, out)
	}
}

func (x *story) firstRollout() {
	began := time.Now()
	x.mustPlay("site.yml")
	x.whole(hosts[0])
	took := time.Since(began).Round(time.Second)
	x.t.Logf("healthy %v after hosts with nothing on them", took)
	if took > 5*time.Minute {
		x.t.Errorf("that is more than five minutes")
	}
	for _, h := range hosts {
		if out := x.lab("exec", h, "systemctl", "show", "--property", "User,ActiveState", "weedd"); out != "User=weedd\nActiveState=active\n" && out != "ActiveState=active\nUser=weedd\n" {
			x.t.Errorf("%s: %s", h, out)
		}
		if mode := x.lab("exec", h, "stat", "--format", "%U %a", "/etc/weedd/cluster.key"); mode != "root 600\n" {
			x.t.Errorf("%s: the key is %s", h, mode)
		}
	}
	// The internal port is for nodes, and the controller is none.
	if c, err := net.DialTimeout("tcp", addresses[0]+":9332", time.Second); err == nil {
		c.Close()
		x.t.Error("the firewall lets the controller reach the internal port")
	}
}

func (x *story) uploadsEverywhere() {
	for _, h := range hosts {
		x.lab("exec", h, "bash", "-c", "head -c 100000 /dev/urandom > /tmp/1.jpg")
		for _, a := range addresses {
			out := x.lab("exec", h, "curl", "--fail-with-body", "--silent", "--show-error", "--max-time", "30", "-F", "file=@/tmp/1.jpg", "http://"+a+":9333/submit")
			var answer struct{ Fid string }
			if err := json.Unmarshal([]byte(out), &answer); err != nil || answer.Fid == "" {
				x.t.Errorf("%s at %s: %s", h, a, out)
				continue
			}
			x.lab("exec", h, "bash", "-c", fmt.Sprintf("curl --fail --silent --max-time 30 http://%s:8080/%s | cmp - /tmp/1.jpg", a, answer.Fid))
		}
	}
}

// unchanged wants a run that changed nothing.
func (x *story) unchanged(playbook string, args ...string) {
	x.t.Helper()
	for h, r := range x.mustPlay(playbook, args...) {
		if r.changed != "0" {
			x.t.Errorf("%s changed %s on %s", playbook, r.changed, h)
		}
	}
}

func (x *story) secondRun() { x.unchanged("site.yml", "--diff") }

// state is all that a refused run must leave as it is.
func (x *story) state() (all string) {
	for _, h := range hosts {
		all += x.lab("exec", h, "bash", "-c", "cat /etc/weedd/weedd.toml; dpkg-query -W weedd; systemctl show -p MainPID,NRestarts weedd")
	}
	return all
}

func (x *story) badSetting() {
	before := x.state()
	x.set(`, "repair_after": "soon"`)
	defer x.set("")
	x.version = "2"
	defer func() { x.version = "1" }()
	out, err := x.play("upgrade.yml")
	if err == nil || !strings.Contains(out, "master.repair_after") {
		x.t.Errorf("the bad setting was not named (%v):\n%s", err, out)
	}
	if after := x.state(); after != before {
		x.t.Errorf("was\n%s\nis\n%s", before, after)
	}
}

// underLoad has clients work while the steps are done one after another. A request
// fails when no address answers it as it should. At the end nothing acknowledged is
// lost, and all copies are equal.
func (x *story) underLoad(steps func(step func(name string, do func(*load)))) {
	x.t.Helper()
	l := startLoad(x.t, addresses)
	defer l.stop()
	l.await(50)
	steps(func(name string, do func(*load)) {
		x.t.Helper()
		failed := l.failed()
		began := time.Now()
		do(l)
		l.await(20) // and it goes on
		x.t.Logf("%s: %v, %s", name, time.Since(began).Round(time.Second), l.summary())
		if n := l.failed() - failed; n > 0 {
			x.t.Errorf("%s: %d requests failed: %s", name, n, l.reason())
		}
	})
	l.stop()
	l.check(addresses)
	x.copiesEqual()
}

func (x *story) upgrade() {
	x.underLoad(func(step func(string, func(*load))) {
		step("upgrade", func(*load) {
			x.version = "2"
			x.mustPlay("upgrade.yml")
			for _, h := range hosts {
				if v := x.lab("exec", h, "curl", "--silent", "http://localhost:8080/status"); !strings.Contains(v, "e2e2") {
					x.t.Errorf("%s runs another version: %.200s", h, v)
				}
			}
		})
		step("changed setting", func(*load) {
			x.set(`, "repair_after": "7m"`)
			for h, r := range x.mustPlay("site.yml", "--diff") {
				if r.changed == "0" {
					x.t.Errorf("nothing changed on %s", h)
				}
			}
		})
	})
}

func (x *story) mishaps() {
	x.underLoad(x.restarts)
}

func (x *story) restarts(step func(string, func(*load))) {
	step("restart", func(*load) {
		x.lab("exec", hosts[2], "systemctl", "restart", "weedd")
		x.whole(hosts[0])
	})
	step("kill", func(*load) {
		x.lab("exec", hosts[0], "systemctl", "kill", "--signal", "KILL", "weedd")
		x.whole(hosts[1])
	})
	step("reboot", func(*load) {
		x.lab("reboot", hosts[1])
		x.whole(hosts[0])
	})
	step("power-off of the leader's host, and its return", func(l *load) {
		i := x.leader()
		x.lab("powerloss", hosts[i])
		l.await(50) // without it
		x.lab("start", hosts[i])
		x.whole(hosts[(i+1)%3])
	})
}

// copiesEqual waits until the bytes of all copies are equal. Nobody writes at the
// time, but a compaction may change one copy a moment after another was read.
func (x *story) copiesEqual() {
	x.t.Helper()
	x.whole(hosts[0])
	x.eventually(30*time.Second, "all copies are equal", func() error {
		sums := map[string][]string{}
		for _, h := range hosts {
			for line := range strings.Lines(x.lab("exec", h, "bash", "-c", "cd /srv/data/weedd && sha256sum -- *.dat")) {
				sum, file, _ := strings.Cut(strings.TrimSpace(line), "  ")
				sums[file] = append(sums[file], sum)
			}
		}
		for file, all := range sums {
			if slices.Sort(all); len(all) < 2 || all[0] != all[len(all)-1] {
				return fmt.Errorf("%s: copies are %v", file, all)
			}
		}
		if len(sums) == 0 {
			return errors.New("no volumes")
		}
		return nil
	})
}

func (x *story) badProgram() {
	load := startLoad(x.t, addresses)
	defer load.stop()
	x.version = "broken"
	out, err := x.play("upgrade.yml")
	x.version = "2"
	if err == nil {
		x.t.Fatalf("a program that does not start was rolled out:\n%s", out)
	}
	broken := 0
	for _, h := range hosts {
		if v := x.lab("exec", h, "dpkg-query", "--show", "weedd"); strings.Contains(v, "broken") {
			broken++
			if strings.Contains(out, h+"] => {\n    \"msg\": \"leads: last\"") {
				x.t.Error("the leader's host was not the last")
			}
		}
	}
	if n := strings.Count(out, "leads: last"); n != 1 {
		x.t.Errorf("%d hosts were to be the last:\n%s", n, out)
	}
	if broken != 1 {
		x.t.Errorf("%d hosts have the bad package, want 1:\n%s", broken, out)
	}
	load.await(50)
	x.mustPlay("site.yml")
	x.whole(hosts[0])
	load.stop()
	if load.failed() > 0 {
		x.t.Errorf("%d requests failed: %s", load.failed(), load.reason())
	}
	load.check(addresses)
}

func (x *story) drift() {
	x.lab("exec", hosts[0], "rm", "/etc/systemd/system/weedd.service.d/disks.conf")
	x.lab("exec", hosts[1], "bash", "-c", `echo "# by hand" >> /etc/weedd/weedd.toml`)
	x.lab("exec", hosts[2], "systemctl", "disable", "--now", "weedd")
	foreseen := x.mustPlay("site.yml", "--check", "--diff")
	done := x.mustPlay("site.yml", "--diff")
	for _, h := range hosts {
		if done[h].changed == "0" || foreseen[h].changed == "0" {
			x.t.Errorf("%s: foreseen %s changes, done %s", h, foreseen[h].changed, done[h].changed)
		}
	}
	for _, want := range []string{`\n-# by hand\n`, `\n\+ReadWritePaths=-/srv/data/weedd\n`, `TASK \[weedd : Enabled and running\] \*+\n(?:.+\n)*?changed: \[weedd3\]\n`} {
		if !regexp.MustCompile(want).MatchString(x.told) {
			x.t.Errorf("the run did not say %q:\n%s", want, x.told)
		}
	}
	x.unchanged("site.yml")
}
