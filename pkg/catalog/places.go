package catalog

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstep-dr/lockstep/pkg/match"
	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// Places returns at least one point, if there is any, of each directory of each repository from which the application was ever
// deployed, or that has a point whose ID begins so. Like Find it asks the index for that, and reads all records only where neither
// is given, or the vault has no index.
func Places(ctx context.Context, v *volume.Vault, application, id string) ([]point.Record, error) {
	if application == "" && id == "" {
		return List(ctx, v)
	}
	x, err := openIndex(ctx, v)
	if err == nil && x != nil {
		var found []point.Record
		if id != "" {
			found, err = x.named(ctx, match.Query{PointID: id, Application: application})
		} else {
			found, err = x.ofApplication(ctx, application, order{}, 1)
		}
		if err == nil {
			return found, nil
		}
	}
	ambiguous := (*match.AmbiguousError)(nil)
	if err != nil && !errors.Is(err, volume.ErrDamaged) && !errors.As(err, &ambiguous) {
		return nil, fmt.Errorf("asking the index of restore points: %w", err)
	}
	return List(ctx, v)
}
