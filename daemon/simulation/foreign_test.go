package simulation

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"os"
	"path"
	"slices"

	"weedd/volume"
	"weedd/volume/replica"
	"weedd/volume/server"
	"weedd/volume/vfs/faultfs"
)

// origin is what SeaweedFS left of a volume on one node.
type origin struct {
	node    volume.NodeID
	disk    *disk
	dat     []byte // as it was left
	end     int64  // of the last record; what follows is torn
	newest  map[volume.Key]written
	begun   bool // it was about to become ours, and perhaps did, by an order that was replaced
	inPlace bool // its files became ours where they are
}

// written is one record of SeaweedFS.
type written struct {
	record
	cookie volume.Cookie
	time   uint64 // it was appended, ns
	more   int    // bytes of the file
}

// untidy says in which ways files of SeaweedFS are not as weedd would have written
// them.
type untidy struct {
	order bool // append times do not rise, as after a vacuum
	index bool // there is none
	torn  bool // the last record is cut off
	cache bool // all of it is in the page cache only
}

// leave puts files of SeaweedFS on a node that has none of that volume.
func (n *node) leave(id volume.ID, p volume.Placement, revision uint16, history []written, u untidy) *origin {
	history = slices.Clone(history)
	o := &origin{node: n.id, newest: map[volume.Key]written{}, dat: []byte{3, byte(p), 0, 0, byte(revision >> 8), byte(revision), 0, 0}}
	for _, r := range history {
		o.newest[r.key] = r
	}
	if i := slices.IndexFunc(history, func(r written) bool { return r.key != history[0].key }); u.order && i > 0 {
		slices.Reverse(history[i-1 : i+1]) // of two keys, so that each key's order stays
	}
	var idx []byte
	for _, r := range history {
		rec := r.encode(r.more, r.time)
		binary.BigEndian.PutUint32(rec, uint32(r.cookie))
		idx = binary.BigEndian.AppendUint64(idx, uint64(r.key))
		idx = binary.BigEndian.AppendUint32(idx, uint32(len(o.dat)/8))
		if size := binary.BigEndian.Uint32(rec[12:]); r.kind == del {
			idx = binary.BigEndian.AppendUint32(idx, ^uint32(0))
		} else {
			idx = binary.BigEndian.AppendUint32(idx, size)
		}
		o.dat = append(o.dat, rec...)
	}
	o.end = int64(len(o.dat))
	if u.torn {
		o.dat = append(o.dat, o.dat[replica.Origin:replica.Origin+24]...)
	}
	o.disk = &disk{node: n, id: id, fs: faultfs.New(n.w.rng.Uint64())}
	o.disk.dat = o.disk.path(".dat")
	o.disk.fs.SetNow(n.now)
	put := func(path string, data []byte) error {
		f, err := o.disk.fs.OpenFile(path, os.O_RDWR|os.O_CREATE)
		if err == nil {
			_, err = f.WriteAt(data, 0)
		}
		if err == nil && !u.cache {
			err = f.Sync()
		}
		return err
	}
	err := errors.Join(o.disk.fs.Mkdir(dataDir), o.disk.fs.SyncDir("/"), put(o.disk.dat, o.dat))
	if !u.index {
		err = errors.Join(err, put(o.disk.path(".idx"), idx))
	}
	if err := errors.Join(err, o.disk.fs.SyncDir(dataDir)); err != nil {
		n.w.fail("%v", err)
	}
	n.disks[id] = o.disk
	o.disk.open()
	if v := o.disk.volume(); v == nil || !v.Foreign() || v.Adoptable() != nil {
		n.w.fail("node %s: what SeaweedFS left of volume %d cannot be adopted", n.id, id)
	}
	n.w.origins[id] = append(n.w.origins[id], o)
	n.w.trace("%s has volume %d from SeaweedFS, %d records, %+v", n.id, id, len(history), u)
	return o
}

