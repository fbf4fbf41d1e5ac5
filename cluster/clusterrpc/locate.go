package clusterrpc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"weedd/volume"
	"weedd/volume/rpcwire"
)

// turnTime is how long a master may take to say where a volume is before the
// next one is asked, too: one that is frozen or cut off must hold up nobody.
const turnTime = 200 * time.Millisecond

// located is what one master said.
type located struct {
	entry volume.Entry
	nodes []volume.Node
	err   error
}

// Locate asks the masters for the entry of a volume and the nodes that hold it,
// in order. The next one is asked, too, when one failed, says
// nothing for a moment, or knows no version above past: it may lag behind. The
// answer is the first entry above past, else the newest. That there is no such
// volume (volume.ErrNoVolume) is believed of the leader only; an entry that
// comes from it comes without nodes. volume.ErrUnavailable means that nobody
// knew.
func (c *Client) Locate(ctx context.Context, id volume.ID, past uint64) (volume.Entry, []volume.Node, error) {
	var work sync.WaitGroup
	defer work.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	masters := c.masters()
	answers := make(chan located, len(masters))
	leaderAsked := new(atomic.Bool)
	best := located{err: errors.New("no master in sight")}
	turn := time.NewTimer(0)
	defer turn.Stop()
	for asked, answered := 0, 0; answered < len(masters); {
		select {
		case a := <-answers:
			if a.err == nil && a.entry.Version > past || errors.Is(a.err, volume.ErrNoVolume) {
				return a.entry, a.nodes, a.err
			}
			if best.err != nil || a.err == nil && a.entry.Version > best.entry.Version {
				best = a
			}
			answered++
			turn.Reset(0)
		case <-turn.C:
			if asked == len(masters) {
				if best.err == nil { // the others had their time
					return best.entry, best.nodes, nil
				}
				continue
			}
			m := masters[asked]
			asked++
			work.Go(func() { answers <- c.locateAt(ctx, m, id, leaderAsked) })
			turn.Reset(c.turn)
		}
	}
	if best.err != nil {
		return volume.Entry{}, nil, fmt.Errorf("%w: locate volume %d: %v", volume.ErrUnavailable, id, best.err)
	}
	return best.entry, best.nodes, nil
}

// locateAt asks one master, and once in all the leader when that one knows of no
// such volume.
func (c *Client) locateAt(ctx context.Context, m LeaderInfo, id volume.ID, leaderAsked *atomic.Bool) located {
	var a located
	a.err = c.call(ctx, m, whoTime, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		said, err := rpcwire.Call[locateAnswer](ctx, conn, ServiceName, "Locate", &locateRequest{id})
		if err == nil {
			a.entry, a.nodes = said.Entry, said.Nodes
		}
		return err
	})
	if !errors.Is(a.err, volume.ErrNoVolume) {
		return a
	}
	if !leaderAsked.CompareAndSwap(false, true) {
		return located{err: errors.New(a.err.Error())} // as good as no answer
	}
	ctx, cancel := context.WithTimeout(ctx, whoTime/2) // no longer than it takes when all is well
	defer cancel()
	a.entry, a.err = c.Entry(ctx, id)
	return a
}
