package config

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"weedd/volume"
)

// A scan is one reading of the file, key by key, with the line of each: what
// viper cannot tell. Values are in their final types.
type scan struct {
	file       string
	parser     unstable.Parser
	values     map[string]any
	lines      map[string]int // of each key and section in the file, and of disks as "volume.disks[0]"
	disks      []diskTable
	complaints []Complaint
	broken     bool // the syntax is wrong, so that what follows has not been seen
}

type diskTable struct {
	Disk
	line int
	seen map[string]int // lines of its keys
}

func scanFile(file string, data []byte) *scan {
	s := &scan{file: file, values: map[string]any{}, lines: map[string]int{}}
	s.parser.Reset(data)
	var put func(path []string, line int, v *unstable.Node) = s.put
	section := []string{}
	for s.parser.NextExpression() {
		n := s.parser.Expression()
		path, line := s.path(n.Key())
		switch n.Kind {
		case unstable.Table:
			section, put = path, s.table(path, line)
		case unstable.ArrayTable:
			section, put = path, s.arrayTable(path, line)
		case unstable.KeyValue:
			put(slices.Concat(section, path), line, n.Value())
		}
	}
	s.checkSyntax(data)
	s.finishDisks()
	return s
}

// checkSyntax complains about what is no TOML. Rules that span the file, such
// as tables defined in two ways, are left to the TOML library; it is asked only
// when nothing said twice was found, for it would name that first.
func (s *scan) checkSyntax(data []byte) {
	if err := s.parser.Error(); err != nil {
		s.broken = true
		line := 0
		var pe *unstable.ParserError
		if errors.As(err, &pe) {
			line = lineOf(data, pe.Highlight)
		}
		s.complain(line, "", "not TOML: %s; what follows has not been read", strings.TrimPrefix(err.Error(), "toml: "))
		return
	}
	var any map[string]any
	err := toml.Unmarshal(data, &any)
	if err == nil || slices.ContainsFunc(s.complaints, func(c Complaint) bool { return strings.HasPrefix(c.Text, "said twice") }) {
		return
	}
	s.broken = true
	line := 0
	var de *toml.DecodeError
	if errors.As(err, &de) {
		line, _ = de.Position()
	}
	s.complain(line, "", "not TOML: %s", strings.TrimPrefix(err.Error(), "toml: "))
}

// lineOf gives the line of a slice of data, the last line for any other slice.
func lineOf(data, part []byte) int {
	at := cap(data) - cap(part)
	if at < 0 || at > len(data) || part == nil {
		at = len(data)
	}
	return 1 + bytes.Count(data[:at], []byte("\n"))
}

func (s *scan) complain(line int, key, format string, args ...any) {
	s.complaints = append(s.complaints, Complaint{s.place(line), key, fmt.Sprintf(format, args...), line})
}

func (s *scan) place(line int) string {
	if line == 0 {
		return s.file
	}
	return s.file + ":" + strconv.Itoa(line)
}

func (s *scan) path(it unstable.Iterator) (path []string, line int) {
	for it.Next() {
		n := it.Node()
		if line == 0 {
			line = s.parser.Shape(n.Raw).Start.Line
		}
		path = append(path, string(n.Data))
	}
	return path, line
}

// once complains if name is in the file already.
func (s *scan) once(name string, line int) bool {
	if first, ok := s.lines[name]; ok {
		s.complain(line, name, "said twice, first in line %d; remove one", first)
		return false
	}
	s.lines[name] = line
	return true
}

// ignore takes the keys of a section that has been complained about already.
func (s *scan) ignore([]string, int, *unstable.Node) {}

