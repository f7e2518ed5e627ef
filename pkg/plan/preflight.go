package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// Preflight is what was found out about a plan so that a restore does not begin what it cannot end.
type Preflight struct {
	// Begun says that the restore has made claims already. What it takes of quotas and storage is then no question any more.
	Begun bool
	// Denied is what the controller may not do of the plan's Accesses.
	Denied []Access
	// Quotas are those of the plan's namespaces, and Claimed the claims that exist in these.
	Quotas  []Quota
	Claimed []Room
	// Capacity is, by class, what its driver says of its storage. A class that is not in it was not asked about.
	Capacity map[string]Capacity
	// Fixed are workloads that exist and cannot become the commit's.
	Fixed []Fixed
	// Images are those of which something is known that speaks against the restore.
	Images []ImageAnswer
	// NotChecked says what could not be found out, and why.
	NotChecked []string
}

// Access is something that the controller must be allowed to do.
type Access struct {
	Kind schema.GroupKind
	// Namespace is empty for what has none.
	Namespace string
	Verb      string
}

// Room is the storage that one claim asks for.
type Room struct {
	Claim object.Name
	Class string
	Bytes int64
}

// Quota is a ResourceQuota.
type Quota struct {
	Name       object.Name
	Hard, Used corev1.ResourceList
}

// Capacity is what the driver of a class says of its storage.
type Capacity struct {
	Driver string
	// Published says that the driver publishes its capacity at all, and has done so for the class.
	Published bool
	// Total is the sum over all places, Largest what a single volume may have at most.
	Total, Largest int64
}

// Fixed is a workload with fields that cannot be changed to what the commit says.
type Fixed struct {
	object.Key
	Fields []string
}

// ImageAnswer is what a registry said of an image.
type ImageAnswer struct {
	Image string
	// Missing: the registry has answered, and does not have it. Otherwise it is not known whether it does.
	Missing bool
	// Why is the registry's answer.
	Why string
}

// Image is an image of the commit's pods.
type Image struct {
	Name string
	// Users are the workloads that run it.
	Users []object.Key
	// PullSecrets are named by the users' pods, Accounts are their service accounts, which may name more.
	PullSecrets, Accounts []object.Name
}

var (
	kindQuota  = schema.GroupKind{Kind: "ResourceQuota"}
	kindVolume = schema.GroupKind{Kind: "PersistentVolume"}
	kindJob    = schema.GroupKind{Group: "batch", Kind: "Job"}
)

// Accesses is everything that the controller must be allowed to do to carry out the plan, sorted.
func (p *Plan) Accesses(residual []object.Key) []Access {
	set := map[Access]bool{}
	add := func(kind schema.GroupKind, namespace string, verbs ...string) {
		for _, verb := range verbs {
			set[Access{kind, namespace, verb}] = true
		}
	}
	for _, o := range p.objects() {
		add(o.GroupKind(), o.Namespace, "get", "create", "patch")
	}
	for _, key := range residual {
		add(key.GroupKind(), key.Namespace, "get", "create")
	}
	for _, c := range p.Claims {
		add(object.Claim, c.Name.Namespace, "get", "create", "patch")
		if c.SetAside != nil {
			add(object.Claim, c.Name.Namespace, "delete")
		}
	}
	for _, s := range p.Stops {
		add(s.GroupKind(), s.Namespace, "get", "patch")
	}
	if len(p.Claims) > 0 {
		add(object.Claim, v1alpha1.SystemNamespace, "get", "create", "patch", "delete")
		add(kindJob, v1alpha1.SystemNamespace, "get", "create", "delete")
		add(kindVolume, "", "get", "patch")
	}
	return slices.SortedFunc(maps.Keys(set), func(a, b Access) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Kind.Group, b.Kind.Group), cmp.Compare(a.Kind.Kind, b.Kind.Kind),
			cmp.Compare(a.Verb, b.Verb))
	})
}

// objects are all that the plan applies.
func (p *Plan) objects() []Object {
	all := slices.Concat(p.Definitions, p.Base)
	for _, l := range p.Workloads {
		all = append(all, l.Object)
	}
	return all
}

// Resource is the name of a kind in requests, if the commit defines the kind.
func (p *Plan) Resource(kind schema.GroupKind) string {
	for _, o := range p.Definitions {
		if o.GroupKind() == object.CustomResourceDefinition && definedBy(o.Manifest) == kind {
			plural, _, _ := unstructured.NestedString(o.Manifest.Object, "spec", "names", "plural")
			return plural
		}
	}
	return ""
}

