package daemontest_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"weedd/cluster"
	"weedd/daemon/config"
	"weedd/daemon/daemontest"
	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/volumetest"
)

// seaweedFile is one write, or deletion, that a copy of a volume has got.
type seaweedFile struct {
	key    volume.Key
	at     int // seconds
	data   string
	cookie volume.Cookie // 0 is the usual one
}

const usualCookie = 0x0badcafe

// seaweedVolume writes the files of one copy of a volume as SeaweedFS does; data
// "-" is a deletion.
func seaweedVolume(t *testing.T, dir string, id volume.ID, placement volume.Placement, files ...seaweedFile) {
	t.Helper()
	dat, idx := []byte{3, byte(placement), 0, 0, 0, 0, 0, 0}, []byte(nil)
	for _, f := range files {
		n := needle.Needle{Key: f.key, Cookie: f.cookie, Data: []byte(f.data), AppendedAt: uint64(1700000000+f.at) * uint64(time.Second), Tombstone: f.data == "-"}
		if n.Cookie == 0 {
			n.Cookie = usualCookie
		}
		size := int32(n.BodySize(needle.V3))
		if n.Tombstone {
			n.Data, size = nil, -1
		}
		idx = binary.BigEndian.AppendUint64(idx, uint64(f.key))
		idx = binary.BigEndian.AppendUint32(idx, uint32(len(dat)/8))
		idx = binary.BigEndian.AppendUint32(idx, uint32(size))
		var err error
		if dat, err = needle.Append(dat, &n); err != nil {
			t.Fatal(err)
		}
	}
	for ext, data := range map[string][]byte{".dat": dat, ".idx": idx} {
		if err := os.WriteFile(filepath.Join(dir, id.String()+ext), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func fidOf(id volume.ID, key volume.Key) string {
	return volume.FileID{Volume: id, Key: key, Cookie: usualCookie}.String()
}

// Three daemons are put over directories of SeaweedFS. Every volume whose number
// is free becomes the cluster's: whole, with the files that any copy had, and
// writable for those files alone. Copies that contradict each other stay what
// they are.
func TestDirectoriesOfSeaweedFSAreAdopted(t *testing.T) {
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	var goldens []*volumetest.Golden
	for _, name := range []string{"v3-basic", "v3-collection", "v2-basic", "v1-basic"} {
		goldens = append(goldens, volumetest.OpenGolden(t, "../../volume/store/testdata/vectors/"+name, dirs[0]))
	}
	one, two := seaweedFile{key: 1, at: 10, data: "one"}, seaweedFile{key: 2, at: 20, data: "two"}
	// Alike but for clocks and order; each lacks something; each has the newer of something.
	seaweedVolume(t, dirs[0], 50, 1, one, two)
	seaweedVolume(t, dirs[2], 50, 1, seaweedFile{key: 2, at: 9, data: "two"}, seaweedFile{key: 1, at: 30, data: "one"})
	seaweedVolume(t, dirs[0], 51, 1, one, two, seaweedFile{key: 3, at: 30, data: "three"}, seaweedFile{key: 4, at: 40, data: "old"}, seaweedFile{key: 6, at: 41, data: "gone"})
	seaweedVolume(t, dirs[1], 51, 1, one, two, seaweedFile{key: 4, at: 50, data: "new"}, seaweedFile{key: 5, at: 51, data: "five"}, seaweedFile{key: 6, at: 52, data: "-"})
	seaweedVolume(t, dirs[1], 52, 1, one, two) // its other copy is lost
	seaweedVolume(t, dirs[1], 60, 1, one)
	seaweedVolume(t, dirs[2], 60, 1, seaweedFile{key: 1, at: 11, data: "one", cookie: 7})
	before := volumetest.Files(t, dirs[2])
	c := daemontest.Start(t, 3, func(i int, cfg *config.Config) { cfg.Volume.Disks = []config.Disk{{Path: dirs[i], Max: 60}} })

	adopted := []volume.ID{1, 3, 4, 20, 21, 50, 51, 52}
	c.Await("the volumes are adopted and whole", func() error {
		v, err := allAdopted(c, adopted)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(v.Problems, func(p cluster.ViewProblem) bool {
			return strings.Contains(p.What, "volume 60 cannot be adopted") && strings.Contains(p.What, "cookies")
		}) {
			return fmt.Errorf("nothing is said of volume 60: %v", v.Problems)
		}
		return nil
	})
	want := map[string]string{
		fidOf(50, 1): "one", fidOf(50, 2): "two", fidOf(51, 1): "one", fidOf(51, 2): "two", fidOf(51, 3): "three", fidOf(51, 4): "new",
		fidOf(51, 5): "five", fidOf(51, 6): "", fidOf(52, 2): "two",
	}
	for _, n := range c.Nodes {
		for fid, data := range want {
			wantRead(t, n, fid, data)
		}
		for _, g := range goldens {
			readAdopted(t, n, g)
		}
	}
	wantRead(t, c.Nodes[1], fidOf(60, 1), "one") // still served as it is
	for name, was := range before {
		if now := volumetest.Files(t, dirs[2])[name]; strings.HasPrefix(name, "60.") && now != was {
			t.Errorf("%s was changed", name)
		}
	}
	overwriteAndDelete(t, c)
	noNewIDs(t, c, append(adopted, 60))

	// What was adopted is as good as any other volume: it survives a kill.
	c.Nodes[0].Kill()
	c.Nodes[0].Start()
	c.Await("the volumes are whole again", func() error { _, err := allAdopted(c, adopted); return err })
	wantRead(t, c.Nodes[0], fidOf(50, 1), "another")
	wantRead(t, c.Nodes[0], fidOf(51, 4), "new")
	wantRead(t, c.Nodes[0], fidOf(51, 3), "")
}

func allAdopted(c *daemontest.Cluster, ids []volume.ID) (cluster.View, error) {
	v, err := c.View()
	for _, id := range ids {
		if err == nil {
			err = adoptedWhole(v, id)
		}
	}
	return v, err
}

// adoptedWhole checks that a volume is one of the cluster's, as adopted volumes
// are.
func adoptedWhole(v cluster.View, id volume.ID) error {
	i := slices.IndexFunc(v.Volumes, func(vol cluster.ViewVolume) bool { return vol.Entry.Volume == id })
	switch {
	case i < 0:
		return fmt.Errorf("volume %d is not in the catalog: %v", id, v.Problems)
	case v.Volumes[i].Entry.State != volume.StateFull:
		return fmt.Errorf("volume %d is %s: %v", id, v.Volumes[i].Entry.State, v.Problems)
	}
	return daemontest.Whole(v.Volumes[i])
}

func wantRead(t *testing.T, n *daemontest.Node, fid, data string) {
	t.Helper()
	status, body, err := n.Do(http.MethodGet, "/"+fid, nil)
	if err != nil || data == "" && status != http.StatusNotFound || data != "" && (status != http.StatusOK || string(body) != data) {
		t.Errorf("GET /%s: %d %q %v, want %q", fid, status, body, err, data)
	}
}

// readAdopted checks that files are served as SeaweedFS served them.
func readAdopted(t *testing.T, n *daemontest.Node, g *volumetest.Golden) {
	t.Helper()
	for _, v := range g.Volumes {
		for _, needle := range v.Needles {
			if needle.TTL != "" || needle.Flags == "8f" {
				continue
			}
			status, body, err := n.Do(http.MethodGet, "/"+needle.Fid, nil)
			sum := sha256.Sum256(body)
			if want := needle.HTTP.Get; err != nil || status != want.Status || status == http.StatusOK && hex.EncodeToString(sum[:]) != want.SHA256 {
				t.Errorf("GET /%s: %d, %d bytes, %v; want %+v", needle.Fid, status, len(body), err, want)
			}
		}
	}
}

func overwriteAndDelete(t *testing.T, c *daemontest.Cluster) {
	t.Helper()
	for i, fid := range []string{fidOf(50, 1), fidOf(51, 5), fidOf(52, 1)} {
		if status, body, err := c.Nodes[i].Do(http.MethodPut, "/"+fid, []byte("another")); err != nil || status != http.StatusCreated {
			t.Errorf("PUT /%s: %d %s %v", fid, status, body, err)
		}
	}
	for i, fid := range []string{fidOf(50, 2), fidOf(51, 3)} {
		if status, body, err := c.Nodes[i].Do(http.MethodDelete, "/"+fid, nil); err != nil || status != http.StatusAccepted {
			t.Errorf("DELETE /%s: %d %s %v", fid, status, body, err)
		}
	}
	for _, n := range c.Nodes {
		wantRead(t, n, fidOf(50, 1), "another")
		wantRead(t, n, fidOf(51, 5), "another")
		wantRead(t, n, fidOf(52, 1), "another")
		wantRead(t, n, fidOf(50, 2), "")
		wantRead(t, n, fidOf(51, 3), "")
	}
}

// noNewIDs checks that new files go elsewhere, with keys that no adopted volume
// has.
func noNewIDs(t *testing.T, c *daemontest.Cluster, adopted []volume.ID) {
	t.Helper()
	for i := range 6 {
		fid, err := c.Nodes[i%3].Submit("replication=001", []byte("new"))
		if err != nil {
			t.Fatal(err)
		}
		id, err := volume.ParseFileID(fid)
		if err != nil || slices.Contains(adopted, id.Volume) {
			t.Errorf("%s was given out, %v", fid, err)
		}
		wantRead(t, c.Nodes[0], fid, "new")
	}
}

// Files end by their time to live, and a volume of which all have ended is dropped
// through the catalog; one in which something lives stays. The files are of
// SeaweedFS, and old: so no clock has to be moved.
func TestVolumesEndByTheirTimeToLive(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	now := int(time.Now().Unix() - 1700000000)
	for id, files := range map[volume.ID][]seaweedFile{
		70: {{key: 1, at: now - 7300, data: "one"}, {key: 2, at: now - 7200, data: "two"}},
		71: {{key: 1, at: now - 7200, data: "one"}, {key: 2, at: now, data: "two"}},
	} {
		seaweedVolume(t, dir, id, 0, files...)
		f, err := os.OpenFile(filepath.Join(dir, id.String()+".dat"), os.O_RDWR, 0)
		if err == nil {
			_, err = f.WriteAt([]byte{1, 2}, 2) // an hour
		}
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	c := daemontest.Start(t, 1, func(i int, cfg *config.Config) { cfg.Volume.Disks = []config.Disk{{Path: dir, Max: 60}} })
	n := c.Nodes[0]
	c.Await("the volume whose time is over is deleted, the other adopted", func() error {
		v, err := c.View()
		if err == nil {
			err = adoptedWhole(v, 71)
		}
		if err != nil {
			return err
		}
		if slices.ContainsFunc(v.Volumes, func(v cluster.ViewVolume) bool { return v.Entry.Volume == 70 }) {
			return errors.New("the catalog has it")
		}
		if left, err := filepath.Glob(filepath.Join(dir, "70.*")); err != nil || len(left) > 0 {
			return fmt.Errorf("left: %v %v", left, err)
		}
		if status, body, err := n.Master(http.MethodGet, "/dir/lookup?volumeId=70"); err != nil || status != http.StatusNotFound {
			return fmt.Errorf("lookup: %d %s %v", status, body, err)
		}
		return nil
	})
	if !strings.Contains(n.Log(), "is over: it is deleted soon") {
		t.Error("nothing was logged of the volume whose time was over when it was adopted")
	}
	wantRead(t, n, fidOf(70, 2), "")
	wantRead(t, n, fidOf(71, 1), "")
	wantRead(t, n, fidOf(71, 2), "two")
}
