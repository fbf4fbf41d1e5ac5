package store

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/vfs"
)

// survey reads all of one volume and compares what its files say.
type survey struct {
	ctx    context.Context
	fs     vfs.FS // looks only
	found  Found
	v      *Volume // open for reading
	copy   volume.CopyID
	epochs []volume.EpochStart
	ckpt   *checkpoint // nil without one that can be read
	size   int64       // of .dat

	rows     []indexRow // of .idx, in file order
	ragged   int64      // bytes of .idx after its last whole row
	badRow   int        // the first row that does not fit .dat; len(rows) if all do
	byOffset []indexRow // rows of records, sorted
	fresh    *index     // what .dat says of each key
	noRow    []indexRow // records without a row
	last     uint64     // append time of the last good record
	sums     sums       // of .dat, for comparing with the checkpoint's
	records  int64
	unsummed bool                             // sums could not be followed to the end
	spoiled  bool                             // part of .dat cannot be read at all
	tail     int64                            // where the good part ends; size if nothing follows it
	padding  int64                            // bytes that the last record lacks, all of them padding
	visit    func(*survey, *span, []indexRow) // of each span with the rows that point into it, if not nil

	now      time.Time
	progress func(int64)
	report   *findings
	named    map[volume.Key]bool // keys that were reported
	// unrecorded are keys whose last row deletes them without a record, as
	// SeaweedFS does for volumes on remote tiers.
	unrecorded map[volume.Key]bool
}

// span is a piece of .dat: a record, or bytes that are none.
type span struct {
	offset, length int64
	rec            []byte // valid during the visit; nil: no record
	err            error  // what is wrong
	row            indexRow
	needle         *needle.Needle // nil if rec cannot be decoded
}

// openSurvey opens a volume and reads what is beside .dat. Faults that can be
// lived with are reported; an error says that .dat cannot be looked at.
func openSurvey(ctx context.Context, fs vfs.FS, f Found, report *findings, progress func(int64)) (*survey, error) {
	s := &survey{
		ctx: ctx, fs: look(fs, f), found: f, report: report, progress: progress, now: time.Now(),
		fresh: newIndex(0), named: map[volume.Key]bool{}, unrecorded: map[volume.Key]bool{},
	}
	var err error
	if s.copy, s.epochs, err = readCopyFile(fs, f); err != nil {
		report.add(Finding{File: extCopy, Offset: -1, What: err.Error(), Fix: fixCluster})
	}
	if s.v, err = openLook(fs, f); err != nil {
		return nil, err
	}
	s.v.copy = s.copy
	err = s.readBeside()
	if err == nil && s.v.alien.wide {
		err = errors.New("its index has 5-byte offsets: it can be served, and no more")
	}
	if err != nil {
		return nil, errors.Join(err, s.v.closeFiles())
	}
	return s, nil
}

func (s *survey) ours() bool { return s.copy != 0 || s.found.has(extCopy) }

