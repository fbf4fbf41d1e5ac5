package volumehttp

import (
	"errors"
	"net/http"

	"github.com/julienschmidt/httprouter"

	"weedd/volume"
)

// scrub starts a pass over the volumes that the query names, or over all.
func (a *API) scrub(x *exchange, _ httprouter.Params) error {
	if err := a.opts.Access.CheckAdmin(x.r); err != nil {
		return err
	}
	var ids []volume.ID
	for _, s := range x.r.URL.Query()["volume"] {
		id, err := volume.ParseID(s)
		if err != nil {
			return err
		}
		ids = append(ids, id)
	}
	n, err := a.opts.Scrub.Scrub(ids...)
	if errors.Is(err, volume.ErrNoVolume) {
		x.error(http.StatusNotFound, err.Error())
		return nil
	}
	if err != nil {
		return err
	}
	x.json(http.StatusAccepted, map[string]int{"volumes": n})
	return nil
}

// scrubbed says how far each volume is.
func (a *API) scrubbed(x *exchange, _ httprouter.Params) error {
	if err := a.opts.Access.CheckAdmin(x.r); err != nil {
		return err
	}
	x.json(http.StatusOK, a.opts.Scrub.Scrubbed())
	return nil
}
