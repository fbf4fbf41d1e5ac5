package client_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weedd/cluster"
	"weedd/daemon/client"
	"weedd/daemon/client/clienttest"
	"weedd/volume"
)

func newClient(t *testing.T, opt client.Options) *client.Client {
	t.Helper()
	c, err := client.New(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// deadAddr is an address at which nobody listens.
func deadAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func get(t *testing.T, c *client.Client, id volume.FileID) ([]byte, error) {
	t.Helper()
	var b []byte
	err := c.Get(t.Context(), id, func(o client.Object) (err error) {
		b, err = io.ReadAll(o.Body)
		return err
	})
	return b, err
}

func TestFilesComeBackAsTheyWereStored(t *testing.T) {
	t.Parallel()
	fake := clienttest.Start(t, 2, 2, nil)
	c := newClient(t, client.Options{Masters: fake.Addrs()})
	for _, size := range []int{0, 1, 100_000} {
		want := bytes.Repeat([]byte("x"), size)
		path := filepath.Join(t.TempDir(), "ä file.txt")
		if err := os.WriteFile(path, want, 0o600); err != nil {
			t.Fatal(err)
		}
		for name, store := range map[string]func() (client.Stored, error){
			"submit": func() (client.Stored, error) { return c.Submit(t.Context(), client.Spec{}, client.File(path)) },
			"put":    func() (client.Stored, error) { return c.Put(t.Context(), client.Spec{}, client.Bytes("x", want)) },
		} {
			st, err := store()
			if err != nil {
				t.Fatalf("%s of %d bytes: %v", name, size, err)
			}
			if st.Size != int64(size) || st.SHA256 != sha256.Sum256(want) || st.Attempts != 1 {
				t.Errorf("%s of %d bytes: stored %+v", name, size, st)
			}
			if got, err := get(t, c, st.ID); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s of %d bytes: got %d bytes back, %v", name, size, len(got), err)
			}
			for range 2 { // the second finds nothing, which is as good
				if err := c.Delete(t.Context(), st.ID); err != nil {
					t.Errorf("delete: %v", err)
				}
			}
			if _, err := get(t, c, st.ID); !errors.Is(err, volume.ErrNotFound) {
				t.Errorf("get of a deleted file: %v, want not found", err)
			}
		}
	}
}

func TestParametersHeadersAndNamesReachTheServers(t *testing.T) {
	t.Parallel()
	var seen atomic.Value
	fake := clienttest.Start(t, 1, 1, func(w http.ResponseWriter, r clienttest.Request) bool {
		switch {
		case r.Who == "master0" && r.URL.Path == "/dir/assign":
			w.Header().Set("Authorization", "Bearer token")
		case r.Method == http.MethodPut || r.URL.Path == "/submit":
			seen.Store(fmt.Sprintf("%s %s %s %s %d", r.URL.RawQuery, r.Header["Content-Type"], r.Header["Content-Disposition"], r.Header["Authorization"], r.ContentLength))
		}
		return false
	})
	c := newClient(t, client.Options{Masters: fake.Addrs()})
	spec := client.Spec{Collection: "pics", Replication: "001", TTL: "3d", Disk: "ssd"}
	if _, err := c.Submit(t.Context(), spec, client.Bytes("ä.html", []byte("abc"))); err != nil {
		t.Fatal(err)
	}
	if got, want := seen.Load(), `collection=pics&disk=ssd&replication=001&ttl=3d [text/html; charset=utf-8] [attachment; filename*=utf-8''%C3%A4.html] [] 3`; got != want {
		t.Errorf("submit sent\n%s, want\n%s", got, want)
	}
	if _, err := c.Put(t.Context(), spec, client.Source{Type: "multipart/form-data", Open: client.Bytes("", nil).Open}); err != nil {
		t.Fatal(err)
	}
	if got, want := seen.Load(), ` [application/octet-stream] [] [Bearer token] 0`; got != want {
		t.Errorf("put sent\n%s, want\n%s", got, want)
	}
}

func TestTheNextMasterIsAskedWhenOneFails(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(w http.ResponseWriter){
		"answers 503":       func(w http.ResponseWriter) { clienttest.Error(w, 503, "no leader") },
		"answers 429":       func(w http.ResponseWriter) { clienttest.Error(w, 429, "busy") },
		"answers 502 empty": func(w http.ResponseWriter) { w.WriteHeader(502) },
		"is another server": func(w http.ResponseWriter) { fmt.Fprint(w, "<html>") },
		"breaks off":        func(w http.ResponseWriter) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := clienttest.Start(t, 2, 1, func(w http.ResponseWriter, r clienttest.Request) bool {
				if r.Who == "master0" {
					fail(w)
				}
				return r.Who == "master0"
			})
			c := newClient(t, client.Options{Masters: append(fake.Addrs(), deadAddr(t))})
			for range 3 { // whichever master comes first
				if _, err := c.Submit(t.Context(), client.Spec{}, client.Bytes("a", []byte("abc"))); err != nil {
					t.Error(err)
				}
				if _, err := c.Assign(t.Context(), client.Spec{}, 1); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestAWriteIsTriedAgainWithANewID(t *testing.T) {
	t.Parallel()
	var ids []string
	fake := clienttest.Start(t, 1, 1, func(w http.ResponseWriter, r clienttest.Request) bool {
		if r.Method != http.MethodPut {
			return false
		}
		ids = append(ids, r.URL.Path)
		switch len(ids) {
		case 1:
			clienttest.Error(w, 500, "volume 3 is read only")
		case 2:
			io.CopyN(io.Discard, r.Body, 1000)
			panic(http.ErrAbortHandler)
		default:
			return false
		}
		return true
	})
	c := newClient(t, client.Options{Masters: fake.Addrs()})
	want := bytes.Repeat([]byte("abc"), 1<<20)
	st, err := c.Put(t.Context(), client.Spec{}, client.Bytes("a", want))
	if err != nil {
		t.Fatal(err)
	}
	if len(ids) != 3 || ids[0] == ids[1] || ids[1] == ids[2] || "/"+st.ID.String() != ids[2] || st.Attempts != 3 {
		t.Errorf("ids tried: %v, stored %+v", ids, st)
	}
	if got := fake.Files()[st.ID.String()]; !bytes.Equal(got, want) || st.SHA256 != sha256.Sum256(want) {
		t.Errorf("stored %d bytes, want %d", len(got), len(want))
	}
}

func TestWhatAnotherTryCannotCureIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	var requests atomic.Int32
	fake := clienttest.Start(t, 2, 1, func(w http.ResponseWriter, r clienttest.Request) bool {
		requests.Add(1)
		clienttest.Error(w, 406, "unknown replication type: abc")
		return true
	})
	c := newClient(t, client.Options{Masters: fake.Addrs()})
	_, err := c.Submit(t.Context(), client.Spec{Replication: "abc"}, client.Bytes("a.txt", nil))
	if !errors.Is(err, volume.ErrBadSpec) || requests.Load() != 1 {
		t.Errorf("%d requests, %v", requests.Load(), err)
	}
	for _, part := range []string{"submit a.txt", "/submit?replication=abc", "406 Not Acceptable", "unknown replication type: abc"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
	_, err = c.Submit(t.Context(), client.Spec{}, client.File(filepath.Join(t.TempDir(), "missing")))
	if !errors.Is(err, os.ErrNotExist) || requests.Load() != 1 {
		t.Errorf("missing file: %d requests, %v", requests.Load(), err)
	}
	broken := client.Source{Name: "short", Open: func() (io.ReadCloser, int64, error) {
		return io.NopCloser(strings.NewReader("abc")), 5, nil
	}}
	if _, err = c.Submit(t.Context(), client.Spec{}, broken); err == nil || !strings.Contains(err.Error(), "ended after 3 of 5") || requests.Load() > 2 {
		t.Errorf("file that shrinks: %d requests, %v", requests.Load(), err)
	}
}

func TestGivingUpNamesEveryAnswer(t *testing.T) {
	t.Parallel()
	fake := clienttest.Start(t, 1, 1, func(w http.ResponseWriter, r clienttest.Request) bool {
		clienttest.Error(w, 503, "no leader")
		return true
	})
	dead := deadAddr(t)
	c := newClient(t, client.Options{Masters: []string{fake.Addrs()[0], dead}, Attempts: 4})
	_, err := c.Assign(t.Context(), client.Spec{}, 1)
	if err == nil || !errors.Is(err, volume.ErrUnavailable) {
		t.Fatalf("err = %v", err)
	}
	for _, part := range []string{"after 4 attempts", fake.Addrs()[0], "no leader", dead, "connection refused"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
	if n := strings.Count(err.Error(), "no leader"); n != 1 {
		t.Errorf("the same answer is told %d times: %v", n, err)
	}
}

func TestRetryAfterIsHonouredAndPatienceEnds(t *testing.T) {
	t.Parallel()
	var times []time.Time
	fake := clienttest.Start(t, 1, 1, func(w http.ResponseWriter, r clienttest.Request) bool {
		times = append(times, time.Now())
		if len(times) == 1 {
			w.Header().Set("Retry-After", "1")
			clienttest.Error(w, 503, "warming up")
			return true
		}
		return false
	})
	c := newClient(t, client.Options{Masters: fake.Addrs()})
	if _, err := c.Assign(t.Context(), client.Spec{}, 1); err != nil {
		t.Fatal(err)
	}
	if waited := times[1].Sub(times[0]); waited < time.Second {
		t.Errorf("asked again after %s, told to wait 1s", waited)
	}
	times = nil
	c = newClient(t, client.Options{Masters: fake.Addrs(), Patience: 500 * time.Millisecond})
	began := time.Now()
	if _, err := c.Assign(t.Context(), client.Spec{}, 1); err == nil || time.Since(began) > 900*time.Millisecond {
		t.Errorf("waited %s for an answer beyond its patience, %v", time.Since(began), err)
	}
}

func TestASilentServerIsGivenUp(t *testing.T) {
	t.Parallel()
	fake := clienttest.Start(t, 2, 1, func(w http.ResponseWriter, r clienttest.Request) bool {
		if r.Who == "master0" {
			io.Copy(io.Discard, r.Body) // else the server does not hear that the client went away
			<-r.Context().Done()
		}
		return r.Who == "master0"
	})
	c := newClient(t, client.Options{Masters: fake.Addrs(), Stall: 100 * time.Millisecond})
	for range 2 {
		if _, err := c.Submit(t.Context(), client.Spec{}, client.Bytes("", nil)); err != nil {
			t.Error(err)
		}
	}
}

func TestCancellingEndsAnOperation(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	fake := clienttest.Start(t, 1, 1, func(w http.ResponseWriter, r clienttest.Request) bool {
		cancel()
		clienttest.Error(w, 503, "no")
		return true
	})
	c := newClient(t, client.Options{Masters: fake.Addrs()})
	if _, err := c.Assign(ctx, client.Spec{}, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v, want canceled", err)
	}
}

func TestReadsTryEveryHolder(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]func(w http.ResponseWriter){
		"404":             func(w http.ResponseWriter) { w.WriteHeader(404) },
		"503":             func(w http.ResponseWriter) { w.WriteHeader(503) },
		"breaks off":      func(w http.ResponseWriter) { w.Header().Set("Content-Length", "9"); w.Write([]byte("goo")) },
		"other bytes":     func(w http.ResponseWriter) { w.Write([]byte("b@d")) },
		"too few of them": func(w http.ResponseWriter) { w.Write([]byte("goo")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := clienttest.Start(t, 1, 3, func(w http.ResponseWriter, r clienttest.Request) bool {
				if r.Who == "server0" || r.Who == "server1" {
					bad(w)
				}
				return r.Who == "server0" || r.Who == "server1"
			})
			c := newClient(t, client.Options{Masters: fake.Addrs()})
			fake.Set("3,0112345678", []byte("good"))
			id, _ := volume.ParseFileID("3,0112345678")
			for range 5 {
				err := c.Get(t.Context(), id, func(o client.Object) error {
					b, err := io.ReadAll(o.Body)
					if err == nil && string(b) != "good" {
						return fmt.Errorf("%w: %q", volume.ErrCorrupt, b)
					}
					if err == nil && o.Name != "a name.txt" {
						return fmt.Errorf("name %q", o.Name)
					}
					return err
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestReadsEndWhenNoHolderCanHelp(t *testing.T) {
	t.Parallel()
	var lookups atomic.Int32
	fake := clienttest.Start(t, 1, 2, func(w http.ResponseWriter, r clienttest.Request) bool {
		if r.URL.Path == "/dir/lookup" {
			lookups.Add(1)
		}
		return false
	})
	c := newClient(t, client.Options{Masters: fake.Addrs()})
	fake.Set("3,0112345678", []byte("bad"))
	id, _ := volume.ParseFileID("3,0112345678")
	calls := 0
	err := c.Get(t.Context(), id, func(client.Object) error { calls++; return volume.ErrCorrupt })
	if !errors.Is(err, volume.ErrCorrupt) || calls != 2 {
		t.Errorf("read called %d times, %v", calls, err)
	}
	own := errors.New("disk full")
	calls = 0
	if err = c.Get(t.Context(), id, func(client.Object) error { calls++; return own }); !errors.Is(err, own) || calls != 1 {
		t.Errorf("read called %d times, %v", calls, err)
	}
	lookups.Store(0)
	c.Lookup(t.Context(), 3)
	c.Lookup(t.Context(), 3)
	if lookups.Load() > 1 {
		t.Error("what was looked up is not remembered")
	}
}

func TestAMasterThatHasNotHeardOfAVolumeIsNotBelieved(t *testing.T) {
	t.Parallel()
	fake := clienttest.Start(t, 3, 1, func(w http.ResponseWriter, r clienttest.Request) bool {
		if r.Who != "master2" {
			clienttest.Error(w, 404, "volume id 3 not found")
		}
		return r.Who != "master2" && r.Who != "server0"
	})
	for range 3 {
		c := newClient(t, client.Options{Masters: fake.Addrs()})
		if at, err := c.Lookup(t.Context(), 3); err != nil || len(at) != 1 {
			t.Errorf("%v, %v", at, err)
		}
		c = newClient(t, client.Options{Masters: fake.Addrs()[:2]})
		if _, err := c.Lookup(t.Context(), 3); !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("err = %v, want not found", err)
		}
	}
}

// A server that wants a token gets one that was fetched for this file and for this
// kind of request, and it is fetched first from then on.
func TestTokensAreFetchedWhereTheyAreAskedFor(t *testing.T) {
	t.Parallel()
	var refused, lookups atomic.Int32
	fake := clienttest.Start(t, 1, 1, func(w http.ResponseWriter, r clienttest.Request) bool {
		kind := map[bool]string{true: "read", false: "write"}[r.Method == http.MethodGet]
		switch q := r.URL.Query(); {
		case r.URL.Path == "/dir/lookup" && q.Get("fileId") != "":
			lookups.Add(1)
			kind = map[bool]string{true: "read", false: "write"}[q.Get("read") == "yes"]
			w.Header().Set("Authorization", kind+" "+q.Get("fileId"))
		case r.Who == "server0" && r.Header.Get("Authorization") != kind+" "+r.URL.Path[1:]:
			refused.Add(1)
			clienttest.Error(w, 401, "wrong jwt")
			return true
		}
		return false
	})
	c := newClient(t, client.Options{Masters: fake.Addrs()})
	for _, fid := range []string{"3,0112345678", "3,0212345678"} {
		fake.Set(fid, []byte("bytes"))
		id, _ := volume.ParseFileID(fid)
		if got, err := get(t, c, id); err != nil || string(got) != "bytes" {
			t.Errorf("get: %q, %v", got, err)
		}
		if err := c.Delete(t.Context(), id); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	if refused.Load() != 2 || lookups.Load() != 4 { // the first read and the first delete
		t.Errorf("%d requests were refused, %d tokens fetched", refused.Load(), lookups.Load())
	}
	closed := clienttest.Start(t, 1, 1, func(w http.ResponseWriter, r clienttest.Request) bool {
		if r.Who == "server0" {
			refused.Add(1)
			clienttest.Error(w, 401, "wrong jwt")
		}
		return r.Who == "server0"
	})
	refused.Store(0)
	c = newClient(t, client.Options{Masters: closed.Addrs()})
	if _, err := get(t, c, volume.FileID{Volume: 3, Key: 1}); !errors.Is(err, volume.ErrUnauthorized) || refused.Load() != 2 {
		t.Errorf("without a token that is good: %v after %d tries", err, refused.Load())
	}
}

func TestStatusAndOptions(t *testing.T) {
	t.Parallel()
	fake := clienttest.Start(t, 2, 1, nil)
	fake.SetView(cluster.View{ClusterID: "c", Problems: []cluster.ViewProblem{{Severity: cluster.SeverityWarn, What: "x"}}})
	c := newClient(t, client.Options{Masters: fake.Addrs()})
	v, err := c.Status(t.Context())
	if err != nil || v.ClusterID != "c" || len(v.Problems) != 1 {
		t.Errorf("%+v, %v", v, err)
	}
	s, err := c.MasterStatus(t.Context(), c.Masters()[1])
	if err != nil || s.IsLeader || s.Leader != fake.Addrs()[0] || len(s.Peers) != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	for _, bad := range [][]string{nil, {""}, {"host"}, {"ftp://host:1"}, {"http://host:1/path"}, {"host:x"}} {
		if _, err := client.New(client.Options{Masters: bad}); err == nil {
			t.Errorf("masters %q are accepted", bad)
		}
	}
}
