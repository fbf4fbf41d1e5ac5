package leader

import (
	"testing"

	"weedd/cluster"
	"weedd/volume"
)

// A directory of SeaweedFS that moved in leaves thousands of folders of originals:
// they are one line.
func TestWhatWasMovedAsideIsOneLine(t *testing.T) {
	t.Parallel()
	n := cluster.ViewNode{Node: volume.Node{ID: "a"}, Aside: []volume.SetAside{{Path: "/d/7.dat", Reason: "torn"}}}
	for range 100 {
		n.Aside = append(n.Aside, volume.SetAside{Path: "/d/aside/1", Reason: "replaced", Moved: true})
	}
	got := asideProblems(n)
	if len(got) != 2 || got[0] != fail("volume server a: /d/7.dat is set aside: torn") ||
		got[1] != warn("volume server a: 100 folders of files that are not served are set aside, for you to look at and delete; one of them is /d/aside/1: replaced") {
		t.Errorf("%+v", got)
	}
}
