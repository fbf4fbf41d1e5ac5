package config

import (
	"reflect"
	"strings"
	"time"

	"weedd/cluster"
)

// A key is one line of the file. The table of keys is what loading, the
// environment, `config default`, `config show` and reloading go by, so that a key
// cannot be in one of them and missing in another.
type key struct {
	name     string            // as in "master.http"
	live     bool              // SIGHUP changes it
	doc      string            // for the default file
	sample   string            // in TOML: shown in the default file where the default would not tell much
	required bool              // the sample stands there uncommented
	choices  []string          // all values of a string
	optional bool              // of a port: 0 is none
	min, max int64             // of whole numbers, sizes and durations, both allowed
	field    func(*Config) any // pointer to where the value lives
}

// sections are the tables of the file, in the order in which they are written.
// The first holds the keys of the top.
var sections = []struct {
	name string
	role cluster.Role // without it the section is refused, with it the section is required
	doc  string
	live bool // doc says that all its keys are
}{
	{"", 0, "", false},
	{"log", 0, "What is logged, to standard error. All of it is (live).", true},
	{"internal", 0, "Raft and the calls of the nodes among themselves, on address, always TLS.", false},
	{"gossip", 0, "How the nodes find one another: TCP and UDP, on address.", false},
	{"pki", 0, "A certificate authority of your own, for the internal port. All three files or none;\nwithout them every node derives its certificate from cluster_key. Gossip is encrypted with\ncluster_key either way.", false},
	{"tls", 0, "TLS for the public ports of both roles, which are plain HTTP without it. Both files or none;\nthey are read again when they change.", false},
	{"access", 0, "Who may use the public ports. The same on every node.", false},
	{"master", cluster.RoleMaster, "The master role: agrees on which volumes exist, gives out file ids, takes uploads at /submit.", false},
	{"volume", cluster.RoleVolume, "The volume role: keeps files in volumes and serves them.", false},
	{"limits", 0, "What one daemon takes on at a time. All of it is (live).", true},
}

const (
	maxPort     = 65535
	disksKey    = "volume.disks"
	maxDatSize  = int64(32*GiB - MiB) // offsets in .idx reach 32 GiB; a little room stays for deletions
	maxFileSize = int64(1 * GiB)      // sizes in a record are 32 bit, and a record is held in memory
)

