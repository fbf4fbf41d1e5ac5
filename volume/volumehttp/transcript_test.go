package volumehttp_test

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"weedd/volume"
	"weedd/volume/volumehttp"
	"weedd/volume/volumetest"
	"weedd/volume/volumetest/replay"
)

// The files in testdata/transcripts are requests to the reference server,
// SeaweedFS 4.44, and its answers. They are replayed against this API over
// stores in memory; what we answer otherwise is in the tables of
// deviations_test.go.
func TestTranscripts(t *testing.T) {
	t.Parallel()
	reasons := replay.ReadReasons(t, "../DESIGN.md")
	table := replay.Table{Reasons: reasons, Own: reasons, Shown: shown, Deviations: deviations, Rules: usual}
	replay.Run(t, "testdata/transcripts", table, newCluster)
}

// newCluster makes three nodes, volume1 to volume3, which hold volumes 1 to 3. The
// last has a public port.
func newCluster(t *testing.T, _ string) *replay.Player {
	one := &node{Blobs: volumetest.NewBlobs(1), held: 1}
	two := &node{Blobs: volumetest.NewBlobs(2), held: 2}
	three := &node{Blobs: volumetest.NewBlobs(3), held: 3}
	one.others = map[volume.ID]*node{2: two}
	two.others = map[volume.ID]*node{1: one}
	p := replay.NewPlayer(t, map[string]string{
		"volume1": serve(t, one, volumehttp.Options{Images: 64 << 20}),
		"volume2": serve(t, two, volumehttp.Options{Images: 64 << 20}),
		"volume3": serve(t, three, volumehttp.Options{}),
	})
	public := httptest.NewServer(volumehttp.New(volumehttp.Options{Blobs: three, Log: discard()}).Public())
	t.Cleanup(public.Close)
	p.Hosts["volume3public"] = strings.TrimPrefix(public.URL, "http://")
	key := 100
	p.Instead = func(it *replay.Item) bool { // does what /dir/assign would: an id on the node asked for
		if !strings.HasPrefix(it.Request.Path, "/dir/assign") {
			return false
		}
		vid := 1
		for i, name := range []string{"volume1", "volume2", "volume3"} {
			if strings.Contains(p.Expand(it.Request.Path), "dataNode="+p.Hosts[name]) {
				vid = i + 1
			}
		}
		for name := range it.Capture {
			key += 16
			p.FIDs[strings.TrimPrefix(name, "fid:")] = fmt.Sprintf("%d,%s", vid,
				volume.FormatKeyCookie(volume.Key(key), 0xdeadbe00+volume.Cookie(key)))
		}
		return true
	}
	return p
}
