package gate

import (
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fluxcd/pkg/runtime/conditions"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops/flux"
	"github.com/lockstep-dr/lockstep/pkg/revision"
	"github.com/lockstep-dr/lockstep/pkg/spelling"
)

const (
	// firstRetry is how long after a failed point another is asked for; each next wait is twice as long, up to mostRetry.
	firstRetry = time.Minute
	mostRetry  = 15 * time.Minute
)

// protection is a policy of what a Kustomization deploys, with its points.
type protection struct {
	policy *v1alpha1.ProtectionPolicy
	points []v1alpha1.RestorePoint
}

// request is a point to ask for.
type request struct {
	policy  *v1alpha1.ProtectionPolicy
	name    string
	trigger v1alpha1.Trigger
	before  string
}

// verdict is what is to be done about a Kustomization.
type verdict struct {
	// approve lets Flux deploy what comes, why says on what ground; withdraw takes an approval away that nobody needs any more.
	approve, withdraw bool
	reason, why       string
	// ask are the points to ask for before the deploy.
	ask []request
	// waiting says why the deploy waits; nil if none does.
	waiting *flux.Waiting
	// after is when to look again, zero for when something changes.
	after time.Duration
}

// decide says whether what comes may be deployed. What was approved and has not begun may not any more when something else comes, for
// the point before that is of what ran before both.
func decide(g flux.Gate, found []protection, now time.Time) verdict {
	v := judge(g, found, now)
	v.withdraw = v.withdraw || g.Incoming != "" && g.Approved != "" && g.Approved != g.Incoming && g.Approved != g.Attempted
	return v
}

func judge(g flux.Gate, found []protection, now time.Time) verdict {
	switch {
	case !g.Required || g.Suspended && !g.Restored:
		// An approval that is kept until somebody closes the gate again, or resumes, would then speak of data that has changed since.
		return verdict{withdraw: g.Approved != "" && (!g.Required || g.Approved != g.Attempted)}
	case !g.Closed() && g.Unnamed == "":
		return verdict{}
	case g.Restored:
		return approved(v1alpha1.ReasonApproved, "a restore deploys it, with the data of its point")
	case g.Mistake != "":
		return held(g, now, v1alpha1.ReasonInvalidAnnotation, g.Mistake)
	case g.Unnamed != "":
		return held(g, now, v1alpha1.ReasonNoCommit, g.Unnamed+": a point could not say before which commit it was taken; remove the annotations of the gate")
	case g.Applied == "":
		return approved(v1alpha1.ReasonApproved, "nothing was deployed before, so that there is nothing to save")
	}
	return await(g, protecting(found), now)
}

// protecting are the policies that ask for a point before a deploy; if none does, all: the Kustomization asks for it.
func protecting(found []protection) []protection {
	asking := slices.DeleteFunc(slices.Clone(found), func(p protection) bool { return !p.policy.Spec.OnDeploy.Before() })
	if len(asking) > 0 {
		return asking
	}
	return found
}

