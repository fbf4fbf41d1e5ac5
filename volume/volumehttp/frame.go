package volumehttp

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"time"

	"github.com/julienschmidt/httprouter"

	"weedd/volume"
	"weedd/volume/wire"
)

// exchange is one request on its way to its one answer.
type exchange struct {
	w      http.ResponseWriter
	r      *http.Request
	began  time.Time
	status int // of the answer, 0 until its header is sent

	// What a read needs besides, kept here so that it makes few small objects.
	body    content
	values  [10]string
	used    int
	scratch [256]byte
}

// put sets a header to one value. key must be spelled canonically.
func (x *exchange) put(key, value string) {
	if x.used == len(x.values) {
		x.w.Header()[key] = []string{value}
		return
	}
	x.values[x.used] = value
	x.w.Header()[key] = x.values[x.used : x.used+1 : x.used+1]
	x.used++
}

// forget drops the headers of an answer that will not be given after all.
func (x *exchange) forget() {
	for name := range x.w.Header() {
		switch name {
		case "Server", wire.HeaderRequestID, "Access-Control-Allow-Origin", "Access-Control-Allow-Credentials":
		default:
			delete(x.w.Header(), name)
		}
	}
}

func (x *exchange) json(status int, v any) {
	x.status = status
	wire.JSON(x.w, x.r, status, v)
}

func (x *exchange) empty(status int) {
	x.status = status
	wire.Empty(x.w, status)
}

func (x *exchange) error(status int, text string) {
	x.status = status
	wire.ErrorStatus(x.w, x.r, status, text)
}

type handler func(x *exchange, p httprouter.Params) error

// route builds the two routers. httprouter takes no fixed word beside a
// parameter, so paths of files, which begin with a digit, have one of their own.
func (a *API) route() {
	a.files, a.words, a.public = a.newRouter(a.other), a.newRouter(a.other), a.newRouter(a.readOnly)
	for _, path := range []string{"/:fid", "/:fid/:key", "/:fid/:key/:name"} {
		for _, router := range []*httprouter.Router{a.files, a.public} {
			router.GET(path, a.frame(a.read))
			router.HEAD(path, a.frame(a.read))
		}
		a.files.POST(path, a.frame(a.write))
		a.files.PUT(path, a.frame(a.write))
		a.files.DELETE(path, a.frame(a.delete))
	}
	a.word("/status", a.frame(a.status), "GET", "HEAD")
	a.word("/healthz", a.frame(a.healthz), "GET", "HEAD", "POST", "PUT", "DELETE")
	a.word("/readyz", a.frame(a.readyz), "GET", "HEAD", "POST", "PUT", "DELETE")
	if len(a.opts.Access.WriteKey) == 0 { // as the reference has it
		a.word("/ui/index.html", a.frame(a.page), "GET", "HEAD")
	}
	a.word("/delete", a.frame(a.deleteBatch), "POST", "DELETE")
	if a.opts.Scrub != nil {
		a.word("/admin/scrub", a.frame(a.scrubbed), "GET", "HEAD")
		a.word("/admin/scrub", a.frame(a.scrub), "POST", "PUT")
	}
	a.words.Handler("GET", "/favicon.ico", wire.Favicon)
	a.words.Handler("HEAD", "/favicon.ico", wire.Favicon)
	if a.opts.Metrics != nil {
		a.words.Handler("GET", "/metrics", a.opts.Metrics)
		a.words.Handler("HEAD", "/metrics", a.opts.Metrics)
	}
}

func (a *API) word(path string, h httprouter.Handle, methods ...string) {
	for _, m := range methods {
		a.words.Handle(m, path, h)
	}
}

// newRouter makes one that leaves to h what it has no route for.
func (a *API) newRouter(h handler) *httprouter.Router {
	other := a.frame(h)
	return &httprouter.Router{
		NotFound:     http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { other(w, r, nil) }),
		PanicHandler: func(_ http.ResponseWriter, r *http.Request, v any) { a.abort(r, v) },
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
	return func(w http.ResponseWriter, r *http.Request, p httprouter.Params) {
		x := &exchange{w: w, r: r, began: time.Now()}
		a.metrics.Begin()
		defer a.finish(x)
		header := w.Header()
		header["Server"] = a.server
		x.put(wire.HeaderRequestID, string(wire.AppendRequestID(x.scratch[:0], x.began)))
		if r.Header["Origin"] != nil || len(a.opts.Origins) > 0 {
			a.origin(header, r)
		}
		if err := h(x, p); err != nil {
			a.fail(x, err)
		}
	}
}

