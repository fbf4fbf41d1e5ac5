//go:build e2e

package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime/multipart"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"
)

// A load is clients that upload, read and delete until they are stopped. A
// client that cannot reach an address, or loses its connection, moves on to the
// next, as any with three addresses does; an answer is taken as it is.
type load struct {
	t         *testing.T
	addresses []string
	cancel    context.CancelFunc
	workers   sync.WaitGroup

	mu       sync.Mutex
	files    map[string][]byte // acknowledged and not deleted
	deleted  []string          // acknowledged deletions
	requests int
	failures []string
	longest  time.Duration
	moved    chan struct{} // closed and replaced with each request
}

const (
	loadClients = 6
	// A request is held for 10 s where something is missing, so an address has more.
	attemptWithin = 15 * time.Second
	dialWithin    = time.Second
	requestWithin = time.Minute
)

var client = &http.Client{Transport: &http.Transport{
	DialContext:         (&net.Dialer{Timeout: dialWithin}).DialContext,
	MaxIdleConnsPerHost: loadClients,
}}

func startLoad(t *testing.T, addresses []string) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{t: t, addresses: addresses, cancel: cancel, files: map[string][]byte{}, moved: make(chan struct{})}
	for i := range loadClients {
		l.workers.Go(func() { l.run(ctx, i) })
	}
	return l
}

// stop ends the clients; twice is fine.
func (l *load) stop() {
	l.cancel()
	l.workers.Wait()
}

func (l *load) run(ctx context.Context, worker int) {
	pace := time.NewTicker(50 * time.Millisecond)
	defer pace.Stop()
	var mine []string
	for k := 0; ; k++ {
		select {
		case <-ctx.Done():
			return
		case <-pace.C:
		}
		first := worker + k // another address each time
		switch {
		case k%10 == 9 && len(mine) > 4:
			i := rand.IntN(len(mine))
			l.remove(mine[i], first)
			mine = slices.Delete(mine, i, i+1)
		case k%2 == 1 && len(mine) > 0:
			l.read(mine[rand.IntN(len(mine))], first)
		default:
			if fid := l.upload(fmt.Appendf(nil, "client %d file %d ", worker, k), first); fid != "" {
				mine = append(mine, fid)
			}
		}
	}
}

func (l *load) upload(seed []byte, first int) (fid string) {
	data := bytes.Repeat(seed, 1+rand.IntN(2000))
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile("file", "f.bin")
	if err == nil {
		_, err = part.Write(data)
	}
	if err = errors.Join(err, form.Close()); err != nil {
		l.done("upload", 0, err)
		return ""
	}
	var answer struct{ Fid string }
	began := time.Now()
	_, err = l.request("POST", "9333", "/submit", form.FormDataContentType(), body.Bytes(), first, func(code int, b []byte, _ bool) error {
		if code != http.StatusCreated {
			return fmt.Errorf("%d: %s", code, b)
		}
		return json.Unmarshal(b, &answer)
	})
	l.mu.Lock()
	if _, again := l.files[answer.Fid]; again && err == nil {
		err = fmt.Errorf("the file id %s was given out twice", answer.Fid)
	}
	if err == nil {
		l.files[answer.Fid] = data
	}
	l.mu.Unlock()
	l.done("upload", time.Since(began), err)
	return answer.Fid
}

func (l *load) read(fid string, first int) {
	l.mu.Lock()
	want := l.files[fid]
	l.mu.Unlock()
	began := time.Now()
	_, err := l.request("GET", "8080", "/"+fid, "", nil, first, func(code int, b []byte, _ bool) error {
		if code != http.StatusOK {
			return fmt.Errorf("%s: %d: %.200s", fid, code, b)
		}
		if !bytes.Equal(b, want) {
			return fmt.Errorf("%s: %d bytes that are not those uploaded", fid, len(b))
		}
		return nil
	})
	l.done("read", time.Since(began), err)
}

