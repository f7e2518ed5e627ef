package coverage

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/desired"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// These rules ask whether the commit would give the same cluster again.

func imageNotDigest(s *scope) {
	for _, namespace := range slices.Sorted(maps.Keys(s.head.workloads)) {
		for _, w := range s.head.workloads[namespace] {
			var loose []string
			for _, c := range w.pod.InitContainers {
				loose = append(loose, c.Image)
			}
			for _, c := range w.pod.Containers {
				loose = append(loose, c.Image)
			}
			loose = slices.DeleteFunc(loose, func(i string) bool { return i == "" || parseImage(i).digest != "" })
			if len(loose) > 0 {
				s.find(w.Object, "no digest fixes what runs: "+quoted(loose), "write the digest behind the tag (image:tag@sha256:…), or let a tool of your pipeline do so")
			}
		}
	}
}

var (
	fullCommit = regexp.MustCompile(`^[0-9a-f]{40}([0-9a-f]{24})?$`)
	exact      = regexp.MustCompile(`^v?[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)
	fileAt     = regexp.MustCompile(`(?i)^https?://(?:raw\.githubusercontent\.com/[^/]+/[^/]+|github\.com/[^/]+/[^/]+/(?:raw|releases/download)|gitlab\.com/.+/-/raw)/(?:refs/tags/)?([^/]+)/`)
	remote     = regexp.MustCompile(`(?i)(^(https?|ssh|git)://|^git@|^(github|gitlab)\.com[/:]|^git::)`)
)

// exactVersion says that a version is one, and not a range of them.
func exactVersion(v string) bool { return exact.MatchString(v) }

func remoteBaseUnpinned(s *scope) {
	for _, g := range s.head.gaps {
		at := slices.IndexFunc(strings.Fields(g.What), remote.MatchString)
		if at < 0 {
			continue
		}
		url := strings.Trim(strings.Fields(g.What)[at], `"'`)
		if o := s.head.owners[g.Owner]; o != nil && chartFrom(o) != "" || fullCommit.MatchString(refOf(url)) {
			continue
		}
		f := s.add(Finding{Owner: g.Owner, Origin: g.Origin, Message: fmt.Sprintf("%s is not fixed to a commit: tomorrow it may be something else, or gone", url),
			Fix: "copy it into the repository, or name a full commit: ?ref=<40 digits>, or in the path of a file"})
		f.detail = url
		if exactVersion(refOf(url)) {
			f.Severity = Warning
			f.Message = fmt.Sprintf("%s is fixed to a tag only: tags can be moved, and the repository may be gone", url)
		}
	}
	for _, o := range s.head.byKind[schema.GroupKind{Group: "source.toolkit.fluxcd.io", Kind: "GitRepository"}] {
		if !s.elsewhere(o) {
			continue
		}
		commit, _, _ := unstructured.NestedString(o.Object, "spec", "ref", "commit")
		tag, _, _ := unstructured.NestedString(o.Object, "spec", "ref", "tag")
		if fullCommit.MatchString(commit) {
			continue
		}
		f := s.find(o, fmt.Sprintf("the GitRepository %s/%s follows what is pushed elsewhere", o.GetNamespace(), o.GetName()), "set spec.ref.commit")
		if tag != "" {
			f.Severity, f.Message = Warning, fmt.Sprintf("the GitRepository %s/%s is fixed to the tag %s only: tags can be moved", o.GetNamespace(), o.GetName(), tag)
		}
	}
}

// refOf is the revision that a URL names, in its query, or in its path where it is that of a file of one of the usual hosts; empty for none.
func refOf(url string) string {
	before, query, _ := strings.Cut(url, "?")
	if m := fileAt.FindStringSubmatch(before); m != nil {
		return m[1]
	}
	for part := range strings.SplitSeq(query, "&") {
		if name, value, _ := strings.Cut(part, "="); name == "ref" || name == "version" {
			return value
		}
	}
	return ""
}

// elsewhere says that a source is another repository than this one: something deploys from it and could not be rendered, and nothing
// that was rendered does.
func (s *scope) elsewhere(source *desired.Object) bool {
	missing := map[string]bool{}
	for _, g := range s.head.gaps {
		missing[g.Owner] = true
	}
	used := false
	for _, id := range slices.Sorted(maps.Keys(s.head.owners)) {
		o := s.head.owners[id]
		if o.Object == nil || o.Kind != desired.Kustomization {
			continue
		}
		kind, _, _ := unstructured.NestedString(o.Object.Object, "spec", "sourceRef", "kind")
		name, _, _ := unstructured.NestedString(o.Object.Object, "spec", "sourceRef", "name")
		namespace, _, _ := unstructured.NestedString(o.Object.Object, "spec", "sourceRef", "namespace")
		if kind != "GitRepository" || name != source.GetName() || cmp.Or(namespace, o.Namespace) != source.GetNamespace() {
			continue
		}
		if !missing[id] || o.Path != "" { // its directory is known to be in the repository
			return false
		}
		used = true
	}
	return used
}

// chartFrom names the chart that an owner takes from outside every Git repository; empty if it takes none.
func chartFrom(o *desired.Owner) string {
	if o.Object == nil {
		return ""
	}
	chart := ""
	switch o.Kind {
	case desired.HelmRelease:
		kind, _, _ := unstructured.NestedString(o.Object.Object, "spec", "chart", "spec", "sourceRef", "kind")
		if kind != "GitRepository" && kind != "Bucket" {
			chart, _, _ = unstructured.NestedString(o.Object.Object, "spec", "chart", "spec", "chart")
		}
	case desired.Application:
		chart, _, _ = unstructured.NestedString(o.Object.Object, "spec", "source", "chart")
	}
	return chart
}

func chartVersion(o *desired.Owner) string {
	version := ""
	switch o.Kind {
	case desired.HelmRelease:
		version, _, _ = unstructured.NestedString(o.Object.Object, "spec", "chart", "spec", "version")
	case desired.Application:
		version, _, _ = unstructured.NestedString(o.Object.Object, "spec", "source", "targetRevision")
	}
	return version
}

func chartRange(s *scope) {
	const fix = "name one version, as 1.2.3, or a digest"
	for _, id := range slices.Sorted(maps.Keys(s.head.owners)) {
		o := s.head.owners[id]
		if o.Object == nil || o.Skipped {
			continue
		}
		if chart := chartFrom(o); chart != "" && !exactVersion(chartVersion(o)) {
			s.findOwner(o, fmt.Sprintf("%s takes the chart %s in the version %s", o.ID, chart, named(chartVersion(o))), fix).detail = chart
		}
		sources, _, _ := unstructured.NestedSlice(o.Object.Object, "spec", "sources")
		for _, entry := range sources {
			source, _ := entry.(map[string]any)
			chart, _, _ := unstructured.NestedString(source, "chart")
			version, _, _ := unstructured.NestedString(source, "targetRevision")
			if o.Kind == desired.Application && chart != "" && !exactVersion(version) {
				s.findOwner(o, fmt.Sprintf("%s takes the chart %s in the version %s", o.ID, chart, named(version)), fix).detail = chart
			}
		}
	}
	for _, o := range s.head.byKind[schema.GroupKind{Group: "source.toolkit.fluxcd.io", Kind: "OCIRepository"}] {
		ref, _, _ := unstructured.NestedStringMap(o.Object, "spec", "ref")
		if ref["digest"] == "" && !exactVersion(ref["tag"]) {
			s.find(o, fmt.Sprintf("the OCIRepository %s/%s follows %s", o.GetNamespace(), o.GetName(), cmp.Or(ref["semver"], ref["tag"], "the tag latest")), fix)
		}
	}
}

func named(version string) string {
	if version == "" {
		return "that is the newest"
	}
	return fmt.Sprintf("%q", version)
}

// findOwner notes a finding about what deploys.
func (s *scope) findOwner(o *desired.Owner, message, fix string) *Finding {
	return s.add(Finding{Object: reference(o.Object), Owner: o.ID, Origin: o.Origin, Message: message, Fix: fix})
}

// secretMaker makes Secrets in the cluster of what Git holds.
type secretMaker struct {
	schema.GroupKind
	// Path leads to the Secret's name; empty, or if nothing is there, it is the object's own name.
	Path []string
	// Suffixes are behind the object's own name.
	Suffixes []string
}

var secretMakers = []secretMaker{
	{GroupKind: schema.GroupKind{Group: "external-secrets.io", Kind: "ExternalSecret"}, Path: []string{"spec", "target", "name"}},
	{GroupKind: schema.GroupKind{Group: "kubernetes-client.io", Kind: "ExternalSecret"}},
	{GroupKind: schema.GroupKind{Group: "bitnami.com", Kind: "SealedSecret"}, Path: []string{"spec", "template", "metadata", "name"}},
	{GroupKind: schema.GroupKind{Group: "isindir.github.com", Kind: "SopsSecret"}},
	{GroupKind: schema.GroupKind{Group: "cert-manager.io", Kind: "Certificate"}, Path: []string{"spec", "secretName"}},
	{GroupKind: schema.GroupKind{Group: "secrets.hashicorp.com", Kind: "VaultStaticSecret"}, Path: []string{"spec", "destination", "name"}},
	{GroupKind: schema.GroupKind{Group: "secrets.hashicorp.com", Kind: "VaultDynamicSecret"}, Path: []string{"spec", "destination", "name"}},
	{GroupKind: schema.GroupKind{Group: "secrets.infisical.com", Kind: "InfisicalSecret"}, Path: []string{"spec", "managedSecretReference", "secretName"}},
	{GroupKind: schema.GroupKind{Group: "onepassword.com", Kind: "OnePasswordItem"}},
	{GroupKind: schema.GroupKind{Group: "secrets.doppler.com", Kind: "DopplerSecret"}, Path: []string{"spec", "managedSecret", "name"}},
	{GroupKind: schema.GroupKind{Group: "ricoberger.de", Kind: "VaultSecret"}},
	{GroupKind: schema.GroupKind{Group: "postgresql.cnpg.io", Kind: "Cluster"}, Suffixes: []string{"-app", "-superuser", "-ca", "-server", "-replication"}},
	{GroupKind: schema.GroupKind{Group: "postgres-operator.crunchydata.com", Kind: "PostgresCluster"}, Suffixes: []string{"-pguser-*"}},
	{GroupKind: schema.GroupKind{Group: "kafka.strimzi.io", Kind: "KafkaUser"}},
	{GroupKind: schema.GroupKind{Group: "kafka.strimzi.io", Kind: "Kafka"}, Suffixes: []string{"-cluster-ca-cert", "-clients-ca-cert"}},
	{GroupKind: schema.GroupKind{Group: "elasticsearch.k8s.elastic.co", Kind: "Elasticsearch"}, Suffixes: []string{"-es-elastic-user", "-es-http-certs-public"}},
	{GroupKind: schema.GroupKind{Group: "rabbitmq.com", Kind: "RabbitmqCluster"}, Suffixes: []string{"-default-user"}},
}

// servingCert are the annotations by which a Service asks OpenShift for a Secret with its certificate.
var servingCert = []string{"service.beta.openshift.io/serving-cert-secret-name", "service.alpha.openshift.io/serving-cert-secret-name"}

// names are those of the Secrets that an object of a maker's kind makes; a star at the end stands for anything.
func (m secretMaker) names(u *unstructured.Unstructured) []string {
	var out []string
	for _, suffix := range m.Suffixes {
		out = append(out, u.GetName()+suffix)
	}
	if len(out) > 0 {
		return out
	}
	name := ""
	if len(m.Path) > 0 {
		name, _, _ = unstructured.NestedString(u.Object, m.Path...)
	}
	return []string{cmp.Or(name, u.GetName())}
}

// made are the owners of what makes Secrets, by the names of these.
func (v *view) made() map[object.Name][]string {
	out := map[object.Name][]string{}
	for _, m := range secretMakers {
		for _, o := range v.byKind[m.GroupKind] {
			for _, name := range m.names(o.Unstructured) {
				at := object.Name{Namespace: o.GetNamespace(), Name: name}
				out[at] = append(out[at], o.Owner)
			}
		}
	}
	for _, o := range v.byKind[schema.GroupKind{Kind: "Service"}] {
		for _, key := range servingCert {
			if name := o.GetAnnotations()[key]; name != "" {
				at := object.Name{Namespace: o.GetNamespace(), Name: name}
				out[at] = append(out[at], o.Owner)
			}
		}
	}
	return out
}

// makes says that something beside an owner makes a Secret.
func makes(made map[object.Name][]string, v *view, name object.Name, owner string) bool {
	beside := func(other string) bool { return v.together(other, owner) }
	if slices.ContainsFunc(made[name], beside) {
		return true
	}
	for at := len(name.Name) - 1; at > 0; at-- {
		if name.Name[at] == '-' && slices.ContainsFunc(made[object.Name{Namespace: name.Namespace, Name: name.Name[:at+1] + "*"}], beside) {
			return true
		}
	}
	return false
}

func secretNotInGit(s *scope) {
	type needed struct {
		secret object.Name
		owner  string
	}
	seen, made := map[needed]bool{}, s.head.made()
	for _, o := range s.head.objects {
		refs, err := object.References(o.Unstructured)
		if err != nil {
			continue // it is among the gaps
		}
		for _, r := range refs {
			if r.Kind != object.Secret.Kind || r.Optional || seen[needed{r.Name, o.Owner}] {
				continue
			}
			seen[needed{r.Name, o.Owner}] = true
			if !makes(made, s.head, r.Name, o.Owner) {
				s.lookForSecret(o, r.Name)
			}
		}
	}
}

func (s *scope) lookForSecret(o *desired.Object, name object.Name) {
	if s.head.has(object.Key{Kind: object.Secret.Kind, Namespace: name.Namespace, Name: name.Name}, o.Owner) {
		return
	}
	// A restore point keeps what its namespace has and Git does not.
	if slices.ContainsFunc(s.head.policies[name.Namespace], func(p *policy) bool { return s.head.together(p.Owner, o.Owner) }) {
		return
	}
	f := s.add(Finding{Object: Object{APIVersion: "v1", Kind: object.Secret.Kind, Namespace: name.Namespace, Name: name.Name}, Owner: o.Owner, Origin: o.Origin,
		Message: fmt.Sprintf("%s %s needs the Secret %s, and nothing in Git makes it", o.GetKind(), o.GetName(), name.Name),
		Fix:     "bring it by SOPS, an ExternalSecret or a SealedSecret; or put a ProtectionPolicy into the namespace, whose points keep what Git does not hold"})
	if gaps := s.head.unseen(name.Namespace, o.Owner); len(gaps) > 0 {
		f.Severity = Note
		f.Message += " as far as it was rendered; not rendered: " + words(gaps)
	}
}

func keyEscrow(s *scope) {
	for _, id := range slices.Sorted(maps.Keys(s.head.owners)) {
		o := s.head.owners[id]
		if o.Kind != desired.Kustomization || o.Object == nil || o.Skipped {
			continue
		}
		name, _, _ := unstructured.NestedString(o.Object.Object, "spec", "decryption", "secretRef", "name")
		if name == "" || s.keeps(o) {
			continue
		}
		s.findOwner(o, fmt.Sprintf("%s opens its secrets with the Secret %s/%s, and no restore point keeps it: without that key the commit cannot be deployed on a fresh cluster", id, o.Namespace, name),
			"put a ProtectionPolicy into a namespace that this Kustomization deploys into; its points keep the key. Or keep the key elsewhere, and say where with "+AnnotationIgnore).detail = name
	}
}

// keeps says that the points of some policy keep what the owner itself needs: those of a namespace that it deploys into.
func (s *scope) keeps(o *desired.Owner) bool {
	for _, list := range s.head.policies {
		for _, p := range list {
			if p.Owner == o.ID {
				return true
			}
			if slices.ContainsFunc(s.head.volumes, func(w *volume) bool { return w.Owner == o.ID && slices.Contains(s.head.protection(w).policies, p) }) {
				return true
			}
		}
	}
	return false
}

func nondeterministic(s *scope) {
	for _, u := range s.Facts.Unstable {
		at := desired.Origin{}
		for _, o := range s.head.byKey[u.Object.key()] {
			if o.Owner == u.Owner {
				at = o.Origin
			}
		}
		s.add(Finding{Object: u.Object, Owner: u.Owner, Origin: at, Message: fmt.Sprintf("two renderings of this commit give %s %s differently", u.Object.Kind, u.Object.Name),
			Fix: "take out what makes it so: random or time functions, and lookups of the cluster, in its template"})
	}
}

func externalSubstitution(s *scope) {
	for _, id := range slices.Sorted(maps.Keys(s.head.owners)) {
		o := s.head.owners[id]
		if o.Object == nil || o.Skipped {
			continue
		}
		path := []string{"spec", "postBuild", "substituteFrom"}
		if o.Kind == desired.HelmRelease {
			path = []string{"spec", "valuesFrom"}
		}
		entries, _, _ := unstructured.NestedSlice(o.Object.Object, path...)
		for _, entry := range entries {
			from, _ := entry.(map[string]any)
			kind, _, _ := unstructured.NestedString(from, "kind")
			name, _, _ := unstructured.NestedString(from, "name")
			if optional, _, _ := unstructured.NestedBool(from, "optional"); optional || name == "" {
				continue
			}
			if s.head.has(object.Key{Kind: kind, Namespace: o.Namespace, Name: name}, o.ID) {
				continue
			}
			f := s.findOwner(o, fmt.Sprintf("%s takes values from the %s %s/%s, which is not in Git", id, kind, o.Namespace, name),
				"bring it by Git (encrypted, if it must be), or write the values into the object itself")
			f.detail = kind + "/" + name
			if len(s.head.unchanged(o.Namespace, id)) > 0 {
				f.Severity = Note
			}
		}
	}
}

// knownGroups are those of engines: what has objects of these has them.
var knownGroups = []string{"kustomize.toolkit.fluxcd.io", "source.toolkit.fluxcd.io", "helm.toolkit.fluxcd.io", "notification.toolkit.fluxcd.io",
	"image.toolkit.fluxcd.io", "fluxcd.controlplane.io", "source.extensions.fluxcd.io", "argoproj.io", v1alpha1.GroupVersion.Group}

func crdOrClassMissing(s *scope) {
	s.missingKinds()
	s.missingClasses()
}

// inCluster is a kind or class that objects of one cluster need: it is missing once, however many need it.
type inCluster struct {
	cluster, name string
}

func (s *scope) missingKinds() {
	defined := map[schema.GroupKind][]string{}
	for _, o := range s.head.byKind[object.CustomResourceDefinition] {
		group, _, _ := unstructured.NestedString(o.Object, "spec", "group")
		kind, _, _ := unstructured.NestedString(o.Object, "spec", "names", "kind")
		gk := schema.GroupKind{Group: group, Kind: kind}
		defined[gk] = append(defined[gk], o.Owner)
	}
	seen := map[inCluster]bool{}
	for _, o := range s.head.objects {
		gk := o.GroupVersionKind().GroupKind()
		if !object.IsCustom(gk.Group) || slices.Contains(knownGroups, gk.Group) || seen[inCluster{s.head.cluster(o.Owner), gk.String()}] {
			continue
		}
		if slices.ContainsFunc(defined[gk], func(owner string) bool { return s.head.together(owner, o.Owner) }) {
			continue
		}
		has, known := s.clusterHasKind(gk)
		if has || s.partial() && slices.ContainsFunc(s.base.byKind[gk], func(b *desired.Object) bool { return b.Owner == o.Owner }) {
			continue
		}
		seen[inCluster{s.head.cluster(o.Owner), gk.String()}] = true
		s.missing(o, known, Object{APIVersion: "apiextensions.k8s.io/v1", Kind: object.CustomResourceDefinition.Kind, Name: gk.String()},
			fmt.Sprintf("the cluster must know the kind %s, which %s; %s %s is of it", gk, s.head.lacks("define", o.Owner), o.GetKind(), o.GetName()),
			"bring its CustomResourceDefinition by Git; if the cluster has it from elsewhere, list it under cluster.kinds in "+ConfigName)
	}
}

// missing notes what Git does not bring; if it is not known whether the cluster has it, as a note.
func (s *scope) missing(needed *desired.Object, known bool, what Object, message, fix string) {
	f := s.add(Finding{Object: what, Origin: needed.Origin, Message: message, Fix: fix, detail: s.head.cluster(needed.Owner)})
	if !known {
		f.Severity = Note
	}
}

// lacks says that Git does not do something, as far as it was rendered beside what an owner deploys.
func (v *view) lacks(verb, owner string) string {
	if slices.ContainsFunc(v.gaps, func(g desired.Gap) bool {
		o := v.owners[g.Owner]
		return o == nil || v.together(g.Owner, owner) && hides(o, g)
	}) {
		return "nothing that was rendered " + verb + "s"
	}
	return "Git does not " + verb
}

// partial says that what is the same in both commits was not rendered. It may bring what is missing; what base needed already is then
// nothing new.
func (s *scope) partial() bool { return s.base != nil && len(s.head.skipped) > 0 }

// clusterHasKind says what is known of the cluster itself.
func (s *scope) clusterHasKind(gk schema.GroupKind) (has, known bool) {
	if list := s.Config.Cluster.Kinds; list != nil {
		known = true
		has = slices.Contains(list, gk.String()) || slices.Contains(list, "*."+gk.Group)
	}
	if s.Facts.Live != nil && len(s.Facts.Live.Kinds) > 0 {
		known = true
		has = has || slices.Contains(s.Facts.Live.Kinds, gk)
	}
	return has, known
}

func (s *scope) missingClasses() {
	seen := map[inCluster]bool{}
	for _, w := range s.head.volumes {
		name := class(w.claim.Spec)
		at := inCluster{s.head.cluster(w.Owner), name}
		if name == "" || open(name) || seen[at] || len(s.head.classesFor(w)) > 0 || s.head.hasVolumeOf(name, w) {
			continue
		}
		has, known := s.clusterHasClass(name)
		if has || s.partial() && slices.ContainsFunc(s.base.volumes, func(b *volume) bool { return b.Owner == w.Owner && class(b.claim.Spec) == name }) {
			continue
		}
		seen[at] = true
		s.missing(w.Object, known, Object{APIVersion: "storage.k8s.io/v1", Kind: "StorageClass", Name: name},
			fmt.Sprintf("the cluster must have the StorageClass %s, which %s; %s asks for it", name, s.head.lacks("bring", w.Owner), w.full()),
			"bring it by Git; if the cluster has it from elsewhere, list it under cluster.storageClasses in "+ConfigName+"; a restore can map it: --map-storage-class "+name+"=OTHER")
	}
}

// hasVolumeOf says that Git brings a volume of the class beside a claim, which is bound to it by the name of the class: there need be none.
func (v *view) hasVolumeOf(class string, w *volume) bool {
	return slices.ContainsFunc(v.byKind[volumeKind], func(o *desired.Object) bool {
		name, _, _ := unstructured.NestedString(o.Object, "spec", "storageClassName")
		return name == class && v.together(o.Owner, w.Owner)
	})
}

func (s *scope) clusterHasClass(name string) (has, known bool) {
	if list := s.Config.Cluster.StorageClasses; list != nil {
		known, has = true, slices.Contains(list, name)
	}
	if s.Facts.Live != nil && s.Facts.Live.Classes != nil {
		known = true
		for _, c := range s.Facts.Live.Classes {
			has = has || c.Name == name
		}
	}
	return has, known
}
