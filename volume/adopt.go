package volume

import (
	"encoding/binary"
	"hash/fnv"
	"slices"
)

// Source is a foreign copy of a volume: files that SeaweedFS left on a node, from
// which the cluster's own volume of the same number is made (rules R15, R16).
type Source struct {
	Node  NodeID `json:"node"`
	Print uint64 `json:"print"` // see CopyReport.Print
}

// Print tells foreign copies apart: it differs when the files were changed in
// any way that shows in a report. It is no checksum.
func (r CopyReport) Print() uint64 {
	h := fnv.New64a()
	var b []byte
	for _, n := range []uint64{uint64(r.Volume), uint64(r.Size), r.Files, r.Deleted, uint64(r.DeletedB), uint64(r.MaxKey), uint64(r.Revision), uint64(r.Version)} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	h.Write(append(b, r.Spec.Collection...)) // a hash never fails
	return h.Sum64()
}

// Adopted reports whether the volume was made from files of SeaweedFS. Such a
// volume is given no new ids.
func (e Entry) Adopted() bool { return len(e.Sources) > 0 }

// From reports whether the volume was made from the foreign copy with this print
// on node, so that nothing is in that copy alone.
func (e Entry) From(node NodeID, print uint64) bool {
	return slices.Contains(e.Sources, Source{node, print})
}
