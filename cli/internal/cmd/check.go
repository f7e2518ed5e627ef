package cmd

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/kube"
	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/checker"
	"github.com/lockstep-dr/lockstep/pkg/coverage"
	"github.com/lockstep-dr/lockstep/pkg/coverage/report"
	"github.com/lockstep-dr/lockstep/pkg/git"
)

type checkOptions struct {
	head, base       string
	baseSet          bool
	format, file     string
	failOn           string
	config, baseline string
	write            bool
	explain          string
	live             bool
	vault            vault.Flags
	timeout          time.Duration
	memory           resource.QuantityValue
}

func (o *checkOptions) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.base, "base", "", "commit, branch or tag that the change is for: findings about what would become of data (default: the target of the pull or merge request, in CI; else none)")
	f.StringVar(&o.head, "head", "", "commit to judge (default: the files of the work tree, committed or not; HEAD of a bare repository)")
	f.StringVar(&o.format, "format", string(report.Text), "how to write the report: "+strings.Join(values(report.Formats), ", "))
	f.StringVar(&o.file, "output", "", "file to write the report into (default: standard output)")
	f.StringVar(&o.failOn, "fail-on", string(coverage.Error), "the least severity that fails the check: "+strings.Join(values(severities), ", "))
	f.StringVar(&o.config, "config", "", "configuration (default: "+coverage.ConfigName+" in the directory, if it is there)")
	f.StringVar(&o.baseline, "baseline", "", "findings that are known already (default: "+checker.BaselineName+" in the directory, if it is there)")
	f.BoolVar(&o.write, "write-baseline", false, "write what is found now into the baseline, and fail on nothing")
	f.StringVar(&o.explain, "explain", "", "explain a rule, as LS103, with an example and how to mend it, and check nothing")
	f.BoolVar(&o.live, "live", false, "ask the cluster, too: claims that no policy protects, points that are too old, data that nothing uses")
	o.memory.Quantity = *resource.NewQuantity(checker.DefaultMemory, resource.BinarySI)
	f.DurationVar(&o.timeout, "timeout", checker.DefaultTime, "how long the check may take before it gives up")
	f.Var(&o.memory, "memory", "how much memory the check may hold before it gives up")
	o.vault.AddFlags(f, false)
	f.Lookup("vault").Usage = "ask this vault, too, from which points the commit could be restored today: its URL, or the name of a Vault in the cluster"
	cmd.MarkFlagsMutuallyExclusive("write-baseline", "head")
	cmd.MarkFlagsMutuallyExclusive("write-baseline", "base") // it would know only what was judged
	complete := func(flag string, known []string) {
		// The error says that the flag does not exist, and it was added above.
		_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(known, cobra.ShellCompDirectiveNoFileComp))
	}
	complete("format", values(report.Formats))
	complete("fail-on", values(severities))
	var rules []string
	for _, r := range coverage.Rules() {
		rules = append(rules, r.ID+"\t"+r.Summary)
	}
	complete("explain", rules)
}

var severities = []coverage.Severity{coverage.Error, coverage.Warning, coverage.Note, coverage.Off}

func values[T ~string](all []T) []string {
	out := make([]string, len(all))
	for i, v := range all {
		out[i] = string(v)
	}
	return out
}

