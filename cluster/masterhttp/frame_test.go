package masterhttp_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weedd/cluster"
	"weedd/cluster/master"
	"weedd/cluster/masterhttp"
	"weedd/cluster/placement"
	"weedd/volume"
)

// Every route has an answer without a leader: what needs one is 503 and says
// when to come back.
func TestWithoutLeader(t *testing.T) {
	t.Parallel()
	s := newSingle(t, func(o *masterhttp.Options) { o.Master.(*master.Master).SetHold(20 * time.Millisecond) })
	id := s.Make(volume.Spec{}, "a")
	s.SetLeading(false)
	for path, status := range map[string]int{
		"/dir/assign": 503, "/vol/grow?count=1": 503, "/dir/status": 503, "/vol/status": 503, "/cluster/view": 503, "/collection/info?collection=x": 503,
		"/col/delete?collection=x": 503, "/cluster/healthz": 503, "/dir/lookup?volumeId=99": 503, "/99,0112345678": 503,
		"/dir/lookup?volumeId=" + id.String(): 200, "/" + id.String() + ",0112345678": 308, "/cluster/status": 200, "/healthz": 200, "/": 200,
	} {
		w := s.do("GET", path, "")
		if w.Code != status || (status == 503) != (w.Header().Get("Retry-After") != "") {
			t.Errorf("%s: %d %v %s", path, w.Code, w.Header(), text(t, w))
		}
	}
	if w := s.do("POST", "/submit", "x", "Content-Type", "text/plain"); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("submit: %d", w.Code)
	}
	if got := text(t, s.do("GET", "/cluster/status", "")); got != `{"Peers":["m1:9333","m2:9333"],"MaxVolumeId":1}` {
		t.Errorf("cluster status: %s", got)
	}
}

func TestHeadHasNoBody(t *testing.T) {
	t.Parallel()
	s := newSingle(t)
	s.Make(volume.Spec{Collection: "x"}, "a")
	for _, path := range []string{"/dir/assign", "/dir/lookup?volumeId=1", "/dir/status", "/vol/status", "/collection/info?collection=x", "/cluster/status",
		"/cluster/healthz", "/cluster/view", "/raft/stats", "/healthz", "/readyz", "/", "/ui/index.html", "/1,0112345678", "/nosuchpage", "/9,0112345678", "/submit", "/a/b"} {
		get, head := s.do("GET", path, ""), s.do("HEAD", path, "")
		if body := text(t, head); body != "" && !strings.HasPrefix(body, "404 page") { // that one net/http cuts
			t.Errorf("HEAD %s: %q", path, body)
		}
		if get.Code != head.Code {
			t.Errorf("%s: GET %d, HEAD %d", path, get.Code, head.Code)
		}
	}
}

func TestJSONIsEscapedAndIndented(t *testing.T) {
	t.Parallel()
	s := newSingle(t)
	w := s.do("GET", "/dir/lookup?volumeId=%3Ca%3E%26", "")
	if got := text(t, w); w.Code != 404 || !strings.HasPrefix(got, `{"volumeOrFileId":"\u003ca\u003e\u0026",`) || strings.HasSuffix(got, "\n") {
		t.Errorf("%d %s", w.Code, got)
	}
	if w.Header().Get("X-Content-Type-Options") != "nosniff" || w.Header().Get("X-Amz-Request-Id") == "" {
		t.Errorf("headers %v", w.Header())
	}
	if got := text(t, s.do("GET", "/readyz?pretty=0", "")); got != "{\n  \"ready\": true,\n  \"reasons\": []\n}" {
		t.Errorf("%s", got)
	}
	if got := text(t, s.do("GET", "/dir/lookup?volumeId="+strings.Repeat("x", 5000), "")); len(got) > 400 {
		t.Errorf("a long parameter comes back whole: %d bytes", len(got))
	}
}

