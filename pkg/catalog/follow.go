package catalog

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/lockstep-dr/lockstep/pkg/point"
)

// follow returns up to n records whose names are below a way, in the order of their data. A name without a record, or with one
// that says something else, is of a point that was never finished.
func (x *index) follow(ctx context.Context, way []string, o order, n int) ([]point.Record, error) {
	months, err := x.ordered(ctx, o, month, way...)
	var found []point.Record
	for i := 0; i < len(months) && err == nil && len(found) < n; i++ {
		var days []string
		days, err = x.ordered(ctx, o, day, append(slices.Clone(way), months[i])...)
		for j := 0; j < len(days) && err == nil && len(found) < n; j++ {
			var more []point.Record
			more, err = x.ofDay(ctx, append(slices.Clone(way), months[i], days[j]), o, n-len(found))
			found = append(found, more...)
		}
	}
	return found, err
}

// ofDay is follow for a single day.
func (x *index) ofDay(ctx context.Context, way []string, o order, n int) ([]point.Record, error) {
	moments, err := x.ordered(ctx, o, len(stamp), way...)
	if err != nil {
		return nil, err
	}
	var found []point.Record
	// The first is most probably there; what comes after it is asked for more and more at a time.
	for size := n; len(moments) > 0 && len(found) < n; size *= 2 {
		batch := moments[:min(size, len(moments))]
		moments = moments[len(batch):]
		records := make([]*point.Record, len(batch))
		err := each(ctx, len(batch), func(ctx context.Context, i int) error {
			var err error
			records[i], err = x.record(ctx, append(slices.Clone(way), batch[i]))
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, r := range records {
			if r != nil && len(found) < n {
				found = append(found, *r)
			}
		}
	}
	return found, nil
}

// record returns the record at the end of a way, or nil if there is none that is to be found there.
func (x *index) record(ctx context.Context, way []string) (*point.Record, error) {
	_, id, _ := strings.Cut(way[len(way)-1], " ") // the moment has no space
	r, err := get(ctx, x.vault, id)
	if errors.Is(err, ErrPointNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(ways(r), func(w []string) bool { return slices.Equal(w, way) }) {
		return nil, nil
	}
	return &r, nil
}

// order says which records come first: the newest before a moment, or the oldest from a moment on. The zero value is the
// newest of all.
type order struct {
	before, from string
}

// ordered returns the names below a node that o may want, in its order. Of each name the first bytes count.
func (x *index) ordered(ctx context.Context, o order, bytes int, way ...string) ([]string, error) {
	names, err := x.below(ctx, way...)
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(n string) bool {
		at := head(n, bytes)
		switch {
		case o.from != "":
			return at < head(o.from, bytes)
		case o.before != "" && bytes == len(stamp):
			return at >= o.before
		case o.before != "":
			return at > head(o.before, bytes)
		}
		return false
	})
	if o.from == "" {
		slices.Reverse(names)
	}
	return names, nil
}
