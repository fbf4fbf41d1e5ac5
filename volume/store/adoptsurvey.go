package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
)

// Survey is what a foreign volume consists of.
type Survey struct {
	Rows []SurveyRow // the newest state of each key, by key
	// Exact says that every byte is as weedd would have written it, and means the
	// same to it: the files can become ours where they are.
	Exact bool

	end  int64  // of the last record
	last uint64 // append time of that
	idx  []byte // a row for each record, if Exact
	sums sums   // of .dat below end, if Exact
}

// Adoptable says why a volume cannot become ours (rule R15); nil if it can.
func (v *Volume) Adoptable() error {
	switch {
	case !v.Foreign():
		return fmt.Errorf("%w: volume %d is ours", volume.ErrExists, v.id)
	case v.ours:
		return fmt.Errorf("%w: volume %d was ours, and another program has written to it since", volume.ErrExists, v.id)
	case v.Fixed() != "":
		return fmt.Errorf("%w: volume %d: %s", volume.ErrReadOnly, v.id, v.Fixed())
	case v.Marked():
		return fmt.Errorf("%w: volume %d: SeaweedFS was told that it takes no writes", volume.ErrReadOnly, v.id)
	}
	return nil
}

// Survey reads a foreign volume, every byte of it, and lists what is in it.
// Damage in a record that is served, or between records, is a
// *volume.CorruptError: such a volume is better left as it is.
func (v *Volume) Survey(ctx context.Context) (*Survey, error) {
	if err := v.Adoptable(); err != nil {
		return nil, err
	}
	s := &surveyor{v: v, Survey: &Survey{Exact: v.super.version == needle.V3}}
	for key, at := range v.files.Load().index.all() {
		row := SurveyRow{Key: key, Size: -1} // of a deletion the walk finds the record
		if at.live() {
			row.Offset, row.Size = at.offset(), at.size()
			s.missing++
		}
		s.Rows = append(s.Rows, row)
	}
	s.ends = make([]int64, len(s.Rows))
	if err := s.walk(ctx); err != nil {
		return nil, fmt.Errorf("survey volume %d: %w", v.id, err)
	}
	return s.Survey, nil
}

// timeAhead is how far an append time may lie ahead of the clock here and of the
// time of the file, whichever is later, to be believed. Ours must rise, so those
// that follow one from the far future would lie there, too, and what has a time to
// live would not end; and after the last that there is nothing could be appended.
const timeAhead = 24 * time.Hour

// lastTime is the last append time of a foreign record that is believed.
func (v *Volume) lastTime() uint64 {
	now := v.opts.Now()
	if v.modified.After(now) { // a host may begin with a clock that is years behind
		now = v.modified
	}
	return uint64(now.Add(timeAhead).UnixNano())
}

type surveyor struct {
	*Survey
	v       *Volume
	missing int     // live rows whose record was not met yet
	ends    []int64 // for each of Rows the last record of its key; negative if we would take it for a deletion
	needle  needle.Needle
}

func (s *surveyor) walk(ctx context.Context) error {
	v := s.v
	super := make([]byte, SuperBlockSize)
	if err := v.readFull(nil, super, 0); err != nil {
		return err
	}
	if want := v.super.encode(); string(super) != string(want[:]) { // it lies about the version of the records
		s.Exact = false
	}
	s.sums = s.sums.plus(super)
	w, err := newWalker(v.dat(), v.super.version, SuperBlockSize)
	if err != nil {
		return err
	}
	w.size = min(w.size, v.End()) // what follows is no record
	for n := 0; ; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		pos := w.pos
		rec, err := w.next()
		if errors.Is(err, errEnd) {
			break
		}
		if err == nil {
			err = s.take(pos, rec)
		}
		switch {
		case err == nil:
		case isReadError(err):
			return err
		default:
			return &volume.CorruptError{Volume: v.id, Offset: pos, Reason: err.Error()}
		}
		s.end = w.pos
	}
	s.end = max(s.end, SuperBlockSize)
	if s.missing > 0 {
		return fmt.Errorf("%w: %d files are not where the index says", volume.ErrCorrupt, s.missing)
	}
	s.finish()
	return nil
}

// take looks at one record. Only what is served must be good.
func (s *surveyor) take(pos int64, rec []byte) error {
	n, h := &s.needle, needle.ParseHeader(rec)
	i, known := slices.BinarySearchFunc(s.Rows, h.Key, func(r SurveyRow, k volume.Key) int { return cmp.Compare(r.Key, k) })
	live := known && !s.Rows[i].Deleted() && s.Rows[i].Offset == pos && s.Rows[i].Size == h.Size
	s.exact(pos, rec, i, known)
	err := n.Decode(rec, s.v.super.version)
	switch {
	case live && err != nil:
		return err
	case live:
		s.missing--
	case err != nil || !known || h.Size != 0 || !s.Rows[i].Deleted():
		return nil
	}
	r := &s.Rows[i] // of the file, or of the newest deletion
	r.Offset, r.Time, r.Cookie, r.Sum = pos, n.AppendedAt, n.Cookie, n.Checksum
	r.Body = needle.Checksum(rec[needle.HeaderSize : needle.HeaderSize+h.Size])
	return nil
}

// exact notes whether rec is as we would have written it, and what we would take
// it for.
func (s *surveyor) exact(pos int64, rec []byte, i int, known bool) {
	if !s.Exact {
		return
	}
	n := &s.needle
	if err := n.DecodeStrict(rec); err != nil || n.AppendedAt <= s.last || n.AppendedAt > s.v.lastTime() || !known {
		s.Exact, s.idx, s.sums = false, nil, sums{}
		return
	}
	row := indexRow{n.Key, pos, needle.ParseHeader(rec).Size}
	s.ends[i] = pos
	if n.Tombstone {
		row.size, s.ends[i] = -1, -pos
	}
	s.last, s.sums, s.idx = n.AppendedAt, s.sums.plus(rec), row.append(s.idx)
}

// finish compares what the index says of each key with what we would make of its
// last record.
func (s *surveyor) finish() {
	for i, r := range s.Rows {
		if end := s.ends[i]; s.Exact && (r.Deleted() && end >= 0 || !r.Deleted() && end != r.Offset) {
			s.Exact, s.idx, s.sums = false, nil, sums{}
		}
	}
}

// SurveyedRecord reads the record that a row of a survey means, for the node that merges
// copies of this volume, and checks it.
func (v *Volume) SurveyedRecord(r SurveyRow) ([]byte, error) {
	if r.Deleted() || r.Offset < SuperBlockSize {
		return nil, fmt.Errorf("%w: volume %d: no record at %d", volume.ErrBadRequest, v.id, r.Offset)
	}
	rec := make([]byte, needle.Length(r.Size, v.super.version))
	if err := v.readFull(nil, rec, r.Offset); err != nil {
		return nil, err
	}
	var n needle.Needle
	err := n.Decode(rec, v.super.version)
	if err == nil && (n.Key != r.Key || needle.ParseHeader(rec).Size != r.Size || n.Checksum != r.Sum) {
		err = errors.New("it is not the record that was surveyed")
	}
	if err != nil {
		return nil, &volume.CorruptError{Volume: v.id, Offset: r.Offset, Reason: err.Error()}
	}
	return rec, nil
}
