package step

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/coverage/report"
)

var fullCommit = regexp.MustCompile(`^[0-9a-f]{40}$`)

// backup makes a restore point of what runs, before what this job is about to deploy, and waits until the vault holds it. The job
// fails unless it does.
func (j *Job) backup(ctx context.Context) error {
	policy, err := j.required("policy")
	if err != nil {
		return err
	}
	access, err := j.access()
	if err != nil {
		return err
	}
	defer access.remove()
	before := cmp.Or(j.input("before"), j.Getenv("GITHUB_SHA"))
	if !fullCommit.MatchString(before) {
		return fmt.Errorf("the input \"before\" is no full commit: %q", before)
	}
	args := []string{"backup", "--before=" + before, "--timeout=" + cmp.Or(j.input("timeout"), "30m"), "--output=json"}
	args = append(args, access.flags(j.input("namespace"))...)
	run, err := j.lockstep(ctx, "Restore point of "+policy+" before "+before[:7], access.env, append(args, "--", policy)...)
	if err != nil {
		return err
	}
	if run.code != 0 {
		j.action.AddStepSummary("### Restore point of " + report.Code(policy) + "\n\nThere is none: " + report.Code(run.why()))
		return fmt.Errorf("there is no restore point before the deploy: %s", run.why())
	}
	var point v1alpha1.RestorePoint
	if err := json.Unmarshal(run.out.Bytes(), &point); err != nil {
		return fmt.Errorf("reading the RestorePoint that lockstep printed: %w", err)
	}
	made, err := madeOf(&point)
	if err != nil {
		return err
	}
	for _, o := range made {
		j.output(o.name, o.value)
	}
	j.action.AddStepSummary(made.markdown(policy))
	return nil
}

// output is one of a step, and how a reader sees it.
type output struct{ name, title, value string }

type outputs []output

// madeOf are the outputs of a point, which must be complete.
func madeOf(point *v1alpha1.RestorePoint) (outputs, error) {
	s := point.Status
	if s.Revision == nil || s.StartedAt == nil || s.CompletedAt == nil || len(s.Copies) == 0 || s.ID == "" {
		return nil, fmt.Errorf("lockstep ended well, but the RestorePoint %q is not complete", point.Name)
	}
	var bytes int64
	for _, v := range s.Volumes {
		bytes += v.Bytes
	}
	return outputs{
		{"name", "RestorePoint", point.Name},
		{"namespace", "Namespace", point.Namespace},
		{"id", "Record in the vault", s.ID},
		{"commit", "Commit that was running", s.Revision.Commit},
		{"before", "Commit about to be deployed", point.Spec.Before},
		{"vault", "Vault", s.Copies[0].Vault},
		{"volumes", "Volumes", strconv.Itoa(len(s.Volumes))},
		{"bytes", "Bytes", strconv.FormatInt(bytes, 10)},
		{"duration", "Seconds", strconv.Itoa(int(s.CompletedAt.Sub(s.StartedAt.Time).Round(time.Second) / time.Second))},
	}, nil
}

func (o outputs) markdown(policy string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "### Restore point of %s\n\n| | |\n| --- | --- |\n", report.Code(policy))
	for _, row := range o {
		fmt.Fprintf(&b, "| %s | %s |\n", row.title, report.Code(row.value))
	}
	return b.String()
}
