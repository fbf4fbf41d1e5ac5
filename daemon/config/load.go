package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/viper"

	"weedd/cluster"
)

const envPrefix = "WEEDD_"

// PathVariable names the file when the command line does not.
const PathVariable = "WEEDD_CONFIG"

// DefaultPath is the file when nothing else names one.
const DefaultPath = "/etc/weedd/weedd.toml"

// A Loader reads configurations. The zero value asks the system; tests fill in
// what they want to be true.
type Loader struct {
	Env        []string                               // as os.Environ gives it; nothing else is read from the environment
	Interfaces func() ([]netip.Addr, error)           // addresses of this host
	Stat       func(path string) (fs.FileInfo, error) // for the files with secrets
}

// Loaded is a valid Config together with where its values come from.
type Loaded struct {
	Config
	origins map[string]string // by key: "weedd.toml:12", "WEEDD_MASTER_HTTP", ...; none for defaults
}

// Load reads the file and overrides it by the variables WEEDD_<SECTION>_<KEY> of
// env. An error is an *Error with all complaints.
func Load(path string, env []string) (Config, error) {
	l, err := Loader{Env: env}.Load(path)
	return l.Config, err
}

// Load is as the function Load.
func (l Loader) Load(path string) (Loaded, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return Loaded{}, asError([]Complaint{{path, "", fmt.Sprintf("cannot be read: %v; name a file with --config or %s, and see `weedd config default` for a first one", err, PathVariable), 0}})
	}
	return l.Parse(path, data)
}

// Parse is as Load, for text that is already here; name stands in complaints.
func (l Loader) Parse(name string, data []byte) (Loaded, error) {
	if l.Interfaces == nil {
		l.Interfaces = hostAddresses
	}
	if l.Stat == nil {
		l.Stat = os.Stat
	}
	s := scanFile(name, data)
	in := &input{scan: s, Loader: l, origins: map[string]string{}, env: map[string]any{}, bad: map[string]bool{}}
	in.readEnv()
	for key := range s.values {
		in.origins[key] = s.place(s.lines[key])
	}
	for key := range in.env {
		in.origins[key] = in.variable(key)
	}
	cfg, err := in.merge()
	if err != nil {
		return Loaded{}, err
	}
	if !s.broken { // else every key below the fault would be said to be missing
		in.complete(&cfg)
	}
	if err := asError(s.complaints); err != nil {
		return Loaded{}, err
	}
	return Loaded{cfg, in.origins}, nil
}

// input is a file and an environment on their way to a Config.
type input struct {
	*scan
	Loader
	env     map[string]any // by key
	origins map[string]string
	bad     map[string]bool // keys that have been complained about
}

// readEnv takes the WEEDD_ variables. All of them are ours, so that a mistyped
// one is found.
func (in *input) readEnv() {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = k.env()
	}
	sorted := slices.Sorted(slices.Values(in.Env))
	for _, pair := range sorted {
		name, text, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, envPrefix) || name == PathVariable {
			continue
		}
		i := slices.Index(names, name)
		if i < 0 {
			in.complaints = append(in.complaints, Complaint{name, "", "unknown variable" + hintForVariable(name, names), 0})
			continue
		}
		v, err := keys[i].decodeText(text)
		if err != nil {
			in.complaints = append(in.complaints, Complaint{name, keys[i].name, err.Error(), 0})
			continue
		}
		in.env[keys[i].name] = v
	}
}

func (in *input) variable(keyName string) string {
	k, _ := findKey(keyName)
	return k.env()
}

func hintForVariable(name string, names []string) string {
	for _, part := range []string{"_SERVICE_HOST", "_SERVICE_PORT", "_PORT"} {
		if strings.Contains(name, part) && !strings.Contains(name, "INTERNAL") && !strings.Contains(name, "GOSSIP") {
			return "; Kubernetes makes such for a service named weedd: set enableServiceLinks: false"
		}
	}
	return orElse(didYouMean(name, names), "; variables that begin with "+envPrefix+" are named after keys, as in WEEDD_MASTER_HTTP")
}

