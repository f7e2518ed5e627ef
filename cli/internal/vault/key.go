package vault

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"filippo.io/age"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
)

// maxKeyFile bounds what is read of a key file, in bytes, should its name be that of something else.
const maxKeyFile = 64 << 10

// Key is what a key file holds.
type Key struct {
	Path       string
	Identities []age.Identity
	// Text is the file as it is; it is secret.
	Text []byte
	// Exposed says that other users of this machine may read the file.
	Exposed bool
}

// ReadKey reads a key file.
func ReadKey(path string) (*Key, error) {
	if path == "" {
		return nil, fault.New(fault.Usage, "Name it with --key-file or $"+EnvKeyFile+".", "no key file: nothing opens a vault without its key")
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.Usage, "Bring the key that `lockstep vault init` made for this vault.", "key file %q does not exist", path)
	}
	if err != nil {
		return nil, fault.New(fault.Usage, "", "reading the key file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fault.New(fault.Usage, "", "reading the key file: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxKeyFile {
		return nil, fault.New(fault.Usage, "", "%q is not a key file", path)
	}
	text := make([]byte, info.Size())
	if _, err := f.ReadAt(text, 0); err != nil && len(text) > 0 {
		return nil, fault.New(fault.Usage, "", "reading the key file: %w", err)
	}
	k := &Key{Path: path, Text: text, Exposed: runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0}
	if k.Identities, err = age.ParseIdentities(bytes.NewReader(text)); err != nil {
		// The parser's error may quote the line, which may be a damaged key.
		return nil, fault.New(fault.Usage, "A key file holds a line that begins with AGE-SECRET-KEY-.", "%q is not a key file", path)
	}
	return k, nil
}

// CreateKey makes a new key and writes it to a file that must not exist, in a directory that must. It is durable on
// return, since a vault that was made with a lost key is lost.
func CreateKey(path string) (*Key, error) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	text := fmt.Appendf(nil, "# Key of a Lockstep vault. Whoever has it can read everything; without it everything is lost.\n"+
		"# public key: %s\n%s\n", identity.Recipient(), identity)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fault.New(fault.Usage, "", "making the key file: %w", err)
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close(), syncDir(filepath.Dir(path))); err != nil {
		return nil, errors.Join(fmt.Errorf("writing the key file: %w", err), os.Remove(path))
	}
	return &Key{Path: path, Identities: []age.Identity{identity}, Text: text}, nil
}

func syncDir(path string) error {
	if runtime.GOOS == "windows" { // directories cannot be synced there
		return nil
	}
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Recipients are the public halves of the key, to which a new vault is sealed.
func (k *Key) Recipients() ([]age.Recipient, error) {
	var all []age.Recipient
	for _, i := range k.Identities {
		switch i := i.(type) {
		case *age.X25519Identity:
			all = append(all, i.Recipient())
		case *age.HybridIdentity:
			all = append(all, i.Recipient())
		default:
			return nil, fault.New(fault.Usage, "", "key file %q holds a key of an unknown type", k.Path)
		}
	}
	return all, nil
}
