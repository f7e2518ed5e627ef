package coverage

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/desired"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/selection"
)

// view is a State, read.
type view struct {
	objects []*desired.Object
	byKey   map[object.Key][]*desired.Object
	byKind  map[schema.GroupKind][]*desired.Object
	owners  map[string]*desired.Owner
	// gaps are those of the State, and the objects that cannot be read.
	gaps []desired.Gap
	// makers are those of the State.
	makers   []desired.Object
	volumes  []*volume
	byVolume map[string][]*volume
	// volumesIn are by their namespaces.
	volumesIn map[string][]*volume
	sets      []*set
	setOf     map[*desired.Object]*set
	// policies and workloads are by their namespaces; unread are the policies that cannot be read.
	policies map[string][]*policy
	unread   map[string][]*desired.Object
	// beside remembers, by a namespace and an owner, which of them are in one cluster with it.
	beside    map[[2]string][]*policy
	workloads map[string][]*workload
	cron      []*workload
	classes   map[string][]*desired.Object
	operated  []operated
	// foreign are nil until somebody asks for them.
	foreign []foreign
	// protections remembers what was asked before.
	protections map[*volume]protection
	// skipped are owners that are the same in both commits, wanted those of them that something depends on.
	skipped []*desired.Owner
	wanted  map[string]bool
	// schedules remembers how often they run; many policies have the same.
	schedules map[[2]string]every
	// keysOf are the objects of each root, apart a memory of which roots are of different clusters.
	keysOf map[string]map[object.Key]bool
	apart  map[[2]string]bool
}

// volume is a claim, or the claims that a StatefulSet makes of one template.
type volume struct {
	*desired.Object
	claim *corev1.PersistentVolumeClaim
	// set and template are of claims that a StatefulSet makes.
	set      *set
	template string
}

// id names a volume from one commit to the next.
func (v *volume) id() string {
	if v.set != nil {
		return v.set.Namespace + "/" + v.set.Name + "/" + v.template
	}
	return v.claim.Namespace + "/" + v.claim.Name
}

// name is that of the claim, or of the set's claims.
func (v *volume) name() string {
	if v.set == nil {
		return v.claim.Name
	}
	return claimNames(v.template, v.set.StatefulSet)
}

func (v *volume) full() string {
	return object.Name{Namespace: v.claim.Namespace, Name: v.name()}.String()
}

func (v *volume) size() string {
	if size, ok := v.claim.Spec.Resources.Requests[corev1.ResourceStorage]; ok {
		return size.String()
	}
	return ""
}

func (v *volume) sized() string {
	if size := v.size(); size != "" {
		return v.full() + " (" + size + ")"
	}
	return v.full()
}

// claimNames are those that a set makes of a template. They are not listed: a manifest may ask for any number.
func claimNames(template string, s *appsv1.StatefulSet) string {
	first, n := ordinals(s)
	switch n {
	case 0:
		return template + "-" + s.Name + "-*"
	case 1:
		return fmt.Sprintf("%s-%s-%d", template, s.Name, first)
	}
	return fmt.Sprintf("%s-%s-{%d..%d}", template, s.Name, first, first+n-1)
}

func ordinals(s *appsv1.StatefulSet) (first, n int) {
	n = 1
	if s.Spec.Replicas != nil {
		n = max(0, int(*s.Spec.Replicas))
	}
	if s.Spec.Ordinals != nil {
		first = int(s.Spec.Ordinals.Start)
	}
	return first, n
}

type set struct {
	*desired.Object
	*appsv1.StatefulSet
}

type policy struct {
	*desired.Object
	Spec v1alpha1.ProtectionPolicySpec
	// selector is nil if it cannot mean what it says, for which invalid is the reason.
	selector *selection.Selector
	invalid  error
	// open says that the selector has variables whose values are not known.
	open bool
	every
}

// workload makes pods.
type workload struct {
	*desired.Object
	pod    *corev1.PodSpec
	labels map[string]string
}

