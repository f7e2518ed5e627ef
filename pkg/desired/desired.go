// Package desired says what a commit of a repository deploys: the objects, where each is written and what deploys it, and what is
// deployed but could not be rendered.
package desired

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// State is what one commit deploys.
type State struct {
	// Owners are in the order of their IDs.
	Owners []Owner
	// Objects are in the order of their owners, then of their kind, namespace and name.
	Objects []Object
	// Gaps are what is deployed and not among the objects: whoever judges the state must say that it has not seen these.
	Gaps []Gap
	// Makers are the ApplicationSets that nothing in the repository deploys, so that they are among neither owners nor objects: as they are
	// written.
	Makers []Object
}

// OwnerKind is what an Owner is.
type OwnerKind string

// What deploys objects.
const (
	// Kustomization is Flux's, not the file that kustomize reads.
	Kustomization OwnerKind = "Kustomization"
	HelmRelease   OwnerKind = "HelmRelease"
	Application   OwnerKind = "Application"
	// Directory is applied as it is, by a person or a pipeline.
	Directory OwnerKind = "Directory"
)

// Origin is a place in the repository.
type Origin struct {
	// File is relative to the repository's root, with slashes.
	File string `json:"file,omitempty"`
	// Line counts from 1; 0 if it is not known.
	Line int `json:"line,omitempty"`
}

// Owner deploys objects.
type Owner struct {
	// ID names it in one State and from one commit to the next: "Kustomization flux-system/shop", "Directory deploy/shop", and in a
	// repository of several clusters "Kustomization flux-system/shop (clusters/prod)".
	ID string
	// Cluster tells apart where its objects go: the path that a cluster's own Kustomization deploys, and for what goes from there to
	// another cluster what names that; empty if the repository does not say.
	Cluster   string
	Kind      OwnerKind
	Namespace string
	Name      string
	// Parent is the ID of the owner among whose objects it is; empty for one that nothing in the repository deploys.
	Parent string
	// Path is the directory that it deploys, relative to the repository's root; empty for the root, and for charts from elsewhere.
	Path string
	// Target is the namespace that it puts objects into which name none, or all of them; empty if it does not say.
	Target string
	// Prune says that what leaves its objects is deleted from the cluster.
	Prune bool
	// Force says that objects which cannot be changed in place are deleted and made anew.
	Force bool
	// Suspended says that it deploys nothing for now.
	Suspended bool
	// DependsOn are the IDs of owners that must be ready before.
	DependsOn []string
	// Skipped says that its objects are not among the Objects as nobody wanted them: another commit deploys the same.
	Skipped bool
	// Hash is equal in two commits only if the owner deploys the same objects in both; empty if that is not known.
	Hash string
	Origin
	// Object is the owner itself as it is in Git; nil for a Directory.
	Object *unstructured.Unstructured
}

// Object is one that an owner deploys.
type Object struct {
	*unstructured.Unstructured
	// Owner is an ID.
	Owner string
	// Unknown are variables whose values are not in the repository: the object has ${NAME} in their places.
	Unknown []string
	// Origin is where it is written; for an object out of a chart, its template.
	Origin
}

// Gap is something that is deployed and was not rendered.
type Gap struct {
	// Owner is the ID of what deploys it; empty if it is not known what would.
	Owner string `json:"owner,omitempty"`
	Origin
	// What names it, Why says why it was not rendered, in words that end without a full stop.
	What string `json:"what"`
	Why  string `json:"why"`
}
