package masterhttp

import (
	"net/http"

	"weedd/volume"
	"weedd/volume/wire"
)

// clusterStatus is the answer of /cluster/status: what this master knows by
// itself, so that it has one with and without a leader.
func (a *API) clusterStatus(w *answer, r *http.Request) error {
	leader, self, peers, maxVolume := a.opts.Group.Status()
	wire.JSON(w, r, http.StatusOK, struct {
		IsLeader    bool      `json:",omitempty"`
		Leader      string    `json:",omitempty"`
		Peers       []string  `json:",omitempty"`
		MaxVolumeId volume.ID `json:",omitempty"` //nolint:stylecheck // the name is part of the API
	}{self, leader, peers, maxVolume})
	return nil
}

func (a *API) hasLeader(w *answer, _ *http.Request) error {
	if leader, _, _, _ := a.opts.Group.Status(); leader == "" {
		wire.RetryLater(w.Header(), http.StatusServiceUnavailable)
		wire.Empty(w, http.StatusServiceUnavailable)
		return nil
	}
	wire.Empty(w, http.StatusOK)
	return nil
}

func (a *API) healthz(w *answer, _ *http.Request) error {
	wire.Empty(w, http.StatusOK)
	return nil
}

func (a *API) readyz(w *answer, r *http.Request) error {
	status, reasons := http.StatusOK, a.opts.Ready()
	if len(reasons) > 0 {
		status = http.StatusServiceUnavailable
		wire.RetryLater(w.Header(), status)
	}
	wire.JSON(w, r, status, struct {
		Ready   bool     `json:"ready"`
		Reasons []string `json:"reasons"`
	}{len(reasons) == 0, append([]string{}, reasons...)})
	return nil
}

func (a *API) raftStats(w *answer, r *http.Request) error {
	wire.JSON(w, r, http.StatusOK, a.opts.Group.Stats())
	return nil
}

// view answers the whole of what the leader knows, for `weedd status`.
func (a *API) view(w *answer, r *http.Request) error {
	v, err := a.opts.Master.View(r.Context())
	if err != nil {
		return err
	}
	wire.JSON(w, r, http.StatusOK, v)
	return nil
}
