package volumetest

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// Malformed are requests that no client should send and that get the same answer.
type Malformed struct {
	Status int
	Text   string // in the error; "" where there is no body to say one in
	// Requests are each "METHOD path | body | Header: value | ...", or with "||" in
	// place of an empty body.
	Requests []string
}

// CheckMalformed sends all of them to h, from an address that is not loopback, and
// complains of answers that are not clear. It returns how many there are.
func CheckMalformed(t *testing.T, h http.Handler, groups []Malformed) (count int) {
	t.Helper()
	for _, group := range groups {
		for _, request := range group.Requests {
			count++
			w := sendMalformed(h, request)
			answer := w.Body.String()
			wordless := answer == "" || answer == `{"size":0}`
			if w.Code != group.Status || !strings.Contains(answer, group.Text) || group.Text == "" && !wordless || len(answer) > 600 {
				t.Errorf("%.100q: %d %.300q, want %d and %q", request, w.Code, answer, group.Status, group.Text)
			}
		}
	}
	return count
}

func sendMalformed(h http.Handler, request string) *httptest.ResponseRecorder {
	line, rest, bodyless := strings.Cut(request, " || ")
	var body string
	var headers []string
	if bodyless {
		headers = strings.Split(rest, " | ")
	} else if line, rest, _ = strings.Cut(request, " | "); rest != "" {
		parts := strings.Split(rest, " | ")
		body, headers = parts[0], parts[1:]
	}
	method, target, _ := strings.Cut(line, " ")
	path, query, _ := strings.Cut(target, "?")
	r := httptest.NewRequest(http.MethodGet, "/", strings.NewReader(body))
	r.Method, r.URL = method, &url.URL{Path: path, RawQuery: query}
	for _, header := range headers {
		name, value, _ := strings.Cut(strings.TrimSpace(header), ": ")
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}
