package server_test

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weedd/volume"
	"weedd/volume/server"
	"weedd/volume/store"
	"weedd/volume/vfs"
	"weedd/volume/volumehttp"
	"weedd/volume/volumetest"
	"weedd/volume/wire"
)

const goldenPath = "../store/testdata/vectors"

// goldens are the directories that SeaweedFS 4.44 wrote and whose answers were
// recorded. All volumes in them are foreign to us.
var goldens = []string{"v3-basic", "v3-large", "v3-collection", "v3-replication", "configured-replication", "v2-basic", "v1-basic", "v3-ttl"}

// soon is a minute after the last of the volumes was written: what has a time to
// live is alive.
var soon = time.Unix(1795347180, 0)

// goldenNode is a volume server over a directory that SeaweedFS wrote, with its
// public API on a port.
type goldenNode struct {
	t      *testing.T
	golden *volumetest.Golden
	store  *store.Store
	server *server.Server
	dir    string
	files  map[string]volumetest.DirFile // before we came
	now    atomic.Pointer[time.Time]
	url    string
	client *http.Client
	close  func()
}

// openGolden starts a node. change may alter the directory before.
func openGolden(t *testing.T, name string, change ...func(dir string)) *goldenNode {
	t.Helper()
	dir := t.TempDir()
	golden := volumetest.OpenGolden(t, filepath.Join(goldenPath, name), dir)
	for _, f := range change {
		f(dir)
	}
	n := serveGolden(t, dir)
	n.golden = golden
	return n
}

