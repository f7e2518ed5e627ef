package coverage

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/lockstep-dr/lockstep/pkg/desired"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// These rules compare two commits by what happens to data.

const saveFirst = "take a restore point first, and "

func claimPruned(s *scope) {
	s.fated("keep the claim in Git, or annotate it so that it is kept (kustomize.toolkit.fluxcd.io/prune: disabled, " +
		"argocd.argoproj.io/sync-options: Prune=false, helm.sh/resource-policy: keep) in a commit before this one; if the data may go, say so with " + AnnotationIgnore)
	for _, d := range s.base.operated {
		s.operatedPruned(d)
	}
	for _, id := range slices.Sorted(maps.Keys(s.base.owners)) {
		if s.head.owners[id] == nil {
			s.unseenPruned(s.base.owners[id])
		}
	}
}

// unseenPruned finds that an owner goes of which it is not known what it has deployed, as a release of a chart from elsewhere.
func (s *scope) unseenPruned(o *desired.Owner) {
	unseen := slices.IndexFunc(s.base.gaps, func(g desired.Gap) bool { return g.Owner == o.ID && hides(o, g) })
	if unseen < 0 || o.Object == nil {
		return
	}
	e := s.ownerGone(o)
	if e.effect != Deleted && e.effect != MayBeDeleted {
		return
	}
	if !strings.HasPrefix(e.why, o.ID) {
		e.why = o.ID + " is gone: " + e.why
	}
	s.add(Finding{
		Object: reference(o.Object), Owner: o.ID, Origin: o.Origin, Gone: true, Severity: Warning,
		Message: "what it has deployed is not known, and may be deleted with its data: " + e.why,
		Fix:     "look in the cluster which claims it has (lockstep check --live) and save those that count; if there are none, or the data may go, say so with " + AnnotationIgnore,
	})
	s.impact = append(s.impact, Impact{Rule: s.rule.ID, Namespace: cmp.Or(target(o), o.Namespace), Volume: "volumes that " + o.ID + " may have", InWords: true, Effect: MayBeDeleted, Why: e.why, Protected: Unknown})
}

// operatedPruned finds what goes of which an operator makes volumes: most delete them with it, and Git does not show whether this one does.
func (s *scope) operatedPruned(d operated) {
	e := s.endOfNamespace(d.GetNamespace(), d.Owner)
	if e.effect == "" {
		e = s.end(d.Object)
		if e.effect == Deleted {
			e.effect = MayBeDeleted
		}
	}
	if e.effect != Deleted && e.effect != MayBeDeleted {
		return
	}
	done := "are deleted"
	if e.effect == MayBeDeleted {
		done = "may be deleted"
	}
	found := s.find(d.Object, fmt.Sprintf("the %s %s: %s", d.volumes(), done, e.why), "keep it in Git, or annotate it so that it is kept, in a commit before this one; if the data may go, say so with "+AnnotationIgnore)
	found.Severity, found.Gone = cmp.Or(e.severity, found.Severity), true
	if d.perhaps {
		found.Severity = Warning
	}
	answer, _, _ := s.base.operatedProtection(d)
	s.impact = append(s.impact, Impact{Rule: s.rule.ID, Namespace: d.GetNamespace(), Volume: d.volumes(), InWords: true, Effect: e.effect, Why: e.why, Protected: answer})
}

func claimRenamed(s *scope) {
	s.fated("keep the old name; or " + saveFirst + "restore the data into the new claim before the old one goes: lockstep restore --volume OLD=NEW")
}

func setRenamed(s *scope) {
	s.fated("keep the names of the set and its template; or " + saveFirst + "restore the data into the new claims: lockstep restore --volume OLD=NEW")
}

func namespaceChanged(s *scope) {
	s.fated("keep the namespace; or " + saveFirst + "restore into the new one: lockstep restore --map-namespace OLD=NEW")
}

func ownerRenamed(s *scope) {
	s.fated("first set prune: false on the old owner (deletionPolicy: Orphan, or no finalizer on an Application) and let that be deployed, then rename it")
}

