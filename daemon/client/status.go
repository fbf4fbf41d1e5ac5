package client

import (
	"context"

	"weedd/cluster"
)

// MasterStatus is what one master says of itself and its leader.
type MasterStatus struct {
	IsLeader    bool     // false when absent
	Leader      string   // host:port, or host:port.grpcPort; "" while it knows none
	Peers       []string // host:port of every master, if there are several
	MaxVolumeID uint32   `json:"MaxVolumeId"`
}

// MasterStatus asks one of Masters, once.
func (c *Client) MasterStatus(ctx context.Context, master string) (MasterStatus, error) {
	var s MasterStatus
	_, err := c.getJSON(ctx, master+"/cluster/status", &s)
	return s, err
}

// Status gives the view of the first master that answers.
func (c *Client) Status(ctx context.Context) (cluster.View, error) {
	var v cluster.View
	err := c.retry(ctx, "cluster view", func(ctx context.Context, master string) error {
		v = cluster.View{}
		_, err := c.getJSON(ctx, master+"/cluster/view", &v)
		return err
	})
	return v, err
}
