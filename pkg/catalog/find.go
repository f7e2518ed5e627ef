package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lockstep-dr/lockstep/pkg/match"
	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/revision"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

const (
	// maxNamed bounds the points that are read for a prefix of an ID.
	maxNamed = 100
	// maxNear is how many points are looked for to say what comes closest, and in how many places.
	maxNear = 3
)

// Find finds the point that q asks for, with the errors of match.Choose where the vault answered; any other error means that
// what the vault holds is not known. It asks the vault's index, so that what it reads does not grow with the number of
// records. Where the vault has no index, or a damaged one, it reads them all.
//
// Ancestors, if not nil, allows the point of an earlier commit: it is called when no point fits better, and returns the commits
// before that of the query, the nearest first. Its error is returned as it is.
func Find(
	ctx context.Context, v *volume.Vault, q match.Query, ancestors func(context.Context) ([]revision.Ancestor, error),
) (match.Choice, error) {
	choice, err := find(ctx, v, q)
	if err == nil || ancestors == nil || q.Revision.Commit == "" || !mayBeOfAncestor(err, q) {
		return choice, err
	}
	if q.Ancestors, err = ancestors(ctx); err != nil {
		return match.Choice{}, err
	}
	return find(ctx, v, q)
}

// mayBeOfAncestor says whether to know the commit's ancestors could change the answer.
func mayBeOfAncestor(err error, q match.Query) bool {
	absent, mismatch := (*match.AbsentError)(nil), (*match.MismatchError)(nil)
	return errors.As(err, &mismatch) || errors.As(err, &absent) && q.PointID == "" && q.Before == nil
}

func find(ctx context.Context, v *volume.Vault, q match.Query) (match.Choice, error) {
	records, err := candidates(ctx, v, q)
	if errors.Is(err, volume.ErrDamaged) {
		records, err = List(ctx, v) // which does not need the index, and fails if it is a record that is damaged
	}
	if err != nil {
		return match.Choice{}, err
	}
	return match.Choose(records, q)
}

// candidates returns the records that match.Choose needs to answer q.
func candidates(ctx context.Context, v *volume.Vault, q match.Query) ([]point.Record, error) {
	x, err := openIndex(ctx, v)
	if err != nil {
		return nil, fmt.Errorf("opening the index of restore points: %w", err)
	}
	if x == nil {
		return List(ctx, v)
	}
	var fits []point.Record
	switch {
	case q.PointID != "":
		fits, err = x.named(ctx, q)
	case q.Before != nil:
		fits, err = x.before(ctx, q)
	case q.Revision.Commit != "":
		fits, err = x.revised(ctx, q)
	}
	if err != nil || len(fits) > 0 {
		return fits, err
	}
	return x.near(ctx, q)
}

// named returns the point with the ID, or those whose IDs begin so.
func (x *index) named(ctx context.Context, q match.Query) ([]point.Record, error) {
	r, err := get(ctx, x.vault, q.PointID)
	if err == nil && (q.Application == "" || q.Application == r.Application) {
		return []point.Record{r}, nil
	}
	if err != nil && !errors.Is(err, ErrPointNotFound) {
		return nil, err
	}
	ids, err := x.ids(ctx, q.PointID, maxNamed+1, byID)
	if err != nil {
		return nil, err
	}
	if len(ids) > maxNamed {
		ids = ids[:maxNamed]
		slices.Sort(ids)
		return nil, &match.AmbiguousError{Wanted: q.String(), Points: ids, More: true}
	}
	return x.read(ctx, ids, q.Application)
}

// ids returns the last n IDs below a node that begin with prefix, the last first.
func (x *index) ids(ctx context.Context, prefix string, n int, way ...string) ([]string, error) {
	names, err := x.below(ctx, way...)
	if err != nil {
		return nil, err
	}
	isID := len(way) == idSteps-1
	var found []string
	for _, name := range slices.Backward(names) {
		switch {
		case len(found) >= n:
			return found, nil
		case isID && strings.HasPrefix(name, prefix):
			found = append(found, name)
		case !isID && (strings.HasPrefix(name, prefix) || strings.HasPrefix(prefix, name)):
			more, err := x.ids(ctx, prefix, n-len(found), append(slices.Clone(way), name)...)
			if err != nil {
				return nil, err
			}
			found = append(found, more...)
		}
	}
	return found, nil
}

// read returns the records with these IDs that exist and are of the application, or of any if that is empty.
func (x *index) read(ctx context.Context, ids []string, application string) ([]point.Record, error) {
	all := make([]*point.Record, len(ids))
	err := each(ctx, len(ids), func(ctx context.Context, i int) error {
		r, err := get(ctx, x.vault, ids[i])
		if errors.Is(err, ErrPointNotFound) {
			return nil
		}
		all[i] = &r
		return err
	})
	if err != nil {
		return nil, err
	}
	var records []point.Record
	for _, r := range all {
		if r != nil && (application == "" || r.Application == application) {
			records = append(records, *r)
		}
	}
	return records, nil
}

// before returns the newest points before the moment.
func (x *index) before(ctx context.Context, q match.Query) ([]point.Record, error) {
	o := order{before: stampOf(*q.Before)}
	if q.Revision.Repository != "" {
		return x.first(ctx, byRepository(q.Revision.Repository), placeOf(q.Revision.Repository, q.Revision.Path), q.Application, o, 1)
	}
	return x.ofApplication(ctx, q.Application, o, 1)
}

