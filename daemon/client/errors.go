package client

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"weedd/volume"
)

// RequestError says which address answered what to one request. It is the
// sentinel of package volume that fits the status: ErrNotFound for 404, and so on.
type RequestError struct {
	Method     string
	URL        string
	Status     int           // 0 when no answer came
	Text       string        // what the answer said
	RetryAfter time.Duration // how long it asked to wait, 0 for not at all
	Err        error         // why no answer came, or it could not be read
}

func (e *RequestError) Error() string {
	s := fmt.Sprintf("%s %s: ", e.Method, e.URL)
	if e.Status == 0 {
		return s + e.Err.Error()
	}
	s += fmt.Sprintf("%d %s", e.Status, http.StatusText(e.Status))
	if e.Text != "" {
		s += ": " + e.Text
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap gives the sentinel of the status and what went wrong below.
func (e *RequestError) Unwrap() []error {
	var all []error
	if s := sentinel(e.Status); s != nil {
		all = append(all, s)
	}
	if e.Err != nil {
		all = append(all, e.Err)
	}
	return all
}

func sentinel(status int) error {
	switch {
	case status == 0, status >= 200 && status < 300:
		return nil
	case status == http.StatusNotFound:
		return volume.ErrNotFound
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return volume.ErrUnauthorized
	case status == http.StatusNotAcceptable:
		return volume.ErrBadSpec
	case status == http.StatusRequestEntityTooLarge:
		return volume.ErrTooLarge
	case status == http.StatusTooManyRequests:
		return volume.ErrBusy
	case status == http.StatusRequestTimeout, status >= 500:
		return volume.ErrUnavailable
	}
	return volume.ErrBadRequest
}

func (e *RequestError) base() string {
	u, err := url.Parse(e.URL)
	if err != nil {
		return e.URL
	}
	return u.Scheme + "://" + u.Host
}

// OperationError says what a whole call went through.
type OperationError struct {
	What     string
	Why      error // why it was not tried again; nil when the last answer is final
	Attempts int
	Took     time.Duration
	Answers  []error // the last failure at each address, the newest first
}

func (e *OperationError) Error() string {
	var answers []string
	for _, a := range e.Answers {
		answers = append(answers, a.Error())
	}
	said := strings.Join(answers, "; ")
	switch {
	case e.Why == nil:
		return e.What + ": " + said
	case said == "":
		return fmt.Sprintf("%s: %v", e.What, e.Why)
	}
	return fmt.Sprintf("%s: %v after %d attempts in %s: %s", e.What, e.Why, e.Attempts, e.Took.Round(time.Millisecond), said)
}

// Unwrap gives the reason for the end and every answer.
func (e *OperationError) Unwrap() []error {
	if e.Why == nil {
		return e.Answers
	}
	return append([]error{e.Why}, e.Answers...)
}

// SourceError says that a body could not be read. Another try cannot cure that.
type SourceError struct{ Err error }

func (e *SourceError) Error() string { return e.Err.Error() }

// Unwrap gives what went wrong.
func (e *SourceError) Unwrap() error { return e.Err }

// Temporary reports whether the same operation may succeed when it is tried
// again, at another server or a little later: no answer came, or one of 5xx,
// 408 or 429.
func Temporary(err error) bool {
	var source *SourceError
	var request *RequestError
	if errors.As(err, &source) || !errors.As(err, &request) {
		return false
	}
	s := request.Status
	return request.Err != nil || s == 0 || s >= 500 || s == http.StatusRequestTimeout || s == http.StatusTooManyRequests
}
