package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"weedd/volume"
	"weedd/volume/vfs"
)

// Finding is one thing that Check found.
type Finding struct {
	Volume volume.ID `json:"volume"`
	Path   string    `json:"path"`
	Offset int64     `json:"offset"`         // in .dat; -1 where it is about no place there
	Key    string    `json:"key,omitempty"`  // in hex; "" where it is about no file
	What   string    `json:"what"`           // what is wrong
	Fix    string    `json:"fix,omitempty"`  // what can be done about it, "" for nothing
	Note   bool      `json:"note,omitempty"` // no problem, but worth knowing

	File    string `json:"-"` // suffix of Path
	end     int64  // of what is bad in .dat
	isIndex bool
}

// What can be done about findings.
const (
	fixIndex      = "fix makes .idx anew from .dat"
	fixOwnIndex   = "fix cuts .idx before the first wrong row; the daemon makes the rest anew from .dat"
	fixTail       = "fix cuts them off, having saved them in a file beside"
	fixOwnTail    = "the daemon cuts them off when it opens the copy"
	fixPadding    = "fix adds them"
	fixRecord     = "fix leaves it as it is; other records are not touched by it"
	fixCheckpoint = "the daemon does without it, and reads the whole volume once"
	fixCluster    = "the daemon has this copy replaced from another one; if there is none, export saves what can be read"
	fixCompaction = "fix, or the daemon when it starts, finishes it"
)

// maxFindings are listed of one volume; the others are counted.
const maxFindings = 1000

// findings gathers what is found of one volume.
type findings struct {
	found Found
	ours  bool
	list  []Finding
	more  int
	bad   bool // there is one that is not a Note
	rows  bool // there is one of the index that is not a Note
}

func (f *findings) add(x Finding) {
	f.bad = f.bad || !x.Note
	f.rows = f.rows || x.isIndex && !x.Note
	if len(f.list) == maxFindings {
		f.more++
		return
	}
	x.Volume, x.Path = f.found.ID, f.found.Base+x.File
	f.list = append(f.list, x)
}

// index adds one about the index.
func (f *findings) index(x Finding) {
	x.isIndex = true
	switch {
	case x.Note:
	case f.ours:
		x.Fix = fixOwnIndex
	default:
		x.Fix = fixIndex
	}
	f.add(x)
}

// within reports whether something in .dat between two offsets is bad already.
func (f *findings) within(from, to int64) bool {
	for _, x := range f.list {
		if x.File == extDat && x.end > from && x.Offset < to {
			return true
		}
	}
	return f.more > 0
}

// CheckResult is what Check found of one volume.
type CheckResult struct {
	Volume     volume.ID     `json:"volume"`
	Collection string        `json:"collection,omitempty"`
	Path       string        `json:"path"`
	Copy       volume.CopyID `json:"copy,omitempty"` // of ours
	Bytes      int64         `json:"bytes"`
	Records    int64         `json:"records"`
	Findings   []Finding     `json:"findings"`
	More       int           `json:"more,omitempty"` // findings that are not listed
	Good       bool          `json:"good"`           // none is a problem
}

// Check reads every record of a volume and verifies checksums, framing, the index
// against the data, and the small files beside. It writes nothing, and may run
// while a daemon uses the volume; what that appends meanwhile is left out, and
// index rows that it had not yet written are only noted. progress is told the
// bytes read. An error means that ctx has ended.
func Check(ctx context.Context, fs vfs.FS, f Found, progress func(int64)) (CheckResult, error) {
	s, res, err := surveyAll(ctx, fs, f, nil, progress)
	if s != nil {
		err = errors.Join(err, s.v.closeFiles())
	}
	return res, err
}

// surveyAll opens and runs a survey. It is nil, and nothing is left open, if .dat
// cannot be looked at.
func surveyAll(ctx context.Context, fs vfs.FS, f Found, visit func(*survey, *span, []indexRow), progress func(int64)) (*survey, CheckResult, error) {
	if progress == nil {
		progress = func(int64) {}
	}
	report := &findings{found: f, ours: f.has(extCopy)}
	res := CheckResult{Volume: f.ID, Collection: f.Collection, Path: f.Path()}
	checkNames(fs, f, report)
	s, err := openSurvey(ctx, fs, f, report, progress)
	if err != nil {
		report.add(Finding{File: extDat, Offset: -1, What: cannotServe(err), Fix: map[bool]string{true: fixCluster}[report.ours]})
		err = nil
	} else {
		s.visit = visit
		res.Bytes, res.Copy = s.size, s.copy
		err = s.run()
		res.Records = s.records
	}
	res.Findings, res.More, res.Good = report.list, report.more, !report.bad
	return s, res, err
}

func cannotServe(err error) string {
	if errors.Is(err, os.ErrNotExist) {
		return "there is no data file"
	}
	return err.Error()
}

// checkNames looks at files that tell of something unfinished, and at the volume
// info.
func checkNames(fs vfs.FS, f Found, report *findings) {
	if f.has(extDoom) {
		report.add(Finding{File: extDoom, Offset: -1, Note: true, What: "the copy is being removed or set aside; the daemon finishes that when it starts"})
	}
	switch {
	case f.has(extCommit):
		report.add(Finding{File: extCommit, Offset: -1, Note: report.ours, What: "the commit of a compaction was decided and not finished", Fix: fixCompaction})
	case f.has(extReady):
		report.add(Finding{File: extReady, Offset: -1, Note: true, What: "new files of a compaction are ready; the cluster decides whether they are used"})
	case f.has(extNewDat) || f.has(extNewIdx):
		report.add(Finding{File: extNewDat, Offset: -1, Note: true, What: "files of a compaction that was not decided are there; they are not used"})
	}
	b, err := vfs.ReadFile(fs, f.Base+extVif)
	switch {
	case errors.Is(err, os.ErrNotExist):
		report.add(Finding{File: extVif, Offset: -1, Note: true, What: "there is no volume info; the super block counts"})
	case err != nil:
		report.add(Finding{File: extVif, Offset: -1, What: err.Error()})
	case !json.Valid(b):
		report.add(Finding{File: extVif, Offset: -1, Note: true, What: fmt.Sprintf("the volume info, of %d bytes, is no JSON and counts for nothing", len(b))})
	}
}
