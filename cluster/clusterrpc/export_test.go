package clusterrpc

import (
	"time"

	"weedd/volume/rpcwire"
)

// OverTheWire gives err as the other side of a call gets it.
func OverTheWire(err error) error { return unwire(rpcwire.Error(rpcwire.Status(wire(err)))) }

// SetTurn changes turnTime.
func (c *Client) SetTurn(d time.Duration) { c.turn = d }
