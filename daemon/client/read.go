package client

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"mime"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"weedd/volume"
)

// Location is a volume server that holds a volume.
type Location struct {
	URL        string `json:"url"`       // host:port, as other servers of the cluster know it
	PublicURL  string `json:"publicUrl"` // and as the world does
	DataCenter string `json:"dataCenter"`
}

// places is a remembered answer of a lookup.
type places struct {
	at    []Location
	until time.Time
}

// Lookup says which volume servers hold a volume, from memory if it was looked
// up a moment ago. A volume that no master knows is ErrNotFound.
func (c *Client) Lookup(ctx context.Context, id volume.ID) ([]Location, error) {
	at, _, err := c.lookup(ctx, id)
	return at, err
}

// lookup also says whether a master was asked just now.
func (c *Client) lookup(ctx context.Context, id volume.ID) (at []Location, fresh bool, err error) {
	c.mu.Lock()
	known := c.places[id]
	c.mu.Unlock()
	if time.Now().Before(known.until) {
		return known.at, false, nil
	}
	at, _, err = c.askWhere(ctx, id, "volumeId="+id.String())
	return at, err == nil, err
}

// lookupFile is lookup for a request for one file, with the Authorization header
// for it, "" while no server has asked for one.
func (c *Client) lookupFile(ctx context.Context, id volume.FileID, write bool) (at []Location, auth string, fresh bool, err error) {
	if !c.asksTokens(write).Load() {
		at, fresh, err = c.lookup(ctx, id.Volume)
		return at, "", fresh, err
	}
	query := "fileId=" + url.QueryEscape(id.String())
	if !write {
		query += "&read=yes"
	}
	at, auth, err = c.askWhere(ctx, id.Volume, query)
	return at, auth, err == nil, err
}

func (c *Client) asksTokens(write bool) *atomic.Bool {
	if write {
		return &c.closed.writes
	}
	return &c.closed.reads
}

// askWhere asks the masters who holds a volume, and remembers it.
func (c *Client) askWhere(ctx context.Context, id volume.ID, query string) (at []Location, auth string, err error) {
	asked := 0
	err = c.retry(ctx, "look up volume "+id.String(), func(ctx context.Context, master string) error {
		asked++
		var said struct {
			Locations []Location `json:"locations"`
		}
		header, err := c.getJSON(ctx, master+"/dir/lookup?"+query, &said)
		if errors.Is(err, volume.ErrNotFound) && asked < len(c.masters) {
			return &verdict{err, true} // this master may not have heard of a new volume
		}
		at, auth = said.Locations, header.Get("Authorization")
		return err
	})
	if err != nil {
		return nil, "", err
	}
	c.mu.Lock()
	c.places[id] = places{at, time.Now().Add(c.opt.Remember)}
	c.mu.Unlock()
	return at, auth, nil
}

// forget drops what is remembered of a volume's places.
func (c *Client) forget(id volume.ID) {
	c.mu.Lock()
	delete(c.places, id)
	c.mu.Unlock()
}

// servers gives the base URLs to try for a volume, in random order, those that
// could not be reached a moment ago last.
func (c *Client) servers(at []Location) []string {
	var good, bad []string
	seen := map[string]bool{}
	now := time.Now()
	for _, i := range rand.Perm(len(at)) {
		for _, a := range []string{at[i].PublicURL, at[i].URL} {
			base := c.scheme + "://" + a
			if a == "" || seen[base] {
				continue
			}
			seen[base] = true
			if c.isDown(base, now) {
				bad = append(bad, base)
			} else {
				good = append(good, base)
			}
		}
	}
	return append(good, bad...)
}

// Object is a stored file as one volume server sends it.
type Object struct {
	Name     string // "" when none was stored
	Type     string
	ETag     string
	Size     int64 // -1 when the server did not say
	Modified time.Time
	From     string // base URL of the server
	Body     io.Reader
}

