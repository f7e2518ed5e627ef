package backup

import (
	"context"
	_ "embed" // the watchdog
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/controller/internal/podexec"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/spelling"
)

// Executor runs a command in a container, as podexec.Executor does.
type Executor interface {
	Run(ctx context.Context, t podexec.Target, argv ...string) (podexec.Result, error)
}

// quiesceScript runs in the application's container, by its own shell.
//
//go:embed quiesce.sh
var quiesceScript string

// Answers of the script.
const (
	answerFrozen  = "frozen"
	answerBegun   = "begun"   // a controller that died had begun this before
	answerStruck  = "struck"  // the watchdog did
	answerThawed  = "thawed"  // post has succeeded, and it was held until then
	answerNever   = "never"   // it was never held
	answerNowhere = "nowhere" // no directory to keep a mark in
)

// quiesceTargets finds every container that the policy wants held still.
func (r *Reconciler) quiesceTargets(ctx context.Context, pol *v1alpha1.ProtectionPolicy) ([]v1alpha1.Quiesced, error) {
	if len(pol.Spec.Quiesce) == 0 {
		return nil, nil
	}
	pods, err := r.podsOf(ctx, pol.Namespace)
	if err != nil {
		return nil, err
	}
	var out []v1alpha1.Quiesced
	for i, hook := range pol.Spec.Quiesce {
		found, err := targets(i, hook, pods)
		if err != nil {
			return nil, fmt.Errorf("policy %q: %w", pol.Name, err)
		}
		out = append(out, found...)
	}
	return out, nil
}

func (r *Reconciler) podsOf(ctx context.Context, namespace string) ([]corev1.Pod, error) {
	var pods corev1.PodList
	if err := r.Reader.List(ctx, &pods, client.InNamespace(namespace)); err != nil {
		return nil, fmt.Errorf("listing pods: %w", err)
	}
	return pods.Items, nil
}

// freeze runs the pre hooks, each in all its containers at once. That post is due then is in the status already.
func (r *Reconciler) freeze(ctx context.Context, p *v1alpha1.RestorePoint) (ctrl.Result, error) {
	for _, hook := range byHook(p.Status.Quiesce) {
		err := together(len(hook), func(n int) error { return r.freezeOne(ctx, p, hook[n]) })
		switch {
		case ctx.Err() != nil:
			return ctrl.Result{}, ctx.Err() // this controller ends; the next one finds what is begun
		case errors.Is(err, errBegun):
			return r.progress(p, "holding the application still anew: a controller died meanwhile", atOnce)
		case err != nil:
			return r.fail(p, v1alpha1.ReasonQuiesceFailed, err.Error())
		}
	}
	return r.progress(p, "taking snapshots", atOnce)
}

// errBegun says that a controller died after it had begun to hold a container, which is undone now.
var errBegun = errors.New("was begun before")

func (r *Reconciler) freezeOne(ctx context.Context, p *v1alpha1.RestorePoint, i int) error {
	q := &p.Status.Quiesce[i]
	if q.FrozenAt != nil {
		return nil
	}
	if now, err := r.containerNow(ctx, p, q); err != nil {
		return err
	} else if now != containerSame {
		return fmt.Errorf("%s was restarted before it was held still", nameOf(q))
	}
	ctx, cancel := context.WithTimeout(ctx, q.Timeout.Duration+execGrace)
	defer cancel()
	started := metav1.NewMicroTime(r.Clock.Now())
	seconds := strconv.Itoa(int(math.Ceil(q.Timeout.Seconds())))
	answer, err := r.ask(ctx, p, q, "freeze", tokenOf(p, i), seconds, quote(q.Pre), quote(q.Post))
	switch {
	case err != nil:
		return fmt.Errorf("the pre hook in %s: %w", nameOf(q), err)
	case answer == answerFrozen:
		now := metav1.NewMicroTime(r.Clock.Now())
		q.StartedAt, q.FrozenAt = &started, &now
		return nil
	case answer == answerBegun:
		if answer, err = r.ask(ctx, p, q, "thaw", tokenOf(p, i), quote(q.Post)); err != nil {
			return fmt.Errorf("the post hook in %s: %w", nameOf(q), err)
		} else if answer != answerThawed && answer != answerStruck {
			return fmt.Errorf("the post hook in %s %s", nameOf(q), answer)
		}
		q.Attempt++
		return errBegun
	case answer == answerStruck:
		return fmt.Errorf("the pre hook in %s was not done within %s", nameOf(q), spelling.Duration(q.Timeout.Duration))
	case answer == answerNowhere:
		return fmt.Errorf("in %s neither /dev/shm nor /tmp nor /run can be written to, which the watchdog needs", nameOf(q))
	}
	return fmt.Errorf("the pre hook in %s %s", nameOf(q), answer)
}

