package daemon_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

type layer struct {
	name     string
	closed   bool
	packages []string
}

// layers are the packages from the inside out. A package may import those of
// layers further in. Where a layer is closed, its packages do not import each other
// either: only what is further out ties them.
var layers = []layer{
	{"words", false, []string{"volume", "cluster"}},
	{"pure parts", false, []string{"volume/needle", "volume/vfs", "volume/erasure", "volume/picture", "volume/wire", "volume/rpcwire", "cluster/catalog", "cluster/placement", "cluster/topology"}},
	{"engines", false, []string{"volume/store", "volume/archive", "volume/replica"}},
	{"roles", true, []string{"volume/server", "cluster/master", "cluster/leader"}},
	{"edges", true, []string{"volume/volumehttp", "volume/volumerpc", "cluster/masterhttp", "cluster/clusterrpc", "cluster/consensus", "cluster/gossip",
		"daemon/config", "daemon/internalnet", "daemon/client", "daemon/probe"}},
	{"the process", true, []string{"daemon"}},
	{"programs", true, []string{"daemon/weedd", "volume/volumehttp/benchhttp"}},
	{"for tests", false, []string{"volume/vfs/faultfs", "volume/volumetest", "volume/volumetest/replay", "cluster/master/mastertest", "daemon/client/clienttest", "daemon/daemontest", "daemon/simulation", "cluster/simulation"}},
}

// owners are the libraries that shape what imports them, and the packages that
// may know of each.
var owners = map[string][]string{
	"github.com/hashicorp/raft":           {"cluster/consensus"},
	"github.com/hashicorp/raft-boltdb/v2": {"cluster/consensus"},
	"go.etcd.io/bbolt":                    {"cluster/consensus"},
	"github.com/hashicorp/memberlist":     {"cluster/gossip"},
	"github.com/spf13/viper":              {"daemon/config"},
	"github.com/pelletier/go-toml/v2":     {"daemon/config"},
	"github.com/spf13/cobra":              {"daemon/weedd"},
	"github.com/coreos/go-systemd/v22":    {"daemon"},
	"github.com/julienschmidt/httprouter": {"cluster/masterhttp", "volume/volumehttp", "volume/volumehttp/benchhttp"},
	"github.com/golang-jwt/jwt/v5":        {"volume/wire"},
	"golang.org/x/image":                  {"volume/picture"},
	"google.golang.org/grpc":              {"cluster/clusterrpc", "volume/volumerpc", "volume/rpcwire", "daemon/internalnet", "daemon"},
}

// silent packages hold words and judgement: the same input gives the same
// output, so they can be fuzzed, simulated and replayed.
var silent = []string{"volume", "cluster", "cluster/catalog", "cluster/placement", "cluster/topology", "volume/needle"}

// loud packages of the standard library see the world.
var loud = []string{"net", "net/http", "os", "os/exec", "syscall", "log", "log/slog"}

type goPackage struct {
	ImportPath string
	Imports    []string // of the package itself, not of its tests
}

func listPackages(t *testing.T) (packages []goPackage) {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "weedd/...")
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, complaints.String())
	}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		p.ImportPath = strings.TrimPrefix(p.ImportPath, "weedd/")
		packages = append(packages, p)
	}
}

// layerOf gives the place of a package in layers, -1 for none.
func layerOf(path string) int {
	return slices.IndexFunc(layers, func(l layer) bool { return slices.Contains(l.packages, path) })
}

func TestImportsRunFromTheEdgesInwards(t *testing.T) {
	t.Parallel()
	for _, p := range listPackages(t) {
		from := layerOf(p.ImportPath)
		if from < 0 {
			t.Errorf("%s is in no layer of this test; put it where it belongs", p.ImportPath)
			continue
		}
		for _, path := range p.Imports {
			path, ours := strings.CutPrefix(path, "weedd/")
			if !ours {
				checkLibrary(t, p.ImportPath, path)
				continue
			}
			to := layerOf(path)
			if to > from || to == from && layers[from].closed {
				t.Errorf("%s (%s) imports %s (%s)", p.ImportPath, layers[from].name, path, layers[max(to, 0)].name)
			}
			if tree(p.ImportPath) < tree(path) {
				t.Errorf("%s imports %s: volume/ knows no cluster/, and neither knows daemon/", p.ImportPath, path)
			}
		}
	}
}

// tree ranks the three trees: volume below cluster below daemon.
func tree(path string) int {
	root, _, _ := strings.Cut(path, "/")
	return slices.Index([]string{"volume", "cluster", "daemon"}, root)
}

func checkLibrary(t *testing.T, from, path string) {
	t.Helper()
	if slices.Contains(silent, from) && (slices.Contains(loud, path) || strings.Contains(path, ".")) {
		t.Errorf("%s imports %s, and should neither see the world nor need others' code", from, path)
	}
	owner, longest := []string(nil), ""
	for library, o := range owners {
		if (path == library || strings.HasPrefix(path, library+"/")) && len(library) > len(longest) {
			owner, longest = o, library
		}
	}
	if longest != "" && !slices.Contains(owner, from) {
		t.Errorf("%s imports %s, which only %s should know", from, path, strings.Join(owner, ", "))
	}
}
