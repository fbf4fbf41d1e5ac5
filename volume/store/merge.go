package store

import (
	"fmt"
	"strings"

	"weedd/volume"
)

// SurveyRow is the newest state of one key in a foreign volume.
type SurveyRow struct {
	Key    volume.Key
	Time   uint64        // append time, ns since 1970; 0 if not known, as in versions 1 and 2
	Offset int64         // of the record in .dat; 0 for a deletion without one
	Size   int32         // of the record's body; -1 for a deletion
	Cookie volume.Cookie // 0 if not known
	Sum    uint32        // checksum as stored: of the data, or in a deletion of what it deleted
	Body   uint32        // CRC-32C of the record's body, which has name, type and times beside the data
}

// Deleted reports whether the key is deleted.
func (r SurveyRow) Deleted() bool { return r.Size < 0 }

// same reports whether two rows mean the same content, by its checksum. Two copies
// of one upload may differ in the rest.
func (r SurveyRow) same(o SurveyRow) bool {
	return r.Deleted() && o.Deleted() || r.Size == o.Size && r.Sum == o.Sum
}

// Pick is a record of a merged volume: the row of one of its sources.
type Pick struct {
	Source int
	SurveyRow
}

// MergeError lists why copies of a volume cannot be merged. It is
// volume.ErrExists: there are two answers to one question.
type MergeError struct {
	Conflicts []string // the first few
	More      int
}

const maxConflicts = 10

func (e *MergeError) add(key volume.Key, why string) {
	if len(e.Conflicts) == maxConflicts {
		e.More++
		return
	}
	e.Conflicts = append(e.Conflicts, fmt.Sprintf("key %x: %s", uint64(key), why))
}

func (e *MergeError) Error() string {
	s := "copies contradict each other: " + strings.Join(e.Conflicts, "; ")
	if e.More > 0 {
		s += fmt.Sprintf("; and %d keys more", e.More)
	}
	return s
}

// Is makes a MergeError a volume.ErrExists.
func (e *MergeError) Is(target error) bool { return target == volume.ErrExists }

// Merge joins surveys of copies of one volume, each sorted by key, into the rows
// of one (rule R16), sorted by key. The newest append time wins, deletions
// included; where times do not tell, what is there is kept. Of equal bodies
// that of the first source is taken. kept are the keys that some source does not
// know or has deleted at a time that does not tell: they may come back from a
// delete, and should be listed.
//
// It fails with a *MergeError if a key has two cookies, or two contents and no
// times to tell which is newer.
func Merge(sources ...[]SurveyRow) (picks []Pick, kept []volume.Key, err error) {
	var conflicts MergeError
	at := make([]int, len(sources))
	for {
		var group []Pick // the rows of the lowest key
		for i, rows := range sources {
			if at[i] == len(rows) {
				continue
			}
			r := rows[at[i]]
			if len(group) > 0 && r.Key > group[0].Key {
				continue
			}
			if len(group) > 0 && r.Key < group[0].Key {
				group = group[:0]
			}
			group = append(group, Pick{i, r})
		}
		if len(group) == 0 {
			break
		}
		for _, p := range group {
			at[p.Source]++
		}
		best, doubt, why := newest(group)
		if why != "" {
			conflicts.add(best.Key, why)
			continue
		}
		picks = append(picks, best)
		if !best.Deleted() && (doubt || len(group) < len(sources)) {
			kept = append(kept, best.Key)
		}
	}
	if len(conflicts.Conflicts) > 0 {
		return nil, nil, &conflicts
	}
	return picks, kept, nil
}

// newest decides between the rows of one key, in the order of their sources. why
// says that it cannot; doubt says that it kept what was perhaps deleted.
func newest(group []Pick) (best Pick, doubt bool, why string) {
	best = group[0]
	var cookie volume.Cookie
	for _, p := range group {
		if c := p.cookie(); c != 0 {
			if cookie != 0 && c != cookie {
				return best, false, fmt.Sprintf("cookies %08x and %08x", uint32(cookie), uint32(c))
			}
			cookie = c
		}
	}
	var last uint64
	for _, p := range group {
		last = max(last, p.Time)
	}
	live, deleted := -1, -1 // of those that may be the newest
	for i, p := range group {
		switch {
		case p.Time != last && p.Time != 0:
		case p.Deleted() && (deleted < 0 || p.Time > group[deleted].Time):
			deleted = i
		case p.Deleted():
		case live < 0:
			live = i
		case !p.same(group[live].SurveyRow):
			return best, false, "two contents, and no append times to tell which is newer"
		}
	}
	if live < 0 {
		return group[deleted], false, ""
	}
	best = group[live]
	for _, p := range group { // any record of those bytes will do: the first needs the least fetching
		if p.same(best.SurveyRow) && p.Body == best.Body && !p.Deleted() {
			return p, deleted >= 0, ""
		}
	}
	return best, deleted >= 0, ""
}

// cookie is the cookie of the file, 0 if the record does not tell: deletions
// without a cookie check have none, and a compaction of SeaweedFS makes one up for
// records without data.
func (p Pick) cookie() volume.Cookie {
	if p.Size <= 0 && p.Cookie == vacuumCookie {
		return 0
	}
	return p.Cookie
}
