package volumehttp_test

import (
	"encoding/json"
	"strings"
)

// deviation is where we answer otherwise than the reference, on purpose. What a
// deviation does not say stays as the reference has it.
type deviation struct {
	why     string // one of reasons
	status  int
	headers map[string]string // "" for a header that we do not send
	only    bool              // headers are all there are
	body    *string
}

// reasons are the ids of our deviations, those of the API's description where it
// has one. volume/DESIGN.md explains them.
var reasons = map[string]string{
	"conditional-headers":      "RFC 9110: lists, *, weak tags, If-Match, If-Range; If-None-Match before dates; Etag with 304",
	"range-edges":              "416 with Content-Range for what cannot be satisfied; all of the file for excessive or no ranges",
	"range-unit":               "a Range of another unit is ignored, as RFC 9110 wants it",
	"416-headers":              "416 does not name the file",
	"range-sniff":              "the type is guessed from the beginning of the file",
	"head-type":                "HEAD guesses the type as GET does",
	"gzip-negotiation":         "q-values count; Vary; the gzip form has a tag of its own",
	"gzip-range":               "ranges are always of the plain bytes",
	"delete-wrong-server":      "deletes are passed on to who holds the volume",
	"delete-vid-unchecked":     "400",
	"vid-wrap":                 "400",
	"lost-write":               "500: the client must come back with a new id",
	"unchanged-drops-metadata": "204 only if all but the time is equal",
	"urlencoded-lost":          "the body is stored",
	"write-ttl-lenient":        "400",
	"pairs-override-headers":   "pairs cannot replace our own headers",
	"empty-file":               "the cookie of an empty file counts",
	"slash-form-write":         "accepted; the name in the path is the name if the body has none",
	"readyz":                   "says why not, in JSON",
	"double-slash":             "400 and no redirect",
}

var (
	notModified = deviation{why: "conditional-headers", status: 304, only: true, body: text(""),
		headers: map[string]string{"Etag": `"b5d83007"`, "Last-Modified": "{{http_date}}"}}
	tagOn304      = deviation{why: "conditional-headers", headers: map[string]string{"Etag": `"b5d83007"`}}
	wholeFile     = deviation{why: "range-edges", status: 200, body: text("0123456789ABCDEF")}
	unsatisfiable = deviation{why: "range-edges", status: 416, body: text("invalid range\n"), headers: map[string]string{
		"Content-Range": "bytes */16", "Content-Disposition": "", "Content-Type": "text/plain; charset=utf-8"}}
	badRange    = deviation{why: "416-headers", headers: map[string]string{"Content-Disposition": ""}}
	varies      = deviation{why: "gzip-negotiation", headers: map[string]string{"Vary": "Accept-Encoding"}}
	emptyAbsent = deviation{why: "empty-file", status: 404, only: true, body: text("")}
	badID       = deviation{why: "delete-vid-unchecked", status: 400, body: text(`{"error":"{{any}}"}`)}
)

