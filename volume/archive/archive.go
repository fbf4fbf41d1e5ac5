// Package archive writes the files of a volume to a tar file and makes a volume
// of one.
//
// Any tar program reads the files, with their names and times. What a volume knows
// of a file beyond that is in PAX records, WEEDD.fid and so on, so that a volume
// made of a tar file of ours has the same files under the same keys and cookies.
// The first header is a global one and describes the volume.
package archive

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"strconv"
	"strings"
	"time"

	"weedd/volume"
	"weedd/volume/needle"
	"weedd/volume/store"
	"weedd/volume/vfs"
)

// The PAX records.
const (
	recFID      = "WEEDD.fid"      // as 3,01637037d6
	recFlags    = "WEEDD.flags"    // of the record, in hex
	recName     = "WEEDD.name"     // as stored
	recMime     = "WEEDD.mime"     //
	recPairs    = "WEEDD.pairs"    // JSON
	recModified = "WEEDD.modified" // seconds since 1970
	recTTL      = "WEEDD.ttl"      // as 3d
	recAppended = "WEEDD.appended" // ns since 1970
	recDeleted  = "WEEDD.deleted"  // 1: the file was deleted
	// In the global header, besides recTTL:
	recCollection  = "WEEDD.collection"
	recReplication = "WEEDD.replication"
)

// Entry is one file that was written or read.
type Entry struct {
	Name    string `json:"path"` // in the tar file
	FID     string `json:"fid"`
	Size    int64  `json:"size"`
	Deleted bool   `json:"deleted,omitempty"`
	New     bool   `json:"new,omitempty"` // the id was given to it by Import
}

// ExportOptions say what is exported.
type ExportOptions struct {
	Deleted   bool        // those that were deleted and are still in .dat, too
	NewerThan time.Time   // files appended after that; zero: all
	Each      func(Entry) // told each file, if not nil
	Progress  func(int64) // told bytes read of .dat, which is read twice; may be nil
}

// Export writes the files of a volume to w. Files whose records are damaged are
// left out; what is wrong with the volume is answered. It changes nothing.
func Export(ctx context.Context, w io.Writer, fs vfs.FS, f store.Found, o ExportOptions) ([]store.Finding, error) {
	out := tar.NewWriter(w)
	spec := store.Inspect(fs, f).Spec
	err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "volume", PAXRecords: map[string]string{
		recCollection: spec.Collection + "/", recReplication: spec.Placement.String(), recTTL: spec.TTL.String() + "/", // an empty value would delete the record
	}})
	if err != nil {
		return nil, err
	}
	bad, err := store.ReadFiles(ctx, fs, f, o.Deleted, func(n *needle.Needle, deleted bool) error {
		if !o.NewerThan.IsZero() && !appended(n).After(o.NewerThan) {
			return nil
		}
		h := header(f.ID, n, deleted)
		if err := out.WriteHeader(h); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
		if _, err := out.Write(n.Data); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
		if o.Each != nil {
			o.Each(Entry{Name: h.Name, FID: h.PAXRecords[recFID], Size: h.Size, Deleted: deleted})
		}
		return nil
	}, o.Progress)
	if err != nil {
		return bad, err
	}
	return bad, out.Close()
}

// appended is when a record was written; version 1 and 2 have only the client's
// time, if that.
func appended(n *needle.Needle) time.Time {
	if n.AppendedAt != 0 {
		return time.Unix(0, int64(n.AppendedAt))
	}
	return time.Unix(int64(n.Modified), 0)
}

