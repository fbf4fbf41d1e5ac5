package replica_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/replica"
	"weedd/volume/store"
	"weedd/volume/vfs/faultfs"
)

// script is a primary that is played: a log, and what it says of it to a follower,
// word by word.
type script struct {
	entry  volume.Entry
	self   volume.Holder
	epochs []volume.EpochStart
	log    []byte // of .dat
	tell   int64  // how much of it is committed
}

var follower = volume.Holder{Node: "b", Copy: 2}

// newScript makes the log of a primary: the first bytes of an earlier one, which
// take in what is common, and more files, from key on.
func newScript(t *testing.T, epoch volume.Epoch, before []byte, epochs []volume.EpochStart, key volume.Key, sizes ...int) *script {
	t.Helper()
	p := &script{self: volume.Holder{Node: "a", Copy: 1}, epochs: epochs, log: bytes.Clone(before)}
	p.entry = volume.Entry{Volume: 1, State: volume.StateOpen, Epoch: epoch, Version: uint64(epoch), Primary: "a", Spec: volume.Spec{Placement: placement(2)},
		InSync: []volume.Holder{p.self}, Joining: []volume.Holder{follower}, Generation: epochs[len(epochs)-1].Generation}
	for i, size := range sizes {
		n := needle.Needle{Key: key + volume.Key(i), Cookie: 7, Data: bytes.Repeat([]byte{byte(key) + byte(i)}, max(size, 0)), AppendedAt: uint64(epoch)<<40 + uint64(len(p.log))}
		n.Tombstone = size < 0
		var err error
		if n.Tombstone {
			n.Key, n.Data = volume.Key(-size), nil
		}
		if p.log, err = needle.Append(p.log, &n); err != nil {
			t.Fatal(err)
		}
	}
	p.tell = int64(len(p.log))
	return p
}

// catchUp brings a follower to the end of the log, in frames that cut records
// anywhere, and returns how much of it the follower has acknowledged.
func (p *script) catchUp(r *replica.Replica) (acked int64, err error) {
	const frame = 700
	up, down, done := make(chan *replica.Message, 1), make(chan *replica.Message, 1), make(chan struct{})
	end := sync.OnceFunc(func() { close(done) })
	var serving sync.WaitGroup
	var served error
	serving.Go(func() {
		served = r.Serve(context.Background(), &scripted{in: up, out: down, done: done, end: end})
		end()
	})
	defer func() {
		end()
		serving.Wait()
		err = errors.Join(err, served)
	}()
	say := func(m *replica.Message) (*replica.Message, error) {
		up <- m
		select {
		case m := <-down:
			return m, nil
		case <-done:
			return nil, io.EOF
		}
	}
	stream := uint64(p.entry.Epoch) << 32
	welcome, err := say(&replica.Message{Kind: replica.KindHello, Stream: stream, Entry: p.entry, From: p.self, To: follower,
		Epochs: p.epochs, End: int64(len(p.log)), Committed: p.tell})
	switch {
	case err != nil:
		return 0, err
	case welcome.Kind != replica.KindWelcome:
		return 0, fmt.Errorf("%s: %s", welcome.Code, welcome.Reason)
	case welcome.Checksum != needle.Checksum(p.log[:welcome.End]):
		return 0, fmt.Errorf("other bytes before %d", welcome.End)
	}
	at := welcome.End
	acked = at
	for seq := uint64(1); ; seq++ {
		n := min(frame, int64(len(p.log))-at)
		ack, err := say(&replica.Message{Kind: replica.KindBatch, Stream: stream, Seq: seq, Offset: at, Bytes: bytes.Clone(p.log[at : at+n]), Committed: min(p.tell, acked)})
		if err != nil {
			return acked, err
		}
		at, acked = at+n, ack.Durable
		if n == 0 { // all of it, and it was told that all is committed
			return acked, nil
		}
	}
}

// scripted is the follower's side of a link to a script.
type scripted struct {
	in   <-chan *replica.Message
	out  chan<- *replica.Message
	done <-chan struct{}
	end  func()
}

func (l *scripted) Send(m *replica.Message) error {
	select {
	case l.out <- m:
		return nil
	case <-l.done:
		return io.ErrClosedPipe
	}
}

func (l *scripted) Recv() (*replica.Message, error) {
	select {
	case m := <-l.in:
		return m, nil
	case <-l.done:
		return nil, io.EOF
	}
}

func (l *scripted) Close() { l.end() }

