// Package rpcwire is how weedd's daemons put Go values on a gRPC connection:
// a codec, and the few lines that turn a func into a gRPC method.
//
// Control messages are plain structs, sent as JSON: the same types that the
// rest of the code uses, with no second set of generated ones and no
// conversions between. A field that one side does not know is ignored, one that
// it does not get is zero, as in protobuf. Messages on the data path implement
// Framed and choose their own bytes, so that a batch of records is sent without
// being copied.
package rpcwire

import (
	"context"
	"encoding/json"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"weedd/volume"
)

// Framed is a message with a binary form of its own.
type Framed interface {
	// Frame returns a small header and the payload, which is sent without a
	// copy and must not change until the call that sends it has returned and
	// the message was written out; senders use buffers they do not reuse, or
	// stable ones.
	Frame() (header, payload []byte)
	// Unframe reads one frame. b belongs to the message from then on.
	Unframe(b []byte) error
}

const name = "weedd"

// CallOption makes a client speak this package's codec.
func CallOption() grpc.CallOption { return grpc.CallContentSubtype(name) }

func init() { encoding.RegisterCodecV2(codec{}) }

type codec struct{}

func (codec) Name() string { return name }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(Framed); ok {
		header, payload := f.Frame()
		out := mem.BufferSlice{mem.SliceBuffer(header)}
		if len(payload) > 0 {
			out = append(out, mem.SliceBuffer(payload))
		}
		return out, nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	b := data.Materialize()
	if f, ok := v.(Framed); ok {
		return f.Unframe(b)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decode %T: %w", v, err)
	}
	return nil
}

// Unary describes a method of service type S with one request and one answer.
func Unary[S, Req, Resp any](service, method string, call func(S, context.Context, *Req) (*Resp, error)) grpc.MethodDesc {
	return grpc.MethodDesc{
		MethodName: method,
		Handler: func(srv any, ctx context.Context, dec func(any) error, chain grpc.UnaryServerInterceptor) (any, error) {
			req := new(Req)
			if err := dec(req); err != nil {
				return nil, err
			}
			handle := func(ctx context.Context, req any) (any, error) {
				resp, err := call(srv.(S), ctx, req.(*Req))
				return resp, Status(err)
			}
			if chain == nil {
				return handle(ctx, req)
			}
			return chain(ctx, req, &grpc.UnaryServerInfo{Server: srv, FullMethod: "/" + service + "/" + method}, handle)
		},
	}
}

// Stream describes a method of service type S that reads Up and writes Down.
func Stream[S, Up, Down any](method string, call func(S, grpc.BidiStreamingServer[Up, Down]) error) grpc.StreamDesc {
	return grpc.StreamDesc{
		StreamName: method, ServerStreams: true, ClientStreams: true,
		Handler: func(srv any, stream grpc.ServerStream) error {
			return Status(call(srv.(S), &grpc.GenericServerStream[Up, Down]{ServerStream: stream}))
		},
	}
}

// Open starts a stream that a server described with Stream.
func Open[Up, Down any](ctx context.Context, conn grpc.ClientConnInterface, service, method string) (grpc.BidiStreamingClient[Up, Down], error) {
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{StreamName: method, ServerStreams: true, ClientStreams: true},
		"/"+service+"/"+method, CallOption())
	if err != nil {
		return nil, Error(err)
	}
	return &grpc.GenericClientStream[Up, Down]{ClientStream: s}, nil
}

// Call makes a call that a server described with Unary. Errors have passed
// through Error.
func Call[Resp, Req any](ctx context.Context, conn grpc.ClientConnInterface, service, method string, req *Req) (*Resp, error) {
	resp := new(Resp)
	if err := conn.Invoke(ctx, "/"+service+"/"+method, req, resp, CallOption()); err != nil {
		return nil, Error(err)
	}
	return resp, nil
}

// Status turns an error into a gRPC status that Error turns back, so that
// errors.Is for the sentinels of package volume works on both sides.
func Status(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	code := volume.Code(err)
	if code == "" {
		return status.Error(codes.Unknown, err.Error())
	}
	return status.Error(codes.Aborted, code+"\n"+err.Error())
}

// Error turns a status made by Status back. Failures of the connection itself,
// where the request may or may not have been handled, are volume.ErrUnavailable.
func Error(err error) error {
	s, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	switch s.Code() {
	case codes.Aborted:
		for i := range s.Message() {
			if s.Message()[i] == '\n' {
				return volume.FromCode(s.Message()[:i], s.Message()[i+1:])
			}
		}
	case codes.Unavailable:
		return volume.FromCode(volume.Code(volume.ErrUnavailable), s.Message())
	case codes.DeadlineExceeded:
		return context.DeadlineExceeded
	case codes.Canceled:
		return context.Canceled
	}
	return fmt.Errorf("remote: %s", s.Message())
}
