package doctor

import (
	"context"
	"errors"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/store"
)

// checkVaultLocks asks the stores of vaults with spec.immutability whether they lock, and for their clocks. It locks nothing itself.
func checkVaultLocks(ctx context.Context, s *Subject) ([]Finding, error) {
	vaults, err := s.allVaults(ctx)
	if err != nil {
		return nil, err
	}
	opened, err := s.openVaults(ctx)
	if err != nil {
		return nil, err
	}
	var out []Finding
	for i := range vaults {
		if v := &vaults[i]; v.Spec.Immutability != nil {
			out = append(out, lockOf(ctx, v, opened[v.Name]))
		}
	}
	if len(out) == 0 {
		out = append(out, ok("no vault has spec.immutability: whoever has the credentials of a vault can delete what is in it"))
	}
	return out, nil
}

func lockOf(ctx context.Context, v *v1alpha1.Vault, opened openedVault) Finding {
	err := opened.err
	if err == nil {
		err = opened.CanLock(ctx)
	}
	switch {
	case errors.Is(err, store.ErrCannotLock):
		return problem("See docs/vaults.md, Object Lock and versions.", "vault %s: %v", v.Name, err)
	case err != nil:
		return unknown(fault.HintOf(err), "vault %s: whether its store locks is not known: %v", v.Name, err)
	}
	lock := v.Spec.Immutability
	return ok("vault %s: the bucket has Object Lock, and its clock agrees; points are locked for %s, mode %s",
		v.Name, output.Duration(lock.Retention.Duration), lock.Mode)
}
