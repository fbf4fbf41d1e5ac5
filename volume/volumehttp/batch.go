package volumehttp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/julienschmidt/httprouter"
	"golang.org/x/sync/errgroup"

	"weedd/volume"
	"weedd/volume/wire"
)

const (
	// batchMost bounds the files of one request, and batchForm its body.
	batchMost = 1000
	batchForm = 64 << 10
	// batchAtOnce is how many of them are deleted at a time: they share syncs.
	batchAtOnce = 16
)

// batched is what became of one file of a batch. Status and error are those of DELETE.
type batched struct {
	FileID string `json:"fid"`
	Status int    `json:"status"`
	Size   int64  `json:"size"`
	Error  string `json:"error,omitempty"`
}

// deleteBatch deletes the files that the parameters fid name, in the query or a form,
// and tells in their order what became of each. None is tried when one is no file id.
func (a *API) deleteBatch(x *exchange, _ httprouter.Params) error {
	if err := a.opts.Access.CheckAddress(x.r); err != nil {
		return err
	}
	q, err := batchQuery(x)
	if err != nil {
		return err
	}
	fids := q["fid"]
	if len(fids) == 0 || len(fids) > batchMost {
		return fmt.Errorf("%w: %d file ids to delete; name between 1 and %d, each by fid=", volume.ErrBadRequest, len(fids), batchMost)
	}
	targets := make([]target, len(fids))
	for i, fid := range fids {
		if targets[i], err = parseTarget(httprouter.Params{{Value: fid}}); err != nil {
			return fmt.Errorf("fid %q: %w", fid, err)
		}
	}
	out := make([]batched, len(fids))
	g, ctx := errgroup.WithContext(x.r.Context())
	g.SetLimit(batchAtOnce)
	for i, t := range targets {
		g.Go(func() error {
			out[i] = a.deleteOne(ctx, x.r, t, modifiedBy(q))
			out[i].FileID = fids[i]
			return nil
		})
	}
	_ = g.Wait() // each says for itself how it went
	x.json(http.StatusAccepted, out)
	return nil
}

// batchQuery reads the query, and a form after it.
func batchQuery(x *exchange) (url.Values, error) {
	if _, err := wire.Query(x.r); err != nil {
		return nil, err
	}
	x.r.Body = http.MaxBytesReader(x.w, x.r.Body, batchForm)
	err := x.r.ParseForm()
	if tooLong := new(http.MaxBytesError); errors.As(err, &tooLong) {
		return nil, fmt.Errorf("%w: a form over %d bytes", volume.ErrTooLarge, batchForm)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: form: %w", volume.ErrBadRequest, err)
	}
	return x.r.Form, nil
}

// deleteOne deletes one file of a batch. A token is of one file, and of those that
// follow it by _N, or of the file id * for any.
func (a *API) deleteOne(ctx context.Context, r *http.Request, t target, modified uint64) batched {
	err := a.opts.Access.Check(r, t.text, true)
	if err != nil && a.opts.Access.Check(r, wire.AdminFileID, true) == nil {
		err = nil
	}
	var size int64
	if err == nil {
		size, err = a.remove(ctx, t.id, modified)
	}
	if err == nil {
		return batched{Status: http.StatusAccepted, Size: size}
	}
	status, text := a.refusal(http.MethodDelete, r, err)
	if status == http.StatusNotFound {
		text = ""
	}
	return batched{Status: status, Error: text}
}
