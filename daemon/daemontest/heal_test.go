package daemontest_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"weedd/daemon/daemontest"
	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/store"
	"weedd/volume/vfs"
)

// A copy comes back with other bytes than its primary's, as long as those, and
// in itself without a fault: neither it nor its node knows. The two become equal
// again with nobody typing anything, and the other bytes are kept aside.
func TestACopyWithOtherBytesIsMadeEqualAgain(t *testing.T) {
	c := daemontest.Start(t, 3)
	data := bytes.Repeat([]byte("right"), 1000)
	fid, err := c.Nodes[0].Submit("replication=001", data)
	if err != nil {
		t.Fatal(err)
	}
	id, err := volume.ParseFileID(fid)
	if err != nil {
		t.Fatal(err)
	}
	var e volume.Entry
	for _, v := range c.AwaitWhole().Volumes {
		if v.Entry.Volume == id.Volume {
			e = v.Entry
		}
	}
	bad := e.InSync[0]
	if bad.Node == e.Primary {
		bad = e.InSync[1]
	}
	var n *daemontest.Node
	for _, other := range c.Nodes {
		if other.Self.ID == bad.Node {
			n = other
		}
	}
	n.Stop()
	dir := n.Config.Volume.Disks[0].Path
	forge(t, dir, e.Volume)
	n.Start()
	c.Await("another copy in its place, and the old one set aside", func() error {
		v, err := c.View()
		if err != nil {
			return err
		}
		for _, vol := range v.Volumes {
			if h, _, ok := vol.Entry.Holder(bad.Node); vol.Entry.Volume == e.Volume && ok && h.Copy == bad.Copy {
				return errors.New("the entry names it still")
			}
		}
		kept, err := filepath.Glob(filepath.Join(dir, "aside", fmt.Sprintf("%d-%s-*", e.Volume, bad.Copy), "*.dat"))
		if len(kept) != 1 {
			return fmt.Errorf("set aside: %v, %v", kept, err)
		}
		return nil
	})
	c.AwaitWhole()
	if got, err := n.Read(fid); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read where the bytes were others: %.20q, %v", got, err)
	}
}

// forge replaces a copy by one with the same id, epochs and length, and other
// data in each record.
func forge(t *testing.T, dir string, id volume.ID) {
	t.Helper()
	s, err := store.Open(store.Options{FS: vfs.OS{}, Dirs: []store.Dir{{Path: dir, Max: 40}}, Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(errors.Join(err, s.Close()))
		}
	}
	v, err := s.Volume(id)
	must(err)
	raw := make([]byte, v.End())
	_, err = v.ReadAt(raw, 0)
	must(err)
	var forged []byte
	for b := raw[store.SuperBlockSize:]; len(b) > 0; {
		length := needle.Length(needle.ParseHeader(b).Size, needle.V3)
		var n needle.Needle
		must(n.Decode(b[:length], needle.V3))
		n.Data = bytes.ToUpper(n.Data)
		forged, err = needle.Append(forged, &n)
		must(err)
		b = b[length:]
	}
	spec, copied, epochs := v.Spec(), v.CopyID(), v.Epochs()
	must(s.Remove(id, copied))
	v, err = s.Create(id, spec, copied)
	must(err)
	must(v.SetEpochs(epochs))
	must(v.Append(forged))
	durable, err := v.Sync()
	must(err)
	v.Publish(durable)
	if durable != int64(len(raw)) {
		t.Errorf("%d bytes in place of %d", durable, len(raw))
	}
	must(s.Close())
}
