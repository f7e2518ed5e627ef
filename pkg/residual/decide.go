package residual

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// Object is a live object as Decide sees it: who it is and what others wrote on it. Nothing of its content is here.
type Object struct {
	Key         object.Key
	APIVersion  string
	UID         types.UID
	Labels      map[string]string
	Annotations map[string]string
	Owners      []metav1.OwnerReference
	Deleting    bool
}

// Want is who needs a Secret or ConfigMap.
type Want struct {
	// By is "<kind> <name>" of an object of Git.
	By string
	// Required is unset where the object can do without.
	Required bool
}

// Facts is what Decide is told of a cluster.
type Facts struct {
	// Objects are those of the namespaces and kinds that were looked at, in any order.
	Objects []Object
	// Git maps what Git brings onto who brings it, in words: "Kustomization flux-system/shop".
	Git map[object.Key]string
	// Applications are those, "<namespace>/<name>", of whose objects Git holds all that Lockstep applied.
	Applications map[string]bool
	// Releases are the Helm releases that Git brings, by the place of their storage and their name.
	Releases map[object.Name]string
	// Wanted are the Secrets and ConfigMaps that objects of Git refer to.
	Wanted map[object.Key]Want
	// Owners are owners that are not among Objects; Gone are the UIDs of owners that are no more. An owner that is in
	// neither could not be looked at.
	Owners map[types.UID]Object
	Gone   map[types.UID]bool
	// Selecting are the Services, of those that are there, that find their endpoints by a selector.
	Selecting map[object.Name]bool
	// Bootstrap says, of those of Objects that are in namespaces of the engines, who needs them there.
	Bootstrap map[object.Key]string
	// OwnedConfigMaps keeps ConfigMaps that others own, as Secrets are.
	OwnedConfigMaps bool
}

// Verdict is what becomes of an object.
type Verdict string

// Verdicts.
const (
	// In: it is residual, and kept with the restore point.
	In Verdict = "in"
	// Out: Git or a controller brings it again, or nobody needs it.
	Out Verdict = "out"
	// Missing: an object of Git cannot do without it, and it is nowhere.
	Missing Verdict = "missing"
)

// Decision is the verdict on one object, and why in words.
type Decision struct {
	Key     object.Key `json:"object"`
	Verdict Verdict    `json:"verdict"`
	Reason  string     `json:"reason"`
}

// Decide says of every object, and of every Secret and ConfigMap that is wanted and not there, whether it is residual. The
// decisions are sorted by key; the same facts always give the same.
func Decide(f Facts) []Decision {
	j := judge{Facts: f, byUID: map[types.UID]Object{}}
	for _, o := range f.Objects {
		j.byUID[o.UID] = o
	}
	present := map[object.Key]bool{}
	decisions := make([]Decision, 0, len(f.Objects))
	for _, o := range f.Objects {
		d := j.decide(o)
		if o.Deleting && d.Verdict == Out && j.git(o) == "" && f.Wanted[o.Key].Required {
			continue // soon it is not there
		}
		present[o.Key] = true
		decisions = append(decisions, d)
	}
	for _, key := range slices.SortedFunc(maps.Keys(f.Wanted), object.Key.Compare) {
		if want := f.Wanted[key]; want.Required && !present[key] && f.Git[key] == "" {
			decisions = append(decisions, Decision{key, Missing, want.By + " needs it, and neither Git nor the cluster holds it"})
		}
	}
	slices.SortFunc(decisions, func(a, b Decision) int { return a.Key.Compare(b.Key) })
	return decisions
}

type judge struct {
	Facts
	byUID map[types.UID]Object
}

// rules are asked one after another: the first that has a reason has decided. A rule says why, or nothing. What none of them
// has a word for is residual.
var rules = []struct {
	verdict Verdict
	why     func(judge, Object) string
}{
	{Out, func(_ judge, o Object) string { return derivedKind(o.Key.GroupKind()) }},
	{Out, judge.endpoints},
	{Out, judge.unwanted},
	{Out, judge.git},
	{Out, judge.ephemeral},
	{Out, judge.reproducible},
	{In, judge.irreplaceable},
	{Out, judge.derived},
}

func (j judge) decide(o Object) Decision {
	for _, r := range rules {
		if why := r.why(j, o); why != "" {
			return Decision{o.Key, r.verdict, why}
		}
	}
	return Decision{o.Key, In, j.rest(o)}
}

// endpoints are those that the control plane finds by a Service's selector. Others were written by hand.
func (j judge) endpoints(o Object) string {
	switch o.Key.GroupKind().String() {
	case "Endpoints":
		selecting, exists := j.Selecting[o.Key.NamespacedName()]
		switch {
		case selecting:
			return "found again by its Service's selector"
		case !exists:
			return "belongs to no Service"
		}
	case "EndpointSlice.discovery.k8s.io":
		switch o.Labels["endpointslice.kubernetes.io/managed-by"] {
		case "endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io":
			return "found again by its Service"
		}
	}
	return ""
}

