package volume

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

const condemnedPrefix = "condemned/"

// condemned returns the packs that are about to be deleted.
func (v *Vault) condemned(ctx context.Context) (map[packID]bool, error) {
	infos, err := list(ctx, v.store, condemnedPrefix)
	if err != nil {
		return nil, fmt.Errorf("listing condemned packs: %w", err)
	}
	packs := map[packID]bool{}
	for _, info := range infos {
		ids, err := v.readCondemned(ctx, info)
		if errors.Is(err, store.ErrNotFound) {
			continue // its packs are deleted
		}
		if err != nil {
			return nil, fmt.Errorf("reading condemned packs: %w", err)
		}
		for _, id := range ids {
			packs[id] = true
		}
	}
	return packs, nil
}

func (v *Vault) readCondemned(ctx context.Context, info store.Info) ([]packID, error) {
	data, err := v.getSmall(ctx, info)
	if err != nil {
		return nil, err
	}
	content, err := v.keys.openObject(typeCondemned, info.Name, data)
	if err != nil {
		return nil, err
	}
	return decodeCondemned(info.Name, content)
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
	if len(b) == 0 || len(b)%len(id) != 0 {
		return nil, fmt.Errorf("object %q: %w: half a name", name, ErrDamaged)
	}
	ids := make([]packID, 0, len(b)/len(id))
	for ; len(b) > 0; b = b[len(id):] {
		ids = append(ids, packID(b))
	}
	return ids, nil
}
