package daemontest_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"weedd/daemon/config"
	"weedd/daemon/daemontest"
	"weedd/volume/volumetest"
)

// A directory of SeaweedFS is put under a daemon that is told to adopt nothing. Its files are served,
// its volumes take no writes, new files find room in others beside them, and
// what SeaweedFS wrote is there unchanged when the daemon has stopped.
func TestADaemonServesADirectoryOfSeaweedFS(t *testing.T) {
	var goldens []*volumetest.Golden
	dir := t.TempDir()
	for _, name := range []string{"v3-basic", "v3-collection", "v2-basic", "v1-basic"} {
		goldens = append(goldens, volumetest.OpenGolden(t, "../../volume/store/testdata/vectors/"+name, dir))
	}
	before := volumetest.Files(t, dir)
	c := daemontest.Start(t, 1, func(_ int, cfg *config.Config) {
		cfg.Volume.Disks, cfg.Master.Adopt = []config.Disk{{Path: dir, Max: 40}}, false
	})
	n := c.Nodes[0]
	var fids []string
	for range 5 {
		fid, err := n.Submit("", []byte("new"))
		if err != nil {
			t.Fatal(err)
		}
		fids = append(fids, fid)
	}
	for run := range 2 { // to the second one the directory is known
		if run > 0 {
			n.Start()
			c.AwaitReady()
		}
		for _, g := range goldens {
			readGolden(t, n, g)
		}
		for _, fid := range fids {
			if got, err := n.Read(fid); err != nil || string(got) != "new" {
				t.Errorf("%s: %q %v", fid, got, err)
			}
		}
		n.Stop()
		wantUntouched(t, before, volumetest.Files(t, dir))
	}
}

// wantUntouched checks that the files that were there are as they were, and that
// no file of ours has come to their volumes.
func wantUntouched(t *testing.T, before, after map[string]volumetest.DirFile) {
	t.Helper()
	for name, was := range before {
		if now := after[name]; now != was {
			t.Errorf("%s was changed: %d bytes before, %d after", name, len(was.Data), len(now.Data))
		}
	}
	for name := range after {
		base := strings.TrimSuffix(name, filepath.Ext(name))
		_, old := before[name]
		if _, theirs := before[base+".dat"]; theirs && !old {
			t.Errorf("%s was made beside files of SeaweedFS", name)
		}
	}
}

func readGolden(t *testing.T, n *daemontest.Node, g *volumetest.Golden) {
	t.Helper()
	for _, v := range g.Volumes {
		for _, needle := range v.Needles {
			if needle.TTL != "" || needle.Flags == "8f" { // expires by the real clock; the list of chunks is served instead of them
				continue
			}
			status, body, err := n.Do(http.MethodGet, "/"+needle.Fid, nil)
			sum := sha256.Sum256(body)
			if want := needle.HTTP.Get; err != nil || status != want.Status || hex.EncodeToString(sum[:]) != want.SHA256 {
				t.Errorf("GET /%s: %d, %d bytes, %v; want %+v", needle.Fid, status, len(body), err, want)
			}
		}
		fid := v.Needles[0].Fid
		for _, method := range []string{http.MethodPut, http.MethodDelete} {
			if status, body, err := n.Do(method, "/"+fid, []byte("no")); err != nil || status != http.StatusInternalServerError || !bytes.Contains(body, []byte("read-only")) {
				t.Errorf("%s /%s: %d %s %v", method, fid, status, body, err)
			}
		}
	}
}
