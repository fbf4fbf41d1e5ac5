package volumehttp

import (
	"github.com/julienschmidt/httprouter"
)

// inner reports whether another node asks.
func (x *exchange) inner() bool { return x.r.Context().Value(innerKey{}) != nil }

// mayWrite finds out what is to be written or deleted, and whether the client may.
func (a *API) mayWrite(x *exchange, p httprouter.Params) (target, error) {
	if x.inner() {
		return parseTarget(p)
	}
	if err := a.opts.Access.CheckAddress(x.r); err != nil {
		return target{}, err
	}
	t, err := parseTarget(p)
	if err != nil {
		return t, err
	}
	return t, a.opts.Access.Check(x.r, t.text, true)
}

func (a *API) mayRead(x *exchange, t target) error {
	if x.inner() {
		return nil
	}
	return a.opts.Access.Check(x.r, t.text, false)
}
