package replay

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"image"
	_ "image/gif" // known to DecodeConfig
	_ "image/jpeg"
	_ "image/png"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

func (p *Player) compareBody(method string, want Response, body []byte, boundary string) string {
	switch {
	case method == http.MethodHead:
		if len(body) != 0 {
			return "HEAD has a body"
		}
	case want.Image != nil:
		c, format, err := image.DecodeConfig(bytes.NewReader(body))
		if got := (Image{format, c.Width, c.Height}); err != nil || got != *want.Image {
			return fmt.Sprintf("image %v, %v, want %v", got, err, *want.Image)
		}
	case want.BodyOmitted != "":
	case want.BodyExample != nil:
		var got any
		if err := json.Unmarshal(body, &got); err != nil {
			return fmt.Sprintf("body is no JSON: %.200q", body)
		}
		return p.sameShape("", want.BodyExample, got)
	case want.BodyBase64 != "":
		if b, _ := base64.StdEncoding.DecodeString(want.BodyBase64); !bytes.Equal(b, body) {
			return fmt.Sprintf("body %.100q, want %.100q", body, b)
		}
	case want.BodySHA256 != "":
		sum := sha256.Sum256(body)
		if got := hex.EncodeToString(sum[:]); got != want.BodySHA256 || len(body) != want.BodyLength {
			return fmt.Sprintf("body of %d bytes with hash %s, want %d, %s", len(body), got, want.BodyLength, want.BodySHA256)
		}
	case len(want.Unordered) > 0:
		return p.compareSets(want, body)
	default:
		template := strings.ReplaceAll(want.BodyText, `"{{int}}"`, "{{int}}")
		if boundary != "" {
			template = strings.ReplaceAll(template, "{{boundary}}", boundary)
		}
		if _, ok := p.match(template, string(body)); !ok {
			return fmt.Sprintf("body %.300q, want %.300q", body, template)
		}
	}
	return ""
}

// sameShape compares member names and types.
func (p *Player) sameShape(at string, want, got any) string {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return fmt.Sprintf("%s is %T", at, got)
		}
		names := map[string]bool{}
		for name, v := range w {
			name = p.Expand(name)
			names[name] = true
			if _, ok := g[name]; !ok {
				return fmt.Sprintf("%s.%s is missing", at, name)
			}
			if s := p.sameShape(at+"."+name, v, g[name]); s != "" {
				return s
			}
		}
		for name := range g {
			if !names[name] {
				return fmt.Sprintf("%s.%s is not expected", at, name)
			}
		}
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) == 0 {
			return fmt.Sprintf("%s is %T", at, got)
		}
		return p.sameShape(at+"[0]", w[0], g[0])
	case string:
		if _, isNumber := got.(float64); (w == "{{int}}" || w == "{{float}}") != isNumber {
			return fmt.Sprintf("%s is %T", at, got)
		}
	default:
		if fmt.Sprintf("%T", want) != fmt.Sprintf("%T", got) {
			return fmt.Sprintf("%s is %T, want %T", at, got, want)
		}
	}
	return ""
}

// compareSets compares JSON in which the arrays under some names are sets.
func (p *Player) compareSets(want Response, body []byte) string {
	var w, g any
	if err := json.Unmarshal([]byte(want.BodyText), &w); err != nil {
		return fmt.Sprintf("the template is no JSON: %v", err)
	}
	if err := json.Unmarshal(body, &g); err != nil {
		return fmt.Sprintf("body is no JSON: %.200q", body)
	}
	if !p.same(w, g, want.Unordered, false) {
		return fmt.Sprintf("body %.300q, want %.300q, where %v have no order", body, want.BodyText, want.Unordered)
	}
	return ""
}

func (p *Player) same(want, got any, sets []string, isSet bool) bool {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok || len(g) != len(w) {
			return false
		}
		for name, v := range w {
			if _, ok := g[name]; !ok || !p.same(v, g[name], sets, slices.Contains(sets, name)) {
				return false
			}
		}
		return true
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			return false
		}
		g = slices.Clone(g)
		for i, v := range w {
			at := i
			if isSet {
				at = i + max(0, slices.IndexFunc(g[i:], func(o any) bool { return p.same(v, o, sets, false) }))
			}
			if g[i], g[at] = g[at], g[i]; !p.same(v, g[i], sets, false) {
				return false
			}
		}
		return true
	case string:
		_, ok := p.match(w, fmt.Sprint(got))
		return ok
	}
	return want == got
}

var placeholder = regexp.MustCompile(`\{\{([a-z0-9_]+)(?::([^}]*))?\}\}`)

// kinds are the placeholders that stand for any value of a kind.
var kinds = map[string]string{
	"http_date": `[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT`, "request_id": `[0-9A-F]+`,
	"version": `.+`, "uuid": `[0-9a-f-]{36}`, "int": `-?\d+`, "float": `-?[\d.]+`, "digits": `\d+`, "unix_time": `\d{10}`,
	"etag": `[0-9a-f]{8}`, "fid": `\d+,[0-9a-f]+`, "host": `[\d.:]+`, "boundary": `[0-9A-Za-z]+`, "jwt": `[-\w]+\.[-\w]+\.[-\w]+`, "any": `(?s:.*)`,
}

// match compares text with a template and returns what its kinds stood for.
func (p *Player) match(template, text string) (map[string]string, bool) {
	var pattern strings.Builder
	pattern.WriteString("^")
	var names []string
	rest := p.Expand(template)
	for {
		loc := placeholder.FindStringSubmatchIndex(rest)
		if loc == nil {
			break
		}
		name := rest[loc[2]:loc[3]]
		pattern.WriteString(regexp.QuoteMeta(rest[:loc[0]]) + "(" + kinds[name] + ")")
		names = append(names, name)
		rest = rest[loc[1]:]
	}
	pattern.WriteString(regexp.QuoteMeta(rest) + "$")
	m := regexp.MustCompile(pattern.String()).FindStringSubmatch(text)
	if m == nil {
		return nil, false
	}
	values := map[string]string{}
	for i, name := range names {
		values[name] = m[i+1]
	}
	return values, true
}
