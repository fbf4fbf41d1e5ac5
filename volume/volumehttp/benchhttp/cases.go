package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"time"
)

const (
	lanes   = 8       // over how many assignments writes are spread, as those of many clients would be
	perLane = 1 << 20 // ids of each
)

// series is one thing that is driven.
type series struct {
	name  string
	want  int
	at    *process // that answers
	lanes []*lane
}

// prepare stores what is read, takes ids for what is written, and makes the
// series.
func prepare(ctx context.Context, o options, s *servers) ([]series, error) {
	body := content(o.size)
	var all []series
	add := func(name string, want int, at *process, lanes ...*lane) {
		if o.only.MatchString(name) {
			all = append(all, series{name, want, at, lanes})
		}
	}
	reads := []struct {
		name string
		at   *process
	}{{"GET weedd", s.os}, {"GET old", s.oldOS}}
	add("GET bare", http.StatusOK, s.bare, getLane(s.bare.volume, []string{"/1,01deadbeef"}))
	add("GET floor", http.StatusOK, s.floor, getLane(s.floor.volume, []string{"/1,01deadbeef"}))
	for _, r := range reads {
		if r.at == nil {
			continue
		}
		files, err := storeFiles(ctx, r.at, body, o.files)
		if err != nil {
			return nil, err
		}
		add(r.name, http.StatusOK, r.at, getLane(r.at.volume, files))
	}
	add("POST bare", http.StatusCreated, s.bare, postLane(s.bare.volume, "1,01deadbeef", body))
	add("POST floor", http.StatusCreated, s.floor, postLane(s.floor.volume, "1,01deadbeef", body))
	for _, w := range []struct {
		name        string
		at          *process
		replication string
	}{
		{"POST os", s.os, "000"}, {"POST os old", s.oldOS, "000"}, {"POST group", s.group, "000"}, {"POST group old", s.oldGroup, "000"},
		{"POST 000", s.pair[0], "000"}, {"POST 001", s.pair[0], "001"},
	} {
		if w.at == nil {
			continue
		}
		var ls []*lane
		for range lanes {
			a, err := assign(ctx, w.at, w.replication, perLane)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", w.name, err)
			}
			ls = append(ls, postLane(a.URL, a.FileID, body))
		}
		add(w.name, http.StatusCreated, w.at, ls...)
	}
	return all, nil
}

type assigned struct {
	FileID string `json:"fid"`
	URL    string `json:"url"`
}

// assign takes n ids, waiting for volumes if need be.
func assign(ctx context.Context, p *process, replication string, n int) (a assigned, err error) {
	url := fmt.Sprintf("http://%s/dir/assign?count=%d&replication=%s", p.master, n, replication)
	if err := p.await(ctx, url); err != nil {
		return a, err
	}
	b, err := get(ctx, url)
	if err != nil {
		return a, err
	}
	return a, json.Unmarshal(b, &a)
}

// storeFiles stores body under n ids of one node and gives the ids' paths.
func storeFiles(ctx context.Context, p *process, body []byte, n int) (paths []string, err error) {
	for len(paths) < n {
		count := min(n-len(paths), (n+lanes-1)/lanes)
		a, err := assign(ctx, p, "000", count)
		if err != nil {
			return nil, err
		}
		l := postLane(a.URL, a.FileID, body)
		for i := range count {
			paths = append(paths, "/"+a.FileID+"_"+strconv.Itoa(i))
		}
		if err := send(l, count); err != nil {
			return nil, fmt.Errorf("store files to read: %w", err)
		}
	}
	got, err := get(ctx, "http://"+p.volume+paths[n/2])
	if err == nil && !bytes.Equal(got, body) {
		err = fmt.Errorf("%s: other bytes than were stored", paths[n/2])
	}
	return paths, err
}

// send makes the first n requests of a lane, one after the other.
func send(l *lane, n int) (err error) {
	conn, err := net.Dial("tcp", l.addr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	r := bufio.NewReader(conn)
	for i := range n {
		if _, err := conn.Write(l.next(nil, int64(i))); err != nil {
			return err
		}
		if status, err := readAnswer(r); err != nil || status != http.StatusCreated {
			return fmt.Errorf("%s: status %d, %v", l.addr, status, err)
		}
	}
	return nil
}

func getLane(addr string, paths []string) *lane {
	requests := make([][]byte, len(paths))
	for i, p := range paths {
		requests[i] = []byte("GET " + p + " HTTP/1.1\r\nHost: " + addr + "\r\nUser-Agent: bench\r\n\r\n")
	}
	return &lane{addr: addr, next: func(buf []byte, _ int64) []byte {
		return append(buf, requests[rand.IntN(len(requests))]...)
	}}
}

// postLane writes body to fid, fid_1, fid_2 and so on.
func postLane(addr, fid string, body []byte) *lane {
	head := "POST /" + fid + "_"
	tail := " HTTP/1.1\r\nHost: " + addr + "\r\nUser-Agent: bench\r\nContent-Type: application/octet-stream\r\nContent-Length: " +
		strconv.Itoa(len(body)) + "\r\n\r\n"
	return &lane{addr: addr, limit: perLane, next: func(buf []byte, i int64) []byte {
		buf = append(buf, head...)
		buf = strconv.AppendInt(buf, i, 10)
		buf = append(buf, tail...)
		return append(buf, body...)
	}}
}

// measure drives all series in turns, at each concurrency as hard as it can, and at
// the last once more at half of the rates that were reached.
func measure(ctx context.Context, o options, all []series) (*report, error) {
	rep := &report{Size: o.size, Rounds: o.rounds, Seconds: o.duration.Seconds()}
	for _, conc := range o.connections {
		runs, err := drives(ctx, o, all, conc, nil)
		if err != nil {
			return nil, err
		}
		rep.add(conc, all, runs)
	}
	half := map[string]float64{}
	for _, r := range rep.Rates { // of the last concurrency
		half[r.Series] = r.PerSecond / 2
	}
	conc := o.connections[len(o.connections)-1]
	runs, err := drives(ctx, o, all, conc, half)
	if err != nil {
		return nil, err
	}
	rep.addHalf(conc, all, runs)
	return rep, nil
}

// drives is one warm-up and the rounds of all series, at rates as for drive.
func drives(ctx context.Context, o options, all []series, conc int, rates map[string]float64) (map[string][]result, error) {
	runs := map[string][]result{}
	for round := range o.rounds + 1 {
		d := o.duration
		if round == 0 {
			d = min(d, 300*time.Millisecond) // to warm up; not counted
		}
		for _, s := range all {
			res, err := s.drive(ctx, conc, d, rates[s.name])
			if err != nil {
				return nil, fmt.Errorf("%s at %d: %w", s.name, conc, err)
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if round > 0 {
				runs[s.name] = append(runs[s.name], res)
			}
		}
	}
	return runs, nil
}

// drive is drive for a series, and looks at what its server takes.
func (s *series) drive(ctx context.Context, conc int, d time.Duration, rate float64) (result, error) {
	before, err := s.at.cpu()
	if err != nil {
		return result{}, err
	}
	res, err := drive(ctx, s.lanes, conc, s.want, d, rate)
	if err != nil {
		return result{}, err
	}
	after, err := s.at.cpu()
	res.cpu = (after - before) / time.Duration(max(res.latency.TotalCount(), 1))
	return res, err
}
