package volumehttp_test

import (
	"strings"

	"weedd/volume/volumetest/replay"
)

// shown are the tests of what the transcripts do not show, or not here.
var shown = map[string]string{
	"redirect-drops":      "daemon/daemontest TestTranscripts",
	"too-large-400":       "daemon/daemontest TestTranscripts",
	"type-replicate":      "daemon/daemontest TestTranscripts",
	"no-rollback":         "daemon/daemontest TestTranscripts",
	"white-list":          "cluster/masterhttp TestTranscripts",
	"token-order":         "cluster/masterhttp TestTranscripts",
	"reads elsewhere":     "volume/volumehttp TestReadModes",
	"gzip on upload":      "volume/wire TestUploadRules",
	"types":               "volume/volumehttp TestNamesTypesAndPairs",
	"status":              "daemon/daemontest TestADiskThatVanishesIsFencedAlone",
	"images":              "volume/volumehttp TestImagesAreMadeSmallerWhateverTheyAreKeptIn",
	"full disk":           "volume/volumehttp TestADeleteOnAFullDisk",
	"uploads in flight":   "volume/volumehttp TestUploadsWaitForRoom",
	"downloads in flight": "volume/volumehttp TestDownloadsWaitForRoom",
	"slow clients":        "daemon TestClientsThatStallAreDropped",
	"digests":             "volume/volumehttp TestDigestsAreAnsweredWhenWanted",
}

var (
	notModified = replay.Deviation{Why: "conditional-headers", Status: 304, Only: true, Body: replay.Text(""),
		Headers: map[string]string{"Etag": `"b5d83007"`, "Last-Modified": "{{http_date}}"}}
	tagOn304      = replay.Deviation{Why: "conditional-headers", Headers: map[string]string{"Etag": `"b5d83007"`}}
	wholeFile     = replay.Deviation{Why: "range-edges", Status: 200, Body: replay.Text("0123456789ABCDEF")}
	unsatisfiable = replay.Deviation{Why: "range-edges", Status: 416, Body: replay.Text("invalid range\n"), Headers: map[string]string{
		"Content-Range": "bytes */16", "Content-Disposition": "", "Content-Type": "text/plain; charset=utf-8"}}
	badRange    = replay.Deviation{Why: "416-headers", Headers: map[string]string{"Content-Disposition": ""}}
	varies      = replay.Deviation{Why: "gzip-negotiation", Headers: map[string]string{"Vary": "Accept-Encoding"}}
	emptyAbsent = replay.Deviation{Why: "empty-file", Status: 404, Only: true, Body: replay.Text("")}
	badID       = replay.Deviation{Why: "delete-vid-unchecked", Status: 400, Body: replay.Text(`{"error":"{{any}}"}`)}
)

var readsOnly = replay.Deviation{Why: "public-port-200", Status: 405, Body: replay.Text(`{"error":"{{any}}"}`),
	Headers: map[string]string{"Allow": "GET, HEAD, OPTIONS", "Content-Type": "application/json"}}

var badManifest = replay.Deviation{Why: "bad-manifest", Status: 400, Body: replay.Text(`{"error":"{{any}}"}`), Headers: map[string]string{"Etag": ""}}

