//go:build e2e

package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"weedd/cluster"
	"weedd/daemon/probe"
	"weedd/volume"
)

// hostFault is one thing that happens to a host or between hosts. Its commands are
// the lab's, with LEADER, FIRST and SECOND for the leader's host and the followers'.
type hostFault struct {
	name         string
	inject, heal []string      // one command each, or several with ";" between
	at           string        // hosts that clients are at
	gap          time.Duration // for so long at most no write, or no read, may succeed
	replication  string        // 001 if empty
	during       func(x *story, who map[string]int)
	whole        time.Duration // within which the cluster has to be whole after it was healed; 0 for wholeWithin
}

func words(s string) []string { return strings.Fields(s) }

const (
	both   = "FIRST SECOND"
	others = "LEADER SECOND"
	all    = "LEADER FIRST SECOND"
)

var hostFaults = []hostFault{
	{name: "systemctl stop, leader", inject: words("exec LEADER systemctl stop weedd"), heal: words("exec LEADER systemctl start weedd"), at: both, gap: time.Second},
	{name: "systemctl stop, follower", inject: words("exec FIRST systemctl stop weedd"), heal: words("exec FIRST systemctl start weedd"), at: others, gap: time.Second},
	{name: "kill -9, leader", inject: words("exec LEADER systemctl kill --signal KILL weedd"), at: both, gap: time.Second},
	{name: "kill -9, follower", inject: words("exec FIRST systemctl kill --signal KILL weedd"), at: others, gap: time.Second},
	{name: "cable out, leader", inject: words("unplug LEADER"), heal: words("plug LEADER"), at: both, gap: 3 * time.Second},
	{name: "cable out, follower", inject: words("unplug FIRST"), heal: words("plug FIRST"), at: others, gap: 3 * time.Second},
	{name: "frozen, leader", inject: words("exec LEADER systemctl kill --signal STOP weedd"), heal: words("exec LEADER systemctl kill --signal CONT weedd"), at: both, gap: 3 * time.Second},
	{name: "frozen, follower", inject: words("exec FIRST systemctl kill --signal STOP weedd"), heal: words("exec FIRST systemctl kill --signal CONT weedd"), at: others, gap: 3 * time.Second},
	{name: "power lost, leader", inject: words("powerloss LEADER"), heal: words("start LEADER"), at: both, gap: 3 * time.Second},
	{name: "power lost, three copies", inject: words("powerloss FIRST"), heal: words("start FIRST"), at: others, gap: 3 * time.Second, replication: "002"},
	{name: "leader cut off from the others", inject: words("isolate LEADER"), heal: words("heal"), at: both, gap: 3 * time.Second, during: (*story).minority, whole: 5 * time.Second},
	{name: "one way, leader to follower", inject: words("oneway LEADER FIRST"), heal: words("heal"), at: others, gap: 3 * time.Second},
	{name: "one way, follower to leader", inject: words("oneway FIRST LEADER"), heal: words("heal"), at: others, gap: 3 * time.Second},
	{name: "30 % of packets lost, leader", inject: words("loss LEADER 30"), heal: words("heal"), at: both, gap: 3 * time.Second},
	{name: "30 % of packets lost, follower", inject: words("loss FIRST 30"), heal: words("heal"), at: others, gap: 3 * time.Second},
	{name: "200 ms late, leader", inject: words("delay LEADER 200"), heal: words("heal"), at: both, gap: 3 * time.Second},
	{name: "200 ms late, follower", inject: words("delay FIRST 200"), heal: words("heal"), at: others, gap: 3 * time.Second},
	{name: "raft's disk hangs, leader", inject: words("slow LEADER 300 state"), heal: words("slow LEADER 0 state"), at: both, gap: 3 * time.Second, during: (*story).anotherLeads},
	{name: "volume disk hangs", inject: words("slow FIRST 300 data"), heal: words("slow FIRST 0 data"), at: all, gap: 5 * time.Second, during: (*story).fenced},
	{name: "volume disk full", inject: words("full FIRST data"), heal: words("free FIRST data"), at: all, gap: time.Second, during: (*story).fenced},
	{name: "volume disk fails", inject: words("eio FIRST data"), heal: words("stop FIRST ; repair FIRST ; start FIRST"), at: others, gap: 3 * time.Second, during: (*story).fenced},
}

