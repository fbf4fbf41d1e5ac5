// Package volumehttp is the public HTTP API of the volume role: the routes that
// clients of SeaweedFS know, over whatever keeps the blobs.
//
// It parses, calls Blobs, and renders. It keeps no files, knows no peers but
// those that an error of Blobs names, and forwards no writes: Blobs does. What it
// does differently from the reference on purpose is listed in volume/DESIGN.md.
package volumehttp

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/julienschmidt/httprouter"
	"github.com/prometheus/client_golang/prometheus"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/wire"
)

// Blobs is the volume role as this API needs it. Safe for concurrent use.
type Blobs interface {
	// Put stores n under id; the key and cookie of n are those of id. With
	// createOnly a key that is there with other bytes is volume.ErrExists. n and
	// its bytes belong to Put until it returns, and are not changed after that.
	Put(ctx context.Context, id volume.FileID, n *needle.Needle, createOnly bool) (volume.PutResult, error)
	// Get returns the needle, whose Release must be called when done.
	// *volume.ElsewhereError when another node must be asked.
	Get(ctx context.Context, id volume.FileID, readDeleted bool) (*needle.Needle, error)
	// Delete answers the size of the record deleted. modified is the time of the
	// tombstone in seconds since 1970.
	Delete(ctx context.Context, id volume.FileID, modified uint64) (size int64, err error)
	// Status is what this node has.
	Status() Status
	// Ready says why this node should get no requests; empty when it should.
	Ready() (reasons []string)
}

// Scrubber looks through the volumes of this node. Safe for concurrent use.
type Scrubber interface {
	// Scrub has the volumes named looked through at once, or all, and answers how
	// many. volume.ErrNoVolume if one is not here.
	Scrub(ids ...volume.ID) (int, error)
	// Scrubbed says how far each is: something that can be written as JSON.
	Scrubbed() any
}

// Status is what a node has.
type Status struct {
	Disks  []volume.DiskReport
	Copies []volume.CopyReport
}

// ReadMode says what to do with reads of volumes that other nodes hold.
type ReadMode string

// The read modes. Writes and deletes are always passed on, by Blobs.
const (
	ReadProxy    ReadMode = "proxy" // fetch and pass on; the default
	ReadRedirect ReadMode = "redirect"
	ReadLocal    ReadMode = "local" // 404
)

// Options is what New needs. Zero values mean what the comments say.
type Options struct {
	Blobs   Blobs
	Log     *slog.Logger
	Version string       // of weedd, as in "1.2.3"
	Metrics http.Handler // serves /metrics; nil for none
	Scrub   Scrubber     // for /admin/scrub; nil for none

	Limits   Limits
	ReadMode ReadMode    // "" is ReadProxy
	Access   wire.Access // who may use it
	Origins  []string    // pages that browsers may let use it with cookies, such as "https://example.org"; none is all, without cookies
	TLS      bool        // clients are told https in redirects
	// DialPeer connects to the internal address of a node, where Inner is served; nil
	// has peers asked at their public address instead.
	DialPeer func(ctx context.Context, addr string) (net.Conn, error)
	Images   int64         // bytes of memory for images being edited, and a quarter more for results; 0 serves all as they are
	Hold     time.Duration // how long a read is held while no holder of its volume answers; 0 is 10 s
}

// Limits are what one API takes on at a time. Zero values mean what the comments say.
type Limits struct {
	File      int64         // bytes of one file; 256 MiB
	Uploads   int64         // bytes of all uploads in memory; no limit
	Downloads int64         // bytes of files of this node on their way to clients; no limit
	Wait      time.Duration // how long a request waits for room, then 429; 10 s
}

// API answers requests. Safe for concurrent use.
type API struct {
	blobs   Blobs
	log     *slog.Logger
	opts    Options
	server  []string // value of the Server header
	metrics *wire.Metrics
	images  *images
	limits  atomic.Pointer[limits]
	peers   *http.Client // fetches what other nodes hold
	files   *httprouter.Router
	words   *httprouter.Router
	public  *httprouter.Router
}

// New makes an API. It starts nothing; Close drops its idle connections.
func New(o Options) *API {
	if o.Hold == 0 {
		o.Hold = 10 * time.Second
	}
	if o.ReadMode == "" {
		o.ReadMode = ReadProxy
	}
	a := &API{
		blobs: o.Blobs, log: o.Log, opts: o,
		server:  []string{"weedd/" + o.Version},
		metrics: wire.NewMetrics("volume"),
		peers:   newPeerClient(o.DialPeer),
		images:  newImages(o.Images),
	}
	a.SetLimits(o.Limits)
	a.route()
	return a
}

// limits are what changes live. Requests under way keep those they began with.
type limits struct {
	file      int64
	uploads   *wire.Budget
	downloads *wire.Gate
}

// SetLimits changes Options.Limits.
func (a *API) SetLimits(l Limits) {
	if l.File == 0 {
		l.File = 256 << 20
	}
	if l.Wait == 0 {
		l.Wait = 10 * time.Second
	}
	a.limits.Store(&limits{l.File, wire.NewBudget(l.Uploads, l.Wait, a.metrics), wire.NewGate(l.Downloads, l.Wait, a.metrics)})
}

// Handler is the whole API.
func (a *API) Handler() http.Handler { return http.HandlerFunc(a.serve) }

// Public is what may be open to strangers: it only reads files.
func (a *API) Public() http.Handler { return a.public }

// Inner is the whole API for other nodes, who may do everything: it must not be
// reachable by anybody else.
func (a *API) Inner() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.serve(w, r.WithContext(context.WithValue(r.Context(), innerKey{}, true)))
	})
}

// innerKey marks the context of requests of other nodes.
type innerKey struct{}

// Collectors is what the process registers with Prometheus.
func (a *API) Collectors() []prometheus.Collector { return a.metrics.Collectors() }

// Close drops idle connections to other nodes. Requests that run are not
// touched: they end with the http.Server.
func (a *API) Close() error {
	a.peers.CloseIdleConnections()
	return nil
}
