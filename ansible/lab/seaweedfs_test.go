//go:build e2e

package lab

import (
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weedd/volume/volumetest"
)

// TestMain also makes the test program a stand-in for SeaweedFS: under the name
// weed it does with ports and directories what "weed master" and "weed volume" do.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "weed" {
		fmt.Fprintln(os.Stderr, standIn(os.Args[1], os.Args[2:]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// standIn holds the volumes of its directory open for writing and answers at its
// port, until somebody ends it.
func standIn(role string, args []string) error {
	flags := flag.NewFlagSet(role, flag.ContinueOnError)
	port := flags.String("port", "", "")
	dir := flags.String("dir", "", "")
	flags.String("mdir", "", "")
	flags.String("mserver", "", "")
	flags.String("ip", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	volumes, err := filepath.Glob(filepath.Join(*dir, "*.dat"))
	if err != nil {
		return err
	}
	for _, v := range volumes {
		f, err := os.OpenFile(v, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
	}
	return http.ListenAndServe(net.JoinHostPort("", *port), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "weed %s with %d volumes", role, len(volumes))
	}))
}

// migrate puts SeaweedFS on empty hosts, and weedd in its place, and goes back.
func (x *story) migrate() {
	x.own = map[string]any{}
	var goldens []*volumetest.Golden
	weed, err := os.Executable()
	if err != nil {
		x.t.Fatal(err)
	}
	for i, h := range hosts {
		at := x.dirOf(h)
		x.own[h] = map[string]any{"ansible_host": addressOf[h], "weedd_disks": []map[string]string{{"path": at + "/2"}}}
		x.lab("wipe", h)
		x.lab("start", h)
		x.giveFile(h, weed, "cat >/home/ops/weed && chmod 755 /home/ops/weed")
		x.lab("exec", h, "mkdir", "-p", at+"/2", at+"/m")
		for _, name := range [][]string{{"v3-basic", "v1-basic"}, {"v3-collection", "v2-basic"}, nil}[i] {
			from := "../../volume/store/testdata/vectors/" + name
			goldens = append(goldens, volumetest.OpenGolden(x.t, from, x.t.TempDir()))
			x.giveFile(h, from+"/files.tar.gz", "tar -xz -C "+at+"/2")
		}
		x.lab("exec", h, "bash", "-c", `chown -R ops:ops "$0/2" "$0/m" && cd "$0" && exec setpriv --reuid ops --regid ops --init-groups bash -c '
			nohup ~ops/weed master -port=9333 -mdir=./m -ip=`+addressOf[h]+` >~ops/master.log 2>&1 &
			nohup ~ops/weed volume -port 8080 -dir=./2 -mserver=`+addresses[0]+`:9333 >~ops/volume.log 2>&1 &'`, at)
	}
	x.members(hosts)
	x.extra = []string{"-e", "@" + x.labVars(nil)}
	began := time.Now()
	x.mustPlay("migrate.yml")
	x.t.Logf("took %v", time.Since(began).Round(time.Second))
	x.holds(5)
	x.goldenReads(goldens)
	x.uploadsEverywhere()
	for _, h := range hosts {
		if out := x.lab("exec", h, "bash", "-c", "pgrep -x weed; stat -c %U "+x.dirOf(h)+"/2"); out != "weedd\n" {
			x.t.Errorf("%s: %s", h, out)
		}
	}
	x.unchanged("migrate.yml")
	x.mustPlay("migrate_back.yml")
	for _, h := range hosts {
		out := x.lab("exec", h, "bash", "-c", "ps -o user=,args= -C weed; systemctl is-active weedd; stat -c %U "+x.dirOf(h)+"/2; curl -s localhost:8080")
		for _, want := range []string{"ops      /home/ops/weed master -port=9333", "ops      /home/ops/weed volume -port 8080 -dir=./2", "inactive\nops\nweed volume with "} {
			if !strings.Contains(out, want) {
				x.t.Errorf("%s: there is no %q in\n%s", h, want, out)
			}
		}
		x.lab("exec", h, "weedd", "volume", "check", x.dirOf(h)+"/2")
	}
	x.mustPlay("migrate.yml") // and forth again
	x.holds(5)
	x.goldenReads(goldens)
}

// dirOf is the directory from which SeaweedFS was started: on one of the hosts, a home.
func (x *story) dirOf(host string) string {
	if host == "weedd2" {
		return "/home/ops"
	}
	return "/srv/data"
}

// goldenReads reads at every address what SeaweedFS had.
func (x *story) goldenReads(goldens []*volumetest.Golden) {
	x.t.Helper()
	for _, g := range goldens {
		for _, v := range g.Volumes {
			for _, n := range v.Needles {
				if n.TTL != "" || n.Flags == "8f" { // expires by the clock; is put together from chunks that are elsewhere
					continue
				}
				for _, a := range addresses {
					code, b, err := attempt("GET", "http://"+a+":8080/"+n.Fid, "", nil)
					sum := sha256.Sum256(b)
					if want := n.HTTP.Get; err != nil || code != want.Status || code == http.StatusOK && hex.EncodeToString(sum[:]) != want.SHA256 {
						x.t.Errorf("%s at %s: %d, %d bytes, %v; want %+v", n.Fid, a, code, len(b), err, want)
					}
				}
			}
		}
	}
}

func (x *story) giveFile(host, file, command string) {
	x.t.Helper()
	f, err := os.Open(file)
	if err != nil {
		x.t.Fatal(err)
	}
	defer f.Close()
	x.give(host, f, command)
}
