package volumerpc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"

	"weedd/volume"
	"weedd/volume/rpcwire"
	"weedd/volume/store"
)

// foreignRequest asks for what is in the foreign copy of a volume with this
// print: for all rows of its survey or, with Row, for one record.
type foreignRequest struct {
	Volume volume.ID        `json:"volume"`
	Print  uint64           `json:"print"`
	Row    *store.SurveyRow `json:"row,omitempty"`
}

// chunk is a piece of the answer.
type chunk struct{ data []byte }

// Frame implements rpcwire.Framed.
func (c *chunk) Frame() (header, payload []byte) { return nil, c.data }

// Unframe implements rpcwire.Framed.
func (c *chunk) Unframe(b []byte) error {
	c.data = b
	return nil
}

func (s *nodeService) foreign(stream grpc.BidiStreamingServer[foreignRequest, chunk]) error {
	if err := alive(stream); err != nil {
		return err
	}
	req, err := stream.Recv()
	if err != nil {
		return err
	}
	var data []byte
	if req.Row != nil {
		data, err = s.node.RecordHere(req.Volume, req.Print, *req.Row)
	} else {
		var rows []store.SurveyRow
		rows, err = s.node.SurveyHere(stream.Context(), req.Volume, req.Print)
		data = encodeRows(rows)
	}
	for err == nil && len(data) > 0 {
		n := min(len(data), maxFrame)
		err = stream.Send(&chunk{data[:n:n]})
		data = data[n:]
	}
	return err
}

// rowSize is the length of one row of a survey on the wire:
// 8 key | 8 time | 8 offset | 4 size | 4 cookie | 4 checksum | 4 checksum of the body.
const rowSize = 40

func encodeRows(rows []store.SurveyRow) []byte {
	b := make([]byte, 0, rowSize*len(rows))
	for _, r := range rows {
		b = binary.BigEndian.AppendUint64(b, uint64(r.Key))
		b = binary.BigEndian.AppendUint64(b, r.Time)
		b = binary.BigEndian.AppendUint64(b, uint64(r.Offset))
		b = binary.BigEndian.AppendUint32(b, uint32(r.Size))
		b = binary.BigEndian.AppendUint32(b, uint32(r.Cookie))
		b = binary.BigEndian.AppendUint32(b, r.Sum)
		b = binary.BigEndian.AppendUint32(b, r.Body)
	}
	return b
}

func decodeRows(b []byte) ([]store.SurveyRow, error) {
	if len(b)%rowSize != 0 {
		return nil, fmt.Errorf("%w: rows of a survey in %d bytes", volume.ErrBadRequest, len(b))
	}
	rows := make([]store.SurveyRow, 0, len(b)/rowSize)
	for ; len(b) > 0; b = b[rowSize:] {
		rows = append(rows, store.SurveyRow{
			Key: volume.Key(binary.BigEndian.Uint64(b)), Time: binary.BigEndian.Uint64(b[8:]), Offset: int64(binary.BigEndian.Uint64(b[16:])),
			Size: int32(binary.BigEndian.Uint32(b[24:])), Cookie: volume.Cookie(binary.BigEndian.Uint32(b[28:])), Sum: binary.BigEndian.Uint32(b[32:]),
			Body: binary.BigEndian.Uint32(b[36:]),
		})
	}
	return rows, nil
}

// Survey asks node what is in its foreign copy of a volume, which it reads whole
// for that: ctx bounds it.
func (c *Client) Survey(ctx context.Context, node volume.Node, id volume.ID, print uint64) ([]store.SurveyRow, error) {
	b, err := c.foreign(ctx, node, &foreignRequest{Volume: id, Print: print})
	if err != nil {
		return nil, fmt.Errorf("survey volume %d at node %s: %w", id, node.ID, err)
	}
	return decodeRows(b)
}

// Record asks node for one record of its foreign copy of a volume.
func (c *Client) Record(ctx context.Context, node volume.Node, id volume.ID, print uint64, row store.SurveyRow) ([]byte, error) {
	b, err := c.foreign(ctx, node, &foreignRequest{Volume: id, Print: print, Row: &row})
	if err != nil {
		return nil, fmt.Errorf("read key %x of volume %d at node %s: %w", uint64(row.Key), id, node.ID, err)
	}
	return b, nil
}

// foreign sends one request and puts the pieces of the answer together.
func (c *Client) foreign(ctx context.Context, node volume.Node, req *foreignRequest) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := open[foreignRequest, chunk](ctx, c, node, "Foreign", useStream)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(req); err != nil && !errors.Is(err, io.EOF) {
		return nil, rpcwire.Error(err)
	}
	var data []byte
	for {
		piece, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return data, nil
		}
		if err != nil {
			return nil, rpcwire.Error(err)
		}
		data = append(data, piece.data...)
	}
}