// faults lets them happen one after the other under load. No request may fail at the
// hosts that a fault leaves alone, and nothing may be wrong afterwards.
func (x *story) faults() {
	x.keep()
	x.whole(hosts[0])
	var reports []*probe.Report
	for i, f := range hostFaults {
		if only := os.Getenv("HOSTS_FAULTS"); only != "" && !strings.Contains(f.name, only) {
			continue
		}
		if r := x.fault(f, uint64(i)); r != nil {
			reports = append(reports, r)
		}
		x.whole(hosts[0])
	}
	var table strings.Builder
	if err := probe.Print(&table, reports...); err != nil {
		x.t.Error(err)
	}
	x.t.Logf("what the faults cost:\n%s", table.String())
	if path := os.Getenv("HOSTS_FAULT_REPORT"); path != "" {
		text, err := json.MarshalIndent(reports, "", "  ")
		if err = errors.Join(err, os.WriteFile(path, append(text, '\n'), 0o644)); err != nil {
			x.t.Error(err)
		}
	}
	x.copiesEqual()
}

// faultTime is from a fault until it is healed: HOSTS_FAULT_TIME, or short.
func (x *story) faultTime() time.Duration {
	text := os.Getenv("HOSTS_FAULT_TIME")
	if text == "" {
		return 8 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		x.t.Fatalf("HOSTS_FAULT_TIME: %v", err)
	}
	return d
}

// slack is how many times as long as promised things may take before that is a
// failure: HOSTS_SLACK, or 1. Three hosts on one machine that has other work to do
// cannot keep times; what is promised of requests and files holds on any.
func (x *story) slack() time.Duration {
	text := os.Getenv("HOSTS_SLACK")
	if text == "" {
		return 1
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		x.t.Fatalf("HOSTS_SLACK=%q is not a number from 1 on", text)
	}
	return time.Duration(n)
}

// inTime fails the test if what is promised within limit took longer, by far.
func (x *story) inTime(what string, took, limit time.Duration) {
	report := x.t.Logf
	if took > x.slack()*limit {
		report = x.t.Errorf
	}
	if took > limit {
		report("%s: %v, which is longer than %v", what, took.Round(time.Millisecond), limit)
	}
}

func milliseconds(n float64) time.Duration { return time.Duration(n * float64(time.Millisecond)) }

func (x *story) fault(f hostFault, seed uint64) *probe.Report {
	leader := x.leader()
	who := map[string]int{"LEADER": leader, "FIRST": (leader + 1) % len(hosts), "SECOND": (leader + 2) % len(hosts)}
	opt := probe.Options{Replication: "001", For: x.faultTime(), Steady: 3 * time.Second, Seed: seed,
		Progress: func(step string) { x.t.Log(step) }}
	if f.replication != "" {
		opt.Replication = f.replication
	}
	for _, w := range words(f.at) {
		opt.Masters = append(opt.Masters, masters()[who[w]])
	}
	var checked chan struct{}
	r, err := probe.Run(x.t.Context(), opt, probe.Fault{
		Name: f.name,
		Inject: func(context.Context) error {
			err := labSteps(f.inject, who)
			if checked = make(chan struct{}); f.during == nil {
				close(checked)
				return err
			}
			go func() { defer close(checked); f.during(x, who) }()
			return err
		},
		Heal: func(context.Context) error { <-checked; return labSteps(f.heal, who) },
	})
	if err != nil {
		x.t.Errorf("%s: %v", f.name, err)
		return nil
	}
	if !r.Good() {
		x.t.Errorf("%s: clients noticed", f.name)
	}
	x.inTime(f.name+": nothing was written, or read", milliseconds(max(r.During.WriteGap, r.During.ReadGap)), f.gap)
	if f.whole > 0 {
		x.inTime(f.name+": until it was whole again", milliseconds(r.WholeMS), f.whole)
	}
	return r
}

