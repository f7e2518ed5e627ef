package step

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/lockstep-dr/lockstep/action/internal/github"
	"github.com/lockstep-dr/lockstep/pkg/coverage"
	"github.com/lockstep-dr/lockstep/pkg/coverage/report"
)

// mergeRef is what a job of a pull request checks out: the change merged into the branch that it is for.
var mergeRef = regexp.MustCompile(`^refs/pull/\d+/merge$`)

// check tells what the change would do to data: annotations at the lines, everything in the job's summary, one comment, and a
// file for code scanning. The job fails on a finding as bad as the input says, and if it cannot be checked.
func (j *Job) check(ctx context.Context) error {
	e, err := j.event()
	if err != nil {
		return err
	}
	failOn := coverage.Severity(cmp.Or(j.input("fail-on"), string(coverage.Error)))
	args := []string{"check", "--format=json", "--fail-on=" + string(failOn)}
	if base := j.base(e); base != "" {
		args = append(args, "--base="+base)
	}
	for _, name := range []string{"config", "baseline"} {
		if v := j.input(name); v != "" {
			args = append(args, "--"+name+"="+v)
		}
	}
	run, err := j.lockstep(ctx, "lockstep check", nil, append(args, "--", cmp.Or(j.input("path"), "."))...)
	if err != nil {
		return err
	}
	d := &report.Document{}
	unread := json.Unmarshal(run.out.Bytes(), d)
	reported := unread == nil && d.Unchecked // a report of nothing says what was not rendered
	if run.code != 0 && run.code != 1 && !reported {
		j.action.AddStepSummary("## ❌ Could not be checked\n\n" + report.Code(run.why()))
		return fmt.Errorf("could not check: %s", run.why())
	}
	if unread != nil {
		return fmt.Errorf("reading the report that lockstep printed: %w", unread)
	}
	o := report.Options{FailOn: failOn, Blob: j.blob(d)}
	if err := j.show(d, o); err != nil {
		return err
	}
	for _, s := range []coverage.Severity{coverage.Error, coverage.Warning, coverage.Note} {
		j.output(string(s)+"s", strconv.Itoa(d.Count(s)))
	}
	j.output("replayable", string(d.Replayable.Answer))
	if err := j.sarif(d, o); err != nil {
		return err
	}
	if j.input("comment") != "false" && e.PullRequest != nil {
		text, err := formatted(report.Markdown, d, withLimit(o, github.MaxComment))
		if err != nil {
			return err
		}
		// Two checks of one repository, as of two directories, have a comment each.
		if err := j.tell(ctx, "check-"+key(cmp.Or(j.input("path"), ".")), e, text); err != nil {
			return err
		}
	}
	if d.Fails(failOn) {
		return errors.New("the check found what the input \"fail-on\" does not let pass")
	}
	if d.Unchecked {
		return fmt.Errorf("could not check: %s", run.why())
	}
	return nil
}

// base is what the commit is compared with: that before the change, for a pull request.
func (j *Job) base(e event) string {
	switch input := j.input("base"); {
	case input != "":
		return input
	case e.PullRequest == nil:
		return ""
	case mergeRef.MatchString(j.Getenv("GITHUB_REF")):
		return "HEAD^1" // the event's may be older than what was merged into
	}
	return e.PullRequest.Base.SHA
}

// blob is where GitHub shows the files of the commit.
func (j *Job) blob(d *report.Document) string {
	server, repository := j.Getenv("GITHUB_SERVER_URL"), j.Getenv("GITHUB_REPOSITORY")
	if server == "" || repository == "" || d.Head == "" {
		return ""
	}
	return server + "/" + repository + "/blob/" + d.Head
}

// show writes the report into the log, as annotations, and into the job's summary.
func (j *Job) show(d *report.Document, o report.Options) error {
	text, err := formatted(report.Text, d, o)
	if err != nil {
		return err
	}
	j.group("Report", func() { _, err = io.WriteString(j.Out, text) })
	if err != nil {
		return err
	}
	if err := report.Write(j.Out, report.GitHub, d, o); err != nil {
		return err
	}
	summary, err := formatted(report.Markdown, d, withLimit(o, report.MaxSummary))
	if err != nil {
		return err
	}
	j.action.AddStepSummary(summary)
	return nil
}

// sarif writes the file for code scanning, if one is asked for.
func (j *Job) sarif(d *report.Document, o report.Options) error {
	file := j.input("sarif-file")
	if file == "" {
		return nil
	}
	text, err := formatted(report.SARIF, d, o)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("writing the SARIF file: %w", err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return fmt.Errorf("writing the SARIF file: %w", err)
	}
	j.output("sarif-file", file)
	return nil
}

func withLimit(o report.Options, bytes int) report.Options {
	o.Limit = bytes
	return o
}

func formatted(f report.Format, d *report.Document, o report.Options) (string, error) {
	var out bytes.Buffer
	err := report.Write(&out, f, d, o)
	return out.String(), err
}

// key makes a part of a comment's marker of a path.
func key(path string) string {
	return strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' {
			return r
		}
		return '-'
	}, path)
}