// job says that its pods end by themselves.
func (w *workload) job() bool { return w.GetKind() == "Job" || w.GetKind() == "CronJob" }

// claims are those that the pods name; those of templates are not among them.
func (w *workload) claims() []string {
	var out []string
	for _, v := range w.pod.Volumes {
		if v.PersistentVolumeClaim != nil {
			out = append(out, v.PersistentVolumeClaim.ClaimName)
		}
	}
	return out
}

// places are where the pods have a claim: the names of its volumes, and the paths that they are mounted at.
func (w *workload) places(claim string) []string {
	var out []string
	for _, v := range w.pod.Volumes {
		if v.PersistentVolumeClaim == nil || v.PersistentVolumeClaim.ClaimName != claim {
			continue
		}
		out = append(out, v.Name)
		for _, c := range w.pod.Containers {
			for _, m := range c.VolumeMounts {
				if m.Name == v.Name {
					out = append(out, m.MountPath)
				}
			}
		}
	}
	return out
}

func newView(s *desired.State) *view {
	v := &view{byKey: make(map[object.Key][]*desired.Object, len(s.Objects)), byKind: map[schema.GroupKind][]*desired.Object{},
		beside: map[[2]string][]*policy{}, protections: map[*volume]protection{}, owners: map[string]*desired.Owner{}, byVolume: map[string][]*volume{}, volumesIn: map[string][]*volume{},
		policies: map[string][]*policy{}, unread: map[string][]*desired.Object{}, workloads: map[string][]*workload{},
		classes: map[string][]*desired.Object{}, keysOf: map[string]map[object.Key]bool{}, apart: map[[2]string]bool{}, wanted: map[string]bool{}, setOf: map[*desired.Object]*set{}, schedules: map[[2]string]every{}, gaps: slices.Clone(s.Gaps), makers: s.Makers}
	for i := range s.Owners {
		v.owners[s.Owners[i].ID] = &s.Owners[i]
	}
	for _, id := range slices.Sorted(maps.Keys(v.owners)) {
		if v.owners[id].Skipped {
			v.skipped = append(v.skipped, v.owners[id])
		}
	}
	type keyed struct {
		object.Key
		*desired.Object
	}
	all := make([]keyed, 0, len(s.Objects))
	for i := range s.Objects {
		if s.Objects[i].Unstructured != nil {
			gk := s.Objects[i].GroupVersionKind().GroupKind()
			o := v.placed(&s.Objects[i], gk)
			all = append(all, keyed{object.Key{Group: gk.Group, Kind: gk.Kind, Namespace: o.GetNamespace(), Name: o.GetName()}, o})
		}
	}
	// The order of a State must not matter to what is found.
	slices.SortStableFunc(all, func(a, b keyed) int {
		return cmp.Or(a.Compare(b.Key), cmp.Compare(a.Owner, b.Owner), cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	for _, k := range all {
		key, o := k.Key, k.Object
		v.objects = append(v.objects, o)
		v.byKey[key] = append(v.byKey[key], o)
		v.byKind[key.GroupKind()] = append(v.byKind[key.GroupKind()], o)
		if d, ok := operatedOf(o, key.GroupKind()); ok {
			v.operated = append(v.operated, d)
		}
		root := v.root(o.Owner)
		if v.keysOf[root] == nil {
			v.keysOf[root] = map[object.Key]bool{}
		}
		v.keysOf[root][key] = true
		if err := v.read(o, key.GroupKind()); err != nil {
			v.gaps = append(v.gaps, desired.Gap{Owner: o.Owner, Origin: o.Origin, What: key.String(), Why: unreadable(o)})
		}
	}
	for _, w := range v.volumes {
		v.byVolume[w.id()] = append(v.byVolume[w.id()], w)
		v.volumesIn[w.claim.Namespace] = append(v.volumesIn[w.claim.Namespace], w)
	}
	slices.SortStableFunc(v.gaps, func(a, b desired.Gap) int {
		return cmp.Or(cmp.Compare(a.Owner, b.Owner), cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.What, b.What), cmp.Compare(a.Why, b.Why))
	})
	return v
}

// placed is an object with its namespace. Whoever renders cannot know of every kind whether it has one; of these it is known.
func (v *view) placed(o *desired.Object, gk schema.GroupKind) *desired.Object {
	if o.GetNamespace() != "" || gk != policyKind && !slices.ContainsFunc(operators, func(by operator) bool { return by.GroupKind == gk }) &&
		!slices.ContainsFunc(secretMakers, func(m secretMaker) bool { return m.GroupKind == gk }) {
		return o
	}
	namespace := "default"
	if owner := v.owners[o.Owner]; owner != nil {
		namespace = cmp.Or(target(owner), namespace)
	}
	placed := *o
	placed.Unstructured = o.DeepCopy()
	placed.SetNamespace(namespace)
	return &placed
}

// unreadable says why an object cannot be read as one of its kind.
func unreadable(o *desired.Object) string {
	if len(o.Unknown) > 0 {
		return "it cannot be read without the values of " + strings.Join(o.Unknown, ", ") + ", which are not in the repository"
	}
	why := "it does not have the shape of its kind"
	var wrong *json.UnmarshalTypeError
	if data, err := json.Marshal(o.Object); err == nil && o.GroupVersionKind().GroupKind() == policyKind && errors.As(json.Unmarshal(data, &v1alpha1.ProtectionPolicy{}), &wrong) && wrong.Field != "" {
		why += fmt.Sprintf(": %s is not to be of the type %s", wrong.Field, wrong.Value)
	}
	return why
}

// open says that a text has a variable whose value is not known.
func open(text string) bool { return strings.Contains(text, "${") }

var (
	policyKind = schema.GroupKind{Group: v1alpha1.GroupVersion.Group, Kind: "ProtectionPolicy"}
	volumeKind = schema.GroupKind{Kind: "PersistentVolume"}
)

// read takes an object in that rules ask about. An error is of one that cannot be read: then nothing is known of what it has.
func (v *view) read(o *desired.Object, gk schema.GroupKind) error {
	if object.IsWorkload(o.Unstructured) {
		return v.readWorkload(o)
	}
	switch gk {
	case object.Claim:
		claim := &corev1.PersistentVolumeClaim{}
		if err := convert(o.Unstructured, claim); err != nil {
			// Its name and labels are enough to be protected.
			claim = &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: o.GetNamespace(), Name: o.GetName(), Labels: o.GetLabels(), Annotations: o.GetAnnotations()}}
		}
		v.volumes = append(v.volumes, &volume{Object: o, claim: claim})
	case policyKind:
		p := &v1alpha1.ProtectionPolicy{}
		if err := convert(o.Unstructured, p); err != nil {
			v.unread[o.GetNamespace()] = append(v.unread[o.GetNamespace()], o)
			return err
		}
		known := &policy{Object: o, Spec: p.Spec, every: v.runs(p.Spec)}
		known.selector, known.invalid = selection.Parse(p)
		known.open = len(o.Unknown) > 0 && p.Spec.Volumes.Selector != nil && open(metav1.FormatLabelSelector(p.Spec.Volumes.Selector))
		v.policies[p.Namespace] = append(v.policies[p.Namespace], known)
	case storagev1.SchemeGroupVersion.WithKind("StorageClass").GroupKind():
		v.classes[o.GetName()] = append(v.classes[o.GetName()], o)
	}
	return nil
}

