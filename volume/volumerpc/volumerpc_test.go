package volumerpc

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/replica"
	"weedd/volume/server"
	"weedd/volume/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeNode answers what the test says.
type fakeNode struct {
	put     func(ctx context.Context, id volume.FileID, n *needle.Needle, createOnly bool, after volume.Epoch) (volume.PutResult, error)
	confirm func(ctx context.Context) (int64, error)
	follow  func(ctx context.Context, id volume.ID, link replica.Link) error
}

func (f fakeNode) PutHere(ctx context.Context, id volume.FileID, n *needle.Needle, createOnly bool, after volume.Epoch) (volume.PutResult, error) {
	return f.put(ctx, id, n, createOnly, after)
}

func (f fakeNode) DeleteHere(_ context.Context, id volume.FileID, _ volume.Epoch) (int64, error) {
	if id.Key == 404 {
		return 0, volume.ErrNotFound
	}
	return int64(id.Key), nil
}

func (f fakeNode) ConfirmHere(ctx context.Context, id volume.ID, epoch volume.Epoch, from volume.Holder) (int64, error) {
	if f.confirm != nil {
		return f.confirm(ctx)
	}
	return int64(id)*100 + int64(epoch), nil
}

func (f fakeNode) VerifyHere(_ context.Context, id volume.ID, copy volume.CopyID, at int64) (server.Verification, error) {
	if copy == 0 {
		return server.Verification{}, volume.ErrNoVolume
	}
	return server.Verification{Epoch: 3, Committed: 99, At: at, Checksum: 7}, nil
}

func (f fakeNode) FetchHere(_ volume.ID, p server.Piece) ([]byte, error) {
	if p.Copy == 0 {
		return nil, volume.ErrCorrupt
	}
	return bytes.Repeat([]byte{byte(p.Generation)}, int(p.Length)), nil
}

func (f fakeNode) SurveyHere(_ context.Context, id volume.ID, print uint64) ([]store.SurveyRow, error) {
	if print == 0 {
		return nil, volume.ErrStale
	}
	rows := make([]store.SurveyRow, id)
	for i := range rows {
		rows[i] = surveyRow(i)
	}
	return rows, nil
}

func surveyRow(i int) store.SurveyRow {
	return store.SurveyRow{Key: volume.Key(i) << 33, Time: 1 << 60, Offset: int64(i) * 8, Size: int32(i)%7 - 1, Cookie: 0xfedcba98, Sum: uint32(i), Body: ^uint32(i)}
}

func (f fakeNode) RecordHere(_ volume.ID, _ uint64, row store.SurveyRow) ([]byte, error) {
	return bytes.Repeat([]byte{byte(row.Key >> 33)}, int(row.Offset)), nil
}

