package volumehttp

import (
	_ "embed"

	"github.com/julienschmidt/httprouter"

	"weedd/volume"
	"weedd/volume/wire"
)

// pageVolumes is how many volumes the page lists; /status has them all.
const pageVolumes = 1000

//go:embed page.html
var pageText string

var pageTemplate = wire.NewPage(pageText, nil)

// pageData is what the page shows.
type pageData struct {
	Version string
	Reasons []string // why this node is not ready
	Disks   []volume.DiskReport
	Volumes []wire.VolumeRecord
	More    int // volumes not listed
}

// page is what an operator looks at: the disks and volumes of this node. The state of
// the cluster is on the page of any master.
func (a *API) page(x *exchange, _ httprouter.Params) error {
	st := a.blobs.Status()
	d := pageData{Version: a.opts.Version, Reasons: a.blobs.Ready(), Disks: st.Disks, Volumes: wire.VolumeRecords(st.Copies)}
	if d.More = max(0, len(d.Volumes)-pageVolumes); d.More > 0 {
		d.Volumes = d.Volumes[:pageVolumes]
	}
	if err := wire.Page(x.w, x.r, pageTemplate, d); err != nil {
		return err
	}
	x.status = 200
	return nil
}
