package config

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"weedd/cluster"
	"weedd/volume"
)

// onHost is a host with the given addresses, the key file /k and no others.
func onHost(addresses ...string) Loader {
	files := fstest.MapFS{
		"k": {Mode: 0o600}, "v": {Mode: 0o600}, "open": {Mode: 0o644}, "dir": {Mode: fs.ModeDir | 0o700},
		"etc/weedd/cluster.key": {Mode: 0o640}, "creds/cluster.key": {Mode: 0o400},
		"etc/weedd/ca.pem": {Mode: 0o644}, "etc/weedd/node.pem": {Mode: 0o644}, "etc/weedd/node.key": {Mode: 0o600},
		"etc/weedd/public.pem": {Mode: 0o644}, "etc/weedd/public.key": {Mode: 0o600}, "etc/weedd/jwt-write.key": {Mode: 0o600}, "etc/weedd/jwt-read.key": {Mode: 0o600},
		"creds/jwt-read.key": {Mode: 0o400},
	}
	return Loader{
		Interfaces: func() (out []netip.Addr, err error) {
			for _, a := range addresses {
				out = append(out, netip.MustParseAddr(a))
			}
			return out, nil
		},
		Stat: func(path string) (fs.FileInfo, error) { return files.Stat(strings.TrimPrefix(path, "/")) },
	}
}

const twoRoles = "roles = [\"master\", \"volume\"]\naddress = \"127.0.0.1\"\n" // lines 1 and 2