var deviations = map[string]replay.Deviation{
	"volume-read/If-Modified-Since equal":                  tagOn304,
	"volume-read/If-Modified-Since later":                  tagOn304,
	"volume-read/If-Modified-Since on HEAD":                tagOn304,
	"volume-read/If-None-Match hit":                        tagOn304,
	"volume-read/If-None-Match star is not understood":     notModified,
	"volume-read/If-None-Match weak tag is not understood": notModified,
	"volume-read/If-None-Match list is not understood":     notModified,
	"volume-read/If-Modified-Since wins over a missing If-None-Match": {Why: "conditional-headers", Status: 200, Body: replay.Text("0123456789ABCDEF"),
		Headers: map[string]string{"Etag": `"b5d83007"`, "Content-Disposition": "inline; filename=t.txt", "Content-Type": "text/plain", "Accept-Ranges": "bytes"}},
	"volume-read/If-Match is ignored": {Why: "conditional-headers", Status: 412, Only: true, Body: replay.Text(""),
		Headers: map[string]string{"Etag": `"b5d83007"`, "Last-Modified": "{{http_date}}"}},
	"volume-read/If-Range is ignored": {Why: "conditional-headers", Status: 200, Body: replay.Text("0123456789ABCDEF"), Headers: map[string]string{"Content-Range": ""}},

	"volume-read/range starting at size is an empty 206":                     unsatisfiable,
	"volume-read/range suffix zero is an empty 206":                          unsatisfiable,
	"volume-read/ranges that add up to more than the size give an empty 200": wholeFile,
	"volume-read/no range in the header gives an empty 200":                  wholeFile,
	"volume-read/error: range beyond size":                                   unsatisfiable,
	"volume-read/error: range backwards":                                     badRange,
	"volume-read/error: range not numbers":                                   badRange,
	"volume-read/error: range no dash":                                       badRange,
	"volume-read/error: range unit":                                          {Why: "range-unit", Status: 200, Body: replay.Text("0123456789ABCDEF"), Headers: map[string]string{"Content-Type": "text/plain"}},
	"volume-read/sniffed from the range that is sent":                        {Why: "range-sniff", Headers: map[string]string{"Content-Type": "text/html; charset=utf-8"}},
	"volume-read/two ranges without a type: empty part type": {Why: "range-sniff", Body: replay.Text(
		"--{{boundary}}\r\nContent-Range: bytes 0-1/28\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<h\r\n" +
			"--{{boundary}}\r\nContent-Range: bytes 5-6/28\r\nContent-Type: text/html; charset=utf-8\r\n\r\n><\r\n--{{boundary}}--\r\n")},

	"volume-compress/gzip;q=0 still gets gzip": {Why: "gzip-negotiation", Headers: map[string]string{"Content-Encoding": "", "Content-Length": "500"}},
	"volume-compress/range with gzip is over the compressed bytes": {Why: "gzip-range", Body: replay.Text("abcdefghij"),
		Headers: map[string]string{"Content-Encoding": "", "Content-Range": "bytes 0-9/500"}},
	"volume-compress/decompressed for those who do not take gzip":        varies,
	"volume-compress/as uploaded for those who do":                       varies,
	"volume-compress/noname application/octet-stream: stored compressed": {Why: "head-type", Headers: map[string]string{"Content-Type": "text/plain; charset=utf-8"}},
	"volume-write/no stored type: no Content-Type on HEAD":               {Why: "head-type", Headers: map[string]string{"Content-Type": "text/plain; charset=utf-8"}},

	"volume-misc/public port: POST is an empty 200 that stores nothing":    readsOnly,
	"volume-misc/public port: DELETE is an empty 200 that deletes nothing": readsOnly,
	"volume-delete/DELETE through the wrong server is not forwarded":       {Why: "delete-wrong-server", Status: 202, Body: replay.Text(`{"size":39}`)},
	"volume-delete/still there":                                            {Why: "delete-wrong-server", Status: 404, Only: true, Body: replay.Text("")},
	"volume-delete/DELETE on the right server":                             {Why: "delete-wrong-server", Status: 404, Body: replay.Text(`{"size":0}`)},

	"volume-fid/error: DELETE volume id not a number": badID,
	"volume-fid/error: DELETE negative volume id":     badID,
	"volume-fid/volume id is cut to 32 bits":          {Why: "vid-wrap", Status: 400, Only: true, Body: replay.Text("")},
	"volume-fid/POST to a volume nobody has is acknowledged and lost": {Why: "lost-write", Status: 500, Body: replay.Text(`{"error":"{{any}}"}`),
		Headers: map[string]string{"Etag": ""}},

	"volume-write/same bytes with another name and type are not written either": {Why: "unchanged-drops-metadata", Status: 201,
		Body: replay.Text(`{"name":"other.html","size":14,"eTag":"ef966669","mime":"text/html"}`), Headers: map[string]string{"Content-Type": "application/json"}},
	"volume-write/name, type and time are still the first ones": {Why: "unchanged-drops-metadata",
		Headers: map[string]string{"Content-Type": "text/html", "Content-Disposition": "inline; filename=other.html"}},
	"volume-write/POST urlencoded body stores nothing": {Why: "urlencoded-lost",
		Body: replay.Text(`{"size":3,"eTag":"e38b81cc","mime":"application/x-www-form-urlencoded"}`), Headers: map[string]string{"Etag": `"e38b81cc"`}},
	"volume-write/ttl that does not parse is ignored":        {Why: "write-ttl-lenient", Status: 400, Body: replay.Text(`{"error":"{{any}}"}`), Headers: map[string]string{"Etag": ""}},
	"volume-write/overridden ETag":                           {Why: "pairs-override-headers", Headers: map[string]string{"Etag": `"edb84c17"`}},
	"volume-write/empty file is readable with any cookie":    emptyAbsent,
	"volume-write/empty file can be deleted with any cookie": {Why: "empty-file", Status: 400, Body: replay.Text(`{"error":"{{any}}"}`)},
	"volume-write/error: the slash form cannot be written": {Why: "slash-form-write", Status: 201,
		Body: replay.Text(`{"size":1,"eTag":"a93c5f93","mime":"text/plain"}`), Headers: map[string]string{"Etag": `"a93c5f93"`}},
	"volume-write/error: the slash form with a name cannot be written": {Why: "slash-form-write", Status: 201,
		Body: replay.Text(`{"name":"n.txt","size":1,"eTag":"a93c5f93","mime":"text/plain"}`), Headers: map[string]string{"Etag": `"a93c5f93"`}},

	"volume-manifest/manifest that is not JSON is accepted": badManifest,
	"volume-manifest/it reads as its bytes":                 {Why: "bad-manifest", Status: 404, Only: true, Body: replay.Text("")},
	"volume-manifest/error: it cannot be deleted":           {Why: "bad-manifest", Status: 404, Body: replay.Text(`{"size":0}`)},
	"volume-manifest/manifest with a bad fid":               badManifest,
	"volume-manifest/error: read with a bad fid":            {Why: "bad-manifest", Status: 404, Only: true, Body: replay.Text("")},
	"volume-manifest/error: delete with a bad fid":          {Why: "bad-manifest", Status: 404, Body: replay.Text(`{"size":0}`)},
	"volume-manifest/error: read of absent chunks": {Why: "manifest-error-text", Status: 500, Only: true, Body: replay.Text(`{"error":"{{any}}"}`),
		Headers: map[string]string{"Content-Type": "application/json"}},

	"volume-misc/readyz": {Why: "readyz", Body: replay.Text(`{"ready":true,"reasons":[]}`), Headers: map[string]string{"Content-Type": "application/json"}},
	"volume-misc/double slash is cleaned by a redirect": {Why: "double-slash", Status: 400, Only: true, Body: replay.Text("")},
}

// usual is what is different in many answers alike.
var usual = []replay.Rule{
	replay.ContentMD5, replay.ErrorText, replay.RawName, replay.Gzip, replay.ContentLength, replay.Readyz, replay.StatusPage,
	{Why: "cors-credentials", Edit: func(it *replay.Item) bool {
		_, fits := it.Response.Headers["Access-Control-Allow-Credentials"]
		delete(it.Response.Headers, "Access-Control-Allow-Credentials")
		return fits
	}},
	// Edited are those of another size, and what the two requests without a picture in the answer ask for.
	{Why: "image-ext-type", Edit: func(it *replay.Item) bool {
		h, img := it.Response.Headers, it.Response.Image
		fits := img != nil && img.Width != 16 || strings.HasSuffix(it.Name, "of a resized image")
		if fits {
			h["Etag"] = replay.Quote(`"1f1b7f22-{{any}}"`)
			if img != nil {
				h["Content-Type"] = replay.Quote("image/" + img.Format)
			}
		}
		return fits
	}},
}