// thaw runs all post hooks that are due, the last hook first. What was not held to the end is lost; while an error is returned something
// may still be held, and thaw is to be called again.
func (r *Reconciler) thaw(ctx context.Context, p *v1alpha1.RestorePoint) (lost string, err error) {
	hooks := byHook(p.Status.Quiesce)
	slices.Reverse(hooks)
	var failed error
	for _, hook := range hooks {
		failed = join(failed, together(len(hook), func(n int) error {
			i := hook[n]
			q := &p.Status.Quiesce[i]
			if !q.PostHookDue {
				return nil
			}
			err := r.thawOne(ctx, p, i)
			if err != nil {
				q.Message = err.Error()
			}
			return err
		}))
	}
	var messages []string
	for i := range p.Status.Quiesce {
		if q := &p.Status.Quiesce[i]; !q.PostHookDue && q.Message != "" {
			messages = append(messages, q.Message)
		}
	}
	return strings.Join(messages, "; "), failed
}

// thawOne runs one post hook. Afterwards the message says why the container was not held to the end, if it was not.
func (r *Reconciler) thawOne(ctx context.Context, p *v1alpha1.RestorePoint, i int) error {
	q := &p.Status.Quiesce[i]
	now, err := r.containerNow(ctx, p, q)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, q.Timeout.Duration+execGrace)
	defer cancel()
	var answer string
	switch now {
	case containerGone:
		q.PostHookDue, q.Message = false, nameOf(q)+" was deleted while it was held still"
		return nil
	case containerDown:
		return fmt.Errorf("%s does not run: its post hook is due", nameOf(q))
	case containerOther:
		// The watchdog ended with the old container. What was held may outlive it, so that post runs; that it fails where nothing is held is no
		// news.
		if _, err := r.Exec.Run(ctx, targetOf(p, q), q.Post...); err != nil {
			return fmt.Errorf("the post hook in %s: %w", nameOf(q), err)
		}
		q.PostHookDue, q.Message = false, nameOf(q)+" was restarted while it was held still"
		return nil
	case containerSame:
		if answer, err = r.ask(ctx, p, q, "thaw", tokenOf(p, i), quote(q.Post)); err != nil {
			return fmt.Errorf("the post hook in %s: %w", nameOf(q), err)
		}
	}
	switch answer {
	case answerThawed, answerStruck, answerNever:
		q.PostHookDue, q.Message = false, ""
	default:
		return fmt.Errorf("the post hook in %s %s", nameOf(q), answer)
	}
	if q.FrozenAt != nil {
		at := metav1.NewMicroTime(r.Clock.Now())
		q.ThawedAt = &at
		switch answer {
		case answerStruck:
			q.Message = fmt.Sprintf("%s was let go by its watchdog after %s, before the snapshots were known to be taken", nameOf(q), spelling.Duration(q.Timeout.Duration))
		case answerNever:
			q.Message = nameOf(q) + " has lost the watchdog's mark: nobody knows until when it was held still"
		}
	}
	return nil
}

// unquiesce runs the post hooks when all snapshots are cut. Whether the application was held until then is known only afterwards.
func (r *Reconciler) unquiesce(ctx context.Context, p *v1alpha1.RestorePoint) (ctrl.Result, error) {
	lost, err := r.thaw(ctx, p)
	switch {
	case ctx.Err() != nil:
		return ctrl.Result{}, ctx.Err()
	case err != nil:
		return r.fail(p, v1alpha1.ReasonUnquiesceFailed, err.Error())
	case lost != "":
		return r.fail(p, v1alpha1.ReasonQuiesceFailed, lost)
	}
	return r.progress(p, "snapshots are taken", atOnce)
}

// release runs the post hooks that a point which ended still owes, until they succeed.
func (r *Reconciler) release(ctx context.Context, p *v1alpha1.RestorePoint) (done bool) {
	if !due(p) {
		return true
	}
	before := messagesOf(p)
	if _, err := r.thaw(ctx, p); err != nil && !slices.Equal(before, messagesOf(p)) && ctx.Err() == nil {
		r.Events.Event(p, corev1.EventTypeWarning, v1alpha1.ReasonUnquiesceFailed, err.Error())
	}
	return !due(p)
}

