package daemon

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"weedd/daemon/config"
)

// A node with TLS on its public ports would else be killed again and again.
func TestTheWatchdogAsksPortsTheWayTheyServe(t *testing.T) {
	t.Parallel()
	ok := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	secure := httptest.NewTLSServer(ok)
	defer secure.Close()
	plain := httptest.NewServer(ok)
	defer plain.Close()
	for name, tc := range map[string]struct {
		server *httptest.Server
		tls    config.TLS
		want   bool
	}{
		"plain":                            {plain, config.TLS{}, true},
		"TLS":                              {secure, config.TLS{Cert: "cert", Key: "key"}, true},
		"plain, and yet TLS is configured": {plain, config.TLS{Cert: "cert", Key: "key"}, false},
	} {
		d := &Daemon{cfg: config.Config{TLS: tc.tls}, log: slog.New(slog.DiscardHandler), master: &masterRole{listener: tc.server.Listener}}
		if got := d.answers(t.Context(), 10*time.Second); got != tc.want {
			t.Errorf("%s: answers is %v", name, got)
		}
	}
}
