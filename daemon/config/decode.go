package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"weedd/cluster"
	"weedd/volume"
)

var roleNames = []string{"master", "volume"}

var errDisks = fmt.Errorf("each disk is a table; write [[%s]] and below it path = %q", disksKey, "/srv/weedd")

// decode turns a value of the file (string, int64, float64, bool, []any, or
// badValue) into the type of the key. It knows nothing of other keys.
func (k key) decode(v any) (any, error) {
	if list, ok := v.([]any); ok {
		return k.decodeList(list)
	}
	switch k.field(new(Config)).(type) {
	case *bool:
		if b, ok := v.(bool); ok {
			return b, nil
		}
		return nil, fmt.Errorf("%s; write true or false", show(v))
	case *int:
		return k.decodeInt(v)
	case *Share:
		switch n := v.(type) {
		case int64:
			return Share(n), nil
		case float64:
			return Share(n), nil
		}
		return nil, fmt.Errorf("%s is no number; write one without quotes, as in %s", show(v), k.example())
	case *Listen:
		if n, ok := v.(int64); ok {
			v = strconv.FormatInt(n, 10)
		}
		if s, ok := v.(string); ok && k.optional && s == "0" {
			return Listen{}, nil
		} else if ok {
			return parseListen(s)
		}
		return nil, fmt.Errorf(`%s is no port; write a port such as 9333, or "address:port"`, show(v))
	case *[]Disk:
		return nil, errDisks
	case *[]string, *cluster.Role:
		return nil, fmt.Errorf("%s is no list; lists have brackets, as in %s", show(v), k.example())
	}
	s, ok := v.(string)
	if !ok {
		return nil, k.notText(v)
	}
	return k.decodeString(s)
}

func (k key) decodeInt(v any) (any, error) {
	n, ok := v.(int64)
	if !ok {
		return nil, fmt.Errorf("%s is no whole number; write one without quotes, as in %s", show(v), k.example())
	}
	switch {
	case k.max != maxPort:
	case n == 0:
		return nil, errPortZero
	case n < 0 || n > maxPort:
		return nil, fmt.Errorf("%d is no port; ports are numbers from 1 to 65535", n)
	}
	if int64(int32(n)) != n {
		return nil, fmt.Errorf("%d is out of range", n)
	}
	return int(n), nil
}

// notText is the complaint about a value that should have been in quotes.
func (k key) notText(v any) error {
	_, number := v.(int64)
	switch k.field(new(Config)).(type) {
	case *time.Duration:
		if number {
			return fmt.Errorf(`%s: durations need a unit, as in "%ds"`, show(v), v)
		}
		return fmt.Errorf(`%s is no duration; write one in quotes and with a unit, as in %s`, show(v), k.example())
	case *Size:
		if number {
			return fmt.Errorf(`%s: sizes need a unit, as in "%dMiB"`, show(v), v)
		}
		return fmt.Errorf(`%s is no size; write one in quotes and with a unit, as in %s`, show(v), k.example())
	case *volume.Placement:
		return fmt.Errorf(`%s is no replication code; write three digits in quotes, as in "001"`, show(v))
	}
	return fmt.Errorf("%s is no text; write it in quotes, as in %s", show(v), k.example())
}

func (k key) decodeString(s string) (any, error) {
	switch k.field(new(Config)).(type) {
	case *time.Duration:
		return parseDuration(s)
	case *Size:
		n, err := ParseSize(s)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", clip(s), err)
		}
		return n, nil
	case *volume.Placement:
		p, err := volume.ParsePlacement(s)
		if err != nil || len(s) != 3 {
			return nil, fmt.Errorf(`%q is no replication code; write three digits in quotes, as in "001"`, clip(s))
		}
		return p, nil
	}
	return s, nil
}

func (k key) decodeList(list []any) (any, error) {
	switch k.field(new(Config)).(type) {
	case *[]string, *cluster.Role:
	case *[]Disk:
		return nil, errDisks
	default:
		return nil, fmt.Errorf("is a list; write one value without brackets, as in %s", k.example())
	}
	words := make([]string, len(list))
	for i, v := range list {
		s, ok := v.(string)
		if !ok {
			return nil, fmt.Errorf("%s is no text; write each in quotes, as in %s", show(v), k.example())
		}
		words[i] = s
	}
	return k.decodeWords(words)
}

func (k key) decodeWords(words []string) (any, error) {
	if _, ok := k.field(new(Config)).(*cluster.Role); ok {
		return parseRoles(words)
	}
	if len(words) == 0 {
		return []string(nil), nil // so that an empty list equals the default
	}
	return words, nil
}

