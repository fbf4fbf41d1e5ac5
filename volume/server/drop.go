package server

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"weedd/volume"
	"weedd/volume/store"
)

// dropAgain is how long a drop waits whose conditions did not hold.
const dropAgain = 10 * time.Second

// dropLoop carries out orders to delete, for each directory one at a time: comparing
// copies may take long and must not hold other orders up, nor may a disk that hangs
// those for another one.
func (s *Server) dropLoop(ctx context.Context) {
	tick := time.NewTicker(dropAgain)
	defer tick.Stop()
	var work sync.WaitGroup
	defer work.Wait()
	ended := make(chan string)
	busy, missed := map[string]bool{}, false
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.dropNow:
		case <-tick.C:
		case dir := <-ended:
			if delete(busy, dir); !missed {
				continue
			}
		}
		missed = false
		for dir, drops := range s.pendingDrops() {
			if missed = missed || busy[dir]; busy[dir] {
				continue
			}
			busy[dir] = true
			work.Go(func() {
				s.dropAll(ctx, drops)
				select {
				case ended <- dir:
				case <-ctx.Done():
				}
			})
		}
	}
}

// pendingDrops lists the orders that were not carried out, by the directory of the
// copy; "" for copies that are not here.
func (s *Server) pendingDrops() map[string][]volume.Drop {
	s.mu.Lock()
	defer s.mu.Unlock()
	pending := map[string][]volume.Drop{}
	for _, d := range s.drops {
		dir := ""
		if v, err := s.opts.Store.Volume(d.Volume); err == nil {
			dir = v.Dir()
		}
		pending[dir] = append(pending[dir], d)
	}
	return pending
}

func (s *Server) dropAll(ctx context.Context, drops []volume.Drop) {
	for _, d := range drops {
		if err := s.drop(ctx, d); err != nil {
			if ctx.Err() == nil {
				s.log.Warn("copy is not dropped yet", "volume", d.Volume, "copy", d.Copy, "epoch", d.Epoch, "err", err)
			}
			continue
		}
		s.mu.Lock()
		if now := s.drops[d.Volume]; now.Copy == d.Copy && now.Epoch == d.Epoch {
			delete(s.drops, d.Volume)
		}
		s.mu.Unlock()
	}
}

// drop deletes exactly the copy that d names, if rule R14 allows it. An error
// says why it is still there; nil also when there was nothing to do.
func (s *Server) drop(ctx context.Context, d volume.Drop) error {
	v, err := s.opts.Store.Volume(d.Volume)
	switch {
	case errors.Is(err, volume.ErrNoVolume):
		if d.Ended() {
			s.forget(d.Volume, math.MaxUint64, 0)
		}
		s.reportGone(d.Volume)
		return nil
	case err != nil:
		return fmt.Errorf("find its files: %w", err)
	case d.Copy == 0 || foreign(v) || v.CopyID() != d.Copy:
		s.log.Warn("order to drop a copy that is not here", "volume", d.Volume, "copy", d.Copy)
		return nil
	}
	version := uint64(math.MaxUint64) // no entry will ever name a copy of a deleted volume
	end := s.remove
	switch {
	case d.Forgotten:
		end = s.putAside(errForgotten)
	case d.Deleted && !s.opts.Ledger.Ordered(d.Volume, d.Copy):
		end = s.putAside(errFound)
	case !d.Deleted:
		version, err = s.spare(ctx, d, v)
		if err != nil && !OtherBytes(err) {
			return err
		}
		if err != nil {
			end = s.putAside(err)
		}
	}
	k := s.keep(d.Volume)
	defer s.free(d.Volume, k)
	if r := s.copy(d.Volume); r != nil && !d.Ended() {
		if h, _, ok := r.Entry().Holder(s.opts.Node); ok && h.Copy == d.Copy && r.Entry().Epoch >= d.Epoch {
			return fmt.Errorf("%w: an entry names it again", volume.ErrStale)
		}
	}
	if err := s.closeCopy(d.Volume); err != nil {
		return err
	}
	if err := end(d); err != nil {
		return err
	}
	s.forget(d.Volume, version, 0)
	s.reportGone(d.Volume)
	return nil
}

func (s *Server) remove(d volume.Drop) error {
	if err := s.opts.Store.Remove(d.Volume, d.Copy); err != nil {
		return fmt.Errorf("remove its files: %w", err)
	}
	s.log.Info("copy dropped", "volume", d.Volume, "copy", d.Copy, "epoch", d.Epoch, "deleted", d.Deleted)
	return nil
}

// putAside keeps the files of a copy that is not wanted and cannot be compared:
// nobody can say that all that is in them is elsewhere, too.
func (s *Server) putAside(why error) func(volume.Drop) error {
	return func(d volume.Drop) error {
		if err := s.opts.Store.SetAsideCopy(d.Volume, d.Copy, why.Error()); err != nil {
			return fmt.Errorf("set its files aside: %w", err)
		}
		s.log.Warn("copy set aside in place of a drop", "volume", d.Volume, "copy", d.Copy, "epoch", d.Epoch, "err", why)
		return nil
	}
}

// errOther says of a copy to be dropped that those that stay are well, and have
// other bytes.
var errOther = errors.New("the copies that stay have other bytes than it")

// errFound says of a copy of a deleted volume that this node did not make it: it
// came with its disk, which may be one of another cluster with a volume of that
// number.
var errFound = errors.New("its volume was deleted, and it was not made on this node")

