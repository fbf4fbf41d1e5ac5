package masterhttp_test

import (
	"maps"
	"strings"
	"testing"

	"weedd/volume/volumetest/replay"
)

// The files in testdata/transcripts are requests to the reference server,
// SeaweedFS 4.44, and its answers. They are replayed against the master role
// over a cluster in memory. Where we answer otherwise on purpose is listed here, with
// the ids of cluster/DESIGN.md and volume/DESIGN.md.
func TestTranscripts(t *testing.T) {
	t.Parallel()
	own := replay.ReadReasons(t, "../DESIGN.md")
	reasons := replay.ReadReasons(t, "../../volume/DESIGN.md")
	maps.Copy(reasons, own)
	replay.Run(t, "testdata/transcripts", replay.Table{Reasons: reasons, Own: own, Shown: shown, Deviations: deviations, Rules: rules}, newCluster)
}

// shown are the tests of what the transcripts do not show, or not here.
var shown = map[string]string{
	"degraded":                 "daemon/daemontest TestTranscripts",
	"data-size":                "daemon/daemontest TestTranscripts",
	"no-leader-status":         "daemon/daemontest TestTranscripts",
	"proxy-502":                "daemon/daemontest TestTranscripts",
	"col-delete-default":       "daemon/daemontest TestTranscripts",
	"lookup-mints-write-token": "daemon/daemontest TestAClosedClusterServesThoseWhoHaveTokens",
	"col-delete-get":           "cluster/masterhttp TestWhoMayDestroy",
	"redirect-fid":             "cluster/masterhttp TestRoutes",
	"large-submit":             "cluster/masterhttp TestALargeBodyIsStoredInChunks",
	"idempotency-key":          "cluster/masterhttp TestARepeatGetsTheFirstAnswer",
	"form-parameters":          "cluster/masterhttp TestFormBodies",
	"datanode-alone":           "cluster/masterhttp TestRoutes",
	"key-reuse":                "cluster/master TestIDsNeverRepeat",
	"client-chosen-key":        "cluster/master TestIDsNeverRepeat",
	"unknown-volumes":          "cluster/master TestALookupOfAVolumeThatIsNotKnownHereYetIsTheLeadersToAnswer",
	"collection-info-count":    "cluster/masterhttp TestRoutes",
}

var (
	refused = func(why string, status int) replay.Deviation {
		return replay.Deviation{Why: why, Status: status, Only: true, Body: replay.Text(`{"error":"{{any}}"}`),
			Headers: map[string]string{"Content-Type": "application/json"}}
	}
	taken  = func(why, body string) replay.Deviation { return replay.Deviation{Why: why, Body: replay.Text(body)} }
	absent = replay.Deviation{Status: 404, Only: true, Body: replay.Text("404 page not found\n"), Headers: map[string]string{
		"Content-Type": "text/plain; charset=utf-8"}}
)

func because(why string, d replay.Deviation) replay.Deviation {
	d.Why = why
	return d
}

