package volumehttp

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// A chunk on its way from another node is given up when that node stalls, and not
// when the client takes its time.
func TestOnlyTheNodesTimeCounts(t *testing.T) {
	t.Parallel()
	for why, c := range map[string]struct {
		node, client time.Duration // between two bytes
		givenUp      bool
	}{"both are well": {0, 0, false}, "a slow client": {0, 3 * chunkStall, false}, "a slow node": {chunkStall - 1, 0, false}, "a node that stalls": {2 * chunkStall, 0, true}} {
		synctest.Test(t, func(t *testing.T) {
			var givenUp atomic.Bool // each stall gives it up anew
			bytes := iotest.OneByteReader(strings.NewReader("abc"))
			p := &piece{n: 3, cancel: func() { givenUp.Store(true) }, resp: &http.Response{Body: io.NopCloser(readerFunc(func(b []byte) (int, error) {
				time.Sleep(c.node)
				return bytes.Read(b)
			}))}}
			to := &counted{w: writerFunc(func(b []byte) (int, error) {
				time.Sleep(c.client)
				return len(b), nil
			})}
			if err := p.copyTo(to); err != nil || to.n != 3 {
				t.Errorf("%s: %d bytes, %v", why, to.n, err)
			}
			if synctest.Wait(); givenUp.Load() != c.givenUp {
				t.Errorf("%s: given up is %v", why, givenUp.Load())
			}
		})
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
