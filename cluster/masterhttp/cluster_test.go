package masterhttp_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/goleak"

	"weedd/cluster"
	"weedd/cluster/master"
	"weedd/cluster/master/mastertest"
	"weedd/cluster/masterhttp"
	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/volumehttp"
	"weedd/volume/volumetest/replay"
	"weedd/volume/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// group is what a master knows of the masters.
type group struct {
	*mastertest.Cluster
	self  string
	peers []string // the first leads, while one does
}

func (g *group) Status() (leader string, self bool, peers []string, maxVolume volume.ID) {
	cat, _ := g.Catalog()
	if g.Leading() {
		leader = g.peers[0]
	}
	return leader, leader == g.self, g.peers, cat.MaxVolume()
}

func (g *group) Stats() map[string]string {
	stats := map[string]string{"last_contact": "0", "latest_configuration": "[]", "num_peers": "2", "protocol_version": "3",
		"protocol_version_max": "3", "protocol_version_min": "0", "snapshot_version_max": "1", "snapshot_version_min": "0", "state": "Leader"}
	for _, name := range []string{"applied_index", "commit_index", "fsm_pending", "last_log_index", "last_log_term", "last_snapshot_index",
		"last_snapshot_term", "latest_configuration_index", "term"} {
		stats[name] = "1"
	}
	return stats
}

// options are those of one master over c, which closes with the test.
func options(t testing.TB, c *mastertest.Cluster, g *group) masterhttp.Options {
	log := slog.New(slog.DiscardHandler)
	m := master.New(master.Options{Log: c, Gossip: c, Leader: c, Volumes: c, Logger: log, Hold: 5 * time.Second})
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return masterhttp.Options{Master: m, Group: g, Ready: func() []string { return nil }, Log: log, Version: "1.2.3", VolumeLimit: 64 << 20}
}

// single is one API over a cluster of three volume servers, called without a
// network.
type single struct {
	*mastertest.Cluster
	t    testing.TB
	opts masterhttp.Options
	api  *masterhttp.API
}

// newSingle makes one, with options edited by the edits.
func newSingle(t testing.TB, edits ...func(*masterhttp.Options)) *single {
	c := mastertest.New(mastertest.Node("a", "dc1", "r1"), mastertest.Node("b", "dc1", "r2"), mastertest.Node("c", "dc2", "r1"))
	s := &single{Cluster: c, t: t, opts: options(t, c, &group{c, "m1:9333", []string{"m1:9333", "m2:9333"}})}
	for _, edit := range edits {
		edit(&s.opts)
	}
	s.api = masterhttp.New(s.opts)
	return s
}

// do sends a request from loopback. Headers are pairs.
func (s *single) do(method, target, body string, headers ...string) *httptest.ResponseRecorder {
	s.t.Helper()
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.RemoteAddr = "127.0.0.1:5"
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	s.api.Handler().ServeHTTP(w, r)
	return w
}

// blobs is a volume server for volumehttp, over the blobs of the whole cluster.
type blobs struct{ *mastertest.Cluster }

func (b blobs) Put(ctx context.Context, id volume.FileID, n *needle.Needle, createOnly bool) (volume.PutResult, error) {
	return b.Blobs.Put(ctx, id, n, createOnly)
}

func (b blobs) Get(ctx context.Context, id volume.FileID, readDeleted bool) (*needle.Needle, error) {
	cat, _ := b.Catalog()
	if _, ok := cat.Volume(id.Volume); !ok {
		return nil, volume.ErrNoVolume
	}
	return b.Blobs.Get(ctx, id, readDeleted)
}

func (b blobs) Delete(ctx context.Context, id volume.FileID, modified uint64) (int64, error) {
	return b.Blobs.Delete(ctx, id, modified)
}

func (b blobs) Status() volumehttp.Status { return volumehttp.Status{} }

func (b blobs) Ready() []string { return nil }