// decodeText turns the text of an environment variable into the type of the
// key. Lists are separated by commas.
func (k key) decodeText(s string) (any, error) {
	switch k.field(new(Config)).(type) {
	case *bool:
		if s == "true" || s == "false" {
			return s == "true", nil
		}
		return nil, fmt.Errorf("%q; write true or false", clip(s))
	case *int:
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%q is no whole number", clip(s))
		}
		return k.decodeInt(n)
	case *Share:
		n, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return nil, fmt.Errorf("%q is no number", clip(s))
		}
		return Share(n), nil
	case *[]string, *cluster.Role:
		return k.decodeWords(splitList(s))
	case *[]Disk:
		var disks []Disk
		for _, word := range splitList(s) {
			d, err := parseDisk(word)
			if err != nil {
				return nil, err
			}
			disks = append(disks, d)
		}
		return disks, nil
	}
	return k.decode(s)
}

func splitList(s string) []string {
	var words []string
	for word := range strings.SplitSeq(s, ",") {
		if word = strings.TrimSpace(word); word != "" {
			words = append(words, word)
		}
	}
	return words
}

// parseDuration wants a unit even for 0, so that nobody has to know which bare
// numbers are taken.
func parseDuration(s string) (any, error) {
	if _, err := strconv.ParseFloat(s, 64); err == nil {
		return nil, fmt.Errorf(`%q: durations need a unit, as in "%ss"`, clip(s), clip(s))
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return nil, fmt.Errorf(`%q is no duration; write it as in "300ms", "5s", "10m" or "1h30m"`, clip(s))
	}
	return d, nil
}

func parseRoles(words []string) (any, error) {
	var roles cluster.Role
	for _, w := range words {
		switch w {
		case "master":
			roles |= cluster.RoleMaster
		case "volume":
			roles |= cluster.RoleVolume
		default:
			return nil, fmt.Errorf("there is no role %q%s", clip(w), orElse(didYouMean(w, roleNames), "; there are master and volume"))
		}
	}
	return roles, nil
}

var errPortZero = errors.New("0 would be any free port, and nobody could find the node; write a number from 1 to 65535")

// parseListen reads "9333" or "10.0.0.5:9333".
func parseListen(s string) (any, error) {
	host, port := "", s
	if strings.Contains(s, ":") {
		var err error
		if host, port, err = net.SplitHostPort(s); err != nil {
			return nil, fmt.Errorf(`%q is no port; write a port such as 9333, or "address:port"`, clip(s))
		}
	}
	if _, err := netip.ParseAddr(host); host != "" && err != nil {
		return nil, fmt.Errorf("%q is no IP address; write the one to bind, or only the port", clip(host))
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("%q is no port; ports are numbers from 1 to 65535", clip(port))
	}
	if n == 0 {
		return nil, errPortZero
	}
	return Listen{Host: host, Port: int(n)}, nil
}

// splitJoin reads host, host:port, an IPv6 address, or [IPv6]:port. Port 0
// says that there is none.
func splitJoin(s string) (host string, port int, err error) {
	if ip, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return ip.String(), 0, nil
	}
	host = s
	if strings.Contains(s, ":") {
		var text string
		if host, text, err = net.SplitHostPort(s); err != nil || strings.Contains(s, "/") {
			return "", 0, fmt.Errorf("%q is no address; write host or host:port", clip(s))
		}
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 {
			return "", 0, fmt.Errorf("%q: ports are numbers from 1 to 65535", clip(s))
		}
		port = int(n)
	}
	if !isHostName(host) {
		return "", 0, fmt.Errorf("%q is no address; write host or host:port", clip(s))
	}
	return host, port, nil
}

// isHostName says whether s looks like a name or an address of a host.
func isHostName(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	ok := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' || r == '_'
	}
	return s != "" && len(s) <= 253 && strings.IndexFunc(s, func(r rune) bool { return !ok(r) }) < 0
}

// parseDisk reads what Disk.String writes.
func parseDisk(s string) (Disk, error) {
	parts := strings.Split(s, ":")
	d := Disk{Path: parts[0]}
	if len(parts) > 3 {
		return d, fmt.Errorf(`%q is no disk; write path, path:type or path:type:max`, clip(s))
	}
	if len(parts) > 1 {
		t, err := volume.ParseDiskType(parts[1])
		if err != nil {
			return d, fmt.Errorf("%q is no type of disk; write hdd, ssd or a word of yours", clip(parts[1]))
		}
		d.Type = t
	}
	if len(parts) > 2 {
		n, err := strconv.ParseUint(parts[2], 10, 31)
		if err != nil {
			return d, fmt.Errorf("%q: the third part is the most volumes, a whole number", clip(s))
		}
		d.Max = int(n)
	}
	return d, nil
}

// badValue is a value of the file that no key takes, such as a date.
type badValue string

// show prints a value of the file for a complaint.
func show(v any) string {
	switch v := v.(type) {
	case string:
		return strconv.Quote(clip(v))
	case badValue:
		return string(v)
	case []any:
		return "a list"
	}
	return fmt.Sprint(v)
}

func clip(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "?") + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
