package volumetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"weedd/volume"
	"weedd/volume/needle"
)

// Run checks that a store behaves as all stores of blobs do. open makes a fresh
// one, or one that is shared, and names a volume of it that takes writes; the
// suite writes keys from a range of its own for each case.
func Run(t *testing.T, open func(t *testing.T) (Store, volume.ID)) {
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s, vol := open(t)
			c.run(&fixture{t, s, volume.FileID{Volume: vol, Key: volume.Key(i+1) << 32, Cookie: 0x5eed0000 + volume.Cookie(i)}})
		})
	}
}

type fixture struct {
	*testing.T
	Store
	id volume.FileID
}

var cases = []struct {
	name string
	run  func(f *fixture)
}{
	{"what was put is read with all that was said of it", func(f *fixture) {
		n := file("hello")
		n.Pairs, n.Flags = []byte(`{"A":"b"}`), n.Flags|needle.FlagPairs
		if res := f.put(f.id, n); res.Unchanged || res.Checksum != needle.Checksum(n.Data) || res.Size != 5 {
			f.Errorf("put: %+v", res)
		}
		f.wantFile(f.id, n)
	}},
	{"bytes of every kind of size come back", func(f *fixture) {
		for i, size := range []int{1, 7, 8, 4095, 4096, 1 << 20, 5<<20 + 3} {
			id := f.at(i)
			n := file("")
			n.Data = bytes.Repeat([]byte{byte(i), 2, 3}, size)[:size]
			f.put(id, n)
			f.wantFile(id, n)
		}
	}},
	{"an empty file is there, and its cookie counts", func(f *fixture) {
		f.put(f.id, file(""))
		n, err := f.Get(context.Background(), f.id, false)
		f.must("get", err)
		if len(n.Data) != 0 {
			f.Errorf("got %d bytes", len(n.Data))
		}
		n.Release()
		f.wantHidden(f.get(stranger(f.id)))
		f.wantErr("delete", f.delete(stranger(f.id)), volume.ErrCookie)
		f.must("delete", f.delete(f.id))
		f.wantErr("get", f.get(f.id), volume.ErrNotFound)
	}},
	{"new bytes replace the old", func(f *fixture) {
		f.put(f.id, file("old"))
		f.put(f.id, file("newer"))
		f.wantFile(f.id, file("newer"))
	}},
	{"the same file again is unchanged, with a new name it is not", func(f *fixture) {
		f.put(f.id, file("same"))
		again := file("same")
		again.Modified++
		if !f.put(f.id, again).Unchanged {
			f.Error("the same file was written again")
		}
		named := file("same")
		named.Name = []byte("other.txt")
		if f.put(f.id, named).Unchanged {
			f.Error("the new name was dropped")
		}
		f.wantFile(f.id, named)
	}},
	{"a wrong cookie neither reads, writes nor deletes", func(f *fixture) {
		f.put(f.id, file("mine"))
		f.wantHidden(f.get(stranger(f.id)))
		_, err := f.Put(context.Background(), stranger(f.id), file("theirs"), false)
		f.wantErr("put", err, volume.ErrCookie)
		f.wantErr("delete", f.delete(stranger(f.id)), volume.ErrCookie)
		f.wantFile(f.id, file("mine"))
	}},
	{"create-only writes once, and again only the same bytes", func(f *fixture) {
		ctx := context.Background()
		res, err := f.Put(ctx, f.id, file("first"), true)
		f.must("put", err)
		if res.Unchanged {
			f.Error("first put is unchanged")
		}
		res, err = f.Put(ctx, f.id, file("first"), true)
		f.must("repeat", err)
		if !res.Unchanged {
			f.Error("repeated put was written")
		}
		_, err = f.Put(ctx, f.id, file("second"), true)
		f.wantErr("put other bytes", err, volume.ErrExists)
		f.wantFile(f.id, file("first"))
	}},
	{"what was deleted is gone until written again with its cookie", func(f *fixture) {
		n := file("short life")
		f.put(f.id, n)
		size, err := f.Delete(context.Background(), f.id, 1_600_000_000)
		f.must("delete", err)
		if want := n.BodySize(needle.V3); size != want {
			f.Errorf("delete answered %d, want %d", size, want)
		}
		f.wantErr("get", f.get(f.id), volume.ErrNotFound)
		f.wantErr("delete", f.delete(f.id), volume.ErrNotFound)
		_, err = f.Put(context.Background(), stranger(f.id), file("other"), false)
		f.wantErr("put", err, volume.ErrCookie)
		f.put(f.id, file("again"))
		f.wantFile(f.id, file("again"))
	}},
	{"deleted files can be read on request", func(f *fixture) {
		f.put(f.id, file("undead"))
		f.must("delete", f.delete(f.id))
		n, err := f.Get(context.Background(), f.id, true)
		f.must("get", err)
		defer n.Release()
		if string(n.Data) != "undead" {
			f.Errorf("got %q", n.Data)
		}
	}},
	{"absent files and volumes are told apart", func(f *fixture) {
		f.wantErr("get", f.get(f.id), volume.ErrNotFound)
		f.wantErr("delete", f.delete(f.id), volume.ErrNotFound)
		id := f.id
		id.Volume = 4_000_000_000
		f.wantErr("get", f.get(id), volume.ErrNoVolume)
		_, err := f.Put(context.Background(), id, file("x"), false)
		f.wantErr("put", err, volume.ErrNoVolume)
		f.wantErr("delete", f.delete(id), volume.ErrNoVolume)
	}},
	{"many write and read at once", func(f *fixture) {
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				for j := range 8 {
					id, n := f.at(i*8+j), file(fmt.Sprintf("file %d of %d", j, i))
					if _, err := f.Put(context.Background(), id, n, false); err != nil {
						f.Errorf("put %s: %v", id, err)
						return
					}
					f.wantFile(id, n)
				}
			})
		}
		wg.Wait()
	}},
}

