package store

import (
	"errors"
	"math"
	"os"
	"strings"
	"syscall"
	"testing"

	"weedd/volume"
	"weedd/volume/vfs"
	"weedd/volume/vfs/faultfs"
)

func openLedger(t *testing.T, fs vfs.FS) *Ledger {
	t.Helper()
	l, err := OpenLedger(fs, "/copies")
	must(t, err)
	return l
}

func TestACopyIsMadeOnceWhateverHappensToTheNode(t *testing.T) {
	t.Parallel()
	fs := faultfs.New(1)
	l := openLedger(t, fs)
	must(t, l.Make(7, 70, 3))
	must(t, l.Make(8, 80, 1))
	must(t, l.fail(8, 80, trust{1232, 2000}))
	for range 3 {
		fs = fs.Crash(0) // what was not synced is lost
		l = openLedger(t, fs)
		if err := l.Make(7, 70, 4); !errors.Is(err, volume.ErrExists) {
			t.Errorf("the same copy: %v", err)
		}
		if err := l.Make(7, 71, 2); !errors.Is(err, volume.ErrStale) {
			t.Errorf("another copy by an older order: %v", err)
		}
		if !l.Made(7, 70) || l.Made(7, 71) || l.Made(9, 70) {
			t.Errorf("made: 7/70 %v, 7/71 %v, 9/70 %v", l.Made(7, 70), l.Made(7, 71), l.Made(9, 70))
		}
		if t80, failed := l.failed(8, 80); t80 != (trust{1232, 2000}) || !failed {
			t.Errorf("failed copy: %+v, %v", t80, failed)
		}
		if _, failed := l.failed(7, 70); failed {
			t.Error("a copy that did not fail has")
		}
	}
	must(t, l.Make(7, 72, 5))
}

// Before there was a durable length in it, a record said how much was committed.
func TestAnOldRecordOfAFailedCopyVouchesForWhatWasCommitted(t *testing.T) {
	t.Parallel()
	fs := faultfs.New(1)
	l := openLedger(t, fs)
	must(t, l.Make(7, 70, 1))
	b, err := vfs.ReadFile(fs, "/copies")
	must(t, err)
	must(t, vfs.Write(fs, "/copies", append(b, ledgerRow(ledgerFailed, 7, 70, 4096)...)))
	for range 2 {
		if t70, failed := openLedger(t, fs).failed(7, 70); !failed || t70 != (trust{4096, 4096}) {
			t.Errorf("%+v, %v", t70, failed)
		}
	}
}

// A record that may be in the file or not counts as if it were: the copy is not
// made, and not by a later order either.
func TestALedgerThatCannotBeWrittenLetsNothingBeMade(t *testing.T) {
	t.Parallel()
	for i := 0; ; i++ {
		fs := faultfs.New(uint64(i))
		l := openLedger(t, fs)
		must(t, l.Make(7, 70, 1))
		before := fs.Ops()
		fs.FailAt(i)
		err := l.Make(8, 80, 1)
		fs.SetFault(nil)
		if fs.Ops()-before <= i {
			must(t, err)
			break
		}
		if err == nil {
			t.Fatalf("operation %d failed, and the copy may be made", i)
		}
		if err := l.Make(8, 80, 2); !errors.Is(err, volume.ErrExists) {
			t.Fatalf("operation %d failed: the same copy: %v", i, err)
		}
		must(t, l.Make(9, 90, 1)) // the next goes through
		l = openLedger(t, fs.Crash(uint64(i)))
		if !l.Made(7, 70) || !l.Made(9, 90) {
			t.Fatalf("operation %d failed: 7/70 %v, 9/90 %v", i, l.Made(7, 70), l.Made(9, 90))
		}
	}
}

// A record whose fsync failed is in the page cache, where the next process finds it
// whole, and not on the disk. Records behind it must not turn that into damage.
func TestALedgerWhoseFsyncFailedIsWrittenAnewByTheNextRun(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		fs := faultfs.New(seed)
		l := openLedger(t, fs)
		must(t, l.Make(7, 70, 1))
		failing(fs, syscall.EIO, faultfs.Sync, "copies")
		if err := l.Make(8, 80, 1); !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
		fs.SetFault(nil)
		fs = fs.Kill()
		l = openLedger(t, fs)
		must(t, l.Make(9, 90, 1))
		l, err := OpenLedger(fs.Crash(seed), "/copies")
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if !l.Made(7, 70) || !l.Made(9, 90) {
			t.Errorf("seed %d: 7/70 %v, 9/90 %v", seed, l.Made(7, 70), l.Made(9, 90))
		}
	}
}

