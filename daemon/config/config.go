// Package config turns weedd's TOML file and the environment into typed values.
// It refuses what it does not understand: every complaint names the key, the
// place and the remedy, and all of them come at once. viper and the TOML parser
// end here; other packages take small Options of their own.
//
// A Config is plain data. It can be written by hand, as tests do, without any
// file. Functions of this package may be called at once from anywhere.
package config

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"weedd/cluster"
	"weedd/volume"
)

// Config is everything that a daemon is told from outside. Default gives the
// values that a file need not name. Port 0 means "any free port" and is refused
// in files, for nobody could find the daemon; tests use it.
type Config struct {
	Data       string       `mapstructure:"data"`        // directory for node id, members, raft; locked by the process
	Address    string       `mapstructure:"address"`     // IP by which other nodes reach this one; Load finds it when the file does not say
	Roles      cluster.Role `mapstructure:"roles"`       // at least one
	DataCenter string       `mapstructure:"data_center"` // where the node stands, for placement
	Rack       string       `mapstructure:"rack"`        // within the data center
	ClusterKey string       `mapstructure:"cluster_key"` // file with the cluster's secret; "" for none
	Insecure   bool         `mapstructure:"insecure"`    // no cluster key, and yet no loopback address

	Log      Log      `mapstructure:"log"`
	Internal Internal `mapstructure:"internal"`
	Gossip   Gossip   `mapstructure:"gossip"`
	PKI      PKI      `mapstructure:"pki"`
	TLS      TLS      `mapstructure:"tls"`
	Access   Access   `mapstructure:"access"`
	Master   Master   `mapstructure:"master"` // means nothing without the role
	Volume   Volume   `mapstructure:"volume"` // means nothing without the role
	Limits   Limits   `mapstructure:"limits"`
}

// Log says what is logged, to standard error.
type Log struct {
	Level  string `mapstructure:"level"`  // debug, info, warn, error
	Format string `mapstructure:"format"` // text, json
}

// Internal is the port for raft and the internal calls, bound to Config.Address.
type Internal struct {
	Port int `mapstructure:"port"`
}

// Gossip is the TCP and UDP port by which nodes find one another, bound to
// Config.Address.
type Gossip struct {
	Port int      `mapstructure:"port"`
	Join []string `mapstructure:"join"` // host or host:port of any nodes, own address allowed; see Config.Join
}

// PKI names the PEM files of operators who have a certificate authority of
// their own. All three or none; with none, certificates derive from the cluster key.
type PKI struct {
	CA   string `mapstructure:"ca"`
	Cert string `mapstructure:"cert"`
	Key  string `mapstructure:"key"`
}

// TLS names the PEM files of the certificate of the public ports, of both roles. Both
// or none; with none they are plain HTTP. They are read again when they change.
type TLS struct {
	Cert string `mapstructure:"cert"`
	Key  string `mapstructure:"key"`
}

// Access says who may use the public ports.
type Access struct {
	WriteKey  string        `mapstructure:"write_key"`  // file with the key for tokens; "" asks for none
	ReadKey   string        `mapstructure:"read_key"`   // file with the key for tokens; "" asks for none
	WriteLife time.Duration `mapstructure:"write_life"` // of tokens given out; 0 is for ever
	ReadLife  time.Duration `mapstructure:"read_life"`
	Allow     []string      `mapstructure:"allow"`   // addresses and networks that may write, and ask masters; none is all
	Admin     []string      `mapstructure:"admin"`   // those that may destroy data, besides loopback
	Origins   []string      `mapstructure:"origins"` // pages that browsers let read with cookies; none is all, without
}

// Master is the master role.
type Master struct {
	HTTP               Listen           `mapstructure:"http"`
	Files              bool             `mapstructure:"files"`               // the port gives out file ids, looks up and takes uploads
	Expect             int              `mapstructure:"expect"`              // masters that genesis waits for; 1 or another odd number
	VolumeSizeLimit    Size             `mapstructure:"volume_size_limit"`   // a volume this large gets no new ids
	DefaultReplication volume.Placement `mapstructure:"default_replication"` // for requests that name none
	WritableVolumes    int              `mapstructure:"writable_volumes"`    // open volumes kept ready for each kind in use
	Adopt              bool             `mapstructure:"adopt"`               // volumes that SeaweedFS left in the data directories become the cluster's
	RepairAfter        time.Duration    `mapstructure:"repair_after"`        // a copy away for so long is replaced
	RepairCopies       int              `mapstructure:"repair_copies"`       // made anew on one node at a time
	GarbageThreshold   Share            `mapstructure:"garbage_threshold"`   // of a volume's bytes, before it is compacted; 0 is never
}

