package server

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"weedd/volume"
	"weedd/volume/store"
)

// How volumes are looked through.
const (
	scrubRateLeast = 4 << 20          // bytes a second, where the period asks for fewer
	scrubRateAsked = 128 << 20        // bytes a second of a pass that somebody waits for
	scrubIdle      = time.Minute      // between two looks whether something is due
	scrubAgain     = 10 * time.Minute // after a pass that failed
	mendFirst      = time.Second      // after a repair that failed, and twice as long after each further one,
	mendLast       = 10 * time.Minute // up to this
	scrubProblems  = 100              // listed of one pass
	mendQueue      = 64
	mendLimit      = 30 * time.Second
)

// ScrubReport is how far one copy was looked through, and what was found by the
// last pass, the one that runs included.
type ScrubReport struct {
	Volume   volume.ID      `json:"volume"`
	Waiting  bool           `json:"waiting,omitempty"` // it was asked for
	Running  bool           `json:"running,omitempty"`
	Pos      int64          `json:"pos"` // in .dat, of the pass that runs or was interrupted
	Size     int64          `json:"size"`
	Done     time.Time      `json:"done,omitzero"` // when the last whole pass ended
	Bad      int            `json:"bad"`
	Repaired int            `json:"repaired"`
	Problems []ScrubProblem `json:"problems,omitempty"`
	Err      string         `json:"error,omitempty"` // why the last pass did not end
}

// ScrubProblem is something bad that a pass found.
type ScrubProblem struct {
	store.Damage
	Key string `json:"key,omitempty"` // in hex
}

// scrubs is what is known of scrubbing.
type scrubs struct {
	wake chan struct{} // a level: a pass was asked for
	mend chan mendRequest
	hope chan struct{} // a level: what could not be repaired may be repaired soon

	mu      sync.Mutex
	running volume.ID
	asked   []volume.ID
	last    map[volume.ID]ScrubReport
	failed  map[volume.ID]time.Time // when the last pass did
	bad     map[volume.ID]badPlaces
	mending map[mendRequest]bool
}

// badPlaces are the offsets in .dat of one copy where something is bad that could
// not be repaired, and whether it is a record. They outlive the pass that found
// them: until one is repaired, or a whole pass meets it no more. Offsets mean
// something within a generation only.
type badPlaces struct {
	copy       volume.CopyID
	generation uint32
	at         map[int64]bool
}

// generation is that of a copy here; 0 for a volume without one.
func (s *Server) generation(id volume.ID) uint32 {
	if r := s.copy(id); r != nil {
		return r.Report().Generation
	}
	return 0
}

// note remembers what came of one place, and has it reported.
func (s *Server) note(v *store.Volume, d store.Damage) {
	now, c := badPlaces{v.CopyID(), s.generation(v.ID()), map[int64]bool{}}, s.scrubs
	c.mu.Lock()
	if was := c.bad[v.ID()]; was.copy == now.copy && was.generation == now.generation && was.at != nil {
		now = was
	}
	c.bad[v.ID()] = now
	_, known := now.at[d.Offset]
	if d.Repaired {
		delete(now.at, d.Offset)
	} else {
		now.at[d.Offset] = d.Key != 0
	}
	c.mu.Unlock()
	s.touch(v.ID())
	if !d.Repaired && !known {
		s.mendSoon()
	}
}

// damaged counts the bad places of a copy.
func (s *Server) damaged(rep volume.CopyReport) int {
	s.scrubs.mu.Lock()
	defer s.scrubs.mu.Unlock()
	if b := s.scrubs.bad[rep.Volume]; b.copy == rep.Copy && b.generation == rep.Generation {
		return len(b.at)
	}
	return 0
}

// mendRequest names a record that a read found bad.
type mendRequest struct {
	id     volume.ID
	offset int64
}

func newScrubs() *scrubs {
	return &scrubs{
		wake: make(chan struct{}, 1), mend: make(chan mendRequest, mendQueue), hope: make(chan struct{}, 1), last: map[volume.ID]ScrubReport{},
		failed: map[volume.ID]time.Time{}, bad: map[volume.ID]badPlaces{}, mending: map[mendRequest]bool{},
	}
}

// ScrubNow has the volumes named looked through at once, from the beginning, or
// all of this node. It answers how many.
func (s *Server) ScrubNow(ids ...volume.ID) (int, error) {
	if len(ids) == 0 {
		for _, v := range s.opts.Store.Volumes() {
			ids = append(ids, v.ID())
		}
	}
	for _, id := range ids {
		if _, err := s.opts.Store.Volume(id); err != nil {
			return 0, err
		}
	}
	c := s.scrubs
	c.mu.Lock()
	for _, id := range ids {
		if !slices.Contains(c.asked, id) {
			c.asked = append(c.asked, id)
		}
	}
	c.mu.Unlock()
	s.wakeScrub()
	return len(ids), nil
}

