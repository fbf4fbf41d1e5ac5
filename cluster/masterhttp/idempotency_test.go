package masterhttp

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"weedd/volume"
)

func TestTheSizeOfChunks(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{"": 32 << 20, "1": 1 << 20, "100": 100 << 20, "1000": 256 << 20, "8796093022207": 256 << 20,
		"0": 0, "-1": 0, "x": 0, "1.5": 0, "8796093022208": 0, "99999999999999999999": 0} {
		n, err := chunkBytes(url.Values{"maxMB": {text}}, 256<<20)
		if n != want || (err != nil) != (want == 0) || err != nil && !errors.Is(err, volume.ErrBadRequest) {
			t.Errorf("maxMB=%s: %d, %v", text, n, err)
		}
	}
	if n, err := chunkBytes(nil, 1000); n != 1000 || err != nil {
		t.Errorf("with a limit of 1000: %d, %v", n, err)
	}
}

// What is remembered is bounded in time and number, and a first upload that does not
// end keeps its repeats waiting for some time only.
func TestWhatIsRememberedOfUploadsIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, ctx := newRepeats(), context.Background()
		store := func(key string) bool {
			t.Helper()
			answer, end, err := s.begin(ctx, key, "p")
			if err != nil {
				t.Fatal(err)
			}
			if answer == nil {
				end(&submitted{FileID: key})
			}
			return answer == nil
		}
		if !store("a") || store("a") {
			t.Error("the second is not the first again")
		}
		time.Sleep(repeatWindow + time.Second)
		if !store("a") {
			t.Error("it is remembered beyond the window")
		}
		for i := range maxRepeats + 5 {
			store(fmt.Sprint(i))
		}
		if len(s.byKey) != maxRepeats || s.ended.Len() != maxRepeats {
			t.Errorf("%d and %d are remembered", len(s.byKey), s.ended.Len())
		}
		if !store("0") || store("100") {
			t.Error("it is not the oldest that went")
		}
		if _, _, err := s.begin(ctx, "slow", "p"); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, _, err := s.begin(ctx, "slow", "p"); err != errKeyRunning || time.Since(began) != repeatWait {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if _, _, err := s.begin(ctx, "slow", "q"); err != ErrKeyReused {
			t.Errorf("%v", err)
		}
	})
}
