package volume

import (
	"bytes"
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
	data, err := c.store.Get(ctx, configName, 0, -1)
	if errors.Is(err, store.ErrNotFound) {
		return c.confirm(ctx)
	}
	if err == nil && !bytes.Equal(data, c.config) {
		c.damage(configName, "it is not the one that the vault was opened with")
		return fmt.Errorf("object %q: %w: it is not the one that the vault was opened with", configName, ErrDamaged)
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
			c.damage(k.Name, "it is not what was written")
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

// eachObject opens all objects with the prefix, several at once.
func (c *verification) eachObject(ctx context.Context, prefix string, open func(info store.Info, data []byte) error) (n int, err error) {
	infos, err := list(ctx, c.store, prefix)
	if err != nil {
		return 0, err
	}
	return len(infos), each(ctx, infos, func(ctx context.Context, _ int, info store.Info) error {
		data, err := c.getSmall(ctx, info)
		if err == nil {
			err = open(info, data)
		}
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
	seen := map[string]bool{}
	_, err := c.eachObject(ctx, snapshotPrefix, func(info store.Info, data []byte) error {
		id := strings.TrimPrefix(info.Name, snapshotPrefix)
		c.mu.Lock()
		seen[id] = true
		c.mu.Unlock()
		r, err := c.openRecord(info.Name, data)
		if err != nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.report.Hurt = append(c.report.Hurt, HurtSnapshot{ID: id, Files: []HurtFile{{".", "its record is damaged: all of it is lost"}}, Count: 1})
			return err
		}
		if len(wanted) == 0 || wanted[id] {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.records = append(c.records, r)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, id := range c.options.Snapshots {
		if !seen[id] {
			return fmt.Errorf("snapshot %q: %w", id, ErrSnapshotNotFound)
		}
	}
	slices.SortFunc(c.records, func(a, b *record) int { return a.Created.Compare(b.Created) })
	return nil
}