// fated finds the fates that are cases of the current rule, and notes what becomes of the data.
func (s *scope) fated(fix string) {
	for _, f := range s.fates {
		if f.rule != s.rule.ID {
			continue
		}
		where, gone := f.before.Object, true
		message := f.before.sized() + " is deleted: " + f.why
		switch f.effect {
		case MayBeDeleted:
			message = f.before.sized() + " may be deleted: " + f.why
		case LeftBehind:
			message = f.before.sized() + " is left behind: " + f.why
		}
		if f.heir != nil {
			where, gone = f.heir.Object, false
			message = fmt.Sprintf("%s takes the place of %s and begins empty; %s", f.heir.full(), f.before.sized(), message)
		} else if f.after != nil {
			where, gone = f.after.Object, false
		}
		found := s.find(where, message, fix)
		found.Severity, found.Gone, found.detail = cmp.Or(f.severity, found.Severity), gone, f.before.id()
		s.affect(f)
	}
}

// affect notes the impact of a fate.
func (s *scope) affect(f fate) {
	if f.effect != "" {
		s.impact = append(s.impact, Impact{Rule: f.rule, Namespace: f.before.claim.Namespace, Volume: f.before.name(), Size: f.before.size(),
			Effect: f.effect, Why: f.why, Protected: s.base.protection(f.before).answer})
	}
}

// forsaken notes the impact of fates that no rule finds anything wrong with.
func (s *scope) forsaken() {
	for _, f := range s.fates {
		if f.rule == "" {
			s.affect(f)
		}
	}
}

// immutableChange finds changes that the API server refuses; where the owner forces them, it deletes and makes anew.
func immutableChange(s *scope) {
	for _, f := range s.fates {
		if f.after == nil {
			continue
		}
		changes, unsure := immutable(f.before, f.after)
		if len(changes) == 0 || f.effect != "" || s.forced(f.after) != "" {
			continue
		}
		what := "the claim " + f.after.full()
		fix := "make a new claim and move the data to it: " + saveFirst + "restore with lockstep restore --volume OLD=NEW"
		if f.after.set != nil {
			what = fmt.Sprintf("the template %s of StatefulSet %s/%s", f.after.template, f.after.set.Namespace, f.after.set.Name)
			fix = "a set's templates never change: change the claims themselves where that is possible, then delete the set with --cascade=orphan and deploy it anew"
		}
		found := s.find(f.after.Object, fmt.Sprintf("%s changes %s; the API server refuses that, and nothing of %s is deployed any more", what, strings.Join(changes, ", "),
			cmp.Or(f.after.Owner, "the commit")), fix)
		found.detail = f.after.id()
		if unsure {
			found.Severity = Warning
		}
	}
	for _, b := range s.base.sets {
		s.removedTemplates(b)
	}
}

// removedTemplates is for sets that gain or lose templates; one that has a new name is a case of LS103.
func (s *scope) removedTemplates(b *set) {
	o := s.same(b.Object)
	if o == nil {
		return
	}
	now := s.head.setOf[o]
	if now == nil {
		return
	}
	names := func(x *set) []string {
		var out []string
		for _, t := range x.Spec.VolumeClaimTemplates {
			out = append(out, t.Name)
		}
		slices.Sort(out)
		return out
	}
	before, after := names(b), names(now)
	if slices.Equal(before, after) || len(before) > 0 && len(before) == len(after) || s.forced(&volume{Object: o}) != "" {
		return
	}
	found := s.find(o, fmt.Sprintf("StatefulSet %s/%s had the claim templates %q and now has %q; the API server refuses that", b.Namespace, b.Name, before, after),
		"delete the set with --cascade=orphan and deploy it anew: its claims stay")
	found.detail = "templates"
}