// await waits for a point of each policy.
func await(g flux.Gate, found []protection, now time.Time) verdict {
	if len(found) == 0 {
		return late(g, held(g, now, v1alpha1.ReasonNoPolicy, "no ProtectionPolicy is among what it deploys, so that nothing says what to save: "+
			"add one, or remove the annotations of the gate"), now)
	}
	if g.Mixed && savedBefore(g, found) {
		return approved(v1alpha1.ReasonApproved, fmt.Sprintf("the deploy of %s has not ended, so that what runs is of no one commit; the point before it is the way back",
			short(g.Attempted)))
	}
	v := verdict{waiting: waiting(g, now, v1alpha1.ReasonTakingPoint, "")}
	var ready []string
	var failed string
	for _, p := range found {
		s := standingOf(g, p, now)
		name := p.policy.Namespace + "/" + s.name
		v.waiting.Points = append(v.waiting.Points, name)
		switch {
		case s.ready:
			ready = append(ready, name)
		case s.ask:
			v.ask = append(v.ask, request{p.policy, s.name, v1alpha1.TriggerPreDeploy, g.Commit})
		}
		if s.failure != "" && failed == "" {
			failed = s.failure
		}
		if s.again > 0 && (v.after == 0 || s.again < v.after) {
			v.after = s.again
		}
	}
	points := strings.Join(v.waiting.Points, ", ")
	switch {
	case len(ready) == len(found):
		return approved(v1alpha1.ReasonApproved, fmt.Sprintf("restore point %s is complete", points))
	case failed != "" && g.Allow:
		return approved(v1alpha1.ReasonApprovedWithoutPoint, failed+"; "+allows)
	case failed != "":
		v.waiting.Reason, v.waiting.Message = v1alpha1.ReasonBackupFailed, failed
	default:
		v.waiting.Message = fmt.Sprintf("restore point %s of revision %s is being taken", points, short(g.Applied))
	}
	return late(g, v, now)
}

// savedBefore says that each policy has a point from before the deploy that has not ended. That is the newest of those that were taken before
// a deploy, if it was before this one; or if this one was to mend another that had not ended either, for which the gate let it in
// without a point of its own.
func savedBefore(g flux.Gate, found []protection) bool {
	_, attempted, err := revision.Parse(g.Attempted)
	if err != nil {
		return false
	}
	return !slices.ContainsFunc(found, func(p protection) bool {
		last := lastBefore(p)
		return last == nil || last.Spec.Before != attempted && (g.Allow || g.Approved != g.Attempted)
	})
}

// lastBefore is the newest good point of a policy that was taken before a deploy; nil if there is none, or a newer one tells of a deploy that had
// no such point.
func lastBefore(p protection) *v1alpha1.RestorePoint {
	var last, newest *v1alpha1.RestorePoint
	for i := range p.points {
		point := &p.points[i]
		if point.Spec.PolicyRef.Name != p.policy.Name || !conditions.IsReady(point) || point.Status.Taken == nil || point.Status.Revision == nil {
			continue
		}
		if newest == nil || newest.Status.Taken.Before(point.Status.Taken) {
			newest = point
		}
		if point.Spec.Before != "" && (last == nil || last.Status.Taken.Before(point.Status.Taken)) {
			last = point
		}
	}
	if last != nil && newest.Status.Revision.Commit != last.Status.Revision.Commit {
		return nil
	}
	return last
}

const allows = "the annotation " + v1alpha1.AnnotationOnBackupFailure + " allows the deploy without it"

// late says so when a deploy has waited for as long as it may.
func late(g flux.Gate, v verdict, now time.Time) verdict {
	deadline := g.Since(now).Add(g.Timeout)
	switch {
	case now.Before(deadline):
		if left := deadline.Sub(now); v.after == 0 || left < v.after {
			v.after = left
		}
	case g.Allow:
		return approved(v1alpha1.ReasonApprovedWithoutPoint, fmt.Sprintf("it was not there within %s: %s; %s", spelling.Duration(g.Timeout), v.waiting.Message, allows))
	case v.waiting.Reason == v1alpha1.ReasonTakingPoint:
		v.waiting.Reason = v1alpha1.ReasonTimedOut
		v.waiting.Message = fmt.Sprintf("not within %s: %s; the deploy goes on by itself when it is complete", spelling.Duration(g.Timeout), v.waiting.Message)
	case v.waiting.Reason == v1alpha1.ReasonBackupFailed && len(v.ask) == 0:
		v.waiting.Message += "; it is not tried again by itself: delete the failed point to try again, or remove the annotations of the gate to deploy without"
	}
	return v
}

// standing is how a policy's point fares.
type standing struct {
	name       string
	ready, ask bool
	failure    string
	again      time.Duration
}

