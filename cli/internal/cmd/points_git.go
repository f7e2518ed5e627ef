package cmd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/revision"
)

// gitLog is what "points --git" prints.
type gitLog struct {
	Repository string      `json:"repository"`
	Commits    []gitCommit `json:"commits"`
	// More says that there are older commits.
	More bool `json:"more"`
	// Elsewhere are the points of commits that are not shown.
	Elsewhere []gitPoint `json:"elsewhere"`
}

type gitCommit struct {
	Commit  string     `json:"commit"`
	Time    time.Time  `json:"time"`
	Subject string     `json:"subject"`
	Tags    []string   `json:"tags"`
	Points  []gitPoint `json:"points"`
}

type gitPoint struct {
	ID          string           `json:"id"`
	Application string           `json:"application"`
	Commit      string           `json:"commit"`
	Path        string           `json:"path"`
	Taken       time.Time        `json:"taken"`
	Trigger     v1alpha1.Trigger `json:"trigger"`
	Volumes     int              `json:"volumes"`
	Bytes       int64            `json:"bytes"`
	// Hold is why somebody holds the point; empty if nobody does.
	Hold string `json:"hold,omitempty"`
}

// pointsGit shows the commits of a repository with their points.
func (p *Program) pointsGit(ctx context.Context, o pointsOptions) error {
	if o.limit < 1 {
		return fault.New(fault.Usage, "", "--max-count must be at least 1")
	}
	v, err := p.openVault(ctx, o.vault)
	if err != nil {
		return err
	}
	records, err := catalog.List(ctx, v.Vault)
	if err != nil {
		return vault.Explain(err)
	}
	holds, err := catalog.Holds(ctx, v.Vault, p.Now())
	if err != nil {
		return vault.Explain(err)
	}
	location := o.repository
	o.repository = "" // which points are its own is known when it is open: it may be a work tree
	records = slices.DeleteFunc(records, func(r point.Record) bool { return !o.selects(r) })
	if location == "" {
		if location, err = onlyRepository(records); err != nil {
			return err
		}
	}
	log, err := p.readLog(ctx, location, o)
	if err != nil {
		return err
	}
	records = slices.DeleteFunc(records, func(r point.Record) bool { return !revision.SameRepository(log.Repository, r.Revision.Repository) })
	slices.SortFunc(records, func(a, b point.Record) int { return cmp.Or(b.Taken.Compare(a.Taken), cmp.Compare(b.ID, a.ID)) })
	log.place(records, holds)
	return o.format.Print(p.Out, log, func(w io.Writer) error { return log.write(w, p.Now()) })
}

func onlyRepository(records []point.Record) (string, error) {
	var all []string
	for _, r := range records {
		if !slices.ContainsFunc(all, func(url string) bool { return revision.SameRepository(url, r.Revision.Repository) }) {
			all = append(all, r.Revision.Repository)
		}
	}
	switch len(all) {
	case 1:
		return all[0], nil
	case 0:
		return "", fault.New(fault.Absent, "Name a repository with --repo.", "the vault has no such point, so that nothing says which repository is meant")
	}
	slices.Sort(all)
	return "", fault.New(fault.Usage, "Name one with --repo.", "the points are of %d repositories: %s", len(all), strings.Join(all, ", "))
}

func (p *Program) readLog(ctx context.Context, location string, o pointsOptions) (_ *gitLog, err error) {
	s := source{repository: location, secret: o.gitSecret}
	repository, err := p.openRepository(ctx, s)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, repository.Close()) }()
	commits, more, err := repository.Log(ctx, git.Ref{Branch: o.branch}, o.limit)
	if err != nil {
		return nil, answerError(err)
	}
	log := &gitLog{Repository: repository.URL(), More: more, Commits: make([]gitCommit, len(commits)), Elsewhere: []gitPoint{}}
	for i, c := range commits {
		log.Commits[i] = gitCommit{Commit: c.Hash, Time: c.Time.UTC(), Subject: c.Subject, Tags: append([]string{}, c.Tags...), Points: []gitPoint{}}
	}
	return log, nil
}

// place puts the points under their commits.
func (l *gitLog) place(records []point.Record, holds map[string]catalog.Hold) {
	at := map[string]int{}
	for i, c := range l.Commits {
		at[c.Commit] = i
	}
	for _, r := range records {
		shown := gitPoint{
			ID: r.ID, Application: r.Application, Commit: r.Revision.Commit, Path: r.Revision.Path, Taken: r.Taken, Trigger: r.Trigger,
			Volumes: len(r.Volumes), Bytes: recordBytes(r),
		}
		if h, ok := holds[r.ID]; ok {
			shown.Hold = h.String()
		}
		if i, ok := at[r.Revision.Commit]; ok {
			l.Commits[i].Points = append(l.Commits[i].Points, shown)
		} else {
			l.Elsewhere = append(l.Elsewhere, shown)
		}
	}
}

func (l *gitLog) write(w io.Writer, now time.Time) error {
	for _, c := range l.Commits {
		tags := ""
		if len(c.Tags) > 0 {
			tags = " (" + strings.Join(c.Tags, ", ") + ")"
		}
		if _, err := fmt.Fprintf(w, "%s  %s  %s%s\n", short(c.Commit), c.Time.Format(time.DateOnly), output.Printable(c.Subject), output.Printable(tags)); err != nil {
			return err
		}
		rows := make([][]string, len(c.Points))
		for i, at := range c.Points {
			held := ""
			if at.Hold != "" {
				held = "held: " + output.Printable(at.Hold)
			}
			rows[i] = []string{"         * " + at.ID, output.Ago(now, at.Taken), at.Application, string(at.Trigger),
				output.Count(at.Volumes, "volume", "volumes"), output.Bytes(at.Bytes), held}
		}
		if err := output.Rows(w, nil, rows); err != nil {
			return err
		}
	}
	if len(l.Elsewhere) == 0 {
		return nil
	}
	where := "of commits that this branch does not lead to"
	if l.More {
		where = "of older commits, or of commits that this branch does not lead to: show more with --max-count, or list all with lockstep points"
	}
	_, err := fmt.Fprintf(w, "\n%s %s\n", output.Count(len(l.Elsewhere), "point is", "points are"), where)
	return err
}
