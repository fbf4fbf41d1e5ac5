package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// request is one HTTP request.
type request struct {
	method, url string
	header      http.Header
	body        *meter // nil for none
	stall       *stall
}

const (
	mostErrorText = 4 << 10
	mostJSON      = 256 << 20 // the view of a cluster with many volumes is long
)

var errStalled = errors.New("no answer")

// stall gives up an attempt in which no byte moves for too long, in either
// direction. A whole attempt has no time limit: files may be large.
type stall struct {
	after time.Duration
	timer *time.Timer
	stop  func()
}

// watch returns a context that ends when nothing moved for the client's Stall.
func (c *Client) watch(ctx context.Context) (context.Context, *stall) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &stall{after: c.opt.Stall}
	s.timer = time.AfterFunc(s.after, func() { cancel(fmt.Errorf("%w in %s", errStalled, s.after)) })
	s.stop = func() { s.timer.Stop(); cancel(nil) }
	return ctx, s
}

// moved says that bytes have moved.
func (s *stall) moved() { s.timer.Reset(s.after) }

// do sends one request and hands a good answer (2xx) to read. Everything that
// goes wrong on the way is a *RequestError, or a *SourceError; what read returns
// is passed on as it is, but for failures of reading the answer itself.
func (c *Client) do(ctx context.Context, r request, read func(*http.Response) error) error {
	var body io.Reader
	if r.body != nil {
		body = r.body
		if r.body.size == 0 {
			body = http.NoBody // a body of unknown length otherwise
		}
	}
	req, err := http.NewRequestWithContext(ctx, r.method, r.url, body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", r.method, r.url, err)
	}
	for k, v := range r.header {
		req.Header[k] = v
	}
	if r.body != nil {
		req.ContentLength = r.body.size
		req.GetBody = nil
	}
	failed := &RequestError{Method: r.method, URL: r.url}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.unanswered(ctx, r, failed, err)
	}
	defer resp.Body.Close()
	c.note(failed.base(), true)
	r.stall.moved()
	in := &answer{r: resp.Body, moved: r.stall.moved}
	resp.Body = in
	failed.Status = resp.StatusCode
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		failed.Text = errorText(resp)
		failed.RetryAfter = retryAfter(resp.Header.Get("Retry-After"))
		return failed
	}
	err = read(resp)
	if in.err != nil { // else err is not about the connection
		failed.Err = cause(ctx, in.err)
		return failed
	}
	return err
}

// unanswered sorts out why no answer came: the body, or the server.
func (c *Client) unanswered(ctx context.Context, r request, failed *RequestError, err error) error {
	if r.body != nil {
		if _, _, sourceErr := r.body.result(); sourceErr != nil {
			return sourceErr
		}
	}
	var ue *url.Error // it repeats method and URL
	if errors.As(err, &ue) {
		err = ue.Err
	}
	failed.Err = cause(ctx, err)
	c.note(failed.base(), false)
	return failed
}

// cause prefers the reason why ctx ended to what that broke.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// answer remembers errors of reading, so that they are told from those of the
// reader's own work.
type answer struct {
	r     io.ReadCloser
	moved func()
	err   error
}

func (a *answer) Read(p []byte) (int, error) {
	n, err := a.r.Read(p)
	if n > 0 {
		a.moved()
	}
	if err != nil && err != io.EOF {
		a.err = err
	}
	return n, err
}

func (a *answer) Close() error { return a.r.Close() }

// errorText finds what an answer says about its failure, in JSON or as plain text.
func errorText(resp *http.Response) string {
	b, _ := io.ReadAll(io.LimitReader(resp.Body, mostErrorText)) // what came is all there is to say
	var said struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(b, &said) == nil && said.Error != "" {
		return said.Error
	}
	text, _, _ := strings.Cut(string(bytes.TrimSpace(b)), "\n")
	if len(text) > 200 || strings.HasPrefix(text, "<") {
		return ""
	}
	return strings.ToValidUTF8(text, "?")
}

// retryAfter reads both forms of the header; 0 if there is none.
func retryAfter(s string) time.Duration {
	if n, err := strconv.Atoi(s); err == nil && n > 0 {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(s); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

// readJSON decodes an answer into v. What is not JSON counts as no answer: some
// other server may sit at the address.
func readJSON(v any) func(*http.Response) error {
	return func(resp *http.Response) error {
		err := json.NewDecoder(io.LimitReader(resp.Body, mostJSON)).Decode(v)
		if err != nil {
			return &RequestError{Method: resp.Request.Method, URL: resp.Request.URL.String(), Status: resp.StatusCode,
				Err: fmt.Errorf("answer is not the JSON that was expected: %w", err)}
		}
		return nil
	}
}

// getJSON asks for a JSON answer.
func (c *Client) getJSON(ctx context.Context, where string, v any) (http.Header, error) {
	ctx, stall := c.watch(ctx)
	defer stall.stop()
	var header http.Header
	err := c.do(ctx, request{method: http.MethodGet, url: where, stall: stall}, func(resp *http.Response) error {
		header = resp.Header
		return readJSON(v)(resp)
	})
	return header, err
}
