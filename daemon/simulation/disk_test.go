package simulation

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"

	"weedd/volume"
	"weedd/volume/replica"
)

// recordSize is the length of every record. It begins with key, operation and
// kind; the rest repeats the operation, so that bytes differ where records do.
const recordSize = 16

const (
	put byte = 1 + iota
	del
)

type record struct {
	key  volume.Key
	op   uint32
	kind byte
}

func (r record) bytes() []byte {
	b := make([]byte, recordSize)
	binary.BigEndian.PutUint32(b, uint32(r.key))
	binary.BigEndian.PutUint32(b[4:], r.op)
	b[8] = r.kind
	binary.BigEndian.PutUint32(b[12:], r.op)
	return b
}

func parse(b []byte) record {
	return record{volume.Key(binary.BigEndian.Uint32(b)), binary.BigEndian.Uint32(b[4:]), b[8]}
}

// latest finds the newest record of key in a log, and the offset of its end;
// end 0 if there is none.
func latest(log []byte, key volume.Key) (r record, end int64) {
	for at := len(log); at > replica.Origin; at -= recordSize {
		if r = parse(log[at-recordSize : at]); r.key == key {
			return r, int64(at)
		}
	}
	return record{}, 0
}

// disk is one copy as its files are: what the process sees, and what is left of
// that after a crash.
type disk struct {
	copy   volume.CopyID
	data   []byte // .dat, from offset 0
	synced int    // what of data survives for certain

	beforeCut       []byte // of a cut that was not synced yet; nil if none
	beforeCutSynced int

	epochs       []volume.EpochStart
	epochsBefore []volume.EpochStart // of a change that was not synced yet
	epochsLoose  bool

	committed int64 // of the last checkpoint
	failed    bool  // an fsync failed; remembered by a mark
	agreed    int   // how much of data was compared with the truth and found equal

	generation     uint32
	prepared       *prepared // new files, nil for none
	preparedBefore *prepared // of a change that was not synced yet
	preparedLoose  bool
	beforeSwitch   *disk // of a switch that was not synced yet; nil if none
	spoiled        bool  // a test took new files away that were ready
}

// prepared are the new files of a compaction.
type prepared struct {
	what  volume.Compaction
	data  []byte
	ready bool
}

// compacted is a log after compaction: what lives at at, then all the rest.
func compacted(log []byte, at int64) []byte {
	newest := map[volume.Key]int64{}
	for off := int64(replica.Origin); off < at; off += recordSize {
		newest[parse(log[off:]).key] = off
	}
	out := make([]byte, replica.Origin)
	for off := int64(replica.Origin); off < at; off += recordSize {
		if r := parse(log[off:]); newest[r.key] == off && r.kind == put {
			out = append(out, log[off:off+recordSize]...)
		}
	}
	return append(out, log[at:]...)
}

func (d *disk) setPrepared(p *prepared) {
	if !d.preparedLoose {
		d.preparedBefore = d.prepared
	}
	d.prepared, d.preparedLoose = p, true
}

func (d *disk) syncPrepared() { d.preparedBefore, d.preparedLoose = nil, false }

// switchOver puts the new files in the place of the old, which may be undone
// until it is synced.
func (d *disk) switchOver() {
	old := *d
	d.beforeSwitch = &old
	d.generation, d.data, d.prepared = d.prepared.what.Generation, d.prepared.data, nil
	d.synced, d.committed, d.agreed, d.beforeCut = len(d.data), int64(len(d.data)), 0, nil
	d.epochs = d.believed()
}

// believed are the epochs that belong to the files that are there.
func (d *disk) believed() []volume.EpochStart {
	return slices.DeleteFunc(slices.Clone(d.epochs), func(e volume.EpochStart) bool { return e.Generation != d.generation })
}

func newDisk(id volume.CopyID) *disk {
	return &disk{copy: id, data: make([]byte, replica.Origin), synced: replica.Origin}
}

func (d *disk) end() int64 { return int64(len(d.data)) }

func (d *disk) append(b []byte) { d.data = append(d.data, b...) }

func (d *disk) cut(end int64) {
	d.beforeCut, d.beforeCutSynced = slices.Clone(d.data), d.synced
	d.data = slices.Clone(d.data[:end])
	d.synced = min(d.synced, len(d.data))
	d.agreed = min(d.agreed, len(d.data))
}

func (d *disk) sync(upto int) {
	d.synced = max(d.synced, upto)
	d.beforeCut = nil
}

func (d *disk) setEpochs(list []volume.EpochStart) {
	if d.end() == replica.Origin && len(list) > 0 { // its super block says so, before the list does
		d.generation = list[len(list)-1].Generation
	}
	d.epochsBefore, d.epochs, d.epochsLoose = d.epochs, slices.Clone(list), true
}

func (d *disk) syncEpochs() { d.epochsLoose, d.epochsBefore = false, nil }

// crash leaves what a power cut would: of what was not synced any part, in whole
// records, since recovery cuts torn ones.
func (d *disk) crash(rng *rand.Rand) {
	if d.beforeSwitch != nil && rng.IntN(2) == 0 {
		*d = *d.beforeSwitch
	}
	d.beforeSwitch = nil
	if d.beforeCut != nil && rng.IntN(2) == 0 {
		d.data, d.synced, d.agreed = d.beforeCut, d.beforeCutSynced, 0
	}
	d.beforeCut = nil
	left := (len(d.data) - d.synced) / recordSize
	if d.failed {
		left = 0
	}
	d.data = slices.Clone(d.data[:d.synced+recordSize*rng.IntN(left+1)])
	d.synced = len(d.data) // recovery syncs what it trusts
	d.agreed = min(d.agreed, len(d.data))
	if d.epochsLoose && rng.IntN(2) == 0 {
		d.epochs = d.epochsBefore
	}
	d.syncEpochs()
	if d.preparedLoose && rng.IntN(2) == 0 {
		d.prepared = d.preparedBefore
	}
	d.syncPrepared()
	if d.prepared != nil && !d.prepared.ready {
		d.prepared = nil
	}
	d.epochs = d.believed()
}
