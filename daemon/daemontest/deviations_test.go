package daemontest_test

import (
	"strings"

	"weedd/volume/volumetest/replay"
)

var (
	fidAnswer   = `{"fid":"{{fid}}","url":"{{host}}","publicUrl":"{{host}}","count":{{int}}}`
	assigned    = func(why string) replay.Deviation { return answered(why, 200, fidAnswer) }
	submitted   = `{"eTag":"{{etag}}","fid":"{{fid}}","fileName":"a.txt","fileUrl":"{{host}}/{{fid}}","size":1}`
	unavailable = func(why string) replay.Deviation {
		d := answered(why, 503, `{"error":"{{any}}"}`)
		d.Headers["Retry-After"] = "1"
		return d
	}
	absent  = replay.Deviation{Status: 404, Only: true, Body: replay.Text("")}
	isThere = func(why, tag, content string) replay.Deviation {
		return replay.Deviation{Why: why, Status: 200, Body: replay.Text(content), Headers: map[string]string{"Accept-Ranges": "bytes", "Etag": tag,
			"Content-Type": "text/plain", "Content-Disposition": "inline; filename=a.txt", "Last-Modified": "{{http_date}}"}}
	}
	moved = func(path string) replay.Deviation {
		return replay.Deviation{Why: "redirect-drops", Status: 307, Only: true, Body: replay.Text(""),
			Headers: map[string]string{"Location": "http://{{host:volume}}/" + path + "proxied=true", "Content-Length": "0"}}
	}
)

// answered is an answer in JSON.
func answered(why string, status int, body string) replay.Deviation {
	return replay.Deviation{Why: why, Status: status, Body: replay.Text(body), Headers: map[string]string{"Content-Type": "application/json", "Retry-After": ""}}
}

func because(why string, d replay.Deviation) replay.Deviation {
	d.Why = why
	return d
}

var deviations = map[string]replay.Deviation{
	"replication/it is not there":                                      isThere("type-replicate", `"460a5e6f"`, "local only"),
	"replication/lost":                                                 isThere("lost-write", `"eebeccd3"`, "lost"),
	"replication/still there":                                          because("type-replicate", absent),
	"replication/error: write with a dead replica":                     {Why: "no-rollback", Status: 201, Body: replay.Text(`{"name":"a.txt","size":15,"eTag":"d139758d","mime":"text/plain"}`), Headers: map[string]string{"Etag": `"d139758d"`}},
	"replication/error: delete with a dead replica":                    {Why: "no-rollback", Status: 202, Body: replay.Text(`{"size":43}`)},
	"replication/error: no writable volume with two racks":             assigned("degraded"),
	"replication/error: submit waits half a minute":                    answered("degraded", 201, submitted),
	"failover/dead leader: the follower cannot proxy":                  assigned("proxy-502"),
	"failover/dead leader: dir status":                                 answered("proxy-502", 200, `{"Topology":{{any}}}`),
	"failover/warm up: assign":                                         assigned("no-leader-status"),
	"failover/warm up: lookup of an unknown volume":                    answered("no-leader-status", 404, `{"volumeOrFileId":"9999","error":"{{any}}"}`),
	"failover/no quorum: /dir/assign":                                  assigned("no-leader-status"),
	"failover/no quorum: /dir/status":                                  unavailable("no-leader-status"),
	"failover/no quorum: /vol/grow":                                    unavailable("no-leader-status"),
	"failover/no quorum: /cluster/healthz":                             {Why: "error-text", Headers: map[string]string{"Retry-After": "1"}},
	"failover/no quorum: submit waits about 15 s":                      answered("no-leader-status", 201, submitted),
	"limits/error: raw file over the limit":                            {Why: "too-large-400", Status: 413},
	"limits/error: form file over the limit":                           {Why: "too-large-400", Status: 413},
	"limits/replica writes are not limited":                            because("type-replicate", replay.Deviation{Status: 429, Body: replay.Text(`{"error":"{{any}}"}`), Headers: map[string]string{"Etag": "", "Retry-After": "1"}}),
	"limits/reads are not limited by uploads":                          because("type-replicate", absent),
	"limits/error: too many bytes being uploaded":                      {Why: "error-text", Headers: map[string]string{"Retry-After": "1"}},
	"limits/error: too many bytes being downloaded":                    {Why: "error-text", Headers: map[string]string{"Retry-After": "1"}},
	"limits/garbage: delete the 16 MiB":                                {Why: "raw-name-is-fid", Body: replay.Text(`{"size":16777243}`)},
	"limits/col delete without a name destroys the default collection": answered("col-delete-default", 400, `{"error":"{{any}}"}`),
	"limits/all gone": {Why: "col-delete-default", Status: 200, Body: replay.Text(strings.Repeat("x", 1<<20)),
		Headers: map[string]string{"Accept-Ranges": "bytes", "Etag": `"353b2bf4"`, "Content-Type": "application/x-a", "Last-Modified": "{{http_date}}"}},
	"readmode/redirect: GET":                                                 moved("{{fid:a}}_5?"),
	"readmode/redirect: HEAD":                                                moved("{{fid:a}}_5?"),
	"readmode/redirect: the name is dropped":                                 moved("{{vid:a}}/{{keycookie:a}}_5/name.jpg?"),
	"readmode/redirect: extension and query are dropped, collection is kept": moved("{{fid:a}}_5.txt?width=3&collection=x&jwt=abc&"),
	"readmode/redirect: DELETE is not forwarded":                             {Why: "delete-wrong-server", Status: 202, Body: replay.Text(`{"size":39}`)},
	"nohttp/on: GET /cluster/status":                                         {Why: "single-peers", Body: replay.Text(`{"IsLeader":true,"Leader":"{{host:master}}","Peers":["{{host:master}}"]}`)},
}

// outOfScope are items about what there is not.
var outOfScope = map[string]string{
	"failover/timeline of GET /dir/assign at a surviving master (seconds after the kill: status)": "no gap: TestUploadsGoOnWhileAnyNodeIsKilledAndItComesBackWhole",
	"nohttp/raft stats is not there with the default raft":                                        "hashicorp's raft is the only one, and /raft/stats is there, as in master-cluster",
}

var rules = []replay.Rule{
	// Members are in no order, and which master leads is open.
	{Edit: func(it *replay.Item) bool {
		fits := it.Request.Path == "/cluster/status" && it.Request.Server == "follower"
		if fits {
			it.Response.BodyText = `{{{any}}"Peers":["{{host}}","{{host}}","{{host}}"],"MaxVolumeId":"{{int}}"}`
		}
		return fits
	}},
	replay.ErrorText, replay.ContentMD5, replay.RawName, replay.Gzip, replay.ContentLength, replay.GrowCount, replay.NoGRPCPort, replay.Readyz, replay.StatusPage,
}
