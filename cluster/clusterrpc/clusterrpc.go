// Package clusterrpc carries the masters' internal calls: what every node asks
// of the leader, and what any master answers. Server side, Register puts a
// Service on a gRPC server; on the other side a Client finds the leader and
// calls it.
//
// It knows neither the leader nor raft: daemon ties them. Messages are plain
// structs (package rpcwire). Errors keep their identity: errors.Is works for
// the sentinels of package volume, and errors.As for *cluster.NotLeaderError.
package clusterrpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/grpc"

	"weedd/cluster"
	"weedd/cluster/catalog"
	"weedd/cluster/placement"
	"weedd/volume"
	"weedd/volume/rpcwire"
)

// ServiceName is the gRPC service of the masters.
const ServiceName = "weedd.Cluster"

// Service is what a master answers. The methods before Locate are the leader's and
// answer a *cluster.NotLeaderError, or volume.ErrNotLeader, at any other master.
type Service interface {
	// Ask answers the entry now in force, also together with an error.
	Ask(ctx context.Context, ask volume.Ask) (volume.Entry, error)
	Keys(ctx context.Context, count uint64) (catalog.Block, error)
	Grow(ctx context.Context, req placement.GrowRequest) ([]*volume.Entry, error)
	DeleteCollection(ctx context.Context, name string) (int, error)
	// Compact returns when all volumes with at least that share of garbage were
	// compacted, or tried.
	Compact(ctx context.Context, share float64) error
	// Operate does what an operator asks.
	Operate(ctx context.Context, op cluster.Operation) (cluster.Outcome, error)
	// Beat serves one heartbeat stream. recv fails once Beat has returned.
	Beat(ctx context.Context, recv func() (volume.Report, error), send func(volume.Orders) error) error
	View() (cluster.View, error)
	// Entry is the leader's word on a volume; volume.ErrNoVolume for none.
	Entry(ctx context.Context, id volume.ID) (volume.Entry, error)

	// Locate answers from the catalog of this master, whoever leads.
	Locate(ctx context.Context, id volume.ID) (volume.Entry, []volume.Node, error)
	// Claim looks an idempotency key up in the memory of this master. If the claim has
	// no answer and is not refused, end is called with that of the upload, nil if it
	// failed; ctx ends at the latest then.
	Claim(ctx context.Context, key, print string) (c Claim, end func(answer []byte), err error)
	// WhoLeads names the leader as this master knows it; the zero value for none.
	WhoLeads(ctx context.Context) (LeaderInfo, error)
	// Promise is the vote on a genesis (rule R2). The proposal is opaque here.
	Promise(ctx context.Context, proposal json.RawMessage) error
}

// LeaderInfo says where the leader is.
type LeaderInfo struct {
	ID       volume.NodeID `json:"id,omitempty"`
	Internal string        `json:"internal,omitempty"`
}

// Claim says what a master remembers of an upload with an idempotency key.
type Claim struct {
	Answer json.RawMessage `json:"answer,omitempty"` // of the first upload with the key; none if there was none
	Reused bool            `json:"reused,omitempty"` // the first was another upload
}

// The messages that are not already words of other packages.
type (
	askAnswer struct {
		Entry volume.Entry `json:"entry"`
		Code  string       `json:"code,omitempty"` // of the error that comes with the entry
		Text  string       `json:"text,omitempty"`
	}
	keysRequest struct {
		Count uint64 `json:"count"`
	}
	growAnswer struct {
		Entries []*volume.Entry `json:"entries"`
	}
	collection struct {
		Name    string `json:"name,omitempty"`
		Volumes int    `json:"volumes,omitempty"`
	}
	compactRequest struct {
		Share float64 `json:"share"`
	}
	locateRequest struct {
		Volume volume.ID `json:"volume"`
	}
	locateAnswer struct {
		Entry volume.Entry  `json:"entry"`
		Nodes []volume.Node `json:"nodes"`
	}
	// claimUp is the question, and then its end.
	claimUp struct {
		Key    string          `json:"key,omitempty"`
		Print  string          `json:"print,omitempty"`
		Answer json.RawMessage `json:"answer,omitempty"` // of the upload; none if it failed
	}
	// claimDown is a sign of life, and then the claim.
	claimDown struct {
		Claim *Claim `json:"claim,omitempty"`
	}
	promiseRequest struct {
		Proposal json.RawMessage `json:"proposal"`
	}
	nothing struct{}
	// down is one message of the leader on a heartbeat stream. Without orders it
	// only says that the leader is there.
	down struct {
		Orders *volume.Orders `json:"orders,omitempty"`
	}
	// piece is a part of an answer too large for one message: a byte that is 1
	// when more follow, and the data.
	piece struct {
		data []byte
		more bool
	}
)

