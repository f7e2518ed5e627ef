package planner

import (
	"context"
	"slices"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/match"
	"github.com/lockstep-dr/lockstep/pkg/plan"
)

// planVolumes makes a plan that fills volumes and replays no commit: the point is all that it needs.
func (p *Planner) planVolumes(ctx context.Context, q Request) (*Replay, error) {
	var choice match.Choice
	if !allEmpty(q.Volumes) {
		var err error
		if choice, err = p.choosePoint(ctx, q); err != nil {
			return nil, err
		}
	}
	selection := plan.Select(choice.Record, q.Volumes)
	mapped := plan.Map(q.Mapping, selection.Record, nil)
	choice.Record = mapped.Record
	known, err := p.Facts(ctx, choice, nil)
	if err != nil {
		return nil, err
	}
	made, err := plan.New(plan.Input{Choice: choice, Selection: selection, Mapped: mapped, Facts: known})
	if err != nil {
		return nil, failed(StepRender, err)
	}
	return p.inspected(ctx, &Replay{Plan: made})
}

func allEmpty(volumes []v1alpha1.VolumeRequest) bool {
	return !slices.ContainsFunc(volumes, func(v v1alpha1.VolumeRequest) bool { return !v.Empty })
}

// choosePoint takes the earlier choice, or asks the vault alone and has the answer remembered.
func (p *Planner) choosePoint(ctx context.Context, q Request) (match.Choice, error) {
	if q.Point != nil {
		record, err := catalog.Get(ctx, p.Vault, q.Point.ID)
		return match.Choice{Record: record, Match: q.Point.Match, Reason: q.Point.Message}, failed(StepVault, err)
	}
	query := match.Query{
		Application: q.From.Application, PointID: q.From.RestorePoint, Revision: v1alpha1.Revision{Commit: q.From.Commit},
	}
	if q.From.Before != nil {
		query.Before = &q.From.Before.Time
	}
	choice, err := p.match(ctx, query, q.From)
	if err != nil || p.Remember == nil {
		return choice, err
	}
	return choice, p.Remember(ctx, Choice{Choice: choice})
}
