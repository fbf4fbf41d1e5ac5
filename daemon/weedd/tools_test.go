package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"weedd/cluster"
	"weedd/daemon/client/clienttest"
	"weedd/volume"
)

// runTool runs a command as main does, without a terminal.
func runTool(t *testing.T, cmd *cobra.Command, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&errOut)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err = cmd.ExecuteContext(t.Context())
	return out.String(), errOut.String(), err
}

// exitCode is what main makes of an error.
func exitCode(err error) int {
	var coded interface{ ExitCode() int }
	switch {
	case err == nil:
		return 0
	case errors.As(err, &coded):
		return coded.ExitCode()
	}
	return 1
}

// tree makes files under a new directory.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func manifestLines(t *testing.T, path string) []manifestEntry {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	entries, bad, err := readManifest(f)
	if err != nil || len(bad) > 0 {
		t.Fatalf("manifest: %v %v", bad, err)
	}
	return entries
}

var sample = map[string]string{"pics/b.jpg": "bbb", "pics/a/x.txt": "", "pics/a/ü y.txt": strings.Repeat("y", 70_000), "one.txt": "1"}

func TestWhatIsUploadedComesBackByItsManifest(t *testing.T) {
	t.Parallel()
	fake := clienttest.Start(t, 2, 2, nil)
	masters := strings.Join(fake.Addrs(), ",")
	src, dst := tree(t, sample), t.TempDir()
	if err := os.Symlink("b.jpg", filepath.Join(src, "pics/link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(src, "pics/fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	manifest := filepath.Join(dst, "m.jsonl")
	_, said, err := runTool(t, newUploadCommand(), "-m", masters, "--manifest", manifest, filepath.Join(src, "pics")+"/", filepath.Join(src, "one.txt"))
	if err != nil {
		t.Fatalf("upload: %v\n%s", err, said)
	}
	for _, part := range []string{"link: a symbolic link", "fifo: not a regular file", "stored 4 files, 68.4 KiB", "skipped 2"} {
		if !strings.Contains(said, part) {
			t.Errorf("upload says %q, not %q", said, part)
		}
	}
	var paths []string
	for _, e := range manifestLines(t, manifest) {
		paths = append(paths, e.Path)
		sum := sha256.Sum256([]byte(sample[e.Path]))
		if e.SHA256 != hex.EncodeToString(sum[:]) || e.Size != int64(len(sample[e.Path])) || string(fake.Files()[e.FID]) != sample[e.Path] {
			t.Errorf("manifest entry %+v does not fit the file", e)
		}
	}
	if want := []string{"one.txt", "pics/a/x.txt", "pics/a/ü y.txt", "pics/b.jpg"}; !slices.Equal(paths, want) {
		t.Errorf("paths %q, want %q", paths, want)
	}
	for _, want := range []downloadReport{{Files: 4, Bytes: 70_004}, {Present: 4}} {
		out, _, err := runTool(t, newDownloadCommand(), "-m", masters, "--json", manifest, filepath.Join(dst, "back"))
		var got downloadReport
		if err := errors.Join(err, json.Unmarshal([]byte(out), &got)); err != nil {
			t.Fatal(err)
		}
		if got.Files != want.Files || got.Bytes != want.Bytes || got.Present != want.Present || len(got.Failed) > 0 {
			t.Errorf("report %+v, want %+v", got, want)
		}
	}
	checkTree(t, filepath.Join(dst, "back"), sample)
}

// checkTree compares a directory with what should be in it, and nothing else.
func checkTree(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		got[filepath.ToSlash(rel)] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, text := range want {
		if b, ok := got[path]; !ok || b != text {
			t.Errorf("%s: %d bytes (there: %v), want %d", path, len(b), ok, len(text))
		}
		delete(got, path)
	}
	for path := range got {
		t.Errorf("%s is left over", path)
	}
}

func TestUploadReportsEachFailureAndKeepsTheRest(t *testing.T) {
	t.Parallel()
	fake := clienttest.Start(t, 1, 1, func(w http.ResponseWriter, r clienttest.Request) bool {
		if strings.Contains(r.Header.Get("Content-Disposition"), "bad") {
			clienttest.Error(w, 413, "file over the limit")
			return true
		}
		return false
	})
	src := tree(t, map[string]string{"d/good": "1", "d/bad": "2", "d/n\xff": "3"})
	manifest := filepath.Join(t.TempDir(), "m.jsonl")
	args := []string{"-m", fake.Addrs()[0], "--json", "--manifest", manifest, filepath.Join(src, "d")}
	out, said, err := runTool(t, newUploadCommand(), args...)
	if exitCode(err) != 1 || !strings.Contains(err.Error(), "2 of 3 files could not be stored") {
		t.Errorf("err = %v", err)
	}
	if !strings.Contains(said, "413 Request Entity Too Large: file over the limit") || !strings.Contains(said, "not UTF-8") {
		t.Errorf("said %q", said)
	}
	var report uploadReport
	if err := json.Unmarshal([]byte(out), &report); err != nil || report.Files != 1 || len(report.Failed) != 2 {
		t.Errorf("report %+v, %v", report, err)
	}
	if got := manifestLines(t, manifest); len(got) != 1 || got[0].Path != "d/good" {
		t.Errorf("manifest %+v", got)
	}
}

func TestUploadRefusesWhatItWouldRegret(t *testing.T) {
	t.Parallel()
	fake := clienttest.Start(t, 1, 1, nil)
	src := tree(t, map[string]string{"a/x": "1", "b/x": "2", "m.jsonl": "precious"})
	manifest := filepath.Join(src, "m.jsonl")
	for want, args := range map[string][]string{
		"m.jsonl exists":             {"--manifest", manifest, src + "/a"},
		"would both be x":            {"--manifest", "-", src + "/a/x", src + "/b/x"},
		"both want standard output":  {"--manifest", "-", "--json", src + "/a"},
		"--jobs 0":                   {"--manifest", "-", "--jobs", "0", src + "/a"},
		"requires at least 1 arg":    {"--manifest", "-"},
		"1 of 1 files could not":     {"--manifest", "-", src + "/missing"},
		`master address "localhost"`: {"--manifest", "-", "-m", "localhost", src + "/a"},
	} {
		_, _, err := runTool(t, newUploadCommand(), append([]string{"-m", fake.Addrs()[0]}, args...)...)
		if want == `master address "localhost"` {
			_, _, err = runTool(t, newUploadCommand(), args...)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: err = %v, want %q", args, err, want)
		}
	}
	if b, _ := os.ReadFile(manifest); string(b) != "precious" || len(fake.Files()) != 0 {
		t.Errorf("the manifest is %q, %d files are stored", b, len(fake.Files()))
	}
	if _, _, err := runTool(t, newUploadCommand(), "-m", fake.Addrs()[0], "--force", "--manifest", manifest, src+"/a"); err != nil {
		t.Error(err)
	}
	out, _, err := runTool(t, newUploadCommand(), "-m", fake.Addrs()[0], "--manifest", "-", src+"/a")
	var e manifestEntry
	if err := errors.Join(err, json.Unmarshal([]byte(out), &e)); err != nil || e.Path != "a/x" {
		t.Errorf("standard output has %q, %v", out, err)
	}
}

func TestInterruptedUploadKeepsItsManifest(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stored atomic.Int32
	fake := clienttest.Start(t, 1, 1, func(w http.ResponseWriter, r clienttest.Request) bool {
		if stored.Add(1) > 2 {
			cancel()
			clienttest.Error(w, 503, "not now")
			return true
		}
		return false
	})
	src := tree(t, map[string]string{"d/1": "1", "d/2": "2", "d/3": "3", "d/4": "4"})
	manifest := filepath.Join(t.TempDir(), "m")
	opt := uploadOptions{masters: fake.Addrs(), jobs: 1, manifest: manifest}
	err := upload(ctx, opt, []string{filepath.Join(src, "d")}, io.Discard, io.Discard)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
	if got := manifestLines(t, manifest); len(got) != 2 {
		t.Errorf("manifest %+v, want the 2 that were stored", got)
	}
}

func TestToolsStopWhenTheClusterTakesNothing(t *testing.T) {
	t.Parallel()
	var s streak
	down := clusterDown(t)
	for range longestStreak - 1 {
		if !s.after(down) {
			t.Fatal("stopped early")
		}
	}
	if !s.after(nil) || !s.after(errors.New("a file of its own trouble")) || s.n != 0 {
		t.Error("a success does not end the streak")
	}
	for range longestStreak - 1 {
		s.after(down)
	}
	if s.after(down) {
		t.Error("never stops")
	}
}

// clusterDown is the error of a client whose masters are all away.
func clusterDown(t *testing.T) error {
	_, _, err := runTool(t, newStatusCommand(), "-m", "127.0.0.1:1", "--timeout", "100ms")
	if err == nil {
		t.Fatal("somebody listens at port 1")
	}
	return err
}

func TestDownloadNoticesWrongBytesAndEscapes(t *testing.T) {
	t.Parallel()
	fake := clienttest.Start(t, 1, 2, func(w http.ResponseWriter, r clienttest.Request) bool {
		if r.Who == "server0" && strings.Contains(r.URL.Path, "0512345678") { // one bad copy of two
			w.Write([]byte("bbd"))
			return true
		}
		return false
	})
	dst := t.TempDir()
	if err := os.Symlink(t.TempDir(), filepath.Join(dst, "out")); err != nil {
		t.Fatal(err)
	}
	line := func(path string, key int, text string) string {
		sum := sha256.Sum256([]byte(text))
		return fmt.Sprintf(`{"path":%q,"fid":"3,%02x12345678","size":%d,"sha256":"%x"}`+"\n", path, key, len(text), sum)
	}
	fake.Set("3,0112345678", []byte("good"))
	fake.Set("3,0212345678", []byte("b@d"))
	fake.Set("3,0312345678", []byte("longer"))
	fake.Set("3,0512345678", []byte("bad"))
	manifest := line("d/good", 1, "good") + line("d/wrong", 2, "bad") + line("d/long", 3, "short") + line("d/gone", 4, "x") +
		line("d/healed", 5, "bad") + line("../up", 1, "good") + line("/abs", 1, "good") + line("d/../../up", 1, "good") +
		line("out/link", 1, "good") + line("d/good", 1, "good") + "not json\n" + `{"path":"x","fid":"3,1","size":1,"sha256":""}` + "\n"
	cmd := newDownloadCommand()
	cmd.SetIn(strings.NewReader(manifest))
	_, said, err := runTool(t, cmd, "-m", fake.Addrs()[0], "-", dst)
	if exitCode(err) != 1 || !strings.Contains(err.Error(), "10 files could not be fetched") {
		t.Errorf("err = %v", err)
	}
	for _, part := range []string{
		"d/wrong: ", "sha256 is", "d/long: ", "more than the 5 bytes", "d/gone: ", "404", "line 6: ", "leads out of the directory",
		"line 7: ", "line 8: ", "out/link: ", "line 10: ", "is on line 1, too", "line 11: ", "line 12: ",
		"fetched and verified 2 files",
	} {
		if !strings.Contains(said, part) {
			t.Errorf("download does not say %q:\n%s", part, said)
		}
	}
	if err := os.Remove(filepath.Join(dst, "out")); err != nil {
		t.Fatal(err)
	}
	checkTree(t, dst, map[string]string{"d/good": "good", "d/healed": "bad"})
}

func TestDownloadReplacesAFileThatDiffers(t *testing.T) {
	t.Parallel()
	fake := clienttest.Start(t, 1, 1, nil)
	src, dst := tree(t, map[string]string{"x": "new"}), tree(t, map[string]string{"x": "old"})
	manifest := filepath.Join(t.TempDir(), "m")
	if _, _, err := runTool(t, newUploadCommand(), "-m", fake.Addrs()[0], "--manifest", manifest, src+"/x"); err != nil {
		t.Fatal(err)
	}
	if _, said, err := runTool(t, newDownloadCommand(), "-m", fake.Addrs()[0], manifest, dst); err != nil {
		t.Fatal(err, said)
	}
	checkTree(t, dst, map[string]string{"x": "new"})
}

func TestProgressIsForTerminalsOnly(t *testing.T) {
	t.Parallel()
	var plain bytes.Buffer
	show := func(out io.Writer) {
		p := newProgress(out, "uploading", 100, true)
		p.add(50)
		p.describe("still uploading")
		p.linef("a line")
		p.add(50)
		p.done()
	}
	if show(&plain); plain.String() != "a line\n" {
		t.Errorf("without a terminal there is %q", plain.String())
	}
	screen, tty := openTerminal(t)
	show(tty)
	tty.Close()
	b, _ := io.ReadAll(screen) // a terminal without a program ends with an error
	if seen := string(b); !strings.Contains(seen, "uploading") || !strings.Contains(seen, "a line") {
		t.Errorf("on a terminal there is %q", seen)
	}
}

// openTerminal makes a pseudo terminal.
func openTerminal(t *testing.T) (screen, tty *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	t.Cleanup(func() { screen.Close() })
	n, err := unix.IoctlGetInt(int(screen.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(screen.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	t.Cleanup(func() { tty.Close() })
	return screen, tty
}

func TestStatusShowsTheClusterAndExitsByIt(t *testing.T) {
	t.Parallel()
	fake := clienttest.Start(t, 2, 1, nil)
	view := sampleView(fake.Addrs()[0])
	view.Repair = cluster.ViewWork{Copies: 3, Bytes: 3 << 30, Rate: 64 << 20, Seconds: 48}
	view.Drains = []cluster.ViewDrain{{Node: "n2", Work: cluster.ViewWork{Copies: 1, Bytes: 2048, Seconds: -1}}}
	fake.SetView(view)
	masters := strings.Join(fake.Addrs(), ",")
	out, _, err := runTool(t, newStatusCommand(), "-m", masters)
	if exitCode(err) != 0 {
		t.Fatalf("a warning makes it fail: %v", err)
	}
	for _, part := range []string{"healthy, 1 warning", fake.Addrs()[0] + " (node n1)", "2 of 2 alive", "1 of 2 alive and ready",
		"host-a:8080", "3 of 8", "1.0 GiB of 4.0 GiB", "away", "pics", "001", "1 of 2", "9", "2.0 KiB", "3 copies to make or to catch up, 3.0 GiB at 64.0 MiB/s, about 48s", "node n2: 1 volume to move, 2.0 KiB\n", "warn   volume 7: 1 of 2 copies in sync"} {
		if !strings.Contains(out, part) {
			t.Errorf("status does not show %q:\n%s", part, out)
		}
	}
	if out, _, _ := runTool(t, newStatusCommand(), "-m", masters, "--volumes"); !strings.Contains(out, "primary") || !strings.Contains(out, "no report") {
		t.Errorf("no volumes in\n%s", out)
	}
	view.Problems = append(view.Problems, cluster.ViewProblem{Severity: cluster.SeverityError, What: "disk gone"})
	fake.SetView(view)
	out, _, err = runTool(t, newStatusCommand(), "-m", masters+",127.0.0.1:1", "--json")
	var got cluster.View
	if jsonErr := json.Unmarshal([]byte(out), &got); jsonErr != nil || exitCode(err) != exitProblems {
		t.Errorf("exit code %d (%v), %v", exitCode(err), err, jsonErr)
	}
	if len(got.Problems) != 3 || got.Problems[0].What != "disk gone" || !strings.Contains(got.Problems[2].What, "master 127.0.0.1:1 does not answer") {
		t.Errorf("problems %+v", got.Problems)
	}
	if err := clusterDown(t); exitCode(err) != exitUnreachable || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("exit code %d: %v", exitCode(err), err)
	}
}

func TestStatusOfAWholeClusterLacksNothing(t *testing.T) {
	t.Parallel()
	fake := clienttest.Start(t, 2, 1, nil)
	masters := strings.Join(fake.Addrs(), ",")
	whole := func() cluster.View {
		v := sampleView(fake.Addrs()[0])
		v.Nodes[1].Alive, v.Nodes[1].Ready, v.Problems = true, true, nil
		v.Volumes[0].Copies[1].InSync = true
		v.Volumes[0].Copies[1].Report = &volume.CopyReport{Volume: 7, State: volume.CopyHealthy}
		return v
	}
	cases := []struct {
		name, masters, want string
		spoil               func(*cluster.View)
	}{
		{"nothing is missing", masters, "", func(*cluster.View) {}},
		{"a copy joins", masters, "volume 7 has 1 of 2 copies in sync", func(v *cluster.View) { v.Volumes[0].Copies[1].InSync = false }},
		{"nothing was heard of a copy", masters, "volume 7 has 1 of 2 copies in sync", func(v *cluster.View) { v.Volumes[0].Copies[1].Report = nil }},
		{"a copy is bad", masters, "volume 7 has 1 of 2 copies in sync", func(v *cluster.View) { v.Volumes[0].Copies[1].Report.State = volume.CopyFailed }},
		{"a volume server is not ready", masters, "volume server host-b:8080 is not ready", func(v *cluster.View) { v.Nodes[1].Ready = false }},
		{"a master has no vote", masters, "has no vote yet", func(v *cluster.View) { v.Masters[1].Voter = false }},
		{"a master does not answer", masters + ",127.0.0.1:1", "127.0.0.1:1 does not answer", func(*cluster.View) {}},
	}
	for _, c := range cases {
		v := whole()
		c.spoil(&v)
		fake.SetView(v)
		if _, _, err := runTool(t, newStatusCommand(), "-m", c.masters); exitCode(err) != 0 {
			t.Errorf("%s: not healthy without --whole: %v", c.name, err)
		}
		out, _, err := runTool(t, newStatusCommand(), "-m", c.masters, "--whole")
		if code := exitCode(err); (code == exitProblems) != (c.want != "") || !strings.Contains(out, c.want) {
			t.Errorf("%s: exit code %d (%v):\n%s", c.name, code, err, out)
		}
	}

	v := whole()
	v.Nodes[1].Ready = false
	fake.SetView(v)
	time.AfterFunc(statusEvery/2, func() { fake.SetView(whole()) })
	if out, _, err := runTool(t, newStatusCommand(), "-m", masters, "--whole", "--wait", "1m"); err != nil || strings.Contains(out, "not whole") {
		t.Errorf("did not wait: %v\n%s", err, out)
	}
}

func sampleView(leader string) cluster.View {
	spec := volume.Spec{Collection: "pics", Placement: 1}
	return cluster.View{
		ClusterID: "c-1", Leader: cluster.ViewLeader{ID: "n1", Address: leader},
		Masters: []cluster.ViewMaster{{ID: "n1", Address: leader, Voter: true, Alive: true, Leader: true}, {ID: "n2", Voter: true, Alive: true}},
		Nodes: []cluster.ViewNode{
			{Node: volume.Node{ID: "n1", URL: "host-a:8080"}, Alive: true, Ready: true, LastReportMS: 120,
				Disks: []volume.DiskReport{{Dir: "/d", Max: 8, Used: 3, AllB: 4 << 30, FreeB: 1 << 30}}},
			{Node: volume.Node{ID: "n2", URL: "host-b:8080"}, LastReportMS: -1, Aside: []volume.SetAside{{Path: "/d/9.dat", Reason: "foreign"}}},
		},
		Volumes: []cluster.ViewVolume{{
			Entry: volume.Entry{Volume: 7, Spec: spec, State: volume.StateOpen, Epoch: 3, Primary: "n1", InSync: []volume.Holder{{Node: "n1", Copy: 1}}},
			Copies: []cluster.ViewCopy{
				{Node: "n1", InSync: true, Report: &volume.CopyReport{Volume: 7, Leads: true, State: volume.CopyHealthy, Files: 10, Deleted: 1, Size: 2048, Committed: 2048}},
				{Node: "n2"},
			},
		}},
		Problems: []cluster.ViewProblem{{Severity: cluster.SeverityWarn, What: "volume 7: 1 of 2 copies in sync (node n2 is away)"}},
	}
}

func TestBenchMeasuresVerifiesAndCleansUp(t *testing.T) {
	t.Parallel()
	fake := clienttest.Start(t, 1, 1, nil)
	args := []string{"-m", fake.Addrs()[0], "--count", "40", "--reads", "60", "--size", "3KiB", "--concurrency", "4", "--json"}
	out, _, err := runTool(t, newBenchCommand(), args...)
	var r benchReport
	if err := errors.Join(err, json.Unmarshal([]byte(out), &r)); err != nil {
		t.Fatal(err)
	}
	if len(r.Phases) != 3 || r.Phases[0].Done != 40 || r.Phases[1].Done != 60 || r.Phases[2].Done != 40 || r.Phases[1].Bytes != 60*3072 {
		t.Errorf("report %s", out)
	}
	if l := r.Phases[0].Latency; l.Min <= 0 || l.P50 < l.Min || l.Max < l.P99 || r.Phases[0].PerSecond <= 0 {
		t.Errorf("latencies %+v", l)
	}
	if n := len(fake.Files()); n != 0 {
		t.Errorf("%d files are left", n)
	}
	if out, _, err = runTool(t, newBenchCommand(), "-m", fake.Addrs()[0], "-n", "5", "--keep"); err != nil || len(fake.Files()) != 5 {
		t.Errorf("kept %d files, %v", len(fake.Files()), err)
	}
	if !strings.Contains(out, "5 files of 1.0 KiB") || !strings.Contains(out, "write") || strings.Contains(out, "delete") {
		t.Errorf("report\n%s", out)
	}
}

func TestBenchFailsOnWrongBytes(t *testing.T) {
	t.Parallel()
	fake := clienttest.Start(t, 1, 1, func(w http.ResponseWriter, r clienttest.Request) bool {
		if r.Who == "server0" && r.Method == http.MethodGet {
			w.Write(make([]byte, 1024))
			return true
		}
		return false
	})
	out, _, err := runTool(t, newBenchCommand(), "-m", fake.Addrs()[0], "-n", "3")
	if exitCode(err) != 1 || !strings.Contains(err.Error(), "3 operations failed") || !strings.Contains(out, "not the bytes that were written") {
		t.Errorf("%v\n%s", err, out)
	}
	if len(fake.Files()) != 0 {
		t.Error("files are left")
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]int64{"0": 0, "1000": 1000, "1KiB": 1024, "4m": 4 << 20, "2 GB": 2 << 30, "1B": 1} {
		var b byteSize
		if err := b.Set(s); err != nil || int64(b) != want {
			t.Errorf("%q is %d, %v; want %d", s, b, err, want)
		}
	}
	for _, s := range []string{"", "-1", "x", "1.5K", "9999999999G"} {
		var b byteSize
		if err := b.Set(s); err == nil {
			t.Errorf("%q is accepted", s)
		}
	}
	if s := formatBytes(int64(1536)); s != "1.5 KiB" {
		t.Error(s)
	}
}
