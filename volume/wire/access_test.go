package wire_test

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"weedd/volume"
	"weedd/volume/wire"
)

var testAccess = wire.Access{WriteKey: []byte("write"), ReadKey: []byte("read"), WriteLife: time.Minute}

// signed makes a token by hand.
func signed(t testing.TB, method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
	t.Helper()
	s, err := jwt.NewWithClaims(method, claims).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTokens(t *testing.T) {
	t.Parallel()
	const fid = "3,01637037d6"
	a, now := testAccess, time.Now()
	good, read := strings.TrimPrefix(a.Token(fid+"_1.jpg", true), "Bearer "), strings.TrimPrefix(a.Token(fid, false), "Bearer ")
	hs := func(key string, claims jwt.MapClaims) string {
		return signed(t, jwt.SigningMethodHS256, []byte(key), claims)
	}
	none := signed(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, jwt.MapClaims{"fid": fid})
	for _, c := range []struct {
		why, token, fid string
		ok              bool
	}{
		{"given out", good, fid, true},
		{"for those that follow", good, fid + "_7", true},
		{"for the file with an extension", good, fid + ".png", true},
		{"for another cookie", good, "3,01637037d7", false},
		{"for another volume", good, "4,01637037d6", false},
		{"the same number written otherwise", good, "3,0001637037d6", false},
		{"the same number in upper case", good, "3,01637037D6", false},
		{"a read token", read, fid, false},
		{"without end", hs("write", jwt.MapClaims{"fid": fid}), fid, true},
		{"signed by another kind of HMAC", signed(t, jwt.SigningMethodHS512, []byte("write"), jwt.MapClaims{"fid": fid}), fid, true},
		{"over", hs("write", jwt.MapClaims{"fid": fid, "exp": now.Add(-time.Second).Unix()}), fid, false},
		{"not yet", hs("write", jwt.MapClaims{"fid": fid, "nbf": now.Add(time.Hour).Unix()}), fid, false},
		{"another key", hs("writer", jwt.MapClaims{"fid": fid}), fid, false},
		{"no file", hs("write", jwt.MapClaims{}), fid, false},
		{"a file that is a number", hs("write", jwt.MapClaims{"fid": 3}), fid, false},
		{"an end that makes no sense", hs("write", jwt.MapClaims{"fid": fid, "exp": "soon"}), fid, false},
		{"not signed", none, fid, false},
		{"cut off", good[:len(good)-1], fid, false},
		{"no token", "", fid, false},
		{"rubbish", "a.b.c", fid, false},
	} {
		for _, form := range []string{"header", "header in upper case", "query", "cookie"} {
			r := httptest.NewRequest("PUT", "/"+fid, nil)
			switch form {
			case "query":
				r = httptest.NewRequest("PUT", "/"+fid+"?jwt="+c.token, nil)
			case "cookie":
				r.AddCookie(&http.Cookie{Name: "AT", Value: c.token})
			default:
				scheme := "Bearer "
				if form != "header" {
					scheme = "BEARER "
				}
				r.Header.Set("Authorization", scheme+c.token)
			}
			if err := a.Check(r, c.fid, true); (err == nil) != c.ok || !c.ok && !errors.Is(err, wire.ErrWrongToken) {
				t.Errorf("%s in the %s: %v", c.why, form, err)
			}
		}
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(good, ".")[1])
	if err != nil || !strings.HasPrefix(string(payload), `{"fid":"`+fid+`","exp":`) {
		t.Errorf("claims %s, %v", payload, err)
	}
	if payload, _ := base64.RawURLEncoding.DecodeString(strings.Split(read, ".")[1]); string(payload) != `{"fid":"`+fid+`"}` {
		t.Errorf("claims for ever %s", payload)
	}
	open := wire.Access{}
	if err := open.Check(httptest.NewRequest("GET", "/", nil), fid, true); err != nil || open.Token(fid, true) != "" {
		t.Errorf("without keys: %v", err)
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	soon := time.Now().Add(time.Minute).Unix()
	admin := signed(t, jwt.SigningMethodHS256, []byte("write"), jwt.MapClaims{"fid": "*", "exp": soon})
	forEver := signed(t, jwt.SigningMethodHS256, []byte("write"), jwt.MapClaims{"fid": "*"})
	read := signed(t, jwt.SigningMethodHS256, []byte("read"), jwt.MapClaims{"fid": "*", "exp": soon})
	a := testAccess
	a.Allow = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	a.Admin = []netip.Prefix{netip.MustParsePrefix("10.9.9.9/32")}
	for _, c := range []struct {
		from, token    string
		allowed, admin bool
	}{
		{"127.0.0.1:1", "", false, true}, {"[::1]:1", "", false, true}, {"[::ffff:127.0.0.1]:1", "", false, true},
		{"10.1.1.1:1", "", true, false}, {"[::ffff:10.1.1.1]:1", "", true, false}, {"10.9.9.9:1", "", true, true},
		{"11.1.1.1:1", "", false, false}, {"[fd00::1%eth0]:1", "", true, false}, {"[fe80::1]:1", "", false, false},
		{"@", "", false, false}, {"", "", false, false}, {"host:1", "", false, false},
		{"11.1.1.1:1", admin, false, true}, {"11.1.1.1:1", forEver, false, false}, {"11.1.1.1:1", read, false, false}, {"11.1.1.1:1", "x", false, false},
	} {
		r := httptest.NewRequest("POST", "/col/delete", nil)
		r.RemoteAddr = c.from
		r.Header.Set("X-Forwarded-For", "127.0.0.1")
		if c.token != "" {
			r.Header.Set("Authorization", "Bearer "+c.token)
		}
		if err := a.CheckAddress(r); (err == nil) != c.allowed || err != nil && !errors.Is(err, volume.ErrUnauthorized) {
			t.Errorf("%s may call: %v", c.from, err)
		}
		if err := a.CheckAdmin(r); (err == nil) != c.admin || err != nil && !errors.Is(err, volume.ErrUnauthorized) {
			t.Errorf("%s may destroy: %v", c.from, err)
		}
	}
	if err := testAccess.CheckAddress(httptest.NewRequest("GET", "/", nil)); err != nil {
		t.Errorf("without a list: %v", err)
	}
	for text, want := range map[string]string{"10.1.2.3": "10.1.2.3/32", "10.1.2.3/8": "10.0.0.0/8", "::1": "::1/128", "::ffff:10.0.0.1": "10.0.0.1/32", "x": "", "10.0.0.0/33": "", "": ""} {
		if p, err := wire.ParsePrefix(text); (err == nil) != (want != "") || err == nil && p.String() != want {
			t.Errorf("%q: %v, %v", text, p, err)
		}
	}
}

// No text is a token for a file but those that were signed for it.
func FuzzToken(f *testing.F) {
	a := testAccess
	f.Add(strings.TrimPrefix(a.Token("3,01637037d6", true), "Bearer "), "3,01637037d7")
	f.Add("eyJhbGciOiJub25lIn0.eyJmaWQiOiIzLDAxIn0.", "3,01")
	f.Add("a.b.c", "")
	f.Add("", "*")
	f.Fuzz(func(t *testing.T, token, fid string) {
		r := httptest.NewRequest("PUT", "/", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		other := wire.Access{WriteKey: []byte("a key of this run alone " + time.Now().String())}
		if other.Check(r, fid, true) == nil {
			t.Errorf("%q is good for %q", token, fid)
		}
	})
}
