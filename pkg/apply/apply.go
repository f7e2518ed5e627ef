// Package apply brings the objects of a commit into a cluster by server-side apply, in stages, and says how they fare.
package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/fluxcd/pkg/ssa"
	ssaerrors "github.com/fluxcd/pkg/ssa/errors"
	"github.com/fluxcd/pkg/ssa/utils"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

const (
	// definitionTimeout bounds the wait for definitions to become usable.
	definitionTimeout = time.Minute
	// pollInterval is how often a wait asks again.
	pollInterval = 250 * time.Millisecond
	// defaultNamespace is where namespaced objects go that name no namespace, as with kubectl.
	defaultNamespace = "default"
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

// ObjectError names the object that the API server did not take. What it says of a Secret holds no value of it.
type ObjectError struct {
	Key object.Key
	Err error
}

func (e *ObjectError) Error() string { return e.Key.String() + ": " + e.Err.Error() }

// Unwrap returns the API server's answer.
func (e *ObjectError) Unwrap() error { return e.Err }

// Applier applies the objects of one application.
type Applier struct {
	client      client.Client
	manager     *ssa.ResourceManager
	application types.NamespacedName
}

// New makes an Applier for the application, "<namespace>/<policy>". The client must read unstructured objects
// live, as a manager's client does by default.
func New(c client.Client, application types.NamespacedName) *Applier {
	// Without a poller: its waits do not heed a context, see Wait.
	manager := ssa.NewResourceManager(c, nil, ssa.Owner{Field: v1alpha1.FieldManager, Group: v1alpha1.GroupVersion.Group})
	return &Applier{client: c, manager: manager, application: application}
}

// Apply applies the objects in stages: definitions (CustomResourceDefinitions, Namespaces, ClusterRoles), of which it waits
// until they can be used; classes; everything else. Within a stage every object is tried by a dry run before the
// first one is changed. The objects given are not modified. On error the entries say what has been done.
func (a *Applier) Apply(ctx context.Context, objects []*unstructured.Unstructured) ([]Entry, error) {
	var definitions, classes, rest []*unstructured.Unstructured
	for _, o := range objects {
		o = o.DeepCopy()
		switch {
		case utils.IsClusterDefinition(o):
			definitions = append(definitions, o)
		case utils.IsClassDefinition(o):
			classes = append(classes, o)
		default:
			rest = append(rest, o)
		}
	}
	var done []Entry
	for _, stage := range [][]*unstructured.Unstructured{definitions, classes, rest} {
		entries, err := a.stage(ctx, stage)
		done = append(done, entries...)
		if err != nil {
			return done, err
		}
		if err := a.usable(ctx, stage); err != nil {
			return done, err
		}
	}
	return done, nil
}

// stage applies objects that do not need one another. It changes the objects given.
func (a *Applier) stage(ctx context.Context, objects []*unstructured.Unstructured) ([]Entry, error) {
	sort.Sort(ssa.SortableUnstructureds(objects))
	a.manager.SetOwnerLabels(objects, a.application.Name, a.application.Namespace)
	actions := make([]Action, len(objects))
	err := each(ctx, objects, func(i int, o *unstructured.Unstructured) error {
		if err := a.place(o); err != nil {
			return err
		}
		change, _, _, err := a.manager.Diff(ctx, o, ssa.DefaultDiffOptions())
		if err == nil {
			actions[i] = Action(change.Action)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var done []Entry
	for from := 0; from < len(objects); {
		to := from + sameKind(objects[from:])
		entries, err := a.change(ctx, objects[from:to], actions[from:to])
		done = append(done, entries...)
		if err != nil {
			return done, err
		}
		from = to
	}
	return done, nil
}

// sameKind counts the objects at the beginning that are of one kind. Kinds are applied one after another: a quota before pods.
func sameKind(objects []*unstructured.Unstructured) int {
	kind := objects[0].GroupVersionKind()
	i := slices.IndexFunc(objects, func(o *unstructured.Unstructured) bool { return o.GroupVersionKind() != kind })
	if i < 0 {
		return len(objects)
	}
	return i
}

// change applies those of the objects that are to change, and says which were.
func (a *Applier) change(ctx context.Context, objects []*unstructured.Unstructured, actions []Action) ([]Entry, error) {
	applied := make([]bool, len(objects))
	err := each(ctx, objects, func(i int, o *unstructured.Unstructured) error {
		if actions[i] == Unchanged {
			applied[i] = true
			return nil
		}
		err := a.apply(ctx, o, v1alpha1.FieldManager)
		applied[i] = err == nil
		return err
	})
	var done []Entry
	for i, o := range objects {
		if applied[i] {
			done = append(done, Entry{Key: object.KeyOf(o), Action: actions[i]})
		}
	}
	return done, err
}

// ErrDeleting is wrapped where an object that is being deleted was to be applied: the API server takes that, and it goes all the same.
var ErrDeleting = errors.New("it is being deleted, and can be applied when it is gone")

// apply leaves in the object what the API server made of it.
func (a *Applier) apply(ctx context.Context, o *unstructured.Unstructured, manager string) error {
	err := a.client.Apply(ctx, client.ApplyConfigurationFromUnstructured(o), client.FieldOwner(manager), client.ForceOwnership)
	if err == nil && o.GetDeletionTimestamp() != nil {
		return ErrDeleting
	}
	return err
}

// place puts an object where its kind belongs: in a namespace or in none.
func (a *Applier) place(o *unstructured.Unstructured) error {
	namespaced, err := a.client.IsObjectNamespaced(o)
	switch {
	case err != nil:
		return err
	case !namespaced:
		o.SetNamespace("")
	case o.GetNamespace() == "":
		o.SetNamespace(defaultNamespace)
	}
	return nil
}

// usable waits until what the definitions define can be created: namespaces are active, new kinds are served.
func (a *Applier) usable(ctx context.Context, definitions []*unstructured.Unstructured) error {
	definitions = slices.DeleteFunc(definitions, func(o *unstructured.Unstructured) bool {
		return !utils.IsCRD(o) && !utils.IsNamespace(o)
	})
	if len(definitions) == 0 {
		return nil
	}
	if err := a.Wait(ctx, definitions, definitionTimeout, nil); err != nil {
		return err
	}
	for _, o := range definitions {
		for _, kind := range served(o) {
			err := wait.PollUntilContextTimeout(ctx, pollInterval, definitionTimeout, true, func(ctx context.Context) (bool, error) {
				return a.answers(ctx, kind), nil
			})
			if err != nil {
				return refused(o, fmt.Errorf("waiting for %s to be served: %w", kind.Kind, err))
			}
		}
	}
	return nil
}

// answers tells whether the API server lists a kind: Established comes a little before that. Any answer but that there is no
// such kind, a refusal too, comes from where it is served.
func (a *Applier) answers(ctx context.Context, kind schema.GroupVersionKind) bool {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(kind)
	err := a.client.List(ctx, list, client.Limit(1))
	return !meta.IsNoMatchError(err) && !apierrors.IsNotFound(err) && ctx.Err() == nil
}

// served are the kinds that a CustomResourceDefinition brings.
func served(definition *unstructured.Unstructured) []schema.GroupVersionKind {
	group, _, _ := unstructured.NestedString(definition.Object, "spec", "group")
	kind, _, _ := unstructured.NestedString(definition.Object, "spec", "names", "kind")
	versions, _, _ := unstructured.NestedSlice(definition.Object, "spec", "versions")
	var kinds []schema.GroupVersionKind
	for _, v := range versions {
		version, ok := v.(map[string]any)
		if !ok || version["served"] != true {
			continue
		}
		if name, ok := version["name"].(string); ok {
			kinds = append(kinds, schema.GroupVersionKind{Group: group, Version: name, Kind: kind})
		}
	}
	return kinds
}

// refused is the ObjectError of what went wrong with an object.
func refused(o *unstructured.Unstructured, err error) error {
	var dry *ssaerrors.DryRunErr
	if errors.As(err, &dry) {
		err = dry.Unwrap() // it names the object, too
	}
	if utils.IsSecret(o) {
		err = conceal(err)
	}
	if meta.IsNoMatchError(err) {
		err = fmt.Errorf("the cluster does not know this kind: %w", err)
	}
	return &ObjectError{Key: object.KeyOf(o), Err: err}
}

// conceal keeps which fields of a Secret are wrong, and drops what is said about them: it may repeat a value.
func conceal(err error) error {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return err
	}
	s := status.Status()
	message := string(s.Reason)
	if s.Details != nil {
		details := *s.Details
		details.Causes = nil
		for _, c := range s.Details.Causes {
			details.Causes = append(details.Causes, metav1.StatusCause{Type: c.Type, Field: c.Field})
			message += fmt.Sprintf("; %s %s", c.Field, c.Type)
		}
		s.Details = &details
	}
	s.Message = message
	return &apierrors.StatusError{ErrStatus: s}
}