func (v *view) readWorkload(o *desired.Object) error {
	s, setErr := object.StatefulSet(o.Unstructured)
	if setErr != nil {
		s, setErr = object.StatefulSet(bare(o.Unstructured))
	}
	if s != nil {
		v.readSet(o, s)
	}
	pod, err := object.PodSpec(o.Unstructured)
	if err != nil || setErr != nil {
		return errors.Join(err, setErr)
	}
	if s != nil { // a template takes the place of a volume of its name
		pod.Volumes = slices.DeleteFunc(pod.Volumes, func(v corev1.Volume) bool {
			return slices.ContainsFunc(s.Spec.VolumeClaimTemplates, func(t corev1.PersistentVolumeClaim) bool { return t.Name == v.Name })
		})
	}
	namespace := o.GetNamespace()
	w := &workload{Object: o, pod: pod, labels: podLabels(o.Unstructured)}
	v.workloads[namespace] = append(v.workloads[namespace], w)
	if o.GetKind() == "CronJob" {
		v.cron = append(v.cron, w)
	}
	return nil
}

func (v *view) readSet(o *desired.Object, s *appsv1.StatefulSet) {
	made := &set{o, s}
	v.sets = append(v.sets, made)
	v.setOf[o] = made
	first, _ := ordinals(s)
	for i := range s.Spec.VolumeClaimTemplates {
		t := &s.Spec.VolumeClaimTemplates[i]
		claim := object.ClaimFromTemplate(s, t, object.TemplateClaim(s, t.Name, first))
		v.volumes = append(v.volumes, &volume{Object: o, claim: claim, set: made, template: t.Name})
	}
}