// file makes a needle as an upload does.
func file(content string) *needle.Needle {
	return &needle.Needle{
		Data: []byte(content), Name: []byte("f.txt"), Mime: []byte("text/plain"), Modified: 1_500_000_000,
		Flags: needle.FlagName | needle.FlagMime | needle.FlagModified,
	}
}

func stranger(id volume.FileID) volume.FileID {
	id.Cookie ^= 1
	return id
}

// at gives the i-th id of the case.
func (f *fixture) at(i int) volume.FileID {
	id := f.id
	id.Key += volume.Key(i)
	return id
}

func (f *fixture) put(id volume.FileID, n *needle.Needle) volume.PutResult {
	f.Helper()
	n.Key, n.Cookie = id.Key, id.Cookie
	res, err := f.Put(context.Background(), id, n, false)
	f.must("put", err)
	return res
}

func (f *fixture) get(id volume.FileID) error {
	n, err := f.Get(context.Background(), id, false)
	if err == nil {
		n.Release()
	}
	return err
}

func (f *fixture) delete(id volume.FileID) error {
	_, err := f.Delete(context.Background(), id, 1_600_000_000)
	return err
}

func (f *fixture) must(what string, err error) {
	f.Helper()
	if err != nil {
		f.Fatalf("%s: %v", what, err)
	}
}

func (f *fixture) wantErr(what string, err, want error) {
	f.Helper()
	if !errors.Is(err, want) {
		f.Errorf("%s: got %v, want %v", what, err, want)
	}
}

// wantHidden checks the answer to a read with a wrong cookie. A store may keep
// back that there is a file with another one.
func (f *fixture) wantHidden(err error) {
	f.Helper()
	if !errors.Is(err, volume.ErrCookie) && !errors.Is(err, volume.ErrNotFound) {
		f.Errorf("get with a wrong cookie: %v", err)
	}
}

func (f *fixture) wantFile(id volume.FileID, want *needle.Needle) {
	f.Helper()
	n, err := f.Get(context.Background(), id, false)
	if err != nil {
		f.Errorf("get %s: %v", id, err)
		return
	}
	defer n.Release()
	if !sameFile(n, want) || n.Modified != want.Modified || n.Checksum != needle.Checksum(want.Data) {
		f.Errorf("get %s: got %d bytes, name %q, type %q, pairs %q, time %d, flags %#x", id,
			len(n.Data), n.Name, n.Mime, n.Pairs, n.Modified, n.Flags)
	}
}
