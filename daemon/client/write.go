package client

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"weedd/volume"
)

// Spec says how files are to be kept. Empty fields leave it to the masters.
type Spec struct {
	Collection  string
	Replication string // xyz: copies in other data centers, racks, on other hosts
	TTL         string // a number and one of m h d w M y
	Disk        string
}

func (s Spec) query() url.Values {
	q := url.Values{}
	for name, v := range map[string]string{"collection": s.Collection, "replication": s.Replication, "ttl": s.TTL, "disk": s.Disk} {
		if v != "" {
			q.Set(name, v)
		}
	}
	return q
}

// Assigned is a file id to write to.
type Assigned struct {
	ID        volume.FileID
	Count     int    // ids reserved: ID and the Count-1 keys after it
	URL       string // host:port of a volume server, as other servers of the cluster know it
	PublicURL string // and as the world does
	Auth      string // Authorization header for the write, "" when none is needed
}

// Stored is a file that the cluster has acknowledged.
type Stored struct {
	ID       volume.FileID
	Size     int64 // bytes sent
	SHA256   [sha256.Size]byte
	ETag     string
	Attempts int // how many ids were tried for it
}

// Assign asks for count consecutive file ids.
func (c *Client) Assign(ctx context.Context, spec Spec, count int) (Assigned, error) {
	var a Assigned
	err := c.retry(ctx, "assign", func(ctx context.Context, master string) (err error) {
		a, err = c.assign(ctx, master, spec, count)
		return err
	})
	return a, err
}

func (c *Client) assign(ctx context.Context, master string, spec Spec, count int) (Assigned, error) {
	q := spec.query()
	q.Set("count", strconv.Itoa(count))
	where := master + "/dir/assign?" + q.Encode()
	var said struct {
		FID       string `json:"fid"`
		URL       string `json:"url"`
		PublicURL string `json:"publicUrl"`
		Count     int    `json:"count"`
	}
	header, err := c.getJSON(ctx, where, &said)
	if err != nil {
		return Assigned{}, err
	}
	id, err := volume.ParseFileID(said.FID)
	if err == nil && said.URL == "" && said.PublicURL == "" {
		err = fmt.Errorf("file id %s comes without an address", said.FID)
	}
	if err != nil {
		return Assigned{}, &RequestError{Method: http.MethodGet, URL: where, Status: http.StatusOK, Err: err}
	}
	return Assigned{ID: id, Count: max(1, said.Count), URL: said.URL, PublicURL: said.PublicURL, Auth: header.Get("Authorization")}, nil
}

// Put stores a file by asking a master for an id and sending the body to the
// volume server that it names. Each further attempt takes a new id.
func (c *Client) Put(ctx context.Context, spec Spec, src Source) (Stored, error) {
	var st Stored
	tries := 0
	err := c.retry(ctx, "store "+src.named(), func(ctx context.Context, master string) error {
		tries++
		a, err := c.assign(ctx, master, spec, 1)
		if err != nil {
			return err
		}
		st, err = c.PutAt(ctx, a, src)
		return err
	})
	st.Attempts = tries
	return st, err
}

// PutAt stores a file under an id that Assign gave, in one attempt. After an
// error that is Temporary the file may be there or not.
func (c *Client) PutAt(ctx context.Context, a Assigned, src Source) (Stored, error) {
	server := a.PublicURL
	if server == "" {
		server = a.URL
	}
	var said struct {
		Size int64  `json:"size"`
		ETag string `json:"eTag"`
	}
	header := http.Header{}
	if a.Auth != "" {
		header.Set("Authorization", a.Auth)
	}
	st, err := c.send(ctx, http.MethodPut, c.scheme+"://"+server+"/"+a.ID.String(), header, src, &said, &said.Size)
	st.ID, st.ETag = a.ID, said.ETag
	return st, err
}

// Submit stores a file through a master, which chooses where and passes the
// body on. Each further attempt is a new submission with a new id.
func (c *Client) Submit(ctx context.Context, spec Spec, src Source) (Stored, error) {
	var st Stored
	tries := 0
	err := c.retry(ctx, "submit "+src.named(), func(ctx context.Context, master string) (err error) {
		tries++
		st, err = c.submit(ctx, master, spec, src)
		return err
	})
	st.Attempts = tries
	return st, err
}

func (c *Client) submit(ctx context.Context, master string, spec Spec, src Source) (Stored, error) {
	where := master + "/submit"
	if q := spec.query(); len(q) > 0 {
		where += "?" + q.Encode()
	}
	var said struct {
		FID  string `json:"fid"`
		Size int64  `json:"size"`
		ETag string `json:"eTag"`
	}
	st, err := c.send(ctx, http.MethodPost, where, http.Header{}, src, &said, &said.Size)
	if err != nil {
		return st, err
	}
	st.ETag = said.ETag
	if st.ID, err = volume.ParseFileID(said.FID); err != nil {
		return st, &RequestError{Method: http.MethodPost, URL: where, Status: http.StatusCreated, Err: err}
	}
	return st, nil
}

// send streams a body and checks that the answer, decoded into said, tells of as
// many bytes as were sent. 204 says that the same bytes were there already.
func (c *Client) send(ctx context.Context, method, where string, header http.Header, src Source, said any, size *int64) (Stored, error) {
	ctx, stall := c.watch(ctx)
	defer stall.stop()
	body, err := openMeter(src, stall.moved)
	if err != nil {
		return Stored{}, err
	}
	defer body.Close()
	header.Set("Content-Type", src.contentType())
	if d := src.disposition(); d != "" {
		header.Set("Content-Disposition", d)
	}
	r := request{method: method, url: where, header: header, body: body, stall: stall}
	err = c.do(ctx, r, func(resp *http.Response) error {
		if resp.StatusCode == http.StatusNoContent {
			*size = body.size
			return nil
		}
		return readJSON(said)(resp)
	})
	if err != nil {
		return Stored{}, err
	}
	sum, n, err := body.result()
	if err != nil {
		return Stored{}, err
	}
	if n != body.size || *size != n {
		return Stored{}, &RequestError{Method: method, URL: where, Status: http.StatusCreated,
			Err: fmt.Errorf("%d of %d bytes were sent and the answer tells of %d", n, body.size, *size)}
	}
	return Stored{Size: n, SHA256: sum}, nil
}
