package clusterrpc

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"weedd/cluster"
	"weedd/volume/rpcwire"
)

// serveClaim keeps a claim for as long as its stream: what breaks off has failed.
func serveClaim(s Service, stream grpc.BidiStreamingServer[claimUp, claimDown]) error {
	q, err := stream.Recv()
	if err != nil {
		return err
	}
	if err := stream.Send(&claimDown{}); err != nil { // the first upload may take its time
		return err
	}
	c, end, err := s.Claim(stream.Context(), q.Key, q.Print)
	if err != nil {
		return wire(err)
	}
	sent := stream.Send(&claimDown{&c})
	if end == nil {
		return sent
	}
	var answer []byte
	if sent == nil {
		if last, err := stream.Recv(); err == nil {
			answer = last.Answer
		}
	}
	end(answer)
	return sent
}

// Claim looks an idempotency key up in the memory of a master. If the claim has no
// answer and is not refused, end must be called with that of the upload, nil if it
// failed, before ctx ends. A master that shows no sign of life for a second is
// volume.ErrUnavailable.
func (c *Client) Claim(ctx context.Context, master cluster.Node, key, print string) (claim Claim, end func(answer []byte), err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		if end == nil {
			cancel()
		}
	}()
	late := time.AfterFunc(whoTime, cancel)
	defer late.Stop()
	conn, err := c.opt.Conns.Conn(master.Internal, master.ID, UseControl)
	if err != nil {
		return claim, nil, fmt.Errorf("connect to %s: %w", master.Internal, err)
	}
	stream, err := rpcwire.Open[claimUp, claimDown](ctx, conn, ServiceName, "Claim")
	if err != nil {
		return claim, nil, err
	}
	if err := stream.Send(&claimUp{Key: key, Print: print}); err != nil {
		return claim, nil, rpcwire.Error(err)
	}
	for {
		got, err := stream.Recv()
		if err != nil {
			return claim, nil, rpcwire.Error(err)
		}
		if late.Stop(); got.Claim == nil {
			continue
		}
		if claim = *got.Claim; claim.Answer != nil || claim.Reused {
			return claim, nil, nil
		}
		return claim, func(answer []byte) {
			defer cancel()
			late := time.AfterFunc(whoTime, cancel)
			defer late.Stop()
			if stream.Send(&claimUp{Answer: answer}) == nil {
				_, _ = stream.Recv() // its end: the answer is kept; if not, nothing is to be done
			}
		}, nil
	}
}
