package volumehttp

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/wire"
)

// headerFileStore tells that a file is kept in chunks. Nodes tell one another by it
// that what they pass on is a manifest.
const (
	headerFileStore = "X-File-Store"
	storeChunked    = "chunked"
	storeManifest   = "manifest"
)

const (
	chunkTries   = 3                // how often the rest of a chunk is asked for when a node breaks off
	chunkStall   = 10 * time.Second // a node that sends no byte of a chunk for so long has broken off
	chunkDeletes = 8                // chunks of one file that are deleted at a time
)

// chunkError says that a chunk of a file cannot be had. Its text names no address
// and may be shown.
type chunkError struct {
	chunk string
	err   error
}

func (e *chunkError) Error() string {
	return fmt.Sprintf("chunk %.64s of the file: %v", e.chunk, e.err)
}
func (e *chunkError) Unwrap() error { return e.err }

// assemble makes the body of x what the manifest n stands for, unless the manifest
// itself is wanted. A manifest that is no JSON is served as what it is.
func (a *API) assemble(x *exchange, n *needle.Needle, q url.Values) error {
	if q.Get("cm") == "false" {
		if q.Get("proxied") == "true" {
			x.put(headerFileStore, storeManifest)
		}
		return nil
	}
	m, err := manifestIn(n)
	if err != nil {
		return nil
	}
	length, err := m.Length()
	if err != nil {
		return err
	}
	x.put(headerFileStore, storeChunked)
	x.body = content{size: length, name: m.Name, mime: m.Mime, sha256: m.SHA256, chunks: &chunked{api: a, ctx: x.r.Context(), list: m.Chunks}}
	return nil
}

// manifestIn reads the manifest that n holds.
func manifestIn(n *needle.Needle) (wire.Manifest, error) {
	data := n.Data
	if n.Has(needle.FlagGzip) && isGzip(data) {
		zr, err := gzip.NewReader(bytes.NewReader(data))
		if err == nil {
			data, err = io.ReadAll(io.LimitReader(zr, wire.MaxManifest+1))
		}
		if err != nil {
			return wire.Manifest{}, fmt.Errorf("%w: chunk manifest: %v", volume.ErrCorrupt, err)
		}
	}
	return wire.ParseManifest(data)
}

// chunked is a content in chunks, which are fetched as they are sent.
type chunked struct {
	api   *API
	ctx   context.Context
	list  []wire.Chunk // one after the other
	ahead *piece       // opened already, to see whether it is there
}

// at finds the chunk with the byte at off, and the offset there.
func (c *chunked) at(off int64) (chunk wire.Chunk, within int64) {
	for _, chunk = range c.list {
		if off < chunk.Size {
			return chunk, off
		}
		off -= chunk.Size
	}
	return wire.Chunk{}, 0
}

// open sees to it that the content can be had from off on, before anything is sent.
func (c *chunked) open(off, n int64) (err error) {
	if n > 0 {
		chunk, within := c.at(off)
		c.ahead, err = c.get(chunk, within, min(n, chunk.Size-within))
	}
	return err
}

// close gives back what open took and nobody has used.
func (c *chunked) close() {
	if c.ahead != nil {
		c.ahead.close()
		c.ahead = nil
	}
}

func (c *chunked) copyTo(w io.Writer, off, n int64) error {
	for n > 0 {
		chunk, within := c.at(off)
		part := min(n, chunk.Size-within)
		if err := c.copyChunk(w, chunk, within, part); err != nil {
			return err
		}
		off, n = off+part, n-part
	}
	return nil
}

// copyChunk sends n bytes of a chunk from off on. When the node that sends it breaks
// off, the rest is asked of another.
func (c *chunked) copyChunk(w io.Writer, chunk wire.Chunk, off, n int64) error {
	to := &counted{w: w}
	for try := 1; ; try++ {
		p := c.ahead
		if c.ahead = nil; p == nil || p.chunk != chunk || p.off != off+to.n {
			var err error
			if p, err = c.get(chunk, off+to.n, n-to.n); err != nil {
				return err
			}
		}
		err := p.copyTo(to)
		p.close()
		if err == nil || to.err != nil || try == chunkTries {
			return err
		}
	}
}

