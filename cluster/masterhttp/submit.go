package masterhttp

import (
	"fmt"
	"net/http"
	"time"

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
}

// submitName is what a raw body without a name is called.
const submitName = "submit"

func (a *API) submit(w *answer, r *http.Request) error {
	if r.Method != http.MethodPost {
		wire.ErrorStatus(w, r, http.StatusMethodNotAllowed, "Only submit via POST!")
		return nil
	}
	q, err := wire.Query(r)
	if err != nil {
		return err
	}
	if _, err := count(q); err != nil { // 400 here, 406 at /dir/assign, as ever
		return fmt.Errorf("%w: %v", volume.ErrBadRequest, err)
	}
	req, err := a.request(q)
	if err != nil {
		return err
	}
	lim := a.limits.Load()
	if err := wire.CheckLength(r, lim.file); err != nil {
		return err
	}
	release, err := a.room(r, lim)
	if err != nil {
		return err
	}
	defer release()
	wire.GuardBody(w, r, a.opts.Stall)
	up, err := wire.ParseUpload(r, wire.UploadOptions{Limit: lim.file, Name: submitName})
	if err != nil {
		return err
	}
	as, res, err := a.opts.Master.Submit(r.Context(), req, &up.Needle)
	if err != nil {
		return err
	}
	wire.JSON(w, r, http.StatusCreated, submitted{
		ETag: wire.ETag(res.Checksum), FileID: as.ID.String(), FileName: string(up.Needle.Name),
		FileURL: as.Node.PublicURL + "/" + as.ID.String(), Size: up.Size,
	})
	return nil
}

// roomWait is how long an upload waits for room in memory before it is told 429.
const roomWait = 10 * time.Second

// room reserves memory for the body of r.
func (a *API) room(r *http.Request, lim *limits) (release func(), err error) {
	done, err := a.hold()
	if err != nil {
		return nil, err
	}
	free, err := lim.bytes.Admit(r)
	if err != nil {
		done()
		return nil, err
	}
	return func() {
		free()
		done()
	}, nil
}