// merge lays environment over file over defaults. This is viper's part; it gets
// values in their final types, since it would guess at text, and only known
// keys, since it would drop others silently.
func (in *input) merge() (Config, error) {
	v := viper.New()
	def := Default()
	for _, k := range keys {
		v.SetDefault(k.name, k.value(def))
	}
	file := map[string]any{}
	for name, value := range in.values {
		section, short, ok := strings.Cut(name, ".")
		if !ok {
			file[name] = value
			continue
		}
		if file[section] == nil {
			file[section] = map[string]any{}
		}
		file[section].(map[string]any)[short] = value
	}
	if err := v.MergeConfigMap(file); err != nil {
		return Config{}, fmt.Errorf("merge configuration: %w", err)
	}
	for name, value := range in.env {
		v.Set(name, value)
	}
	var cfg Config
	if err := v.UnmarshalExact(&cfg); err != nil {
		return Config{}, fmt.Errorf("merge configuration: %w", err)
	}
	return cfg, nil
}

// complete finds what the file leaves to be found, and then checks everything.
func (in *input) complete(cfg *Config) {
	for _, c := range in.complaints {
		in.bad[c.Key] = true
	}
	in.checkSections(*cfg)
	in.findCredentials(cfg)
	local, err := in.Interfaces()
	if err != nil {
		in.complain(0, "address", "cannot list this host's addresses: %v", err)
	}
	if cfg.Address == "" && !in.bad["address"] && err == nil {
		if text := in.findAddress(cfg, local); text != "" {
			in.add(Complaint{Key: "address", Text: text})
		}
	}
	if len(cfg.Volume.Disks) == 0 {
		cfg.Volume.Disks = []Disk{cfg.DefaultDisk()}
	}
	if in.bad["roles"] { // check the sections that are there, whichever role was meant
		cfg.Roles = in.rolesBySection()
	}
	c := check{Config: *cfg, local: local, where: in.where}
	c.all()
	for _, complaint := range c.complaints {
		in.add(complaint)
	}
	in.checkSecrets(*cfg)
}

// add appends a complaint with the place of its key, unless there was one about
// the same key: then its value is not the operator's.
func (in *input) add(c Complaint) {
	key, _, _ := strings.Cut(c.Key, "[")
	if in.bad[key] {
		return
	}
	c.Place, c.line = in.file, 0
	if origin, ok := in.origins[key]; ok {
		c.Place = origin
	}
	if _, overridden := in.env[key]; !overridden {
		c.line = in.lines[key]
		if element, ok := in.lines[c.Key]; ok {
			c.line = element
		}
		c.Place = in.place(c.line)
	}
	in.complaints = append(in.complaints, c)
}

// where says in a few words where the value of a key comes from.
func (in *input) where(key string) string {
	if _, ok := in.env[key]; ok {
		return in.variable(key)
	}
	if line, ok := in.lines[key]; ok {
		return fmt.Sprintf("line %d", line)
	}
	return "default"
}

// checkSections holds roles and sections against each other: a section that
// nothing reads hides a forgotten role, and the other way round.
func (in *input) checkSections(cfg Config) {
	if in.bad["roles"] {
		return
	}
	if _, ok := in.origins["roles"]; !ok {
		in.add(Complaint{Key: "roles", Text: `missing; write roles = ["master", "volume"], or one of them`})
		in.bad["roles"] = true
		return
	}
	if cfg.Roles == 0 {
		in.add(Complaint{Key: "roles", Text: "is empty; there are master and volume"})
		in.bad["roles"] = true
		return
	}
	for _, sec := range sections {
		if sec.role == 0 {
			continue
		}
		place, given := in.sectionGiven(sec.name)
		switch has := cfg.Has(sec.role); {
		case has && !given:
			in.add(Complaint{Key: "roles", Text: fmt.Sprintf("there is no section [%s] for the role; add one, an empty one will do", sec.name)})
		case !has && given:
			c := Complaint{place, sec.name, fmt.Sprintf("section of a role that this node has not; add %q to roles (%s) or remove the section", sec.name, in.where("roles")), in.lines[sec.name]}
			in.complaints = append(in.complaints, c)
		}
	}
}

func (in *input) rolesBySection() (roles cluster.Role) {
	for _, sec := range sections {
		if _, given := in.sectionGiven(sec.name); given {
			roles |= sec.role
		}
	}
	return roles
}