var keys = []key{
	{name: "data", field: func(c *Config) any { return &c.Data },
		doc: "Directory for the node's id, the members it knows and the decisions of the masters.\nOne process at a time."},
	{name: "address", sample: `"192.168.100.117"`, field: func(c *Config) any { return &c.Address },
		doc: "The IP address by which other nodes reach this one. It may be left out on a host that has\nonly one, or whose address is in gossip.join."},
	{name: "roles", sample: `["master", "volume"]`, required: true, field: func(c *Config) any { return &c.Roles },
		doc: "What this node does. Each role needs its section below, even an empty one."},
	{name: "data_center", field: func(c *Config) any { return &c.DataCenter },
		doc: "Where the node stands. Copies of a file go to other data centers, racks or hosts as the\nreplication code says."},
	{name: "rack", field: func(c *Config) any { return &c.Rack }},
	{name: "cluster_key", sample: `"/etc/weedd/cluster.key"`, required: true, field: func(c *Config) any { return &c.ClusterKey },
		doc: "File with the secret that makes the cluster private; the same on every node, readable by\nweedd alone. Make one with: (umask 077; head -c 32 /dev/urandom | base64 > cluster.key)\nWhere systemd gives the credential cluster.key, as the packages' units do, that is used\ninstead, and this file may be root's alone."},
	{name: "insecure", field: func(c *Config) any { return &c.Insecure },
		doc: "Run on a network address without a cluster key: whoever reaches the internal ports may read,\nchange and delete everything."},

	{name: "log.level", live: true, choices: []string{"debug", "info", "warn", "error"}, field: func(c *Config) any { return &c.Log.Level },
		doc: "debug, info, warn or error; debug shows every request."},
	{name: "log.format", live: true, choices: []string{"text", "json"}, field: func(c *Config) any { return &c.Log.Format },
		doc: "text or json."},

	{name: "internal.port", max: maxPort, field: func(c *Config) any { return &c.Internal.Port }},

	{name: "gossip.port", max: maxPort, field: func(c *Config) any { return &c.Gossip.Port }},
	{name: "gossip.join", live: true, sample: `["192.168.100.117", "192.168.100.172", "192.168.100.2"]`, field: func(c *Config) any { return &c.Gossip.Join },
		doc: "Nodes to ask for all the others: one that lives is enough, and the list may be the same on\nevery node. Host or host:port of gossip."},

	{name: "pki.ca", sample: `"/etc/weedd/ca.pem"`, field: func(c *Config) any { return &c.PKI.CA }},
	{name: "pki.cert", sample: `"/etc/weedd/node.pem"`, field: func(c *Config) any { return &c.PKI.Cert }},
	{name: "pki.key", sample: `"/etc/weedd/node.key"`, field: func(c *Config) any { return &c.PKI.Key }},

	{name: "tls.cert", sample: `"/etc/weedd/public.pem"`, field: func(c *Config) any { return &c.TLS.Cert }},
	{name: "tls.key", sample: `"/etc/weedd/public.key"`, field: func(c *Config) any { return &c.TLS.Key }},

	{name: "access.write_key", sample: `"/etc/weedd/jwt-write.key"`, field: func(c *Config) any { return &c.Access.WriteKey },
		doc: "Files with the keys that sign tokens (JWT, HS256, as SeaweedFS has them): for writes and\ndeletes, and for reads. Without a key no token is asked for. /dir/assign and /dir/lookup give\nthem out, so keep strangers from the masters. $CREDENTIALS_DIRECTORY/jwt-write.key and\njwt-read.key are used where systemd gives them."},
	{name: "access.read_key", sample: `"/etc/weedd/jwt-read.key"`, field: func(c *Config) any { return &c.Access.ReadKey }},
	{name: "access.write_life", max: int64(365 * 24 * time.Hour), field: func(c *Config) any { return &c.Access.WriteLife },
		doc: "How long a token that is given out is good; \"0s\" is for ever."},
	{name: "access.read_life", max: int64(365 * 24 * time.Hour), field: func(c *Config) any { return &c.Access.ReadLife }},
	{name: "access.allow", sample: `["192.168.100.0/24", "10.9.8.7"]`, field: func(c *Config) any { return &c.Access.Allow },
		doc: "Addresses and networks that may write and delete at volume servers, and ask masters; without\nany, all. Only the other end of the connection counts, so a proxy is listed itself."},
	{name: "access.admin", sample: `["192.168.100.2"]`, field: func(c *Config) any { return &c.Access.Admin },
		doc: "Those that may call what destroys data or keeps disks busy (/col/delete,\n/cluster/operation, /admin/scrub),\nbesides this host itself. A token with the fid \"*\", signed with write_key, may too."},

	{name: "access.origins", sample: `["https://app.example.org"]`, field: func(c *Config) any { return &c.Access.Origins },
		doc: "Web pages, by their origin, that browsers let use volume servers with cookies, and no others then.\nWithout any, all may, without cookies."},

	{name: "master.http", field: func(c *Config) any { return &c.Master.HTTP },
		doc: "Port of the public API, or \"address:port\" to bind one address only."},
	{name: "master.files", field: func(c *Config) any { return &c.Master.Files },
		doc: "false: this port only tells how the cluster is. It gives out no file ids, looks nothing up and\ntakes no uploads, which are for other masters then."},
	{name: "master.expect", min: 1, max: 7, field: func(c *Config) any { return &c.Master.Expect },
		doc: "How many masters found a new cluster together: 3 for three, with the same number in the\nfile of each; 1 for one alone, to which others may be added later. No effect afterwards."},
	{name: "master.volume_size_limit", min: int64(MiB), max: maxDatSize, field: func(c *Config) any { return &c.Master.VolumeSizeLimit },
		doc: "A volume of this size gets no new files. The same on every master."},
	{name: "master.default_replication", field: func(c *Config) any { return &c.Master.DefaultReplication },
		doc: "Copies of a file for which the request does not say: three digits, for extra copies in other\ndata centers, on other racks, on other hosts. 000 is one copy, 001 two on two hosts."},
	{name: "master.writable_volumes", min: 1, max: 1000, field: func(c *Config) any { return &c.Master.WritableVolumes },
		doc: "Volumes kept ready for new files, for each collection, replication and disk type in use."},
	{name: "master.adopt", field: func(c *Config) any { return &c.Master.Adopt },
		doc: "Volumes that SeaweedFS left in the directories of volume servers become the cluster's own:\nreplicated, and writable for the files in them. false: they are only read. The same on every\nmaster."},
	{name: "master.repair_after", min: int64(time.Second), max: int64(30 * 24 * time.Hour), field: func(c *Config) any { return &c.Master.RepairAfter },
		doc: "A copy that stays away for so long is made anew elsewhere. A restart should be shorter."},
	{name: "master.repair_copies", min: 1, max: 1000, field: func(c *Config) any { return &c.Master.RepairCopies },
		doc: "How many copies one volume server makes anew at a time. The same on every master."},
	{name: "master.garbage_threshold", field: func(c *Config) any { return &c.Master.GarbageThreshold },
		doc: "A volume is compacted when replaced and deleted files take this share of its bytes; 0 is never.\nThe same on every master."},

	{name: "volume.http", field: func(c *Config) any { return &c.Volume.HTTP },
		doc: "Port of the public API, or \"address:port\" to bind one address only."},
	{name: "volume.public", sample: "8081", optional: true, field: func(c *Config) any { return &c.Volume.Public },
		doc: "One more port, on which files can be read and nothing else: for strangers, while the port above\nis kept from them. Clients are told this one as publicUrl. 0 is none."},
	{name: "volume.public_url", sample: `"files.example.org:8080"`, field: func(c *Config) any { return &c.Volume.PublicURL },
		doc: "Host or host:port that clients are told, where it is not the address and port above."},
	{name: "volume.read_mode", choices: []string{"proxy", "redirect", "local"}, field: func(c *Config) any { return &c.Volume.ReadMode },
		doc: "What to do for a file that is on another node: proxy it, redirect to it, or serve local\nfiles only."},
	{name: "volume.sync", choices: []string{"group", "os"}, field: func(c *Config) any { return &c.Volume.Sync },
		doc: "group: an answer means that the file is on disk, on every copy. os: it is in the system's\npage cache; a power failure may lose it."},
	{name: "volume.images", max: int64(TiB), field: func(c *Config) any { return &c.Volume.Images },
		doc: "Memory for images that are made smaller for a reader (?width=200), at a time; results are\nkept in a quarter as much. An image that needs more is served as it is; \"0B\" is all of them."},
	{name: "volume.scrub", max: int64(365 * 24 * time.Hour), field: func(c *Config) any { return &c.Volume.Scrub },
		doc: "Every volume is read through once in so long, and what is bad is repaired from another copy;\n\"0s\" is only when asked for."},
	{name: "volume.repair_rate", live: true, max: int64(TiB), field: func(c *Config) any { return &c.Volume.RepairRate },
		doc: "What this node sends, in bytes a second, to copies on other nodes that are made anew or were\naway, so that clients are not slowed down. \"0B\" is no limit."},
	{name: disksKey, sample: "", field: func(c *Config) any { return &c.Volume.Disks },
		doc: "Directories for volumes, one table for each. Without any, volumes go to \"volumes\" below data.\ntype is hdd, ssd or a word of yours; max is the most volumes, 0 for as many as fit."},

	{name: "limits.file_size", live: true, min: int64(KiB), max: maxFileSize, field: func(c *Config) any { return &c.Limits.FileSize },
		doc: "The largest file that is kept in one piece. A volume server takes no larger one; /submit at a\nmaster cuts it into chunks."},
	{name: "limits.in_flight", live: true, max: int64(TiB), field: func(c *Config) any { return &c.Limits.InFlight },
		doc: "Memory for the uploads that a volume server takes at a time, two to three times their bodies;\nanother is told 429. \"0B\" is no limit."},
	{name: "limits.downloads", live: true, max: int64(TiB), field: func(c *Config) any { return &c.Limits.Downloads },
		doc: "Bytes of its own files that a volume server sends at a time: once there are so many, a read waits\nas long as limits.hold, and is told 429 then. \"0B\" is no limit."},
	{name: "limits.held_bytes", live: true, max: int64(TiB), field: func(c *Config) any { return &c.Limits.HeldBytes },
		doc: "Requests wait here while a volume or a leader is missing: memory for their bodies, their number,\nand how long before the answer is 503. An upload or a download waits as long for room, and is\ntold 429."},
	{name: "limits.held_requests", live: true, min: 1, max: 1 << 20, field: func(c *Config) any { return &c.Limits.HeldRequests }},
	{name: "limits.hold", live: true, min: int64(100 * time.Millisecond), max: int64(10 * time.Minute), field: func(c *Config) any { return &c.Limits.Hold }},
	{name: "limits.stop", live: true, min: int64(time.Second), max: int64(time.Hour), field: func(c *Config) any { return &c.Limits.Stop },
		doc: "How long a planned stop waits for requests in flight."},
}