func labSteps(text []string, who map[string]int) error {
	var command []string
	for _, w := range append(text, ";") {
		if i, ok := who[w]; ok {
			w = hosts[i]
		}
		if w != ";" {
			command = append(command, w)
			continue
		}
		if len(command) == 0 {
			continue
		}
		if out, err := labCommand(command...); err != nil {
			return fmt.Errorf("lab %s: %w: %s", strings.Join(command, " "), err, out)
		}
		command = nil
	}
	return nil
}

// eventually waits until cond does not fail any more, which is promised within limit,
// and gives how long that took.
func (x *story) eventually(limit time.Duration, what string, cond func() error) time.Duration {
	began := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := cond()
		took := time.Since(began)
		if err == nil {
			x.t.Logf("%s: after %v", what, took.Round(10*time.Millisecond))
			return took
		}
		if took > x.slack()*limit {
			x.t.Errorf("%s: not within %v: %v", what, x.slack()*limit, err)
			return took
		}
		<-tick.C
	}
}

// minority checks the leader that was cut off: it gives way, answers reads of what it
// has, and says why it cannot do what it cannot.
func (x *story) minority(who map[string]int) {
	x.anotherLeads(who)
	cut := who["LEADER"]
	x.servesKept(cut)
	code, body, err := attempt("POST", "http://"+masters()[cut]+"/submit", "application/octet-stream", []byte("who takes this?"))
	if err != nil || code != http.StatusServiceUnavailable || !bytes.Contains(body, []byte("error")) {
		x.t.Errorf("an upload at the host that was cut off: %d %s %v", code, body, err)
	}
}

// anotherLeads waits until the followers have another leader.
func (x *story) anotherLeads(who map[string]int) {
	x.eventually(3*time.Second, "another leads", func() error {
		var status struct{ Leader string }
		err := getJSON("http://"+masters()[who["SECOND"]]+"/cluster/status", &status)
		if err == nil && (status.Leader == "" || status.Leader == masters()[who["LEADER"]]) {
			err = fmt.Errorf("the leader is %q", status.Leader)
		}
		return err
	})
}

// fenced waits until the masters know that nothing is to be put on the disk.
func (x *story) fenced(who map[string]int) {
	at := ports("8080")[who["FIRST"]]
	x.eventually(5*time.Second, "the disk is fenced", func() error {
		v, err := x.view(who["SECOND"])
		if err != nil {
			return err
		}
		for _, n := range v.Nodes {
			if n.URL == at && slices.ContainsFunc(n.Disks, func(d volume.DiskReport) bool { return d.Fenced != "" }) {
				return nil
			}
		}
		return errors.New("no disk of the host is")
	})
}

func (x *story) view(host int) (v cluster.View, err error) {
	err = getJSON("http://"+masters()[host]+"/cluster/view", &v)
	return v, err
}

// kept are files that were stored before any fault, by id.
type kept map[string][]byte

// keep stores files, so many that each pair of hosts has some.
func (x *story) keep() {
	x.kept = kept{}
	for i := range 40 {
		data := fmt.Appendf(nil, "kept %d, since %v", i, time.Now())
		code, body, err := attempt("POST", "http://"+masters()[i%len(hosts)]+"/submit?replication=001", "application/octet-stream", data)
		var answer struct{ Fid string }
		if err == nil && code == http.StatusCreated {
			err = json.Unmarshal(body, &answer)
		}
		if err != nil || answer.Fid == "" {
			x.t.Fatalf("an upload with nothing wrong: %d %s %v", code, body, err)
		}
		x.kept[answer.Fid] = data
	}
}