// Header values that are the same in every answer; nobody changes them in place.
var (
	anyOrigin    = []string{"*"}
	allowHeaders = []string{"*"}
	allowMethods = []string{"PUT, POST, GET, DELETE, OPTIONS"}
	readMethods  = []string{"GET, OPTIONS"}
	varyOnOrigin = []string{"Origin"}
	credentials  = []string{"true"}
)

// origin tells a browser whether the page that asks may see the answer: any, without
// cookies, or those of Options.Origins.
func (a *API) origin(h http.Header, r *http.Request) {
	if len(a.opts.Origins) == 0 {
		h["Access-Control-Allow-Origin"] = anyOrigin
		return
	}
	h["Vary"] = varyOnOrigin
	if page := r.Header.Get("Origin"); slices.Contains(a.opts.Origins, page) {
		h["Access-Control-Allow-Origin"] = []string{page}
		h["Access-Control-Allow-Credentials"] = credentials
	}
}

// preflight answers OPTIONS.
func (x *exchange) preflight(methods []string) {
	h := x.w.Header()
	h["Access-Control-Allow-Methods"] = methods
	h["Access-Control-Allow-Headers"] = allowHeaders
	if asked := x.r.Header["Access-Control-Request-Headers"]; asked != nil && h["Access-Control-Allow-Credentials"] != nil {
		h["Access-Control-Allow-Headers"] = asked // with credentials * is a name like any other
	}
	x.empty(http.StatusOK)
}

// finish counts the request, and answers for a handler that panicked.
func (a *API) finish(x *exchange) {
	if v := recover(); v != nil {
		defer a.panicked(x, v)
		if x.status == 0 {
			x.status = http.StatusInternalServerError
		} else {
			x.status = wire.StatusClientGone
		}
	}
	took := time.Since(x.began)
	a.metrics.End(x.r.Method, x.status, took)
	if ctx := x.r.Context(); a.log.Enabled(ctx, slog.LevelDebug) {
		a.log.DebugContext(ctx, "request", "method", x.r.Method, "path", x.r.URL.Path, "status", x.status,
			"took", took, "peer", x.r.RemoteAddr)
	}
}

// panicked answers 500 if nothing was sent yet; otherwise the connection is cut,
// so that the client does not take half an answer for a whole one.
func (a *API) panicked(x *exchange, v any) {
	if x.status == wire.StatusClientGone || v == http.ErrAbortHandler {
		a.abort(x.r, v)
	}
	a.logPanic(x.r, v)
	wire.ErrorStatus(x.w, x.r, x.status, "internal error")
}

func (a *API) abort(r *http.Request, v any) {
	if v != http.ErrAbortHandler {
		a.logPanic(r, v)
	}
	panic(http.ErrAbortHandler) // which http.Server takes as the wish to cut the connection
}

func (a *API) logPanic(r *http.Request, v any) {
	a.log.Error("request panicked", "method", r.Method, "path", r.URL.Path, "err", fmt.Sprint(v), "stack", string(debug.Stack()))
}

// fail answers an error, in the form that the method's clients know: reads get
// an empty body, deletes a size.
func (a *API) fail(x *exchange, err error) {
	if x.status != 0 { // the answer has begun; cutting the connection is all that is left to say
		if x.r.Context().Err() == nil { // it was not the client who hung up
			a.log.Warn("answer broken off", "method", x.r.Method, "path", x.r.URL.Path, "err", err)
		}
		panic(http.ErrAbortHandler)
	}
	status, text := a.refusal(x.r.Method, x.r, err)
	if x.r.Method == http.MethodDelete && status == http.StatusNotFound {
		x.json(status, deleted{})
		return
	}
	wire.RetryLater(x.w.Header(), status)
	chunk := (*chunkError)(nil)
	plain := status != http.StatusTooManyRequests && status != http.StatusUnauthorized && !errors.As(err, &chunk)
	if plain && (x.r.Method == http.MethodGet || x.r.Method == http.MethodHead) {
		x.empty(status)
		return
	}
	x.error(status, text)
}

