package store

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"weedd/volume"
	"weedd/volume/vfs/faultfs"
)

// better is where we answer a GET of a damaged volume otherwise than SeaweedFS
// does; keys that are not named, and cases that are not, are answered alike.
var better = map[string]map[int]int{
	// The index lacks what .dat has: it is made up.
	"idx-empty":                    {1: 200, 3: 200, 4: 200, 5: 200, 6: 200, 7: 200},
	"idx-missing":                  {1: 200, 2: 404, 3: 200, 4: 200, 5: 200, 6: 200, 7: 200},
	"idx-and-vif-missing":          {1: 200, 3: 200, 4: 200, 5: 200, 6: 200, 7: 200},
	"idx-torn":                     {1: 200, 3: 200, 4: 200, 5: 200, 6: 200, 7: 200},
	"idx-torn-plus":                {1: 200, 3: 200, 4: 200, 5: 200, 6: 200, 7: 200},
	"dat-whole-record-not-indexed": {7: 200},
	"dat-two-records-not-indexed":  {6: 200, 7: 200},
	"tail-tombstone-not-indexed":   {6: 404},
	// The new index is beside the new .dat.
	"compact-dat-renamed-no-marker": {3: 200, 8: 200, 9: 200, 11: 200},
	// What is torn was never whole: it is not there.
	"dat-superblock-only":      {1: 404, 3: 404, 4: 404, 5: 404, 6: 404, 7: 404},
	"dat-torn-at-record-start": {7: 404},
	"dat-torn-body":            {7: 404},
	"dat-torn-checksum":        {7: 404},
	"dat-torn-header":          {7: 404},
	"dat-torn-padding":         {7: 404},
	"dat-torn-timestamp":       {7: 404},
	"tail-tombstone-torn":      {6: 200},
	// A row past the end of .dat is worth nothing.
	"idx-beyond-dat": {4: 404},
	// The key in the header is checked.
	"flip-key":       {1: 500},
	"idx-bad-offset": {4: 500},
}

// Damaged and interrupted volumes of SeaweedFS: none stops Open, none is changed,
// and each answers as it does there, or better.
func TestDamagedVolumesOfSeaweedFS(t *testing.T) {
	t.Parallel()
	var m struct {
		Cases []struct {
			Case, What string
			Get        map[int]struct {
				Status int
				Sha256 string
			}
		}
	}
	b, err := os.ReadFile("testdata/vectors/damage/manifest.json")
	must(t, err)
	must(t, json.Unmarshal(b, &m))
	whole := map[string]map[int]string{} // what an undamaged volume answers
	for _, c := range m.Cases {
		whole[c.Case] = map[int]string{}
		for k, g := range c.Get {
			whole[c.Case][k] = g.Sha256
		}
	}
	for _, c := range m.Cases {
		t.Run(c.Case, func(t *testing.T) {
			t.Parallel()
			fs := faultfs.New(1)
			must(t, fs.Mkdir("/d"))
			unpack(t, fs, "testdata/vectors/damage/files.tar.gz", c.Case+"/in/", "/d")
			s := openStore(t, fs)
			id, cookie, clean := volume.ID(40), volume.Cookie(0xda000000), "clean"
			if strings.HasPrefix(c.Case, "compact-") {
				id, cookie, clean = 5, 0xc0ffee00, "compact-marker"
			} else if strings.Contains(c.Case, "tombstone") {
				id = 41
			}
			keys := slices.Sorted(maps.Keys(c.Get))
			if len(keys) == 0 {
				keys = slices.Sorted(maps.Keys(better[c.Case]))
			}
			for _, k := range keys {
				want := c.Get[k].Status
				sum := c.Get[k].Sha256
				if status, ok := better[c.Case][k]; ok {
					want, sum = status, whole[clean][k]
				}
				got, gotSum := status(s, id, volume.Key(k), cookie)
				if got != want || got == 200 && gotSum != sum {
					t.Errorf("%s: key %d: %d %.8s, want %d %.8s; set aside: %v", c.What, k, got, gotSum, want, sum, s.Aside())
				}
			}
		})
	}
}

// status is what a GET would answer.
func status(s *Store, id volume.ID, key volume.Key, cookie volume.Cookie) (int, string) {
	v, err := s.Volume(id)
	if err != nil {
		return 404, ""
	}
	n, err := v.Get(key, cookie+volume.Cookie(key), time.Now(), false)
	switch {
	case volume.Code(err) == "not_found":
		return 404, ""
	case err != nil:
		return 500, fmt.Sprint(err)
	}
	defer n.Release()
	sum := sha256.Sum256(n.Data)
	return 200, hex.EncodeToString(sum[:])
}
