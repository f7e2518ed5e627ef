package coverage

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/lockstep-dr/lockstep/pkg/desired"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// fate is what becomes of one volume of base when head is deployed.
type fate struct {
	before *volume
	// after is the same volume in head; nil if it is gone. heir is a new volume of head that the application takes instead.
	after, heir *volume
	// rule is the one that finds it; empty if nothing is wrong.
	rule string
	// effect is empty if nothing happens to the data.
	effect Effect
	why    string
	// severity is empty for that of the rule.
	severity Severity
}

// foresee tells the fate of every volume of base.
func (s *scope) foresee() []fate {
	var out []fate
	fresh := s.heirs()
	for _, w := range s.base.volumes {
		out = append(out, s.fateOf(w, fresh))
	}
	return out
}

func (s *scope) fateOf(w *volume, fresh heirs) fate {
	f := fate{before: w, after: s.sameVolume(w)}
	ending := s.endOfNamespace(w.claim.Namespace, w.Owner)
	if ending.effect == "" {
		ending = s.endOfVolume(w)
	}
	f.effect, f.why, f.severity = ending.effect, ending.why, ending.severity
	if f.effect != LeftBehind && f.effect != "" && s.retained(w) {
		f.effect, f.severity = LeftBehind, Warning
		f.why += "; the volume is retained, and is then in no claim"
	}
	if f.after == nil {
		f.heir, f.rule = s.heir(w, fresh)
	}
	switch {
	case f.effect == "":
		f.heir, f.rule = nil, ""
	case f.rule != "":
		// The application begins empty: that is certain, whatever becomes of the old data.
		f.severity = ""
	case f.after != nil && s.renamedOwner(w.Owner, f.after.Owner):
		f.rule = "LS106"
		if s.base.owners[w.Owner].Kind != desired.Directory { // of which it is not known that anything prunes
			f.severity = ""
		}
	case w.set != nil && ending.retention:
		f.rule = "LS108"
	case f.effect != LeftBehind || f.severity == Warning:
		f.rule = "LS101"
	}
	return f
}

var applicationSetKind = schema.GroupKind{Group: "argoproj.io", Kind: "ApplicationSet"}

// ending is what becomes of an object of base.
type ending struct {
	effect   Effect
	why      string
	severity Severity
	// retention says that a set's retention policy deletes its claims.
	retention bool
}

// endOfNamespace is that of the namespace of what an owner deploys there.
func (s *scope) endOfNamespace(namespace, owner string) ending {
	key := object.Key{Kind: object.Namespace.Kind, Name: namespace}
	for _, ns := range s.base.byKey[key] {
		if !s.base.together(ns.Owner, owner) {
			continue
		}
		if e := s.end(ns); e.effect == Deleted || e.effect == MayBeDeleted {
			e.why = "with it goes everything in the Namespace " + key.Name + ": " + e.why
			return e
		}
	}
	return ending{}
}

func (s *scope) endOfVolume(w *volume) ending {
	e := s.end(w.Object)
	if w.set == nil {
		return e
	}
	after := s.same(w.Object)
	if after != nil && e.effect == "" {
		return s.endOfTemplate(w)
	}
	if e.effect != Deleted && e.effect != MayBeDeleted {
		return e
	}
	if p := w.set.Spec.PersistentVolumeClaimRetentionPolicy; p != nil && p.WhenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType {
		e.retention = true
		e.why = "the StatefulSet goes, and its retention policy deletes its claims with it: " + e.why
		return e
	}
	if after != nil {
		return ending{} // it comes back and finds its claims by their names
	}
	return ending{effect: LeftBehind, why: "the StatefulSet " + w.set.Name + " goes; claims made of templates stay when their set is deleted"}
}

// endOfTemplate is for a set that stays.
func (s *scope) endOfTemplate(w *volume) ending {
	if s.sameVolume(w) == nil {
		return ending{effect: LeftBehind, why: "the StatefulSet " + w.set.Name + " has no such template any more"}
	}
	return ending{}
}