// newCluster makes what the transcripts talk to: three masters, and volume
// servers in two data centers. All but the first transcript find volumes there.
func newCluster(t *testing.T, file string) *replay.Player {
	if a, ok := accessOf[file]; ok {
		return newPair(t, a)
	}
	c := mastertest.New()
	hosts := map[string]string{"volume3public": "127.0.0.1:1"}
	for _, v := range []struct{ name, dc, rack string }{{"volume1", "dc1", "rack1"}, {"volume2", "dc1", "rack2"}, {"volume3", "dc2", "rack1"}} {
		api := volumehttp.New(volumehttp.Options{Blobs: blobs{c}, Log: slog.New(slog.DiscardHandler)})
		t.Cleanup(func() {
			if err := api.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
		hosts[v.name] = listen(t, api.Handler())
		c.SetNode(volumeServer(hosts, v.name, v.dc, v.rack))
	}
	g := &group{Cluster: c, peers: make([]string, 3)}
	for i, name := range []string{"leader", "follower", "follower2"} {
		var api *masterhttp.API
		hosts[name] = listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { api.Handler().ServeHTTP(w, r) }))
		g.peers[i] = hosts[name]
		o := options(t, c, &group{c, hosts[name], g.peers})
		o.Metrics = promhttp.HandlerFor(prometheus.NewRegistry(), promhttp.HandlerOpts{})
		api = masterhttp.New(o)
	}
	hosts["metrics"] = hosts["leader"] // they have no port of their own
	if file != "master-assign" {
		for range 3 {
			c.Make(volume.Spec{}, "volume1")
		}
		for range 2 {
			c.Make(volume.Spec{}, "volume2")
		}
		c.Make(volume.Spec{}, "volume3")
	}
	return replay.NewPlayer(t, hosts)
}

// accessOf is how the servers of some transcripts are set up.
var accessOf = map[string]wire.Access{
	"jwt":       {WriteKey: []byte("test-write-key"), ReadKey: []byte("test-read-key"), WriteLife: 10 * time.Second, ReadLife: time.Minute},
	"whitelist": {Allow: []netip.Prefix{netip.MustParsePrefix("10.9.8.7/32"), netip.MustParsePrefix("192.168.0.0/16")}},
}

// newPair makes one master and one volume server.
func newPair(t *testing.T, a wire.Access) *replay.Player {
	c := mastertest.New()
	vol := volumehttp.New(volumehttp.Options{Blobs: blobs{c}, Log: slog.New(slog.DiscardHandler), Access: a})
	t.Cleanup(func() {
		if err := vol.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	hosts := map[string]string{"volume": listen(t, vol.Handler())}
	c.SetNode(volumeServer(hosts, "volume", "DefaultDataCenter", "DefaultRack"))
	var api *masterhttp.API
	hosts["master"] = listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { api.Handler().ServeHTTP(w, r) }))
	o := options(t, c, &group{c, hosts["master"], []string{hosts["master"]}})
	o.Access = a
	api = masterhttp.New(o)
	p := replay.NewPlayer(t, hosts)
	p.Setup = func(what string) {
		if what != "wait 11 seconds" {
			t.Fatalf("nobody does this: %s", what)
		}
		a.WriteLife = 1 // a token that is over is as good as a wait for that
		p.Auth["b"] = a.Token(p.FIDs["b"], true)
	}
	return p
}

func volumeServer(hosts map[string]string, name, dc, rack string) cluster.Node {
	n := mastertest.Node(name, dc, rack)
	n.VolumeHTTP, n.PublicURL = hosts[name], hosts[name]
	if name == "volume3" {
		n.PublicURL = hosts["volume3public"]
	}
	return n
}

// listen serves h until the test ends and returns its host:port.
func listen(t *testing.T, h http.Handler) string {
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

// text reads the body of an answer.
func text(t testing.TB, w *httptest.ResponseRecorder) string {
	t.Helper()
	b, err := io.ReadAll(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
