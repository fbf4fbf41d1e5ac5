package leader

import (
	"sync"
	"time"

	"weedd/cluster"
	"weedd/cluster/catalog"
	"weedd/cluster/placement"
)

const (
	// progressLook is how often the leader counts what is left to copy.
	progressLook = 2 * time.Second
	// progressOver is the time over which it is seen how fast that goes.
	progressOver = time.Minute
)

// progress remembers how much was left to copy, to tell how long it will take.
type progress struct {
	mu     sync.Mutex
	looked time.Time
	repair cluster.ViewWork
	drains []cluster.ViewDrain
	past   map[catalog.Drain][]left // the zero Drain is all repairs
}

// left is what was left at a time.
type left struct {
	at    time.Time
	bytes int64
}

// look counts anew, if it is time.
func (p *progress) look(view placement.View, set placement.Settings, drains []catalog.Drain, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Sub(p.looked) < progressLook {
		return
	}
	p.looked = now
	p.repair, p.drains = placement.Outstanding(view, set), placement.Drains(view, set, drains)
	past := map[catalog.Drain][]left{}
	estimate := func(key catalog.Drain, w *cluster.ViewWork) {
		past[key] = remember(p.past[key], left{now, w.Bytes})
		w.Rate, w.Seconds = rate(past[key])
	}
	estimate(catalog.Drain{}, &p.repair)
	for i := range p.drains {
		d := &p.drains[i]
		estimate(catalog.Drain{Node: d.Node, Dir: d.Dir}, &d.Work)
	}
	p.past = past
}

// remember adds what is left now. When there is more than before, work was added:
// how fast it went is counted anew.
func remember(past []left, now left) []left {
	if n := len(past); now.bytes == 0 || n > 0 && now.bytes > past[n-1].bytes {
		past = nil
	}
	for len(past) > 1 && now.at.Sub(past[0].at) > progressOver {
		past = past[1:]
	}
	return append(past, now)
}

// rate gives bytes a second, and the seconds that the rest takes: -1 when nothing
// is known to move.
func rate(past []left) (perSecond, seconds int64) {
	first, last := past[0], past[len(past)-1]
	if last.bytes == 0 {
		return 0, 0
	}
	took := last.at.Sub(first.at).Seconds()
	if took <= 0 || first.bytes == last.bytes {
		return 0, -1
	}
	perSecond = max(int64(float64(first.bytes-last.bytes)/took), 1)
	return perSecond, (last.bytes + perSecond - 1) / perSecond
}

// shown is what was counted last.
func (p *progress) shown() (repair cluster.ViewWork, drains []cluster.ViewDrain) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.repair, p.drains
}
