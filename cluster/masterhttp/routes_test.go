package masterhttp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"weedd/cluster"
	"weedd/cluster/master"
	"weedd/cluster/masterhttp"
	"weedd/cluster/placement"
	"weedd/volume"
	"weedd/volume/needle"
)

// fake is a master of a cluster with one volume, 3, on one node.
type fake struct {
	stored *needle.Needle
	last   master.Request
	err    error // of Assign and Submit
}

var node = volume.Node{ID: "n", URL: "10.0.0.1:8080", PublicURL: "pub:80", DataCenter: "dc1", Rack: "r1"}

func (f *fake) Assign(_ context.Context, req master.Request) (master.Assignment, error) {
	f.last = req
	return master.Assignment{ID: volume.FileID{Volume: 3, Key: 1, Cookie: 0x637037d6}, Count: max(req.Count, 1), Node: node}, f.err
}

func (f *fake) Submit(ctx context.Context, req master.Request, n *needle.Needle) (master.Assignment, volume.PutResult, error) {
	a, err := f.Assign(ctx, req)
	f.stored = n
	return a, volume.PutResult{Checksum: needle.Checksum(n.Data), Size: int64(len(n.Data))}, err
}

func (f *fake) Discard([]master.Assignment) {}

func (f *fake) Lookup(_ context.Context, id volume.ID, collection string) ([]volume.Node, error) {
	if id != 3 || collection != "" {
		return nil, fmt.Errorf("%w: volume id %d not found", volume.ErrNoVolume, id)
	}
	return []volume.Node{node}, nil
}

func (f *fake) Grow(_ context.Context, req placement.GrowRequest) ([]*volume.Entry, error) {
	var out []*volume.Entry
	for i := range req.Count {
		e := &volume.Entry{Volume: volume.ID(i + 1)}
		for c := range req.Spec.Placement.Copies() {
			e.InSync = append(e.InSync, volume.Holder{Node: volume.NodeID(fmt.Sprint(c)), Copy: 1})
		}
		out = append(out, e)
	}
	return out, nil
}

func (f *fake) Operate(_ context.Context, op cluster.Operation) (cluster.Outcome, error) {
	switch {
	case op.Explain != nil && *op.Explain == 3:
		return cluster.Outcome{Volumes: []cluster.Explanation{{Entry: volume.Entry{Volume: 3}, Waits: []string{"nothing"}}}}, nil
	case op.Drain != nil:
		return cluster.Outcome{Drain: &cluster.ViewDrain{Node: volume.NodeID(op.Drain.Node)}}, nil
	case op.Explain != nil:
		return cluster.Outcome{}, fmt.Errorf("%w: volume %d is not in the catalog", volume.ErrNotFound, *op.Explain)
	}
	return cluster.Outcome{}, nil
}

func (f *fake) Compact(context.Context, float64) error { return nil }

func (f *fake) DeleteCollection(_ context.Context, name string) (int, error) {
	if name != "pics" {
		return 0, volume.ErrNotFound
	}
	return 1, nil
}

func (f *fake) View(context.Context) (cluster.View, error) {
	e := volume.Entry{Volume: 3, State: volume.StateOpen, Primary: "n", InSync: []volume.Holder{{Node: "n", Copy: 1}}}
	return cluster.View{ClusterID: "c",
		Nodes:   []cluster.ViewNode{{Node: node, Alive: true, Disks: []volume.DiskReport{{Max: 8}}}},
		Volumes: []cluster.ViewVolume{{Entry: e, Copies: []cluster.ViewCopy{{Node: "n", InSync: true, Report: &volume.CopyReport{Volume: 3, Size: 8}}}}}}, nil
}

func (f *fake) Status() (string, bool, []string, volume.ID) {
	return "m:9333", true, []string{"m:9333"}, 3
}
func (f *fake) Stats() map[string]string { return map[string]string{"term": "2"} }

func serve(t *testing.T, f *fake) http.Handler {
	t.Helper()
	return masterhttp.New(masterhttp.Options{Master: f, Group: f, Ready: func() []string { return []string{"no master leads"} },
		Log: slog.New(slog.DiscardHandler), Version: "1", DefaultReplication: 1}).Handler()
}

