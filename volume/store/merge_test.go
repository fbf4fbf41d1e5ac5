package store

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"weedd/volume"
)

// rows reads "1:5a 2:7-": key 1 appended at 5 with content a, key 2 deleted at 7.
// A capital content has another cookie; "a2" is content a under another name.
func rows(text string) (out []SurveyRow) {
	for _, w := range strings.Fields(text) {
		r := SurveyRow{Cookie: 1, Offset: 8}
		var content string
		if _, err := fmt.Sscanf(w, "%d:%d%s", &r.Key, &r.Time, &content); err != nil {
			panic(err)
		}
		r.Size, r.Sum = 1, uint32(content[0]|0x20)
		if len(content) > 1 {
			r.Body = uint32(content[1])
		}
		switch {
		case content == "-":
			r.Size, r.Sum = -1, 0
		case content[0] < 'a':
			r.Cookie = 2
		}
		out = append(out, r)
	}
	return out
}

func TestMerge(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		sources []string
		want    string // source, key, time and content of each; "" for a conflict
		kept    string
	}{
		{"equal copies need nothing of each other", []string{"1:5a 2:6b", "1:5a 2:6b"}, "0/1:5a 0/2:6b", ""},
		{"clocks differ and contents do not", []string{"1:5a", "1:9a"}, "0/1:5a", ""},
		{"of one content under two names the newer is taken", []string{"1:5a", "1:9a2"}, "1/1:9a", ""},
		{"and so it is the other way round", []string{"1:9a", "1:5a2"}, "0/1:9a", ""},
		{"where times do not tell one is as good as the other", []string{"1:0a", "1:0a2"}, "0/1:0a", ""},
		{"what one copy lacks comes from the other", []string{"1:5a", "1:5a 2:6b"}, "0/1:5a 1/2:6b", "2"},
		{"a newer content wins", []string{"1:5a", "1:6b"}, "1/1:6b", ""},
		{"an older content loses", []string{"1:7a", "1:6b"}, "0/1:7a", ""},
		{"a newer deletion wins", []string{"1:5a", "1:6-"}, "1/1:6-", ""},
		{"an older deletion loses", []string{"1:5-", "1:6a"}, "1/1:6a", ""},
		{"of three copies the newest wins", []string{"1:5a", "1:5b", "1:6c"}, "2/1:6c", ""},
		{"a content written again after a deletion stays where it is", []string{"1:5a", "1:6-", "1:7a"}, "0/1:5a", ""},
		{"a deletion without a time is no evidence", []string{"1:5a", "1:0-"}, "0/1:5a", "1"},
		{"nor is one where nothing has a time", []string{"1:0-", "1:0a"}, "1/1:0a", "1"},
		{"nor one of the same time", []string{"1:5-", "1:5a"}, "1/1:5a", "1"},
		{"deleted everywhere stays deleted", []string{"1:0-", "1:5-"}, "1/1:5-", ""},
		{"two contents without times contradict each other", []string{"1:0a 2:0b", "1:0c"}, "", ""},
		{"two contents of one time contradict each other", []string{"1:5a", "1:5b"}, "", ""},
		{"a content without a time contradicts one that has it", []string{"1:0a", "1:5b"}, "", ""},
		{"two cookies contradict each other", []string{"1:5a", "1:6A"}, "", ""},
		{"one copy is itself", []string{"1:5a 2:6-"}, "0/1:5a 0/2:6-", ""},
		{"no keys at all", []string{"", ""}, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var sources [][]SurveyRow
			for _, s := range tt.sources {
				sources = append(sources, rows(s))
			}
			picks, kept, err := Merge(sources...)
			var got []string
			for _, p := range picks {
				content := string(rune(p.Sum))
				if p.Deleted() {
					content = "-"
				}
				got = append(got, fmt.Sprintf("%d/%d:%d%s", p.Source, p.Key, p.Time, content))
			}
			if s := strings.Join(got, " "); s != tt.want || strings.Trim(fmt.Sprint(kept), "[]") != tt.kept {
				t.Errorf("%s, kept %v; want %s, kept %s", s, kept, tt.want, tt.kept)
			}
			if conflict := strings.Contains(tt.name, "contradict"); errors.Is(err, volume.ErrExists) != conflict || !conflict && err != nil {
				t.Error(err)
			}
		})
	}
}

// Whatever the copies: the order of sources decides nothing but where equal
// contents come from, no file is lost without a deletion that is newer, and a
// merge merged again is the same.
func TestMergeHoldsWhateverTheCopies(t *testing.T) {
	t.Parallel()
	row := rapid.Custom(func(t *rapid.T) SurveyRow {
		r := SurveyRow{Key: volume.Key(rapid.IntRange(1, 6).Draw(t, "key")), Time: uint64(rapid.IntRange(0, 5).Draw(t, "time")), Cookie: 1, Offset: 8}
		r.Size, r.Sum = int32(rapid.IntRange(-1, 2).Draw(t, "size")), uint32(rapid.IntRange(0, 1).Draw(t, "sum"))
		return r
	})
	source := rapid.Custom(func(t *rapid.T) []SurveyRow {
		rs := rapid.SliceOfNDistinct(row, 0, 6, func(r SurveyRow) volume.Key { return r.Key }).Draw(t, "rows")
		slices.SortFunc(rs, func(a, b SurveyRow) int { return cmp.Compare(a.Key, b.Key) })
		return rs
	})
	rapid.Check(t, func(t *rapid.T) {
		sources := rapid.SliceOfN(source, 1, 3).Draw(t, "sources")
		picks, _, err := Merge(sources...)
		turned := slices.Clone(sources)
		slices.Reverse(turned)
		other, _, otherErr := Merge(turned...)
		if (err == nil) != (otherErr == nil) || len(picks) != len(other) {
			t.Fatalf("%v, %v; turned round %v, %v", picks, err, other, otherErr)
		}
		if err != nil {
			return
		}
		merged := map[volume.Key]SurveyRow{}
		var again []SurveyRow
		for i, p := range picks {
			if !p.same(other[i].SurveyRow) { // of one time, or of unknown ones, either body will do
				t.Fatalf("%+v; turned round %+v", p, other[i])
			}
			merged[p.Key] = p.SurveyRow
			again = append(again, p.SurveyRow)
		}
		for _, rs := range sources {
			for _, r := range rs {
				m, ok := merged[r.Key]
				if !ok || m.Deleted() && !r.Deleted() && m.Time <= r.Time {
					t.Fatalf("%+v is lost: %+v", r, m)
				}
			}
		}
		twice, kept, err := Merge(again, again)
		if err != nil || len(kept) > 0 || !slices.EqualFunc(twice, again, func(p Pick, r SurveyRow) bool { return p.SurveyRow == r && p.Source == 0 }) {
			t.Fatalf("merged again: %v, kept %v, %v", twice, kept, err)
		}
	})
}
