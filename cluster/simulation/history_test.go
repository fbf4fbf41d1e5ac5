package simulation

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"weedd/cluster/catalog"
	"weedd/volume"
)

// history is what happened, as one who sees everything knows it, and the judge of
// it. What is committed is what some master has applied.
type history struct {
	began time.Time

	mu       sync.Mutex
	broken   error
	stopped  chan struct{} // closed when broken
	story    []string
	entries  map[[2]uint64]string       // of any log, by index and term
	terms    map[string]string          // who led, by term
	commands [][]byte                   // committed, in order
	cats     []*catalog.Catalog         // after so many commands
	used     map[volume.ID]bool         // numbers that volumes have had
	blocks   map[volume.Key]volume.Key  // blocks of keys given out, from and to
	ids      map[volume.FileID]struct{} // file ids given out, without cookies
	promised map[volume.ID]bool         // volumes that somebody was told are there
	acks     map[string]int             // what went well, for people
}

func newHistory() *history {
	return &history{
		began: time.Now(), stopped: make(chan struct{}), entries: map[[2]uint64]string{}, terms: map[string]string{},
		cats: []*catalog.Catalog{catalog.New()}, used: map[volume.ID]bool{}, blocks: map[volume.Key]volume.Key{},
		ids: map[volume.FileID]struct{}{}, promised: map[volume.ID]bool{}, acks: map[string]int{},
	}
}

func (h *history) tellLocked(format string, args ...any) {
	h.story = append(h.story, fmt.Sprintf("%9.3fs ", time.Since(h.began).Seconds())+fmt.Sprintf(format, args...))
}

func (h *history) tell(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tellLocked(format, args...)
}

func (h *history) failLocked(format string, args ...any) {
	if h.broken == nil {
		h.broken = fmt.Errorf(format, args...)
		h.tellLocked("BROKEN: %v", h.broken)
		close(h.stopped)
	}
}

func (h *history) fail(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failLocked(format, args...)
}

// Write takes the log of the masters.
func (h *history) Write(b []byte) (int, error) {
	h.tell("%s", strings.TrimSpace(string(b)))
	return len(b), nil
}

// wrote sees every entry that gets into any log. One term has one leader, so two
// entries of one index and term are the same.
func (h *history) wrote(l *raft.Log) {
	h.mu.Lock()
	defer h.mu.Unlock()
	key, is := [2]uint64{l.Index, l.Term}, fmt.Sprintf("%v %s %v", l.Type, l.Data, l.AppendedAt.UnixNano())
	if was, ok := h.entries[key]; ok && was != is {
		h.failLocked("entry %d of term %d is %.100q in one log and %.100q in another", l.Index, l.Term, was, is)
	}
	h.entries[key] = is
}

// leads notes that somebody has the lead in a term of raft.
func (h *history) leads(term, who string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if was := h.terms[term]; was != "" && was != who {
		h.failLocked("term %s is led by %s and by %s", term, was, who)
	}
	h.terms[term] = who
	h.tellLocked("%s leads term %s", who, term)
}

// applied notes that a master applied command number seq, the first is 1.
func (h *history) applied(who string, seq int, command []byte, next *catalog.Catalog, res catalog.Result) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case seq <= len(h.commands):
		if was := h.commands[seq-1]; !bytes.Equal(was, command) {
			h.failLocked("%s has %.200s as command %d, where another has %.200s", who, command, seq, was)
		}
		return
	case seq > len(h.commands)+1:
		h.failLocked("%s has applied command %d before anybody had command %d", who, seq, len(h.commands)+1)
		return
	}
	h.commands = append(h.commands, command)
	h.judgeLocked(h.cats[len(h.cats)-1], next, res)
	h.cats = append(h.cats, next)
}