// readBeside reads the index and, of ours, the checkpoint.
func (s *survey) readBeside() (err error) {
	if s.size, err = s.v.dat().Size(); err != nil {
		return err
	}
	if s.rows, err = s.v.readRows(extIdx); err != nil {
		return err
	}
	if info, err := s.fs.Stat(s.found.Base + extIdx); err == nil {
		s.ragged = info.Size % rowSize
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if !s.ours() && !s.v.fits(s.rows, s.size) {
		// As loading does: an old SeaweedFS may have stopped between the renames.
		fresh, err := s.v.readRows(extNewIdx)
		if err != nil {
			return err
		}
		if len(fresh) > 0 && s.v.fits(fresh, s.size) {
			s.rows = fresh
			s.report.index(Finding{File: extIdx, Offset: -1, What: "is that of the volume before a compaction; the new one is beside it as " + extNewIdx})
		}
	}
	for _, r := range s.rows {
		if r.offset > 0 {
			s.byOffset = append(s.byOffset, r)
		}
	}
	slices.SortStableFunc(s.byOffset, func(a, b indexRow) int { return cmp.Compare(a.offset, b.offset) })
	s.badRow = len(s.rows)
	s.v.super.version = actualVersion(s.v.super.version, slices.DeleteFunc(slices.Clone(s.byOffset), func(r indexRow) bool {
		return r.end(s.v.super.version) > s.size
	}), s.size)
	if s.ours() {
		s.readCheckpoint()
	}
	return nil
}

func (s *survey) readCheckpoint() {
	b, err := vfs.ReadFile(s.fs, s.found.Base+extCkpt)
	if err == nil {
		s.ckpt, err = decodeCheckpoint(b)
	}
	if s.found.has(extCommit) && s.found.has(extReady) { // then it is that of the old files
		if b, err = vfs.ReadFile(s.fs, s.found.Base+extReady); err == nil {
			var m *mark
			if m, err = decodeMark(b); err == nil {
				s.ckpt = &m.ckpt
			}
		}
	}
	if err == nil && (s.ckpt.volume != s.found.ID || s.ckpt.copy != s.copy) {
		err = fmt.Errorf("belongs to copy %s of volume %d", s.ckpt.copy, s.ckpt.volume)
		s.ckpt = nil
	}
	if err != nil {
		s.report.add(Finding{File: extCkpt, Offset: -1, What: err.Error(), Fix: fixCheckpoint})
		return
	}
	if s.ckpt.super != s.v.super.encode() {
		s.report.add(Finding{File: extDat, Offset: 0, What: "the super block is not the one that the checkpoint names", Fix: fixCluster})
	}
	if s.size < s.ckpt.durable {
		s.report.add(Finding{File: extDat, Offset: s.size, Fix: fixCluster,
			What: fmt.Sprintf("ends %d bytes before what was known to be on disk", s.ckpt.durable-s.size)})
	}
	for i, e := range s.epochs {
		if i > 0 && e.Epoch <= s.epochs[i-1].Epoch {
			s.report.add(Finding{File: extCopy, Offset: int64(copyHeader + copyEntry*i), What: fmt.Sprintf("epoch %d follows epoch %d", e.Epoch, s.epochs[i-1].Epoch), Fix: fixCluster})
		}
	}
}

// run reads all of .dat and compares.
func (s *survey) run() error {
	s.checkTTL()
	if s.ckpt != nil {
		super := s.v.super.encode()
		s.sums = s.sums.plus(super[:])
	}
	next := 0 // of byOffset
	s.tail = s.size
	err := s.walk(func(sp *span) error {
		for ; next < len(s.byOffset) && s.byOffset[next].offset < sp.offset; next++ {
			s.rowFails(s.byOffset[next], "points between records")
		}
		from := next
		for next < len(s.byOffset) && s.byOffset[next].offset < sp.offset+sp.length {
			next++
		}
		s.take(sp, s.byOffset[from:next])
		return nil
	})
	if err != nil {
		return err
	}
	if s.records == 0 && len(s.byOffset) > 0 {
		s.report.add(Finding{File: extDat, Offset: SuperBlockSize, What: fmt.Sprintf("there is no record, the index has rows for %d; fix cannot bring them back", len(s.byOffset))})
		return nil
	}
	for _, r := range s.byOffset[next:] {
		s.rowFails(r, "points past the end of "+extDat)
	}
	s.feed(s.size, nil)
	s.findBadRow()
	s.compare()
	return nil
}

// checkTTL looks at the time to live of the volume.
func (s *survey) checkTTL() {
	if t := s.v.super.ttl; t.Unit > 6 || t.Count > 0 && t.Unit == 0 {
		s.report.add(Finding{File: extDat, Offset: 2, What: fmt.Sprintf("the time to live, %d of unit %d, is none; the files do not expire", t.Count, t.Unit)})
	}
}

// walk calls visit for all of .dat behind the super block, in order. Where the
// records cannot be followed it goes on at the next that an index row names, or
// else at the next that can be told by its checksum.
func (s *survey) walk(visit func(*span) error) error {
	w, err := newWalker(s.v.dat(), s.v.super.version, SuperBlockSize)
	if err != nil {
		return err
	}
	w.size = s.size // what a daemon appends meanwhile is left out
	for {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		sp := &span{offset: w.pos}
		sp.rec, sp.err = w.next()
		if errors.Is(sp.err, errEnd) {
			return nil
		}
		if sp.rec != nil {
			s.decode(w, sp)
		} else {
			s.lackingPadding(w, sp)
		}
		if sp.rec == nil {
			s.resync(w, sp)
		}
		sp.length = w.pos - sp.offset
		if err := visit(sp); err != nil {
			return err
		}
		s.progress(sp.length)
	}
}

// decode checks a record whose header makes sense. It is none, and rec becomes
// nil, when what follows it shows that its length is wrong.
func (s *survey) decode(w *walker, sp *span) {
	version := s.v.super.version
	h := needle.ParseHeader(sp.rec)
	sp.row = indexRow{h.Key, sp.offset, h.Size}
	if sp.err = w.needle.Decode(sp.rec, version); sp.err == nil {
		sp.needle = &w.needle
	}
	at := s.rowsAt(sp.offset)
	agreed := slices.ContainsFunc(at, func(r indexRow) bool { return max(r.size, 0) == h.Size })
	denied := slices.ContainsFunc(at, func(r indexRow) bool { return r.key == h.Key && r.size > 0 && r.size != h.Size })
	switch {
	case sp.err == nil && h.Size == 0 && version == needle.V3 && w.needle.AppendedAt == 0:
		sp.rec, sp.err = nil, errors.New("bytes that are no record")
	case sp.err == nil && h.Size == 0 && denied:
		sp.rec, sp.err = nil, errors.New("the size in the header is 0, the index names another")
	case sp.err != nil && !agreed && w.pos < w.size && !s.plausible(w.pos, true):
		sp.rec, sp.err = nil, fmt.Errorf("no record can be made out: %w", sp.err)
	}
	if sp.err == nil && s.ours() {
		if err := w.needle.DecodeStrict(sp.rec); err != nil {
			sp.err = err
		} else if w.needle.AppendedAt <= s.last {
			sp.err = errors.New("its append time is not after that of the record before it")
		}
	}
	if sp.err == nil {
		s.last = w.needle.AppendedAt
	}
}

// rowsAt gives the index rows that point to offset.
func (s *survey) rowsAt(offset int64) []indexRow {
	i, ok := slices.BinarySearchFunc(s.byOffset, offset, func(r indexRow, o int64) int { return cmp.Compare(r.offset, o) })
	if !ok {
		return nil
	}
	j := i
	for j < len(s.byOffset) && s.byOffset[j].offset == offset {
		j++
	}
	return s.byOffset[i:j]
}

// plausible reports whether a record may begin at pos: it fits the file, and its
// checksum or an index row says so; a record without data, which nothing proves,
// counts if empty is set.
func (s *survey) plausible(pos int64, empty bool) bool {
	var b [needle.HeaderSize]byte
	if pos+needle.HeaderSize > s.size {
		return false
	}
	if _, err := s.v.dat().ReadAt(b[:], pos); err != nil {
		return false
	}
	h := needle.ParseHeader(b[:])
	if h.Size < 0 || pos+needle.Length(h.Size, s.v.super.version) > s.size {
		return false
	}
	named := slices.ContainsFunc(s.rowsAt(pos), func(r indexRow) bool { return r.key == h.Key && max(r.size, 0) == h.Size })
	return named || empty && h.Size == 0 && h.Key != 0 || s.proven(pos, h.Size)
}

// proven reports whether the record at pos, with data, has a fitting checksum.
func (s *survey) proven(pos int64, size int32) bool {
	version := s.v.super.version
	length := needle.Length(size, version)
	if size <= 0 || pos+length > s.size {
		return false
	}
	if version != needle.V1 { // a length that cannot be is cheaper to find than a wrong checksum
		var b [4]byte
		if _, err := s.v.dat().ReadAt(b[:], pos+needle.HeaderSize); err != nil {
			return false
		}
		const most = 1 + 2*(1+255) + 5 + 2 + 2 + 65535 // flags, name, mime, modified, ttl, pairs
		if rest := int64(size) - 4 - int64(binary.BigEndian.Uint32(b[:])); rest < 1 || rest > most {
			return false
		}
	}
	n, buf := needle.Get(int(length))
	defer n.Release()
	if _, err := s.v.dat().ReadAt(buf, pos); err != nil {
		return false
	}
	return n.Decode(buf, version) == nil && (version != needle.V3 || n.AppendedAt != 0)
}

// lackingPadding turns the torn record at the end of the file into a whole one if
// nothing but padding is missing.
func (s *survey) lackingPadding(w *walker, sp *span) {
	var b [needle.HeaderSize]byte
	if _, err := s.v.dat().ReadAt(b[:], sp.offset); err != nil || !errors.Is(sp.err, errTorn) {
		return
	}
	h := needle.ParseHeader(b[:])
	if h.Size < 0 {
		return
	}
	length := needle.Length(h.Size, s.v.super.version)
	missing := sp.offset + length - s.size
	whole := int64(needle.HeaderSize) + int64(h.Size) + 4
	if s.v.super.version == needle.V3 {
		whole += 8
	}
	if missing <= 0 || missing > length-whole {
		return
	}
	rec := make([]byte, length)
	if _, err := s.v.dat().ReadAt(rec[:length-missing], sp.offset); err != nil || w.needle.Decode(rec, s.v.super.version) != nil {
		return
	}
	if s.v.super.version == needle.V3 && w.needle.AppendedAt == 0 {
		return
	}
	sp.rec, sp.row, sp.needle = rec, indexRow{h.Key, sp.offset, h.Size}, &w.needle
	sp.err = fmt.Errorf("the last %d bytes of its padding are missing", missing)
	s.padding = missing
	w.pos = s.size
}

// resync passes bytes that are no record.
func (s *survey) resync(w *walker, sp *span) {
	i, _ := slices.BinarySearchFunc(s.byOffset, sp.offset+1, func(r indexRow, o int64) int { return cmp.Compare(r.offset, o) })
	for ; i < len(s.byOffset); i++ {
		if s.plausible(s.byOffset[i].offset, false) {
			w.pos = s.byOffset[i].offset
			return
		}
	}
	if isReadError(sp.err) {
		s.spoiled = true // what a scan would find there, or miss, is nobody's guess
		w.pos = s.size
		return
	}
	for w.pos = sp.offset + needle.Align; w.pos+needle.HeaderSize <= s.size && s.ctx.Err() == nil; w.pos += needle.Align {
		b, err := w.peek(needle.HeaderSize)
		if err != nil {
			s.spoiled = true
			break
		}
		if size := int32(binary.BigEndian.Uint32(b[12:])); size > 0 && s.proven(w.pos, size) {
			return
		}
	}
	w.pos = s.size
}

func hexKey(k volume.Key) string { return strconv.FormatUint(uint64(k), 16) }

// take enters one span; rows are those that point into it.
func (s *survey) take(sp *span, rows []indexRow) {
	if sp.rec == nil {
		s.takeRubble(sp, rows)
	} else {
		s.takeRecord(sp, rows)
	}
	s.feed(sp.offset, sp.rec[:min(int64(len(sp.rec)), s.size-sp.offset)])
	if s.visit != nil {
		s.visit(s, sp, rows)
	}
}

// takeRubble enters bytes that are no record. At the end of the file they are a
// torn tail.
func (s *survey) takeRubble(sp *span, rows []indexRow) {
	f := Finding{File: extDat, Offset: sp.offset, end: sp.offset + sp.length, What: fmt.Sprintf("%d bytes cannot be read as records: %v", sp.length, sp.err), Fix: fixRecord}
	if sp.offset+sp.length == s.size && !s.spoiled {
		s.tail = sp.offset
		f.What = fmt.Sprintf("%d bytes at the end are no whole record: %v", sp.length, sp.err)
		f.Fix = fixTail
	}
	if s.ours() {
		f.Fix = fixCluster
		if s.tail == sp.offset && (s.ckpt == nil || sp.offset >= s.ckpt.durable) {
			f.Fix, f.Note = fixOwnTail, true
		}
	}
	s.report.add(f)
	for _, r := range rows {
		s.rowFails(r, "points to where no record can be read")
	}
}

// takeRecord enters a record, good or bad.
func (s *survey) takeRecord(sp *span, rows []indexRow) {
	s.records++
	if sp.err != nil {
		s.recordFails(sp)
	} else {
		s.checkNeedle(sp)
	}
	rowed := false
	for _, r := range rows {
		fits := r.offset == sp.offset && max(r.size, 0) == sp.row.size
		switch {
		case fits && r.key == sp.row.key:
			sp.row.size = r.size // the row tells a tombstone from an empty file
			rowed = true
		case fits && s.ours(): // were it the header, the sums of the checkpoint would tell
			s.rowFails(r, fmt.Sprintf("is that of a record of key %x", uint64(sp.row.key)))
		case fits:
			s.report.add(Finding{File: extDat, Offset: sp.offset, end: sp.offset + sp.length, Key: hexKey(r.key), Fix: fixRecord,
				What: fmt.Sprintf("the record's header says key %x, the index says %x", uint64(sp.row.key), uint64(r.key))})
			s.named[r.key] = true
			sp.row.key, rowed = r.key, true
		default:
			s.rowFails(r, "points to another record")
		}
	}
	if sp.row.size == 0 && sp.err == nil {
		if s.ours() {
			sp.row.size = map[bool]int32{true: -1, false: 0}[sp.needle.Tombstone]
		} else if !rowed && deletes(sp.needle, s.fresh.get(sp.row.key)) {
			sp.row.size = -1
		}
	}
	if !rowed {
		s.noRow = append(s.noRow, sp.row)
	}
	s.fresh.set(sp.row.key, s.fresh.get(sp.row.key).replacedBy(sp.row.offset, sp.row.size))
}

func (s *survey) recordFails(sp *span) {
	key := sp.row.key
	f := Finding{File: extDat, Offset: sp.offset, end: sp.offset + sp.length, Key: hexKey(key), What: sp.err.Error(), Fix: fixRecord}
	if s.padding > 0 && sp.offset+sp.length == s.size {
		f.Fix = fixPadding
	}
	if s.ours() {
		f.Fix = fixCluster
		if s.ckpt != nil && sp.offset >= s.ckpt.durable && s.padding > 0 {
			f.Fix, f.Note = fixOwnTail, true
		}
	}
	s.report.add(f)
	s.named[key] = true
}

// ahead is how far an append time may lie in the future before it is told.
const ahead = 24 * time.Hour

func (s *survey) checkNeedle(sp *span) {
	n, key := sp.needle, sp.row.key
	if n.Has(needle.FlagTTL) && (n.TTL.Unit > 6 || n.TTL.Count > 0 && n.TTL.Unit == 0) {
		s.report.add(Finding{File: extDat, Offset: sp.offset, Key: hexKey(key), What: fmt.Sprintf("its time to live, %d of unit %d, is none; it does not expire", n.TTL.Count, n.TTL.Unit)})
	}
	if at := time.Unix(0, int64(n.AppendedAt)); at.After(s.now.Add(ahead)) {
		s.report.add(Finding{File: extDat, Offset: sp.offset, Key: hexKey(key), Note: true, What: "it was appended at " + at.UTC().Format(time.RFC3339) + ", which is in the future"})
	}
}

// rowFails reports an index row that does not fit.
func (s *survey) rowFails(r indexRow, why string) {
	key := r.key
	s.named[key] = true
	s.report.index(Finding{File: extIdx, Offset: r.offset, Key: hexKey(key), What: "the row of this key " + why})
}

// findBadRow finds the first row, in file order, that is not of a record.
func (s *survey) findBadRow() {
	if !s.ours() {
		return
	}
	records := slices.SortedFunc(slices.Values(s.noRow), func(a, b indexRow) int { return cmp.Compare(a.offset, b.offset) })
	pos := int64(SuperBlockSize)
	for i, r := range s.rows {
		_, rowless := slices.BinarySearchFunc(records, r.offset, func(a indexRow, o int64) int { return cmp.Compare(a.offset, o) })
		if r.offset != pos || rowless || s.named[r.key] {
			s.badRow = i
			return
		}
		pos = r.end(needle.V3)
	}
}

// compare holds what the index says of each key against what .dat says.
func (s *survey) compare() {
	had := newIndex(len(s.rows))
	for _, r := range s.rows {
		had.set(r.key, had.get(r.key).replacedBy(r.offset, r.size))
		if r.offset == 0 {
			s.unrecorded[r.key] = true
		} else {
			delete(s.unrecorded, r.key)
		}
	}
	for key := range s.unrecorded {
		s.fresh.set(key, s.fresh.get(key).replacedBy(0, -1))
	}
	if s.ragged > 0 {
		s.report.index(Finding{File: extIdx, Offset: -1, What: fmt.Sprintf("ends with %d bytes that are no whole row", s.ragged)})
	}
	early := s.ours() && s.ckpt != nil && s.ckpt.rows == 0 // no row was written yet, as far as is known
	if len(s.rows) == 0 && len(s.noRow) > 0 && !early {
		s.report.index(Finding{File: extIdx, Offset: -1, What: fmt.Sprintf("is missing or empty; %s has %d records", extDat, len(s.noRow))})
		return
	}
	if s.ours() && s.badRow == len(s.rows) {
		if n := len(s.noRow); n > 0 {
			s.report.index(Finding{File: extIdx, Offset: -1, Note: true, What: fmt.Sprintf("has no rows yet for the last %d records", n)})
		}
		return
	}
	for _, r := range s.noRow {
		is, was := s.fresh.get(r.key), had.get(r.key)
		key := r.key
		switch {
		case s.named[key] || s.unrecorded[key]:
		case is.live() && is.offset() == r.offset && was != is:
			s.report.index(Finding{File: extIdx, Offset: r.offset, Key: hexKey(key), What: "the record has no row: " + map[bool]string{true: "an older version of the file is served", false: "the file is not found"}[was.live()]})
			s.named[key] = true
		case !is.live() && was.live():
			s.report.index(Finding{File: extIdx, Offset: r.offset, Key: hexKey(key), What: "the deletion has no row: the file is still served"})
			s.named[key] = true
		}
	}
	for _, r := range s.rows {
		is, was := s.fresh.get(r.key), had.get(r.key)
		if s.named[r.key] || s.unrecorded[r.key] || is == was || !is.live() && !was.live() {
			continue
		}
		key := r.key
		s.named[key] = true
		s.report.index(Finding{File: extIdx, Offset: r.offset, Key: hexKey(key), What: "the last row of this key is not that of its newest record"})
	}
}

// feed goes on with the checksums of .dat, to pos and then over rec, and compares
// each whole MiB with the checkpoint's.
func (s *survey) feed(pos int64, rec []byte) {
	if s.ckpt == nil || s.unsummed {
		return
	}
	for s.sums.end < min(pos, s.ckpt.committed) {
		p := make([]byte, min(sumBlock, pos-s.sums.end))
		if _, err := s.v.dat().ReadAt(p, s.sums.end); err != nil {
			s.unsummed = true // it was reported as what cannot be read
			return
		}
		s.addSum(p)
	}
	s.addSum(rec)
}

// addSum adds bytes, up to each end that the checkpoint has a sum of.
func (s *survey) addSum(p []byte) {
	c := s.ckpt
	for len(p) > 0 && s.sums.end < c.committed {
		block := s.sums.end / sumBlock
		end := min((block+1)*sumBlock, c.committed)
		n := min(int64(len(p)), end-s.sums.end)
		s.sums = s.sums.plus(p[:n])
		p = p[n:]
		if s.sums.end < end {
			return
		}
		want := c.sums.last
		if int(block) < len(c.sums.blocks) {
			want = c.sums.blocks[block]
		}
		if s.sums.last == want {
			continue
		}
		if !s.report.within(block*sumBlock, end) { // else the record is named already
			s.report.add(Finding{File: extDat, Offset: block * sumBlock, Fix: fixCluster,
				What: fmt.Sprintf("the %d bytes from here on are not those that were written", end-block*sumBlock)})
		}
		s.sums.last = want // so that the next MiB is judged by itself
		if s.sums.end%sumBlock == 0 {
			s.sums.blocks[len(s.sums.blocks)-1] = want
		}
	}
}
