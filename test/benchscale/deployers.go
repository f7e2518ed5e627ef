package main

import (
	"fmt"
	"strings"
	"time"

	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// argoNamespace is where the Applications are. Flux's objects are each beside what they deploy.
const argoNamespace = "argocd"

// byFlux says who deploys an application: of two, one is Flux's and one Argo CD's.
func byFlux(i int) bool { return i%2 == 0 }

// ofEngine is the nth application of an engine, for each n another if there are as many.
func (b *bench) ofEngine(n int, flux bool) int {
	i := n * max(1, b.policies/2/(4*b.samples)) * 2 % b.policies
	if !flux {
		i++
	}
	return i % b.policies
}

// deployer is what deploys an application, with its source: no controller of Flux or Argo CD runs, and their objects say what they would.
func deployer(i int) []client.Object {
	if !byFlux(i) {
		return []client.Object{argoApplication(i)}
	}
	meta := metav1.ObjectMeta{Namespace: namespace(i), Name: policyName}
	every := metav1.Duration{Duration: time.Minute}
	return []client.Object{
		&sourcev1.GitRepository{
			ObjectMeta: meta, Spec: sourcev1.GitRepositorySpec{URL: revision(0).Repository, Interval: every},
			Status: sourcev1.GitRepositoryStatus{Artifact: artifact(fluxRevision(0))},
		},
		&kustomizev1.Kustomization{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: meta.Namespace, Name: meta.Name, Annotations: map[string]string{v1alpha1.AnnotationPreDeploy: v1alpha1.PreDeployRequired},
			},
			Spec: kustomizev1.KustomizationSpec{
				Path: "./" + revision(0).Path, Prune: true, Interval: every,
				SourceRef: kustomizev1.CrossNamespaceSourceReference{Kind: "GitRepository", Name: meta.Name},
			},
			Status: kustomizev1.KustomizationStatus{
				LastAppliedRevision: fluxRevision(0), LastAttemptedRevision: fluxRevision(0), Inventory: inventory(i),
			},
		},
	}
}

// inventory is of 40 objects, which is what an application easily has.
func inventory(i int) *kustomizev1.ResourceInventory {
	all := &kustomizev1.ResourceInventory{}
	for n := range 40 {
		all.Entries = append(all.Entries, kustomizev1.ResourceRef{ID: fmt.Sprintf("%s_object-%02d__ConfigMap", namespace(i), n), Version: "v1"})
	}
	return all
}

func fluxRevision(j int) string { return revision(j).Ref + "@sha1:" + revision(j).Commit }

func artifact(revision string) *fluxmeta.Artifact {
	return &fluxmeta.Artifact{
		Revision: revision, LastUpdateTime: metav1.Now(), URL: "http://source.test/a.tar.gz", Path: "a.tar.gz", Digest: "sha256:" + strings.Repeat("0", 64),
	}
}

func argoApplication(i int) *unstructured.Unstructured {
	r := revision(0)
	source := map[string]any{"repoURL": r.Repository, "path": r.Path, "targetRevision": r.Ref}
	var resources []any
	for n := range 40 {
		resources = append(resources, map[string]any{"version": "v1", "kind": "ConfigMap", "namespace": namespace(i), "name": fmt.Sprintf("object-%02d", n), "status": "Synced"})
	}
	u := &unstructured.Unstructured{Object: map[string]any{
		"spec": map[string]any{
			"project": "default", "source": source, "destination": map[string]any{"server": "https://kubernetes.default.svc", "namespace": namespace(i)},
		},
		"status": map[string]any{
			"history": []any{map[string]any{"id": int64(0), "revision": r.Commit, "source": source, "deployedAt": "2026-01-02T03:04:05Z"}}, "resources": resources,
		},
	}}
	u.SetAPIVersion("argoproj.io/v1alpha1")
	u.SetKind("Application")
	u.SetNamespace(argoNamespace)
	u.SetName(namespace(i))
	return u
}

// deployedBy marks an object as applied by what deploys the application.
func deployedBy(i int, o client.Object) {
	if byFlux(i) {
		labels := map[string]string{"kustomize.toolkit.fluxcd.io/namespace": namespace(i), "kustomize.toolkit.fluxcd.io/name": policyName}
		for k, v := range o.GetLabels() {
			labels[k] = v
		}
		o.SetLabels(labels)
		return
	}
	notes := map[string]string{"argocd.argoproj.io/tracking-id": namespace(i) + ":/v1:" + o.GetNamespace() + "/" + o.GetName()}
	for k, v := range o.GetAnnotations() {
		notes[k] = v
	}
	o.SetAnnotations(notes)
}
