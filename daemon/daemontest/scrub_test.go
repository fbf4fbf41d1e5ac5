package daemontest_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"weedd/daemon/config"
	"weedd/daemon/daemontest"
	"weedd/volume"
)

// copyOf is the path of a volume's .dat at a node; "" if it has none.
func copyOf(n *daemontest.Node, id volume.ID) string {
	for _, d := range n.Config.Volume.Disks {
		for _, name := range []string{"%d.dat", "*_%d.dat"} { // the second with a collection
			there, err := filepath.Glob(filepath.Join(d.Path, fmt.Sprintf(name, id)))
			if err == nil && len(there) > 0 {
				return there[0]
			}
		}
	}
	return ""
}

// flip changes one byte in the middle of data, where it lies in a file.
func flip(t *testing.T, path string, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(whole, data)
	if at < 0 {
		t.Fatalf("%s does not hold %.20q", path, data)
	}
	at += len(data) / 2
	if _, err := f.WriteAt([]byte{whole[at] ^ 0x20}, int64(at)); err != nil {
		t.Fatal(err)
	}
}

// metric reads one number of a node's volume role.
func metric(n *daemontest.Node, name string) (float64, error) {
	_, text, err := n.Do(http.MethodGet, "/metrics", nil)
	if err != nil {
		return 0, err
	}
	m := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("no metric %s", name)
	}
	return strconv.ParseFloat(string(m[1]), 64)
}

// stored uploads one file for each letter, and returns them by id in order.
func stored(t *testing.T, n *daemontest.Node, query string, count int) (fids []string, data [][]byte) {
	t.Helper()
	for i := range count {
		body := bytes.Repeat(fmt.Appendf(nil, "letter %c of file %d ", 'a'+i, i*7919), 100)
		fid, err := n.Submit(query, body)
		if err != nil {
			t.Fatal(err)
		}
		fids, data = append(fids, fid), append(data, body)
	}
	return fids, data
}

func volumeOf(t *testing.T, fid string) volume.ID {
	t.Helper()
	id, err := volume.ParseFileID(fid)
	if err != nil {
		t.Fatal(err)
	}
	return id.Volume
}

// Records go bad on one disk while all daemons run: a read is answered with the
// right bytes and has its record repaired, a scrub repairs the record that nobody
// read, and both are counted.
func TestDamageIsRepairedFromTheOtherCopy(t *testing.T) {
	t.Parallel()
	c := daemontest.Start(t, 3, func(_ int, c *config.Config) { c.Master.WritableVolumes = 1 })
	fids, data := stored(t, c.Nodes[0], "replication=001", 6)
	c.AwaitWhole()
	read, silent := 0, 0
	for i := range fids { // two files of one volume
		if volumeOf(t, fids[i]) == volumeOf(t, fids[0]) {
			silent = i
		}
	}
	if silent == read {
		t.Fatal("no two files in one volume")
	}
	id := volumeOf(t, fids[read])
	var n *daemontest.Node
	for _, other := range c.Nodes {
		if copyOf(other, id) != "" {
			n = other
		}
	}
	path := copyOf(n, id)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	healed := func() error {
		if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, good) {
			return fmt.Errorf("%s is not as it was written: %v", path, err)
		}
		return nil
	}
	flip(t, path, data[read])
	if got, err := n.Read(fids[read]); err != nil || !bytes.Equal(got, data[read]) {
		t.Errorf("read of a damaged record: %d bytes, %v", len(got), err)
	}
	c.Await("the record that was read is repaired", healed)

	flip(t, path, data[silent])
	if status, body, err := n.Do(http.MethodPost, "/admin/scrub", nil); err != nil || status/100 != 2 {
		t.Fatalf("scrub: %d %s %v", status, body, err)
	}
	c.Await("the record that nobody read is repaired", healed)
	c.Await("both are counted", func() error {
		for _, name := range []string{"weedd_volume_damage_total", "weedd_volume_repaired_total"} {
			if v, err := metric(n, name); err != nil || v != 2 {
				return fmt.Errorf("%s is %v, %v", name, v, err)
			}
		}
		return nil
	})
	sameFiles(t, c)
	for i, fid := range fids {
		if got, err := n.Read(fid); err != nil || !bytes.Equal(got, data[i]) {
			t.Errorf("%s: %d bytes, %v", fid, len(got), err)
		}
	}
}

// Damage to the only copy cannot be repaired: it is told where operators look,
// after a restart too, and the other files are served.
func TestDamageToTheOnlyCopyIsTold(t *testing.T) {
	t.Parallel()
	c := daemontest.Start(t, 1, func(_ int, c *config.Config) { c.Master.WritableVolumes = 1 })
	n := c.Nodes[0]
	fids, data := stored(t, n, "", 3)
	id := volumeOf(t, fids[0])
	flip(t, copyOf(n, id), data[0])
	if got, err := n.Read(fids[0]); err == nil {
		t.Errorf("read of damaged bytes: %.40q", got)
	}
	told := func() error {
		v, err := c.View()
		if err != nil {
			return err
		}
		var damaged int
		for _, vol := range v.Volumes {
			for _, at := range vol.Copies {
				if at.Report != nil && vol.Entry.Volume == id {
					damaged = at.Report.Damaged
				}
			}
		}
		for _, p := range v.Problems {
			if p.Severity == "error" && strings.Contains(p.What, fmt.Sprintf("volume %d: 1 record", id)) && damaged == 1 {
				return nil
			}
		}
		return fmt.Errorf("%d records reported, problems: %v", damaged, v.Problems)
	}
	c.Await("the damage shows after a read", told)
	if v, err := metric(n, "weedd_volume_damaged_records"); err != nil || v != 1 {
		t.Errorf("damaged records: %v, %v", v, err)
	}
	scrub := func() {
		if status, body, err := n.Do(http.MethodPost, "/admin/scrub", nil); err != nil || status/100 != 2 {
			t.Fatalf("scrub: %d %s %v", status, body, err)
		}
		c.Await("the scrub is over", func() error {
			_, body, err := n.Do(http.MethodGet, "/admin/scrub", nil)
			if err == nil && (bytes.Contains(body, []byte(`"running"`)) || bytes.Contains(body, []byte(`"waiting"`)) || !bytes.Contains(body, []byte(`"bad":1`))) {
				err = errors.New(string(body))
			}
			return err
		})
	}
	scrub()
	c.Await("it shows after a scrub", told)
	n.Kill()
	n.Start()
	c.AwaitReady()
	c.Await("it shows after a restart", told)
	for i := 1; i < 3; i++ {
		if got, err := n.Read(fids[i]); err != nil || !bytes.Equal(got, data[i]) {
			t.Errorf("%s: %d bytes, %v", fids[i], len(got), err)
		}
	}
	flip(t, copyOf(n, id), data[0][:len(data[0])/2-4]) // elsewhere in the same record
	scrub()
	c.Await("a second bad byte is no second record", told)
}
