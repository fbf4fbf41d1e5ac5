package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"weedd/cluster"
)

// Operate has the cluster do what an operator asks, through the first master that
// answers. Those that are not on this host may refuse.
func (c *Client) Operate(ctx context.Context, op cluster.Operation) (cluster.Outcome, error) {
	b, err := json.Marshal(op)
	if err != nil {
		return cluster.Outcome{}, fmt.Errorf("encode operation: %w", err)
	}
	var out cluster.Outcome
	err = c.retry(ctx, "operation", func(ctx context.Context, master string) error {
		ctx, stall := c.watch(ctx)
		defer stall.stop()
		out = cluster.Outcome{}
		body := &meter{body: io.NopCloser(bytes.NewReader(b)), size: int64(len(b)), moved: stall.moved, sum: sha256.New()}
		return c.do(ctx, request{method: http.MethodPost, url: master + "/cluster/operation", stall: stall, body: body,
			header: http.Header{"Content-Type": {"application/json"}}}, readJSON(&out))
	})
	return out, err
}
