package masterhttp

import (
	"container/list"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"weedd/volume"
	"weedd/volume/wire"
)

const (
	headerIdempotencyKey = "Idempotency-Key"

	repeatWindow = 10 * time.Minute // in which a repeat gets the first answer
	maxRepeats   = 10_000           // answers remembered, of some 500 bytes each; the oldest go first
	maxKey       = 255
	repeatWait   = 10 * time.Second // how long a repeat waits for the first, while that runs
)

// ErrKeyReused is for a key that came before with another upload, errKeyRunning for
// one whose first upload does not end.
var (
	ErrKeyReused  = errors.New("the Idempotency-Key was used for another upload")
	errKeyRunning = fmt.Errorf("%w: the first upload with this Idempotency-Key is still running", volume.ErrExists)
)

// Keys is the memory of the one master that all choose for an idempotency key. Safe
// for concurrent use.
type Keys interface {
	// Claim gives the answer of the first upload with the key, or nil if this one is
	// the first: then end must be called with its answer, nil if it failed. end is
	// nil if this very master is the one. print tells the upload from others.
	// Errors are ErrKeyReused, volume.ErrExists while the first does not end, and any
	// other if that master does not answer.
	Claim(ctx context.Context, key, print string) (answer []byte, end func(answer []byte), err error)
}

// Claim is that of Keys, for the other masters: of what this one remembers.
func (a *API) Claim(ctx context.Context, key, print string) (answer []byte, end func(answer []byte), err error) {
	out, finish, err := a.repeats.begin(ctx, key, print)
	if err != nil || out != nil {
		return encodeAnswer(out), nil, err
	}
	return nil, func(answer []byte) { finish(decodeAnswer(answer)) }, nil
}

// begin looks whether an upload is a repeat, here and at the master that all choose
// for its key; so a repeat may come to any of them. It is like repeats.begin. If that
// master does not answer, what this one knows has to do.
func (a *API) begin(ctx context.Context, key, print string) (answer *submitted, end func(*submitted), err error) {
	answer, here, err := a.repeats.begin(ctx, key, print)
	if err != nil || answer != nil || a.opts.Keys == nil {
		return answer, here, err
	}
	known, settle, err := a.opts.Keys.Claim(ctx, key, print)
	switch {
	case isAny(err, ErrKeyReused, volume.ErrExists):
		here(nil)
		return nil, nil, err
	case err != nil:
		a.opts.Log.Debug("upload with an idempotency key goes on without the master that remembers it", "err", err)
		return nil, here, nil
	case known != nil:
		answer = decodeAnswer(known)
		here(answer)
		return answer, nil, nil
	case settle == nil:
		return nil, here, nil
	}
	return nil, func(answer *submitted) {
		settle(encodeAnswer(answer))
		here(answer)
	}, nil
}

// encodeAnswer is nil for no answer.
func encodeAnswer(s *submitted) []byte {
	if s == nil {
		return nil
	}
	b, err := json.Marshal(s)
	if err != nil {
		panic(fmt.Sprintf("encode answer: %v", err)) // it is strings and a number
	}
	return b
}

func decodeAnswer(b []byte) *submitted {
	var s submitted
	if json.Unmarshal(b, &s) != nil || s.FileID == "" {
		return nil
	}
	return &s
}

// repeats remembers the answers of uploads by their idempotency keys, at this master
// and in memory. Failures are not remembered: a repeat tries again. Safe for
// concurrent use.
type repeats struct {
	now func() time.Time

	mu    sync.Mutex
	byKey map[string]*repeat
	ended *list.List // of *repeat with an answer, the oldest first
}

type repeat struct {
	key, print string
	done       chan struct{} // closed when it has ended
	answer     *submitted    // nil for a failure; valid once done is closed
	until      time.Time
}

func newRepeats() *repeats {
	return &repeats{now: time.Now, byKey: map[string]*repeat{}, ended: list.New()}
}

// begin is called with the key of an upload and with what tells it from others. It
// gives the answer of the first upload with that key, or nil if this one is the
// first: then end must be called with its answer, nil if it failed.
func (s *repeats) begin(ctx context.Context, key, print string) (answer *submitted, end func(*submitted), err error) {
	ctx, cancel := context.WithTimeout(ctx, repeatWait)
	defer cancel()
	for {
		first, ours := s.enter(key, print)
		if ours {
			return nil, func(a *submitted) { s.end(first, a) }, nil
		}
		if first.print != print {
			return nil, nil, ErrKeyReused
		}
		select {
		case <-first.done:
			if first.answer != nil {
				return first.answer, nil, nil
			}
		case <-ctx.Done():
			return nil, nil, errKeyRunning
		}
	}
}

// enter finds the upload with a key, or makes it ours.
func (s *repeats) enter(key, print string) (r *repeat, ours bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := s.ended.Front(); e != nil && s.now().After(e.Value.(*repeat).until); e = s.ended.Front() {
		s.forgetLocked(e)
	}
	if r = s.byKey[key]; r != nil {
		return r, false
	}
	r = &repeat{key: key, print: print, done: make(chan struct{})}
	s.byKey[key] = r
	return r, true
}

func (s *repeats) end(r *repeat, answer *submitted) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(r.done)
	if answer == nil {
		delete(s.byKey, r.key)
		return
	}
	r.answer, r.until = answer, s.now().Add(repeatWindow)
	s.ended.PushBack(r)
	if s.ended.Len() > maxRepeats {
		s.forgetLocked(s.ended.Front())
	}
}

func (s *repeats) forgetLocked(e *list.Element) {
	delete(s.byKey, e.Value.(*repeat).key)
	s.ended.Remove(e)
}

// idempotencyKey reads the key of r, "" for none. It may be in quotes.
func idempotencyKey(r *http.Request) (string, error) {
	fields := r.Header[headerIdempotencyKey]
	if len(fields) == 0 {
		return "", nil
	}
	key := fields[0]
	if len(key) > 1 && key[0] == '"' && key[len(key)-1] == '"' {
		key = key[1 : len(key)-1]
	}
	bad := strings.ContainsFunc(key, func(c rune) bool { return c <= ' ' || c > '~' })
	if len(fields) > 1 || key == "" || len(key) > maxKey || bad {
		return "", fmt.Errorf("%w: Idempotency-Key: one of 1 to %d visible characters, please", volume.ErrBadRequest, maxKey)
	}
	return key, nil
}

// fingerprint is what a repeat must have in common with the first. The boundary of a
// form may differ.
func fingerprint(r *http.Request) string {
	parts := []string{r.URL.RawQuery, fmt.Sprint(r.ContentLength)}
	for _, name := range []string{"Content-Md5", wire.HeaderContentDigest, wire.HeaderReprDigest, "Content-Disposition", "Content-Encoding"} {
		parts = append(parts, strings.Join(r.Header[name], ","))
	}
	return strings.Join(parts, "\n")
}