// bare is a StatefulSet without what is most often a variable; its name, labels and templates are enough to be protected.
func bare(u *unstructured.Unstructured) *unstructured.Unstructured {
	u = u.DeepCopy()
	for _, field := range []string{"replicas", "ordinals", "template", "updateStrategy", "minReadySeconds", "revisionHistoryLimit"} {
		unstructured.RemoveNestedField(u.Object, "spec", field)
	}
	templates, _, _ := unstructured.NestedSlice(u.Object, "spec", "volumeClaimTemplates")
	for _, t := range templates {
		if m, ok := t.(map[string]any); ok {
			delete(m, "spec")
		}
	}
	if len(templates) > 0 {
		_ = unstructured.SetNestedSlice(u.Object, templates, "spec", "volumeClaimTemplates") // it was one before
	}
	return u
}

func podLabels(u *unstructured.Unstructured) map[string]string {
	path := []string{"spec", "template", "metadata", "labels"}
	switch u.GetKind() {
	case "Pod":
		return u.GetLabels()
	case "CronJob":
		path = []string{"spec", "jobTemplate", "spec", "template", "metadata", "labels"}
	}
	labels, _, _ := unstructured.NestedStringMap(u.Object, path...)
	return labels
}

func convert(u *unstructured.Unstructured, into any) error {
	return runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, into)
}

// root is the owner that nothing in the repository deploys, from which this one comes.
func (v *view) root(owner string) string {
	for range len(v.owners) {
		o := v.owners[owner]
		if o == nil || o.Parent == "" {
			break
		}
		owner = o.Parent
	}
	return owner
}

// together says that what two owners deploy may be in one cluster. A repository may hold several: then the owners say so, or the same
// objects come from different roots.
func (v *view) together(a, b string) bool {
	x, y := v.cluster(a), v.cluster(b)
	if x != y || x != "" {
		return x == y
	}
	a, b = v.root(a), v.root(b)
	if a == b {
		return true
	}
	if a > b {
		a, b = b, a
	}
	apart, known := v.apart[[2]string{a, b}]
	if !known {
		few, many := v.keysOf[a], v.keysOf[b]
		if len(few) > len(many) {
			few, many = many, few
		}
		for key := range few {
			// Namespaces are often written twice.
			if many[key] && key.GroupKind() != object.Namespace {
				apart = true
				break
			}
		}
		v.apart[[2]string{a, b}] = apart
	}
	return !apart
}

func (v *view) cluster(owner string) string {
	if o := v.owners[owner]; o != nil {
		return o.Cluster
	}
	return ""
}

// classesFor are the StorageClasses that Git brings for a volume; several only if the repository does not tell its clusters apart.
func (v *view) classesFor(w *volume) []*desired.Object {
	var out []*desired.Object
	for _, o := range v.classes[class(w.claim.Spec)] {
		if v.together(o.Owner, w.Owner) {
			out = append(out, o)
		}
	}
	return out
}

