package simulation

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/replica"
	"weedd/volume/store"
	"weedd/volume/vfs"
	"weedd/volume/vfs/faultfs"
)

const (
	put byte = 1 + iota
	del
)

// record is what a record of a volume says. The bytes of a file begin with the
// operation that wrote it; a deletion has it in place of a checksum.
type record struct {
	key  volume.Key
	op   uint32
	kind byte
}

// encode gives the record as it is stored, with so many bytes more.
func (r record) encode(more int, appended uint64) []byte {
	n := needle.Needle{Key: r.key, Cookie: cookie(r.key), AppendedAt: appended}
	if n.Tombstone = r.kind == del; n.Tombstone {
		n.Checksum = r.op
	} else {
		n.Data = binary.BigEndian.AppendUint32(nil, r.op)
		n.Data = append(n.Data, bytes.Repeat(n.Data[3:], more)...)
	}
	b, err := needle.Append(nil, &n)
	if err != nil {
		panic(err)
	}
	return b
}

func cookie(key volume.Key) volume.Cookie { return volume.Cookie(key ^ 0xc00c1e) }

// parse reads the record that b begins with.
func parse(b []byte) (r record, length int64) {
	h := needle.ParseHeader(b)
	r = record{h.Key, binary.BigEndian.Uint32(b[needle.HeaderSize:]), del}
	if h.Size > 0 {
		r.kind, r.op = put, binary.BigEndian.Uint32(b[needle.HeaderSize+4:])
	}
	return r, needle.Length(h.Size, needle.V3)
}

// records calls do for every record of a log from an offset on, with where it
// begins and ends.
func records(log []byte, from int64, do func(r record, at, end int64)) {
	for at := from; at < int64(len(log)); {
		r, length := parse(log[at:])
		do(r, at, at+length)
		at += length
	}
}

// compacted is a log after compaction: what lives at at, then all the rest.
func compacted(log []byte, at int64) []byte {
	newest := map[volume.Key]int64{}
	records(log[:at], replica.Origin, func(r record, at, _ int64) { newest[r.key] = at })
	out := bytes.Clone(log[:replica.Origin])
	records(log[:at], replica.Origin, func(r record, at, end int64) {
		if newest[r.key] == at && r.kind == put {
			out = append(out, log[at:end]...)
		}
	})
	return append(out, log[at:]...)
}

// sameRecords compares two logs, or the fronts of two, without their super blocks:
// those differ with the generation.
func sameRecords(a, b []byte) bool { return bytes.Equal(a[replica.Origin:], b[replica.Origin:]) }

// disk is where a node keeps one volume: a store of its own in a file system of its
// own. Runs of the process follow each other on it.
type disk struct {
	node  *node
	id    volume.ID
	fs    *faultfs.FS
	store *store.Store
	dat   string // path of .dat

	// How much of .dat, as it is seen and as it is after any crash, was compared
	// with the truth and found equal.
	agreed, kept int64

	spoiled bool // a test has taken something away
	humble  bool // an fsync failed in recovery: the copy claims only what is certain, and can never lead
}

const dataDir = "/volumes"

func (n *node) newDisk(id volume.ID) *disk {
	d := &disk{node: n, id: id, fs: faultfs.New(n.w.rng.Uint64())}
	d.dat = d.path(".dat")
	d.fs.SetNow(n.now)
	d.open()
	return d
}

// open opens the store as a process does that starts. It fails only if the
// process dies or an fsync fails meanwhile.
func (d *disk) open() {
	d.agreed, d.kept = 0, 0
	d.fs.SetFault(d.node.fault)
	failures := d.node.failures
	s, err := store.Open(store.Options{
		FS: d.fs, Dirs: []store.Dir{{Path: dataDir, Init: true}}, Ledger: d.node.ledger, Log: slog.New(slog.DiscardHandler), Now: d.node.now,
	})
	d.store = s
	d.humble = d.humble || d.node.failures > failures
	switch {
	case d.node.dying || d.node.failures > failures:
	case err != nil:
		d.node.w.fail("node %s cannot open the store of volume %d: %v", d.node.id, d.id, err)
	default:
		d.trusted()
	}
}