// counted counts what was written, and keeps its error: the client's, not the source's.
type counted struct {
	w   io.Writer
	n   int64
	err error
}

func (c *counted) Write(b []byte) (n int, err error) {
	n, err = c.w.Write(b)
	c.n += int64(n)
	c.err = err
	return n, err
}

// piece is a part of a chunk, here or on its way from another node.
type piece struct {
	chunk  wire.Chunk
	off, n int64
	needle *needle.Needle
	gate   *wire.Gate // counts needle
	body   content    // of needle
	resp   *http.Response
	cancel context.CancelFunc // ends resp
}

func (p *piece) close() {
	if p.needle != nil {
		p.gate.Add(-int64(len(p.needle.Data)))
		p.needle.Release()
		return
	}
	p.resp.Body.Close()
	p.cancel()
}

func (p *piece) copyTo(w io.Writer) error {
	if p.needle != nil {
		return p.body.copyTo(w, p.off, p.n)
	}
	stalled := time.AfterFunc(chunkStall, p.cancel)
	defer stalled.Stop()
	from := readerFunc(func(b []byte) (int, error) {
		stalled.Reset(chunkStall)
		defer stalled.Stop() // the time that the client takes is not the node's
		return p.resp.Body.Read(b)
	})
	if _, err := io.CopyN(w, from, p.n); err != nil {
		return &chunkError{p.chunk.FileID, fmt.Errorf("%w: the node that sent it broke off: %v", volume.ErrUnavailable, err)}
	}
	return nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// get opens n bytes of a chunk from off on. Errors are *chunkError.
func (c *chunked) get(chunk wire.Chunk, off, n int64) (*piece, error) {
	p := &piece{chunk: chunk, off: off, n: n}
	err := c.api.fill(c.ctx, p)
	if err != nil {
		for _, missing := range []error{volume.ErrNotFound, volume.ErrCookie, volume.ErrNoVolume, volume.ErrBadRequest} {
			if errors.Is(err, missing) {
				err = fmt.Errorf("%w: it is missing: %v", volume.ErrCorrupt, err)
			}
		}
		return nil, &chunkError{chunk.FileID, err}
	}
	return p, nil
}

func (a *API) fill(ctx context.Context, p *piece) error {
	id, err := volume.ParseFileID(p.chunk.FileID)
	if err != nil {
		return err
	}
	n, err := a.blobs.Get(ctx, id, false)
	var e *volume.ElsewhereError
	if errors.As(err, &e) {
		ctx, p.cancel = context.WithCancel(ctx)
		n, p.resp, err = a.fromHolders(ctx, id, false, e, p.request(ctx, id))
		if err != nil || n != nil {
			p.cancel()
		}
	}
	if err != nil {
		return err
	}
	if n != nil {
		p.gate = a.limits.Load().downloads
		p.gate.Add(int64(len(n.Data)))
		err = p.here(n)
	} else {
		err = p.there()
	}
	if err != nil {
		p.close()
	}
	return err
}

// request asks another node for the piece.
func (p *piece) request(ctx context.Context, id volume.FileID) func(host string) (*http.Request, error) {
	return func(host string) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+"/"+id.String()+"?cm=false&proxied=true", nil)
		if err != nil {
			return nil, err
		}
		req.Header["Range"] = []string{"bytes=" + strconv.FormatInt(p.off, 10) + "-" + strconv.FormatInt(p.off+p.n-1, 10)}
		return req, nil
	}
}

var errNested = fmt.Errorf("%w: it is a chunk manifest itself", volume.ErrCorrupt)