func (p *Program) checkCommand() *cobra.Command {
	var o checkOptions
	cmd := &cobra.Command{
		Use:   "check [PATH]",
		Short: "Find what a repository does not protect, and what a change would do to data",
		Long: `Find what a Git repository deploys and does not protect, what a change would do to data, and whether the commit could be
replayed. No cluster is needed, nothing of the repository is run, and nothing is changed.

PATH is a directory of a work tree, which is judged as it lies, with what is not committed, or a bare repository, of which HEAD
is. Nothing outside of PATH is read. Without PATH it is the whole work tree around the current directory.

With --base the commit is compared with the one from which it has left the base, as a pull request is. Then only what the change
brings fails the check; what was there before is counted.

The exit code is 0 if nothing was found that is as bad as --fail-on says, 1 if something was, and 2 if it could not be checked: also where nothing of the repository can be rendered.`,
		Example: `  lockstep check
  lockstep check --base origin/main
  lockstep check --format sarif --output lockstep.sarif
  lockstep check --write-baseline      # fail only on what is new from now on
  lockstep check --explain LS103`,
		Args:   cobra.MaximumNArgs(1),
		PreRun: func(cmd *cobra.Command, _ []string) { o.baseSet = cmd.Flags().Changed("base") },
		RunE: runs(func(ctx context.Context, args []string) error {
			if o.explain != "" {
				return p.explain(o.explain)
			}
			return p.check(ctx, strings.Join(args, ""), o)
		}),
	}
	o.addFlags(cmd)
	return cmd
}

func (p *Program) explain(name string) error {
	rule, ok := coverage.FindRule(name)
	if !ok {
		var all []string
		for _, r := range coverage.Rules() {
			all = append(all, r.ID)
		}
		return fault.New(fault.Usage, "There are: "+strings.Join(all, ", "), "there is no rule %q", name)
	}
	_, err := fmt.Fprintln(p.Out, strings.TrimRight(rule.Page(), "\n"))
	return err
}

func (p *Program) check(ctx context.Context, path string, o checkOptions) error {
	format, failOn := report.Format(o.format), coverage.Severity(o.failOn)
	if !slices.Contains(report.Formats, format) {
		return fault.New(fault.Usage, "", "--format must be one of %s", strings.Join(values(report.Formats), ", "))
	}
	if !slices.Contains(severities, failOn) {
		return fault.New(fault.Usage, "", "--fail-on must be one of %s", strings.Join(values(severities), ", "))
	}
	if !o.baseSet && o.head == "" && !o.write {
		if o.base = baseOfRequest(p.Getenv); o.base != "" {
			p.note("comparing with %s, as the job is of a request to merge into it", o.base)
		}
	}
	request := checker.Request{Path: path, Head: o.head, Base: o.base, Branch: branchOfJob(p.Getenv), Config: o.config, Baseline: o.baseline, Anew: o.write, Now: p.Now(),
		Limits: checker.Limits{Time: o.timeout, Memory: o.memory.Value()}}
	if o.timeout <= 0 || o.memory.Sign() <= 0 {
		return fault.New(fault.Usage, "", "--timeout and --memory must be more than nothing")
	}
	if o.live {
		var err error
		if request.Live, err = p.live(ctx); err != nil {
			return couldNotCheck(ctx, kube.Explain(err))
		}
	}
	if o.vault.Vault != "" {
		request.Points = p.pointsFor(o.vault)
	}
	if p.Getenv("GOGC") == "" {
		// The process ends soon: most checks end before there is garbage that is worth looking for.
		defer debug.SetGCPercent(debug.SetGCPercent(-1))
		defer debug.SetMemoryLimit(debug.SetMemoryLimit(min(checkMemory, request.Limits.Memory/4)))
	}
	result, err := checker.Check(ctx, request)
	if err != nil {
		return couldNotCheck(ctx, err)
	}
	d := result.Document
	if o.write {
		if d.Unchecked {
			return unchecked()
		}
		return p.writeBaseline(result)
	}
	var out bytes.Buffer
	if err := report.Write(&out, format, d, report.Options{FailOn: failOn, Colour: p.Colour && o.file == "", Version: p.Version}); err != nil {
		return couldNotCheck(ctx, err)
	}
	if o.file == "" {
		_, err = out.WriteTo(p.Out)
	} else {
		err = os.WriteFile(o.file, out.Bytes(), 0o644)
	}
	if err != nil {
		return couldNotCheck(ctx, fmt.Errorf("writing the report: %w", err))
	}
	if d.Fails(failOn) {
		hint := "Explain a rule: lockstep check --explain " + d.Findings[0].Rule
		if d.Base == "" && result.Baseline != "" && !slices.ContainsFunc(d.Suppressed, func(s coverage.Silenced) bool { return s.By == coverage.ByBaseline }) {
			hint += "; to fail only on what is new from now on: lockstep check --write-baseline"
		}
		return fault.New(fault.Failed, hint, "the check found what --fail-on=%s does not let pass", failOn)
	}
	if d.Unchecked {
		return unchecked()
	}
	return nil
}