func do(h http.Handler, method, path, from, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if r.RemoteAddr = from; from == "" {
		r.RemoteAddr = "127.0.0.1:5"
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestRoutes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, method, path, from string
		status                   int
		body                     string // whole, or its front before "…"
	}{
		{"assign", "GET", "/dir/assign", "", 200, `{"fid":"3,01637037d6","url":"10.0.0.1:8080","publicUrl":"pub:80","count":1}`},
		{"assign three ids", "POST", "/dir/assign?count=3", "", 200, `{"fid":"3,01637037d6","url":"10.0.0.1:8080","publicUrl":"pub:80","count":3}`},
		{"assign with a count that is no number", "GET", "/dir/assign?count=x", "", 406, `{"error":…`},
		{"assign with a bad replication", "GET", "/dir/assign?replication=abc", "", 406, `{"error":…`},
		{"assign with a replication above 255", "GET", "/dir/assign?replication=300", "", 406, `{"error":…`},
		{"assign with an unknown unit of ttl", "GET", "/dir/assign?ttl=3x", "", 406, `{"error":…`},
		{"assign into a collection that is a path", "GET", "/dir/assign?collection=..%2Fx", "", 406, `{"error":…`},
		{"assign by HEAD takes nothing", "HEAD", "/dir/assign", "", 200, ``},
		{"OPTIONS", "OPTIONS", "/dir/assign", "", 204, ``},
		{"lookup", "GET", "/dir/lookup?volumeId=3", "", 200, `{"volumeOrFileId":"3","locations":[{"url":"10.0.0.1:8080","publicUrl":"pub:80","dataCenter":"dc1"}]}`},
		{"lookup of a file id", "GET", "/dir/lookup?fileId=3,01637037d6", "", 200, `{"volumeOrFileId":"3","locations":[…`},
		{"lookup of an unknown volume", "GET", "/dir/lookup?volumeId=9", "", 404, `{"volumeOrFileId":"9","error":…`},
		{"lookup in another collection", "GET", "/dir/lookup?volumeId=3&collection=x", "", 404, `{"volumeOrFileId":"3","error":…`},
		{"lookup of nothing", "GET", "/dir/lookup", "", 404, `{"error":…`},
		{"redirect", "GET", "/3,01637037d6.jpg?a=b", "", 308, `<a href="http://pub:80/3,01637037d6.jpg?a=b">…`},
		{"redirect of an unknown volume", "GET", "/9,01637037d6", "", 404, `{"error":…`},
		{"redirect of a bare volume id", "GET", "/3", "", 404, `{"error":…`},
		{"redirect of junk", "GET", "/nosuchpage", "", 404, `{"error":…`},
		{"a path that does not exist", "GET", "/vol/list", "", 404, "404 page not found\n"},
		{"grow", "GET", "/vol/grow?count=2", "", 200, `{"count":4,"volumes":[1,2]}`},
		{"grow nothing", "GET", "/vol/grow?count=0", "", 200, `{"count":0}`},
		{"grow without a count", "GET", "/vol/grow", "", 406, `{"error":…`},
		{"delete a collection", "GET", "/col/delete?collection=pics", "", 204, ``},
		{"delete a collection that does not exist", "GET", "/col/delete?collection=nope", "", 400, `{"error":…`},
		{"delete the default collection by leaving the name out", "GET", "/col/delete", "", 400, `{"error":…`},
		{"delete a collection from elsewhere", "GET", "/col/delete?collection=pics", "10.1.1.1:5", 401, `{"error":…`},
		{"collection info without a name", "GET", "/collection/info", "", 400, `{"error":…`},
		{"dir status", "GET", "/dir/status", "", 200, `{"Topology":{"Max":8,"Free":7,"DataCenters":[{"Id":"dc1","Racks":[{"Id":"r1","DataNodes":[{"Url":"10.0.0.1:8080","PublicUrl":"pub:80","Volumes":1,"EcShards":0,"Max":8,"VolumeIds":" 3"}]}]}],"Layouts":[{"replication":"000","ttl":"","writables":[3],"collection":"","diskType":"hdd"}]},"TopologyId":"c","Version":"weedd 1"}`},
		{"vol status", "GET", "/vol/status", "", 200, `{"Version":"weedd 1","Volumes":{"Max":8,"Free":7,"DataCenters":{"dc1":{"r1":{"10.0.0.1:8080":[{"Collection":"",…`},
		{"cluster status", "GET", "/cluster/status", "", 200, `{"IsLeader":true,"Leader":"m:9333","Peers":["m:9333"],"MaxVolumeId":3}`},
		{"cluster status by POST", "POST", "/cluster/status", "", 405, ``},
		{"healthz", "GET", "/healthz", "", 200, ``},
		{"readyz says why not", "GET", "/readyz", "", 503, `{"ready":false,"reasons":["no master leads"]}`},
		{"raft stats", "GET", "/raft/stats", "", 200, `{"term":"2"}`},
		{"submit by GET", "GET", "/submit", "", 405, `{"error":"Only submit via POST!"}`},
		{"submit without a body", "POST", "/submit", "", 400, `{"error":…`},
		{"submit with a bad count", "POST", "/submit?count=x", "", 400, `{"error":…`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := do(serve(t, &fake{}), tt.method, tt.path, tt.from, "")
			got := w.Body.String()
			front, cut := strings.CutSuffix(tt.body, "…")
			if w.Code != tt.status || (cut && !strings.HasPrefix(got, front)) || (!cut && got != tt.body) {
				t.Errorf("%d %s\nwant %d %s", w.Code, got, tt.status, tt.body)
			}
			if w.Code == http.StatusServiceUnavailable && w.Header().Get("Retry-After") == "" {
				t.Error("503 without Retry-After")
			}
			if strings.HasPrefix(got, "{") && w.Header().Get("Content-Type") != "application/json" {
				t.Errorf("JSON as %q", w.Header().Get("Content-Type"))
			}
		})
	}
}

