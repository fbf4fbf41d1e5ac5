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
	wide      bool              // the index has 5-byte offsets
	readOnly  bool
	version   int // of the records, where .dat is erasure-coded; 0 if it is not said
	// What follows is of erasure-coded volumes only.
	datSize      int64 // 0 if it is not said
	expires      int64 // seconds since 1970; 0 is never
	data, parity int   // numbers of shards; 0 if it is not said
	encoded      int64 // names the run that made the shards; 0 if it is not said
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

// fieldName makes the two spellings of a name one.
func fieldName(s string) string { return strings.ToLower(strings.ReplaceAll(s, "_", "")) }

// number reads a number, which may be in quotes; what is none is 0.
func number(b json.RawMessage) int64 {
	n, err := strconv.ParseInt(strings.Trim(string(b), `"`), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func parseVif(b []byte) (v vif, err error) {
	var raw map[string]json.RawMessage
	if json.Unmarshal(b, &raw) != nil {
		return vif{}, nil
	}
	for name, value := range raw {
		name = fieldName(name)
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
			if n := number(value); n != 0 && n != 4 && n != 5 {
				err = fmt.Errorf("volume info: the index has %d-byte offsets", n)
			} else {
				v.wide = n == 5
			}
		case "replication":
			v.placement = parsePlacement(value)
		case "readonly":
			v.readOnly = string(value) == "true"
		case "version":
			v.version = int(number(value))
		case "datfilesize":
			v.datSize = max(number(value), 0)
		case "expireatsec", "destroytime":
			v.expires = number(value)
		case "ecshardconfig":
			v.parseShards(value)
		}
	}
	return v, err
}

// parsePlacement reads a placement; nil for none.
func parsePlacement(b json.RawMessage) *volume.Placement {
	var s string
	if json.Unmarshal(b, &s) != nil || s == "" {
		return nil
	}
	p, err := volume.ParsePlacement(s)
	if err != nil {
		return nil
	}
	return &p
}

// parseShards reads into how many shards .dat was cut.
func (v *vif) parseShards(b json.RawMessage) {
	var raw map[string]json.RawMessage
	if json.Unmarshal(b, &raw) != nil {
		return
	}
	for name, value := range raw {
		switch fieldName(name) {
		case "datashards":
			v.data = int(number(value))
		case "parityshards":
			v.parity = int(number(value))
		case "encodetsns":
			v.encoded = number(value)
		}
	}
}
