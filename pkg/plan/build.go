package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/point"
)

// builder fills a plan step by step.
type builder struct {
	in   Input
	set  object.Set
	sets []*appsv1.StatefulSet
	plan *Plan
	// definitions are those of the commit, by the kinds that they define; nil until somebody asks.
	definitions map[schema.GroupKind]object.Key
}

func (b *builder) readSets() error {
	for _, u := range b.in.Objects {
		set, err := object.StatefulSet(u)
		if err != nil {
			return err
		}
		if set != nil {
			b.sets = append(b.sets, set)
		}
	}
	slices.SortFunc(b.sets, func(x, y *appsv1.StatefulSet) int {
		return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
	})
	return nil
}

// claims makes a Claim for each volume of the point.
func (b *builder) claims() error {
	for i, v := range sortedVolumes(b.in.Choice.Record) {
		target, origin, err := b.target(v)
		if err != nil {
			return err
		}
		c := Claim{
			Name: object.Name{Namespace: v.Namespace, Name: v.Claim}, Index: i, Group: i, Origin: origin, Target: target,
			Snapshot: v.Snapshot, Bytes: v.Bytes, Files: v.Files, ContentRoot: v.ContentRoot, MetaRoot: v.MetaRoot,
			Block: isBlock(v.Spec), Size: max(v.Capacity, target.Spec.Resources.Requests.Storage().Value()),
		}
		if b.in.Selection != nil {
			c.From, c.Empty = b.in.Selection.From[c.Name], b.in.Selection.Empty[c.Name]
		}
		c.SetAside = b.setAside(c.Name)
		b.class(&c)
		b.plan.Claims = append(b.plan.Claims, c)
	}
	return nil
}

func isBlock(spec corev1.PersistentVolumeClaimSpec) bool {
	return spec.VolumeMode != nil && *spec.VolumeMode == corev1.PersistentVolumeBlock
}

// target is the claim as Git defines it, or else as it was captured. What the old cluster knew of it beside that, such as
// the labels by which an operator finds it, comes along.
func (b *builder) target(v point.Volume) (*corev1.PersistentVolumeClaim, Origin, error) {
	name := object.Name{Namespace: v.Namespace, Name: v.Claim}
	target, origin := &corev1.PersistentVolumeClaim{}, OriginGit
	if u, ok := b.set[object.Key{Kind: object.Claim.Kind, Namespace: v.Namespace, Name: v.Claim}]; ok {
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, target); err != nil {
			return nil, "", fmt.Errorf("reading claim %s: %w: %w", name, object.ErrMalformed, err)
		}
	} else if set, template, _ := b.templateOf(name); template != nil {
		target, origin = object.ClaimFromTemplate(set, template, name), OriginTemplate
	} else {
		origin = OriginPoint
		target.Namespace, target.Name = v.Namespace, v.Claim
		if b.in.Selection != nil && b.in.Selection.Empty[name] { // there is nothing to make it from but itself
			v.Spec = b.in.Facts.Claims[name].Spec
		}
		v.Spec.DeepCopyInto(&target.Spec)
		target.Spec.VolumeName = ""
	}
	target.Labels = merge(v.Labels, target.Labels)
	target.Annotations = merge(v.Annotations, target.Annotations)
	target.Status = corev1.PersistentVolumeClaimStatus{}
	return target, origin, nil
}

func (b *builder) templateOf(name object.Name) (*appsv1.StatefulSet, *corev1.PersistentVolumeClaim, string) {
	for _, set := range b.sets {
		if template, pod, ok := object.TemplateOf(set, name); ok {
			return set, template, pod
		}
	}
	return nil, nil, ""
}

// merge lays Git's metadata over the captured one, without what belongs to a cluster or a restore that is gone.
func merge(captured, git map[string]string) map[string]string {
	out := maps.Clone(captured)
	maps.DeleteFunc(out, func(k, _ string) bool { return ofOldCluster(k) })
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, git)
	if len(out) == 0 {
		return nil
	}
	return out
}