func TestSubmitStoresWhatTheClientSent(t *testing.T) {
	t.Parallel()
	f := &fake{}
	form := "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\nContent-Type: text/plain\r\n\r\nHello submit\r\n--b--\r\n"
	w := do(serve(t, f), "POST", "/submit?ttl=5m&ts=1500000000&collection=c&replication=010", "", form,
		"Content-Type", "multipart/form-data; boundary=b", "Seaweed-Color", "blue")
	if want := `{"eTag":"1bc7b2a3","fid":"3,01637037d6","fileName":"a.txt","fileUrl":"pub:80/3,01637037d6","size":12}`; w.Code != 201 || w.Body.String() != want {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	n := f.stored
	if string(n.Data) != "Hello submit" || string(n.Name) != "a.txt" || string(n.Mime) != "text/plain" || n.Modified != 1500000000 ||
		n.TTL.String() != "5m" || string(n.Pairs) != `{"Color":"blue"}` {
		t.Errorf("stored %+v", n)
	}
	if s := f.last.Spec; s.Collection != "c" || s.Placement != 10 || s.TTL.String() != "5m" {
		t.Errorf("asked for %+v", s)
	}
}

func TestErrorsOfTheMasterReachTheClient(t *testing.T) {
	t.Parallel()
	for err, status := range map[error]int{volume.ErrUnavailable: 503, volume.ErrUnsatisfiable: 406, volume.ErrNoSpace: 406,
		volume.ErrNotLeader: 503, volume.ErrTooLarge: 413, errors.New("secret"): 500} {
		w := do(serve(t, &fake{err: fmt.Errorf("why: %w", err)}), "GET", "/dir/assign", "", "")
		var body struct{ Error string }
		if e := json.NewDecoder(io.Reader(w.Body)).Decode(&body); w.Code != status || e != nil || body.Error == "" || strings.Contains(body.Error, "secret") {
			t.Errorf("%v: %d %q", err, w.Code, body.Error)
		}
	}
}