// end says what becomes of an object of base. No effect: it stays as it is.
func (s *scope) end(o *desired.Object) ending {
	after := s.same(o)
	if after != nil && after.Owner == o.Owner {
		return ending{}
	}
	e := s.removal(o)
	if e.effect != Deleted && e.effect != MayBeDeleted || after == nil {
		if after != nil {
			return ending{}
		}
		return e
	}
	// It moves from one owner to another. Who comes first decides.
	switch {
	case s.waits(o.Owner, after.Owner):
		return ending{} // the new owner has it before the old one lets go
	case s.waits(after.Owner, o.Owner):
		e.why = after.Owner + " waits for " + o.Owner + ", which has deleted it by then: " + e.why
	default:
		e.effect, e.severity = MayBeDeleted, Warning
		e.why = "it moves from " + o.Owner + " to " + after.Owner + "; if the old owner comes first, " + e.why
	}
	return e
}

// removal says what the owner does with an object that is not among its objects any more.
func (s *scope) removal(o *desired.Object) ending {
	was, is := s.base.owners[o.Owner], s.head.owners[o.Owner]
	if was == nil && is == nil {
		return ending{effect: LeftBehind, why: "nothing prunes it"}
	}
	if was != nil && was.Kind == desired.Directory {
		return s.directoryLoses(was)
	}
	if is == nil {
		if kept := keeps(o.Unstructured, was.Kind, true); kept != "" {
			return ending{effect: LeftBehind, why: kept}
		}
		return s.ownerGone(was)
	}
	if kept := keeps(o.Unstructured, is.Kind, false); kept != "" {
		return ending{effect: LeftBehind, why: kept}
	}
	return s.prunes(is)
}

// directoryLoses says what becomes of an object that a directory has no more. Nobody is known to prune there; but what was not rendered may
// deploy the directory.
func (s *scope) directoryLoses(o *desired.Owner) ending {
	e := ending{effect: LeftBehind, why: "nothing prunes what leaves the directory " + o.Name}
	engine := func(g desired.Gap) bool {
		kind, _, _ := strings.Cut(g.What, " ")
		return slices.Contains([]string{"ApplicationSet", "Application", "Kustomization", "FluxInstance"}, kind)
	}
	if i := slices.IndexFunc(s.base.gaps, engine); i >= 0 {
		e.effect, e.severity = MayBeDeleted, Warning
		e.why += ", unless " + s.base.gaps[i].What + " deploys it, which was not rendered"
	}
	return e
}

// prunes says what an owner of head does with what left its objects.
func (s *scope) prunes(o *desired.Owner) ending {
	gap := slices.IndexFunc(s.head.gaps, func(g desired.Gap) bool { return g.Owner == o.ID && hides(o, g) })
	switch {
	case !o.Prune:
		return ending{effect: LeftBehind, why: o.ID + " does not prune"}
	case gap >= 0:
		// The reason may be as long as an error of kustomize is, and there may be many claims: the report gives it once, as not rendered.
		lacks := "was not rendered whole"
		if what := s.head.gaps[gap].What; what != o.ID {
			lacks = "was rendered without " + what
		}
		return ending{effect: MayBeDeleted, why: fmt.Sprintf("%s %s (see what is not rendered), so that it is not known whether it still has it", o.ID, lacks)}
	case o.Suspended:
		return ending{effect: MayBeDeleted, severity: Warning, why: o.ID + " prunes it as soon as it is not suspended any more"}
	}
	return ending{effect: Deleted, why: o.ID + " prunes it"}
}

// ownerGone says what becomes of the objects of an owner that is not in head.
func (s *scope) ownerGone(o *desired.Owner) ending {
	if kept := leaves(o); kept != "" {
		return ending{effect: LeftBehind, why: kept}
	}
	if e, known := s.unmade(o); known {
		return e
	}
	parent := s.head.owners[o.Parent]
	switch {
	case o.Parent == "":
		return ending{effect: MayBeDeleted, severity: Warning, why: o.ID + " is gone; if it is deleted in the cluster, it deletes what it deployed"}
	case o.Object != nil && s.base.owners[o.Parent] != nil && keeps(o.Object, s.base.owners[o.Parent].Kind, parent == nil) != "":
		return ending{effect: LeftBehind, why: o.ID + " stays in the cluster, as its annotation says"}
	}
	e := ending{effect: LeftBehind, why: "nothing deletes " + o.ID}
	if parent != nil {
		e = s.prunes(parent)
	} else if was := s.base.owners[o.Parent]; was != nil && was.ID != o.ID {
		e = s.ownerGone(was)
	}
	if e.effect == Deleted || e.effect == MayBeDeleted {
		e.why = o.ID + " is gone, and deletes what it deployed: " + e.why
	}
	return e
}