func (s *Server) wakeScrub() {
	select {
	case s.scrubs.wake <- struct{}{}:
	default:
	}
}

// ScrubStatus reports on the volumes of this node, by number.
func (s *Server) ScrubStatus() []ScrubReport {
	list := []ScrubReport{}
	c := s.scrubs
	for _, v := range s.opts.Store.Volumes() {
		state := v.ScrubState()
		c.mu.Lock()
		r := c.last[v.ID()]
		r.Running, r.Waiting = c.running == v.ID(), slices.Contains(c.asked, v.ID())
		r.Problems = slices.Clone(r.Problems)
		c.mu.Unlock()
		r.Volume, r.Pos, r.Size, r.Done = v.ID(), state.Pos, v.End(), state.Done
		list = append(list, r)
	}
	return list
}

// scrubLoop looks through the volumes, one at a time: what was asked for, and what
// was not looked through for Options.Scrub.
func (s *Server) scrubLoop(ctx context.Context) {
	idle := scrubIdle
	if s.opts.Scrub > 0 {
		idle = min(idle, s.opts.Scrub)
	}
	tick := time.NewTicker(idle)
	defer tick.Stop()
	for ctx.Err() == nil {
		v, asked := s.nextScrub()
		if v != nil {
			s.scrub(ctx, v, asked)
			continue
		}
		select {
		case <-ctx.Done():
		case <-s.scrubs.wake:
		case <-tick.C:
		}
	}
}

// nextScrub picks a volume; nil if nothing is due.
func (s *Server) nextScrub() (v *store.Volume, asked bool) {
	c, now := s.scrubs, s.opts.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.asked) > 0 {
		id := c.asked[0]
		c.asked = c.asked[1:]
		if v, err := s.opts.Store.Volume(id); err == nil {
			c.running = id
			return v, true
		}
	}
	if s.opts.Scrub <= 0 {
		return nil, false
	}
	var oldest time.Time
	for _, other := range s.opts.Store.Volumes() {
		done := other.ScrubState().Done
		due := now.Sub(done) >= s.opts.Scrub && s.placed(other) && now.Sub(c.failed[other.ID()]) >= scrubAgain && other.Failed() == nil
		if due && other.End() > store.SuperBlockSize && (v == nil || done.Before(oldest)) {
			v, oldest = other, done
		}
	}
	if v != nil {
		c.running = v.ID()
	}
	return v, false
}

// placed reports whether it is known where the other copies of a volume are, so
// that damage can be repaired.
func (s *Server) placed(v *store.Volume) bool {
	r := s.copy(v.ID())
	return r == nil || r.Entry().Epoch != 0
}

// scrubRate is such that all volumes are looked through in half of the period.
func (s *Server) scrubRate() int64 {
	var all int64
	for _, v := range s.opts.Store.Volumes() {
		all += v.End()
	}
	return max(scrubRateLeast, int64(2*float64(all)/s.opts.Scrub.Seconds()))
}

// scrub makes one pass over a volume.
func (s *Server) scrub(ctx context.Context, v *store.Volume, asked bool) {
	c, id := s.scrubs, v.ID()
	c.mu.Lock()
	c.last[id] = ScrubReport{}
	c.mu.Unlock()
	met := map[int64]bool{}
	o := s.scrubOptions(id, func(d store.Damage) {
		s.tell(id, d)
		s.note(v, d)
		met[d.Offset] = true
		c.mu.Lock()
		defer c.mu.Unlock()
		r := c.last[id]
		r.Bad++
		if d.Repaired {
			r.Repaired++
		}
		if len(r.Problems) < scrubProblems {
			r.Problems = append(r.Problems, ScrubProblem{d, hexKey(d.Key)})
		}
		c.last[id] = r
	})
	if o.Anew = asked; asked {
		o.Rate = scrubRateAsked
	} else {
		o.Rate = s.scrubRate()
	}
	err := v.Scrub(ctx, o)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running = 0
	delete(c.failed, id)
	if err == nil && asked { // it was a whole one
		maps.DeleteFunc(c.bad[id].at, func(at int64, _ bool) bool { return !met[at] })
	}
	if err == nil || ctx.Err() != nil {
		return
	}
	c.failed[id] = s.opts.Now()
	r := c.last[id]
	r.Err = err.Error()
	c.last[id] = r
	if errors.Is(err, volume.ErrCorrupt) {
		s.log.Error("volume cannot be scrubbed", "volume", id, "err", err)
	} else {
		s.log.Info("scrub will be tried again", "volume", id, "err", err)
	}
}

// mendSoon has what could not be repaired tried again soon: it was found just now,
// or a copy that has good bytes may have come in sync.
func (s *Server) mendSoon() {
	select {
	case s.scrubs.hope <- struct{}{}:
	default:
	}
}

// retryRepairs has what could not be repaired tried again: the node that has good
// bytes may have been away. It answers how many records that are.
func (s *Server) retryRepairs() int {
	again := s.badRecords()
	for _, q := range again {
		s.mendLater(q.id, &volume.CorruptError{Volume: q.id, Offset: q.offset})
	}
	return len(again)
}

