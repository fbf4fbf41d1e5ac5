package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"

	"weedd/volume"
)

const (
	// formSlack is how much longer than its file a form may be: boundaries, part
	// headers, and small fields before the file.
	formSlack = 1 << 20
	// maxParts ends the search for a file in a form of fields.
	maxParts = 1000
)

// file is the file in a body, with what the body says of it. Its content is read
// from a Reader, in one piece or in several.
type file struct {
	from   io.Reader
	expect int64 // bytes that the content is likely to have at most; -1 when not known
	data   []byte
	name   string
	mime   string
	gzip   bool // the client says that it is packed
	form   bool

	md5   string    // as sent
	plain checks    // of the content, unpacked if the client packed it
	sent  checks    // of the content as it was sent
	whole checks    // of the whole body: of a form
	rest  io.Reader // what of the body follows the content
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

// openFile finds the file in the body of r and reads no more than needed for that.
func openFile(r *http.Request, o UploadOptions) (f file, err error) {
	checks, err := newChecks(r.Header)
	if err != nil {
		return f, err
	}
	if isForm(r) {
		if f, err = openForm(r, o, checks); err != nil {
			return f, bodyError(err)
		}
		f.whole = checks
	} else {
		f = openRaw(r, o)
		f.sent = checks
	}
	if md5 := r.Header.Get(headerMD5); md5 != "" {
		f.md5 = md5
	}
	if err := f.plain.addMD5(f.md5); err != nil {
		return f, err
	}
	f.from = f.sent.through(f.from)
	return f, nil
}

// openRaw takes the whole body as the file.
func openRaw(r *http.Request, o UploadOptions) (f file) {
	f.mime = r.Header.Get(headerType)
	f.gzip = r.Header.Get("Content-Encoding") == "gzip"
	if f.name = dispositionName(r.Header.Get("Content-Disposition")); f.name == "" {
		f.name = o.Name
	}
	if f.mime == "" {
		f.mime = typeOf(f.name, o.TypeName)
	}
	f.from, f.expect = r.Body, r.ContentLength
	return f
}

// finish reads what follows the content, if its digest counts, and checks all
// digests but those of the plain content.
func (f *file) finish() error {
	if len(f.whole) > 0 {
		if _, err := io.Copy(io.Discard, f.rest); err != nil {
			return bodyError(err)
		}
	}
	if err := f.whole.verify(); err != nil {
		return err
	}
	return f.sent.verify()
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

// openForm finds the file in a form: the first part with a file name, else the first
// part. The digests of the body are whole.
func openForm(r *http.Request, o UploadOptions, whole checks) (file, error) {
	mt, params, err := mime.ParseMediaType(r.Header.Get(headerType))
	if err != nil || !strings.HasPrefix(mt, "multipart/") {
		return file{}, badRequest("request Content-Type isn't multipart/form-data")
	}
	if params["boundary"] == "" {
		return file{}, badRequest("no multipart boundary param in Content-Type")
	}
	body := whole.through(&capped{r: r.Body, left: o.most() + formSlack, limit: o.most()})
	form := multipart.NewReader(body, params["boundary"])
	var first *file
	for range maxParts {
		part, err := form.NextPart()
		if err == io.EOF && first != nil {
			return *first, nil
		}
		if err != nil {
			return file{}, err
		}
		named := part.FileName() != ""
		if !named && first != nil {
			continue // a field that will not be the file
		}
		f, err := openPart(part, r.ContentLength, o)
		if err != nil {
			return file{}, err
		}
		f.rest = body
		if named {
			return f, nil
		}
		data, err := io.ReadAll(io.LimitReader(part, o.Limit+1))
		if err != nil {
			return file{}, err
		}
		if f.from = bytes.NewReader(data); int64(len(data)) > o.Limit { // too long to look behind it
			f.from = io.MultiReader(f.from, part)
			return f, nil
		}
		f.expect = int64(len(data))
		first = &f
	}
	return file{}, badRequest("no file among the first %d parts of the form", maxParts)
}

func openPart(part *multipart.Part, length int64, o UploadOptions) (f file, err error) {
	f.form, f.from, f.expect = true, part, length
	f.name = baseName(part.FileName())
	if f.name == "" {
		f.name = o.Name
	}
	f.mime = part.Header.Get(headerType)
	if f.mime == "" || f.mime == octetStream {
		f.mime = typeOf(f.name, o.TypeName)
	}
	f.md5 = part.Header.Get(headerMD5)
	f.gzip = part.Header.Get("Content-Encoding") == "gzip"
	f.sent, err = newChecks(http.Header(part.Header))
	return f, err
}

// readUpTo reads all of r into one buffer, first made for expect bytes. More
// than limit is volume.ErrTooLarge.
func readUpTo(r io.Reader, expect, limit int64) ([]byte, error) {
	buf := make([]byte, 0, max(512, min(expect+1, limit+1))) // one more, so that its end is seen without growing
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
	if err == nil || errors.Is(err, volume.ErrTooLarge) || errors.Is(err, volume.ErrBusy) || errors.Is(err, volume.ErrBadRequest) {
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