// unmade says what becomes of an Application that an ApplicationSet makes no more; known is false if there is no such set in head: then
// it goes as the set does.
func (s *scope) unmade(o *desired.Owner) (_ ending, known bool) {
	set := s.maker(o)
	if set == nil {
		return ending{}, false
	}
	name := set.GetKind() + " " + set.GetNamespace() + "/" + set.GetName()
	if slices.ContainsFunc(s.head.gaps, func(g desired.Gap) bool { return g.Origin == set.Origin }) {
		return ending{effect: MayBeDeleted, why: name + " was not rendered whole, so that it is not known whether it still makes " + o.ID}, true
	}
	switch does, _, _ := unstructured.NestedString(set.Object, "spec", "syncPolicy", "applicationsSync"); does {
	case "create-only", "create-update":
		return ending{effect: LeftBehind, why: o.ID + " stays in the cluster: " + name + " deletes none (applicationsSync: " + does + ")"}, true
	}
	return ending{effect: Deleted, why: o.ID + " is gone, and deletes what it deployed: " + name + " makes it no more"}, true
}

// maker is the ApplicationSet of head that made an Application of base; nil if there is none.
func (s *scope) maker(o *desired.Owner) *desired.Object {
	if o.Object == nil {
		return nil
	}
	for _, ref := range o.Object.GetOwnerReferences() {
		for i, set := range s.head.makers {
			if o.Parent == "" && ref.Kind == set.GetKind() && ref.Name == set.GetName() && o.Object.GetNamespace() == set.GetNamespace() && o.File == set.File {
				return &s.head.makers[i]
			}
		}
		for _, set := range s.head.byKind[applicationSetKind] {
			if ref.Kind == set.GetKind() && ref.Name == set.GetName() && s.head.cluster(set.Owner) == s.base.cluster(o.Parent) &&
				(o.Object.GetNamespace() == "" || o.Object.GetNamespace() == set.GetNamespace()) {
				return set
			}
		}
	}
	return nil
}

// leaves says why an owner's objects outlive it; empty if they do not.
func leaves(o *desired.Owner) string {
	switch o.Kind {
	case desired.Kustomization:
		deletion := ""
		if o.Object != nil {
			deletion, _, _ = unstructured.NestedString(o.Object.Object, "spec", "deletionPolicy")
		}
		switch {
		case deletion == "Orphan":
			return o.ID + " leaves its objects when it is deleted (deletionPolicy: Orphan)"
		case deletion == "Delete" || deletion == "WaitForTermination":
			return ""
		case !o.Prune:
			return o.ID + " does not prune"
		case o.Suspended:
			return o.ID + " is suspended, and leaves its objects when it is deleted"
		}
	case desired.Application:
		if o.Object == nil {
			return ""
		}
		if !slices.ContainsFunc(o.Object.GetFinalizers(), func(f string) bool { return strings.HasPrefix(f, "resources-finalizer.argocd.argoproj.io") }) {
			return o.ID + " has no finalizer, and leaves its objects when it is deleted"
		}
	}
	return ""
}

