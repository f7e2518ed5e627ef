package reader

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

// The types of sealed objects.
const (
	typePack      = 1
	typeIndex     = 2
	typeSnapshot  = 3
	typeDocument  = 4
	typeCondemned = 5
)

// The roles of pieces.
const (
	roleContent = 0
	roleFooter  = 1
	roleTrailer = 2
)

const (
	headerSize = 40
	tagSize    = 16
)

// A sealer opens the pieces of one object.
type sealer struct {
	aead cipher.AEAD
	ad   []byte
}

// sealer takes the header of the object of that name.
func (v *Vault) sealer(name string, typ byte, header []byte) (sealer, error) {
	if err := checkHeader(header, typ); err != nil {
		return sealer{}, fmt.Errorf("%s: %w", name, err)
	}
	block, err := aes.NewCipher(derive(v.master, header[8:headerSize], "object"))
	if err != nil {
		return sealer{}, err
	}
	aead, err := cipher.NewGCM(block)
	return sealer{aead, append(append([]byte{}, header[:headerSize]...), name...)}, err
}

func checkHeader(header []byte, typ byte) error {
	switch {
	case len(header) < headerSize:
		return errors.New("shorter than a header")
	case string(header[:4]) != "LKST":
		return errors.New("not a sealed object")
	case header[4] != 1:
		return fmt.Errorf("version %d is unknown", header[4])
	case header[5] != typ:
		return fmt.Errorf("type %d where %d belongs", header[5], typ)
	case header[6] != 0:
		return fmt.Errorf("keying %d is unknown", header[6])
	case header[7] != 0:
		return errors.New("byte 7 is not zero")
	}
	return nil
}

// open returns the plaintext of the piece at that offset of the object.
func (s sealer) open(role uint32, piece []byte, offset uint64) ([]byte, error) {
	nonce := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, role), offset)
	plain, err := s.aead.Open(nil, nonce, piece, s.ad)
	if err != nil {
		return nil, fmt.Errorf("the piece at %d is not authentic", offset)
	}
	return plain, nil
}

// openObject returns the content of an object of one piece.
func (v *Vault) openObject(name string, typ byte) ([]byte, error) {
	data, err := v.read(name, maxObject)
	if err != nil {
		return nil, err
	}
	s, err := v.sealer(name, typ, data)
	if err != nil {
		return nil, err
	}
	plain, err := s.open(roleContent, data[headerSize:], headerSize)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	content, err := unpad(plain)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return content, nil
}

func unpad(plain []byte) ([]byte, error) {
	c := cursor{rest: plain}
	content := c.take(uint64(c.u32()))
	if c.err != nil {
		return nil, fmt.Errorf("content: %w", c.err)
	}
	if padding := c.all(); !zeros(padding) {
		return nil, errors.New("padding is not zero")
	}
	if want := padme(4 + len(content)); len(plain) != want {
		return nil, fmt.Errorf("padded to %d bytes where %d belong", len(plain), want)
	}
	return content, nil
}

// padme is the length to which n bytes are padded.
func padme(n int) int {
	if n <= 64 {
		return 64
	}
	e := bits.Len(uint(n)) - 1
	s := bits.Len(uint(e))
	step := 1 << (e - s)
	return (n + step - 1) / step * step
}
