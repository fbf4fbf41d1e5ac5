package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

// parseTables are strings as SeaweedFS parses them.
type parseTables struct {
	TTL         []struct{ In, Stored string }
	TTLErrors   []struct{ In string } `json:"ttl_errors"`
	Replication []struct {
		In                     string
		DC, Rack, Node, Copies int
	}
	ReplicationErrors []struct{ In string } `json:"replication_errors"`
	Fid               []struct {
		In, Cookie, Canonical string
		Vid                   ID
		Key                   Key
	}
}

func readTables(t *testing.T) (p parseTables) {
	t.Helper()
	b, err := os.ReadFile("testdata/parse-tables.json")
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestFileIDsAreReadAsSeaweedFSReadsThem(t *testing.T) {
	t.Parallel()
	for _, c := range readTables(t).Fid {
		id, err := ParseFileID(c.In)
		if err != nil || id.Volume != c.Vid || id.Key != c.Key || fmt.Sprintf("%08x", uint32(id.Cookie)) != c.Cookie || id.String() != c.Canonical {
			t.Errorf("%s: %+v, %v; want %+v", c.In, id, err, c)
		}
		if again, err := ParseFileID(id.String()); err != nil || again != id {
			t.Errorf("%s does not read back: %+v, %v", id, again, err)
		}
	}
}

func TestFileIDsThatAreRefused(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"", "3", "3,", "3,01637037", "3,x1637037d6", "3,0163703xd6", ",01637037d6", "0,01637037d6", "+3,01637037d6",
		"4294967296,01637037d6", "3,0000000000000000001637037d6", "3,01637037d6_x", "3,01637037d6_-1", "3,ffffffffffffffff637037d6_1",
		"3,+1637037d6", "3," + strings.Repeat("1", 1000),
	} {
		if id, err := ParseFileID(s); !errors.Is(err, ErrBadRequest) {
			t.Errorf("%q: %+v, %v", s, id, err)
		} else if len(err.Error()) > 300 {
			t.Errorf("%q: the error has %d bytes", s, len(err.Error()))
		}
	}
}

func TestKeyZeroReadsBack(t *testing.T) {
	t.Parallel()
	id := FileID{Volume: 1, Key: 0, Cookie: 0xa1b2c412}
	if got, err := ParseFileID(id.String()); err != nil || got != id || id.String() != "1,00a1b2c412" {
		t.Fatalf("%s: %+v, %v", id, got, err)
	}
}

func FuzzParseFileID(f *testing.F) {
	for _, s := range []string{"3,01637037d6", "3,01637037D6_7", "4294967295,ffffffffffffffffffffffff", "1,00a1b2c412", "3,_1", "a,b_c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseFileID(s)
		if err != nil {
			return
		}
		if again, err := ParseFileID(id.String()); err != nil || again != id {
			t.Fatalf("%q is %s, which reads as %+v, %v", s, id, again, err)
		}
	})
}

// Placements are as SeaweedFS reads them, but for what it only lets through by
// mistake: more than three characters, and characters that are no digits.
func TestPlacements(t *testing.T) {
	t.Parallel()
	tables := readTables(t)
	for _, c := range tables.Replication {
		p, err := ParsePlacement(c.In)
		if len(c.In) > 3 || strings.Trim(c.In, "0123456789") != "" {
			if !errors.Is(err, ErrBadSpec) {
				t.Errorf("%q: %v, %v", c.In, p, err)
			}
			continue
		}
		x, y, z := p.Digits()
		if err != nil || x != c.DC || y != c.Rack || z != c.Node || p.Copies() != c.Copies {
			t.Errorf("%q: %d %d %d, %d copies, %v; want %+v", c.In, x, y, z, p.Copies(), err, c)
		}
		var again Placement
		if err := again.UnmarshalText([]byte(p.String())); err != nil || again != p {
			t.Errorf("%s reads back as %s, %v", p, again, err)
		}
	}
	for _, c := range tables.ReplicationErrors {
		if p, err := ParsePlacement(c.In); !errors.Is(err, ErrBadSpec) {
			t.Errorf("%q: %v, %v", c.In, p, err)
		}
	}
}

func TestMinCopies(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{"000": 1, "001": 1, "002": 2, "003": 3, "111": 3, "100": 1} {
		p, err := ParsePlacement(text)
		if err != nil || p.MinCopies() != want {
			t.Errorf("%s: %d, want %d, %v", text, p.MinCopies(), want, err)
		}
	}
}