// has says whether an object is deployed beside what the owner deploys.
func (v *view) has(key object.Key, owner string) bool {
	return slices.ContainsFunc(v.byKey[key], func(o *desired.Object) bool { return v.together(o.Owner, owner) })
}

// unseen are the gaps that may hold something of the namespace beside what the owner deploys.
func (v *view) unseen(namespace, owner string) []desired.Gap {
	var out []desired.Gap
	for _, g := range v.gaps {
		if o := v.owners[g.Owner]; o == nil || v.mayHold(o, namespace, owner) && hides(o, g) {
			out = append(out, g)
		}
	}
	for _, o := range v.unchanged(namespace, owner) {
		out = append(out, desired.Gap{Owner: o.ID, Origin: o.Origin, What: o.ID, Why: "it is the same in both commits"})
	}
	return out
}

// unchanged are the skipped owners that may hold something of the namespace. Who asks wants them.
func (v *view) unchanged(namespace, owner string) []*desired.Owner {
	var out []*desired.Owner
	for _, o := range v.skipped {
		if v.mayHold(o, namespace, owner) {
			v.wanted[o.ID] = true
			out = append(out, o)
		}
	}
	return out
}

func (v *view) mayHold(o *desired.Owner, namespace, beside string) bool {
	t := confines(o)
	return (t == "" || namespace == "" || t == namespace) && v.together(o.ID, beside)
}

// hides says that a gap may be in the place of objects. Where only the values of variables are missing, the objects are there.
func hides(o *desired.Owner, g desired.Gap) bool {
	if o.Kind != desired.Kustomization || o.Object == nil {
		return true
	}
	from, _, _ := unstructured.NestedSlice(o.Object.Object, "spec", "postBuild", "substituteFrom")
	return !slices.ContainsFunc(from, func(entry any) bool {
		m, _ := entry.(map[string]any)
		return g.What == fmt.Sprintf("%v %s/%v", m["kind"], o.Namespace, m["name"])
	})
}

// target is the namespace that an owner puts objects into; empty if it is not known, or there are several.
func target(o *desired.Owner) string {
	if o.Target == "" && o.Kind == desired.HelmRelease {
		return o.Namespace
	}
	return o.Target
}

// confines is the namespace beyond which an owner puts nothing; empty if it is not known. The destination of an Application is only that
// of objects which name none; a chart is made for one namespace.
func confines(o *desired.Owner) string {
	if o.Kind != desired.Application {
		return target(o)
	}
	if o.Object == nil {
		return ""
	}
	sources, _, _ := unstructured.NestedSlice(o.Object.Object, "spec", "sources")
	if source, ok, _ := unstructured.NestedMap(o.Object.Object, "spec", "source"); ok {
		sources = append(sources, source)
	}
	for _, entry := range sources {
		source, _ := entry.(map[string]any)
		chart, _, _ := unstructured.NestedString(source, "chart")
		ref, _, _ := unstructured.NestedString(source, "ref")
		if _, helm := source["helm"]; chart == "" && !helm && ref == "" {
			return ""
		}
	}
	return target(o)
}

// words names gaps, the first few of them.
func words(gaps []desired.Gap) string {
	var out []string
	for i, g := range gaps {
		if i == 2 && len(gaps) > 3 {
			out = append(out, fmt.Sprintf("%d more", len(gaps)-i))
			break
		}
		out = append(out, g.What)
	}
	return strings.Join(slices.Compact(out), ", ")
}

// mounting are the workloads whose pods use a volume.
func (v *view) mounting(w *volume) []*workload {
	var out []*workload
	for _, l := range v.workloads[w.claim.Namespace] {
		uses := w.set != nil && l.Object == w.Object
		if w.set == nil && v.together(l.Owner, w.Owner) {
			uses = slices.Contains(l.claims(), w.claim.Name)
		}
		if uses {
			out = append(out, l)
		}
	}
	return out
}
