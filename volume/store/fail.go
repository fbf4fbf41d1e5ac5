package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"weedd/volume"
	"weedd/volume/vfs"
)

// A copy that failed must stay so over a restart: after a failed fsync the page
// cache holds bytes that the disk never got, and says the next time that they are
// clean (rule R5). So it is marked twice: in the ledger of the node, which counts,
// as the disk of the copy may be the broken one; and, as best it can be, by a file
// beside it, which goes where the disk goes:
//
//	8 "weedfail" | 2 format, 1 | 2 zero | 4 volume id | 8 copy id | 8 committed | n reason | 4 CRC-32C of all before
const (
	failMagic  = "weedfail"
	failFormat = 1
	failHeader = 32
)

// fail ends the copy: nothing is written to it after err. The first err stays.
// An err that comes from closed files ends nothing.
func (v *Volume) fail(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("%w: volume %d: %w", volume.ErrClosed, v.id, err)
	}
	if !v.setFailed(err) {
		return v.Failed()
	}
	v.log.Error("copy failed and takes no more writes", "volume", v.id, "copy", v.copy, "err", err)
	committed := v.Committed()
	if v.opts.Ledger != nil {
		if err := v.opts.Ledger.Fail(v.id, v.copy, committed); err != nil {
			v.log.Error("a failed copy could not be marked in the ledger of this node", "volume", v.id, "copy", v.copy, "err", err)
		}
	}
	if err := vfs.Replace(v.opts.FS, v.base+extFail, v.encodeFailMark(committed, err.Error())); err != nil {
		v.log.Warn("a failed copy could not be marked beside its files", "volume", v.id, "copy", v.copy, "err", err)
	}
	return v.Failed()
}

// failUntilReopened is fail for a change that may be half done, and that the next
// Open finishes or takes back: for want of room the copy is not lost for good.
func (v *Volume) failUntilReopened(err error) error {
	if passing(err) == nil {
		return v.fail(err)
	}
	if v.setFailed(err) {
		v.log.Error("copy takes no more writes until it is opened again", "volume", v.id, "copy", v.copy, "err", err)
	}
	return v.Failed()
}

// setFailed reports whether err is the first.
func (v *Volume) setFailed(err error) bool {
	err = fmt.Errorf("%w: volume %d: copy %s failed: %w", volume.ErrReadOnly, v.id, v.copy, err)
	return v.failed.CompareAndSwap(nil, &err)
}

// recallFailure looks whether the copy failed in an earlier run, and how far it
// was committed then; bytes that follow may be in the page cache only.
func (v *Volume) recallFailure() error {
	v.trusted = maxOffset
	b, err := vfs.ReadFile(v.opts.FS, v.base+extFail)
	switch {
	case err == nil:
		committed, reason := v.decodeFailMark(b)
		v.trusted = committed
		v.setFailed(fmt.Errorf("in an earlier run: %s", reason))
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	if v.opts.Ledger == nil {
		return nil
	}
	if committed, failed := v.opts.Ledger.Failed(v.id, v.copy); failed {
		v.trusted = min(v.trusted, committed)
		v.setFailed(errors.New("in an earlier run, by the ledger of this node"))
	}
	return nil
}

func (v *Volume) encodeFailMark(committed int64, reason string) []byte {
	b := binary.BigEndian.AppendUint16([]byte(failMagic), failFormat)
	b = binary.BigEndian.AppendUint32(append(b, 0, 0), uint32(v.id))
	b = binary.BigEndian.AppendUint64(b, uint64(v.copy))
	b = binary.BigEndian.AppendUint64(b, uint64(committed))
	return appendSum(append(b, reason...), 0)
}

// decodeFailMark reads a mark. One that cannot be read is one all the same, and
// vouches for nothing.
func (v *Volume) decodeFailMark(b []byte) (committed int64, reason string) {
	if len(b) < failHeader+4 || string(b[:8]) != failMagic || !sumFits(b) || volume.CopyID(binary.BigEndian.Uint64(b[16:])) != v.copy {
		return SuperBlockSize, "the mark that says why cannot be read"
	}
	return int64(binary.BigEndian.Uint64(b[24:])), string(b[failHeader : len(b)-4])
}

// noRoom reports whether err says that the disk is full, which is no failure of
// the disk: what could not be written was promised to nobody.
func noRoom(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// passing gives the kind of an err that will pass and that changed nothing,
// wherever it does not come from a sync; nil for any other.
func passing(err error) error {
	switch {
	case noRoom(err):
		return volume.ErrNoSpace
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, volume.ErrUnavailable):
		return volume.ErrUnavailable
	}
	return nil
}

// typed adds that kind to err.
func typed(err error) error {
	if kind := passing(err); kind != nil {
		return fmt.Errorf("%w: %w", kind, err)
	}
	return err
}
