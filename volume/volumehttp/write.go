package volumehttp

import (
	"context"
	"net/http"
	"net/url"
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
	t, err := a.mayWrite(x, p)
	if err != nil {
		return err
	}
	q, err := wire.Query(x.r)
	if err != nil {
		return err
	}
	lim := a.limits.Load()
	if err := wire.CheckLength(x.r, lim.file); err != nil {
		return err
	}
	release, err := lim.uploads.Admit(x.r, lim.file)
	if err != nil {
		return err
	}
	defer release()
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

// deleted is the answer to DELETE.
type deleted struct {
	Size int64 `json:"size"` // of the record, or as the manifest says, as in the reference; 0 if there was none
}

// delete deletes a file; first its chunks, if it has some, so that a delete that
// fails half way can be repeated.
func (a *API) delete(x *exchange, p httprouter.Params) error {
	t, err := a.mayWrite(x, p)
	if err != nil {
		return err
	}
	q, err := wire.Query(x.r)
	if err != nil {
		return err
	}
	size, err := a.remove(x.r.Context(), t.id, modifiedBy(q))
	if err != nil {
		return err
	}
	x.json(http.StatusAccepted, deleted{size})
	return nil
}

// modifiedBy is the time of a deletion, in unix seconds.
func modifiedBy(q url.Values) uint64 {
	if ts, err := strconv.ParseUint(q.Get("ts"), 10, 40); err == nil && ts > 0 {
		return ts
	}
	return uint64(time.Now().Unix())
}

// remove deletes a file, after its chunks.
func (a *API) remove(ctx context.Context, id volume.FileID, modified uint64) (size int64, err error) {
	m, err := a.manifest(ctx, id)
	if err != nil {
		return 0, err
	}
	if m != nil {
		if err := a.deleteChunks(ctx, m, modified); err != nil {
			return 0, err
		}
	}
	size, err = a.blobs.Delete(ctx, id, modified)
	if m != nil {
		size = m.Size
	}
	return size, err
}
