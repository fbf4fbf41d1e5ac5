package masterhttp

import (
	"cmp"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"weedd/cluster"
	"weedd/cluster/placement"
	"weedd/volume"
	"weedd/volume/wire"
)

// grown is the answer of /vol/grow: count counts copies, as clients sum it up.
type grown struct {
	Count   int         `json:"count"`
	Volumes []volume.ID `json:"volumes,omitempty"`
}

func (a *API) grow(w *answer, r *http.Request) error {
	q, err := params(w, r)
	if err != nil {
		return err
	}
	count, err := strconv.Atoi(q.Get("count"))
	if err != nil || count < 0 {
		return fmt.Errorf("%w: can not parse parameter count %s", volume.ErrBadSpec, clip(q.Get("count")))
	}
	req, err := a.request(q)
	if err != nil {
		return err
	}
	var out grown
	if count > 0 {
		made, err := a.opts.Master.Grow(r.Context(), placement.GrowRequest{
			Spec: req.Spec, Count: count, DataCenter: req.DataCenter, Rack: req.Rack, Node: req.Node})
		if err != nil {
			return err
		}
		for _, e := range made {
			out.Count += len(e.InSync)
			out.Volumes = append(out.Volumes, e.Volume)
		}
	}
	wire.JSON(w, r, http.StatusOK, out)
	return nil
}

// vacuum has volumes compacted and answers as /dir/status when that is done.
func (a *API) vacuum(w *answer, r *http.Request) error {
	q, err := params(w, r)
	if err != nil {
		return err
	}
	share := a.opts.GarbageThreshold
	if s := q.Get("garbageThreshold"); s != "" {
		if share, err = strconv.ParseFloat(s, 64); err != nil || math.IsNaN(share) {
			return fmt.Errorf("%w: garbageThreshold %s is not a valid float number", volume.ErrBadSpec, clip(s))
		}
	}
	if err := a.opts.Master.Compact(r.Context(), share); err != nil {
		return err
	}
	return a.dirStatus(w, r)
}

