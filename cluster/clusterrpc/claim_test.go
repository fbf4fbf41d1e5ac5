package clusterrpc_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"weedd/cluster"
	"weedd/cluster/clusterrpc"
	"weedd/volume"
)

func TestAClaimLastsAsLongAsTheUpload(t *testing.T) {
	t.Parallel()
	ms := start(t, "m1")
	ended := make(chan string, 1)
	ms.list[0].claim = func(ctx context.Context, key, print string) (c clusterrpc.Claim, end func([]byte), err error) {
		switch key {
		case "known":
			return clusterrpc.Claim{Answer: []byte(`{"fid":"1"}`)}, nil, nil
		case "reused":
			return clusterrpc.Claim{Reused: true}, nil, nil
		case "running":
			return c, nil, fmt.Errorf("%w: it runs", volume.ErrExists)
		case "frozen":
			<-ctx.Done()
			return c, nil, ctx.Err()
		}
		return c, func(answer []byte) { ended <- key + " " + print + " " + string(answer) }, nil
	}
	c, at := ms.client(), ms.nodes()[1]
	if got, end, err := c.Claim(ctx(t), at, "known", ""); string(got.Answer) != `{"fid":"1"}` || got.Reused || end != nil || err != nil {
		t.Errorf("known: %+v %v", got, err)
	}
	if got, end, err := c.Claim(ctx(t), at, "reused", ""); !got.Reused || end != nil || err != nil {
		t.Errorf("reused: %+v %v", got, err)
	}
	if _, end, err := c.Claim(ctx(t), at, "running", ""); !errors.Is(err, volume.ErrExists) || end != nil {
		t.Errorf("running: %v", err)
	}
	if _, end, err := c.Claim(ctx(t), cluster.Node{ID: "gone", Internal: "gone:1"}, "k", ""); err == nil || end != nil {
		t.Error("a master that is not there has answered")
	}
	wantEnd := func(want string) {
		t.Helper()
		select {
		case got := <-ended:
			if got != want {
				t.Errorf("ended with %q, want %q", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s: not ended", want)
		}
	}
	for _, answer := range []string{`{"fid":"2"}`, ""} {
		_, end, err := c.Claim(ctx(t), at, "k", "p")
		if err != nil || end == nil {
			t.Fatal(err)
		}
		select {
		case got := <-ended:
			t.Errorf("ended too early: %q", got)
		default:
		}
		if answer == "" {
			end(nil)
		} else {
			end([]byte(answer))
		}
		wantEnd("k p " + answer)
	}
	breaks, cancel := context.WithCancel(ctx(t))
	if _, end, err := c.Claim(breaks, at, "broken", ""); err != nil || end == nil {
		t.Fatal(err)
	}
	cancel() // the master that has the upload dies
	wantEnd("broken  ")
	// A sign of life is not enough for ever, but for as long as the caller likes.
	soon, cancel := context.WithTimeout(ctx(t), 50*time.Millisecond)
	defer cancel()
	if _, end, err := c.Claim(soon, at, "frozen", ""); err == nil || end != nil {
		t.Error("a claim that was never answered")
	}
}
