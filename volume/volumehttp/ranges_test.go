package volumehttp

import (
	"errors"
	"slices"
	"testing"
)

func TestParseRange(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		header string
		want   []byteRange
		err    error
	}{
		{"bytes=0-4", []byteRange{{0, 5}}, nil},
		{"bytes=10-", []byteRange{{10, 6}}, nil},
		{"bytes=-4", []byteRange{{12, 4}}, nil},
		{"bytes=-99", []byteRange{{0, 16}}, nil},
		{"bytes=10-99", []byteRange{{10, 6}}, nil},
		{"bytes=10-99999999999999999999", []byteRange{{10, 6}}, nil},
		{"bytes= 0-1 ,, 5-7 ", []byteRange{{0, 2}, {5, 3}}, nil},
		{"bytes=5-7,0-1,99-", []byteRange{{5, 3}, {0, 2}}, nil},
		{"bytes=0-15,0-0", nil, nil},
		{"bytes=", nil, nil},
		{"bytes=,", nil, nil},
		{"lines=0-1", nil, nil},
		{"bytes=16-", nil, errUnsatisfiable},
		{"bytes=-0", nil, errUnsatisfiable},
		{"bytes=99999999999999999999-", nil, errUnsatisfiable},
		{"bytes=5-2", nil, errBadRange},
		{"bytes=-", nil, errBadRange},
		{"bytes=--1", nil, errBadRange},
		{"bytes=+1-2", nil, errBadRange},
		{"bytes=5", nil, errBadRange},
	} {
		got, err := parseRange(c.header, 16)
		if !slices.Equal(got, c.want) || !errors.Is(err, c.err) {
			t.Errorf("%s: %v, %v; want %v, %v", c.header, got, err, c.want, c.err)
		}
	}
}

func FuzzParseRange(f *testing.F) {
	for _, s := range []string{"bytes=0-4", "bytes=-4", "bytes=1-2,5-", "bytes=99999999999999999999-1", "bytes=,-"} {
		f.Add(s, int64(16))
	}
	f.Fuzz(func(t *testing.T, header string, size int64) {
		if size < 0 {
			return
		}
		ranges, err := parseRange(header, size)
		if err != nil && ranges != nil {
			t.Fatalf("ranges %v with %v", ranges, err)
		}
		sum := int64(0)
		for _, r := range ranges {
			if r.start < 0 || r.length <= 0 || r.start+r.length > size {
				t.Fatalf("%v is not within %d", r, size)
			}
			sum += r.length
		}
		if sum > size || len(ranges) > maxRanges {
			t.Fatalf("%d ranges of %d bytes in all", len(ranges), sum)
		}
	})
}

func TestAcceptsGzip(t *testing.T) {
	t.Parallel()
	for field, want := range map[string]bool{
		"gzip": true, "GZIP": true, "deflate, gzip;q=0.5": true, "*": true, "x-gzip": true, "gzip ; q=1": true,
		"": false, "gzip;q=0": false, "gzip;q=0.0, *": false, "br": false, "*;q=0": false, "gzip;q=x": false, "notgzip": false,
	} {
		if got := acceptsGzip([]string{field}); got != want {
			t.Errorf("%q: %v", field, got)
		}
	}
}