func messagesOf(p *v1alpha1.RestorePoint) (out []string) {
	for i := range p.Status.Quiesce {
		out = append(out, p.Status.Quiesce[i].Message)
	}
	return out
}

func due(p *v1alpha1.RestorePoint) bool {
	return slices.ContainsFunc(p.Status.Quiesce, func(q v1alpha1.Quiesced) bool { return q.PostHookDue })
}

// containerState is what became of a container that a point found running.
type containerState int

const (
	containerSame  containerState = iota
	containerOther                // restarted
	containerDown                 // does not run now
	containerGone                 // with its pod
)

func (r *Reconciler) containerNow(ctx context.Context, p *v1alpha1.RestorePoint, q *v1alpha1.Quiesced) (containerState, error) {
	pod, err := get(ctx, r.Reader, &corev1.Pod{}, p.Namespace, q.Pod)
	switch {
	case err != nil:
		return containerSame, err
	case pod == nil || string(pod.UID) != q.UID || over(pod):
		return containerGone, nil
	}
	for _, s := range pod.Status.ContainerStatuses {
		if s.Name == q.Container && s.State.Running != nil {
			if s.ContainerID == q.ContainerID {
				return containerSame, nil
			}
			return containerOther, nil
		}
	}
	return containerDown, nil
}

// execGrace is how long a command's answer may take beyond its own time.
const execGrace = 10 * time.Second

// ask has the script do something in a container; the answer is the script's word.
func (r *Reconciler) ask(ctx context.Context, p *v1alpha1.RestorePoint, q *v1alpha1.Quiesced, args ...string) (string, error) {
	result, err := r.Exec.Run(ctx, targetOf(p, q), append([]string{"sh", "-c", quiesceScript, "lockstep"}, args...)...)
	answer := strings.TrimSpace(result.Stdout)
	code, failed := strings.CutPrefix(answer, "failed ")
	switch {
	case answer == "" && (result.Code == 126 || result.Code == 127) || err != nil && strings.Contains(err.Error(), "executable file not found"):
		return "", errors.New("the container has no sh, which the watchdog needs")
	case err != nil:
		return "", err
	case failed:
		return strings.TrimSuffix("ended with "+code+": "+lastLine(result.Stderr), ": "), nil
	case answer == "":
		return "", fmt.Errorf("its shell ended with %d: %s", result.Code, lastLine(result.Stderr))
	}
	return answer, nil
}

// lastLine is where programs say what went wrong; it is cut to what a condition has room for.
func lastLine(s string) string {
	s = strings.TrimSpace(s)
	s = s[strings.LastIndexByte(s, '\n')+1:]
	return strings.ToValidUTF8(s[:min(len(s), 200)], "")
}

func targetOf(p *v1alpha1.RestorePoint, q *v1alpha1.Quiesced) podexec.Target {
	return podexec.Target{Namespace: p.Namespace, Pod: q.Pod, Container: q.Container}
}

// tokenOf names one attempt to hold one container.
func tokenOf(p *v1alpha1.RestorePoint, i int) string {
	return fmt.Sprintf("%s-%d-%d", p.UID, i, p.Status.Quiesce[i].Attempt)
}

// quote makes one line for a shell of a program and its arguments.
func quote(argv []string) string {
	words := make([]string, len(argv))
	for i, a := range argv {
		words[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
	}
	return strings.Join(words, " ")
}

// byHook are the positions of the containers of each hook, in the hooks' order.
func byHook(all []v1alpha1.Quiesced) [][]int {
	var out [][]int
	for i := range all {
		if i == 0 || all[i].Hook != all[i-1].Hook {
			out = append(out, nil)
		}
		out[len(out)-1] = append(out[len(out)-1], i)
	}
	return out
}

// together does the same with each of several things at once.
func together(n int, do func(int) error) error {
	errs := make([]error, n)
	var wait sync.WaitGroup
	for i := range n {
		wait.Go(func() { errs[i] = do(i) })
	}
	wait.Wait()
	return join(errs...)
}

// join is errors.Join on one line.
func join(errs ...error) (out error) {
	for _, err := range errs {
		switch {
		case out == nil:
			out = err
		case err != nil:
			out = fmt.Errorf("%w; %w", out, err)
		}
	}
	return out
}
