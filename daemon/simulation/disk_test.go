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
	d.epochsBefore, d.epochs, d.epochsLoose = d.epochs, slices.Clone(list), true
}

func (d *disk) syncEpochs() { d.epochsLoose, d.epochsBefore = false, nil }

// crash leaves what a power cut would: of what was not synced any part, in whole
// records, since recovery cuts torn ones.
func (d *disk) crash(rng *rand.Rand) {
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
}