// unchecked is the error of a repository of which the report can say no more than what was not rendered.
func unchecked() error {
	return fault.New(fault.Usage, "The report says why. What plugins make, or charts from elsewhere, can be checked where a job has written it, and a repository inside of this one by its directory: lockstep check PATH. "+
		"Or ask the cluster, too: lockstep check --live", "nothing of the repository could be rendered, so that it is not known whether its data is protected")
}

// checkMemory is how many bytes Go may have before it looks for garbage.
const checkMemory = 768 << 20

func (p *Program) writeBaseline(r *checker.Result) error {
	if r.Baseline == "" {
		return fault.New(fault.Usage, "Name a file with --baseline.", "a bare repository has no place for a baseline")
	}
	known := coverage.NewBaseline(r.Document.Report)
	if err := os.WriteFile(r.Baseline, known.Bytes(), 0o644); err != nil {
		return fault.New(fault.Usage, "", "writing the baseline: %w", err)
	}
	shown := r.Baseline
	if here, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(here, shown); err == nil && filepath.IsLocal(rel) {
			shown = rel
		}
	}
	_, err := fmt.Fprintf(p.Out, "%s: %s\n", output.Path(shown), output.Count(len(known.Findings), "finding", "findings"))
	return err
}

// couldNotCheck is an error after which nothing is known of the repository.
func couldNotCheck(ctx context.Context, err error) error {
	hint := ""
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, new(*checker.LimitError)):
		hint = "If the repository is as large as that, and you trust it, give the check more: --timeout, --memory"
	case errors.Is(err, checker.ErrNothing):
		hint = "Name the directory of the manifests: lockstep check PATH."
	case errors.Is(err, checker.ErrNoCommits):
		hint = "Without --base, --head and --vault a directory is judged as it lies, in a Git repository or not."
	case errors.Is(err, git.ErrRefNotFound), errors.Is(err, git.ErrUnreachable):
		hint = "Name a commit, branch or tag that was fetched; in CI fetch the whole history, as with fetch-depth: 0 of actions/checkout, or GIT_DEPTH: 0 of GitLab."
	}
	return &fault.Error{Code: fault.Usage, Err: err, Hint: cmp.Or(hint, fault.HintOf(err))}
}

// baseOfRequest is the commit or branch that a pull or merge request is for, where the program runs in a job of one.
func baseOfRequest(getenv func(string) string) string {
	if branch := getenv("GITHUB_BASE_REF"); branch != "" && getenv("GITHUB_ACTIONS") == "true" {
		return "origin/" + branch
	}
	if commit := getenv("CI_MERGE_REQUEST_DIFF_BASE_SHA"); commit != "" && getenv("GITLAB_CI") == "true" {
		return commit
	}
	return ""
}

// branchOfJob is the branch that a pull or merge request is for, else the one that was pushed, where the program runs in a job and what the
// job is of need not be checked out as a branch.
func branchOfJob(getenv func(string) string) string {
	switch {
	case getenv("GITHUB_ACTIONS") == "true" && getenv("GITHUB_REF_TYPE") == "branch":
		return cmp.Or(getenv("GITHUB_BASE_REF"), getenv("GITHUB_REF_NAME"))
	case getenv("GITLAB_CI") == "true":
		return cmp.Or(getenv("CI_MERGE_REQUEST_TARGET_BRANCH_NAME"), getenv("CI_COMMIT_BRANCH"))
	}
	return ""
}
