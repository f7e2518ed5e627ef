package volume

import (
	"context"
	"fmt"
	"strings"
)

// VaultStat tells what a Vault holds.
type VaultStat struct {
	Snapshots int `json:"snapshots"`
	// Objects are those of each kind, by the first part of their names, such as "packs".
	Objects map[string]Amount `json:"objects"`
	Total   Amount            `json:"total"`
	Chunks  int64             `json:"chunks"` // different ones
	// Raw are the bytes of the chunks, as they were saved; Stored are the same, as they are stored.
	Raw    int64 `json:"raw"`
	Stored int64 `json:"stored"`
	// Condemned are packs that are about to be deleted.
	Condemned Amount `json:"condemned"`
	// Damaged names objects that were found damaged on the way. To look for damage, verify the vault.
	Damaged []string `json:"damaged,omitempty"`
}

// Stat tells what the Vault holds. It lists the store and reads the index, and no packs that the index describes.
func (v *Vault) Stat(ctx context.Context) (*VaultStat, error) {
	s := &VaultStat{Objects: map[string]Amount{}}
	if err := v.countObjects(ctx, s); err != nil {
		return nil, fmt.Errorf("listing the vault: %w", err)
	}
	s.Snapshots = s.Objects[strings.TrimSuffix(snapshotPrefix, "/")].Objects
	condemned, err := v.condemned(ctx)
	if err != nil {
		return nil, err
	}
	x, err := v.indexBeside(ctx, condemned)
	if err != nil {
		return nil, err
	}
	defer x.close()
	s.Damaged = x.damaged
	for _, p := range x.packs {
		if p.condemned && !p.missing {
			s.Condemned.add(int64(p.size))
		}
	}
	x.eachChunk(func(_ int, places []slot) {
		for _, at := range places {
			if !x.packs[at.pack].missing {
				s.Chunks++
				s.Raw += int64(at.raw)
				s.Stored += int64(at.stored)
				return
			}
		}
	})
	return s, nil
}

func (v *Vault) countObjects(ctx context.Context, s *VaultStat) error {
	for info, err := range v.store.List(ctx, "") {
		if err != nil {
			return err
		}
		kind, _, _ := strings.Cut(info.Name, "/")
		a := s.Objects[kind]
		a.add(info.Size)
		s.Objects[kind] = a
		s.Total.add(info.Size)
	}
	return v.confirm(ctx)
}