// revised returns the newest points of the commit, or else of its tree, or else of the nearest ancestor that has one.
func (x *index) revised(ctx context.Context, q match.Query) ([]point.Record, error) {
	if q.Revision.Repository == "" {
		places, err := x.below(ctx, byCommit(q.Revision.Commit))
		if err != nil {
			return nil, err
		}
		return x.inPlaces(ctx, byCommit(q.Revision.Commit), places, q.Application, order{}, 1)
	}
	place := placeOf(q.Revision.Repository, q.Revision.Path)
	found, err := x.first(ctx, byCommit(q.Revision.Commit), place, q.Application, order{}, 1)
	if err != nil || len(found) > 0 {
		return found, err
	}
	if q.Revision.Tree != "" {
		found, err = x.first(ctx, byTree(q.Revision.Tree), place, q.Application, order{}, 1)
		if err != nil || len(found) > 0 {
			return found, err
		}
	}
	for left := q.Ancestors; len(left) > 0; {
		batch := left[:min(4*parallel, len(left))]
		left = left[len(batch):]
		of := make([][]point.Record, len(batch))
		err := each(ctx, len(batch), func(ctx context.Context, i int) (err error) {
			of[i], err = x.first(ctx, byCommit(batch[i].Commit), place, q.Application, order{}, 1)
			return err
		})
		if err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(of, func(found []point.Record) bool { return len(found) > 0 }); i >= 0 {
			return of[i], nil
		}
	}
	return nil, nil
}

// first returns, for the application or for each if that is empty, the first n records below a place in some order.
func (x *index) first(ctx context.Context, root, place, application string, o order, n int) ([]point.Record, error) {
	applications, err := []string{application}, error(nil)
	if application == "" {
		applications, err = x.below(ctx, root, place)
	}
	if err != nil {
		return nil, err
	}
	of := make([][]point.Record, len(applications))
	err = each(ctx, len(applications), func(ctx context.Context, i int) (err error) {
		of[i], err = x.follow(ctx, []string{root, place, applications[i]}, o, n)
		return err
	})
	return slices.Concat(of...), err
}

// ofApplication returns the first n records of an application, at each place where it ever was.
func (x *index) ofApplication(ctx context.Context, application string, o order, n int) ([]point.Record, error) {
	if application == "" {
		return nil, nil
	}
	places, err := x.below(ctx, byApplication(application))
	if err != nil {
		return nil, err
	}
	return x.inPlaces(ctx, byApplication(application), places, application, o, n)
}

// inPlaces is first for several places.
func (x *index) inPlaces(ctx context.Context, root string, places []string, application string, o order, n int) ([]point.Record, error) {
	in := make([][]point.Record, len(places))
	err := each(ctx, len(places), func(ctx context.Context, i int) (err error) {
		in[i], err = x.first(ctx, root, places[i], application, o, n)
		return err
	})
	return slices.Concat(in...), err
}

// near returns points that come close to a query which none fits: from where else its commit was, from its directory and of its
// application, and if there are none from its repository, or any.
func (x *index) near(ctx context.Context, q match.Query) ([]point.Record, error) {
	o := order{}
	if q.Before != nil {
		o.from = stampOf(*q.Before)
	}
	var found []point.Record
	for _, look := range []struct {
		enough int
		at     func() ([]point.Record, error)
	}{
		{maxNear, func() ([]point.Record, error) {
			return x.elsewhere(ctx, byCommit(q.Revision.Commit), q.Revision.Commit, o)
		}},
		{maxNear, func() ([]point.Record, error) { return x.ofPlace(ctx, q, o) }},
		{maxNear, func() ([]point.Record, error) { return x.ofApplication(ctx, q.Application, o, maxNear) }},
		{1, func() ([]point.Record, error) {
			return x.elsewhere(ctx, byRepository(q.Revision.Repository), q.Revision.Repository, o)
		}},
		{1, func() ([]point.Record, error) { return x.latest(ctx) }},
	} {
		if len(found) >= look.enough {
			break
		}
		more, err := look.at()
		if err != nil {
			return nil, err
		}
		for _, r := range more {
			if !slices.ContainsFunc(found, func(f point.Record) bool { return f.ID == r.ID }) {
				found = append(found, r)
			}
		}
	}
	return found, nil
}

// ofPlace returns some records of the directory that is asked of, if one is.
func (x *index) ofPlace(ctx context.Context, q match.Query, o order) ([]point.Record, error) {
	if q.Revision.Repository == "" {
		return nil, nil
	}
	return x.first(ctx, byRepository(q.Revision.Repository), placeOf(q.Revision.Repository, q.Revision.Path), q.Application, o, maxNear)
}

// elsewhere returns a record from each of some places below a root, and none if nothing is asked.
func (x *index) elsewhere(ctx context.Context, root, asked string, o order) ([]point.Record, error) {
	if asked == "" {
		return nil, nil
	}
	places, err := x.below(ctx, root)
	if err != nil {
		return nil, err
	}
	return x.inPlaces(ctx, root, places[:min(maxNear, len(places))], "", o, 1)
}

// latest returns some of the last records of the whole vault: none only if it has none.
func (x *index) latest(ctx context.Context) ([]point.Record, error) {
	for n := maxNear; ; n *= 4 {
		ids, err := x.ids(ctx, "", n, byID)
		if err != nil {
			return nil, err
		}
		found, err := x.read(ctx, ids, "")
		if err != nil || len(found) > 0 || len(ids) < n {
			return found, err
		}
	}
}