// Volume is the volume role.
type Volume struct {
	HTTP       Listen        `mapstructure:"http"`
	Public     Listen        `mapstructure:"public"`      // one more port, which only reads; the zero value is none
	PublicURL  string        `mapstructure:"public_url"`  // host or host:port given to clients; "" for address and port
	ReadMode   string        `mapstructure:"read_mode"`   // proxy, redirect, local: what to do for volumes that are elsewhere
	Sync       string        `mapstructure:"sync"`        // group (fsync before the answer), os
	Images     Size          `mapstructure:"images"`      // memory for images being resized; 0 serves them as they are
	Scrub      time.Duration `mapstructure:"scrub"`       // every volume is read through once in so long; 0 is only when asked
	RepairRate Size          `mapstructure:"repair_rate"` // bytes a second sent to copies that catch up; 0 for no limit
	Disks      []Disk        `mapstructure:"disks"`       // Load puts one below Data when the file names none
}

// Disk is a directory for volumes.
type Disk struct {
	Path string          // made if its parent exists
	Type volume.DiskType // "" for hdd
	Max  int             // volumes; 0 for as many as there is room for
}

// Limits bound what a daemon takes on. All of them change live.
type Limits struct {
	FileSize     Size          `mapstructure:"file_size"`     // of one file in one record
	InFlight     Size          `mapstructure:"in_flight"`     // memory for uploads at the volume role, together; 0 for no limit
	Downloads    Size          `mapstructure:"downloads"`     // of files that a volume server is sending, together; 0 for no limit
	HeldBytes    Size          `mapstructure:"held_bytes"`    // memory for uploads at a master, together
	HeldRequests int           `mapstructure:"held_requests"` // how many requests may wait
	Hold         time.Duration `mapstructure:"hold"`          // how long a request may wait before it is told 503
	Stop         time.Duration `mapstructure:"stop"`          // how long a planned stop waits for requests in flight
}

// Ports that a file need not name.
const (
	DefaultInternalPort = 9332
	DefaultGossipPort   = 7946
	DefaultMasterPort   = 9333
	DefaultVolumePort   = 8080
)

// Default gives the values of all keys that a file does not name. It has no
// role and no address, so it is no valid Config yet.
func Default() Config {
	return Config{
		Data:       "/var/lib/weedd",
		DataCenter: "DefaultDataCenter",
		Rack:       "DefaultRack",
		Log:        Log{Level: "info", Format: "text"},
		Internal:   Internal{Port: DefaultInternalPort},
		Gossip:     Gossip{Port: DefaultGossipPort},
		Access:     Access{WriteLife: 10 * time.Second, ReadLife: time.Minute},
		Master: Master{
			HTTP:            Listen{Port: DefaultMasterPort},
			Files:           true,
			Expect:          1,
			VolumeSizeLimit: 30 * GB,
			WritableVolumes: 6, Adopt: true,
			RepairAfter: 10 * time.Minute, RepairCopies: 4,

			GarbageThreshold: 0.3,
		},
		Volume: Volume{
			HTTP:     Listen{Port: DefaultVolumePort},
			ReadMode: "proxy",
			Sync:     "group",
			Scrub:    7 * 24 * time.Hour, RepairRate: 64 * MiB,
		},
		Limits: Limits{
			FileSize:     256 * MiB,
			InFlight:     512 * MiB,
			HeldBytes:    256 * MiB,
			HeldRequests: 1024,
			Hold:         10 * time.Second,
			Stop:         30 * time.Second,
		},
	}
}

// Has reports whether the daemon has the role.
func (c Config) Has(role cluster.Role) bool { return c.Roles&role != 0 }

// Loopback reports whether the node's own address is one that no other host can reach.
func (c Config) Loopback() bool {
	ip, err := netip.ParseAddr(c.Address)
	return err == nil && ip.IsLoopback()
}

// InternalAddr is the host:port to bind for raft and internal calls.
func (c Config) InternalAddr() string { return hostPort(c.Address, c.Internal.Port) }

// GossipAddr is the host:port to bind for gossip.
func (c Config) GossipAddr() string { return hostPort(c.Address, c.Gossip.Port) }

// MasterAddr is the host:port to bind for the master's public HTTP. Without a
// host in the file these are all addresses of the host, but only the own one if
// that is a loopback address.
func (c Config) MasterAddr() string { return c.bind(c.Master.HTTP) }

