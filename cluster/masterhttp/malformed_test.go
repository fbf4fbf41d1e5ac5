package masterhttp_test

import (
	"log/slog"
	"strings"
	"testing"

	"weedd/cluster/masterhttp"
	"weedd/volume"
	"weedd/volume/volumetest"
)

var malformed = []volumetest.Malformed{
	{Status: 406, Text: "count", Requests: []string{"GET /dir/assign?count=x", "GET /dir/assign?count=1.5", "POST /dir/assign?count=1e3", "GET /dir/assign?count=%20", "GET /dir/assign?count=0x1",
		"GET /dir/assign?count=99999999999999999999", "GET /dir/assign?count=1,2", "GET /vol/grow", "GET /vol/grow?count=",
		"GET /vol/grow?count=x", "GET /vol/grow?count=-1", "POST /vol/grow | count=x | Content-Type: application/x-www-form-urlencoded"}},
	{Status: 406, Text: "", Requests: []string{"HEAD /dir/assign?count=x", "HEAD /dir/assign?ttl=x"}},
	{Status: 406, Text: "volumes left", Requests: []string{"GET /vol/grow?count=1000000000000", "GET /vol/grow?count=10000"}},
	{Status: 400, Text: "at most", Requests: []string{"GET /dir/assign?count=9223372036854775807", "POST /dir/assign?count=2000000"}},
	{Status: 406, Text: "replica", Requests: []string{"GET /dir/assign?replication=abc", "GET /dir/assign?replication=0000", "GET /dir/assign?replication=00a", "GET /dir/assign?replication=-1", "GET /dir/assign?replication=256",
		"GET /dir/assign?replication=999", "GET /dir/assign?replication=0:0", "GET /dir/assign?replication=%00", "GET /vol/grow?count=1&replication=x", "POST /submit?replication=x | x | Content-Type: a/b"}},
	{Status: 406, Text: "ttl", Requests: []string{"GET /dir/assign?ttl=x", "GET /dir/assign?ttl=5s", "GET /dir/assign?ttl=-5m", "GET /dir/assign?ttl=256y", "GET /dir/assign?ttl=m", "GET /dir/assign?ttl=1.5h",
		"GET /dir/assign?ttl=5mm", "GET /dir/assign?ttl=99999999999999999999", "GET /vol/grow?count=1&ttl=x", "POST /submit?ttl=5s | x | Content-Type: a/b", "POST /dir/assign | ttl=x | Content-Type: application/x-www-form-urlencoded"}},
	{Status: 406, Text: "collection", Requests: []string{"GET /dir/assign?collection=..", "GET /dir/assign?collection=../x", "GET /dir/assign?collection=a/b", "GET /dir/assign?collection=.a", "GET /dir/assign?collection=a%20b",
		"GET /dir/assign?collection=%00", "GET /dir/assign?collection=é", "GET /vol/grow?count=1&collection=a/b", "POST /submit?collection=a/b | x | Content-Type: a/b"}},
	{Status: 406, Text: "disk", Requests: []string{"GET /dir/assign?disk=a/b", "GET /dir/assign?disk=%00", "GET /dir/assign?disk=..", "POST /submit?disk=a%20b | x | Content-Type: a/b"}},
	{Status: 406, Text: "is not a number", Requests: []string{"GET /dir/assign?preallocate=x", "GET /dir/assign?memoryMapMaxSizeMb=-1", "GET /dir/assign?writableVolumeCount=1.5", "GET /dir/assign?dataSize=x",
		"POST /submit?preallocate=x | x | Content-Type: a/b"}},
	{Status: 406, Text: "nowhere", Requests: []string{"GET /dir/assign?dataCenter=nowhere", "GET /dir/assign?dataNode=nowhere:1", "GET /dir/assign?rack=nowhere", "GET /vol/grow?count=1&dataCenter=nowhere",
		"POST /submit?dataNode=nowhere:1 | x | Content-Type: a/b"}},
	{Status: 406, Text: "garbageThreshold", Requests: []string{"GET /vol/vacuum?garbageThreshold=x", "GET /vol/vacuum?garbageThreshold=NaN", "POST /vol/vacuum?garbageThreshold=0,5", "GET /vol/vacuum?garbageThreshold=%20"}},
	{Status: 400, Text: "", Requests: []string{"HEAD /collection/info"}},
	{Status: 400, Text: "collection", Requests: []string{"GET /collection/info", "GET /collection/info?collection=", "GET /collection/info?collection=nope", "GET /collection/info?collection=%00"}},
	{Status: 400, Text: "invalid", Requests: []string{"GET /dir/assign?%zz", "GET /dir/lookup?volumeId=%", "GET /vol/grow?count=1&%zz", "GET /vol/vacuum?%zz", "GET /collection/info?%zz",
		"POST /submit?%zz | x | Content-Type: a/b", "POST /dir/assign | %zz | Content-Type: application/x-www-form-urlencoded", "POST /dir/assign?a;b"}},
	{Status: 413, Text: "parameters", Requests: []string{"POST /dir/assign | x=" + strings.Repeat("y", 65<<10) + " | Content-Type: application/x-www-form-urlencoded",
		"POST /vol/grow | count=1&x=" + strings.Repeat("y", 65<<10) + " | Content-Type: application/x-www-form-urlencoded"}},
	{Status: 404, Text: "not found", Requests: []string{"GET /dir/lookup", "GET /dir/lookup?volumeId=", "GET /dir/lookup?volumeId=x", "GET /dir/lookup?volumeId=-1", "GET /dir/lookup?volumeId=0", "GET /dir/lookup?volumeId=4294967297",
		"GET /dir/lookup?volumeId=1.5", "GET /dir/lookup?volumeId=9", "GET /dir/lookup?volumeId=%00", "GET /dir/lookup?fileId=x", "GET /dir/lookup?fileId=9,0112345678", "GET /dir/lookup?fileId=,", "POST /dir/lookup?volumeId=x",
		"GET /dir/lookup?volumeId=" + strings.Repeat("9", 5000), "GET /1", "GET /9,0112345678", "GET /nosuchpage", "POST /nosuchpage", "DELETE /9,0112345678", "GET /4294967297,0112345678", "GET /0,0112345678", "GET /-1,0112345678",
		"GET /vol/list", "GET /dir/", "GET //", "GET /dir/assign/", "GET /1/0112345678", "GET /1/2/3/4", "POST /admin/x", "GET /cluster/", "GET /../1", "GET /é", "GET /%00/x"}},
	{Status: 400, Text: "Invalid fid", Requests: []string{"GET /1,", "GET /1,12345678", "GET /1,.jpg", "PUT /1,1"}},
	{Status: 400, Text: "is not hex", Requests: []string{"GET /1,zz12345678", "DELETE /1,0g12345678", "GET /1,01 2345678"}},
	{Status: 400, Text: "KeyHash is too long", Requests: []string{"GET /1,00000000000000000deadbeef"}},
	{Status: 405, Text: "", Requests: []string{"DELETE /dir/assign", "PATCH /dir/assign", "BREW /dir/lookup", "DELETE /dir/lookup", "POST /dir/status", "DELETE /vol/grow", "HEAD /vol/grow?count=1", "HEAD /vol/vacuum", "PUT /vol/status",
		"HEAD /col/delete?collection=x", "POST /collection/info", "POST /cluster/status", "PUT /cluster/healthz", "GET /cluster/operation", "POST /cluster/view", "POST /raft/stats", "POST /healthz", "DELETE /readyz", "POST /", "PUT /ui/index.html",
		"PATCH /1,0112345678", "PATCH /submit", "TRACE /submit", "get /dir/assign"}},
	{Status: 405, Text: "Only submit via POST", Requests: []string{"GET /submit", "PUT /submit | x", "DELETE /submit"}},
	{Status: 401, Text: "may not call", Requests: []string{"GET /col/delete?collection=x", "POST /col/delete", "DELETE /col/delete?collection=x || Authorization: Bearer x", "GET /col/delete?collection=x&jwt=x",
		`POST /cluster/operation | {"drain":{"node":"a:8080"}} | Content-Type: application/json`}},
	{Status: 400, Text: "operation", Requests: []string{`POST /cluster/operation | x | Content-Type: application/json`, `POST /cluster/operation | {} | Content-Type: application/json`,
		`POST /cluster/operation | {"drain":{"node":"a"},"explain":1} | Content-Type: application/json`, `POST /cluster/operation | {"nonsense":1} | Content-Type: application/json`}},
	{Status: 400, Text: "count", Requests: []string{"POST /submit?count=x | x | Content-Type: a/b", "POST /submit?count=1.5 | x | Content-Type: a/b"}},
	{Status: 400, Text: "maxMB", Requests: []string{"POST /submit?maxMB=x | x | Content-Type: a/b", "POST /submit?maxMB=0 | x | Content-Type: a/b", "POST /submit?maxMB=-1 | x | Content-Type: a/b", "POST /submit?maxMB=99999999999999999999 | x | Content-Type: a/b"}},
	{Status: 400, Text: "isn't multipart/form-data", Requests: []string{"POST /submit | x", "POST /submit | x | Content-Type: form-data", "POST /submit | x | Content-Type: multipart/form-data; boundary"}},
	{Status: 400, Text: "no multipart boundary", Requests: []string{"POST /submit | x | Content-Type: multipart/form-data"}},
	{Status: 400, Text: "EOF", Requests: []string{"POST /submit | x | Content-Type: multipart/form-data; boundary=b", "POST /submit | --b-- | Content-Type: multipart/form-data; boundary=b",
		"POST /submit | --b\r\nContent-Disposition: form-data; filename=a\r\n\r\nx | Content-Type: multipart/form-data; boundary=b"}},
	{Status: 400, Text: "Digest", Requests: []string{"POST /submit | x | Content-Type: a/b | Content-Digest: sha-256", "POST /submit | x | Content-Type: a/b | Content-Digest: sha-256=:" + strings.Repeat("A", 43) + "=:",
		"POST /submit | x | Content-Type: a/b | Repr-Digest: sha-512=:x:"}},
	{Status: 400, Text: "Content-MD5", Requests: []string{"POST /submit | x | Content-Type: a/b | Content-MD5: x", "POST /submit | x | Content-Type: a/b | Content-MD5: AAAAAAAAAAAAAAAAAAAAAA=="}},
	{Status: 400, Text: "Idempotency-Key", Requests: []string{"POST /submit | x | Content-Type: a/b | Idempotency-Key: a b", `POST /submit | x | Content-Type: a/b | Idempotency-Key: ""`,
		"POST /submit | x | Content-Type: a/b | Idempotency-Key: é", "POST /submit | x | Content-Type: a/b | Idempotency-Key: " + strings.Repeat("k", 256)}},
	{Status: 400, Text: "chunk manifest", Requests: []string{"POST /submit?cm=true | x | Content-Type: a/b", `POST /submit?cm=1 | {"chunks":[{}]} | Content-Type: a/b`}},
}

// Every one of them gets a clear error, stores and changes nothing, panics nowhere,
// and is not worth a line in the log.
func TestMalformedRequests(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	s := newSingle(t, func(o *masterhttp.Options) {
		o.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	})
	s.Make(volume.Spec{}, "a")
	before, _ := s.Catalog()
	if count := volumetest.CheckMalformed(t, s.api.Handler(), malformed); count < 150 {
		t.Errorf("only %d requests", count)
	}
	if after, _ := s.Catalog(); after != before {
		t.Error("something was decided")
	}
	if n := s.Blobs.Len(); n != 0 {
		t.Errorf("%d files are stored", n)
	}
	if log.Len() > 0 {
		t.Errorf("logged:\n%s", log.String())
	}
}
