package gossip

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"weedd/volume/vfs"
)

// How long to wait between two rounds of joining, and how much to do in one.
const (
	rejoinFirst   = 200 * time.Millisecond
	rejoinLast    = 3 * time.Second
	lookupTimeout = 2 * time.Second
	joinsAtOnce   = 16
	maxRemembered = 256
	// tellFor is how long a node that came back at another address tells
	// everybody, again and again: long enough for the old one to be given up.
	tellFor = 10 * time.Second
)

// rejoin joins, for ever, the addresses at which nobody alive is known. first is
// closed after the first round.
func (m *Mesh) rejoin(ctx context.Context, first chan struct{}) {
	wait := rejoinFirst
	for {
		_, changed := m.Watch()
		missing := m.missing(ctx)
		m.joinAll(missing)
		m.remember()
		if first != nil {
			close(first)
			first = nil
		}
		if len(missing) == 0 {
			wait = m.longest()
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-m.retry:
			wait = rejoinFirst
		case <-changed:
			wait = rejoinFirst
			pause(ctx, rejoinFirst) // changes come in bunches
		case <-t.C:
			wait = min(2*wait, m.longest())
		}
		t.Stop()
	}
}

// longest is how long to wait at most; joining everybody is for a short time
// only.
func (m *Mesh) longest() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Now().Before(m.unheard) {
		return 2 * rejoinFirst
	}
	return rejoinLast
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

func (m *Mesh) joinAll(addrs []string) {
	var all sync.WaitGroup
	slots := make(chan struct{}, joinsAtOnce)
	for _, addr := range addrs {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			if _, err := m.list.Join([]string{addr}); err != nil {
				m.opts.Log.Debug("gossip: cannot join", "peer", addr, "err", err)
			}
		})
	}
	all.Wait()
}

// missing lists the addresses to join. While some member may have a wrong idea
// of where this node is, that is everybody, for joining is also telling.
func (m *Mesh) missing(ctx context.Context) (out []string) {
	m.mu.Lock()
	telling := time.Now().Before(m.unheard)
	there := map[string]bool{m.self.Gossip: true}
	for _, n := range m.nodes {
		if n.Alive && n.ID != m.self.ID {
			there[n.Gossip] = true
			if telling {
				out = append(out, n.Gossip)
			}
		}
	}
	wanted := slices.Concat(m.join, m.remembered)
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	for _, addr := range wanted {
		found, err := resolve(ctx, addr)
		if err != nil {
			m.opts.Log.Debug("gossip: cannot join", "peer", addr, "err", err)
			continue
		}
		if slices.ContainsFunc(found, func(a netip.AddrPort) bool { return there[a.String()] }) {
			continue // a host name of several addresses is one member
		}
		for _, a := range found {
			there[a.String()] = true
			out = append(out, a.String())
		}
	}
	return out
}

// remember keeps the addresses of the others that live, and behind them those
// that were known before.
func (m *Mesh) remember() {
	if m.opts.PeersFile == "" {
		return
	}
	m.mu.Lock()
	var addrs []string
	for id, n := range m.nodes {
		if n.Alive && id != m.self.ID {
			addrs = append(addrs, n.Gossip)
		}
	}
	slices.Sort(addrs)
	for _, a := range m.remembered {
		if !slices.Contains(addrs, a) && a != m.self.Gossip {
			addrs = append(addrs, a)
		}
	}
	addrs = addrs[:min(len(addrs), maxRemembered)]
	same := slices.Equal(addrs, m.remembered)
	m.remembered = addrs
	m.mu.Unlock()
	if same {
		return
	}
	if err := vfs.Replace(vfs.OS{}, m.opts.PeersFile, []byte(strings.Join(addrs, "\n")+"\n")); err != nil {
		m.opts.Log.Warn("members cannot be remembered", "err", err)
	}
}

func readPeers(path string) ([]string, error) {
	if path == "" {
		return nil, nil
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read remembered members: %w", err)
	}
	return strings.Fields(string(b)), nil
}
