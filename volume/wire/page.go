package wire

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"time"
)

// NewPage parses the template of a page for people. Besides funcs it may call bytes,
// which gives a number of bytes as they read it.
func NewPage(text string, funcs template.FuncMap) *template.Template {
	return template.Must(template.New("page").Funcs(template.FuncMap{"bytes": Bytes}).Funcs(funcs).Parse(text))
}

// Page answers a page. It has no scripts, and browsers are told so.
func Page(w http.ResponseWriter, r *http.Request, t *template.Template, data any) error {
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		return fmt.Errorf("render the page: %w", err)
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(b.Len()))
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(b.Bytes()) // the client is gone: there is nobody left to tell
	}
	return nil
}

// Bytes gives a number of bytes as people read it.
func Bytes(n any) string {
	f, unit := 0.0, 0
	switch n := n.(type) {
	case int64:
		f = float64(n)
	case uint64:
		f = float64(n)
	}
	for f >= 1000 && unit < 5 {
		f /= 1024
		unit++
	}
	return strconv.FormatFloat(f, 'g', 3, 64) + " " + [...]string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}[unit]
}

//go:embed favicon.ico
var icon []byte

// Favicon is what browsers ask for.
var Favicon http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "image/x-icon")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(icon))
})
