//go:build linux

// Corpus makes the small Vaults in test/reader/testdata, with the engine as it is, and writes down what they must hold.
//
//	go run ./test/reader/cmd/corpus [-o test/reader/testdata] [name …]
//
// It needs root, for owners, devices and files that somebody else may not read. It never touches a Vault that exists: those must stay readable as they are. To keep what a new
// version of the engine writes, give its Vaults new names with -suffix.
package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"filippo.io/age"

	"github.com/lockstep-dr/lockstep/pkg/store/fs"
	"github.com/lockstep-dr/lockstep/pkg/volume"
	"github.com/lockstep-dr/lockstep/test/reader"
)

func main() {
	out := flag.String("o", "test/reader/testdata", "where to make the vaults")
	suffix := flag.String("suffix", "", "what to end their names with")
	flag.Parse()
	for _, c := range cases() {
		if flag.NArg() > 0 && !slices.Contains(flag.Args(), c.name) {
			continue
		}
		if err := generate(context.Background(), filepath.Join(*out, c.name+*suffix), c); err != nil {
			fmt.Fprintf(os.Stderr, "corpus: making %s: %v\n", c.name, err)
			os.Exit(1)
		}
	}
}

// generate makes one Vault, or nothing.
func generate(ctx context.Context, dir string, c corpusCase) (err error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	g := generator{dir: dir}
	if g.source, err = os.MkdirTemp("", "corpus-"); err != nil {
		return err
	}
	defer os.RemoveAll(g.source)
	if err := g.create(ctx, max(c.keys, 1)); err != nil {
		return err
	}
	if err := c.make(ctx, &g); err != nil {
		return err
	}
	data, err := json.MarshalIndent(g.manifest, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "manifest.json"), append(data, '\n'), 0o644)
}

// A generator makes one Vault of the corpus.
type generator struct {
	dir      string // of the Vault, its keys and manifest
	source   string // where a case makes what it saves
	vault    *volume.Vault
	manifest reader.Manifest
}

// create makes the Vault, and a file for each of its keys.
func (g *generator) create(ctx context.Context, keys int) error {
	var recipients []age.Recipient
	for i := range keys {
		recipient, err := g.key(fmt.Sprintf("key%d", i+1))
		if err != nil {
			return err
		}
		recipients = append(recipients, recipient)
	}
	store, err := fs.Create(filepath.Join(g.dir, "vault"))
	if err != nil {
		return err
	}
	g.vault, err = volume.Create(ctx, store, recipients...)
	return err
}

// key makes a key and the file of that name for it.
func (g *generator) key(name string) (*age.X25519Recipient, error) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, err
	}
	text := fmt.Sprintf("# The key of a test vault. There is nothing to protect.\n%s\n", identity)
	return identity.Recipient(), os.WriteFile(filepath.Join(g.dir, name), []byte(text), 0o644)
}

// save saves source, or one file of it as an image, and writes down what it holds.
func (g *generator) save(ctx context.Context, image string, o volume.SaveOptions) error {
	path := filepath.Join(g.source, image)
	entries, err := describe(path)
	if err != nil {
		return err
	}
	s, err := g.vault.Save(ctx, path, o)
	if err != nil {
		return err
	}
	roots, err := volume.Digest(ctx, path)
	if err != nil {
		return err
	}
	g.manifest.Snapshots = append(g.manifest.Snapshots, reader.ManifestSnapshot{ID: s.ID, Labels: o.Labels, Image: image != "",
		Content: hex.EncodeToString(roots.Content[:]), Meta: hex.EncodeToString(roots.Meta[:]), Entries: entries})
	return nil
}

func (g *generator) document(ctx context.Context, kind, name, data string) error {
	g.manifest.Documents = append(g.manifest.Documents, reader.ManifestDocument{Kind: kind, Name: name, Data: data})
	return g.vault.PutDocument(ctx, kind, name, []byte(data))
}
