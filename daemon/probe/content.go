package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
)

var errWrong = errors.New("wrong bytes")

// headSize is how many bytes name the value: they are the number that the rest
// follows from.
const headSize = 8

// content is the bytes of a value, which are different for every value.
func (p *prober) content(value uint64) []byte {
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], value)
	binary.BigEndian.PutUint64(seed[8:], p.opt.Seed)
	body := make([]byte, p.opt.Size)
	copy(body, seed[:headSize])
	_, _ = rand.NewChaCha8(seed).Read(body[headSize:]) // never fails
	return body
}

// value tells which value some bytes are, all of them compared.
func (p *prober) value(body []byte) (uint64, error) {
	if len(body) < headSize {
		return 0, fmt.Errorf("%w: %d of %d", errWrong, len(body), p.opt.Size)
	}
	value := binary.BigEndian.Uint64(body)
	if want := p.content(value); string(want) != string(body) {
		return 0, fmt.Errorf("%w: %d, not those of value %d", errWrong, len(body), value)
	}
	return value, nil
}