var deviations = map[string]replay.Deviation{
	"master-assign/assign count not a number is taken as 1":                            refused("assign-lenient", 406),
	"master-assign/assign by HEAD consumes a key":                                      {Why: "method-not-checked", Headers: map[string]string{"Content-Length": "2"}},
	"master-assign/assign by OPTIONS is an assign":                                     {Why: "method-not-checked", Status: 204, Only: true, Body: replay.Text("")},
	"master-assign/collection grown by writableVolumeCount has two volumes":            taken("writable-volume-count", `{"Collection":"wvc","FileCount":0,"TotalSize":469762048,"UsedSize":56,"Version":"weedd 1.2.3","VolumeCount":7}`),
	"master-assign/assign replication with more than three digits ignores the rest":    refused("replication-lenient", 406),
	"master-assign/error: letters in replication can pass as huge counts":              refused("replication-lenient", 406),
	"master-assign/assign ttl with unknown unit means no ttl":                          refused("ttl-lenient", 406),
	"master-assign/assign negative ttl means no ttl":                                   refused("ttl-lenient", 406),
	"master-assign/assign ttl too big for one byte means no ttl":                       refused("ttl-lenient", 406),
	"master-assign/error: unknown data center is answered as growth in progress":       refused("unknown-dc-503", 406),
	"master-assign/error: unsatisfiable replication is answered as growth in progress": refused("unsatisfiable-503", 406),
	"master-assign/error: replication 200 needs three data centers":                    refused("unsatisfiable-503", 406),

	"master-lookup/redirect of a bare volume id":                     refused("bare-vid-redirect", 404),
	"master-lookup/redirect of a bare volume id (follower)":          refused("bare-vid-redirect", 404),
	"master-lookup/collection filter that does not match (follower)": {Why: "follower-ignores-volumes", Status: 404, Body: replay.Text(`{"volumeOrFileId":"{{vid:a}}","error":"{{any}}"}`)},
	"master-volumes/collection info on a follower is not proxied and knows nothing": {Why: "follower-ignores-volumes", Status: 200,
		Body: replay.Text(`{"Collection":"grown","FileCount":{{int}},"TotalSize":268435456,"UsedSize":{{int}},"Version":"{{version}}","VolumeCount":3}`)},

	"master-submit/error: submit bad replication":                refused("submit-status", 406),
	"master-submit/error: submit bad ttl":                        refused("submit-status", 406),
	"master-submit/error: submit unknown data center":            refused("submit-status", 406),
	"master-submit/error: submit bad replication (follower)":     refused("submit-status", 406),
	"master-submit/error: submit bad ttl (follower)":             refused("submit-status", 406),
	"master-submit/error: submit unknown data center (follower)": refused("submit-status", 406),
	"master-submit/read it through any volume server":            {Why: "submit-ts", Headers: map[string]string{"Last-Modified": "Fri, 14 Jul 2017 02:40:00 GMT"}},

	"master-volumes/a collection name with dots climbs out of the data directory": refused("collection-name", 406),
	"master-volumes/and is deleted by that name":                                  refused("collection-name", 400),

	"jwt/the volume ui is off when a write key is set":    {Why: "token-order", Status: 400, Only: true, Body: replay.Text("")},
	"jwt/error: HEAD without a token":                     {Why: "content-length", Headers: map[string]string{"Content-Length": "{{int}}"}},
	"jwt/error: junk path is refused before it is parsed": {Why: "token-order", Status: 400, Only: true, Body: replay.Text("")},
	"jwt/error: POST of a bad key checks the token first": {Why: "token-order", Status: 400},
	"whitelist/open: GET /cluster/status":                 {Why: "single-peers", Body: replay.Text(`{"IsLeader":true,"Leader":"{{host:master}}","Peers":["{{host:master}}"]}`)},

	"master-cluster/error: cluster status by POST": {Why: "allow", Headers: map[string]string{"Allow": "GET, HEAD, OPTIONS"}},
	"master-cluster/error: healthz by POST falls through to the fid route": {Why: "method-not-checked", Status: 405, Only: true, Body: replay.Text(""),
		Headers: map[string]string{"Allow": "GET, HEAD, OPTIONS"}},
	"master-cluster/error: metrics port other path": {Why: "metrics", Status: 200, Only: true, Body: replay.Text("{{any}}"),
		Headers: map[string]string{"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": "{{any}}"}},
	"master-cluster/error: metrics is not served on the main port": {Why: "metrics", Status: 200, Only: true, Body: replay.Text("{{any}}"),
		Headers: map[string]string{"Content-Type": "{{any}}", "Vary": "{{any}}"}},
	"master-cluster/metrics port":                          {Why: "metrics", Headers: map[string]string{"Vary": "{{any}}"}},
	"master-cluster/double slash is cleaned by a redirect": because("double-slash", absent),
}

// rules are what is otherwise in many answers alike.
var rules = []replay.Rule{
	replay.ErrorText, replay.GrowCount, replay.ContentMD5, replay.NoGRPCPort, replay.ContentLength, replay.Readyz, replay.StatusPage,
	// The record shows one volume server of three.
	{Edit: func(it *replay.Item) bool {
		if !strings.HasPrefix(it.Name, "vol status") {
			return false
		}
		dcs := it.Response.BodyExample.(map[string]any)["Volumes"].(map[string]any)["DataCenters"].(map[string]any)
		dc1 := dcs["dc1"].(map[string]any)
		one := dc1["rack1"].(map[string]any)["{{host:volume1}}"]
		dc1["rack2"] = map[string]any{"{{host:volume2}}": one}
		dcs["dc2"] = map[string]any{"rack1": map[string]any{"{{host:volume3}}": one}}
		return true
	}},
	{Why: "white-list", Edit: func(it *replay.Item) bool {
		r := &it.Response
		fits := r.Status == 401 && r.BodyText == ""
		if fits && it.Request.Method != "HEAD" {
			r.BodyText = `{"error":"{{any}}"}`
			r.Headers["Content-Length"], r.Headers["Content-Type"] = replay.Quote("{{int}}"), replay.Quote("application/json")
		}
		return fits
	}},
}
