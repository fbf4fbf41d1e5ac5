package volumerpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/replica"
	"weedd/volume/rpcwire"
	"weedd/volume/server"
)

// Conns gives connections to other daemons: the same one for the same node and
// use, made when first needed. Safe for concurrent use.
type Conns interface {
	Conn(internalAddr string, node volume.NodeID, use string) (grpc.ClientConnInterface, error)
}

// Client calls the volume roles of other daemons. It implements server.Remote.
// Safe for concurrent use.
type Client struct {
	conns Conns
	first time.Duration
}

// NewClient makes a Client. firstAnswer is how long a daemon may take to show
// any sign of life; 0 is one second.
func NewClient(conns Conns, firstAnswer time.Duration) *Client {
	if firstAnswer == 0 {
		firstAnswer = time.Second
	}
	return &Client{conns: conns, first: firstAnswer}
}

// Put has node write n, if it leads the volume. An error that is not
// volume.ErrOutcomeUnknown says that nothing was written.
func (c *Client) Put(ctx context.Context, node volume.Node, id volume.FileID, n *needle.Needle, createOnly bool, after volume.Epoch) (volume.PutResult, error) {
	h := &writeHeader{
		Volume: id.Volume, Key: id.Key, Cookie: id.Cookie, CreateOnly: createOnly, After: after, Flags: n.Flags, Name: n.Name, Mime: n.Mime,
		Pairs: n.Pairs, Modified: n.Modified, TTL: n.TTL, Size: int64(len(n.Data)),
	}
	a, err := c.write(ctx, node, h, n.Data)
	return a.Put, err
}

// Delete has node delete a file, if it leads the volume. An error that is not
// volume.ErrOutcomeUnknown says that nothing was deleted.
func (c *Client) Delete(ctx context.Context, node volume.Node, id volume.FileID, after volume.Epoch) (size int64, err error) {
	h := &writeHeader{Volume: id.Volume, Key: id.Key, Cookie: id.Cookie, Delete: true, After: after}
	a, err := c.write(ctx, node, h, nil)
	return a.Deleted, err
}

func (c *Client) write(ctx context.Context, node volume.Node, h *writeHeader, data []byte) (writeAnswer, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := open[writeFrame, writeAnswer](ctx, c, node, "Write", useWrite)
	if err != nil {
		return writeAnswer{}, err
	}
	f := writeFrame{Header: h}
	for { // a failed Send says only io.EOF; Recv says why
		f.Data, data = data[:min(len(data), maxFrame)], data[min(len(data), maxFrame):]
		if err := stream.Send(&f); err != nil || len(data) == 0 {
			break
		}
		f = writeFrame{}
	}
	answer, err := stream.Recv()
	switch {
	case err == nil:
		return *answer, nil
	case status.Code(err) == codes.Aborted: // the other side's own words
		return writeAnswer{}, rpcwire.Error(err)
	}
	return writeAnswer{}, fmt.Errorf("%w: node %s took a write to volume %d and did not answer: %w", volume.ErrOutcomeUnknown, node.ID, h.Volume, rpcwire.Error(err))
}

// Confirm asks the copy on node, as the primary in epoch, for its committed
// length. from is the copy that asks.
func (c *Client) Confirm(ctx context.Context, node volume.Node, id volume.ID, epoch volume.Epoch, from volume.Holder) (committed int64, err error) {
	conn, err := c.conn(node, useControl)
	if err != nil {
		return 0, err
	}
	// A primary may have to wait for a copy that went away, and to drop it.
	ctx, cancel := context.WithTimeout(ctx, 4*c.first)
	defer cancel()
	a, err := rpcwire.Call[confirmAnswer](ctx, conn, service, "Confirm", &confirmRequest{Volume: id, Epoch: epoch, From: from})
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return 0, fmt.Errorf("%w: node %s did not confirm volume %d in time", volume.ErrUnavailable, node.ID, id)
	case err != nil:
		return 0, fmt.Errorf("confirm volume %d at node %s: %w", id, node.ID, err)
	}
	return a.Committed, nil
}

