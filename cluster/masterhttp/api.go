// Package masterhttp is the public HTTP API of the master role: the routes that
// clients of SeaweedFS know, and /cluster/view for our own tools.
//
// It parses, calls the master, and renders. Every master answers every route;
// what only the leader can do is passed on below this package. What it does
// differently from the reference on purpose is listed in cluster/DESIGN.md.
package masterhttp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/julienschmidt/httprouter"
	"github.com/prometheus/client_golang/prometheus"

	"weedd/cluster"
	"weedd/cluster/master"
	"weedd/cluster/placement"
	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/wire"
)

// Master is the master role as this API needs it. *master.Master is one. Safe
// for concurrent use.
type Master interface {
	Assign(ctx context.Context, req master.Request) (master.Assignment, error)
	Submit(ctx context.Context, req master.Request, n *needle.Needle) (master.Assignment, volume.PutResult, error)
	// Discard deletes, in the background and as best it can, what Submit stored.
	Discard(stored []master.Assignment)
	Lookup(ctx context.Context, id volume.ID, collection string) ([]volume.Node, error)
	Grow(ctx context.Context, req placement.GrowRequest) ([]*volume.Entry, error)
	DeleteCollection(ctx context.Context, name string) (int, error)
	Compact(ctx context.Context, share float64) error
	Operate(ctx context.Context, op cluster.Operation) (cluster.Outcome, error)
	View(ctx context.Context) (cluster.View, error)
}

// Group is what this master knows of the masters by itself. Safe for concurrent
// use.
type Group interface {
	// Status says who leads, as host:port of public HTTP ports; leader is ""
	// while nobody does.
	Status() (leader string, self bool, peers []string, maxVolume volume.ID)
	// Stats is raft's own picture.
	Stats() map[string]string
}

// Options is what New needs. Zero values mean what the comments say.
type Options struct {
	Master  Master
	Group   Group
	Keys    Keys                      // nil: idempotency keys are remembered at this master alone
	Ready   func() (reasons []string) // why this node should get no requests; empty when it should
	Log     *slog.Logger
	Version string
	Metrics http.Handler // serves /metrics; nil for none

	DefaultReplication volume.Placement
	GarbageThreshold   float64       // of /vol/vacuum without a parameter; 0 is 0.3
	VolumeLimit        int64         // bytes of a full volume, for what /collection/info tells; 0 is 30 GiB
	FileLimit          int64         // bytes of one file; 0 is 256 MiB
	HeldBytes          int64         // bytes of memory that /submit takes for bodies at once, one file at least; 0 is 256 MiB
	Room               time.Duration // how long an upload waits for room in memory before it is told 429; 0 is 10 s
	HeldRequests       int           // requests that may wait at once; 0 is 1024
	Access             wire.Access   // who may use it, and the tokens it gives out
	TLS                bool          // clients are told https in redirects to volume servers
	NoFiles            bool          // only tells how the cluster is, and takes operations: no ids, no look-ups, no uploads
}

// API answers requests. Safe for concurrent use.
type API struct {
	opts    Options
	version string // as the answers say it
	metrics *wire.Metrics
	repeats *repeats
	limits  atomic.Pointer[limits]
	words   *httprouter.Router
	files   *httprouter.Router
}

// New makes an API. It starts nothing.
func New(o Options) *API {
	if o.FileLimit == 0 {
		o.FileLimit = 256 << 20
	}
	if o.HeldBytes == 0 {
		o.HeldBytes = 256 << 20
	}
	if o.HeldRequests == 0 {
		o.HeldRequests = 1024
	}
	if o.Room == 0 {
		o.Room = 10 * time.Second
	}
	if o.GarbageThreshold == 0 {
		o.GarbageThreshold = 0.3
	}
	if o.VolumeLimit == 0 {
		o.VolumeLimit = 30 << 30
	}
	a := &API{
		opts: o, version: "weedd " + o.Version, metrics: wire.NewMetrics("master"), repeats: newRepeats(),
	}
	a.SetLimits(o.FileLimit, o.HeldBytes, o.HeldRequests, o.Room)
	a.route()
	return a
}

// limits are what change live. Requests under way keep those they began with.
type limits struct {
	file  int64
	bytes *wire.Budget
	held  chan struct{}
}

// SetLimits changes Options.FileLimit, HeldBytes, HeldRequests and Room.
func (a *API) SetLimits(file, heldBytes int64, heldRequests int, room time.Duration) {
	a.limits.Store(&limits{file, wire.NewBudget(max(heldBytes, needle.Footprint(file)), room, a.metrics), make(chan struct{}, heldRequests)})
}

// Handler is the whole API.
func (a *API) Handler() http.Handler { return http.HandlerFunc(a.serve) }

// Collectors is what the process registers with Prometheus.
func (a *API) Collectors() []prometheus.Collector { return a.metrics.Collectors() }

type handler func(w *answer, r *http.Request) error

