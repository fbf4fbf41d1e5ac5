// Package picture crops and resizes JPEG, PNG, GIF and WebP images, as bytes in
// memory. It does no I/O; everything may be called at once from anywhere.
package picture

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"net/url"
	"path"
	"strconv"
	"strings"

	"golang.org/x/image/draw"
	_ "golang.org/x/image/webp" // read, not written
)

// ErrNotEdited is for an image that is left as it is: it cannot be decoded, has too
// many pixels, or is what is wanted already.
var ErrNotEdited = errors.New("left as it is")

// jpegQuality is where further bytes are hardly seen.
const jpegQuality = 90

// Edit is what is wanted of an image: first the crop, then the size. The zero value
// wants nothing.
type Edit struct {
	Width, Height  int    // of the box; 0 is not limited
	Mode           string // "fit": the largest size within the box; "fill": exactly the box, cropped; "": see ParseEdit
	X1, Y1, X2, Y2 int    // the crop; of no effect if it is empty or reaches beyond the image
}

// ParseEdit reads width, height, mode and crop_x1, crop_y1, crop_x2, crop_y2. Numbers
// that do not parse or are below 1 count as not given, and so do unknown modes. An
// image is only made smaller: one within the box stays as it is. Without a mode, both
// width and height are the exact size: the image is stretched, or if that is a square
// the largest square in its middle is taken.
func ParseEdit(q url.Values) (e Edit) {
	number := func(name string) int {
		n, err := strconv.ParseInt(q.Get(name), 10, 31)
		if err != nil {
			return 0
		}
		return max(int(n), 0)
	}
	e.Width, e.Height = number("width"), number("height")
	if m := q.Get("mode"); m == "fit" || m == "fill" {
		e.Mode = m
	}
	e.X1, e.Y1, e.X2, e.Y2 = number("crop_x1"), number("crop_y1"), number("crop_x2"), number("crop_y2")
	return e
}

// Wanted reports whether e wants anything.
func (e Edit) Wanted() bool { return e.Width > 0 || e.Height > 0 || e.X2 > e.X1 && e.Y2 > e.Y1 }

// String tells edits apart, in letters that an entity tag may have.
func (e Edit) String() string {
	return fmt.Sprintf("%dx%d%s-%d-%d-%d-%d", e.Width, e.Height, e.Mode, e.X1, e.Y1, e.X2, e.Y2)
}

// Format is what an image is written as.
type Format string

// The formats. WebP can only be read, and is written as PNG.
const (
	JPEG Format = "image/jpeg"
	PNG  Format = "image/png"
	GIF  Format = "image/gif"
)

// FormatByName gives the format for the extension of a file name, "" if that is not
// one of an image that can be edited.
func FormatByName(name string) Format {
	switch strings.ToLower(path.Ext(name)) {
	case ".jpg", ".jpeg":
		return JPEG
	case ".png", ".webp":
		return PNG
	case ".gif":
		return GIF
	}
	return ""
}

// Memory says how many bytes decoding data and editing it take at most, without
// decoding it. ErrNotEdited if it is no image.
func (e Edit) Memory(data []byte) (int64, error) {
	c, kind, err := image.DecodeConfig(bytes.NewReader(data))
	if err != nil || c.Width < 1 || c.Height < 1 {
		return 0, fmt.Errorf("%w: %v", ErrNotEdited, err)
	}
	w, h := int64(c.Width), int64(c.Height)
	n := w * h * pixelBytes(c.ColorModel)
	if kind == "jpeg" && orientation(data) != 1 {
		n += 2 * w * h * 4
		w, h = max(w, h), max(w, h)
	}
	outW, outH := w, h
	if e.Width > 0 && e.Height > 0 { // one of them may be larger than the image
		outW, outH = int64(e.Width), int64(e.Height)
	} else if e.Width > 0 {
		outW = min(w, int64(e.Width))
	}
	// The scaler works on the lines of the image at the width of the result, in floats.
	return n + scalerBytes*outW*h + 4*outW*outH, nil
}

const scalerBytes = 32 // a pixel

// pixelBytes is how much a pixel takes once it is decoded.
func pixelBytes(m color.Model) int64 {
	switch m {
	case color.RGBA64Model, color.NRGBA64Model:
		return 8
	case color.YCbCrModel:
		return 3
	}
	return 4
}

// Apply edits the image in data and writes it in a format; see Memory. Of an
// animation it takes the first picture. A JPEG is turned upright first, as its EXIF orientation says: what is
// written has none.
func (e Edit) Apply(data []byte, f Format) ([]byte, error) {
	img, kind, err := image.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrNotEdited, err)
	}
	if kind == "jpeg" {
		img = upright(img, orientation(data))
	}
	cropped := e.crop(img)
	sized := e.resize(cropped)
	if sized == img {
		return nil, ErrNotEdited
	}
	var out bytes.Buffer
	switch f {
	case JPEG:
		err = jpeg.Encode(&out, sized, &jpeg.Options{Quality: jpegQuality})
	case GIF:
		err = gif.Encode(&out, sized, nil)
	default:
		err = png.Encode(&out, sized)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrNotEdited, err)
	}
	return out.Bytes(), nil
}

func (e Edit) crop(img image.Image) image.Image {
	r := image.Rect(0, 0, e.X2-e.X1, e.Y2-e.Y1).Add(img.Bounds().Min).Add(image.Pt(e.X1, e.Y1))
	if e.X2 <= e.X1 || e.Y2 <= e.Y1 || !r.In(img.Bounds()) || r == img.Bounds() {
		return img
	}
	return part(img, r)
}

// part is a part of an image, which is not copied.
func part(img image.Image, r image.Rectangle) image.Image {
	if s, ok := img.(interface {
		SubImage(image.Rectangle) image.Image
	}); ok {
		return s.SubImage(r)
	}
	return scale(img, r, r.Dx(), r.Dy())
}

func (e Edit) resize(img image.Image) image.Image {
	r := img.Bounds()
	w, h := r.Dx(), r.Dy()
	if (e.Width == 0 || w <= e.Width) && (e.Height == 0 || h <= e.Height) {
		return img
	}
	switch {
	case e.Height == 0:
		return scale(img, r, e.Width, along(h, e.Width, w))
	case e.Width == 0:
		return scale(img, r, along(w, e.Height, h), e.Height)
	case e.Mode == "fit":
		if w*e.Height > h*e.Width {
			return scale(img, r, e.Width, along(h, e.Width, w))
		}
		return scale(img, r, along(w, e.Height, h), e.Height)
	case e.Mode == "fill", e.Width == e.Height && w != h:
		return scale(img, middle(r, e.Width, e.Height), e.Width, e.Height)
	}
	return scale(img, r, e.Width, e.Height)
}

// along gives n scaled by num/den, rounded, 1 at least.
func along(n, num, den int) int { return max((n*num+den/2)/den, 1) }

// middle is the largest rectangle in the middle of r that is as wide to high as w to h.
func middle(r image.Rectangle, w, h int) image.Rectangle {
	dx, dy := r.Dx(), r.Dy()
	if dx*h > dy*w {
		dx = max(dy*w/h, 1)
	} else {
		dy = max(dx*h/w, 1)
	}
	at := r.Min.Add(image.Pt((r.Dx()-dx)/2, (r.Dy()-dy)/2))
	return image.Rectangle{at, at.Add(image.Pt(dx, dy))}
}

func scale(img image.Image, from image.Rectangle, w, h int) image.Image {
	to := image.NewNRGBA(image.Rect(0, 0, w, h))
	draw.CatmullRom.Scale(to, to.Bounds(), img, from, draw.Src, nil)
	return to
}
