package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weedd/cluster"
	"weedd/volume"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a cluster of one node that answers as it should, but for what a test has
// it do wrong.
type fake struct {
	server *httptest.Server
	mu     sync.Mutex
	files  map[string][]byte
	key    volume.Key
	faulty bool // the fault is injected
	seen   int  // requests since then
	enough chan struct{}

	lose, revive, repeat, mangle, refuse, uneven bool
}

func newFake(t *testing.T) *fake {
	f := &fake{files: map[string][]byte{}, enough: make(chan struct{})}
	f.server = httptest.NewServer(f)
	t.Cleanup(f.server.Close)
	return f
}

func (f *fake) addr() string { return strings.TrimPrefix(f.server.URL, "http://") }

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	f.mu.Lock()
	defer f.mu.Unlock()
	id := strings.TrimPrefix(r.URL.Path, "/")
	if f.faulty {
		if f.seen++; f.seen == 150 {
			close(f.enough)
		}
	}
	switch {
	case id == "cluster/view":
		_ = json.NewEncoder(w).Encode(f.view())
	case f.faulty && f.refuse:
		http.Error(w, "not now", http.StatusServiceUnavailable)
	case id == "submit":
		id := f.assign()
		f.files[id] = body
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"fid":%q}`, id)
	case id == "dir/assign":
		fmt.Fprintf(w, `{"fid":%q,"url":%q}`, f.assign(), f.addr())
	case r.Method == http.MethodPut:
		if !f.faulty || !f.lose {
			f.files[id] = body
		}
		w.WriteHeader(http.StatusCreated)
	case r.Method == http.MethodDelete:
		if !f.faulty || !f.revive {
			delete(f.files, id)
		}
		w.WriteHeader(http.StatusAccepted)
	case f.files[id] == nil:
		http.NotFound(w, r)
	case f.faulty && f.mangle:
		_, _ = w.Write(bytes.ToUpper(f.files[id]))
	default:
		_, _ = w.Write(f.files[id])
	}
}

func (f *fake) assign() string {
	if !f.faulty || !f.repeat {
		f.key++
	}
	return volume.FileID{Volume: 1, Key: f.key, Cookie: 7}.String()
}

func (f *fake) view() cluster.View {
	node := volume.Node{ID: "a", URL: f.addr()}
	report := func(size int64) *volume.CopyReport { return &volume.CopyReport{Size: size, Committed: size} }
	size := int64(100)
	if f.uneven {
		size = 101
	}
	return cluster.View{
		Leader:  cluster.ViewLeader{Address: f.addr()},
		Masters: []cluster.ViewMaster{{ID: "a", Address: f.addr()}},
		Nodes:   []cluster.ViewNode{{Node: node}},
		Volumes: []cluster.ViewVolume{{
			Entry:  volume.Entry{Volume: 1, InSync: []volume.Holder{{Node: "a"}}},
			Copies: []cluster.ViewCopy{{Node: "a", Report: report(100)}, {Node: "b", Report: report(size)}},
		}},
	}
}

func (f *fake) set(faulty bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faulty = faulty
}

// fault is injected for so many requests that each kind is among them.
func (f *fake) fault() Fault {
	return Fault{
		Inject: func(ctx context.Context) error {
			f.set(true)
			select {
			case <-f.enough:
			case <-ctx.Done():
			}
			return nil
		},
		Heal: func(context.Context) error { f.set(false); return nil },
	}
}

func quick(f *fake) Options {
	return Options{Masters: []string{f.addr()}, Rate: 500, Steady: 100 * time.Millisecond, For: time.Millisecond, Recover: 200 * time.Millisecond,
		Size: 64, Client: func() *http.Client { return f.server.Client() }}
}

func TestWhatAClusterDoesWrongIsFound(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		fault func(*fake)
		wrong string // "" for nothing
		fails bool
	}{
		{"nothing", func(*fake) {}, "", false},
		{"acknowledged writes are lost", func(f *fake) { f.lose = true }, "no order of its requests", false},
		{"deleted files stay", func(f *fake) { f.revive = true }, "no order of its requests", false},
		{"ids are given out twice", func(f *fake) { f.repeat = true }, "was given out", false},
		{"other bytes are read", func(f *fake) { f.mangle = true }, "wrong bytes", true},
		{"requests are refused", func(f *fake) { f.refuse = true }, "", true},
		{"copies differ", func(f *fake) { f.uneven = true }, "100 and 101 bytes", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			c.fault(f)
			r, err := Run(t.Context(), quick(f), f.fault())
			if err != nil {
				t.Fatal(err)
			}
			if all := strings.Join(r.Wrong, "\n"); (all == "") != (c.wrong == "") || !strings.Contains(all, c.wrong) {
				t.Errorf("wrong: %q, want %q", all, c.wrong)
			}
			if (r.During.Failed > 0) != c.fails || r.Steady.Failed > 0 {
				t.Errorf("%d requests failed before the fault and %d after: %q", r.Steady.Failed, r.During.Failed, r.During.Examples)
			}
			if r.Good() != (c.wrong == "" && !c.fails) || r.Files == 0 {
				t.Errorf("good: %v with %d files", r.Good(), r.Files)
			}
			if lasted := ms(r.healed - r.injected); c.fails && r.During.ReadGap < lasted/2 {
				t.Errorf("all reads failed for about %.0f ms, and the gap is %.0f ms", lasted, r.During.ReadGap)
			}
		})
	}
}

func TestANodeMayBeNamed(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	opt := quick(f)
	opt.Masters[0] = strings.Replace(f.addr(), "127.0.0.1", "localhost", 1)
	if err := opt.setDefaults(); err != nil {
		t.Fatal(err)
	}
	if _, err := newProber(t.Context(), opt); err != nil {
		t.Error(err)
	}
}

func TestTheFaultIsHealedEvenWhenTheRunIsCutShort(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	ctx, cancel := context.WithCancel(t.Context())
	opt := quick(f)
	opt.For = time.Hour
	fault := f.fault()
	inject := fault.Inject
	fault.Inject = func(ctx context.Context) error { defer cancel(); return inject(ctx) }
	_, err := Run(ctx, opt, fault)
	if !errors.Is(err, context.Canceled) || f.faulty {
		t.Errorf("%v, still faulty: %v", err, f.faulty)
	}
}

func TestWhatCannotBeProbedIsRefused(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	for _, c := range []struct {
		change func(*Options)
		want   string
	}{
		{func(o *Options) { o.Masters = nil }, "no master given"},
		{func(o *Options) { o.Rate = 1e6 }, "at a time"},
		{func(o *Options) { o.Size = 3 }, "files of 3 bytes"},
		{func(o *Options) { o.Masters = append(o.Masters, "localhost:1") }, "localhost:1"},
		{func(o *Options) { o.Masters[0] = strings.Replace(f.addr(), "127.0.0.1", "[::ffff:127.0.0.1]", 1) }, "no node of the cluster"},
	} {
		opt := quick(f)
		c.change(&opt)
		if _, err := Run(t.Context(), opt, Fault{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

func TestHistories(t *testing.T) {
	t.Parallel()
	unknown := errors.New("no answer")
	at := func(k kind, value uint64, begin, end time.Duration, err error) op {
		return op{kind: k, value: value, begin: begin, end: end, err: err}
	}
	for _, c := range []struct {
		name string
		ops  []op
		want bool
	}{
		{"written and read", []op{at(submit, 1, 0, 1, nil), at(get, 1, 2, 3, nil)}, true},
		{"read before it was written", []op{at(get, 2, 2, 3, nil), at(submit, 1, 0, 1, nil), at(overwrite, 2, 4, 5, nil)}, false},
		{"an old value after a new one", []op{at(submit, 1, 0, 1, nil), at(overwrite, 2, 2, 9, nil), at(get, 2, 3, 4, nil), at(get, 1, 5, 6, nil)}, false},
		{"both while it is written", []op{at(submit, 1, 0, 1, nil), at(overwrite, 2, 2, 9, nil), at(get, 1, 3, 4, nil), at(get, 2, 5, 6, nil)}, true},
		{"deleted and back", []op{at(submit, 1, 0, 1, nil), at(remove, 0, 2, 3, nil), at(lastGet, 1, 4, 5, nil)}, false},
		{"a delete without an answer may be done late", []op{at(submit, 1, 0, 1, nil), at(remove, 0, 2, 3, unknown), at(get, 1, 4, 5, nil), at(lastGet, 0, 6, 7, nil)}, true},
		{"or never", []op{at(submit, 1, 0, 1, nil), at(remove, 0, 2, 3, unknown), at(lastGet, 1, 4, 5, nil)}, true},
		{"but not be taken back", []op{at(submit, 1, 0, 1, nil), at(remove, 0, 2, 3, unknown), at(get, 0, 4, 5, nil), at(lastGet, 1, 6, 7, nil)}, false},
		{"two copies that differ", []op{at(submit, 1, 0, 1, nil), at(overwrite, 2, 2, 3, unknown), at(lastGet, 2, 4, 5, nil), at(lastGet, 1, 6, 7, nil)}, false},
	} {
		if got := linear(c.ops); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestPrint(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	r := &Report{Fault: "kill -9", Wrong: []string{"file 1,2 is gone"}, During: Phase{Failed: 1, WriteGap: 812,
		Requests: []Counts{{Kind: "submit", Done: 9, Failed: 1}}, Examples: []string{"submit at a: 503"}}}
	if err := Print(&out, r, &Report{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"kill -9        10       1        812", "none", "1 of 10 failed: submit", "  submit at a: 503", "WRONG: file 1,2 is gone"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}