// badRecords lists the records of the copies that are here now that could not be
// repaired.
func (s *Server) badRecords() (list []mendRequest) {
	s.scrubs.mu.Lock()
	all := maps.Clone(s.scrubs.bad)
	s.scrubs.mu.Unlock()
	for id, b := range all {
		if r := s.copy(id); r == nil || r.Report().Copy != b.copy || r.Report().Generation != b.generation {
			continue
		}
		s.scrubs.mu.Lock()
		for at, record := range b.at {
			if record {
				list = append(list, mendRequest{id, at})
			}
		}
		s.scrubs.mu.Unlock()
	}
	return list
}

// known reports whether a record is known to be bad, so that it need not be told
// again.
func (s *Server) known(q mendRequest) bool {
	s.scrubs.mu.Lock()
	defer s.scrubs.mu.Unlock()
	_, bad := s.scrubs.bad[q.id].at[q.offset]
	return bad
}

// repaired notes that a record found bad before was repaired.
func (s *Server) repaired(q mendRequest) {
	s.scrubs.mu.Lock()
	defer s.scrubs.mu.Unlock()
	r := s.scrubs.last[q.id]
	r.Problems = slices.Clone(r.Problems)
	for i, p := range r.Problems {
		if p.Offset == q.offset && !p.Repaired {
			r.Problems[i].Repaired, r.Problems[i].Err = true, ""
			r.Repaired++
		}
	}
	s.scrubs.last[q.id] = r
}

func hexKey(k volume.Key) string {
	if k == 0 {
		return ""
	}
	return strconv.FormatUint(uint64(k), 16)
}

// scrubOptions are those of looking through a copy here: what is bad is fetched
// from another holder.
func (s *Server) scrubOptions(id volume.ID, found func(store.Damage)) store.Scrub {
	o := store.Scrub{
		Read:  func(n int64) { s.metrics.scrubbed.Add(float64(n)) },
		Found: found,
	}
	if r := s.copy(id); r != nil {
		o.Repair = func(ctx context.Context, offset, length int64) ([]byte, error) {
			return s.fetch(ctx, r.Entry(), r.Report().Generation, offset, length)
		}
	}
	return o
}

// tell counts and logs damage.
func (s *Server) tell(id volume.ID, d store.Damage) {
	s.metrics.damaged.Inc()
	if d.Repaired {
		s.metrics.repaired.Inc()
		s.log.Warn("damage was repaired", "volume", id, "key", hexKey(d.Key), "offset", d.Offset, "what", d.What)
		return
	}
	s.log.Error("damage could not be repaired", "volume", id, "key", hexKey(d.Key), "offset", d.Offset, "what", d.What, "err", d.Err)
}

// mendLater has a record looked at that a read found bad. When many are waiting it
// is left to the next read, or the next pass.
func (s *Server) mendLater(id volume.ID, err error) {
	var bad *volume.CorruptError
	if !errors.As(err, &bad) {
		return
	}
	q, c := mendRequest{id, bad.Offset}, s.scrubs
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mending[q] {
		return
	}
	select {
	case c.mend <- q:
		c.mending[q] = true
	default:
	}
}

// mendLoop repairs the records that reads found bad, and tries again what it could
// not repair: soon at first, then ever more rarely.
func (s *Server) mendLoop(ctx context.Context) {
	again, pause := time.NewTimer(mendFirst), mendFirst
	again.Stop() // until there is something
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.scrubs.hope:
			pause = mendFirst
			again.Reset(pause)
		case <-again.C:
			if s.retryRepairs() > 0 {
				pause = min(2*pause, mendLast)
				again.Reset(pause)
			}
		case q := <-s.scrubs.mend:
			s.mend(ctx, q)
			s.scrubs.mu.Lock()
			delete(s.scrubs.mending, q)
			s.scrubs.mu.Unlock()
		}
	}
}

func (s *Server) mend(ctx context.Context, q mendRequest) {
	ctx, cancel := context.WithTimeout(ctx, mendLimit)
	defer cancel()
	v, err := s.opts.Store.Volume(q.id)
	if err != nil || v.Foreign() {
		return
	}
	known := s.known(q)
	bad, err := v.Mend(ctx, q.offset, s.scrubOptions(q.id, func(d store.Damage) {
		if d.Repaired || !known {
			s.tell(q.id, d)
		}
		s.note(v, d)
		if d.Repaired {
			s.repaired(q)
		}
	}))
	// Then it is not the record; perhaps the index leads to a wrong one. A pass over
	// all of it that has just ended would find no more.
	if (err != nil || !bad) && s.opts.Now().Sub(v.ScrubState().Done) >= scrubAgain {
		if _, err := s.ScrubNow(q.id); err != nil {
			s.log.Debug("scrub after a bad read", "volume", q.id, "err", err)
		}
	}
}