// Rooms is the storage that the plan asks for: each volume where it is filled, as large as its data needs, and again as the
// application's own claim; and the claims that start empty.
func (p *Plan) Rooms() (staged, own, empty []Room) {
	for _, c := range p.Claims {
		staging := object.Name{Namespace: v1alpha1.SystemNamespace, Name: c.Name.String()}
		staged = append(staged, Room{staging, c.StorageClass, c.Size})
		own = append(own, Room{c.Name, c.StorageClass, c.Target.Spec.Resources.Requests.Storage().Value()})
	}
	for _, o := range p.Base {
		claim := &corev1.PersistentVolumeClaim{}
		if o.GroupKind() != object.Claim || runtime.DefaultUnstructuredConverter.FromUnstructured(o.Manifest.Object, claim) != nil {
			continue // what is malformed, the API server says
		}
		empty = append(empty, p.room(o.NamespacedName(), claim))
	}
	for _, l := range p.Workloads {
		empty = append(empty, p.templated(l)...)
	}
	return staged, own, empty
}

func (p *Plan) room(name object.Name, claim *corev1.PersistentVolumeClaim) Room {
	class := p.defaultClass
	if claim.Spec.StorageClassName != nil {
		class = *claim.Spec.StorageClassName
	}
	return Room{name, class, claim.Spec.Resources.Requests.Storage().Value()}
}

// templated is the storage of the claims that a StatefulSet makes and the point does not fill.
func (p *Plan) templated(l Workload) []Room {
	set, err := object.StatefulSet(l.Manifest)
	if err != nil || set == nil {
		return nil // the plan could not have been made of a malformed one
	}
	pods, err := object.Pods(l.Manifest)
	if err != nil {
		return nil
	}
	var rooms []Room
	for _, pod := range pods {
		for _, name := range pod.Claims {
			if template, _, ok := object.TemplateOf(set, name); ok && p.Claim(name) == nil {
				rooms = append(rooms, p.room(name, template))
			}
		}
	}
	return rooms
}

// Images are the images of the commit's pods, sorted.
func (p *Plan) Images() ([]Image, error) {
	images := map[string]*Image{}
	for _, l := range p.Workloads {
		spec, err := object.PodSpec(l.Manifest)
		if err != nil {
			return nil, err
		}
		if spec == nil {
			continue
		}
		for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
			image := images[c.Image]
			if image == nil {
				image = &Image{Name: c.Image}
				images[c.Image] = image
			}
			image.Users = append(image.Users, l.Key)
			image.Accounts = append(image.Accounts, object.Name{Namespace: l.Namespace, Name: account(spec)})
			for _, s := range spec.ImagePullSecrets {
				image.PullSecrets = append(image.PullSecrets, object.Name{Namespace: l.Namespace, Name: s.Name})
			}
		}
	}
	var all []Image
	for _, name := range slices.Sorted(maps.Keys(images)) {
		if name != "" {
			all = append(all, *images[name])
		}
	}
	return all, nil
}

// Check adds to the plan what the preflight found: refusals, and notes of what is not known.
func (p *Plan) Check(known Preflight) error {
	p.refuseAccess(known.Denied)
	if !known.Begun {
		if err := p.refuseQuotas(known); err != nil {
			return err
		}
		p.refuseCapacity(known)
		p.refuseFixed(known.Fixed)
	}
	if err := p.refuseImages(known.Images); err != nil {
		return err
	}
	p.NotChecked = append(p.NotChecked, known.NotChecked...)
	return nil
}

func (p *Plan) refusef(format string, args ...any) {
	p.Refusals = append(p.Refusals, fmt.Sprintf(format, args...))
}

func (p *Plan) notef(format string, args ...any) {
	p.NotChecked = append(p.NotChecked, fmt.Sprintf(format, args...))
}

// refuseAccess says in one sentence for each kind and namespace what the controller may not do.
func (p *Plan) refuseAccess(denied []Access) {
	for len(denied) > 0 {
		first, verbs := denied[0], []string{}
		denied = slices.DeleteFunc(slices.Clone(denied), func(a Access) bool {
			same := a.Kind == first.Kind && a.Namespace == first.Namespace
			if same {
				verbs = append(verbs, a.Verb)
			}
			return same
		})
		where := ""
		if first.Namespace != "" {
			where = " in namespace " + first.Namespace
		}
		p.refusef("the controller may not %s a %s%s; give its account a role that allows it, as lockstep install does with the "+
			"ClusterRoleBinding lockstep-restore", strings.Join(verbs, ", "), first.Kind, where)
	}
}

// refuseQuotas compares what the plan asks for with what is left of each quota, also of those that the commit brings.
func (p *Plan) refuseQuotas(known Preflight) error {
	quotas, err := p.quotas(known)
	if err != nil {
		return err
	}
	staged, own, empty := p.Rooms()
	exists := func(r Room) bool {
		return slices.ContainsFunc(known.Claimed, func(c Room) bool { return c.Claim == r.Claim })
	}
	wanted := slices.DeleteFunc(slices.Concat(staged, own, empty), exists)
	for _, q := range quotas {
		want := usage(wanted, q.Name.Namespace)
		for _, name := range slices.Sorted(maps.Keys(want)) {
			hard, limited := q.Hard[name]
			used := q.Used[name]
			left := max(0, hard.Value()-used.Value())
			if !limited || want[name] <= left {
				continue
			}
			amount := func(n int64) string { return size(n) }
			if strings.HasSuffix(string(name), "persistentvolumeclaims") {
				amount = func(n int64) string { return count(n, "claim") }
			}
			why := ""
			if q.Name.Namespace == v1alpha1.SystemNamespace {
				why = ", where volumes are filled,"
			}
			p.refusef("namespace %s%s needs %s more, and quota %s has %s left of %s (%s); raise the quota, or delete claims that are not needed",
				q.Name.Namespace, why, amount(want[name]), q.Name, amount(left), amount(hard.Value()), name)
		}
	}
	return nil
}

