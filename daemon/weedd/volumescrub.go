package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"weedd/volume"
	"weedd/volume/server"
)

const scrubPoll = 200 * time.Millisecond

// checkServer has a running volume server look through its volumes and waits for
// that.
func checkServer(ctx context.Context, addr string, only volumeFlag, asJSON bool, out, errOut io.Writer) error {
	where := url.URL{Scheme: "http", Host: addr, Path: "/admin/scrub"}
	if only != 0 {
		where.RawQuery = "volume=" + only.String()
	}
	if err := askScrub(ctx, http.MethodPost, where.String(), nil); err != nil {
		return cannot(err)
	}
	where.RawQuery = ""
	bar := newProgress(errOut, "checking", 0, true)
	defer bar.done()
	tick := time.NewTicker(scrubPoll)
	defer tick.Stop()
	for {
		var list []server.ScrubReport
		if err := askScrub(ctx, http.MethodGet, where.String(), &list); err != nil {
			return cannot(err)
		}
		if only != 0 {
			list = slices.DeleteFunc(list, func(r server.ScrubReport) bool { return r.Volume != volume.ID(only) })
		}
		left := count(list, func(r server.ScrubReport) bool { return r.Waiting || r.Running })
		if left == 0 {
			bar.done()
			return printScrubs(list, asJSON, out)
		}
		bar.describe(fmt.Sprintf("checking, %s to go", plural(left, "volume")))
		select {
		case <-ctx.Done():
			return cannot(ctx.Err())
		case <-tick.C:
		}
	}
}

// askScrub makes one call and reads the answer into v, if that is not nil.
func askScrub(ctx context.Context, method, where string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, where, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	switch {
	case err != nil:
		return err
	case resp.StatusCode >= 300:
		return fmt.Errorf("%s %s: %s: %s", method, where, resp.Status, body)
	case v == nil:
		return nil
	}
	return json.Unmarshal(body, v)
}

func printScrubs(list []server.ScrubReport, asJSON bool, out io.Writer) error {
	bad := count(list, func(r server.ScrubReport) bool { return r.Bad > r.Repaired || r.Err != "" })
	var err error
	if asJSON {
		err = printJSON(out, list)
	} else {
		_, err = io.WriteString(out, scrubText(list))
	}
	if err != nil {
		return cannot(err)
	}
	if bad > 0 {
		return &toolError{exitProblems, fmt.Errorf("%s of %d %s problems that could not be repaired", plural(bad, "volume"), len(list), verb(bad, "has", "have"))}
	}
	return nil
}

func scrubText(list []server.ScrubReport) string {
	var b strings.Builder
	for _, r := range list {
		state := "good"
		switch {
		case r.Err != "":
			state = "not read to the end: " + r.Err
		case r.Bad > r.Repaired:
			state = "bad"
		case r.Bad > 0:
			state = "repaired"
		}
		fmt.Fprintf(&b, "volume %d: %s; %s\n", r.Volume, state, formatBytes(r.Size))
		for _, p := range r.Problems {
			where, outcome := "", p.Err
			if p.Key != "" {
				where = ", key " + p.Key
			}
			if p.Repaired {
				outcome = "repaired"
			}
			fmt.Fprintf(&b, "  at %d%s: %s (%s)\n", p.Offset, where, p.What, outcome)
		}
	}
	return b.String()
}
