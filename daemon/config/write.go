package config

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"weedd/cluster"
	"weedd/volume"
)

// Write prints the configuration as a file that says the same, each value that
// is no default with a remark where it comes from.
func (l Loaded) Write(w io.Writer) error {
	var b bytes.Buffer
	for _, sec := range sections {
		if sec.role != 0 && !l.Has(sec.role) {
			continue
		}
		if sec.name != "" {
			fmt.Fprintf(&b, "\n[%s]\n", sec.name)
		}
		for _, k := range keys {
			if k.section() == sec.name {
				l.writeKey(&b, k)
			}
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

func (l Loaded) writeKey(b *bytes.Buffer, k key) {
	remark := ""
	if from, ok := l.origins[k.name]; ok {
		remark = "  # " + from
	}
	disks, ok := k.value(l.Config).([]Disk)
	if !ok {
		fmt.Fprintf(b, "%s = %s%s\n", k.short(), literalOf(k.value(l.Config)), remark)
		return
	}
	for _, d := range disks {
		fmt.Fprintf(b, "\n[[%s]]%s\npath = %s\ntype = %s\nmax = %d\n", k.name, remark, quote(d.Path), quote(typeName(d.Type)), d.Max)
	}
}

// WriteDefault prints a file that explains every key, with its default. Keys
// that keep their default are commented out, so that a later version may change it.
func WriteDefault(w io.Writer) error {
	var b bytes.Buffer
	b.WriteString(`# Configuration of weedd, read by: weedd run --config FILE
#
# A line that begins with # and a name shows a default; remove the # to change it.
# Every key can be overridden by a variable, such as WEEDD_MASTER_HTTP for http
# below [master]; lists are separated by commas there. "weedd config check" tells
# what is wrong with a file, "weedd config show" what is in force. Keys marked
# (live) change without a restart: edit, then send SIGHUP.
`)
	for _, sec := range sections {
		if sec.name != "" {
			fmt.Fprintf(&b, "\n%s[%s]\n", comment(sec.doc), sec.name)
		}
		for _, k := range keys {
			if k.section() == sec.name {
				b.WriteString(k.defaultLines(sec.live))
			}
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

func (k key) defaultLines(said bool) string {
	doc := k.doc
	if k.live && !said {
		doc += " (live)"
	}
	s := comment(doc)
	if s != "" && k.section() == "" || k.name == disksKey {
		s = "\n" + s
	}
	switch {
	case k.name == disksKey:
		return s + "#[[" + disksKey + "]]\n#path = \"/srv/weedd\"\n#type = \"hdd\"\n#max = 0\n"
	case k.required:
		return s + k.short() + " = " + k.sample + "\n"
	}
	return s + "#" + k.short() + " = " + k.example() + "\n"
}

func comment(text string) string {
	if text == "" {
		return ""
	}
	return "# " + strings.ReplaceAll(text, "\n", "\n# ") + "\n"
}

// example is a good value of the key, as it stands in the file.
func (k key) example() string {
	if k.sample != "" {
		return k.sample
	}
	return literalOf(k.value(Default()))
}

// literalOf writes a value of any key as TOML.
func literalOf(v any) string {
	switch v := v.(type) {
	case bool:
		return strconv.FormatBool(v)
	case int:
		return strconv.Itoa(v)
	case Share:
		return v.String()
	case time.Duration:
		return quote(duration(v))
	case Listen:
		if v.Host == "" {
			return strconv.Itoa(v.Port)
		}
		return quote(v.String())
	case cluster.Role:
		return list(strings.FieldsFunc(v.String(), func(r rune) bool { return r == '+' }))
	case []string:
		return list(v)
	case string:
		return quote(v)
	case fmt.Stringer: // Size, Placement
		return quote(v.String())
	}
	return quote(fmt.Sprint(v))
}

func list(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = quote(w)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// quote writes a basic string of TOML. Go's escapes \x, \a and \v are unknown
// there.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// duration leaves out the zeros that Duration.String puts: 10m, not 10m0s.
func duration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func typeName(t volume.DiskType) string {
	if t == "" {
		return "hdd"
	}
	return string(t)
}