func (a *API) deleteCollection(w *answer, r *http.Request) error {
	q, err := params(w, r)
	if err != nil {
		return err
	}
	if err := a.opts.Access.CheckAdmin(r); err != nil {
		return err
	}
	name := q.Get("collection")
	if name == "" {
		return fmt.Errorf("%w: collection is required", volume.ErrBadRequest)
	}
	if _, err := a.opts.Master.DeleteCollection(r.Context(), name); err != nil {
		if isAny(err, volume.ErrNotFound, volume.ErrNoVolume) {
			return fmt.Errorf("%w: collection %s does not exist", volume.ErrBadRequest, clip(name))
		}
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// collection is the answer of /collection/info, and with "detail" one of its
// list for each kind of volume, which has no VolumeCount.
type collection struct {
	Collection  string
	FileCount   uint64
	TotalSize   int64
	UsedSize    int64
	Version     string
	VolumeCount int `json:",omitempty"`
}

func (c *collection) add(vol cluster.ViewVolume, limit int64) {
	c.VolumeCount++
	c.TotalSize += int64(len(vol.Copies)) * limit
	var files uint64
	for _, copied := range vol.Copies {
		if copied.Report != nil {
			files = max(files, copied.Report.Files)
			c.UsedSize += copied.Report.Size
		}
	}
	c.FileCount += files
}

func (a *API) collectionInfo(w *answer, r *http.Request) error {
	q, err := params(w, r)
	if err != nil {
		return err
	}
	name := q.Get("collection")
	if name == "" {
		return fmt.Errorf("%w: collection is required", volume.ErrBadRequest)
	}
	v, err := a.opts.Master.View(r.Context())
	if err != nil {
		return err
	}
	all := collection{Collection: name, Version: a.version}
	var kinds []collection
	at := map[volume.Spec]int{}
	for _, vol := range v.Volumes {
		spec := vol.Entry.Spec
		if spec.Collection != name {
			continue
		}
		if _, ok := at[spec]; !ok {
			at[spec] = len(kinds)
			kinds = append(kinds, collection{Collection: name, Version: a.version})
		}
		kinds[at[spec]].add(vol, a.opts.VolumeLimit)
		all.add(vol, a.opts.VolumeLimit)
	}
	switch {
	case len(kinds) == 0:
		return fmt.Errorf("%w: collection %s does not exist", volume.ErrBadRequest, clip(name))
	case q.Get("detail") == "true":
		for i := range kinds {
			kinds[i].VolumeCount = 0
		}
		wire.JSON(w, r, http.StatusOK, kinds)
	default:
		wire.JSON(w, r, http.StatusOK, all)
	}
	return nil
}

// The shapes of /dir/status. No member is ever left out.
type (
	topology struct {
		Max         int
		Free        int
		DataCenters []dataCenter
		Layouts     []layout
	}
	dataCenter struct {
		Id    string //nolint:stylecheck // the name is part of the API
		Racks []rack
	}
	rack struct {
		Id        string //nolint:stylecheck // the name is part of the API
		DataNodes []dataNode
	}
	dataNode struct {
		Url       string //nolint:stylecheck // the name is part of the API
		PublicUrl string //nolint:stylecheck // the name is part of the API
		Volumes   int
		EcShards  int
		Max       int
		VolumeIds string //nolint:stylecheck // the name is part of the API
	}
	layout struct {
		Replication string      `json:"replication"`
		TTL         string      `json:"ttl"`
		Writables   []volume.ID `json:"writables"`
		Collection  string      `json:"collection"`
		DiskType    string      `json:"diskType"`
	}
)

func (a *API) dirStatus(w *answer, r *http.Request) error {
	v, err := a.opts.Master.View(r.Context())
	if err != nil {
		return err
	}
	var t topology
	for _, n := range byPlace(v.Nodes) {
		ids := volumesOn(v, n.ID)
		dn := dataNode{Url: n.URL, PublicUrl: n.PublicURL, Volumes: len(ids), Max: slots(n), VolumeIds: ranges(ids)}
		t.Max += dn.Max
		t.Free += max(dn.Max-dn.Volumes, 0)
		if len(t.DataCenters) == 0 || t.DataCenters[len(t.DataCenters)-1].Id != n.DataCenter {
			t.DataCenters = append(t.DataCenters, dataCenter{Id: n.DataCenter})
		}
		dc := &t.DataCenters[len(t.DataCenters)-1]
		if len(dc.Racks) == 0 || dc.Racks[len(dc.Racks)-1].Id != n.Rack {
			dc.Racks = append(dc.Racks, rack{Id: n.Rack})
		}
		rk := &dc.Racks[len(dc.Racks)-1]
		rk.DataNodes = append(rk.DataNodes, dn)
	}
	t.Layouts = layouts(v)
	wire.JSON(w, r, http.StatusOK, struct {
		Topology   topology
		TopologyId string //nolint:stylecheck // the name is part of the API
		Version    string
	}{t, v.ClusterID, a.version})
	return nil
}

// byPlace sorts nodes by data center, rack and address.
func byPlace(nodes []cluster.ViewNode) []cluster.ViewNode {
	return slices.SortedFunc(slices.Values(nodes), func(a, b cluster.ViewNode) int {
		return cmp.Or(cmp.Compare(a.DataCenter, b.DataCenter), cmp.Compare(a.Rack, b.Rack), cmp.Compare(a.URL, b.URL))
	})
}

func slots(n cluster.ViewNode) (max int) {
	for _, d := range n.Disks {
		max += d.Max
	}
	return max
}

func volumesOn(v cluster.View, node volume.NodeID) (ids []volume.ID) {
	for _, vol := range v.Volumes {
		if _, inSync, ok := vol.Entry.Holder(node); ok && inSync {
			ids = append(ids, vol.Entry.Volume)
		}
	}
	slices.Sort(ids)
	return ids
}

// ranges gives sorted ids as " 1-4 7", each with a blank in front; one blank for
// none.
func ranges(ids []volume.ID) string {
	if len(ids) == 0 {
		return " "
	}
	var b strings.Builder
	for i := 0; i < len(ids); {
		j := i
		for j+1 < len(ids) && ids[j+1] == ids[j]+1 {
			j++
		}
		if b.WriteString(" " + ids[i].String()); j > i {
			b.WriteString("-" + ids[j].String())
		}
		i = j + 1
	}
	return b.String()
}

func layouts(v cluster.View) (out []layout) {
	at := map[volume.Spec]int{}
	for _, vol := range v.Volumes {
		s := vol.Entry.Spec
		i, ok := at[s]
		if !ok {
			i = len(out)
			at[s] = i
			out = append(out, layout{Replication: s.Placement.String(), TTL: s.TTL.String(), Collection: s.Collection,
				DiskType: cmp.Or(string(s.Disk), "hdd"), Writables: []volume.ID{}})
		}
		if vol.Entry.State == volume.StateOpen {
			out[i].Writables = append(out[i].Writables, vol.Entry.Volume)
		}
	}
	return out
}

func (a *API) volStatus(w *answer, r *http.Request) error {
	v, err := a.opts.Master.View(r.Context())
	if err != nil {
		return err
	}
	type volumes struct {
		Max         int
		Free        int
		DataCenters map[string]map[string]map[string][]wire.VolumeRecord
	}
	out := volumes{DataCenters: map[string]map[string]map[string][]wire.VolumeRecord{}}
	for _, n := range v.Nodes {
		dc := out.DataCenters[n.DataCenter]
		if dc == nil {
			dc = map[string]map[string][]wire.VolumeRecord{}
			out.DataCenters[n.DataCenter] = dc
		}
		if dc[n.Rack] == nil {
			dc[n.Rack] = map[string][]wire.VolumeRecord{}
		}
		var copies []volume.CopyReport
		for _, vol := range v.Volumes {
			for _, c := range vol.Copies {
				if c.Node == n.ID && c.Report != nil {
					copies = append(copies, *c.Report)
				}
			}
		}
		records := wire.VolumeRecords(copies)
		out.Max += slots(n)
		out.Free += max(slots(n)-len(records), 0)
		dc[n.Rack][n.URL] = records
	}
	wire.JSON(w, r, http.StatusOK, struct {
		Version string
		Volumes volumes
	}{a.version, out})
	return nil
}
