package masterhttp

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"

	"weedd/cluster/master"
	"weedd/volume"
	"weedd/volume/wire"
)

// assigned is the answer of /dir/assign.
type assigned struct {
	FileID    string `json:"fid,omitempty"`
	URL       string `json:"url,omitempty"`
	PublicURL string `json:"publicUrl,omitempty"`
	Count     uint64 `json:"count,omitempty"`
}

func (a *API) assign(w *answer, r *http.Request) error {
	q, err := params(w, r)
	if err != nil {
		return err
	}
	req, err := a.request(q)
	if err != nil {
		return err
	}
	if r.Method == http.MethodHead { // asks nothing, so it takes nothing
		wire.JSON(w, r, http.StatusOK, assigned{})
		return nil
	}
	release, err := a.hold()
	if err != nil {
		return err
	}
	defer release()
	as, err := a.opts.Master.Assign(r.Context(), req)
	if err != nil {
		return err
	}
	a.giveToken(w, as.ID.String(), true)
	wire.JSON(w, r, http.StatusOK, assigned{as.ID.String(), as.Node.URL, as.Node.PublicURL, as.Count})
	return nil
}

// giveToken puts a token for a file into the answer, if one is asked for.
func (a *API) giveToken(w *answer, fid string, write bool) {
	if t := a.opts.Access.Token(fid, write); t != "" {
		w.Header()["Authorization"] = []string{t}
	}
}

// request reads the parameters that /dir/assign, /vol/grow and /submit share.
// Errors are volume.ErrBadSpec.
func (a *API) request(q url.Values) (req master.Request, err error) {
	if req.Spec, err = a.spec(q); err != nil {
		return req, err
	}
	if req.Count, err = count(q); err != nil {
		return req, err
	}
	for _, name := range []string{"preallocate", "memoryMapMaxSizeMb", "writableVolumeCount", "dataSize"} { // checked and without effect
		if s := q.Get(name); s != "" {
			if _, err := strconv.ParseUint(s, 10, 63); err != nil {
				return req, fmt.Errorf("%w: %s %q is not a number", volume.ErrBadSpec, name, s)
			}
		}
	}
	req.DataCenter, req.Rack, req.Node = q.Get("dataCenter"), q.Get("rack"), volume.NodeID(q.Get("dataNode"))
	return req, nil
}

// count reads how many ids are asked for: none, 0 and less are 1.
func count(q url.Values) (uint64, error) {
	s := q.Get("count")
	if s == "" {
		return 1, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: count %q is not a number", volume.ErrBadSpec, s)
	}
	return uint64(max(n, 1)), nil
}

// spec reads the kind of volume that is asked for.
func (a *API) spec(q url.Values) (s volume.Spec, err error) {
	s.Placement = a.opts.DefaultReplication
	if text := q.Get("replication"); text != "" {
		if s.Placement, err = volume.ParsePlacement(text); err != nil {
			return s, err
		}
	}
	if s.TTL, err = volume.ParseTTL(q.Get("ttl")); err != nil {
		return s, err
	}
	if s.Collection, err = volume.ParseCollection(q.Get("collection")); err != nil {
		return s, err
	}
	s.Disk, err = volume.ParseDiskType(q.Get("disk"))
	return s, err
}

// location is one holder in the answer of /dir/lookup.
type location struct {
	URL        string `json:"url"`
	PublicURL  string `json:"publicUrl"`
	DataCenter string `json:"dataCenter"`
}

// found is the answer of /dir/lookup.
type found struct {
	ID        string     `json:"volumeOrFileId,omitempty"`
	Locations []location `json:"locations,omitempty"`
	Error     string     `json:"error,omitempty"`
}

func (a *API) lookup(w *answer, r *http.Request) error {
	q, err := params(w, r)
	if err != nil {
		return err
	}
	text, fid := q.Get("volumeId"), q.Get("fileId")
	if strings.Contains(fid, ",") {
		text = fid
	} else {
		fid = ""
	}
	text, _, _ = strings.Cut(text, ",")
	text = clip(text)
	nodes, err := a.find(r.Context(), text, q.Get("collection"))
	if err != nil {
		status, _ := wire.Status(err)
		wire.RetryLater(w.Header(), status)
		wire.JSON(w, r, status, found{ID: text, Error: err.Error()})
		return nil
	}
	if fid != "" {
		a.giveToken(w, fid, q.Get("read") != "yes")
	}
	out := found{ID: text}
	for _, n := range nodes {
		out.Locations = append(out.Locations, location{n.URL, n.PublicURL, n.DataCenter})
	}
	wire.JSON(w, r, http.StatusOK, out)
	return nil
}

// find looks a volume up.
func (a *API) find(ctx context.Context, text, collection string) ([]volume.Node, error) {
	id, err := volume.ParseID(text)
	if err != nil {
		return nil, fmt.Errorf("%w: Unknown volume id %s", volume.ErrNoVolume, clip(text))
	}
	return a.opts.Master.Lookup(ctx, id, collection)
}

// clip shortens what a client sent, for error texts.
func clip(s string) string {
	if len(s) > 64 {
		s = s[:64] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

// redirect sends a client that asks a master for a file to a node that has it.
// Status 308 keeps the method, so POST and DELETE may be repeated there.
func (a *API) redirect(w *answer, r *http.Request) error {
	fid := strings.TrimPrefix(r.URL.Path, "/")
	vid, rest, ok := strings.Cut(fid, ",")
	if !ok {
		return fmt.Errorf("%w: volume id %s not found: Unknown volume id %s", volume.ErrNoVolume, clip(vid), clip(vid))
	}
	if _, _, err := volume.ParseKeyCookie(strings.TrimSuffix(rest, path.Ext(rest))); err != nil {
		return err
	}
	nodes, err := a.find(r.Context(), vid, r.URL.Query().Get("collection"))
	if err != nil {
		return err
	}
	scheme := "http"
	if a.opts.TLS {
		scheme = "https"
	}
	to := url.URL{Scheme: scheme, Host: nodes[rand.IntN(len(nodes))].PublicURL, Path: r.URL.Path, RawQuery: r.URL.RawQuery}
	http.Redirect(w, r, to.String(), http.StatusPermanentRedirect)
	return nil
}
