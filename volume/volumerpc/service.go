package volumerpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/replica"
	"weedd/volume/rpcwire"
	"weedd/volume/server"
	"weedd/volume/store"
)

// Node is the volume role as the other daemons need it. None of its methods
// passes a request on to yet another node. Safe for concurrent use.
type Node interface {
	// Follow serves the follower's side of a stream until it ends.
	Follow(ctx context.Context, id volume.ID, link replica.Link) error
	// PutHere and DeleteHere write if a copy on this node leads; else
	// *volume.NotPrimaryError, or volume.ErrNoVolume without a copy.
	PutHere(ctx context.Context, id volume.FileID, n *needle.Needle, createOnly bool, after volume.Epoch) (volume.PutResult, error)
	DeleteHere(ctx context.Context, id volume.FileID, after volume.Epoch) (size int64, err error)
	// ConfirmHere answers the committed length of epoch if a copy on this node
	// leads in it, having made sure that it still does.
	ConfirmHere(ctx context.Context, id volume.ID, epoch volume.Epoch, from volume.Holder) (committed int64, err error)
	// VerifyHere says how far the copy of this node is.
	VerifyHere(ctx context.Context, id volume.ID, copy volume.CopyID, at int64) (server.Verification, error)
	// FetchHere reads one whole record of a copy of this node.
	FetchHere(id volume.ID, p server.Piece) ([]byte, error)
	// SurveyHere and RecordHere read the foreign copy with this print.
	SurveyHere(ctx context.Context, id volume.ID, print uint64) ([]store.SurveyRow, error)
	RecordHere(id volume.ID, print uint64, row store.SurveyRow) ([]byte, error)
}

// Limits bound what others may make this node hold. Zero values mean what the
// comments say.
type Limits struct {
	File     int64 // bytes of one file; 0 is 256 MiB
	InFlight int64 // bytes of memory for all writes passed on to this node, one at least; 0 is 512 MiB
}

// Register adds the service to a gRPC server. The server's own limit on the size
// of a message must be above 1 MiB and some KiB.
func Register(r grpc.ServiceRegistrar, n Node, l Limits) {
	if l.File == 0 {
		l.File = 256 << 20
	}
	if l.InFlight == 0 {
		l.InFlight = 512 << 20
	}
	s := &nodeService{node: n, file: l.File, room: semaphore.NewWeighted(max(l.InFlight, needle.Footprint(l.File)))}
	r.RegisterService(&grpc.ServiceDesc{
		ServiceName: service,
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{rpcwire.Unary(service, "Confirm", (*nodeService).confirm)},
		Streams: []grpc.StreamDesc{
			rpcwire.Stream("Replicate", (*nodeService).replicate),
			rpcwire.Stream("Write", (*nodeService).write),
			rpcwire.Stream("Verify", (*nodeService).verify),
			rpcwire.Stream("Fetch", (*nodeService).fetch),
			rpcwire.Stream("Foreign", (*nodeService).foreign),
		},
	}, s)
}

type nodeService struct {
	node Node
	file int64
	room *semaphore.Weighted // bytes of writes
}

func (s *nodeService) confirm(ctx context.Context, req *confirmRequest) (*confirmAnswer, error) {
	committed, err := s.node.ConfirmHere(ctx, req.Volume, req.Epoch, req.From)
	return &confirmAnswer{Committed: committed}, err
}

// alive sends the headers, by which the caller sees that this process runs.
func alive(stream grpc.ServerStream) error {
	if err := stream.SendHeader(nil); err != nil {
		return fmt.Errorf("send headers: %w", err)
	}
	return nil
}

func (s *nodeService) verify(stream grpc.BidiStreamingServer[verifyRequest, server.Verification]) error {
	if err := alive(stream); err != nil {
		return err
	}
	req, err := stream.Recv()
	if err != nil {
		return err
	}
	v, err := s.node.VerifyHere(stream.Context(), req.Volume, req.Copy, req.At)
	if err != nil {
		return err
	}
	return stream.Send(&v)
}

// fetch sends a record in frames. What it holds of it counts as a write's bytes.
func (s *nodeService) fetch(stream grpc.BidiStreamingServer[fetchRequest, writeFrame]) error {
	if err := alive(stream); err != nil {
		return err
	}
	req, err := stream.Recv()
	if err != nil {
		return err
	}
	if req.Piece.Length < 0 || req.Piece.Length > s.file+recordMost {
		return fmt.Errorf("%w: a record of %d bytes", volume.ErrTooLarge, req.Piece.Length)
	}
	held := min(req.Piece.Length, s.file)
	if err := s.room.Acquire(stream.Context(), held); err != nil {
		return fmt.Errorf("%w: no room for %d bytes", volume.ErrBusy, held)
	}
	defer s.room.Release(held)
	b, err := s.node.FetchHere(req.Volume, req.Piece)
	for err == nil && len(b) > 0 {
		n := min(len(b), maxFrame)
		err = stream.Send(&writeFrame{Data: b[:n]})
		b = b[n:]
	}
	return err
}

