package volumehttp_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The files in testdata/transcripts are requests to the reference server,
// SeaweedFS 4.44, and its answers. They are replayed against this API over
// stores in memory; what we answer otherwise is in the table of
// deviations_test.go, item by item.

type transcript struct {
	Items []item `json:"items"`
}

type item struct {
	Name     string            `json:"name"`
	Wart     string            `json:"wart"`
	Request  request           `json:"request"`
	Capture  map[string]string `json:"capture"`
	Response response          `json:"response"`
}

type request struct {
	Server     string            `json:"server"`
	Method     string            `json:"method"`
	Path       string            `json:"path"`
	Headers    map[string]string `json:"headers"`
	BodyText   string            `json:"body_text"`
	BodyBase64 string            `json:"body_base64"`
	BodyRepeat repeat            `json:"body_repeat"`
	Form       []formPart        `json:"form"`
}

type repeat struct {
	Text  string `json:"text"`
	Count int    `json:"count"`
}

type formPart struct {
	Name        string            `json:"name"`
	Filename    *string           `json:"filename"`
	ContentType string            `json:"content_type"`
	Headers     map[string]string `json:"headers"`
	Text        string            `json:"content_text"`
	Base64      string            `json:"content_base64"`
	Repeat      repeat            `json:"content_repeat"`
}

type response struct {
	Status      int                        `json:"status"`
	Headers     map[string]json.RawMessage `json:"headers"`
	BodyText    string                     `json:"body_text"`
	BodyBase64  string                     `json:"body_base64"`
	BodySHA256  string                     `json:"body_sha256"`
	BodyLength  int                        `json:"body_length"`
	BodyOmitted string                     `json:"body_omitted"`
	BodyExample any                        `json:"body_example"`
}

func TestTranscripts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/transcripts/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	used := map[string]bool{}
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var tr transcript
		if err := json.Unmarshal(b, &tr); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		file := strings.TrimSuffix(filepath.Base(path), ".json")
		c := newCluster(t)
		for _, it := range tr.Items {
			name := file + "/" + it.Name
			if _, ok := outOfScope[name]; ok {
				used[name] = true
				continue
			}
			d, deviates := deviations[name]
			if deviates {
				used[name] = true
				if reasons[d.why] == "" {
					t.Errorf("%s: no such reason: %q", name, d.why)
				}
				d.edit(&it.Response)
			}
			usual(&it)
			for _, complaint := range c.replay(it) {
				t.Errorf("%s: %s", name, complaint)
			}
		}
	}
	for name := range deviations {
		if !used[name] {
			t.Errorf("deviation %q names no item", name)
		}
	}
	for name := range outOfScope {
		if !used[name] {
			t.Errorf("out of scope %q names no item", name)
		}
	}
}

// replay sends one request and compares.
func (c *cluster) replay(it item) (complaints []string) {
	complain := func(format string, args ...any) { complaints = append(complaints, fmt.Sprintf(format, args...)) }
	if strings.HasPrefix(it.Request.Path, "/dir/assign") {
		for name := range it.Capture {
			c.assign(strings.TrimPrefix(name, "fid:"), c.expand(it.Request.Path))
		}
		return nil
	}
	resp, body, err := c.send(it.Request)
	if err != nil {
		return []string{err.Error()}
	}
	want := it.Response
	if resp.StatusCode != want.Status {
		complain("status %d, want %d; body %.200q", resp.StatusCode, want.Status, body)
	}
	boundary := ""
	for name, raw := range want.Headers {
		if slices.Contains(notCompared, name) {
			continue
		}
		template := headerTemplate(raw)
		got := resp.Header.Get(name)
		m, ok := c.match(template, got)
		if !ok {
			complain("header %s: %q, want %q", name, got, template)
		}
		boundary += m["boundary"]
	}
	for name := range resp.Header {
		if _, listed := want.Headers[name]; !listed && !slices.Contains(notCompared, name) {
			complain("header %s: %q is not expected", name, resp.Header[name])
		}
	}
	if complaint := c.compareBody(it.Request.Method, want, body, boundary); complaint != "" {
		complain("%s", complaint)
	}
	return complaints
}

// notCompared says whose build answers, or is of the connection.
var notCompared = []string{"Server", "X-Amz-Request-Id", "X-Content-Type-Options", "Date", "Connection", "Transfer-Encoding"}

func headerTemplate(raw json.RawMessage) string {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		return one
	}
	var list []string
	_ = json.Unmarshal(raw, &list) // the transcripts have nothing else
	return strings.Join(list, ", ")
}

func (c *cluster) compareBody(method string, want response, body []byte, boundary string) string {
	switch {
	case method == http.MethodHead:
		if len(body) != 0 {
			return "HEAD has a body"
		}
	case want.BodyOmitted != "":
	case want.BodyExample != nil:
		var got any
		if err := json.Unmarshal(body, &got); err != nil {
			return fmt.Sprintf("body is no JSON: %.200q", body)
		}
		return sameShape("", want.BodyExample, got)
	case want.BodyBase64 != "":
		if b, _ := base64.StdEncoding.DecodeString(want.BodyBase64); !bytes.Equal(b, body) {
			return fmt.Sprintf("body %.100q, want %.100q", body, b)
		}
	case want.BodySHA256 != "":
		if got := sha256Hex(body); got != want.BodySHA256 || len(body) != want.BodyLength {
			return fmt.Sprintf("body of %d bytes with hash %s, want %d, %s", len(body), got, want.BodyLength, want.BodySHA256)
		}
	default:
		template := strings.ReplaceAll(want.BodyText, `"{{int}}"`, "{{int}}")
		if boundary != "" {
			template = strings.ReplaceAll(template, "{{boundary}}", boundary)
		}
		if _, ok := c.match(template, string(body)); !ok {
			return fmt.Sprintf("body %.300q, want %.300q", body, template)
		}
	}
	return ""
}

