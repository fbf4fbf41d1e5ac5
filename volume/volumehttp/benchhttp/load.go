package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sync/errgroup"
)

// lane is a stream of requests to one address. Its next appends request i to a
// buffer; it is called by many workers at once, with different numbers.
type lane struct {
	addr  string
	count atomic.Int64 // requests made so far
	limit int64        // how many there are; 0 for no end
	next  func(buf []byte, i int64) []byte
}

// result is what one drive found.
type result struct {
	rate    float64       // answers a second
	cpu     time.Duration // of the server, for one answer
	latency *hdr.Histogram
}

// drive sends requests over conc connections, spread over the lanes, each waiting
// for its answer before the next, until the time is over. Any answer but want
// ends it: a server that fails fast would look fast.
//
// With a rate, so many requests are due each second, evenly, and latency counts from
// when one was due: if answers take long those behind have waited, too. With rate 0
// each is due when the answer before it is there.
func drive(ctx context.Context, lanes []*lane, conc int, want int, d time.Duration, rate float64) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	workers := make([]*worker, conc)
	g, gctx := errgroup.WithContext(ctx)
	began := time.Now()
	for i := range workers {
		w := &worker{lane: lanes[i%len(lanes)], want: want, latency: hdr.New(1, 60_000_000, 3)}
		if rate > 0 {
			w.every = time.Duration(float64(conc) / rate * float64(time.Second))
			w.first = w.every * time.Duration(i) / time.Duration(conc)
		}
		workers[i] = w
		g.Go(func() error { return w.run(gctx, d) })
	}
	err := g.Wait()
	took := time.Since(began)
	res := result{latency: hdr.New(1, 60_000_000, 3)}
	for _, w := range workers {
		res.latency.Merge(w.latency)
	}
	res.rate = float64(res.latency.TotalCount()) / took.Seconds()
	return res, err
}

type worker struct {
	lane    *lane
	want    int
	first   time.Duration  // until its first request is due
	every   time.Duration  // from one that is due to the next; 0: when it is answered
	latency *hdr.Histogram // µs
}

func (w *worker) run(ctx context.Context, d time.Duration) (err error) {
	conn, err := net.Dial("tcp", w.lane.addr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := conn.SetDeadline(time.Now().Add(d + 10*time.Second)); err != nil {
		return err
	}
	r := bufio.NewReaderSize(conn, 16<<10)
	var buf []byte
	for due := time.Now().Add(w.first); ; {
		if !wait(ctx, due) {
			return nil
		}
		i := w.lane.count.Add(1) - 1
		if w.lane.limit > 0 && i >= w.lane.limit {
			return fmt.Errorf("%s: all %d ids are used up", w.lane.addr, w.lane.limit)
		}
		buf = w.lane.next(buf[:0], i)
		if _, err := conn.Write(buf); err != nil {
			return err
		}
		status, err := readAnswer(r)
		if err != nil {
			return fmt.Errorf("%s: %w", w.lane.addr, err)
		}
		if status != w.want {
			return fmt.Errorf("%s: status %d, want %d, for %.100q", w.lane.addr, status, w.want, buf)
		}
		now := time.Now()
		_ = w.latency.RecordValue(min(max(now.Sub(due).Microseconds(), 1), 60_000_000)) // within its bounds
		if due = due.Add(w.every); w.every == 0 {
			due = now
		}
	}
}

// wait waits until a request is due, and reports false when ctx ends before.
func wait(ctx context.Context, due time.Time) bool {
	left := time.Until(due)
	if left <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(left)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// readAnswer reads one answer and drops its body. It knows as much of HTTP as the
// servers measured here say: a length is in every answer with a body.
func readAnswer(r *bufio.Reader) (status int, err error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return 0, fmt.Errorf("answer begins with %q", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, fmt.Errorf("answer begins with %q", line)
	}
	length := 0
	for {
		if line, err = r.ReadSlice('\n'); err != nil {
			return 0, err
		}
		if len(line) <= 2 {
			break
		}
		if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, fmt.Errorf("answer has %q", line)
			}
		}
	}
	_, err = r.Discard(length)
	return status, err
}