// A survey and a record arrive as they are, however many frames they take.
func TestForeignCopiesAreRead(t *testing.T) {
	t.Parallel()
	c, _ := dial(t, fakeNode{}, Limits{}, 0)
	for _, n := range []int{0, 1, maxFrame/rowSize + 2} {
		rows, err := c.Survey(context.Background(), peer, volume.ID(n), 5)
		if err != nil || len(rows) != n || n > 0 && rows[n-1] != surveyRow(n-1) {
			t.Fatalf("%d rows of %d: %v", len(rows), n, err)
		}
	}
	if _, err := c.Survey(context.Background(), peer, 3, 0); !errors.Is(err, volume.ErrStale) {
		t.Errorf("%v, want the error of the other side", err)
	}
	row := surveyRow(77)
	row.Offset = 2*maxFrame + 5
	b, err := c.Record(context.Background(), peer, 3, 5, row)
	if err != nil || int64(len(b)) != row.Offset || b[len(b)-1] != 77 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

func (f fakeNode) Follow(ctx context.Context, id volume.ID, link replica.Link) error {
	return f.follow(ctx, id, link)
}

var peer = volume.Node{ID: "peer", Internal: "peer:1"}

// conn is a Conns with one connection.
type conn struct{ *grpc.ClientConn }

func (c conn) Conn(string, volume.NodeID, string) (grpc.ClientConnInterface, error) {
	return c.ClientConn, nil
}

// dial serves n on a connection in memory and returns a client of it, and a
// function that ends the server abruptly.
func dial(t *testing.T, n Node, l Limits, first time.Duration) (c *Client, kill func()) {
	t.Helper()
	lis := bufconn.Listen(64 << 10)
	srv := grpc.NewServer(grpc.MaxRecvMsgSize(16 << 20))
	Register(srv, n, l)
	var work sync.WaitGroup
	work.Go(func() { _ = srv.Serve(lis) })
	t.Cleanup(func() { srv.Stop(); work.Wait() })
	return client(t, lis, first), srv.Stop
}

func client(t *testing.T, lis *bufconn.Listener, first time.Duration) *Client {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///peer", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return NewClient(conn{cc}, first)
}

func TestPutCarriesTheWholeNeedle(t *testing.T) {
	t.Parallel()
	var got *needle.Needle
	var onlyNew, hasDeadline bool
	var from volume.Epoch
	c, _ := dial(t, fakeNode{put: func(ctx context.Context, id volume.FileID, n *needle.Needle, createOnly bool, after volume.Epoch) (volume.PutResult, error) {
		got, onlyNew, from = n, createOnly, after
		_, hasDeadline = ctx.Deadline()
		return volume.PutResult{Unchanged: true, Checksum: 5, Size: int64(len(n.Data))}, nil
	}}, Limits{}, 0)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, size := range []int{0, 1, maxFrame - 1, maxFrame, maxFrame + 1, 5*maxFrame + 3} {
		want := &needle.Needle{
			Key: 7, Cookie: 9, Flags: needle.FlagName | needle.FlagMime, Data: bytes.Repeat([]byte("abc"), size)[:size], Name: []byte("a.txt"),
			Mime: []byte("text/plain"), Pairs: []byte(`{"A":"b"}`), Modified: 1700000000, TTL: volume.TTL{Count: 3, Unit: 2},
		}
		res, err := c.Put(ctx, peer, volume.FileID{Volume: 1, Key: 7, Cookie: 9}, want, true, 6)
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if !res.Unchanged || res.Checksum != 5 || res.Size != int64(size) || !onlyNew || !hasDeadline || from != 6 {
			t.Errorf("%d bytes: %+v, create-only %v, deadline %v, after %d", size, res, onlyNew, hasDeadline, from)
		}
		if !bytes.Equal(got.Data, want.Data) || got.Key != want.Key || got.Cookie != want.Cookie || got.Flags != want.Flags || string(got.Name) != "a.txt" ||
			string(got.Mime) != "text/plain" || string(got.Pairs) != string(want.Pairs) || got.Modified != want.Modified || got.TTL != want.TTL {
			t.Errorf("%d bytes: something was lost on the way", size)
		}
	}
}

func TestErrorsKeepTheirIdentity(t *testing.T) {
	t.Parallel()
	c, _ := dial(t, fakeNode{put: func(context.Context, volume.FileID, *needle.Needle, bool, volume.Epoch) (volume.PutResult, error) {
		return volume.PutResult{}, &volume.NotPrimaryError{Volume: 1, Primary: "x"}
	}}, Limits{File: 10}, 0)
	ctx := context.Background()
	if _, err := c.Put(ctx, peer, volume.FileID{Volume: 1}, &needle.Needle{}, false, 0); !errors.Is(err, volume.ErrNotPrimary) {
		t.Errorf("put: %v", err)
	}
	if _, err := c.Put(ctx, peer, volume.FileID{Volume: 1}, &needle.Needle{Data: make([]byte, 3*maxFrame)}, false, 0); !errors.Is(err, volume.ErrTooLarge) {
		t.Errorf("put above the limit: %v", err)
	}
	if _, err := c.Delete(ctx, peer, volume.FileID{Volume: 1, Key: 404}, 0); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("delete: %v", err)
	}
	if _, err := c.Verify(ctx, peer, 1, 0, 5); !errors.Is(err, volume.ErrNoVolume) {
		t.Errorf("verify: %v", err)
	}
}

func TestQuestionsAreAnswered(t *testing.T) {
	t.Parallel()
	c, _ := dial(t, fakeNode{}, Limits{}, 0)
	ctx := context.Background()
	if size, err := c.Delete(ctx, peer, volume.FileID{Volume: 1, Key: 12}, 0); err != nil || size != 12 {
		t.Errorf("delete: %d, %v", size, err)
	}
	if n, err := c.Confirm(ctx, peer, 2, 3, volume.Holder{}); err != nil || n != 203 {
		t.Errorf("confirm: %d, %v", n, err)
	}
	want := server.Verification{Epoch: 3, Committed: 99, At: 50, Checksum: 7}
	if v, err := c.Verify(ctx, peer, 1, 2, 50); err != nil || v != want {
		t.Errorf("verify: %+v, %v", v, err)
	}
}

func TestARecordIsFetchedWhole(t *testing.T) {
	t.Parallel()
	c, _ := dial(t, fakeNode{}, Limits{File: 4 * maxFrame}, 0)
	for _, n := range []int64{1, maxFrame, 3*maxFrame + 5} {
		b, err := c.Fetch(t.Context(), peer, 1, server.Piece{Copy: 2, Generation: 9, Length: n})
		if err != nil || int64(len(b)) != n || b[n-1] != 9 {
			t.Errorf("%d of %d bytes: %v", len(b), n, err)
		}
	}
	if _, err := c.Fetch(t.Context(), peer, 1, server.Piece{Length: 40}); !errors.Is(err, volume.ErrCorrupt) {
		t.Errorf("a damaged record: %v", err)
	}
	if _, err := c.Fetch(t.Context(), peer, 1, server.Piece{Copy: 2, Length: 5 * maxFrame}); !errors.Is(err, volume.ErrTooLarge) {
		t.Errorf("a record over the limit: %v", err)
	}
}