// sameShape compares member names and types.
func sameShape(at string, want, got any) string {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return fmt.Sprintf("%s is %T", at, got)
		}
		for name := range g {
			if _, ok := w[name]; !ok {
				return fmt.Sprintf("%s.%s is not expected", at, name)
			}
		}
		for name, v := range w {
			if _, ok := g[name]; !ok {
				return fmt.Sprintf("%s.%s is missing", at, name)
			}
			if s := sameShape(at+"."+name, v, g[name]); s != "" {
				return s
			}
		}
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) == 0 {
			return fmt.Sprintf("%s is %T", at, got)
		}
		return sameShape(at+"[0]", w[0], g[0])
	case string:
		if _, isNumber := got.(float64); (w == "{{int}}" || w == "{{float}}") != isNumber {
			return fmt.Sprintf("%s is %T", at, got)
		}
	default:
		if fmt.Sprintf("%T", want) != fmt.Sprintf("%T", got) {
			return fmt.Sprintf("%s is %T, want %T", at, got, want)
		}
	}
	return ""
}

func (c *cluster) send(q request) (*http.Response, []byte, error) {
	body, contentType := q.body()
	chunked := q.Headers["Transfer-Encoding"] == "chunked"
	if chunked {
		body = httputil.NewChunkedReader(body)
	}
	if !chunked {
		b, _ := io.ReadAll(body) // from memory
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequest(q.Method, "http://"+c.hosts[q.Server]+c.expand(q.Path), body)
	if err != nil {
		return nil, nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for name, value := range q.Headers {
		if name != "Transfer-Encoding" {
			req.Header.Set(name, c.expand(value))
		}
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return resp, got, err
}

func (q request) body() (body io.Reader, contentType string) {
	switch {
	case q.Form != nil:
		var b bytes.Buffer
		for _, p := range q.Form {
			p.write(&b)
		}
		b.WriteString("--bdry--\r\n")
		return &b, "multipart/form-data; boundary=bdry"
	case q.BodyBase64 != "":
		b, _ := base64.StdEncoding.DecodeString(q.BodyBase64)
		return bytes.NewReader(b), ""
	case q.BodyRepeat.Count > 0:
		return strings.NewReader(strings.Repeat(q.BodyRepeat.Text, q.BodyRepeat.Count)), ""
	}
	return strings.NewReader(q.BodyText), ""
}

func (p formPart) write(b *bytes.Buffer) {
	fmt.Fprintf(b, "--bdry\r\nContent-Disposition: form-data; name=\"%s\"", p.Name)
	if p.Filename != nil {
		fmt.Fprintf(b, "; filename=\"%s\"", *p.Filename)
	}
	b.WriteString("\r\n")
	if p.ContentType != "" {
		fmt.Fprintf(b, "Content-Type: %s\r\n", p.ContentType)
	}
	for name, value := range p.Headers {
		fmt.Fprintf(b, "%s: %s\r\n", name, value)
	}
	b.WriteString("\r\n")
	content, _ := base64.StdEncoding.DecodeString(p.Base64)
	b.WriteString(p.Text)
	b.Write(content)
	b.WriteString(strings.Repeat(p.Repeat.Text, p.Repeat.Count))
	b.WriteString("\r\n")
}

var placeholder = regexp.MustCompile(`\{\{([a-z0-9_]+)(?::([^}]*))?\}\}`)

// kinds are the placeholders that stand for any value of a kind.
var kinds = map[string]string{
	"http_date": `[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT`, "request_id": `[0-9A-F]+`,
	"version": `.+`, "uuid": `[0-9a-f-]{36}`, "int": `-?\d+`, "float": `-?[\d.]+`, "digits": `\d+`, "unix_time": `\d{10}`,
	"etag": `[0-9a-f]{8}`, "fid": `\d+,[0-9a-f]+`, "host": `[\d.:]+`, "boundary": `[0-9A-Za-z]+`, "any": `(?s:.*)`,
}

// match compares text with a template and returns what its kinds stood for.
func (c *cluster) match(template, text string) (map[string]string, bool) {
	var pattern strings.Builder
	pattern.WriteString("^")
	var names []string
	rest := c.expand(template)
	for {
		loc := placeholder.FindStringSubmatchIndex(rest)
		if loc == nil {
			break
		}
		name := rest[loc[2]:loc[3]]
		pattern.WriteString(regexp.QuoteMeta(rest[:loc[0]]) + "(" + kinds[name] + ")")
		names = append(names, name)
		rest = rest[loc[1]:]
	}
	pattern.WriteString(regexp.QuoteMeta(rest) + "$")
	m := regexp.MustCompile(pattern.String()).FindStringSubmatch(text)
	if m == nil {
		return nil, false
	}
	values := map[string]string{}
	for i, name := range names {
		values[name] = m[i+1]
	}
	return values, true
}
