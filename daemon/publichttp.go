package daemon

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"weedd/daemon/config"
	"weedd/volume/wire"
)

// openAccess reads who may use the public ports.
func openAccess(cfg config.Config) (a wire.Access, err error) {
	a = wire.Access{WriteLife: cfg.Access.WriteLife, ReadLife: cfg.Access.ReadLife}
	if a.WriteKey, err = signingKey("access.write_key", cfg.Access.WriteKey); err != nil {
		return a, err
	}
	if a.ReadKey, err = signingKey("access.read_key", cfg.Access.ReadKey); err != nil {
		return a, err
	}
	a.Allow, err = prefixes(cfg.Access.Allow)
	if err != nil {
		return a, err
	}
	a.Admin, err = prefixes(cfg.Access.Admin)
	return a, err
}

func prefixes(list []string) (out []netip.Prefix, err error) {
	for _, s := range list {
		p, err := wire.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("%s %w", s, err) // config has checked it
		}
		out = append(out, p)
	}
	return out, nil
}

// signingKey reads a key, without the end of its line; nil if there is no file.
func signingKey(name, path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if b = bytes.TrimRight(b, "\r\n"); len(b) == 0 {
		return nil, fmt.Errorf("%s: %s is empty; tokens would be signed with nothing", name, path)
	}
	return b, nil
}

// certificate is that of the public ports, which is read again when its files
// change. What cannot be read leaves the one before in use. Safe for concurrent use.
type certificate struct {
	cert, key string // paths
	log       *slog.Logger

	mu     sync.Mutex
	now    *tls.Certificate
	stamp  string    // of the files of now, or of those that could not be read
	looked time.Time // when the files were last looked at
}

// lookEvery is how often the files are looked at, at most: at a handshake.
const lookEvery = time.Second

// openCertificate reads the files; nil if there are none.
func openCertificate(cfg config.Config, log *slog.Logger) (*certificate, error) {
	if cfg.TLS.Cert == "" {
		return nil, nil
	}
	c := &certificate{cert: cfg.TLS.Cert, key: cfg.TLS.Key, log: log}
	c.looked = time.Now()
	c.stamp = c.stampNow()
	var err error
	c.now, err = c.load()
	return c, err
}

func (c *certificate) load() (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return nil, fmt.Errorf("tls.cert %s, tls.key %s: %w", c.cert, c.key, err)
	}
	return &pair, nil
}

// stampNow tells the files from other ones under the same names.
func (c *certificate) stampNow() (s string) {
	for _, path := range []string{c.cert, c.key} {
		info, err := os.Stat(path)
		if err != nil {
			s += err.Error()
			continue
		}
		s += fmt.Sprint(info.ModTime().UnixNano(), " ", info.Size(), ";")
	}
	return s
}

// get is tls.Config.GetCertificate.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) < lookEvery {
		return c.now, nil
	}
	c.looked = time.Now()
	if stamp := c.stampNow(); stamp != c.stamp {
		c.stamp = stamp
		pair, err := c.load()
		if err != nil {
			c.log.Warn("the certificate of the public ports could not be read again; the one before stays", "err", err)
			return c.now, nil
		}
		c.now = pair
		c.log.Info("the certificate of the public ports was read again", "cert", c.cert)
	}
	return c.now, nil
}

// serve serves a public port until it is closed, by TLS if there is a certificate.
func (s *httpServer) serve(l net.Listener, c *certificate) error {
	l = slowListener{l, s.stall}
	if c == nil {
		return ignoreClosed(s.Serve(l))
	}
	s.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get}
	return ignoreClosed(s.ServeTLS(l, "", ""))
}