// judgeLocked looks whether a step of the catalog keeps the rules.
func (h *history) judgeLocked(old, next *catalog.Catalog, res catalog.Result) {
	if next.Ceiling() < old.Ceiling() || next.MaxVolume() < old.MaxVolume() {
		h.failLocked("R1: the ceiling of keys went from %d to %d, the highest volume from %d to %d", old.Ceiling(), next.Ceiling(), old.MaxVolume(), next.MaxVolume())
	}
	for _, e := range next.Volumes() {
		was, ok := old.Volume(e.Volume)
		switch {
		case ok && !reflect.DeepEqual(was, e):
			h.judgeEntryLocked(was, e)
		case !ok && h.used[e.Volume]:
			h.failLocked("R1: volume %d is made a second time", e.Volume)
		}
		h.used[e.Volume] = true
	}
}

func (h *history) judgeEntryLocked(was, e *volume.Entry) {
	fail := func(rule string) { h.failLocked("%s: volume %d went from %+v to %+v", rule, e.Volume, *was, *e) }
	sets := was.Primary != e.Primary || was.Generation != e.Generation || !slices.Equal(was.InSync, e.InSync)
	switch {
	case e.Version <= was.Version || e.Epoch < was.Epoch:
		fail("versions and epochs only rise")
	case sets && e.Epoch != was.Epoch+1:
		fail("other sets are another epoch")
	case !slices.ContainsFunc(was.InSync, func(o volume.Holder) bool { return o.Node == e.Primary && slices.Contains(e.InSync, o) }):
		fail("R7, R8: the primary was in sync before, and is")
	}
	for _, o := range e.InSync {
		if !slices.Contains(was.InSync, o) && (!slices.Contains(was.Joining, o) || was.Primary != e.Primary) {
			fail("R9: a copy that is new in sync was joining, and the primary added it")
		}
	}
}

// granted notes that a caller was given a block of keys.
func (h *history) granted(who string, b catalog.Block) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for from, to := range h.blocks {
		if b.From < to && from < b.To {
			h.failLocked("R1: %s was given keys %d to %d, and %d to %d were given out before", who, b.From, b.To, from, to)
		}
	}
	h.blocks[b.From] = b.To
	h.acks["blocks"]++
}

// assigned notes that a client was given a file id.
func (h *history) assigned(who string, id volume.FileID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	id.Cookie = 0
	if _, twice := h.ids[id]; twice {
		h.failLocked("R1: %s gave out %d,%x a second time", who, id.Volume, id.Key)
	}
	h.ids[id] = struct{}{}
	h.acks["ids"]++
}

// promise notes that somebody was told of a volume that it is there.
func (h *history) promise(id volume.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.cats[len(h.cats)-1]
	if _, ok := now.Volume(id); !ok && !now.Deleted(id) {
		h.failLocked("volume %d was promised, and never was decided", id)
	}
	h.promised[id] = true
	h.acks["volumes"]++
}

// known gives a volume that somebody was told is there, 0 for none.
func (h *history) known(pick func(int) int) volume.ID {
	h.mu.Lock()
	defer h.mu.Unlock()
	var ids []volume.ID
	for id := range h.promised {
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return 0
	}
	slices.Sort(ids)
	return ids[pick(len(ids))]
}

// denied notes that a leader says that there is no such volume, of one that was
// promised before the question.
func (h *history) denied(who string, id volume.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.cats[len(h.cats)-1].Deleted(id) {
		h.failLocked("%s leads and says that there is no volume %d, of which somebody knows", who, id)
	}
}

// newest is the catalog after all that is committed.
func (h *history) newest() (*catalog.Catalog, int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cats[len(h.cats)-1], len(h.commands)
}

func (h *history) at(seq int) *catalog.Catalog {
	h.mu.Lock()
	defer h.mu.Unlock()
	if seq >= len(h.cats) {
		h.failLocked("a snapshot has %d commands, where %d are committed", seq, len(h.commands))
		return h.cats[len(h.cats)-1]
	}
	return h.cats[seq]
}

func (h *history) verdict() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.broken
}

func (h *history) count(what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.acks[what]++
}
