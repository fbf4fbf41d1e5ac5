package replay

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Player sends items.
type Player struct {
	Hosts map[string]string // host:port by the names that items have for servers
	FIDs  map[string]string // file ids by the names that items have for them
	Auth  map[string]string // Authorization headers by the names that items have for them
	// Instead, when set, takes an item that is not to be sent and reports true.
	Instead func(it *Item) bool
	// Setup does what an item says must happen before it. It may be nil where no item
	// says anything.
	Setup func(what string)

	client *http.Client
}

// NewPlayer makes a Player for a test, with a client that adds nothing to
// requests and follows no redirects.
func NewPlayer(t *testing.T, hosts map[string]string) *Player {
	tr := &http.Transport{DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &Player{Hosts: hosts, FIDs: map[string]string{}, Auth: map[string]string{}, client: &http.Client{
		Transport:     tr,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// replay sends one request and compares.
func (p *Player) replay(it *Item) (complaints []string) {
	complain := func(format string, args ...any) { complaints = append(complaints, fmt.Sprintf(format, args...)) }
	if p.Instead != nil && p.Instead(it) {
		return nil
	}
	resp, body, err := p.send(it.Request)
	if err != nil {
		return []string{err.Error()}
	}
	if err := p.capture(it.Capture, resp.Header, body); err != nil {
		complain("%v", err)
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
		template := HeaderTemplate(raw)
		got := resp.Header.Get(name)
		m, ok := p.match(template, got)
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
	if complaint := p.compareBody(it.Request.Method, want, body, boundary); complaint != "" {
		complain("%s", complaint)
	}
	return complaints
}

// notCompared says whose build answers, or is of the connection.
var notCompared = []string{"Server", "X-Amz-Request-Id", "X-Content-Type-Options", "Date", "Connection", "Transfer-Encoding"}

// HeaderTemplate gives the text of a header in Response.
func HeaderTemplate(raw json.RawMessage) string {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		return one
	}
	var list []string
	_ = json.Unmarshal(raw, &list) // the transcripts have nothing else
	return strings.Join(list, ", ")
}

// capture remembers file ids and tokens of an answer.
func (p *Player) capture(what map[string]string, header http.Header, body []byte) error {
	for name, from := range what {
		if h, ok := strings.CutPrefix(from, "header:"); ok {
			p.Auth[strings.TrimPrefix(name, "full:")] = header.Get(h)
			continue
		}
		var answer map[string]any
		if err := json.Unmarshal(body, &answer); err != nil {
			return fmt.Errorf("body is no JSON: %.200q", body)
		}
		fid, ok := answer[strings.TrimPrefix(from, "json:")].(string)
		if !ok {
			return fmt.Errorf("no %s in the body %.200q", from, body)
		}
		p.FIDs[strings.TrimPrefix(name, "fid:")] = fid
	}
	return nil
}

func (p *Player) send(q Request) (*http.Response, []byte, error) {
	body, contentType := q.body(p)
	if q.Headers["Transfer-Encoding"] == "chunked" {
		body = httputil.NewChunkedReader(body)
	} else {
		b, _ := io.ReadAll(body) // from memory
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequest(q.Method, "http://"+p.Hosts[q.Server]+p.Expand(q.Path), body)
	if err != nil {
		return nil, nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for name, value := range q.Headers {
		if name != "Transfer-Encoding" {
			req.Header.Set(name, p.Expand(value))
		}
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return resp, got, err
}

func (q Request) body(p *Player) (body io.Reader, contentType string) {
	switch {
	case q.Form != nil:
		var b bytes.Buffer
		for _, part := range q.Form {
			part.write(&b, p)
		}
		b.WriteString("--bdry--\r\n")
		return &b, "multipart/form-data; boundary=bdry"
	case q.BodyBase64 != "":
		b, _ := base64.StdEncoding.DecodeString(q.BodyBase64)
		return bytes.NewReader(b), ""
	case q.BodyRepeat.Count > 0:
		return strings.NewReader(strings.Repeat(q.BodyRepeat.Text, q.BodyRepeat.Count)), ""
	}
	return strings.NewReader(p.Expand(q.BodyText)), ""
}

func (part FormPart) write(b *bytes.Buffer, p *Player) {
	fmt.Fprintf(b, "--bdry\r\nContent-Disposition: form-data; name=\"%s\"", part.Name)
	if part.Filename != nil {
		fmt.Fprintf(b, "; filename=\"%s\"", *part.Filename)
	}
	b.WriteString("\r\n")
	if part.ContentType != "" {
		fmt.Fprintf(b, "Content-Type: %s\r\n", part.ContentType)
	}
	for name, value := range part.Headers {
		fmt.Fprintf(b, "%s: %s\r\n", name, value)
	}
	b.WriteString("\r\n")
	content, _ := base64.StdEncoding.DecodeString(part.Base64)
	b.WriteString(p.Expand(part.Text))
	b.Write(content)
	b.WriteString(strings.Repeat(part.Repeat.Text, part.Repeat.Count))
	b.WriteString("\r\n")
}

// Expand fills in the placeholders that have a definite value.
func (p *Player) Expand(s string) string {
	return placeholder.ReplaceAllStringFunc(s, func(text string) string {
		m := placeholder.FindStringSubmatch(text)
		if m[1] == "host" && m[2] != "" {
			return p.Hosts[m[2]]
		}
		if auth := p.Auth[m[2]]; auth != "" && m[1] == "full" {
			return auth
		} else if auth != "" && m[1] == "jwt" {
			return strings.TrimPrefix(auth, "Bearer ")
		}
		fid := p.FIDs[m[2]]
		vid, kc, ok := strings.Cut(fid, ",")
		if !ok {
			return text
		}
		switch m[1] {
		case "fid":
			return fid
		case "vid":
			return vid
		case "keycookie":
			return kc
		case "key":
			return kc[:len(kc)-8]
		case "cookie":
			return kc[len(kc)-8:]
		case "up":
			return strings.ToUpper(kc)
		case "lz":
			return "00" + kc
		case "vidwrap":
			n, _ := strconv.ParseUint(vid, 10, 64) // it is one of ours
			return strconv.FormatUint(n+1<<32, 10)
		}
		return text
	})
}