// copyOn opens the copy of the follower on a disk, making it if made is false.
func copyOn(fs *faultfs.FS, made bool) (*store.Store, *store.Volume, error) {
	s, err := store.Open(store.Options{FS: fs, Dirs: []store.Dir{{Path: "/data", Max: 10, Init: true}}, Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		return nil, nil, err
	}
	v, err := s.Volume(1)
	if !made {
		v, err = s.Create(1, volume.Spec{Placement: placement(2)}, follower.Copy)
	}
	if err != nil {
		return nil, nil, errors.Join(err, fmt.Errorf("set aside: %v", s.Aside()), s.Close())
	}
	return s, v, nil
}

// follow lets the copy on a disk catch up with p, and checkpoints and closes it.
func (p *script) follow(fs *faultfs.FS) (acked int64, err error) {
	s, v, err := copyOn(fs, true)
	if err != nil {
		return 0, err
	}
	r := replica.New(replica.Options{Self: follower, Volume: 1, Log: v, Logger: slog.New(slog.DiscardHandler), Now: time.Now})
	r.Learn(p.entry)
	acked, err = p.catchUp(r)
	return acked, errors.Join(err, r.Close(), s.Close())
}

// holds checks what is on a disk: the first bytes of p's log at the least, the
// rest whole, and the index as the data. It reports whether the copy has failed.
func (p *script) holds(fs *faultfs.FS, least int64) (failed bool, err error) {
	s, v, err := copyOn(fs, true)
	if err != nil {
		return false, err
	}
	failed = v.Failed() != nil
	if failed { // by R5 it claims no more than was committed when it failed
		least = min(least, v.Committed())
	}
	got := make([]byte, least)
	if _, err := v.ReadAt(got, 0); v.End() < least || err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(got, p.log[:least]) {
		return failed, errors.Join(fmt.Errorf("%d bytes of the %d that it acknowledged, or others: %w", v.End(), least, err), s.Close())
	}
	if err := s.Close(); err != nil {
		return failed, err
	}
	found, err := store.Find(fs, "/data")
	if err != nil || len(found) != 1 {
		return failed, fmt.Errorf("volumes %v: %w", found, err)
	}
	check, err := store.Check(context.Background(), fs, found[0], nil)
	if err == nil && !check.Good && !failed {
		err = fmt.Errorf("check: %+v", check.Findings)
	}
	return failed, err
}

// catchUps are the ways in which a copy comes to what the others have. Each makes
// a disk as it was before, and the primary's script; kept is what was committed.
var catchUps = map[string]func(t *testing.T, fs *faultfs.FS) (p *script, kept int64){
	"the whole log, into a copy that was just made": func(t *testing.T, fs *faultfs.FS) (*script, int64) {
		begin := volume.EpochStart{Epoch: 1, Start: replica.Origin, Generation: 1}
		super := []byte{3, byte(placement(2)), 0, 0, 0, 1, 0, 0}
		s, _, err := copyOn(fs, false)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		return newScript(t, 1, super, []volume.EpochStart{begin}, 1, 300, 2500, 0, 40, -1, 900), 0
	},
	"the tail, after a cut of what nobody else has": func(t *testing.T, fs *faultfs.FS) (*script, int64) {
		begin := volume.EpochStart{Epoch: 1, Start: replica.Origin}
		super := []byte{3, byte(placement(2)), 0, 0, 0, 0, 0, 0}
		s, _, err := copyOn(fs, false)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		common := newScript(t, 1, super, []volume.EpochStart{begin}, 1, 300, 1000, 50)
		old := newScript(t, 1, common.log, common.epochs, 20, 800, 60)
		old.tell = common.tell
		if _, err := old.follow(fs); err != nil {
			t.Fatal(err)
		}
		next := volume.EpochStart{Epoch: 2, Start: common.tell}
		return newScript(t, 2, common.log, []volume.EpochStart{begin, next}, 30, 500, 1800, -2, 70), common.tell
	},
}

// goesOn makes sure that the copy on a disk has what it acknowledged, and catches
// up with p from there, unless it has failed for good.
func (p *script) goesOn(fs *faultfs.FS, acked int64) error {
	failed, err := p.holds(fs, acked)
	if err != nil || failed {
		return err
	}
	end, err := p.follow(fs)
	if err == nil && end != int64(len(p.log)) {
		err = fmt.Errorf("caught up to %d of %d", end, len(p.log))
	}
	if err != nil {
		return fmt.Errorf("catch up again: %w", err)
	}
	_, err = p.holds(fs, end)
	return err
}

// Whichever operation fails while a copy catches up, it has afterwards what it
// acknowledged, whole records else, and an index that is that of the data; and it
// catches up, unless it has failed by rule R5.
func TestCatchUpWhenEachOperationFails(t *testing.T) {
	t.Parallel()
	for name, prepare := range catchUps {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for i := 0; ; i++ {
				fs := faultfs.New(uint64(i))
				p, kept := prepare(t, fs)
				before := fs.Ops()
				fs.FailAt(i)
				acked, err := p.follow(fs)
				fs.SetFault(nil)
				if done := fs.Ops()-before <= i; done {
					if err != nil {
						t.Fatal(err)
					}
					t.Logf("%d operations", i)
					break
				}
				if bad := p.goesOn(fs, max(acked, kept)); bad != nil {
					t.Fatalf("operation %d failed (%v): %v", i, err, bad)
				}
			}
		})
	}
}

// The same when the power goes at each operation, and what was not synced is lost,
// kept or torn.
func TestCatchUpWhenThePowerGoes(t *testing.T) {
	t.Parallel()
	off := errors.New("power cut")
	for name, prepare := range catchUps {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for i, done := 0, false; !done; i++ {
				for seed := range uint64(4) {
					fs := faultfs.New(seed)
					p, kept := prepare(t, fs)
					at := fs.Ops() + i
					fs.SetFault(func(op faultfs.Op) error {
						if op.N >= at {
							return off
						}
						return nil
					})
					acked, err := p.follow(fs)
					done = fs.Ops() <= at
					fs.SetFault(nil)
					if bad := p.goesOn(fs.Crash(seed), max(acked, kept)); bad != nil {
						t.Fatalf("power cut at operation %d, seed %d (%v): %v", i, seed, err, bad)
					}
				}
			}
		})
	}
}
