package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

const (
	condemnedPrefix = "condemned/"
	// clockTries is how often the store's clock is read while others delete what it is read from.
	clockTries = 5
)

// condemnedObject is an object that names packs which are about to be deleted.
type condemnedObject struct {
	name  string
	since time.Time // when it was written, by the store's clock
	packs []packID
}

// condemned returns the packs that are about to be deleted.
func (v *Vault) condemned(ctx context.Context) (map[packID]bool, error) {
	objects, err := v.condemnedObjects(ctx)
	packs := map[packID]bool{}
	for _, o := range objects {
		for _, id := range o.packs {
			packs[id] = true
		}
	}
	return packs, err
}

// condemnedObjects reads all condemned objects.
func (v *Vault) condemnedObjects(ctx context.Context) ([]condemnedObject, error) {
	infos, err := list(ctx, v.store, condemnedPrefix)
	if err != nil {
		return nil, fmt.Errorf("listing condemned packs: %w", err)
	}
	objects := make([]condemnedObject, len(infos))
	err = each(ctx, infos, func(ctx context.Context, i int, info store.Info) error {
		packs, err := v.readCondemned(ctx, info)
		if errors.Is(err, store.ErrNotFound) {
			return nil // its packs are deleted
		}
		objects[i] = condemnedObject{info.Name, info.Modified, packs}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading condemned packs: %w", err)
	}
	return slices.DeleteFunc(objects, func(o condemnedObject) bool { return o.name == "" }), nil
}

// condemn writes an object that names packs, and returns its name.
func (v *Vault) condemn(ctx context.Context, packs []packID) (string, error) {
	name := condemnedPrefix + randomName()
	if err := v.putBy(ctx, v.unlockedPut(), name, v.keys.sealObject(typeCondemned, name, encodeCondemned(packs))); err != nil {
		return "", fmt.Errorf("condemning packs: %w", err)
	}
	return name, nil
}

// clock returns the store's time, and the name of the object that it was read from, which condemns nothing. That object may be
// deleted by anyone.
func (v *Vault) clock(ctx context.Context) (now time.Time, probe string, err error) {
	for range clockTries {
		if probe, err = v.condemn(ctx, nil); err != nil {
			break
		}
		var info store.Info
		if info, err = v.store.Stat(ctx, probe); !errors.Is(err, store.ErrNotFound) {
			now = info.Modified
			break
		}
	}
	if err != nil {
		err = fmt.Errorf("reading the store's clock: %w", err)
	}
	return now, probe, err
}

func (v *Vault) readCondemned(ctx context.Context, info store.Info) ([]packID, error) {
	return twice(v, func(v *Vault) ([]packID, error) {
		data, err := v.getSmall(ctx, info)
		if err != nil {
			return nil, err
		}
		return v.openCondemned(info.Name, data)
	})
}

func (v *Vault) openCondemned(name string, data []byte) ([]packID, error) {
	content, err := v.keys.openObject(typeCondemned, name, data)
	if err != nil {
		return nil, err
	}
	return decodeCondemned(name, content)
}

func encodeCondemned(ids []packID) []byte {
	var b []byte
	for _, id := range ids {
		b = append(b, id[:]...)
	}
	return b
}

func decodeCondemned(name string, b []byte) ([]packID, error) {
	var id packID
	if len(b)%len(id) != 0 {
		return nil, fmt.Errorf("object %q: %w: half a name", name, ErrDamaged)
	}
	ids := make([]packID, 0, len(b)/len(id))
	for ; len(b) > 0; b = b[len(id):] {
		ids = append(ids, packID(b))
	}
	return ids, nil
}