func ofOldCluster(key string) bool {
	prefix, _, _ := strings.Cut(key, "/")
	switch prefix {
	case "pv.kubernetes.io", "volume.kubernetes.io", "volume.beta.kubernetes.io", "kubectl.kubernetes.io", "argocd.argoproj.io":
		return true
	}
	return key == v1alpha1.LabelRestore || key == v1alpha1.AnnotationRestoredFrom || key == v1alpha1.AnnotationReconcileAt ||
		key == v1alpha1.AnnotationHydrated
}

// class finds the class that provisions the claim: the one it has already, the one it asks for, or the cluster's default.
func (b *builder) class(c *Claim) {
	if fact, exists := b.in.Facts.Claims[c.Name]; exists && fact.class() != "" && c.SetAside == nil {
		c.StorageClass = fact.class()
	} else if c.Target.Spec.StorageClassName != nil {
		c.StorageClass = *c.Target.Spec.StorageClassName
	} else {
		c.StorageClass = b.defaultClass()
	}
	c.WaitForFirstConsumer = b.in.Facts.StorageClasses[c.StorageClass].WaitForFirstConsumer
}

// defaultClass is the first default by name. Kubernetes would take the newest of several; a plan must not depend on ages,
// and the claim is created with the class that was planned.
func (b *builder) defaultClass() string {
	for _, name := range slices.Sorted(maps.Keys(b.in.Facts.StorageClasses)) {
		if b.in.Facts.StorageClasses[name].Default {
			return name
		}
	}
	return ""
}

// groups joins the claims that one pod mounts.
func (b *builder) groups() error {
	consumers := map[object.Name][]object.Key{}
	specs := map[object.Key]*corev1.PodSpec{}
	for _, key := range slices.SortedFunc(maps.Keys(b.set), object.Key.Compare) {
		pods, err := object.Pods(b.set[key])
		if err != nil {
			return err
		}
		if specs[key], err = object.PodSpec(b.set[key]); err != nil {
			return err
		}
		for _, pod := range pods {
			b.join(pod.Claims)
			for _, name := range pod.Claims {
				if !slices.Contains(consumers[name], key) {
					consumers[name] = append(consumers[name], key)
				}
			}
		}
	}
	b.joinScaledOut(consumers)
	for i := range b.plan.Claims {
		b.addToGroup(&b.plan.Claims[i], consumers, specs)
	}
	return nil
}

// joinScaledOut treats the claims of replicas that the commit does not ask for as those of the pods that would mount them.
func (b *builder) joinScaledOut(consumers map[object.Name][]object.Key) {
	pods := map[object.Name][]object.Name{}
	for _, c := range b.plan.Claims {
		set, template, pod := b.templateOf(c.Name)
		if template == nil || len(consumers[c.Name]) > 0 {
			continue
		}
		consumers[c.Name] = []object.Key{{Group: "apps", Kind: "StatefulSet", Namespace: set.Namespace, Name: set.Name}}
		key := object.Name{Namespace: set.Namespace, Name: pod}
		pods[key] = append(pods[key], c.Name)
	}
	for _, claims := range pods {
		b.join(claims)
	}
}

// join puts the planned ones of the claims into the group with the smallest index.
func (b *builder) join(names []object.Name) {
	var groups []int
	for _, name := range names {
		if c := b.plan.Claim(name); c != nil {
			groups = append(groups, c.Group)
		}
	}
	for i := range b.plan.Claims {
		if slices.Contains(groups, b.plan.Claims[i].Group) {
			b.plan.Claims[i].Group = slices.Min(groups)
		}
	}
}

func (b *builder) addToGroup(c *Claim, consumers map[object.Name][]object.Key, specs map[object.Key]*corev1.PodSpec) {
	i := slices.IndexFunc(b.plan.Groups, func(g Group) bool { return g.Index == c.Group })
	if i < 0 {
		b.plan.Groups = append(b.plan.Groups, Group{Index: c.Group})
		i = len(b.plan.Groups) - 1
	}
	g := &b.plan.Groups[i]
	g.Claims = append(g.Claims, c.Name)
	for _, key := range consumers[c.Name] {
		if slices.Contains(g.Consumers, key) {
			continue
		}
		g.Consumers = append(g.Consumers, key)
		// The first consumer decides where: claims that several workloads share can only be where all of them can.
		if spec := specs[key]; len(g.Consumers) == 1 && spec != nil {
			g.NodeSelector, g.Tolerations = spec.NodeSelector, spec.Tolerations
			if spec.Affinity != nil {
				g.NodeAffinity = spec.Affinity.NodeAffinity
			}
		}
	}
}