// quotas are the existing ones and those that the commit brings, which take the place of existing ones.
func (p *Plan) quotas(known Preflight) ([]Quota, error) {
	byName := map[object.Name]Quota{}
	for _, q := range known.Quotas {
		byName[q.Name] = q
	}
	for _, o := range p.Base {
		if o.GroupKind() != kindQuota {
			continue
		}
		rendered := &corev1.ResourceQuota{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Manifest.Object, rendered); err != nil {
			return nil, fmt.Errorf("reading %s: %w: %w", o.Key, object.ErrMalformed, err)
		}
		q, exists := byName[o.NamespacedName()]
		if !exists {
			q = Quota{Name: o.NamespacedName(), Used: corev1.ResourceList{}}
			for name, n := range usage(known.Claimed, o.Namespace) {
				q.Used[name] = *resource.NewQuantity(n, resource.BinarySI)
			}
		}
		q.Hard = rendered.Spec.Hard
		byName[q.Name] = q
	}
	return slices.SortedFunc(maps.Values(byName), func(a, b Quota) int { return a.Name.Compare(b.Name) }), nil
}

// usage is what claims take of a namespace's quota, by the names that a quota has for it.
func usage(rooms []Room, namespace string) map[corev1.ResourceName]int64 {
	used := map[corev1.ResourceName]int64{}
	for _, r := range rooms {
		if r.Claim.Namespace != namespace {
			continue
		}
		used[corev1.ResourceRequestsStorage] += r.Bytes
		used[corev1.ResourcePersistentVolumeClaims]++
		used["count/persistentvolumeclaims"]++
		if r.Class != "" {
			prefix := corev1.ResourceName(r.Class + ".storageclass.storage.k8s.io/")
			used[prefix+corev1.ResourceRequestsStorage] += r.Bytes
			used[prefix+corev1.ResourcePersistentVolumeClaims]++
		}
	}
	return used
}

// refuseCapacity compares the volumes of each class with what its driver has published.
func (p *Plan) refuseCapacity(known Preflight) {
	staged, _, empty := p.Rooms()
	volumes := map[string][]Room{}
	for _, r := range slices.Concat(staged, empty) {
		isNew := !slices.ContainsFunc(known.Claimed, func(c Room) bool { return c.Claim == r.Claim })
		if r.Class != "" && isNew {
			volumes[r.Class] = append(volumes[r.Class], r)
		}
	}
	for _, class := range slices.Sorted(maps.Keys(volumes)) {
		var total, largest int64
		for _, r := range volumes[class] {
			total, largest = total+r.Bytes, max(largest, r.Bytes)
		}
		c, asked := known.Capacity[class]
		switch {
		case !asked: // the class does not exist, or why it was not asked about is among NotChecked
		case !c.Published:
			p.notef("whether class %s has room for %s: its driver %s publishes no capacity for it", class, size(total), c.Driver)
		case largest > c.Largest:
			p.refusef("class %s has room for no volume of %s: its driver %s publishes %s at most; give it more storage, or use another class",
				class, size(largest), c.Driver, size(c.Largest))
		case total > c.Total:
			p.refusef("class %s has no room for %s of volumes: its driver %s publishes %s; give it more storage, or use another class",
				class, size(total), c.Driver, size(c.Total))
		}
	}
}

// refuseFixed refuses before anything is stopped what could not be applied afterwards.
func (p *Plan) refuseFixed(fixed []Fixed) {
	for _, f := range fixed {
		way := "delete it"
		if f.GroupKind() == statefulSet {
			way = "delete it with --cascade=orphan and then its pods, so that its claims stay"
		}
		p.refusef("%s exists, and its %s cannot be changed to what the commit says; %s", f.Key, strings.Join(f.Fields, ", "), way)
	}
}

func (p *Plan) refuseImages(answers []ImageAnswer) error {
	if len(answers) == 0 {
		return nil
	}
	images, err := p.Images()
	if err != nil {
		return err
	}
	for _, a := range answers {
		i := slices.IndexFunc(images, func(image Image) bool { return image.Name == a.Image })
		switch {
		case i < 0:
		case a.Missing:
			p.refusef("image %s, which %s runs, is not in its registry (%s); push it again, or restore a commit whose images are there",
				a.Image, images[i].Users[0], a.Why)
		default:
			p.notef("whether image %s can be had: %s", a.Image, a.Why)
		}
	}
	return nil
}
