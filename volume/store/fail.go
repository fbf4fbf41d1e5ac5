package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
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
//	8 "weedfail" | 2 format, 2 | 2 zero | 4 volume id | 8 copy id | 8 committed | 8 durable | n reason | 4 CRC-32C of all before
//
// Format 1 has no durable length.
const (
	failMagic   = "weedfail"
	failFormat  = 2
	failHeader  = 40
	failHeader1 = 32 // in format 1
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
	t := v.trust()
	if err := v.opts.Ledger.fail(v.id, v.copy, t); err != nil {
		v.log.Error("a failed copy could not be marked in the ledger of this node", "volume", v.id, "copy", v.copy, "err", err)
	}
	if err := vfs.Replace(v.opts.FS, v.base+extFail, v.encodeFailMark(t, err.Error())); err != nil {
		v.log.Warn("a failed copy could not be marked beside its files", "volume", v.id, "copy", v.copy, "err", err)
	}
	return v.Failed()
}

// trust is what of v can be trusted when it fails. What is durable may have been
// acknowledged, though this copy has not heard so. With sync "os" nothing is known
// to be durable.
func (v *Volume) trust() trust {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.opts.Sync == SyncOS {
		return trust{v.committed, v.committed}
	}
	return trust{v.committed, v.durable}
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

// recallFailure looks whether the copy failed in an earlier run, and how much of it
// could be trusted then; bytes that follow may be in the page cache only.
func (v *Volume) recallFailure() error {
	v.trusted = trust{math.MaxInt64, math.MaxInt64}
	b, err := vfs.ReadFile(v.opts.FS, v.base+extFail)
	switch {
	case err == nil:
		t, reason := v.decodeFailMark(b)
		v.trusted = t
		v.setFailed(fmt.Errorf("in an earlier run: %s", reason))
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	if v.opts.Ledger == nil {
		return nil
	}
	if t, failed := v.opts.Ledger.failed(v.id, v.copy); failed {
		v.trusted = trust{min(v.trusted.committed, t.committed), min(v.trusted.durable, t.durable)}
		v.setFailed(errors.New("in an earlier run, by the ledger of this node"))
	}
	return nil
}

func (v *Volume) encodeFailMark(t trust, reason string) []byte {
	b := binary.BigEndian.AppendUint16([]byte(failMagic), failFormat)
	b = binary.BigEndian.AppendUint32(append(b, 0, 0), uint32(v.id))
	b = binary.BigEndian.AppendUint64(b, uint64(v.copy))
	b = binary.BigEndian.AppendUint64(b, uint64(t.committed))
	b = binary.BigEndian.AppendUint64(b, uint64(t.durable))
	return appendSum(append(b, reason...), 0)
}

// decodeFailMark reads a mark. One that cannot be read is one all the same, and
// vouches for nothing.
func (v *Volume) decodeFailMark(b []byte) (t trust, reason string) {
	none := trust{SuperBlockSize, SuperBlockSize}
	if len(b) < failHeader1+4 || string(b[:8]) != failMagic || !sumFits(b) || volume.CopyID(binary.BigEndian.Uint64(b[16:])) != v.copy {
		return none, "the mark that says why cannot be read"
	}
	at := func(off int) int64 { return int64(binary.BigEndian.Uint64(b[off:])) }
	switch format := binary.BigEndian.Uint16(b[8:]); {
	case format == 1:
		return trust{at(24), at(24)}, string(b[failHeader1 : len(b)-4])
	case format == failFormat && len(b) >= failHeader+4:
		return trust{at(24), at(32)}, string(b[failHeader : len(b)-4])
	default:
		return none, fmt.Sprintf("the mark that says why is of format %d, which this program does not know", format)
	}
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