func (s *nodeService) write(stream grpc.BidiStreamingServer[writeFrame, writeAnswer]) error {
	if err := alive(stream); err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	h := first.Header
	switch {
	case h == nil || h.Size < 0 || int64(len(first.Data)) > h.Size:
		return fmt.Errorf("%w: a write that does not begin with its header", volume.ErrBadRequest)
	case h.Size > s.file:
		return fmt.Errorf("%w: a file of %d bytes; the limit is %d", volume.ErrTooLarge, h.Size, s.file)
	}
	ctx := stream.Context()
	held := needle.Footprint(h.Size)
	if err := s.room.Acquire(ctx, held); err != nil {
		return fmt.Errorf("%w: no room for %d bytes", volume.ErrBusy, held)
	}
	defer s.room.Release(held)
	if h.Delete {
		size, err := s.node.DeleteHere(ctx, h.id(), h.After)
		if err != nil {
			return err
		}
		return stream.Send(&writeAnswer{Deleted: size})
	}
	n := h.needle()
	if n.Data, err = readData(stream, h.Size, first.Data); err != nil {
		return err
	}
	res, err := s.node.PutHere(ctx, h.id(), n, h.CreateOnly, h.After)
	if err != nil {
		return err
	}
	return stream.Send(&writeAnswer{Put: res})
}

// readData reads the data of a write, of which first came already. One frame is
// used as it is.
func readData(stream grpc.BidiStreamingServer[writeFrame, writeAnswer], size int64, first []byte) ([]byte, error) {
	if int64(len(first)) == size {
		return first, nil
	}
	data := append(make([]byte, 0, size), first...)
	for int64(len(data)) < size {
		f, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
		if f.Header != nil || len(f.Data) == 0 || int64(len(data)+len(f.Data)) > size {
			return nil, fmt.Errorf("%w: a frame of %d bytes after %d of %d", volume.ErrBadRequest, len(f.Data), len(data), size)
		}
		data = append(data, f.Data...)
	}
	return data, nil
}

func (s *nodeService) replicate(stream grpc.BidiStreamingServer[replica.Message, replica.Message]) error {
	if err := alive(stream); err != nil {
		return err
	}
	hello, err := stream.Recv()
	if err != nil {
		return err
	}
	if hello.Kind != replica.KindHello {
		return fmt.Errorf("%w: a stream that does not begin with a hello", volume.ErrBadRequest)
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	link := &serverLink{stream: stream, ctx: ctx, close: cancel, in: make(chan received)}
	go link.read(hello)
	return s.node.Follow(ctx, hello.Entry.Volume, link)
}

// serverLink is the follower's side of a stream. gRPC gives a server no way to
// end a Recv but to return from its handler, so a goroutine reads; it ends when
// the handler has returned, and by the way reads the next message while the last
// is being worked on.
type serverLink struct {
	stream grpc.BidiStreamingServer[replica.Message, replica.Message]
	ctx    context.Context
	close  context.CancelFunc
	in     chan received
	sendMu sync.Mutex
}

type received struct {
	msg *replica.Message
	err error
}

func (l *serverLink) read(first *replica.Message) {
	next := received{msg: first}
	for {
		select {
		case l.in <- next:
		case <-l.ctx.Done():
			return
		}
		if next.err != nil {
			return
		}
		next.msg, next.err = l.stream.Recv()
	}
}

// Send implements replica.Link.
func (l *serverLink) Send(m *replica.Message) error {
	l.sendMu.Lock()
	defer l.sendMu.Unlock()
	if err := l.ctx.Err(); err != nil {
		return fmt.Errorf("send on a closed stream: %w", err)
	}
	return rpcwire.Error(l.stream.Send(m))
}

// Recv implements replica.Link.
func (l *serverLink) Recv() (*replica.Message, error) {
	select {
	case r := <-l.in:
		return r.msg, rpcwire.Error(r.err)
	case <-l.ctx.Done():
		return nil, fmt.Errorf("receive on a closed stream: %w", l.ctx.Err())
	}
}

// Close implements replica.Link.
func (l *serverLink) Close() { l.close() }