// header describes a file. It is named by its id and its stored name.
func header(id volume.ID, n *needle.Needle, deleted bool) *tar.Header {
	fid := volume.FileID{Volume: id, Key: n.Key, Cookie: n.Cookie}.String()
	rec := map[string]string{recFID: fid, recFlags: strconv.FormatUint(uint64(n.Flags), 16)}
	set := func(name string, is bool, value string) {
		if is && value != "" {
			rec[name] = value
		}
	}
	set(recName, n.Has(needle.FlagName), string(n.Name))
	set(recMime, n.Has(needle.FlagMime), string(n.Mime))
	set(recPairs, n.Has(needle.FlagPairs), string(n.Pairs))
	set(recModified, n.Has(needle.FlagModified), strconv.FormatUint(n.Modified, 10))
	set(recTTL, n.Has(needle.FlagTTL), n.TTL.String())
	set(recAppended, n.AppendedAt != 0, strconv.FormatUint(n.AppendedAt, 10))
	set(recDeleted, deleted, "1")
	name := fid
	if safe := fileName(string(n.Name)); safe != "" && n.Has(needle.FlagName) && !strings.HasPrefix(safe, fid) {
		name += "_" + safe
	}
	if n.Has(needle.FlagGzip) {
		name += ".gz"
	}
	at := appended(n)
	if n.Has(needle.FlagModified) {
		at = time.Unix(int64(n.Modified), 0)
	}
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(n.Data)), Mode: 0o644, ModTime: at, PAXRecords: rec, Format: tar.FormatPAX}
}

// fileName makes a stored name fit for a file system.
func fileName(s string) string {
	s = strings.ToValidUTF8(path.Base(strings.ReplaceAll(s, "\\", "/")), "_")
	if s == "." || s == "/" || s == ".." {
		return ""
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '_'
		}
		return r
	}, s)
}

// ImportOptions say what a volume is made of.
type ImportOptions struct {
	// Collection, Placement and TTL of the volume; nil: those of the volume that
	// was exported, else none.
	Collection *string
	Placement  *volume.Placement
	TTL        *volume.TTL
	Now        time.Time
	Each       func(Entry)            // told each file, if not nil
	Skip       func(name, why string) // told what is left out, if not nil
}

// Import makes a new volume of a tar file, in a directory that no daemon uses, and
// answers the path of its data file. Files without an id are given keys from 1 on,
// above those before them, and random cookies. A volume that is there is not
// touched: volume.ErrExists.
func Import(ctx context.Context, r io.Reader, fs vfs.FS, dir string, id volume.ID, o ImportOptions) (dat string, err error) {
	in := tar.NewReader(r)
	x := &importing{o: o, id: id, in: in}
	h, err := x.next(ctx)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	spec, err2 := x.spec()
	if err2 != nil {
		return "", err2
	}
	if x.b, err2 = store.Build(fs, dir, id, spec, o.Now); err2 != nil {
		return "", err2
	}
	defer func() { err = errors.Join(err, x.b.Close()) }()
	for ; err == nil; h, err = x.next(ctx) {
		if err := x.add(h); err != nil {
			return "", fmt.Errorf("%s: %w", h.Name, err)
		}
	}
	if !errors.Is(err, io.EOF) {
		return "", err
	}
	return x.b.Path(), x.b.Finish()
}

// importing is one run of Import.
type importing struct {
	o      ImportOptions
	id     volume.ID
	in     *tar.Reader
	global map[string]string
	b      *store.Builder
	top    volume.Key // highest so far
	clock  uint64     // append time given out last
}

// next finds the next regular file.
func (x *importing) next(ctx context.Context) (*tar.Header, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := x.in.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil, io.EOF
		case err != nil:
			return nil, fmt.Errorf("read the tar file: %w", err)
		case h.Typeflag == tar.TypeReg:
			return h, nil
		case h.Typeflag == tar.TypeXGlobalHeader:
			if x.global == nil {
				x.global = h.PAXRecords
			}
		case h.Typeflag != tar.TypeDir && x.o.Skip != nil:
			x.o.Skip(h.Name, "is no regular file")
		}
	}
}