// inherit leaves copies of a volume, which differ if so is wanted, on some nodes.
func (w *world) inherit(id volume.ID, differ bool) {
	on := w.rng.Perm(len(w.nodes))[:1+w.rng.IntN(3)]
	conflict := differ && w.chance(0.3)
	placement, revision := volume.Placement(w.rng.IntN(3)), uint16(3*w.rng.IntN(2))
	var all []written
	for range 8 + w.rng.IntN(12) {
		all = append(all, w.nextWritten(volume.Key(100+w.rng.IntN(6)+100*int(id)), w.chance(0.2)))
	}
	for nth, i := range on {
		history := slices.Clone(all)
		if differ {
			history = slices.DeleteFunc(history, func(written) bool { return w.chance(0.2) })
			for range w.rng.IntN(4) {
				history = append(history, w.nextWritten(volume.Key(100+w.rng.IntN(9)+100*int(id)), w.chance(0.3)))
			}
		}
		if len(history) == 0 {
			history = all
		}
		if conflict && nth > 0 {
			other := w.nextWritten(all[0].key, false)
			if history[len(history)-1].key == other.key {
				other.time = history[len(history)-1].time + 1
			}
			other.cookie++
			history = append(history, other)
		}
		w.nodes[i].leave(id, placement, revision, history, untidy{order: w.chance(0.4), index: w.chance(0.3), torn: w.chance(0.3)})
	}
}

// nextWritten is the next thing that somebody wrote to SeaweedFS.
func (w *world) nextWritten(key volume.Key, deleted bool) written {
	w.client.ops++
	r := written{record{key, w.client.ops, put}, cookie(key), 1_600_000_000_000_000_000 + uint64(w.client.ops), 8 * w.rng.IntN(8)}
	if deleted {
		r.kind, r.more = del, 0
	}
	return r
}

// merged is what a volume holds that is made from some of its origins (rule R16), or
// the keys of which they tell two stories.
func (w *world) merged(id volume.ID, from []volume.Source) (files map[volume.Key]record, conflicts []volume.Key) {
	newest := map[volume.Key]written{}
	for _, o := range w.origins[id] {
		if !slices.ContainsFunc(from, func(s volume.Source) bool { return s.Node == o.node }) {
			continue
		}
		for _, key := range slices.Sorted(maps.Keys(o.newest)) {
			r, was := o.newest[key], newest[key]
			switch {
			case was.op != 0 && was.cookie != r.cookie, was.op != 0 && was.time == r.time && was.op != r.op:
				conflicts = append(conflicts, key)
			case was.op == 0 || r.time > was.time:
				newest[key] = r
			}
		}
	}
	files = map[volume.Key]record{}
	for key, r := range newest {
		if r.kind == put {
			files[key] = r.record
		}
	}
	return files, conflicts
}

// adopted is called when the files on a disk have become a copy of ours, be it one
// that is not wanted any more: such a copy is dropped once others have its bytes, and
// with it what it was made of in place.
func (w *world) adopted(id volume.ID, d *disk) {
	dat, _ := d.data()
	for _, o := range w.origins[id] {
		if o.disk == d {
			o.inPlace = bytes.Equal(dat, o.dat[:o.end])
		}
	}
}

// founded is called when the masters have decided that an adopted volume is there:
// its first copy has what its origins hold, and nothing of theirs is gone.
func (w *world) founded(e *volume.Entry) {
	t, h := w.truths[e.Volume], e.InSync[0]
	t.adopting = false
	d := w.node(h.Node).disks[e.Volume]
	if !d.holds(h.Copy) {
		w.fail("R15: volume %d is adopted, and copy %d is not on node %s: %s", e.Volume, h.Copy, h.Node, show(*e))
		return
	}
	w.adopted(e.Volume, d)
	dat, _ := d.data()
	t.append(dat[replica.Origin:])
	t.acked = int64(len(t.log))
	// A copy that an older order made in the moment when it was replaced holds more
	// than the entry says, and never less.
	made := w.madeFrom[h.Copy]
	if slices.ContainsFunc(e.Sources, func(s volume.Source) bool { return !slices.Contains(made, s) }) {
		w.fail("R16: volume %d is said to be made from %v, and is made from %v", e.Volume, e.Sources, made)
		return
	}
	want, conflicts := w.merged(e.Volume, made)
	if have := t.files(); !maps.Equal(have, want) || len(conflicts) > 0 {
		w.fail("R16: volume %d is adopted with %v; its origins hold %v, and contradict each other about %v", e.Volume, have, want, conflicts)
		return
	}
	other := map[volume.Key]bool{} // cookie than clients of the simulation have
	records(t.log, replica.Origin, func(r record, at, _ int64) {
		t.known[r.key] = t.order[r.op]
		other[r.key] = other[r.key] || binary.BigEndian.Uint32(t.log[at:]) != uint32(cookie(r.key))
	})
	for _, key := range slices.Sorted(maps.Keys(other)) {
		if !other[key] {
			w.client.keys = append(w.client.keys, fileKey{e.Volume, key})
		}
	}
	w.adoptions++
}

