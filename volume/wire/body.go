package wire

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
	"time"

	"weedd/volume"
)

const (
	// formSlack is how much longer than its file a form may be: boundaries, part
	// headers, and small fields before the file.
	formSlack = 1 << 20
	// maxParts ends the search for a file in a form of fields.
	maxParts = 1000
)

// file is the file in a body, with what the body says of it.
type file struct {
	data []byte
	name string
	mime string
	md5  string
	gzip bool // the client says that it is packed
	form bool
}

func isForm(r *http.Request) bool {
	ct := r.Header.Get(headerType)
	return r.Method == http.MethodPost && (ct == "" || strings.Contains(ct, "form-data"))
}

// CheckLength refuses a body whose Content-Length alone says that its file is
// over limit, so that it need not be read. The error is volume.ErrTooLarge.
func CheckLength(r *http.Request, limit int64) error {
	most := limit
	if isForm(r) {
		most += formSlack
	}
	if r.ContentLength > most {
		return tooLarge(limit)
	}
	return nil
}

func tooLarge(limit int64) error {
	return fmt.Errorf("%w: file over the limited %d bytes", volume.ErrTooLarge, limit)
}

// readRaw takes the whole body as the file.
func readRaw(r *http.Request, o UploadOptions) (f file, err error) {
	f.mime = r.Header.Get(headerType)
	f.gzip = r.Header.Get("Content-Encoding") == "gzip"
	if f.name = dispositionName(r.Header.Get("Content-Disposition")); f.name == "" {
		f.name = o.Name
	}
	if f.mime == "" {
		f.mime = typeOf(f.name, o.TypeName)
	}
	if r.ContentLength >= 0 {
		f.data = make([]byte, r.ContentLength)
		_, err = io.ReadFull(r.Body, f.data)
	} else {
		f.data, err = readUpTo(r.Body, 0, o.Limit)
	}
	return f, bodyError(err)
}

// dispositionName finds the name in a Content-Disposition, which some clients
// send without its first word.
func dispositionName(v string) string {
	if v == "" {
		return ""
	}
	_, params, err := mime.ParseMediaType(v)
	if err != nil {
		if _, params, err = mime.ParseMediaType("attachment; " + v); err != nil {
			return ""
		}
	}
	if params["filename"] != "" {
		return baseName(params["filename"])
	}
	return baseName(params["name"])
}

// baseName cuts a path, of Windows too, to its last element.
func baseName(name string) string {
	name = name[strings.LastIndexAny(name, `/\`)+1:]
	if name == "." || name == ".." {
		return ""
	}
	return name
}

// readForm takes the file out of a form without reading more of it than needed.
func readForm(r *http.Request, o UploadOptions) (file, error) {
	mt, params, err := mime.ParseMediaType(r.Header.Get(headerType))
	if err != nil || !strings.HasPrefix(mt, "multipart/") {
		return file{}, badRequest("request Content-Type isn't multipart/form-data")
	}
	if params["boundary"] == "" {
		return file{}, badRequest("no multipart boundary param in Content-Type")
	}
	body := &capped{r: r.Body, left: o.Limit + formSlack, limit: o.Limit}
	form := multipart.NewReader(body, params["boundary"])
	var first *file
	for range maxParts {
		part, err := form.NextPart()
		if err == io.EOF && first != nil {
			return *first, nil
		}
		if err != nil {
			return file{}, bodyError(err)
		}
		named := part.FileName() != ""
		if !named && first != nil {
			continue // a field that will not be the file
		}
		f, err := readPart(part, r.ContentLength, o)
		if err != nil {
			return file{}, bodyError(err)
		}
		if named {
			return f, nil
		}
		first = &f
	}
	return file{}, badRequest("no file among the first %d parts of the form", maxParts)
}

func readPart(part *multipart.Part, length int64, o UploadOptions) (f file, err error) {
	f.form = true
	f.name = baseName(part.FileName())
	if f.name == "" {
		f.name = o.Name
	}
	f.mime = part.Header.Get(headerType)
	if f.mime == "" || f.mime == octetStream {
		f.mime = typeOf(f.name, o.TypeName)
	}
	f.md5 = part.Header.Get("Content-Md5")
	f.gzip = part.Header.Get("Content-Encoding") == "gzip"
	f.data, err = readUpTo(part, length, o.Limit)
	return f, err
}

// readUpTo reads all of r into one buffer, first made for expect bytes. More
// than limit is volume.ErrTooLarge.
func readUpTo(r io.Reader, expect, limit int64) ([]byte, error) {
	buf := make([]byte, 0, max(512, min(expect, limit+1)))
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if int64(len(buf)) > limit {
			return nil, tooLarge(limit)
		}
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// bodyError makes a failure to read a body the client's: it hung up, stalled,
// or broke the form.
func bodyError(err error) error {
	if err == nil || errors.Is(err, volume.ErrTooLarge) || errors.Is(err, volume.ErrBusy) {
		return err
	}
	return badRequest("%v", err)
}

// capped is a reader that refuses to go beyond left bytes.
type capped struct {
	r           io.Reader
	left, limit int64
}

func (c *capped) Read(b []byte) (int, error) {
	if c.left <= 0 {
		return 0, tooLarge(c.limit)
	}
	n, err := c.r.Read(b[:min(int64(len(b)), c.left)])
	c.left -= int64(n)
	return n, err
}

// GuardBody lets a client that sends nothing for the time of stall fail, by
// moving the connection's read deadline before each read of the body. The
// http.Server sets the deadline of the next request.
func GuardBody(w http.ResponseWriter, r *http.Request, stall time.Duration) {
	r.Body = &guarded{r.Body, http.NewResponseController(w), stall}
}

type guarded struct {
	io.ReadCloser
	conn  *http.ResponseController
	stall time.Duration
}

func (g *guarded) Read(b []byte) (int, error) {
	// A ResponseWriter without deadlines, as in tests, has no client that stalls.
	_ = g.conn.SetReadDeadline(time.Now().Add(g.stall))
	return g.ReadCloser.Read(b)
}
