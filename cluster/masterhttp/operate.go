package masterhttp

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"

	"weedd/cluster"
	"weedd/volume"
	"weedd/volume/wire"
)

// operate takes a cluster.Operation in JSON and answers a cluster.Outcome. The
// type of the body is asked for because a page in a browser on this host could
// send any other one here without the user's will.
func (a *API) operate(w *answer, r *http.Request) error {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return fmt.Errorf("%w: an operation is application/json", volume.ErrBadRequest)
	}
	var op cluster.Operation
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxForm))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&op); err != nil {
		if tooLong := new(http.MaxBytesError); errors.As(err, &tooLong) {
			return fmt.Errorf("%w: an operation over %d bytes", volume.ErrTooLarge, maxForm)
		}
		return fmt.Errorf("%w: operation: %w", volume.ErrBadRequest, err)
	}
	if err := oneOf(op); err != nil {
		return err
	}
	tells := op.Explain != nil || op.Repair != nil && op.Repair.DryRun || op.Promote != nil && op.Promote.DryRun || op.Forget != nil && op.Forget.DryRun
	if !tells {
		if err := a.opts.Access.CheckAdmin(r); err != nil {
			return err
		}
	}
	out, err := a.opts.Master.Operate(r.Context(), op)
	if err != nil {
		return err
	}
	wire.JSON(w, r, http.StatusOK, out)
	return nil
}

// oneOf refuses what is not exactly one operation.
func oneOf(op cluster.Operation) error {
	n := 0
	for _, set := range []bool{op.Drain != nil, op.Repair != nil, op.Explain != nil, op.Remove != nil, op.Promote != nil, op.Forget != nil, op.ReadOnly != nil} {
		if set {
			n++
		}
	}
	if n != 1 {
		return fmt.Errorf("%w: %d operations in one request; it is to be one of drain, repair, explain, remove, promote, forget, readonly", volume.ErrBadRequest, n)
	}
	return nil
}
