package reader

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"time"

	"filippo.io/age"
)

// A keySet has the keys that derive from the master key alone.
type keySet struct{ config, chunkID, documentName []byte }

var hex32 = regexp.MustCompile(`^[0-9a-f]{32}$`)

// derive is HKDF-SHA256 with the page's info.
func derive(master, salt []byte, purpose string) []byte {
	key, err := hkdf.Key(sha256.New, master, salt, "lockstep vault v1 "+purpose, 32)
	if err != nil {
		panic("reader: " + err.Error()) // only for lengths that HKDF cannot yield
	}
	return key
}

func (v *Vault) openConfig(identities []age.Identity) error {
	data, err := v.read("config", maxConfig)
	if err != nil {
		return fmt.Errorf("reading config: %w", err)
	}
	line, mac, err := decodeConfig(data, v)
	if err != nil {
		return fmt.Errorf("decoding config: %w", err)
	}
	if err := v.openKeys(identities); err != nil {
		return err
	}
	v.keys = keySet{
		config:       derive(v.master, nil, "config"),
		chunkID:      derive(v.master, nil, "chunk id"),
		documentName: derive(v.master, nil, "document name"),
	}
	h := hmac.New(sha256.New, v.keys.config)
	h.Write(line)
	if !hmac.Equal(h.Sum(nil), mac) {
		return errors.New("config is not authentic")
	}
	return nil
}

// decodeConfig returns the first line and the code of the second, and sets id and creation time of the Vault.
func decodeConfig(data []byte, v *Vault) (line, mac []byte, err error) {
	lines := bytes.Split(data, []byte("\n"))
	if len(lines) != 3 || len(lines[2]) != 0 {
		return nil, nil, errors.New("not two lines")
	}
	if mac, err = unhex(string(lines[1]), sha256.Size); err != nil {
		return nil, nil, err
	}
	fields, err := object(lines[0], "format", "version", "id", "created")
	if err != nil {
		return nil, nil, err
	}
	var format string
	var version int
	err = errors.Join(json.Unmarshal(fields["format"], &format), json.Unmarshal(fields["version"], &version),
		json.Unmarshal(fields["id"], &v.ID), json.Unmarshal(fields["created"], &v.Created))
	if err != nil {
		return nil, nil, err
	}
	if format != "lockstep-vault" || version != 1 {
		return nil, nil, fmt.Errorf("format %q version %d is unknown", format, version)
	}
	if !hex32.MatchString(v.ID) {
		return nil, nil, fmt.Errorf("id %q is not 32 hexadecimal digits", v.ID)
	}
	_, err = time.Parse(time.RFC3339, v.Created)
	return lines[0], mac, err
}

// openKeys finds the master key. Every key object of this Vault that opens must hold the same one.
func (v *Vault) openKeys(identities []age.Identity) error {
	for _, name := range v.objects["keys"] {
		data, err := v.read(name, maxKey)
		if err != nil {
			return err
		}
		id, master, err := openKey(data, identities)
		switch noMatch := (*age.NoIdentityMatchError)(nil); {
		case errors.As(err, &noMatch):
			v.sealedKeys = append(v.sealedKeys, name)
		case err != nil:
			return fmt.Errorf("opening %s: %w", name, err)
		case id != v.ID:
			v.foreignKeys = append(v.foreignKeys, name)
		case v.master != nil && !hmac.Equal(v.master, master):
			return fmt.Errorf("%s holds another master key than the others", name)
		default:
			v.master = master
		}
	}
	if v.master == nil {
		return errors.New("no identity opens a key of this Vault")
	}
	return nil
}

func openKey(data []byte, identities []age.Identity) (id string, master []byte, err error) {
	r, err := age.Decrypt(bytes.NewReader(data), identities...)
	if err != nil {
		return "", nil, err
	}
	const head = "lockstep vault key 1\n"
	plain, err := io.ReadAll(io.LimitReader(r, int64(len(head)+32+32+1)))
	if err != nil {
		return "", nil, err
	}
	if len(plain) != len(head)+32+32 || string(plain[:len(head)]) != head {
		return "", nil, errors.New("not a vault key")
	}
	id = string(plain[len(head) : len(head)+32])
	if !hex32.MatchString(id) {
		return "", nil, errors.New("its id is not 32 hexadecimal digits")
	}
	return id, plain[len(head)+32:], nil
}

// unhex decodes n bytes of lower-case hexadecimal digits.
func unhex(s string, n int) ([]byte, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != n || hex.EncodeToString(b) != s {
		return nil, fmt.Errorf("not %d hexadecimal digits", 2*n)
	}
	return b, nil
}
