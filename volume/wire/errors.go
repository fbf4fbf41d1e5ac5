package wire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"weedd/volume"
)

// statuses is the one table from errors to HTTP statuses. Existing clients take
// 4xx as final, but for 429, and try 5xx again with a new file id; so what a new
// id can cure is 5xx. The first row that matches counts.
var statuses = []struct {
	err    error
	status int
}{
	{volume.ErrBadRequest, http.StatusBadRequest},
	{volume.ErrDigest, http.StatusBadRequest},
	{volume.ErrTooLarge, http.StatusRequestEntityTooLarge},
	{volume.ErrBusy, http.StatusTooManyRequests},
	{volume.ErrUnauthorized, http.StatusUnauthorized},
	{volume.ErrExists, http.StatusConflict},
	{volume.ErrBadSpec, http.StatusNotAcceptable},
	{volume.ErrUnsatisfiable, http.StatusNotAcceptable},
	{volume.ErrNoSpace, http.StatusNotAcceptable}, // of the master; a volume server answers 507, see volumehttp
	{volume.ErrOutcomeUnknown, http.StatusInternalServerError},
	{volume.ErrNotFound, http.StatusNotFound},
	{volume.ErrNoVolume, http.StatusNotFound},
	{volume.ErrCookie, http.StatusInternalServerError},
	{volume.ErrReadOnly, http.StatusInternalServerError},
	{volume.ErrCorrupt, http.StatusInternalServerError},
	{volume.ErrNotLeader, http.StatusServiceUnavailable},
	{volume.ErrNotPrimary, http.StatusServiceUnavailable},
	{volume.ErrStale, http.StatusServiceUnavailable},
	{volume.ErrUnavailable, http.StatusServiceUnavailable},
	{volume.ErrClosed, http.StatusServiceUnavailable},
	{context.DeadlineExceeded, http.StatusServiceUnavailable},
	{context.Canceled, StatusClientGone},
}

// StatusClientGone is for a client that hung up before its answer. Nobody reads
// it; it keeps such requests apart from failures in metrics and logs.
const StatusClientGone = 499

// retryAfter is what 429 and 503 tell clients, in seconds.
var retryAfter = []string{"1"}

// ErrorBody is the JSON form of an error.
type ErrorBody struct {
	Error string `json:"error"`
}

// Status gives the HTTP status of err and whether its text may be shown. An
// error that the table does not know is 500, and its text is kept back.
func Status(err error) (status int, known bool) {
	for _, s := range statuses {
		if errors.Is(err, s.err) {
			return s.status, true
		}
	}
	return http.StatusInternalServerError, false
}

// Error answers err in JSON with the status of the table and returns that
// status. What the table does not know is logged, since its text is not sent.
func Error(w http.ResponseWriter, r *http.Request, log *slog.Logger, err error) int {
	status, known := Status(err)
	text := err.Error()
	if !known {
		log.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
		text = "internal error"
	}
	ErrorStatus(w, r, status, text)
	return status
}

// ErrorStatus answers a status and a text that the caller chose.
func ErrorStatus(w http.ResponseWriter, r *http.Request, status int, text string) {
	RetryLater(w.Header(), status)
	JSON(w, r, status, ErrorBody{text})
}

// RetryLater puts Retry-After into h if status is one that is worth a retry of
// the same request.
func RetryLater(h http.Header, status int) {
	if status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests {
		h[headerRetryAfter] = retryAfter
	}
}

func badRequest(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{volume.ErrBadRequest}, args...)...)
}
