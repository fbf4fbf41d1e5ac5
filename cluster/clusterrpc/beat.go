package clusterrpc

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"weedd/volume"
	"weedd/volume/rpcwire"
)

// beatSilence is how long a leader may say nothing on a heartbeat stream. It
// gives a sign of life several times as often.
const beatSilence = 2 * time.Second

// Beat holds one heartbeat stream to the leader: it sends what comes from
// reports and calls obey with what is ordered, one call at a time. The first
// report must be full. It returns when the stream breaks, another master leads,
// the leader falls silent, or ctx ends, and always with the reason; a report
// taken from the channel may then be lost. obey is not called after that.
func (c *Client) Beat(ctx context.Context, reports <-chan volume.Report, obey func(volume.Orders)) error {
	m, ok := c.leader(ctx)
	if !ok {
		return fmt.Errorf("heartbeat: %w: no master leads", volume.ErrUnavailable)
	}
	err := c.beat(ctx, m, reports, obey)
	c.forget(m)
	return fmt.Errorf("heartbeat to master %s: %w", m.ID, err)
}

func (c *Client) beat(ctx context.Context, m LeaderInfo, reports <-chan volume.Report, obey func(volume.Orders)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	conn, err := c.opt.Conns.Conn(m.Internal, m.ID, UseBeat)
	if err != nil {
		cancel(nil)
		return fmt.Errorf("connect to %s: %w", m.Internal, err)
	}
	stream, err := rpcwire.Open[volume.Report, down](ctx, conn, ServiceName, "Beat")
	if err != nil {
		cancel(nil)
		return unwire(err)
	}
	orders := make(chan *volume.Orders)
	go func() { // ends with ctx, which ends the stream
		defer close(orders)
		for {
			d, err := stream.Recv()
			if err != nil {
				cancel(unwire(rpcwire.Error(err)))
				return
			}
			select {
			case orders <- d.Orders:
			case <-ctx.Done():
				return
			}
		}
	}()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		pump(ctx, cancel, stream, reports)
	}()
	c.obey(ctx, cancel, m, orders, obey)
	for range orders { // until the reader has ended
	}
	<-sent
	return context.Cause(ctx)
}

// pump sends reports until ctx ends.
func pump(ctx context.Context, cancel context.CancelCauseFunc, stream grpc.BidiStreamingClient[volume.Report, down], reports <-chan volume.Report) {
	for {
		select {
		case <-ctx.Done():
			return
		case r, ok := <-reports:
			if !ok {
				cancel(fmt.Errorf("%w: no more reports", volume.ErrClosed))
				return
			}
			if sendReport(stream.Send, r) != nil {
				return // Recv knows why, and ends ctx
			}
		}
	}
}

// obey hands orders on until ctx ends, which it brings about when the leader is
// silent or deposed.
func (c *Client) obey(ctx context.Context, cancel context.CancelCauseFunc, m LeaderInfo, orders <-chan *volume.Orders, obey func(volume.Orders)) {
	tick := time.NewTicker(hintPoll)
	defer tick.Stop()
	heard := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case o, ok := <-orders:
			if !ok {
				return
			}
			if heard = time.Now(); o != nil {
				obey(*o)
				heard = time.Now() // obeying may take its time
			}
		case <-tick.C:
			if time.Since(heard) > beatSilence {
				cancel(fmt.Errorf("%w: master %s has said nothing for %v", volume.ErrUnavailable, m.ID, beatSilence))
			} else if c.opt.Hint != nil {
				if h := c.opt.Hint(); h.ID != "" && h.ID != m.ID {
					cancel(fmt.Errorf("%w: master %s leads now", volume.ErrNotLeader, h.ID))
				}
			}
		}
	}
}
