package replay

import (
	"net/http"
	"slices"
	"strings"
)

// Rules that hold for answers of both roles.
var (
	// ErrorText: of the text of an error only that there is one is compared.
	ErrorText = Rule{Why: "error-text", Edit: func(it *Item) bool {
		r := &it.Response
		i := strings.Index(r.BodyText, `"error":"`)
		if i < 0 || strings.HasPrefix(r.BodyText[i:], `"error":"{{any}}"`) {
			return false
		}
		r.BodyText = r.BodyText[:i] + `"error":"{{any}}"}`
		r.Headers["Content-Length"] = Quote("{{int}}")
		return true
	}}
	// ContentMD5 leaves the header out where it is empty.
	ContentMD5 = Rule{Why: "content-md5", Edit: func(it *Item) bool {
		fits := Is(it.Response.Headers["Content-Md5"], "")
		if fits {
			delete(it.Response.Headers, "Content-Md5")
		}
		return fits
	}}
	// RawName: a raw body without a name is not called like its id.
	RawName = Rule{Why: "raw-name-is-fid", Edit: func(it *Item) (fits bool) {
		r := &it.Response
		if i := strings.Index(r.BodyText, `"name":"{{fid:`); i >= 0 {
			end := strings.Index(r.BodyText, `",`)
			r.BodyText, fits = r.BodyText[:i]+r.BodyText[end+2:], true
		}
		if strings.Contains(string(r.Headers["Content-Disposition"]), "{{fid:") {
			delete(r.Headers, "Content-Disposition")
			fits = true
		}
		return fits
	}}
	// Gzip: what was packed by the server varies, and has another tag when it is sent so.
	Gzip = Rule{Why: "gzip-negotiation", Edit: func(it *Item) (fits bool) {
		h := it.Response.Headers
		if Is(h["Etag"], `"{{etag}}"`) && it.Request.Method != http.MethodPost && !strings.HasSuffix(it.Name, "stored plain") && h["X-File-Store"] == nil {
			h["Vary"], fits = Quote("Accept-Encoding"), true
		}
		if Is(h["Content-Encoding"], "gzip") {
			h["Etag"], fits = Quote(strings.TrimSuffix(HeaderTemplate(h["Etag"]), `"`)+`-gzip"`), true
		}
		return fits
	}}
	// ContentLength is sent where the reference has none, and is another for parts.
	ContentLength = Rule{Why: "content-length", Edit: func(it *Item) bool {
		r := &it.Response
		bodyless := r.Status == http.StatusNoContent || r.Status/100 == 3
		fits := r.Headers["Content-Length"] == nil && !bodyless && (it.Request.Method == http.MethodHead || r.BodyExample != nil || r.BodyOmitted != "") ||
			strings.Contains(string(r.Headers["Content-Type"]), "byteranges")
		if fits {
			r.Headers["Content-Length"] = Quote("{{int}}")
		}
		return fits
	}}
	// GrowCount: the answer to /vol/grow names the new volumes, too.
	GrowCount = Rule{Why: "grow-count", Edit: func(it *Item) bool {
		r := &it.Response
		fits := strings.HasPrefix(r.BodyText, `{"count":`) && strings.HasPrefix(it.Request.Path, "/vol/grow") && !strings.Contains(r.BodyText, `:0`)
		if fits {
			r.BodyText = strings.TrimSuffix(r.BodyText, "}") + `,"volumes":[{{any}}]}`
			r.Headers["Content-Length"] = Quote("{{int}}")
		}
		return fits
	}}
	// NoGRPCPort: none is named in locations.
	NoGRPCPort = Rule{Why: "no-grpc-port", Edit: func(it *Item) bool {
		old := it.Response.BodyText
		it.Response.BodyText = strings.NewReplacer(`,"grpcPort":"{{int}}"`, "", ",\n      \"grpcPort\": \"{{int}}\"", "",
			".{{grpc_port:leader}}", "", ".{{grpc_port:master}}", "").Replace(old)
		return it.Response.BodyText != old
	}}
	// Readyz says in JSON whether the server should get requests, and why not.
	Readyz = Rule{Why: "readyz", Edit: func(it *Item) bool {
		r := &it.Response
		fits := it.Request.Path == "/readyz" && it.Request.Method == http.MethodGet && r.BodyText == "" &&
			slices.Contains([]int{http.StatusOK, http.StatusServiceUnavailable}, r.Status)
		if !fits {
			return false
		}
		r.BodyText = `{"ready":true,"reasons":[]}`
		r.Headers["Content-Type"], r.Headers["Content-Length"] = Quote("application/json"), Quote("{{int}}")
		if r.Status == http.StatusServiceUnavailable {
			r.BodyText = `{"ready":false,"reasons":["{{any}}"]}`
			r.Headers["Retry-After"] = Quote("1")
		}
		return true
	}}
	// StatusPage says in a header that it has no scripts.
	StatusPage = Rule{Why: "status-page", Edit: func(it *Item) bool {
		fits := it.Response.BodyOmitted != "" && Is(it.Response.Headers["Content-Type"], "text/html; charset=utf-8")
		if fits {
			it.Response.Headers["Content-Security-Policy"] = Quote("default-src 'none'; style-src 'unsafe-inline'")
		}
		return fits
	}}
)
