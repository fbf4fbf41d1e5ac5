package masterhttp

import (
	"context"
	_ "embed"
	"fmt"
	"html/template"
	"net/http"
	"time"

	"weedd/cluster"
	"weedd/volume"
	"weedd/volume/wire"
)

// pageWait is how long the status page waits for the leader's view before it
// shows only what this master knows by itself.
const pageWait = 2 * time.Second

// pageVolumes is how many volumes the page lists; /cluster/view has them all.
const pageVolumes = 1000

//go:embed page.html
var pageText string

var pageTemplate = wire.NewPage(pageText, template.FuncMap{"used": used, "copies": copies})

// pageData is what the page shows.
type pageData struct {
	Version string
	Leader  string   // "" while nobody leads
	Self    bool     // this master leads
	Peers   []string // the masters, as this one knows them
	Reasons []string // why this node is not ready
	View    cluster.View
	ViewErr string // why there is no View
	More    int    // volumes not listed
}

// page is the status page: what an operator opens first. It has an answer with
// and without a leader.
func (a *API) page(w *answer, r *http.Request) error {
	d := pageData{Version: a.version, Reasons: a.opts.Ready()}
	d.Leader, d.Self, d.Peers, _ = a.opts.Group.Status()
	ctx, cancel := context.WithTimeout(r.Context(), pageWait)
	defer cancel()
	v, err := a.opts.Master.View(ctx)
	if err != nil {
		d.ViewErr = err.Error()
	}
	if d.More = max(0, len(v.Volumes)-pageVolumes); d.More > 0 {
		v.Volumes = v.Volumes[:pageVolumes]
	}
	v.Nodes = byPlace(v.Nodes)
	d.View = v
	return wire.Page(w, r, pageTemplate, d)
}

// used sums up the disks of a node.
func used(disks []volume.DiskReport) (s wire.DiskStatus) {
	for _, d := range disks {
		s.All += d.AllB
		s.Free += min(d.FreeB, d.AllB)
	}
	return s
}

// copies describes the copies of a volume as "2 of 3", and its size by the
// largest of them.
func copies(v cluster.ViewVolume) string {
	largest := int64(0)
	for _, c := range v.Copies {
		if c.Report != nil {
			largest = max(largest, c.Report.Size)
		}
	}
	return fmt.Sprintf("%d of %d, %s", len(v.Entry.InSync), v.Entry.Spec.Placement.Copies(), wire.Bytes(largest))
}