// immutable names what differs and cannot be changed. Unsure says that the API server refuses it only if the default StorageClass is
// another one.
func immutable(a, b *volume) (changes []string, unsure bool) {
	before, after := a.claim.Spec, b.claim.Spec
	if x, y := class(before), class(after); x != y {
		changes = append(changes, fmt.Sprintf("its StorageClass from %s to %s", cmp.Or(x, "the default"), cmp.Or(y, "the default")))
		unsure = x == "" && before.StorageClassName == nil
	}
	differ := func(name string, x, y any) {
		if !equality.Semantic.DeepEqual(x, y) {
			changes, unsure = append(changes, name), false
		}
	}
	modes := func(s corev1.PersistentVolumeClaimSpec) []string {
		var out []string
		for _, m := range s.AccessModes {
			out = append(out, string(m))
		}
		slices.Sort(out)
		return out
	}
	mode := func(s corev1.PersistentVolumeClaimSpec) corev1.PersistentVolumeMode {
		if s.VolumeMode == nil {
			return corev1.PersistentVolumeFilesystem
		}
		return *s.VolumeMode
	}
	differ(fmt.Sprintf("its access modes from %v to %v", modes(before), modes(after)), modes(before), modes(after))
	differ(fmt.Sprintf("its volume mode from %s to %s", mode(before), mode(after)), mode(before), mode(after))
	differ("its selector", before.Selector, after.Selector)
	differ("its data source", before.DataSource, after.DataSource)
	differ("its data source", before.DataSourceRef, after.DataSourceRef)
	if before.VolumeName != "" {
		differ("its volume's name", before.VolumeName, after.VolumeName)
	}
	x, y := before.Resources.Requests[corev1.ResourceStorage], after.Resources.Requests[corev1.ResourceStorage]
	if d := y.Cmp(x); d < 0 || d > 0 && b.set != nil {
		changes, unsure = append(changes, fmt.Sprintf("its size from %s to %s", x.String(), y.String())), false
	}
	return slices.Compact(changes), unsure
}

func class(s corev1.PersistentVolumeClaimSpec) string {
	if s.StorageClassName == nil {
		return ""
	}
	return *s.StorageClassName
}

// forced says what makes the owner delete and make anew what it cannot change.
func (s *scope) forced(v *volume) string { return forced(s.head.owners[v.Owner], v.Object) }

func forced(owner *desired.Owner, o *desired.Object) string {
	if owner == nil {
		return ""
	}
	annotations := o.GetAnnotations()
	switch owner.Kind {
	case desired.Kustomization:
		if strings.EqualFold(annotations["kustomize.toolkit.fluxcd.io/force"], "enabled") {
			return "the annotation kustomize.toolkit.fluxcd.io/force: enabled"
		}
	case desired.Application:
		options := strings.Split(annotations["argocd.argoproj.io/sync-options"], ",")
		if owner.Object != nil {
			more, _, _ := unstructured.NestedStringSlice(owner.Object.Object, "spec", "syncPolicy", "syncOptions")
			options = append(options, more...)
		}
		for _, option := range options {
			if option = strings.TrimSpace(option); option == "Replace=true" || option == "Force=true" {
				return "the sync option " + option
			}
		}
	}
	if owner.Force {
		return "force in " + owner.ID
	}
	return ""
}

// forceReplace finds force that is new over what holds data, and changes that it makes a deletion of.
func forceReplace(s *scope) {
	for _, f := range s.fates {
		if f.after == nil || f.effect != "" {
			continue
		}
		by := s.forced(f.after)
		if by == "" {
			continue
		}
		changes, _ := immutable(f.before, f.after)
		before := forced(s.base.owners[f.before.Owner], f.before.Object)
		var message string
		switch {
		case len(changes) > 0 && f.after.set == nil:
			f.rule, f.effect = s.rule.ID, Deleted
			f.why = fmt.Sprintf("%s deletes the claim and makes it anew, because it changes %s", by, strings.Join(changes, ", "))
			if s.retained(f.before) {
				f.effect = LeftBehind
			}
			message = f.before.sized() + " is deleted: " + f.why
			s.affect(f)
		case before == "":
			message = fmt.Sprintf("%s is new over %s: a change that cannot be made in place now deletes it first", by, f.after.full())
		default:
			continue
		}
		s.find(f.after.Object, message, "no force over what holds data: leave it off, and annotate the single objects that need it").detail = f.after.id()
	}
}

