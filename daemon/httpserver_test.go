package daemon

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestAServerThatLeavesEndsItsConnections(t *testing.T) {
	t.Parallel()
	h := newHTTP(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "x") }), slog.New(slog.DiscardHandler))
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	for _, leaving := range []bool{false, true} {
		resp, err := server.Client().Get(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.Close != leaving {
			t.Errorf("leaving %v: the connection is to be closed: %v, %v", leaving, resp.Close, err)
		}
		resp.Body.Close()
		h.Leave()
	}
}