// unwanted objects are on their way out, or somebody said that they are not to be kept.
func (j judge) unwanted(o Object) string {
	reason, excluded := o.Annotations[v1alpha1.AnnotationExclude]
	switch {
	case o.Deleting:
		return "is being deleted"
	case excluded && reason != "":
		return "excluded by annotation: " + reason
	case excluded:
		return "excluded by annotation"
	}
	return ""
}

// Marks of Flux on what it applies.
const (
	labelKustomization          = "kustomize.toolkit.fluxcd.io/name"
	labelKustomizationNamespace = "kustomize.toolkit.fluxcd.io/namespace"
	labelHelmRelease            = "helm.toolkit.fluxcd.io/name"
	labelHelmReleaseNamespace   = "helm.toolkit.fluxcd.io/namespace"
	annotationArgoTracking      = "argocd.argoproj.io/tracking-id"
)

// git says who brings the object from Git. A label of Flux proves nothing: operators copy labels onto what they make.
func (j judge) git(o Object) string {
	if by := j.Git[o.Key]; by != "" {
		return "in Git: " + by
	}
	application := o.Labels[v1alpha1.LabelApplicationNamespace] + "/" + o.Labels[v1alpha1.LabelApplicationName]
	copied := slices.ContainsFunc(o.Owners, func(r metav1.OwnerReference) bool { return r.Controller != nil && *r.Controller })
	if o.Labels[v1alpha1.LabelApplicationName] != "" && !j.Applications[application] && !copied {
		return "in Git: Lockstep applied it for " + strings.TrimPrefix(application, "/")
	}
	if id := o.Annotations[annotationArgoTracking]; id != "" {
		if application, ok := tracked(id, o.Key); ok {
			return "in Git: Argo CD Application " + application
		}
	}
	return ""
}

// tracked tells whether Argo CD's tracking id, "<application>:<group>/<kind>:<namespace>/<name>", is that of the object:
// operators copy annotations onto what they make.
func tracked(id string, key object.Key) (application string, ok bool) {
	application, rest, ok := strings.Cut(id, ":")
	if !ok {
		return "", false
	}
	return application, rest == key.Group+"/"+key.Kind+":"+key.Namespace+"/"+key.Name
}

// servers are the kinds by which an API server says where it is.
var servers = []string{"Service", "Endpoints", "EndpointSlice"}

// ephemeral objects come with every cluster and every namespace, or are worth nothing in another one.
func (j judge) ephemeral(o Object) string {
	ofServer := o.Key.Namespace == metav1.NamespaceDefault && o.Key.Name == "kubernetes" && slices.Contains(servers, o.Key.Kind)
	if ofServer || o.Labels["kubernetes.io/bootstrapping"] != "" {
		return "made by the API server itself"
	}
	switch o.Key.GroupKind() {
	case object.ServiceAccount:
		if o.Key.Name == "default" {
			return "comes with every namespace"
		}
	case object.ConfigMap:
		return ephemeralConfigMap(o)
	case object.Secret:
		return j.ephemeralSecret(o)
	}
	return ""
}

func ephemeralConfigMap(o Object) string {
	switch o.Key.Name {
	case "kube-root-ca.crt", "openshift-service-ca.crt", "istio-ca-root-cert":
		return "put into every namespace by the control plane"
	}
	if o.Labels["trust.cert-manager.io/bundle"] != "" {
		return "put there by its trust bundle"
	}
	if o.Annotations["control-plane.alpha.kubernetes.io/leader"] != "" {
		return "a lock of a running process"
	}
	return ""
}

func (j judge) ephemeralSecret(o Object) string {
	_, token := o.Annotations["kubernetes.io/service-account.name"]
	_, wanted := j.Wanted[o.Key]
	switch {
	case token && !wanted: // one that Git's objects name is kept without its token
		return "a token of a ServiceAccount: the control plane makes it anew"
	case strings.HasPrefix(o.Key.Name, "bootstrap-token-") && o.Key.Namespace == metav1.NamespaceSystem:
		return "a token that nodes join with"
	case o.Labels["cert-manager.io/next-private-key"] == "true":
		return "a key of a certificate that is being issued"
	}
	if release, ok := helmRelease(o); ok {
		if by := j.Releases[release]; by != "" {
			return "Helm's storage of " + by + ", which makes it anew"
		}
	}
	return ""
}