// checkOrigins makes sure that what SeaweedFS left is where it was, or is in the
// volume: then it became ours as it was, or is kept aside.
func (w *world) checkOrigins() {
	for _, id := range slices.Sorted(maps.Keys(w.origins)) {
		e, t := w.entry(id), w.truths[id]
		for _, o := range w.origins[id] {
			merged := t != nil && !t.adopting && slices.ContainsFunc(e.Sources, func(s volume.Source) bool { return s.Node == o.node })
			seen, _ := o.disk.data()
			switch {
			case w.node(o.node).disks[id] != o.disk: // a disk that was replaced
			case o.disk.volume() != nil && o.disk.volume().Foreign() && o.same(seen):
			case !merged && !o.begun:
				w.fail("R15: what SeaweedFS left of volume %d on node %s is gone from there, and is not in the volume", id, o.node)
			case !o.inPlace && !o.aside(path.Base(o.disk.dat), o.same), o.inPlace && !o.aside("tail", o.tail):
				w.fail("R15: what SeaweedFS left of volume %d on node %s is gone", id, o.node)
			}
		}
	}
}

// same reports whether dat is what was left, with or without its torn end.
func (o *origin) same(dat []byte) bool {
	return bytes.Equal(dat, o.dat) || bytes.Equal(dat, o.dat[:o.end])
}

func (o *origin) tail(b []byte) bool { return bytes.Equal(b, o.dat[o.end:]) }

// aside reports whether a file of that name is durably kept aside that is as wanted.
func (o *origin) aside(name string, wanted func([]byte) bool) bool {
	parent := dataDir + "/aside"
	folders, _ := o.disk.fs.ReadDir(parent) // none is none
	return wanted(nil) || slices.ContainsFunc(folders, func(folder string) bool {
		_, sure := o.disk.fs.Look(path.Join(parent, folder, name))
		return sure != nil && wanted(sure)
	})
}

// stand reports whether the copies of a volume stand as SeaweedFS left them because
// they contradict each other, with the keys named.
func (w *world) stand(e volume.Entry) bool {
	_, conflicts := w.merged(e.Volume, e.Sources)
	lost := w.node(e.Primary).lost[e.Volume]
	return len(conflicts) > 0 && lost.State == volume.CopyFailed && namesAll(lost.Reason, conflicts) && len(w.origins[e.Volume]) == len(w.foreigners(e.Volume))+w.outsiders(e)
}

// outsiders counts the copies that were adopted by an order that was replaced by one
// without their node. They stay as well: nothing tells them from copies of another
// cluster that has a volume of that number.
func (w *world) outsiders(e volume.Entry) (count int) {
	for _, n := range w.nodes {
		v := n.disks[e.Volume].volume()
		named := slices.ContainsFunc(e.Sources, func(s volume.Source) bool { return s.Node == n.id })
		if v != nil && !v.Foreign() && len(w.madeFrom[v.CopyID()]) > 0 && !named {
			count++
		}
	}
	return count
}

// foreigners are the nodes that report files of SeaweedFS of a volume.
func (w *world) foreigners(id volume.ID) (on []volume.NodeID) {
	for _, n := range w.nodes {
		if v := n.disks[id].volume(); v != nil && v.Foreign() {
			on = append(on, n.id)
		}
	}
	return on
}

// foreign reports on the files of SeaweedFS of one volume.
func (n *node) foreign(id volume.ID) (volume.CopyReport, bool) {
	v := n.disks[id].volume()
	if v == nil || !v.Foreign() {
		return volume.CopyReport{}, false
	}
	return server.ForeignReport(v), true
}
