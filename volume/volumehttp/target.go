package volumehttp

import (
	"fmt"
	"strings"

	"github.com/julienschmidt/httprouter"

	"weedd/volume"
)

// target is what a path names. The forms are /3,01637037d6, /3/01637037d6, both
// with an extension if one likes, and /3/01637037d6/name.ext.
type target struct {
	id   volume.FileID
	name string // of the last form, else ""
	text string // the id as it was written, without extension and name
	last string // the last segment; its extension gives a type to an upload that has none
}

// parseTarget reads the parameters of the file routes.
func parseTarget(p httprouter.Params) (t target, err error) {
	fid := p[0].Value
	t.text = fid
	t.last = p[len(p)-1].Value
	if len(p) == 1 {
		comma := strings.IndexByte(fid, ',')
		if dot := strings.LastIndexByte(fid, '.'); comma >= 0 && dot > comma {
			fid = fid[:dot]
		}
		t.text = fid
		t.id, err = volume.ParseFileID(fid)
		return t, err
	}
	if t.id.Volume, err = volume.ParseID(fid); err != nil {
		return t, err
	}
	key := p[1].Value
	if len(p) == 3 {
		t.name = t.last
	} else if dot := strings.LastIndexByte(key, '.'); dot >= 0 {
		key = key[:dot]
	}
	t.text = fid + "," + key
	if len(t.name) > 255 {
		return t, fmt.Errorf("%w: the name in the path is over 255 bytes", volume.ErrBadRequest)
	}
	t.id.Key, t.id.Cookie, err = volume.ParseKeyCookie(key)
	return t, err
}
