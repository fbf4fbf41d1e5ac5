package config

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"weedd/cluster"
)

const configsDir = "../../configs"

func TestEveryFileInConfigsLoads(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(configsDir, "*.toml"))
	if err != nil || len(files) < 7 {
		t.Fatalf("found %v, %v", files, err)
	}
	address := regexp.MustCompile(`(?m)^#?address = "(.*)"`)
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			own := address.FindSubmatch(text)
			if own == nil {
				t.Fatal("no address in the file")
			}
			cfg, err := onHost(string(own[1])).Load(path)
			if err != nil {
				t.Fatal(err)
			}
			if cfg.Address != string(own[1]) {
				t.Errorf("address is %s", cfg.Address)
			}
		})
	}
}

func TestTheThreeHostsDifferInTheAddressOnlyAndNeedNotEvenThat(t *testing.T) {
	t.Parallel()
	hosts := []string{"192.168.100.117", "192.168.100.172", "192.168.100.2"}
	line := regexp.MustCompile(`(?m)^address = .*\n`)
	var common []byte
	for _, host := range hosts {
		text, err := os.ReadFile(filepath.Join(configsDir, "host-"+host+".toml"))
		if err != nil {
			t.Fatal(err)
		}
		rest := line.ReplaceAll(text, nil)
		if common == nil {
			common = rest
		}
		if !bytes.Equal(rest, common) {
			t.Errorf("host-%s.toml differs from the first in more than the address", host)
		}
		// The file of the first host, without the address, on this host.
		cfg, err := onHost("127.0.0.1", "10.1.1.1", host).Parse("weedd.toml", common)
		if err != nil {
			t.Fatal(err)
		}
		if cfg.Address != host || cfg.Roles != cluster.RoleMaster|cluster.RoleVolume || cfg.Master.Expect != 3 {
			t.Errorf("on %s: address %s, roles %s, expect %d", host, cfg.Address, cfg.Roles, cfg.Master.Expect)
		}
		if want := []string{"192.168.100.117:7946", "192.168.100.172:7946", "192.168.100.2:7946"}; !slices.Equal(cfg.Join(), want) {
			t.Errorf("joins %v", cfg.Join())
		}
	}
}

func TestTheDefaultFileLoadsAndSaysTheDefaults(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	if err := WriteDefault(&b); err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Roles, want.Address, want.ClusterKey = cluster.RoleMaster|cluster.RoleVolume, "10.0.0.1", "/etc/weedd/cluster.key"
	want.Volume.Disks = []Disk{want.DefaultDisk()}
	got, err := onHost("10.0.0.1").Parse("default.toml", []byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got.Config, want) {
		t.Errorf("got  %+v\nwant %+v", got.Config, want)
	}

	// All the lines that are commented out, but for those that contradict others.
	text := regexp.MustCompile(`(?m)^#(\[|[a-z])`).ReplaceAllString(b.String(), "$1")
	text = strings.Replace(text, `"hdd"`, `"ssd"`, 1)
	got, err = onHost("192.168.100.117").Parse("default.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if _, ok := got.origins[k.name]; !ok {
			t.Errorf("%s is not in the default file", k.name)
		}
		if k.sample == "" && k.name != disksKey && !reflect.DeepEqual(k.value(got.Config), k.value(Default())) {
			t.Errorf("%s is shown as %v, and its default is %v", k.name, k.value(got.Config), k.value(Default()))
		}
	}
}

