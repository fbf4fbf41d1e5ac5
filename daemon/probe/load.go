package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"weedd/cluster"
	"weedd/volume"
)

// node is one that is to stay up.
type node struct{ master, volume string } // host:port

// prober is one run.
type prober struct {
	opt    Options
	scheme string
	nodes  []node
	http   *http.Client
	began  time.Time
	closed struct{ reads, writes atomic.Bool } // a volume server asked for a token

	mu      sync.Mutex
	rand    *rand.Rand
	ops     []op
	live    []volume.FileID       // acknowledged, and no delete was tried
	next    uint64                // number of the newest value
	writing map[volume.FileID]int // overwrites under way
}

// kind is a kind of request.
type kind string

const (
	submit    kind = "submit"    // POST /submit at a master
	assign    kind = "assign"    // GET /dir/assign at a master, and PUT
	overwrite kind = "overwrite" // PUT to an id that has been written
	get       kind = "get"
	remove    kind = "delete"
	lastGet   kind = "last get" // of the copy at one node, when all is over
)

var kinds = []kind{submit, assign, overwrite, get, remove}

// op is one request as the client saw it. Times count from the beginning of the run;
// begin is when it was due, so that a probe that is late itself does not hide it.
type op struct {
	kind       kind
	at         string // the node
	id         volume.FileID
	value      uint64 // written, or read; 0: no such file
	begin, end time.Duration
	err        error // then a write may have been done or not
}

func (p *prober) now() time.Duration { return time.Since(p.began) }

func newTransport() *http.Transport {
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 5 * time.Second}).DialContext,
		MaxIdleConnsPerHost: 256,
		IdleConnTimeout:     30 * time.Second,
	}
}

// newProber finds the volume server of each node.
func newProber(ctx context.Context, opt Options) (*prober, error) {
	p := &prober{opt: opt, scheme: "http", http: opt.Client(), began: time.Now(), rand: rand.New(rand.NewPCG(opt.Seed, 1)), writing: map[volume.FileID]int{}}
	for _, m := range opt.Masters {
		if rest, ok := strings.CutPrefix(m, "https://"); ok {
			m, p.scheme = rest, "https"
		}
		v, err := p.view(ctx, m)
		if err != nil {
			return nil, err
		}
		n := node{master: m}
		for _, master := range v.Masters {
			for _, s := range v.Nodes {
				if s.ID == master.ID && same(ctx, m, master.Address) {
					n.volume = s.URL
				}
			}
		}
		if n.volume == "" {
			return nil, fmt.Errorf("%s: no node of the cluster has its master there and a volume server too; use the addresses that `weedd status` shows", m)
		}
		p.nodes = append(p.nodes, n)
	}
	return p, nil
}

// same reports whether an address that was typed, perhaps with a name in it, is one
// that the cluster knows.
func same(ctx context.Context, typed, known string) bool {
	host, port, err := net.SplitHostPort(typed)
	knownHost, knownPort, err2 := net.SplitHostPort(known)
	if err != nil || err2 != nil || port != knownPort {
		return typed == known
	}
	ips, err := net.DefaultResolver.LookupHost(ctx, host)
	return host == knownHost || err == nil && slices.Contains(ips, knownHost)
}

// load sends requests at the rate until ctx ends, and returns when all have been
// answered.
func (p *prober) load(ctx context.Context) {
	tick := time.NewTicker(time.Duration(float64(time.Second) / p.opt.Rate))
	defer tick.Stop()
	var running sync.WaitGroup
	defer running.Wait()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			n, due := p.nodes[i%len(p.nodes)], p.now()
			o := p.plan(due)
			running.Go(func() { p.note(p.do(context.WithoutCancel(ctx), o, n)) })
		}
	}
}

// plan chooses the next request: half of them make files, and of two files that
// are made one is deleted later.
func (p *prober) plan(due time.Duration) op {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := op{begin: due}
	pick := p.rand.IntN(20)
	switch {
	case pick < 5 || len(p.live) == 0:
		o.kind = submit
	case pick < 10:
		o.kind = assign
	case pick < 16:
		o.kind = get
	case pick < 18:
		o.kind = overwrite
	default:
		o.kind = remove
	}
	if o.kind != submit && o.kind != assign {
		i := p.rand.IntN(len(p.live))
		o.id = p.live[i]
		// Of a delete and an overwrite at the same time weedd says, in the worst
		// case, that it does not know which was first; no client means to do that.
		if o.kind == remove && p.writing[o.id] > 0 {
			o.kind = get
		}
		if o.kind == remove {
			p.live = slices.Delete(p.live, i, i+1)
		}
		if o.kind == overwrite {
			p.writing[o.id]++
		}
	}
	if o.kind == submit || o.kind == assign || o.kind == overwrite {
		p.next++
		o.value = p.next
	}
	return o
}

// do sends the request and fills in what came of it.
func (p *prober) do(ctx context.Context, o op, n node) op {
	ctx, cancel := context.WithTimeoutCause(ctx, p.opt.Timeout, fmt.Errorf("no answer in %s", p.opt.Timeout))
	defer cancel()
	o = p.once(ctx, o, n)
	for i := 0; p.opt.MoveOn && i < len(p.nodes) && errors.Is(o.err, syscall.ECONNREFUSED); i++ {
		o = p.once(ctx, o, p.nodes[i])
	}
	if o.err != nil && ctx.Err() != nil {
		o.err = context.Cause(ctx)
	}
	o.end = p.now()
	return o
}

