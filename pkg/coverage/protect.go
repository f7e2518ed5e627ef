package coverage

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/desired"
	"github.com/lockstep-dr/lockstep/pkg/schedule"
	"github.com/lockstep-dr/lockstep/pkg/spelling"
)

// protection is what is known of the protection of one volume.
type protection struct {
	answer   Answer
	why      string
	policies []*policy
	// idle are those that select it and save nothing.
	idle []*policy
}

// protection asks every policy of the volume's namespace, by the rules by which the controller saves.
func (v *view) protection(w *volume) protection {
	p, known := v.protections[w]
	if !known {
		p = v.protect(w.claim, w.Owner, true)
		v.protections[w] = p
	}
	return p
}

// unreadBeside says of a policy beside what an owner deploys that it cannot be read; empty if there is none.
func (v *view) unreadBeside(namespace, owner string) string {
	for _, o := range v.unread[namespace] {
		if v.together(o.Owner, owner) {
			return "the policy " + o.GetName() + " cannot be read: " + unreadable(o)
		}
	}
	return ""
}

// protect asks the policies beside what an owner deploys about a claim, of which the labels need not be known.
func (v *view) protect(claim *corev1.PersistentVolumeClaim, owner string, labelled bool) protection {
	p := protection{answer: Unprotected, why: "no policy is in the namespace"}
	if unread := v.unreadBeside(claim.Namespace, owner); unread != "" {
		p.answer, p.why = Unknown, unread
	}
	var refuses *policy
	for _, candidate := range v.policiesBeside(claim.Namespace, owner) {
		switch withheld := v.withheld(candidate, owner); {
		case candidate.invalid != nil:
			p.answer, p.why = Unknown, fmt.Sprintf("the policy %s cannot mean what it says: %v", candidate.GetName(), candidate.invalid)
		case !labelled && candidate.Spec.Volumes.Selector != nil:
			p.idle = append(p.idle, candidate)
			p.answer, p.why = Unknown, "the policy "+candidate.GetName()+" selects by labels, and Git does not show those of the claim"
		case candidate.open && candidate.Owner != owner:
			p.answer, p.why = Unknown, "the selector of the policy "+candidate.GetName()+" has variables whose values are not in the repository"
		case !candidate.selector.Takes(claim):
			refuses = candidate
		case suspended(candidate.Spec):
			p.idle = append(p.idle, candidate)
			p.why = "the policy " + candidate.GetName() + ", which selects it, is suspended"
		case withheld != "":
			p.idle = append(p.idle, candidate)
			p.answer, p.why = Unknown, "the policy "+candidate.GetName()+" selects it, and "+withheld
		default:
			p.policies = append(p.policies, candidate)
		}
	}
	if refuses != nil && p.answer == Unprotected && len(p.idle) == 0 {
		p.why = "the policy " + refuses.GetName() + " does not select it: " + refuses.selector.Judge(*claim).Why
	}
	if reason, excluded := claim.Annotations[v1alpha1.AnnotationExclude]; excluded {
		if strings.TrimSpace(reason) == "" {
			return protection{answer: Unprotected, why: "the annotation " + v1alpha1.AnnotationExclude + " leaves it out and gives no reason", idle: p.idle}
		}
		return protection{answer: Excluded, why: reason}
	}
	if len(p.policies) > 0 {
		return protection{answer: Protected, policies: p.policies}
	}
	if p.answer == Unprotected && slices.ContainsFunc(slices.Collect(maps.Values(claim.Labels)), open) {
		p.answer, p.why = Unknown, p.why+"; its labels have variables whose values are not in the repository"
	}
	if gaps := v.unseen(claim.Namespace, owner); len(gaps) > 0 && p.answer == Unprotected {
		p.answer, p.why = Unknown, p.why+", as far as was rendered; not rendered: "+words(gaps)
	}
	return p
}

// suspended says that a policy was told to make no points by itself.
func suspended(spec v1alpha1.ProtectionPolicySpec) bool { return spec.Suspend && !onDeploy(spec) }

// onDeploy says that each deploy makes a point.
func onDeploy(spec v1alpha1.ProtectionPolicySpec) bool {
	return spec.OnDeploy.Before() || spec.OnDeploy.After()
}

// automatic says that points are made without anybody asking for them.
func automatic(spec v1alpha1.ProtectionPolicySpec) bool {
	return spec.Schedule != "" && !spec.Suspend || onDeploy(spec)
}

// withheld says why a policy need not be in the cluster, though a commit has it, for what the owner deploys; empty if it is.
func (v *view) withheld(p *policy, owner string) string {
	for _, a := range [][2]string{{"kustomize.toolkit.fluxcd.io/reconcile", "disabled"}, {"kustomize.toolkit.fluxcd.io/ssa", "Ignore"}} {
		if strings.EqualFold(p.GetAnnotations()[a[0]], a[1]) {
			return "Flux does not apply it, as its annotation " + a[0] + " says"
		}
	}
	if p.GetAnnotations()["argocd.argoproj.io/hook"] != "" {
		return "it is a hook of Argo CD, which need not stay"
	}
	if by := v.suspendedBy(p.Owner); by != "" && v.suspendedBy(owner) == "" {
		return by + ", which deploys it, is suspended"
	}
	return ""
}

