package config

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"weedd/cluster"
	"weedd/volume"
	"weedd/volume/wire"
)

// Validate checks each value and how they fit together, on this host. An error
// is an *Error with all complaints. Unlike files, a Config may have ports 0.
func (c Config) Validate() error {
	local, err := hostAddresses()
	if err != nil {
		return fmt.Errorf("list this host's addresses: %w", err)
	}
	ch := check{Config: c, local: local, where: func(string) string { return "" }}
	ch.all()
	if c.Address == "" {
		ch.complain("address", "is empty; write the IP address by which other nodes reach this one")
	}
	if c.Roles == 0 {
		ch.complain("roles", "is empty; there are master and volume")
	}
	return asError(ch.complaints)
}

// check collects complaints about a Config. It looks at no files.
type check struct {
	Config
	local      []netip.Addr
	where      func(key string) string // "line 12", or "" when not known
	complaints []Complaint
}

func (c *check) complain(key, format string, args ...any) {
	c.complaints = append(c.complaints, Complaint{Key: key, Text: fmt.Sprintf(format, args...)})
}

func (c *check) all() {
	c.values()
	c.address()
	c.trust()
	c.paths()
	c.access()
	c.origins()
	c.ports()
	c.join()
	c.words()
	if c.Has(cluster.RoleMaster) {
		c.master()
	}
	if c.Has(cluster.RoleVolume) {
		c.disks()
		c.publicURL()
	}
	c.limits()
}

// values checks each value by itself, as the table of keys has it.
func (c *check) values() {
	for _, k := range keys {
		if !c.applies(k) {
			continue
		}
		switch v := k.value(c.Config).(type) {
		case string:
			if len(k.choices) > 0 && !slices.Contains(k.choices, v) {
				c.complain(k.name, "%q is none of %s%s", clip(v), strings.Join(k.choices, ", "), didYouMean(v, k.choices))
			}
		case int:
			c.between(k, int64(v), func(n int64) string { return fmt.Sprint(n) })
		case Share:
			if !(v >= 0 && v <= 1) { // also what is no number
				c.complain(k.name, "%s makes no sense here; it may be from 0 to 1", v)
			}
		case Size:
			c.between(k, int64(v), func(n int64) string { return Size(n).String() })
		case time.Duration:
			c.between(k, int64(v), func(n int64) string { return duration(time.Duration(n)) })
		}
	}
}

// applies says whether the key means anything for the roles of the node.
func (c *check) applies(k key) bool {
	for _, s := range sections {
		if s.name == k.section() && s.role != 0 {
			return c.Has(s.role)
		}
	}
	return true
}

func (c *check) between(k key, n int64, text func(int64) string) {
	top := k.max
	if top == 0 {
		top = math.MaxInt64
	}
	if n < k.min || n > top {
		c.complain(k.name, "%s makes no sense here; it may be from %s to %s", text(n), text(k.min), text(top))
	}
}

func (c *check) address() {
	if c.Address == "" {
		return // the caller says why
	}
	ip, err := netip.ParseAddr(c.Address)
	switch {
	case err != nil:
		c.complain("address", "%q is no IP address; write the address itself, without name, port or network", clip(c.Address))
	case ip.IsUnspecified():
		c.complain("address", "%s is every address and none; write the one by which other nodes reach this one", ip)
	default:
		c.isLocal("address", ip)
	}
}

func (c *check) isLocal(key string, ip netip.Addr) {
	if ip.IsLoopback() || slices.Contains(c.local, ip) {
		return
	}
	var have []string
	for _, a := range c.local {
		if a.IsGlobalUnicast() {
			have = append(have, a.String())
		}
	}
	has := "127.0.0.1 alone"
	if len(have) > 0 {
		has = strings.Join(have, ", ")
	}
	c.complain(key, "%s is no address of this host; it has %s", ip, has)
}