// table takes a header such as [master] and gives what takes the keys below it.
func (s *scan) table(path []string, line int) func([]string, int, *unstable.Node) {
	name := strings.Join(path, ".")
	switch {
	case isSection(name):
		s.once(name, line)
		return s.put
	case name == disksKey:
		s.complain(line, name, "each disk is a table of a list; write [[%s]]", disksKey)
		return s.ignore
	}
	if _, ok := findKey(name); ok {
		s.complain(line, name, "is a key, not a section; write %s = … below [%s]", path[len(path)-1], strings.Join(path[:len(path)-1], "."))
	} else {
		s.complain(line, name, "unknown section%s", orElse(didYouMean(name, sectionNames()), "; there are "+strings.Join(sectionNames(), ", ")))
	}
	return s.ignore
}

// arrayTable does the same for [[volume.disks]].
func (s *scan) arrayTable(path []string, line int) func([]string, int, *unstable.Node) {
	name := strings.Join(path, ".")
	if name == disksKey {
		if _, ok := s.lines[disksKey]; ok { // disks = [...] before
			s.once(name, line)
			return s.ignore
		}
		s.disks = append(s.disks, diskTable{line: line, seen: map[string]int{}})
		return func(p []string, line int, v *unstable.Node) { s.putDisk(strings.Join(p[len(path):], "."), line, v) }
	}
	if isSection(name) {
		s.complain(line, name, "is a section, not a list; write [%s]", name)
	} else {
		s.complain(line, name, "unknown list%s", orElse(didYouMean(name, []string{disksKey}), "; the only list of tables is [["+disksKey+"]]"))
	}
	return s.ignore
}

// put takes a key with its value.
func (s *scan) put(path []string, line int, v *unstable.Node) {
	name := strings.Join(path, ".")
	k, known := findKey(name)
	switch {
	case isSection(name) && v.Kind == unstable.InlineTable: // log = { level = "warn" }
		s.once(name, line)
		s.inline(v, func(sub []string, line int, v *unstable.Node) { s.put(slices.Concat(path, sub), line, v) })
	case isSection(name):
		s.complain(line, name, "is a section; write [%s] and its keys below", name)
	case !known:
		s.complain(line, name, "unknown key%s", hintForKey(path))
	case !s.once(name, line):
	case name == disksKey && s.putDisks(v):
	default:
		s.markSection(k, line)
		value, err := k.decode(literal(v))
		if err != nil {
			s.complain(line, name, "%v", err)
			return
		}
		s.values[name] = value
	}
}

// markSection notes a section that is there by dotted keys alone.
func (s *scan) markSection(k key, line int) {
	if _, ok := s.lines[k.section()]; !ok && k.section() != "" {
		s.lines[k.section()] = line
	}
}

func (s *scan) inline(v *unstable.Node, put func([]string, int, *unstable.Node)) {
	for it := v.Children(); it.Next(); {
		path, line := s.path(it.Node().Key())
		put(path, line, it.Node().Value())
	}
}

// putDisks takes disks = [{ path = … }, …]. False: it is something else.
func (s *scan) putDisks(v *unstable.Node) bool {
	if v.Kind != unstable.Array || !v.Child().Valid() {
		return false
	}
	for it := v.Children(); it.Next(); {
		if it.Node().Kind != unstable.InlineTable {
			return false
		}
	}
	line := s.lines[disksKey]
	for it := v.Children(); it.Next(); {
		s.disks = append(s.disks, diskTable{line: line, seen: map[string]int{}})
		s.inline(it.Node(), func(p []string, line int, v *unstable.Node) { s.putDisk(strings.Join(p, "."), line, v) })
	}
	return true
}