// A process that is frozen keeps its sockets open. Here nobody takes the
// connection up.
func TestAWriteToAFrozenNodeWasCertainlyNotDone(t *testing.T) {
	t.Parallel()
	lis := bufconn.Listen(1 << 20)
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
		}
	})
	t.Cleanup(func() { lis.Close(); work.Wait() })
	c := client(t, lis, 50*time.Millisecond)
	_, err := c.Put(context.Background(), peer, volume.FileID{Volume: 1}, &needle.Needle{Data: []byte("x")}, false, 0)
	if !errors.Is(err, volume.ErrUnavailable) || errors.Is(err, volume.ErrOutcomeUnknown) {
		t.Errorf("put: %v", err)
	}
	if _, err := c.Dial(context.Background(), peer); !errors.Is(err, volume.ErrUnavailable) {
		t.Errorf("dial: %v", err)
	}
	if _, err := c.Confirm(context.Background(), peer, 1, 1, volume.Holder{}); !errors.Is(err, volume.ErrUnavailable) {
		t.Errorf("confirm: %v", err)
	}
}

func TestAWriteThatWasTakenAndNotAnsweredIsUnknown(t *testing.T) {
	t.Parallel()
	taken := make(chan struct{}, 2)
	c, kill := dial(t, fakeNode{put: func(ctx context.Context, _ volume.FileID, _ *needle.Needle, _ bool, _ volume.Epoch) (volume.PutResult, error) {
		taken <- struct{}{}
		<-ctx.Done()
		return volume.PutResult{}, ctx.Err()
	}}, Limits{}, 0)
	put := func(ctx context.Context) error {
		_, err := c.Put(ctx, peer, volume.FileID{Volume: 1}, &needle.Needle{Data: []byte("x")}, false, 0)
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-taken; cancel() }()
	if err := put(ctx); !errors.Is(err, volume.ErrOutcomeUnknown) {
		t.Errorf("put given up by the caller: %v", err)
	}
	go func() { <-taken; kill() }()
	if err := put(context.Background()); !errors.Is(err, volume.ErrOutcomeUnknown) {
		t.Errorf("put to a node that died: %v", err)
	}
}

func TestAStreamCarriesMessagesBothWaysUntilEitherSideCloses(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 1)
	c, _ := dial(t, fakeNode{follow: func(ctx context.Context, id volume.ID, link replica.Link) error {
		for {
			m, err := link.Recv()
			if err != nil {
				ended <- err
				return err
			}
			if m.Kind == replica.KindBatch && string(m.Bytes) == "end" {
				link.Close()
				_, err := link.Recv()
				ended <- err
				return err
			}
			if err := link.Send(&replica.Message{Kind: replica.KindAck, Stream: m.Stream, Seq: uint64(id), Durable: int64(len(m.Bytes))}); err != nil {
				return err
			}
		}
	}}, Limits{}, 0)
	open := func() replica.Link {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		link, err := c.Dial(ctx, peer)
		cancel() // bounds only the opening
		if err != nil {
			t.Fatal(err)
		}
		hello := &replica.Message{Kind: replica.KindHello, Stream: 5, Entry: volume.Entry{Volume: 42}}
		if err := link.Send(hello); err != nil {
			t.Fatal(err)
		}
		if m, err := link.Recv(); err != nil || m.Kind != replica.KindAck || m.Seq != 42 {
			t.Fatalf("answer to hello: %+v, %v", m, err)
		}
		return link
	}
	link := open()
	if err := link.Send(&replica.Message{Kind: replica.KindBatch, Stream: 5, Bytes: bytes.Repeat([]byte("r"), maxFrame)}); err != nil {
		t.Fatal(err)
	}
	if m, err := link.Recv(); err != nil || m.Durable != maxFrame {
		t.Errorf("answer to a batch: %+v, %v", m, err)
	}
	link.Close()
	if _, err := link.Recv(); err == nil {
		t.Error("a closed link received")
	}
	if err := <-ended; err == nil {
		t.Error("the other side did not notice")
	}
	link = open()
	if err := link.Send(&replica.Message{Kind: replica.KindBatch, Bytes: []byte("end")}); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("the follower's own Close did not end its Recv")
	}
	if _, err := link.Recv(); err == nil {
		t.Error("the primary did not notice that the follower closed")
	}
	link.Close()
}

func FuzzWriteFrame(f *testing.F) {
	head, data := (&writeFrame{Header: &writeHeader{Volume: 1, Key: 2, Size: 3}, Data: []byte("abc")}).Frame()
	f.Add(append(head, data...))
	f.Add([]byte{0, 0, 0, 0, 'x'})
	f.Add([]byte{255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		var w writeFrame
		if w.Unframe(b) != nil {
			return
		}
		head, data := w.Frame()
		var again writeFrame
		if err := again.Unframe(append(head, data...)); err != nil || !bytes.Equal(again.Data, w.Data) || (again.Header == nil) != (w.Header == nil) {
			t.Errorf("%+v came back as %+v, %v", w, again, err)
		}
	})
}