// trust sees to it that nobody opens the internal ports to the world by leaving
// out a line.
func (c *check) trust() {
	ip, err := netip.ParseAddr(c.Address)
	switch {
	case c.ClusterKey != "" && c.Insecure:
		c.complain("insecure", "contradicts cluster_key (%s); remove one of them", c.ClusterKey)
	case c.ClusterKey == "" && !c.Insecure && err == nil && !ip.IsLoopback():
		c.complain("cluster_key", "missing; without it the internal ports (%d, %d) may not be on %s, where everybody could use them: name a key file, or write insecure = true",
			c.Internal.Port, c.Gossip.Port, ip)
	}
	given := 0
	for _, f := range []string{c.PKI.CA, c.PKI.Cert, c.PKI.Key} {
		if f != "" {
			given++
		}
	}
	if given != 0 && given != 3 {
		c.complain("pki", "takes all of ca, cert and key, or none")
	}
}

// paths wants absolute ones, since a service starts anywhere; a node for trying
// out, on loopback, may have its data beside it.
func (c *check) paths() {
	if c.Data == "" {
		c.complain("data", "is empty; write a directory")
	}
	c.absolute("data", c.Data)
	c.absolute("cluster_key", c.ClusterKey)
	c.absolute("pki.ca", c.PKI.CA)
	c.absolute("pki.cert", c.PKI.Cert)
	c.absolute("pki.key", c.PKI.Key)
	c.absolute("tls.cert", c.TLS.Cert)
	c.absolute("tls.key", c.TLS.Key)
	c.absolute("access.write_key", c.Access.WriteKey)
	c.absolute("access.read_key", c.Access.ReadKey)
	if c.Has(cluster.RoleVolume) && !slices.Equal(c.Volume.Disks, []Disk{c.DefaultDisk()}) {
		for i, d := range c.Volume.Disks {
			c.absolute(diskName(i), d.Path)
		}
	}
}

// access checks who may use the public ports.
func (c *check) access() {
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		c.complain("tls", "takes both cert and key, or none")
	}
	for _, l := range []struct {
		key  string
		list []string
	}{{"access.allow", c.Access.Allow}, {"access.admin", c.Access.Admin}} {
		for _, s := range l.list {
			if _, err := wire.ParsePrefix(s); err != nil {
				c.complain(l.key, "%q %v", clip(s), err)
			}
		}
	}
}

// origins checks which pages may use volume servers.
func (c *check) origins() {
	for _, s := range c.Access.Origins {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || s != u.Scheme+"://"+u.Host {
			c.complain("access.origins", "%q is no origin; write scheme, host and port as browsers send them, as in https://app.example.org", clip(s))
		}
	}
}

func (c *check) absolute(key, path string) {
	if path == "" || filepath.IsAbs(path) || c.Loopback() {
		return
	}
	c.complain(key, "%q depends on where weedd is started; write the whole path, from / (relative ones are for nodes on 127.0.0.1)", clip(path))
}

func diskName(i int) string { return fmt.Sprintf("%s[%d]", disksKey, i) }

// ports finds two ports of this daemon that cannot both be bound.
func (c *check) ports() {
	type port struct {
		key, host string
		port      int
	}
	own := orElse(c.Address, "own")
	ports := []port{{"internal.port", own, c.Internal.Port}, {"gossip.port", own, c.Gossip.Port}}
	add := func(key string, l Listen) {
		host := l.Host
		if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
			host = ""
		} else if err == nil {
			c.isLocal(key, ip)
		} else if c.Loopback() {
			host = own
		}
		ports = append(ports, port{key, host, l.Port})
	}
	if c.Has(cluster.RoleMaster) {
		add("master.http", c.Master.HTTP)
	}
	if c.Has(cluster.RoleVolume) {
		add("volume.http", c.Volume.HTTP)
		add("volume.public", c.Volume.Public)
	}
	for i, p := range ports {
		for _, q := range ports[:i] {
			if p.port != 0 && p.port == q.port && (p.host == "" || q.host == "" || p.host == q.host) {
				c.clash(p.key, q.key, p.port)
			}
		}
	}
}

