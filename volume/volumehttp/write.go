package volumehttp

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/julienschmidt/httprouter"

	"weedd/volume"
	"weedd/volume/wire"
)

// write is POST and PUT. Besides the parameters of the reference it knows
// create=true: a file that is there already with other bytes is refused with 409
// instead of being replaced.
func (a *API) write(x *exchange, p httprouter.Params) error {
	t, err := parseTarget(p)
	if err != nil {
		return err
	}
	q, err := wire.Query(x.r)
	if err != nil {
		return err
	}
	lim := a.limits.Load()
	release, err := a.admit(x.r, lim)
	if err != nil {
		return err
	}
	defer release()
	wire.GuardBody(x.w, x.r, a.opts.Stall)
	up, err := wire.ParseUpload(x.r, wire.UploadOptions{Limit: lim.file, Name: t.name, TypeName: t.last})
	if err != nil {
		return err
	}
	up.Needle.Key, up.Needle.Cookie = t.id.Key, t.id.Cookie
	res, err := a.blobs.Put(x.r.Context(), t.id, &up.Needle, q.Get("create") == "true")
	if err != nil {
		return err
	}
	x.put("Etag", `"`+wire.ETag(res.Checksum)+`"`)
	if up.MD5 != "" {
		x.put("Content-Md5", up.MD5)
	}
	if res.Unchanged {
		x.empty(http.StatusNoContent)
		return nil
	}
	x.json(http.StatusCreated, up.Stored(res.Checksum))
	return nil
}

// admit waits until the body of r has room among the uploads in memory.
func (a *API) admit(r *http.Request, lim *limits) (release func(), err error) {
	if err := wire.CheckLength(r, lim.file); err != nil {
		return nil, err
	}
	n := r.ContentLength
	if n < 0 {
		n = lim.file // unknown: as much as it may become
	}
	if lim.uploads == nil {
		a.metrics.Uploading(n)
		return func() { a.metrics.Uploading(-n) }, nil
	}
	n = min(n, lim.bytes) // a large one goes alone
	if !lim.uploads.TryAcquire(n) {
		ctx, cancel := context.WithTimeout(r.Context(), a.opts.UploadWait)
		defer cancel()
		if err := lim.uploads.Acquire(ctx, n); err != nil {
			return nil, fmt.Errorf("%w: %d more do not fit the limit of %d bytes of uploads at once",
				volume.ErrBusy, n, lim.bytes)
		}
	}
	a.metrics.Uploading(n)
	return func() {
		a.metrics.Uploading(-n)
		lim.uploads.Release(n)
	}, nil
}

// deleted is the answer to DELETE.
type deleted struct {
	Size int64 `json:"size"` // of the record, as in the reference; 0 if there was none
}

func (a *API) delete(x *exchange, p httprouter.Params) error {
	t, err := parseTarget(p)
	if err != nil {
		return err
	}
	q, err := wire.Query(x.r)
	if err != nil {
		return err
	}
	modified := uint64(time.Now().Unix())
	if ts, err := strconv.ParseUint(q.Get("ts"), 10, 40); err == nil && ts > 0 {
		modified = ts
	}
	size, err := a.blobs.Delete(x.r.Context(), t.id, modified)
	if err != nil {
		return err
	}
	x.json(http.StatusAccepted, deleted{size})
	return nil
}
