package replay

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// ReadReasons reads the ids of deviations from the table in a DESIGN.md that says
// where an API differs from SeaweedFS on purpose: the document is the one list of
// them, and no test may deviate for a reason that is not there.
func ReadReasons(t *testing.T, path string) map[string]string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(b), "differs from SeaweedFS on purpose\n")
	if !ok {
		t.Fatalf("%s has no chapter of what differs from SeaweedFS on purpose", path)
	}
	section, _, _ := strings.Cut(after, "\n## ")
	reasons := map[string]string{}
	for line := range strings.Lines(section) {
		cells := strings.SplitN(strings.Trim(line, "|\n"), "|", 2)
		if !strings.HasPrefix(line, "|") || len(cells) != 2 || strings.HasPrefix(line, "|--") || cells[0] == " what " {
			continue
		}
		for id := range strings.SplitSeq(cells[0], ",") {
			if id = strings.Trim(id, " `"); reasons[id] != "" {
				t.Errorf("%s names %q twice", path, id)
			} else {
				reasons[id] = strings.TrimSpace(cells[1])
			}
		}
	}
	return reasons
}

var testName = regexp.MustCompile(`(?m)^func (Test\w+)\(`)

// tests lists the tests of a package, by its directory below that of go.mod.
func tests(t *testing.T, dir string) map[string]bool {
	t.Helper()
	root := "."
	for ; ; root = filepath.Join(root, "..") {
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			break
		}
	}
	files, err := filepath.Glob(filepath.Join(root, dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range testName.FindAllStringSubmatch(string(b), -1) {
			names[m[1]] = true
		}
	}
	return names
}
