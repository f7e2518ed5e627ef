package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

// smallObjects opens every object but packs and index, and reads the records of the snapshots to verify.
func (c *verification) smallObjects(ctx context.Context) error {
	for _, step := range []func(context.Context) error{c.verifyConfig, c.verifyKeys, c.verifyDocuments, c.verifyCondemned, c.verifySnapshots} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return c.confirm(ctx)
}

func (c *verification) verifyConfig(ctx context.Context) error {
	err := c.sameConfig(ctx)
	if errors.Is(err, store.ErrNotFound) {
		return c.confirm(ctx)
	}
	if damaged(err) {
		c.damage(configName, "it is not the one that the vault was opened with")
	}
	return err
}

// verifyKeys holds the key objects against what the Vault keeps about them.
func (c *verification) verifyKeys(ctx context.Context) error {
	known, err := c.knownKeys(ctx)
	if damaged(err) {
		known, err = nil, nil // a document, which is named with the others
	}
	if err != nil {
		return err
	}
	objects, err := readKeys(ctx, c.store)
	if err != nil {
		return err
	}
	c.report.Keys = len(objects)
	for _, k := range objects {
		if d, in := known[k.id()]; in && !d.describes(k) {
			if err := c.verifyKey(ctx, k.Name, d); err != nil {
				return err
			}
		}
		delete(known, k.id())
	}
	for id := range known {
		if _, err := c.Document(ctx, keyKind, id); errors.Is(err, ErrDocumentNotFound) {
			continue // removed meanwhile
		} else if err != nil {
			return err
		}
		c.damage(keyPrefix+id, "it is missing")
	}
	return nil
}

// verifyKey reads a key object that was not what the Vault keeps about it once more.
func (c *verification) verifyKey(ctx context.Context, name string, d keyDocument) error {
	data, err := c.store.Get(ctx, name, 0, -1)
	switch {
	case err == nil && d.describes(keyObject{name, data}):
		c.reread.Add(1)
	case err == nil:
		c.damage(name, "it is not what was written")
	}
	return c.note(name, err)
}

// eachObject opens all objects with the prefix, several at once.
// Open may be called twice for one object.
func (c *verification) eachObject(ctx context.Context, prefix string, open func(info store.Info, data []byte) error) (n int, err error) {
	infos, err := list(ctx, c.store, prefix)
	if err != nil {
		return 0, err
	}
	return len(infos), each(ctx, infos, func(ctx context.Context, _ int, info store.Info) error {
		_, err := twice(c.Vault, func(v *Vault) (struct{}, error) {
			data, err := v.getSmall(ctx, info)
			if err == nil {
				err = open(info, data)
			}
			return struct{}{}, err
		})
		return c.note(info.Name, err)
	})
}

func (c *verification) verifyDocuments(ctx context.Context) (err error) {
	c.report.Documents, err = c.eachObject(ctx, documentPrefix, func(info store.Info, data []byte) error {
		kind, _, ok := strings.Cut(strings.TrimPrefix(info.Name, documentPrefix), "/")
		if !ok || checkKind(kind) != nil {
			return nil // none of the Vault's business
		}
		_, err := c.openDocument(kind, info.Name, data)
		return err
	})
	return err
}

func (c *verification) verifyCondemned(ctx context.Context) error {
	_, err := c.eachObject(ctx, condemnedPrefix, func(info store.Info, data []byte) error {
		_, err := c.openCondemned(info.Name, data)
		return err
	})
	return err
}

// verifySnapshots opens the snapshots. One that was asked for and is not there is an error.
func (c *verification) verifySnapshots(ctx context.Context) error {
	wanted := map[string]bool{}
	for _, id := range c.options.Snapshots {
		if !validID(id) {
			return fmt.Errorf("snapshot id %q: want 32 hexadecimal digits", id)
		}
		wanted[id] = true
	}
	seen := map[string]*record{} // nil: it could not be opened
	_, err := c.eachObject(ctx, snapshotPrefix, func(info store.Info, data []byte) error {
		r, err := c.openRecord(info.Name, data)
		if err != nil {
			r = nil
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		seen[strings.TrimPrefix(info.Name, snapshotPrefix)] = r
		return err
	})
	if err != nil {
		return err
	}
	for id, r := range seen {
		if r == nil {
			c.report.Hurt = append(c.report.Hurt, HurtSnapshot{ID: id, Files: []HurtFile{{".", "its record is damaged: all of it is lost"}}, Count: 1})
		} else if len(wanted) == 0 || wanted[id] {
			c.records = append(c.records, r)
		}
	}
	for _, id := range c.options.Snapshots {
		if _, in := seen[id]; !in {
			return fmt.Errorf("snapshot %q: %w", id, ErrSnapshotNotFound)
		}
	}
	slices.SortFunc(c.records, func(a, b *record) int { return a.Created.Compare(b.Created) })
	return nil
}