// servesKept reads what was kept and has a copy at a host, there.
func (x *story) servesKept(host int) {
	read := 0
	for fid, want := range x.kept {
		var places struct{ Locations []struct{ URL string } }
		if err := getJSON("http://"+masters()[host]+"/dir/lookup?volumeId="+fid, &places); err != nil {
			x.t.Errorf("where is %s: %v", fid, err)
			return
		}
		if !slices.ContainsFunc(places.Locations, func(l struct{ URL string }) bool { return l.URL == ports("8080")[host] }) {
			continue
		}
		read++
		if code, b, err := attempt("GET", "http://"+ports("8080")[host]+"/"+fid, "", nil); err != nil || code != http.StatusOK || !bytes.Equal(b, want) {
			x.t.Errorf("%s at %s, which has a copy: %d %.100s %v", fid, hosts[host], code, b, err)
		}
	}
	if x.t.Logf("%s served %d files of which it has a copy", hosts[host], read); read == 0 {
		x.t.Errorf("no file has a copy at %s", hosts[host])
	}
}

// twoDown has one host left of three: it serves what it has, says why it takes no
// upload, and with the others back the cluster is whole soon.
func (x *story) twoDown() {
	x.keep()
	x.whole(hosts[0])
	left := x.leader()
	for i, h := range hosts {
		if i != left {
			x.lab("powerloss", h)
		}
	}
	x.servesKept(left)
	began := time.Now()
	code, body, err := attempt("POST", "http://"+masters()[left]+"/submit", "application/octet-stream", []byte("who takes this?"))
	x.t.Logf("an upload at the last host: %d after %v: %s", code, time.Since(began).Round(100*time.Millisecond), body)
	if err != nil || code != http.StatusServiceUnavailable {
		x.t.Errorf("an upload at the last host: %d %s %v", code, body, err)
	}
	for i, h := range hosts {
		if i != left {
			x.lab("start", h)
		}
	}
	x.eventually(10*time.Second, "an upload is taken again", func() error { return x.uploads(left) })
	x.eventually(10*time.Second, "and the cluster is whole", func() error { return x.isWhole(left) })
}

func (x *story) uploads(host int) error {
	code, body, err := attempt("POST", "http://"+masters()[host]+"/submit", "application/octet-stream", []byte("again"))
	if err == nil && code != http.StatusCreated {
		err = fmt.Errorf("%d %s", code, body)
	}
	return err
}

func (x *story) isWhole(host int) error {
	v, err := x.view(host)
	if err != nil {
		return err
	}
	for _, vol := range v.Volumes {
		if want := vol.Entry.Spec.Placement.Copies(); len(vol.Entry.InSync) != want {
			return fmt.Errorf("volume %d: %d of %d copies", vol.Entry.Volume, len(vol.Entry.InSync), want)
		}
	}
	return nil
}

// allDown lets all hosts lose power under load. What was acknowledged is there
// afterwards, and clients that go on trying notice a pause.
func (x *story) allDown() {
	x.underLoad(func(step func(string, func(*load))) {
		step("all hosts lose power", func(*load) {
			for _, h := range hosts {
				x.lab("powerloss", h)
			}
			for _, h := range hosts[:2] {
				x.lab("start", h)
			}
			x.eventually(30*time.Second, "two hosts take uploads", func() error { return x.uploads(0) })
			took := monotonic(x) - x.programStarted(hosts[1])
			x.t.Logf("that is %v after the second program started", took.Round(10*time.Millisecond))
			x.inTime("from there to uploads", took, 3*time.Second)
			x.lab("start", hosts[2])
			x.whole(hosts[0])
		})
	})
}

// monotonic is the clock that all hosts of the lab share with this program.
func monotonic(x *story) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		x.t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// programStarted is when systemd started the daemon of a host, by that clock.
func (x *story) programStarted(host string) time.Duration {
	text := x.lab("exec", host, "systemctl", "show", "--value", "--property", "ExecMainStartTimestampMonotonic", "weedd")
	us, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil {
		x.t.Fatal(err)
	}
	return time.Duration(us) * time.Microsecond
}
