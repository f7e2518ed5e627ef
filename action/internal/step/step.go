// Package step holds the steps of the GitHub Action, one file each. A step runs the lockstep program, as a person would in a
// shell, and tells the runner what came of it: outputs, annotations, the job's summary, a comment.
package step

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/sethvargo/go-githubactions"

	"github.com/lockstep-dr/lockstep/action/internal/github"
)

// Job is what a step gets from the world around it.
type Job struct {
	// Out is the job's log, in which the runner reads commands, too; Err is for the step that prints a token for a program.
	Out, Err io.Writer
	Getenv   func(string) string
	// Environ is the environment as os.Environ gives it, for lockstep.
	Environ func() []string
	Run     Runner
	HTTP    *http.Client
	// Wait waits before GitHub is asked again.
	Wait func(context.Context, time.Duration) error

	action *githubactions.Action
}

// Main runs the step that args name and returns its exit code: 0, or 1 for a step that fails the job.
func (j *Job) Main(ctx context.Context, args []string) (code int) {
	j.action = githubactions.New(githubactions.WithWriter(j.Out), githubactions.WithGetenv(j.Getenv), githubactions.WithHTTPClient(j.HTTP))
	// The library panics where one of the runner's files cannot be written.
	defer func() {
		if broken := recover(); broken != nil {
			code = 1
			fmt.Fprintf(j.Out, "::error::%s\n", printable(fmt.Sprint(broken)))
		}
	}()
	var err error
	switch strings.Join(args, " ") {
	case "check":
		err = j.check(ctx)
	case "backup":
		err = j.backup(ctx)
	case "restore-plan":
		err = j.restorePlan(ctx)
	case "token":
		if err := j.token(ctx); err != nil {
			fmt.Fprintf(j.Err, "%v\n", err)
			return 1
		}
	default:
		err = errors.New("usage: lockstep-action check | backup | restore-plan | token, with the inputs in INPUT_…")
	}
	if err != nil {
		j.action.Errorf("%s", printable(err.Error()))
		return 1
	}
	return 0
}

// input is one of the step: "fail-on" is in INPUT_FAIL_ON, as action.yml puts it there.
func (j *Job) input(name string) string { return j.action.GetInput(strings.ReplaceAll(name, "-", "_")) }

// required is an input without which a step cannot begin.
func (j *Job) required(name string) (string, error) {
	if v := j.input(name); v != "" {
		return v, nil
	}
	return "", fmt.Errorf("the input %q is missing", name)
}

// output sets one of the step. The runner reads them from a file with a fixed mark between them: a value of more than a line
// could forge others.
func (j *Job) output(name, value string) { j.action.SetOutput(name, printable(value)) }

// lockstep runs the program with its log inside a group, and gives what it printed. It fails only if the program could not be run.
func (j *Job) lockstep(ctx context.Context, title string, env []string, args ...string) (*ended, error) {
	e := &ended{}
	var err error
	j.group(title, func() {
		e.code, err = j.Run(ctx, Command{Args: args, Env: append(j.environment(), env...), Out: &e.out, Err: io.MultiWriter(j.Out, &e.log)})
	})
	if err != nil {
		return nil, fmt.Errorf("running lockstep: %w", err)
	}
	return e, nil
}

// group folds what write writes into the log. That may hold text of strangers: the runner takes no line of it for a command until the
// token comes, which nobody knows before.
func (j *Job) group(title string, write func()) {
	token := rand.Text()
	j.action.Group(printable(title))
	fmt.Fprintf(j.Out, "::stop-commands::%s\n", token)
	write()
	fmt.Fprintf(j.Out, "\n::%s::\n", token)
	j.action.EndGroup()
}

// environment is the job's without the inputs of the step: lockstep takes flags, and needs no token of GitHub's.
func (j *Job) environment() []string {
	var env []string
	for _, e := range j.Environ() {
		if !strings.HasPrefix(e, "INPUT_") && !strings.HasPrefix(e, "GITHUB_TOKEN=") {
			env = append(env, e)
		}
	}
	return env
}

// event is what of the event's payload matters here.
type event struct {
	Before      string `json:"before"`
	PullRequest *struct {
		Number int `json:"number"`
		Base   struct {
			SHA string `json:"sha"`
		} `json:"base"`
	} `json:"pull_request"`
	Release *struct {
		ID  int64  `json:"id"`
		Tag string `json:"tag_name"`
	} `json:"release"`
}

func (j *Job) event() (event, error) {
	var e event
	file := j.Getenv("GITHUB_EVENT_PATH")
	if file == "" {
		return e, nil
	}
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return e, nil
	}
	if err != nil {
		return e, fmt.Errorf("reading the event: %w", err)
	}
	if err := json.Unmarshal(data, &e); err != nil {
		return e, fmt.Errorf("reading the event: %w", err)
	}
	return e, nil
}

// tell leaves a text where people look for it: on the pull request, in the notes of the release, in neither if there is none, or if
// the token may not. The summary has it in any case.
func (j *Job) tell(ctx context.Context, key string, e event, text string) error {
	token := j.input("token")
	if token == "" || e.PullRequest == nil && e.Release == nil {
		return nil
	}
	j.action.AddMask(token)
	repository := j.Getenv("GITHUB_REPOSITORY")
	client := &github.Client{API: cmp.Or(j.Getenv("GITHUB_API_URL"), "https://api.github.com"), Token: token, HTTP: j.HTTP, Wait: j.Wait}
	var err error
	if e.PullRequest != nil {
		err = client.Comment(ctx, repository, e.PullRequest.Number, key, text)
	} else {
		err = client.ReleaseNotes(ctx, repository, e.Release.ID, key, text)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, github.ErrNotAllowed):
		j.action.Noticef("No comment was left: the token of this run may not write, as is the rule for pull requests from forks. The job's summary has it all.")
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	// Whether GitHub keeps a comment says nothing of the data.
	j.action.Warningf("%s", printable("No comment was left; the job's summary has it all. "+err.Error()))
	return nil
}

// scratch is a new directory for files that must not outlive the job.
func (j *Job) scratch() (string, error) {
	dir, err := os.MkdirTemp(j.Getenv("RUNNER_TEMP"), "lockstep-")
	if err != nil {
		return "", fmt.Errorf("making a directory: %w", err)
	}
	return filepath.Abs(dir)
}

// printable makes one line of a text.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}