// clash complains at the key that the operator wrote, if only one is his.
func (c *check) clash(key, other string, port int) {
	if c.where(key) == "default" {
		key, other = other, key
	}
	at := c.where(other)
	if at != "" {
		at = " (" + at + ")"
	}
	c.complain(key, "port %d is also that of %s%s; give each a port of its own", port, other, at)
}

func (c *check) join() {
	for _, s := range c.Gossip.Join {
		_, port, err := splitJoin(s)
		if err != nil {
			c.complain("gossip.join", "%v", err)
			continue
		}
		if port == 0 || port == c.Gossip.Port {
			continue
		}
		for key, p := range map[string]int{"volume.public": c.Volume.Public.Port, "master.http": c.Master.HTTP.Port, "volume.http": c.Volume.HTTP.Port, "internal.port": c.Internal.Port} {
			if port == p {
				c.complain("gossip.join", "%s: %d is the port of %s; nodes are joined by gossip, port %d", s, port, key, c.Gossip.Port)
			}
		}
	}
}

// words checks the names that gossip carries: there is room for 512 bytes in all.
func (c *check) words() {
	for _, w := range []struct{ key, value string }{{"data_center", c.DataCenter}, {"rack", c.Rack}} {
		if _, err := volume.ParseCollection(w.value); err != nil || w.value == "" || len(w.value) > 64 {
			c.complain(w.key, "%q: write a name of at most 64 letters, digits, - _ and .", clip(w.value))
		}
	}
}

func (c *check) master() {
	if n := c.Master.Expect; n%2 == 0 && n > 0 {
		c.complain("master.expect", "%d masters bear no more failures than %d; write an odd number", n, n-1)
	}
}

func (c *check) publicURL() {
	text := c.Volume.PublicURL
	if text == "" {
		return
	}
	if _, rest, ok := strings.Cut(text, "://"); ok {
		c.complain("volume.public_url", "%q: write host or host:port alone, as in %q", clip(text), clip(strings.TrimRight(rest, "/")))
		return
	}
	host := text
	if h, port, err := net.SplitHostPort(text); err == nil {
		if _, err := parseListen(port); err != nil {
			c.complain("volume.public_url", "%v", err)
		}
		host = h
	}
	if !isHostName(host) || len(text) > 100 {
		c.complain("volume.public_url", "%q is no host; write host or host:port, at most 100 letters", clip(text))
	}
}

func (c *check) disks() {
	if len(c.Volume.Disks) == 0 {
		c.complain(disksKey, "is empty; a volume server needs a directory")
	}
	for i, d := range c.Volume.Disks {
		if d.Path == "" {
			c.complain(diskName(i), "has no path")
			continue
		}
		if d.Max < 0 {
			c.complain(diskName(i), "max is %d; write the most volumes, 0 for as many as fit", d.Max)
		}
		for j, other := range c.Volume.Disks[:i] {
			switch a, b := filepath.Clean(d.Path), filepath.Clean(other.Path); {
			case a == b:
				c.complain(diskName(i), "%s is also the path of %s; each disk has a directory of its own", a, diskName(j))
			case within(a, b) || within(b, a):
				c.complain(diskName(i), "%s and %s (%s) lie one in the other; each disk has a directory of its own", a, b, diskName(j))
			}
		}
	}
}

// within reports whether path lies below dir. Both are clean.
func within(path, dir string) bool {
	return strings.HasPrefix(path, strings.TrimRight(dir, "/")+"/")
}

func (c *check) limits() {
	l := c.Limits
	if l.HeldBytes < l.FileSize {
		c.complain("limits.held_bytes", "%s holds not even one body of limits.file_size (%s); make it at least as large", l.HeldBytes, l.FileSize)
	}
	if l.InFlight != 0 && l.InFlight < l.FileSize {
		c.complain("limits.in_flight", "%s holds not even one body of limits.file_size (%s); make it at least as large, or 0B for no limit", l.InFlight, l.FileSize)
	}
}