// suspendedBy is the owner by which nothing of what another one deploys is brought for now; empty if it is.
func (v *view) suspendedBy(owner string) string {
	for range len(v.owners) {
		o := v.owners[owner]
		if o == nil || o.Suspended {
			break
		}
		owner = o.Parent
	}
	if o := v.owners[owner]; o != nil {
		return o.ID
	}
	return ""
}

// eachPolicy are the policies that can be read, in the order of their namespaces and names.
func (v *view) eachPolicy() []*policy {
	var out []*policy
	for _, namespace := range slices.Sorted(maps.Keys(v.policies)) {
		out = append(out, v.policies[namespace]...)
	}
	return out
}

// policiesBeside are those of a namespace that may be in one cluster with what the owner deploys.
func (v *view) policiesBeside(namespace, owner string) []*policy {
	key := [2]string{namespace, owner}
	found, known := v.beside[key]
	if !known {
		for _, p := range v.policies[namespace] {
			if v.together(p.Owner, owner) {
				found = append(found, p)
			}
		}
		v.beside[key] = found
	}
	return found
}

// best is the policy with the shortest RPO; nil if there is none.
func (p protection) best() *policy {
	var best *policy
	var rpo time.Duration
	for _, candidate := range p.policies {
		if r := candidate.interval; best == nil || r > 0 && (rpo == 0 || r < rpo) {
			best, rpo = candidate, r
		}
	}
	return best
}

// every is how often a policy runs by itself.
type every struct {
	// interval is the longest time between two runs; 0 if it does not run.
	interval time.Duration
	// err says that the schedule is none.
	err error
}

func (v *view) runs(spec v1alpha1.ProtectionPolicySpec) every {
	if spec.Schedule == "" || spec.Suspend {
		return every{}
	}
	key := [2]string{spec.Schedule, spec.TimeZone}
	e, known := v.schedules[key]
	if !known {
		e.interval, e.err = interval(spec)
		v.schedules[key] = e
	}
	return e
}

func interval(spec v1alpha1.ProtectionPolicySpec) (time.Duration, error) {
	s, err := schedule.Parse(schedule.Options{Cron: spec.Schedule, Zone: spec.TimeZone, Jitter: new(time.Duration)})
	if err != nil {
		return 0, err
	}
	// A week tells of days, and a dozen runs of months. The clocks do not change then, so that the answer is the same all year.
	const runs, span = 13, 8 * 24 * time.Hour
	at := time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)
	end := at.Add(span)
	at = s.Next(schedule.State{Now: at, Last: at}).Begins
	var longest time.Duration
	for i := 0; !at.IsZero() && (i < runs || at.Before(end)); i++ {
		next := s.Next(schedule.State{Now: at, Last: at}).Begins
		longest = max(longest, next.Sub(at))
		at = next
	}
	return longest, nil
}

// rows are the coverage table of head.
func (s *scope) rows() []Row {
	rows := []Row{}
	for _, w := range s.head.volumes {
		rows = append(rows, s.row(w))
	}
	for _, f := range s.head.foreigners() {
		p := s.head.foreignProtection(f)
		if p.answer == Protected && slices.ContainsFunc(s.head.skipped, func(o *desired.Owner) bool { return s.head.mayHold(o, f.GetNamespace(), f.Owner) }) {
			continue // it may be brought by what is the same in both commits, which nobody needs to know
		}
		rows = append(rows, s.describe(Row{Application: f.Owner, Namespace: f.GetNamespace(), Volume: f.claim, Answer: p.answer, Why: p.why, Origin: f.Origin,
			OnRequest: p.answer == Protected && !running(p)}, p.best()))
	}
	for _, d := range s.head.operated {
		answer, why, best := s.head.operatedProtection(d)
		row := Row{Application: d.Owner, Namespace: d.GetNamespace(), Volume: d.volumes(),
			Answer: answer, Why: why, Origin: d.Origin, OnRequest: answer == Protected && !automatic(best.Spec)}
		rows = append(rows, s.describe(row, best))
	}
	return rows
}

func (s *scope) row(w *volume) Row {
	p := s.head.protection(w)
	return s.describe(Row{Application: w.Owner, Namespace: w.claim.Namespace, Volume: w.name(), Size: w.size(), Answer: p.answer, Why: p.why, Origin: w.Origin, OnRequest: p.answer == Protected && !running(p)}, p.best())
}

// describe fills in what follows from the policy and the owner.
func (s *scope) describe(row Row, p *policy) Row {
	row.Vaults, row.Replayable = []string{}, s.replayable(row.Application).Answer
	if p == nil {
		return row
	}
	row.Policy, row.Vaults = p.GetName(), append(row.Vaults, p.Spec.Vaults...)
	if p.interval > 0 {
		row.RPO = spelling.Duration(p.interval)
	}
	if o := p.Spec.Objectives; o != nil && o.RPO != nil {
		row.PromisedRPO = spelling.Duration(o.RPO.Duration)
	}
	for i, f := range s.Facts.Points {
		if f.of(p) && (row.Point == nil || row.Point.Found != "found" && f.Found == "found") {
			row.Point = &s.Facts.Points[i]
		}
	}
	return row
}
