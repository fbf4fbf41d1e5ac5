package internalnet

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// MinKeyBytes is how many random bytes a cluster key has at least.
const MinKeyBytes = 32

// ErrKey says that the text or file of a cluster key is of no use.
var ErrKey = errors.New("cluster key")

// Key is the one secret of a cluster. Everything else that keeps strangers out
// is derived from it. It never shows itself in logs.
type Key struct {
	secret   []byte
	insecure bool
}

// NewKey makes a random key.
func NewKey() Key {
	secret := make([]byte, MinKeyBytes)
	rand.Read(secret) // never fails: crypto/rand ends the process instead
	return Key{secret: secret}
}

// InsecureKey is the same in every installation and keeps nobody out. It is for
// daemons that have no key of their own, so that they speak TLS as all others
// do; the configuration allows them loopback addresses only, unless it says
// insecure in so many words.
func InsecureKey() Key {
	sum := sha256.Sum256([]byte("weedd: this cluster has no key and trusts everybody"))
	return Key{secret: sum[:], insecure: true}
}

// Insecure tells whether the key is InsecureKey.
func (k Key) Insecure() bool { return k.insecure }

// ParseKey reads the text of a key file: at least 32 random bytes in hex or
// base64, over any number of lines. Lines that begin with # are comments. Text
// that can be read as hex is hex.
func ParseKey(text []byte) (Key, error) {
	var compact strings.Builder
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "#") {
			compact.WriteString(strings.Join(strings.Fields(line), ""))
		}
	}
	secret, err := decodeKey(compact.String())
	if err != nil {
		return Key{}, err
	}
	if len(secret) < MinKeyBytes {
		return Key{}, fmt.Errorf("%w: %d bytes are too few, at least %d random ones are needed", ErrKey, len(secret), MinKeyBytes)
	}
	if bytes.Count(secret, secret[:1]) == len(secret) {
		return Key{}, fmt.Errorf("%w: the same byte again and again is no secret", ErrKey)
	}
	return Key{secret: secret}, nil
}

func decodeKey(s string) ([]byte, error) {
	if s == "" {
		return nil, fmt.Errorf("%w: nothing in it", ErrKey)
	}
	if b, err := hex.DecodeString(s); err == nil {
		return b, nil
	}
	s = strings.TrimRight(s, "=")
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if b, err := enc.DecodeString(s); err == nil {
			return b, nil
		}
	}
	return nil, fmt.Errorf("%w: neither hex nor base64", ErrKey)
}

// LoadKey reads a key file. A file that every user of the machine may read or
// write is refused; its group may read it.
func LoadKey(path string) (Key, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Key{}, fmt.Errorf("read cluster key: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return Key{}, fmt.Errorf("read cluster key: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o027 != 0 {
		return Key{}, fmt.Errorf("%w: %s has mode %04o and others can get at it; chmod 0600 %s", ErrKey, path, mode, path)
	}
	key, err := ParseKey(text)
	if err != nil {
		return Key{}, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// WriteKey writes a key to a new file that only its owner can read.
func WriteKey(path string, key Key) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: %s is there already and is left alone", ErrKey, path)
	}
	if err != nil {
		return fmt.Errorf("write cluster key: %w", err)
	}
	_, err = f.WriteString(key.Text())
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write cluster key %s: %w", path, err)
	}
	return nil
}

// Text is the key as the text of a key file.
func (k Key) Text() string {
	return "# The secret of this cluster. Every node has the same file; keep it to yourself.\n" +
		base64.StdEncoding.EncodeToString(k.secret) + "\n"
}

// String hides the key.
func (k Key) String() string { return "(cluster key)" }

// GoString hides the key.
func (k Key) GoString() string { return k.String() }

// Gossip is the 32-byte key that encrypts gossip; nil for InsecureKey, under
// which encryption would cost time and hide nothing.
func (k Key) Gossip() []byte {
	if k.insecure {
		return nil
	}
	return k.derive("weedd gossip v1")
}

func (k Key) derive(use string) []byte {
	b, err := hkdf.Key(sha256.New, k.secret, nil, use, 32)
	if err != nil {
		panic(err) // only for lengths beyond 255 hashes
	}
	return b
}
