// Package replay sends recorded requests to a server under test and compares its
// answers with the recorded ones, those of the reference server. Where ours are
// otherwise on purpose a Table says so, item by item with a reason, and an entry
// of the table that fits no item is an error too.
package replay

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Item is one request and its answer.
type Item struct {
	Name     string            `json:"name"`
	Setup    string            `json:"setup"` // what happens before the request; "" for nothing
	Request  Request           `json:"request"`
	Capture  map[string]string `json:"capture"` // what to remember of the answer: "fid:x" from "json:<member>"
	Response Response          `json:"response"`
}

// Request is as sent. At most one form of body is given.
type Request struct {
	Server     string            `json:"server"` // a name of Player.Hosts
	Method     string            `json:"method"`
	Path       string            `json:"path"`
	Headers    map[string]string `json:"headers"`
	BodyText   string            `json:"body_text"` // the wire form when the headers say chunked
	BodyBase64 string            `json:"body_base64"`
	BodyRepeat Repeat            `json:"body_repeat"`
	Form       []FormPart        `json:"form"`
}

// Repeat is a text some times over.
type Repeat struct {
	Text  string `json:"text"`
	Count int    `json:"count"`
}

// FormPart is a part of a multipart body.
type FormPart struct {
	Name        string            `json:"name"`
	Filename    *string           `json:"filename"`
	ContentType string            `json:"content_type"`
	Headers     map[string]string `json:"headers"`
	Text        string            `json:"content_text"`
	Base64      string            `json:"content_base64"`
	Repeat      Repeat            `json:"content_repeat"`
}

// Response is what is expected. Headers and BodyText are templates; of
// BodyExample only the shape counts.
type Response struct {
	Status      int                        `json:"status"`
	Headers     map[string]json.RawMessage `json:"headers"` // each a string, or a list of strings
	BodyText    string                     `json:"body_text"`
	BodyBase64  string                     `json:"body_base64"`
	BodySHA256  string                     `json:"body_sha256"`
	BodyLength  int                        `json:"body_length"`
	BodyOmitted string                     `json:"body_omitted"`
	BodyExample any                        `json:"body_example"`
	Unordered   []string                   `json:"unordered"` // members of the JSON body that are sets
	Image       *Image                     `json:"image"`     // what the body is instead of a text
}

// Image is a body that is an image, of which only this is compared.
type Image struct {
	Format string `json:"format"`
	Width  int    `json:"width"`
	Height int    `json:"height"`
}

// Table is what is known of the items of some transcripts. Items are named as in
// "file/name of the item".
type Table struct {
	Reasons    map[string]string    // ids of deviations, and what they are: see ReadReasons
	Own        map[string]string    // reasons of which each must be that of a deviation, or in Shown; nil for none
	Shown      map[string]string    // reasons that show nowhere here, and the test that shows them: "directory Name"
	Deviations map[string]Deviation // by item
	OutOfScope map[string]string    // items that are not sent, and why
	Rules      []Rule               // what is otherwise in many answers alike
}

// Rule is a deviation of many items. Edit reports whether it is one of this item.
type Rule struct {
	Why  string // one of Table.Reasons; "" where the record is not what the server would say
	Edit func(it *Item) bool
}

// Deviation is where we answer otherwise than the reference, on purpose. What it
// does not say stays as the reference has it.
type Deviation struct {
	Why     string // one of Table.Reasons
	Status  int
	Headers map[string]string // "" for a header that we do not send
	Only    bool              // Headers are all there are
	Body    *string
}

// Run replays the transcripts in dir, each against what start makes for it.
func Run(t *testing.T, dir string, table Table, start func(t *testing.T, file string) *Player) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts in %s: %v", dir, err)
	}
	used := map[string]bool{}
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var tr struct{ Items []Item }
		if err := json.Unmarshal(b, &tr); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		file := strings.TrimSuffix(filepath.Base(path), ".json")
		t.Run(file, func(t *testing.T) { // so that its servers end before the next begin
			p := start(t, file)
			for i := range tr.Items {
				it := &tr.Items[i]
				if !table.edit(file+"/"+it.Name, it, used) {
					continue
				}
				if it.Setup != "" {
					if p.Setup == nil {
						t.Fatalf("%s/%s: nobody does this: %s", file, it.Name, it.Setup)
					}
					p.Setup(it.Setup)
				}
				for _, complaint := range p.replay(it) {
					t.Errorf("%s/%s: %s", file, it.Name, complaint)
				}
			}
		})
	}
	table.check(t, used)
}

// edit makes it what is expected of us and notes what was used for that. It
// reports whether it is to be sent.
func (table Table) edit(name string, it *Item, used map[string]bool) (send bool) {
	if _, ok := table.OutOfScope[name]; ok {
		used[name] = true
		return false
	}
	if d, ok := table.Deviations[name]; ok {
		used[name] = true
		used[reason(d.Why)] = true
		d.edit(&it.Response)
	}
	for _, r := range table.Rules {
		if r.Edit(it) {
			used[reason(r.Why)] = true
		}
	}
	return true
}

func reason(why string) string { return "reason " + why }

// check complains of what the table says in vain.
func (table Table) check(t *testing.T, used map[string]bool) {
	t.Helper()
	for name, d := range table.Deviations {
		if !used[name] {
			t.Errorf("deviation %q names no item", name)
		}
		if table.Reasons[d.Why] == "" {
			t.Errorf("%s: no such reason: %q", name, d.Why)
		}
	}
	for name := range table.OutOfScope {
		if !used[name] {
			t.Errorf("out of scope %q names no item", name)
		}
	}
	for _, r := range table.Rules {
		if r.Why != "" && table.Reasons[r.Why] == "" || !used[reason(r.Why)] {
			t.Errorf("the rule %q has no reason, or fits no item", r.Why)
		}
	}
	for why := range table.Own {
		if _, elsewhere := table.Shown[why]; used[reason(why)] == elsewhere {
			t.Errorf("reason %q must be of a deviation here, or in Shown, and not both", why)
		}
	}
	for why, where := range table.Shown {
		dir, name, _ := strings.Cut(where, " ")
		if _, ok := table.Own[why]; !ok || !tests(t, dir)[name] {
			t.Errorf("%q is no reason of ours, or there is no test %s", why, where)
		}
	}
}

func (d Deviation) edit(r *Response) {
	if d.Status != 0 {
		r.Status = d.Status
	}
	if d.Only {
		r.Headers = map[string]json.RawMessage{}
	}
	if d.Body != nil {
		r.BodyText, r.BodyOmitted, r.BodyExample = *d.Body, "", nil
		if r.Status != 304 && r.Status != 204 {
			r.Headers["Content-Length"] = Quote("{{int}}")
		}
	}
	for name, value := range d.Headers {
		if value == "" {
			delete(r.Headers, name)
		} else {
			r.Headers[name] = Quote(value)
		}
	}
}

// Quote gives the template of a header.
func Quote(s string) json.RawMessage {
	b, err := json.Marshal(s)
	if err != nil {
		panic(fmt.Sprintf("a string: %v", err))
	}
	return b
}

// Is reports whether the template of a header is s.
func Is(raw json.RawMessage, s string) bool { return string(raw) == string(Quote(s)) }

// Text gives a Deviation.Body.
func Text(s string) *string { return &s }
