// Package render turns a directory of a commit into Kubernetes objects, as Flux does: by kustomize, and where there is no
// kustomization by one generated from all manifests below. It never leaves the commit: no network, no plugins, no
// links to elsewhere, so that the same commit always gives the same objects.
package render

import (
	"context"
	"errors"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// ErrRemote is wrapped when a kustomization refers to something outside the commit.
var ErrRemote = errors.New("refers to something outside the repository")

// Error says which file, relative to the root, does not render and why.
type Error struct {
	File string
	Err  error
}

func (e *Error) Error() string { return e.File + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Render builds the objects of the directory path inside root, a materialised commit, in a deterministic order.
// Objects of built-in namespaced kinds without a namespace get "default". Nothing in root is changed. It is an error if
// there are no objects.
func Render(ctx context.Context, root, path string) ([]*unstructured.Unstructured, error) {
	return nil, errors.ErrUnsupported
}
