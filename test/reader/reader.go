// Package reader reads Vaults. It was written from docs/vault-format.md alone, in the order of that page, and shares no
// code with the engine: what both agree on is what the page says. Check holds a whole Vault against the page.
//
// It is plain rather than fast: it ignores the index (which is a cache), reads one chunk at a time, and keeps in memory where each
// chunk lies.
package reader

import (
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"sort"
	"strings"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
)

// The greatest objects that a reader takes into memory, in bytes.
const (
	maxConfig = 4 << 10
	maxKey    = 64 << 10
	maxObject = 64 << 20
)

// A Vault is the objects below one directory, and the keys that open them.
type Vault struct {
	ID      string // 32 hexadecimal digits
	Created string // as the config has it

	store   fs.FS
	objects map[string][]string // kind of object → sorted names; unknown ones under ""
	master  []byte
	keys    keySet

	foreignKeys []string // key objects of another Vault's id
	sealedKeys  []string // key objects that no identity opens

	packs  map[string]*pack
	chunks map[digest]place             // by id
	used   func(id digest)              // hears of each chunk that is asked for
	seen   func(data []byte, last bool) // hears of each chunk of form 2, and whether it is the last of its span
	zstd   *zstd.Decoder
}

type digest [32]byte

// kinds has the names of the page's table of objects.
var kinds = map[string]*regexp.Regexp{
	"config":    regexp.MustCompile(`^config$`),
	"keys":      regexp.MustCompile(`^keys/[0-9a-f]{32}$`),
	"packs":     regexp.MustCompile(`^packs/[0-9a-f]{2}/[0-9a-f]{32}$`),
	"index":     regexp.MustCompile(`^index/[0-9a-f]{32}$`),
	"snapshots": regexp.MustCompile(`^snapshots/[0-9a-f]{32}$`),
	"documents": regexp.MustCompile(`^documents/[a-z0-9-]{1,40}/[0-9a-f]{64}$`),
	"condemned": regexp.MustCompile(`^condemned/[0-9a-f]{32}$`),
}

// Open lists the Vault in store and opens its config and keys with any of the identities.
func Open(store fs.FS, identities ...age.Identity) (*Vault, error) {
	v := &Vault{store: store, objects: map[string][]string{}, zstd: newZstd(), used: func(digest) {}, seen: func([]byte, bool) {}}
	if err := v.list(); err != nil {
		return nil, err
	}
	if err := v.openConfig(identities); err != nil {
		return nil, err
	}
	return v, nil
}

func (v *Vault) list() error {
	err := fs.WalkDir(v.store, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		kind := kindOf(name)
		v.objects[kind] = append(v.objects[kind], name)
		return nil
	})
	for _, names := range v.objects {
		sort.Strings(names)
	}
	return err
}

func kindOf(name string) string {
	kind, _, _ := strings.Cut(name, "/")
	pattern := kinds[kind]
	if pattern == nil || !pattern.MatchString(name) {
		return ""
	}
	if kind == "packs" && name[6:8] != name[9:11] {
		return ""
	}
	return kind
}

// read returns a whole object of at most limit bytes.
func (v *Vault) read(name string, limit int64) ([]byte, error) {
	f, err := v.store.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was opened only to read
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s has more than %d bytes", name, limit)
	}
	return data, nil
}

// readAt returns n bytes of an object, from offset on.
func (v *Vault) readAt(name string, offset, n int64) ([]byte, error) {
	f, err := v.store.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was opened only to read
	r, ok := f.(io.ReaderAt)
	if !ok {
		return nil, fmt.Errorf("%s cannot be read in parts", name)
	}
	data := make([]byte, n)
	if got, err := r.ReadAt(data, offset); got < len(data) {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return data, nil
}

func (v *Vault) size(name string) (int64, error) {
	info, err := fs.Stat(v.store, name)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