// keeps says which annotation keeps an object from being deleted by an owner of a kind; empty if none does.
func keeps(u *unstructured.Unstructured, kind desired.OwnerKind, ownerGone bool) string {
	has := func(key, value string) bool {
		for _, set := range []map[string]string{u.GetAnnotations(), u.GetLabels()} {
			if strings.EqualFold(set[key], value) {
				return true
			}
		}
		return false
	}
	switch kind {
	case desired.Kustomization:
		for _, key := range []string{"kustomize.toolkit.fluxcd.io/prune", "kustomize.toolkit.fluxcd.io/reconcile"} {
			if has(key, "disabled") {
				return "the annotation " + key + ": disabled keeps it"
			}
		}
	case desired.Application:
		option := "Prune"
		if ownerGone {
			option = "Delete"
		}
		for _, o := range strings.Split(u.GetAnnotations()["argocd.argoproj.io/sync-options"], ",") {
			if o = strings.TrimSpace(o); o == option+"=false" || o == option+"=confirm" {
				return "the sync option " + o + " keeps it"
			}
		}
	}
	if (kind == desired.HelmRelease || kind == desired.Application) && u.GetAnnotations()["helm.sh/resource-policy"] == "keep" {
		return "the annotation helm.sh/resource-policy: keep keeps it"
	}
	return ""
}

// same is an object of base in head: of the same owner, or of one that did not have it before. Another owner that had it, too, deploys
// it to another cluster.
func (s *scope) same(o *desired.Object) *desired.Object {
	key := object.KeyOf(o.Unstructured)
	before := map[string]bool{}
	for _, b := range s.base.byKey[key] {
		before[b.Owner] = true
	}
	var stayed, moved []*desired.Object
	for _, h := range s.head.byKey[key] {
		switch {
		case h.Owner == o.Owner:
			stayed = append(stayed, h)
		case !before[h.Owner]:
			moved = append(moved, h)
		}
	}
	if len(stayed) > 0 {
		return likest(o, stayed)
	}
	return likest(o, moved)
}

// likest is the object that o has become: a directory may hold several of a name, of which people apply one.
func likest(o *desired.Object, among []*desired.Object) *desired.Object {
	if len(among) == 0 {
		return nil
	}
	if len(among) > 1 {
		for _, h := range among {
			if equality.Semantic.DeepEqual(h.Object, o.Object) {
				return h
			}
		}
	}
	return among[0]
}

func (s *scope) sameVolume(w *volume) *volume {
	o := s.same(w.Object)
	if o == nil {
		return nil
	}
	for _, candidate := range s.head.byVolume[w.id()] {
		if candidate.Object == o {
			return candidate
		}
	}
	return nil
}

// waits says that one owner depends on another, by however many steps.
func (s *scope) waits(owner, other string) bool {
	seen := map[string]bool{}
	var ask func(string) bool
	ask = func(id string) bool {
		o := s.head.owners[id]
		if o == nil || seen[id] {
			return false
		}
		seen[id] = true
		return slices.ContainsFunc(o.DependsOn, func(d string) bool { return d == other || ask(d) })
	}
	return ask(owner)
}

// renamedOwner says that one owner went and another came that has what the first had.
func (s *scope) renamedOwner(before, after string) bool {
	return before != after && s.head.owners[before] == nil && s.base.owners[after] == nil && s.base.owners[before] != nil
}

// retained says that a volume of base outlives its claim, for all that Git tells: by the class that it was made with.
func (s *scope) retained(w *volume) bool {
	if policy := s.base.policyOfVolume(w); policy != "" {
		return policy == string(corev1.PersistentVolumeReclaimRetain)
	}
	if class(w.claim.Spec) == "" {
		return false
	}
	classes := s.base.classesFor(w)
	if len(classes) == 0 {
		s.base.unchanged("", w.Owner) // the class may be among what both commits have
	}
	return len(classes) > 0 && !slices.ContainsFunc(classes, func(o *desired.Object) bool {
		policy, _, _ := unstructured.NestedString(o.Object, "reclaimPolicy")
		return policy != string(corev1.PersistentVolumeReclaimRetain)
	})
}

// policyOfVolume is what becomes of the volume of Git that a claim is bound to by name; empty if there is none. Who writes volumes by hand
// and says nothing retains them.
func (v *view) policyOfVolume(w *volume) string {
	for _, o := range v.byKind[volumeKind] {
		if o.GetName() == w.claim.Spec.VolumeName && v.together(o.Owner, w.Owner) {
			policy, _, _ := unstructured.NestedString(o.Object, "spec", "persistentVolumeReclaimPolicy")
			return cmp.Or(policy, string(corev1.PersistentVolumeReclaimRetain))
		}
	}
	return ""
}

