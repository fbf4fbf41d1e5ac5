package volumehttp

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"weedd/volume"
	"weedd/volume/wire"
)

// newPeerClient makes the client that fetches from other nodes. A node that does
// not begin to answer in some seconds is passed over for the next.
func newPeerClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext:           (&net.Dialer{Timeout: time.Second}).DialContext,
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
// views could send it round for ever.
func (a *API) elsewhere(x *exchange, e *volume.ElsewhereError, q url.Values) error {
	if a.opts.ReadMode == ReadLocal || q.Get("proxied") == "true" || len(e.Nodes) == 0 {
		return e
	}
	if a.opts.ReadMode == ReadRedirect {
		node := e.Nodes[rand.IntN(len(e.Nodes))]
		x.put("Location", passedOn(x.r, node.PublicURL))
		x.empty(http.StatusTemporaryRedirect)
		return nil
	}
	var err error
	for i, at := range rand.Perm(len(e.Nodes)) {
		var resp *http.Response
		if resp, err = a.ask(x.r, e.Nodes[at].URL); err != nil {
			continue
		}
		last := i == len(e.Nodes)-1
		if !last && (resp.StatusCode >= 500 || resp.StatusCode == http.StatusNotFound) {
			resp.Body.Close() // this one is in trouble, or has just given the volume up
			continue
		}
		return a.passOn(x, resp)
	}
	return fmt.Errorf("%w: no holder of volume %d answers: %v", volume.ErrUnavailable, e.Volume, err)
}

// passedOn gives the URL of the same request at another node.
func passedOn(r *http.Request, host string) string {
	u := url.URL{Scheme: "http", Host: host, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: "proxied=true"}
	if r.URL.RawQuery != "" {
		u.RawQuery = r.URL.RawQuery + "&proxied=true"
	}
	return u.String()
}

func (a *API) ask(r *http.Request, host string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(r.Context(), r.Method, passedOn(r, host), nil)
	if err != nil {
		return nil, err
	}
	copyHeader(req.Header, r.Header)
	return a.peers.Do(req)
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