func TestBadConfigurationsAreRefusedWithEveryComplaint(t *testing.T) {
	t.Parallel()
	const both = twoRoles + "[master]\n[volume]\n" // lines 3 and 4
	for name, tc := range map[string]struct {
		text string
		env  []string
		want []string
	}{
		"an unknown key is named, with the nearest one": {
			text: twoRoles + "[volume]\n[master]\nhtpp = 9333\n",
			want: []string{"weedd.toml:5: master.htpp: unknown key; did you mean master.http?"},
		},
		"a key in the wrong section is shown its own": {
			text: "repair_after = \"1m\"\n" + both,
			want: []string{"weedd.toml:1: repair_after: unknown key; did you mean master.repair_after?"},
		},
		"a key that is in two other sections is shown both": {
			text: "http = 80\n" + both,
			want: []string{"weedd.toml:1: http: unknown key; did you mean master.http or volume.http?"},
		},
		"a key in capitals is unknown": {
			text: both + "HTTP = 80\n",
			want: []string{"weedd.toml:5: volume.HTTP: unknown key; did you mean volume.http?"},
		},
		"a word of SeaweedFS is translated": {
			text: "mdir = \"/m\"\n" + both + "[gossip]\npeers = \"a\"\n",
			want: []string{"weedd.toml:1: mdir: unknown key; here it is data", "weedd.toml:7: gossip.peers: unknown key; here it is gossip.join"},
		},
		"a key like no other is sent to the list of keys": {
			text: "xyzzy_plugh = 1\n" + both,
			want: []string{"weedd.toml:1: xyzzy_plugh: unknown key; `weedd config default` shows all keys"},
		},
		"an unknown section is complained about once": {
			text: both + "[mastr]\nhttp = 1\nexpect = 3\n",
			want: []string{"weedd.toml:5: mastr: unknown section; did you mean master?"},
		},
		"a section like no other is shown all": {
			text: both + "[filer]\n",
			want: []string{"weedd.toml:5: filer: unknown section; there are log, internal, gossip, pki, tls, access, master, volume, limits"},
		},
		"a key twice": {
			text: both + "http = 1\nhttp = 2\n",
			want: []string{"weedd.toml:6: volume.http: said twice, first in line 5; remove one"},
		},
		"a section twice": {
			text: both + "[master]\nexpect = 1\n",
			want: []string{"weedd.toml:5: master: said twice, first in line 3; remove one"},
		},
		"a section by dots and by header": {
			text: "log.level = \"warn\"\n" + both + "[log]\nformat = \"json\"\n",
			want: []string{"weedd.toml:6: log: said twice, first in line 1; remove one"},
		},
		"wrong types": {
			text: twoRoles + "insecure = \"no\"\ndata = 5\n[master]\nhttp = true\nexpect = \"3\"\nvolume_size_limit = 30\ndefault_replication = 1\nrepair_after = 1.5\n[volume]\nhttp = 80.5\ndisks = \"/srv\"\n[gossip]\njoin = \"a\"\nport = 1979-05-27\n[log]\nlevel = [\"info\"]\n",
			want: []string{
				`weedd.toml:3: insecure: "no"; write true or false`,
				`weedd.toml:4: data: 5 is no text; write it in quotes, as in "/var/lib/weedd"`,
				`weedd.toml:6: master.http: true is no port; write a port such as 9333, or "address:port"`,
				`weedd.toml:7: master.expect: "3" is no whole number; write one without quotes, as in 1`,
				`weedd.toml:8: master.volume_size_limit: 30: sizes need a unit, as in "30MiB"`,
				`weedd.toml:9: master.default_replication: 1 is no replication code; write three digits in quotes, as in "001"`,
				`weedd.toml:10: master.repair_after: 1.5 is no duration; write one in quotes and with a unit, as in "10m"`,
				`weedd.toml:12: volume.http: 80.5 is no port; write a port such as 9333, or "address:port"`,
				`weedd.toml:13: volume.disks: each disk is a table; write [[volume.disks]] and below it path = "/srv/weedd"`,
				`weedd.toml:15: gossip.join: "a" is no list; lists have brackets, as in ["192.168.100.117", "192.168.100.172", "192.168.100.2"]`,
				`weedd.toml:16: gossip.port: 1979-05-27 is no whole number; write one without quotes, as in 7946`,
				`weedd.toml:18: log.level: is a list; write one value without brackets, as in "info"`,
			},
		},
		"durations and sizes without sense": {
			text: both + "[limits]\nhold = 5\nstop = \"5\"\nfile_size = \"1 parsec\"\nheld_bytes = \"-1MB\"\nin_flight = \"1MB\"\n",
			want: []string{
				`weedd.toml:6: limits.hold: 5: durations need a unit, as in "5s"`,
				`weedd.toml:7: limits.stop: "5": durations need a unit, as in "5s"`,
				`weedd.toml:8: limits.file_size: "1 parsec": unknown unit "parsec"; sizes end in B, KB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024)`,
				`weedd.toml:9: limits.held_bytes: "-1MB": a size is between 0B and 1048576TiB`,
				`weedd.toml:10: limits.in_flight: 1MB holds not even one body of limits.file_size (256MiB); make it at least as large, or 0B for no limit`,
			},
		},
		"values out of range": {
			text: twoRoles + "[master]\nvolume_size_limit = \"64GiB\"\nexpect = 2\nrepair_after = \"1ns\"\nwritable_volumes = 0\ngarbage_threshold = 1.5\n[volume]\n[internal]\nport = 65536\n[gossip]\nport = 0\n",
			want: []string{
				"weedd.toml:4: master.volume_size_limit: 64GiB makes no sense here; it may be from 1MiB to 32767MiB",
				"weedd.toml:5: master.expect: 2 masters bear no more failures than 1; write an odd number",
				"weedd.toml:6: master.repair_after: 1ns makes no sense here; it may be from 1s to 720h",
				"weedd.toml:7: master.writable_volumes: 0 makes no sense here; it may be from 1 to 1000",
				"weedd.toml:8: master.garbage_threshold: 1.5 makes no sense here; it may be from 0 to 1",
				"weedd.toml:11: internal.port: 65536 is no port; ports are numbers from 1 to 65535",
				"weedd.toml:13: gossip.port: 0 would be any free port, and nobody could find the node; write a number from 1 to 65535",
			},
		},
		"a word that is none of the choices": {
			text: both + "sync = \"goup\"\nread_mode = \"x\"\n[log]\nlevel = \"inof\"\n",
			want: []string{
				`weedd.toml:5: volume.sync: "goup" is none of group, os; did you mean group?`,
				`weedd.toml:6: volume.read_mode: "x" is none of proxy, redirect, local`,
				`weedd.toml:8: log.level: "inof" is none of debug, info, warn, error; did you mean info?`,
			},
		},
		"two ports in the file are one": {
			text: twoRoles + "[master]\nhttp = 9000\n[volume]\nhttp = 9000\n",
			want: []string{"weedd.toml:6: volume.http: port 9000 is also that of master.http (line 4); give each a port of its own"},
		},
		"a port is the default of another": {
			text: twoRoles + "[master]\nhttp = 7946\n[volume]\n[internal]\nport = 8080\n",
			want: []string{
				"weedd.toml:4: master.http: port 7946 is also that of gossip.port (default); give each a port of its own",
				"weedd.toml:7: internal.port: port 8080 is also that of volume.http (default); give each a port of its own",
			},
		},
		"a clash made by the environment": {
			text: both, env: []string{"WEEDD_VOLUME_HTTP=9333"},
			want: []string{"WEEDD_VOLUME_HTTP: volume.http: port 9333 is also that of master.http (default); give each a port of its own"},
		},
		"an address of another host": {
			text: "roles = [\"volume\"]\naddress = \"10.9.9.9\"\ncluster_key = \"/k\"\n[volume]\nhttp = \"10.9.9.8:80\"\n",
			want: []string{
				"weedd.toml:2: address: 10.9.9.9 is no address of this host; it has 192.168.100.117",
				"weedd.toml:5: volume.http: 10.9.9.8 is no address of this host; it has 192.168.100.117",
			},
		},
		"an address that is none": {
			text: "roles = [\"volume\"]\naddress = \"node1:80\"\ncluster_key = \"/k\"\n[volume]\nhttp = \"node1:80\"\n",
			want: []string{
				`weedd.toml:2: address: "node1:80" is no IP address; write the address itself, without name, port or network`,
				`weedd.toml:5: volume.http: "node1" is no IP address; write the one to bind, or only the port`,
			},
		},
		"every address is no address": {
			text: "roles = [\"volume\"]\naddress = \"0.0.0.0\"\ncluster_key = \"/k\"\n[volume]\n",
			want: []string{"weedd.toml:2: address: 0.0.0.0 is every address and none; write the one by which other nodes reach this one"},
		},
		"a role without its section": {
			text: twoRoles + "[master]\n",
			want: []string{"weedd.toml:1: roles: there is no section [volume] for the role; add one, an empty one will do"},
		},
		"a section without its role": {
			text: "address = \"127.0.0.1\"\nroles = [\"master\"]\n[master]\n[volume]\n",
			want: []string{`weedd.toml:4: volume: section of a role that this node has not; add "volume" to roles (line 2) or remove the section`},
		},
		"a variable for a role that the node has not": {
			text: "address = \"127.0.0.1\"\nroles = [\"master\"]\n[master]\n", env: []string{"WEEDD_VOLUME_SYNC=os"},
			want: []string{`WEEDD_VOLUME_SYNC: volume: section of a role that this node has not; add "volume" to roles (line 2) or remove the section`},
		},
		"no roles": {
			text: "address = \"127.0.0.1\"\n[master]\n",
			want: []string{`weedd.toml: roles: missing; write roles = ["master", "volume"], or one of them`},
		},
		"empty roles": {
			text: "address = \"127.0.0.1\"\nroles = []\n",
			want: []string{"weedd.toml:2: roles: is empty; there are master and volume"},
		},
		"a role that does not exist, and a clash in the sections that do": {
			text: "roles = [\"maser\", \"filer\"]\naddress = \"127.0.0.1\"\n[master]\nhttp = 8080\n[volume]\n",
			want: []string{
				`weedd.toml:1: roles: there is no role "maser"; did you mean master?`,
				"weedd.toml:4: master.http: port 8080 is also that of volume.http (default); give each a port of its own",
			},
		},
		"no key on a network address": {
			text: "roles = [\"master\"]\n[master]\n",
			want: []string{"weedd.toml: cluster_key: missing; without it the internal ports (9332, 7946) may not be on 192.168.100.117, where everybody could use them: name a key file, or write insecure = true"},
		},
		"a key and insecure": {
			text: "roles = [\"master\"]\ninsecure = true\ncluster_key = \"/k\"\n[master]\n",
			want: []string{"weedd.toml:2: insecure: contradicts cluster_key (/k); remove one of them"},
		},
		"key files that are of no use": {
			text: "roles = [\"master\"]\ncluster_key = \"/nowhere\"\n[master]\n[pki]\nca = \"/dir\"\ncert = \"/open\"\nkey = \"/open\"\n",
			want: []string{
				"weedd.toml:2: cluster_key: /nowhere: file does not exist; make one with `(umask 077; head -c 32 /dev/urandom | base64 > /nowhere)` and copy it to every node",
				"weedd.toml:5: pki.ca: /dir is a directory; name the file",
				"weedd.toml:7: pki.key: /open has mode 0644, so that others can get at it; run `chmod 600 /open`",
			},
		},
		"public ports open to nobody in particular": {
			text: both + "[tls]\nkey = \"/open\"\n[access]\nwrite_key = \"/open\"\nallow = [\"10.0.0.0/33\", \"::1\"]\nadmin = [\"host\"]\nread_life = \"-1s\"\n",
			want: []string{
				`weedd.toml:5: tls: takes both cert and key, or none`,
				"weedd.toml:6: tls.key: /open has mode 0644, so that others can get at it; run `chmod 600 /open`",
				"weedd.toml:8: access.write_key: /open has mode 0644, so that others can get at it; run `chmod 600 /open`",
				`weedd.toml:9: access.allow: "10.0.0.0/33" is neither an address nor a network such as 192.168.0.0/16`,
				`weedd.toml:10: access.admin: "host" is neither an address nor a network such as 192.168.0.0/16`,
				`weedd.toml:11: access.read_life: -1s makes no sense here; it may be from 0s to 8760h`,
			},
		},
		"a part of a PKI": {
			text: both + "[pki]\ncert = \"/open\"\n",
			want: []string{"weedd.toml:5: pki: takes all of ca, cert and key, or none"},
		},
		"relative paths on a network address": {
			text: "roles = [\"volume\"]\ncluster_key = \"k\"\ndata = \"data\"\n[volume]\n[[volume.disks]]\npath = \"/a\"\n[[volume.disks]]\npath = \"b\"\n",
			want: []string{
				`weedd.toml:2: cluster_key: "k" depends on where weedd is started; write the whole path, from / (relative ones are for nodes on 127.0.0.1)`,
				`weedd.toml:3: data: "data" depends on where weedd is started; write the whole path, from / (relative ones are for nodes on 127.0.0.1)`,
				`weedd.toml:7: volume.disks[1]: "b" depends on where weedd is started; write the whole path, from / (relative ones are for nodes on 127.0.0.1)`,
			},
		},
		"disks that are wrong": {
			text: both + "[[volume.disks]]\ntyp = \"ssd\"\n[[volume.disks]]\npath = \"/a/b\"\nmax = \"many\"\ntype = \"S S D\"\npath = \"/c\"\n[[volume.disks]]\npath = 5\nmax = -1\n",
			want: []string{
				"weedd.toml:5: volume.disks: this disk has no path; write path = \"/srv/weedd\"",
				"weedd.toml:6: volume.disks.typ: unknown key; did you mean type?",
				"weedd.toml:9: volume.disks.max: \"many\" is no number of volumes; write a whole number, 0 for as many as fit",
				"weedd.toml:10: volume.disks.type: \"S S D\" is no type of disk; write hdd, ssd or a word of yours",
				"weedd.toml:11: volume.disks.path: said twice, first in line 8; every disk begins with its own [[volume.disks]]",
				"weedd.toml:13: volume.disks.path: 5 is no text; write it in quotes",
				"weedd.toml:14: volume.disks.max: -1 is no number of volumes; write a whole number, 0 for as many as fit",
			},
		},
		"disks that share a directory": {
			text: both + "[[volume.disks]]\npath = \"/a/\"\n[[volume.disks]]\npath = \"/a\"\n[[volume.disks]]\npath = \"/a/b\"\n[[volume.disks]]\npath = \"/ab\"\n",
			want: []string{
				"weedd.toml:7: volume.disks[1]: /a is also the path of volume.disks[0]; each disk has a directory of its own",
				"weedd.toml:9: volume.disks[2]: /a/b and /a (volume.disks[0]) lie one in the other; each disk has a directory of its own",
				"weedd.toml:9: volume.disks[2]: /a/b and /a (volume.disks[1]) lie one in the other; each disk has a directory of its own",
			},
		},
		"tables and lists mixed up": {
			text: twoRoles + "log = 5\n[[master]]\n[volume.disks]\npath = \"/a\"\n[volume.http]\nport = 80\n[[disks]]\n[volume]\n",
			want: []string{
				"weedd.toml:1: roles: there is no section [master] for the role; add one, an empty one will do",
				"weedd.toml:3: log: is a section; write [log] and its keys below",
				"weedd.toml:4: master: is a section, not a list; write [master]",
				"weedd.toml:5: volume.disks: each disk is a table of a list; write [[volume.disks]]",
				"weedd.toml:7: volume.http: is a key, not a section; write http = … below [volume]",
				"weedd.toml:9: disks: unknown list; the only list of tables is [[volume.disks]]",
			},
		},
		"no TOML at all": {
			text: twoRoles + "[master]\nhttp = = 5\n[nonsense]\n",
			want: []string{"weedd.toml:4: not TOML: unexpected character U+003D '=' at start of value; what follows has not been read"},
		},
		"members that are no addresses": {
			text: both + "[gossip]\njoin = [\"http://a\", \"a b\", \"a:0\", \"192.168.100.2:9333\", \"ok:7946\", \"::1\"]\n",
			want: []string{
				`weedd.toml:6: gossip.join: "http://a" is no address; write host or host:port`,
				`weedd.toml:6: gossip.join: "a b" is no address; write host or host:port`,
				`weedd.toml:6: gossip.join: "a:0": ports are numbers from 1 to 65535`,
				"weedd.toml:6: gossip.join: 192.168.100.2:9333: 9333 is the port of master.http; nodes are joined by gossip, port 7946",
			},
		},
		"names that are none": {
			text: "rack = \"\"\ndata_center = \"Zürich\"\n" + both + "public_url = \"http://a.example/\"\n",
			want: []string{
				`weedd.toml:1: rack: "": write a name of at most 64 letters, digits, - _ and .`,
				`weedd.toml:2: data_center: "Zürich": write a name of at most 64 letters, digits, - _ and .`,
				`weedd.toml:7: volume.public_url: "http://a.example/": write host or host:port alone, as in "a.example"`,
			},
		},
		"variables that are wrong": {
			text: both,
			env: []string{"WEEDD_MASTER_HTPP=9333", "WEEDD_CONFIG=x", "WEEDD_LIMITS_HOLD=7", "WEEDD_INSECURE=yes", "WEEDD_MASTER_EXPECT=three",
				"WEEDD_FROBNICATION_OF_ALL=1", "WEEDD_PORT_9333_TCP_ADDR=10.0.0.1", "WEEDD_ROLES=mister", "WEEDD_VOLUME_DISKS=/a:b:c:d", "OTHER=1"},
			want: []string{
				"WEEDD_FROBNICATION_OF_ALL: unknown variable; variables that begin with WEEDD_ are named after keys, as in WEEDD_MASTER_HTTP",
				`WEEDD_INSECURE: insecure: "yes"; write true or false`,
				`WEEDD_LIMITS_HOLD: limits.hold: "7": durations need a unit, as in "7s"`,
				`WEEDD_MASTER_EXPECT: master.expect: "three" is no whole number`,
				"WEEDD_MASTER_HTPP: unknown variable; did you mean WEEDD_MASTER_HTTP?",
				"WEEDD_PORT_9333_TCP_ADDR: unknown variable; Kubernetes makes such for a service named weedd: set enableServiceLinks: false",
				`WEEDD_ROLES: roles: there is no role "mister"; did you mean master?`,
				`WEEDD_VOLUME_DISKS: volume.disks: "/a:b:c:d" is no disk; write path, path:type or path:type:max`,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := onHost("127.0.0.1", "192.168.100.117")
			l.Env = tc.env
			_, err := l.Parse("weedd.toml", []byte(tc.text))
			var faults *Error
			if !errors.As(err, &faults) {
				t.Fatalf("got %v, want complaints", err)
			}
			if got, want := err.Error(), strings.Join(tc.want, "\n"); got != want {
				t.Errorf("complaints are\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestAFileThatCannotBeReadIsAComplaintToo(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "weedd.toml")
	_, err := Load(path, nil)
	want := path + ": cannot be read: no such file or directory; name a file with --config or WEEDD_CONFIG, and see `weedd config default` for a first one"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestAFileOverridesDefaultsAndOnlyThose(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "weedd.toml")
	text := `
roles = ["volume"]
address = "127.0.0.1"
log = { level = "warn" }
limits.stop = "1h"
limits.hold = "1m30s"
[volume]
http = "127.0.0.1:0x1F90" # no port: ports are decimal
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path, nil); err == nil {
		t.Fatal("a hexadecimal port in text was taken")
	}
	text = strings.Replace(text, `"127.0.0.1:0x1F90"`, "0x1F90\ndisks = [{ path = \"/a\", max = 3 }, { path = \"/b\", type = \"SSD\" }]", 1)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Load(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Roles, want.Address, want.Log.Level, want.Limits.Hold = cluster.RoleVolume, "127.0.0.1", "warn", 90*time.Second
	want.Limits.Stop = time.Hour
	want.Volume.Disks = []Disk{{Path: "/a", Max: 3}, {Path: "/b", Type: "ssd"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestTheEnvironmentOverridesEveryKey(t *testing.T) {
	t.Parallel()
	values := map[string]struct {
		text string
		want any
	}{
		"data": {"/d", "/d"}, "address": {"127.0.0.2", "127.0.0.2"}, "roles": {"volume,master", cluster.RoleMaster | cluster.RoleVolume},
		"data_center": {"dc9", "dc9"}, "rack": {"r9", "r9"}, "cluster_key": {"/k", "/k"}, "insecure": {"true", true},
		"log.level": {"debug", "debug"}, "log.format": {"json", "json"},
		"internal.port": {"19332", 19332}, "gossip.port": {"17946", 17946}, "gossip.join": {"a, b:7 ,[::1]:8", []string{"a", "b:7", "[::1]:8"}},
		"pki.ca": {"/etc/weedd/ca.pem", "/etc/weedd/ca.pem"}, "pki.cert": {"/etc/weedd/node.pem", "/etc/weedd/node.pem"}, "pki.key": {"/etc/weedd/node.key", "/etc/weedd/node.key"},
		"tls.cert": {"/etc/weedd/public.pem", "/etc/weedd/public.pem"}, "tls.key": {"/etc/weedd/public.key", "/etc/weedd/public.key"},
		"access.write_key": {"/k", "/k"}, "access.read_key": {"/v", "/v"}, "access.write_life": {"3s", 3 * time.Second}, "access.read_life": {"0s", time.Duration(0)},
		"access.allow": {"10.0.0.0/8,::1", []string{"10.0.0.0/8", "::1"}}, "access.admin": {"10.0.0.1", []string{"10.0.0.1"}},
		"access.origins": {"https://a.example,http://b:81", []string{"https://a.example", "http://b:81"}}, "limits.downloads": {"9MiB", 9 * MiB},
		"master.http": {"127.0.0.1:19333", Listen{"127.0.0.1", 19333}}, "master.files": {"false", false}, "master.expect": {"5", 5}, "master.volume_size_limit": {"1.5GiB", GiB + GiB/2},
		"master.default_replication": {"011", volume.Placement(11)}, "master.writable_volumes": {"9", 9}, "master.repair_after": {"90s", 90 * time.Second},
		"master.repair_copies": {"8", 8}, "volume.repair_rate": {"5MiB", 5 * MiB}, "master.adopt": {"false", false}, "master.garbage_threshold": {"0.5", Share(0.5)},
		"volume.http": {"18080", Listen{"", 18080}}, "volume.public": {"127.0.0.1:8081", Listen{"127.0.0.1", 8081}}, "volume.public_url": {"a.example:80", "a.example:80"}, "volume.read_mode": {"local", "local"}, "volume.sync": {"os", "os"}, "volume.images": {"1GiB", GiB}, "volume.scrub": {"36h", 36 * time.Hour},
		"volume.disks":     {"/a,/b:ssd,/c:hdd:7", []Disk{{Path: "/a"}, {Path: "/b", Type: "ssd"}, {Path: "/c", Max: 7}}},
		"limits.file_size": {"1MiB", MiB}, "limits.in_flight": {"0B", Size(0)}, "limits.held_bytes": {"1GB", GB}, "limits.held_requests": {"7", 7},
		"limits.hold": {"3s", 3 * time.Second}, "limits.stop": {"4s", 4 * time.Second},
	}
	seen := map[string]string{}
	for _, k := range keys {
		if other, ok := seen[k.env()]; ok {
			t.Errorf("%s names both %s and %s", k.env(), k.name, other)
		}
		seen[k.env()] = k.name
		v, ok := values[k.name]
		if !ok {
			t.Errorf("no case for %s", k.name)
			continue
		}
		l := onHost("127.0.0.1")
		l.Env = []string{k.env() + "=" + v.text}
		if strings.HasPrefix(k.name, "pki.") {
			l.Env = []string{"WEEDD_PKI_CA=/etc/weedd/ca.pem", "WEEDD_PKI_CERT=/etc/weedd/node.pem", "WEEDD_PKI_KEY=/etc/weedd/node.key"}
		}
		if strings.HasPrefix(k.name, "tls.") {
			l.Env = []string{"WEEDD_TLS_CERT=/etc/weedd/public.pem", "WEEDD_TLS_KEY=/etc/weedd/public.key"}
		}
		got, err := l.Parse("weedd.toml", []byte(twoRoles+"[master]\n[volume]\n"))
		if err != nil {
			t.Errorf("%s=%s: %v", k.env(), v.text, err)
			continue
		}
		if !reflect.DeepEqual(k.value(got.Config), v.want) {
			t.Errorf("%s=%s gives %#v, want %#v", k.env(), v.text, k.value(got.Config), v.want)
		}
		if got.origins[k.name] != k.env() {
			t.Errorf("%s is said to come from %q", k.name, got.origins[k.name])
		}
	}
}

func TestTheAddressIsFound(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		host []string
		join string
		want string // address, or complaint
	}{
		"the only one":                     {[]string{"127.0.0.1", "10.0.0.1"}, "", "10.0.0.1"},
		"the only one of IPv4":             {[]string{"127.0.0.1", "10.0.0.1", "2001:db8::1", "fe80::1"}, "", "10.0.0.1"},
		"the only one of IPv6":             {[]string{"::1", "2001:db8::1", "fe80::1"}, "", "2001:db8::1"},
		"the one in join":                  {[]string{"10.0.0.1", "172.17.0.1"}, `"10.0.0.9", "172.17.0.1:7946", "b.example"`, "172.17.0.1"},
		"the one in join, though IPv6":     {[]string{"10.0.0.1", "2001:db8::1"}, `"2001:db8::1"`, "2001:db8::1"},
		"none but loopback":                {[]string{"127.0.0.1", "fe80::1"}, "", `weedd.toml: address: missing, and this host has none that others could reach; for one node alone write address = "127.0.0.1"`},
		"two, and join names neither":      {[]string{"10.0.0.1", "172.17.0.1"}, `"10.0.0.2"`, "weedd.toml: address: missing, and this host has several: 10.0.0.1, 172.17.0.1; write the one by which other nodes reach it"},
		"two that are both in join":        {[]string{"10.0.0.1", "10.0.0.2"}, `"10.0.0.2", "10.0.0.1"`, "weedd.toml: address: missing, and this host has several: 10.0.0.2, 10.0.0.1; write the one by which other nodes reach it"},
		"one that is in join twice is one": {[]string{"10.0.0.1", "10.0.0.2"}, `"10.0.0.2", "10.0.0.2:7946"`, "10.0.0.2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := onHost(tc.host...).Parse("weedd.toml", []byte("roles = [\"master\"]\ncluster_key = \"/k\"\n[master]\n[gossip]\njoin = ["+tc.join+"]\n"))
			if err != nil {
				if err.Error() != tc.want {
					t.Errorf("got\n%v\nwant\n%s", err, tc.want)
				}
			} else if got.Address != tc.want {
				t.Errorf("found %s, want %s", got.Address, tc.want)
			}
		})
	}
}

func TestTheClusterKeyAmongCredentialsGoesBeforeThatOfTheFile(t *testing.T) {
	t.Parallel()
	const named = "cluster_key = \"/k\"\n"
	for name, tc := range map[string]struct {
		env        []string
		line, want string
	}{
		"found without a line":        {[]string{"CREDENTIALS_DIRECTORY=/creds"}, "", "/creds/cluster.key"},
		"found in place of the line":  {[]string{"CREDENTIALS_DIRECTORY=/creds"}, named, "/creds/cluster.key"},
		"no such credential":          {[]string{"CREDENTIALS_DIRECTORY=/empty"}, named, "/k"},
		"no credentials":              {nil, named, "/k"},
		"a variable goes before both": {[]string{"CREDENTIALS_DIRECTORY=/creds", "WEEDD_CLUSTER_KEY=/v"}, named, "/v"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := onHost("10.0.0.1")
			l.Env = tc.env
			got, err := l.Parse("weedd.toml", []byte(tc.line+"roles = [\"master\"]\n[master]\n"))
			if err != nil || got.ClusterKey != tc.want {
				t.Errorf("key is %q, want %q; %v", got.ClusterKey, tc.want, err)
			}
			if want := strings.HasPrefix(tc.want, "/creds") || len(tc.env) == 2; (got.Access.ReadKey == "/creds/jwt-read.key") != want || got.Access.WriteKey != "" {
				t.Errorf("%+v", got.Access)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(twoRoles + "[master]\n[volume]\n")
	f.Add("roles = [\"volume\"]\n[volume]\ndisks = [{path = '/a'}, 5]\n[[volume.disks]]\nmax = 1e3\n")
	f.Add("a.b.c = 1\n[a.b]\n[[x]]\n\"\" = \"\"\nlog = {level = 1}\nhttp = \"\"\"\nx\"\"\"\n")
	f.Add("[volume]\ndisks = []\nhttp = 0x10_00\n[limits]\nhold = \"9999999999h\"\nfile_size = \"1e300GB\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := onHost("127.0.0.1", "10.0.0.1").Parse("f.toml", []byte(text))
		var faults *Error
		if err != nil {
			if !errors.As(err, &faults) || len(faults.Complaints) == 0 {
				t.Fatalf("an error without complaints: %v", err)
			}
			return
		}
		var out strings.Builder
		if err := got.Write(&out); err != nil {
			t.Fatal(err)
		}
		again, err := onHost("127.0.0.1", "10.0.0.1").Parse("again.toml", []byte(out.String()))
		if err != nil {
			t.Fatalf("what is shown is refused: %v\n%s", err, out.String())
		}
		if live, restart := Diff(got.Config, again.Config); live != nil || restart != nil {
			t.Fatalf("what is shown differs in %v %v:\n%s", live, restart, out.String())
		}
	})
}
