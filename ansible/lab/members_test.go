//go:build e2e

package lab

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"weedd/cluster"
)

// addressOf has the spare host, too.
var addressOf = map[string]string{"weedd1": "192.168.100.117", "weedd2": "192.168.100.172", "weedd3": "192.168.100.2", "weedd4": "192.168.100.44"}

// members writes the inventory anew: who is in the cluster, and who is to leave it.
func (x *story) members(stay []string, leave ...string) {
	x.t.Helper()
	all, leaving := map[string]any{}, map[string]any{}
	for _, h := range slices.Concat(stay, leave) {
		all[h] = map[string]any{"ansible_host": addressOf[h]}
		if own, ok := x.own[h]; ok {
			all[h] = own
		}
	}
	for _, h := range leave {
		leaving[h] = map[string]any{}
	}
	inventory := map[string]any{"weedd": map[string]any{"hosts": all}}
	if len(leave) > 0 {
		inventory["weedd_leaving"] = map[string]any{"hosts": leaving}
	}
	x.writeInventory(inventory)
	hosts, addresses = stay, nil
	for _, h := range stay {
		addresses = append(addresses, addressOf[h])
	}
}

func (x *story) writeInventory(inventory any) {
	x.t.Helper()
	b, err := json.Marshal(inventory)
	if err != nil {
		x.t.Fatal(err)
	}
	dir := filepath.Join(x.dir, "inventory")
	vars, err := filepath.Abs("../inventory/group_vars")
	if err != nil {
		x.t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		x.t.Fatal(err)
	}
	if err := os.Symlink(vars, filepath.Join(dir, "group_vars")); err != nil && !os.IsExist(err) {
		x.t.Fatal(err)
	}
	x.inventory = filepath.Join(dir, "hosts.yml")
	if err := os.WriteFile(x.inventory, b, 0o600); err != nil {
		x.t.Fatal(err)
	}
}

// goOn has clients work at the addresses of some hosts, which stay, while
// something is done to others; no request may fail, and nothing may be lost.
func (x *story) goOn(at []string, do func(*load)) {
	x.t.Helper()
	l := startLoad(x.t, at)
	defer l.stop()
	l.await(50)
	do(l)
	l.await(50)
	l.stop()
	x.t.Log(l.summary())
	if n := l.failed(); n > 0 {
		x.t.Errorf("%d requests failed: %s", n, l.reason())
	}
	l.check(addresses)
	x.copiesEqual()
}

// onlyThese wants the masters and volume servers of the hosts to be all that the
// cluster counts on.
func (x *story) onlyThese() {
	x.t.Helper()
	var v cluster.View
	if err := json.Unmarshal([]byte(x.lab("exec", hosts[0], "weedd", "status", "--json", "--whole", "--wait", wholeWithin, "--master", strings.Join(masters(), ","))), &v); err != nil {
		x.t.Fatal(err)
	}
	var at []string
	for _, m := range v.Masters {
		if !m.Voter || !m.Alive {
			x.t.Errorf("master %+v", m)
		}
		at = append(at, m.Address)
	}
	slices.Sort(at)
	if want := slices.Sorted(slices.Values(masters())); !slices.Equal(at, want) {
		x.t.Errorf("the masters are %v, want %v", at, want)
	}
	at = nil
	for _, n := range v.Nodes {
		if n.Alive {
			at = append(at, n.URL)
		}
	}
	slices.Sort(at)
	if want := slices.Sorted(slices.Values(ports("8080"))); !slices.Equal(at, want) {
		x.t.Errorf("the volume servers are %v, want %v", at, want)
	}
}

// replace loses a host with its disks; another one, at another address, takes its
// place.
func (x *story) replace() {
	dead := hosts[x.leader()]
	stay := slices.DeleteFunc(slices.Clone(hosts), func(h string) bool { return h == dead })
	x.goOn([]string{addressOf[stay[0]], addressOf[stay[1]]}, func(l *load) {
		x.lab("powerloss", dead)
		x.lab("wipe", dead)
		x.lab("start", "weedd4")
		l.await(50)
		x.members(slices.Concat(stay, []string{"weedd4"}), dead)
		x.mustPlay("replace.yml")
	})
	x.onlyThese()
	x.lost = dead
}

// decommission puts the host that was lost into the cluster again, with empty
// disks, and takes the spare one out.
func (x *story) decommission() {
	stay := slices.Clone(hosts[:2])
	x.lab("start", x.lost)
	x.members(slices.Concat(stay, []string{x.lost, "weedd4"}))
	x.mustPlay("site.yml")
	x.onlyThese()
	x.goOn([]string{addressOf[stay[0]], addressOf[stay[1]], addressOf[x.lost]}, func(*load) {
		x.members(slices.Concat(stay, []string{x.lost}), "weedd4")
		x.mustPlay("decommission.yml")
	})
	x.onlyThese()
	if out := x.lab("exec", "weedd4", "bash", "-c", "systemctl is-active weedd; systemctl is-enabled weedd; ls /etc/weedd; find /srv/data/weedd -name '*.dat'"); out != "inactive\ndisabled\nweedd.toml\n" {
		x.t.Errorf("the host that left: %s", out)
	}
	x.lab("wipe", "weedd4")
	slices.Sort(hosts)
	x.members(hosts)
	x.unchanged("site.yml")
}

// restore loses the cluster as a whole, and goes back to a backup as README.md
// says.
func (x *story) restore() {
	l := startLoad(x.t, addresses)
	defer l.stop()
	l.await(300)
	l.stop()
	x.mustPlay("backup.yml", "-e", "weedd_backup=/var/backups/weedd")
	backups, volumes := map[string]string{}, 0
	for _, h := range hosts {
		volumes += strings.Count(x.lab("exec", h, "bash", "-c", "find /var/backups/weedd -name '*.dat'"), "\n")
		backups[h] = x.lab("exec", h, "tar", "-c", "-C", "/var/backups/weedd", ".")
		x.lab("wipe", h)
		x.lab("start", h)
	}
	x.mustPlay("site.yml")
	for _, h := range hosts {
		x.lab("exec", h, "systemctl", "stop", "weedd")
	}
	for _, h := range hosts {
		x.give(h, strings.NewReader(backups[h]), "mkdir -p /mnt/backup && tar -x -C /mnt/backup")
		x.lab("exec", h, "bash", "-c", "cp -r /mnt/backup/*/. /srv/data/weedd/ && chown -R weedd:weedd /srv/data/weedd")
	}
	for _, h := range hosts {
		x.lab("exec", h, "systemctl", "start", "weedd")
	}
	x.holds(volumes)
	l.check(addresses)
	x.uploadsEverywhere()
}

// give runs a command on a host that reads from r.
func (x *story) give(host string, r io.Reader, command string) {
	x.t.Helper()
	cmd := exec.Command("./lab", "exec", host, "bash", "-c", command)
	cmd.Stdin = r
	if out, err := cmd.CombinedOutput(); err != nil {
		x.t.Fatalf("%s on %s: %v\n%s", command, host, err, out)
	}
}

// holds waits until the cluster has n volumes or more, and lacks nothing.
func (x *story) holds(n int) {
	x.t.Helper()
	x.eventually(2*time.Minute, fmt.Sprintf("there are %d volumes", n), func() error {
		v, err := x.view(0)
		if err == nil && len(v.Volumes) < n {
			err = fmt.Errorf("there are %d", len(v.Volumes))
		}
		return err
	})
	x.whole(hosts[0])
}