// putDisk takes a key of the disk begun last.
func (s *scan) putDisk(name string, line int, v *unstable.Node) {
	d := &s.disks[len(s.disks)-1]
	full := disksKey + "." + name
	if !slices.Contains(diskKeys, name) {
		s.complain(line, full, "unknown key%s", orElse(didYouMean(name, diskKeys), "; a disk has path, type and max"))
		return
	}
	if first, ok := d.seen[name]; ok {
		s.complain(line, full, "said twice, first in line %d; every disk begins with its own [[%s]]", first, disksKey)
		return
	}
	d.seen[name] = line
	value := literal(v)
	text, isText := value.(string)
	n, isInt := value.(int64)
	switch {
	case name == "max" && isInt && n >= 0 && n <= 1<<31-1:
		d.Max = int(n)
	case name == "max":
		s.complain(line, full, "%s is no number of volumes; write a whole number, 0 for as many as fit", show(value))
	case !isText:
		s.complain(line, full, "%s is no text; write it in quotes", show(value))
	case name == "path":
		d.Path = text
	default:
		t, err := volume.ParseDiskType(text)
		if err != nil {
			s.complain(line, full, "%s is no type of disk; write hdd, ssd or a word of yours", show(value))
		}
		d.Type = t
	}
}

func (s *scan) finishDisks() {
	if len(s.disks) == 0 {
		return
	}
	disks := make([]Disk, len(s.disks))
	for i, d := range s.disks {
		disks[i] = d.Disk
		s.lines[fmt.Sprintf("%s[%d]", disksKey, i)] = d.line
		if _, ok := d.seen["path"]; !ok {
			s.complain(d.line, disksKey, "this disk has no path; write path = %q", "/srv/weedd")
		}
	}
	if _, ok := s.lines[disksKey]; !ok {
		s.lines[disksKey] = s.disks[0].line
	}
	k, _ := findKey(disksKey)
	s.markSection(k, s.disks[0].line)
	s.values[disksKey] = disks
}

// literal gives the Go value of a value in the file.
func literal(n *unstable.Node) any {
	switch n.Kind {
	case unstable.String:
		return string(n.Data)
	case unstable.Bool:
		return string(n.Data) == "true"
	case unstable.Integer:
		text := strings.ReplaceAll(string(n.Data), "_", "")
		if i, err := strconv.ParseInt(text, 0, 64); err == nil {
			return i
		}
		return badValue(clip(text))
	case unstable.Float:
		text := strings.ReplaceAll(string(n.Data), "_", "")
		if f, err := strconv.ParseFloat(text, 64); err == nil {
			return f
		}
		return badValue(clip(text))
	case unstable.Array:
		list := []any{}
		for it := n.Children(); it.Next(); {
			if it.Node().Kind != unstable.Comment {
				list = append(list, literal(it.Node()))
			}
		}
		return list
	case unstable.InlineTable:
		return badValue("a table")
	}
	return badValue(clip(string(n.Data))) // dates: no key takes them
}

func isSection(name string) bool { return slices.Contains(sectionNames(), name) }

func sectionNames() []string {
	var names []string
	for _, s := range sections[1:] {
		names = append(names, s.name)
	}
	return names
}

// seaweedNames are flags of SeaweedFS and the keys that do the same.
var seaweedNames = map[string]string{
	"ip": "address", "mdir": "data", "dir": disksKey, "peers": "gossip.join", "mserver": "gossip.join", "master": "gossip.join",
	"publicurl": "volume.public_url", "port": "master.http or volume.http", "volumesizelimitmb": "master.volume_size_limit",
	"filesizelimitmb": "limits.file_size", "readmode": "volume.read_mode", "defaultreplication": "master.default_replication",
	"garbagethreshold": "master.garbage_threshold",
}

// hintForKey guesses what an unknown key was meant to be: the same word in
// another section, a word that looks alike, or one that SeaweedFS uses.
func hintForKey(path []string) string {
	last := path[len(path)-1]
	var same []string
	for _, k := range keys {
		if k.short() == last {
			same = append(same, k.name)
		}
	}
	switch name := strings.Join(path, "."); {
	case len(same) > 0:
		return "; did you mean " + strings.Join(same, " or ") + "?"
	case seaweedNames[strings.ToLower(last)] != "":
		return "; here it is " + seaweedNames[strings.ToLower(last)]
	default:
		return orElse(didYouMean(name, Keys()), "; `weedd config default` shows all keys")
	}
}
