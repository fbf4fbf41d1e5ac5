package placement_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"weedd/cluster/placement"
	"weedd/volume"
)

// A volume may be given up only while no node that is there has, or may have, a copy.
func TestWhichVolumesMayBeForgottenByHand(t *testing.T) {
	t.Parallel()
	entry := volume.Entry{Spec: volume.Spec{Placement: 1}, State: volume.StateOpen, Primary: "1", InSync: hs("1.1"), Joining: hs("2.2")}
	with := func(edit func(*volume.Entry)) volume.Entry { e := entry; edit(&e); return e }
	fresh := with(func(e *volume.Entry) { e.State = volume.StateNew })
	unsure := with(func(e *volume.Entry) { e.State, e.Unsure = volume.StateNew, true })
	adopting := with(func(e *volume.Entry) { e.State, e.Sources = volume.StateNew, []volume.Source{{Node: "1", Print: 1}} })
	told := func(n placement.Node) placement.Node { n.Told = true; return n }
	away := []placement.Node{gone(node("a/r/1", 9), time.Hour), told(node("a/r/2", 9)), told(node("a/r/3", 9))}
	there := []placement.Node{told(node("a/r/1", 9)), told(node("a/r/2", 9)), told(node("a/r/3", 9))}
	silent := []placement.Node{gone(node("a/r/1", 9), time.Hour), told(node("a/r/2", 9)), node("a/r/3", 9)}
	last := rep("1", 1, volume.CopyHealthy)
	last.Report.Files, last.Report.Deleted, last.Report.Size = 9, 2, 512
	blocked := rep("2", 2, volume.CopyFailed)
	blocked.Report.Blocked = true
	stray := func(node volume.NodeID, id volume.CopyID) []placement.Stray {
		return []placement.Stray{{Node: node, Report: &volume.CopyReport{Volume: 1, Copy: id, State: volume.CopyHealthy}}}
	}
	for name, tt := range map[string]struct {
		nodes  []placement.Node
		vol    placement.Volume
		strays []placement.Stray
		why    string // of a refusal
	}{
		"its node burned":                             {away, vol(entry), nil, ""},
		"and had told what it had":                    {away, vol(entry, last), nil, ""},
		"its disk burned":                             {there, vol(entry, rep("1", 1, volume.CopyLost)), nil, ""},
		"the joining one was not made":                {away, vol(entry, rep("2", 2, volume.CopyLost)), nil, ""},
		"other files are in the joining one's way":    {away, vol(entry, blocked), nil, ""},
		"a stray is away, too":                        {away, vol(entry), stray("1", 7), ""},
		"files of SeaweedFS are no copy":              {away, vol(entry), stray("3", 0), ""},
		"the masters were recovered":                  {away, vol(unsure), nil, ""},
		"an adoption whose files burned":              {away, vol(adopting), nil, ""},
		"its copy in sync is there":                   {there, vol(entry, rep("1", 1, volume.CopyHealthy)), nil, "node 1 is there, and its copy in sync is well"},
		"it has failed":                               {there, vol(entry, rep("1", 1, volume.CopyFailed)), nil, "node 1 is there, and its copy in sync is failed"},
		"it was not reported yet":                     {there, vol(entry), nil, "node 1 is there, and its copy in sync is not reported yet"},
		"a copy that joined is there":                 {away, vol(entry, rep("2", 2, volume.CopyHealthy)), nil, "weedd promote"},
		"one that the entry does not name":            {away, vol(entry), stray("3", 7), "node 3 is there and has a copy of it"},
		"after a recovery, one that it does not name": {away, vol(unsure), stray("3", 7), "node 3 is there and has a copy of it"},
		"files that may be adopted are there":         {away, vol(adopting), stray("3", 0), "node 3 is there and has a copy of it"},
		"a node has not told yet":                     {silent, vol(entry), nil, "node 3 is there and has not told yet"},
		"a new volume":                                {away, vol(fresh), nil, "it is new"},
	} {
		v := placement.View{Nodes: tt.nodes, Volumes: []placement.Volume{tt.vol}, Strays: tt.strays}
		got, err := placement.Forget(v, []volume.ID{1, 1})
		switch {
		case tt.why != "" && (!errors.Is(err, volume.ErrBadRequest) || !strings.Contains(err.Error(), tt.why) || got != nil):
			t.Errorf("%s: %+v, %v", name, got, err)
		case tt.why == "" && (err != nil || len(got) != 1 || !got[0].Delete || !strings.Contains(got[0].Why, "the copy on node 1 (")):
			t.Errorf("%s: %+v, %v", name, got, err)
		case len(got) == 1 && strings.Contains(got[0].Why, "7 files, 512 bytes") != (len(tt.vol.Copies) == 1 && tt.vol.Copies[0].Report.Size > 0):
			t.Errorf("%s: %s", name, got[0].Why)
		}
		if got, err := placement.Forget(v, []volume.ID{1, 4}); !errors.Is(err, volume.ErrNotFound) || got != nil {
			t.Errorf("%s, and one that is not there: %+v, %v", name, got, err)
		}
	}
}
