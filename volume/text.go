package volume

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Key is the number of a file within the whole cluster.
type Key uint64

// Cookie is a random number that makes file ids unguessable.
type Cookie uint32

// FileID names a stored file. Its text form is "<volume>,<key><cookie>", in hex,
// the cookie always 8 digits, the key without leading zero bytes:
// "7,1f9a03c2b1".
type FileID struct {
	Volume ID
	Key    Key
	Cookie Cookie
}

func (f FileID) String() string {
	return f.Volume.String() + "," + FormatKeyCookie(f.Key, f.Cookie)
}

// FormatKeyCookie gives the part of a file id after the comma. Key 0 prints as
// one zero byte, so that the text parses back (the format leaves it out).
func FormatKeyCookie(k Key, c Cookie) string {
	s := strconv.FormatUint(uint64(k), 16)
	if len(s)%2 == 1 {
		s = "0" + s
	}
	return s + fmt.Sprintf("%08x", uint32(c))
}

// ParseFileID reads the text form of a file id. It takes what the HTTP API
// takes: upper case, leading zeros, an odd number of key digits, and a suffix
// "_N" that adds N to the key. Errors are ErrBadRequest.
func ParseFileID(s string) (FileID, error) {
	vid, rest, ok := strings.Cut(s, ",")
	if !ok {
		return FileID{}, fmt.Errorf("%w: file id %q has no comma; it looks like 3,01637037d6", ErrBadRequest, clip(s))
	}
	id, err := ParseID(vid)
	if err != nil {
		return FileID{}, err
	}
	k, c, err := ParseKeyCookie(rest)
	return FileID{Volume: id, Key: k, Cookie: c}, err
}

// ParseKeyCookie reads the part of a file id after the comma, "_N" included.
func ParseKeyCookie(s string) (Key, Cookie, error) {
	hex, suffix, hasDelta := s, "", false
	if i := strings.LastIndexByte(s, '_'); i >= 0 {
		hex, suffix, hasDelta = s[:i], s[i+1:], true
	}
	if len(hex) <= 8 {
		return 0, 0, fmt.Errorf("%w: Invalid fid: %s: needs more than 8 hex digits", ErrBadRequest, clip(s))
	}
	if len(hex) > 24 {
		return 0, 0, fmt.Errorf("%w: KeyHash is too long. File id %s has more than 24 hex digits", ErrBadRequest, clip(s))
	}
	key, err := strconv.ParseUint(hex[:len(hex)-8], 16, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("%w: Parse needleId error: %s is not hex", ErrBadRequest, clip(s))
	}
	cookie, err := strconv.ParseUint(hex[len(hex)-8:], 16, 32)
	if err != nil {
		return 0, 0, fmt.Errorf("%w: Parse cookie error: %s is not hex", ErrBadRequest, clip(s))
	}
	if hasDelta && suffix != "" {
		delta, err := strconv.ParseUint(suffix, 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("%w: Invalid fid: %s: _%s is not a number", ErrBadRequest, clip(s), clip(suffix))
		}
		if delta > math.MaxUint64-key {
			return 0, 0, fmt.Errorf("%w: Invalid fid: %s: delta overflows the key", ErrBadRequest, clip(s))
		}
		key += delta
	}
	return Key(key), Cookie(cookie), nil
}

// clip shortens client-sent text so that an error does not repeat a megabyte.
func clip(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "?") + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

// Placement says how many copies a volume has and how far apart: three digits
// xyz, extra copies in other data centers, on other racks of the same data
// center, on other nodes of the same rack. The value is 100x+10y+z.
type Placement byte

// ParsePlacement reads up to three digits, padded with zeros on the left.
func ParsePlacement(s string) (Placement, error) {
	n := 0
	for _, r := range s {
		if r < '0' || r > '9' {
			return 0, fmt.Errorf("%w: unknown replication type: %s; it is three digits such as 001", ErrBadSpec, clip(s))
		}
	}
	if len(s) > 3 {
		return 0, fmt.Errorf("%w: unknown replication type: %s; it is three digits such as 001", ErrBadSpec, clip(s))
	}
	for _, r := range s {
		n = n*10 + int(r-'0')
	}
	if n > 255 {
		return 0, fmt.Errorf("%w: unexpected replication type: %s; at most 255", ErrBadSpec, s)
	}
	return Placement(n), nil
}

func (p Placement) String() string { return fmt.Sprintf("%03d", byte(p)) }

// Digits returns x, y, z.
func (p Placement) Digits() (dcs, racks, nodes int) {
	return int(p) / 100, int(p) / 10 % 10, int(p) % 10
}

// Copies is how many copies are asked for, 1 + x + y + z.
func (p Placement) Copies() int {
	x, y, z := p.Digits()
	return 1 + x + y + z
}

// MarshalText gives the three digits.
func (p Placement) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (p *Placement) UnmarshalText(b []byte) (err error) {
	*p, err = ParsePlacement(string(b))
	return err
}

