package wire

import (
	"cmp"
	"slices"

	"weedd/volume"
)

// VolumeRecord is a volume in the answers of /status and /vol/status. No member
// of the reference's is ever left out.
type VolumeRecord struct {
	Collection        string
	DiskType          string // "" for hdd
	RemoteStorageName string
	ReplicaPlacement  Placement
	Ttl               TTL //nolint:stylecheck // the name is part of the API
	Size              int64
	DeletedByteCount  int64
	ModifiedAtSecond  int64
	Id                volume.ID //nolint:stylecheck // the name is part of the API
	DiskId            int       //nolint:stylecheck // the name is part of the API
	CompactRevision   uint16
	FileCount         uint64
	DeleteCount       uint64
	Version           int
	ReadOnly          bool
	Reason            string `json:",omitempty"` // why it takes no writes; not of the reference
}

// Placement is a volume.Placement as an object: extra copies by distance.
type Placement struct {
	Node int `json:"node,omitempty"`
	Rack int `json:"rack,omitempty"`
	DC   int `json:"dc,omitempty"`
}

// TTL is a volume.TTL as an object, with the unit's code.
type TTL struct {
	Count byte
	Unit  byte
}

// NewVolumeRecord says what a copy reports of itself in the API's words.
func NewVolumeRecord(c volume.CopyReport) VolumeRecord {
	dcs, racks, nodes := c.Spec.Placement.Digits()
	rec := VolumeRecord{
		Collection: c.Spec.Collection, DiskType: string(c.Spec.Disk),
		ReplicaPlacement: Placement{Node: nodes, Rack: racks, DC: dcs},
		Ttl:              TTL{c.Spec.TTL.Count, c.Spec.TTL.Unit},
		Size:             c.Size, DeletedByteCount: c.DeletedB,
		Id: c.Volume, CompactRevision: c.Revision,
		FileCount: c.Files, DeleteCount: c.Deleted,
		Version: cmp.Or(c.Version, 3), ReadOnly: c.ReadOnly || c.State == volume.CopyFailed, Reason: c.Reason,
	}
	if !c.Modified.IsZero() {
		rec.ModifiedAtSecond = c.Modified.Unix()
	}
	return rec
}

// VolumeRecords gives the records of all copies that exist, sorted by volume;
// nil for none, which is null in JSON.
func VolumeRecords(copies []volume.CopyReport) []VolumeRecord {
	var recs []VolumeRecord
	for _, c := range copies {
		if c.State != volume.CopyLost {
			recs = append(recs, NewVolumeRecord(c))
		}
	}
	slices.SortFunc(recs, func(a, b VolumeRecord) int { return cmp.Compare(a.Id, b.Id) })
	return recs
}

// DiskStatus is a data directory in the answer of /status.
type DiskStatus struct {
	Dir         string  `json:"dir"`
	All         uint64  `json:"all"` // bytes
	Used        uint64  `json:"used"`
	Free        uint64  `json:"free"`
	PercentFree float32 `json:"percent_free"`
	PercentUsed float32 `json:"percent_used"`
	DiskType    string  `json:"disk_type,omitempty"` // absent for hdd
	Fenced      string  `json:"fenced,omitempty"`    // why nothing new is put there; ours
}

// NewDiskStatus says what a node reports of a directory in the API's words.
func NewDiskStatus(d volume.DiskReport) DiskStatus {
	s := DiskStatus{Dir: d.Dir, All: d.AllB, Free: min(d.FreeB, d.AllB), DiskType: string(d.Disk), Fenced: d.Fenced}
	s.Used = s.All - s.Free
	if s.All > 0 {
		s.PercentFree = float32(float64(s.Free) / float64(s.All) * 100)
		s.PercentUsed = float32(float64(s.Used) / float64(s.All) * 100)
	}
	return s
}

// Stored is the answer to an upload. Members that are empty or 0 are left out.
type Stored struct {
	Name string `json:"name,omitempty"`
	Size int64  `json:"size,omitempty"` // bytes as uploaded, before compression
	ETag string `json:"eTag,omitempty"` // without quotes
	Mime string `json:"mime,omitempty"`
	MD5  string `json:"contentMd5,omitempty"` // base64, if the client sent one

	Digest string `json:"digest,omitempty"` // of the content as it was sent, as in Content-Digest, if the client wants one; ours
}
