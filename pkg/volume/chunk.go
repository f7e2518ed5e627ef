package volume

import (
	"fmt"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// maxChunk bounds what a chunk decompresses to; only records of trees come near.
const maxChunk = 16 << 20

// How a chunk is encoded; the first byte of its piece.
const (
	encodedRaw  = 0
	encodedS2   = 1
	encodedZstd = 2
)

// Compression says how a save compresses what it stores.
type Compression int

const (
	// CompressAuto is S2 for the first snapshot of a tree and Zstandard for those that have a parent: what changed is little, and kept
	// for long.
	CompressAuto Compression = iota
	// CompressS2 is fast: several times as fast as Zstandard.
	CompressS2
	// CompressZstd is small, at about the third level of Zstandard.
	CompressZstd
)

func (c Compression) String() string {
	switch c {
	case CompressS2:
		return "s2"
	case CompressZstd:
		return "zstd"
	}
	return "auto"
}

// UnmarshalText implements encoding.TextUnmarshaler for "auto", "s2" and "zstd".
func (c *Compression) UnmarshalText(text []byte) error {
	for _, known := range []Compression{CompressAuto, CompressS2, CompressZstd} {
		if string(text) == known.String() {
			*c = known
			return nil
		}
	}
	return fmt.Errorf("compression %q: want auto, s2 or zstd", text)
}

// MarshalText implements encoding.TextMarshaler.
func (c Compression) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// codec compresses and decompresses chunks. It is safe for concurrent use.
type codec struct {
	encoder *zstd.Encoder
	decoder *zstd.Decoder
}

// newCodec returns a codec whose goroutine-free parts are shared by all that use a Vault. Only the whole-buffer functions
// of both are used: they start nothing in the background.
func newCodec() *codec {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderCRC(false), zstd.WithAllLitEntropyCompression(true),
		zstd.WithSingleSegment(true))
	if err != nil {
		panic(fmt.Sprintf("making a compressor: %v", err)) // the options are constant
	}
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxChunk), zstd.WithDecoderConcurrency(0), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(fmt.Sprintf("making a decompressor: %v", err))
	}
	return &codec{encoder, decoder}
}

// encode appends the encoding of raw to dst: compressed, if that saves anything worth the work of undoing it.
func (k *codec) encode(dst, raw []byte, c Compression) []byte {
	at := len(dst)
	if need := 1 + s2.MaxEncodedLen(len(raw)); cap(dst)-len(dst) < need {
		dst = append(make([]byte, 0, len(dst)+need), dst...)
	}
	if c == CompressZstd {
		dst = k.encoder.EncodeAll(raw, append(dst, encodedZstd))
	} else {
		dst = append(dst, encodedS2)
		dst = dst[:len(dst)+len(s2.Encode(dst[len(dst):cap(dst)], raw))]
	}
	if len(dst)-at-1 < len(raw)-len(raw)/16 {
		return dst
	}
	return append(append(dst[:at], encodedRaw), raw...)
}

// decode returns the chunk of length raw; it may be part of encoded, or of dst if that is large enough.
func (k *codec) decode(dst, encoded []byte, raw int) ([]byte, error) {
	if len(encoded) == 0 || raw < 1 || raw > maxChunk {
		return nil, fmt.Errorf("%w: chunk cannot be decoded", ErrDamaged)
	}
	if body := encoded[1:]; encoded[0] == encodedRaw && len(body) == raw {
		return body, nil
	}
	if cap(dst) < raw {
		dst = make([]byte, raw)
	}
	var out []byte
	err := error(nil)
	switch body := encoded[1:]; encoded[0] {
	case encodedS2:
		if n, lenErr := s2.DecodedLen(body); lenErr != nil || n != raw {
			break
		}
		out, err = s2.Decode(dst[:raw], body)
	case encodedZstd:
		out, err = k.decoder.DecodeAll(body, dst[:0:raw])
	}
	if err != nil || len(out) != raw {
		return nil, fmt.Errorf("%w: chunk cannot be decoded", ErrDamaged)
	}
	return out, nil
}