func coverageRemoved(s *scope) {
	for _, f := range s.fates {
		if f.after == nil {
			continue
		}
		before, after := s.base.protection(f.before), s.head.protection(f.after)
		if before.answer != Protected {
			continue
		}
		const fix = "let a ProtectionPolicy select the claim, or annotate it with lockstep.dev/exclude and the reason"
		switch {
		case after.answer == Unprotected || after.answer == Unknown:
			s.find(f.after.Object, fmt.Sprintf("%s was protected by the policy %s, and is no longer: %s", f.after.full(), before.policies[0].GetName(), after.why), fix).detail = f.after.id()
		case after.answer == Protected && running(before) && !running(after):
			s.find(f.after.Object, fmt.Sprintf("%s was saved by the schedule of a policy, and none saves it by itself any more", f.after.full()),
				"set a schedule, and do not suspend the policy").detail = f.after.id()
		}
	}
}

// running says that a policy makes points without anybody asking for them.
func running(p protection) bool {
	return slices.ContainsFunc(p.policies, func(p *policy) bool { return automatic(p.Spec) })
}

// retentionDelete finds sets that begin to delete their claims, and those that now do.
func retentionDelete(s *scope) {
	const fix = "leave persistentVolumeClaimRetentionPolicy out, or set both to Retain, and let that be deployed first"
	s.fated(fix)
	for _, h := range s.head.sets {
		when := deletes(h)
		if len(when) == 0 || len(h.Spec.VolumeClaimTemplates) == 0 {
			continue
		}
		b := s.setBefore(h)
		if b != nil && slices.Equal(deletes(b), when) {
			s.scaledAway(b, h, when, fix)
			continue
		}
		s.find(h.Object, fmt.Sprintf("StatefulSet %s/%s deletes its claims when it is %s", h.Namespace, h.Name, strings.Join(when, " and when it is ")), fix)
	}
}

func (s *scope) scaledAway(b, h *set, when []string, fix string) {
	if n, before, _ := reduced(b, h); n > 0 && slices.Contains(when, "scaled down") {
		s.find(h.Object, fmt.Sprintf("StatefulSet %s/%s goes from %d to %d replicas, and its retention policy deletes the claims of the others", h.Namespace, h.Name, before, before-n), fix).detail = "scaled"
		s.affectScaled(b, Deleted, "the set has fewer replicas, and its retention policy deletes the claims of the others")
	}
}

func deletes(s *set) []string {
	var out []string
	if p := s.Spec.PersistentVolumeClaimRetentionPolicy; p != nil {
		if p.WhenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType {
			out = append(out, "deleted")
		}
		if p.WhenScaled == appsv1.DeletePersistentVolumeClaimRetentionPolicyType {
			out = append(out, "scaled down")
		}
	}
	return out
}

// setBefore is a set of head in base; nil if it is new.
func (s *scope) setBefore(h *set) *set {
	for _, b := range s.base.byKey[object.KeyOf(h.Unstructured)] {
		if s.same(b) == h.Object {
			return s.base.setOf[b]
		}
	}
	return nil
}

// reduced says how many pods fewer a set has. One that names no number leaves it to somebody else.
func reduced(b, h *set) (fewer, before, after int) {
	if b.Spec.Replicas == nil || h.Spec.Replicas == nil {
		return 0, 0, 0
	}
	_, before = ordinals(b.StatefulSet)
	_, after = ordinals(h.StatefulSet)
	return before - after, before, after
}

func (s *scope) affectScaled(b *set, effect Effect, why string) {
	for _, w := range s.base.volumes {
		if w.set == b {
			s.affect(fate{before: w, rule: s.rule.ID, effect: effect, why: why})
		}
	}
}

func replicasReduced(s *scope) {
	for _, h := range s.head.sets {
		b := s.setBefore(h)
		if b == nil || len(b.Spec.VolumeClaimTemplates) == 0 || slices.Contains(deletes(h), "scaled down") {
			continue
		}
		if n, before, after := reduced(b, h); n > 0 {
			s.find(h.Object, fmt.Sprintf("StatefulSet %s/%s goes from %d to %d replicas; the claims of the others stay, and nothing uses them", h.Namespace, h.Name, before, after),
				"see that the application has moved their data to the pods that stay; then delete the claims by hand, or leave them for when it grows again")
			s.affectScaled(b, LeftBehind, fmt.Sprintf("the set goes from %d to %d replicas", before, after))
		}
	}
}