// pieceSize keeps messages well below the frame limit of 1 MiB.
const pieceSize = 512 << 10

// Frame implements rpcwire.Framed.
func (p *piece) Frame() (header, payload []byte) {
	if p.more {
		return []byte{1}, p.data
	}
	return []byte{0}, p.data
}

// Unframe implements rpcwire.Framed.
func (p *piece) Unframe(b []byte) error {
	if len(b) == 0 || b[0] > 1 {
		return fmt.Errorf("%w: a piece of an answer without its first byte", volume.ErrBadRequest)
	}
	p.data, p.more = b[1:], b[0] == 1
	return nil
}

// Register puts svc on srv.
func Register(srv *grpc.Server, svc Service) {
	srv.RegisterService(&grpc.ServiceDesc{
		ServiceName: ServiceName,
		HandlerType: (*Service)(nil),
		Methods: []grpc.MethodDesc{
			rpcwire.Unary(ServiceName, "Ask", serveAsk),
			rpcwire.Unary(ServiceName, "Keys", func(s Service, ctx context.Context, r *keysRequest) (*catalog.Block, error) {
				b, err := s.Keys(ctx, r.Count)
				return &b, wire(err)
			}),
			rpcwire.Unary(ServiceName, "Grow", func(s Service, ctx context.Context, r *placement.GrowRequest) (*growAnswer, error) {
				es, err := s.Grow(ctx, *r)
				return &growAnswer{es}, wire(err)
			}),
			rpcwire.Unary(ServiceName, "DeleteCollection", func(s Service, ctx context.Context, r *collection) (*collection, error) {
				n, err := s.DeleteCollection(ctx, r.Name)
				return &collection{Volumes: n}, wire(err)
			}),
			rpcwire.Unary(ServiceName, "Entry", func(s Service, ctx context.Context, r *locateRequest) (*volume.Entry, error) {
				e, err := s.Entry(ctx, r.Volume)
				return &e, wire(err)
			}),
			rpcwire.Unary(ServiceName, "Compact", func(s Service, ctx context.Context, r *compactRequest) (*nothing, error) {
				return &nothing{}, wire(s.Compact(ctx, r.Share))
			}),
			rpcwire.Unary(ServiceName, "Operate", func(s Service, ctx context.Context, r *cluster.Operation) (*cluster.Outcome, error) {
				out, err := s.Operate(ctx, *r)
				return &out, wire(err)
			}),
			rpcwire.Unary(ServiceName, "Locate", func(s Service, ctx context.Context, r *locateRequest) (*locateAnswer, error) {
				e, nodes, err := s.Locate(ctx, r.Volume)
				return &locateAnswer{e, nodes}, wire(err)
			}),
			rpcwire.Unary(ServiceName, "WhoLeads", func(s Service, ctx context.Context, _ *nothing) (*LeaderInfo, error) {
				info, err := s.WhoLeads(ctx)
				return &info, wire(err)
			}),
			rpcwire.Unary(ServiceName, "Promise", func(s Service, ctx context.Context, r *promiseRequest) (*nothing, error) {
				return &nothing{}, wire(s.Promise(ctx, r.Proposal))
			}),
		},
		Streams: []grpc.StreamDesc{
			rpcwire.Stream("Beat", serveBeat),
			rpcwire.Stream("Claim", serveClaim),
			rpcwire.Stream("View", func(s Service, stream grpc.BidiStreamingServer[nothing, piece]) error {
				if _, err := stream.Recv(); err != nil {
					return err
				}
				v, err := s.View()
				if err != nil {
					return wire(err)
				}
				return sendPieces(stream, v)
			}),
		},
	}, svc)
}

