package daemon

import (
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// httpServer is a public port. Unlike http.Server, its Close waits for handlers:
// what they use is closed after it.
type httpServer struct {
	*http.Server
	handler http.Handler
	stall   time.Duration // a client that neither sends nor takes anything for so long is dropped
	leaving atomic.Bool

	running sync.RWMutex // held for reading by each handler
	closed  bool         // guarded by running
}

func newHTTP(h http.Handler, log *slog.Logger) *httpServer {
	s := &httpServer{handler: h, stall: time.Minute}
	s.Server = &http.Server{
		Handler: s, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return s
}

// Leave has every answer from now on end its connection. When Shutdown closes those
// that are idle, few are left on which a client may be sending its next request,
// which would be lost.
func (s *httpServer) Leave() { s.leaving.Store(true) }

// ServeHTTP implements http.Handler.
func (s *httpServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.running.RLock()
	defer s.running.RUnlock()
	if s.closed { // on a connection that was accepted while Close ran
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if s.leaving.Load() {
		w.Header().Set("Connection", "close")
	}
	if r.ContentLength != 0 {
		body := &slowBody{ReadCloser: r.Body, conn: http.NewResponseController(w), allowed: s.stall, stall: s.stall}
		body.await() // if nobody reads it, http.Server does
		// In a request of its own: by the body in its own one http.Server sees whether a
		// client waits to be told to continue, or has so much to send that it is not read.
		r = r.WithContext(r.Context())
		r.Body = body
	}
	s.handler.ServeHTTP(w, r)
}

// Close closes all connections, which cancels the contexts of their requests,
// and waits for the handlers.
func (s *httpServer) Close() error {
	err := s.Server.Close()
	s.running.Lock()
	defer s.running.Unlock()
	s.closed = true
	return err
}