// serveGolden starts a node over a directory.
func serveGolden(t *testing.T, dir string) *goldenNode {
	t.Helper()
	n := &goldenNode{t: t, dir: dir, client: &http.Client{Transport: &http.Transport{DisableCompression: true}, Timeout: time.Minute}}
	n.now.Store(&soon)
	n.files = volumetest.Files(t, n.dir)
	now, log := func() time.Time { return *n.now.Load() }, slog.New(slog.DiscardHandler)
	ledger, err := store.OpenLedger(vfs.OS{}, filepath.Join(t.TempDir(), "copies"))
	if err != nil {
		t.Fatal(err)
	}
	disk, err := store.Open(store.Options{FS: vfs.OS{}, Dirs: []store.Dir{{Path: n.dir, Max: 100, Init: true}}, Ledger: ledger, Log: log, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	n.store = disk
	s := server.New(server.Options{
		Node: "n1", Store: disk, Ledger: ledger, Master: masterOf{newFakeMaster([]volume.NodeID{"n1"}), "n1"}, Peers: nobody{},
		ClusterID: func() string { return clusterID }, SetClusterID: func(string) error { return nil },
		Logger: log, Now: now, Run: 1, Beat: 20 * time.Millisecond,
	})
	n.server = s
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() { _ = s.Run(ctx) })
	api := volumehttp.New(volumehttp.Options{Blobs: goldenBlobs{s}, Log: log, Version: "test"})
	public := httptest.NewServer(api.Handler())
	n.url = public.URL
	n.close = sync.OnceFunc(func() {
		n.client.CloseIdleConnections()
		public.Close()
		cancel()
		work.Wait()
		for _, c := range []io.Closer{api, s, disk} {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	t.Cleanup(n.close)
	return n
}

type nobody struct{}

func (nobody) Node(volume.NodeID) (volume.Node, bool) { return volume.Node{}, false }
func (nobody) Alive(volume.NodeID) bool               { return false }

type goldenBlobs struct{ *server.Server }

func (b goldenBlobs) Status() volumehttp.Status { return volumehttp.Status(b.Server.Status()) }

// served is what a client sees of an answer.
type served struct {
	status  int
	headers map[string]string // without those that belong to the connection and the moment
	body    []byte
}

func (n *goldenNode) do(method, path, encoding string, body io.Reader) served {
	n.t.Helper()
	req, err := http.NewRequest(method, n.url+path, body)
	if err != nil {
		n.t.Fatal(err)
	}
	if encoding != "" {
		req.Header.Set("Accept-Encoding", encoding)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/octet-stream")
	}
	res, err := n.client.Do(req)
	if err != nil {
		n.t.Fatal(err)
	}
	defer res.Body.Close()
	s := served{status: res.StatusCode, headers: map[string]string{}}
	if s.body, err = io.ReadAll(res.Body); err != nil {
		n.t.Fatalf("%s %s: %v", method, path, err)
	}
	for name, values := range res.Header {
		if name != "Date" && name != "Server" && name != wire.HeaderRequestID {
			s.headers[name] = strings.Join(values, ", ")
		}
	}
	return s
}

// goldenRead is one read of one needle, and what SeaweedFS answered to it.
type goldenRead struct {
	needle volumetest.GoldenNeedle
	method string
	gzip   bool // with Accept-Encoding: gzip
	want   volumetest.GoldenAnswer
}

func (r goldenRead) ok() bool { return r.want.Status == http.StatusOK }

// lacks reports whether SeaweedFS did not send a header that it sends with a GET
// of the plain form.
func (r goldenRead) lacks(name string) bool {
	return r.want.Headers[name] == "" && r.needle.HTTP.Get.Headers[name] != ""
}

func (r goldenRead) flag(bit uint64) bool {
	flags, _ := strconv.ParseUint(r.needle.Flags, 16, 8)
	return flags&bit != 0
}

func goldenReads(n volumetest.GoldenNeedle) []goldenRead {
	if n.HTTP.Get.Status == 0 { // not recorded
		return nil
	}
	return []goldenRead{
		{n, http.MethodGet, false, n.HTTP.Get}, {n, http.MethodHead, false, n.HTTP.Head}, {n, http.MethodGet, true, n.HTTP.GetGzip},
	}
}

// goldenDeviations are where we answer otherwise than SeaweedFS did, on purpose.
// Each must change the answer to at least one read.
var goldenDeviations = []struct {
	why  string
	of   func(r goldenRead) bool
	edit func(r goldenRead, a *volumetest.GoldenAnswer)
}{
	{"head-type: HEAD, and GET of the gzip form, guess the type as GET of the plain form does", func(r goldenRead) bool { return r.ok() && r.lacks("Content-Type") },
		func(r goldenRead, a *volumetest.GoldenAnswer) {
			a.Headers["Content-Type"] = r.needle.HTTP.Get.Headers["Content-Type"]
		}},
	{"types: by a table of our own, which leaves .bin to be guessed", func(r goldenRead) bool {
		return r.ok() && r.needle.Fid == "1,16a1b2c3e9" // the one that reads as text
	}, func(r goldenRead, a *volumetest.GoldenAnswer) {
		a.Headers["Content-Type"] = "text/plain; charset=utf-8"
	}},
	{"404-head: HEAD has a length as GET has", func(r goldenRead) bool { return !r.ok() && r.lacks("Content-Length") },
		func(r goldenRead, a *volumetest.GoldenAnswer) { a.Headers["Content-Length"] = "0" }},
	{"gzip-negotiation: the answer says that it depends on Accept-Encoding", func(r goldenRead) bool { return r.ok() && r.flag(0x01) && !r.flag(0x80) },
		func(r goldenRead, a *volumetest.GoldenAnswer) { a.Headers["Vary"] = "Accept-Encoding" }},
	{"gzip-negotiation: the gzip form has a tag of its own", func(r goldenRead) bool { return r.ok() && r.flag(0x01) && !r.flag(0x80) && r.gzip },
		func(r goldenRead, a *volumetest.GoldenAnswer) {
			a.Headers["Etag"] = strings.TrimSuffix(a.Headers["Etag"], `"`) + `-gzip"`
		}},
}

// anyLength is a Content-Length that is only compared with the body.
const anyLength = "any"

// expected gives the answer that we owe, and counts the deviations in it.
func (r goldenRead) expected(used []int) volumetest.GoldenAnswer {
	a := r.want
	a.Headers = maps.Clone(a.Headers)
	for i, d := range goldenDeviations {
		if !d.of(r) {
			continue
		}
		before := fmt.Sprint(a)
		if d.edit(r, &a); fmt.Sprint(a) != before {
			used[i]++
		}
	}
	return a
}

// Every file in volumes that SeaweedFS wrote is served as SeaweedFS served it,
// header by header, but for the deviations listed.
func TestGoldenVolumesAreServedAsTheirManifestsSay(t *testing.T) {
	t.Parallel()
	used := make([]int, len(goldenDeviations))
	for _, name := range goldens {
		n := openGolden(t, name)
		for _, v := range n.golden.Volumes {
			for _, needle := range v.Needles {
				for _, r := range goldenReads(needle) {
					n.compare(name, r, r.expected(used))
				}
				n.wantStored(name, needle)
			}
		}
		n.close()
	}
	for i, d := range goldenDeviations {
		if used[i] == 0 {
			t.Errorf("deviation matches nothing: %s", d.why)
		}
	}
}

func (n *goldenNode) compare(name string, r goldenRead, want volumetest.GoldenAnswer) {
	n.t.Helper()
	encoding := ""
	if r.gzip {
		encoding = "gzip"
	}
	got := n.do(r.method, "/"+r.needle.Fid, encoding, nil)
	what := fmt.Sprintf("%s: %s /%s, gzip %v", name, r.method, r.needle.Fid, r.gzip)
	if got.status != want.Status {
		n.t.Errorf("%s: status %d, want %d", what, got.status, want.Status)
	}
	if sum := sha256.Sum256(got.body); want.SHA256 != "" && hex.EncodeToString(sum[:]) != want.SHA256 {
		n.t.Errorf("%s: other bytes: %d, beginning %.40q", what, len(got.body), got.body)
	}
	if length := got.headers["Content-Length"]; r.method == http.MethodGet && length != strconv.Itoa(len(got.body)) {
		n.t.Errorf("%s: Content-Length %s with %d bytes", what, length, len(got.body))
	}
	if want.Headers["Content-Length"] == anyLength {
		want.Headers["Content-Length"] = got.headers["Content-Length"]
	}
	for _, header := range slices.Sorted(maps.Keys(maps.Collect(both(got.headers, want.Headers)))) {
		if got.headers[header] != want.Headers[header] {
			n.t.Errorf("%s: %s: %q, want %q", what, header, got.headers[header], want.Headers[header])
		}
	}
}

func both(a, b map[string]string) func(yield func(string, string) bool) {
	merged := maps.Clone(a)
	maps.Copy(merged, b)
	return maps.All(merged)
}

// wantStored checks what the manifest says of the stored bytes: what is served to
// those who take gzip, or the plain bytes; and that of a deleted file they are
// there for those who ask.
func (n *goldenNode) wantStored(name string, needle volumetest.GoldenNeedle) {
	n.t.Helper()
	path, status := "/"+needle.Fid+"?cm=false", needle.Status // a manifest, not what it stands for
	if needle.Deleted {
		path, status = path+"&readDeleted=true", http.StatusOK
	}
	got := n.do(http.MethodGet, path, "gzip", nil)
	if got.status != status {
		n.t.Errorf("%s: GET %s: status %d, want %d", name, path, got.status, status)
		return
	}
	tag := strings.TrimSuffix(strings.Trim(got.headers["Etag"], `"`), "-gzip")
	sum := sha256.Sum256(got.body)
	if status == http.StatusOK && (hex.EncodeToString(sum[:]) != needle.Stored.SHA256 || tag != needle.Stored.CRC32C) {
		n.t.Errorf("%s: GET %s: %d bytes with tag %s, want %+v", name, path, len(got.body), tag, needle.Stored)
	}
}

// A chunk manifest is served as it is where it is asked for, to those who take gzip
// and to others.
func TestTheGoldenChunkManifestIsServedAsItIs(t *testing.T) {
	t.Parallel()
	n := openGolden(t, "v3-basic")
	for _, needle := range n.golden.Volumes[0].Needles {
		if needle.Flags != "8f" {
			continue
		}
		packed, plain := n.do(http.MethodGet, "/"+needle.Fid+"?cm=false", "gzip", nil), n.do(http.MethodGet, "/"+needle.Fid+"?cm=false", "", nil)
		z, err := gzip.NewReader(bytes.NewReader(packed.body))
		if err != nil {
			t.Fatal(err)
		}
		unpacked, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		var list struct{ Chunks []struct{ Fid string } }
		if err := json.Unmarshal(plain.body, &list); err != nil || len(list.Chunks) != 2 || !bytes.Equal(unpacked, plain.body) {
			t.Fatalf("%v: %s", err, plain.body)
		}
		return
	}
	t.Fatal("no chunk manifest")
}

// The cookie is part of the name of a file: with another one there is none,
// neither living nor deleted, and not an empty one (where SeaweedFS differs).
func TestGoldenFilesAreNotFoundWithAnotherCookie(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"v3-basic", "v2-basic", "v1-basic"} {
		n := openGolden(t, name)
		for _, needle := range n.golden.Volumes[0].Needles {
			id, err := volume.ParseFileID(needle.Fid)
			if err != nil {
				t.Fatal(err)
			}
			id.Cookie++
			for _, path := range []string{"/" + id.String(), "/" + id.String() + "?readDeleted=true"} {
				if got := n.do(http.MethodGet, path, "", nil); got.status != http.StatusNotFound || len(got.body) > 0 {
					t.Errorf("%s: GET %s: %d %q", name, path, got.status, got.body)
				}
			}
		}
		n.close()
	}
}

// A file is served to the end of its time to live, its own one if it has one, and
// not after that, whatever one asks for.
func TestGoldenFilesExpire(t *testing.T) {
	t.Parallel()
	n := openGolden(t, "v3-ttl")
	for _, v := range n.golden.Volumes {
		for _, needle := range v.Needles {
			ends := time.Unix(needle.Expires, needle.Appended%1e9)
			for _, c := range []struct {
				now    time.Time
				status int
			}{{ends.Add(-time.Nanosecond), http.StatusOK}, {ends, http.StatusNotFound}} {
				n.now.Store(&c.now)
				for _, query := range []string{"", "?readDeleted=true"} {
					if got := n.do(http.MethodGet, "/"+needle.Fid+query, "", nil); got.status != c.status {
						t.Errorf("GET /%s%s at %v: %d, want %d", needle.Fid, query, c.now, got.status, c.status)
					}
				}
			}
		}
	}
}

// patch changes bytes of a file.
func patch(t *testing.T, name string, off int64, b ...byte) func(dir string) {
	return func(dir string) {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt(b, off)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Records of version 1 have no time at which they were appended. Counted from
// 1970, the time to live of their volume would be over for all of them.
func TestGoldenFilesWithoutATimeToLiveOutliveTheVolumes(t *testing.T) {
	t.Parallel()
	n := openGolden(t, "v1-basic", patch(t, "21.dat", 2, 5, 1)) // five minutes
	for _, needle := range n.golden.Volumes[0].Needles {
		if got := n.do(http.MethodGet, "/"+needle.Fid, "", nil); got.status != needle.Status {
			t.Errorf("GET /%s: %d, want %d", needle.Fid, got.status, needle.Status)
		}
	}
}

// No byte of a file that fails its checksum is sent.
// A leader that was deposed may send an entry of before an adoption. It must not make
// the node forget that the adoption failed: nothing would be planned anew.
func TestAnOlderEntryDoesNotHideThatAnAdoptionFailed(t *testing.T) {
	t.Parallel()
	n := openGolden(t, "v3-basic")
	id := n.store.Volumes()[0].ID()
	entry := func(version uint64, node volume.NodeID) volume.Entry {
		return volume.Entry{Volume: id, State: volume.StateNew, Epoch: volume.Epoch(version), Version: version, Primary: node,
			InSync: []volume.Holder{{Node: node, Copy: volume.CopyID(version)}}, Sources: []volume.Source{{Node: "n1", Print: 1}}} // of other files than those here
	}
	obey := func(e volume.Entry) { n.server.Obey(volume.Orders{Cluster: clusterID, Entries: []volume.Entry{e}}) }
	obey(entry(2, "n1"))
	failed := func() bool { r, ok := n.server.Lost(id); return ok && r.Copy == 2 && r.State == volume.CopyFailed }
	for deadline := time.Now().Add(30 * time.Second); !failed(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the adoption does not fail")
		}
	}
	obey(entry(1, "n2"))
	if !failed() {
		t.Error("an older entry hides that")
	}
	obey(entry(3, "n2"))
	if failed() {
		t.Error("a newer one, by which another node adopts the volume, does not")
	}
}

func TestDamagedGoldenFilesAreNotServed(t *testing.T) {
	t.Parallel()
	n := openGolden(t, "v3-collection", patch(t, "photos_3.dat", 40, 0xff, 0xff, 0xff))
	for _, v := range n.golden.Volumes {
		want := http.StatusOK
		if v.Collection == "photos" {
			want = http.StatusInternalServerError
		}
		got := n.do(http.MethodGet, "/"+v.Needles[0].Fid, "", nil)
		if got.status != want || want != http.StatusOK && len(got.body) > 0 {
			t.Errorf("GET /%s: %d, %d bytes", v.Needles[0].Fid, got.status, len(got.body))
		}
	}
}

// goldenStatus is /status, as far as it is about volumes.
type goldenStatus struct {
	Volumes []struct {
		ID               volume.ID
		Collection       string
		ReplicaPlacement wire.Placement
		TTL              wire.TTL
		Size             int64
		FileCount        uint64
		DeleteCount      uint64
		DeletedByteCount uint64
		CompactRevision  uint16
		Version          int
		ReadOnly         bool
		Reason           string
	}
}

// The status page lists the volumes as what they are: read-only, and why.
func TestGoldenVolumesAreShownAsReadOnly(t *testing.T) {
	t.Parallel()
	for _, name := range goldens {
		n := openGolden(t, name)
		var page goldenStatus
		if err := json.Unmarshal(n.do(http.MethodGet, "/status", "", nil).body, &page); err != nil {
			t.Fatal(err)
		}
		want := slices.SortedFunc(slices.Values(n.golden.Volumes), func(a, b volumetest.GoldenVolume) int { return cmp.Compare(a.ID, b.ID) })
		if len(page.Volumes) != len(want) {
			t.Fatalf("%s: %d volumes, want %d", name, len(page.Volumes), len(want))
		}
		for i, w := range want {
			got := page.Volumes[i]
			placement, err := volume.ParsePlacement(cmp.Or(n.golden.Replication, w.Replication))
			if err != nil {
				t.Fatal(err)
			}
			ttl, err := volume.ParseTTL(w.TTL)
			if err != nil {
				t.Fatal(err)
			}
			dcs, racks, nodes := placement.Digits()
			if got.ID != w.ID || got.Collection != w.Collection || got.Version != w.Version || got.Size != w.Size || got.CompactRevision != w.Revision ||
				got.ReplicaPlacement != (wire.Placement{Node: nodes, Rack: racks, DC: dcs}) || got.TTL != (wire.TTL{Count: ttl.Count, Unit: ttl.Unit}) {
				t.Errorf("%s: %+v, want %+v", name, got, w)
			}
			// Deletes of empty files are counted after a reload only.
			if c := w.Counters; c != nil && (got.FileCount != c.FileCount || got.DeletedByteCount != c.DeletedByteCount || got.DeleteCount < c.DeleteCount) {
				t.Errorf("%s: volume %d: %+v, want %+v", name, w.ID, got, c)
			}
			if !got.ReadOnly || !strings.Contains(got.Reason, "reads only") {
				t.Errorf("%s: volume %d: read-only %v, because %q", name, w.ID, got.ReadOnly, got.Reason)
			}
		}
		n.close()
	}
}

// Whatever is asked of the volumes of SeaweedFS, their files stay as they were
// to the last bit and date; what comes beside them are the two files that mark a
// directory as in use.
func TestGoldenVolumesAreNeverWrittenTo(t *testing.T) {
	t.Parallel()
	for _, name := range goldens {
		n := openGolden(t, name)
		for _, v := range n.golden.Volumes {
			n.wantRefusals(name, v)
		}
		n.close()
		after := volumetest.Files(t, n.dir)
		for _, marker := range []string{".weedd-disk", ".weedd-probe", "vol_dir.uuid"} {
			if _, ok := after[marker]; !ok {
				t.Errorf("%s: no file %s", name, marker)
			}
			delete(after, marker)
		}
		if !maps.Equal(after, n.files) {
			t.Errorf("%s: files were changed: %v before, %v after", name, slices.Sorted(maps.Keys(n.files)), slices.Sorted(maps.Keys(after)))
		}
	}
}

// wantRefusals writes over, beside and away what a volume has, in vain.
func (n *goldenNode) wantRefusals(name string, v volumetest.GoldenVolume) {
	n.t.Helper()
	there := v.Needles[0].Fid
	fresh := volume.FileID{Volume: v.ID, Key: 0x7777, Cookie: 0x1234}.String()
	before := n.do(http.MethodGet, "/"+there, "", nil)
	for _, r := range []struct{ method, path string }{
		{http.MethodPost, there}, {http.MethodPut, there}, {http.MethodPut, fresh}, {http.MethodPost, fresh + "?type=replicate"},
		{http.MethodPut, fresh + "?create=true"}, {http.MethodDelete, there}, {http.MethodDelete, there + "?type=replicate"},
	} {
		got := n.do(r.method, "/"+r.path, "", strings.NewReader("not to be stored"))
		var e wire.ErrorBody
		err := json.Unmarshal(got.body, &e)
		if got.status != http.StatusInternalServerError || err != nil || !strings.Contains(e.Error, "read-only") || !strings.Contains(e.Error, v.ID.String()) {
			n.t.Errorf("%s: %s /%s: %d %q, want a refusal that says why", name, r.method, r.path, got.status, got.body)
		}
	}
	if got := n.do(http.MethodGet, "/"+fresh, "", nil); got.status != http.StatusNotFound {
		n.t.Errorf("%s: GET /%s, which was refused: %d", name, fresh, got.status)
	}
	if got := n.do(http.MethodGet, "/"+there, "", nil); got.status != before.status || !maps.Equal(got.headers, before.headers) || !bytes.Equal(got.body, before.body) {
		n.t.Errorf("%s: GET /%s: %d, before the refusals %d", name, there, got.status, before.status)
	}
}

// What SeaweedFS did to a volume in shards is done here with the same outcome: two
// files are deleted, and the keys are in the journal as it wrote them; they are gone,
// also after a restart, and the others are there.
func TestFilesAreDeletedFromGoldenShards(t *testing.T) {
	t.Parallel()
	from, dir := t.TempDir(), t.TempDir()
	volumetest.Unpack(t, filepath.Join(goldenPath, "ec-small", "files.tar.gz"), from)
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(from, "encoded"))); err != nil {
		t.Fatal(err)
	}
	n := serveGolden(t, dir)
	do := func(method, fid string, want int) {
		t.Helper()
		if got := n.do(method, "/"+fid, "", nil); got.status != want {
			t.Errorf("%s /%s: %d %q, want %d", method, fid, got.status, got.body, want)
		}
	}
	const first, file, empty = "30,01ec000001", "30,10ec000010", "30,0dec00000d"
	do(http.MethodDelete, "30,10ec000011", http.StatusBadRequest) // another cookie
	do(http.MethodDelete, "30,99ec000010", http.StatusNotFound)
	do(http.MethodDelete, "30,0eec00000e", http.StatusNotFound) // before it was encoded
	do(http.MethodGet, file, http.StatusOK)
	if _, err := os.Stat(filepath.Join(dir, "30.ecj")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a journal without deletions: %v", err)
	}
	do(http.MethodDelete, file, http.StatusAccepted)
	do(http.MethodDelete, empty, http.StatusAccepted)
	for range 2 {
		do(http.MethodDelete, file, http.StatusNotFound)
		do(http.MethodGet, file, http.StatusNotFound)
		do(http.MethodHead, empty, http.StatusNotFound)
		do(http.MethodGet, first, http.StatusOK)
		do(http.MethodPut, file, http.StatusInternalServerError)
		n.close()
		for _, ext := range []string{".ecj", ".ecx"} {
			got, err := os.ReadFile(filepath.Join(dir, "30"+ext))
			want, err2 := os.ReadFile(filepath.Join(from, "deleted", "30"+ext))
			if !bytes.Equal(got, want) || errors.Join(err, err2) != nil {
				t.Errorf("30%s: %x, SeaweedFS wrote %x; %v", ext, got, want, errors.Join(err, err2))
			}
		}
		n = serveGolden(t, dir)
	}
}