func serveAsk(s Service, ctx context.Context, ask *volume.Ask) (*askAnswer, error) {
	e, err := s.Ask(ctx, *ask)
	if err != nil && e.Volume != 0 {
		return &askAnswer{e, volume.Code(err), err.Error()}, nil
	}
	return &askAnswer{Entry: e}, wire(err)
}

func serveBeat(s Service, stream grpc.BidiStreamingServer[volume.Report, down]) error {
	return wire(s.Beat(stream.Context(),
		func() (volume.Report, error) {
			r, err := stream.Recv()
			if err != nil {
				return volume.Report{}, err
			}
			return *r, nil
		},
		func(o volume.Orders) error { return sendOrders(stream.Send, o) }))
}

// entriesPerMessage and copiesPerMessage keep messages below the frame limit.
const (
	entriesPerMessage = 500
	copiesPerMessage  = 500
)

// sendOrders sends orders in parts: nothing is concluded from what a message
// leaves out, so that a part is as good as the whole.
func sendOrders(send func(*down) error, o volume.Orders) error {
	if !o.Full && len(o.Entries) == 0 && len(o.Drop) == 0 && len(o.Compact) == 0 && o.Drain == nil {
		return send(&down{}) // only a sign of life
	}
	for first := true; first || len(o.Entries) > 0 || len(o.Drop) > 0; first = false {
		part := o
		part.Full = o.Full && first
		part.Entries = o.Entries[:min(entriesPerMessage, len(o.Entries))]
		part.Drop = o.Drop[:min(entriesPerMessage, len(o.Drop))]
		o.Entries, o.Drop = o.Entries[len(part.Entries):], o.Drop[len(part.Drop):]
		if err := send(&down{&part}); err != nil {
			return err
		}
		o.Compact, o.Drain = nil, nil // a few, all in the first part
	}
	return nil
}

// sendReport sends a report in parts, the first of which may be full.
func sendReport(send func(*volume.Report) error, r volume.Report) error {
	for first := true; first || len(r.Copies) > 0; first = false {
		part := volume.Report{Node: r.Node, Run: r.Run}
		if first {
			part = r
		}
		part.Copies = r.Copies[:min(copiesPerMessage, len(r.Copies))]
		r.Copies = r.Copies[len(part.Copies):]
		if err := send(&part); err != nil {
			return err
		}
	}
	return nil
}

func sendPieces(stream interface{ Send(*piece) error }, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %T: %w", v, err)
	}
	for first := true; first || len(b) > 0; first = false {
		n := min(pieceSize, len(b))
		p := piece{data: b[:n], more: len(b) > n}
		b = b[n:]
		if err := stream.Send(&p); err != nil {
			return err
		}
	}
	return nil
}

func recvPieces(recv func() (*piece, error), v any, limit int) error {
	var b []byte
	for more := true; more; {
		p, err := recv()
		if err != nil {
			return err
		}
		if len(b)+len(p.data) > limit {
			return fmt.Errorf("%w: a message above %d bytes", volume.ErrTooLarge, limit)
		}
		b, more = append(b, p.data...), p.more
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decode %T: %w", v, err)
	}
	return nil
}

// wire puts what a NotLeaderError knows into the text of its status, since a
// code and a text are all that crosses the wire.
func wire(err error) error {
	var nl *cluster.NotLeaderError
	if !errors.As(err, &nl) {
		return err
	}
	b, jerr := json.Marshal(LeaderInfo{nl.Leader, nl.Internal})
	if jerr != nil {
		return err
	}
	return volume.FromCode(volume.Code(err), string(b))
}

// unwire turns the error of a call back.
func unwire(err error) error {
	if err == nil || !errors.Is(err, volume.ErrNotLeader) {
		return err
	}
	var info LeaderInfo
	if json.Unmarshal([]byte(err.Error()), &info) != nil {
		return &cluster.NotLeaderError{} // a master that gave no more than the sentinel
	}
	return &cluster.NotLeaderError{Leader: info.ID, Internal: info.Internal}
}