var deviations = map[string]deviation{
	"volume-read/If-Modified-Since equal":                  tagOn304,
	"volume-read/If-Modified-Since later":                  tagOn304,
	"volume-read/If-Modified-Since on HEAD":                tagOn304,
	"volume-read/If-None-Match hit":                        tagOn304,
	"volume-read/If-None-Match star is not understood":     notModified,
	"volume-read/If-None-Match weak tag is not understood": notModified,
	"volume-read/If-None-Match list is not understood":     notModified,
	"volume-read/If-Modified-Since wins over a missing If-None-Match": {why: "conditional-headers", status: 200, body: text("0123456789ABCDEF"),
		headers: map[string]string{"Etag": `"b5d83007"`, "Content-Disposition": "inline; filename=t.txt", "Content-Type": "text/plain", "Accept-Ranges": "bytes"}},
	"volume-read/If-Match is ignored": {why: "conditional-headers", status: 412, only: true, body: text(""),
		headers: map[string]string{"Etag": `"b5d83007"`, "Last-Modified": "{{http_date}}"}},
	"volume-read/If-Range is ignored": {why: "conditional-headers", status: 200, body: text("0123456789ABCDEF"), headers: map[string]string{"Content-Range": ""}},

	"volume-read/range starting at size is an empty 206":                     unsatisfiable,
	"volume-read/range suffix zero is an empty 206":                          unsatisfiable,
	"volume-read/ranges that add up to more than the size give an empty 200": wholeFile,
	"volume-read/no range in the header gives an empty 200":                  wholeFile,
	"volume-read/error: range beyond size":                                   unsatisfiable,
	"volume-read/error: range backwards":                                     badRange,
	"volume-read/error: range not numbers":                                   badRange,
	"volume-read/error: range no dash":                                       badRange,
	"volume-read/error: range unit":                                          {why: "range-unit", status: 200, body: text("0123456789ABCDEF"), headers: map[string]string{"Content-Type": "text/plain"}},
	"volume-read/sniffed from the range that is sent":                        {why: "range-sniff", headers: map[string]string{"Content-Type": "text/html; charset=utf-8"}},
	"volume-read/two ranges without a type: empty part type": {why: "range-sniff", body: text(
		"--{{boundary}}\r\nContent-Range: bytes 0-1/28\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<h\r\n" +
			"--{{boundary}}\r\nContent-Range: bytes 5-6/28\r\nContent-Type: text/html; charset=utf-8\r\n\r\n><\r\n--{{boundary}}--\r\n")},

	"volume-compress/gzip;q=0 still gets gzip": {why: "gzip-negotiation", headers: map[string]string{"Content-Encoding": "", "Content-Length": "500"}},
	"volume-compress/range with gzip is over the compressed bytes": {why: "gzip-range", body: text("abcdefghij"),
		headers: map[string]string{"Content-Encoding": "", "Content-Range": "bytes 0-9/500"}},
	"volume-compress/decompressed for those who do not take gzip":        varies,
	"volume-compress/as uploaded for those who do":                       varies,
	"volume-compress/noname application/octet-stream: stored compressed": {why: "head-type", headers: map[string]string{"Content-Type": "text/plain; charset=utf-8"}},
	"volume-write/no stored type: no Content-Type on HEAD":               {why: "head-type", headers: map[string]string{"Content-Type": "text/plain; charset=utf-8"}},

	"volume-delete/DELETE through the wrong server is not forwarded": {why: "delete-wrong-server", status: 202, body: text(`{"size":39}`)},
	"volume-delete/still there":                                      {why: "delete-wrong-server", status: 404, only: true, body: text("")},
	"volume-delete/DELETE on the right server":                       {why: "delete-wrong-server", status: 404, body: text(`{"size":0}`)},

	"volume-fid/error: DELETE volume id not a number": badID,
	"volume-fid/error: DELETE negative volume id":     badID,
	"volume-fid/volume id is cut to 32 bits":          {why: "vid-wrap", status: 400, only: true, body: text("")},
	"volume-fid/POST to a volume nobody has is acknowledged and lost": {why: "lost-write", status: 500, body: text(`{"error":"{{any}}"}`),
		headers: map[string]string{"Etag": ""}},

	"volume-write/same bytes with another name and type are not written either": {why: "unchanged-drops-metadata", status: 201,
		body: text(`{"name":"other.html","size":14,"eTag":"ef966669","mime":"text/html"}`), headers: map[string]string{"Content-Type": "application/json"}},
	"volume-write/name, type and time are still the first ones": {why: "unchanged-drops-metadata",
		headers: map[string]string{"Content-Type": "text/html", "Content-Disposition": "inline; filename=other.html"}},
	"volume-write/POST urlencoded body stores nothing": {why: "urlencoded-lost",
		body: text(`{"size":3,"eTag":"e38b81cc","mime":"application/x-www-form-urlencoded"}`), headers: map[string]string{"Etag": `"e38b81cc"`}},
	"volume-write/ttl that does not parse is ignored":        {why: "write-ttl-lenient", status: 400, body: text(`{"error":"{{any}}"}`), headers: map[string]string{"Etag": ""}},
	"volume-write/overridden ETag":                           {why: "pairs-override-headers", headers: map[string]string{"Etag": `"edb84c17"`}},
	"volume-write/empty file is readable with any cookie":    emptyAbsent,
	"volume-write/empty file can be deleted with any cookie": {why: "empty-file", status: 400, body: text(`{"error":"{{any}}"}`)},
	"volume-write/error: the slash form cannot be written": {why: "slash-form-write", status: 201,
		body: text(`{"size":1,"eTag":"a93c5f93","mime":"text/plain"}`), headers: map[string]string{"Etag": `"a93c5f93"`}},
	"volume-write/error: the slash form with a name cannot be written": {why: "slash-form-write", status: 201,
		body: text(`{"name":"n.txt","size":1,"eTag":"a93c5f93","mime":"text/plain"}`), headers: map[string]string{"Etag": `"a93c5f93"`}},

	"volume-misc/readyz": {why: "readyz", body: text(`{"ready":true,"reasons":[]}`), headers: map[string]string{"Content-Type": "application/json"}},
	"volume-misc/double slash is cleaned by a redirect": {why: "double-slash", status: 400, only: true, body: text("")},
}

