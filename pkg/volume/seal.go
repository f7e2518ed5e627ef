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
	"math/bits"
	"sync"

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
	typePack      objectType = 1
	typeIndex     objectType = 2
	typeSnapshot  objectType = 3
	typeDocument  objectType = 4
	typeCondemned objectType = 5
)

// keys are what derives from a Vault's master key.
type keys struct {
	master []byte
	chunk  *keyedHash // turns digests into chunk ids
	name   []byte     // turns names of documents into object names
	config []byte     // authenticates the config object
	gear   *gear      // divides files of variable chunks
}

func newKeys(master []byte) keys {
	return keys{master, newKeyedHash(subkey(master, nil, "chunk id")), subkey(master, nil, "document name"), subkey(master, nil, "config"),
		newGear(subkey(master, nil, "chunker"))}
}

// subkey derives a key of 32 bytes. The lengths are fixed, so derivation cannot fail.
func subkey(master, salt []byte, purpose string) []byte {
	key, err := hkdf.Key(sha256.New, master, salt, "lockstep vault v1 "+purpose, 32)
	if err != nil {
		panic(fmt.Sprintf("deriving a key: %v", err))
	}
	return key
}

// newHasher returns a hasher for keyed BLAKE3. Keys have one length, so that cannot fail.
func newHasher(key []byte) *blake3.Hasher {
	h, err := blake3.NewKeyed(key)
	if err != nil {
		panic(fmt.Sprintf("keying a hash: %v", err))
	}
	return h
}

// keyedHash is keyed BLAKE3 of very many short inputs. Hashers are large, and serve again.
type keyedHash struct{ hashers sync.Pool }

func newKeyedHash(key []byte) *keyedHash {
	return &keyedHash{sync.Pool{New: func() any { return newHasher(key) }}}
}

func (k *keyedHash) sum(data []byte) (sum [32]byte) {
	h := k.hashers.Get().(*blake3.Hasher)
	h.Reset()
	h.Write(data)
	h.Sum(sum[:0])
	k.hashers.Put(h)
	return sum
}

// keyed is keyed BLAKE3 of the parts, one after the other.
func keyed(key []byte, parts ...[]byte) (sum [32]byte) {
	h := newHasher(key)
	for _, p := range parts {
		h.Write(p)
	}
	h.Sum(sum[:0])
	return sum
}

// chunkID is the name of a chunk: it does not tell the content, not even to one who guesses it.
type chunkID [32]byte

func (k *keys) chunkID(d Hash) chunkID { return k.chunk.sum(d[:]) }

// newHeader returns a header with a fresh salt.
func newHeader(t objectType) []byte {
	h := make([]byte, headerSize)
	copy(h, "LKST")
	h[4], h[5] = version, byte(t)
	rand.Read(h[8:])
	return h
}

// sealer encrypts and authenticates the pieces of one object. Its key is the object's alone, so a piece's role and
// offset serve as nonce; header and name are authenticated with each piece, so that none can be moved to another object.
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

// role says what a piece is, so that none can pass for another, wherever an object is cut.
type role uint32

const (
	roleContent role = 0 // a chunk, or what an object of one piece holds
	roleFooter  role = 1
	roleTrailer role = 2
)

func (r role) nonce(off int64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(make([]byte, 0, 12), uint32(r)), uint64(off))
}

// seal appends to dst the piece that will stand at offset off. The plaintext may be dst[len(dst):] itself.
func (s sealer) seal(dst []byte, r role, off int64, plaintext []byte) []byte {
	return s.aead.Seal(dst, r.nonce(off), plaintext, s.aad)
}

// open decrypts, in place, the piece that stands at offset off.
func (s sealer) open(r role, off int64, piece []byte) ([]byte, error) {
	plaintext, err := s.aead.Open(piece[:0], r.nonce(off), piece, s.aad)
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

// minPadded is the least plaintext of an object of one piece.
const minPadded = 64

// padded is the length that a plaintext of the given length is filled up to, so that the size of an object tells little
// of what is in it: Padmé, which wastes at most an eighth.
func padded(length int) int {
	if length <= minPadded {
		return minPadded
	}
	e := bits.Len(uint(length)) - 1
	s := bits.Len(uint(e))
	mask := 1<<(e-s) - 1
	return (length + mask) &^ mask
}

// sealObject returns a whole object of one piece.
func (k *keys) sealObject(t objectType, name string, content []byte) []byte {
	header := newHeader(t)
	size := padded(4 + len(content))
	object := make([]byte, headerSize, headerSize+size+tagSize)
	copy(object, header)
	plaintext := object[headerSize : headerSize+size]
	binary.BigEndian.PutUint32(plaintext, uint32(len(content)))
	copy(plaintext[4:], content)
	return k.sealer(header, name).seal(object, roleContent, headerSize, plaintext)
}

// openObject decrypts, in place, an object of one piece.
func (k *keys) openObject(t objectType, name string, data []byte) ([]byte, error) {
	s, err := k.openHeader(t, name, data)
	if err != nil {
		return nil, err
	}
	plaintext, err := s.open(roleContent, headerSize, data[headerSize:])
	if err != nil {
		return nil, fmt.Errorf("object %q: %w", name, err)
	}
	content, err := unpad(plaintext)
	if err != nil {
		return nil, fmt.Errorf("object %q: %w", name, err)
	}
	return content, nil
}

// unpad returns the content of an object of one piece.
func unpad(plaintext []byte) ([]byte, error) {
	if len(plaintext) < minPadded {
		return nil, fmt.Errorf("%w: bad padding", ErrDamaged)
	}
	length := binary.BigEndian.Uint32(plaintext)
	if uint64(length) > uint64(len(plaintext)-4) || padded(4+int(length)) != len(plaintext) || !allZero(plaintext[4+length:]) {
		return nil, fmt.Errorf("%w: bad padding", ErrDamaged)
	}
	return plaintext[4 : 4+length], nil
}

// allZero tells whether b has only zeros.
func allZero(b []byte) bool {
	var zero [4096]byte
	for len(b) > 0 {
		n := min(len(b), len(zero))
		if !bytes.Equal(b[:n], zero[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}
