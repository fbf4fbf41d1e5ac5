package store

import "weedd/volume/needle"

// merelyDamaged reports whether .dat, whose bytes before c.committed are not as
// they were written, is nevertheless the file that c describes: of the records in
// the last MiB some are bad in themselves, and at least as many are whole and where
// the index says. Another program never writes into the middle of a file: it
// appends, or makes a new file, whose records are good and elsewhere. A copy that
// is damaged stays ours, so that it can be repaired from another one.
func (v *Volume) merelyDamaged(c *checkpoint) (bool, error) {
	from := (c.committed - 1) / sumBlock * sumBlock
	rows, bad, good := int64(0), 0, 0
	var rec []byte
	var n needle.Needle
	err := eachRow(v.idx, 0, func(row indexRow, _ []byte) bool {
		if rows++; rows > c.rows {
			return false
		}
		end := row.end(needle.V3)
		if end <= from || end > c.committed || row.offset < SuperBlockSize {
			return true
		}
		if need := end - row.offset; int64(cap(rec)) < need {
			rec = make([]byte, need)
		} else {
			rec = rec[:need]
		}
		if _, err := v.dat().ReadAt(rec, row.offset); err != nil || fits(&n, row, rec) != nil {
			bad++
		} else {
			good++
		}
		return true
	})
	return err == nil && bad > 0 && good >= bad, err
}