func TestReadyz(t *testing.T) {
	t.Parallel()
	s := newSingle(t, func(o *masterhttp.Options) {
		o.Ready = func() []string { return []string{"no master leads", "the disk is slow"} }
	})
	w := s.do("GET", "/readyz", "")
	if got := text(t, w); w.Code != 503 || got != `{"ready":false,"reasons":["no master leads","the disk is slow"]}` || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d %s %v", w.Code, got, w.Header())
	}
}

func TestFormBodies(t *testing.T) {
	t.Parallel()
	s := newSingle(t)
	const form = "application/x-www-form-urlencoded"
	if w := s.do("POST", "/dir/assign", "count=4&collection=c", "Content-Type", form); w.Code != 200 || !strings.Contains(text(t, w), `"count":4}`) {
		t.Errorf("assign: %d", w.Code)
	}
	if w := s.do("POST", "/vol/grow", "count=1&collection=g", "Content-Type", form); w.Code != 200 || !strings.HasPrefix(text(t, w), `{"count":1,`) {
		t.Errorf("grow: %d", w.Code)
	}
	if w := s.do("POST", "/dir/assign", "count=4&x="+strings.Repeat("y", 64<<10), "Content-Type", form); w.Code != 413 {
		t.Errorf("a form over 64 KiB: %d %s", w.Code, text(t, w))
	}
	if w := s.do("GET", "/dir/assign?count=%zz", ""); w.Code != 400 {
		t.Errorf("a query that does not parse: %d", w.Code)
	}
}