// heirs are the new volumes of head that begin empty, by their names and by their namespaces.
type heirs struct {
	named, in map[string][]*volume
}

func (s *scope) heirs() heirs {
	h := heirs{map[string][]*volume{}, map[string][]*volume{}}
	for _, v := range s.head.volumes {
		if s.isNew(v) && v.claim.Spec.DataSource == nil && v.claim.Spec.DataSourceRef == nil {
			h.named[v.name()] = append(h.named[v.name()], v)
			h.in[v.claim.Namespace] = append(h.in[v.claim.Namespace], v)
		}
	}
	return h
}

// heir finds the new volume of head that stands in the place of one that is gone, and the rule that this is a case of.
func (s *scope) heir(w *volume, fresh heirs) (*volume, string) {
	beside := func(h *volume) bool { return s.head.owners[w.Owner] == nil || s.head.together(h.Owner, w.Owner) }
	for _, h := range fresh.named[w.name()] {
		if h.claim.Namespace != w.claim.Namespace && (h.set == nil) == (w.set == nil) && beside(h) {
			return h, "LS104"
		}
	}
	if w.set == nil {
		if h := s.claimHeir(w, fresh.in[w.claim.Namespace]); h != nil {
			return h, "LS102"
		}
		return nil, ""
	}
	for _, h := range fresh.in[w.claim.Namespace] {
		if h.set == nil || h.Owner != w.Owner && s.head.owners[w.Owner] != nil {
			continue
		}
		sameSet, sameTemplate := h.set.Name == w.set.Name, h.template == w.template
		if (sameSet || sameTemplate && alikeSets(w.set, h.set)) && !s.filled(h) {
			return h, "LS103"
		}
	}
	return nil, ""
}

// claimHeir is the claim that the same workload takes now, or else the only one of the same owner that asks for the same.
func (s *scope) claimHeir(w *volume, fresh []*volume) *volume {
	users := map[object.Key][]string{}
	for _, l := range s.base.mounting(w) {
		users[object.KeyOf(l.Unstructured)] = l.places(w.claim.Name)
	}
	var alike []*volume
	for _, h := range fresh {
		if h.set != nil || s.head.owners[w.Owner] != nil && !s.head.together(h.Owner, w.Owner) {
			continue
		}
		for _, l := range s.head.mounting(h) {
			before := users[object.KeyOf(l.Unstructured)]
			if slices.ContainsFunc(l.places(h.claim.Name), func(p string) bool { return slices.Contains(before, p) }) {
				return h
			}
		}
		if (h.Owner == w.Owner || s.renamedOwner(w.Owner, h.Owner)) && len(w.claim.Spec.AccessModes) > 0 && equality.Semantic.DeepEqual(h.claim.Spec, w.claim.Spec) {
			alike = append(alike, h)
		}
	}
	if len(alike) == 1 {
		return alike[0]
	}
	return nil
}

// isNew says that a volume of head is in no object of base.
func (s *scope) isNew(h *volume) bool {
	return !slices.ContainsFunc(s.base.byVolume[h.id()], func(b *volume) bool { return b.Owner == h.Owner || s.base.owners[h.Owner] == nil })
}

// filled says that Git itself brings the claims of a template, with a source of data.
func (s *scope) filled(h *volume) bool {
	return slices.ContainsFunc(s.head.byVolume[h.claim.Namespace+"/"+h.claim.Name], func(c *volume) bool {
		return c.claim.Spec.DataSource != nil || c.claim.Spec.DataSourceRef != nil
	})
}

// alikeSets says that two sets run the same programs.
func alikeSets(a, b *set) bool {
	images := func(s *set) []string {
		var out []string
		for _, c := range s.Spec.Template.Spec.Containers {
			out = append(out, parseImage(c.Image).repository)
		}
		slices.Sort(out)
		return out
	}
	return slices.Equal(images(a), images(b))
}
