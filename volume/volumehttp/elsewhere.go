package volumehttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/wire"
)

// newPeerClient makes the client that fetches from other nodes. A node that does
// not begin to answer in some seconds is passed over for the next.
func newPeerClient(dial func(ctx context.Context, addr string) (net.Conn, error)) *http.Client {
	dialer := &net.Dialer{Timeout: time.Second}
	return &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				if dial == nil {
					return dialer.DialContext(ctx, network, addr)
				}
				ctx, cancel := context.WithTimeout(ctx, dialer.Timeout)
				defer cancel()
				return dial(ctx, addr)
			},
			ResponseHeaderTimeout: 5 * time.Second,
			MaxIdleConnsPerHost:   64,
			IdleConnTimeout:       30 * time.Second,
			DisableCompression:    true, // the client's wish is passed on, and its answer back
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// elsewhere answers a read of a volume that other nodes hold. A request that
// another node passed on already is not passed on again, or two nodes with old
// views could send it round for ever; it is told to try another holder.
func (a *API) elsewhere(x *exchange, t target, e *volume.ElsewhereError, q url.Values) error {
	switch {
	case q.Get("proxied") == "true" || a.opts.ReadMode == ReadLocal && e.Behind:
		return fmt.Errorf("%w: %v", volume.ErrUnavailable, e)
	case a.opts.ReadMode == ReadLocal || len(e.Nodes) == 0:
		return e
	case a.opts.ReadMode == ReadRedirect:
		node := e.Nodes[rand.IntN(len(e.Nodes))]
		x.put("Location", passedOn(x.r, a.scheme(), node.PublicURL))
		x.empty(http.StatusTemporaryRedirect)
		return nil
	}
	return a.proxy(x, t, e, q)
}

// Between two rounds over the holders of a volume.
const (
	nextRoundFirst = 20 * time.Millisecond
	nextRoundLast  = 250 * time.Millisecond
)

// proxy passes a read on to the holders of the volume.
func (a *API) proxy(x *exchange, t target, e *volume.ElsewhereError, q url.Values) error {
	n, resp, err := a.fromHolders(x.r.Context(), t.id, q.Get("readDeleted") == "true", e,
		func(host string) (*http.Request, error) { return passOnRequest(x.r, host) })
	if err != nil {
		return err
	}
	if resp != nil {
		return a.passOn(x, resp)
	}
	defer n.Release()
	return a.render(x, n, t, q)
}

// fromHolders asks one holder of a volume after another, and when none of them can
// answer, asks again who holds it, until one does or Options.Hold is over: a
// node that stops or fails costs no read at the others. If it turns out that this
// node can read the file itself, the needle is the answer.
func (a *API) fromHolders(ctx context.Context, id volume.FileID, readDeleted bool, e *volume.ElsewhereError,
	request func(host string) (*http.Request, error)) (*needle.Needle, *http.Response, error) {
	limit := time.After(a.opts.Hold)
	for wait := nextRoundFirst; ; wait = min(2*wait, nextRoundLast) {
		resp, err := a.askAny(ctx, e.Nodes, request)
		if err == nil {
			return nil, resp, nil
		}
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-limit:
			return nil, nil, fmt.Errorf("%w: no holder of volume %d answers: %v", volume.ErrUnavailable, id.Volume, err)
		case <-time.After(wait):
		}
		n, err := a.blobs.Get(ctx, id, readDeleted)
		if !errors.As(err, &e) {
			return n, nil, err
		}
	}
}

// hedgeAfter is how long a holder may take to begin an answer until the next one is
// asked, too. A frozen process keeps its sockets open, and it takes a second until
// gossip has missed it; a disk that has just this much to do is asked twice.
const hedgeAfter = 250 * time.Millisecond

// askAny asks holders in random order until one can tell: the next one when one
// fails or is slow. What a holder answers is the truth, a 404 too, unless it is in
// trouble.
func (a *API) askAny(ctx context.Context, holders []volume.Node, request func(host string) (*http.Request, error)) (*http.Response, error) {
	type answer struct {
		by   int
		resp *http.Response
		err  error
	}
	var (
		err     = errors.New("none is known")
		order   = rand.Perm(len(holders))
		cancels []context.CancelFunc
		answers = make(chan answer, len(holders))
		hedge   = time.NewTicker(hedgeAfter)
	)
	defer hedge.Stop()
	for running := 0; ; {
		if by := len(cancels); by < len(order) {
			ctx, cancel := context.WithCancel(ctx)
			cancels = append(cancels, cancel)
			req, err := request(a.inside(holders[order[by]]))
			if err != nil {
				return nil, err
			}
			running++
			go func() {
				resp, err := a.peers.Do(req.WithContext(ctx))
				answers <- answer{by, resp, err}
			}()
		}
		if running == 0 {
			return nil, err
		}
		select {
		case <-hedge.C:
		case got := <-answers:
			running--
			if err = got.err; err == nil && tells(got.resp.StatusCode) {
				cancels[got.by] = func() {} // its body is still to be read
				for _, cancel := range cancels {
					cancel()
				}
				return got.resp, nil
			}
			if err == nil {
				got.resp.Body.Close()
				err = fmt.Errorf("%s answered %s", holders[order[got.by]].URL, got.resp.Status)
			}
		}
	}
}

// tells reports whether a status is the truth about a file, and not about the node.
func tells(status int) bool {
	return status < http.StatusInternalServerError && status != http.StatusTooManyRequests
}

// inside is where this node asks another one.
func (a *API) inside(n volume.Node) string {
	if a.opts.DialPeer != nil {
		return n.Internal
	}
	return n.URL
}

// scheme is how clients reach volume servers.
func (a *API) scheme() string {
	if a.opts.TLS {
		return "https"
	}
	return "http"
}

// passedOn gives the URL of the same request at another node.
func passedOn(r *http.Request, scheme, host string) string {
	u := url.URL{Scheme: scheme, Host: host, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: "proxied=true"}
	if r.URL.RawQuery != "" {
		u.RawQuery = r.URL.RawQuery + "&proxied=true"
	}
	return u.String()
}

// passOnRequest makes the same request for another node.
func passOnRequest(r *http.Request, host string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(r.Context(), r.Method, passedOn(r, "http", host), nil)
	if err != nil {
		return nil, err
	}
	copyHeader(req.Header, r.Header)
	return req, nil
}

// passOn answers with what another node answered.
func (a *API) passOn(x *exchange, resp *http.Response) error {
	defer resp.Body.Close()
	h := x.w.Header()
	for _, own := range [...]string{"Server", "Date", wire.HeaderRequestID} {
		delete(resp.Header, own)
	}
	copyHeader(h, resp.Header)
	x.status = resp.StatusCode
	x.w.WriteHeader(resp.StatusCode)
	if _, err := io.Copy(x.w, resp.Body); err != nil {
		return fmt.Errorf("pass on answer of %s: %w", resp.Request.URL.Host, err)
	}
	return nil
}

// copyHeader copies all but what belongs to one connection.
func copyHeader(to, from http.Header) {
	for name, values := range from {
		to[name] = values
	}
	for _, field := range from["Connection"] {
		for name := range strings.SplitSeq(field, ",") {
			delete(to, http.CanonicalHeaderKey(strings.TrimSpace(name)))
		}
	}
	for _, name := range [...]string{"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade"} {
		delete(to, name)
	}
}
