package picture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"net/url"
	"testing"
)

// quarters is an image with another colour in each quarter: red, green, blue, white,
// from the top left on.
func quarters(w, h int) *image.NRGBA {
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			c := [4]color.NRGBA{{255, 0, 0, 255}, {0, 255, 0, 255}, {0, 0, 255, 255}, {255, 255, 255, 255}}[x*2/w+2*(y*2/h)]
			img.SetNRGBA(x, y, c)
		}
	}
	return img
}

func encoded(t testing.TB, f Format, img image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	var err error
	switch f {
	case PNG:
		err = png.Encode(&b, img)
	case GIF:
		err = gif.Encode(&b, img, nil)
	default:
		err = jpeg.Encode(&b, img, &jpeg.Options{Quality: 100})
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// corners names the colours of the corners, from the top left on.
func corners(img image.Image) (s string) {
	r := img.Bounds()
	for _, p := range []image.Point{r.Min, {r.Max.X - 1, r.Min.Y}, {r.Min.X, r.Max.Y - 1}, {r.Max.X - 1, r.Max.Y - 1}} {
		red, green, blue, _ := img.At(p.X, p.Y).RGBA()
		switch hi := func(v uint32) bool { return v > 0x8000 }; {
		case hi(red) && hi(green) && hi(blue):
			s += "w"
		case hi(red):
			s += "r"
		case hi(green):
			s += "g"
		case hi(blue):
			s += "b"
		default:
			s += "?"
		}
	}
	return s
}

func TestEdits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		query   string
		w, h    int // of an image of 64 by 32; 0 where it stays as it is
		corners string
	}{
		{"width=32", 32, 16, "rgbw"},
		{"height=8", 16, 8, "rgbw"},
		{"width=1", 1, 1, ""},
		{"width=64&height=32", 0, 0, ""},
		{"width=1000", 0, 0, ""},
		{"width=x&height=-3", 0, 0, ""},
		{"width=16&height=4", 16, 4, "rgbw"},
		{"width=16&height=16", 16, 16, "rgbw"},
		{"width=16&height=16&mode=fit", 16, 8, "rgbw"},
		{"width=60&height=4&mode=fit", 8, 4, "rgbw"},
		{"width=16&height=16&mode=fill", 16, 16, "rgbw"},
		{"width=10&height=30&mode=fill", 10, 30, "rgbw"},
		{"width=8&height=64", 8, 64, "rgbw"},
		{"crop_x2=32&crop_y2=16", 32, 16, "rrrr"},
		{"crop_x1=32&crop_y1=16&crop_x2=64&crop_y2=32", 32, 16, "wwww"},
		{"crop_x1=0&crop_y1=16&crop_x2=64&crop_y2=32&width=8", 8, 2, "bwbw"},
		{"crop_x2=65&crop_y2=16", 0, 0, ""},
		{"crop_x1=9&crop_x2=8&crop_y2=16", 0, 0, ""},
		{"crop_x2=64&crop_y2=32", 0, 0, ""},
	} {
		q, err := url.ParseQuery(c.query)
		if err != nil {
			t.Fatal(err)
		}
		e := ParseEdit(q)
		for _, f := range [][2]Format{{PNG, PNG}, {JPEG, PNG}, {GIF, JPEG}, {PNG, GIF}} {
			out, err := e.Apply(encoded(t, f[0], quarters(64, 32)), f[1])
			if c.w == 0 {
				if !errors.Is(err, ErrNotEdited) {
					t.Errorf("%s: %v", c.query, err)
				}
				continue
			}
			img, kind, derr := image.Decode(bytes.NewReader(out))
			if err != nil || derr != nil || "image/"+kind != string(f[1]) || img.Bounds().Dx() != c.w || img.Bounds().Dy() != c.h || c.corners != "" && corners(img) != c.corners {
				t.Errorf("%s: %v, %v: %s of %v, corners %s", c.query, err, derr, kind, img.Bounds(), corners(img))
			}
		}
	}
}

// withOrientation puts an EXIF segment into a JPEG.
func withOrientation(data []byte, o int, order binary.ByteOrder) []byte {
	tiff := []byte("II*\x00")
	if order == binary.BigEndian {
		tiff = []byte("MM\x00*")
	}
	b := func(size int, v uint32) []byte {
		out := make([]byte, 4)
		if size == 2 {
			order.PutUint16(out, uint16(v))
		} else {
			order.PutUint32(out, v)
		}
		return out[:size]
	}
	tiff = bytes.Join([][]byte{tiff, b(4, 8), b(2, 2), b(2, 0x010f), b(2, 2), b(4, 4), b(4, 0), b(2, 0x0112), b(2, 3), b(4, 1), b(2, uint32(o)), {0, 0}, b(4, 0)}, nil)
	segment := append([]byte("Exif\x00\x00"), tiff...)
	head := append([]byte{0xff, 0xd8, 0xff, 0xe1}, binary.BigEndian.AppendUint16(nil, uint16(len(segment)+2))...)
	return append(append(head, segment...), data[2:]...)
}

