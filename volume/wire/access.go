package wire

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"weedd/volume"
)

// Access says who may use an API. The zero value lets everybody do everything but
// what destroys data, which is for loopback. Its fields do not change while it is used.
type Access struct {
	WriteKey, ReadKey   []byte         // sign the tokens for writes and deletes, and for reads; none are asked for without
	WriteLife, ReadLife time.Duration  // of tokens given out; 0 is for ever
	Allow               []netip.Prefix // who may write at a volume server, and ask a master; everybody if empty
	Admin               []netip.Prefix // who may destroy data, besides loopback
}

// AdminFileID is the file id in tokens that are good for what destroys data. No file
// is called so.
const AdminFileID = "*"

// ErrWrongToken is why a token is refused, whatever is wrong with it: who probes
// learns nothing. It is volume.ErrUnauthorized.
var ErrWrongToken = fmt.Errorf("%w: wrong jwt: this needs a token of its file, as /dir/assign and /dir/lookup?fileId= give in the header Authorization, that is not over", volume.ErrUnauthorized)

// claims are what SeaweedFS's tokens say.
type claims struct {
	FileID string `json:"fid"`
	jwt.RegisteredClaims
}

// Token gives the value of an Authorization header that lets its bearer write or
// read the file, and those that follow it by _1, _2 and so on; "" if none is asked for.
func (a *Access) Token(fid string, write bool) string {
	key, life := a.ReadKey, a.ReadLife
	if write {
		key, life = a.WriteKey, a.WriteLife
	}
	if len(key) == 0 {
		return ""
	}
	c := claims{FileID: BareFileID(fid)}
	if life > 0 {
		c.ExpiresAt = jwt.NewNumericDate(time.Now().Add(life))
	}
	s, err := jwt.NewWithClaims(jwt.SigningMethodHS256, c).SignedString(key)
	if err != nil {
		panic(fmt.Sprintf("sign token: %v", err)) // HMAC takes any key, and the claims are ours
	}
	return "Bearer " + s
}

// BareFileID cuts an extension and a _N off the text of a file id.
func BareFileID(fid string) string {
	comma := strings.IndexByte(fid, ',')
	if dot := strings.LastIndexByte(fid, '.'); dot > comma {
		fid = fid[:dot]
	}
	if delta := strings.LastIndexByte(fid, '_'); delta > comma {
		fid = fid[:delta]
	}
	return fid
}

// Check refuses a request that needs a token for the file, whose id is compared as
// text, and has none that is good. The error is ErrWrongToken.
func (a *Access) Check(r *http.Request, fid string, write bool) error {
	key := a.ReadKey
	if write {
		key = a.WriteKey
	}
	if len(key) > 0 && !bears(r, key, BareFileID(fid)) {
		return ErrWrongToken
	}
	return nil
}

// methods are the ways of signing that are taken: those of a shared key.
var methods = jwt.WithValidMethods([]string{"HS256", "HS384", "HS512"})

func bears(r *http.Request, key []byte, fid string) bool {
	text := presented(r)
	if text == "" {
		return false
	}
	var c claims
	_, err := jwt.ParseWithClaims(text, &c, func(*jwt.Token) (any, error) { return key, nil }, methods)
	return err == nil && c.FileID == fid && (fid != AdminFileID || c.ExpiresAt != nil)
}

// presented finds the token of a request: in the query, the header, or the cookie.
func presented(r *http.Request) string {
	if s := r.URL.Query().Get("jwt"); s != "" {
		return s
	}
	const bearer = "bearer "
	if h := r.Header.Get("Authorization"); len(h) > len(bearer) && strings.EqualFold(h[:len(bearer)], bearer) {
		return h[len(bearer):]
	}
	if c, err := r.Cookie("AT"); err == nil {
		return c.Value
	}
	return ""
}

// ErrNotListed is for a caller whose address is not in the list. It is
// volume.ErrUnauthorized.
var ErrNotListed = fmt.Errorf("%w: this address is not in access.allow", volume.ErrUnauthorized)

// CheckAddress refuses callers that are not listed: only the address at the other
// end of the connection counts. The error is ErrNotListed.
func (a *Access) CheckAddress(r *http.Request) error {
	if len(a.Allow) == 0 || listed(caller(r), a.Allow) {
		return nil
	}
	return ErrNotListed
}

// CheckAdmin refuses callers that may not destroy data: they call from loopback, from
// an address listed in Admin, or with a token for AdminFileID that is signed with
// the write key and ends some day. The error is volume.ErrUnauthorized.
func (a *Access) CheckAdmin(r *http.Request) error {
	addr := caller(r)
	if addr.IsLoopback() || listed(addr, a.Admin) || len(a.WriteKey) > 0 && bears(r, a.WriteKey, AdminFileID) {
		return nil
	}
	return fmt.Errorf("%w: %s may not call %s: it is for loopback, for addresses in access.admin, and for tokens of file id %s", volume.ErrUnauthorized, addr, r.URL.Path, AdminFileID)
}

// caller is the address at the other end of the connection; the zero value, which is
// in no list, if it is none.
func caller(r *http.Request) netip.Addr {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}
	}
	return addr.Unmap().WithZone("")
}

func listed(addr netip.Addr, list []netip.Prefix) bool {
	for _, p := range list {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// ParsePrefix reads an address, or a network such as 192.168.0.0/16.
func ParsePrefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(addr.Unmap().WithZone(""), addr.Unmap().BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, errors.New("is neither an address nor a network such as 192.168.0.0/16")
	}
	return p.Masked(), nil
}
