package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"weedd/volume"
	"weedd/volume/vfs"
)

// vifText is a volume info file as SeaweedFS writes it; it has no field of ours,
// because SeaweedFS forgets a whole file for one field that it does not know.
const vifText = `{
  "files": [],
  "version": 3,
  "replication": "",
  "bytesOffset": 4,
  "datFileSize": "0",
  "expireAtSec": "%d",
  "readOnly": false,
  "ecShardConfig": null,
  "readOnlyCanDelete": false
}`

// newVif is the volume info of a new volume.
func newVif(ttl volume.TTL, now time.Time) []byte {
	var expire int64
	if !ttl.IsZero() {
		expire = now.Add(ttl.Duration()).Unix()
	}
	return fmt.Appendf(nil, vifText, expire)
}

// vif is what matters to us of a volume info file.
type vif struct {
	placement *volume.Placement // nil: as the super block says
}

var vifFields = map[string]bool{
	"files": true, "version": true, "replication": true, "bytesoffset": true, "datfilesize": true, "expireatsec": true,
	"destroytime": true, "readonly": true, "ecshardconfig": true, "readonlycandelete": true,
}

// readVif reads the volume info beside base. One that is missing, is not valid
// or has a field that nobody knows counts for nothing, as it does in SeaweedFS.
// An error means that the volume cannot be read without what it describes.
func readVif(fs vfs.FS, base string) (vif, error) {
	b, err := vfs.ReadFile(fs, base+extVif)
	if errors.Is(err, os.ErrNotExist) {
		return vif{}, nil
	}
	if err != nil {
		return vif{}, err
	}
	return parseVif(b)
}

func parseVif(b []byte) (v vif, err error) {
	var raw map[string]json.RawMessage
	if json.Unmarshal(b, &raw) != nil {
		return vif{}, nil
	}
	for name, value := range raw {
		name = strings.ToLower(strings.ReplaceAll(name, "_", ""))
		if !vifFields[name] {
			return vif{}, nil
		}
		switch name {
		case "files":
			var files []json.RawMessage
			if json.Unmarshal(value, &files) == nil && len(files) > 0 {
				err = errors.New("volume info: the data is on a remote tier")
			}
		case "bytesoffset":
			if n, e := strconv.Atoi(strings.Trim(string(value), `"`)); e == nil && n != 0 && n != 4 {
				err = fmt.Errorf("volume info: the index has %d-byte offsets, made by a SeaweedFS for large disks", n)
			}
		case "replication":
			var s string
			if json.Unmarshal(value, &s) == nil && s != "" {
				if p, e := volume.ParsePlacement(s); e == nil {
					v.placement = &p
				}
			}
		}
	}
	return v, err
}
