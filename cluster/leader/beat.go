package leader

import (
	"context"
	"fmt"
	"reflect"
	"time"

	"weedd/cluster"
	"weedd/cluster/catalog"
	"weedd/cluster/placement"
	"weedd/cluster/topology"
	"weedd/volume"
)

const (
	// lifeSign is how often a volume server hears something from its leader.
	lifeSign = 500 * time.Millisecond
	// dropAgain is how soon an order to drop that was not obeyed is repeated: the
	// node may have found that a copy it must ask was not there.
	dropAgain = 10 * time.Second
)

// beat serves one heartbeat stream.
func (t *term) beat(ctx context.Context, recv func() (volume.Report, error), send func(volume.Orders) error) error {
	over := make(chan struct{})
	defer close(over)
	reports, broken := read(recv, over)
	s := &stream{t: t, send: send, dropped: map[dropKey]time.Time{}, compact: map[volume.ID]time.Time{}}
	defer s.end()
	ticker := time.NewTicker(lifeSign)
	defer ticker.Stop()
	for {
		cat, changed := t.opt.Log.Catalog()
		if err := s.push(cat); err != nil {
			return fmt.Errorf("send orders to node %s: %w", s.node, err)
		}
		select {
		case <-t.ctx.Done():
			return &cluster.NotLeaderError{}
		case <-ctx.Done():
			return fmt.Errorf("heartbeat of node %s: %w", s.node, ctx.Err())
		case err := <-broken:
			return fmt.Errorf("heartbeat of node %s: %w", s.node, err)
		case r := <-reports:
			if err := s.report(r); err != nil {
				return err
			}
		case <-changed:
		case <-ticker.C:
			s.due = true
		}
	}
}

// read turns recv into channels. Its goroutine ends when recv fails, at the
// latest when the stream is over.
func read(recv func() (volume.Report, error), over <-chan struct{}) (<-chan volume.Report, <-chan error) {
	reports, broken := make(chan volume.Report), make(chan error, 1)
	go func() {
		for {
			r, err := recv()
			if err != nil {
				broken <- err
				return
			}
			select {
			case reports <- r:
			case <-over:
				return
			}
		}
	}()
	return reports, broken
}

// stream is the leader's side of one heartbeat. One goroutine uses it.
type stream struct {
	t    *term
	send func(volume.Orders) error
	node volume.NodeID // "" until the first report
	id   uint64        // of topology

	sent    *catalog.Catalog // what the node has been told of
	news    bool             // it has reported something since its strays were looked at
	due     bool             // it is to hear a sign of life
	looked  time.Time        // when its strays were looked at
	dropped map[dropKey]time.Time
	compact map[volume.ID]time.Time // when it was last told to compact a volume
}

// dropKey names an order to drop; one for a newer epoch is another.
type dropKey struct {
	volume volume.ID
	copy   volume.CopyID
	epoch  volume.Epoch
}

// report takes in one report, the first of which says whose stream this is.
func (s *stream) report(r volume.Report) error {
	now := time.Now()
	switch {
	case s.node == "" && (r.Node == "" || !r.Full):
		return fmt.Errorf("%w: a heartbeat begins with a full report that names its node", volume.ErrBadRequest)
	case s.node == "":
		s.node, s.id = r.Node, s.t.topo.Attach(r.Node, now)
		s.t.log.Info("volume server connected", "peer", s.node)
	case s.node != r.Node:
		return fmt.Errorf("%w: a report of node %s on the heartbeat of node %s", volume.ErrBadRequest, r.Node, s.node)
	}
	news, current := s.t.topo.Report(s.id, r, now)
	if !current {
		return fmt.Errorf("heartbeat of node %s: %w: it has opened a newer one", s.node, volume.ErrStale)
	}
	if news {
		s.news = true
		s.t.moved.Raise()
	}
	return nil
}

// push sends what the node has not been told yet.
func (s *stream) push(cat *catalog.Catalog) error {
	if s.node == "" {
		return nil
	}
	o := volume.Orders{Full: s.sent == nil, Cluster: cat.ClusterID(), Limit: s.t.opt.Placement.VolumeLimit}
	if s.sent != cat {
		o.Entries = s.entries(cat)
	}
	now := time.Now()
	if s.sent != cat || s.news || now.Sub(s.looked) > dropAgain {
		o.Drop = s.drops(cat, now)
		s.looked, s.news = now, false
	}
	o.Compact = s.t.compactions.orders(s.node, now, s.compact)
	if d := topology.Draining(cat, s.node); s.sent == nil || !reflect.DeepEqual(d, topology.Draining(s.sent, s.node)) {
		o.Drain = &d
	}
	s.sent = cat
	if !o.Full && !s.due && len(o.Entries) == 0 && len(o.Drop) == 0 && len(o.Compact) == 0 && o.Drain == nil {
		return nil
	}
	s.due = false
	return s.send(o)
}

// entries lists what changed since the catalog sent last, as far as it is about
// volumes that the node holds, held, or has. Catalogs share the entries that
// are equal, so that comparing pointers is enough.
func (s *stream) entries(cat *catalog.Catalog) []volume.Entry {
	var old []*volume.Entry
	if s.sent != nil {
		old = s.sent.Volumes()
	}
	var out []volume.Entry
	for _, e := range cat.Volumes() {
		for len(old) > 0 && old[0].Volume < e.Volume {
			old = old[1:]
		}
		var was *volume.Entry
		if len(old) > 0 && old[0].Volume == e.Volume {
			was = old[0]
		}
		if was == e {
			continue
		}
		_, _, holds := e.Holder(s.node)
		held := false
		if was != nil {
			_, _, held = was.Holder(s.node)
		}
		if holds || held || s.t.topo.Has(s.node, e.Volume) {
			out = append(out, *e)
		}
	}
	return out
}

// drops lists the orders to drop that the node does not have from just now.
func (s *stream) drops(cat *catalog.Catalog, now time.Time) []volume.Drop {
	var out []volume.Drop
	for _, d := range placement.Drops(s.t.topo.Strays(cat, s.node), cat.Volume) {
		key := dropKey{d.Volume, d.Copy, d.Epoch}
		if last, ok := s.dropped[key]; ok && now.Sub(last) < dropAgain {
			continue
		}
		s.dropped[key] = now
		s.t.log.Info("drop ordered", "peer", s.node, "volume", d.Volume, "copy", d.Copy, "epoch", d.Epoch, "deleted", d.Deleted, "forgotten", d.Forgotten)
		out = append(out, d)
	}
	for key, last := range s.dropped {
		if now.Sub(last) >= 2*dropAgain {
			delete(s.dropped, key)
		}
	}
	return out
}

// end takes note that the stream is over, and looks at once whether the node is.
func (s *stream) end() {
	if s.node == "" || !s.t.topo.Detach(s.node, s.id) || s.t.ctx.Err() != nil {
		return
	}
	s.t.log.Info("volume server disconnected", "peer", s.node)
	s.t.moved.Raise()
	s.t.probe(s.t.topo.Node(s.node))
}