func TestTheDefaultFileInConfigsIsUpToDate(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := WriteDefault(&b); err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile(filepath.Join(configsDir, "default.toml"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, b.Bytes()) {
		t.Error("configs/default.toml is out of date; run `make generate`")
	}
}

func TestShowSaysWhereValuesComeFromAndCanBeLoaded(t *testing.T) {
	t.Parallel()
	l := onHost("127.0.0.1", "10.0.0.1")
	l.Env = []string{"WEEDD_RACK=r\"7", "WEEDD_LOG_LEVEL=warn"}
	if _, err := l.Parse("weedd.toml", nil); err == nil || !strings.Contains(err.Error(), `WEEDD_RACK: rack: "r\"7"`) {
		t.Fatalf("a rack with a quote: %v", err)
	}
	l.Env = []string{"WEEDD_RACK=r7", "WEEDD_LOG_LEVEL=warn"}
	text := "roles = [\"volume\"]\ncluster_key = \"/k\"\n[volume]\nhttp = \"10.0.0.1:80\"\n[[volume.disks]]\npath = \"/a\\\"b\"\nmax = 2\n"
	got, err := l.Parse("weedd.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := got.Write(&b); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`roles = ["volume"]  # weedd.toml:1`, `address = "10.0.0.1"  # the host's only address`, `rack = "r7"  # WEEDD_RACK`,
		`level = "warn"  # WEEDD_LOG_LEVEL`, `format = "text"`, `http = "10.0.0.1:80"  # weedd.toml:4`,
		`[[volume.disks]]  # weedd.toml:5`, `path = "/a\"b"`, `max = 2`, `hold = "10s"`, `repair_after`,
	} {
		if has := strings.Contains(b.String(), line+"\n"); has == (line == "repair_after") {
			t.Errorf("line %q is missing, or too many, in\n%s", line, b.String())
		}
	}
	again, err := onHost("10.0.0.1").Parse("again.toml", []byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got.Config, again.Config) {
		t.Errorf("loaded  %+v\nshown   %+v", got.Config, again.Config)
	}
}

func TestDiffTellsLiveChangesFromThoseThatNeedARestart(t *testing.T) {
	t.Parallel()
	old := Default()
	if live, restart := Diff(old, Default()); live != nil || restart != nil {
		t.Errorf("equal ones differ in %v %v", live, restart)
	}
	next := Default()
	next.Log = Log{Level: "debug", Format: "json"}
	next.Gossip.Join = []string{"a"}
	next.Limits.Hold = time.Second
	next.Master.HTTP.Port++
	next.Volume.Disks = []Disk{{Path: "/a"}}
	live, restart := Diff(old, next)
	if want := []string{"log.level", "log.format", "gossip.join", "limits.hold"}; !slices.Equal(live, want) {
		t.Errorf("live: %v, want %v", live, want)
	}
	if want := []string{"master.http", "volume.disks"}; !slices.Equal(restart, want) {
		t.Errorf("restart: %v, want %v", restart, want)
	}
	now := Live(old, next)
	if live, restart := Diff(now, next); live != nil || !slices.Equal(restart, []string{"master.http", "volume.disks"}) {
		t.Errorf("after the live part %v %v differ", live, restart)
	}
}

func TestAConfigurationMadeByHandIsValidated(t *testing.T) {
	t.Parallel()
	cfg := Default()
	cfg.Roles, cfg.Address, cfg.Data = cluster.RoleMaster|cluster.RoleVolume, "127.0.0.1", t.TempDir()
	cfg.Internal.Port, cfg.Gossip.Port, cfg.Master.HTTP.Port, cfg.Volume.HTTP.Port = 0, 0, 0, 0
	cfg.Volume.Disks = []Disk{{Path: t.TempDir()}}
	if err := cfg.Validate(); err != nil {
		t.Errorf("ports 0: %v", err)
	}
	cfg.Roles, cfg.Address = 0, ""
	if err := cfg.Validate(); err == nil || err.Error() != "address: is empty; write the IP address by which other nodes reach this one\nroles: is empty; there are master and volume" {
		t.Errorf("neither role nor address: %v", err)
	}
}

func TestAddressesToBindAndToReach(t *testing.T) {
	t.Parallel()
	cfg := Default()
	cfg.Address = "10.0.0.1"
	if got := cfg.MasterAddr() + " " + cfg.InternalAddr() + " " + cfg.GossipAddr(); got != ":9333 10.0.0.1:9332 10.0.0.1:7946" {
		t.Errorf("on a network: %s", got)
	}
	if got := cfg.Reach(cfg.Master.HTTP, 9333); got != "10.0.0.1:9333" {
		t.Errorf("reached at %s", got)
	}
	cfg.Volume.HTTP.Host = "10.0.0.2"
	if got := cfg.VolumeAddr() + " " + cfg.Reach(cfg.Volume.HTTP, 1); got != "10.0.0.2:8080 10.0.0.2:1" {
		t.Errorf("with an address of its own: %s", got)
	}
	cfg.Volume.HTTP.Host = "0.0.0.0"
	if got := cfg.VolumeAddr() + " " + cfg.Reach(cfg.Volume.HTTP, 1); got != "0.0.0.0:8080 10.0.0.1:1" {
		t.Errorf("on every address: %s", got)
	}
	cfg.Address = "127.0.0.1"
	if got := cfg.MasterAddr(); got != "127.0.0.1:9333" {
		t.Errorf("on loopback: %s", got)
	}
}

func TestSizesAreWrittenAsTheyAreRead(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Size{"0B": 0, "17B": 17, "30GB": 30e9, "512MiB": 512 << 20, "1TiB": 1 << 40, "1025KiB": 1025 << 10, "2TB": 2e12} {
		got, err := ParseSize(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("%s is %d, and that is %s; %v", text, got, got, err)
		}
	}
	for _, text := range []string{"1.5 gib", " 1536MiB "} {
		if got, err := ParseSize(text); err != nil || got != GiB+GiB/2 {
			t.Errorf("%s is %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "5", "MiB", "1e3MB", "1.2.3GB", "5 gigs", "99999999TiB", "-5MB"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q was taken as %d", text, got)
		}
	}
}

// A stop that the unit gives up too early would cut off requests and leave files to
// be recovered.
func TestTheUnitWaitsLongerThanAPlannedStop(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../packaging/systemd/10-common.conf")
	if err != nil {
		t.Fatal(err)
	}
	var seconds int
	for line := range strings.Lines(string(text)) {
		_, _ = fmt.Sscanf(line, "TimeoutStopSec=%d", &seconds)
	}
	if unit, stop := time.Duration(seconds)*time.Second, Default().Limits.Stop; unit <= stop+15*time.Second {
		t.Errorf("TimeoutStopSec is %s, and limits.stop is %s", unit, stop)
	}
}