func (p *prober) once(ctx context.Context, o op, n node) op {
	if o.at = n.master; o.kind == lastGet {
		o.at = n.volume
	}
	switch o.kind {
	case submit:
		o.id, o.err = p.submit(ctx, n, o.value)
	case assign:
		o.id, o.err = p.assign(ctx, n, o.value)
	case overwrite:
		_, o.err = p.file(ctx, http.MethodPut, n, o.id, p.content(o.value))
	case remove:
		_, o.err = p.file(ctx, http.MethodDelete, n, o.id, nil)
	case get, lastGet:
		o.value, o.err = p.get(ctx, n, o.id)
	}
	return o
}

// note keeps an op, and from a file that was stored on others may choose it.
func (p *prober) note(o op) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ops = append(p.ops, o)
	if (o.kind == submit || o.kind == assign) && o.err == nil {
		p.live = append(p.live, o.id)
	}
	if o.kind == overwrite && o.err == nil { // else it may still be under way
		p.writing[o.id]--
	}
}

func (p *prober) query() string {
	q := url.Values{}
	if p.opt.Collection != "" {
		q.Set("collection", p.opt.Collection)
	}
	if p.opt.Replication != "" {
		q.Set("replication", p.opt.Replication)
	}
	return q.Encode()
}

func (p *prober) submit(ctx context.Context, n node, value uint64) (volume.FileID, error) {
	body, _, err := p.ask(ctx, http.MethodPost, n.master, "submit?"+p.query(), "", p.content(value))
	if err != nil {
		return volume.FileID{}, err
	}
	return parseFID(body, nil)
}

// assign does what clients do: it asks a master for an id, and writes to the
// server that the master names; where that is not one that is to stay up, to the
// server at hand, which passes it on.
func (p *prober) assign(ctx context.Context, n node, value uint64) (volume.FileID, error) {
	body, auth, err := p.ask(ctx, http.MethodGet, n.master, "dir/assign?"+p.query(), "", nil)
	if err != nil {
		return volume.FileID{}, err
	}
	var at string
	id, err := parseFID(body, &at)
	if err != nil {
		return volume.FileID{}, err
	}
	if !slices.ContainsFunc(p.nodes, func(n node) bool { return n.volume == at }) {
		at = n.volume
	}
	_, _, err = p.ask(ctx, http.MethodPut, at, id.String(), auth, p.content(value))
	return id, err
}

func parseFID(body []byte, at *string) (volume.FileID, error) {
	var said struct{ FID, URL string }
	if err := json.Unmarshal(body, &said); err != nil {
		return volume.FileID{}, fmt.Errorf("%.100q: %w", body, err)
	}
	if at != nil {
		*at = said.URL
	}
	return volume.ParseFileID(said.FID)
}

func (p *prober) get(ctx context.Context, n node, id volume.FileID) (uint64, error) {
	body, err := p.file(ctx, http.MethodGet, n, id, nil)
	var status *statusError
	if errors.As(err, &status) && status.code == http.StatusNotFound {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return p.value(body)
}

// statusError is an answer that is none of success.
type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string { return fmt.Sprintf("%d %s", e.code, e.text) }

// file sends a request for a file, with a token of the node's master once a volume
// server has asked for one.
func (p *prober) file(ctx context.Context, method string, n node, id volume.FileID, body []byte) ([]byte, error) {
	closed, query := &p.closed.writes, "dir/lookup?fileId="+id.String()
	if method == http.MethodGet {
		closed, query = &p.closed.reads, query+"&read=yes"
	}
	for {
		asked, auth := closed.Load(), ""
		if asked {
			var err error
			if _, auth, err = p.ask(ctx, http.MethodGet, n.master, query, "", nil); err != nil {
				return nil, err
			}
		}
		answer, _, err := p.ask(ctx, method, n.volume, id.String(), auth, body)
		var status *statusError
		if asked || !errors.As(err, &status) || status.code != http.StatusUnauthorized {
			return answer, err
		}
		closed.Store(true)
	}
}

// ask sends one request and gives the body of a good answer, and the Authorization
// header that it gives for the next.
func (p *prober) ask(ctx context.Context, method, at, path, auth string, body []byte) (answer []byte, next string, err error) {
	req, err := http.NewRequestWithContext(ctx, method, p.scheme+"://"+at+"/"+path, bytes.NewReader(body))
	if err != nil {
		return nil, "", err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/octet-stream")
	}
	if auth != "" {
		req.Header.Set("Authorization", auth)
	}
	resp, err := p.http.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = &statusError{resp.StatusCode, string(bytes.TrimSpace(text[:min(len(text), 400)]))}
	}
	return text, resp.Header.Get("Authorization"), err
}

// view asks a master what it knows of the cluster.
func (p *prober) view(ctx context.Context, master string) (cluster.View, error) {
	ctx, cancel := context.WithTimeout(ctx, p.opt.Timeout)
	defer cancel()
	var v cluster.View
	body, _, err := p.ask(ctx, http.MethodGet, master, "cluster/view", "", nil)
	if err == nil {
		err = json.Unmarshal(body, &v)
	}
	return v, err
}
