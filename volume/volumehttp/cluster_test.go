package volumehttp_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/volumehttp"
	"weedd/volume/volumetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is the volume role over stores in memory: reads of what another node
// holds are refused with its name, writes and deletes are passed on.
type node struct {
	*volumetest.Blobs
	held   volume.ID
	others map[volume.ID]*node
	addr   volume.Node
	notYet []string
}

func (n *node) owner(id volume.ID) *volumetest.Blobs {
	if o := n.others[id]; o != nil {
		return o.Blobs
	}
	return n.Blobs
}

func (n *node) Put(ctx context.Context, id volume.FileID, f *needle.Needle, createOnly bool) (volume.PutResult, error) {
	return n.owner(id.Volume).Put(ctx, id, f, createOnly)
}

func (n *node) Delete(ctx context.Context, id volume.FileID, modified uint64) (int64, error) {
	return n.owner(id.Volume).Delete(ctx, id, modified)
}

func (n *node) Get(ctx context.Context, id volume.FileID, readDeleted bool) (*needle.Needle, error) {
	if o := n.others[id.Volume]; o != nil {
		return nil, &volume.ElsewhereError{Volume: id.Volume, Nodes: []volume.Node{o.addr}}
	}
	return n.Blobs.Get(ctx, id, readDeleted)
}

func (n *node) Status() volumehttp.Status {
	return volumehttp.Status{
		Disks:  []volume.DiskReport{{Dir: "/data", AllB: 1000, FreeB: 250}},
		Copies: []volume.CopyReport{{Volume: n.held, State: volume.CopyHealthy, Modified: time.Unix(1_500_000_000, 0)}},
	}
}

func (n *node) Ready() []string { return n.notYet }

// serve serves n until the test ends and tells its host:port, to n too.
func serve(t *testing.T, n *node, o volumehttp.Options) string {
	o.Blobs, o.Version, o.Log = n, "1.2.3", slog.New(slog.DiscardHandler)
	api := volumehttp.New(o)
	srv := httptest.NewServer(api.Handler())
	t.Cleanup(func() {
		srv.Close()
		if err := api.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	host := strings.TrimPrefix(srv.URL, "http://")
	n.addr = volume.Node{URL: host, PublicURL: host}
	return host
}

// client makes a client that adds nothing to requests and follows nothing.
func client(t *testing.T) *http.Client {
	tr := &http.Transport{DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{
		Transport:     tr,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func gzipped(s string) string {
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	_, _ = zw.Write([]byte(s)) // into memory
	_ = zw.Close()
	return b.String()
}

// gather lists the metrics of api, histograms with their counts.
func gather(t *testing.T, api *volumehttp.API) string {
	reg := prometheus.NewRegistry()
	for _, c := range api.Collectors() {
		reg.MustRegister(c)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			value := m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			fmt.Fprintf(&b, "%s{%s} %v\n", f.GetName(), strings.Join(labels, ","), value)
		}
	}
	return b.String()
}
