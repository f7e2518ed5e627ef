package volume

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/zeebo/blake3"
)

const (
	masterSize = 32
	headerSize = 40 // magic, version, type, keying, reserved, salt
	tagSize    = 16
	version    = 1
)

// objectType is the type in an object's header.
type objectType byte

const (
	typePack     objectType = 1
	typeIndex    objectType = 2
	typeSnapshot objectType = 3
	typeDocument objectType = 4
)

// keys are what derives from a Vault's master key.
type keys struct {
	master []byte
	chunk  []byte // turns digests into chunk ids
	name   []byte // turns names of documents into object names
	config []byte // authenticates the config object
}

func newKeys(master []byte) keys {
	return keys{master, subkey(master, nil, "chunk id"), subkey(master, nil, "document name"), subkey(master, nil, "config")}
}

// subkey derives a key of 32 bytes. The lengths are fixed, so derivation cannot fail.
func subkey(master, salt []byte, purpose string) []byte {
	key, err := hkdf.Key(sha256.New, master, salt, "lockstep vault v1 "+purpose, 32)
	if err != nil {
		panic(fmt.Sprintf("deriving a key: %v", err))
	}
	return key
}

// keyed is keyed BLAKE3 of the parts, one after the other.
func keyed(key []byte, parts ...[]byte) (sum [32]byte) {
	h, err := blake3.NewKeyed(key)
	if err != nil {
		panic(fmt.Sprintf("keying a hash: %v", err))
	}
	for _, p := range parts {
		h.Write(p)
	}
	h.Sum(sum[:0])
	return sum
}

// chunkID is the name of a chunk: it does not tell the content, not even to one who guesses it.
type chunkID [32]byte

func (k *keys) chunkID(d Hash) chunkID { return keyed(k.chunk, d[:]) }

// newHeader returns a header with a fresh salt.
func newHeader(t objectType) []byte {
	h := make([]byte, headerSize)
	copy(h, "LKST")
	h[4], h[5] = version, byte(t)
	rand.Read(h[8:])
	return h
}

// sealer encrypts and authenticates the pieces of one object. Its key is the object's alone, so a piece's offset serves
// as nonce; header and name are authenticated with each piece, so that none can be moved to another object.
type sealer struct {
	aead cipher.AEAD
	aad  []byte
}

func (k *keys) sealer(header []byte, name string) sealer {
	block, err := aes.NewCipher(subkey(k.master, header[8:headerSize], "object"))
	if err != nil {
		panic(fmt.Sprintf("keying AES: %v", err))
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(fmt.Sprintf("keying AES-GCM: %v", err))
	}
	return sealer{aead, append(bytes.Clone(header[:headerSize]), name...)}
}

func nonce(off int64) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 4, 12), uint64(off))
}

// seal appends to dst the piece that will stand at offset off. The plaintext may be dst[len(dst):] itself.
func (s sealer) seal(dst []byte, off int64, plaintext []byte) []byte {
	return s.aead.Seal(dst, nonce(off), plaintext, s.aad)
}

// open decrypts, in place, the piece that stands at offset off.
func (s sealer) open(off int64, piece []byte) ([]byte, error) {
	plaintext, err := s.aead.Open(piece[:0], nonce(off), piece, s.aad)
	if err != nil {
		return nil, fmt.Errorf("%w: authentication failed", ErrDamaged)
	}
	return plaintext, nil
}

// openHeader checks an object's header and returns what opens its pieces.
func (k *keys) openHeader(t objectType, name string, data []byte) (sealer, error) {
	if len(data) < headerSize || string(data[:4]) != "LKST" {
		return sealer{}, fmt.Errorf("object %q: %w: no header", name, ErrDamaged)
	}
	if data[4] != version || data[6] != 0 || data[7] != 0 {
		return sealer{}, fmt.Errorf("object %q: %w: version %d, keying %d is not known", name, ErrDamaged, data[4], data[6])
	}
	if data[5] != byte(t) {
		return sealer{}, fmt.Errorf("object %q: %w: type %d, want %d", name, ErrDamaged, data[5], t)
	}
	return k.sealer(data, name), nil
}

// sealObject returns a whole object of one piece.
func (k *keys) sealObject(t objectType, name string, plaintext []byte) []byte {
	header := newHeader(t)
	return k.sealer(header, name).seal(header, headerSize, plaintext)
}

// openObject decrypts, in place, an object of one piece.
func (k *keys) openObject(t objectType, name string, data []byte) ([]byte, error) {
	s, err := k.openHeader(t, name, data)
	if err != nil {
		return nil, err
	}
	plaintext, err := s.open(headerSize, data[headerSize:])
	if err != nil {
		return nil, fmt.Errorf("object %q: %w", name, err)
	}
	return plaintext, nil
}