// errForgotten says of a copy that came back that its volume was given up.
var errForgotten = errors.New("its volume was given up for lost (weedd forget) before this copy came back")

func (s *Server) reportGone(id volume.ID) {
	s.mu.Lock()
	delete(s.lost, id)
	if !slices.Contains(s.gone, id) {
		s.gone = append(s.gone, id)
	}
	s.mu.Unlock()
	s.wake()
}

// spare makes sure that the copy v can be spared, by the catalog as it is now and by
// what the copies that stay say now. It returns the version of the entry that it
// went by, also with errOther.
func (s *Server) spare(ctx context.Context, d volume.Drop, v *store.Volume) (version uint64, err error) {
	e, _, err := s.opts.Master.Locate(ctx, d.Volume, 0)
	if err != nil {
		return 0, fmt.Errorf("ask for the entry: %w", err)
	}
	mine := Verification{Committed: v.Committed()}
	if r := s.copy(d.Volume); r != nil {
		if known := r.Entry(); known.Version > e.Version {
			e = known
		}
		mine.Generation = r.Report().Generation
	}
	mine.At = mine.Committed
	if mine.Checksum, err = v.Checksum(mine.At); err != nil && !errors.Is(err, volume.ErrCorrupt) { // damaged bytes are no others' either way
		return 0, fmt.Errorf("checksum of its first %d bytes: %w", mine.At, err)
	}
	sparing, err := NewSparing(d, s.opts.Node, e, mine)
	if err != nil {
		return 0, err
	}
	for _, h := range sparing.Ask() {
		got, err := s.verifyAt(ctx, d.Volume, h, mine.At)
		sparing.Heard(h, got, err)
	}
	return e.Version, sparing.Verdict()
}

func (s *Server) verifyAt(ctx context.Context, id volume.ID, h volume.Holder, at int64) (Verification, error) {
	n, err := s.node(ctx, id, h.Node)
	if err != nil {
		return Verification{}, err
	}
	return s.opts.Remote.Verify(ctx, n, id, h.Copy, at)
}

// Sparing decides whether a node may delete a copy of its own (rule R14): the
// catalog, at the order's epoch or later, does not list it, and as many in-sync
// copies as the placement asks for say, now, that they are at that epoch and have
// its bytes. It does no I/O, and is not safe for concurrent use.
type Sparing struct {
	want   Verification
	ask    []volume.Holder
	need   int // more copies that must have the bytes
	others int // of those that answered, with other bytes
	errs   []error
}

// NewSparing begins to decide on the order d to node self, by the newest entry
// known; mine is what the copy there has, all of its committed bytes. An error says
// that it may not be deleted now, whatever others say.
func NewSparing(d volume.Drop, self volume.NodeID, e volume.Entry, mine Verification) (*Sparing, error) {
	h, _, named := e.Holder(self)
	need := e.Spec.Placement.Copies()
	switch {
	case e.Epoch < d.Epoch:
		return nil, fmt.Errorf("%w: the newest entry known is of epoch %d", volume.ErrStale, e.Epoch)
	case e.Unsure:
		return nil, fmt.Errorf("%w: the masters do not know yet which copies of it are the newest", volume.ErrUnavailable)
	case named && h.Copy == d.Copy:
		return nil, fmt.Errorf("%w: the entry of epoch %d names it", volume.ErrStale, e.Epoch)
	case len(e.InSync) < need:
		return nil, fmt.Errorf("%w: %d copies in sync, %d wanted", volume.ErrUnavailable, len(e.InSync), need)
	}
	s := &Sparing{want: mine, need: need}
	s.want.Epoch = d.Epoch
	for _, keep := range d.Keep {
		if keep.Node != self && slices.Contains(e.InSync, keep) {
			s.ask = append(s.ask, keep)
		}
	}
	return s, nil
}

// Ask lists the copies to be asked what they have below the committed length.
func (s *Sparing) Ask() []volume.Holder { return s.ask }

// Heard takes what one of them said, or why it did not. One of another generation
// cannot be compared, and has other bytes: the copy here may have missed a
// compaction, or be one of another cluster that has the same number.
func (s *Sparing) Heard(h volume.Holder, got Verification, err error) {
	want := s.want
	switch {
	case err != nil:
		err = fmt.Errorf("node %s: %w", h.Node, err)
	case got.Epoch >= want.Epoch && (got.Generation != want.Generation || got.At == want.At && got.Committed >= want.Committed && got.Checksum != want.Checksum):
		s.others++
		err = fmt.Errorf("%w: node %s has %+v, wanted %+v", errOther, h.Node, got, want)
	case got.Epoch < want.Epoch || got.Committed < want.Committed || got.At != want.At:
		err = fmt.Errorf("%w: node %s has %+v, wanted %+v", volume.ErrStale, h.Node, got, want)
	default:
		s.need--
		return
	}
	s.errs = append(s.errs, err)
}

// Verdict is nil if the copy may be deleted. OtherBytes tells of its error whether
// the copy is to be kept aside; after any other the order waits.
func (s *Sparing) Verdict() error {
	switch {
	case s.need > 0 && s.others >= s.need:
		return errors.Join(s.errs...)
	case s.need > 0:
		return fmt.Errorf("%w: %d more copies must have its bytes: %v", volume.ErrUnavailable, s.need, errors.Join(s.errs...))
	}
	return nil
}

// OtherBytes reports whether a Verdict says that enough copies are well, and have
// other bytes than the one to be deleted.
func OtherBytes(err error) bool { return errors.Is(err, errOther) }
