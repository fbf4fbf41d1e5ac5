package main

import (
	"bufio"
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// safeBuffer is the file of a bare server in memory.
type safeBuffer struct {
	mu sync.Mutex
	bytes.Buffer
	synced int
}

func (b *safeBuffer) Sync() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.synced = b.Len()
	return nil
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func TestBareServerIsDriven(t *testing.T) {
	t.Parallel()
	body := content(1024)
	t.Run("bare", func(t *testing.T) {
		t.Parallel()
		var file safeBuffer
		testBare(t, bareHandler(body, &file), &file)
	})
	t.Run("floor", func(t *testing.T) {
		t.Parallel()
		record, err := recordFile(t.TempDir(), len(body))
		if err != nil {
			t.Fatal(err)
		}
		defer record.Close()
		var file safeBuffer
		testBare(t, floorHandler(record, len(body), &file), &file)
		if file.synced != file.Len() {
			t.Errorf("%d of %d bytes were synced", file.synced, file.Len())
		}
	})
}

func testBare(t *testing.T, h http.Handler, file *safeBuffer) {
	body := content(1024)
	srv := httptest.NewServer(h)
	defer srv.Close()
	addr := strings.TrimPrefix(srv.URL, "http://")
	all := []series{
		{"GET bare", http.StatusOK, nil, []*lane{getLane(addr, []string{"/1,01deadbeef"})}},
		{"POST bare", http.StatusCreated, nil, []*lane{postLane(addr, "1,01deadbeef", body), postLane(addr, "2,01deadbeef", body)}},
	}
	runs := map[string][]result{}
	posted := int64(0)
	for _, s := range all {
		res, err := drive(context.Background(), s.lanes, 4, s.want, 20*time.Millisecond, 0)
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		runs[s.name], posted = []result{res}, res.latency.TotalCount()
	}
	if posted == 0 || int64(file.Len()) != posted*int64(len(body)) {
		t.Errorf("%d posts answered, %d bytes in the file", posted, file.Len())
	}
	for _, q := range ratios { // the servers that this test does not start
		for _, name := range []string{q.num, q.den} {
			if runs[name] == nil {
				runs[name] = runs["POST bare"]
			}
		}
	}
	rep := &report{Size: 1024, Rounds: 1, Seconds: 0.02}
	rep.add(64, all, runs)
	rep.addHalf(64, all, runs)
	var out strings.Builder
	if err := rep.print(&out); err != nil {
		t.Fatal(err)
	}
	if len(rep.Ratios) != len(ratios) || !strings.Contains(out.String(), "GET weedd / bare") || len(rep.Half) != len(all) {
		t.Errorf("report:\n%s", out.String())
	}
}

func TestDriveEndsAtTheFirstWrongAnswer(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	l := getLane(strings.TrimPrefix(srv.URL, "http://"), []string{"/x"})
	if _, err := drive(context.Background(), []*lane{l}, 2, http.StatusOK, time.Minute, 0); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("got %v", err)
	}
}

func TestReadAnswer(t *testing.T) {
	t.Parallel()
	r := bufio.NewReader(strings.NewReader("HTTP/1.1 201 Created\r\nX: y\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 204 No Content\r\n\r\nnonsense\r\n"))
	for _, want := range []int{201, 204} {
		if status, err := readAnswer(r); status != want || err != nil {
			t.Errorf("%d, %v; want %d", status, err, want)
		}
	}
	if status, err := readAnswer(r); err == nil {
		t.Errorf("nonsense is read as %d", status)
	}
}

// At a rate, requests are sent when they are due, and what waits behind a slow answer
// has waited, too.
func TestRequestsAreSentWhenTheyAreDue(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	const slow = 100 * time.Millisecond
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 1 {
			time.Sleep(slow)
		}
	}))
	defer srv.Close()
	l := getLane(strings.TrimPrefix(srv.URL, "http://"), []string{"/x"})
	began := time.Now()
	res, err := drive(context.Background(), []*lane{l}, 1, http.StatusOK, 2*slow, 200)
	took := time.Since(began)
	n := res.latency.TotalCount()
	if err != nil || n > int64(took.Seconds()*200)+1 {
		t.Errorf("%d requests at 200 a second in %v, %v", n, took, err)
	}
	if p90 := res.latency.ValueAtQuantile(90); time.Duration(p90)*time.Microsecond < slow/2 {
		t.Errorf("one answer took %v, and of %d requests, due each 5ms, one in ten waited no longer than %d µs", slow, n, p90)
	}
}