// standingOf finds the newest point that was asked for before this deploy. Names follow from what the world says: the policy, the
// commit that comes, and the moment from when on it waits, so that a controller that dies finds its points again.
func standingOf(g flux.Gate, p protection, now time.Time) standing {
	first := fmt.Sprintf("%s-before-%s-%s", p.policy.Name, short12(g.Commit), g.Since(now).UTC().Format("20060102150405"))
	name := func(attempt int) string {
		if attempt == 1 {
			return first
		}
		return fmt.Sprintf("%s-%d", first, attempt)
	}
	var failed *v1alpha1.RestorePoint
	attempt := 1
	for i := range p.points {
		point := &p.points[i]
		n := attemptOf(point.Name, first)
		switch {
		case n == 0 || point.Spec.PolicyRef.Name != p.policy.Name || point.DeletionTimestamp != nil:
			continue
		case conditions.IsReady(point):
			return standing{name: point.Name, ready: true}
		case !conditions.IsStalled(point):
			return standing{name: point.Name}
		}
		if n >= attempt {
			attempt, failed = n+1, point
		}
	}
	if failed == nil {
		return standing{name: name(1), ask: true}
	}
	s := standing{name: failed.Name, failure: fmt.Sprintf("restore point %s/%s has failed: %s", failed.Namespace, failed.Name,
		conditions.GetMessage(failed, v1alpha1.ConditionReady))}
	due := failedAt(failed).Add(min(firstRetry<<min(attempt-2, 10), mostRetry))
	switch {
	case due.After(g.Since(now).Add(g.Timeout)): // it would come too late
	case now.Before(due):
		s.again = due.Sub(now)
	default:
		s.name, s.ask = name(attempt), true
	}
	return s
}

// attemptOf reads from the name which attempt a point is; 0 if it is none of them.
func attemptOf(name, first string) int {
	if name == first {
		return 1
	}
	var n int
	if rest, ok := strings.CutPrefix(name, first+"-"); ok {
		if _, err := fmt.Sscanf(rest, "%d", &n); err == nil && fmt.Sprint(n) == rest && n > 1 {
			return n
		}
	}
	return 0
}

func failedAt(p *v1alpha1.RestorePoint) time.Time {
	if c := conditions.Get(p, v1alpha1.ConditionStalled); c != nil {
		return c.LastTransitionTime.Time
	}
	return p.CreationTimestamp.Time
}

func approved(reason, why string) verdict { return verdict{approve: true, reason: reason, why: why} }

func held(g flux.Gate, now time.Time, reason, message string) verdict {
	return verdict{waiting: waiting(g, now, reason, message)}
}

func waiting(g flux.Gate, now time.Time, reason, message string) *flux.Waiting {
	return &flux.Waiting{From: g.Applied, To: g.Incoming, Since: metav1.NewTime(g.Since(now)), Reason: reason, Message: message}
}

// after says whether a point is due because a deploy has changed what is running, and what to remember of it.
func after(g flux.Gate, p *v1alpha1.ProtectionPolicy) (*request, *v1alpha1.Deploy) {
	_, commit, err := revision.Parse(g.Applied)
	if err != nil || !p.Spec.OnDeploy.After() || g.Attempted != g.Applied {
		return nil, nil
	}
	last, now := p.Status.LastDeploy, &v1alpha1.Deploy{Revision: g.Applied, Digest: g.Digest, Number: 1}
	if last != nil {
		now.Number += last.Number
	}
	switch {
	case last != nil && last.Revision == g.Applied:
		return nil, nil
	case last != nil && g.Digest != "" && last.Digest == g.Digest:
		return nil, now // another commit, and not one object is another
	}
	return &request{policy: p, name: fmt.Sprintf("%s-after-%s-%d", p.Name, short12(commit), now.Number), trigger: v1alpha1.TriggerPostDeploy}, now
}

func short(text string) string {
	if ref, commit, err := revision.Parse(text); err == nil {
		return strings.TrimPrefix(ref+"@"+revision.Short(commit), "@")
	}
	return text
}

func short12(commit string) string { return commit[:min(12, len(commit))] }