// VolumeAddr is the host:port to bind for the volume server's public HTTP, as
// with MasterAddr.
func (c Config) VolumeAddr() string { return c.bind(c.Volume.HTTP) }

// PublicAddr is the host:port to bind for the volume server's port that only reads,
// as with MasterAddr; "" for none.
func (c Config) PublicAddr() string {
	if c.Volume.Public == (Listen{}) {
		return ""
	}
	return c.bind(c.Volume.Public)
}

func (c Config) bind(l Listen) string {
	if l.Host == "" && c.Loopback() {
		return hostPort(c.Address, l.Port)
	}
	return hostPort(l.Host, l.Port)
}

// Reach is the host:port by which other nodes reach a public port of this node,
// given the port that was really bound (it differs from l's when that is 0).
func (c Config) Reach(l Listen, port int) string {
	if ip, err := netip.ParseAddr(l.Host); err == nil && !ip.IsUnspecified() {
		return hostPort(l.Host, port)
	}
	return hostPort(c.Address, port)
}

// Join gives the addresses of Gossip.Join as host:port; those without a port
// get the own gossip port, as all nodes of a cluster usually share it.
func (c Config) Join() []string {
	out := make([]string, 0, len(c.Gossip.Join))
	for _, s := range c.Gossip.Join {
		if host, port, err := splitJoin(s); err == nil {
			if port == 0 {
				port = c.Gossip.Port
			}
			out = append(out, hostPort(host, port))
		}
	}
	return out
}

// DefaultDisk is where volumes go when the file names no disks.
func (c Config) DefaultDisk() Disk { return Disk{Path: filepath.Join(c.Data, "volumes")} }

// Listen is a port for public HTTP and, where the file names one, the IP
// address to bind it to. As text it is "9333" or "10.0.0.5:9333".
type Listen struct {
	Host string
	Port int
}

func (l Listen) String() string {
	if l.Host == "" {
		return strconv.Itoa(l.Port)
	}
	return hostPort(l.Host, l.Port)
}

func hostPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// String gives the form that the environment uses: "/srv/a:ssd:20". Parts at
// the end that say nothing are left out.
func (d Disk) String() string {
	s := []string{d.Path, string(d.Type), strconv.Itoa(d.Max)}
	if d.Max == 0 {
		s = s[:2]
		if d.Type == "" {
			s = s[:1]
		}
	}
	return strings.Join(s, ":")
}

// Share is a part of a whole, from 0 to 1.
type Share float64

func (s Share) String() string { return strconv.FormatFloat(float64(s), 'g', -1, 64) }

// Size is a number of bytes. As text it has a unit: "30GB" (powers of 1000) or
// "512MiB" (powers of 1024).
type Size int64

// Units of sizes.
const (
	KB, KiB Size = 1e3, 1 << 10
	MB, MiB Size = 1e6, 1 << 20
	GB, GiB Size = 1e9, 1 << 30
	TB, TiB Size = 1e12, 1 << 40
)

type sizeUnit struct {
	name string
	size Size
}

var sizeUnits = []sizeUnit{
	{"TiB", TiB}, {"TB", TB}, {"GiB", GiB}, {"GB", GB}, {"MiB", MiB}, {"MB", MB}, {"KiB", KiB}, {"KB", KB}, {"B", 1},
}

// String gives the size in the largest unit that leaves a whole number.
func (s Size) String() string {
	if s == 0 {
		return "0B"
	}
	best := sizeUnits[len(sizeUnits)-1]
	for _, u := range sizeUnits {
		if s%u.size == 0 && u.size > best.size {
			best = u
		}
	}
	return strconv.FormatInt(int64(s/best.size), 10) + best.name
}

// ParseSize reads a whole or broken number with a unit, such as "1.5GiB".
func ParseSize(text string) (Size, error) {
	s := strings.TrimSpace(text)
	i := strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && r != '.' && r != '-' && r != '+' })
	if i < 0 {
		return 0, fmt.Errorf(`sizes need a unit, as in "512MiB"`)
	}
	number, unit := s[:i], strings.TrimSpace(s[i:])
	u := slices.IndexFunc(sizeUnits, func(u sizeUnit) bool { return strings.EqualFold(u.name, unit) })
	if u < 0 {
		return 0, fmt.Errorf("unknown unit %q; sizes end in B, KB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024)", unit)
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is no number", number)
	}
	n *= float64(sizeUnits[u].size)
	if n < 0 || n > 1<<60 {
		return 0, fmt.Errorf("a size is between 0B and 1048576TiB")
	}
	return Size(n), nil
}