func (l *load) remove(fid string, first int) {
	began := time.Now()
	_, err := l.request("DELETE", "8080", "/"+fid, "", nil, first, func(code int, b []byte, again bool) error {
		if code/100 == 2 || again && code == http.StatusNotFound { // done by the attempt before
			return nil
		}
		return fmt.Errorf("%s: %d: %.200s", fid, code, b)
	})
	l.mu.Lock()
	delete(l.files, fid)
	if err == nil {
		l.deleted = append(l.deleted, fid)
	}
	l.mu.Unlock()
	l.done("delete", time.Since(began), err)
}

// request asks one address after another until one answers; judge says whether
// that is the answer it should be, and is told whether it was asked before.
func (l *load) request(method, port, path, kind string, body []byte, first int, judge func(code int, b []byte, again bool) error) (attempts int, err error) {
	deadline := time.Now().Add(requestWithin)
	for i := 0; ; i++ {
		addr := net.JoinHostPort(l.addresses[(first+i)%len(l.addresses)], port)
		code, b, err := attempt(method, "http://"+addr+path, kind, body)
		if err == nil {
			if err := judge(code, b, i > 0); err != nil {
				return i, fmt.Errorf("%s after %d attempts: %w", addr, i+1, err)
			}
			return i, nil
		}
		if time.Now().After(deadline) {
			return i, fmt.Errorf("no address answers: %w", err)
		}
	}
}

func attempt(method, url, kind string, body []byte) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), attemptWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, b, err
}

func getJSON(url string, v any) error {
	code, b, err := attempt("GET", url, "", nil)
	if err != nil {
		return err
	}
	if code != http.StatusOK {
		return fmt.Errorf("%d: %s", code, b)
	}
	return json.Unmarshal(b, v)
}

func (l *load) done(kind string, took time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests++
	l.longest = max(l.longest, took)
	if err != nil {
		l.failures = append(l.failures, fmt.Sprintf("%s %s after %v: %v", time.Now().Format("15:04:05.000"), kind, took.Round(time.Millisecond), err))
	}
	close(l.moved)
	l.moved = make(chan struct{})
}

// await waits for n more requests.
func (l *load) await(n int) {
	l.t.Helper()
	deadline := time.After(2 * requestWithin)
	want := -1
	for {
		l.mu.Lock()
		have, moved := l.requests, l.moved
		l.mu.Unlock()
		if want < 0 {
			want = have + n
		}
		if have >= want {
			return
		}
		select {
		case <-moved:
		case <-deadline:
			l.t.Fatal("the clients are stuck")
		}
	}
}

func (l *load) failed() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.failures)
}

func (l *load) reason() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failures[0]
}

// summary tells of the time since the summary before.
func (l *load) summary() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := fmt.Sprintf("%d requests so far, %d failed; longest %v", l.requests, len(l.failures), l.longest.Round(time.Millisecond))
	l.longest = 0
	return s
}

// check reads every file at every address: those acknowledged are there, those
// deleted are not.
func (l *load) check(addresses []string) {
	l.t.Helper()
	wrong := 0
	for _, a := range addresses {
		get := func(fid string) (int, []byte) {
			code, b, err := attempt("GET", "http://"+a+":8080/"+fid, "", nil)
			if err != nil {
				l.t.Fatal(err)
			}
			return code, b
		}
		for fid, want := range l.files {
			if code, b := get(fid); code != http.StatusOK || !bytes.Equal(b, want) {
				wrong++
				l.t.Logf("%s at %s: %d, %d bytes of %d", fid, a, code, len(b), len(want))
			}
		}
		for _, fid := range l.deleted {
			if code, _ := get(fid); code != http.StatusNotFound {
				wrong++
				l.t.Logf("%s at %s was deleted: %d", fid, a, code)
			}
		}
	}
	l.t.Logf("%d files, %d deleted ones: %d wrong answers", len(l.files), len(l.deleted), wrong)
	if wrong > 0 {
		l.t.Errorf("%d files are lost or came back", wrong)
	}
}