// The corners of an image that is upright are rgbw; how it is stored for each
// orientation is what cameras do.
func TestAJPEGIsTurnedUpright(t *testing.T) {
	t.Parallel()
	for o, c := range map[int]struct {
		w, h    int
		corners string
	}{
		1: {16, 8, "rgbw"}, 2: {16, 8, "grwb"}, 3: {16, 8, "wbgr"}, 4: {16, 8, "bwrg"},
		5: {8, 16, "rbgw"}, 6: {8, 16, "brwg"}, 7: {8, 16, "wgbr"}, 8: {8, 16, "gwrb"}, 0: {16, 8, "rgbw"}, 9: {16, 8, "rgbw"},
	} {
		for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
			data := withOrientation(encoded(t, JPEG, quarters(64, 32)), o, order)
			e := Edit{Width: c.w, Height: c.h}
			out, err := e.Apply(data, JPEG)
			if err != nil {
				t.Fatal(err)
			}
			img, _, err := image.Decode(bytes.NewReader(out))
			if err != nil || img.Bounds().Dx() != c.w || corners(img) != c.corners {
				t.Errorf("orientation %d: %v, %v, corners %s, want %s", o, err, img.Bounds(), corners(img), c.corners)
			}
		}
	}
}

// What an image would take is known before it is decoded.
func TestMemoryIsKnownBeforehand(t *testing.T) {
	t.Parallel()
	data := encoded(t, PNG, quarters(64, 32))
	binary.BigEndian.PutUint32(data[16:], 1<<20) // width and height of IHDR
	binary.BigEndian.PutUint32(data[20:], 1<<20)
	for i, crc := 29, pngCRC(data[12:29]); i < 33; i++ {
		data[i] = byte(crc >> (8 * (32 - i)))
	}
	if n, err := (Edit{Width: 8}).Memory(data); n < 1<<40 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := (Edit{Width: 8, Height: 1 << 30}).Memory(encoded(t, PNG, quarters(64, 32))); n < 1<<32 || err != nil {
		t.Errorf("a box that is high: %d, %v", n, err)
	}
	if n, err := (Edit{Width: 8}).Memory(encoded(t, PNG, quarters(64, 32))); n > 100_000 || err != nil {
		t.Errorf("a small one: %d, %v", n, err)
	}
	if _, err := (Edit{Width: 8}).Memory([]byte("no image")); !errors.Is(err, ErrNotEdited) {
		t.Error(err)
	}
}

func pngCRC(b []byte) uint32 {
	crc := ^uint32(0)
	for _, c := range b {
		crc ^= uint32(c)
		for range 8 {
			crc = crc>>1 ^ 0xedb88320&-(crc&1)
		}
	}
	return ^crc
}

func TestFormats(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]Format{"a.jpg": JPEG, "A.JPEG": JPEG, "x.y.png": PNG, "a.gif": GIF, "a.webp": PNG, "1,01deadbeef": "", "a.txt": "", "": "", "a.": "", "png": ""} {
		if got := FormatByName(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// Whatever the bytes and the wish, there is an image of a size that was allowed, or
// an error.
func FuzzApply(f *testing.F) {
	for _, format := range []Format{PNG, GIF, JPEG} {
		f.Add(encoded(f, format, quarters(16, 8)), "width=8")
		f.Add(encoded(f, format, quarters(5, 9)), "width=3&height=3&mode=fill&crop_x1=1&crop_x2=5&crop_y2=5")
	}
	f.Add(withOrientation(encoded(f, JPEG, quarters(16, 8)), 6, binary.BigEndian), "height=4&mode=fit")
	f.Add([]byte("RIFF\x1a\x00\x00\x00WEBPVP8L\x0d\x00\x00\x00\x2f\x00\x00\x00\x10\x07\x10\x11\x11\x88\x88\xfe\x07\x00"), "width=1&height=2147483647")
	f.Fuzz(func(t *testing.T, data []byte, query string) {
		q, _ := url.ParseQuery(query) // what there is of it
		e := ParseEdit(q)
		if n, err := e.Memory(data); err != nil || n > 8<<20 {
			return
		}
		out, err := e.Apply(data, PNG)
		if err != nil {
			if !errors.Is(err, ErrNotEdited) {
				t.Fatal(err)
			}
			return
		}
		c, err := png.DecodeConfig(bytes.NewReader(out))
		if err != nil {
			t.Fatal(err)
		}
		if e.Width > 0 && e.Height > 0 && (c.Width > e.Width || c.Height > e.Height) {
			t.Fatalf("%+v: %d by %d", e, c.Width, c.Height)
		}
	})
}