// helmRelease is the release whose storage a Secret is.
func helmRelease(o Object) (object.Name, bool) {
	ok := strings.HasPrefix(o.Key.Name, "sh.helm.release.v1.") && o.Labels["owner"] == "helm"
	return object.Name{Namespace: o.Key.Namespace, Name: o.Labels["name"]}, ok
}

// reproducible objects are copies: what they were made from makes them again, and would not adopt ours.
func (j judge) reproducible(o Object) string {
	for _, owner := range o.Owners {
		switch owner.Kind {
		case "ExternalSecret", "SealedSecret":
			return "made again by " + owner.Kind + " " + owner.Name
		}
	}
	if o.Labels["reconcile.external-secrets.io/managed"] == "true" {
		return "made again by an ExternalSecret"
	}
	for _, mark := range []string{
		"replicator.v1.mittwald.de/replicated-from-version", "replicator.v1.mittwald.de/replicated-at",
		"reflector.v1.k8s.emberstack.com/reflects", "kubed.appscode.com/origin",
	} {
		if o.Annotations[mark] != "" {
			return "a copy, which its replicator makes again"
		}
	}
	return ""
}

// irreplaceable objects have an owner that would make them again, but not with the same content: passwords, keys.
func (j judge) irreplaceable(o Object) string {
	gk := o.Key.GroupKind()
	if gk != object.Secret && (gk != object.ConfigMap || !j.OwnedConfigMaps) || len(o.Owners) == 0 {
		return ""
	}
	if j.abandoned(o) {
		return ""
	}
	owner := o.Owners[0]
	return j.wantedBy(o, fmt.Sprintf("%s %s owns it, and would make it again with other content", owner.Kind, owner.Name))
}

// abandoned says that every owner of an object is gone, so that it will be deleted.
func (j judge) abandoned(o Object) bool {
	return len(o.Owners) > 0 && !slices.ContainsFunc(o.Owners, func(r metav1.OwnerReference) bool { return !j.Gone[r.UID] })
}

// derived objects are made again by whom they belong to.
func (j judge) derived(o Object) string {
	if len(o.Owners) == 0 {
		return ""
	}
	if j.abandoned(o) {
		return fmt.Sprintf("its owner %s %s is gone: it will be deleted", o.Owners[0].Kind, o.Owners[0].Name)
	}
	root := j.root(o)
	switch known, found := j.find(root.UID); {
	case !found:
		return fmt.Sprintf("made again by %s %s, which owns it", root.Kind, root.Name)
	case j.git(known) != "":
		return fmt.Sprintf("made again by %s %s, which is in Git", root.Kind, root.Name)
	default:
		return fmt.Sprintf("made again by %s %s", root.Kind, root.Name)
	}
}

// root follows the owners of an object that has one, upwards as far as they are known.
func (j judge) root(o Object) metav1.OwnerReference {
	seen := map[types.UID]bool{o.UID: true}
	for {
		next := principal(o.Owners)
		known, found := j.find(next.UID)
		if !found || seen[next.UID] || len(known.Owners) == 0 || j.abandoned(known) {
			return next
		}
		seen[next.UID] = true
		o = known
	}
}

// principal is the owner that controls an object, else its first.
func principal(owners []metav1.OwnerReference) metav1.OwnerReference {
	for _, r := range owners {
		if r.Controller != nil && *r.Controller {
			return r
		}
	}
	return owners[0]
}

func (j judge) find(uid types.UID) (Object, bool) {
	if o, ok := j.byUID[uid]; ok {
		return o, true
	}
	o, ok := j.Owners[uid]
	return o, ok
}

// rest is whatever nobody brings.
func (j judge) rest(o Object) string {
	if _, isRelease := helmRelease(o); isRelease && o.Key.GroupKind() == object.Secret {
		return "Helm's storage of a release that Git does not bring"
	}
	switch {
	case o.Labels[labelKustomization] != "":
		return j.wantedBy(o, "bears the label of Kustomization "+o.Labels[labelKustomizationNamespace]+"/"+o.Labels[labelKustomization]+
			", which does not bring it")
	case o.Labels[labelHelmRelease] != "":
		return j.wantedBy(o, "bears the label of HelmRelease "+o.Labels[labelHelmReleaseNamespace]+"/"+o.Labels[labelHelmRelease]+
			", which does not bring it")
	case o.Annotations["cert-manager.io/certificate-name"] != "":
		return j.wantedBy(o, "an issued certificate with its key")
	}
	return j.wantedBy(o, "not in Git, and nobody makes it again")
}

// wantedBy adds who needs the object to the reason.
func (j judge) wantedBy(o Object, reason string) string {
	if want := j.Wanted[o.Key]; want.By != "" {
		return reason + "; " + want.By + " needs it"
	}
	return reason
}
