package masterhttp

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
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

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"bytes": size, "used": used, "copies": copies,
}).Parse(pageText))

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
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, d); err != nil {
		return fmt.Errorf("render the status page: %w", err)
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(b.Len()))
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(b.Bytes()) // the client is gone: there is nobody left to tell
	}
	return nil
}

// size gives a number of bytes as people read it.
func size(n any) string {
	f, unit := 0.0, 0
	switch n := n.(type) {
	case int64:
		f = float64(n)
	case uint64:
		f = float64(n)
	}
	for f >= 1000 && unit < 5 {
		f /= 1024
		unit++
	}
	return strconv.FormatFloat(f, 'g', 3, 64) + " " + [...]string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}[unit]
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
	return fmt.Sprintf("%d of %d, %s", len(v.Entry.InSync), v.Entry.Spec.Placement.Copies(), size(largest))
}