// diskKeys are the keys of one [[volume.disks]].
var diskKeys = []string{"path", "type", "max"}

func findKey(name string) (key, bool) {
	for _, k := range keys {
		if k.name == name {
			return k, true
		}
	}
	return key{}, false
}

// section is the part of the name before the last dot, "" for keys of the top.
func (k key) section() string {
	s, _, ok := strings.Cut(k.name, ".")
	if !ok {
		return ""
	}
	return s
}

// short is the name within its section.
func (k key) short() string {
	if s := k.section(); s != "" {
		return strings.TrimPrefix(k.name, s+".")
	}
	return k.name
}

// env is the variable that overrides the key.
func (k key) env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(k.name, ".", "_"))
}

// value is what the key holds in c.
func (k key) value(c Config) any { return reflect.ValueOf(k.field(&c)).Elem().Interface() }

// Diff names the keys whose values differ: those that SIGHUP changes live, and
// those that need a restart.
func Diff(old, new Config) (live, restart []string) {
	for _, k := range keys {
		if reflect.DeepEqual(k.value(old), k.value(new)) {
			continue
		}
		if k.live {
			live = append(live, k.name)
		} else {
			restart = append(restart, k.name)
		}
	}
	return live, restart
}

// Live gives old with those values of new that change live.
func Live(old, new Config) Config {
	for _, k := range keys {
		if k.live {
			reflect.ValueOf(k.field(&old)).Elem().Set(reflect.ValueOf(k.field(&new)).Elem())
		}
	}
	return old
}

// Keys names every key, in the order of the default file.
func Keys() []string {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = k.name
	}
	return names
}