// What destroys data may be called from loopback, and from where the operator
// says.
func TestWhoMayDestroy(t *testing.T) {
	t.Parallel()
	for from, status := range map[string]int{"127.0.0.1:5": 204, "[::1]:5": 204, "[::ffff:127.0.0.1]:5": 204, "10.1.2.3:5": 204, "[::ffff:10.1.2.3]:5": 204,
		"10.2.0.1:5": 401, "[2001:db8::1]:5": 401, "nonsense": 401, "@": 401, "": 401} {
		s := newSingle(t, func(o *masterhttp.Options) { o.Access.Admin = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")} })
		s.Make(volume.Spec{Collection: "x"}, "a")
		r := httptest.NewRequest("GET", "/col/delete?collection=x", nil)
		r.RemoteAddr = from
		w := httptest.NewRecorder()
		s.api.Handler().ServeHTTP(w, r)
		cat, _ := s.Catalog()
		if _, there := cat.Volume(1); w.Code != status || there != (status == 401) {
			t.Errorf("from %q: %d, still there: %v", from, w.Code, there)
		}
	}
	s := newSingle(t)
	s.Make(volume.Spec{}, "a")
	for _, c := range []struct {
		method, path string
		status       int
	}{{"GET", "/col/delete", 400}, {"GET", "/col/delete?collection=", 400}, {"HEAD", "/col/delete?collection=x", 405}, {"OPTIONS", "/col/delete?collection=x", 204}} {
		if w := s.do(c.method, c.path, ""); w.Code != c.status {
			t.Errorf("%s %s: %d", c.method, c.path, w.Code)
		}
	}
	if cat, _ := s.Catalog(); len(cat.Volumes()) != 1 {
		t.Error("the default collection is gone")
	}
}

// What an operator asks is open to loopback only, unless it changes nothing, and is
// no form that a page in a browser could send.
func TestWhoMayOperate(t *testing.T) {
	t.Parallel()
	s := newSingle(t)
	for _, c := range []struct {
		name, from, kind, body string
		status                 int
	}{
		{"from loopback", "127.0.0.1:5", "application/json", `{"drain":{"node":"a"}}`, 200},
		{"with a charset", "127.0.0.1:5", "application/json; charset=utf-8", `{"drain":{"node":"a"}}`, 200},
		{"from elsewhere", "10.1.2.3:5", "application/json", `{"drain":{"node":"a"}}`, 401},
		{"a repair from elsewhere", "10.1.2.3:5", "application/json", `{"repair":{}}`, 401},
		{"a removal from elsewhere", "10.1.2.3:5", "application/json", `{"remove":{"master":"a"}}`, 401},
		{"a question from elsewhere", "10.1.2.3:5", "application/json", `{"explain":3}`, 200},
		{"a dry run from elsewhere", "10.1.2.3:5", "application/json", `{"repair":{"dry_run":true}}`, 200},
		{"a promotion from elsewhere", "10.1.2.3:5", "application/json", `{"promote":{"volume":3,"node":"a"}}`, 401},
		{"what that would be", "10.1.2.3:5", "application/json", `{"promote":{"volume":3,"node":"a","dry_run":true}}`, 200},
		{"volumes given up from elsewhere", "10.1.2.3:5", "application/json", `{"forget":{"volumes":[3]}}`, 401},
		{"volumes given up from loopback", "127.0.0.1:5", "application/json", `{"forget":{"volumes":[3]}}`, 200},
		{"what would be given up", "10.1.2.3:5", "application/json", `{"forget":{"volumes":[3],"dry_run":true}}`, 200},
		{"volumes frozen from elsewhere", "10.1.2.3:5", "application/json", `{"readonly":{"volumes":[3]}}`, 401},
		{"volumes frozen from loopback", "127.0.0.1:5", "application/json", `{"readonly":{"volumes":[3],"undo":true}}`, 200},
		{"a form", "127.0.0.1:5", "application/x-www-form-urlencoded", `{"drain":{"node":"a"}}`, 400},
		{"plain text", "127.0.0.1:5", "text/plain", `{"drain":{"node":"a"}}`, 400},
		{"no type", "127.0.0.1:5", "", `{"drain":{"node":"a"}}`, 400},
		{"nothing", "127.0.0.1:5", "application/json", `{}`, 400},
		{"two at once", "127.0.0.1:5", "application/json", `{"explain":3,"repair":{}}`, 400},
		{"another two at once", "127.0.0.1:5", "application/json", `{"forget":{"volumes":[3]},"explain":3}`, 400},
		{"what is not known", "127.0.0.1:5", "application/json", `{"dance":{}}`, 400},
		{"no JSON", "127.0.0.1:5", "application/json", `{`, 400},
		{"too much", "127.0.0.1:5", "application/json", `{"drain":{"node":"` + strings.Repeat("x", 70<<10) + `"}}`, 413},
	} {
		r := httptest.NewRequest("POST", "/cluster/operation", strings.NewReader(c.body))
		r.RemoteAddr = c.from
		r.Header.Set("Content-Type", c.kind)
		w := httptest.NewRecorder()
		s.api.Handler().ServeHTTP(w, r)
		if w.Code != c.status {
			t.Errorf("%s: %d, want %d: %s", c.name, w.Code, c.status, w.Body)
		}
	}
}

// odd is a master that panics, or answers an error that nobody expects.
type odd struct {
	masterhttp.Master
	err error
}

func (o odd) Assign(context.Context, master.Request) (master.Assignment, error) {
	if o.err == nil {
		panic("a mistake")
	}
	return master.Assignment{}, o.err
}

func TestFailuresInside(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err    error
		status int
		body   string
	}{
		{nil, 500, `{"error":"internal error"}`},
		{fmt.Errorf("secret"), 500, `{"error":"internal error"}`},
		{fmt.Errorf("%w: no master leads", volume.ErrUnavailable), 503, `{"error":"temporarily unavailable: no master leads"}`},
		{fmt.Errorf("%w: on three racks", volume.ErrUnsatisfiable), 406, `{"error":"placement cannot be met: on three racks"}`},
		{context.Canceled, 499, `{"error":"context canceled"}`},
	} {
		s := newSingle(t, func(o *masterhttp.Options) {
			o.Master = odd{o.Master, c.err}
		})
		if w := s.do("GET", "/dir/assign", ""); w.Code != c.status || text(t, w) != c.body {
			t.Errorf("%v: %d", c.err, w.Code)
		}
	}
}

func TestTooManyWait(t *testing.T) {
	t.Parallel()
	s := newSingle(t, func(o *masterhttp.Options) { o.HeldRequests = 1 })
	entered, leave := make(chan struct{}), make(chan struct{})
	s.OnGrow = func(context.Context, placement.GrowRequest) error {
		close(entered)
		<-leave
		return nil
	}
	done := make(chan int)
	go func() { done <- s.do("GET", "/dir/assign", "").Code }()
	<-entered
	if w := s.do("GET", "/dir/assign", ""); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("one more: %d %s", w.Code, text(t, w))
	}
	s.api.SetLimits(1<<20, 0, 2, time.Second)
	if w := s.do("GET", "/dir/lookup?volumeId=1", ""); w.Code != 404 {
		t.Errorf("a lookup waits for nobody: %d", w.Code)
	}
	close(leave)
	if code := <-done; code != 200 {
		t.Errorf("the one that waited: %d", code)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	s := newSingle(t, func(o *masterhttp.Options) { o.Metrics = http.NotFoundHandler() })
	s.do("GET", "/nosuchpage", "")
	reg := prometheus.NewRegistry()
	reg.MustRegister(s.api.Collectors()...)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "weedd_http_requests_total" && len(f.GetMetric()) == 1 && f.GetMetric()[0].GetCounter().GetValue() == 1 {
			return
		}
	}
	t.Errorf("%v", families)
}

