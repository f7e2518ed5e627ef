package reader

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

var errShort = errors.New("ends early")

// A cursor takes the parts of an encoding one by one. After its first error it yields zeros, so that callers look at err once.
type cursor struct {
	rest []byte
	err  error
}

func (c *cursor) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf(format, args...)
		c.rest = nil
	}
}

func (c *cursor) take(n uint64) []byte {
	if n > uint64(len(c.rest)) {
		if c.err == nil {
			c.err, c.rest = errShort, nil
		}
		return nil
	}
	b := c.rest[:n:n]
	c.rest = c.rest[n:]
	return b
}

func (c *cursor) byte() byte {
	if b := c.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) u32() uint32 {
	if b := c.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (c *cursor) digest() (d digest) {
	copy(d[:], c.take(32))
	return d
}

func (c *cursor) uvarint() uint64 {
	n, size := binary.Uvarint(c.rest)
	switch {
	case c.err != nil:
		return 0
	case size == 0:
		c.take(uint64(len(c.rest)) + 1)
		return 0
	case size < 0:
		c.fail("number of more than 64 bits")
		return 0
	case size > 1 && c.rest[size-1] == 0:
		c.fail("number longer than need be")
		return 0
	}
	c.rest = c.rest[size:]
	return n
}

// upTo is a uvarint of at most limit.
func (c *cursor) upTo(limit uint64, what string) uint64 {
	n := c.uvarint()
	if n > limit {
		c.fail("%s of %d, more than %d", what, n, limit)
		return 0
	}
	return n
}

func (c *cursor) varint() int64 {
	n := c.uvarint()
	return int64(n>>1) ^ -int64(n&1)
}

func (c *cursor) bytes() []byte { return c.take(c.uvarint()) }

// all is what remains.
func (c *cursor) all() []byte { return c.take(uint64(len(c.rest))) }

// end refuses what remains.
func (c *cursor) end() error {
	if c.err == nil && len(c.rest) > 0 {
		return fmt.Errorf("%d bytes too many", len(c.rest))
	}
	return c.err
}

// object decodes a JSON object that has at least these fields: encoding/json alone would take fields in another case, and a field
// twice.
func object(data []byte, required ...string) (map[string]json.RawMessage, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	fields := map[string]json.RawMessage{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, _ := t.(string)
		if _, ok := fields[name]; ok {
			return nil, fmt.Errorf("field %q twice", name)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, err
		}
		fields[name] = value
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON object")
	}
	for _, name := range required {
		if _, ok := fields[name]; !ok {
			return nil, fmt.Errorf("field %q is missing", name)
		}
	}
	return fields, nil
}

func zeros(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