// Verify asks one copy on node how far it is, and for the checksum of its bytes
// below at. That may take long: ctx bounds it.
func (c *Client) Verify(ctx context.Context, node volume.Node, id volume.ID, copy volume.CopyID, at int64) (server.Verification, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := open[verifyRequest, server.Verification](ctx, c, node, "Verify", useControl)
	if err != nil {
		return server.Verification{}, err
	}
	if err := stream.Send(&verifyRequest{Volume: id, Copy: copy, At: at}); err != nil && !errors.Is(err, io.EOF) {
		return server.Verification{}, rpcwire.Error(err)
	}
	v, err := stream.Recv()
	if err != nil {
		return server.Verification{}, fmt.Errorf("verify volume %d at node %s: %w", id, node.ID, rpcwire.Error(err))
	}
	return *v, nil
}

// Fetch reads one record of a copy on node; see server.Server.FetchHere.
func (c *Client) Fetch(ctx context.Context, node volume.Node, id volume.ID, p server.Piece) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := open[fetchRequest, writeFrame](ctx, c, node, "Fetch", useControl)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(&fetchRequest{Volume: id, Piece: p}); err != nil && !errors.Is(err, io.EOF) {
		return nil, rpcwire.Error(err)
	}
	b := make([]byte, 0, p.Length)
	for int64(len(b)) < p.Length {
		f, err := stream.Recv()
		if err == nil && (len(f.Data) == 0 || int64(len(b)+len(f.Data)) > p.Length) {
			err = fmt.Errorf("%w: a frame of %d bytes after %d of %d", volume.ErrBadRequest, len(f.Data), len(b), p.Length)
		}
		if err != nil {
			return nil, fmt.Errorf("fetch from volume %d at node %s: %w", id, node.ID, rpcwire.Error(err))
		}
		b = append(b, f.Data...)
	}
	return b, nil
}

// Dial opens a stream to the copy on node. ctx bounds only the opening.
func (c *Client) Dial(ctx context.Context, node volume.Node) (replica.Link, error) {
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer context.AfterFunc(ctx, cancel)()
	stream, err := open[replica.Message, replica.Message](life, c, node, "Replicate", useStream)
	if err != nil {
		cancel()
		return nil, err
	}
	return &clientLink{stream: stream, close: cancel}, nil
}

// clientLink is the primary's side of a stream.
type clientLink struct {
	stream grpc.BidiStreamingClient[replica.Message, replica.Message]
	close  context.CancelFunc
}

func (l *clientLink) Send(m *replica.Message) error { return rpcwire.Error(l.stream.Send(m)) }

func (l *clientLink) Recv() (*replica.Message, error) {
	m, err := l.stream.Recv()
	return m, rpcwire.Error(err)
}

func (l *clientLink) Close() { l.close() }

func (c *Client) conn(node volume.Node, use string) (grpc.ClientConnInterface, error) {
	conn, err := c.conns.Conn(node.Internal, node.ID, use)
	if err != nil {
		return nil, fmt.Errorf("%w: connect to node %s at %s: %w", volume.ErrUnavailable, node.ID, node.Internal, err)
	}
	return conn, nil
}

// open starts a stream and waits for its headers: the first sign of life. The
// caller ends the stream by ending ctx.
func open[Up, Down any](ctx context.Context, c *Client, node volume.Node, method, use string) (grpc.BidiStreamingClient[Up, Down], error) {
	conn, err := c.conn(node, use)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	slow := time.AfterFunc(c.first, cancel)
	stream, err := rpcwire.Open[Up, Down](ctx, conn, service, method)
	if err == nil {
		_, err = stream.Header()
	}
	if !slow.Stop() {
		err = fmt.Errorf("no sign of life within %v", c.first)
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("%w: %s at node %s: %w", volume.ErrUnavailable, method, node.ID, rpcwire.Error(err))
	}
	context.AfterFunc(stream.Context(), cancel) // ends with the stream; frees ctx
	return stream, nil
}
