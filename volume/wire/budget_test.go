package wire

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
)

// What an upload takes from its first byte to its record, all of it counted as if
// nothing were freed on the way, is within what the budget counts. Not parallel: the
// memory of other tests would count, too.
func TestAnUploadTakesNoMoreThanItsFootprint(t *testing.T) {
	noise := make([]byte, 9<<20)
	rand.NewChaCha8([32]byte{}).Read(noise)
	text := bytes.Repeat([]byte("it was a dark and stormy night. "), len(noise)/32)
	form := func(data []byte) []byte {
		return append(append([]byte("--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"f\"\r\n\r\n"), data...), "\r\n--b--\r\n"...)
	}
	const packer = 1300 << 10 // one for each processor at most, and not counted
	for _, n := range []int{1, 1000, 65_000, 1 << 20, 4<<20 - 10, 4<<20 + 10, 9 << 20} {
		for name, c := range map[string]struct {
			body    []byte
			mime    string
			unknown bool
		}{
			"noise":                   {noise[:n], "image/jpeg", false},
			"text":                    {text[:n], "text/plain", false},
			"form":                    {form(noise[:n]), "multipart/form-data; boundary=b", false},
			"noise of unknown length": {noise[:n], "image/jpeg", true},
		} {
			if n > 5<<20 && c.mime == "text/plain" {
				continue // packing is slow
			}
			r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(c.body))
			r.Header.Set("Content-Type", c.mime)
			if c.unknown {
				r.ContentLength = -1
			}
			b := NewBudget(1<<40, time.Second, NewMetrics("test"))
			release, err := b.Admit(r, 64<<20)
			if err != nil {
				t.Fatal(err)
			}
			var before, parsed, after runtime.MemStats
			runtime.ReadMemStats(&before)
			up, err := ParseUpload(r, UploadOptions{Limit: 64 << 20})
			if err != nil {
				t.Fatal(err)
			}
			runtime.ReadMemStats(&parsed)
			pooled, buf := needle.Get(int(up.Needle.RecordLength()))
			if _, err := needle.Append(buf[:0], &up.Needle); err != nil {
				t.Fatal(err)
			}
			runtime.ReadMemStats(&after)
			took := int64(after.TotalAlloc - before.TotalAlloc)
			if c.unknown { // the buffers that it outgrew are gone; the last two count
				took = int64(after.TotalAlloc-parsed.TotalAlloc) + int64(cap(up.Needle.Data))
			}
			held := int64(1<<40) - left(b)
			if c.mime == "text/plain" {
				took -= packer
			}
			if took > held {
				t.Errorf("%s of %d bytes: %d bytes were taken, %d are counted", name, n, took, held)
			}
			release()
			if l := left(b); l != 1<<40 {
				t.Errorf("%s of %d bytes: %d bytes are not given back", name, n, 1<<40-l)
			}
			pooled.Release()
		}
	}
}

// left is what is free of a budget.
func left(b *Budget) (free int64) {
	for step := b.bytes; step > 0; step /= 2 {
		if b.room.TryAcquire(step) {
			free += step
		}
	}
	b.room.Release(free)
	return free
}

// A body of unknown length takes room as it comes, and is refused when there is no
// more; one that is known waits for what another gives back.
func TestABodyOfUnknownLengthTakesRoomAsItComes(t *testing.T) {
	t.Parallel()
	b := NewBudget(footprintUnknown(2*unknownFirst), time.Millisecond, NewMetrics("test"))
	request := func(n int64) *http.Request {
		r := httptest.NewRequest(http.MethodPut, "/", io.LimitReader(zeros{}, n))
		r.ContentLength = -1
		return r
	}
	r := request(3 * unknownFirst)
	release, err := b.Admit(r, 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	if left(b) == 0 {
		t.Error("it took everything before it sent anything")
	}
	other := httptest.NewRequest(http.MethodPut, "/", strings.NewReader("small"))
	small, err := b.Admit(other, 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseUpload(r, UploadOptions{Limit: 1 << 20}); !errors.Is(err, volume.ErrBusy) {
		t.Errorf("it grew beyond the budget: %v", err)
	}
	small()
	release()
	r = request(3 * unknownFirst)
	if release, err = b.Admit(r, 64<<20); err != nil {
		t.Fatal(err)
	}
	up, err := ParseUpload(r, UploadOptions{Limit: 1 << 20}) // alone it may take all
	if err != nil || up.Size != 3*unknownFirst {
		t.Errorf("alone: %v", err)
	}
	if _, err := b.Admit(other, 64<<20); !errors.Is(err, volume.ErrBusy) {
		t.Errorf("beside one that has all: %v", err)
	}
	release()
	if left(b) != b.bytes {
		t.Errorf("%d of %d bytes are free at the end", left(b), b.bytes)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
