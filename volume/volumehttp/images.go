package volumehttp

import (
	"container/list"
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync"

	"golang.org/x/sync/semaphore"

	"weedd/volume/needle"
	"weedd/volume/picture"
	"weedd/volume/wire"
)

// images is the memory for images that are made smaller, and keeps what was made of
// them. Safe for concurrent use.
type images struct {
	memory int64
	room   *semaphore.Weighted

	mu    sync.Mutex
	kept  map[string]*list.Element
	order *list.List // of *edited, used last first
	bytes int64
}

// edited is a result; data is nil if the image is served as it is.
type edited struct {
	key  string
	data []byte
}

// resultCost is what a result takes beside its bytes.
const resultCost = 300

func newImages(memory int64) *images {
	return &images{memory: memory, room: semaphore.NewWeighted(memory), kept: map[string]*list.Element{}, order: list.New()}
}

// edit makes the body of x the image that the query wants, if it is an image: going
// by the extension in the path, else by that of the file's name.
func (a *API) edit(x *exchange, n *needle.Needle, t target, q url.Values) error {
	if a.images.memory == 0 || len(q) == 0 || x.w.Header().Get(headerFileStore) == storeManifest || q.Get("cm") == "false" {
		return nil
	}
	e := picture.ParseEdit(q)
	name := x.body.fileName(n, t)
	if strings.Contains(t.last, ".") {
		name = t.last
	}
	f := picture.FormatByName(name)
	if !e.Wanted() || f == "" {
		return nil
	}
	what := e.String() + string(f[len("image/"):])
	data, err := a.images.get(x.r.Context(), fmt.Sprintf("%s %s %s", t.id, wire.ETag(n.Checksum), what), e, f, &x.body)
	if err != nil || data == nil {
		return err
	}
	x.body = content{data: data, size: int64(len(data)), name: x.body.name, mime: string(f), edited: what}
	return nil
}

// get gives what an edit makes of an image, nil if it stays as it is. An error is
// that of ctx.
func (m *images) get(ctx context.Context, key string, e picture.Edit, f picture.Format, from *content) ([]byte, error) {
	if r := m.find(key); r != nil {
		return r.data, nil
	}
	data := from.all(m.memory / 8)
	if data == nil {
		return nil, nil
	}
	out := m.apply(ctx, data, e, f)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	m.keep(&edited{key, out})
	return out, nil
}

// apply edits data if there is memory for it; nil if not.
func (m *images) apply(ctx context.Context, data []byte, e picture.Edit, f picture.Format) []byte {
	need, err := e.Memory(data)
	if err != nil || need > m.memory {
		return nil
	}
	if m.room.Acquire(ctx, need) != nil {
		return nil
	}
	defer m.room.Release(need)
	out, err := e.Apply(data, f)
	if err != nil {
		return nil
	}
	return out
}

func (m *images) find(key string) *edited {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.kept[key]
	if e == nil {
		return nil
	}
	m.order.MoveToFront(e)
	return e.Value.(*edited)
}

// keep remembers a result, and forgets those that were not asked for the longest.
func (m *images) keep(r *edited) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.kept[r.key] != nil || r.cost() > m.memory/4 {
		return
	}
	m.kept[r.key] = m.order.PushFront(r)
	for m.bytes += r.cost(); m.bytes > m.memory/4; {
		last := m.order.Remove(m.order.Back()).(*edited)
		delete(m.kept, last.key)
		m.bytes -= last.cost()
	}
}

func (r *edited) cost() int64 { return int64(len(r.data)) + resultCost }
