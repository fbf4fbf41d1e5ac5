// Package client speaks the public HTTP API of a cluster: the tools of weedd and
// its end-to-end tests use it, and nothing in it depends on how weedd is built,
// so that it works with any master and volume server of that API.
//
// A Client knows several masters and asks the next one when one cannot be
// reached, does not answer, or answers that it cannot at the moment. A write that
// failed is tried again with a new file id, never with the same one, because
// the first may have been stored. Where volume servers want tokens, masters are asked
// for them, file by file. Bodies come from a Source, which can be opened
// again for that. What a call went through is in its error: which address
// answered what.
package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"weedd/volume"
)

// Options says where the cluster is and how patient to be. Zero values mean the
// defaults given.
type Options struct {
	Masters  []string      // host:port, or with http:// or https:// before it, which goes for volume servers, too; at least one
	HTTP     *http.Client  // nil for one that keeps connections to every server open
	Attempts int           // how often an operation is tried; 20
	Patience time.Duration // after which an operation is not tried again; 1m. A running attempt may take longer
	Stall    time.Duration // after which an attempt without a byte moved is given up; 20s, over the 10s that servers hold requests
	Remember time.Duration // how long the places of a volume are used before they are looked up again; 10s
}

// Client is a client of one cluster. Its methods may be called at once.
type Client struct {
	opt     Options
	http    *http.Client
	scheme  string   // of volume servers, whose addresses come without one
	masters []string // base URLs
	turn    atomic.Uint32
	closed  struct{ reads, writes atomic.Bool } // a volume server asked for a token

	mu     sync.Mutex
	down   map[string]time.Time // base URLs that failed, and until when others are preferred
	places map[volume.ID]places
}

// avoid is how long others are preferred to a server that could not be reached.
const avoid = time.Second

// New makes a Client. It connects to nothing.
func New(opt Options) (*Client, error) {
	c := &Client{opt: opt, http: opt.HTTP, down: map[string]time.Time{}, places: map[volume.ID]places{}}
	setDefault(&c.opt.Attempts, 20)
	setDefault(&c.opt.Patience, time.Minute)
	setDefault(&c.opt.Stall, 20*time.Second)
	setDefault(&c.opt.Remember, 10*time.Second)
	if c.http == nil {
		c.http = &http.Client{Transport: newTransport()}
	}
	for _, m := range opt.Masters {
		base, err := parseMaster(m)
		if err != nil {
			return nil, err
		}
		c.masters = append(c.masters, base)
	}
	if len(c.masters) == 0 {
		return nil, errors.New("no master given; an address looks like 192.168.100.117:9333")
	}
	c.scheme, _, _ = strings.Cut(c.masters[0], "://")
	return c, nil
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// newTransport differs from the default one in that it keeps enough connections
// for parallel tools, and takes bodies as they are stored or plain, so that
// Content-Length can be checked.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 3 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: 5 * time.Second,
		MaxIdleConnsPerHost: 128,
		IdleConnTimeout:     30 * time.Second,
		DisableCompression:  true,
	}
}

func parseMaster(s string) (string, error) {
	s = strings.TrimSpace(s)
	if !strings.Contains(s, "://") {
		s = "http://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.Port() == "" || (u.Scheme != "http" && u.Scheme != "https") || strings.Trim(u.Path, "/") != "" {
		return "", fmt.Errorf("master address %q: it is host:port, such as 192.168.100.117:9333", strings.TrimPrefix(s, "http://"))
	}
	return u.Scheme + "://" + u.Host, nil
}

// Masters gives the base URLs of the masters, as http://host:port.
func (c *Client) Masters() []string { return append([]string(nil), c.masters...) }

// Close drops idle connections. Calls that run go on.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// note remembers whether a server could be reached.
func (c *Client) note(base string, reached bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if reached {
		delete(c.down, base)
	} else {
		c.down[base] = time.Now().Add(avoid)
	}
}

func (c *Client) isDown(base string, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.down[base].After(now)
}

// operation is one call of a method of Client: it chooses masters, counts
// attempts and remembers which address answered what.
type operation struct {
	c         *Client
	what      string
	began     time.Time
	attempts  int
	pause     time.Duration        // before the master that was asked last is asked again
	notBefore map[string]time.Time // per master
	trail     []error              // the last failure at each address
}

const firstPause, longestPause = 50 * time.Millisecond, 2 * time.Second

// retry calls try with one master after the other until it succeeds, fails in a
// way that another try cannot cure, or time or attempts run out.
func (c *Client) retry(ctx context.Context, what string, try func(ctx context.Context, master string) error) error {
	op := operation{c: c, what: what, began: time.Now(), pause: firstPause, notBefore: map[string]time.Time{}}
	for {
		master, err := op.next(ctx)
		if err != nil {
			return op.fail(err)
		}
		err = try(ctx, master)
		if err == nil {
			return nil
		}
		again := Temporary(err)
		if v, ok := err.(*verdict); ok { // never wrapped
			again, err = v.again, v.error
		}
		op.remember(err)
		if ctx.Err() != nil {
			return op.fail(context.Cause(ctx))
		}
		if !again {
			return op.fail(nil)
		}
		op.holdOff(master, err)
	}
}

// verdict is an error of a try that knows better than Temporary whether another
// try may help.
type verdict struct {
	error
	again bool
}

// next waits until some master may be asked, and names it. Masters take turns;
// those that could not be reached a moment ago come last.
func (op *operation) next(ctx context.Context) (string, error) {
	if op.attempts++; op.attempts > op.c.opt.Attempts {
		op.attempts--
		return "", errGaveUp
	}
	var (
		now    = time.Now()
		turn   = int(op.c.turn.Add(1))
		best   string
		bestAt time.Time
	)
	for i := range op.c.masters {
		m := op.c.masters[(turn+i)%len(op.c.masters)]
		at := op.notBefore[m]
		if at.Before(now) {
			at = now
		}
		if op.c.isDown(m, now) {
			at = at.Add(time.Nanosecond) // only a matter of preference
		}
		if best == "" || at.Before(bestAt) {
			best, bestAt = m, at
		}
	}
	if op.attempts > 1 && bestAt.After(op.began.Add(op.c.opt.Patience)) {
		op.attempts--
		return "", errGaveUp
	}
	select {
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case <-time.After(bestAt.Sub(now)):
		return best, nil
	}
}

// holdOff says when master may be asked again after err.
func (op *operation) holdOff(master string, err error) {
	wait := op.pause
	op.pause = min(2*op.pause, longestPause)
	var re *RequestError
	if errors.As(err, &re) {
		wait = max(wait, re.RetryAfter)
	}
	op.notBefore[master] = time.Now().Add(wait)
}

// remember keeps the last failure at each address.
func (op *operation) remember(err error) {
	same := func(a, b error) bool {
		var x, y *RequestError
		return errors.As(a, &x) && errors.As(b, &y) && x.base() == y.base() || a.Error() == b.Error()
	}
	for i := range op.trail {
		if same(op.trail[i], err) {
			op.trail = append(op.trail[:i], op.trail[i+1:]...)
			break
		}
	}
	op.trail = append(op.trail, err)
}

var errGaveUp = errors.New("gave up")

// fail makes the error of the whole operation: what, why it ended, and the last
// answer of each address, the newest first.
func (op *operation) fail(why error) error {
	e := &OperationError{What: op.what, Why: why, Attempts: op.attempts, Took: time.Since(op.began)}
	for i := len(op.trail) - 1; i >= 0; i-- {
		e.Answers = append(e.Answers, op.trail[i])
		if why == nil { // the last one ended it
			break
		}
	}
	return e
}