func TestStatusPage(t *testing.T) {
	t.Parallel()
	v := cluster.View{ClusterID: "id<1>", Term: 7, Leader: cluster.ViewLeader{Address: "m1:9333"},
		Masters:  []cluster.ViewMaster{{Address: "m1:9333", Voter: true, Alive: true, Leader: true}, {Address: "m2:9333", Voter: true}},
		Nodes:    []cluster.ViewNode{{Node: volume.Node{ID: "a", URL: "a:8080", DataCenter: "dc1", Rack: "r<1>"}, Disks: []volume.DiskReport{{AllB: 3 << 30, FreeB: 1 << 30}}}},
		Problems: []cluster.ViewProblem{{Severity: cluster.SeverityError, What: "volume 7: <script>"}}}
	for i := range 1200 {
		v.Volumes = append(v.Volumes, cluster.ViewVolume{Entry: volume.Entry{Volume: volume.ID(i + 1), Spec: twoCopies, InSync: []volume.Holder{{Node: "a"}}}})
	}
	s := newSingle(t, func(o *masterhttp.Options) {
		o.Master = viewer{o.Master, v}
		o.Ready = func() []string { return []string{"the disk is slow"} }
	})
	for _, path := range []string{"/", "/ui/index.html"} {
		w := s.do("GET", path, "")
		got := text(t, w)
		for _, want := range []string{"id&lt;1&gt;", "<b>m1:9333</b> leads; this is it, in term 7", "volume 7: &lt;script&gt;", "r&lt;1&gt;", "1 GiB of 3 GiB",
			"the disk is slow", "<td>1000</td>", "1 of 2, 0 B", "And 200 more", "m2:9333"} {
			if !strings.Contains(got, want) {
				t.Errorf("%s: no %q", path, want)
			}
		}
		if w.Code != 200 || strings.Contains(got, "<script") || strings.Contains(got, "<td>1001</td>") || w.Header().Get("Content-Type") != "text/html; charset=utf-8" {
			t.Errorf("%s: %d %v", path, w.Code, w.Header())
		}
	}
	if len(v.Volumes) != 1200 {
		t.Error("the page cut the view of others")
	}
}

// A page of a master without a leader comes soon, and says so.
func TestStatusPageWithoutLeader(t *testing.T) {
	t.Parallel()
	s := newSingle(t, func(o *masterhttp.Options) { o.Master.(*master.Master).SetHold(10 * time.Millisecond) })
	s.SetLeading(false)
	w := s.do("GET", "/", "")
	if got := text(t, w); w.Code != 200 || !strings.Contains(got, "No master leads") || !strings.Contains(got, "m2:9333") {
		t.Errorf("%d %s", w.Code, got)
	}
}

var twoCopies = volume.Spec{Placement: 1}

type viewer struct {
	masterhttp.Master
	view cluster.View
}

func (v viewer) View(context.Context) (cluster.View, error) { return v.view, nil }