// answer is the writer of one answer, which remembers its status.
type answer struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (w *answer) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *answer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// route builds the two routers. httprouter takes no fixed word beside a
// parameter, so paths of files, which begin with a digit, have one of their own.
func (a *API) route() {
	a.words, a.files = a.newRouter(), a.newRouter()
	if !a.opts.NoFiles {
		a.routeFiles()
	}
	read := []string{"GET", "HEAD"}
	a.handle("/cluster/status", a.clusterStatus, read)
	a.handle("/cluster/healthz", a.hasLeader, read)
	a.handle("/cluster/view", a.view, read)
	a.handle("/cluster/operation", a.operate, []string{"POST"})
	a.handle("/raft/stats", a.raftStats, read)
	a.handle("/", a.page, read)
	a.handle("/ui/index.html", a.page, read)
	a.handle("/healthz", a.healthz, read)
	a.handle("/readyz", a.readyz, read)
	a.words.Handler("GET", "/favicon.ico", wire.Favicon)
	a.words.Handler("HEAD", "/favicon.ico", wire.Favicon)
	if a.opts.Metrics != nil {
		a.words.Handler("GET", "/metrics", a.opts.Metrics)
		a.words.Handler("HEAD", "/metrics", a.opts.Metrics)
	}
}

// routeFiles builds the routes that are about files and volumes.
func (a *API) routeFiles() {
	any := []string{"GET", "HEAD", "POST", "PUT"}
	read := []string{"GET", "HEAD"}
	a.handle("/dir/assign", a.listed(a.assign), any)
	a.handle("/dir/lookup", a.listed(a.lookup), any)
	a.handle("/dir/status", a.listed(a.dirStatus), read)
	a.handle("/vol/grow", a.listed(a.grow), []string{"GET", "POST", "PUT"})
	a.handle("/vol/vacuum", a.listed(a.vacuum), []string{"GET", "POST", "PUT"})
	a.handle("/vol/status", a.listed(a.volStatus), read)
	a.handle("/col/delete", a.listed(a.deleteCollection), []string{"GET", "POST", "PUT", "DELETE"})
	a.handle("/collection/info", a.listed(a.collectionInfo), read)
	a.handle("/submit", a.listed(a.submit), []string{"GET", "HEAD", "POST", "PUT", "DELETE"})
	for _, m := range []string{"GET", "HEAD", "POST", "PUT", "DELETE"} {
		a.files.Handle(m, "/:fid", a.frame(a.redirect))
	}
}

func (a *API) handle(path string, h handler, methods []string) {
	for _, m := range methods {
		a.words.Handle(m, path, a.frame(h))
	}
	a.words.Handle(http.MethodOptions, path, a.frame(func(w *answer, _ *http.Request) error {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}))
}

// listed is a handler for callers whose address is listed.
func (a *API) listed(h handler) handler {
	return func(w *answer, r *http.Request) error {
		if err := a.opts.Access.CheckAddress(r); err != nil {
			return err
		}
		return h(w, r)
	}
}

func (a *API) newRouter() *httprouter.Router {
	unknown := a.frame(a.unknown)
	return &httprouter.Router{
		HandleMethodNotAllowed: true,
		NotFound:               http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { unknown(w, r, nil) }),
		MethodNotAllowed:       http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { wire.Empty(w, http.StatusMethodNotAllowed) }),
	}
}

// serve is the dispatcher.
func (a *API) serve(w http.ResponseWriter, r *http.Request) {
	if wire.IsFilePath(r.URL.Path) {
		a.files.ServeHTTP(w, r)
		return
	}
	a.words.ServeHTTP(w, r)
}

// frame runs a handler with what all requests have in common round it.
func (a *API) frame(h handler) httprouter.Handle {
	return func(rw http.ResponseWriter, r *http.Request, _ httprouter.Params) {
		w, began := &answer{ResponseWriter: rw}, time.Now()
		a.metrics.Begin()
		defer func() {
			v := recover()
			sent := w.status != 0
			if v != nil {
				a.opts.Log.Error("handler panicked", "path", r.URL.Path, "err", v, "stack", string(debug.Stack()))
			}
			if v != nil && !sent {
				wire.ErrorStatus(w, r, http.StatusInternalServerError, "internal error")
			}
			a.metrics.End(r.Method, w.status, time.Since(began))
			if v != nil && sent {
				panic(http.ErrAbortHandler) // part of another answer is out: end the connection
			}
		}()
		w.Header()[wire.HeaderRequestID] = []string{string(wire.AppendRequestID(nil, began))}
		if err := h(w, r); err != nil {
			wire.Error(w, r, a.opts.Log, err)
		}
		if w.status == 0 {
			w.status = http.StatusOK
		}
	}
}

// unknown answers paths that have no route: one segment is taken for a file id.
func (a *API) unknown(w *answer, r *http.Request) error {
	if a.opts.NoFiles || strings.LastIndexByte(r.URL.Path, '/') > 0 {
		http.Error(w, "404 page not found", http.StatusNotFound)
		return nil
	}
	return a.redirect(w, r)
}

// maxForm is how much of a form body is read for its parameters.
const maxForm = 64 << 10

// params gives the parameters of a request: of its query and of a body in form
// encoding.
func params(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	err := r.ParseForm()
	if tooLong := new(http.MaxBytesError); errors.As(err, &tooLong) {
		return nil, fmt.Errorf("%w: parameters over %d bytes", volume.ErrTooLarge, maxForm)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: parameters: %w", volume.ErrBadRequest, err)
	}
	return r.Form, nil
}

// hold keeps a request, unless too many wait already.
func (a *API) hold() (release func(), err error) {
	held := a.limits.Load().held
	select {
	case held <- struct{}{}:
		return func() { <-held }, nil
	default:
		return nil, fmt.Errorf("%w: %d requests wait already", volume.ErrUnavailable, cap(held))
	}
}

// isAny reports whether err is one of targets.
func isAny(err error, targets ...error) bool {
	for _, t := range targets {
		if errors.Is(err, t) {
			return true
		}
	}
	return false
}