// objects sorts the commit's objects, and says what each needs.
func (b *builder) objects() error {
	for _, key := range slices.SortedFunc(maps.Keys(b.set), object.Key.Compare) {
		needs, err := b.needs(b.set[key])
		if err != nil {
			return err
		}
		o := Object{Key: key, Manifest: b.set[key], Needs: needs}
		switch {
		case b.in.Facts.Existing[key]:
			// Left as it is: the mapping does not lead to it.
		case object.IsDefinition(o.Manifest):
			b.plan.Definitions = append(b.plan.Definitions, o)
		case object.IsWorkload(o.Manifest):
			waits, err := b.waitsFor(o.Manifest)
			if err != nil {
				return err
			}
			b.plan.Workloads = append(b.plan.Workloads, Workload{Object: o, WaitsFor: waits})
		case key.GroupKind() == object.Claim && b.plan.Claim(key.NamespacedName()) != nil:
			// Reserved and filled instead of applied.
		case key.GroupKind() == object.Claim && b.in.Facts.Claims[key.NamespacedName()].Spec.VolumeName != "":
			// Left as it is, as its note says: it may have grown since, and cannot be made smaller.
		default:
			b.plan.Base = append(b.plan.Base, o)
		}
	}
	b.order()
	return nil
}

// waitsFor names the workload's own claims that are filled. Those of a StatefulSet's replicas that are not asked for yet
// count too: were the set scaled before they are reserved, it would make empty ones.
func (b *builder) waitsFor(u *unstructured.Unstructured) ([]object.Name, error) {
	pods, err := object.Pods(u)
	if err != nil {
		return nil, err
	}
	set, err := object.StatefulSet(u)
	if err != nil {
		return nil, err
	}
	var waits []object.Name
	for _, c := range b.plan.Claims {
		used := slices.ContainsFunc(pods, func(p object.Pod) bool { return slices.Contains(p.Claims, c.Name) })
		if !used && set != nil {
			_, _, used = object.TemplateOf(set, c.Name)
		}
		if used {
			waits = append(waits, c.Name)
		}
	}
	return waits, nil
}

// notes says what becomes of the claims that the commit uses and the point does not fill.
func (b *builder) notes() error {
	used := map[object.Name]string{}
	for _, key := range slices.SortedFunc(maps.Keys(b.set), object.Key.Compare) {
		if key.GroupKind() == object.Claim {
			used[key.NamespacedName()] = b.emptyReason(b.set[key])
			continue
		}
		pods, err := object.Pods(b.set[key])
		if err != nil {
			return err
		}
		for _, pod := range pods {
			for _, name := range pod.Claims {
				if used[name] == "" {
					used[name] = b.unrenderedReason(name, key)
				}
			}
		}
	}
	for _, name := range slices.SortedFunc(maps.Keys(used), object.Name.Compare) {
		if b.plan.Claim(name) == nil {
			b.plan.Notes = append(b.plan.Notes, Note{Claim: name, Reason: used[name]})
		}
	}
	return nil
}

func (b *builder) emptyReason(u *unstructured.Unstructured) string {
	name := object.KeyOf(u).NamespacedName()
	if b.in.Facts.Claims[name].Spec.VolumeName != "" {
		return "exists and is left as it is: the point holds no data of it"
	}
	if why, excluded := u.GetAnnotations()[v1alpha1.AnnotationExclude]; excluded {
		return fmt.Sprintf("starts empty: it is excluded from restore points (%s)", cmp.Or(why, "no reason given"))
	}
	return "starts empty: the point holds no data of it"
}

func (b *builder) unrenderedReason(name object.Name, user object.Key) string {
	_, template, _ := b.templateOf(name)
	switch {
	case b.in.Facts.Claims[name].Spec.VolumeName != "":
		return "exists and is left as it is: the point holds no data of it"
	case template != nil:
		return fmt.Sprintf("starts empty: %s makes it, and the point holds no data of it", user)
	default:
		return fmt.Sprintf("is in neither Git nor the point: pods of %s wait until somebody makes it", user)
	}
}
