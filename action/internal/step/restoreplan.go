package step

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/lockstep-dr/lockstep/action/internal/github"
	"github.com/lockstep-dr/lockstep/pkg/coverage/report"
)

// answers are what the exit code of a dry run says of a restore.
var answers = map[int]struct{ restorable, sentence string }{
	0: {"yes", "A restore would do this:"},
	3: {"unknown", "It is **not known** whether this can be restored: the vault, Git or the cluster could not be asked."},
	4: {"no", "This can **not** be restored: everything was asked, and what it needs does not exist."},
	5: {"refused", "A restore would be **refused**, as it would overwrite something or bring back only a part:"},
}

// restorePlan tells, on the pull request or the release, what a restore of a tag would do.
func (j *Job) restorePlan(ctx context.Context) error {
	e, err := j.event()
	if err != nil {
		return err
	}
	tag := j.input("tag")
	if tag == "" && e.Release != nil {
		tag = e.Release.Tag
	}
	if tag == "" && j.Getenv("GITHUB_REF_TYPE") == "tag" {
		tag = j.Getenv("GITHUB_REF_NAME")
	}
	if tag == "" {
		return errors.New("the input \"tag\" is missing, and the event is of no tag or release")
	}
	access, err := j.access()
	if err != nil {
		return err
	}
	defer access.remove()
	args := []string{"restore", "--dry-run", "--tag=" + tag}
	for _, name := range []string{"vault", "repo", "path", "application", "key-file"} {
		if v := j.input(name); v != "" {
			args = append(args, "--"+name+"="+v)
		}
	}
	run, err := j.lockstep(ctx, "Plan of a restore of "+tag, access.env, append(args, access.flags(j.input("namespace"))...)...)
	if err != nil {
		return err
	}
	answer, ok := answers[run.code]
	if !ok {
		return fmt.Errorf("no plan could be made: %s", run.why())
	}
	text := "### Restore of " + report.Code(tag) + "\n\n" + answer.sentence + "\n"
	if plan := strings.TrimSpace(run.out.String()); plan != "" {
		text += "\n" + fenced(plan, github.MaxComment/2)
	}
	if run.code != 0 {
		text += "\n" + report.Code(run.why()) + "\n"
	}
	j.output("restorable", answer.restorable)
	j.action.AddStepSummary(text)
	if err := j.tell(ctx, "restore-plan", e, text); err != nil {
		return err
	}
	if run.code != 0 && j.input("required") == "true" {
		return fmt.Errorf("tag %s cannot be restored: %s", tag, run.why())
	}
	return nil
}

// fenced writes a text of several lines into Markdown as it is, within a limit of bytes. The fence is longer than any in the text.
func fenced(s string, limit int) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = printable(lines[i])
	}
	s = strings.Join(lines, "\n")
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "\n… the log of the job has the rest"
	}
	fence := "```"
	for strings.Contains(s, fence) {
		fence += "`"
	}
	return fence + "text\n" + s + "\n" + fence + "\n"
}