func (p *piece) here(n *needle.Needle) error {
	p.needle = n
	p.body = content{data: n.Data, size: int64(len(n.Data))}
	if n.Has(needle.FlagGzip) && isGzip(n.Data) {
		p.body.unpack()
	}
	return p.check(p.body.size, n.Has(needle.FlagManifest))
}

func (p *piece) there() error {
	switch p.resp.StatusCode {
	case http.StatusPartialContent:
		size, err := strconv.ParseInt(after(p.resp.Header.Get("Content-Range"), '/'), 10, 64)
		if err != nil {
			return fmt.Errorf("%w: its length is not told: %v", volume.ErrUnavailable, err)
		}
		return p.check(size, p.resp.Header.Get(headerFileStore) != "")
	case http.StatusNotFound:
		return volume.ErrNotFound
	}
	return fmt.Errorf("%w: status %d", volume.ErrCorrupt, p.resp.StatusCode)
}

func after(s string, c byte) string {
	for i := range len(s) {
		if s[i] == c {
			return s[i+1:]
		}
	}
	return ""
}

func (p *piece) check(size int64, nested bool) error {
	if nested {
		return errNested
	}
	if size != p.chunk.Size {
		return fmt.Errorf("%w: it has %d bytes where the manifest says %d", volume.ErrCorrupt, size, p.chunk.Size)
	}
	return nil
}

// manifest finds the manifest under id, nil if there is another file or none. An
// error means that it is not known whether there is one.
func (a *API) manifest(ctx context.Context, id volume.FileID) (*wire.Manifest, error) {
	n, err := a.blobs.Get(ctx, id, false)
	var e *volume.ElsewhereError
	if errors.As(err, &e) {
		return a.manifestElsewhere(ctx, id, e)
	}
	if err != nil {
		return nil, nil // deleting it will tell why
	}
	defer n.Release()
	if !n.Has(needle.FlagManifest) {
		return nil, nil
	}
	m, err := manifestIn(n)
	if err != nil {
		return nil, nil // it names no chunks
	}
	return &m, nil
}

// manifestElsewhere asks first what kind of file it is: it may be large.
func (a *API) manifestElsewhere(ctx context.Context, id volume.FileID, e *volume.ElsewhereError) (*wire.Manifest, error) {
	for _, method := range []string{http.MethodHead, http.MethodGet} {
		n, resp, err := a.fromHolders(ctx, id, false, e, func(host string) (*http.Request, error) {
			return http.NewRequestWithContext(ctx, method, "http://"+host+"/"+id.String()+"?cm=false&proxied=true", nil)
		})
		if err != nil {
			return nil, err
		}
		if n != nil {
			n.Release()
			return a.manifest(ctx, id)
		}
		defer resp.Body.Close()
		if resp.Header.Get(headerFileStore) != storeManifest {
			return nil, nil
		}
		if method == http.MethodHead {
			continue
		}
		data, err := io.ReadAll(io.LimitReader(resp.Body, wire.MaxManifest+1))
		if err != nil {
			return nil, fmt.Errorf("%w: read the manifest of %s: %v", volume.ErrUnavailable, id, err)
		}
		if m, err := wire.ParseManifest(data); err == nil {
			return &m, nil
		}
	}
	return nil, nil
}

// deleteChunks deletes the chunks of a file. Those that are not there, or whose name
// is no file's or another's, are passed over.
func (a *API) deleteChunks(ctx context.Context, m *wire.Manifest, modified uint64) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(chunkDeletes)
	for _, chunk := range m.Chunks {
		id, err := volume.ParseFileID(chunk.FileID)
		if err != nil {
			continue
		}
		g.Go(func() error {
			_, err := a.blobs.Delete(ctx, id, modified)
			for _, gone := range []error{volume.ErrNotFound, volume.ErrNoVolume, volume.ErrCookie} {
				if errors.Is(err, gone) {
					return nil
				}
			}
			if err != nil {
				return &chunkError{chunk.FileID, err}
			}
			return nil
		})
	}
	return g.Wait()
}
