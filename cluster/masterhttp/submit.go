package masterhttp

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"weedd/cluster/master"
	"weedd/volume"
	"weedd/volume/wire"
)

// submitted is the answer of /submit, with its members always there.
type submitted struct {
	ETag     string `json:"eTag"`
	FileID   string `json:"fid"`
	FileName string `json:"fileName"`
	FileURL  string `json:"fileUrl"`
	Size     int64  `json:"size"`
	Digest   string `json:"digest,omitempty"` // of the content as it came, if the client wants one; ours
}

const (
	submitName = "submit"  // what a raw body without a name is called
	chunkSize  = 32 << 20  // of a body that is cut into chunks, without maxMB
	maxChunks  = 100_000   // of one file
	maxMaxMB   = 1<<43 - 1 // as many MiB as fit
)

func (a *API) submit(w *answer, r *http.Request) error {
	if r.Method != http.MethodPost {
		wire.ErrorStatus(w, r, http.StatusMethodNotAllowed, "Only submit via POST!")
		return nil
	}
	key, err := idempotencyKey(r)
	if err != nil {
		return err
	}
	done, err := a.hold()
	if err != nil {
		return err
	}
	defer done()
	if key == "" {
		out, err := a.store(r)
		if err != nil {
			return err
		}
		wire.JSON(w, r, http.StatusCreated, out)
		return nil
	}
	return a.storeOnce(w, r, key)
}

// storeOnce answers a repeat as the first upload with its key.
func (a *API) storeOnce(w *answer, r *http.Request, key string) error {
	out, end, err := a.begin(r.Context(), key, fingerprint(r))
	switch {
	case errors.Is(err, ErrKeyReused):
		wire.ErrorStatus(w, r, http.StatusUnprocessableEntity, err.Error())
		return nil
	case err != nil:
		return err
	case out == nil:
		defer func() { end(out) }() // also when it panics
		if out, err = a.store(r); err != nil {
			return err
		}
	case r.Header.Get("Expect") == "": // simple clients send all of it before they read
		_, _ = io.Copy(io.Discard, r.Body) // a client that hung up gets no answer anyway
	}
	wire.JSON(w, r, http.StatusCreated, out)
	return nil
}

// store stores the file in the body of r, in chunks if it is large.
func (a *API) store(r *http.Request) (*submitted, error) {
	q, err := wire.Query(r)
	if err != nil {
		return nil, err
	}
	if _, err := count(q); err != nil { // 400 here, 406 at /dir/assign, as ever
		return nil, fmt.Errorf("%w: %v", volume.ErrBadRequest, err)
	}
	req, err := a.request(q)
	if err != nil {
		return nil, err
	}
	lim := a.limits.Load()
	chunk, err := chunkBytes(q, lim.file)
	if err != nil {
		return nil, err
	}
	o := wire.UploadOptions{Limit: chunk, Total: maxChunks * chunk, Name: submitName}
	if err := wire.CheckLength(r, o.Total); err != nil {
		return nil, err
	}
	release, err := lim.bytes.Admit(r, chunk)
	if err != nil {
		return nil, err
	}
	defer release()
	in, err := wire.OpenUpload(r, o)
	if err != nil {
		return nil, err
	}
	data, last, err := in.Next()
	if err != nil {
		return nil, err
	}
	if !last {
		return a.storeChunks(r, req, in, data)
	}
	up, err := in.Whole(data)
	if err != nil {
		return nil, err
	}
	return a.storeOne(r, req, up)
}

// chunkBytes reads maxMB: how many MiB of a file are stored as one.
func chunkBytes(q url.Values, most int64) (int64, error) {
	s := q.Get("maxMB")
	if s == "" {
		return min(chunkSize, most), nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 1 || n > maxMaxMB {
		return 0, fmt.Errorf("%w: maxMB %q is not a number of MiB from 1 on", volume.ErrBadRequest, clip(s))
	}
	return min(n<<20, most), nil
}

func (a *API) storeOne(r *http.Request, req master.Request, up *wire.Upload) (*submitted, error) {
	as, res, err := a.opts.Master.Submit(r.Context(), req, &up.Needle)
	if err != nil {
		return nil, err
	}
	return &submitted{
		ETag: wire.ETag(res.Checksum), FileID: as.ID.String(), FileName: string(up.Needle.Name),
		FileURL: as.Node.PublicURL + "/" + as.ID.String(), Size: up.Size, Digest: up.Digest,
	}, nil
}

// storeChunks stores a file of which data is the first piece, and then its manifest.
// When it fails, the chunks that were stored are deleted.
func (a *API) storeChunks(r *http.Request, req master.Request, in *wire.Incoming, data []byte) (out *submitted, err error) {
	last := false
	if in.Packed() {
		if data, last, err = in.Unpack(data); err != nil {
			return nil, err
		}
	}
	var stored []master.Assignment
	defer func() {
		if out == nil {
			a.opts.Master.Discard(stored)
		}
	}()
	one := req
	one.Count = 1
	var chunks []wire.Chunk
	var offset int64
	for {
		as, _, err := a.opts.Master.Submit(r.Context(), one, in.Piece(data))
		if err != nil {
			return nil, fmt.Errorf("chunk at %d: %w", offset, err)
		}
		stored = append(stored, as)
		chunks = append(chunks, wire.Chunk{FileID: as.ID.String(), Offset: offset, Size: int64(len(data))})
		if offset += int64(len(data)); last {
			break
		}
		if len(chunks) == maxChunks {
			return nil, fmt.Errorf("%w: over %d chunks; make them larger with maxMB", volume.ErrTooLarge, maxChunks)
		}
		if data, last, err = in.Next(); err != nil {
			return nil, err
		}
	}
	up, err := in.Assembled(chunks)
	if err != nil {
		return nil, err
	}
	return a.storeOne(r, req, up)
}
