// Package apply brings the objects of a commit into a cluster by server-side apply, in stages, and says how they fare.
package apply

import (
	"context"
	"errors"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// Action is what Apply did to an object.
type Action string

// Actions.
const (
	Created    Action = "created"
	Configured Action = "configured"
	Unchanged  Action = "unchanged"
)

// Entry is one applied object.
type Entry struct {
	Key    object.Key
	Action Action
}

// ObjectError names the object that the API server did not take.
type ObjectError struct {
	Key object.Key
	Err error
}

func (e *ObjectError) Error() string { return e.Key.String() + ": " + e.Err.Error() }

// Unwrap returns the API server's answer.
func (e *ObjectError) Unwrap() error { return e.Err }

// Health is how an object fares.
type Health string

// Healths.
const (
	Current    Health = "Current"
	InProgress Health = "InProgress"
	Failed     Health = "Failed"
	NotFound   Health = "NotFound"
)

// Status is the Health of one object and why.
type Status struct {
	Health  Health
	Message string
}

// Applier applies the objects of one application.
type Applier struct{}

// New makes an Applier for the application, "<namespace>/<policy>". The client must read unstructured objects
// live, as a manager's client does by default.
func New(c client.Client, application types.NamespacedName) *Applier { return &Applier{} }

// Apply applies the objects in stages: definitions (CustomResourceDefinitions, Namespaces, ClusterRoles), of which it waits
// until they can be used; classes; everything else. Within a stage every object is tried by a dry run before the
// first one is changed. The objects given are not modified. On error the entries say what has been done.
func (a *Applier) Apply(ctx context.Context, objects []*unstructured.Unstructured) ([]Entry, error) {
	return nil, errors.ErrUnsupported
}

// Health reads each object once and says how it fares. An error means that it is not known.
func (a *Applier) Health(ctx context.Context, objects []*unstructured.Unstructured) (map[object.Key]Status, error) {
	return nil, errors.ErrUnsupported
}

// Wait reads the health of the objects until all are Current, one has Failed, or the timeout is over; progress, if not
// nil, is called after each read with the statuses that changed. The error names the objects that are not Current and why.
func (a *Applier) Wait(ctx context.Context, objects []*unstructured.Unstructured, timeout time.Duration, progress func(map[object.Key]Status)) error {
	return errors.ErrUnsupported
}

// StampRevision records on the ProtectionPolicy which revision is running. It is the last step of a deploy.
func (a *Applier) StampRevision(ctx context.Context, policy types.NamespacedName, rev v1alpha1.Revision) error {
	return errors.ErrUnsupported
}

// Policies are the ProtectionPolicies among the objects, sorted.
func Policies(objects []*unstructured.Unstructured) []types.NamespacedName { return nil }