// refusal gives status and text of the answer to a request that failed as one of that
// method, and logs what somebody should look at.
func (a *API) refusal(method string, r *http.Request, err error) (status int, text string) {
	status, known := wire.Status(err)
	if errors.Is(err, volume.ErrNoSpace) { // a 5xx: the client comes back with a file id on another disk
		status = http.StatusInsufficientStorage
	}
	text = err.Error()
	switch method {
	case http.MethodGet, http.MethodHead:
		if errors.Is(err, volume.ErrCookie) {
			status = http.StatusNotFound // a wrong cookie is not told from an absent file
		}
	case http.MethodDelete:
		if errors.Is(err, volume.ErrCookie) {
			status, text = http.StatusBadRequest, "File Random Cookie does not match."
		}
	default:
		if status == http.StatusNotFound || status == http.StatusNotAcceptable {
			status = http.StatusInternalServerError // so that the client comes back with a new file id
		}
	}
	if !known {
		text = "internal error"
		a.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	} else if status == http.StatusInternalServerError && !theirs(err) {
		a.log.Warn("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	return status, text
}

// theirs reports whether an error that is answered by 500, so that the client comes
// back with a new id, is the client's mistake all the same, or what a volume that takes
// no writes answers to every one: nobody needs to look.
func theirs(err error) bool {
	for _, e := range []error{volume.ErrCookie, volume.ErrNoVolume, volume.ErrNotFound, volume.ErrReadOnly} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// other answers what no route takes.
func (a *API) other(x *exchange, _ httprouter.Params) error {
	switch x.r.Method {
	case http.MethodOptions:
		x.preflight(allowMethods)
		return nil
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete:
		return fmt.Errorf("%w: no such path; a file's is /<volume>,<key><cookie>, as in /3,01637037d6", volume.ErrBadRequest)
	}
	x.error(http.StatusBadRequest, "unsupported method "+x.r.Method)
	return nil
}

// readOnly answers what no route of the public port takes.
func (a *API) readOnly(x *exchange, p httprouter.Params) error {
	switch x.r.Method {
	case http.MethodGet, http.MethodHead:
		return a.other(x, p)
	case http.MethodOptions:
		x.preflight(readMethods)
		return nil
	}
	x.put("Allow", "GET, HEAD, OPTIONS")
	x.error(http.StatusMethodNotAllowed, "this port only reads; "+x.r.Method+" is for the port that masters give as url")
	return nil
}

// statusAnswer is the answer of /status.
type statusAnswer struct {
	DiskStatuses []wire.DiskStatus
	Version      string
	Volumes      []wire.VolumeRecord // null for none
}

func (a *API) status(x *exchange, _ httprouter.Params) error {
	st := a.blobs.Status()
	answer := statusAnswer{DiskStatuses: []wire.DiskStatus{}, Version: a.opts.Version, Volumes: wire.VolumeRecords(st.Copies)}
	for _, d := range st.Disks {
		answer.DiskStatuses = append(answer.DiskStatuses, wire.NewDiskStatus(d))
	}
	x.json(http.StatusOK, answer)
	return nil
}

// healthz says that the process answers, and nothing more.
func (a *API) healthz(x *exchange, _ httprouter.Params) error {
	x.empty(http.StatusOK)
	return nil
}

// ReadyAnswer is the answer of /readyz.
type ReadyAnswer struct {
	Ready   bool     `json:"ready"`
	Reasons []string `json:"reasons"`         // why not; empty when ready
	Notes   []string `json:"notes,omitempty"` // directories that take nothing new, and why
}

func (a *API) readyz(x *exchange, _ httprouter.Params) error {
	answer := ReadyAnswer{Reasons: a.blobs.Ready()}
	status := http.StatusServiceUnavailable
	if answer.Ready = len(answer.Reasons) == 0; answer.Ready {
		answer.Reasons, status = []string{}, http.StatusOK
	}
	for _, d := range a.blobs.Status().Disks {
		if d.Fenced != "" {
			answer.Notes = append(answer.Notes, fmt.Sprintf("nothing new is put into %s: %s", d.Dir, d.Fenced))
		}
	}
	wire.RetryLater(x.w.Header(), status)
	x.json(status, answer)
	return nil
}
