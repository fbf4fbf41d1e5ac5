package consensus

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

// damagedError says what is wrong with the memory of a member, beyond doubt. A
// disk that gives errors is no damage: it may give the bytes tomorrow.
type damagedError struct{ what string }

func (e *damagedError) Error() string { return e.what }

func damaged(format string, args ...any) error { return &damagedError{fmt.Sprintf(format, args...)} }

// setAsideDamaged moves a raft directory away whose content cannot be what raft
// left there, so that this node joins as a new member: its raft id goes with what
// it has forgotten (rule R2), and the other members have all that it had. Nothing
// is deleted.
func setAsideDamaged(dir string, log *slog.Logger) error {
	err := checkMemory(dir)
	var bad *damagedError
	if !errors.As(err, &bad) {
		return err
	}
	aside := fmt.Sprintf("%s.damaged-%s", filepath.Clean(dir), time.Now().UTC().Format("20060102T150405.000"))
	if err := errors.Join(os.Rename(dir, aside), syncDir(filepath.Dir(filepath.Clean(dir)))); err != nil {
		return fmt.Errorf("set damaged raft state aside (%w): %w", bad, err)
	}
	log.Error("the raft state of this master is damaged and was set aside; it joins the other masters as a new one",
		"err", bad, "aside", aside)
	return nil
}

// checkMemory looks whether what a member has to remember is there and whole. A
// directory of a member that never was is whole.
func checkMemory(dir string) (err error) {
	// A file that was cut is mapped beyond its end: reading there is a fault, which
	// ends the process unless it is made a panic.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if v := recover(); v != nil { // bbolt panics over pages that make no sense
			err = damaged("raft.db: %v", v)
		}
	}()
	path := filepath.Join(dir, "raft.db")
	info, err := os.Stat(path)
	_, idErr := os.Stat(filepath.Join(dir, idFile))
	switch {
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("look at %s: %w", path, err)
	case (err != nil || info.Size() == 0) && idErr == nil:
		return damaged("raft.db is missing or empty")
	case err != nil || info.Size() == 0:
		return nil
	}
	if least := int64(4 * os.Getpagesize()); info.Size() < least { // as bbolt makes it
		return damaged("raft.db has %d bytes, which is less than an empty one", info.Size())
	}
	if err := checkPages(path); err != nil {
		return err
	}
	store, err := openBolt(path)
	if err != nil {
		return err
	}
	return errors.Join(checkState(dir, store, idErr == nil), store.Close())
}

// checkPages walks all pages of a bbolt file.
func checkPages(path string) error {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	switch {
	case errors.Is(err, bbolterrors.ErrTimeout):
		return fmt.Errorf("open %s: another process has it open", path)
	case errors.Is(err, bbolterrors.ErrInvalid), errors.Is(err, bbolterrors.ErrChecksum), errors.Is(err, bbolterrors.ErrVersionMismatch):
		return damaged("raft.db: %v", err)
	case err != nil:
		return fmt.Errorf("open %s: %w", path, err)
	}
	var first error
	err = db.View(func(tx *bbolt.Tx) error {
		if err := fits(path, tx.Size()); err != nil {
			return err
		}
		for err := range tx.Check() {
			if first == nil {
				first = damaged("raft.db: %v", err)
			}
		}
		return first
	})
	return errors.Join(err, db.Close())
}

// fits tells of a file that ends before its content does.
func fits(path string, size int64) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	if info.Size() < size {
		return damaged("raft.db has %d of %d bytes", info.Size(), size)
	}
	return nil
}

// checkState looks whether all entries and snapshots can be read and follow one
// another. known says that the member has a raft id.
func checkState(dir string, store *raftboltdb.BoltStore, known bool) error {
	first, err := store.FirstIndex()
	if err != nil {
		return damaged("raft.db: %v", err)
	}
	last, err := store.LastIndex()
	if err != nil {
		return damaged("raft.db: %v", err)
	}
	for i := first; i <= last && i > 0; i++ {
		if err := store.GetLog(i, new(raft.Log)); err != nil {
			return damaged("raft.db: entry %d of %d to %d: %v", i, first, last, err)
		}
	}
	index, err := checkSnapshots(dir)
	switch {
	case err != nil:
		return err
	case first > index+1:
		return damaged("raft.db begins at entry %d, and the newest snapshot ends at %d", first, index)
	}
	term, err := store.GetUint64([]byte("CurrentTerm"))
	if err != nil && !errors.Is(err, raftboltdb.ErrKeyNotFound) {
		return damaged("raft.db: %v", err)
	}
	id, err := store.Get([]byte(idKey))
	if err != nil && !errors.Is(err, raftboltdb.ErrKeyNotFound) {
		return damaged("raft.db: %v", err)
	}
	if known && len(id) == 0 && last == 0 && term == 0 {
		return damaged("raft.db is not the one that this member had: it has no memory of it")
	}
	return nil
}

// checkSnapshots reads the newest snapshot and gives the index where it ends, 0 for
// none.
func checkSnapshots(dir string) (index uint64, err error) {
	names, err := filepath.Glob(filepath.Join(dir, "snapshots", "*-*-*[0-9]")) // those that were begun end in .tmp
	if err != nil || len(names) == 0 {
		return 0, err
	}
	store, err := raft.NewFileSnapshotStoreWithLogger(dir, 2, hclog.NewNullLogger())
	if err != nil {
		return 0, fmt.Errorf("open snapshots in %s: %w", dir, err)
	}
	list, err := store.List()
	if err != nil {
		return 0, fmt.Errorf("list snapshots in %s: %w", dir, err)
	}
	if len(list) < min(len(names), 2) { // what it cannot read it leaves out
		return 0, damaged("of %d snapshots, %d can be read", len(names), len(list))
	}
	meta, content, err := store.Open(list[0].ID) // compares the checksum
	if err != nil {
		return 0, damaged("snapshot %s: %v", list[0].ID, err)
	}
	_, err = io.Copy(io.Discard, content)
	if err := errors.Join(err, content.Close()); err != nil {
		return 0, damaged("snapshot %s: %v", list[0].ID, err)
	}
	return meta.Index, nil
}