// sectionGiven reports whether file or environment say anything of a section, and where.
func (in *input) sectionGiven(name string) (place string, given bool) {
	if line, ok := in.lines[name]; ok {
		return in.place(line), true
	}
	for _, k := range keys { // in the order of the table, so that complaints do not vary
		if _, ok := in.env[k.name]; ok && k.section() == name {
			return k.env(), true
		}
	}
	return "", false
}

// findCredentials looks where systemd puts credentials (LoadCredential=). What is
// there goes before what the file says, which names where the credential comes
// from: a file that root alone can read.
func (in *input) findCredentials(cfg *Config) {
	for _, c := range []struct {
		key, file string
		path      *string
	}{{"cluster_key", "cluster.key", &cfg.ClusterKey}, {"access.write_key", "jwt-write.key", &cfg.Access.WriteKey}, {"access.read_key", "jwt-read.key", &cfg.Access.ReadKey}} {
		if _, ok := in.env[c.key]; ok {
			continue
		}
		for _, pair := range in.Env {
			dir, ok := strings.CutPrefix(pair, "CREDENTIALS_DIRECTORY=")
			if !ok || dir == "" {
				continue
			}
			path := filepath.Join(dir, c.file)
			if _, err := in.Stat(path); err == nil {
				*c.path = path
				in.origins[c.key] = "$CREDENTIALS_DIRECTORY"
			}
		}
	}
}

// checkSecrets looks at the files with secrets, since a start would fail on them.
func (in *input) checkSecrets(cfg Config) {
	for _, f := range []struct{ key, path string }{
		{"cluster_key", cfg.ClusterKey}, {"pki.ca", cfg.PKI.CA}, {"pki.cert", cfg.PKI.Cert}, {"pki.key", cfg.PKI.Key},
		{"tls.cert", cfg.TLS.Cert}, {"tls.key", cfg.TLS.Key}, {"access.write_key", cfg.Access.WriteKey}, {"access.read_key", cfg.Access.ReadKey},
	} {
		if f.path == "" {
			continue
		}
		info, err := in.Stat(f.path)
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		switch secret := strings.HasSuffix(f.key, "key"); {
		case err != nil && f.key == "cluster_key" && errors.Is(err, fs.ErrNotExist):
			in.add(Complaint{Key: f.key, Text: fmt.Sprintf("%s: %v; make one with `(umask 077; head -c 32 /dev/urandom | base64 > %s)` and copy it to every node", f.path, err, f.path)})
		case err != nil:
			in.add(Complaint{Key: f.key, Text: fmt.Sprintf("%s: %v", f.path, err)})
		case info.IsDir():
			in.add(Complaint{Key: f.key, Text: fmt.Sprintf("%s is a directory; name the file", f.path)})
		case secret && info.Mode().Perm()&0o027 != 0:
			in.add(Complaint{Key: f.key, Text: fmt.Sprintf("%s has mode %04o, so that others can get at it; run `chmod 600 %s`", f.path, info.Mode().Perm(), f.path)})
		}
	}
}

// hostAddresses lists the addresses of the host's interfaces.
func hostAddresses() ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out, nil
}

// findAddress takes the host's address that join names, else the only one it
// has. What it returns says why there is none.
func (in *input) findAddress(cfg *Config, local []netip.Addr) string {
	var usable, four, joined []netip.Addr
	for _, ip := range local {
		if ip.IsGlobalUnicast() && !ip.IsLoopback() {
			usable = append(usable, ip)
			if ip.Is4() {
				four = append(four, ip)
			}
		}
	}
	for _, s := range cfg.Gossip.Join {
		host, _, _ := splitJoin(s)
		if ip, err := netip.ParseAddr(host); err == nil && slices.Contains(usable, ip) && !slices.Contains(joined, ip) {
			joined = append(joined, ip)
		}
	}
	from := "the host's only address"
	candidates := usable
	switch {
	case len(joined) > 0:
		candidates, from = joined, "the host's address in gossip.join"
	case len(four) > 0:
		candidates = four
	}
	switch len(candidates) {
	case 1:
		cfg.Address = candidates[0].String()
		in.origins["address"] = from
		return ""
	case 0:
		return `missing, and this host has none that others could reach; for one node alone write address = "127.0.0.1"`
	}
	list := make([]string, len(candidates))
	for i, ip := range candidates {
		list[i] = ip.String()
	}
	return fmt.Sprintf("missing, and this host has several: %s; write the one by which other nodes reach it", strings.Join(list, ", "))
}