// TTL is a time to live as stored: a count and a unit. The zero value is none.
type TTL struct {
	Count byte
	Unit  byte // 0 none, 1 minute, 2 hour, 3 day, 4 week, 5 month (30 days), 6 year (365 days)
}

var ttlUnits = [...]struct {
	letter byte
	length time.Duration
}{
	1: {'m', time.Minute},
	2: {'h', time.Hour},
	3: {'d', 24 * time.Hour},
	4: {'w', 7 * 24 * time.Hour},
	5: {'M', 30 * 24 * time.Hour},
	6: {'y', 365 * 24 * time.Hour},
}

// ParseTTL reads a number and a unit letter of m h d w M y; no letter means
// minutes. What does not fit one byte and a unit is rounded up to the next that
// does, never down. Unknown units, negative counts and more than 255 years are
// ErrBadSpec; "" and "0" are no TTL.
func ParseTTL(s string) (TTL, error) {
	if s == "" {
		return TTL{}, nil
	}
	num, unit := s, byte(1)
	if last := s[len(s)-1]; last < '0' || last > '9' {
		num, unit = s[:len(s)-1], 0
		for u := 1; u < len(ttlUnits); u++ {
			if ttlUnits[u].letter == last {
				unit = byte(u)
			}
		}
		if unit == 0 {
			return TTL{}, fmt.Errorf("%w: ttl %q: unknown unit; use m, h, d, w, M or y", ErrBadSpec, clip(s))
		}
	}
	n, err := strconv.ParseUint(num, 10, 32)
	if err != nil {
		return TTL{}, fmt.Errorf("%w: ttl %q: %q is not a number", ErrBadSpec, clip(s), clip(num))
	}
	return fitTTL(n*uint64(ttlUnits[unit].length/time.Minute), s)
}

func fitTTL(minutes uint64, text string) (TTL, error) {
	if minutes == 0 {
		return TTL{}, nil
	}
	per := func(u int) uint64 { return uint64(ttlUnits[u].length / time.Minute) }
	for _, u := range []int{6, 5, 4, 3, 2} { // the largest unit that divides it
		if minutes%per(u) == 0 && minutes/per(u) < 256 {
			return TTL{byte(minutes / per(u)), byte(u)}, nil
		}
	}
	for _, u := range []int{1, 2, 3, 4, 5, 6} { // else the finest that holds it, rounded up
		if n := (minutes + per(u) - 1) / per(u); n < 256 {
			return TTL{byte(n), byte(u)}, nil
		}
	}
	return TTL{}, fmt.Errorf("%w: ttl %q is longer than 255 years", ErrBadSpec, clip(text))
}

// String gives the text form, "" for none.
func (t TTL) String() string {
	if t.Count == 0 || t.Unit == 0 || int(t.Unit) >= len(ttlUnits) {
		return ""
	}
	return strconv.Itoa(int(t.Count)) + string(ttlUnits[t.Unit].letter)
}

// Duration is the length of time, 0 for none.
func (t TTL) Duration() time.Duration {
	if int(t.Unit) >= len(ttlUnits) {
		return 0
	}
	return time.Duration(t.Count) * ttlUnits[t.Unit].length
}

// IsZero reports whether there is no time to live.
func (t TTL) IsZero() bool { return t.Count == 0 || t.Unit == 0 }

// MarshalText gives the text form.
func (t TTL) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads what MarshalText wrote, without fitting it to other units:
// the bytes on disk are used as they are.
func (t *TTL) UnmarshalText(b []byte) error {
	*t = TTL{}
	if len(b) == 0 {
		return nil
	}
	n, err := strconv.ParseUint(string(b[:len(b)-1]), 10, 8)
	if err != nil {
		return fmt.Errorf("%w: ttl %q", ErrBadSpec, clip(string(b)))
	}
	for u := 1; u < len(ttlUnits); u++ {
		if ttlUnits[u].letter == b[len(b)-1] {
			*t = TTL{byte(n), byte(u)}
			return nil
		}
	}
	return fmt.Errorf("%w: ttl %q", ErrBadSpec, clip(string(b)))
}

// ParseCollection checks a collection name: letters, digits, _ . and -, not
// beginning with a dot or an underscore, at most 128 bytes. "" is the default
// collection.
func ParseCollection(s string) (string, error) {
	if len(s) > 128 || strings.HasPrefix(s, ".") || strings.HasPrefix(s, "_") {
		return "", fmt.Errorf("%w: collection %q: at most 128 letters, not beginning with . or _", ErrBadSpec, clip(s))
	}
	for _, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_.-", r)) {
			return "", fmt.Errorf("%w: collection %q: only letters, digits, _ . and -", ErrBadSpec, clip(s))
		}
	}
	return s, nil
}

// ParseDiskType lower-cases the name of a disk type; "hdd" is "".
func ParseDiskType(s string) (DiskType, error) {
	s = strings.ToLower(s)
	if s == "hdd" {
		s = ""
	}
	if _, err := ParseCollection(s); err != nil {
		return "", fmt.Errorf("%w: disk type %q: only letters, digits, _ . and -", ErrBadSpec, clip(s))
	}
	return DiskType(s), nil
}