// A ledger that cannot be written anew at a start is written anew before the next
// record.
func TestALedgerOnAFullDiskIsReadAllTheSame(t *testing.T) {
	t.Parallel()
	fs := faultfs.New(1)
	must(t, openLedger(t, fs).Make(7, 70, 1))
	failing(fs, syscall.ENOSPC, faultfs.Write, "")
	l := openLedger(t, fs)
	if err := l.Make(8, 80, 1); !l.Made(7, 70) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("7/70 %v; %v", l.Made(7, 70), err)
	}
	fs.SetFault(nil)
	must(t, l.Make(9, 90, 1))
	if l = openLedger(t, fs.Crash(0)); !l.Made(7, 70) || !l.Made(9, 90) {
		t.Errorf("7/70 %v, 9/90 %v", l.Made(7, 70), l.Made(9, 90))
	}
}

func TestATornTailOfTheLedgerIsLeftOutAndDamageIsNot(t *testing.T) {
	t.Parallel()
	fs := faultfs.New(1)
	l := openLedger(t, fs)
	must(t, l.Make(7, 70, 1))
	must(t, l.Make(8, 80, 1))
	whole, err := vfs.ReadFile(fs, "/copies")
	must(t, err)
	for cut := len(whole) - ledgerRecord; cut < len(whole); cut++ {
		for _, junk := range []byte{0, 0xff} {
			b := append([]byte(nil), whole[:cut]...)
			for len(b) < len(whole) && junk != 0 {
				b = append(b, junk)
			}
			must(t, vfs.Write(fs, "/copies", b))
			l := openLedger(t, fs)
			if !l.Made(7, 70) || l.Made(8, 80) {
				t.Fatalf("cut at %d: 7/70 %v, 8/80 %v", cut, l.Made(7, 70), l.Made(8, 80))
			}
			must(t, l.Make(8, 81, 1))
			if l = openLedger(t, fs); !l.Made(7, 70) || !l.Made(8, 81) {
				t.Fatalf("cut at %d, after another record: 7/70 %v, 8/81 %v", cut, l.Made(7, 70), l.Made(8, 81))
			}
		}
	}
	for at := range whole[:len(whole)-ledgerRecord] {
		b := append([]byte(nil), whole...)
		b[at] ^= 1
		must(t, vfs.Write(fs, "/copies", b))
		if _, err := OpenLedger(fs, "/copies"); err == nil || !strings.Contains(err.Error(), "/copies") {
			t.Fatalf("byte %d is damaged: %v", at, err)
		}
	}
}

func TestTheLedgerForgetsWhatCanNeverBeNamedAgain(t *testing.T) {
	t.Parallel()
	fs := faultfs.New(1)
	l := openLedger(t, fs)
	must(t, l.Make(7, 70, 1))
	must(t, l.Make(7, 71, 4))
	must(t, l.Make(8, 80, 2))
	must(t, l.Make(9, 90, 2))
	must(t, l.Forget(7, 1, 0)) // by an entry no newer than the order
	must(t, l.Forget(7, 5, 71))
	must(t, l.Forget(8, math.MaxUint64, 0))
	if !l.Made(7, 70) {
		t.Error("forgotten before the next start")
	}
	l = openLedger(t, fs.Crash(0))
	if l.Made(7, 70) || !l.Made(7, 71) || l.Made(8, 80) || !l.Made(9, 90) {
		t.Errorf("7/70 %v, 7/71 %v, 8/80 %v, 9/90 %v", l.Made(7, 70), l.Made(7, 71), l.Made(8, 80), l.Made(9, 90))
	}
	fs = faultfs.New(2)
	l = openLedger(t, fs)
	for i := range uint64(1000) { // one copy after another takes its place
		must(t, l.Make(7, volume.CopyID(i+1), i+1))
		must(t, l.Forget(7, i+1, volume.CopyID(i+1)))
	}
	openLedger(t, fs)
	if info, err := fs.Stat("/copies"); err != nil || info.Size != 2*ledgerRecord {
		t.Errorf("%d bytes after a thousand copies of one volume, one at a time: %v", info.Size, err)
	}
}

func TestCopiesFoundOnDisksAreInTheLedger(t *testing.T) {
	t.Parallel()
	disk, home := newDisk(t, 1), faultfs.New(1)
	s, err := Open(options(disk, "/d"))
	must(t, err)
	_, err = s.Create(7, volume.Spec{}, 70)
	must(t, err)
	must(t, s.Close())
	s, l := withLedger(t, disk, home)
	if !l.Made(7, 70) {
		t.Error("a copy that is there is not in the ledger")
	}
	must(t, s.Close())
	if l = openLedger(t, home.Crash(0)); !l.Made(7, 70) {
		t.Error("not durably")
	}
	if _, err := OpenLedger(home, "/nowhere/copies"); err == nil || !errors.Is(err, os.ErrNotExist) && !errors.Is(err, faultfs.ErrCrashed) {
		t.Errorf("a ledger without a directory: %v", err)
	}
}
