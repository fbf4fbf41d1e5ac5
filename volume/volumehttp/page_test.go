package volumehttp_test

import (
	"net/http/httptest"
	"strings"
	"testing"

	"weedd/volume"
	"weedd/volume/volumehttp"
	"weedd/volume/wire"
)

// inTrouble is a node that is not well.
type inTrouble struct{ *node }

func (inTrouble) Status() volumehttp.Status {
	return volumehttp.Status{
		Disks:  []volume.DiskReport{{Dir: "/mnt/<disk>", Disk: "ssd", Max: 9, Used: 2, AllB: 4 << 30, FreeB: 1 << 30, Fenced: "it is slow"}},
		Copies: []volume.CopyReport{{Volume: 7, State: volume.CopyHealthy, ReadOnly: true, Reason: "by decision", Size: 3 << 20, Files: 12}, {Volume: 8, State: volume.CopyLost}},
	}
}

func (inTrouble) Ready() []string { return []string{"no master leads"} }

func TestThePageSaysHowANodeIs(t *testing.T) {
	t.Parallel()
	get := func(method string, a wire.Access) *httptest.ResponseRecorder {
		api := volumehttp.New(volumehttp.Options{Blobs: inTrouble{&node{}}, Version: "1.2.3", Log: discard(), Access: a})
		w := httptest.NewRecorder()
		api.Handler().ServeHTTP(w, httptest.NewRequest(method, "/ui/index.html", nil))
		return w
	}
	w := get("GET", wire.Access{})
	body := w.Body.String()
	for _, part := range []string{"1.2.3", "no master leads", "/mnt/&lt;disk&gt;", "2 of 9", "1 GiB of 4 GiB", "it is slow", "<td>7</td>", "3 MiB", "only read: by decision"} {
		if !strings.Contains(body, part) {
			t.Errorf("the page does not say %q:\n%s", part, body)
		}
	}
	if strings.Contains(body, "<td>8</td>") || strings.Contains(body, "<script") || !strings.Contains(w.Header().Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("%d %v\n%s", w.Code, w.Header(), body)
	}
	if head := get("HEAD", wire.Access{}); head.Code != 200 || head.Body.Len() > 0 || head.Header().Get("Content-Length") != w.Header().Get("Content-Length") {
		t.Errorf("HEAD: %d %v", head.Code, head.Header())
	}
	if w := get("GET", wire.Access{WriteKey: []byte("k")}); w.Code != 400 { // a page for those who need tokens for files, and there is none for it
		t.Errorf("with a key: %d", w.Code)
	}
}