// outOfScope are items about what this API does not have.
var outOfScope = map[string]string{
	"volume-misc/ui":                                                       "no pages",
	"volume-misc/favicon":                                                  "no pages",
	"volume-misc/nothing was stored":                                       "of the public port",
	"volume-misc/private port: POST":                                       "of the public port",
	"volume-misc/still there":                                              "of the public port",
	"volume-misc/public port: GET":                                         "no second, read-only port",
	"volume-misc/public port: HEAD":                                        "no second, read-only port",
	"volume-misc/public port: OPTIONS":                                     "no second, read-only port",
	"volume-misc/public port has no status page":                           "no second, read-only port",
	"volume-misc/public port has no healthz":                               "no second, read-only port",
	"volume-misc/public port has no ui":                                    "no second, read-only port",
	"volume-misc/public port: POST is an empty 200 that stores nothing":    "no second, read-only port",
	"volume-misc/public port: DELETE is an empty 200 that deletes nothing": "no second, read-only port",
}

func (d deviation) edit(r *response) {
	if d.status != 0 {
		r.Status = d.status
	}
	if d.only {
		r.Headers = map[string]json.RawMessage{}
	}
	if d.body != nil {
		r.BodyText, r.BodyOmitted = *d.body, ""
		if r.Status != 304 {
			r.Headers["Content-Length"] = quote("{{int}}")
		}
	}
	for name, value := range d.headers {
		if value == "" {
			delete(r.Headers, name)
		} else {
			r.Headers[name] = quote(value)
		}
	}
}

// usual edits what is different in many answers alike.
func usual(it *item) {
	method, r := it.Request.Method, &it.Response
	h := r.Headers
	// An empty Content-Md5 is left out.
	if is(h["Content-Md5"], "") {
		delete(h, "Content-Md5")
	}
	// Texts of errors are ours. Clients rely on the status and on there being one.
	if strings.HasPrefix(r.BodyText, `{"error":`) {
		r.BodyText = `{"error":"{{any}}"}`
		h["Content-Length"] = quote("{{int}}")
	}
	// raw-name-is-fid: a raw body without a name gets none, and so has no
	// Content-Disposition.
	if i := strings.Index(r.BodyText, `"name":"{{fid:`); i >= 0 {
		end := strings.Index(r.BodyText, `",`)
		r.BodyText = r.BodyText[:i] + r.BodyText[end+2:]
	}
	if strings.Contains(string(h["Content-Disposition"]), "{{fid:") {
		delete(h, "Content-Disposition")
	}
	// cors-credentials: never "*" together with credentials.
	delete(h, "Access-Control-Allow-Credentials")
	// gzip-negotiation: what was packed by the server depends on Accept-Encoding,
	// and its packed form has another tag.
	if is(h["Etag"], `"{{etag}}"`) && method != "POST" && !strings.HasSuffix(it.Name, "stored plain") {
		h["Vary"] = quote("Accept-Encoding")
	}
	if is(h["Content-Encoding"], "gzip") {
		h["Etag"] = quote(strings.TrimSuffix(headerTemplate(h["Etag"]), `"`) + `-gzip"`)
	}
	// HEAD and /status have a length; boundaries of parts are shorter.
	if h["Content-Length"] == nil && (method == "HEAD" && r.Status != 304 || r.BodyExample != nil) ||
		strings.Contains(string(h["Content-Type"]), "byteranges") {
		h["Content-Length"] = quote("{{int}}")
	}
}

func is(raw json.RawMessage, s string) bool { return string(raw) == string(quote(s)) }

func quote(s string) json.RawMessage {
	b, _ := json.Marshal(s) // a string
	return b
}

func text(s string) *string { return &s }