// Get hands a file to read. If it cannot be had from one holder, or breaks off,
// the next is tried: read may be called several times, each time with the file
// from its beginning, and must then start anew. An error of read that is
// volume.ErrCorrupt means that the bytes are wrong, so that the next holder is
// tried; any other ends Get and is returned. A file that no holder has is
// volume.ErrNotFound.
func (c *Client) Get(ctx context.Context, id volume.FileID, read func(Object) error) error {
	return c.atHolders(ctx, "get "+id.String(), id, false, func(ctx context.Context, base string, auth http.Header) error {
		ctx, stall := c.watch(ctx)
		defer stall.stop()
		where := base + "/" + id.String()
		return c.do(ctx, request{method: http.MethodGet, url: where, header: auth, stall: stall}, func(resp *http.Response) error {
			err := read(object(resp, base))
			if errors.Is(err, volume.ErrCorrupt) {
				return &RequestError{Method: http.MethodGet, URL: where, Status: resp.StatusCode, Err: err}
			}
			return err
		})
	})
}

func object(resp *http.Response, base string) Object {
	o := Object{Type: resp.Header.Get("Content-Type"), ETag: resp.Header.Get("Etag"), Size: resp.ContentLength, From: base, Body: resp.Body}
	if _, params, err := mime.ParseMediaType(resp.Header.Get("Content-Disposition")); err == nil {
		o.Name = params["filename"]
	}
	if t, err := http.ParseTime(resp.Header.Get("Last-Modified")); err == nil {
		o.Modified = t
	}
	return o
}

// Delete deletes a file. One that is not there is no error: an earlier attempt,
// whose answer was lost, may have deleted it.
func (c *Client) Delete(ctx context.Context, id volume.FileID) error {
	err := c.atHolders(ctx, "delete "+id.String(), id, true, func(ctx context.Context, base string, auth http.Header) error {
		ctx, stall := c.watch(ctx)
		defer stall.stop()
		r := request{method: http.MethodDelete, url: base + "/" + id.String(), header: auth, stall: stall}
		return c.do(ctx, r, func(resp *http.Response) error { return nil })
	})
	if errors.Is(err, volume.ErrNotFound) {
		return nil
	}
	return err
}

// atHolders calls try at each holder of a file until one succeeds, looks the
// holders up again when all failed, and so on, as long as another round may help.
// The first server that wants a token has it fetched, and from then on all are.
func (c *Client) atHolders(ctx context.Context, what string, id volume.FileID, write bool, try func(ctx context.Context, base string, auth http.Header) error) error {
	return c.retry(ctx, what, func(ctx context.Context, _ string) error {
		asked := c.asksTokens(write).Load()
		at, auth, fresh, err := c.lookupFile(ctx, id, write)
		if err != nil {
			return &verdict{err, false} // it was tried often enough
		}
		var header http.Header
		if auth != "" {
			header = http.Header{"Authorization": {auth}}
		}
		err = c.oneRound(ctx, c.servers(at), func(ctx context.Context, base string) error { return try(ctx, base, header) })
		if errors.Is(err, volume.ErrUnauthorized) && !asked {
			c.asksTokens(write).Store(true)
			return &verdict{err, true}
		}
		var all *allFailed
		if !errors.As(err, &all) {
			return err
		}
		c.forget(id.Volume)
		return &verdict{err, len(all.errs) == 0 || all.temporary() || !fresh}
	})
}

// oneRound tries every server once. Its error is *allFailed if none succeeded and
// others may know better, anything else if trying on makes no sense.
func (c *Client) oneRound(ctx context.Context, servers []string, try func(ctx context.Context, base string) error) error {
	all := &allFailed{}
	for _, base := range servers {
		err := try(ctx, base)
		if err == nil {
			return nil
		}
		corrupt, missing := errors.Is(err, volume.ErrCorrupt), errors.Is(err, volume.ErrNotFound)
		if ctx.Err() != nil || !Temporary(err) && !missing && !corrupt {
			return err
		}
		all.errs = append(all.errs, err)
	}
	return all
}

// allFailed is what every holder of a volume said.
type allFailed struct{ errs []error }

func (e *allFailed) Error() string {
	if len(e.errs) == 0 {
		return "it has no holder at the moment"
	}
	s := ""
	for i, err := range e.errs {
		if i > 0 {
			s += "; "
		}
		s += err.Error()
	}
	return s
}

func (e *allFailed) Unwrap() []error { return e.errs }

// temporary reports whether some holder may have the file and could not say so.
func (e *allFailed) temporary() bool {
	for _, err := range e.errs {
		if Temporary(err) && !errors.Is(err, volume.ErrCorrupt) {
			return true
		}
	}
	return false
}
