package config

import (
	"cmp"
	"slices"
	"strings"
)

// A Complaint is one fault of a configuration, in words for who has to mend it.
type Complaint struct {
	Place string // "weedd.toml:12" or "WEEDD_MASTER_HTTP"; "" for a Config that was not loaded
	Key   string // such as "master.http"; "" when it is about no key
	Text  string // what is wrong, and after a semicolon what to do
	line  int    // for sorting; 0 when it is not a line of the file
}

func (c Complaint) Error() string {
	parts := []string{c.Place, c.Key, c.Text}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ": ")
}

// Error is all that is wrong with a configuration, a line each, in the order of
// the file.
type Error struct {
	Complaints []Complaint
}

func (e *Error) Error() string {
	lines := make([]string, len(e.Complaints))
	for i, c := range e.Complaints {
		lines[i] = c.Error()
	}
	return strings.Join(lines, "\n")
}

// asError gives nil for no complaints. Complaints about lines come first, in
// their order, then the others as they were found.
func asError(cs []Complaint) error {
	if len(cs) == 0 {
		return nil
	}
	slices.SortStableFunc(cs, func(a, b Complaint) int {
		if a.line == 0 || b.line == 0 {
			return cmp.Compare(b.line, a.line) // those with a line first
		}
		return cmp.Compare(a.line, b.line)
	})
	return &Error{cs}
}

// nearest gives the candidate that a mistyped word was probably meant to be.
func nearest(word string, candidates []string) (string, bool) {
	if len(word) > 64 { // no slip of the finger
		return "", false
	}
	best, found := max(2, len(word)/4)+1, ""
	for _, c := range candidates {
		if d := distance(strings.ToLower(word), strings.ToLower(c)); d < best {
			best, found = d, c
		}
	}
	return found, found != ""
}

// didYouMean is the end of a complaint, "" when nothing is near.
func didYouMean(word string, candidates []string) string {
	if s, ok := nearest(word, candidates); ok {
		return "; did you mean " + s + "?"
	}
	return ""
}

// distance counts the letters to insert, delete, replace, or swap with their
// neighbour that lead from a to b.
func distance(a, b string) int {
	var before []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next := make([]int, len(b)+1)
		next[0] = i
		for j := 1; j <= len(b); j++ {
			same := 1
			if a[i-1] == b[j-1] {
				same = 0
			}
			next[j] = min(row[j]+1, next[j-1]+1, row[j-1]+same)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}