// spec is that of the new volume.
func (x *importing) spec() (s volume.Spec, err error) {
	s.Collection = strings.TrimSuffix(x.global[recCollection], "/")
	if x.o.Collection != nil {
		s.Collection = *x.o.Collection
	}
	if err := s.Placement.UnmarshalText([]byte(x.global[recReplication])); err != nil {
		return s, fmt.Errorf("the tar file: %w", err)
	}
	if x.o.Placement != nil {
		s.Placement = *x.o.Placement
	}
	if err := s.TTL.UnmarshalText([]byte(strings.TrimSuffix(x.global[recTTL], "/"))); err != nil {
		return s, fmt.Errorf("the tar file: %w", err)
	}
	if x.o.TTL != nil {
		s.TTL = *x.o.TTL
	}
	return s, nil
}

// add stores one file.
func (x *importing) add(h *tar.Header) error {
	if h.Size > math.MaxInt32 {
		return fmt.Errorf("%w: %d bytes", volume.ErrTooLarge, h.Size)
	}
	n := &needle.Needle{Data: make([]byte, h.Size)}
	if _, err := io.ReadFull(x.in, n.Data); err != nil {
		return fmt.Errorf("read the tar file: %w", err)
	}
	var err error
	if h.PAXRecords[recFID] != "" {
		err = restore(n, h.PAXRecords)
	} else {
		err = x.name(n, h)
	}
	if err != nil {
		return err
	}
	if n.AppendedAt == 0 {
		x.clock = max(x.clock+1, uint64(x.o.Now.UnixNano()))
		n.AppendedAt = x.clock
	}
	x.top = max(x.top, n.Key)
	if err := x.b.Add(n); err != nil {
		return err
	}
	deleted := h.PAXRecords[recDeleted] != ""
	if deleted {
		dead := &needle.Needle{Key: n.Key, Cookie: n.Cookie, Tombstone: true, Checksum: n.Checksum, AppendedAt: n.AppendedAt + 1}
		if err := x.b.Add(dead); err != nil {
			return err
		}
	}
	if x.o.Each != nil {
		id := volume.FileID{Volume: x.id, Key: n.Key, Cookie: n.Cookie}
		x.o.Each(Entry{Name: h.Name, FID: id.String(), Size: h.Size, Deleted: deleted, New: h.PAXRecords[recFID] == ""})
	}
	return nil
}

// restore makes n what it was when it was exported.
func restore(n *needle.Needle, rec map[string]string) error {
	id, err := volume.ParseFileID(rec[recFID])
	if err != nil {
		return err
	}
	number := func(name string, base, bits int) uint64 {
		if rec[name] == "" || err != nil {
			return 0
		}
		var v uint64
		if v, err = strconv.ParseUint(rec[name], base, bits); err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
		return v
	}
	n.Key, n.Cookie = id.Key, id.Cookie
	n.Flags = needle.Flags(number(recFlags, 16, 8))
	n.Name, n.Mime, n.Pairs = []byte(rec[recName]), []byte(rec[recMime]), []byte(rec[recPairs])
	n.Modified, n.AppendedAt = number(recModified, 10, 40), number(recAppended, 10, 64)
	if err == nil {
		err = n.TTL.UnmarshalText([]byte(rec[recTTL]))
	}
	return err
}

// name gives a file of another's an id, and what tar knows of it.
func (x *importing) name(n *needle.Needle, h *tar.Header) error {
	if x.top == math.MaxUint64 {
		return fmt.Errorf("%w: no key is left above the highest", volume.ErrBadRequest)
	}
	n.Key = x.top + 1
	var b [4]byte
	rand.Read(b[:]) // never fails
	n.Cookie = volume.Cookie(binary.BigEndian.Uint32(b[:]))
	if name := path.Base(h.Name); len(name) <= 255 {
		n.Flags, n.Name = needle.FlagName, []byte(name)
	}
	if t := h.ModTime.Unix(); t > 0 && t < 1<<40 {
		n.Flags |= needle.FlagModified
		n.Modified = uint64(t)
	}
	return nil
}