// Times to live are as SeaweedFS reads them where they fit. Where they do not
// it cuts them short; ours are rounded up, so nothing expires early. What it
// takes for no time to live at all is refused.
func TestTTLIsNeverShorterThanAskedFor(t *testing.T) {
	t.Parallel()
	roundedUp := map[string]string{"256m": "5h", "301m": "6h", "256h": "11d", "1000h": "42d", "400d": "58w", "300M": "25y"}
	refused := map[string]bool{"256y": true, "-5m": true, "+5m": true, "5H": true, "5D": true, "5Y": true, "5s": true, "3x": true}
	tables := readTables(t)
	for _, c := range tables.TTL {
		got, err := ParseTTL(c.In)
		want := c.Stored
		if up, ok := roundedUp[c.In]; ok {
			want = up
		}
		if refused[c.In] {
			if !errors.Is(err, ErrBadSpec) {
				t.Errorf("%q: %v, %v; want an error", c.In, got, err)
			}
			continue
		}
		if err != nil || got.String() != want {
			t.Errorf("%q: %q, %v; want %q", c.In, got, err, want)
		}
		var again TTL
		if err := again.UnmarshalText([]byte(got.String())); err != nil || again != got {
			t.Errorf("%q reads back as %q, %v", got, again, err)
		}
	}
	for _, c := range tables.TTLErrors {
		if got, err := ParseTTL(c.In); !errors.Is(err, ErrBadSpec) {
			t.Errorf("%q: %v, %v", c.In, got, err)
		}
	}
}

func TestEveryTTLOfMinutesIsRoundedUp(t *testing.T) {
	t.Parallel()
	for minutes := 1; minutes < 255*365*24*60; minutes += 1 + minutes/50 {
		got, err := ParseTTL(fmt.Sprint(minutes))
		asked := time.Duration(minutes) * time.Minute
		if err != nil || got.Duration() < asked || got.Duration() >= asked+ttlUnits[got.Unit].length {
			t.Fatalf("%d minutes: %s, %v", minutes, got, err)
		}
	}
}

func TestCollectionsAndDisks(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", "photos", "my_col.x", "A-1", strings.Repeat("a", 128)} {
		if got, err := ParseCollection(s); err != nil || got != s {
			t.Errorf("%q: %q, %v", s, got, err)
		}
	}
	for _, s := range []string{"_a", ".a", "a/b", "a b", "ä", strings.Repeat("a", 129), "a\x00"} {
		if _, err := ParseCollection(s); !errors.Is(err, ErrBadSpec) {
			t.Errorf("%q: %v", s, err)
		}
	}
	for in, want := range map[string]DiskType{"": "", "hdd": "", "HDD": "", "SSD": "ssd"} {
		if got, err := ParseDiskType(in); err != nil || got != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
}

// Every sentinel keeps its identity over the wire.
func TestErrorsCrossTheWire(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, c := range codes {
		err := fmt.Errorf("put 3,01: %w", c.err)
		back := FromCode(Code(err), err.Error())
		if seen[c.code] || !errors.Is(back, c.err) || back.Error() != err.Error() {
			t.Errorf("%s: %v", c.code, back)
		}
		seen[c.code] = true
	}
	for _, err := range []error{&CorruptError{Volume: 1}, &NotPrimaryError{Volume: 1}} {
		if back := FromCode(Code(err), err.Error()); Code(back) != Code(err) || Code(err) == "" {
			t.Errorf("%v: %v", err, back)
		}
	}
	if err := FromCode("no such code", "text"); err.Error() != "text" || Code(err) != "" {
		t.Error(err)
	}
}

// What masters and volume servers tell each other survives JSON.
func TestEntriesSurviveJSON(t *testing.T) {
	t.Parallel()
	ttl, err := ParseTTL("3d")
	if err != nil {
		t.Fatal(err)
	}
	e := Entry{
		Volume: 7, Spec: Spec{Collection: "c", Placement: 110, TTL: ttl, Disk: "ssd"}, State: StateOpen, Epoch: 3, Version: 9,
		Primary: "a", InSync: []Holder{{"a", NewCopyID()}}, Joining: []Holder{{"b", 0xffffffffffffffff}},
	}
	b, err := json.Marshal(e)
	var got Entry
	if err == nil {
		err = json.Unmarshal(b, &got)
	}
	if err != nil || !reflect.DeepEqual(got, e) {
		t.Fatalf("%s: %+v, %v", b, got, err)
	}
	if h, inSync, ok := got.Holder("b"); !ok || inSync || h.Copy != e.Joining[0].Copy {
		t.Error(h, inSync, ok)
	}
	if _, _, ok := got.Holder("c"); ok {
		t.Error("a holder that is not there")
	}
}
