package volumehttp

import (
	"net/http"
	"strings"
	"time"
)

// validators are what conditional requests compare with.
type validators struct {
	tag      string    // quoted; always strong
	modified time.Time // zero when not known
}

// check evaluates the preconditions of a GET or HEAD in the order of RFC 9110,
// section 13.2.2. It gives 0 to go on, 304 or 412.
func (v validators) check(h http.Header) int {
	if fields := h["If-Match"]; fields != nil {
		if !v.matches(fields, false) {
			return http.StatusPreconditionFailed
		}
	} else if since, ok := date(h, "If-Unmodified-Since"); ok && v.after(since) {
		return http.StatusPreconditionFailed
	}
	if fields := h["If-None-Match"]; fields != nil {
		if v.matches(fields, true) {
			return http.StatusNotModified
		}
	} else if since, ok := date(h, "If-Modified-Since"); ok && !v.modified.IsZero() && !v.after(since) {
		return http.StatusNotModified
	}
	return 0
}

// after reports whether the file changed after t. Both have whole seconds.
func (v validators) after(t time.Time) bool {
	return !v.modified.IsZero() && v.modified.After(t)
}

// date reads a date; one that cannot be read counts as not sent.
func date(h http.Header, name string) (time.Time, bool) {
	fields := h[name]
	if len(fields) != 1 {
		return time.Time{}, false
	}
	t, err := http.ParseTime(fields[0])
	return t, err == nil
}

// matches reports whether a list of tags has ours, or is "*". A weak tag matches
// only if weak ones will do.
func (v validators) matches(fields []string, weak bool) bool {
	for _, list := range fields {
		for list = strings.TrimLeft(list, " \t,"); list != ""; list = strings.TrimLeft(list, " \t,") {
			if list[0] == '*' {
				return true
			}
			tag, rest, isWeak := nextTag(list)
			if tag == "" {
				break // not a tag: nothing after it can be trusted
			}
			if tag == v.tag && (weak || !isWeak) {
				return true
			}
			list = rest
		}
	}
	return false
}

// nextTag cuts the first tag, with its quotes, off a list; "" if there is none.
func nextTag(list string) (tag, rest string, weak bool) {
	list, weak = strings.CutPrefix(list, "W/")
	if len(list) < 2 || list[0] != '"' {
		return "", "", weak
	}
	end := strings.IndexByte(list[1:], '"')
	if end < 0 {
		return "", "", weak
	}
	return list[:end+2], list[end+2:], weak
}

// sameSince evaluates If-Range: whether a client that has a part of the file may
// be given more of the same. Only a strong tag, or the exact date, will do.
func (v validators) sameSince(h http.Header) bool {
	fields := h["If-Range"]
	if fields == nil {
		return true
	}
	if len(fields) != 1 {
		return false
	}
	if tag, rest, weak := nextTag(fields[0]); tag != "" {
		return tag == v.tag && rest == "" && !weak
	}
	t, err := http.ParseTime(fields[0])
	return err == nil && !v.modified.IsZero() && v.modified.Equal(t)
}