// trusted makes sure that what a crash leaves is never taken for damage.
func (d *disk) trusted() {
	for _, a := range d.store.Aside() {
		if !a.Moved && !d.spoiled {
			d.node.w.fail("R4: node %s sets %s aside after a crash: %s", d.node.id, a.Path, a.Reason)
		}
	}
}

// volume is the copy that is there, nil for none.
func (d *disk) volume() *store.Volume {
	if d == nil || d.store == nil {
		return nil
	}
	v, err := d.store.Volume(d.id)
	if err != nil {
		return nil
	}
	return v
}

// holds reports whether the copy is there.
func (d *disk) holds(id volume.CopyID) bool {
	v := d.volume()
	return v != nil && v.CopyID() == id
}

func (d *disk) path(ext string) string { return fmt.Sprintf("%s/%d%s", dataDir, d.id, ext) }

// data gives .dat: as it is seen, and what of it is there after any crash.
func (d *disk) data() (seen, durable []byte) { return d.fs.Look(d.dat) }

// shortened is to be called when .dat was cut.
func (d *disk) shortened(end int64) { d.agreed, d.kept = min(d.agreed, end), min(d.kept, end) }

// generation is that of .dat, by its super block.
func generation(dat []byte) uint32 {
	if len(dat) < replica.Origin {
		return 0
	}
	return uint32(binary.BigEndian.Uint16(dat[4:]))
}

// prepared gives the new files that are ready.
func (d *disk) prepared() (c volume.Compaction, dat []byte, ok bool) {
	v := d.volume()
	if v == nil {
		return c, nil, false
	}
	c, length, _, ok := v.Prepared()
	_, dat = d.fs.Look(d.path(".cpd"))
	if _, mark := d.fs.Look(d.path(".wcpr")); mark == nil || int64(len(dat)) != length {
		return c, dat, false
	}
	return c, dat, ok
}

// tidy reports whether no new files are left over.
func (d *disk) tidy() bool {
	for _, ext := range []string{".cpd", ".cpx", ".wcpr", ".cpc"} {
		if seen, _ := d.fs.Look(d.path(ext)); seen != nil {
			return false
		}
	}
	return true
}

// change is a test's own doing, as of a broken disk, while the process is down. The
// copy is opened anew.
func (d *disk) change(do func(fs *faultfs.FS) error) {
	d.fs = d.fs.Kill()
	d.fs.SetFault(nil)
	if err := do(d.fs); err != nil {
		d.node.w.fail("%v", err)
	}
	d.open()
}

// forget takes away all that says how much is committed.
func (d *disk) forget(fs *faultfs.FS) error {
	return errors.Join(fs.Remove(d.path(".wckpt")), vfs.Replace(fs, d.path(".idx"), nil))
}

// faults of the file systems.

var errFsync = errors.New("input/output error")

// fault decides about every operation on the disks of a node.
func (n *node) fault(op faultfs.Op) error {
	if n.dieIn > 0 && !n.dying {
		if n.dieIn--; n.dieIn == 0 {
			n.dying = true
			n.w.trace("%s dies in %s %s", n.id, op.Kind, op.Path)
		}
	}
	switch {
	case n.dying:
		return faultfs.ErrCrashed
	case op.Kind == faultfs.Sync && n.w.client.failNext[n.id] && strings.HasSuffix(op.Path, n.failOnly):
		delete(n.w.client.failNext, n.id)
		n.failures++
		n.mishap = n.w.now
		n.dieIn = 0 // a process that dies before it has noted the failure cannot be helped
		n.w.trace("%s: fsync FAILS of %s", n.id, op.Path)
		return errFsync
	}
	return nil
}

// now is the clock of a node.
func (n *node) now() time.Time { return time.Unix(1_700_000_000, 0).Add(n.w.now) }
